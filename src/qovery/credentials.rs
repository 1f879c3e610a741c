//! The API key: its scheme, recognised by its shape, and the one place that exposes it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// A key and the scheme it is sent under. Its `Debug` form hides the key.
#[derive(Clone, Debug)]
pub struct Credentials {
    scheme: Scheme,
    key: SecretString,
}

/// The two schemes that Qovery's API takes in `Authorization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// An API token (`qov_...`), made for machines. It does not expire.
    Token,
    /// A person's JWT. It expires.
    Bearer,
}

/// The kinds of key, by what a 401 means for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// An API token (`qov_...`), or a token of no known form. Qovery does not accept it.
    ApiToken,
    /// A token with a policy (`sk-qov-01-...`). First of all, the policy does not allow the request.
    PolicyToken,
    /// A person's JWT. First of all, it has expired.
    Jwt,
}

/// Why a key was refused. No message repeats any part of it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CredentialsError {
    /// Nothing, or nothing after the scheme.
    #[error("is empty: paste an API token from the Qovery console")]
    Empty,
    /// A newline inside the key, usually from pasting or from a file with several lines.
    #[error("contains a line break: give the key alone, on one line")]
    LineBreak,
    /// A space, a control character or a character outside ASCII.
    #[error("contains a space or a character that no key has: paste it again")]
    Character,
}

impl Credentials {
    /// Reads a key. `qov_...` is a token; three dot-separated parts that begin with `eyJ` are a
    /// JWT; anything else is a token; a key that begins with `Token ` or `Bearer ` says so itself.
    ///
    /// # Errors
    ///
    /// When the key could not be sent in a header as it stands.
    pub fn parse(text: &str) -> Result<Self, CredentialsError> {
        let (scheme, key) = if let Some(key) = text.strip_prefix("Token ") {
            (Scheme::Token, key)
        } else if let Some(key) = text.strip_prefix("Bearer ") {
            (Scheme::Bearer, key)
        } else if text.starts_with("eyJ") && text.split('.').count() == 3 {
            (Scheme::Bearer, text)
        } else {
            (Scheme::Token, text)
        };
        if key.trim().is_empty() {
            return Err(CredentialsError::Empty);
        }
        if key.contains(['\n', '\r']) {
            return Err(CredentialsError::LineBreak);
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CredentialsError::Character);
        }
        Ok(Self {
            scheme,
            key: SecretString::from(key),
        })
    }

    /// The scheme that the key is sent under.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The kind of the key, recognised like its scheme.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        match self.scheme {
            Scheme::Bearer => KeyKind::Jwt,
            Scheme::Token if self.key.expose_secret().starts_with("sk-qov-") => {
                KeyKind::PolicyToken
            }
            Scheme::Token => KeyKind::ApiToken,
        }
    }

    /// The key for people's eyes: how it begins and its last four characters. A key that is too
    /// short to lose four characters shows none.
    #[must_use]
    pub fn masked(&self) -> String {
        let key = self.key.expose_secret();
        if key.len() < 16 {
            return "…".to_owned();
        }
        let start = ["qov_", "eyJ"]
            .into_iter()
            .find(|start| key.starts_with(start));
        format!("{}…{}", start.unwrap_or_default(), &key[key.len() - 4..])
    }

    /// When a JWT says that it expires; `None` for a token, or a JWT that does not say.
    #[must_use]
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        #[derive(Deserialize)]
        struct Claims {
            exp: i64,
        }
        if self.scheme != Scheme::Bearer {
            return None;
        }
        let payload = self.key.expose_secret().split('.').nth(1)?;
        let claims = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let claims: Claims = serde_json::from_slice(&claims).ok()?;
        DateTime::from_timestamp(claims.exp, 0)
    }

    /// The value of `Authorization`, marked sensitive so that no log prints it.
    pub(super) fn header(&self) -> Result<HeaderValue, reqwest::header::InvalidHeaderValue> {
        let scheme = match self.scheme {
            Scheme::Token => "Token",
            Scheme::Bearer => "Bearer",
        };
        let mut value = HeaderValue::try_from(format!("{scheme} {}", self.key.expose_secret()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The text without the key, for upstream messages that echo what they were sent.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(self.key.expose_secret(), "[key]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE4MDAwMDAwMDB9.c2lnbmF0dXJl";

    #[test]
    fn the_scheme_follows_the_shape() {
        for (key, header) in [
            ("qov_abcdef", "Token qov_abcdef"),
            ("something-else", "Token something-else"),
            ("eyJ-not-three-parts", "Token eyJ-not-three-parts"),
            ("a.b.c", "Token a.b.c"),
            (JWT, &format!("Bearer {JWT}")),
            ("Token eyJa.b.c", "Token eyJa.b.c"),
            ("Bearer qov_abcdef", "Bearer qov_abcdef"),
        ] {
            let sent = Credentials::parse(key).unwrap().header().unwrap();
            assert_eq!(sent.to_str().unwrap(), header);
            assert!(sent.is_sensitive());
        }
    }

    #[test]
    fn a_key_that_cannot_be_sent_is_refused() {
        for (key, error) in [
            ("", CredentialsError::Empty),
            ("   ", CredentialsError::Empty),
            ("Token ", CredentialsError::Empty),
            ("qov_a\nX-Other: b", CredentialsError::LineBreak),
            ("qov_a\r", CredentialsError::LineBreak),
            ("qov_a b", CredentialsError::Character),
            (" qov_a", CredentialsError::Character),
            ("qov_é", CredentialsError::Character),
        ] {
            assert_eq!(Credentials::parse(key).unwrap_err(), error, "{key:?}");
        }
    }

    #[test]
    fn a_mask_shows_four_characters_at_most() {
        let mask = |key| Credentials::parse(key).unwrap().masked();
        assert_eq!(mask("qov_0123456789abcdef"), "qov_…cdef");
        assert_eq!(mask("0123456789abcdefghij"), "…ghij");
        assert_eq!(mask("qov_short"), "…");
        assert!(!format!("{:?}", Credentials::parse("qov_0123456789").unwrap()).contains("0123"));
    }

    #[test]
    fn a_jwt_says_when_it_expires() {
        let expires = |key| Credentials::parse(key).unwrap().expires_at();
        assert_eq!(
            expires(JWT).unwrap().to_rfc3339(),
            "2027-01-15T08:00:00+00:00"
        );
        assert_eq!(expires("eyJa.b.c"), None);
        assert_eq!(expires("qov_abc"), None);
    }
}
