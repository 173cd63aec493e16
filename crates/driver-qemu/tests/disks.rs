//! Disks that are added or resized between two backups of the demo guest, and disks that are longer than what lies
//! below them.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::exports::{clean, export, pull, request, same, tells_holes, truth};
use common::{Place, comes_to, console_says, machines, open, own, shell, wish};
use portolan_driver::{Changes, ExportRequest};
use portolan_driver_qemu::{DiskSpec, Guest, GuestSpec, GuestState, QemuHost};
use std::path::PathBuf;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// Turns the guest off, changes what it is, and starts it again, all as an operator does while Portolan is away.
async fn rebuilt(
    place: &Place,
    host: Arc<QemuHost>,
    guest: Arc<Guest>,
    change: impl FnOnce(&mut GuestSpec),
) -> (Arc<QemuHost>, Arc<Guest>) {
    guest.stop().await.unwrap();
    comes_to(&guest, GuestState::Stopped).await;
    let (path, mut spec) = (guest.dir().join("guest.json"), guest.spec());
    drop(guest);
    host.close().await;
    drop(host);
    change(&mut spec);
    std::fs::write(path, serde_json::to_vec(&spec).unwrap()).unwrap();
    let host = open(place.demo_settings()).await;
    let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    console_says(&guest, "GUEST-READY").await;
    (host, guest)
}

/// What a backup was like: its checkpoint, and for each disk what changed and how many bytes were read.
struct Backup {
    checkpoint: String,
    changes: Vec<Changes>,
    read: Vec<u64>,
}

/// Backs the guest up onto what is there, and compares it with what the guest has. The guest is held meanwhile.
async fn backup(place: &Place, host: &Arc<QemuHost>, guest: &Guest, wish: ExportRequest, files: &[PathBuf]) -> Backup {
    shell(guest, "sync").await;
    guest.qmp().unwrap().stop().await.unwrap();
    let session = export(host, wish).await;
    let mut read = Vec::new();
    for (disk, file) in session.exported().disks.iter().zip(files) {
        read.push(pull(disk, file).await);
        let held = place.root().join("truth.raw");
        truth(place, guest, &disk.name, &held);
        same(file, &held);
    }
    session.release(true).await.unwrap();
    guest.qmp().unwrap().cont().await.unwrap();
    comes_to(guest, GuestState::Running).await;
    let checkpoint = session.exported().checkpoint.clone().unwrap();
    Backup { checkpoint, changes: session.exported().disks.iter().map(|disk| disk.changes.clone()).collect(), read }
}

fn since(guest: &Guest, token: &str, before: &Backup) -> ExportRequest {
    let checkpoint = before.checkpoint.clone();
    ExportRequest { since: Some(checkpoint.clone()), keep: vec![checkpoint], ..request(guest, token, 1) }
}

/// Only the disk in question is read whole, and the backup says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_added_or_resized_is_read_whole_and_no_other() {
    let place = Place::with_demo();
    let host = open(place.demo_settings()).await;
    let guest = own(host.create(wish("demo", "demo")).await.unwrap());
    console_says(&guest, "GUEST-READY").await;
    comes_to(&guest, GuestState::Running).await;
    let files = ["root.raw", "data.raw"].map(|name| place.root().join(name));
    let first = backup(&place, &host, &guest, request(&guest, "first", 1), &files).await;

    let store = place.root().join("datastores/default").join(guest.id());
    let extra = store.join("d1.qcow2");
    let (host, guest) = rebuilt(&place, host, guest, |spec| {
        machines::run("qemu-img", &["create", "-q", "-f", "qcow2", machines::text(&extra), "64M"]);
        let (id, name, file) = ("d1".to_owned(), "data".to_owned(), "d1.qcow2".to_owned());
        let disk = DiskSpec { id, name, file, size_bytes: 64 * MIB, base: Vec::new(), ..spec.disks[0].clone() };
        spec.disks.push(disk);
    })
    .await;
    shell(&guest, "dd if=/dev/urandom of=/dev/vdb bs=1M count=8 2>/dev/null; echo more > /data/more").await;
    let second = backup(&place, &host, &guest, since(&guest, "second", &first), &files).await;
    let (changes, read) = (&second.changes, &second.read);
    assert!(matches!(&changes[0], Changes::Ranges(_)), "{:?}", changes[0]);
    assert!(matches!(&changes[1], Changes::Lost(why) if why.contains("added after")), "{:?}", changes[1]);
    println!("added: {read:?} bytes");
    assert!(read[0] < 32 * MIB && (read[1] == 8 * MIB || !tells_holes(&guest)), "{read:?}");

    let (host, guest) = rebuilt(&place, host, guest, |spec| {
        machines::run("qemu-img", &["resize", "-q", "-f", "qcow2", machines::text(&extra), "96M"]);
        spec.disks[1].size_bytes = 96 * MIB;
    })
    .await;
    shell(&guest, "dd if=/dev/urandom of=/dev/vdb bs=1M seek=80 count=4 2>/dev/null; echo word > /data/more").await;
    std::fs::File::options().write(true).open(&files[1]).unwrap().set_len(0).unwrap();
    let third = backup(&place, &host, &guest, since(&guest, "third", &second), &files).await;
    let (changes, read) = (&third.changes, &third.read);
    assert!(matches!(&changes[0], Changes::Ranges(_)), "{:?}", changes[0]);
    let why = "resized from 67108864 to 100663296";
    assert!(matches!(&changes[1], Changes::Lost(said) if said.contains(why)), "{:?}", changes[1]);
    println!("resized: {read:?} bytes");
    assert!(read[0] < 32 * MIB && read[1] == 12 * MIB, "{read:?}");

    // From there on both are followed again.
    shell(&guest, "dd if=/dev/urandom of=/dev/vdb bs=1M seek=1 count=1 2>/dev/null").await;
    let fourth = backup(&place, &host, &guest, since(&guest, "fourth", &third), &files).await;
    let (changes, read) = (&fourth.changes, &fourth.read);
    assert!(changes.iter().all(|changes| matches!(changes, Changes::Ranges(_))), "{changes:?}");
    assert_eq!(read[1], MIB);
    clean(&place, &guest, &[&third.checkpoint, &fourth.checkpoint]).await;
}

/// A disk may be longer than its image: what is asked for behind the image's end is the disk's own.
#[tokio::test(flavor = "multi_thread")]
async fn maps_go_on_behind_the_end_of_what_lies_below() {
    let place = Place::with_blank();
    let mut settings = place.settings();
    settings.sizes[0].disk_gb = 1;
    let host = open(settings).await;
    let guest = own(host.create(wish("alpha", "blank")).await.unwrap());
    comes_to(&guest, GuestState::Running).await;
    let session = export(&host, request(&guest, "t1", 1)).await;
    let source = &session.exported().disks[0].source;
    for range in [0..MIB, 0..4 * MIB, MIB..2 * MIB, 2 * MIB..4 * MIB, 1023 * MIB..1024 * MIB] {
        let extents = source.extents(range.clone()).await.unwrap_or_else(|e| panic!("{range:?}: {e}"));
        assert_eq!(extents.iter().map(|extent| extent.len).sum::<u64>(), range.end - range.start);
    }
    session.release(false).await.unwrap();
}
