//! What a model can do: the three tools, in both eras.

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    app::{TestApp, sandbox_session},
    clients::{ADD, Client, ERAS, Era, LIST, MODES, REMOVE, order, orders},
    expect::contains,
    upstreams::{Upstream, backup_id, json_reply},
};

#[tokio::test]
async fn the_contract_of_the_tools_and_the_instructions() {
    let mut handshake = sandbox_session(Era::Handshake, &[]).await;
    let tools = handshake.request("tools/list", json!({})).await["result"].clone();
    insta::assert_json_snapshot!("tools", tools);

    let mut stateless = sandbox_session(Era::Stateless, &[]).await;
    let result = stateless.request("tools/list", json!({})).await["result"].clone();
    assert_eq!(result["tools"], tools["tools"]);
    assert_eq!(
        (&result["ttlMs"], &result["cacheScope"]),
        (&json!(3_600_000), &json!("public"))
    );
}

#[tokio::test]
async fn the_server_introduces_itself() {
    let answer = TestApp::new(&[])
        .spawn(Era::Handshake, &["--sandbox"])
        .open()
        .await;
    let instructions = answer["result"]["instructions"].as_str().unwrap();
    insta::assert_snapshot!("instructions", instructions);
    assert!(instructions.split_whitespace().count() <= 170);
    let server = &answer["result"]["serverInfo"];
    assert_eq!(server["name"], "qovery-backups-mcp");
    assert_eq!(server["version"], env!("CARGO_PKG_VERSION"));
    assert!(server["title"].is_string() && server["description"].is_string());
    let icon = server["icons"][0]["src"].as_str().unwrap();
    assert!(icon.starts_with("data:image/svg+xml;base64,"));

    let discovered = TestApp::new(&[])
        .spawn(Era::Stateless, &["--sandbox"])
        .open()
        .await;
    let discovered = &discovered["result"];
    assert_eq!(discovered["instructions"], instructions);
    assert_eq!(
        discovered["_meta"]["io.modelcontextprotocol/serverInfo"],
        answer["result"]["serverInfo"]
    );
    let versions = discovered["supportedVersions"].as_array().unwrap();
    assert!(versions.contains(&json!("2026-07-28")) && versions.contains(&json!("2025-06-18")));
}

/// The list has one page, so that nobody has a cursor for another.
#[tokio::test]
async fn a_cursor_that_nobody_gave_is_refused() {
    for era in ERAS {
        let mut session = sandbox_session(era, &[]).await;
        let answer = session
            .request("tools/list", json!({ "cursor": "abc" }))
            .await;
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
        for none in [json!(null), json!("")] {
            let answer = session
                .request("tools/list", json!({ "cursor": none }))
                .await;
            assert_eq!(answer["result"]["tools"].as_array().unwrap().len(), 3);
        }
    }
}

#[tokio::test]
async fn every_result_of_the_stateless_era_names_the_server() {
    let mut session = sandbox_session(Era::Stateless, &[]).await;
    let results = [
        session.request("tools/list", json!({})).await["result"].clone(),
        session.call(LIST, orders()).await,
        session.call(LIST, json!({})).await,
    ];
    for result in results {
        let server = &result["_meta"]["io.modelcontextprotocol/serverInfo"];
        assert_eq!(server["name"], "qovery-backups-mcp", "{result}");
        assert_eq!(result["resultType"], "complete", "{result}");
    }
    let mut session = sandbox_session(Era::Handshake, &[]).await;
    let result = session.call(LIST, orders()).await;
    assert!(
        result["_meta"].is_null() && result["resultType"].is_null(),
        "{result}"
    );
}

#[tokio::test]
async fn a_status_is_short_unless_it_is_asked_for() {
    let mut session = sandbox_session(Era::Handshake, &[]).await;
    let short = session.ok(LIST, orders()).await["backups"][0].clone();
    assert_eq!(short["state"], "READY");
    assert!(short["status"].is_null(), "{short}");

    let verbose = json!({ "databaseId": Sandbox::ORDERS, "verbose": true });
    let whole = session.ok(LIST, verbose).await["backups"][0]["status"].clone();
    assert!(
        whole["steps"]["details"][0]["step_name"].is_string(),
        "{whole}"
    );
    assert_eq!(whole["status_details"]["action"], "DEPLOY");
}

#[tokio::test]
async fn what_others_wrote_arrives_without_hidden_characters() {
    let mut session = sandbox_session(Era::Handshake, &[]).await;
    let list = session.ok(LIST, orders()).await.to_string();
    assert!(list.contains("before-migration 🚀"));
    assert!(list.contains("\"نسخة احتياطية قبل الترقية\""));
}

#[tokio::test]
async fn unknown_fields_and_states_pass_and_absent_ones_are_no_error() {
    let strange = json!({
        "id": backup_id(1), "created_at": "2026-06-01T00:00:00Z", "size": { "gb": 1.5 },
        "status": { "state": "HIBERNATING" }
    });
    let bare = json!({ "id": backup_id(2), "created_at": "2026-06-02T00:00:00Z" });
    let body = json!({ "page": 1, "page_size": 20, "results": [strange, bare], "total": 2 });
    let upstream = Upstream::always(json_reply("200 OK", &body)).await;
    let mut session = upstream.app().session(Era::Handshake, &[]).await;
    let list = session.ok(LIST, orders()).await;
    let told = json!([
        {
            "id": backup_id(2), "created_at": "2026-06-02T00:00:00Z", "condition": "unknown",
            "protected": "newest",
        },
        {
            "id": backup_id(1), "created_at": "2026-06-01T00:00:00Z", "condition": "unknown",
            "state": "HIBERNATING", "size": { "gb": 1.5 },
        },
    ]);
    assert_eq!(list["backups"], told);
    assert!(list.get("next_start_id").is_none(), "{list}");

    let nothing = Upstream::always(json_reply("200 OK", &json!({ "page": 1, "page_size": 20 })));
    let upstream = nothing.await;
    let mut session = upstream.app().session(Era::Handshake, &[]).await;
    let list = session.ok(LIST, orders()).await;
    assert_eq!(list["backups"], json!([]));
    let note = list["note"].as_str().unwrap();
    assert!(note.contains("may have snapshots"), "{list}");
}

#[tokio::test]
async fn an_added_backup_is_made_in_the_background() {
    for era in ERAS {
        let mut session = sandbox_session(era, &[]).await;
        let arguments = json!({
            "databaseId": Sandbox::ORDERS.to_uppercase(), "name": "é".repeat(255), "message": ""
        });
        let added = session.ok(ADD, arguments).await;
        let as_told = [&added["condition"], &added["state"]];
        assert_eq!(as_told, ["in_progress", "QUEUED"]);
        let note = added["note"].as_str().unwrap();
        assert!(note.contains(LIST), "{added}");
        let list = session.ok(LIST, orders()).await;
        assert_eq!(list["backups"][0]["id"], added["id"]);
        assert_eq!(list["summary"]["in_progress"], 1, "{list}");
    }
}

#[tokio::test]
async fn an_add_takes_the_form_of_the_capability_too() {
    let mut session = sandbox_session(Era::Handshake, &[]).await;
    let body = json!({ "name": "n", "message": "m" });
    let mut arguments = json!({ "databaseId": Sandbox::ORDERS, "body": body });
    let added = session.ok(ADD, arguments.clone()).await;
    assert_eq!(
        (&added["name"], &added["message"]),
        (&json!("n"), &json!("m"))
    );
    arguments["name"] = json!("other");
    assert!(session.refused(ADD, arguments).await.contains("`body`"));
}

#[tokio::test]
async fn an_old_backup_is_removed_once() {
    for era in ERAS {
        let mut session = sandbox_session(era, &[]).await;
        let arguments = order(3);
        let removed = session.ok(REMOVE, arguments.clone()).await;
        assert_eq!(
            (&removed["outcome"], &removed["remaining"]),
            (&json!("removed"), &json!(26))
        );
        let mut gone = removed["backups"][0].clone();
        assert!(gone["created_at"].take().is_string(), "{removed}");
        let id = backup_id(3);
        let told = json!({
            "id": id, "name": "nightly-03", "created_at": null, "outcome": "removed"
        });
        assert_eq!(gone, told);
        let text = session.refused(REMOVE, arguments).await;
        assert!(text.contains("is not in the list") && text.contains("Nothing was removed"));
    }
}

#[tokio::test]
async fn the_newest_backups_stay() {
    let remove =
        |database: &str, number| json!({ "databaseId": database, "backupId": backup_id(number) });
    let mut session = sandbox_session(Era::Handshake, &[]).await;
    let text = session.refused(REMOVE, remove(Sandbox::ORDERS, 27)).await;
    contains(
        &text,
        ["is protected: it is the newest one. Nothing was removed"],
    );
    let text = session
        .refused(REMOVE, remove(Sandbox::SESSIONS, 101))
        .await;
    contains(&text, ["is protected"]);

    // Number 24 has failed; 25 to 27 have not.
    let mut session = sandbox_session(Era::Handshake, &["--keep-latest", "3"]).await;
    for number in 25..=27 {
        let text = session
            .refused(REMOVE, remove(Sandbox::ORDERS, number))
            .await;
        contains(&text, ["one of the 3 newest"]);
    }
    session.ok(REMOVE, remove(Sandbox::ORDERS, 24)).await;

    let mut session = sandbox_session(Era::Handshake, &["--keep-latest=0"]).await;
    let text = session
        .refused(REMOVE, remove(Sandbox::SESSIONS, 101))
        .await;
    contains(&text, ["the newest one that has not failed"]);
}

#[tokio::test]
async fn a_backup_of_another_database_is_not_removed() {
    let mut session = sandbox_session(Era::Handshake, &[]).await;
    let arguments = json!({ "databaseId": Sandbox::SESSIONS, "backupId": backup_id(3) });
    let text = session.refused(REMOVE, arguments).await;
    contains(&text, ["is not in the list of database"]);
}

#[tokio::test]
async fn read_only_lists_and_does_nothing_else() {
    let sandbox = Sandbox::start().await.unwrap();
    let app = TestApp::with_upstream(&sandbox.base_url());
    for mode in MODES {
        let mut client = Client::start(&app, mode, &["--read-only"], json!({})).await;
        let tools = client.request("tools/list", json!({})).await;
        let tools = tools["result"]["tools"].as_array().unwrap();
        assert_eq!((&tools[0]["name"], tools.len()), (&json!(LIST), 1));
        let before = sandbox.requests();
        for (tool, arguments) in [(ADD, json!({ "databaseId": "x" })), (REMOVE, json!({}))] {
            let text = client.refused(tool, arguments).await;
            contains(&text, ["read-only mode"]);
        }
        assert_eq!(sandbox.requests(), before);
        client.ok(LIST, orders()).await;
    }
}
