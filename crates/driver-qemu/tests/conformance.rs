//! The driver conforms, with real QEMU processes whose guests boot nothing.

mod common;

use async_trait::async_trait;
use common::Place;
use portolan_driver::CloudDriver;
use portolan_driver_qemu::QemuCloud;
use portolan_testkit::cloud::{self, CloudFixture, Repeated};
use std::sync::Arc;
use std::time::Duration;

/// Two accounts are two directories. Each driver is a host of its own, as in another process: the first one owns the
/// guests that it makes, and later ones see them as owned elsewhere.
struct Fixture {
    first: Place,
    second: Place,
}

impl Fixture {
    fn new() -> Self {
        Self { first: Place::with_blank(), second: Place::with_blank() }
    }
}

fn driver(place: &Place) -> Arc<dyn CloudDriver> {
    let open = place.open();
    let host = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(open));
    Arc::new(QemuCloud::new(host))
}

#[async_trait]
impl CloudFixture for Fixture {
    fn driver(&self) -> Arc<dyn CloudDriver> {
        driver(&self.first)
    }

    fn other_account(&self) -> Arc<dyn CloudDriver> {
        driver(&self.second)
    }

    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    cloud::all(Fixture::new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_behind_repetition() {
    cloud::all(|| Repeated(Fixture::new())).await;
}
