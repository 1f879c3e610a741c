//! The immutable context of a call: request id, caller, interface, deadline, cancellation, trace.
//!
//! It goes down with the call; results come back up in return values. What must never live here: an id
//! of a database or a backup, a token, a body, or an outcome.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::credentials::{Credentials, KeyId};

/// The context of one call.
#[derive(Clone, Debug)]
pub struct Context {
    /// The request id, which the answer repeats.
    pub request_id: RequestId,
    /// The interface that received the call.
    pub interface: Interface,
    /// Who calls.
    pub caller: Caller,
    /// What the caller may do.
    pub role: Role,
    /// The caller's own key, where callers bring theirs: the only one that the call may use.
    pub key: Option<Arc<Credentials>>,
    /// When the call must be answered.
    pub deadline: Deadline,
    /// Cancelled when the answer is no longer wanted.
    pub cancellation: CancellationToken,
    /// Whether the caller accepts server-sent events before the answer.
    pub accepts_events: bool,
    /// The distributed trace that the call belongs to.
    pub trace: Option<TraceParent>,
    /// The address that the call came from, over HTTP.
    pub peer: Option<SocketAddr>,
    /// The address that a proxy in front gives for its client.
    pub forwarded_for: Option<Arc<str>>,
}

/// The interface that received a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// MCP, over stdio or HTTP.
    Mcp,
    /// The REST API.
    Rest,
}

/// Who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Caller {
    /// The holder of an access token, by the token's name, or who signed in: the only authenticated identity.
    Token(Arc<str>),
    /// The holder of a key, by the beginning of its digest: no identity, and no other client can claim it.
    Key(Arc<str>),
    /// The name and version that a client claims, or its `User-Agent`.
    Client(Arc<str>),
    /// Unidentified.
    #[default]
    Anonymous,
}

/// What the holder of an access token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything: the token has no role, or none is needed.
    All,
    /// Read: list backups, and read the metrics.
    Read,
    /// Read the metrics alone.
    Metrics,
}

/// The instant at which a call must be answered.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Context {
    /// A context with a new request id, an anonymous caller and a deadline `time` from now.
    pub fn new(interface: Interface, time: Duration) -> Self {
        Self {
            request_id: RequestId::default(),
            interface,
            caller: Caller::Anonymous,
            role: Role::All,
            key: None,
            deadline: Deadline::after(time),
            cancellation: CancellationToken::new(),
            accepts_events: true,
            trace: None,
            peer: None,
            forwarded_for: None,
        }
    }

    /// What is remembered is remembered of this key, where callers bring theirs.
    pub fn key_id(&self) -> Option<KeyId> {
        self.key.as_ref().map(|key| key.id)
    }

    /// The same call with another deadline.
    #[must_use]
    pub fn with_deadline(&self, deadline: Deadline) -> Self {
        Self {
            deadline,
            ..self.clone()
        }
    }

    /// The same call, no longer cancellable by its caller: for settling the outcome of a change.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self {
            cancellation: CancellationToken::new(),
            ..self.clone()
        }
    }
}

impl Interface {
    /// The value of the `interface` label in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mcp => "mcp",
            Self::Rest => "rest",
        }
    }
}

impl Caller {
    /// The caller's name in logs and in the audit trail.
    pub fn name(&self) -> &str {
        match self {
            Self::Token(name) | Self::Key(name) | Self::Client(name) => name,
            Self::Anonymous => "anonymous",
        }
    }

    /// The name of the caller's access token or key, if there is one. Client names are not identities: a
    /// client can claim any.
    pub fn own_name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Token(name) | Self::Key(name) => Some(name),
            Self::Client(_) | Self::Anonymous => None,
        }
    }
}

impl Deadline {
    /// `time` from now.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// Earlier by `time`, which is reserved for later work.
    #[must_use]
    pub fn reserve(self, time: Duration) -> Self {
        Self(self.0.checked_sub(time).unwrap_or(self.0))
    }

    /// The time that is left, zero after the deadline.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The instant itself.
    pub fn at(self) -> Instant {
        self.0
    }
}

/// The id of one call: the caller's `X-Request-Id` if it is safe to log, else a new UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Accepts a caller's id of 1 to 128 unreserved characters (RFC 3986, section 2.3).
    pub fn parse(text: &str) -> Option<Self> {
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let valid = (1..=128).contains(&text.len()) && text.bytes().all(unreserved);
        valid.then(|| Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for RequestId {
    /// A new UUID (version 4).
    fn default() -> Self {
        Self(Uuid::new_v4().to_string().into())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A call's position in a distributed trace (W3C Trace Context, "traceparent Header").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(Arc<str>);

impl TraceParent {
    /// Accepts a valid value of version 00.
    pub fn parse(text: &str) -> Option<Self> {
        let [version, trace, parent, flags] = text.split('-').collect::<Vec<_>>()[..] else {
            return None;
        };
        let is_hex = |part: &str, length| {
            let lower_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            part.len() == length && part.bytes().all(lower_hex)
        };
        let is_zero = |part: &str| part.bytes().all(|byte| byte == b'0');
        let valid = version == "00"
            && is_hex(trace, 32)
            && !is_zero(trace)
            && is_hex(parent, 16)
            && !is_zero(parent)
            && is_hex(flags, 2);
        valid.then(|| Self(text.into()))
    }

    /// The header's value.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trace id, common to all calls of the trace.
    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_safe_request_id_is_accepted() {
        let id = RequestId::parse("a-1._~Z").unwrap();
        assert_eq!(id.as_str(), "a-1._~Z");
        let long = "x".repeat(129);
        for text in ["", "a b", "a\nb", "a\"b", "é", "a/b", long.as_str()] {
            assert_eq!(RequestId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn only_a_valid_traceparent_is_accepted() {
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = TraceParent::parse(valid).unwrap();
        assert_eq!(trace.as_str(), valid);
        assert_eq!(trace.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        for text in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01\n",
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text:?}");
        }
    }
}
