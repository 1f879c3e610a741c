//! What hyper has no timer for: a header that dawdles, and an answer that nobody takes, end their
//! connection; and where all places are taken, the one that has waited longest gives way.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{limits::Limits, serve::Process};

type Io<T> = Poll<io::Result<T>>;

/// The open connections of both ports.
pub(super) struct Connections {
    most: usize,
    limits: Arc<Limits>,
    gauge: IntGauge,
    open: Mutex<Vec<Arc<Connection>>>,
}

/// One connection, and since when it is in its phase.
pub(super) struct Connection {
    state: Mutex<(Phase, Instant)>,
    /// Cancelled to close it, whatever it does.
    pub(super) close: CancellationToken,
}

/// In the order in which connections give way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It has sent nothing since its last request.
    Idle,
    /// It has just begun, or its next request has.
    Header,
    /// A request's header is complete; its body may not be.
    Body,
    /// A request is being answered.
    Busy,
}

impl Connections {
    /// So many at most.
    pub(super) fn new(most: usize, process: &Process) -> Self {
        Self {
            most,
            limits: Arc::clone(&process.limits),
            gauge: crate::telemetry::connections().clone(),
            open: Mutex::default(),
        }
    }

    /// Takes a connection in, once there is a place for it.
    pub(super) async fn admit(self: &Arc<Self>, tcp: TcpStream) -> Stream {
        while self.open.lock().len() >= self.most && !self.evict() {
            // All are busy, as only a system with few descriptors sees it.
            sleep(Duration::from_millis(10)).await;
        }
        let connection = Arc::new(Connection {
            state: Mutex::new((Phase::Header, Instant::now())),
            close: CancellationToken::new(),
        });
        self.open.lock().push(Arc::clone(&connection));
        self.gauge.inc();
        Stream {
            tcp,
            connection,
            connections: Arc::clone(self),
            timer: Box::pin(sleep(self.limits.header_read)),
            stalled: None,
        }
    }

    /// Closes the connection that has waited longest, if one waits. Says whether one did.
    pub(super) fn evict(&self) -> bool {
        let mut open = self.open.lock();
        let waiting = open.iter().enumerate().filter_map(|(index, connection)| {
            let (phase, since) = *connection.state.lock();
            (phase != Phase::Busy).then_some((phase, since, index))
        });
        let longest = waiting.min().map(|(.., index)| open.swap_remove(index));
        longest.inspect(|it| it.close.cancel()).is_some()
    }
}

impl Connection {
    pub(super) fn phase(&self) -> Phase {
        self.state.lock().0
    }

    pub(super) fn enter(&self, phase: Phase) {
        *self.state.lock() = (phase, Instant::now());
    }

    /// Says that a request is being answered, until the guard is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.enter(Phase::Busy);
        Busy(Arc::clone(self))
    }
}

/// A request that is being answered.
pub(super) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// The bytes of a connection. Reading and writing fail when their time is over.
pub(super) struct Stream {
    tcp: TcpStream,
    pub(super) connection: Arc<Connection>,
    connections: Arc<Connections>,
    timer: Pin<Box<Sleep>>,
    /// Since when the peer takes nothing.
    stalled: Option<Instant>,
}

impl Stream {
    fn fail_at<T>(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Io<T> {
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn wrote(&mut self, result: Io<usize>, cx: &mut Context<'_>) -> Io<usize> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let stalled = *self.stalled.get_or_insert_with(Instant::now);
        self.fail_at(stalled + self.connections.limits.write_stall, cx)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // It may have given way already.
        let is_other = |other: &Arc<_>| !Arc::ptr_eq(other, &self.connection);
        self.connections.open.lock().retain(is_other);
        self.connections.gauge.dec();
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Io<()> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.tcp).poll_read(cx, buf);
        let (phase, since) = *self.connection.state.lock();
        if result.is_pending() && phase == Phase::Header {
            let deadline = since + self.connections.limits.header_read;
            return self.fail_at(deadline, cx);
        }
        // Bytes that came with the request before are not seen here: such a connection is idle.
        if phase == Phase::Idle && buf.filled().len() > before {
            self.connection.enter(Phase::Header);
        }
        result
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Io<usize> {
        let result = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.wrote(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Io<usize> {
        let result = Pin::new(&mut self.tcp).poll_write_vectored(cx, slices);
        self.wrote(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Io<()> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Io<()> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
