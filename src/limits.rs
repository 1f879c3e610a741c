//! Every limit in one place: how long, how many, how large, and why.
//!
//! An operator cannot change them; a test that would wait for one can shorten it.

use std::time::Duration;

/// The limits of one process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// To connect to Qovery, TLS included.
    pub connect: Duration,
    /// One attempt to get an answer from Qovery, from connecting to the last byte.
    pub attempt: Duration,
    /// One call, over all its requests and attempts. Hosts give up after 30 to 60 s.
    pub call: Duration,
    /// One call that removes several backups. Hosts that give up earlier are told of the progress.
    pub batch: Duration,
    /// Backups that one call may remove: one question is about all of them.
    pub batch_size: usize,
    /// Of the time for a change, what is kept to find out its outcome if the answer is lost.
    pub settle: Duration,
    /// A longer `Retry-After` is not waited for but told to the caller.
    pub pause: Duration,
    /// How long a change waits for the lock of its database.
    pub lock: Duration,
    /// A disk that takes longer than this takes no line of the audit log.
    pub audit: Duration,
    /// Requests that may be on their way to Qovery at once.
    pub upstream_requests: usize,
    /// Bytes of an answer of Qovery: a page of 20 backups is about 13 kB.
    pub answer: usize,
    /// Pages of a database's list that are read before a removal.
    pub pages: usize,
    /// Backups of a database that are read before a removal: five times what so many pages hold at
    /// Qovery's page size.
    pub backups: usize,

    /// Backups that one list shows.
    pub listed: usize,
    /// The pauses between the looks at a backup that is being made: Qovery allows 1,000 requests an hour.
    pub looks: [Duration; 2],
    /// What a list waits for the name of its database.
    pub name: Duration,
    /// How long a database's name is remembered, and that the key may not look it up.
    pub remembered: Duration,

    /// Bytes of a request's body: the largest valid one is below half of it.
    pub body: usize,
    /// Bytes of a line on standard input.
    pub line: usize,
    /// JSON values in a request's body: no message has a tenth of it.
    pub values: usize,
    /// Bytes that the bodies of requests and Qovery's answers may take in memory at once.
    pub memory: usize,

    /// From the connection, or from a request's first byte, to the end of its header.
    pub header: Duration,
    /// From the end of the header to the end of the body.
    pub body_time: Duration,
    /// Between two requests: longer than a proxy keeps a connection, so that it is not closed just
    /// when the proxy uses it.
    pub idle: Duration,
    /// For a peer that takes nothing of its answer.
    pub stall: Duration,
    /// Open connections, on both ports, where the operating system allows as many.
    pub connections: usize,
    /// Calls that may be in flight at once, on both ports.
    pub calls: usize,
    /// Streams of events that may be open at once, beside the calls.
    pub streams: usize,
    /// Sessions at once. Each takes about 90 kB.
    pub sessions: usize,
    /// How long a session lives after its last use, if no stream is open.
    pub session: Duration,

    /// Questions that may wait for a person over a connection at once.
    pub questions: usize,
    /// How long a person may take to answer where the client keeps the question.
    pub patience: Duration,
    /// How long a person may take to answer over a connection: within what proxies wait.
    pub patience_of_a_session: Duration,
    /// How long a question outlives the last open stream to its client.
    pub unheard: Duration,
    /// How often a person is asked about one backup within [`asking`](Self::asking).
    pub asked: usize,
    /// The time in which a person is asked so often.
    pub asking: Duration,

    /// How long the HTTP ports answer what is in flight once the process is to end.
    pub drain: Duration,
    /// How long the process takes to end once it was asked to twice.
    pub hurry: Duration,
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
            pause: seconds(10),
            lock: seconds(8),
            audit: seconds(5),
            upstream_requests: 64,
            answer: 8 << 20,
            pages: 100,
            backups: 10_000,
            listed: 100,
            looks: [seconds(5), seconds(15)],
            name: seconds(3),
            remembered: seconds(60 * 60),
            body: 128 << 10,
            line: 16 << 20,
            values: 4096,
            memory: 192 << 20,
            header: seconds(10),
            body_time: seconds(10),
            idle: seconds(75),
            stall: seconds(10),
            connections: 2048,
            calls: 512,
            streams: 256,
            sessions: 256,
            session: seconds(12 * 60 * 60),
            questions: 32,
            patience: seconds(5 * 60),
            patience_of_a_session: seconds(4 * 60),
            unheard: seconds(30),
            asked: 3,
            asking: seconds(10 * 60),
            drain: seconds(12),
            hurry: seconds(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The README and the pages for operators promise these numbers.
    #[test]
    fn the_defaults_are_the_documented() {
        let pages = [
            include_str!("../README.md"),
            include_str!("../docs/operating.md"),
            include_str!("../docs/hosts.md"),
        ];
        let words = pages.map(|page| page.split_whitespace().collect::<Vec<_>>().join(" "));
        let words = words.join("\n");
        let limits = Limits::default();
        let thousands = |number: usize| format!("{},{:03}", number / 1000, number % 1000);
        for sentence in [
            format!(
                "bodies of up to {} KiB with at most {} JSON values, and gives a header or a body {} \
                 seconds, an answer that nobody takes {} seconds, and an idle connection {}.",
                limits.body >> 10,
                thousands(limits.values),
                limits.header.as_secs(),
                limits.stall.as_secs(),
                limits.idle.as_secs(),
            ),
            format!("hold {} connections", thousands(limits.connections)),
            format!(
                "{} calls, {} streams of events, {} open questions, and {} MiB for bodies",
                limits.calls,
                limits.streams,
                limits.questions,
                limits.memory >> 20,
            ),
            format!(
                "At most {} requests are on their way",
                limits.upstream_requests
            ),
            format!("{} seconds in all", limits.drain.as_secs()),
            format!("a call takes, up to {} seconds", limits.batch.as_secs()),
            format!("up to {} `backups`, newest first", limits.listed),
            format!("or up to {} `backupIds`", limits.batch_size),
            format!(
                "a removal of several may take {} seconds",
                limits.batch.as_secs()
            ),
            format!(
                "waits up to {} seconds for it, and looks three times",
                limits.looks.iter().sum::<Duration>().as_secs()
            ),
            format!(
                "There are at most {}. Each is its caller's",
                limits.sessions
            ),
            format!(
                "while its stream of events is open and {} hours after its last use",
                limits.session.as_secs() / 60 / 60
            ),
            format!("no stream for {} seconds", limits.unheard.as_secs()),
            format!(
                "more than {} times in {} minutes",
                limits.asked,
                limits.asking.as_secs() / 60
            ),
        ] {
            assert!(words.contains(&sentence), "{sentence}");
        }
        assert_eq!(limits.header, limits.body_time);
        let patience = (limits.patience, limits.patience_of_a_session);
        assert_eq!(
            (patience.0.as_secs(), patience.1.as_secs()),
            (5 * 60, 4 * 60)
        );
        assert!(words.contains("A question waits five minutes on 2026-07-28, four before it."));
    }
}
