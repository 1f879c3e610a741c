//! Keys and tokens appear nowhere: not in an answer, a log, an error, or the command line.

use base64::{Engine, engine::general_purpose::STANDARD};
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::json;
use tokio::time::timeout;

use crate::{
    app::{TEST_TIMEOUT, TestApp, sandbox_session, serve_sandbox},
    clients::{ADD, Caller, Client, ERAS, Era, INTERFACES, Interface, LIST, REMOVE, orders},
    connection::{Request, backups_of},
    expect::{contains, lacks},
    upstreams::{Reply, Upstream, backup, backup_id, json_reply, page, reply},
};

const KEY: &str = "qov_5ecre7-5ecre7-5ecre7-5ecre7";
/// What a caller of the HTTP ports sends.
const TOKEN: &str = "7oken-of-ada-7oken-of-ada";

/// Each secret, plain and in base64 at each of the three alignments that it can have in a longer
/// text.
fn forms() -> Vec<String> {
    let encoded = |secret: &str| {
        let forms = (0..3).map(|offset| {
            let text = STANDARD.encode(format!("{}{secret}", "x".repeat(offset)));
            // The first and the last characters depend on the neighbours.
            text[4..text.len() - 4].to_owned()
        });
        forms.chain([secret.to_owned()]).collect::<Vec<_>>()
    };
    [KEY, TOKEN].into_iter().flat_map(encoded).collect()
}

fn assert_hidden(what: &str, text: &str) {
    for form in forms() {
        assert!(!text.contains(&form), "{what} shows a secret: {text}");
    }
}

#[test]
fn the_search_finds_what_it_looks_for() {
    for prefix in ["", "a", "ab", "Token "] {
        for secret in [KEY, TOKEN] {
            let encoded = STANDARD.encode(format!("{prefix}{secret}yz"));
            let found = forms().iter().any(|form| encoded.contains(form));
            assert!(found, "{prefix}");
        }
    }
}

/// The level of the most talkative lines: a release is built without those at `trace`.
const MOST: &str = if cfg!(debug_assertions) {
    "TRACE"
} else {
    "DEBUG"
};

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
                (LIST, orders()),
                (
                    ADD,
                    json!({ "databaseId": id, "name": "n", "message": "m" }),
                ),
                (REMOVE, json!({ "databaseId": id, "backupId": id })),
                (LIST, json!({ "databaseId": "x" })),
            ] {
                let result = session.call(tool, arguments).await;
                assert_hidden("an answer", &result.to_string());
            }
            #[cfg(target_os = "linux")]
            {
                let path = format!("/proc/{}/cmdline", session.child().id().unwrap());
                assert_hidden("the command line", &std::fs::read_to_string(path).unwrap());
            }
            let end = session.finish().await;
            assert!(end.stderr.contains(MOST), "the log is complete");
            assert_hidden("the log", &end.stderr);
            assert_hidden("standard output", &end.stdout);

            let end = app.run(&[&["check"], &options[..]].concat()).await;
            assert_hidden("check", &format!("{}{}", end.stdout, end.stderr));
        }
    }
}

/// Of calls that bring a key of their own, in either header, and an access token in the other ones.
#[cfg(unix)]
#[tokio::test]
async fn no_answer_and_no_log_shows_a_callers_key_or_token() {
    let echo = json!({ "status": 400, "error": "x", "message": format!("no: Token {KEY}") });
    let id = Sandbox::ORDERS;
    let new = json!({ "name": "n", "message": "m" });
    let requests = [
        Request::get(&backups_of(id)),
        Request::post(&backups_of(id), &new),
        Request::delete(&format!("{}/{}", backups_of(id), backup_id(1))),
        Request::get("/metrics"),
        Request::get("/"),
    ];
    let with_secrets = |request: &Request| {
        let request = request.clone().token(Some(TOKEN));
        [
            request.clone().key(Some(KEY)),
            request.clone().header("X-API-Key", KEY),
            request.clone().key(Some(&format!("{KEY} {KEY}"))),
            request.key(Some(&format!("{KEY}\u{e9}"))),
        ]
    };
    for (failure, level) in [
        (page(&[backup(1, "READY"), backup(2, "READY")]), "debug"),
        (json_reply("400 Bad Request", &echo), "debug"),
        (json_reply("401 Unauthorized", &echo), "debug"),
        (Reply::Reset, "debug"),
        (json_reply("403 Forbidden", &echo), "trace"),
    ] {
        let upstream = Upstream::always(failure).await;
        let app = TestApp::new(&[("QOVERY_BACKUPS_ACCESS_TOKEN", &format!("ada:{TOKEN}"))]);
        let app = app.with("QOVERY_API_URL", upstream.url());
        let options = ["--caller-keys", "--audit-log", "audit", "--log", level];
        let server = app.serve(&options).await;
        for request in requests.iter().flat_map(with_secrets) {
            let swapped = request.clone().token(None).header("X-API-Key", TOKEN);
            let swapped = swapped.header("Authorization", &format!("Basic {TOKEN}"));
            for request in [request, swapped] {
                let answer = server.rest(request).await;
                assert_hidden("an answer", &format!("{:?}", answer.headers));
                assert_hidden("an answer", &answer.text());
            }
        }
        for era in ERAS {
            let mut client = Client::over_http(&server, era, Some(TOKEN));
            client.key = Some(KEY.to_owned());
            assert_hidden("a greeting", &client.open().await.to_string());
            for (tool, arguments) in [
                (LIST, orders()),
                (LIST, json!({})),
                (LIST, json!({ "databaseId": "orders" })),
                (ADD, json!({ "databaseId": id, "name": "n" })),
                (
                    REMOVE,
                    json!({ "databaseId": id, "backupId": backup_id(1) }),
                ),
            ] {
                let answer = client.tool(tool, &arguments).send(server.mcp).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_hidden("a result", &answer.text());
            }
        }
        let end = server.finish().await;
        assert!(end.stderr.contains("DEBUG"), "{}", end.stderr);
        assert_hidden("the log", &end.stderr);
        assert_hidden("standard output", &end.stdout);
        let audit = std::fs::read_to_string(app.directory.path().join("audit")).unwrap();
        contains(&audit, ["\"caller\":\"ada\""]);
        assert_hidden("the audit log", &audit);
        for request in upstream.requests() {
            assert!(!request.contains(TOKEN), "{request}");
            assert!(request.contains(&format!("authorization: Token {KEY}\r\n")));
            assert_eq!(request.matches(KEY).count(), 1, "{request}");
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn no_answer_over_http_and_no_log_of_it_shows_the_key_or_a_token() {
    let echo = json!({ "status": 400, "error": "x", "message": format!("no: Token {KEY}") });
    let id = Sandbox::ORDERS;
    let new = json!({ "name": "n", "message": "m" });
    let removal = format!("{}/{}", backups_of(id), backup_id(1));
    let requests = [
        Request::get(&backups_of(id)),
        Request::get(&backups_of("x")),
        Request::post(&backups_of(id), &new),
        Request::delete(&removal),
        Request::get("/openapi.json"),
        Request::get("/metrics"),
        Request::get("/"),
    ];
    for failure in [
        page(&[backup(1, "READY"), backup(2, "READY")]),
        json_reply("400 Bad Request", &echo),
        json_reply("401 Unauthorized", &echo),
        Reply::Reset,
    ] {
        let upstream = Upstream::always(failure).await;
        let url = upstream.url();
        let app = TestApp::new(&[
            ("QOVERY_API_URL", &url),
            ("QOVERY_API_KEY", KEY),
            ("QOVERY_BACKUPS_ACCESS_TOKEN", &format!("ada:{TOKEN}")),
        ]);
        let server = app.serve(&["--log", "trace"]).await;
        for request in &requests {
            for request in [request.clone(), request.clone().token(Some(TOKEN))] {
                let answer = server.rest(request).await;
                assert_hidden("an answer", &format!("{:?}", answer.headers));
                assert_hidden("an answer", &answer.text());
            }
        }
        for era in ERAS {
            let mut client = Client::over_http(&server, era, Some(TOKEN));
            assert_hidden("a greeting", &client.open().await.to_string());
            for arguments in [orders(), json!({ "databaseId": "x" })] {
                let answer = client.tool(LIST, &arguments).send(server.mcp).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_hidden("a result", &answer.text());
            }
        }
        let end = server.finish().await;
        assert!(end.status.success());
        assert!(end.stderr.contains(MOST));
        assert_hidden("the log", &end.stderr);
        assert_hidden("standard output", &end.stdout);
        for request in upstream.requests() {
            assert!(!request.contains(TOKEN), "{request}");
            assert!(request.contains(&format!("authorization: Token {KEY}\r\n")));
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
    assert_hidden("a broken file's error", &app.refused(&[]).await);
    for key in [format!("{KEY}\nx"), format!("{KEY} x"), format!("{KEY}é")] {
        let app = TestApp::new(&[("QOVERY_API_KEY", &key)]);
        assert_hidden("a broken key's error", &app.refused(&[]).await);
    }
    for token in [
        format!("{TOKEN} x"),
        format!("{TOKEN}é"),
        format!("{TOKEN}:"),
    ] {
        let app = TestApp::new(&[("QOVERY_BACKUPS_ACCESS_TOKEN", &token)]);
        let text = app.refused(&["--sandbox", "http"]).await;
        assert_hidden("a broken token's error", &text);
    }
    // The key in the place of a path or an argument.
    app.file(KEY, "QOVERY_API_KEY \"");
    let argument = format!("--{KEY}");
    for arguments in [&["--env-file", KEY][..], &[&argument], &[KEY]] {
        assert_hidden("an argument's error", &app.refused(arguments).await);
    }
    // The key in a variable that wants a path.
    for variable in [
        "QOVERY_API_KEY_FILE",
        "QOVERY_BACKUPS_ACCESS_TOKEN_FILE",
        "QOVERY_BACKUPS_STATE_KEY_FILE",
        "QOVERY_BACKUPS_ENV_FILE",
    ] {
        let mut app = TestApp::new(&[(variable, KEY)]);
        if variable != "QOVERY_API_KEY_FILE" {
            app = app.with("QOVERY_API_KEY", "qov_0123456789abcdef");
        }
        let text = app.refused(&[]).await;
        assert!(text.contains(variable), "{text}");
        assert_hidden("a path's error", &text);
    }
    // A found file takes nothing out of the environment.
    let app = TestApp::new(&[("OTHER", KEY)]);
    app.file(
        ".env",
        "QOVERY_API_KEY=qov_0123456789abcdef\nQOVERY_BACKUPS_AUDIT_LOG=x/${OTHER}\n",
    );
    assert_hidden("a found file's error", &app.refused(&[]).await);
    let url = format!("https://me:{KEY}@api.qovery.com");
    let app = TestApp::new(&[("QOVERY_API_KEY", KEY), ("QOVERY_API_URL", &url)]);
    assert_hidden("a URL's error", &app.refused(&[]).await);
}

#[cfg(unix)]
#[tokio::test]
async fn a_secret_file_is_a_small_file_or_a_pipe() {
    let app = TestApp::new(&[("QOVERY_API_KEY_FILE", "key")]);
    let path = app.directory.path().join("key");
    std::fs::write(&path, KEY.repeat(4 << 10)).unwrap();
    let text = app.refused(&["check"]).await;
    assert!(text.contains("larger than 64 KiB"), "{text}");
    for (path, problem) in [(".", "directory"), ("/dev/zero", "larger than 64 KiB")] {
        let app = TestApp::new(&[("QOVERY_API_KEY_FILE", path)]);
        let text = app.refused(&["check"]).await;
        assert!(text.contains(problem), "{text}");
    }
    std::fs::remove_file(&path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let sandbox = Sandbox::start().await.unwrap();
    let url = sandbox.base_url();
    let arguments = ["check", "--api-url", &url];
    let write = tokio::task::spawn_blocking(move || std::fs::write(path, Sandbox::KEY));
    let end = app.run(&arguments).await;
    write.await.unwrap().unwrap();
    assert!(end.status.success(), "{}{}", end.stdout, end.stderr);
}

/// A key is withdrawn, and the file that held it has another one.
#[cfg(unix)]
#[tokio::test]
async fn a_key_file_is_read_again_when_its_key_is_refused() {
    let sandbox = Sandbox::start().await.unwrap();
    for interface in INTERFACES {
        let app = TestApp::new(&[("QOVERY_API_KEY_FILE", "key")])
            .with("QOVERY_API_URL", sandbox.base_url());
        app.file("key", KEY);
        let server = app.serve(&[]).await;
        let mut caller = Caller::of(&server, interface).await;
        assert!(!caller.listed(Sandbox::ORDERS).await.ok);
        for broken in ["", "qov_a b", "${KEY}"] {
            app.file("key", broken);
            let result = caller.listed(Sandbox::ORDERS).await;
            assert!(result.text.contains("(401)"), "{result:?}");
        }
        let path = app.directory.path().join("key");
        std::fs::remove_file(&path).unwrap();
        assert!(!caller.listed(Sandbox::ORDERS).await.ok);
        let kept = "QOVERY_API_KEY_FILE (environment) names a file that could not be read (No such";
        server.log.message(kept).await;
        // Nothing was changed by a refused addition: it is repeated.
        app.file("key", Sandbox::KEY);
        let result = caller.added(Sandbox::ORDERS, "a", "").await;
        assert!(result.ok, "{result:?}");
        let end = server.finish().await;
        assert_hidden("the log", &end.stderr);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_new_key_is_tried_once() {
    let upstream = Upstream::always(reply("401 Unauthorized", "", "")).await;
    let app =
        TestApp::new(&[("QOVERY_API_KEY_FILE", "key")]).with("QOVERY_API_URL", upstream.url());
    app.file("key", "qov_1");
    let server = app.serve(&[]).await;
    let mut caller = Caller::of(&server, Interface::Rest).await;
    for (key, requests) in [("qov_1", 1), ("qov_2", 2), ("qov_2\n", 1), ("eyJa.b.c", 2)] {
        let before = upstream.requests().len();
        app.file("key", key);
        let result = caller.added(Sandbox::ORDERS, "a", "").await;
        assert_eq!(result.outcome, "not_applied", "{result:?}");
        let sent = &upstream.requests()[before..];
        assert_eq!(sent.len(), requests, "{key}");
        assert!(
            sent[requests - 1].contains(&format!(" {}\r\n", key.trim())),
            "{key}"
        );
    }
}

/// Without a restart, by itself or at once by SIGHUP.
#[cfg(unix)]
#[tokio::test]
async fn access_tokens_are_read_again() {
    let sandbox = Sandbox::start().await.unwrap();
    for at_once in [false, true] {
        let mut app = TestApp::new(&[
            ("QOVERY_API_KEY_FILE", "key"),
            ("QOVERY_BACKUPS_ACCESS_TOKEN_FILE", "tokens"),
        ])
        .with("QOVERY_API_URL", sandbox.base_url());
        if !at_once {
            app = app.short_limits();
        }
        app.file("key", KEY);
        app.file("tokens", &format!("ada:{TOKEN}"));
        let server = app.serve(&[]).await;
        let status = async |token| {
            let list = Request::get(&backups_of(Sandbox::ORDERS));
            server.rest(list.token(Some(token))).await.status
        };
        let reached = async |token, wanted| {
            let reached = async { while status(token).await != wanted {} };
            timeout(TEST_TIMEOUT, reached).await.unwrap();
        };
        assert_eq!(status(TOKEN).await, 502);
        app.file("key", Sandbox::KEY);
        let ben = "7oken-of-ben-7oken-of-ben";
        assert_eq!(status(ben).await, 401);
        for (tokens, refused, authorized) in [
            (format!("ben:{ben}"), TOKEN, ben),
            ("ben:short".to_owned(), TOKEN, ben),
            (format!("ada:{TOKEN}\nben:{ben}0"), ben, TOKEN),
        ] {
            app.file("tokens", &tokens);
            if at_once {
                server.signal("HUP").await;
            }
            if tokens.contains("short") {
                let kept = "QOVERY_BACKUPS_ACCESS_TOKEN_FILE (environment) has in line 1 a token";
                tokio::select! {
                    _ = server.log.message(kept) => {}
                    // Each call may look at the file.
                    () = reached(authorized, 0) => {}
                }
            }
            reached(authorized, 200).await;
            reached(refused, 401).await;
        }
        let end = server.finish().await;
        assert!(end.status.success(), "{}", end.stderr);
        assert_hidden("the log", &end.stderr);
    }
}

#[tokio::test]
async fn no_refused_argument_shows_a_key() {
    for era in ERAS {
        let mut session = sandbox_session(era, &[]).await;
        for (tool, arguments) in [
            (LIST, json!({ "databaseId": "qov_0123456789" })),
            (
                LIST,
                json!({ "databaseId": Sandbox::ORDERS, "verbose": "qov_0123456789" }),
            ),
            (
                REMOVE,
                json!({ "databaseId": Sandbox::ORDERS, "qov_0123456789": true }),
            ),
        ] {
            let text = session.refused(tool, arguments).await;
            contains(&text, ["qov_…"]);
            lacks(&text, ["0123"]);
        }
    }
    let server = serve_sandbox(&[]).await;
    let path = backups_of("qov_0123456789");
    for request in [Request::get(&path), Request::delete(&format!("{path}/x"))] {
        let answer = server.rest(request).await;
        contains(&answer.text(), ["qov_…"]);
        lacks(&answer.text(), ["0123"]);
    }
    lacks(&server.finish().await.stderr, ["0123"]);
}
