//! Observability: metrics, one log line per call, and the log itself.
//!
//! Label values come from small sets. What must never be one: an id, a name, a token.

mod log;

use std::{
    fmt::Display,
    sync::{LazyLock, OnceLock},
    time::Instant,
};

use chrono::Utc;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    register_histogram_vec_with_registry, register_int_counter_vec_with_registry,
    register_int_gauge_vec_with_registry, register_int_gauge_with_registry,
};

use crate::context::{Context, TraceParent};
pub use log::{Flush, LogFormat, init_log};

/// The outcome of a call that succeeded.
pub const OK: &str = "ok";

/// From a refusal before any work to the longest call, in seconds.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 25.0,
];

/// The metrics of this process.
static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "fails only for a wrong name")]
    Metrics::register().expect("names are valid and registered once")
});

struct Metrics {
    registry: Registry,
    seconds: HistogramVec,
    attempts: IntCounterVec,
    calls: IntGauge,
    connections: IntGauge,
    last_success: IntGauge,
}

impl Metrics {
    fn register() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("qovery_backups".to_owned()), None)?;
        let gauge = |name, help| register_int_gauge_with_registry!(name, help, registry);
        let options = HistogramOpts::new("request_seconds", "How long calls took.");
        let options = options.buckets(BUCKETS.to_vec());
        let by_call = ["interface", "operation", "outcome"];
        let seconds = register_histogram_vec_with_registry!(options, &by_call, registry)?;
        let help = "Requests sent to Qovery, by HTTP status or by the reason for having none.";
        let options = Opts::new("upstream_attempts_total", help);
        let attempts = register_int_counter_vec_with_registry!(options, &["status"], registry)?;
        let options = Opts::new("build_info", "Always 1.");
        let build = register_int_gauge_vec_with_registry!(options, &["version"], registry)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            calls: gauge("calls_in_flight", "Calls being answered.")?,
            connections: gauge("connections", "Open connections, on both ports.")?,
            last_success: gauge(
                "upstream_last_success_timestamp_seconds",
                "When Qovery last answered with success, in Unix time; 0 before it has.",
            )?,
            registry,
            seconds,
            attempts,
        })
    }
}

/// All metrics in Prometheus' text format.
///
/// # Errors
///
/// When a metric cannot be encoded.
pub fn encode_metrics() -> Result<String, prometheus::Error> {
    TextEncoder::new().encode_to_string(&METRICS.registry.gather())
}

/// The gauge of open HTTP connections.
pub fn connections() -> &'static IntGauge {
    &METRICS.connections
}

/// Counts an attempt of a request to Qovery, by the HTTP status of its answer or the reason for having
/// none.
pub fn count_attempt(status: Result<u16, &'static str>) {
    let label = match status {
        Ok(status) => {
            if (200..300).contains(&status) {
                METRICS.last_success.set(Utc::now().timestamp());
            }
            &status.to_string()
        }
        Err(reason) => reason,
    };
    METRICS.attempts.with_label_values(&[label]).inc();
}

/// A call in flight. It is counted and logged once, when this is dropped: as `abandoned`, unless
/// [`end`](Self::end) was called.
#[derive(Debug)]
#[must_use]
pub struct Call<'a> {
    context: &'a Context,
    operation: &'static str,
    started: Instant,
    outcome: &'static str,
    status: Option<u16>,
    target: OnceLock<Target>,
    problem: Option<String>,
}

/// The database and the backups that a call names.
type Target = (String, Option<String>);

impl<'a> Call<'a> {
    /// Begins to measure a call.
    pub fn begin(context: &'a Context, operation: &'static str) -> Self {
        METRICS.calls.inc();
        Self {
            context,
            operation,
            started: Instant::now(),
            outcome: "abandoned",
            status: None,
            target: OnceLock::new(),
            problem: None,
        }
    }

    /// Sets what a change is about, for the log.
    pub fn about(&self, database: impl Display, backups: Option<String>) {
        self.target.get_or_init(|| (database.to_string(), backups));
    }

    /// Sets the sentence that the caller gets, if the operator has to act on it.
    pub fn alert(&mut self, problem: &str) {
        self.problem = Some(problem.to_owned());
    }

    /// Sets the outcome, [`OK`] or the kind of failure, and the HTTP status where there is one.
    pub fn end(mut self, outcome: &'static str, status: Option<u16>) {
        self.outcome = outcome;
        self.status = status;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let (context, operation, outcome) = (self.context, self.operation, self.outcome);
        let elapsed = self.started.elapsed();
        METRICS.calls.dec();
        let interface = context.interface.name();
        METRICS
            .seconds
            .with_label_values(&[interface, operation, outcome])
            .observe(elapsed.as_secs_f64());
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    request_id = context.request_id.as_str(),
                    caller = context.caller.name(),
                    peer = context.peer.map(tracing::field::display),
                    forwarded_for = context.forwarded_for.as_deref(),
                    interface,
                    operation,
                    database_id = self.target.get().map(|target| &*target.0),
                    backup_ids = self.target.get().and_then(|target| target.1.as_deref()),
                    outcome,
                    status = self.status,
                    milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                    trace_id = context.trace.as_ref().map(TraceParent::trace_id),
                    problem = self.problem,
                    "call"
                )
            };
        }
        if self.problem.is_some() {
            log!(warn);
        } else if operation == "other" && outcome == OK {
            // The page, the OpenAPI document and scrapes of the metrics.
            log!(debug);
        } else {
            log!(info);
        }
    }
}
