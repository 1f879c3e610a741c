//! Arguments of the tools. A model reads a type's documentation to choose the tool, and a field's to
//! fill it in. `{kept}` in it stands for the number of backups that the operator keeps, if that is several.

use std::collections::BTreeSet;

use chrono::{DateTime, SecondsFormat, Utc};
use rmcp::model::{JsonObject, Tool};
use schemars::{JsonSchema, Schema, generate::SchemaSettings, transform::RecursiveTransform};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::tools::LIST;
use crate::{
    backups::{Condition, Listed},
    limits::Limits,
    qovery::{
        BackupId, BackupMessage, BackupName, DatabaseId, IdError, NewBackup, mask_keys, parse_date,
    },
    text,
};

/// List a database's backups, newest first, with the time it is `now`. Each has a `condition`: finished
/// (it can be restored from), in_progress, failed, being_removed or unknown. Unless `complete` is false,
/// `summary` counts all of them, and `protected` gives the reason for each that this server refuses to remove.
/// Up to 100 are shown, those that fit the filters; the next ones come with next_created_before as
/// createdBefore. With backupId: that one alone, and while it is in_progress this waits for it, up to 20
/// seconds, or 4 where the client sends no progress token. Without databaseId: of each database the newest finished
/// backup, the worst first; to look at all at once, since it takes a request or more a database of the 1,000 that Qovery
/// allows an hour.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ListArguments {
    /// The database's id (UUID), or the address of its page in the Qovery console. A name, with that of
    /// its environment or project if you know it, is answered with the ids of the databases called so.
    /// Left out: all databases at once.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "DatabaseArgument")]
    pub(super) database_id: Option<DatabaseArgument>,
    /// One backup, to look at or to wait for.
    pub(super) backup_id: Option<BackupId>,
    /// Only those made before this: a date (midnight UTC), or with a time, 2026-11-14T09:00:00+01:00.
    #[serde(default, deserialize_with = "date")]
    #[schemars(with = "String")]
    created_before: Option<DateTime<Utc>>,
    /// Only those made then or later.
    #[serde(default, deserialize_with = "date")]
    #[schemars(with = "String")]
    created_after: Option<DateTime<Utc>>,
    /// Only those in this condition.
    // Without an `enum`: in strict modes a model gives every argument, and can leave only free text empty.
    #[schemars(with = "Option<String>")]
    condition: Option<Condition>,
    /// Add all that Qovery says of each.
    pub(super) verbose: Option<bool>,
}

/// A value that is left out or given, and not null.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
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
    /// What the backup is for. Without it: "Made by an AI assistant through qovery-backups-mcp."
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
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub(super) enum DatabaseArgument {
    Id(DatabaseId),
    /// Text around it, such as the address of its page in the Qovery console.
    Enclosed(DatabaseId),
    /// It is compared here, and never sent.
    Name(String),
}

/// Arguments that are refused. The text names the argument, and never repeats a long value.
#[derive(Debug, thiserror::Error)]
#[error("Invalid arguments: {0}. No request was sent to Qovery, and nothing was changed.")]
pub(super) struct ArgumentError(pub(super) String);

/// Whether some hosts add this argument to every call (Cline, n8n). Those of n8n that could narrow what is
/// asked for count only beside its call's id, with a value that it sends.
fn is_added_by_host(name: &str, value: &Value, is_of_n8n: bool) -> bool {
    match name {
        "task_progress" | "sessionId" | "toolCallId" => true,
        "action" => is_of_n8n && value == "sendMessage",
        "chatInput" | "tool" => is_of_n8n && value.is_string(),
        "metadata" => is_of_n8n && value.is_object(),
        _ => false,
    }
}

/// Reads the arguments of a tool strictly by its schema; if they do not fit, once more after
/// normalizing them. Valid arguments are thus never changed.
pub(super) fn parse<T: DeserializeOwned>(
    tool: &Tool,
    mut arguments: JsonObject,
) -> Result<T, ArgumentError> {
    if let Ok(valid) = T::deserialize(&arguments) {
        return Ok(valid);
    }
    let mut names = arguments.keys();
    if tool.name == LIST && names.any(|name| is_similar(name, "startId")) {
        let problem = "`startId` is not an argument here; use `createdBefore`";
        return Err(ArgumentError(problem.to_owned()));
    }
    normalize(tool, &mut arguments);
    serde_path_to_error::deserialize(arguments).map_err(|error| {
        let reason = mask_keys(&text::excerpt(&error.inner().to_string()));
        match error.path().to_string().as_str() {
            // Of the object itself, such as a missing field.
            "." => ArgumentError(reason),
            path => ArgumentError(format!("{}: {reason}", mask_keys(&text::excerpt(path)))),
        }
    })
}

/// Corrects what hosts are known to get wrong: arguments of their own, absent values and scalars as
/// text, ids in quotes.
fn normalize(tool: &Tool, arguments: &mut JsonObject) {
    let properties = tool.input_schema.get("properties");
    let known = properties.and_then(Value::as_object);
    let known: Vec<&String> = known.into_iter().flat_map(JsonObject::keys).collect();
    let is_of_n8n = arguments.get("toolCallId").is_some_and(Value::is_string);
    let is_of_one = &*tool.name == LIST && arguments.contains_key("databaseId");
    arguments.retain(|name, value| {
        if is_of_one {
            return known.iter().any(|known| is_similar(name, known));
        }
        // A change, or a list of all databases, is refused for an unknown argument: it may have been meant to
        // narrow it.
        known.contains(&name) || !is_added_by_host(name, value, is_of_n8n)
    });
    if arguments.get("body") == Some(&json!({})) && arguments.contains_key("name") {
        arguments.remove("body");
    }
    for (name, value) in arguments {
        let text = value.as_str().map(str::trim);
        let is_absent = matches!(text, Some("" | "null"));
        match name.as_str() {
            name if is_absent && !["databaseId", "name", "message"].contains(&name) => {
                *value = Value::Null;
            }
            "backupId" | "createdBefore" | "createdAfter" | "condition" => trim_id(value),
            "backupIds" => {
                split_ids(value);
                value.as_array_mut().into_iter().flatten().for_each(trim_id);
            }
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

/// Whether a name is one of an argument, or may be a misspelt one.
fn is_similar(name: &str, known: &str) -> bool {
    strsim::jaro(&name.to_lowercase(), &known.to_lowercase()) > 0.85
}

/// Makes a list of ids in text: JSON, or with commas or blanks between them.
fn split_ids(ids: &mut Value) {
    let Some(text) = ids.as_str() else { return };
    *ids = serde_json::from_str(text)
        .ok()
        .filter(Value::is_array)
        .unwrap_or_else(|| {
            let parts = text.split(|c: char| c == ',' || c.is_whitespace());
            parts.filter(|part| !part.is_empty()).collect()
        });
}

fn trim_id(id: &mut Value) {
    if let Value::String(text) = id {
        *text = text.trim_matches(surrounds_ids).to_owned();
    }
}

/// What models put around an id.
fn surrounds_ids(c: char) -> bool {
    c.is_whitespace() || ['"', '\'', '`'].contains(&c) || text::is_hidden(c)
}

/// The documentation of a type, and its schema without it.
pub(super) fn schema<T: JsonSchema>() -> (String, JsonObject) {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .with_transform(RecursiveTransform(simplify));
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    let description = match schema.remove("description") {
        Some(Value::String(description)) => description,
        _ => String::new(),
    };
    (description, std::mem::take(schema.ensure_object()))
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

impl TryFrom<String> for DatabaseArgument {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        /// Longer than any name.
        const MAX_NAME_BYTES: usize = 255;

        let text = text.trim_matches(surrounds_ids);
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        let parts = text.split(|c: char| !c.is_alphanumeric() && c != '-');
        let parts: Vec<&str> = parts.collect();
        let id_of = |part: &&str| part.parse().ok();
        let behind = parts.windows(2).filter_map(|pair| match pair {
            ["service" | "database", id] => id_of(id),
            _ => None,
        });
        let mut ids: BTreeSet<DatabaseId> = behind.collect();
        if ids.is_empty() {
            ids = parts.iter().filter_map(id_of).collect();
        }
        match ids.first() {
            Some(id) if ids.len() == 1 => return Ok(Self::Enclosed(*id)),
            Some(_) => return Err("must be one id: name one database a call".to_owned()),
            None => {}
        }
        // A UUID in another form than the hyphenated one is no name either.
        let is_absent = text.is_empty() || text == "null";
        if is_absent || text.len() > MAX_NAME_BYTES || Uuid::try_parse(text).is_ok() {
            return Err(IdError.to_string());
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl ListArguments {
    /// How the filters were read; none, if there are none.
    pub(super) fn describe_filters(&self) -> Option<String> {
        let date = |date: DateTime<Utc>| date.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let parts = [
            self.created_after.map(|it| format!("from {}", date(it))),
            self.created_before.map(|it| format!("before {}", date(it))),
            self.condition.map(|it| format!("condition {}", it.name())),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// Whether the filters show a backup. They have no say in what is protected.
    pub(super) fn fit(&self, listed: &Listed) -> bool {
        let date = listed.backup.made_at();
        let is_before = |end| date.is_some_and(|date| date < end);
        let is_from = |from| date.is_some_and(|date| date >= from);
        self.created_before.is_none_or(is_before)
            && self.created_after.is_none_or(is_from)
            && self.condition.is_none_or(|it| it == listed.condition)
    }
}

fn date<'de, D: Deserializer<'de>>(from: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    let date = text.map(|text| {
        parse_date(&text).ok_or(
            "must be a date, such as 2026-11-14 or 2026-11-14T09:00:00+01:00; for a word like \
             \"yesterday\", count from the `now` of a list",
        )
    });
    date.transpose().map_err(de::Error::custom)
}

impl AddArguments {
    /// The database and the new backup, from either of the two forms.
    pub(super) fn addition(self) -> Result<(DatabaseArgument, NewBackup), ArgumentError> {
        let problem = match (self.name, self.message, self.body) {
            (Some(name), message, None) => {
                let message = message.unwrap_or_else(NewBackup::default_message);
                return Ok((self.database_id, NewBackup { name, message }));
            }
            (None, None, Some(backup)) => return Ok((self.database_id, backup)),
            (None, _, None) => "missing field `name`",
            (_, _, Some(_)) => "`body` is given beside `name` or `message`; leave it out",
        };
        Err(ArgumentError(problem.to_owned()))
    }
}

impl RemoveArguments {
    /// The database and the backups to remove.
    pub(super) fn target(
        self,
        limits: &Limits,
    ) -> Result<(DatabaseArgument, Vec<BackupId>), ArgumentError> {
        let max = limits.batch_size;
        let problem = match (self.backup_id, self.backup_ids) {
            (None, None) => "missing field `backupId`".to_owned(),
            (None, Some(ids)) if (1..=max).contains(&ids.len()) => {
                return Ok((self.database_id, ids));
            }
            (None, Some(ids)) => {
                format!("backupIds: must have 1 to {max} ids, and has {}", ids.len())
            }
            (Some(id), Some(ids)) if !ids.is_empty() && ids != [id] => {
                "`backupId` is given beside `backupIds`; leave one of them out".to_owned()
            }
            (Some(id), _) => return Ok((self.database_id, vec![id])),
        };
        Err(ArgumentError(problem))
    }
}
