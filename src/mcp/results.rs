//! Results of the tools that change something, and what all results have in common: structured content that conforms to the advertised schema, the same as
//! text, and errors in-band as text alone.

use std::fmt::Display;

use rmcp::{
    ErrorData,
    model::{CallToolResponse, CallToolResult, ContentBlock},
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{
    arguments::ArgumentError,
    lists::{BackupView, DatabaseRef},
};
use crate::{
    backups::{self, Concern, Condition, Consent, Listed, RemovalOutcome},
    qovery::{BackupId, Outcome},
    telemetry::OK,
    text,
};

/// The result of add-backup-database.
#[derive(Serialize, JsonSchema)]
pub(super) struct AddedBackup {
    /// Whose it is.
    pub(super) database: DatabaseRef,
    #[serde(flatten)]
    pub(super) backup: BackupView,
    /// What to do next.
    pub(super) note: Option<String>,
}

/// The result of remove-database-backup.
#[derive(Serialize, JsonSchema)]
pub(super) struct RemovalReport {
    /// Over all of them. What is unknown may have been removed or not.
    #[schemars(extend("enum" = [REMOVED, PARTLY_REMOVED, NOT_REMOVED, UNKNOWN]))]
    outcome: &'static str,
    /// What stood for the person's yes: the host's answer (accepted, declined), nothing (not_asked), or
    /// the operator's setting (unattended).
    #[schemars(with = "String", extend("enum" = CONSENTS))]
    consent: Consent,
    /// Why nothing was removed, if nothing was tried.
    reason: Option<String>,
    /// What the person should know.
    pub(super) note: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    backups: Vec<RemovalRow>,
    /// How many backups of the database remain.
    remaining: Option<usize>,
}

#[derive(Serialize, JsonSchema)]
struct RemovalRow {
    id: BackupId,
    name: Option<String>,
    created_at: Option<String>,
    #[schemars(extend("enum" = [REMOVED, NOT_REMOVED, UNKNOWN]))]
    outcome: &'static str,
    /// Why it was not removed, or why that is not known.
    reason: Option<String>,
}

const NOT_ASKED: &str = "This server asked no person: the client cannot show a question, and no dialog can be shown here.";
const CONSENTS: [&str; 4] = ["accepted", "declined", "not_asked", "unattended"];
const REMOVED: &str = "removed";
const PARTLY_REMOVED: &str = "partly_removed";
const NOT_REMOVED: &str = "not_removed";
const UNKNOWN: &str = "unknown";

/// The response of a call that was carried out or asks for input, with its label for logs and metrics.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) outcome: &'static str,
    pub(super) response: CallToolResponse,
    /// What the operator has to act on, for the log.
    pub(super) alert: Option<String>,
}

/// The response of a call that was refused or failed, with its label for logs and metrics.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) outcome: &'static str,
    /// The text of an in-band error, for the model, or a protocol error, for the client.
    pub(super) error: Result<String, ErrorData>,
    /// Who has to act on it.
    pub(super) concern: Concern,
}

impl RemovalReport {
    pub(super) fn new(outcome: RemovalOutcome) -> Self {
        let (plan, consent) = (outcome.plan, outcome.consent);
        let mut results = outcome.results.into_iter();
        let row = |listed: Listed| {
            let backup = listed.backup;
            let (outcome, reason) = match results.next() {
                Some(Ok(_)) if listed.condition == Condition::BeingRemoved => {
                    (REMOVED, Some("It was being removed already.".to_owned()))
                }
                Some(Ok(_)) => (REMOVED, None),
                Some(Err(error)) => match error.outcome() {
                    Outcome::NotApplied => (NOT_REMOVED, Some(error.to_string())),
                    _ => (UNKNOWN, Some(error.to_string())),
                },
                None => {
                    let reason = "It was not tried, because of the one before it.";
                    (NOT_REMOVED, Some(reason.to_owned()))
                }
            };
            RemovalRow {
                id: backup.id,
                name: backup.name,
                created_at: Some(backup.created_at),
                outcome,
                reason,
            }
        };
        let backups: Vec<RemovalRow> = plan.backups.into_iter().map(row).collect();
        let count = |outcome| backups.iter().filter(|row| row.outcome == outcome).count();
        let (removed, unknown) = (count(REMOVED), count(UNKNOWN));
        Self {
            outcome: match (removed, unknown) {
                (0, 0) => NOT_REMOVED,
                (0, _) => UNKNOWN,
                _ if removed == backups.len() => REMOVED,
                _ => PARTLY_REMOVED,
            },
            consent,
            reason: None,
            note: (consent == Consent::NotAsked).then(|| NOT_ASKED.to_owned()),
            remaining: (unknown == 0).then(|| plan.remaining + backups.len() - removed),
            backups,
        }
    }

    /// The report where nothing was removed for want of a confirmation.
    pub(super) fn declined(reason: &str) -> Self {
        let again = "Ask again only if the person asks for it in a new message.";
        Self {
            outcome: NOT_REMOVED,
            consent: Consent::Declined,
            reason: Some(format!("{reason} {again}")),
            note: None,
            backups: Vec::new(),
            remaining: None,
        }
    }
}

impl Reply {
    /// A result as structured content and as text: some hosts show a model only the one, some only the
    /// other.
    pub(super) fn new(result: impl Serialize) -> Result<Self, Refusal> {
        let failed = |error: serde_json::Error| Refusal::in_band("internal_error", &error);
        let mut value = serde_json::to_value(result).map_err(failed)?;
        remove_nulls(&mut value);
        // Three times as fast as `Display`, which writes through a formatter.
        let mut text = serde_json::to_string(&value).map_err(failed)?;
        if !text::is_printable_ascii(&text) {
            text::sanitize_json(&mut value);
            text = serde_json::to_string(&value).map_err(failed)?;
        }
        let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
        result.structured_content = Some(value);
        Ok(Self {
            outcome: OK,
            response: result.into(),
            alert: None,
        })
    }
}

/// Leaves out absent fields: hosts have lost whole results over a `null`.
pub(super) fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

impl Refusal {
    /// A failure that a model can read and act on.
    pub(super) fn in_band(outcome: &'static str, reason: &impl Display) -> Self {
        let mut text = reason.to_string();
        text::sanitize(&mut text);
        Self {
            outcome,
            error: Ok(text),
            concern: Concern::Caller,
        }
    }

    /// A failure that only the client can correct.
    pub(super) fn protocol(outcome: &'static str, error: ErrorData) -> Self {
        Self {
            outcome,
            error: Err(error),
            concern: Concern::Caller,
        }
    }

    /// The text, if the operator has to act on it.
    pub(super) fn alert(&self) -> Option<String> {
        let text = self.error.as_ref().ok();
        text.filter(|_| self.concern == Concern::Operator).cloned()
    }

    /// The response. In-band it is text alone: TypeScript v1 clients check structured content against
    /// the output schema even on errors.
    pub(super) fn response(self) -> Result<CallToolResponse, ErrorData> {
        let text = self.error?;
        Ok(CallToolResult::error(vec![ContentBlock::text(text)]).into())
    }
}

impl From<backups::Error> for Refusal {
    fn from(error: backups::Error) -> Self {
        Self {
            concern: error.concern(),
            ..Self::in_band(error.label(), &error)
        }
    }
}

impl From<ArgumentError> for Refusal {
    fn from(error: ArgumentError) -> Self {
        Self::in_band("invalid_arguments", &error)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mcp::arguments::schema;

    #[test]
    fn a_declined_removal_fits_its_schema() {
        let (_, schema) = schema::<RemovalReport>();
        let report = json!(RemovalReport::declined("no"));
        for required in schema["required"].as_array().unwrap() {
            assert!(
                report.get(required.as_str().unwrap()).is_some(),
                "{required}"
            );
        }
    }
}
