//! The HTTP ports under load from wrk: 32 connections, each of which asks again once it is answered.
//! Every answer must have status 200 and the length of one that was checked.
//!
//! What is measured keeps to one core where there are two and taskset; wrk, the upstream and the
//! reader of the server's log have the others. Processor time is what the system charged the
//! process. On a busy machine it rises by a part, as caches are shared; calls a second fall by as
//! much as others take, and the row shows it: the core was not busy with what is measured.
//!
//! nginx, whose `proxy_pass` hands out the same page, is the yardstick of the REST API: as it comes,
//! with a new connection to the upstream for each request, and told to keep them, as the server does.
//! They take turns. Where nginx alone was not busy all the time, it waited for wrk and the upstream:
//! then the ratio flatters the server, and the processor times compare better.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    Client, KEY, Target, UNMEASURED, Upstream,
    http::{self, Server},
    kept_to, memory, print_judged, print_judged_least, print_row,
};

const CONNECTIONS: u32 = 32;
/// They count, for each kind of call; one more before them does not.
const SECONDS: u32 = 10;
/// Turns in which those that are compared use up their seconds.
const TURNS: u32 = 2;
/// The core of what is measured.
const CORE: &str = "0";

const PROCESSOR_TIME: Target = (160.0, "µs");
const MEMORY: Target = (16.0, "MiB");
/// The least that it may be.
const BESIDE_NGINX: Target = (0.6, "");

const MCP: &str = "MCP, 32 connections for 10 s";
const REST: &str = "REST, 32 connections for 10 s";
const NGINX: &str = "nginx's proxy_pass, the same";
const NGINX_KEPT: &str = "the same, connections kept";
const RATIO: &str = "calls a second, REST beside nginx";
const RATIO_KEPT: &str = "the same, connections kept beside it";
const MEMORY_AFTER: &str = "memory after the load (PSS)";

pub(super) fn measure(upstream: &Upstream) {
    if !is_installed("wrk") {
        for figure in [
            MCP,
            REST,
            NGINX,
            NGINX_KEPT,
            RATIO,
            RATIO_KEPT,
            MEMORY_AFTER,
        ] {
            print_row(figure, "not measured: no wrk here", "", "");
        }
        return;
    }
    let core = clear_a_core();
    let server = Server::start(upstream, core);
    let client = Client::new();
    measure_mcp(&server, &client, core);
    measure_rest(&server, &client, upstream, core);
    match memory(&server.process, "Pss:") {
        Some(after) => print_judged(MEMORY_AFTER, &format!("{after:.2} MiB"), after, MEMORY),
        None => print_row(MEMORY_AFTER, UNMEASURED, "", ""),
    }
}

fn measure_mcp(server: &Server, client: &Client, core: Option<&str>) {
    let (headers, body) = http::question_for_backups();
    let length = server.list_over_mcp(client).0.len();
    let script = write_script("mcp.lua", "POST", &headers, &body, length);
    let load = Load {
        process: &server.process,
        url: &server.mcp_url,
        script: &script,
    };
    let [cost] = take_turns(&[load]);
    match cost.of_a_call() {
        Some(time) => print_judged(MCP, &cost.describe(core), time, PROCESSOR_TIME),
        None => print_row(MCP, &cost.describe(core), "", ""),
    }
}

fn measure_rest(server: &Server, client: &Client, upstream: &Upstream, core: Option<&str>) {
    client.fetch(&server.page_url, upstream);
    let script = write_script("rest.lua", "GET", &[], "", upstream.page.len());
    let load = |process, url| Load {
        process,
        url,
        script: &script,
    };
    let rest = load(&server.process, &server.page_url);
    if !is_installed("nginx") {
        let [rest] = take_turns(&[rest]);
        print_row(REST, &rest.describe(core), "", "");
        for figure in [NGINX, NGINX_KEPT, RATIO, RATIO_KEPT] {
            print_row(figure, "not measured: no nginx here", "", "");
        }
        return;
    }
    let [plain, kept] = [false, true].map(|keeps| Nginx::start(upstream, core, keeps));
    let loads = [&plain, &kept].map(|nginx| {
        client.fetch(&nginx.page_url, upstream);
        load(&nginx.process, &nginx.page_url)
    });
    let [plain, kept] = loads;
    let [rest, plain, kept] = take_turns(&[rest, plain, kept]);
    print_row(REST, &rest.describe(core), "", "");
    print_row(NGINX, &plain.describe(core), "", "");
    print_row(NGINX_KEPT, &kept.describe(core), "", "");
    for (figure, nginx) in [(RATIO, plain), (RATIO_KEPT, kept)] {
        let ratio = rest.a_second() / nginx.a_second();
        print_judged_least(figure, &format!("ratio {ratio:.2}"), ratio, BESIDE_NGINX);
    }
}

/// One kind of call, made by wrk, and the process that answers it.
struct Load<'a> {
    process: &'a Child,
    url: &'a str,
    script: &'a Path,
}

/// What calls cost.
#[derive(Default)]
struct Cost {
    calls: f64,
    seconds: f64,
    /// In seconds, where the system tells it.
    processor: Option<f64>,
}

/// The cost of each, in alternating runs after one that warms up.
fn take_turns<const LOADS: usize>(loads: &[Load<'_>; LOADS]) -> [Cost; LOADS] {
    for load in loads {
        load.run(1);
    }
    let mut costs = loads.each_ref().map(|_| Cost::default());
    for _ in 0..TURNS {
        for (load, cost) in loads.iter().zip(&mut costs) {
            cost.add(&load.run(SECONDS / TURNS));
        }
    }
    costs
}

impl Load<'_> {
    fn run(&self, seconds: u32) -> Cost {
        let before = processor_time(self.process);
        let output = Command::new("wrk")
            .args(["--threads", "1", "--timeout", "10s"])
            .args(["--connections", &CONNECTIONS.to_string()])
            .args(["--duration", &format!("{seconds}s")])
            .arg("--script")
            .arg(self.script)
            .arg(self.url)
            .output()
            .expect("wrk runs");
        let after = processor_time(self.process);
        let said = String::from_utf8_lossy(&output.stdout);
        let (_, figures) = said.split_once("figures").unwrap_or_default();
        let figures: Vec<f64> = figures
            .split_whitespace()
            .map_while(|figure| figure.parse().ok())
            .collect();
        let &[calls, microseconds, wrong] = figures.as_slice() else {
            unreachable!("the script prints three figures, and wrk printed {said}")
        };
        assert!(calls > 0.0 && wrong < 1.0, "wrong answers: {said}");
        Cost {
            calls,
            seconds: microseconds / 1e6,
            processor: before.zip(after).map(|(before, after)| after - before),
        }
    }
}

impl Cost {
    fn add(&mut self, more: &Self) {
        self.calls += more.calls;
        self.seconds += more.seconds;
        self.processor = more
            .processor
            .map(|processor| processor + self.processor.unwrap_or_default());
    }

    fn a_second(&self) -> f64 {
        self.calls / self.seconds
    }

    /// Microseconds of processor time.
    fn of_a_call(&self) -> Option<f64> {
        Some(self.processor? / self.calls * 1e6)
    }

    fn describe(&self, core: Option<&str>) -> String {
        let rate = format!("{:.0} calls/s", self.a_second());
        let place = if core.is_some() {
            "one core"
        } else {
            "not pinned"
        };
        let (Some(time), Some(processor)) = (self.of_a_call(), self.processor) else {
            return format!("{rate}, {place}");
        };
        let busy = 100.0 * processor / self.seconds;
        format!("{rate}, {time:.0} µs of processor each, {place} {busy:.0} % busy")
    }
}

/// A script for wrk, which by itself takes only a status from 400 on for an error.
fn write_script(
    name: &str,
    method: &str,
    headers: &[(&str, &str)],
    body: &str,
    length: usize,
) -> PathBuf {
    let headers: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("wrk.headers['{name}'] = '{value}'\n"))
        .collect();
    let headers = headers.concat();
    let script = format!(
        "wrk.method = '{method}'\n{headers}wrk.body = [[{body}]]
        wrong = 0
        function response(status, headers, body)
            if status ~= 200 or #body ~= {length} then wrong = wrong + 1 end
        end
        function setup(thread) only = thread end
        function done(summary)
            local errors = summary.errors
            wrong = only:get('wrong') + errors.status
                + errors.connect + errors.read + errors.write + errors.timeout
            print('figures', summary.requests, summary.duration, wrong)
        end"
    );
    let path = scratch().join(name);
    fs::write(&path, script).expect("a script can be written");
    path
}

/// nginx as a proxy before the upstream, with one worker.
struct Nginx {
    process: Child,
    page_url: String,
}

impl Nginx {
    /// One that `keeps` its connections to the upstream, or makes a new one for each request.
    fn start(upstream: &Upstream, core: Option<&str>, keeps: bool) -> Self {
        let directory = scratch().join(if keeps { "nginx-kept" } else { "nginx" });
        fs::create_dir_all(&directory).expect("a directory can be made");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
        let address = free.expect("a free port").to_string();
        let configuration = directory.join("nginx.conf");
        fs::write(
            &configuration,
            nginx_configuration(&address, upstream, keeps),
        )
        .expect("a configuration can be written");
        let process = kept_to(core, "nginx")
            .arg("-p")
            .arg(directory)
            .arg("-c")
            .arg(configuration)
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx starts");
        let page_url = upstream
            .page_url()
            .replace(&upstream.base_url, &format!("http://{address}"));
        let nginx = Self { process, page_url };
        wait_for(&address);
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// It sends the key, as the server does.
fn nginx_configuration(address: &str, upstream: &Upstream, keeps: bool) -> String {
    let qovery = upstream.base_url.trim_start_matches("http://");
    let (keepalive, headers) = if keeps {
        (
            format!("keepalive {CONNECTIONS}; keepalive_requests 1000000000;"),
            "proxy_http_version 1.1; proxy_set_header Connection '';",
        )
    } else {
        (String::new(), "")
    };
    format!(
        "daemon off; master_process off; worker_processes 1;
        pid nginx.pid; error_log stderr crit;
        events {{ worker_connections 1024; }}
        http {{
            access_log off; keepalive_requests 1000000000;
            client_body_temp_path client; proxy_temp_path proxy;
            fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
            upstream qovery {{
                server {qovery}; {keepalive}
            }}
            server {{
                listen {address};
                location / {{
                    proxy_pass http://qovery;
                    {headers}
                    proxy_set_header Authorization 'Token {KEY}';
                }}
            }}
        }}"
    )
}

fn wait_for(address: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {address}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A core that this program, and what it starts from now on, keeps off; none where there is only
/// one, or nothing to keep to it with.
fn clear_a_core() -> Option<&'static str> {
    let cores = thread::available_parallelism().ok()?.get();
    let others = (cores > 1).then(|| format!("1-{}", cores - 1))?;
    let mut taskset = Command::new("taskset");
    taskset.args(["--all-tasks", "--cpu-list", "--pid", &others]);
    let output = taskset.arg(process::id().to_string()).output().ok()?;
    output.status.success().then_some(CORE)
}

/// The seconds that a process has used, where the system tells them.
fn processor_time(process: &Child) -> Option<f64> {
    /// Linux counts in hundredths of a second here, whatever its own clock.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).ok()?;
    // The second field is the program's name, in parentheses, and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS);
    Some(seconds()? + seconds()?)
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("-v").output().is_ok()
}

fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}
