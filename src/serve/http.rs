//! MCP over streamable HTTP on one port, and the REST API on another.
//!
//! A connection is watched by `connections`, a request passes the `door`, and only then it
//! reaches a face. Both ports have the same watch and the same door.

mod access;
mod connections;
mod door;
mod endpoint;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{call::Face, mcp, rest, telemetry::Telemetry};
pub use access::{AllowedHost, AllowedOrigin, Tokens, TokensError};
use connections::Connections;
use door::Door;
use endpoint::Endpoint;

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

/// Calls that may be in flight at once, on both ports. At a second each, Qovery's 64 places serve
/// them all within eight.
const CALLS_IN_FLIGHT: usize = 512;
/// Streams of events that may be open at once, beside the calls.
const STREAMS: usize = 256;
/// Bytes of bodies that may be in memory at once.
const BODIES: usize = 64 << 20;
/// Open connections, on both ports, where the operating system allows as many.
const CONNECTIONS: u64 = 2048;
/// File descriptors for everything else: connections to Qovery, certificates, the log.
const DESCRIPTORS: u64 = 256;
/// Longer than a good answer takes, and shorter than what a supervisor allows before it kills.
const DRAIN: Duration = Duration::from_secs(10);
/// For the last bytes of the last answers, and for requests that were sent before their sender
/// could know.
const CLOSE: Duration = Duration::from_secs(1);

/// Two listening sockets, and the rooms behind them.
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

    /// Serves until `shutdown` is cancelled. Calls in flight are then answered if they end within
    /// ten seconds.
    pub async fn serve(
        self,
        settings: Settings,
        mcp: mcp::Server,
        rest: rest::Rest,
        telemetry: Telemetry,
        shutdown: CancellationToken,
    ) {
        let connections = Connections::new(most_connections(), telemetry.clone(), shutdown.clone());
        let endpoint = Endpoint::new(mcp, settings.sessions);
        let sessions_end = endpoint.end();
        let guards = Arc::new(door::Guards {
            hosts: settings.allowed_hosts,
            origins: settings.allowed_origins,
            tokens: settings.tokens,
            calls: Arc::new(Semaphore::new(CALLS_IN_FLIGHT)),
            streams: Arc::new(Semaphore::new(STREAMS)),
            bodies: Arc::new(Semaphore::new(BODIES)),
            telemetry: telemetry.clone(),
            draining: shutdown.clone(),
        });
        let mcp_door = Door::new(Face::Mcp, Arc::clone(&guards), endpoint.router());
        let rest_door = Door::new(Face::Rest, guards, rest.router());
        let rest = async {
            if let Some(listener) = self.rest {
                connections
                    .accept(listener, |connection| rest_door.service(connection))
                    .await;
            }
        };
        let mcp = connections.accept(self.mcp, |connection| mcp_door.service(connection));
        tokio::join!(mcp, rest);

        tracing::info!("draining: no new connections, calls in flight are answered");
        let deadline = Instant::now() + DRAIN;
        loop {
            if timeout_at(deadline, telemetry.calls_ended()).await.is_err() {
                tracing::warn!("calls were still in flight after {} s", DRAIN.as_secs());
            }
            // Streams that wait for events of a session never end by themselves.
            sessions_end.cancel();
            // The last bytes are on their way, and so may be a request on an open connection.
            let closed = timeout(CLOSE, connections.closed()).await.is_ok();
            if closed || telemetry.is_quiet() || Instant::now() >= deadline {
                return;
            }
        }
    }
}

impl Settings {
    /// An address as callers can use it: where the socket takes any, the first allowed name.
    #[must_use]
    pub fn reachable(&self, address: SocketAddr) -> String {
        match self.allowed_hosts.first() {
            Some(host) if address.ip().is_unspecified() => host.at(address.port()),
            _ => address.to_string(),
        }
    }
}

/// As many connections as the limit on file descriptors leaves room for.
fn most_connections() -> usize {
    /// What POSIX promises, and then some.
    const FEW: u64 = 512;

    let descriptors = rlimit::increase_nofile_limit(CONNECTIONS + DESCRIPTORS).unwrap_or(FEW);
    let most = CONNECTIONS
        .min(descriptors.saturating_sub(DESCRIPTORS))
        .max(1);
    tracing::debug!(most, descriptors, "connections are limited");
    usize::try_from(most).unwrap_or(usize::MAX)
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
