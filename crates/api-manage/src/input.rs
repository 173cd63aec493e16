//! What clients send, read strictly: unknown fields and parameters are refused by name.

use crate::error::ApiError;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use portolan_model::query::Page;
use portolan_model::{Name, Timestamp};
use serde::de::DeserializeOwned;

/// A page without a limit has this many items.
const USUAL_PAGE: u64 = 100;
/// The largest page.
const LARGEST_PAGE: u64 = 1000;
/// The last offset that is looked for.
const LAST_OFFSET: u64 = 1 << 40;

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let declared = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(str::to_owned);
        // Where the body is too long or stalled, the transport puts its own words in place of these.
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|_| ApiError::invalid("the body could not be read to its end"))?;
        let essence = declared.as_deref().map(|text| text.split(';').next().unwrap_or_default().trim());
        if essence.is_some_and(|text| !text.eq_ignore_ascii_case("application/json")) {
            let text = "the body must be application/json";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", text));
        }
        // An empty body stands for an empty object: some operations need nothing.
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text).map(Self).map_err(|e| ApiError::invalid(format!("the body: {}", words(&e))))
    }
}

/// The query parameters.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(query) => Ok(Self(query.0)),
            Err(e) => Err(ApiError::invalid(format!("the query: {}", inner(&e)))),
        }
    }
}

/// The one part of the path that names something: at most 255 characters, without control characters.
pub(crate) struct Named(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| unknown())?;
        Ok(Self(fit(text)?))
    }
}

/// The same where one thing is named within another.
pub(crate) struct NamedIn(pub(crate) String, pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for NamedIn {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let both = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((outer, inner)) = both.map_err(|_| unknown())?;
        Ok(Self(fit(outer)?, fit(inner)?))
    }
}

fn fit(text: String) -> Result<String, ApiError> {
    match text.chars().count() <= 255 && !text.chars().any(char::is_control) {
        true => Ok(text),
        false => Err(unknown()),
    }
}

fn unknown() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such resource")
}

/// A name for something new.
pub(crate) fn name(text: &str) -> Result<Name, ApiError> {
    Name::new(text).map_err(|e| ApiError::invalid(format!("name: {e}")))
}

/// The part of a list that is asked for.
pub(crate) fn page(limit: Option<u64>, offset: Option<u64>) -> Result<Page, ApiError> {
    let limit = limit.unwrap_or(USUAL_PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(ApiError::invalid(format!("limit must be 1 to {LARGEST_PAGE}")));
    }
    let offset = offset.unwrap_or(0);
    if offset > LAST_OFFSET {
        return Err(ApiError::invalid("offset is too large"));
    }
    Ok(Page { offset, limit: Some(limit) })
}

/// An instant in RFC 3339.
pub(crate) fn instant(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    // A plus sign that a client did not encode has become a blank.
    match text.trim().replace(' ', "+").parse() {
        Ok(at) => Ok(Some(at)),
        Err(_) => Err(ApiError::invalid(format!("{name} must be a time such as 2026-01-31T12:00:00Z"))),
    }
}

/// The items of a list with commas; empty ones are not there.
pub(crate) fn items(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// What serde says, bounded: it repeats what it was given.
fn words(e: &dyn std::error::Error) -> String {
    e.to_string().chars().filter(|c| !c.is_control()).take(300).collect()
}

fn inner(e: &dyn std::error::Error) -> String {
    let mut deepest = e;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    words(deepest)
}
