//! `Idempotency-Key`: a request that its sender repeats is carried out once, and answered the same every time.
//!
//! [`Idempotency::wrap`] goes around a dialect's router, inside [`Edge`](crate::Edge), whose limits and fault shapes
//! it relies on: `edge.wrap(idempotency.wrap(router))`. It follows the IETF draft of the header field. What is kept,
//! and where, is behind the port [`Replays`]; who asks is behind [`Identify`].
//!
//! * Only `POST`, `PUT`, `PATCH` and `DELETE` with the header are looked at. A request whose sender is not known is
//!   passed on as if the header were not there: the handler says what it thinks of that.
//! * The handler runs in a task of its own: a client that hangs up, or a route's time that runs out, does not stop
//!   it, and its answer is kept. It has ten minutes in all.
//! * An answer is kept before it is sent. Kept are all but server errors, answers about who the sender is or may do
//!   (401, 403, 407), answers that ask for patience (408, 425, 429), and transport faults: after those the same
//!   request is carried out anew, under the same [`RequestKey`](portolan_model::RequestKey).
//! * An answer longer than [`LONGEST_ANSWER`] is sent but not kept: that the request was carried out is, and a
//!   repetition hears so ([`Fault::AnswerNotKept`]) instead of being carried out again.

mod answer;
mod key;
mod port;
mod work;

pub use answer::LONGEST_ANSWER;
pub use port::{Begun, Hold, Identify, KeyedRequest, PortError, Replays, anonymous_sender, sender_of};

use crate::fault::Fault;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};
use work::Work;

/// Carries repeated requests of one dialect out once.
#[derive(Clone)]
pub struct Idempotency {
    dialect: Arc<str>,
    replays: Arc<dyn Replays>,
    identify: Arc<dyn Identify>,
    at_work: TaskTracker,
}

impl Idempotency {
    /// For the dialect of that name: keys of one dialect mean nothing to another.
    pub fn new(dialect: &str, replays: Arc<dyn Replays>, identify: Arc<dyn Identify>) -> Self {
        Self { dialect: dialect.into(), replays, identify, at_work: TaskTracker::new() }
    }

    /// Has its work counted by `tracker`, so that a stopping server can wait for what no connection waits for.
    #[must_use]
    pub fn tracked(mut self, tracker: TaskTracker) -> Self {
        self.at_work = tracker;
        self
    }

    /// Puts itself around a router, fallbacks included.
    pub fn wrap(self, router: Router) -> Router {
        router.layer(from_fn_with_state(self, run))
    }
}

impl fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}

async fn run(State(this): State<Idempotency>, request: Request, next: Next) -> Response {
    if !matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH | Method::DELETE) {
        return next.run(request).await;
    }
    let key = match key::of(request.headers()) {
        Ok(Some(key)) => key,
        Ok(None) => return next.run(request).await,
        Err(key::Malformed) => return Fault::KeyMalformed.into_response(),
    };
    let (mut parts, body) = request.into_parts();
    let sender = match this.identify.sender(&mut parts).await {
        Ok(Some(sender)) => sender,
        Ok(None) => return next.run(Request::from_parts(parts, body)).await,
        Err(error) => {
            tracing::error!(error = &*error, "the sender of a request with a key could not be looked up");
            return Fault::Unavailable.into_response();
        }
    };
    // The edge around bounds the body in size and time, and has the word for one that breaks off.
    let Ok(body) = to_bytes(body, usize::MAX).await else { return StatusCode::BAD_REQUEST.into_response() };
    let work = Work { replays: this.replays, dialect: this.dialect, sender, key, parts, body, next };
    match this.at_work.spawn(work.run().instrument(Span::current())).await {
        Ok(Ok(response)) => response,
        // The edge answers a panic, and logs it, wherever it happened.
        Ok(Err(panic)) => resume_unwind(panic),
        Err(error) => {
            tracing::error!(%error, "the work on a request with a key was cut off");
            Fault::Failed.into_response()
        }
    }
}

/// The request, whole again.
fn whole(parts: axum::http::request::Parts, body: bytes::Bytes) -> Request {
    Request::from_parts(parts, Body::from(body))
}
