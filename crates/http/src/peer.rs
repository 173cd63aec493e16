//! Who asks, and under which name a request is traced.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use portolan_model::IdSource;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// The header that carries a request's id, both ways.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over from a client, in bytes.
const LONGEST: usize = 64;

/// Where a request comes from; in the extensions of every request that came over a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The client's address.
    pub address: SocketAddr,
    /// The address of this server that it connected to.
    pub local: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// The id of a request: the client's own when it is sane, else a new one. In the extensions of every request, in the
/// log span, and in the `x-request-id` of the answer.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The id as text: 1 to 64 characters out of letters, digits, `-`, `_`, `.`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes the client's id when there is exactly one and it is harmless in logs and headers, else draws a new one.
    pub(crate) fn of(headers: &HeaderMap, ids: &dyn IdSource) -> Self {
        let mut given = headers.get_all(REQUEST_ID).iter();
        match (given.next().and_then(|v| v.to_str().ok()), given.next()) {
            (Some(id), None) if is_sane(id) => Self(id.into()),
            _ => Self(ids.uuid().to_string().into()),
        }
    }

    pub(crate) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({})", self.0)
    }
}

fn is_sane(id: &str) -> bool {
    (1..=LONGEST).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_ids_are_taken_over() {
        assert!(is_sane("a1-B_2.c"));
        let long = "x".repeat(65);
        for bad in ["", "a b", "a\"b", "naïve", "a\tb", "{}", long.as_str()] {
            assert!(!is_sane(bad), "{bad:?}");
        }
    }
}
