//! The rules that hold on every face: what listing, adding and removing a backup mean here.
//!
//! What must never live here: a word of MCP, REST or HTTP. A face parses its caller's input into
//! the types of [`qovery`](crate::qovery), calls one method, and words the result.

mod addition;
mod allowance;
mod audit;
mod error;
mod guard;
mod removal;
mod turns;

use std::{num::NonZeroU32, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use tokio::{task::JoinError, time::timeout};

use crate::{
    call::{self, Call, Face},
    qovery::{ATTEMPT, Answered, BackupId, BackupPage, Client, DatabaseId, Deadline, NewBackup},
};
pub use addition::Addition;
use addition::Made;
use allowance::Allowance;
use audit::Audit;
pub use audit::TARGET as AUDIT_TARGET;
pub use error::Error;
pub use guard::Protection;
pub use removal::{Digest, Removal};
use turns::Turns;

/// Of the time for a change, what is kept to find out its outcome if the answer is lost.
const TO_SETTLE: Duration = Duration::from_secs(5);

/// A change with less time than this would end in doubt.
const SHORTEST: Duration = ATTEMPT.saturating_add(TO_SETTLE);

/// How long a change waits for its turn.
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
    allowance: Allowance,
    turns: Turns,
    made: Made,
    audit: Audit,
}

/// A change's turn, and when it must have ended.
struct Turn {
    deadline: Deadline,
    #[expect(dead_code, reason = "the next turn begins when it is dropped")]
    place: turns::Place,
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
        Self {
            inner: Arc::new(Inner {
                qovery,
                allowance: Allowance::new(policy.changes_per_hour),
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
        self.inner.allow_changes()
    }

    /// Whether a face that can ask a person has to.
    #[must_use]
    pub fn ask_where_possible(&self) -> bool {
        self.inner.policy.confirm != Confirm::Never
    }

    /// A page of a database's backups: the first, or the one after the backup `start_id`.
    ///
    /// # Errors
    ///
    /// [`Error::Qovery`], [`Error::Cancelled`].
    pub async fn list(
        &self,
        call: &Call,
        database: DatabaseId,
        start_id: Option<BackupId>,
    ) -> Result<Answered<BackupPage>, Error> {
        let qovery = &self.inner.qovery;
        let page = unless_cancelled(call, async {
            let page = qovery.list_backups(database, start_id, call, Deadline::start());
            Ok(page.await?)
        });
        recorded(call, page.await)
    }

    /// Asks for a new backup. Once it is on its way it runs to its end, even if the caller goes
    /// away.
    ///
    /// # Errors
    ///
    /// Those of a change: [`Error::ReadOnly`], [`Error::Busy`], [`Error::LimitReached`],
    /// [`Error::Unaudited`], [`Error::Cancelled`], [`Error::Qovery`].
    pub async fn add(
        &self,
        call: &Arc<Call>,
        database: DatabaseId,
        backup: NewBackup,
    ) -> Result<Addition, Error> {
        let turn = unless_cancelled(call, self.inner.begin_addition(database)).await;
        let (inner, call) = (Arc::clone(&self.inner), Arc::clone(call));
        match turn {
            Ok(turn) => {
                to_its_end(async move {
                    let added = inner.add(&call, turn, database, backup).await;
                    recorded(&call, added)
                })
                .await
            }
            Err(error) => recorded(&call, Err(error)),
        }
    }

    /// What a removal would come to, for a person to decide by. Changes nothing.
    ///
    /// # Errors
    ///
    /// Why it would be refused: [`Error::ReadOnly`], [`Error::NotListed`], [`Error::Protected`],
    /// [`Error::ListIncomplete`], [`Error::LimitReached`], [`Error::Cancelled`],
    /// [`Error::Qovery`].
    pub async fn propose_removal(
        &self,
        call: &Call,
        database: DatabaseId,
        backup: BackupId,
    ) -> Result<Removal, Error> {
        let proposal = unless_cancelled(call, async {
            self.inner.allow_changes()?;
            self.inner.allowance.check()?;
            let deadline = Deadline::start();
            self.inner.propose(call, database, backup, deadline).await
        })
        .await;
        match proposal {
            // The call goes on.
            Ok(proposal) => Ok(proposal),
            refused => recorded(call, refused),
        }
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
        let decide = self.inner.begin_removal(call, database, backup, confirmed);
        let decided = unless_cancelled(call, decide).await;
        let (inner, call) = (Arc::clone(&self.inner), Arc::clone(call));
        match decided {
            Ok((turn, removal)) => {
                to_its_end(async move {
                    let removed = inner.remove(&call, turn, removal, confirmed).await;
                    recorded(&call, removed)
                })
                .await
            }
            // The call goes on.
            Err(changed @ Error::Changed(_)) => Err(changed),
            Err(error) => recorded(&call, Err(error)),
        }
    }
}

/// Stops where it is when the caller takes the call back: nothing was changed yet.
async fn unless_cancelled<T>(
    call: &Call,
    decide: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        () = call.cancelled() => Err(Error::Cancelled),
        decided = decide => decided,
    }
}

/// Leaves in the call what became of it.
fn recorded<T>(call: &Call, result: Result<T, Error>) -> Result<T, Error> {
    call.set_outcome(result.as_ref().map_or_else(Error::kind, |_| call::OK));
    result
}

impl Inner {
    fn allow_changes(&self) -> Result<(), Error> {
        if self.policy.read_only {
            Err(Error::ReadOnly)
        } else {
            Ok(())
        }
    }

    /// Waits for the turn of a change that begins now.
    async fn turn(&self, database: DatabaseId) -> Result<Turn, Error> {
        let deadline = Deadline::start();
        match timeout(LONGEST_WAIT, self.turns.take(database)).await {
            Ok(place) => Ok(Turn { deadline, place }),
            Err(_) => Err(Error::Busy { database }),
        }
    }

    /// Lets a change go out now, and counts it.
    fn release(&self, database: DatabaseId, turn: &Turn) -> Result<(), Error> {
        if turn.deadline.remaining() < SHORTEST {
            return Err(Error::Busy { database });
        }
        self.allowance.spend()
    }

    /// What stands for a person's consent, for the audit trail.
    fn consent(&self, call: &Call, confirmed: Option<Digest>) -> &'static str {
        match (confirmed, call.face(), self.policy.confirm) {
            (Some(_), ..) => "elicited",
            (None, Face::Rest, _) => "rest",
            (None, Face::Mcp, Confirm::Never) => "unattended",
            (None, Face::Mcp, _) => "host",
        }
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
