//! Content negotiation.

use axum::http::{HeaderMap, header};

/// Whether the `Accept` header admits a media type (RFC 9110, section 12.5.1): the most specific range that
/// matches decides. Without the header, all are admitted.
pub(crate) fn accepts(headers: &HeaderMap, main: &str, sub: &str) -> bool {
    let is = |name: &str, other: &str| name.eq_ignore_ascii_case(other);
    let (mut specificity, mut admitted) = (0, true);
    let values = headers.get_all(header::ACCEPT).iter();
    let ranges = values.filter_map(|value| value.to_str().ok());
    let ranges = ranges.flat_map(|value| value.split(','));
    for range in ranges.filter(|range| !range.trim().is_empty()) {
        let mut parts = range.split(';').map(str::trim);
        let own = match parts.next().and_then(|range| range.split_once('/')) {
            Some((a, b)) if is(a, main) && is(b, sub) => 4,
            Some((a, "*")) if is(a, main) => 3,
            Some(("*", "*")) => 2,
            // Another media type.
            _ => 1,
        };
        if own > specificity {
            let quality = parts.find_map(|part| part.strip_prefix(['q', 'Q'])?.strip_prefix('='));
            let is_excluded = quality.is_some_and(|quality| quality.parse() == Ok(0.0));
            (specificity, admitted) = (own, own > 1 && !is_excluded);
        }
    }
    admitted
}

/// Whether the `Content-Type` is JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_most_specific_range_decides() {
        let accepts = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
            let events = accepts(&headers, "text", "event-stream");
            (accepts(&headers, "application", "json"), events)
        };
        for (accept, json, events) in [
            ("", true, true),
            (" , ", true, true),
            ("*/*", true, true),
            ("application/json", true, false),
            ("Application/JSON; charset=utf-8", true, false),
            ("application/json, text/event-stream", true, true),
            ("text/html, application/*;q=0.1", true, false),
            ("text/html, text/*", false, true),
            ("text/html", false, false),
            ("application/json;q=0, */*", false, true),
            ("application/json, */*;q=0", true, false),
            ("application/jsonp", false, false),
        ] {
            assert_eq!(accepts(accept), (json, events), "{accept}");
        }
        assert!(super::accepts(&HeaderMap::new(), "application", "json"));
    }
}
