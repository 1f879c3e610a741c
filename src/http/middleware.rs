//! What each request passes before it reaches a router, the same on both ports.
//! [`Middleware::layer`] lists it from the outside in.

use std::{collections::HashMap, error::Error as _, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, LengthLimitError};
use hyper::body::Body as _;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowHeaders, AllowOrigin, CorsLayer},
    normalize_path::NormalizePath,
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

/// The middleware of both ports.
pub(super) struct Middleware {
    pub(super) settings: Settings,
    pub(super) calls: Calls,
    pub(super) limits: Arc<Limits>,
    pub(super) shutdown: Shutdown,
    pub(super) cors: CorsLayer,
}

/// The calls in flight over both ports.
pub(super) struct Calls {
    all: Arc<Semaphore>,
    /// By the name of an access token.
    of_callers: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
}

/// Of all calls, and of those of its caller. A call is counted until they are dropped.
type CallPermits = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl Middleware {
    /// The router behind the middleware.
    pub(super) fn layer(
        self: &Arc<Self>,
        interface: Interface,
        router: Router,
    ) -> NormalizePath<Router> {
        let state = (interface, Arc::clone(self));
        let layers = ServiceBuilder::new()
            .layer(from_fn_with_state(state, log_request))
            .layer(from_fn_with_state(Arc::clone(self), authorize))
            .layer(CatchPanicLayer::custom(|_| {
                Problem::internal().into_response()
            }));
        // A router would match the path before its layers change it.
        NormalizePath::trim_trailing_slash(router.layer(layers))
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
        Some((status, [(header::CACHE_CONTROL, "no-store")], text).into_response())
    }

    /// The context of a call, from its header.
    fn context(&self, interface: Interface, headers: &HeaderMap) -> Context {
        let token = auth::bearer(headers).and_then(|token| self.settings.tokens.caller(token));
        let agent = || {
            let agent = String::from_utf8_lossy(headers.get(header::USER_AGENT)?.as_bytes());
            Some(text::excerpt(&agent)).filter(|agent| !agent.is_empty())
        };
        let caller = match token {
            Some(name) => Caller::Token(name),
            None => agent().map_or(Caller::Anonymous, |agent| Caller::Client(agent.into())),
        };
        let value = |name| headers.get(name)?.to_str().ok();
        Context {
            request_id: value(REQUEST_ID)
                .and_then(RequestId::parse)
                .unwrap_or_default(),
            interface,
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
            && !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if is_plain_options || !self.settings.allows_origin(headers) {
            return next.run(request).await;
        }
        let response = self.cors.layer(next).oneshot(request).await;
        response.unwrap_or_else(|never| match never {})
    }
}

impl Calls {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.calls)),
            of_callers: Mutex::default(),
        }
    }

    /// The permits for a call. A client can claim any name, so only the callers with a token have a limit
    /// of their own.
    fn try_acquire(&self, caller: &Caller, limits: &Limits) -> Option<CallPermits> {
        let own = match caller {
            Caller::Token(name) => {
                let mut of_callers = self.of_callers.lock();
                let own = of_callers.entry(Arc::clone(name));
                let own = own.or_insert_with(|| Semaphore::new(limits.calls_per_caller).into());
                Some(Arc::clone(own).try_acquire_owned().ok()?)
            }
            Caller::Client(_) | Caller::Anonymous => None,
        };
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some((permit, own))
    }
}

/// Gives a request its context, and logs and counts its call once, from the response. Calls over MCP are
/// logged in `mcp`; here only what was refused before. The response repeats the request's id.
async fn log_request(
    State((interface, middleware)): State<(Interface, Arc<Middleware>)>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(response) = middleware.probe(&request) {
        return response;
    }
    let context = middleware.context(interface, request.headers());
    request.extensions_mut().insert(context.clone());
    let operation = rest::operation(request.method(), request.uri().path());
    let begin = |operation| Call::begin(&context, operation);
    let mut call = (interface == Interface::Rest).then(|| begin(operation));
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
    let body = read_body(body, &middleware.limits).await?;
    let permit = middleware.calls.try_acquire(caller, &middleware.limits);
    let permit = Arc::new(permit.ok_or_else(Problem::overloaded)?);
    // A call over MCP has it until it ends, which may be after its client disconnected.
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

/// Reads a body whole. tower-http's layers would answer in plain text, and the time of one begins anew with
/// each frame.
async fn read_body(body: Body, limits: &Limits) -> Result<Bytes, Problem> {
    let body = timeout(limits.body_read, to_bytes(body, limits.body_bytes)).await;
    let body = body
        .map_err(|_| Problem::body_too_slow())?
        .map_err(|error| match error.source() {
            Some(source) if source.is::<LengthLimitError>() => Problem::body_too_large(),
            _ => Problem::body_broken(),
        })?;
    // Each JSON value but the first follows one of these. A body of nothing else would become megabytes.
    let begins_value = |byte: &&u8| matches!(byte, b'{' | b'[' | b',' | b':');
    if body.iter().filter(begins_value).count() >= limits.body_values {
        return Err(Problem::body_too_large());
    }
    Ok(body)
}

/// What a browser lets the pages of an allowed origin do.
pub(super) fn cors_layer() -> CorsLayer {
    let exposed = [
        header::LOCATION,
        header::RETRY_AFTER,
        header::WWW_AUTHENTICATE,
        HeaderName::from_static("mcp-protocol-version"),
        REQUEST_ID,
    ];
    CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .allow_methods([Method::DELETE, Method::GET, Method::POST])
        .expose_headers(exposed)
        .max_age(Duration::from_secs(600))
        .vary([header::ORIGIN])
}

/// Whether a request reads one of these paths.
pub(super) fn reads(request: &Request, paths: &[&str]) -> bool {
    is_read(request) && paths.contains(&request.uri().path())
}

/// Whether a request is a `GET` or a `HEAD`.
pub(super) fn is_read(request: &Request) -> bool {
    [Method::GET, Method::HEAD].contains(request.method())
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use futures_util::stream;

    use super::*;
    use crate::http::tests::settings;

    fn limits(calls: usize, calls_per_caller: usize) -> Limits {
        Limits {
            calls,
            calls_per_caller,
            ..Limits::default()
        }
    }

    fn layer(router: Router, limits: Limits) -> NormalizePath<Router> {
        let middleware = Arc::new(Middleware {
            settings: settings("localhost"),
            calls: Calls::new(&limits),
            limits: Arc::new(limits),
            shutdown: Shutdown::default(),
            cors: cors_layer(),
        });
        middleware.layer(Interface::Rest, router)
    }

    async fn respond(service: &NormalizePath<Router>, path: &str) -> Response {
        let request = Request::get(path).header("Host", "localhost");
        let request = request.body(Body::empty()).unwrap();
        service.clone().oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_panic_is_answered_and_returns_its_permit() {
        let panic = async || -> String { std::panic::resume_unwind(Box::new("a test's panic")) };
        let router = Router::new()
            .route("/panic", get(panic))
            .route("/", get(async || "well"));
        let service = layer(router, limits(1, 1));
        for _ in 0..2 {
            let response = respond(&service, "/panic").await;
            assert_eq!(response.status(), 500);
            let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(problem["outcome"], "unknown");
        }
        assert_eq!(respond(&service, "/").await.status(), 200);
    }

    #[tokio::test]
    async fn a_stream_keeps_its_permit_until_its_end() {
        let events = async || Body::from_stream(stream::iter(["a", "b"].map(Ok::<_, axum::Error>)));
        let service = layer(Router::new().route("/", get(events)), limits(1, 1));
        let stream = respond(&service, "/").await;
        assert_eq!(stream.status(), 200);
        let refused = respond(&service, "/").await;
        assert_eq!(refused.status(), 503);
        assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
        let body = to_bytes(stream.into_body(), usize::MAX).await.unwrap();
        assert_eq!(body, "ab");
        assert_eq!(respond(&service, "/").await.status(), 200);
    }

    #[test]
    fn a_caller_with_a_token_has_a_limit_of_its_own() {
        let limits = limits(3, 2);
        let calls = Calls::new(&limits);
        let acquire = |caller: &Caller| calls.try_acquire(caller, &limits);
        let (ada, ben) = (Caller::Token("ada".into()), Caller::Token("ben".into()));
        let first = acquire(&ada);
        let _second = acquire(&ada).unwrap();
        assert!(acquire(&ada).is_none());
        let _third = acquire(&ben).unwrap();
        assert!(acquire(&Caller::Anonymous).is_none(), "all are taken");
        drop(first.unwrap());
        drop(acquire(&ada).unwrap());
        let _fourth = acquire(&Caller::Anonymous).unwrap();
        assert!(acquire(&ada).is_none(), "all are taken");
    }

    #[tokio::test]
    async fn a_body_is_limited_in_bytes_values_and_time() {
        let limits = Limits {
            body_bytes: 64,
            body_values: 8,
            body_read: Duration::from_millis(10),
            ..Limits::default()
        };
        let largest = [" ".repeat(57).as_str(), "[1,2,3,"].concat();
        assert_eq!(largest.len(), 64);
        assert_eq!(
            read_body(largest.clone().into(), &limits).await.unwrap(),
            largest
        );
        for (body, kind) in [
            (format!("{largest} ").into(), "body_too_large"),
            ("[1,2,3,4,5,6,7,8]".into(), "body_too_large"),
            (
                Body::from_stream(stream::pending::<Result<Bytes, axum::Error>>()),
                "body_too_slow",
            ),
            (
                Body::from_stream(stream::iter([Err::<Bytes, _>(axum::Error::new("broken"))])),
                "body_broken",
            ),
        ] {
            assert_eq!(read_body(body, &limits).await.unwrap_err().kind(), kind);
        }
    }
}
