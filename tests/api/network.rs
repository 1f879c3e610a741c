//! The network between this server and Qovery: certificates and proxies.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use qovery_backups_mcp::sandbox::Sandbox;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    date_time_ymd,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, rustls};

use crate::{
    app::TestApp,
    clients::{Era, LIST, orders},
    expect::{contains, lacks},
    upstreams::{Upstream, closed_port, page, reply},
};

const UNTRUSTED: &str = "Qovery could not be reached: invalid peer certificate: UnknownIssuer.";

/// An upstream behind TLS.
pub(crate) struct Tls {
    port: u16,
    /// The certificate of the authority that signed its own.
    pub(crate) authority: String,
    connections: Arc<AtomicUsize>,
    _upstream: Upstream,
}

impl Tls {
    /// With a certificate that `change` has edited and an authority has signed.
    pub(crate) async fn signed(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // An authority of the same name would be tried, and its signature not match.
        let name = format!("authority {}", fastrand::u64(..));
        authority.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(authority, key).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut certificate = certificate();
        change(&mut certificate);
        let certificate = certificate.signed_by(&key, &authority).unwrap();
        Self::start(&certificate, key, authority.pem()).await
    }

    /// With a self-signed certificate.
    async fn self_signed(is_ca: IsCa) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut certificate = certificate();
        certificate.is_ca = is_ca;
        let certificate = certificate.self_signed(&key).unwrap();
        Self::start(&certificate, key, certificate.pem()).await
    }

    async fn start(certificate: &Certificate, key: KeyPair, authority: String) -> Self {
        let provider = rustls::crypto::ring::default_provider();
        let config = rustls::ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();

        let upstream = Upstream::always(page(&[])).await;
        let behind = upstream.url().replace("http://", "");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let (acceptor, behind) = (acceptor.clone(), behind.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut behind = TcpStream::connect(behind).await.unwrap();
                    let _ = copy_bidirectional(&mut stream, &mut behind).await;
                });
            }
        });
        Self {
            port,
            authority,
            connections,
            _upstream: upstream,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

/// A certificate for this machine's own address.
fn certificate() -> CertificateParams {
    CertificateParams::new(["127.0.0.1".to_owned()]).unwrap()
}

/// An app whose upstream is at `url`, and that trusts this authority only.
pub(crate) fn trusting(authority: &str, url: &str) -> TestApp {
    let app = TestApp::with_upstream(url);
    app.file("authority.pem", authority);
    let file = app.directory.path().join("authority.pem");
    app.with("SSL_CERT_FILE", file.to_str().unwrap())
}

#[tokio::test]
async fn a_private_certificate_is_trusted_only_where_its_authority_is_named() {
    let [tls, other] = [Tls::signed(|_| {}).await, Tls::signed(|_| {}).await];
    let app = trusting(&other.authority, &tls.url());
    let mut session = app.session(Era::Handshake, &[]).await;
    for calls in 1..=2 {
        let text = session.refused(LIST, orders()).await;
        contains(&text, [UNTRUSTED, "SSL_CERT_FILE"]);
        let connections = tls.connections.load(Ordering::Relaxed);
        assert_eq!(connections, calls, "one for each call");
    }
    let check = app.run(&["check"]).await.stdout;
    contains(&check, [UNTRUSTED]);

    for tls in [tls, Tls::self_signed(IsCa::ExplicitNoCa).await] {
        let app = trusting(&tls.authority, &tls.url());
        let mut session = app.session(Era::Handshake, &[]).await;
        session.ok(LIST, orders()).await;
    }
}

/// What `openssl req -x509` makes by default.
#[tokio::test]
async fn an_authority_that_serves_its_own_certificate_is_never_trusted() {
    let tls = Tls::self_signed(IsCa::Ca(BasicConstraints::Unconstrained)).await;
    let app = trusting(&tls.authority, &tls.url());
    let mut session = app.session(Era::Handshake, &[]).await;
    let text = session.refused(LIST, orders()).await;
    contains(
        &text,
        [
            "invalid peer certificate: ",
            "CaUsedAsEndEntity",
            "CA:FALSE",
        ],
    );
    assert_eq!(tls.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_message_of_a_tls_failure_is_the_librarys() {
    let expired =
        Tls::signed(|certificate| certificate.not_after = date_time_ymd(2020, 1, 1)).await;
    let elsewhere = Tls::signed(|certificate| {
        *certificate = CertificateParams::new(["elsewhere.example".to_owned()]).unwrap();
    })
    .await;
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let without_tls = format!("https://{}", plain.local_addr().unwrap());
    let answer_in_plain_http = async {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        stream
    };
    for (tls, words) in [(&expired, "expired"), (&elsewhere, "elsewhere.example")] {
        let text = refused(trusting(&tls.authority, &tls.url())).await;
        contains(&text, ["invalid peer certificate: ", words]);
        assert_eq!(tls.connections.load(Ordering::Relaxed), 1);
    }
    let app = trusting(&expired.authority, &without_tls);
    let (text, _stream) = tokio::join!(refused(app), answer_in_plain_http);
    contains(&text, ["received corrupt message", "QOVERY_API_URL"]);
    lacks(&text, ["SSL_CERT_FILE"]);
}

/// An app that reaches Qovery through a proxy, which resolves its name.
fn through(variable: &'static str, proxy: &str) -> TestApp {
    TestApp::with_upstream("https://qovery.invalid").with(variable, proxy)
}

async fn refused(app: TestApp) -> String {
    let mut session = app.session(Era::Handshake, &[]).await;
    session.refused(LIST, orders()).await
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_and_gets_no_key() {
    for (status, words) in [
        ("407 X", "proxy authorization required"),
        ("403 Forbidden", "tunnel error: unsuccessful"),
    ] {
        let proxy = Upstream::always(reply(status, "", "")).await;
        let text = refused(through("HTTPS_PROXY", &proxy.url())).await;
        contains(&text, [words, "HTTPS_PROXY"]);
        let requests = proxy.requests();
        assert_eq!(requests.len(), 3, "{status}");
        for request in requests {
            contains(&request, ["CONNECT qovery.invalid:443 "]);
            lacks(&request, [Sandbox::KEY]);
        }
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named() {
    let (_port, url) = closed_port();
    let text = refused(through("ALL_PROXY", &url)).await;
    contains(&text, ["Connection refused", "ALL_PROXY"]);
}

#[tokio::test]
async fn a_proxy_is_not_used_on_loopback() {
    let upstream = Upstream::always(page(&[])).await;
    let app = upstream.app().with("HTTPS_PROXY", "http://user:pa55word@");
    let mut session = app.session(Era::Handshake, &[]).await;
    session.ok(LIST, orders()).await;
}
