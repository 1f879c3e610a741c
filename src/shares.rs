//! The one mechanism by which callers share what there is only so much of: calls, streams of events,
//! sessions, open questions and bytes.
//!
//! A place is reserved before the work and given back when its permit is dropped. Of callers that can
//! be told apart, none gets more than half, so that one alone never shuts the others out.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

/// So much of something, and who has how much of it. Clones share it.
#[derive(Clone, Debug)]
pub struct Shares {
    total: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    /// Of each caller that can be told apart and has any.
    of_one: HashMap<Box<str>, usize>,
}

/// A part of it, until this is dropped.
#[derive(Debug)]
pub struct Permit {
    shares: Shares,
    account: Option<Box<str>>,
    amount: usize,
}

impl Shares {
    /// So much to share.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self {
            total,
            taken: Arc::default(),
        }
    }

    /// Reserves a part for an account; none if there is not as much left, or not for this account.
    #[must_use]
    pub fn reserve(&self, account: Option<&str>, amount: usize) -> Option<Permit> {
        let mut permit = Permit {
            shares: self.clone(),
            account: account.map(Box::from),
            amount: 0,
        };
        permit.grow(amount).then_some(permit)
    }
}

impl Permit {
    /// Reserves so much more. Says whether there was as much; if not, nothing changes.
    pub fn grow(&mut self, amount: usize) -> bool {
        let mut taken = self.shares.taken.lock();
        if taken.total + amount > self.shares.total {
            return false;
        }
        if let Some(account) = &self.account {
            let own = taken.of_one.get(account).copied().unwrap_or_default() + amount;
            // Half, rounded up: of a single place, anybody may have it.
            if own > self.shares.total.div_ceil(2) {
                return false;
            }
            taken.of_one.insert(account.clone(), own);
        }
        taken.total += amount;
        self.amount += amount;
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock();
        taken.total -= self.amount;
        if let Some(account) = &self.account {
            let left = taken.of_one.get(account).map_or(0, |own| own - self.amount);
            if left == 0 {
                taken.of_one.remove(account);
            } else {
                taken.of_one.insert(account.clone(), left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_never_gets_more_than_half() {
        let shares = Shares::new(8);
        let mut ada = shares.reserve(Some("ada"), 3).unwrap();
        assert!(shares.reserve(Some("ada"), 2).is_none());
        assert!(ada.grow(1) && !ada.grow(1));
        let rest = shares.reserve(Some("ben"), 4).unwrap();
        assert!(shares.reserve(Some("eve"), 1).is_none(), "all is taken");
        drop(ada);
        assert!(shares.reserve(Some("eve"), 4).is_some());
        drop(rest);
        assert_eq!(shares.taken.lock().total, 0);
        assert!(
            shares.taken.lock().of_one.is_empty(),
            "nobody is remembered"
        );
    }

    #[test]
    fn whoever_cannot_be_told_apart_may_have_all() {
        let shares = Shares::new(2);
        let all = [shares.reserve(None, 1), shares.reserve(None, 1)];
        assert!(all.iter().all(Option::is_some));
        assert!(shares.reserve(None, 1).is_none());
        assert!(Shares::new(1).reserve(Some("ada"), 1).is_some());
    }
}
