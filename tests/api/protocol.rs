//! Lines that are not what the protocol has: the process goes on and answers the next request.

use serde_json::json;

use crate::{
    app::{TestApp, sandbox_session, serve_sandbox},
    clients::{ADD, Client, ERAS, Era, LIST, REMOVE, initialize_params},
    expect::contains,
};

/// Lines that are no JSON, or not to be answered.
fn dropped_lines() -> Vec<Vec<u8>> {
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":"deep","method":"tools/list","params":{}{}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    vec![
        b"hello".to_vec(),
        b"{".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        b"{\"jsonrpc\":\"2.0\",\"id\":\"utf8\",\"method\":\"a\xff\"}".to_vec(),
        deep.into_bytes(),
        br#"{"jsonrpc":"2.0","id":"a response","result":{}}"#.to_vec(),
        br#"{"jsonrpc":"2.0","result":{}}"#.to_vec(),
        br#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"an error"}}"#.to_vec(),
        br#"{"jsonrpc":"2.0","id":1,"error":"an error"}"#.to_vec(),
        br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_vec(),
        br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}}"#
            .to_vec(),
        br#"{"jsonrpc":"2.0","method":"notifications/unheard-of"}"#.to_vec(),
        br#"{"jsonrpc":"1.0","method":"notifications/unheard-of"}"#.to_vec(),
        br#"[{"jsonrpc":"2.0","id":"batch","method":"ping"}]"#.to_vec(),
        b"null".to_vec(),
        b"42".to_vec(),
        b"".to_vec(),
    ]
}

/// Sends lines without an id to answer, and one with an id.
async fn send_strange_lines(session: &mut Client) {
    for line in dropped_lines() {
        session.send(&line).await;
    }
    session
        .send(br#"{"jsonrpc":"1.0","id":"last","method":"ping"}"#)
        .await;
    // The first answer since, so the lines before have none.
    let answer = session.receive().await;
    assert_eq!(answer["id"], "last", "{answer}");
    assert_eq!(answer["error"]["code"], -32600, "{answer}");
}

async fn lists_the_tools(session: &mut Client) {
    let answer = session.request("tools/list", json!({})).await;
    let tools = answer["result"]["tools"].as_array().unwrap();
    assert_eq!(tools.len(), 3, "{answer}");
}

#[tokio::test]
async fn strange_lines_in_a_session_do_not_end_it() {
    for era in ERAS {
        let mut session = sandbox_session(era, &[]).await;
        send_strange_lines(&mut session).await;
        lists_the_tools(&mut session).await;
    }
}

#[tokio::test]
async fn strange_lines_before_a_session_do_not_end_the_process() {
    for era in ERAS {
        let mut session = TestApp::new(&[]).spawn(era, &["--sandbox"]);
        send_strange_lines(&mut session).await;
        session.open().await;
        lists_the_tools(&mut session).await;
    }
}

#[tokio::test]
async fn a_ping_or_a_discovery_may_come_before_a_notification() {
    let mut session = TestApp::new(&[]).spawn(Era::Stateless, &["--sandbox"]);
    session.request("ping", json!({})).await;
    session.request("server/discover", json!({})).await;
    session.notify("notifications/initialized", json!({})).await;
    lists_the_tools(&mut session).await;
}

#[tokio::test]
async fn an_unknown_tool_is_a_protocol_error_that_names_the_tools() {
    for era in ERAS {
        let mut session = sandbox_session(era, &[]).await;
        let params = json!({ "name": "drop-database", "arguments": {} });
        let error = session.request("tools/call", params).await["error"].clone();
        assert_eq!(error["code"], -32602, "{error}");
        let message = error["message"].as_str().unwrap();
        contains(message, [LIST, ADD, REMOVE]);
    }
}

#[tokio::test]
async fn a_revision_is_negotiated_and_gets_only_the_server_info_that_it_defines() {
    let newest = "description icons name title version";
    for (asked, spoken, members) in [
        ("2024-11-05", "2024-11-05", "name version"),
        ("2025-03-26", "2025-03-26", "name version"),
        ("2025-06-18", "2025-06-18", "name title version"),
        ("2025-11-25", "2025-11-25", newest),
        ("2099-01-01", "2025-11-25", newest),
    ] {
        let mut params = initialize_params();
        params["protocolVersion"] = json!(asked);
        let mut session = TestApp::new(&[]).spawn(Era::Handshake, &["--sandbox"]);
        let server = serve_sandbox(&[]).await;
        let mut client = Client::over_http(&server, Era::Handshake, None);
        for answer in [
            session.request("initialize", params.clone()).await,
            client.request("initialize", params).await,
        ] {
            assert_eq!(answer["result"]["protocolVersion"], spoken);
            let info = answer["result"]["serverInfo"].as_object().unwrap();
            let names: Vec<&str> = info.keys().map(String::as_str).collect();
            assert_eq!(names.join(" "), members, "{asked}");
        }
        lists_the_tools(&mut session).await;
    }
}

#[tokio::test]
async fn a_stateless_request_of_an_unknown_revision_learns_the_known_ones() {
    let mut session = sandbox_session(Era::Handshake, &[]).await;
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2099-01-01",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let answer = session
        .request("tools/list", json!({ "_meta": meta }))
        .await;
    let supported = answer["error"]["data"]["supported"].as_array().unwrap();
    assert!(supported.contains(&json!("2026-07-28")), "{answer}");
}
