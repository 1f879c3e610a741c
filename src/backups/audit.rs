//! The audit trail: one record before a change goes out, one when its outcome is known.
//!
//! A process that dies between the two leaves an intent without an outcome, which tells an operator
//! where to look. What must never live here: a token, or the body of an answer.

use std::{
    fs::{File, OpenOptions},
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

use super::Error;
use crate::{
    context::Context,
    qovery::{Backup, BackupId, DatabaseId, Outcome},
    text,
};

/// The target of its events, which no filter of the log can silence.
pub const TARGET: &str = "audit";

/// The trail. It always goes to the log, and to a file where the operator names one.
#[derive(Debug)]
pub(super) struct Audit {
    file: Option<PathBuf>,
    /// A disk that takes longer takes no line.
    patience: Duration,
    /// One line at a time: a disk that hangs holds one thread, and what waits for it is not written
    /// after its call was refused.
    lock: Arc<Mutex<()>>,
}

/// What is written of a change.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Record {
    time: String,
    /// Our own id of the change, in both of its lines: a caller may send one request id twice.
    change_id: Uuid,
    request_id: String,
    interface: &'static str,
    caller: String,
    operation: &'static str,
    database_id: DatabaseId,
    backup_id: Option<BackupId>,
    name: Option<String>,
    created_at: Option<String>,
    consent: &'static str,
    phase: &'static str,
    outcome: Option<Outcome>,
}

impl Record {
    /// The record of a change of a database that is about to go out.
    pub(super) fn new(
        context: &Context,
        operation: &'static str,
        consent: &'static str,
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

    /// The same, of a backup that has no more than a name yet.
    pub(super) fn named(self, name: &str) -> Self {
        Self {
            name: Some(short(name)),
            ..self
        }
    }

    /// The same, once it is known which backup it is about.
    pub(super) fn about(self, backup: &Backup) -> Self {
        Self {
            backup_id: Some(backup.id),
            name: backup.name.as_deref().map(short),
            created_at: Some(short(&backup.created_at)),
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
            consent = self.consent,
            phase = self.phase,
            outcome = self.outcome.map(Outcome::name),
            "audit"
        );
    }
}

impl Audit {
    pub(super) fn new(file: Option<PathBuf>, patience: Duration) -> Self {
        Self {
            file,
            patience,
            lock: Arc::default(),
        }
    }

    /// Writes that a change is about to go out. Unless this succeeds, it must not.
    pub(super) async fn intent(&self, record: &Record) -> Result<(), Error> {
        self.write(record.clone()).await.map_err(|error| {
            tracing::error!(%error, "the audit log could not be written; the change was refused");
            Error::Unaudited
        })
    }

    /// Writes what became of it. The change is made by now, whatever happens to the line.
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
            let latest = Instant::now() + self.patience;
            timeout_at(latest, async {
                let lock = Arc::clone(&self.lock).lock_owned().await;
                let write = spawn_blocking(move || {
                    let result = append(&path, &line, latest);
                    drop(lock);
                    result
                });
                write.await?
            })
            .await??;
        }
        record.log();
        Ok(())
    }
}

/// Other people's text, for a line that a person reads on a terminal. Qovery sets no limit on it.
fn short(text: &str) -> String {
    const LONGEST: usize = 255;
    let mut text: String = text.chars().take(LONGEST).collect();
    text::sanitize(&mut text);
    text
}

/// Opened anew for each line, so that the file can be moved away at any time. On the disk when this
/// returns.
fn append(path: &Path, line: &[u8], latest: Instant) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.append(true).read(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    // Other processes may write here, too.
    file.lock()?;
    if Instant::now() > latest {
        return Err(io::ErrorKind::TimedOut.into());
    }
    if is_torn(&mut file)? {
        file.write_all(b"\n")?;
    }
    file.write_all(line)?;
    file.sync_data()
}

/// Whether the last line has no end: the disk was full, or the machine stopped. It must not spoil the
/// next one as well.
fn is_torn(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_does_not_spoil_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        std::fs::write(&path, "{\"time\":").unwrap();
        let latest = Instant::now() + Duration::from_secs(60);
        append(&path, b"{}\n", latest).unwrap();
        append(&path, b"{}\n", latest).unwrap();
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
