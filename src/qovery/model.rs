//! The types of Qovery's API, validated when they are created.

use std::{fmt, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Visitor},
};
use serde_json::{Map, Number, Value};
use uuid::{Uuid, fmt::Hyphenated};

use super::date;
use crate::text;

/// Declares an id: a UUID that is parsed in its hyphenated form only, in any case, and displayed in
/// lower case. Paths of Qovery's API hold literals and ids only.
macro_rules! id {
    ($(#[doc = $doc:literal])+ $name:ident) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        #[serde(transparent)]
        #[schemars(inline)]
        pub struct $name(Uuid);

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hyphenated(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(IdVisitor).map(Self)
            }
        }
    };
}

id! {
    /// The id of a database. A person finds it in the Qovery console's address of the database.
    DatabaseId
}
id! {
    /// The id of a backup, as the list of a database's backups gives it.
    BackupId
}

/// The text is not an id. The message does not quote it: it may be a megabyte long.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be a hyphenated UUID, like 123e4567-e89b-12d3-a456-426614174000")]
pub struct IdError;

/// Fails inside of the deserializer, because axum names the path parameter of such an error only.
struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = Uuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Uuid, E> {
        parse_hyphenated(text).map_err(E::custom)
    }
}

/// `Uuid` itself also parses braces, `urn:uuid:` and bare digits.
fn parse_hyphenated(text: &str) -> Result<Uuid, IdError> {
    text.parse().map(Hyphenated::into_uuid).map_err(|_| IdError)
}

/// One page of a database's backups (`BackupPaginatedResponseList`).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
pub struct BackupPage {
    /// The backups of this page.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub results: Vec<Backup>,
    /// The number of this page, as Qovery counts.
    pub page: Number,
    /// How many backups a full page holds.
    pub page_size: Number,
}

impl BackupPage {
    /// The start of the next page: the last backup of a full page. A page that is not full is the
    /// last one; Qovery gives neither a total nor a link.
    pub fn next_start_id(&self) -> Option<BackupId> {
        // `20.0` counts as unknown, and costs a request for an empty page.
        let page_size = self.page_size.as_u64().unwrap_or(0);
        let last = self.results.last()?;
        (self.results.len() as u64 >= page_size).then_some(last.id)
    }
}

/// A backup of a database (`Backup`).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
// `skip_serializing_if` keeps `default: null` out of the schema.
pub struct Backup {
    /// The backup's id.
    pub id: BackupId,
    /// When the backup was made (RFC 3339).
    #[serde(deserialize_with = "text_of_date")]
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
    /// When the backup last changed (RFC 3339).
    #[serde(default, deserialize_with = "text_of_optional_date")]
    #[schemars(with = "String", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub updated_at: Option<String>,
    /// The name of the backup.
    #[serde(default)]
    #[schemars(with = "String", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The message of the backup.
    #[serde(default)]
    #[schemars(with = "String", skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How far the backup is.
    #[serde(default, deserialize_with = "object_or_none")]
    #[schemars(with = "Status", skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Fields that this program does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Backup {
    /// The backup's state, if Qovery gives one.
    pub fn state(&self) -> Option<&str> {
        self.status.as_ref()?.state.as_deref()
    }

    /// When the backup was made, if `created_at` can be parsed.
    pub fn made_at(&self) -> Option<DateTime<Utc>> {
        date::parse(&self.created_at)
    }
}

/// How far a backup is (`Status`). It is most of an answer's bytes, so only these two fields are
/// kept; [`Answered::json`](super::Answered::json) has the others.
#[derive(Clone, Debug, Default, JsonSchema)]
#[schemars(inline, extend("additionalProperties" = true))]
pub struct Status {
    /// For example `QUEUED`, `EXECUTING`, `READY` or `DEPLOYMENT_ERROR`. Qovery may add values.
    #[schemars(default, with = "String", skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// When the backup was last worked on (RFC 3339).
    #[schemars(default, with = "String", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_deployment_date: Option<String>,
}

/// A list that is not paginated (`OrganizationResponseList` and the like).
#[derive(Debug, Deserialize)]
pub(super) struct Results<T> {
    #[serde(default = "Vec::new")]
    pub(super) results: Vec<T>,
}

/// The fields of an organization that a look-up needs (`Organization`).
#[derive(Debug, Deserialize)]
pub struct Organization {
    /// Its id.
    pub id: Uuid,
}

/// The fields of a service of an organization that a look-up needs.
#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    /// Its id: for a database, the database's id.
    pub id: DatabaseId,
    /// Its name.
    pub name: String,
    /// Its type, for instance `DATABASE`.
    pub service_type: String,
    /// The name of its project.
    pub project_name: String,
    /// The name of its environment.
    pub environment_name: String,
}

/// The fields of a database that a look-up needs (`Database`).
#[derive(Debug, Deserialize)]
pub struct Database {
    /// Its name.
    pub name: String,
}

/// A backup to be made (`BackupRequest`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object with a `name`")]
pub struct NewBackup {
    /// The backup's name. It is trimmed, and something of it can be seen.
    #[schemars(extend("pattern" = VISIBLE))]
    pub name: BackupName,
    /// What the backup is for.
    #[serde(default = "NewBackup::default_message")]
    pub message: BackupMessage,
}

impl NewBackup {
    /// The message of a backup that is given none: Qovery requires one.
    pub(crate) fn default_message() -> BackupMessage {
        Text("Made by an AI assistant through qovery-backups-mcp.".to_owned())
    }
}

/// One character at least that can be seen; of the hidden ones, those of four digits.
const VISIBLE: &str = concat!(
    r"[^\s\u0000-\u001f\u007f-\u009f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2",
    r"\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164",
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb]",
);

/// A backup's name: 1 to 255 characters.
pub type BackupName = Text<1, 255>;

/// A backup's message: up to 4,000 characters.
pub type BackupMessage = Text<0, 4000>;

/// Text of `MIN` to `MAX` characters, in its schema as in its validation. Where it cannot be empty, it is
/// trimmed, and something of it can be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(!try_from, inline)]
pub struct Text<const MIN: usize, const MAX: usize>(
    #[schemars(length(min = MIN, max = MAX))] String,
);

/// The text is too short or too long. The message does not quote it.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be {min} to {max} characters long, and has {length}")]
pub struct TextError {
    min: usize,
    max: usize,
    length: usize,
}

impl<const MIN: usize, const MAX: usize> Text<MIN, MAX> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MIN: usize, const MAX: usize> TryFrom<String> for Text<MIN, MAX> {
    type Error = TextError;

    fn try_from(text: String) -> Result<Self, TextError> {
        let trimmed = text::trim(&text);
        let text = if MIN > 0 { trimmed.to_owned() } else { text };
        match text.chars().count() {
            length if (MIN..=MAX).contains(&length) => Ok(Self(text)),
            length => Err(TextError {
                min: MIN,
                max: MAX,
                length,
            }),
        }
    }
}

/// Qovery may send `null` where its document says "absent".
fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Backup>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn text_of_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    text_of_optional_date(deserializer).map(Option::unwrap_or_default)
}

/// In UTC, as the rules read it; what cannot be read stays. A date may be a number, and a value of another
/// type must not fail the whole list.
fn text_of_optional_date<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let text = match Value::deserialize(deserializer)? {
        Value::Null => return Ok(None),
        Value::String(text) => text,
        other => other.to_string(),
    };
    let utc = date::parse(&text).map(|date| date.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    Ok(utc.or(Some(text)))
}

/// What is no object says nothing of the status, and what is no text nothing of the state.
fn object_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Status>, D::Error> {
    let status = Value::deserialize(deserializer)?;
    let date = text_of_optional_date(&status["last_deployment_date"]);
    let last_deployment_date = date.map_err(de::Error::custom)?;
    let state = status["state"].as_str().map(str::to_owned);
    Ok(status.is_object().then_some(Status {
        state,
        last_deployment_date,
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const ID: &str = "123e4567-e89b-12d3-a456-426614174000";

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        let upper = ID.to_uppercase();
        assert_eq!(upper.parse::<BackupId>().unwrap().to_string(), ID);
        for text in [
            "",
            "123e4567e89b12d3a456426614174000",
            "{123e4567-e89b-12d3-a456-426614174000}",
            "urn:uuid:123e4567-e89b-12d3-a456-426614174000",
            " 123e4567-e89b-12d3-a456-42661417400",
            "../e4567-e89b-12d3-a456-426614174000",
            "%2e%2e4567-e89b-12d3-a456-4266141740",
            "123e4567-e89b-12d3-a456-42661417400é",
        ] {
            assert_eq!(text.parse::<BackupId>(), Err(IdError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_parsed_id_is_a_plain_path_segment(text in "\\PC{30,40}|[0-9a-fA-F-]{36}") {
            if let Ok(id) = text.parse::<DatabaseId>() {
                prop_assert_eq!(id.to_string(), text.to_lowercase());
            }
        }
    }

    #[test]
    fn a_backup_keeps_unknown_fields() {
        let backup = json!({
            "id": ID, "created_at": "2026-01-01T00:00:00Z", "size_gb": 3.5, "tags": ["a"],
            "status": { "state": "SOMETHING_NEW", "steps": null }
        });
        let backup: Backup = serde_json::from_value(backup).unwrap();
        assert_eq!(backup.state(), Some("SOMETHING_NEW"));
        assert_eq!(
            json!(backup.other),
            json!({ "size_gb": 3.5, "tags": ["a"] })
        );
    }

    #[test]
    fn results_status_and_state_may_be_absent_or_null() {
        for page in [
            json!({ "page": 1, "page_size": 20 }),
            json!({ "page": 1, "page_size": 20, "results": null }),
        ] {
            let page: BackupPage = serde_json::from_value(page).unwrap();
            assert!(page.results.is_empty());
            assert_eq!(page.next_start_id(), None);
        }
        for status in [
            json!(null),
            json!({}),
            json!("READY"),
            json!(["READY"]),
            json!({ "state": null }),
            json!({ "state": { "name": "READY" } }),
        ] {
            let backup = json!({ "id": ID, "created_at": "x", "status": status });
            let backup: Backup = serde_json::from_value(backup).unwrap();
            assert_eq!(backup.state(), None);
        }
    }

    #[test]
    fn a_date_may_be_anything() {
        let utc = "2026-03-01T02:30:00Z";
        let made = utc.parse().unwrap();
        for (date, text, read) in [
            (json!(1_772_332_200_000_u64), utc, Some(made)),
            (json!(1_772_332_200.0), utc, Some(made)),
            (json!("2026-03-01 02:30"), utc, Some(made)),
            (json!("2026-03-01T08:00:00+05:30"), utc, Some(made)),
            (json!([2026, 3, 1]), "[2026,3,1]", None),
            (json!(null), "", None),
        ] {
            let status = json!({ "last_deployment_date": date });
            let backup =
                json!({ "id": ID, "created_at": date, "updated_at": date, "status": status });
            let backup: Backup = serde_json::from_value(backup).unwrap();
            assert_eq!((backup.created_at.as_str(), backup.made_at()), (text, read));
        }
        let dateless = json!({ "id": ID, "status": {} });
        assert!(serde_json::from_value::<Backup>(dateless).is_err());
    }

    #[test]
    fn text_is_counted_in_characters() {
        let name = |length| BackupName::try_from("é".repeat(length));
        assert!(name(1).is_ok() && name(255).is_ok());
        assert_eq!(
            name(256).unwrap_err().to_string(),
            "must be 1 to 255 characters long, and has 256"
        );
        for unseen in ["", "   ", "\u{200b}\n", "\u{2800}"] {
            let error = BackupName::try_from(unseen.to_owned()).unwrap_err();
            assert!(error.to_string().ends_with("has 0"), "{error}");
        }
        let trimmed = BackupName::try_from(" a b\n".to_owned()).unwrap();
        assert_eq!(trimmed.as_str(), "a b");
        assert!(BackupMessage::try_from(String::new()).is_ok());
        assert!(BackupMessage::try_from("x".repeat(4001)).is_err());
    }
}
