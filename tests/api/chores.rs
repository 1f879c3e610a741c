//! What an agent does in a handful of calls: see all, wait for one, find a database by its name, and
//! remove several after one question.

use std::time::Duration;

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    helpers::{
        ERAS, Era, Reply, Session, TestApp, Upstream, backup, backup_id, json_reply, page, reply,
        sandbox_session,
    },
    helpers_confirm::{Database, Host, WAYS, Way, can_ask, removes, yes},
    helpers_http::{Client, Connection},
    helpers_ledger::{Deed, Entry, FAILED, Fate, GOOD, Ledger, QUEUED, Says, database},
};

#[cfg(unix)]
use crate::helpers::signal;

const LIST: &str = "list-database-backups";
const ADD: &str = "add-backup-database";
const REMOVE: &str = "remove-database-backup";

fn orders() -> Value {
    json!({ "databaseId": Sandbox::ORDERS })
}

fn ids(list: &Value) -> Vec<&str> {
    let backups = list["backups"].as_array().unwrap();
    backups
        .iter()
        .map(|it| it["id"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_list_is_whole_and_says_what_follows_from_it() {
    for era in ERAS {
        let mut session = sandbox_session(era, &[]).await;
        let list = session.ok(LIST, orders()).await;
        let characters = list.to_string().chars().count();
        assert!(characters <= 5_000, "{characters}");
        assert_eq!(list["complete"], true);
        assert!(list.get("next_start_id").is_none(), "{list}");
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
        assert_eq!(backups[0]["protected"], "newest");
        assert!(backups[1].get("protected").is_none(), "{list}");
        let told = [&backups[3]["condition"], &backups[3]["state"]];
        assert_eq!(told, ["failed", "DEPLOYMENT_ERROR"]);
        let now = list["now"].as_str().unwrap();
        assert!(now > backups[0]["created_at"].as_str().unwrap(), "{list}");
        assert!(!list.to_string().contains("null"), "{list}");

        // After a backup, by Qovery's own order; what a rule protects is not known then.
        let rest = json!({ "databaseId": Sandbox::ORDERS, "startId": backup_id(3) });
        let rest = session.ok(LIST, rest).await;
        assert_eq!(ids(&rest), [backup_id(2), backup_id(1)]);
        assert_eq!(rest["complete"], true);
        assert!(rest.get("summary").is_none(), "{rest}");
    }
}

#[tokio::test]
async fn a_long_list_goes_on_where_an_answer_ends() {
    let ledger = Ledger::start(|_| Fate::default()).await;
    let database = database(1);
    // Qovery does not say that no page follows a full one.
    ledger.open(&database, &[GOOD; 300]);
    let mut session = TestApp::with_upstream(&ledger.url())
        .session(Era::Stateless, &[])
        .await;
    let (mut start, mut seen) = (Value::Null, Vec::new());
    for (number, complete) in [(100, false), (100, false), (100, true)] {
        let mut arguments = json!({ "databaseId": database });
        if !start.is_null() {
            arguments["startId"] = start;
        }
        let list = session.ok(LIST, arguments).await;
        assert_eq!(ids(&list).len(), number);
        assert_eq!(list["complete"], complete);
        assert!(
            list.get("summary").is_none(),
            "part of a list is not summed up"
        );
        assert!(!list.to_string().contains("protected"), "{list}");
        seen.extend(ids(&list).into_iter().map(str::to_owned));
        start = list["next_start_id"].clone();
        assert_eq!(start.is_null(), complete);
    }
    let mut newest_first: Vec<String> = ledger
        .backups(&database)
        .into_iter()
        .map(|it| it.id)
        .collect();
    newest_first.reverse();
    assert_eq!(seen, newest_first);
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
        day(4, "QUEUED"),
        odd,
        ahead,
        day(6, "DELETING"),
        day(7, "DEPLOYMENT_ERROR"),
    ];
    let database = Database::with(backups).await;
    let mut session = database.app().session(Era::Handshake, &[]).await;
    let list = session.ok(LIST, orders()).await;
    let told: Vec<[Value; 3]> = list["backups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| [&it["id"], &it["condition"], &it["protected"]].map(Clone::clone))
        .collect();
    let row = |number, condition: &str, protected: Value| {
        [json!(backup_id(number)), json!(condition), protected]
    };
    let expected = [
        row(7, "failed", json!("newest")),
        row(6, "being_removed", Value::Null),
        row(4, "in_progress", json!("newest not failed")),
        row(3, "unknown", json!("newest finished")),
        row(2, "finished", json!("newest finished")),
        row(1, "finished", Value::Null),
        row(5, "finished", json!("date not readable")),
        row(8, "finished", json!("date in the future")),
    ];
    assert_eq!(told, expected);
    let summary = json!({
        "total": 8, "finished": 4, "in_progress": 1, "failed": 1, "being_removed": 1, "unknown": 1,
        "newest": "2026-06-07T00:00:00Z", "oldest": "2026-06-01T00:00:00Z",
        "newest_finished_id": backup_id(2),
    });
    assert_eq!(list["summary"], summary);
    let oldest = &list["backups"][5];
    assert_eq!(oldest["updated_at"], "2026-06-09T00:00:00Z");
    assert!(
        oldest.get("last_deployment_date").is_none(),
        "it is the date of its making"
    );
}

#[tokio::test]
async fn pages_that_repeat_are_no_list_to_go_on_with() {
    let twenty: Vec<Value> = (1..=20).map(|number| backup(number, "READY")).collect();
    let upstream = Upstream::always(page(&twenty)).await;
    let mut session = TestApp::with_upstream(&upstream.url())
        .session(Era::Handshake, &[])
        .await;
    let list = session.ok(LIST, orders()).await;
    assert_eq!(ids(&list).len(), 20);
    assert_eq!(list["complete"], false);
    assert!(list.get("next_start_id").is_none() && list.get("summary").is_none());
    assert!(list["note"].as_str().unwrap().contains("repeat"), "{list}");
}

/// A database whose newest backup is being made.
async fn unfinished() -> Database {
    Database::with([backup(1, "READY"), backup(2, "EXECUTING")]).await
}

fn wait_for(number: u32) -> Value {
    let arguments = json!({ "databaseId": Sandbox::ORDERS, "backupId": backup_id(number) });
    json!({ "name": LIST, "arguments": arguments, "_meta": { "progressToken": "p" } })
}

#[tokio::test]
async fn one_backup_is_waited_for_until_it_is_finished() {
    for era in ERAS {
        let database = unfinished().await;
        let mut session = database.app().hasty().session(era, &[]).await;
        let id = session.post("tools/call", wait_for(2)).await;
        let progress = session.receive().await;
        assert_eq!(progress["method"], "notifications/progress", "{progress}");
        assert_eq!(progress["params"]["progressToken"], "p");
        assert_eq!(progress["params"]["progress"], 1.0);
        database.change(|backups| backups[1]["status"]["state"] = json!("READY"));
        let mut answer = session.receive().await;
        while answer["method"] == "notifications/progress" {
            answer = session.receive().await;
        }
        assert_eq!(answer["id"], id);
        let list = &answer["result"]["structuredContent"];
        assert_eq!(ids(list), [backup_id(2)]);
        assert_eq!(list["backups"][0]["condition"], "finished", "{list}");
        assert_eq!(list["backups"][0]["protected"], "newest", "{list}");
        assert!(list.get("note").is_none() && list.get("summary").is_none());
    }
}

#[tokio::test]
async fn what_is_finished_or_failed_or_not_there_is_not_waited_for() {
    let database = unfinished().await;
    database.change(|backups| backups.push(backup(3, "DEPLOYMENT_ERROR")));
    let mut session = database.app().session(Era::Stateless, &[]).await;
    for (number, condition) in [(1, "finished"), (3, "failed")] {
        let arguments = wait_for(number)["arguments"].clone();
        let list = session.ok(LIST, arguments).await;
        assert_eq!(list["backups"][0]["condition"], condition);
    }
    // Two looks, and one at the database's name.
    assert_eq!(database.requests(), 3);
    let text = session
        .refused(LIST, wait_for(9)["arguments"].clone())
        .await;
    assert!(text.contains("is not in the list of database"), "{text}");
}

#[tokio::test]
async fn nobody_waits_longer_than_three_looks() {
    let database = unfinished().await;
    let mut session = database.app().hasty().session(Era::Stateless, &[]).await;
    let list = session.ok(LIST, wait_for(2)["arguments"].clone()).await;
    assert_eq!(list["backups"][0]["condition"], "in_progress");
    let note = list["note"].as_str().unwrap();
    assert!(note.contains("Call again with this backupId"), "{list}");
    assert_eq!(database.requests(), 1 + 3, "its name, and three looks");
}

#[tokio::test]
async fn a_wait_ends_with_its_call_and_with_the_server() {
    for era in ERAS {
        let database = unfinished().await;
        let mut session = database.app().session(era, &[]).await;
        let id = session.post("tools/call", wait_for(2)).await;
        assert_eq!(session.receive().await["method"], "notifications/progress");
        let cancel = json!({
            "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id }
        });
        session.send(cancel.to_string().as_bytes()).await;
        // What is cancelled is not answered, and holds nothing up.
        let id = session.post("tools/call", wait_for(2)).await;
        assert_eq!(session.receive().await["method"], "notifications/progress");
        session.close_stdin();
        let answer = session.receive().await;
        assert_eq!(answer["id"], id, "{answer}");
        let list = &answer["result"]["structuredContent"];
        assert_eq!(list["backups"][0]["condition"], "in_progress", "{answer}");
        assert!(session.finish().await.status.success());
    }
}

#[tokio::test]
async fn progress_is_told_over_http_as_a_stream_of_events() {
    let database = unfinished().await;
    let server = database.app().hasty().serve(&["--no-rest"]).await;
    let mut client = Client::new(&server, Era::Stateless, None);
    let request = client.message("tools/call", wait_for(2));
    let mut connection = Connection::open(server.mcp).await;
    connection.write(&request.bytes(server.mcp)).await;
    let head = connection.head().await;
    assert_eq!(
        head.header("content-type"),
        Some("text/event-stream"),
        "{head:?}"
    );
    let mut told = connection.event().await;
    let mut counts = Vec::new();
    while told["method"] == "notifications/progress" {
        counts.push(told["params"]["progress"].as_f64().unwrap());
        told = connection.event().await;
    }
    assert_eq!(counts, [1.0, 2.0]);
    let list = &told["result"]["structuredContent"];
    assert_eq!(list["backups"][0]["condition"], "in_progress", "{told}");
    // Without a token, nothing but the answer is told.
    let mut client = Client::new(&server, Era::Stateless, None);
    let mut params = wait_for(2);
    params.as_object_mut().unwrap().remove("_meta");
    let answer = client.message("tools/call", params).send(server.mcp).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn a_name_is_answered_with_ids_and_nothing_is_done_for_it() {
    let sandbox = Sandbox::start().await.unwrap();
    for era in ERAS {
        let app = TestApp::with_upstream(&sandbox.base_url());
        let mut session = app.session(era, &[]).await;
        for (name, words) in [
            ("orders", "is a name. Nothing was done yet"),
            ("ORDERS", "is a name. Nothing was done yet"),
            ("order", "but some nearly are"),
            ("orders-db", "but some nearly are"),
        ] {
            let text = session.refused(LIST, json!({ "databaseId": name })).await;
            assert!(text.contains(words), "{name}: {text}");
            let line = format!(
                "{}: \"orders\" in project \"shop\", environment \"production\"",
                Sandbox::ORDERS
            );
            assert!(text.contains(&line), "{name}: {text}");
            assert!(!text.contains(Sandbox::SESSIONS), "{name}: {text}");
        }
        let text = session
            .refused(LIST, json!({ "databaseId": "customers" }))
            .await;
        assert!(
            text.contains("No database that this API key can see"),
            "{text}"
        );

        let add = json!({ "databaseId": "orders", "name": "n" });
        let remove = json!({ "databaseId": "orders", "backupId": backup_id(3) });
        let page = "https://console.qovery.com/organization/00000000-0000-4000-8000-000000000001/\
                    project/00000000-0000-4000-8000-000000000002/environment/\
                    00000000-0000-4000-8000-000000000003/service/{id}/overview?tab=1#top";
        let page = page.replace("{id}", Sandbox::ORDERS);
        let by_address = json!({ "databaseId": page, "backupIds": [backup_id(3)] });
        for (tool, arguments) in [(ADD, add), (REMOVE, remove), (REMOVE, by_address)] {
            let text = session.refused(tool, arguments).await;
            assert!(text.contains(Sandbox::ORDERS), "{text}");
        }
        let list = session.ok(LIST, json!({ "databaseId": page })).await;
        assert_eq!(list["summary"]["total"], 27, "nothing was changed");
    }
}

#[tokio::test]
async fn a_key_that_may_not_look_up_names_still_lists() {
    let policy = "sk-qov-01-0123456789abcdef0123456789abcdef";
    for (key, denial) in [
        (policy, "401 Unauthorized"),
        (Sandbox::KEY, "403 Forbidden"),
    ] {
        let upstream = Upstream::start(move |_, line| {
            if line.contains("/backup") {
                page(&[backup(1, "READY")])
            } else {
                reply(denial, "", "")
            }
        })
        .await;
        let app = TestApp::new(&[("QOVERY_API_URL", &upstream.url()), ("QOVERY_API_KEY", key)]);
        let mut session = app.session(Era::Stateless, &[]).await;
        for _ in 0..2 {
            let text = session
                .refused(LIST, json!({ "databaseId": "orders" }))
                .await;
            assert!(
                text.contains("cannot be looked up by their names"),
                "{text}"
            );
            assert!(
                !text.contains("QOVERY_API_KEY"),
                "the key is not to blame: {text}"
            );
            let list = session.ok(LIST, orders()).await;
            assert_eq!(list["database"], json!({ "id": Sandbox::ORDERS }));
        }
        let requests = upstream.requests();
        let lines = requests
            .iter()
            .map(|request| request.lines().next().unwrap());
        let [looked_up, named] = [
            "GET /organization ",
            "GET /database/0de50000-0000-4000-8000-000000000001 ",
        ]
        .map(|start| lines.clone().filter(|line| line.starts_with(start)).count());
        assert_eq!((looked_up, named), (1, 1), "a denial is remembered");
        assert_eq!(requests.len(), 4);
    }
}

/// A key may be for one organization of several.
#[tokio::test]
async fn one_organization_that_is_shut_hides_no_other() {
    let id = |number: u32| format!("0de50000-0000-4000-8000-{number:012}");
    let organizations = json!({ "results": [{ "id": id(7) }, { "id": id(8) }] });
    let orders = json!({
        "id": Sandbox::ORDERS, "name": "orders", "service_type": "DATABASE",
        "project_name": "shop", "environment_name": "production",
    });
    let services = json!({ "results": [orders] });
    let upstream = Upstream::start(move |_, line| match line {
        line if line.contains(&id(7)) => reply("403 Forbidden", "", ""),
        line if line.contains(&id(8)) => json_reply("200 OK", &services),
        _ => json_reply("200 OK", &organizations),
    })
    .await;
    let app = TestApp::with_upstream(&upstream.url());
    let mut session = app.session(Era::Stateless, &[]).await;
    let text = session
        .refused(LIST, json!({ "databaseId": "orders" }))
        .await;
    assert!(text.contains(Sandbox::ORDERS), "{text}");
}

#[tokio::test]
async fn a_list_that_changes_while_it_is_read_is_not_called_whole() {
    let upstream = Upstream::start(|_, line| {
        if line.contains("startId=") {
            return reply("404 Not Found", "", "");
        }
        let twenty: Vec<Value> = (1..=20).map(|number| backup(number, "READY")).collect();
        page(&twenty)
    })
    .await;
    let app = TestApp::with_upstream(&upstream.url());
    let mut session = app.session(Era::Stateless, &[]).await;
    let list = session.ok(LIST, orders()).await;
    assert_eq!(ids(&list).len(), 20);
    assert_eq!(list["complete"], false);
    assert!(
        list["note"].as_str().unwrap().contains("Call again"),
        "{list}"
    );
    let remove = json!({ "databaseId": Sandbox::ORDERS, "backupId": backup_id(1) });
    let text = session.refused(REMOVE, remove).await;
    assert!(text.contains("could not be completed"), "{text}");
    let missing = json!({ "databaseId": Sandbox::ORDERS, "backupId": backup_id(99) });
    let text = session.refused(LIST, missing).await;
    assert!(
        text.contains("could not be completed"),
        "it may be further down: {text}"
    );
}

#[tokio::test]
async fn a_name_that_hangs_holds_no_list_up() {
    let upstream = Upstream::start(move |_, line| {
        if line.contains("/backup") {
            page(&[backup(1, "READY")])
        } else {
            Reply::Hang
        }
    })
    .await;
    let app = TestApp::with_upstream(&upstream.url()).hasty();
    let mut session = app.session(Era::Stateless, &[]).await;
    for _ in 0..2 {
        let list = session.ok(LIST, orders()).await;
        assert!(list["database"].get("name").is_none(), "{list}");
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test]
async fn other_peoples_names_are_cleaned_and_cut() {
    let service = |id: &str, name: &str| {
        json!({
            "id": id, "name": name, "service_type": "DATABASE",
            "project_name": "p\u{202e}\n", "environment_name": "e".repeat(1_000),
        })
    };
    let mut app = service(Sandbox::SESSIONS, "orders");
    app["service_type"] = json!("APPLICATION");
    let services = json!({ "results": [
        app,
        service(Sandbox::ORDERS, "or\u{200b}ders"),
        service("0de50000-0000-4000-8000-000000000003", "Orders"),
    ] });
    let organizations = json!({ "results": [{ "id": Sandbox::ORDERS, "name": "x" }] });
    let upstream = Upstream::start(move |_, line| {
        let listed = if line.contains("/services") {
            &services
        } else {
            &organizations
        };
        json_reply("200 OK", listed)
    })
    .await;
    let app = TestApp::with_upstream(&upstream.url());
    let mut session = app.session(Era::Stateless, &[]).await;
    let text = session
        .refused(LIST, json!({ "databaseId": "orders" }))
        .await;
    assert!(
        text.contains("the name of more than one database"),
        "{text}"
    );
    assert!(
        !text.contains(Sandbox::SESSIONS),
        "an application is no database: {text}"
    );
    assert!(
        text.contains(": \"orders\" in project \"p \", environment \"eee"),
        "{text}"
    );
    assert!(
        text.len() < 1_500 && !text.contains(['\u{200b}', '\u{202e}']),
        "{text}"
    );
}

/// The parameters of a call that removes these backups of [`Sandbox::ORDERS`].
fn removal_of(numbers: &[u32]) -> Value {
    let backups: Vec<String> = numbers.iter().copied().map(backup_id).collect();
    let arguments = json!({ "databaseId": Sandbox::ORDERS, "backupIds": backups });
    json!({ "name": REMOVE, "arguments": arguments })
}

/// Numbers 1 to 6, of which the second has failed and the last may not go.
async fn six() -> Database {
    let backups = (1..=6).map(|number| {
        let state = if number == 2 { FAILED } else { GOOD };
        backup(number, state)
    });
    Database::with(backups.collect::<Vec<_>>()).await
}

async fn host(database: &Database, way: Way, arguments: &[&str]) -> Host {
    Host::start(&database.app(), way, arguments, can_ask()).await
}

#[tokio::test]
async fn several_go_after_one_question() {
    for way in WAYS {
        let database = six().await;
        let mut host = host(&database, way, &[]).await;
        let question = host.call(removal_of(&[3, 1, 2])).await.question();
        assert_eq!(database.changes(), [""; 0]);
        let lines: Vec<&str> = question.text().lines().collect();
        assert_eq!(
            lines[0],
            "Remove 3 backups of 2026-06-01 to 2026-06-03? This cannot be undone."
        );
        assert!(lines[1].starts_with("Of them 1 failed. Remaining: 3, 3 finished, the newest "));
        assert!(lines[2].contains(Sandbox::ORDERS), "{question:?}");
        assert_eq!(lines.len(), 6, "{question:?}");
        let title = &question.params["requestedSchema"]["properties"]["remove"]["title"];
        assert_eq!(title, "Remove all 3 for good");
        let decision = host.answer(&question, yes()).await.decision();
        let gone = |number: u32| {
            json!({
                "id": backup_id(number), "name": format!("backup {number}"),
                "created_at": format!("2026-06-{number:02}T00:00:00Z"), "outcome": "removed",
            })
        };
        let removed = json!({
            "outcome": "removed", "backups": [gone(3), gone(1), gone(2)], "remaining": 3
        });
        assert_eq!(decision, removed, "{way:?}");
        assert_eq!(database.changes(), [3, 1, 2].map(removes));
    }
}

#[tokio::test]
async fn one_obstacle_keeps_all_and_nobody_is_asked() {
    for way in WAYS {
        let database = six().await;
        let mut host = host(&database, way, &[]).await;
        let text = host.call(removal_of(&[1, 6, 9, 1, 2])).await.refusal();
        for line in [
            "Of 5 backups, 3 cannot be removed. Nothing was removed.".to_owned(),
            format!("{}: it is the newest one.", backup_id(6)),
            format!("{}: it is not in the list of this database.", backup_id(9)),
            format!("{}: it is named twice.", backup_id(1)),
        ] {
            assert!(text.contains(&line), "{way:?} {line}: {text}");
        }
        assert!(!text.contains(&backup_id(2)), "{text}");
        assert_eq!(database.changes(), [""; 0]);
    }
}

#[tokio::test]
async fn an_hour_without_room_for_all_keeps_all() {
    let database = six().await;
    let mut session = database
        .app()
        .session(Era::Stateless, &["--changes-per-hour=3"])
        .await;
    let several = |numbers: &[u32]| removal_of(numbers)["arguments"].clone();
    let text = session.refused(REMOVE, several(&[1, 2, 3, 4])).await;
    assert!(text.contains("and this call takes 4."), "{text}");
    assert!(text.contains("Name fewer at once."), "{text}");
    let decision = session.ok(REMOVE, several(&[1, 2])).await;
    assert_eq!(decision["outcome"], "removed");
    let text = session.refused(REMOVE, several(&[3, 4])).await;
    assert!(
        text.contains("1 of them are left, of 2 that this call takes"),
        "{text}"
    );
    let decision = session.ok(REMOVE, several(&[3])).await;
    assert_eq!(decision["outcome"], "removed");
    session.refused(REMOVE, several(&[4])).await;
    assert_eq!(database.changes(), [1, 2, 3].map(removes));
}

#[tokio::test]
async fn a_no_covers_all_that_was_asked_about() {
    for way in WAYS {
        let database = six().await;
        let mut host = host(&database, way, &[]).await;
        for _ in 0..3 {
            let question = host.call(removal_of(&[1, 2])).await.question();
            let no = host.answer(&question, json!({ "action": "decline" })).await;
            let no = no.decision();
            let kept = |number| json!({ "id": backup_id(number), "outcome": "not_removed" });
            assert_eq!(no["backups"], json!([kept(1), kept(2)]), "{no}");
            let note = no["note"].as_str().unwrap();
            assert!(
                note.contains("Do not ask again about these backups"),
                "{no}"
            );
        }
        let text = host.call(removal_of(&[2, 3])).await.refusal();
        assert!(text.contains("3 times in 10 minutes"), "{text}");
        assert!(text.contains(&backup_id(2)), "{text}");
        host.call(removal_of(&[3, 4])).await.question();
        assert_eq!(database.changes(), [""; 0]);
    }
}

#[tokio::test]
async fn a_yes_is_for_the_very_set_that_was_asked_about() {
    for way in [WAYS[1], WAYS[3]] {
        let database = six().await;
        let mut host = host(&database, way, &[]).await;
        let question = host.call(removal_of(&[1, 2])).await.question();
        for others in [&[1][..], &[1, 2, 3], &[1, 3]] {
            let mut other = question.answered(&yes(), question.state());
            other["arguments"] = removal_of(others)["arguments"].clone();
            let answer = host.call(other).await.answer();
            assert_eq!(answer["error"]["code"], -32602, "{answer}");
        }
        // One of them fails meanwhile: the person saw another number of failed ones.
        database.change(|backups| backups[0]["status"]["state"] = json!(FAILED));
        let again = host.answer(&question, yes()).await.question();
        assert!(again.text().contains("Of them 2 failed."), "{again:?}");
        let decision = host.answer(&again, yes()).await.decision();
        assert_eq!(decision["outcome"], "removed", "{decision}");
        assert_eq!(database.changes(), [1, 2].map(removes));
    }
}

/// The first half of a batch is removed, and then something else happens to a removal.
async fn after_two(says: Says, deed: Deed) -> (Ledger, Vec<Entry>, Value, String) {
    let ledger = Ledger::start(move |asked| match (asked.is("DELETE"), asked.number) {
        (true, 2..) => Fate::new(deed.clone(), says.clone()),
        _ => Fate::default(),
    })
    .await;
    let database = database(1);
    let entries = ledger.open(&database, &[GOOD; 9]);
    let app = TestApp::with_upstream(&ledger.url()).hasty();
    let mut session = app.session(Era::Stateless, &[]).await;
    let backups: Vec<&str> = entries[..5].iter().map(|entry| entry.id.as_str()).collect();
    let arguments = json!({ "databaseId": database, "backupIds": backups });
    let decision = session.ok(REMOVE, arguments).await;
    (ledger, entries, decision, session.finish().await.stderr)
}

#[tokio::test]
async fn a_batch_stops_where_a_removal_is_refused_or_in_doubt() {
    let refused = || Says::Else(reply("403 Forbidden", "", ""));
    for (says, deed, third, remaining, outcome) in [
        (
            refused(),
            Deed::Undone,
            "not_removed",
            json!(7),
            "forbidden",
        ),
        (
            Says::Else(Reply::Hang),
            Deed::Undone,
            "unknown",
            Value::Null,
            "timed_out",
        ),
    ] {
        let (ledger, entries, decision, log) = after_two(says, deed).await;
        let line = format!("operation=\"remove\" outcome=\"{outcome}\"");
        assert_eq!(log.matches(&line).count(), 1, "of the call: {log}");
        assert_eq!(decision["outcome"], "partly_removed", "{decision}");
        assert_eq!(decision["remaining"], remaining, "{decision}");
        let outcomes: Vec<&Value> = decision["backups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|backup| &backup["outcome"])
            .collect();
        let expected = ["removed", "removed", third, "not_removed", "not_removed"];
        assert_eq!(outcomes, expected, "{decision}");
        for backup in &decision["backups"].as_array().unwrap()[2..] {
            assert!(backup["reason"].is_string(), "{decision}");
        }
        assert_eq!(ledger.effects().len(), 2);
        assert!(ledger.has(&database(1), &entries[3].id));
    }
}

/// Twenty removals that take a while each; once the first is told of, the call is in the middle.
async fn in_the_middle(era: Era) -> (Ledger, Session, u64) {
    let ledger = Ledger::start(|asked| Fate {
        pause: Duration::from_millis(if asked.is("DELETE") { 100 } else { 0 }),
        ..Fate::default()
    })
    .await;
    let entries = ledger.open(&database(1), &[GOOD; 22]);
    let app = TestApp::with_upstream(&ledger.url());
    let mut session = app.session(era, &[]).await;
    let backups: Vec<&str> = entries[..20].iter().map(|it| it.id.as_str()).collect();
    let arguments = json!({ "databaseId": database(1), "backupIds": backups });
    let token = json!({ "progressToken": 7 });
    let params = json!({ "name": REMOVE, "arguments": arguments, "_meta": token });
    let id = session.post("tools/call", params).await;
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
        signal(&session.child, "TERM").await;
        let mut answer = session.receive().await;
        while answer["method"] == "notifications/progress" {
            answer = session.receive().await;
        }
        assert_eq!(answer["id"], id, "{answer}");
        let decision = &answer["result"]["structuredContent"];
        assert_eq!(decision["outcome"], "partly_removed", "{answer}");
        let backups = decision["backups"].as_array().unwrap();
        let told = |outcome: &str| backups.iter().filter(|it| it["outcome"] == outcome).count();
        assert_eq!(told("removed") + told("not_removed"), 20, "{answer}");
        assert!(session.child.wait().await.unwrap().success());
        assert_eq!(told("removed"), ledger.effects().len(), "{answer}");
        assert!(told("removed") < 20, "{answer}");
    }
}

#[tokio::test]
async fn a_batch_that_is_cancelled_goes_no_further() {
    for era in ERAS {
        let (ledger, mut session, id) = in_the_middle(era).await;
        let cancel = json!({
            "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id }
        });
        session.send(cancel.to_string().as_bytes()).await;
        // Whatever it still does is done by then.
        session.finish().await;
        let removed = ledger.effects().len();
        assert!((1..20).contains(&removed), "{removed}");
    }
}

#[tokio::test]
async fn a_new_backup_can_be_waited_for_in_two_calls() {
    let mut session = sandbox_session(Era::Stateless, &[]).await;
    let added = session
        .ok(
            ADD,
            json!({ "databaseId": Sandbox::ORDERS, "name": "before" }),
        )
        .await;
    assert_eq!(added["condition"], "in_progress", "{added}");
    assert_eq!(added["state"], QUEUED);
    let message = "Made by an AI assistant through qovery-backups-mcp.";
    assert_eq!(added["message"], message);
    let arguments = json!({ "databaseId": Sandbox::ORDERS, "backupId": added["id"] });
    let list = session.ok(LIST, arguments).await;
    assert_eq!(list["backups"][0]["condition"], "finished", "{list}");
    assert!(
        list["backups"][0]["updated_at"].is_string(),
        "it was worked on: {list}"
    );
    let text = added.to_string() + &list.to_string();
    let characters = text.chars().count();
    assert!(characters <= 1_000, "{characters}");
}
