//! What is protected whatever Qovery says of dates: odd ones are read where they can be, and expose no
//! other backup where they cannot.

use chrono::{TimeDelta, Utc};
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    clients::{Client, Era, LIST, REMOVE, Transport, UNATTENDED, can_ask, order, orders},
    connection::{Request, backups_of},
    expect::{contains, lacks},
    upstreams::{
        Database, JSON, Upstream, backup, backup_id, ledger::database, page, removes, reply,
    },
};

/// The removal of a backup: what it is refused with, or nothing.
type Verdict = Option<&'static str>;

const GOES: Verdict = None;
const NEWEST: Verdict = Some("it is the newest one, and finished.");
const UNDATED: Verdict = Some("its date cannot be read, so its age is not known.");
const FUTURE: Verdict = Some("its date is more than a day in the future");

struct Case {
    name: &'static str,
    /// The dates of finished backups, of which the first has the highest id.
    backups: Vec<(Value, Verdict)>,
}

impl Case {
    /// The backups with their numbers.
    fn numbered(&self) -> impl Iterator<Item = (u32, &(Value, Verdict))> {
        let count = u32::try_from(self.backups.len()).unwrap();
        (1..=count).rev().zip(&self.backups)
    }
}

fn case(name: &'static str, backups: &[(&str, Verdict)]) -> Case {
    let backups = backups
        .iter()
        .map(|(date, verdict)| (json!(date), *verdict));
    Case {
        name,
        backups: backups.collect(),
    }
}

fn cases() -> Vec<Case> {
    let ordered = |name, [first, second, third]: [&str; 3]| {
        case(name, &[(first, GOES), (second, GOES), (third, NEWEST)])
    };
    let mut cases = vec![
        case("no date at all", &[("", UNDATED); 3]),
        case(
            "one instant",
            &[
                ("2026-03-01T00:00:00Z", NEWEST),
                ("2026-03-01T00:00:00Z", NEWEST),
                ("2026-03-01T01:00:00+01:00", NEWEST),
                ("2026-02-01T00:00:00Z", GOES),
            ],
        ),
        case(
            "one in the future",
            &[
                ("2999-01-01T00:00:00Z", FUTURE),
                ("2026-02-01T00:00:00Z", GOES),
                ("2026-03-01T00:00:00Z", NEWEST),
            ],
        ),
        ordered(
            "mixed offsets",
            [
                "2026-03-02T01:00:00+02:00",
                "2026-03-01T23:30:00Z",
                "2026-03-01T20:00:00-05:00",
            ],
        ),
    ];
    for (odd, verdict) in [
        ("", UNDATED),
        ("soon", UNDATED),
        ("2025-01-01T00:00:00", GOES),
    ] {
        cases.push(case(
            "an old one among good dates",
            &[
                (odd, verdict),
                ("2026-02-01T00:00:00Z", GOES),
                ("2026-03-01T00:00:00Z", NEWEST),
            ],
        ));
    }
    for odd in [
        "2026-03-01T00:00:00.123Z",
        "2026-03-01T00:00:00.123456Z",
        "2026-03-01T00:00:00.123456789Z",
        "2026-03-01T00:00:00.123456789012Z",
        "2026-03-01T00:00:00,123",
        "2026-03-01t00:00:00z",
        "2026-03-01 00:00:00+00",
        "2026-03-01T00:00:00 UTC",
        "2026-03-01T00:00:00+0000",
        "2026-03-01T00:00:00Z[UTC]",
        "2026-03-01",
        "2026-02-28T23:59:60Z",
        "2026-02-28T24:00:00Z",
        "1772323200000",
    ] {
        // Between two that are near: it is not only read, but read right.
        cases.push(ordered(
            odd,
            ["2026-02-28T23:59:59Z", odd, "2026-03-01T00:00:01Z"],
        ));
        cases.push(ordered(
            odd,
            ["2026-02-01T00:00:00Z", "2026-02-28T23:59:59Z", odd],
        ));
    }
    cases.push(Case {
        name: "numbers",
        backups: vec![
            (json!(1_772_323_200), GOES),
            (json!("2026-03-01T00:00:01Z"), GOES),
            (json!(1_772_323_202_000_u64), NEWEST),
            (json!(null), UNDATED),
        ],
    });
    cases
}

/// Each case in a database of its own, from which nothing is ever removed: every backup is judged in the
/// same list.
#[tokio::test]
async fn odd_dates_never_expose_the_newest_backup() {
    let cases = cases();
    let page_of = |case: &Case| {
        let backups = case.numbered().map(|(number, (date, _))| {
            json!({
                "id": backup_id(number), "created_at": date, "updated_at": date,
                "status": { "state": "READY", "last_deployment_date": date },
            })
        });
        page(&backups.collect::<Vec<_>>())
    };
    let pages: Vec<_> = cases.iter().map(page_of).collect();
    let upstream = Upstream::start(move |_, line| {
        let at = (0..pages.len()).find(|at| line.contains(&database(*at)));
        match at {
            Some(at) if line.starts_with("GET ") => pages[at].clone(),
            _ => reply("204 No Content", "", ""),
        }
    })
    .await;
    let unlimited = ["--changes-per-hour", "unlimited"];
    let mut session = upstream.app().session(Era::Handshake, &unlimited).await;
    let mut removed = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let database = database(at);
        let list = session.ok(LIST, json!({ "databaseId": database })).await;
        let listed = list["backups"].as_array().unwrap();
        assert_eq!(listed.len(), case.backups.len(), "{}: {list}", case.name);
        for (number, (date, verdict)) in case.numbered() {
            let backup = backup_id(number);
            let arguments = json!({ "databaseId": database, "backupId": backup });
            let result = session.call(REMOVE, arguments).await;
            let text = result["content"][0]["text"].as_str().unwrap();
            let context = format!("{}, {date}: {text}", case.name);
            if let Some(protection) = verdict {
                let refusal = format!("Backup {backup} is protected: {protection}");
                assert!(text.starts_with(&refusal), "{context}");
                contains(&context, ["Nothing was removed. No argument "]);
                lacks(text, ["--keep-latest"]);
            } else {
                let report = &result["structuredContent"];
                assert_eq!(report["outcome"], "removed", "{context}");
                let line = format!("DELETE /database/{database}/backup/{backup} HTTP/1.1");
                removed.push(line);
            }
        }
    }
    assert_eq!(upstream.changes(), removed);
}

const BOTH: &str = "newest and newest finished";
const FINISHED: &str = "newest finished";
const MADE: &str = "being made";

/// Backups in these states, the newest first, an hour apart.
fn hourly(states: &[&str]) -> Vec<Value> {
    let numbers = (1..=u32::try_from(states.len()).unwrap()).rev();
    let rows = states.iter().zip(numbers).zip(1..);
    let rows = rows.map(|((state, number), age)| {
        let mut row = backup(number, state);
        row["created_at"] = json!(hours_ago(age));
        row
    });
    rows.collect()
}

fn hours_ago(hours: i64) -> String {
    (Utc::now() - TimeDelta::hours(hours)).to_rfc3339()
}

/// What is worth nothing takes no place. A list, a look at one backup, and the removal of each one say
/// the same of it.
#[tokio::test]
async fn what_is_good_stays_whatever_is_beside_it() {
    type Row = (&'static str, Option<&'static str>);
    let cases: &[(&str, &[Row])] = &[
        // Three that are unfinished.
        (
            "3",
            &[
                ("QUEUED", Some(MADE)),
                ("QUEUED", Some(MADE)),
                ("QUEUED", Some(MADE)),
                ("READY", Some(BOTH)),
                ("READY", Some(BOTH)),
                ("READY", Some(BOTH)),
                ("READY", None),
            ],
        ),
        (
            "3",
            &[
                ("DELETING", None),
                ("READY", Some(BOTH)),
                ("DEPLOYMENT_ERROR", None),
                ("READY", Some(BOTH)),
                ("READY", Some(BOTH)),
                ("READY", None),
            ],
        ),
        // Of unknown state: it may be good, and takes no place of one that is known to be.
        (
            "0",
            &[
                ("DEPLOYMENT_ERROR", None),
                ("QUEUED", Some(MADE)),
                ("A_STATE_OF_TOMORROW", Some("newest")),
                ("READY", Some(FINISHED)),
                ("READY", None),
            ],
        ),
        // A removal that failed leaves a backup.
        (
            "1",
            &[
                ("CANCELED", None),
                ("DELETE_ERROR", Some("newest")),
                ("STOP_ERROR", None),
            ],
        ),
        (
            "1",
            &[("DEPLOYMENT_ERROR", Some("newest")), ("CANCELED", None)],
        ),
        (
            "1",
            &[("DELETING", None), ("CANCELED", Some("the only one"))],
        ),
        ("1", &[("READY", Some("the only one"))]),
        ("2", &[("QUEUED", Some(MADE)), ("CANCELED", None)]),
    ];
    for (keep, rows) in cases {
        let states: Vec<&str> = rows.iter().map(|(state, _)| *state).collect();
        let upstream =
            Upstream::split("GET ", page(&hourly(&states)), reply("204 X", "", "")).await;
        let app = upstream.app().short_limits();
        let mut session = app.session(Era::Stateless, &["--keep-latest", keep]).await;
        let list = session.ok(LIST, orders()).await;
        for ((state, protected), row) in rows.iter().zip(list["backups"].as_array().unwrap()) {
            assert_eq!(
                row["protected"],
                json!(protected),
                "{keep} {states:?} {row}"
            );
            let arguments = json!({ "databaseId": Sandbox::ORDERS, "backupId": row["id"] });
            if *state != "QUEUED" {
                let look = session.ok(LIST, arguments.clone()).await;
                let mut unprotected = row.clone();
                unprotected.as_object_mut().unwrap().remove("protected");
                assert_eq!(look["backups"][0], unprotected, "{states:?}");
            }
            let sent = upstream.changes().len();
            let removal = session.call(REMOVE, arguments).await;
            let sends = protected.is_none() && *state != "DELETING";
            assert_eq!(
                upstream.changes().len() - sent,
                usize::from(sends),
                "{removal}"
            );
            assert_eq!(removal["isError"] == true, protected.is_some(), "{removal}");
        }
    }
}

/// "Remove the failed ones", also where the newest row is one of them.
#[tokio::test]
async fn the_failed_ones_go_together() {
    let states = ["DEPLOYMENT_ERROR", "READY", "DEPLOYMENT_ERROR", "READY"];
    let database = Database::with(hourly(&states)).await;
    let app = database.app();
    let mut session = app.session(Era::Stateless, &[UNATTENDED]).await;
    let failed =
        json!({ "databaseId": Sandbox::ORDERS, "backupIds": [backup_id(4), backup_id(2)] });
    let report = session.ok(REMOVE, failed).await;
    assert_eq!(
        (&report["outcome"], &report["remaining"]),
        (&json!("removed"), &json!(2))
    );
    assert_eq!(database.changes(), [4, 2].map(removes));
    // Those that are left are all good: the newest of them stays.
    let both = json!({ "databaseId": Sandbox::ORDERS, "backupIds": [backup_id(3), backup_id(1)] });
    contains(
        &session.refused(REMOVE, both).await,
        [&backup_id(3), "it is the newest one"],
    );
}

/// What is in progress for more than a day is stuck, by the `Date` of the list and by our own clock.
#[tokio::test]
async fn what_is_made_stays_until_it_is_stuck() {
    let date = |hours: i64| {
        let date = Utc::now() - TimeDelta::hours(hours);
        date.format("Date: %a, %d %b %Y %H:%M:%S GMT\r\n")
            .to_string()
    };
    for (age, header, stuck) in [
        (23, String::new(), false),
        (25, String::new(), true),
        (25, date(0), true),
        // Qovery's clock is slow, or ours fast; or Qovery's is fast.
        (25, date(2), false),
        (27, date(2), true),
        (23, date(-2), false),
    ] {
        let mut made = backup(1, "EXECUTING");
        made["created_at"] = json!(hours_ago(age));
        let list = json!({ "page": 1, "page_size": 20, "results": [made, backup(2, "READY")] });
        let list = reply("200 OK", &format!("{JSON}{header}"), &list.to_string());
        let upstream = Upstream::split("GET ", list, reply("204 X", "", "")).await;
        let app = upstream.app();
        let mut session = app.session(Era::Stateless, &[UNATTENDED]).await;
        let condition = if stuck { "failed" } else { "in_progress" };
        let list = session.ok(LIST, orders()).await;
        assert_eq!(list["backups"][0]["condition"], condition, "{age} {header}");
        let removal = session.call(REMOVE, order(1)).await;
        assert_eq!(removal["isError"], !stuck, "{age} {header}: {removal}");
        if !stuck {
            let text = removal["content"][0]["text"].as_str().unwrap();
            contains(
                text,
                ["it is being made. Nothing was removed. Wait for it, then decide."],
            );
        }
    }
}

/// Over both interfaces, alone and among others, and whatever the operator says of persons.
#[tokio::test]
async fn what_is_being_removed_is_not_removed_again() {
    for (confirm, capabilities) in [
        ("auto", json!({})),
        ("auto", can_ask()),
        ("always", json!({})),
    ] {
        let database = Database::with(hourly(&["READY", "READY", "DELETING"])).await;
        let arguments = ["--confirm", confirm, "--changes-per-hour", "1"];
        let mode = (Transport::Stdio, Era::Stateless);
        let mut client = Client::start(&database.app(), mode, &arguments, capabilities).await;
        for _ in 0..3 {
            let report = client.remove(1).await.outcome("removed");
            let row = json!({ "outcome": "removed", "reason": "It was being removed already." });
            assert_eq!(report["backups"][0]["outcome"], row["outcome"], "{report}");
            assert_eq!(report["backups"][0]["reason"], row["reason"], "{report}");
        }
        database.unchanged();
        let server = database.app().serve(&arguments).await;
        let path = format!("{}/{}", backups_of(Sandbox::ORDERS), backup_id(1));
        assert_eq!(server.rest(Request::delete(&path)).await.status, 204);
        database.unchanged();
    }
    let database = Database::with(hourly(&["READY", "READY", "DELETING"])).await;
    let mut session = database
        .app()
        .session(Era::Stateless, &["--changes-per-hour=2", UNATTENDED])
        .await;
    let both = json!({ "databaseId": Sandbox::ORDERS, "backupIds": [backup_id(1), backup_id(2)] });
    let report = session.ok(REMOVE, both).await;
    assert_eq!(report["outcome"], "removed", "{report}");
    assert_eq!(database.changes(), [removes(2)]);
}

/// The number is named where it protects, and who can change that.
#[tokio::test]
async fn a_refusal_names_the_number_only_where_the_number_protects() {
    let states = ["DEPLOYMENT_ERROR", "A_STATE_OF_TOMORROW", "READY", "READY"];
    let database = Database::with(hourly(&states)).await;
    for (keep, number, protection, remedy) in [
        ("0", 3, "it is the newest one that may be good", ALONE),
        ("0", 2, "it is the newest finished one", ALONE),
        (
            "2",
            3,
            "it is one of the 2 newest that may be good",
            SEVERAL,
        ),
        ("2", 2, "it is one of the 2 newest, and finished", SEVERAL),
        ("2", 1, "it is one of the 2 newest finished ones", SEVERAL),
    ] {
        let mut session = database
            .app()
            .session(Era::Handshake, &["--keep-latest", keep])
            .await;
        let backup = backup_id(number);
        let text = session.refused(REMOVE, order(number)).await;
        let refusal =
            format!("Backup {backup} is protected: {protection}. Nothing was removed. {remedy}");
        assert_eq!(text, refusal);
    }
    database.unchanged();
}

const ALONE: &str =
    "No argument and no setting changes that; it may go once a newer backup is finished.";
const SEVERAL: &str = "No argument changes that; the operator sets how many are kept with \
                       --keep-latest, and the newest good one stays whatever the number.";
