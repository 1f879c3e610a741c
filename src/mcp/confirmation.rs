//! Asks a person before a removal: by multi-round-trip requests on 2026-07-28, by
//! `elicitation/create` before it.
//!
//! What must never live here: whether a backup may go. That is decided by `backups`, once before the
//! question and once more after the answer.

use std::borrow::Cow;

use rmcp::{
    ErrorData, RoleServer,
    model::{
        ClientCapabilities, ElicitRequest, ElicitRequestParams, ElicitationCapability, ErrorCode,
        FormElicitationCapability, InputRequest, InputRequests, InputRequiredResult,
        InputResponses, ServerRequest,
    },
    service::{PeerRequestOptions, RequestContext},
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Server, is_stateless,
    progress::Progress,
    question::question,
    results::{Decision, Refusal, Reply},
};
use crate::{
    backups::{self, Confirm, Fingerprint, RemovalPlan, RemovalRequest},
    context::{Context, Deadline},
    qovery::{BackupId, DatabaseId},
    telemetry::OK,
    text,
};

/// The name of the question among a result's input requests.
const QUESTION: &str = "confirmation";

/// What the host answered for the person. Whether a person saw the question, nobody knows here.
enum Answer {
    Yes,
    /// No, or nothing; in words for a model.
    No(Cow<'static, str>),
}

impl Answer {
    /// Reads an answer, if it is one. A form may hold its values as text: of that only `true` is a yes.
    fn read(answer: &Value) -> Result<Self, &'static str> {
        let action = answer["action"].as_str().ok_or("it has no action")?;
        let form = &answer["content"];
        let reason = match (action, form) {
            ("accept", Value::Object(form)) => match form.get("remove") {
                Some(Value::Bool(true)) => return Ok(Self::Yes),
                Some(Value::String(text)) if text == "true" => return Ok(Self::Yes),
                None | Some(Value::Bool(_) | Value::String(_) | Value::Null) => {
                    Self::UNTICKED.into()
                }
                Some(_) => return Err("`remove` is neither true nor false"),
            },
            ("accept", Value::Null) => Self::UNTICKED.into(),
            ("accept", _) => return Err("its content is no form"),
            ("decline", _) => {
                "The host answered no for the person. Nothing was removed. Do not ask again about \
                 these backups; the rest of the task may go on. If the host showed no question, it \
                 cannot show one."
                    .into()
            }
            ("cancel", _) => {
                "The host closed the question without an answer. Nothing was removed. If it showed \
                 no question, it cannot show one."
                    .into()
            }
            (other, _) => {
                let other = text::excerpt(other);
                format!("The host answered \"{other}\" for the person. Nothing was removed.").into()
            }
        };
        Ok(Self::No(reason))
    }

    const UNTICKED: &str =
        "The host answered for the person without ticking the box. Nothing was removed.";
}

/// What is to be removed: backups of one database.
pub(super) struct Target {
    pub(super) database: DatabaseId,
    pub(super) backups: Vec<BackupId>,
}

impl Target {
    /// The one call that an answer counts for.
    fn sealed_for(&self, context: &Context) -> Vec<u8> {
        let Self { database, backups } = self;
        let caller = context.caller.name();
        let call = json!([caller, "remove-database-backup", database, backups]);
        call.to_string().into_bytes()
    }

    /// Nothing was removed, as the host answered for the person.
    fn kept(&self, reason: &str) -> Result<Reply, Refusal> {
        Ok(Reply::new(Decision::kept(&self.backups, reason))?.called("not_confirmed"))
    }
}

impl Server {
    /// Removes backups, once the host has said yes for a person where one can and must be asked.
    /// `answer` is what the client carries back from a question: its sealed state and the response.
    pub(super) async fn remove_with_consent(
        &self,
        target: Target,
        (state, responses): (Option<String>, Option<InputResponses>),
        context: &Context,
        peer: &RequestContext<RoleServer>,
    ) -> Result<Reply, Refusal> {
        let facts = state
            .as_deref()
            .map(|state| self.seal.open(state, &target.sealed_for(context)))
            .transpose()?;
        let answer = responses
            .and_then(|mut responses| responses.remove(QUESTION))
            .map(|answer| Answer::read(&answer))
            .transpose()
            .map_err(|reason| {
                let error = ErrorData::invalid_params(misfit(reason), None);
                Refusal::protocol("invalid_params", error)
            })?;
        let (Some(answer), Some(state)) = (&answer, state) else {
            return match answer {
                // Taken at its word, even without the state that was sealed with the question.
                Some(Answer::No(reason)) => target.kept(&reason),
                _ => self.remove(&target, None, context, peer).await,
            };
        };
        // What is final is kept: the next one who sends this answer gets it again.
        let answered = self.questions.answer(&state)?;
        let reply = answered.get_or_try_init(async || match answer {
            Answer::No(reason) => target.kept(reason).map_err(Err),
            Answer::Yes => match self.remove(&target, facts, context, peer).await {
                Ok(reply) if reply.is_final() => Ok(reply),
                other => Err(other),
            },
        });
        reply.await.cloned().or_else(|other| other)
    }

    async fn remove(
        &self,
        target: &Target,
        mut confirmed: Option<Fingerprint>,
        context: &Context,
        peer: &RequestContext<RoleServer>,
    ) -> Result<Reply, Refusal> {
        let Target { database, backups } = target;
        let stateless = is_stateless(peer);
        let asks = self.backups.policy().confirm != Confirm::Never && can_be_asked(peer);
        let time = match backups.as_slice() {
            [_] => self.limits().call,
            _ => self.limits().batch,
        };
        loop {
            // A person's time is not the call's.
            let context = context.with_deadline(Deadline::after(time));
            let facts = if confirmed.is_some() || !asks {
                let told = |gone| format!("{gone} removed");
                let progress = Progress::begin(peer, &context, Some(backups.len()), told);
                let removal = RemovalRequest {
                    database: *database,
                    backups: backups.clone(),
                    confirmed,
                    gone: progress.count(),
                };
                let removed = self.backups.remove(&context, removal).await;
                progress.end().await;
                match removed {
                    Ok(removed) => {
                        let stopped = removed.results.last().and_then(|last| last.as_ref().err());
                        let outcome = stopped.map_or(OK, backups::Error::kind);
                        let mut decision = Decision::removed(removed);
                        decision.note = self.noted(decision.note);
                        return Ok(Reply::new(decision)?.called(outcome));
                    }
                    Err(backups::Error::Changed(facts)) if asks => *facts,
                    Err(error @ backups::Error::Unconfirmed(_)) if stateless => {
                        return Err(cannot_be_asked(&error));
                    }
                    Err(error) => return Err(error.into()),
                }
            } else {
                self.backups
                    .plan_removal(&context, *database, backups)
                    .await?
            };
            let _asking = self.questions.ask(&context.caller, backups)?;
            let name = self.backups.name(&context, *database).await;
            let question = question(&facts, name.as_deref());
            if stateless {
                return Ok(self.carry(question, &facts, &target.sealed_for(&context)));
            }
            match self.ask(question, &context, peer).await? {
                Answer::Yes => confirmed = Some(facts.fingerprint()),
                Answer::No(reason) => return target.kept(&reason),
            }
        }
    }

    /// The question, for the client to carry to the person and back.
    fn carry(
        &self,
        question: ElicitRequestParams,
        facts: &RemovalPlan,
        sealed_for: &[u8],
    ) -> Reply {
        let patience = self.limits().answer_timeout;
        let state = self.seal.seal(facts.fingerprint(), sealed_for, patience);
        let request = InputRequest::Elicitation(ElicitRequest::new(question));
        let requests = InputRequests::from([(QUESTION.to_owned(), request)]);
        Reply {
            outcome: "input_required",
            response: InputRequiredResult::new(Some(requests), Some(state)).into(),
        }
    }

    /// Asks over the connection of the call, and takes the question back when nobody waits for its
    /// answer any more.
    async fn ask(
        &self,
        question: ElicitRequestParams,
        context: &Context,
        peer: &RequestContext<RoleServer>,
    ) -> Result<Answer, Refusal> {
        let failed = || {
            let reason = "The client could not ask the person. Nothing was removed.";
            Refusal::in_band("not_asked", &reason)
        };
        let request = ServerRequest::ElicitRequest(ElicitRequest::new(question));
        let mut asked = peer
            .peer
            .send_request_with_option(request, PeerRequestOptions::no_options())
            .await
            .map_err(|_| failed())?;
        let (reason, answer) = tokio::select! {
            biased;
            () = context.cancellation.cancelled() => (
                "the call was cancelled",
                Answer::No("The call was cancelled. Nothing was removed.".into()),
            ),
            answer = &mut asked.rx => {
                let Ok(Ok(answer)) = answer else {
                    return Err(failed());
                };
                return Answer::read(&json!(answer))
                    .map_err(|reason| Refusal::in_band("not_asked", &misfit(reason)));
            }
            () = self.shutdown.no_retries.cancelled() => (
                "this server is shutting down",
                Answer::No("This server is shutting down. Nothing was removed.".into()),
            ),
            () = sleep(self.limits().prompt_timeout) => (
                "nobody answered",
                Answer::No("Nobody answered the question. Nothing was removed.".into()),
            ),
        };
        // The call need not wait for it: the session may be about to end.
        tokio::spawn(async move {
            if let Err(error) = asked.cancel(Some(reason.to_owned())).await {
                tracing::debug!(%error, "a question could not be taken back");
            }
        });
        Ok(answer)
    }
}

/// The client answered something else than it was asked.
fn misfit(reason: &str) -> String {
    format!("The answer to the question does not fit: {reason}. Nothing was removed.")
}

/// Whether the client can show a form (MCP, "Elicitation", capabilities: an empty one means a form).
/// One that said so in a handshake cannot take it back for a single call. Without a session there is
/// no way back to a client of an older revision, whatever its request claims.
fn can_be_asked(context: &RequestContext<RoleServer>) -> bool {
    let in_handshake = context.peer.peer_info();
    let in_handshake = in_handshake.map(|client| client.capabilities.clone());
    let in_request = context.client_capabilities();
    let in_request = in_request.filter(|_| is_stateless(context));
    [in_handshake, in_request]
        .into_iter()
        .filter_map(|capabilities| capabilities?.elicitation)
        .any(|modes| modes.form.is_some() || modes.url.is_none())
}

/// The protocol's own error for it, with words that a model can pass on.
fn cannot_be_asked(error: &backups::Error) -> Refusal {
    let form = ElicitationCapability::new().with_form(FormElicitationCapability::default());
    let mut required = ClientCapabilities::default();
    required.elicitation = Some(form);
    let mut message = error.to_string();
    text::sanitize(&mut message);
    let data = json!({ "requiredCapabilities": required });
    let code = ErrorCode::MISSING_REQUIRED_CLIENT_CAPABILITY;
    Refusal::protocol(error.kind(), ErrorData::new(code, message, Some(data)))
}
