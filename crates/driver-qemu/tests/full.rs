//! A datastore without room, as the source and as the target. Needs the right to mount a file system.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use bytes::Bytes;
use common::exports::{clean, export, request};
use common::{Place, comes_to, machines};
use portolan_block::BlockError;
use portolan_driver::{AbandonedMove, DriverError, Hypervisor, MoveRequest};
use portolan_driver_qemu::{GuestState, QemuHypervisor};
use portolan_testkit::driver::{import_request, pattern, read_all};
use std::path::PathBuf;

const MIB: usize = 1 << 20;

/// A place whose datastore has room for so many MiB.
struct Small {
    store: PathBuf,
    place: Place,
}

impl Small {
    fn new(mib: usize) -> Self {
        Self::named("default", mib)
    }

    fn named(name: &str, mib: usize) -> Self {
        let place = Place::new();
        let store = place.root().join("datastores").join(name);
        std::fs::create_dir_all(&store).unwrap();
        let size = format!("size={mib}m,mode=0700");
        machines::run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", machines::text(&store)]);
        Self { store, place }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Also while programs that the place ends only now have files open.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.store).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_without_room_fails_and_the_guest_goes_on() {
    let small = Small::new(20);
    let place = &small.place;
    let host = place.open().await;
    let spec = machines::make(place, "alpha", &[("root", pattern(1, 6 * MIB))]);
    let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    let session = export(&host, request(&guest, "t1", 1)).await;
    let filler = small.store.join("filler");
    let room = rustix::fs::statvfs(&small.store).unwrap();
    let rest = usize::try_from(room.f_bavail * room.f_frsize).unwrap() - MIB;
    std::fs::write(&filler, vec![1; rest]).unwrap();
    let line = "qemu-io -d /machine/peripheral/disk-d0/virtio-backend \"write -P 9 0 4M\"";
    let arguments = serde_json::json!({ "command-line": line });
    let said = guest.qmp().unwrap().execute("human-monitor-command", Some(arguments)).await.unwrap();
    assert!(!said.as_str().unwrap().contains("rror"), "the guest may write: {said}");
    let read = read_all(&session.exported().disks[0].source).await;
    assert!(matches!(read, Err(BlockError::NoSpace)), "{read:?}");
    let released = session.release(true).await;
    assert!(matches!(&released, Err(DriverError::Conflict(why)) if why.contains("no space")), "{released:?}");
    std::fs::remove_file(filler).unwrap();
    clean(place, &guest, &[]).await;
    let session = export(&host, request(&guest, "t2", 1)).await;
    let read = read_all(&session.exported().disks[0].source).await.unwrap();
    assert!(read[..4 * MIB] == vec![9; 4 * MIB] && read[4 * MIB..] == pattern(1, 6 * MIB)[4 * MIB..]);
    session.release(false).await.unwrap();
    clean(place, &guest, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_without_room_says_so_and_leaves_nothing() {
    let small = Small::new(4);
    let host = small.place.open().await;
    let hypervisor = QemuHypervisor::new(host.clone());
    let session = hypervisor.begin_import(import_request("alpha", "t1", 1, &[("root", 16 << 20)])).await.unwrap();
    let sink = session.disk("root").await.unwrap();
    let mut failed = None;
    for n in 0..8 {
        let written = sink.write_at(n * MIB as u64, Bytes::from(pattern(1, MIB))).await;
        if let Err(error) = written {
            failed = Some(error);
            break;
        }
    }
    assert!(matches!(failed, Some(BlockError::NoSpace)), "{failed:?}");
    session.abort().await.unwrap();
    assert_eq!(machines::names(&small.store), [""; 0]);
    assert!(small.place.helpers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_without_room_leaves_the_guest_where_it_was() {
    let small = Small::named("small", 2);
    let place = &small.place;
    let host = place.open().await;
    let hypervisor = QemuHypervisor::new(host.clone());
    let spec = machines::make(place, "alpha", &[("root", pattern(1, MIB)), ("data", pattern(2, 6 * MIB))]);
    let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
    for runs in [false, true] {
        if runs {
            guest.start().await.unwrap();
            comes_to(&guest, GuestState::Running).await;
        }
        let (vm, incarnation, token) = (spec.id.clone(), spec.incarnation.clone(), format!("runs: {runs}"));
        let datastore = "small".to_owned();
        let wish =
            MoveRequest { vm: vm.clone(), incarnation: incarnation.clone(), token: token.clone(), fence: 1, datastore };
        for _ in 0..2 {
            let moved = hypervisor.move_machine(wish.clone(), &|_| {}).await;
            assert!(matches!(moved, Err(DriverError::NoSpace(_))), "{runs}: {moved:?}");
        }
        hypervisor.abandon_move(AbandonedMove { vm, incarnation, token, fence: 1 }).await.unwrap();
        assert_eq!((guest.spec().moving, guest.spec().disks), (None, spec.disks.clone()));
        assert_eq!(machines::names(&small.store), [""; 0]);
        if runs {
            clean(place, &guest, &[]).await;
        }
        let session = export(&host, request(&guest, &format!("{runs}"), 1)).await;
        assert!(read_all(&session.exported().disks[1].source).await.unwrap() == pattern(2, 6 * MIB));
        session.release(false).await.unwrap();
    }
}
