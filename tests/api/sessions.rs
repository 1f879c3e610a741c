//! Requests that share an id, sessions that live, and streams that are cut.

use std::time::Duration;

use qovery_backups_mcp::{limits::Limits, sandbox::Sandbox};
use serde_json::{Value, json};

use crate::{
    helpers::{ERAS, Era, Reply, Session, TestApp, Upstream, backup, held_page, page},
    helpers_confirm::{Database, can_ask, removal, removes, yes},
    helpers_http::{Client, Connection, Local, Request, serve_sandbox},
};

const LIST: &str = "list-database-backups";
const SLOW: &str = Sandbox::ORDERS;
const FAST: &str = Sandbox::SESSIONS;

/// Holds the list of one database, and answers that of the other.
async fn upstream() -> Upstream {
    Upstream::start(|_, line| match line {
        line if line.contains(SLOW) && line.contains("/backup") => held_page(),
        line if line.contains("/backup") => page(&[backup(9, "READY")]),
        _ => Reply::Reset,
    })
    .await
}

fn call(id: &Value, database: &str, era: Era) -> Value {
    let mut params = json!({ "name": LIST, "arguments": { "databaseId": database } });
    if era == Era::Stateless {
        crate::helpers::add_stateless_meta(&mut params, &json!({}));
    }
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
}

/// Waits until so many calls of the slow database are on their way.
async fn slow_calls(upstream: &mut Upstream, count: usize) {
    let path = format!("/{SLOW}/backup");
    loop {
        let requests = upstream.requests();
        if requests.iter().filter(|it| it.contains(&path)).count() >= count {
            return;
        }
        upstream.received(requests.len() + 1).await;
    }
}

fn cancellation(id: &Value) -> Value {
    let params = json!({ "requestId": id });
    json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params })
}

fn total(answer: &Value) -> &Value {
    &answer["result"]["structuredContent"]["summary"]["total"]
}

async fn send(session: &mut Session, message: &Value) {
    session.send(message.to_string().as_bytes()).await;
}

#[tokio::test]
async fn on_a_pipe_the_second_request_of_an_id_is_refused_and_no_answer_is_lost() {
    for era in ERAS {
        let mut upstream = upstream().await;
        let app = TestApp::with_upstream(&upstream.url());
        let mut session = app.session(era, &[]).await;
        let id = json!(77);
        send(&mut session, &call(&id, SLOW, era)).await;
        slow_calls(&mut upstream, 1).await;
        // As text, the same number is another id.
        send(&mut session, &call(&json!("77"), FAST, era)).await;
        let other = session.receive().await;
        assert_eq!((&other["id"], total(&other)), (&json!("77"), &json!(1)));
        send(&mut session, &call(&id, FAST, era)).await;
        let refused = session.receive().await;
        assert_eq!(
            (&refused["id"], &refused["error"]["code"]),
            (&id, &json!(-32600))
        );
        upstream.release();
        let answer = session.receive().await;
        assert_eq!((&answer["id"], total(&answer)), (&id, &json!(0)));
        // It is free again.
        send(&mut session, &call(&id, FAST, era)).await;
        let answer = session.receive().await;
        assert_eq!((&answer["id"], total(&answer)), (&id, &json!(1)));
    }
}

#[tokio::test]
async fn a_late_answer_to_a_cancelled_call_never_meets_a_newer_one_of_its_id() {
    let mut upstream = upstream().await;
    let app = TestApp::with_upstream(&upstream.url());
    let mut session = app.session(Era::Handshake, &[]).await;
    let id = json!("again");
    for round in 1..=5 {
        send(&mut session, &call(&id, SLOW, Era::Handshake)).await;
        slow_calls(&mut upstream, round).await;
        let cancelled = cancellation(&id);
        let both = format!("{cancelled}\n{}", call(&id, FAST, Era::Handshake));
        session.send(both.as_bytes()).await;
        let answer = session.receive().await;
        assert_eq!(
            (&answer["id"], total(&answer)),
            (&id, &json!(1)),
            "{answer}"
        );
    }
    // Nothing else came.
    send(
        &mut session,
        &json!({ "jsonrpc": "2.0", "id": "end", "method": "ping" }),
    )
    .await;
    assert_eq!(session.receive().await["id"], "end");
    // To cancel what is not there cancels nothing else: requests have numbers of their own here.
    send(&mut session, &call(&json!("kept"), SLOW, Era::Handshake)).await;
    slow_calls(&mut upstream, 6).await;
    for unknown in 0..40 {
        let cancelled = cancellation(&json!(unknown));
        send(&mut session, &cancelled).await;
    }
    upstream.release();
    assert_eq!(session.receive().await["id"], "kept");
}

#[tokio::test]
async fn in_a_session_the_second_request_of_an_id_is_refused_and_no_answer_is_crossed() {
    let mut upstream = upstream().await;
    let app = TestApp::with_upstream(&upstream.url());
    let server = app.serve(&["--sessions"]).await;
    let mut client = Client::new(&server, Era::Handshake, None);
    client.open().await;
    let request = |database| client.raw(call(&json!(1), database, Era::Handshake).to_string());
    let mut slow = Connection::open(server.mcp).await;
    slow.write(&request(SLOW).bytes(server.mcp)).await;
    slow_calls(&mut upstream, 1).await;
    let refused = request(FAST).send(server.mcp).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    let error = refused.message();
    assert_eq!(
        (&error["id"], &error["error"]["code"]),
        (&json!(1), &json!(-32600))
    );
    upstream.release();
    assert_eq!(slow.head().await.status, 200);
    assert_eq!(total(&slow.event().await), 0);
    let answer = request(FAST).send(server.mcp).await.message();
    assert_eq!(total(&answer), 1, "{answer}");

    // Without a session, requests have nothing in common.
    let stateless = app.serve(&[]).await;
    let client = Client::new(&stateless, Era::Handshake, None);
    let request = client.raw(call(&json!(1), FAST, Era::Handshake).to_string());
    let both = tokio::join!(request.send(stateless.mcp), request.send(stateless.mcp));
    for answer in [both.0, both.1] {
        assert_eq!(total(&answer.message()), 1);
    }
}

#[tokio::test]
async fn in_a_session_an_id_is_free_once_it_is_cancelled() {
    let mut upstream = upstream().await;
    let app = TestApp::with_upstream(&upstream.url());
    let server = app.serve(&["--sessions"]).await;
    let mut client = Client::new(&server, Era::Handshake, None);
    client.open().await;
    for round in 1..=5 {
        let request = |database| client.raw(call(&json!(1), database, Era::Handshake).to_string());
        let mut slow = Connection::open(server.mcp).await;
        slow.write(&request(SLOW).bytes(server.mcp)).await;
        slow_calls(&mut upstream, round).await;
        let cancelled = cancellation(&json!(1));
        let accepted = client.raw(cancelled.to_string()).send(server.mcp).await;
        assert_eq!(accepted.status, 202);
        let answer = request(FAST).send(server.mcp).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(total(&answer.message()), 1);
    }
}

#[tokio::test]
async fn requests_and_cancellations_that_meet_cross_no_answers() {
    let slow = |_, line: &str| match line {
        line if line.contains(SLOW) && line.contains("/backup") => page(&[]),
        line if line.contains("/backup") => page(&[backup(9, "READY")]),
        _ => Reply::Reset,
    };
    let upstream = Upstream::start(slow).await;
    let server = TestApp::with_upstream(&upstream.url())
        .serve(&["--sessions"])
        .await;
    let mut client = Client::new(&server, Era::Handshake, None);
    client.open().await;
    for round in 0..200 {
        let id = json!(1000 + round);
        let request = |database| client.raw(call(&id, database, Era::Handshake).to_string());
        let cancelled = cancellation(&id);
        let mut first = Connection::open(server.mcp).await;
        first.write(&request(SLOW).bytes(server.mcp)).await;
        let (cancelled, fast) = (client.raw(cancelled.to_string()), request(FAST));
        let (cancelled, fast) = tokio::join!(cancelled.send(server.mcp), fast.send(server.mcp));
        assert_eq!(cancelled.status, 202);
        if fast.status == 200 {
            assert_eq!(total(&fast.message()), 1, "round {round}");
        } else {
            assert_eq!(fast.message()["error"]["code"], -32600);
        }
    }
    client.request("ping", json!({})).await;
}

/// It is served beside the session, which then has nothing to forget.
#[tokio::test]
async fn a_stateless_request_in_a_session_leaves_its_id_free() {
    let server = serve_sandbox(&["--sessions"]).await;
    let mut client = Client::new(&server, Era::Handshake, None);
    client.open().await;
    let mut stateless = Client::new(&server, Era::Stateless, None);
    stateless.session = client.session.clone();
    for _ in 0..3 {
        stateless.last_id = 50;
        stateless.request("tools/list", json!({})).await;
        client.last_id = 50;
        client.request("tools/list", json!({})).await;
    }
}

#[tokio::test]
async fn a_cancellation_that_is_refused_cancels_nothing() {
    let database = Database::with([1, 2, 3].map(|number| backup(number, "READY"))).await;
    let server = database.app().serve(&["--sessions", "--no-rest"]).await;
    let (client, mut connection, question, _) = asked(server.mcp, None).await;
    let cancelled = cancellation(&json!(client.last_id));
    let refused = client
        .raw(cancelled.to_string())
        .header("MCP-Protocol-Version", "1999-01-01");
    assert_eq!(refused.send(server.mcp).await.status, 400);
    let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": yes() });
    client.raw(answer.to_string()).send(server.mcp).await;
    let answer = connection.event().await;
    assert_eq!(
        answer["result"]["structuredContent"]["outcome"], "removed",
        "{answer}"
    );
}

#[tokio::test]
async fn a_resumed_stream_ends_with_its_call_and_its_session() {
    for deletes in [true, false] {
        let database = Database::with([1, 2, 3].map(|number| backup(number, "READY"))).await;
        let server = database.app().serve(&["--sessions", "--no-rest"]).await;
        let (client, connection, _, last) = asked(server.mcp, None).await;
        drop(connection);
        let mut stream = Connection::open(server.mcp).await;
        stream
            .write(&resumed(&client, &last).bytes(server.mcp))
            .await;
        assert_eq!(stream.head().await.status, 200);
        if deletes {
            let session = client.session.as_ref().unwrap();
            let end = Request::delete("/mcp").header("Mcp-Session-Id", session);
            assert_eq!(end.send(server.mcp).await.status, 204);
        } else {
            let cancelled = cancellation(&json!(client.last_id));
            let accepted = client.raw(cancelled.to_string()).send(server.mcp).await;
            assert_eq!(accepted.status, 202);
        }
        stream.end_of_body().await;
        assert_eq!(database.changes(), [""; 0]);
    }
}

/// A client that can show a question, in a session.
async fn asked(
    server: std::net::SocketAddr,
    token: Option<&'static str>,
) -> (Client, Connection, Value, String) {
    let mut client = Client::at(server, Era::Handshake, token);
    client.capabilities = can_ask();
    client.open().await;
    let request = client.message("tools/call", removal(1));
    let mut connection = Connection::open(server).await;
    connection.write(&request.bytes(server)).await;
    assert_eq!(connection.head().await.status, 200);
    let (id, question) = connection.identified_event().await;
    assert_eq!(question["method"], "elicitation/create", "{question}");
    (client, connection, question, id)
}

/// The stream of events, from where the client lost it.
fn resumed(client: &Client, last: &str) -> Request {
    client.stream().header("Last-Event-ID", last)
}

#[tokio::test]
async fn an_answer_finds_a_client_whose_stream_was_cut_and_the_question_is_asked_once() {
    for answers_first in [false, true] {
        let database = Database::with([1, 2, 3].map(|number| backup(number, "READY"))).await;
        let server = database.app().serve(&["--sessions", "--no-rest"]).await;
        let (client, connection, question, last) = asked(server.mcp, None).await;
        drop(connection);
        let say_yes = async {
            let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": yes() });
            let accepted = client.raw(answer.to_string()).send(server.mcp).await;
            assert_eq!(accepted.status, 202);
        };
        let mut stream = Connection::open(server.mcp).await;
        let resume = async |stream: &mut Connection| {
            stream
                .write(&resumed(&client, &last).bytes(server.mcp))
                .await;
            assert_eq!(stream.head().await.status, 200);
        };
        if answers_first {
            say_yes.await;
            resume(&mut stream).await;
        } else {
            resume(&mut stream).await;
            say_yes.await;
        }
        let answer = stream.event().await;
        assert_eq!(answer["id"], client.last_id, "{answer}");
        assert_eq!(answer["result"]["structuredContent"]["outcome"], "removed");
        assert_eq!(database.changes(), [removes(1)]);
        // Who lost the answer's stream, too, gets the answer again, and nothing else.
        let again = resumed(&client, &last).send(server.mcp).await;
        assert_eq!(again.message(), answer);
        assert_eq!(again.text().matches("data:").count(), 1);
    }
}

#[tokio::test]
async fn nobody_resumes_the_stream_of_another_caller() {
    let database = Database::with([1, 2, 3].map(|number| backup(number, "READY"))).await;
    let server = Local::serve(&database.url(), Limits::default());
    let (client, connection, question, last) = asked(server.mcp, Local::ADA).await;
    drop(connection);
    let mut ben = Client::at(server.mcp, Era::Handshake, Local::BEN);
    ben.open().await;
    let mut stolen = resumed(&client, &last).token(Local::BEN);
    stolen
        .send(server.mcp)
        .await
        .problem(404, "no_such_session");
    // In a session of his own, he gets nothing of hers.
    stolen = resumed(&ben, &last);
    let mut other = Connection::open(server.mcp).await;
    other.write(&stolen.bytes(server.mcp)).await;
    assert_eq!(other.head().await.status, 200);
    let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": yes() });
    client.raw(answer.to_string()).send(server.mcp).await;
    let mut stream = Connection::open(server.mcp).await;
    stream
        .write(&resumed(&client, &last).bytes(server.mcp))
        .await;
    stream.head().await;
    assert_eq!(
        stream.event().await["result"]["structuredContent"]["outcome"],
        "removed"
    );
    ben.request("ping", json!({})).await;
    assert!(!other.has_come().await, "what was hers");
}

/// Short limits, but for what the test is about.
fn limits(session: Duration) -> Limits {
    Limits {
        session,
        unheard: Duration::from_millis(300),
        sessions: 4,
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_session_lives_while_its_stream_is_open_and_ends_when_nobody_uses_it() {
    let sandbox = Sandbox::start().await.unwrap();
    let server = Local::serve(&sandbox.base_url(), limits(Duration::from_millis(900)));
    let mut heard = Client::at(server.mcp, Era::Handshake, Local::ADA);
    heard.open().await;
    let mut stream = Connection::open(server.mcp).await;
    stream.write(&heard.stream().bytes(server.mcp)).await;
    assert_eq!(stream.head().await.status, 200);
    let mut left = Client::at(server.mcp, Era::Handshake, Local::ADA);
    left.open().await;
    let listed = async |client: &mut Client| client.post("tools/list", json!({})).await.status;
    assert_eq!(listed(&mut left).await, 200);
    // Each look is a use: the pauses grow until one is long enough.
    let mut pause = Duration::from_millis(100);
    let ended = async {
        while listed(&mut left).await == 200 {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    };
    tokio::time::timeout(crate::helpers::PATIENCE, ended)
        .await
        .unwrap();
    assert!(
        pause > Duration::from_millis(900),
        "it ended early: {pause:?}"
    );
    assert_eq!(listed(&mut left).await, 404);
    assert_eq!(listed(&mut heard).await, 200);
}

#[tokio::test]
async fn a_session_with_a_question_never_gives_way() {
    let database = Database::with([1, 2, 3].map(|number| backup(number, "READY"))).await;
    let server = Local::serve(
        &database.url(),
        Limits {
            sessions: 4,
            ..Limits::default()
        },
    );
    let (mut client, mut connection, question, _) = asked(server.mcp, Local::ADA).await;
    for _ in 0..6 {
        Client::at(server.mcp, Era::Handshake, Local::ADA)
            .open()
            .await;
    }
    let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": yes() });
    let accepted = client.raw(answer.to_string()).send(server.mcp).await;
    assert_eq!(accepted.status, 202);
    let answer = connection.event().await;
    assert_eq!(
        answer["result"]["structuredContent"]["outcome"], "removed",
        "{answer}"
    );
    client.request("tools/list", json!({})).await;
}

#[tokio::test]
async fn an_ended_or_unknown_session_is_begun_anew() {
    let server = serve_sandbox(&["--sessions"]).await;
    let mut client = Client::new(&server, Era::Handshake, None);
    client.open().await;
    let session = client.session.clone().unwrap();
    let end = Request::delete("/mcp").header("Mcp-Session-Id", &session);
    assert_eq!(end.send(server.mcp).await.status, 204);
    assert_eq!(end.send(server.mcp).await.status, 404);
    client
        .post("tools/list", json!({}))
        .await
        .problem(404, "no_such_session");
    client.session = None;
    client.open().await;
    assert_ne!(client.session.as_ref(), Some(&session));
}
