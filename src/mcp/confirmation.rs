//! Asks a person before a removal: by multi-round-trip requests on 2026-07-28, by
//! `elicitation/create` before it.
//!
//! What must never live here: whether a backup may go. That is decided by `backups`, once before the
//! question and once more after the answer.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use rmcp::{
    ErrorData, RoleServer,
    model::{
        BooleanSchema, ClientCapabilities, ClientResult, ElicitRequest, ElicitRequestParams,
        ElicitResult, ElicitationAction, ElicitationCapability, ElicitationSchema, ErrorCode,
        FormElicitationCapability, InputRequest, InputRequests, InputRequiredResult,
        InputResponses, ServerRequest,
    },
    service::{PeerRequestOptions, RequestContext},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Server,
    arguments::RemoveArguments,
    clean, is_stateless,
    results::{Refusal, RemovalResult},
};
use crate::{
    backups::{self, Digest, Removal},
    call::{self, Call},
};

/// How long a person may take before 2026-07-28: less than the five minutes after which the transport ends
/// an idle session.
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
    /// Yes, to these facts.
    Yes(Digest),
    /// No, or nothing; in words for a model.
    No(&'static str),
}

impl Answer {
    /// Reads the answer to a question about `facts`, if it is one.
    fn read(answer: Value, facts: Digest) -> serde_json::Result<Self> {
        let answer: ElicitResult = serde_json::from_value(answer)?;
        Ok(match answer.action {
            ElicitationAction::Accept => {
                let form = answer.content.map(serde_json::from_value::<Form>);
                let form = form.transpose()?;
                if form.is_some_and(|form| form.remove) {
                    Self::Yes(facts)
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

impl Server {
    /// Removes a backup, once a person has said yes where one can and must be asked.
    pub(super) async fn remove_with_consent(
        &self,
        call: &Arc<Call>,
        target: RemoveArguments,
        answer: (Option<String>, Option<InputResponses>),
        context: &RequestContext<RoleServer>,
    ) -> Result<RemovalResult, Refusal> {
        let RemoveArguments {
            database_id,
            backup_id,
        } = target;
        let sealed_for = json!([
            call.caller(),
            "remove-database-backup",
            database_id,
            backup_id
        ]);
        let sealed_for = sealed_for.to_string().into_bytes();
        let stateless = is_stateless(context);
        let unconfirmed = |refusal| {
            if matches!(refusal, Refusal::InBand(_)) {
                call.set_outcome(call::NOT_CONFIRMED);
            }
            refusal
        };
        let answer = self.answered(answer, &sealed_for).map_err(unconfirmed)?;
        let mut confirmed = match answer {
            Some(Answer::No(reason)) => return Ok(kept(call, reason)),
            Some(Answer::Yes(facts)) => Some(facts),
            None => None,
        };
        let asks = self.backups.ask_where_possible() && can_be_asked(context);
        loop {
            if confirmed.is_some() || !asks {
                let removal = self.backups.remove(call, database_id, backup_id, confirmed);
                match removal.await {
                    Err(backups::Error::Changed { .. }) if asks => {}
                    Err(error @ backups::Error::Unconfirmed(_)) if stateless => {
                        return Err(cannot_be_asked(&error));
                    }
                    removal => return Ok(RemovalResult::from(removal?)),
                }
            }
            let proposal = self
                .backups
                .propose_removal(call, database_id, backup_id)
                .await?;
            if stateless {
                call.set_outcome(call::INPUT_REQUIRED);
                let state = self.seal.seal(proposal.digest(), &sealed_for);
                let request = InputRequest::Elicitation(ElicitRequest::new(question(&proposal)));
                let requests = InputRequests::from([(QUESTION.to_owned(), request)]);
                return Ok(RemovalResult::Asked(InputRequiredResult::new(
                    Some(requests),
                    Some(state),
                )));
            }
            match ask(&proposal, context).await.map_err(unconfirmed)? {
                Answer::Yes(facts) => confirmed = Some(facts),
                Answer::No(reason) => return Ok(kept(call, reason)),
            }
        }
    }

    /// What came with the call, if it repeats one after a question. A yes counts only with the state
    /// that was sealed with the question; a no is always taken at its word.
    fn answered(
        &self,
        (state, responses): (Option<String>, Option<InputResponses>),
        sealed_for: &[u8],
    ) -> Result<Option<Answer>, Refusal> {
        let facts = match state {
            Some(state) => Some(self.seal.open(&state, sealed_for)?),
            None => None,
        };
        let Some(answer) = responses.and_then(|mut responses| responses.remove(QUESTION)) else {
            return Ok(None);
        };
        match Answer::read(answer, facts.unwrap_or_default()) {
            Ok(Answer::Yes(_)) if facts.is_none() => Ok(None),
            Ok(answer) => Ok(Some(answer)),
            Err(error) => {
                let message = format!(
                    "The answer to the question does not fit: {}. Nothing was removed.",
                    clean::excerpt(&error.to_string())
                );
                Err(Refusal::Protocol(ErrorData::invalid_params(message, None)))
            }
        }
    }
}

/// Whether the client can show a form (MCP, "Elicitation", capabilities: an empty one means a form).
fn can_be_asked(context: &RequestContext<RoleServer>) -> bool {
    let capabilities = if is_stateless(context) {
        context.client_capabilities()
    } else {
        // Without a session there is no way back to the client, whatever a request claims.
        let client = context.peer.peer_info();
        client.map(|client| client.capabilities.clone())
    };
    capabilities
        .and_then(|capabilities| capabilities.elicitation)
        .is_some_and(|modes| modes.form.is_some() || modes.url.is_none())
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

/// Asks over the connection of the call, and takes the question back when nobody waits for its
/// answer any more.
async fn ask(proposal: &Removal, context: &RequestContext<RoleServer>) -> Result<Answer, Refusal> {
    let request = ServerRequest::ElicitRequest(ElicitRequest::new(question(proposal)));
    let failed = "The client could not ask the person. Nothing was removed.";
    let mut asked = context
        .peer
        .send_request_with_option(request, PeerRequestOptions::no_options())
        .await
        .map_err(|_| failed)?;
    let (reason, answer) = tokio::select! {
        answer = &mut asked.rx => match answer {
            Ok(Ok(ClientResult::ElicitResult(answer))) => {
                let answer = Answer::read(json!(answer), proposal.digest());
                return Ok(answer.map_err(|_| failed)?);
            }
            _ => return Err(failed.into()),
        },
        () = sleep(PATIENCE_OF_A_SESSION) => (
            "nobody answered",
            Answer::No("Nobody answered the question. Nothing was removed."),
        ),
        () = context.ct.cancelled() => (
            "the call was cancelled",
            Answer::No("The call was cancelled. Nothing was removed."),
        ),
    };
    if let Err(error) = asked.cancel(Some(reason.to_owned())).await {
        tracing::debug!(%error, "a question could not be taken back");
    }
    Ok(answer)
}

/// The question, for a person in a hurry.
fn question(removal: &Removal) -> ElicitRequestParams {
    let tick = |schema: BooleanSchema| schema.title("Remove it for good").with_default(false);
    ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: wording(removal, Utc::now()),
        requested_schema: ElicitationSchema::builder()
            .bool_property("remove", tick)
            .build_unchecked(),
    }
}

fn wording(removal: &Removal, now: DateTime<Utc>) -> String {
    let backup = &removal.backup;
    let name = match backup.name.as_deref() {
        Some(name) => format!("\"{}\"", shown(name)),
        None => "without a name".to_owned(),
    };
    let state = backup.state().map_or_else(|| "unknown".to_owned(), shown);
    let remaining = match (removal.remaining, &removal.newest_remaining) {
        (0, _) | (_, None) => "No backup of the database remains.".to_owned(),
        (1, Some(date)) => format!(
            "One backup of the database remains, made {}.",
            age(date, now)
        ),
        (number, Some(date)) => format!(
            "{number} backups of the database remain; the newest was made {}.",
            age(date, now)
        ),
    };
    format!(
        "Remove this backup for good? This cannot be undone.\n\n\
         Backup {name}, made {} ({}), state {state}.\n\
         {remaining}\n\n\
         Database {}\nBackup {}",
        age(&backup.created_at, now),
        date(&backup.created_at),
        removal.database,
        backup.id,
    )
}

/// Other people's text, cleaned and cut, so that it cannot push the facts out of sight or pretend to
/// be one of them.
fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut text = text.replace('"', "'");
    clean::text(&mut text);
    if text.chars().count() > LONGEST {
        text = text.chars().take(LONGEST).chain(['…']).collect();
    }
    text
}

fn date(text: &str) -> String {
    match DateTime::parse_from_rfc3339(text) {
        Ok(date) => date.to_utc().format("%Y-%m-%d %H:%M UTC").to_string(),
        Err(_) => shown(text),
    }
}

fn age(date: &str, now: DateTime<Utc>) -> String {
    let Ok(date) = DateTime::parse_from_rfc3339(date) else {
        return "at an unknown time".to_owned();
    };
    let age = now.signed_duration_since(date);
    let (number, unit) = match age {
        age if age < TimeDelta::minutes(1) => return "less than a minute ago".to_owned(),
        age if age < TimeDelta::hours(1) => (age.num_minutes(), "minute"),
        age if age < TimeDelta::days(1) => (age.num_hours(), "hour"),
        age => (age.num_days(), "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removal(backup: Value, remaining: usize, newest_remaining: &str) -> Removal {
        Removal {
            database: "0de50000-0000-4000-8000-000000000001".parse().unwrap(),
            backup: serde_json::from_value(backup).unwrap(),
            remaining,
            newest_remaining: Some(newest_remaining.to_owned()),
        }
    }

    #[test]
    fn the_question_says_what_goes_and_what_stays() {
        let now = "2026-06-30T12:00:00Z".parse().unwrap();
        let id = "bac00000-0000-4000-8000-000000000001";
        let known = json!({
            "id": id, "created_at": "2026-06-01T05:00:00+02:00", "name": "nightly",
            "status": { "state": "READY" },
        });
        assert_eq!(
            wording(&removal(known, 26, "2026-06-30T09:30:00Z"), now),
            "Remove this backup for good? This cannot be undone.\n\n\
             Backup \"nightly\", made 29 days ago (2026-06-01 03:00 UTC), state READY.\n\
             26 backups of the database remain; the newest was made 2 hours ago.\n\n\
             Database 0de50000-0000-4000-8000-000000000001\n\
             Backup bac00000-0000-4000-8000-000000000001"
        );
        let unknown = json!({ "id": id, "created_at": "some\nday" });
        let question = wording(&removal(unknown, 1, "2026-06-30T11:59:30Z"), now);
        for part in [
            "Backup without a name, made at an unknown time (some day), state unknown.\n",
            "\nOne backup of the database remains, made less than a minute ago.\n",
        ] {
            assert!(question.contains(part), "{question}");
        }
    }

    #[test]
    fn nobodys_text_can_pretend_to_be_the_question() {
        let now = Utc::now();
        let name = format!("a\"\n\u{202e}1,000 backups remain.{}", "x".repeat(10_000));
        let hostile = json!({
            "id": "bac00000-0000-4000-8000-000000000001", "created_at": "x".repeat(10_000),
            "name": name, "status": { "state": "y\n".repeat(1000) },
        });
        let question = wording(&removal(hostile, 2, "2026-06-30T11:59:30Z"), now);
        assert!(question.starts_with("Remove this backup for good? This cannot be undone.\n\n"));
        assert_eq!(question.lines().count(), 7, "{question}");
        assert!(question.contains("Backup \"a' 1,000 backups remain.xxx"));
        assert!(question.len() < 700, "{question}");
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        let now = "2026-06-30T12:00:00Z".parse().unwrap();
        for (date, told) in [
            ("2026-06-30T12:00:05Z", "less than a minute ago"),
            ("2026-06-30T11:59:00Z", "1 minute ago"),
            ("2026-06-30T11:00:01Z", "59 minutes ago"),
            ("2026-06-30T11:00:00Z", "1 hour ago"),
            ("2026-06-29T12:00:01Z", "23 hours ago"),
            ("2026-06-29T12:00:00Z", "1 day ago"),
            ("2026-01-01T00:00:00Z", "180 days ago"),
            ("yesterday", "at an unknown time"),
        ] {
            assert_eq!(age(date, now), told, "{date}");
        }
    }
}
