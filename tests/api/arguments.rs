//! Arguments that do not fit: an in-band error that names the argument, and no request to Qovery.

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    clients::{ADD, Client, LIST, MODES, REMOVE},
    expect::{contains, lacks},
    upstreams::{Upstream, backups, page},
};

const ID: &str = Sandbox::ORDERS;

#[tokio::test]
async fn what_is_not_an_id_is_refused_by_name() {
    let long = "a".repeat(60_000);
    let ids = [
        "",
        "urn:uuid:0de50000-0000-4000-8000-000000000001",
        "{0de50000-0000-4000-8000-000000000001}",
        "0de50000000040008000000000000001",
        &long,
    ];
    // As a database, these are names.
    let names = [
        "orders",
        "../organization",
        "0de50000-0000-4000-8000-000000000001/../..",
        "%2e%2e%2forganization",
        "0de50000-0000-4000-8000-00000000000%2e%2e",
        "0de50000-0000-4000-8000-00000000000g",
    ];
    let mut cases = Vec::new();
    // In the others is an id.
    for id in ids.into_iter().filter(|id| !id.contains("-0000-")) {
        cases.push((LIST, json!({ "databaseId": id }), "databaseId"));
        let add = json!({ "databaseId": id, "name": "n", "message": "m" });
        cases.push((ADD, add, "databaseId"));
    }
    for id in ids.into_iter().chain(names) {
        // An empty one is left out of a list.
        if !id.is_empty() {
            cases.push((
                LIST,
                json!({ "databaseId": ID, "backupId": id }),
                "backupId",
            ));
        }
        let remove = json!({ "databaseId": ID, "backupId": id });
        cases.push((REMOVE, remove, "backupId"));
        let several = json!({ "databaseId": ID, "backupIds": [ID, id] });
        cases.push((REMOVE, several, "backupIds[1]"));
    }
    for text in refusals(cases).await {
        let shows_the_form = text.contains("123e4567-e89b-12d3-a456-426614174000");
        let is_missing = text.contains("missing field `backupId`");
        assert!(shows_the_form || is_missing, "{text}");
    }
}

#[tokio::test]
async fn missing_empty_long_wrong_and_unknown_arguments_are_refused_by_name() {
    let (long_name, long_message) = ("x".repeat(256), "x".repeat(4_001));
    let long = "x".repeat(60_000);
    let many = vec![ID; 51];
    let mut cases = vec![
        (LIST, json!({ "databaseId": null }), "databaseId"),
        (LIST, json!({ "databaseId": 7 }), "databaseId"),
        (LIST, json!({ "databaseId": [ID] }), "databaseId"),
    ];
    for (tool, more, argument) in [
        (LIST, json!({ "verbose": long }), "verbose"),
        (LIST, json!({ "database_id": ID }), "database_id"),
        (ADD, json!({ "message": "m" }), "name"),
        (ADD, json!({ "name": "", "message": "m" }), "name"),
        (ADD, json!({ "name": " \u{200b} " }), "and has 0"),
        (ADD, json!({ "name": "n", "body": [] }), "body"),
        (ADD, json!({ "name": long_name, "message": "m" }), "name"),
        (
            ADD,
            json!({ "name": "n", "message": long_message }),
            "message",
        ),
        (ADD, json!({ "name": {}, "message": "m" }), "name"),
        (ADD, json!({ "body": { "message": "m" } }), "name"),
        (
            ADD,
            json!({ "body": { "name": "n", "message": "m", "x": 1 } }),
            "x",
        ),
        (REMOVE, json!({}), "backupId"),
        (
            REMOVE,
            json!({ "backupId": ID, "backupIds": [ID, ID] }),
            "`backupIds`",
        ),
        (REMOVE, json!({ "backupIds": [] }), "1 to 50"),
        (REMOVE, json!({ "backupIds": many }), "has 51"),
        (REMOVE, json!({ "backupIds": "all" }), "backupIds[0]"),
        (REMOVE, json!({ "backupIds": { "id": ID } }), "backupIds"),
        (REMOVE, of_n8n("action", &json!("preview")), "action"),
        (REMOVE, of_n8n("chatInput", &json!(5)), "chatInput"),
        (REMOVE, of_n8n("tool", &json!({ "dryRun": true })), "tool"),
        (REMOVE, of_n8n("metadata", &json!("x")), "metadata"),
        (
            REMOVE,
            json!({ "backupId": ID, "action": "sendMessage" }),
            "action",
        ),
        (
            REMOVE,
            json!({ "backupId": ID, "metadata": {} }),
            "metadata",
        ),
        (REMOVE, json!({ "backupId": ID, "force": true }), "force"),
        (
            REMOVE,
            json!({ "backupId": ID, "\u{202e}evil\u{202c}": 1 }),
            "evil",
        ),
    ] {
        let mut arguments = more;
        arguments["databaseId"] = json!(ID);
        cases.push((tool, arguments, argument));
    }
    let two = format!("{ID}, {}", Sandbox::SESSIONS);
    cases.push((LIST, json!({ "databaseId": two }), "one database a call"));
    for text in refusals(cases).await {
        lacks(&text, ["\u{202e}"]);
    }
}

#[tokio::test]
async fn filters_that_cannot_be_read_are_refused_by_name() {
    let with = |more: Value, argument| {
        let mut arguments = more;
        arguments["databaseId"] = json!(ID);
        (LIST, arguments, argument)
    };
    let cases = [
        (json!({ "startId": ID }), "use `createdBefore`"),
        (json!({ "start_id": null }), "use `createdBefore`"),
        (
            json!({ "createdBefore": "yesterday" }),
            "count from the `now`",
        ),
        (
            json!({ "createdBefore": "2026-11-14T09:00 CET" }),
            "createdBefore: must be a date",
        ),
        (
            json!({ "createdAfter": "1999-12-31" }),
            "createdAfter: must be a date",
        ),
        (json!({ "createdAfter": 1_772_332_200 }), "createdAfter"),
        (
            json!({ "created_before": "2026-11-14" }),
            "`created_before`",
        ),
        (json!({ "condition": "good" }), "condition: unknown variant"),
        (
            json!({ "backupId": ID, "createdBefore": "2026-11-14" }),
            "beside `backupId`",
        ),
        (
            json!({ "backupId": ID, "createdAfter": "2026-11-14" }),
            "beside `backupId`",
        ),
        (
            json!({ "backupId": ID, "condition": "failed" }),
            "beside `backupId`",
        ),
    ];
    refusals(cases.map(|(more, argument)| with(more, argument)).into()).await;
}

/// A removal with an argument beside the id of a call of n8n.
fn of_n8n(name: &str, value: &Value) -> Value {
    json!({ "backupId": ID, "toolCallId": "call_1", name: value })
}

/// Makes every call in every mode. Each is refused in-band in a short text that names the argument,
/// without a request to the upstream.
async fn refusals(cases: Vec<(&str, Value, &str)>) -> Vec<String> {
    let upstream = Upstream::always(page(&backups(1))).await;
    let app = upstream.app();
    let mut texts = Vec::new();
    for mode in MODES {
        let mut client = Client::start(&app, mode, &[], json!({})).await;
        for (tool, arguments, argument) in &cases {
            let text = client.refused(tool, arguments.clone()).await;
            contains(&text, [argument, "nothing was changed"]);
            assert!(text.len() < 700, "{text}");
            texts.push(text);
        }
    }
    assert_eq!(upstream.requests().len(), 0);
    texts
}
