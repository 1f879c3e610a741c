//! What a model can do: the three tools.

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::json;

use crate::{
    app::{TestApp, sandbox_session},
    clients::{ADD, Client, Era, LIST, MODES, REMOVE, order, orders},
    expect::{contains, lacks},
    upstreams::{Upstream, backup_id, backups, json_reply, page},
};

#[tokio::test]
async fn the_contract_of_the_tools_and_the_instructions() {
    let mut handshake = sandbox_session(Era::Handshake, &[]).await;
    let tools = handshake.request("tools/list", json!({})).await["result"].clone();
    insta::assert_json_snapshot!("tools", tools);

    let mut stateless = sandbox_session(Era::Stateless, &[]).await;
    let result = stateless.request("tools/list", json!({})).await["result"].clone();
    assert_eq!(result["tools"], tools["tools"]);
    assert_eq!(result["ttlMs"], 3_600_000);
    assert_eq!(result["cacheScope"], "public");
}

#[tokio::test]
async fn the_server_introduces_itself() {
    let app = TestApp::new(&[]);
    let answer = app.spawn(Era::Handshake, &["--sandbox"]).open().await;
    let instructions = answer["result"]["instructions"].as_str().unwrap();
    insta::assert_snapshot!("instructions", instructions);
    assert!(instructions.split_whitespace().count() <= 170);
    let server = &answer["result"]["serverInfo"];
    assert_eq!(server["name"], "qovery-backups-mcp");
    assert_eq!(server["version"], env!("CARGO_PKG_VERSION"));
    assert!(server["title"].is_string() && server["description"].is_string());
    let icon = server["icons"][0]["src"].as_str().unwrap();
    assert!(icon.starts_with("data:image/svg+xml;base64,"));

    let mut session = app.spawn(Era::Stateless, &["--sandbox"]);
    let discovered = &session.open().await["result"];
    assert_eq!(discovered["instructions"], instructions);
    let versions = discovered["supportedVersions"].as_array().unwrap();
    assert!(versions.contains(&json!("2026-07-28")) && versions.contains(&json!("2025-06-18")));
    // Every result of this era names the server.
    for result in [
        discovered.clone(),
        session.request("tools/list", json!({})).await["result"].clone(),
        session.call(LIST, orders()).await,
        session.call(LIST, json!({})).await,
    ] {
        let named = &result["_meta"]["io.modelcontextprotocol/serverInfo"];
        assert_eq!(named["name"], server["name"], "{result}");
        assert_eq!(result["resultType"], "complete", "{result}");
    }
    let mut session = sandbox_session(Era::Handshake, &[]).await;
    let result = session.call(LIST, orders()).await;
    assert!(result["_meta"].is_null() && result["resultType"].is_null());
}

#[tokio::test]
async fn a_list_is_sanitized_and_its_status_short_unless_it_is_verbose() {
    let mut session = sandbox_session(Era::Handshake, &[]).await;
    let list = session.ok(LIST, orders()).await;
    let arabic = "\"نسخة احتياطية قبل الترقية\"";
    contains(&list.to_string(), ["before-migration 🚀", arabic]);
    let short = &list["backups"][0];
    let mut fields: Vec<&String> = short.as_object().unwrap().keys().collect();
    fields.sort_unstable();
    let expected = [
        "condition",
        "created_at",
        "id",
        "message",
        "name",
        "protected",
    ];
    assert_eq!(fields, expected);

    let verbose = json!({ "databaseId": Sandbox::ORDERS, "verbose": true });
    let row = session.ok(LIST, verbose).await["backups"][0].clone();
    assert_eq!(row["state"], "READY");
    let whole = &row["status"];
    let step = &whole["steps"]["details"][0]["step_name"];
    assert!(step.is_string(), "{whole}");
    assert_eq!(whole["status_details"]["action"], "DEPLOY");
}

#[tokio::test]
async fn unknown_fields_and_states_pass_and_absent_ones_are_no_error() {
    let strange = json!({
        "id": backup_id(1), "created_at": "2026-06-01T00:00:00Z", "size": { "gb": 1.5 },
        "status": { "state": "HIBERNATING" }
    });
    let bare = json!({ "id": backup_id(2), "created_at": "2026-06-02T00:00:00Z" });
    let mut shapeless = bare.clone();
    shapeless["id"] = json!(backup_id(3));
    shapeless["created_at"] = json!("2026-05-31T19:30:00-05:00");
    shapeless["status"] = json!(["READY"]);
    shapeless["message"] = json!("é".repeat(300));
    let results = json!([strange, bare, shapeless]);
    let body = json!({ "page": 1, "page_size": 20, "results": results, "total": 3 });
    let upstream = Upstream::always(json_reply("200 OK", &body)).await;
    let mut session = upstream.app().session(Era::Handshake, &[]).await;
    let list = session.ok(LIST, orders()).await;
    let shown = json!([
        {
            "id": backup_id(2), "created_at": "2026-06-02T00:00:00Z", "condition": "unknown",
            "protected": "newest",
        },
        {
            "id": backup_id(3), "created_at": "2026-06-01T00:30:00Z", "condition": "unknown",
            "message": format!("{}…", "é".repeat(200)),
        },
        {
            "id": backup_id(1), "created_at": "2026-06-01T00:00:00Z", "condition": "unknown",
            "state": "HIBERNATING", "size": { "gb": 1.5 },
        },
    ]);
    assert_eq!(list["backups"], shown);
    // One backup is shown whole, and a status that is no object is no status.
    let one = json!({ "databaseId": Sandbox::ORDERS, "backupId": backup_id(3), "verbose": true });
    let one = session.ok(LIST, one).await["backups"][0].clone();
    assert_eq!(one["message"], "é".repeat(300));
    assert!(one.get("status").is_none(), "{one}");

    let nothing = json_reply("200 OK", &json!({ "page": 1, "page_size": 20 }));
    let upstream = Upstream::always(nothing).await;
    let mut session = upstream.app().session(Era::Handshake, &[]).await;
    let list = session.ok(LIST, orders()).await;
    assert_eq!(list["backups"], json!([]));
    contains(list["note"].as_str().unwrap(), ["may have snapshots"]);
}

#[tokio::test]
async fn an_added_backup_is_made_in_the_background() {
    let app = TestApp::new(&[]);
    for mode in MODES {
        let mut session = Client::start(&app, mode, &["--sandbox"], json!({})).await;
        let arguments = json!({
            "databaseId": Sandbox::ORDERS.to_uppercase(), "name": "é".repeat(255), "message": ""
        });
        let added = session.ok(ADD, arguments).await;
        assert_eq!(added["condition"], "in_progress");
        assert!(added.get("state").is_none(), "{added}");
        let note = added["note"].as_str().unwrap();
        contains(note, [LIST, "Each call waits up to 4 seconds."]);
        lacks(&added.to_string(), ["sandbox"]);
        let database = json!({ "id": Sandbox::ORDERS, "name": "orders" });
        assert_eq!(added["database"], database);
        let list = session.ok(LIST, orders()).await;
        assert_eq!(list["backups"][0]["id"], added["id"]);
        contains(list["note"].as_str().unwrap(), ["sandbox"]);
        assert_eq!(list["summary"]["in_progress"], 1, "{list}");

        // The form of the capability.
        let body = json!({ "name": "n", "message": "m" });
        let mut arguments = json!({ "databaseId": Sandbox::ORDERS, "body": body });
        let added = session.ok(ADD, arguments.clone()).await;
        assert_eq!([&added["name"], &added["message"]], ["n", "m"]);
        arguments["name"] = json!("other");
        contains(&session.refused(ADD, arguments).await, ["`body`"]);
    }
}

#[tokio::test]
async fn an_old_backup_is_removed_once() {
    let app = TestApp::new(&[]);
    for mode in MODES {
        let mut session = Client::start(&app, mode, &["--sandbox"], json!({})).await;
        let mut report = session.ok(REMOVE, order(3)).await;
        assert!(report["backups"][0]["created_at"].take().is_string());
        let gone = json!({
            "id": backup_id(3), "name": "nightly-03", "created_at": null, "outcome": "removed"
        });
        let expected = json!({
            "outcome": "removed", "consent": "not_asked", "backups": [gone], "remaining": 26,
            "note": "This server asked no person: the client cannot show a question, and no dialog can \
                     be shown here.",
        });
        assert_eq!(report, expected);
        let text = session.refused(REMOVE, order(3)).await;
        contains(&text, ["is not in the list", "Nothing was removed"]);
    }
}

#[tokio::test]
async fn the_newest_backups_and_those_of_other_databases_stay() {
    for (keep, database, number, text) in [
        (
            "1",
            Sandbox::ORDERS,
            27,
            "is protected: it is the newest one, and finished. Nothing was removed",
        ),
        ("1", Sandbox::SESSIONS, 101, "is protected"),
        ("1", Sandbox::SESSIONS, 3, "is not in the list of database"),
        // Number 24 has failed; 25 to 27 have not.
        ("3", Sandbox::ORDERS, 27, "one of the 3 newest"),
        ("3", Sandbox::ORDERS, 25, "one of the 3 newest"),
        ("0", Sandbox::SESSIONS, 101, "it is the only one"),
    ] {
        let mut session = sandbox_session(Era::Handshake, &["--keep-latest", keep]).await;
        let arguments = json!({ "databaseId": database, "backupId": backup_id(number) });
        contains(&session.refused(REMOVE, arguments).await, [text]);
        session.ok(REMOVE, order(24)).await;
    }
}

#[tokio::test]
async fn read_only_lists_and_does_nothing_else() {
    let upstream = Upstream::always(page(&backups(1))).await;
    let app = upstream.app();
    for mode in MODES {
        let mut client = Client::start(&app, mode, &["--read-only"], json!({})).await;
        let tools = client.request("tools/list", json!({})).await;
        let tools = tools["result"]["tools"].as_array().unwrap();
        assert_eq!((&tools[0]["name"], tools.len()), (&json!(LIST), 1));
        let before = upstream.requests().len();
        for (tool, arguments) in [(ADD, json!({ "databaseId": "x" })), (REMOVE, json!({}))] {
            let text = client.refused(tool, arguments).await;
            contains(&text, ["read-only mode"]);
        }
        assert_eq!(upstream.requests().len(), before);
        client.ok(LIST, orders()).await;
    }
}
