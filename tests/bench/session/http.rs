//! The server with ports, and calls to it one at a time.

use std::{
    io::{self, BufRead, BufReader},
    process::{Child, ChildStderr, Stdio},
    thread,
};

use hyper::body::Bytes;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::{
    Client, DATABASE, Era, LIST, REVISION, STARTS, Target, UNMEASURED, Upstream, added_to,
    check_list, list_of_backups, memory, percentile, print_judged, print_row, print_times,
    question, result_of, take_turns,
};

const IDLE_MEMORY: Target = (8.0, "MiB");

pub(super) fn measure(upstream: &Upstream) {
    let client = Client::new();
    measure_idle_memory(upstream, &client);
    measure_calls(upstream, &client);
}

/// Before anybody calls, and once the tools were listed. What the first call adds is hardly more than
/// pages of the program that it is the first to read.
fn measure_idle_memory(upstream: &Upstream, client: &Client) {
    let (mut idle, mut used) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let server = Server::start(upstream, None);
        idle.extend(memory(&server.process, "Pss:"));
        server.list_tools(client);
        used.extend(memory(&server.process, "Pss:"));
    }
    for (figure, mut measured) in [
        ("idle memory with ports (PSS)", idle),
        ("the same, once the tools were listed", used),
    ] {
        if measured.is_empty() {
            print_row(figure, UNMEASURED, "", "");
            continue;
        }
        let median = percentile(&mut measured, 50);
        print_judged(
            figure,
            &format!("median {median:.2} MiB"),
            median,
            IDLE_MEMORY,
        );
    }
}

fn measure_calls(upstream: &Upstream, client: &Client) {
    let server = Server::start(upstream, None);
    let direct_url = upstream.page_url();
    let mut mcp = || server.list_over_mcp(client).1;
    let mut rest = || client.fetch(&server.page_url, upstream);
    let mut fetch = || client.fetch(&direct_url, upstream);
    let [mut mcp, mut rest, mut fetched] = take_turns([&mut mcp, &mut rest, &mut fetch]);
    let over_mcp = print_times("a list of 20 backups, MCP over HTTP", &mut mcp);
    let over_rest = print_times("a list of 20 backups, REST", &mut rest);
    let without = print_times("the same page, fetched directly", &mut fetched);
    for (figure, with) in [
        ("what a call adds, MCP over HTTP", over_mcp),
        ("what a call adds, REST", over_rest),
    ] {
        print_row(figure, &added_to(without, with), "", "");
    }
}

/// The server, on two ports that the system chose.
pub(super) struct Server {
    pub(super) process: Child,
    pub(super) mcp_url: String,
    /// Where a page of backups is, over REST.
    pub(super) page_url: String,
}

impl Server {
    /// The id of every question: no two are on one connection at once.
    const ID: u64 = 1;

    /// A server that listens, kept to one core where one is given.
    pub(super) fn start(upstream: &Upstream, core: Option<&str>) -> Self {
        let free_ports = ["--mcp-addr", "127.0.0.1:0", "--rest-addr", "127.0.0.1:0"];
        let mut process = super::server(upstream, core)
            .arg("http")
            .args(free_ports)
            .args(["--log-format", "json"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut log = BufReader::new(process.stderr.take().expect("stderr is a pipe"));
        let mcp_url = find_url(&mut log, "MCP is listening on ");
        let rest_url = find_url(&mut log, "REST is listening on ");
        // The server writes a line for each call, and somebody reads it, as in production.
        thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        Self {
            process,
            mcp_url,
            page_url: format!("{rest_url}/v1/database/{DATABASE}/backup"),
        }
    }

    fn ask(
        &self,
        client: &Client,
        method: &str,
        name: Option<&str>,
        params: Value,
    ) -> RequestBuilder {
        let question = question(Era::Stateless, Self::ID, method, params);
        let post = client.http.post(&self.mcp_url).body(question.to_string());
        headers(method, name)
            .into_iter()
            .fold(post, |post, (header, value)| post.header(header, value))
    }

    fn list_tools(&self, client: &Client) {
        let (answer, _) = client.send(self.ask(client, "tools/list", None, json!({})));
        let result = result_of(&answer, Self::ID);
        assert!(result["tools"][0].is_object(), "{result}");
    }

    /// The checked answer, and how many microseconds it took.
    pub(super) fn list_over_mcp(&self, client: &Client) -> (Bytes, f64) {
        let request = self.ask(client, "tools/call", Some(LIST), list_of_backups());
        let (answer, taken) = client.send(request);
        check_list(&result_of(&answer, Self::ID));
        (answer, taken)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails for a server that has left already, which is as well.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// A question for a list of backups, for others to ask: its headers and its body.
pub(super) fn question_for_backups() -> (Vec<(&'static str, &'static str)>, String) {
    let body = question(Era::Stateless, Server::ID, "tools/call", list_of_backups());
    (headers("tools/call", Some(LIST)), body.to_string())
}

/// What the transport wants beside the message.
fn headers<'a>(method: &'a str, name: Option<&'a str>) -> Vec<(&'static str, &'a str)> {
    let mut headers = vec![
        ("Accept", "application/json, text/event-stream"),
        ("Content-Type", "application/json"),
        ("MCP-Protocol-Version", REVISION),
        ("Mcp-Method", method),
    ];
    headers.extend(name.map(|name| ("Mcp-Name", name)));
    headers
}

/// The URL after these words in the log.
fn find_url(log: &mut BufReader<ChildStderr>, words: &str) -> String {
    let found = log.lines().find_map(|line| {
        let line = line.expect("the log is text");
        let (_, url) = line.split_once(words)?;
        Some(url.split_once('"')?.0.to_owned())
    });
    found.expect("the server says where it listens")
}
