//! How many changes may be made in an hour, over all callers: what stops an agent that loops.

use std::{collections::VecDeque, num::NonZeroU32, time::Duration};

use chrono::{TimeDelta, Utc};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Error;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The changes of the last hour, and how many there may be.
#[derive(Debug)]
pub(super) struct Allowance {
    /// Any number, if `None`.
    an_hour: Option<NonZeroU32>,
    made: Mutex<VecDeque<Instant>>,
}

impl Allowance {
    pub(super) fn new(an_hour: Option<NonZeroU32>) -> Self {
        Self {
            an_hour,
            made: Mutex::default(),
        }
    }

    /// Whether there could be a change now.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.at(Instant::now(), false)
    }

    /// Counts a change that is made now. Gives the moment, by which it can be given back.
    pub(super) fn spend(&self) -> Result<Instant, Error> {
        let now = Instant::now();
        self.at(now, true).map(|()| now)
    }

    /// Counts a change no more: nothing was sent of it, or Qovery refused it.
    pub(super) fn give_back(&self, spent: Instant) {
        let mut made = self.made.lock();
        if let Some(position) = made.iter().position(|made| *made == spent) {
            made.remove(position);
        }
    }

    fn at(&self, now: Instant, spend: bool) -> Result<(), Error> {
        let Some(an_hour) = self.an_hour else {
            return Ok(());
        };
        let mut made = self.made.lock();
        while made.front().is_some_and(|first| now - *first >= HOUR) {
            made.pop_front();
        }
        match made.front() {
            Some(first) if made.len() >= an_hour.get() as usize => {
                // The next whole second, so that it is not too early.
                let pause = Duration::from_secs(HOUR.saturating_sub(now - *first).as_secs() + 1);
                let at = Utc::now() + pause + TimeDelta::seconds(1);
                Err(Error::LimitReached { an_hour, pause, at })
            }
            _ => {
                if spend {
                    made.push_back(now);
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hour_has_more_changes_than_are_allowed() {
        let allowance = Allowance::new(NonZeroU32::new(2));
        let start = Instant::now();
        let at = |seconds, spend| allowance.at(start + Duration::from_secs(seconds), spend);
        assert!(at(0, true).is_ok());
        assert!(at(600, false).is_ok(), "a look counts for nothing");
        assert!(at(600, true).is_ok());
        for seconds in [600, 3_599] {
            let Err(Error::LimitReached { pause, at, .. }) = at(seconds, true) else {
                unreachable!("the limit was reached");
            };
            assert_eq!(pause.as_secs(), 3_601 - seconds);
            // It is told without its fraction of a second, and must not be too early.
            let told = (at - Utc::now()).num_milliseconds() - 1_000 * pause.as_secs().cast_signed();
            assert!((0..=1_000).contains(&told), "{told} ms");
        }
        assert!(at(3_600, true).is_ok(), "the first one has left the hour");
        assert!(at(4_199, true).is_err());
        assert!(at(4_200, true).is_ok());

        let one = Allowance::new(NonZeroU32::new(1));
        assert!(one.check().is_ok() && one.check().is_ok());
        assert!(one.spend().is_ok());
        assert!(one.check().is_err() && one.spend().is_err());

        let two = Allowance::new(NonZeroU32::new(2));
        let spent = two.spend().unwrap();
        assert!(two.spend().is_ok() && two.check().is_err());
        two.give_back(spent);
        assert!(two.spend().is_ok() && two.check().is_err());

        let any = Allowance::new(None);
        assert!((0..1_000).all(|_| any.at(start, true).is_ok()));
    }
}
