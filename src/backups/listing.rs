//! Listing: the whole list where one answer holds it, with what the rules say of each backup.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::{sync::watch, time::sleep};

use super::{Backups, Condition, Error, Inner, Obstacle, Protection, guard};
use crate::{
    context::Context,
    qovery::{self, Answered, Backup, BackupId, BackupPage, DatabaseId, Failure},
};

/// The backups of a database, or as many as one answer holds.
#[derive(Debug)]
pub struct Listing {
    /// The database.
    pub database: DatabaseId,
    /// What it is called, where that can be had.
    pub name: Option<Arc<str>>,
    /// The moment by which ages and rules were told.
    pub now: DateTime<Utc>,
    /// The backups, the newest first.
    pub backups: Vec<Listed>,
    /// Whether these are all that the database has.
    pub whole: bool,
    /// Whether none comes after these.
    pub complete: bool,
    /// The last backup in Qovery's own order, if more come after it.
    pub next: Option<BackupId>,
}

/// A backup, and what the rules say of it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The backup.
    pub backup: Backup,
    /// How far it is.
    pub condition: Condition,
    /// The rule that protects it, if the whole list is known and one does.
    pub protection: Option<Protection>,
    /// All that Qovery says of its status, where that was asked for.
    pub status: Option<Value>,
}

impl From<Backup> for Listed {
    /// A backup of which nothing else is known.
    fn from(backup: Backup) -> Self {
        Self {
            condition: Condition::of(&backup),
            protection: None,
            status: None,
            backup,
        }
    }
}

/// Pages of a list, as far as they were read.
pub(super) struct Read {
    pub(super) pages: Vec<Answered<BackupPage>>,
    /// The last backup that was read, if more come after it.
    pub(super) next: Option<BackupId>,
    /// Whether none comes after these.
    pub(super) complete: bool,
}

impl Backups {
    /// A database's backups and what the rules say of them: from the beginning or after `start_id`, up to
    /// the number that one list shows. With all of their status, if `verbose`.
    ///
    /// # Errors
    ///
    /// [`Error::Qovery`].
    pub async fn list(
        &self,
        context: &Context,
        database: DatabaseId,
        start_id: Option<BackupId>,
        verbose: bool,
    ) -> Result<Listing, Error> {
        let inner = &self.inner;
        let most = inner.limits().listed;
        let read = inner
            .pages(context, database, start_id, most, |_| false)
            .await?;
        let name = inner.name(context, database).await;
        Ok(inner.told(database, name, read, start_id.is_none(), verbose))
    }

    /// One backup; while it is being made, this waits up to 20 seconds for that to change. `looked` is
    /// told how often it was looked at so far.
    ///
    /// # Errors
    ///
    /// [`Error::Obstructed`] if it is not listed, [`Error::ListIncomplete`] if it may be; [`Error::Qovery`].
    pub async fn watch(
        &self,
        context: &Context,
        (database, backup): (DatabaseId, BackupId),
        verbose: bool,
        looked: &watch::Sender<usize>,
    ) -> Result<Listing, Error> {
        let inner = &self.inner;
        let has_it = |page: &BackupPage| page.results.iter().any(|listed| listed.id == backup);
        let mut pauses = inner.limits().poll_intervals.into_iter();
        let mut seen: Option<Listing> = None;
        loop {
            let pages = inner.pages(context, database, None, inner.limits().list_backups, has_it);
            let pages = match (pages.await, seen.take()) {
                (Ok(pages), _) => pages,
                // What was seen a moment ago says more than that the next look failed.
                (Err(Error::Qovery(error)), Some(seen)) if !context.cancellation.is_cancelled() => {
                    tracing::debug!(%error, "a look at a backup failed");
                    return Ok(seen);
                }
                (Err(error), _) => return Err(error),
            };
            let mut listing = inner.told(database, None, pages, true, verbose);
            listing.backups.retain(|listed| listed.backup.id == backup);
            let Some(listed) = listing.backups.first() else {
                if !listing.complete {
                    return Err(Error::ListIncomplete { database });
                }
                return Err(Error::Obstructed {
                    database,
                    wanted: 1,
                    obstacles: vec![(backup, Obstacle::NotListed)],
                });
            };
            listing.name = inner.name(context, database).await;
            let pause = pauses
                .next()
                .filter(|pause| *pause < context.deadline.remaining());
            let Some(pause) = pause.filter(|_| listed.condition == Condition::InProgress) else {
                return Ok(listing);
            };
            looked.send_modify(|looks| *looks += 1);
            tokio::select! {
                biased;
                () = context.cancellation.cancelled() => {
                    return Err(qovery::Error::harmless(Failure::Cancelled).into());
                }
                () = inner.shutdown().no_retries.cancelled() => return Ok(listing),
                () = sleep(pause) => {}
            }
            seen = Some(listing);
        }
    }
}

/// One more than a list of 2,000 backups has at Qovery's page size.
const MAX_PAGES: usize = 101;

impl Inner {
    /// Reads a list page by page: to its end, until it has `most` backups, or to the page that is
    /// `enough`. A list whose pages repeat has no end.
    pub(super) async fn pages(
        &self,
        context: &Context,
        database: DatabaseId,
        start_id: Option<BackupId>,
        most: usize,
        enough: impl Fn(&BackupPage) -> bool,
    ) -> Result<Read, Error> {
        let mut read = Read {
            pages: Vec::new(),
            next: start_id,
            complete: false,
        };
        let (mut seen, mut bytes) = (HashSet::new(), 0);
        for _ in 0..MAX_PAGES {
            let before = read.next;
            let page = self.qovery.list_backups(database, before, context);
            let mut page = match page.await {
                Ok(page) => page,
                // The backup after which it should begin went meanwhile.
                Err(error)
                    if !read.pages.is_empty()
                        && matches!(error.failure, Failure::NotFound { .. }) =>
                {
                    read.next = None;
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            bytes += page.json.len();
            if bytes > self.limits().list_bytes {
                return Err(qovery::Error::harmless(Failure::TooLarge).into());
            }
            read.next = page.value.next_start_id();
            let results = &mut page.value.results;
            let room = most - seen.len();
            let is_full = results.len() > room;
            if is_full {
                results.truncate(room);
                read.next = results.last().map(|backup| backup.id).or(before);
            }
            let number = results.len();
            results.retain(|backup| seen.insert(backup.id));
            let repeats = results.len() < number;
            if repeats {
                read.next = None;
            }
            let is_over = read.next.is_none() || is_full || enough(&page.value);
            read.pages.push(page);
            if is_over {
                read.complete = read.next.is_none() && !repeats;
                break;
            }
        }
        Ok(read)
    }

    fn told(
        &self,
        database: DatabaseId,
        name: Option<Arc<str>>,
        read: Read,
        from_the_beginning: bool,
        verbose: bool,
    ) -> Listing {
        let now = Utc::now();
        let whole = from_the_beginning && read.complete;
        let mut backups = Vec::new();
        let mut statuses = HashMap::new();
        for page in read.pages {
            if verbose {
                let mut sent = page.whole();
                let sent = sent["results"].as_array_mut().into_iter().flatten();
                statuses.extend(sent.filter_map(|backup| {
                    let id = backup["id"].as_str()?.parse::<BackupId>().ok()?;
                    Some((id, backup["status"].take()))
                }));
            }
            backups.extend(page.value.results);
        }
        let protections = if whole {
            guard::protections(&backups, self.policy.keep_latest, now)
        } else {
            vec![None; backups.len()]
        };
        let mut backups: Vec<_> = backups
            .into_iter()
            .zip(protections)
            .map(|(backup, protection)| Listed {
                protection,
                status: statuses.remove(&backup.id),
                ..backup.into()
            })
            .collect();
        backups.sort_by_cached_key(|listed| Reverse(guard::date(&listed.backup, now).ok()));
        Listing {
            database,
            name,
            now,
            backups,
            whole,
            complete: read.complete,
            next: read.next,
        }
    }
}
