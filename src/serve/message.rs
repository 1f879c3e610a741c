//! How a message is read: as the protocol has it; else once more, after what clients are known to get
//! wrong in it is mended; and what still does not read is answered, as far as it can be.

use std::borrow::Cow;

use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientJsonRpcMessage, ClientNotification,
    ClientRequest, GetMeta, InitializeRequestParams, JsonObject, JsonRpcMessage, RequestId,
};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use crate::{clean, json};

/// What of a message the transport over HTTP has to know before it reads it itself.
#[derive(Default)]
pub(super) struct Looked {
    /// The id of a request.
    pub(super) id: Option<RequestId>,
    /// The id of a request that is not to be answered any more.
    pub(super) cancels: Option<RequestId>,
    /// Whether it begins a session.
    pub(super) begins_session: bool,
    /// What it reads as, if that is not what was sent.
    pub(super) mended: Option<Vec<u8>>,
}

/// A message that does not read, and what to tell its sender (JSON-RPC 2.0, section 5.1).
#[derive(Debug)]
pub(super) struct Unreadable {
    /// The id, as it was written. Without one, nobody waits for an answer.
    id: Option<String>,
    pub(super) code: i32,
    message: String,
}

/// The methods of which the parameters are checked.
const METHODS: [&str; 5] = [
    "initialize",
    "ping",
    "server/discover",
    "tools/call",
    "tools/list",
];

const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// Looks at a message without reading all of it, unless it is an odd one.
pub(super) fn look(text: &[u8]) -> Result<Looked, Unreadable> {
    if let Ok(value) = serde_json::from_slice::<Value>(text)
        && is_plain_call(&value)
    {
        return Ok(Looked {
            id: typed(&value["id"]),
            ..Looked::default()
        });
    }
    let (message, mended) = read(text)?;
    let mut looked = Looked {
        mended,
        ..Looked::default()
    };
    match message {
        JsonRpcMessage::Request(request) => {
            looked.id = Some(request.id);
            looked.begins_session = matches!(request.request, ClientRequest::InitializeRequest(_));
        }
        JsonRpcMessage::Notification(notification) => {
            if let ClientNotification::CancelledNotification(it) = notification.notification {
                looked.cancels = it.params.request_id;
            }
        }
        _ => {}
    }
    Ok(looked)
}

/// Reads a message; where it had to be mended, with the text that it reads as.
pub(super) fn read(text: &[u8]) -> Result<(ClientJsonRpcMessage, Option<Vec<u8>>), Unreadable> {
    if let Some(message) = strictly(text) {
        return Ok((message, None));
    }
    let refuse = |(code, message)| Unreadable {
        id: legible_id(text),
        code,
        message,
    };
    // RFC 8259, section 8.1.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else {
        return Err(refuse((
            -32700,
            "Parse error: this is not JSON.".to_owned(),
        )));
    };
    let Value::Object(fields) = &mut value else {
        let reason = "Invalid request: this is not one JSON-RPC message.".to_owned();
        return Err(Unreadable {
            id: value.is_array().then(|| "null".to_owned()),
            ..refuse((-32600, reason))
        });
    };
    mend(fields);
    let mended = value.to_string().into_bytes();
    match strictly(&mended) {
        Some(message) => Ok((message, Some(mended))),
        None => Err(refuse(fault(&value))),
    }
}

/// A message that is larger than any that this server takes.
pub(super) fn too_long(beginning: &[u8], most: usize) -> Unreadable {
    Unreadable {
        id: legible_id(beginning),
        code: -32600,
        message: format!("Invalid request: it is larger than {} MiB.", most >> 20),
    }
}

/// A request of an id of which the answer is still awaited.
pub(super) fn doubled(id: &RequestId) -> Unreadable {
    Unreadable {
        id: Some(json!(id).to_string()),
        code: -32600,
        message:
            "Invalid request: a request with this id is still being answered. Nothing was done \
                  for this one."
                .to_owned(),
    }
}

/// A request on a connection that has not begun.
pub(super) fn unbegun(id: &RequestId) -> Unreadable {
    Unreadable {
        id: Some(json!(id).to_string()),
        code: -32600,
        message:
            "Invalid request: begin with initialize, or send the _meta of 2026-07-28 with each \
                  request."
                .to_owned(),
    }
}

impl Unreadable {
    /// The answer, if somebody waits for it.
    pub(super) fn answer(&self) -> Option<String> {
        self.id.as_ref().map(|_| self.to_json())
    }

    /// The answer, to nobody in particular if nobody can be told from it.
    pub(super) fn to_json(&self) -> String {
        let error = json!({ "code": self.code, "message": self.message });
        let id = self.id.as_deref().unwrap_or("null");
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
    }
}

/// Whether this is a call of a tool that reads without a doubt. Most messages are.
fn is_plain_call(message: &Value) -> bool {
    let (id, params) = (&message["id"], &message["params"]);
    let is_object = |value: &Value| value.is_object() || value.is_null();
    let meta = &params["_meta"];
    message["jsonrpc"] == "2.0"
        && message["method"] == "tools/call"
        && (id.is_i64() || id.is_string())
        && message.get("result").is_none()
        && message.get("error").is_none()
        && params["name"].is_string()
        && is_object(&params["arguments"])
        && (meta.is_object() || params.get("_meta").is_none())
        && (meta
            .get(CAPABILITIES)
            .is_none_or(reads::<ClientCapabilities>))
        && params.get("requestState").is_none_or(Value::is_string)
        && params.get("inputResponses").is_none_or(Value::is_object)
}

/// What the protocol's own types make of it. A request of the protocol that they take for a foreign one
/// does not have the parameters of its method.
fn strictly(text: &[u8]) -> Option<ClientJsonRpcMessage> {
    let message: ClientJsonRpcMessage = serde_json::from_slice(text).ok()?;
    let reads = match &message {
        JsonRpcMessage::Request(request) => {
            let meta = request.request.get_meta();
            match &request.request {
                // 2026-07-28 has no handshake: what looks like one is not to be made into one.
                ClientRequest::CustomRequest(custom) => {
                    !METHODS.contains(&custom.method.as_str())
                        || (custom.method == "initialize" && meta.protocol_version().is_some())
                }
                _ => !meta.contains_key(CAPABILITIES) || meta.client_capabilities().is_some(),
            }
        }
        _ => true,
    };
    reads.then_some(message)
}

/// What clients are known to send, and what they mean by it.
fn mend(message: &mut JsonObject) {
    // PHP writes an object without members as a list.
    let is_nothing = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    message.retain(|name, value| name != "params" || !is_nothing(value));
    let method = message.get("method").and_then(Value::as_str);
    let (handshake, call) = (method == Some("initialize"), method == Some("tools/call"));
    if handshake {
        mend_handshake(message.entry("params").or_insert_with(|| json!({})));
    }
    let Some(Value::Object(params)) = message.get_mut("params") else {
        return;
    };
    params.retain(|name, value| name != "_meta" || !is_nothing(value));
    if let Some(capabilities) = params
        .get_mut("_meta")
        .and_then(|meta| meta.get_mut(CAPABILITIES))
    {
        mend_capabilities(capabilities);
    }
    if call {
        params.retain(|name, value| name != "arguments" || !is_nothing(value));
        if let Some(arguments) = params.get_mut("arguments") {
            json::unpack(arguments);
        }
    }
}

/// Of a handshake, this server needs nothing but to know what its client can do. A revision that nobody
/// knows is answered with the newest one.
fn mend_handshake(params: &mut Value) {
    if !params.is_object() {
        return;
    }
    let text = |value: &Value, default| value.as_str().unwrap_or(default).to_owned();
    let client = &params["clientInfo"];
    let version = text(&params["protocolVersion"], "");
    let client = ["name", "version"].map(|name| text(&client[name], "unknown"));
    let mut capabilities = params["capabilities"].take();
    mend_capabilities(&mut capabilities);
    *params = json!({
        "protocolVersion": version,
        "capabilities": capabilities,
        "clientInfo": { "name": client[0], "version": client[1] },
    });
}

/// Of what a client can do, only how it asks a person matters here. `true` stands for an object without
/// members.
fn mend_capabilities(capabilities: &mut Value) {
    let object = |value: &Value| value.is_object() || *value == true;
    let mut mended = json!({});
    let asks = &capabilities["elicitation"];
    if object(asks) {
        mended["elicitation"] = json!({});
        for mode in ["form", "url"]
            .into_iter()
            .filter(|mode| object(&asks[mode]))
        {
            mended["elicitation"][mode] = json!({});
        }
    }
    *capabilities = mended;
}

/// Why a message that is an object does not read: the code of the error, and its words.
fn fault(message: &Value) -> (i32, String) {
    let invalid = |reason| (-32600, format!("Invalid request: {reason}."));
    let id = message.get("id");
    if message["jsonrpc"] != "2.0" {
        return invalid(r#"jsonrpc must be "2.0""#);
    }
    if id.is_some_and(|id| typed::<RequestId>(id).is_none()) {
        return invalid("the id must be text or a whole number below 2^63");
    }
    let Some(method) = message["method"].as_str() else {
        return invalid("this is not one JSON-RPC message");
    };
    let params = &message["params"];
    let reason = match method {
        "initialize" => misfit::<InitializeRequestParams>(params),
        "tools/call" => misfit::<CallToolRequestParams>(params),
        _ => misfit::<JsonObject>(params),
    };
    let method = clean::excerpt(method);
    let reason = reason.unwrap_or_else(|| "they have members that do not fit".to_owned());
    (
        -32602,
        format!("The parameters of {method} are malformed: {reason}."),
    )
}

/// Which parameter does not fit a type, and why.
fn misfit<T: DeserializeOwned>(params: &Value) -> Option<String> {
    let error = serde_path_to_error::deserialize::<_, T>(params).err()?;
    let path = error.path().to_string();
    let reason = error.into_inner().to_string();
    let path = if path == "." {
        String::new()
    } else {
        format!(".{path}")
    };
    Some(clean::excerpt(&format!("params{path}: {reason}")))
}

fn typed<T: DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

fn reads<T: DeserializeOwned>(value: &Value) -> bool {
    typed::<T>(value).is_some()
}

/// The id of a message of which the rest may be no JSON, as it was written: text or a number.
fn legible_id(text: &[u8]) -> Option<String> {
    let (mut depth, mut at) = (0, 0);
    let mut key: &[u8] = b"";
    while let Some(byte) = text.get(at) {
        let token = &text[at..];
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b':' if depth == 1 && key == br#""id""# => {
                return scalar(token[1..].trim_ascii_start());
            }
            b'"' => {
                key = string(token)?;
                at += key.len();
                continue;
            }
            _ => {}
        }
        if !byte.is_ascii_whitespace() && *byte != b':' {
            key = b"";
        }
        at += 1;
    }
    None
}

/// The text or the number at the beginning of this.
fn scalar(text: &[u8]) -> Option<String> {
    let token = if text.starts_with(b"\"") {
        string(text)?
    } else {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let end = text.iter().position(|byte| !is_part(byte))?;
        Some(&text[..end]).filter(|token| !token.starts_with(b"n"))?
    };
    let token = String::from_utf8_lossy(token);
    let is_json = serde_json::from_str::<IgnoredAny>(&token).is_ok();
    let is_flag = ["true", "false"].contains(&&*token);
    (is_json && !is_flag).then(|| Cow::into_owned(token))
}

/// The text at the beginning of this, with its quotes.
fn string(text: &[u8]) -> Option<&[u8]> {
    let mut escaped = false;
    let end = text.iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    text.get(..end + 2)
}
