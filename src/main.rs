//! Parses, logs to standard error, runs, and says how it went in the exit code: 0 for well, 1 for a
//! failure, 2 for a configuration that was never started.

use std::{io::Write, num::NonZeroU32, process::ExitCode};

use anyhow::Context;
use qovery_backups_mcp::{
    backups::{AUDIT_TARGET, Backups, Policy},
    check::check,
    config::{Command, Config, Error, Log, LogFormat, Upstream},
    limits::Limits,
    mcp::{self, Seal},
    qovery::{Client, Credentials},
    rest::Rest,
    sandbox::Sandbox,
    serve::{self, http::Listeners},
    telemetry::Telemetry,
};
use tokio::runtime;
use tokio_util::sync::CancellationToken;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer, filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt,
};

/// A call allocates some 800 times; this allocator takes a tenth off its processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = match Config::load() {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    let _flush_on_exit = start_log(&config.log);
    match run(config) {
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

fn run(config: Config) -> anyhow::Result<ExitCode> {
    // One thread serves one host.
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime could not be started")?;
    let shutdown = CancellationToken::new();
    let result = runtime.block_on(async {
        tokio::select! {
            // In this order, so that signals are caught before anybody can read that it serves.
            biased;
            result = signals(shutdown.clone()) => result,
            result = start(config, shutdown) => result,
        }
    });
    // Where standard input is no pipe, a thread may still wait for it; nobody waits for the thread.
    runtime.shutdown_background();
    result
}

async fn start(config: Config, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let Config {
        command,
        http,
        upstream,
        policy,
        seal,
        settings,
        ..
    } = config;
    let seal = || match seal {
        Some(seal) => Ok(seal),
        None => Seal::random().context("the system gave no random key"),
    };
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
    let qovery = Client::new(base_url, credentials.clone());
    match command {
        Command::Stdio => {
            let backups = Backups::new(qovery, policy);
            let server = mcp::Server::new(backups, Telemetry::new()?, seal()?, sandboxed);
            serve::stdio(server, shutdown).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Http => {
            let backups = Backups::new(qovery, policy.clone());
            let telemetry = Telemetry::new()?;
            let listeners = Listeners::bind(&http)?;
            let (mcp, rest) = (listeners.mcp()?, listeners.rest()?);
            let mcp_url = format!("{}/mcp", http.reachable(mcp));
            tracing::info!("MCP is listening on http://{mcp}/mcp");
            if let Some(rest) = rest {
                tracing::info!("REST is listening on http://{rest}");
            }
            let authenticated = !http.tokens.is_empty();
            let mode = Mode {
                sandboxed,
                authenticated,
                policy,
            };
            let rest_url = rest.map(|rest| http.reachable(rest));
            mode.greet(&mcp_url, rest_url.as_deref());
            let rest = Rest::new(backups.clone(), telemetry.clone(), authenticated, &mcp_url);
            let server = mcp::Server::new(backups, telemetry.clone(), seal()?, sandboxed);
            listeners
                .serve(http, Limits::default(), server, rest, telemetry, shutdown)
                .await;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check => {
            let report = tokio::select! {
                report = check(&settings, &credentials, &qovery) => report,
                () = shutdown.cancelled() => return Ok(ExitCode::FAILURE),
            };
            std::io::stdout().write_all(report.text.as_bytes())?;
            Ok(if report.works {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
    }
}

/// What a person who starts the HTTP ports wants to see at once.
struct Mode {
    sandboxed: bool,
    authenticated: bool,
    policy: Policy,
}

impl Mode {
    /// Says how it serves, and what to paste to use it.
    fn greet(&self, mcp_url: &str, rest_url: Option<&str>) {
        let upstream = if self.sandboxed { "sandbox" } else { "Qovery" };
        let authenticated = self.authenticated;
        tracing::info!(
            upstream,
            authenticated,
            read_only = self.policy.read_only,
            confirm = self.policy.confirm.name(),
            keep_latest = self.policy.keep_latest,
            changes_per_hour = self.policy.changes_per_hour.map(NonZeroU32::get),
            audit_log = self
                .policy
                .audit_log
                .as_ref()
                .map(|path| path.display().to_string()),
            "serving"
        );
        let header = |flag| {
            let sent = format!(" {flag} \"Authorization: Bearer $ACCESS_TOKEN\"");
            if authenticated { sent } else { String::new() }
        };
        let token = header("--header");
        tracing::info!("try: claude mcp add --transport http qovery-backups {mcp_url}{token}");
        if let Some(url) = rest_url {
            let database = if self.sandboxed {
                Sandbox::ORDERS
            } else {
                "$DATABASE_ID"
            };
            let token = header("-H");
            tracing::info!("try: curl{token} {url}/v1/database/{database}/backup");
        }
    }
}

/// The first signal asks for an end after the calls in flight, the second for an end at once.
#[cfg(unix)]
async fn signals(shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    for _ in 0..2 {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    }
    Ok(ExitCode::FAILURE)
}

/// The first Ctrl-C asks for an end after the calls in flight, the second for an end at once.
#[cfg(not(unix))]
async fn signals(shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    for _ in 0..2 {
        tokio::signal::ctrl_c().await?;
        shutdown.cancel();
    }
    Ok(ExitCode::FAILURE)
}

/// Logs to standard error through a thread of its own, which drops lines rather than wait: a host
/// may never read that pipe, and a call must not hang on a log.
fn start_log(log: &Log) -> WorkerGuard {
    /// Lines that may wait for a slow reader.
    const WAITING_LINES: usize = 1024;

    let filter = log.filter.clone();
    let filter = filter.with_target(AUDIT_TARGET, LevelFilter::INFO);
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .finish(std::io::stderr());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(false);
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();
    // The default hook writes to standard error itself, and would wait there.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    guard
}
