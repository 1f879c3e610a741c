//! What a client carries from a question to its answer, sealed so that nobody can make it up.
//!
//! The seal holds for one caller and one call's arguments, for as long as a person may take. It can be
//! opened more than once; what came of the first answer is kept by [`Questions`](super::questions).

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rmcp::{
    ErrorData,
    model::{RequestStateCodec, RequestStateError, SealOptions},
};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};

use super::results::Refusal;
use crate::backups::Fingerprint;

const TOO_LATE: &str = "The answer came too late. Nothing was removed. If the person still wants \
                        it, call the tool again.";

/// Seals what a client carries from the question to the answer (MCP, "Multi Round-Trip Requests").
#[derive(Clone, Debug)]
pub struct Seal(RequestStateCodec);

/// Keys that seal nothing.
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
        // The same on every replica, wherever the key stands in the list.
        let id = |key: &str| {
            let digest = Sha256::digest(["key id", key].concat());
            URL_SAFE_NO_PAD.encode(&digest[..6])
        };
        if keys.is_empty()
            || keys
                .iter()
                .any(|key| key.len() < RequestStateCodec::MIN_KEY_LENGTH)
        {
            return Err(SealError::TooShort);
        }
        let active = keys.first().map_or_else(String::new, |key| id(key));
        let ring = keys.iter().map(|key| (id(key), key.as_bytes()));
        // Nothing else can be wrong with them.
        RequestStateCodec::new_with_keyring(active, ring)
            .map(Self)
            .map_err(|_| SealError::Repeated)
    }

    /// Seals with a key of its own, which ends with the process.
    ///
    /// # Errors
    ///
    /// When the system has no randomness to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut key = [0; RequestStateCodec::MIN_KEY_LENGTH];
        getrandom::fill(&mut key)?;
        Ok(Self(RequestStateCodec::new_unchecked(key)))
    }

    /// Seals the facts of a question for one `context`, for as long as a person may take.
    pub(super) fn seal(&self, facts: Fingerprint, context: &[u8], patience: Duration) -> String {
        let options = SealOptions::new().associated_data(context).ttl(patience);
        self.0.seal_with(&facts, &options)
    }

    /// The facts of a question, if it was asked in the same `context` and not too long ago.
    pub(super) fn open(&self, state: &str, context: &[u8]) -> Result<Fingerprint, Refusal> {
        let facts = self
            .0
            .open_with(state, context)
            .map_err(|error| match error {
                RequestStateError::Expired => Refusal::in_band(REFUSED, &TOO_LATE),
                _ => forged(),
            })?;
        facts.try_into().map_err(|_| forged())
    }
}

/// What logs and metrics call a state that does not open.
const REFUSED: &str = "state_refused";

/// The client broke the protocol, or somebody did in its name.
fn forged() -> Refusal {
    let message = "The requestState is not one that this server gave to this caller for these \
                   arguments. Nothing was removed. Call the tool again without it. Where several \
                   replicas serve, the operator has to give all of them the same \
                   QOVERY_BACKUPS_STATE_KEY.";
    Refusal::protocol(REFUSED, ErrorData::invalid_params(message, None))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::results::Reason, *};

    const MINUTE: Duration = Duration::from_secs(60);

    const OLD: &str = "the-old-key-of-thirty-two-letters";
    const NEW: &str = "the-new-key-of-thirty-two-letters";

    fn seal(keys: &str) -> Seal {
        Seal::parse(&keys.to_owned().into()).unwrap()
    }

    #[test]
    fn a_key_can_be_changed_without_losing_a_question() {
        let (old, both, new) = (seal(OLD), seal(&format!("{NEW}\n{OLD}")), seal(NEW));
        let facts = [7; 32];
        assert_eq!(
            both.open(&old.seal(facts, b"a", MINUTE), b"a").ok(),
            Some(facts)
        );
        assert_eq!(
            new.open(&both.seal(facts, b"a", MINUTE), b"a").ok(),
            Some(facts)
        );
        assert!(new.open(&old.seal(facts, b"a", MINUTE), b"a").is_err());
        assert!(both.open(&old.seal(facts, b"a", MINUTE), b"b").is_err());
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
    fn no_bit_of_a_state_can_be_changed() {
        for seal in [Seal::random().unwrap(), seal(OLD)] {
            let state = seal.seal([7; 32], b"a", MINUTE);
            let forged = forgeries(&state);
            assert!(forged.len() > 1000, "{}", forged.len());
            for forged in forged {
                let opened = seal.open(&forged, b"a");
                assert!(opened.is_err(), "{forged} for {state}");
            }
            assert_eq!(seal.open(&state, b"a").ok(), Some([7; 32]));
            assert!(Seal::random().unwrap().open(&state, b"a").is_err());
        }
    }

    #[test]
    fn an_answer_that_comes_too_late_does_not_count() {
        let seal = Seal::random().unwrap();
        let sealed = seal.seal([7; 32], b"a", Duration::ZERO);
        // It holds to the end of its millisecond.
        while seal.open(&sealed, b"a").is_ok() {}
        // In-band for the model, which did nothing wrong; a forged one is the client's fault.
        let refusal = |context: &[u8]| seal.open(&sealed, context).unwrap_err();
        assert!(matches!(refusal(b"a").reason, Reason::InBand(_)));
        assert!(matches!(refusal(b"b").reason, Reason::Protocol(_)));
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
