//! Listeners, TLS, limits and graceful stop: everything between a socket and a dialect's router.
//!
//! The order of use: build a router, [`Edge::wrap`] it (request ids, log span, faults in the dialect's own shape,
//! time and size limits, metrics, CORS; where requests may be repeated, [`Idempotency::wrap`] it first), [`bind`]
//! every listener before anything else starts, then [`BoundListener::serve`]. The [`client`] is what the command line and end-to-end tests speak with.
//!
//! HTTP/1.1 only, on purpose: no client of the dialects needs HTTP/2, and every hole that a silent client could sit
//! in is closed by one set of timers.

pub mod auth;
mod body;
pub mod client;
mod connection;
mod cors;
mod edge;
mod error;
mod fault;
pub mod idempotency;
mod io;
mod json;
mod limits;
mod listener;
mod metrics;
mod peer;
pub mod tls;

pub use cors::{Cors, OriginVerdict};
pub use edge::Edge;
pub use error::HttpError;
pub use fault::{Fault, FaultContext, Faults, PlainFaults};
pub use idempotency::Idempotency;
pub use json::{JsonBody, SizeHint};
pub use limits::Limits;
pub use listener::{BoundListener, Drained, ListenerConfig, bind};
pub use metrics::{HttpMetrics, method_label};
pub use peer::{Peer, RequestId};
pub use tls::{CertificateInfo, Fingerprint, TlsIdentityHandle, Validity};
