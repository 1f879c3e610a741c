//! Known faults and strict readings of hosts, SDKs and converters, over standard input and HTTP: they are
//! corrected, or answered with what is wrong.

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::{
    app::{TestApp, sandbox_session, serve_sandbox},
    clients::{Client, ERAS, Era},
    connection::{Connection, Request, backups_of},
    upstreams::{Upstream, backup, backup_id, page},
};

const LIST: &str = "list-database-backups";
const ADD: &str = "add-backup-database";
const REMOVE: &str = "remove-database-backup";
const ID: &str = Sandbox::ORDERS;
const ONE: &str = "bac00000-0000-4000-8000-000000000001";

/// A message, in which `{meta}` stands for what a request of 2026-07-28 carries.
fn of_era(message: &str, era: Era) -> String {
    let meta = match era {
        Era::Handshake => "",
        Era::Stateless => {
            r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#
        }
    };
    message.replace("{meta}", meta)
}

/// The answers to a message, in each era: over standard input, and over HTTP.
async fn answers(message: &str) -> Vec<Value> {
    let mut answers = Vec::new();
    let server = serve_sandbox(&[]).await;
    for era in ERAS {
        let message = of_era(message, era);
        let mut session = sandbox_session(era, &[]).await;
        session.send(message.as_bytes()).await;
        answers.push(session.receive().await);
        let client = Client::over_http(&server, era, None);
        let request = client.raw(message).header("Mcp-Method", "tools/call");
        let request = request.header("Mcp-Name", LIST);
        answers.push(request.send(server.mcp).await.message());
    }
    answers
}

/// The results of a call of the list with these arguments, as they are written.
async fn lists(arguments: &str) -> Vec<Value> {
    let message = format!(
        r#"{{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{{"name":"{LIST}","arguments":{arguments}{{meta}}}}}}"#
    );
    let answers = answers(&message).await;
    answers
        .into_iter()
        .inspect(|answer| assert_eq!(answer["id"], "a", "{answer}"))
        .map(|answer| answer["result"].clone())
        .collect()
}

async fn is_listed(arguments: &str) {
    for result in lists(arguments).await {
        assert_eq!(result["isError"], false, "{arguments}: {result}");
        assert_eq!(result["structuredContent"]["summary"]["total"], 27);
    }
}

#[tokio::test]
async fn scalars_and_objects_may_come_as_text_and_empty_ones_are_left_out() {
    for rest in [
        r#""startId":"""#,
        r#""startId":"null""#,
        r#""startId":null"#,
        r#""backupId":" ""#,
        r#""verbose":"""#,
        r#""verbose":"FALSE""#,
        r#""verbose":" True ""#,
    ] {
        is_listed(&format!(r#"{{"databaseId":"{ID}",{rest}}}"#)).await;
    }
    is_listed(&format!(r#"{{"databaseId":" `{ID}`\n"}}"#)).await;
    is_listed(&json!(json!({ "databaseId": ID }).to_string()).to_string()).await;
    for nothing in ["[]", "null", "{}", r#""{}""#] {
        for result in lists(nothing).await {
            let text = result["content"][0]["text"].as_str().unwrap();
            assert!(text.contains("missing field `databaseId`"), "{text}");
        }
    }
    // Nothing else is guessed.
    for (rest, argument) in [
        (r#""verbose":"yes""#, "verbose"),
        (r#""verbose":1"#, "verbose"),
        (r#""startId":0"#, "startId"),
        (r#""startId":[]"#, "startId"),
    ] {
        for result in lists(&format!(r#"{{"databaseId":"{ID}",{rest}}}"#)).await {
            let text = result["content"][0]["text"].as_str().unwrap();
            assert!(text.contains(argument), "{rest}: {text}");
        }
    }
}

#[tokio::test]
async fn ids_are_trimmed_and_a_body_may_be_text() {
    for era in ERAS {
        let mut session = sandbox_session(era, &[]).await;
        let body = json!({ "name": "by text", "message": "m" }).to_string();
        let add = json!({ "databaseId": format!("\"{ID}\""), "body": body });
        assert_eq!(session.ok(ADD, add).await["name"], "by text");
        let add = json!({ "databaseId": ID, "name": "n", "message": "" });
        session.ok(ADD, add).await;
        let padded = [format!(" '{ONE}' "), format!("`{}`", backup_id(2))];
        let remove = json!({ "databaseId": ID, "backupIds": padded, "backupId": "" });
        assert_eq!(session.ok(REMOVE, remove).await["outcome"], "removed");
        // What is required is not left out, and text is text.
        let add = json!({ "databaseId": ID, "name": "" });
        assert!(session.refused(ADD, add).await.contains("name: "));
        let add = json!({ "databaseId": ID, "name": "null", "message": "true" });
        let added = session.ok(ADD, add).await;
        assert_eq!(
            (&added["name"], &added["message"]),
            (&json!("null"), &json!("true"))
        );
        let body = json!({ "databaseId": ID, "body": "name" });
        assert!(session.refused(ADD, body).await.contains("body"));
        let add = json!({ "databaseId": ID, "name": "n", "message": "null", "body": "" });
        assert_eq!(session.ok(ADD, add).await["message"], "null");
    }
}

#[tokio::test]
async fn a_list_ignores_added_arguments_and_a_change_refuses_unknown_ones() {
    for rest in [
        r#""task_progress":"- [x] a""#,
        r#""toolCallId":"call_1","sessionId":"s","action":"sendMessage","chatInput":"x""#,
        r#""tool":"list","metadata":{"a":[1]}"#,
        r#""limit":20,"dryRun":true,"force":false,"page":null"#,
    ] {
        is_listed(&format!(r#"{{"databaseId":"{ID}",{rest}}}"#)).await;
    }
    let near = [
        "databaseid",
        "database_id",
        "database",
        "backup_id",
        "BackupID",
        "start_id",
        "backupIds",
    ];
    for near in near {
        for result in lists(&format!(r#"{{"databaseId":"{ID}","{near}":"x"}}"#)).await {
            let text = result["content"][0]["text"].as_str().unwrap();
            assert!(text.contains(&format!("`{near}`")), "{text}");
        }
    }
    for era in ERAS {
        let mut session = sandbox_session(era, &[]).await;
        for unknown in [
            "dryRun",
            "force",
            "backup_id",
            "confirm",
            "task_progres",
            "session_id",
        ] {
            let remove = json!({ "databaseId": ID, "backupId": ONE, unknown: true });
            assert!(session.refused(REMOVE, remove).await.contains(unknown));
            let add = json!({ "databaseId": ID, "name": "n", unknown: true });
            assert!(session.refused(ADD, add).await.contains(unknown));
        }
        let mut known = json!({
            "task_progress": "- [ ] b", "sessionId": "s", "action": "a", "chatInput": "c",
            "toolCallId": "t", "tool": { "name": "x" }, "metadata": {}, "databaseId": ID,
        });
        known["name"] = json!("n");
        session.ok(ADD, known.clone()).await;
        known.as_object_mut().unwrap().remove("name");
        known["backupId"] = json!(ONE);
        assert_eq!(session.ok(REMOVE, known).await["outcome"], "removed");
    }
}

#[tokio::test]
async fn an_invalid_request_is_answered_with_its_id() {
    let call = |params: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{params}}}"#)
    };
    for (message, code, id, words) in [
        (
            call(r#"{"name":5{meta}}"#),
            -32602,
            "7",
            "tools/call are malformed",
        ),
        (
            call(r#"{"arguments":{}{meta}}"#),
            -32602,
            "7",
            "tools/call are malformed",
        ),
        (
            call(&format!(r#"{{"name":"{LIST}","arguments":[1]{{meta}}}}"#)),
            -32602,
            "7",
            "tools/call are malformed",
        ),
        (call("3"), -32602, "7", "tools/call are malformed"),
        (
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/list","params":"x"}"#.to_owned(),
            -32602,
            "\"a\"",
            "tools/list are malformed",
        ),
        (
            r#"{"jsonrpc":"2.0","id":5,"method":"tools/list","params":{"cursor":5}}"#.to_owned(),
            -32602,
            "5",
            "tools/list are malformed",
        ),
        (
            r#"{"jsonrpc":"2.0","id":6,"method":"ping","result":{}}"#.to_owned(),
            -32600,
            "6",
            "not one JSON-RPC message",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#.to_owned(),
            -32600,
            "1.5",
            "not one JSON-RPC message",
        ),
        (
            r#"{"jsonrpc":"2.0","id":9223372036854775808,"method":"ping"}"#.to_owned(),
            -32600,
            "9223372036854775808",
            "not one JSON-RPC message",
        ),
        (
            r#"{"jsonrpc":"1.0","id":3,"method":"ping"}"#.to_owned(),
            -32600,
            "3",
            "not one JSON-RPC message",
        ),
        (
            r#"{"id":3,"method":"ping"}"#.to_owned(),
            -32600,
            "3",
            "not one JSON-RPC message",
        ),
        (
            r#"{"jsonrpc":"2.0","id":4}"#.to_owned(),
            -32600,
            "4",
            "not one JSON-RPC message",
        ),
    ] {
        for answer in answers(&message).await {
            assert_eq!(
                answer["id"],
                serde_json::from_str::<Value>(id).unwrap(),
                "{answer}"
            );
            assert_eq!(answer["error"]["code"], code, "{message}: {answer}");
            let text = answer["error"]["message"].as_str().unwrap();
            assert!(text.contains(words), "{message}: {text}");
        }
    }
    let server = serve_sandbox(&[]).await;
    let client = Client::over_http(&server, Era::Handshake, None);
    let answer = client
        .raw(r#"{"id":9,"method":tru}"#)
        .send(server.mcp)
        .await;
    assert_eq!(answer.status, 400, "{answer:?}");
    let error = answer.json();
    assert_eq!(
        (&error["id"], &error["error"]["code"]),
        (&Value::Null, &json!(-32700))
    );
}

#[tokio::test]
async fn an_answer_in_the_style_of_json_rpc_1_is_read() {
    let mut session = TestApp::new(&[]).spawn(Era::Handshake, &["--sandbox"]);
    session.capabilities = json!({ "elicitation": {} });
    session.open().await;
    let remove = json!({ "databaseId": ID, "backupId": ONE });
    let call = session.send_call(REMOVE, remove).await;
    let question = session.receive().await;
    assert_eq!(question["method"], "elicitation/create", "{question}");
    let result = json!({ "action": "decline" });
    let answer = json!({ "id": question["id"], "result": result, "error": null });
    session.send(answer.to_string().as_bytes()).await;
    let answer = session.answer(call).await;
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("The host answered no"), "{answer}");
}

#[tokio::test]
async fn lists_and_nulls_of_php_are_nothing() {
    let whole =
        |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list"{params}}}"#);
    let mut session = sandbox_session(Era::Handshake, &[]).await;
    let server = serve_sandbox(&[]).await;
    let client = Client::over_http(&server, Era::Handshake, None);
    for params in [
        "",
        r#","params":[]"#,
        r#","params":null"#,
        r#","params":{"_meta":[]}"#,
        r#","params":{"_meta":null}"#,
    ] {
        session.send(whole(params).as_bytes()).await;
        assert_eq!(
            session.receive().await["result"]["tools"][2]["name"],
            REMOVE
        );
        let answer = client.raw(whole(params)).send(server.mcp).await;
        assert_eq!(answer.message()["result"]["tools"][2]["name"], REMOVE);
    }
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{LIST}","arguments":{{"databaseId":"{ID}"}},"_meta":[]}}}}"#
    );
    session.send(call.as_bytes()).await;
    assert_eq!(session.receive().await["result"]["isError"], false);
    // A notification is never answered, whatever it holds.
    for rest in [
        r#""method":"notifications/initialized","params":[]"#,
        r#""method":"notifications/cancelled","params":{"requestId":1.5}"#,
        r#""method":"notifications/x","params":7"#,
    ] {
        let notification = format!(r#"{{"jsonrpc":"2.0",{rest}}}"#);
        session.send(notification.as_bytes()).await;
        session.send(whole("").as_bytes()).await;
        assert_eq!(session.receive().await["id"], 1);
    }
    let odd = r#"{"jsonrpc":"1.0","method":"notifications/x"}"#;
    assert_eq!(client.raw(odd).send(server.mcp).await.status, 400);
    let silent = r#"{"jsonrpc":"2.0","method":"notifications/initialized","params":[]}"#;
    let answer = client.raw(silent).send(server.mcp).await;
    assert_eq!((answer.status, answer.body.len()), (202, 0));
}

#[tokio::test]
async fn the_last_line_needs_no_end() {
    let mut child = TestApp::new(&[]).command(&["--sandbox"]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let line = br#"{"jsonrpc":"2.0","id":"last","method":"ping"}"#;
    stdin.write_all(line).await.unwrap();
    drop(stdin);
    let finished = Client::over_stdio(child, Era::Handshake).finish().await;
    let answer: Value = serde_json::from_str(finished.stdout.trim()).unwrap();
    assert_eq!(answer["id"], "last", "{answer}");
    assert!(finished.status.success());
}

#[tokio::test]
async fn a_request_before_the_handshake_is_refused_with_how_to_begin() {
    let mut session = TestApp::new(&[]).spawn(Era::Handshake, &["--sandbox"]);
    let error = session.request("tools/list", json!({})).await["error"].clone();
    assert_eq!(error["code"], -32600, "{error}");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("begin with initialize"),
        "{error}"
    );
    session.open().await;
    assert!(session.request("tools/list", json!({})).await["result"].is_object());
}

/// The parameters of `initialize`, with these in place of its own.
fn initialize(fields: &Value) -> Value {
    let mut params = json!({
        "protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": { "name": "odd", "version": "1" },
    });
    for (name, value) in fields.as_object().unwrap() {
        if value == "-" {
            params.as_object_mut().unwrap().remove(name);
        } else {
            params[name] = value.clone();
        }
    }
    params
}

#[tokio::test]
async fn a_handshake_needs_no_more_of_a_client_than_this_server_does() {
    let capabilities = |value: Value| json!({ "capabilities": value });
    let client = |value: Value| json!({ "clientInfo": value });
    let cases = [
        capabilities(json!({ "experimental": { "x": true } })),
        capabilities(json!({ "experimental": { "x": "y", "z": {} } })),
        capabilities(json!({ "roots": true, "sampling": "yes", "tools": 5 })),
        capabilities(json!({ "elicitation": { "form": true } })),
        capabilities(json!({ "elicitation": [], "tasks": [] })),
        capabilities(json!({ "elicitation": {} , "extensions": {}, "tasks": {}, "odd": 1 })),
        capabilities(json!([])),
        capabilities(json!("-")),
        capabilities(json!(null)),
        client(json!({ "name": "n", "version": "1", "icons": [{ "src": "x", "sizes": "48x48" }] })),
        client(json!({ "name": "n" })),
        client(json!({ "name": "n", "version": 2 })),
        client(json!("-")),
        client(json!("me")),
        json!({ "protocolVersion": 20_250_618 }),
        json!({ "protocolVersion": null }),
        json!({ "protocolVersion": "-", "capabilities": "-", "clientInfo": "-" }),
        json!({ "_meta": [] }),
    ];
    for fields in cases {
        let params = initialize(&fields);
        let mut session = TestApp::new(&[]).spawn(Era::Handshake, &["--sandbox"]);
        let answer = session.request("initialize", params.clone()).await;
        assert!(
            answer["result"]["protocolVersion"].is_string(),
            "{fields}: {answer}"
        );
        let list = session.request("tools/list", json!({})).await;
        assert!(list["result"]["tools"].is_array(), "{fields}: {list}");
    }
    let server = serve_sandbox(&[]).await;
    for params in [
        initialize(&capabilities(json!({ "roots": true }))),
        json!([]),
        json!(null),
    ] {
        let mut client = Client::over_http(&server, Era::Handshake, None);
        let answer = client.post("initialize", params).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.message()["result"]["instructions"].is_string());
    }
    // The body decides what is spoken, not what the client spoke last.
    let mut client = Client::over_http(&server, Era::Handshake, None);
    let request = client.message("initialize", initialize(&json!({})));
    for version in ["2025-11-25", "2026-07-28", "1.0"] {
        let answer = request.clone().header("MCP-Protocol-Version", version);
        let answer = answer.send(server.mcp).await.message();
        assert_eq!(
            answer["result"]["protocolVersion"], "2025-06-18",
            "{version}: {answer}"
        );
    }
    let answer = client.post("initialize", json!("x")).await;
    let error = answer.message()["error"].clone();
    assert!(
        error["message"].as_str().unwrap().contains("initialize"),
        "{error}"
    );
}

#[tokio::test]
async fn a_stateless_initialize_is_an_unknown_method() {
    let server = serve_sandbox(&[]).await;
    let mut client = Client::over_http(&server, Era::Stateless, None);
    let answer = client.post("initialize", json!({})).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    assert_eq!(answer.json()["error"]["code"], -32601, "{answer:?}");
}

#[tokio::test]
async fn elicitation_counts_in_malformed_capabilities() {
    let remove = json!({ "name": REMOVE, "arguments": { "databaseId": ID, "backupId": ONE } });
    for says in [json!(true), json!([]), json!("form"), json!({ "form": [] })] {
        let mut session = TestApp::new(&[]).spawn(Era::Stateless, &["--sandbox"]);
        session.capabilities = json!({ "elicitation": says, "roots": "yes" });
        let answer = session.request("tools/call", remove.clone()).await;
        assert_eq!(answer["result"]["resultType"], "input_required", "{answer}");
        let mut session = TestApp::new(&[]).spawn(Era::Handshake, &["--sandbox"]);
        session.capabilities = json!({ "elicitation": says, "roots": "yes" });
        session.open().await;
        session.send_request("tools/call", remove.clone()).await;
        assert_eq!(session.receive().await["method"], "elicitation/create");
    }
    let server = serve_sandbox(&[]).await;
    let mut client = Client::over_http(&server, Era::Stateless, None);
    client.capabilities = json!({ "elicitation": true });
    let answer = client.request("tools/call", remove).await;
    assert_eq!(answer["result"]["resultType"], "input_required", "{answer}");
}

#[tokio::test]
async fn a_revision_gets_only_the_server_info_that_it_defines() {
    for (version, members) in [
        ("2024-11-05", &["name", "version"][..]),
        ("2025-03-26", &["name", "version"]),
        ("2025-06-18", &["name", "title", "version"]),
        (
            "2025-11-25",
            &["description", "icons", "name", "title", "version"],
        ),
    ] {
        let params = initialize(&json!({ "protocolVersion": version }));
        let mut session = TestApp::new(&[]).spawn(Era::Handshake, &["--sandbox"]);
        let server = serve_sandbox(&[]).await;
        let mut client = Client::over_http(&server, Era::Handshake, None);
        for answer in [
            session.request("initialize", params.clone()).await,
            client.post("initialize", params).await.message(),
        ] {
            let info = answer["result"]["serverInfo"].as_object().unwrap();
            let names: Vec<&String> = info.keys().collect();
            assert_eq!(names, members, "{version}");
        }
    }
}

/// The keywords that every host and every converter reads.
fn see_plain(schema: &Value, is_output: bool) {
    const KEYWORDS: [&str; 11] = [
        "type",
        "properties",
        "required",
        "description",
        "items",
        "enum",
        "minLength",
        "maxLength",
        "minimum",
        "maxItems",
        "minItems",
    ];
    for (keyword, value) in schema.as_object().unwrap() {
        let is_open = is_output && keyword == "additionalProperties" && *value == true;
        assert!(
            is_open || KEYWORDS.contains(&keyword.as_str()),
            "{keyword}: {value}"
        );
    }
    assert!(schema["type"].is_string(), "{schema}");
    if let Some(properties) = schema["properties"].as_object() {
        properties
            .values()
            .for_each(|property| see_plain(property, is_output));
    }
    if schema["type"] == "array" {
        see_plain(&schema["items"], is_output);
    }
}

#[tokio::test]
async fn schemas_are_plain() {
    for kept in ["0", "1", "7"] {
        let mut session = sandbox_session(Era::Handshake, &["--keep-latest", kept]).await;
        let tools = session.request("tools/list", json!({})).await["result"]["tools"].clone();
        for tool in tools.as_array().unwrap() {
            see_plain(&tool["inputSchema"], false);
            see_plain(&tool["outputSchema"], true);
        }
    }
}

#[tokio::test]
async fn dates_pass_as_qovery_writes_them() {
    for date in [
        "2026-01-01T00:00:00.123456",
        "2026-01-01T00:00:00+0000",
        "yesterday",
        "",
    ] {
        let mut one = backup(1, "READY");
        one["created_at"] = json!(date);
        one["status"]["last_deployment_date"] = json!("2026-01-02 03:04");
        let upstream = Upstream::always(page(&[one])).await;
        let mut session = TestApp::with_upstream(&upstream.url())
            .session(Era::Handshake, &[])
            .await;
        let list = session.ok(LIST, json!({ "databaseId": ID })).await;
        assert_eq!(list["backups"][0]["created_at"], date);
        assert_eq!(
            list["backups"][0]["last_deployment_date"],
            "2026-01-02 03:04"
        );
    }
}

#[tokio::test]
async fn every_accept_header_is_served() {
    let server = serve_sandbox(&[]).await;
    for era in ERAS {
        let mut client = Client::over_http(&server, era, None);
        for accept in [
            "*/*",
            "application/*",
            "application/json",
            "text/html, */*;q=0.1",
            "APPLICATION/JSON;q=0.5",
            "text/event-stream",
            "text/html",
            "",
        ] {
            let request = client
                .message("tools/list", json!({}))
                .header("Accept", accept);
            let answer = request.send(server.mcp).await;
            assert_eq!(answer.status, 200, "{accept}: {answer:?}");
        }
        // A client that accepts no events gets no progress.
        let mut call = json!({ "name": LIST, "arguments": { "databaseId": ID, "backupId": ONE } });
        call["_meta"] = json!({ "progressToken": 1 });
        let request = client
            .message("tools/call", call)
            .header("Accept", "application/json");
        let answer = request.send(server.mcp).await;
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let bare = Request::post(
        "/mcp",
        &json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }),
    );
    assert_eq!(bare.send(server.mcp).await.status, 200);
}

/// mcp-go 0.31 fails on an event without data.
#[tokio::test]
async fn every_event_has_data() {
    let server = serve_sandbox(&[]).await;
    for (era, removable) in [
        (Era::Handshake, [backup_id(1), backup_id(2)]),
        (Era::Stateless, [backup_id(3), backup_id(4)]),
    ] {
        let mut client = Client::over_http(&server, era, None);
        let remove = json!({ "databaseId": ID, "backupIds": removable });
        let mut call = json!({ "name": REMOVE, "arguments": remove });
        call["_meta"] = json!({ "progressToken": 1 });
        let answer = client.post("tools/call", call).await;
        let content_type = answer.header("content-type").unwrap_or_default();
        assert!(content_type.starts_with("text/event-stream"), "{answer:?}");
        let events = answer.text();
        for event in events.split("\n\n").filter(|event| !event.is_empty()) {
            let data = event.lines().find_map(|line| line.strip_prefix("data:"));
            assert!(data.is_some_and(|data| !data.trim().is_empty()), "{event}");
        }
    }
}

#[tokio::test]
async fn a_path_may_end_in_a_slash_and_discovery_needs_no_token() {
    let token = "an-access-token-of-a-test";
    let mut app = TestApp::new(&[]);
    app.variables
        .push(("QOVERY_BACKUPS_ACCESS_TOKEN", token.to_owned()));
    let server = app.serve(&["--sandbox"]).await;
    let mut client = Client::over_http(&server, Era::Stateless, Some(token));
    let list = client.message("tools/list", json!({}));
    let body = String::from_utf8(list.bytes(server.mcp))
        .unwrap()
        .replacen(" /mcp ", " /mcp/ ", 1);
    let mut connection = Connection::open(server.mcp).await;
    assert_eq!(
        connection.answer_to(body.as_bytes(), true).await.status,
        200
    );
    let path = format!("{}/?startId={ONE}", backups_of(ID));
    assert_eq!(
        server
            .rest(Request::get(&path).token(Some(token)))
            .await
            .status,
        200
    );
    assert_eq!(
        server.rest(Request::get("/openapi.json/")).await.status,
        200
    );
    assert_eq!(Request::get("/healthz/").send(server.mcp).await.status, 200);
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/mcp/.well-known/openid-configuration",
    ] {
        for address in [server.mcp, server.rest] {
            Request::get(path)
                .send(address)
                .await
                .problem(404, "no_such_path");
        }
    }
    let register = Request::post("/register", &json!({ "redirect_uris": [] }));
    let problem = register
        .send(server.mcp)
        .await
        .problem(401, "unauthenticated");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("Authorization: Bearer")
    );
}
