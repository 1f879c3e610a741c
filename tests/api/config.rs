//! Configuration: what wins over what, and what never starts.

use qovery_backups_mcp::{
    config::{SECRETS, command},
    sandbox::Sandbox,
};
use serde_json::json;

use crate::{
    app::{Finished, TestApp},
    clients::{ADD, Era},
    expect::{contains, lacks},
};

const KEY: (&str, &str) = ("QOVERY_API_KEY", "qov_0123456789abcdef");
const API_KEY: &str = "QOVERY_API_KEY=qov_0123456789abcdef";
const TOKENS: &str = "QOVERY_BACKUPS_ACCESS_TOKEN=ada:0123456789abcdef\n0123456789ABCDEF";
const TOKEN: (&str, &str) = (
    "QOVERY_BACKUPS_ACCESS_TOKEN",
    "ada/read:0123456789abcdef\n0123456789ABCDEF",
);

/// A setting that the documents have to list.
pub(crate) struct Setting {
    pub(crate) variable: String,
    pub(crate) flag: Option<String>,
    pub(crate) default: String,
    pub(crate) http: bool,
}

/// Every setting of the program, by its own definition.
pub(crate) fn settings() -> Vec<Setting> {
    let secrets = SECRETS
        .iter()
        .flat_map(|name| [(*name).to_owned(), format!("{name}_FILE")]);
    let secrets = secrets.map(|variable| Setting {
        http: variable.starts_with("QOVERY_BACKUPS_"),
        variable,
        flag: None,
        default: String::new(),
    });
    let command = command();
    let arguments = command.get_arguments().filter_map(|argument| {
        let default = argument.get_default_values().first();
        Some(Setting {
            variable: argument.get_env()?.to_str()?.to_owned(),
            flag: argument.get_long().map(str::to_owned),
            default: default
                .map_or("none", |value| value.to_str().unwrap())
                .to_owned(),
            http: argument.get_help_heading().is_some(),
        })
    });
    let settings: Vec<_> = secrets.chain(arguments).collect();
    assert_eq!(settings.len(), 25);
    settings
}

/// Variables and arguments, each wrong in one way.
const REFUSED: &[&[&str]] = &[
    &[],
    &["QOVERY_API_KEY="],
    &["QOVERY_API_KEY=qov_a\nb"],
    &["QOVERY_API_KEY=qov_a b"],
    &[API_KEY, "QOVERY_API_KEY_FILE=key"],
    &["QOVERY_API_KEY_FILE=nowhere"],
    &[API_KEY, "QOVERY_API_URL=http://api.qovery.com"],
    &[API_KEY, "QOVERY_API_URL=https://me:pw@api.qovery.com"],
    &[API_KEY, "QOVERY_API_URL=https://api.qovery.com?x=1"],
    &[API_KEY, "QOVERY_API_URL=api.qovery.com"],
    &[API_KEY, "--api-url", "ftp://127.0.0.1"],
    &[API_KEY, "QOVERY_BACKUPS_READONLY=true"],
    &[API_KEY, "QOVERY_BACKUPS_READ_ONLY=maybe"],
    &[API_KEY, "QOVERY_BACKUPS_KEEP_LATEST=-1"],
    &[API_KEY, "--keep-latest", "many"],
    &[API_KEY, "QOVERY_API_URL=https://${HOST}"],
    &[API_KEY, "--keep-latest="],
    &[API_KEY, "--log", "qovery=loud"],
    &[API_KEY, "--log", "inof"],
    &[API_KEY, "--log", "info,rmcp"],
    &[API_KEY, "--log-format", "xml"],
    &[API_KEY, "--env-file", "nowhere.env"],
    &["--sandbox", "--api-url", "https://api.qovery.com"],
    &["--sandbox", "check", "--read-only=perhaps"],
    &[API_KEY, "http", "--mcp-addr", "localhost:9090"],
    &[API_KEY, "http", "--rest-addr", "8080"],
    &[API_KEY, "QOVERY_BACKUPS_MCP_ADDR=127.0.0.1", "http"],
    &[API_KEY, "http", "--no-rest=perhaps"],
    &[API_KEY, "qov_0123456789abcdef"],
    &[API_KEY, "check", "--database", "x"],
    &[API_KEY, "QOVERY_BACKUPS_SANDBOX=qov_0123456789abcdef"],
    &[API_KEY, "http", "--allowed-host", "a.example,*"],
    &[API_KEY, "http", "--allowed-host", "localhost:99999"],
    &[API_KEY, "http", "--allowed-host", "localhost:"],
    &[API_KEY, "--qov_0123456789abcdef"],
    &[API_KEY, "http", "--allowed-origin", "a.example"],
    &[API_KEY, "http", "--public-url", "backups.example.com"],
    &[API_KEY, "http", "--public-url", "ftp://a.example"],
    &[API_KEY, "http", "--public-url", "https://me@a.example"],
    &[API_KEY, "http", "--public-url", "https://a.example/?b"],
    &[
        API_KEY,
        TOKENS,
        "QOVERY_BACKUPS_ACCESS_TOKEN_FILE=t",
        "http",
    ],
    &[API_KEY, "QOVERY_BACKUPS_ACCESS_TOKEN_FILE=nowhere", "http"],
    &[API_KEY, "QOVERY_BACKUPS_ACCESS_TOKEN=", "http"],
    &[API_KEY, "QOVERY_BACKUPS_ACCESS_TOKEN=a b:c", "http"],
    &[
        API_KEY,
        "QOVERY_BACKUPS_ACCESS_TOKEN=a:0123456789abcdef\nc:",
        "http",
    ],
    &[
        API_KEY,
        "QOVERY_BACKUPS_ACCESS_TOKEN=a:0123456789abcdef\nc:0123456789abcde",
        "http",
    ],
    &[
        API_KEY,
        "QOVERY_BACKUPS_ACCESS_TOKEN=a:0123456789abcdef\nc:0123456789abcdef",
        "http",
    ],
    &[
        API_KEY,
        "QOVERY_BACKUPS_ACCESS_TOKEN=a/read:0123456789abcdef\nc/write:0123456789abcdeF",
        "http",
    ],
    &[API_KEY, "--confirm", "sometimes"],
    &[API_KEY, "--changes-per-hour", "many"],
    &[API_KEY, "--changes-per-hour", "0"],
    &[API_KEY, "QOVERY_BACKUPS_CHANGES_PER_HOUR=-1"],
    &[API_KEY, "QOVERY_BACKUPS_CHANGES_PER_HOUR=00"],
    &[API_KEY, "--audit-log", "no/such/folder/audit.jsonl"],
    &[API_KEY, "--audit-log", "."],
    &[API_KEY, "QOVERY_BACKUPS_STATE_KEY=short"],
    &[
        API_KEY,
        "QOVERY_BACKUPS_STATE_KEY=0123456789abcdef0123456789abcdef\n0123456789abcdef0123456789abcdef",
    ],
    &[API_KEY, "http", "--mcp-addr", "0.0.0.0:0"],
    &[API_KEY, "http", "--rest-addr", "[::]:0"],
    &[API_KEY, "QOVERY_BACKUPS_MCP_ADDR=192.0.2.1:0", "http"],
];

#[tokio::test]
async fn wrong_configuration_names_the_variable_and_the_remedy() {
    let mut texts = Vec::new();
    for case in REFUSED {
        let split =
            |part: &'static str| part.split_once('=').filter(|_| part.starts_with("QOVERY"));
        let variables: Vec<_> = case.iter().copied().filter_map(split).collect();
        let text = TestApp::new(&variables)
            .refused(&case[variables.len()..])
            .await;
        assert_eq!(text.lines().count(), 1, "{text}");
        texts.push(text);
    }
    insta::assert_snapshot!("refusals", texts.concat());
    let text = TestApp::new(&[KEY]).refused(&["--read-onyl"]).await;
    contains(&text, ["--read-only"]);
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
    let start = format!("{variable} ");
    let line = stdout.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[tokio::test]
async fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let url = ("QOVERY_API_URL", "http://127.0.0.1:1");
    let log = "QOVERY_BACKUPS_LOG";
    let app = TestApp::new(&[KEY, url]);
    assert_eq!(setting(&app, &[], log).await, "info,rmcp=off (default)");
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
    assert_eq!(callers, "ada/read, caller-2 (environment)");
}

#[tokio::test]
async fn any_number_of_changes_is_allowed_by_name() {
    let limit = "QOVERY_BACKUPS_CHANGES_PER_HOUR";
    for value in ["unlimited", "Unlimited", "1", "4294967295"] {
        let app = TestApp::new(&[
            KEY,
            ("QOVERY_API_URL", "http://127.0.0.1:1"),
            (limit, value),
        ]);
        assert_eq!(
            setting(&app, &[], limit).await,
            format!("{value} (environment)")
        );
        let flag = setting(&app, &["--changes-per-hour", value], limit).await;
        assert_eq!(flag, format!("{value} (flag)"));
    }
}

#[tokio::test]
async fn a_parents_file_is_not_read() {
    let app = TestApp::new(&[]);
    app.file(".env", "QOVERY_API_KEY=qov_0123456789abcdef\n");
    let child = app.directory.path().join("child");
    std::fs::create_dir(&child).unwrap();
    let output = app.command(&[]).current_dir(child).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    contains(&text, ["QOVERY_API_KEY is not set"]);
}

#[tokio::test]
async fn a_found_file_sets_nothing_for_a_key_from_elsewhere() {
    let app = TestApp::new(&[KEY]);
    for setting in settings() {
        let variable = setting.variable.as_str();
        // The key loses to the environment; the log's may always be set.
        let others = [
            "QOVERY_API_KEY",
            "QOVERY_BACKUPS_ENV_FILE",
            "QOVERY_BACKUPS_LOG",
        ];
        if others.iter().any(|other| variable.starts_with(other)) {
            continue;
        }
        let value = match setting.default.as_str() {
            "false" => "true",
            "" => "x",
            "none" if variable.ends_with("AUDIT_LOG") => "x",
            "none" => "https://a.example",
            default => default,
        };
        app.file(".env", &format!("{variable}={value}"));
        let text = app.refused(&[]).await;
        let named = format!("sets {variable}, but");
        contains(&text, [&named, "--env-file .env"]);
    }
    // Its own key is not the one in use.
    app.file(".env", "QOVERY_API_KEY=qov_1\nQOVERY_BACKUPS_KEEP_LATEST=2");
    app.refused(&[]).await;
    // Without a key, and where the operator asks for the sandbox, there is nothing to guard.
    app.file(
        ".env",
        "QOVERY_BACKUPS_SANDBOX=true\nQOVERY_BACKUPS_KEEP_LATEST=2",
    );
    let no_key = TestApp::new(&[]);
    no_key.file(".env", "QOVERY_BACKUPS_SANDBOX=true");
    assert!(no_key.run(&["check"]).await.status.success());
    assert!(app.run(&["check", "--sandbox"]).await.status.success());
    // An audit log is never a found file's to name, not even beside its own key.
    for other in [
        "QOVERY_API_URL=http://127.0.0.1:1\nQOVERY_API_KEY=qov_0123456789abcdef",
        "QOVERY_BACKUPS_SANDBOX=true",
    ] {
        no_key.file(".env", &format!("{other}\nQOVERY_BACKUPS_AUDIT_LOG=x"));
        let text = no_key.refused(&["check"]).await;
        contains(&text, ["AUDIT_LOG (.env) is not taken", "--env-file"]);
        let named = no_key.run(&["check", "--env-file", ".env"]).await;
        assert_ne!(named.status.code(), Some(2), "{}", named.stderr);
    }
}

#[tokio::test]
async fn a_found_file_does_not_redirect_a_key_from_elsewhere() {
    let redirect = "QOVERY_API_URL=http://127.0.0.1:1\n";
    let app = TestApp::new(&[KEY]);
    app.file(".env", redirect);
    app.refused(&[]).await;
    // Named, it is the operator's word; so it is when the key comes from the same file.
    let named = app.run(&["check", "--env-file", ".env"]).await;
    assert_eq!(named.status.code(), Some(1));
    let app = TestApp::new(&[]);
    app.file(".env", &format!("{redirect}{API_KEY}\n"));
    assert_eq!(app.run(&["check"]).await.status.code(), Some(1));
    // A file that a found file names may hold anybody's key.
    app.file("key", KEY.1);
    for line in [redirect, ""] {
        app.file(".env", &format!("{line}QOVERY_API_KEY_FILE=key\n"));
        app.refused(&[]).await;
    }
}

#[tokio::test]
async fn nothing_is_expanded_in_a_file() {
    let app = TestApp::new(&[("HOME", "/tmp")]);
    let key = "QOVERY_API_KEY=qov_0123456789abcdef";
    for line in [
        "QOVERY_API_URL=https://${HOME}.example",
        "QOVERY_BACKUPS_PUBLIC_URL=https://${HOME}.example",
    ] {
        app.file(".env", &format!("{key}\n{line}\n"));
        for arguments in [&["check"][..], &["check", "--env-file", ".env"]] {
            let text = app.refused(arguments).await;
            contains(&text, ["the host did not fill in"]);
        }
    }
    app.file(".env", &format!("{key}\nQOVERY_BACKUPS_AUDIT_LOG=$HOME\n"));
    let url = ["--env-file", ".env", "--api-url", "http://127.0.0.1:1"];
    let log = setting(&app, &url, "QOVERY_BACKUPS_AUDIT_LOG").await;
    assert_eq!(log, "$HOME (.env)");
}

#[tokio::test]
async fn only_the_lines_of_this_program_matter_in_a_file() {
    let app = TestApp::new(&[KEY, ("QOVERY_API_URL", "http://127.0.0.1:1")]);
    let path = app.directory.path().join(".env");
    let text = [
        &b"\xef\xbb\xbfA=b\r\nAPP_NAME=My shop\r\nNAME=caf\xe9 it's\r\nNOTE=\"is open\r\n"[..],
        b"export QOVERY_BACKUPS_LOG='warn'\r\n",
    ];
    std::fs::write(&path, text.concat()).unwrap();
    let log = "QOVERY_BACKUPS_LOG";
    assert_eq!(setting(&app, &[], log).await, "warn (.env)");
    assert_eq!(app.run(&["check"]).await.stderr, "");
    for line in [
        "QOVERY_BACKUPS_READ_ONLY: true",
        "export QOVERY_BACKUPS_READ_ONLY=\"true",
        "QOVERY_BACKUPS_LOG=info, rmcp=warn",
        "QOVERY_API_KEY \"qov_5\"",
        "QOVERY_BACKUPS_AUDIT_LOG=C:\\new5",
    ] {
        app.file(".env", &format!("A=b\n{line}\n"));
        for arguments in [&["check"][..], &["check", "--env-file", ".env"]] {
            let text = app.refused(arguments).await;
            contains(&text, ["Line 2 of .env"]);
            lacks(&text, ["5"]);
        }
    }
    app.file(".env", "QOVERY_BACKUPS_ENV_FILE=other.env");
    let text = app.refused(&["check"]).await;
    contains(&text, ["only the flag or the environment"]);
    // One that cannot be read is skipped where it was found, and refused where it was named.
    std::fs::write(&path, vec![b'#'; (64 << 10) + 1]).unwrap();
    let end = app.run(&["check"]).await;
    assert_eq!(end.status.code(), Some(1), "{}", end.stderr);
    assert_eq!(end.stderr.matches(" WARN ").count(), 1, "{}", end.stderr);
    let text = app.refused(&["check", "--env-file", ".env"]).await;
    contains(&text, ["larger than 64 KiB"]);
}

#[tokio::test]
async fn a_key_is_taken_out_of_what_stands_around_it() {
    let sandbox = Sandbox::start().await.unwrap();
    let (url, key) = (sandbox.base_url(), Sandbox::KEY);
    for text in [
        format!("{key}\n"),
        format!("{key}\r\n\r\n"),
        format!("\u{feff} \t{key} "),
        format!("\"{key}\""),
        format!("'{key}'\n"),
        format!("\"Token {key} \""),
    ] {
        let app = TestApp::new(&[("QOVERY_API_URL", &url), ("QOVERY_API_KEY_FILE", "key")]);
        app.file("key", &text);
        assert!(app.run(&["check"]).await.status.success(), "{text:?}");
        let app = TestApp::new(&[("QOVERY_API_URL", &url), ("QOVERY_API_KEY", &text)]);
        assert!(app.run(&["check"]).await.status.success(), "{text:?}");
        // Beside an empty one it stands alone.
        let app = TestApp::new(&[
            ("QOVERY_API_URL", &url),
            ("QOVERY_API_KEY", &text),
            ("QOVERY_API_KEY_FILE", ""),
        ]);
        assert!(app.run(&["check"]).await.status.success(), "{text:?}");
    }
    let app = TestApp::new(&[
        ("QOVERY_API_URL", &url),
        ("QOVERY_API_KEY", ""),
        ("QOVERY_API_KEY_FILE", "key"),
    ]);
    app.file("key", key);
    assert!(app.run(&["check"]).await.status.success());
}

/// Hosts expand nothing.
#[tokio::test]
async fn a_path_may_begin_with_the_home_folder() {
    let sandbox = Sandbox::start().await.unwrap();
    let app = TestApp::new(&[
        ("QOVERY_API_URL", &sandbox.base_url()),
        ("QOVERY_API_KEY_FILE", "~/key"),
        ("QOVERY_BACKUPS_AUDIT_LOG", "~/audit"),
    ]);
    let home = app.directory.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let app = app.with("HOME", home.to_str().unwrap());
    app.file("home/key", Sandbox::KEY);
    app.file("home/env", "QOVERY_BACKUPS_LOG=off");
    let end = app.run(&["check", "--env-file", "~/env"]).await;
    assert!(end.status.success(), "{}{}", end.stdout, end.stderr);
    let mut session = app.session(Era::Stateless, &[]).await;
    session
        .ok(ADD, json!({ "databaseId": Sandbox::ORDERS, "name": "a" }))
        .await;
    assert!(home.join("audit").is_file());
}

#[tokio::test]
async fn a_placeholder_is_no_secret() {
    for placeholder in [
        "${5ECRE7}",
        "Bearer ${5ECRE7}",
        "${env:5ECRE7}",
        "${input:5ecre7}",
        "\"${user_config.5ecre7}\"",
        "%S5ECRE7%",
        "{{env.5ECRE7}}",
        "{{ 5ecre7 }}",
        "<your-5ecre7>",
    ] {
        let app = TestApp::new(&[("QOVERY_API_KEY", placeholder)]);
        let text = app.refused(&[]).await;
        contains(&text, ["the host did not fill in"]);
        assert!(!text.to_lowercase().contains("5ecre7"), "{text}");
        for (variable, before) in [
            ("QOVERY_BACKUPS_ACCESS_TOKEN_FILE", ""),
            ("QOVERY_BACKUPS_ACCESS_TOKEN_FILE", "ada:"),
            ("QOVERY_BACKUPS_STATE_KEY_FILE", ""),
        ] {
            let app = TestApp::new(&[KEY, (variable, "file")]);
            app.file("file", &format!("{before}{placeholder}"));
            let text = app.refused(&["http"]).await;
            contains(&text, ["the host did not fill in"]);
        }
    }
}

#[tokio::test]
async fn an_empty_variable_is_none() {
    let settings = settings().into_iter();
    let settings = settings.filter(|setting| setting.flag.is_some());
    let mut app = TestApp::new(&[KEY]);
    app.variables
        .extend(settings.map(|setting| (&*setting.variable.leak(), String::new())));
    app.file(".env", "QOVERY_BACKUPS_LOG=error");
    let url = ["--api-url", "http://127.0.0.1:1"];
    for (variable, value) in [
        ("QOVERY_BACKUPS_READ_ONLY", "false (default)"),
        ("QOVERY_BACKUPS_REST_ADDR", "127.0.0.1:8080 (default)"),
        ("QOVERY_BACKUPS_LOG", "error (.env)"),
    ] {
        assert_eq!(setting(&app, &url, variable).await, value);
    }
}

#[tokio::test]
async fn a_misspelt_variable_is_refused_and_others_are_warned_of() {
    let app = TestApp::new(&[
        ("QOVERY_BACKUPS_SERVICE_HOST", "10.0.0.1"),
        ("QOVERY_BACKUPS_SERVICE_PORT_MCP", "9090"),
        ("QOVERY_BACKUPS_PORT_9090_TCP_ADDR", "10.0.0.1"),
        ("QOVERY_BACKUPS_MCP_ADD", "tcp://10.0.0.1:9090"),
        ("QOVERY_BACKUPS_MCP_PORT", "tcp://10.0.0.1:9090"),
        ("QOVERY_BACKUPS_MCP_PORT_9090_TCP_ADDR", "10.0.0.1"),
        ("QOVERY_BACKUPS_COLOUR", "true"),
    ]);
    app.file(".env", "QOVERY_BACKUPS_NAME=orders\n");
    let end = app.run(&["check", "--sandbox"]).await;
    assert!(end.status.success(), "{}", end.stderr);
    let warnings = end.stderr.matches("is not a setting of this program");
    assert_eq!(warnings.count(), 8, "{}", end.stderr);
    for (variable, meant) in [
        ("QOVERY_BACKUPS_READONLY", "QOVERY_BACKUPS_READ_ONLY"),
        ("QOVERY_BACKUPS_ENV_FILES", "QOVERY_BACKUPS_ENV_FILE"),
        ("QOVERY_BACKUPS_KEEP_LAST", "QOVERY_BACKUPS_KEEP_LATEST"),
        ("QOVERY_BACKUPS_CONFIRMATION", "QOVERY_BACKUPS_CONFIRM"),
        (
            "QOVERY_BACKUPS_ACCESS_TOKENS",
            "QOVERY_BACKUPS_ACCESS_TOKEN",
        ),
    ] {
        let app = TestApp::new(&[]);
        app.file("file", &format!("{variable}=x"));
        for (app, arguments) in [
            (&TestApp::new(&[(variable, "x")]), &["--sandbox"][..]),
            (&app, &["--sandbox", "--env-file", "file"]),
        ] {
            let text = app.refused(arguments).await;
            contains(&text, [variable, &format!("Did you mean {meant}?")]);
        }
    }
}

#[tokio::test]
async fn a_level_may_be_called_warning() {
    let app = TestApp::new(&[KEY, ("QOVERY_API_URL", "http://127.0.0.1:1")]);
    let log = "QOVERY_BACKUPS_LOG";
    for filter in [
        "Warning",
        "WARN",
        "rmcp=debug",
        "info, rmcp::service=warning",
    ] {
        let said = setting(&app, &["--log", filter], log).await;
        assert_eq!(said, format!("{filter} (flag)"));
    }
}

#[tokio::test]
async fn the_help_of_a_command_names_each_variable_and_no_value() {
    let app = TestApp::new(&[("QOVERY_BACKUPS_AUDIT_LOG", "5ecre7")]);
    for arguments in [&["--help"][..], &["http", "--help"], &["check", "--help"]] {
        let end = app.run(arguments).await;
        for setting in settings() {
            contains(&end.stdout, [&setting.variable]);
        }
        lacks(&end.stdout, ["5ecre7"]);
        assert_eq!((end.status.code(), &*end.stderr), (Some(0), ""));
    }
    let version = app.run(&["--version"]).await;
    contains(&version.stdout, [env!("CARGO_PKG_VERSION")]);
    for arguments in [["--no-rest", "check"], ["check", "--no-rest"]] {
        let end = app.run(&[&arguments[..], &["--sandbox"]].concat()).await;
        let mut lines = end.stdout.lines();
        let line = lines.find(|line| line.starts_with("QOVERY_BACKUPS_NO_REST "));
        assert!(line.unwrap().ends_with(" true  (flag)"), "{}", end.stdout);
    }
}

#[tokio::test]
async fn quotes_around_a_value_are_removed_and_a_switch_can_be_off() {
    let app = TestApp::new(&[
        KEY,
        ("QOVERY_API_URL", " \"http://127.0.0.1:1\""),
        ("QOVERY_BACKUPS_READ_ONLY", "'true'"),
    ]);
    let read_only = setting(&app, &[], "QOVERY_BACKUPS_READ_ONLY").await;
    assert_eq!(read_only, "true (environment)");
    let flag = ["--read-only=off"];
    let read_only = setting(&app, &flag, "QOVERY_BACKUPS_READ_ONLY").await;
    assert_eq!(read_only, "off (flag)");
}
