//! What stands between an agent and a removal: the question to a person, its answer, and the state
//! that ties them together.

use chrono::{SecondsFormat, TimeDelta, Utc};
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use tokio::time::timeout;

use crate::{
    helpers::{Era, PATIENCE, backup, backup_id},
    helpers_confirm::{
        Database, Host, Question, STATELESS, WAYS, Way, Wire, can_ask, removal, removes, responses,
        yes,
    },
    helpers_http::{Client, Connection, Request, Server, backups_of},
};

const STATE_KEY: &str = "QOVERY_BACKUPS_STATE_KEY";

/// Numbers 1 to 3, of which the first two may go.
async fn three() -> Database {
    Database::with([1, 2, 3].map(|number| backup(number, "READY"))).await
}

/// Almost a page, for a host that is asked about another one each time: about one, it is asked seldom.
async fn many() -> Database {
    let backups = (1..20).map(|number| backup(number, "READY"));
    Database::with(backups.collect::<Vec<_>>()).await
}

async fn host(database: &Database, way: Way) -> Host {
    Host::start(&database.app(), way, &[], can_ask()).await
}

/// Says yes, and sees the backup gone: what came before was really refused, and not for want of a
/// server that removes.
async fn removes_after_all(database: &Database, host: &mut Host, question: &Question) {
    assert_eq!(database.changes(), [""; 0]);
    let decision = host.answer(question, yes()).await.decision();
    assert_eq!(decision["outcome"], "removed", "{decision}");
    assert_eq!(database.changes(), [removes(1)]);
}

#[tokio::test]
async fn a_backup_goes_after_a_yes_and_once() {
    for way in WAYS {
        let database = three().await;
        let mut host = host(&database, way).await;
        let question = host.ask(1).await;
        assert_eq!(database.changes(), [""; 0]);
        let decision = host.answer(&question, yes()).await.decision();
        let gone = json!({
            "id": backup_id(1), "name": "backup 1", "created_at": "2026-06-01T00:00:00Z",
            "outcome": "removed",
        });
        let removed = json!({ "outcome": "removed", "backups": [gone], "remaining": 2 });
        assert_eq!(decision, removed, "{way:?}");
        assert_eq!(database.changes(), [removes(1)]);
    }
}

fn ago(minutes: i64) -> String {
    let date = Utc::now() - TimeDelta::minutes(minutes);
    date.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[tokio::test]
async fn the_question_names_what_goes_and_what_stays() {
    for way in WAYS {
        let database = three().await;
        // In the middle between two numbers of days or hours: the answer does not change meanwhile.
        let old = ago(84 * 60);
        database.change(|backups| {
            backups[0]["created_at"] = json!(old);
            backups[0]["name"] = json!("before the migration 🚀");
            backups[1]["created_at"] = json!(ago(330));
            backups[2]["created_at"] = json!(ago(400));
        });
        let question = host(&database, way).await.ask(1).await;
        let mut params = question.params.clone();
        params.as_object_mut().unwrap().remove("_meta");
        let params = params.to_string();
        let date = format!("{} {} UTC", &old[..10], &old[11..16]);
        assert_eq!(params.matches(&date).count(), 1, "{params}");
        let params: Value = serde_json::from_str(&params.replace(&date, "<date>")).unwrap();
        insta::assert_json_snapshot!("question", params);

        // A client may fill in the default by itself.
        let schema = &params["requestedSchema"];
        assert_eq!(schema["properties"].as_object().unwrap().len(), 1);
        let property = &schema["properties"]["remove"];
        assert_eq!(
            (&property["type"], &property["default"]),
            (&json!("boolean"), &json!(false))
        );
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
            // In the future, by the clock of somebody else.
            backups[1]["created_at"] = json!(ago(-90));
            backups[2]["created_at"] = json!(ago(-60));
        });
        let question = host(&database, WAYS[1]).await.ask(1).await;
        assert!(question.text().contains(words), "{question:?}");
        let future = "the newest in the future.\n";
        assert!(question.text().contains(future), "{question:?}");
    }
    let bare = json!({ "id": backup_id(1), "created_at": ago(84 * 60) });
    database.change(|backups| backups[0] = bare);
    let question = host(&database, WAYS[1]).await.ask(1).await;
    let words = "Remove unknown state, 3 days ago (";
    assert!(question.text().starts_with(words), "{question:?}");
}

#[tokio::test]
async fn anything_but_a_yes_removes_nothing() {
    const NO_TICK: Option<&str> =
        Some("The host answered for the person without ticking the box. Nothing was removed.");
    const NO: Option<&str> = Some(
        "The host answered no for the person. Nothing was removed. Do not ask again about these \
         backups; the rest of the task may go on. If the host showed no question, it cannot show one.",
    );
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
        (accept(json!({ "Remove": true, "confirm": true })), NO_TICK),
        (json!({ "action": "decline" }), NO),
        (json!({ "action": "decline", "content": ticked }), NO),
        (json!({ "action": "cancel" }), CLOSED),
        (json!({ "action": "cancel", "content": ticked }), CLOSED),
        // Text is a yes only where it is `true`.
        (accept(json!({ "remove": "yes" })), NO_TICK),
        (accept(json!({ "remove": "True" })), NO_TICK),
        (accept(json!({ "remove": null })), NO_TICK),
        // What is neither a yes nor a no is told as it is.
        (json!({ "action": "Accept", "content": ticked }), OTHER),
        (json!({ "action": "reject" }), REJECT),
        // What is no answer to the form.
        (accept(json!({ "remove": 1 })), None),
        (accept(json!({ "remove": [true] })), None),
        (accept(json!(true)), None),
        (accept(json!("remove")), None),
        (json!({ "action": true, "content": ticked }), None),
        (json!({ "content": ticked }), None),
        (ticked, None),
        (json!({ "code": -1, "message": "Nobody is there." }), None),
        (json!({}), None),
    ];
    for way in WAYS {
        let database = many().await;
        let mut host = host(&database, way).await;
        for (number, (answer, reason)) in (2..19).cycle().zip(&answers) {
            let question = host.ask(number).await;
            let step = host.answer(&question, answer.clone()).await;
            if let Some(reason) = reason {
                let kept = json!([{ "id": backup_id(number), "outcome": "not_removed" }]);
                let decision = json!({ "outcome": "not_removed", "backups": kept, "note": reason });
                assert_eq!(step.decision(), decision, "{way:?} {answer}");
            } else {
                let text = step.misfit(way.1);
                assert!(
                    text.ends_with("Nothing was removed."),
                    "{way:?} {answer}: {text}"
                );
            }
        }
        if way.1 == Era::Handshake {
            let question = host.ask(1).await;
            let error = json!({ "code": -32601, "message": "Method not found" });
            host.reply(&question, "error", error).await;
            let text = host.next(&question).await.refusal();
            assert_eq!(
                text,
                "The client could not ask the person. Nothing was removed."
            );
        }
        let question = host.ask(1).await;
        removes_after_all(&database, &mut host, &question).await;
    }
}

#[tokio::test]
async fn a_question_is_taken_back_when_its_call_is_cancelled() {
    for way in WAYS.into_iter().filter(|(_, era)| *era == Era::Handshake) {
        let database = three().await;
        let mut host = host(&database, way).await;
        host.listen().await;
        let question = host.ask(1).await;
        host.cancel().await;
        let taken_back = host.overhear().await;
        assert_eq!(
            taken_back["method"], "notifications/cancelled",
            "{taken_back}"
        );
        assert_eq!(taken_back["params"]["requestId"], question.ticket);
        assert_eq!(taken_back["params"]["reason"], "the call was cancelled");
        // Too late.
        host.reply(&question, "result", yes()).await;
        let again = host.ask(1).await;
        assert_ne!(again.ticket, question.ticket);
        removes_after_all(&database, &mut host, &again).await;
    }
}

#[tokio::test]
async fn an_accept_without_content_is_not_a_yes_and_no_failure() {
    for way in WAYS {
        let database = three().await;
        let mut host = host(&database, way).await;
        for answer in [
            json!({ "action": "accept" }),
            json!({ "action": "accept", "content": null }),
        ] {
            let question = host.ask(1).await;
            let decision = host.answer(&question, answer).await.decision();
            assert_eq!(decision["outcome"], "not_removed", "{way:?} {decision}");
        }
        assert_eq!(database.changes(), [""; 0]);
    }
}

#[tokio::test]
async fn a_list_is_no_answer_to_a_form() {
    for way in WAYS {
        let mut answers = vec![
            json!({ "action": "accept", "content": [true] }),
            json!({ "action": "accept", "content": [] }),
            json!(["accept", [true], null]),
        ];
        if way.1 == Era::Stateless {
            // Before it, the protocol's library reads the answer.
            answers.push(json!(["accept", { "remove": true }, null]));
        }
        for answer in answers {
            let database = three().await;
            let mut host = host(&database, way).await;
            let question = host.ask(1).await;
            let step = host.answer(&question, answer.clone()).await;
            assert_eq!(database.changes(), [""; 0], "{way:?} {answer}");
            let text = step.misfit(way.1);
            assert!(
                text.ends_with("Nothing was removed."),
                "{way:?} {answer}: {text}"
            );
        }
    }
}

/// Every such call was refused as a breach of the protocol.
fn all_refused(answers: &[Value]) {
    for answer in answers {
        let error = &answer["error"];
        assert_eq!(error["code"], -32602, "{answer}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("Nothing was removed."), "{answer}");
    }
}

/// Each bit of a state is tried where it is sealed.
#[tokio::test]
async fn a_forged_state_removes_nothing_and_asks_nothing() {
    for way in STATELESS {
        let database = three().await;
        let mut host = host(&database, way).await;
        let question = host.ask(1).await;
        let state = question.state();
        let forged = [
            state[1..].to_owned(),
            state[..state.len() - 1].to_owned(),
            format!("{state}A"),
            state.to_uppercase(),
            String::new(),
        ];
        let looked = database.requests();
        let forged = forged.map(|state| question.answered(&yes(), &state));
        all_refused(&host.calls(&forged).await);
        assert_eq!(database.requests(), looked);
        removes_after_all(&database, &mut host, &question).await;
    }
}

#[tokio::test]
async fn a_state_is_good_for_one_caller_one_backup_and_one_server() {
    for way in STATELESS {
        let database = three().await;
        let mut app = database.app();
        if way.0 == Wire::Http {
            let tokens = "ada:access-token-of-ada\nben:access-token-of-ben".to_owned();
            app.variables.push(("QOVERY_BACKUPS_ACCESS_TOKEN", tokens));
        }
        let mut host = Host::start(&app, way, &[], can_ask()).await;
        let client = |name: &str| {
            let info = json!({ "name": name, "version": "1" });
            Some(json!({ "io.modelcontextprotocol/clientInfo": info }))
        };
        host.meta = client("ada");
        host.set_token("access-token-of-ada");
        let question = host.ask(1).await;
        let own = question.answered(&yes(), question.state());

        let mut other_backup = own.clone();
        other_backup["arguments"]["backupId"] = json!(backup_id(2));
        let mut other_database = own.clone();
        other_database["arguments"]["databaseId"] = json!(Sandbox::SESSIONS);
        all_refused(&host.calls(&[other_backup, other_database]).await);

        host.set_token("access-token-of-ben");
        if way.0 == Wire::Stdio {
            host.meta = client("ben");
        }
        all_refused(&host.calls(std::slice::from_ref(&own)).await);

        let mut elsewhere = Host::start(&app, way, &[], can_ask()).await;
        elsewhere.meta = client("ada");
        elsewhere.set_token("access-token-of-ada");
        all_refused(&elsewhere.calls(&[own]).await);

        // Where there are tokens, the name that a client gives itself does not count.
        host.set_token("access-token-of-ada");
        host.meta = client(if way.0 == Wire::Stdio { "ada" } else { "ben" });
        removes_after_all(&database, &mut host, &question).await;
    }
}

#[tokio::test]
async fn a_yes_needs_the_state_and_the_state_needs_a_yes() {
    for way in STATELESS {
        let database = many().await;
        let mut host = host(&database, way).await;
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
            let question = host.ask(number).await;
            let mut half = question.answered(&yes(), question.state());
            match value {
                Some(value) => half[member] = value,
                None => drop(half.as_object_mut().unwrap().remove(member)),
            }
            let again = host.call(half).await.question();
            let name = format!(": \"backup {number}\"\n");
            assert!(again.text().contains(&name), "{again:?}");
        }
        let question = host.ask(1).await;
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
            let answer = host.call(malformed).await.answer();
            assert_eq!(answer["error"]["code"], -32602, "{answer}");
        }
        removes_after_all(&database, &mut host, &question).await;

        // As after a lost answer: who sends it again is told what came of it.
        let again = host.call(whole).await.decision();
        assert_eq!(again["outcome"], "removed", "{again}");
        assert_eq!(again["backups"][0]["id"], backup_id(1), "{again}");
        assert_eq!(database.changes(), [removes(1)]);
    }
}

#[tokio::test]
async fn a_no_is_taken_at_its_word_though_nobody_was_asked() {
    for (confirm, capabilities) in [
        ("--confirm=auto", json!({})),
        ("--confirm=never", can_ask()),
    ] {
        for way in STATELESS {
            let database = three().await;
            let app = database.app();
            let mut host = Host::start(&app, way, &[confirm], capabilities.clone()).await;
            for action in ["decline", "cancel"] {
                let mut call = removal(1);
                call["inputResponses"] = responses(&json!({ "action": action }));
                let decision = host.call(call).await.decision();
                assert_eq!(decision["outcome"], "not_removed", "{decision}");
            }
            assert_eq!(database.changes(), [""; 0]);
            // Without the no, nothing stood between this host and the removal.
            let decision = host.remove(1).await.decision();
            assert_eq!(decision["outcome"], "removed", "{decision}");
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
        // What was sealed with the new key is not for those who have the old one alone.
        (Some(&both), Some(&old), false),
        (Some(&old), Some(&new), false),
        (Some(&old), None, false),
        (None, Some(&old), false),
        (None, None, false),
    ] {
        for way in STATELESS {
            let database = three().await;
            let mut hosts = Vec::new();
            for key in [asks, answers] {
                let mut app = database.app();
                app.variables
                    .extend(key.map(|key| (STATE_KEY, key.clone())));
                hosts.push(Host::start(&app, way, &[], can_ask()).await);
            }
            let question = hosts[0].ask(1).await;
            if shared {
                removes_after_all(&database, &mut hosts[1], &question).await;
            } else {
                let own = question.answered(&yes(), question.state());
                let answers = hosts[1].calls(&[own]).await;
                all_refused(&answers);
                assert!(answers[0].to_string().contains(STATE_KEY), "{answers:?}");
                removes_after_all(&database, &mut hosts[0], &question).await;
            }
        }
    }
}

#[tokio::test]
async fn what_changed_meanwhile_is_asked_again() {
    type Change = fn(&mut Vec<Value>);
    let changes: [(Change, &str); 5] = [
        (
            |backups| backups[0]["status"]["state"] = json!("EXECUTING"),
            "Remove EXECUTING, ",
        ),
        (
            |backups| backups[0]["name"] = json!("precious"),
            ": \"precious\"\n",
        ),
        (
            |backups| drop(backups.remove(1)),
            "Remaining: 1, 1 finished, ",
        ),
        (
            |backups| backups.push(backup(4, "READY")),
            "Remaining: 3, 3 finished, ",
        ),
        (
            |backups| backups[2]["created_at"] = json!(ago(330)),
            "the newest 5 hours ago.\n",
        ),
    ];
    for (way, (change, words)) in WAYS
        .into_iter()
        .flat_map(|way| changes.map(|one| (way, one)))
    {
        let database = three().await;
        let mut host = host(&database, way).await;
        let question = host.ask(1).await;
        assert!(!question.text().contains(words), "{question:?}");
        database.change(change);
        let question = host.answer(&question, yes()).await.question();
        assert!(question.text().contains(words), "{words}: {question:?}");
        removes_after_all(&database, &mut host, &question).await;
    }
}

#[tokio::test]
async fn what_became_protected_meanwhile_stays() {
    for way in WAYS {
        let database = three().await;
        let mut host = host(&database, way).await;
        let question = host.ask(2).await;
        database.change(|backups| backups[2]["status"]["state"] = json!("DEPLOYMENT_ERROR"));
        let text = host.answer(&question, yes()).await.refusal();
        assert!(
            text.contains("is protected: it is the newest one that has not failed"),
            "{text}"
        );
        assert_eq!(database.changes(), [""; 0]);
    }
}

#[tokio::test]
async fn whoever_shows_forms_is_asked() {
    for (confirm, elicitation) in [
        ("--confirm=auto", json!({})),
        ("--confirm=auto", json!({ "form": {}, "url": {} })),
        ("--confirm=always", json!({ "form": {} })),
    ] {
        for way in WAYS {
            let database = three().await;
            let capabilities = json!({ "elicitation": elicitation });
            let mut host = Host::start(&database.app(), way, &[confirm], capabilities).await;
            let question = host.ask(1).await;
            removes_after_all(&database, &mut host, &question).await;
        }
    }
}

/// Hosts of which no person can be asked.
async fn unasked(confirm: &str) -> Vec<(Way, Database, Host)> {
    let nothing = json!({});
    let links = json!({ "elicitation": { "url": {} } });
    let cases = WAYS
        .into_iter()
        .flat_map(|way| [(way, nothing.clone()), (way, links.clone())])
        // There is no way back to it, whatever it says.
        .chain([((Wire::SessionlessHttp, Era::Handshake), can_ask())])
        .chain([((Wire::SessionlessHttp, Era::Stateless), nothing.clone())]);
    let mut hosts = Vec::new();
    for (way, capabilities) in cases {
        let database = three().await;
        let claim = json!({ "io.modelcontextprotocol/clientCapabilities": capabilities });
        let mut host = Host::start(&database.app(), way, &[confirm], capabilities).await;
        host.meta = Some(claim);
        hosts.push((way, database, host));
    }
    hosts
}

#[tokio::test]
async fn who_cannot_be_asked_removes_at_once_unless_the_operator_says_always() {
    for confirm in ["--confirm=auto", "--confirm=never"] {
        for (way, database, mut host) in unasked(confirm).await {
            let decision = host.remove(1).await.decision();
            assert_eq!(decision["outcome"], "removed", "{way:?} {decision}");
            assert_eq!(database.changes(), [removes(1)]);
        }
    }
    for way in WAYS {
        let database = three().await;
        let mut host = Host::start(&database.app(), way, &["--confirm=never"], can_ask()).await;
        let decision = host.remove(1).await.decision();
        assert_eq!(decision["outcome"], "removed", "{way:?} {decision}");
        assert_eq!(database.changes(), [removes(1)]);
    }
}

/// It says what would have gone, and that only the operator can change that: nothing that a model
/// could try next.
fn says_who_can_change_it(text: &str) {
    let said = "\"backup 1\", made 2026-06-01T00:00:00Z) would have been removed";
    for part in [
        &backup_id(1),
        said,
        "Nothing was removed.",
        "only the operator",
        "--confirm",
    ] {
        assert!(text.contains(part), "{part} in: {text}");
    }
    for part in [
        "argument",
        "parameter",
        "force",
        "confirmed",
        "true",
        "retry",
        "again",
    ] {
        assert!(!text.contains(part), "{part} in: {text}");
    }
}

#[tokio::test]
async fn always_removes_nothing_where_nobody_can_be_asked() {
    for (way, database, mut host) in unasked("--confirm=always").await {
        let mut yes_to_nothing = removal(1);
        yes_to_nothing["inputResponses"] = responses(&yes());
        for call in [removal(1), yes_to_nothing] {
            let step = host.call(call).await;
            if way.1 == Era::Handshake {
                says_who_can_change_it(&step.refusal());
                continue;
            }
            let status = if way.0 == Wire::Stdio { 200 } else { 400 };
            assert_eq!(host.status, status);
            let error = step.answer()["error"].clone();
            assert_eq!(error["code"], -32021, "{error}");
            let required = json!({ "requiredCapabilities": can_ask() });
            assert_eq!(error["data"], required);
            says_who_can_change_it(error["message"].as_str().unwrap());
        }
        for name in ["confirm", "confirmed", "confirmation", "force", "remove"] {
            let mut call = removal(1);
            call["arguments"][name] = json!(true);
            let text = host.call(call).await.refusal();
            assert!(text.starts_with("Invalid arguments: "), "{text}");
        }
        assert_eq!(database.changes(), [""; 0], "{way:?}");
    }
}

#[tokio::test]
async fn over_rest_nobody_is_asked_and_always_refuses() {
    let request = Request::delete(&format!("{}/{}", backups_of(Sandbox::ORDERS), backup_id(1)));
    for (confirm, changes) in [
        ("--confirm=always", vec![]),
        ("--confirm=auto", vec![removes(1)]),
        ("--confirm=never", vec![removes(1)]),
    ] {
        let database = three().await;
        let server = database.app().serve(&[confirm]).await;
        let answer = server.rest(request.clone()).await;
        if changes.is_empty() {
            let problem = answer.problem(403, "confirmation_required");
            assert_eq!(problem["outcome"], "not_applied");
            assert_eq!(problem["retryable"], false);
            says_who_can_change_it(problem["detail"].as_str().unwrap());
        } else {
            assert_eq!(answer.status, 204, "{answer:?}");
        }
        assert_eq!(database.changes(), changes);
    }
}

/// What fits into so many columns of a terminal, of which a rocket takes two.
fn cut(text: &str, room: usize) -> String {
    let columns = |c| if c == '🚀' { 2 } else { 1 };
    if text.chars().map(columns).sum::<usize>() <= room {
        return text.to_owned();
    }
    let mut left = room - 1;
    let fits = |c: &char| {
        let fits = columns(*c) <= left;
        left = left.saturating_sub(columns(*c));
        fits
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

#[tokio::test]
async fn what_others_wrote_cannot_change_the_question() {
    let hostile = [
        // Facts of its own, and lines for them.
        (
            "x\"”\nMade: 900 days ago\nThis can be undone.".to_owned(),
            "x'' Made: 900 days ago This can be undone.".to_owned(),
        ),
        ("a\r\n\u{2028}\u{2029}\tb".to_owned(), "a     b".to_owned()),
        (
            "a\u{b}\u{c}\u{85}\0\u{1b}[2J\u{7}b".to_owned(),
            "a[2Jb".to_owned(),
        ),
        // Text that runs the other way.
        (
            "\u{202e}enodnu\u{202c}\u{2066}x\u{2069}\u{200f}\u{61c}".to_owned(),
            "enodnux".to_owned(),
        ),
        (
            "a\u{200b}\u{200d}\u{feff}\u{ad}\u{2060}\u{fe0f}\u{e0154}\u{3164}b".to_owned(),
            "ab".to_owned(),
        ),
        // "hi" in tag characters.
        (
            "x\u{e0001}\u{e0068}\u{e0069}\u{e007f}".to_owned(),
            "x".to_owned(),
        ),
        ("x".repeat(10_000), "x".repeat(30)),
        ("🚀".repeat(10_000), "🚀".repeat(30)),
        ("\n".repeat(10_000), " ".repeat(30)),
        ("\u{e0041}".repeat(10_000), String::new()),
        (String::new(), String::new()),
    ];
    for way in WAYS {
        let database = three().await;
        let keep_none = ["--keep-latest", "0"];
        let mut host = Host::start(&database.app(), way, &keep_none, can_ask()).await;
        let mut numbers = (1..).step_by(2);
        // Under other ids each time: about one backup, nobody is asked so often.
        let mut asked = async |ours: &Value, other: &Value| {
            let number = numbers.next().unwrap();
            let [mut ours, mut other] = [ours.clone(), other.clone()];
            ours["id"] = json!(backup_id(number));
            other["id"] = json!(backup_id(number + 1));
            database.change(|backups| *backups = vec![ours, other]);
            let question = host.ask(number).await;
            let closed = host.answer(&question, json!({ "action": "cancel" })).await;
            assert_eq!(closed.decision()["outcome"], "not_removed");
            question.text().to_owned()
        };
        // In the middle of a day and of an hour: their ages do not change meanwhile.
        let [mut ours, mut other] = [backup(1, "DEPLOYMENT_ERROR"), backup(2, "READY")];
        ours["created_at"] = json!(ago(84 * 60));
        other["created_at"] = json!(ago(330));
        let plain = asked(&ours, &other).await;
        let remaining = "1 finished, the newest 5 hours ago";
        assert!(plain.contains(remaining), "{plain}");
        for (text, shown) in &hostile {
            let [mut name, mut state] = [(); 2].map(|()| ours.clone());
            name["name"] = json!(text);
            state["status"]["state"] = json!(text);
            // One whose own date cannot be read is never asked about.
            let mut date = other.clone();
            date["created_at"] = json!(text);
            let unknown = remaining.replace("5 hours ago", "at an unknown time");
            for (ours, other, expected) in [
                (&name, &other, plain.replace("backup 1", &cut(shown, 12))),
                (
                    &state,
                    &other,
                    plain.replace("DEPLOYMENT_ERROR", &cut(shown, 18)),
                ),
                (&ours, &date, plain.replace(remaining, &unknown)),
            ] {
                assert_eq!(asked(ours, other).await, expected, "{way:?}");
            }
        }
        assert_eq!(database.changes(), [""; 0]);
    }
}

#[tokio::test]
async fn a_person_is_asked_about_a_backup_once_at_a_time() {
    for way in WAYS.into_iter().filter(|(_, era)| *era == Era::Handshake) {
        let database = three().await;
        let mut host = host(&database, way).await;
        host.ask(1).await;
        let text = host.remove(1).await.refusal();
        assert!(
            text.contains(" is open already. Nothing was removed"),
            "{text}"
        );
        // Another one is another question.
        let question = host.ask(2).await;
        let decision = host.answer(&question, yes()).await.decision();
        assert_eq!(decision["outcome"], "removed", "{decision}");
        assert_eq!(database.changes(), [removes(2)]);
    }
}

#[tokio::test]
async fn nobody_is_asked_for_a_removal_beyond_the_limit() {
    for way in WAYS {
        let database = three().await;
        let limit = ["--changes-per-hour=1"];
        let mut host = Host::start(&database.app(), way, &limit, can_ask()).await;
        let question = host.ask(1).await;
        removes_after_all(&database, &mut host, &question).await;
        let text = host.remove(2).await.refusal();
        assert!(
            text.contains("at most 1 change(s) an hour"),
            "{way:?} {text}"
        );
        assert_eq!(database.changes(), [removes(1)]);
    }
}

#[tokio::test]
async fn an_answer_counts_once() {
    for way in STATELESS {
        let database = three().await;
        let mut host = host(&database, way).await;
        let question = host.ask(1).await;
        for action in ["decline", "cancel"] {
            let question = host.ask(2).await;
            let no = host
                .answer(&question, json!({ "action": action }))
                .await
                .decision();
            assert_eq!(no["outcome"], "not_removed", "{no}");
            // Who changes their mind has to be asked again.
            let yes = host.answer(&question, yes()).await.decision();
            assert_eq!(yes, no, "{way:?}");
        }
        assert_eq!(database.changes(), [""; 0]);
        removes_after_all(&database, &mut host, &question).await;
        let again = host
            .answer(&question, json!({ "action": "decline" }))
            .await
            .decision();
        assert_eq!(again["outcome"], "removed", "{again}");
    }
}

/// A host may repeat an answer before it has heard what came of it.
#[tokio::test]
async fn a_yes_that_is_sent_twice_removes_once() {
    let database = three().await;
    let mut host = host(&database, (Wire::Stdio, Era::Stateless)).await;
    let question = host.ask(1).await;
    let own = question.answered(&yes(), question.state());
    let answers = host.calls(&[own.clone(), own.clone(), own]).await;
    for answer in answers {
        let decision = &answer["result"]["structuredContent"];
        assert_eq!(decision["outcome"], "removed", "{answer}");
        assert_eq!(decision["backups"][0]["id"], backup_id(1), "{answer}");
    }
    assert_eq!(database.changes(), [removes(1)]);
}

#[tokio::test]
async fn nobody_is_asked_about_a_backup_again_and_again() {
    for way in WAYS {
        let database = three().await;
        let mut host = host(&database, way).await;
        for _ in 0..3 {
            let question = host.ask(1).await;
            host.answer(&question, json!({ "action": "decline" }))
                .await
                .decision();
        }
        let text = host.remove(1).await.refusal();
        assert!(
            text.contains("3 times in 10 minutes. Nothing was removed."),
            "{text}"
        );
        assert!(text.contains(" UTC"), "{text}");
        // Another backup is another question.
        host.ask(2).await;
        assert_eq!(database.changes(), [""; 0]);
    }
}

/// A client that can show a question, in a session of its own.
async fn client(server: &Server) -> Client {
    let mut client = Client::new(server, Era::Handshake, None);
    client.capabilities = can_ask();
    client.open().await;
    client
}

/// Calls for a removal; gives the connection of the call, and what is said on it first.
async fn called(client: &mut Client) -> (Connection, Value) {
    let request = client.message("tools/call", removal(1));
    let mut connection = Connection::open(client.address).await;
    connection.write(&request.bytes(client.address)).await;
    assert_eq!(connection.head().await.status, 200);
    let said = connection.event().await;
    (connection, said)
}

/// Else nobody could be asked about the backup until a person's time is over, which is minutes.
#[tokio::test]
async fn a_question_ends_when_its_client_has_gone() {
    for deletes in [false, true] {
        let database = three().await;
        let app = database.app().hasty();
        let server = app.serve(&["--sessions", "--no-rest"]).await;
        let (mut one, mut other) = (client(&server).await, client(&server).await);
        let (connection, asked) = called(&mut one).await;
        assert_eq!(asked["method"], "elicitation/create", "{asked}");
        let (_, refused) = called(&mut other).await;
        let text = &refused["result"]["content"][0]["text"];
        let text = text.as_str().unwrap();
        assert!(text.contains("open already"), "{refused}");
        let kept = if deletes {
            let end = Request::delete("/mcp")
                .header("Mcp-Session-Id", one.session.as_ref().unwrap())
                .send(server.mcp)
                .await;
            assert_eq!(end.status, 204, "{end:?}");
            Some(connection)
        } else {
            drop(connection);
            None
        };
        let asked_again = async { while called(&mut other).await.1["method"].is_null() {} };
        let in_time = timeout(PATIENCE, asked_again).await;
        in_time.expect("another one can be asked");
        drop(kept);
        assert_eq!(database.changes(), [""; 0]);
    }
}
