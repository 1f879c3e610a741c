//! What stands between an agent and a removal: the question to a person, its answer, and the state
//! that ties them together.

use chrono::{SecondsFormat, TimeDelta, Utc};
use futures_util::future::join_all;
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    clients::{
        ASKABLE, Client, DECLINED, Era, MODES, Mode, STATELESS, Transport, can_ask, declined,
        removal, yes,
    },
    connection::{Request, backups_of},
    expect::{Question, Step, contains, content_of, lacks},
    upstreams::{Database, backup, backup_id, backups, recent, removes},
};

const STATE_KEY: &str = "QOVERY_BACKUPS_STATE_KEY";

/// Numbers 1 to 3, of which the first two may go.
async fn three() -> Database {
    Database::with(backups(3)).await
}

/// Almost a page: a person is not asked often about the same backup.
async fn many() -> Database {
    Database::with(backups(19)).await
}

async fn client(database: &Database, mode: Mode) -> Client {
    Client::start(&database.app(), mode, &[], can_ask()).await
}

/// Response yes, and expects the backup to be removed: what came before was refused by a server that can
/// remove.
async fn removes_after_all(database: &Database, client: &mut Client, question: &Question) {
    database.unchanged();
    client.respond(question, yes()).await.outcome("removed");
    assert_eq!(database.changes(), [removes(1)]);
}

#[tokio::test]
async fn a_client_that_shows_forms_is_asked_and_a_backup_goes_after_a_yes() {
    for (confirm, elicitation) in [
        ("--confirm=auto", json!({})),
        ("--confirm=auto", json!({ "form": {}, "url": {} })),
        ("--confirm=always", json!({ "form": {} })),
    ] {
        for mode in ASKABLE {
            let database = three().await;
            let capabilities = json!({ "elicitation": elicitation });
            let mut client = Client::start(&database.app(), mode, &[confirm], capabilities).await;
            let question = client.ask(1).await;
            database.unchanged();
            let report = client.respond(&question, yes()).await.report();
            let gone = json!({
                "id": backup_id(1), "name": "backup 1", "created_at": "2026-06-01T00:00:00Z",
                "outcome": "removed",
            });
            let removed = json!({
                "outcome": "removed", "consent": "accepted", "backups": [gone], "remaining": 2
            });
            assert_eq!(report, removed, "{mode:?}");
            assert_eq!(database.changes(), [removes(1)]);
        }
    }
}

fn ago(minutes: i64) -> String {
    let date = Utc::now() - TimeDelta::minutes(minutes);
    date.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[tokio::test]
async fn the_question_names_what_goes_and_what_stays() {
    for mode in ASKABLE {
        let database = three().await;
        // In the middle between two numbers of days or hours: the text does not change meanwhile.
        let old = ago(84 * 60);
        database.change(|backups| {
            backups[0]["created_at"] = json!(old);
            backups[0]["name"] = json!("before the migration 🚀");
            backups[1]["created_at"] = json!(ago(330));
            backups[2]["created_at"] = json!(ago(400));
        });
        let mut params = client(&database, mode).await.ask(1).await.params;
        params.as_object_mut().unwrap().remove("_meta");
        let params = params.to_string();
        let date = format!("{} {} UTC", &old[..10], &old[11..16]);
        assert_eq!(params.matches(&date).count(), 1, "{params}");
        let params: Value = serde_json::from_str(&params.replace(&date, "<date>")).unwrap();
        insta::assert_json_snapshot!("question", params);

        // A client may fill in the default by itself.
        let properties = params["requestedSchema"]["properties"].as_object().unwrap();
        assert_eq!(properties.len(), 1);
        assert_eq!(properties["remove"]["type"], "boolean");
        assert_eq!(properties["remove"]["default"], false);
    }
}

#[tokio::test]
async fn the_question_words_ages_numbers_and_what_is_not_known() {
    let database = three().await;
    for (age, words) in [
        (0, "Remove READY, just now ("),
        (30, "Remove READY, 30 minutes ago ("),
        (90, "Remove READY, 1 hour ago ("),
        (23 * 60 + 30, "Remove READY, 23 hours ago ("),
        (36 * 60, "Remove READY, 1 day ago ("),
        (400 * 24 * 60 + 720, "Remove READY, 400 days ago ("),
    ] {
        database.change(|backups| {
            backups[0]["created_at"] = json!(ago(age));
            // In the future, by another clock.
            backups[1]["created_at"] = json!(ago(-90));
            backups[2]["created_at"] = json!(ago(-60));
        });
        let question = client(&database, ASKABLE[1]).await.ask(1).await;
        contains(question.text(), [words, "the newest in the future.\n"]);
    }
    let bare = json!({ "id": backup_id(1), "created_at": ago(84 * 60) });
    database.change(|backups| backups[0] = bare);
    let question = client(&database, ASKABLE[1]).await.ask(1).await;
    contains(question.text(), ["Remove unknown state, 3 days ago ("]);
}

#[tokio::test]
async fn anything_but_a_yes_removes_nothing() {
    const NO_TICK: Option<&str> =
        Some("The host answered for the person without ticking the box. Nothing was removed.");
    const NO: Option<&str> = Some(DECLINED);
    const YES: Option<&str> =
        Some("The host answered \"yes\" in place of true. Nothing was removed.");
    const TRUE: Option<&str> =
        Some("The host answered \"True\" in place of true. Nothing was removed.");
    const CLOSED: Option<&str> = Some(
        "The host closed the question without an answer. Nothing was removed. If it showed no \
         question, it cannot show one.",
    );
    const OTHER: Option<&str> =
        Some("The host answered \"Accept\" for the person. Nothing was removed.");
    const REJECT: Option<&str> =
        Some("The host answered \"reject\" for the person. Nothing was removed.");
    let accept = |content: Value| json!({ "action": "accept", "content": content });
    let ticked = json!({ "remove": true });
    let answers = [
        (accept(json!({ "remove": false })), NO_TICK),
        (accept(json!({})), NO_TICK),
        (accept(json!(null)), NO_TICK),
        (json!({ "action": "accept" }), NO_TICK),
        (accept(json!({ "Remove": true, "confirm": true })), NO_TICK),
        (json!({ "action": "decline" }), NO),
        (json!({ "action": "decline", "content": ticked }), NO),
        (json!({ "action": "cancel" }), CLOSED),
        (json!({ "action": "cancel", "content": ticked }), CLOSED),
        // Text is a yes only where it is `true`.
        (accept(json!({ "remove": "yes" })), YES),
        (accept(json!({ "remove": "True" })), TRUE),
        (accept(json!({ "remove": "false" })), NO_TICK),
        (accept(json!({ "remove": null })), NO_TICK),
        // Neither a yes nor a no is reported as it is.
        (json!({ "action": "Accept", "content": ticked }), OTHER),
        (json!({ "action": "reject" }), REJECT),
        // Not an answer to the form.
        (accept(json!({ "remove": 1 })), None),
        (accept(json!({ "remove": [true] })), None),
        (accept(json!(true)), None),
        (accept(json!("remove")), None),
        (accept(json!([true])), None),
        (accept(json!([])), None),
        (json!({ "action": true, "content": ticked }), None),
        (json!({ "content": ticked }), None),
        (ticked.clone(), None),
        (json!({ "code": -1, "message": "Nobody is there." }), None),
        (json!({}), None),
        (json!(["accept", [true], null]), None),
        // Before 2026-07-28, the protocol's library reads the answer: see below.
        (json!(["accept", { "remove": true }, null]), None),
    ];
    for mode in ASKABLE {
        let database = many().await;
        let mut client = client(&database, mode).await;
        let is_read_here = |answer: &Value| mode.1 == Era::Stateless || answer[1]["remove"] != true;
        let answers = answers.iter().filter(|(answer, _)| is_read_here(answer));
        for (number, (answer, note)) in (2..19).cycle().zip(answers) {
            let question = client.ask(number).await;
            let step = client.respond(&question, answer.clone()).await;
            if let Some(note) = note {
                assert_eq!(step.report(), declined(note), "{mode:?} {answer}");
            } else {
                let text = step.malformed(mode.1);
                assert!(text.ends_with("Nothing was removed."), "{answer}: {text}");
            }
        }
        if mode.1 == Era::Handshake {
            let question = client.ask(1).await;
            let error = json!({ "code": -32601, "message": "Method not found" });
            client.reply(&question, "error", error).await;
            let text = client.next(&question).await.refusal();
            let expected = "The client could not ask the person. Nothing was removed.";
            assert_eq!(text, expected);
        }
        let question = client.ask(1).await;
        removes_after_all(&database, &mut client, &question).await;
    }
}

#[tokio::test]
async fn a_question_is_cancelled_with_its_call() {
    let database = three().await;
    let mut client = client(&database, ASKABLE[0]).await;
    let question = client.ask(1).await;
    client.cancel(client.last_id).await;
    let cancelled = client.receive().await;
    assert_eq!(cancelled["method"], "notifications/cancelled");
    assert_eq!(cancelled["params"]["requestId"], question.ticket);
    assert_eq!(cancelled["params"]["reason"], "the call was cancelled");
    // Too late.
    client.reply(&question, "result", yes()).await;
    let again = client.ask(1).await;
    assert_ne!(again.ticket, question.ticket);
    removes_after_all(&database, &mut client, &again).await;
}

/// Every such call was refused as a breach of the protocol.
fn all_refused(answers: &[Value]) {
    for answer in answers {
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        contains(message, ["Nothing was removed."]);
    }
}

/// Each bit of a state is tried where it is sealed.
#[tokio::test]
async fn a_forged_state_removes_nothing_and_asks_nothing() {
    for mode in STATELESS {
        let database = three().await;
        let mut client = client(&database, mode).await;
        let question = client.ask(1).await;
        let state = question.state();
        let forged = [
            state[1..].to_owned(),
            state[..state.len() - 1].to_owned(),
            format!("{state}A"),
            state.to_uppercase(),
            String::new(),
        ];
        let requests = database.requests();
        let forged = forged.map(|state| question.answered(&yes(), &state));
        all_refused(&client.answers(&forged).await);
        assert_eq!(database.requests(), requests);
        removes_after_all(&database, &mut client, &question).await;
    }
}

#[tokio::test]
async fn a_state_is_good_for_one_caller_one_backup_and_one_server() {
    for mode in STATELESS {
        let has_tokens = mode.0 == Transport::Http;
        let database = three().await;
        let mut app = database.app();
        if has_tokens {
            let tokens = "ada:access-token-of-ada\nben:access-token-of-ben";
            app = app.with("QOVERY_BACKUPS_ACCESS_TOKEN", tokens);
        }
        let named = |name: &str| {
            let info = json!({ "name": name, "version": "1" });
            Some(json!({ "io.modelcontextprotocol/clientInfo": info }))
        };
        let ada = async || {
            let mut client = Client::start(&app, mode, &[], can_ask()).await;
            client.meta = named("ada");
            client.token = Some("access-token-of-ada");
            client
        };
        let mut client = ada().await;
        let question = client.ask(1).await;
        let own = question.answered(&yes(), question.state());

        let [mut other_backup, mut other_database] = [own.clone(), own.clone()];
        other_backup["arguments"]["backupId"] = json!(backup_id(2));
        other_database["arguments"]["databaseId"] = json!(Sandbox::SESSIONS);
        all_refused(&client.answers(&[other_backup, other_database]).await);

        client.token = Some("access-token-of-ben");
        client.meta = named(if has_tokens { "ada" } else { "ben" });
        all_refused(&client.answers(std::slice::from_ref(&own)).await);
        all_refused(&ada().await.answers(&[own]).await);

        // Where there are tokens, the name that a client gives itself does not count.
        client.token = Some("access-token-of-ada");
        client.meta = named(if has_tokens { "ben" } else { "ada" });
        removes_after_all(&database, &mut client, &question).await;
    }
}

#[tokio::test]
async fn a_yes_needs_the_state_and_the_state_needs_a_yes() {
    for mode in STATELESS {
        let database = many().await;
        let mut client = client(&database, mode).await;
        let halves = [
            ("requestState", None),
            ("requestState", Some(Value::Null)),
            ("inputResponses", None),
            ("inputResponses", Some(Value::Null)),
            ("inputResponses", Some(json!({}))),
            ("inputResponses", Some(yes())),
            ("inputResponses", Some(json!({ "consent": yes() }))),
        ];
        for (number, (member, value)) in (2..).zip(halves) {
            let question = client.ask(number).await;
            let mut half = question.answered(&yes(), question.state());
            match value {
                Some(value) => half[member] = value,
                None => drop(half.as_object_mut().unwrap().remove(member)),
            }
            let again = client.step(half).await.question();
            contains(again.text(), [&format!(": \"backup {number}\"\n")]);
        }
        let question = client.ask(1).await;
        let whole = question.answered(&yes(), question.state());
        for (member, value) in [
            ("inputResponses", json!([yes()])),
            ("inputResponses", json!([["confirmation", yes()]])),
            ("inputResponses", json!("yes")),
            ("inputResponses", json!(true)),
            ("requestState", json!([question.ticket])),
            ("requestState", json!({ "confirmation": question.ticket })),
            ("requestState", json!(1)),
        ] {
            let mut malformed = whole.clone();
            malformed[member] = value;
            let answer = client.step(malformed).await.answer();
            assert_eq!(answer["error"]["code"], -32602, "{answer}");
        }
        removes_after_all(&database, &mut client, &question).await;

        // As after a lost answer: a repeated one is answered with what came of it.
        let again = client.step(whole).await.outcome("removed");
        assert_eq!(again["backups"][0]["id"], backup_id(1), "{again}");
        assert_eq!(database.changes(), [removes(1)]);
    }
}

#[tokio::test]
async fn a_no_counts_though_no_question_was_asked() {
    for (confirm, capabilities) in [
        ("--confirm=auto", json!({})),
        ("--confirm=never", can_ask()),
    ] {
        for mode in STATELESS {
            let database = three().await;
            let app = database.app();
            let mut client = Client::start(&app, mode, &[confirm], capabilities.clone()).await;
            for action in ["decline", "cancel"] {
                let mut call = removal(1);
                call["inputResponses"] = json!({ "confirmation": { "action": action } });
                client.step(call).await.outcome("not_removed");
            }
            database.unchanged();
            // Without the no, nothing stood between this client and the removal.
            client.remove(1).await.outcome("removed");
        }
    }
}

#[tokio::test]
async fn replicas_that_share_a_key_take_each_others_answers() {
    let [old, new] = ["old", "new"].map(|name| format!("{name}-{}", "x".repeat(32)));
    let both = format!("{new}\n{old}");
    for (asks, answers, shared) in [
        (Some(&old), Some(&old), true),
        // While the key is changed.
        (Some(&old), Some(&both), true),
        (Some(&both), Some(&both), true),
        (Some(&both), Some(&new), true),
        // A replica with the old key alone cannot open what the new one sealed.
        (Some(&both), Some(&old), false),
        (Some(&old), Some(&new), false),
        (Some(&old), None, false),
        (None, Some(&old), false),
        (None, None, false),
    ] {
        for mode in STATELESS {
            let database = three().await;
            let replica = async |key: Option<&String>| {
                let mut app = database.app();
                app.variables
                    .extend(key.map(|key| (STATE_KEY, key.clone())));
                Client::start(&app, mode, &[], can_ask()).await
            };
            let [mut first, mut second] = [replica(asks).await, replica(answers).await];
            let question = first.ask(1).await;
            if shared {
                removes_after_all(&database, &mut second, &question).await;
            } else {
                let own = question.answered(&yes(), question.state());
                let answers = second.answers(&[own]).await;
                all_refused(&answers);
                contains(&answers[0].to_string(), [STATE_KEY]);
                removes_after_all(&database, &mut first, &question).await;
            }
        }
    }
}

type Change = fn(&mut Vec<Value>);

fn state(backup: &mut Value, state: &str) {
    backup["status"]["state"] = json!(state);
}

/// Four backups: the first two may go, and the third is the newest finished one.
async fn four(goes: &str) -> Database {
    let [newest, failed] = [backup(3, "READY"), backup(4, "CANCELED")];
    Database::with([backup(1, goes), backup(2, "READY"), newest, failed]).await
}

#[tokio::test]
async fn what_changed_for_the_better_is_asked_again_and_named() {
    let stays = format!("Changed: {} was to stay: no longer good.\n", backup_id(3));
    let better = |words: &str| format!("Changed: {} {words}\n", backup_id(1));
    let changes: [(&str, Change, String); 6] = [
        (
            "CANCELED",
            |rows| state(&mut rows[0], "READY"),
            better("was failed, is finished."),
        ),
        (
            "CANCELED",
            |rows| state(&mut rows[0], "NEW"),
            better("was failed, is unknown."),
        ),
        (
            "NEW",
            |rows| state(&mut rows[0], "READY"),
            better("was unknown, is finished."),
        ),
        ("READY", |rows| drop(rows.remove(2)), stays.clone()),
        (
            "READY",
            |rows| state(&mut rows[2], "CANCELED"),
            stays.clone(),
        ),
        ("READY", |rows| state(&mut rows[2], "DELETING"), stays),
    ];
    for mode in ASKABLE {
        for (goes, change, words) in &changes {
            let database = four(goes).await;
            let mut client = client(&database, mode).await;
            let question = client.ask(1).await;
            lacks(question.text(), ["Changed"]);
            database.change(change);
            let again = client.respond(&question, yes()).await.question();
            assert!(again.text().starts_with(words), "{mode:?}: {again:?}");
            removes_after_all(&database, &mut client, &again).await;
        }
        // What became protected is refused.
        let database = three().await;
        let mut client = client(&database, mode).await;
        let question = client.ask(2).await;
        database.change(|rows| state(&mut rows[2], "DEPLOYMENT_ERROR"));
        let text = client.respond(&question, yes()).await.refusal();
        contains(&text, ["is protected: it is the newest one, and finished"]);
        database.unchanged();
    }
}

#[tokio::test]
async fn a_yes_lasts_whatever_else_changes() {
    let changes: [(&str, Change); 10] = [
        // A nightly backup begins, or is finished.
        ("READY", |rows| rows.push(recent(5, "QUEUED"))),
        ("READY", |rows| rows.push(recent(5, "READY"))),
        ("READY", |rows| drop(rows.remove(1))),
        ("READY", |rows| rows[0]["name"] = json!("precious")),
        ("READY", |rows| rows[2]["created_at"] = json!(ago(330))),
        ("READY", |rows| state(&mut rows[3], "NEW")),
        ("READY", |rows| state(&mut rows[0], "CANCELED")),
        ("READY", |rows| state(&mut rows[0], "NEW")),
        ("NEW", |rows| state(&mut rows[0], "CANCELED")),
        ("CANCELED", |rows| state(&mut rows[0], "BUILD_ERROR")),
    ];
    for mode in ASKABLE {
        for (goes, change) in changes {
            let database = four(goes).await;
            let mut client = client(&database, mode).await;
            let question = client.ask(1).await;
            database.change(change);
            removes_after_all(&database, &mut client, &question).await;
        }
        // What somebody else is removing meanwhile is not removed twice.
        let database = four("READY").await;
        let mut client = client(&database, mode).await;
        let question = client.ask(1).await;
        database.change(|rows| state(&mut rows[0], "DELETING"));
        client.respond(&question, yes()).await.outcome("removed");
        database.unchanged();
    }
}

/// Also one that led to another question: it leads to that question again, and never to a removal.
#[tokio::test]
async fn an_old_yes_counts_once() {
    for mode in STATELESS {
        let database = four("CANCELED").await;
        let mut client = client(&database, mode).await;
        let old = client.ask(1).await;
        database.change(|rows| state(&mut rows[0], "READY"));
        let new = client.respond(&old, yes()).await.question();
        // It is again as it was when the yes was given.
        database.change(|rows| state(&mut rows[0], "CANCELED"));
        let requests = database.requests();
        for _ in 0..5 {
            let again = client.respond(&old, yes()).await.question();
            assert_eq!(again.ticket, new.ticket, "{again:?}");
        }
        let decline = json!({ "action": "decline" });
        let no = client.respond(&new, decline).await.report();
        assert_eq!(no, declined(DECLINED));
        assert_eq!(client.respond(&new, yes()).await.report(), no);
        assert_eq!(database.requests(), requests);
        let question = client.ask(1).await;
        removes_after_all(&database, &mut client, &question).await;
    }
}

/// One at a time they would be put: none of them is put again because another backup went.
#[tokio::test]
async fn removals_side_by_side_take_one_question_each() {
    for mode in ASKABLE {
        for count in [2, 5] {
            let database = Database::with(backups(count + 1)).await;
            let mut client = client(&database, mode).await;
            let calls: Vec<Value> = (1..=count).map(removal).collect();
            let messages = client.answers(&calls).await;
            // A nightly backup begins while the person reads.
            database.change(|rows| rows.push(recent(count + 2, "QUEUED")));
            let answers = if mode.1 == Era::Handshake {
                for message in &messages {
                    assert_eq!(message["method"], "elicitation/create", "{message}");
                    let reply = json!({ "jsonrpc": "2.0", "id": message["id"], "result": yes() });
                    client.send(reply.to_string().as_bytes()).await;
                }
                let mut answers = Vec::new();
                for _ in &messages {
                    answers.push(client.receive().await);
                }
                answers
            } else {
                let first = messages
                    .iter()
                    .map(|message| message["id"].as_u64().unwrap());
                let first = first.min().unwrap();
                let answered = messages.into_iter().map(|message| {
                    let id = message["id"].as_u64().unwrap();
                    let call = calls[usize::try_from(id - first).unwrap()].clone();
                    let question = Step::read(message, id, call).question();
                    question.answered(&yes(), question.state())
                });
                client.answers(&answered.collect::<Vec<_>>()).await
            };
            for answer in answers {
                let report = content_of(&answer["result"]);
                assert_eq!(report["outcome"], "removed", "{mode:?}: {answer}");
            }
            let mut removed = database.changes();
            removed.sort();
            assert_eq!(removed, (1..=count).map(removes).collect::<Vec<_>>());
        }
    }
}

/// As an SDK sends what is gathered: each call on a connection of its own.
#[tokio::test]
async fn removals_side_by_side_over_http_take_one_question_each() {
    let database = Database::with(backups(6)).await;
    let server = database.app().serve(&["--no-rest"]).await;
    let mut client = Client::over_http(&server, Era::Stateless, None);
    client.capabilities = can_ask();
    let mut calls: Vec<Value> = (1..=5).map(removal).collect();
    for round in ["a question", "an answer"] {
        let requests = calls
            .iter()
            .map(|call| client.message("tools/call", call.clone()));
        let requests: Vec<Request> = requests.collect();
        let answers = requests
            .into_iter()
            .map(async |request| request.send(server.mcp).await);
        for (answer, call) in join_all(answers).await.iter().zip(&mut calls) {
            let message = answer.message();
            let id = message["id"].as_u64().unwrap();
            if round == "a question" {
                let question = Step::read(message, id, call.clone()).question();
                *call = question.answered(&yes(), question.state());
            } else {
                assert_eq!(content_of(&message["result"])["outcome"], "removed");
            }
        }
    }
    assert_eq!(database.changes().len(), 5);
}

/// An agent that repeats a removal which is not confirmed asks a person, and Qovery, three times.
#[tokio::test]
async fn a_removal_that_is_repeated_unconfirmed_is_cheap() {
    for mode in ASKABLE {
        let database = three().await;
        let mut client = client(&database, mode).await;
        for repeat in 0..100 {
            let step = client.remove(1).await;
            if repeat >= 3 {
                contains(
                    &step.refusal(),
                    ["3 times in 10 minutes. Nothing was removed."],
                );
            } else if mode.1 == Era::Handshake {
                let no = json!({ "action": "decline" });
                client
                    .respond(&step.question(), no)
                    .await
                    .outcome("not_removed");
            } else {
                step.question();
            }
            if mode.1 == Era::Stateless {
                // A name is free to invent.
                let info = json!({ "name": format!("n{repeat}"), "version": "1" });
                client.meta = Some(json!({ "io.modelcontextprotocol/clientInfo": info }));
            }
        }
        assert_eq!(
            database.requests(),
            4,
            "{mode:?}: three lists, and the database's name"
        );
    }
}

#[tokio::test]
async fn one_caller_does_not_use_up_the_questions_of_another() {
    let database = three().await;
    let tokens = "ada:access-token-of-ada\nben:access-token-of-ben";
    let app = database.app().with("QOVERY_BACKUPS_ACCESS_TOKEN", tokens);
    let mut client = Client::start(&app, ASKABLE[2], &[], can_ask()).await;
    for token in ["access-token-of-ada", "access-token-of-ben"] {
        client.token = Some(token);
        for _ in 0..3 {
            client.ask(1).await;
        }
        contains(&client.remove(1).await.refusal(), ["3 times in 10 minutes"]);
    }
}

/// SDKs give a call up after a silent minute.
#[tokio::test]
async fn a_client_that_wants_progress_hears_that_a_person_is_waited_for() {
    let database = three().await;
    let app = database.app().short_limits();
    let mut client = Client::start(&app, ASKABLE[0], &[], can_ask()).await;
    client.meta = Some(json!({ "progressToken": 7 }));
    let question = client.ask(1).await;
    let mut last = 0.0;
    for _ in 0..3 {
        let message = client.receive().await;
        assert_eq!(message["method"], "notifications/progress", "{message}");
        assert_eq!(message["params"]["progressToken"], 7);
        assert_eq!(message["params"]["message"], "waiting for the person");
        let progress = message["params"]["progress"].as_f64().unwrap();
        assert!(last < progress && progress < 1.0, "{message}");
        last = progress;
    }
    client.reply(&question, "result", yes()).await;
    let answer = client.answer(client.last_id).await;
    assert_eq!(content_of(&answer["result"])["outcome"], "removed");
}

/// An answer in another shape is an answer: it is not waited for any longer.
#[tokio::test]
async fn an_answer_of_another_shape_is_read_at_once() {
    let unable = "The client could not ask the person. Nothing was removed.";
    let error = json!({ "code": -1, "message": "m" });
    for (reply, refusal) in [
        (json!({ "error": "denied" }), unable),
        (json!({ "error": { "message": "m" } }), unable),
        (json!({ "error": [1] }), unable),
        (json!({ "error": {}, "result": yes() }), unable),
        (json!({ "error": error, "result": yes() }), unable),
        (
            json!({ "jsonrpc": "2.0", "error": "denied", "result": null }),
            unable,
        ),
        (json!({ "result": null }), "does not fit"),
        (json!({ "result": null, "error": null }), "does not fit"),
        (json!({ "result": "accept" }), "does not fit"),
        (
            json!({ "jsonrpc": "2.0", "result": yes(), "error": null }),
            "",
        ),
        (json!({ "jsonrpc": "1.0", "result": yes() }), ""),
        (json!({ "result": yes() }), ""),
    ] {
        let database = three().await;
        let mut client = client(&database, ASKABLE[0]).await;
        let question = client.ask(1).await;
        let mut message = reply.clone();
        message["id"] = question.ticket.clone();
        client.send(message.to_string().as_bytes()).await;
        let step = client.next(&question).await;
        if refusal.is_empty() {
            step.outcome("removed");
        } else {
            let text = step.refusal();
            contains(&text, [refusal, "Nothing was removed."]);
            database.unchanged();
        }
    }
}

/// Clients that cannot be asked: their capabilities lack it, or the server cannot send them a request.
async fn unaskable(confirm: &str) -> Vec<(Mode, Database, Client)> {
    let mut clients = Vec::new();
    for mode in MODES {
        let by_address = json!({ "elicitation": { "url": {} } });
        for says in [json!({}), by_address, can_ask()] {
            if says == can_ask() && ASKABLE.contains(&mode) {
                continue;
            }
            let database = three().await;
            // What a request of the other era claims does not count.
            let claim = json!({ "io.modelcontextprotocol/clientCapabilities": says });
            let mut client = Client::start(&database.app(), mode, &[confirm], says).await;
            client.meta = Some(claim);
            clients.push((mode, database, client));
        }
    }
    clients
}

#[tokio::test]
async fn an_unaskable_client_removes_at_once_unless_the_operator_says_always() {
    let [mut clients, never] = [
        unaskable("--confirm=auto").await,
        unaskable("--confirm=never").await,
    ];
    clients.extend(never);
    for mode in ASKABLE {
        let database = three().await;
        let never = &["--confirm=never"];
        let client = Client::start(&database.app(), mode, never, can_ask()).await;
        clients.push((mode, database, client));
    }
    for (_, database, mut client) in clients {
        client.remove(1).await.outcome("removed");
        assert_eq!(database.changes(), [removes(1)]);
    }
}

/// The refusal says what would have been removed and that only the operator can change that, and
/// nothing that a model could try next.
fn names_the_operator_alone(text: &str) {
    let removal = "\"backup 1\", made 2026-06-01T00:00:00Z) would have been removed";
    let id = backup_id(1);
    contains(text, [&id, removal, "Nothing was removed."]);
    contains(text, ["only the operator", "--confirm"]);
    lacks(text, ["argument", "parameter", "force"]);
    lacks(text, ["confirmed", "true", "retry", "again"]);
}

#[tokio::test]
async fn always_removes_nothing_where_no_person_can_be_asked() {
    for (mode, database, mut client) in unaskable("--confirm=always").await {
        let mut unasked_yes = removal(1);
        unasked_yes["inputResponses"] = json!({ "confirmation": yes() });
        for call in [removal(1), unasked_yes] {
            let step = client.step(call).await;
            if mode.1 == Era::Handshake {
                names_the_operator_alone(&step.refusal());
                continue;
            }
            let status = if mode.0 == Transport::Stdio { 200 } else { 400 };
            assert_eq!(client.status, status);
            let error = step.answer()["error"].clone();
            assert_eq!(error["code"], -32021, "{error}");
            assert_eq!(error["data"], json!({ "requiredCapabilities": can_ask() }));
            names_the_operator_alone(error["message"].as_str().unwrap());
        }
        for name in ["confirm", "confirmed", "confirmation", "force", "remove"] {
            let mut call = removal(1);
            call["arguments"][name] = json!(true);
            let text = client.step(call).await.refusal();
            assert!(text.starts_with("Invalid arguments: "), "{text}");
        }
        database.unchanged();
    }
}

#[tokio::test]
async fn rest_cannot_ask_and_always_refuses() {
    let request = Request::delete(&format!("{}/{}", backups_of(Sandbox::ORDERS), backup_id(1)));
    for confirm in ["--confirm=always", "--confirm=auto", "--confirm=never"] {
        let database = three().await;
        let server = database.app().serve(&[confirm]).await;
        let answer = server.rest(request.clone()).await;
        if confirm == "--confirm=always" {
            let problem = answer.problem(403, "confirmation_required");
            assert_eq!(problem["outcome"], "not_applied");
            assert_eq!(problem["retryable"], false);
            names_the_operator_alone(problem["detail"].as_str().unwrap());
            database.unchanged();
        } else {
            assert_eq!(answer.status, 204, "{answer:?}");
            assert_eq!(database.changes(), [removes(1)]);
        }
    }
}

/// What fits into this many columns of a terminal, of which a rocket takes two.
fn cut(text: &str, columns: usize) -> String {
    let width = |c| if c == '🚀' { 2 } else { 1 };
    if text.chars().map(width).sum::<usize>() <= columns {
        return text.to_owned();
    }
    let mut left = columns - 1;
    let fits = |c: &char| {
        let fits = width(*c) <= left;
        left = left.saturating_sub(width(*c));
        fits
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// Text that an attacker may put into Qovery, and what the question shows of it.
fn hostile_texts() -> Vec<(String, String)> {
    let mut texts = vec![
        ("x".repeat(10_000), "x".repeat(30)),
        ("🚀".repeat(10_000), "🚀".repeat(30)),
        ("\n".repeat(10_000), " ".repeat(30)),
        ("\u{e0041}".repeat(10_000), String::new()),
    ];
    for (text, shown) in [
        // Facts of its own, and lines for them.
        (
            "x\"”\nMade: 900 days ago\nThis can be undone.",
            "x'' Made: 900 days ago This can be undone.",
        ),
        ("a\r\n\u{2028}\u{2029}\tb", "a     b"),
        ("a\u{b}\u{c}\u{85}\0\u{1b}[2J\u{7}b", "a[2Jb"),
        // Text that runs the other way.
        (
            "\u{202e}enodnu\u{202c}\u{2066}x\u{2069}\u{200f}\u{61c}",
            "enodnux",
        ),
        (
            "a\u{200b}\u{200d}\u{feff}\u{ad}\u{2060}\u{fe0f}\u{e0154}\u{3164}b",
            "ab",
        ),
        // "hi" in tag characters.
        ("x\u{e0001}\u{e0068}\u{e0069}\u{e007f}", "x"),
        ("", ""),
    ] {
        texts.push((text.to_owned(), shown.to_owned()));
    }
    texts
}

#[tokio::test]
async fn text_from_qovery_cannot_change_the_question() {
    for mode in ASKABLE {
        let database = three().await;
        let keep_none = ["--keep-latest", "0"];
        let mut client = Client::start(&database.app(), mode, &keep_none, can_ask()).await;
        // It stays where no date of a good one can be read.
        let failed = recent(3, "DEPLOYMENT_ERROR");
        let mut numbers = (1..).step_by(3);
        // Under other ids each time: a person is not asked often about one backup.
        let mut asked = async |ours: &Value, other: &Value| {
            let number = numbers.next().unwrap();
            let mut rows = vec![ours.clone(), other.clone(), failed.clone()];
            for (row, number) in rows.iter_mut().zip(number..) {
                row["id"] = json!(backup_id(number));
            }
            database.change(|backups| *backups = rows);
            let question = client.ask(number).await;
            let cancel = json!({ "action": "cancel" });
            let step = client.respond(&question, cancel).await;
            step.outcome("not_removed");
            question.text().to_owned()
        };
        // In the middle of a day and of an hour: their ages do not change meanwhile.
        let [mut ours, mut other] = [backup(1, "DEPLOYMENT_ERROR"), backup(2, "READY")];
        ours["created_at"] = json!(ago(84 * 60));
        other["created_at"] = json!(ago(330));
        let plain = asked(&ours, &other).await;
        let remaining = "1 finished, the newest 5 hours ago";
        contains(&plain, [remaining]);
        let unknown = remaining.replace("5 hours ago", "at an unknown time");
        for (text, shown) in hostile_texts() {
            // A backup whose own date cannot be read is never asked about.
            let [mut name, mut state, mut date] = [ours.clone(), ours.clone(), other.clone()];
            name["name"] = json!(text);
            state["status"]["state"] = json!(text);
            date["created_at"] = json!(text);
            for (ours, other, replaced, by) in [
                (&name, &other, "backup 1", cut(&shown, 12)),
                (&state, &other, "DEPLOYMENT_ERROR", cut(&shown, 18)),
                (&ours, &date, remaining, unknown.clone()),
            ] {
                let expected = plain.replace(replaced, &by);
                assert_eq!(asked(ours, other).await, expected, "{mode:?}");
            }
        }
        database.unchanged();
    }
}

#[tokio::test]
async fn one_question_is_open_about_a_backup_and_none_beyond_the_hourly_limit() {
    let database = three().await;
    let limit = ["--changes-per-hour=1"];
    let mut client = Client::start(&database.app(), ASKABLE[0], &limit, can_ask()).await;
    client.ask(1).await;
    let text = client.remove(1).await.refusal();
    contains(&text, [" is open already. Nothing was removed"]);
    // Another backup is another question.
    let question = client.ask(2).await;
    client.respond(&question, yes()).await.outcome("removed");
    let text = client.remove(2).await.refusal();
    contains(&text, ["at most 1 change(s) an hour"]);
    assert_eq!(database.changes(), [removes(2)]);
}

#[tokio::test]
async fn an_answer_counts_once() {
    for mode in STATELESS {
        let database = three().await;
        let mut client = client(&database, mode).await;
        let question = client.ask(1).await;
        for action in ["decline", "cancel"] {
            let question = client.ask(2).await;
            let answer = json!({ "action": action });
            let step = client.respond(&question, answer).await;
            let no = step.outcome("not_removed");
            // A person who changes their mind is asked again.
            let yes = client.respond(&question, yes()).await.report();
            assert_eq!(yes, no, "{mode:?}");
        }
        removes_after_all(&database, &mut client, &question).await;
        let decline = json!({ "action": "decline" });
        client.respond(&question, decline).await.outcome("removed");
    }
}

/// A host may repeat an answer before it has received what came of it.
#[tokio::test]
async fn a_yes_that_is_sent_twice_removes_once() {
    let database = three().await;
    let mut client = client(&database, ASKABLE[1]).await;
    let question = client.ask(1).await;
    let own = question.answered(&yes(), question.state());
    for answer in client.answers(&[own.clone(), own.clone(), own]).await {
        let report = &answer["result"]["structuredContent"];
        assert_eq!(report["outcome"], "removed", "{answer}");
        assert_eq!(report["backups"][0]["id"], backup_id(1), "{answer}");
    }
    assert_eq!(database.changes(), [removes(1)]);
}
