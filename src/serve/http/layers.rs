//! What a request must get past before it reaches a router, the same on both ports. [`Layers::around`]
//! is the list, from the outside in.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ACCEPT, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CACHE_CONTROL, HOST, LOCATION,
            ORIGIN, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
        },
        uri::Authority,
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes};
use tokio::time::timeout;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowHeaders, AllowOrigin, CorsLayer},
};

use super::{
    super::Process,
    access::{AllowedHost, AllowedOrigin, Tokens},
    stream::Connection,
};
use crate::{
    context::{Caller, Context, Deadline, Interface, RequestId, TraceParent},
    problem::Problem,
    rest,
    shares::{Permit, Shares},
    telemetry::{Call, OK},
    text,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

type Port = State<Arc<Layers>>;
type Passed = Result<Response, Problem>;

/// What tells no secret: it needs no token, and any page may link to it.
const PUBLIC: [&str; 2] = ["/", "/openapi.json"];

/// What the layers of one port go by. The shares are those of both.
#[derive(Clone)]
pub(super) struct Layers {
    pub(super) interface: Interface,
    pub(super) process: Process,
    pub(super) hosts: Vec<AllowedHost>,
    pub(super) origins: Vec<AllowedOrigin>,
    pub(super) tokens: Tokens,
    pub(super) calls: Shares,
    pub(super) streams: Shares,
    /// The requests that are being answered.
    pub(super) in_flight: TaskTracker,
}

/// Of the MCP port: an answer to what was refused before it was anybody's call.
#[derive(Clone)]
pub(super) struct Refused;

/// What a request has of what there is only so much of, until the last one who knows it is done.
struct Reserved {
    _place: Permit,
    _in_flight: Option<TaskTrackerToken>,
}

impl Layers {
    /// The router behind all layers.
    pub(super) fn around(self, router: Router) -> Router {
        let layers = Arc::new(self);
        router.layer(
            ServiceBuilder::new()
                .layer(from_fn_with_state(Arc::clone(&layers), answer_probe))
                .layer(from_fn_with_state(Arc::clone(&layers), keep_account))
                .layer(from_fn_with_state(Arc::clone(&layers), answer_pages))
                .layer(from_fn_with_state(layers, let_in))
                .layer(CatchPanicLayer::custom(|_| {
                    Problem::internal().into_response()
                })),
        )
    }

    /// What is known of a call from its header.
    fn context(&self, headers: &HeaderMap) -> Context {
        let token = bearer(headers).and_then(|token| self.tokens.caller(token));
        let agent = || {
            let agent = String::from_utf8_lossy(headers.get(USER_AGENT)?.as_bytes());
            Some(text::excerpt(&agent)).filter(|agent| !agent.is_empty())
        };
        let caller = match token {
            Some(name) => Caller::Token(name.into()),
            None => agent().map_or(Caller::Anonymous, |agent| Caller::Client(agent.into())),
        };
        let id = text(headers, &REQUEST_ID).and_then(RequestId::parse);
        Context {
            request_id: id.unwrap_or_default(),
            interface: self.interface,
            caller,
            deadline: Deadline::after(self.process.limits.call),
            cancellation: CancellationToken::new(),
            accepts_events: accepts(headers, "text", "event-stream"),
            trace: text(headers, &TRACE_PARENT).and_then(TraceParent::parse),
        }
    }

    fn allows_origin(&self, headers: &HeaderMap) -> bool {
        text(headers, &ORIGIN)
            .is_some_and(|origin| self.origins.iter().any(|allowed| allowed.allows(origin)))
    }

    /// A page that reaches this machine by a name of its own choosing could otherwise call it (DNS
    /// rebinding). Prometheus scrapes a pod by its address.
    fn check_host(&self, request: &Request) -> Result<(), Problem> {
        if reads(request, &["/metrics"]) {
            return Ok(());
        }
        let mut hosts = request.headers().get_all(HOST).iter();
        let (Some(host), None) = (hosts.next().and_then(host), hosts.next()) else {
            return Err(Problem::malformed_host());
        };
        let allowed = |name: &Authority| self.hosts.iter().any(|host| host.allows(name));
        if !allowed(&host) || !request.uri().authority().is_none_or(allowed) {
            return Err(Problem::forbidden_host());
        }
        Ok(())
    }

    /// A browser names the origin of a page that asks, but for images and the like, of which it says
    /// only that another site's page asks.
    fn check_origin(&self, request: &Request) -> Result<(), Problem> {
        let headers = request.headers();
        let foreign = match headers.get(FETCH_SITE) {
            _ if headers.contains_key(ORIGIN) => !self.allows_origin(headers),
            Some(site) => site == "cross-site" && !reads(request, &PUBLIC),
            None => false,
        };
        if foreign {
            return Err(Problem::forbidden_origin());
        }
        Ok(())
    }

    fn check_token(&self, context: &Context, request: &mut Request) -> Result<(), Problem> {
        if !self.tokens.is_empty() && !matches!(context.caller, Caller::Token(_)) {
            if !reads(request, &PUBLIC) && !discovers(request) {
                // RFC 6750, section 3: an error is named only if a token was sent.
                let challenge = HeaderValue::from_static(match bearer(request.headers()) {
                    Some(_) => r#"Bearer realm="qovery-backups-mcp", error="invalid_token""#,
                    None => r#"Bearer realm="qovery-backups-mcp""#,
                });
                return Err(Problem::unauthenticated().with_header(WWW_AUTHENTICATE, challenge));
            }
            // Who needs no token gets no memory either.
            *request.body_mut() = Body::empty();
        }
        // It was for this check, and nothing further in needs it.
        request.headers_mut().remove(AUTHORIZATION);
        Ok(())
    }

    /// Reads the body, once there is room in memory for it, and takes a place for the request: among
    /// the streams for one that waits for events, for as long as the caller likes; else among the
    /// calls. What it takes it keeps until its answer is gone and its call is over, whichever is later.
    async fn take_place(
        &self,
        context: &Context,
        connection: &Arc<Connection>,
        request: Request,
        next: Next,
    ) -> Passed {
        let (mut parts, body) = request.into_parts();
        let body = read(body, &self.process).await?;
        let waits = self.interface == Interface::Mcp
            && parts.method == Method::GET
            && parts.uri.path() == "/mcp";
        let places = if waits { &self.streams } else { &self.calls };
        let place = places.reserve(context.caller.token_name(), 1);
        let reserved = Arc::new(Reserved {
            _place: place.ok_or_else(Problem::overloaded)?,
            _in_flight: (!waits).then(|| self.in_flight.token()),
        });
        parts.extensions.insert(Arc::clone(&reserved));
        let busy = connection.busy();
        let response = next.run(Request::from_parts(parts, Body::from(body))).await;
        Ok(keep_for_stream(response, || (busy, reserved)))
    }
}

/// Answers the operator's machinery, which knows neither names nor tokens.
async fn answer_probe(State(layers): Port, request: Request, next: Next) -> Response {
    let (status, text) = if reads(&request, &["/healthz"]) {
        (StatusCode::OK, "alive\n")
    } else if !reads(&request, &["/readyz"]) {
        return next.run(request).await;
    } else if layers.process.shutdown.draining.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ready\n")
    };
    (status, [(CACHE_CONTROL, "no-store")], text).into_response()
}

/// Gives a request its context, and writes down what became of it: once, from the answer. Whatever
/// that is, it carries the request's id. The calls of MCP are written down further in.
async fn keep_account(State(layers): Port, mut request: Request, next: Next) -> Response {
    let context = layers.context(request.headers());
    request.extensions_mut().insert(context.clone());
    let operation = rest::operation(request.method(), request.uri().path());
    let begin = |operation| Call::begin(&context, operation);
    let mut entry = (layers.interface == Interface::Rest).then(|| begin(operation));
    // Where the caller goes away before there is an answer, nobody polls this any more.
    let left = context.cancellation.clone().drop_guard();
    let mut response = next.run(request).await;
    left.disarm();
    let status = response.status();
    let mut outcome = if status.as_u16() < 400 { OK } else { "refused" };
    let problem = response.extensions_mut().remove::<Problem>();
    if problem.is_some() || response.extensions().get::<Refused>().is_some() {
        entry = entry.or_else(|| Some(begin("other")));
    }
    if let Some(problem) = problem {
        outcome = problem.kind();
        problem.write(&context.request_id, &mut response);
    }
    if let Ok(id) = HeaderValue::from_str(context.request_id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if let Some(entry) = entry {
        entry.end(outcome, Some(status.as_u16()));
    }
    response
}

/// Tells browsers what pages of allowed origins may do. Others learn nothing: what they ask is refused
/// further in. The layer itself would answer every OPTIONS, and add to every answer.
async fn answer_pages(State(layers): Port, request: Request, next: Next) -> Response {
    let asks = request
        .headers()
        .contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let other_options = request.method() == Method::OPTIONS && !asks;
    if other_options || !layers.allows_origin(request.headers()) {
        return next.run(request).await;
    }
    let names = ["mcp-protocol-version", "mcp-session-id"];
    let [version, session] = names.map(HeaderName::from_static);
    let read = [
        LOCATION,
        version,
        session,
        RETRY_AFTER,
        WWW_AUTHENTICATE,
        REQUEST_ID,
    ];
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .allow_methods([Method::DELETE, Method::GET, Method::POST])
        .expose_headers(read)
        .max_age(Duration::from_secs(600))
        .vary([ORIGIN]);
    let answer = cors.layer(next).oneshot(request).await;
    answer.unwrap_or_else(|never| match never {})
}

/// Lets in whoever calls this server by its name, from no foreign page and with a token.
async fn let_in(
    State(layers): Port,
    Extension(context): Extension<Context>,
    Extension(connection): Extension<Arc<Connection>>,
    mut request: Request,
    next: Next,
) -> Passed {
    layers.check_host(&request)?;
    layers.check_origin(&request)?;
    layers.check_token(&context, &mut request)?;
    layers
        .take_place(&context, &connection, request, next)
        .await
}

/// Keeps something until an answer that is a stream ends or nobody takes it any more. Of an answer that
/// is whole already, nothing is kept.
pub(super) fn keep_for_stream<T: Send + 'static>(
    response: Response,
    what: impl FnOnce() -> T,
) -> Response {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    let kept = what();
    let keep = move |frame| {
        let _kept = &kept;
        frame
    };
    response.map(|body| Body::new(body.map_frame(keep)))
}

/// Reads a body into memory that is reserved for it. tower-http's layer for the size answers in plain
/// text, and the one for the time begins anew with each byte.
async fn read(body: Body, process: &Process) -> Result<Bytes, Problem> {
    let limits = &process.limits;
    let announced = body.size_hint().upper();
    let announced = announced.map_or(Ok(limits.body_bytes), usize::try_from);
    let announced = announced.unwrap_or(usize::MAX);
    if announced > limits.body_bytes {
        return Err(Problem::body_too_large());
    }
    let body = timeout(
        limits.body_read,
        Limited::new(body, limits.body_bytes).collect(),
    )
    .await
    .map_err(|_| Problem::body_too_slow())?;
    let body = body.map_err(|error| {
        tracing::debug!(error, "a body could not be read");
        if error.is::<LengthLimitError>() {
            Problem::body_too_large()
        } else {
            Problem::body_broken()
        }
    })?;
    let body = body.to_bytes();
    let size = crate::serve::json::Size::of(&body);
    if size.values > limits.body_values {
        return Err(Problem::body_too_large());
    }
    Ok(body)
}

/// Whether a client looks for another way to be let in, which there is not (RFC 8615; RFC 9728). It must
/// not take a refusal for a sign that there is.
fn discovers(request: &Request) -> bool {
    is_read(request) && request.uri().path().contains("/.well-known/")
}

/// Whether a request reads one of these paths.
fn reads(request: &Request, paths: &[&str]) -> bool {
    is_read(request) && paths.contains(&request.uri().path())
}

fn is_read(request: &Request) -> bool {
    [Method::GET, Method::HEAD].contains(request.method())
}

/// Whether the `Accept` header admits a media type (RFC 9110, section 12.5.1). Without one, all are.
pub(super) fn accepts(headers: &HeaderMap, main: &str, sub: &str) -> bool {
    let is = |name: &str, other: &str| name.eq_ignore_ascii_case(other);
    let (mut closest, mut admitted) = (0, true);
    let values = headers.get_all(ACCEPT).iter();
    for value in values.filter_map(|value| value.to_str().ok()) {
        for range in value.split(',').filter(|range| !range.trim().is_empty()) {
            let mut parts = range.split(';').map(str::trim);
            let closeness = match parts.next().and_then(|range| range.split_once('/')) {
                Some((a, b)) if is(a, main) && is(b, sub) => 4,
                Some((a, "*")) if is(a, main) => 3,
                Some(("*", "*")) => 2,
                // It names others.
                _ => 1,
            };
            if closeness > closest {
                let weight =
                    parts.find_map(|part| part.strip_prefix(['q', 'Q'])?.strip_prefix('='));
                let is_zero = weight.is_some_and(|weight| weight.parse() == Ok(0.0));
                (closest, admitted) = (closeness, closeness > 1 && !is_zero);
            }
        }
    }
    admitted
}

/// A `Host` header's value (RFC 9110, section 7.2): no user, and a port that is one.
fn host(value: &HeaderValue) -> Option<Authority> {
    let authority = Authority::try_from(value.as_bytes()).ok()?;
    let port = authority.as_str().strip_prefix(authority.host())?;
    let fits = |port: &str| port.parse::<u16>().is_ok();
    (port.is_empty() || port.strip_prefix(':').is_some_and(fits)).then_some(authority)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = text(headers, &AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
