//! Confirmation of a removal by a person: by multi-round-trip requests on 2026-07-28, by
//! `elicitation/create` before it (stdio), by a dialog of the system where the client can show no form
//! (stdio).
//!
//! What must never live here: whether a backup may go. `backups` decides that, once before the
//! question and once more after the answer.

use std::borrow::Cow;

use rmcp::{
    ErrorData,
    model::{
        ClientCapabilities, ElicitRequest, ElicitationCapability, FormElicitationCapability,
        InputRequest, InputRequests, InputRequiredResult, InputResponses,
        ProgressNotificationParam, ServerRequest,
    },
    service::PeerRequestOptions,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    Request, Server, is_stateless,
    question::{form, question},
    results::{Refusal, RemovalReport, Reply},
    tools::REMOVE,
};
use crate::{
    backups::{
        self, AskedBy, Concern, Confirm, ConfirmedFacts, RemovalOutcome, RemovalPlan,
        RemovalRequest,
    },
    context::{Context, Deadline},
    dialog,
    qovery::{BackupId, DatabaseId},
    telemetry::OK,
    text,
};

/// The key of the question among a result's input requests.
const QUESTION: &str = "confirmation";

/// The label of a removal that a person, or the host for one, did not confirm.
const NOT_CONFIRMED: &str = "not_confirmed";

/// What the host answered. Whether a person saw the question is not known here.
enum Answer {
    Confirmed,
    /// Anything else, in words for a model.
    NotConfirmed(Cow<'static, str>),
}

/// The backups of one database that a call is to remove.
pub(super) struct Target {
    pub(super) database: DatabaseId,
    pub(super) backups: Vec<BackupId>,
}

impl Server {
    /// Removes backups, and records it where the removal is refused.
    pub(super) async fn remove(
        &self,
        target: Target,
        answer: (Option<String>, Option<InputResponses>),
        context: &Context,
        request: &Request,
    ) -> Result<Reply, Refusal> {
        // An answer without the state of a question is to none that was put.
        let is_to_none = matches!(answer, (None, Some(_)));
        let removed = self.remove_confirmed(&target, answer, context, request);
        let removed = removed.await;
        let (reason, declined) = match &removed {
            Ok(_) if is_to_none => return removed,
            Ok(reply) if reply.outcome == NOT_CONFIRMED => (NOT_CONFIRMED, self.asks_by(request)),
            Err(refusal) if refusal.concern == Concern::Caller => (refusal.outcome, None),
            _ => return removed,
        };
        let target = (target.database, &*target.backups);
        self.backups
            .record_refusal(context, target, reason, declined)
            .await;
        removed
    }

    /// How a person can be asked about a removal, if so.
    fn asks_by(&self, request: &Request) -> Option<AskedBy> {
        if self.backups.policy().confirm == Confirm::Never {
            None
        } else if can_be_asked(request) {
            Some(AskedBy::Elicitation)
        } else {
            self.dialog.as_ref().map(|_| AskedBy::Dialog)
        }
    }

    /// Removes backups, after a confirmation where one can and must be asked for. `state` and
    /// `responses` are what the client carries back from a question.
    async fn remove_confirmed(
        &self,
        target: &Target,
        (state, responses): (Option<String>, Option<InputResponses>),
        context: &Context,
        request: &Request,
    ) -> Result<Reply, Refusal> {
        let associated = target.associated_data(context);
        let open = |state: &String| self.seal.open(state, &associated);
        let confirmed = state.as_ref().map(open).transpose()?;
        let confirmed = confirmed.map(|facts| (facts, AskedBy::Elicitation));
        let answer = responses.and_then(|mut responses| responses.remove(QUESTION));
        let answer = answer.map(|answer| Answer::parse(&answer)).transpose();
        let answer = answer.map_err(|reason| {
            let error = ErrorData::invalid_params(malformed_answer(reason), None);
            Refusal::protocol("invalid_params", error)
        })?;
        // Without both parts nothing is confirmed.
        let answered = state.filter(|_| answer.is_some());
        let confirmed = confirmed.filter(|_| answered.is_some());
        let reply = async {
            // A no counts without proof that the question was put.
            if let Some(Answer::NotConfirmed(reason)) = answer {
                return not_confirmed(&reason);
            }
            let reply = self.remove_or_ask(target, confirmed, context, request);
            reply.await
        };
        let Some(state) = answered else {
            return reply.await;
        };
        let outcome = self.questions.outcome(&context.caller, &state)?;
        // A failure is no outcome to keep.
        outcome.get_or_try_init(|| reply).await.cloned()
    }

    /// Removes backups. Asks a person first, and again if what the person confirmed is no longer true.
    async fn remove_or_ask(
        &self,
        target: &Target,
        mut confirmed: Option<(ConfirmedFacts, AskedBy)>,
        context: &Context,
        request: &Request,
    ) -> Result<Reply, Refusal> {
        let backups = &target.backups;
        let asks_by = self.asks_by(request);
        let is_auto = self.backups.policy().confirm == Confirm::Auto;
        if is_auto && asks_by.is_none() && backups.len() > 1 {
            let reason = "No person can be asked here, so a call removes one backup. Nothing was removed, and \
                          no request was sent to Qovery. Call once for each backup, or ask the operator for \
                          --confirm never.";
            return Err(Refusal::in_band("one_at_a_time", &reason));
        }
        let time = match backups.as_slice() {
            [_] => self.limits.call,
            _ => self.limits.batch,
        };
        let mut timed = context.with_deadline(Deadline::after(time));
        let mut to_ask = None;
        if asks_by.is_some() && confirmed.is_none() {
            // Before anything is sent to Qovery: an agent that repeats the call must stop.
            self.questions.check(&context.caller, backups)?;
            let plan = self.backups.plan_removal(&timed, target.database, backups);
            let plan = Some(plan.await?).filter(|plan| !plan.sends_nothing());
            to_ask = plan.map(|plan| (plan, None));
        }
        loop {
            if let (Some(asked_by), Some((plan, change))) = (asks_by, to_ask) {
                let question = (&plan, change.as_deref());
                let reply = self.ask(asked_by, target, question, &timed, request);
                if let Some(reply) = reply.await? {
                    return Ok(reply);
                }
                confirmed = Some((plan.facts(), asked_by));
                // The time that the person took does not count.
                timed = context.with_deadline(Deadline::after(time));
            }
            let describe = |removed| format!("{removed} removed");
            let total = Some(backups.len());
            let removal = self.with_progress(request, &timed, total, describe, |gone| {
                let removal = RemovalRequest {
                    database: target.database,
                    backups: backups.clone(),
                    confirmed: confirmed.take(),
                    gone,
                };
                self.backups.remove(&timed, removal)
            });
            match removal.await {
                Err(backups::Error::Changed { plan, change }) if asks_by.is_some() => {
                    to_ask = Some((*plan, Some(change)));
                }
                Err(error @ backups::Error::Unconfirmed(_)) if is_stateless(request) => {
                    return Err(missing_capability(&error));
                }
                outcome => return removed(outcome?),
            }
        }
    }

    /// Asks a person whether to carry out a plan, and says what changed if it is asked again. Returns the
    /// reply in place of a removal, unless the person confirmed it: a no, or the question itself.
    async fn ask(
        &self,
        asked_by: AskedBy,
        target: &Target,
        (plan, change): (&RemovalPlan, Option<&str>),
        context: &Context,
        request: &Request,
    ) -> Result<Option<Reply>, Refusal> {
        let _open = self.questions.open(&context.caller, &target.backups)?;
        let name = self.backups.name(context, target.database).await;
        let text = question(plan, name.as_deref(), change);
        let dialog = self.dialog.as_ref();
        let answer = if let Some(dialog) = dialog.filter(|_| asked_by == AskedBy::Dialog) {
            self.ask_by_dialog(dialog, &text, request).await?
        } else {
            let question = ElicitRequest::new(form(text, target.backups.len()));
            if is_stateless(request) {
                let associated = target.associated_data(context);
                let ttl = self.limits.answer_timeout;
                let state = self.seal.seal(&plan.facts(), &associated, ttl);
                let question = InputRequest::Elicitation(question);
                let requests = InputRequests::from([(QUESTION.to_owned(), question)]);
                return Ok(Some(Reply {
                    outcome: "input_required",
                    response: InputRequiredResult::new(Some(requests), Some(state)).into(),
                    alert: None,
                }));
            }
            self.elicit(question, request).await?
        };
        match answer {
            Answer::Confirmed => Ok(None),
            Answer::NotConfirmed(reason) => not_confirmed(&reason).map(Some),
        }
    }

    /// Asks over the connection of the call, and cancels the question when its answer is no longer
    /// wanted.
    async fn elicit(&self, question: ElicitRequest, request: &Request) -> Result<Answer, Refusal> {
        let failed = || {
            let reason = "The client could not ask the person. Nothing was removed.";
            Refusal::in_band("not_asked", &reason)
        };
        let question = ServerRequest::ElicitRequest(question);
        let options = PeerRequestOptions::no_options();
        let sent = request.peer.send_request_with_option(question, options);
        let mut prompt = sent.await.map_err(|_| failed())?;
        let (reason, text) = tokio::select! {
            biased;
            interruption = self.interruption(request) => interruption,
            answer = &mut prompt.rx => {
                let Ok(Ok(answer)) = answer else {
                    return Err(failed());
                };
                return Answer::parse(&json!(answer))
                    .map_err(|reason| Refusal::in_band("not_asked", &malformed_answer(reason)));
            }
        };
        // Not awaited: a client that reads nothing would hold up the response.
        tokio::spawn(async move {
            if let Err(error) = prompt.cancel(Some(reason.to_owned())).await {
                tracing::debug!(%error, "a question could not be cancelled");
            }
        });
        Ok(Answer::NotConfirmed(text.into()))
    }

    /// Asks by a dialog of the system, which is closed when its answer is no longer wanted.
    async fn ask_by_dialog(
        &self,
        dialog: &dialog::Dialog,
        text: &str,
        request: &Request,
    ) -> Result<Answer, Refusal> {
        let time = match request.meta.get_progress_token() {
            Some(_) => self.limits.dialog_timeout_with_progress,
            None => self.limits.dialog_timeout,
        };
        let reason = tokio::select! {
            biased;
            (_, text) = self.interruption(request) => text,
            answer = dialog.ask(text, time, &self.limits) => match answer {
                Ok(dialog::Answer::Remove) => return Ok(Answer::Confirmed),
                Ok(dialog::Answer::Keep) => "The person answered no in a dialog. Nothing was removed.",
                Ok(dialog::Answer::NoAnswer) => "Nobody answered the dialog. Nothing was removed.",
                Err(error) => return Err(Refusal::in_band("not_asked", &error)),
            },
        };
        Ok(Answer::NotConfirmed(reason.into()))
    }

    /// Why an answer is no longer wanted, once that is so: for the client and for a model.
    async fn interruption(&self, request: &Request) -> (&'static str, &'static str) {
        tokio::select! {
            biased;
            () = request.ct.cancelled() => (
                "the call was cancelled",
                "The call was cancelled. Nothing was removed.",
            ),
            () = self.shutdown.no_retries.cancelled() => (
                "this server is shutting down",
                "This server is shutting down. Nothing was removed.",
            ),
            () = self.report_waiting(request) => (
                "nobody answered",
                "Nobody answered the question. Nothing was removed.",
            ),
        }
    }

    /// Notifies the client, if it asked for progress, that a person is waited for, until the time for an
    /// answer is over.
    async fn report_waiting(&self, request: &Request) {
        let pause = self.limits.prompt_progress;
        let end = Instant::now() + self.limits.prompt_timeout;
        // Progress must increase, and the first removal after the answer is number 1.
        let mut waiting = request.meta.get_progress_token().map(|token| {
            ProgressNotificationParam::new(token, 0.0).with_message("waiting for the person")
        });
        while let Some(progress) = &mut waiting
            && timeout_at(end, sleep(pause)).await.is_ok()
        {
            progress.progress += 0.001;
            let sent = request.peer.notify_progress(progress.clone());
            if sent.await.is_err() {
                break;
            }
        }
        sleep_until(end).await;
    }
}

impl Target {
    /// The one caller, key and call that a sealed state is valid for.
    fn associated_data(&self, context: &Context) -> Vec<u8> {
        let (caller, key) = (context.caller.name(), context.key_id());
        let key = key.map(|key| key.to_string());
        let call = json!([caller, key, REMOVE, self.database, self.backups]);
        call.to_string().into_bytes()
    }
}

fn not_confirmed(reason: &str) -> Result<Reply, Refusal> {
    Ok(Reply {
        outcome: NOT_CONFIRMED,
        ..Reply::new(RemovalReport::declined(reason))?
    })
}

fn removed(outcome: RemovalOutcome) -> Result<Reply, Refusal> {
    let last = outcome.results.last();
    let failure = last.and_then(|result| result.as_ref().err());
    let label = failure.map_or(OK, backups::Error::label);
    let failure = failure.filter(|it| it.concern() == Concern::Operator);
    let failure = failure.map(ToString::to_string);
    let report = RemovalReport::new(outcome);
    Ok(Reply {
        outcome: label,
        alert: failure.or_else(|| report.note.clone()),
        ..Reply::new(report)?
    })
}

impl Answer {
    /// Reads an `ElicitResult`. Some hosts send a form's values as text: only `true` confirms then.
    fn parse(answer: &Value) -> Result<Self, &'static str> {
        const UNTICKED: &str =
            "The host answered for the person without ticking the box. Nothing was removed.";
        const DECLINED: &str = "The host answered no for the person. Nothing was removed. The rest of the task \
                                may go on. If the host showed no question, it cannot show one.";
        const CLOSED: &str = "The host closed the question without an answer. Nothing was removed. If it \
                              showed no question, it cannot show one.";
        let action = answer["action"].as_str().ok_or("it has no action")?;
        let reason = match (action, &answer["content"]) {
            ("accept", Value::Object(form)) => match form.get("remove") {
                Some(Value::Bool(true)) => return Ok(Self::Confirmed),
                Some(Value::String(text)) if text == "true" => return Ok(Self::Confirmed),
                Some(Value::String(text)) if text != "false" => {
                    let text = text::excerpt(text);
                    format!("The host answered \"{text}\" in place of true. Nothing was removed.")
                        .into()
                }
                None | Some(Value::Bool(_) | Value::String(_) | Value::Null) => UNTICKED.into(),
                Some(_) => return Err("`remove` is neither true nor false"),
            },
            ("accept", Value::Null) => UNTICKED.into(),
            ("accept", _) => return Err("its content is no form"),
            ("decline", _) => DECLINED.into(),
            ("cancel", _) => CLOSED.into(),
            (other, _) => {
                let other = text::excerpt(other);
                format!("The host answered \"{other}\" for the person. Nothing was removed.").into()
            }
        };
        Ok(Self::NotConfirmed(reason))
    }
}

fn malformed_answer(reason: &str) -> String {
    format!("The answer to the question does not fit: {reason}. Nothing was removed.")
}

/// Whether the client can show a form (MCP, "Elicitation", capabilities: an empty one means a form).
/// What it declared in a handshake holds for each call. A request's own declaration counts from
/// 2026-07-28 on: before it, over HTTP, no question could reach the client.
fn can_be_asked(request: &Request) -> bool {
    let client = request.peer.peer_info();
    let negotiated = client.map(|client| client.capabilities.clone());
    let declared = request.client_capabilities();
    let declared = declared.filter(|_| is_stateless(request));
    let both = [negotiated, declared].into_iter();
    both.filter_map(|capabilities| capabilities?.elicitation)
        .any(|modes| modes.form.is_some() || modes.url.is_none())
}

/// The protocol's own error for a missing capability, in words that a model can pass on.
fn missing_capability(error: &backups::Error) -> Refusal {
    let form = ElicitationCapability::new().with_form(FormElicitationCapability::default());
    let mut required = ClientCapabilities::default();
    required.elicitation = Some(form);
    let mut message = error.to_string();
    text::sanitize(&mut message);
    let mut missing = ErrorData::missing_required_client_capability(required);
    missing.message = message.into();
    Refusal::protocol(error.kind(), missing)
}
