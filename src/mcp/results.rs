//! Results of the tools: structured content that conforms to the advertised schema, the same as
//! text, and errors in-band as text alone.

use std::fmt::Display;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rmcp::{
    ErrorData,
    model::{CallToolResponse, CallToolResult, ContentBlock},
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::arguments::{ArgumentError, ListArguments};
use crate::{
    backups::{
        self, Concern, Condition, Consent, Listed, Listing, Overview, Protection, Reading,
        RemovalOutcome,
    },
    limits::Limits,
    qovery::{BackupId, DatabaseId, Outcome, Service},
    telemetry::OK,
    text,
};

/// The result of list-database-backups.
#[derive(Default, Serialize, JsonSchema)]
pub(super) struct BackupList {
    /// Whose they are.
    database: DatabaseRef,
    /// The time of this answer.
    now: String,
    /// Whether the list was read to its end.
    complete: Option<bool>,
    /// Of all backups, whatever the filters, if the list is complete.
    summary: Option<Summary>,
    /// How the filters were read.
    filters: Option<String>,
    /// How many fit the filters, if fewer are shown or there are filters.
    matching: Option<usize>,
    /// If more fit: the createdBefore to go on with.
    next_created_before: Option<String>,
    /// The newest first.
    #[schemars(with = "Vec<BackupView>")]
    backups: Vec<Value>,
    /// What else there is to know.
    pub(super) note: Option<String>,
}

/// The other result of list-database-backups, in the same schema.
#[derive(Serialize, JsonSchema)]
pub(super) struct AllDatabases {
    /// The time of this answer.
    now: String,
    /// Whether each database is in it.
    complete: bool,
    /// Those that have gone longest without a finished backup first.
    databases: Vec<DatabaseView>,
    /// What else there is to know.
    pub(super) note: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct DatabaseView {
    id: String,
    name: String,
    project: String,
    environment: String,
    /// The newest backup that can be restored from, if there is one.
    newest_finished: Option<NewestFinished>,
    in_progress: usize,
    /// How many failed after it.
    failed_since: usize,
    /// Whether too little of the list could be read to be sure.
    not_known: Option<bool>,
}

#[derive(Serialize, JsonSchema)]
struct NewestFinished {
    id: BackupId,
    created_at: String,
    age_hours: f64,
}

#[derive(Default, Serialize, JsonSchema)]
pub(super) struct DatabaseRef {
    id: String,
    /// What people call it, where that can be looked up.
    name: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Summary {
    total: usize,
    finished: usize,
    in_progress: usize,
    failed: usize,
    being_removed: usize,
    unknown: usize,
    /// The date of the oldest.
    oldest: Option<String>,
    /// The date of the newest.
    newest: Option<String>,
    newest_finished_id: Option<BackupId>,
}

/// A backup.
#[derive(Serialize, JsonSchema)]
pub(super) struct BackupView {
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
    status: Option<Map<String, Value>>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// The result of add-backup-database.
#[derive(Serialize, JsonSchema)]
pub(super) struct AddedBackup {
    /// Whose it is.
    pub(super) database: DatabaseRef,
    #[serde(flatten)]
    pub(super) backup: BackupView,
    /// What to do next.
    pub(super) note: Option<String>,
}

/// The result of remove-database-backup.
#[derive(Serialize, JsonSchema)]
pub(super) struct RemovalReport {
    /// Over all of them. What is unknown may have been removed or not.
    #[schemars(extend("enum" = [REMOVED, PARTLY_REMOVED, NOT_REMOVED, UNKNOWN]))]
    outcome: &'static str,
    /// What stood for the person's yes: the host's answer (accepted, declined), nothing (not_asked), or
    /// the operator's setting (unattended).
    #[schemars(with = "String", extend("enum" = CONSENTS))]
    consent: Consent,
    /// Why nothing was removed, if nothing was tried.
    reason: Option<String>,
    /// What the person should know.
    pub(super) note: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    backups: Vec<RemovalRow>,
    /// How many backups of the database remain.
    remaining: Option<usize>,
}

#[derive(Serialize, JsonSchema)]
struct RemovalRow {
    id: BackupId,
    name: Option<String>,
    created_at: Option<String>,
    #[schemars(extend("enum" = [REMOVED, NOT_REMOVED, UNKNOWN]))]
    outcome: &'static str,
    /// Why it was not removed, or why that is not known.
    reason: Option<String>,
}

const NOT_ASKED: &str = "This server asked no person: the client cannot show a question, and no dialog can be shown here.";
const CONSENTS: [&str; 4] = ["accepted", "declined", "not_asked", "unattended"];
const REMOVED: &str = "removed";
const PARTLY_REMOVED: &str = "partly_removed";
const NOT_REMOVED: &str = "not_removed";
const UNKNOWN: &str = "unknown";

/// The response of a call that was carried out or asks for input, with its label for logs and metrics.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) outcome: &'static str,
    pub(super) response: CallToolResponse,
    /// What the operator has to act on, for the log.
    pub(super) alert: Option<String>,
}

/// The response of a call that was refused or failed, with its label for logs and metrics.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) outcome: &'static str,
    /// The text of an in-band error, for the model, or a protocol error, for the client.
    pub(super) error: Result<String, ErrorData>,
    /// Who has to act on it.
    pub(super) concern: Concern,
}

impl BackupList {
    /// The answer about a list: the newest backups that fit the filters and an answer's size.
    pub(super) fn new(mut listing: Listing, arguments: &ListArguments, limits: &Limits) -> Self {
        /// So that an answer stays small: clients that read slowly hold many of them.
        const MAX_MESSAGE: usize = 200;

        let read = listing.backups.len();
        let summary = listing.complete.then(|| Summary::new(&listing.backups));
        if read > 1 {
            for listed in &mut listing.backups {
                if let Some(message) = &mut listed.backup.message
                    && message.chars().nth(MAX_MESSAGE).is_some()
                {
                    *message = text::truncate(message, MAX_MESSAGE) + "…";
                }
            }
        }
        let mut rows = std::mem::take(&mut listing.backups);
        rows.retain(|row| arguments.fit(row));
        let mut dates: Vec<_> = rows.iter().map(|row| listing.date(row)).collect();
        // Those without a date come first here: an answer that goes on before a date has none of them.
        let undated = dates.iter().filter(|date| date.is_none()).count();
        rows.rotate_right(undated);
        dates.rotate_right(undated);
        let matching = rows.len();
        rows.truncate(count_shown(&dates, &vec![0; matching], limits));
        let mut rows = BackupView::rows(rows, &listing, arguments.verbose.unwrap_or(false));
        let size = |row: &Value| row.to_string().len();
        let sizes: Vec<usize> = rows.iter().map(size).collect();
        rows.truncate(count_shown(&dates, &sizes, limits));
        let (shown, left_out) = dates.split_at(rows.len());
        rows.rotate_left(undated.min(shown.len()));

        let after = |date: &DateTime<Utc>| *date + TimeDelta::seconds(1);
        let after = left_out.iter().flatten().next().map(after);
        let last = shown.last().filter(|_| !left_out.is_empty());
        let same = left_out.iter().filter(|date| Some(*date) == last).count();
        let rest = left_out.len() - same;
        let next = last.and_then(|last| last.or(after)).filter(|_| rest > 0);
        let incomplete = if read >= limits.read_backups {
            "A call reads no more"
        } else {
            "The list changed meanwhile, its pages repeat, or Qovery is slow. Call again"
        };
        let notes = [
            (listing.complete && read == 0).then(|| {
                "Qovery lists no backups of this database. Where the database is a managed one, its \
                 cloud provider may have snapshots that Qovery does not show."
                    .to_owned()
            }),
            (!listing.complete).then(|| {
                format!(
                    "Only {read} backups were read: newer ones may be missing, and what is protected \
                     is not known. {incomplete}."
                )
            }),
            (rest > 0).then(|| {
                format!("{rest} more fit: go on with next_created_before as createdBefore.")
            }),
            (same > 0).then(|| format!("{same} of one date are too long for an answer.")),
        ];
        let filters = arguments.describe_filters();
        Self {
            complete: Some(listing.complete),
            summary,
            matching: (filters.is_some() || shown.len() < matching).then_some(matching),
            filters,
            next_created_before: next.map(|date| date.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            ..Self::with(&listing, rows, notes.into_iter().flatten())
        }
    }

    /// The answer about a single backup, without the facts of the rest of the list.
    pub(super) fn of_one(mut listing: Listing, is_verbose: bool) -> Self {
        let backups = std::mem::take(&mut listing.backups);
        let is_unfinished = |listed: &Listed| listed.condition == Condition::InProgress;
        let note = backups.iter().any(is_unfinished).then(|| {
            "It is still being made. Call again with this backupId to wait on.".to_owned()
        });
        let rows = BackupView::rows(backups, &listing, is_verbose);
        Self::with(&listing, rows, note.into_iter())
    }

    fn with(listing: &Listing, backups: Vec<Value>, notes: impl Iterator<Item = String>) -> Self {
        let skew = listing.clock_skew.map(|skew| {
            let minutes = skew.num_minutes();
            format!("Qovery's clock and this server's are {minutes} minutes apart.")
        });
        let notes: Vec<String> = notes.chain(skew).collect();
        Self {
            database: DatabaseRef::new(listing.database, listing.name.as_deref()),
            now: listing.now.to_rfc3339_opts(SecondsFormat::Secs, true),
            backups,
            note: (!notes.is_empty()).then(|| notes.join(" ")),
            ..Self::default()
        }
    }
}

impl AllDatabases {
    pub(super) fn new(overview: Overview) -> Self {
        /// Of the longest texts, some 40 kB.
        const MAX_ROWS: usize = 100;

        let now = overview.now;
        let view = |(database, reading): (Service, Reading)| DatabaseView {
            id: database.id.to_string(),
            name: database.name,
            project: database.project_name,
            environment: database.environment_name,
            newest_finished: reading.newest_finished.map(|(id, date)| NewestFinished {
                id,
                created_at: date.to_rfc3339_opts(SecondsFormat::Secs, true),
                age_hours: hours(now - date),
            }),
            in_progress: reading.in_progress,
            failed_since: reading.failed_since,
            not_known: (!reading.is_known).then_some(true),
        };
        let (number, mut notes) = (overview.databases.len(), overview.problems);
        if number > MAX_ROWS {
            notes.push(format!(
                "{} more are not shown: each is better off.",
                number - MAX_ROWS
            ));
        }
        if !overview.complete {
            notes.push("Not each database was read: call again in a moment to go on.".to_owned());
        }
        notes.push("This says nothing of databases that the key cannot see.".to_owned());
        let shown = overview.databases.into_iter().take(MAX_ROWS);
        Self {
            now: now.to_rfc3339_opts(SecondsFormat::Secs, true),
            complete: overview.complete,
            databases: shown.map(view).collect(),
            note: Some(notes.join(" ")),
        }
    }
}

/// In tenths.
fn hours(age: TimeDelta) -> f64 {
    let minutes = i32::try_from(age.num_minutes()).unwrap_or(i32::MAX);
    (f64::from(minutes) / 6.0).round() / 10.0
}

/// How many backups one answer shows, by their dates and sizes. Those of one date are not split, unless
/// the first ones alone are too large.
fn count_shown(dates: &[Option<DateTime<Utc>>], sizes: &[usize], limits: &Limits) -> usize {
    let mut bytes = 0;
    let rows = dates.iter().zip(sizes).enumerate();
    let fitting = rows.take_while(|(number, (date, size))| {
        bytes += *size;
        let fits = *number < limits.listed || *date == &dates[0];
        *number == 0 || (fits && bytes <= limits.listed_bytes)
    });
    let end = fitting.count();
    let next = dates.get(end);
    let last_of_another = dates[..end].iter().rposition(|date| Some(date) != next);
    last_of_another.map_or(end, |last| last + 1)
}

impl DatabaseRef {
    pub(super) fn new(id: DatabaseId, name: Option<&str>) -> Self {
        Self {
            id: id.to_string(),
            name: name.map(str::to_owned),
        }
    }
}

impl Summary {
    /// Expects the newest backup first and those without a date last.
    fn new(backups: &[Listed]) -> Self {
        let of = |condition| {
            let listed = backups.iter();
            listed.filter(move |listed| listed.condition == condition)
        };
        let mut dated = backups.iter().filter(|listed| {
            let undated = [Protection::Undated, Protection::InFuture].map(Some);
            !undated.contains(&listed.protection)
        });
        let newest = dated.next();
        let oldest = dated.next_back().or(newest);
        let date = |listed: &Listed| listed.backup.created_at.clone();
        Self {
            total: backups.len(),
            finished: of(Condition::Finished).count(),
            in_progress: of(Condition::InProgress).count(),
            failed: of(Condition::Failed).count(),
            being_removed: of(Condition::BeingRemoved).count(),
            unknown: of(Condition::Unknown).count(),
            oldest: oldest.map(date),
            newest: newest.map(date),
            newest_finished_id: of(Condition::Finished)
                .next()
                .map(|listed| listed.backup.id),
        }
    }
}

impl BackupView {
    fn rows(mut backups: Vec<Listed>, listing: &Listing, is_verbose: bool) -> Vec<Value> {
        if is_verbose {
            listing.add_statuses(&mut backups);
        }
        let rows = backups.into_iter();
        let row = |listed| {
            let mut row = json!(Self::new(listed, is_verbose));
            remove_nulls(&mut row);
            row
        };
        rows.map(row).collect()
    }

    /// A row, with Qovery's own words where they are asked for or say more than the condition.
    pub(super) fn new(listed: Listed, verbose: bool) -> Self {
        let mut backup = listed.backup;
        if !verbose && listed.condition != Condition::Unknown {
            (backup.status, backup.updated_at) = (None, None);
            backup.other.clear();
        }
        let mut other = backup.other;
        // A field that Qovery may call so one day means something else here.
        for own in [
            "condition",
            "database",
            "last_deployment_date",
            "note",
            "protected",
            "state",
        ] {
            other.remove(own);
        }
        let status = match listed.status {
            Some(Value::Object(status)) => Some(status),
            _ => None,
        };
        let short = backup.status.unwrap_or_default();
        let differs = |date: &String| *date != backup.created_at;
        Self {
            id: backup.id.to_string(),
            name: backup.name,
            message: backup.message.filter(|message| !message.is_empty()),
            condition: listed.condition.name(),
            state: short.state,
            protected: listed.protection.map(Protection::name),
            updated_at: backup.updated_at.filter(differs),
            last_deployment_date: short.last_deployment_date.filter(differs),
            status,
            other,
            created_at: backup.created_at,
        }
    }
}

impl RemovalReport {
    pub(super) fn new(outcome: RemovalOutcome) -> Self {
        let RemovalOutcome {
            plan,
            consent,
            results,
        } = outcome;
        let mut results = results.into_iter();
        let row = |Listed {
                       backup, condition, ..
                   }: Listed| {
            let (outcome, reason) = match results.next() {
                Some(Ok(_)) if condition == Condition::BeingRemoved => {
                    (REMOVED, Some("It was being removed already.".to_owned()))
                }
                Some(Ok(_)) => (REMOVED, None),
                Some(Err(error)) => match error.outcome() {
                    Outcome::NotApplied => (NOT_REMOVED, Some(error.to_string())),
                    _ => (UNKNOWN, Some(error.to_string())),
                },
                None => {
                    let reason = "It was not tried, because of the one before it.";
                    (NOT_REMOVED, Some(reason.to_owned()))
                }
            };
            RemovalRow {
                id: backup.id,
                name: backup.name,
                created_at: Some(backup.created_at),
                outcome,
                reason,
            }
        };
        let backups: Vec<RemovalRow> = plan.backups.into_iter().map(row).collect();
        let count = |outcome| backups.iter().filter(|row| row.outcome == outcome).count();
        let (removed, unknown) = (count(REMOVED), count(UNKNOWN));
        Self {
            outcome: match (removed, unknown) {
                (0, 0) => NOT_REMOVED,
                (0, _) => UNKNOWN,
                _ if removed == backups.len() => REMOVED,
                _ => PARTLY_REMOVED,
            },
            consent,
            reason: None,
            note: (consent == Consent::NotAsked).then(|| NOT_ASKED.to_owned()),
            remaining: (unknown == 0).then(|| plan.remaining + backups.len() - removed),
            backups,
        }
    }

    /// The report where nothing was removed for want of a confirmation.
    pub(super) fn declined(reason: &str) -> Self {
        let again = "Ask again only if the person asks for it in a new message.";
        Self {
            outcome: NOT_REMOVED,
            consent: Consent::Declined,
            reason: Some(format!("{reason} {again}")),
            note: None,
            backups: Vec::new(),
            remaining: None,
        }
    }
}

impl Reply {
    /// A result as structured content and as text: some hosts show a model only the one, some only the
    /// other.
    pub(super) fn new(result: impl Serialize) -> Result<Self, Refusal> {
        let failed = |error: serde_json::Error| Refusal::in_band("internal_error", &error);
        let mut value = serde_json::to_value(result).map_err(failed)?;
        remove_nulls(&mut value);
        // Three times as fast as `Display`, which writes through a formatter.
        let mut text = serde_json::to_string(&value).map_err(failed)?;
        if !text::is_printable_ascii(&text) {
            text::sanitize_json(&mut value);
            text = serde_json::to_string(&value).map_err(failed)?;
        }
        let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
        result.structured_content = Some(value);
        Ok(Self {
            outcome: OK,
            response: result.into(),
            alert: None,
        })
    }

    /// The same response under another label.
    pub(super) fn with_outcome(self, outcome: &'static str) -> Self {
        Self { outcome, ..self }
    }
}

/// Leaves out absent fields: hosts have lost whole results over a `null`.
fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

impl Refusal {
    /// A failure that a model can read and act on.
    pub(super) fn in_band(outcome: &'static str, reason: &impl Display) -> Self {
        let mut text = reason.to_string();
        text::sanitize(&mut text);
        Self {
            outcome,
            error: Ok(text),
            concern: Concern::Caller,
        }
    }

    /// A failure that only the client can correct.
    pub(super) fn protocol(outcome: &'static str, error: ErrorData) -> Self {
        Self {
            outcome,
            error: Err(error),
            concern: Concern::Caller,
        }
    }

    /// The text, if the operator has to act on it.
    pub(super) fn alert(&self) -> Option<&str> {
        let text = self.error.as_deref().ok();
        text.filter(|_| self.concern == Concern::Operator)
    }

    /// The response. In-band it is text alone: TypeScript v1 clients check structured content against
    /// the output schema even on errors.
    pub(super) fn response(self) -> Result<CallToolResponse, ErrorData> {
        let text = self.error?;
        Ok(CallToolResult::error(vec![ContentBlock::text(text)]).into())
    }
}

impl From<backups::Error> for Refusal {
    fn from(error: backups::Error) -> Self {
        Self {
            concern: error.concern(),
            ..Self::in_band(error.label(), &error)
        }
    }
}

impl From<ArgumentError> for Refusal {
    fn from(error: ArgumentError) -> Self {
        Self::in_band("invalid_arguments", &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::arguments::schema;

    #[test]
    fn a_declined_removal_fits_its_schema() {
        let (_, schema) = schema::<RemovalReport>();
        let report = json!(RemovalReport::declined("no"));
        for required in schema["required"].as_array().unwrap() {
            assert!(
                report.get(required.as_str().unwrap()).is_some(),
                "{required}"
            );
        }
    }
}
