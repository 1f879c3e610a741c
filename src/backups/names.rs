//! Names of databases, for people and models. No rule depends on a name.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use super::{Backups, Error};
use crate::{
    context::{Context, Deadline},
    credentials::KeyId,
    limits::Limits,
    qovery::{self, DatabaseId, Service},
    recent::Recent,
    text,
};

/// Recent look-ups, so that a caller in a loop sends few requests: by the caller's key, where it brings one.
#[derive(Debug, Default)]
pub(super) struct DatabaseNames {
    /// By database: when each expires, and the name, if it is known.
    names: Remembered<DatabaseId, Option<Arc<str>>>,
    /// By a name in lower case: when each expires, and what was found.
    found: Remembered<String, Arc<Result<Found, Error>>>,
    denied: Recent<Option<KeyId>, Denied>,
}

/// By key and subject.
type Remembered<K, V> = HashMap<(Option<KeyId>, K), (Instant, V)>;

/// Whether the key was denied a look-up before, and until when none is sent.
#[derive(Debug, Default)]
struct Denied {
    is_repeated: bool,
    until: Option<Instant>,
}

/// The databases that a look-up by name found.
#[derive(Debug)]
pub struct Found {
    /// The first ten of those that fit equally well.
    pub databases: Vec<Service>,
    /// Whether they have that very name, or that name and the named environment or project.
    pub exactly: bool,
}

/// More would not help to choose.
const MAX_FOUND: usize = 10;
/// Entries of each cache.
const MAX_NAMES: usize = 1_000;

impl Backups {
    /// A database's name, from the cache or by a look-up within a short time.
    pub async fn name(&self, context: &Context, database: DatabaseId) -> Option<Arc<str>> {
        let (inner, limits) = (&self.inner, &self.inner.limits);
        let (now, key) = (Instant::now(), (context.key_id(), database));
        {
            let mut cache = inner.names.lock();
            let names = &mut cache.names;
            if let Some((expires, name)) = names.get(&key)
                && *expires > now
            {
                return name.clone();
            }
            names.retain(|_, (expires, _)| *expires > now);
            if names.len() >= MAX_NAMES || cache.denied(context).applies(now) {
                return None;
            }
            // Of many calls at once, one looks it up; the others go on without a name.
            let expires = now + limits.name_lookup;
            cache.names.insert(key, (expires, None));
        }
        let time = limits.name_lookup.min(context.deadline.remaining());
        let context = context.with_deadline(Deadline::after(time));
        let known = inner.qovery.database(database, &context).await;
        let mut cache = inner.names.lock();
        if known.as_ref().is_err_and(is_denied) {
            cache.denied(&context).record(now, limits);
        }
        let name: Option<Arc<str>> = known.ok().map(|known| text::excerpt(&known.name).into());
        let expires = now + limits.name_ttl;
        cache.names.insert(key, (expires, name.clone()));
        name
    }

    /// The databases that a name may mean, from the cache or by a look-up. Upper and lower case are equal.
    ///
    /// Those of that name; or those whose name is in the text beside the name of their environment or
    /// project; or those whose name contains the text or is contained in it.
    ///
    /// # Errors
    ///
    /// [`Error::LookupDenied`], [`Error::Qovery`].
    pub async fn find(&self, context: &Context, name: &str) -> Arc<Result<Found, Error>> {
        let (inner, limits) = (&self.inner, &self.inner.limits);
        let now = Instant::now();
        let key = (context.key_id(), name.to_lowercase());
        {
            let mut cache = inner.names.lock();
            if cache.denied(context).applies(now) {
                return Arc::new(Err(Error::LookupDenied));
            }
            cache.found.retain(|_, (expires, _)| *expires > now);
            if let Some((_, found)) = cache.found.get(&key) {
                return Arc::clone(found);
            }
        }
        let found = Arc::new(self.look_up(context, &key.1).await);
        let mut cache = inner.names.lock();
        match &*found {
            Err(Error::LookupDenied) => cache.denied(context).record(now, limits),
            // A cancelled look-up says nothing of Qovery.
            _ if context.cancellation.is_cancelled() || cache.found.len() >= MAX_NAMES => {}
            _ => {
                let expires = Instant::now() + limits.name_ttl;
                cache.found.insert(key, (expires, Arc::clone(&found)));
            }
        }
        found
    }

    /// The databases that the key can see, and how many organizations it may not look into.
    pub(super) async fn databases(
        &self,
        context: &Context,
    ) -> Result<(Vec<Service>, usize), Error> {
        let qovery = &self.inner.qovery;
        let organizations = match qovery.organizations(context).await {
            Err(error) if is_denied(&error) => return Err(Error::LookupDenied),
            organizations => organizations?,
        };
        let (number, mut denied) = (organizations.len(), 0);
        let mut databases = Vec::new();
        for organization in organizations {
            match qovery.services(organization.id, context).await {
                Ok(services) => databases.extend(services.into_iter().filter_map(database)),
                // A key may be limited to some of the organizations that it sees.
                Err(error) if is_denied(&error) => denied += 1,
                Err(error) => return Err(error.into()),
            }
        }
        if number > 0 && denied == number {
            return Err(Error::LookupDenied);
        }
        Ok((databases, denied))
    }

    async fn look_up(&self, context: &Context, wanted: &str) -> Result<Found, Error> {
        let (mut databases, _) = self.databases(context).await?;
        let likeness = |database: &Service| likeness(database, wanted);
        let best = databases.iter().map(likeness).max().unwrap_or_default();
        databases.retain(|database| best > 0 && likeness(database) == best);
        databases.truncate(MAX_FOUND);
        Ok(Found {
            databases,
            exactly: best > NEARLY,
        })
    }
}

const NEARLY: usize = 1;

/// How well a text in lower case names a database: not at all, nearly, with one or both of its environment
/// and its project beside its name, or by its name alone.
fn likeness(database: &Service, wanted: &str) -> usize {
    let places = [&database.environment_name, &database.project_name];
    let places = places.map(|place| place.to_lowercase());
    let name = database.name.to_lowercase();
    let words = wanted.split(|c: char| !c.is_alphanumeric() && !"-_.".contains(c));
    let words: Vec<&str> = words.collect();
    let is_beside = |place: &&String| **place != name && words.contains(&place.as_str());
    match places.iter().filter(is_beside).count() {
        _ if name == wanted => NEARLY + 3,
        beside @ 1.. if words.contains(&name.as_str()) => NEARLY + beside,
        _ => usize::from(name.contains(wanted) || wanted.contains(&name)),
    }
}

impl DatabaseNames {
    fn denied(&mut self, context: &Context) -> &mut Denied {
        self.denied.of(context.key_id(), Denied::default)
    }
}

impl Denied {
    fn applies(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    /// Look-ups pause shortly after the first denial and for long after each other: a key seldom changes.
    fn record(&mut self, now: Instant, limits: &Limits) {
        // Those that were sent at the same time count once.
        if self.applies(now) {
            return;
        }
        self.until = Some(now + limits.denial_pauses[usize::from(self.is_repeated)]);
        self.is_repeated = true;
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_place_beside_a_name_narrows() {
        let databases = [
            ("orders", "production", "shop"),
            ("orders", "staging", "shop"),
            ("orders-eu", "staging", "orders"),
        ]
        .map(|(name, environment, project)| {
            let id = "0de50000-0000-4000-8000-000000000001";
            let service = json!({
                "id": id, "name": name, "service_type": "DATABASE", "project_name": project,
                "environment_name": environment,
            });
            serde_json::from_value::<Service>(service).unwrap()
        });
        for (wanted, expected) in [
            ("orders", [4, 4, 1]),
            ("orders in staging", [1, 2, 0]),
            ("orders (staging)", [1, 2, 0]),
            ("staging/orders", [1, 2, 0]),
            ("shop: orders, production", [3, 2, 0]),
            ("orders-eu in staging", [1, 1, 2]),
            ("ord", [1, 1, 1]),
            ("orders in test", [1, 1, 0]),
            ("staging", [0, 0, 0]),
        ] {
            let found = databases.each_ref().map(|it| likeness(it, wanted));
            assert_eq!(found, expected, "{wanted}");
        }
    }

    #[test]
    fn a_second_denial_pauses_for_long() {
        let (limits, mut denied) = (Limits::default(), Denied::default());
        let mut now = Instant::now();
        let [first, other] = limits.denial_pauses;
        for pause in [first, other, other] {
            assert!(!denied.applies(now));
            // Two that were sent at once are one denial.
            denied.record(now, &limits);
            denied.record(now, &limits);
            assert!(denied.applies(now + pause.mul_f32(0.99)));
            now += pause;
        }
    }
}
