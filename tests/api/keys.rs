//! Callers that bring their own keys: each can do what Qovery lets its key do, and no more.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use axum::{
    extract::Request as Received,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use futures_util::future::join_all;
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    app::{Server, TestApp, repetitions, seed},
    clients::{
        ADD, Caller, Client, Era, INTERFACES, Interface, LIST, REMOVE, can_ask, order, orders, yes,
    },
    connection::{Request, backups_of},
    expect::{Answer, contains, lacks, refusal_in},
    upstreams::{
        Upstream, backup, backup_id, json_reply,
        ledger::{database, trace},
    },
};

const KEYS: [&str; 2] = ["qov_ada-ada-ada-ada-ada", "qov_ben-ben-ben-ben-ben"];
const TOKENS: (&str, &str) = (
    "QOVERY_BACKUPS_ACCESS_TOKEN",
    "ada:access-token-of-ada\nben:access-token-of-ben",
);
const ADA: &str = "access-token-of-ada";
const BEN: &str = "access-token-of-ben";
const KEY_HEADER: &str = "X-Qovery-Api-Key";

/// It sees what ben's does, and may not list backups.
const VIEWER: &str = "qov_viewer-of-the-team-of-ben";
/// Its policy allows nothing.
const DENIED: &str = "sk-qov-01-denied-denied-denied";

/// An upstream with two keys. Each sees an organization, and in it a database that is called "orders" like the
/// other's; it may not look into the other's.
#[derive(Clone)]
struct Teams {
    url: String,
    state: Arc<Mutex<TeamsState>>,
}

struct TeamsState {
    /// The backups of each key's database.
    backups: [Vec<Value>; 2],
    /// Of each request: its `Authorization`, method, path, and the call that caused it.
    requests: Vec<(String, Method, String, Option<usize>)>,
}

/// The ids of the backups of one key's database.
fn ids(team: usize) -> impl Iterator<Item = String> {
    (1..=5).map(move |number| backup_id(u32::try_from(team).unwrap() * 10 + number))
}

impl Teams {
    async fn start() -> Self {
        let backups = [0, 1].map(|team| {
            let backup = |(number, id): (u32, String)| {
                let mut backup = backup(6 - number, "READY");
                backup["id"] = json!(id);
                backup
            };
            (1..).zip(ids(team)).map(backup).collect()
        });
        let state = TeamsState {
            backups,
            requests: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::clone(&state);
        let router = axum::Router::new().fallback(move |request: Received| {
            let answer = Self::answer(&mut shared.lock().unwrap(), &request);
            async move { answer }
        });
        tokio::spawn(axum::serve(listener, router).into_future());
        Self { url, state }
    }

    fn answer(state: &mut TeamsState, request: &Received) -> Response {
        let (method, headers) = (request.method().clone(), request.headers());
        let path = request.uri().path().to_owned();
        let header = |name| headers.get(name).map(|value| value.to_str().unwrap());
        let key = header("authorization").unwrap().to_owned();
        let call = header("traceparent");
        let call = call.map(|trace| usize::from_str_radix(&trace[3..35], 16).unwrap());
        state
            .requests
            .push((key.clone(), method.clone(), path.clone(), call));
        let json = |body: Value| {
            // Of the first key, hardly any requests are left.
            let left = if key.contains(KEYS[0]) { "100" } else { "900" };
            let headers = [
                ("content-type", "application/json"),
                ("x-ratelimit-remaining", left),
            ];
            (headers, body.to_string()).into_response()
        };
        let is_viewer = key == format!("Token {VIEWER}");
        let team = (0..2).find(|team| key == format!("Token {}", KEYS[*team]));
        let Some(team) = team.or(is_viewer.then_some(1)) else {
            return StatusCode::UNAUTHORIZED.into_response();
        };
        let (own, backups) = (database(team), &mut state.backups[team]);
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match (method.as_str(), segments.as_slice()) {
            ("GET", ["organization"]) => json(json!({ "results": [{ "id": own, "name": "o" }] })),
            (_, [_, id, ..]) if *id != own => StatusCode::FORBIDDEN.into_response(),
            (_, [_, _, "backup", ..]) if is_viewer => StatusCode::FORBIDDEN.into_response(),
            ("GET", ["organization", _, "services"]) => json(json!({ "results": [{
                "id": own, "name": "orders", "service_type": "DATABASE",
                "project_name": format!("project of {team}"), "environment_name": "e",
            }] })),
            ("GET", ["database", _]) => {
                json(json!({ "id": own, "name": format!("orders {team}") }))
            }
            ("GET", ["database", _, "backup"]) => {
                json(json!({ "page": 1, "page_size": 20, "results": backups }))
            }
            ("POST", ["database", _, "backup"]) => {
                let added = backup(6, "QUEUED");
                (StatusCode::CREATED, json(added)).into_response()
            }
            ("DELETE", ["database", _, "backup", id]) => {
                backups.retain(|backup| backup["id"] != *id);
                StatusCode::NO_CONTENT.into_response()
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }

    /// A server for callers with keys, and with access tokens if there are `tokens`.
    async fn serve(&self, tokens: &[(&'static str, &str)], arguments: &[&str]) -> Server {
        let app = TestApp::new(tokens).with("QOVERY_API_URL", &*self.url);
        let arguments = [&["--caller-keys"], arguments].concat();
        app.serve(&arguments).await
    }

    fn requests(&self) -> Vec<(String, Method, String, Option<usize>)> {
        self.state.lock().unwrap().requests.clone()
    }

    fn changes(&self) -> Vec<(Method, String)> {
        let mut requests = self.requests();
        requests.retain(|(_, method, ..)| method != Method::GET);
        let changes = requests.into_iter();
        changes.map(|(_, method, path, _)| (method, path)).collect()
    }
}

fn client(server: &Server, key: &str, token: Option<&'static str>) -> Client {
    let mut client = Client::over_http(server, Era::Stateless, token);
    client.key = Some(key.to_owned());
    client.capabilities = can_ask();
    client
}

fn removal_of(team: usize) -> Value {
    let arguments = json!({ "databaseId": database(team), "backupId": ids(team).nth(3).unwrap() });
    json!({ "name": REMOVE, "arguments": arguments })
}

#[tokio::test]
async fn an_access_token_may_come_in_another_header() {
    let server = TestApp::new(&[TOKENS]).serve(&["--sandbox"]).await;
    let list = Request::get(&backups_of(Sandbox::ORDERS));
    let mut client = Client::over_http(&server, Era::Stateless, None);
    let tools = client.message("tools/list", json!({}));
    let bearer = "Bearer realm=\"qovery-backups-mcp\"";
    let invalid = format!("{bearer}, error=\"invalid_token\"");
    for (address, request) in [(server.rest, list), (server.mcp, tools)] {
        let with = async |token, other: &str| {
            let request = request.clone().token(token);
            request.header("X-API-Key", other).send(address).await
        };
        for (token, other, caller) in [
            (None, BEN, "ben"),
            (Some(ADA), BEN, "ada"),
            (Some(ADA), "x", "ada"),
        ] {
            let answer = with(token, other).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(server.call_of(&answer).await["caller"], caller);
        }
        for (token, other, challenge) in [
            (None, "access-token-of-eve", &*invalid),
            (None, "Bearer access-token-of-ben", &*invalid),
            (Some("access-token-of-eve"), BEN, &*invalid),
            (None, KEYS[0], bearer),
        ] {
            let answer = with(token, other).await;
            answer.problem(401, "unauthenticated");
            assert_eq!(
                answer.header("www-authenticate"),
                Some(challenge),
                "{other}"
            );
        }
    }
}

#[tokio::test]
async fn callers_with_two_keys_have_nothing_of_each_other() {
    for tokens in [&[TOKENS][..], &[]] {
        let teams = Teams::start().await;
        let server = teams.serve(tokens, &[]).await;
        let token = |token| (!tokens.is_empty()).then_some(token);
        let mut clients = [
            client(&server, KEYS[0], token(ADA)),
            client(&server, KEYS[1], token(BEN)),
        ];
        // Twice: what one was answered is remembered by then.
        for _ in 0..2 {
            for (team, client) in clients.iter_mut().enumerate() {
                let (own, other) = (database(team), database(1 - team));
                let found = client
                    .refused(LIST, json!({ "databaseId": "orders" }))
                    .await;
                contains(
                    &found,
                    [
                        &own,
                        &format!("project of {team}"),
                        "call again with the id",
                    ],
                );
                lacks(&found, [&other]);
                let own_list = client.ok(LIST, json!({ "databaseId": own })).await;
                assert_eq!(own_list["database"]["name"], format!("orders {team}"));
                assert_eq!(own_list["backups"].as_array().unwrap().len(), 5);
                let refused = client.refused(LIST, json!({ "databaseId": other })).await;
                contains(&refused, ["does not allow this API key to do that (403)"]);
                lacks(&refused, ["operator"]);
                let refused = client
                    .refused(ADD, json!({ "databaseId": other, "name": "n" }))
                    .await;
                contains(&refused, ["Nothing was changed."]);
                let step = client.step(removal_of(1 - team)).await;
                contains(&step.refusal(), ["Nothing was changed."]);
                let all = client.ok(LIST, json!({})).await;
                let names: Vec<_> = all["databases"].as_array().unwrap().iter().collect();
                match team {
                    // The other's requests are not its own.
                    0 => contains(
                        all["note"].as_str().unwrap(),
                        ["1 were not read: fewer than 200"],
                    ),
                    _ => assert_eq!([&names[0]["id"]], [&own]),
                }
                assert_eq!(names.len(), team);
            }
        }
        // What one was refused was sent with its own key, and changed nothing.
        let adds = (0..2).flat_map(|_| [1, 0]).map(database);
        let adds = adds.map(|id| (Method::POST, format!("/database/{id}/backup")));
        assert_eq!(teams.changes(), adds.collect::<Vec<_>>());
        for team in 0..2 {
            let question = clients[team].step(removal_of(team)).await.question();
            let answered = question.answered(&yes(), question.state());
            let refused = clients[1 - team]
                .request("tools/call", answered.clone())
                .await;
            contains(
                &refused.to_string(),
                ["not one that this server gave to this caller"],
            );
            // The same caller with another key, and another caller with the same key.
            let mut stranger = client(&server, KEYS[1 - team], clients[team].token);
            let refused = stranger.request("tools/call", answered.clone()).await;
            contains(
                &refused.to_string(),
                ["not one that this server gave to this caller"],
            );
            if !tokens.is_empty() {
                stranger = client(&server, KEYS[team], clients[1 - team].token);
                let refused = stranger.request("tools/call", answered.clone()).await;
                contains(
                    &refused.to_string(),
                    ["not one that this server gave to this caller"],
                );
            }
            assert_eq!(teams.changes().len(), 4 + team);
            clients[team].step(answered).await.outcome("removed");
        }
    }
}

#[tokio::test]
async fn what_is_remembered_is_remembered_of_one_key() {
    let teams = Teams::start().await;
    let server = teams.serve(&[TOKENS], &[]).await;
    let all = async |key| {
        let mut client = client(&server, key, Some(ADA));
        client.ok(LIST, json!({})).await
    };
    for _ in 0..2 {
        let databases = all(KEYS[1]).await["databases"].clone();
        assert_eq!(databases[0]["id"], database(1));
        let seen = all(VIEWER).await;
        assert_eq!(seen["databases"], json!([]));
        contains(seen["note"].as_str().unwrap(), ["(403)"]);
    }
    let requests_of = |key: &str| {
        let key = format!("Token {key}");
        teams.requests().iter().filter(|it| it.0 == key).count()
    };
    let by_name = json!({ "databaseId": "orders" });
    for (sent, answered) in [(1, 2), (1, 2)] {
        let text = client(&server, DENIED, Some(ADA))
            .refused(LIST, by_name.clone())
            .await;
        contains(
            &text,
            ["cannot be looked up by their names with this API key"],
        );
        assert_eq!(requests_of(DENIED), sent, "a denial is remembered");
        let text = client(&server, KEYS[0], Some(ADA))
            .refused(LIST, by_name.clone())
            .await;
        contains(&text, [&database(0)]);
        assert_eq!(requests_of(KEYS[0]), answered, "as is what was found");
    }
}

/// Over both interfaces, of callers that share two access tokens, in every mixture.
#[tokio::test]
async fn each_request_carries_the_key_of_its_call() {
    seed();
    let calls = repetitions("STORM_CALLS", 150);
    let teams = Teams::start().await;
    let unattended = ["--confirm", "never", "--changes-per-hour", "unlimited"];
    let server = teams.serve(&[TOKENS], &unattended).await;
    for round in 0..calls / 15 {
        let calls = (0..15).map(async |lane| {
            let number = 1 + round * 15 + lane;
            let (interface, team) = (INTERFACES[fastrand::usize(..2)], number % 2);
            let token = Some([ADA, BEN][fastrand::usize(..2)]);
            let key = Some(KEYS[team].to_owned());
            let caller = Caller::with_token(&server, interface, token).await;
            let mut caller = caller.with_key(key.clone());
            // Its own or the other's.
            let target = fastrand::usize(..2);
            let (id, backup) = (
                database(target),
                ids(target).nth(fastrand::usize(..5)).unwrap(),
            );
            let request = match (fastrand::usize(..5), interface) {
                (0 | 3 | 4, Interface::Rest) | (0, _) => caller.list(&id),
                (1, _) => caller.add(&id, "n", "m"),
                (2, _) => caller.remove(&id, &backup),
                (operation, Interface::Mcp) => {
                    let mut client = Client::over_http(&server, Era::Stateless, token);
                    client.key = key;
                    let arguments = [json!({}), json!({ "databaseId": "orders" })];
                    client.tool(LIST, &arguments[operation - 3])
                }
                _ => unreachable!(),
            };
            let request = request.header("traceparent", &trace(number));
            let address = match interface {
                Interface::Mcp => server.mcp,
                Interface::Rest => server.rest,
            };
            let text = request.send(address).await.text();
            let mut others = ids(1 - team).filter(|id| *id != backup);
            assert!(!others.any(|id| text.contains(&id)), "{text}");
        });
        join_all(calls).await;
    }
    let requests = teams.requests();
    assert!(requests.len() > calls, "{}", requests.len());
    for (key, method, path, call) in requests {
        let own = KEYS[call.unwrap() % 2];
        assert_eq!(key, format!("Token {own}"), "{method} {path} of {call:?}");
    }
}

#[tokio::test]
async fn a_call_without_a_key_sends_nothing() {
    for tokens in [&[TOKENS][..], &[]] {
        let upstream = Upstream::always(json_reply("200 OK", &json!({}))).await;
        let app = TestApp::new(tokens).with("QOVERY_API_URL", upstream.url());
        let server = app.serve(&["--caller-keys", "--audit-log", "audit"]).await;
        let token = (!tokens.is_empty()).then_some(ADA);
        let id = Sandbox::ORDERS;
        for key in [None, Some("two words"), Some("${KEY}"), Some("qov_\u{e9}")] {
            for request in [
                Request::get(&backups_of(id)),
                Request::post(&backups_of(id), &json!({ "name": "n" })),
                Request::delete(&format!("{}/{}", backups_of(id), backup_id(1))),
            ] {
                let answer = server.rest(request.token(token).key(key)).await;
                let detail = answer.problem(403, "key_missing")["detail"].clone();
                contains(detail.as_str().unwrap(), [KEY_HEADER]);
                assert_eq!(answer.header("www-authenticate"), None);
                assert_eq!(server.call_of(&answer).await["outcome"], "key_missing");
            }
            let mut client = Client::over_http(&server, Era::Stateless, token);
            client.key = key.map(str::to_owned);
            client.capabilities = can_ask();
            let listed = client.request("tools/list", json!({})).await;
            assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 3);
            for (tool, arguments) in [
                (LIST, orders()),
                (LIST, order(1)),
                (LIST, json!({})),
                (LIST, json!({ "databaseId": "orders" })),
                (ADD, json!({ "databaseId": id, "name": "n" })),
                (REMOVE, order(1)),
                (
                    REMOVE,
                    json!({ "databaseId": "orders", "backupId": backup_id(1) }),
                ),
            ] {
                let text = client.refused(tool, arguments).await;
                contains(&text, [KEY_HEADER, "Nothing was changed."]);
            }
        }
        assert_eq!(upstream.requests().len(), 0);
        assert!(!app.directory.path().join("audit").exists());
    }
}

#[tokio::test]
async fn that_qovery_refuses_a_key_is_the_callers_403() {
    let upstream = Upstream::always(json_reply("401 X", &json!({ "message": "no" }))).await;
    let app = TestApp::new(&[]).with("QOVERY_API_URL", upstream.url());
    let server = app.serve(&["--caller-keys"]).await;
    let list = Request::get(&backups_of(Sandbox::ORDERS));
    for (key, kind) in [
        (KEYS[0], "caller_key_rejected"),
        ("sk-qov-01-0123456789abcdef", "forbidden"),
        (
            "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE4MDAwMDAwMDB9.c2lnbmF0dXJl",
            "caller_key_rejected",
        ),
        ("Bearer qov_0123456789abcdef", "caller_key_rejected"),
    ] {
        let before = upstream.requests().len();
        let answer = server.rest(list.clone().key(Some(key))).await;
        let detail = answer.problem(403, kind)["detail"].to_string();
        contains(&detail, ["Qovery refused", KEY_HEADER]);
        lacks(&detail, ["QOVERY_API_KEY", "operator"]);
        assert_eq!(upstream.requests().len(), before + 1, "once");
        // It is nothing for the operator.
        assert_eq!(server.call_of(&answer).await["problem"], Value::Null);
        let text = client(&server, key, None).refused(LIST, orders()).await;
        contains(&text, ["Qovery refused", KEY_HEADER]);
    }
}

#[tokio::test]
async fn a_key_may_come_where_a_connector_lets_a_user_put_one() {
    let teams = Teams::start().await;
    let server = teams.serve(&[TOKENS], &[]).await;
    let list = Request::get(&backups_of(&database(0))).token(Some(ADA));
    let answer = server.rest(list.clone().header("X-API-Key", KEYS[0])).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(server.call_of(&answer).await["caller"], "ada");
    // The header of its own decides.
    for (key, other, status) in [(KEYS[0], KEYS[1], 200), (KEYS[1], KEYS[0], 403)] {
        let request = list.clone().key(Some(key)).header("X-API-Key", other);
        assert_eq!(server.rest(request).await.status, status);
    }
    // An access token beside the key, and a key that is no access token.
    let request = Request::get(&backups_of(&database(0))).key(Some(KEYS[0]));
    let answer = server.rest(request.clone().header("X-API-Key", ADA)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let key = Request::get(&backups_of(&database(0))).header("X-API-Key", KEYS[0]);
    for request in [request, key, list.clone().token(Some(KEYS[0]))] {
        server.rest(request).await.problem(401, "unauthenticated");
    }
    server.rest(list).await.problem(403, "key_missing");
}

#[tokio::test]
async fn a_key_is_no_name_and_has_one() {
    let teams = Teams::start().await;
    let server = teams.serve(&[], &[]).await;
    let list = Request::get(&backups_of(&database(0))).header("User-Agent", "test/1");
    for key in [KEYS[0].to_owned(), format!("Token {}", KEYS[0])] {
        let answer = server.rest(list.clone().key(Some(&key))).await;
        // printf %s KEY | sha256sum
        assert_eq!(server.call_of(&answer).await["caller"], "key-1bbec8bc");
        let mut client = client(&server, &key, None);
        let answer = client.tool(LIST, &orders()).send(server.mcp).await;
        assert_eq!(server.call_of(&answer).await["caller"], "key-1bbec8bc");
    }
    let answer = server.rest(list).await;
    assert_eq!(server.call_of(&answer).await["caller"], "test/1");
    // A server with a key of its own takes no other.
    let upstream = Upstream::always(json_reply("200 OK", &json!({}))).await;
    let server = upstream.app().serve(&[]).await;
    let list = Request::get(&backups_of(Sandbox::ORDERS)).key(Some(KEYS[0]));
    let answer = server.rest(list.header("X-API-Key", KEYS[1])).await;
    assert_eq!(server.call_of(&answer).await["caller"], "anonymous");
    let [request] = &upstream.requests()[..] else {
        panic!("one request");
    };
    contains(
        request,
        [&format!("authorization: Token {}\r\n", Sandbox::KEY)],
    );
    lacks(&request.to_lowercase(), ["qov_ada", "qov_ben", "x-"]);
}

#[tokio::test]
async fn each_caller_has_an_allowance_of_its_own() {
    let add = |key: &str, token: Option<&str>| {
        let body = json!({ "name": "n", "message": "m" });
        let team = usize::from(key == KEYS[1]);
        let path = backups_of(&database(team));
        Request::post(&path, &body).key(Some(key)).token(token)
    };
    let status = async |server: &Server, request| -> Answer { server.rest(request).await };
    let teams = Teams::start().await;
    let limit = ["--changes-per-hour", "1"];
    let server = teams.serve(&[TOKENS], &limit).await;
    for token in [ADA, BEN] {
        assert_eq!(status(&server, add(KEYS[0], Some(token))).await.status, 201);
        // It is the caller's, whatever the key.
        for key in KEYS {
            let refused = status(&server, add(key, Some(token))).await;
            refused.problem(429, "limit_reached");
        }
    }
    let server = teams.serve(&[], &limit).await;
    for key in KEYS {
        assert_eq!(status(&server, add(key, None)).await.status, 201);
        let refused = status(&server, add(&format!("Token {key}"), None)).await;
        refused.problem(429, "limit_reached");
    }
}

#[tokio::test]
async fn what_would_be_ambiguous_or_open_does_not_start() {
    let keys = ["http", "--caller-keys"];
    let app = TestApp::new(&[("QOVERY_API_KEY", KEYS[0])]);
    for arguments in [&keys[..], &["http", "--caller-keys", "--sandbox"]] {
        let text = app.refused(arguments).await;
        contains(
            &text,
            ["QOVERY_API_KEY (environment) is set beside --caller-keys"],
        );
    }
    let app = TestApp::new(&[("QOVERY_BACKUPS_CALLER_KEYS", "true")]);
    for arguments in [&[][..], &["stdio"], &["--sandbox"]] {
        let text = app.refused(arguments).await;
        let words = "QOVERY_BACKUPS_CALLER_KEYS (environment) is for the command http";
        contains(&text, [words, "QOVERY_API_KEY"]);
    }
    let open = [&keys[..], &["--mcp-addr", "0.0.0.0:0"]].concat();
    contains(
        &TestApp::new(&[]).refused(&open).await,
        ["is not a loopback address"],
    );
    for token in ["qov_0123456789abcdef", "sk-qov-0123456789abcdef"] {
        for arguments in [&keys[..], &["http", "--sandbox"]] {
            let tokens = format!("ada:{ADA}\nben/read:{token}");
            let app = TestApp::new(&[]).with(TOKENS.0, tokens);
            let text = app.refused(arguments).await;
            contains(
                &text,
                ["has in line 2 a token that begins as a key of Qovery does"],
            );
            lacks(&text, [token]);
        }
    }
    // A file that was only found must not send the keys elsewhere.
    for (line, arguments) in [
        ("QOVERY_API_URL=https://evil.example", &keys[..]),
        ("QOVERY_BACKUPS_CALLER_KEYS=true", &["http"]),
    ] {
        let app = TestApp::new(&[]);
        app.file(".env", line);
        contains(
            &app.refused(arguments).await,
            [".env sets", "name the file: --env-file"],
        );
    }
}

#[tokio::test]
async fn the_check_says_that_callers_bring_their_keys() {
    let upstream = Upstream::always(json_reply("200 OK", &json!({}))).await;
    let app = TestApp::new(&[TOKENS]).with("QOVERY_API_URL", upstream.url());
    for (arguments, code, verdict) in [
        (
            &["check", "--caller-keys"][..],
            0,
            "OK: each call brings its own key",
        ),
        (
            &["check", "--caller-keys", "--sandbox"],
            0,
            "OK: each call brings its own key",
        ),
        (
            &["check", "--caller-keys", "--database", Sandbox::ORDERS],
            1,
            "FAILED: each call brings its own key",
        ),
    ] {
        let end = app.run(arguments).await;
        assert_eq!(end.status.code(), Some(code), "{}", end.stderr);
        let last = end.stdout.lines().last().unwrap();
        assert!(last.starts_with(verdict), "{last}");
        contains(last, [KEY_HEADER]);
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn the_sandbox_takes_what_looks_like_a_key() {
    let server = TestApp::new(&[])
        .serve(&["--sandbox", "--caller-keys"])
        .await;
    let list = Request::get(&backups_of(Sandbox::ORDERS));
    for (key, status) in [
        (KEYS[0], 200),
        ("sk-qov-01-0123456789abcdef", 200),
        ("Bearer eyJa.eyJb.c", 200),
        ("something-else", 403),
        ("Bearer qov_0123456789abcdef", 403),
    ] {
        let answer = server.rest(list.clone().key(Some(key))).await;
        assert_eq!(answer.status, status, "{key}");
    }
    let page = server.rest(Request::get("/")).await.text();
    contains(
        &page,
        [
            "--header \"X-Qovery-Api-Key: $QOVERY_API_KEY\"",
            "is your own key",
        ],
    );
    lacks(&page, ["ACCESS_TOKEN"]);
    let text = refusal_in(
        &client(&server, "something-else", None)
            .call(LIST, orders())
            .await,
    );
    contains(&text, ["Qovery refused the API key (401)"]);
}
