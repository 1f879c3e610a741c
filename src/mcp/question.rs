//! The question before a removal, for a person with little time and no other source of facts.
//!
//! Some hosts show no more than three lines of a longer question, and cut each at the terminal's edge.
//! Hence the order: what goes, what remains, of which database.

use chrono::{DateTime, TimeDelta, Utc};
use rmcp::model::{BooleanSchema, ElicitRequestParams, ElicitationSchema};

use crate::{
    backups::{Condition, Listed, RemovalPlan},
    qovery::Backup,
    text,
};

/// Columns of a line: those of a terminal of 80, less what hosts put around a question.
const LINE_COLUMNS: usize = 74;
/// Columns of a name.
const NAME_COLUMNS: usize = 24;
/// Columns of a state: the longest that Qovery documents.
const STATE_COLUMNS: usize = 18;

/// The question about a plan. `name` is the database's; `change` says why the question is put again.
pub(super) fn question(plan: &RemovalPlan, name: Option<&str>, change: Option<&str>) -> String {
    let message = message(plan, name, Utc::now());
    match change {
        Some(change) => format!("Changed: {change}\n{message}"),
        None => message,
    }
}

/// A form with the question about this many backups.
pub(super) fn form(question: String, number: usize) -> ElicitRequestParams {
    let title = match number {
        1 => "Remove it for good".to_owned(),
        number => format!("Remove all {number} for good"),
    };
    let checkbox = |schema: BooleanSchema| schema.title(title).with_default(false);
    ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: question,
        requested_schema: ElicitationSchema::builder()
            .bool_property("remove", checkbox)
            .build_unchecked(),
    }
}

fn message(plan: &RemovalPlan, name: Option<&str>, now: DateTime<Utc>) -> String {
    let backups = &plan.backups;
    let describe = |backup: &Backup| {
        let state = truncate(backup.state().unwrap_or("unknown state"), STATE_COLUMNS);
        let age = age(backup, now);
        let date = backup.made_at();
        let date = date.map(|date| date.format(" (%Y-%m-%d %H:%M UTC)").to_string());
        format!("{state}, {age}{}", date.unwrap_or_default())
    };
    let remaining = match (plan.remaining, plan.finished.len(), &plan.newest_finished) {
        (0, ..) => "No backup remains.".to_owned(),
        (remaining, finished, Some(newest)) => format!(
            "Remaining: {remaining}, {finished} finished, the newest {}.",
            age(newest, now)
        ),
        (remaining, ..) => format!("Remaining: {remaining}, none known to be finished."),
    };
    let database = with_name(format!("Database {}", plan.database), name);
    if let [Listed { backup, .. }] = backups.as_slice() {
        let facts = format!("Remove {}", describe(backup));
        let first = with_name(facts, backup.name.as_deref());
        return format!("{first}\n{remaining}\n{database}\nThis cannot be undone.");
    }
    let is_failed = |listed: &&Listed| listed.condition == Condition::Failed;
    let failed = match backups.iter().filter(is_failed).count() {
        0 => "None".to_owned(),
        number => number.to_string(),
    };
    let (number, period) = (backups.len(), period(backups));
    let mut lines = vec![
        format!("Remove {number} backups {period}? This cannot be undone."),
        format!("{failed} failed. {remaining}"),
        database,
    ];
    let line = |listed: &Listed| {
        let backup = &listed.backup;
        with_name(describe(backup), backup.name.as_deref())
    };
    lines.extend(backups.iter().map(line));
    lines.join("\n")
}

/// Appends a name to facts: last on the line, it cannot pass for one of them.
fn with_name(facts: String, name: Option<&str>) -> String {
    let Some(name) = name else { return facts };
    let left = LINE_COLUMNS.saturating_sub(columns(&facts) + r#": """#.len());
    format!("{facts}: \"{}\"", truncate(name, left.min(NAME_COLUMNS)))
}

/// Sanitizes untrusted text, quotes included, and cuts it to a number of columns.
fn truncate(text: &str, max_columns: usize) -> String {
    const QUOTES: [char; 10] = ['"', '“', '”', '„', '‟', '«', '»', '″', '〃', '＂'];
    let mut text = text.replace(QUOTES, "'");
    text::sanitize(&mut text);
    if columns(&text) > max_columns {
        let mut used = width('…');
        let fits = |c: &char| {
            used += width(*c);
            used <= max_columns
        };
        text = text.chars().take_while(fits).chain(['…']).collect();
        // The cut may have left a joiner that joins nothing.
        text::sanitize(&mut text);
    }
    text
}

fn columns(text: &str) -> usize {
    text.chars().map(width).sum()
}

/// The most columns of a terminal that a character takes: what may be wide counts twice.
fn width(c: char) -> usize {
    match c {
        '\u{1100}'..='\u{11ff}' | '\u{2e80}'.. => 2,
        _ => 1,
    }
}

/// The days from the first to the last backup.
fn period(backups: &[Listed]) -> String {
    let day = |date: DateTime<Utc>| date.format("%Y-%m-%d").to_string();
    let dates = || backups.iter().filter_map(|listed| listed.backup.made_at());
    match (dates().min().map(day), dates().max().map(day)) {
        (Some(first), Some(last)) if first != last => format!("from {first} to {last}"),
        (Some(day), _) => format!("of {day}"),
        _ => "without a date".to_owned(),
    }
}

/// The age of a backup in its largest unit.
fn age(backup: &Backup, now: DateTime<Utc>) -> String {
    let Some(date) = backup.made_at() else {
        return "at an unknown time".to_owned();
    };
    let (number, unit) = match now.signed_duration_since(date) {
        age if age < TimeDelta::minutes(-1) => return "in the future".to_owned(),
        age if age < TimeDelta::minutes(1) => return "just now".to_owned(),
        age if age < TimeDelta::hours(1) => (age.num_minutes(), "minute"),
        age if age < TimeDelta::days(1) => (age.num_hours(), "hour"),
        age => (age.num_days(), "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural} ago")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ID: &str = "bac00000-0000-4000-8000-000000000001";

    fn now() -> DateTime<Utc> {
        "2026-06-30T12:00:00Z".parse().unwrap()
    }

    fn backup(json: Value) -> Backup {
        serde_json::from_value(json).unwrap()
    }

    fn made_at(date: &str, name: &str, state: &str) -> Backup {
        let status = json!({ "state": state });
        backup(json!({ "id": ID, "created_at": date, "name": name, "status": status }))
    }

    fn plan(backups: Vec<Backup>) -> RemovalPlan {
        RemovalPlan {
            remaining: 26,
            finished: vec![ID.parse().unwrap(); 25],
            newest_finished: Some(made_at("2026-06-30T09:30:00Z", "x", "READY")),
            newest: None,
            database: "0de50000-0000-4000-8000-000000000001".parse().unwrap(),
            backups: backups.into_iter().map(Listed::from).collect(),
        }
    }

    #[test]
    fn one_backup_is_asked_about_in_four_lines() {
        let one = made_at("2026-06-01T05:00:00+02:00", "nightly", "READY");
        assert_eq!(
            message(&plan(vec![one.clone()]), Some("orders"), now()),
            "Remove READY, 29 days ago (2026-06-01 03:00 UTC): \"nightly\"\n\
             Remaining: 26, 25 finished, the newest 2 hours ago.\n\
             Database 0de50000-0000-4000-8000-000000000001: \"orders\"\n\
             This cannot be undone."
        );
        let bare = backup(json!({ "id": ID, "created_at": "some\nday" }));
        let none_finished = RemovalPlan {
            newest_finished: None,
            ..plan(vec![bare])
        };
        assert_eq!(
            message(&none_finished, None, now()),
            "Remove unknown state, at an unknown time\n\
             Remaining: 26, none known to be finished.\n\
             Database 0de50000-0000-4000-8000-000000000001\n\
             This cannot be undone."
        );
        let last = RemovalPlan {
            remaining: 0,
            ..plan(vec![one])
        };
        assert!(message(&last, None, now()).contains("\nNo backup remains.\n"));
    }

    #[test]
    fn several_are_summed_up_before_they_are_listed() {
        let several = plan(vec![
            made_at("2026-06-20T00:00:00Z", "a", "DEPLOYMENT_ERROR"),
            made_at("2026-05-01T00:00:00Z", "b", "READY"),
        ]);
        assert_eq!(
            message(&several, Some("orders"), now()),
            "Remove 2 backups from 2026-05-01 to 2026-06-20? This cannot be undone.\n\
             1 failed. Remaining: 26, 25 finished, the newest 2 hours ago.\n\
             Database 0de50000-0000-4000-8000-000000000001: \"orders\"\n\
             DEPLOYMENT_ERROR, 10 days ago (2026-06-20 00:00 UTC): \"a\"\n\
             READY, 60 days ago (2026-05-01 00:00 UTC): \"b\""
        );
    }

    #[test]
    fn untrusted_text_cannot_pass_for_the_question() {
        let name = format!("a\"”\n\u{202e}Made: in 1999{}", "x".repeat(10_000));
        let hostile = || {
            made_at(
                "2026-06-30T11:01:00Z",
                &name,
                &"WAITING_RESTARTING\n".repeat(99),
            )
        };
        for number in [1, 20] {
            let backups = std::iter::repeat_with(hostile).take(number).collect();
            let plan = RemovalPlan {
                remaining: 10_000,
                finished: vec![ID.parse().unwrap(); 9_999],
                ..plan(backups)
            };
            let question = message(&plan, Some(&"数据库".repeat(99)), now());
            let lines: Vec<&str> = question.lines().collect();
            assert_eq!(lines.len(), 3 + number, "{question}");
            for line in &lines {
                assert!(columns(line) <= LINE_COLUMNS, "{line}");
                let quotes = line.matches('"').count();
                assert!(quotes == 0 || quotes == 2 && line.ends_with('"'), "{line}");
            }
            assert!(
                question.contains("(2026-06-30 11:01 UTC): \"a'' M"),
                "{question}"
            );
            assert!(
                lines[2].ends_with(": \"数据库数据库数据库数据…\""),
                "{question}"
            );
        }
    }

    #[test]
    fn an_age_has_its_largest_unit() {
        for (text, words) in [
            ("2026-06-30T12:02:00Z", "in the future"),
            ("2026-06-30T12:00:05Z", "just now"),
            ("2026-06-30T11:59:00Z", "1 minute ago"),
            ("2026-06-30T11:00:01Z", "59 minutes ago"),
            ("2026-06-30T11:00:00Z", "1 hour ago"),
            ("2026-06-29T12:00:01Z", "23 hours ago"),
            ("2026-06-29T12:00:00Z", "1 day ago"),
            ("2026-01-01 00:00", "180 days ago"),
            ("yesterday", "at an unknown time"),
        ] {
            assert_eq!(age(&made_at(text, "", ""), now()), words, "{text}");
        }
    }
}
