//! `/mcp`: the streamable HTTP transport, and what it leaves to the application: which sessions
//! there may be, whose they are, and an answer in JSON-RPC to what is not JSON-RPC.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderName, Method, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::any,
};
use rmcp::{
    model::{ClientJsonRpcMessage, ClientRequest, JsonRpcMessage},
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    context::Context,
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

/// The sessions there are, and whose. rmcp knows only the former.
struct Sessions {
    shares: Shares,
    manager: Arc<LocalSessionManager>,
    owners: Mutex<HashMap<String, (Option<String>, Permit)>>,
}

impl Endpoint {
    /// With shares of them, there are sessions; each ends when it was not used for so long.
    pub(super) fn new(server: mcp::Server, sessions: Option<Shares>, life: Duration) -> Self {
        let end = CancellationToken::new();
        // The layers have checked the names, the origin and the size of the body already.
        let config = StreamableHttpServerConfig::default()
            .disable_allowed_hosts()
            .disable_allowed_origins()
            .with_legacy_session_mode(sessions.is_some())
            .with_json_response(true)
            .with_cancellation_token(end.clone());
        let mut manager = LocalSessionManager::default();
        manager.session_config.keep_alive = Some(life);
        let manager = Arc::new(manager);
        let factory = move || Ok(server.clone());
        Self {
            service: StreamableHttpService::new(factory, Arc::clone(&manager), config),
            sessions: sessions.map(|shares| Sessions {
                shares,
                manager,
                owners: Mutex::default(),
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
    let owner = context.caller.account();
    let session = parts
        .headers
        .get(SESSION)
        .map(|id| id.to_str().unwrap_or_default().to_owned());
    let request = Request::from_parts(parts, Body::from(body.clone()));
    let response = match (&endpoint.sessions, session) {
        (Some(sessions), Some(id)) if !sessions.is_of(&id, owner).await => {
            // As for a session that does not exist, so that nobody learns which do.
            return Err(Problem::no_such_session());
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
        _ => response,
    })
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
    (StatusCode::BAD_REQUEST, Json(error)).into_response()
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
        let id = response
            .headers()
            .get(SESSION)
            .and_then(|id| id.to_str().ok());
        if let (Some(sessions), Some(id)) = (&self.sessions, id) {
            sessions.owners().insert(id.to_owned(), (owner, permit));
        }
        response
    }
}

impl Sessions {
    fn owners(&self) -> MutexGuard<'_, HashMap<String, (Option<String>, Permit)>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for one more, of those that have ended too.
    async fn reserve(&self, owner: Option<&str>) -> Option<Permit> {
        let open = self.manager.sessions.read().await;
        self.owners().retain(|id, _| open.contains_key(id.as_str()));
        self.shares.reserve(owner, 1)
    }

    async fn is_of(&self, id: &str, owner: Option<&str>) -> bool {
        let is_open = self.manager.sessions.read().await.contains_key(id);
        is_open
            && self
                .owners()
                .get(id)
                .is_some_and(|(of, _)| of.as_deref() == owner)
    }
}
