//! A change whose call is cancelled, and a process that ends in the middle of one: nothing more is sent,
//! and what was sent has an outcome.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    app::{Server, TestApp, force_end, sandbox_session, signal},
    clients::{ADD, Caller, Client, ERAS, Era, INTERFACES, Interface, LIST, REMOVE, order, orders},
    connection::Connection,
    expect::{contains, content_of},
    upstreams::{
        Reply, Upstream, backup_id, backups, closed_port, held_page, held_reply, json_reply, page,
        recent, reply,
    },
};

fn addition() -> Value {
    json!({ "databaseId": Sandbox::ORDERS, "name": "a", "message": "" })
}

/// Lists three backups before any change, and answers as `after` says once there was one; the change
/// number `n` (from 0) is answered as `change` says.
async fn upstream(
    after: Reply,
    change: impl Fn(usize) -> Reply + Send + Sync + 'static,
) -> Upstream {
    let changes = AtomicUsize::new(0);
    Upstream::start(move |_, line| {
        if !line.starts_with("GET ") {
            change(changes.fetch_add(1, Ordering::SeqCst))
        } else if changes.load(Ordering::SeqCst) == 0 {
            still_there()
        } else {
            after.clone()
        }
    })
    .await
}

/// Each change is answered so.
async fn changes_answered(reply: Reply) -> Upstream {
    upstream(still_there(), move |_| reply.clone()).await
}

fn again_later() -> Reply {
    reply("429 X", "Retry-After: 5\r\n", "")
}

fn held_creation() -> Reply {
    held_reply("201 Created", &created().to_string())
}

fn created() -> Value {
    recent(4, "QUEUED")
}

fn gone() -> Reply {
    page(&backups(3)[1..])
}

fn still_there() -> Reply {
    page(&backups(3))
}

/// An audit file.
struct AuditFile(TempDir);

impl AuditFile {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("audit.jsonl")
    }

    fn app(&self, upstream: &Upstream) -> TestApp {
        let path = self.path().to_str().unwrap().to_owned();
        upstream.app().with("QOVERY_BACKUPS_AUDIT_LOG", path)
    }

    /// The outcome of each intent; `none` without one.
    fn outcomes(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path()).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let lines: Vec<Value> = lines.collect();
        let of = |phase: &'static str| lines.iter().filter(move |line| line["phase"] == phase);
        let outcome = |intent: &Value| {
            let same = |line: &&Value| line["change_id"] == intent["change_id"];
            let outcomes: Vec<&Value> = of("outcome").filter(same).collect();
            assert!(outcomes.len() <= 1, "{text}");
            let outcome = outcomes
                .first()
                .map(|line| line["outcome"].as_str().unwrap());
            outcome.unwrap_or("none").to_owned()
        };
        of("intent").map(outcome).collect()
    }
}

/// The outcome of the only change, once it is in the log.
async fn outcome(server: &Server) -> String {
    let matches = |line: &Value| line["fields"]["phase"] == "outcome";
    let line = server.log.line(matches).await;
    line["fields"]["outcome"].as_str().unwrap().to_owned()
}

/// Cancels a call over stdio, and waits until that was read.
async fn cancel(session: &mut Client, id: u64) {
    session.cancel(id).await;
    session.request("tools/list", json!({})).await;
}

/// Starts a change over an interface, on a connection of its own.
async fn started(server: &Server, interface: Interface, tool: &'static str) -> Connection {
    let mut caller = Caller::of(server, interface).await;
    let request = if tool == ADD {
        caller.add(Sandbox::ORDERS, "a", "")
    } else {
        caller.remove(Sandbox::ORDERS, &backup_id(1))
    };
    caller.start(&request).await
}

#[tokio::test]
async fn a_change_is_not_attempted_again_once_its_caller_has_left() {
    let cases = [
        // What Qovery answers, what it lists then, and what has become of the change.
        ("429 X", still_there(), "not_applied"),
        ("503 X", gone(), "applied"),
        ("500 X", still_there(), "not_applied"),
        ("503 X", still_there(), "unknown"),
    ];
    let all = INTERFACES
        .into_iter()
        .flat_map(|interface| cases.clone().map(|case| (interface, case)));
    let checks = all.map(async |(interface, (status, after, expected))| {
        let reply = reply(status, "Retry-After: 5\r\n", "");
        let mut upstream = upstream(after, move |_| reply.clone()).await;
        let server = upstream.app().serve(&[]).await;
        let connection = started(&server, interface, REMOVE).await;
        upstream.received(2).await;
        drop(connection);
        assert_eq!(outcome(&server).await, expected, "{interface:?} {status}");
        assert_eq!(upstream.changes().len(), 1, "{interface:?} {status}");
        let last = upstream.lines().pop().unwrap();
        assert_eq!(last.starts_with("GET "), status.starts_with('5'), "{last}");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn an_addition_that_was_sent_is_made_though_its_caller_has_left() {
    for (interface, called) in [(Interface::Mcp, "ok"), (Interface::Rest, "abandoned")] {
        let mut upstream = Upstream::always(held_creation()).await;
        let server = upstream.app().serve(&[]).await;
        let mut caller = Caller::of(&server, interface).await;
        let request = caller.add(Sandbox::ORDERS, "a", "");
        let request = request.header("X-Request-Id", "left");
        let connection = caller.start(&request).await;
        upstream.received(1).await;
        drop(connection);
        upstream.release();
        assert_eq!(server.call("left").await["outcome"], called);
        assert_eq!(outcome(&server).await, "applied");
        assert_eq!(upstream.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_change_is_not_attempted_again_once_it_is_cancelled() {
    for era in ERAS {
        let mut upstream = changes_answered(again_later()).await;
        let audit = AuditFile::new();
        let mut session = audit.app(&upstream).session(era, &[]).await;
        let id = session.send_call(REMOVE, order(1)).await;
        upstream.received(2).await;
        cancel(&mut session, id).await;
        let end = session.finish().await;
        assert!(end.status.success(), "{}", end.stderr);
        assert_eq!(end.stdout, "");
        assert_eq!(upstream.changes().len(), 1);
        assert_eq!(audit.outcomes(), ["not_applied"]);
    }
}

/// Cancelled or left while the list is read: the change was not sent yet, and is not any more.
#[tokio::test]
async fn a_change_that_was_not_sent_is_not_sent_once_it_is_cancelled() {
    let list = json!({ "page": 1, "page_size": 20, "results": backups(2) }).to_string();
    for era in ERAS {
        let mut upstream = Upstream::always(held_reply("200 OK", &list)).await;
        let mut session = upstream.app().session(era, &[]).await;
        let id = session.send_call(REMOVE, order(1)).await;
        upstream.received(1).await;
        cancel(&mut session, id).await;
        upstream.release();
        let log = session.finish().await.stderr;
        contains(&log, ["outcome=\"cancelled\""]);
        assert_eq!(upstream.requests().len(), 1, "{era:?}");
    }
    let mut upstream = Upstream::always(held_reply("200 OK", &list)).await;
    let server = upstream.app().serve(&[]).await;
    let mut caller = Caller::of(&server, Interface::Rest).await;
    let request = caller.remove(Sandbox::ORDERS, &backup_id(1));
    let connection = caller.start(&request.header("X-Request-Id", "left")).await;
    upstream.received(1).await;
    drop(connection);
    assert_eq!(server.call("left").await["outcome"], "abandoned");
    upstream.release();
    // It has given up the database's lock: the next change begins at once.
    caller.added(Sandbox::ORDERS, "n", "m").await;
    let post = format!("POST /database/{}/backup HTTP/1.1", Sandbox::ORDERS);
    assert_eq!(upstream.changes(), [post]);
}

/// While another process has locked the audit file.
#[tokio::test]
async fn a_change_that_waits_for_its_record_is_not_sent_once_it_is_cancelled() {
    let lock = |audit: &AuditFile| {
        fs::write(audit.path(), "").unwrap();
        let file = fs::File::open(audit.path()).unwrap();
        file.lock().unwrap();
        file
    };
    // It was cancelled before the record or after it.
    let assert_known = |audit: &AuditFile| {
        let outcomes = audit.outcomes();
        let known = outcomes.iter().all(|outcome| outcome == "not_applied");
        assert!(outcomes.len() <= 1 && known, "{outcomes:?}");
    };
    let removed = reply("204 No Content", "", "");

    let (mut upstream, audit) = (changes_answered(removed.clone()).await, AuditFile::new());
    let file = lock(&audit);
    let server = audit.app(&upstream).serve(&[]).await;
    let connection = started(&server, Interface::Rest, REMOVE).await;
    upstream.received(1).await;
    drop(connection);
    let abandoned = |line: &Value| line["fields"]["outcome"] == "abandoned";
    server.log.line(abandoned).await;
    file.unlock().unwrap();
    assert_eq!(server.finish().await.status.code(), Some(0));
    assert_eq!(upstream.changes(), [""; 0]);
    assert_known(&audit);

    for era in ERAS {
        let (mut upstream, audit) = (changes_answered(removed.clone()).await, AuditFile::new());
        let file = lock(&audit);
        let mut session = audit.app(&upstream).session(era, &[]).await;
        let id = session.send_call(REMOVE, order(1)).await;
        upstream.received(1).await;
        cancel(&mut session, id).await;
        file.unlock().unwrap();
        assert_eq!(session.finish().await.status.code(), Some(0));
        assert_eq!(upstream.changes(), [""; 0]);
        assert_known(&audit);
    }
}

/// While as many requests to Qovery are in flight as there may be.
#[tokio::test]
async fn a_change_that_waits_for_other_requests_is_not_sent_once_it_is_cancelled() {
    for era in ERAS {
        let mut upstream = Upstream::always(held_page()).await;
        let audit = AuditFile::new();
        let mut session = audit.app(&upstream).session(era, &[]).await;
        for _ in 0..64 {
            session.send_call(LIST, orders()).await;
        }
        upstream.received(64).await;
        let id = session.send_call(ADD, addition()).await;
        while audit.outcomes().is_empty() {
            session.request("tools/list", json!({})).await;
        }
        cancel(&mut session, id).await;
        upstream.release();
        assert_eq!(session.finish().await.status.code(), Some(0));
        assert_eq!(upstream.changes(), [""; 0]);
        assert_eq!(audit.outcomes(), ["not_applied"]);
    }
}

#[tokio::test]
async fn a_change_that_was_sent_is_answered_after_standard_input_closes() {
    for era in ERAS {
        let mut upstream = changes_answered(held_creation()).await;
        let audit = AuditFile::new();
        let mut session = audit.app(&upstream).session(era, &[]).await;
        let id = session.send_call(ADD, addition()).await;
        upstream.received(1).await;
        session.close_stdin();
        upstream.release();
        let answer = session.answer(id).await;
        assert_eq!(content_of(&answer["result"])["id"], created()["id"]);
        let end = session.finish().await;
        assert_eq!(end.status.code(), Some(0), "{}", end.stderr);
        assert_eq!(audit.outcomes(), ["applied"]);
    }
    // What a script sends before it closes standard input is done.
    let mut session = sandbox_session(Era::Stateless, &[]).await;
    let id = session.send_call(ADD, addition()).await;
    session.close_stdin();
    content_of(&session.answer(id).await["result"]);
    assert_eq!(session.finish().await.status.code(), Some(0));
}

#[tokio::test]
async fn a_change_is_not_attempted_again_once_the_process_ends() {
    for era in ERAS {
        let mut upstream = changes_answered(again_later()).await;
        let audit = AuditFile::new();
        let mut session = audit.app(&upstream).session(era, &[]).await;
        let id = session.send_call(REMOVE, order(1)).await;
        upstream.received(2).await;
        session.close_stdin();
        let answer = session.answer(id).await;
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        assert_eq!(session.finish().await.status.code(), Some(0));
        assert_eq!(upstream.changes().len(), 1);
        assert_eq!(audit.outcomes(), ["not_applied"]);
    }
    for interface in INTERFACES {
        let mut upstream = changes_answered(again_later()).await;
        let audit = AuditFile::new();
        let server = audit.app(&upstream).serve(&[]).await;
        let mut connection = started(&server, interface, REMOVE).await;
        upstream.received(2).await;
        server.signal("TERM").await;
        contains(&connection.answer().await.text(), ["Nothing was changed."]);
        assert_eq!(server.wait().await.status.code(), Some(0));
        assert_eq!(upstream.changes().len(), 1);
        assert_eq!(audit.outcomes(), ["not_applied"]);
    }
}

/// An answer that never comes is waited for as long as an attempt may take, and no longer.
#[tokio::test]
async fn an_outcome_that_stays_unknown_is_on_record_when_the_process_ends() {
    let over_stdio = ERAS.map(async |era| {
        let mut upstream = changes_answered(Reply::Hang).await;
        let audit = AuditFile::new();
        let app = audit.app(&upstream).short_limits();
        let mut session = app.session(era, &[]).await;
        session.send_call(ADD, addition()).await;
        upstream.received(1).await;
        let end = session.finish().await;
        assert_eq!(end.status.code(), Some(1), "{}", end.stderr);
        assert_eq!(audit.outcomes(), ["unknown"]);
    });
    let over_http = INTERFACES.map(async |interface| {
        let mut upstream = changes_answered(Reply::Hang).await;
        let audit = AuditFile::new();
        let server = audit.app(&upstream).short_limits().serve(&[]).await;
        let _connection = started(&server, interface, ADD).await;
        upstream.received(1).await;
        let end = server.finish().await;
        assert_eq!(end.status.code(), Some(1), "{}", end.stderr);
        assert_eq!(audit.outcomes(), ["unknown"]);
        assert_eq!(upstream.changes().len(), 1);
    });
    tokio::join!(join_all(over_stdio), join_all(over_http));
}

/// Hosts close standard input, and send a signal two seconds later. An attempt may take ten.
#[tokio::test]
async fn a_signal_after_the_end_of_standard_input_shortens_the_wait() {
    for era in ERAS {
        let mut upstream = changes_answered(Reply::Hang).await;
        let audit = AuditFile::new();
        let mut session = audit.app(&upstream).session(era, &[]).await;
        session.send_call(ADD, addition()).await;
        upstream.received(1).await;
        session.close_stdin();
        force_end(session.child()).await;
        let end = session.finish().await;
        assert_eq!(end.status.code(), Some(1), "{}", end.stderr);
        assert_eq!(audit.outcomes(), ["unknown"]);
    }
}

/// As `nohup` starts it.
#[tokio::test]
async fn a_hangup_that_is_ignored_at_the_start_stays_ignored() {
    let app = TestApp::new(&[]);
    let program = env!("CARGO_BIN_EXE_qovery-backups-mcp");
    let mut nohup = tokio::process::Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" --sandbox", program]);
    let pipe = std::process::Stdio::piped;
    nohup.stdin(pipe()).stdout(pipe()).stderr(pipe());
    nohup.kill_on_drop(true).current_dir(app.directory.path());
    let mut session = Client::over_stdio(nohup.spawn().unwrap(), Era::Handshake);
    session.open().await;
    signal(session.child(), "HUP").await;
    let tools = session.request("tools/list", json!({})).await;
    assert!(tools["result"]["tools"].is_array(), "{tools}");
    signal(session.child(), "TERM").await;
    assert!(session.child().wait().await.unwrap().success());
}

/// A change that would be cut off is not sent.
#[tokio::test]
async fn a_pause_that_leaves_no_time_for_an_attempt_is_not_waited_for() {
    for (interface, tool) in [
        (Interface::Rest, ADD),
        (Interface::Mcp, ADD),
        (Interface::Rest, REMOVE),
    ] {
        // Twenty seconds are left for attempts of ten.
        let busy = reply("429 X", "Retry-After: 10\r\n", "");
        let upstream = changes_answered(busy).await;
        let server = upstream.app().serve(&[]).await;
        let mut connection = started(&server, interface, tool).await;
        let answer = connection.answer().await.text();
        contains(&answer, ["limit is reached (429)", "Nothing was changed."]);
        assert_eq!(upstream.changes().len(), 1);
        assert_eq!(outcome(&server).await, "not_applied");
    }
}

#[tokio::test]
async fn not_found_after_a_failure_is_settled_by_the_list() {
    for (after, expected) in [(gone(), "applied"), (still_there(), "not_applied")] {
        let upstream = upstream(after, |number| match number {
            0 => reply("500 X", "", ""),
            _ => json_reply("404 X", &json!({ "message": "Resource not found" })),
        })
        .await;
        let server = upstream.app().serve(&[]).await;
        let mut connection = started(&server, Interface::Rest, REMOVE).await;
        let answer = connection.answer().await;
        assert_eq!(outcome(&server).await, expected, "{answer:?}");
        assert_eq!(answer.status == 204, expected == "applied", "{answer:?}");
        assert!(upstream.lines().pop().unwrap().starts_with("GET "));
    }
}

/// What was sent counts against the hourly limit, whatever came back; what was not sent does not.
#[tokio::test]
async fn every_change_that_was_sent_counts() {
    let refusals = ["401 X", "403 X", "409 X", "429 X"];
    let upstream = upstream(still_there(), move |number| match refusals.get(number) {
        Some(status) => reply(status, "Retry-After: 60\r\n", ""),
        None => json_reply("201 Created", &created()),
    })
    .await;
    let audit = AuditFile::new();
    let server = audit
        .app(&upstream)
        .serve(&["--changes-per-hour", "5"])
        .await;
    let mut caller = Caller::of(&server, Interface::Rest).await;
    // The start may have made the file.
    let _ = fs::remove_file(audit.path());
    fs::create_dir(audit.path()).unwrap();
    let result = caller.added(Sandbox::ORDERS, "a", "").await;
    result.answer.problem(500, "unaudited");
    assert_eq!(upstream.changes(), [""; 0]);
    fs::remove_dir(audit.path()).unwrap();
    for _ in refusals {
        let result = caller.added(Sandbox::ORDERS, "a", "").await;
        assert_eq!(result.outcome, "not_applied", "{result:?}");
    }
    assert!(caller.added(Sandbox::ORDERS, "a", "").await.ok);
    let requests = upstream.requests().len();
    for _ in 0..3 {
        let result = caller.added(Sandbox::ORDERS, "a", "").await;
        let problem = result.answer.problem(429, "limit_reached");
        contains(
            problem["detail"].as_str().unwrap(),
            ["5 change(s) an hour, and they are used up."],
        );
    }
    assert_eq!(upstream.requests().len(), requests);
    assert_eq!(upstream.changes().len(), 5);

    // A removal that Qovery cannot make just now is tried three times, and counts once.
    let upstream = changes_answered(reply("409 X", "", "")).await;
    let mut session = upstream
        .app()
        .session(Era::Stateless, &["--changes-per-hour=2"])
        .await;
    for used_up in [false, false, true, true, true] {
        let text = session.refused(REMOVE, order(1)).await;
        assert_eq!(text.contains("they are used up"), used_up, "{text}");
    }
    assert_eq!(upstream.changes().len(), 2 * 3);

    // What never reached Qovery costs nothing, nor does what a rule forbids.
    let (_socket, url) = closed_port();
    let limit = ["--changes-per-hour=1"];
    let mut session = TestApp::with_upstream(&url)
        .session(Era::Stateless, &limit)
        .await;
    for _ in 0..3 {
        let text = session.refused(ADD, addition()).await;
        contains(&text, ["Qovery could not be reached"]);
    }
    let upstream = changes_answered(reply("204 X", "", "")).await;
    let mut session = upstream.app().session(Era::Stateless, &limit).await;
    for number in [3, 9, 3] {
        session.refused(REMOVE, order(number)).await;
    }
    assert_eq!(session.ok(REMOVE, order(1)).await["outcome"], "removed");

    let mut upstream = changes_answered(held_creation()).await;
    let mut session = upstream.app().session(Era::Stateless, &limit).await;
    let id = session.send_call(ADD, addition()).await;
    upstream.received(1).await;
    let text = session.refused(REMOVE, order(1)).await;
    contains(&text, ["they are used up, 1 of them by changes under way."]);
    upstream.release();
    content_of(&session.answer(id).await["result"]);
}
