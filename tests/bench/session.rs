//! What a call costs: start-up, memory, and the time that the server adds to Qovery's, over stdio and
//! HTTP; and what the HTTP ports take under load.
//!
//! `cargo bench --bench session` starts the release binary over pipes and with ports, against an upstream of
//! its own on loopback, and prints one table of figures and targets. A missed target is printed and is no
//! failure; a wrong answer is one, so that a broken server never looks fast.
//!
//! - *Start to first `tools/list`*: from before the process exists until its answer is read, with
//!   the handshake (`initialize`, then the list) and in the stateless era (the list alone).
//! - *Idle memory*: the proportional set size (PSS) right after that answer, read from `/proc`.
//! - *A list of 20 backups*: calls one at a time, and the same page fetched by an HTTP client without the
//!   server, in alternating blocks, so that noise hits both. What a call adds is the difference of the
//!   medians.
//! - *Under load*: see [`load`]; it needs wrk, and for the comparison nginx.
//!
//! `taskset -c 0 cargo bench --bench session` keeps all on one core, and shows the server's own share:
//! a virtual machine takes long to wake an idle processor.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measuring program prints its table, and stops at what it cannot measure"
)]

#[path = "session/http.rs"]
mod http;
#[path = "session/load.rs"]
mod load;

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Instant,
};

use hyper::body::Bytes;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::{self, Runtime},
};

const BINARY: &str = env!("CARGO_BIN_EXE_qovery-backups-mcp");
const KEY: &str = "qov_bench_0000000000000000";
const DATABASE: &str = "0de50000-0000-4000-8000-000000000001";
const LIST: &str = "list-database-backups";
/// Of the stateless era.
const REVISION: &str = "2026-07-28";
/// Qovery's page size.
const BACKUPS: usize = 20;

/// Start-ups of each kind; odd, so that one of them is the median.
const STARTS: usize = 21;
/// Calls of each kind before the first that counts.
const WARM_UP: usize = 1_000;
/// Calls of one kind before it is the other's turn: short beside most disturbances.
const BLOCK: usize = 50;
const BLOCKS: usize = 100;

/// The most that a figure may be, in its unit.
type Target = (f64, &'static str);
const START_UP: Target = (5.0, "ms");
const IDLE_MEMORY: Target = (7.0, "MiB");
const ADDED_TO_A_CALL: Target = (250.0, "µs");
const UNMEASURED: &str = "not measured: no smaps_rollup here";

fn main() {
    let upstream = Upstream::start();
    print_row("figure", "measured", "target", "");
    print_row("---", "---", "---", "---");
    measure_start_up(&upstream);
    measure_calls(&upstream);
    http::measure(&upstream);
    load::measure(&upstream);
}

fn measure_start_up(upstream: &Upstream) {
    let mut idle = Vec::new();
    for (era, figure) in [
        (Era::Handshake, "start to first `tools/list`, handshake"),
        (Era::Stateless, "start to first `tools/list`, stateless"),
    ] {
        let mut times: Vec<f64> = (0..STARTS)
            .map(|_| {
                let start = Instant::now();
                let mut session = Session::start(upstream, era);
                let (result, _, arrived) = session.ask("tools/list", json!({}));
                assert!(result["tools"][0].is_object(), "{result}");
                idle.extend(memory(&session.server, "Pss:"));
                (arrived - start).as_secs_f64() * 1e3
            })
            .collect();
        let (median, slowest) = (percentile(&mut times, 50), percentile(&mut times, 100));
        let measured = format!("median {median:.2} ms, slowest {slowest:.2} ms");
        print_judged(figure, &measured, median, START_UP);
    }
    let figure = "idle memory after it (PSS)";
    if idle.is_empty() {
        return print_row(figure, UNMEASURED, "", "");
    }
    let median = percentile(&mut idle, 50);
    let measured = format!("median {median:.2} MiB");
    print_judged(figure, &measured, median, IDLE_MEMORY);
}

fn measure_calls(upstream: &Upstream) {
    let mut session = Session::start(upstream, Era::Handshake);
    let client = Client::new();
    let mut list = || session.list_backups();
    let direct_url = upstream.page_url();
    let mut fetch = || client.fetch(&direct_url, upstream);
    let [mut served, mut fetched] = take_turns([&mut list, &mut fetch]);
    let with = print_times("a list of 20 backups, over stdio", &mut served);
    let without = print_times("the same page, fetched directly", &mut fetched);
    let added = with - without;
    let figure = "what a call adds, at the p50";
    print_judged(figure, &added_to(without, with), added, ADDED_TO_A_CALL);
}

/// The times of calls of several kinds, in alternating blocks.
fn take_turns<const KINDS: usize>(
    mut kinds: [&mut dyn FnMut() -> f64; KINDS],
) -> [Vec<f64>; KINDS] {
    for call in &mut kinds {
        for _ in 0..WARM_UP {
            call();
        }
    }
    let mut times = [const { Vec::new() }; KINDS];
    for _ in 0..BLOCKS {
        for (call, times) in kinds.iter_mut().zip(&mut times) {
            times.extend((0..BLOCK).map(|_| call()));
        }
    }
    times
}

fn print_times(figure: &str, times: &mut [f64]) -> f64 {
    let (p50, p99) = (percentile(times, 50), percentile(times, 99));
    print_row(figure, &format!("p50 {p50:.0} µs, p99 {p99:.0} µs"), "", "");
    p50
}

fn added_to(without: f64, with: f64) -> String {
    format!("{:+.0} µs, ratio {:.2}", with - without, with / without)
}

/// The server, and the host's ends of its pipes.
struct Session {
    server: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    era: Era,
    last_id: u64,
}

/// How a client says which revision of the protocol it speaks.
#[derive(Clone, Copy, PartialEq)]
enum Era {
    /// Once, with `initialize`.
    Handshake,
    /// In each request.
    Stateless,
}

/// What was answered, and when it was asked and when it arrived.
type Answer = (Value, Instant, Instant);

impl Session {
    /// A server that is ready for the first request; with the handshake it has answered one.
    fn start(upstream: &Upstream, era: Era) -> Self {
        let mut server = server(upstream, None)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // It says a line for each call.
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let mut session = Self {
            stdin: server.stdin.take().expect("stdin is a pipe"),
            stdout: BufReader::new(server.stdout.take().expect("stdout is a pipe")),
            server,
            era,
            last_id: 0,
        };
        if era == Era::Handshake {
            let client = json!({ "name": "bench", "version": "1" });
            let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client });
            session.ask("initialize", params);
            session.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        }
        session
    }

    /// Asks for a page of backups, and says how many microseconds the answer took.
    fn list_backups(&mut self) -> f64 {
        let (result, sent, arrived) = self.ask("tools/call", list_of_backups());
        check_list(&result);
        (arrived - sent).as_secs_f64() * 1e6
    }

    fn ask(&mut self, method: &str, params: Value) -> Answer {
        self.last_id += 1;
        let id = self.last_id;
        let question = question(self.era, id, method, params);
        let sent = self.send(&question);
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line);
        let arrived = Instant::now();
        assert_ne!(read.expect("an answer can be read"), 0, "the server left");
        (result_of(line.as_bytes(), id), sent, arrived)
    }

    /// Sends a message in one piece, and says when.
    fn send(&mut self, message: &Value) -> Instant {
        let line = format!("{message}\n");
        let sent = Instant::now();
        let written = self.stdin.write_all(line.as_bytes());
        written.expect("the server reads");
        sent
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Fails for a server that has left already, which is as well.
        let _ = self.server.kill().and_then(|()| self.server.wait());
    }
}

fn kept_to(core: Option<&str>, program: &str) -> Command {
    let Some(core) = core else {
        return Command::new(program);
    };
    let mut taskset = Command::new("taskset");
    taskset.args(["--cpu-list", core, program]);
    taskset
}

/// The server, kept to one core where one is given.
fn server(upstream: &Upstream, core: Option<&str>) -> Command {
    let mut command = kept_to(core, BINARY);
    // Sockets need the second on Windows.
    let kept = env::vars_os().filter(|(name, _)| name == "PATH" || name == "SystemRoot");
    command
        .env_clear()
        .envs(kept)
        .env("QOVERY_API_URL", &upstream.base_url)
        .env("QOVERY_API_KEY", KEY)
        .current_dir(env!("CARGO_TARGET_TMPDIR"));
    command
}

fn question(era: Era, id: u64, method: &str, mut params: Value) -> Value {
    if era == Era::Stateless {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": REVISION,
            "io.modelcontextprotocol/clientInfo": { "name": "bench", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
        });
    }
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn list_of_backups() -> Value {
    json!({ "name": LIST, "arguments": { "databaseId": DATABASE } })
}

/// The result in an answer to the question `id`.
fn result_of(answer: &[u8], id: u64) -> Value {
    let mut read: Value = serde_json::from_slice(answer).expect("an answer is JSON");
    let result = read["result"].take();
    let good = read["id"] == id && result.is_object() && result["isError"] != true;
    assert!(good, "{}", String::from_utf8_lossy(answer));
    result
}

fn check_list(result: &Value) {
    let backups = result["structuredContent"]["backups"].as_array();
    assert_eq!(backups.map(Vec::len), Some(BACKUPS), "{result}");
}

/// A field of `smaps_rollup` in MiB, where the system has such a file.
fn memory(process: &Child, field: &str) -> Option<f64> {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.id())).ok()?;
    let value = rollup.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: f64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes / 1024.0)
}

/// An HTTP client on one thread, as the server has it.
struct Client {
    http: reqwest::Client,
    runtime: Runtime,
}

impl Client {
    fn new() -> Self {
        // reqwest wants one, even for plain HTTP.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build();
        Self {
            http: http.expect("a client can be built"),
            runtime: one_thread(),
        }
    }

    /// The answer, and how many microseconds it took.
    fn send(&self, request: RequestBuilder) -> (Bytes, f64) {
        let sent = Instant::now();
        let answer = self.runtime.block_on(async {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.bytes().await?))
        });
        let taken = sent.elapsed().as_secs_f64() * 1e6;
        let (status, body) = answer.expect("an answer");
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        (body, taken)
    }

    /// Fetches the page of backups, and says how many microseconds that took. From the upstream
    /// itself, it is the yardstick of a call.
    fn fetch(&self, url: &str, upstream: &Upstream) -> f64 {
        let (body, taken) = self.send(self.http.get(url));
        assert_eq!(body, upstream.page);
        taken
    }
}

/// A Qovery of one page, on a thread of its own, which ends with the program. It answers whatever is
/// asked, so as to cost next to nothing beside what is measured.
struct Upstream {
    base_url: String,
    page: Bytes,
}

impl Upstream {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("as tokio needs it");
        let address = listener.local_addr().expect("it is bound");
        let page = Bytes::from(page().to_string());
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            page.len()
        )
        .into_bytes();
        answer.extend(&page);
        thread::spawn(|| one_thread().block_on(answer_all(listener, Bytes::from(answer))));
        let base_url = format!("http://{address}");
        Self { base_url, page }
    }

    fn page_url(&self) -> String {
        format!("{}/database/{DATABASE}/backup", self.base_url)
    }
}

async fn answer_all(listener: TcpListener, answer: Bytes) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(answer_each(stream, answer.clone()));
    }
}

/// Until the client leaves. No request has a body, nor comes before the answer to the one before.
async fn answer_each(mut stream: TcpStream, answer: Bytes) -> io::Result<()> {
    let mut request = Vec::new();
    while stream.read_buf(&mut request).await? > 0 {
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            stream.write_all(&answer).await?;
        }
    }
    Ok(())
}

/// What Qovery says of 20 backups, in about 13 kB.
fn page() -> Value {
    let backup = |number| {
        let id = format!("bac00000-0000-4000-8000-{number:012}");
        let date = "2026-07-28T02:00:00.000Z";
        json!({
            "id": id, "created_at": date, "updated_at": date,
            "name": format!("nightly-{number:02}"), "message": "Scheduled.",
            "status": {
                "id": id, "state": "READY", "service_deployment_status": "UP_TO_DATE",
                "last_deployment_date": date, "is_part_last_deployment": true,
                "steps": {
                    "total_duration_sec": 42, "total_computing_duration_sec": 40,
                    "details": [{ "step_name": "EXECUTING", "status": "SUCCESS", "duration_sec": 40 }]
                },
                "execution_id": format!("{id}-1"),
                "status_details": { "action": "DEPLOY", "status": "SUCCESS", "sub_action": "NONE" },
                "deployment_request_id": null, "deployment_requests_count": 0
            }
        })
    };
    let backups: Vec<Value> = (1..=BACKUPS).rev().map(backup).collect();
    json!({ "results": backups, "page": 1, "page_size": BACKUPS })
}

fn one_thread() -> Runtime {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * percent / 100]
}

fn print_judged(figure: &str, measured: &str, value: f64, (limit, unit): Target) {
    let verdict = if value <= limit { "reached" } else { "missed" };
    print_row(figure, measured, &format!("{limit} {unit}"), verdict);
}

/// As [`print_judged`], where the limit is the least that a figure may be.
fn print_judged_least(figure: &str, measured: &str, value: f64, (limit, unit): Target) {
    let verdict = if value >= limit { "reached" } else { "missed" };
    print_row(figure, measured, &format!(">= {limit}{unit}"), verdict);
}

fn print_row(figure: &str, measured: &str, target: &str, verdict: &str) {
    println!("| {figure:<40} | {measured:<60} | {target:<7} | {verdict:<7} |");
}
