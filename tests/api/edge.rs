//! The limits of the HTTP ports: sizes, times, calls in flight and connections.

use std::time::Duration;

use futures_util::future::join_all;
use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};
use tokio::{net::TcpSocket, time::timeout};

use crate::{
    app::{TestApp, serve_sandbox},
    clients::{Client, ERAS, Era, LIST},
    connection::{Connection, Request, backups_of},
    expect::{contains, lacks},
    upstreams::{Upstream, backups, held_page, page},
};

const TOKENS: &str = "ada:access-token-of-ada\nben:access-token-of-ben\ncy:access-token-of-cy";

fn list() -> Request {
    Request::get(&backups_of(Sandbox::ORDERS))
}

fn add(body: impl Into<Vec<u8>>) -> Request {
    Request::post(&backups_of(Sandbox::ORDERS), &Value::Null).body(body)
}

#[tokio::test]
async fn a_body_over_64_kib_is_refused_announced_or_not() {
    let server = serve_sandbox(&[]).await;
    let spaces = vec![b' '; (64 << 10) + 1];
    let chunks = [format!("{:x}\r\n", spaces.len()).as_bytes(), &spaces].concat();
    let mut targets = vec![(server.rest, add(""))];
    for era in ERAS {
        targets.push((server.mcp, Client::over_http(&server, era, None).raw("")));
    }
    for (address, request) in targets {
        let announced = request.clone().body(spaces.clone());
        let answer = announced.send(address).await;
        answer.problem(413, "body_too_large");
        let chunked = request.header("Transfer-Encoding", "chunked");
        let mut connection = Connection::with(address, &chunked).await;
        let answer = connection.answer_to(&chunks, true).await;
        answer.problem(413, "body_too_large");
    }
    // Just under the limit it is a message like any other.
    let mut client = Client::over_http(&server, Era::Handshake, None);
    let long = json!({ "databaseId": "x".repeat((64 << 10) - 1000) });
    contains(&client.refused(LIST, long).await, ["databaseId"]);
}

#[tokio::test]
async fn a_body_of_more_than_2_500_values_is_refused_unread() {
    let server = serve_sandbox(&[]).await;
    // Counted are `{`, `[`, `,` and `:`.
    let array = |objects| format!("[{}0]", r#"{"":0},"#.repeat(objects));
    let (many, fewer) = (array(850), array(800));
    let answer = server.rest(add(many.clone())).await;
    answer.problem(413, "body_too_large");
    let answer = server.rest(add(fewer.clone())).await;
    answer.problem(400, "invalid_request");
    for era in ERAS {
        let client = Client::over_http(&server, era, None);
        let answer = client.raw(many.clone()).send(server.mcp).await;
        answer.problem(413, "body_too_large");
        let answer = client.raw(fewer.clone()).send(server.mcp).await;
        assert_eq!(answer.json()["error"]["code"], -32600, "{answer:?}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_long_or_none_is_refused_without_a_body() {
    let server = serve_sandbox(&[]).await;
    let long = Request::get(&format!("/{}", "x".repeat(65_535)));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: x\r\n".repeat(101));
    for (head, status) in [
        (long.bytes(server.rest), 414),
        (many.into_bytes(), 431),
        (b"hello\r\n\r\n".to_vec(), 400),
    ] {
        let mut connection = Connection::open(server.rest).await;
        let answer = connection.answer_to(&head, true).await;
        assert_eq!((answer.status, &*answer.text()), (status, ""));
    }
}

#[tokio::test]
async fn a_slow_header_and_an_idle_connection_are_closed() {
    let app = TestApp::new(&[]).short_limits();
    let server = app.serve(&["--sandbox"]).await;
    let checks = [server.mcp, server.rest].map(async |address| {
        let mut slow = Connection::open(address).await;
        slow.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
            .await;
        lacks(&slow.until_closed(b"x").await, ["HTTP/1.1 200"]);
        let mut idle = Connection::open(address).await;
        assert_eq!(idle.exchange(&Request::get("/healthz")).await.status, 200);
        assert_eq!(idle.until_closed(b"").await, "");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn a_slow_body_is_refused() {
    let app = TestApp::new(&[]).short_limits();
    let server = app.serve(&["--sandbox"]).await;
    let client = Client::over_http(&server, Era::Stateless, None);
    for (address, request) in [(server.mcp, client.raw("{}")), (server.rest, add("{}"))] {
        let mut bytes = request.bytes(address);
        bytes.pop();
        let mut connection = Connection::open(address).await;
        let answer = connection.answer_to(&bytes, true).await;
        answer.problem(408, "body_too_slow");
    }
}

/// A peer that reads nothing of an answer that fills all buffers.
#[tokio::test]
async fn a_stalled_reader_is_disconnected() {
    let mut large = backups(2);
    large[0]["message"] = json!("x".repeat(1_900_000));
    let mut upstream = Upstream::always(page(&large)).await;
    let server = upstream.app().short_limits().serve(&[]).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stalled = Connection::over(socket.connect(server.rest).await.unwrap());
    stalled.write(&list().bytes(server.rest)).await;
    upstream.received(1).await;
    // In the end there is no connection but that of the metrics.
    server
        .metrics_with("qovery_backups_connections 1", None)
        .await;
}

#[tokio::test]
async fn calls_in_flight_are_limited_in_all_and_of_one_caller() {
    let mut upstream = Upstream::always(held_page()).await;
    let app = upstream.app().with("QOVERY_BACKUPS_ACCESS_TOKEN", TOKENS);
    let server = app.serve(&[]).await;
    let of = |caller: &str| list().token(Some(&format!("access-token-of-{caller}")));
    let mut in_flight = Vec::new();
    let calls = [("ada", 32, Some("ada")), ("ben", 32, Some("cy"))];
    for (caller, calls, refused) in calls {
        for _ in 0..calls {
            in_flight.push(Connection::with(server.rest, &of(caller)).await);
        }
        upstream.received(in_flight.len()).await;
        if let Some(refused) = refused {
            let answer = server.rest(of(refused)).await;
            let problem = answer.problem(503, "overloaded");
            assert_eq!(problem["outcome"], "not_applied");
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
    }
    // What is no call is answered.
    let probe = Request::get("/readyz").send(server.mcp).await;
    assert_eq!(probe.status, 200);
    // A refused call was not queued.
    assert_eq!(upstream.requests().len(), 64);
    upstream.release();
    for mut connection in in_flight {
        assert_eq!(connection.answer().await.status, 200);
    }
    for caller in ["ada", "ben", "cy"] {
        assert_eq!(server.rest(of(caller)).await.status, 200);
    }
}

#[tokio::test]
async fn a_connection_beyond_the_limit_waits_for_another_to_close() {
    let mut upstream = Upstream::always(held_page()).await;
    let app = upstream.app().with("QOVERY_BACKUPS_ACCESS_TOKEN", TOKENS);
    // Connections with a call in flight are not closed for being idle.
    let server = app.short_limits().serve(&[]).await;
    let mut open = Vec::new();
    for token in ["access-token-of-ada", "access-token-of-ben"] {
        let list = list().token(Some(token));
        for _ in 0..32 {
            open.push(Connection::with(server.rest, &list).await);
        }
    }
    upstream.received(64).await;
    let mut late = Connection::with(server.mcp, &Request::get("/healthz")).await;
    let early = timeout(Duration::from_millis(300), late.head()).await;
    assert!(early.is_err(), "it does not wait: {early:?}");
    open.pop();
    assert_eq!(late.head().await.status, 200);
}

#[tokio::test]
async fn http_2_is_not_spoken() {
    let server = serve_sandbox(&[]).await;
    for address in [server.mcp, server.rest] {
        let mut connection = Connection::open(address).await;
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        connection.write(preface).await;
        let received = connection.until_closed(b"").await;
        lacks(&received, ["HTTP/1.1 2"]);
    }
}
