//! The door: what a request must get past before it reaches a face, the same on both ports.
//!
//! In this order: probes pass freely; then the `Host` and `Origin` of a request (MCP 2026-07-28,
//! "Security Warning" of Streamable HTTP), its access token, its body, and a place among the calls in
//! flight. Whatever the answer, it carries the request's id.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
            ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CACHE_CONTROL, CONNECTION,
            CONTENT_LENGTH, HOST, ORIGIN, VARY, WWW_AUTHENTICATE,
        },
        request::Parts,
        uri::Authority,
    },
    response::IntoResponse,
};
use futures_util::{FutureExt, future::BoxFuture};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    access::{AllowedHost, AllowedOrigin, Tokens},
    connections::{Busy, Connection},
};
use crate::{
    call::{Call, Face, RequestId, TraceParent},
    problem::Problem,
    telemetry::Telemetry,
};

/// The largest valid body is a tenth of it.
const LARGEST_BODY: usize = 1 << 20;
/// From the end of a header to the end of the body.
const BODY: Duration = Duration::from_secs(10);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a page of an allowed origin may send.
const ALLOWED_HEADERS: &str = "accept, authorization, content-type, last-event-id, mcp-method, \
    mcp-name, mcp-protocol-version, mcp-session-id, traceparent, x-request-id";
const ALLOWED_METHODS: &str = "DELETE, GET, POST";
/// What it may read of an answer, beside what is always readable.
const EXPOSED_HEADERS: &str =
    "location, mcp-protocol-version, mcp-session-id, retry-after, www-authenticate, x-request-id";

/// The rules of both doors.
pub(super) struct Guards {
    pub(super) hosts: Vec<AllowedHost>,
    pub(super) origins: Vec<AllowedOrigin>,
    pub(super) tokens: Tokens,
    pub(super) calls: Arc<Semaphore>,
    pub(super) streams: Arc<Semaphore>,
    pub(super) bodies: Arc<Semaphore>,
    pub(super) telemetry: Telemetry,
    pub(super) draining: CancellationToken,
}

/// The door to one face.
#[derive(Clone)]
pub(super) struct Door {
    face: Face,
    guards: Arc<Guards>,
    behind: Router,
}

/// The door, as one connection uses it.
#[derive(Clone)]
pub(super) struct Service {
    door: Door,
    connection: Arc<Connection>,
}

impl tower::Service<Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let Self { door, connection } = self.clone();
        Box::pin(async move { Ok(door.answer(request, &connection).await) })
    }
}

impl Door {
    pub(super) fn new(face: Face, guards: Arc<Guards>, behind: Router) -> Self {
        Self {
            face,
            guards,
            behind,
        }
    }

    pub(super) fn service(&self, connection: Arc<Connection>) -> Service {
        Service {
            door: self.clone(),
            connection,
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Arc<Connection>,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let multiplexed = parts.version >= Version::HTTP_2;
        connection.header_read(multiplexed);
        let mut response = match self.guards.probe(&parts) {
            Some(response) => {
                connection.answered();
                response
            }
            None => self.answer_call(parts, body, connection).await,
        };
        if self.guards.draining.is_cancelled() && !multiplexed {
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn answer_call(
        &self,
        parts: Parts,
        body: Incoming,
        connection: &Arc<Connection>,
    ) -> Response<Body> {
        let id = text(&parts.headers, &REQUEST_ID).and_then(RequestId::sane);
        let call = Call::begin(id.unwrap_or_default(), self.face, &self.guards.telemetry);
        if let Some(trace) = text(&parts.headers, &TRACE_PARENT).and_then(TraceParent::parse) {
            call.set_trace(trace);
        }
        let one_by_one = parts.version < Version::HTTP_2;
        let has_body = !body.is_end_stream();
        let origin = parts.headers.get(ORIGIN).cloned();
        let allowed = self.guards.check_origin(origin.as_ref());
        let is_allowed = allowed.is_ok();
        let result = match allowed {
            Ok(()) => self.pass(parts, body, &call, connection).await,
            Err(problem) => Err(problem),
        };
        let mut response = result.unwrap_or_else(|problem| {
            connection.answered();
            let mut response = problem.into_response();
            // The body may still be coming, and nobody will read it.
            if has_body && one_by_one {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            response
        });
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            call.set_outcome(problem.kind());
            problem.write(call.id(), &mut response);
        }
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&call.id().to_string()) {
            headers.insert(REQUEST_ID, id);
        }
        if let (Some(origin), true) = (origin, is_allowed) {
            let exposed = HeaderValue::from_static(EXPOSED_HEADERS);
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
            headers.append(VARY, HeaderValue::from_static("origin"));
        }
        call.set_status(response.status().as_u16());
        response
    }

    async fn pass(
        &self,
        mut parts: Parts,
        body: Incoming,
        call: &Arc<Call>,
        connection: &Arc<Connection>,
    ) -> Result<Response<Body>, Problem> {
        self.guards.check_host(&parts)?;
        if is_preflight(&parts) {
            connection.answered();
            return Ok(preflight());
        }
        self.guards.authenticate(&parts.headers, call)?;
        let (body, _memory) = self.guards.read(&parts.headers, body).await?;
        // A GET of MCP waits for events, for as long as the caller likes.
        let waits = self.face == Face::Mcp && parts.method == Method::GET;
        let places = if waits {
            &self.guards.streams
        } else {
            &self.guards.calls
        };
        let place = Arc::clone(places).try_acquire_owned();
        let place = place.map_err(|_| Problem::overloaded())?;
        let place = if waits {
            Some(place)
        } else {
            call.hold(place);
            None
        };
        let busy = connection.busy();
        // It was for this door, and nothing behind it needs it.
        parts.headers.remove(AUTHORIZATION);
        parts.extensions.insert(Arc::clone(call));
        let request = Request::from_parts(parts, Body::from(body));
        let answer = self.behind.clone().oneshot(request);
        // A panic would take the connection with it, and leave this call without an answer.
        match AssertUnwindSafe(answer).catch_unwind().await {
            Ok(Ok(response)) if response.body().size_hint().exact().is_some() => Ok(response),
            Ok(Ok(response)) => Ok(response.map(|body| {
                Body::new(Stream {
                    body,
                    _busy: busy,
                    _place: place,
                })
            })),
            Err(_) => Err(Problem::internal()),
        }
    }
}

impl Guards {
    /// The answer to a question of the operator's machinery, which knows neither names nor tokens.
    fn probe(&self, request: &Parts) -> Option<Response<Body>> {
        let reading = request.method == Method::GET || request.method == Method::HEAD;
        let (status, text) = match request.uri.path() {
            _ if !reading => return None,
            "/healthz" => (StatusCode::OK, "alive\n"),
            "/readyz" if self.draining.is_cancelled() => {
                (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            "/readyz" if !self.telemetry.qovery_answers() => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Qovery rejected the key or could not be reached within the last minute\n",
            ),
            "/readyz" => (StatusCode::OK, "ready\n"),
            _ => return None,
        };
        Some((status, [(CACHE_CONTROL, "no-store")], text).into_response())
    }

    /// A page that reaches this machine by a name of its own choosing could otherwise call it (DNS
    /// rebinding).
    fn check_host(&self, request: &Parts) -> Result<(), Problem> {
        let mut named = request.headers.get_all(HOST).iter();
        let parsed = match named.next() {
            Some(value) => Some(host(value).ok_or_else(Problem::malformed_host)?),
            None => None,
        };
        let authorities = [parsed.as_ref(), request.uri.authority()];
        let mut authorities = authorities.into_iter().flatten().peekable();
        if named.next().is_some() || authorities.peek().is_none() {
            return Err(Problem::malformed_host());
        }
        let allowed = |name: &Authority| self.hosts.iter().any(|host| host.allows(name));
        if authorities.all(allowed) {
            Ok(())
        } else {
            Err(Problem::forbidden_host())
        }
    }

    fn check_origin(&self, origin: Option<&HeaderValue>) -> Result<(), Problem> {
        let Some(origin) = origin else {
            return Ok(());
        };
        let origin = origin.to_str().unwrap_or_default();
        if self.origins.iter().any(|allowed| allowed.allows(origin)) {
            Ok(())
        } else {
            Err(Problem::forbidden_origin())
        }
    }

    /// Reads a body, and keeps room in memory for it.
    async fn read(
        &self,
        headers: &HeaderMap,
        mut body: Incoming,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
        let announced = text(headers, &CONTENT_LENGTH).and_then(|length| length.parse().ok());
        if announced.is_some_and(|length: usize| length > LARGEST_BODY) {
            return Err(Problem::body_too_large());
        }
        let reading = async {
            let (mut bytes, mut memory) = (Vec::new(), None::<OwnedSemaphorePermit>);
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| {
                    tracing::debug!(%error, "a body broke");
                    Problem::body_broken()
                })?;
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                if bytes.len() + data.len() > LARGEST_BODY {
                    return Err(Problem::body_too_large());
                }
                let room = u32::try_from(data.len()).unwrap_or(u32::MAX);
                let room = Arc::clone(&self.bodies).try_acquire_many_owned(room);
                let room = room.map_err(|_| Problem::overloaded())?;
                match &mut memory {
                    Some(memory) => memory.merge(room),
                    None => memory = Some(room),
                }
                bytes.extend_from_slice(&data);
            }
            Ok((Bytes::from(bytes), memory))
        };
        timeout(BODY, reading)
            .await
            .unwrap_or_else(|_| Err(Problem::body_too_slow()))
    }

    fn authenticate(&self, headers: &HeaderMap, call: &Call) -> Result<(), Problem> {
        if self.tokens.is_empty() {
            return Ok(());
        }
        let presented = text(headers, &AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        if let Some(caller) = presented.and_then(|token| self.tokens.caller(token)) {
            call.set_caller(caller);
            return Ok(());
        }
        // RFC 6750, section 3: an error is named only if a token was sent.
        let challenge = if presented.is_some() {
            r#"Bearer realm="qovery-backups-mcp", error="invalid_token""#
        } else {
            r#"Bearer realm="qovery-backups-mcp""#
        };
        let challenge = HeaderValue::from_static(challenge);
        Err(Problem::unauthenticated().with_header(WWW_AUTHENTICATE, challenge))
    }
}

/// A `Host` header's value (RFC 9110, section 7.2): no user, and a port that is one.
fn host(value: &HeaderValue) -> Option<Authority> {
    let authority = Authority::try_from(value.as_bytes()).ok()?;
    let port = authority.as_str().strip_prefix(authority.host())?;
    let fits = |port: &str| port.parse::<u16>().is_ok();
    (port.is_empty() || port.strip_prefix(':').is_some_and(fits)).then_some(authority)
}

/// A question of a browser, before it lets a page call.
fn is_preflight(request: &Parts) -> bool {
    request.method == Method::OPTIONS
        && request.headers.contains_key(ORIGIN)
        && request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight() -> Response<Body> {
    let headers = [
        (ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
        (ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A body that goes on after its call, and keeps its connection and its place among the streams
/// until it ends or the peer does not want it any more.
struct Stream {
    body: Body,
    _busy: Busy,
    _place: Option<OwnedSemaphorePermit>,
}

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::{super::connections::Connections, *};

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
        let behind = Router::new()
            .route(
                "/panic",
                get(async || -> String { std::panic::resume_unwind(Box::new("a test's panic")) }),
            )
            .route("/", get(async || "well"));
        let telemetry = Telemetry::new().unwrap();
        let guards = Guards {
            hosts: vec!["localhost".parse().unwrap()],
            origins: Vec::new(),
            tokens: Tokens::default(),
            calls: Arc::new(Semaphore::new(1)),
            streams: Arc::new(Semaphore::new(1)),
            bodies: Arc::new(Semaphore::new(1)),
            telemetry: telemetry.clone(),
            draining: CancellationToken::new(),
        };
        let door = Door::new(Face::Rest, Arc::new(guards), behind);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Connections::new(8, telemetry, CancellationToken::new());
        let questions = async {
            for _ in 0..2 {
                let answer = ask(port, "/panic").await;
                assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
                assert!(answer.contains("\"outcome\":\"unknown\""), "{answer}");
            }
            assert!(ask(port, "/").await.starts_with("HTTP/1.1 200"));
        };
        tokio::select! {
            () = connections.accept(listener, |connection| door.service(connection)) => unreachable!(),
            () = questions => {}
        }
    }
}
