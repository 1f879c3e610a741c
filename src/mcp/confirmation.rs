//! Asks a person before a removal: by multi-round-trip requests on 2026-07-28, by
//! `elicitation/create` before it.
//!
//! What must never live here: whether a backup may go. That is decided by `backups`, once before the
//! question and once more after the answer.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rmcp::{
    ErrorData, RoleServer,
    model::{
        ClientCapabilities, ClientResult, ElicitRequest, ElicitResult, ElicitationAction,
        ElicitationCapability, ErrorCode, FormElicitationCapability, InputRequest, InputRequests,
        InputRequiredResult, InputResponses, JsonObject, ServerRequest,
    },
    service::{PeerRequestOptions, RequestContext},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Server,
    arguments::RemoveArguments,
    is_stateless,
    question::question,
    results::{Refusal, RemovalResult},
};
use crate::{
    backups::{self, Removal},
    call::{self, Call},
    clean,
    qovery::BackupId,
};

/// How long a person may take in a session, which the transport ends after five idle minutes.
const PATIENCE_OF_A_SESSION: Duration = Duration::from_secs(4 * 60);

/// The name of the question among a result's input requests.
const QUESTION: &str = "confirmation";

/// The form, as a person has filled it in.
#[derive(Deserialize)]
struct Form {
    #[serde(default)]
    remove: bool,
}

/// What a person made of the question.
enum Answer {
    Yes,
    /// No, or nothing; in words for a model.
    No(&'static str),
}

/// The questions that wait for an answer over a connection, by their backup. A person who is asked
/// again and again stops reading.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<HashSet<BackupId>>);

/// A question that waits. Another one can be asked when it is dropped.
struct Waiting<'a> {
    questions: &'a Questions,
    backup: BackupId,
}

impl Answer {
    /// Reads an answer, if it is one.
    fn read(answer: Value) -> serde_json::Result<Self> {
        Self::of(object(answer)?)
    }

    /// What a person answered, if the form was filled in as it must be.
    fn of(answer: ElicitResult) -> serde_json::Result<Self> {
        Ok(match answer.action {
            ElicitationAction::Accept => {
                let form = answer.content.map(object::<Form>).transpose()?;
                if form.is_some_and(|form| form.remove) {
                    Self::Yes
                } else {
                    Self::No("The person did not tick the box. Nothing was removed.")
                }
            }
            ElicitationAction::Decline => {
                Self::No("The person declined. Nothing was removed. Do not ask again.")
            }
            _ => Self::No("The person closed the question. Nothing was removed."),
        })
    }
}

/// Reads an object. Serde would take a list for one, too.
fn object<T: DeserializeOwned>(value: Value) -> serde_json::Result<T> {
    let object: JsonObject = serde_json::from_value(value)?;
    serde_json::from_value(object.into())
}

impl Questions {
    fn ask(&self, backup: BackupId) -> Result<Waiting<'_>, &'static str> {
        /// Each holds one of the places for calls, for minutes.
        const MOST: usize = 32;
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MOST {
            return Err("Too many questions wait for an answer. Nothing was removed. Try later.");
        }
        if !open.insert(backup) {
            return Err(
                "A person is being asked about this backup already. Nothing was removed by this call.",
            );
        }
        Ok(Waiting {
            questions: self,
            backup,
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let open = &self.questions.0;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.backup);
    }
}

impl Server {
    /// Removes a backup, once a person has said yes where one can and must be asked.
    pub(super) async fn remove_with_consent(
        &self,
        call: &Arc<Call>,
        RemoveArguments {
            database_id,
            backup_id,
        }: RemoveArguments,
        state: Option<String>,
        responses: Option<InputResponses>,
        context: &RequestContext<RoleServer>,
    ) -> Result<RemovalResult, Refusal> {
        let sealed_for = json!([
            call.caller(),
            "remove-database-backup",
            database_id,
            backup_id
        ]);
        let sealed_for = sealed_for.to_string().into_bytes();
        let facts = state.map(|state| self.seal.open(&state, &sealed_for));
        let facts = facts
            .transpose()
            .inspect_err(|_| call.set_outcome("state_refused"))?;
        let answer = responses.and_then(|mut responses| responses.remove(QUESTION));
        let answer = answer
            .map(Answer::read)
            .transpose()
            .map_err(|error| misfit(&error))?;
        let mut confirmed = match answer {
            // Taken at its word, even without the state that was sealed with the question.
            Some(Answer::No(reason)) => return Ok(kept(call, reason)),
            Some(Answer::Yes) => facts,
            None => None,
        };
        let stateless = is_stateless(context);
        let asks = self.backups.ask_where_possible() && can_be_asked(context);
        let mut proposal = None;
        loop {
            if confirmed.is_some() || !asks {
                let removal = self.backups.remove(call, database_id, backup_id, confirmed);
                match removal.await {
                    Err(backups::Error::Changed(facts)) if asks => proposal = Some(*facts),
                    Err(error @ backups::Error::Unconfirmed(_)) if stateless => {
                        return Err(cannot_be_asked(&error));
                    }
                    Err(error) => {
                        // Facts that changed end the call only here, where nobody can be asked again.
                        call.set_outcome(error.kind());
                        return Err(error.into());
                    }
                    Ok(removal) => return Ok(removal.into()),
                }
            }
            let facts = if let Some(facts) = proposal.take() {
                facts
            } else {
                let proposal = self.backups.propose_removal(call, database_id, backup_id);
                proposal.await?
            };
            if stateless {
                call.set_outcome(call::INPUT_REQUIRED);
                let state = self.seal.seal(facts.digest(), &sealed_for);
                let request = InputRequest::Elicitation(ElicitRequest::new(question(&facts)));
                let requests = InputRequests::from([(QUESTION.to_owned(), request)]);
                let question = InputRequiredResult::new(Some(requests), Some(state));
                return Ok(RemovalResult::Asked(question));
            }
            match self.ask(&facts, context).await {
                Ok(Answer::Yes) => confirmed = Some(facts.digest()),
                Ok(Answer::No(reason)) => return Ok(kept(call, reason)),
                Err(reason) => {
                    call.set_outcome("not_asked");
                    return Err(reason.into());
                }
            }
        }
    }

    /// Asks over the connection of the call, and takes the question back when nobody waits for its
    /// answer any more.
    async fn ask(
        &self,
        facts: &Removal,
        context: &RequestContext<RoleServer>,
    ) -> Result<Answer, &'static str> {
        let failed = "The client could not ask the person. Nothing was removed.";
        let _waiting = self.questions.ask(facts.backup.id)?;
        let request = ServerRequest::ElicitRequest(ElicitRequest::new(question(facts)));
        let mut asked = context
            .peer
            .send_request_with_option(request, PeerRequestOptions::no_options())
            .await
            .map_err(|_| failed)?;
        let (reason, answer) = tokio::select! {
            biased;
            () = context.ct.cancelled() => (
                "the call was cancelled",
                Answer::No("The call was cancelled. Nothing was removed."),
            ),
            answer = &mut asked.rx => {
                let Ok(Ok(ClientResult::ElicitResult(answer))) = answer else {
                    return Err(failed);
                };
                return Answer::of(answer).map_err(|_| failed);
            }
            () = sleep(PATIENCE_OF_A_SESSION) => (
                "nobody answered",
                Answer::No("Nobody answered the question. Nothing was removed."),
            ),
        };
        if let Err(error) = asked.cancel(Some(reason.to_owned())).await {
            tracing::debug!(%error, "a question could not be taken back");
        }
        Ok(answer)
    }
}

/// The client broke the protocol.
fn misfit(error: &serde_json::Error) -> Refusal {
    let message = format!(
        "The answer to the question does not fit: {}. Nothing was removed.",
        clean::excerpt(&error.to_string())
    );
    Refusal::Protocol(ErrorData::invalid_params(message, None))
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
    Refusal::Protocol(ErrorData::new(
        ErrorCode::MISSING_REQUIRED_CLIENT_CAPABILITY,
        message,
        Some(data),
    ))
}

/// Nothing was removed, and that is how the person wants it.
fn kept(call: &Call, reason: &'static str) -> RemovalResult {
    call.set_outcome(call::NOT_CONFIRMED);
    RemovalResult::kept(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_asked_once_at_a_time_about_a_backup() {
        let questions = Questions::default();
        let id = |number: usize| {
            format!("bac00000-0000-4000-8000-{number:012}")
                .parse()
                .unwrap()
        };
        let first = questions.ask(id(0)).unwrap();
        assert!(questions.ask(id(0)).is_err());
        drop(first);
        let open: Vec<_> = (0..32)
            .map(|number| questions.ask(id(number)).unwrap())
            .collect();
        assert!(questions.ask(id(32)).is_err());
        drop(open);
        assert!(questions.ask(id(32)).is_ok());
    }
}
