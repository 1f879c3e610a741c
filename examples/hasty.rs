//! The program in a hurry: with limits of seconds instead of many, for tests that would otherwise
//! wait for them. Never run it for anything else.

use std::{process::ExitCode, time::Duration};

use qovery_backups_mcp::{limits::Limits, program};

fn main() -> ExitCode {
    const fn milliseconds(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }
    program::run(Limits {
        attempt: milliseconds(1_500),
        call: milliseconds(5_000),
        batch: milliseconds(5_000),
        settle: milliseconds(1_000),
        lock: milliseconds(700),
        looks: [milliseconds(300), milliseconds(1_500)],
        name: milliseconds(500),
        header: milliseconds(1_000),
        body_time: milliseconds(1_000),
        stall: milliseconds(1_000),
        unheard: milliseconds(1_000),
        drain: milliseconds(2_500),
        ..Limits::default()
    })
}
