//! What goes down with a call: who asks, through which interface, until when, and how it is called
//! off. It never changes on the way; what becomes of the call comes back up in what is returned.
//!
//! What must never live here: an id of a database or a backup, a token, a body, or an outcome.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A call, as every layer below its entry point sees it.
#[derive(Clone, Debug)]
pub struct Context {
    /// Its id, which the answer repeats.
    pub request_id: RequestId,
    /// Where it came in.
    pub interface: Interface,
    /// Who asks.
    pub caller: Caller,
    /// When it must have been answered.
    pub deadline: Deadline,
    /// Cancelled when nobody wants the answer any more.
    pub cancellation: CancellationToken,
    /// Whether the caller can be told anything before the answer.
    pub takes_events: bool,
    /// The trace that it belongs to.
    pub trace: Option<TraceParent>,
}

/// Where a call came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// MCP, over standard input or HTTP.
    Mcp,
    /// The REST API.
    Rest,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Caller {
    /// The holder of an access token, by the token's name. Only these are told apart for sure.
    Token(Arc<str>),
    /// What a client says of itself: its name and version, or its `User-Agent`.
    Client(Arc<str>),
    /// Nobody who said anything.
    #[default]
    Anonymous,
}

/// When a call must have been answered, whatever it still wanted to do.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Context {
    /// A call that nobody has said anything of yet.
    #[must_use]
    pub fn new(interface: Interface, time: Duration) -> Self {
        Self {
            request_id: RequestId::new(),
            interface,
            caller: Caller::Anonymous,
            deadline: Deadline::after(time),
            cancellation: CancellationToken::new(),
            takes_events: true,
            trace: None,
        }
    }

    /// The same call with more time, or with less.
    #[must_use]
    pub fn until(&self, deadline: Deadline) -> Self {
        Self {
            deadline,
            ..self.clone()
        }
    }

    /// The same call, which its caller can no longer call off: for finding out what became of a
    /// change.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self {
            cancellation: CancellationToken::new(),
            ..self.clone()
        }
    }
}

impl Interface {
    /// Its name in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mcp => "mcp",
            Self::Rest => "rest",
        }
    }
}

impl Caller {
    /// Its name in logs and in the audit trail.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Token(name) | Self::Client(name) => name,
            Self::Anonymous => "anonymous",
        }
    }

    /// What tells it apart from others, where anything does: anybody can call itself anything.
    #[must_use]
    pub fn account(&self) -> Option<&str> {
        match self {
            Self::Token(name) => Some(name),
            Self::Client(_) | Self::Anonymous => None,
        }
    }
}

impl Deadline {
    /// So long from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// An earlier one, which leaves `rest` for what is to be done afterwards.
    #[must_use]
    pub fn leaving(self, rest: Duration) -> Self {
        Self(self.0.checked_sub(rest).unwrap_or(self.0))
    }

    /// The time that is left.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The moment itself.
    #[must_use]
    pub fn at(self) -> Instant {
        self.0
    }
}

/// The id of one call: what a caller sent, if it is fit for a log, else a new UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// A new id.
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::new_v4().to_string().into())
    }

    /// A caller's own id, if it is 1 to 128 of the characters that mean nothing in a log, a URI or a
    /// header.
    #[must_use]
    pub fn sane(text: &str) -> Option<Self> {
        let sane = (1..=128).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
        sane.then(|| Self(text.into()))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The position of a call in a distributed trace (W3C Trace Context, "traceparent Header").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(Arc<str>);

impl TraceParent {
    /// A header's value, if it is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hexadecimal = |part: &str, length| {
            part.len() == length
                && part
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let not_zero = |part: &str| part.bytes().any(|byte| byte != b'0');
        let mut parts = text.split('-');
        let (version, trace, parent, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let valid = version == "00"
            && hexadecimal(trace, 32)
            && not_zero(trace)
            && hexadecimal(parent, 16)
            && not_zero(parent)
            && hexadecimal(flags, 2)
            && parts.next().is_none();
        valid.then(|| Self(text.into()))
    }

    /// The header's value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id that all calls of a trace share.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sane_request_id_is_taken_over() {
        assert_eq!(
            RequestId::sane("a-1._~Z").map(|id| id.to_string()),
            Some("a-1._~Z".to_owned())
        );
        let long = "x".repeat(129);
        for text in ["", "a b", "a\nb", "a\"b", "é", "a/b", long.as_str()] {
            assert_eq!(RequestId::sane(text), None, "{text:?}");
        }
    }

    #[test]
    fn only_a_valid_traceparent_is_passed_on() {
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
