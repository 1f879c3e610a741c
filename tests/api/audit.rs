//! Every change is on record: before it is made, and once its outcome is known.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    app::{Server, TestApp, repetitions, seed},
    clients::{Caller, Client, ERAS, Era, INTERFACES, Interface, REMOVE, can_ask, order, yes},
    expect::{contains, lacks},
    upstreams::{
        Reply, backup_id, json_reply,
        ledger::{
            Action, Behavior, Effect, Entry, GOOD, Ledger, Received, Response, database, trace,
        },
    },
};

/// The members of a line, in this order.
const FIELDS: &str = "time change_id request_id interface caller operation database_id backup_id \
                      name created_at consent asked_by phase reason outcome";
const TOKEN: &str = "7oken-of-ada-7oken-of-ada";
const NAME: &str = "before the migration";

/// The lines of an audit file, each of which is whole and has its members.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    let lines = text.lines().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| {
            panic!("{error} in {line:?}");
        });
        let fields: Vec<&str> = FIELDS.split(' ').collect();
        assert_eq!(record.as_object().unwrap().len(), fields.len(), "{line}");
        let places = fields
            .iter()
            .map(|field| line.find(&format!("\"{field}\":")));
        assert!(
            places.clone().all(|place| place.is_some()) && places.is_sorted(),
            "{line}"
        );
        let time = record["time"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.len() == 24, "{time}");
        time.parse::<DateTime<Utc>>().unwrap();
        record
    });
    lines.collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A server with an audit file, and a ledger that reads the file whenever it is asked for a change.
struct Audited {
    directory: TempDir,
    ledger: Ledger,
    server: Server,
    /// The lines when the last change was asked for.
    seen: Arc<Mutex<Vec<Value>>>,
}

impl Audited {
    async fn start(
        behavior: impl Fn(&Path) -> Behavior + Send + Sync + 'static,
        tokens: Option<&str>,
        arguments: &[&str],
    ) -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("logs")).unwrap();
        let path = directory.path().join("logs/audit.jsonl");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (file, last) = (path.clone(), Arc::clone(&seen));
        let ledger = Ledger::start(move |request| {
            if !request.is_change() {
                return Behavior::default();
            }
            if file.is_file() {
                *last.lock().unwrap() = lines(&file);
            }
            behavior(&file)
        })
        .await;
        ledger.open(&database(1), &[GOOD; 10]);
        let mut app = ledger.app();
        if let Some(tokens) = tokens {
            app = app.with("QOVERY_BACKUPS_ACCESS_TOKEN", tokens);
        }
        let path = path.to_str().unwrap();
        let all = [
            &["--audit-log", path, "--changes-per-hour", "unlimited"],
            arguments,
        ]
        .concat();
        Self {
            server: app.serve(&all).await,
            directory,
            ledger,
            seen,
        }
    }

    async fn obedient() -> Self {
        Self::start(|_| Behavior::default(), None, &[]).await
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("logs/audit.jsonl")
    }

    /// The last two lines, which have these members beside their phases. The first was there, as the
    /// last one, when the change was asked for.
    fn last(&self, expected: &Value, outcome: &str) -> [Value; 2] {
        let lines = lines(&self.path());
        let [before, after] = lines.last_chunk().unwrap();
        assert_eq!(self.seen.lock().unwrap()[..], lines[..lines.len() - 1]);
        for (line, phase, outcome) in [
            (before, "intent", Value::Null),
            (after, "outcome", json!(outcome)),
        ] {
            let phase = with(
                expected.clone(),
                json!({ "phase": phase, "outcome": outcome }),
            );
            for (field, value) in phase.as_object().unwrap() {
                assert_eq!(line[field], *value, "{field} of {line}");
            }
        }
        [before.clone(), after.clone()]
    }

    fn entry(&self, number: usize) -> Entry {
        self.ledger.backups(&database(1)).swap_remove(number)
    }

    fn newest(&self) -> Entry {
        self.ledger.backups(&database(1)).pop().unwrap()
    }
}

/// What a line says of a backup.
fn of(entry: &Entry) -> Value {
    let created_at = &entry.json()["created_at"];
    json!({ "backup_id": entry.id, "name": entry.name, "created_at": created_at })
}

fn with(mut record: Value, more: Value) -> Value {
    let Value::Object(more) = more else {
        unreachable!("an object");
    };
    record.as_object_mut().unwrap().extend(more);
    record
}

/// Adds and removes a backup, and reads what is recorded of it.
async fn assert_recorded(audited: &Audited, caller: &mut Caller, who: Value) {
    let id = database(1);
    let who = with(who, json!({ "database_id": id }));
    let request = caller.add(&id, NAME, "m").header("X-Request-Id", "one");
    assert!(caller.send(&request).await.ok);
    let more = json!({ "operation": "add", "name": NAME, "request_id": "one" });
    let [before, after] = audited.last(&with(who.clone(), more), "applied");
    assert!(before["backup_id"].is_null() && before["created_at"].is_null());
    let facts = json!({ "phase": "outcome", "outcome": "applied", "time": after["time"] });
    assert_eq!(after, with(with(before, of(&audited.newest())), facts));

    let old = audited.entry(0);
    let request = caller.remove(&id, &old.id).header("X-Request-Id", "two");
    assert!(caller.send(&request).await.ok);
    let removal = json!({ "operation": "remove", "request_id": "two" });
    audited.last(&with(with(who, removal), of(&old)), "applied");
    assert_eq!(mode(&audited.path()), 0o600);
}

#[tokio::test]
async fn each_change_is_on_record_before_it_is_sent_and_after() {
    let audited = Audited::obedient().await;
    let mut rest = Caller::of(&audited.server, Interface::Rest).await;
    let who = json!({ "interface": "rest", "caller": "anonymous", "consent": "rest" });
    assert_recorded(&audited, &mut rest, who).await;
    let mut mcp = Caller::of(&audited.server, Interface::Mcp).await;
    let who = json!({ "interface": "mcp", "caller": "test 1", "consent": "not_asked" });
    assert_recorded(&audited, &mut mcp, who).await;
    let before = lines(&audited.path());
    // Neither a list nor a refusal is a change. A refused removal leaves a line, once for all callers without
    // a token.
    assert!(mcp.listed(&database(1)).await.ok);
    let newest = audited.newest();
    for caller in [&mut rest, &mut mcp] {
        let result = caller.removed(&database(1), &newest.id).await;
        contains(&result.text, ["is protected"]);
        let result = caller.removed(&database(1), &database(1)).await;
        contains(&result.text, ["is not in the list"]);
        let result = caller.added(&database(1), NAME, &"x".repeat(4_001)).await;
        assert!(!result.ok, "{result:?}");
    }
    let lines = lines(&audited.path());
    let (changes, refusals) = lines.split_at(before.len());
    assert_eq!(changes, before);
    let refusals = refusals.iter().map(|line| {
        ["phase", "reason", "backup_id", "consent"].map(|field| line[field].as_str().unwrap())
    });
    let database = database(1);
    let expected = [
        ["refused", "protected", &newest.id, "rest"],
        ["refused", "not_listed", &database, "rest"],
    ];
    assert_eq!(refusals.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn the_name_of_an_access_token_precedes_what_a_client_says_of_itself() {
    let tokens = format!("ada:{TOKEN}");
    let audited = Audited::start(|_| Behavior::default(), Some(&tokens), &[]).await;
    for (name, interface, consent) in [
        ("rest", Interface::Rest, "rest"),
        ("mcp", Interface::Mcp, "not_asked"),
    ] {
        let mut caller = Caller::with_token(&audited.server, interface, Some(TOKEN)).await;
        let who = json!({ "interface": name, "caller": "ada", "consent": consent });
        assert_recorded(&audited, &mut caller, who).await;
    }
    let text = fs::read_to_string(audited.path()).unwrap();
    lacks(&text, [TOKEN, Sandbox::KEY]);
}

#[tokio::test]
async fn the_consent_follows_from_the_settings_of_the_operator() {
    let never = ["--confirm", "never"];
    let audited = Audited::start(|_| Behavior::default(), None, &never).await;
    for (interface, consent) in [(Interface::Mcp, "unattended"), (Interface::Rest, "rest")] {
        let mut caller = Caller::of(&audited.server, interface).await;
        assert_recorded(&audited, &mut caller, json!({ "consent": consent })).await;
    }
    let always = ["--confirm", "always"];
    let audited = Audited::start(|_| Behavior::default(), None, &always).await;
    let mut rest = Caller::of(&audited.server, Interface::Rest).await;
    let result = rest.removed(&database(1), &audited.entry(0).id).await;
    result.answer.problem(403, "confirmation_required");
    let lines = lines(&audited.path());
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["reason"], "confirmation_required");
}

#[tokio::test]
async fn over_stdio_the_caller_is_the_client() {
    let ledger = Ledger::obedient().await;
    for era in ERAS {
        let old = ledger.open(&database(1), &[GOOD; 2]).swap_remove(0);
        let app = ledger.app();
        // From the working directory.
        let mut session = app.session(era, &["--audit-log", "audit.jsonl"]).await;
        let arguments = json!({ "databaseId": database(1), "backupId": old.id });
        session.ok(REMOVE, arguments).await;
        let path = app.directory.path().join("audit.jsonl");
        let lines = lines(&path);
        assert_eq!(lines.len(), 2, "{lines:?}");
        for line in lines {
            assert_eq!(line["interface"], "mcp");
            assert_eq!(line["caller"], "test 1");
            assert_eq!(line["consent"], "not_asked");
            assert_eq!(line["backup_id"], old.id);
            assert_eq!(line["request_id"].as_str().unwrap().len(), 36, "{line}");
        }
        assert_eq!(mode(&path), 0o600);
    }
}

#[tokio::test]
async fn a_persons_yes_and_no_are_on_record() {
    let audited = Audited::obedient().await;
    let old = audited.entry(0);
    let mut client = Client::over_http(&audited.server, Era::Stateless, None);
    client.capabilities = can_ask();
    let arguments = json!({ "databaseId": database(1), "backupId": old.id });
    for (answer, outcome, before) in [
        (json!({ "action": "decline" }), "not_removed", 0),
        (yes(), "removed", 1),
    ] {
        let call = json!({ "name": REMOVE, "arguments": arguments });
        let question = client.step(call).await.question();
        assert_eq!(lines(&audited.path()).len(), before);
        client.respond(&question, answer).await.outcome(outcome);
    }
    let expected = json!({
        "interface": "mcp", "caller": "test 1", "operation": "remove", "consent": "accepted",
        "asked_by": "elicitation",
    });
    audited.last(&with(expected, of(&old)), "applied");
    let lines = lines(&audited.path());
    assert_eq!(lines.len(), 3);
    let no = json!({
        "phase": "refused", "reason": "not_confirmed", "consent": "declined", "outcome": null,
        "asked_by": "elicitation", "backup_id": old.id,
    });
    for (field, value) in no.as_object().unwrap() {
        assert_eq!(lines[0][field], *value, "{field}");
    }
}

/// An attempt that is repeated is no change of its own: it comes after the same intent.
#[tokio::test]
async fn the_outcome_is_what_the_caller_reads() {
    let refusal = json!({ "status": 403, "error": "x", "message": "Qovery's own words" });
    let no = Response::Other(json_reply("403 X", &refusal));
    let reset = || Response::Other(Reply::Reset);
    for (behavior, outcome) in [
        (Behavior::new(Action::Skip, no), "not_applied"),
        (Behavior::new(Action::Skip, reset()), "unknown"),
        (Behavior::new(Action::Apply, reset()), "applied"),
    ] {
        let audited = Audited::start(move |_| behavior.clone(), None, &[]).await;
        for interface in INTERFACES {
            let mut caller = Caller::of(&audited.server, interface).await;
            let name = format!("{NAME} over {interface:?}");
            let result = caller.added(&database(1), &name, "m").await;
            assert_eq!(result.outcome, outcome, "{result:?}");
            let expected = json!({ "operation": "add", "name": name });
            let [_, after] = audited.last(&expected, outcome);
            let made = (outcome == "applied").then(|| audited.newest().id);
            assert_eq!(after["backup_id"], json!(made), "{after}");
            let old = audited.entry(0);
            let result = caller.removed(&database(1), &old.id).await;
            assert_eq!(result.outcome, outcome, "{result:?}");
            audited.last(&with(of(&old), json!({ "operation": "remove" })), outcome);
        }
        assert_eq!(lines(&audited.path()).len(), 8);
        let text = fs::read_to_string(audited.path()).unwrap();
        lacks(&text, ["own words", Sandbox::KEY]);
    }
}

#[tokio::test]
async fn a_hostile_name_stays_within_its_line() {
    let audited = Audited::obedient().await;
    let forged = "a\r\n{\"phase\":\"outcome\"}\n\"\\\u{2028}\u{0}\u{9b}\u{202e}é";
    let clean = "a  {\"phase\":\"outcome\"} \"\\ é";
    for (name, shown) in [
        (forged.to_owned(), clean.to_owned()),
        (
            format!("a{}b", "\n".repeat(253)),
            format!("a{}b", " ".repeat(253)),
        ),
    ] {
        for interface in INTERFACES {
            let mut caller = Caller::of(&audited.server, interface).await;
            assert!(caller.added(&database(1), &name, "m").await.ok);
            audited.last(&json!({ "operation": "add", "name": shown }), "applied");
        }
    }
    // One from elsewhere, longer than this server allows.
    let mut entries = audited.ledger.backups(&database(1));
    entries[0].name = format!("{}\n", forged.repeat(100));
    audited.ledger.put(&database(1), entries);
    let mut caller = Caller::of(&audited.server, Interface::Rest).await;
    assert!(caller.removed(&database(1), &audited.entry(0).id).await.ok);
    let line = &audited.last(&json!({ "operation": "remove" }), "applied")[0];
    let shown = line["name"].as_str().unwrap();
    assert!(clean.repeat(100).starts_with(shown), "{line}");
    assert!((200..255).contains(&shown.chars().count()), "{line}");
    assert_eq!(lines(&audited.path()).len(), 10);
}

#[tokio::test]
async fn the_file_can_be_rotated_between_two_lines() {
    let audited = Audited::obedient().await;
    let path = audited.path();
    let mut caller = Caller::of(&audited.server, Interface::Rest).await;
    for rotated in ["audit.1", "audit.2"] {
        assert!(caller.added(&database(1), rotated, "m").await.ok);
        let rotated = path.with_file_name(rotated);
        fs::rename(&path, &rotated).unwrap();
        assert!(!path.exists());
        assert_eq!(lines(&rotated).len(), 2);
    }
    assert!(caller.added(&database(1), NAME, "m").await.ok);
    assert_eq!(mode(&path), 0o600);
    audited.last(&json!({ "name": NAME }), "applied");
    assert_eq!(lines(&path).len(), 2);
    assert_eq!(lines(&path.with_file_name("audit.1")).len(), 2);
}

/// Makes the file one that even root cannot write.
fn spoil(path: &Path, how: &str) {
    match how {
        "a directory" => fs::create_dir(path).unwrap(),
        "no directory" => fs::remove_dir(path.parent().unwrap()).unwrap(),
        _ => symlink("/dev/full", path).unwrap(),
    }
}

fn repair(path: &Path, how: &str) {
    match how {
        "a directory" => fs::remove_dir(path).unwrap(),
        "no directory" => fs::create_dir(path.parent().unwrap()).unwrap(),
        _ => fs::remove_file(path).unwrap(),
    }
}

/// Waits for an error in the log that contains this.
async fn error(server: &Server, part: &str) {
    let matches = |line: &Value| {
        let message = line["fields"]["message"].as_str().unwrap();
        line["level"] == "ERROR" && message.contains(part)
    };
    server.log.line(matches).await;
}

#[tokio::test]
async fn a_change_whose_intent_cannot_be_written_is_not_made() {
    let mut ways = vec!["a directory", "no directory"];
    if cfg!(target_os = "linux") {
        ways.push("a full disk");
    }
    for how in ways {
        let audited = Audited::obedient().await;
        let (path, old) = (audited.path(), audited.entry(0));
        spoil(&path, how);
        for interface in INTERFACES {
            let mut caller = Caller::of(&audited.server, interface).await;
            for result in [
                caller.added(&database(1), NAME, "m").await,
                caller.removed(&database(1), &old.id).await,
            ] {
                assert_eq!(result.outcome, "not_applied", "{how}: {result:?}");
                let text = "The change could not be written to the audit log first, so it was not \
                            made. Nothing was changed.";
                assert!(result.text.starts_with(text), "{how}: {result:?}");
                lacks(&result.text, ["audit.jsonl"]);
                if interface == Interface::Rest {
                    let problem = result.answer.problem(500, "unaudited");
                    assert_eq!(problem["retryable"], false);
                }
            }
            assert!(caller.listed(&database(1)).await.ok, "{how}");
        }
        assert!(!audited.ledger.requests().iter().any(Received::is_change));
        error(&audited.server, "the change was refused").await;

        repair(&path, how);
        let mut caller = Caller::of(&audited.server, Interface::Rest).await;
        assert!(caller.removed(&database(1), &old.id).await.ok, "{how}");
        audited.last(&of(&old), "applied");
    }
}

#[tokio::test]
async fn a_change_that_was_made_is_made_though_its_outcome_cannot_be_written() {
    // The file is spoilt in the middle of the change.
    let behavior = |path: &Path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
        Behavior::default()
    };
    let audited = Audited::start(behavior, None, &[]).await;
    let mut caller = Caller::of(&audited.server, Interface::Rest).await;
    assert!(caller.added(&database(1), NAME, "m").await.ok);
    let intent = audited.seen.lock().unwrap()[0].clone();
    error(&audited.server, "a change has no outcome in it").await;
    assert_lost(audited, &intent).await;
}

/// Ends the process, and expects that the log has what the file lacks.
async fn assert_lost(audited: Audited, intent: &Value) {
    let new = audited.newest();
    let lost = |line: &Value| line["level"] == "ERROR" && line["fields"]["message"] == "audit";
    let end = audited.server.finish().await;
    let mut lines = end
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let fields = lines.find(lost).unwrap()["fields"].clone();
    assert_eq!(end.status.code(), Some(1), "{fields}");
    let outcome = with(
        of(&new),
        json!({ "phase": "outcome", "outcome": "applied" }),
    );
    for (name, value) in with(intent.clone(), outcome).as_object().unwrap() {
        assert!(
            name == "time" || fields[name] == *value,
            "{name} of {fields}"
        );
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_wait_for_a_slow_disk() {
    // The file is locked in the middle of the change.
    let lock = Mutex::new(None);
    let behavior = move |path: &Path| {
        let file = fs::File::open(path).unwrap();
        file.lock().unwrap();
        *lock.lock().unwrap() = Some(file);
        Behavior::default()
    };
    let audited = Audited::start(behavior, None, &[]).await;
    let mut caller = Caller::of(&audited.server, Interface::Rest).await;
    let request = caller.add(&database(1), NAME, "m");
    let _connection = caller.start(&request).await;
    audited.ledger.received(1).await;
    let begun = Instant::now();
    audited.server.signal("TERM").await;
    audited.server.log.message("draining").await;
    let intent = audited.seen.lock().unwrap()[0].clone();
    assert_lost(audited, &intent).await;
    // A line may take five seconds.
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn the_log_repeats_the_audit_with_or_without_a_file_whatever_is_filtered() {
    let ledger = Ledger::start(|request| match request.number {
        _ if !request.is_change() => Behavior::default(),
        0 => Behavior::default(),
        _ => Behavior::new(Action::Skip, Response::Other(Reply::Reset)),
    })
    .await;
    for (database, file, arguments) in [
        (database(1), false, ["--log", "info,audit=off"]),
        (database(2), true, ["--audit-log", "audit.jsonl"]),
    ] {
        let old = ledger.open(&database, &[GOOD; 3]).swap_remove(0);
        let app = ledger.app();
        let server = app.serve(&arguments).await;
        let mut caller = Caller::of(&server, Interface::Rest).await;
        let name = "a \"b\"";
        let calls = [
            (caller.remove(&database, &old.id), "remove", "applied"),
            (caller.add(&database, name, "m"), "add", "applied"),
            (caller.add(&database, name, "m"), "add", "unknown"),
        ];
        for (number, (request, operation, outcome)) in calls.into_iter().enumerate() {
            let id = format!("request-{number}");
            let result = caller.send(&request.header("X-Request-Id", &id)).await;
            assert_eq!(result.outcome, outcome, "{result:?}");
            for phase in ["intent", "outcome"] {
                let matches = |line: &Value| {
                    let fields = &line["fields"];
                    fields["message"] == "audit"
                        && fields["request_id"] == id
                        && fields["phase"] == phase
                };
                let mut line = server.log.line(matches).await;
                assert_eq!(line["level"], "INFO");
                let change = line["fields"].as_object_mut().unwrap().remove("change_id");
                assert_eq!(change.unwrap().as_str().unwrap().len(), 36);
                let mut expected = json!({
                    "message": "audit", "request_id": id, "interface": "rest", "caller": "anonymous",
                    "operation": operation, "database_id": database, "consent": "rest",
                    "phase": phase, "name": name,
                });
                if phase == "outcome" {
                    expected["outcome"] = json!(outcome);
                }
                if operation == "remove" {
                    expected = with(expected, of(&old));
                } else if expected["outcome"] == "applied" {
                    expected = with(expected, of(&ledger.backups(&database).pop().unwrap()));
                }
                assert_eq!(line["fields"], expected);
            }
        }
        let path = app.directory.path().join("audit.jsonl");
        assert_eq!(lines(&path).len(), if file { 6 } else { 0 });
    }
}

/// The requests of the intents without an outcome.
fn open_intents(lines: &[Value]) -> HashSet<&str> {
    let (mut intents, mut open) = (HashSet::new(), HashSet::new());
    for line in lines {
        let id = line["request_id"].as_str().unwrap();
        if line["phase"] == "refused" {
            continue;
        }
        if line["phase"] == "intent" {
            assert!(intents.insert(id) && open.insert(id), "twice: {line}");
        } else {
            assert!(open.remove(id), "an outcome without an intent: {line}");
        }
    }
    open
}

/// Adds and removes until the server is gone. Returns how many calls were answered.
async fn insist(ledger: &Ledger, server: &Server, calls: &Mutex<usize>, number: usize) -> usize {
    let mut caller = Caller::of(server, INTERFACES[number % 2]).await;
    for answered in 0.. {
        let call = {
            let mut calls = calls.lock().unwrap();
            *calls += 1;
            *calls
        };
        let database = database(1 + fastrand::usize(..4));
        let request = if call.is_multiple_of(2) {
            let entries = ledger.backups(&database);
            caller.remove(&database, &entries[fastrand::usize(..entries.len())].id)
        } else {
            caller.add(&database, &format!("{call}"), "m")
        };
        let request = request
            .header("X-Request-Id", &format!("call-{call}"))
            .header("traceparent", &trace(call));
        if caller.try_send(&request).await.is_err() {
            return answered;
        }
    }
    unreachable!("the server goes away");
}

/// Whatever a process does when it is killed, the file names the changes to look after.
#[tokio::test]
async fn a_killed_process_leaves_whole_lines_and_no_change_without_an_intent() {
    const CALLERS: usize = 8;
    let kills = repetitions("KILLS", 6);
    seed();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("audit.jsonl");
    let file = path.to_str().unwrap();
    let ledger = Ledger::start(|_| Behavior {
        delay: Duration::from_micros(fastrand::u64(0..3_000)),
        ..Behavior::default()
    })
    .await;
    for number in 1..=4 {
        ledger.open(&database(number), &[GOOD; 15]);
    }
    let calls = Mutex::new(0);
    let (mut known, mut left_open, mut answered) = (0, 0, 0);
    for kill in 0..kills {
        let arguments = ["--audit-log", file, "--changes-per-hour", "unlimited"];
        let server = ledger.app().serve(&arguments).await;
        let moment = ledger.requests().len() + fastrand::usize(1..60);
        let killer = async {
            ledger.received(moment).await;
            server.signal("KILL").await;
        };
        let callers = (0..CALLERS).map(|number| insist(&ledger, &server, &calls, number));
        let (ended, ()) = futures_util::join!(join_all(callers), killer);
        answered += ended.iter().sum::<usize>();
        server.wait().await;
        // What it had sent is read and done.
        ledger.idle().await;

        let lines = lines(&path);
        let open = open_intents(&lines[known..]);
        assert!(open.len() <= CALLERS, "after {kill} kills: {open:?}");
        left_open += open.len();
        known = lines.len();
    }
    let lines = lines(&path);
    let intents = lines.iter().filter(|line| line["phase"] == "intent");
    let intents: HashMap<&str, &Value> = intents
        .map(|line| (line["request_id"].as_str().unwrap(), line))
        .collect();
    let effects = ledger.effects();
    for Effect {
        call,
        database,
        removed,
        backup,
    } in &effects
    {
        let intent = intents[format!("call-{}", call.unwrap()).as_str()];
        let expected = if *removed { "remove" } else { "add" };
        assert_eq!(intent["operation"], expected, "{intent}");
        assert_eq!(intent["database_id"], **database, "{intent}");
        assert_eq!(intent["name"], backup.name, "{intent}");
    }
    // Most kills interrupt something; and between them, work was done.
    assert!(
        left_open >= kills / 2,
        "{left_open} intents without an outcome"
    );
    assert!(answered >= kills, "{answered} calls were answered");
    assert!(effects.len() >= kills, "{} changes", effects.len());
}

#[tokio::test]
async fn over_stdio_there_is_a_file_a_month_by_default() {
    let state = ".local/state/qovery-backups-mcp";
    for (variables, flags, folder) in [
        (&[("HOME", "")][..], &[][..], Some(state)),
        (
            &[("HOME", ""), ("XDG_STATE_HOME", "state")],
            &[],
            Some("state/qovery-backups-mcp"),
        ),
        (&[("HOME", "")], &["--audit-log=none"], None),
        (&[], &[], None),
    ] {
        let ledger = Ledger::obedient().await;
        let old = ledger.open(&database(1), &[GOOD; 2]).swap_remove(0);
        let mut app = ledger.app();
        let home = app.directory.path().to_owned();
        for (name, below) in variables {
            app = app.with(name, home.join(below).to_str().unwrap());
        }
        let mut session = app.session(Era::Handshake, flags).await;
        assert!(!home.join(state).exists(), "before any change");
        let arguments = json!({ "databaseId": database(1), "backupId": old.id });
        session.ok(REMOVE, arguments.clone()).await;
        session.refused(REMOVE, arguments).await;
        let file = folder.map(|folder| {
            let folder = home.join(folder);
            let name = Utc::now().format("audit-%Y-%m.jsonl").to_string();
            let path = folder.join(name);
            assert_eq!(mode(&path), 0o600);
            lines(&path)
        });
        let phases = file
            .iter()
            .flatten()
            .map(|line| line["phase"].as_str().unwrap());
        let expected: &[&str] = if folder.is_some() {
            &["intent", "outcome", "refused"]
        } else {
            &[]
        };
        assert_eq!(phases.collect::<Vec<_>>(), expected);
        let check = ["check", "--database", &database(1)];
        let check = app.run(&[&check, flags].concat()).await;
        assert_eq!(
            check.stdout.contains("auto: /"),
            folder.is_some(),
            "{}",
            check.stdout
        );
    }
    // Neither the sandbox nor HTTP has one.
    let app = TestApp::new(&[]);
    let home = app.directory.path().to_owned();
    let app = app.with("HOME", home.to_str().unwrap());
    let mut session = app.session(Era::Handshake, &["--sandbox"]).await;
    session.ok(REMOVE, order(3)).await;
    let server = app.serve(&["--sandbox"]).await;
    let mut caller = Caller::of(&server, Interface::Rest).await;
    assert!(caller.removed(Sandbox::ORDERS, &backup_id(3)).await.ok);
    assert!(!home.join(".local").exists());
}

/// It is the user's, and not what an operator relies on.
#[tokio::test]
async fn the_default_file_refuses_no_change() {
    let ledger = Ledger::obedient().await;
    let entries = ledger.open(&database(1), &[GOOD; 3]);
    let app = ledger.app();
    let home = app.directory.path().to_owned();
    fs::write(home.join(".local"), "a file").unwrap();
    let app = app.with("HOME", home.to_str().unwrap());
    let mut session = app.session(Era::Handshake, &["--confirm=never"]).await;
    for entry in &entries[..2] {
        let arguments = json!({ "databaseId": database(1), "backupId": entry.id });
        session.ok(REMOVE, arguments).await;
    }
    let end = session.finish().await;
    assert_eq!(end.status.code(), Some(0));
    assert_eq!(
        end.stderr.matches("changes are in this log only").count(),
        1
    );
    assert_eq!(
        end.stderr.matches("phase=\"outcome\"").count(),
        2,
        "{}",
        end.stderr
    );
}

/// An agent that loops must not fill the disk, and cannot hide what another caller tries.
#[tokio::test]
async fn the_same_refusal_is_recorded_once_for_each_caller() {
    let tokens = format!("ada:{TOKEN}\nben:7oken-of-ben-7oken-of-ben");
    let audited = Audited::start(|_| Behavior::default(), Some(&tokens), &[]).await;
    let newest = audited.newest();
    for token in [TOKEN, "7oken-of-ben-7oken-of-ben"] {
        for interface in INTERFACES {
            let mut caller = Caller::with_token(&audited.server, interface, Some(token)).await;
            for _ in 0..3 {
                assert!(!caller.removed(&database(1), &newest.id).await.ok);
            }
        }
    }
    let lines = lines(&audited.path());
    let callers: Vec<&str> = lines
        .iter()
        .map(|line| line["caller"].as_str().unwrap())
        .collect();
    assert_eq!(callers, ["ada", "ben"]);
}

/// One caller's flood leaves room for the refusals of others, and a no to a question that was not put is none.
#[tokio::test]
async fn a_flood_of_refusals_hides_none_of_others() {
    let tokens = format!("ada:{TOKEN}\nbot:7oken-of-bot-7oken-of-bot");
    let audited =
        Audited::start(|_| Behavior::default(), Some(&tokens), &["--confirm=never"]).await;
    let bot = Some("7oken-of-bot-7oken-of-bot");
    let mut flood = Caller::with_token(&audited.server, Interface::Mcp, bot).await;
    for batch in 0..12_u32 {
        let ids: Vec<String> = (0..50)
            .map(|number| backup_id(1_000 + batch * 50 + number))
            .collect();
        let request = flood.remove_all(&database(1), &ids);
        assert!(!flood.send(&request).await.ok);
    }
    assert_eq!(lines(&audited.path()).len(), 512);
    let mut ada = Caller::with_token(&audited.server, Interface::Rest, Some(TOKEN)).await;
    assert!(!ada.removed(&database(1), &audited.newest().id).await.ok);
    assert_eq!(lines(&audited.path()).last().unwrap()["caller"], "ada");

    let audited = Audited::obedient().await;
    let mut client = Client::over_http(&audited.server, Era::Stateless, None);
    client.capabilities = can_ask();
    let arguments = json!({ "databaseId": database(1), "backupId": audited.entry(0).id });
    let no = json!({ "confirmation": { "action": "decline" } });
    let call = json!({ "name": REMOVE, "arguments": arguments, "inputResponses": no });
    client.step(call).await.outcome("not_removed");
    assert_eq!(lines(&audited.path()).len(), 0);
}

/// It is in the log then, and in the file once that can be written.
#[tokio::test]
async fn a_refusal_that_the_file_does_not_take_is_in_the_log() {
    let audited = Audited::obedient().await;
    let path = audited.path();
    fs::create_dir(&path).unwrap();
    let mut caller = Caller::of(&audited.server, Interface::Rest).await;
    let newest = audited.newest().id;
    assert!(!caller.removed(&database(1), &newest).await.ok);
    let is_it = |line: &Value| {
        line["fields"]["phase"] == "refused" && line["fields"]["backup_id"] == *newest
    };
    audited.server.log.line(is_it).await;
    fs::remove_dir(&path).unwrap();
    assert!(!caller.removed(&database(1), &newest).await.ok);
    assert_eq!(lines(&path).len(), 1);
}
