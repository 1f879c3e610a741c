//! The number of changes per hour, over all callers or of one that brings its key: it stops an agent that
//! loops.

use std::{collections::VecDeque, num::NonZeroU32, time::Duration};

use chrono::{TimeDelta, Utc};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::Error;

const HOUR: Duration = Duration::from_secs(60 * 60);
/// When to try again while other changes are under way.
const RETRY: Duration = Duration::from_secs(59);

/// The changes of the last hour, and their limit.
#[derive(Debug)]
pub(super) struct Allowance {
    /// No limit, if `None`.
    per_hour: Option<NonZeroU32>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When changes were sent.
    sent: VecDeque<Instant>,
    /// Changes that are counted and not sent yet.
    under_way: usize,
}

impl Allowance {
    pub(super) fn new(per_hour: Option<NonZeroU32>) -> Self {
        Self {
            per_hour,
            state: Mutex::default(),
        }
    }

    /// Checks that this many changes could be made now.
    pub(super) fn check(&self, changes: usize) -> Result<(), Error> {
        self.state_at(Instant::now(), changes).map(drop)
    }

    /// Counts this many changes before the first one is made.
    pub(super) fn reserve(&self, changes: usize) -> Result<Reserved<'_>, Error> {
        self.state_at(Instant::now(), changes)?.under_way += changes;
        Ok(Reserved {
            allowance: self,
            changes,
        })
    }

    /// The state, if `wanted` more changes can be made at `now`.
    fn state_at(&self, now: Instant, wanted: usize) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.state.lock();
        let Some(an_hour) = self.per_hour else {
            state.sent.clear();
            return Ok(state);
        };
        while state.sent.front().is_some_and(|first| now - *first >= HOUR) {
            state.sent.pop_front();
        }
        let max = an_hour.get() as usize;
        let left = max.saturating_sub(state.sent.len() + state.under_way);
        if wanted <= left {
            return Ok(state);
        }
        if wanted > max {
            return Err(Error::TooMany { an_hour, wanted });
        }
        // This many of them have to be an hour old first. What is under way may not count in the end.
        let pause = match state.sent.get(wanted - left - 1) {
            Some(last) if state.under_way == 0 => HOUR.saturating_sub(now - *last),
            _ => RETRY,
        };
        // Rounded up to the next second, so that it is not too early.
        let pause = Duration::from_secs(pause.as_secs() + 1);
        Err(Error::LimitReached {
            an_hour,
            left,
            under_way: state.under_way,
            wanted,
            pause,
            at: Utc::now() + pause + TimeDelta::seconds(1),
        })
    }
}

/// Changes that are counted already. Dropping this returns what was not sent.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    allowance: &'a Allowance,
    changes: usize,
}

impl Reserved<'_> {
    /// Spends one of them: it was sent.
    pub(super) fn spend(&mut self) {
        let mut state = self.allowance.state.lock();
        self.changes -= 1;
        state.under_way -= 1;
        state.sent.push_back(Instant::now());
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.allowance.state.lock().under_way -= self.changes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hour_has_more_changes_than_are_allowed() {
        let allowance = Allowance::new(NonZeroU32::new(2));
        let start = Instant::now();
        let at = |seconds, changes| {
            let now = start + Duration::from_secs(seconds);
            let mut state = allowance.state_at(now, changes)?;
            state.sent.extend(std::iter::repeat_n(now, changes));
            Ok::<_, Error>(())
        };
        assert!(at(0, 1).is_ok());
        assert!(at(600, 0).is_ok(), "a check counts for nothing");
        assert!(at(600, 1).is_ok());
        for (seconds, changes, left_at) in [(600, 1, 3_600), (3_599, 1, 3_600), (3_599, 2, 4_200)] {
            let Err(Error::LimitReached { pause, at, .. }) = at(seconds, changes) else {
                unreachable!("the limit was reached");
            };
            assert_eq!(pause.as_secs(), left_at + 1 - seconds);
            // Its fraction of a second is cut, and it must not be too early.
            let early =
                (at - Utc::now()).num_milliseconds() - 1_000 * pause.as_secs().cast_signed();
            assert!((0..=1_000).contains(&early), "{early} ms");
        }
        assert!(at(3_600, 1).is_ok(), "the first one has left the hour");
        assert!(at(4_199, 1).is_err());
        assert!(at(4_200, 1).is_ok());
        let never = at(9_000, 3).unwrap_err();
        assert!(matches!(never, Error::TooMany { wanted: 3, .. }), "{never}");
        assert!(!never.retryable());
        assert!(at(9_000, 2).is_ok());
    }

    #[test]
    fn what_is_under_way_is_counted_and_returned_unless_it_was_sent() {
        let three = Allowance::new(NonZeroU32::new(3));
        let mut reserved = three.reserve(3).unwrap();
        let text = three.check(1).unwrap_err().to_string();
        assert!(text.contains("3 of them by changes under way"), "{text}");
        reserved.spend();
        drop(reserved);
        assert!(three.check(2).is_ok());
        let text = three.check(3).unwrap_err().to_string();
        assert!(text.contains("2 of them are left, of 3"), "{text}");
        three.reserve(1).unwrap().spend();
        three.reserve(1).unwrap().spend();
        let text = three.check(1).unwrap_err().to_string();
        assert!(text.contains("they are used up"), "{text}");

        let any = Allowance::new(None);
        assert!((0..1_000).all(|_| any.reserve(1).map(|mut it| it.spend()).is_ok()));
    }
}
