//! What one process has once, and all of its layers share: its limits, its metrics, its memory for
//! bodies, and how it ends.

use std::sync::Arc;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{limits::Limits, shares::Shares, telemetry::Telemetry};

/// The process, as its layers see it. Clones share it.
#[derive(Clone, Debug)]
pub struct Process {
    /// How long, how many, how large.
    pub limits: Arc<Limits>,
    /// What an operator can watch.
    pub telemetry: Telemetry,
    /// Bytes that the bodies of requests and Qovery's answers may take at once.
    pub memory: Shares,
    /// How it is asked to end.
    pub shutdown: Shutdown,
}

/// How a process ends, in the order in which it comes to it: to cancel a later step cancels those
/// before it.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// The host has closed standard input: nothing is attempted again.
    pub winding_down: CancellationToken,
    /// A signal came: what was not sent yet is called off, and what was is waited for.
    pub requested: CancellationToken,
    /// Nothing is waited for any more: what is still open is recorded as unknown.
    pub over: CancellationToken,
    /// A signal came when it was winding down already: there is less time until it is over.
    hurried: CancellationToken,
}

impl Process {
    /// A process that has done nothing yet.
    ///
    /// # Errors
    ///
    /// When the metrics cannot be set up.
    pub fn new(limits: Limits) -> Result<Self, prometheus::Error> {
        Ok(Self {
            telemetry: Telemetry::new()?,
            memory: Shares::new(limits.memory),
            limits: Arc::new(limits),
            shutdown: Shutdown::default(),
        })
    }
}

impl Shutdown {
    /// Asks the process to end; or where something has asked for it before, to hurry.
    pub fn request(&self) {
        if self.winding_down.is_cancelled() {
            self.hurried.cancel();
        }
        self.requested.cancel();
    }

    /// Whether the process was asked to hurry, and left something undone for it.
    #[must_use]
    pub fn is_cut_short(&self) -> bool {
        self.hurried.is_cancelled() && self.over.is_cancelled()
    }

    /// Sees to it that the end, once it has begun, takes no longer than it may.
    pub async fn keep_time(&self, limits: &Limits) {
        self.winding_down.cancelled().await;
        let hurry = async {
            self.hurried.cancelled().await;
            sleep(limits.hurry).await;
        };
        tokio::select! {
            () = sleep(limits.drain) => {}
            () = hurry => {}
        }
        self.over.cancel();
    }
}

impl Default for Shutdown {
    /// Nothing has asked for it yet.
    fn default() -> Self {
        let over = CancellationToken::new();
        let requested = over.child_token();
        Self {
            winding_down: requested.child_token(),
            requested,
            over,
            hurried: CancellationToken::new(),
        }
    }
}
