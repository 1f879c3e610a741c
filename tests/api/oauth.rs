//! The sign-in of a company: an issuer on loopback, its tokens, and what is wrong with them.

use std::sync::{Arc, Mutex, OnceLock};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use qovery_backups_mcp::sandbox::Sandbox;
use ring::{
    hmac,
    rand::SystemRandom,
    rsa::PublicKeyComponents,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
        RsaKeyPair,
    },
};
use serde_json::{Value, json};

use crate::{
    access::TOKENS,
    app::{Server, TestApp},
    clients::{ADD, Client, Era, LIST, order, orders},
    connection::{Request, backups_of},
    expect::{Answer, contains, lacks},
    upstreams::{Reply, Upstream, json_reply, reply},
};

const PUBLIC_URL: &str = "https://backups.example.com";
const AUDIENCE: &str = "https://backups.example.com/mcp";
const BOTH: &str = "backups:read backups:write";
const SCOPES: &str = r#", scope="backups:read backups:write""#;
const METADATA: &str = r#"Bearer resource_metadata="https://backups.example.com/.well-known/oauth-protected-resource/mcp""#;

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key of each kind that is accepted.
enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Key {
    /// From a file: ring makes no such key.
    fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::from_pkcs8(include_bytes!("rsa.pk8")).unwrap())
    }

    fn ec() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }

    fn ed() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
        }
    }

    /// The public key, without `alg`.
    fn jwk(&self, id: &str) -> Value {
        match self {
            Self::Rsa(key) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({ "kid": id, "kty": "RSA", "n": base64(public.n), "e": base64(public.e) })
            }
            Self::Ec(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({ "kid": id, "kty": "EC", "crv": "P-256", "x": base64(x), "y": base64(y) })
            }
            Self::Ed(key) => {
                let x = base64(key.public_key());
                json!({ "kid": id, "kty": "OKP", "crv": "Ed25519", "x": x })
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                let signed = key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature);
                signed.unwrap();
                signature
            }
            Self::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with this header and these claims.
    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!(
            "{}.{}",
            base64(header.to_string()),
            base64(claims.to_string())
        );
        let signature = base64(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

/// An issuer that publishes what the test says.
pub(crate) struct Issuer {
    server: Upstream,
    metadata: Arc<Mutex<Value>>,
    keys: Arc<Mutex<Reply>>,
    key: Key,
}

impl Issuer {
    /// Starts one with this key, which is called `one`.
    async fn with(key: Key) -> Self {
        let metadata = Arc::new(Mutex::new(Value::Null));
        let keys = Arc::new(Mutex::new(jwks(&[key.jwk("one")])));
        let (shared, published) = (Arc::clone(&metadata), Arc::clone(&keys));
        let server = Upstream::start(move |_, line| match line {
            _ if line.starts_with("GET /.well-known/oauth-authorization-server ") => {
                json_reply("200 OK", &shared.lock().unwrap())
            }
            _ if line.starts_with("GET /keys ") => published.lock().unwrap().clone(),
            _ => reply("404 Not Found", "", ""),
        })
        .await;
        let url = server.url();
        *metadata.lock().unwrap() = json!({ "issuer": url, "jwks_uri": format!("{url}/keys") });
        Self {
            server,
            metadata,
            keys,
            key,
        }
    }

    pub(crate) async fn start() -> Self {
        Self::with(Key::ec()).await
    }

    /// The program with this issuer.
    pub(crate) fn app(&self) -> TestApp {
        TestApp::new(&[])
            .with("QOVERY_BACKUPS_OAUTH_ISSUER", self.server.url())
            .with("QOVERY_BACKUPS_PUBLIC_URL", PUBLIC_URL)
    }

    pub(crate) async fn serve(&self, arguments: &[&str]) -> Server {
        self.app()
            .serve(&[&["--sandbox"], arguments].concat())
            .await
    }

    pub(crate) fn publish(&self, reply: Reply) {
        *self.keys.lock().unwrap() = reply;
    }

    fn fetches(&self) -> usize {
        let lines = self.server.lines();
        lines
            .iter()
            .filter(|line| line.starts_with("GET /keys "))
            .count()
    }

    fn header(&self) -> Value {
        json!({ "alg": self.key.algorithm(), "kid": "one", "typ": "at+jwt" })
    }

    fn claims(&self, scope: &str) -> Value {
        json!({
            "iss": self.server.url(), "aud": AUDIENCE, "sub": "00u1", "exp": now() + 300,
            "nbf": now(), "iat": now(), "email": "ada@example.com", "scope": scope,
        })
    }

    /// A token with these scopes.
    fn token(&self, scope: &str) -> String {
        self.key.token(&self.header(), &self.claims(scope))
    }

    /// A token with another value of this claim, or without it.
    pub(crate) fn token_with(&self, claim: &str, value: Value) -> String {
        let mut claims = self.claims(BOTH);
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(claim)),
            value => claims[claim] = value,
        }
        self.key.token(&self.header(), &claims)
    }

    fn token_under(&self, header: &Value) -> String {
        self.key.token(header, &self.claims(BOTH))
    }
}

fn now() -> i64 {
    Utc::now().timestamp()
}

fn jwks(keys: &[Value]) -> Reply {
    json_reply("200 OK", &json!({ "keys": keys }))
}

pub(crate) fn list() -> Request {
    Request::get(&backups_of(Sandbox::ORDERS))
}

fn add() -> Request {
    Request::post(
        &backups_of(Sandbox::ORDERS),
        &json!({ "name": "from a test" }),
    )
}

/// Expects a 401 with the challenge, and an error for a token that was sent. Returns the detail.
#[track_caller]
fn unauthenticated(answer: &Answer, error: bool) -> String {
    let problem = answer.problem(401, "unauthenticated");
    let error = if error {
        r#", error="invalid_token""#
    } else {
        ""
    };
    let expected = format!("{METADATA}{SCOPES}{error}");
    assert_eq!(answer.header("www-authenticate"), Some(&*expected));
    problem["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_kind_of_key_signs_in_over_both_interfaces() {
    for key in [Key::rsa(), Key::ec(), Key::ed()] {
        let issuer = Issuer::with(key).await;
        let server = issuer.serve(&[]).await;
        let token = issuer.token(BOTH);
        let answer = server.rest(list().token(Some(&token))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(server.rest(add().token(Some(&token))).await.status, 201);
        let call = server.call_of(&answer).await;
        assert_eq!(call["caller"], "ada@example.com (127.0.0.1)");
        for era in [Era::Handshake, Era::Stateless] {
            let mut client = Client::over_http(&server, era, None);
            let request = client.tool(ADD, &json!({ "databaseId": Sandbox::ORDERS, "name": "x" }));
            let answer = request.token(Some(&token)).send(server.mcp).await;
            assert_eq!(answer.message()["result"]["isError"], false, "{answer:?}");
        }
        assert_eq!(issuer.fetches(), 1);
    }
}

#[tokio::test]
async fn a_caller_without_a_token_learns_where_to_sign_in() {
    let issuer = Issuer::start().await;
    let server = issuer.serve(&[]).await;
    let mut client = Client::over_http(&server, Era::Stateless, None);
    let tools = client.message("tools/list", json!({}));
    for (address, request) in [(server.mcp, tools), (server.rest, list())] {
        let detail = unauthenticated(&request.send(address).await, false);
        contains(&detail, [&issuer.server.url(), "Nothing was changed"]);
        let wrong = request.token(Some("no-token-of-this-server"));
        unauthenticated(&wrong.send(address).await, true);
    }
    let basic = list().header("Authorization", "Basic YTpi");
    unauthenticated(&server.rest(basic).await, false);
    assert_eq!(issuer.fetches(), 0);
    for path in ["/", "/openapi.json", "/healthz"] {
        assert_eq!(server.rest(Request::get(path)).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn the_metadata_is_public_and_the_operators_own() {
    let issuer = Issuer::start().await;
    let server = issuer.serve(&[]).await;
    for address in [server.mcp, server.rest] {
        for path in ["", "/mcp"] {
            let path = format!("/.well-known/oauth-protected-resource{path}");
            let request = Request::get(&path)
                .header("Host", "evil.example")
                .header("Origin", "https://a.example");
            let answer = request.send(address).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
            assert_eq!(answer.header("content-type"), Some("application/json"));
            let metadata = answer.json();
            assert_eq!(metadata["resource"], AUDIENCE);
            assert_eq!(
                metadata["authorization_servers"],
                json!([issuer.server.url()])
            );
            assert_eq!(
                metadata["scopes_supported"],
                json!(["backups:read", "backups:write"])
            );
            assert_eq!(metadata["bearer_methods_supported"], json!(["header"]));
            let preflight = Request::new("OPTIONS", &path)
                .header("Origin", "https://a.example")
                .header("Access-Control-Request-Method", "GET")
                .header("Access-Control-Request-Headers", "mcp-protocol-version");
            let answer = preflight.send(address).await;
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
            assert_eq!(answer.header("access-control-allow-headers"), Some("*"));
        }
    }
    let read_only = issuer.serve(&["--read-only"]).await;
    let answer = read_only.rest(list()).await;
    let expected = format!(r#"{METADATA}, scope="backups:read""#);
    assert_eq!(answer.header("www-authenticate"), Some(&*expected));
}

#[tokio::test]
async fn the_scopes_are_the_roles_of_access_tokens() {
    let issuer = Issuer::start().await;
    let server = issuer.serve(&[]).await;
    let expected = format!(r#"{METADATA}{SCOPES}, error="insufficient_scope""#);
    let in_scp = |value: Value| {
        let mut claims = issuer.claims("openid");
        claims["scp"] = value;
        issuer.key.token(&issuer.header(), &claims)
    };
    for token in [
        issuer.token("openid backups:read"),
        in_scp(json!(["backups:read"])),
    ] {
        let token = Some(&*token);
        assert_eq!(server.rest(list().token(token)).await.status, 200);
        let mut client = Client::over_http(&server, Era::Stateless, None);
        let tools = client.message("tools/list", json!({})).token(token);
        let tools = tools.send(server.mcp).await.message();
        assert_eq!(tools["result"]["tools"].as_array().unwrap().len(), 1);
        assert_eq!(tools["result"]["cacheScope"], "private");
        let listed = client
            .tool(LIST, &orders())
            .token(token)
            .send(server.mcp)
            .await;
        assert_eq!(listed.message()["result"]["isError"], false);
        let added = client
            .tool(ADD, &order(1))
            .token(token)
            .send(server.mcp)
            .await;
        for answer in [added, server.rest(add().token(token)).await] {
            answer.problem(403, "forbidden_role");
            assert_eq!(answer.header("www-authenticate"), Some(&*expected));
        }
    }
    for token in [in_scp(json!(BOTH)), issuer.token("backups:write")] {
        assert_eq!(server.rest(add().token(Some(&token))).await.status, 201);
    }
    for token in [
        issuer.token("openid"),
        issuer.token_with("scope", Value::Null),
    ] {
        let answer = server.rest(list().token(Some(&token))).await;
        answer.problem(403, "forbidden_role");
        assert_eq!(answer.header("www-authenticate"), Some(&*expected));
    }
}

#[tokio::test]
async fn access_tokens_are_accepted_beside_it() {
    let issuer = Issuer::start().await;
    let tokens = "ada:access-token-of-ada\nben/read:access-token-of-ben";
    let app = issuer.app().with(TOKENS.0, tokens);
    let server = app.serve(&["--sandbox"]).await;
    let answer = server.rest(list().token(Some("access-token-of-ada"))).await;
    assert_eq!(server.call_of(&answer).await["caller"], "ada");
    assert_eq!(answer.status, 200);
    let refused = server.rest(add().token(Some("access-token-of-ben"))).await;
    refused.problem(403, "forbidden_role");
    assert_eq!(refused.header("www-authenticate"), None);
    let token = issuer.token(BOTH);
    assert_eq!(server.rest(list().token(Some(&token))).await.status, 200);
    unauthenticated(&server.rest(list()).await, false);
}

/// The sign-in says who calls, and the key what Qovery lets them do: neither stands for the other.
#[tokio::test]
async fn a_caller_who_signs_in_may_bring_the_own_key() {
    let issuer = Issuer::start().await;
    let server = issuer.serve(&["--caller-keys"]).await;
    let token = issuer.token(BOTH);
    let key = ("X-Qovery-Api-Key", Sandbox::KEY);
    let both = list().token(Some(&token)).header(key.0, key.1);
    let answer = server.rest(both).await;
    assert_eq!(answer.status, 200);
    let caller = server.call_of(&answer).await["caller"].clone();
    assert!(
        caller.as_str().unwrap().starts_with("ada@example.com ("),
        "{caller}"
    );
    let keyless = server.rest(list().token(Some(&token))).await;
    keyless.problem(403, "key_missing");
    unauthenticated(&server.rest(list().header(key.0, key.1)).await, false);
    unauthenticated(&server.rest(list().header("X-API-Key", key.1)).await, false);
}

#[tokio::test]
async fn a_token_that_is_not_for_this_server_is_refused_with_its_reason() {
    let issuer = Issuer::start().await;
    let server = issuer.serve(&[]).await;
    let valid = issuer.token(BOTH);
    assert_eq!(server.rest(list().token(Some(&valid))).await.status, 200);
    let header = issuer.header();
    let other = |name: &str, value: Value| {
        let mut header = header.clone();
        header[name] = value;
        issuer.token_under(&header)
    };
    // Signed with the public key as if it were a secret.
    let public = URL_SAFE_NO_PAD
        .decode(issuer.key.jwk("one")["x"].as_str().unwrap())
        .unwrap();
    let message = valid.rsplit_once('.').unwrap().0.split_once('.').unwrap().1;
    let confused = json!({ "alg": "HS256", "kid": "one" }).to_string();
    let message = format!("{}.{message}", base64(confused));
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, &public),
        message.as_bytes(),
    );
    let hs256 = format!("{message}.{}", base64(tag));
    let (unsigned, signature) = valid.rsplit_once('.').unwrap();
    let none = base64(json!({ "alg": "none", "kid": "one" }).to_string());
    let none = format!("{none}.{}.", unsigned.split_once('.').unwrap().1);
    let other_claims = base64(issuer.claims("backups:write").to_string());
    let head = unsigned.split_once('.').unwrap().0;
    let cases = [
        (none, "neither an access token"),
        (hs256, "its algorithm"),
        (other("alg", json!("RS256")), "its algorithm"),
        (
            issuer.token_with("aud", json!("https://other.example.com/mcp")),
            "another audience",
        ),
        (issuer.token_with("aud", json!([])), "another audience"),
        (issuer.token_with("aud", Value::Null), "it lacks"),
        (
            issuer.token_with("iss", json!("https://other.example.com")),
            "another issuer",
        ),
        (issuer.token_with("iss", Value::Null), "it lacks"),
        (
            issuer.token_with("exp", json!(now() - 60)),
            "it has expired",
        ),
        (issuer.token_with("exp", json!("soon")), "it lacks"),
        (issuer.token_with("exp", Value::Null), "it lacks"),
        (issuer.token_with("nbf", json!(now() + 90)), "not valid yet"),
        (issuer.token_with("nbf", json!("now")), "malformed"),
        (
            issuer.token_under(&json!({ "alg": "ES256" })),
            "it names no key",
        ),
        (other("kid", json!(7)), "neither an access token"),
        (other("crit", json!(["exp"])), "malformed"),
        (
            Key::ec().token(&header, &issuer.claims(BOTH)),
            "its signature",
        ),
        (
            format!("{head}.{other_claims}.{signature}"),
            "its signature",
        ),
        (format!("{unsigned}."), "its signature"),
        (format!("{valid}.a.b"), "neither an access token"),
        (format!("{valid}="), "malformed"),
        ("..".to_owned(), "neither an access token"),
        ("e30.e30.e30".to_owned(), "neither an access token"),
        (
            format!("{head}.{}.{signature}", "A".repeat(50_000)),
            "its signature",
        ),
    ];
    for (token, reason) in cases {
        let start = token.get(..200).unwrap_or(&token);
        for request in [list(), add()] {
            let answer = server.rest(request.token(Some(&token))).await;
            let detail = unauthenticated(&answer, true);
            contains(&detail, [reason, "Nothing was changed"]);
            lacks(&detail, [start]);
        }
    }
    // How much of a header hyper has read decides which it is.
    let long = format!("{head}.{}.{signature}", "A".repeat(100_000));
    let answer = server.rest(list().token(Some(&long))).await;
    assert!(matches!(answer.status, 401 | 431), "{answer:?}");
    // Within the leeway, and with one audience of several.
    for token in [
        issuer.token_with("exp", json!(now() - 10)),
        issuer.token_with("nbf", json!(now() + 10)),
        issuer.token_with("aud", json!(["another", AUDIENCE])),
    ] {
        assert_eq!(server.rest(list().token(Some(&token))).await.status, 200);
    }
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn an_unknown_key_is_looked_for_once_a_minute() {
    let issuer = Issuer::start().await;
    let server = issuer.serve(&[]).await;
    let mut header = issuer.header();
    for number in 0..1_000 {
        header["kid"] = json!(format!("unknown-{number}"));
        let token = issuer.token_under(&header);
        let detail = unauthenticated(&server.rest(list().token(Some(&token))).await, true);
        contains(&detail, ["no such key"]);
    }
    assert_eq!(issuer.fetches(), 1);
    let token = issuer.token(BOTH);
    assert_eq!(server.rest(list().token(Some(&token))).await.status, 200);
}

#[tokio::test]
async fn many_first_calls_fetch_the_keys_once() {
    let issuer = Issuer::start().await;
    let server = issuer.serve(&[]).await;
    let token = issuer.token(BOTH);
    let calls = (0..30).map(|_| server.rest(list().token(Some(&token))));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.status, 200);
    }
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn a_new_key_is_found_and_an_old_one_goes() {
    let issuer = Issuer::start().await;
    let server = issuer.app().short_limits().serve(&["--sandbox"]).await;
    let old = issuer.token(BOTH);
    assert_eq!(server.rest(list().token(Some(&old))).await.status, 200);
    let key = Key::rsa();
    issuer.publish(jwks(&[key.jwk("two")]));
    let header = json!({ "alg": "RS256", "kid": "two" });
    let new = key.token(&header, &issuer.claims(BOTH));
    // At most once in the pause, which is half a second here.
    until(&server, &new, 200).await;
    unauthenticated(&server.rest(list().token(Some(&old))).await, true);
}

/// Waits until a token is answered so.
async fn until(server: &Server, token: &str, status: u16) {
    let answered = async { while server.rest(list().token(Some(token))).await.status != status {} };
    let answered = tokio::time::timeout(crate::app::TEST_TIMEOUT, answered).await;
    answered.unwrap_or_else(|_| panic!("never answered with {status}"));
}

#[tokio::test]
async fn while_the_issuer_is_down_known_keys_go_on() {
    let issuer = Issuer::start().await;
    let server = issuer.app().short_limits().serve(&["--sandbox"]).await;
    let token = issuer.token(BOTH);
    assert_eq!(server.rest(list().token(Some(&token))).await.status, 200);
    for broken in [
        reply("503 Service Unavailable", "", ""),
        Reply::Reset,
        Reply::Hang,
    ] {
        issuer.publish(broken);
        let fetches = issuer.fetches();
        while issuer.fetches() == fetches {
            assert_eq!(server.rest(list().token(Some(&token))).await.status, 200);
        }
    }
    server
        .log
        .message("the keys of the sign-in could not be read: ")
        .await;
    // A key that the issuer no longer publishes goes.
    issuer.publish(jwks(&[]));
    until(&server, &token, 401).await;
}

#[tokio::test]
async fn an_issuer_that_does_not_fit_signs_no_caller_in() {
    let issuer = Issuer::start().await;
    let token = issuer.token(BOTH);
    let key = issuer.key.jwk("one");
    let with = |name: &str, value: Value| {
        let mut key = key.clone();
        key[name] = value;
        jwks(&[key])
    };
    let secret = json!({ "kid": "one", "kty": "oct", "k": base64([7; 32]), "alg": "ES256" });
    let flood = "HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n{\"keys\": [";
    let redirect = format!("Location: {}/keys\r\n", issuer.server.url());
    for (keys, reason) in [
        (Reply::Flood(flood.into()), "longer than 64 KiB"),
        (jwks(&[secret]), "publishes no key with an id"),
        (with("alg", json!("RS256")), "publishes no key with an id"),
        (with("alg", json!("HS256")), "publishes no key with an id"),
        (with("alg", json!("strange")), "publishes no key with an id"),
        (with("use", json!("enc")), "publishes no key with an id"),
        (with("crv", json!("P-384")), "publishes no key with an id"),
        (with("kid", Value::Null), "publishes no key with an id"),
        (reply("200 OK", "", "<html>"), "is no JSON"),
        (
            json_reply("200 OK", &json!([])),
            "publishes no key with an id",
        ),
        (reply("302 Found", &redirect, ""), "answered 302 Found"),
    ] {
        issuer.publish(keys);
        refuses(&issuer, &token, reason).await;
    }
    issuer.publish(jwks(&[key]));
    let url = issuer.server.url();
    let keys = format!("{url}/keys");
    for (metadata, reason) in [
        (
            json!({ "issuer": "https://evil.example", "jwks_uri": keys }),
            "calls itself",
        ),
        (
            json!({ "issuer": format!("{url}/"), "jwks_uri": keys }),
            "calls itself",
        ),
        (
            json!({ "issuer": url }),
            "names no https:// address of its keys",
        ),
        (
            json!({ "issuer": url, "jwks_uri": "http://login.example.com/keys" }),
            "names no https:// address",
        ),
        (
            json!({ "issuer": url, "jwks_uri": "file:///etc/passwd" }),
            "names no https:// address",
        ),
    ] {
        *issuer.metadata.lock().unwrap() = metadata;
        refuses(&issuer, &token, reason).await;
    }
}

/// Expects a fresh server to refuse a token, and `check` to say why.
async fn refuses(issuer: &Issuer, token: &str, reason: &str) {
    let server = issuer.serve(&[]).await;
    let answer = server.rest(add().token(Some(token))).await;
    contains(
        &unauthenticated(&answer, true),
        ["no such key, or could not be asked"],
    );
    let end = issuer.app().run(&["check", "--sandbox"]).await;
    assert_eq!(end.status.code(), Some(1), "{reason}: {}", end.stdout);
    let verdict = end.stdout.lines().last().unwrap();
    contains(verdict, ["FAILED: the sign-in would not work: ", reason]);
}

#[tokio::test]
async fn a_strange_key_spoils_no_other() {
    let issuer = Issuer::start().await;
    let strange = [
        json!(null),
        json!("key"),
        json!({ "kid": "one" }),
        json!({ "kid": 7, "kty": "RSA", "n": "AQAB", "e": "AQAB" }),
        json!({ "kid": "x", "kty": "EC", "crv": "secp256k1", "x": "AQAB", "y": "AQAB" }),
        json!({ "kid": "y", "kty": "OKP", "crv": "Ed25519", "x": "=" }),
        json!({ "kid": "z", "kty": "RSA", "n": "AQAB", "e": "AQAB", "key_ops": ["dance"] }),
        issuer.key.jwk("one"),
    ];
    issuer.publish(jwks(&strange));
    let server = issuer.serve(&[]).await;
    let token = issuer.token(BOTH);
    let answer = server.rest(list().token(Some(&token))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut header = issuer.header();
    header["kid"] = json!("z");
    header["alg"] = json!("RS256");
    let forged = issuer.token_under(&header);
    unauthenticated(&server.rest(list().token(Some(&forged))).await, true);
}

#[tokio::test]
async fn openids_metadata_does_as_well_and_an_issuer_may_have_a_path() {
    let key = Key::ed();
    let (url, keys) = (Arc::new(OnceLock::<String>::new()), jwks(&[key.jwk("one")]));
    let own = Arc::clone(&url);
    let server = Upstream::start(move |_, line| {
        let url = own.get().unwrap();
        let path = line.split(' ').nth(1).unwrap();
        match path {
            "/company/.well-known/openid-configuration" => json_reply(
                "200 OK",
                &json!({ "issuer": format!("{url}/company/"), "jwks_uri": format!("{url}/k?p=1") }),
            ),
            "/k?p=1" => keys.clone(),
            _ => reply("404 Not Found", "", ""),
        }
    })
    .await;
    url.set(server.url()).unwrap();
    let issuer = format!("{}/company/", server.url());
    let app = TestApp::new(&[])
        .with("QOVERY_BACKUPS_OAUTH_ISSUER", &issuer)
        .with("QOVERY_BACKUPS_OAUTH_AUDIENCE", "backups")
        .with("QOVERY_BACKUPS_PUBLIC_URL", PUBLIC_URL);
    let end = app.run(&["check", "--sandbox"]).await;
    assert_eq!(end.status.code(), Some(0), "{}", end.stdout);
    contains(
        &end.stdout,
        ["OK: the issuer of the sign-in publishes 1 key(s)"],
    );
    let lines = server.lines();
    contains(
        &lines[0],
        ["GET /.well-known/oauth-authorization-server/company "],
    );
    let program = app.serve(&["--sandbox"]).await;
    let claims = json!({
        "iss": issuer, "aud": ["backups"], "exp": now() + 60, "scope": BOTH,
        "preferred_username": format!("  a\u{202e}da\n{}", "x".repeat(300)), "sub": "1",
    });
    let token = key.token(&json!({ "alg": "EdDSA", "kid": "one" }), &claims);
    let answer = program.rest(list().token(Some(&token))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let caller = program.call_of(&answer).await["caller"].clone();
    let caller = caller.as_str().unwrap();
    assert!(
        caller.starts_with("ada x") && caller.ends_with("x (127.0.0.1)"),
        "{caller}"
    );
    assert!(caller.len() < 120, "{caller}");
}

#[cfg(unix)]
#[tokio::test]
async fn no_token_is_in_any_log_or_answer() {
    let issuer = Issuer::start().await;
    let audit = "audit.jsonl";
    let app = issuer.app();
    let server = app
        .serve(&["--sandbox", "--log", "debug", "--audit-log", audit])
        .await;
    let tokens = [
        issuer.token(BOTH),
        issuer.token("backups:read"),
        issuer.token_with("exp", json!(1)),
        issuer.token_with("aud", json!("other")),
    ];
    let mut seen = String::new();
    for token in &tokens {
        for request in [list(), add(), Request::get("/metrics")] {
            let answer = server.rest(request.token(Some(token))).await;
            seen.extend([format!("{:?}", answer.headers), answer.text()]);
        }
        let mut client = Client::over_http(&server, Era::Handshake, None);
        let call = client.tool(ADD, &order(1)).token(Some(token));
        seen.push_str(&call.send(server.mcp).await.text());
    }
    seen.push_str(&server.finish().await.stderr);
    let audited = std::fs::read_to_string(app.directory.path().join(audit)).unwrap();
    contains(&audited, ["ada@example.com (127.0.0.1)"]);
    seen.push_str(&audited);
    for token in tokens {
        for part in token.split('.') {
            lacks(&seen, [part]);
        }
    }
}

#[tokio::test]
async fn a_sign_in_needs_the_public_url() {
    let issuer = "must be the issuer's identifier";
    let both = "needs --oauth-issuer and --public-url";
    let app = TestApp::new(&[]);
    for (arguments, problem) in [
        ("--oauth-issuer=https://a.example", both),
        ("--oauth-audience=a --public-url=https://b.example", both),
        (
            "--public-url=https://b.example --oauth-issuer=http://a.example",
            issuer,
        ),
        (
            "--public-url=https://b.example --oauth-issuer=https://me@a.example",
            issuer,
        ),
        (
            "--public-url=https://b.example --oauth-issuer=https://a.example?b",
            issuer,
        ),
        ("--public-url=https://a.example/:b", "in its path"),
        ("--public-url=https://a.example/a//b", "in its path"),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let error = app
            .refused(&[&["http", "--sandbox"], &*arguments].concat())
            .await;
        contains(&error, [problem]);
    }
}

#[tokio::test]
async fn a_sign_in_guards_every_address() {
    let issuer = Issuer::start().await;
    let arguments = ["--sandbox", "--mcp-addr", "0.0.0.0:0", "--no-rest"];
    let server = issuer.app().serve(&arguments).await;
    let address = ([127, 0, 0, 1], server.mcp.port()).into();
    let mut client = Client::over_http(&server, Era::Stateless, None);
    let tools = client.message("tools/list", json!({}));
    unauthenticated(&tools.send(address).await, false);
}

#[tokio::test]
async fn behind_a_path_everything_begins_with_it() {
    let issuer = Issuer::start().await;
    let url = "https://example.com/qovery";
    let app = issuer.app().with("QOVERY_BACKUPS_PUBLIC_URL", url);
    let server = app.serve(&["--sandbox"]).await;
    let mut claims = issuer.claims(BOTH);
    claims["aud"] = json!(format!("{url}/mcp"));
    let token = issuer.key.token(&issuer.header(), &claims);
    let well_known = "/.well-known/oauth-protected-resource";
    for address in [server.mcp, server.rest] {
        for path in [
            format!("{well_known}/qovery/mcp"),
            format!("/qovery{well_known}"),
            format!("/qovery{well_known}/mcp"),
            format!("{well_known}/mcp"),
        ] {
            let answer = Request::get(&path).send(address).await;
            assert_eq!(answer.status, 200, "{path}");
            assert_eq!(answer.json()["resource"], format!("{url}/mcp"));
        }
    }
    for prefix in ["", "/qovery"] {
        let mut client = Client::over_http(&server, Era::Stateless, None);
        let mut request = client.tool(LIST, &orders()).token(Some(&token));
        request.target = format!("{prefix}/mcp");
        assert_eq!(request.send(server.mcp).await.status, 200, "{prefix}");
        request.target = format!("{prefix}/mcp/");
        assert_eq!(request.send(server.mcp).await.status, 200, "{prefix}");
        let path = format!("{prefix}{}", backups_of(Sandbox::ORDERS));
        let paged = format!("{path}?startId=");
        let listed = server.rest(Request::get(&paged).token(Some(&token))).await;
        assert_eq!(listed.status, 200, "{listed:?}");
        let absolute = format!("http://localhost{path}");
        let listed = server
            .rest(Request::get(&absolute).token(Some(&token)))
            .await;
        assert_eq!(listed.status, 200, "{listed:?}");
        let added = Request::post(&path, &json!({ "name": "x" })).token(Some(&token));
        let added = server.rest(added).await;
        let id = added.json()["id"].as_str().unwrap().to_owned();
        let location = format!("/qovery{}/{id}", backups_of(Sandbox::ORDERS));
        assert_eq!(added.header("location"), Some(&*location));
        assert_eq!(server.call_of(&added).await["operation"], "add");
        let challenged = server.rest(Request::get(&path)).await;
        let metadata = format!("resource_metadata=\"https://example.com{well_known}/qovery/mcp\"");
        contains(challenged.header("www-authenticate").unwrap(), [&metadata]);
        let document = server
            .rest(Request::get(&format!("{prefix}/openapi.json")))
            .await;
        assert_eq!(document.json()["servers"][0]["url"], "/qovery");
        for page in [format!("{prefix}/"), format!("{prefix}/?a")] {
            let page = server.rest(Request::get(&page)).await.text();
            contains(
                &page,
                [
                    "href=\"/qovery/openapi.json\"",
                    "href=\"/qovery/metrics\"",
                    url,
                ],
            );
            lacks(&page, ["href=\"/o", "href=\"/m"]);
        }
    }
    for other in ["/qoveryx/mcp", "/other/qovery/mcp", "/qovery/qovery/mcp"] {
        let answer = Request::get(other)
            .token(Some(&token))
            .send(server.mcp)
            .await;
        answer.problem(404, "no_such_path");
    }
}
