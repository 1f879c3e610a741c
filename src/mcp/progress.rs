//! Progress notifications of a call (MCP, "Progress").

use rmcp::model::ProgressNotificationParam;
use tokio::sync::watch;

use super::{Request, Server};
use crate::context::Context;

impl Server {
    /// Runs `work`, which counts its steps up to `total`, where that is known, and notifies the client of
    /// each step if it asked for that. `describe` says in words what a count means.
    pub(super) async fn with_progress<Work: Future>(
        &self,
        request: &Request,
        context: &Context,
        total: Option<usize>,
        describe: fn(usize) -> String,
        work: impl FnOnce(watch::Sender<usize>) -> Work,
    ) -> Work::Output {
        let (counter, mut counts) = watch::channel(0);
        let token = request.meta.get_progress_token();
        let notify = async {
            let Some(token) = token.filter(|_| context.accepts_events) else {
                return;
            };
            // Ends when the work drops the counter, so that no notification follows the response.
            while counts.changed().await.is_ok() {
                let count = *counts.borrow_and_update();
                // The response itself reports the last step, and a cancelled request gets no message.
                if Some(count) == total || request.ct.is_cancelled() {
                    continue;
                }
                let mut progress = ProgressNotificationParam::new(token.clone(), as_float(count));
                progress.total = total.map(as_float);
                progress.message = Some(describe(count));
                if let Err(error) = request.peer.notify_progress(progress).await {
                    tracing::debug!(%error, "a progress notification could not be sent");
                    return;
                }
            }
        };
        // Once a session ends, rmcp writes responses only: a notification would wait forever.
        let notify = self.shutdown.no_retries.run_until_cancelled(notify);
        tokio::join!(work(counter), notify).0
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn as_float(count: usize) -> f64 {
    count as f64
}
