//! What is protected whatever Qovery says of dates: odd ones are read where they can be, and expose no
//! other backup where they cannot.

use serde_json::{Value, json};

use crate::{
    clients::{Era, LIST, REMOVE},
    expect::contains,
    upstreams::{Upstream, backup_id, ledger::database, page, reply},
};

/// The removal of a backup: what it is refused with, or nothing.
type Verdict = Option<&'static str>;

const GOES: Verdict = None;
const NEWEST: Verdict = Some("it is the newest one.");
const UNDATED: Verdict = Some("its date cannot be read, so nobody can tell how new it is.");
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
    let unlimited = ["--changes-per-hour", "0"];
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
                let by_operator = *verdict == NEWEST;
                assert_eq!(text.contains("--keep-latest"), by_operator, "{context}");
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

/// With none kept by number, the refusals of the other rules say that no setting changes them.
#[tokio::test]
async fn a_refusal_names_the_number_only_where_the_number_protects() {
    let backup = |number: u32, state: &str| {
        json!({
            "id": backup_id(number), "created_at": format!("2026-03-0{number}T00:00:00Z"),
            "status": { "state": state },
        })
    };
    let backups = [
        backup(1, "READY"),
        backup(2, "A_STATE_OF_TOMORROW"),
        backup(3, "EXECUTING"),
        backup(4, "DEPLOYMENT_ERROR"),
    ];
    let upstream = Upstream::always(page(&backups)).await;
    let app = upstream.app();
    let mut session = app.session(Era::Handshake, &["--keep-latest", "0"]).await;
    for (number, protection) in [
        (1, "it may be the newest finished one"),
        (2, "it may be the newest finished one"),
        (3, "it is the newest one that has not failed"),
    ] {
        let backup = backup_id(number);
        let arguments = json!({ "databaseId": database(1), "backupId": backup });
        let text = session.refused(REMOVE, arguments).await;
        let refusal = format!(
            "Backup {backup} is protected: {protection}. Nothing was removed. No argument and no \
             setting changes that; it may go once a newer backup is finished."
        );
        assert_eq!(text, refusal);
    }
}
