//! What each request passes before it reaches a router, the same on both ports.
//! [`Middleware::layer`] lists it from the outside in.

use std::{collections::HashMap, error::Error as _, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, Bytes, to_bytes},
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use http_body_util::LengthLimitError;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowHeaders, AllowOrigin, Any, CorsLayer},
    normalize_path::NormalizePath,
};

use super::{Settings, SignIn, auth};
use crate::{
    context::{Caller, Context, Deadline, Interface, RequestId, Role, TraceParent},
    credentials::mask_keys,
    limits::Limits,
    rest::{self, Problem},
    shutdown::Shutdown,
    telemetry::{Call, OK},
    text,
};

const REQUEST_ID: &str = "x-request-id";

/// The middleware of both ports.
pub(super) struct Middleware {
    settings: Settings,
    sign_in: Option<Arc<SignIn>>,
    limits: Arc<Limits>,
    shutdown: Shutdown,
    /// Counts the calls in flight over both ports.
    calls: Arc<Semaphore>,
    /// Counts those of each caller with an access token. Any other name can be claimed by every client.
    calls_by_caller: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
}

/// Of all calls, and of those of its caller. A call is counted until they are dropped.
type CallPermits = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl Middleware {
    pub(super) fn new(settings: Settings, limits: Arc<Limits>, shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Self {
            calls_by_caller: Mutex::default(),
            calls: Arc::new(Semaphore::new(limits.calls)),
            sign_in: SignIn::new(&settings, Arc::clone(&limits)),
            settings,
            limits,
            shutdown,
        })
    }

    /// The router behind the middleware. The probes of an orchestrator, which has neither a token nor an
    /// allowed host, pass none of it.
    pub(super) fn layer(
        self: &Arc<Self>,
        interface: Interface,
        router: Router,
    ) -> NormalizePath<Router> {
        let state = (interface, Arc::clone(self));
        let layers = ServiceBuilder::new()
            .layer(from_fn_with_state(state, log_request))
            .option_layer(self.cors())
            .layer(from_fn_with_state(Arc::clone(self), admit))
            .layer(CatchPanicLayer::custom(|_| {
                Problem::internal().into_response()
            }));
        let draining = self.shutdown.draining.clone();
        let ready = async move || {
            if draining.is_cancelled() {
                return (StatusCode::SERVICE_UNAVAILABLE, "draining\n");
            }
            (StatusCode::OK, "ready\n")
        };
        let router = router
            .layer(layers)
            .route("/healthz", get("alive\n"))
            .route("/readyz", get(ready));
        let router = match &self.sign_in {
            Some(sign_in) => sign_in.add_metadata(router),
            None => router,
        };
        // A router would match the path before its layers change it.
        NormalizePath::trim_trailing_slash(router)
    }

    /// What a browser lets the pages of allowed origins do.
    fn cors(self: &Arc<Self>) -> Option<CorsLayer> {
        let middleware = Arc::clone(self);
        let origins =
            AllowOrigin::predicate(move |origin, _| middleware.settings.allows_origin(origin));
        let layer = CorsLayer::new()
            .allow_origin(origins)
            .allow_headers(AllowHeaders::mirror_request())
            .allow_methods(Any)
            .expose_headers(Any)
            .max_age(Duration::from_secs(600));
        (!self.settings.allowed_origins.is_empty()).then_some(layer)
    }

    /// The context of a call, from its header and its connection.
    async fn context(&self, interface: Interface, request: &mut Request) -> Context {
        let tokens = self.settings.tokens.current();
        let mut token = auth::bearer(request.headers()).and_then(|token| tokens.caller(token));
        if let Some(sign_in) = &self.sign_in
            && token.is_none()
        {
            token = sign_in.caller(request).await;
        }
        let headers = request.headers();
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        // Each proxy appends the address of its client: only the last is of the operator's own.
        let forwarded_for = headers.get_all("x-forwarded-for").iter().next_back();
        let forwarded_for = forwarded_for.filter(|_| self.settings.public_url.is_some());
        let last = |value: &HeaderValue| {
            let value = String::from_utf8_lossy(value.as_bytes());
            text::excerpt(value.rsplit(',').next().unwrap_or_default().trim()).into()
        };
        let key = || auth::qovery_key(headers).map(Arc::new);
        let key = self.settings.caller_keys.then(key).flatten();
        let agent = headers
            .get(header::USER_AGENT)
            .map(|agent| text::excerpt(&String::from_utf8_lossy(agent.as_bytes())))
            .filter(|agent| !agent.is_empty());
        let value = |name| headers.get(name)?.to_str().ok();
        Context {
            request_id: value(REQUEST_ID)
                .and_then(RequestId::parse)
                .unwrap_or_default(),
            interface,
            role: token.as_ref().map_or(Role::All, |(_, role)| *role),
            caller: match (token, &key, agent) {
                (Some((name, _)), ..) => Caller::Token(name),
                (None, Some(key), _) => Caller::Key(format!("key-{:.8}", key.id).into()),
                (None, None, Some(agent)) => Caller::Client(agent.into()),
                (None, None, None) => Caller::Anonymous,
            },
            key,
            deadline: Deadline::after(self.limits.call),
            cancellation: CancellationToken::new(),
            accepts_events: value("accept")
                .is_some_and(|accept| accept.contains("text/event-stream")),
            trace: value("traceparent").and_then(TraceParent::parse),
            peer: peer.map(|peer| peer.0),
            forwarded_for: forwarded_for.map(last),
        }
    }

    /// Takes the permits for a call.
    fn try_acquire(&self, caller: &Caller) -> Result<CallPermits, TryAcquireError> {
        let own = if let Caller::Token(name) = caller {
            let calls = || Arc::new(Semaphore::new(self.limits.calls_per_caller));
            let mut callers = self.calls_by_caller.lock();
            let calls = callers.entry(Arc::clone(name)).or_insert_with(calls);
            Some(Arc::clone(calls).try_acquire_owned()?)
        } else {
            None
        };
        Ok((Arc::clone(&self.calls).try_acquire_owned()?, own))
    }
}

/// Gives a request its context, and logs and counts its call once, from the response. Calls over MCP are
/// logged in `mcp`; here only what was refused before. The response repeats the request's id.
async fn log_request(
    State((interface, middleware)): State<(Interface, Arc<Middleware>)>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let tokens = &middleware.settings.tokens;
    tokens.refresh(middleware.limits.secret_check).await;
    let context = middleware.context(interface, &mut request).await;
    request.extensions_mut().insert(context.clone());
    let path = path.as_ref().map_or("", MatchedPath::as_str);
    let operation = rest::operation(request.method(), path);
    let uri = request.uri().clone();
    let begin = || {
        let call = Call::begin(&context, operation);
        let mut ids = uri.path().split('/').skip(3).step_by(2);
        if let ("add" | "remove", Some(database)) = (operation, ids.next()) {
            let shown = |id: &str| mask_keys(&text::excerpt(id));
            call.about(shown(database), ids.next().map(shown));
        }
        call
    };
    let call = (interface == Interface::Rest).then(begin);
    // hyper drops this future when the client disconnects before the response.
    let disconnected = context.cancellation.clone().drop_guard();
    let mut response = next.run(request).await;
    disconnected.disarm();
    let problem = Problem::of(&mut response);
    if let Some(mut call) = call.or_else(|| problem.is_some().then(begin)) {
        if let Some(alert) = problem.as_ref().and_then(Problem::alert) {
            call.alert(alert);
        }
        let outcome = problem.as_ref().map_or(OK, Problem::label);
        call.end(outcome, Some(response.status().as_u16()));
    }
    if let Some(problem) = problem {
        problem.write(&context.request_id, &mut response);
    }
    if let Ok(id) = HeaderValue::from_str(context.request_id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Checks the host, the origin and the access token, reads the body, and takes the permits for the call or
/// refuses it. tower's layer would queue it.
async fn admit(
    State(middleware): State<Arc<Middleware>>,
    Extension(context): Extension<Context>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let settings = &middleware.settings;
    settings.check_host(&request)?;
    settings.check_origin(&request)?;
    settings.check_token(&context, &request)?;
    let is_encoded = |it: &&HeaderValue| !it.as_bytes().eq_ignore_ascii_case(b"identity");
    let mut encodings = request.headers().get_all(header::CONTENT_ENCODING).iter();
    if let Some(encoding) = encodings.find(is_encoded) {
        let encoding = String::from_utf8_lossy(encoding.as_bytes());
        return Err(Problem::compressed(&encoding));
    }
    let (mut parts, body) = request.into_parts();
    // Nothing further in needs them.
    for secret in [
        header::AUTHORIZATION,
        auth::X_API_KEY,
        auth::X_QOVERY_API_KEY,
    ] {
        parts.headers.remove(secret);
    }
    let body = read_body(body, &middleware.limits).await?;
    let permits = middleware.try_acquire(&context.caller);
    let permits = Arc::new(permits.map_err(|_| Problem::overloaded())?);
    // A call over MCP keeps its request until it ends, which may be after its response began or after its
    // client disconnected.
    parts.extensions.insert(Arc::clone(&permits));
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    drop(permits);
    Ok(response)
}

/// Reads a body whole. tower-http's layers would answer in plain text, and the time of one begins anew with
/// each frame.
async fn read_body(body: Body, limits: &Limits) -> Result<Bytes, Problem> {
    let body = timeout(limits.body_read, to_bytes(body, limits.body_bytes)).await;
    let body = body
        .map_err(|_| Problem::body_too_slow())?
        .map_err(|error| match error.source() {
            Some(source) if source.is::<LengthLimitError>() => Problem::body_too_large(),
            _ => Problem::invalid("The body could not be read"),
        })?;
    // Each JSON value but the first follows one of these. A body of nothing else would become megabytes.
    let begins_value = |byte: &&u8| matches!(byte, b'{' | b'[' | b',' | b':');
    if body.iter().filter(begins_value).count() >= limits.body_values {
        return Err(Problem::body_too_large());
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use futures_util::stream;
    use tokio::sync::mpsc;
    use tower::ServiceExt;

    use super::*;
    use crate::{
        http::{Tokens, tests::settings},
        secret::Reloadable,
    };

    fn one_call() -> Arc<Middleware> {
        let limits = Limits {
            calls: 1,
            ..Limits::default()
        };
        Middleware::new(settings("localhost"), limits.into(), Shutdown::default())
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
        let service = one_call().layer(Interface::Rest, router);
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
    async fn nothing_further_in_sees_a_secret() {
        let see = async |Extension(context): Extension<Context>, request: Request| {
            format!("{request:?} {context:?}")
        };
        let router = Router::new().route("/", get(see));
        let mut settings = settings("localhost");
        settings.caller_keys = true;
        let middleware = Middleware::new(settings, Arc::default(), Shutdown::default());
        let service = middleware.layer(Interface::Rest, router);
        let request = Request::get("/")
            .header("Host", "localhost")
            .header("Authorization", "Bearer secret-1")
            .header("X-API-Key", "qov_secret-2")
            .header("X-API-Key", "secret-3")
            .header("X-Qovery-Api-Key", "qov_secret-4")
            .header("X-Qovery-Api-Key", "qov_secret-5");
        let request = request.body(Body::empty()).unwrap();
        let response = service.oneshot(request).await.unwrap();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let seen = str::from_utf8(&body).unwrap();
        assert!(seen.contains("key: Some(Credentials"), "{seen}");
        assert!(!seen.contains("secret-"), "{seen}");
    }

    #[tokio::test]
    async fn a_call_is_counted_until_its_request_is_dropped() {
        let (sender, mut requests) = mpsc::unbounded_channel();
        let keep = async move |request: Request| sender.send(request).is_ok().to_string();
        let service = one_call().layer(Interface::Rest, Router::new().route("/", get(keep)));
        assert_eq!(respond(&service, "/").await.status(), 200);
        let refused = respond(&service, "/").await;
        assert_eq!(refused.status(), 503);
        assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
        drop(requests.recv().await.unwrap());
        assert_eq!(respond(&service, "/").await.status(), 200);
    }

    #[test]
    fn a_caller_with_a_token_has_a_limit_of_its_own() {
        let limits = Limits {
            calls: 3,
            calls_per_caller: 2,
            ..Limits::default()
        };
        let mut settings = settings("localhost");
        let tokens = "ada:access-token-of-ada\nben:access-token-of-ben";
        settings.tokens = Reloadable::new(Tokens::parse(&tokens.into()).unwrap(), None);
        let middleware = Middleware::new(settings, limits.into(), Shutdown::default());
        let acquire = |caller: &Caller| middleware.try_acquire(caller).ok();
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
                "invalid_request",
            ),
        ] {
            assert_eq!(read_body(body, &limits).await.unwrap_err().label(), kind);
        }
    }
}
