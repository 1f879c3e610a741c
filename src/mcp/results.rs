//! What the tools give: structured content that keeps to the advertised schema, the same as text,
//! and errors in-band as text alone.

use std::fmt::Display;

use rmcp::{
    ErrorData,
    handler::server::tool::IntoCallToolResult,
    model::{CallToolResponse, CallToolResult, ContentBlock},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::Value;

use super::clean;
use crate::{
    backups::Removal,
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

/// A backup that is gone.
#[derive(Serialize, JsonSchema)]
pub(super) struct RemovedBackup {
    /// Always `removed`; anything else is an error.
    #[schemars(extend("const" = "removed"))]
    outcome: &'static str,
    /// The backup that was removed, as it was.
    backup: Backup,
    /// How many backups of the database remain.
    #[schemars(schema_with = "count")]
    remaining: usize,
}

/// A result that carries the same value as structure and as text.
pub(super) struct Structured {
    value: Value,
    text: String,
}

/// A failure that a model can read and act on.
pub(super) struct InBandError(String);

impl BackupList {
    /// The page as a model sees it: cleaned, and with the details of each status only if `verbose`.
    pub(super) fn new(mut page: BackupPage, verbose: bool) -> Result<Self, InBandError> {
        let next_start_id = page.next_start_id();
        for backup in &mut page.results {
            if let (true, Some(status)) = (verbose, &mut backup.status) {
                status.read_details()?;
            }
            clean::backup(backup);
        }
        clean::object(&mut page.other);
        Ok(Self {
            page,
            next_start_id,
        })
    }
}

impl From<Removal> for RemovedBackup {
    fn from(mut removal: Removal) -> Self {
        clean::backup(&mut removal.backup);
        Self {
            outcome: "removed",
            backup: removal.backup,
            remaining: removal.remaining,
        }
    }
}

impl Structured {
    pub(super) fn new(result: &impl Serialize) -> Result<Self, InBandError> {
        let value = serde_json::to_value(result)?;
        // Three times as fast as `Display`, which writes through a formatter.
        let text = serde_json::to_string(&value)?;
        Ok(Self { value, text })
    }
}

impl IntoCallToolResult for Structured {
    fn into_call_tool_result(self) -> Result<CallToolResponse, ErrorData> {
        let Self { value, text } = self;
        let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
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

/// A plain count: `usize` would add `format: uint`, at which some validators complain.
fn count(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": 0 })
}
