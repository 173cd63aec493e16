//! What surrounds every handler: whom the request is meant for, errors in words, the session cookie.

use crate::Orchestrator;
use crate::error::ApiError;
use crate::host::is_foreign_write;
use crate::wire::format::Style;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use portolan_http::{Fault, Peer};
use portolan_model::Secret;

/// Pages ask with this header for an answer on one line.
const REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// What a handler does to the session that the cookie holds; in the extensions of its answer.
#[derive(Clone)]
pub(crate) enum Session {
    /// It holds this one from now on.
    Opened(Secret),
    /// It holds none any more.
    Closed,
}

/// How a request wants its answer laid out (section 2.1).
pub(crate) fn style(headers: &HeaderMap) -> Style {
    let asked = headers.get(REQUESTED_WITH).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"xmlhttprequest"));
    if asked { Style::OneLine } else { Style::Indented }
}

/// Innermost: puts errors into words, which are what is kept of an answer, and takes the body off a `HEAD`.
pub(crate) async fn words(request: Request, next: Next) -> Response {
    let style = style(request.headers());
    let head = request.method() == Method::HEAD;
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = error.render(style);
    }
    if head {
        if let Some(length) = response.body().size_hint().exact() {
            response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(length));
        }
        *response.body_mut() = Body::empty();
    }
    response
}

/// Outermost: looks whom a request is meant for, and gives the answer its cookie.
pub(crate) async fn surround(State(state): State<Orchestrator>, request: Request, next: Next) -> Response {
    let headers = request.headers().clone();
    let address = request.extensions().get::<Peer>().map(|peer| peer.address.ip());
    let refused = refusal(&state, &request).map(|error| error.render(style(&headers)));
    let mut response = match refused {
        Some(response) => response,
        None => next.run(request).await,
    };
    // The transport puts these into words, and they carry no cookie.
    if response.extensions().get::<Fault>().is_some() {
        return response;
    }
    let token = match response.extensions_mut().remove::<Session>() {
        Some(Session::Opened(token)) => Some(token),
        Some(Session::Closed) => None,
        None => state.cookies.tokens(&headers).next(),
    };
    if let Some(cookie) = state.cookies.issue((address, &headers), token.as_ref(), state.portolan.now()) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

fn refusal(state: &Orchestrator, request: &Request) -> Option<ApiError> {
    let (uri, headers) = (request.uri(), request.headers());
    if !state.options.hosts.allows(uri, headers) || is_foreign_write(request.method(), uri, headers) {
        return Some(ApiError::forbidden());
    }
    // No part of a path is empty.
    uri.path().contains("//").then(ApiError::page_not_found)
}
