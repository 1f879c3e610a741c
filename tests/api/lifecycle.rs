//! How a session ends, and what does not end it.

use std::process::Stdio;

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::{
    app::{TestApp, force_end, sandbox_session, signal},
    clients::{Client, ERAS, Era, initialize_params},
    upstreams::{Reply, Upstream, held_page},
};

const LIST: &str = "list-database-backups";

/// A session whose call has reached its upstream, which replies so; and the call's id.
async fn call_in_flight(era: Era, reply: Reply) -> (Upstream, Client, u64) {
    let mut upstream = Upstream::always(reply).await;
    let app = TestApp::with_upstream(&upstream.url());
    let mut session = app.session(era, &[]).await;
    let arguments = json!({ "databaseId": Sandbox::ORDERS });
    let id = session.send_call(LIST, arguments).await;
    upstream.received(1).await;
    (upstream, session, id)
}

#[tokio::test]
async fn a_call_in_flight_is_answered_after_standard_input_closes() {
    for era in ERAS {
        let (upstream, mut session, id) = call_in_flight(era, held_page()).await;
        session.close_stdin();
        upstream.release();
        let answer = session.answer(id).await;
        assert_eq!(answer["result"]["structuredContent"]["backups"], json!([]));
        let end = session.finish().await;
        assert!(end.status.success(), "{:?}", end.status);
        assert_eq!(end.stdout, "");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_call_in_flight_is_answered_after_a_signal() {
    for (era, name) in [
        (Era::Handshake, "TERM"),
        (Era::Stateless, "TERM"),
        (Era::Handshake, "INT"),
    ] {
        let (upstream, mut session, id) = call_in_flight(era, held_page()).await;
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
    for era in ERAS {
        let mut open = sandbox_session(era, &[]).await;
        signal(open.child(), "TERM").await;
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

#[cfg(unix)]
#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let (_upstream, mut session, _) = call_in_flight(Era::Handshake, Reply::Hang).await;
    force_end(session.child()).await;
    assert_eq!(session.child().wait().await.unwrap().code(), Some(1));
}

/// As Java's `Process.destroy` does it. No call is in flight, so none is cut short.
#[cfg(unix)]
#[tokio::test]
async fn a_signal_together_with_the_end_of_input_is_an_end_like_any_other() {
    for signal_first in [true, false] {
        let mut session = sandbox_session(Era::Handshake, &[]).await;
        session
            .call(LIST, json!({ "databaseId": Sandbox::ORDERS }))
            .await;
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

/// A host may never read standard error. All calls are sent and answered while its pipe is full.
#[tokio::test]
async fn an_unread_log_stops_no_call() {
    // Each writes about a dozen lines, 4 kB: far more than the pipe and the queue before it hold.
    const CALLS: u32 = 500;
    let app = TestApp::new(&[]);
    let mut child = app
        .command(&["--sandbox", "--log", "trace"])
        .spawn()
        .unwrap();
    let _never_read = child.stderr.take().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    let handshake = json!({
        "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": initialize_params()
    });
    let calls = (1..=CALLS).map(|id| {
        json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {
            "name": LIST, "arguments": { "databaseId": Sandbox::SESSIONS }
        } })
    });
    let lines: Vec<String> = std::iter::once(handshake)
        .chain(calls)
        .map(|m| m.to_string())
        .collect();
    let sender = tokio::spawn(async move {
        stdin
            .write_all((lines.join("\n") + "\n").as_bytes())
            .await
            .unwrap();
        stdin
    });
    let mut answered = 0;
    while answered <= CALLS {
        let line = tokio::time::timeout(std::time::Duration::from_secs(60), stdout.next_line());
        let line = line.await.expect("an answer in time").unwrap().unwrap();
        assert!(
            line.contains("\"result\"") && !line.contains("\"isError\":true"),
            "{line}"
        );
        answered += 1;
    }
    drop(sender.await.unwrap());
    assert!(child.wait().await.unwrap().success());
}
