//! The API key: its scheme, recognised by its format, and the only code that exposes it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// A key and its scheme. The `Debug` form hides the key.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The key's scheme.
    pub scheme: Scheme,
    key: SecretString,
}

/// The kinds of key that Qovery's API accepts, under two schemes of `Authorization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// An API token (`qov_...`). It does not expire.
    Token,
    /// A policy token (`sk-qov-01-...`), sent as `Token`. What its policy denies is answered 401, like
    /// an invalid key.
    Policy,
    /// A person's JWT. It expires.
    Bearer,
}

/// Why a key was refused. No message quotes any part of it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CredentialsError {
    /// No key, or none after the scheme.
    #[error("is empty: paste an API token from the Qovery console")]
    Empty,
    /// A newline inside the key, usually from a file with several lines.
    #[error("contains a line break: give the key alone, on one line")]
    LineBreak,
    /// A space, a quote or another character outside `token68` (RFC 9110, section 11.2).
    #[error("contains a space or a character that no key has: paste it again")]
    Character,
}

const POLICY_PREFIX: &str = "sk-qov-01-";

impl Credentials {
    /// Parses a key: an explicit `Token ` or `Bearer ` decides its scheme, three dot-separated parts
    /// that begin with `eyJ` are a JWT, and anything else is a token.
    ///
    /// # Errors
    ///
    /// When the key is not a valid header value.
    pub fn parse(text: &str) -> Result<Self, CredentialsError> {
        let (scheme, key) = match text.split_once(' ') {
            Some(("Token", key)) => (Scheme::Token, key),
            Some(("Bearer", key)) => (Scheme::Bearer, key),
            _ if text.starts_with("eyJ") && text.split('.').count() == 3 => (Scheme::Bearer, text),
            _ => (Scheme::Token, text),
        };
        let key = key.trim_start_matches(' ');
        if key.is_empty() {
            return Err(CredentialsError::Empty);
        }
        if key.contains(['\n', '\r']) {
            return Err(CredentialsError::LineBreak);
        }
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
        if !key.trim_end_matches('=').bytes().all(is_part) {
            return Err(CredentialsError::Character);
        }
        let scheme = match scheme {
            Scheme::Token if key.starts_with(POLICY_PREFIX) => Scheme::Policy,
            scheme => scheme,
        };
        Ok(Self {
            scheme,
            key: SecretString::from(key),
        })
    }

    /// The key for display: its prefix and its last four characters, or neither if it is shorter than
    /// 16 characters without its prefix.
    #[must_use]
    pub fn masked(&self) -> String {
        let key = self.key.expose_secret();
        let start = ["qov_", POLICY_PREFIX, "eyJ"]
            .into_iter()
            .find(|start| key.starts_with(start))
            .unwrap_or_default();
        if key.len() < start.len() + 16 {
            return "…".to_owned();
        }
        format!("{start}…{}", &key[key.len() - 4..])
    }

    /// When a JWT expires (`exp`); `None` for a token and for a JWT without that claim.
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
            Scheme::Token | Scheme::Policy => "Token",
            Scheme::Bearer => "Bearer",
        };
        let mut value = HeaderValue::try_from(format!("{scheme} {}", self.key.expose_secret()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Replaces the key in a text: an upstream's message can quote the request.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(self.key.expose_secret(), "[key]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE4MDAwMDAwMDB9.c2lnbmF0dXJl";

    #[test]
    fn the_scheme_follows_the_format() {
        for (key, header) in [
            ("qov_abcdef", "Token qov_abcdef"),
            ("sk-qov-01-abcdef", "Token sk-qov-01-abcdef"),
            ("something-else", "Token something-else"),
            (" qov_abcdef", "Token qov_abcdef"),
            ("Token  qov_abcdef", "Token qov_abcdef"),
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
    fn a_key_that_is_no_header_value_is_refused() {
        for (key, error) in [
            ("", CredentialsError::Empty),
            ("   ", CredentialsError::Empty),
            ("Token ", CredentialsError::Empty),
            ("qov_a\nX-Other: b", CredentialsError::LineBreak),
            ("qov_a\r", CredentialsError::LineBreak),
            ("qov_a b", CredentialsError::Character),
            ("qov_é", CredentialsError::Character),
            ("\"qov_a", CredentialsError::Character),
            ("qov_a,", CredentialsError::Character),
            ("KEY=qov_a", CredentialsError::Character),
            ("Bearer ${KEY}", CredentialsError::Character),
        ] {
            assert_eq!(Credentials::parse(key).unwrap_err(), error, "{key:?}");
        }
    }

    #[test]
    fn a_mask_shows_four_characters_at_most() {
        let mask = |key| Credentials::parse(key).unwrap().masked();
        assert_eq!(mask("qov_0123456789abcdef"), "qov_…cdef");
        assert_eq!(mask("0123456789abcdefghij"), "…ghij");
        assert_eq!(mask("sk-qov-01-0123456789abcdef"), "sk-qov-01-…cdef");
        assert_eq!(mask("sk-qov-01-012345"), "…");
        assert_eq!(mask("qov_short"), "…");
        assert!(!format!("{:?}", Credentials::parse("qov_0123456789").unwrap()).contains("0123"));
    }

    #[test]
    fn a_jwt_has_an_expiry() {
        let expires = |key| Credentials::parse(key).unwrap().expires_at();
        assert_eq!(
            expires(JWT).unwrap().to_rfc3339(),
            "2027-01-15T08:00:00+00:00"
        );
        assert_eq!(expires("eyJa.b.c"), None);
        assert_eq!(expires("qov_abc"), None);
    }
}
