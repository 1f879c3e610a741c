//! Every change is on record: before it is made, and once its outcome is known.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

use crate::{
    helpers::{Era, PATIENCE, Reply, TestApp, add_stateless_meta, json_reply, number_of, seed},
    helpers_http::{Client, Connection, Request, Server, backups_of},
    helpers_ledger::{
        Asked, Caller, Deed, Effect, Entry, FACES, Face, Fate, GOOD, Ledger, Says, database, trace,
    },
};

/// What each line says, in this order.
const FIELDS: [&str; 13] = [
    "time",
    "change_id",
    "request_id",
    "interface",
    "caller",
    "operation",
    "database_id",
    "backup_id",
    "name",
    "created_at",
    "consent",
    "phase",
    "outcome",
];
const TOKEN: &str = "7oken-of-ada-7oken-of-ada";
const NAME: &str = "before the migration";

/// The lines of an audit log, each of which is whole, and has what it must have.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    let lines = text.lines().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| {
            panic!("{error} in {line:?}");
        });
        assert_eq!(record.as_object().unwrap().len(), FIELDS.len(), "{line}");
        let places = FIELDS.map(|field| line.find(&format!("\"{field}\":")));
        assert!(places[0].is_some() && places.is_sorted(), "{line}");
        let time = record["time"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.len() == 24, "{time}");
        let age = Utc::now() - time.parse::<DateTime<Utc>>().unwrap();
        assert!((0..60).contains(&age.num_seconds()), "{time}");
        record
    });
    lines.collect()
}

/// The same without what differs each time.
fn timeless(mut record: Value) -> Value {
    record.as_object_mut().unwrap().remove("time");
    record
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A place for a log, a ledger that looks into it whenever it is asked for a change, and a server.
struct Audited {
    directory: TempDir,
    ledger: Ledger,
    server: Server,
    /// What the log said when the last change was asked for.
    seen: Arc<Mutex<Vec<Value>>>,
}

impl Audited {
    async fn start(
        fate: impl Fn(&Path) -> Fate + Send + Sync + 'static,
        variables: &[(&'static str, &str)],
        arguments: &[&str],
    ) -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("logs")).unwrap();
        let path = directory.path().join("logs/audit.jsonl");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, last) = (path.clone(), Arc::clone(&seen));
        let ledger = Ledger::start(move |asked| {
            if !asked.is_change() {
                return Fate::default();
            }
            if log.is_file() {
                *last.lock().unwrap() = lines(&log);
            }
            fate(&log)
        })
        .await;
        ledger.open(&database(1), &[GOOD; 10]);
        let mut app = TestApp::with_upstream(&ledger.url());
        let variables = variables
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        app.variables.extend(variables);
        let path = path.to_str().unwrap();
        let all = [&["--audit-log", path, "--changes-per-hour", "0"], arguments].concat();
        Self {
            server: app.serve(&all).await,
            directory,
            ledger,
            seen,
        }
    }

    async fn well() -> Self {
        Self::start(|_| Fate::default(), &[], &[]).await
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("logs/audit.jsonl")
    }

    /// The last two lines of the log, which say what `expected` says beside its phases. The first
    /// was there, as the last one, when the change was asked for.
    fn last(&self, expected: &Value, outcome: &str) -> [Value; 2] {
        let lines = lines(&self.path());
        let [before, after] = lines.last_chunk().unwrap();
        assert_eq!(self.seen.lock().unwrap()[..], lines[..lines.len() - 1]);
        for (line, phase, outcome) in [
            (before, "intent", Value::Null),
            (after, "outcome", json!(outcome)),
        ] {
            assert_eq!(line["phase"], phase, "{line}");
            assert_eq!(line["outcome"], outcome, "{line}");
            for (field, value) in expected.as_object().unwrap() {
                assert_eq!(line[field], *value, "{field} of {line}");
            }
        }
        [before.clone(), after.clone()]
    }

    fn entry(&self, number: usize) -> Entry {
        self.ledger.backups(&database(1)).swap_remove(number)
    }
}

fn of(entry: &Entry) -> Value {
    let written = entry.json();
    json!({ "backup_id": entry.id, "name": entry.name, "created_at": written["created_at"] })
}

fn with(mut record: Value, more: Value) -> Value {
    let Value::Object(more) = more else {
        unreachable!("an object");
    };
    record.as_object_mut().unwrap().extend(more);
    record
}

/// Adds and removes a backup, and looks at what is written of it.
async fn assert_recorded(audited: &Audited, caller: &mut Caller, who: Value) {
    let database = database(1);
    let who = with(
        who,
        json!({ "database_id": database, "request_id": "of-the-addition" }),
    );
    let request = caller
        .add(&database, NAME, "m")
        .header("X-Request-Id", "of-the-addition");
    assert!(caller.told(&request).await.ok);
    let added = audited.ledger.backups(&database).pop().unwrap();
    let addition = with(who.clone(), json!({ "operation": "add", "name": NAME }));
    let [before, after] = audited.last(&addition, "applied");
    assert_eq!(
        (&before["backup_id"], &before["created_at"]),
        (&Value::Null, &Value::Null)
    );
    let facts = json!({ "phase": "outcome", "outcome": "applied" });
    assert_eq!(
        timeless(after),
        timeless(with(with(before, of(&added)), facts))
    );

    let old = audited.entry(0);
    let request = caller
        .remove(&database, &old.id)
        .header("X-Request-Id", "of-the-removal");
    assert!(caller.told(&request).await.ok);
    let removal = json!({ "operation": "remove", "request_id": "of-the-removal" });
    audited.last(&with(with(who, removal), of(&old)), "applied");
    assert_eq!(mode(&audited.path()), 0o600);
}

#[tokio::test]
async fn each_change_is_on_record_before_it_goes_out_and_after() {
    let audited = Audited::well().await;
    let mut rest = Caller::of(&audited.server, Face::Rest).await;
    let who = json!({ "interface": "rest", "caller": "anonymous", "consent": "rest" });
    assert_recorded(&audited, &mut rest, who).await;
    let mut mcp = Caller::of(&audited.server, Face::Mcp).await;
    let who = json!({ "interface": "mcp", "caller": "test 1", "consent": "host" });
    assert_recorded(&audited, &mut mcp, who).await;
    let list = lines(&audited.path());
    // Neither reading nor a refusal is a change.
    assert!(mcp.listed(&database(1)).await.ok);
    let newest = audited.ledger.backups(&database(1)).pop().unwrap();
    for caller in [&mut rest, &mut mcp] {
        let told = caller.removed(&database(1), &newest.id).await;
        assert!(told.text.contains("is protected"), "{told:?}");
        let told = caller.removed(&database(1), &database(1)).await;
        assert!(told.text.contains("is not in the list"), "{told:?}");
        let told = caller.added(&database(1), NAME, &"x".repeat(4_001)).await;
        assert!(!told.ok, "{told:?}");
    }
    assert_eq!(lines(&audited.path()), list);
}

#[tokio::test]
async fn an_access_tokens_name_comes_before_what_a_client_says_of_itself() {
    let tokens = format!("ada:{TOKEN}");
    let variables = [("QOVERY_BACKUPS_ACCESS_TOKEN", tokens.as_str())];
    let audited = Audited::start(|_| Fate::default(), &variables, &[]).await;
    for (face, consent) in [("rest", "rest"), ("mcp", "host")] {
        let of = if face == "rest" {
            Face::Rest
        } else {
            Face::Mcp
        };
        let mut caller = Caller::with_token(&audited.server, of, Some(TOKEN)).await;
        let who = json!({ "interface": face, "caller": "ada", "consent": consent });
        assert_recorded(&audited, &mut caller, who).await;
    }
    let text = fs::read_to_string(audited.path()).unwrap();
    for secret in [TOKEN, Sandbox::KEY] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test]
async fn what_stood_for_consent_follows_from_the_operators_settings() {
    for (confirm, mcp) in [("auto", "host"), ("never", "unattended")] {
        let arguments = ["--confirm", confirm];
        let audited = Audited::start(|_| Fate::default(), &[], &arguments).await;
        for (face, consent) in [(Face::Mcp, mcp), (Face::Rest, "rest")] {
            let mut caller = Caller::of(&audited.server, face).await;
            assert_recorded(&audited, &mut caller, json!({ "consent": consent })).await;
        }
    }
    let audited = Audited::start(|_| Fate::default(), &[], &["--confirm", "always"]).await;
    let old = audited.entry(0);
    let mut rest = Caller::of(&audited.server, Face::Rest).await;
    let told = rest.removed(&database(1), &old.id).await;
    told.answer.problem(403, "confirmation_required");
    assert_eq!(lines(&audited.path()), [json!(null); 0]);
}

#[tokio::test]
async fn over_standard_input_the_caller_is_the_client() {
    let ledger = Ledger::start(|_| Fate::default()).await;
    for era in [Era::Handshake, Era::Stateless] {
        let old = ledger.open(&database(1), &[GOOD; 2]).swap_remove(0);
        let app = TestApp::with_upstream(&ledger.url());
        // From the working directory.
        let mut session = app.session(era, &["--audit-log", "audit.jsonl"]).await;
        let arguments = json!({ "databaseId": database(1), "backupId": old.id });
        session.ok("remove-database-backup", arguments).await;
        let path = app.directory.path().join("audit.jsonl");
        let lines = lines(&path);
        assert_eq!(lines.len(), 2, "{lines:?}");
        for line in lines {
            assert_eq!(line["interface"], "mcp");
            assert_eq!(line["caller"], "test 1");
            assert_eq!(line["consent"], "host");
            assert_eq!(line["backup_id"], old.id);
            assert!(line["request_id"].as_str().unwrap().len() == 36, "{line}");
        }
        assert_eq!(mode(&path), 0o600);
    }
}

/// A removal by a host that can show a question; gives the result.
async fn ask(server: &Server, backup: &str, more: &Value) -> Value {
    let tool = "remove-database-backup";
    let arguments = json!({ "databaseId": database(1), "backupId": backup });
    let mut params = with(
        json!({ "name": tool, "arguments": arguments }),
        more.clone(),
    );
    add_stateless_meta(&mut params, &json!({ "elicitation": {} }));
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    let request = Client::new(server, Era::Stateless, None)
        .raw(body.to_string())
        .header("Mcp-Method", "tools/call")
        .header("Mcp-Name", tool);
    let answer = request.send(server.mcp).await;
    answer.message()["result"].clone()
}

#[tokio::test]
async fn a_persons_yes_is_on_record_and_a_no_changes_nothing() {
    let audited = Audited::well().await;
    let old = audited.entry(0);
    for (answer, outcome) in [
        (json!({ "action": "decline" }), "not_removed"),
        (
            json!({ "action": "accept", "content": { "remove": false } }),
            "not_removed",
        ),
        (
            json!({ "action": "accept", "content": { "remove": true } }),
            "removed",
        ),
    ] {
        let asked = ask(&audited.server, &old.id, &json!({})).await;
        assert_eq!(asked["resultType"], "input_required", "{asked}");
        assert_eq!(lines(&audited.path()).len(), 0);
        let more = json!({
            "requestState": asked["requestState"],
            "inputResponses": { "confirmation": answer },
        });
        let told = ask(&audited.server, &old.id, &more).await;
        assert_eq!(told["structuredContent"]["outcome"], outcome, "{told}");
    }
    let expected = json!({
        "interface": "mcp", "caller": "test 1", "operation": "remove", "consent": "elicited",
    });
    audited.last(&with(expected, of(&old)), "applied");
    assert_eq!(lines(&audited.path()).len(), 2);
}

#[tokio::test]
async fn the_outcome_is_what_the_caller_is_told() {
    let refusal = json!({ "status": 403, "error": "x", "message": "Qovery's own words" });
    let no = Says::Else(json_reply("403 Forbidden", &refusal));
    for (fate, outcome) in [
        (Fate::new(Deed::Undone, no), "not_applied"),
        (Fate::new(Deed::Undone, Says::Else(Reply::Reset)), "unknown"),
    ] {
        let audited = Audited::start(move |_| fate.clone(), &[], &[]).await;
        for face in FACES {
            let mut caller = Caller::of(&audited.server, face).await;
            let told = caller.added(&database(1), NAME, "m").await;
            assert_eq!(told.outcome, outcome, "{told:?}");
            let expected = json!({ "operation": "add", "name": NAME, "backup_id": null });
            audited.last(&expected, outcome);
            // An attempt that is repeated is no change of its own, so the log is as it was.
            let old = audited.entry(0);
            let told = caller.removed(&database(1), &old.id).await;
            assert_eq!(told.outcome, outcome, "{told:?}");
            audited.last(&with(of(&old), json!({ "operation": "remove" })), outcome);
        }
        let text = fs::read_to_string(audited.path()).unwrap();
        for secret in ["own words", Sandbox::KEY] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn a_change_that_is_looked_up_is_on_record_as_it_was_found() {
    let lost = Fate::new(Deed::Done, Says::Else(Reply::Reset));
    let audited = Audited::start(move |_| lost.clone(), &[], &[]).await;
    let mut caller = Caller::of(&audited.server, Face::Rest).await;
    assert!(caller.added(&database(1), NAME, "m").await.ok);
    let added = audited.ledger.backups(&database(1)).pop().unwrap();
    let [_, after] = audited.last(&json!({ "operation": "add" }), "applied");
    assert_eq!(after["backup_id"], added.id);
    let old = audited.entry(0);
    assert!(caller.removed(&database(1), &old.id).await.ok);
    // The second attempt, too, was asked for after the one intent.
    audited.last(&of(&old), "applied");
    assert_eq!(lines(&audited.path()).len(), 4);
}

#[tokio::test]
async fn a_hostile_name_stays_within_its_line() {
    let audited = Audited::well().await;
    let forged = "a\r\n{\"phase\":\"outcome\"}\n\"\\\u{2028}\u{0}\u{9b}\u{202e}é";
    let clean = "a  {\"phase\":\"outcome\"} \"\\ é";
    for (name, shown) in [
        (forged.to_owned(), clean.to_owned()),
        ("\n".repeat(255), " ".repeat(255)),
    ] {
        for face in FACES {
            let mut caller = Caller::of(&audited.server, face).await;
            assert!(caller.added(&database(1), &name, "m").await.ok);
            audited.last(&json!({ "operation": "add", "name": shown }), "applied");
        }
    }
    // One that somebody else gave, longer than this server lets anybody give.
    let mut entries = audited.ledger.backups(&database(1));
    entries[0].name = format!("{}\n", forged.repeat(100));
    audited.ledger.put(&database(1), entries);
    let old = audited.entry(0);
    let mut caller = Caller::of(&audited.server, Face::Rest).await;
    assert!(caller.removed(&database(1), &old.id).await.ok);
    let line = &audited.last(&json!({ "operation": "remove" }), "applied")[0];
    let shown = line["name"].as_str().unwrap();
    assert!(clean.repeat(100).starts_with(shown), "{line}");
    assert!((200..255).contains(&shown.chars().count()), "{line}");
    assert_eq!(lines(&audited.path()).len(), 10);
}

#[tokio::test]
async fn the_file_can_be_moved_away_between_two_lines() {
    let audited = Audited::well().await;
    let path = audited.path();
    let mut caller = Caller::of(&audited.server, Face::Rest).await;
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

/// Nobody can write to it, not even those who may do anything.
fn spoil(path: &Path, how: &str) {
    match how {
        "a directory" => fs::create_dir(path).unwrap(),
        "no directory" => fs::remove_dir(path.parent().unwrap()).unwrap(),
        _ => symlink("/dev/full", path).unwrap(),
    }
}

#[tokio::test]
async fn what_cannot_be_written_first_is_not_done() {
    let mut ways = vec!["a directory", "no directory"];
    if cfg!(target_os = "linux") {
        ways.push("a full disk");
    }
    for how in ways {
        let audited = Audited::well().await;
        let (path, old) = (audited.path(), audited.entry(0));
        spoil(&path, how);
        for face in FACES {
            let mut caller = Caller::of(&audited.server, face).await;
            for told in [
                caller.added(&database(1), NAME, "m").await,
                caller.removed(&database(1), &old.id).await,
            ] {
                assert_eq!(told.outcome, "not_applied", "{how}: {told:?}");
                let text = "The change could not be written to the audit log first, so it was not \
                            made. Nothing was changed.";
                assert!(told.text.starts_with(text), "{how}: {told:?}");
                assert!(!told.text.contains("audit.jsonl"), "{how}: {told:?}");
                if face == Face::Rest {
                    let problem = told.answer.problem(500, "unaudited");
                    assert_eq!(problem["retryable"], false);
                }
            }
            assert!(caller.listed(&database(1)).await.ok, "{how}");
        }
        assert!(!audited.ledger.asked().iter().any(Asked::is_change));
        let reported = |line: &Value| {
            let message = line["fields"]["message"].as_str().unwrap();
            line["level"] == "ERROR" && message.contains("the change was refused")
        };
        audited.server.log.line(reported).await;

        // Once it is mended, changes are made again.
        match how {
            "a directory" => fs::remove_dir(&path).unwrap(),
            "no directory" => fs::create_dir(path.parent().unwrap()).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        let mut caller = Caller::of(&audited.server, Face::Rest).await;
        assert!(caller.removed(&database(1), &old.id).await.ok, "{how}");
        audited.last(&of(&old), "applied");
    }
}

#[tokio::test]
async fn a_change_that_was_made_is_made_whatever_happens_to_its_second_line() {
    let audited = Audited::start(
        |path| {
            // In the middle of the change.
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
            Fate::default()
        },
        &[],
        &[],
    )
    .await;
    let mut caller = Caller::of(&audited.server, Face::Rest).await;
    assert!(caller.added(&database(1), NAME, "m").await.ok);
    assert_eq!(audited.seen.lock().unwrap()[0]["phase"], "intent");
    let reported = |line: &Value| {
        let message = line["fields"]["message"].as_str().unwrap();
        line["level"] == "ERROR" && message.contains("a change has no outcome in it")
    };
    audited.server.log.line(reported).await;
}

#[tokio::test]
async fn the_same_is_in_the_log_with_or_without_a_file_whatever_is_filtered() {
    let ledger = Ledger::start(|asked| match asked.number {
        _ if !asked.is_change() => Fate::default(),
        0 => Fate::default(),
        _ => Fate::new(Deed::Undone, Says::Else(Reply::Reset)),
    })
    .await;
    for (number, arguments) in [
        &["--log", "info,audit=off"][..],
        &["--audit-log", "audit.jsonl"],
    ]
    .into_iter()
    .enumerate()
    {
        let database = database(number + 1);
        let old = ledger.open(&database, &[GOOD; 3]).swap_remove(0);
        let app = TestApp::with_upstream(&ledger.url());
        let server = app.serve(arguments).await;
        let mut caller = Caller::of(&server, Face::Rest).await;
        let name = "a \"b\"";
        let calls = [
            (caller.remove(&database, &old.id), "remove", "applied"),
            (caller.add(&database, name, "m"), "add", "applied"),
            (caller.add(&database, name, "m"), "add", "unknown"),
        ];
        for (number, (request, operation, outcome)) in calls.into_iter().enumerate() {
            let id = format!("request-{number}");
            let told = caller.told(&request.header("X-Request-Id", &id)).await;
            assert_eq!(told.outcome, outcome, "{told:?}");
            for phase in ["intent", "outcome"] {
                let line = server.log.line(|line| {
                    let fields = &line["fields"];
                    fields["message"] == "audit"
                        && fields["request_id"] == id
                        && fields["phase"] == phase
                });
                let mut line = line.await;
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
                    let added = ledger.backups(&database).pop().unwrap();
                    expected = with(expected, of(&added));
                }
                assert_eq!(line["fields"], expected);
            }
        }
        let path = app.directory.path().join("audit.jsonl");
        assert_eq!(lines(&path).len(), 6 * number);
    }
}

/// What a log says of changes: the intents, and those without an outcome.
fn intents(lines: &[Value]) -> (HashSet<&str>, HashSet<&str>) {
    let (mut intents, mut open) = (HashSet::new(), HashSet::new());
    for line in lines {
        let id = line["request_id"].as_str().unwrap();
        if line["phase"] == "intent" {
            assert!(intents.insert(id) && open.insert(id), "twice: {line}");
        } else {
            assert!(open.remove(id), "an outcome without an intent: {line}");
        }
    }
    (intents, open)
}

/// Somebody who adds and removes until the server is gone. Gives how many calls were answered.
async fn insist(ledger: &Ledger, server: &Server, calls: &Mutex<usize>, number: usize) -> usize {
    let face = FACES[number % 2];
    let mut caller = Caller::of(server, face).await;
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
        if caller.try_told(&request).await.is_err() {
            return answered;
        }
    }
    unreachable!("the server goes away");
}

/// Whatever a process was doing when it was killed, the log tells which changes to look after.
#[tokio::test]
async fn a_killed_process_leaves_whole_lines_and_no_change_without_an_intent() {
    const CALLERS: usize = 8;
    let kills = number_of("KILLS", 6);
    seed();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("audit.jsonl");
    let ledger = Ledger::start(|_| Fate {
        pause: Duration::from_micros(fastrand::u64(0..3_000)),
        ..Fate::default()
    })
    .await;
    for number in 1..=4 {
        ledger.open(&database(number), &[GOOD; 15]);
    }
    let calls = Mutex::new(0);
    let (mut known, mut left_open, mut answered) = (0, 0, 0);
    for kill in 0..kills {
        let app = TestApp::with_upstream(&ledger.url());
        let path = path.to_str().unwrap();
        let server = app
            .serve(&["--audit-log", path, "--changes-per-hour", "0"])
            .await;
        let moment = ledger.asked().len() + fastrand::usize(1..60);
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

        let lines = lines(Path::new(path));
        let (_, open) = intents(&lines[known..]);
        assert!(open.len() <= CALLERS, "after {kill} kills: {open:?}");
        left_open += open.len();
        known = lines.len();
    }
    let lines = lines(&path);
    let intended: HashMap<&str, &Value> = lines
        .iter()
        .filter(|line| line["phase"] == "intent")
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
        let intent = intended[format!("call-{}", call.unwrap()).as_str()];
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

/// Anybody can cause as many other lines as they like, while nobody reads them.
#[tokio::test]
async fn a_flood_of_other_lines_takes_no_line_of_the_audit_trail() {
    let sandbox = Sandbox::start().await.unwrap();
    let mut app = TestApp::with_upstream(&sandbox.base_url());
    let token = format!("ada:{TOKEN}");
    app.variables.push(("QOVERY_BACKUPS_ACCESS_TOKEN", token));
    let any = "127.0.0.1:0";
    let arguments = [
        "http",
        "--log-format",
        "json",
        "--mcp-addr",
        any,
        "--rest-addr",
        any,
    ];
    let mut child = app.command(&arguments).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let rest = loop {
        let line = log.next_line().await.unwrap().unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        let message = line["fields"]["message"].as_str().unwrap();
        if let Some(address) = message.strip_prefix("REST is listening on http://") {
            break address.parse().unwrap();
        }
    };
    let list = Request::get(&backups_of(Sandbox::ORDERS));
    let mut connection = Connection::open(rest).await;
    // More than the pipe and the queue before it hold.
    for _ in 0..2_500 {
        let answer = connection.exchange(&list).await;
        assert_eq!(answer.status, 401);
    }
    let body = json!({ "name": "n", "message": "m" });
    let add = Request::post(&backups_of(Sandbox::ORDERS), &body).token(Some(TOKEN));
    assert_eq!(connection.exchange(&add).await.status, 201);
    let mut phases = Vec::new();
    let until = async {
        while phases.len() < 2 {
            let line = log.next_line().await.unwrap().unwrap();
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["fields"]["message"] == "audit" {
                phases.push(line["fields"]["phase"].as_str().unwrap().to_owned());
            }
        }
    };
    timeout(PATIENCE, until).await.expect("both lines");
    assert_eq!(phases, ["intent", "outcome"]);
}
