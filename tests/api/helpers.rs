//! One app, one session, one misbehaving upstream.

use std::{
    net::SocketAddr,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

/// Longer than any call may take: a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often something is tried: as the variable says, or few times.
pub(crate) fn number_of(variable: &str, few: usize) -> usize {
    std::env::var(variable).map_or(few, |number| number.parse().unwrap())
}

/// Makes what follows repeatable: from `SEED`, or from a seed that a failure prints.
#[expect(clippy::print_stdout, reason = "a test prints what repeats it")]
pub(crate) fn seed() {
    let seed = number_of("SEED", fastrand::usize(..));
    println!("SEED={seed}");
    fastrand::seed(seed as u64);
}

/// The two eras of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    /// 2025-11-25 and before: begins with `initialize`.
    Handshake,
    /// 2026-07-28: every request carries its own metadata.
    Stateless,
}

pub(crate) const ERAS: [Era; 2] = [Era::Handshake, Era::Stateless];

/// A fresh place to start the program in: an empty working directory and an empty environment.
pub(crate) struct TestApp {
    pub(crate) directory: TempDir,
    pub(crate) variables: Vec<(&'static str, String)>,
    short_limits: bool,
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

    /// The same with short limits.
    pub(crate) fn hasty(mut self) -> Self {
        self.short_limits = true;
        self
    }

    /// With a key, for an upstream at `url`.
    pub(crate) fn with_upstream(url: &str) -> Self {
        Self::new(&[("QOVERY_API_URL", url), ("QOVERY_API_KEY", Sandbox::KEY)])
    }

    pub(crate) fn file(&self, name: &str, contents: &str) {
        std::fs::write(self.directory.path().join(name), contents).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qovery-backups-mcp"));
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
        let output = timeout(PATIENCE, output)
            .await
            .expect("the program ends")
            .unwrap();
        Finished {
            status: output.status,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs the program, which refuses to start: with exit code 2, nothing on standard output, and what
    /// this gives.
    pub(crate) async fn refused(&self, arguments: &[&str]) -> String {
        let Finished {
            status,
            stdout,
            stderr,
        } = self.run(arguments).await;
        assert_eq!(status.code(), Some(2), "{arguments:?}: {stdout}{stderr}");
        assert_eq!(stdout, "");
        stderr
    }

    pub(crate) fn spawn(&self, era: Era, arguments: &[&str]) -> Session {
        Session::new(self.command(arguments).spawn().unwrap(), era)
    }

    pub(crate) async fn session(&self, era: Era, arguments: &[&str]) -> Session {
        let mut session = self.spawn(era, arguments);
        session.open().await;
        session
    }
}

/// A session with the built-in sandbox of a child process.
pub(crate) async fn sandbox_session(era: Era, arguments: &[&str]) -> Session {
    let arguments = [&["--sandbox"], arguments].concat();
    TestApp::new(&[]).session(era, &arguments).await
}

pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A child process and the pipes to it.
pub(crate) struct Session {
    pub(crate) child: Child,
    pub(crate) era: Era,
    /// What it says it can do.
    pub(crate) capabilities: Value,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Option<JoinHandle<String>>,
    last_id: u64,
}

impl Session {
    pub(crate) fn new(mut child: Child, era: Era) -> Self {
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let stderr = child.stderr.take().map(|mut stderr| {
            tokio::spawn(async move {
                let mut text = String::new();
                stderr.read_to_string(&mut text).await.unwrap();
                text
            })
        });
        Self {
            stdin: child.stdin.take(),
            stdout,
            stderr,
            child,
            era,
            capabilities: json!({}),
            last_id: 0,
        }
    }

    /// Shakes hands, in the era that has a handshake.
    pub(crate) async fn open(&mut self) -> Value {
        if self.era == Era::Stateless {
            return self.request("server/discover", json!({})).await;
        }
        let mut params = initialize_params();
        params["capabilities"] = self.capabilities.clone();
        let answer = self.request("initialize", params).await;
        let done = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        self.send(done.to_string().as_bytes()).await;
        answer
    }

    pub(crate) async fn send(&mut self, line: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(line).await.unwrap();
        stdin.write_all(b"\n").await.unwrap();
    }

    /// Sends a request and does not wait for the answer. Gives its id.
    pub(crate) async fn post(&mut self, method: &str, mut params: Value) -> u64 {
        self.last_id += 1;
        if self.era == Era::Stateless {
            add_stateless_meta(&mut params, &self.capabilities);
        }
        let id = self.last_id;
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.send(request.to_string().as_bytes()).await;
        id
    }

    pub(crate) async fn receive(&mut self) -> Value {
        let line = timeout(PATIENCE, self.stdout.next_line())
            .await
            .expect("an answer in time");
        serde_json::from_str(&line.unwrap().expect("an answer before the end")).unwrap()
    }

    /// The answer to the request `id`. Error responses without an id may come before it.
    pub(crate) async fn answer(&mut self, id: u64) -> Value {
        loop {
            let answer = self.receive().await;
            if answer["id"] == id {
                return answer;
            }
            assert!(answer["id"].is_null(), "unexpected answer {answer}");
        }
    }

    pub(crate) async fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.post(method, params).await;
        self.answer(id).await
    }

    /// Calls a tool and does not wait for the answer. Gives the id of the call.
    pub(crate) async fn post_call(&mut self, tool: &str, arguments: Value) -> u64 {
        let params = json!({ "name": tool, "arguments": arguments });
        self.post("tools/call", params).await
    }

    /// Calls a tool; gives its result.
    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let id = self.post_call(tool, arguments).await;
        let answer = self.answer(id).await;
        assert!(answer["error"].is_null(), "{answer}");
        answer["result"].clone()
    }

    /// Calls a tool that succeeds; gives the structured content, which the text repeats.
    pub(crate) async fn ok(&mut self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments).await;
        assert_ne!(result["isError"], true, "{result}");
        let text = result["content"][0]["text"].as_str().unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(text).unwrap(),
            result["structuredContent"]
        );
        result["structuredContent"].clone()
    }

    /// Calls a tool that fails in-band; gives the text, which is all that there is.
    pub(crate) async fn refused(&mut self, tool: &str, arguments: Value) -> String {
        let result = self.call(tool, arguments).await;
        assert_eq!(result["isError"], true, "{result}");
        assert!(result["structuredContent"].is_null(), "{result}");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for the end. Gives what was left on standard output, and all of standard error.
    pub(crate) async fn finish(mut self) -> Finished {
        self.close_stdin();
        let mut stdout = String::new();
        while let Some(line) = timeout(PATIENCE, self.stdout.next_line())
            .await
            .unwrap()
            .unwrap()
        {
            stdout.push_str(&line);
            stdout.push('\n');
        }
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .expect("the program ends")
            .unwrap();
        let stderr = self.stderr.take().unwrap().await.unwrap();
        Finished {
            status,
            stdout,
            stderr,
        }
    }
}

/// What begins a session of the handshake era.
pub(crate) fn initialize_params() -> Value {
    json!({
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": { "name": "test", "version": "1" }
    })
}

/// Adds what every request of the stateless era carries, unless it says something else there.
pub(crate) fn add_stateless_meta(params: &mut Value, capabilities: &Value) {
    let Some(params) = params.as_object_mut() else {
        return;
    };
    let meta = params.entry("_meta").or_insert_with(|| json!({}));
    for (key, value) in [
        ("protocolVersion", json!("2026-07-28")),
        ("clientInfo", json!({ "name": "test", "version": "1" })),
        ("clientCapabilities", capabilities.clone()),
    ] {
        let meta = meta.as_object_mut().unwrap();
        let key = format!("io.modelcontextprotocol/{key}");
        meta.entry(key).or_insert(value);
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

/// Asks a process to end until it has, and sees that no attempt was waited for. The first signal may be
/// taken together with the second, or be read before the end of standard input.
#[cfg(unix)]
pub(crate) async fn hurry(child: &mut Child) {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() && started.elapsed() < PATIENCE {
        // It may have ended meanwhile.
        let _ = kill(child, "TERM").status().await;
    }
    let elapsed = started.elapsed();
    assert!(
        elapsed.as_secs() < 8,
        "an attempt was waited for: {elapsed:?}"
    );
}

/// What a misbehaving upstream does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Sends these bytes and closes the connection.
    Bytes(Vec<u8>),
    /// Sends these bytes, then zeros until the other side has enough.
    Flood(Vec<u8>),
    /// Never answers.
    Hang,
    /// Breaks the connection.
    Reset,
    /// Answers when [`Upstream::release`] is called.
    Held(Vec<u8>),
}

/// An answer with a JSON body.
pub(crate) fn json_reply(status: &str, body: &Value) -> Reply {
    reply(
        status,
        "Content-Type: application/json\r\n",
        &body.to_string(),
    )
}

/// An answer with these header lines, each of which ends with a line break.
pub(crate) fn reply(status: &str, headers: &str, body: &str) -> Reply {
    Reply::Bytes(response(status, headers, body))
}

fn response(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// An upstream that does as it is told, and remembers what it was asked.
pub(crate) struct Upstream {
    address: SocketAddr,
    /// The head and body of each request.
    requests: Arc<Mutex<Vec<String>>>,
    seen: watch::Receiver<usize>,
    hold: watch::Sender<bool>,
}

impl Upstream {
    /// Starts one that answers the request number `n` (from 0), given its first line.
    pub(crate) async fn start(
        script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    /// Starts one where somebody listens already.
    pub(crate) fn on(
        listener: TcpListener,
        script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen_sender, seen) = watch::channel(0);
        let (hold, gate) = watch::channel(true);
        let seen_sender = Arc::new(seen_sender);
        let script = Arc::new(script);
        let log = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (log, script) = (Arc::clone(&log), Arc::clone(&script));
                let (seen, mut gate) = (Arc::clone(&seen_sender), gate.clone());
                tokio::spawn(async move {
                    let request = read_request(&mut stream).await;
                    let line = request.lines().next().unwrap_or_default().to_owned();
                    let number = {
                        let mut log = log.lock().unwrap();
                        log.push(request);
                        log.len() - 1
                    };
                    seen.send_modify(|seen| *seen += 1);
                    match script(number, &line) {
                        Reply::Bytes(bytes) => write(&mut stream, &bytes).await,
                        Reply::Flood(head) => {
                            stream.write_all(&head).await.unwrap();
                            let zeros = vec![b'0'; 1 << 16];
                            while stream.write_all(&zeros).await.is_ok() {}
                        }
                        Reply::Hang => std::future::pending().await,
                        Reply::Reset => stream.set_zero_linger().unwrap(),
                        Reply::Held(bytes) => {
                            gate.wait_for(|held| !held).await.unwrap();
                            write(&mut stream, &bytes).await;
                        }
                    }
                });
            }
        });
        Self {
            address,
            requests,
            seen,
            hold,
        }
    }

    /// Gives a page with three backups to a removal that looks first, and `reply` to anything else.
    pub(crate) async fn failing(removal: bool, reply: Reply) -> Self {
        Self::start(move |_, line| {
            if removal && line.starts_with("GET ") {
                page(&[backup(1, "READY"), backup(2, "READY"), backup(3, "READY")])
            } else {
                reply.clone()
            }
        })
        .await
    }

    /// Starts one that gives every request the same reply.
    pub(crate) async fn always(reply: Reply) -> Self {
        Self::start(move |_, _| reply.clone()).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits until it has received so many requests.
    pub(crate) async fn received(&mut self, count: usize) {
        timeout(PATIENCE, self.seen.wait_for(|seen| *seen >= count))
            .await
            .unwrap()
            .unwrap();
    }

    /// Lets what is held go.
    pub(crate) fn release(&self) {
        self.hold.send_replace(false);
    }
}

/// A write that fails is the other side's business: it may have left.
async fn write(stream: &mut TcpStream, bytes: &[u8]) {
    if stream.write_all(bytes).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).await.unwrap_or(0);
        if length == 0 {
            return text;
        }
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let expected = head
                .lines()
                .find_map(|line| {
                    line.to_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse()
                        .ok()
                })
                .unwrap_or(0);
            if body.len() >= expected {
                return text;
            }
        }
    }
}

/// A backup as Qovery sends it.
pub(crate) fn backup(number: u32, state: &str) -> Value {
    json!({
        "id": backup_id(number),
        "created_at": format!("2026-06-{number:02}T00:00:00Z"),
        "name": format!("backup {number}"),
        "message": "",
        "status": { "state": state },
    })
}

pub(crate) fn backup_id(number: u32) -> String {
    format!("bac00000-0000-4000-8000-{number:012}")
}

/// The one page of a database with these backups.
pub(crate) fn page(backups: &[Value]) -> Reply {
    json_reply(
        "200 OK",
        &json!({ "page": 1, "page_size": 20, "results": backups }),
    )
}

/// A JSON body that is sent only when the test says so.
pub(crate) fn held_reply(status: &str, body: &str) -> Reply {
    Reply::Held(response(status, "Content-Type: application/json\r\n", body))
}

/// An empty page that is sent only when the test says so.
pub(crate) fn held_page() -> Reply {
    let body = json!({ "page": 1, "page_size": 20, "results": [] });
    held_reply("200 OK", &body.to_string())
}
