//! A host that puts the server's questions to a person, on every way there is; and a database whose
//! backups a test can change.

use std::sync::{Arc, Mutex};

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    helpers::{Era, Session, TestApp, Upstream, backup_id, page, reply},
    helpers_http::{Client, Connection, Server},
};

/// How a host reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Stdio,
    /// With sessions, for the era that needs them.
    Http,
    SessionlessHttp,
}

pub(crate) type Way = (Wire, Era);

/// Every way on which a person can be asked.
pub(crate) const WAYS: [Way; 4] = [
    (Wire::Stdio, Era::Handshake),
    (Wire::Stdio, Era::Stateless),
    (Wire::Http, Era::Handshake),
    (Wire::Http, Era::Stateless),
];

/// Those on which the question's state goes to the client and back.
pub(crate) const STATELESS: [Way; 2] = [WAYS[1], WAYS[3]];

/// What a client says that can show a question.
pub(crate) fn can_ask() -> Value {
    json!({ "elicitation": { "form": {} } })
}

/// What a person answers who wants the backup gone.
pub(crate) fn yes() -> Value {
    json!({ "action": "accept", "content": { "remove": true } })
}

/// An upstream that holds these backups, whatever the database.
pub(crate) struct Database {
    upstream: Upstream,
    backups: Arc<Mutex<Vec<Value>>>,
}

impl Database {
    pub(crate) async fn with(backups: impl Into<Vec<Value>>) -> Self {
        let backups = Arc::new(Mutex::new(backups.into()));
        let kept = Arc::clone(&backups);
        let upstream = Upstream::start(move |_, line| {
            let mut backups = kept.lock().unwrap();
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

    pub(crate) fn app(&self) -> TestApp {
        TestApp::with_upstream(&self.url())
    }

    pub(crate) fn url(&self) -> String {
        self.upstream.url()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<Value>)) {
        change(&mut self.backups.lock().unwrap());
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.upstream.requests().len()
    }

    /// The first line of each request that was not a look.
    pub(crate) fn changes(&self) -> Vec<String> {
        let requests = self.upstream.requests();
        let lines = requests.iter().filter_map(|request| request.lines().next());
        let changes = lines.filter(|line| !line.starts_with("GET "));
        changes.map(str::to_owned).collect()
    }
}

/// The first line of the request that removes a backup of [`Sandbox::ORDERS`].
pub(crate) fn removes(number: u32) -> String {
    let (database, backup) = (Sandbox::ORDERS, backup_id(number));
    format!("DELETE /database/{database}/backup/{backup} HTTP/1.1")
}

/// The parameters of a call that removes a backup of [`Sandbox::ORDERS`].
pub(crate) fn removal(number: u32) -> Value {
    let arguments = json!({ "databaseId": Sandbox::ORDERS, "backupId": backup_id(number) });
    json!({ "name": "remove-database-backup", "arguments": arguments })
}

/// What a question is answered with.
pub(crate) fn responses(answer: &Value) -> Value {
    json!({ "confirmation": answer })
}

/// A client at the end of its wire.
pub(crate) struct Host {
    era: Era,
    line: Line,
    /// The id of its last call.
    call: u64,
    /// The HTTP status of the last answer.
    pub(crate) status: u16,
    /// What its calls carry, beside what they must.
    pub(crate) meta: Option<Value>,
}

enum Line {
    Stdio(Box<Session>),
    Http(Box<Http>),
}

struct Http {
    client: Client,
    connection: Connection,
    events: Option<Connection>,
    _server: Server,
}

/// What comes back from a call.
#[derive(Debug)]
pub(crate) enum Step {
    Asked(Question),
    Answered(Value),
}

#[derive(Debug)]
pub(crate) struct Question {
    /// What the person sees, and how to answer.
    pub(crate) params: Value,
    /// What the answer must carry: the id of the server's request, or the state.
    pub(crate) ticket: Value,
    call: Value,
}

impl Host {
    pub(crate) async fn start(
        app: &TestApp,
        (wire, era): Way,
        arguments: &[&str],
        capabilities: Value,
    ) -> Self {
        let line = if wire == Wire::Stdio {
            let mut session = app.spawn(era, arguments);
            session.capabilities = capabilities;
            if era == Era::Handshake {
                session.open().await;
            }
            Line::Stdio(Box::new(session))
        } else {
            let sessions = match wire {
                Wire::Http => "--sessions",
                _ => "--sessions=false",
            };
            let server = app
                .serve(&[&["--no-rest", sessions], arguments].concat())
                .await;
            let mut client = Client::new(&server, era, None);
            client.capabilities = capabilities;
            if era == Era::Handshake {
                client.open().await;
            }
            Line::Http(Box::new(Http {
                connection: Connection::open(client.address).await,
                client,
                events: None,
                _server: server,
            }))
        };
        Self {
            era,
            line,
            call: 0,
            status: 200,
            meta: None,
        }
    }

    /// Has its calls carry this access token, over HTTP.
    pub(crate) fn set_token(&mut self, token: &'static str) {
        if let Line::Http(http) = &mut self.line {
            http.client.token = Some(token);
        }
    }

    /// Calls the tool, and gives the question.
    pub(crate) async fn ask(&mut self, number: u32) -> Question {
        self.remove(number).await.question()
    }

    pub(crate) async fn remove(&mut self, number: u32) -> Step {
        self.call(removal(number)).await
    }

    pub(crate) async fn call(&mut self, mut params: Value) -> Step {
        let call = params.clone();
        if let Some(meta) = &self.meta {
            params["_meta"] = meta.clone();
        }
        match &mut self.line {
            Line::Stdio(session) => self.call = session.post("tools/call", params).await,
            Line::Http(http) => {
                let request = http.client.message("tools/call", params);
                self.call = http.client.last_id;
                if http.client.session.is_none() {
                    let answer = http.connection.exchange(&request).await;
                    self.status = answer.status;
                    return self.step(answer.json(), call);
                }
                // The last one may still have the end of a stream to read.
                http.connection = Connection::open(http.client.address).await;
                let bytes = request.bytes(http.client.address);
                http.connection.write(&bytes).await;
                self.status = http.connection.head().await.status;
            }
        }
        let message = self.receive().await;
        self.step(message, call)
    }

    /// Posts calls of these parameters as fast as they go, and gives the answers.
    pub(crate) async fn calls(&mut self, calls: &[Value]) -> Vec<Value> {
        let mut answers = Vec::new();
        if let Line::Http(_) = self.line {
            for params in calls {
                answers.push(self.call(params.clone()).await.answer());
            }
        } else if let Line::Stdio(session) = &mut self.line {
            // So few that neither pipe fills up while nobody reads from it.
            for calls in calls.chunks(32) {
                for params in calls {
                    let mut params = params.clone();
                    if let Some(meta) = &self.meta {
                        params["_meta"] = meta.clone();
                    }
                    session.post("tools/call", params).await;
                }
                for _ in calls {
                    answers.push(session.receive().await);
                }
            }
        }
        answers
    }

    /// Answers a question; gives what comes of it.
    pub(crate) async fn answer(&mut self, question: &Question, answer: Value) -> Step {
        if self.era == Era::Stateless {
            return self
                .call(question.answered(&answer, question.state()))
                .await;
        }
        self.reply(question, "result", answer).await;
        self.next(question).await
    }

    /// Answers the server's request.
    pub(crate) async fn reply(&mut self, question: &Question, member: &str, value: Value) {
        let id = &question.ticket;
        self.send(json!({ "jsonrpc": "2.0", "id": id, member: value }))
            .await;
    }

    /// Cancels the last call.
    pub(crate) async fn cancel(&mut self) {
        let params = json!({ "requestId": self.call });
        self.send(
            json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params }),
        )
        .await;
    }

    async fn send(&mut self, message: Value) {
        let message = message.to_string();
        match &mut self.line {
            Line::Stdio(session) => session.send(message.as_bytes()).await,
            Line::Http(http) => {
                let posted = http.client.raw(message).send(http.client.address).await;
                assert_eq!(posted.status, 202, "{posted:?}");
            }
        }
    }

    /// What comes next to the call in which a question was asked.
    pub(crate) async fn next(&mut self, question: &Question) -> Step {
        let message = self.receive().await;
        self.step(message, question.call.clone())
    }

    async fn receive(&mut self) -> Value {
        match &mut self.line {
            Line::Stdio(session) => session.receive().await,
            Line::Http(http) => http.connection.event().await,
        }
    }

    /// Opens the stream of what the server says outside of calls. Over standard output it says
    /// everything in one.
    pub(crate) async fn listen(&mut self) {
        if let Line::Http(http) = &mut self.line {
            let mut events = Connection::open(http.client.address).await;
            let stream = http.client.stream().bytes(http.client.address);
            events.write(&stream).await;
            assert_eq!(events.head().await.status, 200);
            http.events = Some(events);
        }
    }

    /// What it says there next.
    pub(crate) async fn overhear(&mut self) -> Value {
        match &mut self.line {
            Line::Stdio(session) => session.receive().await,
            Line::Http(http) => http.events.as_mut().unwrap().event().await,
        }
    }

    fn step(&self, message: Value, call: Value) -> Step {
        if message["method"] == "elicitation/create" {
            return Step::Asked(Question {
                params: message["params"].clone(),
                ticket: message["id"].clone(),
                call,
            });
        }
        assert_eq!(message["id"], self.call, "{message}");
        let result = &message["result"];
        if result["resultType"] != "input_required" {
            return Step::Answered(message);
        }
        assert_eq!(result["inputRequests"].as_object().unwrap().len(), 1);
        let request = &result["inputRequests"]["confirmation"];
        assert_eq!(request["method"], "elicitation/create", "{message}");
        assert!(result["requestState"].is_string(), "{message}");
        Step::Asked(Question {
            params: request["params"].clone(),
            ticket: result["requestState"].clone(),
            call,
        })
    }
}

impl Step {
    pub(crate) fn question(self) -> Question {
        match self {
            Self::Asked(question) => question,
            Self::Answered(answer) => panic!("no question, but {answer}"),
        }
    }

    /// The whole message.
    pub(crate) fn answer(self) -> Value {
        match self {
            Self::Answered(answer) => answer,
            Self::Asked(question) => panic!("no answer, but {question:?}"),
        }
    }

    /// What was decided; the text repeats it.
    pub(crate) fn decision(self) -> Value {
        let answer = self.answer();
        let result = &answer["result"];
        assert_eq!(result["isError"], false, "{answer}");
        let text = result["content"][0]["text"].as_str().unwrap();
        let decision = &result["structuredContent"];
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), *decision);
        decision.clone()
    }

    /// The text with which an answer that is none is refused: on 2026-07-28 the client broke the
    /// protocol.
    pub(crate) fn misfit(self, era: Era) -> String {
        if era == Era::Handshake {
            return self.refusal();
        }
        let answer = self.answer();
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
        answer["error"]["message"].as_str().unwrap().to_owned()
    }

    /// The text of a failure that a model reads.
    pub(crate) fn refusal(self) -> String {
        let answer = self.answer();
        let result = &answer["result"];
        assert_eq!(result["isError"], true, "{answer}");
        assert!(result["structuredContent"].is_null(), "{answer}");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }
}

impl Question {
    pub(crate) fn text(&self) -> &str {
        self.params["message"].as_str().unwrap()
    }

    pub(crate) fn state(&self) -> &str {
        self.ticket.as_str().unwrap()
    }

    /// The parameters of the call again, with an answer and a state.
    pub(crate) fn answered(&self, answer: &Value, state: &str) -> Value {
        let mut call = self.call.clone();
        call["inputResponses"] = responses(answer);
        call["requestState"] = json!(state);
        call
    }
}
