//! HTTP/1.1 as a test wants it written, byte by byte.

use std::{future::pending, io, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, tcp},
    time::{interval, timeout},
};

use crate::{app::TEST_TIMEOUT, expect::Answer};

/// The path of a database's backups.
pub(crate) fn backups_of(database: &str) -> String {
    format!("/v1/database/{database}/backup")
}

/// A request, for [`Connection`] to write as it is.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: &'static str,
    pub(crate) target: String,
    headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &'static str, target: &str) -> Self {
        Self {
            method,
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub(crate) fn post(target: &str, body: &Value) -> Self {
        Self::new("POST", target)
            .header("Content-Type", "application/json")
            .body(body.to_string())
    }

    pub(crate) fn delete(target: &str) -> Self {
        Self::new("DELETE", target)
    }

    /// Sets a header.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn token(self, token: Option<&str>) -> Self {
        match token {
            Some(token) => self.header("Authorization", &format!("Bearer {token}")),
            None => self,
        }
    }

    /// With a caller's own key.
    pub(crate) fn key(self, key: Option<&str>) -> Self {
        match key {
            Some(key) => self.header("X-Qovery-Api-Key", key),
            None => self,
        }
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it on a connection of its own.
    pub(crate) async fn send(&self, address: SocketAddr) -> Answer {
        Connection::open(address).await.exchange(self).await
    }

    /// With the address as `Host`, unless it has one.
    pub(crate) fn bytes(&self, address: SocketAddr) -> Vec<u8> {
        let line = |(name, value): (&str, &str)| format!("{name}: {value}\r\n");
        let length = self.body.len().to_string();
        let address = address.to_string();
        let has_host = self.headers.iter().any(|(name, _)| *name == "Host");
        let host = (!has_host).then(|| line(("Host", &address)));
        let given = self.headers.iter().map(|(name, value)| line((name, value)));
        let length = (!self.body.is_empty()).then(|| line(("Content-Length", &length)));
        let lines: String = host.into_iter().chain(given).chain(length).collect();
        let head = format!("{} {} HTTP/1.1\r\n{lines}", self.method, self.target);
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

/// A connection that stays open.
pub(crate) struct Connection {
    pub(crate) address: SocketAddr,
    reader: BufReader<tcp::OwnedReadHalf>,
    writer: tcp::OwnedWriteHalf,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = timeout(TEST_TIMEOUT, TcpStream::connect(address)).await;
        Self::over(stream.expect("a connection").unwrap())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        let address = stream.peer_addr().unwrap();
        let (reader, writer) = stream.into_split();
        Self {
            address,
            reader: BufReader::new(reader),
            writer,
        }
    }

    /// Opens one and writes a request.
    pub(crate) async fn with(address: SocketAddr, request: &Request) -> Self {
        let mut connection = Self::open(address).await;
        connection.write(&request.bytes(address)).await;
        connection
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.unwrap();
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn exchange(&mut self, request: &Request) -> Answer {
        self.try_exchange(request).await.expect("a whole answer")
    }

    /// The same with a peer that may close the connection.
    pub(crate) async fn try_exchange(&mut self, request: &Request) -> io::Result<Answer> {
        let bytes = request.bytes(self.address);
        self.try_answer_to(&bytes, request.method != "HEAD").await
    }

    /// Writes the rest of a request and reads the answer.
    pub(crate) async fn answer_to(&mut self, bytes: &[u8], has_body: bool) -> Answer {
        let answer = self.try_answer_to(bytes, has_body).await;
        answer.expect("a whole answer")
    }

    /// Reads the answer to what was written.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.answer_to(b"", true).await
    }

    async fn try_answer_to(&mut self, bytes: &[u8], has_body: bool) -> io::Result<Answer> {
        let Self { reader, writer, .. } = self;
        let answer = timeout(TEST_TIMEOUT, async {
            // A peer that answers early need not read the rest.
            tokio::join!(writer.write_all(bytes), read(reader, has_body)).1
        });
        answer.await.expect("an answer in time")
    }

    /// The status and the headers of an answer whose body is read by [`event`](Self::event).
    pub(crate) async fn head(&mut self) -> Answer {
        let answer = timeout(TEST_TIMEOUT, read_head(&mut self.reader)).await;
        answer.expect("an answer in time").expect("a whole head")
    }

    /// The next message of a stream of events. Each event is one chunk: its lines are whole.
    pub(crate) async fn event(&mut self) -> Value {
        let event = async {
            loop {
                let mut line = String::new();
                let length = self.reader.read_line(&mut line).await.unwrap();
                assert_ne!(length, 0, "an event before the end");
                let data = line.strip_prefix("data:").map(str::trim);
                if let Some(data) = data.filter(|data| !data.is_empty()) {
                    return serde_json::from_str(data).unwrap();
                }
            }
        };
        timeout(TEST_TIMEOUT, event)
            .await
            .expect("an event in time")
    }

    /// Everything until the peer closes the connection, while these bytes are written once a second.
    pub(crate) async fn until_closed(&mut self, drip: &[u8]) -> String {
        let Self { reader, writer, .. } = self;
        let mut received = Vec::new();
        let drips = async {
            let mut seconds = interval(Duration::from_secs(1));
            while writer.write_all(drip).await.is_ok() {
                seconds.tick().await;
            }
            pending::<()>().await;
        };
        let closed = async {
            tokio::select! {
                // A reset is an end, too.
                _ = reader.read_to_end(&mut received) => {}
                () = drips => {}
            }
        };
        let closed = timeout(TEST_TIMEOUT, closed).await;
        closed.expect("the end of the connection");
        String::from_utf8(received).unwrap()
    }
}

async fn read_head(reader: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Answer> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        lines.push(line.to_owned());
    }
    let headers = lines[1..].iter().map(|line| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_lowercase(), value.trim().to_owned())
    });
    Ok(Answer {
        status: lines[0].split(' ').nth(1).unwrap().parse().unwrap(),
        headers: headers.collect(),
        body: Vec::new(),
    })
}

async fn read(reader: &mut (impl AsyncBufReadExt + Unpin), has_body: bool) -> io::Result<Answer> {
    let mut answer = read_head(reader).await?;
    if !has_body || answer.status == 204 {
        return Ok(answer);
    }
    if answer.header("transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).await?;
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).await?;
            if size == 0 {
                return Ok(answer);
            }
            answer.body.extend(&chunk[..size]);
        }
    }
    let length = answer.header("content-length").expect("a length").parse();
    answer.body = vec![0; length.unwrap()];
    reader.read_exact(&mut answer.body).await?;
    Ok(answer)
}
