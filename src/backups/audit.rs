//! The audit trail: one record before a change goes out, one when its outcome is known.
//!
//! A process that dies between the two leaves an intent without an outcome, which tells an operator
//! where to look. What must never live here: a token, or the body of an answer.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    call::Call,
    qovery::{Backup, BackupId, DatabaseId, NewBackup, Outcome},
};

/// A disk that takes longer than this takes no line.
const LONGEST_WRITE: Duration = Duration::from_secs(5);

/// The trail. It always goes to the log, and to a file where the operator names one.
#[derive(Debug)]
pub(super) struct Audit {
    file: Option<PathBuf>,
    /// One line at a time.
    turn: Arc<Mutex<()>>,
}

/// What is written of a change.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Record {
    time: String,
    request_id: String,
    face: &'static str,
    caller: String,
    operation: &'static str,
    database_id: DatabaseId,
    backup_id: Option<BackupId>,
    name: Option<String>,
    created_at: Option<String>,
    consent: Consent,
    phase: Phase,
    outcome: Option<Outcome>,
}

/// What stood for a person's consent.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Consent {
    /// A person said yes to the server's own question.
    Elicited,
    /// The MCP host, which approves of what its model does.
    Host,
    /// Nobody: the operator runs the server unattended.
    Unattended,
    /// Whoever sent a request to the REST API.
    Rest,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Intent,
    Outcome,
}

impl Record {
    /// The record of a backup to be made.
    pub(super) fn of_addition(
        call: &Call,
        consent: Consent,
        database: DatabaseId,
        backup: &NewBackup,
    ) -> Self {
        Self {
            name: Some(backup.name.as_str().to_owned()),
            ..Self::new(call, "add", consent, database)
        }
    }

    /// The record of a backup to be removed.
    pub(super) fn of_removal(
        call: &Call,
        consent: Consent,
        database: DatabaseId,
        backup: &Backup,
    ) -> Self {
        Self::new(call, "remove", consent, database).about(backup)
    }

    fn new(call: &Call, operation: &'static str, consent: Consent, database: DatabaseId) -> Self {
        Self {
            time: String::new(),
            request_id: call.id().to_string(),
            face: call.face().name(),
            caller: call.caller().to_owned(),
            operation,
            database_id: database,
            backup_id: None,
            name: None,
            created_at: None,
            consent,
            phase: Phase::Intent,
            outcome: None,
        }
    }

    /// The same, once it is known which backup it is about.
    pub(super) fn about(self, backup: &Backup) -> Self {
        /// Qovery sets no limit that would hold here.
        const LONGEST: usize = 255;
        let name = backup.name.as_ref();
        Self {
            backup_id: Some(backup.id),
            name: name.map(|name| name.chars().take(LONGEST).collect()),
            created_at: Some(backup.created_at.chars().take(LONGEST).collect()),
            ..self
        }
    }

    fn log(&self) {
        tracing::info!(
            request_id = self.request_id,
            face = self.face,
            caller = self.caller,
            operation = self.operation,
            database_id = %self.database_id,
            backup_id = self.backup_id.map(tracing::field::display),
            name = self.name,
            created_at = self.created_at,
            consent = self.consent.name(),
            phase = self.phase.name(),
            outcome = self.outcome.map(Outcome::name),
            "audit"
        );
    }
}

impl Audit {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            turn: Arc::default(),
        }
    }

    /// Writes that a change is about to go out. Unless this succeeds, it must not.
    pub(super) async fn intent(&self, record: &Record) -> io::Result<()> {
        let written = self.write(record.clone()).await;
        if let Err(error) = &written {
            tracing::error!(%error, "the audit log could not be written; the change was refused");
        }
        written
    }

    /// Writes what became of it. The change is made by now, whatever happens to the line.
    pub(super) async fn outcome(&self, record: Record, outcome: Outcome) {
        let record = Record {
            phase: Phase::Outcome,
            outcome: Some(outcome),
            ..record
        };
        if let Err(error) = self.write(record).await {
            tracing::error!(%error, "the audit log could not be written; a change has no outcome in it");
        }
    }

    async fn write(&self, mut record: Record) -> io::Result<()> {
        record.time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        if let Some(path) = self.file.clone() {
            let mut line = serde_json::to_vec(&record)?;
            line.push(b'\n');
            let turn = Arc::clone(&self.turn);
            let write = spawn_blocking(move || {
                let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                append(&path, &line)
            });
            timeout(LONGEST_WRITE, write).await???;
        }
        record.log();
        Ok(())
    }
}

impl Consent {
    fn name(self) -> &'static str {
        match self {
            Self::Elicited => "elicited",
            Self::Host => "host",
            Self::Unattended => "unattended",
            Self::Rest => "rest",
        }
    }
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Outcome => "outcome",
        }
    }
}

/// Opened anew for each line, so that the file can be moved away at any time. On the disk when this
/// returns.
fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    let before = file.metadata()?.len();
    file.write_all(line).or_else(|error| {
        // A disk that filled up in the middle of a line must not spoil the next one as well.
        file.set_len(before)?;
        Err(error)
    })?;
    file.sync_data()
}
