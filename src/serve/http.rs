//! MCP over streamable HTTP on one port, and the REST API on another.
//!
//! hyper speaks HTTP/1.1 over a `stream` that watches the time. A request passes the `layers`, the
//! same on both ports, and reaches a router.

mod access;
mod endpoint;
mod events;
mod layers;
mod sessions;
mod stream;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, Response, Uri, header::CONNECTION},
    routing::get,
};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::Process;
use crate::{context::Interface, mcp, rest, shares::Shares};
pub use access::{AllowedHost, AllowedOrigin, Tokens, TokensError};
use endpoint::Endpoint;
use layers::Layers;
use stream::{Connections, Phase, Stream};

/// How to serve over HTTP.
#[derive(Debug)]
pub struct Settings {
    /// Where MCP is served, at `/mcp`.
    pub mcp: SocketAddr,
    /// Where the REST API is served, if at all.
    pub rest: Option<SocketAddr>,
    /// The names under which callers may reach the ports.
    pub allowed_hosts: Vec<AllowedHost>,
    /// The web origins whose pages may call the ports.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// Where callers reach the ports, if they say it otherwise: behind a proxy.
    pub public_url: Option<String>,
    /// What callers must show; none, and nobody is asked.
    pub tokens: Tokens,
    /// Whether MCP clients of the revisions before 2026-07-28 get sessions.
    pub sessions: bool,
}

/// A port that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{address} cannot be listened on ({problem}). Free the port, or choose another: {flag}.")]
pub struct PortError {
    address: SocketAddr,
    flag: &'static str,
    problem: io::Error,
}

/// For the last bytes of the last answers, and for requests that were sent before their sender
/// could know.
const CLOSE: Duration = Duration::from_secs(1);

/// Two listening sockets.
#[derive(Debug)]
pub struct Listeners {
    mcp: TcpListener,
    rest: Option<TcpListener>,
}

impl Listeners {
    /// Listens on both addresses, or on none.
    ///
    /// # Errors
    ///
    /// When an address is taken, or is not one of this machine's.
    pub fn bind(settings: &Settings) -> Result<Self, PortError> {
        Ok(Self {
            mcp: listen(settings.mcp, "--mcp-addr")?,
            rest: match settings.rest {
                Some(address) => Some(listen(address, "--rest-addr")?),
                None => None,
            },
        })
    }

    /// Where MCP is served.
    ///
    /// # Errors
    ///
    /// When the socket has no address any more.
    pub fn mcp(&self) -> io::Result<SocketAddr> {
        self.mcp.local_addr()
    }

    /// Where the REST API is served, if at all.
    ///
    /// # Errors
    ///
    /// When the socket has no address any more.
    pub fn rest(&self) -> io::Result<Option<SocketAddr>> {
        self.rest.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Serves until the process is asked to end. Calls in flight are then answered, as far as its time
    /// allows.
    pub async fn serve(
        self,
        settings: Settings,
        mcp: mcp::Server,
        rest: rest::Rest,
        process: Process,
    ) {
        let (limits, shutdown) = (&process.limits, &process.shutdown);
        let endpoint = Endpoint::new(mcp, settings.sessions, limits);
        let sessions_end = endpoint.end();
        let mut mcp = endpoint.router();
        if self.rest.is_none() {
            mcp = mcp.route("/metrics", get(rest::metrics));
        }
        let layers = Layers {
            interface: Interface::Mcp,
            hosts: settings.allowed_hosts,
            origins: settings.allowed_origins,
            tokens: settings.tokens,
            calls: Shares::new(limits.calls),
            streams: Shares::new(limits.calls),
            in_flight: TaskTracker::new(),
            process: process.clone(),
        };
        let in_flight = layers.in_flight.clone();
        let rest_layers = Layers {
            interface: Interface::Rest,
            ..layers.clone()
        };
        let port = Port {
            connections: Arc::new(Connections::new(
                most_connections(limits.connections),
                &process,
            )),
            tasks: TaskTracker::new(),
            process: process.clone(),
            router: layers.around(mcp),
        };
        let rest_port = Port {
            router: rest_layers.around(rest.router()),
            ..port.clone()
        };
        let rest = async {
            if let Some(listener) = self.rest {
                rest_port.accept(listener).await;
            }
        };
        tokio::join!(port.accept(self.mcp), rest);

        tracing::info!("draining: no new connections, calls in flight are answered");
        in_flight.close();
        port.tasks.close();
        let ended = async {
            loop {
                in_flight.wait().await;
                // Streams that wait for events of a session never end by themselves.
                sessions_end.cancel();
                // The last bytes are on their way, and so may be a request on an open connection.
                let closed = timeout(CLOSE, port.tasks.wait()).await.is_ok();
                if closed || in_flight.is_empty() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = ended => {}
            () = shutdown.deadline.cancelled() => {
                tracing::warn!("calls were still in flight when the time to end was over");
            }
        }
    }
}

impl Settings {
    /// The address of a port as a URL that callers can use: the public one, else the address if they
    /// may call it so, else the first allowed name.
    #[must_use]
    pub fn reachable(&self, address: SocketAddr) -> String {
        if let Some(url) = &self.public_url {
            return url.trim_end_matches('/').to_owned();
        }
        let named = address.to_string();
        let allowed = |host: &AllowedHost| named.parse().is_ok_and(|name| host.allows(&name));
        match self.allowed_hosts.first() {
            Some(first) if !self.allowed_hosts.iter().any(allowed) => {
                format!("http://{}", first.at(address.port()))
            }
            _ => format!("http://{named}"),
        }
    }
}

/// What answers the connections of one port. The connections are those of both.
#[derive(Clone)]
struct Port {
    connections: Arc<Connections>,
    tasks: TaskTracker,
    process: Process,
    router: Router,
}

impl Port {
    /// Accepts connections until the shutdown.
    async fn accept(&self, listener: TcpListener) {
        /// After a connection that could not be accepted.
        const PAUSE: Duration = Duration::from_millis(10);

        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.process.shutdown.draining.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => self.admit(stream).await,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Most often no descriptor is left, and the next attempt finds one.
                    self.connections.evict();
                    sleep(PAUSE).await;
                }
            }
        }
        // Whoever the kernel has let in already was told nothing, and would lose a call.
        let Ok(listener) = listener.into_std() else {
            return;
        };
        while let Ok((stream, _)) = listener.accept() {
            let stream = stream.set_nonblocking(true).map(|()| stream);
            if let Ok(stream) = stream.and_then(TcpStream::from_std) {
                self.admit(stream).await;
            }
        }
    }

    async fn admit(&self, stream: TcpStream) {
        // Answers are written whole; waiting to fill a packet only delays them.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        tokio::select! {
            biased;
            stream = self.connections.admit(stream) => {
                self.tasks.spawn(self.clone().serve(stream));
            }
            // There is no place for it, and nobody waits for one any more.
            () = self.process.shutdown.draining.cancelled() => {}
        }
    }

    /// Serves one connection.
    async fn serve(self, stream: Stream) {
        /// Bytes of header, and of answer, that a connection buffers.
        const BUFFER: usize = 64 << 10;

        let connection = Arc::clone(&stream.connection);
        let service = service_fn(async |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            trim_slash(request.uri_mut());
            let has_body = !request.body().is_end_stream();
            connection.enter(Phase::Body);
            request.extensions_mut().insert(Arc::clone(&connection));
            let mut response: Response<Body> = self.router.clone().oneshot(request).await?;
            let refused = connection.phase() == Phase::Body;
            if refused {
                connection.enter(Phase::Idle);
            }
            // The body of a refused request may still be coming, and nobody will read it. At the end
            // HTTP/1.1 cannot say which requests were not taken: the next one may be here already,
            // and is answered, as the last.
            if (refused && has_body) || self.process.shutdown.draining.is_cancelled() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.process.limits.header_read)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            result = serving => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection broke");
                }
            }
            () = connection.close.cancelled() => {}
        }
    }
}

/// A path that ends in a slash is the one without. tower-http's layer for it would also take two slashes
/// at the beginning for one, which a proxy's rules may not.
fn trim_slash(uri: &mut Uri) {
    let trimmed = uri.path().strip_suffix('/').filter(|path| !path.is_empty());
    let Some(path) = trimmed else {
        return;
    };
    let query = uri.query().map(|query| format!("?{query}"));
    let path = format!("{path}{}", query.unwrap_or_default());
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = path.parse().ok();
    if let Ok(trimmed) = Uri::from_parts(parts) {
        *uri = trimmed;
    }
}

/// As many connections as the limit on file descriptors leaves room for.
fn most_connections(wanted: usize) -> usize {
    /// File descriptors for everything else: connections to Qovery, certificates, the log.
    const OTHERS: u64 = 256;
    /// What POSIX promises, and then some.
    const FEW: u64 = 512;

    let enough = u64::try_from(wanted)
        .unwrap_or(u64::MAX)
        .saturating_add(OTHERS);
    let descriptors = rlimit::increase_nofile_limit(enough).unwrap_or(FEW);
    let room = usize::try_from(descriptors.saturating_sub(OTHERS)).unwrap_or(usize::MAX);
    let most = wanted.min(room).max(1);
    tracing::debug!(most, descriptors, "connections are limited");
    most
}

fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, PortError> {
    /// Connections that the kernel holds until they are accepted. It may hold fewer.
    const BACKLOG: u32 = 4096;

    let socket = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // A restart must not wait for connections of the process before.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    socket().map_err(|problem| PortError {
        address,
        flag,
        problem,
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::limits::Limits;

    #[test]
    fn the_public_url_is_what_is_told() {
        let settings = |public_url: Option<&str>, host: &str| Settings {
            mcp: ([0, 0, 0, 0], 0).into(),
            rest: None,
            allowed_hosts: vec![host.parse().unwrap()],
            allowed_origins: Vec::new(),
            tokens: Tokens::default(),
            sessions: false,
            public_url: public_url.map(str::to_owned),
        };
        for (public_url, host, told) in [
            (None, "127.0.0.1", "http://127.0.0.1:9090"),
            (None, "a.example", "http://a.example:9090"),
            (None, "a.example:80", "http://a.example:80"),
            (Some("https://a.example/"), "b.example", "https://a.example"),
        ] {
            let address = ([127, 0, 0, 1], 9090).into();
            assert_eq!(settings(public_url, host).reachable(address), told);
        }
    }

    async fn ask(port: u16, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_panic_is_answered_and_gives_its_place_back() {
        let panic = async || -> String { std::panic::resume_unwind(Box::new("a test's panic")) };
        let router = Router::new()
            .route("/panic", get(panic))
            .route("/", get(async || "well"));
        let process = Process {
            limits: Arc::new(Limits::default()),
            shutdown: crate::shutdown::Shutdown::default(),
        };
        let layers = Layers {
            interface: Interface::Rest,
            hosts: vec!["localhost".parse().unwrap()],
            origins: Vec::new(),
            tokens: Tokens::default(),
            calls: Shares::new(1),
            streams: Shares::new(1),
            in_flight: TaskTracker::new(),
            process: process.clone(),
        };
        let port = Port {
            connections: Arc::new(Connections::new(8, &process)),
            tasks: TaskTracker::new(),
            process,
            router: layers.around(router),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().port();
        let questions = async {
            for _ in 0..2 {
                let answer = ask(address, "/panic").await;
                assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
                assert!(answer.contains("\"outcome\":\"unknown\""), "{answer}");
            }
            assert!(ask(address, "/").await.starts_with("HTTP/1.1 200"));
        };
        tokio::select! {
            () = port.accept(listener) => unreachable!(),
            () = questions => {}
        }
    }
}
