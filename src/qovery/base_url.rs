//! The address of the API: the only one that the key is sent to.

use std::{fmt, net::IpAddr, str::FromStr};

use reqwest::Url;

/// The validated base URL of Qovery's API: https, or plain http on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(Url);

/// Why a base URL was refused. The message does not quote the URL, which may hold a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BaseUrlError {
    /// Not a URL.
    #[error("is not a URL: give one like https://api.qovery.com")]
    NotAUrl,
    /// Plain http to another machine, or another scheme.
    #[error("must begin with https:// (http:// is for loopback addresses only)")]
    NotHttps,
    /// `https://user:password@host`.
    #[error("must not hold a user name or password: the key goes into QOVERY_API_KEY")]
    Credentials,
    /// A query or a fragment.
    #[error("must not hold a query (?) or a fragment (#)")]
    Query,
}

impl BaseUrl {
    /// Qovery's public API.
    pub const QOVERY: &str = "https://api.qovery.com";

    /// Whether requests go to this machine itself, and so through no proxy.
    pub fn is_loopback(&self) -> bool {
        self.0.host_str().is_some_and(is_loopback)
    }
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    fn from_str(text: &str) -> Result<Self, BaseUrlError> {
        let url = Url::parse(text).map_err(|_| BaseUrlError::NotAUrl)?;
        let host = url.host_str().ok_or(BaseUrlError::NotAUrl)?;
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(host) => {}
            _ => return Err(BaseUrlError::NotHttps),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BaseUrlError::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(BaseUrlError::Query);
        }
        Ok(Self(url))
    }
}

/// Without the trailing slash, like Qovery's own command line.
impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

fn is_loopback(host: &str) -> bool {
    // `host_str` writes an IPv6 address in brackets.
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_and_loopback_are_accepted() {
        for (text, base) in [
            ("https://api.qovery.com", "https://api.qovery.com"),
            (
                "https://proxy.example/qovery/",
                "https://proxy.example/qovery",
            ),
            ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
            ("http://localhost:1", "http://localhost:1"),
            ("http://[::1]:1", "http://[::1]:1"),
        ] {
            assert_eq!(text.parse::<BaseUrl>().unwrap().to_string(), base);
        }
    }

    #[test]
    fn what_could_leak_the_key_is_refused() {
        use BaseUrlError::{Credentials, NotAUrl, NotHttps, Query};
        for (text, error) in [
            ("", NotAUrl),
            ("api.qovery.com", NotAUrl),
            ("http://api.qovery.com", NotHttps),
            ("http://127.0.0.1.evil.example", NotHttps),
            ("http://localhost.evil.example", NotHttps),
            ("ftp://127.0.0.1", NotHttps),
            ("https://me:secret@api.qovery.com", Credentials),
            ("https://api.qovery.com@evil.example", Credentials),
            ("https://api.qovery.com/?a=b", Query),
            ("https://api.qovery.com/#a", Query),
        ] {
            assert_eq!(text.parse::<BaseUrl>().unwrap_err(), error, "{text}");
        }
    }
}
