//! What the tools take. A type's documentation is what a model reads to choose the tool, a field's
//! what it reads to fill it in. `{kept}` in it is what the operator keeps of the newest.

use std::borrow::Cow;

use rmcp::model::{JsonObject, Tool};
use schemars::{
    JsonSchema, Schema, SchemaGenerator,
    generate::SchemaSettings,
    json_schema,
    transform::{RecursiveTransform, Transform},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    limits::Limits,
    qovery::{BackupId, BackupMessage, BackupName, DatabaseId, IdError, NewBackup, TextError},
    text,
};

/// List a database's backups, newest first, with the time it is `now`. Each has a `condition`: finished
/// (it can be restored from), in_progress, failed, being_removed or unknown. Where the whole list is in the
/// answer, `summary` counts them, and `protected` gives the reason for each that this server refuses to
/// remove. An answer has up to 100: if `complete` is false, go on with startId. With backupId: that one
/// alone, and while it is in_progress this waits up to 20 seconds for it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ListArguments {
    /// The database's id (UUID), or the address of its page in the Qovery console. A name is answered
    /// with the ids of the databases called so.
    pub(super) database_id: Database,
    /// One backup, to look at or to wait for.
    pub(super) backup_id: Option<BackupId>,
    /// Begin after this backup: the next_start_id of the answer before.
    pub(super) start_id: Option<BackupId>,
    /// Add all that Qovery says of each status.
    pub(super) verbose: Option<bool>,
}

/// Back up a database now. The backup is made in the background: call list-database-backups with its id
/// as backupId until its condition is no longer in_progress, and rely on it only if that is finished. Every
/// call makes another backup: list before you repeat one that may have succeeded.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct AddArguments {
    /// The database's id (UUID).
    pub(super) database_id: Database,
    /// A short name by which people recognise the backup.
    #[schemars(with = "BackupName")]
    name: Option<BackupName>,
    /// What the backup is for.
    message: Option<BackupMessage>,
    /// The form of the capability specification, which sends both in one object.
    #[schemars(skip)]
    body: Option<NewBackup>,
}

/// Remove backups for good. This cannot be undone: remove only what the person asked to remove. Give
/// backupId for one or backupIds for up to 20, never both. All or nothing: if one is not listed or is
/// protected, none is removed, and the answer says which. Protected, whatever the arguments: {kept}the
/// newest that has not failed, and the newest finished. A person may be asked, once for all that a call
/// names; `outcome` says what became of it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RemoveArguments {
    /// The database's id (UUID).
    pub(super) database_id: Database,
    /// The backup to remove, as the list gave it.
    backup_id: Option<BackupId>,
    /// The backups to remove, as the list gave them.
    #[schemars(length(min = 1, max = 20))]
    backup_ids: Option<Vec<BackupId>>,
}

/// A database, as a model names it.
#[derive(Debug)]
pub(super) enum Database {
    /// By its id.
    Id(DatabaseId),
    /// By the address of its page in the Qovery console.
    Address(DatabaseId),
    /// By what people call it. It is compared here, and never sent.
    Name(String),
}

/// Arguments that do not fit. The text names the argument, and never repeats a long value.
#[derive(Debug, thiserror::Error)]
#[error("Invalid arguments: {0}. No request was sent to Qovery, and nothing was changed.")]
pub(super) struct ArgumentError(String);

/// What some hosts add to every call (Cline, n8n).
const ADDED_BY_HOSTS: [&str; 7] = [
    "task_progress",
    "sessionId",
    "action",
    "chatInput",
    "toolCallId",
    "tool",
    "metadata",
];

/// Reads the arguments of a tool: as its schema has them; else once more, after what hosts are known to
/// get wrong is mended.
pub(super) fn parse<T: DeserializeOwned>(
    tool: &Tool,
    arguments: JsonObject,
) -> Result<T, ArgumentError> {
    let mut value = Value::Object(arguments);
    if let Ok(read) = T::deserialize(&value) {
        return Ok(read);
    }
    if let Value::Object(arguments) = &mut value {
        mend(tool, arguments);
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        let reason = text::excerpt(&reason);
        // Errors of the object itself, such as a missing field, have the path ".".
        ArgumentError(if path == "." {
            reason
        } else {
            format!("{}: {reason}", text::excerpt(&path))
        })
    })
}

/// What hosts are known to send, and what they mean by it.
fn mend(tool: &Tool, arguments: &mut JsonObject) {
    let schema = &tool.input_schema;
    let known = schema.get("properties").and_then(Value::as_object);
    let hints = tool.annotations.as_ref();
    let is_change = hints.and_then(|hints| hints.read_only_hint) != Some(true);
    arguments.retain(|name, _| {
        let is_known = known.is_some_and(|known| known.contains_key(name));
        let is_ignored = if is_change {
            ADDED_BY_HOSTS.contains(&name.as_str())
        } else {
            !known.is_some_and(|known| known.keys().any(|known| is_near(name, known)))
        };
        if !is_known && is_ignored {
            let name = text::excerpt(name);
            tracing::debug!(name, "an argument of the host's own was ignored");
        }
        is_known || !is_ignored
    });
    for (name, value) in arguments {
        let text = value.as_str().map(str::trim);
        let is_left_out = matches!(text, Some("" | "null"));
        match name.as_str() {
            "backupId" | "backupIds" | "startId" | "verbose" | "body" if is_left_out => {
                *value = Value::Null;
            }
            "backupId" | "startId" => trim(value),
            "backupIds" => value.as_array_mut().into_iter().flatten().for_each(trim),
            "verbose" => flag(value),
            "body" => text::parse_embedded_json(value),
            _ => {}
        }
    }
}

/// Whether somebody who wrote this may have meant the argument.
fn is_near(name: &str, known: &str) -> bool {
    let plain = |name: &str| -> String {
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        letters.map(|letter| letter.to_ascii_lowercase()).collect()
    };
    name.len() < 2 * known.len() && strsim::jaro(&plain(name), &plain(known)) > 0.85
}

/// Takes off what models put around an id.
fn trim(id: &mut Value) {
    if let Value::String(text) = id {
        *text = text.trim_matches(is_around_an_id).to_owned();
    }
}

fn is_around_an_id(c: char) -> bool {
    c.is_whitespace() || ['"', '\'', '`'].contains(&c)
}

fn flag(value: &mut Value) {
    let text = value.as_str().map(|text| text.trim().to_ascii_lowercase());
    if let Some(Ok(read)) = text.map(|text| text.parse::<bool>()) {
        *value = read.into();
    }
}

/// The documentation of a type, and its schema without it.
pub(super) fn schema<T: JsonSchema>() -> (String, JsonObject) {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<T>();
    RecursiveTransform(tidy).transform(&mut schema);
    schema.remove("title");
    let description = schema.remove("description");
    let description = description.as_ref().and_then(Value::as_str);
    (
        description.unwrap_or_default().to_owned(),
        std::mem::take(schema.ensure_object()),
    )
}

/// Leaves what every host and every converter reads: types of one name, no formats, no closed objects.
/// A description is one line, and what may be absent is left out, never `null`.
fn tidy(schema: &mut Schema) {
    schema.remove("$schema");
    schema.remove("default");
    schema.remove("format");
    if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
        schema.remove("additionalProperties");
    }
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
}

impl ArgumentError {
    pub(super) fn new(problem: &str) -> Self {
        Self(problem.to_owned())
    }
}

impl Database {
    /// Bytes: longer than any name.
    const LONGEST: usize = 255;
}

impl TryFrom<String> for Database {
    type Error = IdError;

    /// An id in any other form than the hyphenated one is no name either.
    fn try_from(text: String) -> Result<Self, IdError> {
        let text = text.trim_matches(is_around_an_id);
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        let parts: Vec<&str> = text.split(['/', '?', '#']).collect();
        let mut pairs = parts.windows(2).rev();
        let id = pairs.find_map(|pair| match pair {
            ["service" | "database", id] => id.parse().ok(),
            _ => None,
        });
        if let Some(id) = id {
            return Ok(Self::Address(id));
        }
        if text.is_empty() || text.len() > Self::LONGEST || Uuid::try_parse(text).is_ok() {
            return Err(IdError);
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Database {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::try_from(text).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Database {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Database".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

impl AddArguments {
    /// What stands where nobody says what a backup is for: Qovery wants something.
    const MESSAGE: &str = "Made by an AI assistant through qovery-backups-mcp.";

    /// The database, and the backup to be made, in whichever of the two forms it was given.
    pub(super) fn addition(self) -> Result<(Database, NewBackup), ArgumentError> {
        let backup = match (self.name, self.message, self.body) {
            (Some(name), message, None) => {
                let message = message.map_or_else(|| Self::MESSAGE.to_owned().try_into(), Ok);
                let message = message
                    .map_err(|error: TextError| ArgumentError(format!("message: {error}")))?;
                NewBackup { name, message }
            }
            (None, None, Some(body)) => body,
            (None, _, None) => return Err(ArgumentError::new("missing field `name`")),
            (_, _, Some(_)) => {
                let problem = "`body` is given beside `name` or `message`; leave it out";
                return Err(ArgumentError::new(problem));
            }
        };
        Ok((self.database_id, backup))
    }
}

impl RemoveArguments {
    /// The database, and what is to be removed of its backups.
    pub(super) fn target(
        self,
        limits: &Limits,
    ) -> Result<(Database, Vec<BackupId>), ArgumentError> {
        let most = limits.batch_size;
        let backups = match (self.backup_id, self.backup_ids) {
            (Some(backup), None) => vec![backup],
            (None, Some(backups)) if (1..=most).contains(&backups.len()) => backups,
            (None, Some(backups)) => {
                return Err(ArgumentError(format!(
                    "backupIds: must have 1 to {most} ids, and has {}",
                    backups.len()
                )));
            }
            (None, None) => return Err(ArgumentError::new("missing field `backupId`")),
            (Some(_), Some(_)) => {
                let problem = "`backupId` is given beside `backupIds`; leave one of them out";
                return Err(ArgumentError::new(problem));
            }
        };
        Ok((self.database_id, backups))
    }
}
