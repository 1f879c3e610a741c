//! `/mcp`: the streamable HTTP transport, and what it leaves to the application: which sessions
//! there may be, whose they are, and an answer in JSON-RPC to what is not JSON-RPC.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderName, Method, StatusCode, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::any_service,
};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{call::Call, mcp, problem::Problem};

/// Sessions at once. Each takes about 50 kB until it ends, or was idle for five minutes.
const MOST_SESSIONS: usize = 256;

/// Sessions of one caller, so that it leaves some for others.
const MOST_OF_ONE: usize = MOST_SESSIONS / 2;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// The endpoint.
pub(super) struct Endpoint {
    server: mcp::Server,
    sessions: bool,
    end: CancellationToken,
}

/// The sessions there are, and whose.
struct Sessions {
    manager: Arc<LocalSessionManager>,
    owners: Mutex<HashMap<String, String>>,
}

impl Endpoint {
    pub(super) fn new(server: mcp::Server, sessions: bool) -> Self {
        Self {
            server,
            sessions,
            end: CancellationToken::new(),
        }
    }

    /// Cancelled to end all sessions and their streams.
    pub(super) fn end(&self) -> CancellationToken {
        self.end.clone()
    }

    pub(super) fn router(self) -> Router {
        let server = self.server;
        let factory = move || Ok(server.clone());
        // The door has checked the names, the origin and the size of the body already.
        let config = StreamableHttpServerConfig::default()
            .disable_allowed_hosts()
            .disable_allowed_origins()
            .with_legacy_session_mode(self.sessions)
            .with_json_response(true)
            .with_cancellation_token(self.end);
        // Without the legacy mode it never makes a session.
        let manager = Arc::new(LocalSessionManager::default());
        let service = StreamableHttpService::new(factory, Arc::clone(&manager), config);
        let mut router = Router::new().route("/mcp", any_service(service));
        if self.sessions {
            let sessions = Arc::new(Sessions {
                manager,
                owners: Mutex::default(),
            });
            router = router.layer(middleware::from_fn_with_state(sessions, keep_apart));
        }
        router
            .layer(middleware::from_fn(speak_json_rpc))
            .fallback(async || Problem::no_such_path())
    }
}

/// Answers what is no message in JSON-RPC's own terms (JSON-RPC 2.0, section 5.1). The transport
/// calls it an unsupported media type.
async fn speak_json_rpc(request: Request, next: Next) -> Response {
    if request.method() != Method::POST || !is_json(&request) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    // The door holds the body in memory already.
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let request = Request::from_parts(parts, Body::from(body.clone()));
    let response = next.run(request).await;
    if response.status() != StatusCode::UNSUPPORTED_MEDIA_TYPE {
        return response;
    }
    let (code, message) = match serde_json::from_slice::<IgnoredAny>(&body) {
        Err(_) => (-32700, "Parse error: the body is not JSON."),
        Ok(_) => (
            -32600,
            "Invalid request: the body is not one JSON-RPC message.",
        ),
    };
    let error =
        json!({ "jsonrpc": "2.0", "id": null, "error": { "code": code, "message": message } });
    (StatusCode::BAD_REQUEST, axum::Json(error)).into_response()
}

fn is_json(request: &Request) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    content_type
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// Lets nobody use another caller's session, nor anybody open too many.
async fn keep_apart(
    State(sessions): State<Arc<Sessions>>,
    request: Request,
    next: Next,
) -> Response {
    let caller = request
        .extensions()
        .get::<Arc<Call>>()
        .map_or_else(String::new, |call| call.caller().to_owned());
    if let Some(id) = request.headers().get(SESSION) {
        let id = id.to_str().unwrap_or_default();
        if !sessions.is_of(id, &caller).await {
            // As for a session that does not exist, so that nobody learns which do.
            return Problem::no_such_session().into_response();
        }
        let ends = request.method() == Method::DELETE;
        let mut response = next.run(request).await;
        if ends && response.status() == StatusCode::ACCEPTED {
            // It is done, not merely accepted, and some clients tell the difference.
            *response.status_mut() = StatusCode::NO_CONTENT;
        }
        return response;
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let begins = begins_session(&body);
    let request = Request::from_parts(parts, Body::from(body));
    if begins && !sessions.has_room_for(&caller).await {
        return Problem::overloaded().into_response();
    }
    let response = next.run(request).await;
    if let Some(id) = response
        .headers()
        .get(SESSION)
        .and_then(|id| id.to_str().ok())
    {
        sessions.owners().insert(id.to_owned(), caller);
    }
    response
}

impl Sessions {
    fn owners(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn has_room_for(&self, caller: &str) -> bool {
        let open = self.manager.sessions.read().await;
        let mut owners = self.owners();
        owners.retain(|id, _| open.contains_key(id.as_str()));
        let own = owners.values().filter(|owner| *owner == caller).count();
        open.len() < MOST_SESSIONS && own < MOST_OF_ONE
    }

    async fn is_of(&self, id: &str, caller: &str) -> bool {
        let is_open = self.manager.sessions.read().await.contains_key(id);
        is_open && self.owners().get(id).is_some_and(|owner| owner == caller)
    }
}

fn begins_session(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        method: std::borrow::Cow<'a, str>,
    }
    serde_json::from_slice::<Message<'_>>(body).is_ok_and(|message| message.method == "initialize")
}
