//! A change that is called off, and a process that ends in the midst of one: nothing more is sent, and
//! what was sent has an outcome.

use std::{fs, path::PathBuf};

use futures_util::future::join_all;
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    helpers::{
        ERAS, Era, Reply, Session, TestApp, Upstream, backup, backup_id, held_page, held_reply,
        hurry, json_reply, page, reply, sandbox_session, signal,
    },
    helpers_http::{Connection, Request, Server, backups_of},
    helpers_ledger::{Caller, Deed, FACES, Face, Fate, GOOD, Ledger, Says, database},
};

const ADD: &str = "add-backup-database";
const REMOVE: &str = "remove-database-backup";

fn addition() -> Value {
    json!({ "databaseId": Sandbox::ORDERS, "name": "a", "message": "" })
}

fn removal() -> Value {
    json!({ "databaseId": Sandbox::ORDERS, "backupId": backup_id(1) })
}

/// An upstream that lists three backups before any change, and what `after` says once there was one;
/// to the change number `n` (from 0) it says what `change` says.
async fn upstream(
    after: Reply,
    change: impl Fn(usize) -> Reply + Send + Sync + 'static,
) -> Upstream {
    let changes = std::sync::atomic::AtomicUsize::new(0);
    Upstream::start(move |_, line| {
        use std::sync::atomic::Ordering::SeqCst;
        if !line.starts_with("GET ") {
            change(changes.fetch_add(1, SeqCst))
        } else if changes.load(SeqCst) == 0 {
            still_there()
        } else {
            after.clone()
        }
    })
    .await
}

/// How many requests there were to change something.
fn changes(upstream: &Upstream) -> usize {
    let requests = upstream.requests();
    requests
        .iter()
        .filter(|request| !request.starts_with("GET "))
        .count()
}

fn created() -> Value {
    backup(4, "QUEUED")
}

/// An audit log, and what it says: each change's outcome, none for an intent without one.
struct Log(TempDir);

impl Log {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("audit.jsonl")
    }

    fn app(&self, upstream: &Upstream) -> TestApp {
        let mut app = TestApp::with_upstream(&upstream.url());
        let path = self.path().to_str().unwrap().to_owned();
        app.variables.push(("QOVERY_BACKUPS_AUDIT_LOG", path));
        app
    }

    fn outcomes(&self) -> Vec<Option<String>> {
        let text = fs::read_to_string(self.path()).unwrap_or_default();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let of = |phase: &'static str| lines.iter().filter(move |line| line["phase"] == phase);
        of("intent")
            .map(|intent| {
                let mut outcomes =
                    of("outcome").filter(|line| line["change_id"] == intent["change_id"]);
                let outcome = outcomes.next()?["outcome"].as_str().unwrap().to_owned();
                assert!(outcomes.next().is_none(), "{text}");
                Some(outcome)
            })
            .collect()
    }
}

/// The outcome of the only change, once it is in the log.
async fn outcome(server: &Server) -> String {
    let is_it = |line: &Value| line["fields"]["phase"] == "outcome";
    let line = server.log.line(is_it).await;
    line["fields"]["outcome"].as_str().unwrap().to_owned()
}

fn gone() -> Reply {
    page(&[backup(2, "READY"), backup(3, "READY")])
}

fn still_there() -> Reply {
    page(&[backup(1, "READY"), backup(2, "READY"), backup(3, "READY")])
}

/// Takes a call back.
async fn cancel(session: &mut Session, id: u64) {
    let cancelled = json!({
        "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id }
    });
    session.send(cancelled.to_string().as_bytes()).await;
    // It is read before this request, which is answered.
    session.request("tools/list", json!({})).await;
}

/// Posts a removal over an interface, on a connection of its own.
async fn posted(server: &Server, interface: Face, tool: &'static str) -> Connection {
    let mut caller = Caller::of(server, interface).await;
    let request = if tool == ADD {
        caller.add(Sandbox::ORDERS, "a", "")
    } else {
        caller.remove(Sandbox::ORDERS, &backup_id(1))
    };
    let address = match interface {
        Face::Mcp => server.mcp,
        Face::Rest => server.rest,
    };
    let mut connection = Connection::open(address).await;
    connection.write(&request.bytes(address)).await;
    connection
}

#[tokio::test]
async fn nothing_more_is_sent_once_its_caller_has_left() {
    let cases = [
        // What Qovery said, what it lists then, and what has become of the change.
        ("429 Too Many Requests", still_there(), "not_applied"),
        ("503 Service Unavailable", gone(), "applied"),
        ("500 Internal Server Error", still_there(), "not_applied"),
        ("503 Service Unavailable", still_there(), "unknown"),
    ];
    let all = FACES
        .into_iter()
        .flat_map(|face| cases.clone().map(|case| (face, case)));
    let checks = all.map(async |(interface, (status, after, expected))| {
        let mut upstream = upstream(after, move |_| reply(status, "Retry-After: 5\r\n", "")).await;
        let app = TestApp::with_upstream(&upstream.url());
        let server = app.serve(&[]).await;
        let connection = posted(&server, interface, REMOVE).await;
        upstream.received(2).await;
        drop(connection);
        assert_eq!(outcome(&server).await, expected, "{interface:?} {status}");
        assert_eq!(changes(&upstream), 1, "{interface:?} {status}");
        let last = upstream.requests().pop().unwrap();
        assert_eq!(last.starts_with("GET "), status.starts_with('5'), "{last}");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn nothing_more_is_sent_once_its_host_has_cancelled_it() {
    for era in ERAS {
        let mut upstream = upstream(still_there(), |_| {
            reply("429 Too Many Requests", "Retry-After: 5\r\n", "")
        })
        .await;
        let log = Log::new();
        let mut session = log.app(&upstream).session(era, &[]).await;
        let id = session.post_call(REMOVE, removal()).await;
        upstream.received(2).await;
        cancel(&mut session, id).await;
        let end = session.finish().await;
        assert!(end.status.success(), "{}", end.stderr);
        assert_eq!(end.stdout, "");
        assert_eq!(changes(&upstream), 1);
        assert_eq!(log.outcomes(), [Some("not_applied".to_owned())]);
    }
}

/// While the audit log is locked by somebody else.
#[tokio::test]
async fn nothing_is_sent_once_a_change_that_waits_for_its_record_is_called_off() {
    let lock = |log: &Log| {
        fs::write(log.path(), "").unwrap();
        let file = fs::File::open(log.path()).unwrap();
        file.lock().unwrap();
        file
    };
    // It was called off before the record or after it.
    let assert_known = |log: &Log| {
        let outcomes = log.outcomes();
        let known = |outcome: &Option<String>| outcome.as_deref() == Some("not_applied");
        assert!(
            outcomes.len() <= 1 && outcomes.iter().all(known),
            "{outcomes:?}"
        );
    };
    let removable = || upstream(still_there(), |_| reply("204 No Content", "", ""));

    let (mut upstream, log) = (removable().await, Log::new());
    let file = lock(&log);
    let server = log.app(&upstream).serve(&[]).await;
    let connection = posted(&server, Face::Rest, REMOVE).await;
    upstream.received(1).await;
    drop(connection);
    let abandoned = |line: &Value| line["fields"]["outcome"] == "abandoned";
    server.log.line(abandoned).await;
    file.unlock().unwrap();
    assert_eq!(server.finish().await.status.code(), Some(0));
    assert_eq!(changes(&upstream), 0);
    assert_known(&log);

    for era in ERAS {
        let (mut upstream, log) = (removable().await, Log::new());
        let file = lock(&log);
        let mut session = log.app(&upstream).session(era, &[]).await;
        let id = session.post_call(REMOVE, removal()).await;
        upstream.received(1).await;
        cancel(&mut session, id).await;
        file.unlock().unwrap();
        assert_eq!(session.finish().await.status.code(), Some(0));
        assert_eq!(changes(&upstream), 0);
        assert_known(&log);
    }
}

/// While all of the requests that there may be at once are on their way to Qovery.
#[tokio::test]
async fn nothing_is_sent_once_a_change_that_waits_for_others_is_called_off() {
    for interface in FACES {
        let mut upstream = Upstream::always(held_page()).await;
        let server = TestApp::with_upstream(&upstream.url()).serve(&[]).await;
        let list = Request::get(&backups_of(Sandbox::ORDERS));
        let others = join_all((0..64).map(async |_| list.send(server.rest).await));
        let called_off = async {
            upstream.received(64).await;
            let connection = posted(&server, interface, ADD).await;
            server
                .log
                .line(|line| line["fields"]["phase"] == "intent")
                .await;
            drop(connection);
            assert_eq!(outcome(&server).await, "not_applied");
            upstream.release();
        };
        let (answers, ()) = tokio::join!(others, called_off);
        assert!(answers.iter().all(|answer| answer.status == 200));
        assert_eq!(server.finish().await.status.code(), Some(0));
        assert_eq!(changes(&upstream), 0);
    }
}

#[tokio::test]
async fn a_change_that_was_sent_is_answered_after_standard_input_closes() {
    for era in ERAS {
        let mut upstream = upstream(still_there(), |_| {
            held_reply("201 Created", &created().to_string())
        })
        .await;
        let log = Log::new();
        let mut session = log.app(&upstream).session(era, &[]).await;
        let id = session.post_call(ADD, addition()).await;
        upstream.received(1).await;
        session.close_stdin();
        upstream.release();
        let answer = session.answer(id).await;
        let added = &answer["result"]["structuredContent"];
        assert_eq!(added["id"], created()["id"], "{answer}");
        let end = session.finish().await;
        assert_eq!(end.status.code(), Some(0), "{}", end.stderr);
        assert_eq!(log.outcomes(), [Some("applied".to_owned())]);
    }
}

/// What its host sends before it closes standard input is done, as in a script.
#[tokio::test]
async fn a_change_before_the_end_of_standard_input_is_made() {
    let mut session = sandbox_session(Era::Stateless, &[]).await;
    let id = session.post_call(ADD, addition()).await;
    session.close_stdin();
    let answer = session.answer(id).await;
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    assert_eq!(session.finish().await.status.code(), Some(0));
}

#[tokio::test]
async fn nothing_is_attempted_again_once_the_process_ends() {
    let again = || reply("429 Too Many Requests", "Retry-After: 5\r\n", "");
    for era in ERAS {
        let mut upstream = upstream(still_there(), move |_| again()).await;
        let log = Log::new();
        let mut session = log.app(&upstream).session(era, &[]).await;
        let id = session.post_call(REMOVE, removal()).await;
        upstream.received(2).await;
        session.close_stdin();
        let answer = session.answer(id).await;
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        assert_eq!(session.finish().await.status.code(), Some(0));
        assert_eq!(changes(&upstream), 1);
        assert_eq!(log.outcomes(), [Some("not_applied".to_owned())]);
    }
    for interface in FACES {
        let mut upstream = upstream(still_there(), move |_| again()).await;
        let log = Log::new();
        let server = log.app(&upstream).serve(&[]).await;
        let mut connection = posted(&server, interface, REMOVE).await;
        upstream.received(2).await;
        server.signal("TERM").await;
        let answer = connection.answer_to(b"", true).await;
        assert!(answer.text().contains("Nothing was changed."), "{answer:?}");
        assert_eq!(server.wait().await.status.code(), Some(0));
        assert_eq!(changes(&upstream), 1);
        assert_eq!(log.outcomes(), [Some("not_applied".to_owned())]);
    }
}

/// An answer that never comes is waited for as long as an attempt may take, and no longer.
#[tokio::test]
async fn an_outcome_that_stays_unknown_is_on_record_when_the_process_ends() {
    let over_stdio = ERAS.map(async |era| {
        let mut upstream = upstream(still_there(), |_| Reply::Hang).await;
        let log = Log::new();
        let mut session = log.app(&upstream).hasty().session(era, &[]).await;
        session.post_call(ADD, addition()).await;
        upstream.received(1).await;
        let end = session.finish().await;
        assert_eq!(end.status.code(), Some(1), "{}", end.stderr);
        assert_eq!(log.outcomes(), [Some("unknown".to_owned())]);
    });
    let over_http = FACES.map(async |interface| {
        let mut upstream = upstream(still_there(), |_| Reply::Hang).await;
        let log = Log::new();
        let server = log.app(&upstream).hasty().serve(&[]).await;
        let _connection = posted(&server, interface, ADD).await;
        upstream.received(1).await;
        let end = server.finish().await;
        assert_eq!(end.status.code(), Some(1), "{}", end.stderr);
        assert_eq!(log.outcomes(), [Some("unknown".to_owned())]);
        assert_eq!(changes(&upstream), 1);
    });
    tokio::join!(join_all(over_stdio), join_all(over_http));
}

/// Hosts close standard input, and send a signal two seconds later. An attempt may take ten.
#[tokio::test]
async fn a_signal_after_the_end_of_standard_input_hurries_the_process() {
    for era in ERAS {
        let mut upstream = upstream(still_there(), |_| Reply::Hang).await;
        let log = Log::new();
        let mut session = log.app(&upstream).session(era, &[]).await;
        session.post_call(ADD, addition()).await;
        upstream.received(1).await;
        session.close_stdin();
        hurry(&mut session.child).await;
        let end = session.finish().await;
        assert_eq!(end.status.code(), Some(1), "{}", end.stderr);
        assert_eq!(log.outcomes(), [Some("unknown".to_owned())]);
    }
}

#[tokio::test]
async fn a_hangup_ends_the_process_in_order() {
    let mut upstream = upstream(still_there(), |_| {
        held_reply("201 Created", &created().to_string())
    })
    .await;
    let log = Log::new();
    let server = log.app(&upstream).serve(&[]).await;
    let mut connection = posted(&server, Face::Rest, ADD).await;
    upstream.received(1).await;
    server.signal("HUP").await;
    server.log.message("draining").await;
    upstream.release();
    assert_eq!(connection.answer_to(b"", true).await.status, 201);
    assert_eq!(server.wait().await.status.code(), Some(0));
    assert_eq!(log.outcomes(), [Some("applied".to_owned())]);
}

/// As `nohup` starts it.
#[tokio::test]
async fn a_hangup_that_is_ignored_at_the_start_stays_ignored() {
    let app = TestApp::new(&[]);
    let program = app.command(&[]).as_std().get_program().to_owned();
    let mut nohup = tokio::process::Command::new("sh");
    nohup
        .arg("-c")
        .arg("trap '' HUP; exec \"$0\" \"$@\"")
        .arg(program)
        .args(["--sandbox"]);
    nohup
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    let mut session = Session::new(nohup.spawn().unwrap(), Era::Handshake);
    session.open().await;
    signal(&session.child, "HUP").await;
    let tools = session.request("tools/list", json!({})).await;
    assert!(tools["result"]["tools"].is_array(), "{tools}");
    signal(&session.child, "TERM").await;
    assert!(session.child.wait().await.unwrap().success());
}

/// A change that would be cut off is not sent.
#[tokio::test]
async fn a_pause_that_leaves_no_time_for_an_attempt_is_not_waited_for() {
    for (interface, tool) in [(Face::Rest, ADD), (Face::Mcp, ADD), (Face::Rest, REMOVE)] {
        // Twenty seconds are left for attempts of ten.
        let upstream = upstream(still_there(), |_| {
            reply("429 Too Many Requests", "Retry-After: 10\r\n", "")
        })
        .await;
        let server = TestApp::with_upstream(&upstream.url()).serve(&[]).await;
        let mut connection = posted(&server, interface, tool).await;
        let answer = connection.answer_to(b"", true).await.text();
        assert!(answer.contains("rate limit is reached (429)"), "{answer}");
        assert!(answer.contains("Nothing was changed."), "{answer}");
        assert_eq!(changes(&upstream), 1);
        assert_eq!(outcome(&server).await, "not_applied");
    }
}

#[tokio::test]
async fn not_found_after_a_failure_is_settled_by_the_list() {
    for (after, expected) in [(gone(), "applied"), (still_there(), "not_applied")] {
        let upstream = upstream(after, |number| match number {
            0 => reply("500 Internal Server Error", "", ""),
            _ => json_reply("404 Not Found", &json!({ "message": "Resource not found" })),
        })
        .await;
        let server = TestApp::with_upstream(&upstream.url()).serve(&[]).await;
        let mut connection = posted(&server, Face::Rest, REMOVE).await;
        let answer = connection.answer_to(b"", true).await;
        assert_eq!(outcome(&server).await, expected, "{answer:?}");
        assert_eq!(answer.status == 204, expected == "applied", "{answer:?}");
        assert!(upstream.requests().pop().unwrap().starts_with("GET "));
    }
}

/// It must not be taken for the one before it, which has the same name.
#[tokio::test]
async fn a_second_addition_is_not_found_in_the_first_ones_place() {
    for interface in FACES {
        let ledger = Ledger::start(|asked| match (asked.is_change(), asked.number) {
            (true, 0) => Fate::new(Deed::Done, Says::Half),
            (true, _) => Fate::new(Deed::Undone, Says::Else(Reply::Reset)),
            (false, _) => Fate::default(),
        })
        .await;
        ledger.open(&database(1), &[GOOD]);
        let server = TestApp::with_upstream(&ledger.url()).serve(&[]).await;
        let mut caller = Caller::of(&server, interface).await;
        let first = caller.added(&database(1), "a", "").await;
        assert_eq!(first.outcome, "applied", "{first:?}");
        let mut caller = Caller::of(&server, interface).await;
        let second = caller.added(&database(1), "a", "").await;
        assert_eq!(second.outcome, "unknown", "{second:?}");
        assert_eq!(ledger.backups(&database(1)).len(), 2);
    }
}

/// What was not sent, or what Qovery refused, uses up nothing of the hour.
#[tokio::test]
async fn what_was_not_made_is_given_back() {
    let refusals = ["401 Unauthorized", "403 Forbidden", "429 Too Many Requests"];
    let upstream = upstream(still_there(), move |number| match refusals.get(number) {
        Some(status) => reply(status, "Retry-After: 60\r\n", ""),
        None => json_reply("201 Created", &created()),
    })
    .await;
    let log = Log::new();
    let nowhere = log.0.path().join("later");
    let app = TestApp::with_upstream(&upstream.url());
    let path = nowhere.join("audit.jsonl");
    fs::create_dir(&nowhere).unwrap();
    let arguments = [
        "--audit-log",
        path.to_str().unwrap(),
        "--changes-per-hour",
        "1",
    ];
    let server = app.serve(&arguments).await;
    fs::remove_dir(&nowhere).unwrap();
    let mut caller = Caller::of(&server, Face::Rest).await;
    let told = caller.added(Sandbox::ORDERS, "a", "").await;
    told.answer.problem(500, "unaudited");
    assert_eq!(changes(&upstream), 0);
    fs::create_dir(&nowhere).unwrap();
    for _ in refusals {
        let told = caller.added(Sandbox::ORDERS, "a", "").await;
        assert_eq!(told.outcome, "not_applied", "{told:?}");
    }
    assert!(caller.added(Sandbox::ORDERS, "a", "").await.ok);
    let told = caller.added(Sandbox::ORDERS, "a", "").await;
    told.answer.problem(429, "limit_reached");
    assert_eq!(changes(&upstream), 4);
}
