//! The conformance suite of hypervisors, on guests that do not run.

mod common;

use async_trait::async_trait;
use common::{Place, machines};
use portolan_driver::Hypervisor;
use portolan_driver_qemu::{QemuHost, QemuHypervisor};
use portolan_testkit::driver::{self, HypervisorFixture};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// One host that several drivers use: a guest has one owner. See `exports.rs` for another Portolan that comes after.
struct Fixture {
    place: Place,
    host: OnceCell<Arc<QemuHost>>,
}

impl Fixture {
    fn new() -> Self {
        Self { place: Place::new(), host: OnceCell::new() }
    }

    async fn host(&self) -> &Arc<QemuHost> {
        self.host.get_or_init(|| self.place.open()).await
    }
}

#[async_trait]
impl HypervisorFixture for Fixture {
    fn hypervisor(&self) -> Arc<dyn Hypervisor> {
        let host = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.host()));
        Arc::new(QemuHypervisor::new(host.clone()))
    }

    async fn add_vm(&self, name: &str, disks: &[(&str, Vec<u8>)]) {
        self.host().await;
        machines::make(&self.place, name, disks);
    }

    async fn remove_vm(&self, name: &str) {
        let host = self.host().await;
        let all = host.list().await.expect("guests");
        let spec = all.iter().filter_map(|seen| seen.spec()).find(|spec| spec.name == name).expect("the guest");
        host.destroy(&spec.id, &spec.incarnation).await.expect("destroyed");
    }

    async fn write_disk(&self, vm: &str, disk: &str, offset: u64, data: &[u8]) {
        machines::write(&self.place, vm, disk, offset, data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    driver::all(Fixture::new).await;
}
