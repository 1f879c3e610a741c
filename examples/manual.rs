//! Writes the man pages and the shells' completions into a folder, for packages:
//! `cargo run --example manual -- FOLDER`.
//!
//! They follow from the definition that `--help` follows from.

use std::{fs, path::PathBuf};

use anyhow::Context;
use clap_complete::{Shell, generate_to};
use qovery_backups_mcp::config::command;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.context("name the folder to write to")?;
    fs::create_dir_all(&folder)?;
    // A page for each command, but none for `help`.
    let mut command = command().disable_help_subcommand(true);
    clap_mangen::generate_to(command.clone(), &folder)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
        generate_to(shell, &mut command, env!("CARGO_PKG_NAME"), &folder)?;
    }
    Ok(())
}
