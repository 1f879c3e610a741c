//! The REST interface: three operations on the capability's paths, in HTTP's own terms.
//!
//! Success is what Qovery answered, to the byte; a failure is a [`Problem`]. What must never live
//! here: a rule about backups, or a word of MCP.

mod accept;
#[cfg(test)]
mod openapi;
mod problem;

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{
        FromRequestParts, Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    response::{Html, IntoResponse, Response},
    routing::{MethodRouter, delete, get},
};
use serde::Deserialize;
use tokio::sync::watch;

use crate::{
    backups::{Backups, RemovalRequest},
    context::Context,
    qovery::{BackupId, DatabaseId, NewBackup},
    telemetry,
};
pub(crate) use accept::{accepts, is_json};
pub use problem::Problem;

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
    pub fn into_router(self) -> Router {
        let page = self.page;
        let mut router = Router::new()
            .route("/", read_only(get(async move || show(page))))
            .route("/openapi.json", read_only(get(document)))
            .route("/metrics", read_only(get(metrics)));
        for (path, methods) in operations() {
            router = router.route(path, methods);
        }
        router.with_state(self.backups)
    }
}

/// The operations. The document lists the same ones.
fn operations() -> [(&'static str, MethodRouter<Backups>); 2] {
    let backups = get(list).post(add);
    let backup = delete(remove);
    [
        (
            "/v1/database/{databaseid}/backup",
            backups.options(async || allow("GET,HEAD,POST,OPTIONS")),
        ),
        (
            "/v1/database/{databaseid}/backup/{backupid}",
            backup.options(async || allow("DELETE,OPTIONS")),
        ),
    ]
}

/// The operation of a request in logs and metrics. It depends on the request line only, so that a refusal
/// is counted as its operation's.
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

#[derive(Deserialize)]
struct DatabasePath {
    databaseid: DatabaseId,
}

#[derive(Deserialize)]
struct BackupPath {
    databaseid: DatabaseId,
    backupid: BackupId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListQuery {
    /// The id of the last backup of the page before; none for the first page.
    start_id: Option<BackupId>,
}

/// Refuses a client that does not accept JSON.
struct AcceptsJson;

impl<S: Sync> FromRequestParts<S> for AcceptsJson {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let accepted = accepts(&parts.headers, "application", "json");
        accepted.then_some(Self).ok_or_else(Problem::not_acceptable)
    }
}

/// `listDatabaseBackup`.
async fn list(
    _: AcceptsJson,
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
    _: AcceptsJson,
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
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `removeDatabaseBackup`.
async fn remove(
    _: AcceptsJson,
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

/// The handler of `/metrics`, on either port.
pub(crate) async fn metrics() -> Result<Response, Problem> {
    let text = telemetry::encode_metrics().map_err(|error| {
        tracing::error!(%error, "the metrics could not be written");
        Problem::internal()
    })?;
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

async fn document(_: AcceptsJson) -> Response {
    json(StatusCode::OK, Bytes::from_static(DOCUMENT.as_bytes()))
}

fn show(page: Bytes) -> Response {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(page)).into_response()
}

fn json(status: StatusCode, body: Bytes) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn read_only(methods: MethodRouter<Backups>) -> MethodRouter<Backups> {
    methods.options(async || allow("GET,HEAD,OPTIONS"))
}

/// Answers `OPTIONS`, for which the router has no answer of its own.
fn allow(methods: &'static str) -> impl IntoResponse {
    (StatusCode::NO_CONTENT, [(header::ALLOW, methods)])
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
