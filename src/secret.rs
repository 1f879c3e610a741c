//! Secrets in use, which are replaced when their file changes: an orchestrator rewrites it, and a key is
//! withdrawn while the program runs.

use std::{
    fmt, fs, mem,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::RwLock;
use tokio::{
    sync::{Mutex, MutexGuard},
    task::spawn_blocking,
};

/// A parsed secret, and the file that holds it, if one does. Its `Debug` form is that of the value.
pub struct Reloadable<T> {
    current: RwLock<Arc<T>>,
    pub(crate) file: Option<SecretFile<T>>,
    looked: Mutex<Looked>,
}

/// When the file's modification time was looked at, and which it was.
type Looked = (Instant, Option<SystemTime>);

/// The file of a secret.
pub struct SecretFile<T> {
    /// The variable that names it, for the log.
    pub variable: String,
    /// Its path.
    pub path: PathBuf,
    /// Reads and parses it. The error is a sentence that names the variable, and repeats no word of it.
    pub read: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
}

impl<T: Send + Sync + 'static> Reloadable<T> {
    /// A value that is read again from `file`, if there is one.
    pub fn new(value: T, file: Option<SecretFile<T>>) -> Arc<Self> {
        Arc::new(Self {
            current: RwLock::new(Arc::new(value)),
            file,
            // No file is so old: the first look is a change, since it may be one after the start.
            looked: Mutex::new((Instant::now(), Some(SystemTime::UNIX_EPOCH))),
        })
    }

    /// The value in use.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read())
    }

    /// Reads the file again. One that cannot be read or parsed leaves the value as it is.
    pub async fn reload(self: &Arc<Self>) {
        let this = Arc::clone(self);
        // The disk may be slow.
        let read = spawn_blocking(move || this.read_file());
        if let Err(error) = read.await {
            tracing::error!(%error, "a secret could not be read again");
        }
    }

    /// Reads the file again if its modification time changed, which is looked at once in `interval`.
    pub async fn refresh(self: &Arc<Self>, interval: Duration) {
        // While one reads, the others go on with the value in use.
        if let Ok(looked) = self.looked.try_lock()
            && looked.0.elapsed() >= interval
        {
            self.reload_if_changed(looked).await;
        }
    }

    /// Reads the file again, if it changed, after `used` was refused. Returns whether there is another value
    /// now.
    pub async fn renew(self: &Arc<Self>, used: &T) -> bool
    where
        T: PartialEq,
    {
        let looked = self.looked.lock().await;
        if *used == *self.current() {
            self.reload_if_changed(looked).await;
        }
        *used != *self.current()
    }

    async fn reload_if_changed(self: &Arc<Self>, mut looked: MutexGuard<'_, Looked>) {
        let Some(file) = &self.file else { return };
        let modified = fs::metadata(&file.path).and_then(|file| file.modified());
        let before = mem::replace(&mut *looked, (Instant::now(), modified.ok()));
        if before.1 != looked.1 {
            self.reload().await;
        }
    }

    fn read_file(&self) {
        let Some(SecretFile { variable, read, .. }) = &self.file else {
            return;
        };
        match read() {
            Ok(value) => {
                *self.current.write() = Arc::new(value);
                tracing::info!("{variable} was read again: what it holds now is in use");
            }
            Err(problem) => tracing::warn!("{problem} What it held before stays in use."),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Reloadable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current.read().fmt(f)
    }
}
