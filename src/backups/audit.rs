//! The audit trail: one record before a change goes out, one when its outcome is known.
//!
//! A process that is killed between the two leaves an intent without an outcome, which shows an operator
//! where to look. What must never live here: a token, or the body of an answer.

use std::{
    fs::OpenOptions,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use tokio::{
    sync::Mutex,
    task::spawn_blocking,
    time::{Instant, sleep, timeout_at},
};
use uuid::Uuid;

use super::{Consent, Error};
use crate::{
    context::Context,
    qovery::{Backup, BackupId, DatabaseId, Outcome},
    shutdown::Shutdown,
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
    shutdown: Shutdown,
    /// Whether an outcome is missing in the file, or stayed unknown during the shutdown.
    incomplete: AtomicBool,
}

/// A change whose intent is on record. Dropped without its outcome on record, as by a panic, it logs the
/// outcome as an error.
#[derive(Debug)]
pub(super) struct Intent<'a> {
    audit: &'a Audit,
    record: Record,
    has_outcome: bool,
}

/// How long a write may go on after the deadline of the shutdown, at which open changes become unknown.
const LAST_WRITE: Duration = Duration::from_millis(250);

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

    fn log(&self, is_missing_in_file: bool) {
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
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
                )
            };
        }
        if is_missing_in_file {
            log!(error);
        } else {
            log!(info);
        }
    }
}

impl Audit {
    pub(super) fn new(file: Option<PathBuf>, write_timeout: Duration, shutdown: Shutdown) -> Self {
        Self {
            file,
            write_timeout,
            lock: Arc::default(),
            shutdown,
            incomplete: AtomicBool::new(false),
        }
    }

    /// Whether the file has the outcome of each change, none of which stayed unknown during the shutdown.
    pub(super) fn is_complete(&self) -> bool {
        !self.incomplete.load(Ordering::Relaxed)
    }

    /// Records that a change is about to be sent. If this fails, it must not be sent.
    pub(super) async fn intent(&self, mut record: Record) -> Result<Intent<'_>, Error> {
        if let Err(error) = self.write(&mut record).await {
            tracing::error!(%error, "the audit log could not be written; the change was refused");
            return Err(Error::Unaudited);
        }
        Ok(Intent {
            audit: self,
            record,
            has_outcome: false,
        })
    }

    async fn write(&self, record: &mut Record) -> io::Result<()> {
        record.time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        if let Some(path) = self.file.clone() {
            let mut line = serde_json::to_vec(record)?;
            line.push(b'\n');
            let deadline = Instant::now() + self.write_timeout;
            let written = timeout_at(deadline, async {
                let lock = Arc::clone(&self.lock).lock_owned().await;
                let write = spawn_blocking(move || {
                    let _lock = lock;
                    append(&path, &line, deadline)
                });
                write.await?
            });
            let abandoned = async {
                self.shutdown.deadline.cancelled().await;
                sleep(LAST_WRITE).await;
            };
            tokio::select! {
                biased;
                written = written => written??,
                () = abandoned => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        record.log(false);
        Ok(())
    }
}

impl Intent<'_> {
    /// Records what became of the change, and of which backup.
    pub(super) async fn outcome(mut self, backup: Option<&Backup>, outcome: Outcome) {
        if let Some(backup) = backup {
            self.record = self.record.clone().about(backup);
        }
        self.record.outcome = Some(outcome);
        self.record.phase = "outcome";
        match self.audit.write(&mut self.record).await {
            Ok(()) => self.has_outcome = true,
            Err(error) => {
                tracing::error!(%error, "the audit log could not be written; a change has no outcome in it");
            }
        }
        if outcome == Outcome::Unknown && self.audit.shutdown.no_retries.is_cancelled() {
            self.audit.incomplete.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Intent<'_> {
    fn drop(&mut self) {
        if !self.has_outcome {
            self.record.phase = "outcome";
            self.record.outcome.get_or_insert(Outcome::Unknown);
            self.record.log(true);
            self.audit.incomplete.store(true, Ordering::Relaxed);
        }
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
    use crate::context::Interface;

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

    #[tokio::test]
    async fn a_change_that_panics_leaves_the_trail_incomplete() {
        let second = Duration::from_secs(1);
        let audit = Arc::new(Audit::new(None, second, Shutdown::default()));
        let context = Context::new(Interface::Rest, second);
        let database = "0de50000-0000-4000-8000-000000000001".parse().unwrap();
        let record = Record::new(&context, "add", Consent::Rest, database);
        let intent = audit.intent(record.clone()).await.unwrap();
        intent.outcome(None, Outcome::NotApplied).await;
        assert!(audit.is_complete());
        let shared = Arc::clone(&audit);
        let change = tokio::spawn(async move {
            let _intent = shared.intent(record).await;
            std::panic::resume_unwind(Box::new("a test's panic"));
        });
        assert!(change.await.unwrap_err().is_panic());
        assert!(!audit.is_complete());
    }
}
