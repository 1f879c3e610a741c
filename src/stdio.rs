//! MCP over standard input and output.

use std::sync::Arc;

use rmcp::{
    RoleServer, ServiceExt,
    model::{ClientJsonRpcMessage, ClientRequest, GetMeta, JsonRpcMessage, ProtocolVersion},
    service::{RxJsonRpcMessage, ServerInitializeError, TxJsonRpcMessage},
    transport::{StdioReader, StdioWriter, Transport, stdio_pipes},
};
use serde_json::json;
use tokio::{
    io::{self, AsyncBufReadExt, AsyncWriteExt, BufReader, Split},
    sync::Mutex,
    task::JoinSet,
};

use crate::{
    mcp,
    normalize::{InvalidMessage, normalize},
    shutdown::Shutdown,
};

/// Serves until standard input is closed or the shutdown begins, and until the calls in flight are
/// answered: rmcp gives them 5 s.
///
/// # Errors
///
/// When the session cannot begin. A client that closes standard input before is no error.
pub async fn serve(
    server: mcp::Server,
    shutdown: Shutdown,
) -> Result<(), Box<ServerInitializeError>> {
    let (input, output) = stdio_pipes();
    let deadline = shutdown.deadline.clone();
    let transport = Lines {
        input: BufReader::new(input).split(b'\n'),
        output: Arc::new(Mutex::new(output)),
        refusals: JoinSet::new(),
        is_open: false,
        shutdown,
    };
    let session = Box::pin(async {
        match server.serve(transport).await {
            Ok(session) => match session.waiting().await {
                Ok(reason) => tracing::debug!(?reason, "the session ended"),
                Err(error) => tracing::error!(%error, "the session failed"),
            },
            Err(ServerInitializeError::ConnectionClosed(_)) => {}
            Err(error) => return Err(Box::new(error)),
        }
        Ok(())
    });
    let ended = deadline.run_until_cancelled(session).await;
    ended.unwrap_or(Ok(()))
}

/// A transport over lines. Unlike rmcp's, it normalizes messages, reads a last line without an end, and
/// drops notifications and responses before the first request, which would end rmcp's handshake.
struct Lines {
    input: Split<BufReader<StdioReader>>,
    output: Arc<Mutex<StdioWriter>>,
    /// Responses that rmcp does not know of. `receive` may be dropped at any await, so tasks write them.
    refusals: JoinSet<io::Result<()>>,
    /// Whether a message was received that begins rmcp's session.
    is_open: bool,
    shutdown: Shutdown,
}

impl Transport<RoleServer> for Lines {
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        self.write(serde_json::to_vec(&message))
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        let draining = self.shutdown.draining.clone();
        loop {
            let line = draining.run_until_cancelled(self.next_line()).await;
            let Some(line) = line.flatten() else {
                self.shutdown.no_retries.cancel();
                return None;
            };
            match self.read(&line) {
                Ok(None) => {}
                Ok(message) => return message,
                Err(invalid) if invalid.id.is_null() => tracing::debug!(%invalid, "dropped a line"),
                Err(invalid) => {
                    let refusal = self.write(Ok(invalid.to_json().into_bytes()));
                    self.refusals.spawn(refusal);
                }
            }
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// The next line, once all refusals are written: a client that reads no answers is not read either.
    async fn next_line(&mut self) -> Option<Vec<u8>> {
        while let Some(written) = self.refusals.join_next().await {
            if let Ok(Err(error)) = written {
                tracing::debug!(%error, "a refusal could not be written");
            }
        }
        let line = self.input.next_segment().await;
        line.unwrap_or_else(|error| {
            tracing::warn!(%error, "standard input cannot be read");
            None
        })
    }

    /// Returns the message of a line, if there is one for rmcp.
    fn read(&mut self, line: &[u8]) -> Result<Option<ClientJsonRpcMessage>, InvalidMessage> {
        let message = serde_json::from_value(normalize(line)?);
        // Requests and notifications are checked; a response may still be malformed.
        let message = message.inspect_err(|error| tracing::debug!(%error, "dropped a response"));
        if let Ok(JsonRpcMessage::Request(request)) = &message
            && !self.is_open
        {
            self.is_open = opens_session(&request.request)
                .map_err(|reason| InvalidMessage::request(json!(request.id), reason))?;
            return Ok(message.ok());
        }
        Ok(message.ok().filter(|_| self.is_open))
    }

    /// Writes one whole line.
    fn write(
        &self,
        line: serde_json::Result<Vec<u8>>,
    ) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let output = Arc::clone(&self.output);
        async move {
            let mut line = line?;
            line.push(b'\n');
            let mut output = output.lock().await;
            output.write_all(&line).await?;
            output.flush().await
        }
    }
}

/// Whether rmcp begins its session with this request. Fails if the request needs one and cannot begin it.
fn opens_session(request: &ClientRequest) -> Result<bool, &'static str> {
    let meta = request.get_meta();
    match (request, meta.protocol_version()) {
        (ClientRequest::InitializeRequest(_), _) => Ok(true),
        (ClientRequest::PingRequest(_) | ClientRequest::DiscoverRequest(_), _) => Ok(false),
        (_, Some(version)) => {
            let missing = meta.missing_required_keys(&ProtocolVersion::V_2026_07_28);
            Ok(missing.is_empty() && ProtocolVersion::KNOWN_VERSIONS.contains(&version))
        }
        (_, None) => {
            Err("begin with initialize, or send the _meta of 2026-07-28 with each request")
        }
    }
}
