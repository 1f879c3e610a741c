//! A bounded map, for what is remembered of each key or caller.

use std::{collections::HashMap, hash::Hash};

use tokio::time::Instant;

/// Values by key. Where there are too many, the one that was not used for longest is forgotten.
#[derive(Debug)]
pub(crate) struct Recent<K, V>(HashMap<K, (Instant, V)>);

const MAX: usize = 1_000;

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    /// The value of `key`, or a new one.
    pub(crate) fn of(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        if self.0.len() >= MAX && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, (used, _))| *used);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.map(|key| self.0.remove(&key));
        }
        let entry = self.0.entry(key).or_insert_with(|| (Instant::now(), new()));
        entry.0 = Instant::now();
        &mut entry.1
    }
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_is_forgotten() {
        let mut recent = Recent::default();
        for number in 0..MAX {
            recent.of(number, || "first");
        }
        recent.of(0, || "second");
        recent.of(MAX, || "second");
        assert_eq!(recent.0.len(), MAX);
        assert_eq!(*recent.of(0, || "third"), "first");
        assert_eq!(*recent.of(1, || "third"), "third");
    }
}
