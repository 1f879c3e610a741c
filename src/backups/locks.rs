//! One lock per database: a change decides on facts that no other change of this process alters.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::qovery::DatabaseId;

/// The locks that are held or waited for now, by database. Others are dropped.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<DatabaseId, Weak<tokio::sync::Mutex<()>>>>);

impl Locks {
    /// Waits for a database's lock, first come, first served.
    pub(super) async fn lock(&self, database: DatabaseId) -> OwnedMutexGuard<()> {
        self.of(database).lock_owned().await
    }

    fn of(&self, database: DatabaseId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock();
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&database).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(database, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_database_has_one_lock_and_others_do_not_wait() {
        let locks = Locks::default();
        let id = |text: &str| text.parse::<DatabaseId>().unwrap();
        let orders = id("0de50000-0000-4000-8000-000000000001");
        let sessions = id("0de50000-0000-4000-8000-000000000002");
        let first = locks.lock(orders).await;
        assert!(locks.lock(orders).now_or_never().is_none());
        assert!(locks.lock(sessions).now_or_never().is_some());
        drop(first);
        assert!(locks.lock(orders).now_or_never().is_some());
        // A lock that is not held is dropped.
        drop(locks.of(sessions));
        assert_eq!(locks.0.lock().len(), 1);
    }
}
