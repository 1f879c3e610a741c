//! What each request passes before it reaches a router, the same on both ports.
//! [`Middleware::layer`] lists it from the outside in.

use std::{
    collections::HashMap, convert::Infallible, error::Error as _, sync::Arc, time::Duration,
};

use axum::{
    Extension, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, LOCATION, ORIGIN, RETRY_AFTER,
            USER_AGENT, WWW_AUTHENTICATE,
        },
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, LengthLimitError};
use hyper::body::Body as _;
use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowHeaders, AllowOrigin, CorsLayer},
    normalize_path::NormalizePathLayer,
};

use super::{Settings, auth, endpoint::Refused};
use crate::{
    context::{Caller, Context, Deadline, Interface, RequestId, TraceParent},
    limits::Limits,
    rest::{self, Problem, accepts},
    shutdown::Shutdown,
    telemetry::{Call, OK},
    text,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// The middleware of one port.
#[derive(Clone)]
pub(super) struct Middleware {
    interface: Interface,
    settings: Arc<Settings>,
    cors: CorsLayer,
    calls: Arc<Calls>,
    limits: Arc<Limits>,
    shutdown: Shutdown,
}

/// The calls in flight over both ports, by the name of their access token.
#[derive(Default)]
pub(super) struct Calls(Mutex<HashMap<Option<Arc<str>>, usize>>);

/// One call in flight, until this is dropped.
struct CallPermit {
    calls: Arc<Calls>,
    caller: Option<Arc<str>>,
}

impl Middleware {
    /// The middleware of the MCP port.
    pub(super) fn new(settings: Settings, limits: Arc<Limits>, shutdown: Shutdown) -> Self {
        Self {
            interface: Interface::Mcp,
            settings: Arc::new(settings),
            cors: cors_layer(),
            calls: Arc::default(),
            limits,
            shutdown,
        }
    }

    /// The same for another port. Both count their calls together.
    pub(super) fn with_interface(self, interface: Interface) -> Self {
        Self { interface, ..self }
    }

    /// The calls in flight.
    pub(super) fn calls(&self) -> Arc<Calls> {
        Arc::clone(&self.calls)
    }

    /// The router behind the middleware.
    pub(super) fn layer(
        self,
        router: Router,
    ) -> impl Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send
    {
        let state = Arc::new(self);
        let panic = CatchPanicLayer::custom(|_| Problem::internal().into_response());
        ServiceBuilder::new()
            .layer(NormalizePathLayer::trim_trailing_slash())
            .layer(from_fn_with_state(Arc::clone(&state), log_request))
            .layer(from_fn_with_state(state, authorize))
            .layer(panic)
            .service(router)
    }

    /// Answers the probes of an orchestrator, which has neither a token nor an allowed host.
    fn probe(&self, request: &Request) -> Option<Response> {
        let (status, text) = if reads(request, &["/healthz"]) {
            (StatusCode::OK, "alive\n")
        } else if !reads(request, &["/readyz"]) {
            return None;
        } else if self.shutdown.draining.is_cancelled() {
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        } else {
            (StatusCode::OK, "ready\n")
        };
        Some((status, [(CACHE_CONTROL, "no-store")], text).into_response())
    }

    /// The context of a call, from its header.
    fn context(&self, headers: &HeaderMap) -> Context {
        let token = auth::bearer(headers).and_then(|token| self.settings.tokens.caller(token));
        let agent = || {
            let agent = String::from_utf8_lossy(headers.get(USER_AGENT)?.as_bytes());
            Some(text::excerpt(&agent)).filter(|agent| !agent.is_empty())
        };
        let caller = match token {
            Some(name) => Caller::Token(name.into()),
            None => agent().map_or(Caller::Anonymous, |agent| Caller::Client(agent.into())),
        };
        let value = |name| headers.get(name)?.to_str().ok();
        Context {
            request_id: value(REQUEST_ID)
                .and_then(RequestId::parse)
                .unwrap_or_default(),
            interface: self.interface,
            caller,
            deadline: Deadline::after(self.limits.call),
            cancellation: CancellationToken::new(),
            accepts_events: accepts(headers, "text", "event-stream"),
            trace: value(TRACE_PARENT).and_then(TraceParent::parse),
        }
    }

    /// Answers the preflight requests of allowed origins, and lets their pages read the other answers.
    /// tower-http's layer alone would answer every `OPTIONS`, and add headers to every answer.
    async fn cors(&self, request: Request, next: Next) -> Response {
        let headers = request.headers();
        let is_plain_options = request.method() == Method::OPTIONS
            && !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if is_plain_options || !self.settings.allows_origin(headers) {
            return next.run(request).await;
        }
        let response = self.cors.layer(next).oneshot(request).await;
        response.unwrap_or_else(|never| match never {})
    }

    /// Reads the body whole. tower-http's layers would answer in plain text, and its time begins anew with
    /// each frame.
    async fn read(&self, body: Body) -> Result<Bytes, Problem> {
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        let body = timeout(
            self.limits.body_read,
            to_bytes(body, self.limits.body_bytes),
        );
        let body = body.await.map_err(|_| Problem::body_too_slow())?;
        let body = body.map_err(|error| {
            tracing::debug!(%error, "a body could not be read");
            if error
                .source()
                .is_some_and(|source| source.is::<LengthLimitError>())
            {
                Problem::body_too_large()
            } else {
                Problem::body_broken()
            }
        })?;
        // Each JSON value but the first follows one of these. 64 KiB of them become megabytes in memory.
        let begins_value = |byte: &&u8| matches!(byte, b'{' | b'[' | b',' | b':');
        if body.iter().filter(begins_value).count() >= self.limits.body_values {
            return Err(Problem::body_too_large());
        }
        Ok(body)
    }
}

impl Calls {
    /// How many there are.
    pub(super) fn in_flight(&self) -> usize {
        self.0.lock().values().sum()
    }

    /// Counts a call, unless there are as many as the limits allow.
    fn try_acquire(self: &Arc<Self>, caller: &Caller, limits: &Limits) -> Option<CallPermit> {
        let caller = match caller {
            Caller::Token(name) => Some(Arc::clone(name)),
            // A client can claim any name.
            Caller::Client(_) | Caller::Anonymous => None,
        };
        let mut calls = self.0.lock();
        let all: usize = calls.values().sum();
        let own = calls.get(&caller).copied().unwrap_or_default();
        if all >= limits.calls || (caller.is_some() && own >= limits.calls_per_caller) {
            return None;
        }
        calls.insert(caller.clone(), own + 1);
        Some(CallPermit {
            calls: Arc::clone(self),
            caller,
        })
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        let mut calls = self.calls.0.lock();
        let left = calls.get(&self.caller).map_or(0, |own| own - 1);
        if left == 0 {
            calls.remove(&self.caller);
        } else {
            calls.insert(self.caller.clone(), left);
        }
    }
}

/// Gives a request its context, and logs and counts its call once, from the response. Calls over MCP are
/// logged in `mcp`; here only what was refused before. The response repeats the request's id.
async fn log_request(
    State(middleware): State<Arc<Middleware>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(response) = middleware.probe(&request) {
        return response;
    }
    let context = middleware.context(request.headers());
    request.extensions_mut().insert(context.clone());
    let operation = rest::operation(request.method(), request.uri().path());
    let begin = |operation| Call::begin(&context, operation);
    let mut call = (middleware.interface == Interface::Rest).then(|| begin(operation));
    // hyper drops this future when the client disconnects before the response.
    let disconnected = context.cancellation.clone().drop_guard();
    let mut response = middleware.cors(request, next).await;
    disconnected.disarm();
    let problem = Problem::of(&mut response);
    let outcome = match &problem {
        Some(problem) => problem.kind(),
        None if response.status().as_u16() < 400 => OK,
        None => "refused",
    };
    if problem.is_some() || response.extensions().get::<Refused>().is_some() {
        call = call.or_else(|| Some(begin("other")));
    }
    if let Some(problem) = problem {
        problem.write(&context.request_id, &mut response);
    }
    if let Ok(id) = HeaderValue::from_str(context.request_id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if let Some(call) = call {
        call.end(outcome, Some(response.status().as_u16()));
    }
    response
}

/// Checks the host, the origin and the access token.
async fn authorize(
    State(middleware): State<Arc<Middleware>>,
    Extension(context): Extension<Context>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let settings = &middleware.settings;
    settings.check_host(&request)?;
    settings.check_origin(&request)?;
    settings.check_token(&context, &mut request)?;
    limit_concurrency(&middleware, &context.caller, request, next).await
}

/// Reads the body, then takes a permit for the call or refuses it. tower's layer would queue it.
async fn limit_concurrency(
    middleware: &Middleware,
    caller: &Caller,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let body = middleware.read(body).await?;
    let permit = middleware.calls.try_acquire(caller, &middleware.limits);
    let permit = Arc::new(permit.ok_or_else(Problem::overloaded)?);
    // A call over MCP has them until it ends, which may be after its client is gone.
    parts.extensions.insert(Arc::clone(&permit));
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if response.body().size_hint().exact().is_some() {
        return Ok(response);
    }
    // A stream of events lasts as long as its call.
    Ok(response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _until_the_end = &permit;
            frame
        }))
    }))
}

/// What a browser lets the pages of an allowed origin do.
fn cors_layer() -> CorsLayer {
    let version = HeaderName::from_static("mcp-protocol-version");
    CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .allow_methods([Method::DELETE, Method::GET, Method::POST])
        .expose_headers([LOCATION, version, RETRY_AFTER, WWW_AUTHENTICATE, REQUEST_ID])
        .max_age(Duration::from_secs(600))
        .vary([ORIGIN])
}

/// Whether a request reads one of these paths.
pub(super) fn reads(request: &Request, paths: &[&str]) -> bool {
    is_read(request) && paths.contains(&request.uri().path())
}

/// Whether a request is a `GET` or a `HEAD`.
pub(super) fn is_read(request: &Request) -> bool {
    [Method::GET, Method::HEAD].contains(request.method())
}
