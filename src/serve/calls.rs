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

/// The requests that are being answered. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    last: i64,
    /// The number that each has, and the id that its client gave it.
    open: Vec<(i64, RequestId)>,
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
        let mut book = self.0.lock();
        if book.open.iter().any(|(_, other)| other == id) {
            return None;
        }
        Some(Begun {
            number: Some(book.add(id)),
            calls: self.clone(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().open.is_empty()
    }

    /// The number of a request, which may be new.
    fn number(&self, id: &RequestId) -> RequestId {
        let mut book = self.0.lock();
        let known = book.open.iter().find(|(_, other)| other == id);
        let number = known.map(|(number, _)| *number);
        RequestId::Number(number.unwrap_or_else(|| book.add(id)))
    }

    /// The id of the request with this number, unless it was answered or cancelled.
    fn id(&self, number: &RequestId) -> Option<RequestId> {
        let RequestId::Number(number) = number else {
            return None;
        };
        let book = self.0.lock();
        let found = book.open.iter().find(|(other, _)| other == number)?;
        Some(found.1.clone())
    }

    /// Forgets the requests that these words are true of, and gives the number of the last one.
    fn forget(&self, is_it: impl Fn(i64, &RequestId) -> bool) -> Option<RequestId> {
        let mut last = None;
        self.0.lock().open.retain(|(number, id)| {
            let found = is_it(*number, id);
            if found {
                last = Some(RequestId::Number(*number));
            }
            !found
        });
        last
    }
}

impl Book {
    fn add(&mut self, id: &RequestId) -> i64 {
        self.last += 1;
        self.open.push((self.last, id.clone()));
        self.last
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
            self.calls.forget(|number, _| number == begun);
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
                    && let Some(id) = self.calls.id(number)
                {
                    *number = id;
                }
                None
            }
            JsonRpcMessage::Notification(_) => None,
        };
        let mut answered = None;
        let is_wanted = number.is_none_or(|number| {
            let id = self.calls.id(number);
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
            if let Some(answered) = answered {
                calls.forget(|number, _| RequestId::Number(number) == answered);
            }
            sent
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        let mut message = self.inner.receive().await?;
        match &mut message {
            JsonRpcMessage::Request(request) => request.id = self.calls.number(&request.id),
            JsonRpcMessage::Notification(notification) => {
                if let ClientNotification::CancelledNotification(cancelled) =
                    &mut notification.notification
                {
                    // What is cancelled is not answered.
                    let cancelled = &mut cancelled.params.request_id;
                    if let Some(id) = cancelled.take() {
                        *cancelled = self.calls.forget(|_, other| *other == id);
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
