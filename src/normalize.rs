//! Normalizes JSON-RPC messages of clients before rmcp reads them, for both transports.
//!
//! Each rule corrects a fault that released hosts and SDKs have. A valid message is never changed, and
//! an invalid one is refused here, so that rmcp reads every message once.

use rmcp::model::{
    ClientCapabilities, InitializeRequestParams, InputResponses, JsonObject, RequestId,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::text;

/// A message with the shape that rmcp expects.
#[derive(Debug)]
pub(crate) struct Normalized {
    /// The message.
    pub(crate) value: Value,
    /// Its bytes, if they differ from those that were received.
    pub rewritten: Option<Vec<u8>>,
    /// Whether it is the handshake of a revision before 2026-07-28.
    pub is_initialize: bool,
}

/// A message that is refused, as a JSON-RPC error.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct InvalidMessage {
    id: Value,
    code: i32,
    message: String,
    expects_answer: bool,
}

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const NOT_A_MESSAGE: &str = "this is not one JSON-RPC message";

/// Corrects known faults of clients, and refuses a message that rmcp would refuse or misread.
pub(crate) fn normalize(message: &[u8]) -> Result<Normalized, InvalidMessage> {
    // RFC 8259, section 8.1: a parser may ignore a byte order mark.
    let text = message.strip_prefix(b"\xef\xbb\xbf").unwrap_or(message);
    let mut value = serde_json::from_slice(text).map_err(|_| InvalidMessage::not_json())?;
    let Value::Object(fields) = &mut value else {
        return Err(InvalidMessage::request(Value::Null, NOT_A_MESSAGE));
    };
    let mut changed = text.len() < message.len();
    let is_stateless = fields
        .get("params")
        .is_some_and(|params| params["_meta"][VERSION].is_string());
    // 2026-07-28 has no handshake: there, it is a method like any unknown one.
    let is_initialize = fields.get("method").is_some_and(|it| it == "initialize") && !is_stateless;
    if fields.contains_key("method") {
        changed |= normalize_params(fields, is_initialize);
    } else {
        changed |= normalize_response(fields);
    }
    check(fields)?;
    Ok(Normalized {
        rewritten: changed.then(|| value.to_string().into_bytes()),
        is_initialize,
        value,
    })
}

impl InvalidMessage {
    /// A request that is refused for this reason.
    pub(crate) fn request(id: Value, reason: &str) -> Self {
        Self {
            id,
            code: -32600,
            message: format!("Invalid request: {reason}."),
            expects_answer: true,
        }
    }

    /// The JSON-RPC error response. Its id is null if the message has none that can be repeated (JSON-RPC
    /// 2.0, section 5).
    pub(crate) fn to_json(&self) -> String {
        let error = json!({ "code": self.code, "message": self.message });
        json!({ "jsonrpc": "2.0", "id": self.id, "error": error }).to_string()
    }

    /// Whether the sender waits for a response: not for one to a notification, or to a response.
    pub(crate) fn expects_answer(&self) -> bool {
        self.expects_answer
    }

    fn not_json() -> Self {
        Self {
            id: Value::Null,
            code: -32700,
            message: "Parse error: this cannot be read as JSON.".to_owned(),
            expects_answer: false,
        }
    }
}

fn normalize_params(message: &mut JsonObject, is_initialize: bool) -> bool {
    let is_call = message["method"] == "tools/call";
    let mut changed = remove_empty(message, "params");
    if is_initialize {
        let params = message.entry("params").or_insert_with(|| json!({}));
        changed |= normalize_handshake(params);
    }
    let Some(Value::Object(params)) = message.get_mut("params") else {
        return changed;
    };
    changed |= remove_empty(params, "_meta");
    if let Some(Value::Object(meta)) = params.get_mut("_meta")
        && let Some(capabilities) = meta.get_mut(CAPABILITIES)
    {
        changed |= normalize_capabilities(capabilities);
    }
    if is_call {
        changed |= remove_empty(params, "arguments");
        if let Some(arguments @ Value::String(_)) = params.get_mut("arguments") {
            text::parse_embedded_json(arguments);
            changed |= arguments.is_object();
        }
    }
    changed
}

/// Removes a member that is null or an empty list: PHP encodes an empty object as a list.
fn remove_empty(fields: &mut JsonObject, name: &str) -> bool {
    let is_empty = |value: &Value| value.is_null() || *value == json!([]);
    fields.get(name).is_some_and(is_empty) && fields.remove(name).is_some()
}

/// Keeps what this server uses of a handshake that is malformed: the version, the capabilities, the
/// client's name. An unknown version is answered with the newest one.
fn normalize_handshake(params: &mut Value) -> bool {
    if !params.is_object() || InitializeRequestParams::deserialize(&*params).is_ok() {
        return false;
    }
    let text = |value: &Value, default| value.as_str().unwrap_or(default).to_owned();
    let mut capabilities = params["capabilities"].take();
    normalize_capabilities(&mut capabilities);
    *params = json!({
        "protocolVersion": text(&params["protocolVersion"], ""),
        "capabilities": capabilities,
        "clientInfo": {
            "name": text(&params["clientInfo"]["name"], "unknown"),
            "version": text(&params["clientInfo"]["version"], "unknown"),
        },
    });
    true
}

/// Keeps elicitation of capabilities that are malformed. A client that declares it in any form is asked;
/// one that cannot show the question declines it.
fn normalize_capabilities(capabilities: &mut Value) -> bool {
    if ClientCapabilities::deserialize(&*capabilities).is_ok() {
        return false;
    }
    let is_declared = |value: &Value| !value.is_null() && *value != false;
    let elicitation = capabilities["elicitation"].take();
    *capabilities = json!({});
    if is_declared(&elicitation) {
        capabilities["elicitation"] = json!({});
        for mode in ["form", "url"] {
            if is_declared(&elicitation[mode]) {
                capabilities["elicitation"][mode] = json!({});
            }
        }
    }
    true
}

/// Corrects a response in the style of JSON-RPC 1.0.
fn normalize_response(message: &mut JsonObject) -> bool {
    let has = |name| message.get(name).is_some_and(|value| !value.is_null());
    let (has_result, has_error) = (has("result"), has("error"));
    let mut changed = false;
    if has_result || has_error {
        changed |= !has_error && message.remove("error").is_some();
        changed |= !has_result && message.remove("result").is_some();
        if !message.contains_key("jsonrpc") {
            message.insert("jsonrpc".to_owned(), json!("2.0"));
            changed = true;
        }
    }
    changed
}

/// Refuses a message that is no JSON-RPC, and one of a known method without its parameters, which rmcp
/// would take for one of an unknown method.
fn check(message: &JsonObject) -> Result<(), InvalidMessage> {
    let id = message.get("id");
    let has = |name| message.contains_key(name);
    let is_response = !has("method") && (has("result") || has("error"));
    let refuse = |reason| InvalidMessage {
        expects_answer: !is_response && (id.is_some() || !has("method")),
        ..InvalidMessage::request(repeatable(id), reason)
    };
    if message.get("jsonrpc").is_none_or(|it| it != "2.0") {
        return Err(refuse(r#"jsonrpc must be "2.0""#));
    }
    if id.is_some_and(|id| RequestId::deserialize(id).is_err()) {
        return Err(refuse("the id must be text or a whole number below 2^63"));
    }
    if is_response && has("result") != has("error") {
        return Ok(());
    }
    let Some(Value::String(method)) = message
        .get("method")
        .filter(|_| !has("result") && !has("error"))
    else {
        return Err(refuse(NOT_A_MESSAGE));
    };
    let params = message.get("params");
    if fits(method, params, id.is_some()) {
        return Ok(());
    }
    let method = text::excerpt(method);
    Err(InvalidMessage {
        code: -32602,
        message: format!("The parameters of {method} are malformed."),
        ..refuse("")
    })
}

/// The id to answer with: scalars are repeated, though they are no ids of MCP.
fn repeatable(id: Option<&Value>) -> Value {
    let id = id.filter(|id| id.is_string() || id.is_number());
    id.cloned().unwrap_or_default()
}

/// Whether these are parameters of this method.
fn fits(method: &str, params: Option<&Value>, is_request: bool) -> bool {
    let params = match params {
        None => return !is_request || !["tools/call", "server/discover"].contains(&method),
        Some(Value::Object(params)) => params,
        Some(_) => return false,
    };
    let is_text = |value: &Value| value.is_null() || value.is_string();
    let all = |name, fits: fn(&Value) -> bool| params.get(name).is_none_or(fits);
    if !all("_meta", Value::is_object) {
        return false;
    }
    match method {
        "tools/call" => {
            params.get("name").is_some_and(Value::is_string)
                && all("arguments", Value::is_object)
                && params.get("requestState").is_none_or(is_text)
                && all("inputResponses", |value| {
                    Option::<InputResponses>::deserialize(value).is_ok()
                })
        }
        "tools/list" => params.get("cursor").is_none_or(is_text),
        _ => true,
    }
}
