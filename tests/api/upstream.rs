//! An upstream that fails in every way: each failure has its own text, and nothing is done twice.

use std::collections::HashSet;

use futures_util::future::{join, join_all};
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    app::TestApp,
    clients::{ADD, Era, LIST, REMOVE, order, orders},
    connection::{Request, backups_of},
    expect::{contains, lacks},
    upstreams::{
        JSON, Reply, Upstream, backup, backups, closed_port, json_reply, page, removes, reply,
    },
};

fn arguments(tool: &str) -> Value {
    match tool {
        LIST => orders(),
        ADD => json!({ "databaseId": Sandbox::ORDERS, "name": "n", "message": "m" }),
        _ => order(1),
    }
}

async fn refused(url: &str, tool: &str) -> String {
    let mut session = TestApp::with_upstream(url)
        .short_limits()
        .session(Era::Handshake, &[])
        .await;
    let text = session.refused(tool, arguments(tool)).await;
    // The process goes on.
    session.request("tools/list", json!({})).await;
    text
}

fn failures() -> Vec<(&'static str, Reply)> {
    let says = |status: u16, message: &str| {
        let body = json!({ "status": status, "error": "x", "message": message });
        json_reply(&format!("{status} X"), &body)
    };
    let page = json!({ "page": 1, "page_size": 20, "results": [backup(1, "READY")] }).to_string();
    let html = "Content-Type: text/html\r\n";
    let endless = b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n{".to_vec();
    vec![
        ("401", says(401, "Access token is missing or invalid")),
        ("403", says(403, "Viewer")),
        ("404", says(404, "Resource not found")),
        ("409", says(409, "Another backup is being made")),
        ("400", says(400, "name\u{202e} is taken")),
        ("400 long", says(400, &"x".repeat(10_000))),
        ("400 html", reply("400 X", "", "<html>no</html>")),
        ("402", says(402, "The trial is over")),
        (
            "451",
            json_reply("451 X", &json!({ "errors": { "name": ["is barred"] } })),
        ),
        ("429", reply("429 X", "Retry-After: 60\r\n", "")),
        ("429 long", reply("429 X", "Retry-After: 86400\r\n", "")),
        ("500", says(500, "Internal")),
        ("503", reply("503 X", "", "<html>busy</html>")),
        ("200 html", reply("200 OK", html, "<html>sign in</html>")),
        (
            "truncated json",
            reply("200 OK", JSON, &page[..page.len() - 5]),
        ),
        ("other json", reply("200 OK", JSON, "{\"hello\":1}")),
        ("empty body", reply("200 OK", JSON, "")),
        ("100 MiB body", Reply::Flood(endless)),
        (
            "302",
            reply("302 X", "Location: https://example.org/\r\n", ""),
        ),
        ("hang", Reply::Hang),
        ("reset", Reply::Reset),
    ]
}

/// The words of every failure are one reviewed text, and tell it from all others.
#[tokio::test]
async fn every_failure_has_its_own_text() {
    let cases = failures().into_iter().flat_map(|(name, reply)| {
        [LIST, ADD, REMOVE].map(|tool| {
            let reply = reply.clone();
            async move {
                let upstream = Upstream::failing(tool == REMOVE, reply).await;
                (name, tool, refused(&upstream.url(), tool).await)
            }
        })
    });
    let (_port, closed) = closed_port();
    // No part of a name is longer than 63 characters (RFC 1035, section 2.3.4): no resolver is asked.
    let no_name = "x".repeat(64);
    let nowhere = [
        ("refused", closed),
        ("no such name", format!("https://{no_name}.invalid")),
    ];
    let unreachable = nowhere.iter().flat_map(|(name, url)| {
        [LIST, ADD, REMOVE].map(|tool| async move { (*name, tool, refused(url, tool).await) })
    });
    let (mut texts, others) = join(join_all(cases), join_all(unreachable)).await;
    texts.extend(others);
    let written = texts
        .iter()
        .map(|(name, tool, text)| format!("{name} | {tool}\n  {text}"));
    insta::assert_snapshot!("failures", written.collect::<Vec<_>>().join("\n"));

    for tool in [LIST, ADD, REMOVE] {
        // Bodies that cannot be read are one failure.
        let same = |name: &str| ["truncated json", "other json", "empty body"].contains(&name);
        let mine = texts
            .iter()
            .filter(|(name, called, _)| *called == tool && !same(name));
        let mut seen = HashSet::new();
        for (name, _, text) in mine {
            assert!(seen.insert(text), "{name}, {tool}: {text}");
        }
    }
}

#[tokio::test]
async fn a_401_is_worded_for_the_kind_of_key() {
    let upstream = Upstream::always(reply("401 X", "", "")).await;
    let policy = "the key's policy does not allow it, or the key is not accepted";
    let jwt = "eyJhbGciOiJIUzI1NiJ9.e30.c2ln";
    for (key, status, kind, words) in [
        (Sandbox::KEY, 502, "key_rejected", "refused the API key"),
        ("sk-qov-01-0123456789abcdef", 403, "forbidden", policy),
        (jwt, 502, "key_rejected", "may have expired"),
    ] {
        let app = TestApp::new(&[("QOVERY_API_URL", &upstream.url()), ("QOVERY_API_KEY", key)]);
        let list = Request::get(&backups_of(Sandbox::ORDERS));
        let answer = app.serve(&[]).await.rest(list).await;
        let detail = answer.problem(status, kind)["detail"].to_string();
        contains(&detail, [words, "Ask the operator"]);
    }
}

#[tokio::test]
async fn qoverys_words_are_cleaned_then_redacted_then_cut() {
    let key = Sandbox::KEY;
    let (head, tail) = key.split_at(8);
    let before = "x".repeat(190);
    let after = "y".repeat(1000);
    let said = format!("{before} {head}\u{200b}{tail}\n{head}\u{202e}{tail} {after}");
    let upstream = Upstream::always(json_reply("400 X", &json!({ "detail": said }))).await;
    let app = upstream.app();
    let mut session = app.session(Era::Handshake, &["--log", "debug"]).await;
    let text = session.refused(LIST, arguments(LIST)).await;
    contains(&text, [&format!("{before} [key]")]);
    assert!(text.contains('…'), "cut, not dropped: {text}");
    lacks(&text, [head]);
    let log = session.finish().await.stderr;
    contains(&log, ["[key]"]);
    lacks(&log, [head]);
    // Each line begins with its time.
    assert!(log.lines().all(|line| line.starts_with("20")), "{log}");
}

#[tokio::test]
async fn reading_is_repeated_twice_and_adding_never() {
    let cases = [(LIST, "GET", 3), (ADD, "POST", 1), (REMOVE, "DELETE", 3)];
    let cases = cases.map(async |(tool, method, attempts)| {
        let busy = reply("503 X", "", "");
        let upstream = Upstream::failing(tool == REMOVE, busy).await;
        refused(&upstream.url(), tool).await;
        let mut sent = upstream.lines();
        sent.retain(|line| line.starts_with(method));
        assert_eq!(sent.len(), attempts, "{tool}");
    });
    join_all(cases).await;
    // A repetition may succeed.
    let upstream = Upstream::start(|number, _| match number {
        0 => Reply::Reset,
        1 => reply("500 X", "", ""),
        _ => page(&[]),
    })
    .await;
    let mut session = upstream.app().session(Era::Handshake, &[]).await;
    session.ok(LIST, arguments(LIST)).await;
}

/// 429 says that nothing was done, so that even adding may be repeated, unless Qovery wants a pause
/// that is longer than a caller waits.
#[tokio::test]
async fn adding_is_repeated_after_the_pause_that_qovery_asks_for() {
    for (pause, attempts) in [(1, 2), (11, 1)] {
        let pause = format!("Retry-After: {pause}\r\n");
        let upstream = Upstream::start(move |number, _| match number {
            0 => reply("429 X", &pause, ""),
            _ => json_reply("201 Created", &backup(1, "QUEUED")),
        })
        .await;
        let mut session = upstream.app().session(Era::Handshake, &[]).await;
        let result = session.call(ADD, arguments(ADD)).await;
        assert_eq!(result["isError"], attempts == 1, "{result}");
        assert_eq!(upstream.changes().len(), attempts);
    }
}

/// The answers to the attempts of a removal, and what it says then.
#[tokio::test]
async fn a_removal_says_what_became_of_it() {
    let (unknown, not_done) = (
        "Whether anything was changed is not known",
        "Nothing was changed",
    );
    for (replies, text, is_looked_up) in [
        // It is still in the list, but a gateway may have lost sight of it.
        (&["503 X", "404 X"][..], unknown, true),
        (&["404 X"], not_done, false),
        (&["500 X", "403 X"], not_done, true),
        (&["200 OK"], unknown, true),
    ] {
        let upstream = Upstream::start(move |number, line| {
            if line.starts_with("GET ") {
                page(&backups(2))
            } else {
                reply(replies[number - 1], "", "")
            }
        })
        .await;
        let mut session = upstream.app().session(Era::Handshake, &[]).await;
        let refused = session.refused(REMOVE, arguments(REMOVE)).await;
        contains(&refused, [text]);
        let last = upstream.lines().pop().unwrap();
        assert_eq!(last.starts_with("GET "), is_looked_up, "{last}");
        assert_eq!(upstream.changes().len(), replies.len());
    }
}

#[tokio::test]
async fn requests_are_what_the_api_takes() {
    let id = Sandbox::ORDERS;
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE4MDAwMDAwMDB9.c2lnbmF0dXJl";
    let bearer = "Bearer qov_0123456789abcdef";
    for (key, authorization) in [
        (Sandbox::KEY, format!("Token {}", Sandbox::KEY)),
        (jwt, format!("Bearer {jwt}")),
        (bearer, bearer.to_owned()),
    ] {
        let upstream = Upstream::start(|_, line| match line {
            line if line.starts_with("POST") => json_reply("201 Created", &backup(1, "QUEUED")),
            line if line.starts_with("DELETE") => reply("204 No Content", "", ""),
            _ => page(&backups(2)),
        })
        .await;
        let url = format!("{}/", upstream.url());
        let app = TestApp::new(&[("QOVERY_API_URL", &url), ("QOVERY_API_KEY", key)]);
        let mut session = app.session(Era::Handshake, &[]).await;
        let list = json!({ "databaseId": id.to_uppercase() });
        session.ok(LIST, list).await;
        session.ok(ADD, arguments(ADD)).await;
        session.ok(REMOVE, arguments(REMOVE)).await;
        let lines = [
            &format!("GET /database/{id}/backup HTTP/1.1"),
            &format!("GET /database/{id} HTTP/1.1"),
            &format!("POST /database/{id}/backup HTTP/1.1"),
            &format!("GET /database/{id}/backup HTTP/1.1"),
            &removes(1),
        ];
        assert_eq!(upstream.lines(), lines.map(String::as_str));
        let requests = upstream.requests();
        let authorization = format!("authorization: {authorization}\r\n");
        for request in &requests {
            contains(request, [&authorization, "user-agent: qovery-backups-mcp/"]);
        }
        let (_, body) = requests[2].split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body, json!({ "name": "n", "message": "m" }));
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Upstream::always(page(&[])).await;
    let location = format!("Location: {}/\r\n", elsewhere.url());
    for status in ["301 X", "302 X", "307 X", "308 X"] {
        let upstream = Upstream::always(reply(status, &location, "")).await;
        refused(&upstream.url(), LIST).await;
        assert_eq!(upstream.requests().len(), 1);
    }
    assert_eq!(elsewhere.requests().len(), 0);
}
