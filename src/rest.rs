//! The REST interface: three operations on the capability's paths, in HTTP's own terms.
//!
//! Success is what Qovery answered, to the byte; a failure is a [`Problem`]. What must never live
//! here: a rule about backups, or a word of MCP.

mod input;
#[cfg(test)]
mod openapi;

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{
        Path, Query, Request, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{
        HeaderValue, Method, StatusCode,
        header::{ALLOW, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION},
    },
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::{MethodRouter, delete, get},
};

use tokio::sync::watch;

use crate::{
    backups::{Backups, RemovalRequest},
    context::Context,
    problem::Problem,
    qovery::NewBackup,
    telemetry,
};
use input::{BackupPath, DatabasePath, ListQuery, accepts_json};

/// The OpenAPI document. A test holds it to the code.
const DOCUMENT: &str = include_str!("rest/openapi.json");

/// The REST API.
#[derive(Debug)]
pub struct Rest {
    backups: Backups,
    page: Bytes,
}

impl Rest {
    /// The API over `backups`. Its page for people gives `mcp_url` as the address of the MCP endpoint.
    #[must_use]
    pub fn new(backups: Backups, mcp_url: &str) -> Self {
        let page = include_str!("rest/page.html").replace("{mcp_url}", mcp_url);
        Self {
            backups,
            page: page.into(),
        }
    }

    /// The routes.
    pub fn router(self) -> Router {
        let mut routes = Router::new();
        for (path, methods) in operations() {
            routes = routes.route(path, methods);
        }
        let page = get(show).with_state(self.page);
        let routes = routes
            .route(
                "/openapi.json",
                get(async || ([(CONTENT_TYPE, "application/json")], DOCUMENT)),
            )
            .route_layer(middleware::from_fn(accept_json))
            .route("/", page)
            .route("/metrics", get(metrics))
            .method_not_allowed_fallback(other_method)
            .fallback(async || Problem::no_such_path())
            .with_state(self.backups);
        // The router adds `Allow` after all of its own layers.
        Router::new()
            .fallback_service(routes)
            .layer(middleware::map_response(allow_options))
    }
}

/// The operations. The document lists the same ones.
fn operations() -> [(&'static str, MethodRouter<Backups>); 2] {
    [
        ("/v1/database/{databaseid}/backup", get(list).post(add)),
        (
            "/v1/database/{databaseid}/backup/{backupid}",
            delete(remove),
        ),
    ]
}

/// What a request asks for, as logs and metrics call it. It is known before anything else of the
/// request is read, so that a refusal is counted where it belongs.
#[must_use]
pub fn operation(method: &Method, path: &str) -> &'static str {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match (method.as_str(), segments.as_slice()) {
        // No id is empty.
        _ if segments.contains(&"") => "other",
        ("GET" | "HEAD", ["v1", "database", _, "backup"]) => "list",
        ("POST", ["v1", "database", _, "backup"]) => "add",
        ("DELETE", ["v1", "database", _, "backup", _]) => "remove",
        _ => "other",
    }
}

/// `listDatabaseBackup`.
async fn list(
    State(backups): State<Backups>,
    Extension(context): Extension<Context>,
    path: Result<Path<DatabasePath>, PathRejection>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let (database, start_id) = (path?.databaseid, query?.0.start_id);
    let page = backups.page(&context, database, start_id).await?;
    Ok(json(StatusCode::OK, page))
}

/// `addBackupDatabase`.
async fn add(
    State(backups): State<Backups>,
    Extension(context): Extension<Context>,
    path: Result<Path<DatabasePath>, PathRejection>,
    backup: Result<Json<NewBackup>, JsonRejection>,
) -> Result<Response, Problem> {
    let database = path?.databaseid;
    let added = backups.add(&context, database, backup?.0).await?;
    let location = format!("/v1/database/{database}/backup/{}", added.answered.value.id);
    let mut response = json(StatusCode::CREATED, added.answered.json);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// `removeDatabaseBackup`.
async fn remove(
    State(backups): State<Backups>,
    Extension(context): Extension<Context>,
    path: Result<Path<BackupPath>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let path = path?;
    let removal = RemovalRequest {
        database: path.databaseid,
        backups: vec![path.backupid],
        confirmed: None,
        gone: watch::Sender::default(),
    };
    backups.remove(&context, removal).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn json(status: StatusCode, body: Bytes) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

/// What answers `/metrics`, on whichever port.
pub(crate) async fn metrics() -> Result<Response, Problem> {
    let text = telemetry::encode_metrics().map_err(|error| {
        tracing::error!(%error, "the metrics could not be written");
        Problem::internal()
    })?;
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, content_type)], text).into_response())
}

async fn show(State(page): State<Bytes>) -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    ([(CONTENT_SECURITY_POLICY, policy)], Html(page)).into_response()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_a_method_of_its_path() {
        let (backups, backup) = ("/v1/database/d/backup", "/v1/database/d/backup/b");
        for (method, path, name) in [
            (Method::GET, backups, "list"),
            (Method::HEAD, backups, "list"),
            (Method::POST, backups, "add"),
            (Method::DELETE, backup, "remove"),
            (Method::DELETE, backups, "other"),
            (Method::OPTIONS, backups, "other"),
            (Method::GET, backup, "other"),
            (Method::PUT, backup, "other"),
            (Method::GET, "/v1/database//backup", "other"),
            (Method::DELETE, "/v1/database/d/backup/", "other"),
            (Method::DELETE, "/v1/database/d/backup/b/x", "other"),
            (Method::GET, "/v1/database/d/backups", "other"),
            (Method::GET, "/v2/database/d/backup", "other"),
            (Method::GET, "//v1/database/d/backup", "other"),
            (Method::GET, "/metrics", "other"),
            (Method::GET, "/", "other"),
            (Method::OPTIONS, "*", "other"),
        ] {
            assert_eq!(operation(&method, path), name, "{method} {path}");
        }
    }
}
