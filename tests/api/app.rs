//! The program under test: how it is configured, started, signalled and read.

use std::{
    net::SocketAddr,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::Value;
#[cfg(unix)]
use std::time::Instant;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStderr, Command},
    sync::watch,
    time::timeout,
};

use crate::{
    clients::{Client, Era},
    connection::Request,
    expect::Answer,
};

/// Longer than any call may take: a test that waits this long has failed.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The repetitions of a random test: the variable's value, or `default`.
pub(crate) fn repetitions(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

/// Seeds the random numbers of a test: from `SEED`, or from a seed that a failure prints.
#[expect(clippy::print_stdout, reason = "a test prints what repeats it")]
pub(crate) fn seed() {
    let seed = repetitions("SEED", fastrand::usize(..));
    println!("SEED={seed}");
    fastrand::seed(seed as u64);
}

/// The program in an empty working directory with an environment of its own.
pub(crate) struct TestApp {
    pub(crate) directory: TempDir,
    pub(crate) variables: Vec<(&'static str, String)>,
    short_limits: bool,
}

/// Whether `nohup` or the like started the tests, which their children would inherit.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 1)
}

impl TestApp {
    pub(crate) fn new(variables: &[(&'static str, &str)]) -> Self {
        let variables = variables
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        Self {
            directory: TempDir::new().unwrap(),
            variables: variables.collect(),
            short_limits: false,
        }
    }

    /// With a key, for an upstream at `url`.
    pub(crate) fn with_upstream(url: &str) -> Self {
        Self::new(&[("QOVERY_API_URL", url), ("QOVERY_API_KEY", Sandbox::KEY)])
    }

    /// Sets a variable.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Uses [`Limits::short`](qovery_backups_mcp::limits::Limits::short).
    pub(crate) fn short_limits(mut self) -> Self {
        self.short_limits = true;
        self
    }

    pub(crate) fn file(&self, name: &str, contents: &str) {
        std::fs::write(self.directory.path().join(name), contents).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_qovery-backups-mcp");
        let mut command = Command::new(program);
        if is_hangup_ignored() {
            command = Command::new("/usr/bin/env");
            command.args(["--default-signal=HUP", program]);
        }
        command
            .args(self.short_limits.then_some("--short-limits"))
            .args(arguments)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs the program to its end, without input.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Finished {
        let output = self.command(arguments).stdin(Stdio::null()).output();
        let output = timeout(TEST_TIMEOUT, output).await;
        let output = output.expect("the program ends").unwrap();
        Finished {
            status: output.status,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs the program, which refuses to start with exit code 2. Returns standard error.
    pub(crate) async fn refused(&self, arguments: &[&str]) -> String {
        let end = self.run(arguments).await;
        assert_eq!(end.status.code(), Some(2), "{arguments:?}: {}", end.stderr);
        assert_eq!(end.stdout, "");
        end.stderr
    }

    /// Starts the program over stdio; no message is sent yet.
    pub(crate) fn spawn(&self, era: Era, arguments: &[&str]) -> Client {
        Client::over_stdio(self.command(arguments).spawn().unwrap(), era)
    }

    /// Starts the program over stdio and opens the session.
    pub(crate) async fn session(&self, era: Era, arguments: &[&str]) -> Client {
        let mut session = self.spawn(era, arguments);
        session.open().await;
        session
    }

    /// Serves HTTP on ports that the kernel chooses, unless the arguments name others.
    pub(crate) async fn serve(&self, arguments: &[&str]) -> Server {
        let mut all = vec!["http", "--log-format", "json"];
        for flag in ["--mcp-addr", "--rest-addr"] {
            if !arguments.contains(&flag) {
                all.extend([flag, "127.0.0.1:0"]);
            }
        }
        all.extend(arguments);
        let mut child = self.command(&all).stdin(Stdio::null()).spawn().unwrap();
        let log = Log::read(child.stderr.take().unwrap());
        let mcp = log.address("MCP is listening on http://").await;
        let rest = if arguments.contains(&"--no-rest") {
            mcp
        } else {
            log.address("REST is listening on http://").await
        };
        Server {
            child,
            log,
            mcp,
            rest,
        }
    }
}

/// A session over stdio with the built-in sandbox.
pub(crate) async fn sandbox_session(era: Era, arguments: &[&str]) -> Client {
    let arguments = [&["--sandbox"], arguments].concat();
    TestApp::new(&[]).session(era, &arguments).await
}

/// The built-in sandbox over HTTP.
pub(crate) async fn serve_sandbox(arguments: &[&str]) -> Server {
    let arguments = [&["--sandbox"], arguments].concat();
    TestApp::new(&[]).serve(&arguments).await
}

/// What a process left behind.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A process that serves HTTP.
pub(crate) struct Server {
    child: Child,
    pub(crate) log: Log,
    pub(crate) mcp: SocketAddr,
    /// The MCP port's, where there is no REST API.
    pub(crate) rest: SocketAddr,
}

impl Server {
    /// Sends a request to the REST port.
    pub(crate) async fn rest(&self, request: Request) -> Answer {
        request.send(self.rest).await
    }

    /// The log line of the call with this id, once it is written.
    pub(crate) async fn call(&self, request_id: &str) -> Value {
        let matches = |line: &Value| {
            line["fields"]["message"] == "call" && line["fields"]["request_id"] == request_id
        };
        self.log.line(matches).await["fields"].clone()
    }

    /// The log line of the call that was answered so.
    pub(crate) async fn call_of(&self, answer: &Answer) -> Value {
        self.call(answer.header("x-request-id").unwrap()).await
    }

    /// The metrics, once they have this line: a call is counted only after its answer is written.
    pub(crate) async fn metrics_with(&self, line: &str, token: Option<&str>) -> String {
        let until = async {
            loop {
                let metrics = self.rest(Request::get("/metrics").token(token)).await;
                assert_eq!(metrics.status, 200);
                if metrics.text().lines().any(|found| found == line) {
                    return metrics.text();
                }
            }
        };
        let metrics = timeout(TEST_TIMEOUT, until).await;
        metrics.unwrap_or_else(|_| panic!("the metrics never have {line}"))
    }

    #[cfg(unix)]
    pub(crate) async fn signal(&self, name: &str) {
        signal(&self.child, name).await;
    }

    /// Ends it with SIGTERM, which loses no line of the log.
    #[cfg(unix)]
    pub(crate) async fn finish(self) -> Finished {
        self.signal("TERM").await;
        self.wait().await
    }

    /// Waits until it has ended.
    #[cfg(unix)]
    pub(crate) async fn wait(mut self) -> Finished {
        let mut stdout = String::new();
        let mut pipe = self.child.stdout.take().unwrap();
        let status = timeout(TEST_TIMEOUT, async {
            pipe.read_to_string(&mut stdout).await.unwrap();
            self.child.wait().await.unwrap()
        });
        let status = status.await.expect("the program ends");
        let stderr = self.log.all().await;
        Finished {
            status,
            stdout,
            stderr,
        }
    }
}

/// The log of a server, read as it is written.
pub(crate) struct Log(watch::Receiver<Vec<String>>);

impl Log {
    fn read(stderr: ChildStderr) -> Self {
        let (sender, receiver) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Some(line) = lines.next_line().await.unwrap() {
                sender.send_modify(|seen| seen.push(line));
            }
        });
        Self(receiver)
    }

    /// The first line that matches, once it is written.
    pub(crate) async fn line(&self, matches: impl Fn(&Value) -> bool) -> Value {
        let mut lines = self.0.clone();
        let found = |lines: &Vec<String>| {
            let mut parsed = lines.iter().map(|line| serde_json::from_str(line).unwrap());
            parsed.find(|line| matches(line))
        };
        match timeout(TEST_TIMEOUT, lines.wait_for(|lines| found(lines).is_some())).await {
            Ok(Ok(lines)) => found(&lines).unwrap(),
            _ => panic!("no such line in {:#?}", self.0.borrow()),
        }
    }

    /// The first message that begins so, once it is written.
    pub(crate) async fn message(&self, start: &str) -> String {
        let message = |line: &Value| line["fields"]["message"].as_str().unwrap().to_owned();
        message(&self.line(|line| message(line).starts_with(start)).await)
    }

    async fn address(&self, start: &str) -> SocketAddr {
        let url = self.message(start).await[start.len()..].to_owned();
        url.trim_end_matches("/mcp").parse().unwrap()
    }

    /// Everything, once its writer has ended.
    #[cfg(unix)]
    async fn all(mut self) -> String {
        let ended = async { while self.0.changed().await.is_ok() {} };
        timeout(TEST_TIMEOUT, ended).await.expect("the log ends");
        self.0.borrow().join("\n")
    }
}

#[cfg(unix)]
fn kill(child: &Child, name: &str) -> Command {
    let mut kill = Command::new("kill");
    kill.args(["-s", name, &child.id().unwrap().to_string()]);
    kill
}

#[cfg(unix)]
pub(crate) async fn signal(child: &Child, name: &str) {
    assert!(kill(child, name).status().await.unwrap().success());
}

/// Sends SIGTERM until the process has ended, which must be before an attempt (10 s) could time out. The
/// first signal may be read together with the second, or before the end of standard input.
#[cfg(unix)]
pub(crate) async fn force_end(child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(9);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "an attempt was waited for");
        // It may have ended meanwhile.
        let _ = kill(child, "TERM").status().await;
    }
}
