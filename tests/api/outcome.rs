//! What a caller reads of a change is what became of it, or that it is not known; changes of a database
//! take turns, and all together stay within the operator's hourly limit.

use std::{collections::HashMap, time::Duration};

use chrono::{NaiveTime, TimeDelta, Utc};
use futures_util::{StreamExt, future::join_all, stream};
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    app::{Server, TestApp, repetitions, seed},
    clients::{ADD, Caller, ERAS, Era, INTERFACES, Interface, LIST, REMOVE, order, orders},
    connection::backups_of,
    expect::{CallResult, contains},
    upstreams::{
        Reply, Upstream, backup, backup_id, backups, held_reply, json_reply,
        ledger::{
            Action, Behavior, Entry, FAILED, GOOD, Ledger, QUEUED, Response, database, trace,
        },
        reply,
    },
};

const NOT_KNOWN: &str = "Whether anything was changed is not known. Do not repeat the call";
const RESET: Response = Response::Other(Reply::Reset);
const HANG: Response = Response::Other(Reply::Hang);

fn status(status: &str) -> Response {
    Response::Other(reply(status, "", ""))
}

/// Serves without an hourly limit.
async fn serve(app: TestApp, arguments: &[&str]) -> Server {
    app.serve(&[&["--changes-per-hour", "unlimited"], arguments].concat())
        .await
}

/// Cases that share a server, each with a database of its own.
fn in_databases<Case>(cases: Vec<Case>) -> HashMap<String, Case> {
    (1..).map(database).zip(cases).collect()
}

/// How an answer to a removal gets lost, and whether Qovery may still be at work on it.
fn lost_removals() -> Vec<(&'static str, Response, bool)> {
    let redirect = Response::Other(reply("302 X", "Location: /x\r\n", ""));
    vec![
        ("reset", RESET, true),
        ("hang", HANG, true),
        ("504", status("504 X"), true),
        ("502", status("502 X"), true),
        ("200", status("200 OK"), true),
        ("202", status("202 X"), true),
        ("500", status("500 X"), false),
        ("503", status("503 X"), true),
        ("302", redirect, false),
    ]
}

#[derive(Clone)]
struct LostRemoval {
    name: String,
    /// Of each attempt to remove it.
    removal: Behavior,
    /// Of each list after the one that allows it.
    list: Behavior,
    outcome: &'static str,
}

fn mark(state: &'static str) -> Action {
    Action::instead(move |entries, _| entries[0].state = state)
}

fn removals() -> Vec<LostRemoval> {
    let mut cases = Vec::new();
    for (name, response, pending) in lost_removals() {
        let down = Behavior::new(Action::Apply, status("500 X"));
        let late = Action::instead(|entries, _| drop(entries.remove(0)));
        let late = Behavior::new(late, Response::True);
        let still = if pending { "unknown" } else { "not_applied" };
        let whole = Behavior::default();
        for (what, action, list, outcome) in [
            ("gone", Action::Apply, &whole, "applied"),
            ("deleting", mark("DELETING"), &whole, "applied"),
            ("queued", mark("DELETE_QUEUED"), &whole, "applied"),
            ("waiting", mark("WAITING_DELETING"), &whole, "applied"),
            ("still there", Action::Skip, &whole, still),
            ("gone, no list", Action::Apply, &down, "unknown"),
            ("still there, no list", Action::Skip, &down, "unknown"),
            // A pending removal happens once the list has been answered.
            ("late", Action::Skip, &late, "unknown"),
        ] {
            if what == "late" && !pending {
                continue;
            }
            cases.push(LostRemoval {
                name: format!("{name}, {what}"),
                removal: Behavior::new(action, response.clone()),
                list: list.clone(),
                outcome,
            });
        }
    }
    cases
}

/// Each in its own database, all at once: the slowest waits for two attempts.
async fn removals_over(interface: Interface) {
    let cases = in_databases(removals());
    let behaviors = cases.clone();
    let ledger = Ledger::start(move |request| {
        let case = &behaviors[&request.database];
        match (request.is_change(), request.number) {
            (true, _) => case.removal.clone(),
            (false, 0) => Behavior::default(),
            (false, _) => case.list.clone(),
        }
    })
    .await;
    let server = serve(ledger.app().short_limits(), &[]).await;
    let calls = cases.iter().map(async |(database, case)| {
        let name = &case.name;
        let target = ledger.open(database, &[GOOD, GOOD]).swap_remove(0).id;
        let mut caller = Caller::of(&server, interface).await;
        let result = caller.removed(database, &target).await;
        assert_eq!(result.outcome, case.outcome, "{name}: {result:?}");
        let gone = !ledger.has(database, &target);
        match case.outcome {
            "applied" if interface == Interface::Mcp => {
                let report = &result.json["structuredContent"];
                assert_eq!(report["outcome"], "removed", "{name}: {result:?}");
                assert_eq!(report["backups"][0]["id"], target, "{name}");
            }
            "applied" => assert_eq!(result.answer.status, 204, "{name}: {result:?}"),
            "unknown" => assert_in_doubt(name, &result),
            _ => assert!(!gone, "{name}: {result:?}"),
        }
        let late = name.ends_with("late");
        assert!(!late || gone, "{name}: it happened after all");
        let requests = ledger.requests();
        let mut requests = requests.iter().rev();
        let last = requests.find(|request| request.database == **database);
        assert!(last.unwrap().is("GET"), "{name} was looked up");
    });
    all(calls).await;
}

/// Runs these calls, of which 32 may be in flight at once.
async fn all(calls: impl Iterator<Item = impl Future<Output = ()>>) {
    stream::iter(calls)
        .buffer_unordered(32)
        .collect::<()>()
        .await;
}

#[tokio::test]
async fn a_removal_whose_answer_is_lost_is_settled_by_the_list_over_mcp() {
    removals_over(Interface::Mcp).await;
}

#[tokio::test]
async fn a_removal_whose_answer_is_lost_is_settled_by_the_list_over_rest() {
    removals_over(Interface::Rest).await;
}

/// After an attempt without an answer, the answer to a later one proves nothing.
#[tokio::test]
async fn an_attempt_without_an_answer_is_not_forgotten() {
    let ledger = Ledger::start(|request| match (request.is_change(), request.number) {
        (true, 0) => Behavior::new(Action::Skip, RESET),
        (true, _) => Behavior::new(Action::Skip, status("500 X")),
        (false, _) => Behavior::default(),
    })
    .await;
    let server = serve(ledger.app(), &[]).await;
    for (interface, database) in INTERFACES.into_iter().zip((1..).map(database)) {
        let target = &ledger.open(&database, &[GOOD, GOOD])[0].id;
        let mut caller = Caller::of(&server, interface).await;
        let result = caller.removed(&database, target).await;
        assert_eq!(result.outcome, "unknown", "{result:?}");
    }
}

const NAME: &str = "before the migration";
const MESSAGE: &str = "By hand.";

/// An addition without an answer, and what the list says of it.
#[derive(Clone)]
struct LostAddition {
    name: &'static str,
    addition: Behavior,
    list: Behavior,
    before: Vec<Entry>,
    recovered: bool,
}

impl LostAddition {
    fn new(name: &'static str, action: Action, response: Response) -> Self {
        Self {
            name,
            addition: Behavior::new(action, response),
            list: Behavior::default(),
            before: Vec::new(),
            recovered: false,
        }
    }

    /// There is one with the same name and message, and the upstream's clock is off.
    fn beside(mut self, age: TimeDelta, clock: TimeDelta) -> Self {
        let now = Utc::now() + clock;
        self.before.push(Entry::new(NAME, MESSAGE, now - age));
        if !clock.is_zero() {
            self.addition.clock = Some(now);
            self.list.clock = Some(now);
        }
        self
    }
}

/// Other backups are made than the one that was asked for.
fn made(backups: &'static [(&'static str, &'static str)]) -> Action {
    Action::instead(move |entries, now| {
        let made = backups
            .iter()
            .map(|(name, message)| Entry::new(name, message, now));
        entries.extend(made);
    })
}

fn additions() -> Vec<LostAddition> {
    let case = LostAddition::new;
    let (done, not_done) = (|| Action::Apply, || Action::Skip);
    let broken = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\nConnection: close\r\n\r\n{\"id\"";
    let broken = Response::Other(Reply::Bytes(broken.into()));
    let down = || status("503 X");
    let failed = || status("500 X");
    let (hour, minutes, exact) = (
        TimeDelta::hours(1),
        TimeDelta::minutes(10),
        TimeDelta::zero(),
    );
    let among_others = made(&[("other", MESSAGE), (NAME, "other"), (NAME, MESSAGE)]);
    let mut recovered = vec![
        case("reset", done(), RESET),
        case("hang", done(), HANG),
        case("500", done(), failed()),
        case("503", done(), down()),
        case("302", done(), status("302 X")),
        case("broken off", done(), broken),
        case("200 without a body", done(), status("200 OK")),
        case("one of yesterday", done(), RESET).beside(TimeDelta::days(1), exact),
        case("a clock ahead", done(), RESET).beside(minutes, hour),
        case("among others", among_others, RESET),
    ];
    for case in &mut recovered {
        case.recovered = true;
    }
    let mut in_doubt = vec![
        case("nothing", not_done(), RESET),
        case("nothing, and a hang", not_done(), HANG),
        case("nothing, and a 500", not_done(), failed()),
        case("two", made(&[(NAME, MESSAGE), (NAME, MESSAGE)]), RESET),
        case(
            "another name",
            made(&[("before the migrations", MESSAGE)]),
            RESET,
        ),
        case(
            "another case",
            made(&[("Before the migration", MESSAGE)]),
            RESET,
        ),
        case("another message", made(&[(NAME, "")]), RESET),
        case("made before", not_done(), RESET).beside(TimeDelta::seconds(30), exact),
        case("before, a clock ahead", not_done(), RESET).beside(minutes, hour),
        case("before, a clock behind", not_done(), RESET).beside(minutes, -hour),
        case("a clock behind", done(), RESET).beside(minutes, -hour),
        case("before, an old date", not_done(), RESET).beside(minutes, exact),
        case("no date", done(), RESET),
        case("no list", done(), RESET),
        case("late", not_done(), RESET),
        case("late, after a hang", not_done(), HANG),
    ];
    for case in &mut in_doubt {
        match case.name {
            "no date" => case.list.dated = false,
            "before, an old date" => case.list.clock = Some(Utc::now() - hour),
            "no list" => case.list.response = down(),
            name if name.starts_with("late") => case.list.action = made(&[(NAME, MESSAGE)]),
            _ => {}
        }
    }
    recovered.extend(in_doubt);
    recovered
}

/// The backup is answered as if nothing had happened, and over MCP with a note.
fn assert_recovered(interface: Interface, database: &str, entry: &Entry, result: &CallResult) {
    assert!(result.ok, "{result:?}");
    if interface == Interface::Mcp {
        let note = "Qovery's answer was lost, but the backup was found by listing: do not repeat \
                    the call.";
        let content = &result.json["structuredContent"];
        contains(content["note"].as_str().unwrap(), [note]);
        let text: Value = serde_json::from_str(&result.text).unwrap();
        assert_eq!(text, *content);
        assert_eq!(content["id"], entry.json()["id"]);
        assert_eq!(result.json["content"].as_array().unwrap().len(), 1);
    } else {
        assert_eq!(result.answer.status, 201);
        assert_eq!(result.json, entry.json());
        let location = format!("{}/{}", backups_of(database), entry.id);
        assert_eq!(result.answer.header("location"), Some(location.as_str()));
        let content_type = result.answer.header("content-type");
        assert_eq!(content_type, Some("application/json"));
    }
}

fn assert_in_doubt(name: &str, result: &CallResult) {
    assert_eq!(result.outcome, "unknown", "{name}: {result:?}");
    assert!(result.text.contains(NOT_KNOWN), "{name}: {result:?}");
    assert_ne!(result.json["retryable"], true, "{name}: {result:?}");
}

async fn additions_over(interface: Interface) {
    let cases = in_databases(additions());
    let behaviors = cases.clone();
    let ledger = Ledger::start(move |request| {
        let case = &behaviors[&request.database];
        if request.is_change() {
            case.addition.clone()
        } else {
            case.list.clone()
        }
    })
    .await;
    let server = serve(ledger.app().short_limits(), &[]).await;
    let calls = cases.iter().map(async |(database, case)| {
        let name = case.name;
        ledger.put(database, case.before.clone());
        let mut caller = Caller::of(&server, interface).await;
        let result = caller.added(database, NAME, MESSAGE).await;
        let mut sent = ledger.requests();
        sent.retain(|request| request.database == **database && request.is("POST"));
        assert_eq!(sent.len(), 1, "{name}");
        if !case.recovered {
            return assert_in_doubt(name, &result);
        }
        let old: Vec<&str> = case.before.iter().map(|entry| entry.id.as_str()).collect();
        let new = ledger.backups(database).into_iter().find(|entry| {
            let same = (entry.name.as_str(), entry.message.as_str()) == (NAME, MESSAGE);
            same && !old.contains(&entry.id.as_str())
        });
        assert_recovered(interface, database, &new.unwrap(), &result);
    });
    all(calls).await;
}

#[tokio::test]
async fn an_addition_whose_answer_is_lost_is_looked_for_over_mcp() {
    additions_over(Interface::Mcp).await;
}

#[tokio::test]
async fn an_addition_whose_answer_is_lost_is_looked_for_over_rest() {
    additions_over(Interface::Rest).await;
}

/// All within one second by the upstream's clock, so that only the server's memory tells them apart.
#[tokio::test]
async fn a_backup_of_an_earlier_call_is_not_taken_for_that_of_a_later_one() {
    let now = Utc::now();
    let ledger = Ledger::start(move |request| Behavior {
        clock: Some(now),
        ..match (request.is_change(), request.number) {
            // Answered, of the second database in half; lost before it happened; lost after; lost before.
            (true, 0) if request.database == database(2) => {
                Behavior::new(Action::Apply, Response::Half)
            }
            (true, 1 | 3) => Behavior::new(Action::Skip, RESET),
            (true, 2) => Behavior::new(Action::Apply, RESET),
            _ => Behavior::default(),
        }
    })
    .await;
    let server = serve(ledger.app(), &[]).await;
    for (interface, database) in INTERFACES.into_iter().zip((1..).map(database)) {
        ledger.open(&database, &[GOOD]);
        let mut caller = Caller::of(&server, interface).await;
        let request = caller.add(&database, NAME, MESSAGE);
        let first = caller.send(&request).await;
        assert_eq!(first.outcome, "applied", "{first:?}");
        // The third is there, but it could be the second one, late.
        for name in ["the second", "the third", "the fourth"] {
            assert_in_doubt(name, &caller.send(&request).await);
        }
        assert_eq!(ledger.backups(&database).len(), 3);
    }
}

/// Of two removals of the last two backups that could be restored from, one at most succeeds, in any
/// order and at any pace.
#[tokio::test]
async fn two_callers_never_remove_the_last_two_backups() {
    let rounds = repetitions("ROUNDS", 60);
    seed();
    let ledger = Ledger::start(|_| Behavior {
        delay: Duration::from_micros(fastrand::u64(0..1_500)),
        ..Behavior::default()
    })
    .await;
    let server = serve(ledger.app(), &["--keep-latest", "0"]).await;
    let all = (1..=rounds).map(async |round| {
        let (ledger, server) = (&ledger, &server);
        let database = database(round);
        let states: [&[&str]; 4] = [
            &[GOOD, GOOD],
            &[GOOD, FAILED],
            &[GOOD, QUEUED],
            &[GOOD, GOOD, FAILED],
        ];
        let mut targets = ledger.open(&database, states[round % states.len()]);
        targets.truncate(2);
        fastrand::shuffle(&mut targets);
        let calls = targets.iter().enumerate().map(async |(number, target)| {
            let mut caller = Caller::of(server, INTERFACES[fastrand::usize(..2)]).await;
            let request = caller.remove(&database, &target.id);
            let request = request.header("traceparent", &trace(2 * round + number));
            (&target.id, caller.send(&request).await)
        });
        let results = join_all(calls).await;
        for (id, result) in &results {
            let gone = !ledger.has(&database, id);
            let expected = if gone { "applied" } else { "not_applied" };
            assert_eq!(result.outcome, expected, "{result:?}");
        }
        let left = ledger.backups(&database);
        assert!(left.iter().any(|entry| entry.state == GOOD), "{left:?}");
        results.iter().filter(|(_, result)| result.ok).count()
    });
    let removed: Vec<usize> = stream::iter(all).buffer_unordered(8).collect().await;
    // The good one of two, and neither of an unfinished one and the last finished one.
    let one = removed.iter().filter(|removed| **removed == 1).count();
    assert_eq!((one, removed.len()), (rounds * 3 / 4, rounds));

    // Changes of a database take turns: no request of one comes between those of the other.
    let mut turns: HashMap<String, Vec<usize>> = HashMap::new();
    for request in ledger.requests() {
        let turns = turns.entry(request.database).or_default();
        turns.push(request.call.unwrap());
    }
    for turns in turns.values_mut() {
        turns.dedup();
        assert_eq!(turns.len(), 2, "{turns:?}");
    }
}

#[tokio::test]
async fn the_changes_of_an_hour_are_counted_over_all_callers() {
    let ledger = Ledger::obedient().await;
    let server = ledger.app().serve(&["--changes-per-hour", "5"]).await;
    let (first, second) = (database(1), database(2));
    let [old, _, _, newest] = &ledger.open(&first, &[GOOD; 4])[..] else {
        unreachable!("there are four");
    };
    ledger.open(&second, &[GOOD; 2]);
    let mut mcp = Caller::of(&server, Interface::Mcp).await;
    let mut rest = Caller::of(&server, Interface::Rest).await;

    // A refusal does not count.
    let foreign = ledger.backups(&second).swap_remove(0);
    for id in [&backup_id(1), &foreign.id] {
        let result = mcp.removed(&first, id).await;
        contains(&result.text, ["is not in the list"]);
    }
    assert!(mcp.added(&first, "one", "").await.ok);
    assert!(rest.added(&second, "two", "").await.ok);
    assert!(mcp.removed(&first, &old.id).await.ok);
    let added = ledger.backups(&first).pop().unwrap();
    for _ in 0..3 {
        let result = rest.removed(&first, &added.id).await;
        result.answer.problem(409, "protected");
        let result = rest.removed(&first, &old.id).await;
        result.answer.problem(404, "not_listed");
    }
    let mut another = Caller::of(&server, Interface::Rest).await;
    assert!(another.removed(&first, &newest.id).await.ok, "the fourth");
    assert!(rest.added(&first, "five", "").await.ok, "the fifth");

    assert_eq!(ledger.effects().len(), 5);
    let oldest = &ledger.backups(&first)[0].id;
    let requests = ledger.requests().len();
    for result in [
        mcp.added(&second, "six", "").await,
        mcp.removed(&first, oldest).await,
        rest.added(&second, "six", "").await,
        rest.removed(&first, oldest).await,
        another.added(&second, "six", "").await,
    ] {
        contains(
            &result.text,
            ["at most 5 change(s) an hour", "Nothing was changed."],
        );
        let (_, wait) = result.text.split_once("possible in ").unwrap();
        let (seconds, at) = wait.split_once(" seconds, at ").unwrap();
        // An hour after the first one.
        let seconds: u32 = seconds.parse().unwrap();
        assert!((1..=3_600).contains(&seconds), "{result:?}");
        NaiveTime::parse_from_str(&at[..8], "%H:%M:%S").unwrap();
        assert!(at[8..].starts_with(" UTC."), "{result:?}");
        if result.json["structuredContent"].is_null() && result.answer.status != 200 {
            let problem = result.answer.problem(429, "limit_reached");
            assert_eq!(problem["outcome"], "not_applied");
            assert_eq!(problem["retryable"], true);
            let retry_after = result.answer.header("retry-after");
            assert_eq!(retry_after, Some(seconds.to_string().as_str()));
        } else {
            assert_eq!(result.json["isError"], true, "{result:?}");
        }
    }
    assert_eq!(ledger.requests().len(), requests, "Qovery is left alone");
    assert_eq!(ledger.effects().len(), 5);
    assert!(rest.listed(&first).await.ok, "reading is no change");
}

#[tokio::test]
async fn a_busy_database_refuses_after_a_while_and_delays_no_other() {
    let answer = backup(1, "QUEUED");
    let first = database(1);
    let busy = format!("POST /database/{first}");
    let held = answer.to_string();
    let created = json_reply("201 Created", &answer);
    let mut upstream = Upstream::split(busy, held_reply("201 Created", &held), created).await;
    let server = upstream.app().short_limits().serve(&[]).await;
    let mut holder = Caller::of(&server, Interface::Rest).await;
    let others = async {
        upstream.received(1).await;
        let waits = INTERFACES.map(async |interface| {
            let mut caller = Caller::of(&server, interface).await;
            let result = match interface {
                Interface::Mcp => caller.added(&first, "n", "m").await,
                Interface::Rest => caller.removed(&first, &backup_id(1)).await,
            };
            assert_eq!(result.outcome, "not_applied");
            let text = format!("other changes of database {first} are under way. Nothing");
            contains(&result.text, [&text]);
            if interface == Interface::Rest {
                let problem = result.answer.problem(503, "busy");
                assert_eq!(problem["retryable"], true);
                assert_eq!(result.answer.header("retry-after"), Some("60"));
            }
        });
        join_all(waits).await;
        let mut caller = Caller::of(&server, Interface::Rest).await;
        assert!(caller.added(&database(2), "n", "m").await.ok);
        // Reading needs no lock.
        caller.listed(&first).await;
        upstream.release();
    };
    futures_util::join!(holder.added(&first, "n", "m"), others);
    // Those that gave up waiting did not ask for anything.
    assert_eq!(upstream.changes().len(), 2);
    assert!(holder.added(&first, "n", "m").await.ok, "its turn again");
}

/// A list without an end, one that is too long, and one that lacks what must be in it.
#[tokio::test]
async fn a_list_that_cannot_be_right_allows_and_settles_nothing() {
    let entry = |number| json!({ "id": backup_id(number), "created_at": "2026-06-01T00:00:00Z" });
    // Its size may be the one of a full page, which another one follows.
    let page = |backups: &[Value], size: usize| {
        let page = json!({ "page": 1, "page_size": size, "results": backups });
        json_reply("200 OK", &page)
    };
    let too_long: Vec<Value> = (1..=10_001).map(entry).collect();
    let endless: Vec<Reply> = (0..120).map(|number| page(&[entry(number)], 1)).collect();
    let incomplete = "could not be completed";
    let in_doubt = "Whether anything was changed is not known.";
    for (lists, text, changes) in [
        (vec![page(&backups(2), 20), page(&[], 20)], in_doubt, 3),
        (vec![page(&too_long, 20_000)], incomplete, 0),
        (endless, incomplete, 0),
    ] {
        let upstream = Upstream::start(move |number, line| {
            if line.starts_with("GET ") {
                lists[number.min(lists.len() - 1)].clone()
            } else {
                reply("500 X", "", "")
            }
        })
        .await;
        let mut session = upstream.app().session(Era::Handshake, &[]).await;
        let refused = session.refused(REMOVE, order(1)).await;
        contains(&refused, [text]);
        assert_eq!(upstream.changes().len(), changes, "{refused}");
    }
}

/// An exercise is never taken for a real change.
#[tokio::test]
async fn a_list_of_the_sandbox_is_said_to_be_unreal() {
    const UNREAL: &str = "This is the sandbox: nothing in it is real.";
    let sandbox = Sandbox::start().await.unwrap();
    let real = TestApp::with_upstream(&sandbox.base_url());
    let unreal = TestApp::new(&[("QOVERY_BACKUPS_SANDBOX", "true")]);
    for era in ERAS {
        for (app, is_real) in [(&real, true), (&unreal, false)] {
            let mut session = app.session(era, &[]).await;
            let add = json!({ "databaseId": Sandbox::ORDERS, "name": "n", "message": "m" });
            let removal = order(era as u32 + 1);
            for (tool, arguments) in [(LIST, orders()), (ADD, add), (REMOVE, removal)] {
                let result = session.ok(tool, arguments).await;
                let says_so = result.to_string().contains(UNREAL);
                assert_eq!(
                    says_so,
                    !is_real && tool == LIST,
                    "{era:?} {tool}: {result}"
                );
            }
        }
    }
}
