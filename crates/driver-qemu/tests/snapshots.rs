//! Snapshots and power: on a guest that boots nothing, and on the demo guest.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::exports::{export, request};
use common::{LONG, Place, comes_to, console_says, machines, open, own, shell, wish};
use portolan_block::BlockError;
use portolan_driver::{DriverError, Hypervisor, PowerAction, PowerRequest, SnapshotRef, SnapshotRequest};
use portolan_driver_qemu::{Guest, GuestState, QemuHypervisor};
use portolan_testkit::driver::{pattern, read_all};
use serde_json::json;
use std::process::Command;
use std::time::Duration;

fn snapshot(guest: &Guest, token: &str, memory: bool) -> SnapshotRequest {
    let (vm, incarnation) = (guest.id().to_owned(), guest.spec().incarnation);
    SnapshotRequest { vm, incarnation, token: token.into(), name: token.into(), memory }
}

fn named(guest: &Guest, id: &str) -> SnapshotRef {
    SnapshotRef { vm: guest.id().into(), incarnation: guest.spec().incarnation, snapshot: id.into() }
}

fn power(guest: &Guest, action: PowerAction) -> PowerRequest {
    PowerRequest { vm: guest.id().into(), incarnation: guest.spec().incarnation, action }
}

fn info(guest: &Guest) -> serde_json::Value {
    let disk = guest.disk_files().remove(0).1;
    let done = Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(disk).output().unwrap();
    serde_json::from_slice(&done.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_kept_bitmaps_are_dropped_and_a_way_back_is_gone_to_its_end() {
    let place = Place::with_blank();
    let host = place.open().await;
    let hypervisor = QemuHypervisor::new(host.clone());
    let guest = own(host.create(wish("alpha", "blank")).await.unwrap());
    comes_to(&guest, GuestState::Running).await;
    let made = hypervisor.create_snapshot(snapshot(&guest, "t1", true)).await.unwrap();
    assert!(made.memory);
    // A bitmap from after the snapshot would claim that nothing changed.
    let bitmap = json!({ "node": "d0", "name": "mark", "persistent": true });
    guest.qmp().unwrap().execute("block-dirty-bitmap-add", Some(bitmap)).await.unwrap();
    let pid = guest.pid();
    hypervisor.revert_snapshot(named(&guest, &made.native_id)).await.unwrap();
    assert_eq!(guest.observed().state, GuestState::Running);
    assert_ne!(guest.pid(), pid);
    assert_eq!(guest.spec().reverting, None);
    assert!(guest.qmp().unwrap().query_status().await.unwrap().running);
    assert!(!info(&guest).to_string().contains("mark"));
    assert!(info(&guest).to_string().contains(&made.native_id));

    // Portolan ends when a way back was begun, before QEMU was ended and after, and again when only the memory was to
    // be loaded.
    let (id, incarnation) = (guest.id().to_owned(), guest.spec().incarnation);
    drop((guest, hypervisor));
    let mut host = host;
    for (off, load) in [(false, false), (true, false), (true, true)] {
        let guest = host.guest(&id, &incarnation).await.unwrap();
        comes_to(&guest, GuestState::Running).await;
        if off {
            guest.power_off().await.unwrap();
        }
        let pid = guest.pid();
        drop(guest);
        host.close().await;
        let path = place.root().join("guests").join(&id).join("guest.json");
        let mut document: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        document["reverting"] = json!({ "snapshot": made.native_id, "start": true, "load": load });
        std::fs::write(&path, document.to_string()).unwrap();
        host = place.open().await;
        let guest = host.guest(&id, &incarnation).await.unwrap();
        comes_to(&guest, GuestState::Running).await;
        assert_eq!(guest.spec().reverting, None);
        assert!(guest.pid() != pid, "it is another process");
    }
    host.destroy(&id, &incarnation).await.unwrap();
    assert_eq!(place.processes(), [0_u32; 0]);
}

/// A guest that is off goes back though a backup holds its disks, and that backup ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_ends_the_backup_of_a_guest_that_is_off() {
    let place = Place::new();
    let host = place.open().await;
    let hypervisor = QemuHypervisor::new(host.clone());
    let spec = machines::make(&place, "alpha", &[("root", pattern(1, 1 << 20))]);
    let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
    let made = hypervisor.create_snapshot(snapshot(&guest, "t1", false)).await.unwrap();
    machines::write(&place, "alpha", "root", 0, &[9; 4096]);
    let session = export(&host, request(&guest, "t1", 1)).await;
    hypervisor.revert_snapshot(named(&guest, &made.native_id)).await.unwrap();
    let read = read_all(&session.exported().disks[0].source).await;
    assert!(matches!(&read, Err(BlockError::Changed(why)) if why.contains("reverted")), "{read:?}");
    assert!(matches!(session.release(true).await, Err(DriverError::Conflict(_))));
    let again = export(&host, request(&guest, "t2", 1)).await;
    assert!(read_all(&again.exported().disks[0].source).await.unwrap() == pattern(1, 1 << 20));
    again.release(false).await.unwrap();
    assert_eq!(place.processes(), [0_u32; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_guest_goes_back_and_through_its_power() {
    let place = Place::with_demo();
    let host = open(place.demo_settings()).await;
    let hypervisor = QemuHypervisor::new(host.clone());
    let guest = own(host.create(wish("demo", "demo")).await.unwrap());
    console_says(&guest, "GUEST-READY").await;
    shell(&guest, "echo old > /data/word && sync").await;
    let made = hypervisor.create_snapshot(snapshot(&guest, "t1", false)).await.unwrap();
    let live = hypervisor.create_snapshot(snapshot(&guest, "t2", true)).await.unwrap();
    shell(&guest, "echo new > /data/word && echo more > /data/more && sync").await;
    hypervisor.revert_snapshot(named(&guest, &live.native_id)).await.unwrap();
    assert_eq!(shell(&guest, "cat /data/word; ls /data").await.lines().next(), Some("old"), "it goes on from there");
    shell(&guest, "echo new > /data/word && sync").await;
    hypervisor.revert_snapshot(named(&guest, &made.native_id)).await.unwrap();
    assert_eq!(shell(&guest, "cat /data/word").await, "old\n", "it booted from the old disk");

    hypervisor.power(power(&guest, PowerAction::Reboot)).await.unwrap();
    shell(&guest, "true").await;
    hypervisor.power(power(&guest, PowerAction::Shutdown { within: LONG })).await.unwrap();
    assert_eq!(guest.observed().reason.as_deref(), Some("guest-shutdown"));
    hypervisor.power(power(&guest, PowerAction::Start)).await.unwrap();
    // It has no system to listen yet.
    let within = Duration::from_millis(200);
    let early = hypervisor.power(power(&guest, PowerAction::Shutdown { within })).await;
    assert!(matches!(early, Err(DriverError::Conflict(_))), "{early:?}");
    assert_eq!(guest.observed().state, GuestState::Running);
    // Nor now; it is asked until it has.
    hypervisor.power(power(&guest, PowerAction::Shutdown { within: LONG })).await.unwrap();
    assert_eq!(guest.observed().reason.as_deref(), Some("guest-shutdown"));
    for id in [&made.native_id, &live.native_id] {
        hypervisor.delete_snapshot(named(&guest, id)).await.unwrap();
    }
    assert_eq!(info(&guest).get("snapshots"), None);
    host.destroy(guest.id(), &guest.spec().incarnation).await.unwrap();
    assert_eq!(place.processes(), [0_u32; 0]);
}
