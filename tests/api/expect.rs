//! What comes back, and what is expected of it.

use serde_json::{Value, json};

use crate::{
    app::TEST_TIMEOUT,
    clients::{Era, Interface},
};

/// Expects a text to contain each of these.
#[track_caller]
pub(crate) fn contains<const PARTS: usize>(text: &str, parts: [&str; PARTS]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// Expects a text to contain none of these.
#[track_caller]
pub(crate) fn lacks<const PARTS: usize>(text: &str, parts: [&str; PARTS]) {
    for part in parts {
        assert!(!text.contains(part), "{part:?} is in: {text}");
    }
}

/// An answer over HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names are in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header that occurs once at most.
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

    /// The problem details of this kind, with all members that they must have.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{kind}: {self:?}");
        let content_type = self.header("content-type");
        assert_eq!(content_type, Some("application/problem+json"));
        let problem = self.json();
        let members = problem.as_object().unwrap();
        let mut members: Vec<&str> = members.keys().map(String::as_str).collect();
        members.sort_unstable();
        let expected = "detail instance outcome retryable status title type";
        assert_eq!(members.join(" "), expected);
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

/// What a call reports, over either interface.
#[derive(Debug)]
pub(crate) struct CallResult {
    /// Whether the call succeeded.
    pub(crate) ok: bool,
    /// Of the change: `applied`, `not_applied` or `unknown`. A list that succeeds is `applied`, too.
    pub(crate) outcome: &'static str,
    /// The text of a failure.
    pub(crate) text: String,
    /// MCP's result, or the body of REST.
    pub(crate) json: Value,
    pub(crate) answer: Answer,
}

impl CallResult {
    pub(crate) fn read(interface: Interface, answer: Answer) -> Self {
        let (ok, text, json) = match interface {
            Interface::Mcp => {
                assert_eq!(answer.status, 200, "{answer:?}");
                let json = answer.message()["result"].clone();
                let text = json["content"][0]["text"].as_str();
                let text = text.unwrap_or_else(|| panic!("{answer:?}")).to_owned();
                (json["isError"] == false, text, json)
            }
            Interface::Rest if answer.status == 204 => (true, String::new(), Value::Null),
            Interface::Rest if answer.status < 300 => (true, String::new(), answer.json()),
            Interface::Rest => {
                let kind = answer.json()["type"].clone();
                let kind = kind.as_str().unwrap().rsplit(':').next().unwrap();
                let json = answer.problem(answer.status, &kind.replace('-', "_"));
                let text = json["detail"].as_str().unwrap().to_owned();
                assert_eq!(json["outcome"], outcome_in(&text), "{json}");
                (false, text, json)
            }
        };
        let outcome = if ok { "applied" } else { outcome_in(&text) };
        Self {
            ok,
            outcome,
            text,
            json,
            answer,
        }
    }

    /// The id of the backup that the answer is about.
    pub(crate) fn backup_id(&self) -> Option<&str> {
        let content = &self.json["structuredContent"];
        let ids = [&self.json["id"], &content["id"], &content["backup"]["id"]];
        ids.into_iter().find_map(Value::as_str)
    }
}

/// What a text says of the change. Each says it once.
fn outcome_in(text: &str) -> &'static str {
    let outcomes = [
        ("The change was made.", "applied"),
        ("Nothing was changed.", "not_applied"),
        ("Nothing was removed.", "not_applied"),
        ("Nothing was removed by this call.", "not_applied"),
        ("and nothing was changed.", "not_applied"),
        ("Whether anything was changed is not known.", "unknown"),
    ];
    let mut found = outcomes.iter().filter(|(words, _)| text.contains(words));
    let (_, outcome) = found.next().unwrap_or_else(|| panic!("{text}"));
    assert!(found.next().is_none(), "{text}");
    outcome
}

/// The structured content of a result that is no error; the text repeats it.
#[track_caller]
pub(crate) fn content_of(result: &Value) -> Value {
    assert_eq!(result["isError"], false, "{result}");
    let text = result["content"][0]["text"].as_str().unwrap();
    let content = &result["structuredContent"];
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), *content);
    content.clone()
}

/// The text of a result that is an error, and has nothing else.
#[track_caller]
pub(crate) fn refusal_in(result: &Value) -> String {
    assert_eq!(result["isError"], true, "{result}");
    assert!(result["structuredContent"].is_null(), "{result}");
    result["content"][0]["text"].as_str().unwrap().to_owned()
}

/// The next message in a removal that a person may be asked about.
#[derive(Debug)]
pub(crate) enum Step {
    Asked(Question),
    Answered(Value),
}

/// An elicitation of the server.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) params: Value,
    /// What an answer must carry: the id of the server's request, or the request state.
    pub(crate) ticket: Value,
    pub(crate) call: Value,
}

impl Step {
    /// Reads what follows `call`, which has this id.
    pub(crate) fn read(message: Value, id: u64, call: Value) -> Self {
        if message["method"] == "elicitation/create" {
            return Self::Asked(Question {
                params: message["params"].clone(),
                ticket: message["id"].clone(),
                call,
            });
        }
        assert_eq!(message["id"], id, "{message}");
        let result = &message["result"];
        if result["resultType"] != "input_required" {
            return Self::Answered(message);
        }
        assert_eq!(result["inputRequests"].as_object().unwrap().len(), 1);
        let request = &result["inputRequests"]["confirmation"];
        assert_eq!(request["method"], "elicitation/create", "{message}");
        assert!(result["requestState"].is_string(), "{message}");
        Self::Asked(Question {
            params: request["params"].clone(),
            ticket: result["requestState"].clone(),
            call,
        })
    }

    #[track_caller]
    pub(crate) fn question(self) -> Question {
        match self {
            Self::Asked(question) => question,
            Self::Answered(answer) => panic!("no question, but {answer}"),
        }
    }

    /// The whole message.
    #[track_caller]
    pub(crate) fn answer(self) -> Value {
        match self {
            Self::Answered(answer) => answer,
            Self::Asked(question) => panic!("no answer, but {question:?}"),
        }
    }

    /// The report of the removal.
    #[track_caller]
    pub(crate) fn report(self) -> Value {
        content_of(&self.answer()["result"])
    }

    /// Expects a report with this outcome.
    #[track_caller]
    pub(crate) fn outcome(self, outcome: &str) -> Value {
        let report = self.report();
        assert_eq!(report["outcome"], outcome, "{report}");
        report
    }

    /// The text of a failure that a model reads.
    #[track_caller]
    pub(crate) fn refusal(self) -> String {
        refusal_in(&self.answer()["result"])
    }

    /// The text that refuses a malformed answer: on 2026-07-28 the client broke the protocol.
    #[track_caller]
    pub(crate) fn malformed(self, era: Era) -> String {
        if era == Era::Handshake {
            return self.refusal();
        }
        let answer = self.answer();
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
        answer["error"]["message"].as_str().unwrap().to_owned()
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
        call["inputResponses"] = json!({ "confirmation": answer });
        call["requestState"] = json!(state);
        call
    }
}

/// Waits until a condition holds that has no event of its own.
pub(crate) async fn eventually(holds: impl Fn() -> bool) {
    let look = async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, look).await.unwrap();
}
