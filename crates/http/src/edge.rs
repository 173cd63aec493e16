//! What surrounds every handler: ids, a span, limits, faults in the dialect's shape, metrics.

use crate::body::{BoundedBody, discard};
use crate::cors::Cors;
use crate::fault::{Fault, FaultContext, Faults, PlainFaults};
use crate::metrics::{HttpMetrics, method_label};
use crate::peer::{Peer, REQUEST_ID, RequestId};
use axum::Router;
use axum::body::HttpBody;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use futures_util::FutureExt;
use portolan_model::IdSource;
use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{Instrument, Span, field};

/// The surroundings of one listener's router. Build it, then [`wrap`](Edge::wrap) the finished router: routes added
/// later are not covered. In-process tests that call a wrapped router see what clients see.
#[derive(Clone)]
pub struct Edge {
    listener: Arc<str>,
    ids: Arc<dyn IdSource>,
    faults: Arc<dyn Faults>,
    metrics: Option<Arc<dyn HttpMetrics>>,
    cors: Option<Cors>,
    nosniff: bool,
    body_limit: usize,
    body_limits: HashMap<String, usize>,
    body_stall: Duration,
    timeout: Option<Duration>,
    timeouts: HashMap<String, Option<Duration>>,
}

impl Edge {
    /// Bodies up to 2 MiB whose pieces come within 30 s, answers within 60 s, [`PlainFaults`], no metrics, no CORS.
    pub fn new(listener: impl Into<String>, ids: Arc<dyn IdSource>) -> Self {
        Self {
            listener: listener.into().into(),
            ids,
            faults: Arc::new(PlainFaults),
            metrics: None,
            cors: None,
            nosniff: false,
            body_limit: 2 << 20,
            body_limits: HashMap::new(),
            body_stall: Duration::from_secs(30),
            timeout: Some(Duration::from_secs(60)),
            timeouts: HashMap::new(),
        }
    }

    /// Shapes the transport's own answers (413, 408, 503, 500) as the dialect does its errors.
    #[must_use]
    pub fn faults(mut self, faults: impl Faults + 'static) -> Self {
        self.faults = Arc::new(faults);
        self
    }

    /// Reports every answered request.
    #[must_use]
    pub fn metrics(mut self, metrics: Option<Arc<dyn HttpMetrics>>) -> Self {
        self.metrics = metrics;
        self
    }

    /// Answers `OPTIONS` and marks answers, faults too, for the pages that `cors` allows.
    #[must_use]
    pub fn cors(mut self, cors: Cors) -> Self {
        self.cors = Some(cors);
        self
    }

    /// Sends `X-Content-Type-Options: nosniff`.
    #[must_use]
    pub fn nosniff(mut self) -> Self {
        self.nosniff = true;
        self
    }

    /// Longest request body in bytes, whether a handler buffers or streams it.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Another body limit for one route, named as registered with its nesting: `/api/files/{id}`.
    #[must_use]
    pub fn body_limit_for(mut self, route: impl Into<String>, bytes: usize) -> Self {
        self.body_limits.insert(route.into(), bytes);
        self
    }

    /// How long a body may pause.
    #[must_use]
    pub fn body_stall(mut self, patience: Duration) -> Self {
        self.body_stall = patience;
        self
    }

    /// Time for a handler up to the head of its answer; none for no limit. The handler is dropped when it ends.
    #[must_use]
    pub fn timeout(mut self, limit: Option<Duration>) -> Self {
        self.timeout = limit;
        self
    }

    /// Another time for one route, named as registered with its nesting.
    #[must_use]
    pub fn timeout_for(mut self, route: impl Into<String>, limit: Option<Duration>) -> Self {
        self.timeouts.insert(route.into(), limit);
        self
    }

    /// Puts the surroundings around a router, fallbacks included.
    pub fn wrap(self, router: Router) -> Router {
        // axum's own limit of 2 MB gives way to ours, which knows the dialect's shape.
        router.layer(DefaultBodyLimit::disable()).layer(from_fn_with_state(Arc::new(self), run))
    }

    fn limit_of(&self, route: &str) -> usize {
        self.body_limits.get(route).copied().unwrap_or(self.body_limit)
    }

    fn timeout_of(&self, route: &str) -> Option<Duration> {
        self.timeouts.get(route).copied().unwrap_or(self.timeout)
    }

    /// Runs the handlers within their limits.
    async fn bounded(&self, route: &str, request: Request, next: Next) -> Result<Response, Fault> {
        let limit = self.limit_of(route);
        let (parts, body) = request.into_parts();
        if body.size_hint().lower() > limit as u64 {
            discard(&parts.headers, body).await;
            return Err(Fault::BodyTooLarge { limit });
        }
        let (body, watch) = BoundedBody::bound(body, limit, self.body_stall);
        let running = AssertUnwindSafe(next.run(Request::from_parts(parts, body))).catch_unwind();
        let outcome = match self.timeout_of(route) {
            Some(limit) => tokio::time::timeout(limit, running).await.map_err(|_| Fault::TimedOut)?,
            None => running.await,
        };
        let response = outcome.map_err(|panic| {
            tracing::error!(panic = text_of(&*panic), "a handler panicked");
            Fault::Failed
        })?;
        // What the handler made of a body that broke off is replaced by the dialect's word for it.
        if response.status().as_u16() >= 400 {
            if watch.too_large() {
                return Err(Fault::BodyTooLarge { limit });
            }
            if watch.stalled() {
                return Err(Fault::BodyStalled);
            }
        }
        response.extensions().get::<Fault>().copied().map_or(Ok(response), Err)
    }

    fn shape(&self, fault: Fault, at: &FaultContext) -> Response {
        let mut response = catch_unwind(AssertUnwindSafe(|| self.faults.shape(fault, at))).unwrap_or_else(|panic| {
            tracing::error!(panic = text_of(&*panic), "the shape of a fault panicked");
            PlainFaults.shape(fault, at)
        });
        if matches!(fault, Fault::BodyTooLarge { .. } | Fault::BodyStalled) {
            // The rest of the body is on its way and will not be read.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = fault.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge").field("listener", &self.listener).finish_non_exhaustive()
    }
}

async fn run(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers(), &*edge.ids);
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let span = tracing::info_span!(
        "request",
        listener = &*edge.listener,
        method = %request.method(),
        path = %without_tokens(&path),
        request_id = %id,
        peer = request.extensions().get::<Peer>().map(|p| field::display(p.address)),
        status = field::Empty,
        duration_ms = field::Empty,
    );
    request.extensions_mut().insert(id.clone());
    let echo = edge.cors.as_ref().and_then(|cors| cors.echo(request.headers()));
    let at = FaultContext {
        method: request.method().clone(),
        path,
        accept: text(request.headers(), &header::ACCEPT),
        request_id: id.clone(),
    };
    let mut finish = Finish {
        edge: &edge,
        route,
        method: request.method().clone(),
        span: span.clone(),
        at: Instant::now(),
        done: false,
    };

    let answering = async {
        let preflight = edge.cors.as_ref().and_then(|cors| cors.preflight(request.method(), request.headers()));
        match preflight {
            Some(response) => response,
            None => match edge.bounded(route, request, next).await {
                Ok(response) => response,
                Err(fault) => edge.shape(fault, &at),
            },
        }
    };
    let mut response = answering.instrument(span).await;
    if let Some(cors) = &edge.cors {
        cors.mark(echo, &mut response);
    }
    if edge.nosniff {
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    if let Some(id) = id.header() {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    finish.answered(response.status());
    response
}

/// The route of requests that match none.
const UNMATCHED: &str = "unmatched";

/// Reports a request once, also when its client leaves and the future is dropped.
struct Finish<'a> {
    edge: &'a Edge,
    route: &'a str,
    method: Method,
    span: Span,
    at: Instant,
    done: bool,
}

impl Finish<'_> {
    fn answered(&mut self, status: StatusCode) {
        self.done = true;
        self.report(status.as_u16());
    }

    fn report(&self, status: u16) {
        let elapsed = self.at.elapsed();
        let duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.span.record("status", status).record("duration_ms", duration_ms);
        self.span.in_scope(|| match status {
            500.. => tracing::warn!(status, duration_ms, "answered"),
            499 => tracing::info!(status, duration_ms, "the client left"),
            _ => tracing::info!(status, duration_ms, "answered"),
        });
        if let Some(metrics) = &self.edge.metrics {
            let method = method_label(&self.method);
            metrics.request(&self.edge.listener, method, self.route, status, elapsed.as_secs_f64());
        }
    }
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.report(499);
        }
    }
}

/// A path and query for the log: what parameters called token hold is a secret.
fn without_tokens(path: &str) -> Cow<'_, str> {
    let Some((bare, query)) = path.split_once('?').filter(|(_, query)| query.contains("token")) else {
        return Cow::Borrowed(path);
    };
    let hide = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if name.ends_with("token") => format!("{name}=***"),
        _ => pair.to_owned(),
    };
    Cow::Owned(format!("{bare}?{}", query.split('&').map(hide).collect::<Vec<_>>().join("&")))
}

fn text(headers: &HeaderMap, name: &header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// What a panic says, for the log only.
fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::without_tokens;

    #[test]
    fn tokens_in_the_query_are_not_logged() {
        assert_eq!(without_tokens("/a?auth_token=x.y&b=c&token=&d"), "/a?auth_token=***&b=c&token=***&d");
        for plain in ["/a", "/a?b=c", "/token?x", "/a?b=token", "/a?token"] {
            assert_eq!(without_tokens(plain), plain);
        }
    }
}
