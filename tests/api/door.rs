//! The door: who may call, what every call leaves behind, and for how long a peer may dawdle.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tokio::{net::TcpSocket, time::timeout};

use crate::{
    helpers::{ERAS, Era, PATIENCE, TestApp, Upstream, held_page, json_reply, page, reply},
    helpers_http::{Answer, Client, Connection, Request, Server, backups_of, serve_sandbox},
};

const LIST: &str = "list-database-backups";
const TOKENS: (&str, &str) = (
    "QOVERY_BACKUPS_ACCESS_TOKEN",
    "ada:access-token-of-ada\naccess-token-of-nobody",
);

fn list() -> Request {
    Request::get(&backups_of(Sandbox::ORDERS))
}

fn orders() -> Value {
    json!({ "databaseId": Sandbox::ORDERS })
}

/// For each port a request that gets 200, if it gets past the door.
fn requests(server: &Server) -> [(SocketAddr, Request); 2] {
    let mut client = Client::new(server, Era::Stateless, None);
    let tools = client.message("tools/list", json!({}));
    [(server.mcp, tools), (server.rest, list())]
}

/// The answer to the request with these header lines in place of its `Host`.
async fn ask_as(address: SocketAddr, request: &Request, lines: &str) -> Answer {
    let bytes = request.clone().header("Host", "x").bytes(address);
    let text = String::from_utf8(bytes).unwrap();
    let text = text.replace("Host: x\r\n", lines);
    let mut connection = Connection::open(address).await;
    connection.answer_to(text.as_bytes(), true).await
}

#[tokio::test]
async fn only_loopback_names_are_answered() {
    let server = serve_sandbox(&[]).await;
    for (address, request) in requests(&server) {
        for host in [
            "localhost",
            "LocalHost:1",
            "127.0.0.1",
            "127.0.0.1:65535",
            "[::1]",
            "[::1]:9090",
        ] {
            let answer = request.clone().header("Host", host).send(address).await;
            assert_eq!(answer.status, 200, "{host}: {answer:?}");
        }
        for host in [
            "evil.example",
            "evil.example:9090",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "localhost.",
            "0.0.0.0",
            "127.0.0.2",
            "[::2]:9090",
        ] {
            let answer = request.clone().header("Host", host).send(address).await;
            let problem = answer.problem(403, "forbidden_host");
            assert_eq!(problem["outcome"], "not_applied", "{host}");
        }
    }
}

#[tokio::test]
async fn a_host_that_is_missing_doubled_or_no_host_is_malformed() {
    let server = serve_sandbox(&[]).await;
    for (address, request) in requests(&server) {
        for lines in [
            "",
            "Host: localhost\r\nHost: localhost\r\n",
            "Host: localhost\r\nHost: evil.example\r\n",
            "Host:\r\n",
            "Host: local host\r\n",
            "Host: http://localhost\r\n",
            "Host: localhost/\r\n",
            "Host: localhost, localhost\r\n",
        ] {
            let answer = ask_as(address, &request, lines).await;
            assert_eq!(answer.status, 400, "{lines}");
            answer.problem(400, "malformed_host");
        }
    }
}

/// RFC 3986, section 3.2: a port is a number, an IPv6 address has brackets; and RFC 9110, section
/// 7.2: a host has no user.
#[tokio::test]
async fn a_host_with_a_user_or_an_odd_port_is_malformed() {
    let server = serve_sandbox(&[]).await;
    let hosts = ["me@localhost", "localhost:port", "localhost:1:2", "::1"];
    let mut passed = Vec::new();
    for (address, request) in requests(&server) {
        for host in hosts {
            let answer = request.clone().header("Host", host).send(address).await;
            if answer.status != 400 {
                passed.push((address == server.mcp, host, answer.status));
            }
        }
    }
    assert_eq!(passed, []);
}

#[tokio::test]
async fn a_target_with_a_name_must_have_an_allowed_one() {
    let server = serve_sandbox(&[]).await;
    for (target, status) in [("http://localhost", 200), ("http://evil.example", 403)] {
        let request = Request::get(&format!("{target}{}", backups_of(Sandbox::ORDERS)));
        assert_eq!(server.rest(request).await.status, status, "{target}");
    }
}

#[tokio::test]
async fn the_operator_chooses_the_names() {
    let own = ["--allowed-host", "a.example", "--allowed-host", "b:8443"];
    let server = serve_sandbox(&own).await;
    for (address, request) in requests(&server) {
        for (host, status) in [
            ("a.example", 200),
            ("A.EXAMPLE:443", 200),
            ("b:8443", 200),
            ("b", 403),
            ("b:443", 403),
            ("localhost", 403),
            ("127.0.0.1", 403),
            ("[::1]", 403),
        ] {
            let answer = request.clone().header("Host", host).send(address).await;
            assert_eq!(answer.status, status, "{host}");
        }
    }
}

/// What a browser reads for the page that asked.
fn cors(answer: &Answer) -> Vec<&str> {
    let names = answer.headers.iter().map(|(name, _)| name.as_str());
    let mut names: Vec<&str> = names.filter(|name| name.contains("-control-")).collect();
    names.retain(|name| name.starts_with("access-"));
    names.sort_unstable();
    names
}

const ASKED: &str = "authorization,content-type,mcp-protocol-version";

fn preflight(target: &str, origin: &str) -> Request {
    Request::new("OPTIONS", target)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", ASKED)
}

#[tokio::test]
async fn pages_of_other_origins_may_not_call() {
    let open = serve_sandbox(&[]).await;
    let some = ["--allowed-origin", "https://a.example,http://localhost:*"];
    let some = serve_sandbox(&some).await;
    for (server, origins) in [
        (
            &open,
            &["http://localhost:6274", "https://a.example", "null", ""][..],
        ),
        (
            &some,
            &[
                "https://a.example:8443",
                "http://a.example",
                "https://b.a.example",
                "https://a.example.evil.example",
                "https://localhost:1",
                "http://localhost.evil.example:80",
                "http://localhost:evil",
                "null",
                "",
            ],
        ),
    ] {
        for (address, request) in requests(server) {
            for origin in origins {
                let target = preflight("/mcp", origin);
                for request in [request.clone().header("Origin", origin), target] {
                    let answer = request.send(address).await;
                    answer.problem(403, "forbidden_origin");
                    assert_eq!(cors(&answer), [""; 0], "{origin}");
                }
            }
        }
    }
}

#[tokio::test]
async fn pages_of_an_allowed_origin_get_what_browsers_ask_for() {
    let origins = ["--allowed-origin", "https://a.example"];
    let more = ["--allowed-origin", "http://localhost:*"];
    let app = TestApp::new(&[TOKENS]);
    let server = app
        .serve(&[&["--sandbox"], &origins[..], &more].concat())
        .await;
    let token = Some("access-token-of-ada");
    for (address, request) in requests(&server) {
        for origin in [
            "https://a.example",
            "http://localhost",
            "http://localhost:6274",
        ] {
            let known = request.clone().header("Origin", origin);
            let nowhere = Request::get("/nowhere").header("Origin", origin);
            for (request, status) in [
                (known.clone().token(token), 200),
                (known, 401),
                (nowhere.token(token), 404),
            ] {
                let answer = request.send(address).await;
                assert_eq!(answer.status, status, "{answer:?}");
                assert_eq!(
                    cors(&answer),
                    [
                        "access-control-allow-origin",
                        "access-control-expose-headers"
                    ]
                );
                let allowed = answer.header("access-control-allow-origin");
                assert_eq!(allowed, Some(origin));
                let readable = answer.header("access-control-expose-headers").unwrap();
                for name in ["x-request-id", "mcp-session-id", "www-authenticate"] {
                    assert!(readable.contains(name), "{name} in {readable}");
                }
                assert_eq!(answer.header("vary"), Some("origin"));
            }
            // Browsers send no token with it.
            let answer = preflight("/mcp", origin).send(address).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(
                cors(&answer),
                [
                    "access-control-allow-headers",
                    "access-control-allow-methods",
                    "access-control-allow-origin",
                    "access-control-max-age"
                ]
            );
            assert_eq!(answer.header("access-control-allow-headers"), Some(ASKED));
            let methods = answer.header("access-control-allow-methods").unwrap();
            for method in ["GET", "POST", "DELETE"] {
                assert!(methods.contains(method), "{method} in {methods}");
            }
        }
        let answer = request.token(token).send(address).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(cors(&answer), [""; 0]);
        // Without the token, this is no preflight.
        let options = Request::new("OPTIONS", "/mcp").header("Origin", "https://a.example");
        assert_eq!(options.send(address).await.status, 401);
    }
}

#[tokio::test]
async fn a_call_without_a_right_token_is_refused() {
    let server = TestApp::new(&[TOKENS]).serve(&["--sandbox"]).await;
    let realm = r#"Bearer realm="qovery-backups-mcp""#;
    let invalid = format!(r#"{realm}, error="invalid_token""#);
    for (address, request) in requests(&server) {
        for (authorization, challenge) in [
            (None, realm),
            (Some("access-token-of-ada"), realm),
            (Some("Basic YWNjZXNzLXRva2VuLW9mLWFkYQ=="), realm),
            (Some("Bearer"), realm),
            (Some("Bearer access-token-of-ben"), &invalid),
            (Some("Bearer ACCESS-TOKEN-OF-ADA"), &invalid),
            (Some("Bearer access-token-of-ad"), &invalid),
            (
                Some("Bearer access-token-of-ada access-token-of-ada"),
                &invalid,
            ),
            (Some("Bearer ada:access-token-of-ada"), &invalid),
            (Some("Bearer ada"), &invalid),
        ] {
            let request = match authorization {
                Some(value) => request.clone().header("Authorization", value),
                None => request.clone(),
            };
            let answer = request.send(address).await;
            let problem = answer.problem(401, "unauthenticated");
            assert_eq!(problem["outcome"], "not_applied");
            let given = answer.header("www-authenticate");
            assert_eq!(given, Some(challenge), "{authorization:?}");
            let call = server.call(answer.header("x-request-id").unwrap()).await;
            assert_eq!(call["caller"], "anonymous");
            assert_eq!(call["outcome"], "unauthenticated");
        }
    }
    for path in ["/", "/openapi.json"] {
        assert_eq!(server.rest(Request::get(path)).await.status, 200);
        let post = server.rest(Request::post(path, &json!({}))).await;
        post.problem(401, "unauthenticated");
    }
    for path in ["/metrics", "/nowhere"] {
        let query = format!("{path}?access_token=access-token-of-ada");
        for request in [Request::get(path), Request::get(&query)] {
            server.rest(request).await.problem(401, "unauthenticated");
        }
    }
}

#[tokio::test]
async fn a_tokens_name_is_the_callers() {
    let server = TestApp::new(&[TOKENS]).serve(&["--sandbox"]).await;
    for (token, caller) in [
        ("access-token-of-ada", "ada"),
        ("access-token-of-nobody", "caller-2"),
    ] {
        let mut answers = Vec::new();
        for era in ERAS {
            let mut client = Client::new(&server, era, Some(token));
            client.open().await;
            answers.push(client.tool(LIST, &orders()).send(server.mcp).await);
        }
        answers.push(server.rest(list().token(Some(token))).await);
        let lower = list().header("Authorization", &format!("bearer  {token}"));
        answers.push(server.rest(lower).await);
        for answer in answers {
            assert_eq!(answer.status, 200, "{answer:?}");
            let call = server.call(answer.header("x-request-id").unwrap()).await;
            assert_eq!(call["caller"], caller);
        }
    }
}

#[tokio::test]
async fn without_tokens_a_client_is_called_what_it_calls_itself() {
    let server = serve_sandbox(&["--sessions"]).await;
    for era in ERAS {
        let mut client = Client::new(&server, era, None);
        client.open().await;
        let answer = client.tool(LIST, &orders()).send(server.mcp).await;
        let call = server.call(answer.header("x-request-id").unwrap()).await;
        assert_eq!(call["caller"], "test 1", "{era:?}");
    }
}

#[tokio::test]
async fn a_sane_request_id_is_given_back_and_another_replaced() {
    let server = serve_sandbox(&[]).await;
    let elsewhere = Request::get("/nowhere");
    let forbidden = elsewhere.clone().header("Host", "evil.example");
    let (longest, longer) = ("x".repeat(128), "x".repeat(129));
    let requests = requests(&server);
    let requests = requests.into_iter().flat_map(|(address, request)| {
        [request, elsewhere.clone(), forbidden.clone()].map(|request| (address, request))
    });
    for (address, request) in requests {
        for sane in ["1", "a-1._~Z", &longest] {
            let answer = request.clone().header("X-Request-Id", sane);
            let answer = answer.send(address).await;
            assert_eq!(answer.header("x-request-id"), Some(sane));
            server.call(sane).await;
        }
        let mut seen = vec![String::new()];
        for insane in ["", "a b", "a,b", "a\"b", "{a}", "é", "../a", &longer] {
            let answer = request.clone().header("X-Request-Id", insane);
            let answer = answer.send(address).await;
            let id = answer.header("x-request-id").unwrap().to_owned();
            assert_eq!(id.len(), 36, "{insane}: {id}");
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
    let server = TestApp::with_upstream(&upstream.url()).serve(&[]).await;
    let other = parent(&TRACE.replace('0', "1"));
    let mut cases = vec![(server.rest, list().header("traceparent", &parent(TRACE)))];
    for era in ERAS {
        let mut client = Client::new(&server, era, None);
        let tool = client.tool(LIST, &orders());
        cases.push((server.mcp, tool.header("traceparent", &parent(TRACE))));
        let params = json!({
            "name": LIST, "arguments": orders(), "_meta": { "traceparent": parent(TRACE) }
        });
        let message = client.message("tools/call", params.clone());
        cases.push((server.mcp, message.clone()));
        // A proxy that knows the trace writes the header.
        let mut params = params;
        params["_meta"]["traceparent"] = json!(other);
        let message = client.message("tools/call", params);
        cases.push((server.mcp, message.header("traceparent", &parent(TRACE))));
    }
    for (address, request) in cases {
        let answer = request.send(address).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let sent = upstream.requests().pop().unwrap();
        let line = format!("\r\ntraceparent: {}\r\n", parent(TRACE));
        assert!(sent.contains(&line), "{sent}");
        let call = server.call(answer.header("x-request-id").unwrap()).await;
        assert_eq!(call["trace_id"], TRACE);
    }
}

#[tokio::test]
async fn what_is_no_trace_goes_nowhere() {
    let upstream = Upstream::always(page(&[])).await;
    let server = TestApp::with_upstream(&upstream.url()).serve(&[]).await;
    let mut client = Client::new(&server, Era::Stateless, None);
    for wrong in ["", "00", &parent(&"0".repeat(32)), &parent("evil")] {
        let params = json!({
            "name": LIST, "arguments": orders(), "_meta": { "traceparent": wrong }
        });
        for (address, request) in [
            (server.rest, list().header("traceparent", wrong)),
            (server.mcp, client.message("tools/call", params)),
        ] {
            let answer = request.send(address).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let sent = upstream.requests().pop().unwrap();
            assert!(!sent.contains("traceparent"), "{sent}");
            let call = server.call(answer.header("x-request-id").unwrap()).await;
            assert_eq!(call["trace_id"], Value::Null);
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn every_call_is_one_line_of_the_log() {
    let upstream = Upstream::start(|number, _| match number {
        0 => reply("503 Service Unavailable", "", ""),
        1 => page(&[]),
        _ => json_reply("404 Not Found", &json!({ "status": 404, "message": "no" })),
    })
    .await;
    let server = TestApp::with_upstream(&upstream.url()).serve(&[]).await;
    let mut client = Client::new(&server, Era::Stateless, None);
    let wrong = json!({ "databaseId": "" });
    let anybody = "anonymous";
    let cases = [
        (list(), anybody, "rest", "list", "ok", 200),
        (list(), anybody, "rest", "list", "not_found", 404),
        (
            Request::post(&backups_of("x"), &json!({})),
            anybody,
            "rest",
            "add",
            "invalid_request",
            400,
        ),
        (Request::get("/"), anybody, "rest", "other", "ok", 200),
        (
            Request::get("/").header("Host", "evil.example"),
            anybody,
            "rest",
            "other",
            "forbidden_host",
            403,
        ),
        (
            client.tool(LIST, &orders()),
            "test 1",
            "mcp",
            "list",
            "not_found",
            200,
        ),
        (
            client.tool(LIST, &wrong),
            "test 1",
            "mcp",
            "list",
            "invalid_arguments",
            200,
        ),
        (
            client.message("tools/list", json!({})),
            "test 1",
            "mcp",
            "tools/list",
            "ok",
            200,
        ),
        (client.raw("{"), anybody, "mcp", "other", "refused", 400),
    ];
    let mut expected = Vec::new();
    for (number, case) in (0..).zip(cases) {
        let (request, caller, interface, operation, outcome, status) = case;
        let id = format!("call-{number}");
        let address = if interface == "mcp" {
            server.mcp
        } else {
            server.rest
        };
        let answer = request.header("X-Request-Id", &id).send(address).await;
        assert_eq!(answer.status, status, "{answer:?}");
        server.call(&id).await;
        let mut line = json!({
            "message": "call", "request_id": id, "caller": caller, "interface": interface,
            "operation": operation, "outcome": outcome,
        });
        // MCP has answers of its own, whatever the status.
        if interface == "rest" || operation == "other" {
            line["status"] = json!(status);
        }
        expected.push(line);
        for path in ["/healthz", "/readyz"] {
            Request::get(path).send(address).await;
        }
    }
    let log = server.finish().await.stderr;
    let lines = log
        .lines()
        .map(|line| -> Value { serde_json::from_str(line).unwrap() });
    let calls = lines.map(|mut line| line["fields"].take());
    let mut calls: Vec<Value> = calls.filter(|call| call["message"] == "call").collect();
    for call in &mut calls {
        let call = call.as_object_mut().unwrap();
        assert!(call.remove("milliseconds").unwrap().is_u64());
    }
    assert_eq!(calls, expected);
}

#[tokio::test]
async fn probes_need_neither_a_name_nor_a_token() {
    let server = TestApp::new(&[TOKENS]).serve(&["--sandbox"]).await;
    for address in [server.mcp, server.rest] {
        for (path, text) in [("/healthz", "alive\n"), ("/readyz", "ready\n")] {
            let probe = Request::get(path);
            let mut answers = vec![ask_as(address, &probe, "").await];
            for (name, value) in [
                ("Host", "10.0.0.7:9090"),
                ("Host", "http://"),
                ("Origin", "https://evil.example"),
                ("Authorization", "Bearer wrong"),
            ] {
                let probe = probe.clone().header(name, value);
                answers.push(probe.send(address).await);
            }
            for answer in answers {
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_eq!(answer.text(), text);
                assert_eq!(answer.header("cache-control"), Some("no-store"));
                assert_eq!(cors(&answer), [""; 0]);
            }
            let head = Request::new("HEAD", path).send(address).await;
            assert_eq!(head.status, 200);
            let post = Request::post(path, &json!({})).send(address).await;
            assert_eq!(post.status, 401);
            let longer = Request::get(&format!("{path}/x")).send(address).await;
            assert_eq!(longer.status, 401);
        }
    }
}

async fn assert_ready(server: &Server, status: u16) {
    for address in [server.mcp, server.rest] {
        let ready = Request::get("/readyz").send(address).await;
        assert_eq!(ready.status, status, "{ready:?}");
        let alive = Request::get("/healthz").send(address).await;
        assert_eq!(alive.status, 200);
    }
}

#[tokio::test]
async fn it_stays_ready_whatever_becomes_of_qovery() {
    let body = json!({ "status": 401, "message": "no" });
    let upstream = Upstream::always(json_reply("401 Unauthorized", &body)).await;
    let server = TestApp::with_upstream(&upstream.url()).serve(&[]).await;
    assert_eq!(server.rest(list()).await.status, 502);
    assert_ready(&server, 200).await;
    // Taken, so that nobody else listens there.
    let silent = TcpSocket::new_v4().unwrap();
    silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let server = TestApp::with_upstream(&url).serve(&[]).await;
    server.rest(list()).await.problem(502, "unreachable");
    assert_ready(&server, 200).await;
}

#[tokio::test]
async fn metrics_are_told_under_any_name() {
    let server = TestApp::new(&[TOKENS]).serve(&["--sandbox"]).await;
    let metrics = Request::get("/metrics").header("Host", "10.1.2.3:8080");
    let answer = server
        .rest(metrics.clone().token(Some("access-token-of-ada")))
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    server.rest(metrics).await.problem(401, "unauthenticated");
    let post = Request::post("/metrics", &json!({})).header("Host", "10.1.2.3:8080");
    server.rest(post).await.problem(403, "forbidden_host");
}

#[tokio::test]
async fn pages_of_other_sites_may_not_call_without_saying_whose_they_are() {
    let server = serve_sandbox(&["--allowed-origin", "https://a.example"]).await;
    let foreign = |request: Request| request.header("Sec-Fetch-Site", "cross-site");
    let metrics = (server.rest, Request::get("/metrics"));
    for (address, request) in requests(&server).into_iter().chain([metrics]) {
        let answer = foreign(request.clone()).send(address).await;
        answer.problem(403, "forbidden_origin");
        let allowed = foreign(request.clone()).header("Origin", "https://a.example");
        assert_eq!(allowed.send(address).await.status, 200);
        for site in ["none", "same-origin", "same-site"] {
            let answer = request.clone().header("Sec-Fetch-Site", site);
            assert_eq!(answer.send(address).await.status, 200, "{site}");
        }
    }
    for path in ["/", "/openapi.json", "/healthz", "/readyz"] {
        let answer = server.rest(foreign(Request::get(path))).await;
        assert_eq!(answer.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_caller_is_called_by_its_user_agent_where_nothing_better_is_known() {
    let server = serve_sandbox(&[]).await;
    let mut client = Client::new(&server, Era::Handshake, None);
    let tool = client.tool(LIST, &orders());
    let mut client = Client::new(&server, Era::Stateless, None);
    let named = client.tool(LIST, &orders());
    let agent = "curl/8\u{200b}.1\u{202e} (x)";
    for (address, request, caller) in [
        (server.rest, list(), "curl/8.1 (x)"),
        (server.mcp, tool, "curl/8.1 (x)"),
        (server.mcp, named, "test 1"),
    ] {
        let answer = request.header("User-Agent", agent).send(address).await;
        let call = server.call(answer.header("x-request-id").unwrap()).await;
        assert_eq!(call["caller"], caller);
    }
}

#[tokio::test]
async fn http_2_is_not_spoken() {
    let server = serve_sandbox(&[]).await;
    for address in [server.mcp, server.rest] {
        let mut connection = Connection::open(address).await;
        connection
            .write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await;
        let received = connection.until_closed(b"").await;
        assert!(!received.contains("HTTP/1.1 2"), "{received}");
    }
}
