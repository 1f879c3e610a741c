//! MCP over streamable HTTP on one port, and the REST API on another.
//!
//! A connection is watched by [`connections`], a request passes the [`door`], and only then it
//! reaches a face. Both ports have the same watch and the same door.

mod access;
mod connections;
mod door;
mod endpoint;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
    time::{Instant, timeout_at},
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
/// Longer than a good answer takes, and shorter than what a supervisor allows before it kills.
const DRAIN: Duration = Duration::from_secs(10);
/// For the last bytes of the last answers.
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

    /// The URL of the MCP endpoint.
    ///
    /// # Errors
    ///
    /// When the socket has no address any more.
    pub fn mcp_url(&self) -> io::Result<String> {
        Ok(format!("http://{}/mcp", self.mcp.local_addr()?))
    }

    /// The URL of the REST API.
    ///
    /// # Errors
    ///
    /// When the socket has no address any more.
    pub fn rest_url(&self) -> io::Result<Option<String>> {
        match &self.rest {
            Some(rest) => Ok(Some(format!("http://{}", rest.local_addr()?))),
            None => Ok(None),
        }
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
        let calls = Arc::new(Semaphore::new(CALLS_IN_FLIGHT));
        let connections = Connections::new(telemetry.clone(), shutdown.clone());
        let endpoint = Endpoint::new(mcp, settings.sessions);
        let sessions_end = endpoint.end();
        let guards = Arc::new(door::Guards {
            hosts: settings.allowed_hosts,
            origins: settings.allowed_origins,
            tokens: settings.tokens,
            calls: Arc::clone(&calls),
            streams: Arc::new(Semaphore::new(STREAMS)),
            telemetry,
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
        let all = u32::try_from(CALLS_IN_FLIGHT).unwrap_or(u32::MAX);
        if timeout_at(deadline, calls.acquire_many(all)).await.is_err() {
            tracing::warn!("calls were still in flight after {} s", DRAIN.as_secs());
        }
        // Streams that wait for events of a session never end by themselves.
        sessions_end.cancel();
        if timeout_at(Instant::now() + CLOSE, connections.closed())
            .await
            .is_err()
        {
            tracing::info!("stalled connections were closed");
        }
    }
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
