//! A key of Qovery's API, the server's or a caller's: its scheme, recognised by its format, and the only code
//! that exposes it.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A key and its scheme. The `Debug` form hides the key.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The key's scheme.
    pub scheme: Scheme,
    /// What stands for the key where something is remembered by it.
    pub id: KeyId,
    key: SecretString,
}

/// The first half of a key's SHA-256. Its `Display` form is in hexadecimal, and can be cut: `{id:.8}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId(u128);

/// The kinds of key that Qovery's API accepts, under two schemes of `Authorization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// An API token (`qov_...`). It does not expire.
    Token,
    /// A policy token (`sk-qov-01-...`), sent as `Token`. What its policy denies is answered 401, like
    /// an invalid key.
    Policy,
    /// An API token or a policy token under the scheme of a JWT, which Qovery refuses.
    Mismatch,
    /// A person's JWT. It expires, and says when if it has an `exp`.
    Bearer(Option<DateTime<Utc>>),
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

/// What no access token begins with.
const KEY_PREFIXES: [&str; 2] = ["qov_", "sk-qov-"];

impl Credentials {
    /// Parses a key: an explicit `Token ` or `Bearer ` decides its scheme, three dot-separated parts
    /// that begin with `eyJ` are a JWT, and anything else is a token.
    ///
    /// # Errors
    ///
    /// When the key is not a valid header value.
    pub fn parse(text: &str) -> Result<Self, CredentialsError> {
        let is_jwt = text.starts_with("eyJ") && text.split('.').count() == 3;
        let (is_bearer, key) = match text.split_once(' ') {
            Some(("Token", key)) => (false, key),
            Some(("Bearer", key)) => (true, key),
            _ => (is_jwt, text),
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
        let scheme = match (is_bearer, key.starts_with(POLICY_PREFIX)) {
            (true, is_policy) if is_policy || key.starts_with("qov_") => Scheme::Mismatch,
            (true, _) => Scheme::Bearer(expiry(key)),
            (false, true) => Scheme::Policy,
            (false, false) => Scheme::Token,
        };
        Ok(Self {
            scheme,
            id: KeyId::of(key),
            key: SecretString::from(key),
        })
    }

    /// The key for display: its prefix and its last four characters, or neither if it is shorter than
    /// 16 characters without its prefix.
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

    /// The value of `Authorization`, marked sensitive so that no log prints it.
    pub(crate) fn header(&self) -> Result<HeaderValue, reqwest::header::InvalidHeaderValue> {
        let scheme = match self.scheme {
            Scheme::Token | Scheme::Policy => "Token",
            Scheme::Bearer(_) | Scheme::Mismatch => "Bearer",
        };
        let mut value = HeaderValue::try_from(format!("{scheme} {}", self.key.expose_secret()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Replaces the key in a text: an upstream's message can quote the request.
    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(self.key.expose_secret(), "[key]")
    }
}

impl KeyId {
    fn of(key: &str) -> Self {
        let digest = Sha256::digest(key);
        let half = digest.iter().take(16);
        Self(half.fold(0, |id, byte| id << 8 | u128::from(*byte)))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:032x}", self.0))
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        let keys = [self, other].map(|it| it.key.expose_secret());
        self.scheme == other.scheme && keys[0] == keys[1]
    }
}

impl Scheme {
    /// When a JWT expires, in words: "it expired at 11:17 UTC on 2026-11-28".
    pub fn expiry(self) -> Option<String> {
        let Self::Bearer(Some(date)) = self else {
            return None;
        };
        let is_over = self.expires_within(TimeDelta::zero());
        let verb = if is_over { "expired" } else { "expires" };
        let date = date.format("%H:%M UTC on %Y-%m-%d");
        Some(format!("it {verb} at {date}"))
    }

    /// Whether a JWT expires within this time, or has expired.
    pub fn expires_within(self, time: TimeDelta) -> bool {
        matches!(self, Self::Bearer(Some(date)) if date - Utc::now() <= time)
    }
}

/// Whether a text begins as API tokens and policy tokens do.
pub fn is_qovery_key(text: &str) -> bool {
    KEY_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}

/// Masks what looks like a key in a refusal: a key may stand in the place of another value.
pub fn mask_keys(text: &str) -> String {
    let mask = |word: &str| {
        let mut starts = ["qov_", "sk-qov-", "eyJ"].into_iter();
        match starts.find_map(|start| Some(word.find(start)? + start.len())) {
            Some(end) => format!("{}…", &word[..end]),
            None => word.to_owned(),
        }
    };
    text.split(' ').map(mask).collect::<Vec<_>>().join(" ")
}

/// The claim `exp` of a JWT.
fn expiry(jwt: &str) -> Option<DateTime<Utc>> {
    let payload = jwt.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    DateTime::from_timestamp(claims["exp"].as_i64()?, 0)
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
    fn an_id_is_of_the_key_alone() {
        let id = |key| Credentials::parse(key).unwrap().id;
        // printf %s qov_abcdef | sha256sum
        assert_eq!(
            id("qov_abcdef").to_string(),
            "72e65d9dc57d8abb32fa56e2fbba262b"
        );
        assert_eq!(
            format!("{:.8}", id("qov_abcdef")),
            "72e65d9dc57d8abb32fa56e2fbba262b"[..8]
        );
        assert_eq!(id("qov_abcdef"), id("Token  qov_abcdef"));
        assert_ne!(id("qov_abcdef"), id("qov_abcdeg"));
    }

    #[test]
    fn a_jwt_says_when_it_expires() {
        let expiry = |key| Credentials::parse(key).unwrap().scheme.expiry();
        let text = expiry(JWT).unwrap();
        assert!(text.ends_with(" at 08:00 UTC on 2027-01-15"), "{text}");
        assert_eq!(expiry("eyJa.b.c"), None);
        assert_eq!(expiry("qov_abc"), None);
    }

    #[test]
    fn what_looks_like_a_key_is_masked() {
        for (text, masked) in [
            ("~/qov_a/b.c= x", "~/qov_… x"),
            ("(sk-qov-01-a), é=qov_a", "(sk-qov-… é=qov_…"),
            (&format!("--{JWT}: no"), "--eyJ… no"),
            ("a file of 3 keys", "a file of 3 keys"),
        ] {
            assert_eq!(mask_keys(text), masked);
        }
    }
}
