//! One call that removes several backups.

use std::time::Duration;

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    app::signal,
    clients::{
        ASKABLE, Client, DECLINED, ERAS, Era, Mode, REMOVE, STATELESS, UNATTENDED, can_ask,
        declined, orders, yes,
    },
    expect::{contains, content_of, lacks},
    upstreams::{
        Database, Reply, backup, backup_id,
        ledger::{Action, Behavior, DELETING, Entry, FAILED, GOOD, Ledger, Response, database},
        removes, reply,
    },
};

/// The parameters of a call that removes these backups of the orders.
fn removal_of(numbers: &[u32]) -> Value {
    let backups: Vec<String> = numbers.iter().copied().map(backup_id).collect();
    let mut arguments = orders();
    arguments["backupIds"] = json!(backups);
    json!({ "name": REMOVE, "arguments": arguments })
}

/// Numbers 1 to 6, of which the second has failed and the last is protected.
async fn six() -> Database {
    let state = |number| if number == 2 { FAILED } else { GOOD };
    Database::with([1, 2, 3, 4, 5, 6].map(|number| backup(number, state(number)))).await
}

async fn client(database: &Database, mode: Mode) -> Client {
    Client::start(&database.app(), mode, &[], can_ask()).await
}

#[tokio::test]
async fn several_go_after_one_question() {
    for mode in ASKABLE {
        let database = six().await;
        let mut client = client(&database, mode).await;
        let question = client.step(removal_of(&[3, 1, 2])).await.question();
        database.unchanged();
        let lines: Vec<&str> = question.text().lines().collect();
        let first = "Remove 3 backups from 2026-06-01 to 2026-06-03? This cannot be undone.";
        assert_eq!((lines[0], lines.len()), (first, 6), "{question:?}");
        assert!(lines[1].starts_with("1 failed. Remaining: 3, 3 finished, the newest "));
        contains(lines[2], [Sandbox::ORDERS]);
        let title = &question.params["requestedSchema"]["properties"]["remove"]["title"];
        assert_eq!(title, "Remove all 3 for good");
        let report = client.respond(&question, yes()).await.report();
        let gone = |number: u32| {
            json!({
                "id": backup_id(number), "name": format!("backup {number}"),
                "created_at": format!("2026-06-{number:02}T00:00:00Z"), "outcome": "removed",
            })
        };
        let removed = json!({
            "outcome": "removed", "consent": "accepted",
            "backups": [gone(3), gone(1), gone(2)], "remaining": 3
        });
        assert_eq!(report, removed, "{mode:?}");
        assert_eq!(database.changes(), [3, 1, 2].map(removes));
    }
}

#[tokio::test]
async fn one_obstacle_keeps_all_and_no_question_is_asked() {
    for mode in ASKABLE {
        let database = six().await;
        let mut client = client(&database, mode).await;
        let text = client.step(removal_of(&[1, 6, 9, 1, 2])).await.refusal();
        let protected = format!("{}: it is the newest one, and finished.", backup_id(6));
        let unlisted = format!("{}: it is not in the list of this database.", backup_id(9));
        let twice = format!("{}: it is named twice.", backup_id(1));
        let all = "Of 5 backups, 3 cannot be removed. Nothing was removed.";
        contains(&text, [all, &protected, &unlisted, &twice]);
        lacks(&text, [&backup_id(2)]);
        database.unchanged();
    }
}

#[tokio::test]
async fn a_batch_beyond_the_hourly_limit_keeps_all() {
    let database = six().await;
    let limit = ["--changes-per-hour=3", UNATTENDED];
    let mut session = database.app().session(Era::Stateless, &limit).await;
    let several = |numbers: &[u32]| removal_of(numbers)["arguments"].clone();
    let text = session.refused(REMOVE, several(&[1, 2, 3, 4])).await;
    contains(&text, ["and this call takes 4.", "Name fewer at once."]);
    session.ok(REMOVE, several(&[1, 2])).await;
    let text = session.refused(REMOVE, several(&[3, 4])).await;
    contains(&text, ["1 of them are left, of 2 that this call takes"]);
    session.ok(REMOVE, several(&[3])).await;
    session.refused(REMOVE, several(&[4])).await;
    assert_eq!(database.changes(), [1, 2, 3].map(removes));
}

#[tokio::test]
async fn a_no_covers_all_that_was_asked_about() {
    for mode in ASKABLE {
        let database = six().await;
        let mut client = client(&database, mode).await;
        for _ in 0..3 {
            let question = client.step(removal_of(&[1, 2])).await.question();
            let decline = json!({ "action": "decline" });
            let no = client.respond(&question, decline).await.report();
            assert_eq!(no, declined(DECLINED), "no list of what was not removed");
        }
        let text = client.step(removal_of(&[2, 3])).await.refusal();
        let again = "3 times in 10 minutes. Nothing was removed.";
        contains(&text, [again, &backup_id(2), " UTC"]);
        client.step(removal_of(&[3, 4])).await.question();
        database.unchanged();
    }
}

#[tokio::test]
async fn a_yes_is_for_the_very_set_that_was_asked_about() {
    for mode in STATELESS {
        let database = six().await;
        let mut client = client(&database, mode).await;
        let question = client.step(removal_of(&[1, 2])).await.question();
        for others in [&[1][..], &[1, 2, 3], &[1, 3]] {
            let mut other = question.answered(&yes(), question.state());
            other["arguments"] = removal_of(others)["arguments"].clone();
            let answer = client.step(other).await.answer();
            assert_eq!(answer["error"]["code"], -32602, "{answer}");
        }
        // The failed one is finished after all.
        database.change(|backups| backups[1]["status"]["state"] = json!(GOOD));
        let again = client.respond(&question, yes()).await.question();
        let changed = format!("Changed: {} was failed, is finished.\n", backup_id(2));
        contains(again.text(), [&changed, "None failed."]);
        client.respond(&again, yes()).await.outcome("removed");
        assert_eq!(database.changes(), [1, 2].map(removes));
    }
}

/// The ids of the first `count` backups of a new database.
fn open(ledger: &Ledger, backups: usize, count: usize) -> Vec<String> {
    let mut entries = ledger.open(&database(1), &vec![GOOD; backups]);
    entries.truncate(count);
    entries.into_iter().map(|entry| entry.id).collect()
}

#[tokio::test]
async fn a_batch_stops_where_a_removal_is_refused_or_in_doubt() {
    let refused = reply("403 X", "", "");
    for (reply, third, remaining, outcome) in [
        (refused, "not_removed", json!(7), "forbidden"),
        (Reply::Hang, "unknown", Value::Null, "unknown"),
    ] {
        let ledger = Ledger::start(
            move |request| match (request.is("DELETE"), request.number) {
                (true, 2..) => Behavior::new(Action::Skip, Response::Other(reply.clone())),
                _ => Behavior::default(),
            },
        )
        .await;
        let backups = open(&ledger, 9, 5);
        let app = ledger.app().short_limits();
        let mut session = app.session(Era::Stateless, &[UNATTENDED]).await;
        let arguments = json!({ "databaseId": database(1), "backupIds": backups });
        let report = session.ok(REMOVE, arguments).await;
        assert_eq!(report["outcome"], "partly_removed", "{report}");
        assert_eq!(report["remaining"], remaining, "{report}");
        let rows = report["backups"].as_array().unwrap();
        let outcomes: Vec<&Value> = rows.iter().map(|row| &row["outcome"]).collect();
        let expected = ["removed", "removed", third, "not_removed", "not_removed"];
        assert_eq!(outcomes, expected, "{report}");
        assert!(
            rows[2..].iter().all(|row| row["reason"].is_string()),
            "{report}"
        );
        assert_eq!(ledger.effects().len(), 2);
        assert!(ledger.has(&database(1), &backups[3]));
        let log = session.finish().await.stderr;
        let outcome = format!("outcome=\"{outcome}\"");
        let calls = log
            .lines()
            .filter(|line| line.contains("operation=\"remove\""));
        let calls = calls.filter(|line| line.contains(": call ") && line.contains(&outcome));
        assert_eq!(calls.count(), 1, "{log}");
    }
}

/// Fifty at most, after one question with a line for each.
#[tokio::test]
async fn fifty_go_at_once() {
    let ledger = Ledger::obedient().await;
    let mut backups = open(&ledger, 52, 51);
    let app = ledger.app();
    let mut client = Client::start(&app, ASKABLE[0], &[], can_ask()).await;
    let call = |backups: &[String]| {
        let arguments = json!({ "databaseId": database(1), "backupIds": backups });
        json!({ "name": REMOVE, "arguments": arguments })
    };
    let text = client.step(call(&backups)).await.refusal();
    contains(&text, ["must have 1 to 50 ids, and has 51"]);
    backups.pop();
    let question = client.step(call(&backups)).await.question();
    assert_eq!(question.text().lines().count(), 3 + 50);
    let report = client.respond(&question, yes()).await.outcome("removed");
    assert_eq!(report["remaining"], 2);
    assert_eq!(ledger.effects().len(), 50);
}

/// The list is older than five seconds (here 0.4 s) after the second of six removals, and all others have
/// failed or gone meanwhile: it is read again, once, and the newest that is left stays.
#[tokio::test]
async fn a_batch_goes_on_by_facts_of_now() {
    for meanwhile in ["fail", "go", "are being removed"] {
        let ledger = Ledger::start(|request| {
            let is_slow = request.is("DELETE") && request.number == 1;
            Behavior {
                delay: Duration::from_millis(if is_slow { 600 } else { 0 }),
                ..Behavior::default()
            }
        })
        .await;
        let backups = open(&ledger, 9, 6);
        let app = ledger.app().short_limits();
        let mut session = app.session(Era::Stateless, &[UNATTENDED]).await;
        let arguments = json!({ "databaseId": database(1), "backupIds": backups });
        let id = session.send_call(REMOVE, arguments).await;
        ledger.received(3).await;
        let mut entries = ledger.backups(&database(1));
        let is_named = |entry: &Entry| backups.contains(&entry.id);
        match meanwhile {
            "go" => entries.retain(is_named),
            other => {
                let state = if other == "fail" { FAILED } else { DELETING };
                let others = entries.iter_mut().filter(|entry| !is_named(entry));
                others.for_each(|entry| entry.state = state);
            }
        }
        ledger.put(&database(1), entries);
        let report = content_of(&session.answer(id).await["result"]);
        let rows = report["backups"].as_array().unwrap();
        let outcomes: Vec<&Value> = rows.iter().map(|row| &row["outcome"]).collect();
        let gone = "removed";
        assert_eq!(
            outcomes,
            [gone, gone, gone, gone, gone, "not_removed"],
            "{report}"
        );
        let reason = rows[5]["reason"].as_str().unwrap();
        contains(reason, ["is protected: it is the "]);
        assert!(ledger.has(&database(1), &backups[5]), "{meanwhile}");
        assert_eq!(ledger.violations(), [""; 0]);
        let lists = ledger
            .requests()
            .iter()
            .filter(|request| request.is("GET"))
            .count();
        assert_eq!(lists, 2, "{meanwhile}");
    }
}

/// A batch has 45 seconds, here five, of which the last 2.5 are for a removal that is begun.
#[tokio::test]
async fn a_batch_stops_when_its_time_is_over() {
    let ledger = Ledger::start(|request| Behavior {
        delay: Duration::from_millis(if request.is("DELETE") { 1_000 } else { 0 }),
        ..Behavior::default()
    })
    .await;
    let backups = open(&ledger, 9, 8);
    let app = ledger.app().short_limits();
    let mut session = app.session(Era::Stateless, &[UNATTENDED]).await;
    let arguments = json!({ "databaseId": database(1), "backupIds": backups });
    let report = session.ok(REMOVE, arguments).await;
    assert_eq!(report["outcome"], "partly_removed", "{report}");
    let rows = report["backups"].as_array().unwrap();
    let removed = ledger.effects().len();
    assert!((1..8).contains(&removed), "{report}");
    contains(
        rows[removed]["reason"].as_str().unwrap(),
        ["There was no time left"],
    );
}

/// Twenty removals that take a while each. The first progress comes in the middle of the call.
async fn in_the_middle(era: Era) -> (Ledger, Client, u64) {
    let ledger = Ledger::start(|request| Behavior {
        delay: Duration::from_millis(if request.is("DELETE") { 100 } else { 0 }),
        ..Behavior::default()
    })
    .await;
    let backups = open(&ledger, 22, 20);
    let mut session = ledger.app().session(era, &[UNATTENDED]).await;
    let arguments = json!({ "databaseId": database(1), "backupIds": backups });
    let token = json!({ "progressToken": 7 });
    let params = json!({ "name": REMOVE, "arguments": arguments, "_meta": token });
    let id = session.send_request("tools/call", params).await;
    let progress = session.receive().await;
    assert_eq!(progress["params"]["progressToken"], 7, "{progress}");
    assert_eq!(progress["params"]["total"], 20.0, "{progress}");
    (ledger, session, id)
}

#[cfg(unix)]
#[tokio::test]
async fn a_signal_ends_a_batch_after_the_removal_that_was_sent() {
    for era in ERAS {
        let (ledger, mut session, id) = in_the_middle(era).await;
        signal(session.child(), "TERM").await;
        let answer = session.answer(id).await;
        let report = &answer["result"]["structuredContent"];
        assert_eq!(report["outcome"], "partly_removed", "{answer}");
        let rows = report["backups"].as_array().unwrap();
        let count = |outcome: &str| rows.iter().filter(|row| row["outcome"] == outcome).count();
        assert_eq!(count("removed") + count("not_removed"), 20, "{answer}");
        assert!(session.child().wait().await.unwrap().success());
        assert_eq!(count("removed"), ledger.effects().len(), "{answer}");
        assert!(count("removed") < 20, "{answer}");
    }
}

#[tokio::test]
async fn a_batch_that_is_cancelled_goes_no_further() {
    for era in ERAS {
        let (ledger, mut session, id) = in_the_middle(era).await;
        session.cancel(id).await;
        // What it still does is done by then.
        session.finish().await;
        let removed = ledger.effects().len();
        assert!((1..20).contains(&removed), "{removed}");
    }
}
