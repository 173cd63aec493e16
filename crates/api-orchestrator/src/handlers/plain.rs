//! Answers that need no use case (section 6).

use crate::error::ApiError;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

/// A text as the original sent its own.
pub(crate) type Page = ([(header::HeaderName, HeaderValue); 1], &'static str);

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// What a view without GET says to it.
pub(crate) async fn dev() -> Page {
    ([(header::CONTENT_TYPE, HTML)], "Dev")
}

/// The root of the server.
pub(crate) async fn hello() -> Page {
    ([(header::CONTENT_TYPE, HTML)], "Hello World!")
}

/// How to log in.
pub(crate) async fn login_page() -> Page {
    const TEXT: &str = "POST {\"username\": \"...\", \"password\": \"...\"} as JSON to /api/v1/auth to log in.\n";
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], TEXT)
}

/// A method that the view does not know.
pub(crate) async fn not_implemented() -> ApiError {
    ApiError::not_implemented()
}

/// A path that nobody knows.
pub(crate) async fn page_not_found() -> ApiError {
    ApiError::page_not_found()
}

/// The same path with a slash behind it.
pub(crate) async fn with_slash(uri: Uri) -> Response {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = StatusCode::MOVED_PERMANENTLY.into_response();
    if let Ok(to) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

/// Where the documentation is.
pub(crate) async fn docs() -> Page {
    const TEXT: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Orchestrator API, as \
                        served by Portolan</title></head>\n<body><p>The API is described by its \
                        <a href=\"/static/docs/openapi.json\">OpenAPI document</a>.</p></body></html>\n";
    ([(header::CONTENT_TYPE, HTML)], TEXT)
}

/// The OpenAPI document.
pub(crate) async fn openapi() -> Response {
    match crate::document().to_pretty_json() {
        Ok(text) => ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the document cannot be serialised");
            portolan_http::Fault::Failed.into_response()
        }
    }
}
