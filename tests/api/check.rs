//! The `check` command: a wrong key and a failing network are told apart.

use qovery_backups_mcp::sandbox::Sandbox;

use crate::helpers::{Reply, TestApp, Upstream, reply};

#[tokio::test]
async fn a_key_that_is_accepted() {
    let sandbox = Sandbox::start().await.unwrap();
    let end = TestApp::with_upstream(&sandbox.base_url())
        .run(&["check"])
        .await;
    assert_eq!(end.status.code(), Some(0), "{}{}", end.stdout, end.stderr);
    let lines: Vec<&str> = end.stdout.lines().collect();
    let line = |words: &[&str]| {
        let fits = |line: &&str| line.split_whitespace().collect::<Vec<_>>() == words;
        assert!(lines.iter().any(fits), "{words:?} in {lines:#?}");
    };
    line(&["QOVERY_API_KEY", "qov_…0000", "(environment)"]);
    line(&["QOVERY_API_URL", &sandbox.base_url(), "(environment)"]);
    line(&["QOVERY_BACKUPS_KEEP_LATEST", "1", "(default)"]);
    assert!(lines.last().unwrap().starts_with("OK: "), "{lines:#?}");
    assert_eq!(sandbox.requests(), 1);
    assert!(
        TestApp::new(&[])
            .run(&["check", "--sandbox"])
            .await
            .status
            .success()
    );
}

#[tokio::test]
async fn a_wrong_key_and_a_failing_network_are_told_apart() {
    let refused = Upstream::always(reply("401 Unauthorized", "", "")).await;
    let forbidden = Upstream::always(reply("403 Forbidden", "", "")).await;
    let broken = Upstream::always(Reply::Reset).await;
    for (upstream, words) in [
        (refused.url(), "refused the key (401)"),
        (forbidden.url(), "knows the key"),
        (broken.url(), "The connection to Qovery broke"),
        (
            "http://127.0.0.1:1".to_owned(),
            "the connection was refused",
        ),
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
