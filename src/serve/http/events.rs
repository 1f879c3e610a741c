//! The events of calls that ask or tell something before they are answered, so that a client whose stream
//! was cut can go on after the last one that it saw. rmcp's own memory of them ends with the answer, and
//! begins a resumed stream with an event that the client has.

use std::{collections::HashMap, time::Duration};

use futures_util::{Stream, stream};
use parking_lot::Mutex;
use rmcp::{
    model::{JsonRpcMessage, RequestId},
    transport::streamable_http_server::{
        SessionId,
        session::{EventId, EventStore, EventStoreError, EventStream, ServerSseMessage, StreamId},
    },
};
use tokio::{sync::watch, time::Instant};

use crate::serve::calls::Calls;

/// The events of calls that are not, or only just, answered.
#[derive(Default)]
pub(super) struct Events(Mutex<HashMap<StreamId, Kept>>);

/// The events of one call.
struct Kept {
    events: watch::Sender<Vec<ServerSseMessage>>,
    /// Whose they are, once its client has seen one: before that, it cannot ask for more.
    call: Option<(SessionId, RequestId)>,
    until: Instant,
}

impl Events {
    /// Far more than there are questions.
    const MOST: usize = 2048;
    /// How long an answer can still be fetched.
    const LATE: Duration = Duration::from_secs(60);
    /// Longer than a person is asked.
    const ASKED: Duration = Duration::from_secs(10 * 60);

    /// Tells whose events these are, from one that is given to its client.
    pub(super) fn claim(&self, event: &str, call: &(SessionId, RequestId)) {
        let stream = event.rsplit_once('/').map_or(event, |(stream, _)| stream);
        if let Some(kept) = self.0.lock().get_mut(stream)
            && kept.call.is_none()
        {
            kept.call = Some(call.clone());
            kept.until = Instant::now() + Self::ASKED;
        }
    }

    /// Forgets those of a session.
    pub(super) fn forget(&self, session: &SessionId) {
        let is_its = |kept: &Kept| kept.call.as_ref().is_some_and(|call| call.0 == *session);
        self.0.lock().retain(|_, kept| !is_its(kept));
    }

    /// The events of a session that come after this one, up to the answer or to the end of the call.
    pub(super) fn after(
        &self,
        session: &SessionId,
        last: &str,
        calls: Calls,
    ) -> Option<impl Stream<Item = ServerSseMessage> + Send + Sync + use<>> {
        let (stream, index) = last.rsplit_once('/')?;
        let index: usize = index.parse().ok()?;
        let all = self.0.lock();
        let kept = all.get(stream)?;
        let (_, call) = kept.call.as_ref().filter(|call| call.0 == *session)?;
        let state = (kept.events.subscribe(), index, calls, call.clone());
        Some(stream::unfold(
            state,
            async |(mut events, last, calls, call)| {
                if events.borrow().get(last).is_none_or(is_answer) {
                    return None;
                }
                let next = last + 1;
                tokio::select! {
                    _ = events.wait_for(|events| events.len() > next) => {}
                    () = calls.ended(&call) => {}
                }
                // The answer comes before the end.
                let event = events.borrow().get(next).cloned()?;
                Some((event, (events, next, calls, call)))
            },
        ))
    }
}

#[async_trait::async_trait]
impl EventStore for Events {
    /// A call whose first event is its answer has none to go on after, so nothing is kept of it.
    async fn store_event(
        &self,
        stream_id: &str,
        event: &ServerSseMessage,
    ) -> Result<EventId, EventStoreError> {
        let mut all = self.0.lock();
        let now = Instant::now();
        all.retain(|_, kept| kept.until > now);
        let is_needless =
            is_answer(event) || stream_id.ends_with(":common") || all.len() >= Self::MOST;
        if is_needless && !all.contains_key(stream_id) {
            return Ok(format!("{stream_id}/0"));
        }
        let kept = all.entry(stream_id.to_owned()).or_insert_with(|| Kept {
            events: watch::Sender::default(),
            call: None,
            until: now + Self::LATE,
        });
        if is_answer(event) {
            kept.until = now + Self::LATE;
        }
        let id = format!("{stream_id}/{}", kept.events.borrow().len());
        let mut event = event.clone();
        event.event_id = Some(id.clone());
        kept.events.send_modify(|events| events.push(event));
        Ok(id)
    }

    /// Nobody asks here: it would not know for whom.
    async fn replay_events_after(&self, _: &str) -> Result<EventStream, EventStoreError> {
        Err("events are replayed by the session".into())
    }
}

fn is_answer(event: &ServerSseMessage) -> bool {
    let message = event.message.as_deref();
    matches!(
        message,
        Some(JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_))
    )
}
