//! Arguments of the tools. A model reads a type's documentation to choose the tool, and a field's to
//! fill it in. `{kept}` in it stands for the number of backups that the operator keeps, if that is several.

use rmcp::model::{JsonObject, Tool};
use schemars::{
    JsonSchema, Schema,
    generate::SchemaSettings,
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
    pub(super) database_id: DatabaseArgument,
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
    pub(super) database_id: DatabaseArgument,
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
/// backupId for one or backupIds for up to 50, never both. All or nothing: if one is not listed or is
/// protected, none is removed, and the answer says which. Protected, whatever the arguments: the newest
/// {kept}finished, the newest {kept}that may be good, and what is being made; what failed takes no place. A
/// person may be asked, once for all that a call names; `outcome` says what became of it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RemoveArguments {
    /// The database's id (UUID).
    pub(super) database_id: DatabaseArgument,
    /// The backup to remove, as the list gave it.
    backup_id: Option<BackupId>,
    /// The backups to remove, as the list gave them.
    #[schemars(length(min = 1, max = 50))]
    backup_ids: Option<Vec<BackupId>>,
}

/// A database, as a model names it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub(super) enum DatabaseArgument {
    Id(DatabaseId),
    /// The address of its page in the Qovery console.
    Address(DatabaseId),
    /// It is compared here, and never sent.
    Name(String),
}

/// Arguments that are refused. The text names the argument, and never repeats a long value.
#[derive(Debug, thiserror::Error)]
#[error("Invalid arguments: {0}. No request was sent to Qovery, and nothing was changed.")]
pub(super) struct ArgumentError(String);

/// Arguments that some hosts add to every call (Cline, n8n).
const ADDED_BY_HOSTS: [&str; 7] = [
    "task_progress",
    "sessionId",
    "action",
    "chatInput",
    "toolCallId",
    "tool",
    "metadata",
];

/// Reads the arguments of a tool strictly by its schema; if they do not fit, once more after
/// normalizing them. Valid arguments are thus never changed.
pub(super) fn parse<T: DeserializeOwned>(
    tool: &Tool,
    arguments: JsonObject,
) -> Result<T, ArgumentError> {
    let mut value = Value::Object(arguments);
    if let Ok(valid) = T::deserialize(&value) {
        return Ok(valid);
    }
    if let Value::Object(arguments) = &mut value {
        normalize(tool, arguments);
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let reason = text::excerpt(&error.into_inner().to_string());
        // An error of the object itself, such as a missing field, has the path ".".
        ArgumentError(if path == "." {
            reason
        } else {
            format!("{}: {reason}", text::excerpt(&path))
        })
    })
}

/// Corrects what hosts are known to get wrong: arguments of their own, absent values and scalars as
/// text, ids in quotes.
fn normalize(tool: &Tool, arguments: &mut JsonObject) {
    let properties = tool.input_schema.get("properties");
    let known = properties.and_then(Value::as_object);
    let known: Vec<&String> = known.into_iter().flat_map(JsonObject::keys).collect();
    let hints = tool.annotations.as_ref();
    let is_read_only = hints.and_then(|hints| hints.read_only_hint) == Some(true);
    arguments.retain(|name, _| {
        let is_ignored = if known.contains(&name) {
            false
        } else if is_read_only {
            !known.iter().any(|known| is_similar(name, known))
        } else {
            // A change is refused for an unknown argument: it may have been meant to narrow it.
            ADDED_BY_HOSTS.contains(&name.as_str())
        };
        if is_ignored {
            let name = text::excerpt(name);
            tracing::debug!(name, "an unknown argument was ignored");
        }
        !is_ignored
    });
    for (name, value) in arguments {
        let text = value.as_str().map(str::trim);
        let is_absent = matches!(text, Some("" | "null"));
        match name.as_str() {
            "backupId" | "backupIds" | "startId" | "verbose" | "body" if is_absent => {
                *value = Value::Null;
            }
            "backupId" | "startId" => trim_id(value),
            "backupIds" => value.as_array_mut().into_iter().flatten().for_each(trim_id),
            "verbose" => {
                if let Some(Ok(flag)) = text.map(|text| text.to_ascii_lowercase().parse::<bool>()) {
                    *value = flag.into();
                }
            }
            "body" => text::parse_embedded_json(value),
            _ => {}
        }
    }
}

/// Whether a name may be a misspelt one of an argument.
fn is_similar(name: &str, known: &str) -> bool {
    let letters = |name: &str| -> String {
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        letters.map(|letter| letter.to_ascii_lowercase()).collect()
    };
    name.len() < 2 * known.len() && strsim::jaro(&letters(name), &letters(known)) > 0.85
}

fn trim_id(id: &mut Value) {
    if let Value::String(text) = id {
        *text = text.trim_matches(surrounds_ids).to_owned();
    }
}

/// What models put around an id.
fn surrounds_ids(c: char) -> bool {
    c.is_whitespace() || ['"', '\'', '`'].contains(&c)
}

/// The documentation of a type, and its schema without it.
pub(super) fn schema<T: JsonSchema>() -> (String, JsonObject) {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    RecursiveTransform(simplify).transform(&mut schema);
    schema.remove("title");
    let description = schema.remove("description");
    let description = description.as_ref().and_then(Value::as_str);
    (
        description.unwrap_or_default().to_owned(),
        std::mem::take(schema.ensure_object()),
    )
}

/// Leaves what every host and every converter reads: no formats, no closed objects, one type each
/// (an absent value is left out, never `null`), and descriptions of one line.
fn simplify(schema: &mut Schema) {
    for keyword in ["$schema", "default", "format"] {
        schema.remove(keyword);
    }
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

impl TryFrom<String> for DatabaseArgument {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        /// Longer than any name.
        const MAX_NAME_BYTES: usize = 255;

        let text = text.trim_matches(surrounds_ids);
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
        // A UUID in another form than the hyphenated one is no name either.
        if text.is_empty() || text.len() > MAX_NAME_BYTES || Uuid::try_parse(text).is_ok() {
            return Err(IdError);
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl AddArguments {
    /// Qovery requires a message.
    const DEFAULT_MESSAGE: &str = "Made by an AI assistant through qovery-backups-mcp.";

    /// The database and the new backup, from either of the two forms.
    pub(super) fn addition(self) -> Result<(DatabaseArgument, NewBackup), ArgumentError> {
        let problem = match (self.name, self.message, self.body) {
            (Some(name), message, None) => {
                let default = || Self::DEFAULT_MESSAGE.to_owned().try_into();
                let message = message.map_or_else(default, Ok);
                let message = message
                    .map_err(|error: TextError| ArgumentError(format!("message: {error}")))?;
                return Ok((self.database_id, NewBackup { name, message }));
            }
            (None, None, Some(backup)) => return Ok((self.database_id, backup)),
            (None, _, None) => "missing field `name`",
            (_, _, Some(_)) => "`body` is given beside `name` or `message`; leave it out",
        };
        Err(ArgumentError::new(problem))
    }
}

impl RemoveArguments {
    /// The database and the backups to remove.
    pub(super) fn target(
        self,
        limits: &Limits,
    ) -> Result<(DatabaseArgument, Vec<BackupId>), ArgumentError> {
        let backups = match (self.backup_id, self.backup_ids) {
            (Some(backup), None) => vec![backup],
            (None, Some(backups)) => backups,
            (None, None) => return Err(ArgumentError::new("missing field `backupId`")),
            (Some(_), Some(_)) => {
                let problem = "`backupId` is given beside `backupIds`; leave one of them out";
                return Err(ArgumentError::new(problem));
            }
        };
        let (max, number) = (limits.batch_size, backups.len());
        if !(1..=max).contains(&number) {
            let problem = format!("backupIds: must have 1 to {max} ids, and has {number}");
            return Err(ArgumentError(problem));
        }
        Ok((self.database_id, backups))
    }
}
