//! How a session ends, and what does not end it.

use std::process::Stdio;

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
#[cfg(target_os = "linux")]
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    app::{TEST_TIMEOUT, TestApp, sandbox_session, signal},
    clients::{Client, ERAS, Era, LIST, orders},
    expect::lacks,
    upstreams::{Reply, Upstream, held_page},
};

#[cfg(unix)]
#[tokio::test]
async fn a_call_in_flight_is_answered_after_a_signal() {
    for (era, name) in [
        (Era::Handshake, "TERM"),
        (Era::Stateless, "TERM"),
        (Era::Handshake, "INT"),
    ] {
        let mut upstream = Upstream::always(held_page()).await;
        let mut session = upstream.app().session(era, &[]).await;
        let id = session.send_call(LIST, orders()).await;
        upstream.received(1).await;
        signal(session.child(), name).await;
        upstream.release();
        let answer = session.answer(id).await;
        assert_eq!(answer["result"]["structuredContent"]["backups"], json!([]));
        // Standard input is still open.
        assert!(session.child().wait().await.unwrap().success());
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_signal_ends_an_idle_process_though_standard_input_is_open() {
    // The hangup is that of a closed terminal.
    for (era, name) in ERAS.into_iter().zip(["TERM", "HUP"]) {
        let mut open = sandbox_session(era, &[]).await;
        signal(open.child(), name).await;
        assert!(open.child().wait().await.unwrap().success());
        assert!(open.finish().await.status.success());
    }
    // Before any message, and where standard input is no pipe.
    let app = TestApp::new(&[]);
    for stdin in [
        Stdio::piped(),
        Stdio::from(std::fs::File::open("/dev/zero").unwrap()),
    ] {
        let mut child = app
            .command(&["--sandbox", "--log-format", "json"])
            .stdin(stdin)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = log.next_line().await.unwrap().unwrap();
        assert!(ready.contains("serving"), "{ready}");
        signal(&child, "TERM").await;
        assert!(child.wait().await.unwrap().success());
    }
}

/// As Java's `Process.destroy` does it. No call is in flight, so none is cut short.
#[cfg(unix)]
#[tokio::test]
async fn a_signal_together_with_the_end_of_input_is_an_end_like_any_other() {
    for signal_first in [true, false] {
        let mut session = sandbox_session(Era::Handshake, &[]).await;
        session.call(LIST, orders()).await;
        if signal_first {
            signal(session.child(), "TERM").await;
        }
        session.close_stdin();
        if !signal_first && session.child().try_wait().unwrap().is_none() {
            // It may have ended meanwhile.
            let process = session.child().id().unwrap().to_string();
            let _ = tokio::process::Command::new("kill")
                .arg(process)
                .status()
                .await;
        }
        assert!(session.finish().await.status.success());
    }
}

#[tokio::test]
async fn a_host_that_leaves_at_once_is_no_error() {
    let end = TestApp::new(&[]).run(&["--sandbox"]).await;
    assert!(end.status.success());
    assert_eq!(end.stdout, "");
}

/// `script` gives it a terminal.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn started_by_hand_it_says_what_it_waits_for() {
    let words = "waiting for a host on standard input; try `http --sandbox` or `check`";
    let app = TestApp::new(&[]);
    let program = format!(
        "exec '{}' --sandbox",
        env!("CARGO_BIN_EXE_qovery-backups-mcp")
    );
    let mut script = tokio::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &program, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .current_dir(app.directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut screen = BufReader::new(script.stdout.take().unwrap()).lines();
    let seen = async {
        while !screen.next_line().await.unwrap().unwrap().contains(words) {}
        // Ctrl+C.
        let mut keyboard = script.stdin.take().unwrap();
        keyboard.write_all(b"\x03").await.unwrap();
        script.wait().await.unwrap()
    };
    let ended = timeout(TEST_TIMEOUT, seen).await.unwrap();
    assert!(ended.success(), "{ended:?}");

    let end = app.run(&["--sandbox"]).await;
    lacks(&end.stderr, [words]);
}

#[tokio::test]
async fn starting_asks_nothing_of_the_upstream() {
    let upstream = Upstream::always(Reply::Hang).await;
    for era in ERAS {
        let mut session = upstream.app().session(era, &[]).await;
        session.request("tools/list", json!({})).await;
        assert!(session.finish().await.status.success());
    }
    assert_eq!(upstream.requests().len(), 0);
}

/// A host may never read standard error: calls are answered while its pipe is full.
#[tokio::test]
async fn an_unread_log_stops_no_call() {
    let app = TestApp::new(&[]);
    let mut child = app
        .command(&["--sandbox", "--log", "trace"])
        .spawn()
        .unwrap();
    let _never_read = child.stderr.take().unwrap();
    let mut session = Client::over_stdio(child, Era::Handshake);
    session.open().await;
    // Each writes about a dozen lines, 4 kB: far more than the pipe and the queue before it hold.
    for _ in 0..500 {
        session
            .ok(LIST, json!({ "databaseId": Sandbox::SESSIONS }))
            .await;
    }
    session.close_stdin();
    assert!(session.child().wait().await.unwrap().success());
}
