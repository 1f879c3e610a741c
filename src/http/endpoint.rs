//! `/mcp`: rmcp's streamable HTTP transport without sessions.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, Request, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::post,
};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};

use super::oauth::Refusal;
use crate::{
    context::Context,
    mcp,
    normalize::{is_initialize, normalize},
    telemetry::Call,
};

type Service = StreamableHttpService<mcp::Server, NeverSessionManager>;

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
    mut parts: Parts,
    body: Bytes,
) -> Response {
    // rmcp requires both, and answers in JSON unless there is progress to report first.
    let both = HeaderValue::from_static("application/json, text/event-stream");
    parts.headers.insert(header::ACCEPT, both);
    let message = match normalize(&body) {
        Ok(message) => message,
        Err(invalid) => {
            Call::begin(&context, "other").end("refused", Some(invalid.status));
            let json = [(header::CONTENT_TYPE, "application/json")];
            let status = StatusCode::from_u16(invalid.status).unwrap_or(StatusCode::BAD_REQUEST);
            return (status, json, invalid.to_json()).into_response();
        }
    };
    if let Some(Refusal(problem)) = parts.extensions.get()
        && mcp::is_change(&message)
    {
        return problem.clone().into_response();
    }
    if is_initialize(&message) {
        // Some clients send the version of their last connection; the body has the one that they ask for.
        parts.headers.remove("mcp-protocol-version");
    }
    let request = Request::from_parts(parts, Body::from(message.to_string()));
    service.handle(request).await.map(Body::new)
}
