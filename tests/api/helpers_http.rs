//! One server over HTTP, one connection to it, one client of each face.

use std::{future::pending, io, net::SocketAddr, process::Stdio, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, tcp},
    process::{Child, ChildStderr},
    sync::watch,
    task::JoinHandle,
    time::{interval, timeout},
};

use crate::helpers::{Era, PATIENCE, TestApp, add_stateless_meta, initialize_params};
#[cfg(unix)]
use crate::helpers::{Finished, signal};

/// A child process that serves over HTTP.
pub(crate) struct Server {
    child: Child,
    pub(crate) log: Log,
    pub(crate) mcp: SocketAddr,
    /// The MCP port's, where there is no REST API.
    pub(crate) rest: SocketAddr,
}

impl TestApp {
    /// Serves on ports that the kernel chooses, unless the arguments name others.
    pub(crate) async fn serve(&self, arguments: &[&str]) -> Server {
        let mut all = vec!["http", "--log-format", "json"];
        for flag in ["--mcp-addr", "--rest-addr"] {
            if !arguments.contains(&flag) {
                all.extend([flag, "127.0.0.1:0"]);
            }
        }
        all.extend(arguments);
        let mut child = self.command(&all).stdin(Stdio::null()).spawn().unwrap();
        let log = Log::read(child.stderr.take().unwrap());
        let mcp = log.address("MCP is listening on http://").await;
        let rest = if arguments.contains(&"--no-rest") {
            mcp
        } else {
            log.address("REST is listening on http://").await
        };
        Server {
            child,
            log,
            mcp,
            rest,
        }
    }
}

/// Serves the built-in sandbox.
pub(crate) async fn serve_sandbox(arguments: &[&str]) -> Server {
    let arguments = [&["--sandbox"], arguments].concat();
    TestApp::new(&[]).serve(&arguments).await
}

impl Server {
    /// The answer of the REST port.
    pub(crate) async fn rest(&self, request: Request) -> Answer {
        request.send(self.rest).await
    }

    /// The record of the call with this id, once it is written.
    pub(crate) async fn call(&self, request_id: &str) -> Value {
        let is_it = |line: &Value| {
            line["fields"]["message"] == "call" && line["fields"]["request_id"] == request_id
        };
        self.log.line(is_it).await["fields"].clone()
    }

    /// The metrics, once they have this line: a call is counted only after its answer is gone.
    pub(crate) async fn metrics_with(&self, line: &str, token: Option<&str>) -> String {
        let until = async {
            loop {
                let metrics = self.rest(Request::get("/metrics").token(token)).await;
                assert_eq!(metrics.status, 200);
                if metrics.text().lines().any(|found| found == line) {
                    return metrics.text();
                }
            }
        };
        let metrics = timeout(PATIENCE, until).await;
        metrics.unwrap_or_else(|_| panic!("the metrics never have {line}"))
    }

    #[cfg(unix)]
    pub(crate) async fn signal(&self, name: &str) {
        signal(&self.child, name).await;
    }

    /// Ends it with SIGTERM, which loses no line of the log.
    #[cfg(unix)]
    pub(crate) async fn finish(self) -> Finished {
        self.signal("TERM").await;
        self.wait().await
    }

    /// Waits for its end, whatever brings it.
    #[cfg(unix)]
    pub(crate) async fn wait(mut self) -> Finished {
        let mut stdout = String::new();
        let mut pipe = self.child.stdout.take().unwrap();
        let status = timeout(PATIENCE, async {
            pipe.read_to_string(&mut stdout).await.unwrap();
            self.child.wait().await.unwrap()
        });
        let status = status.await.expect("the program ends");
        let stderr = self.log.all().await;
        Finished {
            status,
            stdout,
            stderr,
        }
    }
}

/// A log, as it is written.
pub(crate) struct Log(watch::Receiver<Vec<String>>);

impl Log {
    fn read(stderr: ChildStderr) -> Self {
        let (sender, receiver) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Some(line) = lines.next_line().await.unwrap() {
                sender.send_modify(|seen| seen.push(line));
            }
        });
        Self(receiver)
    }

    /// The first line that is the one, once it is written.
    pub(crate) async fn line(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut lines = self.0.clone();
        let found = |lines: &Vec<String>| {
            let parsed = lines.iter().map(|line| serde_json::from_str(line).unwrap());
            parsed.into_iter().find(|line| is_it(line))
        };
        match timeout(PATIENCE, lines.wait_for(|lines| found(lines).is_some())).await {
            Ok(Ok(lines)) => found(&lines).unwrap(),
            _ => panic!("no such line in {:#?}", self.0.borrow()),
        }
    }

    pub(crate) async fn message(&self, start: &str) -> String {
        let message = |line: &Value| line["fields"]["message"].as_str().unwrap().to_owned();
        message(&self.line(|line| message(line).starts_with(start)).await)
    }

    async fn address(&self, start: &str) -> SocketAddr {
        let url = self.message(start).await[start.len()..].to_owned();
        url.trim_end_matches("/mcp").parse().unwrap()
    }

    /// Everything, once its writer has ended.
    #[cfg(unix)]
    async fn all(mut self) -> String {
        let ended = async { while self.0.changed().await.is_ok() {} };
        timeout(PATIENCE, ended).await.expect("the log ends");
        self.0.borrow().join("\n")
    }
}

/// A request, for [`Connection`] to write as it is.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
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

    /// Adds a header, in place of one of the same name.
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

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

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

/// An HTTP/1.1 connection that writes whatever a test wants written.
pub(crate) struct Connection {
    pub(crate) address: SocketAddr,
    reader: BufReader<tcp::OwnedReadHalf>,
    writer: tcp::OwnedWriteHalf,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await;
        let (reader, writer) = stream.expect("a connection").unwrap().into_split();
        Self {
            address,
            reader: BufReader::new(reader),
            writer,
        }
    }

    /// Writes to a peer that reads.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.unwrap();
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn exchange(&mut self, request: &Request) -> Answer {
        let bytes = request.bytes(self.address);
        self.answer_to(&bytes, request.method != "HEAD").await
    }

    /// The same with a peer that may go away.
    #[cfg(unix)]
    pub(crate) async fn try_exchange(&mut self, request: &Request) -> io::Result<Answer> {
        let bytes = request.bytes(self.address);
        self.try_answer_to(&bytes, request.method != "HEAD").await
    }

    /// Writes the rest of a request and reads the answer.
    pub(crate) async fn answer_to(&mut self, bytes: &[u8], has_body: bool) -> Answer {
        let answer = self.try_answer_to(bytes, has_body).await;
        answer.expect("a whole answer")
    }

    async fn try_answer_to(&mut self, bytes: &[u8], has_body: bool) -> io::Result<Answer> {
        let Self { reader, writer, .. } = self;
        let answer = timeout(PATIENCE, async {
            // Who answers early need not read on.
            tokio::join!(writer.write_all(bytes), read(reader, has_body)).1
        });
        answer.await.expect("an answer in time")
    }

    /// The status and the headers of an answer whose body may have no end.
    pub(crate) async fn head(&mut self) -> Answer {
        let answer = timeout(PATIENCE, read_head(&mut self.reader)).await;
        answer.expect("an answer in time").expect("a whole head")
    }

    /// The next message of a stream of events.
    pub(crate) async fn event(&mut self) -> Value {
        self.identified_event().await.1
    }

    /// The next message, and the id of its event. Each event is one chunk: its lines are whole.
    pub(crate) async fn identified_event(&mut self) -> (String, Value) {
        let event = async {
            let (mut id, mut message) = (String::new(), None);
            loop {
                let mut line = String::new();
                let length = self.reader.read_line(&mut line).await.unwrap();
                assert_ne!(length, 0, "an event before the end");
                let field = |name| line.strip_prefix(name).map(|it: &str| it.trim().to_owned());
                if let Some(given) = field("id:") {
                    id = given;
                }
                if let Some(data) = field("data:").filter(|data| !data.is_empty()) {
                    message = Some(serde_json::from_str(&data).unwrap());
                }
                if line.trim().is_empty()
                    && let Some(message) = message.take()
                {
                    return (id, message);
                }
            }
        };
        timeout(PATIENCE, event).await.expect("an event in time")
    }

    /// Waits for the last chunk of a body, and passes over what comes before it.
    pub(crate) async fn end_of_body(&mut self) {
        let ended = async {
            let mut line = String::new();
            while line.trim() != "0" {
                line.clear();
                let length = self.reader.read_line(&mut line).await.unwrap();
                assert_ne!(
                    length, 0,
                    "the end of the body before that of the connection"
                );
            }
        };
        timeout(PATIENCE, ended).await.expect("the end of a body");
    }

    /// Whether the peer has sent anything that was not read yet.
    pub(crate) async fn has_come(&mut self) -> bool {
        let come = timeout(Duration::from_millis(1), self.reader.fill_buf()).await;
        come.is_ok_and(|come| !come.unwrap().is_empty())
    }

    /// Everything until the peer closes the connection, while these bytes go to it once a second.
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
        let closed = timeout(PATIENCE, closed).await;
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

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names are in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header that there is once at most.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other == name);
        let value = values.next();
        assert!(values.next().is_none(), "{name} twice in {self:?}");
        value.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The one JSON-RPC message in it: alone, or as the last event of a stream.
    pub(crate) fn message(&self) -> Value {
        if self.header("content-type") == Some("application/json") {
            return self.json();
        }
        let text = self.text();
        let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
        let data = data.map(str::trim).rfind(|data| !data.is_empty());
        serde_json::from_str(data.unwrap_or_else(|| panic!("no message in {self:?}"))).unwrap()
    }

    /// The problem that it says it is, with everything that a problem has.
    pub(crate) fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{kind}: {self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        let problem = self.json();
        let mut members: Vec<&str> = problem
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        members.sort_unstable();
        let expected = [
            "detail",
            "instance",
            "outcome",
            "retryable",
            "status",
            "title",
            "type",
        ];
        assert_eq!(members, expected);
        let dashed = kind.replace('_', "-");
        let urn = format!("urn:qovery-backups-mcp:problem:{dashed}");
        assert_eq!(problem["type"], urn);
        assert_eq!(problem["status"], status);
        let title = problem["title"].as_str().unwrap();
        assert_eq!(title.to_lowercase(), kind.replace('_', " "));
        assert!(problem["detail"].as_str().unwrap().ends_with('.'));
        assert_eq!(problem["instance"], self.header("x-request-id").unwrap());
        let outcomes = ["applied", "not_applied", "unknown"];
        assert!(outcomes.contains(&problem["outcome"].as_str().unwrap()));
        assert!(problem["retryable"].is_boolean());
        problem
    }
}

/// An MCP client over HTTP.
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) era: Era,
    pub(crate) token: Option<&'static str>,
    /// The session's id, once there is one.
    pub(crate) session: Option<String>,
    /// What it says it can do.
    pub(crate) capabilities: Value,
    pub(crate) last_id: u64,
}

impl Client {
    pub(crate) fn new(server: &Server, era: Era, token: Option<&'static str>) -> Self {
        Self::at(server.mcp, era, token)
    }

    pub(crate) fn at(address: SocketAddr, era: Era, token: Option<&'static str>) -> Self {
        Self {
            address,
            era,
            token,
            session: None,
            capabilities: json!({}),
            last_id: 0,
        }
    }

    /// Shakes hands, in the era that has a handshake. Gives what the server says of itself.
    pub(crate) async fn open(&mut self) -> Value {
        if self.era == Era::Stateless {
            return self.request("server/discover", json!({})).await;
        }
        let mut params = initialize_params();
        params["capabilities"] = self.capabilities.clone();
        let answer = self.post("initialize", params).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        self.session = answer.header("mcp-session-id").map(str::to_owned);
        let done = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let accepted = self.raw(done.to_string()).send(self.address).await;
        assert_eq!(accepted.status, 202, "{accepted:?}");
        answer.message()
    }

    /// A request with this body.
    pub(crate) fn raw(&self, body: impl Into<Vec<u8>>) -> Request {
        let version = match self.era {
            Era::Handshake => "2025-11-25",
            Era::Stateless => "2026-07-28",
        };
        let request = Request::new("POST", "/mcp")
            .header("Content-Type", "application/json")
            .header("Accept", "application/json, text/event-stream")
            .header("MCP-Protocol-Version", version)
            .token(self.token)
            .body(body);
        match &self.session {
            Some(session) => request.header("Mcp-Session-Id", session),
            None => request,
        }
    }

    /// Opens the stream of events of the session.
    pub(crate) fn stream(&self) -> Request {
        let session = self.session.as_ref().unwrap();
        Request::get("/mcp")
            .header("Accept", "text/event-stream")
            .header("Mcp-Session-Id", session)
            .token(self.token)
    }

    pub(crate) fn message(&mut self, method: &str, mut params: Value) -> Request {
        self.last_id += 1;
        if self.era == Era::Stateless {
            add_stateless_meta(&mut params, &self.capabilities);
        }
        let id = self.last_id;
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let mut request = self.raw(body.to_string());
        if self.era == Era::Stateless {
            request = request.header("Mcp-Method", method);
            if let Some(name) = params["name"].as_str() {
                request = request.header("Mcp-Name", name);
            }
        }
        request
    }

    pub(crate) async fn post(&mut self, method: &str, params: Value) -> Answer {
        self.message(method, params).send(self.address).await
    }

    /// The JSON-RPC answer to a request.
    pub(crate) async fn request(&mut self, method: &str, params: Value) -> Value {
        let answer = self.post(method, params).await.message();
        assert_eq!(answer["id"], self.last_id, "{answer}");
        answer
    }

    pub(crate) fn tool(&mut self, tool: &str, arguments: &Value) -> Request {
        self.message(
            "tools/call",
            json!({ "name": tool, "arguments": arguments }),
        )
    }

    /// Calls a tool that succeeds; gives the structured content.
    pub(crate) async fn ok(&mut self, tool: &str, arguments: Value) -> Value {
        let answer = self.tool(tool, &arguments).send(self.address).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let result = answer.message()["result"].clone();
        assert_eq!(result["isError"], false, "{result}");
        result["structuredContent"].clone()
    }

    /// Calls a tool that fails in-band; gives the text.
    pub(crate) async fn refused(&mut self, tool: &str, arguments: Value) -> String {
        let answer = self.tool(tool, &arguments).send(self.address).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let result = answer.message()["result"].clone();
        assert_eq!(result["isError"], true, "{result}");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }
}

/// The path of a database's backups.
pub(crate) fn backups_of(database: &str) -> String {
    format!("/v1/database/{database}/backup")
}
