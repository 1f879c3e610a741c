//! All databases at once: over MCP, and by the command `check`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use chrono::{TimeDelta, Utc};
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    app::{TestApp, sandbox_session},
    clients::{ERAS, Era, LIST},
    expect::contains,
    upstreams::{
        JSON, Reply, Upstream, backup, json_reply,
        ledger::{FAILED, GOOD, database},
        page, reply,
    },
};

/// A backup that was made so many hours ago.
fn made(number: u32, hours: i64, state: &str) -> Value {
    let mut made = backup(number, state);
    made["created_at"] = json!((Utc::now() - TimeDelta::hours(hours)).to_rfc3339());
    made
}

/// The organizations and services of so many databases.
fn directory(number: usize, line: &str) -> Option<Value> {
    let service = |number| {
        json!({
            "id": database(number), "name": format!("db-{number}"), "service_type": "DATABASE",
            "project_name": "p", "environment_name": "e",
        })
    };
    let organization = json!({ "results": [{ "id": database(999) }] });
    let services = || json!({ "results": (0..number).map(service).collect::<Vec<_>>() });
    match line {
        line if line.contains("/services") => Some(services()),
        line if line.contains("/organization") => Some(organization),
        _ => None,
    }
}

/// Serves so many databases, each of which answers its list as `list` says of its number.
async fn serve(number: usize, list: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Upstream {
    Upstream::start(move |_, line| {
        if let Some(directory) = directory(number, line) {
            return json_reply("200 OK", &directory);
        }
        let asked = (0..number).find(|number| line.contains(&database(*number)));
        list(asked.unwrap())
    })
    .await
}

fn names(answer: &Value) -> Vec<&str> {
    let databases = answer["databases"].as_array().unwrap().iter();
    databases.map(|row| row["name"].as_str().unwrap()).collect()
}

fn note(answer: &Value) -> &str {
    answer["note"].as_str().unwrap()
}

fn lists(upstream: &Upstream) -> usize {
    let lines = upstream.lines();
    lines.iter().filter(|line| line.contains("/backup")).count()
}

#[tokio::test]
async fn one_call_answers_for_every_database() {
    for era in ERAS {
        let mut session = sandbox_session(era, &[]).await;
        let answer = session.ok(LIST, json!({})).await;
        assert_eq!(
            names(&answer),
            ["archive", "sessions", "orders"],
            "the worst first"
        );
        let characters = answer.to_string().chars().count();
        assert!(characters <= 1_500, "{characters}");
        let mut worst = answer["databases"][0].clone();
        let date = worst["newest_finished"]["created_at"].take();
        date.as_str()
            .unwrap()
            .parse::<chrono::DateTime<Utc>>()
            .unwrap();
        let expected = json!({
            "id": Sandbox::ARCHIVE, "name": "archive", "project": "shop", "environment": "production",
            "newest_finished": {
                "id": "bac00000-0000-4000-8000-000000000202", "created_at": null, "age_hours": 73.0,
            },
            "in_progress": 0, "failed_since": 2,
        });
        assert_eq!(worst, expected);
        assert_eq!(answer["complete"], true);
        contains(
            note(&answer),
            ["nothing of databases that the key cannot see"],
        );
    }
}

#[tokio::test]
async fn only_an_absent_database_means_all() {
    let mut session = sandbox_session(Era::Stateless, &[]).await;
    for (arguments, words) in [
        (json!({ "databaseId": null }), "databaseId"),
        (json!({ "databaseId": "" }), "databaseId"),
        (json!({ "databaseId": " null" }), "databaseId"),
        (
            json!({ "backupId": Sandbox::ORDERS }),
            "missing field `databaseId`",
        ),
        (json!({ "db": "orders" }), "unknown field `db`"),
    ] {
        let text = session.refused(LIST, arguments).await;
        contains(&text, [words, "No request was sent to Qovery"]);
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_the_rest_is_not_read_again() {
    let upstream = serve(60, |number| match number % 6 {
        0 => reply("403 X", "", ""),
        _ => page(&[made(1, 1 + i64::try_from(number).unwrap(), GOOD)]),
    })
    .await;
    let mut session = upstream.app().session(Era::Stateless, &[]).await;
    for asked in [60, 70] {
        let answer = session.ok(LIST, json!({})).await;
        assert_eq!(names(&answer).len(), 50);
        assert_eq!(names(&answer)[0], "db-59", "the oldest first");
        assert_eq!(answer["complete"], false);
        for number in (0..60).step_by(6) {
            contains(
                note(&answer),
                [&format!(
                    "db-{number} ({}): Qovery does not allow",
                    database(number)
                )],
            );
        }
        assert_eq!(lists(&upstream), asked);
    }
}

#[tokio::test]
async fn a_hundred_are_read_in_a_call_and_the_next_call_goes_on() {
    let upstream = serve(130, |_| page(&[made(1, 1, GOOD)])).await;
    let mut session = upstream.app().session(Era::Stateless, &[]).await;
    let answer = session.ok(LIST, json!({})).await;
    assert_eq!(
        (names(&answer).len(), &answer["complete"]),
        (100, &json!(false))
    );
    contains(note(&answer), ["Not each database was read"]);
    assert_eq!(lists(&upstream), 100);
    let answer = session.ok(LIST, json!({})).await;
    assert_eq!(
        (names(&answer).len(), &answer["complete"]),
        (100, &json!(true))
    );
    contains(note(&answer), ["30 more are not shown"]);
    assert_eq!(lists(&upstream), 130);
}

#[tokio::test]
async fn eight_are_read_at_once_and_what_is_late_is_left_out() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let mut upstream = serve(20, move |_| {
        count.fetch_add(1, Relaxed);
        Reply::Hang
    })
    .await;
    let app = upstream.app().short_limits();
    let mut session = app.session(Era::Stateless, &[]).await;
    let id = session.send_call(LIST, json!({})).await;
    upstream.received(2 + 8).await;
    let answer = session.answer(id).await;
    let answer = &answer["result"]["structuredContent"];
    assert_eq!(
        (names(answer).len(), &answer["complete"]),
        (0, &json!(false))
    );
    assert_eq!(seen.load(Relaxed), 8);
}

#[tokio::test]
async fn the_requests_of_others_are_left_to_them() {
    for (left, read) in [("200", 3), ("199", 0)] {
        let remaining = format!("{JSON}X-RateLimit-Remaining: {left}\r\n");
        let upstream = Upstream::start(move |_, line| {
            let list = || json!({ "page": 1, "page_size": 20, "results": [made(1, 1, GOOD)] });
            let body = directory(3, line).unwrap_or_else(list).to_string();
            reply("200 OK", &remaining, &body)
        })
        .await;
        let mut session = upstream.app().session(Era::Stateless, &[]).await;
        let answer = session.ok(LIST, json!({})).await;
        assert_eq!(names(&answer).len(), read, "{answer}");
        let words = "3 were not read: fewer than 200 of Qovery's requests an hour are left";
        assert_eq!(note(&answer).contains(words), read == 0, "{answer}");
    }
}

#[tokio::test]
async fn a_key_that_may_not_look_up_is_told_so_in_band() {
    let upstream = Upstream::always(reply("403 X", "", "")).await;
    let mut session = upstream.app().session(Era::Stateless, &[]).await;
    let text = session.refused(LIST, json!({})).await;
    contains(&text, ["cannot be looked up", "Ask the person"]);
}

/// Of a list whose first page settles nothing, up to five pages are read.
#[tokio::test]
async fn too_little_of_a_list_is_not_known() {
    let full = |state: &'static str, order: fn(i64) -> i64| {
        let rows = move |page: u32| {
            let row = |row: u32| {
                let number = page * 20 + row;
                made(number, order(i64::from(number)), state)
            };
            (0..20).map(row).collect::<Vec<_>>()
        };
        Upstream::start(move |_, line| {
            if let Some(directory) = directory(1, line) {
                return json_reply("200 OK", &directory);
            }
            let start = line.split("startId=").nth(1).map_or(0, |id| {
                let number: u32 = id.split(' ').next().unwrap()[24..].parse().unwrap();
                number / 20 + 1
            });
            page(&rows(start))
        })
    };
    for (state, order, pages, known) in [
        (GOOD, (|number| number + 1) as fn(i64) -> i64, 1, true),
        (FAILED, |number| number + 1, 5, false),
        (GOOD, |number| 2_000 - number, 5, false),
    ] {
        let upstream = full(state, order).await;
        let mut session = upstream.app().session(Era::Stateless, &[]).await;
        let answer = session.ok(LIST, json!({})).await;
        let row = &answer["databases"][0];
        assert_eq!(lists(&upstream), pages, "{answer}");
        assert_eq!(row["not_known"].is_null(), known, "{answer}");
    }
}

/// For cron: 3 where one is too old, 1 where one could not be read.
#[tokio::test]
async fn check_says_which_databases_have_no_recent_backup() {
    let upstream = serve(4, |number| match number {
        0 => page(&[made(1, 1, GOOD)]),
        1 => page(&[made(3, 1, FAILED), made(2, 30, GOOD)]),
        2 => page(&[made(1, 1, FAILED)]),
        _ => reply("403 X", "", ""),
    })
    .await;
    let [recent, old, none, denied] = [0, 1, 2, 3].map(database);
    for (age, databases, code, lines) in [
        (
            "26h",
            &[][..],
            3,
            &[
                "OK: db-0",
                "TOO OLD: db-1",
                "TOO OLD: db-2",
                "NOT KNOWN: db-3",
            ][..],
        ),
        ("26h", &[&recent], 0, &["OK: "]),
        (
            "26h",
            &[&recent, &old],
            3,
            &[
                "OK: ",
                "the newest finished backup is 30 h old, 1 failed since",
            ],
        ),
        ("2d", &[&recent, &old], 0, &["OK: "]),
        ("2d", &[&none], 3, &["no finished backup, 1 failed since"]),
        ("90m", &[&recent, &denied], 1, &["OK: ", "NOT KNOWN: "]),
    ] {
        let databases = databases.iter().flat_map(|id| ["--database", id]);
        let arguments: Vec<&str> = ["check", "--max-age", age]
            .into_iter()
            .chain(databases)
            .collect();
        let check = upstream.app().run(&arguments).await;
        assert_eq!(
            check.status.code(),
            Some(code),
            "{arguments:?}: {}",
            check.stdout
        );
        for line in lines {
            contains(&check.stdout, [line]);
        }
        let expected = if arguments.len() == 3 {
            4
        } else {
            (arguments.len() - 3) / 2
        };
        assert_eq!(check.stdout.lines().count(), expected, "{}", check.stdout);
    }
    for age in [
        "",
        "26",
        "h",
        "0h",
        "-1h",
        "1w",
        "1.5h",
        "99999999999999999999d",
    ] {
        let text = TestApp::new(&[])
            .refused(&["check", "--sandbox", &format!("--max-age={age}")])
            .await;
        contains(&text, ["--max-age"]);
    }
}
