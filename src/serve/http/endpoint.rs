//! `/mcp`: the streamable HTTP transport, and what it leaves to the application: which sessions
//! there may be, whose they are, and an answer in JSON-RPC to what is not JSON-RPC.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::any,
};
use parking_lot::Mutex;
use rmcp::{
    model::{ClientJsonRpcMessage, ClientRequest, JsonRpcMessage},
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::layers::{Refused, keep_for_stream};
use crate::{
    context::Context,
    limits::Limits,
    mcp,
    problem::Problem,
    shares::{Permit, Shares},
};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// The endpoint.
pub(super) struct Endpoint {
    service: StreamableHttpService<mcp::Server, LocalSessionManager>,
    sessions: Option<Sessions>,
    end: CancellationToken,
}

/// The sessions there are, and what rmcp does not know of them.
struct Sessions {
    shares: Shares,
    manager: Arc<LocalSessionManager>,
    open: Mutex<HashMap<String, Session>>,
    unheard: Duration,
}

/// Whose a session is, and whether its client can still be told anything.
struct Session {
    owner: Option<String>,
    _permit: Permit,
    listeners: Listeners,
}

/// The streams of events that are open to the client of one session. The calls of a client that has
/// none for a while are called off: it has gone.
#[derive(Clone)]
struct Listeners {
    open: watch::Sender<usize>,
    /// Cancelled for the calls of now.
    calls: Arc<Mutex<DropGuard>>,
}

impl Endpoint {
    /// With shares of them, there are sessions.
    pub(super) fn new(server: mcp::Server, sessions: Option<Shares>, limits: &Limits) -> Self {
        let end = CancellationToken::new();
        // The layers have checked the names, the origin and the size of the body already.
        let config = StreamableHttpServerConfig::default()
            .disable_allowed_hosts()
            .disable_allowed_origins()
            .with_legacy_session_mode(sessions.is_some())
            .with_json_response(true)
            .with_cancellation_token(end.clone());
        let mut manager = LocalSessionManager::default();
        manager.session_config.keep_alive = Some(limits.session);
        let manager = Arc::new(manager);
        let factory = move || Ok(server.clone());
        Self {
            service: StreamableHttpService::new(factory, Arc::clone(&manager), config),
            sessions: sessions.map(|shares| Sessions {
                shares,
                manager,
                open: Mutex::default(),
                unheard: limits.unheard,
            }),
            end,
        }
    }

    /// Cancelled to end all sessions and their streams.
    pub(super) fn end(&self) -> CancellationToken {
        self.end.clone()
    }

    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/mcp", any(answer))
            .fallback(async || Problem::no_such_path())
            .with_state(Arc::new(self))
    }

    async fn pass(&self, request: Request) -> Response {
        self.service.handle(request).await.map(Body::new)
    }
}

async fn answer(
    State(endpoint): State<Arc<Endpoint>>,
    Extension(context): Extension<Context>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    // The layers hold the body in memory already.
    let body = to_bytes(body, usize::MAX).await;
    let body = body.map_err(|_| Problem::body_broken())?;
    let posts = parts.method == Method::POST && is_json(&parts.headers);
    let ends = parts.method == Method::DELETE;
    let account = context.caller.clone();
    let owner = account.account();
    let session = parts
        .headers
        .get(SESSION)
        .map(|id| id.to_str().unwrap_or_default().to_owned());
    let mut request = Request::from_parts(parts, Body::from(body.clone()));
    let response = match (&endpoint.sessions, session) {
        (Some(sessions), Some(id)) => {
            // As for a session that does not exist, so that nobody learns which do.
            let listeners = sessions.listeners(&id, owner).await;
            let listeners = listeners.ok_or_else(Problem::no_such_session)?;
            let cancellation = listeners.calls();
            request.extensions_mut().insert(Context {
                cancellation,
                ..context
            });
            if ends {
                // Before rmcp waits for the answers of its calls.
                sessions.open.lock().remove(&id);
                call_off(&listeners.calls);
            }
            let response = endpoint.pass(request).await;
            listeners.listen(response)
        }
        (Some(sessions), None) if posts && begins_session(&body) => {
            let permit = sessions
                .reserve(owner)
                .await
                .ok_or_else(Problem::overloaded)?;
            let owner = owner.map(str::to_owned);
            let endpoint = Arc::clone(&endpoint);
            // If the caller goes away meanwhile, there is a session all the same.
            let begun = tokio::spawn(async move { endpoint.begin(request, owner, permit).await });
            begun.await.map_err(|_| Problem::internal())?
        }
        _ => endpoint.pass(request).await,
    };
    Ok(match response.status() {
        // The session has ended, which some clients tell from an end that was merely accepted.
        StatusCode::ACCEPTED if ends => StatusCode::NO_CONTENT.into_response(),
        // So the transport calls what is no message.
        StatusCode::UNSUPPORTED_MEDIA_TYPE if posts => refuse(&body),
        // An error of the server itself is a message.
        status if status.is_client_error() && !is_json(response.headers()) => refused(response),
        _ => response,
    })
}

/// Says that a request was refused before it was anybody's call.
fn refused(mut response: Response) -> Response {
    response.extensions_mut().insert(Refused);
    response
}

/// Answers what is no message in JSON-RPC's own terms (JSON-RPC 2.0, section 5.1).
fn refuse(body: &[u8]) -> Response {
    let (code, message) = match serde_json::from_slice::<IgnoredAny>(body) {
        Err(_) => (-32700, "Parse error: the body is not JSON."),
        Ok(_) => (
            -32600,
            "Invalid request: the body is not one JSON-RPC message.",
        ),
    };
    let error = json!({ "code": code, "message": message });
    let error = json!({ "jsonrpc": "2.0", "id": null, "error": error });
    refused((StatusCode::BAD_REQUEST, Json(error)).into_response())
}

fn is_json(headers: &axum::http::HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// Whether the transport will take this message for the beginning of a session.
fn begins_session(body: &[u8]) -> bool {
    let message = serde_json::from_slice::<ClientJsonRpcMessage>(body);
    let Ok(JsonRpcMessage::Request(request)) = message else {
        return false;
    };
    matches!(request.request, ClientRequest::InitializeRequest(_))
}

impl Endpoint {
    /// Begins a session that has a place already.
    async fn begin(&self, request: Request, owner: Option<String>, permit: Permit) -> Response {
        let response = self.pass(request).await;
        let id = response.headers().get(SESSION);
        if let (Some(sessions), Some(Ok(id))) = (&self.sessions, id.map(HeaderValue::to_str)) {
            let session = Session {
                owner,
                _permit: permit,
                listeners: Listeners::new(sessions.unheard),
            };
            sessions.open.lock().insert(id.to_owned(), session);
        }
        response
    }
}

impl Sessions {
    /// Takes a place for one more, of those that have ended too.
    async fn reserve(&self, owner: Option<&str>) -> Option<Permit> {
        let known = self.manager.sessions.read().await;
        self.open
            .lock()
            .retain(|id, _| known.contains_key(id.as_str()));
        self.shares.reserve(owner, 1)
    }

    /// Who listens to the session, if there is one and it is this owner's.
    async fn listeners(&self, id: &str, owner: Option<&str>) -> Option<Listeners> {
        let is_known = self.manager.sessions.read().await.contains_key(id);
        let open = self.open.lock();
        let session = open.get(id).filter(|_| is_known)?;
        (session.owner.as_deref() == owner).then(|| session.listeners.clone())
    }
}

impl Listeners {
    fn new(unheard: Duration) -> Self {
        let listeners = Self {
            open: watch::Sender::new(0),
            calls: Arc::new(Mutex::new(CancellationToken::new().drop_guard())),
        };
        let mut open = listeners.open.subscribe();
        let calls = Arc::clone(&listeners.calls);
        // Ends with the session.
        tokio::spawn(async move {
            while open.wait_for(|open| *open == 0).await.is_ok() {
                let heard = timeout(unheard, open.wait_for(|open| *open > 0));
                if heard.await.is_err() {
                    call_off(&calls);
                    if open.wait_for(|open| *open > 0).await.is_err() {
                        return;
                    }
                }
            }
        });
        listeners
    }

    /// What calls off a call that begins now: the end of the session, or that nobody listens.
    fn calls(&self) -> CancellationToken {
        self.calls.lock().token().child_token()
    }

    /// Counts an answer that is a stream of events, until it ends or its client goes away.
    fn listen(self, response: Response) -> Response {
        keep_for_stream(response, || Listener::new(self.open))
    }
}

/// Calls off the calls of now, and none that begins later.
fn call_off(calls: &Mutex<DropGuard>) {
    *calls.lock() = CancellationToken::new().drop_guard();
}

/// A stream of events, until this is dropped.
struct Listener(watch::Sender<usize>);

impl Listener {
    fn new(open: watch::Sender<usize>) -> Self {
        open.send_modify(|open| *open += 1);
        Self(open)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}
