//! A host in a directory of its own, and guests on it that run only in the eyes of the driver: for what cannot be
//! brought about from outside.

use crate::guest::Guest;
use crate::host::QemuHost;
use crate::settings::QemuSettings;
use crate::spec::{Desired, DiskSpec, GuestSpec, ImageFormat, Phase};
use portolan_testkit::clock::{FakeClock, SeededIds};
use std::process::Command;
use std::sync::Arc;

pub(crate) struct Fixture {
    pub(crate) host: Arc<QemuHost>,
    _dir: tempfile::TempDir,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = QemuSettings::new(dir.path().to_owned());
        let host = QemuHost::open(settings, Arc::new(FakeClock::default()), Arc::new(SeededIds::new(1)));
        Self { host: host.await.expect("a host"), _dir: dir }
    }

    /// A guest that is off, with an empty disk of a mebibyte.
    pub(crate) async fn guest(&self, change: impl FnOnce(&mut GuestSpec)) -> Arc<Guest> {
        let uuid = self.host.shared.ids.uuid();
        let mut spec = self.host.bare(self.host.free_id(), "alpha", uuid);
        (spec.cpus, spec.memory_bytes, spec.phase, spec.desired) = (1, 16 << 20, Phase::Ready, Desired::Stopped);
        spec.disks.push(DiskSpec {
            id: "d0".into(),
            name: "root".into(),
            datastore: "default".into(),
            file: "d0.qcow2".into(),
            size_bytes: 1 << 20,
            format: ImageFormat::Qcow2,
            base: Vec::new(),
            copy_of: Vec::new(),
            moved: 0,
        });
        change(&mut spec);
        let layout = &self.host.shared.layout;
        let store = layout.disks("default", &spec.id);
        std::fs::create_dir_all(&store).expect("a directory");
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2"]).arg(store.join("d0.qcow2")).arg("1M");
        assert!(create.status().expect("qemu-img").success());
        layout.make_guest(&spec).expect("a guest");
        self.host.guest(&spec.id, &spec.incarnation).await.expect("a guest")
    }
}
