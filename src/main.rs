//! The program: loads the configuration, logs to standard error, serves, and ends with an exit code: 0 for
//! success, 1 for a failure, 2 for a configuration that does not fit.

use std::{
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use qovery_backups_mcp::{
    backups::Backups,
    check::{check, check_ages},
    config::{Command, Config, Source, Upstream},
    http,
    limits::Limits,
    mcp::{self, Seal},
    qovery::{Client, Credentials},
    rest,
    sandbox::Sandbox,
    secret::Reloadable,
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
        Err(error) => {
            let printed = error.print();
            let is_help = printed.is_ok() && !error.use_stderr();
            return ExitCode::from(if is_help { 0 } else { 2 });
        }
    };
    let _flush_on_exit = match telemetry::init_log(config.log_filter.clone(), config.log_format) {
        Ok(flush) => flush,
        Err(error) => {
            // Without standard error, the exit code has to do.
            let mut output = io::stderr();
            let _ = writeln!(output, "error: the log's thread did not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match run(config) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<u8> {
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
        catch_signals(&config, &shutdown)?;
        let (timed, limit) = (shutdown.clone(), limits.clone());
        tokio::spawn(async move { timed.enforce_deadline(&limit).await });
        start(config, limits, shutdown).await
    });
    // Where standard input is no pipe, a blocked thread may still read it.
    runtime.shutdown_background();
    result
}

/// Checks the configuration, or serves. Returns the exit code.
async fn start(mut config: Config, limits: Arc<Limits>, shutdown: Shutdown) -> anyhow::Result<u8> {
    let confirmation = config.confirmation();
    let mut sandbox = None;
    let upstream = if let Some(upstream) = config.upstream.take() {
        upstream
    } else {
        let started = Sandbox::start_for(config.http.caller_keys).await;
        let started = sandbox.insert(started.context("the sandbox could not be started")?);
        let key = Reloadable::new(Credentials::parse(Sandbox::KEY)?, None);
        Upstream {
            base_url: started.base_url().parse()?,
            credentials: (!config.http.caller_keys).then_some(key),
        }
    };
    let credentials = upstream.credentials.clone();
    let qovery = Client::new(
        upstream.base_url,
        upstream.credentials,
        limits.clone(),
        shutdown.clone(),
    );
    if let Command::Check { database, max_age } = &config.command {
        let key = credentials.as_deref().filter(|_| sandbox.is_none());
        let output = io::stdout();
        let checked = async {
            if let Some(max_age) = max_age {
                let backups = Backups::new(
                    qovery,
                    config.policy.clone(),
                    limits.clone(),
                    shutdown.clone(),
                );
                return check_ages(&backups, &limits, database, *max_age, output).await;
            }
            let works = check(&config, key, &qovery, &limits, database, output).await?;
            Ok(u8::from(!works))
        };
        let code = shutdown.draining.run_until_cancelled(checked).await;
        return Ok(code.transpose()?.unwrap_or(1));
    }
    let seal = config.seal.map_or_else(Seal::random, Ok);
    let backups = Backups::new(qovery, config.policy, limits.clone(), shutdown.clone());
    let server = mcp::Server::new(
        backups.clone(),
        seal.context("the system gave no random key")?,
        limits.clone(),
        shutdown.clone(),
        config.dialog.ok(),
        sandbox.is_some(),
    );
    let given = config.settings.iter();
    let given = given.filter(|it| it.flag.is_some() && it.source != Source::Default);
    let settings = given.map(|setting| format!("{}={}", setting.variable, setting.value));
    let settings = settings.collect::<Vec<_>>().join(" ");
    if config.command == Command::Http {
        let http = config.http;
        let mcp_listener = listen(http.mcp, "--mcp-addr").await?;
        let rest_listener = match http.rest {
            Some(address) => Some(listen(address, "--rest-addr").await?),
            None => None,
        };
        let mcp = mcp_listener.local_addr()?;
        tracing::info!("MCP is listening on http://{mcp}/mcp");
        let rest = rest_listener.as_ref().unwrap_or(&mcp_listener);
        let rest = rest.local_addr()?;
        if rest_listener.is_some() {
            tracing::info!("REST is listening on http://{rest}");
        }
        let authenticated = http.authenticates();
        let callers = http.tokens.current().names();
        tracing::info!(settings, authenticated, callers, confirmation, "serving");
        let reachable = |address| {
            let own = || format!("http://{address}");
            http.public_url.clone().unwrap_or_else(own)
        };
        let (mcp_url, url) = (reachable(mcp), reachable(rest));
        // Without access tokens, a client signs in.
        let headers = headers(!callers.is_empty(), http.caller_keys);
        let add = "claude mcp add -s user --transport http qovery-backups";
        let command = format!("{add} {mcp_url}/mcp{headers}");
        // A proxy may keep REST inside, since it asks no person.
        if rest_listener.is_some() && http.public_url.is_none() {
            tracing::info!("next: open {url}/ in a browser");
        }
        tracing::info!("next: paste into another terminal: {command}");
        let rest = rest::router(backups.clone(), sandbox.is_some(), &command, &url, headers);
        let listeners = (mcp_listener, rest_listener);
        http::serve(listeners, http, server, rest, limits, shutdown.clone()).await;
    } else {
        tracing::info!(settings, confirmation, "serving");
        if io::stdin().is_terminal() {
            tracing::info!("waiting for a host on standard input; try `http --sandbox` or `check`");
        }
        stdio::serve(server, shutdown.clone()).await?;
    }
    let settled = backups.end().await;
    Ok(u8::from(!settled || shutdown.was_forced()))
}

/// What callers send, as options of the commands that are printed for them.
fn headers(authenticated: bool, caller_keys: bool) -> &'static str {
    match (authenticated, caller_keys) {
        (false, false) => "",
        (true, false) => r#" --header "Authorization: Bearer $ACCESS_TOKEN""#,
        (false, true) => r#" --header "X-Qovery-Api-Key: $QOVERY_API_KEY""#,
        (true, true) => {
            r#" --header "Authorization: Bearer $ACCESS_TOKEN" --header "X-Qovery-Api-Key: $QOVERY_API_KEY""#
        }
    }
}

/// Listens on an address, which `flag` chooses.
async fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let failure =
        || format!("{address} cannot be listened on (free the port, or choose another: {flag})");
    TcpListener::bind(address).await.with_context(failure)
}

/// Requests the shutdown at each signal that asks for it. Over HTTP, SIGHUP reads the files of the secrets
/// again; else it is that of a closed terminal.
#[cfg(unix)]
fn catch_signals(config: &Config, shutdown: &Shutdown) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut kinds = vec![SignalKind::terminate(), SignalKind::interrupt()];
    if config.command != Command::Http && !is_hangup_ignored() {
        kinds.push(SignalKind::hangup());
    } else if !is_hangup_ignored() {
        let mut hangup = signal(SignalKind::hangup())?;
        let tokens = Arc::clone(&config.http.tokens);
        let upstream = config.upstream.as_ref();
        let credentials = upstream.and_then(|upstream| upstream.credentials.clone());
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                tracing::info!("SIGHUP: the files of the key and the access tokens are read again");
                if let Some(credentials) = &credentials {
                    credentials.reload().await;
                }
                tokens.reload().await;
            }
        });
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
fn catch_signals(_: &Config, shutdown: &Shutdown) -> io::Result<()> {
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            shutdown.request();
        }
    });
    Ok(())
}
