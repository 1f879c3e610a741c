//! The dates of Qovery's answers. Their format is documented, but no real answer is public, so every
//! format that can only mean one instant is parsed. What follows from an unreadable date must never
//! live here.

use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, NaiveTime, Utc};

/// Parses a date: RFC 3339, the formats that ISO 8601, Java, Go, Python and SQL have in its place, and
/// Unix time in seconds or milliseconds. Returns `None` if it is no date, or names a time zone other
/// than UTC without its offset.
pub(crate) fn parse(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    // The documented format first: a list has hundreds of dates.
    let rfc3339 = DateTime::parse_from_rfc3339(text).ok();
    let date = rfc3339
        .map(|date| date.to_utc())
        .or_else(|| unix_time(text))
        .or_else(|| calendar_date(text))?;
    // A date that was never set is written as the year 1 or 1970.
    (date.year() >= 2000).then_some(date)
}

/// Seconds have ten digits from 2001 to 2286, and milliseconds thirteen.
fn unix_time(text: &str) -> Option<DateTime<Utc>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let number = whole.parse().ok()?;
    let nanoseconds = format!("{fraction:0<9.9}").parse().ok()?;
    match whole.len() {
        10 => DateTime::from_timestamp(number, nanoseconds),
        13 => DateTime::from_timestamp_millis(number),
        _ => None,
    }
}

/// `2026-06-01`, optionally with a time of day and a time zone.
fn calendar_date(text: &str) -> Option<DateTime<Utc>> {
    let (day, rest) = text.split_at_checked(10)?;
    let day = NaiveDate::parse_from_str(day, "%Y-%m-%d").ok()?;
    let rest = rest.strip_prefix(['T', 't', ' ']).unwrap_or(rest);
    let is_clock = |c: char| c.is_ascii_digit() || matches!(c, ':' | '.' | ',');
    let (clock, zone) = rest.split_at(rest.find(|c| !is_clock(c)).unwrap_or(rest.len()));
    let clock = clock.replace(',', ".");
    let local = match clock.strip_prefix("24:") {
        // ISO 8601 writes midnight at the end of a day as 24:00.
        Some(rest) if time(&format!("00:{rest}"))? == NaiveTime::MIN => {
            day.succ_opt()?.and_time(NaiveTime::MIN)
        }
        _ => day.and_time(time(&clock)?),
    };
    Some(local.checked_sub_offset(offset(zone.trim())?)?.and_utc())
}

/// Java omits seconds that are zero.
fn time(clock: &str) -> Option<NaiveTime> {
    if clock.is_empty() {
        return Some(NaiveTime::MIN);
    }
    ["%H:%M:%S%.f", "%H:%M"]
        .iter()
        .find_map(|form| NaiveTime::parse_from_str(clock, form).ok())
}

/// No time zone means UTC. A name after an offset is ignored (`+00:00[UTC]`, `+0000 UTC`). A name alone
/// is refused: an hour at the end of summer time occurs twice.
fn offset(zone: &str) -> Option<FixedOffset> {
    let zone = zone.trim_matches(['[', ']']).to_ascii_uppercase();
    let offset = zone.split(['[', ' ']).next().unwrap_or_default();
    match (offset, offset.len()) {
        ("" | "Z" | "UTC" | "GMT", _) => FixedOffset::east_opt(0),
        (_, 3) => format!("{offset}00").parse().ok(),
        (_, 5 | 6) => offset.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use chrono::SecondsFormat;
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Option<String> {
        parse(text).map(|date| date.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }

    #[test]
    fn every_format_of_one_instant_is_parsed() {
        for text in [
            "2026-03-01T02:30:00Z",
            "2026-03-01t02:30:00z",
            "2026-03-01 02:30:00Z",
            "2026-03-01T02:30:00",
            "2026-03-01 02:30:00",
            "2026-03-01T02:30",
            "2026-03-01T02:30Z",
            "2026-03-01T02:30:00+0000",
            "2026-03-01T02:30:00+00",
            "2026-03-01T02:30:00-00:00",
            "2026-03-01T02:30:00 UTC",
            "2026-03-01 02:30:00 +0000 UTC",
            "2026-03-01T02:30:00Z[UTC]",
            "2026-03-01T02:30:00[UTC]",
            "2026-03-01T02:30:00GMT",
            "2026-03-01T04:30:00+02:00",
            "2026-03-01T03:30:00+01:00[Europe/Paris]",
            "2026-02-28T21:30:00-0500",
            "2026-03-01T08:00:00 +0530",
            "  2026-03-01T02:30:00.000000000000Z\n",
            "2026-03-01T02:30:00,000",
            "1772332200",
            "1772332200.0",
            "1772332200000",
            "1772332200000.0",
        ] {
            let date = shown(text);
            assert_eq!(date.as_deref(), Some("2026-03-01T02:30:00Z"), "{text}");
        }
    }

    #[test]
    fn dates_and_fractions_of_seconds_are_parsed() {
        for (text, date) in [
            ("2026-03-01", "2026-03-01T00:00:00Z"),
            ("2026-03-01Z", "2026-03-01T00:00:00Z"),
            ("2026-03-01T24:00:00Z", "2026-03-02T00:00:00Z"),
            ("2026-12-31 24:00", "2027-01-01T00:00:00Z"),
            ("2026-03-01T02:30:00.5Z", "2026-03-01T02:30:00.500Z"),
            ("2026-03-01T02:30:00,123456", "2026-03-01T02:30:00.123456Z"),
            (
                "2026-03-01T02:30:00.123456789012+0000",
                "2026-03-01T02:30:00.123456789Z",
            ),
            ("2026-06-30T23:59:60Z", "2026-06-30T23:59:60Z"),
            ("1772332200.25", "2026-03-01T02:30:00.250Z"),
            ("1772332200250", "2026-03-01T02:30:00.250Z"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(date), "{text}");
        }
    }

    #[test]
    fn invalid_or_ambiguous_dates_are_not_parsed() {
        for text in [
            "",
            "soon",
            "null",
            "2026",
            "20260301",
            "17723322000",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-03-01T25:00:00Z",
            "2026-03-01T24:00:01Z",
            "2026-03-01T02:61:00Z",
            "2026-03-01 02:30:00 PM",
            "2026-03-01T02:30:00 CET",
            "2026-03-01T02:30:00[Europe/Paris]",
            "2026-03-01T02:30:00+25:00",
            "2026-03-01T02:30:00+1",
            "2026-03-01T02:30:00Zzz",
            "０2026-03-01T02:30:00Z",
            "0001-01-01T00:00:00Z",
            "1970-01-01T00:00:00Z",
            "0000000000",
        ] {
            assert_eq!(shown(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_or_yields_a_year_before_2000(
            text in "\\PC{0,40}|[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]?[0-9:.,]{0,20}\\PC{0,12}|[0-9.+-]{8,24}",
        ) {
            if let Some(date) = parse(&text) {
                prop_assert!(date.year() >= 2000);
            }
        }

        #[test]
        fn every_instant_that_chrono_formats_is_parsed(
            seconds in 946_684_800_i64..7_258_118_400,
            nanoseconds in 0_u32..1_000_000_000,
            minutes in -839_i32..840,
        ) {
            let date = DateTime::from_timestamp(seconds, nanoseconds).unwrap();
            let there = date.with_timezone(&FixedOffset::east_opt(minutes * 60).unwrap());
            for form in ["%+", "%F %T%.f%z", "%FT%T%.9f %:z"] {
                prop_assert_eq!(parse(&there.format(form).to_string()), Some(date), "{}", form);
            }
            prop_assert_eq!(parse(&date.naive_utc().to_string()), Some(date));
        }
    }
}
