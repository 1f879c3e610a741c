//! Arguments that do not fit: an in-band error that names the argument, and no upstream request.

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::helpers::{ERAS, TestApp};

const LIST: &str = "list-database-backups";
const ADD: &str = "add-backup-database";
const REMOVE: &str = "remove-database-backup";

const ID: &str = Sandbox::ORDERS;

#[tokio::test]
async fn what_is_not_an_id_is_refused_by_name() {
    let long = "a".repeat(1 << 20);
    let ids = [
        "",
        "urn:uuid:0de50000-0000-4000-8000-000000000001",
        "{0de50000-0000-4000-8000-000000000001}",
        "0de50000000040008000000000000001",
        &long,
    ];
    // Of a database, these are names.
    let names = [
        "orders",
        "../organization",
        "0de50000-0000-4000-8000-000000000001/../..",
        "%2e%2e%2forganization",
        "0de50000-0000-4000-8000-00000000000%2e%2e",
        "0de50000-0000-4000-8000-00000000000g",
        " 0de50000-0000-4000-8000-000000000001",
    ];
    let mut cases = Vec::new();
    for id in ids {
        cases.push((LIST, json!({ "databaseId": id }), "databaseId"));
        let add = json!({ "databaseId": id, "name": "n", "message": "m" });
        cases.push((ADD, add, "databaseId"));
    }
    let padded = names[names.len() - 1];
    let ids = ids.into_iter().chain(names).filter(|id| *id != padded);
    for id in ids {
        for argument in ["startId", "backupId"]
            .into_iter()
            .filter(|_| !id.is_empty())
        {
            let list = json!({ "databaseId": ID, argument: id });
            cases.push((LIST, list, argument));
        }
        let remove = json!({ "databaseId": ID, "backupId": id });
        cases.push((REMOVE, remove, "backupId"));
        let several = json!({ "databaseId": ID, "backupIds": [ID, id] });
        cases.push((REMOVE, several, "backupIds[1]"));
    }
    for text in refusals(cases).await {
        assert!(
            text.contains("missing field `backupId`")
                || text.contains("123e4567-e89b-12d3-a456-426614174000"),
            "shows the form: {text}"
        );
    }
}

#[tokio::test]
async fn missing_empty_long_wrong_and_unknown_arguments_are_refused_by_name() {
    let add =
        |name: Value, message: Value| json!({ "databaseId": ID, "name": name, "message": message });
    let hidden = json!({ "databaseId": ID, "backupId": ID, "\u{202e}evil\u{202c}": 1 });
    let texts = refusals(vec![
        (LIST, json!({}), "databaseId"),
        (LIST, json!({ "databaseId": null }), "databaseId"),
        (LIST, json!({ "databaseId": 7 }), "databaseId"),
        (LIST, json!({ "databaseId": [ID] }), "databaseId"),
        (
            LIST,
            json!({ "databaseId": ID, "verbose": "x".repeat(1 << 20) }),
            "verbose",
        ),
        (
            LIST,
            json!({ "databaseId": ID, "database_id": ID }),
            "database_id",
        ),
        (REMOVE, hidden, "evil"),
        (ADD, json!({ "databaseId": ID, "message": "m" }), "name"),
        (ADD, add(json!(""), json!("m")), "name"),
        (ADD, add(json!("x".repeat(256)), json!("m")), "name"),
        (ADD, add(json!("n"), json!("x".repeat(4001))), "message"),
        (ADD, add(json!({}), json!("m")), "name"),
        (
            ADD,
            json!({ "databaseId": ID, "body": { "name": "n" } }),
            "message",
        ),
        (
            ADD,
            json!({ "databaseId": ID, "body": { "name": "n", "message": "m", "x": 1 } }),
            "x",
        ),
        (
            LIST,
            json!({ "databaseId": ID, "backupId": ID, "startId": ID }),
            "`startId`",
        ),
        (REMOVE, json!({ "databaseId": ID }), "backupId"),
        (
            REMOVE,
            json!({ "databaseId": ID, "backupId": ID, "backupIds": [ID] }),
            "`backupIds`",
        ),
        (
            REMOVE,
            json!({ "databaseId": ID, "backupIds": [] }),
            "1 to 20",
        ),
        (
            REMOVE,
            json!({ "databaseId": ID, "backupIds": vec![ID; 21] }),
            "has 21",
        ),
        (
            REMOVE,
            json!({ "databaseId": ID, "backupIds": ID }),
            "backupIds",
        ),
        (
            REMOVE,
            json!({ "databaseId": ID, "backupId": ID, "force": true }),
            "force",
        ),
    ])
    .await;
    for text in texts {
        assert!(!text.contains('\u{202e}'), "{text}");
    }
}

/// Makes every call in both eras. Each is refused in-band in a short text that names the argument,
/// and the upstream hears of none.
async fn refusals(cases: Vec<(&str, Value, &str)>) -> Vec<String> {
    let sandbox = Sandbox::start().await.unwrap();
    let mut texts = Vec::new();
    for era in ERAS {
        let mut session = TestApp::with_upstream(&sandbox.base_url())
            .session(era, &[])
            .await;
        for (tool, arguments, argument) in &cases {
            let text = session.refused(tool, arguments.clone()).await;
            assert!(text.contains(argument), "{argument} in: {text}");
            assert!(text.contains("nothing was changed"), "{text}");
            assert!(text.len() < 700, "{text}");
            texts.push(text);
        }
    }
    assert_eq!(sandbox.requests(), 0);
    texts
}
