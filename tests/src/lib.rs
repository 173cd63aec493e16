//! What end-to-end tests and measurements stand on: an installation of Portolan in a directory of its own, its real
//! server as a child process, and its vPlus API as a client sees it.
//!
//! Everything here panics with what went wrong: it is for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod images;
mod server;
mod site;

pub use api::{Api, Chain, PASSWORD, assert_error};
pub use images::{Disk, qemu_img, same_bytes};
pub use server::Server;
pub use site::{Said, Site, binary};

use std::time::{Duration, Instant};

/// How long anything may take before a test gives it up. Far more than it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// Asks `probe` until it has an answer, for at most [`PATIENCE`].
///
/// # Panics
/// When there is none by then; the message says what was waited for.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        // A process of its own says nothing when it gets there: it can only be asked again.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How many rounds of a test that can run for hours; `PORTOLAN_SOAK` sets it.
pub fn rounds(usual: u64) -> u64 {
    std::env::var("PORTOLAN_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}
