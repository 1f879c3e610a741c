//! Configuration: what wins over what, and what never starts.

use qovery_backups_mcp::sandbox::Sandbox;

use crate::helpers::{Finished, TestApp};

const KEY: (&str, &str) = ("QOVERY_API_KEY", "qov_0123456789abcdef");
const TOKEN: (&str, &str) = ("QOVERY_BACKUPS_ACCESS_TOKEN", "ada:0123456789abcdef\n0123456789ABCDEF");

/// Refused before it started: exit code 2, nothing on standard output, one line that says all.
async fn refused(app: &TestApp, arguments: &[&str]) -> String {
    let Finished {
        status,
        stdout,
        stderr,
    } = app.run(arguments).await;
    assert_eq!(status.code(), Some(2), "{arguments:?}: {stdout}{stderr}");
    assert_eq!(stdout, "");
    stderr
}

#[tokio::test]
async fn wrong_configuration_names_the_variable_and_the_remedy() {
    let mut texts = Vec::new();
    for (variables, arguments) in [
        (&[][..], &[][..]),
        (&[("QOVERY_API_TOKEN", "qov_0123456789abcdef")], &[]),
        (&[("QOVERY_API_KEY", "")], &[]),
        (&[("QOVERY_API_KEY", "qov_a\nb")], &[]),
        (&[("QOVERY_API_KEY", "qov_a b")], &[]),
        (&[KEY, ("QOVERY_API_KEY_FILE", "key")], &[]),
        (&[("QOVERY_API_KEY_FILE", "nowhere")], &[]),
        (&[KEY, ("QOVERY_API_URL", "http://api.qovery.com")], &[]),
        (
            &[KEY, ("QOVERY_API_URL", "https://me:pw@api.qovery.com")],
            &[],
        ),
        (
            &[KEY, ("QOVERY_API_URL", "https://api.qovery.com?x=1")],
            &[],
        ),
        (&[KEY, ("QOVERY_API_URL", "api.qovery.com")], &[]),
        (&[KEY, ("QOVERY_API_URL", "")], &[]),
        (&[KEY], &["--api-url", "ftp://127.0.0.1"]),
        (&[KEY, ("QOVERY_BACKUPS_READONLY", "true")], &[]),
        (&[KEY, ("QOVERY_BACKUPS_COLOUR", "true")], &[]),
        (&[KEY, ("QOVERY_BACKUPS_READ_ONLY", "maybe")], &[]),
        (&[KEY, ("QOVERY_BACKUPS_READ_ONLY", "")], &[]),
        (&[KEY, ("QOVERY_BACKUPS_KEEP_LATEST", "-1")], &[]),
        (&[KEY], &["--keep-latest", "many"]),
        (&[KEY], &["--log", "qovery=loud"]),
        (&[KEY], &["--log-format", "xml"]),
        (&[KEY], &["--env-file", "nowhere.env"]),
        (&[], &["--sandbox", "--api-url", "https://api.qovery.com"]),
        (&[], &["--sandbox", "check", "--read-only=perhaps"]),
        (&[KEY], &["http", "--mcp-addr", "localhost:9090"]),
        (&[KEY], &["http", "--rest-addr", "8080"]),
        (&[KEY, ("QOVERY_BACKUPS_MCP_ADDR", "127.0.0.1")], &["http"]),
        (&[KEY, ("QOVERY_BACKUPS_REST_ADDR", "")], &["http"]),
        (&[KEY], &["http", "--no-rest=perhaps"]),
        (&[KEY], &["http", "--sessions=perhaps"]),
        (&[KEY], &["http", "--allowed-host", "a.example,*"]),
        (&[KEY], &["http", "--allowed-origin", "a.example"]),
        (
            &[KEY, TOKEN, ("QOVERY_BACKUPS_ACCESS_TOKEN_FILE", "t")],
            &["http"],
        ),
        (
            &[KEY, ("QOVERY_BACKUPS_ACCESS_TOKEN_FILE", "nowhere")],
            &["http"],
        ),
        (&[KEY, ("QOVERY_BACKUPS_ACCESS_TOKEN", "")], &["http"]),
        (&[KEY, ("QOVERY_BACKUPS_ACCESS_TOKEN", "a b:c")], &["http"]),
        (
            &[KEY, ("QOVERY_BACKUPS_ACCESS_TOKEN", "a:0123456789abcdef\nc:")],
            &["http"],
        ),
        (
            &[KEY, ("QOVERY_BACKUPS_ACCESS_TOKEN", "a:0123456789abcdef\nc:0123456789abcdef")],
            &["http"],
        ),
        (&[KEY], &["--confirm", "sometimes"]),
        (&[KEY], &["--changes-per-hour", "many"]),
        (&[KEY], &["--audit-log", "no/such/folder/audit.jsonl"]),
        (&[KEY], &["--audit-log", "."]),
        (&[KEY, ("QOVERY_BACKUPS_STATE_KEY", "short")], &[]),
        (
            &[
                KEY,
                (
                    "QOVERY_BACKUPS_STATE_KEY",
                    "0123456789abcdef0123456789abcdef\n0123456789abcdef0123456789abcdef",
                ),
            ],
            &[],
        ),
        (&[KEY], &["http", "--mcp-addr", "0.0.0.0:0"]),
        (&[KEY], &["http", "--rest-addr", "[::]:0"]),
        (
            &[KEY, ("QOVERY_BACKUPS_MCP_ADDR", "192.0.2.1:0")],
            &["http"],
        ),
    ] {
        let text = refused(&TestApp::new(variables), arguments).await;
        assert_eq!(text.lines().count(), 1, "{text}");
        texts.push(text);
    }
    insta::assert_snapshot!("refusals", texts.concat());
    let text = refused(&TestApp::new(&[KEY]), &["--read-onyl"]).await;
    assert!(text.contains("--read-only"), "{text}");
}

/// What `check` says of a setting; the check itself fails, as nothing listens there.
async fn setting(app: &TestApp, arguments: &[&str], variable: &str) -> String {
    let arguments = [&["check"], arguments].concat();
    let Finished {
        status,
        stdout,
        stderr,
    } = app.run(&arguments).await;
    assert_eq!(status.code(), Some(1), "{stderr}");
    let line = stdout
        .lines()
        .find(|line| line.starts_with(&format!("{variable} ")));
    line.unwrap()
        .split_whitespace()
        .skip(1)
        .collect::<Vec<_>>()
        .join(" ")
}

#[tokio::test]
async fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let url = ("QOVERY_API_URL", "http://127.0.0.1:1");
    let log = "QOVERY_BACKUPS_LOG";
    let app = TestApp::new(&[KEY, url]);
    assert_eq!(setting(&app, &[], log).await, "info,rmcp=warn (default)");
    app.file(".env", "QOVERY_BACKUPS_LOG=error\nOTHER=x\n");
    assert_eq!(setting(&app, &[], log).await, "error (.env)");
    app.file("named.env", "QOVERY_BACKUPS_LOG=warn\n");
    assert_eq!(
        setting(&app, &["--env-file", "named.env"], log).await,
        "warn (named.env)"
    );
    assert_eq!(setting(&app, &["--log", "off"], log).await, "off (flag)");
    let app = TestApp::new(&[KEY, url, (log, "debug")]);
    app.file(".env", "QOVERY_BACKUPS_LOG=error\n");
    assert_eq!(setting(&app, &[], log).await, "debug (environment)");
    assert_eq!(setting(&app, &["--log", "off"], log).await, "off (flag)");
}

#[tokio::test]
async fn a_list_is_replaced_as_a_whole_and_tokens_are_shown_by_name() {
    let app = TestApp::new(&[KEY, ("QOVERY_API_URL", "http://127.0.0.1:1"), TOKEN]);
    app.file("hosts.env", "QOVERY_BACKUPS_ALLOWED_HOST=c\n");
    let hosts = "QOVERY_BACKUPS_ALLOWED_HOST";
    let file = ["--env-file", "hosts.env"];
    assert_eq!(setting(&app, &file, hosts).await, "c (hosts.env)");
    let flags = [file, ["--allowed-host", "a"], ["--allowed-host", "b"]].concat();
    assert_eq!(setting(&app, &flags, hosts).await, "a,b (flag)");
    let callers = setting(&app, &[], TOKEN.0).await;
    assert_eq!(callers, "ada, caller-2 (environment)");
}

#[tokio::test]
async fn a_parents_file_is_not_read() {
    let app = TestApp::new(&[]);
    app.file(".env", "QOVERY_API_KEY=qov_0123456789abcdef\n");
    let child = app.directory.path().join("child");
    std::fs::create_dir(&child).unwrap();
    let output = app.command(&[]).current_dir(child).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("QOVERY_API_KEY is not set")
    );
}

#[tokio::test]
async fn a_found_file_does_not_open_the_ports_to_a_key_from_elsewhere() {
    let app = TestApp::new(&[KEY]);
    for line in [
        "QOVERY_BACKUPS_ACCESS_TOKEN=one",
        "QOVERY_BACKUPS_ACCESS_TOKEN_FILE=tokens",
        "QOVERY_BACKUPS_ALLOWED_HOST=evil.example",
        "QOVERY_BACKUPS_ALLOWED_ORIGIN=https://evil.example",
        "QOVERY_BACKUPS_MCP_ADDR=127.0.0.1:1",
        "QOVERY_BACKUPS_REST_ADDR=127.0.0.1:1",
    ] {
        app.file("tokens", "one");
        app.file(".env", line);
        let text = refused(&app, &[]).await;
        let (variable, _) = line.split_once('=').unwrap();
        let named = format!("sets {variable} ");
        assert!(
            text.contains(&named) && text.contains("--env-file .env"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_found_file_does_not_redirect_a_key_from_elsewhere() {
    let redirect = "QOVERY_API_URL=http://127.0.0.1:1\n";
    let app = TestApp::new(&[KEY]);
    app.file(".env", redirect);
    let text = refused(&app, &[]).await;
    assert!(
        text.contains("QOVERY_API_URL") && text.contains("--env-file .env"),
        "{text}"
    );
    // Named, it is the operator's word; so it is when the key comes from the same file.
    assert_eq!(
        app.run(&["check", "--env-file", ".env"])
            .await
            .status
            .code(),
        Some(1)
    );
    let app = TestApp::new(&[]);
    app.file(
        ".env",
        &format!("{redirect}QOVERY_API_KEY=qov_0123456789abcdef\n"),
    );
    assert_eq!(app.run(&["check"]).await.status.code(), Some(1));
    // An address must not be built from the rest of the environment.
    let key = "QOVERY_API_KEY=qov_0123456789abcdef";
    app.file(
        ".env",
        &format!("QOVERY_API_URL=https://${{HOME}}.example\n{key}\n"),
    );
    assert!(refused(&app, &["check"]).await.contains("with $"));
    // A file that a found file names may hold anybody's key.
    app.file("key", KEY.1);
    app.file(".env", &format!("{redirect}QOVERY_API_KEY_FILE=key\n"));
    refused(&app, &[]).await;
}

#[tokio::test]
async fn a_key_file_holds_the_key() {
    let sandbox = Sandbox::start().await.unwrap();
    let url = sandbox.base_url();
    let app = TestApp::new(&[("QOVERY_API_URL", &url), ("QOVERY_API_KEY_FILE", "key")]);
    for ending in ["", "\n", "\r\n"] {
        app.file("key", &format!("{}{ending}", Sandbox::KEY));
        assert!(app.run(&["check"]).await.status.success(), "{ending:?}");
    }
    app.file("key", &format!("{}\n\n", Sandbox::KEY));
    assert!(refused(&app, &["check"]).await.contains("line break"));
}

#[tokio::test]
async fn help_and_version_go_to_standard_output() {
    let app = TestApp::new(&[KEY]);
    for (flag, expected) in [
        ("--help", "QOVERY_API_KEY"),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let end = app.run(&[flag]).await;
        assert!(
            end.status.success() && end.stdout.contains(expected),
            "{}",
            end.stdout
        );
        assert_eq!(end.stderr, "");
    }
}
