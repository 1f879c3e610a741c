//! The dialog of the system, in the place of which a program of this name stands in `PATH`. A real one is
//! clicked in the nightly.

use std::{fs, os::unix::fs::PermissionsExt};

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    app::{TestApp, sandbox_session},
    clients::{Client, ERAS, Era, MODES, REMOVE, Transport, can_ask, declined, order},
    expect::{contains, eventually, lacks},
    upstreams::{Database, backup, backup_id, removes},
};

/// A folder with a `zenity` of these shell commands, which writes its arguments and its environment there.
fn zenity(commands: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("zenity");
    let place = folder.path().display();
    let script = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$@\" >>{place}/arguments\n/usr/bin/env >{place}/environment\n{commands}\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

/// The program where that can be shown.
fn with_screen(app: TestApp, zenity: &TempDir) -> TestApp {
    app.with("PATH", zenity.path().to_str().unwrap())
        .with("DISPLAY", ":99")
}

fn read(folder: &TempDir, name: &str) -> String {
    fs::read_to_string(folder.path().join(name)).unwrap_or_default()
}

async fn five() -> Database {
    Database::with([1, 2, 3, 4, 5].map(|number| backup(number, "READY"))).await
}

#[tokio::test]
async fn only_the_line_remove_is_a_yes() {
    let closed = declined("The person answered no in a dialog. Nothing was removed.");
    for (commands, report) in [
        ("echo Remove", None),
        ("echo Keep; exit 1", Some(closed.clone())),
        ("exit $ZENITY_ESC", Some(closed)),
    ] {
        for era in ERAS {
            let (database, zenity) = (five().await, zenity(commands));
            let app = with_screen(database.app(), &zenity);
            let mut session = app.session(era, &["--audit-log", "audit"]).await;
            let ids = json!([backup_id(1), backup_id(2)]);
            let arguments = json!({ "databaseId": Sandbox::ORDERS, "backupIds": ids });
            let answer = session.ok(REMOVE, arguments).await;
            let audit = fs::read_to_string(app.directory.path().join("audit")).unwrap();
            contains(&audit, ["\"asked_by\":\"dialog\""]);
            if let Some(report) = &report {
                assert_eq!(answer, *report, "{commands}");
                database.unchanged();
                contains(
                    &audit,
                    ["\"phase\":\"refused\"", "\"consent\":\"declined\""],
                );
            } else {
                assert_eq!(answer["consent"], "accepted", "{answer}");
                assert_eq!(database.changes(), [1, 2].map(removes));
                contains(&audit, ["\"consent\":\"accepted\""]);
            }
            let arguments = read(&zenity, "arguments");
            contains(
                &arguments,
                [
                    "--no-markup",
                    "--text=Remove 2 backups from 2026-06-01 to 2026-06-02?",
                ],
            );
            lacks(&read(&zenity, "environment"), ["QOVERY_", Sandbox::KEY]);
        }
    }
}

#[tokio::test]
async fn what_proves_no_answer_removes_nothing_and_says_why() {
    for commands in [
        "exit 0",
        "exit 1",
        "echo cannot open display >&2; exit 1",
        "echo Removed",
        "kill -9 $$",
    ] {
        let (database, zenity) = (five().await, zenity(commands));
        for confirm in ["--confirm=auto", "--confirm=always"] {
            let app = with_screen(database.app(), &zenity);
            let mut session = app.session(Era::Handshake, &[confirm]).await;
            let text = session.refused(REMOVE, order(1)).await;
            contains(
                &text,
                [
                    "The dialog could not be shown",
                    "Nothing was removed",
                    "DISPLAY",
                ],
            );
        }
        database.unchanged();
    }
}

#[tokio::test]
async fn a_dialog_ends_with_its_time_and_with_its_call() {
    let (database, zenity) = (
        five().await,
        zenity("echo $$ >>${0%/*}/pids; exec /bin/sleep 600"),
    );
    let app = with_screen(database.app().short_limits(), &zenity);
    let mut session = app.session(Era::Handshake, &[]).await;
    let answer = session.ok(REMOVE, order(1)).await;
    assert_eq!(
        answer,
        declined("Nobody answered the dialog. Nothing was removed.")
    );
    let is_open = || {
        let pids = read(&zenity, "pids");
        let pid = pids.lines().last().map(str::to_owned);
        pid.filter(|_| pids.lines().count() > 1).is_some_and(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
        })
    };
    let id = session.send_call(REMOVE, order(2)).await;
    eventually(is_open).await;
    session.cancel(id).await;
    eventually(|| !is_open()).await;
    database.unchanged();
}

/// The client's own form comes first, and `never` asks no person. Over HTTP the caller is elsewhere.
#[tokio::test]
async fn a_dialog_is_shown_only_where_it_is_needed() {
    let zenity = zenity("echo Remove");
    for (mode, confirm, capabilities) in [
        (MODES[0], "--confirm=auto", can_ask()),
        (MODES[1], "--confirm=auto", can_ask()),
        (MODES[0], "--confirm=never", json!({})),
        (MODES[2], "--confirm=auto", json!({})),
    ] {
        let database = five().await;
        let app = with_screen(database.app(), &zenity);
        let mut client = Client::start(&app, mode, &[confirm], capabilities.clone()).await;
        let step = client.remove(1).await;
        if capabilities == can_ask() {
            step.question();
        } else {
            step.outcome("removed");
        }
        assert_eq!(read(&zenity, "arguments"), "", "{mode:?} {confirm}");
    }
}

/// The start and `check` say whether a dialog can be shown, or why not.
#[tokio::test]
async fn it_is_said_how_a_person_is_asked() {
    let zenity = zenity("echo Remove");
    let shown = "if it cannot, a dialog of this system does";
    for (variable, value, words) in [
        ("DISPLAY", ":1", shown),
        ("WAYLAND_DISPLAY", "wayland-0", shown),
        (
            "DISPLAY",
            "",
            "no dialog: neither WAYLAND_DISPLAY nor DISPLAY is set",
        ),
        ("CI", "true", "no dialog: CI is set"),
        (
            "SSH_CONNECTION",
            "a 1 b 2",
            "no dialog: SSH_CONNECTION is set, and DISPLAY names no host",
        ),
        ("PATH", "/nowhere", "no dialog: no zenity is in PATH"),
    ] {
        let app = with_screen(TestApp::new(&[]), &zenity).with(variable, value);
        let check = app.run(&["check", "--sandbox"]).await;
        contains(&check.stdout, [words]);
        let log = app
            .session(Era::Handshake, &["--sandbox"])
            .await
            .finish()
            .await;
        contains(&log.stderr, ["serving", words]);
    }
}

#[tokio::test]
async fn where_no_person_can_be_asked_a_call_removes_one_and_says_so() {
    for mode in MODES {
        let database = five().await;
        let app = database.app();
        let mut client = Client::start(&app, mode, &[], json!({})).await;
        let several = |ids: &[u32]| {
            let ids: Vec<String> = ids.iter().copied().map(backup_id).collect();
            json!({ "databaseId": Sandbox::ORDERS, "backupIds": ids })
        };
        let text = client.refused(REMOVE, several(&[1, 2])).await;
        contains(&text, ["No person can be asked here", "--confirm never"]);
        assert_eq!(database.requests(), 0, "before Qovery is asked anything");
        let report = client.ok(REMOVE, several(&[1])).await;
        assert_eq!(report["consent"], "not_asked");
        contains(
            report["note"].as_str().unwrap(),
            ["This server asked no person"],
        );
        assert_eq!(database.changes(), [removes(1)]);
        if mode.0 == Transport::Stdio {
            let log = client.finish().await.stderr;
            let warned = log
                .lines()
                .filter(|line| line.contains(" WARN "))
                .collect::<Vec<_>>();
            assert_eq!(warned.len(), 1, "{log}");
            contains(
                warned[0],
                [
                    "This server asked no person",
                    &backup_id(1),
                    Sandbox::ORDERS,
                ],
            );
        }
    }
}

#[tokio::test]
async fn instructions_say_that_a_refusal_to_remove_is_a_rule() {
    let words = "Removals are possible here, but a person confirms each";
    let zenity = zenity("echo Keep");
    let open = async |app: TestApp, confirm: &str| {
        let mut client = app.spawn(Era::Handshake, &["--sandbox", "--confirm", confirm]);
        let answer: Value = client.open().await;
        answer["result"]["instructions"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    contains(&open(TestApp::new(&[]), "always").await, [words]);
    lacks(&open(TestApp::new(&[]), "auto").await, [words]);
    let app = with_screen(TestApp::new(&[]), &zenity);
    lacks(&open(app, "always").await, [words]);
    let mut session = sandbox_session(Era::Handshake, &["--confirm=always"]).await;
    let text = session.refused(REMOVE, order(1)).await;
    contains(&text, ["a person has to confirm each removal"]);
}
