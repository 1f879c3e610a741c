//! An upstream that records what it was asked, what was changed and on whose behalf, and what is left.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use uuid::Uuid;

use super::Reply;
use crate::app::{TEST_TIMEOUT, TestApp};

/// Qovery's page size.
const PAGE: usize = 20;

/// The state of a backup that can be restored from.
pub(crate) const GOOD: &str = "READY";
pub(crate) const FAILED: &str = "DEPLOYMENT_ERROR";
pub(crate) const QUEUED: &str = "QUEUED";
pub(crate) const DELETING: &str = "DELETING";

/// The id of a test's own database.
pub(crate) fn database(number: usize) -> String {
    format!("0de50000-0000-4000-8000-{number:012}")
}

/// The `traceparent` of a call, by which the ledger attributes requests to it.
pub(crate) fn trace(call: usize) -> String {
    assert_ne!(call, 0, "there is no such trace");
    format!("00-{call:032x}-00000000000000aa-01")
}

/// A backup in the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) message: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) state: &'static str,
}

impl Entry {
    pub(crate) fn new(name: &str, message: &str, created_at: DateTime<Utc>) -> Self {
        Self {
            id: Uuid::new_v4().to_string(),
            name: name.to_owned(),
            message: message.to_owned(),
            created_at,
            state: GOOD,
        }
    }

    /// As Qovery writes it, with fields that no program knows.
    pub(crate) fn json(&self) -> Value {
        let created_at = self.created_at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        json!({
            "id": self.id,
            "created_at": created_at,
            "updated_at": created_at,
            "name": self.name,
            "message": self.message,
            "size_of_tomorrow": { "gb": 1.5 },
            "status": {
                "state": self.state,
                "last_deployment_date": created_at,
                "steps": { "total_duration_sec": 42, "details": [{ "step_name": "EXECUTING" }] },
            },
        })
    }
}

/// A request to the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) database: String,
    pub(crate) backup: Option<String>,
    start: Option<String>,
    /// How many requests with this method there were before, for this database.
    pub(crate) number: usize,
    /// The call that caused it, if it had the header of [`trace`].
    pub(crate) call: Option<usize>,
    /// Its `Authorization`.
    pub(crate) key: String,
    body: Value,
}

impl Received {
    pub(crate) fn is(&self, method: &str) -> bool {
        self.method == method
    }

    pub(crate) fn is_change(&self) -> bool {
        !self.is("GET")
    }
}

/// A change that was made.
#[derive(Clone, Debug)]
pub(crate) struct Effect {
    pub(crate) call: Option<usize>,
    pub(crate) database: String,
    pub(crate) removed: bool,
    pub(crate) backup: Entry,
}

/// How the ledger treats a request.
#[derive(Clone)]
pub(crate) struct Behavior {
    /// What happens to the database when the request arrives.
    pub(crate) meanwhile: Option<Arc<Mutation>>,
    /// Before what was asked for happens.
    pub(crate) delay: Duration,
    pub(crate) action: Action,
    pub(crate) response: Response,
    /// The upstream's clock, where it differs from the real time.
    pub(crate) clock: Option<DateTime<Utc>>,
    /// Whether the answer has a `Date`.
    pub(crate) dated: bool,
    /// The state of a new backup.
    pub(crate) state: &'static str,
}

/// What is done of what was asked for.
#[derive(Clone)]
pub(crate) enum Action {
    /// It is done before the answer.
    Apply,
    /// It is never done.
    Skip,
    /// It is done this long after it was asked for, whatever is answered in the meantime.
    Late(Duration),
    /// Something else is done to the database, after the answer is made up.
    Instead(Arc<Mutation>),
}

pub(crate) type Mutation = dyn Fn(&mut Vec<Entry>, DateTime<Utc>) + Send + Sync;

/// What is answered.
#[derive(Clone)]
pub(crate) enum Response {
    True,
    /// The first half of the true answer.
    Half,
    Other(Reply),
}

impl Default for Behavior {
    /// Does what was asked for, and says so.
    fn default() -> Self {
        Self {
            meanwhile: None,
            delay: Duration::ZERO,
            action: Action::Apply,
            response: Response::True,
            clock: None,
            dated: true,
            state: GOOD,
        }
    }
}

impl Behavior {
    pub(crate) fn new(action: Action, response: Response) -> Self {
        Self {
            action,
            response,
            ..Self::default()
        }
    }
}

impl Action {
    pub(crate) fn instead(
        mutation: impl Fn(&mut Vec<Entry>, DateTime<Utc>) + Send + Sync + 'static,
    ) -> Self {
        Self::Instead(Arc::new(mutation))
    }
}

/// The upstream.
#[derive(Clone)]
pub(crate) struct Ledger {
    address: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    behavior: Box<dyn Fn(&Received) -> Behavior + Send + Sync>,
    received: watch::Sender<usize>,
    /// Open connections, and changes that are still to be made.
    busy: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    databases: HashMap<String, Vec<Entry>>,
    effects: Vec<Effect>,
    requests: Vec<Received>,
    violations: Vec<String>,
}

impl Ledger {
    /// Starts one that treats each request as `behavior` says.
    pub(crate) async fn start(
        behavior: impl Fn(&Received) -> Behavior + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            state: Mutex::default(),
            behavior: Box::new(behavior),
            received: watch::Sender::new(0),
            busy: watch::Sender::new(0),
        });
        let shared = Arc::clone(&inner);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let busy = Busy::new(&shared);
                tokio::spawn(async move {
                    // The peer may break the connection.
                    let _ = busy.0.serve(stream).await;
                });
            }
        });
        Self { address, inner }
    }

    /// Starts one that does what it is asked for.
    pub(crate) async fn obedient() -> Self {
        Self::start(|_| Behavior::default()).await
    }

    /// The program with this upstream.
    pub(crate) fn app(&self) -> TestApp {
        TestApp::with_upstream(&self.url())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Opens a database with backups in these states, from the oldest to the newest, an hour apart.
    pub(crate) fn open(&self, database: &str, states: &[&'static str]) -> Vec<Entry> {
        let now = Utc::now();
        let ages = (1..=states.len()).rev();
        let entries = states.iter().zip(ages).map(|(state, age)| {
            let age = TimeDelta::hours(i64::try_from(age).unwrap());
            let entry = Entry::new(&format!("{age} old"), "", now - age);
            Entry { state, ..entry }
        });
        let entries: Vec<Entry> = entries.collect();
        self.put(database, entries.clone());
        entries
    }

    /// Opens a database with these backups.
    pub(crate) fn put(&self, database: &str, entries: Vec<Entry>) {
        let mut state = self.inner.state.lock().unwrap();
        state.databases.insert(database.to_owned(), entries);
    }

    /// The backups that a database has now.
    pub(crate) fn backups(&self, database: &str) -> Vec<Entry> {
        let state = self.inner.state.lock().unwrap();
        state.databases.get(database).cloned().unwrap_or_default()
    }

    pub(crate) fn has(&self, database: &str, id: &str) -> bool {
        self.backups(database).iter().any(|entry| entry.id == id)
    }

    /// Every change that was made.
    pub(crate) fn effects(&self) -> Vec<Effect> {
        self.inner.state.lock().unwrap().effects.clone()
    }

    pub(crate) fn requests(&self) -> Vec<Received> {
        self.inner.state.lock().unwrap().requests.clone()
    }

    /// Removals that a rule of the server forbids.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.inner.state.lock().unwrap().violations.clone()
    }

    /// Waits until it has received this many requests.
    pub(crate) async fn received(&self, count: usize) {
        let mut received = self.inner.received.subscribe();
        let enough = received.wait_for(|received| *received >= count);
        timeout(TEST_TIMEOUT, enough).await.unwrap().unwrap();
    }

    /// Waits until no connection is open and everything is done.
    pub(crate) async fn idle(&self) {
        let mut busy = self.inner.busy.subscribe();
        let idle = busy.wait_for(|busy| *busy == 0);
        timeout(TEST_TIMEOUT, idle).await.unwrap().unwrap();
    }
}

/// Counts as busy until it is dropped.
struct Busy(Arc<Inner>);

impl Busy {
    fn new(inner: &Arc<Inner>) -> Self {
        inner.busy.send_modify(|busy| *busy += 1);
        Self(Arc::clone(inner))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|busy| *busy -= 1);
    }
}

impl Inner {
    async fn serve(self: &Arc<Self>, stream: TcpStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        while let Some(mut request) = read_request(&mut stream).await? {
            self.state.lock().unwrap().record(&mut request);
            let behavior = (self.behavior)(&request);
            if let Some(mutation) = &behavior.meanwhile {
                let databases = &mut self.state.lock().unwrap().databases;
                mutation(databases.get_mut(&request.database).unwrap(), Utc::now());
            }
            self.received.send_modify(|received| *received += 1);
            if !behavior.delay.is_zero() {
                sleep(behavior.delay).await;
            }
            let answer = self.state.lock().unwrap().answer(&request, &behavior);
            if let Action::Late(delay) = behavior.action {
                let busy = Busy::new(self);
                let late = Behavior {
                    action: Action::Apply,
                    ..behavior.clone()
                };
                tokio::spawn(async move {
                    sleep(delay).await;
                    busy.0.state.lock().unwrap().answer(&request, &late);
                });
            }
            match behavior.response {
                Response::True => stream.write_all(&answer).await?,
                Response::Half => return stream.write_all(&answer[..answer.len() / 2]).await,
                Response::Other(Reply::Bytes(bytes)) => return stream.write_all(&bytes).await,
                Response::Other(Reply::Reset) => return stream.get_ref().set_zero_linger(),
                Response::Other(_) => {
                    // Until the peer closes the connection.
                    let _ = stream.read_u8().await;
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

type Answer = (&'static str, Value);

impl State {
    fn record(&mut self, request: &mut Received) {
        let mut earlier = self.requests.iter().rev();
        let same = earlier
            .find(|other| other.database == request.database && other.method == request.method);
        request.number = same.map_or(0, |same| same.number + 1);
        self.requests.push(request.clone());
    }

    /// Does what the behavior lets be done, and returns the true answer.
    fn answer(&mut self, request: &Received, behavior: &Behavior) -> Vec<u8> {
        let now = behavior.clock.unwrap_or_else(Utc::now);
        let (status, body) = if request.is("GET") || matches!(behavior.action, Action::Apply) {
            self.apply(request, behavior.state, now)
        } else {
            ("202 Accepted", Value::Null)
        };
        if let Action::Instead(mutation) = &behavior.action {
            let entries = self.databases.entry(request.database.clone());
            mutation(entries.or_default(), now);
        }
        let date = now.format("Date: %a, %d %b %Y %H:%M:%S GMT\r\n");
        let date = if behavior.dated {
            date.to_string()
        } else {
            String::new()
        };
        let (kind, body) = match body {
            Value::Null => ("", String::new()),
            body => (super::JSON, body.to_string()),
        };
        let length = match status {
            "204 No Content" => String::new(),
            _ => format!("Content-Length: {}\r\n", body.len()),
        };
        format!("HTTP/1.1 {status}\r\n{date}{kind}{length}\r\n{body}").into_bytes()
    }

    fn apply(&mut self, request: &Received, state: &'static str, now: DateTime<Utc>) -> Answer {
        let not_found = (
            "404 Not Found",
            json!({ "status": 404, "message": "Resource not found" }),
        );
        let Some(entries) = self.databases.get_mut(&request.database) else {
            return not_found;
        };
        let effect = |removed, backup: &Entry| Effect {
            call: request.call,
            database: request.database.clone(),
            removed,
            backup: backup.clone(),
        };
        match (request.method.as_str(), &request.backup) {
            ("GET", _) => page_of(entries, request.start.as_deref()).unwrap_or(not_found),
            ("POST", _) => {
                let text = |field: &str| request.body[field].as_str().unwrap().to_owned();
                let mut entry = Entry::new(&text("name"), &text("message"), now);
                entry.state = state;
                self.effects.push(effect(false, &entry));
                entries.push(entry.clone());
                ("201 Created", entry.json())
            }
            ("DELETE", Some(id)) => {
                let Some(position) = entries.iter().position(|entry| entry.id == *id) else {
                    return not_found;
                };
                if let Some(rule) = broken_rule(entries, id) {
                    let violation = format!("{request:?} takes the {rule} of {entries:#?}");
                    self.violations.push(violation);
                }
                let entry = entries.remove(position);
                self.effects.push(effect(true, &entry));
                ("204 No Content", Value::Null)
            }
            _ => ("405 Method Not Allowed", Value::Null),
        }
    }
}

/// The page after `start`, the newest first.
fn page_of(entries: &[Entry], start: Option<&str>) -> Option<Answer> {
    let mut newest_first: Vec<&Entry> = entries.iter().collect();
    newest_first.sort_by_key(|entry| std::cmp::Reverse((entry.created_at, &entry.id)));
    let start = match start {
        None => 0,
        Some(id) => newest_first.iter().position(|entry| entry.id == id)? + 1,
    };
    let results = newest_first.into_iter().skip(start).take(PAGE);
    let results: Vec<Value> = results.map(Entry::json).collect();
    let page = json!({ "page": start / PAGE + 1, "page_size": PAGE, "results": results });
    Some(("200 OK", page))
}

/// The rule of a server that keeps one backup, which the removal of this one breaks.
fn broken_rule(entries: &[Entry], id: &str) -> Option<&'static str> {
    let newest = |of: fn(&Entry) -> bool| {
        let entries = entries.iter().filter(|entry| of(entry));
        entries.max_by_key(|entry| (entry.created_at, &entry.id))
    };
    let good = newest(|entry| entry.state == GOOD);
    let kept = good.or_else(|| newest(|entry| entry.state != DELETING));
    let mut queued = entries.iter().filter(|entry| entry.state == QUEUED);
    if kept.is_some_and(|entry| entry.id == id) {
        Some("newest good backup, or the last one")
    } else if queued.any(|entry| entry.id == id) {
        Some("backup in progress")
    } else {
        None
    }
}

/// Reads a request; none at the end of the connection.
async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Received>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let mut line = head.split(' ');
    let (method, target) = (line.next().unwrap(), line.next().unwrap());
    let (path, start) = match target.split_once("?startId=") {
        Some((path, start)) => (path, Some(start.to_owned())),
        None => (target, None),
    };
    let mut segments = path.split('/').skip(2).map(str::to_owned);
    Ok(Some(Received {
        method: method.to_owned(),
        database: segments.next().unwrap(),
        backup: segments.nth(1),
        start,
        number: 0,
        call: header("traceparent").map(|trace| usize::from_str_radix(&trace[3..35], 16).unwrap()),
        key: header("authorization").unwrap().to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }))
}
