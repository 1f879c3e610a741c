//! The number of changes per hour, over all callers: it stops an agent that loops.

use std::{collections::VecDeque, num::NonZeroU32, time::Duration};

use chrono::{TimeDelta, Utc};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::Error;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The changes of the last hour, and their limit.
#[derive(Debug)]
pub(super) struct Allowance {
    /// No limit, if `None`.
    per_hour: Option<NonZeroU32>,
    made: Mutex<VecDeque<Instant>>,
}

impl Allowance {
    pub(super) fn new(per_hour: Option<NonZeroU32>) -> Self {
        Self {
            per_hour,
            made: Mutex::default(),
        }
    }

    /// Checks that this many changes could be made now.
    pub(super) fn check(&self, changes: usize) -> Result<(), Error> {
        self.changes_at(Instant::now(), changes).map(drop)
    }

    /// Counts this many changes before the first one is made.
    pub(super) fn reserve(&self, changes: usize) -> Result<Reserved<'_>, Error> {
        let moment = Instant::now();
        let mut made = self.changes_at(moment, changes)?;
        made.extend(std::iter::repeat_n(moment, changes));
        Ok(Reserved {
            allowance: self,
            moment,
            unspent: changes,
        })
    }

    /// The changes of the hour before `now`, if `more` can be made.
    fn changes_at(
        &self,
        now: Instant,
        more: usize,
    ) -> Result<MutexGuard<'_, VecDeque<Instant>>, Error> {
        let mut made = self.made.lock();
        let Some(an_hour) = self.per_hour else {
            made.clear();
            return Ok(made);
        };
        while made.front().is_some_and(|first| now - *first >= HOUR) {
            made.pop_front();
        }
        let left = (an_hour.get() as usize).saturating_sub(made.len());
        if more <= left {
            return Ok(made);
        }
        // This many of them have to be an hour old first.
        let Some(last) = made.get(more - left - 1).copied() else {
            return Err(Error::TooMany {
                an_hour,
                wanted: more,
            });
        };
        // Rounded up to the next second, so that it is not too early.
        let pause = Duration::from_secs(HOUR.saturating_sub(now - last).as_secs() + 1);
        let at = Utc::now() + pause + TimeDelta::seconds(1);
        Err(Error::LimitReached {
            an_hour,
            left,
            wanted: more,
            pause,
            at,
        })
    }
}

/// Changes that are counted already. Dropping this returns what was not spent.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    allowance: &'a Allowance,
    moment: Instant,
    unspent: usize,
}

impl Reserved<'_> {
    /// Spends one of them.
    pub(super) fn spend(&mut self) {
        self.unspent = self.unspent.saturating_sub(1);
    }

    /// Returns one: it was not sent after all, or Qovery refused it.
    pub(super) fn take_back(&mut self) {
        self.unspent += 1;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut made = self.allowance.made.lock();
        let mut unspent = self.unspent;
        made.retain(|made| {
            let is_returned = unspent > 0 && *made == self.moment;
            unspent -= usize::from(is_returned);
            !is_returned
        });
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
            let mut made = allowance.changes_at(now, changes)?;
            made.extend(std::iter::repeat_n(now, changes));
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
            // It is shown without its fraction of a second, and must not be too early.
            let late = (at - Utc::now()).num_milliseconds() - 1_000 * pause.as_secs().cast_signed();
            assert!((0..=1_000).contains(&late), "{late} ms");
        }
        assert!(at(3_600, 1).is_ok(), "the first one has left the hour");
        assert!(at(4_199, 1).is_err());
        assert!(at(4_200, 1).is_ok());
        let never = at(9_000, 3).unwrap_err();
        assert!(matches!(never, Error::TooMany { wanted: 3, .. }), "{never}");
        assert!(!never.retryable());
        assert!(at(9_000, 2).is_ok());

        let one = Allowance::new(NonZeroU32::new(1));
        assert!(one.check(1).is_ok() && one.check(1).is_ok());
        let spend = |allowance: &Allowance| allowance.reserve(1).map(|mut it| it.spend());
        assert!(spend(&one).is_ok());
        assert!(one.check(1).is_err() && one.reserve(1).is_err());

        let three = Allowance::new(NonZeroU32::new(3));
        let mut reserved = three.reserve(3).unwrap();
        assert!(three.check(1).is_err(), "what is reserved is counted");
        reserved.spend();
        reserved.take_back();
        reserved.spend();
        drop(reserved);
        assert!(three.check(2).is_ok() && three.check(3).is_err());

        let any = Allowance::new(None);
        assert!((0..1_000).all(|_| spend(&any).is_ok()));
    }
}
