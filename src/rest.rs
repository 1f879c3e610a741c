//! The REST face: three operations on the capability's paths, in HTTP's own terms.
//!
//! Success is what Qovery answered, to the byte; a failure is a [`Problem`]. What must never live
//! here: a rule about backups, or a word of MCP.

mod document;
mod input;
mod problem;

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{Path, Query, Request, State},
    http::{
        HeaderValue, Method, StatusCode,
        header::{ALLOW, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION},
    },
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
};

use crate::{
    backups::Backups,
    call::Call,
    qovery::{Answered, NewBackup},
    telemetry::Telemetry,
};
use input::{BackupPath, DatabasePath, Input, ListQuery, accepts_json};
pub use problem::Problem;

/// The REST API.
#[derive(Clone, Debug)]
pub struct Rest {
    backups: Backups,
    telemetry: Telemetry,
    authenticated: bool,
    page: String,
}

impl Rest {
    /// The API over `backups`. With `authenticated`, its document says that callers need a token.
    /// Its page for people names the MCP endpoint.
    #[must_use]
    pub fn new(backups: Backups, telemetry: Telemetry, authenticated: bool, mcp_url: &str) -> Self {
        Self {
            backups,
            telemetry,
            authenticated,
            page: include_str!("rest/page.html").replace("{mcp_url}", mcp_url),
        }
    }

    /// The routes.
    pub fn router(self) -> Router {
        let (operations, document) = document::routes(self.authenticated);
        let document = Bytes::from(document);
        let routes = operations
            .route_layer(middleware::from_fn(name_operation))
            .route(
                "/openapi.json",
                get(async move || ([(CONTENT_TYPE, "application/json")], document.clone())),
            )
            .route_layer(middleware::from_fn(accept_json))
            .route("/", get(show))
            .route("/metrics", get(metrics))
            .method_not_allowed_fallback(other_method)
            .fallback(async || Problem::no_such_path())
            .with_state(self);
        // The router adds `Allow` after all of its own layers.
        Router::new()
            .fallback_service(routes)
            .layer(middleware::map_response(allow_options))
    }
}

/// `listDatabaseBackup`.
async fn list(
    State(rest): State<Rest>,
    Extension(call): Extension<Arc<Call>>,
    Input(path): Input<Path<DatabasePath>>,
    Input(query): Input<Query<ListQuery>>,
) -> Result<Response, Problem> {
    let page = rest
        .backups
        .list(&call, path.databaseid, query.start_id)
        .await?;
    Ok(json(StatusCode::OK, page))
}

/// `addBackupDatabase`.
async fn add(
    State(rest): State<Rest>,
    Extension(call): Extension<Arc<Call>>,
    Input(path): Input<Path<DatabasePath>>,
    Input(backup): Input<Json<NewBackup>>,
) -> Result<Response, Problem> {
    let database = path.databaseid;
    let added = rest.backups.add(&call, database, backup.0).await?;
    let added = added.answered;
    let location = format!("/v1/database/{database}/backup/{}", added.value.id);
    let mut response = json(StatusCode::CREATED, added);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// `removeDatabaseBackup`.
async fn remove(
    State(rest): State<Rest>,
    Extension(call): Extension<Arc<Call>>,
    Input(path): Input<Path<BackupPath>>,
) -> Result<StatusCode, Problem> {
    rest.backups
        .remove(&call, path.databaseid, path.backupid, None)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn json<T>(status: StatusCode, answered: Answered<T>) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], answered.json).into_response()
}

async fn metrics(State(rest): State<Rest>) -> Result<Response, Problem> {
    let text = rest.telemetry.text().map_err(|error| {
        tracing::error!(%error, "the metrics could not be written");
        Problem::internal()
    })?;
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, content_type)], text).into_response())
}

async fn show(State(rest): State<Rest>) -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    ([(CONTENT_SECURITY_POLICY, policy)], Html(rest.page)).into_response()
}

/// Says what is asked for before anything of it is read, so that a refusal is counted where it
/// belongs.
async fn name_operation(
    Extension(call): Extension<Arc<Call>>,
    request: Request,
    next: Next,
) -> Response {
    call.set_operation(match *request.method() {
        Method::POST => "add",
        Method::DELETE => "remove",
        _ => "list",
    });
    next.run(request).await
}

async fn accept_json(request: Request, next: Next) -> Response {
    if accepts_json(request.headers()) {
        next.run(request).await
    } else {
        Problem::not_acceptable().into_response()
    }
}

/// Answers the methods that a path does not have; the router adds those it has, as `Allow`.
async fn other_method(method: Method) -> Response {
    if method == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        Problem::method_not_allowed().into_response()
    }
}

/// Completes `Allow`: the router knows only the methods that have handlers.
async fn allow_options(mut response: Response) -> Response {
    if let Some(Ok(methods)) = response.headers().get(ALLOW).map(HeaderValue::to_str)
        && let Ok(methods) = HeaderValue::from_str(&format!("{methods},OPTIONS"))
    {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}
