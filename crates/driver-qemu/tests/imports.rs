//! Imports beyond what the suite of all hypervisors looks at.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;
mod source;

use bytes::Bytes;
use common::exports::{export, request};
use common::{Place, comes_to, machines};
use portolan_driver::{DiskImport, DriverError, Hypervisor, ImportRequest, NativeNic, NativeVm};
use portolan_driver_qemu::{GuestState, QemuHost, QemuHypervisor};
use portolan_testkit::driver::{contents, import_request, pattern};
use source::FileSource;
use std::sync::Arc;

const MIB: usize = 1 << 20;

/// Writes the first half of the first disk.
async fn written(host: &Arc<QemuHost>, wish: ImportRequest) -> Box<dyn portolan_driver::ImportSession> {
    let session = QemuHypervisor::new(host.clone()).begin_import(wish).await.expect("an import");
    let sink = session.disk("root").await.expect("a disk");
    sink.write_at(0, Bytes::from(pattern(5, MIB))).await.expect("written");
    sink.flush().await.expect("durable");
    session
}

fn nothing_is_left(place: &Place) {
    assert_eq!(machines::names(&place.root().join("imports")), [""; 0]);
    let store = machines::names(&place.root().join("datastores/default"));
    assert!(store.iter().all(|name| !name.starts_with('.')), "{store:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_starts_and_one_in_its_place_waits_until_it_is_off() {
    let place = Place::new();
    let host = place.open().await;
    let wish = |token: &str| import_request("alpha", token, 1, &[("root", 2 << 20)]);
    let first = written(&host, wish("t1")).await;
    let made = first.commit().await.unwrap();
    nothing_is_left(&place);
    let guest = host.guest(&made.native_id, &made.incarnation).await.unwrap();
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;

    let second = written(&host, ImportRequest { overwrite: true, ..wish("t2") }).await;
    let busy = second.commit().await;
    assert!(matches!(&busy, Err(DriverError::Conflict(why)) if why.contains("turn it off")), "{busy:?}");
    assert_eq!(guest.observed().state, GuestState::Running);
    guest.power_off().await.unwrap();
    comes_to(&guest, GuestState::Stopped).await;
    let replaced = second.commit().await.unwrap();
    assert_eq!(replaced.native_id, made.native_id, "in its place");
    assert_ne!(replaced.incarnation, made.incarnation);
    nothing_is_left(&place);
    assert_eq!(machines::names(&place.root().join("datastores/default").join(&made.native_id)).len(), 1);
    assert!(host.guest(&made.native_id, &made.incarnation).await.is_err());
    let guest = host.guest(&replaced.native_id, &replaced.incarnation).await.unwrap();
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    let session = export(&host, request(&guest, "check", 1)).await;
    assert!(contents(&*session).await.unwrap()[0].1[..MIB] == pattern(5, MIB));
    session.release(false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_gets_addresses_of_its_own_and_formats_are_heeded() {
    let place = Place::new();
    std::fs::create_dir(place.root().join("datastores")).unwrap();
    std::fs::create_dir(place.root().join("datastores/other")).unwrap();
    let host = place.open().await;
    let nic = NativeNic { name: "eth0".into(), mac: "52:54:00:12:34:56".into(), addresses: vec![] };
    let mut template =
        written(&host, import_request("alpha", "t1", 1, &[("root", 2 << 20)])).await.commit().await.unwrap();
    template.nics = vec![nic.clone()];
    let wish = |name: &str, token: &str| ImportRequest {
        template: Some(template.clone()),
        disks: vec![DiskImport {
            name: "root".into(),
            size_bytes: 2 << 20,
            datastore: Some("other".into()),
            format: Some("raw".into()),
        }],
        ..import_request(name, token, 1, &[])
    };
    let one = written(&host, wish("beta", "t2")).await.commit().await.unwrap();
    let two = written(&host, wish("gamma", "t3")).await.commit().await.unwrap();
    assert_eq!(one.nics, vec![nic.clone()]);
    assert!(two.nics[0].mac.starts_with("52:54:00:") && two.nics[0].mac != nic.mac, "{:?}", two.nics);
    assert_eq!((one.disks[0].format.as_str(), one.disks[0].datastore.as_deref()), ("raw", Some("other")));
    let guest = host.guest(&one.native_id, &one.incarnation).await.unwrap();
    let session = export(&host, request(&guest, "check", 1)).await;
    assert_eq!(session.exported().checkpoint, None, "nothing tracks changes of raw disks");
    assert!(contents(&*session).await.unwrap()[0].1[..MIB] == pattern(5, MIB));
    session.release(true).await.unwrap();
    // While it runs, too.
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    let session = export(&host, request(&guest, "check", 1)).await;
    assert!(contents(&*session).await.unwrap()[0].1[..MIB] == pattern(5, MIB));
    session.release(true).await.unwrap();
    common::exports::clean_nodes(&guest).await;
    let wrong = ImportRequest { cluster: Some("c".into()), ..wish("delta", "t4") };
    let wrong = QemuHypervisor::new(host.clone()).begin_import(wrong).await.err();
    assert!(matches!(wrong, Some(DriverError::NotFound { what: "cluster", .. })), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_outlives_portolan_and_its_daemon() {
    let place = Place::new();
    let host = place.open().await;
    let wish = |fence| import_request("alpha", "t1", fence, &[("root", 2 << 20)]);
    drop(written(&host, wish(1)).await);
    assert_eq!(place.helpers().len(), 1);
    host.close().await;
    drop(host);
    let host = place.open().await;
    let again = QemuHypervisor::new(host.clone()).begin_import(wish(2)).await.unwrap();
    assert_eq!(place.helpers(), [0_u32; 0], "nobody of before writes any more");
    let sink = again.disk("root").await.unwrap();
    sink.write_at(MIB as u64, Bytes::from(pattern(6, MIB))).await.unwrap();
    sink.flush().await.unwrap();
    // The daemon dies; what was flushed is there.
    for pid in place.helpers() {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    let made = again.commit().await.unwrap();
    nothing_is_left(&place);
    assert_eq!(place.helpers(), [0_u32; 0]);
    let guest = host.guest(&made.native_id, &made.incarnation).await.unwrap();
    let session = export(&host, request(&guest, "check", 1)).await;
    assert!(contents(&*session).await.unwrap()[0].1 == [pattern(5, MIB), pattern(6, MIB)].concat());
    session.release(false).await.unwrap();
    let other = written(&host, import_request("beta", "t2", 1, &[("root", 2 << 20)])).await;
    other.abort().await.unwrap();
    nothing_is_left(&place);
    assert_eq!(place.helpers(), [0_u32; 0]);
}

/// A commit that was cut off at each of its steps: the old guest stands until the new one does, and whoever comes
/// next ends the commit, or drops it.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_cut_off_is_ended_or_dropped() {
    for (moved, ends) in [(false, true), (true, true), (false, false), (true, false)] {
        let place = Place::new();
        let host = place.open().await;
        let old = machines::make(&place, "alpha", &[("root", pattern(1, 2 * MIB))]);
        let wish =
            |fence| ImportRequest { overwrite: true, ..import_request("alpha", "t1", fence, &[("root", 2 << 20)]) };
        drop(written(&host, wish(1)).await);
        host.close().await;
        drop(host);
        for pid in place.helpers() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        }
        while !place.helpers().is_empty() {
            tokio::task::yield_now().await;
        }
        let state = place.root().join("imports/t1/import.json");
        let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
        let file = |file: &str| serde_json::json!([{ "datastore": "default", "file": file }]);
        text["phase"] = serde_json::json!({ "committing":
            { "guest": old.id, "files": file("d0-new.qcow2"), "old": file("d0.qcow2") } });
        std::fs::write(&state, text.to_string()).unwrap();
        let store = place.root().join("datastores/default");
        let target = store.join(&old.id).join("d0-new.qcow2");
        if moved {
            std::fs::rename(store.join(".import-t1/d0.qcow2"), &target).unwrap();
        }
        let host = place.open().await;
        let guest = host.guest(&old.id, &old.incarnation).await.unwrap();
        let session = export(&host, request(&guest, "check", 1)).await;
        assert!(contents(&*session).await.unwrap()[0].1 == pattern(1, 2 * MIB), "the old one stands");
        session.release(false).await.unwrap();
        let again = QemuHypervisor::new(host.clone()).begin_import(wish(2)).await.unwrap();
        if ends {
            let made = again.commit().await.unwrap();
            assert_eq!(again.commit().await.unwrap(), made);
            assert_eq!(machines::names(&store.join(&old.id)), ["d0-new.qcow2"]);
            let guest = host.guest(&made.native_id, &made.incarnation).await.unwrap();
            let session = export(&host, request(&guest, "check", 1)).await;
            assert!(contents(&*session).await.unwrap()[0].1[..MIB] == pattern(5, MIB));
            session.release(false).await.unwrap();
        } else {
            again.abort().await.unwrap();
            assert_eq!(machines::names(&store.join(&old.id)), ["d0.qcow2"]);
            assert!(host.guest(&old.id, &old.incarnation).await.is_ok());
        }
        nothing_is_left(&place);
    }
}

/// One that had made its guest, and had not cleaned up: the next Portolan does.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_commit_left_is_removed() {
    let place = Place::new();
    let host = place.open().await;
    let old = machines::make(&place, "alpha", &[("root", pattern(1, 2 * MIB))]);
    let wish = ImportRequest { overwrite: true, ..import_request("alpha", "t1", 1, &[("root", 2 << 20)]) };
    let session = written(&host, wish).await;
    let state = place.root().join("imports/t1/import.json");
    let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
    let made = session.commit().await.unwrap();
    drop(session);
    host.close().await;
    drop(host);
    let store = place.root().join("datastores/default").join(&old.id);
    let now = machines::names(&store);
    let file = |file: &str| serde_json::json!([{ "datastore": "default", "file": file }]);
    text["phase"] = serde_json::json!({ "committing":
        { "guest": old.id, "files": file(&now[0]), "old": file("d0.qcow2") } });
    std::fs::create_dir(place.root().join("imports/t1")).unwrap();
    std::fs::write(&state, text.to_string()).unwrap();
    std::fs::write(store.join("d0.qcow2"), "the old one").unwrap();
    let host = place.open().await;
    nothing_is_left(&place);
    assert_eq!(machines::names(&store), now);
    host.guest(&made.native_id, &made.incarnation).await.unwrap();
}

fn backup(place: &Place) -> Arc<FileSource> {
    let path = place.root().join("backup.raw");
    std::fs::write(&path, pattern(7, MIB)).unwrap();
    FileSource::open(&path)
}

/// A trial, which nobody sees, is in no restore's way, and is not what a restore replaces.
#[tokio::test(flavor = "multi_thread")]
async fn trials_of_the_same_name_are_left_alone() {
    let place = Place::new();
    let host = place.open().await;
    let hypervisor = QemuHypervisor::new(host.clone());
    let mut trial = source::wish("alpha", "trial", 1, &[backup(&place)]);
    trial.isolated = true;
    let trial = hypervisor.begin_instant(trial).await.unwrap();
    let beside = written(&host, import_request("alpha", "t1", 1, &[("root", 2 << 20)])).await;
    let made = beside.commit().await.unwrap();
    let wish = import_request("alpha", "t2", 1, &[("root", 2 << 20)]);
    let replaced = written(&host, ImportRequest { overwrite: true, ..wish }).await.commit().await.unwrap();
    assert_eq!(replaced.native_id, made.native_id);
    assert_ne!(trial.vm().native_id, made.native_id);
    assert_eq!(host.list().await.unwrap().len(), 1);
    trial.abort().await.unwrap();
    assert_eq!(place.processes(), [0_u32; 0]);
    host.guest(&replaced.native_id, &replaced.incarnation).await.unwrap();
}

/// A guest that ran from a backup, and was replaced when it was off: who began it has no say over the new one.
#[tokio::test(flavor = "multi_thread")]
async fn an_instant_restore_has_no_say_over_what_replaced_it() {
    let place = Place::new();
    let host = place.open().await;
    let hypervisor = QemuHypervisor::new(host.clone());
    let instant = hypervisor.begin_instant(source::wish("alpha", "t1", 1, &[backup(&place)])).await.unwrap();
    let was = instant.vm();
    let guest = host.guest(&was.native_id, &was.incarnation).await.unwrap();
    guest.power_off().await.unwrap();
    let wish = import_request("alpha", "t2", 1, &[("root", 2 << 20)]);
    let made = written(&host, ImportRequest { overwrite: true, ..wish }).await.commit().await.unwrap();
    assert_eq!(made.native_id, was.native_id);
    let gone = instant.bring_home(&|_| {}).await;
    assert!(matches!(gone, Err(DriverError::NotFound { .. })), "{gone:?}");
    let gone = instant.ready(std::time::Duration::ZERO, portolan_driver::Ready::Agent).await;
    assert!(matches!(gone, Err(DriverError::NotFound { .. })), "{gone:?}");
    instant.abort().await.expect("there is nothing to give up any more");
    drop(instant);
    host.guest(&made.native_id, &made.incarnation).await.unwrap();
    guest.start().await.expect("it is as good as any");
    comes_to(&guest, GuestState::Running).await;
}

/// What no guest can have is refused before anything is written.
#[tokio::test(flavor = "multi_thread")]
async fn bounds_of_guests_hold_for_imports() {
    let place = Place::new();
    let host = place.open().await;
    let hypervisor = QemuHypervisor::new(host.clone());
    let names: Vec<String> = (0..17).map(|n| format!("disk{n}")).collect();
    let disks: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 512)).collect();
    let many = hypervisor.begin_import(import_request("alpha", "t1", 1, &disks)).await.err();
    assert!(matches!(many, Some(DriverError::Unsupported(_))), "{many:?}");
    let nic = |n| NativeNic { name: format!("eth{n}"), mac: format!("52:54:00:12:34:{n:02x}"), addresses: vec![] };
    let plain = written(&host, import_request("other", "t2", 1, &[("root", 2 << 20)])).await.commit().await.unwrap();
    let wish = |token: &str, template: NativeVm| ImportRequest {
        template: Some(template),
        ..import_request("alpha", token, 1, &[("root", 2 << 20)])
    };
    let template = NativeVm { nics: (0..9).map(nic).collect(), ..plain.clone() };
    let many = hypervisor.begin_import(wish("t3", template)).await.err();
    assert!(matches!(many, Some(DriverError::Unsupported(_))), "{many:?}");

    // A document that nobody could read again is not written, and no disk is moved for it.
    let template = NativeVm { tags: vec!["x".repeat(1 << 20)], ..plain };
    let session = written(&host, wish("t4", template)).await;
    assert!(session.commit().await.is_err());
    assert_eq!(host.list().await.unwrap().len(), 1);
    assert!(place.root().join("datastores/default/.import-t4/d0.qcow2").exists());
    session.abort().await.unwrap();
    nothing_is_left(&place);
}
