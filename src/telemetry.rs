//! What an operator can watch: a line of the log and a count for each call, and metrics.
//!
//! Labels take their values from small sets only. What must never be one: an id, a name, a token.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::context::{Context, TraceParent};

/// What went well.
pub const OK: &str = "ok";

/// The metrics of this process. Clones share them.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    seconds: HistogramVec,
    attempts: IntCounterVec,
    calls: IntGauge,
    connections: IntGauge,
    last_success: IntGauge,
}

/// A call in flight, from its entry point's view. Dropped before its end, it was abandoned.
#[derive(Debug)]
#[must_use]
pub struct Entry<'a> {
    telemetry: &'a Telemetry,
    context: &'a Context,
    operation: &'static str,
    started: Instant,
    outcome: &'static str,
    status: Option<u16>,
}

/// How an attempt to get an answer from Qovery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// With this HTTP status.
    Answered(u16),
    /// Without an answer, for this reason.
    Failed(&'static str),
}

/// From a refusal before any work to the longest call, in seconds.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 25.0,
];

impl Telemetry {
    /// Metrics that have counted nothing yet.
    ///
    /// # Errors
    ///
    /// When two metrics have one name, or a name is not one.
    pub fn new() -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("qovery_backups_{name}");
        let gauge = |named, help| IntGauge::new(name(named), help);
        let options = HistogramOpts::new(name("request_seconds"), "How long calls took.");
        let by_call = ["interface", "operation", "outcome"];
        let seconds = HistogramVec::new(options.buckets(BUCKETS.to_vec()), &by_call)?;
        let help = "Requests sent to Qovery, by HTTP status or by the reason for having none.";
        let options = Opts::new(name("upstream_attempts_total"), help);
        let attempts = IntCounterVec::new(options, &["status"])?;
        let calls = gauge("calls_in_flight", "Calls being answered.")?;
        let connections = gauge("connections", "Open connections, on both ports.")?;
        let last_success = gauge(
            "upstream_last_success_timestamp_seconds",
            "When Qovery last answered with success, in Unix time; 0 before it has.",
        )?;
        let build = IntGaugeVec::new(Opts::new(name("build_info"), "Always 1."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);

        let registry = Registry::new();
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(attempts.clone()))?;
        registry.register(Box::new(calls.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(last_success.clone()))?;
        registry.register(Box::new(build))?;
        Ok(Self(Arc::new(Inner {
            registry,
            seconds,
            attempts,
            calls,
            connections,
            last_success,
        })))
    }

    /// Everything that was counted, in Prometheus' text format.
    ///
    /// # Errors
    ///
    /// When a metric cannot be written.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.0.registry.gather())
    }

    /// The open connections.
    #[must_use]
    pub fn connections(&self) -> &IntGauge {
        &self.0.connections
    }

    /// Counts and logs a call, once: when what this gives is dropped.
    pub fn begin<'a>(&'a self, context: &'a Context, operation: &'static str) -> Entry<'a> {
        self.0.calls.inc();
        Entry {
            telemetry: self,
            context,
            operation,
            started: Instant::now(),
            outcome: "abandoned",
            status: None,
        }
    }

    pub(crate) fn attempted(&self, attempt: Attempt) {
        let label = match attempt {
            Attempt::Answered(status) => {
                if (200..300).contains(&status) {
                    self.0.last_success.set(Utc::now().timestamp());
                }
                &status.to_string()
            }
            Attempt::Failed(reason) => reason,
        };
        self.0.attempts.with_label_values(&[label]).inc();
    }
}

impl Entry<'_> {
    /// Says what became of the call: [`OK`], or one of few words for what happened instead; and with
    /// which HTTP status it is answered, where it has one.
    pub fn end(mut self, outcome: &'static str, status: Option<u16>) {
        self.outcome = outcome;
        self.status = status;
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let Self {
            context,
            operation,
            outcome,
            ..
        } = *self;
        let metrics = &self.telemetry.0;
        let elapsed: Duration = self.started.elapsed();
        metrics.calls.dec();
        let interface = context.interface.name();
        metrics
            .seconds
            .with_label_values(&[interface, operation, outcome])
            .observe(elapsed.as_secs_f64());
        tracing::info!(
            request_id = %context.request_id,
            caller = context.caller.name(),
            interface,
            operation,
            outcome,
            status = self.status,
            milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            trace_id = context.trace.as_ref().map(TraceParent::trace_id),
            "call"
        );
    }
}
