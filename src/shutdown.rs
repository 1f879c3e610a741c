//! How the process ends: one token per stage, and the time that the end may take.

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::limits::Limits;

/// The stages of a shutdown, in order. Cancelling a later stage cancels the earlier ones. Clones share
/// the tokens.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Standard input is closed: failed requests are not retried.
    pub no_retries: CancellationToken,
    /// A signal arrived: no new calls, no unsent changes; requests that were sent are awaited.
    pub draining: CancellationToken,
    /// The time is up: open changes are recorded as unknown.
    pub deadline: CancellationToken,
    /// A signal arrived during the shutdown: the deadline moves closer.
    forced: CancellationToken,
}

impl Shutdown {
    /// Begins the drain. During a shutdown, forces it.
    pub fn request(&self) {
        if self.no_retries.is_cancelled() {
            self.forced.cancel();
        }
        self.draining.cancel();
    }

    /// Whether a second signal cut the shutdown short.
    pub fn was_forced(&self) -> bool {
        self.forced.is_cancelled() && self.deadline.is_cancelled()
    }

    /// Waits for the shutdown to begin, then cancels [`deadline`](Self::deadline) when its time is up.
    pub async fn enforce_deadline(&self, limits: &Limits) {
        self.no_retries.cancelled().await;
        let forced = async {
            self.forced.cancelled().await;
            sleep(limits.forced_drain).await;
        };
        timeout(limits.drain, forced).await.ok();
        self.deadline.cancel();
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        let deadline = CancellationToken::new();
        let draining = deadline.child_token();
        Self {
            no_retries: draining.child_token(),
            draining,
            deadline,
            forced: CancellationToken::new(),
        }
    }
}
