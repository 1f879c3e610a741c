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

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::yield_now,
    time::sleep,
};
use tokio_io_timeout::TimeoutWriter;
use tower_http::normalize_path::NormalizePath;

use crate::{
    context::Interface,
    limits::Limits,
    mcp,
    rest::{self, Rest},
    shutdown::Shutdown,
    telemetry,
};
pub use auth::{AllowedHost, AllowedOrigin, Tokens, TokensError};
use middleware::{Calls, Middleware, cors_layer};

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
    pub tokens: Tokens,
}

/// A port that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{address} cannot be listened on ({problem}). Free the port, or choose another: {flag}.")]
pub struct PortError {
    address: SocketAddr,
    flag: &'static str,
    problem: io::Error,
}

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
    /// When an address is in use, or is not one of this machine's.
    pub fn bind(settings: &Settings) -> Result<Self, PortError> {
        let rest = settings.rest.map(|address| listen(address, "--rest-addr"));
        Ok(Self {
            mcp: listen(settings.mcp, "--mcp-addr")?,
            rest: rest.transpose()?,
        })
    }

    /// The address of the MCP port.
    ///
    /// # Errors
    ///
    /// When the socket has no address any more.
    pub fn mcp(&self) -> io::Result<SocketAddr> {
        self.mcp.local_addr()
    }

    /// The address of the REST port, if there is one.
    ///
    /// # Errors
    ///
    /// When the socket has no address any more.
    pub fn rest(&self) -> io::Result<Option<SocketAddr>> {
        self.rest.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Serves until the shutdown drains. Answers the calls in flight until its deadline.
    pub async fn serve(
        self,
        settings: Settings,
        mcp: mcp::Server,
        rest: Rest,
        limits: Arc<Limits>,
        shutdown: Shutdown,
    ) {
        let mut mcp = endpoint::router(mcp);
        if self.rest.is_none() {
            mcp = mcp.route("/metrics", get(rest::metrics));
        }
        let middleware = Arc::new(Middleware {
            settings,
            calls: Calls::new(&limits),
            limits: Arc::clone(&limits),
            shutdown: shutdown.clone(),
            cors: cors_layer(),
        });
        let mcp = middleware.layer(Interface::Mcp, mcp);
        let rest = middleware.layer(Interface::Rest, rest.into_router());
        let connections = Connections {
            open: Arc::new(Semaphore::new(limits.connections)),
            graceful: GracefulShutdown::new(),
            limits,
            shutdown,
        };
        let accept_rest = async {
            if let Some(listener) = self.rest {
                connections.accept(listener, rest).await;
            }
        };
        tokio::join!(connections.accept(self.mcp, mcp), accept_rest);

        tracing::info!("draining: no new connections, calls in flight are answered");
        // A connection without a byte read is closed at once. Two turns of the runtime read what was sent.
        yield_now().await;
        yield_now().await;
        tokio::select! {
            biased;
            () = connections.graceful.shutdown() => {}
            () = connections.shutdown.deadline.cancelled() => {
                tracing::warn!("connections were still open when the time to end was over");
            }
        }
    }
}

impl Settings {
    /// The URL by which clients reach a port: the public one; else its address, if the allowed hosts have
    /// it; else the first allowed host.
    #[must_use]
    pub fn reachable(&self, address: SocketAddr) -> String {
        if let Some(url) = &self.public_url {
            return url.trim_end_matches('/').to_owned();
        }
        let authority = address.to_string();
        let allows = |host: &AllowedHost| authority.parse().is_ok_and(|own| host.allows(&own));
        match self.allowed_hosts.first() {
            Some(first) if !self.allowed_hosts.iter().any(allows) => {
                format!("http://{}", first.with_port(address.port()))
            }
            _ => format!("http://{authority}"),
        }
    }
}

/// The open connections of both ports.
struct Connections {
    open: Arc<Semaphore>,
    graceful: GracefulShutdown,
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
                Ok((stream, permit)) => self.serve(stream, permit, service.clone()),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// The next connection, once there are fewer than the limit.
    async fn next(&self, listener: &TcpListener) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let (stream, _) = listener.accept().await?;
        // Answers are written whole; waiting to fill a packet only delays them.
        stream.set_nodelay(true)?;
        let permit = Arc::clone(&self.open).acquire_owned().await;
        Ok((stream, permit.map_err(io::Error::other)?))
    }

    /// Serves one connection in a task of its own.
    fn serve(
        &self,
        stream: TcpStream,
        permit: OwnedSemaphorePermit,
        service: NormalizePath<Router>,
    ) {
        /// Of a header and of an answer.
        const MAX_BUFFERED_BYTES: usize = 64 << 10;

        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(self.limits.write_stall));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_read)
            .max_buf_size(MAX_BUFFERED_BYTES)
            .serve_connection(
                TokioIo::new(Box::pin(stream)),
                TowerToHyperService::new(service),
            );
        let connection = self.graceful.watch(connection);
        tokio::spawn(async move {
            telemetry::connections().inc();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
            telemetry::connections().dec();
            drop(permit);
        });
    }
}

fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, PortError> {
    std::net::TcpListener::bind(address)
        .and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        })
        .map_err(|problem| PortError {
            address,
            flag,
            problem,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_reach_a_port_by_a_url_that_they_may_use() {
        for (public_url, host, expected) in [
            (None, "127.0.0.1", "http://127.0.0.1:9090"),
            (None, "a.example", "http://a.example:9090"),
            (None, "a.example:80", "http://a.example:80"),
            (Some("https://a.example/"), "b.example", "https://a.example"),
        ] {
            let address = ([127, 0, 0, 1], 9090).into();
            let settings = Settings {
                public_url: public_url.map(str::to_owned),
                ..settings(host)
            };
            assert_eq!(settings.reachable(address), expected);
        }
    }

    /// Settings of a server with one allowed host.
    pub(super) fn settings(host: &str) -> Settings {
        Settings {
            mcp: ([127, 0, 0, 1], 0).into(),
            rest: None,
            allowed_hosts: vec![host.parse().unwrap()],
            allowed_origins: Vec::new(),
            public_url: None,
            tokens: Tokens::default(),
        }
    }
}
