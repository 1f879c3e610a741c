//! An in-memory Qovery with sample databases: an HTTP server on loopback, for newcomers and tests.
//!
//! It implements the backup operations of Qovery's OpenAPI document, and writes its own JSON. It must
//! never use the types of [`qovery`](crate::qovery): a wrong field name there would be wrong on both
//! sides, and pass.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, Request, State},
    http::{StatusCode, header::AUTHORIZATION},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// A running sandbox. Dropping it shuts the server down.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    _shutdown: DropGuard,
}

impl Sandbox {
    /// The only key that the sandbox accepts, unless callers bring theirs.
    pub const KEY: &str = "qov_sandbox_0000000000000000";
    /// The id of a database with 27 backups, one a day.
    pub const ORDERS: &str = "0de50000-0000-4000-8000-000000000001";
    /// The id of a database with a single backup.
    pub const SESSIONS: &str = "0de50000-0000-4000-8000-000000000002";
    /// The id of a database whose last two backups failed.
    pub const ARCHIVE: &str = "0de50000-0000-4000-8000-000000000003";

    /// Starts a sandbox on a free loopback port.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub async fn start() -> io::Result<Self> {
        Self::start_for(false).await
    }

    /// The same, where callers bring their keys if `caller_keys`: it accepts what looks like a key.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub async fn start_for(caller_keys: bool) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shutdown = CancellationToken::new();
        let server = axum::serve(listener, router(caller_keys))
            .with_graceful_shutdown(shutdown.clone().cancelled_owned());
        tokio::spawn(server.into_future());
        Ok(Self {
            address,
            _shutdown: shutdown.drop_guard(),
        })
    }

    /// The base URL of the server.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Qovery's page size.
const PAGE_SIZE: usize = 20;

/// The ids and names of the databases.
const NAMES: [(&str, &str); 3] = [
    (Sandbox::ORDERS, "orders"),
    (Sandbox::SESSIONS, "sessions"),
    (Sandbox::ARCHIVE, "archive"),
];

/// The backups of each database, newest first, by the database's id.
type Databases = Arc<Mutex<HashMap<&'static str, Vec<Backup>>>>;

struct Backup {
    id: String,
    name: String,
    message: String,
    created_at: DateTime<Utc>,
    /// `None` for a backup that was added: its state follows from its age.
    state: Option<&'static str>,
}

impl Backup {
    fn new(name: &str, message: &str) -> Self {
        Self {
            id: Uuid::new_v4().to_string(),
            name: name.to_owned(),
            message: message.to_owned(),
            created_at: Utc::now().trunc_subsecs(3),
            state: None,
        }
    }

    fn sample(number: u32, hours_ago: i64, name: &str, message: &str) -> Self {
        Self {
            // Fixed, so that documentation can name it.
            id: format!("bac00000-0000-4000-8000-{number:012}"),
            created_at: Utc::now().trunc_subsecs(0) - TimeDelta::hours(hours_ago),
            state: Some("READY"),
            ..Self::new(name, message)
        }
    }

    /// The state, and the age at which the backup reached it.
    fn state(&self) -> (&'static str, TimeDelta) {
        const STARTS: TimeDelta = TimeDelta::milliseconds(1_500);
        const ENDS: TimeDelta = TimeDelta::seconds(3);
        match (self.state, Utc::now() - self.created_at) {
            (Some(state), _) => (state, TimeDelta::zero()),
            (None, age) if age < STARTS => ("QUEUED", TimeDelta::zero()),
            (None, age) if age < ENDS => ("EXECUTING", STARTS),
            (None, _) => ("READY", ENDS),
        }
    }

    fn to_json(&self) -> Value {
        let (state, after) = self.state();
        let rfc3339 = |date: DateTime<Utc>| date.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let (created_at, updated_at) = (rfc3339(self.created_at), rfc3339(self.created_at + after));
        let status = match state {
            "QUEUED" | "EXECUTING" => state,
            "READY" => "SUCCESS",
            _ => "ERROR",
        };
        let seconds = after.num_seconds();
        let step = json!({ "step_name": "EXECUTING", "status": status, "duration_sec": seconds });
        json!({
            "id": self.id,
            "created_at": created_at,
            "updated_at": updated_at,
            "name": self.name,
            "message": self.message,
            "status": {
                "id": self.id,
                "state": state,
                "service_deployment_status": "UP_TO_DATE",
                "last_deployment_date": updated_at,
                "is_part_last_deployment": true,
                "steps": { "total_duration_sec": seconds, "details": [step] },
                "execution_id": format!("{}-1", self.id),
                "status_details": { "action": "DEPLOY", "status": status, "sub_action": "NONE" },
                "deployment_request_id": null,
                "deployment_requests_count": 0
            }
        })
    }
}

fn samples() -> HashMap<&'static str, Vec<Backup>> {
    let nightly = |number: u32| {
        let hours_ago = 2 + i64::from(27 - number) * 24;
        let name = format!("nightly-{number:02}");
        Backup::sample(number, hours_ago, &name, "Scheduled.")
    };
    let mut orders: Vec<Backup> = (1..=27).rev().map(nightly).collect();
    orders[1].name = "before-migration 🚀".into();
    orders[1].message = "Taken by hand before the schema migration.".into();
    orders[3].state = Some("DEPLOYMENT_ERROR");
    orders[3].message = "The disk was full.".into();
    // Between bidirectional control characters.
    orders[5].message = "\u{202b}نسخة احتياطية قبل الترقية\u{202c}".into();
    let sessions = vec![Backup::sample(101, 9, "first", "The only one.")];
    let mut archive: Vec<Backup> = (0_u32..4)
        .map(|day| {
            let hours_ago = 1 + i64::from(day + 1) * 24;
            Backup::sample(204 - day, hours_ago, "weekly", "Scheduled.")
        })
        .collect();
    for failed in &mut archive[..2] {
        failed.state = Some("DEPLOYMENT_ERROR");
        failed.message = "The disk was full.".into();
    }
    HashMap::from([
        (Sandbox::ORDERS, orders),
        (Sandbox::SESSIONS, sessions),
        (Sandbox::ARCHIVE, archive),
    ])
}

fn router(caller_keys: bool) -> Router {
    let databases: Databases = Arc::new(Mutex::new(samples()));
    Router::new()
        .route("/organization", get(organizations))
        .route("/organization/{organization}/services", get(services))
        .route("/database/{database}", get(database))
        .route("/database/{database}/backup", get(list).post(add))
        .route("/database/{database}/backup/{backup}", delete(remove))
        .with_state(databases)
        .layer(middleware::from_fn_with_state(caller_keys, authorize))
}

async fn authorize(State(caller_keys): State<bool>, request: Request, next: Next) -> Response {
    let own = format!("Token {}", Sandbox::KEY);
    let value = request.headers().get(AUTHORIZATION);
    let value = value.and_then(|value| value.to_str().ok());
    let is_key = |value: &str| {
        let mut starts = ["Token qov_", "Token sk-qov-", "Bearer eyJ"].iter();
        value == own || caller_keys && starts.any(|start| value.starts_with(start))
    };
    if value.is_some_and(is_key) {
        return next.run(request).await;
    }
    UNAUTHORIZED.into_response()
}

async fn organizations() -> Json<Value> {
    let id = "0de50000-0000-4000-8000-000000000000";
    Json(json!({ "results": [{ "id": id, "name": "Sandbox" }] }))
}

/// The services of the only organization.
async fn services() -> Json<Value> {
    let service = |(id, name): (&str, &str)| {
        json!({
            "id": id,
            "name": name,
            "service_type": "DATABASE",
            "project_name": "shop",
            "environment_name": "production",
        })
    };
    Json(json!({ "results": NAMES.map(service) }))
}

async fn database(Path(database): Path<String>) -> Result<Json<Value>, Refusal> {
    let mut names = NAMES.into_iter();
    let (id, name) = names.find(|(id, _)| *id == database).ok_or(NOT_FOUND)?;
    Ok(Json(json!({ "id": id, "name": name })))
}

async fn list(
    State(databases): State<Databases>,
    Path(database): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Refusal> {
    let mut databases = databases.lock();
    let backups = databases.get_mut(database.as_str()).ok_or(NOT_FOUND)?;
    let start = match query.get("startId") {
        None => 0,
        Some(id) => 1 + position(backups, id)?,
    };
    let results = backups[start..].iter().take(PAGE_SIZE);
    let results: Vec<Value> = results.map(Backup::to_json).collect();
    let page = start / PAGE_SIZE + 1;
    let body = json!({ "results": results, "page": page, "page_size": PAGE_SIZE });
    Ok(Json(body))
}

async fn add(
    State(databases): State<Databases>,
    Path(database): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let mut databases = databases.lock();
    let backups = databases.get_mut(database.as_str()).ok_or(NOT_FOUND)?;
    let refusal = |message| Refusal(StatusCode::BAD_REQUEST, message);
    let body: Value =
        serde_json::from_slice(&body).map_err(|_| refusal("The body must be JSON"))?;
    let (Some(name), Some(message)) = (body["name"].as_str(), body["message"].as_str()) else {
        return Err(refusal("name and message are required"));
    };
    let backup = Backup::new(name, message);
    let answer = backup.to_json();
    backups.insert(0, backup);
    Ok((StatusCode::CREATED, Json(answer)))
}

async fn remove(
    State(databases): State<Databases>,
    Path((database, backup)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    let mut databases = databases.lock();
    let backups = databases.get_mut(database.as_str()).ok_or(NOT_FOUND)?;
    let position = position(backups, &backup)?;
    backups.remove(position);
    Ok(StatusCode::NO_CONTENT)
}

fn position(backups: &[Backup], id: &str) -> Result<usize, Refusal> {
    Uuid::try_parse(id).map_err(|_| Refusal(StatusCode::BAD_REQUEST, "Not a UUID"))?;
    let position = backups.iter().position(|backup| backup.id == id);
    position.ok_or(NOT_FOUND)
}

const UNAUTHORIZED: Refusal = Refusal(
    StatusCode::UNAUTHORIZED,
    "Access token is missing or invalid",
);
const NOT_FOUND: Refusal = Refusal(StatusCode::NOT_FOUND, "Resource not found");

/// An error in the shape that Qovery's documentation shows.
struct Refusal(StatusCode, &'static str);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, message) = self;
        let error = status.canonical_reason();
        let body = json!({ "status": status.as_u16(), "error": error, "message": message });
        (status, Json(body)).into_response()
    }
}
