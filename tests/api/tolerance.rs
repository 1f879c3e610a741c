//! Known faults and strict readings of hosts, SDKs and converters, over standard input and HTTP: they are
//! corrected, or answered with what is wrong.

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::{
    app::{TestApp, sandbox_session, serve_sandbox},
    clients::{ADD, Client, ERAS, Era, LIST, REMOVE, UNATTENDED, order, removal},
    connection::{Connection, Request, backups_of},
    expect::{contains, refusal_in},
    upstreams::backup_id,
};

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
        r#""createdBefore":"""#,
        r#""createdAfter":"null""#,
        r#""condition":null"#,
        r#""condition":"","createdBefore":" 2999-01-01 ""#,
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
            let databases = &result["structuredContent"]["databases"];
            assert_eq!(
                databases.as_array().unwrap().len(),
                3,
                "{nothing}: {result}"
            );
        }
    }
    // Nothing else is guessed.
    for (rest, argument) in [
        (r#""verbose":"yes""#, "verbose"),
        (r#""verbose":1"#, "verbose"),
        (r#""createdBefore":0"#, "createdBefore"),
        (r#""createdAfter":[]"#, "createdAfter"),
    ] {
        for result in lists(&format!(r#"{{"databaseId":"{ID}",{rest}}}"#)).await {
            contains(&refusal_in(&result), [argument]);
        }
    }
}

#[tokio::test]
async fn ids_are_trimmed_and_a_body_may_be_text() {
    for era in ERAS {
        let mut session = sandbox_session(era, &[UNATTENDED]).await;
        let body = json!({ "name": "by text", "message": "m" }).to_string();
        let add = json!({ "databaseId": format!("\"{ID}\""), "body": body });
        assert_eq!(session.ok(ADD, add).await["name"], "by text");
        let add = json!({ "databaseId": ID, "name": " n\n", "message": "", "body": {} });
        assert_eq!(session.ok("add_backup_database", add).await["name"], "n");
        let add = json!({ "databaseId": ID, "name": "n", "message": "" });
        session.ok(ADD, add).await;
        let id = |number: u32| format!("\u{200b}{}\u{feff}", backup_id(number));
        for remove in [
            json!({ "backupIds": json!([id(3), id(4)]).to_string() }),
            json!({ "backupIds": id(5) }),
            json!({ "backupIds": format!("{},{} {}", id(6), id(7), id(8)) }),
            json!({ "backupIds": [], "backupId": id(9) }),
            json!({ "backupIds": [id(10)], "backupId": id(10) }),
        ] {
            let mut remove = remove;
            remove["databaseId"] = json!(ID);
            let report = session.ok("remove_database_backup", remove).await;
            assert_eq!(report["outcome"], "removed");
        }
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
    for near in
        "databaseid database_id database backup_id BackupID backupIds createdbefore".split(' ')
    {
        for result in lists(&format!(r#"{{"databaseId":"{ID}","{near}":"x"}}"#)).await {
            contains(&refusal_in(&result), [&format!("`{near}`")]);
        }
    }
    for era in ERAS {
        let mut session = sandbox_session(era, &[]).await;
        for unknown in "dryRun force backup_id confirm task_progres session_id".split(' ') {
            let remove = json!({ "databaseId": ID, "backupId": ONE, unknown: true });
            assert!(session.refused(REMOVE, remove).await.contains(unknown));
            let add = json!({ "databaseId": ID, "name": "n", unknown: true });
            assert!(session.refused(ADD, add).await.contains(unknown));
        }
        let mut known = json!({
            "task_progress": "- [ ] b", "sessionId": "s", "action": "sendMessage", "chatInput": "c",
            "toolCallId": "t", "tool": "Remove", "metadata": {}, "databaseId": ID,
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
    let call = "tools/call are malformed";
    let list = "tools/list are malformed";
    for (rest, code, words) in [
        (
            r#""method":"tools/call","params":{"name":5{meta}}"#,
            -32602,
            call,
        ),
        (
            r#""method":"tools/call","params":{"arguments":{}{meta}}"#,
            -32602,
            call,
        ),
        (
            r#""method":"tools/call","params":{"name":"x","arguments":[1]{meta}}"#,
            -32602,
            call,
        ),
        (r#""method":"tools/call","params":3"#, -32602, call),
        (r#""method":"tools/list","params":"x""#, -32602, list),
        (
            r#""method":"tools/list","params":{"cursor":5}"#,
            -32602,
            list,
        ),
        (
            r#""method":"ping","result":{}"#,
            -32600,
            "not one JSON-RPC message",
        ),
        (r#""members":"none""#, -32600, "not one JSON-RPC message"),
    ] {
        let message = format!(r#"{{"jsonrpc":"2.0","id":"a",{rest}}}"#);
        refused(&message, &json!("a"), code, words).await;
    }
    for method in [
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/templates/list",
        "completion/complete",
        "logging/setLevel",
        "resources/subscribe",
        "no/such",
    ] {
        let message = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}"}}"#);
        let words = format!("Method not found: {method}");
        refused(&message, &json!(7), -32601, &words).await;
    }
    for (id, words) in [
        ("1.5", "not one JSON-RPC message"),
        ("9223372036854775808", "not one JSON-RPC message"),
    ] {
        let message = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        refused(&message, &serde_json::from_str(id).unwrap(), -32600, words).await;
    }
    for version in [r#""jsonrpc":"1.0","#, ""] {
        let message = format!(r#"{{{version}"id":3,"method":"ping"}}"#);
        refused(&message, &json!(3), -32600, "not one JSON-RPC message").await;
    }
}

/// Expects this error in each era over both transports.
async fn refused(message: &str, id: &Value, code: i64, words: &str) {
    for answer in answers(message).await {
        assert_eq!(
            (&answer["id"], &answer["error"]["code"]),
            (id, &json!(code)),
            "{answer}"
        );
        contains(answer["error"]["message"].as_str().unwrap(), [words]);
    }
}

#[tokio::test]
async fn an_answer_in_the_style_of_json_rpc_1_is_read() {
    let mut session = TestApp::new(&[]).spawn(Era::Handshake, &["--sandbox"]);
    session.capabilities = json!({ "elicitation": {} });
    session.open().await;
    let remove = order(1);
    let call = session.send_call(REMOVE, remove).await;
    let question = session.receive().await;
    assert_eq!(question["method"], "elicitation/create", "{question}");
    let result = json!({ "action": "decline" });
    let answer = json!({ "id": question["id"], "result": result, "error": null });
    session.send(answer.to_string().as_bytes()).await;
    let answer = session.answer(call).await;
    contains(&answer.to_string(), ["The host answered no"]);
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
    contains(&error.to_string(), ["begin with initialize"]);
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
    contains(&answer.message()["error"].to_string(), ["initialize"]);
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
    let remove = removal(1);
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
            let request = client.message("tools/list", json!({}));
            let answer = request.header("Accept", accept).send(server.mcp).await;
            assert_eq!(answer.status, 200, "{accept}: {answer:?}");
        }
        // A client that accepts no events gets no progress.
        let token = json!({ "progressToken": 1 });
        let call = json!({ "name": LIST, "arguments": order(1), "_meta": token });
        let request = client.message("tools/call", call);
        let request = request.header("Accept", "application/json");
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
    let server = serve_sandbox(&[UNATTENDED]).await;
    let mut client = Client::over_http(&server, Era::Stateless, None);
    let remove = json!({ "databaseId": ID, "backupIds": [backup_id(1), backup_id(2)] });
    let mut call = json!({ "name": REMOVE, "arguments": remove });
    call["_meta"] = json!({ "progressToken": 1 });
    let answer = client.post("tools/call", call).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let events = answer.text();
    for event in events.split("\n\n").filter(|event| !event.is_empty()) {
        let data = event.lines().find_map(|line| line.strip_prefix("data:"));
        assert!(data.is_some_and(|data| !data.trim().is_empty()), "{event}");
    }
}

#[tokio::test]
async fn a_path_may_end_in_a_slash_and_discovery_needs_no_token() {
    let token = "an-access-token-of-a-test";
    let app = TestApp::new(&[("QOVERY_BACKUPS_ACCESS_TOKEN", token)]);
    let server = app.serve(&["--sandbox"]).await;
    let mut client = Client::over_http(&server, Era::Stateless, Some(token));
    let list = client.message("tools/list", json!({}));
    let body = String::from_utf8(list.bytes(server.mcp)).unwrap();
    let body = body.replacen(" /mcp ", " /mcp/ ", 1);
    let mut connection = Connection::open(server.mcp).await;
    for path in [" /mcp/ ", " //mcp ", " /mcp// "] {
        let body = body.replacen(" /mcp/ ", path, 1);
        let answer = connection.answer_to(body.as_bytes(), true).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    let options = Request::new("OPTIONS", "/mcp").send(server.mcp).await;
    options.problem(405, "method_not_allowed");
    for path in [
        &format!("{}/?startId={ONE}", backups_of(ID)),
        &format!("{}?startId=", backups_of(ID)),
        &format!("{}?startId", backups_of(ID)),
        "/openapi.json/",
        "/healthz/",
    ] {
        let request = Request::get(path).token(Some(token));
        assert_eq!(server.rest(request).await.status, 200);
    }
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
    ] {
        for address in [server.mcp, server.rest] {
            let answer = Request::get(path).send(address).await;
            answer.problem(404, "no_such_path");
        }
    }
    let inside = Request::post("/mcp/.well-known/openid-configuration", &json!({}));
    let register = Request::post("/register", &json!({ "redirect_uris": [] }));
    for request in [inside, register] {
        let answer = request.send(server.mcp).await;
        let problem = answer.problem(401, "unauthenticated");
        contains(&problem.to_string(), ["Authorization: Bearer"]);
    }
}
