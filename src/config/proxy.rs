//! The proxy variables, which the HTTP client reads itself: it says nothing of a proxy that it cannot
//! use, and may go past it.

use std::env;

use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;

use super::Error;
use crate::qovery::BaseUrl;

/// Refuses a proxy that would be used for `url` and cannot be. Its value may hold a password, and is
/// not repeated.
pub(super) fn check(url: &BaseUrl) -> Result<(), Error> {
    let name = unusable(&url.to_string(), |name| env::var(name).ok());
    // What stays on this machine does not go through a proxy.
    match name.filter(|_| !url.is_loopback()) {
        Some(name) => Err(Error::Invalid {
            setting: format!("{name} (environment)"),
            problem:
                "must name the proxy like http://host:port (no SOCKS): correct or unset it, or \
                      exempt the host of QOVERY_API_URL with NO_PROXY"
                    .to_owned(),
        }),
        None => Ok(()),
    }
}

/// The variable that decides, in the client's own order, if it names no proxy of use for `url`.
fn unusable(url: &str, variable: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    let url: Uri = url.parse().ok()?;
    let exempt = ["NO_PROXY", "no_proxy"].into_iter().find_map(&variable);
    let (name, proxy) = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
        .into_iter()
        .find_map(|name| Some((name, variable(name).filter(|proxy| !proxy.is_empty())?)))?;
    let way_through = |proxy: &str| {
        let proxies = Matcher::builder().https(proxy.to_owned());
        let proxies = proxies.no(exempt.clone().unwrap_or_default());
        proxies.build().intercept(&url)
    };
    way_through("http://proxy")?;
    let usable = way_through(&proxy)
        .is_some_and(|proxy| matches!(proxy.uri().scheme_str(), Some("http" | "https")));
    (!usable).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proxy_that_would_be_used_must_be_of_use() {
        let unusable = |set: &[(&str, &str)]| {
            unusable("https://api.qovery.com", |name| {
                let (_, value) = set.iter().find(|(set, _)| *set == name)?;
                Some((*value).to_owned())
            })
        };
        for proxy in [
            "http://proxy:3128",
            "https://me:pa%20ss@proxy/",
            "proxy:3128",
            "",
        ] {
            assert_eq!(unusable(&[("HTTPS_PROXY", proxy)]), None, "{proxy}");
        }
        for proxy in ["socks5://proxy", "http://", "http://a b", "/proxy"] {
            let name = unusable(&[("all_proxy", proxy)]);
            assert_eq!(name, Some("all_proxy"), "{proxy}");
        }
        let socks = ("ALL_PROXY", "socks5://proxy");
        assert_eq!(unusable(&[]), None);
        assert_eq!(unusable(&[socks, ("https_proxy", "http://proxy")]), None);
        assert_eq!(unusable(&[socks, ("HTTPS_PROXY", "")]), Some("ALL_PROXY"));
        for (exempt, name) in [
            ("*", None),
            ("localhost, .qovery.com", None),
            ("other.com", Some("ALL_PROXY")),
        ] {
            assert_eq!(unusable(&[socks, ("NO_PROXY", exempt)]), name, "{exempt}");
        }
    }
}
