//! Names of databases, for people and models. No rule depends on a name.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Backups, Error};
use crate::{
    context::{Context, Deadline},
    qovery::{self, DatabaseId, Service},
    text,
};

/// Recent look-ups by database: when each expires, and the name, if it is known.
pub(super) type DatabaseNames = Mutex<HashMap<DatabaseId, (Instant, Option<Arc<str>>)>>;

/// The databases that a look-up by name found.
#[derive(Debug)]
pub struct Found {
    /// Those of that name, or, if there are none, those whose name contains it or is contained in it.
    pub databases: Vec<Service>,
    /// Whether they have that very name.
    pub exactly: bool,
}

/// Names in the cache.
const MAX_NAMES: usize = 1024;
/// How long a look-up is not repeated after it failed otherwise than by being denied.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

impl Backups {
    /// A database's name, from the cache or by a look-up within a short time.
    pub async fn name(&self, context: &Context, database: DatabaseId) -> Option<Arc<str>> {
        let (inner, limits) = (&self.inner, &self.inner.limits);
        let now = Instant::now();
        {
            let mut names = inner.names.lock();
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
        let (ttl, name) = match inner.qovery.database(database, &context).await {
            Ok(known) => (limits.name_ttl, Some(text::excerpt(&known.name).into())),
            Err(error) if is_denied(&error) => (limits.name_ttl, None),
            Err(_) => (RETRY_PAUSE, None),
        };
        let mut names = inner.names.lock();
        names.insert(database, (now + ttl, name.clone()));
        name
    }

    /// The databases of that name, or, if there are none, those whose name contains it or is contained
    /// in it. Upper and lower case are equal.
    ///
    /// # Errors
    ///
    /// [`Error::LookupDenied`], [`Error::Qovery`].
    pub async fn find(&self, context: &Context, name: &str) -> Result<Found, Error> {
        let qovery = &self.inner.qovery;
        let organizations = match qovery.organizations(context).await {
            Err(error) if is_denied(&error) => return Err(Error::LookupDenied),
            organizations => organizations?,
        };
        let mut all_denied = !organizations.is_empty();
        let mut databases = Vec::new();
        for organization in organizations {
            match qovery.services(organization.id, context).await {
                Ok(services) => {
                    all_denied = false;
                    databases.extend(services.into_iter().filter_map(database));
                }
                // A key may be limited to some of the organizations that it sees.
                Err(error) if is_denied(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if all_denied {
            return Err(Error::LookupDenied);
        }
        let wanted = name.to_lowercase();
        let is_same = |database: &Service| database.name.to_lowercase() == wanted;
        let exactly = databases.iter().any(is_same);
        databases.retain(|database| {
            let known = database.name.to_lowercase();
            is_same(database) || !exactly && (known.contains(&wanted) || wanted.contains(&known))
        });
        Ok(Found { databases, exactly })
    }
}

/// A service that is a database, its names sanitized.
fn database(service: Service) -> Option<Service> {
    (service.service_type == "DATABASE").then(|| Service {
        name: text::excerpt(&service.name),
        project_name: text::excerpt(&service.project_name),
        environment_name: text::excerpt(&service.environment_name),
        ..service
    })
}

/// Whether the key may not do this. A policy token is answered 401 for it.
fn is_denied(error: &qovery::Error) -> bool {
    error.failure.facts().kind == "forbidden"
}
