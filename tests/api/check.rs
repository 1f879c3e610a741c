//! The `check` command: a wrong key and a failing network are told apart.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::json;

use crate::{
    app::TestApp,
    expect::{contains, lacks},
    upstreams::{
        Reply, Upstream, backup, backup_id, backups, closed_port, json_reply, page, reply,
    },
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
            "OK: the sandbox answers, and can list 27 backup(s) of",
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

#[tokio::test]
async fn all_pages_are_counted_up_to_a_limit() {
    // Each page is full, but for the fourth where there is one.
    for (last, words) in [
        (Some(3), "list 63 backup(s) of"),
        (None, "list at least 2000 backup(s) of"),
    ] {
        let upstream = Upstream::start(move |number, _| {
            let first = u32::try_from(number).unwrap() * 20;
            let length = if Some(number) == last { 3 } else { 20 };
            let backups = (first..first + length).map(|number| backup(number, "READY"));
            page(&backups.collect::<Vec<_>>())
        })
        .await;
        let app = upstream.app();
        let end = app.run(&["check", "--database", Sandbox::ORDERS]).await;
        assert_eq!(end.status.code(), Some(0), "{}", end.stdout);
        contains(&end.stdout, [words]);
        let lines = upstream.lines();
        assert_eq!(lines.len(), last.map_or(100, |last| last + 1));
        contains(&lines[2], [&format!("startId={}", backup_id(39))]);
    }
    // A page that fails is a failure.
    let upstream = Upstream::start(|number, _| match number {
        0 => page(&backups(20)),
        _ => reply("403 X", "", ""),
    })
    .await;
    let arguments = ["check", "--database", Sandbox::ORDERS];
    failed(&upstream.url(), TOKEN, &arguments, "(403)", "OK").await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_note() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let app = TestApp::new(&[]);
    let note = format!("Note: http cannot listen on {taken}: ");
    for (mcp, rest, no_rest, is_noted) in [
        (&*taken, "127.0.0.1:0", "false", true),
        ("127.0.0.1:0", &taken, "false", true),
        ("127.0.0.1:0", &taken, "true", false),
        ("127.0.0.1:0", "127.0.0.1:0", "false", false),
    ] {
        let no_rest = format!("--no-rest={no_rest}");
        let ports = ["--mcp-addr", mcp, "--rest-addr", rest, &no_rest];
        let end = app
            .run(&[&["check", "--sandbox"], &ports[..]].concat())
            .await;
        // The other command does not need it.
        assert_eq!(end.status.code(), Some(0), "{}", end.stderr);
        assert_eq!(end.stdout.contains(&note), is_noted, "{}", end.stdout);
        assert_eq!(end.stdout.contains("Note: "), is_noted, "{}", end.stdout);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_key_file_that_others_can_read_is_a_note() {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    let upstream = Upstream::always(json_reply("200 OK", &json!({ "results": [] }))).await;
    let url = upstream.url();
    let app = TestApp::new(&[("QOVERY_API_URL", &url), ("QOVERY_API_KEY_FILE", "key")]);
    app.file("key", TOKEN);
    for (mode, is_noted) in [(0o600, false), (0o400, false), (0o644, true), (0o640, true)] {
        let path = app.directory.path().join("key");
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let end = app.run(&["check"]).await;
        assert_eq!(end.status.code(), Some(0), "{}", end.stderr);
        let note = "Note: key is open to others: chmod 600 it.";
        assert_eq!(
            end.stdout.contains(note),
            is_noted,
            "{mode:o}: {}",
            end.stdout
        );
    }
}

#[tokio::test]
async fn what_is_no_key_and_a_key_with_the_wrong_scheme_are_called_so() {
    const MISMATCH: &str = "Bearer, but it is an API token: remove `Bearer ` before it";
    let no_jwt = "(401): it is no JWT, so `Bearer ` is wrong. Nothing was changed.";
    let plain = "Qovery refused the API key (401). Nothing was changed.";
    let upstream = Upstream::always(reply("401 Unauthorized", "", "")).await;
    let unknown = "unknown: it looks like no key. API tokens begin with qov_, policy tokens with sk-qov-01-, \
                   JWTs with eyJ";
    for (key, scheme, failure) in [
        ("KEY", unknown, plain),
        ("0123456789abcdefghij", unknown, plain),
        ("qov_", unknown, plain),
        (TOKEN, "Token, an API token: it does not expire", plain),
        (&format!("Bearer {TOKEN}"), MISMATCH, no_jwt),
        (&format!("Bearer {POLICY}"), MISMATCH, no_jwt),
    ] {
        let url = upstream.url();
        let app = TestApp::new(&[("QOVERY_API_URL", &url), ("QOVERY_API_KEY", key)]);
        let end = app.run(&["check"]).await;
        assert_eq!(end.status.code(), Some(1), "{key}: {}", end.stdout);
        let line = format!("{:<32} {scheme}\n", "Scheme");
        contains(&end.stdout, [&line, failure]);
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
