//! Upstreams in place of Qovery: one that misbehaves by a script, and one whose backups a test changes.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use chrono::{TimeDelta, Utc};
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::timeout,
};

use crate::app::{TEST_TIMEOUT, TestApp};

pub(crate) mod ledger;

/// What an upstream does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Sends these bytes and closes the connection.
    Bytes(Vec<u8>),
    /// Sends these bytes, then zeros until the peer closes the connection.
    Flood(Vec<u8>),
    /// Never answers.
    Hang,
    /// Resets the connection.
    Reset,
    /// Answers when [`Upstream::release`] is called.
    Held(Vec<u8>),
}

/// An answer with these header lines, each of which ends with a line break.
pub(crate) fn reply(status: &str, headers: &str, body: &str) -> Reply {
    Reply::Bytes(response(status, headers, body))
}

/// An answer with a JSON body.
pub(crate) fn json_reply(status: &str, body: &Value) -> Reply {
    reply(status, JSON, &body.to_string())
}

/// An answer with a JSON body that is sent when the test says so.
pub(crate) fn held_reply(status: &str, body: &str) -> Reply {
    Reply::Held(response(status, JSON, body))
}

/// The one page of a database with these backups.
pub(crate) fn page(backups: &[Value]) -> Reply {
    let page = json!({ "page": 1, "page_size": 20, "results": backups });
    json_reply("200 OK", &page)
}

/// An empty page that is sent when the test says so.
pub(crate) fn held_page() -> Reply {
    let page = json!({ "page": 1, "page_size": 20, "results": [] });
    held_reply("200 OK", &page.to_string())
}

/// A created backup whose body breaks off.
pub(crate) fn truncated_creation() -> Reply {
    let head = "HTTP/1.1 201 Created\r\nContent-Length: 500\r\nConnection: close\r\n\r\n{\"id\"";
    Reply::Bytes(head.into())
}

pub(crate) const JSON: &str = "Content-Type: application/json\r\n";

fn response(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A backup as Qovery sends it.
pub(crate) fn backup(number: u32, state: &str) -> Value {
    json!({
        "id": backup_id(number),
        "created_at": format!("2026-06-{number:02}T00:00:00Z"),
        "name": format!("backup {number}"),
        "message": "",
        "status": { "state": state },
    })
}

/// A backup that was made an hour ago: what is in progress for a day is stuck.
pub(crate) fn recent(number: u32, state: &str) -> Value {
    let mut backup = backup(number, state);
    backup["created_at"] = json!((Utc::now() - TimeDelta::hours(1)).to_rfc3339());
    backup
}

pub(crate) fn backup_id(number: u32) -> String {
    format!("bac00000-0000-4000-8000-{number:012}")
}

/// Backups 1 to `count`, all finished.
pub(crate) fn backups(count: u32) -> Vec<Value> {
    (1..=count).map(|number| backup(number, "READY")).collect()
}

/// A port that is bound, so that no other process listens there, and that never listens.
pub(crate) fn closed_port() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    (socket, url)
}

/// An upstream that follows a script and records its requests.
pub(crate) struct Upstream {
    address: SocketAddr,
    /// The head and body of each request.
    requests: Arc<Mutex<Vec<String>>>,
    seen: watch::Receiver<usize>,
    hold: watch::Sender<bool>,
}

impl Upstream {
    /// Starts one that answers the request number `n` (from 0), given its first line.
    pub(crate) async fn start(
        script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen_sender, seen) = watch::channel(0);
        let (hold, gate) = watch::channel(true);
        let seen_sender = Arc::new(seen_sender);
        let script = Arc::new(script);
        let log = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (log, script) = (Arc::clone(&log), Arc::clone(&script));
                let (seen, mut gate) = (Arc::clone(&seen_sender), gate.clone());
                tokio::spawn(async move {
                    let request = read_request(&mut stream).await;
                    let line = request.lines().next().unwrap_or_default().to_owned();
                    let number = {
                        let mut log = log.lock().unwrap();
                        log.push(request);
                        log.len() - 1
                    };
                    seen.send_modify(|seen| *seen += 1);
                    match script(number, &line) {
                        Reply::Bytes(bytes) => write(&mut stream, &bytes).await,
                        Reply::Flood(head) => {
                            stream.write_all(&head).await.unwrap();
                            let zeros = vec![b'0'; 1 << 16];
                            while stream.write_all(&zeros).await.is_ok() {}
                        }
                        Reply::Hang => std::future::pending().await,
                        Reply::Reset => stream.set_zero_linger().unwrap(),
                        Reply::Held(bytes) => {
                            gate.wait_for(|held| !held).await.unwrap();
                            write(&mut stream, &bytes).await;
                        }
                    }
                });
            }
        });
        Self {
            address,
            requests,
            seen,
            hold,
        }
    }

    /// Starts one that gives every request the same reply.
    pub(crate) async fn always(reply: Reply) -> Self {
        Self::start(move |_, _| reply.clone()).await
    }

    /// Starts one that gives this reply to requests whose first line contains `part`, and another to others.
    pub(crate) async fn split(part: impl Into<String>, reply: Reply, other: Reply) -> Self {
        let part = part.into();
        Self::start(move |_, line| {
            let reply = if line.contains(&part) { &reply } else { &other };
            reply.clone()
        })
        .await
    }

    /// Starts one that lists these backups in this order, 20 a page, and removes any.
    pub(crate) async fn paged(rows: Vec<Value>) -> Self {
        Self::start(move |_, line| {
            if line.starts_with("DELETE ") {
                return reply("204 No Content", "", "");
            }
            let start = line.split_once("startId=").map_or(0, |(_, id)| {
                let is_it = |row: &Value| id.starts_with(row["id"].as_str().unwrap());
                rows.iter().position(is_it).unwrap() + 1
            });
            page(&rows[start..rows.len().min(start + 20)])
        })
        .await
    }

    /// Gives a page with three backups to a removal that reads the list, and `reply` to anything else.
    pub(crate) async fn failing(removal: bool, reply: Reply) -> Self {
        let list = if removal { "GET " } else { "nothing" };
        Self::split(list, page(&backups(3)), reply).await
    }

    /// The program with this upstream.
    pub(crate) fn app(&self) -> TestApp {
        TestApp::with_upstream(&self.url())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The head and body of each request.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// The first line of each request.
    pub(crate) fn lines(&self) -> Vec<String> {
        let requests = self.requests();
        let lines = requests.iter().map(|request| request.lines().next());
        lines.map(|line| line.unwrap().to_owned()).collect()
    }

    /// The first line of each request that was no GET.
    pub(crate) fn changes(&self) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|line| !line.starts_with("GET "));
        lines
    }

    /// Waits until it has received this many requests.
    pub(crate) async fn received(&mut self, count: usize) {
        let enough = self.seen.wait_for(|seen| *seen >= count);
        timeout(TEST_TIMEOUT, enough).await.unwrap().unwrap();
    }

    /// Sends the held replies.
    pub(crate) fn release(&self) {
        self.hold.send_replace(false);
    }
}

/// The peer may have closed the connection.
async fn write(stream: &mut TcpStream, bytes: &[u8]) {
    if stream.write_all(bytes).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).await.unwrap_or(0);
        if length == 0 {
            return text;
        }
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let mut headers = head.lines();
            let expected = headers.find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= expected.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
    }
}

/// An upstream with these backups in every database.
pub(crate) struct Database {
    upstream: Upstream,
    backups: Arc<Mutex<Vec<Value>>>,
}

impl Database {
    pub(crate) async fn with(backups: impl Into<Vec<Value>>) -> Self {
        let backups = Arc::new(Mutex::new(backups.into()));
        let shared = Arc::clone(&backups);
        let upstream = Upstream::start(move |_, line| {
            let mut backups = shared.lock().unwrap();
            if line.starts_with("DELETE ") {
                backups.retain(|backup| !line.contains(backup["id"].as_str().unwrap()));
                return reply("204 No Content", "", "");
            }
            page(&backups)
        });
        Self {
            upstream: upstream.await,
            backups,
        }
    }

    /// The program with this upstream.
    pub(crate) fn app(&self) -> TestApp {
        self.upstream.app()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<Value>)) {
        change(&mut self.backups.lock().unwrap());
    }

    /// The number of requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.upstream.requests().len()
    }

    /// The first line of each request that was no GET.
    pub(crate) fn changes(&self) -> Vec<String> {
        self.upstream.changes()
    }

    /// Expects that nothing was changed.
    #[track_caller]
    pub(crate) fn unchanged(&self) {
        assert_eq!(self.changes(), [""; 0]);
    }
}

/// The first line of the request that removes a backup of [`Sandbox::ORDERS`].
pub(crate) fn removes(number: u32) -> String {
    let (database, backup) = (Sandbox::ORDERS, backup_id(number));
    format!("DELETE /database/{database}/backup/{backup} HTTP/1.1")
}
