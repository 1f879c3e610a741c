//! Limits the questions that a host is asked for a caller: one at a time and seldom about a backup, so that
//! a person does not stop reading them; and an answer counts once.

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
use crate::{context::Caller, limits::Limits, qovery::BackupId};

/// Questions and answers of this process.
#[derive(Debug)]
pub(super) struct Questions {
    limits: Arc<Limits>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The backups with an open question.
    open: HashSet<BackupId>,
    /// When a question about a backup was put for a caller.
    prompts: HashMap<(CallerKey, BackupId), VecDeque<Instant>>,
    /// The outcomes of answers and when they came, by the digest of their request state.
    answers: HashMap<[u8; 32], (Instant, CallerKey, AnswerOutcome)>,
}

/// The name of an access token or key. All callers without one are the same: a client can claim any name.
type CallerKey = Option<Arc<str>>;

/// The final reply to an answer, once there is one. The same answer gets it again.
pub(super) type AnswerOutcome = Arc<OnceCell<Reply>>;

/// An open question. Dropping it allows the next one about its backups.
#[derive(Debug)]
pub(super) struct OpenQuestion<'a> {
    questions: &'a Questions,
    backups: Vec<BackupId>,
}

/// Backups and answers on record, which bounds the memory. One caller gets half of them.
const MAX_RECORDS: usize = 4096;

impl Questions {
    pub(super) fn new(limits: Arc<Limits>) -> Self {
        let state = Mutex::default();
        Self { limits, state }
    }

    /// Opens a question about backups, unless one of them has an open question or had too many.
    pub(super) fn open(
        &self,
        caller: &Caller,
        backups: &[BackupId],
    ) -> Result<OpenQuestion<'_>, Refusal> {
        let now = Instant::now();
        let mut state = self.state.lock();
        self.check_at(now, &mut state, caller, backups)?;
        for backup in backups {
            let key = (caller_key(caller), *backup);
            state.prompts.entry(key).or_default().push_back(now);
            state.open.insert(*backup);
        }
        Ok(OpenQuestion {
            questions: self,
            backups: backups.to_owned(),
        })
    }

    /// Checks that a question could be opened now.
    pub(super) fn check(&self, caller: &Caller, backups: &[BackupId]) -> Result<(), Refusal> {
        self.check_at(Instant::now(), &mut self.state.lock(), caller, backups)
    }

    fn check_at(
        &self,
        now: Instant,
        state: &mut State,
        caller: &Caller,
        backups: &[BackupId],
    ) -> Result<(), Refusal> {
        let caller = caller_key(caller);
        let (max_prompts, prompt_window) = (self.limits.max_prompts, self.limits.prompt_window);
        if let Some(open) = backups.iter().find(|backup| state.open.contains(backup)) {
            return Err(not_asked(&format!(
                "A question about backup {open} is open already. Nothing was removed by this call."
            )));
        }
        state.prompts.retain(|_, times| {
            times.retain(|time| now.duration_since(*time) < prompt_window);
            !times.is_empty()
        });
        // The backup that can be asked about last decides.
        let exhausted = backups.iter().filter_map(|backup| {
            let times = state.prompts.get(&(caller.clone(), *backup))?;
            let first = times.front().filter(|_| times.len() >= max_prompts)?;
            Some((*first, backup))
        });
        if let Some((first, backup)) = exhausted.max() {
            let pause = prompt_window.saturating_sub(now.duration_since(first));
            let pause = pause + Duration::from_secs(1);
            return Err(not_asked(&format!(
                "The host was asked about backup {backup} {} times in {} minutes. Nothing was \
                 removed. It can be asked again in {} seconds, at {}. Stop, and tell the person.",
                max_prompts,
                prompt_window.as_secs().div_ceil(60),
                pause.as_secs(),
                (Utc::now() + pause).format("%H:%M:%S UTC"),
            )));
        }
        if is_full(state.prompts.keys().map(|(owner, _)| owner), &caller) {
            return Err(not_asked(
                "Too many questions were put. Nothing was removed. Try later.",
            ));
        }
        Ok(())
    }

    /// The outcome of the answer that came with a sealed request state.
    pub(super) fn outcome(
        &self,
        caller: &Caller,
        request_state: &str,
    ) -> Result<AnswerOutcome, Refusal> {
        let now = Instant::now();
        let mut state = self.state.lock();
        // A state that is older than that does not open.
        let kept = self.limits.answer_timeout + Duration::from_secs(1);
        let answers = &mut state.answers;
        answers.retain(|_, (since, ..)| now.duration_since(*since) < kept);
        let key = Sha256::digest(request_state).into();
        let caller = caller_key(caller);
        let owners = answers.values().map(|(_, owner, _)| owner);
        if is_full(owners, &caller) && !answers.contains_key(&key) {
            return Err(not_asked(
                "Too many answers came at once. Nothing was removed. Try again in five minutes.",
            ));
        }
        let entry = answers.entry(key);
        let (.., outcome) = entry.or_insert_with(|| (now, caller, Arc::default()));
        Ok(Arc::clone(outcome))
    }
}

impl Drop for OpenQuestion<'_> {
    fn drop(&mut self) {
        let mut state = self.questions.state.lock();
        for backup in &self.backups {
            state.open.remove(backup);
        }
    }
}

/// Whether all records are taken, or half of them by this caller.
fn is_full<'a>(owners: impl Iterator<Item = &'a CallerKey>, caller: &CallerKey) -> bool {
    let (own, others): (Vec<_>, Vec<_>) = owners.partition(|owner| *owner == caller);
    own.len() >= MAX_RECORDS / 2 || own.len() + others.len() >= MAX_RECORDS
}

fn caller_key(caller: &Caller) -> CallerKey {
    caller.own_name().cloned()
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

    fn text(refusal: Refusal) -> String {
        refusal.error.unwrap()
    }

    #[test]
    fn a_backup_has_one_open_question_and_few_of_them() {
        let questions = Questions::new(Arc::default());
        let open = |number| questions.open(&Caller::Anonymous, &[id(number)]);
        let first = open(0).unwrap();
        assert!(text(open(0).unwrap_err()).contains("is open already"));
        drop(first);
        drop(open(0).unwrap());
        drop(open(0).unwrap());
        let refusal = text(open(0).unwrap_err());
        assert!(refusal.contains("3 times in 10 minutes"), "{refusal}");
        assert!(refusal.contains(" UTC"), "{refusal}");
        assert!(open(1).is_ok(), "another backup is another question");
        let both = |one, other| questions.open(&Caller::Anonymous, &[id(one), id(other)]);
        let refusal = text(both(2, 0).unwrap_err());
        assert!(refusal.contains(&id(0).to_string()), "{refusal}");
        let several = both(2, 3).unwrap();
        assert!(text(open(3).unwrap_err()).contains("is open already"));
        drop(several);
        drop((both(2, 3).unwrap(), both(3, 4).is_err()));
        drop(both(3, 4).unwrap());
        assert!(
            open(3).is_err(),
            "a question about several counts for each of them"
        );
        assert!(open(2).is_ok() && open(4).is_ok());

        let soon = Limits {
            prompt_window: Duration::ZERO,
            ..Limits::default()
        };
        let questions = Questions::new(Arc::new(soon));
        let open = || questions.open(&Caller::Anonymous, &[id(0)]);
        assert!((0..9).all(|_| open().is_ok()));
    }

    #[test]
    fn records_are_bounded() {
        let questions = Questions::new(Arc::default());
        let tokens = ["ada", "ben", "eve"].map(|name| Caller::Token(name.into()));
        let open = |caller: &Caller, number| questions.open(caller, &[id(number)]);
        for caller in &tokens[..2] {
            let half = MAX_RECORDS / 2;
            assert!((0..half).all(|number| open(caller, number).is_ok()));
            assert!(text(open(caller, half).unwrap_err()).contains("Too many"));
        }
        assert!(text(open(&tokens[2], 0).unwrap_err()).contains("Too many"));
        let outcome = |caller: &Caller, number: usize| {
            questions.outcome(caller, &format!("{caller:?} {number}"))
        };
        for caller in &tokens[..2] {
            let half = MAX_RECORDS / 2;
            assert!((0..half).all(|number| outcome(caller, number).is_ok()));
            assert!(text(outcome(caller, half).unwrap_err()).contains("Too many"));
            assert!(outcome(caller, 0).is_ok(), "a known answer has its outcome");
        }
        assert!(text(outcome(&tokens[2], 0).unwrap_err()).contains("Too many"));
    }

    #[test]
    fn one_caller_cannot_use_up_the_questions_of_another() {
        let questions = Questions::new(Arc::default());
        let (ada, ben) = (Caller::Token("ada".into()), Caller::Token("ben".into()));
        let claimed = |name: &str| Caller::Client(name.into());
        assert!((0..3).all(|_| questions.open(&ada, &[id(0)]).is_ok()));
        assert!(questions.check(&ada, &[id(0)]).is_err());
        assert!(questions.check(&ben, &[id(0)]).is_ok());
        // A client can claim any name, so that all without a token are one.
        let open = |name| questions.open(&claimed(name), &[id(0)]).map(drop);
        assert!(["a", "b", "c"].into_iter().all(|name| open(name).is_ok()));
        assert!(open("d").is_err());
    }

    #[test]
    fn an_answer_has_one_outcome() {
        let questions = Questions::new(Arc::default());
        let outcome = |state| questions.outcome(&Caller::Anonymous, state).unwrap();
        assert!(Arc::ptr_eq(&outcome("a"), &outcome("a")));
        assert!(!Arc::ptr_eq(&outcome("a"), &outcome("b")));
    }
}
