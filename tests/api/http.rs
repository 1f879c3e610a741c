//! MCP over streamable HTTP, in both eras.

use serde_json::json;

use crate::{
    app::serve_sandbox,
    clients::{ADD, Client, ERAS, Era, LIST, orders},
    connection::Request,
};

#[tokio::test]
async fn every_answer_is_json_and_needs_no_handshake() {
    let server = serve_sandbox(&[]).await;
    for era in ERAS {
        let mut client = Client::over_http(&server, era, None);
        for (request, code) in [
            (client.tool(LIST, &orders()), None),
            (client.tool(LIST, &json!({})), None),
            (client.message("tools/list", json!({})), None),
            (client.message("backups/list", json!({})), Some(-32601)),
            (client.tool("drop-database", &json!({})), Some(-32602)),
        ] {
            let answer = request.send(server.mcp).await;
            let content_type = answer.header("content-type");
            assert_eq!(content_type, Some("application/json"), "{answer:?}");
            assert_eq!(answer.header("mcp-session-id"), None);
            let error = answer.json()["error"]["code"].as_i64();
            assert_eq!(error, code, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_no_message_is_refused_in_terms_of_json_rpc() {
    let server = serve_sandbox(&[]).await;
    for era in ERAS {
        let client = Client::over_http(&server, era, None);
        for (body, code) in [
            (&b"hello"[..], -32700),
            (b"{", -32700),
            (b"\xff\xfe", -32700),
            (br#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
            (b"[]", -32600),
            (b"42", -32600),
            (b"null", -32600),
            (br#"{"hello":1}"#, -32600),
        ] {
            let answer = client.raw(body).send(server.mcp).await;
            assert_eq!(answer.status, 400, "{answer:?}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
            let error = answer.json();
            assert_eq!(error["error"]["code"], code, "{error}");
            assert_eq!(
                (&error["id"], &error["jsonrpc"]),
                (&json!(null), &json!("2.0"))
            );
        }
    }
}

#[tokio::test]
async fn other_paths_methods_and_media_types_are_refused() {
    let server = serve_sandbox(&[]).await;
    for path in ["/", "/mcp/x", "/MCP", "/sse", "/metrics"] {
        for request in [Request::get(path), Request::post(path, &json!({}))] {
            let answer = request.send(server.mcp).await;
            answer.problem(404, "no_such_path");
        }
    }
    for method in ["GET", "DELETE", "PUT", "HEAD"] {
        let request = Request::new(method, "/mcp").header("Accept", "text/event-stream");
        let answer = request.send(server.mcp).await;
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), Some("POST"));
    }
    let list = Client::over_http(&server, Era::Handshake, None).tool(LIST, &orders());
    let text = list.clone().header("Content-Type", "text/plain");
    assert_eq!(text.send(server.mcp).await.status, 415);
    let html = list.header("Accept", "text/html");
    assert_eq!(html.send(server.mcp).await.status, 200);
}

#[tokio::test]
async fn headers_that_contradict_the_message_are_refused() {
    let server = serve_sandbox(&[]).await;
    let mut client = Client::over_http(&server, Era::Stateless, None);
    for (name, value) in [
        ("Mcp-Method", "tools/list"),
        ("Mcp-Name", ADD),
        ("MCP-Protocol-Version", "2025-11-25"),
    ] {
        let request = client.tool(LIST, &orders()).header(name, value);
        let answer = request.send(server.mcp).await;
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
        assert_eq!(answer.json()["error"]["code"], -32020, "{name}: {answer:?}");
    }
}
