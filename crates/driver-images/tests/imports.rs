//! Imports: crash points, names, choice of the datastore, holes.

mod common;

use bytes::Bytes;
use common::{Images, write_raw};
use portolan_driver::{DriverError, ImportRequest, ImportSession};
use portolan_testkit::driver::{HypervisorFixture, export_request, find, import_request, pattern, read_all};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

fn wish(fence: i64) -> ImportRequest {
    import_request("new", "t1", fence, &[("root", 65_536)])
}

fn staging(images: &Images) -> PathBuf {
    images.store().join(".portolan-import-t1")
}

async fn fill(session: &dyn ImportSession, seed: u8) {
    let sink = session.disk("root").await.expect("a disk");
    sink.write_at(0, Bytes::from(pattern(seed, 65_536))).await.expect("a write");
}

fn names(dir: &Path) -> Vec<String> {
    let mut out: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    out.sort();
    out
}

async fn content(images: &Images, name: &str) -> Vec<u8> {
    let port = images.port();
    let vm = find(&port, name).await.expect("the machine");
    let session = port.open_export(export_request(&vm, "check", 1)).await.expect("an export");
    read_all(&session.exported().disks[0].source).await.expect("content")
}

#[tokio::test]
async fn a_finished_machine_has_nothing_left_of_the_import() {
    let images = Images::raw();
    let session = images.port().begin_import(wish(1)).await.expect("an import");
    fill(&*session, 1).await;
    assert_eq!(names(&images.store()), [".portolan-import-t1"]);
    session.commit().await.expect("commit");
    assert_eq!(names(&images.store()), ["new"]);
    assert_eq!(names(&images.vm("new")), [".portolan-id", "root.raw", "vm.json"]);
}

#[tokio::test]
async fn a_death_while_preparing_begins_anew() {
    for survivors in [&[][..], &[".portolan-lock"], &[".portolan-lock", "root.raw"], &["root.raw", ".portolan-id"]] {
        let images = Images::raw();
        drop(images.port().begin_import(wish(1)).await.expect("an import"));
        for name in names(&staging(&images)).iter().filter(|name| !survivors.contains(&name.as_str())) {
            fs::remove_file(staging(&images).join(name)).expect("removed");
        }
        if survivors.contains(&"root.raw") {
            write_raw(&staging(&images).join("root.raw"), b"torn");
        }
        let session = images.port().begin_import(wish(2)).await.expect("the import");
        let sink = session.disk("root").await.expect("a disk");
        sink.write_at(512, Bytes::from(pattern(1, 512))).await.expect("a write");
        session.commit().await.expect("commit");
        let held = content(&images, "new").await;
        assert!(held.len() == 65_536 && held[512..1024] == pattern(1, 512) && held[..512] == [0; 512], "{survivors:?}");
    }
}

#[tokio::test]
async fn a_death_before_the_rename_is_made_good_by_the_next_attempt() {
    let images = Images::raw();
    let session = images.port().begin_import(wish(1)).await.expect("an import");
    fill(&*session, 1).await;
    // As a commit that died just before its rename leaves it.
    let done = r#"{"disks":["root"],"import":{"token":"t1","fence":1}}"#;
    fs::write(staging(&images).join("vm.json"), done).expect("a file");
    assert!(find(&images.port(), "new").await.is_none());
    let session = images.port().begin_import(wish(2)).await.expect("the import");
    session.commit().await.expect("commit");
    assert!(content(&images, "new").await == pattern(1, 65_536));
}

#[tokio::test]
async fn a_death_after_the_rename_is_a_success() {
    let images = Images::raw();
    let session = images.port().begin_import(wish(1)).await.expect("an import");
    fill(&*session, 1).await;
    let done = r#"{"disks":["root"],"import":{"token":"t1","fence":1}}"#;
    fs::write(staging(&images).join("vm.json"), done).expect("a file");
    fs::rename(staging(&images), images.vm("new")).expect("renamed");
    let vm = find(&images.port(), "new").await.expect("visible");
    let again = images.port().begin_import(wish(2)).await.expect("the import");
    assert_eq!(again.commit().await.expect("commit"), vm);
    assert_eq!(names(&images.vm("new")), [".portolan-id", "root.raw", "vm.json"]);
    let older = images.port().begin_import(wish(0)).await.err();
    assert!(matches!(older, Some(DriverError::Fenced)), "{older:?}");
}

#[tokio::test]
async fn a_death_after_replacing_removes_the_old_machine() {
    for finish in ["commit", "abort"] {
        let images = Images::raw();
        images.add_vm("new", &[("old", pattern(7, 512))]).await;
        let replace = |fence| ImportRequest { overwrite: true, ..wish(fence) };
        let session = images.port().begin_import(replace(1)).await.expect("an import");
        fill(&*session, 1).await;
        let made = session.commit().await.expect("commit");
        // The exchange happened, but the old machine was not removed.
        fs::create_dir(staging(&images)).expect("a directory");
        write_raw(&staging(&images).join("old.raw"), &pattern(7, 512));
        let again = images.port().begin_import(replace(2)).await.expect("the import");
        match finish {
            "commit" => assert_eq!(again.commit().await.expect("commit"), made),
            _ => again.abort().await.expect("abort"),
        }
        assert_eq!(names(&images.store()), ["new"]);
        assert!(content(&images, "new").await == pattern(1, 65_536));
    }
}

#[tokio::test]
async fn what_a_dead_abort_left_is_swept_up() {
    let images = Images::raw();
    let gone = images.store().join(".portolan-gone-t0/deep");
    fs::create_dir_all(&gone).expect("a directory");
    fs::write(gone.join("root.raw"), "x").expect("a file");
    let session = images.port().begin_import(wish(1)).await.expect("an import");
    session.abort().await.expect("abort");
    assert!(names(&images.store()).is_empty());
}

#[tokio::test]
async fn zeros_are_holes_and_empty_disks_take_no_space() {
    let images = Images::raw();
    let mut request = wish(1);
    request.disks[0].size_bytes = 1 << 40;
    let session = images.port().begin_import(request).await.expect("an import");
    let sink = session.disk("root").await.expect("a disk");
    sink.write_at(1 << 30, Bytes::from(pattern(1, 1 << 20))).await.expect("a write");
    sink.zero(0..1 << 40).await.expect("zero");
    sink.flush().await.expect("flush");
    let vm = session.commit().await.expect("commit");
    assert_eq!(vm.disks[0].size_bytes, 1 << 40);
    let file = fs::metadata(images.vm("new").join("root.raw")).expect("a file");
    assert!(file.len() == 1 << 40 && file.blocks() * 512 < 1 << 20, "{} blocks", file.blocks());
}

#[tokio::test]
async fn a_disk_that_no_file_system_holds_is_refused() {
    let images = Images::raw();
    let mut request = wish(1);
    request.disks[0].size_bytes = i64::MAX as u64;
    let error = images.port().begin_import(request).await.err();
    assert!(matches!(error, Some(DriverError::Unsupported(_))), "{error:?}");
    assert!(find(&images.port(), "new").await.is_none());
}

#[tokio::test]
async fn machine_names_and_tokens_that_cannot_be_file_names_are_refused() {
    let images = Images::raw();
    let before = names(&images.store());
    let long = "ü".repeat(128);
    for name in ["", ".", "..", "../x", "/abs", "a/b", ".hidden", "a\0b", "a\nb", "lost+found", &long] {
        let error = images.port().begin_import(ImportRequest { name: name.into(), ..wish(1) }).await.err();
        assert!(matches!(error, Some(DriverError::Unsupported(_))), "{name:?}: {error:?}");
    }
    for token in ["", "../x", "a/b", "a b"] {
        let error = images.port().begin_import(ImportRequest { token: token.into(), ..wish(1) }).await.err();
        assert!(matches!(error, Some(DriverError::Unsupported(_))), "{token:?}: {error:?}");
    }
    let mut qcow2 = wish(1);
    qcow2.disks[0].format = Some("qcow2".into());
    assert!(matches!(images.port().begin_import(qcow2).await.err(), Some(DriverError::Unsupported(_))));
    assert_eq!(names(&images.store()), before);
    let fits = "ü".repeat(127);
    let session = images.port().begin_import(ImportRequest { name: fits.clone(), ..wish(1) }).await.expect("an import");
    assert_eq!(session.commit().await.expect("commit").name, fits);
}

#[tokio::test]
async fn the_datastore_is_the_one_asked_for_or_the_templates_or_the_first() {
    let images = Images::raw();
    for store in ["c1/h1/ds2", "c2/h2/ds3"] {
        fs::create_dir_all(images.root().join(store)).expect("a datastore");
    }
    images.add_vm("origin", &[("root", pattern(1, 512))]).await;
    let mut origin = find(&images.port(), "origin").await.expect("a machine");
    origin.disks[0].datastore = Some("c1/h1/ds2".into());
    let cases: [(&str, ImportRequest); 6] = [
        ("c1/h1/ds1", wish(1)),
        ("c2/h2/ds3", ImportRequest { datastore: Some("c2/h2/ds3".into()), ..wish(1) }),
        ("c2/h2/ds3", ImportRequest { host: Some("c2/h2".into()), ..wish(1) }),
        ("c2/h2/ds3", ImportRequest { cluster: Some("c2".into()), template: Some(origin.clone()), ..wish(1) }),
        ("c1/h1/ds2", ImportRequest { template: Some(origin), ..wish(1) }),
        ("c1/h1/ds2", {
            let mut request = wish(1);
            request.disks[0].datastore = Some("c1/h1/ds2".into());
            request
        }),
    ];
    for (number, (store, request)) in cases.into_iter().enumerate() {
        let request = ImportRequest { token: format!("t{number}"), name: format!("vm{number}"), ..request };
        let session = images.port().begin_import(request).await.expect("an import");
        let vm = session.commit().await.expect("commit");
        assert_eq!(vm.native_id, format!("{store}/vm{number}"));
    }
    let elsewhere = ImportRequest { host: Some("c2/h2".into()), datastore: Some("c1/h1/ds1".into()), ..wish(1) };
    assert!(matches!(images.port().begin_import(elsewhere).await.err(), Some(DriverError::Conflict(_))));
    let nowhere = ImportRequest { host: Some("c9/h9".into()), ..wish(1) };
    assert!(matches!(images.port().begin_import(nowhere).await.err(), Some(DriverError::NotFound { .. })));

    // An import goes on where it was begun, also when another datastore has become the first.
    drop(images.port().begin_import(wish(1)).await.expect("an import"));
    fs::create_dir_all(images.root().join("c0/h0/ds0")).expect("a datastore");
    let session = images.port().begin_import(wish(2)).await.expect("the import");
    assert_eq!(session.commit().await.expect("commit").native_id, "c1/h1/ds1/new");
}

#[tokio::test]
async fn what_is_no_machine_is_never_replaced() {
    let images = Images::raw();
    fs::write(images.store().join("new"), "a file").expect("a file");
    let replace = ImportRequest { overwrite: true, ..wish(1) };
    let session = images.port().begin_import(replace.clone()).await.expect("an import");
    assert!(matches!(session.commit().await, Err(DriverError::Conflict(_))));
    assert_eq!(fs::read(images.store().join("new")).expect("a file"), b"a file");
    fs::remove_file(images.store().join("new")).expect("removed");

    // A machine that is a link to a directory: the link goes, what it led to stays.
    let kept = images.dir.path().join("kept");
    fs::create_dir(&kept).expect("a directory");
    write_raw(&kept.join("old.raw"), &pattern(7, 512));
    symlink(&kept, images.store().join("new")).expect("a link");
    fill(&*session, 1).await;
    session.commit().await.expect("commit");
    assert_eq!(names(&images.store()), ["new"]);
    assert!(kept.join("old.raw").exists());
    assert!(content(&images, "new").await == pattern(1, 65_536));
}

#[tokio::test]
async fn a_damaged_lock_stops_the_import() {
    let images = Images::raw();
    let session = images.port().begin_import(wish(1)).await.expect("an import");
    fs::write(staging(&images).join(".portolan-lock"), "rubbish").expect("a file");
    assert!(session.commit().await.is_err());
    assert!(session.disk("root").await.is_err());
    assert!(images.port().begin_import(wish(2)).await.is_err());
    assert!(find(&images.port(), "new").await.is_none());
}
