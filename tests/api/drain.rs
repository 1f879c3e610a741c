//! How the ports are opened, and how they are closed.

use std::io;

use futures_util::future::join_all;
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    app::{Server, TEST_TIMEOUT, TestApp, serve_sandbox},
    clients::{Client, Era, LIST, orders},
    connection::{Connection, Request, backups_of},
    expect::{contains, lacks},
    upstreams::{Reply, Upstream, held_page},
};

const TOKEN: (&str, &str) = ("QOVERY_BACKUPS_ACCESS_TOKEN", "ada:access-token-of-ada");

fn list() -> Request {
    Request::get(&backups_of(Sandbox::ORDERS))
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = (taken.local_addr().unwrap().to_string(), taken);
    let free = "127.0.0.1:0";
    for (flag, other) in [("--mcp-addr", "--rest-addr"), ("--rest-addr", "--mcp-addr")] {
        let arguments = ["--sandbox", "http", flag, &taken.0, other, free];
        let end = TestApp::new(&[]).run(&arguments).await;
        assert_eq!(end.status.code(), Some(1), "{}", end.stderr);
        assert_eq!(end.stdout, "");
        contains(&end.stderr, [flag, &taken.0, "ERROR"]);
        lacks(&end.stderr, [other, "is listening"]);
    }
}

#[tokio::test]
async fn other_hosts_are_served_only_with_a_token() {
    for flag in ["--mcp-addr", "--rest-addr"] {
        let arguments = ["--sandbox", "http", flag, "0.0.0.0:0"];
        let text = TestApp::new(&[]).refused(&arguments).await;
        contains(&text, [flag, "QOVERY_BACKUPS_ACCESS_TOKEN"]);
    }
    let all = ["--mcp-addr", "0.0.0.0:0", "--rest-addr", "0.0.0.0:0"];
    let server = TestApp::new(&[TOKEN])
        .serve(&[&["--sandbox"], &all[..]].concat())
        .await;
    for (token, status) in [(None, 401), (Some("access-token-of-ada"), 200)] {
        let rest = ([127, 0, 0, 1], server.rest.port()).into();
        let answer = list().token(token).send(rest).await;
        assert_eq!(answer.status, status);
        let mut client = Client::over_http(&server, Era::Stateless, token);
        let mcp = ([127, 0, 0, 1], server.mcp.port()).into();
        let answer = client.message("tools/list", json!({})).send(mcp).await;
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn without_rest_there_is_one_port() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let server = serve_sandbox(&["--no-rest", "--rest-addr", &address]).await;
    let mut client = Client::over_http(&server, Era::Stateless, None);
    let answer = client.post("tools/list", json!({})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    list().send(server.mcp).await.problem(404, "no_such_path");
    let metrics = Request::get("/metrics").send(server.mcp).await;
    assert!(metrics.text().contains("qovery_backups_build_info"));
    let log = server.finish().await.stderr;
    lacks(&log, ["REST is listening"]);
}

/// Lets a server drain.
async fn drain(server: &Server, signal: &str) {
    server.signal(signal).await;
    server.log.message("draining").await;
}

#[tokio::test]
async fn calls_in_flight_are_answered_after_a_signal() {
    let checks = ["TERM", "INT"].map(async |signal| {
        let mut upstream = Upstream::always(held_page()).await;
        let server = upstream.app().serve(&[]).await;
        let ports = [server.mcp, server.rest];
        let mut client = Client::over_http(&server, Era::Stateless, None);
        let tool = client.tool(LIST, &orders());
        let mut calls = Vec::new();
        for (address, request) in [(server.mcp, tool), (server.rest, list())] {
            calls.push(Connection::with(address, &request).await);
        }
        upstream.received(2).await;
        let probe = Request::get("/readyz");
        let mut open = Vec::new();
        for address in ports {
            // One that has asked before, one that has not, one that is about to.
            let mut idle = Connection::open(address).await;
            assert_eq!(idle.exchange(&probe).await.status, 200);
            let fresh = Connection::open(address).await;
            let (mut about, bytes) = (Connection::open(address).await, probe.bytes(address));
            about.write(&bytes[..10]).await;
            open.push(([idle, fresh], about, bytes[10..].to_vec()));
        }

        drain(&server, signal).await;
        for address in ports {
            let refused = timeout(TEST_TIMEOUT, TcpStream::connect(address)).await;
            let error = refused.expect("an answer of the kernel").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
        let mut idle = Vec::new();
        for (unused, mut about, unsent) in open {
            let answer = about.answer_to(&unsent, true).await;
            assert_eq!((answer.status, answer.text().as_str()), (503, "draining\n"));
            assert_eq!(about.until_closed(b"").await, "");
            idle.extend(unused);
        }
        upstream.release();
        for mut connection in calls {
            let answer = connection.answer().await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let whole = answer.text().contains("results") || answer.text().contains("summary");
            assert!(whole, "{answer:?}");
            assert_eq!(answer.header("connection"), Some("close"));
        }
        let end = server.wait().await;
        assert_eq!(end.status.code(), Some(0), "{}", end.stderr);
        assert_eq!(end.stdout, "");
        lacks(&end.stderr, ["still in flight"]);
        for mut connection in idle {
            assert_eq!(connection.until_closed(b"").await, "");
        }
    });
    join_all(checks).await;
}

#[tokio::test]
async fn a_request_that_was_on_its_way_is_still_answered() {
    let mut upstream = Upstream::always(held_page()).await;
    let server = upstream.app().serve(&[]).await;
    // It keeps the process until the other one is sent.
    let first = Connection::with(server.rest, &list()).await;
    upstream.received(1).await;
    let mut second = Connection::open(server.rest).await;
    let bytes = list().bytes(server.rest);
    second.write(&bytes[..20]).await;
    drain(&server, "TERM").await;
    second.write(&bytes[20..]).await;
    upstream.received(2).await;
    upstream.release();
    for mut connection in [first, second] {
        let answer = connection.answer().await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(server.wait().await.status.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    for signals in [["TERM", "TERM"], ["INT", "TERM"]] {
        let mut upstream = Upstream::always(Reply::Hang).await;
        let server = upstream.app().serve(&[]).await;
        let _connection = Connection::with(server.rest, &list()).await;
        upstream.received(1).await;
        drain(&server, signals[0]).await;
        server.signal(signals[1]).await;
        let end = server.wait().await;
        // The drain would have ended with 0.
        assert_eq!(end.status.code(), Some(1), "{}", end.stderr);
    }
}
