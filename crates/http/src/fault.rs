//! Answers that the transport gives on its own account, in each dialect's shape.

use crate::peer::RequestId;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// What went wrong below the handlers. A response that carries a `Fault` in its extensions is replaced by the
/// dialect's shape of it, so that any code may answer with one: `(Fault::Failed).into_response()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The body is longer than the route accepts: 413.
    BodyTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The body stopped arriving: 408.
    BodyStalled,
    /// The handler did not answer in time: 503.
    TimedOut,
    /// The handler panicked or could not put its answer into words: 500.
    Failed,
    /// The store that the transport itself needs does not answer: 503.
    Unavailable,
    /// The `Idempotency-Key` is none: 400.
    KeyMalformed,
    /// The `Idempotency-Key` was given to another request before: 422.
    KeyReused,
    /// The first request of this `Idempotency-Key` is still being carried out: 409, with `Retry-After`.
    RequestInFlight,
    /// The request was carried out, but its answer was too long to be kept for a repetition: 409.
    AnswerNotKept,
}

impl Fault {
    /// The status that HTTP has for it; a dialect may choose another.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyStalled => StatusCode::REQUEST_TIMEOUT,
            Self::TimedOut | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::KeyMalformed => StatusCode::BAD_REQUEST,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RequestInFlight | Self::AnswerNotKept => StatusCode::CONFLICT,
        }
    }

    /// One sentence for the client, free of internals.
    pub const fn message(self) -> &'static str {
        match self {
            Self::BodyTooLarge { .. } => "The request body is too large.",
            Self::BodyStalled => "The request body did not arrive in time.",
            Self::TimedOut => "The request took too long.",
            Self::Failed => "The server failed to handle the request.",
            Self::Unavailable => "The server cannot do this just now, try again.",
            Self::KeyMalformed => "The Idempotency-Key must be 1 to 255 visible ASCII characters, given once.",
            Self::KeyReused => "The Idempotency-Key was used for another request.",
            Self::RequestInFlight => "The first request with this Idempotency-Key is still being worked on.",
            Self::AnswerNotKept => {
                "The request with this Idempotency-Key was carried out; its answer was too long to be kept."
            }
        }
    }

    /// When the client should try again, in seconds; goes out as `Retry-After` whatever the dialect's shape.
    pub const fn retry_after(self) -> Option<u64> {
        match self {
            Self::RequestInFlight => Some(2),
            _ => None,
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The request that a fault answers.
#[derive(Clone, Debug)]
pub struct FaultContext {
    /// Its method.
    pub method: Method,
    /// Its path and query, without scheme and host even when the client sent the absolute form.
    pub path: String,
    /// Its `Accept` header, for dialects that negotiate the shape of errors.
    pub accept: Option<String>,
    /// Its id.
    pub request_id: RequestId,
}

/// Shapes faults into a dialect's error answers. Closures `Fn(Fault, &FaultContext) -> Response` are shapes.
pub trait Faults: Send + Sync {
    /// The answer to send. Must not block.
    fn shape(&self, fault: Fault, at: &FaultContext) -> Response;
}

impl<F: Fn(Fault, &FaultContext) -> Response + Send + Sync> Faults for F {
    fn shape(&self, fault: Fault, at: &FaultContext) -> Response {
        self(fault, at)
    }
}

/// `{"message": …}` with the fault's own status.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainFaults;

impl Faults for PlainFaults {
    fn shape(&self, fault: Fault, _: &FaultContext) -> Response {
        // The messages need no escaping: they are ours.
        let body = format!("{{\"message\":\"{}\"}}", fault.message());
        (fault.status(), [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}
