//! What may be removed. A pure function of a database's complete list and the operator's number.

use std::{cmp::Reverse, fmt};

use chrono::{DateTime, FixedOffset};

use crate::qovery::{Backup, BackupId};

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
    /// It is the newest that can be restored from by now, as far as Qovery says.
    NewestFinished,
}

/// The rule that protects the backup `id`, if any does.
///
/// The newest `keep_latest` stay. Whatever that number is, three more stay: the newest backup that is
/// not known to have failed, the newest that is also not known to be unfinished, and the newest that
/// is known to be finished. They differ while a new backup is being made, or when its state says too
/// little; removing the older one then would bet on the new one.
pub(super) fn protection(
    backups: &[Backup],
    id: BackupId,
    keep_latest: usize,
) -> Option<Protection> {
    let mut newest_first: Vec<&Backup> = backups.iter().collect();
    newest_first.sort_by_key(|backup| Reverse(newness(backup)));
    let is_first = |known: fn(&Backup) -> bool| {
        newest_first
            .iter()
            .find(|backup| !known(backup))
            .is_some_and(|backup| backup.id == id)
    };
    if newest_first
        .iter()
        .take(keep_latest)
        .any(|backup| backup.id == id)
    {
        Some(Protection::Newest { keep_latest })
    } else if is_first(has_failed) {
        Some(Protection::NewestNotFailed)
    } else if is_first(|backup| has_failed(backup) || is_unfinished(backup))
        || is_first(|backup| !is_finished(backup))
    {
        Some(Protection::NewestFinished)
    } else {
        None
    }
}

/// The newest of some backups.
pub(super) fn newest(backups: &[Backup]) -> Option<&Backup> {
    backups.iter().max_by_key(|backup| newness(backup))
}

/// Whether Qovery is removing it, or has.
pub(super) fn is_going(backup: &Backup) -> bool {
    matches!(
        backup.state(),
        Some("DELETED" | "DELETE_QUEUED" | "DELETING" | "WAITING_DELETING")
    )
}

/// What a newer backup has more of. A date that cannot be read counts as newer than any other: the
/// backup is protected rather than sacrificed. Of two of one instant, one is the newer all the same.
fn newness(backup: &Backup) -> (bool, Option<DateTime<FixedOffset>>, BackupId) {
    let date = DateTime::parse_from_rfc3339(&backup.created_at).ok();
    (date.is_none(), date, backup.id)
}

/// Only states that Qovery documents today. One that is unknown or absent may be a good backup.
fn has_failed(backup: &Backup) -> bool {
    is_going(backup)
        || matches!(
            backup.state(),
            Some(
                "BUILD_ERROR"
                    | "CANCELED"
                    | "CANCELING"
                    | "DELETE_ERROR"
                    | "DEPLOYMENT_ERROR"
                    | "RESTART_ERROR"
                    | "STOP_ERROR"
            )
        )
}

fn is_unfinished(backup: &Backup) -> bool {
    matches!(
        backup.state(),
        Some(
            "BUILDING"
                | "DEPLOYING"
                | "DEPLOYMENT_QUEUED"
                | "EXECUTING"
                | "QUEUED"
                | "RESTARTING"
                | "RESTART_QUEUED"
                | "WAITING_RESTARTING"
                | "WAITING_RUNNING"
        )
    )
}

fn is_finished(backup: &Backup) -> bool {
    matches!(backup.state(), Some("DEPLOYED" | "READY" | "RESTARTED"))
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest { keep_latest: 1 } => f.write_str("it is the newest one"),
            Self::Newest { keep_latest } => write!(f, "it is one of the {keep_latest} newest"),
            Self::NewestNotFailed => f.write_str("it is the newest one that has not failed"),
            Self::NewestFinished => f.write_str(
                "it is the newest one that is surely finished, and newer ones may not be",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A backup made on a day of June, or with no readable date at all.
    fn backup(number: u32, day: Option<u32>, state: Option<&str>) -> Backup {
        serde_json::from_value(json!({
            "id": format!("00000000-0000-4000-8000-{number:012}"),
            "created_at": day.map_or("soon".to_owned(), |day| format!("2026-06-{day:02}T00:00:00Z")),
            "status": { "state": state },
        }))
        .unwrap()
    }

    fn list(states: &[&str]) -> Vec<Backup> {
        (1..)
            .zip(states)
            .map(|(day, state)| backup(day, Some(day), Some(state)))
            .collect()
    }

    fn protections(backups: &[Backup], keep_latest: usize) -> Vec<Option<Protection>> {
        backups
            .iter()
            .map(|backup| protection(backups, backup.id, keep_latest))
            .collect()
    }

    #[test]
    fn the_newest_stay_and_the_others_may_go() {
        use Protection::{Newest, NewestNotFailed};
        let backups = list(&["READY"; 4]);
        assert_eq!(
            protections(&backups, 1),
            [None, None, None, Some(Newest { keep_latest: 1 })]
        );
        let two = Some(Newest { keep_latest: 2 });
        assert_eq!(protections(&backups, 2), [None, None, two, two]);
        assert_eq!(
            protections(&backups, 0),
            [None, None, None, Some(NewestNotFailed)]
        );
    }

    #[test]
    fn behind_failed_and_unfinished_ones_the_last_good_one_stays() {
        use Protection::{Newest, NewestFinished, NewestNotFailed};
        let backups = list(&["READY", "READY", "QUEUED", "DEPLOYMENT_ERROR"]);
        assert_eq!(
            protections(&backups, 1),
            [
                None,
                Some(NewestFinished),
                Some(NewestNotFailed),
                Some(Newest { keep_latest: 1 })
            ]
        );
    }

    #[test]
    fn the_newest_is_found_wherever_it_stands() {
        let mut backups = list(&["READY"; 3]);
        backups.swap(0, 2);
        assert_eq!(newest(&backups).unwrap().created_at, "2026-06-03T00:00:00Z");
        assert!(newest(&[]).is_none());
    }

    #[test]
    fn each_protection_says_what_it_protects() {
        let kept = Protection::Newest { keep_latest: 3 };
        assert_eq!(kept.to_string(), "it is one of the 3 newest");
        for (protection, words) in [
            (Protection::Newest { keep_latest: 1 }, "the newest one"),
            (Protection::NewestNotFailed, "has not failed"),
            (Protection::NewestFinished, "surely finished"),
        ] {
            assert!(protection.to_string().contains(words), "{protection}");
        }
    }

    #[test]
    fn what_qovery_removes_already_is_no_restore_point() {
        for state in ["DELETED", "DELETE_QUEUED", "DELETING", "WAITING_DELETING"] {
            let backups = list(&["READY", state]);
            assert!(is_going(&backups[1]), "{state}");
            assert_eq!(
                protections(&backups, 0),
                [Some(Protection::NewestNotFailed), None]
            );
        }
        assert!(!is_going(&list(&["DELETE_ERROR"])[0]));
    }

    #[test]
    fn the_order_of_the_list_and_the_offset_of_a_date_do_not_matter() {
        let mut backups = list(&["READY"; 3]);
        backups.reverse();
        // 23:30 on the 3rd in UTC: later than midnight of the 3rd, though it reads as the 4th.
        backups[2].created_at = "2026-06-04T01:30:00+02:00".to_owned();
        let newest = Some(Protection::Newest { keep_latest: 1 });
        assert_eq!(protections(&backups, 1), [None, None, newest]);
    }

    #[test]
    fn what_is_unknown_is_protected_and_protects_nothing_else() {
        use Protection::{NewestFinished, NewestNotFailed};
        let states = ["READY", "READY", "A_STATE_OF_TOMORROW"];
        for state in [Some("UNAVAILABLE"), Some("STOPPED"), None] {
            let mut backups = list(&states);
            backups.push(backup(9, None, state));
            assert_eq!(
                protections(&backups, 0),
                [None, Some(NewestFinished), None, Some(NewestNotFailed)]
            );
        }
        assert_eq!(
            protections(&list(&states), 0),
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
    fn backups_of_one_instant_have_one_newest() {
        let backups = [backup(1, Some(1), None), backup(2, Some(1), None)];
        let kept = protections(&backups, 1);
        assert_eq!(kept, [None, Some(Protection::Newest { keep_latest: 1 })]);
    }

    proptest! {
        /// Removes whatever may be removed until nothing may: what is left can be restored from,
        /// if anything could be.
        #[test]
        fn no_sequence_of_removals_takes_the_last_good_backup(
            states in prop::collection::vec(
                prop::option::of(prop::sample::select(vec![
                    "READY", "DEPLOYED", "QUEUED", "EXECUTING", "DEPLOYMENT_ERROR", "CANCELED", "NEW",
                    "UNAVAILABLE",
                ])),
                1..12,
            ),
            days in prop::collection::vec(prop::option::of(1_u32..28), 12),
            keep_latest in 0_usize..4,
        ) {
            let mut backups: Vec<Backup> = (0..)
                .zip(states.iter().zip(&days))
                .map(|(number, (state, day))| backup(number, *day, *state))
                .collect();
            let good = |backups: &[Backup]| backups.iter().filter(|b| is_finished(b)).count();
            let maybe = |backups: &[Backup]| {
                backups.iter().filter(|b| !has_failed(b) && !is_unfinished(b)).count()
            };
            let before = backups.len();
            let (good_before, maybe_before) = (good(&backups), maybe(&backups));
            while let Some(position) =
                protections(&backups, keep_latest).iter().position(Option::is_none)
            {
                backups.remove(position);
            }
            prop_assert!(good(&backups) >= good_before.min(1));
            prop_assert!(maybe(&backups) >= maybe_before.min(1));
            prop_assert!(backups.len() >= keep_latest.min(before));
        }
    }
}
