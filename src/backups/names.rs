//! What databases are called. Names are for people and models: no rule goes by them, and nothing is
//! listed, added or removed for one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::{Backups, Error, Inner};
use crate::{
    context::{Context, Deadline},
    qovery::{self, DatabaseId, Failure, Scheme, Service},
    text,
};

/// What look-ups came to lately. Clones of a name share it.
#[derive(Debug, Default)]
pub(super) struct DatabaseNames {
    /// Names, and databases without one, each until when.
    names: Mutex<HashMap<DatabaseId, Known>>,
    /// Until when nobody asks again whether the key may look up databases by their names.
    denied: Mutex<Option<Instant>>,
}

/// Until when it is known, and the name, if there is one.
type Known = (Instant, Option<Arc<str>>);

/// Databases that are called so.
#[derive(Debug)]
pub struct Found {
    /// Those that are, and where none is, those that nearly are.
    pub databases: Vec<Service>,
    /// Whether their name is the very one that was asked for.
    pub exactly: bool,
}

/// Names that are remembered at once.
const REMEMBERED: usize = 1024;
/// After a look-up that failed otherwise than by being denied.
const SOON: Duration = Duration::from_secs(60);

impl Inner {
    /// A database's name, where it can be had in a short time.
    pub(super) async fn name(&self, context: &Context, database: DatabaseId) -> Option<Arc<str>> {
        let limits = self.limits();
        let now = Instant::now();
        {
            let mut names = self.names.names.lock();
            if let Some((until, name)) = names.get(&database)
                && *until > now
            {
                return name.clone();
            }
            names.retain(|_, (until, _)| *until > now);
            if names.len() >= REMEMBERED {
                return None;
            }
            // Of many calls at once, one asks; the others do without.
            names.insert(database, (now + limits.name_lookup, None));
        }
        let time = limits.name_lookup.min(context.deadline.remaining());
        let soon = context.with_deadline(Deadline::after(time));
        let answer = timeout(time, self.qovery.database(database, &soon)).await;
        let (kept, name) = match answer {
            Ok(Ok(known)) => (limits.name_ttl, Some(text::excerpt(&known.name).into())),
            Ok(Err(error)) if is_denied(&error) => (limits.name_ttl, None),
            _ => (SOON, None),
        };
        let mut names = self.names.names.lock();
        names.insert(database, (now + kept, name.clone()));
        name
    }
}

impl Backups {
    /// The databases that are called so, exactly or nearly.
    ///
    /// # Errors
    ///
    /// [`Error::LookupDenied`], [`Error::Qovery`].
    pub async fn find(&self, context: &Context, name: &str) -> Result<Found, Error> {
        let inner = &self.inner;
        let until = *inner.names.denied.lock();
        if until.is_some_and(|until| until > Instant::now()) {
            return Err(Error::LookupDenied);
        }
        let denied = |error: qovery::Error| {
            if is_denied(&error) {
                let until = Instant::now() + inner.limits().name_ttl;
                *inner.names.denied.lock() = Some(until);
                Error::LookupDenied
            } else {
                error.into()
            }
        };
        let organizations = inner.qovery.organizations(context).await.map_err(denied)?;
        let wanted = name.to_lowercase();
        let mut found = Vec::new();
        let (mut shut, mut open) = (None, false);
        for organization in organizations {
            match inner.qovery.services(organization.id, context).await {
                Ok(services) => {
                    open = true;
                    let services = services.value.results.into_iter();
                    found.extend(services.filter_map(|service| alike(service, &wanted)));
                }
                // A key may be for one of them.
                Err(error) if is_denied(&error) => shut = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(error) = shut.filter(|_| !open) {
            return Err(denied(error));
        }
        found.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        let exactly = found.first().is_some_and(|(likeness, _)| *likeness > 1.0);
        found.retain(|(likeness, _)| !exactly || *likeness > 1.0);
        Ok(Found {
            databases: found.into_iter().map(|(_, found)| found).collect(),
            exactly,
        })
    }
}

/// A database that is called so, or nearly, and how near: 2 for the very name.
fn alike(service: Service, wanted: &str) -> Option<(f64, Service)> {
    let name = text::excerpt(&service.name);
    let known = name.to_lowercase();
    let (shorter, longer) = (known.len().min(wanted.len()), known.len().max(wanted.len()));
    if service.service_type != "DATABASE" || shorter == 0 {
        return None;
    }
    let likeness = if known == wanted {
        2.0
    } else if known.contains(wanted) || wanted.contains(&known) {
        1.0
    } else if longer <= 2 * shorter {
        strsim::jaro_winkler(&known, wanted)
    } else {
        0.0
    };
    let shown = Service {
        name,
        project_name: text::excerpt(&service.project_name),
        environment_name: text::excerpt(&service.environment_name),
        ..service
    };
    (likeness > 0.85).then_some((likeness, shown))
}

/// Whether the key may not do it. A policy token is answered 401 for that.
fn is_denied(error: &qovery::Error) -> bool {
    matches!(
        error.failure,
        Failure::Unauthorized(Scheme::Policy) | Failure::Forbidden { .. }
    )
}
