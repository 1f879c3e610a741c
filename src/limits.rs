//! Every limit in one place: durations, counts and sizes.
//!
//! They are not configurable. Tests of a debug build shorten some of them with [`Limits::short`].

use std::time::Duration;

/// Declares the limits. A row is a field: documentation, name, type, value and, for tests, a shorter value.
macro_rules! limits {
    ($($(#[$doc:meta])+ $name:ident: $type:ty = $value:expr $(, short $short:expr)?;)+) => {
        /// The limits of one process.
        #[derive(Clone, Debug)]
        pub struct Limits {
            $($(#[$doc])+ pub $name: $type,)+
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $value,)+ }
            }
        }

        impl Limits {
            /// Limits for tests that would otherwise wait for the real ones.
            #[cfg(debug_assertions)]
            pub fn short() -> Self {
                let mut limits = Self::default();
                $($(limits.$name = $short;)?)+
                limits
            }
        }
    };
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[cfg(debug_assertions)]
const fn milliseconds(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

limits! {
    /// To connect to Qovery, TLS included.
    connect: Duration = seconds(3);
    /// One attempt of a request to Qovery, from connecting to the last byte.
    attempt: Duration = seconds(10), short milliseconds(1_500);
    /// One call, with all its requests and attempts. Hosts give up after 30 to 60 s.
    call: Duration = seconds(25), short milliseconds(5_000);
    /// One call that removes several backups.
    batch: Duration = seconds(45), short milliseconds(5_000);
    /// Backups that one call may remove.
    batch_size: usize = 50;
    /// How old a list may be by which a batch goes on.
    list_age: Duration = seconds(5), short milliseconds(400);
    /// The part of a change's time that is reserved for finding out a lost outcome.
    settle: Duration = seconds(5), short milliseconds(1_000);
    /// The longest `Retry-After` that is waited for; a longer one is reported to the caller.
    max_pause: Duration = seconds(10);
    /// How long a change waits for the lock of its database.
    lock_wait: Duration = seconds(8), short milliseconds(700);
    /// How long a write to the audit file may take.
    audit_write: Duration = seconds(5);
    /// Concurrent requests to Qovery.
    upstream_requests: usize = 64;
    /// Bytes of one answer of Qovery: a page of 20 backups has about 13 kB.
    answer_bytes: usize = 2 << 20;
    /// Bytes of all pages of one list.
    list_bytes: usize = 4 << 20;
    /// Backups of one list by which a removal is decided.
    list_backups: usize = 2_000;
    /// Backups that are read for an answer.
    read_backups: usize = 1_000;
    /// Backups that one answer shows.
    listed: usize = 100;
    /// How long the command `check` looks at all databases.
    check: Duration = seconds(10 * 60);
    /// Databases that one overview reads.
    overview: usize = 100;
    /// Bytes of the backups that one answer shows: with the rest of it, about 40 kB.
    listed_bytes: usize = 39_000;
    /// How long a list reads, or waits for a backup in progress: SDKs give up a call after 5 s by default.
    list_time: Duration = seconds(4), short milliseconds(1_000);
    /// How long it does where the client asked for progress.
    list_time_with_progress: Duration = seconds(20), short milliseconds(2_000);
    /// How long a list waits for its database's name.
    name_lookup: Duration = seconds(3), short milliseconds(500);
    /// How long a look-up of a name is remembered.
    name_ttl: Duration = seconds(60);
    /// How long no look-up is sent after a first denial, and after each other one.
    denial_pauses: [Duration; 2] = [seconds(60), seconds(60 * 60)], short [milliseconds(400), milliseconds(1_200)];
    /// Bytes of a request's body.
    body_bytes: usize = 64 << 10;
    /// JSON values in a request's body.
    body_values: usize = 2_500;
    /// To read a request's body.
    body_read: Duration = seconds(10), short milliseconds(1_000);
    /// To receive a request's header, and how long an idle connection is kept: longer than a proxy keeps
    /// one, so that it is not closed just when the proxy uses it.
    header_read: Duration = seconds(75), short milliseconds(1_000);
    /// How long a peer may read nothing of its answer.
    write_stall: Duration = seconds(10), short milliseconds(1_000);
    /// How often the modification time of the access tokens' file is looked at.
    secret_check: Duration = seconds(10), short milliseconds(100);
    /// To read the sign-in's metadata and keys, and the pause before the first that failed are tried again.
    issuer: Duration = seconds(5), short milliseconds(500);
    /// Bytes of the sign-in's metadata, and of its keys.
    issuer_bytes: usize = 64 << 10;
    /// How long the sign-in's keys are taken for current.
    issuer_keys: Duration = seconds(10 * 60), short milliseconds(1_000);
    /// The pause between two fetches of the sign-in's keys.
    issuer_pause: Duration = seconds(60), short milliseconds(500);
    /// Open connections, on both ports together.
    connections: usize = 512, short 64;
    /// Calls in flight over HTTP, on both ports together.
    calls: usize = 64;
    /// Calls in flight over HTTP of one access token.
    calls_per_caller: usize = 32;
    /// How long a sealed question of 2026-07-28 can be answered.
    answer_timeout: Duration = seconds(5 * 60);
    /// How long an `elicitation/create` request waits for its answer.
    prompt_timeout: Duration = seconds(4 * 60);
    /// How long a dialog waits for its answer: desktop hosts give up a call after 60 s, or after 240 s where
    /// they are sent progress.
    dialog_timeout: Duration = seconds(50), short milliseconds(3_000);
    /// How long it waits where the client asked for progress.
    dialog_timeout_with_progress: Duration = seconds(200), short milliseconds(3_000);
    /// How long a dialog waits until another one is answered.
    screen_wait: Duration = seconds(20), short milliseconds(700);
    /// How often a client that waits for a person is sent progress: SDKs give up after 60 silent seconds.
    prompt_progress: Duration = seconds(10), short milliseconds(200);
    /// How often a person is asked about one backup within [`prompt_window`](Self::prompt_window).
    max_prompts: usize = 3;
    /// The period of [`max_prompts`](Self::max_prompts).
    prompt_window: Duration = seconds(10 * 60);
    /// How long the process takes to end after a signal.
    drain: Duration = seconds(12), short milliseconds(2_500);
    /// How long it takes after a second signal.
    forced_drain: Duration = seconds(1);
}
