//! Clients of the server: one for MCP, with a transport and an era, and one for both interfaces.

use std::{io, net::SocketAddr};

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    app::{Finished, Server, TEST_TIMEOUT, TestApp},
    connection::{Connection, Request, backups_of},
    expect::{Answer, CallResult, Question, Step, content_of, refusal_in},
    upstreams::backup_id,
};

pub(crate) const LIST: &str = "list-database-backups";
pub(crate) const ADD: &str = "add-backup-database";
pub(crate) const REMOVE: &str = "remove-database-backup";

/// The message of a backup that is given none.
pub(crate) const DEFAULT_MESSAGE: &str = "Made by an AI assistant through qovery-backups-mcp.";

/// The two eras of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    /// 2025-11-25 and before: begins with `initialize`.
    Handshake,
    /// 2026-07-28: every request carries its own metadata.
    Stateless,
}

pub(crate) const ERAS: [Era; 2] = [Era::Handshake, Era::Stateless];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Stdio,
    Http,
}

pub(crate) type Mode = (Transport, Era);

pub(crate) const MODES: [Mode; 4] = [
    (Transport::Stdio, Era::Handshake),
    (Transport::Stdio, Era::Stateless),
    (Transport::Http, Era::Stateless),
    (Transport::Http, Era::Handshake),
];

/// A person can be asked in these. Over HTTP, the server cannot send a request before 2026-07-28.
pub(crate) const ASKABLE: [Mode; 3] = [MODES[0], MODES[1], MODES[2]];

/// In these, the state of a question is sent to the client and back.
pub(crate) const STATELESS: [Mode; 2] = [ASKABLE[1], ASKABLE[2]];

/// The capabilities of a client that shows forms.
pub(crate) fn can_ask() -> Value {
    json!({ "elicitation": { "form": {} } })
}

/// The answer of a person who agrees.
pub(crate) fn yes() -> Value {
    json!({ "action": "accept", "content": { "remove": true } })
}

/// The report after an answer that is no yes.
pub(crate) fn declined(reason: &str) -> Value {
    let reason = format!("{reason} Ask again only if the person asks for it in a new message.");
    json!({ "outcome": "not_removed", "consent": "declined", "reason": reason })
}

/// The reason after a no.
pub(crate) const DECLINED: &str = "The host answered no for the person. Nothing was removed. The rest of the task may go on. If the \
     host showed no question, it cannot show one.";

/// The arguments of a list of [`Sandbox::ORDERS`].
pub(crate) fn orders() -> Value {
    json!({ "databaseId": Sandbox::ORDERS })
}

/// The arguments of a removal of one of its backups, or of a list of this one.
pub(crate) fn order(number: u32) -> Value {
    json!({ "databaseId": Sandbox::ORDERS, "backupId": backup_id(number) })
}

/// Where no person is to be asked.
pub(crate) const UNATTENDED: &str = "--confirm=never";

/// The parameters of a removal of one of its backups.
pub(crate) fn removal(number: u32) -> Value {
    json!({ "name": REMOVE, "arguments": order(number) })
}

/// The parameters of `initialize`.
pub(crate) fn initialize_params() -> Value {
    json!({
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": { "name": "test", "version": "1" }
    })
}

/// An MCP client.
pub(crate) struct Client {
    pub(crate) era: Era,
    pub(crate) capabilities: Value,
    /// `_meta` of each request, beside what the era needs.
    pub(crate) meta: Option<Value>,
    /// The access token over HTTP.
    pub(crate) token: Option<&'static str>,
    /// The caller's own key over HTTP.
    pub(crate) key: Option<String>,
    pub(crate) last_id: u64,
    /// The HTTP status of the last answer.
    pub(crate) status: u16,
    peer: Peer,
}

enum Peer {
    Stdio(Box<Pipes>),
    Http {
        address: SocketAddr,
        /// The process, if it ends with this client.
        _server: Option<Box<Server>>,
    },
}

impl Peer {
    fn http(address: SocketAddr, server: Option<Server>) -> Self {
        Self::Http {
            address,
            _server: server.map(Box::new),
        }
    }
}

struct Pipes {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Option<JoinHandle<String>>,
}

impl Client {
    fn new(era: Era, peer: Peer) -> Self {
        Self {
            era,
            capabilities: json!({}),
            meta: None,
            token: None,
            key: None,
            last_id: 0,
            status: 200,
            peer,
        }
    }

    pub(crate) fn over_stdio(mut child: Child, era: Era) -> Self {
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let stderr = child.stderr.take().map(|mut stderr| {
            tokio::spawn(async move {
                let mut text = String::new();
                stderr.read_to_string(&mut text).await.unwrap();
                text
            })
        });
        let pipes = Pipes {
            stdin: child.stdin.take(),
            stdout,
            stderr,
            child,
        };
        Self::new(era, Peer::Stdio(Box::new(pipes)))
    }

    pub(crate) fn over_http(server: &Server, era: Era, token: Option<&'static str>) -> Self {
        let mut client = Self::new(era, Peer::http(server.mcp, None));
        client.token = token;
        client
    }

    /// Starts the program, and a client of it with these capabilities.
    pub(crate) async fn start(
        app: &TestApp,
        (transport, era): Mode,
        arguments: &[&str],
        capabilities: Value,
    ) -> Self {
        let mut client = match transport {
            Transport::Stdio => app.spawn(era, arguments),
            Transport::Http => {
                let server = app.serve(&[&["--no-rest"], arguments].concat()).await;
                Self::new(era, Peer::http(server.mcp, Some(server)))
            }
        };
        client.capabilities = capabilities;
        if era == Era::Handshake {
            client.open().await;
        }
        client
    }

    fn pipes(&mut self) -> &mut Pipes {
        match &mut self.peer {
            Peer::Stdio(pipes) => pipes,
            Peer::Http { .. } => panic!("there is no pipe"),
        }
    }

    /// The process over stdio.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.pipes().child
    }

    /// Begins as its era does. Returns what the server says of itself.
    pub(crate) async fn open(&mut self) -> Value {
        if self.era == Era::Stateless {
            return self.request("server/discover", json!({})).await;
        }
        let mut params = initialize_params();
        params["capabilities"] = self.capabilities.clone();
        let answer = self.request("initialize", params).await;
        self.notify("notifications/initialized", json!({})).await;
        answer
    }

    /// The next request as JSON.
    fn body(&mut self, method: &str, params: &mut Value) -> Value {
        self.last_id += 1;
        if let Some(meta) = &self.meta {
            params["_meta"] = meta.clone();
        }
        if self.era == Era::Stateless {
            add_stateless_meta(params, &self.capabilities);
        }
        json!({ "jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params })
    }

    /// A request over HTTP with this body.
    pub(crate) fn raw(&self, body: impl Into<Vec<u8>>) -> Request {
        let version = match self.era {
            Era::Handshake => "2025-11-25",
            Era::Stateless => "2026-07-28",
        };
        Request::new("POST", "/mcp")
            .header("Content-Type", "application/json")
            .header("Accept", "application/json, text/event-stream")
            .header("MCP-Protocol-Version", version)
            .token(self.token)
            .key(self.key.as_deref())
            .body(body)
    }

    /// A JSON-RPC request over HTTP.
    pub(crate) fn message(&mut self, method: &str, mut params: Value) -> Request {
        let body = self.body(method, &mut params);
        let mut request = self.raw(body.to_string());
        if self.era == Era::Stateless {
            request = request.header("Mcp-Method", method);
            if let Some(name) = params["name"].as_str() {
                request = request.header("Mcp-Name", name);
            }
        }
        request
    }

    /// A call of a tool over HTTP.
    pub(crate) fn tool(&mut self, tool: &str, arguments: &Value) -> Request {
        self.message(
            "tools/call",
            json!({ "name": tool, "arguments": arguments }),
        )
    }

    /// Sends a request over HTTP.
    pub(crate) async fn post(&mut self, method: &str, params: Value) -> Answer {
        let request = self.message(method, params);
        let Peer::Http { address, .. } = &self.peer else {
            panic!("this client uses pipes");
        };
        let answer = request.send(*address).await;
        self.status = answer.status;
        answer
    }

    /// Writes a line to standard input.
    pub(crate) async fn send(&mut self, line: &[u8]) {
        let stdin = self.pipes().stdin.as_mut().unwrap();
        stdin.write_all(&[line, b"\n"].concat()).await.unwrap();
    }

    pub(crate) async fn notify(&mut self, method: &str, params: Value) {
        let message = json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string();
        match &self.peer {
            Peer::Stdio(_) => self.send(message.as_bytes()).await,
            Peer::Http { address, .. } => {
                let accepted = self.raw(message).send(*address).await;
                assert_eq!(accepted.status, 202, "{accepted:?}");
            }
        }
    }

    /// Cancels a request over stdio.
    pub(crate) async fn cancel(&mut self, id: u64) {
        let params = json!({ "requestId": id });
        self.notify("notifications/cancelled", params).await;
    }

    /// Sends a request over stdio and does not wait for the answer. Returns its id.
    pub(crate) async fn send_request(&mut self, method: &str, mut params: Value) -> u64 {
        let request = self.body(method, &mut params);
        self.send(request.to_string().as_bytes()).await;
        self.last_id
    }

    /// Calls a tool over stdio and does not wait for the answer. Returns the id of the call.
    pub(crate) async fn send_call(&mut self, tool: &str, arguments: Value) -> u64 {
        let params = json!({ "name": tool, "arguments": arguments });
        self.send_request("tools/call", params).await
    }

    /// The next message over stdio.
    pub(crate) async fn receive(&mut self) -> Value {
        let line = timeout(TEST_TIMEOUT, self.pipes().stdout.next_line()).await;
        let line = line.expect("an answer in time").unwrap();
        serde_json::from_str(&line.expect("an answer before the end")).unwrap()
    }

    /// The answer to the request `id` over stdio. Errors without an id and progress may precede it.
    pub(crate) async fn answer(&mut self, id: u64) -> Value {
        loop {
            let answer = self.receive().await;
            if answer["id"] == id {
                return answer;
            }
            assert!(answer["id"].is_null(), "unexpected answer {answer}");
        }
    }

    /// Sends a request; returns the JSON-RPC answer.
    pub(crate) async fn request(&mut self, method: &str, params: Value) -> Value {
        if let Peer::Stdio(_) = self.peer {
            let id = self.send_request(method, params).await;
            return self.answer(id).await;
        }
        let answer = self.post(method, params).await.message();
        assert_eq!(answer["id"], self.last_id, "{answer}");
        answer
    }

    /// Calls a tool; returns its result.
    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let params = json!({ "name": tool, "arguments": arguments });
        let mut answer = self.request("tools/call", params).await;
        assert!(answer["error"].is_null(), "{answer}");
        assert_eq!(self.status, 200, "{answer}");
        answer["result"].take()
    }

    /// Calls a tool that succeeds; returns the structured content.
    pub(crate) async fn ok(&mut self, tool: &str, arguments: Value) -> Value {
        content_of(&self.call(tool, arguments).await)
    }

    /// Calls a tool that fails in-band; returns the text.
    pub(crate) async fn refused(&mut self, tool: &str, arguments: Value) -> String {
        refusal_in(&self.call(tool, arguments).await)
    }

    /// Calls a tool; the server may ask before it answers.
    pub(crate) async fn step(&mut self, params: Value) -> Step {
        let call = params.clone();
        let message = if let Peer::Stdio(_) = self.peer {
            self.send_request("tools/call", params).await;
            self.receive().await
        } else {
            self.request("tools/call", params).await
        };
        Step::read(message, self.last_id, call)
    }

    /// Removes a backup of [`Sandbox::ORDERS`].
    pub(crate) async fn remove(&mut self, number: u32) -> Step {
        self.step(removal(number)).await
    }

    /// Removes one; returns the question.
    pub(crate) async fn ask(&mut self, number: u32) -> Question {
        self.remove(number).await.question()
    }

    /// Answers a question.
    pub(crate) async fn respond(&mut self, question: &Question, answer: Value) -> Step {
        if self.era == Era::Stateless {
            let call = question.answered(&answer, question.state());
            return self.step(call).await;
        }
        self.reply(question, "result", answer).await;
        self.next(question).await
    }

    /// Answers the server's request of the handshake era.
    pub(crate) async fn reply(&mut self, question: &Question, member: &str, value: Value) {
        let reply = json!({ "jsonrpc": "2.0", "id": question.ticket, member: value });
        self.send(reply.to_string().as_bytes()).await;
    }

    /// What follows the call in which a question was asked.
    pub(crate) async fn next(&mut self, question: &Question) -> Step {
        let message = self.receive().await;
        Step::read(message, self.last_id, question.call.clone())
    }

    /// The answers to calls with these parameters: over stdio, all are sent before one is read.
    pub(crate) async fn answers(&mut self, calls: &[Value]) -> Vec<Value> {
        let mut answers = Vec::new();
        if let Peer::Stdio(_) = self.peer {
            for params in calls {
                self.send_request("tools/call", params.clone()).await;
            }
            for _ in calls {
                answers.push(self.receive().await);
            }
        } else {
            for params in calls {
                answers.push(self.request("tools/call", params.clone()).await);
            }
        }
        answers
    }

    pub(crate) fn close_stdin(&mut self) {
        self.pipes().stdin = None;
    }

    /// Closes standard input and waits for the end. Returns the rest of standard output, and all of
    /// standard error.
    pub(crate) async fn finish(mut self) -> Finished {
        self.close_stdin();
        let pipes = self.pipes();
        let mut stdout = String::new();
        let all = async {
            while let Some(line) = pipes.stdout.next_line().await.unwrap() {
                stdout.push_str(&line);
                stdout.push('\n');
            }
            pipes.child.wait().await.unwrap()
        };
        let status = timeout(TEST_TIMEOUT, all).await.expect("the program ends");
        let stderr = pipes.stderr.take().unwrap().await.unwrap();
        Finished {
            status,
            stdout,
            stderr,
        }
    }
}

/// Adds what every request of the stateless era carries, unless it says something else there.
fn add_stateless_meta(params: &mut Value, capabilities: &Value) {
    let Some(params) = params.as_object_mut() else {
        return;
    };
    let meta = params.entry("_meta").or_insert_with(|| json!({}));
    for (key, value) in [
        ("protocolVersion", json!("2026-07-28")),
        ("clientInfo", json!({ "name": "test", "version": "1" })),
        ("clientCapabilities", capabilities.clone()),
    ] {
        let meta = meta.as_object_mut().unwrap();
        let key = format!("io.modelcontextprotocol/{key}");
        meta.entry(key).or_insert(value);
    }
}

/// An interface of the server over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interface {
    Mcp,
    Rest,
}

pub(crate) const INTERFACES: [Interface; 2] = [Interface::Mcp, Interface::Rest];

/// A caller of an interface over one connection, which stays open.
pub(crate) struct Caller {
    pub(crate) interface: Interface,
    client: Client,
    connection: Connection,
}

impl Caller {
    pub(crate) async fn of(server: &Server, interface: Interface) -> Self {
        Self::with_token(server, interface, None).await
    }

    pub(crate) async fn with_token(
        server: &Server,
        interface: Interface,
        token: Option<&'static str>,
    ) -> Self {
        let address = match interface {
            Interface::Mcp => server.mcp,
            Interface::Rest => server.rest,
        };
        Self {
            interface,
            client: Client::over_http(server, Era::Stateless, token),
            connection: Connection::open(address).await,
        }
    }

    /// With a key of its own.
    pub(crate) fn with_key(mut self, key: Option<String>) -> Self {
        self.client.key = key;
        self
    }

    pub(crate) fn key(&self) -> Option<&str> {
        self.client.key.as_deref()
    }

    fn request(&mut self, tool: &str, arguments: &Value, rest: Request) -> Request {
        match self.interface {
            Interface::Mcp => self.client.tool(tool, arguments),
            Interface::Rest => rest
                .token(self.client.token)
                .key(self.client.key.as_deref()),
        }
    }

    pub(crate) fn list(&mut self, database: &str) -> Request {
        let rest = Request::get(&backups_of(database));
        self.request(LIST, &json!({ "databaseId": database }), rest)
    }

    pub(crate) fn add(&mut self, database: &str, name: &str, message: &str) -> Request {
        let arguments = json!({ "databaseId": database, "name": name, "message": message });
        let body = json!({ "name": name, "message": message });
        self.request(ADD, &arguments, Request::post(&backups_of(database), &body))
    }

    pub(crate) fn remove(&mut self, database: &str, backup: &str) -> Request {
        let arguments = json!({ "databaseId": database, "backupId": backup });
        let rest = Request::delete(&format!("{}/{backup}", backups_of(database)));
        self.request(REMOVE, &arguments, rest)
    }

    /// Removes several at once, over MCP.
    pub(crate) fn remove_all(&mut self, database: &str, backups: &[String]) -> Request {
        let arguments = json!({ "databaseId": database, "backupIds": backups });
        self.client.tool(REMOVE, &arguments)
    }

    /// Lets the server ask: see [`confirmed`](Self::confirmed).
    pub(crate) fn can_be_asked(mut self) -> Self {
        self.client.capabilities = can_ask();
        self
    }

    /// Sends a request with these headers, and answers yes to each question.
    pub(crate) async fn confirmed(
        &mut self,
        mut request: Request,
        headers: [(&'static str, &str); 2],
    ) -> CallResult {
        loop {
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let answer = self.connection.exchange(&request).await;
            let is_question = self.interface == Interface::Mcp
                && answer.message()["result"]["resultType"] == "input_required";
            if !is_question {
                return CallResult::read(self.interface, answer);
            }
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let id = body["id"].as_u64().unwrap();
            let question = Step::read(answer.message(), id, body["params"].clone()).question();
            let again = question.answered(&yes(), question.state());
            request = self.client.message("tools/call", again);
        }
    }

    pub(crate) async fn listed(&mut self, database: &str) -> CallResult {
        let request = self.list(database);
        self.send(&request).await
    }

    pub(crate) async fn added(&mut self, database: &str, name: &str, message: &str) -> CallResult {
        let request = self.add(database, name, message);
        self.send(&request).await
    }

    pub(crate) async fn removed(&mut self, database: &str, backup: &str) -> CallResult {
        let request = self.remove(database, backup);
        self.send(&request).await
    }

    pub(crate) async fn send(&mut self, request: &Request) -> CallResult {
        self.try_send(request).await.expect("a whole answer")
    }

    /// The same with a server that may go away.
    pub(crate) async fn try_send(&mut self, request: &Request) -> io::Result<CallResult> {
        let answer = self.connection.try_exchange(request).await?;
        Ok(CallResult::read(self.interface, answer))
    }

    /// Writes the request on a connection of its own, and does not wait for the answer.
    pub(crate) async fn start(&self, request: &Request) -> Connection {
        Connection::with(self.connection.address, request).await
    }
}
