//! The program. Everything else is in the library.

use std::process::ExitCode;

use qovery_backups_mcp::program;

/// Gives back what a load took, of which glibc's keeps tens of megabytes, and takes a sixth off a call's
/// processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    program::run()
}
