//! The question before a removal: what a person reads who has little time and nothing else to go by.

use chrono::{DateTime, TimeDelta, Utc};
use rmcp::model::{BooleanSchema, ElicitRequestParams, ElicitationSchema};

use crate::{backups::Removal, clean, qovery::Backup};

/// The question, for a person in a hurry.
pub(super) fn question(removal: &Removal) -> ElicitRequestParams {
    let tick = |schema: BooleanSchema| schema.title("Remove it for good").with_default(false);
    ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: wording(removal, Utc::now()),
        requested_schema: ElicitationSchema::builder()
            .bool_property("remove", tick)
            .build_unchecked(),
    }
}

/// One fact a line: what others wrote stays on its own.
fn wording(removal: &Removal, now: DateTime<Utc>) -> String {
    let backup = &removal.backup;
    let name = backup
        .name
        .as_deref()
        .map_or_else(|| "none".to_owned(), |name| format!("\"{}\"", shown(name)));
    let state = backup.state().map_or_else(|| "unknown".to_owned(), shown);
    let age = made(backup, now);
    let remaining = match (removal.remaining, &removal.newest_remaining) {
        (_, None) => "no backup".to_owned(),
        (1, Some(last)) => format!("one backup, made {}", made(last, now)),
        (number, Some(newest)) => {
            format!("{number} backups, the newest made {}", made(newest, now))
        }
    };
    format!(
        "Remove this backup for good? This cannot be undone.\n\n\
         Name: {name}\n\
         Made: {age}\n\
         State: {state}\n\
         Remaining: {remaining}\n\
         Database: {}\n\
         Backup: {}",
        removal.database, backup.id,
    )
}

/// Other people's text, cleaned and cut, so that it cannot push the facts out of sight or pretend to
/// be one of them.
fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    const QUOTES: [char; 10] = ['"', '“', '”', '„', '‟', '«', '»', '″', '〃', '＂'];
    let mut text = text.replace(QUOTES, "'");
    clean::text(&mut text);
    if text.chars().count() > LONGEST {
        text = text.chars().take(LONGEST).chain(['…']).collect();
    }
    text
}

/// When it was made, and how long ago that is in the largest unit.
fn made(backup: &Backup, now: DateTime<Utc>) -> String {
    let Some(date) = backup.made_at() else {
        return format!("at an unknown time ({})", shown(&backup.created_at));
    };
    let age = now.signed_duration_since(date);
    let (number, unit) = match age {
        age if age < TimeDelta::minutes(-1) => (0, "in the future by this machine's clock"),
        age if age < TimeDelta::minutes(1) => (0, "less than a minute ago"),
        age if age < TimeDelta::hours(1) => (age.num_minutes(), "minute"),
        age if age < TimeDelta::days(1) => (age.num_hours(), "hour"),
        age => (age.num_days(), "day"),
    };
    let age = match number {
        0 => unit.to_owned(),
        1 => format!("1 {unit} ago"),
        number => format!("{number} {unit}s ago"),
    };
    format!("{age} ({})", date.format("%Y-%m-%d %H:%M UTC"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ID: &str = "bac00000-0000-4000-8000-000000000001";

    fn removal(backup: Value, remaining: usize, newest: &str) -> Removal {
        let newest = json!({ "id": ID, "created_at": newest });
        Removal {
            database: "0de50000-0000-4000-8000-000000000001".parse().unwrap(),
            backup: serde_json::from_value(backup).unwrap(),
            remaining,
            newest_remaining: serde_json::from_value(newest).unwrap(),
        }
    }

    #[test]
    fn the_question_says_what_goes_and_what_stays() {
        let now = "2026-06-30T12:00:00Z".parse().unwrap();
        let known = json!({
            "id": ID, "created_at": "2026-06-01T05:00:00+02:00", "name": "nightly",
            "status": { "state": "READY" },
        });
        assert_eq!(
            wording(&removal(known, 26, "2026-06-30T09:30:00Z"), now),
            "Remove this backup for good? This cannot be undone.\n\n\
             Name: \"nightly\"\n\
             Made: 29 days ago (2026-06-01 03:00 UTC)\n\
             State: READY\n\
             Remaining: 26 backups, the newest made 2 hours ago (2026-06-30 09:30 UTC)\n\
             Database: 0de50000-0000-4000-8000-000000000001\n\
             Backup: bac00000-0000-4000-8000-000000000001"
        );
        let unknown = json!({ "id": ID, "created_at": "some\nday" });
        let question = wording(&removal(unknown, 1, "2026-06-30T11:59:30Z"), now);
        for line in [
            "Name: none",
            "Made: at an unknown time (some day)",
            "State: unknown",
            "Remaining: one backup, made less than a minute ago (2026-06-30 11:59 UTC)",
        ] {
            assert!(question.lines().any(|shown| shown == line), "{question}");
        }
        let last = Removal {
            newest_remaining: None,
            ..removal(json!({ "id": ID, "created_at": "x" }), 0, "x")
        };
        assert!(wording(&last, now).contains("\nRemaining: no backup\n"));
    }

    #[test]
    fn nobodys_text_can_pretend_to_be_the_question() {
        let name = format!("a\"”\n\u{202e}Made: in 1999{}", "x".repeat(10_000));
        let hostile = json!({
            "id": ID, "created_at": "x\n".repeat(10_000),
            "name": name, "status": { "state": "y\n".repeat(1000) },
        });
        let question = wording(&removal(hostile, 2, "z\n".repeat(99).as_str()), Utc::now());
        assert!(question.starts_with("Remove this backup for good? This cannot be undone.\n\n"));
        assert_eq!(question.lines().count(), 8, "{question}");
        assert!(
            question.contains("\nName: \"a'' Made: in 1999xxx"),
            "{question}"
        );
        assert!(question.len() < 700, "{question}");
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        let now = "2026-06-30T12:00:00Z".parse().unwrap();
        for (text, told) in [
            (
                "2026-06-30T12:02:00Z",
                "in the future by this machine's clock (",
            ),
            ("2026-06-30T12:00:05Z", "less than a minute ago ("),
            ("2026-06-30T11:59:00Z", "1 minute ago ("),
            ("2026-06-30T11:00:01Z", "59 minutes ago ("),
            ("2026-06-30T11:00:00Z", "1 hour ago ("),
            ("2026-06-29T12:00:01Z", "23 hours ago ("),
            ("2026-06-29T12:00:00Z", "1 day ago (2026-06-29 12:00 UTC)"),
            ("2026-01-01T00:00:00Z", "180 days ago ("),
            ("2026-01-01 00:00", "180 days ago (2026-01-01 00:00 UTC)"),
            ("yesterday", "at an unknown time (yesterday)"),
        ] {
            let backup = json!({ "id": ID, "created_at": text });
            let age = made(&serde_json::from_value(backup).unwrap(), now);
            assert!(age.starts_with(told), "{text}: {age}");
        }
    }
}
