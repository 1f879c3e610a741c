//! Why a call was not carried out, in words for a person or a model: what happened, whether
//! anything was changed, what to do next.

use std::{num::NonZeroU32, time::Duration};

use chrono::{DateTime, Utc};

use super::{Protection, Removal};
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
    /// The backup is not, or no longer, in the database's list.
    #[error(
        "Backup {backup} is not in the list of database {database}. Nothing was removed. \
         It may be gone already: list the database's backups, and check both ids."
    )]
    NotListed {
        /// The database that was looked into.
        database: DatabaseId,
        /// The backup that it does not have.
        backup: BackupId,
    },
    /// The backup is one that must stay.
    #[error(
        "Backup {backup} is protected: {protection}. Nothing was removed. {}",
        .protection.remedy()
    )]
    Protected {
        /// The backup that must stay.
        backup: BackupId,
        /// The rule that protects it.
        protection: Protection,
    },
    /// The list has too many pages, or its pages repeat.
    #[error(
        "The list of database {database} could not be completed, so this server cannot tell which \
         backups must stay. Nothing was removed. Tell the person: as long as that is so, this server \
         removes none of them."
    )]
    ListIncomplete {
        /// The database whose list it is.
        database: DatabaseId,
    },
    /// The operator wants a person to confirm each removal, and none was asked.
    #[error(
        "{0} would have been removed, but here a person has to confirm each removal, and this \
         caller has no way to ask one. Nothing was removed. Tell the person: it takes an MCP client \
         that can show a question (elicitation); only the operator can change the rule (--confirm)."
    )]
    Unconfirmed(Box<Removal>),
    /// The facts that a person said yes to are no longer true. These are the new ones.
    #[error(
        "The backups of database {} changed after a person was asked. Nothing was removed. \
         The person has to be asked again: call the tool again.",
        .0.database
    )]
    Changed(Box<Removal>),
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
        "This server makes at most {an_hour} change(s) an hour, and they are used up. Nothing was \
         changed. The next one is possible in {} seconds, at {}. If you are repeating calls, stop and \
         tell the person.",
        .pause.as_secs(),
        .at.format("%H:%M:%S UTC")
    )]
    LimitReached {
        /// How many changes the operator allows.
        an_hour: NonZeroU32,
        /// How long it takes until the next one.
        pause: Duration,
        /// When that will be.
        at: DateTime<Utc>,
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

impl Error {
    /// The cause as one word, the same for every call that fails so.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ReadOnly => "read_only",
            Self::NotListed { .. } => "not_listed",
            Self::Protected { .. } => "protected",
            Self::ListIncomplete { .. } => "list_incomplete",
            Self::Unconfirmed(_) => "confirmation_required",
            Self::Changed(_) => "changed",
            Self::Busy { .. } => "busy",
            Self::LimitReached { .. } => "limit_reached",
            Self::Unaudited => "unaudited",
            Self::Qovery(error) => error.failure.facts().kind,
        }
    }

    /// What became of the change.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Qovery(error) => error.outcome,
            _ => Outcome::NotApplied,
        }
    }

    /// Whether the same call may succeed later, and is safe to repeat.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Qovery(error) => error.retryable(),
            Self::Busy { .. } | Self::LimitReached { .. } => true,
            _ => false,
        }
    }

    /// How long to wait before the same call may succeed: none for what must not be repeated.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::LimitReached { pause, .. } => Some(*pause),
            Self::Qovery(error) if error.retryable() => error.failure.retry_after(),
            _ => None,
        }
    }
}
