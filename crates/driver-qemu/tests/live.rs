//! Backups of the demo guest while it runs and writes.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::exports::{abandoned, clean, export, pull, request, same, tells_holes, truth};
use common::{Place, comes_to, console_says, open, own, shell, wish};
use portolan_driver::{Changes, DriverError, ExportRequest, Hypervisor};
use portolan_driver_qemu::{FreezeStatus, Guest, GuestState, QemuHypervisor};
use portolan_model::Consistency;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

async fn thawed(guest: &Guest) {
    let status = guest.agent(LIMIT).await.expect("an agent").fsfreeze_status().await.expect("a status");
    assert_eq!(status, FreezeStatus::Thawed);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_and_incremental_backups_hold_their_moments() {
    let place = Place::with_demo();
    let host = open(place.demo_settings()).await;
    let guest = own(host.create(wish("demo", "demo")).await.unwrap());
    console_says(&guest, "GUEST-READY boots=1").await;
    comes_to(&guest, GuestState::Running).await;
    let (restored, held) = (place.root().join("restored.raw"), place.root().join("truth.raw"));

    // All of it, of a guest that was frozen for an instant.
    shell(&guest, "dd if=/dev/urandom of=/data/a bs=1M count=20 2>/dev/null; sync").await;
    let full = export(&host, ExportRequest { quiesce: true, ..request(&guest, "full", 1) }).await;
    let what = full.exported();
    assert_eq!((what.consistency, &what.notes), (Consistency::Default, &Vec::new()));
    let frozen = what.frozen.unwrap();
    assert!(frozen < Duration::from_secs(10), "{frozen:?}");
    assert_eq!(what.disks[0].changes, Changes::Unknown);
    thawed(&guest).await;
    let counters = guest.block_counters().await.unwrap();
    assert_eq!((counters.len(), counters[0].0.as_str()), (1, "d0"));
    let read = pull(&what.disks[0], &restored).await;
    println!("full: frozen {frozen:?}, {read} bytes");
    assert!(read < 200 << 20 || !tells_holes(&guest), "holes of the template are not read: {read}");
    let first = what.checkpoint.clone().unwrap();
    full.release(true).await.unwrap();
    full.release(true).await.unwrap();
    clean(&place, &guest, &[&first]).await;

    // What changed. The guest is held, so that what it has can be told apart from what it writes later.
    let script = "dd if=/dev/urandom of=/data/a bs=1M seek=3 count=5 conv=notrunc 2>/dev/null; \
                  dd if=/dev/urandom of=/data/b bs=1M count=12 2>/dev/null; sync";
    shell(&guest, script).await;
    guest.qmp().unwrap().stop().await.unwrap();
    let wished = ExportRequest {
        since: Some(first.clone()),
        keep: vec![first.clone()],
        quiesce: true,
        ..request(&guest, "second", 1)
    };
    let second = export(&host, wished.clone()).await;
    truth(&place, &guest, "root", &held);
    guest.qmp().unwrap().cont().await.unwrap();
    assert_eq!(second.exported().consistency, Consistency::None);
    assert!(second.exported().notes[0].contains("held"), "{:?}", second.exported().notes);
    shell(&guest, "dd if=/dev/urandom of=/data/a bs=1M count=10 conv=notrunc 2>/dev/null; sync").await;

    // Another Portolan goes on with it.
    let (id, incarnation) = (guest.id().to_owned(), guest.spec().incarnation);
    let (moment, changes) = (second.exported().moment.clone(), second.exported().disks[0].changes.clone());
    drop((full, second, guest));
    host.close().await;
    drop(host);
    let host = open(place.demo_settings()).await;
    let guest = host.guest(&id, &incarnation).await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    let again = export(&host, ExportRequest { fence: 2, ..wished.clone() }).await;
    assert_eq!((&again.exported().moment, &again.exported().disks[0].changes), (&moment, &changes));
    shell(
        &guest,
        "rm /data/b; sync; fstrim /data 2>/dev/null; dd if=/dev/urandom of=/data/c bs=1M count=4 2>/dev/null; sync",
    )
    .await;
    let read = pull(&again.exported().disks[0], &restored).await;
    same(&restored, &held);
    println!("incremental: {read} bytes read for {} written", 17 << 20);
    assert!(read * 10 <= (17 << 20) * 13, "{read}");
    let hypervisor = QemuHypervisor::new(host.clone());
    let late = hypervisor.open_export(wished.clone()).await.err();
    assert!(matches!(late, Some(DriverError::Fenced)), "{late:?}");
    let other = hypervisor.open_export(request(&guest, "other", 1)).await.err();
    assert!(matches!(other, Some(DriverError::Conflict(_))), "{other:?}");
    let late = hypervisor.abandon_export(abandoned(&guest, "second", 1)).await;
    assert!(matches!(late, Err(DriverError::Fenced)), "{late:?}");
    again.release(true).await.unwrap();
    let checkpoint = again.exported().checkpoint.clone().unwrap();
    clean(&place, &guest, &[&first, &checkpoint]).await;

    // The last one's writes are in the next one, and the checkpoint that nobody wants goes.
    let wished = ExportRequest {
        since: Some(checkpoint.clone()),
        keep: vec![checkpoint.clone()],
        quiesce: true,
        ..request(&guest, "third", 1)
    };
    let third = export(&host, wished).await;
    println!("incremental: frozen {:?}", third.exported().frozen);
    assert_eq!(third.exported().consistency, Consistency::Default);
    let read = pull(&third.exported().disks[0], &restored).await;
    assert!(read > 10 << 20, "{read}");
    thawed(&guest).await;
    drop(third);
    hypervisor.abandon_export(abandoned(&guest, "third", 2)).await.unwrap();
    clean(&place, &guest, &[&checkpoint]).await;

    // Off, with the same bitmap.
    guest.stop().await.unwrap();
    comes_to(&guest, GuestState::Stopped).await;
    let wished = ExportRequest { since: Some(checkpoint.clone()), keep: vec![], ..request(&guest, "off", 1) };
    let off = export(&host, wished).await;
    assert_eq!(off.exported().consistency, Consistency::NotApplicable);
    assert!(matches!(off.exported().disks[0].changes, Changes::Ranges(_)), "{:?}", off.exported().disks[0].changes);
    pull(&off.exported().disks[0], &restored).await;
    truth(&place, &guest, "root", &held);
    same(&restored, &held);
    off.release(false).await.unwrap();
    clean(&place, &guest, &[&checkpoint]).await;
}
