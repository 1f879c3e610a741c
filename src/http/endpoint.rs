//! `/mcp`: rmcp's streamable HTTP transport without sessions.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};

use crate::{
    context::Context,
    mcp,
    normalize::normalize,
    rest::{Problem, accepts, is_json},
};

type Service = StreamableHttpService<mcp::Server, NeverSessionManager>;

/// Marks the response to a message that was refused before it became a call.
#[derive(Clone)]
pub(super) struct Refused;

/// The endpoint. Methods other than `POST` are for sessions.
pub(super) fn router(server: mcp::Server) -> Router {
    // The middleware checks hosts, origins and the size of the body. Clients of the revisions before
    // 2025-11-25 cannot read an event without data, which a retry interval is.
    let config = StreamableHttpServerConfig::default()
        .disable_allowed_hosts()
        .disable_allowed_origins()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_sse_retry(None);
    let service = Service::new(move || Ok(server.clone()), Arc::default(), config);
    Router::new()
        .route("/mcp", post(answer))
        .with_state(service)
}

async fn answer(
    State(service): State<Service>,
    Extension(context): Extension<Context>,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    if !is_json(&parts.headers) {
        return Err(Problem::unsupported_media_type());
    }
    // rmcp requires both, and answers in JSON unless there is progress to report first.
    if !context.accepts_events && !accepts(&parts.headers, "application", "json") {
        return Err(Problem::not_acceptable());
    }
    let both = HeaderValue::from_static("application/json, text/event-stream");
    parts.headers.insert(header::ACCEPT, both);
    // The middleware has read it.
    let body = to_bytes(body, usize::MAX).await;
    let mut body = body.map_err(|_| Problem::body_broken())?;
    let normalized = match normalize(&body) {
        Ok(normalized) => normalized,
        Err(invalid) => {
            let json = [(header::CONTENT_TYPE, "application/json")];
            let response = (StatusCode::BAD_REQUEST, json, invalid.to_json());
            return Ok((Extension(Refused), response).into_response());
        }
    };
    if normalized.is_initialize {
        // Some clients send the version of their last connection; the body has the one that they ask for.
        parts.headers.remove("mcp-protocol-version");
    }
    body = normalized.rewritten.map_or(body, Into::into);
    let request = Request::from_parts(parts, Body::from(body));
    let response = service.handle(request).await.map(Body::new);
    match response.status() {
        // So rmcp answers JSON that it cannot read, for instance with a member twice.
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Err(Problem::invalid("This is no JSON-RPC message")),
        _ => Ok(response),
    }
}
