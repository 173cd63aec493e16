//! The dialect's one error form, and the only place where errors of use cases become it (section 2.5).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use portolan::access::AccessError;
use portolan::driver::DriverError;
use portolan::inventory::InventoryError;
use portolan::protect::ProtectError;
use portolan::repository::RepoError;
use portolan::storage::StoreError;
use portolan_http::{Fault, FaultContext, JsonBody};
use serde::Serialize;
use std::error::Error;

/// An answer that is not a success: a status, a stable code for programs, a message for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<u64>,
}

#[derive(Serialize)]
struct Body<'a> {
    message: &'a str,
    code: &'a str,
    status: u16,
}

impl ApiError {
    /// An error answer.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    /// 400: the request makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "VALIDATION_FAILED", message)
    }

    /// 401: no valid session.
    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "log in first: there is no valid session")
    }

    /// 404: nothing of that guid.
    pub(crate) fn not_found(kind: &str, id: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("there is no {} {id}", kind.replace('_', " ")))
    }

    /// 500 or 503: the text stays inside, the log has it.
    fn internal(status: StatusCode, error: &(dyn Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        match status {
            StatusCode::SERVICE_UNAVAILABLE => {
                Self::new(status, "UNAVAILABLE", "the server cannot do this just now, try again")
            }
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "something went wrong on the server"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Body { message: &self.message, code: self.code, status: self.status.as_u16() };
        let mut response = JsonBody::new(&body).status(self.status).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What the transport answers on its own account, in the dialect's form.
pub fn shape_fault(fault: Fault, _: &FaultContext) -> Response {
    let code = match fault {
        Fault::BodyTooLarge { .. } => "BODY_TOO_LARGE",
        Fault::BodyStalled => "BODY_STALLED",
        Fault::TimedOut => "TIMED_OUT",
        Fault::Unavailable => "UNAVAILABLE",
        Fault::KeyMalformed => "IDEMPOTENCY_KEY_INVALID",
        Fault::KeyReused => "IDEMPOTENCY_KEY_REUSED",
        Fault::RequestInFlight => "REQUEST_IN_PROGRESS",
        Fault::AnswerNotKept => "ANSWER_NOT_KEPT",
        _ => "INTERNAL",
    };
    ApiError::new(fault.status(), code, fault.message()).into_response()
}

impl From<ProtectError> for ApiError {
    fn from(e: ProtectError) -> Self {
        match e {
            ProtectError::Denied(d) => Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", d.to_string()),
            ProtectError::NotFound { kind, id } => Self::not_found(word(kind), id),
            ProtectError::Conflict(text) => Self::new(StatusCode::CONFLICT, "CONFLICT", text),
            ProtectError::Invalid(text) => Self::invalid(text),
            ProtectError::Store(e) => e.into(),
            ProtectError::Driver(e @ DriverError::Unreachable { .. }) => {
                Self::internal(StatusCode::SERVICE_UNAVAILABLE, &e)
            }
            ProtectError::Repository(e @ RepoError::Store { .. }) => {
                Self::internal(StatusCode::SERVICE_UNAVAILABLE, &e)
            }
            other => Self::internal(StatusCode::INTERNAL_SERVER_ERROR, &other),
        }
    }
}

impl From<InventoryError> for ApiError {
    fn from(e: InventoryError) -> Self {
        match e {
            InventoryError::Denied(d) => Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", d.to_string()),
            InventoryError::NotFound { kind, id } => Self::not_found(word(kind.table()), id),
            InventoryError::Conflict(text) => Self::new(StatusCode::CONFLICT, "CONFLICT", text),
            InventoryError::Invalid(text) => Self::invalid(text),
            InventoryError::Store(e) => e.into(),
            e @ (InventoryError::Unknown { .. } | InventoryError::Refused(_) | InventoryError::StillRunning(_)) => {
                Self::new(StatusCode::CONFLICT, "CONFLICT", e.to_string())
            }
            InventoryError::Driver(e) => Self::internal(StatusCode::SERVICE_UNAVAILABLE, &e),
            InventoryError::Cloud(e) => Self::internal(StatusCode::SERVICE_UNAVAILABLE, &e),
            other => Self::internal(StatusCode::INTERNAL_SERVER_ERROR, &other),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::NotFound { kind, id } => Self::not_found(word(kind.table()), id),
            StoreError::Conflict(c) => Self::new(StatusCode::CONFLICT, "CONFLICT", c.to_string()),
            e @ (StoreError::Unavailable(_) | StoreError::NoSpace) => {
                Self::internal(StatusCode::SERVICE_UNAVAILABLE, &e)
            }
            other => Self::internal(StatusCode::INTERNAL_SERVER_ERROR, &other),
        }
    }
}

impl From<AccessError> for ApiError {
    fn from(e: AccessError) -> Self {
        match e {
            AccessError::Unauthenticated => Self::unauthorized(),
            AccessError::Throttled { retry_after } => Self {
                retry_after: Some(retry_after.as_secs().max(1)),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "THROTTLED", "too many failed logins, try again later")
            },
            AccessError::Denied(d) => Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", d.to_string()),
            AccessError::NotFound { what } => {
                Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("there is no such {what}"))
            }
            AccessError::Conflict(text) => Self::new(StatusCode::CONFLICT, "CONFLICT", text),
            AccessError::Invalid(text) => Self::invalid(text),
            AccessError::Store(e) => e.into(),
            other => Self::internal(StatusCode::INTERNAL_SERVER_ERROR, &other),
        }
    }
}

/// The dialect's word for a kind of object.
fn word(kind: &str) -> &str {
    match kind {
        "vm" => "virtual machine",
        "point" => "backup",
        "copy" => "backup location",
        "destination" => "backup destination",
        "host" => "hypervisor",
        "platform" => "hypervisor manager",
        "datastore" => "hypervisor storage",
        "chain" => "workflow execution",
        "tenant" => "project",
        other => other,
    }
}
