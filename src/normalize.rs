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

/// A message that rmcp can read.
#[derive(Debug)]
pub(crate) struct Normalized {
    pub(crate) value: Value,
    /// Its bytes, if they differ from those that were received.
    pub(crate) rewritten: Option<Vec<u8>>,
    /// Whether it is the handshake of a revision before 2026-07-28.
    pub(crate) is_initialize: bool,
}

/// Why a message is refused, as a JSON-RPC error.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct InvalidMessage {
    id: Value,
    code: i32,
    message: String,
    expects_answer: bool,
}

/// Corrects known faults of clients, and checks that rmcp can read the message.
pub(crate) fn normalize(message: &[u8]) -> Result<Normalized, InvalidMessage> {
    // RFC 8259, section 8.1: a parser may ignore a byte order mark.
    let text = message.strip_prefix(b"\xef\xbb\xbf").unwrap_or(message);
    let received: Value =
        serde_json::from_slice(text).map_err(|_| InvalidMessage::parse_error())?;
    let mut value = received.clone();
    if value.get("method").is_some() {
        normalize_request(&mut value);
    } else {
        normalize_response(&mut value);
    }
    check(&value)?;
    let is_rewritten = value != received || text.len() < message.len();
    Ok(Normalized {
        rewritten: is_rewritten.then(|| value.to_string().into_bytes()),
        is_initialize: is_initialize(&value),
        value,
    })
}

impl InvalidMessage {
    /// Refuses a request.
    pub(crate) fn request(id: Value, reason: &str) -> Self {
        Self {
            id,
            code: -32600,
            message: format!("Invalid request: {reason}."),
            expects_answer: true,
        }
    }

    fn parse_error() -> Self {
        Self {
            id: Value::Null,
            code: -32700,
            message: "Parse error: this cannot be read as JSON.".to_owned(),
            expects_answer: false,
        }
    }

    /// The error response. Its id is null if the request has no text or number for one (JSON-RPC 2.0,
    /// section 5).
    pub(crate) fn to_json(&self) -> String {
        let error = json!({ "code": self.code, "message": self.message });
        json!({ "jsonrpc": "2.0", "id": self.id, "error": error }).to_string()
    }

    /// Whether the client waits for a response. It does not after a notification or a response.
    pub(crate) fn expects_answer(&self) -> bool {
        self.expects_answer
    }
}

fn normalize_request(message: &mut Value) {
    remove_empty(message, "params");
    if is_initialize(message) {
        normalize_handshake(message);
    }
    let is_call = message["method"] == "tools/call";
    let Some(params) = message.get_mut("params") else {
        return;
    };
    remove_empty(params, "_meta");
    let capabilities = "/_meta/io.modelcontextprotocol~1clientCapabilities";
    if let Some(capabilities) = params.pointer_mut(capabilities) {
        normalize_capabilities(capabilities);
    }
    if is_call {
        remove_empty(params, "arguments");
        if let Some(arguments) = params.get_mut("arguments") {
            text::parse_embedded_json(arguments);
        }
    }
}

/// Removes a member that is null or an empty list: PHP encodes an empty object as a list.
fn remove_empty(value: &mut Value, name: &str) {
    let is_empty = |member: &Value| member.is_null() || *member == json!([]);
    if value.get(name).is_some_and(is_empty)
        && let Some(fields) = value.as_object_mut()
    {
        fields.remove(name);
    }
}

/// 2026-07-28 has no handshake: with its `_meta`, `initialize` is an unknown method.
fn is_initialize(message: &Value) -> bool {
    let version = &message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"];
    message["method"] == "initialize" && !version.is_string()
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
    if ClientCapabilities::deserialize(&*capabilities).is_ok() {
        return;
    }
    let is_declared = |value: &Value| !value.is_null() && *value != false;
    let elicitation = &capabilities["elicitation"];
    let modes = ["form", "url"].into_iter();
    let modes = modes.filter(|mode| is_declared(&elicitation[mode]));
    let modes: Value = modes.map(|mode| (mode, json!({}))).collect();
    *capabilities = if is_declared(elicitation) {
        json!({ "elicitation": modes })
    } else {
        json!({})
    };
}

/// Corrects a response: one in the style of JSON-RPC 1.0, with another version and with both members,
/// and one whose error is of another shape. What cannot be read would be waited for in vain.
fn normalize_response(message: &mut Value) {
    if message.get("result").is_none() && message.get("error").is_none() {
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
    let id = &message["id"];
    let has_outcome = has("result") || has("error");
    let is_response = has_outcome && !has("method");
    let scalar = Some(id).filter(|id| id.is_string() || id.is_number());
    let invalid = |reason| InvalidMessage {
        expects_answer: !is_response && (has("id") || !has("method")),
        ..InvalidMessage::request(scalar.cloned().unwrap_or_default(), reason)
    };
    if message.is_object() && message["jsonrpc"] != "2.0" {
        return Err(invalid(r#"jsonrpc must be "2.0""#));
    }
    if has("id") && RequestId::deserialize(id).is_err() {
        let reason = "the id must be text or a whole number below 2^63";
        return Err(invalid(reason));
    }
    match message["method"].as_str().filter(|_| !has_outcome) {
        Some(method) if fits(method, message) => Ok(()),
        Some(method) => Err(InvalidMessage {
            code: -32602,
            message: format!("The parameters of {} are malformed.", text::excerpt(method)),
            ..invalid("")
        }),
        None if is_response && has("result") != has("error") => Ok(()),
        None => Err(invalid("this is not one JSON-RPC message")),
    }
}

/// Whether the message has the parameters of its method. Those of an unknown one are an object, too.
fn fits(method: &str, message: &Value) -> bool {
    let params = message.get("params");
    let meta = params.and_then(|params| params.get("_meta"));
    if !params.is_none_or(Value::is_object) || !meta.is_none_or(Value::is_object) {
        return false;
    }
    let params = params.unwrap_or(&Value::Null);
    match method {
        "initialize" if !is_initialize(message) => true,
        "initialize" => InitializeRequestParams::deserialize(params).is_ok(),
        "server/discover" => params.is_object(),
        "tools/call" => CallToolRequestParams::deserialize(params).is_ok(),
        "tools/list" => Option::<PaginatedRequestParams>::deserialize(params).is_ok(),
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
        let normalized = normalize(message.to_string().as_bytes()).unwrap();
        let value = normalized.rewritten.map_or_else(
            || message.clone(),
            |text| serde_json::from_slice(&text).unwrap(),
        );
        assert_eq!(value, normalized.value);
        value
    }

    fn refused(message: &str) -> (Value, bool) {
        let invalid = normalize(message.as_bytes()).unwrap_err();
        let error = serde_json::from_str(&invalid.to_json()).unwrap();
        (error, invalid.expects_answer())
    }

    /// Any JSON, small.
    fn json_value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(|number| json!(number)),
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
        (id, meta, json_object(json_value()), 0..8).prop_map(|(id, meta, any, kind)| {
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
                4 => ("no/such/method", any),
                5 => return json!({ "jsonrpc": "2.0", "id": id, "result": any }),
                6 => {
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
            let normalized = normalize(message.to_string().as_bytes()).unwrap();
            prop_assert_eq!(normalized.rewritten, None);
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
            let read = serde_json::from_value::<ClientJsonRpcMessage>(normalized.value).unwrap();
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
        let normalized = normalize(with_mark.as_bytes()).unwrap();
        assert_eq!(normalized.rewritten, Some(list.to_string().into_bytes()));
    }

    #[test]
    fn arguments_may_be_an_object_as_text() {
        let mut call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": { "name": "a", "arguments": r#"{"b":1}"# } });
        assert_eq!(rewritten(&call)["params"]["arguments"], json!({ "b": 1 }));
        call["params"]["arguments"] = json!("[1]");
        assert_eq!(refused(&call.to_string()).0["error"]["code"], -32602);
    }

    #[test]
    fn a_malformed_handshake_keeps_what_can_be_read() {
        let mut message = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize" });
        let unknown = json!({ "name": "unknown", "version": "unknown" });
        let least = json!({ "protocolVersion": "", "capabilities": {}, "clientInfo": unknown });
        assert_eq!(rewritten(&message)["params"], least);
        message["params"] = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": { "roots": true, "elicitation": { "form": true, "url": false } },
            "clientInfo": { "name": "n", "version": 2 },
        });
        let expected = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": { "elicitation": { "form": {} } },
            "clientInfo": { "name": "n", "version": "unknown" },
        });
        assert_eq!(rewritten(&message)["params"], expected);
        assert!(
            normalize(message.to_string().as_bytes())
                .unwrap()
                .is_initialize
        );
        message["params"]["_meta"] = json!({ format!("{META}protocolVersion"): "2026-07-28" });
        let normalized = normalize(message.to_string().as_bytes()).unwrap();
        assert!(!normalized.is_initialize && normalized.rewritten.is_none());
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
        for (message, id, code, words) in [
            (
                r#"{"id":3,"method":"ping"}"#,
                json!(3),
                -32600,
                "jsonrpc must be",
            ),
            (
                r#"{"jsonrpc":"1.0","id":"a","method":"ping"}"#,
                json!("a"),
                -32600,
                "jsonrpc",
            ),
            (
                r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
                json!(1.5),
                -32600,
                "id must be",
            ),
            (
                r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
                json!(null),
                -32600,
                "id must be",
            ),
            (
                r#"{"jsonrpc":"2.0","id":4}"#,
                json!(4),
                -32600,
                "not one JSON-RPC message",
            ),
            (
                r#"{"jsonrpc":"2.0","id":4,"method":5}"#,
                json!(4),
                -32600,
                "not one",
            ),
            (
                r#"{"jsonrpc":"2.0","id":4,"method":"a","result":1}"#,
                json!(4),
                -32600,
                "not one",
            ),
            (
                r#"[{"jsonrpc":"2.0","id":4,"method":"ping"}]"#,
                json!(null),
                -32600,
                "not one",
            ),
            ("42", json!(null), -32600, "not one"),
            (
                r#"{"jsonrpc":"2.0","id":4,"method":"a","params":[1]}"#,
                json!(4),
                -32602,
                "of a are",
            ),
            (
                r#"{"jsonrpc":"2.0","id":4,"method":"ping","params":{"_meta":1}}"#,
                json!(4),
                -32602,
                "ping",
            ),
        ] {
            let (error, expects_answer) = refused(message);
            assert_eq!(
                (&error["id"], &error["error"]["code"]),
                (&id, &json!(code)),
                "{message}"
            );
            let text = error["error"]["message"].as_str().unwrap();
            assert!(text.contains(words) && expects_answer, "{message}: {text}");
        }
    }

    #[test]
    fn what_expects_no_answer_gets_none() {
        for message in [
            r#"{"jsonrpc":"1.0","method":"notifications/x"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/x","params":7}"#,
            r#"{"jsonrpc":"2.0","id":{},"result":{}}"#,
            r#"{"jsonrpc":"2.0","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"#,
        ] {
            assert!(!refused(message).1, "{message}");
        }
    }
}
