//! The rules that hold on every face: what listing, adding and removing a backup mean here.
//!
//! What must never live here: a word of MCP, REST or HTTP. A face parses its caller's input into
//! the types of [`qovery`], calls one method, and words the result.

mod audit;
mod error;
mod guard;
mod recovery;
mod turns;

use std::{fmt, num::NonZeroU32, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use chrono::Utc;
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{
    task::JoinError,
    time::{Instant, timeout},
};

use crate::{
    call::{self, Call, Face},
    qovery::{
        self, Answered, Backup, BackupId, BackupPage, Client, DatabaseId, Deadline, NewBackup,
        Outcome,
    },
};
use audit::{Audit, Consent, Record};
pub use error::Error;
pub use guard::Protection;
use recovery::Made;
use turns::{Turn, Turns};

/// Of the time for a change, what is kept to find out its outcome if the answer is lost.
const TO_SETTLE: Duration = Duration::from_secs(5);

/// How long a change waits for its turn. It still has the time that it needs after that.
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// The backups of databases, under one operator's policy. Clones share one client.
#[derive(Clone, Debug)]
pub struct Backups {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    qovery: Client,
    policy: Policy,
    changes: Option<Changes>,
    turns: Turns,
    made: Made,
    audit: Audit,
}

/// How many changes are left, over all callers.
#[derive(Debug)]
struct Changes {
    an_hour: NonZeroU32,
    left: DefaultDirectRateLimiter,
}

/// What only the operator can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Refuse to add and to remove.
    pub read_only: bool,
    /// How many of a database's newest backups are never removed.
    pub keep_latest: usize,
    /// Whether a person has to confirm a removal.
    pub confirm: Confirm,
    /// How many backups may be added and removed in an hour, by all callers together. Any number,
    /// if `None`.
    pub changes_per_hour: Option<NonZeroU32>,
    /// A file for the audit trail.
    pub audit_log: Option<PathBuf>,
}

/// Whether a person has to confirm a removal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirm {
    /// Where one can be asked. Else the host's own approval of a destructive tool has to do.
    #[default]
    Auto,
    /// Always: where nobody can be asked, nothing is removed.
    Always,
    /// Never: nobody is there to be asked.
    Never,
}

/// A removal, proposed or made: what goes, and what stays.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The database.
    pub database: DatabaseId,
    /// What goes.
    pub backup: Backup,
    /// How many backups of the database remain.
    pub remaining: usize,
    /// When the newest of those was made, as Qovery writes it.
    pub newest_remaining: Option<String>,
}

/// The facts of a removal, as a number that no other facts have.
pub type Digest = [u8; 32];

/// A backup that is being made.
#[derive(Clone, Debug)]
pub struct Addition {
    /// The backup, as Qovery answered it.
    pub answered: Answered<Backup>,
    /// The answer was lost, and the backup found by listing.
    pub recovered: bool,
}

impl Default for Policy {
    /// What holds unless the operator says otherwise.
    fn default() -> Self {
        Self {
            read_only: false,
            keep_latest: 1,
            confirm: Confirm::Auto,
            changes_per_hour: NonZeroU32::new(60),
            audit_log: None,
        }
    }
}

impl Backups {
    /// Backups behind `qovery`, under `policy`.
    #[must_use]
    pub fn new(qovery: Client, policy: Policy) -> Self {
        let changes = policy.changes_per_hour.map(|an_hour| Changes {
            an_hour,
            left: RateLimiter::direct(Quota::per_hour(an_hour)),
        });
        Self {
            inner: Arc::new(Inner {
                qovery,
                changes,
                turns: Turns::default(),
                made: Made::default(),
                audit: Audit::new(policy.audit_log.clone()),
                policy,
            }),
        }
    }

    /// Whether changes are allowed at all. [`add`](Self::add) and [`remove`](Self::remove) ask it
    /// themselves; a face asks it to answer before it looks at the arguments.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`].
    pub fn allow_changes(&self) -> Result<(), Error> {
        if self.inner.policy.read_only {
            Err(Error::ReadOnly)
        } else {
            Ok(())
        }
    }

    /// Whether a face that can ask a person has to.
    #[must_use]
    pub fn ask_where_possible(&self) -> bool {
        self.inner.policy.confirm != Confirm::Never
    }

    /// A page of a database's backups: the first, or the one after the backup `start_id`. It is read
    /// as a [`BackupPage`], or as a [`PageOutline`](qovery::PageOutline) where only its JSON matters.
    ///
    /// # Errors
    ///
    /// [`Error::Qovery`].
    pub async fn list<Page: DeserializeOwned>(
        &self,
        call: &Call,
        database: DatabaseId,
        start_id: Option<BackupId>,
    ) -> Result<Answered<Page>, Error> {
        let page = self
            .inner
            .qovery
            .list_backups(database, start_id, call, Deadline::start())
            .await;
        recorded(call, page.map_err(Error::from))
    }

    /// Asks for a new backup. Once it is on its way it runs to its end, even if the caller goes
    /// away.
    ///
    /// # Errors
    ///
    /// Those of a change: [`Error::ReadOnly`], [`Error::Busy`], [`Error::LimitReached`],
    /// [`Error::Unaudited`], [`Error::Qovery`].
    pub async fn add(
        &self,
        call: &Arc<Call>,
        database: DatabaseId,
        backup: NewBackup,
    ) -> Result<Addition, Error> {
        if let Err(refusal) = self.allow_changes() {
            return recorded(call, Err(refusal));
        }
        let (inner, call) = (Arc::clone(&self.inner), Arc::clone(call));
        to_its_end(async move {
            let added = inner.add(&call, database, &backup).await;
            recorded(&call, added)
        })
        .await
    }

    /// What a removal would come to, for a person to decide by. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], and why the backup must stay: [`Error::NotListed`],
    /// [`Error::Protected`], [`Error::ListIncomplete`], [`Error::Qovery`].
    pub async fn propose_removal(
        &self,
        call: &Call,
        database: DatabaseId,
        backup: BackupId,
    ) -> Result<Removal, Error> {
        let proposal = match self.allow_changes() {
            Ok(()) => {
                let deadline = Deadline::start();
                self.inner.propose(call, database, backup, deadline).await
            }
            Err(refusal) => Err(refusal),
        };
        if proposal.is_err() {
            return recorded(call, proposal);
        }
        proposal
    }

    /// Removes a backup for good, unless a rule protects it. `confirmed` are the facts that a person
    /// said yes to, if one was asked. Once it is on its way it runs to its end, even if the caller
    /// goes away.
    ///
    /// # Errors
    ///
    /// Any [`Error`]. After [`Error::Changed`] the person has to be asked again.
    pub async fn remove(
        &self,
        call: &Arc<Call>,
        database: DatabaseId,
        backup: BackupId,
        confirmed: Option<Digest>,
    ) -> Result<Removal, Error> {
        if let Err(refusal) = self.allow_changes() {
            return recorded(call, Err(refusal));
        }
        let (inner, call) = (Arc::clone(&self.inner), Arc::clone(call));
        to_its_end(async move {
            let removal = inner.remove(&call, database, backup, confirmed).await;
            if matches!(removal, Err(Error::Changed { .. })) {
                // The call goes on.
                return removal;
            }
            recorded(&call, removal)
        })
        .await
    }
}

/// Leaves in the call what became of it.
fn recorded<T>(call: &Call, result: Result<T, Error>) -> Result<T, Error> {
    call.set_outcome(result.as_ref().map_or_else(Error::kind, |_| call::OK));
    result
}

impl Inner {
    async fn add(
        &self,
        call: &Call,
        database: DatabaseId,
        backup: &NewBackup,
    ) -> Result<Addition, Error> {
        let deadline = Deadline::start();
        let _turn = self.turn(database).await?;
        self.spend_change()?;
        let record = Record::of_addition(call, self.consent(call, None), database, backup);
        self.audit
            .intent(&record)
            .await
            .map_err(|_| Error::Unaudited)?;
        let began = Instant::now();
        let in_time = deadline.leaving(TO_SETTLE);
        let added = match self
            .qovery
            .add_backup(database, backup, call, in_time)
            .await
        {
            Ok(answered) => Ok(Addition {
                answered,
                recovered: false,
            }),
            Err(error) if error.outcome == Outcome::Unknown => self
                .recover(call, database, backup, began, deadline)
                .await
                .ok_or(error),
            Err(error) => Err(error),
        };
        match &added {
            Ok(addition) => {
                let backup = &addition.answered.value;
                self.made.remember(backup.id);
                let record = record.about(backup);
                self.audit.outcome(record, Outcome::Applied).await;
            }
            Err(error) => self.audit.outcome(record, error.outcome).await,
        }
        Ok(added?)
    }

    /// Looks for a backup whose answer was lost, once.
    async fn recover(
        &self,
        call: &Call,
        database: DatabaseId,
        backup: &NewBackup,
        began: Instant,
        deadline: Deadline,
    ) -> Option<Addition> {
        let page: Answered<BackupPage> = self
            .qovery
            .list_backups(database, None, call, deadline)
            .await
            .ok()?;
        let began = page.date? - began.elapsed();
        let mut backup = self.made.find(&page.value.results, backup, began)?.clone();
        if let Some(status) = &mut backup.status {
            status.read_details().ok()?;
        }
        Some(Addition {
            answered: Answered {
                json: serde_json::to_vec(&backup).ok()?,
                value: backup,
                date: page.date,
            },
            recovered: true,
        })
    }

    async fn remove(
        &self,
        call: &Call,
        database: DatabaseId,
        id: BackupId,
        confirmed: Option<Digest>,
    ) -> Result<Removal, Error> {
        let deadline = Deadline::start();
        let _turn = self.turn(database).await?;
        let removal = self.propose(call, database, id, deadline).await?;
        match confirmed {
            Some(facts) if facts != removal.digest() => return Err(Error::Changed { database }),
            None if self.policy.confirm == Confirm::Always => {
                return Err(Error::Unconfirmed(Box::new(removal)));
            }
            _ => {}
        }
        self.spend_change()?;
        let consent = self.consent(call, confirmed);
        let record = Record::of_removal(call, consent, database, &removal.backup);
        self.audit
            .intent(&record)
            .await
            .map_err(|_| Error::Unaudited)?;
        let in_time = deadline.leaving(TO_SETTLE);
        let removed = match self.qovery.remove_backup(database, id, call, in_time).await {
            Err(error) if error.outcome == Outcome::Unknown => {
                self.settle(call, database, id, error, deadline).await
            }
            removed => removed,
        };
        let outcome = removed
            .as_ref()
            .map_or_else(|error| error.outcome, |()| Outcome::Applied);
        self.audit.outcome(record, outcome).await;
        removed?;
        Ok(removal)
    }

    /// Finds out what became of a removal whose answer was lost, by listing once more.
    async fn settle(
        &self,
        call: &Call,
        database: DatabaseId,
        id: BackupId,
        error: qovery::Error,
        deadline: Deadline,
    ) -> Result<(), qovery::Error> {
        let Ok(backups) = self.complete_list(call, database, deadline).await else {
            return Err(error);
        };
        match backups.iter().find(|backup| backup.id == id) {
            None => Ok(()),
            Some(backup) if guard::is_going(backup) => Ok(()),
            Some(_) if error.pending => Err(error),
            Some(_) => Err(qovery::Error::harmless(error.failure)),
        }
    }

    async fn turn(&self, database: DatabaseId) -> Result<Turn, Error> {
        timeout(LONGEST_WAIT, self.turns.take(database))
            .await
            .map_err(|_| Error::Busy { database })
    }

    fn spend_change(&self) -> Result<(), Error> {
        let Some(Changes { an_hour, left }) = &self.changes else {
            return Ok(());
        };
        left.check().map_err(|not_until| {
            let pause = not_until.wait_time_from(DefaultClock::default().now());
            Error::LimitReached {
                an_hour: *an_hour,
                pause,
                at: Utc::now() + pause,
            }
        })
    }

    fn consent(&self, call: &Call, confirmed: Option<Digest>) -> Consent {
        match (confirmed, call.face(), self.policy.confirm) {
            (Some(_), ..) => Consent::Elicited,
            (None, Face::Rest, _) => Consent::Rest,
            (None, Face::Mcp, Confirm::Never) => Consent::Unattended,
            (None, Face::Mcp, _) => Consent::Host,
        }
    }

    async fn propose(
        &self,
        call: &Call,
        database: DatabaseId,
        id: BackupId,
        deadline: Deadline,
    ) -> Result<Removal, Error> {
        let mut backups = self.complete_list(call, database, deadline).await?;
        let Some(position) = backups.iter().position(|backup| backup.id == id) else {
            return Err(Error::NotListed {
                database,
                backup: id,
            });
        };
        if let Some(protection) = guard::protection(&backups, id, self.policy.keep_latest) {
            return Err(Error::Protected {
                backup: id,
                protection,
            });
        }
        let backup = backups.swap_remove(position);
        Ok(Removal {
            database,
            backup,
            remaining: backups.len(),
            newest_remaining: guard::newest(&backups).map(|newest| newest.created_at.clone()),
        })
    }

    /// Every backup of the database. Part of a list cannot tell which backup is the newest.
    async fn complete_list(
        &self,
        call: &Call,
        database: DatabaseId,
        deadline: Deadline,
    ) -> Result<Vec<Backup>, Error> {
        /// 2,000 backups, at Qovery's page size.
        const MOST_PAGES: usize = 100;

        let mut backups: Vec<Backup> = Vec::new();
        let mut start_id = None;
        for _ in 0..MOST_PAGES {
            let page: BackupPage = self
                .qovery
                .list_backups(database, start_id, call, deadline)
                .await?
                .value;
            let next = page.next_start_id();
            for backup in page.results {
                if backups.iter().any(|seen| seen.id == backup.id) {
                    return Err(Error::ListIncomplete { database });
                }
                backups.push(backup);
            }
            match next {
                Some(next) => start_id = Some(next),
                None => return Ok(backups),
            }
        }
        Err(Error::ListIncomplete { database })
    }
}

impl Removal {
    /// The facts that a person decides by.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let Backup {
            id,
            created_at,
            name,
            ..
        } = &self.backup;
        let facts = json!([
            self.database,
            id,
            name,
            created_at,
            self.backup.state(),
            self.remaining,
            self.newest_remaining,
        ]);
        Sha256::digest(facts.to_string()).into()
    }
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backup = &self.backup;
        write!(f, "Backup {} (", backup.id)?;
        if let Some(name) = &backup.name {
            write!(f, "\"{name}\", ")?;
        }
        write!(f, "made {})", backup.created_at)
    }
}

impl FromStr for Confirm {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err("must be auto, always or never"),
        }
    }
}

impl Confirm {
    /// Its name, as the operator writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// Runs a change on a task of its own: a caller that goes away drops its own future, never a
/// request to Qovery whose effect nobody would then learn.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    match tokio::spawn(change).await {
        Ok(result) => result,
        Err(stopped) => resume(stopped),
    }
}

/// A panic goes on to the face, which answers it as it answers its own.
fn resume(stopped: JoinError) -> ! {
    match stopped.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Nothing aborts these tasks, and the runtime drops them only when the caller is gone too.
        Err(cancelled) => std::panic::resume_unwind(Box::new(cancelled)),
    }
}
