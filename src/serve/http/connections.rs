//! Connections: how many, and for how long each may do nothing.
//!
//! The kernel tells of a connection before its peer has sent a byte, and a peer may send one byte an
//! hour. hyper limits the time for a header only once it reads one, and its detection of HTTP/2 not
//! at all, so one watch over all connections closes what overstays.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    http::{Request, Response},
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use crate::telemetry::Telemetry;

/// From the connection, or from a request's first byte, to the end of its header. Bytes that came
/// together with the request before are not seen here: such a connection counts as idle.
const HEADER: Duration = Duration::from_secs(10);
/// From the end of the header to the end of the body. The door answers a late body after ten.
const BODY: Duration = Duration::from_secs(15);
/// Between two requests: longer than a proxy keeps a connection, so that it is not closed just when
/// the proxy uses it.
const IDLE: Duration = Duration::from_secs(75);
/// For a peer that takes nothing of its answer.
const STALL: Duration = Duration::from_secs(10);
/// After a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(10);
/// How often the watch looks.
const WATCH: Duration = Duration::from_secs(1);
/// Bytes of header, and of answer, that a connection buffers.
const BUFFER: usize = 64 << 10;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 64;

/// What answers the requests of a connection.
pub(super) trait Answer:
    Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<S> Answer for S where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// The open connections of both ports.
///
/// Where all places are taken, a new one takes the place of the one that has been idle longest.
pub(super) struct Connections {
    most: usize,
    open: Arc<Open>,
    next: AtomicU64,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

struct Open {
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    telemetry: Telemetry,
}

/// One connection, as the watch sees it.
pub(super) struct Connection {
    state: Mutex<State>,
    /// Cancelled to close it, whatever it does.
    close: CancellationToken,
}

struct State {
    phase: Phase,
    since: Instant,
    /// Requests in the hands of a face.
    calls: usize,
    /// Whether it is HTTP/2, where bytes may come that belong to no request.
    multiplexed: bool,
    /// Since when the peer takes nothing.
    stalled: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has sent nothing yet.
    New,
    /// It has sent nothing since its last request.
    Idle,
    Header,
    Body,
}

impl Connections {
    pub(super) fn new(most: usize, telemetry: Telemetry, shutdown: CancellationToken) -> Self {
        let open = Arc::new(Open {
            connections: Mutex::default(),
            telemetry,
        });
        tokio::spawn(watch(Arc::downgrade(&open)));
        Self {
            most,
            open,
            next: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            shutdown,
        }
    }

    /// Accepts connections until the shutdown. Each has its requests answered by a service of its own.
    pub(super) async fn accept<S: Answer>(
        &self,
        listener: TcpListener,
        service: impl Fn(Arc<Connection>) -> S,
    ) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => self.admit(stream, &service),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Most often no descriptor is left, and the next attempt finds one.
                    self.open.evict();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        // Whoever the kernel has let in already was told nothing, and would lose a call.
        let Ok(listener) = listener.into_std() else {
            return;
        };
        for _ in 0..self.most {
            let accepted = listener.accept().and_then(|(stream, _)| {
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream)
            });
            match accepted {
                Ok(stream) => self.admit(stream, &service),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => tracing::debug!(%error, "a connection could not be accepted"),
            }
        }
    }

    /// Ends when all connections have.
    pub(super) async fn closed(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn admit<S: Answer>(&self, stream: TcpStream, service: impl Fn(Arc<Connection>) -> S) {
        // Answers are written whole; waiting to fill a packet only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "the peer has gone already");
            return;
        }
        let full = self.open.lock().len() >= self.most;
        if full && !self.open.evict() {
            self.tasks.spawn(refuse(stream));
            return;
        }
        let connection = Arc::new(Connection {
            state: Mutex::new(State {
                phase: Phase::New,
                since: Instant::now(),
                calls: 0,
                multiplexed: false,
                stalled: None,
            }),
            close: CancellationToken::new(),
        });
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let place = Place::take(Arc::clone(&self.open), key, &connection);
        let service = service(Arc::clone(&connection));
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let _place = place;
            serve(stream, connection, service, shutdown).await;
        });
    }
}

async fn serve<S: Answer>(
    stream: TcpStream,
    connection: Arc<Connection>,
    service: S,
    shutdown: CancellationToken,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(BUFFER);
    builder.http2().max_concurrent_streams(STREAMS);
    let stream = TokioIo::new(Watched {
        stream,
        connection: Arc::clone(&connection),
    });
    let mut serving = pin!(builder.serve_connection(stream, TowerToHyperService::new(service)));
    let mut draining = false;
    loop {
        tokio::select! {
            result = serving.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(error, "a connection broke");
                }
                return;
            }
            () = connection.close.cancelled() => return,
            () = shutdown.cancelled(), if !draining => {
                draining = true;
                // HTTP/2 can say which requests it has not taken. HTTP/1 cannot: its next request
                // may be here already, and is answered; the door then says that it was the last.
                if connection.lock().multiplexed {
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Answers a connection for which there is no place. The peer is given a moment to read it: what it
/// sent meanwhile would otherwise reset the connection, and the answer with it.
async fn refuse(mut stream: TcpStream) {
    const BODY: &str = r#"{"title":"Overloaded","status":503,"detail":"Too many connections. Try again in a second."}"#;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n\
         Content-Length: {}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{BODY}",
        BODY.len()
    );
    let told = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    if let Ok(Err(error)) = timeout(Duration::from_secs(1), told).await {
        tracing::debug!(%error, "a refused connection broke");
    }
}

/// Closes what overstays, once a second, until nobody serves any more.
async fn watch(open: Weak<Open>) {
    let mut ticks = interval(WATCH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(open) = open.upgrade() else { return };
        let now = Instant::now();
        for connection in open.lock().values() {
            if connection.lock().overdue(now) {
                connection.close.cancel();
            }
        }
    }
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection that has waited longest without a request, if there is one.
    fn evict(&self) -> bool {
        let mut connections = self.lock();
        let longest = connections
            .iter()
            .filter_map(|(key, connection)| Some((connection.lock().expendable()?, *key)))
            .min();
        let evicted = longest.and_then(|(_, key)| connections.remove(&key));
        if let Some(connection) = &evicted {
            connection.close.cancel();
        }
        evicted.is_some()
    }
}

/// A connection's place in the register, until it is dropped.
struct Place {
    open: Arc<Open>,
    key: u64,
}

impl Place {
    fn take(open: Arc<Open>, key: u64, connection: &Arc<Connection>) -> Self {
        open.lock().insert(key, Arc::clone(connection));
        open.telemetry.connections().inc();
        Self { open, key }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.lock().remove(&self.key);
        self.open.telemetry.connections().dec();
    }
}

impl Connection {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a request's header is complete.
    pub(super) fn header_read(&self, multiplexed: bool) {
        let mut state = self.lock();
        state.multiplexed = multiplexed;
        state.enter(Phase::Body);
    }

    /// Says that a request is in the hands of a face, until the guard is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.lock().calls += 1;
        Busy(Arc::clone(self))
    }

    /// Says that a request was answered at the door.
    pub(super) fn answered(&self) {
        self.lock().enter(Phase::Idle);
    }
}

/// A request in the hands of a face.
pub(super) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.calls -= 1;
        state.enter(Phase::Idle);
    }
}

impl State {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }

    fn waiting_since(&self) -> Option<Instant> {
        (self.calls == 0).then_some(self.since)
    }

    /// What would be lost with it, unless it is a call: nothing before part of a request, and the
    /// longest wait first.
    fn expendable(&self) -> Option<(bool, Instant)> {
        let receiving = matches!(self.phase, Phase::Header | Phase::Body);
        self.waiting_since().map(|since| (receiving, since))
    }

    fn overdue(&self, now: Instant) -> bool {
        let limit = match self.phase {
            Phase::Idle => IDLE,
            Phase::New | Phase::Header => HEADER,
            Phase::Body => BODY,
        };
        let stalled = self.stalled.is_some_and(|since| now - since > STALL);
        stalled
            || self
                .waiting_since()
                .is_some_and(|since| now - since > limit)
    }
}

/// A stream that tells the watch of what moves on it.
struct Watched {
    stream: TcpStream,
    connection: Arc<Connection>,
}

impl Watched {
    fn wrote<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let mut state = self.connection.lock();
        match result {
            Poll::Pending => state.stalled = state.stalled.or_else(|| Some(Instant::now())),
            Poll::Ready(_) => state.stalled = None,
        }
        result
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            let mut state = self.connection.lock();
            match state.phase {
                Phase::New => state.phase = Phase::Header,
                Phase::Idle if state.calls == 0 && !state.multiplexed => {
                    state.enter(Phase::Header);
                }
                _ => {}
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
