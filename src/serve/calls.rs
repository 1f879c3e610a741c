//! The requests of one connection or session that are being answered. Each gets a number on its way in,
//! by which rmcp knows it, so that a late answer to one that was cancelled never meets a newer one of the
//! same id.

use std::{mem, sync::Arc};

use parking_lot::Mutex;
use rmcp::{
    RoleServer,
    model::{ClientNotification, GetExtensions, JsonRpcMessage, RequestId},
    service::{OriginatingRequestId, RxJsonRpcMessage, TxJsonRpcMessage},
    transport::Transport,
};
use tokio::sync::Notify;

/// The requests that are being answered. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    book: Mutex<Book>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Book {
    last: i64,
    open: Vec<Call>,
}

#[derive(Debug)]
struct Call {
    number: i64,
    /// What its client calls it.
    id: RequestId,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is on its way to its transport.
    Begun,
    Open,
    /// The answer is being sent: the id is free, but not yet for who finds the way of an answer by it.
    Answered,
    /// It is not to be answered any more, which its transport does not know yet.
    Cancelled,
}

/// A request that may not have reached its transport yet: it is forgotten when this is dropped.
pub(super) struct Begun {
    calls: Calls,
    number: Option<i64>,
}

/// A transport whose requests are numbered.
pub(super) struct Numbered<T> {
    pub(super) inner: T,
    pub(super) calls: Calls,
}

impl Calls {
    /// Takes a request in, unless another one of its id is being answered.
    pub(super) fn begin(&self, id: &RequestId) -> Option<Begun> {
        let mut book = self.0.book.lock();
        let is_open = book.has(id, &[State::Begun, State::Open]);
        (!is_open).then(|| Begun {
            number: Some(book.add(id, State::Begun)),
            calls: self.clone(),
        })
    }

    /// The same, once nothing of the one before it is under way any more.
    pub(super) async fn begin_in_turn(&self, id: &RequestId) -> Option<Begun> {
        self.without(id, &[State::Answered, State::Cancelled]).await;
        self.begin(id)
    }

    /// The number of a request that its transport has, and that is to be answered.
    pub(super) async fn open(&self, id: &RequestId) -> Option<i64> {
        self.without(id, &[State::Begun]).await;
        let mut book = self.0.book.lock();
        book.find(id, State::Open).map(|call| call.number)
    }

    /// Says that a request is not to be answered any more.
    pub(super) fn cancel(&self, number: i64) {
        let mut book = self.0.book.lock();
        let mut open = book.open.iter_mut();
        if let Some(call) = open.find(|call| call.number == number) {
            call.state = State::Cancelled;
        }
        self.0.changed.notify_waiters();
    }

    /// Forgets all, where nothing is answered any more.
    pub(super) fn clear(&self) {
        self.0.book.lock().open.clear();
        self.0.changed.notify_waiters();
    }

    /// Whether nobody waits for an answer.
    pub(super) fn is_empty(&self) -> bool {
        let ended = [State::Answered, State::Cancelled];
        let book = self.0.book.lock();
        book.open.iter().all(|call| ended.contains(&call.state))
    }

    /// Waits until no request of this id is in one of these states.
    async fn without(&self, id: &RequestId, states: &[State]) {
        loop {
            let changed = self.0.changed.notified();
            if !self.0.book.lock().has(id, states) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until a request is answered or cancelled, or its connection is gone.
    pub(super) async fn ended(&self, id: &RequestId) {
        let states = [State::Begun, State::Open, State::Answered];
        self.without(id, &states).await;
    }

    /// The number of a request that has come.
    fn receive(&self, id: &RequestId) -> RequestId {
        let mut book = self.0.book.lock();
        let begun = book.find(id, State::Begun).map(|call| {
            call.state = State::Open;
            call.number
        });
        let number = begun.unwrap_or_else(|| book.add(id, State::Open));
        self.0.changed.notify_waiters();
        RequestId::Number(number)
    }

    /// The request with this number, if it is to be answered.
    fn look_up<T>(&self, number: &RequestId, then: impl FnOnce(&mut Call) -> T) -> Option<T> {
        let mut book = self.0.book.lock();
        let mut open = book.open.iter_mut();
        let is_it = |call: &&mut Call| {
            call.state == State::Open && RequestId::Number(call.number) == *number
        };
        open.find(is_it).map(then)
    }

    fn forget(&self, number: i64) {
        let mut book = self.0.book.lock();
        book.open.retain(|call| call.number != number);
        self.0.changed.notify_waiters();
    }

    /// Forgets a request that was cancelled, and gives its number.
    fn forget_cancelled(&self, id: &RequestId) -> Option<RequestId> {
        let number = {
            let mut book = self.0.book.lock();
            let marked = book.find(id, State::Cancelled).map(|call| call.number);
            marked.or_else(|| book.find(id, State::Open).map(|call| call.number))?
        };
        self.forget(number);
        Some(RequestId::Number(number))
    }
}

impl Book {
    fn add(&mut self, id: &RequestId, state: State) -> i64 {
        self.last += 1;
        self.open.push(Call {
            number: self.last,
            id: id.clone(),
            state,
        });
        self.last
    }

    fn has(&self, id: &RequestId, states: &[State]) -> bool {
        let mut open = self.open.iter();
        open.any(|call| states.contains(&call.state) && call.id == *id)
    }

    fn find(&mut self, id: &RequestId, state: State) -> Option<&mut Call> {
        let mut open = self.open.iter_mut();
        open.find(|call| call.state == state && call.id == *id)
    }
}

impl Begun {
    /// It is with its transport, which forgets it once it is answered.
    pub(super) fn passed_on(mut self) {
        self.number = None;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(begun) = self.number {
            self.calls.forget(begun);
        }
    }
}

impl<T: Transport<RoleServer>> Transport<RoleServer> for Numbered<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        mut message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), T::Error>> + Send + 'static {
        let number = match &mut message {
            JsonRpcMessage::Response(response) => Some(&mut response.id),
            JsonRpcMessage::Error(error) => error.id.as_mut(),
            JsonRpcMessage::Request(question) => {
                // It goes the way of the call that it belongs to.
                let extensions = question.request.extensions_mut();
                if let Some(OriginatingRequestId(number)) = extensions.get_mut()
                    && let Some(id) = self.calls.look_up(number, |call| call.id.clone())
                {
                    *number = id;
                }
                None
            }
            JsonRpcMessage::Notification(_) => None,
        };
        let mut answered = None;
        let is_wanted = number.is_none_or(|number| {
            let id = self.calls.look_up(number, |call| {
                call.state = State::Answered;
                call.id.clone()
            });
            id.map(|id| answered = Some(mem::replace(number, id)))
                .is_some()
        });
        let sending = is_wanted.then(|| self.inner.send(message));
        let calls = self.calls.clone();
        async move {
            let Some(sending) = sending else {
                return Ok(());
            };
            let sent = sending.await;
            if let Some(RequestId::Number(answered)) = answered {
                calls.forget(answered);
            }
            sent
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        let mut message = self.inner.receive().await?;
        match &mut message {
            JsonRpcMessage::Request(request) => request.id = self.calls.receive(&request.id),
            JsonRpcMessage::Notification(notification) => {
                if let ClientNotification::CancelledNotification(cancelled) =
                    &mut notification.notification
                {
                    // What is cancelled is not answered.
                    let cancelled = &mut cancelled.params.request_id;
                    if let Some(id) = cancelled.take() {
                        *cancelled = self.calls.forget_cancelled(&id);
                    }
                }
            }
            _ => {}
        }
        Some(message)
    }

    async fn close(&mut self) -> Result<(), T::Error> {
        self.inner.close().await
    }
}
