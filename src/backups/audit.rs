//! The audit trail: one record before a change goes out, one when its outcome is known.
//!
//! A process that dies between the two leaves an intent without an outcome, which shows an operator
//! where to look. What must never live here: a token, or the body of an answer.

use std::{
    fs::OpenOptions,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use tokio::{
    sync::Mutex,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};
use uuid::Uuid;

use super::{Consent, Error};
use crate::{
    context::Context,
    qovery::{Backup, BackupId, DatabaseId, Outcome},
    text,
};

/// The target of its log events, which no filter of the log silences.
pub const TARGET: &str = "audit";

/// The trail: the operator's file, if there is one, and always the log.
#[derive(Debug)]
pub(super) struct Audit {
    file: Option<PathBuf>,
    /// A line that takes longer is not written.
    write_timeout: Duration,
    /// One line at a time: a disk that hangs blocks one thread only, and a line that waits for it is not
    /// written after its call was refused.
    lock: Arc<Mutex<()>>,
}

/// The record of a change.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Record {
    time: String,
    /// Pairs intent and outcome: a caller may use one request id twice.
    change_id: Uuid,
    request_id: String,
    interface: &'static str,
    caller: String,
    operation: &'static str,
    pub(super) database_id: DatabaseId,
    backup_id: Option<BackupId>,
    pub(super) name: Option<String>,
    created_at: Option<String>,
    consent: Consent,
    phase: &'static str,
    outcome: Option<Outcome>,
}

impl Record {
    /// Names and dates are cut: Qovery documents no limit.
    pub(super) const MAX_CHARACTERS: usize = 255;

    /// The intent of a change.
    pub(super) fn new(
        context: &Context,
        operation: &'static str,
        consent: Consent,
        database: DatabaseId,
    ) -> Self {
        Self {
            time: String::new(),
            change_id: Uuid::new_v4(),
            request_id: context.request_id.to_string(),
            interface: context.interface.name(),
            caller: context.caller.name().to_owned(),
            operation,
            database_id: database,
            backup_id: None,
            name: None,
            created_at: None,
            consent,
            phase: "intent",
            outcome: None,
        }
    }

    /// The same record, of a known backup.
    pub(super) fn about(self, backup: &Backup) -> Self {
        let cut = |text: &str| text::truncate(text, Self::MAX_CHARACTERS);
        Self {
            backup_id: Some(backup.id),
            name: backup.name.as_deref().map(cut),
            created_at: Some(cut(&backup.created_at)),
            ..self
        }
    }

    fn log(&self) {
        tracing::info!(
            target: TARGET,
            change_id = %self.change_id,
            request_id = self.request_id,
            interface = self.interface,
            caller = self.caller,
            operation = self.operation,
            database_id = %self.database_id,
            backup_id = self.backup_id.map(tracing::field::display),
            name = self.name,
            created_at = self.created_at,
            consent = self.consent.name(),
            phase = self.phase,
            outcome = self.outcome.map(Outcome::name),
            "audit"
        );
    }
}

impl Audit {
    pub(super) fn new(file: Option<PathBuf>, write_timeout: Duration) -> Self {
        Self {
            file,
            write_timeout,
            lock: Arc::default(),
        }
    }

    /// Records that a change is about to be sent. If this fails, it must not be sent.
    pub(super) async fn intent(&self, record: &Record) -> Result<(), Error> {
        self.write(record.clone()).await.map_err(|error| {
            tracing::error!(%error, "the audit log could not be written; the change was refused");
            Error::Unaudited
        })
    }

    /// Records what became of a change that was sent.
    pub(super) async fn outcome(&self, record: Record, outcome: Outcome) {
        let record = Record {
            phase: "outcome",
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
            let deadline = Instant::now() + self.write_timeout;
            timeout_at(deadline, async {
                let lock = Arc::clone(&self.lock).lock_owned().await;
                let write = spawn_blocking(move || {
                    let _lock = lock;
                    append(&path, &line, deadline)
                });
                write.await?
            })
            .await??;
        }
        record.log();
        Ok(())
    }
}

/// Appends a line and syncs it. Opens the file anew for each line, so that it can be rotated at any
/// time.
fn append(path: &Path, line: &[u8], deadline: Instant) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.append(true).read(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    // Other processes may write to it, too.
    file.lock()?;
    if Instant::now() > deadline {
        return Err(io::ErrorKind::TimedOut.into());
    }
    // The last line has no end if the disk was full or the machine stopped: the next one must stay
    // readable. An empty file has no last byte to seek to.
    let mut last = *b"\n";
    if file.seek(SeekFrom::End(-1)).is_ok() {
        file.read_exact(&mut last)?;
    }
    if last != *b"\n" {
        file.write_all(b"\n")?;
    }
    file.write_all(line)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_does_not_spoil_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        std::fs::write(&path, "{\"time\":").unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        append(&path, b"{}\n", deadline).unwrap();
        append(&path, b"{}\n", deadline).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"time\":\n{}\n{}\n");
    }

    #[test]
    fn what_comes_too_late_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        assert!(append(&path, b"{}\n", Instant::now()).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
