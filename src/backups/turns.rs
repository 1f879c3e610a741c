//! Changes of one database take turns: each decides by facts that no other one is changing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::OwnedMutexGuard;

use crate::qovery::DatabaseId;

/// The turns that are taken or waited for now, a lock a database.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<DatabaseId, Weak<tokio::sync::Mutex<()>>>>);

/// The place of a change whose turn it is. The next one begins when it is dropped.
pub(super) type Place = OwnedMutexGuard<()>;

impl Turns {
    /// Waits for a turn, in the order in which they were asked for.
    pub(super) async fn take(&self, database: DatabaseId) -> Place {
        self.of(database).lock_owned().await
    }

    fn of(&self, database: DatabaseId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&database).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(database, Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_database_takes_turns_and_others_do_not_wait() {
        let turns = Turns::default();
        let id = |text: &str| text.parse::<DatabaseId>().unwrap();
        let orders = id("0de50000-0000-4000-8000-000000000001");
        let sessions = id("0de50000-0000-4000-8000-000000000002");
        let first = turns.take(orders).await;
        assert!(turns.take(orders).now_or_never().is_none());
        assert!(turns.take(sessions).now_or_never().is_some());
        drop(first);
        assert!(turns.take(orders).now_or_never().is_some());
        // What nobody holds is forgotten.
        drop(turns.of(sessions));
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
