//! What one client may take from a listener.

use crate::error::HttpError;
use std::time::Duration;

/// Bounds on connections. Times and sizes of requests belong to [`Edge`](crate::Edge), since dialects differ there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections over all addresses of the listener; more wait in the system's backlog. Default 1024.
    pub connections: usize,
    /// How long a client may stay silent after connecting, and after its TLS handshake. Default 10 s.
    pub first_byte: Duration,
    /// How long a TLS handshake may take. Default 10 s.
    pub tls_handshake: Duration,
    /// How long a request's header may take to arrive. An idle kept-alive connection is closed after the same time.
    /// Default 30 s.
    pub header_read: Duration,
    /// Bytes of a request line and header together, at least 8192. Default 32 KiB. More is answered with 431.
    pub header_bytes: usize,
    /// Header fields of a request, at least 1. Default 100. More are answered with 431.
    pub header_fields: usize,
    /// How long a client may refuse to take bytes of an answer. Default 30 s.
    pub write_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            first_byte: Duration::from_secs(10),
            tls_handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(30),
            header_bytes: 32 * 1024,
            header_fields: 100,
            write_stall: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// Smallest value of [`Limits::header_bytes`]: below it the protocol library refuses to work.
    pub const MIN_HEADER_BYTES: usize = 8192;

    /// Refuses values that would stop a listener from serving anybody.
    pub(crate) fn check(&self, listener: &str) -> Result<(), HttpError> {
        let what = if self.connections == 0 || self.connections > tokio::sync::Semaphore::MAX_PERMITS {
            "connections must be at least 1"
        } else if self.header_bytes < Self::MIN_HEADER_BYTES {
            "header_bytes must be at least 8192"
        } else if self.header_fields == 0 {
            "header_fields must be at least 1"
        } else if [self.first_byte, self.tls_handshake, self.header_read, self.write_stall].contains(&Duration::ZERO) {
            "every time limit must be longer than zero"
        } else {
            return Ok(());
        };
        Err(HttpError::Limits { listener: listener.to_owned(), what })
    }
}
