//! What the operations take from a request, each refusal a [`Problem`].

use axum::{
    extract::{
        path::ErrorKind,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderMap, header::ACCEPT},
};
use serde::Deserialize;

use crate::{
    problem::Problem,
    qovery::{BackupId, DatabaseId},
};

#[derive(Deserialize)]
pub(super) struct DatabasePath {
    pub(super) databaseid: DatabaseId,
}

#[derive(Deserialize)]
pub(super) struct BackupPath {
    pub(super) databaseid: DatabaseId,
    pub(super) backupid: BackupId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ListQuery {
    /// The id of the last backup of the page before; none for the first page.
    pub(super) start_id: Option<BackupId>,
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        let detail = match rejection {
            PathRejection::FailedToDeserializePathParams(error) => match error.into_kind() {
                ErrorKind::DeserializeError { key, message, .. } => format!("{key}: {message}"),
                ErrorKind::InvalidUtf8InPathParam { key } => format!("{key}: must be UTF-8"),
                _ => "The path is not valid".to_owned(),
            },
            _ => "The path is not valid".to_owned(),
        };
        Self::invalid(&detail)
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(&rejection.body_text())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::MissingJsonContentType(_) => Self::unsupported_media_type(),
            rejection => Self::invalid(&rejection.body_text()),
        }
    }
}

/// Whether `Accept` leaves room for JSON (RFC 9110, section 12.5.1): the most specific range that
/// fits decides.
pub(super) fn accepts_json(headers: &HeaderMap) -> bool {
    let mut ranges = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .peekable();
    if ranges.peek().is_none() {
        return true;
    }
    ranges
        .filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let specificity = match parts.next()?.to_ascii_lowercase().as_str() {
                "application/json" => 2,
                "application/*" => 1,
                "*/*" => 0,
                _ => return None,
            };
            let quality = parts
                .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
                .and_then(|quality| quality.parse::<f32>().ok())
                .unwrap_or(1.0);
            Some((specificity, quality > 0.0))
        })
        .max()
        .is_some_and(|(_, accepted)| accepted)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn accept_is_read_as_written() {
        for (accept, json) in [
            ("*/*", true),
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/html, application/*;q=0.1", true),
            ("text/html", false),
            ("application/json;q=0, */*", false),
            ("application/json, */*;q=0", true),
            ("application/jsonp", false),
            ("", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
            assert_eq!(accepts_json(&headers), json, "{accept}");
        }
        assert!(accepts_json(&HeaderMap::new()));
    }
}
