//! Authorization: the host that a request names, the origin of the web page that sends it, its access token.

use std::{collections::BTreeSet, str::FromStr, sync::Arc};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, header, uri::Authority},
};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::{
    Settings,
    middleware::{is_read, reads},
};
use crate::{
    context::{Caller, Context},
    rest::Problem,
};

/// These need no token, and any page may link to them.
const PUBLIC: [&str; 2] = ["/", "/openapi.json"];

/// A host name that a request may have, with any port if it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost(Authority);

impl AllowedHost {
    pub(super) fn allows(&self, authority: &Authority) -> bool {
        let port = self.0.port_u16();
        self.0.host().eq_ignore_ascii_case(authority.host())
            && (port.is_none() || port == authority.port_u16())
    }

    /// The authority of a URL. `port` is for a host without one.
    pub(super) fn with_port(&self, port: u16) -> String {
        format!("{}:{}", self.0.host(), self.0.port_u16().unwrap_or(port))
    }
}

impl FromStr for AllowedHost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const PROBLEM: &str = "must be host names, such as backups.example.com or localhost:9090";
        match text.parse() {
            Ok(authority) if !text.contains(['@', '*']) => Ok(Self(authority)),
            _ => Err(PROBLEM),
        }
    }
}

/// A web origin (RFC 6454), whose port may be `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin {
    /// Without a port, if any is allowed.
    origin: String,
    any_port: bool,
}

impl AllowedOrigin {
    fn allows(&self, origin: &str) -> bool {
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

/// The access tokens, each with the name of its caller.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<(Arc<str>, SecretString)>);

/// Access tokens that cannot be used. The message repeats none of them.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokensError {
    /// There is none.
    #[error("holds no token: give it one, or one a line as name:token")]
    None,
    /// A name that is not safe to log.
    #[error(
        "has a name in line {0} that is not 1 to 64 letters, digits, dots, hyphens or underscores"
    )]
    Name(usize),
    /// A token that is no value of a header.
    #[error("has a token in line {0} that is empty, or has other than visible ASCII characters")]
    Token(usize),
    /// A token that could be guessed.
    #[error("has a token in line {0} of fewer than 16 characters: make a longer one")]
    Short(usize),
    /// A name or a token that another line has, too.
    #[error("repeats a name or a token in line {0}: callers could not be told apart")]
    Repeated(usize),
}

impl Tokens {
    /// A shorter token could be found by trial.
    const MIN_CHARACTERS: usize = 16;

    /// Parses tokens, one a line, each after its name and a colon. A line without a name gets
    /// `caller-` and its number.
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
            if token.len() < Self::MIN_CHARACTERS {
                return Err(TokensError::Short(number));
            }
            // No name has a colon, so a name never equals a token here.
            if !seen.insert(name.to_owned()) || !seen.insert(format!(":{token}")) {
                return Err(TokensError::Repeated(number));
            }
            tokens.push((name.into(), SecretString::from(token)));
        }
        if tokens.is_empty() {
            return Err(TokensError::None);
        }
        Ok(Self(tokens))
    }

    /// Whether every caller is authorized.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The callers' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    /// The name of the caller with this token, compared in constant time.
    pub(super) fn caller(&self, presented: &str) -> Option<Arc<str>> {
        let is_it = |token: &SecretString| {
            let token = token.expose_secret().as_bytes();
            bool::from(token.ct_eq(presented.as_bytes()))
        };
        // All are compared, whichever matches.
        let callers = self.0.iter().filter(|(_, token)| is_it(token));
        callers.fold(None, |_, (name, _)| Some(Arc::clone(name)))
    }
}

impl Settings {
    /// Whether a request's page is of an allowed origin.
    pub(super) fn allows_origin(&self, headers: &HeaderMap) -> bool {
        let origin = headers.get(header::ORIGIN);
        let origin = origin.and_then(|origin| origin.to_str().ok());
        origin.is_some_and(|origin| self.allowed_origins.iter().any(|own| own.allows(origin)))
    }

    /// Refuses hosts that are not allowed: a web page could otherwise reach this machine by a name of its
    /// own (DNS rebinding). Prometheus scrapes a pod by its address.
    pub(super) fn check_host(&self, request: &Request) -> Result<(), Problem> {
        if reads(request, &["/metrics"]) {
            return Ok(());
        }
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next().and_then(parse_host), hosts.next()) else {
            return Err(Problem::malformed_host());
        };
        let allowed = |name: &Authority| self.allowed_hosts.iter().any(|own| own.allows(name));
        let is_allowed = allowed(&host) && request.uri().authority().is_none_or(allowed);
        is_allowed.then_some(()).ok_or_else(Problem::forbidden_host)
    }

    /// Refuses web pages of other origins. A browser sends the origin of a page, except for images and
    /// the like: of these it sends only whether they are of another site.
    pub(super) fn check_origin(&self, request: &Request) -> Result<(), Problem> {
        let headers = request.headers();
        let is_cross_site = headers
            .get("sec-fetch-site")
            .is_some_and(|it| it == "cross-site");
        let is_allowed = if headers.contains_key(header::ORIGIN) {
            self.allows_origin(headers)
        } else {
            !is_cross_site || reads(request, &PUBLIC)
        };
        is_allowed
            .then_some(())
            .ok_or_else(Problem::forbidden_origin)
    }

    /// Refuses callers without a token, if there are tokens. Removes it from the request: nothing further
    /// in needs it.
    pub(super) fn check_token(
        &self,
        context: &Context,
        request: &mut Request,
    ) -> Result<(), Problem> {
        // A client that looks for an authorization server (RFC 9728) must get 404, not 401: there is none.
        let is_public = reads(request, &PUBLIC)
            || (is_read(request) && request.uri().path().contains("/.well-known/"));
        let is_authorized = matches!(context.caller, Caller::Token(_)) || self.tokens.is_empty();
        if !is_public && !is_authorized {
            // RFC 6750, section 3: an error is named only if a token was sent.
            let challenge = match bearer(request.headers()) {
                Some(_) => r#"Bearer realm="qovery-backups-mcp", error="invalid_token""#,
                None => r#"Bearer realm="qovery-backups-mcp""#,
            };
            let challenge = HeaderValue::from_static(challenge);
            return Err(Problem::unauthenticated().with_header(header::WWW_AUTHENTICATE, challenge));
        }
        request.headers_mut().remove(header::AUTHORIZATION);
        Ok(())
    }
}

/// The bearer token of a request.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Parses the value of a `Host` header (RFC 9110, section 7.2): no user, and a port that is a number.
fn parse_host(value: &HeaderValue) -> Option<Authority> {
    let authority = Authority::try_from(value.as_bytes()).ok()?;
    let port = authority.as_str().strip_prefix(authority.host())?;
    let is_number = |port: &str| port.parse::<u16>().is_ok();
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_number)).then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_compared_by_name_and_by_port_if_it_has_one() {
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
    fn an_origin_is_compared_exactly() {
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
    fn a_token_identifies_its_caller() {
        let parse = |text: &str| Tokens::parse(&SecretString::from(text));
        let text = "ci: one-one-one-one-\n\nops:two:with-a-colon\nthree-three-three\n";
        let tokens = parse(text).unwrap();
        assert_eq!(
            tokens.names().collect::<Vec<_>>(),
            ["ci", "ops", "caller-4"]
        );
        let caller = |token: &str| tokens.caller(token);
        assert_eq!(caller("one-one-one-one-").as_deref(), Some("ci"));
        assert_eq!(caller("two:with-a-colon").as_deref(), Some("ops"));
        assert_eq!(caller("three-three-three").as_deref(), Some("caller-4"));
        for wrong in [
            "",
            "one-one-one-one",
            "one-one-one-one- ",
            "ONE-ONE-ONE-ONE-",
            "ci: one-one-one-one-",
        ] {
            assert_eq!(caller(wrong), None, "{wrong}");
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
