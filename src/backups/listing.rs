//! Listing: a database's backups with what the rules say of each, and waiting for one of them.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::watch,
    time::{sleep, timeout_at},
};

use super::{
    Backups, Condition, Error, Protection,
    guard::{self, Assessment, Clock},
};
use crate::{
    context::{Context, Deadline},
    qovery::{self, Backup, BackupId, DatabaseId, Failure},
};

/// The backups of a database, or as many as were read.
#[derive(Debug)]
pub struct Listing {
    /// The database.
    pub database: DatabaseId,
    /// The database's name, if it is known.
    pub name: Option<Arc<str>>,
    /// The moment at which ages and rules were evaluated.
    pub now: DateTime<Utc>,
    /// The backups, the newest first, and those without a [date](Self::date) last.
    pub backups: Vec<Listed>,
    /// Whether these are all backups of the database.
    pub complete: bool,
    /// How far Qovery's clock and ours are apart, if that is more than five minutes.
    pub clock_skew: Option<TimeDelta>,
    /// The pages as Qovery sent them.
    json: Vec<Bytes>,
}

impl Listing {
    /// When a backup was made, if its date can be read and is not in the future.
    pub fn date(&self, listed: &Listed) -> Option<DateTime<Utc>> {
        guard::date(&listed.backup, self.now).ok()
    }

    /// The status of each backup as Qovery sent it.
    pub fn statuses(&self) -> HashMap<BackupId, &RawValue> {
        #[derive(Deserialize)]
        struct Page<'a> {
            #[serde(borrow)]
            results: Vec<Row<'a>>,
        }
        #[derive(Deserialize)]
        struct Row<'a> {
            id: BackupId,
            #[serde(borrow)]
            status: Option<&'a RawValue>,
        }
        let pages = self.json.iter();
        // The same JSON was parsed before.
        let pages = pages.filter_map(|page| serde_json::from_slice::<Page>(page).ok());
        let rows = pages.flat_map(|page| page.results);
        rows.filter_map(|row| Some((row.id, row.status?))).collect()
    }
}

/// A backup, and what the rules say of it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The backup.
    pub backup: Backup,
    /// Its condition.
    pub condition: Condition,
    /// The rule that protects it, if the whole list is known and one does.
    pub protection: Option<Protection>,
}

impl Listed {
    pub(super) fn new(backup: Backup, assessment: Assessment) -> Self {
        Self {
            condition: assessment.condition,
            protection: assessment.protection,
            backup,
        }
    }
}

impl From<Backup> for Listed {
    /// A backup without the rest of its list.
    fn from(backup: Backup) -> Self {
        Self {
            condition: Condition::of(&backup, Clock::new(Utc::now(), None)),
            protection: None,
            backup,
        }
    }
}

/// The part of a list that was read.
#[derive(Default)]
pub(super) struct Pages {
    pub(super) backups: Vec<Backup>,
    /// The pages as Qovery sent them.
    json: Vec<Bytes>,
    /// Whether these are all.
    pub(super) complete: bool,
    /// Qovery's time when it answered the last page.
    pub(super) date: Option<DateTime<Utc>>,
}

/// One more than a list of 2,000 backups has at Qovery's page size.
const MAX_PAGES: usize = 101;

impl Backups {
    /// A database's backups and what the rules say of them: as many as can be read until then, up to the
    /// number that is read for an answer. The first page is waited for as long as the call has time.
    ///
    /// # Errors
    ///
    /// [`Error::Qovery`].
    pub async fn list(
        &self,
        context: &Context,
        database: DatabaseId,
        until: Deadline,
    ) -> Result<Listing, Error> {
        let max = self.inner.limits.read_backups;
        let pages = self.read_pages(context, database, Some(until), max, |_| false);
        let mut listing = self.list_entries(database, pages.await?);
        listing.name = self.name(&context.with_deadline(until), database).await;
        Ok(listing)
    }

    /// One backup, without what the rules say of it. While it is in progress, waits until then for that to
    /// change, and sends to `polls` how often it was read.
    ///
    /// # Errors
    ///
    /// [`Error::NotListed`], [`Error::Qovery`].
    pub async fn watch(
        &self,
        context: &Context,
        (database, backup): (DatabaseId, BackupId),
        until: Deadline,
        polls: &watch::Sender<usize>,
    ) -> Result<Listing, Error> {
        let inner = &self.inner;
        let has_it = |page: &[Backup]| page.iter().any(|listed| listed.id == backup);
        // Qovery allows 1,000 requests an hour, and the last look has to be answered in time.
        let time = until.remaining();
        let mut pauses = [time / 4, time * 5 / 8].into_iter();
        let mut context = context.clone();
        let mut last: Option<Listing> = None;
        loop {
            let max = inner.limits.list_backups;
            let pages = self.read_pages(&context, database, None, max, has_it);
            let mut pages = match (pages.await, last.take()) {
                (Ok(pages), _) => pages,
                // The backup as it was a moment ago is worth more than an error.
                (Err(Error::Qovery(error)), Some(last)) if !context.cancellation.is_cancelled() => {
                    tracing::debug!(%error, "polling a backup failed");
                    return Ok(last);
                }
                (Err(error), _) => return Err(error),
            };
            // What is protected follows from the whole list.
            pages.complete = false;
            let mut listing = self.list_entries(database, pages);
            listing.backups.retain(|listed| listed.backup.id == backup);
            // It is on the last page: the others are not kept while it is waited for.
            listing.json = listing.json.pop().into_iter().collect();
            let Some(listed) = listing.backups.first() else {
                return Err(Error::NotListed { database, backup });
            };
            let in_progress = listed.condition == Condition::InProgress;
            context = context.with_deadline(until);
            listing.name = self.name(&context, database).await;
            let has_time = |pause: &_| in_progress && *pause < context.deadline.remaining();
            let Some(pause) = pauses.next().filter(has_time) else {
                return Ok(listing);
            };
            polls.send_modify(|polls| *polls += 1);
            tokio::select! {
                biased;
                () = context.cancellation.cancelled() => {
                    return Err(qovery::Error::harmless(Failure::Cancelled).into());
                }
                () = inner.shutdown.no_retries.cancelled() => return Ok(listing),
                () = sleep(pause) => {}
            }
            last = Some(listing);
        }
    }

    /// Reads a list page by page: to its end, until it has `max` backups, or until what was read `is_enough`.
    /// A list whose pages repeat is never complete. With `until`, it ends with what was read until then, or
    /// what a list may hold.
    pub(super) async fn read_pages(
        &self,
        context: &Context,
        database: DatabaseId,
        until: Option<Deadline>,
        max: usize,
        is_enough: impl Fn(&[Backup]) -> bool,
    ) -> Result<Pages, Error> {
        let mut list = Pages::default();
        let (mut seen, mut bytes, mut next) = (HashSet::new(), 0, None);
        for number in 0..MAX_PAGES {
            let page = self.inner.qovery.list_backups(database, next, context);
            let page = match until.filter(|_| number > 0) {
                Some(until) => timeout_at(until.at(), page).await.ok(),
                None => Some(page.await),
            };
            let page = match page {
                Some(Ok(page)) => page,
                Some(Err(error)) => match error.failure {
                    // The backup after which this page begins was removed meanwhile.
                    Failure::Answered { status: 404, .. } if number > 0 => break,
                    _ => return Err(error.into()),
                },
                None => break,
            };
            bytes += page.json.len();
            if bytes > self.inner.limits.list_bytes {
                if until.is_some() {
                    break;
                }
                return Err(qovery::Error::harmless(Failure::TooLarge).into());
            }
            list.date = page.date.map(|(date, _)| date);
            next = page.value.next_start_id();
            let mut results = page.value.results;
            let received = results.len();
            results.retain(|backup| seen.len() < max && seen.insert(backup.id));
            let is_cut = results.len() < received;
            list.backups.append(&mut results);
            list.json.push(page.json);
            if next.is_none() || is_cut || is_enough(&list.backups) {
                list.complete = next.is_none() && !is_cut;
                break;
            }
        }
        Ok(list)
    }

    /// The backups of pages, the newest first, with what the rules say of them.
    fn list_entries(&self, database: DatabaseId, list: Pages) -> Listing {
        let now = Utc::now();
        let skew = list.date.map(|date| (date - now).abs());
        let clock_skew = skew.filter(|skew| *skew > TimeDelta::minutes(5));
        if let (Some(_), Some(qovery)) = (clock_skew, list.date) {
            tracing::warn!(%qovery, here = %now, "the clocks of Qovery and of this machine differ");
        }
        let clock = Clock::new(now, list.date);
        let assessments = guard::assess(&list.backups, self.inner.policy.keep_latest, clock);
        let rows = list.backups.into_iter().zip(assessments);
        let rows = rows.map(|(backup, assessment)| Listed {
            protection: assessment.protection.filter(|_| list.complete),
            ..Listed::new(backup, assessment)
        });
        let mut backups: Vec<_> = rows.collect();
        backups.sort_by_cached_key(|listed| Reverse(guard::date(&listed.backup, now).ok()));
        Listing {
            database,
            name: None,
            now,
            backups,
            complete: list.complete,
            clock_skew,
            json: list.json,
        }
    }
}
