//! The API's one error form, and the only place where errors of use cases become it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use portolan::access::AccessError;
use portolan::protect::ProtectError;
use portolan::registry::RegistryError;
use portolan::storage::StoreError;
use portolan_http::{Fault, FaultContext, JsonBody};
use serde::Serialize;
use std::error::Error;
use utoipa::ToSchema;

/// What a client without valid credentials is asked for.
const CHALLENGE: &str = "Bearer realm=\"portolan\", Basic realm=\"portolan\", charset=\"UTF-8\"";

/// An answer that is not a success: a status, a stable code for programs, a message for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<u64>,
}

/// The body of every answer that is not a success.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorBody<'a> {
    error: ErrorWords<'a>,
}

/// What went wrong.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorWords<'a> {
    /// For programs: `NOT_FOUND`, `CONFLICT`, `VALIDATION_FAILED`, …
    code: &'a str,
    /// For people.
    message: &'a str,
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

    /// 401: no valid credentials.
    pub(crate) fn unauthorized() -> Self {
        let text = "send an API token (Authorization: Bearer) or a login and a password (Basic)";
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", text)
    }

    /// 403: a field holds a password that is not the present one; the request's own credentials are good.
    pub(crate) fn wrong_password() -> Self {
        Self::new(StatusCode::FORBIDDEN, "WRONG_PASSWORD", "the current password is not right")
    }

    /// 403: a page of another origin calls, with credentials that a browser may have added by itself.
    pub(crate) fn foreign_origin() -> Self {
        Self::new(StatusCode::FORBIDDEN, "ORIGIN_NOT_ALLOWED", "this origin may not call")
    }

    fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "CONFLICT", message)
    }

    fn forbidden(denied: portolan_model::caller::Denied) -> Self {
        Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", denied.to_string())
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
        let body = ErrorBody { error: ErrorWords { code: self.code, message: &self.message } };
        let mut response = JsonBody::new(&body).status(self.status).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What the transport answers on its own account, in the API's form.
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

impl From<RegistryError> for ApiError {
    fn from(e: RegistryError) -> Self {
        match e {
            RegistryError::Denied(d) => Self::forbidden(d),
            RegistryError::NotFound { what, .. } => {
                Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("there is no such {}", what.replace('_', " ")))
            }
            RegistryError::Conflict(text) => Self::conflict(text),
            RegistryError::Invalid(text) => Self::invalid(text),
            RegistryError::Store(e) => e.into(),
            RegistryError::Access(e) => e.into(),
            e if e.is_outside() => {
                // What drivers and repositories say is for the operator who set them up.
                Self::new(StatusCode::BAD_GATEWAY, e.code(), e.one_line())
            }
            other => Self::internal(StatusCode::INTERNAL_SERVER_ERROR, &other),
        }
    }
}

impl From<ProtectError> for ApiError {
    fn from(e: ProtectError) -> Self {
        RegistryError::from(e).into()
    }
}

impl From<StoreError> for ApiError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::NotFound { kind, .. } => {
                let text = format!("there is no such {}", kind.table().replace('_', " "));
                Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", text)
            }
            StoreError::Conflict(c) => Self::conflict(c.to_string()),
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
            AccessError::Denied(d) => Self::forbidden(d),
            AccessError::NotFound { what } => {
                Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("there is no such {}", what.replace('_', " ")))
            }
            AccessError::Conflict(text) => Self::conflict(text),
            AccessError::Invalid(text) => Self::invalid(text),
            AccessError::Store(e) => e.into(),
            other => Self::internal(StatusCode::INTERNAL_SERVER_ERROR, &other),
        }
    }
}
