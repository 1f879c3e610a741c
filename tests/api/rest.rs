//! The REST API: what each status means, and what every answer carries.

use futures_util::future::join_all;
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    app::{Server, serve_sandbox},
    clients::{ADD, Client, DEFAULT_MESSAGE, Era, LIST, orders},
    connection::{Connection, Request, backups_of},
    expect::{Answer, contains, lacks},
    upstreams::{
        JSON, Reply, Upstream, backup, backup_id, backups, json_reply, page, reply,
        truncated_creation,
    },
};

const ID: &str = Sandbox::ORDERS;

/// Valid JSON as no library would write it.
const ODD_BACKUP: &str = r#" {"id":"bac00000-0000-4000-8000-000000000001",	"created_at" :"2026-06-01T00:00:00Z","name":"\u00e9\/🚀", "size":1e2,"status":{"state":"READY","steps" : [ 1.0 ] },"name_of_tomorrow":null} "#;

fn odd_page() -> String {
    format!("\n{{\"page_size\" : 2e1,\"page\":1.0,\"results\":[{ODD_BACKUP}] ,\"more\":{{}}}}\r\n")
}

fn new_backup() -> Value {
    json!({ "name": "n", "message": "m" })
}

/// A list, an add and a removal.
fn operations() -> [Request; 3] {
    [
        Request::get(&backups_of(ID)),
        Request::post(&backups_of(ID), &new_backup()),
        Request::delete(&format!("{}/{}", backups_of(ID), backup_id(1))),
    ]
}

async fn serve(upstream: &Upstream) -> Server {
    upstream.app().serve(&[]).await
}

#[tokio::test]
async fn a_page_is_what_qovery_sent_to_the_byte() {
    let start = backup_id(7).to_uppercase();
    let targets = [
        backups_of(ID),
        backups_of(&ID.to_uppercase()),
        format!("{}?startId={start}", backups_of(ID)),
    ];
    // It is passed on unread.
    for body in [&odd_page(), "{\"hello\":1}", "no list"] {
        let upstream = Upstream::always(reply("200 OK", JSON, body)).await;
        let server = serve(&upstream).await;
        for target in &targets {
            let answer = server.rest(Request::get(target)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.text(), body);
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert!(answer.header("x-request-id").is_some());
            let head = server.rest(Request::new("HEAD", target)).await;
            assert_eq!(head.status, 200, "{head:?}");
            let length = body.len().to_string();
            assert_eq!(head.header("content-length"), Some(length.as_str()));
        }
        let plain = format!("GET /database/{ID}/backup HTTP/1.1");
        let next = plain.replace(" HTTP", &format!("?startId={} HTTP", backup_id(7)));
        let expected = [&plain, &plain, &plain, &plain, &next, &next];
        assert_eq!(upstream.lines(), expected.map(String::as_str));
    }
}

#[tokio::test]
async fn an_added_backup_is_answered_to_the_byte_and_with_its_place() {
    let upstream = Upstream::always(reply("201 Created", JSON, ODD_BACKUP)).await;
    let server = serve(&upstream).await;
    let longest = json!({ "name": "é".repeat(255), "message": "" });
    for (body, content_type) in [
        (new_backup(), "application/json"),
        (new_backup(), "application/json; charset=utf-8"),
        (longest, "Application/JSON"),
    ] {
        let request = Request::post(&backups_of(&ID.to_uppercase()), &body);
        let request = request.header("Content-Type", content_type);
        let answer = server.rest(request).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.text(), ODD_BACKUP);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let place = format!("{}/{}", backups_of(ID), backup_id(1));
        assert_eq!(answer.header("location"), Some(place.as_str()));
        let request = upstream.requests().pop().unwrap();
        let (head, sent) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("POST /database/{ID}/backup HTTP/1.1")));
        assert_eq!(serde_json::from_str::<Value>(sent).unwrap(), body);
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test]
async fn a_removed_backup_leaves_no_body() {
    let upstream = Upstream::start(|_, line| match line {
        line if line.starts_with("DELETE") => reply("204 No Content", "", ""),
        _ => page(&backups(2)),
    })
    .await;
    let server = serve(&upstream).await;
    let backup = backup_id(1).to_uppercase();
    let target = format!("{}/{backup}", backups_of(&ID.to_uppercase()));
    let mut connection = Connection::open(server.rest).await;
    let answer = connection.exchange(&Request::delete(&target)).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(answer.header("content-type"), None);
    assert!(answer.header("x-request-id").is_some());
    let delete = format!("DELETE /database/{ID}/backup/{} HTTP/1.1", backup_id(1));
    assert_eq!(upstream.lines()[1], delete);
    // Had there been a body, this answer would begin with it.
    let next = connection.exchange(&Request::get(&backups_of(ID))).await;
    assert_eq!(next.status, 200);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_qovery_is_asked() {
    let upstream = Upstream::always(page(&backups(1))).await;
    let server = upstream.app().serve(&[]).await;
    let long = "a".repeat(10_000);
    let mut cases = Vec::new();
    for id in [
        "orders",
        "..",
        "%2e%2e%2forganization",
        "0de50000-0000-4000-8000-00000000000%2e%2e",
        "urn:uuid:0de50000-0000-4000-8000-000000000001",
        "%7B0de50000-0000-4000-8000-000000000001%7D",
        "0de50000000040008000000000000001",
        "0de50000-0000-4000-8000-00000000000g",
        "%200de50000-0000-4000-8000-000000000001",
        "%ff",
        &long,
    ] {
        let list = backups_of(id);
        cases.push((Request::get(&list), "databaseid"));
        cases.push((Request::post(&list, &new_backup()), "databaseid"));
        let removal = format!("{list}/{}", backup_id(1));
        cases.push((Request::delete(&removal), "databaseid"));
        let removal = format!("{}/{id}", backups_of(ID));
        cases.push((Request::delete(&removal), "backupid"));
        let next = format!("{}?startId={id}", backups_of(ID));
        cases.push((Request::get(&next), "startId"));
    }
    for (query, name) in [
        ("startId=%20", "startId"),
        ("start_id=x", "start_id"),
        ("verbose=true", "verbose"),
        (&format!("startId={ID}&startId={ID}"), "startId"),
    ] {
        let target = format!("{}?{query}", backups_of(ID));
        cases.push((Request::get(&target), name));
    }
    for (body, name) in [
        (json!({}), "name"),
        (json!({ "name": "", "message": "m" }), "name"),
        (json!({ "name": "x".repeat(256), "message": "m" }), "name"),
        (json!({ "name": "n", "message": long[..4_001] }), "message"),
        (json!({ "name": 7, "message": "m" }), "name"),
        (json!({ "name": "n", "message": "m", "x": 1 }), "x"),
        (json!([]), ""),
        (json!(null), ""),
    ] {
        cases.push((Request::post(&backups_of(ID), &body), name));
    }
    for body in [&b""[..], b"hello", b"{", b"\xff", b"{} {}"] {
        let request = Request::post(&backups_of(ID), &json!({})).body(body);
        cases.push((request, ""));
    }
    for (request, name) in cases {
        let answer = server.rest(request).await;
        let problem = answer.problem(400, "invalid_request");
        let detail = problem["detail"].as_str().unwrap();
        contains(detail, [name, "nothing was changed"]);
        assert!(detail.len() < 500, "{detail}");
        assert_eq!(problem["outcome"], "not_applied");
        assert_eq!(problem["retryable"], false);
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn a_refusal_says_in_plain_words_what_is_wrong_with_which_field() {
    let server = serve_sandbox(&[]).await;
    let list = backups_of(ID);
    let body = |body: &str| Request::post(&list, &Value::Null).body(body);
    let id = "must be a hyphenated UUID, like 123e4567-e89b-12d3-a456-426614174000";
    for (request, detail) in [
        (
            body(r#"{"nme":"n"}"#),
            "body is wrong: nme: there is no field `nme`, only `name` or `message`, in line 1 column 6",
        ),
        (
            body("{}"),
            "body is wrong: there must be a field `name`, in line 1 column 2",
        ),
        (
            body(r#"{"name":7}"#),
            "body is wrong: name: integer `7` is not a string, in line 1 column 9",
        ),
        (
            body(r#"{"name":"n","name":"n"}"#),
            "body is wrong: duplicate field `name`, in line 1 column 18",
        ),
        (
            body(r#"{"name":""}"#),
            "body is wrong: name: must be 1 to 255 characters long, and has 0, in line 1 column 11",
        ),
        (
            body("null"),
            "body is wrong: null is not an object with a `name`, in line 1 column 4",
        ),
        (
            body("{"),
            "body is wrong: EOF while parsing an object, in line 1 column 1",
        ),
        (
            Request::get(&format!("{list}?start=x")),
            "query is wrong: start: there is no field `start`, only `startId`",
        ),
        (
            Request::get(&format!("{list}?startId=x")),
            &format!("query is wrong: startId: {id}"),
        ),
        (
            Request::get(&backups_of("orders")),
            &format!("path is wrong: Cannot parse `databaseid` with value `orders`: {id}"),
        ),
    ] {
        let problem = server.rest(request).await.problem(400, "invalid_request");
        let detail =
            format!("The {detail}. No request was sent to Qovery, and nothing was changed.");
        assert_eq!(problem["detail"], detail);
    }
}

#[tokio::test]
async fn a_backup_without_a_message_gets_that_of_the_tool() {
    let server = serve_sandbox(&[]).await;
    let name_alone = json!({ "name": "n" });
    let answer = server
        .rest(Request::post(&backups_of(ID), &name_alone))
        .await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.json()["message"], DEFAULT_MESSAGE);
    // The form of the capability specification, over MCP.
    let mut client = Client::over_http(&server, Era::Stateless, None);
    for arguments in [name_alone.clone(), json!({ "body": name_alone })] {
        let mut arguments = arguments;
        arguments["databaseId"] = json!(ID);
        let added = client.ok(ADD, arguments).await;
        assert_eq!(added["message"], DEFAULT_MESSAGE);
    }
}

#[tokio::test]
async fn read_only_forbids_changes_and_nothing_else() {
    let upstream = Upstream::always(page(&backups(1))).await;
    let app = upstream.app();
    let server = app.serve(&["--read-only"]).await;
    let [list, add, remove] = operations();
    for request in [add, remove] {
        let problem = server.rest(request).await.problem(403, "read_only");
        assert_eq!(problem["outcome"], "not_applied");
    }
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(server.rest(list).await.status, 200);
}

#[tokio::test]
async fn every_failure_of_the_upstream_has_its_status_kind_and_outcome() {
    let says = |status: u16| {
        let body = json!({ "status": status, "error": "x", "message": "Qovery's own words" });
        json_reply(&format!("{status} X"), &body)
    };
    let busy = reply("429 X", "Retry-After: 60\r\n", "");
    let down = reply("503 X", "Retry-After: 90\r\n", "");
    let moved = reply("302 X", "Location: /x\r\n", "");
    // For a change that may have been made; whatever is read changes nothing.
    let (not, unknown) = ("not_applied", "unknown");
    let cases = [
        (says(400), 400, "rejected", not, false, None),
        (says(401), 502, "key_rejected", not, false, None),
        (says(403), 403, "forbidden", not, false, None),
        (says(404), 404, "not_found", not, false, None),
        (says(409), 409, "rejected", not, true, Some("60")),
        (says(423), 409, "rejected", not, true, Some("60")),
        (says(425), 409, "rejected", not, true, Some("60")),
        (says(422), 400, "rejected", not, false, None),
        (says(429), 429, "rate_limited", not, true, Some("60")),
        (busy, 429, "rate_limited", not, true, Some("60")),
        (says(408), 502, "unavailable", unknown, true, None),
        (says(500), 502, "unavailable", unknown, true, None),
        (down, 502, "unavailable", unknown, true, Some("90")),
        (moved, 502, "redirected", unknown, false, None),
        (Reply::Reset, 502, "interrupted", unknown, true, None),
        (Reply::Hang, 504, "timed_out", unknown, true, None),
    ];
    let checks = cases.into_iter().map(async |case| {
        let (reply, status, kind, outcome, retryable, retry_after) = case;
        for (number, request) in operations().into_iter().enumerate() {
            let upstream = Upstream::failing(number == 2, reply.clone()).await;
            let server = upstream.app().short_limits().serve(&[]).await;
            let answer = server.rest(request.clone()).await;
            let problem = answer.problem(status, kind);
            // A removal that Qovery itself has answered is settled by the list, where the backup
            // still is.
            let detail = problem["detail"].as_str().unwrap();
            let is_final = kind == "redirected" || detail.starts_with("Qovery failed (500)");
            let settled = number == 2 && is_final;
            let outcome = if number == 0 || settled { not } else { outcome };
            assert_eq!(problem["outcome"], outcome, "{request:?}: {problem}");
            // What may have been done must not be repeated.
            let retryable = retryable && outcome == not;
            assert_eq!(problem["retryable"], retryable, "{request:?}: {problem}");
            let retry_after = retry_after.filter(|_| retryable);
            assert_eq!(answer.header("retry-after"), retry_after, "{problem}");
        }
    });
    join_all(checks).await;
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_a_bad_gateway() {
    let html = || reply("200 OK", "", "<html>sign in</html>");
    let created = reply("201 Created", "", "<html>sign in</html>");
    let (list, add, remove) = (0, 1, 2);
    for (answer, operation, kind, outcome) in [
        (html(), list, "unreadable", "not_applied"),
        (html(), add, "unreadable", "unknown"),
        (created, add, "unreadable", "applied"),
        (truncated_creation(), add, "interrupted", "applied"),
        (reply("200 OK", "", ""), remove, "unexpected", "unknown"),
    ] {
        let upstream = Upstream::failing(operation == remove, answer).await;
        let server = serve(&upstream).await;
        let answer = server.rest(operations()[operation].clone()).await;
        let problem = answer.problem(502, kind);
        assert_eq!(problem["outcome"], outcome, "{problem}");
        assert_eq!(problem["retryable"], false, "{problem}");
    }
}

#[tokio::test]
async fn a_path_answers_its_own_methods_and_names_them() {
    let upstream = Upstream::always(page(&backups(1))).await;
    let server = upstream.app().serve(&[]).await;
    let reading = ["GET", "HEAD"];
    let removal = format!("{}/{}", backups_of(ID), backup_id(1));
    for (path, expected) in [
        (backups_of(ID), &["GET", "HEAD", "POST"][..]),
        (removal, &["DELETE"]),
        ("/openapi.json".to_owned(), &reading),
        ("/metrics".to_owned(), &reading),
        ("/".to_owned(), &reading),
    ] {
        let all = [
            "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "BREW",
        ];
        for method in all.into_iter().filter(|method| !expected.contains(method)) {
            let answer = server.rest(Request::new(method, &path)).await;
            assert_eq!(allowed(&answer), expected, "{method} {path}");
            if method == "HEAD" {
                assert_eq!(answer.status, 405);
            } else {
                answer.problem(405, "method_not_allowed");
            }
        }
    }
    assert_eq!(upstream.requests().len(), 0);
}

fn allowed(answer: &Answer) -> Vec<&str> {
    let allow = answer.header("allow").unwrap_or_default();
    let mut methods: Vec<&str> = allow.split(',').map(str::trim).collect();
    methods.sort_unstable();
    methods
}

#[tokio::test]
async fn there_is_nothing_at_other_paths() {
    let server = serve_sandbox(&[]).await;
    for path in [
        "/v1",
        "/v1/",
        "/v2/database/x/backup",
        "/v1/database",
        &format!("{}/{ID}/x", backups_of(ID)),
        &format!("/v1/database/{ID}/backups"),
        "/OPENAPI.JSON",
        "/mcp",
        "/..",
        "/%2e%2e/",
    ] {
        for request in [Request::get(path), Request::post(path, &json!({}))] {
            let problem = server.rest(request).await.problem(404, "no_such_path");
            contains(&problem["detail"].to_string(), ["MCP is at /mcp"]);
        }
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_is_an_unsupported_media_type() {
    let upstream = Upstream::always(page(&backups(1))).await;
    let server = upstream.app().serve(&[]).await;
    let bare = Request::new("POST", &backups_of(ID)).body(new_backup().to_string());
    for request in [
        bare.clone(),
        bare.clone().header("Content-Type", "text/plain"),
        bare.header("Content-Type", "application/x-www-form-urlencoded"),
    ] {
        let answer = server.rest(request).await;
        answer.problem(415, "unsupported_media_type");
    }
    for (address, path) in [(server.mcp, "/mcp"), (server.rest, &*backups_of(ID))] {
        let request = Request::post(path, &new_backup()).header("Content-Encoding", "gzip");
        let answer = request.send(address).await;
        let problem = answer.problem(415, "unsupported_media_type");
        contains(&problem["detail"].to_string(), ["is encoded (gzip)"]);
    }
    assert_eq!(upstream.requests().len(), 0);
}

/// The page for people, which runs nothing and has no place left to fill in.
async fn page_for_people(server: &Server) -> String {
    let answer = server.rest(Request::get("/")).await;
    assert_eq!(answer.status, 200);
    contains(answer.header("content-type").unwrap(), ["text/html"]);
    let policy = answer.header("content-security-policy").unwrap();
    assert_eq!(
        policy,
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
    );
    let page = answer.text();
    let version = format!("Version {}.", env!("CARGO_PKG_VERSION"));
    contains(
        &page,
        [&version, "color-scheme: light dark", "/openapi.json"],
    );
    lacks(&page.to_lowercase(), ["<script", "javascript:"]);
    for place in ["{version}", "{command}", "{url}", "{header}"] {
        lacks(&page, [place]);
    }
    page
}

/// What the log says to do next.
async fn next_step(server: &Server) -> String {
    let start = "next: paste into another terminal: ";
    server.log.message(start).await[start.len()..].to_owned()
}

#[tokio::test]
async fn the_first_lines_and_the_page_say_what_to_do_next() {
    let server = serve_sandbox(&[]).await;
    let (mcp, rest) = (server.mcp, server.rest);
    let command = next_step(&server).await;
    let add = "claude mcp add -s user --transport http qovery-backups";
    assert_eq!(command, format!("{add} http://{mcp}/mcp"));
    let page = page_for_people(&server).await;
    let curl = format!("<pre>curl http://{rest}{}</pre>", backups_of(ID));
    contains(&page, [&format!("<pre>{command}</pre>"), &curl]);
    contains(&page, ["Sandbox:", "POST", "DELETE"]);
    lacks(&page, ["Read-only", "ACCESS_TOKEN", "DATABASE_ID"]);
    let browser = server.log.message("next: open ").await;
    assert_eq!(browser, format!("next: open http://{rest}/ in a browser"));
}

#[cfg(unix)]
#[tokio::test]
async fn the_page_says_what_callers_need_and_offers_no_more_than_there_is() {
    let upstream = Upstream::always(page(&backups(1))).await;
    let tokens = "ada:s3cret-t0ken-of-ada";
    let app = upstream.app().with("QOVERY_BACKUPS_ACCESS_TOKEN", tokens);
    let url = "https://a.example";
    let server = app
        .serve(&["--read-only", "--public-url", &format!("{url}/")])
        .await;
    let command = next_step(&server).await;
    let header = r#"--header "Authorization: Bearer $ACCESS_TOKEN""#;
    contains(&command, [&format!("{url}/mcp {header}")]);
    let page = page_for_people(&server).await;
    let curl = format!(
        "<pre>curl {url}{} {header}</pre>",
        backups_of("DATABASE_ID")
    );
    contains(&page, [&format!("<pre>{command}</pre>"), &curl]);
    contains(&page, ["Read-only:", "GET"]);
    lacks(
        &page,
        ["Sandbox", "POST", "DELETE", "removes the", "s3cret"],
    );
    // A proxy may keep REST inside.
    let end = server.finish().await;
    lacks(&end.stderr, ["in a browser"]);
}

#[cfg(unix)]
#[tokio::test]
async fn without_rest_there_is_no_page_to_open() {
    let server = serve_sandbox(&["--no-rest"]).await;
    next_step(&server).await;
    lacks(&server.finish().await.stderr, ["in a browser"]);
}

#[tokio::test]
async fn calls_are_counted_by_interface_operation_and_outcome() {
    let upstream = Upstream::start(|number, line| match (number, line) {
        (0, _) => reply("503 X", "", ""),
        (_, line) if line.starts_with("POST") => json_reply("201 Created", &backup(1, "QUEUED")),
        (_, line) if line.starts_with("DELETE") => reply("204 No Content", "", ""),
        _ => page(&backups(2)),
    })
    .await;
    let token = Some("s3cret-t0ken-of-ada");
    let app = upstream.app();
    let app = app.with("QOVERY_BACKUPS_ACCESS_TOKEN", "ada:s3cret-t0ken-of-ada");
    let server = app.serve(&[]).await;
    let [list, add, remove] = operations();
    for request in [&list, &list, &add, &remove] {
        let answer = server.rest(request.clone().token(token)).await;
        assert!(answer.status < 300, "{answer:?}");
    }
    server.rest(list).await.problem(401, "unauthenticated");
    let wrong = Request::get(&backups_of("orders")).token(token);
    server.rest(wrong).await.problem(400, "invalid_request");
    let elsewhere = Request::get("/nowhere").token(token);
    server.rest(elsewhere).await.problem(404, "no_such_path");
    let mut client = Client::over_http(&server, Era::Stateless, token);
    let orders = orders();
    client.ok(LIST, orders).await;
    client.refused(LIST, json!({ "databaseId": "" })).await;
    client.refused(ADD, json!({})).await;

    for (interface, operation, outcome, count) in [
        ("rest", "list", "ok", 2),
        ("rest", "add", "ok", 1),
        ("rest", "remove", "ok", 1),
        ("rest", "list", "unauthenticated", 1),
        ("rest", "list", "invalid_request", 1),
        ("rest", "other", "no_such_path", 1),
        ("mcp", "list", "ok", 1),
        ("mcp", "list", "invalid_arguments", 1),
        ("mcp", "add", "invalid_arguments", 1),
    ] {
        let labels =
            format!(r#"{{interface="{interface}",operation="{operation}",outcome="{outcome}"}}"#);
        let line = format!("qovery_backups_request_seconds_count{labels} {count}");
        server.metrics_with(&line, token).await;
    }
    let metrics = server.rest(Request::get("/metrics").token(token)).await;
    let content_type = metrics.header("content-type").unwrap();
    assert!(content_type.starts_with("text/plain; version=0.0.4"));
    let metrics = metrics.text();
    // Two lists, one of them repeated; the list of a removal; the list over MCP, and its database's name.
    for (status, count) in [("200", 5), ("201", 1), ("204", 1), ("503", 1)] {
        let name = "qovery_backups_upstream_attempts_total";
        let line = format!("\n{name}{{status=\"{status}\"}} {count}\n");
        contains(&metrics, [&line]);
    }
    // This very call.
    contains(&metrics, ["\nqovery_backups_calls_in_flight 1\n"]);
    lacks(&metrics, [ID, &backup_id(1), "ada", "s3cret"]);
    lacks(&metrics, [Sandbox::KEY, "test", "127.0.0.1"]);
}
