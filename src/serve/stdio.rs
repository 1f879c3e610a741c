//! MCP over standard input and output, as hosts launch it.

use rmcp::{
    RoleServer, ServiceExt,
    model::{ClientJsonRpcMessage, ClientRequest, GetMeta, JsonRpcMessage, ProtocolVersion},
    service::{RxJsonRpcMessage, ServerInitializeError, TxJsonRpcMessage},
    transport::{IntoTransport, Transport, stdio_pipes},
};
use tokio_util::sync::CancellationToken;

use crate::mcp;

/// Serves until the host closes standard input or `shutdown` is cancelled. Calls in flight are then
/// answered if they end within about four seconds: hosts kill what has not left after five.
///
/// # Errors
///
/// When the session cannot begin. A host that leaves before it began is no error.
pub async fn stdio(
    server: mcp::Server,
    shutdown: CancellationToken,
) -> Result<(), Box<ServerInitializeError>> {
    let transport = Gate {
        inner: stdio_pipes().into_transport(),
        shutdown,
        open: false,
    };
    tracing::info!("serving MCP on standard input and output");
    let session = match server.serve(transport).await {
        Ok(session) => session,
        Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(error) => return Err(Box::new(error)),
    };
    match session.waiting().await {
        Ok(reason) => tracing::debug!(?reason, "the session ended"),
        Err(error) => tracing::error!(%error, "the session broke"),
    }
    Ok(())
}

/// A transport that ends on shutdown, though standard input is still open, and that drops what
/// arrives before the session and is not a request: rmcp would end the process over it.
struct Gate<T> {
    inner: T,
    shutdown: CancellationToken,
    open: bool,
}

impl<T: Transport<RoleServer>> Transport<RoleServer> for Gate<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), T::Error>> + Send + 'static {
        self.inner.send(message)
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            let message = tokio::select! {
                () = self.shutdown.cancelled() => return None,
                message = self.inner.receive() => message?,
            };
            self.open = self.open || opens_session(&message);
            if self.open || matches!(message, JsonRpcMessage::Request(_)) {
                return Some(message);
            }
            tracing::debug!("dropped a message that came before the first request");
        }
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
