//! The two results of list-database-backups: the backups of one database, and all databases.

use std::collections::HashMap;

use chrono::{SecondsFormat, TimeDelta};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{arguments::ListArguments, results::remove_nulls};
use crate::{
    backups::{Condition, Listed, Listing, Overview, Protection, Reading},
    limits::Limits,
    qovery::{BackupId, DatabaseId, Service},
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

/// All that Qovery says of the status of each backup.
type Statuses<'a> = HashMap<BackupId, &'a RawValue>;

impl BackupList {
    /// The answer about a list: the newest backups that fit the filters and an answer's size.
    pub(super) fn new(mut listing: Listing, arguments: &ListArguments, limits: &Limits) -> Self {
        /// So that an answer stays small: clients that read slowly hold many of them.
        const MAX_MESSAGE: usize = 200;

        let summary = listing.complete.then(|| Summary::new(&listing.backups));
        let mut rows = std::mem::take(&mut listing.backups);
        let read = rows.len();
        rows.retain(|row| arguments.fit(row));
        // Those without a date are taken first: an answer that goes on before a date has none of them.
        rows.sort_by_cached_key(|row| listing.date(row).is_some());
        let dates: Vec<_> = rows.iter().map(|row| listing.date(row)).collect();
        let matching = rows.len();
        let statuses = (arguments.verbose == Some(true)).then(|| listing.statuses());
        let rows = rows.into_iter().map(|mut row| {
            if read > 1
                && let Some(message) = &mut row.backup.message
                && message.chars().nth(MAX_MESSAGE).is_some()
            {
                *message = text::truncate(message, MAX_MESSAGE) + "…";
            }
            BackupView::row(row, statuses.as_ref())
        });
        let mut bytes = 0;
        let fitting = rows
            .zip(&dates)
            .enumerate()
            .map_while(|(number, (row, date))| {
                // A `Value` can always be serialized; its `Display` is slower.
                bytes += serde_json::to_string(&row).map_or(0, |text| text.len());
                let fits = number < limits.listed || *date == dates[0];
                (number == 0 || (fits && bytes <= limits.listed_bytes)).then_some(row)
            });
        let mut shown: Vec<Value> = fitting.collect();
        // A date of which not all fit is left to the next answer, unless it is the only one here.
        if let Some(next) = dates.get(shown.len())
            && *next != dates[0]
        {
            shown.truncate(dates.iter().take_while(|date| *date != next).count());
        }
        let (taken, left_out) = dates.split_at(shown.len());
        // They are shown last.
        shown.rotate_left(taken.iter().filter(|date| date.is_none()).count());

        let last = taken.last();
        let same = left_out.iter().filter(|date| Some(*date) == last).count();
        let rest = left_out.len() - same;
        let first_left_out = left_out.iter().flatten().next();
        let after = first_left_out.map(|date| *date + TimeDelta::seconds(1));
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
            matching: (filters.is_some() || taken.len() < matching).then_some(matching),
            filters,
            next_created_before: next.map(|date| date.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            ..Self::with(&listing, shown, notes.into_iter().flatten())
        }
    }

    /// The answer about a single backup, without the facts of the rest of the list.
    pub(super) fn of_one(mut listing: Listing, is_verbose: bool) -> Self {
        let backups = std::mem::take(&mut listing.backups);
        let is_unfinished = |listed: &Listed| listed.condition == Condition::InProgress;
        let note = backups.iter().any(is_unfinished).then(|| {
            "It is still being made. Call again with this backupId to wait on.".to_owned()
        });
        let statuses = is_verbose.then(|| listing.statuses());
        let row = |listed| BackupView::row(listed, statuses.as_ref());
        let rows = backups.into_iter().map(row).collect();
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
        let mut notes = overview.problems;
        let more = overview.databases.len().saturating_sub(MAX_ROWS);
        if more > 0 {
            notes.push(format!("{more} more are not shown: each is better off."));
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
        let newest_finished = of(Condition::Finished).next();
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
            newest_finished_id: newest_finished.map(|listed| listed.backup.id),
        }
    }
}

impl BackupView {
    fn row(listed: Listed, statuses: Option<&Statuses>) -> Value {
        let mut row = json!(Self::new(listed, statuses));
        remove_nulls(&mut row);
        row
    }

    /// A row, with Qovery's own words where these are asked for, with `statuses`, or say more than the
    /// condition.
    pub(super) fn new(listed: Listed, statuses: Option<&Statuses>) -> Self {
        let mut backup = listed.backup;
        if statuses.is_none() && listed.condition != Condition::Unknown {
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
        let status = statuses.and_then(|statuses| statuses.get(&backup.id));
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
            status: status.and_then(|status| serde_json::from_str(status.get()).ok()),
            other,
            created_at: backup.created_at,
        }
    }
}
