//! Every limit in one place: durations, counts and sizes.
//!
//! They are not configurable; tests of a debug build shorten some of them with [`Limits::short`].

use std::time::Duration;

/// The limits of one process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// To connect to Qovery, TLS included.
    pub connect: Duration,
    /// One attempt of a request to Qovery, from connecting to the last byte.
    pub attempt: Duration,
    /// One call, with all its requests and attempts. Hosts give up after 30 to 60 s.
    pub call: Duration,
    /// One call that removes several backups.
    pub batch: Duration,
    /// Backups that one call may remove.
    pub batch_size: usize,
    /// The part of a change's time that is reserved for finding out a lost outcome.
    pub settle: Duration,
    /// The longest `Retry-After` that is waited for; a longer one is reported to the caller.
    pub max_pause: Duration,
    /// How long a change waits for the lock of its database.
    pub lock_wait: Duration,
    /// How long a write to the audit file may take.
    pub audit_write: Duration,
    /// Concurrent requests to Qovery.
    pub upstream_requests: usize,
    /// Bytes of one answer of Qovery: a page of 20 backups has about 13 kB.
    pub answer_bytes: usize,
    /// Bytes of all pages of one list.
    pub list_bytes: usize,
    /// Backups of one list.
    pub list_backups: usize,

    /// Backups that one answer shows.
    pub listed: usize,
    /// The pauses between two looks at a backup in progress: Qovery allows 1,000 requests an hour.
    pub poll_intervals: [Duration; 2],
    /// How long a list waits for its database's name.
    pub name_lookup: Duration,
    /// How long a database's name, or a denied look-up, is remembered.
    pub name_ttl: Duration,

    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// JSON values in a request's body.
    pub body_values: usize,
    /// To read a request's body.
    pub body_read: Duration,
    /// Bytes of a line on standard input.
    pub line_bytes: usize,

    /// To receive a request's header, and how long an idle connection is kept: longer than a proxy keeps
    /// one, so that it is not closed just when the proxy uses it.
    pub header_read: Duration,
    /// How long a peer may read nothing of its answer.
    pub write_stall: Duration,
    /// Open connections, on both ports together.
    pub connections: usize,
    /// Calls in flight over HTTP, on both ports together.
    pub calls: usize,
    /// Calls in flight over HTTP of one access token.
    pub calls_per_caller: usize,

    /// How long a sealed question of 2026-07-28 can be answered.
    pub answer_timeout: Duration,
    /// How long an `elicitation/create` request waits for its answer.
    pub prompt_timeout: Duration,
    /// How often a person is asked about one backup within [`prompt_window`](Self::prompt_window).
    pub max_prompts: usize,
    /// The period of [`max_prompts`](Self::max_prompts).
    pub prompt_window: Duration,

    /// How long the process takes to end after a signal.
    pub drain: Duration,
    /// How long it takes after a second signal.
    pub forced_drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const fn seconds(seconds: u64) -> Duration {
            Duration::from_secs(seconds)
        }
        Self {
            connect: seconds(3),
            attempt: seconds(10),
            call: seconds(25),
            batch: seconds(45),
            batch_size: 20,
            settle: seconds(5),
            max_pause: seconds(10),
            lock_wait: seconds(8),
            audit_write: seconds(5),
            upstream_requests: 64,
            answer_bytes: 2 << 20,
            list_bytes: 4 << 20,
            list_backups: 2_000,
            listed: 100,
            poll_intervals: [seconds(5), seconds(15)],
            name_lookup: seconds(3),
            name_ttl: seconds(60 * 60),
            body_bytes: 64 << 10,
            body_values: 2_500,
            body_read: seconds(10),
            line_bytes: 16 << 20,
            header_read: seconds(75),
            write_stall: seconds(10),
            connections: 512,
            calls: 64,
            calls_per_caller: 32,
            answer_timeout: seconds(5 * 60),
            prompt_timeout: seconds(4 * 60),
            max_prompts: 3,
            prompt_window: seconds(10 * 60),
            drain: seconds(12),
            forced_drain: seconds(1),
        }
    }
}

impl Limits {
    /// Limits for tests that would otherwise wait for the real ones.
    #[cfg(debug_assertions)]
    #[must_use]
    pub fn short() -> Self {
        const fn milliseconds(milliseconds: u64) -> Duration {
            Duration::from_millis(milliseconds)
        }
        Self {
            attempt: milliseconds(1_500),
            call: milliseconds(5_000),
            batch: milliseconds(5_000),
            settle: milliseconds(1_000),
            lock_wait: milliseconds(700),
            poll_intervals: [milliseconds(300), milliseconds(1_500)],
            name_lookup: milliseconds(500),
            body_read: milliseconds(1_000),
            header_read: milliseconds(1_000),
            write_stall: milliseconds(1_000),
            connections: 64,
            drain: milliseconds(2_500),
            ..Self::default()
        }
    }
}
