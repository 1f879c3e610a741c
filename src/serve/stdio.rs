//! MCP over standard input and output, as hosts launch it.

use std::collections::HashSet;

use rmcp::{
    RoleServer, ServiceExt,
    model::{
        ClientJsonRpcMessage, ClientNotification, ClientRequest, GetMeta, JsonRpcMessage,
        ProtocolVersion, RequestId,
    },
    service::{RxJsonRpcMessage, ServerInitializeError, TxJsonRpcMessage},
    transport::{IntoTransport, Transport, stdio_pipes},
};

use crate::{mcp, process::Shutdown};

/// Serves until the host closes standard input or the process is asked to end, and until the calls in
/// flight are answered or the time for that is over.
///
/// # Errors
///
/// When the session cannot begin. A host that leaves before it began is no error.
pub async fn stdio(
    server: mcp::Server,
    shutdown: Shutdown,
) -> Result<(), Box<ServerInitializeError>> {
    let transport = Gate {
        inner: stdio_pipes().into_transport(),
        unanswered: HashSet::new(),
        shutdown: shutdown.clone(),
        open: false,
    };
    let session = async {
        match server.serve(transport).await {
            Ok(session) => session,
            Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
            Err(error) => return Err(Box::new(error)),
        }
        .waiting()
        .await
        .map_or_else(
            |error| tracing::error!(%error, "the session broke"),
            |reason| tracing::debug!(?reason, "the session ended"),
        );
        Ok(())
    };
    tokio::select! {
        biased;
        ended = session => ended,
        // rmcp would wait longer for what it still answers.
        () = shutdown.over.cancelled() => Ok(()),
    }
}

/// A transport that ends once no request is unanswered, after the host has closed standard input or
/// the process was asked to end though it is still open; rmcp would give both five seconds. And that
/// drops what arrives before the session and is not a request: rmcp would end the process over it.
struct Gate<T> {
    inner: T,
    unanswered: HashSet<RequestId>,
    shutdown: Shutdown,
    open: bool,
}

impl<T: Transport<RoleServer>> Transport<RoleServer> for Gate<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), T::Error>> + Send + 'static {
        match &message {
            JsonRpcMessage::Response(answer) => drop(self.unanswered.remove(&answer.id)),
            JsonRpcMessage::Error(error) => {
                error.id.as_ref().map(|id| self.unanswered.remove(id));
            }
            _ => {}
        }
        self.inner.send(message)
    }

    /// Called anew after each message that goes out.
    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            let message = tokio::select! {
                biased;
                () = self.shutdown.winding_down.cancelled() => break,
                message = self.inner.receive() => message,
            };
            let Some(message) = message else {
                self.shutdown.winding_down.cancel();
                break;
            };
            self.open = self.open || opens_session(&message);
            match &message {
                JsonRpcMessage::Request(request) => {
                    self.unanswered.insert(request.id.clone());
                }
                JsonRpcMessage::Notification(notification) => {
                    // What is cancelled is not answered.
                    if let ClientNotification::CancelledNotification(cancelled) =
                        &notification.notification
                        && let Some(id) = &cancelled.params.request_id
                    {
                        self.unanswered.remove(id);
                    }
                }
                _ => {}
            }
            if self.open || matches!(message, JsonRpcMessage::Request(_)) {
                return Some(message);
            }
            tracing::debug!("dropped a message that came before the first request");
        }
        if !self.unanswered.is_empty() {
            self.shutdown.over.cancelled().await;
        }
        None
    }

    async fn close(&mut self) -> Result<(), T::Error> {
        self.inner.close().await
    }
}

/// Whether rmcp begins its session with this message: with `initialize`, or with a request that
/// carries the metadata of a stateless revision. A ping and `server/discover` are answered before.
fn opens_session(message: &ClientJsonRpcMessage) -> bool {
    let JsonRpcMessage::Request(request) = message else {
        return false;
    };
    let meta = request.request.get_meta();
    match &request.request {
        ClientRequest::InitializeRequest(_) => true,
        ClientRequest::PingRequest(_) | ClientRequest::DiscoverRequest(_) => false,
        _ => {
            meta.missing_required_keys(&ProtocolVersion::V_2026_07_28)
                .is_empty()
                && meta
                    .protocol_version()
                    .is_some_and(|version| ProtocolVersion::KNOWN_VERSIONS.contains(&version))
        }
    }
}
