//! The program. Everything else is in the library.

use std::process::ExitCode;

use qovery_backups_mcp::{limits::Limits, program};

fn main() -> ExitCode {
    program::run(Limits::default())
}
