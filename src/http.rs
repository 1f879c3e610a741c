//! MCP over streamable HTTP on one port, and the REST API on another.
//!
//! hyper serves HTTP/1.1 in the pattern of axum's `serve-with-hyper` example: `axum::serve` limits neither
//! the time nor the bytes of a request's header. A request passes the `middleware`, the same on both ports,
//! and reaches a router.
//!
//! What must never live here: what a call means.

mod auth;
mod endpoint;
mod middleware;
mod oauth;

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::ConnectInfo,
    http::{HeaderValue, Request, Uri, header},
    response::Response,
    routing::get,
};
use futures_util::future::OptionFuture;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::task::TaskTracker;
use tower::ServiceBuilder;
use tower_http::normalize_path::NormalizePath;

use crate::{
    context::Interface, limits::Limits, mcp, rest, secret::Reloadable, shutdown::Shutdown,
    telemetry,
};
pub use auth::{AllowedHost, AllowedOrigin, Tokens, TokensError};
use middleware::Middleware;
pub use oauth::{IssuerError, OAuth, SignIn};

/// How to serve over HTTP.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address of the MCP port.
    pub mcp: SocketAddr,
    /// The address of the REST port, if the API is served.
    pub rest: Option<SocketAddr>,
    /// The host names that a request may have.
    pub allowed_hosts: Vec<AllowedHost>,
    /// The web origins whose pages may call the ports.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// The URL of the ports for their clients, where a proxy gives them another one.
    pub public_url: Option<String>,
    /// The access tokens. Without any, every caller is authorized.
    pub tokens: Arc<Reloadable<Tokens>>,
    /// Whether each call brings its own key, since the server has none.
    pub caller_keys: bool,
    /// The sign-in that is accepted beside them.
    pub oauth: Option<OAuth>,
}

impl Settings {
    /// The path of the public URL, without a slash at its end.
    pub fn path(&self) -> &str {
        rest::path_of(self.public_url.as_deref().unwrap_or_default())
    }

    /// Whether every caller must show who it is.
    pub fn authenticates(&self) -> bool {
        self.oauth.is_some() || !self.tokens.current().is_empty()
    }
}

/// Serves MCP and the routes of `rest` until the shutdown drains. Answers the calls in flight until its
/// deadline.
pub async fn serve(
    (mcp_listener, rest_listener): (TcpListener, Option<TcpListener>),
    settings: Settings,
    mcp: mcp::Server,
    rest: Router,
    limits: Arc<Limits>,
    shutdown: Shutdown,
) {
    let mut mcp = endpoint::router(mcp);
    if rest_listener.is_none() {
        mcp = mcp.route("/metrics", get(rest::metrics));
    }
    let path = Arc::from(settings.path());
    let middleware = Middleware::new(settings, Arc::clone(&limits), shutdown.clone());
    let mcp = middleware.layer(Interface::Mcp, mcp);
    let rest = middleware.layer(Interface::Rest, rest);
    let connections = Connections {
        open: Arc::new(Semaphore::new(limits.connections)),
        tasks: TaskTracker::new(),
        path,
        limits,
        shutdown,
    };
    let accept_mcp = connections.accept(mcp_listener, mcp);
    let accept_rest = rest_listener.map(|listener| connections.accept(listener, rest));
    tokio::join!(accept_mcp, OptionFuture::from(accept_rest));

    tracing::info!("draining: no new connections, calls in flight are answered");
    connections.tasks.close();
    let deadline = &connections.shutdown.deadline;
    let closed = deadline.run_until_cancelled(connections.tasks.wait());
    if closed.await.is_none() {
        tracing::warn!("connections were still open when the time to end was over");
    }
}

/// A connection, its peer, and what counts it until it is dropped.
type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

/// The open connections of both ports.
struct Connections {
    open: Arc<Semaphore>,
    tasks: TaskTracker,
    path: Arc<str>,
    limits: Arc<Limits>,
    shutdown: Shutdown,
}

impl Connections {
    /// Accepts and serves connections until the shutdown drains.
    async fn accept(&self, listener: TcpListener, service: NormalizePath<Router>) {
        /// After a failure to accept: most often no file descriptor is left, and one is closed soon.
        const RETRY_PAUSE: Duration = Duration::from_millis(100);

        loop {
            let accepted = tokio::select! {
                biased;
                accepted = self.next(&listener) => accepted,
                () = self.shutdown.draining.cancelled() => return,
            };
            match accepted {
                Ok(accepted) => self.serve(accepted, service.clone()),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// The next connection, once there are fewer than the limit.
    async fn next(&self, listener: &TcpListener) -> io::Result<Accepted> {
        let (stream, peer) = listener.accept().await?;
        // Answers are written whole; waiting to fill a packet only delays them.
        stream.set_nodelay(true)?;
        let permit = Arc::clone(&self.open).acquire_owned().await;
        Ok((stream, peer, permit.map_err(io::Error::other)?))
    }

    /// Serves one connection in a task of its own. During a drain, each response closes it, as does a pause
    /// without a request.
    fn serve(&self, (stream, peer, permit): Accepted, service: NormalizePath<Router>) {
        /// Of a header and of an answer.
        const MAX_BUFFERED_BYTES: usize = 64 << 10;
        /// For requests that a proxy sends before it learns of the drain.
        const DRAIN_PAUSE: Duration = Duration::from_secs(1);

        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(self.limits.write_stall));
        let draining = self.shutdown.draining.clone();
        let is_draining = draining.clone();
        let path = Arc::clone(&self.path);
        let service = ServiceBuilder::new()
            .map_request(move |request| without_prefix(request, &path))
            .layer(Extension(ConnectInfo(peer)))
            .map_response(move |mut response: Response| {
                if is_draining.is_cancelled() {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                response
            })
            .service(service);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_read)
            .max_buf_size(MAX_BUFFERED_BYTES)
            .serve_connection(
                TokioIo::new(Box::pin(stream)),
                TowerToHyperService::new(service),
            );
        self.tasks.spawn(async move {
            telemetry::connections().inc();
            let mut connection = pin!(connection);
            let drained = async {
                draining.cancelled().await;
                sleep(DRAIN_PAUSE).await;
            };
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = drained => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke");
            }
            telemetry::connections().dec();
            drop(permit);
        });
    }
}

/// Takes the public URL's path off, which a proxy may have left on.
fn without_prefix(mut request: Request<Incoming>, path: &str) -> Request<Incoming> {
    let target = request.uri().path_and_query().map_or("", |it| it.as_str());
    if let Some(rest) = target.strip_prefix(path).filter(|_| !path.is_empty())
        && (rest.is_empty() || rest.starts_with(['/', '?']))
        && let Ok(rest) = format!("/{}", rest.strip_prefix('/').unwrap_or(rest)).parse()
    {
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(rest);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings of a server with one allowed host.
    pub(super) fn settings(host: &str) -> Settings {
        Settings {
            mcp: ([127, 0, 0, 1], 0).into(),
            rest: None,
            allowed_hosts: vec![host.parse().unwrap()],
            allowed_origins: Vec::new(),
            public_url: None,
            tokens: Reloadable::new(Tokens::default(), None),
            caller_keys: false,
            oauth: None,
        }
    }
}
