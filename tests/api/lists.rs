//! Lists: what they say of backups, waiting for one, and databases by their names.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    app::{TestApp, sandbox_session},
    clients::{ADD, Client, DEFAULT_MESSAGE, ERAS, Era, LIST, REMOVE, order, orders},
    connection::Connection,
    expect::{contains, content_of, lacks},
    upstreams::{
        Database, JSON, Reply, Upstream, backup, backup_id, backups, json_reply,
        ledger::{GOOD, database},
        page, recent, removes, reply,
    },
};

fn ids(list: &Value) -> Vec<&str> {
    let backups = list["backups"].as_array().unwrap().iter();
    backups
        .map(|backup| backup["id"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_list_is_whole_and_says_what_follows_from_it() {
    for era in ERAS {
        let mut session = sandbox_session(era, &[]).await;
        let list = session.ok(LIST, orders()).await;
        let characters = list.to_string().chars().count();
        assert!(characters <= 4_500, "{characters}");
        assert_eq!(list["complete"], true);
        assert!(list.get("next_created_before").is_none(), "{list}");
        assert!(list.get("matching").is_none(), "{list}");
        let database = json!({ "id": Sandbox::ORDERS, "name": "orders" });
        assert_eq!(list["database"], database);
        let newest_first: Vec<String> = (1..=27).rev().map(backup_id).collect();
        assert_eq!(ids(&list), newest_first);
        let backups = &list["backups"];
        let summary = json!({
            "total": 27, "finished": 26, "in_progress": 0, "failed": 1, "being_removed": 0,
            "unknown": 0, "newest": backups[0]["created_at"], "oldest": backups[26]["created_at"],
            "newest_finished_id": backup_id(27),
        });
        assert_eq!(list["summary"], summary);
        assert_eq!(backups[0]["protected"], "newest and newest finished");
        assert!(backups[1].get("protected").is_none(), "{list}");
        assert_eq!(backups[3]["condition"], "failed");
        let now = list["now"].as_str().unwrap();
        assert!(now > backups[0]["created_at"].as_str().unwrap(), "{list}");
        assert!(!list.to_string().contains("null"), "{list}");
    }
}

/// A backup that was made this many hours after the first of June.
fn hourly(number: u32, state: &str) -> Value {
    let start: DateTime<Utc> = "2026-06-01T00:00:00Z".parse().unwrap();
    let mut row = backup(number, state);
    let date = start + TimeDelta::hours(number.into());
    row["created_at"] = json!(date.to_rfc3339_opts(SecondsFormat::Secs, true));
    row
}

/// So many of them, the oldest first.
fn oldest_first(count: u32) -> Vec<Value> {
    (1..=count).map(|number| hourly(number, GOOD)).collect()
}

/// The parameters of a list of [`Sandbox::ORDERS`] by a client that asks for progress.
fn patient(mut arguments: Value) -> Value {
    arguments["databaseId"] = json!(Sandbox::ORDERS);
    json!({ "name": LIST, "arguments": arguments, "_meta": { "progressToken": "p" } })
}

/// Goes through a list as its answers say. Returns them.
async fn walk(session: &mut Client, filters: &Value) -> Vec<Value> {
    let mut arguments = filters.clone();
    let mut answers = Vec::new();
    loop {
        let answer = session.request("tools/call", patient(arguments.clone()));
        let result = answer.await["result"].clone();
        let text = result["content"][0]["text"].as_str().unwrap().len();
        assert!(text <= 40_500, "{text}");
        let list = content_of(&result);
        let next = list["next_created_before"].clone();
        answers.push(list);
        if next.is_null() {
            return answers;
        }
        contains(
            answers.last().unwrap()["note"].as_str().unwrap(),
            ["go on with next_created_before"],
        );
        assert!(answers.len() < 100, "{next}");
        arguments["createdBefore"] = next;
    }
}

#[tokio::test]
async fn a_long_list_is_whole_and_newest_first_whatever_the_order() {
    let mut mixed = oldest_first(150);
    mixed.sort_by_key(|row| {
        row["id"]
            .as_str()
            .unwrap()
            .bytes()
            .rev()
            .collect::<Vec<_>>()
    });
    let newest_first: Vec<Value> = oldest_first(150).into_iter().rev().collect();
    let all: Vec<String> = (1..=150).rev().map(backup_id).collect();
    for rows in [oldest_first(150), newest_first, mixed] {
        let upstream = Upstream::paged(rows).await;
        let mut session = upstream.app().session(Era::Stateless, &[]).await;
        let answers = walk(&mut session, &json!({})).await;
        let [first, second] = answers.as_slice() else {
            panic!("{answers:?}");
        };
        assert_eq!(ids(first), all[..100]);
        assert_eq!(ids(second), all[100..]);
        assert_eq!([&first["matching"], &second["matching"]], [150, 50]);
        assert_eq!(
            first["next_created_before"],
            first["backups"][99]["created_at"]
        );
        assert!(first.get("filters").is_none(), "{first}");
        let filters = format!("before {}", first["next_created_before"].as_str().unwrap());
        assert_eq!(second["filters"], filters);
        for list in [first, second] {
            assert_eq!(list["complete"], true);
            assert_eq!(list["summary"]["total"], 150);
            assert_eq!(list["summary"]["newest_finished_id"], all[0]);
        }
        let protected = "newest and newest finished";
        assert_eq!(first["backups"][0]["protected"], protected);
        lacks(&second["backups"].to_string(), ["protected"]);
    }
}

#[tokio::test]
async fn a_list_reads_a_thousand_backups_and_a_removal_two_thousand() {
    for (number, complete) in [(1_000, true), (1_100, false)] {
        let upstream = Upstream::paged(oldest_first(number)).await;
        let mut session = upstream.app().session(Era::Stateless, &[]).await;
        let answers = walk(&mut session, &json!({})).await;
        let lists = upstream.lines().len() - 1;
        assert_eq!((answers.len(), lists), (10, 51 * 10));
        let seen: Vec<&str> = answers.iter().flat_map(ids).collect();
        let all: Vec<String> = (1..=1_000).rev().map(backup_id).collect();
        assert_eq!(seen, all);
        for list in &answers {
            assert_eq!(list["complete"], complete);
            assert_eq!(list.get("summary").is_some(), complete);
            let note = list["note"].as_str().unwrap_or_default();
            let words = "Only 1000 backups were read: newer ones may be missing";
            assert_eq!(note.contains(words), !complete, "{note}");
            assert_eq!(note.contains("A call reads no more."), !complete, "{note}");
        }
        let is_protected = answers[0]["backups"][0].get("protected").is_some();
        assert_eq!(is_protected, complete);
        assert_eq!(session.ok(REMOVE, order(3)).await["outcome"], "removed");
        assert_eq!(upstream.changes(), [removes(3)]);
    }
}

#[tokio::test]
async fn filters_take_dates_as_the_rules_read_them() {
    let mut rows = oldest_first(50);
    rows[4]["status"]["state"] = json!("DEPLOYMENT_ERROR");
    rows[9]["created_at"] = json!("soon");
    rows[19]["created_at"] = json!("2026-06-01T22:00:00+02:00");
    let upstream = Upstream::paged(rows).await;
    let mut session = upstream.app().session(Era::Stateless, &[]).await;
    for (filters, described, numbers) in [
        (
            json!({ "createdBefore": "2026-06-01T03:00:00Z" }),
            "before 2026-06-01T03:00:00Z",
            vec![2, 1],
        ),
        (
            json!({ "createdBefore": "2026-06-01T04:00:00+01:00", "createdAfter": "2026-06-01" }),
            "from 2026-06-01T00:00:00Z, before 2026-06-01T03:00:00Z",
            vec![2, 1],
        ),
        (
            json!({ "createdAfter": "2026-06-03 01:00" }),
            "from 2026-06-03T01:00:00Z",
            vec![50, 49],
        ),
        (
            json!({ "createdAfter": "2026-06-01T20:00:00Z", "createdBefore": "2026-06-01T20:00:00.5Z" }),
            "from 2026-06-01T20:00:00Z, before 2026-06-01T20:00:00.500Z",
            vec![20],
        ),
        (
            json!({ "createdBefore": "2026-06-01", "condition": "" }),
            "before 2026-06-01T00:00:00Z",
            vec![],
        ),
        (
            json!({ "condition": "failed" }),
            "condition failed",
            vec![5],
        ),
        (
            json!({ "condition": "failed", "createdAfter": "2026-06-02" }),
            "from 2026-06-02T00:00:00Z, condition failed",
            vec![],
        ),
    ] {
        let mut arguments = filters;
        arguments["databaseId"] = json!(Sandbox::ORDERS);
        let list = session.ok(LIST, arguments).await;
        let expected: Vec<String> = numbers.into_iter().map(backup_id).collect();
        assert_eq!(ids(&list), expected, "{described}");
        assert_eq!(list["filters"], described);
        assert_eq!(list["matching"], expected.len());
        assert_eq!(list["summary"]["total"], 50);
        assert!(list.get("next_created_before").is_none(), "{list}");
        assert!(list.get("note").is_none(), "{list}");
    }
    // What has no date is shown only where no date is asked for.
    let finished = json!({ "databaseId": Sandbox::ORDERS, "condition": "finished" });
    let list = session.ok(LIST, finished).await;
    assert_eq!(ids(&list).last(), Some(&&*backup_id(10)));
    assert_eq!(list["matching"], 49);
}

/// A property, tried with every combination of filters over lists of every kind of row.
#[tokio::test]
async fn filters_change_neither_the_summary_nor_what_is_protected() {
    let states = [GOOD, "DEPLOYMENT_ERROR", "DELETING", "A_STATE_OF_TOMORROW"];
    let dates = [
        "2026-06-01T06:00:00Z",
        "2026-06-01T12:00:00Z",
        "2026-06-02",
        "2999-01-01",
    ];
    let conditions = [
        "finished",
        "in_progress",
        "failed",
        "being_removed",
        "unknown",
    ];
    for turn in 0..4 {
        let mut rows: Vec<Value> = (1..=30)
            .map(|number| hourly(number, states[(number as usize * 7 / 3 + turn) % 4]))
            .collect();
        rows[29] = recent(30, "QUEUED");
        rows[turn]["created_at"] = json!("soon");
        rows[turn + 9]["created_at"] = json!("2998-01-01");
        let upstream = Upstream::paged(rows).await;
        let keep = ["1", "2", "3", "9"][turn];
        let app = upstream.app();
        let mut session = app.session(Era::Stateless, &["--keep-latest", keep]).await;
        let whole = session.ok(LIST, orders()).await;
        let whole_rows = whole["backups"].as_array().unwrap();
        assert_eq!(whole_rows.len(), 30);
        let options = |names: &[&'static str]| -> Vec<Option<&'static str>> {
            names.iter().map(|name| Some(*name)).chain([None]).collect()
        };
        for before in options(&dates) {
            for after in options(&dates) {
                for condition in options(&conditions) {
                    let mut arguments = orders();
                    arguments["createdBefore"] = json!(before);
                    arguments["createdAfter"] = json!(after);
                    arguments["condition"] = json!(condition);
                    let list = session.ok(LIST, arguments.clone()).await;
                    assert_eq!(list["summary"], whole["summary"], "{arguments}");
                    let time = |text: &str| match text.len() {
                        10 => format!("{text}T00:00:00Z"),
                        _ => text.to_owned(),
                    };
                    let fits = |row: &&Value| {
                        let date = time(row["created_at"].as_str().unwrap());
                        let is_dated = date.starts_with('2');
                        before.is_none_or(|before| is_dated && date < time(before))
                            && after.is_none_or(|after| is_dated && date >= time(after))
                            && condition.is_none_or(|condition| row["condition"] == condition)
                    };
                    // With what protects each.
                    let expected: Vec<&Value> = whole_rows.iter().filter(fits).collect();
                    let shown: Vec<&Value> = list["backups"].as_array().unwrap().iter().collect();
                    assert_eq!(shown, expected, "{arguments}");
                }
            }
        }
    }
}

/// 250 rows, of which three have no date, and 30 around each hundredth have the same one.
#[tokio::test]
async fn a_walk_loses_and_repeats_nothing() {
    let mut rows = oldest_first(250);
    for number in [1, 120, 249] {
        rows[number]["created_at"] = json!("soon");
    }
    rows[130]["created_at"] = json!("2999-01-01");
    for middle in [50, 150] {
        let date = format!("2026-06-0{}T12:00:00.000000123Z", middle / 40);
        for row in &mut rows[middle - 15..middle + 15] {
            row["created_at"] = json!(date);
        }
    }
    let upstream = Upstream::paged(rows).await;
    let mut session = upstream.app().session(Era::Stateless, &[]).await;
    let answers = walk(&mut session, &json!({})).await;
    let mut seen: Vec<&str> = answers.iter().flat_map(ids).collect();
    let mut dates = Vec::new();
    for list in &answers {
        let shown = list["backups"].as_array().unwrap();
        assert!(shown.len() <= 100, "{list}");
        let date = |row: &Value| row["created_at"].as_str().unwrap().to_owned();
        let mut here: Vec<String> = shown.iter().map(date).collect();
        here.retain(|date| date.starts_with("2026"));
        here.dedup();
        dates.extend(here);
    }
    let distinct: HashSet<&String> = dates.iter().collect();
    assert_eq!(distinct.len(), dates.len(), "a date is split");
    assert_eq!(seen.len(), 250);
    seen.sort_unstable();
    let all: Vec<String> = (1..=250).map(backup_id).collect();
    assert_eq!(seen, all);
    // Those without a date are in the first answer, at its end.
    let mut undated: Vec<&str> = ids(&answers[0]).into_iter().rev().take(4).collect();
    undated.sort_unstable();
    assert_eq!(undated, [2, 121, 131, 250].map(backup_id));
}

/// Where all have one date, or none, they are shown together, as many as fit.
#[tokio::test]
async fn what_has_one_date_is_shown_together() {
    for (date, number, verbose, shown) in [
        ("2026-06-01", 150, false, 150),
        ("soon", 150, false, 150),
        ("2026-06-01", 150, true, 19),
        ("soon", 150, true, 19),
    ] {
        let rows = oldest_first(number).into_iter().map(|mut row| {
            row["created_at"] = json!(date);
            row["status"]["steps"] = json!("x".repeat(1_800));
            row
        });
        let mut rows: Vec<Value> = rows.collect();
        rows.push(hourly(200, GOOD));
        // The oldest but those.
        rows.last_mut().unwrap()["created_at"] = json!("2026-05-01");
        let upstream = Upstream::paged(rows).await;
        let mut session = upstream.app().session(Era::Stateless, &[]).await;
        let answers = walk(&mut session, &json!({ "verbose": verbose })).await;
        let [first, second] = answers.as_slice() else {
            panic!("{answers:?}");
        };
        assert_eq!(ids(first).len(), shown, "{date} {verbose}");
        assert_eq!(ids(second), [backup_id(200)]);
        let note = first["note"].as_str().unwrap();
        let lost = format!("{} of one date are too long for an answer.", 150 - shown);
        assert_eq!(note.contains(&lost), verbose, "{note}");
    }
}

#[tokio::test]
async fn an_answer_ends_at_forty_kilobytes() {
    for (verbose, most) in [(false, 100), (true, 20)] {
        let rows = oldest_first(130).into_iter().map(|mut row| {
            row["message"] = json!("ü".repeat(400));
            row["name"] = json!("n".repeat(255));
            row["status"]["steps"] = json!("x".repeat(1_500));
            row
        });
        let upstream = Upstream::paged(rows.collect()).await;
        let mut session = upstream.app().session(Era::Stateless, &[]).await;
        let answers = walk(&mut session, &json!({ "verbose": verbose })).await;
        let seen: Vec<&str> = answers.iter().flat_map(ids).collect();
        let all: Vec<String> = (1..=130).rev().map(backup_id).collect();
        assert_eq!(seen, all);
        let lengths: Vec<usize> = answers.iter().map(|list| list.to_string().len()).collect();
        assert!(lengths.len() > 130 / most, "{lengths:?}");
        assert!(lengths[0] > 35_000, "{lengths:?}");
        assert_eq!(answers[0]["matching"], 130);
    }
}

/// 4 MiB, of pages of 300 kB.
#[tokio::test]
async fn a_list_ends_with_what_it_may_hold() {
    let rows = oldest_first(400).into_iter().map(|mut row| {
        row["message"] = json!("x".repeat(15_000));
        row
    });
    let upstream = Upstream::paged(rows.collect()).await;
    let mut session = upstream.app().session(Era::Stateless, &[]).await;
    let list = session.ok(LIST, orders()).await;
    assert_eq!(list["complete"], false);
    assert_eq!(ids(&list)[0], backup_id(260));
    contains(
        list["note"].as_str().unwrap(),
        ["Only 260 backups were read"],
    );
    // A removal needs all of them.
    let text = session.refused(REMOVE, order(3)).await;
    contains(&text, ["a list larger than 4 MiB", "Nothing was changed"]);
    assert_eq!(upstream.changes(), [""; 0]);
}

/// The times are those of the limits for tests: 1 s, and 2 s with a progress token.
#[tokio::test]
async fn a_list_ends_in_time_with_what_was_read() {
    let rows = oldest_first(40);
    let upstream = Upstream::start(move |_, line| match line {
        line if line.contains("startId") => Reply::Hang,
        _ => page(&rows[..20]),
    })
    .await;
    let app = upstream.app().short_limits();
    let mut session = app.session(Era::Stateless, &[]).await;
    let mut times = Vec::new();
    for call in [
        json!({ "name": LIST, "arguments": orders() }),
        patient(json!({})),
    ] {
        let begun = Instant::now();
        let list = content_of(&session.request("tools/call", call).await["result"]);
        times.push(begun.elapsed());
        assert_eq!(ids(&list).len(), 20);
        assert_eq!(list["complete"], false);
        lacks(&list.to_string(), ["summary", "protected\":"]);
        let note = list["note"].as_str().unwrap();
        contains(
            note,
            ["Only 20 backups were read", "Qovery is slow. Call again."],
        );
    }
    assert!(times[0] >= Duration::from_secs(1), "{times:?}");
    assert!(
        times[1] >= Duration::from_secs(2) && times[0] < times[1],
        "{times:?}"
    );
}

#[tokio::test]
async fn a_look_at_one_backup_reads_to_its_page_and_says_nothing_of_others() {
    let mut rows = oldest_first(60);
    rows[29]["message"] = json!("é".repeat(300));
    let upstream = Upstream::paged(rows).await;
    let mut session = upstream.app().session(Era::Stateless, &[]).await;
    // The database's name is looked up once.
    for (number, requests) in [(60, 3 + 1), (1, 1), (30, 2)] {
        let before = upstream.lines().len();
        // In strict modes, models give every argument.
        let mut arguments = order(number);
        for empty in ["createdBefore", "createdAfter", "condition"] {
            arguments[empty] = json!("");
        }
        let list = session.ok(LIST, arguments).await;
        assert_eq!(upstream.lines().len() - before, requests);
        assert_eq!(ids(&list), [backup_id(number)]);
        for absent in [
            "complete",
            "summary",
            "matching",
            "filters",
            "next_created_before",
            "note",
        ] {
            assert!(list.get(absent).is_none(), "{list}");
        }
        assert!(list["backups"][0].get("protected").is_none(), "{list}");
        if number == 30 {
            assert_eq!(list["backups"][0]["message"], "é".repeat(300));
        }
    }
    let text = session.refused(LIST, order(99)).await;
    contains(
        &text,
        [
            "was not found in the list of database",
            "Nothing was changed.",
        ],
    );
    lacks(&text, ["removed"]);
}

#[tokio::test]
async fn a_list_says_what_each_rule_protects() {
    let day = |number: u32, state: &str| backup(number, state);
    let mut odd = day(5, "READY");
    odd["created_at"] = json!("yesterday");
    let mut ahead = day(8, "READY");
    ahead["created_at"] = json!("2999-01-01T00:00:00Z");
    let mut touched = day(1, "READY");
    touched["updated_at"] = json!("2026-06-09T00:00:00Z");
    touched["status"]["last_deployment_date"] = touched["created_at"].clone();
    // Of another meaning than ours.
    touched["condition"] = json!("failed");
    touched["protected"] = json!(true);
    let backups = [
        touched,
        day(2, "READY"),
        day(3, "A_STATE_OF_TOMORROW"),
        recent(4, "QUEUED"),
        odd,
        ahead,
        day(6, "DELETING"),
        day(7, "DEPLOYMENT_ERROR"),
    ];
    let database = Database::with(backups).await;
    let mut session = database.app().session(Era::Handshake, &[]).await;
    let list = session.ok(LIST, orders()).await;
    let rows = list["backups"].as_array().unwrap();
    let expected = [
        (4, "in_progress", Some("being made")),
        (7, "failed", None),
        (6, "being_removed", None),
        (3, "unknown", Some("newest")),
        (2, "finished", Some("newest finished")),
        (1, "finished", None),
        (5, "finished", Some("date not readable")),
        (8, "finished", Some("date in the future")),
    ];
    assert_eq!(rows.len(), expected.len());
    for (row, (number, condition, protected)) in rows.iter().zip(expected) {
        assert_eq!(row["id"], backup_id(number), "{list}");
        assert_eq!(row["condition"], condition, "{row}");
        assert_eq!(row["protected"], json!(protected), "{row}");
    }
    // Qovery's own word is shown where ours says less.
    let states = rows.iter().filter_map(|row| row["state"].as_str());
    assert_eq!(states.collect::<Vec<_>>(), ["A_STATE_OF_TOMORROW"]);
    let summary = json!({
        "total": 8, "finished": 4, "in_progress": 1, "failed": 1, "being_removed": 1, "unknown": 1,
        "newest": rows[0]["created_at"], "oldest": "2026-06-01T00:00:00Z",
        "newest_finished_id": backup_id(2),
    });
    assert_eq!(list["summary"], summary);
    assert_eq!(list["backups"][6]["created_at"], "yesterday");
    lacks(&list.to_string(), ["updated_at", "last_deployment_date"]);
    let verbose = json!({ "databaseId": Sandbox::ORDERS, "verbose": true });
    let oldest = &session.ok(LIST, verbose).await["backups"][5];
    assert_eq!(oldest["updated_at"], "2026-06-09T00:00:00Z");
    // It is the date of its making.
    assert!(oldest.get("last_deployment_date").is_none());
}

/// A list whose pages repeat, or that changes while it is read.
#[tokio::test]
async fn an_incomplete_list_says_so_and_allows_no_removal() {
    for (next_page, note) in [
        (page(&backups(20)), "pages repeat"),
        (reply("404 X", "", ""), "Call again"),
    ] {
        let upstream = Upstream::split("startId=", next_page, page(&backups(20))).await;
        let mut session = upstream.app().session(Era::Stateless, &[]).await;
        let list = session.ok(LIST, orders()).await;
        assert_eq!(ids(&list).len(), 20);
        assert_eq!(list["complete"], false);
        assert!(list.get("next_created_before").is_none() && list.get("summary").is_none());
        contains(list["note"].as_str().unwrap(), [note]);
        let text = session.refused(REMOVE, order(3)).await;
        contains(&text, ["could not be completed"]);
        assert_eq!(upstream.changes(), [""; 0]);
        let text = session.refused(LIST, order(99)).await;
        contains(&text, ["was not found"]);
    }
}

/// A database whose newest backup is being made.
async fn unfinished() -> Database {
    Database::with([backup(1, "READY"), recent(2, "EXECUTING")]).await
}

/// The parameters of a list that waits for number 2, and wants progress.
fn wait() -> Value {
    json!({ "name": LIST, "arguments": order(2), "_meta": { "progressToken": "p" } })
}

#[tokio::test]
async fn one_backup_is_waited_for_until_it_is_finished() {
    for era in ERAS {
        let database = unfinished().await;
        let mut session = database.app().short_limits().session(era, &[]).await;
        let id = session.send_request("tools/call", wait()).await;
        let progress = session.receive().await;
        assert_eq!(progress["method"], "notifications/progress", "{progress}");
        assert_eq!(progress["params"]["progressToken"], "p");
        assert_eq!(progress["params"]["progress"], 1.0);
        database.change(|backups| backups[1]["status"]["state"] = json!("READY"));
        let list = content_of(&session.answer(id).await["result"]);
        assert_eq!(ids(&list), [backup_id(2)]);
        assert_eq!(list["backups"][0]["condition"], "finished", "{list}");
        assert!(list.get("note").is_none() && list.get("summary").is_none());
    }
}

#[tokio::test]
async fn only_a_backup_in_progress_is_waited_for() {
    let database = unfinished().await;
    database.change(|backups| backups.push(backup(3, "DEPLOYMENT_ERROR")));
    let mut session = database.app().session(Era::Stateless, &[]).await;
    for (number, condition) in [(1, "finished"), (3, "failed")] {
        let list = session.ok(LIST, order(number)).await;
        assert_eq!(list["backups"][0]["condition"], condition);
    }
    assert_eq!(database.requests(), 3, "two lists, and the database's name");
    let text = session.refused(LIST, order(9)).await;
    contains(&text, ["was not found in the list of database"]);
}

/// A wait takes the time of a list, 1 s, and 2 s with a progress token: its looks are at 0, 1/4 and 7/8 of it.
#[tokio::test]
async fn a_wait_polls_three_times_at_most() {
    for (call, time) in [
        (json!({ "name": LIST, "arguments": order(2) }), 875),
        (wait(), 1_750),
    ] {
        let database = unfinished().await;
        let app = database.app().short_limits();
        let mut session = app.session(Era::Stateless, &[]).await;
        let begun = Instant::now();
        let id = session.send_request("tools/call", call).await;
        let mut message = session.receive().await;
        while message["method"] == "notifications/progress" {
            message = session.receive().await;
        }
        assert_eq!(message["id"], id);
        assert!(begun.elapsed() >= Duration::from_millis(time));
        let list = content_of(&message["result"]);
        assert_eq!(list["backups"][0]["condition"], "in_progress");
        contains(
            list["note"].as_str().unwrap(),
            ["Call again with this backupId"],
        );
        assert_eq!(database.requests(), 1 + 3, "its name, and three lists");
    }
}

/// The second look hangs: the backup as it was before is worth more than an error that comes later.
#[tokio::test]
async fn a_wait_ends_in_time_where_qovery_hangs() {
    let rows = [backup(1, "READY"), recent(2, "EXECUTING")];
    let upstream = Upstream::start(move |number, _| match number {
        0 | 1 => page(&rows),
        _ => Reply::Hang,
    })
    .await;
    let app = upstream.app().short_limits();
    let mut session = app.session(Era::Stateless, &[]).await;
    let list = session.ok(LIST, order(2)).await;
    assert_eq!(list["backups"][0]["condition"], "in_progress");
    assert_eq!(upstream.lines().len(), 3);
}

#[tokio::test]
async fn a_wait_ends_with_its_call_and_with_the_server() {
    for era in ERAS {
        let database = unfinished().await;
        let mut session = database.app().session(era, &[]).await;
        let id = session.send_request("tools/call", wait()).await;
        assert_eq!(session.receive().await["method"], "notifications/progress");
        session.cancel(id).await;
        // A cancelled call is not answered, and delays no other.
        let id = session.send_request("tools/call", wait()).await;
        assert_eq!(session.receive().await["method"], "notifications/progress");
        session.close_stdin();
        let answer = session.receive().await;
        assert_eq!(answer["id"], id, "{answer}");
        let list = content_of(&answer["result"]);
        assert_eq!(list["backups"][0]["condition"], "in_progress", "{list}");
        assert!(session.finish().await.status.success());
    }
}

#[tokio::test]
async fn progress_is_sent_over_http_as_a_stream_of_events() {
    let database = unfinished().await;
    let server = database.app().short_limits().serve(&["--no-rest"]).await;
    let mut client = Client::over_http(&server, Era::Stateless, None);
    let request = client.message("tools/call", wait());
    let mut connection = Connection::with(server.mcp, &request).await;
    let head = connection.head().await;
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    let mut message = connection.event().await;
    let mut counts = Vec::new();
    while message["method"] == "notifications/progress" {
        counts.push(message["params"]["progress"].as_f64().unwrap());
        message = connection.event().await;
    }
    assert_eq!(counts, [1.0, 2.0]);
    let list = content_of(&message["result"]);
    assert_eq!(list["backups"][0]["condition"], "in_progress", "{list}");
    // Without a progress token, nothing but the answer is sent.
    let answer = client.tool(LIST, &order(2)).send(server.mcp).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn a_name_is_answered_with_ids_and_nothing_else_is_done() {
    let sandbox = Sandbox::start().await.unwrap();
    let app = TestApp::with_upstream(&sandbox.base_url());
    let place = "\"orders\" in project \"shop\", environment \"production\"";
    let line = format!("{}: {place}", Sandbox::ORDERS);
    for era in ERAS {
        let mut session = app.session(era, &[]).await;
        for (name, words) in [
            ("orders", "is a name. Nothing was done yet"),
            ("ORDERS", "is a name. Nothing was done yet"),
            ("order", "but some nearly are"),
            ("orders-db", "but some nearly are"),
            ("orders in production", "is a name. Nothing was done yet"),
            ("Orders (shop)", "is a name. Nothing was done yet"),
            ("orders in staging", "but some nearly are"),
        ] {
            let text = session.refused(LIST, json!({ "databaseId": name })).await;
            contains(&text, [words, &line]);
            lacks(&text, [Sandbox::SESSIONS]);
        }
        let unknown = json!({ "databaseId": "customers" });
        let text = session.refused(LIST, unknown).await;
        contains(&text, ["No database that this API key can see"]);

        let add = json!({ "databaseId": "orders", "name": "n" });
        let remove = json!({ "databaseId": "orders", "backupId": backup_id(3) });
        let page = "https://console.qovery.com/organization/00000000-0000-4000-8000-000000000001/\
                    project/00000000-0000-4000-8000-000000000002/environment/\
                    00000000-0000-4000-8000-000000000003/service/{id}/overview?tab=1#top";
        let page = page.replace("{id}", Sandbox::ORDERS);
        let by_address = json!({ "databaseId": page, "backupIds": [backup_id(3)] });
        for (tool, arguments) in [(ADD, add), (REMOVE, remove), (REMOVE, by_address)] {
            let text = session.refused(tool, arguments).await;
            contains(&text, [Sandbox::ORDERS]);
        }
        let markdown = format!("[orders]({})", page.replace("/overview?tab=1#top", ""));
        let enclosed = format!("orders = urn:uuid:{}.", Sandbox::ORDERS);
        for list in [page, markdown, enclosed] {
            let list = session.ok(LIST, json!({ "databaseId": list })).await;
            assert_eq!(list["summary"]["total"], 27, "nothing was changed");
        }
    }
}

/// A list by a name.
fn named(name: &str) -> Value {
    json!({ "databaseId": name })
}

#[tokio::test]
async fn a_key_that_may_not_look_up_names_still_lists() {
    let policy = "sk-qov-01-0123456789abcdef0123456789abcdef";
    for (key, denial) in [(policy, "401 X"), (Sandbox::KEY, "403 X")] {
        let upstream = Upstream::split("/backup", page(&backups(1)), reply(denial, "", "")).await;
        let app = TestApp::new(&[("QOVERY_API_URL", &upstream.url()), ("QOVERY_API_KEY", key)]);
        let mut session = app.session(Era::Stateless, &[]).await;
        for _ in 0..2 {
            let text = session.refused(LIST, named("orders")).await;
            contains(&text, ["cannot be looked up by their names"]);
            // The key is not to blame.
            lacks(&text, ["QOVERY_API_KEY"]);
            let list = session.ok(LIST, orders()).await;
            assert_eq!(list["database"], json!({ "id": Sandbox::ORDERS }));
        }
        // One denial ends all look-ups for a while.
        let mut lines = upstream.lines();
        lines.retain(|line| !line.contains("/backup"));
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
}

/// A key may be for one organization of several.
#[tokio::test]
async fn a_forbidden_organization_hides_no_other() {
    let organizations = json!({ "results": [{ "id": database(7) }, { "id": database(8) }] });
    let orders = json!({
        "id": Sandbox::ORDERS, "name": "orders", "service_type": "DATABASE",
        "project_name": "shop", "environment_name": "production",
    });
    let services = json!({ "results": [orders] });
    let upstream = Upstream::start(move |_, line| match line {
        line if line.contains(&database(7)) => reply("403 X", "", ""),
        line if line.contains(&database(8)) => json_reply("200 OK", &services),
        _ => json_reply("200 OK", &organizations),
    })
    .await;
    let mut session = upstream.app().session(Era::Stateless, &[]).await;
    for _ in 0..3 {
        let text = session.refused(LIST, named("orders")).await;
        contains(&text, [Sandbox::ORDERS]);
    }
    assert_eq!(upstream.requests().len(), 3, "the look-up is remembered");
    // So is a failure.
    let upstream = Upstream::always(reply("404 X", "", "")).await;
    let mut session = upstream.app().session(Era::Stateless, &[]).await;
    for _ in 0..3 {
        let text = session.refused(LIST, named("orders")).await;
        contains(&text, ["(404)"]);
    }
    assert_eq!(upstream.requests().len(), 1);
}

/// The pauses are those of the limits for tests: 0.4 s and 1.2 s.
#[tokio::test]
async fn the_pause_after_a_second_denial_is_longer() {
    let upstream = Upstream::always(reply("403 X", "", "")).await;
    let app = upstream.app().short_limits();
    let mut session = app.session(Era::Stateless, &[]).await;
    let mut denials = Vec::new();
    while denials.len() < 4 {
        let called = Instant::now();
        let text = session.refused(LIST, named("orders")).await;
        contains(&text, ["cannot be looked up by their names"]);
        if upstream.requests().len() > denials.len() {
            denials.push((called, Instant::now()));
        }
    }
    for (pair, least) in denials.windows(2).zip([400, 1_200, 1_200]) {
        let [(called, _), (_, denied)] = pair else {
            unreachable!("a window of two");
        };
        assert!(
            *denied - *called >= Duration::from_millis(least),
            "{denials:?}"
        );
    }
}

#[tokio::test]
async fn the_place_beside_a_name_chooses_among_databases_of_that_name() {
    let service = |number, environment: &str, project: &str| {
        json!({
            "id": database(number), "name": "orders", "service_type": "DATABASE",
            "environment_name": environment, "project_name": project,
        })
    };
    let services = json!({ "results": [
        service(1, "production", "shop"),
        service(2, "staging", "shop"),
        service(3, "staging", "archive"),
    ] });
    let organizations = json!({ "results": [{ "id": database(7) }] });
    let services = json_reply("200 OK", &services);
    let upstream =
        Upstream::split("/services", services, json_reply("200 OK", &organizations)).await;
    let mut session = upstream.app().session(Era::Stateless, &[]).await;
    for (name, meant) in [
        ("orders", &[1, 2, 3][..]),
        ("orders in production", &[1]),
        ("orders (staging)", &[2, 3]),
        ("orders in staging of shop", &[2]),
        ("archive/orders", &[3]),
    ] {
        let text = session.refused(LIST, named(name)).await;
        let ids = (1..=3).filter(|number| text.contains(&database(*number)));
        assert_eq!(ids.collect::<Vec<_>>(), meant, "{name}: {text}");
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_named() {
    for (apart, note) in [(0, None), (4, None), (11, Some("11 minutes apart"))] {
        let date = chrono::Utc::now() - chrono::TimeDelta::minutes(apart);
        let date = date
            .format("Date: %a, %d %b %Y %H:%M:%S GMT\r\n")
            .to_string();
        let body = json!({ "page": 1, "page_size": 20, "results": backups(2) }).to_string();
        let upstream = Upstream::always(reply("200 OK", &format!("{JSON}{date}"), &body)).await;
        let mut session = upstream.app().session(Era::Stateless, &[]).await;
        for arguments in [orders(), order(2)] {
            let list = session.ok(LIST, arguments).await;
            let found = list["note"].as_str().unwrap_or_default();
            assert_eq!(
                note.is_some(),
                found.contains(note.unwrap_or("apart")),
                "{list}"
            );
        }
        let log = session.finish().await.stderr;
        assert_eq!(
            note.is_some(),
            log.contains("the clocks of Qovery and of this machine differ")
        );
    }
}

#[tokio::test]
async fn a_name_that_hangs_delays_no_list() {
    let upstream = Upstream::split("/backup", page(&backups(1)), Reply::Hang).await;
    let app = upstream.app().short_limits();
    let mut session = app.session(Era::Stateless, &[]).await;
    for _ in 0..2 {
        let list = session.ok(LIST, orders()).await;
        assert!(list["database"].get("name").is_none(), "{list}");
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test]
async fn names_from_qovery_are_sanitized_and_cut() {
    let service = |id: &str, name: &str, kind: &str| {
        json!({
            "id": id, "name": name, "service_type": kind,
            "project_name": "p\u{202e}\n", "environment_name": "e".repeat(1_000),
        })
    };
    let services = json!({ "results": [
        service(Sandbox::SESSIONS, "orders", "APPLICATION"),
        service(Sandbox::ORDERS, "or\u{200b}ders", "DATABASE"),
        service(&database(3), "Orders", "DATABASE"),
    ] });
    let organizations = json!({ "results": [{ "id": Sandbox::ORDERS, "name": "x" }] });
    let upstream = Upstream::split(
        "/services",
        json_reply("200 OK", &services),
        json_reply("200 OK", &organizations),
    )
    .await;
    let mut session = upstream.app().session(Era::Stateless, &[]).await;
    let text = session.refused(LIST, named("orders")).await;
    let place = ": \"orders\" in project \"p \", environment \"eee";
    contains(&text, ["the name of more than one database", place]);
    lacks(&text, [Sandbox::SESSIONS, "\u{200b}", "\u{202e}"]);
    assert!(text.len() < 1_500, "{text}");
}

#[tokio::test]
async fn a_new_backup_can_be_waited_for_in_two_calls() {
    let mut session = sandbox_session(Era::Stateless, &[]).await;
    let add = json!({ "databaseId": Sandbox::ORDERS, "name": "before" });
    let added = session.ok(ADD, add).await;
    assert_eq!(added["condition"], "in_progress", "{added}");
    assert_eq!(added["message"], DEFAULT_MESSAGE);
    let arguments = json!({ "databaseId": Sandbox::ORDERS, "backupId": added["id"] });
    let list = session.ok(LIST, arguments).await;
    assert_eq!(list["backups"][0]["condition"], "finished", "{list}");
    let characters = added.to_string().chars().count() + list.to_string().chars().count();
    assert!(characters <= 1_000, "{characters}");
}

#[tokio::test]
async fn names_keep_the_joiners_that_spell_them() {
    let names = [
        "می\u{200c}خواهم",
        "क्\u{200d}ष",
        "👩\u{200d}👧",
        "🏳\u{fe0f}\u{200d}🌈",
    ];
    let hidden = "a\u{200d}b\u{e0068}\u{200c}";
    let rows = names.into_iter().chain([hidden]).zip(1..);
    let rows: Vec<Value> = rows
        .map(|(name, number)| {
            let mut row = backup(number, "READY");
            row["name"] = json!(name);
            row
        })
        .collect();
    let upstream = Upstream::always(page(&rows)).await;
    let mut session = upstream.app().session(Era::Stateless, &[]).await;
    let list = session.ok(LIST, orders()).await;
    let mut shown: Vec<&str> = list["backups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    shown.reverse();
    assert_eq!(shown, [names.as_slice(), &["ab"]].concat());
}
