//! Many callers of both interfaces at once, and an upstream that fails three answers of ten: every call
//! ends, and what it reports agrees with the upstream's ledger.
//!
//! `STORM_CALLS` sets the number of calls: `STORM_CALLS=10000 cargo test --test api storm -- --nocapture`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    app::{Server, TestApp, repetitions, seed},
    clients::{Caller, INTERFACES, Interface, UNATTENDED},
    expect::CallResult,
    upstreams::{
        Reply,
        ledger::{
            Action, Behavior, Entry, FAILED, GOOD, Ledger, QUEUED, Response, database, trace,
        },
        reply,
    },
};

const CALLERS: usize = 32;
/// Few enough that callers meet, and enough that not all wait for one that hangs.
const DATABASES: usize = 36;

/// A call gets five seconds here, and writing down its outcome up to five on a disk that hangs. The rest
/// is for a machine that does other things at the same time.
const LONGEST: Duration = Duration::from_secs(20);

/// Three requests of ten fail, in every way and at every moment.
fn behavior() -> Behavior {
    let seconds = |most: u64| Duration::from_millis(fastrand::u64(0..most * 1_000));
    let any_action = |late: u64| match fastrand::u8(..3) {
        0 => Action::Apply,
        1 => Action::Skip,
        _ => Action::Late(seconds(late)),
    };
    let done_or_not = || [Action::Apply, Action::Skip][fastrand::usize(..2)].clone();
    let (action, response) = match fastrand::u8(..100) {
        0..70 => (Action::Apply, Response::True),
        70..78 => {
            let down = reply("503 X", "", "");
            (done_or_not(), Response::Other(down))
        }
        78..85 => {
            let pause = format!("Retry-After: {}\r\n", fastrand::u8(..2));
            let busy = reply("429 X", &pause, "");
            (Action::Skip, Response::Other(busy))
        }
        85..86 => (any_action(4), Response::Other(Reply::Hang)),
        86..90 => {
            let before = [Action::Skip, Action::Late(seconds(1))];
            let before = before[fastrand::usize(..2)].clone();
            (before, Response::Other(Reply::Reset))
        }
        90..95 => (Action::Apply, Response::Other(Reply::Reset)),
        _ => (Action::Apply, Response::Half),
    };
    Behavior {
        delay: Duration::from_micros(fastrand::u64(0..3_000)),
        state: [GOOD, GOOD, GOOD, FAILED, QUEUED][fastrand::usize(..5)],
        ..Behavior::new(action, response)
    }
}

/// A call that was made, and what came of it.
struct Call {
    /// Also its trace, its request's id, and the name of the backup that it adds.
    number: usize,
    operation: &'static str,
    database: String,
    /// What it removes.
    targets: Vec<String>,
    result: CallResult,
    latency: Duration,
    /// The caller's own key.
    key: Option<String>,
}

impl Call {
    fn id(&self) -> String {
        format!("call-{}", self.number)
    }

    /// What was reported of each backup that it removes, or of the one that it adds.
    fn outcomes(&self) -> Vec<(Option<&str>, &str)> {
        let result = &self.result;
        let each = result.json["structuredContent"]["backups"].as_array();
        if let Some(each) = each.filter(|_| self.operation == "remove") {
            let outcome = |backup: &'_ Value| match backup["outcome"].as_str().unwrap() {
                "removed" => "applied",
                "not_removed" => "not_applied",
                _ => "unknown",
            };
            assert_eq!(each.len(), self.targets.len(), "{result:?}");
            return each
                .iter()
                .map(|backup| (backup["id"].as_str(), outcome(backup)))
                .collect();
        }
        let targets = self.targets.iter().map(|id| Some(id.as_str()));
        let nothing = self.targets.is_empty().then_some(None);
        let result = |target| (target, result.outcome);
        targets.chain(nothing).map(result).collect()
    }
}

async fn call(
    ledger: &Ledger,
    caller: &mut Caller,
    (number, operation, database): (usize, &'static str, String),
) -> Call {
    let entries = ledger.backups(&database);
    let any = || entries[fastrand::usize(..entries.len())].id.clone();
    let targets = match (operation, fastrand::u8(..10)) {
        ("remove", 0) => vec![entries.last().unwrap().id.clone()],
        ("remove", 1) => vec![Uuid::from_u128(fastrand::u128(..)).to_string()],
        ("remove", 2..6) => vec![any()],
        ("remove", _) => BTreeSet::from([any(), any(), any()]).into_iter().collect(),
        _ => Vec::new(),
    };
    // Over REST, one goes at a time.
    let targets = match caller.interface {
        Interface::Mcp => targets,
        Interface::Rest => targets.into_iter().take(1).collect(),
    };
    let id = format!("call-{number}");
    let request = match (operation, targets.as_slice()) {
        ("list", _) => caller.list(&database),
        ("add", _) => caller.add(&database, &id, "m"),
        (_, [target]) => caller.remove(&database, target),
        (_, targets) => caller.remove_all(&database, targets),
    };
    let trace = trace(number);
    let headers = [
        ("X-Request-Id", id.as_str()),
        ("traceparent", trace.as_str()),
    ];
    let since = Instant::now();
    let result = caller.confirmed(request, headers).await;
    Call {
        number,
        operation,
        database,
        targets,
        result,
        latency: since.elapsed(),
        key: caller.key().map(str::to_owned),
    }
}

/// All callers call until the number is reached. Every fourth can be asked, and answers yes; it makes
/// three calls at a time, of which each second time all are removals from one database.
async fn storm(ledger: &Ledger, server: &Server, calls: usize, own_keys: bool) -> Vec<Call> {
    let next = AtomicUsize::new(1);
    let callers = (0..CALLERS).map(async |number| {
        let key = own_keys.then(|| format!("qov_key-of-caller-{number}"));
        let is_askable = number % 4 == 0;
        let (mut lanes, mut made) = (Vec::new(), Vec::new());
        for round in 0.. {
            if is_askable {
                // The server may have closed connections that waited for the slowest of three calls.
                lanes.clear();
                for _ in 0..3 {
                    let caller = Caller::of(server, Interface::Mcp).await;
                    lanes.push(caller.can_be_asked().with_key(key.clone()));
                }
            } else if lanes.is_empty() {
                let caller = Caller::of(server, INTERFACES[number % 2]).await;
                lanes.push(caller.with_key(key.clone()));
            }
            let one = (is_askable && round % 2 == 0).then(|| fastrand::usize(..DATABASES));
            let calls_of_lanes = lanes.iter_mut().filter_map(|caller| {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let operation = match one {
                    Some(_) => "remove",
                    None => ["list", "add", "remove"][number % 3],
                };
                let database = database(one.unwrap_or_else(|| fastrand::usize(..DATABASES)));
                let what = (number, operation, database);
                (number <= calls).then(|| call(ledger, caller, what))
            });
            let calls_of_lanes: Vec<_> = calls_of_lanes.collect();
            if calls_of_lanes.is_empty() {
                break;
            }
            made.extend(join_all(calls_of_lanes).await);
        }
        made
    });
    join_all(callers).await.into_iter().flatten().collect()
}

/// Compares what was reported with the ledger.
fn check_answers(ledger: &Ledger, made: &[Call]) {
    let effects = ledger.effects();
    let mut by_call: HashMap<usize, Vec<&str>> = HashMap::new();
    let mut added: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut removed = HashSet::new();
    for effect in &effects {
        let id = effect.backup.id.as_str();
        by_call.entry(effect.call.unwrap()).or_default().push(id);
        if effect.removed {
            assert!(removed.insert((effect.database.as_str(), id)), "{effect:?}");
        } else {
            added.entry(&effect.backup.name).or_default().push(id);
        }
    }
    for made in made {
        let (id, result) = (made.id(), &made.result);
        let own = by_call.get(&made.number).map_or(&[][..], Vec::as_slice);
        assert!(
            own.len() <= made.targets.len().max(1),
            "{id}: {own:?}, {result:?}"
        );
        for (target, outcome) in made.outcomes() {
            let target = target.filter(|_| made.operation == "remove");
            let own = || own.iter().filter(|id| target.is_none_or(|it| it == **id));
            match (made.operation, outcome) {
                ("list", outcome) => {
                    assert!(own().count() == 0 && outcome != "unknown", "{result:?}");
                    assert_eq!(outcome == "applied", result.ok, "{result:?}");
                }
                ("add", "applied") => {
                    let added = added.get(id.as_str()).map(Vec::as_slice);
                    let own: Vec<&str> = own().copied().collect();
                    assert_eq!(added, Some(own.as_slice()), "{result:?}");
                    assert_eq!(own.len(), 1, "{result:?}");
                    // An answer that broke off after its status names no backup.
                    assert!(
                        result.backup_id().is_none_or(|id| own == [id]),
                        "{result:?}"
                    );
                    assert_eq!(result.ok, result.backup_id().is_some(), "{result:?}");
                }
                // Perhaps by another call whose answer was lost: the backup is gone.
                ("remove", "applied") => {
                    let target = target.unwrap();
                    assert!(result.ok, "{result:?}");
                    assert!(
                        removed.contains(&(made.database.as_str(), target)),
                        "{result:?}"
                    );
                    assert!(!ledger.has(&made.database, target), "{result:?}");
                }
                (_, "not_applied") => assert_eq!(own().count(), 0, "{id}: {result:?}"),
                (_, outcome) => assert_eq!(outcome, "unknown", "{result:?}"),
            }
        }
    }
}

/// Compares the audit file with the ledger and with what was reported.
fn check_log(ledger: &Ledger, made: &[Call], log: &str) -> usize {
    let mut phases = [HashMap::new(), HashMap::new()];
    for line in log.lines() {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        if record["phase"] == "refused" {
            continue;
        }
        let phase = usize::from(record["phase"] == "outcome");
        // Of an addition, the intent knows no backup yet.
        let removed = record["operation"] == "remove";
        let backup = record["backup_id"].as_str().filter(|_| removed);
        let id = (
            record["request_id"].as_str().unwrap().to_owned(),
            backup.map(str::to_owned),
        );
        assert!(phases[phase].insert(id, record).is_none(), "twice: {line}");
    }
    let [intents, outcomes] = phases;
    assert!(log.ends_with('\n'));
    assert_eq!(intents.len(), outcomes.len());
    for made in made {
        for (target, result) in made.outcomes() {
            let target = target.filter(|_| made.operation == "remove");
            let id = (made.id(), target.map(str::to_owned));
            match outcomes.get(&id) {
                Some(outcome) => {
                    assert_eq!(intents[&id]["operation"], made.operation, "{outcome}");
                    assert_eq!(outcome["outcome"], result, "{:?}", made.result);
                }
                None => assert!(
                    made.operation == "list" || result == "not_applied",
                    "{:?}",
                    made.result
                ),
            }
        }
    }
    for effect in ledger.effects() {
        let call = format!("call-{}", effect.call.unwrap());
        let id = (call, effect.removed.then_some(effect.backup.id.clone()));
        assert!(intents.contains_key(&id), "{effect:?}");
    }
    intents.len()
}

#[tokio::test]
async fn a_storm_gets_no_wrong_answer() {
    storm_of(repetitions("STORM_CALLS", 150), false).await;
}

/// Every request to Qovery carries the key of the call on whose behalf it was sent, and no other.
#[tokio::test]
async fn a_storm_of_callers_with_keys_gets_no_wrong_answer() {
    storm_of(repetitions("STORM_CALLS", 150), true).await;
}

#[expect(
    clippy::print_stderr,
    reason = "what became of the calls is for people"
)]
async fn storm_of(calls: usize, own_keys: bool) {
    seed();
    let ledger = Ledger::start(|_| behavior()).await;
    for number in 0..DATABASES {
        let states: Vec<&str> = (0..45)
            .map(|number| if number % 7 == 0 { FAILED } else { GOOD })
            .collect();
        ledger.open(&database(number), &states);
    }
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("audit.jsonl");
    let app = if own_keys {
        TestApp::new(&[("QOVERY_API_URL", &ledger.url())])
    } else {
        ledger.app()
    };
    let app = app.short_limits();
    let file = path.to_str().unwrap();
    let caller_keys = format!("--caller-keys={own_keys}");
    let server = app
        .serve(&[
            "--changes-per-hour",
            "unlimited",
            "--audit-log",
            file,
            UNATTENDED,
            &caller_keys,
        ])
        .await;

    let since = Instant::now();
    let made = storm(&ledger, &server, calls, own_keys).await;
    let elapsed = since.elapsed();
    drop(server);
    ledger.idle().await;

    assert_eq!(made.len(), calls);
    let slowest = made.iter().max_by_key(|made| made.latency).unwrap();
    let longest = slowest.latency;
    assert!(longest <= LONGEST, "{longest:?}: {:?}", slowest.result);
    check_answers(&ledger, &made);
    let keys: HashMap<usize, Option<String>> = made
        .iter()
        .map(|made| (made.number, made.key.clone()))
        .collect();
    for request in ledger.requests() {
        let key = keys[&request.call.unwrap()].as_deref();
        let expected = format!("Token {}", key.unwrap_or(Sandbox::KEY));
        assert_eq!(request.key, expected, "{request:?}");
    }
    let violations = ledger.violations();
    assert!(violations.is_empty(), "{violations:#?}");
    let recorded = check_log(&ledger, &made, &fs::read_to_string(&path).unwrap());

    let count = |operation, outcome| {
        let same = |made: &&Call| made.operation == operation && made.result.outcome == outcome;
        made.iter().filter(same).count()
    };
    let summary = ["list", "add", "remove"].map(|operation| {
        let counts = ["applied", "not_applied", "unknown"].map(|outcome| count(operation, outcome));
        format!("{operation} {counts:?}")
    });
    eprintln!(
        "storm: {calls} calls in {elapsed:.1?}; applied, not applied, unknown: {}; {} changes, \
         {recorded} on record, {} requests upstream; longest call {longest:.1?}",
        summary.join("; "),
        ledger.effects().len(),
        ledger.requests().len(),
    );
    // A server that only ever refuses, or never knows, would pass until here. One on a busy machine refuses
    // many for want of time.
    for operation in ["list", "add", "remove"] {
        let (applied, unknown) = (count(operation, "applied"), count(operation, "unknown"));
        assert!(applied >= calls / 50, "{operation}: {applied} of {calls}");
        assert!(
            unknown <= 10 + calls / 15,
            "{operation}: {unknown} of {calls}"
        );
    }
}

/// While one removal of each batch takes long, most of the backups that were to stay fail, and of those
/// that are to go.
#[tokio::test]
async fn batches_that_are_overtaken_by_failures_leave_a_good_backup() {
    seed();
    let batches = repetitions("STORM_CALLS", 150) / 6;
    let slow: HashMap<String, usize> = (0..batches)
        .map(|number| (database(number), fastrand::usize(..6)))
        .collect();
    let ledger = Ledger::start(move |request| {
        if !request.is("DELETE") || slow[&request.database] != request.number {
            return Behavior::default();
        }
        let target = request.backup.clone().unwrap();
        let survivor = fastrand::usize(..);
        let overtake = move |entries: &mut Vec<Entry>, _| {
            let good = entries.iter_mut().filter(|entry| entry.state == GOOD);
            let (gone, good): (Vec<_>, Vec<_>) = good.partition(|entry| entry.id == target);
            let survivor = survivor % good.len().max(1);
            let fail = good
                .into_iter()
                .enumerate()
                .filter(|(at, _)| *at != survivor);
            let fail = fail
                .filter(|_| fastrand::u8(..4) != 0)
                .map(|(_, entry)| entry);
            fail.chain(gone).for_each(|entry| entry.state = FAILED);
        };
        Behavior {
            meanwhile: Some(Arc::new(overtake)),
            delay: Duration::from_millis(fastrand::u64(500..900)),
            ..Behavior::default()
        }
    })
    .await;
    let unlimited = ["--changes-per-hour", "unlimited", UNATTENDED];
    let server = ledger.app().short_limits().serve(&unlimited).await;
    let rounds = (0..batches).map(async |number| {
        let database = database(number);
        let mut states: Vec<&str> = (0..12)
            .map(|_| [GOOD, GOOD, GOOD, FAILED][fastrand::usize(..4)])
            .collect();
        states.push(GOOD);
        let mut entries = ledger.open(&database, &states);
        entries.pop();
        let mut targets: Vec<String> = entries.into_iter().map(|entry| entry.id).collect();
        fastrand::shuffle(&mut targets);
        let mut caller = Caller::of(&server, Interface::Mcp).await;
        let request = caller.remove_all(&database, &targets);
        let result = caller.send(&request).await;
        let rows = result.json["structuredContent"]["backups"]
            .as_array()
            .unwrap();
        for row in rows {
            let removed = !ledger.has(&database, row["id"].as_str().unwrap());
            assert_eq!(row["outcome"] == "removed", removed, "{result:?}");
        }
        let left = ledger.backups(&database);
        assert!(left.iter().any(|entry| entry.state == GOOD), "{result:?}");
        usize::from(result.text.contains("is protected"))
    });
    let stopped: usize = join_all(rounds).await.into_iter().sum();
    let violations = ledger.violations();
    assert!(violations.is_empty(), "{violations:#?}");
    // On a busy machine, the time of most is over before.
    assert!(stopped > 0, "none of {batches} met a rule");
}
