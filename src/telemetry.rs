//! What an operator can watch: metrics, and whether Qovery answered lately.
//!
//! Labels take their values from small sets only. What must never be one: an id, a name, a token.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// The metrics of this process. Clones share them.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    requests: IntCounterVec,
    errors: IntCounterVec,
    seconds: HistogramVec,
    attempts: IntCounterVec,
    calls: IntGauge,
    connections: IntGauge,
    under_way: TaskTracker,
    /// When an attempt last showed that no call can succeed now; none after one that can.
    trouble: Mutex<Option<Instant>>,
}

/// How an attempt to get an answer from Qovery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// With this HTTP status.
    Answered(u16),
    /// Without a connection.
    Unreachable,
    /// Without a whole answer, for this reason.
    Broken(&'static str),
}

/// How long trouble upstream keeps the process from being ready.
const TROUBLE: Duration = Duration::from_secs(60);

/// From a refusal at the door to the longest call, in seconds.
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
        let by_call = ["face", "operation", "outcome"];
        let name = |name: &str| format!("qovery_backups_{name}");
        let counter =
            |named, help, labels| IntCounterVec::new(Opts::new(name(named), help), labels);
        let requests = counter("requests_total", "Calls that ended.", &by_call)?;
        let errors = counter("errors_total", "Calls that ended badly.", &by_call)?;
        let options = HistogramOpts::new(name("request_seconds"), "How long calls took.");
        let seconds = HistogramVec::new(options.buckets(BUCKETS.to_vec()), &by_call)?;
        let attempts = counter(
            "upstream_attempts_total",
            "Requests sent to Qovery, by HTTP status or by the reason for having none.",
            &["status"],
        )?;
        let calls = IntGauge::new(name("calls_in_flight"), "Calls being answered.")?;
        let connections = IntGauge::new(name("connections"), "Open connections, on both ports.")?;
        let build = IntGaugeVec::new(Opts::new(name("build_info"), "Always 1."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);

        let registry = Registry::new();
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(attempts.clone()))?;
        registry.register(Box::new(calls.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(build))?;
        Ok(Self(Arc::new(Inner {
            registry,
            requests,
            errors,
            seconds,
            attempts,
            calls,
            connections,
            under_way: TaskTracker::new(),
            trouble: Mutex::new(None),
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

    /// Whether a call could be answered, as far as the calls before it tell: not within a minute
    /// after Qovery refused the key or could not be reached, unless it has answered since.
    #[must_use]
    pub fn qovery_answers(&self) -> bool {
        self.trouble().is_none_or(|since| since.elapsed() > TROUBLE)
    }

    /// The open connections.
    #[must_use]
    pub fn connections(&self) -> &IntGauge {
        &self.0.connections
    }

    /// Counts a call, until what this gives is dropped.
    pub(crate) fn call_began(&self) -> TaskTrackerToken {
        self.0.calls.inc();
        self.0.under_way.token()
    }

    /// Waits until no call is under way.
    pub(crate) async fn calls_ended(&self) {
        self.0.under_way.close();
        self.0.under_way.wait().await;
    }

    /// Whether no call is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.0.under_way.is_empty()
    }

    /// Counts a call by its face, operation and outcome.
    pub(crate) fn call_ended(&self, labels: [&str; 3], well: bool, elapsed: Duration) {
        self.0.calls.dec();
        self.0.requests.with_label_values(&labels).inc();
        if !well {
            self.0.errors.with_label_values(&labels).inc();
        }
        self.0
            .seconds
            .with_label_values(&labels)
            .observe(elapsed.as_secs_f64());
    }

    pub(crate) fn attempted(&self, attempt: Attempt) {
        match attempt {
            Attempt::Answered(401) | Attempt::Unreachable => *self.trouble() = Some(Instant::now()),
            Attempt::Answered(_) => *self.trouble() = None,
            Attempt::Broken(_) => {}
        }
        let label = match attempt {
            Attempt::Answered(status) => &status.to_string(),
            Attempt::Unreachable => "unreachable",
            Attempt::Broken(reason) => reason,
        };
        self.0.attempts.with_label_values(&[label]).inc();
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
