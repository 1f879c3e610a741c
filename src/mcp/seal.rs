//! Seals the `requestState` that a client carries from a question to its answer, so that it cannot be
//! forged (MCP, "Multi Round-Trip Requests").
//!
//! A state is valid for one caller and one call's arguments, for a limited time. It can be opened more
//! than once; [`Questions`](super::questions) makes its answer count once.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rmcp::{
    ErrorData,
    model::{RequestStateCodec, RequestStateError, SealOptions},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::results::Refusal;
use crate::backups::ConfirmedFacts;

/// Seals and opens request states.
#[derive(Clone, Debug)]
pub struct Seal(RequestStateCodec);

/// Why keys are refused.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A key is too short.
    #[error("must be a secret of at least 32 characters, or several, one a line")]
    TooShort,
    /// The same key twice.
    #[error("has the same key twice: remove one")]
    Repeated,
}

impl Seal {
    /// Seals with the first of these keys, one a line, and opens with all of them.
    ///
    /// # Errors
    ///
    /// Any [`SealError`].
    pub fn parse(keys: &SecretString) -> Result<Self, SealError> {
        let keys: Vec<&str> = keys.expose_secret().lines().map(str::trim).collect();
        let is_short = |key: &&str| key.len() < RequestStateCodec::MIN_KEY_LENGTH;
        let active = keys.first().ok_or(SealError::TooShort)?;
        if keys.iter().any(is_short) {
            return Err(SealError::TooShort);
        }
        // Derived from the key, so that replicas agree on it wherever the key stands in the list.
        let id = |key: &str| {
            let digest = Sha256::digest(["key id", key].concat());
            URL_SAFE_NO_PAD.encode(&digest[..6])
        };
        let ring = keys.iter().map(|key| (id(key), key.as_bytes()));
        // With ids and lengths in order, only a repeated key is refused.
        RequestStateCodec::new_with_keyring(id(active), ring)
            .map(Self)
            .map_err(|_| SealError::Repeated)
    }

    /// Seals with a random key, which ends with the process.
    ///
    /// # Errors
    ///
    /// When the system has no randomness to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut key = [0; RequestStateCodec::MIN_KEY_LENGTH];
        getrandom::fill(&mut key)?;
        Ok(Self(RequestStateCodec::new_unchecked(key)))
    }

    /// Seals the facts of a question for `ttl`, bound to the `associated` data.
    pub(super) fn seal(&self, facts: &ConfirmedFacts, associated: &[u8], ttl: Duration) -> String {
        let options = SealOptions::new().associated_data(associated).ttl(ttl);
        self.0
            .seal_with(json!(facts).to_string().as_bytes(), &options)
    }

    /// Opens a state that was sealed with the same `associated` data and has not expired.
    pub(super) fn open(&self, state: &str, associated: &[u8]) -> Result<ConfirmedFacts, Refusal> {
        let opened = self.0.open_with(state, associated);
        let facts = opened.map_err(|error| match error {
            RequestStateError::Expired => Refusal::in_band(REFUSED, &EXPIRED),
            _ => invalid(),
        })?;
        serde_json::from_slice(&facts).map_err(|_| invalid())
    }
}

/// The outcome's label in logs and metrics.
const REFUSED: &str = "state_refused";

const EXPIRED: &str = "The answer came too late. Nothing was removed. If the person still wants \
                       it, call the tool again.";

fn invalid() -> Refusal {
    let message = "The requestState is not one that this server gave to this caller for these \
                   arguments. Nothing was removed. Call the tool again without it. Where several \
                   replicas serve, the operator has to give all of them the same \
                   QOVERY_BACKUPS_STATE_KEY.";
    Refusal::protocol(REFUSED, ErrorData::invalid_params(message, None))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn facts() -> ConfirmedFacts {
        serde_json::from_value(json!({ "conditions": ["failed"], "stays": null })).unwrap()
    }

    const OLD: &str = "the-old-key-of-thirty-two-letters";
    const NEW: &str = "the-new-key-of-thirty-two-letters";

    fn seal(keys: &str) -> Seal {
        Seal::parse(&keys.to_owned().into()).unwrap()
    }

    #[test]
    fn keys_rotate_without_losing_a_question() {
        let (old, both, new) = (seal(OLD), seal(&format!("{NEW}\n{OLD}")), seal(NEW));
        let facts = facts();
        assert_eq!(
            both.open(&old.seal(&facts, b"a", MINUTE), b"a").ok(),
            Some(facts.clone())
        );
        assert_eq!(
            new.open(&both.seal(&facts, b"a", MINUTE), b"a").ok(),
            Some(facts.clone())
        );
        assert!(new.open(&old.seal(&facts, b"a", MINUTE), b"a").is_err());
        assert!(both.open(&old.seal(&facts, b"a", MINUTE), b"b").is_err());
    }

    /// What a state becomes with a bit of its text flipped, or of what its parts decode to; and some
    /// shorter and longer ones.
    fn forgeries(state: &str) -> BTreeSet<String> {
        let flips = |bytes: &[u8]| {
            let bytes = bytes.to_vec();
            (0..bytes.len() * 8).map(move |bit| {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            })
        };
        let mut forged: BTreeSet<String> = flips(state.as_bytes())
            .filter_map(|bytes| String::from_utf8(bytes).ok())
            .collect();
        let parts: Vec<&str> = state.split('.').collect();
        for (position, part) in parts.iter().enumerate().skip(1) {
            for bytes in flips(&URL_SAFE_NO_PAD.decode(part).unwrap()) {
                let part = URL_SAFE_NO_PAD.encode(bytes);
                let mut parts = parts.clone();
                parts[position] = &part;
                forged.insert(parts.join("."));
            }
        }
        forged.extend((0..state.len()).map(|length| state[..length].to_owned()));
        forged.extend(["A", "=", ".", " ", "\0"].map(|more| format!("{state}{more}")));
        let (body, tag) = (parts[parts.len() - 2], parts[parts.len() - 1]);
        let elsewhere = ["rs1", "rs2", "rs2.", "rs1.AA", "rs2.AA"];
        forged.extend(elsewhere.map(|version| format!("{version}.{body}.{tag}")));
        forged.remove(state);
        forged
    }

    #[test]
    fn a_state_with_a_changed_bit_is_refused() {
        for seal in [Seal::random().unwrap(), seal(OLD)] {
            let state = seal.seal(&facts(), b"a", MINUTE);
            let forged = forgeries(&state);
            assert!(forged.len() > 1000, "{}", forged.len());
            for forged in forged {
                let opened = seal.open(&forged, b"a");
                assert!(opened.is_err(), "{forged} for {state}");
            }
            assert_eq!(seal.open(&state, b"a").ok(), Some(facts()));
            assert!(Seal::random().unwrap().open(&state, b"a").is_err());
        }
    }

    #[test]
    fn an_expired_state_is_refused() {
        let seal = Seal::random().unwrap();
        let sealed = seal.seal(&facts(), b"a", Duration::ZERO);
        // It is valid to the end of its millisecond.
        while seal.open(&sealed, b"a").is_ok() {}
        // In-band for the model, which did nothing wrong; a forged one is the client's fault.
        let error = |associated: &[u8]| seal.open(&sealed, associated).unwrap_err().error;
        assert!(error(b"a").is_ok());
        assert!(error(b"b").is_err());
    }

    #[test]
    fn a_key_is_long_and_not_repeated() {
        let error = |keys: &str| Seal::parse(&keys.to_owned().into()).unwrap_err();
        assert!(matches!(error(""), SealError::TooShort));
        assert!(matches!(error("short"), SealError::TooShort));
        assert!(matches!(
            error(&format!("{NEW}\nshort")),
            SealError::TooShort
        ));
        assert!(matches!(
            error(&format!("{NEW}\n{NEW}")),
            SealError::Repeated
        ));
    }
}
