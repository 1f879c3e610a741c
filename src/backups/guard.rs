//! The rules that protect backups: a pure function of a database's complete list, the operator's
//! `--keep-latest` and the time.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::qovery::Backup;

/// Clocks and time zones cannot be further off than this: a date beyond it says nothing.
const FUTURE: TimeDelta = TimeDelta::days(1);

/// A backup that is in progress for longer is stuck: it will never be finished.
const STUCK: TimeDelta = TimeDelta::days(1);

/// The clocks by which ages are judged.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Our own time.
    pub now: DateTime<Utc>,
    /// The earlier of our own time and Qovery's: a clock that is fast makes no backup older.
    earliest: DateTime<Utc>,
}

impl Clock {
    /// `qovery` is the `Date` of the list.
    pub fn new(now: DateTime<Utc>, qovery: Option<DateTime<Utc>>) -> Self {
        Self {
            now,
            earliest: qovery.map_or(now, |qovery| qovery.min(now)),
        }
    }
}

/// What the rules say of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Assessment {
    pub(super) condition: Condition,
    pub(super) protection: Option<Protection>,
}

/// Why a backup must stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// No other backup is in the list.
    OnlyOne,
    /// It is one of the newest `keep` that are, or may be, finished; or the newest, if none may be.
    Newest {
        /// How many are kept.
        keep: usize,
    },
    /// It is one of the newest `keep` that are finished.
    NewestFinished {
        /// How many are kept.
        keep: usize,
    },
    /// Both of these.
    NewestAndNewestFinished {
        /// How many are kept.
        keep: usize,
    },
    /// It is in progress.
    BeingMade,
    /// Its date cannot be read.
    Undated,
    /// Its date is more than a day in the future.
    InFuture,
}

/// The condition of a backup, by its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It can be restored from.
    Finished,
    /// It is being made.
    InProgress,
    /// It will never be finished.
    Failed,
    /// Qovery is removing it, or has.
    BeingRemoved,
    /// Not known: it may be one that can be restored from.
    Unknown,
}

/// The condition of each backup, and the rule that protects it, if any does.
///
/// The newest `keep_latest` finished backups stay, at least one, and as many of the newest that are
/// finished or of unknown condition. If there is none of these, the newest that is not being removed
/// stays. What is in progress stays. What has failed or is being removed takes no place of another.
/// Where the last that a rule keeps is one of several of the same instant, all of them stay.
///
/// A backup of unknown age stays, too, and the rules run as if it were not in the list.
pub(super) fn assess(backups: &[Backup], keep_latest: usize, clock: Clock) -> Vec<Assessment> {
    let rows: Vec<_> = backups
        .iter()
        .map(|backup| (date(backup, clock.now), Condition::of(backup, clock)))
        .collect();
    // The date of the oldest of the newest `number` rows that count.
    let edge = |number: usize, counts: fn(Condition) -> bool| {
        let counted = rows.iter().filter(|(_, condition)| counts(*condition));
        let mut dates: Vec<_> = counted.filter_map(|(date, _)| date.ok()).collect();
        dates.sort_unstable();
        dates.get(dates.len().saturating_sub(number)).copied()
    };
    let keep = keep_latest.max(1);
    let oldest_finished = edge(keep, Condition::is_finished);
    let (counts, oldest_kept): (fn(Condition) -> bool, _) = match edge(keep, Condition::is_usable) {
        Some(oldest) => (Condition::is_usable, Some(oldest)),
        None => (Condition::is_present, edge(1, Condition::is_present)),
    };
    let alone = rows.iter().filter(|row| row.1.is_present()).count() == 1;
    let protection = |(date, condition): (Result<_, Protection>, Condition)| {
        let date = match date {
            Err(protection) => return Some(protection),
            Ok(_) if condition == Condition::InProgress => return Some(Protection::BeingMade),
            Ok(date) => date,
        };
        let reaches = |oldest: Option<DateTime<Utc>>| oldest.is_some_and(|oldest| date >= oldest);
        let newest = counts(condition) && reaches(oldest_kept);
        let finished = condition.is_finished() && reaches(oldest_finished);
        match (newest, finished) {
            (false, false) => None,
            _ if alone => Some(Protection::OnlyOne),
            (true, false) => Some(Protection::Newest { keep }),
            (false, true) => Some(Protection::NewestFinished { keep }),
            (true, true) => Some(Protection::NewestAndNewestFinished { keep }),
        }
    };
    let assessment = |row: &(_, Condition)| Assessment {
        condition: row.1,
        protection: protection(*row),
    };
    rows.iter().map(assessment).collect()
}

/// The newest of some backups; any of them, if none has a date.
pub(super) fn newest<'a>(
    backups: impl IntoIterator<Item = &'a Backup>,
    now: DateTime<Utc>,
) -> Option<&'a Backup> {
    let backups = backups.into_iter();
    backups.max_by_key(|backup| (date(backup, now).ok(), backup.id))
}

/// When a backup was made, or why its age is unknown.
pub(super) fn date(backup: &Backup, now: DateTime<Utc>) -> Result<DateTime<Utc>, Protection> {
    match backup.made_at() {
        None => Err(Protection::Undated),
        Some(date) if date - now > FUTURE => Err(Protection::InFuture),
        Some(date) => Ok(date),
    }
}

impl Condition {
    /// All of them, in the order of a backup's life.
    pub const ALL: [Self; 5] = [
        Self::Finished,
        Self::InProgress,
        Self::Failed,
        Self::BeingRemoved,
        Self::Unknown,
    ];

    /// Only states that Qovery documents today are known, and only where their meaning is unambiguous:
    /// a removal that failed leaves a backup. What is in progress for more than a day counts as failed.
    pub fn of(backup: &Backup, clock: Clock) -> Self {
        match backup.state() {
            Some("DEPLOYED" | "READY" | "RESTARTED") => Self::Finished,
            Some(
                "BUILDING" | "DEPLOYING" | "DEPLOYMENT_QUEUED" | "EXECUTING" | "QUEUED"
                | "RESTARTING" | "RESTART_QUEUED" | "WAITING_RESTARTING" | "WAITING_RUNNING",
            ) => match date(backup, clock.now) {
                Ok(date) if clock.earliest - date > STUCK => Self::Failed,
                _ => Self::InProgress,
            },
            Some("BUILD_ERROR" | "CANCELED" | "CANCELING" | "DEPLOYMENT_ERROR") => Self::Failed,
            Some("DELETED" | "DELETE_QUEUED" | "DELETING" | "WAITING_DELETING") => {
                Self::BeingRemoved
            }
            _ => Self::Unknown,
        }
    }

    /// Its name, as callers read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::InProgress => "in_progress",
            Self::Failed => "failed",
            Self::BeingRemoved => "being_removed",
            Self::Unknown => "unknown",
        }
    }

    pub(super) fn is_finished(self) -> bool {
        self == Self::Finished
    }

    /// Whether it can, or may, be restored from.
    fn is_usable(self) -> bool {
        matches!(self, Self::Finished | Self::Unknown)
    }

    fn is_present(self) -> bool {
        self != Self::BeingRemoved
    }
}

impl Protection {
    /// Its name, as callers read it in a list.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnlyOne => "the only one",
            Self::Newest { .. } => "newest",
            Self::NewestFinished { .. } => "newest finished",
            Self::NewestAndNewestFinished { .. } => "newest and newest finished",
            Self::BeingMade => "being made",
            Self::Undated => "date not readable",
            Self::InFuture => "date in the future",
        }
    }

    /// Who can lift the protection, or when it ends.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::Newest { keep: 2.. }
            | Self::NewestFinished { keep: 2.. }
            | Self::NewestAndNewestFinished { keep: 2.. } => {
                "No argument changes that; the operator sets how many are kept with --keep-latest, \
                 and the newest good one stays whatever the number."
            }
            Self::OnlyOne
            | Self::Newest { .. }
            | Self::NewestFinished { .. }
            | Self::NewestAndNewestFinished { .. } => {
                "No argument and no setting changes that; it may go once a newer backup is finished."
            }
            Self::BeingMade => "Wait for it, then decide.",
            Self::Undated => {
                "No argument and no setting changes that; it may go once Qovery gives it a date that \
                 can be read. Tell the person."
            }
            Self::InFuture => {
                "No argument and no setting changes that; it may go once that date is past. If \
                 the date is right, the clock of this server is slow: tell the operator."
            }
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyOne => f.write_str("it is the only one"),
            Self::Newest { keep: 1 } => f.write_str("it is the newest one that may be good"),
            Self::Newest { keep } => write!(f, "it is one of the {keep} newest that may be good"),
            Self::NewestFinished { keep: 1 } => f.write_str("it is the newest finished one"),
            Self::NewestFinished { keep } => {
                write!(f, "it is one of the {keep} newest finished ones")
            }
            Self::NewestAndNewestFinished { keep: 1 } => {
                f.write_str("it is the newest one, and finished")
            }
            Self::NewestAndNewestFinished { keep } => {
                write!(f, "it is one of the {keep} newest, and finished")
            }
            Self::BeingMade => f.write_str("it is being made"),
            Self::Undated => f.write_str("its date cannot be read, so its age is not known"),
            Self::InFuture => {
                f.write_str("its date is more than a day in the future, so its age is not known")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};
    use serde_json::json;

    use super::{super::removal::evaluate, *};

    fn clock() -> Clock {
        Clock::new("2026-07-01T00:00:00Z".parse().unwrap(), None)
    }

    fn backup(number: usize, created_at: &str, state: Option<&str>) -> Backup {
        serde_json::from_value(json!({
            "id": format!("00000000-0000-4000-8000-{number:012}"),
            "created_at": created_at,
            "status": { "state": state },
        }))
        .unwrap()
    }

    /// Finished backups made at these times, of which the first has the highest id.
    fn dated(dates: &[&str]) -> Vec<Backup> {
        let numbers = (0..dates.len()).rev();
        numbers
            .zip(dates)
            .map(|(number, date)| backup(number, date, Some("READY")))
            .collect()
    }

    /// Backups in these states, each an hour younger than the one before.
    fn list(states: &[&str]) -> Vec<Backup> {
        (1..)
            .zip(states)
            .map(|(hour, state)| backup(hour, &format!("2026-06-30T{hour:02}:00:00Z"), Some(state)))
            .collect()
    }

    fn protections(backups: &[Backup], keep_latest: usize) -> Vec<Option<Protection>> {
        let assessed = assess(backups, keep_latest, clock());
        assessed.iter().map(|row| row.protection).collect()
    }

    /// The names of the protections, or `-`.
    fn names(states: &[&str], keep_latest: usize) -> Vec<&'static str> {
        let protections = protections(&list(states), keep_latest);
        let name = |protection: Option<Protection>| protection.map_or("-", Protection::name);
        protections.into_iter().map(name).collect()
    }

    const BOTH: Option<Protection> = Some(Protection::NewestAndNewestFinished { keep: 1 });

    #[test]
    fn what_is_worth_nothing_takes_no_place() {
        let both = "newest and newest finished";
        for (keep_latest, states, expected) in [
            (1, &["READY", "READY", "READY"][..], &["-", "-", both][..]),
            (0, &["READY", "READY"], &["-", both]),
            (2, &["READY", "READY", "READY"], &["-", both, both]),
            (9, &["READY", "READY"], &[both, both]),
            (
                3,
                &[
                    "READY", "READY", "READY", "READY", "QUEUED", "QUEUED", "QUEUED",
                ],
                &[
                    "-",
                    both,
                    both,
                    both,
                    "being made",
                    "being made",
                    "being made",
                ],
            ),
            (
                3,
                &[
                    "READY",
                    "READY",
                    "READY",
                    "DEPLOYMENT_ERROR",
                    "READY",
                    "DELETING",
                ],
                &["-", both, both, "-", both, "-"],
            ),
            (
                1,
                &["READY", "DEPLOYMENT_ERROR", "READY", "DEPLOYMENT_ERROR"],
                &["-", "-", both, "-"],
            ),
            (
                1,
                &["READY", "READY", "NEW"],
                &["-", "newest finished", "newest"],
            ),
            (
                1,
                &["NEW", "READY", "UNAVAILABLE"],
                &["-", "newest finished", "newest"],
            ),
            (1, &["DELETE_ERROR", "CANCELED"], &["newest", "-"]),
            (
                1,
                &["READY", "DELETE_ERROR"],
                &["newest finished", "newest"],
            ),
            (1, &["CANCELED", "DEPLOYMENT_ERROR"], &["-", "newest"]),
            (1, &["CANCELED", "DELETING"], &["the only one", "-"]),
            (1, &["READY"], &["the only one"]),
            (1, &["QUEUED"], &["being made"]),
            (1, &["DELETED", "DELETING"], &["-", "-"]),
            (1, &[], &[]),
        ] {
            assert_eq!(
                names(states, keep_latest),
                expected,
                "{keep_latest} {states:?}"
            );
        }
    }

    #[test]
    fn what_is_in_progress_for_a_day_is_stuck_by_both_clocks() {
        let now: DateTime<Utc> = "2026-07-01T00:00:00Z".parse().unwrap();
        let early = now - TimeDelta::hours(2);
        for (created_at, qovery, condition) in [
            ("2026-06-30T00:00:00Z", None, Condition::InProgress),
            ("2026-06-29T23:59:59Z", None, Condition::Failed),
            ("2026-06-29T23:59:59Z", Some(early), Condition::InProgress),
            ("2026-06-29T21:59:59Z", Some(early), Condition::Failed),
            (
                "2026-06-30T00:00:00Z",
                Some(now + STUCK),
                Condition::InProgress,
            ),
            ("soon", None, Condition::InProgress),
        ] {
            let backup = backup(1, created_at, Some("QUEUED"));
            assert_eq!(Condition::of(&backup, Clock::new(now, qovery)), condition);
        }
    }

    #[test]
    fn the_newest_is_found_wherever_it_stands() {
        let found =
            |backups: &[Backup]| newest(backups, clock().now).map(|it| it.created_at.clone());
        let mut backups = list(&["READY"; 3]);
        backups.swap(0, 2);
        backups.push(backup(9, "soon", None));
        backups.push(backup(9, "2999-01-01", None));
        assert_eq!(found(&backups).as_deref(), Some("2026-06-30T03:00:00Z"));
        assert_eq!(found(&dated(&["soon"])).as_deref(), Some("soon"));
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn each_protection_says_what_it_protects_and_who_can_lift_it() {
        use Protection::{
            BeingMade, InFuture, Newest, NewestAndNewestFinished, NewestFinished, OnlyOne, Undated,
        };
        for (protection, words, remedy) in [
            (OnlyOne, "the only one", "once a newer backup is finished"),
            (
                Newest { keep: 1 },
                "newest one",
                "once a newer backup is finished",
            ),
            (
                Newest { keep: 3 },
                "one of the 3 newest that",
                "--keep-latest",
            ),
            (
                NewestFinished { keep: 3 },
                "3 newest finished",
                "--keep-latest",
            ),
            (
                NewestAndNewestFinished { keep: 3 },
                "3 newest, and",
                "--keep-latest",
            ),
            (BeingMade, "being made", "Wait for it"),
            (Undated, "cannot be read", "once Qovery gives it a date"),
            (InFuture, "in the future", "once that date is past"),
        ] {
            assert!(protection.to_string().contains(words), "{protection}");
            assert!(protection.remedy().contains(remedy), "{protection}");
        }
    }

    #[test]
    fn instants_are_compared_and_not_texts_or_ids() {
        for newest in [
            "2026-06-03T00:00:01+0000",
            "2026-06-02T20:00:00-05:00",
            "2026-06-03 00:00:00.5",
            "1780444801000",
        ] {
            // 23:30 on the 2nd in UTC, though it reads as the 3rd.
            let backups = dated(&["2026-06-03T01:30:00+02:00", "2026-06-03T00:00:00Z", newest]);
            assert_eq!(protections(&backups, 1), [None, None, BOTH], "{newest}");
        }
    }

    #[test]
    fn what_has_no_date_stays_and_exposes_nothing_else() {
        use Protection::{InFuture, Undated};
        for (odd, protection) in [("", Undated), ("soon", Undated), ("2999-01-01", InFuture)] {
            let backups = dated(&[odd, "2026-06-01", "2026-06-02"]);
            assert_eq!(protections(&backups, 1), [Some(protection), None, BOTH]);
        }
        // A day is as far as clocks and zones may be wrong.
        let backups = dated(&["2026-06-30", "2026-07-02T00:00:00Z"]);
        assert_eq!(protections(&backups, 1), [None, BOTH]);
    }

    #[test]
    fn backups_of_one_instant_stay_together() {
        let tied = dated(&["2026-06-02", "2026-06-02T02:00:00+02:00", "2026-06-01"]);
        assert_eq!(protections(&tied, 1), [BOTH, BOTH, None]);
        let edge = dated(&["2026-06-03", "2026-06-02", "2026-06-02", "2026-06-01"]);
        let two = Some(Protection::NewestAndNewestFinished { keep: 2 });
        assert_eq!(protections(&edge, 2), [two, two, two, None]);
    }

    const STATES: [Option<&str>; 8] = [
        Some("READY"),
        Some("DEPLOYED"),
        Some("QUEUED"),
        Some("DEPLOYMENT_ERROR"),
        Some("CANCELED"),
        Some("DELETING"),
        Some("DELETE_ERROR"),
        None,
    ];
    const WORTHLESS: [&str; 4] = ["QUEUED", "DEPLOYMENT_ERROR", "DELETING", "CANCELED"];

    /// Lists with every kind of state and date, of which many are the same.
    fn any_list() -> impl Strategy<Value = Vec<Backup>> {
        let state = prop::sample::select(STATES.to_vec());
        prop::collection::vec((any_date(), state), 1..12).prop_map(|rows| {
            (0..)
                .zip(rows)
                .map(|(number, (date, state))| backup(number, &date, state))
                .collect()
        })
    }

    fn any_date() -> impl Strategy<Value = String> {
        prop_oneof![
            3 => (1_u32..9).prop_map(|day| format!("2026-06-{day:02}T00:00:00Z")),
            3 => (1_u32..9).prop_map(|hour| format!("2026-06-30T{hour:02}:00:00Z")),
            1 => no_date(),
        ]
    }

    fn no_date() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["", "soon", "0001-01-01T00:00:00Z", "2999-01-01"])
            .prop_map(str::to_owned)
    }

    fn finished(backups: &[Backup]) -> Vec<&Backup> {
        let is_finished = |backup: &&Backup| Condition::of(backup, clock()).is_finished();
        backups.iter().filter(is_finished).collect()
    }

    fn protected_finished(backups: &[Backup], keep_latest: usize) -> usize {
        let protections = protections(backups, keep_latest);
        let rows = backups.iter().zip(protections);
        let kept = rows.filter(|(backup, protection)| {
            protection.is_some() && Condition::of(backup, clock()).is_finished()
        });
        kept.count()
    }

    /// Every list of up to five rows: removing all that may go leaves what was good.
    #[test]
    fn no_list_of_five_rows_loses_what_is_good() {
        let states = ["READY", "NEW", "QUEUED", "CANCELED", "DELETING"];
        let mut lists = vec![vec![]];
        for _ in 0..5 {
            let longer = lists.iter().flat_map(|list: &Vec<&str>| {
                states.map(|state| [list.as_slice(), &[state]].concat())
            });
            let longer: Vec<_> = longer.collect();
            for states in &longer {
                let backups = list(states);
                for keep in 0..4 {
                    let wanted = keep.max(1).min(finished(&backups).len());
                    assert!(protected_finished(&backups, keep) >= wanted, "{states:?}");
                    let kept = protections(&backups, keep).iter().flatten().count();
                    let present = states.iter().filter(|state| **state != "DELETING").count();
                    assert!(kept > 0 || present == 0, "{states:?}");
                }
            }
            lists = longer;
        }
    }

    proptest! {
        /// Removes whatever may be removed until nothing may: what is left can be restored from,
        /// if anything could be.
        #[test]
        fn no_sequence_of_removals_takes_the_last_good_backup(
            mut backups in any_list(),
            picks in prop::collection::vec(any::<Index>(), 12),
            keep_latest in 0_usize..4,
        ) {
            let usable = |backups: &[Backup]| {
                backups.iter().any(|backup| Condition::of(backup, clock()).is_usable())
            };
            let before = backups.clone();
            for pick in picks {
                let protections = protections(&backups, keep_latest);
                let may_go: Vec<usize> =
                    (0..backups.len()).filter(|at| protections[*at].is_none()).collect();
                if !may_go.is_empty() {
                    backups.remove(*pick.get(&may_go));
                }
            }
            prop_assert!(protections(&backups, keep_latest).iter().all(Option::is_some));
            prop_assert!(finished(&backups).len() >= keep_latest.max(1).min(finished(&before).len()));
            prop_assert_eq!(usable(&backups), usable(&before));
        }

        /// Rows that are failed, being removed or unfinished take no place of a finished one.
        #[test]
        fn worthless_rows_free_nothing(
            mut backups in any_list(),
            more in prop::collection::vec((any_date(), prop::sample::select(WORTHLESS.to_vec())), 1..6),
            keep_latest in 0_usize..4,
        ) {
            let before = protected_finished(&backups, keep_latest);
            for (number, (date, state)) in (90..).zip(more) {
                backups.insert(0, backup(number, &date, Some(state)));
            }
            let after = protected_finished(&backups, keep_latest);
            prop_assert!(after >= before, "{} {}", before, after);
        }

        /// What the whole list protects, any part of it that holds it protects, too.
        #[test]
        fn a_part_of_a_list_frees_nothing(
            backups in any_list(),
            kept in prop::collection::vec(any::<bool>(), 12),
            keep_latest in 0_usize..4,
        ) {
            let whole = protections(&backups, keep_latest);
            let is_kept = |at: &usize| kept[*at];
            let positions: Vec<usize> = (0..backups.len()).filter(is_kept).collect();
            let part: Vec<_> = positions.iter().map(|at| backups[*at].clone()).collect();
            for (at, protection) in positions.iter().zip(protections(&part, keep_latest)) {
                prop_assert!(whole[*at].is_none() || protection.is_some());
            }
        }

        /// What goes at once may all go alone, and leaves what must stay.
        #[test]
        fn a_batch_takes_nothing_that_a_single_removal_would_be_refused(
            backups in any_list(),
            picks in prop::collection::vec(any::<Index>(), 1..8),
            keep_latest in 0_usize..4,
        ) {
            let database = "0de50000-0000-4000-8000-000000000001".parse().unwrap();
            let wanted: Vec<_> = picks.iter().map(|pick| pick.get(&backups).id).collect();
            let evaluate = |wanted: &[_]| evaluate(database, &backups, wanted, keep_latest, clock());
            let refused = wanted.iter().any(|id| evaluate(&[*id]).is_err());
            let twice = (1..wanted.len()).any(|at| wanted[..at].contains(&wanted[at]));
            let batch = evaluate(&wanted);
            prop_assert_eq!(batch.is_err(), refused || twice);
            if let Ok(plan) = batch {
                prop_assert_eq!(plan.remaining, backups.len() - wanted.len());
                let newest_finished = newest(finished(&backups), clock().now);
                let left = plan.newest_finished.map(|backup| backup.created_at);
                prop_assert_eq!(left.as_ref(), newest_finished.map(|backup| &backup.created_at));
            }
        }

        #[test]
        fn a_date_that_is_lost_frees_no_other_row(
            mut backups in any_list(),
            (at, odd) in (any::<Index>(), no_date()),
            keep_latest in 0_usize..4,
        ) {
            let before = protections(&backups, keep_latest);
            at.get_mut(&mut backups).created_at = odd;
            for (before, after) in before.iter().zip(protections(&backups, keep_latest)) {
                prop_assert!(before.is_none() || after.is_some());
            }
        }

        #[test]
        fn what_differs_in_id_and_place_alone_stays_or_goes_together(
            backups in any_list(),
            keep_latest in 0_usize..4,
        ) {
            let assessed = assess(&backups, keep_latest, clock());
            let rows = || backups.iter().zip(&assessed);
            for (one, its) in rows() {
                for (other, others) in rows() {
                    let same = one.created_at == other.created_at && its.condition == others.condition;
                    prop_assert!(!same || its == others);
                }
            }
        }
    }
}
