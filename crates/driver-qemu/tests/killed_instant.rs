//! Portolan killed at each point of an instant restore: the guest is there once, goes on, and comes home whole.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;
mod source;

use common::killed::{self, Portolan, appears};
use common::{LONG, Place, open};
use portolan_driver::{Hypervisor, PowerAction, PowerRequest};
use portolan_driver_qemu::QemuHypervisor;
use source::{FileSource, wish};
use std::process::Command;

/// Not a test by itself: what the other starts and kills.
#[tokio::test(flavor = "multi_thread")]
async fn portolan() {
    let Some(root) = killed::root() else { return };
    let hypervisor = QemuHypervisor::new(open(killed::settings(&root)).await);
    let source = FileSource::open(&root.join("backup.raw"));
    let session = hypervisor.begin_instant(wish("alpha", "t1", 1, &[source])).await.unwrap();
    std::fs::write(root.join("runs"), "").unwrap();
    let place = root.clone();
    session.bring_home(&move |_| drop(std::fs::write(place.join("moves"), ""))).await.unwrap();
    std::fs::write(root.join("home"), "").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_it_comes_home() {
    let points = [
        ("guests", "lock"),
        ("guests", "guest.json"),
        ("guests", "backup.sock"),
        ("datastores/default", "d0.qcow2"),
        ("guests", "qemu.pid"),
        ("guests", "qmp2.sock"),
        ("", "runs"),
        ("", "moves"),
        ("", "home"),
    ];
    for (parent, name) in points {
        let place = Place::new();
        let root = place.root();
        let content: Vec<u8> = (0..8 << 20).map(|n: u32| (n / 4096 % 251 + n % 7) as u8).collect();
        std::fs::write(root.join("backup.raw"), &content).unwrap();
        let portolan = Portolan::start(&root);
        appears(&root, parent, name).await;
        drop(portolan);
        let ran = place.processes();

        let host = open(killed::settings(&root)).await;
        let hypervisor = QemuHypervisor::new(host.clone());
        let source = FileSource::open(&root.join("backup.raw"));
        let session = hypervisor.begin_instant(wish("alpha", "t1", 2, &[source])).await.unwrap();
        let home = tokio::time::timeout(LONG, session.bring_home(&|_| {}));
        let vm = home.await.unwrap_or_else(|_| panic!("{name}: it never comes home")).unwrap();
        drop(session);
        assert_eq!(host.list().await.unwrap().len(), 1, "{name}");
        let now = place.processes();
        assert_eq!(now.len(), 1, "{name}: {ran:?} {now:?}");
        if ["runs", "moves", "home"].contains(&name) {
            assert_eq!(now, ran, "{name}: the same process goes on");
        }
        let request =
            PowerRequest { vm: vm.native_id.clone(), incarnation: vm.incarnation.clone(), action: PowerAction::Off };
        hypervisor.power(request).await.unwrap();
        let guest = host.guest(&vm.native_id, &vm.incarnation).await.unwrap();
        let (disk, raw) = (guest.disk_files().remove(0).1, root.join("raw"));
        let done = Command::new("qemu-img").args(["convert", "-O", "raw"]).args([&disk, &raw]).output().unwrap();
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
        assert!(std::fs::read(raw).unwrap() == content, "{name}: whole");
        host.destroy(&vm.native_id, &vm.incarnation).await.unwrap();
        assert_eq!(place.processes(), [0_u32; 0]);
    }
}
