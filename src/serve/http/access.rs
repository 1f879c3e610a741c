//! Who may call: by which name, from which web page, with which token.

use std::{collections::BTreeSet, str::FromStr};

use axum::http::uri::Authority;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// A name under which callers reach a port, as the `Host` header gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    host: String,
    /// None for any port.
    port: Option<u16>,
}

impl AllowedHost {
    pub(super) fn allows(&self, authority: &Authority) -> bool {
        self.host.eq_ignore_ascii_case(authority.host())
            && self
                .port
                .is_none_or(|port| authority.port_u16() == Some(port))
    }

    /// As part of a URL, where it has no port of its own.
    pub(super) fn at(&self, port: u16) -> String {
        format!("{}:{}", self.host, self.port.unwrap_or(port))
    }
}

impl FromStr for AllowedHost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const PROBLEM: &str = "must be host names, such as backups.example.com or localhost:9090";
        let authority: Authority = text.parse().map_err(|_| PROBLEM)?;
        if text.contains(['@', '*']) {
            return Err(PROBLEM);
        }
        Ok(Self {
            host: authority.host().to_owned(),
            port: authority.port_u16(),
        })
    }
}

/// A web origin (RFC 6454), whose port may be `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin {
    /// Without a port, if any will do.
    origin: String,
    any_port: bool,
}

impl AllowedOrigin {
    pub(super) fn allows(&self, origin: &str) -> bool {
        let Some(rest) = origin.strip_prefix(&self.origin) else {
            return false;
        };
        let port = rest.strip_prefix(':').filter(|_| self.any_port);
        rest.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_ok())
    }
}

impl FromStr for AllowedOrigin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const PROBLEM: &str =
            "must be web origins, such as https://example.com or http://localhost:*";
        let any_port = text.ends_with(":*");
        let origin = text.strip_suffix(":*").unwrap_or(text).to_ascii_lowercase();
        let (scheme, authority) = origin.split_once("://").ok_or(PROBLEM)?;
        let parsed: Authority = authority.parse().map_err(|_| PROBLEM)?;
        let host_alone = any_port && parsed.port().is_some();
        if scheme.is_empty() || authority.contains(['@', '*']) || host_alone {
            return Err(PROBLEM);
        }
        Ok(Self { origin, any_port })
    }
}

/// The access tokens, each with the name of the caller that holds it.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<(String, SecretString)>);

/// Access tokens that cannot be used. None of them is repeated.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokensError {
    /// Not one.
    #[error("holds no token: give it one, or one a line as name:token")]
    None,
    /// A line whose name would not be fit for a log.
    #[error(
        "has a name in line {0} that is not 1 to 64 letters, digits, dots, hyphens or underscores"
    )]
    Name(usize),
    /// A line whose token no header could carry.
    #[error("has a token in line {0} that is empty, or has other than visible ASCII characters")]
    Token(usize),
    /// A line whose token could be guessed.
    #[error("has a token in line {0} of fewer than 16 characters: make a longer one")]
    Short(usize),
    /// Two lines with one name or one token.
    #[error("repeats a name or a token in line {0}: callers could not be told apart")]
    Repeated(usize),
}

impl Tokens {
    /// Characters of a token: with fewer, whoever reaches a port could try them all.
    const SHORTEST: usize = 16;

    /// Reads tokens, one a line, each after its name and a colon. A line without a name gets one.
    ///
    /// # Errors
    ///
    /// When there is none, or a line is wrong.
    pub fn parse(text: &SecretString) -> Result<Self, TokensError> {
        let mut tokens = Vec::new();
        let mut seen = BTreeSet::new();
        for (number, line) in (1..).zip(text.expose_secret().lines()) {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let unnamed = format!("caller-{number}");
            let (name, token) = line.split_once(':').unwrap_or((&unnamed, line));
            let (name, token) = (name.trim(), token.trim());
            let fit = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            if !(1..=64).contains(&name.len()) || !name.bytes().all(fit) {
                return Err(TokensError::Name(number));
            }
            if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(TokensError::Token(number));
            }
            if token.len() < Self::SHORTEST {
                return Err(TokensError::Short(number));
            }
            // A name never has a colon, so it cannot be taken for a token here.
            if !seen.insert(name.to_owned()) || !seen.insert(format!(":{token}")) {
                return Err(TokensError::Repeated(number));
            }
            tokens.push((name.to_owned(), SecretString::from(token)));
        }
        if tokens.is_empty() {
            return Err(TokensError::None);
        }
        Ok(Self(tokens))
    }

    /// Whether nobody is asked for a token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The callers' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The name of the caller that holds this token. It takes as long for a token that is nearly
    /// right as for one that is all wrong.
    pub(super) fn caller(&self, presented: &str) -> Option<&str> {
        let mut caller = None;
        for (name, token) in &self.0 {
            let same = token.expose_secret().as_bytes().ct_eq(presented.as_bytes());
            if same.into() {
                caller = Some(name.as_str());
            }
        }
        caller
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_allowed_by_name_and_maybe_port() {
        let allows = |allowed: &str, host: &str| {
            let allowed: AllowedHost = allowed.parse().unwrap();
            allowed.allows(&host.parse().unwrap())
        };
        assert!(allows("localhost", "LOCALHOST:9090"));
        assert!(allows("[::1]", "[::1]:9090"));
        assert!(allows("a.example:443", "a.example:443"));
        assert!(!allows("a.example:443", "a.example"));
        assert!(!allows("a.example", "b.a.example"));
        assert!(!allows("a.example", "a.example.evil"));
        for wrong in ["", "*", "*.example", "http://a", "me@a", "a b"] {
            assert!(wrong.parse::<AllowedHost>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_origin_is_allowed_to_the_letter() {
        let allows = |allowed: &str, origin: &str| {
            let allowed: AllowedOrigin = allowed.parse().unwrap();
            allowed.allows(origin)
        };
        assert!(allows("https://a.example", "https://a.example"));
        assert!(!allows("https://a.example", "https://a.example:8443"));
        assert!(!allows("https://a.example", "http://a.example"));
        assert!(!allows("https://a.example", "https://a.example.evil"));
        assert!(allows("http://localhost:*", "http://localhost"));
        assert!(allows("http://localhost:*", "http://localhost:6274"));
        assert!(!allows("http://localhost:*", "http://localhost:evil"));
        assert!(!allows("http://localhost:*", "http://localhost.evil:80"));
        assert!(!allows("http://localhost:*", "null"));
        for wrong in [
            "",
            "*",
            "null",
            "a.example",
            "https://",
            "https://*",
            "http://a:1:*",
        ] {
            assert!(wrong.parse::<AllowedOrigin>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_tell_callers_apart() {
        let parse = |text: &str| Tokens::parse(&SecretString::from(text));
        let text = "ci: one-one-one-one-\n\nops:two:with-a-colon\nthree-three-three\n";
        let tokens = parse(text).unwrap();
        assert_eq!(
            tokens.names().collect::<Vec<_>>(),
            ["ci", "ops", "caller-4"]
        );
        assert_eq!(tokens.caller("one-one-one-one-"), Some("ci"));
        assert_eq!(tokens.caller("two:with-a-colon"), Some("ops"));
        assert_eq!(tokens.caller("three-three-three"), Some("caller-4"));
        for wrong in [
            "",
            "one-one-one-one",
            "one-one-one-one- ",
            "ONE-ONE-ONE-ONE-",
            "ci: one-one-one-one-",
        ] {
            assert_eq!(tokens.caller(wrong), None, "{wrong}");
        }
        let long = "0123456789abcdef";
        for (text, error) in [
            ("", TokensError::None),
            (" \n", TokensError::None),
            (&format!("a b:{long}"), TokensError::Name(1)),
            ("a:\n", TokensError::Token(1)),
            (&format!("a:{long} c"), TokensError::Token(1)),
            (&format!("{long}\n{}", &long[1..]), TokensError::Short(2)),
            (&format!("a:{long}\na:{long}0"), TokensError::Repeated(2)),
            (&format!("a:{long}\nc:{long}"), TokensError::Repeated(2)),
        ] {
            assert_eq!(parse(text).unwrap_err(), error, "{text:?}");
        }
    }
}
