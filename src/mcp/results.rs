//! What the tools give: structured content that keeps to the advertised schema, the same as text,
//! and errors in-band as text alone.

use std::fmt::Display;

use rmcp::{
    ErrorData,
    handler::server::tool::IntoCallToolResult,
    model::{CallToolResponse, CallToolResult, ContentBlock, InputRequiredResult},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::Value;

use crate::{
    backups::Removal,
    clean,
    qovery::{Backup, BackupId, BackupPage},
};

/// A page of backups, and where the next one starts.
#[derive(Serialize, JsonSchema)]
pub(super) struct BackupList {
    #[serde(flatten)]
    page: BackupPage,
    /// The `startId` of the next page, or null when this page is the last.
    next_start_id: Option<BackupId>,
}

/// What became of a removal that nothing forbade.
pub(super) enum RemovalResult {
    /// It was decided.
    Decided(Box<Decision>),
    /// A person is asked first.
    Asked(InputRequiredResult),
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

/// A result that carries the same value as structure and as text.
pub(super) struct Structured {
    value: Value,
    text: String,
    remark: Option<&'static str>,
}

/// A failure that a model can read and act on.
pub(super) struct InBandError(String);

/// Why nothing was removed.
pub(super) enum Refusal {
    /// For the model.
    InBand(InBandError),
    /// For the client: it broke the protocol, or lacks a part of it.
    Protocol(ErrorData),
}

impl BackupList {
    /// The page as a model sees it, with the details of each status only if `verbose`.
    pub(super) fn new(mut page: BackupPage, verbose: bool) -> Self {
        if !verbose {
            page.results.iter_mut().for_each(Backup::forget_details);
        }
        let next_start_id = page.next_start_id();
        Self {
            page,
            next_start_id,
        }
    }
}

impl From<Removal> for RemovalResult {
    fn from(mut removal: Removal) -> Self {
        removal.backup.forget_details();
        Self::Decided(Box::new(Decision {
            outcome: "removed",
            reason: None,
            backup: Some(removal.backup),
            remaining: Some(removal.remaining),
        }))
    }
}

impl RemovalResult {
    /// Nothing was removed, because nobody said yes.
    pub(super) fn kept(reason: &'static str) -> Self {
        Self::Decided(Box::new(Decision {
            outcome: "not_removed",
            reason: Some(reason),
            backup: None,
            remaining: None,
        }))
    }
}

impl IntoCallToolResult for RemovalResult {
    fn into_call_tool_result(self) -> Result<CallToolResponse, ErrorData> {
        match self {
            Self::Decided(decision) => Structured::new(&decision).into_call_tool_result(),
            Self::Asked(question) => Ok(question.into()),
        }
    }
}

impl Structured {
    /// Cleaned as a whole, so that no field is forgotten: names and messages are other people's text.
    pub(super) fn new(result: &impl Serialize) -> Result<Self, InBandError> {
        let mut value = serde_json::to_value(result)?;
        clean::value(&mut value);
        // Three times as fast as `Display`, which writes through a formatter.
        let text = serde_json::to_string(&value)?;
        Ok(Self {
            value,
            text,
            remark: None,
        })
    }

    /// The same, with a text that says what the structure has no field for.
    pub(super) fn with_remark(self, remark: Option<&'static str>) -> Self {
        Self { remark, ..self }
    }
}

impl IntoCallToolResult for Structured {
    fn into_call_tool_result(self) -> Result<CallToolResponse, ErrorData> {
        let Self {
            value,
            text,
            remark,
        } = self;
        let texts = remark.map(str::to_owned).into_iter().chain([text]);
        let mut result = CallToolResult::success(texts.map(ContentBlock::text).collect());
        result.structured_content = Some(value);
        Ok(result.into())
    }
}

impl<E: Display> From<E> for InBandError {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        clean::text(&mut text);
        Self(text)
    }
}

impl From<InBandError> for CallToolResponse {
    /// Text alone: some clients check structured content against the output schema even on errors.
    fn from(InBandError(text): InBandError) -> Self {
        CallToolResult::error(vec![ContentBlock::text(text)]).into()
    }
}

impl IntoCallToolResult for InBandError {
    fn into_call_tool_result(self) -> Result<CallToolResponse, ErrorData> {
        Ok(self.into())
    }
}

impl<E: Into<InBandError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::InBand(error.into())
    }
}

impl IntoCallToolResult for Refusal {
    fn into_call_tool_result(self) -> Result<CallToolResponse, ErrorData> {
        match self {
            Self::InBand(error) => error.into_call_tool_result(),
            Self::Protocol(error) => Err(error),
        }
    }
}

/// A plain count: `usize` would add `format: uint`, at which some validators complain.
fn count(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": 0 })
}
