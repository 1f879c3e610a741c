//! The questions that people were asked lately: a person who is asked again and again stops reading,
//! and an answer counts once.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use chrono::Utc;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::{sync::OnceCell, time::Instant};

use super::results::{Refusal, Reply};
use crate::{
    backups::Fingerprint,
    context::Caller,
    limits::Limits,
    qovery::BackupId,
    shares::{Permit, Shares},
};

/// Questions and answers of this process.
#[derive(Debug)]
pub(super) struct Questions {
    /// How many may wait for an answer over a connection: each holds a call, for minutes.
    waiting: Shares,
    most: usize,
    period: Duration,
    patience: Duration,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    /// The backups about which a question waits.
    open: HashSet<BackupId>,
    /// When somebody was asked about a backup.
    asked: HashMap<BackupId, VecDeque<Instant>>,
    /// What came of an answer, by the state that came with it, and since when.
    answered: HashMap<Fingerprint, (Instant, Answered)>,
}

/// What came of an answer, once something final has. Whoever sends it again gets the same.
pub(super) type Answered = Arc<OnceCell<Reply>>;

/// A question that is asked. Another one can be asked about its backups when it is dropped.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    questions: &'a Questions,
    backups: Vec<BackupId>,
    _permit: Permit,
}

/// Backups and answers that are remembered: enough for any person, and little memory.
const REMEMBERED: usize = 4096;

impl Questions {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            waiting: Shares::new(32),
            most: limits.max_prompts,
            period: limits.prompt_window,
            patience: limits.answer_timeout,
            book: Mutex::default(),
        }
    }

    /// Asks about backups, unless somebody is being asked about one of them, or was often enough.
    pub(super) fn ask(&self, caller: &Caller, backups: &[BackupId]) -> Result<Asking<'_>, Refusal> {
        let now = Instant::now();
        let mut book = self.book.lock();
        if let Some(open) = backups.iter().find(|backup| book.open.contains(backup)) {
            let reason = format!(
                "A question about backup {open} is open already. Nothing was removed by this call."
            );
            return Err(not_asked(&reason));
        }
        book.asked.retain(|_, times| {
            times.retain(|time| now.duration_since(*time) < self.period);
            !times.is_empty()
        });
        // The last of them that can be asked about again decides.
        let often = backups.iter().filter_map(|backup| {
            let times = book.asked.get(backup)?;
            let first = times.front().filter(|_| times.len() >= self.most)?;
            Some((*first, backup))
        });
        if let Some((first, backup)) = often.max() {
            let pause = self.period.saturating_sub(now.duration_since(first));
            let reason = format!(
                "The host was asked about backup {backup} {} times in {} minutes. Nothing was \
                 removed. It can be asked again in {} seconds, at {}. Stop, and tell the person.",
                self.most,
                self.period.as_secs().div_ceil(60),
                pause.as_secs() + 1,
                (Utc::now() + pause + Duration::from_secs(1)).format("%H:%M:%S UTC"),
            );
            return Err(not_asked(&reason));
        }
        let permit = self.waiting.reserve(caller.token_name(), 1);
        let Some(permit) = permit.filter(|_| book.asked.len() < REMEMBERED) else {
            return Err(not_asked(
                "Too many questions wait for an answer. Nothing was removed. Try later.",
            ));
        };
        for backup in backups {
            book.asked.entry(*backup).or_default().push_back(now);
            book.open.insert(*backup);
        }
        Ok(Asking {
            questions: self,
            backups: backups.to_owned(),
            _permit: permit,
        })
    }

    /// What came of the answer that belongs to a sealed state, or a place for it.
    pub(super) fn answer(&self, state: &str) -> Result<Answered, Refusal> {
        let now = Instant::now();
        let mut book = self.book.lock();
        // No state can be opened any longer than that.
        let kept = self.patience + Duration::from_secs(1);
        book.answered
            .retain(|_, (since, _)| now.duration_since(*since) < kept);
        let key = Sha256::digest(state).into();
        if book.answered.len() >= REMEMBERED && !book.answered.contains_key(&key) {
            return Err(not_asked(
                "Too many answers came at once. Nothing was removed. Try again in five minutes.",
            ));
        }
        let (_, answered) = book
            .answered
            .entry(key)
            .or_insert_with(|| (now, Answered::default()));
        Ok(Arc::clone(answered))
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut book = self.questions.book.lock();
        for backup in &self.backups {
            book.open.remove(backup);
        }
    }
}

fn not_asked(reason: &str) -> Refusal {
    Refusal::in_band("not_asked", &reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> BackupId {
        format!("bac00000-0000-4000-8000-{number:012}")
            .parse()
            .unwrap()
    }

    fn reason(refusal: Refusal) -> String {
        format!("{:?}", refusal.response().unwrap())
    }

    #[test]
    fn a_person_is_asked_once_at_a_time_and_seldom_about_a_backup() {
        let questions = Questions::new(&Limits::default());
        let ask = |number| questions.ask(&Caller::Anonymous, &[id(number)]);
        let first = ask(0).unwrap();
        assert!(reason(ask(0).unwrap_err()).contains("is open already"));
        drop(first);
        drop(ask(0).unwrap());
        drop(ask(0).unwrap());
        let refusal = reason(ask(0).unwrap_err());
        assert!(refusal.contains("3 times in 10 minutes"), "{refusal}");
        assert!(refusal.contains(" UTC"), "{refusal}");
        assert!(ask(1).is_ok(), "another backup is another question");
        let both = |one, other| questions.ask(&Caller::Anonymous, &[id(one), id(other)]);
        let refusal = reason(both(2, 0).unwrap_err());
        assert!(refusal.contains(&id(0).to_string()), "{refusal}");
        let open = both(2, 3).unwrap();
        assert!(reason(ask(3).unwrap_err()).contains("is open already"));
        drop(open);
        drop((both(2, 3).unwrap(), both(3, 4).is_err()));
        drop(both(3, 4).unwrap());
        assert!(
            ask(3).is_err(),
            "a question about several counts for each of them"
        );
        assert!(ask(2).is_ok() && ask(4).is_ok());

        let soon = Limits {
            prompt_window: Duration::ZERO,
            ..Limits::default()
        };
        let questions = Questions::new(&soon);
        assert!((0..9).all(|_| questions.ask(&Caller::Anonymous, &[id(0)]).is_ok()));
    }

    #[test]
    fn one_caller_leaves_questions_for_others() {
        let questions = Questions::new(&Limits::default());
        let (ada, ben) = (Caller::Token("ada".into()), Caller::Token("ben".into()));
        let ask = |caller, numbers: std::ops::Range<usize>| {
            let asked = numbers.map_while(|number| questions.ask(caller, &[id(number)]).ok());
            asked.collect::<Vec<_>>()
        };
        let of_ada = ask(&ada, 0..32);
        assert_eq!(of_ada.len(), 16);
        assert_eq!(ask(&ben, 32..64).len(), 16);
        drop(of_ada);
        assert_eq!(ask(&ada, 64..65).len(), 1);
    }

    #[test]
    fn an_answer_has_one_outcome() {
        let questions = Questions::new(&Limits::default());
        let answered = |state| questions.answer(state).unwrap();
        assert!(Arc::ptr_eq(&answered("a"), &answered("a")));
        assert!(!Arc::ptr_eq(&answered("a"), &answered("b")));
    }
}
