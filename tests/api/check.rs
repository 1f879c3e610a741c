//! The `check` command: a wrong key and a failing network are told apart.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::json;

use crate::{
    app::TestApp,
    expect::{contains, lacks},
    upstreams::{Reply, Upstream, backup, closed_port, json_reply, page, reply},
};

#[tokio::test]
async fn a_key_that_is_accepted() {
    let upstream = Upstream::always(json_reply("200 OK", &json!({ "results": [] }))).await;
    let end = upstream.app().run(&["check"]).await;
    assert_eq!(end.status.code(), Some(0), "{}{}", end.stdout, end.stderr);
    let lines: Vec<&str> = end.stdout.lines().collect();
    let line = |words: &[&str]| {
        let fits = |line: &&str| line.split_whitespace().collect::<Vec<_>>() == words;
        assert!(lines.iter().any(fits), "{words:?} in {lines:#?}");
    };
    line(&["QOVERY_API_KEY", "qov_…0000", "(environment)"]);
    line(&["QOVERY_API_URL", &upstream.url(), "(environment)"]);
    line(&["QOVERY_BACKUPS_KEEP_LATEST", "1", "(default)"]);
    assert!(lines.last().unwrap().starts_with("OK: "), "{lines:#?}");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn the_sandbox_is_not_called_qovery() {
    let app = TestApp::new(&[]);
    for (arguments, code, words) in [
        (&[][..], 0, "OK: the sandbox answers"),
        (
            &["--database", Sandbox::ORDERS],
            0,
            "OK: the sandbox answers, and can list 20",
        ),
        (
            &["--database", UNKNOWN],
            1,
            "FAILED: Qovery knows no such database",
        ),
    ] {
        let end = app
            .run(&[&["check", "--sandbox"], arguments].concat())
            .await;
        assert_eq!(end.status.code(), Some(code), "{}", end.stderr);
        let verdict = end.stdout.lines().last().unwrap();
        assert!(verdict.starts_with(words), "{verdict}");
        lacks(&end.stdout, ["accepts", "Scheme"]);
    }
}

const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn each_failure_wants_its_own_remedy() {
    let says = |status| reply(status, "Retry-After: 60\r\n", "");
    let organizations = &["check"][..];
    let database = &["check", "--database", UNKNOWN][..];
    let policy = "check --database <id>";
    for (reply, arguments, key, words, not) in [
        (
            says("429 X"),
            organizations,
            TOKEN,
            "Try again in 60 seconds",
            policy,
        ),
        (says("404 X"), database, TOKEN, "(404)", policy),
        (says("403 X"), database, TOKEN, "(403)", policy),
        (says("403 X"), organizations, TOKEN, "(403)", policy),
        (says("401 X"), organizations, TOKEN, "(401)", policy),
        (says("401 X"), organizations, POLICY, policy, "<ID>"),
        (says("401 X"), database, POLICY, "policy", policy),
        (
            Reply::Reset,
            organizations,
            TOKEN,
            "The connection to Qovery broke",
            policy,
        ),
    ] {
        let upstream = Upstream::always(reply).await;
        failed(&upstream.url(), key, arguments, words, not).await;
        let path = if arguments == database {
            "GET /database/"
        } else {
            "GET /organization HTTP"
        };
        assert!(upstream.lines()[0].starts_with(path));
    }
    let (_port, nowhere) = closed_port();
    failed(&nowhere, TOKEN, organizations, "Connection refused", policy).await;
}

async fn failed(url: &str, key: &str, arguments: &[&str], words: &str, not: &str) {
    let app = TestApp::new(&[("QOVERY_API_URL", url), ("QOVERY_API_KEY", key)]);
    let end = app.run(arguments).await;
    assert_eq!(end.status.code(), Some(1), "{}", end.stdout);
    let verdict = end.stdout.lines().last().unwrap();
    contains(verdict, ["FAILED: ", words]);
    lacks(verdict, [not]);
}

const TOKEN: &str = "qov_0123456789abcdef";
const POLICY: &str = "sk-qov-01-0123456789abcdef";

#[tokio::test]
async fn a_policy_token_is_tried_where_its_policy_allows_it() {
    let upstream = Upstream::start(|_, line| {
        if line.starts_with("GET /database/") {
            page(&[backup(1, "READY")])
        } else {
            reply("401 Unauthorized", "", "")
        }
    })
    .await;
    let url = upstream.url();
    let app = TestApp::new(&[("QOVERY_API_URL", &url), ("QOVERY_API_KEY", POLICY)]);
    let end = app.run(&["check", "--database", Sandbox::ORDERS]).await;
    assert_eq!(end.status.code(), Some(0), "{}", end.stdout);
    let accepted = "OK: Qovery accepts the key; it can list 1 backup(s)";
    contains(
        &end.stdout,
        ["sk-qov-01-…cdef", "Token, a policy token", accepted],
    );
    let requests = upstream.requests();
    assert_eq!(requests.len(), 1);
    let line = format!("GET /database/{}/backup HTTP/1.1", Sandbox::ORDERS);
    assert!(requests[0].starts_with(&line), "{requests:?}");
    assert!(requests[0].contains(&format!("authorization: Token {POLICY}\r\n")));
    // It is an option of this command alone.
    for arguments in [&["--database", UNKNOWN][..], &["check", "--database", "x"]] {
        assert_eq!(app.run(arguments).await.status.code(), Some(2));
    }
}

#[tokio::test]
async fn a_jwt_says_when_it_expires() {
    let soon = (Utc::now() + TimeDelta::minutes(50)).timestamp();
    let named = |date: i64| DateTime::from_timestamp(date, 0).unwrap();
    for (exp, verb, is_near) in [
        (i64::from(u32::MAX), "expires", false),
        (soon, "expires", true),
        (1_000_000_000, "expired", true),
    ] {
        let words = named(exp).format("at %H:%M UTC on %Y-%m-%d");
        let words = format!("it {verb} {words}");
        let upstream = Upstream::always(reply("401 Unauthorized", "", "")).await;
        let claims = URL_SAFE_NO_PAD.encode(json!({ "exp": exp }).to_string());
        let key = format!("eyJhbGciOiJIUzI1NiJ9.{claims}.c2lnbmF0dXJl");
        let app = TestApp::new(&[
            ("QOVERY_API_URL", &upstream.url()),
            ("QOVERY_API_KEY", &key),
        ]);
        let end = app.run(&["check"]).await;
        let scheme = format!("Bearer, a JWT: {words}");
        let failure = format!("(401): it is a JWT, and {words}. Nothing was changed.");
        contains(&end.stdout, [&*scheme, &failure]);
        let warning = format!("QOVERY_API_KEY (environment) is a JWT: {words}");
        assert_eq!(end.stderr.contains(&warning), is_near, "{}", end.stderr);
    }
}
