//! What the tools give: structured content that keeps to the advertised schema, the same as text,
//! and errors in-band as text alone.

use std::fmt::Display;

use rmcp::{
    ErrorData,
    model::{CallToolResponse, CallToolResult, ContentBlock},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::Value;

use super::arguments::ArgumentError;
use crate::{
    backups::{self, Removal},
    clean,
    qovery::{Backup, BackupId, BackupPage},
    telemetry::OK,
};

/// A page of backups, and where the next one starts.
#[derive(Serialize, JsonSchema)]
pub(super) struct BackupList {
    #[serde(flatten)]
    pub(super) page: BackupPage,
    /// The `startId` of the next page, or null when this page is the last.
    pub(super) next_start_id: Option<BackupId>,
}

/// Whether the backup is gone.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Removal")]
pub(super) struct Decision {
    /// `not_removed` when the person who was asked did not say yes; anything else is an error.
    #[schemars(extend("enum" = ["removed", "not_removed"]))]
    outcome: &'static str,
    /// Why nothing was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    reason: Option<&'static str>,
    /// The backup that was removed, as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Backup")]
    backup: Option<Backup>,
    /// How many backups of the database remain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "count")]
    remaining: Option<usize>,
}

/// What a call of a tool came to, and the one word for it in logs and metrics.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) outcome: &'static str,
    pub(super) response: CallToolResponse,
}

/// Why a call of a tool came to nothing, and the one word for it in logs and metrics.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) outcome: &'static str,
    pub(super) reason: Reason,
}

/// To whom a refusal speaks.
#[derive(Debug)]
pub(super) enum Reason {
    /// To the model, which can read it and act on it.
    InBand(String),
    /// To the client: it broke the protocol, or lacks a part of it.
    Protocol(ErrorData),
}

impl Decision {
    /// The backup was removed.
    pub(super) fn removed(removal: Removal) -> Self {
        Self {
            outcome: "removed",
            reason: None,
            backup: Some(removal.backup),
            remaining: Some(removal.remaining),
        }
    }

    /// Nothing was removed, because nobody said yes.
    pub(super) fn kept(reason: &'static str) -> Self {
        Self {
            outcome: "not_removed",
            reason: Some(reason),
            backup: None,
            remaining: None,
        }
    }
}

impl Reply {
    /// A result that went well: the same value as structure and as text, fit to be read.
    pub(super) fn new(mut value: Value) -> Result<Self, Refusal> {
        let unwritable = |error: serde_json::Error| Refusal::in_band("internal_error", &error);
        // Three times as fast as `Display`, which writes through a formatter.
        let mut text = serde_json::to_string(&value).map_err(unwritable)?;
        if !clean::is_plain(&text) {
            clean::value(&mut value);
            text = serde_json::to_string(&value).map_err(unwritable)?;
        }
        let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
        result.structured_content = Some(value);
        Ok(Self {
            outcome: OK,
            response: result.into(),
        })
    }

    /// Whether the call has come to its end, and is not to go on with an answer.
    pub(super) fn is_final(&self) -> bool {
        matches!(self.response, CallToolResponse::Complete(_))
    }

    /// The same, under another word.
    pub(super) fn called(self, outcome: &'static str) -> Self {
        Self { outcome, ..self }
    }

    /// The same, with a text after it that says what the structure has no field for. Some clients read
    /// the first text as the structure.
    pub(super) fn remark(mut self, remark: Option<&'static str>) -> Self {
        if let (CallToolResponse::Complete(result), Some(remark)) = (&mut self.response, remark) {
            result.content.push(ContentBlock::text(remark));
        }
        self
    }
}

impl Refusal {
    /// A failure that a model can read and act on.
    pub(super) fn in_band(outcome: &'static str, reason: &impl Display) -> Self {
        let mut text = reason.to_string();
        clean::text(&mut text);
        Self {
            outcome,
            reason: Reason::InBand(text),
        }
    }

    /// A failure that only the client can mend.
    pub(super) fn protocol(outcome: &'static str, error: ErrorData) -> Self {
        Self {
            outcome,
            reason: Reason::Protocol(error),
        }
    }

    /// What is answered. In-band it is text alone: some clients check structured content against the
    /// output schema even on errors.
    pub(super) fn response(self) -> Result<CallToolResponse, ErrorData> {
        match self.reason {
            Reason::InBand(text) => {
                Ok(CallToolResult::error(vec![ContentBlock::text(text)]).into())
            }
            Reason::Protocol(error) => Err(error),
        }
    }
}

impl From<backups::Error> for Refusal {
    fn from(error: backups::Error) -> Self {
        Self::in_band(error.kind(), &error)
    }
}

impl From<ArgumentError> for Refusal {
    fn from(error: ArgumentError) -> Self {
        Self::in_band("invalid_arguments", &error)
    }
}

/// A plain count: `usize` would add `format: uint`, at which some validators complain.
fn count(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": 0 })
}
