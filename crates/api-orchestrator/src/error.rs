//! The dialect's error form, and the only place where errors of use cases become it (section 2.3).

use crate::wire::format::{Memory, Style, bytes};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use portolan::access::AccessError;
use portolan::driver::CloudErrorKind;
use portolan::inventory::InventoryError;
use portolan::storage::StoreError;
use portolan_http::{Fault, FaultContext};
use serde::Serialize;
use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

/// A cloud that is not there, or does not do what it should.
const CLOUD: &str = "Cloud not valid or wrong path";
/// A cloud whose driver cannot do this at all.
const CLOUD_CANNOT: &str = "Cloud not valid";
/// What every failure of a start begins with.
const WENT_WRONG: &str = "Something went wrong";

/// An answer that is not a success. It becomes a response that carries it; `surround` puts it into words, because only
/// there it is known how the request wants its answer laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: Cow<'static, str>,
    retry_after: Option<u64>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    message: &'a str,
    status: &'a str,
    status_code: u16,
    status_long_message: &'a str,
    status_short_message: &'a str,
}

/// An unknown path is told in fewer words.
#[derive(Serialize)]
struct Bare<'a> {
    message: &'a str,
    status: &'a str,
}

impl ApiError {
    /// An error answer.
    pub(crate) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }

    /// 400: the request makes no sense.
    pub(crate) fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400: the body is no JSON.
    pub(crate) fn malformed() -> Self {
        Self::bad_request("Malformed JSON stream")
    }

    /// 403: whoever asks may not.
    pub(crate) fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden")
    }

    /// 404: there is no such path.
    pub(crate) fn page_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Page not found")
    }

    /// 413: the body is longer than any request needs.
    pub(crate) fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Fault::BodyTooLarge { limit: 0 }.message())
    }

    /// 501: the view does not know the method.
    pub(crate) fn not_implemented() -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "Not implemented")
    }

    /// 500: there is no such cloud.
    pub(crate) fn no_cloud() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, CLOUD)
    }

    /// 500: a start did not work, for a reason that is fit for clients.
    pub(crate) fn went_wrong(reason: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{WENT_WRONG} {reason}"))
    }

    /// What a start answers in place of this error: all that a cloud does wrong is one 500 (section 4.1).
    pub(crate) fn of_start(self) -> Self {
        match self.status {
            StatusCode::FORBIDDEN | StatusCode::SERVICE_UNAVAILABLE => self,
            _ => Self::went_wrong(&self.message),
        }
    }

    /// The error of a start. What is wrong with the request itself stays a 400.
    pub(crate) fn starting(e: InventoryError) -> Self {
        match e {
            InventoryError::Invalid(_) => e.into(),
            _ => Self::from(e).of_start(),
        }
    }

    /// The error of an assignment or a release: there a node that is not there, or of which nothing can be said just
    /// now, has other words (section 5).
    pub(crate) fn assigning(e: InventoryError, unsayable: &'static str) -> Self {
        match e {
            InventoryError::Unknown { what: "node", .. } => Self::bad_request("Node not found"),
            InventoryError::Cloud(_) | InventoryError::Store(_) | InventoryError::Tasks(_) => {
                tracing::warn!(error = &e as &(dyn Error + 'static), "nothing can be said of the nodes");
                Self::bad_request(unsayable)
            }
            _ => e.into(),
        }
    }

    /// Whether whoever asks may not.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.status == StatusCode::FORBIDDEN
    }

    /// The message.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The answer in words.
    pub(crate) fn render(&self, style: Style) -> Response {
        static MEMORY: Memory = Memory::new();
        let (message, status) = (&*self.message, "error");
        let (short, long) = texts(self.status);
        let body = match self.status {
            StatusCode::NOT_FOUND => bytes(&Bare { message, status }, style, &MEMORY),
            code => {
                let envelope = Envelope {
                    message,
                    status,
                    status_code: code.as_u16(),
                    status_long_message: long,
                    status_short_message: short,
                };
                bytes(&envelope, style, &MEMORY)
            }
        };
        // Texts and numbers always go into JSON.
        let body = body.unwrap_or_default();
        let length = HeaderValue::from(body.len());
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, length);
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// 500 or 503: the text stays inside, the log has it.
    fn internal(status: StatusCode, error: &(dyn Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        match status {
            StatusCode::SERVICE_UNAVAILABLE => Self::new(status, "The server cannot do this just now, try again."),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, Fault::Failed.message()),
        }
    }

    /// 500 or 400: the cloud failed, or has no such call. What it said is in the log.
    fn cloud(unsupported: bool, error: &(dyn Error + 'static)) -> Self {
        tracing::warn!(error, "a cloud failed");
        if unsupported { Self::bad_request(CLOUD_CANNOT) } else { Self::no_cloud() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// What the transport answers on its own account, in the dialect's form. It carries no cookie.
pub fn shape_fault(fault: Fault, _: &FaultContext) -> Response {
    ApiError::new(fault.status(), fault.message()).render(Style::Indented)
}

/// The short and the long text of a status.
fn texts(status: StatusCode) -> (&'static str, &'static str) {
    match status {
        StatusCode::BAD_REQUEST => ("Bad Request", "Bad request syntax or unsupported method"),
        StatusCode::FORBIDDEN => ("Forbidden", "Request forbidden -- authorization will not help"),
        StatusCode::REQUEST_TIMEOUT => ("Request Timeout", "Request timed out; try again later."),
        StatusCode::CONFLICT => ("Conflict", "Request conflict."),
        StatusCode::UNPROCESSABLE_ENTITY => ("Unprocessable Entity", "The request contradicts an earlier one"),
        StatusCode::PAYLOAD_TOO_LARGE => ("Request Entity Too Large", "Entity is too large."),
        StatusCode::NOT_IMPLEMENTED => ("Not Implemented", "Server does not support this operation"),
        StatusCode::SERVICE_UNAVAILABLE => {
            ("Service Unavailable", "The server cannot process the request due to a high load")
        }
        _ => ("Internal Server Error", "Server got itself in trouble"),
    }
}

impl From<InventoryError> for ApiError {
    fn from(e: InventoryError) -> Self {
        match e {
            InventoryError::Denied(_) => Self::forbidden(),
            InventoryError::Unknown { what: "image", .. } => Self::bad_request("no useful image id here"),
            InventoryError::Unknown { what: "size", .. } => Self::bad_request("no useful size id here"),
            InventoryError::Unknown { what: "node", .. } | InventoryError::Gone { .. } => {
                Self::bad_request("no useful node id here")
            }
            // The cloud was taken away between two looks at it, or never was there.
            InventoryError::Unknown { .. } | InventoryError::NotFound { .. } => Self::no_cloud(),
            InventoryError::Cloud(e) => Self::cloud(e.kind == CloudErrorKind::Unsupported, &e),
            InventoryError::Driver(e) => Self::cloud(false, &e),
            e @ InventoryError::Failed(_) => Self::cloud(false, &e),
            InventoryError::StillRunning(task) => {
                tracing::warn!(task.id = %task, "the answer goes out before the work is done");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the work is not done yet and goes on: send the same request again for its answer",
                )
            }
            InventoryError::Refused(text) | InventoryError::Conflict(text) | InventoryError::Invalid(text) => {
                Self::bad_request(text)
            }
            InventoryError::Store(e) => e.into(),
            other => Self::internal(StatusCode::INTERNAL_SERVER_ERROR, &other),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(e: StoreError) -> Self {
        let status = match e {
            StoreError::Unavailable(_) | StoreError::NoSpace => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::internal(status, &e)
    }
}

impl From<AccessError> for ApiError {
    fn from(e: AccessError) -> Self {
        match e {
            AccessError::Unauthenticated | AccessError::Denied(_) => Self::forbidden(),
            AccessError::Throttled { retry_after } => Self {
                retry_after: Some(retry_after.max(Duration::from_secs(1)).as_secs()),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "Too many failed logins, try again later.")
            },
            AccessError::Store(e) => e.into(),
            other => Self::internal(StatusCode::INTERNAL_SERVER_ERROR, &other),
        }
    }
}
