//! The `check` command: a wrong key and a failing network are told apart.

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::json;

use crate::{
    app::TestApp,
    upstreams::{Reply, Upstream, backup, json_reply, page, reply},
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
        (&["check", "--sandbox"][..], 0, "OK: the sandbox answers"),
        (
            &["check", "--sandbox", "--database", Sandbox::ORDERS],
            0,
            "OK: the sandbox answers, and can list 20 backup(s)",
        ),
        (
            &["check", "--sandbox", "--database", UNKNOWN],
            1,
            "FAILED: Qovery knows no such database",
        ),
    ] {
        let end = app.run(arguments).await;
        assert_eq!(end.status.code(), Some(code), "{}", end.stderr);
        let verdict = end.stdout.lines().last().unwrap();
        assert!(verdict.starts_with(words), "{verdict}");
        assert!(!verdict.contains("accepts"), "{verdict}");
        assert!(!end.stdout.contains("Scheme"), "{}", end.stdout);
    }
}

const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn each_failure_wants_its_own_remedy() {
    let says = |status: &'static str| Upstream::always(reply(status, "Retry-After: 60\r\n", ""));
    let organizations = &["check"][..];
    let database = &["check", "--database", UNKNOWN][..];
    let policy = "check --database <id>";
    for (status, arguments, key, words, not) in [
        (
            "429 Too Many Requests",
            organizations,
            TOKEN,
            "Try again in 60 seconds",
            policy,
        ),
        ("404 Not Found", database, TOKEN, "(404)", policy),
        ("403 Forbidden", database, TOKEN, "(403)", policy),
        ("401 Unauthorized", organizations, TOKEN, "(401)", policy),
        ("401 Unauthorized", organizations, POLICY, policy, "<ID>"),
        ("401 Unauthorized", database, POLICY, "policy", policy),
    ] {
        let upstream = says(status).await;
        let url = upstream.url();
        let app = TestApp::new(&[("QOVERY_API_URL", &url), ("QOVERY_API_KEY", key)]);
        let end = app.run(arguments).await;
        assert_eq!(end.status.code(), Some(1), "{}", end.stdout);
        let verdict = end.stdout.lines().last().unwrap();
        assert!(
            verdict.contains(words) && !verdict.contains(not),
            "{verdict}"
        );
    }
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
    for words in [
        "sk-qov-01-…cdef",
        "Token, a policy token",
        "OK: Qovery accepts the key; it can list 1 backup(s)",
    ] {
        assert!(end.stdout.contains(words), "{}", end.stdout);
    }
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
async fn a_wrong_key_and_a_failing_network_are_told_apart() {
    let refused = Upstream::always(reply("401 Unauthorized", "", "")).await;
    let forbidden = Upstream::always(reply("403 Forbidden", "", "")).await;
    let broken = Upstream::always(Reply::Reset).await;
    for (upstream, words) in [
        (refused.url(), "(401)"),
        (forbidden.url(), "(403)"),
        (broken.url(), "The connection to Qovery broke"),
        ("http://127.0.0.1:1".to_owned(), "Connection refused"),
    ] {
        let end = TestApp::with_upstream(&upstream).run(&["check"]).await;
        assert_eq!(end.status.code(), Some(1), "{}", end.stdout);
        let verdict = end.stdout.lines().last().unwrap();
        assert!(
            verdict.starts_with("FAILED: ") && verdict.contains(words),
            "{verdict}"
        );
    }
    assert!(refused.requests()[0].starts_with("GET /organization HTTP/1.1"));
}

#[tokio::test]
async fn a_jwt_says_when_it_expires() {
    // {"exp":1800000000} and {"exp":1000000000}
    for (claims, words) in [
        (
            "eyJleHAiOjE4MDAwMDAwMDB9",
            "expires at 2027-01-15T08:00:00+00:00",
        ),
        (
            "eyJleHAiOjEwMDAwMDAwMDB9",
            "expired at 2001-09-09T01:46:40+00:00",
        ),
    ] {
        let upstream = Upstream::always(reply("401 Unauthorized", "", "")).await;
        let key = format!("eyJhbGciOiJIUzI1NiJ9.{claims}.c2lnbmF0dXJl");
        let app = TestApp::new(&[
            ("QOVERY_API_URL", &upstream.url()),
            ("QOVERY_API_KEY", &key),
        ]);
        let end = app.run(&["check"]).await;
        assert!(
            end.stdout.contains("Bearer") && end.stdout.contains(words),
            "{}",
            end.stdout
        );
    }
}
