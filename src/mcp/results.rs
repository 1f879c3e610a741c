//! What the tools give: structured content that keeps to the advertised schema, the same as text,
//! and errors in-band as text alone.

use std::fmt::Display;

use chrono::SecondsFormat;
use rmcp::{
    ErrorData,
    model::{CallToolResponse, CallToolResult, ContentBlock},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::{Map, Value};

use super::arguments::ArgumentError;
use crate::{
    backups::{self, Condition, Listed, Listing, Protection, RemovalOutcome},
    qovery::{Backup, BackupId, Outcome, Status},
    telemetry::OK,
    text,
};

/// The backups of a database.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Backups")]
pub(super) struct BackupList {
    /// Whose they are.
    database: Named,
    /// The time of this answer.
    now: String,
    /// Whether none comes after these.
    complete: bool,
    /// If more come: the startId to go on with.
    next_start_id: Option<BackupId>,
    /// Given where the whole list is in this answer.
    summary: Option<Summary>,
    /// The newest first.
    backups: Vec<Shown>,
    /// What else there is to know.
    pub(super) note: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Named {
    id: String,
    /// What people call it, where that can be looked up.
    name: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Summary {
    #[schemars(schema_with = "count")]
    total: usize,
    #[schemars(schema_with = "count")]
    finished: usize,
    #[schemars(schema_with = "count")]
    in_progress: usize,
    #[schemars(schema_with = "count")]
    failed: usize,
    #[schemars(schema_with = "count")]
    being_removed: usize,
    #[schemars(schema_with = "count")]
    unknown: usize,
    /// The date of the oldest.
    oldest: Option<String>,
    /// The date of the newest.
    newest: Option<String>,
    newest_finished_id: Option<BackupId>,
}

/// A backup.
#[derive(Serialize, JsonSchema)]
#[schemars(inline, extend("additionalProperties" = true))]
pub(super) struct Shown {
    id: String,
    name: Option<String>,
    message: Option<String>,
    created_at: String,
    #[schemars(extend("enum" = Condition::ALL.map(Condition::name)))]
    condition: &'static str,
    /// Qovery's own word for it.
    state: Option<String>,
    /// Why this server refuses to remove it.
    protected: Option<&'static str>,
    /// If it is another than created_at.
    updated_at: Option<String>,
    /// If it is another than created_at.
    last_deployment_date: Option<String>,
    /// All that Qovery says of its status.
    #[schemars(with = "Option<Map<String, Value>>")]
    status: Option<Value>,
    #[serde(flatten)]
    #[schemars(skip)]
    other: Map<String, Value>,
}

/// A backup that is being made.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Addition")]
pub(super) struct Added {
    #[serde(flatten)]
    pub(super) backup: Shown,
    /// What to do next.
    pub(super) note: Option<String>,
}

/// What became of the backups that were to be removed.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Removal")]
pub(super) struct Decision {
    /// Over all of them. What is unknown may have been removed or not.
    #[schemars(extend("enum" = ["removed", "partly_removed", "not_removed", "unknown"]))]
    outcome: &'static str,
    backups: Vec<Decided>,
    /// How many backups of the database remain.
    #[schemars(schema_with = "count", default)]
    remaining: Option<usize>,
    /// What else there is to know.
    pub(super) note: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct Decided {
    id: BackupId,
    name: Option<String>,
    created_at: Option<String>,
    #[schemars(extend("enum" = [REMOVED, NOT_REMOVED, UNKNOWN]))]
    outcome: &'static str,
    /// Why it was not removed, or why that is not known.
    reason: Option<String>,
}

const REMOVED: &str = "removed";
const NOT_REMOVED: &str = "not_removed";
const UNKNOWN: &str = "unknown";

/// What a call of a tool came to, and the one word for it in logs and metrics.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) outcome: &'static str,
    pub(super) response: CallToolResponse,
}

/// Why a call of a tool came to nothing, and the one word for it in logs and metrics.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) outcome: &'static str,
    pub(super) reason: Reason,
}

/// To whom a refusal speaks.
#[derive(Debug)]
pub(super) enum Reason {
    /// To the model, which can read it and act on it.
    InBand(String),
    /// To the client: it broke the protocol, or lacks a part of it.
    Protocol(ErrorData),
}

impl BackupList {
    pub(super) fn of(listing: Listing) -> Self {
        let note = match (listing.complete, listing.next, listing.backups.as_slice()) {
            (false, None, _) => Some(
                "The list could not be read to its end: it changed meanwhile, or Qovery's pages \
                 repeat themselves. Call again.",
            ),
            (true, _, []) if listing.whole => Some(
                "Qovery lists no backups of this database. Where the database is a managed one, \
                 its cloud provider may have snapshots that Qovery does not show.",
            ),
            _ => None,
        };
        Self {
            database: Named {
                id: listing.database.to_string(),
                name: listing.name.as_deref().map(str::to_owned),
            },
            now: listing.now.to_rfc3339_opts(SecondsFormat::Secs, true),
            complete: listing.complete,
            next_start_id: listing.next,
            summary: listing.whole.then(|| Summary::of(&listing.backups)),
            backups: listing.backups.into_iter().map(Shown::of).collect(),
            note: note.map(str::to_owned),
        }
    }

    /// The answer about a single backup: what else the list holds is not told.
    pub(super) fn of_one(listing: Listing) -> Self {
        let unfinished = listing
            .backups
            .iter()
            .any(|listed| listed.condition == Condition::InProgress);
        Self {
            complete: true,
            next_start_id: None,
            summary: None,
            note: unfinished.then(|| {
                "It is still being made. Call again with this backupId to wait on.".to_owned()
            }),
            ..Self::of(listing)
        }
    }
}

impl Summary {
    /// Of backups of which the newest comes first, and those without a date last.
    fn of(backups: &[Listed]) -> Self {
        let count = |condition| {
            let same = backups.iter().filter(|it| it.condition == condition);
            same.count()
        };
        let dated = backups.iter().filter(|listed| {
            let odd = [Protection::Undated, Protection::InFuture].map(Some);
            !odd.contains(&listed.protection)
        });
        let mut dated = dated.map(|listed| listed.backup.created_at.clone());
        let newest = dated.next();
        let finished = backups
            .iter()
            .find(|listed| listed.condition == Condition::Finished);
        Self {
            total: backups.len(),
            finished: count(Condition::Finished),
            in_progress: count(Condition::InProgress),
            failed: count(Condition::Failed),
            being_removed: count(Condition::BeingRemoved),
            unknown: count(Condition::Unknown),
            oldest: dated.next_back().or_else(|| newest.clone()),
            newest,
            newest_finished_id: finished.map(|listed| listed.backup.id),
        }
    }
}

impl Shown {
    pub(super) fn of(listed: Listed) -> Self {
        let Backup {
            id,
            created_at,
            updated_at,
            name,
            message,
            status,
            mut other,
        } = listed.backup;
        // What Qovery may call so one day is not what these words mean here.
        for ours in [
            "condition",
            "last_deployment_date",
            "note",
            "protected",
            "state",
        ] {
            other.remove(ours);
        }
        let Status {
            state,
            last_deployment_date,
        } = status.unwrap_or_default();
        let another = |date: &String| *date != created_at;
        Self {
            id: id.to_string(),
            name,
            message: message.filter(|message| !message.is_empty()),
            condition: listed.condition.name(),
            state,
            protected: listed.protection.map(Protection::name),
            updated_at: updated_at.filter(another),
            last_deployment_date: last_deployment_date.filter(another),
            status: listed.status,
            other,
            created_at,
        }
    }
}

impl Decision {
    /// As far as they were removed.
    pub(super) fn removed(removed: RemovalOutcome) -> Self {
        let RemovalOutcome {
            plan: removal,
            results: ended,
        } = removed;
        let tried = ended.len();
        let gone = ended.iter().filter(|result| result.is_ok()).count();
        let (mut doubt, wanted) = (false, removal.backups.len());
        let mut decided = Vec::with_capacity(wanted);
        for (backup, result) in removal.backups.iter().zip(ended) {
            let (outcome, reason) = match result {
                Ok(_) => (REMOVED, None),
                Err(error) if error.outcome() == Outcome::NotApplied => {
                    (NOT_REMOVED, Some(error.to_string()))
                }
                Err(error) => {
                    doubt = true;
                    (UNKNOWN, Some(error.to_string()))
                }
            };
            decided.push(Decided::of(backup, outcome, reason));
        }
        for backup in &removal.backups[tried..] {
            let reason = "It was not tried, because of the one before it.";
            decided.push(Decided::of(backup, NOT_REMOVED, Some(reason.to_owned())));
        }
        Self {
            outcome: match gone {
                0 if doubt => UNKNOWN,
                0 => NOT_REMOVED,
                _ if gone == wanted => REMOVED,
                _ => "partly_removed",
            },
            backups: decided,
            remaining: (!doubt).then(|| removal.remaining + wanted - gone),
            note: None,
        }
    }

    /// Nothing was removed, because nobody said yes.
    pub(super) fn kept(backups: &[BackupId], reason: &str) -> Self {
        let kept = |id: &BackupId| Decided {
            id: *id,
            name: None,
            created_at: None,
            outcome: NOT_REMOVED,
            reason: None,
        };
        Self {
            outcome: NOT_REMOVED,
            backups: backups.iter().map(kept).collect(),
            remaining: None,
            note: Some(reason.to_owned()),
        }
    }
}

impl Decided {
    fn of(backup: &Backup, outcome: &'static str, reason: Option<String>) -> Self {
        Self {
            id: backup.id,
            name: backup.name.clone(),
            created_at: Some(backup.created_at.clone()),
            outcome,
            reason,
        }
    }
}

impl Reply {
    /// A result that went well: the same value as structure and as text, fit to be read. Some hosts
    /// show a model only the one, some only the other.
    pub(super) fn new(result: impl Serialize) -> Result<Self, Refusal> {
        let unwritable = |error: serde_json::Error| Refusal::in_band("internal_error", &error);
        let mut value = serde_json::to_value(result).map_err(unwritable)?;
        leave_out_nulls(&mut value);
        // Three times as fast as `Display`, which writes through a formatter.
        let mut text = serde_json::to_string(&value).map_err(unwritable)?;
        if !text::is_printable_ascii(&text) {
            text::sanitize_json(&mut value);
            text = serde_json::to_string(&value).map_err(unwritable)?;
        }
        let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
        result.structured_content = Some(value);
        Ok(Self {
            outcome: OK,
            response: result.into(),
        })
    }

    /// Whether the call has come to its end, and is not to go on with an answer.
    pub(super) fn is_final(&self) -> bool {
        matches!(self.response, CallToolResponse::Complete(_))
    }

    /// The same, under another word.
    pub(super) fn called(self, outcome: &'static str) -> Self {
        Self { outcome, ..self }
    }
}

impl Refusal {
    /// A failure that a model can read and act on.
    pub(super) fn in_band(outcome: &'static str, reason: &impl Display) -> Self {
        let mut text = reason.to_string();
        text::sanitize(&mut text);
        Self {
            outcome,
            reason: Reason::InBand(text),
        }
    }

    /// A failure that only the client can mend.
    pub(super) fn protocol(outcome: &'static str, error: ErrorData) -> Self {
        Self {
            outcome,
            reason: Reason::Protocol(error),
        }
    }

    /// What is answered. In-band it is text alone: some clients check structured content against the
    /// output schema even on errors.
    pub(super) fn response(self) -> Result<CallToolResponse, ErrorData> {
        match self.reason {
            Reason::InBand(text) => {
                Ok(CallToolResult::error(vec![ContentBlock::text(text)]).into())
            }
            Reason::Protocol(error) => Err(error),
        }
    }
}

impl From<backups::Error> for Refusal {
    fn from(error: backups::Error) -> Self {
        Self::in_band(error.kind(), &error)
    }
}

impl From<ArgumentError> for Refusal {
    fn from(error: ArgumentError) -> Self {
        Self::in_band("invalid_arguments", &error)
    }
}

/// What is absent is left out: hosts have lost whole results over a `null` or over a type of two names.
fn leave_out_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(leave_out_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(leave_out_nulls),
        _ => {}
    }
}

/// A plain count: `usize` would add `format: uint`, at which some validators complain.
fn count(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": 0 })
}
