//! The REST interface: three operations on the capability's paths, in HTTP's own terms.
//!
//! Success is what Qovery answered, to the byte; a failure is a [`Problem`]. What must never live
//! here: a rule about backups, or a word of MCP.

#[cfg(test)]
mod openapi;
mod problem;

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{Method, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::{delete, get},
};
use serde::{Deserialize, Deserializer, de};
use tokio::sync::watch;

use crate::{
    backups::{Backups, Concern, RemovalRequest},
    context::Context,
    qovery::{BackupId, DatabaseId, NewBackup},
    telemetry,
};
pub use problem::Problem;

/// The OpenAPI document. A test holds it to the code.
const DOCUMENT: &str = include_str!("rest/openapi.json");

const JSON: &str = "application/json";

/// The paths of the operations, as in the document.
const BACKUPS: &str = "/v1/database/{databaseid}/backup";
const BACKUP: &str = "/v1/database/{databaseid}/backup/{backupid}";

/// The API over `backups`, which are a `sandbox`'s or not, at `url`. Its page for people shows the `command`
/// that adds the server to an MCP host, and one that calls the API, with the options `headers` for the secrets
/// that callers need.
pub fn router(backups: Backups, sandbox: bool, command: &str, url: &str, headers: &str) -> Router {
    let mut page = include_str!("rest/page.html").replace("{headers}", headers);
    for (condition, holds) in [
        ("sandbox", sandbox),
        ("read-only", backups.policy().read_only),
        ("token", headers.contains("$ACCESS_TOKEN")),
        ("key", headers.contains("$QOVERY_API_KEY")),
    ] {
        // Every second piece is between two marks.
        let mark = format!("<!--{}{condition}-->", if holds { "not " } else { "" });
        page = page.split(&mark).step_by(2).collect();
    }
    let page = page.replace("{version}", env!("CARGO_PKG_VERSION"));
    let page = page.replace("{command}", command).replace("{url}", url);
    let path = path_of(url);
    let page = page.replace("href=\"/", &format!("href=\"{path}/"));
    let server = format!("\"url\": \"{}\"", if path.is_empty() { "/" } else { path });
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    let page = ([(header::CONTENT_SECURITY_POLICY, policy)], Html(page));
    let document = DOCUMENT.replace("\"url\": \"/\"", &server);
    let document = ([(header::CONTENT_TYPE, JSON)], document);
    Router::new()
        .route("/", get(page))
        .route("/openapi.json", get(document))
        .route("/metrics", get(metrics))
        .route(BACKUPS, get(list).post(add))
        .route(BACKUP, delete(remove))
        .with_state(backups)
        .layer(Extension(Prefix(path.into())))
}

/// The path of a URL, without a slash at its end.
pub(crate) fn path_of(url: &str) -> &str {
    let path = url
        .match_indices('/')
        .nth(2)
        .map_or("", |(at, _)| &url[at..]);
    path.trim_end_matches('/')
}

/// The operation of a request in logs and metrics.
pub fn operation(method: &Method, path: &str) -> &'static str {
    match (method.as_str(), path) {
        ("GET" | "HEAD", BACKUPS) => "list",
        ("POST", BACKUPS) => "add",
        ("DELETE", BACKUP) => "remove",
        _ => "other",
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListQuery {
    /// The id of the last backup of the page before; none, or an empty one, for the first page.
    #[serde(default, deserialize_with = "empty_is_none")]
    start_id: Option<BackupId>,
}

fn empty_is_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BackupId>, D::Error> {
    let text = String::deserialize(from)?;
    let id = (!text.is_empty()).then(|| text.parse());
    id.transpose().map_err(de::Error::custom)
}

/// `listDatabaseBackup`.
async fn list(
    State(backups): State<Backups>,
    Extension(context): Extension<Context>,
    database: Result<Path<DatabaseId>, PathRejection>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let (Path(database), Query(ListQuery { start_id })) = (database?, query?);
    let page = backups.page(&context, database, start_id).await?;
    Ok(json(StatusCode::OK, page))
}

/// The path of the URL at which callers reach the API.
#[derive(Clone)]
struct Prefix(Arc<str>);

/// `addBackupDatabase`.
async fn add(
    State(backups): State<Backups>,
    Extension(context): Extension<Context>,
    Extension(Prefix(path)): Extension<Prefix>,
    database: Result<Path<DatabaseId>, PathRejection>,
    backup: Result<Json<NewBackup>, JsonRejection>,
) -> Result<Response, Problem> {
    let (Path(database), Json(backup)) = (database?, backup?);
    let added = backups.add(&context, database, backup).await?;
    let id = added.answered.value.id;
    let location = format!("{path}/v1/database/{database}/backup/{id}");
    let response = json(StatusCode::CREATED, added.answered.json);
    Ok(([(header::LOCATION, location)], response).into_response())
}

/// `removeDatabaseBackup`.
async fn remove(
    State(backups): State<Backups>,
    Extension(context): Extension<Context>,
    path: Result<Path<(DatabaseId, BackupId)>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let Path((database, backup)) = path?;
    let removal = RemovalRequest {
        database,
        backups: vec![backup],
        confirmed: None,
        gone: watch::Sender::default(),
    };
    if let Err(error) = backups.remove(&context, removal).await {
        if error.concern() == Concern::Caller {
            let target = (database, &[backup][..]);
            backups
                .record_refusal(&context, target, error.kind(), None)
                .await;
        }
        return Err(error.into());
    }
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

fn json(status: StatusCode, body: Bytes) -> Response {
    (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
}
