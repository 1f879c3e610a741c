//! The program: parses, logs to standard error, runs, and says how it went in the exit code: 0 for
//! well, 1 for a failure, 2 for a configuration that was never started.

use std::{io::Write, num::NonZeroU32, process::ExitCode, sync::Arc};

use anyhow::Context;
use tokio::runtime;

use crate::{
    backups::{Backups, Policy},
    check::check,
    config::{Command, Config, Error, Upstream},
    http::Listeners,
    limits::Limits,
    mcp::{self, Seal},
    qovery::{Client, Credentials},
    rest::Rest,
    sandbox::Sandbox,
    shutdown::Shutdown,
    stdio, telemetry,
};

/// What all that serves shares.
#[derive(Clone)]
struct Process {
    limits: Arc<Limits>,
    shutdown: Shutdown,
}

/// Runs the program as the command line and the environment say.
#[must_use]
pub fn run() -> ExitCode {
    let config = match Config::load() {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    let _flush_on_exit = match telemetry::init_log(config.log.filter.clone(), config.log.format) {
        Ok(flush) => flush,
        Err(error) => return refuse(&Error::Log(error)),
    };
    if let Some(warning) = &config.warning {
        tracing::warn!("{warning}");
    }
    #[cfg(debug_assertions)]
    let limits = if config.short_limits {
        Limits::short()
    } else {
        Limits::default()
    };
    #[cfg(not(debug_assertions))]
    let limits = Limits::default();
    match serve(config, limits) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Shows why the program does not start. A call for `--help` comes here too, and is no error.
fn refuse(error: &Error) -> ExitCode {
    let printed = match error {
        Error::Usage(usage) => usage.print(),
        error => writeln!(std::io::stderr(), "error: {error}"),
    };
    match (error, printed) {
        (Error::Usage(usage), Ok(())) if !usage.use_stderr() => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    }
}

fn serve(config: Config, limits: Limits) -> anyhow::Result<ExitCode> {
    // One thread serves one host.
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime could not be started")?;
    let process = Process {
        limits: Arc::new(limits),
        shutdown: Shutdown::default(),
    };
    let result = runtime.block_on(async {
        // Signals are caught before anybody can read that it serves.
        let mut signals = Signals::catch()?;
        let pass_on = async {
            loop {
                signals.next().await;
                process.shutdown.request();
            }
        };
        let time = async {
            process.shutdown.enforce_deadline(&process.limits).await;
            std::future::pending().await
        };
        tokio::select! {
            biased;
            result = pass_on => result,
            result = time => result,
            result = start(config, process.clone()) => result,
        }
    });
    // Where standard input is no pipe, a thread may still wait for it; nobody waits for the thread.
    runtime.shutdown_background();
    result
}

async fn start(config: Config, process: Process) -> anyhow::Result<ExitCode> {
    let Config {
        command,
        http,
        upstream,
        policy,
        seal,
        settings,
        ..
    } = config;
    let (sandbox, base_url, credentials) = match upstream {
        Upstream::Qovery {
            base_url,
            credentials,
        } => (None, base_url, credentials),
        Upstream::Sandbox => {
            let sandbox = Sandbox::start()
                .await
                .context("the sandbox could not be started")?;
            let base_url = sandbox.base_url().parse()?;
            (Some(sandbox), base_url, Credentials::parse(Sandbox::KEY)?)
        }
    };
    let sandboxed = sandbox.is_some();
    let qovery = Client::new(
        base_url,
        credentials.clone(),
        Arc::clone(&process.limits),
        process.shutdown.clone(),
    );
    if let Command::Check { database } = command {
        let key = (!sandboxed).then_some(&credentials);
        let report = tokio::select! {
            report = check(&settings, key, &qovery, &process.limits, database) => report,
            () = process.shutdown.draining.cancelled() => return Ok(ExitCode::FAILURE),
        };
        std::io::stdout().write_all(report.text.as_bytes())?;
        return Ok(exit_code(report.works));
    }
    let seal = match seal {
        Some(seal) => seal,
        None => Seal::random().context("the system gave no random key")?,
    };
    let backups = Backups::new(
        qovery,
        policy.clone(),
        Arc::clone(&process.limits),
        process.shutdown.clone(),
    );
    let server = mcp::Server::new(
        backups.clone(),
        seal,
        Arc::clone(&process.limits),
        process.shutdown.clone(),
        sandboxed,
    );
    if command == Command::Http {
        let listeners = Listeners::bind(&http)?;
        let (mcp, rest) = (listeners.mcp()?, listeners.rest()?);
        let mcp_url = format!("{}/mcp", http.reachable(mcp));
        tracing::info!("MCP is listening on http://{mcp}/mcp");
        if let Some(rest) = rest {
            tracing::info!("REST is listening on http://{rest}");
        }
        let authenticated = !http.tokens.is_empty();
        say_mode(sandboxed, Some(authenticated), &policy);
        let rest_url = rest.map(|rest| http.reachable(rest));
        say_what_to_paste(sandboxed, authenticated, &mcp_url, rest_url.as_deref());
        let rest = Rest::new(backups.clone(), &mcp_url);
        let Process { limits, shutdown } = process.clone();
        listeners.serve(http, server, rest, limits, shutdown).await;
    } else {
        say_mode(sandboxed, None, &policy);
        let Process { limits, shutdown } = process.clone();
        Box::pin(stdio::serve(server, limits, shutdown)).await?;
    }
    let settled = backups.end().await;
    Ok(exit_code(settled && !process.shutdown.was_forced()))
}

fn exit_code(well: bool) -> ExitCode {
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Says how it serves: what an operator wants to see at once.
fn say_mode(sandboxed: bool, authenticated: Option<bool>, policy: &Policy) {
    let audit_log = policy.audit_log.as_ref();
    tracing::info!(
        upstream = if sandboxed { "sandbox" } else { "Qovery" },
        authenticated,
        read_only = policy.read_only,
        confirm = policy.confirm.name(),
        keep_latest = policy.keep_latest,
        changes_per_hour = policy.changes_per_hour.map(NonZeroU32::get),
        audit_log = audit_log.map(|path| path.display().to_string()),
        "serving"
    );
}

/// Says what to paste to use the HTTP ports.
fn say_what_to_paste(sandboxed: bool, authenticated: bool, mcp_url: &str, rest_url: Option<&str>) {
    let header = |flag| {
        let sent = format!(" {flag} \"Authorization: Bearer $ACCESS_TOKEN\"");
        if authenticated { sent } else { String::new() }
    };
    let token = header("--header");
    tracing::info!("try: claude mcp add --transport http qovery-backups {mcp_url}{token}");
    if let Some(url) = rest_url {
        let database = if sandboxed {
            Sandbox::ORDERS
        } else {
            "$DATABASE_ID"
        };
        let token = header("-H");
        tracing::info!("try: curl{token} {url}/v1/database/{database}/backup");
    }
}

/// The signals that ask for an end.
#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// A closed terminal; or the habit of a log rotation.
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn catch() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: if may_catch_hangup() {
                Some(signal(SignalKind::hangup())?)
            } else {
                None
            },
        })
    }

    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether a hangup would end the process: `nohup` starts it with the signal ignored, and what catches
/// it would undo that. Where the system does not say, it is left as it is.
#[cfg(unix)]
fn may_catch_hangup() -> bool {
    const SIGHUP: u64 = 1;
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return false;
    };
    let mut lines = status.lines();
    let ignored = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & SIGHUP == 0)
}

/// Ctrl-C.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn catch() -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
