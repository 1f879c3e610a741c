//! Each message that the pages quote under "Troubleshooting" is what the program says when it comes to that.

use std::collections::BTreeSet;

use qovery_backups_mcp::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::{
    app::{TestApp, sandbox_session, serve_sandbox},
    clients::{ADD, ASKABLE, Client, Era, LIST, REMOVE, STATELESS, can_ask, orders, yes},
    connection::{Request, backups_of},
    docs::read,
    expect::contains,
    network::{Tls, trusting},
    oauth::{Issuer, list},
    upstreams::{Database, Upstream, backup, json_reply, page, reply},
};

const KEY: (&str, &str) = ("QOVERY_API_KEY", "qov_0123456789abcdef");

/// Sentences, or parts of them, in the first column of the tables.
fn quoted() -> BTreeSet<String> {
    let pages = ["docs/hosts.md", "docs/operating.md"].map(read);
    let tables = pages.iter().map(|page| {
        let (_, table) = page.split_once("\n## Troubleshooting\n").unwrap();
        table.split("\n## ").next().unwrap()
    });
    let rows = tables.flat_map(|table| table.lines().filter(|line| line.starts_with("| ")));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|text| text.contains(' '))
        .map(str::to_owned)
        .collect()
}

/// What is said, in each situation, by what is quoted of it.
type Said = Vec<(&'static str, String)>;

#[tokio::test]
async fn each_quoted_message_is_what_the_program_says() {
    let said = [
        at_the_start().await,
        of_the_key().await,
        of_the_call().await,
        over_http().await,
        of_the_sign_in().await,
    ];
    let said = said.concat();
    for (quote, text) in &said {
        assert!(text.contains(quote), "{quote}: {text}");
    }
    let tried: BTreeSet<_> = said.iter().map(|(quote, _)| (*quote).to_owned()).collect();
    assert_eq!(tried, quoted());
}

async fn of_the_sign_in() -> Said {
    let issuer = Issuer::start().await;
    let for_another = issuer.token_with("aud", json!("another"));
    let server = issuer.serve(&[]).await;
    let refused = server.rest(list().token(Some(&for_another))).await;
    issuer.publish(reply("503 X", "", ""));
    let checked = issuer.app().run(&["check", "--sandbox"]).await;
    let down = issuer.serve(&[]).await;
    down.rest(list().token(Some(&for_another))).await;
    let quote = "the keys of the sign-in could not be read";
    vec![
        ("it is for another audience (aud)", refused.text()),
        ("the sign-in would not work", checked.stdout),
        (quote, down.log.message(quote).await),
    ]
}

async fn at_the_start() -> Said {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let app = TestApp::new(&[KEY]);
    let no_free_port = app.run(&["http", "--mcp-addr", &taken]).await;
    let open = app.refused(&["http", "--mcp-addr", "0.0.0.0:0"]).await;
    let placeholder = TestApp::new(&[("QOVERY_API_KEY", "${KEY}")]);
    vec![
        (
            "QOVERY_API_KEY is not set",
            TestApp::new(&[]).refused(&[]).await,
        ),
        ("the host did not fill in", placeholder.refused(&[]).await),
        (
            "is not a loopback address, so anybody who reaches it could remove backups",
            open,
        ),
        ("cannot be listened on", no_free_port.stderr),
    ]
}

/// What a list of [`Sandbox::ORDERS`], or of what is called so, is refused with.
async fn refused(app: &TestApp, database: &str) -> String {
    let mut session = app.session(Era::Handshake, &[]).await;
    let arguments = json!({ "databaseId": database });
    session.refused(LIST, arguments).await
}

async fn of_the_key() -> Said {
    let mut said = Said::new();
    for (quote, status, key) in [
        ("Qovery refused the API key (401)", "401 X", KEY.1),
        (
            "the key's policy does not allow it, or the key is not accepted",
            "401 X",
            "sk-qov-01-0123456789abcdef",
        ),
        (
            "does not allow this API key to do that (403)",
            "403 X",
            KEY.1,
        ),
        (
            "Qovery knows no such database or backup (404)",
            "404 X",
            KEY.1,
        ),
    ] {
        let upstream = Upstream::always(reply(status, "", "")).await;
        let url = upstream.url();
        let app = TestApp::new(&[("QOVERY_API_URL", &url), ("QOVERY_API_KEY", key)]);
        said.push((quote, refused(&app, Sandbox::ORDERS).await));
        if status.starts_with("403") {
            let text = refused(&app, "orders").await;
            said.push(("cannot be looked up by their names", text));
        }
    }
    let none = json_reply("200 OK", &json!({ "results": [] }));
    let none = Upstream::always(none).await;
    let text = refused(&none.app(), "orders").await;
    said.push(("No database that this API key can see is called", text));
    let [tls, other] = [Tls::signed(|_| {}).await, Tls::signed(|_| {}).await];
    let text = refused(&trusting(&other.authority, &tls.url()), Sandbox::ORDERS).await;
    contains(&text, ["SSL_CERT_FILE"]);
    for quote in [
        "invalid peer certificate: UnknownIssuer",
        "Qovery could not be reached: invalid peer certificate: UnknownIssuer",
    ] {
        said.push((quote, text.clone()));
    }
    said
}

async fn of_the_call() -> Said {
    let empty = Upstream::always(page(&[])).await;
    let mut session = empty.app().session(Era::Handshake, &[]).await;
    let orders = orders();
    let empty = session.ok(LIST, orders.clone()).await;

    let removal = |listed: &Value, newest_but: usize| {
        let mut arguments = orders.clone();
        arguments["backupId"] = listed["backups"][newest_but]["id"].clone();
        arguments
    };
    let mut session = sandbox_session(Era::Handshake, &["--confirm", "always"]).await;
    let listed = session.ok(LIST, orders.clone()).await;
    let protected = session.refused(REMOVE, removal(&listed, 0)).await;
    let unconfirmed = session.refused(REMOVE, removal(&listed, 5)).await;

    let database = Database::with([1, 2, 3].map(|number| backup(number, "READY"))).await;
    let mut host = Client::start(&database.app(), ASKABLE[0], &[], can_ask()).await;
    let question = host.ask(1).await;
    let decline = json!({ "action": "decline" });
    let no = host.respond(&question, decline.clone()).await;
    for _ in 1..3 {
        let question = host.ask(1).await;
        host.respond(&question, decline.clone()).await;
    }
    let repeated = host.remove(1).await.refusal();

    let mut session = sandbox_session(Era::Handshake, &[]).await;
    let mut addition = orders.clone();
    addition["name"] = json!("one of many");
    for _ in 0..100 {
        session.ok(ADD, addition.clone()).await;
    }
    let looped = session.refused(ADD, addition).await;

    let app = database.app();
    app.file("audit.jsonl", "");
    let audited = ["--audit-log", "audit.jsonl"];
    let mut unaudited = app.session(Era::Handshake, &audited).await;
    let path = app.directory.path().join("audit.jsonl");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let mut addition = orders.clone();
    addition["name"] = json!("not on record");
    let unaudited = unaudited.refused(ADD, addition).await;
    vec![
        (
            "Qovery lists no backups of this database",
            empty.to_string(),
        ),
        ("is protected", protected),
        ("a person has to confirm each removal", unconfirmed),
        (
            "The host answered no for the person",
            no.report().to_string(),
        ),
        ("3 times in 10 minutes", repeated),
        ("at most 100 change(s) an hour", looped),
        ("could not be written to the audit log first", unaudited),
    ]
}

async fn over_http() -> Said {
    let token = ("QOVERY_BACKUPS_ACCESS_TOKEN", "0123456789abcdef");
    let guarded = TestApp::new(&[token]).serve(&["--sandbox"]).await;
    // Where Claude Code goes when it is refused.
    let registration = Request::post("/register", &json!({ "redirect_uris": [] }));
    let registration = registration.send(guarded.mcp).await;
    assert_eq!(registration.status, 401);

    let server = serve_sandbox(&[]).await;
    let elsewhere = Request::get("/v1/database/x/backup").header("Host", "backups.example.com");
    let elsewhere = elsewhere.send(server.rest).await;
    let keyless = serve_sandbox(&["--caller-keys"]).await;
    let keyless = keyless.rest(Request::get(&backups_of(Sandbox::ORDERS)));
    let keyless = keyless.await.text();
    // Two replicas, each with a state key of its own making.
    let database = Database::with([1, 2, 3].map(|number| backup(number, "READY"))).await;
    let [mut asks, mut answers] = [
        Client::start(&database.app(), STATELESS[1], &[], can_ask()).await,
        Client::start(&database.app(), STATELESS[1], &[], can_ask()).await,
    ];
    let question = asks.ask(1).await;
    let answer = question.answered(&yes(), question.state());
    let forged = answers.step(answer).await.answer();
    vec![
        (
            "An access token of this server is needed",
            registration.text(),
        ),
        ("This server does not answer to that name", elsewhere.text()),
        (
            "the header X-Qovery-Api-Key of the call holds none",
            keyless,
        ),
        (
            "The requestState is not one that this server gave",
            forged.to_string(),
        ),
    ]
}
