//! The one error type of this crate.

use axum::http::StatusCode;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What can go wrong while listening, with certificates, and in the client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// A listener could not take one of its addresses.
    #[error("listener {listener} cannot listen on {address}: {reason}; {advice}")]
    Bind {
        /// The listener's name in the configuration.
        listener: String,
        /// The address that was refused.
        address: SocketAddr,
        /// What is the matter, in a few words.
        reason: &'static str,
        /// What the operator can do about it.
        advice: String,
        /// The system's own error.
        #[source]
        source: io::Error,
    },
    /// A listener has no address.
    #[error("listener {listener} has no address; give it at least one or turn it off")]
    NoAddress {
        /// The listener's name in the configuration.
        listener: String,
    },
    /// A limit is out of its range.
    #[error("listener {listener}: {what}")]
    Limits {
        /// The listener's name in the configuration.
        listener: String,
        /// Which limit, and its range.
        what: &'static str,
    },
    /// A certificate or key file could not be read.
    #[error("cannot read the {what} {path}", path = .path.display())]
    ReadFile {
        /// "certificate" or "private key".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's own error.
        #[source]
        source: io::Error,
    },
    /// A certificate or key file could not be written.
    #[error("cannot write the {what} {path}", path = .path.display())]
    WriteFile {
        /// "certificate", "private key" or "certificate directory".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's own error.
        #[source]
        source: io::Error,
    },
    /// A file holds nothing usable.
    #[error("the {what} {path} is not usable: {reason}", path = .path.display())]
    BadPem {
        /// "certificate" or "private key".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The private key belongs to another certificate.
    #[error("the private key {key} does not belong to the certificate {cert}", key = .key.display(), cert = .cert.display())]
    KeyMismatch {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// TLS could not be set up with this certificate and key.
    #[error("tls cannot use the certificate {cert}", cert = .cert.display())]
    Tls {
        /// The certificate file, or what stands for it.
        cert: PathBuf,
        /// The TLS library's own error.
        #[source]
        source: rustls::Error,
    },
    /// No certificate could be made.
    #[error("cannot make a self-signed certificate")]
    Generate(#[source] rcgen::Error),
    /// A fingerprint is not 32 bytes in hexadecimal.
    #[error("{0:?} is not a sha-256 fingerprint: 64 hexadecimal digits, with or without colons")]
    Fingerprint(String),
    /// A configured origin is not one.
    #[error("{origin:?} cannot be an allowed origin: {reason}")]
    Origin {
        /// As configured.
        origin: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The client was given an address that it cannot use.
    #[error("cannot use the address {url:?}: {reason}")]
    BaseUrl {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The server could not be reached.
    #[error("cannot connect to {target}")]
    Connect {
        /// Host and port.
        target: String,
        /// The system's own error.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed, for instance because the certificate is not the trusted one.
    #[error("no tls connection to {target}")]
    Handshake {
        /// Host and port.
        target: String,
        /// The TLS library's own error.
        #[source]
        source: io::Error,
    },
    /// The exchange broke off.
    #[error("the exchange with {target} broke off")]
    Exchange {
        /// Host and port.
        target: String,
        /// The protocol's own error.
        #[source]
        source: hyper::Error,
    },
    /// The client's patience ended.
    #[error("{target} did not {what} in time")]
    TimedOut {
        /// Host and port.
        target: String,
        /// What was waited for.
        what: &'static str,
    },
    /// A request could not be put into words, for instance because of a control character in its path.
    #[error("the request cannot be written")]
    Request(#[source] axum::http::Error),
    /// The answer is longer than the client accepts.
    #[error("the answer is longer than {limit} bytes")]
    TooLong {
        /// The client's limit in bytes.
        limit: usize,
    },
    /// The server answered with an error.
    #[error("the server answered {status}: {body}")]
    Status {
        /// The status.
        status: StatusCode,
        /// The beginning of the body.
        body: String,
    },
    /// A body could not be written as, or read from, JSON.
    #[error("the body is not the expected json")]
    Json(#[source] serde_json::Error),
    /// The receiver of a download failed.
    #[error("cannot write the download")]
    Sink(#[source] io::Error),
}
