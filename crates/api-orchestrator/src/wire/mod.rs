//! The dialect's objects on the wire. Fields are declared in the order of their names: so they are written.

pub(crate) mod assignment;
pub(crate) mod cloud;
pub(crate) mod format;
pub(crate) mod rendered;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use format::{Memory, Style, bytes};
use portolan_http::Fault;
use serde::Serialize;
use utoipa::ToSchema;

/// The word of every success.
pub(crate) const OK: &str = "ok";

/// The answer of a success.
pub(crate) fn answer<T: Serialize + ?Sized>(value: &T, style: Style, memory: &Memory) -> Response {
    written(bytes(value, style, memory).map(bytes::Bytes::from))
}

/// The answer of a success that has been written.
pub(crate) fn written(text: Result<bytes::Bytes, serde_json::Error>) -> Response {
    match text {
        Ok(bytes) => {
            let length = HeaderValue::from(bytes.len());
            let mut response = Response::new(Body::from(bytes));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(header::CONTENT_LENGTH, length);
            response
        }
        Err(error) => {
            tracing::error!(%error, "an answer cannot be serialised");
            Fault::Failed.into_response()
        }
    }
}

/// A success and nothing else.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Done {
    /// Always `ok`.
    status: &'static str,
}

impl Done {
    pub(crate) const OK: Self = Self { status: OK };
}

/// A login.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LoggedIn<'a> {
    /// Always `ok`.
    status: &'static str,
    /// Always 200; no other success says it.
    status_code: u16,
    /// The token.
    token: &'a str,
}

impl<'a> LoggedIn<'a> {
    pub(crate) fn new(token: &'a str) -> Self {
        Self { status: OK, status_code: 200, token }
    }
}

/// The answer of the protected probe.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Probe {
    /// Always `yes`.
    authenticated: &'static str,
    /// Always `ok`.
    status: &'static str,
    /// Always `passed`.
    test: &'static str,
}

impl Probe {
    pub(crate) const PASSED: Self = Self { authenticated: "yes", status: OK, test: "passed" };
}

/// A node was deleted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Deleted {
    /// `Node 3 deleted`.
    result: String,
    /// Always `ok`.
    status: &'static str,
}

impl Deleted {
    pub(crate) fn new(node: &str) -> Self {
        Self { result: format!("Node {node} deleted"), status: OK }
    }
}
