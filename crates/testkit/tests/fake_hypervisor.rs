//! The fake hypervisor conforms, with and without change tracking, and follows its script.

use async_trait::async_trait;
use portolan_block::BlockError;
use portolan_driver::{Capabilities, DriverError, Hypervisor, NativeDatastore};
use portolan_testkit::driver::{self, HypervisorFixture, MachineFixture, export_request, import_request, pattern};
use portolan_testkit::fake_hypervisor::{Call, FakeHypervisor};
use std::sync::Arc;

struct Fixture(FakeHypervisor);

#[async_trait]
impl HypervisorFixture for Fixture {
    fn hypervisor(&self) -> Arc<dyn Hypervisor> {
        self.0.port()
    }

    async fn add_vm(&self, name: &str, disks: &[(&str, Vec<u8>)]) {
        // One name always has one native id, so that only the incarnation tells machines apart.
        self.0.add_vm_as(&format!("id-{name}"), name, disks);
    }

    async fn remove_vm(&self, name: &str) {
        assert!(self.0.remove_vm(&format!("id-{name}")));
    }

    async fn write_disk(&self, vm: &str, disk: &str, offset: u64, data: &[u8]) {
        self.0.write_disk(&format!("id-{vm}"), disk, offset, data);
    }
}

#[tokio::test]
async fn conforms() {
    driver::all(|| Fixture(FakeHypervisor::new())).await;
}

#[tokio::test]
async fn conforms_with_change_tracking() {
    driver::all(|| {
        let fake = FakeHypervisor::new();
        fake.set_capabilities(Capabilities {
            changed_blocks: true,
            live_export: true,
            import: true,
            power: false,
            ..Capabilities::default()
        });
        Fixture(fake)
    })
    .await;
}

#[async_trait]
impl MachineFixture for Fixture {
    async fn disk(&self, vm: &str, disk: &str) -> Vec<u8> {
        let vm = self.0.vm_named(vm).expect("a machine");
        self.0.disk(&vm.native_id, disk).expect("a disk")
    }

    async fn add_datastore(&self, name: &str) {
        self.0.update(|inventory| {
            let (native_id, name) = (name.to_owned(), name.to_owned());
            inventory.datastores.push(NativeDatastore { native_id, name, ..inventory.datastores[0].clone() });
        });
    }
}

#[tokio::test]
async fn machines_conform() {
    driver::machines_all(|| Fixture(FakeHypervisor::new())).await;
}

#[tokio::test]
async fn machines_conform_without_any_of_it() {
    driver::machines_all(|| {
        let fake = FakeHypervisor::new();
        fake.set_capabilities(Capabilities::default());
        Fixture(fake)
    })
    .await;
}

#[tokio::test]
async fn conforms_without_imports() {
    driver::all(|| {
        let fake = FakeHypervisor::new();
        fake.set_capabilities(Capabilities::default());
        Fixture(fake)
    })
    .await;
}

#[tokio::test]
async fn fails_as_scripted_and_counts() {
    let fake = FakeHypervisor::new();
    let vm = fake.add_vm("alpha", &[("root", pattern(1, 8192))]);
    fake.fail_after(Call::Inventory, 1, 2, || DriverError::Unreachable { reason: "test".into(), retry_after: None });
    let outcomes = [fake.inventory().await, fake.inventory().await, fake.inventory().await, fake.inventory().await];
    assert_eq!(outcomes.map(|o| o.is_ok()), [true, false, false, true]);
    assert_eq!(fake.calls(Call::Inventory), 4);

    let session = fake.open_export(export_request(&vm, "t1", 1)).await.expect("an export");
    let source = &session.exported().disks[0].source;
    fake.fail(Call::Read, 1, || DriverError::Block(BlockError::NoSpace));
    assert!(matches!(source.read_at(0, 512).await, Err(BlockError::NoSpace)));
    source.read_many(&[0..512, 4096..8192]).await.expect("bytes");
    assert_eq!((fake.reads().len(), fake.bytes_read()), (2, 4608));
    assert_eq!(fake.open_exports(), ["t1"]);

    let import = fake.begin_import(import_request("new", "t2", 1, &[("root", 512)])).await.expect("an import");
    fake.fail(Call::Committed, 1, || DriverError::Unreachable { reason: "lost".into(), retry_after: None });
    assert!(import.commit().await.is_err(), "the answer is lost");
    assert!(fake.vm_named("new").is_some(), "but the machine is there");
    import.commit().await.expect("commit again");
    assert!(fake.pending_imports().is_empty());
}

#[tokio::test]
async fn holds_calls_until_let_go() {
    let fake = FakeHypervisor::new();
    let hold = fake.hold(Call::Inventory);
    let waiting = tokio::spawn({
        let fake = fake.clone();
        async move { fake.inventory().await.is_ok() }
    });
    hold.arrived(1).await;
    assert!(!waiting.is_finished());
    hold.release();
    assert!(waiting.await.expect("no panic"));
    fake.inventory().await.expect("no longer held");
}

#[tokio::test]
async fn may_let_go_of_moments() {
    let fake = FakeHypervisor::new();
    let vm = fake.add_vm("alpha", &[("root", pattern(1, 8192))]);
    let first = fake.open_export(export_request(&vm, "t1", 1)).await.expect("an export");
    fake.write_disk(&vm.native_id, "root", 0, &[9]);
    let held = fake.open_export(export_request(&vm, "t1", 1)).await.expect("an export");
    assert_eq!(first.exported().moment, held.exported().moment);
    fake.set_holds_moments(false);
    let lost = fake.open_export(export_request(&vm, "t1", 2)).await.expect("an export");
    assert_ne!(first.exported().moment, lost.exported().moment);
    assert_eq!(lost.exported().disks[0].source.read_at(0, 1).await.expect("a byte")[0], 9);
    fake.write_disk(&vm.native_id, "root", 0, &pattern(1, 1));
    let back = fake.open_export(export_request(&vm, "t1", 3)).await.expect("an export");
    assert_eq!(first.exported().moment, back.exported().moment, "equal disks are an equal moment");
}
