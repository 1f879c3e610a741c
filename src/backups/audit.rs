//! The audit trail: one record before a change goes out, one when its outcome is known, and one of a removal
//! that was refused.
//!
//! A process that is killed between the two leaves an intent without an outcome, which shows an operator
//! where to look. What must never live here: a token, or the body of an answer.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions, create_dir_all},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    slice,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{SecondsFormat, Utc};
use parking_lot::Mutex as SyncMutex;
use serde::Serialize;
use serde_json::json;
use tokio::{
    sync::Mutex,
    task::spawn_blocking,
    time::{Instant, sleep, timeout_at},
};
use uuid::Uuid;

use super::{AskedBy, Consent, Error};
use crate::{
    context::Context,
    qovery::{Backup, BackupId, DatabaseId, Outcome},
    shutdown::Shutdown,
    text,
};

/// The target of its log events, which no filter of the log silences.
pub const TARGET: &str = "audit";

/// Where the trail is written, beside the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AuditLog {
    /// Nowhere.
    #[default]
    Off,
    /// To the operator's file. What it does not take is not changed.
    File(PathBuf),
    /// To a file a month in this folder. Where it cannot be written, changes are made all the same.
    Monthly(PathBuf),
}

/// The trail.
#[derive(Debug, Default)]
pub(super) struct Audit {
    log: AuditLog,
    /// A line that takes longer is not written.
    write_timeout: Duration,
    /// One line at a time: a disk that hangs blocks one thread only, and a line that waits for it is not
    /// written after its call was refused.
    lock: Arc<Mutex<()>>,
    shutdown: Shutdown,
    /// Whether an outcome is missing in the file, or stayed unknown during the shutdown.
    incomplete: AtomicBool,
    /// Whether the log says already that the file of the month cannot be written.
    is_unwritable: AtomicBool,
    /// When refusals were recorded: by the caller's access token or key, database, backup and reason.
    refusals: SyncMutex<HashMap<Refusal, Instant>>,
}

type Refusal = (
    Option<Arc<str>>,
    (DatabaseId, Option<BackupId>),
    Option<&'static str>,
);

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
    pub(super) asked_by: Option<AskedBy>,
    phase: &'static str,
    /// Why it was refused.
    reason: Option<&'static str>,
    outcome: Option<Outcome>,
}

/// How long the same refusal is not recorded again, and how many are remembered.
const REFUSAL_WINDOW: Duration = Duration::from_secs(10 * 60);
const MAX_REFUSALS: usize = 4096;
/// Those of one caller.
const MAX_REFUSALS_OF_CALLER: usize = 512;

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
            asked_by: None,
            phase: "intent",
            reason: None,
            outcome: None,
        }
    }

    /// The same record, of a removal that was refused.
    pub(super) fn refused(self, backup: BackupId, reason: &'static str) -> Self {
        Self {
            backup_id: Some(backup),
            phase: "refused",
            reason: Some(reason),
            ..self
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
        let (consent, asked_by) = (json!(self.consent), json!(self.asked_by));
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
                    consent = consent.as_str(),
                    asked_by = asked_by.as_str(),
                    phase = self.phase,
                    reason = self.reason,
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
    pub(super) fn new(log: AuditLog, write_timeout: Duration, shutdown: Shutdown) -> Self {
        Self {
            log,
            write_timeout,
            shutdown,
            ..Self::default()
        }
    }

    /// Whether the file has the outcome of each change, none of which stayed unknown during the shutdown.
    pub(super) fn is_complete(&self) -> bool {
        !self.incomplete.load(Ordering::Relaxed)
    }

    /// Records that a change is about to be sent. If this fails, it must not be sent.
    pub(super) async fn intent(&self, mut record: Record) -> Result<Intent<'_>, Error> {
        if let Err(error) = self.write(slice::from_mut(&mut record)).await {
            tracing::error!(%error, "the audit log could not be written; the change was refused");
            return Err(Error::Unaudited);
        }
        Ok(Intent {
            audit: self,
            record,
            has_outcome: false,
        })
    }

    /// Records that removals were refused. The same refusal is recorded once in a while: an agent that loops
    /// must not fill the disk, nor use up what is remembered of others.
    pub(super) async fn refusals(&self, caller: Option<&Arc<str>>, mut records: Vec<Record>) {
        let key = |record: &Record| {
            let ids = (record.database_id, record.backup_id);
            (caller.cloned(), ids, record.reason)
        };
        {
            let (now, mut refusals) = (Instant::now(), self.refusals.lock());
            refusals.retain(|_, since| now.duration_since(*since) < REFUSAL_WINDOW);
            let is_own = |refusal: &&Refusal| refusal.0.as_ref() == caller;
            let mut own = refusals.keys().filter(is_own).count();
            records.retain(|record| {
                let refusal = key(record);
                let is_full = own >= MAX_REFUSALS_OF_CALLER || refusals.len() >= MAX_REFUSALS;
                let is_new = !is_full && !refusals.contains_key(&refusal);
                if is_new {
                    refusals.insert(refusal, now);
                    own += 1;
                }
                is_new
            });
        }
        if records.is_empty() {
            return;
        }
        if let Err(error) = self.write(&mut records).await {
            tracing::warn!(%error, "the audit log could not be written; a refusal is not in it");
            for record in &records {
                record.log(false);
                self.refusals.lock().remove(&key(record));
            }
        }
    }

    async fn write(&self, records: &mut [Record]) -> io::Result<()> {
        let now = Utc::now();
        for record in &mut *records {
            record.time = now.to_rfc3339_opts(SecondsFormat::Millis, true);
        }
        let (path, is_ours) = match &self.log {
            AuditLog::Off => (None, false),
            AuditLog::File(path) => (Some(path.clone()), false),
            AuditLog::Monthly(folder) => {
                let month = now.format("audit-%Y-%m.jsonl").to_string();
                (Some(folder.join(month)), true)
            }
        };
        if let Some(path) = path
            && let Err(error) = self.write_file(path, is_ours, records).await
        {
            if !is_ours {
                return Err(error);
            }
            if !self.is_unwritable.swap(true, Ordering::Relaxed) {
                tracing::warn!(%error, "the audit log cannot be written: changes are in this log only");
            }
        }
        for record in records {
            record.log(false);
        }
        Ok(())
    }

    /// Appends lines to a file, which is the operator's or in a folder of ours.
    async fn write_file(&self, path: PathBuf, is_ours: bool, records: &[Record]) -> io::Result<()> {
        let mut lines = Vec::new();
        for record in records {
            serde_json::to_writer(&mut lines, record)?;
            lines.push(b'\n');
        }
        let sync = records.iter().any(|record| record.reason.is_none());
        let deadline = Instant::now() + self.write_timeout;
        let written = timeout_at(deadline, async {
            let lock = Arc::clone(&self.lock).lock_owned().await;
            let write = spawn_blocking(move || {
                let _lock = lock;
                if let Some(folder) = path.parent().filter(|_| is_ours) {
                    create_dir_all(folder)?;
                }
                let file = append(&path, &lines, deadline)?;
                if sync { file.sync_data() } else { Ok(()) }
            });
            write.await?
        });
        let abandoned = async {
            self.shutdown.deadline.cancelled().await;
            sleep(LAST_WRITE).await;
        };
        tokio::select! {
            biased;
            written = written => written?,
            () = abandoned => Err(io::ErrorKind::TimedOut.into()),
        }
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
        match self.audit.write(slice::from_mut(&mut self.record)).await {
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

/// Appends a line. Opens the file anew for each line, so that it can be rotated at any
/// time.
fn append(path: &Path, line: &[u8], deadline: Instant) -> io::Result<File> {
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
    Ok(file)
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
        let audit = Arc::new(Audit::new(AuditLog::Off, second, Shutdown::default()));
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
