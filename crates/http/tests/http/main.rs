//! The listener, its limits and the client over real loopback sockets.

#![allow(clippy::unwrap_used)]

mod client;
mod edge;
mod idempotency;
mod limits;
mod stop;
mod support;
mod tls;
