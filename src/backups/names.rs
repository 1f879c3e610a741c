//! Names of databases, for people and models. No rule depends on a name.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::{Backups, Error};
use crate::{
    context::{Context, Deadline},
    qovery::{self, DatabaseId, Failure, Scheme, Service},
    text,
};

/// Recent look-ups, cached. Clones of a name share it.
#[derive(Debug, Default)]
pub(super) struct DatabaseNames {
    /// The names by database.
    names: Mutex<HashMap<DatabaseId, Cached>>,
    /// Until when look-ups by name count as denied to the key.
    denied_until: Mutex<Option<Instant>>,
}

/// When it expires, and the name, if it is known.
type Cached = (Instant, Option<Arc<str>>);

/// The databases that a look-up by name found.
#[derive(Debug)]
pub struct Found {
    /// Those of that name, or, if there are none, those of a similar name.
    pub databases: Vec<Service>,
    /// Whether they have that very name.
    pub exactly: bool,
}

/// Names in the cache.
const MAX_NAMES: usize = 1024;
/// How long a look-up is not repeated after it failed otherwise than by being denied.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// Of the similarities of names: the same name, one that contains the other, and the lowest one (by
/// Jaro-Winkler) that is shown.
const SAME: f64 = 2.0;
const CONTAINED: f64 = 1.0;
const SIMILAR: f64 = 0.85;

impl Backups {
    /// A database's name, from the cache or by a look-up within a short time.
    pub async fn name(&self, context: &Context, database: DatabaseId) -> Option<Arc<str>> {
        let (inner, limits) = (&self.inner, &self.inner.limits);
        let now = Instant::now();
        {
            let mut names = inner.names.names.lock();
            if let Some((expires, name)) = names.get(&database)
                && *expires > now
            {
                return name.clone();
            }
            names.retain(|_, (expires, _)| *expires > now);
            if names.len() >= MAX_NAMES {
                return None;
            }
            // Of many calls at once, one looks it up; the others go on without a name.
            names.insert(database, (now + limits.name_lookup, None));
        }
        let time = limits.name_lookup.min(context.deadline.remaining());
        let context = context.with_deadline(Deadline::after(time));
        let answer = timeout(time, inner.qovery.database(database, &context)).await;
        let (ttl, name) = match answer {
            Ok(Ok(known)) => (limits.name_ttl, Some(text::excerpt(&known.name).into())),
            Ok(Err(error)) if is_denied(&error) => (limits.name_ttl, None),
            _ => (RETRY_PAUSE, None),
        };
        let mut names = inner.names.names.lock();
        names.insert(database, (now + ttl, name.clone()));
        name
    }

    /// The databases of that name, or, if there are none, of a similar one.
    ///
    /// # Errors
    ///
    /// [`Error::LookupDenied`], [`Error::Qovery`].
    pub async fn find(&self, context: &Context, name: &str) -> Result<Found, Error> {
        let inner = &self.inner;
        let denied_until = *inner.names.denied_until.lock();
        if denied_until.is_some_and(|until| until > Instant::now()) {
            return Err(Error::LookupDenied);
        }
        let failed = |error: qovery::Error| {
            if is_denied(&error) {
                let until = Instant::now() + inner.limits.name_ttl;
                *inner.names.denied_until.lock() = Some(until);
                Error::LookupDenied
            } else {
                error.into()
            }
        };
        let organizations = inner.qovery.organizations(context).await.map_err(failed)?;
        let wanted = name.to_lowercase();
        let mut found = Vec::new();
        let (mut denied, mut is_allowed) = (None, false);
        for organization in organizations {
            match inner.qovery.services(organization.id, context).await {
                Ok(services) => {
                    is_allowed = true;
                    let services = services.value.results.into_iter();
                    found.extend(services.filter_map(|service| compare(service, &wanted)));
                }
                // A key may be limited to some of the organizations that it sees.
                Err(error) if is_denied(&error) => denied = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(error) = denied.filter(|_| !is_allowed) {
            return Err(failed(error));
        }
        found.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        let exactly = found.first().is_some_and(|(best, _)| *best >= SAME);
        found.retain(|(similarity, _)| !exactly || *similarity >= SAME);
        Ok(Found {
            databases: found.into_iter().map(|(_, database)| database).collect(),
            exactly,
        })
    }
}

/// A database with the similarity of its name to the lower-case `wanted` one, if it is similar at all.
fn compare(service: Service, wanted: &str) -> Option<(f64, Service)> {
    let name = text::excerpt(&service.name);
    let known = name.to_lowercase();
    let (shorter, longer) = (known.len().min(wanted.len()), known.len().max(wanted.len()));
    if service.service_type != "DATABASE" || shorter == 0 {
        return None;
    }
    let similarity = if known == wanted {
        SAME
    } else if known.contains(wanted) || wanted.contains(&known) {
        CONTAINED
    } else if longer <= 2 * shorter {
        strsim::jaro_winkler(&known, wanted)
    } else {
        0.0
    };
    let database = Service {
        name,
        project_name: text::excerpt(&service.project_name),
        environment_name: text::excerpt(&service.environment_name),
        ..service
    };
    (similarity > SIMILAR).then_some((similarity, database))
}

/// Whether the key may not do this. A policy token is answered 401 for it.
fn is_denied(error: &qovery::Error) -> bool {
    matches!(
        error.failure,
        Failure::Unauthorized(Scheme::Policy) | Failure::Forbidden { .. }
    )
}
