//! `/mcp`: the streamable HTTP transport, and what it leaves to the application: whose a session is,
//! what clients are known to get wrong, and an answer in JSON-RPC to what is not JSON-RPC.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::any,
};
use http_body_util::BodyExt;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio_util::sync::CancellationToken;

use super::{
    layers::{Refused, accepts},
    sessions::Sessions,
};
use crate::{
    context::Context,
    limits::Limits,
    mcp,
    problem::Problem,
    serve::message::{self, DOUBLED, Looked, UNBEGUN, Unreadable},
    shares::Permit,
};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// The endpoint.
pub(super) struct Endpoint {
    service: StreamableHttpService<mcp::Server, Sessions>,
    /// None are begun without `--sessions`.
    sessions: Option<Arc<Sessions>>,
    end: CancellationToken,
}

impl Endpoint {
    pub(super) fn new(server: mcp::Server, with_sessions: bool, limits: &Limits) -> Self {
        let end = CancellationToken::new();
        // The layers have checked the names, the origin and the size of the body already. Clients of the
        // revisions before 2025-11-25 cannot read an event without data, which a retry interval is.
        let config = StreamableHttpServerConfig::default()
            .disable_allowed_hosts()
            .disable_allowed_origins()
            .with_legacy_session_mode(with_sessions)
            .with_json_response(true)
            .with_sse_retry(None)
            .with_cancellation_token(end.clone());
        let sessions = Arc::new(Sessions::new(limits));
        let factory = move || Ok(server.clone());
        Self {
            service: StreamableHttpService::new(factory, Arc::clone(&sessions), config),
            sessions: with_sessions.then_some(sessions),
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

    /// Begins a session that has a place already.
    async fn begin(&self, request: Request, owner: Option<String>, permit: Permit) -> Response {
        let response = self.pass(request).await;
        let id = response.headers().get(SESSION);
        if let (Some(sessions), Some(Ok(id))) = (&self.sessions, id.map(HeaderValue::to_str)) {
            sessions.begin(id, owner, permit);
        }
        response
    }
}

async fn answer(
    State(endpoint): State<Arc<Endpoint>>,
    Extension(context): Extension<Context>,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    // The layers hold the body in memory already.
    let body = to_bytes(body, usize::MAX).await;
    let mut body = body.map_err(|_| Problem::body_broken())?;
    let posts = parts.method == Method::POST;
    let ends = parts.method == Method::DELETE;
    let mut looked = Looked::default();
    if posts && is_json(&parts.headers) {
        looked = match message::look(&body) {
            Ok(looked) => looked,
            Err(unreadable) => return Ok(refuse(&unreadable)),
        };
        body = looked.mended.take().map_or(body, Bytes::from);
    }
    if looked.begins_session {
        // Some clients send here what they spoke last; what they ask for is in the body.
        parts.headers.remove(VERSION);
    }
    let session = parts
        .headers
        .get(SESSION)
        .map(|id| id.to_str().unwrap_or_default().to_owned());
    let is_in_session = posts && (session.is_some() || looked.begins_session);
    let is_stream = endpoint.sessions.is_some() && (is_in_session || parts.method == Method::GET);
    if posts || is_stream {
        accept(&mut parts.headers, context.accepts_events, is_stream)?;
    }
    let account = context.caller.clone();
    let owner = account.token_name();
    let mut request = Request::from_parts(parts, Body::from(body));
    let response = match (&endpoint.sessions, session) {
        (Some(sessions), Some(id)) => {
            // As for a session that does not exist, so that nobody learns which do.
            let session = sessions.find(&id, owner);
            let session = session.ok_or_else(Problem::no_such_session)?;
            request.extensions_mut().insert(Context {
                cancellation: session.used(),
                ..context
            });
            let begun = match &looked.id {
                Some(id) => match session.calls.begin_in_turn(id).await {
                    None => return Ok(refuse(&Unreadable::request(id, DOUBLED))),
                    begun => begun,
                },
                None => None,
            };
            let cancelled = match &looked.cancels {
                Some(id) => session.calls.open(id).await,
                None => None,
            };
            if ends {
                sessions.end(&id.into()).await;
                // It was there until now, and there is nothing left for the transport to end.
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            let response = endpoint.pass(request).await;
            if response.status().is_success() {
                if let Some(begun) = begun {
                    begun.passed_on();
                }
                if let Some(number) = cancelled {
                    session.calls.cancel(number);
                }
            }
            session.listen(response)
        }
        (Some(sessions), None) if looked.begins_session => {
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
        (sessions, _) => match looked.id.filter(|_| sessions.is_some()) {
            Some(id) => return Ok(refuse(&Unreadable::request(&id, UNBEGUN))),
            None => endpoint.pass(request).await,
        },
    };
    let response = name_events(response);
    // An error of the server itself is a message.
    let is_refusal = response.status().is_client_error() && !is_json(response.headers());
    Ok(if is_refusal {
        refused(response)
    } else {
        response
    })
}

/// Lets in whoever takes an answer, whatever the transport would have them say: a stream of events in a
/// session, else JSON. Some take events alone, and JSON all the same.
fn accept(headers: &mut HeaderMap, accepts_events: bool, is_stream: bool) -> Result<(), Problem> {
    if !accepts_events && (is_stream || !accepts(headers, "application", "json")) {
        return Err(Problem::not_acceptable());
    }
    let both = HeaderValue::from_static("application/json, text/event-stream");
    headers.insert(ACCEPT, both);
    Ok(())
}

/// Gives each event its name, which is `message` where none is given (HTML, section 9.2.6). Some clients
/// drop an event without one (mcp-go 0.31).
fn name_events(response: Response) -> Response {
    let is_stream = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value == "text/event-stream");
    if !is_stream {
        return response;
    }
    // The transport sends each event, and each comment, in one piece.
    let name = |event: Bytes| match event.first() {
        None | Some(b':') => event,
        Some(_) => [b"event: message\n", &*event].concat().into(),
    };
    response.map(|body| Body::new(body.map_frame(move |frame| frame.map_data(name))))
}

/// Says that a request was refused before it was anybody's call.
fn refused(mut response: Response) -> Response {
    response.extensions_mut().insert(Refused);
    response
}

/// Answers what does not read. That parameters do not fit is an answer like any other.
fn refuse(unreadable: &Unreadable) -> Response {
    let status = match unreadable.code {
        -32602 if unreadable.answer().is_some() => StatusCode::OK,
        _ => StatusCode::BAD_REQUEST,
    };
    let json = [(CONTENT_TYPE, "application/json")];
    refused((status, json, unreadable.to_json()).into_response())
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}
