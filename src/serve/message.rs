//! How a message is read: as the protocol has it; else once more, after what clients are known to get
//! wrong in it is mended; and what still does not read is answered, as far as it can be.

use std::borrow::Cow;

use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientJsonRpcMessage, ClientNotification,
    ClientRequest, GetMeta, InitializeRequestParams, JsonObject, JsonRpcMessage,
    PaginatedRequestParams, ProtocolVersion, RequestId,
};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Value, json};

use crate::text;

/// What of a message the transport over HTTP has to know before it reads it itself.
#[derive(Default)]
pub(super) struct Looked {
    /// The id of a request, of a revision that has sessions.
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

/// What is wrong with a message that has other members than it must.
const MEMBERS: &str = "this is not one JSON-RPC message";

const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// A call of a tool that reads without a doubt, as nearly all messages are. To look at it so takes a tenth
/// of the time that the protocol's types take, which then read it in any case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainCall<'a> {
    jsonrpc: &'a str,
    id: RequestId,
    method: &'a str,
    #[serde(borrow)]
    params: PlainParams<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainParams<'a> {
    #[serde(rename = "name")]
    _name: &'a str,
    #[serde(rename = "arguments", default)]
    _arguments: JsonObject,
    #[serde(borrow, rename = "_meta", default)]
    meta: PlainMeta<'a>,
}

#[derive(Default, Deserialize)]
struct PlainMeta<'a> {
    #[serde(rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<&'a str>,
    #[serde(rename = "io.modelcontextprotocol/clientCapabilities")]
    _capabilities: Option<ClientCapabilities>,
}

/// Looks at a message that the transport over HTTP is to read.
pub(super) fn look(text: &[u8]) -> Result<Looked, Unreadable> {
    if let Ok(call) = serde_json::from_slice::<PlainCall>(text)
        && (call.jsonrpc, call.method) == ("2.0", "tools/call")
    {
        let is_legacy = call.params.meta.version.is_none_or(has_sessions);
        return Ok(Looked {
            id: Some(call.id).filter(|_| is_legacy),
            ..Looked::default()
        });
    }
    let (message, mended) = read(text)?;
    let mut looked = Looked {
        mended,
        ..Looked::default()
    };
    match message {
        JsonRpcMessage::Request(it) => {
            let version = it.request.get_meta().protocol_version();
            let is_legacy = version.is_none_or(|version| has_sessions(version.as_str()));
            looked.begins_session = matches!(it.request, ClientRequest::InitializeRequest(_));
            looked.id = Some(it.id).filter(|_| is_legacy);
        }
        JsonRpcMessage::Notification(it) => {
            if let ClientNotification::CancelledNotification(it) = it.notification {
                looked.cancels = it.params.request_id;
            }
        }
        _ => {}
    }
    Ok(looked)
}

fn has_sessions(version: &str) -> bool {
    version < ProtocolVersion::V_2026_07_28.as_str()
}

/// Reads a message; where it had to be mended, with the text that it reads as.
pub(super) fn read(text: &[u8]) -> Result<(ClientJsonRpcMessage, Option<Vec<u8>>), Unreadable> {
    if let Some(message) = strictly(text) {
        return Ok((message, None));
    }
    // RFC 8259, section 8.1.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else {
        return Err(Unreadable {
            id: legible_id(text),
            code: -32700,
            message: "Parse error: this cannot be read as JSON.".to_owned(),
        });
    };
    let Value::Object(fields) = &mut value else {
        let id = value.is_array().then(|| "null".to_owned());
        return Err(Unreadable::invalid(id, MEMBERS));
    };
    mend(fields);
    let mended = value.to_string().into_bytes();
    match strictly(&mended) {
        Some(message) => Ok((message, Some(mended))),
        None => Err(fault(&value, legible_id(text))),
    }
}

/// What is wrong with a request whose id another one has, of which the answer is still awaited.
pub(super) const DOUBLED: &str =
    "a request with this id is still being answered. Nothing was done for this one";

/// What is wrong with a request on a connection, or in a session, that has not begun.
pub(super) const UNBEGUN: &str =
    "begin with initialize, or send the _meta of 2026-07-28 with each request";

impl Unreadable {
    /// A request that reads, and is refused all the same.
    pub(super) fn request(id: &RequestId, reason: &str) -> Self {
        Self::invalid(Some(json!(id).to_string()), reason)
    }

    /// A message of which no more than the beginning is looked at.
    pub(super) fn beginning(text: &[u8], reason: &str) -> Self {
        Self::invalid(legible_id(text), reason)
    }

    fn invalid(id: Option<String>, reason: &str) -> Self {
        Self {
            id,
            code: -32600,
            message: format!("Invalid request: {reason}."),
        }
    }

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
                // They overlook parameters that do not fit where there need be none.
                ClientRequest::ListToolsRequest(list) if list.params.is_none() => {
                    !contains(text, b"\"cursor\"")
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
            text::parse_embedded_json(arguments);
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

/// Of what a client can do, only how it asks a person matters here. Whoever says anything of it is asked:
/// one that cannot will say so.
fn mend_capabilities(capabilities: &mut Value) {
    let says = |value: &Value| !value.is_null() && *value != false;
    let mut mended = json!({});
    let asks = &capabilities["elicitation"];
    if says(asks) {
        mended["elicitation"] = json!({});
        for mode in ["form", "url"] {
            if says(&asks[mode]) {
                mended["elicitation"][mode] = json!({});
            }
        }
    }
    *capabilities = mended;
}

/// Why a message that is an object does not read.
fn fault(message: &Value, id: Option<String>) -> Unreadable {
    if message["jsonrpc"] != "2.0" {
        return Unreadable::invalid(id, r#"jsonrpc must be "2.0""#);
    }
    let written = message.get("id");
    if written.is_some_and(|id| serde_json::from_value::<RequestId>(id.clone()).is_err()) {
        let reason = "the id must be text or a whole number below 2^63";
        return Unreadable::invalid(id, reason);
    }
    let answers = ["result", "error"].map(|name| message.get(name).is_some());
    let method = message["method"].as_str();
    let Some(method) = method.filter(|_| !answers.contains(&true)) else {
        return Unreadable::invalid(id, MEMBERS);
    };
    let params = &message["params"];
    let reason = match method {
        "initialize" => misfit::<InitializeRequestParams>(params),
        "tools/call" => misfit::<CallToolRequestParams>(params),
        "tools/list" => misfit::<Option<PaginatedRequestParams>>(params),
        _ => misfit::<Option<JsonObject>>(params),
    };
    let method = text::excerpt(method);
    let reason = reason.unwrap_or_else(|| "they have members that do not fit".to_owned());
    Unreadable {
        id,
        code: -32602,
        message: format!("The parameters of {method} are malformed: {reason}."),
    }
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
    Some(text::excerpt(&format!("params{path}: {reason}")))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
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
