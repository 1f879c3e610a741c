//! An upstream that keeps books: what it was asked, what was changed and on whose behalf, and what is
//! left. And callers of both faces, who are told what became of their calls.

use std::{
    collections::HashMap,
    future::pending,
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

use crate::{
    helpers::{Era, PATIENCE, Reply},
    helpers_http::{Answer, Client, Connection, Request, Server, backups_of},
};

/// Qovery's page size.
const PAGE: usize = 20;

/// Of a backup that can be restored from.
pub(crate) const GOOD: &str = "READY";
pub(crate) const FAILED: &str = "DEPLOYMENT_ERROR";
pub(crate) const QUEUED: &str = "QUEUED";

/// The id of a test's own database.
pub(crate) fn database(number: usize) -> String {
    format!("0de50000-0000-4000-8000-{number:012}")
}

/// A backup in the books.
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
        let created_at = self.created_at.to_rfc3339_opts(SecondsFormat::Micros, true);
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

/// A request, as the upstream reads it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) database: String,
    backup: Option<String>,
    start: Option<String>,
    /// How often the database was asked this method before.
    pub(crate) number: usize,
    /// The call on whose behalf it comes, if that said so with [`trace`].
    pub(crate) call: Option<usize>,
    body: Value,
}

impl Asked {
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

/// How a request fares.
#[derive(Clone)]
pub(crate) struct Fate {
    /// Until anything happens.
    pub(crate) pause: Duration,
    pub(crate) deed: Deed,
    pub(crate) says: Says,
    /// What the upstream takes the time to be, where it is not what it is.
    pub(crate) clock: Option<DateTime<Utc>>,
    /// Whether the answer says the time.
    pub(crate) dated: bool,
    /// The state of a new backup.
    pub(crate) state: &'static str,
}

/// What becomes of what was asked for.
#[derive(Clone)]
pub(crate) enum Deed {
    /// It is done, then answered.
    Done,
    /// It is never done.
    Undone,
    /// It is done so long after it was asked for, whatever is answered in the meantime.
    Late(Duration),
    /// Something else happens to the database, after the answer is made up.
    Instead(Arc<Meddling>),
}

/// Does something to the backups of a database, at a time.
type Meddling = dyn Fn(&mut Vec<Entry>, DateTime<Utc>) + Send + Sync;

/// What is answered.
#[derive(Clone)]
pub(crate) enum Says {
    Truth,
    /// The first half of the truth.
    Half,
    Else(Reply),
}

impl Default for Fate {
    /// It is done, and answered truly.
    fn default() -> Self {
        Self {
            pause: Duration::ZERO,
            deed: Deed::Done,
            says: Says::Truth,
            clock: None,
            dated: true,
            state: GOOD,
        }
    }
}

impl Fate {
    pub(crate) fn new(deed: Deed, says: Says) -> Self {
        Self {
            deed,
            says,
            ..Self::default()
        }
    }

    /// Something else happens, after the truth is told.
    pub(crate) fn instead(
        meddling: impl Fn(&mut Vec<Entry>, DateTime<Utc>) + Send + Sync + 'static,
    ) -> Deed {
        Deed::Instead(Arc::new(meddling))
    }
}

#[derive(Default)]
struct Books {
    databases: HashMap<String, Vec<Entry>>,
    effects: Vec<Effect>,
    asked: Vec<Asked>,
    violations: Vec<String>,
}

type Fates = dyn Fn(&Asked) -> Fate + Send + Sync;

struct Inner {
    books: Mutex<Books>,
    fates: Box<Fates>,
    asked: watch::Sender<usize>,
    /// Connections that are open, and changes that are still to be made.
    busy: watch::Sender<usize>,
}

/// An upstream that keeps books, and its connections.
#[derive(Clone)]
pub(crate) struct Ledger {
    address: SocketAddr,
    inner: Arc<Inner>,
}

impl Ledger {
    /// Starts one, which asks for the fate of each request.
    pub(crate) async fn start(fates: impl Fn(&Asked) -> Fate + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            books: Mutex::default(),
            fates: Box::new(fates),
            asked: watch::Sender::new(0),
            busy: watch::Sender::new(0),
        });
        let shared = Arc::clone(&inner);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let busy = Busy::new(&shared);
                tokio::spawn(async move {
                    // A connection that breaks is the other side's business.
                    let _ = busy.0.converse(stream).await;
                });
            }
        });
        Self { address, inner }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Opens a database with these backups, from the oldest to the newest, an hour apart.
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
        let mut books = self.inner.books.lock().unwrap();
        books.databases.insert(database.to_owned(), entries);
    }

    /// The backups that a database has now.
    pub(crate) fn backups(&self, database: &str) -> Vec<Entry> {
        let books = self.inner.books.lock().unwrap();
        books.databases.get(database).cloned().unwrap_or_default()
    }

    pub(crate) fn has(&self, database: &str, id: &str) -> bool {
        self.backups(database).iter().any(|entry| entry.id == id)
    }

    /// Every change that was made.
    pub(crate) fn effects(&self) -> Vec<Effect> {
        self.inner.books.lock().unwrap().effects.clone()
    }

    /// Everything that was asked.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.inner.books.lock().unwrap().asked.clone()
    }

    /// Removals that must not have been.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.inner.books.lock().unwrap().violations.clone()
    }

    /// Waits until it has received so many requests in all.
    #[cfg(unix)]
    pub(crate) async fn received(&self, count: usize) {
        let mut asked = self.inner.asked.subscribe();
        let enough = asked.wait_for(|asked| *asked >= count);
        timeout(PATIENCE, enough).await.unwrap().unwrap();
    }

    /// Waits until it has read and done everything, once those who ask are gone.
    pub(crate) async fn idle(&self) {
        let mut busy = self.inner.busy.subscribe();
        let idle = busy.wait_for(|busy| *busy == 0);
        timeout(PATIENCE, idle).await.unwrap().unwrap();
    }
}

/// Something under way, until it is dropped.
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
    async fn converse(self: &Arc<Self>, stream: TcpStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        while let Some(mut asked) = read_asked(&mut stream).await? {
            let fate = {
                let mut books = self.books.lock().unwrap();
                let same =
                    books.asked.iter().rev().find(|other| {
                        other.database == asked.database && other.method == asked.method
                    });
                asked.number = same.map_or(0, |same| same.number + 1);
                books.asked.push(asked.clone());
                drop(books);
                (self.fates)(&asked)
            };
            self.asked.send_modify(|asked| *asked += 1);
            if !fate.pause.is_zero() {
                sleep(fate.pause).await;
            }
            let answer = self.books.lock().unwrap().answer(&asked, &fate);
            if let Deed::Late(pause) = fate.deed {
                let busy = Busy::new(self);
                let fate = Fate {
                    deed: Deed::Done,
                    ..fate.clone()
                };
                tokio::spawn(async move {
                    sleep(pause).await;
                    busy.0.books.lock().unwrap().answer(&asked, &fate);
                });
            }
            match fate.says {
                Says::Truth => stream.write_all(&answer).await?,
                Says::Half => return stream.write_all(&answer[..answer.len() / 2]).await,
                Says::Else(Reply::Bytes(bytes)) => return stream.write_all(&bytes).await,
                Says::Else(Reply::Reset) => return stream.get_ref().set_zero_linger(),
                Says::Else(Reply::Hang) => {
                    // Until the other side gives up.
                    let _ = stream.read_u8().await;
                    return Ok(());
                }
                Says::Else(_) => pending().await,
            }
        }
        Ok(())
    }
}

impl Books {
    /// Does what was asked for, as far as it is its fate, and tells the truth about it.
    fn answer(&mut self, asked: &Asked, fate: &Fate) -> Vec<u8> {
        let now = fate.clock.unwrap_or_else(Utc::now);
        let doing = asked.is("GET") || matches!(fate.deed, Deed::Done);
        let (status, body) = if doing {
            self.carry_out(asked, fate, now)
        } else {
            ("202 Accepted", Value::Null)
        };
        if let Deed::Instead(meddling) = &fate.deed {
            meddling(
                self.databases.entry(asked.database.clone()).or_default(),
                now,
            );
        }
        let date = now
            .format("Date: %a, %d %b %Y %H:%M:%S GMT\r\n")
            .to_string();
        let date = if fate.dated { date.as_str() } else { "" };
        let (kind, body) = match body {
            Value::Null => ("", String::new()),
            body => ("Content-Type: application/json\r\n", body.to_string()),
        };
        let length = match status {
            "204 No Content" => String::new(),
            _ => format!("Content-Length: {}\r\n", body.len()),
        };
        format!("HTTP/1.1 {status}\r\n{date}{kind}{length}\r\n{body}").into_bytes()
    }

    fn carry_out(
        &mut self,
        asked: &Asked,
        fate: &Fate,
        now: DateTime<Utc>,
    ) -> (&'static str, Value) {
        let not_found = (
            "404 Not Found",
            json!({ "status": 404, "error": "Not Found", "message": "Resource not found" }),
        );
        let Some(entries) = self.databases.get_mut(&asked.database) else {
            return not_found;
        };
        let effect = |removed, backup: &Entry| Effect {
            call: asked.call,
            database: asked.database.clone(),
            removed,
            backup: backup.clone(),
        };
        let position = |id: &String| entries.iter().position(|entry| entry.id == *id);
        match (asked.method.as_str(), &asked.backup) {
            ("GET", _) => {
                let mut newest_first: Vec<&Entry> = entries.iter().collect();
                newest_first.sort_by_key(|entry| std::cmp::Reverse((entry.created_at, &entry.id)));
                let start = match &asked.start {
                    None => 0,
                    Some(id) => match newest_first.iter().position(|entry| entry.id == *id) {
                        Some(position) => position + 1,
                        None => return not_found,
                    },
                };
                let results = newest_first.into_iter().skip(start).take(PAGE);
                let results: Vec<Value> = results.map(Entry::json).collect();
                (
                    "200 OK",
                    json!({ "page": start / PAGE + 1, "page_size": PAGE, "results": results }),
                )
            }
            ("POST", _) => {
                let text = |field: &str| asked.body[field].as_str().unwrap().to_owned();
                let mut entry = Entry::new(&text("name"), &text("message"), now);
                entry.state = fate.state;
                self.effects.push(effect(false, &entry));
                entries.push(entry.clone());
                ("201 Created", entry.json())
            }
            ("DELETE", Some(id)) => {
                let Some(position) = position(id) else {
                    return not_found;
                };
                if let Some(rule) = broken_rule(entries, id) {
                    let violation = format!("{asked:?} takes the {rule} of {entries:#?}");
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

/// The rule of a server that keeps the newest backup, which the removal of this one breaks.
fn broken_rule(entries: &[Entry], id: &str) -> Option<&'static str> {
    let newest = |of: fn(&Entry) -> bool| {
        let entries = entries.iter().filter(|entry| of(entry));
        entries.max_by_key(|entry| (entry.created_at, &entry.id))
    };
    let is_newest = |of| newest(of).is_some_and(|entry| entry.id == id);
    if is_newest(|_| true) {
        Some("newest backup")
    } else if is_newest(|entry| entry.state != FAILED) {
        Some("newest backup that has not failed")
    } else if is_newest(|entry| entry.state == GOOD) {
        Some("newest good backup")
    } else {
        None
    }
}

/// Reads a request. None when nobody asks any more.
async fn read_asked(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Asked>> {
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
    Ok(Some(Asked {
        method: method.to_owned(),
        database: segments.next().unwrap(),
        backup: segments.nth(1),
        start,
        number: 0,
        call: header("traceparent").map(|trace| usize::from_str_radix(&trace[3..35], 16).unwrap()),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }))
}

/// The `traceparent` of a call, by which the upstream knows it again.
pub(crate) fn trace(call: usize) -> String {
    assert_ne!(call, 0, "there is no such trace");
    format!("00-{call:032x}-00000000000000aa-01")
}

/// A face of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Face {
    Mcp,
    Rest,
}

pub(crate) const FACES: [Face; 2] = [Face::Mcp, Face::Rest];

/// Somebody who calls over one connection, which stays open.
pub(crate) struct Caller {
    pub(crate) face: Face,
    client: Client,
    connection: Connection,
    token: Option<&'static str>,
}

impl Caller {
    pub(crate) async fn of(server: &Server, face: Face) -> Self {
        Self::with_token(server, face, None).await
    }

    pub(crate) async fn with_token(
        server: &Server,
        face: Face,
        token: Option<&'static str>,
    ) -> Self {
        let address = match face {
            Face::Mcp => server.mcp,
            Face::Rest => server.rest,
        };
        Self {
            face,
            client: Client::new(server, Era::Stateless, token),
            connection: Connection::open(address).await,
            token,
        }
    }

    pub(crate) fn list(&mut self, database: &str) -> Request {
        match self.face {
            Face::Mcp => {
                let arguments = json!({ "databaseId": database });
                self.client.tool("list-database-backups", &arguments)
            }
            Face::Rest => Request::get(&backups_of(database)).token(self.token),
        }
    }

    pub(crate) fn add(&mut self, database: &str, name: &str, message: &str) -> Request {
        match self.face {
            Face::Mcp => {
                let arguments = json!({ "databaseId": database, "name": name, "message": message });
                self.client.tool("add-backup-database", &arguments)
            }
            Face::Rest => {
                let body = json!({ "name": name, "message": message });
                Request::post(&backups_of(database), &body).token(self.token)
            }
        }
    }

    pub(crate) fn remove(&mut self, database: &str, backup: &str) -> Request {
        match self.face {
            Face::Mcp => {
                let arguments = json!({ "databaseId": database, "backupId": backup });
                self.client.tool("remove-database-backup", &arguments)
            }
            Face::Rest => {
                let target = format!("{}/{backup}", backups_of(database));
                Request::delete(&target).token(self.token)
            }
        }
    }

    /// Removes several at once, over MCP.
    pub(crate) fn remove_all(&mut self, database: &str, backups: &[String]) -> Request {
        let arguments = json!({ "databaseId": database, "backupIds": backups });
        self.client.tool("remove-database-backup", &arguments)
    }

    /// Lists, and is told.
    pub(crate) async fn listed(&mut self, database: &str) -> Told {
        let request = self.list(database);
        self.told(&request).await
    }

    /// Adds, and is told.
    pub(crate) async fn added(&mut self, database: &str, name: &str, message: &str) -> Told {
        let request = self.add(database, name, message);
        self.told(&request).await
    }

    /// Removes, and is told.
    pub(crate) async fn removed(&mut self, database: &str, backup: &str) -> Told {
        let request = self.remove(database, backup);
        self.told(&request).await
    }

    pub(crate) async fn told(&mut self, request: &Request) -> Told {
        Told::by(self.face, self.connection.exchange(request).await)
    }

    /// The same with a server that may go away.
    #[cfg(unix)]
    pub(crate) async fn try_told(&mut self, request: &Request) -> io::Result<Told> {
        let answer = self.connection.try_exchange(request).await?;
        Ok(Told::by(self.face, answer))
    }
}

/// What a caller was told.
#[derive(Debug)]
pub(crate) struct Told {
    /// Whether the call succeeded.
    pub(crate) ok: bool,
    /// What became of the change: `applied`, `not_applied` or `unknown`. A list that succeeds is
    /// `applied`, too.
    pub(crate) outcome: &'static str,
    /// What a person or a model reads of a failure.
    pub(crate) text: String,
    /// MCP's result, or the body of REST.
    pub(crate) json: Value,
    pub(crate) answer: Answer,
}

impl Told {
    fn by(face: Face, answer: Answer) -> Self {
        match face {
            Face::Mcp => {
                assert_eq!(answer.status, 200, "{answer:?}");
                let json = answer.message()["result"].clone();
                let ok = json["isError"] == false;
                let text = json["content"][0]["text"].as_str();
                let text = text.unwrap_or_else(|| panic!("{answer:?}")).to_owned();
                let outcome = if ok { "applied" } else { outcome_in(&text) };
                Self {
                    ok,
                    outcome,
                    text,
                    json,
                    answer,
                }
            }
            Face::Rest if answer.status < 300 => {
                let json = match answer.status {
                    204 => Value::Null,
                    _ => answer.json(),
                };
                Self {
                    ok: true,
                    outcome: "applied",
                    text: String::new(),
                    json,
                    answer,
                }
            }
            Face::Rest => {
                let json = answer.json();
                let kind = json["type"].as_str().unwrap().rsplit(':').next().unwrap();
                let json = answer.problem(answer.status, &kind.replace('-', "_"));
                let text = json["detail"].as_str().unwrap().to_owned();
                let outcome = outcome_in(&text);
                assert_eq!(json["outcome"], outcome, "{json}");
                Self {
                    ok: false,
                    outcome,
                    text,
                    json,
                    answer,
                }
            }
        }
    }

    /// The id of the backup that the answer is about.
    pub(crate) fn backup_id(&self) -> Option<&str> {
        let ids = [
            &self.json["id"],
            &self.json["structuredContent"]["id"],
            &self.json["structuredContent"]["backup"]["id"],
        ];
        ids.into_iter().find_map(Value::as_str)
    }
}

/// What a text says of the change. Each says it once.
fn outcome_in(text: &str) -> &'static str {
    let said = [
        ("The change was made.", "applied"),
        ("Nothing was changed.", "not_applied"),
        ("Nothing was removed.", "not_applied"),
        ("and nothing was changed.", "not_applied"),
        ("Whether anything was changed is not known.", "unknown"),
    ];
    let said: Vec<&str> = said
        .into_iter()
        .filter_map(|(words, outcome)| text.contains(words).then_some(outcome))
        .collect();
    assert_eq!(said.len(), 1, "{text}");
    said[0]
}
