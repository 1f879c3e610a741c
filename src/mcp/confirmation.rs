//! Asks a person before a removal: by multi-round-trip requests on 2026-07-28, by
//! `elicitation/create` before it.
//!
//! What must never live here: whether a backup may go. That is decided by `backups`, once before the
//! question and once more after the answer.

use rmcp::{
    ErrorData, RoleServer,
    model::{
        ClientCapabilities, ClientResult, ElicitRequest, ElicitRequestParams, ElicitResult,
        ElicitationAction, ElicitationCapability, ErrorCode, FormElicitationCapability,
        InputRequest, InputRequests, InputRequiredResult, InputResponses, JsonObject,
        ServerRequest,
    },
    service::{PeerRequestOptions, RequestContext},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Server, is_stateless,
    progress::Progress,
    question::question,
    results::{Decision, Refusal, Reply},
};
use crate::{
    backups::{self, Digest, Removal, Remove},
    clean,
    context::{Context, Deadline},
    qovery::{BackupId, DatabaseId},
    telemetry::OK,
};

/// The name of the question among a result's input requests.
const QUESTION: &str = "confirmation";

/// The form, as it was filled in.
#[derive(Deserialize)]
struct Form {
    #[serde(default)]
    remove: bool,
}

/// What the host answered for the person. Whether a person saw the question, nobody knows here.
enum Answer {
    Yes,
    /// No, or nothing; in words for a model.
    No(&'static str),
}

impl Answer {
    /// Reads an answer, if it is one.
    fn read(answer: Value) -> serde_json::Result<Self> {
        Self::of(object(answer)?)
    }

    /// What was answered, if the form was filled in as it must be.
    fn of(answer: ElicitResult) -> serde_json::Result<Self> {
        Ok(match answer.action {
            ElicitationAction::Accept => {
                let form = answer.content.map(object::<Form>).transpose()?;
                if form.is_some_and(|form| form.remove) {
                    Self::Yes
                } else {
                    Self::No(
                        "The host answered for the person without ticking the box. Nothing was \
                         removed.",
                    )
                }
            }
            ElicitationAction::Decline => Self::No(
                "The host answered no for the person. Nothing was removed. Do not ask again about \
                 these backups; the rest of the task may go on. If the host showed no question, it \
                 cannot show one.",
            ),
            _ => Self::No(
                "The host closed the question without an answer. Nothing was removed. If it showed \
                 no question, it cannot show one.",
            ),
        })
    }
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

/// Reads an object. Serde would take a list for one, too.
fn object<T: DeserializeOwned>(value: Value) -> serde_json::Result<T> {
    let object: JsonObject = serde_json::from_value(value)?;
    serde_json::from_value(object.into())
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
            .map(Answer::read)
            .transpose()
            .map_err(|error| misfit(&error))?;
        let (Some(answer), Some(state)) = (&answer, state) else {
            return match answer {
                // Taken at its word, even without the state that was sealed with the question.
                Some(Answer::No(reason)) => target.kept(reason),
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
        mut confirmed: Option<Digest>,
        context: &Context,
        peer: &RequestContext<RoleServer>,
    ) -> Result<Reply, Refusal> {
        let Target { database, backups } = target;
        let stateless = is_stateless(peer);
        let asks = self.backups.ask_where_possible() && can_be_asked(peer);
        let time = match backups.as_slice() {
            [_] => self.limits().call,
            _ => self.limits().batch,
        };
        loop {
            // A person's time is not the call's.
            let context = context.until(Deadline::after(time));
            let facts = if confirmed.is_some() || !asks {
                let progress =
                    Progress::begin(peer, Some(backups.len()), |gone| format!("{gone} removed"));
                let removal = Remove {
                    database: *database,
                    backups: backups.clone(),
                    confirmed,
                    gone: progress.count(),
                };
                let removed = self.backups.remove(&context, removal).await;
                progress.end().await;
                match removed {
                    Ok(removed) => {
                        let stopped = removed.ended.last().and_then(|last| last.as_ref().err());
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
                    .propose_removal(&context, *database, backups)
                    .await?
            };
            let _asking = self.questions.ask(&context.caller, backups)?;
            let name = self.backups.name(&context, *database).await;
            let question = question(&facts, name.as_deref());
            if stateless {
                return Ok(self.carry(question, &facts, &target.sealed_for(&context)));
            }
            match self.ask(question, &context, peer).await? {
                Answer::Yes => confirmed = Some(facts.digest()),
                Answer::No(reason) => return target.kept(reason),
            }
        }
    }

    /// The question, for the client to carry to the person and back.
    fn carry(&self, question: ElicitRequestParams, facts: &Removal, sealed_for: &[u8]) -> Reply {
        let patience = self.limits().patience;
        let state = self.seal.seal(facts.digest(), sealed_for, patience);
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
                Answer::No("The call was cancelled. Nothing was removed."),
            ),
            answer = &mut asked.rx => {
                let Ok(Ok(ClientResult::ElicitResult(answer))) = answer else {
                    return Err(failed());
                };
                return Answer::of(answer).map_err(|_| failed());
            }
            () = self.backups.process().shutdown.winding_down.cancelled() => (
                "this server is shutting down",
                Answer::No("This server is shutting down. Nothing was removed."),
            ),
            () = sleep(self.limits().patience_of_a_session) => (
                "nobody answered",
                Answer::No("Nobody answered the question. Nothing was removed."),
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

/// The client broke the protocol.
fn misfit(error: &serde_json::Error) -> Refusal {
    let message = format!(
        "The answer to the question does not fit: {}. Nothing was removed.",
        clean::excerpt(&error.to_string())
    );
    Refusal::protocol("invalid_params", ErrorData::invalid_params(message, None))
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
    clean::text(&mut message);
    let data = json!({ "requiredCapabilities": required });
    let code = ErrorCode::MISSING_REQUIRED_CLIENT_CAPABILITY;
    Refusal::protocol(error.kind(), ErrorData::new(code, message, Some(data)))
}
