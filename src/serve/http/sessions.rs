//! The sessions of MCP clients that begin with a handshake: which there may be, whose they are, how long
//! they live, and how an answer finds a client whose stream was cut.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::response::Response;
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use rmcp::{
    model::{ClientJsonRpcMessage, JsonRpcMessage, ServerJsonRpcMessage},
    transport::{
        WorkerTransport,
        streamable_http_server::{
            SessionId, SessionManager,
            session::{
                ServerSseMessage,
                local::{LocalSessionManager, LocalSessionManagerError, LocalSessionWorker},
            },
        },
    },
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{events::Events, layers::keep_for_stream};
use crate::{
    limits::Limits,
    serve::calls::{Calls, Numbered},
    shares::{Permit, Shares},
};

/// The sessions there are, and what rmcp does not know of them.
pub(super) struct Sessions {
    inner: LocalSessionManager,
    events: Arc<Events>,
    open: Mutex<HashMap<SessionId, Session>>,
    shares: Shares,
    unheard: Duration,
    idle: Duration,
}

/// What is known of one session. Clones share it.
#[derive(Clone)]
pub(super) struct Session {
    /// Whose it is, and its place. Until its client is told of it, it is nobody's.
    owner: Option<(Option<String>, Arc<Permit>)>,
    pub(super) calls: Calls,
    streams: watch::Sender<Streams>,
    /// Cancelled for the calls of now.
    wanted: Arc<Mutex<DropGuard>>,
}

/// The streams of events that are open to a client.
#[derive(Clone, Copy)]
struct Streams {
    open: usize,
    /// When the last request came, or the last stream ended.
    used: Instant,
}

impl Sessions {
    pub(super) fn new(_limits: &Limits) -> Self {
        let events = Arc::new(Events::default());
        let mut inner = LocalSessionManager::default().with_event_store(events.clone());
        inner.session_config.keep_alive = None;
        // Clients of the revisions before 2025-11-25 cannot read an event without data.
        inner.session_config.sse_retry = None;
        Self {
            inner,
            events,
            open: Mutex::default(),
            shares: Shares::new(256),
            unheard: std::time::Duration::from_secs(30),
            idle: std::time::Duration::from_secs(12 * 60 * 60),
        }
    }

    /// Takes a place for one more. Where none is free, the session of this owner that was idle longest
    /// gives way.
    pub(super) async fn reserve(&self, owner: Option<&str>) -> Option<Permit> {
        loop {
            if let Some(permit) = self.shares.reserve(owner, 1) {
                return Some(permit);
            }
            let longest = {
                let open = self.open.lock();
                let idle = open.iter().filter_map(|(id, session)| {
                    let (whose, _) = session.owner.as_ref()?;
                    let is_own = whose.as_deref() == owner && session.calls.is_empty();
                    is_own.then(|| (session.streams.borrow().used, id.clone()))
                });
                idle.min()?.1
            };
            tracing::debug!("a session gives way to another one of its caller");
            self.end(&longest).await;
        }
    }

    /// Tells whose a session is, which has a place already.
    pub(super) fn begin(self: &Arc<Self>, id: &str, owner: Option<String>, permit: Permit) {
        let mut open = self.open.lock();
        let Some((id, mut session)) = open.remove_entry(id) else {
            return;
        };
        session.owner = Some((owner, Arc::new(permit)));
        let watched = (session.streams.subscribe(), Arc::clone(&session.wanted));
        let limits = (self.unheard, self.idle);
        tokio::spawn(watch(Arc::downgrade(self), id.clone(), watched, limits));
        open.insert(id, session);
    }

    /// A session, if there is one and it is this owner's.
    pub(super) fn find(&self, id: &str, owner: Option<&str>) -> Option<Session> {
        let open = self.open.lock();
        let session = open.get(id)?;
        let (whose, _) = session.owner.as_ref()?;
        (whose.as_deref() == owner).then(|| session.clone())
    }

    /// Ends a session, and calls off its calls.
    pub(super) async fn end(&self, id: &SessionId) {
        if let Err(error) = self.close_session(id).await {
            tracing::debug!(%error, "a session could not be closed");
        }
    }
}

impl Session {
    fn new() -> Self {
        let streams = Streams {
            open: 0,
            used: Instant::now(),
        };
        Self {
            owner: None,
            calls: Calls::default(),
            streams: watch::Sender::new(streams),
            wanted: Arc::new(Mutex::new(CancellationToken::new().drop_guard())),
        }
    }

    /// What calls off a call that begins now: the end of the session, or that nobody listens.
    pub(super) fn used(&self) -> CancellationToken {
        self.streams
            .send_modify(|streams| streams.used = Instant::now());
        self.wanted.lock().token().child_token()
    }

    /// Counts an answer that is a stream of events, until it ends or its client goes away.
    pub(super) fn listen(self, response: Response) -> Response {
        keep_for_stream(response, || Listener::new(self.streams))
    }
}

/// Calls off the calls of a client that listens to no stream, and ends a session that is not used.
async fn watch(
    sessions: Weak<Sessions>,
    id: SessionId,
    (mut streams, wanted): (watch::Receiver<Streams>, Arc<Mutex<DropGuard>>),
    (unheard, idle): (Duration, Duration),
) {
    let mut is_heard = true;
    loop {
        let Streams { open, used } = *streams.borrow_and_update();
        let limit = if is_heard { unheard } else { idle };
        tokio::select! {
            biased;
            changed = streams.changed() => {
                if changed.is_err() {
                    return;
                }
                is_heard = true;
            }
            () = sleep_until(used + limit), if open == 0 => {
                if !is_heard {
                    break;
                }
                call_off(&wanted);
                is_heard = false;
            }
        }
    }
    if let Some(sessions) = sessions.upgrade() {
        sessions.end(&id).await;
    }
}

/// Calls off the calls of now, and none that begins later.
fn call_off(wanted: &Mutex<DropGuard>) {
    *wanted.lock() = CancellationToken::new().drop_guard();
}

/// A stream of events, until this is dropped.
struct Listener(watch::Sender<Streams>);

impl Listener {
    fn new(streams: watch::Sender<Streams>) -> Self {
        streams.send_modify(|streams| streams.open += 1);
        Self(streams)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.send_modify(|streams| {
            streams.open -= 1;
            streams.used = Instant::now();
        });
    }
}

impl SessionManager for Sessions {
    type Error = LocalSessionManagerError;
    type Transport = Numbered<WorkerTransport<LocalSessionWorker>>;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let (id, inner) = self.inner.create_session().await?;
        let session = Session::new();
        let calls = session.calls.clone();
        self.open.lock().insert(id.clone(), session);
        Ok((id, Numbered { inner, calls }))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.inner.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.inner.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        // Before rmcp waits for the answers of its calls.
        if let Some(session) = self.open.lock().remove(id) {
            call_off(&session.wanted);
            session.calls.clear();
        }
        self.events.forget(id);
        self.inner.close_session(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let call = match &message {
            JsonRpcMessage::Request(request) => Some((id.clone(), request.id.clone())),
            _ => None,
        };
        let events = Arc::clone(&self.events);
        let stream = self.inner.create_stream(id, message).await?;
        Ok(stream.inspect(move |event| {
            if let (Some(call), Some(event)) = (&call, &event.event_id) {
                events.claim(event, call);
            }
        }))
    }

    async fn accept_message(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<(), Self::Error> {
        self.inner.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.inner.create_standalone_stream(id).await
    }

    /// Goes on after an event of a call, until that ends. Nothing else is kept: there, the client listens
    /// anew.
    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let calls = self
            .open
            .lock()
            .get(id)
            .map(|session| session.calls.clone());
        let events = calls.and_then(|calls| self.events.after(id, &last_event_id, calls));
        match events {
            Some(events) => Ok(events.left_stream()),
            None => Ok(self.create_standalone_stream(id).await?.right_stream()),
        }
    }
}
