//! MCP over streamable HTTP, in both eras, with and without sessions.

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    helpers::{
        ERAS, Era, TestApp, Upstream, backup, backup_id, held_reply, initialize_params, json_reply,
        reply,
    },
    helpers_http::{Client, Connection, Request, Server, backups_of, serve_sandbox},
};

const LIST: &str = "list-database-backups";
const ADD: &str = "add-backup-database";
const REMOVE: &str = "remove-database-backup";

fn orders() -> Value {
    json!({ "databaseId": Sandbox::ORDERS })
}

async fn client(server: &Server, era: Era) -> Client {
    let mut client = Client::new(server, era, None);
    client.open().await;
    client
}

#[tokio::test]
async fn a_backup_is_listed_added_and_removed_with_sessions_and_without() {
    for era in ERAS {
        for sessions in ["--sessions=false", "--sessions"] {
            let server = serve_sandbox(&[sessions]).await;
            let mut client = Client::new(&server, era, None);
            let answer = client.open().await;
            assert!(answer["result"]["instructions"].is_string(), "{answer}");
            let in_session = era == Era::Handshake && sessions == "--sessions";
            assert_eq!(client.session.is_some(), in_session);

            let tools = client.post("tools/list", json!({})).await;
            assert_eq!(tools.status, 200);
            if !in_session {
                assert_eq!(tools.header("content-type"), Some("application/json"));
            }
            let tools = tools.message()["result"]["tools"].clone();
            assert_eq!(tools.as_array().unwrap().len(), 3);

            let all = client.ok(LIST, orders()).await;
            let all = all["backups"].as_array().unwrap();
            assert_eq!(all.len(), 27);
            let next = json!({ "databaseId": Sandbox::ORDERS, "startId": all[19]["id"] });
            let rest = client.ok(LIST, next).await;
            assert_eq!(rest["backups"].as_array().unwrap().len(), 7);

            let new = json!({ "databaseId": Sandbox::ORDERS, "name": "n", "message": "m" });
            let added = client.ok(ADD, new).await;
            let list = client.ok(LIST, orders()).await;
            assert_eq!(list["backups"][0]["id"], added["id"]);

            let old = json!({ "databaseId": Sandbox::ORDERS, "backupId": backup_id(3) });
            let removed = client.ok(REMOVE, old.clone()).await;
            assert_eq!(removed["remaining"], 27);
            let text = client.refused(REMOVE, old).await;
            assert!(text.contains("is not in the list"), "{text}");
            let newest = json!({ "databaseId": Sandbox::ORDERS, "backupId": added["id"] });
            let text = client.refused(REMOVE, newest).await;
            assert!(text.contains("is protected"), "{text}");
        }
    }
}

#[tokio::test]
async fn without_sessions_every_answer_is_json_and_no_client_need_begin() {
    let server = serve_sandbox(&[]).await;
    for era in ERAS {
        let mut client = Client::new(&server, era, None);
        for request in [
            client.tool(LIST, &orders()),
            client.tool(LIST, &json!({})),
            client.tool("drop-database", &json!({})),
            client.message("tools/list", json!({})),
            client.message("server/discover", json!({})),
            client.message("backups/list", json!({})),
        ] {
            let answer = request.send(server.mcp).await;
            let content_type = answer.header("content-type");
            assert_eq!(content_type, Some("application/json"), "{answer:?}");
            assert_eq!(answer.header("mcp-session-id"), None);
        }
    }
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_refused_in_band_and_by_name() {
    let sandbox = Sandbox::start().await.unwrap();
    let server = TestApp::with_upstream(&sandbox.base_url()).serve(&[]).await;
    let id = Sandbox::ORDERS;
    let mut cases = vec![
        (LIST, json!({}), "databaseId"),
        (LIST, json!({ "databaseId": 7 }), "databaseId"),
        (
            LIST,
            json!({ "databaseId": id, "database_id": id }),
            "database_id",
        ),
        (
            ADD,
            json!({ "databaseId": id, "name": "", "message": "" }),
            "name",
        ),
        (
            REMOVE,
            json!({ "databaseId": id, "backupId": id, "force": true }),
            "force",
        ),
    ];
    for wrong in [
        "",
        "urn:uuid:0de50000-0000-4000-8000-000000000001",
        "{0de50000-0000-4000-8000-000000000001}",
        "0de50000000040008000000000000001",
    ] {
        cases.push((LIST, json!({ "databaseId": wrong }), "databaseId"));
        if !wrong.is_empty() {
            let list = json!({ "databaseId": id, "startId": wrong });
            cases.push((LIST, list, "startId"));
        }
        let remove = json!({ "databaseId": id, "backupId": wrong });
        cases.push((REMOVE, remove, "backupId"));
    }
    for era in ERAS {
        let mut client = client(&server, era).await;
        for (tool, arguments, name) in &cases {
            let text = client.refused(tool, arguments.clone()).await;
            assert!(text.contains(name), "{name} in: {text}");
            assert!(text.contains("nothing was changed"), "{text}");
        }
    }
    assert_eq!(sandbox.requests(), 0);
}

#[tokio::test]
async fn unknown_tools_malformed_params_and_unknown_methods_are_protocol_errors() {
    for sessions in ["--sessions=false", "--sessions"] {
        let server = serve_sandbox(&[sessions]).await;
        for era in ERAS {
            let mut client = client(&server, era).await;
            for params in [
                json!({ "name": "drop-database", "arguments": {} }),
                json!({ "name": LIST, "arguments": "none" }),
                json!({ "name": LIST, "arguments": [1] }),
                json!({ "arguments": {} }),
                json!({ "name": 1 }),
            ] {
                let answer = client.request("tools/call", params.clone()).await;
                assert_eq!(answer["error"]["code"], -32602, "{params}: {answer}");
            }
            let answer = client.request("backups/list", json!({})).await;
            assert_eq!(answer["error"]["code"], -32601, "{answer}");
        }
    }
}

#[tokio::test]
async fn what_is_no_message_is_refused_in_terms_of_json_rpc() {
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#;
    for sessions in ["--sessions=false", "--sessions"] {
        let server = serve_sandbox(&[sessions]).await;
        for era in ERAS {
            let client = client(&server, era).await;
            for (body, code) in [
                // Of this one, the id is legible.
                (&br#"{"jsonrpc":"2.0","id":1,"method":"a\xff"}"#[..], -32700),
                (&b"hello"[..], -32700),
                (b"{", -32700),
                (b"\xff\xfe", -32700),
                (batch.as_bytes(), -32600),
                (b"[]", -32600),
                (b"42", -32600),
                (b"null", -32600),
                (br#"{"hello":1}"#, -32600),
            ] {
                let answer = client.raw(body).send(server.mcp).await;
                assert_eq!(answer.status, 400, "{answer:?}");
                assert_eq!(answer.header("content-type"), Some("application/json"));
                let error = answer.json();
                assert_eq!(error["error"]["code"], code, "{error}");
                let legible = body.starts_with(b"{\"jsonrpc").then_some(1);
                assert_eq!(error["id"], json!(legible));
                assert_eq!(error["jsonrpc"], "2.0");
            }
        }
    }
}

#[tokio::test]
async fn a_body_over_128_kib_is_refused_announced_or_not() {
    let server = serve_sandbox(&[]).await;
    for era in ERAS {
        let client = client(&server, era).await;
        let spaces = vec![b' '; (128 << 10) + 1];
        let answer = client.raw(spaces.clone()).send(server.mcp).await;
        answer.problem(413, "body_too_large");

        let chunked = client.raw("").header("Transfer-Encoding", "chunked");
        let mut connection = Connection::open(server.mcp).await;
        connection.write(&chunked.bytes(server.mcp)).await;
        let chunks = [format!("{:x}\r\n", spaces.len()).as_bytes(), &spaces].concat();
        let answer = connection.answer_to(&chunks, true).await;
        answer.problem(413, "body_too_large");
    }
    // Just under the limit it is a message like any other.
    let mut client = client(&server, Era::Handshake).await;
    let long = json!({ "databaseId": "x".repeat((128 << 10) - 1000) });
    let text = client.refused(LIST, long).await;
    assert!(text.contains("databaseId") && text.len() < 700, "{text}");
}

#[tokio::test]
async fn a_body_of_more_values_than_any_message_has_is_refused_unread() {
    let server = serve_sandbox(&[]).await;
    let many = format!("[{}0]", r#"{"":0},"#.repeat(1400));
    let fewer = format!("[{}0]", r#"{"":0},"#.repeat(1300));
    let add = Request::post(&backups_of(Sandbox::ORDERS), &Value::Null);
    let answer = server.rest(add.clone().body(many.clone())).await;
    answer.problem(413, "body_too_large");
    let answer = server.rest(add.body(fewer.clone())).await;
    answer.problem(400, "invalid_request");
    for era in ERAS {
        let client = client(&server, era).await;
        let answer = client.raw(many.clone()).send(server.mcp).await;
        answer.problem(413, "body_too_large");
        let answer = client.raw(fewer.clone()).send(server.mcp).await;
        assert_eq!(answer.json()["error"]["code"], -32600, "{answer:?}");
    }
}

#[tokio::test]
async fn other_paths_methods_and_media_types_are_refused() {
    let server = serve_sandbox(&[]).await;
    for path in ["/", "/mcp/x", "/MCP", "/sse", "/metrics"] {
        for request in [Request::get(path), Request::post(path, &json!({}))] {
            let answer = request.send(server.mcp).await;
            answer.problem(404, "no_such_path");
        }
    }
    let mut client = client(&server, Era::Handshake).await;
    for method in ["GET", "DELETE", "PUT", "HEAD"] {
        let request = Request::new(method, "/mcp").header("Accept", "text/event-stream");
        let answer = request.send(server.mcp).await;
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), Some("POST"));
    }
    let list = client.tool(LIST, &orders());
    let text = list.clone().header("Content-Type", "text/plain");
    assert_eq!(text.send(server.mcp).await.status, 415);
    let html = list.header("Accept", "text/html");
    assert_eq!(html.send(server.mcp).await.status, 406);
}

#[tokio::test]
async fn headers_that_contradict_the_message_are_refused() {
    let server = serve_sandbox(&[]).await;
    let mut client = client(&server, Era::Stateless).await;
    for (name, value) in [
        ("Mcp-Method", "tools/list"),
        ("Mcp-Name", ADD),
        ("MCP-Protocol-Version", "2025-11-25"),
    ] {
        let request = client.tool(LIST, &orders()).header(name, value);
        let answer = request.send(server.mcp).await;
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
        assert_eq!(answer.json()["error"]["code"], -32020, "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn the_upstreams_failures_are_told_in_band() {
    let message = json!({ "status": 401, "error": "x", "message": "no" });
    for (failure, text) in [
        (
            json_reply("401 Unauthorized", &message),
            "Qovery refused the API key (401)",
        ),
        (
            reply("500 Internal Server Error", "", ""),
            "Qovery failed (500)",
        ),
        (reply("200 OK", "", "<html>"), "it is not JSON"),
    ] {
        let upstream = Upstream::always(failure).await;
        let server = TestApp::with_upstream(&upstream.url()).serve(&[]).await;
        for era in ERAS {
            let mut client = client(&server, era).await;
            let refused = client.refused(LIST, orders()).await;
            assert!(refused.contains(text), "{refused}");
        }
    }
}

#[tokio::test]
async fn read_only_holds_over_http() {
    let server = serve_sandbox(&["--read-only"]).await;
    for era in ERAS {
        let mut client = client(&server, era).await;
        let tools = client.request("tools/list", json!({})).await;
        assert_eq!(tools["result"]["tools"].as_array().unwrap().len(), 1);
        let text = client.refused(ADD, json!({})).await;
        assert!(text.contains("read-only mode"), "{text}");
        client.ok(LIST, orders()).await;
    }
}

#[tokio::test]
async fn an_add_whose_caller_goes_away_is_still_made() {
    let body = backup(1, "QUEUED").to_string();
    let mut upstream = Upstream::always(held_reply("201 Created", &body)).await;
    let server = TestApp::with_upstream(&upstream.url()).serve(&[]).await;
    // Two databases: changes of one take turns.
    let databases = [Sandbox::ORDERS, Sandbox::SESSIONS];
    for (sent, (era, database)) in (1..).zip(ERAS.into_iter().zip(databases)) {
        let mut client = client(&server, era).await;
        let new = json!({ "databaseId": database, "name": "n", "message": "m" });
        let id = format!("left-{sent}");
        let request = client.tool(ADD, &new).header("X-Request-Id", &id);
        let mut connection = Connection::open(server.mcp).await;
        connection.write(&request.bytes(server.mcp)).await;
        upstream.received(sent).await;
        drop(connection);
    }
    upstream.release();
    for id in ["left-1", "left-2"] {
        let call = server.call(id).await;
        assert_eq!(call["operation"], "add", "{call}");
        assert_eq!(call["outcome"], "ok", "{call}");
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_session_is_its_owners_alone() {
    let mut app = TestApp::new(&[]);
    let tokens = "ada:access-token-of-ada\nben:access-token-of-ben".to_owned();
    app.variables.push(("QOVERY_BACKUPS_ACCESS_TOKEN", tokens));
    let server = app.serve(&["--sandbox", "--sessions"]).await;
    let mut ada = Client::new(&server, Era::Handshake, Some("access-token-of-ada"));
    ada.open().await;
    assert!(ada.session.is_some());

    let mut ben = Client::new(&server, Era::Handshake, Some("access-token-of-ben"));
    for session in [ada.session.clone().unwrap(), backup_id(1), "x".to_owned()] {
        ben.session = Some(session.clone());
        let answer = ben.post("tools/list", json!({})).await;
        answer.problem(404, "no_such_session");
        for method in ["GET", "DELETE"] {
            let request = Request::new(method, "/mcp")
                .header("Accept", "text/event-stream")
                .header("Mcp-Session-Id", &session)
                .token(ben.token);
            let answer = request.send(server.mcp).await;
            answer.problem(404, "no_such_session");
        }
    }
    ben.session = None;
    assert_eq!(ben.post("tools/list", json!({})).await.status, 400);

    ada.ok(LIST, orders()).await;
    let delete = Request::delete("/mcp")
        .header("Mcp-Session-Id", ada.session.as_ref().unwrap())
        .token(ada.token);
    assert_eq!(delete.send(server.mcp).await.status, 204);
    assert_eq!(ada.post("tools/list", json!({})).await.status, 404);
    assert_eq!(delete.send(server.mcp).await.status, 404);
    ada.session = None;
    ada.open().await;
    ada.ok(LIST, orders()).await;
}

#[tokio::test]
async fn a_session_has_a_stream_of_events() {
    let server = serve_sandbox(&["--sessions"]).await;
    let client = client(&server, Era::Handshake).await;
    let mut connection = Connection::open(server.mcp).await;
    let stream = client.stream().bytes(server.mcp);
    connection.write(&stream).await;
    let head = connection.head().await;
    assert_eq!(head.status, 200, "{head:?}");
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
}
