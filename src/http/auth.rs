//! Authorization: the host that a request names, the origin of the web page that sends it, its access token.

use std::{collections::BTreeSet, str::FromStr, sync::Arc};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, header, uri::Authority},
};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::{Settings, oauth};
use crate::{
    context::{Caller, Context, Interface, Role},
    credentials::{Credentials, is_qovery_key},
    rest::Problem,
};

/// Some hosts let a user set this one, and no `Authorization`.
pub(super) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// The caller's own key of Qovery's API.
pub(super) const X_QOVERY_API_KEY: HeaderName = HeaderName::from_static("x-qovery-api-key");

/// These need no token, and any page may link to them.
const PUBLIC: [&str; 2] = ["/", "/openapi.json"];

/// A host name that a request may have, with any port if it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost(Authority);

impl AllowedHost {
    fn allows(&self, authority: &Authority) -> bool {
        let port = self.0.port_u16();
        self.0.host().eq_ignore_ascii_case(authority.host())
            && (port.is_none() || port == authority.port_u16())
    }
}

impl FromStr for AllowedHost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(authority) if is_host(&authority) => Ok(Self(authority)),
            _ => Err("must be host names, such as backups.example.com or localhost:9090"),
        }
    }
}

/// A web origin (RFC 6454), whose port may be `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin(String);

impl AllowedOrigin {
    fn allows(&self, origin: &str) -> bool {
        let Some(own) = self.0.strip_suffix(":*") else {
            return self.0 == origin;
        };
        let is_port = |text: &str| text.parse::<u16>().is_ok();
        let rest = origin.strip_prefix(own);
        rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
    }
}

impl FromStr for AllowedOrigin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const PROBLEM: &str =
            "must be web origins, such as https://example.com or http://localhost:*";
        let (scheme, authority) = text.split_once("://").ok_or(PROBLEM)?;
        let authority = authority.strip_suffix(":*").unwrap_or(authority);
        let is_valid = authority.parse().is_ok_and(|authority| is_host(&authority));
        if scheme.is_empty() || !is_valid {
            return Err(PROBLEM);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// Whether it is a name, and a port that exists if it has one. The parser takes `localhost:99999`, and
/// `localhost:`.
fn is_host(authority: &Authority) -> bool {
    let has_port = authority.as_str() != authority.host();
    !authority.as_str().contains(['@', '*']) && (!has_port || authority.port_u16().is_some())
}

/// The access tokens, each with the name and the role of its caller.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<(Arc<str>, Role, SecretString)>);

/// Access tokens that cannot be used. The message repeats none of them.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokensError {
    /// There is none.
    #[error("holds no token: give it one, or one a line as name:token")]
    None,
    /// The number of a line and what is wrong with it.
    #[error("has in line {0} {1}")]
    Line(usize, &'static str),
}

impl Tokens {
    /// A shorter token could be found by trial.
    const MIN_CHARACTERS: usize = 16;

    /// Parses tokens, one a line, each after its name and a colon. The name may have a role behind a slash.
    /// A line without a name gets `caller-` and its number, and no role.
    ///
    /// # Errors
    ///
    /// When there is none, or a line is wrong.
    pub fn parse(text: &SecretString) -> Result<Self, TokensError> {
        let mut tokens = Vec::new();
        let mut seen = BTreeSet::new();
        for (number, line) in (1..).zip(text.expose_secret().lines()) {
            let line = line.trim();
            let refuse = |problem| Err(TokensError::Line(number, problem));
            if line.is_empty() {
                continue;
            }
            let unnamed = format!("caller-{number}");
            let (name, token) = line.split_once(':').unwrap_or((&unnamed, line));
            let (name, token) = (name.trim(), token.trim());
            let (name, role) = match name.split_once('/') {
                None => (name, Role::All),
                Some((name, "read")) => (name, Role::Read),
                Some((name, "metrics")) => (name, Role::Metrics),
                Some(_) => {
                    return refuse("a role other than read and metrics, as in name/read:token");
                }
            };
            let fit = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            if !(1..=64).contains(&name.len()) || !name.bytes().all(fit) {
                return refuse(
                    "a name that is not 1 to 64 letters, digits, dots, hyphens or underscores",
                );
            }
            if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return refuse("a token that is empty, or has other than visible ASCII characters");
            }
            if token.len() < Self::MIN_CHARACTERS {
                return refuse("a token of fewer than 16 characters: make a longer one");
            }
            if is_qovery_key(token) {
                return refuse("a token that begins as a key of Qovery does: make another one");
            }
            // No name has a colon, so a name never equals a token here.
            if !seen.insert(name.to_owned()) || !seen.insert(format!(":{token}")) {
                return refuse(
                    "a name or a token of another line: callers could not be told apart",
                );
            }
            tokens.push((name.into(), role, SecretString::from(token)));
        }
        if tokens.is_empty() {
            return Err(TokensError::None);
        }
        Ok(Self(tokens))
    }

    /// Whether every caller is authorized.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The callers' names, each with its role if it has one, for people.
    pub fn names(&self) -> String {
        let names = self.0.iter().map(|(name, role, _)| match role {
            Role::All => name.to_string(),
            Role::Read => format!("{name}/read"),
            Role::Metrics => format!("{name}/metrics"),
        });
        names.collect::<Vec<_>>().join(", ")
    }

    /// The name and the role of the caller with this token, compared in constant time.
    pub(super) fn caller(&self, presented: &str) -> Option<(Arc<str>, Role)> {
        let is_it = |token: &SecretString| {
            let token = token.expose_secret().as_bytes();
            bool::from(token.ct_eq(presented.as_bytes()))
        };
        // All are compared, whichever matches.
        let callers = self.0.iter().filter(|(.., token)| is_it(token));
        callers.fold(None, |_, (name, role, _)| Some((Arc::clone(name), *role)))
    }
}

impl Settings {
    /// Whether pages of this origin may call.
    pub(super) fn allows_origin(&self, origin: &HeaderValue) -> bool {
        let allows = |origin| self.allowed_origins.iter().any(|own| own.allows(origin));
        origin.to_str().is_ok_and(allows)
    }

    /// Refuses hosts that are not allowed: a web page could otherwise reach this machine by a name of its
    /// own (DNS rebinding). Prometheus scrapes a pod by its address.
    pub(super) fn check_host(&self, request: &Request) -> Result<(), Problem> {
        let allows = |host: Authority| self.allowed_hosts.iter().any(|own| own.allows(&host));
        let hosts = request.headers().get_all(header::HOST).iter();
        let hosts = hosts.map(|host| Authority::try_from(host.as_bytes()));
        // A target with a host of its own overrides the header (RFC 9112, section 3.2.2).
        let mut hosts = hosts.chain(request.uri().authority().cloned().map(Ok));
        let is_allowed = request.headers().get_all(header::HOST).iter().count() == 1
            && hosts.all(|host| host.is_ok_and(allows));
        if is_allowed || reads(request, &["/metrics"]) {
            return Ok(());
        }
        Err(Problem::forbidden_host())
    }

    /// Refuses web pages of other origins. A browser sends the origin of a page, except for images and
    /// the like: of these it sends only whether they are of another site.
    pub(super) fn check_origin(&self, request: &Request) -> Result<(), Problem> {
        let headers = request.headers();
        let site = headers.get("sec-fetch-site");
        let is_allowed = match headers.get(header::ORIGIN) {
            Some(origin) => self.allows_origin(origin),
            None => site.is_none_or(|site| site != "cross-site") || reads(request, &PUBLIC),
        };
        is_allowed
            .then_some(())
            .ok_or_else(Problem::forbidden_origin)
    }

    /// Refuses callers without a token, if there are tokens, and what the role of a token does not allow.
    /// Which tools a caller has is decided in `mcp`.
    pub(super) fn check_token(&self, context: &Context, request: &Request) -> Result<(), Problem> {
        // A client that looks for an authorization server (RFC 9728) must get 404, not 401: there is none.
        // A browser sends OPTIONS without one (Fetch, "CORS-preflight request").
        let is_public = reads(request, &PUBLIC)
            || request.method() == Method::OPTIONS
            || request.uri().path().starts_with("/.well-known/");
        let is_authorized = matches!(context.caller, Caller::Token(_)) || !self.authenticates();
        let is_in_role = match context.role {
            Role::All => true,
            Role::Read => context.interface == Interface::Mcp || request.method().is_safe(),
            Role::Metrics => reads(request, &["/metrics"]),
        };
        if is_public || (is_authorized && is_in_role) {
            return Ok(());
        }
        if let Some(oauth::Refusal(problem)) = request.extensions().get() {
            return Err(problem.clone());
        }
        if is_authorized {
            return Err(Problem::forbidden_role());
        }
        // RFC 6750, section 3.1: the error is named only if a token was sent.
        let challenge = HeaderValue::from_static(match bearer(request.headers()) {
            Some(_) => r#"Bearer realm="qovery-backups-mcp", error="invalid_token""#,
            None => r#"Bearer realm="qovery-backups-mcp""#,
        });
        Err(Problem::unauthenticated().with_header(header::WWW_AUTHENTICATE, challenge))
    }
}

/// The access token of a request. `Authorization` decides if both headers are there.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        let token = headers.get(X_API_KEY)?.to_str().ok()?;
        return Some(token).filter(|token| !is_qovery_key(token));
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The caller's own key, if it is one. Hosted connectors allow few header names.
pub(super) fn qovery_key(headers: &HeaderMap) -> Option<Credentials> {
    let value = |name| headers.get(name)?.to_str().ok();
    let key = value(X_QOVERY_API_KEY);
    let key = key.or_else(|| value(X_API_KEY).filter(|key| is_qovery_key(key)))?;
    Credentials::parse(key).ok()
}

/// Whether a request reads one of these paths.
fn reads(request: &Request, paths: &[&str]) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD) && paths.contains(&request.uri().path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_header_has_its_secret() {
        let (token, qovery) = ("access-token-of-ada", "qov_0123456789abcdef");
        let bearer_token = format!("Bearer {token}");
        for (authorization, api_key, own, secrets) in [
            ("", "", "", (None, None)),
            (&*bearer_token, "", "", (Some(token), None)),
            ("", token, "", (Some(token), None)),
            (&*bearer_token, "other", "", (Some(token), None)),
            ("Basic x", token, "", (None, None)),
            ("Bearer other", token, "", (Some("other"), None)),
            ("", qovery, "", (None, Some("qov_…cdef"))),
            (
                "",
                "sk-qov-01-0123456789abcdef",
                "",
                (None, Some("sk-qov-01-…cdef")),
            ),
            (&*bearer_token, qovery, "", (Some(token), Some("qov_…cdef"))),
            ("", token, qovery, (Some(token), Some("qov_…cdef"))),
            (
                "",
                "",
                "Token qov_0123456789abcdef",
                (None, Some("qov_…cdef")),
            ),
            (
                "",
                qovery,
                "qov_fedcba9876543210",
                (None, Some("qov_…3210")),
            ),
            ("", qovery, "two words", (None, None)),
            ("Bearer qov_0123456789abcdef", "", "", (Some(qovery), None)),
        ] {
            let given = [
                (header::AUTHORIZATION, authorization),
                (X_API_KEY, api_key),
                (X_QOVERY_API_KEY, own),
            ];
            let given = given.into_iter().filter(|(_, value)| !value.is_empty());
            let headers = given.map(|(name, value)| (name, value.parse().unwrap()));
            let headers: HeaderMap = headers.collect();
            let key = qovery_key(&headers).map(|key| key.masked());
            assert_eq!((bearer(&headers), key.as_deref()), secrets, "{headers:?}");
        }
    }

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
        let ports = ["a:", "a:99999", "a:65536", "a:-1", "[::1]:", "[::1]:99999"];
        for wrong in ["", "*", "*.example", "http://a", "me@a", "a b"]
            .into_iter()
            .chain(ports)
        {
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
        let ports = ["https://a:", "https://a:99999"];
        let others = ["", "*", "null", "a.example", "https://", "https://*"];
        for wrong in others.into_iter().chain(ports) {
            assert!(wrong.parse::<AllowedOrigin>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_identifies_its_caller() {
        let parse = |text: &str| Tokens::parse(&SecretString::from(text));
        let text = "ci: one-one-one-one-\n\nops/read:two:with-a-colon\nthree-three-three\n\
                    prom/metrics: four-four-four-four\nfive/read-five-five";
        let tokens = parse(text).unwrap();
        assert_eq!(
            tokens.names(),
            "ci, ops/read, caller-4, prom/metrics, caller-6"
        );
        let caller = |token: &str| tokens.caller(token);
        for (token, name, role) in [
            ("one-one-one-one-", "ci", Role::All),
            ("two:with-a-colon", "ops", Role::Read),
            ("three-three-three", "caller-4", Role::All),
            ("four-four-four-four", "prom", Role::Metrics),
            // Without a name it is the token that has a slash.
            ("five/read-five-five", "caller-6", Role::All),
        ] {
            assert_eq!(caller(token), Some((name.into(), role)));
        }
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
            ("", "holds no token"),
            (" \n", "holds no token"),
            (&format!("a b:{long}"), "in line 1 a name that"),
            ("a:\n", "in line 1 a token that is empty"),
            (&format!("a:{long} c"), "in line 1 a token that"),
            (
                &format!("{long}\n{}", &long[1..]),
                "in line 2 a token of fewer",
            ),
            (
                &format!("a/read:{long}\nb/write:{long}0"),
                "in line 2 a role other than read and metrics",
            ),
            (&format!("a/:{long}"), "in line 1 a role"),
            (&format!("a/Read:{long}"), "in line 1 a role"),
            (&format!("a/read/metrics:{long}"), "in line 1 a role"),
            (&format!("/read:{long}"), "in line 1 a name that"),
            (
                &format!("a:{long}\na/read:{long}0"),
                "in line 2 a name or a token of another",
            ),
            (
                &format!("a:{long}\na:{long}0"),
                "in line 2 a name or a token of another",
            ),
            (
                &format!("a:{long}\nc:{long}"),
                "in line 2 a name or a token of another",
            ),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(error), "{text:?}: {message}");
        }
    }
}
