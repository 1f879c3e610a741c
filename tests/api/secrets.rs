//! The key appears nowhere: not in an answer, a log, an error, or the command line.

use base64::{Engine, engine::general_purpose::STANDARD};
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::json;

use crate::helpers::{Era, Reply, TestApp, Upstream, backup, json_reply, page, reply};

const KEY: &str = "qov_5ecre7-5ecre7-5ecre7-5ecre7";

/// The key, plain and in base64 at each of the three alignments that it can have in a longer text.
fn forms() -> Vec<String> {
    let encoded = (0..3).map(|offset| {
        let text = STANDARD.encode(format!("{}{KEY}", "x".repeat(offset)));
        // The first and the last characters depend on the neighbours.
        text[4..text.len() - 4].to_owned()
    });
    encoded.chain([KEY.to_owned()]).collect()
}

fn assert_hidden(what: &str, text: &str) {
    for form in forms() {
        assert!(!text.contains(&form), "{what} shows the key: {text}");
    }
}

#[test]
fn the_search_finds_what_it_looks_for() {
    for prefix in ["", "a", "ab", "Token "] {
        let encoded = STANDARD.encode(format!("{prefix}{KEY}yz"));
        assert!(
            forms().iter().any(|form| encoded.contains(form)),
            "{prefix}"
        );
    }
}

#[tokio::test]
async fn no_answer_and_no_log_shows_the_key() {
    // One that echoes what it was sent.
    let echo = json!({ "status": 400, "error": "x", "message": format!("no: Token {KEY}") });
    let upstreams = [
        Upstream::always(page(&[backup(1, "READY"), backup(2, "READY")])).await,
        Upstream::always(json_reply("400 Bad Request", &echo)).await,
        Upstream::always(json_reply("401 Unauthorized", &echo)).await,
        Upstream::always(reply("302 Found", "Location: /elsewhere\r\n", "")).await,
        Upstream::always(Reply::Reset).await,
    ];
    for upstream in upstreams {
        for format in ["text", "json"] {
            let url = upstream.url();
            let app = TestApp::new(&[("QOVERY_API_URL", &url), ("QOVERY_API_KEY", KEY)]);
            let options = ["--log", "trace", "--log-format", format];
            let mut session = app.session(Era::Handshake, &options).await;
            let id = Sandbox::ORDERS;
            for (tool, arguments) in [
                ("list-database-backups", json!({ "databaseId": id })),
                (
                    "add-backup-database",
                    json!({ "databaseId": id, "name": "n", "message": "m" }),
                ),
                (
                    "remove-database-backup",
                    json!({ "databaseId": id, "backupId": id }),
                ),
                ("list-database-backups", json!({ "databaseId": "x" })),
            ] {
                assert_hidden(
                    "an answer",
                    &session.call(tool, arguments).await.to_string(),
                );
            }
            #[cfg(target_os = "linux")]
            {
                let path = format!("/proc/{}/cmdline", session.child.id().unwrap());
                assert_hidden("the command line", &std::fs::read_to_string(path).unwrap());
            }
            let end = session.finish().await;
            assert!(
                end.stderr.contains("TRACE"),
                "the log is at its most talkative"
            );
            assert_hidden("the log", &end.stderr);
            assert_hidden("standard output", &end.stdout);

            let end = app.run(&[&["check"], &options[..]].concat()).await;
            assert_hidden("check", &format!("{}{}", end.stdout, end.stderr));
        }
    }
}

#[tokio::test]
async fn no_refusal_to_start_shows_the_key() {
    let app = TestApp::new(&[]);
    app.file(
        ".env",
        &format!("QOVERY_API_KEY={KEY}\nQOVERY_API_KEY \"{KEY}\n"),
    );
    let broken_file = app.run(&[]).await;
    assert_eq!(broken_file.status.code(), Some(2));
    assert_hidden("a broken file's error", &broken_file.stderr);
    for key in [format!("{KEY}\nx"), format!("{KEY} x"), format!("{KEY}é")] {
        let end = TestApp::new(&[("QOVERY_API_KEY", &key)]).run(&[]).await;
        assert_eq!(end.status.code(), Some(2));
        assert_hidden("a broken key's error", &end.stderr);
    }
    let url = format!("https://me:{KEY}@api.qovery.com");
    let end = TestApp::new(&[("QOVERY_API_KEY", KEY), ("QOVERY_API_URL", &url)])
        .run(&[])
        .await;
    assert_eq!(end.status.code(), Some(2));
    assert_hidden("a URL's error", &end.stderr);
}
