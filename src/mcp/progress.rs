//! How far a call is, for a client that wants to know (MCP, "Progress").

use rmcp::{RoleServer, model::ProgressNotificationParam, service::RequestContext};
use tokio::{sync::watch, task::JoinHandle};

use crate::context::Context;

/// Counts the steps of a call. What is counted is told while the call goes on.
pub(super) struct Progress {
    count: watch::Sender<usize>,
    telling: Option<JoinHandle<()>>,
}

impl Progress {
    /// Counts up to `total`, where that is known. `told` says what a count means.
    pub(super) fn begin(
        request: &RequestContext<RoleServer>,
        context: &Context,
        total: Option<usize>,
        told: fn(usize) -> String,
    ) -> Self {
        let (count, mut counted) = watch::channel(0);
        let token = request.meta.get_progress_token();
        let token = token.filter(|_| context.accepts_events);
        let (peer, cancelled) = (request.peer.clone(), request.ct.clone());
        let telling = token.map(|token| {
            tokio::spawn(async move {
                while counted.changed().await.is_ok() {
                    let count = *counted.borrow_and_update();
                    // The answer itself says that all is done; and who cancels hears no more.
                    if Some(count) == total || cancelled.is_cancelled() {
                        continue;
                    }
                    let mut progress = ProgressNotificationParam::new(token.clone(), float(count));
                    progress.total = total.map(float);
                    progress.message = Some(told(count));
                    if let Err(error) = peer.notify_progress(progress).await {
                        tracing::debug!(%error, "a client was not told of the progress");
                        return;
                    }
                }
            })
        });
        Self { count, telling }
    }

    /// What counts: one more for each step.
    pub(super) fn count(&self) -> watch::Sender<usize> {
        self.count.clone()
    }

    /// Nothing is told after the answer, so this waits for what is being told.
    pub(super) async fn end(self) {
        drop(self.count);
        if let Some(telling) = self.telling
            && let Err(error) = telling.await
        {
            tracing::error!(%error, "the progress of a call could not be told");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody counts to 2^52 here")]
fn float(count: usize) -> f64 {
    count as f64
}
