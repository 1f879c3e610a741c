//! Normalizes JSON-RPC messages of clients before rmcp reads them, for both transports.
//!
//! Each rule corrects a fault of released hosts and SDKs. A valid message stays unchanged, and one that
//! rmcp would refuse or misread is refused here.

use rmcp::{
    ErrorData,
    model::{
        CallToolRequestParams, ClientCapabilities, InitializeRequestParams, PaginatedRequestParams,
        RequestId,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::text;

/// Why a message is refused, as a JSON-RPC error.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct InvalidMessage {
    /// Null if the message has no id that the client waits for (JSON-RPC 2.0, section 5).
    pub(crate) id: Value,
    /// The status over HTTP.
    pub(crate) status: u16,
    code: i32,
    message: String,
}

/// Corrects known faults of clients, and checks that rmcp can read the message.
pub(crate) fn normalize(message: &[u8]) -> Result<Value, InvalidMessage> {
    // RFC 8259, section 8.1: a parser may ignore a byte order mark.
    let text = message.strip_prefix(b"\xef\xbb\xbf").unwrap_or(message);
    let mut message = serde_json::from_slice(text).map_err(|_| InvalidMessage {
        id: Value::Null,
        status: 400,
        code: -32700,
        message: "Parse error: this cannot be read as JSON.".to_owned(),
    })?;
    normalize_response(&mut message);
    normalize_request(&mut message);
    check(&message)?;
    Ok(message)
}

/// 2026-07-28 has no handshake: with its `_meta`, `initialize` is an unknown method.
pub(crate) fn is_initialize(message: &Value) -> bool {
    message["method"] == "initialize" && !is_stateless(message)
}

/// Whether a request is of 2026-07-28.
fn is_stateless(message: &Value) -> bool {
    message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].is_string()
}

/// Whether this server has a method. The two of the handshake are none of 2026-07-28.
fn has_method(method: &str, is_stateless: bool) -> bool {
    match method {
        "initialize" | "ping" => !is_stateless,
        "server/discover" | "tools/call" | "tools/list" => true,
        _ => false,
    }
}

impl InvalidMessage {
    /// Refuses a request.
    pub(crate) fn request(id: Value, reason: &str) -> Self {
        Self {
            id,
            status: 400,
            code: -32600,
            message: format!("Invalid request: {reason}."),
        }
    }

    /// The error response.
    pub(crate) fn to_json(&self) -> String {
        let error = json!({ "code": self.code, "message": self.message });
        json!({ "jsonrpc": "2.0", "id": self.id, "error": error }).to_string()
    }
}

fn normalize_request(message: &mut Value) {
    remove_empty(message, "params");
    if is_initialize(message) {
        normalize_handshake(message);
    }
    let Some(params) = message.get_mut("params") else {
        return;
    };
    remove_empty(params, "_meta");
    let capabilities = "/_meta/io.modelcontextprotocol~1clientCapabilities";
    if let Some(capabilities) = params.pointer_mut(capabilities) {
        normalize_capabilities(capabilities);
    }
    // Of `tools/call`: no other method of this server has them.
    remove_empty(params, "arguments");
    if let Some(arguments) = params.get_mut("arguments") {
        text::parse_embedded_json(arguments);
    }
}

/// Removes a member that is null or an empty list: PHP encodes an empty object as a list.
fn remove_empty(value: &mut Value, name: &str) {
    let is_empty = |member: &Value| member.is_null() || *member == json!([]);
    if let Some(fields) = value.as_object_mut()
        && fields.get(name).is_some_and(is_empty)
    {
        fields.remove(name);
    }
}

/// Keeps what this server uses of a malformed handshake. An unknown version is answered with the newest
/// one.
fn normalize_handshake(message: &mut Value) {
    let params = &message["params"];
    let is_object = params.is_object() || params.is_null();
    if !is_object || InitializeRequestParams::deserialize(params).is_ok() {
        return;
    }
    let text = |value: &Value, default: &str| value.as_str().unwrap_or(default).to_owned();
    let mut capabilities = params["capabilities"].clone();
    normalize_capabilities(&mut capabilities);
    message["params"] = json!({
        "protocolVersion": text(&params["protocolVersion"], ""),
        "capabilities": capabilities,
        "clientInfo": {
            "name": text(&params["clientInfo"]["name"], "unknown"),
            "version": text(&params["clientInfo"]["version"], "unknown"),
        },
    });
}

/// Keeps only elicitation of malformed capabilities. A client that declares it in any form is asked; one
/// that cannot show the question declines it.
fn normalize_capabilities(capabilities: &mut Value) {
    if ClientCapabilities::deserialize(&*capabilities).is_err() {
        let elicitation = &capabilities["elicitation"];
        let is_declared = !elicitation.is_null() && *elicitation != false;
        *capabilities = json!({});
        if is_declared {
            capabilities["elicitation"] = json!({});
        }
    }
}

/// Corrects a response: one in the style of JSON-RPC 1.0, with another version and with both members,
/// and one whose error is of another shape. What cannot be read would be waited for in vain.
fn normalize_response(message: &mut Value) {
    let has = |name| message.get(name).is_some();
    if has("method") || !(has("result") || has("error")) {
        return;
    }
    let mut error = message["error"].take();
    let (member, outcome) = if error.is_null() {
        ("result", message["result"].take())
    } else {
        if ErrorData::deserialize(&error).is_err() {
            error = json!({ "code": -32603, "message": "an error of another shape" });
        }
        ("error", error)
    };
    *message = json!({ "jsonrpc": "2.0", "id": message["id"], member: outcome });
}

/// Checks what rmcp would refuse in its own words or, where it is parameters, take for a request of an
/// unknown method.
fn check(message: &Value) -> Result<(), InvalidMessage> {
    let has = |name| message.get(name).is_some();
    let (method, id) = (message["method"].as_str(), &message["id"]);
    let outcomes = usize::from(has("result")) + usize::from(has("error"));
    let is_valid = message["jsonrpc"] == "2.0"
        && outcomes == usize::from(method.is_none())
        && (!has("id") || RequestId::deserialize(id).is_ok());
    let is_response = outcomes > 0 && method.is_none();
    let id = match id {
        Value::String(_) | Value::Number(_) if !is_response => id.clone(),
        _ => Value::Null,
    };
    match method {
        _ if !is_valid => Err(InvalidMessage::request(
            id,
            "this is not one JSON-RPC message with \"jsonrpc\": \"2.0\" and an id that is text or a whole \
             number below 2^63",
        )),
        // rmcp's message is the method alone, which some hosts show to people. Its status is 404 in
        // 2026-07-28; before, 404 meant that a session is over.
        Some(method) if has("id") && !has_method(method, is_stateless(message)) => {
            Err(InvalidMessage {
                id,
                status: if is_stateless(message) { 404 } else { 200 },
                code: -32601,
                message: format!("Method not found: {}", text::excerpt(method)),
            })
        }
        Some(method) if !fits(method, message) => Err(InvalidMessage {
            id,
            status: 400,
            code: -32602,
            message: format!("The parameters of {} are malformed.", text::excerpt(method)),
        }),
        _ => Ok(()),
    }
}

/// Whether the message has the parameters of its method. Those of an unknown one are an object, too.
fn fits(method: &str, message: &Value) -> bool {
    let params = message.get("params");
    let meta = params.and_then(|params| params.get("_meta"));
    if !params.is_none_or(Value::is_object) || !meta.is_none_or(Value::is_object) {
        return false;
    }
    match (method, params) {
        ("server/discover" | "tools/call", None) => false,
        ("tools/call", Some(params)) => CallToolRequestParams::deserialize(params).is_ok(),
        ("tools/list", Some(params)) => PaginatedRequestParams::deserialize(params).is_ok(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};
    use rmcp::model::{ClientJsonRpcMessage, ClientRequest, JsonRpcMessage};

    use super::*;

    const META: &str = "io.modelcontextprotocol/";

    fn rewritten(message: &Value) -> Value {
        normalize(message.to_string().as_bytes()).unwrap()
    }

    fn refused(message: &str) -> Value {
        let invalid = normalize(message.as_bytes()).unwrap_err();
        serde_json::from_str(&invalid.to_json()).unwrap()
    }

    /// Any JSON, small.
    fn json_value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            // serde_json rounds some others.
            any::<i32>().prop_map(|number| json!(f64::from(number) / 8.0)),
            r#"[a-z{}\[\]":]{0,8}|\{\}"#.prop_map(Value::from),
        ];
        scalar.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                json_object(inner),
            ]
        })
    }

    fn json_object(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
        btree_map("[a-z_]{0,6}", value, 0..4)
            .prop_map(|fields| Value::Object(fields.into_iter().collect()))
    }

    fn valid_message() -> impl Strategy<Value = Value> {
        let elicitation = prop_oneof![
            Just(json!({})),
            Just(json!({ "elicitation": {}, "roots": { "listChanged": true } })),
            Just(json!({ "elicitation": { "form": {}, "url": {} }, "sampling": {} })),
        ];
        let meta = (any::<bool>(), elicitation).prop_map(|(is_stateless, capabilities)| {
            let (version, field) = ("protocolVersion", "clientCapabilities");
            if is_stateless {
                json!({ format!("{META}{version}"): "2026-07-28",
                    format!("{META}{field}"): capabilities, "progressToken": 1 })
            } else {
                json!({ "traceparent": capabilities.to_string() })
            }
        });
        let id = prop_oneof![
            any::<i64>().prop_map(Value::from),
            ".{0,5}".prop_map(Value::from)
        ];
        (id, meta, json_object(json_value()), 0..7).prop_map(|(id, meta, any, kind)| {
            let (method, params) = match kind {
                0 => (
                    "tools/call",
                    json!({ "name": "a", "arguments": any, "_meta": meta }),
                ),
                1 => ("tools/list", json!({ "cursor": "c", "_meta": meta })),
                2 => ("server/discover", json!({ "_meta": meta })),
                3 => (
                    "initialize",
                    json!({ "protocolVersion": "2025-06-18", "capabilities": {},
                        "clientInfo": { "name": "n", "version": "1", "title": "t" } }),
                ),
                4 => return json!({ "jsonrpc": "2.0", "id": id, "result": any }),
                5 => {
                    let error = json!({ "code": -1, "message": "m", "data": any });
                    return json!({ "jsonrpc": "2.0", "id": id, "error": error });
                }
                _ => {
                    let method = "notifications/progress";
                    return json!({ "jsonrpc": "2.0", "method": method, "params": any });
                }
            };
            json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
        })
    }

    proptest! {
        #[test]
        fn a_valid_message_stays_unchanged(message in valid_message()) {
            // An unknown method's `_meta` is checked, too.
            prop_assume!(message["params"].get("_meta").is_none_or(Value::is_object));
            prop_assert_eq!(normalize(message.to_string().as_bytes()).unwrap(), message);
        }

        #[test]
        fn an_unknown_method_is_named(method in "[a-z/]{0,8}", params in json_value(), id in any::<i64>()) {
            let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
            prop_assume!(!["ping", "initialize"].contains(&method.as_str()));
            let error = &refused(&message.to_string())["error"];
            prop_assert_eq!(&error["code"], -32601);
            prop_assert_eq!(&error["message"], &format!("Method not found: {method}"));
        }

        /// Whatever the parameters of a request are, rmcp reads it as one of its method, or it is refused.
        #[test]
        fn a_known_method_is_never_taken_for_an_unknown_one(
            method in prop::sample::select(vec!["initialize", "ping", "server/discover", "tools/call", "tools/list"]),
            mut params in json_value(),
            (name, member) in (prop::sample::select(vec![
                "name", "arguments", "cursor", "_meta", "inputResponses", "requestState",
                "protocolVersion", "capabilities", "clientInfo",
            ]), json_value()),
            is_named in any::<bool>(),
        ) {
            if let Some(params) = params.as_object_mut() {
                if is_named {
                    params.insert("name".to_owned(), json!("a"));
                }
                params.insert(name.to_owned(), member);
            }
            let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
            let Ok(normalized) = normalize(message.to_string().as_bytes()) else {
                return Ok(());
            };
            let read = serde_json::from_value::<ClientJsonRpcMessage>(normalized).unwrap();
            let JsonRpcMessage::Request(request) = read else {
                return Err(TestCaseError::fail("not a request"));
            };
            prop_assert!(!matches!(request.request, ClientRequest::CustomRequest(_)), "{}", message);
        }

        #[test]
        fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), value in json_value()) {
            for message in [bytes, value.to_string().into_bytes()] {
                if let Err(invalid) = normalize(&message) {
                    prop_assert!(serde_json::from_str::<Value>(&invalid.to_json()).is_ok());
                }
            }
        }
    }

    #[test]
    fn empty_members_are_left_out() {
        let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
        for params in [json!([]), Value::Null] {
            let mut message = list.clone();
            message["params"] = params.clone();
            assert_eq!(rewritten(&message), list);
            message["params"] = json!({ "_meta": params });
            assert_eq!(rewritten(&message)["params"], json!({}));
            message["method"] = json!("tools/call");
            message["params"] = json!({ "name": "a", "arguments": params });
            assert_eq!(rewritten(&message)["params"], json!({ "name": "a" }));
        }
        let with_mark = format!("\u{feff}{list}");
        assert_eq!(normalize(with_mark.as_bytes()).unwrap(), list);
    }

    #[test]
    fn arguments_may_be_an_object_as_text() {
        let mut call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": { "name": "a", "arguments": r#"{"b":1}"# } });
        assert_eq!(rewritten(&call)["params"]["arguments"], json!({ "b": 1 }));
        call["params"]["arguments"] = json!("[1]");
        assert_eq!(refused(&call.to_string())["error"]["code"], -32602);
    }

    #[test]
    fn a_malformed_handshake_keeps_what_can_be_read() {
        let mut message = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize" });
        let unknown = json!({ "name": "unknown", "version": "unknown" });
        let least = json!({ "protocolVersion": "", "capabilities": {}, "clientInfo": unknown });
        assert_eq!(rewritten(&message)["params"], least);
        message["params"] = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": { "roots": true, "elicitation": { "form": true } },
            "clientInfo": { "name": "n", "version": 2 },
        });
        let expected = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": { "elicitation": {} },
            "clientInfo": { "name": "n", "version": "unknown" },
        });
        assert_eq!(rewritten(&message)["params"], expected);
        assert!(is_initialize(&message));
        message["params"]["_meta"] = json!({ format!("{META}protocolVersion"): "2026-07-28" });
        assert!(!is_initialize(&message));
        assert_eq!(refused(&message.to_string())["error"]["code"], -32601);
    }

    #[test]
    fn malformed_capabilities_of_a_request_keep_elicitation() {
        let field = format!("{META}clientCapabilities");
        for (received, expected) in [
            (json!({ "elicitation": true }), json!({ "elicitation": {} })),
            (json!({ "roots": 1, "elicitation": null }), json!({})),
            (json!("yes"), json!({})),
            (
                json!({ "roots": {}, "elicitation": {} }),
                json!({ "roots": {}, "elicitation": {} }),
            ),
        ] {
            let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list",
                "params": { "_meta": { &field: received } } });
            assert_eq!(rewritten(&message)["params"]["_meta"][&field], expected);
        }
    }

    #[test]
    fn a_response_may_be_written_as_in_json_rpc_1() {
        let answer = json!({ "id": 1, "result": { "action": "accept" }, "error": null });
        let expected = json!({ "jsonrpc": "2.0", "id": 1, "result": { "action": "accept" } });
        assert_eq!(rewritten(&answer), expected);
        let error = json!({ "code": -1, "message": "m" });
        let answer = json!({ "id": 1, "result": null, "error": error });
        let expected = json!({ "jsonrpc": "2.0", "id": 1, "error": error });
        assert_eq!(rewritten(&answer), expected);
        for answer in [
            json!({ "jsonrpc": "2.0", "id": 1, "result": {}, "error": {} }),
            json!({ "jsonrpc": "1.0", "id": 1, "error": "denied" }),
            json!({ "id": 1, "error": { "message": "m" } }),
        ] {
            assert_eq!(rewritten(&answer)["error"]["code"], -32603, "{answer}");
        }
    }

    #[test]
    fn an_invalid_request_is_answered_with_its_id() {
        let (request, params) = ((-32600, "not one JSON-RPC message"), (-32602, "malformed"));
        for (message, id, (code, words)) in [
            (r#"{"id":3,"method":"ping"}"#, json!(3), request),
            (
                r#"{"jsonrpc":"1.0","id":"a","method":"ping"}"#,
                json!("a"),
                request,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
                json!(1.5),
                request,
            ),
            (r#"{"jsonrpc":"2.0","id":4}"#, json!(4), request),
            (r#"{"jsonrpc":"2.0","id":4,"method":5}"#, json!(4), request),
            (
                r#"{"jsonrpc":"2.0","id":4,"method":"a","result":1}"#,
                json!(4),
                request,
            ),
            (
                r#"{"jsonrpc":"2.0","id":4,"method":"tools/list","params":[1]}"#,
                json!(4),
                params,
            ),
            (
                r#"{"jsonrpc":"2.0","id":4,"method":"ping","params":{"_meta":1}}"#,
                json!(4),
                params,
            ),
        ] {
            let error = refused(message);
            assert_eq!(
                (&error["id"], &error["error"]["code"]),
                (&id, &json!(code)),
                "{message}"
            );
            let text = error["error"]["message"].as_str().unwrap();
            assert!(text.contains(words), "{message}: {text}");
        }
    }

    #[test]
    fn what_has_no_id_to_answer_gets_null() {
        for message in [
            r#"{"jsonrpc":"1.0","method":"notifications/x"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/x","params":7}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            r#"[{"jsonrpc":"2.0","id":4,"method":"ping"}]"#,
            r#"{"jsonrpc":"2.0","id":{},"result":{}}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"#,
            "42",
        ] {
            assert_eq!(refused(message)["id"], Value::Null, "{message}");
        }
    }
}
