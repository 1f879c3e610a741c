//! Why a call was not carried out, in words for a person or a model: what happened, whether
//! anything was changed, what to do next.

use std::{fmt::Write as _, num::NonZeroU32, time::Duration};

use chrono::{DateTime, Utc};

use super::{Protection, RemovalPlan};
use crate::qovery::{self, BackupId, DatabaseId, Outcome};

/// Why a call was not carried out. `Display` is the whole message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator allows no changes.
    #[error(
        "This server is in read-only mode: it lists backups and refuses to add or remove any. \
         Nothing was changed. Only the operator can change that, with --read-only."
    )]
    ReadOnly,
    /// At least one of the backups cannot be removed.
    #[error("{}", obstructed(*.database, *.wanted, .obstacles))]
    Obstructed {
        /// The database.
        database: DatabaseId,
        /// How many backups the call names.
        wanted: usize,
        /// Those that cannot be removed, and why.
        obstacles: Vec<(BackupId, Obstacle)>,
    },
    /// A backup that a caller wants to look at is not listed.
    #[error(
        "Backup {backup} was not found in the list of database {database}. Nothing was changed. It may \
         be gone: list the database's backups, and check both ids."
    )]
    NotListed {
        /// The database.
        database: DatabaseId,
        /// The backup.
        backup: BackupId,
    },
    /// The key may not look up databases by their names.
    #[error(
        "Databases cannot be looked up by their names with this API key. Nothing was changed. Ask the \
         person for the database's id: it is in the address of the database in the Qovery console, \
         behind service/."
    )]
    LookupDenied,
    /// The list has too many pages, or its pages repeat.
    #[error(
        "The list of database {database} could not be completed, so this server cannot tell which \
         backups must stay. Nothing was removed. Tell the person: as long as that is so, this server \
         removes none of them."
    )]
    ListIncomplete {
        /// The database.
        database: DatabaseId,
    },
    /// The operator requires that a person confirms each removal, and none was asked.
    #[error(
        "{0} would have been removed, but here a person has to confirm each removal, and this \
         caller has no way to ask one. Nothing was removed. Tell the person: it takes an MCP client \
         that can show a question (elicitation); only the operator can change the rule (--confirm)."
    )]
    Unconfirmed(Box<RemovalPlan>),
    /// The facts that a person confirmed are no longer true.
    #[error(
        "The backups of database {} changed after a person was asked: {change} Nothing was removed. \
         The person has to be asked again: call the tool again.",
        .plan.database
    )]
    Changed {
        /// The removal by the new facts.
        plan: Box<RemovalPlan>,
        /// What changed.
        change: String,
    },
    /// Too little time was left.
    #[error(
        "There was no time left to make the change: Qovery is slow, or other changes of database \
         {database} are under way. Nothing was changed. Try again in a minute."
    )]
    Busy {
        /// The database.
        database: DatabaseId,
    },
    /// The operator's limit is reached.
    #[error(
        "This server makes at most {an_hour} change(s) an hour, and {}. Nothing was \
         changed. {} possible in {} seconds, at {}. If you are repeating calls, stop and \
         tell the person.",
        match (.left, .under_way) {
            (0, 0) => "they are used up".to_owned(),
            (0, under_way) => format!("they are used up, {under_way} of them by changes under way"),
            (left, _) => format!("{left} of them are left, of {wanted} that this call takes"),
        },
        match .wanted {
            1 => "The next one is".to_owned(),
            wanted => format!("{wanted} are"),
        },
        .pause.as_secs(),
        .at.format("%H:%M:%S UTC")
    )]
    LimitReached {
        /// How many changes the operator allows.
        an_hour: NonZeroU32,
        /// How many of them are left.
        left: usize,
        /// How many of the others are under way.
        under_way: usize,
        /// How many the call would make.
        wanted: usize,
        /// How long it takes until that many are allowed.
        pause: Duration,
        /// When that will be.
        at: DateTime<Utc>,
    },
    /// The call makes more changes than the operator allows in an hour.
    #[error(
        "This server makes at most {an_hour} change(s) an hour, and this call takes {wanted}. Nothing \
         was changed. Name fewer at once."
    )]
    TooMany {
        /// How many changes the operator allows.
        an_hour: NonZeroU32,
        /// How many the call would make.
        wanted: usize,
    },
    /// The audit log cannot be written.
    #[error(
        "The change could not be written to the audit log first, so it was not made. Nothing was \
         changed. Ask the operator to check the file of --audit-log."
    )]
    Unaudited,
    /// Qovery did not do it.
    #[error(transparent)]
    Qovery(#[from] qovery::Error),
}

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// The caller: a rule refused the call.
    Caller,
    /// The operator: the key, the way to Qovery, the audit file, or an outcome that stayed unknown.
    Operator,
    /// Qovery: what it refused, or what passes.
    Qovery,
}

/// Why a backup cannot be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// It is not, or no longer, in the database's list.
    #[error("it is not in the list of this database")]
    NotListed,
    /// A rule says that it must stay.
    #[error("{0}")]
    Protected(Protection),
    /// The call names it more than once.
    #[error("it is named twice")]
    NamedTwice,
}

fn obstructed(database: DatabaseId, wanted: usize, obstacles: &[(BackupId, Obstacle)]) -> String {
    if let ([(backup, obstacle)], 1) = (obstacles, wanted) {
        return match obstacle {
            Obstacle::NotListed => format!(
                "Backup {backup} is not in the list of database {database}. Nothing was removed. It \
                 may be gone already: list the database's backups, and check both ids."
            ),
            Obstacle::Protected(protection) => format!(
                "Backup {backup} is protected: {protection}. Nothing was removed. {}",
                protection.remedy()
            ),
            Obstacle::NamedTwice => format!("Backup {backup} is named twice. Nothing was removed."),
        };
    }
    let mut text = format!(
        "Of {wanted} backups, {} cannot be removed. Nothing was removed. Leave these out, \
         and call again if the person still wants the rest gone.",
        obstacles.len()
    );
    for (backup, obstacle) in obstacles {
        let _ = write!(text, " {backup}: {obstacle}.");
    }
    text
}

impl Error {
    /// The cause as one word, for metrics, logs and callers.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ReadOnly => "read_only",
            Self::Obstructed { obstacles, .. } => match obstacles.first() {
                Some((_, Obstacle::Protected(_))) => "protected",
                Some((_, Obstacle::NamedTwice)) => "named_twice",
                _ => "not_listed",
            },
            Self::NotListed { .. } => "not_listed",
            Self::LookupDenied => "lookup_denied",
            Self::ListIncomplete { .. } => "list_incomplete",
            Self::Unconfirmed(_) => "confirmation_required",
            Self::Changed { .. } => "changed",
            Self::Busy { .. } => "busy",
            Self::LimitReached { .. } | Self::TooMany { .. } => "limit_reached",
            Self::Unaudited => "unaudited",
            Self::Qovery(error) => error.failure.facts().kind,
        }
    }

    /// The label in metrics and logs: an outcome that stayed unknown matters more than its cause.
    pub fn label(&self) -> &'static str {
        match self.outcome() {
            Outcome::Unknown => Outcome::Unknown.name(),
            _ => self.kind(),
        }
    }

    /// Who has to act on it.
    pub fn concern(&self) -> Concern {
        match self {
            Self::Unaudited => Concern::Operator,
            Self::Qovery(error) => match error.failure.facts().kind {
                _ if error.outcome == Outcome::Unknown => Concern::Operator,
                "key_rejected" | "unreachable" | "redirected" | "unexpected" | "setup" => {
                    Concern::Operator
                }
                _ => Concern::Qovery,
            },
            _ => Concern::Caller,
        }
    }

    /// What became of the change.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Qovery(error) => error.outcome,
            _ => Outcome::NotApplied,
        }
    }

    /// Whether the same call may succeed later, and is safe to repeat.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Qovery(error) => error.retryable(),
            Self::Busy { .. } | Self::LimitReached { .. } => true,
            _ => false,
        }
    }

    /// How long to wait before the same call may succeed: none for what must not be repeated.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::LimitReached { pause, .. } => Some(*pause),
            Self::Qovery(error) if error.retryable() => error.failure.retry_after(),
            _ => None,
        }
    }
}
