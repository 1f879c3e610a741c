//! The rules that protect backups: a pure function of a database's complete list, the operator's
//! `--keep-latest` and the time.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use crate::qovery::Backup;

/// Clocks and time zones cannot be further off than this: a date beyond it says nothing.
const FUTURE: TimeDelta = TimeDelta::days(1);

/// Why a backup must stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// It is one of the newest that the operator keeps.
    Newest {
        /// How many those are.
        keep_latest: usize,
    },
    /// It is the newest that has not failed.
    NewestNotFailed,
    /// It is, or may be, the newest that can be restored from.
    NewestFinished,
    /// Its date cannot be read.
    Undated,
    /// Its date is more than a day in the future.
    InFuture,
}

/// The condition of a backup, by its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// For each backup the rule that protects it, if any does.
///
/// The newest `keep_latest` stay. Whatever that number is, three more stay: the newest backup that is
/// not known to have failed, the newest that is also not known to be unfinished, and the newest that
/// is known to be finished. They differ while a new backup is being made, or when its state is unknown:
/// the new one may still fail. Where the last that a rule keeps is one of several of the same instant,
/// all of them stay.
///
/// A backup of unknown age stays, too, and the rules run as if it were not in the list.
pub(super) fn protections(
    backups: &[Backup],
    keep_latest: usize,
    now: DateTime<Utc>,
) -> Vec<Option<Protection>> {
    use Condition::{Finished, InProgress, Unknown};
    use Protection::{Newest, NewestFinished, NewestNotFailed};

    // How many of the newest backups in these conditions stay, and as what.
    let rules: [(usize, &[Condition], Protection); 4] = [
        (keep_latest, &Condition::ALL, Newest { keep_latest }),
        (1, &[Finished, InProgress, Unknown], NewestNotFailed),
        (1, &[Finished, Unknown], NewestFinished),
        (1, &[Finished], NewestFinished),
    ];
    let rows: Vec<_> = backups
        .iter()
        .map(|backup| (date(backup, now), Condition::of(backup)))
        .collect();
    let edges = rules.map(|(number, conditions, protection)| {
        let counted = rows.iter().filter(|row| conditions.contains(&row.1));
        let mut dates: Vec<_> = counted.filter_map(|(date, _)| date.ok()).collect();
        dates.sort_unstable();
        let oldest_kept = dates.get(dates.len().saturating_sub(number)).copied();
        (oldest_kept, conditions, protection)
    });
    let protection = |(date, condition): (Result<_, Protection>, Condition)| match date {
        Err(protection) => Some(protection),
        Ok(date) => edges
            .iter()
            .find_map(|(oldest_kept, conditions, protection)| {
                let keeps = oldest_kept.is_some_and(|oldest_kept| date >= oldest_kept);
                (keeps && conditions.contains(&condition)).then_some(*protection)
            }),
    };
    rows.iter().copied().map(protection).collect()
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

    /// Only states that Qovery documents today are known, and only where their meaning is unambiguous.
    #[must_use]
    pub fn of(backup: &Backup) -> Self {
        match backup.state() {
            Some("DEPLOYED" | "READY" | "RESTARTED") => Self::Finished,
            Some(
                "BUILDING" | "DEPLOYING" | "DEPLOYMENT_QUEUED" | "EXECUTING" | "QUEUED"
                | "RESTARTING" | "RESTART_QUEUED" | "WAITING_RESTARTING" | "WAITING_RUNNING",
            ) => Self::InProgress,
            Some(
                "BUILD_ERROR" | "CANCELED" | "CANCELING" | "DELETE_ERROR" | "DEPLOYMENT_ERROR"
                | "RESTART_ERROR" | "STOP_ERROR",
            ) => Self::Failed,
            Some("DELETED" | "DELETE_QUEUED" | "DELETING" | "WAITING_DELETING") => {
                Self::BeingRemoved
            }
            _ => Self::Unknown,
        }
    }

    /// Its name, as callers read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::InProgress => "in_progress",
            Self::Failed => "failed",
            Self::BeingRemoved => "being_removed",
            Self::Unknown => "unknown",
        }
    }
}

impl Protection {
    /// Its name, as callers read it in a list.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Newest { .. } => "newest",
            Self::NewestNotFailed => "newest not failed",
            Self::NewestFinished => "newest finished",
            Self::Undated => "date not readable",
            Self::InFuture => "date in the future",
        }
    }

    /// Who can lift the protection, or when it ends.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::Newest { .. } => {
                "No argument changes that; the operator sets how many are kept with --keep-latest, \
                 and the newest good one stays whatever the number."
            }
            Self::NewestNotFailed | Self::NewestFinished => {
                "No argument and no setting changes that; it may go once a newer backup is finished."
            }
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
            Self::Newest { keep_latest: 1 } => f.write_str("it is the newest one"),
            Self::Newest { keep_latest } => write!(f, "it is one of the {keep_latest} newest"),
            Self::NewestNotFailed => f.write_str("it is the newest one that has not failed"),
            Self::NewestFinished => f.write_str("it may be the newest finished one"),
            Self::Undated => {
                f.write_str("its date cannot be read, so nobody can tell how new it is")
            }
            Self::InFuture => f.write_str(
                "its date is more than a day in the future, so nobody can tell how new it is",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};
    use serde_json::json;

    use super::{super::removal::evaluate, *};

    fn now() -> DateTime<Utc> {
        "2026-07-01T00:00:00Z".parse().unwrap()
    }

    fn backup(number: usize, created_at: &str, state: Option<&str>) -> Backup {
        serde_json::from_value(json!({
            "id": format!("00000000-0000-4000-8000-{number:012}"),
            "created_at": created_at,
            "status": { "state": state },
        }))
        .unwrap()
    }

    /// Backups made at these times, of which the first has the highest id.
    fn dated(dates: &[&str]) -> Vec<Backup> {
        let numbers = (0..dates.len()).rev();
        numbers
            .zip(dates)
            .map(|(number, date)| backup(number, date, Some("READY")))
            .collect()
    }

    /// Backups in these states, each a day younger than the one before.
    fn list(states: &[&str]) -> Vec<Backup> {
        (1..)
            .zip(states)
            .map(|(day, state)| backup(day, &format!("2026-06-{day:02}"), Some(state)))
            .collect()
    }

    fn protections(backups: &[Backup], keep_latest: usize) -> Vec<Option<Protection>> {
        super::protections(backups, keep_latest, now())
    }

    const NEWEST: Option<Protection> = Some(Protection::Newest { keep_latest: 1 });

    #[test]
    fn the_newest_stay_and_the_others_may_go() {
        use Protection::{Newest, NewestNotFailed};
        let backups = list(&["READY"; 4]);
        assert_eq!(protections(&backups, 1), [None, None, None, NEWEST]);
        let two = Some(Newest { keep_latest: 2 });
        assert_eq!(protections(&backups, 2), [None, None, two, two]);
        assert_eq!(
            protections(&backups, 0),
            [None, None, None, Some(NewestNotFailed)]
        );
        let many = Some(Newest { keep_latest: 9 });
        assert_eq!(protections(&backups, 9), [many; 4]);
        assert_eq!(protections(&[], 1), []);
    }

    #[test]
    fn behind_failed_and_unfinished_ones_the_last_good_one_stays() {
        use Protection::{NewestFinished, NewestNotFailed};
        let backups = list(&["READY", "READY", "QUEUED", "DEPLOYMENT_ERROR"]);
        assert_eq!(
            protections(&backups, 1),
            [None, Some(NewestFinished), Some(NewestNotFailed), NEWEST]
        );
    }

    #[test]
    fn the_newest_is_found_wherever_it_stands() {
        let found = |backups: &[Backup]| newest(backups, now()).map(|it| it.created_at.clone());
        let mut backups = list(&["READY"; 3]);
        backups.swap(0, 2);
        backups.push(backup(9, "soon", None));
        backups.push(backup(9, "2999-01-01", None));
        assert_eq!(found(&backups).as_deref(), Some("2026-06-03"));
        assert_eq!(found(&dated(&["soon"])).as_deref(), Some("soon"));
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn each_protection_says_what_it_protects_and_who_can_lift_it() {
        let kept = Protection::Newest { keep_latest: 3 };
        for (protection, words, remedy) in [
            (kept, "one of the 3 newest", "--keep-latest"),
            (
                Protection::Newest { keep_latest: 1 },
                "the newest one",
                "--keep-latest",
            ),
            (
                Protection::NewestNotFailed,
                "has not failed",
                "once a newer backup is finished",
            ),
            (
                Protection::NewestFinished,
                "newest finished one",
                "once a newer backup is finished",
            ),
            (
                Protection::Undated,
                "cannot be read",
                "once Qovery gives it a date",
            ),
            (
                Protection::InFuture,
                "in the future",
                "once that date is past",
            ),
        ] {
            assert!(protection.to_string().contains(words), "{protection}");
            assert!(protection.remedy().contains(remedy), "{protection}");
            let by_operator = matches!(protection, Protection::Newest { .. });
            assert_eq!(protection.remedy().contains("--"), by_operator);
        }
    }

    #[test]
    fn what_qovery_removes_already_is_no_restore_point() {
        for state in ["DELETED", "DELETE_QUEUED", "DELETING", "WAITING_DELETING"] {
            let backups = list(&["READY", state]);
            assert!(
                Condition::of(&backups[1]) == Condition::BeingRemoved,
                "{state}"
            );
            assert_eq!(
                protections(&backups, 0),
                [Some(Protection::NewestNotFailed), None]
            );
        }
        assert!(Condition::of(&list(&["DELETE_ERROR"])[0]) != Condition::BeingRemoved);
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
            assert_eq!(protections(&backups, 1), [None, None, NEWEST], "{newest}");
        }
    }

    #[test]
    fn what_has_no_date_stays_and_exposes_nothing_else() {
        use Protection::{InFuture, Undated};
        for (odd, protection) in [("", Undated), ("soon", Undated), ("2999-01-01", InFuture)] {
            let backups = dated(&[odd, "2026-06-01", "2026-06-02"]);
            let odd = Some(protection);
            assert_eq!(protections(&backups, 1), [odd, None, NEWEST]);
            let two = Some(Protection::Newest { keep_latest: 2 });
            assert_eq!(protections(&backups, 2), [odd, two, two]);
            let good = Some(Protection::NewestNotFailed);
            assert_eq!(protections(&backups, 0), [odd, None, good]);
        }
        assert_eq!(
            protections(&dated(&["", "soon", "2999-01-01"]), 0),
            [Some(Undated), Some(Undated), Some(InFuture)]
        );
        // A day is as far as clocks and zones may be wrong.
        let backups = dated(&["2026-06-30", "2026-07-02T00:00:00Z"]);
        assert_eq!(protections(&backups, 1), [None, NEWEST]);
    }

    #[test]
    fn what_is_in_an_unknown_state_is_protected_and_protects_nothing_else() {
        use Protection::{NewestFinished, NewestNotFailed};
        for state in ["A_STATE_OF_TOMORROW", "UNAVAILABLE", "STOPPED"] {
            assert_eq!(
                protections(&list(&["READY", "READY", state]), 0),
                [None, Some(NewestFinished), Some(NewestNotFailed)]
            );
        }
        let mut backups = list(&["READY", "READY"]);
        backups.push(backup(3, "2026-06-03", None));
        assert_eq!(
            protections(&backups, 0),
            [None, Some(NewestFinished), Some(NewestNotFailed)]
        );
    }

    /// The newest that counts as good is no less protected because it is not surely finished.
    #[test]
    fn behind_an_unfinished_one_both_what_counts_as_good_and_what_is_stay() {
        use Protection::{NewestFinished, NewestNotFailed};
        let backups = list(&["READY", "READY", "A_STATE_OF_TOMORROW", "QUEUED"]);
        assert_eq!(
            protections(&backups, 0),
            [
                None,
                Some(NewestFinished),
                Some(NewestFinished),
                Some(NewestNotFailed)
            ]
        );
    }

    #[test]
    fn backups_of_one_instant_stay_together() {
        let tied = dated(&["2026-06-02", "2026-06-02T02:00:00+02:00", "2026-06-01"]);
        assert_eq!(protections(&tied, 1), [NEWEST, NEWEST, None]);
        let good = Some(Protection::NewestNotFailed);
        assert_eq!(protections(&tied, 0), [good, good, None]);
        let edge = dated(&["2026-06-03", "2026-06-02", "2026-06-02", "2026-06-01"]);
        let two = Some(Protection::Newest { keep_latest: 2 });
        assert_eq!(protections(&edge, 2), [two, two, two, None]);
    }

    /// Lists with every kind of state and date, of which many are the same.
    fn any_list() -> impl Strategy<Value = Vec<Backup>> {
        prop::collection::vec((any_date(), any_state()), 1..12).prop_map(|rows| {
            (0..)
                .zip(rows)
                .map(|(number, (date, state))| backup(number, &date, state))
                .collect()
        })
    }

    fn any_date() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => (1_u32..9).prop_map(|day| format!("2026-06-{day:02}T00:00:00Z")),
            1 => no_date(),
        ]
    }

    fn no_date() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["", "soon", "0001-01-01T00:00:00Z", "2999-01-01"])
            .prop_map(str::to_owned)
    }

    fn any_state() -> impl Strategy<Value = Option<&'static str>> {
        prop::option::of(prop::sample::select(vec![
            "READY",
            "DEPLOYED",
            "QUEUED",
            "EXECUTING",
            "DEPLOYMENT_ERROR",
            "CANCELED",
            "DELETING",
            "NEW",
            "UNAVAILABLE",
        ]))
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
            let has = |backups: &[Backup], conditions: &[Condition]| {
                backups.iter().any(|backup| conditions.contains(&Condition::of(backup)))
            };
            let good = [Condition::Finished];
            let maybe = [Condition::Finished, Condition::Unknown];
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
            prop_assert_eq!(has(&backups, &good), has(&before, &good));
            prop_assert_eq!(has(&backups, &maybe), has(&before, &maybe));
            prop_assert!(backups.len() >= keep_latest.min(before.len()));
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
            let evaluate = |wanted: &[_]| evaluate(database, &backups, wanted, keep_latest, now());
            let refused = wanted.iter().any(|id| evaluate(&[*id]).is_err());
            let twice = (1..wanted.len()).any(|at| wanted[..at].contains(&wanted[at]));
            let batch = evaluate(&wanted);
            prop_assert_eq!(batch.is_err(), refused || twice);
            let is_finished = |backup: &&Backup| Condition::of(backup) == Condition::Finished;
            let newest_finished = newest(backups.iter().filter(is_finished), now());
            if let Ok(plan) = batch {
                prop_assert_eq!(plan.remaining, backups.len() - wanted.len());
                prop_assert!(plan.remaining >= keep_latest.min(backups.len()));
                let left = plan.newest_finished.map(|backup| backup.created_at);
                prop_assert_eq!(left.as_ref(), newest_finished.map(|backup| &backup.created_at));
            }
        }

        #[test]
        fn the_newest_is_protected_whatever_stands_beside_it(
            mut backups in any_list(),
            (odd, state) in (any_date(), any_state()),
            keep_latest in 1_usize..4,
        ) {
            backups.push(backup(99, &odd, state));
            let protections = protections(&backups, keep_latest);
            let readable = backups.iter().filter_map(|it| date(it, now()).ok());
            let newest = readable.max();
            for (backup, protection) in backups.iter().zip(protections) {
                let date = date(backup, now()).ok();
                prop_assert!(date.is_some() && date != newest || protection.is_some());
            }
        }

        #[test]
        fn a_date_that_is_lost_exposes_no_backup(
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
        fn a_row_without_a_date_changes_nothing_for_the_others(
            mut backups in any_list(),
            (odd, state) in (no_date(), any_state()),
            keep_latest in 0_usize..4,
        ) {
            let before = protections(&backups, keep_latest);
            backups.insert(0, backup(99, &odd, state));
            let after = protections(&backups, keep_latest);
            prop_assert!(after[0].is_some());
            prop_assert_eq!(&after[1..], before);
        }

        #[test]
        fn what_differs_in_id_and_place_alone_stays_or_goes_together(
            backups in any_list(),
            keep_latest in 0_usize..4,
        ) {
            let protections = protections(&backups, keep_latest);
            let rows = || backups.iter().zip(&protections);
            for (one, its) in rows() {
                for (other, others) in rows() {
                    let same = one.created_at == other.created_at && Condition::of(one) == Condition::of(other);
                    prop_assert!(!same || its == others);
                }
            }
        }
    }
}
