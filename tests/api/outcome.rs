//! What a caller is told of a change is what became of it, or that nobody knows; and changes neither
//! overtake each other nor exceed the operator's number.

use std::{collections::HashMap, time::Duration};

use chrono::{NaiveTime, TimeDelta, Utc};
use futures_util::{StreamExt, future::join_all, stream};
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    helpers::{
        ERAS, Era, Reply, TestApp, Upstream, backup, backup_id, held_reply, json_reply, number_of,
        reply, seed,
    },
    helpers_http::{Connection, Request, Server, backups_of},
    helpers_ledger::{
        Asked, Caller, Deed, Entry, FACES, FAILED, Face, Fate, GOOD, Ledger, QUEUED, Says, Told,
        database, trace,
    },
};

const NOT_KNOWN: &str = "Whether anything was changed is not known. Do not repeat the call";

fn says(status: &str) -> Says {
    Says::Else(reply(status, "", ""))
}

/// An answer of success that breaks off.
fn broken() -> Says {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\nConnection: close\r\n\r\n{\"id\"";
    Says::Else(Reply::Bytes(head.into()))
}

/// With short limits: some of the answers never come.
async fn serve_hasty(ledger: &Ledger) -> Server {
    let app = TestApp::with_upstream(&ledger.url()).hasty();
    app.serve(&["--changes-per-hour", "0"]).await
}

async fn serve(ledger: &Ledger, arguments: &[&str]) -> Server {
    let app = TestApp::with_upstream(&ledger.url());
    app.serve(&[&["--changes-per-hour", "0"], arguments].concat())
        .await
}

/// Cases that share a server, each with a database of its own.
fn in_databases<Case>(cases: Vec<Case>) -> HashMap<String, Case> {
    (1..).map(database).zip(cases).collect()
}

/// How an answer to a removal gets lost, and whether Qovery may still be at work on it.
fn lost_removals() -> Vec<(&'static str, Says, bool)> {
    vec![
        ("reset", Says::Else(Reply::Reset), true),
        ("hang", Says::Else(Reply::Hang), true),
        ("504", says("504 Gateway Timeout"), true),
        ("502", says("502 Bad Gateway"), true),
        ("200", says("200 OK"), true),
        ("202", says("202 Accepted"), true),
        ("500", says("500 Internal Server Error"), false),
        ("503", says("503 Service Unavailable"), true),
        (
            "302",
            Says::Else(reply("302 Found", "Location: /x\r\n", "")),
            false,
        ),
    ]
}

#[derive(Clone)]
struct LostRemoval {
    name: String,
    /// Of each attempt to remove it.
    removal: Fate,
    /// Of each list after the one that allows it.
    list: Fate,
    outcome: &'static str,
}

fn mark(state: &'static str) -> Deed {
    Fate::instead(move |entries, _| entries[0].state = state)
}

fn removals() -> Vec<LostRemoval> {
    let mut cases = Vec::new();
    for (name, says_it, pending) in lost_removals() {
        let down = Fate::new(Deed::Done, says("500 Internal Server Error"));
        let late = Fate::new(
            Fate::instead(|entries, _| drop(entries.remove(0))),
            Says::Truth,
        );
        let still = if pending { "unknown" } else { "not_applied" };
        let whole = Fate::default();
        for (what, deed, list, outcome) in [
            ("gone", Deed::Done, &whole, "applied"),
            ("deleting", mark("DELETING"), &whole, "applied"),
            ("queued", mark("DELETE_QUEUED"), &whole, "applied"),
            ("waiting", mark("WAITING_DELETING"), &whole, "applied"),
            ("still there", Deed::Undone, &whole, still),
            ("gone, no list", Deed::Done, &down, "unknown"),
            ("still there, no list", Deed::Undone, &down, "unknown"),
        ] {
            cases.push(LostRemoval {
                name: format!("{name}, {what}"),
                removal: Fate::new(deed, says_it.clone()),
                list: list.clone(),
                outcome,
            });
        }
        // Whoever may still be at work removes it once the list has been answered.
        if pending {
            cases.push(LostRemoval {
                name: format!("{name}, late"),
                removal: Fate::new(Deed::Undone, says_it),
                list: late,
                outcome: "unknown",
            });
        }
    }
    cases
}

/// Each in its own database, all at once: the slowest waits for two attempts.
async fn removals_over(face: Face) {
    let cases = in_databases(removals());
    let fates = cases.clone();
    let ledger = Ledger::start(move |asked| {
        let case = &fates[&asked.database];
        match (asked.is_change(), asked.number) {
            (true, _) => case.removal.clone(),
            (false, 0) => Fate::default(),
            (false, _) => case.list.clone(),
        }
    })
    .await;
    let server = serve_hasty(&ledger).await;
    let calls = cases.iter().map(async |(database, case)| {
        let name = &case.name;
        let target = ledger.open(database, &[GOOD, GOOD]).swap_remove(0).id;
        let mut caller = Caller::of(&server, face).await;
        let told = caller.removed(database, &target).await;
        assert_eq!(told.outcome, case.outcome, "{name}: {told:?}");
        let gone = !ledger.has(database, &target);
        match case.outcome {
            "applied" if face == Face::Mcp => {
                let result = &told.json["structuredContent"];
                assert_eq!(result["outcome"], "removed", "{name}: {told:?}");
                assert_eq!(result["backups"][0]["id"], target, "{name}");
            }
            "applied" => assert_eq!(told.answer.status, 204, "{name}: {told:?}"),
            "unknown" => {
                assert!(told.text.contains(NOT_KNOWN), "{name}: {told:?}");
                assert_ne!(told.json["retryable"], true, "{name}: {told:?}");
            }
            _ => assert!(!gone, "{name}: {told:?}"),
        }
        let late = name.ends_with("late");
        assert!(!late || gone, "{name}: it happened after all");
        let asked = ledger.asked();
        let last = asked.iter().rfind(|asked| asked.database == **database);
        assert!(last.unwrap().is("GET"), "{name} was looked up");
    });
    join_all(calls).await;
}

#[tokio::test]
async fn a_removal_whose_answer_is_lost_is_settled_by_the_list_over_mcp() {
    removals_over(Face::Mcp).await;
}

#[tokio::test]
async fn a_removal_whose_answer_is_lost_is_settled_by_the_list_over_rest() {
    removals_over(Face::Rest).await;
}

/// Once nobody answered an attempt, what a later one is answered proves nothing.
#[tokio::test]
async fn an_attempt_without_an_answer_is_not_forgotten() {
    let ledger = Ledger::start(|asked| match (asked.is_change(), asked.number) {
        (true, 0) => Fate::new(Deed::Undone, Says::Else(Reply::Reset)),
        (true, _) => Fate::new(Deed::Undone, says("503 Service Unavailable")),
        (false, _) => Fate::default(),
    })
    .await;
    let server = serve(&ledger, &[]).await;
    for (face, database) in FACES.into_iter().zip((1..).map(database)) {
        let target = &ledger.open(&database, &[GOOD, GOOD])[0].id;
        let mut caller = Caller::of(&server, face).await;
        let told = caller.removed(&database, target).await;
        assert_eq!(told.outcome, "unknown", "{told:?}");
    }
}

/// An addition without an answer, and what the list says of it.
#[derive(Clone)]
struct LostAddition {
    name: &'static str,
    addition: Fate,
    list: Fate,
    before: Vec<Entry>,
    recovered: bool,
}

const NAME: &str = "before the migration";
const MESSAGE: &str = "By hand.";

impl LostAddition {
    fn new(name: &'static str, deed: Deed) -> Self {
        Self {
            name,
            addition: Fate::new(deed, Says::Else(Reply::Reset)),
            list: Fate::default(),
            before: Vec::new(),
            recovered: false,
        }
    }

    fn recovered(self) -> Self {
        Self {
            recovered: true,
            ..self
        }
    }

    fn answered(mut self, says: Says) -> Self {
        self.addition.says = says;
        self
    }

    fn before(mut self, age: TimeDelta) -> Self {
        let entry = Entry::new(NAME, MESSAGE, Utc::now() - age);
        self.before.push(entry);
        self
    }

    /// The upstream's clock is off.
    fn off(mut self, by: TimeDelta) -> Self {
        let clock = Some(Utc::now() + by);
        self.addition.clock = clock;
        self.list.clock = clock;
        for entry in &mut self.before {
            entry.created_at += by;
        }
        self
    }
}

/// Other backups are made than the one that was asked for.
fn made(backups: &'static [(&'static str, &'static str)]) -> Deed {
    Fate::instead(move |entries, now| {
        let made = backups
            .iter()
            .map(|(name, message)| Entry::new(name, message, now));
        entries.extend(made);
    })
}

fn additions() -> Vec<LostAddition> {
    let case = LostAddition::new;
    let done = || Deed::Done;
    let hour = TimeDelta::hours(1);
    let undated = |mut case: LostAddition| {
        case.list.dated = false;
        case
    };
    let unlisted = |mut case: LostAddition| {
        case.list.says = says("503 Service Unavailable");
        case
    };
    let late = |mut case: LostAddition| {
        case.list.deed = made(&[(NAME, MESSAGE)]);
        case
    };
    vec![
        case("reset", done()).recovered(),
        case("hang", done())
            .answered(Says::Else(Reply::Hang))
            .recovered(),
        case("500", done())
            .answered(says("500 Internal Server Error"))
            .recovered(),
        case("503", done())
            .answered(says("503 Service Unavailable"))
            .recovered(),
        case("302", done()).answered(says("302 Found")).recovered(),
        case("broken off", done()).answered(broken()).recovered(),
        case("200 without a body", done())
            .answered(says("200 OK"))
            .recovered(),
        case("beside one of yesterday", done())
            .before(TimeDelta::days(1))
            .recovered(),
        case("a clock ahead", done())
            .before(TimeDelta::minutes(10))
            .off(hour)
            .recovered(),
        case("a clock behind", done())
            .before(TimeDelta::minutes(10))
            .off(-hour)
            .recovered(),
        case(
            "beside others",
            made(&[("other", MESSAGE), (NAME, "other"), (NAME, MESSAGE)]),
        )
        .recovered(),
        case("nothing", Deed::Undone),
        case("nothing, and a hang", Deed::Undone).answered(Says::Else(Reply::Hang)),
        case("nothing, and a 500", Deed::Undone).answered(says("500 Internal Server Error")),
        case("two", made(&[(NAME, MESSAGE), (NAME, MESSAGE)])),
        case("another name", made(&[("before the migrations", MESSAGE)])),
        case("another case", made(&[("Before the migration", MESSAGE)])),
        case("another message", made(&[(NAME, "")])),
        case("made before", Deed::Undone).before(TimeDelta::seconds(30)),
        case("made before, a clock ahead", Deed::Undone)
            .before(TimeDelta::minutes(10))
            .off(hour),
        case("made before, a clock behind", Deed::Undone)
            .before(TimeDelta::minutes(10))
            .off(-hour),
        undated(case("no date", done())),
        unlisted(case("no list", done())),
        late(case("late", Deed::Undone)),
        late(case("late, after a hang", Deed::Undone).answered(Says::Else(Reply::Hang))),
    ]
}

/// The backup is answered as if nothing had happened, and over MCP with a note.
fn assert_recovered(face: Face, database: &str, entry: &Entry, told: &Told) {
    assert!(told.ok, "{told:?}");
    match face {
        Face::Mcp => {
            let note = "Qovery's answer was lost, but the backup was found by listing: do not repeat \
                        the call.";
            let structured = &told.json["structuredContent"];
            assert!(
                structured["note"].as_str().unwrap().starts_with(note),
                "{told:?}"
            );
            let text: Value = serde_json::from_str(&told.text).unwrap();
            assert_eq!(text, *structured);
            assert_eq!(structured["id"], entry.json()["id"]);
            assert_eq!(told.json["content"].as_array().unwrap().len(), 1);
        }
        Face::Rest => {
            assert_eq!(told.answer.status, 201);
            assert_eq!(told.json, entry.json());
            let place = format!("{}/{}", backups_of(database), entry.id);
            assert_eq!(told.answer.header("location"), Some(place.as_str()));
            assert_eq!(told.answer.header("content-type"), Some("application/json"));
        }
    }
}

fn assert_in_doubt(name: &str, told: &Told) {
    assert_eq!(told.outcome, "unknown", "{name}: {told:?}");
    assert!(told.text.contains(NOT_KNOWN), "{name}: {told:?}");
    assert_ne!(told.json["retryable"], true, "{name}: {told:?}");
}

async fn additions_over(face: Face) {
    let cases = in_databases(additions());
    let fates = cases.clone();
    let ledger = Ledger::start(move |asked| {
        let case = &fates[&asked.database];
        if asked.is_change() {
            case.addition.clone()
        } else {
            case.list.clone()
        }
    })
    .await;
    let server = serve_hasty(&ledger).await;
    let calls = cases.iter().map(async |(database, case)| {
        let name = case.name;
        ledger.put(database, case.before.clone());
        let mut caller = Caller::of(&server, face).await;
        let told = caller.added(database, NAME, MESSAGE).await;
        let sent = ledger.asked();
        let sent = sent
            .iter()
            .filter(|asked| asked.database == **database && asked.is("POST"));
        assert_eq!(sent.count(), 1, "{name}");
        if case.recovered {
            assert!(told.ok, "{name}: {told:?}");
            let old: Vec<&str> = case.before.iter().map(|entry| entry.id.as_str()).collect();
            let new = ledger.backups(database).into_iter().find(|entry| {
                let same = (entry.name.as_str(), entry.message.as_str()) == (NAME, MESSAGE);
                same && !old.contains(&entry.id.as_str())
            });
            assert_recovered(face, database, &new.unwrap(), &told);
        } else {
            assert_in_doubt(name, &told);
        }
    });
    join_all(calls).await;
}

#[tokio::test]
async fn an_addition_whose_answer_is_lost_is_looked_for_over_mcp() {
    additions_over(Face::Mcp).await;
}

#[tokio::test]
async fn an_addition_whose_answer_is_lost_is_looked_for_over_rest() {
    additions_over(Face::Rest).await;
}

/// All within one second by the upstream's clock, so that only the server's memory tells them apart.
#[tokio::test]
async fn a_backup_of_an_earlier_call_is_not_taken_for_a_later_ones() {
    let now = Utc::now();
    let ledger = Ledger::start(move |asked| {
        let reset = Says::Else(Reply::Reset);
        let fate = match (asked.is_change(), asked.number) {
            // Answered; lost before it happened; lost after; lost before.
            (true, 1 | 3) => Fate::new(Deed::Undone, reset),
            (true, 2) => Fate::new(Deed::Done, reset),
            _ => Fate::default(),
        };
        Fate {
            clock: Some(now),
            ..fate
        }
    })
    .await;
    let server = serve(&ledger, &[]).await;
    for (face, database) in FACES.into_iter().zip((1..).map(database)) {
        ledger.open(&database, &[GOOD]);
        let mut caller = Caller::of(&server, face).await;
        let request = caller.add(&database, NAME, MESSAGE);
        let first = caller.told(&request).await;
        assert!(first.ok && first.backup_id().is_some(), "{first:?}");
        assert_in_doubt("the second", &caller.told(&request).await);
        // It is there, but it could be the second one, late.
        assert_in_doubt("the third", &caller.told(&request).await);
        assert_in_doubt("the fourth", &caller.told(&request).await);
        assert_eq!(ledger.backups(&database).len(), 3);
    }
}

/// Of two removals of the last two backups that could be restored from, one at most succeeds, in
/// whatever order and at whatever pace they arrive.
#[tokio::test]
async fn two_callers_never_remove_the_last_two_backups() {
    let rounds = number_of("ROUNDS", 60);
    seed();
    let ledger = Ledger::start(|_| Fate {
        pause: Duration::from_micros(fastrand::u64(0..1_500)),
        ..Fate::default()
    })
    .await;
    let server = serve(&ledger, &["--keep-latest", "0"]).await;
    let all = (1..=rounds).map(async |round| {
        let (ledger, server) = (&ledger, &server);
        let database = database(round);
        let states: [&[&str]; 4] = [
            &[GOOD, GOOD],
            &[GOOD, FAILED],
            &[GOOD, QUEUED],
            &[GOOD, GOOD, FAILED],
        ];
        let states = states[round % states.len()];
        let mut targets = ledger.open(&database, states);
        targets.truncate(2);
        fastrand::shuffle(&mut targets);
        let calls = targets.iter().enumerate().map(async |(number, target)| {
            let face = FACES[fastrand::usize(..2)];
            let mut caller = Caller::of(server, face).await;
            let request = caller
                .remove(&database, &target.id)
                .header("traceparent", &trace(2 * round + number));
            (target.id.clone(), caller.told(&request).await)
        });
        let answers = join_all(calls).await;
        let left = ledger.backups(&database);
        for (id, told) in &answers {
            let gone = !left.iter().any(|entry| entry.id == *id);
            let expected = if gone { "applied" } else { "not_applied" };
            assert_eq!(told.outcome, expected, "{told:?}");
        }
        assert!(left.iter().any(|entry| entry.state == GOOD), "{left:?}");
        answers.iter().filter(|(_, told)| told.ok).count()
    });
    let removed: Vec<usize> = stream::iter(all).buffer_unordered(8).collect().await;
    // The good one of two, and neither of an unfinished one and the last finished one.
    let one = removed.iter().filter(|removed| **removed == 1).count();
    assert_eq!((one, removed.len()), (rounds * 3 / 4, rounds));

    // Changes of a database take turns: what is asked for one is never between what is for the other.
    let mut turns: HashMap<String, Vec<usize>> = HashMap::new();
    for Asked { database, call, .. } in ledger.asked() {
        turns.entry(database).or_default().push(call.unwrap());
    }
    for turns in turns.values_mut() {
        turns.dedup();
        assert_eq!(turns.len(), 2, "{turns:?}");
    }
}

#[tokio::test]
async fn the_changes_of_an_hour_are_counted_over_all_callers() {
    let ledger = Ledger::start(|_| Fate::default()).await;
    let app = TestApp::with_upstream(&ledger.url());
    let server = app.serve(&["--changes-per-hour", "5"]).await;
    let (first, second) = (database(1), database(2));
    let [old, _, _, newest] = &ledger.open(&first, &[GOOD; 4])[..] else {
        unreachable!("there are four");
    };
    ledger.open(&second, &[GOOD; 2]);
    let mut mcp = Caller::of(&server, Face::Mcp).await;
    let mut rest = Caller::of(&server, Face::Rest).await;

    // Refused, and so no change.
    let foreign = ledger.backups(&second).swap_remove(0);
    for id in [&backup_id(1), &foreign.id] {
        let told = mcp.removed(&first, id).await;
        assert!(told.text.contains("is not in the list"), "{told:?}");
    }
    assert!(mcp.added(&first, "one", "").await.ok);
    assert!(rest.added(&second, "two", "").await.ok);
    assert!(mcp.removed(&first, &old.id).await.ok);
    let added = ledger.backups(&first).pop().unwrap();
    for _ in 0..3 {
        let told = rest.removed(&first, &added.id).await;
        told.answer.problem(409, "protected");
        let told = rest.removed(&first, &old.id).await;
        told.answer.problem(404, "not_listed");
    }
    let mut another = Caller::of(&server, Face::Rest).await;
    assert!(another.removed(&first, &newest.id).await.ok, "the fourth");
    assert!(rest.added(&first, "five", "").await.ok, "the fifth");

    assert_eq!(ledger.effects().len(), 5);
    let oldest = &ledger.backups(&first)[0].id;
    let requests = ledger.asked().len();
    let told = [
        mcp.added(&second, "six", "").await,
        mcp.removed(&first, oldest).await,
        rest.added(&second, "six", "").await,
        rest.removed(&first, oldest).await,
        another.added(&second, "six", "").await,
    ];
    for told in &told {
        let text = &told.text;
        assert!(text.contains("at most 5 change(s) an hour"), "{told:?}");
        assert!(text.contains("Nothing was changed."), "{told:?}");
        let (_, rest) = text.split_once("possible in ").unwrap();
        let (seconds, rest) = rest.split_once(" seconds, at ").unwrap();
        let seconds: u32 = seconds.parse().unwrap();
        // An hour after the first one.
        assert!((3_480..=3_600).contains(&seconds), "{told:?}");
        let at = NaiveTime::parse_from_str(&rest[..8], "%H:%M:%S").unwrap();
        assert!(rest[8..].starts_with(" UTC."), "{told:?}");
        let expected = (Utc::now() + TimeDelta::seconds(seconds.into())).time();
        let off = (at - expected).num_seconds().rem_euclid(24 * 60 * 60);
        assert!(off <= 1 || off > 24 * 60 * 60 - 60, "{off} s off: {told:?}");
        if told.answer.status != 200 {
            let problem = told.answer.problem(429, "limit_reached");
            assert_eq!(problem["outcome"], "not_applied");
            assert_eq!(problem["retryable"], true);
            let retry_after = told.answer.header("retry-after");
            assert_eq!(retry_after, Some(seconds.to_string().as_str()));
        }
    }
    assert_eq!(
        told.iter().filter(|told| told.answer.status == 429).count(),
        3
    );
    assert_eq!(ledger.asked().len(), requests, "Qovery is left alone");
    assert_eq!(ledger.effects().len(), 5);
    assert!(rest.listed(&first).await.ok, "reading is no change");
}

#[tokio::test]
async fn a_limit_of_zero_is_none() {
    let ledger = Ledger::start(|_| Fate::default()).await;
    let server = serve(&ledger, &[]).await;
    let database = database(1);
    ledger.open(&database, &[]);
    for face in FACES {
        let mut caller = Caller::of(&server, face).await;
        for number in 0..100 {
            let told = caller
                .added(&database, &format!("{face:?} {number}"), "")
                .await;
            assert!(told.ok, "{number}: {told:?}");
        }
    }
    assert_eq!(ledger.backups(&database).len(), 200);
}

#[tokio::test]
async fn a_busy_database_refuses_after_a_while_and_holds_up_no_other() {
    let answer = backup(1, "QUEUED");
    let first = database(1);
    let busy = first.clone();
    let held = answer.to_string();
    let mut upstream = Upstream::start(move |_, line| {
        if line.starts_with(&format!("POST /database/{busy}")) {
            held_reply("201 Created", &held)
        } else {
            json_reply("201 Created", &answer)
        }
    })
    .await;
    let server = TestApp::with_upstream(&upstream.url())
        .hasty()
        .serve(&[])
        .await;
    let mut holder = Caller::of(&server, Face::Rest).await;
    let others = async {
        upstream.received(1).await;
        let waits = FACES.map(async |face| {
            let mut caller = Caller::of(&server, face).await;
            let told = match face {
                Face::Mcp => caller.added(&first, "n", "m").await,
                Face::Rest => caller.removed(&first, &backup_id(1)).await,
            };
            assert_eq!(told.outcome, "not_applied");
            let text = format!("other changes of database {first} are under way. Nothing");
            assert!(told.text.contains(&text), "{told:?}");
            if face == Face::Rest {
                let problem = told.answer.problem(503, "busy");
                assert_eq!(problem["retryable"], true);
                assert_eq!(told.answer.header("retry-after"), Some("60"));
            }
        });
        let unhindered = async {
            let mut caller = Caller::of(&server, Face::Rest).await;
            assert!(caller.added(&database(2), "n", "m").await.ok);
            // Reading waits for nobody.
            caller.listed(&first).await;
        };
        futures_util::join!(join_all(waits), unhindered);
        upstream.release();
    };
    futures_util::join!(holder.added(&first, "n", "m"), others);
    // Those that gave up waiting did not ask for anything.
    let requests = upstream.requests();
    let changes = requests
        .iter()
        .filter(|request| !request.starts_with("GET"));
    assert_eq!(changes.count(), 2, "{requests:?}");
    assert!(holder.added(&first, "n", "m").await.ok, "its turn again");
}

#[tokio::test]
async fn a_list_without_an_end_lets_nothing_be_removed() {
    let endless = |number: usize, line: &str| {
        if line.starts_with("DELETE") {
            return reply("204 No Content", "", "");
        }
        let number = u32::try_from(number).unwrap();
        let entry = json!({ "id": backup_id(number), "created_at": "2026-06-01T00:00:00Z" });
        json_reply(
            "200 OK",
            &json!({ "page": number, "page_size": 1, "results": [entry] }),
        )
    };
    let upstream = Upstream::start(endless).await;
    let mut session = TestApp::with_upstream(&upstream.url())
        .session(Era::Handshake, &[])
        .await;
    let arguments = json!({ "databaseId": Sandbox::ORDERS, "backupId": backup_id(3) });
    let text = session.refused("remove-database-backup", arguments).await;
    assert!(text.contains("could not be completed"), "{text}");
    assert!(text.contains("Nothing was removed."), "{text}");
    let requests = upstream.requests();
    assert_eq!(requests.len(), 100);
    assert!(requests.iter().all(|request| request.starts_with("GET ")));
}

/// Nobody takes an exercise for a backup, nor a backup for an exercise.
#[tokio::test]
async fn a_change_in_the_sandbox_is_said_to_be_none() {
    let sandbox = Sandbox::start().await.unwrap();
    let real = TestApp::with_upstream(&sandbox.base_url());
    let unreal = TestApp::new(&[("QOVERY_BACKUPS_SANDBOX", "true")]);
    for era in ERAS {
        for (app, is_real) in [(&real, true), (&unreal, false)] {
            let mut session = app.session(era, &[]).await;
            let database = Sandbox::ORDERS;
            let added = json!({ "databaseId": database, "name": "n", "message": "m" });
            let removed = json!({ "databaseId": database, "backupId": backup_id(era as u32 + 1) });
            for (tool, arguments) in [
                ("add-backup-database", added),
                ("remove-database-backup", removed),
            ] {
                let result = session.call(tool, arguments).await;
                assert_eq!(result["isError"], false, "{result}");
                let note = result["structuredContent"]["note"].as_str();
                let unreal = "This is the sandbox: nothing in it is real.";
                let is_told = note.is_some_and(|note| note.ends_with(unreal));
                assert_eq!(is_told, !is_real, "{era:?} {tool}: {result}");
            }
        }
    }
}

/// Cancelled or left while the list is read: the change was not sent yet, and is not any more.
#[tokio::test]
async fn a_call_that_is_taken_back_changes_nothing() {
    let backups = [backup(1, "READY"), backup(2, "READY")];
    let list = json!({ "page": 1, "page_size": 20, "results": backups }).to_string();
    let arguments = json!({ "databaseId": Sandbox::ORDERS, "backupId": backup_id(1) });

    for era in ERAS {
        let mut upstream = Upstream::always(held_reply("200 OK", &list)).await;
        let app = TestApp::with_upstream(&upstream.url());
        let mut session = app.session(era, &[]).await;
        let id = session
            .post_call("remove-database-backup", arguments.clone())
            .await;
        upstream.received(1).await;
        let taken_back = json!({
            "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id },
        });
        session.send(taken_back.to_string().as_bytes()).await;
        // Whatever comes after it is read after it.
        session.request("tools/list", json!({})).await;
        upstream.release();
        let log = session.finish().await.stderr;
        assert!(log.contains("outcome=\"cancelled\""), "{era:?}: {log}");
        assert_eq!(upstream.requests().len(), 1, "{era:?}");
    }

    let mut upstream = Upstream::always(held_reply("200 OK", &list)).await;
    let server = TestApp::with_upstream(&upstream.url()).serve(&[]).await;
    let path = format!("/v1/database/{}/backup/{}", Sandbox::ORDERS, backup_id(1));
    let request = Request::new("DELETE", &path).header("X-Request-Id", "left");
    let mut connection = Connection::open(server.rest).await;
    connection.write(&request.bytes(server.rest)).await;
    upstream.received(1).await;
    drop(connection);
    let call = server.call("left").await;
    assert_eq!(call["outcome"], "abandoned", "{call}");
    upstream.release();
    // Its turn is over: the next one begins at once.
    let mut caller = Caller::of(&server, Face::Rest).await;
    caller.added(Sandbox::ORDERS, "n", "m").await;
    let requests = upstream.requests();
    let removals = requests
        .iter()
        .filter(|request| request.starts_with("DELETE"));
    assert_eq!(removals.count(), 0, "{requests:?}");
}

/// A list that lacks what must be in it proves nothing, and one that is too long is not used.
#[tokio::test]
async fn a_list_that_cannot_be_right_settles_nothing() {
    let two = [backup(1, "READY"), backup(2, "READY")];
    let many: Vec<Value> = (1..=10_001)
        .map(|number| json!({ "id": backup_id(number), "created_at": "2026-06-01T00:00:00Z" }))
        .collect();
    let arguments = json!({ "databaseId": Sandbox::ORDERS, "backupId": backup_id(1) });
    for (first, text) in [
        (&two[..], "Whether anything was changed is not known."),
        (&many[..], "could not be completed"),
    ] {
        let page = |backups: &[Value]| {
            let page = json!({ "page": 1, "page_size": 20_000, "results": backups });
            json_reply("200 OK", &page)
        };
        let (full, empty) = (page(first), page(&[]));
        let upstream = Upstream::start(move |number, line| match number {
            0 => full.clone(),
            _ if line.starts_with("GET ") => empty.clone(),
            _ => reply("500 Internal Server Error", "", ""),
        })
        .await;
        let app = TestApp::with_upstream(&upstream.url());
        let mut session = app.session(Era::Handshake, &[]).await;
        let told = session
            .refused("remove-database-backup", arguments.clone())
            .await;
        assert!(told.contains(text), "{told}");
    }
}
