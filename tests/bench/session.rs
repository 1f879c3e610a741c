//! What a session costs: start-up, memory, the time that a call adds, and the size of the binary.
//!
//! `cargo bench --bench session` starts the release binary as a host does, over pipes, against an
//! upstream of its own on loopback, and prints one table of figures and targets. A missed target
//! is said, and is no failure; a wrong answer is one, so that a broken server never looks fast.
//!
//! - *Start to first `tools/list`*: from before the process exists until its answer is read, with
//!   the handshake (`initialize`, then the list) and in the stateless era (the list alone).
//! - *Idle memory*: the proportional set size (PSS) right after that answer, before any call.
//! - *A list of 20 backups*: calls one at a time, and the same page fetched by an HTTP client with
//!   no server between, in alternating blocks, so that noise hits both. What a call adds is the
//!   difference of the medians; a busy machine shows in both rows, and in the p99 first.
//! - *Memory growth*: resident memory (RSS), which other processes do not change as they do PSS.
//! - *Binary*: built with the features of the dev-dependencies as well, as Cargo does for benches.
//!
//! Memory is read from `/proc`, and is not measured where there is none.
//! A virtual machine takes long to wake an idle processor, and a pipe may do so for each message:
//! `taskset -c 0 cargo bench --bench session` keeps all on one, and shows the server's own share.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measuring program prints its table, and stops at what it cannot measure"
)]

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Instant,
};

use axum::{Router, body::Bytes, http::header, routing::get};
use serde_json::{Value, json};
use tokio::runtime::{self, Runtime};

const BINARY: &str = env!("CARGO_BIN_EXE_qovery-backups-mcp");
const KEY: &str = "qov_bench_0000000000000000";
const DATABASE: &str = "0de50000-0000-4000-8000-000000000001";
/// Qovery's page size.
const BACKUPS: usize = 20;

/// Start-ups of each kind; odd, so that one of them is the median.
const STARTS: usize = 21;
/// Calls of each kind before the first that counts.
const WARM_UP: usize = 1_000;
/// Calls of one kind before it is the other's turn: short beside most disturbances.
const BLOCK: usize = 50;
const BLOCKS: usize = 100;
/// Calls until memory should have settled, and calls over which it must not grow.
const SETTLING: usize = 5_000;
const GROWING: usize = 50_000;

/// The most that a figure may be, in its unit.
type Target = (f64, &'static str);
const START_UP: Target = (5.0, "ms");
const IDLE_MEMORY: Target = (7.0, "MiB");
const ADDED_TO_A_CALL: Target = (250.0, "µs");
const GROWTH: Target = (2.0, "MiB");
const SIZE: Target = (8.0, "MB");
const UNMEASURED: &str = "not measured: no smaps_rollup here";

fn main() {
    let upstream = Upstream::start();
    print_row("figure", "measured", "target", "");
    print_row("---", "---", "---", "---");
    measure_start_up(&upstream);
    measure_calls(&upstream);
    measure_growth(&upstream);
    measure_size();
}

fn measure_start_up(upstream: &Upstream) {
    let mut memory = Vec::new();
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
                memory.extend(session.memory("Pss:"));
                (arrived - start).as_secs_f64() * 1e3
            })
            .collect();
        let (median, slowest) = (percentile(&mut times, 50), percentile(&mut times, 100));
        let measured = format!("median {median:.2} ms, slowest {slowest:.2} ms");
        print_judged(figure, &measured, median, START_UP);
    }
    let figure = "idle memory after it (PSS)";
    if memory.is_empty() {
        return print_row(figure, UNMEASURED, "", "");
    }
    let median = percentile(&mut memory, 50);
    let measured = format!("median {median:.2} MiB");
    print_judged(figure, &measured, median, IDLE_MEMORY);
}

fn measure_calls(upstream: &Upstream) {
    let mut session = Session::start(upstream, Era::Handshake);
    let fetch = direct(upstream);
    for _ in 0..WARM_UP {
        session.list_backups();
        fetch();
    }
    let (mut served, mut fetched) = (Vec::new(), Vec::new());
    for _ in 0..BLOCKS {
        served.extend((0..BLOCK).map(|_| session.list_backups()));
        fetched.extend((0..BLOCK).map(|_| fetch()));
    }
    let print_times = |figure, times: &mut [f64]| {
        let (p50, p99) = (percentile(times, 50), percentile(times, 99));
        print_row(figure, &format!("p50 {p50:.0} µs, p99 {p99:.0} µs"), "", "");
        p50
    };
    let with = print_times("a list of 20 backups, over stdio", &mut served);
    let without = print_times("the same page, fetched directly", &mut fetched);
    let added = with - without;
    let figure = "what a call adds, at the p50";
    let measured = format!("{added:+.0} µs, ratio {:.2}", with / without);
    print_judged(figure, &measured, added, ADDED_TO_A_CALL);
}

fn measure_growth(upstream: &Upstream) {
    let figure = format!("memory growth over {GROWING} calls (RSS)");
    let mut session = Session::start(upstream, Era::Handshake);
    if session.memory("Rss:").is_none() {
        return print_row(&figure, UNMEASURED, "", "");
    }
    let [before, after] = [SETTLING, GROWING].map(|calls| {
        for _ in 0..calls {
            session.list_backups();
        }
        session.memory("Rss:").expect("as before")
    });
    let growth = after - before;
    let measured = format!("{growth:+.2} MiB, from {before:.2} MiB");
    print_judged(&figure, &measured, growth, GROWTH);
}

fn measure_size() {
    let bytes = fs::metadata(BINARY).expect("the binary is there").len();
    let megabytes = f64::from(u32::try_from(bytes).expect("less than 4 GB")) / 1e6;
    let measured = format!("{megabytes:.2} MB");
    print_judged("release binary", &measured, megabytes, SIZE);
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
        // Sockets need the second on Windows.
        let kept = env::vars_os().filter(|(name, _)| name == "PATH" || name == "SystemRoot");
        let mut server = Command::new(BINARY)
            .env_clear()
            .envs(kept)
            .env("QOVERY_API_URL", &upstream.base_url)
            .env("QOVERY_API_KEY", KEY)
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
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
        let arguments = json!({ "databaseId": DATABASE });
        let params = json!({ "name": "list-database-backups", "arguments": arguments });
        let (result, sent, arrived) = self.ask("tools/call", params);
        let backups = result["structuredContent"]["results"].as_array();
        assert_eq!(backups.map(Vec::len), Some(BACKUPS), "{result}");
        (arrived - sent).as_secs_f64() * 1e6
    }

    fn ask(&mut self, method: &str, mut params: Value) -> Answer {
        if self.era == Era::Stateless {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": { "name": "bench", "version": "1" },
                "io.modelcontextprotocol/clientCapabilities": {},
            });
        }
        self.last_id += 1;
        let id = self.last_id;
        let question = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let sent = self.send(&question);
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line);
        let arrived = Instant::now();
        assert_ne!(read.expect("an answer can be read"), 0, "the server left");
        let mut answer: Value = serde_json::from_str(&line).expect("an answer is JSON");
        let result = answer["result"].take();
        let good = answer["id"] == id && result.is_object() && result["isError"] != true;
        assert!(good, "{question} was answered with {line}");
        (result, sent, arrived)
    }

    /// Sends a message in one piece, and says when.
    fn send(&mut self, message: &Value) -> Instant {
        let line = format!("{message}\n");
        let sent = Instant::now();
        let written = self.stdin.write_all(line.as_bytes());
        written.expect("the server reads");
        sent
    }

    /// A field of `smaps_rollup` in MiB, where the system has such a file.
    fn memory(&self, field: &str) -> Option<f64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.server.id())).ok()?;
        let value = rollup.lines().find_map(|line| line.strip_prefix(field))?;
        let kibibytes: f64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes / 1024.0)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Fails for a server that has left already, which is as well.
        let _ = self.server.kill().and_then(|()| self.server.wait());
    }
}

/// The yardstick of a call: an HTTP client on one thread, as the server has it, that fetches a page
/// of backups, and says how many microseconds that took.
fn direct(upstream: &Upstream) -> impl Fn() -> f64 {
    // reqwest wants one, even for plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build();
    let http = http.expect("a client can be built");
    let runtime = one_thread();
    let url = format!("{}/database/{DATABASE}/backup", upstream.base_url);
    move || {
        let sent = Instant::now();
        let body = runtime.block_on(async { http.get(&url).send().await?.bytes().await });
        let taken = sent.elapsed().as_secs_f64() * 1e6;
        assert_eq!(body.expect("the upstream answers"), upstream.page);
        taken
    }
}

/// A Qovery of one page, on a thread of its own, which ends with the program.
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
        let answer = ([(header::CONTENT_TYPE, "application/json")], page.clone());
        let list = get(async || answer);
        let app = Router::new().route("/database/{database}/backup", list);
        thread::spawn(|| {
            one_thread().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime");
                axum::serve(listener, app).await
            })
        });
        let base_url = format!("http://{address}");
        Self { base_url, page }
    }
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

fn print_row(figure: &str, measured: &str, target: &str, verdict: &str) {
    println!("| {figure:<40} | {measured:<34} | {target:<7} | {verdict:<7} |");
}
