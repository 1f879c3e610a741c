//! The program: loads the configuration, logs to standard error, serves, and ends with an exit code: 0 for
//! success, 1 for a failure, 2 for a configuration that does not fit.

use std::{
    fmt::Display,
    io::{self, Write},
    net::SocketAddr,
    num::NonZeroU32,
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use qovery_backups_mcp::{
    backups::{Backups, Policy},
    check::check,
    config::{Command, Config, Error, Upstream},
    http,
    limits::Limits,
    mcp::{self, Seal},
    qovery::{Client, Credentials},
    rest::Rest,
    sandbox::Sandbox,
    shutdown::Shutdown,
    stdio, telemetry,
};
use tokio::{net::TcpListener, runtime};

/// Returns the memory of a load to the system, of which glibc's keeps tens of megabytes, and takes a sixth
/// off a call's processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = match Config::load() {
        Ok(config) => config,
        // A call for `--help` or `--version` goes to standard output.
        Err(Error::Usage(usage)) => {
            return match usage.print() {
                Ok(()) if !usage.use_stderr() => ExitCode::SUCCESS,
                _ => ExitCode::from(2),
            };
        }
        Err(error) => return refuse(&error),
    };
    let _flush_on_exit = match telemetry::init_log(config.log_filter.clone(), config.log_format) {
        Ok(flush) => flush,
        Err(error) => return refuse(&format!("The log cannot be written: {error}.")),
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match run(config) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says why the program does not start.
fn refuse(error: &dyn Display) -> ExitCode {
    // Without standard error, the exit code has to do.
    let _ = writeln!(io::stderr(), "error: {error}");
    ExitCode::from(2)
}

fn run(config: Config) -> anyhow::Result<ExitCode> {
    let limits = Limits::default();
    #[cfg(debug_assertions)]
    let limits = if config.short_limits {
        Limits::short()
    } else {
        limits
    };
    // One thread serves one host.
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime could not be started")?;
    let (limits, shutdown) = (Arc::new(limits), Shutdown::default());
    let result = runtime.block_on(async {
        // Signals are caught before the log says that it serves.
        catch_signals(&shutdown)?;
        let (timed, limit) = (shutdown.clone(), limits.clone());
        tokio::spawn(async move { timed.enforce_deadline(&limit).await });
        start(config, limits, shutdown).await
    });
    // Where standard input is no pipe, a blocked thread may still read it.
    runtime.shutdown_background();
    result
}

async fn start(
    config: Config,
    limits: Arc<Limits>,
    shutdown: Shutdown,
) -> anyhow::Result<ExitCode> {
    let (sandbox, base_url, credentials) = match config.upstream {
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
        limits.clone(),
        shutdown.clone(),
    );
    if let Command::Check { database } = config.command {
        let key = (!sandboxed).then_some(&credentials);
        let report = tokio::select! {
            report = check(&config.settings, key, &qovery, &limits, database) => report,
            () = shutdown.draining.cancelled() => return Ok(ExitCode::FAILURE),
        };
        io::stdout().write_all(report.text.as_bytes())?;
        return Ok(exit_code(report.works));
    }
    let seal = match config.seal {
        Some(seal) => seal,
        None => Seal::random().context("the system gave no random key")?,
    };
    let policy = config.policy;
    let backups = Backups::new(qovery, policy.clone(), limits.clone(), shutdown.clone());
    let server = mcp::Server::new(
        backups.clone(),
        seal,
        limits.clone(),
        shutdown.clone(),
        sandboxed,
    );
    if config.command == Command::Http {
        let settings = config.http;
        let mcp_listener = listen(settings.mcp, "--mcp-addr").await?;
        let rest_listener = match settings.rest {
            Some(address) => Some(listen(address, "--rest-addr").await?),
            None => None,
        };
        let mcp = mcp_listener.local_addr()?;
        let mcp_url = format!("{}/mcp", settings.reachable(mcp));
        tracing::info!("MCP is listening on http://{mcp}/mcp");
        if let Some(listener) = &rest_listener {
            tracing::info!("REST is listening on http://{}", listener.local_addr()?);
        }
        let authenticated = !settings.tokens.is_empty();
        log_mode(sandboxed, Some(authenticated), &policy);
        let header = if authenticated {
            " --header \"Authorization: Bearer $ACCESS_TOKEN\""
        } else {
            ""
        };
        tracing::info!("try: claude mcp add --transport http qovery-backups {mcp_url}{header}");
        let rest = Rest::new(backups.clone(), &mcp_url);
        let listeners = (mcp_listener, rest_listener);
        http::serve(listeners, settings, server, rest, limits, shutdown.clone()).await;
    } else {
        log_mode(sandboxed, None, &policy);
        Box::pin(stdio::serve(server, shutdown.clone())).await?;
    }
    let settled = backups.end().await;
    Ok(exit_code(settled && !shutdown.was_forced()))
}

/// Listens on an address, which `flag` chooses.
async fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let failure =
        || format!("{address} cannot be listened on (free the port, or choose another: {flag})");
    TcpListener::bind(address).await.with_context(failure)
}

fn exit_code(success: bool) -> ExitCode {
    ExitCode::from(u8::from(!success))
}

/// Logs how it serves: what an operator wants to see at once.
fn log_mode(sandboxed: bool, authenticated: Option<bool>, policy: &Policy) {
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

/// Requests the shutdown at each signal that asks for it.
#[cfg(unix)]
fn catch_signals(shutdown: &Shutdown) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut kinds = vec![SignalKind::terminate(), SignalKind::interrupt()];
    // A closed terminal, or the habit of a log rotation.
    if !is_hangup_ignored() {
        kinds.push(SignalKind::hangup());
    }
    for kind in kinds {
        let (mut signal, shutdown) = (signal(kind)?, shutdown.clone());
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                shutdown.request();
            }
        });
    }
    Ok(())
}

/// Whether `nohup` or the like started the process, which a handler would undo. Where the system does not
/// say, the signal is left as it is.
#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    const SIGHUP: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_none_or(|mask| mask & SIGHUP != 0)
}

/// Requests the shutdown at Ctrl-C.
#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
fn catch_signals(shutdown: &Shutdown) -> io::Result<()> {
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            shutdown.request();
        }
    });
    Ok(())
}
