//! Power, snapshots and machines that run from a backup conform, with real QEMU processes whose guests boot nothing.

mod common;

use async_trait::async_trait;
use common::{Place, open, own, wish};
use portolan_driver::{Hypervisor, PowerAction, PowerRequest};
use portolan_driver_qemu::{QemuHost, QemuHypervisor, QemuSettings};
use portolan_testkit::driver::{HypervisorFixture, MachineFixture, find, machines_all};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

struct Fixture {
    place: Place,
    host: Arc<QemuHost>,
}

impl Fixture {
    fn new() -> Self {
        let place = Place::with_blank();
        let mut settings: QemuSettings = place.settings();
        // A disk that a test may write to behind QEMU's back.
        settings.disk = portolan_driver_qemu::DiskMode::Copy;
        let opening = open(settings);
        let host = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(opening));
        Self { place, host }
    }

    async fn file(&self, vm: &str) -> Vec<(String, PathBuf)> {
        let found = find(&self.hypervisor(), vm).await.expect("a machine");
        let guest = self.host.guest(&found.native_id, &found.incarnation).await.expect("a guest");
        let names = guest.spec().disks.into_iter().map(|disk| disk.name);
        names.zip(guest.disk_files()).map(|(name, (_, file))| (name, file)).collect()
    }
}

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output().expect("a program");
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[async_trait]
impl HypervisorFixture for Fixture {
    fn hypervisor(&self) -> Arc<dyn Hypervisor> {
        Arc::new(QemuHypervisor::new(self.host.clone()))
    }

    async fn add_vm(&self, name: &str, disks: &[(&str, Vec<u8>)]) {
        let image = self.place.images().join(format!("{name}.raw"));
        std::fs::write(image, &disks[0].1).expect("an image");
        let guest = own(self.host.create(wish(name, name)).await.expect("a guest"));
        let (vm, incarnation) = (guest.id().to_owned(), guest.spec().incarnation);
        for action in [PowerAction::Start, PowerAction::Off] {
            let request = PowerRequest { vm: vm.clone(), incarnation: incarnation.clone(), action };
            self.hypervisor().power(request).await.expect("off");
        }
    }

    async fn remove_vm(&self, name: &str) {
        let found = find(&self.hypervisor(), name).await.expect("a machine");
        self.host.destroy(&found.native_id, &found.incarnation).await.expect("destroyed");
    }

    async fn write_disk(&self, vm: &str, disk: &str, offset: u64, data: &[u8]) {
        let file = self.file(vm).await.into_iter().find(|(name, _)| name == disk).expect("a disk").1;
        let patch = self.place.root().join("patch");
        std::fs::write(&patch, data).expect("a file");
        let write = format!("write -q -s {} {offset} {}", patch.display(), data.len());
        run("qemu-io", &["-f", "qcow2", "-c", &write, file.to_str().expect("text")]);
    }
}

#[async_trait]
impl MachineFixture for Fixture {
    async fn disk(&self, vm: &str, disk: &str) -> Vec<u8> {
        let file = self.file(vm).await.into_iter().find(|(name, _)| name == disk).expect("a disk").1;
        let raw = self.place.root().join("raw");
        let paths = [&file, &raw].map(|path| path.to_str().expect("text"));
        run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", paths[0], paths[1]]);
        std::fs::read(raw).expect("content")
    }

    async fn add_datastore(&self, name: &str) {
        std::fs::create_dir(self.place.root().join("datastores").join(name)).expect("a directory");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_conform() {
    machines_all(Fixture::new).await;
}
