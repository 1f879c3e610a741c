//! MCP over standard input and output, as hosts launch it.

use std::sync::Arc;

use futures_util::StreamExt;
use rmcp::{
    RoleServer, ServiceExt,
    model::{ClientJsonRpcMessage, ClientRequest, GetMeta, JsonRpcMessage, ProtocolVersion},
    service::{RxJsonRpcMessage, ServerInitializeError, TxJsonRpcMessage},
    transport::{Transport, stdio_pipes},
};
use tokio::{
    io::{self, AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::Mutex,
};
use tokio_util::{
    bytes::{Buf, BytesMut},
    codec::{Decoder, FramedRead},
    task::TaskTracker,
};

use super::{
    Process,
    calls::{Calls, Numbered},
    json::Size,
    message::{self, DOUBLED, UNBEGUN, Unreadable},
};
use crate::{
    context::{Context, Interface},
    mcp,
    telemetry::Call,
};

/// Serves until the host closes standard input or the process is asked to end, and until the calls in
/// flight are answered or the time for that is over.
///
/// # Errors
///
/// When the session cannot begin. A host that leaves before it began is no error.
pub async fn stdio(
    server: mcp::Server,
    process: Process,
) -> Result<(), Box<ServerInitializeError>> {
    let (input, output) = stdio_pipes();
    let calls = Calls::default();
    let refusals = TaskTracker::new();
    // Only then can be waited for those that there are.
    refusals.close();
    let over = process.shutdown.deadline.clone();
    let transport = Numbered {
        inner: Pipes {
            lines: FramedRead::new(input, Lines::new(process.limits.line_bytes)),
            output: Arc::new(Mutex::new(output)),
            calls: calls.clone(),
            refusals,
            process,
            open: false,
        },
        calls,
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
        () = over.cancelled() => Ok(()),
    }
}

/// A transport that reads leniently, and answers what does not read. It ends once no request is
/// unanswered, after the host has closed standard input or the process was asked to end though it is
/// still open; rmcp would give both five seconds. And it drops what arrives before the session and is
/// not a request: rmcp would end the process over it.
struct Pipes<R, W> {
    lines: FramedRead<R, Lines>,
    output: Arc<Mutex<W>>,
    calls: Calls,
    /// The answers that rmcp knows nothing of.
    refusals: TaskTracker,
    process: Process,
    open: bool,
}

impl<R, W> Pipes<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// The message of a line, if rmcp is to have it.
    fn read(&mut self, line: Line) -> Result<Option<ClientJsonRpcMessage>, Unreadable> {
        let limits = &self.process.limits;
        let message = match line {
            Line::Whole(text) if text.trim_ascii().is_empty() => return Ok(None),
            Line::Whole(text) if Size::of(&text).values <= limits.body_values => {
                message::read(&text)?.0
            }
            Line::Whole(text) | Line::Cut(text) => {
                let (most, values) = (limits.line_bytes >> 20, limits.body_values);
                let reason =
                    format!("it is larger than {most} MiB, or holds more than {values} values");
                return Err(Unreadable::beginning(&text, &reason));
            }
        };
        self.open = self.open || opens_session(&message);
        let JsonRpcMessage::Request(request) = &message else {
            if !self.open {
                tracing::debug!("dropped a message that came before the first request");
            }
            return Ok(self.open.then_some(message));
        };
        let meta = request.request.get_meta();
        if !self.open && meta.protocol_version().is_none() && !may_come_first(&request.request) {
            return Err(Unreadable::request(&request.id, UNBEGUN));
        }
        let begun = self.calls.begin(&request.id);
        begun
            .ok_or_else(|| Unreadable::request(&request.id, DOUBLED))?
            .passed_on();
        Ok(Some(message))
    }

    /// Answers what does not read, as far as somebody waits for it.
    fn refuse(&self, unreadable: &Unreadable) {
        let Some(answer) = unreadable.answer() else {
            tracing::debug!(?unreadable, "dropped a line for which nobody waits");
            return;
        };
        let context = Context::new(Interface::Mcp, self.process.limits.call);
        let entry = Call::begin(&context, "other");
        entry.end("refused", None);
        let sending = write(Arc::clone(&self.output), answer.into_bytes());
        // Whoever polls `receive` may stop, and a line must not be written in part.
        self.refusals.spawn(async {
            if let Err(error) = sending.await {
                tracing::debug!(%error, "an answer could not be written");
            }
        });
    }
}

/// Writes one line, whole.
async fn write<W: AsyncWrite + Unpin>(output: Arc<Mutex<W>>, mut line: Vec<u8>) -> io::Result<()> {
    line.push(b'\n');
    let mut output = output.lock().await;
    output.write_all(&line).await?;
    output.flush().await
}

impl<R, W> Transport<RoleServer> for Pipes<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let line = serde_json::to_vec(&message);
        let output = Arc::clone(&self.output);
        async move { write(output, line?).await }
    }

    /// Called anew after each message that goes out.
    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        let shutdown = self.process.shutdown.clone();
        loop {
            let line = async {
                // Whoever takes no answers is read no further.
                self.refusals.wait().await;
                self.lines.next().await
            };
            let line = tokio::select! {
                biased;
                () = shutdown.no_retries.cancelled() => break,
                line = line => line,
            };
            let Some(Ok(line)) = line.filter(Result::is_ok) else {
                shutdown.no_retries.cancel();
                break;
            };
            match self.read(line) {
                Ok(None) => {}
                Ok(message) => return message,
                Err(unreadable) => self.refuse(&unreadable),
            }
        }
        self.refusals.wait().await;
        if !self.calls.is_empty() {
            shutdown.deadline.cancelled().await;
        }
        None
    }

    async fn close(&mut self) -> io::Result<()> {
        Ok(())
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
        request if may_come_first(request) => false,
        _ => {
            meta.missing_required_keys(&ProtocolVersion::V_2026_07_28)
                .is_empty()
                && meta
                    .protocol_version()
                    .is_some_and(|version| ProtocolVersion::KNOWN_VERSIONS.contains(&version))
        }
    }
}

fn may_come_first(request: &ClientRequest) -> bool {
    matches!(
        request,
        ClientRequest::PingRequest(_) | ClientRequest::DiscoverRequest(_)
    )
}

/// What is read: a line without its end, or the beginning of one that is longer than any message.
enum Line {
    Whole(BytesMut),
    Cut(BytesMut),
}

/// Cuts what is read into lines. The last one needs no end.
struct Lines {
    longest: usize,
    /// How much of what has come was searched for an end.
    searched: usize,
    /// Whether the line that comes was cut.
    skipping: bool,
}

impl Lines {
    fn new(longest: usize) -> Self {
        Self {
            longest,
            searched: 0,
            skipping: false,
        }
    }
}

impl Decoder for Lines {
    type Item = Line;
    type Error = io::Error;

    fn decode(&mut self, come: &mut BytesMut) -> io::Result<Option<Line>> {
        loop {
            let end = come[self.searched..].iter().position(|byte| *byte == b'\n');
            let end = end.map(|end| self.searched + end);
            let length = end.unwrap_or(come.len());
            self.searched = 0;
            match end {
                _ if self.skipping => {
                    come.advance(end.map_or(length, |end| end + 1));
                    self.skipping = end.is_none();
                    if self.skipping {
                        return Ok(None);
                    }
                }
                _ if length > self.longest => {
                    self.skipping = true;
                    return Ok(Some(Line::Cut(come.split_to(self.longest))));
                }
                Some(end) => {
                    let line = come.split_to(end);
                    come.advance(1);
                    return Ok(Some(Line::Whole(line)));
                }
                None => {
                    self.searched = length;
                    return Ok(None);
                }
            }
        }
    }

    fn decode_eof(&mut self, come: &mut BytesMut) -> io::Result<Option<Line>> {
        let line = self.decode(come)?;
        if line.is_some() || come.is_empty() {
            return Ok(line);
        }
        self.searched = 0;
        Ok(Some(Line::Whole(come.split())))
    }
}
