//! What a call over HTTP leaves behind: its id, its trace, and one line of the log.

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    app::serve_sandbox,
    clients::{Caller, Client, ERAS, Era, INTERFACES, LIST, orders},
    connection::{Request, backups_of},
    expect::contains,
    upstreams::{Reply, Upstream, backup_id, backups, json_reply, page, reply},
};

fn list() -> Request {
    Request::get(&backups_of(Sandbox::ORDERS))
}

#[tokio::test]
async fn a_valid_request_id_is_repeated_and_another_replaced() {
    let server = serve_sandbox(&[]).await;
    let tools = Client::over_http(&server, Era::Stateless, None).message("tools/list", json!({}));
    let nowhere = Request::get("/nowhere");
    let forbidden = nowhere.clone().header("Host", "evil.example");
    let (longest, longer) = ("x".repeat(128), "x".repeat(129));
    for (address, request) in [
        (server.mcp, tools),
        (server.mcp, nowhere.clone()),
        (server.mcp, forbidden.clone()),
        (server.rest, list()),
        (server.rest, nowhere),
        (server.rest, forbidden),
    ] {
        for valid in ["1", "a-1._~Z", &longest] {
            let answer = request.clone().header("X-Request-Id", valid);
            let answer = answer.send(address).await;
            assert_eq!(answer.header("x-request-id"), Some(valid));
            server.call(valid).await;
        }
        let mut seen = Vec::new();
        for invalid in ["", "a b", "a,b", "a\"b", "{a}", "é", "../a", &longer] {
            let answer = request.clone().header("X-Request-Id", invalid);
            let answer = answer.send(address).await;
            let id = answer.header("x-request-id").unwrap().to_owned();
            assert_eq!(id.len(), 36, "{invalid}: {id}");
            assert!(!seen.contains(&id));
            server.call(&id).await;
            seen.push(id);
        }
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// The value of a `traceparent`.
fn parent(trace: &str) -> String {
    format!("00-{trace}-b7ad6b7169203331-01")
}

#[tokio::test]
async fn a_trace_goes_on_to_qovery_and_into_the_log() {
    let upstream = Upstream::always(page(&[])).await;
    let server = upstream.app().serve(&[]).await;
    let (valid, other) = (parent(TRACE), parent(&TRACE.replace('0', "1")));
    let mut cases = vec![(server.rest, list().header("traceparent", &valid), true)];
    for era in ERAS {
        let mut client = Client::over_http(&server, era, None);
        let mut with_meta = |trace: &str| {
            let meta = json!({ "traceparent": trace });
            let params = json!({ "name": LIST, "arguments": orders(), "_meta": meta });
            client.message("tools/call", params)
        };
        cases.push((server.mcp, with_meta(&valid), true));
        // A proxy that knows the trace writes the header.
        let by_proxy = with_meta(&other).header("traceparent", &valid);
        cases.push((server.mcp, by_proxy, true));
        for invalid in ["", "00", &parent(&"0".repeat(32)), &parent("evil")] {
            cases.push((server.mcp, with_meta(invalid), false));
            cases.push((server.rest, list().header("traceparent", invalid), false));
        }
        let tool = client.tool(LIST, &orders());
        cases.push((server.mcp, tool.header("traceparent", &valid), true));
    }
    for (address, request, is_valid) in cases {
        let answer = request.send(address).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let sent = upstream.requests().pop().unwrap();
        let line = format!("\r\ntraceparent: {valid}\r\n");
        assert_eq!(sent.contains(&line), is_valid, "{sent}");
        assert_eq!(sent.contains("traceparent"), is_valid, "{sent}");
        let expected = is_valid.then_some(TRACE);
        assert_eq!(server.call_of(&answer).await["trace_id"], json!(expected));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn every_call_is_one_line_of_the_log() {
    let upstream = Upstream::start(|number, _| match number {
        0 => reply("503 X", "", ""),
        1 => page(&[]),
        _ => json_reply("404 X", &json!({ "status": 404, "message": "no" })),
    })
    .await;
    let server = upstream.app().serve(&[]).await;
    let mut client = Client::over_http(&server, Era::Stateless, None);
    let wrong = json!({ "databaseId": "" });
    let add = Request::post(&backups_of("x"), &json!({}));
    let forbidden = Request::get("/").header("Host", "evil.example");
    let (tools, mcp, rest) = (
        client.message("tools/list", json!({})),
        server.mcp,
        server.rest,
    );
    let cases = [
        (list(), rest, "list", "ok", 200),
        (list(), rest, "list", "not_found", 404),
        (add, rest, "add", "invalid_request", 400),
        (forbidden, rest, "other", "forbidden_host", 403),
        (client.tool(LIST, &orders()), mcp, "list", "not_found", 200),
        (
            client.tool(LIST, &wrong),
            mcp,
            "list",
            "invalid_arguments",
            200,
        ),
        (tools, mcp, "tools/list", "ok", 200),
        (client.raw("{"), mcp, "other", "refused", 400),
    ];
    let mut expected = Vec::new();
    for (number, (request, address, operation, outcome, status)) in (0..).zip(cases) {
        let id = format!("call-{number}");
        let answer = request.header("X-Request-Id", &id).send(address).await;
        assert_eq!(answer.status, status, "{answer:?}");
        server.call(&id).await;
        let is_mcp = address == mcp;
        let is_named = is_mcp && operation != "other";
        let mut line = json!({
            "message": "call", "request_id": id, "operation": operation, "outcome": outcome,
            "caller": if is_named { "test 1" } else { "anonymous" },
            "interface": if is_mcp { "mcp" } else { "rest" },
        });
        // MCP has answers of its own, whatever the status.
        if !is_named {
            line["status"] = json!(status);
        }
        if operation == "add" {
            line["database_id"] = json!("x");
        }
        expected.push(line);
        for path in ["/healthz", "/readyz"] {
            Request::get(path).send(address).await;
        }
    }
    let log = server.finish().await.stderr;
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let calls = lines.map(|mut line: Value| line["fields"].take());
    let mut calls: Vec<Value> = calls.filter(|call| call["message"] == "call").collect();
    for call in &mut calls {
        let call = call.as_object_mut().unwrap();
        assert!(call.remove("milliseconds").unwrap().is_u64());
        let peer = call.remove("peer").unwrap();
        assert!(peer.as_str().unwrap().starts_with("127.0.0.1:"), "{peer}");
    }
    assert_eq!(calls, expected);
}

/// What the operator must mend is a warning, with the caller's sentence; a rule's refusal is not. A change is
/// named by its ids, and its caller by the token, the peer, and what the operator's proxy says.
#[tokio::test]
async fn the_log_says_who_tried_what_and_warns_of_what_to_mend() {
    const TOKEN: &str = "7oken-of-ada-7oken-of-ada";
    let refused = Upstream::always(reply("401 X", "", "")).await;
    let lost = Upstream::split("GET ", page(&backups(3)), Reply::Reset).await;
    let protected = Upstream::always(page(&backups(1))).await;
    let backup = backup_id(1);
    for (upstream, words, outcome) in [
        (
            refused,
            Some("Qovery refused the API key (401)"),
            "key_rejected",
        ),
        (
            lost,
            Some("Whether anything was changed is not known"),
            "unknown",
        ),
        (protected, None, "protected"),
    ] {
        let app = upstream
            .app()
            .with("QOVERY_BACKUPS_ACCESS_TOKEN", format!("ada:{TOKEN}"));
        let server = app.serve(&["--public-url", "https://example.com"]).await;
        for interface in INTERFACES {
            let mut caller = Caller::with_token(&server, interface, Some(TOKEN)).await;
            let id = format!("{interface:?}");
            let request = caller.remove(Sandbox::ORDERS, &backup);
            let request = request.header("X-Request-Id", &id);
            let request = request.header("X-Forwarded-For", "6.6.6.6, 9.9.9.9");
            assert!(!caller.send(&request).await.ok);
            let is_it = |line: &Value| {
                line["fields"]["request_id"] == *id && line["fields"]["message"] == "call"
            };
            let line = server.log.line(is_it).await;
            let fields = &line["fields"];
            let expected = [
                ("caller", "ada"),
                ("forwarded_for", "9.9.9.9"),
                ("database_id", Sandbox::ORDERS),
                ("backup_ids", &backup),
                ("outcome", outcome),
            ];
            for (name, value) in expected {
                assert_eq!(fields[name], *value, "{name} of {line}");
            }
            assert_eq!(
                line["level"],
                if words.is_some() { "WARN" } else { "INFO" },
                "{line}"
            );
            match words {
                Some(words) => contains(fields["problem"].as_str().unwrap(), [words]),
                None => assert!(fields["problem"].is_null(), "{line}"),
            }
        }
    }
}
