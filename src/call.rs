//! One call: who asks, on which face, and what became of it. Every room that it passes adds what it
//! knows; when the last one lets go of it, it becomes one line of the log and one count.
//!
//! What must never live here: an id of a database or a backup, a name, a token or a body.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

pub use crate::context::{RequestId, TraceParent};
use crate::{
    shares::Permit,
    telemetry::{Attempt, Telemetry},
};

/// Where a call came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// MCP, over standard input or HTTP.
    Mcp,
    /// The REST API.
    Rest,
}

/// A call, from the request that asks for it to the answer.
#[derive(Debug)]
pub struct Call {
    id: RequestId,
    face: Face,
    caller: OnceLock<String>,
    trace: OnceLock<TraceParent>,
    cancellation: OnceLock<CancellationToken>,
    started: Instant,
    attempts: AtomicU32,
    record: Mutex<Record>,
    telemetry: Telemetry,
    held: Mutex<Vec<Permit>>,
    _under_way: TaskTrackerToken,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    operation: &'static str,
    outcome: Option<&'static str>,
    status: Option<u16>,
}

/// What went well.
pub const OK: &str = "ok";

/// A person has to be asked before the call can go on.
pub const INPUT_REQUIRED: &str = "input_required";

/// A person was asked, and did not say yes.
pub const NOT_CONFIRMED: &str = "not_confirmed";

impl Call {
    /// A call that begins now.
    #[must_use]
    pub fn begin(id: RequestId, face: Face, telemetry: &Telemetry) -> Arc<Self> {
        let under_way = telemetry.call_began();
        Arc::new(Self {
            id,
            face,
            caller: OnceLock::new(),
            trace: OnceLock::new(),
            cancellation: OnceLock::new(),
            started: Instant::now(),
            attempts: AtomicU32::new(0),
            record: Mutex::new(Record {
                operation: "other",
                outcome: None,
                status: None,
            }),
            telemetry: telemetry.clone(),
            held: Mutex::default(),
            _under_way: under_way,
        })
    }

    /// Its id, which the answer repeats.
    #[must_use]
    pub fn id(&self) -> &RequestId {
        &self.id
    }

    /// Where it came in.
    #[must_use]
    pub fn face(&self) -> Face {
        self.face
    }

    /// Says who asks. Whoever knows it first is right: a token's name comes before what a client
    /// says of itself.
    pub fn set_caller(&self, caller: impl Into<String>) {
        self.caller.get_or_init(|| caller.into());
    }

    /// Who asks: the name of an access token, else the name that a client gave itself.
    #[must_use]
    pub fn caller(&self) -> &str {
        self.caller.get().map_or("anonymous", String::as_str)
    }

    /// Says which trace it belongs to. The first one holds.
    pub fn set_trace(&self, trace: TraceParent) {
        self.trace.get_or_init(|| trace);
    }

    /// The trace that it belongs to.
    #[must_use]
    pub fn trace(&self) -> Option<&TraceParent> {
        self.trace.get()
    }

    /// Says how its caller can take it back. The first one holds.
    pub fn set_cancellation(&self, token: CancellationToken) {
        self.cancellation.get_or_init(|| token);
    }

    /// Waits until its caller has taken it back, which may be for ever.
    pub async fn cancelled(&self) {
        match self.cancellation.get() {
            Some(token) => token.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Says what is asked for. One of few names: it becomes a label of the metrics.
    pub fn set_operation(&self, operation: &'static str) {
        self.with_record(|record| record.operation = operation);
    }

    /// Says what became of it: [`OK`], or the kind of failure. One of few names, too. The first one
    /// holds: the room where it failed knows best.
    pub fn set_outcome(&self, outcome: &'static str) {
        self.with_record(|record| {
            record.outcome.get_or_insert(outcome);
        });
    }

    /// Says with which HTTP status it is answered. A stream of events has one before it has an
    /// outcome.
    pub fn set_status(&self, status: u16) {
        self.with_record(|record| record.status = Some(status));
    }

    /// Keeps what it takes until the call has ended, even if its caller goes away before.
    pub fn hold(&self, permit: Permit) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.push(permit);
    }

    /// Counts an attempt to get an answer from Qovery.
    pub fn attempted(&self, attempt: Attempt) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.telemetry.attempted(attempt);
    }

    fn with_record(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let record = *self
            .record
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let outcome = match (record.outcome, record.status) {
            (Some(outcome), _) => outcome,
            (None, Some(..400)) => OK,
            (None, Some(_)) => "refused",
            // Whoever asked went away before there was an answer.
            (None, None) => "abandoned",
        };
        let elapsed = self.started.elapsed();
        let labels = [self.face.name(), record.operation, outcome];
        let went_well = [OK, INPUT_REQUIRED, NOT_CONFIRMED].contains(&outcome);
        self.telemetry.call_ended(labels, went_well, elapsed);
        tracing::info!(
            request_id = %self.id,
            caller = self.caller(),
            face = self.face.name(),
            operation = record.operation,
            outcome,
            status = record.status,
            milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            attempts = self.attempts.load(Ordering::Relaxed),
            trace_id = self.trace().map(TraceParent::trace_id),
            "call"
        );
    }
}

impl Face {
    /// Its name in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mcp => "mcp",
            Self::Rest => "rest",
        }
    }
}
