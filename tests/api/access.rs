//! Who may call over HTTP: names in `Host`, origins, access tokens, and what needs none of them.

use std::net::SocketAddr;

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    app::{Server, TEST_TIMEOUT, TestApp, serve_sandbox},
    clients::{ADD, Client, ERAS, Era, LIST, REMOVE, can_ask, order, orders, removal, yes},
    connection::{Connection, Request, backups_of},
    expect::{Answer, contains},
    upstreams::{Upstream, backup_id, closed_port, json_reply},
};

pub(crate) const TOKENS: (&str, &str) = (
    "QOVERY_BACKUPS_ACCESS_TOKEN",
    "ada:access-token-of-ada\naccess-token-without-a-name",
);
const ADA: Option<&str> = Some("access-token-of-ada");

fn list() -> Request {
    Request::get(&backups_of(Sandbox::ORDERS))
}

const BEN: Option<&str> = Some("access-token-of-ben");
const PROMETHEUS: Option<&str> = Some("access-token-of-prometheus");
/// Ada may do all, ben lists, and Prometheus reads the metrics.
const ROLES: (&str, &str) = (
    "QOVERY_BACKUPS_ACCESS_TOKEN",
    "ada:access-token-of-ada\nben/read:access-token-of-ben\n\
     prometheus/metrics:access-token-of-prometheus",
);

/// For each port a request that is answered with 200, if it is allowed.
fn requests(server: &Server) -> [(SocketAddr, Request); 2] {
    let mut client = Client::over_http(server, Era::Stateless, None);
    let tools = client.message("tools/list", json!({}));
    [(server.mcp, tools), (server.rest, list())]
}

/// Sends the request with these header lines in place of its `Host`.
async fn send_with(address: SocketAddr, request: &Request, lines: &str) -> Answer {
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
        for (hosts, status) in [
            ("localhost LocalHost:1 127.0.0.1 127.0.0.1:65535", 200),
            ("[::1] [::1]:9090", 200),
            ("evil.example evil.example:9090 localhost.evil.example", 403),
            ("127.0.0.1.evil.example:80 localhost.", 403),
            ("0.0.0.0 127.0.0.2 [::2]:9090", 403),
            // RFC 3986, section 3.2: an IPv6 address has brackets.
            ("localhost:1:2 ::1 http://localhost localhost/", 403),
        ] {
            for host in hosts.split(' ') {
                let answer = request.clone().header("Host", host).send(address).await;
                assert_eq!(answer.status, status, "{host}: {answer:?}");
                if status == 403 {
                    answer.problem(403, "forbidden_host");
                }
            }
        }
        for lines in [
            "",
            "Host: localhost\r\nHost: localhost\r\n",
            "Host: localhost\r\nHost: evil.example\r\n",
            "Host:\r\n",
            "Host: local host\r\n",
            "Host: localhost, localhost\r\n",
        ] {
            let answer = send_with(address, &request, lines).await;
            answer.problem(403, "forbidden_host");
        }
    }
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
        for (hosts, status) in [
            ("a.example A.EXAMPLE:443 b:8443", 200),
            ("b b:443 localhost 127.0.0.1 [::1]", 403),
        ] {
            for host in hosts.split(' ') {
                let answer = request.clone().header("Host", host).send(address).await;
                assert_eq!(answer.status, status, "{host}");
            }
        }
    }
}

/// The headers that a browser reads for the page that asked.
fn cors(answer: &Answer) -> String {
    let names = answer.headers.iter().map(|(name, _)| name.as_str());
    let mut names: Vec<&str> = names
        .filter_map(|name| name.strip_prefix("access-control-"))
        .collect();
    names.sort_unstable();
    names.join(" ")
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
    let some_refused = "https://a.example:8443 http://a.example https://b.a.example \
                        https://a.example.evil.example https://localhost:1 \
                        http://localhost.evil.example:80 http://localhost:evil null ";
    for (server, origins) in [
        (&open, "http://localhost:6274 https://a.example null "),
        (&some, some_refused),
    ] {
        for (address, request) in requests(server) {
            // The last one is empty.
            for origin in origins.split(' ') {
                let foreign = request.clone().header("Origin", origin);
                let answer = foreign.send(address).await;
                answer.problem(403, "forbidden_origin");
                for answer in [answer, preflight("/mcp", origin).send(address).await] {
                    let allowed = answer.header("access-control-allow-origin");
                    assert_eq!(allowed, None, "{origin}");
                }
            }
        }
    }
}

#[tokio::test]
async fn pages_of_an_allowed_origin_may_call_with_a_token() {
    let origins = ["--allowed-origin", "https://a.example,http://localhost:*"];
    let app = TestApp::new(&[TOKENS]);
    let server = app.serve(&[&["--sandbox"], &origins[..]].concat()).await;
    for (address, request) in requests(&server) {
        for origin in [
            "https://a.example",
            "http://localhost",
            "http://localhost:6274",
        ] {
            let known = request.clone().header("Origin", origin);
            let nowhere = Request::get("/nowhere").header("Origin", origin);
            for (request, status) in [
                (known.clone().token(ADA), 200),
                (known, 401),
                (nowhere.token(ADA), 404),
            ] {
                let answer = request.send(address).await;
                assert_eq!(answer.status, status, "{answer:?}");
                assert_eq!(cors(&answer), "allow-origin expose-headers");
                let allowed = answer.header("access-control-allow-origin");
                assert_eq!(allowed, Some(origin));
                let readable = answer.header("access-control-expose-headers");
                assert_eq!(readable, Some("*"));
                contains(answer.header("vary").unwrap(), ["origin"]);
            }
            // Browsers send no token with it.
            let answer = preflight("/mcp", origin).send(address).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let expected = "allow-headers allow-methods allow-origin max-age";
            assert_eq!(cors(&answer), expected);
            assert_eq!(answer.header("access-control-allow-headers"), Some(ASKED));
            let methods = answer.header("access-control-allow-methods");
            assert_eq!(methods, Some("*"));
        }
        let answer = request.token(ADA).send(address).await;
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!((answer.status, allowed), (200, None));
    }
}

#[tokio::test]
async fn pages_of_other_sites_may_not_call_without_an_origin() {
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
async fn a_call_without_a_right_token_is_refused() {
    let server = TestApp::new(&[TOKENS]).serve(&["--sandbox"]).await;
    let realm = r#"Bearer realm="qovery-backups-mcp""#;
    for (address, request) in requests(&server) {
        for authorization in [
            None,
            Some("access-token-of-ada"),
            Some("Basic YWNjZXNzLXRva2VuLW9mLWFkYQ=="),
            Some("Bearer"),
            Some("Bearer access-token-of-ben"),
            Some("Bearer ACCESS-TOKEN-OF-ADA"),
            Some("Bearer access-token-of-ad"),
            Some("Bearer access-token-of-ada access-token-of-ada"),
            Some("Bearer ada:access-token-of-ada"),
            Some("Bearer ada"),
        ] {
            let request = match authorization {
                Some(value) => request.clone().header("Authorization", value),
                None => request.clone(),
            };
            let answer = request.send(address).await;
            let problem = answer.problem(401, "unauthenticated");
            assert_eq!(problem["outcome"], "not_applied");
            let given = answer.header("www-authenticate");
            let is_token = authorization.is_some_and(|sent| sent.starts_with("Bearer "));
            let error = if is_token {
                r#", error="invalid_token""#
            } else {
                ""
            };
            let challenge = format!("{realm}{error}");
            assert_eq!(given, Some(&*challenge), "{authorization:?}");
            let call = server.call_of(&answer).await;
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
async fn a_caller_has_the_name_of_its_token() {
    let server = TestApp::new(&[TOKENS]).serve(&["--sandbox"]).await;
    for (token, caller) in [
        ("access-token-of-ada", "ada"),
        ("access-token-without-a-name", "caller-2"),
    ] {
        let mut answers = Vec::new();
        for era in ERAS {
            let mut client = Client::over_http(&server, era, Some(token));
            answers.push(client.tool(LIST, &orders()).send(server.mcp).await);
        }
        answers.push(server.rest(list().token(Some(token))).await);
        let lower = list().header("Authorization", &format!("bearer  {token}"));
        answers.push(server.rest(lower).await);
        for answer in answers {
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(server.call_of(&answer).await["caller"], caller);
        }
    }
}

/// The names of the tools in a list of them.
fn tool_names(answer: &Value) -> Vec<&str> {
    let tools = answer["result"]["tools"].as_array().unwrap().iter();
    tools.map(|tool| tool["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_token_that_reads_sees_one_tool_and_no_other_is_there() {
    let old = &["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"][..];
    let server = TestApp::new(&[ROLES]).serve(&["--sandbox"]).await;
    let before = server.rest(list().token(ADA)).await.text();
    for (era, versions) in [(Era::Handshake, old), (Era::Stateless, &["2026-07-28"])] {
        for (token, tools) in [(ADA, &[LIST, ADD, REMOVE][..]), (BEN, &[LIST])] {
            let mut client = Client::over_http(&server, era, token);
            client.open().await;
            let answer = client.request("tools/list", json!({})).await;
            assert_eq!(tool_names(&answer), tools);
            // A proxy must not give the one's list to the other.
            let scope = answer["result"]["cacheScope"].as_str();
            assert_eq!(scope, (era == Era::Stateless).then_some("private"));
        }
        let mut ben = Client::over_http(&server, era, BEN);
        assert_eq!(ben.ok(LIST, orders()).await["complete"], true);
        let unknown = json!({ "name": "drop-database", "arguments": {} });
        let unknown = ben.request("tools/call", unknown).await["error"].take();
        contains(
            &unknown.to_string(),
            ["The tools are: list-database-backups."],
        );
        let mut several = orders();
        several["backupIds"] = json!([backup_id(1), backup_id(2)]);
        let mut named = orders();
        named["name"] = json!("a");
        let mut specified = orders();
        specified["body"] = json!({ "name": "a", "message": "b" });
        for (tool, arguments) in [
            (ADD, named),
            (ADD, specified),
            (REMOVE, order(1)),
            (REMOVE, several),
            (REMOVE, json!({})),
        ] {
            for name in [tool.to_owned(), tool.replace('-', "_")] {
                for version in versions {
                    let request = ben.tool(&name, &arguments);
                    let request = request.header("MCP-Protocol-Version", version);
                    let answer = request.send(server.mcp).await;
                    assert_eq!(answer.message()["error"], unknown, "{name}: {answer:?}");
                }
            }
        }
        let answer = ben.tool(REMOVE, &order(1)).send(server.mcp).await;
        let call = server.call_of(&answer).await;
        assert_eq!(call["caller"], "ben");
        assert_eq!(call["operation"], "remove");
    }
    assert_eq!(server.rest(list().token(ADA)).await.text(), before);
}

#[tokio::test]
async fn a_token_that_reads_cannot_answer_the_question_of_another() {
    let server = TestApp::new(&[ROLES]).serve(&["--sandbox"]).await;
    let before = server.rest(list().token(ADA)).await.text();
    let mut client = Client::over_http(&server, Era::Stateless, ADA);
    client.capabilities = can_ask();
    let question = client.ask(1).await;
    let own = question.answered(&yes(), question.state());
    client.token = BEN;
    let mut spelt = own.clone();
    spelt["name"] = json!(REMOVE.replace('-', "_"));
    for params in [removal(1), own.clone(), spelt] {
        let answer = client.request("tools/call", params).await;
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
        contains(&answer.to_string(), ["There is no such tool."]);
    }
    assert_eq!(server.rest(list().token(ADA)).await.text(), before);
    client.token = ADA;
    client.step(own).await.outcome("removed");
}

#[tokio::test]
async fn a_token_that_reads_changes_nothing_over_rest() {
    let server = TestApp::new(&[ROLES]).serve(&["--sandbox"]).await;
    let backups = backups_of(Sandbox::ORDERS);
    let backup = format!("{backups}/{}", backup_id(1));
    let before = server.rest(list().token(ADA)).await.text();
    for (request, operation) in [
        (
            Request::post(&backups, &json!({ "name": "a", "message": "b" })),
            "add",
        ),
        (Request::post(&backups, &json!({ "wrong": true })), "add"),
        (Request::delete(&backup), "remove"),
        (Request::delete(&format!("{backup}/")), "remove"),
        (Request::new("PUT", &backup), "other"),
        (Request::new("PATCH", &backups), "other"),
        (Request::post("/nowhere", &json!({})), "other"),
    ] {
        let answer = server.rest(request.token(BEN)).await;
        let problem = answer.problem(403, "forbidden_role");
        assert_eq!(problem["outcome"], "not_applied");
        assert_eq!(problem["retryable"], false);
        let call = server.call_of(&answer).await;
        assert_eq!(call["caller"], "ben");
        assert_eq!(call["operation"], operation);
        assert_eq!(call["outcome"], "forbidden_role");
    }
    let head = Request::new("HEAD", "/metrics");
    for (request, status) in [(list(), 200), (head, 200), (Request::get("/nowhere"), 404)] {
        assert_eq!(server.rest(request.token(BEN)).await.status, status);
    }
    assert_eq!(server.rest(list().token(ADA)).await.text(), before);
    assert_eq!(
        server
            .rest(Request::delete(&backup).token(ADA))
            .await
            .status,
        204
    );
}

#[tokio::test]
async fn a_token_for_the_metrics_reads_them_alone() {
    let app = TestApp::new(&[ROLES]);
    let both = app.serve(&["--sandbox"]).await;
    let one = app.serve(&["--sandbox", "--no-rest"]).await;
    // It is not the path of the MCP port where the other one has it.
    for (address, status) in [(both.rest, 200), (one.mcp, 200), (both.mcp, 404)] {
        for request in [
            Request::get("/metrics"),
            Request::get("/metrics?x=1").header("Host", "10.1.2.3:8080"),
            Request::new("HEAD", "/metrics/"),
        ] {
            let answer = request.token(PROMETHEUS).send(address).await;
            assert_eq!(answer.status, status, "{answer:?}");
        }
        let mut client = Client::over_http(&both, Era::Stateless, None);
        let mut old = Client::over_http(&both, Era::Handshake, None);
        for request in [
            client.message("tools/list", json!({})),
            client.message("server/discover", json!({})),
            client.tool(LIST, &orders()),
            client.tool(REMOVE, &order(1)),
            old.message("initialize", json!({})),
            old.tool(LIST, &orders()),
            list(),
            Request::post(&backups_of(Sandbox::ORDERS), &json!({})),
            Request::post("/metrics", &json!({})),
            Request::get("/metrics/x"),
            Request::get("/nowhere"),
            Request::get("/mcp"),
        ] {
            let answer = request.token(PROMETHEUS).send(address).await;
            answer.problem(403, "forbidden_role");
        }
    }
    // These need no token.
    for path in ["/", "/openapi.json", "/healthz", "/readyz"] {
        let answer = both.rest(Request::get(path).token(PROMETHEUS)).await;
        assert_eq!(answer.status, 200, "{path}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_role_that_changes_in_the_file_holds_from_then_on() {
    let app = TestApp::new(&[("QOVERY_BACKUPS_ACCESS_TOKEN_FILE", "tokens")]);
    let give = |role: &str| app.file("tokens", &format!("ada{role}:access-token-of-ada"));
    give("");
    let server = app.serve(&["--sandbox"]).await;
    let serving = server
        .log
        .line(|line| line["fields"]["message"] == "serving");
    assert_eq!(serving.await["fields"]["callers"], "ada");
    let mut client = Client::over_http(&server, Era::Stateless, ADA);
    client.capabilities = can_ask();
    // Asked with one role, and answered with another.
    let question = client.ask(1).await;
    let own = question.answered(&yes(), question.state());
    let backup = format!("{}/{}", backups_of(Sandbox::ORDERS), backup_id(1));
    for (role, tools) in [("/read", 1), ("/metrics", 0), ("", 3)] {
        give(role);
        server.signal("HUP").await;
        let reached = async {
            loop {
                let answer = client.post("tools/list", json!({})).await;
                let seen = match answer.status {
                    200 => tool_names(&answer.message()).len(),
                    status => {
                        assert_eq!(status, 403, "{answer:?}");
                        0
                    }
                };
                if seen == tools {
                    return;
                }
            }
        };
        timeout(TEST_TIMEOUT, reached).await.unwrap();
        if role.is_empty() {
            break;
        }
        let answer = client.post("tools/call", own.clone()).await;
        if role == "/read" {
            assert_eq!(answer.message()["error"]["code"], -32602, "{answer:?}");
        } else {
            answer.problem(403, "forbidden_role");
        }
        let delete = Request::delete(&backup).token(ADA);
        server.rest(delete).await.problem(403, "forbidden_role");
    }
    client.step(own).await.outcome("removed");
}

#[tokio::test]
async fn a_caller_without_a_token_has_the_name_of_its_client_or_user_agent() {
    let server = serve_sandbox(&[]).await;
    let handshake = Client::over_http(&server, Era::Handshake, None).tool(LIST, &orders());
    let stateless = Client::over_http(&server, Era::Stateless, None).tool(LIST, &orders());
    let agent = "curl/8\u{200b}.1\u{202e} (x)";
    for (address, request, caller) in [
        (server.rest, list(), "curl/8.1 (x)"),
        (server.mcp, handshake, "curl/8.1 (x)"),
        (server.mcp, stateless, "test 1"),
    ] {
        let answer = request.header("User-Agent", agent).send(address).await;
        assert_eq!(server.call_of(&answer).await["caller"], caller);
    }
}

#[tokio::test]
async fn probes_need_neither_a_name_nor_a_token() {
    let server = TestApp::new(&[TOKENS]).serve(&["--sandbox"]).await;
    for address in [server.mcp, server.rest] {
        for (path, text) in [("/healthz", "alive\n"), ("/readyz", "ready\n")] {
            let probe = Request::get(path);
            let mut answers = vec![send_with(address, &probe, "").await];
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
                assert_eq!(cors(&answer), "");
            }
            let longer = Request::get(&format!("{path}/x"));
            for (request, status) in [
                (Request::new("HEAD", path), 200),
                (Request::post(path, &json!({})), 405),
                (longer, 401),
            ] {
                assert_eq!(request.send(address).await.status, status);
            }
        }
    }
    // Metrics need a token, but no name.
    let metrics = Request::get("/metrics").header("Host", "10.1.2.3:8080");
    assert_eq!(server.rest(metrics.clone().token(ADA)).await.status, 200);
    server.rest(metrics).await.problem(401, "unauthenticated");
    let post = Request::post("/metrics", &json!({})).header("Host", "10.1.2.3:8080");
    server.rest(post).await.problem(403, "forbidden_host");
}

#[tokio::test]
async fn the_server_stays_ready_though_qovery_fails() {
    let (_port, nowhere) = closed_port();
    let body = json!({ "status": 401, "message": "no" });
    let upstream = Upstream::always(json_reply("401 X", &body)).await;
    for (url, kind) in [(upstream.url(), "key_rejected"), (nowhere, "unreachable")] {
        let server = TestApp::with_upstream(&url).serve(&[]).await;
        server.rest(list()).await.problem(502, kind);
        for address in [server.mcp, server.rest] {
            for probe in ["/readyz", "/healthz"] {
                let answer = Request::get(probe).send(address).await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        }
    }
}
