//! JSON answers without the growing buffer.

use crate::fault::Fault;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Remembers how long the answers of a route are, so that the next buffer has the right size from the start.
///
/// Keep one in a `static` per route that lists things: `static HINT: SizeHint = SizeHint::new();`.
#[derive(Debug, Default)]
pub struct SizeHint(AtomicUsize);

impl SizeHint {
    /// The largest buffer that is reserved in advance, in bytes.
    const MOST: usize = 4 << 20;

    /// Nothing remembered yet.
    pub const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    fn capacity(&self) -> usize {
        let last = self.0.load(Ordering::Relaxed);
        (last + last / 16 + 64).min(Self::MOST)
    }

    fn learn(&self, length: usize) {
        self.0.store(length, Ordering::Relaxed);
    }
}

/// A JSON answer with its exact `Content-Length`: `JsonBody::new(&list).sized(&HINT)`.
///
/// Serialises on the spot, so the value need not be owned by the answer. A value that cannot be serialised becomes
/// [`Fault::Failed`], in the dialect's shape.
#[derive(Debug)]
#[must_use]
pub struct JsonBody<'a, T: ?Sized> {
    value: &'a T,
    status: StatusCode,
    content_type: HeaderValue,
    hint: Option<&'a SizeHint>,
}

impl<'a, T: Serialize + ?Sized> JsonBody<'a, T> {
    /// 200, `application/json`.
    pub const fn new(value: &'a T) -> Self {
        let content_type = HeaderValue::from_static("application/json");
        Self { value, status: StatusCode::OK, content_type, hint: None }
    }

    /// With another status.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// With another media type, for instance a vendor's.
    pub fn content_type(mut self, content_type: HeaderValue) -> Self {
        self.content_type = content_type;
        self
    }

    /// With the route's memory of sizes.
    pub fn sized(mut self, hint: &'a SizeHint) -> Self {
        self.hint = Some(hint);
        self
    }

    /// The bytes alone, for a cache.
    ///
    /// # Errors
    /// The value cannot be put into JSON, for instance a map whose keys are no text.
    pub fn bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = Vec::with_capacity(self.hint.map_or(256, SizeHint::capacity));
        serde_json::to_writer(&mut bytes, self.value)?;
        if let Some(hint) = self.hint {
            hint.learn(bytes.len());
        }
        Ok(bytes)
    }
}

impl<T: Serialize + ?Sized> IntoResponse for JsonBody<'_, T> {
    fn into_response(self) -> Response {
        let bytes = match self.bytes() {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "an answer cannot be serialised");
                return Fault::Failed.into_response();
            }
        };
        let length = HeaderValue::from(bytes.len());
        let mut response = Response::new(Body::from(bytes));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, self.content_type);
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_second_answer_fits_its_buffer_at_once() {
        static HINT: SizeHint = SizeHint::new();
        let list: Vec<String> = (0..1000).map(|n| format!("vm-{n}")).collect();
        let first = JsonBody::new(&list).sized(&HINT).bytes().unwrap();
        let reserved = HINT.capacity();
        assert!(reserved >= first.len());
        let second = JsonBody::new(&list).sized(&HINT).bytes().unwrap();
        assert_eq!(second.capacity(), reserved);
        let response = JsonBody::new(&list).status(StatusCode::CREATED).into_response();
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(response.headers()[header::CONTENT_LENGTH], second.len().to_string());
    }

    #[test]
    fn what_cannot_be_serialised_is_a_fault() {
        let bad = BTreeMap::from([(vec![1], 2)]);
        let response = JsonBody::new(&bad).into_response();
        assert_eq!(response.extensions().get::<Fault>(), Some(&Fault::Failed));
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn no_list_reserves_without_bound() {
        let hint = SizeHint::new();
        hint.learn(usize::MAX / 2);
        assert_eq!(hint.capacity(), SizeHint::MOST);
    }
}
