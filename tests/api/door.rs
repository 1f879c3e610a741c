//! The door: who may call, what every call leaves behind, and for how long a peer may dawdle.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::{
    helpers::{ERAS, Era, TestApp, Upstream, json_reply, page, reply},
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

fn preflight(target: &str, origin: &str) -> Request {
    Request::new("OPTIONS", target)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "authorization")
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
            assert_eq!(answer.status, 204, "{answer:?}");
            assert_eq!(
                cors(&answer),
                [
                    "access-control-allow-headers",
                    "access-control-allow-methods",
                    "access-control-allow-origin",
                    "access-control-expose-headers",
                    "access-control-max-age"
                ]
            );
            let headers = answer.header("access-control-allow-headers").unwrap();
            for name in ["authorization", "content-type", "mcp-protocol-version"] {
                assert!(headers.contains(name), "{name} in {headers}");
            }
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
            assert_eq!(call["attempts"], 0);
        }
    }
    for path in ["/", "/metrics", "/openapi.json", "/nowhere"] {
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
    let wrong = json!({ "databaseId": "x" });
    let anybody = "anonymous";
    let cases = [
        (list(), anybody, "rest", "list", "ok", 200, 2),
        (list(), anybody, "rest", "list", "not_found", 404, 1),
        (
            Request::post(&backups_of("x"), &json!({})),
            anybody,
            "rest",
            "add",
            "invalid_request",
            400,
            0,
        ),
        (Request::get("/"), anybody, "rest", "other", "ok", 200, 0),
        (
            Request::get("/").header("Host", "evil.example"),
            anybody,
            "rest",
            "other",
            "forbidden_host",
            403,
            0,
        ),
        (
            client.tool(LIST, &orders()),
            "test 1",
            "mcp",
            "list",
            "not_found",
            200,
            1,
        ),
        (
            client.tool(LIST, &wrong),
            "test 1",
            "mcp",
            "list",
            "invalid_arguments",
            200,
            0,
        ),
        (
            client.message("tools/list", json!({})),
            "test 1",
            "mcp",
            "tools/list",
            "ok",
            200,
            0,
        ),
        (client.raw("{"), anybody, "mcp", "other", "refused", 400, 0),
    ];
    let mut expected = Vec::new();
    for (number, case) in (0..).zip(cases) {
        let (request, caller, face, operation, outcome, status, attempts) = case;
        let id = format!("call-{number}");
        let address = if face == "mcp" {
            server.mcp
        } else {
            server.rest
        };
        let answer = request.header("X-Request-Id", &id).send(address).await;
        assert_eq!(answer.status, status, "{answer:?}");
        server.call(&id).await;
        expected.push(json!({
            "message": "call", "request_id": id, "caller": caller, "face": face,
            "operation": operation, "outcome": outcome, "status": status, "attempts": attempts,
        }));
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
async fn it_is_not_ready_while_qovery_refuses_the_key() {
    let body = json!({ "status": 401, "message": "no" });
    let upstream = Upstream::start(move |number, _| match number {
        0 | 2 => json_reply("401 Unauthorized", &body),
        1 => page(&[]),
        _ => json_reply("403 Forbidden", &body),
    })
    .await;
    let server = TestApp::with_upstream(&upstream.url()).serve(&[]).await;
    let mut client = Client::new(&server, Era::Stateless, None);
    assert_ready(&server, 200).await;
    for (status, ready) in [(502, 503), (200, 200)] {
        assert_eq!(server.rest(list()).await.status, status);
        assert_ready(&server, ready).await;
    }
    // Whichever face it is that knows.
    for ready in [503, 200] {
        client.refused(LIST, orders()).await;
        assert_ready(&server, ready).await;
    }
}

#[tokio::test]
async fn it_is_not_ready_while_qovery_cannot_be_reached() {
    // Taken, so that nobody else listens there.
    let silent = TcpSocket::new_v4().unwrap();
    silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let server = TestApp::with_upstream(&url).serve(&[]).await;
    assert_ready(&server, 200).await;
    server.rest(list()).await.problem(502, "unreachable");
    assert_ready(&server, 503).await;
    let _upstream = Upstream::on(silent.listen(16).unwrap(), |_, _| page(&[]));
    assert_eq!(server.rest(list()).await.status, 200);
    assert_ready(&server, 200).await;
}

/// Ten seconds, as a slow machine may see them.
fn assert_ten_seconds(since: Instant) {
    let elapsed = since.elapsed();
    let about_ten = Duration::from_secs(9)..Duration::from_secs(40);
    assert!(about_ten.contains(&elapsed), "{elapsed:?}");
}

#[tokio::test]
async fn a_header_that_never_ends_ends_the_connection() {
    let server = serve_sandbox(&[]).await;
    let probe = Request::get("/healthz");
    let head = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ";
    let cases = [server.mcp, server.rest].into_iter().flat_map(|address| {
        [
            (0, "", ""),
            (0, "G", ""),
            (0, head, ""),
            (0, head, "x"),
            (1, "G", ""),
            (1, head, "x"),
            (0, &PREFACE[..9], ""),
            (0, &PREFACE[..18], ""),
        ]
        .map(|case| (address, case))
    });
    let checks = cases.map(async |(address, (asked, start, drip))| {
        let mut since = Instant::now();
        let mut connection = Connection::open(address).await;
        for _ in 0..asked {
            assert_eq!(connection.exchange(&probe).await.status, 200);
            since = Instant::now();
        }
        connection.write(start.as_bytes()).await;
        let received = connection.until_closed(drip.as_bytes()).await;
        assert_eq!(received, "", "{start:?}");
        assert_ten_seconds(since);
    });
    join_all(checks).await;
    assert_ready(&server, 200).await;
}

#[tokio::test]
async fn a_body_that_never_ends_is_timed_out() {
    let server = serve_sandbox(&[]).await;
    let target = backups_of(Sandbox::ORDERS);
    let add = Request::post(&target, &Value::Null).body("");
    let client = Client::new(&server, Era::Stateless, None);
    let cases = [(server.mcp, client.raw("")), (server.rest, add)];
    let cases = cases.into_iter().flat_map(|(address, request)| {
        let announced = request.clone().header("Content-Length", "1000");
        let chunked = request.header("Transfer-Encoding", "chunked");
        [
            (address, announced.clone(), ""),
            (address, announced, " "),
            (address, chunked, "1\r\n \r\n"),
        ]
    });
    let checks = cases.map(async |(address, request, drip)| {
        let since = Instant::now();
        let mut connection = Connection::open(address).await;
        connection.write(&request.bytes(address)).await;
        let received = connection.until_closed(drip.as_bytes()).await;
        assert!(received.starts_with("HTTP/1.1 408 "), "{received}");
        assert!(received.contains("problem:body-too-slow"), "{received}");
        assert_eq!(received.matches("HTTP/1.1").count(), 1, "{received}");
        assert_ten_seconds(since);
    });
    join_all(checks).await;
}

const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// RFC 9113, section 4.1.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [0, high, low, kind, flags, 0, 0, 0, stream];
    [&head, payload].concat()
}

/// A request, its header as RFC 7541 has it without a table or a code.
fn frames(stream: u8, path: &str, authority: &str, body: &Value) -> Vec<u8> {
    let field = |name: &[u8], value: &str| {
        let length = u8::try_from(value.len()).unwrap();
        [name, &[length], value.as_bytes()].concat()
    };
    let method = if body.is_null() { 0x82 } else { 0x83 };
    let header = [
        vec![method, 0x86],
        field(&[4], path),
        field(&[1], authority),
        field(&[15, 4], "application/json, text/event-stream"),
        field(&[15, 16], "application/json"),
    ];
    let header = header.concat();
    if body.is_null() {
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, &header);
    }
    let body = frame(DATA, END_STREAM, stream, body.to_string().as_bytes());
    [frame(HEADERS, END_HEADERS, stream, &header), body].concat()
}

/// The kind, the flags, the stream and the payload of the next frame.
async fn next_frame(connection: &mut Connection) -> (u8, u8, u8, Vec<u8>) {
    let head = connection.read(9).await;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let payload = connection.read(length.try_into().unwrap()).await;
    (head[3], head[4], head[8], payload)
}

#[tokio::test]
async fn http_2_needs_no_negotiation() {
    let server = serve_sandbox(&[]).await;
    let tools = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    let path = backups_of(Sandbox::ORDERS);
    for (address, path, body, text) in [
        (server.mcp, "/mcp", tools, LIST),
        (server.rest, path.as_str(), Value::Null, "results"),
    ] {
        let mut connection = Connection::open(address).await;
        let hello = [PREFACE.as_bytes(), &frame(SETTINGS, 0, 0, &[])].concat();
        connection.write(&hello).await;
        assert_eq!(next_frame(&mut connection).await.0, SETTINGS);
        connection.write(&frame(SETTINGS, 1, 0, &[])).await;
        for (stream, path, authority, body, text) in [
            (1, "/healthz", "evil.example", &Value::Null, "alive"),
            (3, path, "evil.example", &body, "problem:forbidden-host"),
            (5, path, "localhost", &body, text),
        ] {
            let request = frames(stream, path, authority, body);
            connection.write(&request).await;
            let (mut status, mut data) = (0, Vec::new());
            loop {
                let (kind, flags, of, payload) = next_frame(&mut connection).await;
                match kind {
                    HEADERS if of == stream => status = payload[0],
                    DATA if of == stream => data.extend(payload),
                    _ => continue,
                }
                if flags & END_STREAM != 0 {
                    break;
                }
            }
            let data = String::from_utf8(data).unwrap();
            assert!(data.contains(text), "{text} in {data}");
            // 200 has a byte of its own.
            assert_eq!(status == 0x88, stream != 3, "{status}");
        }
    }
}
