//! Listings are whole or fail, and what is damaged is listed as such.

mod common;

use common::{Images, write_qcow2, write_raw};
use portolan_driver::{DriverError, Hypervisor};
use portolan_driver_images::ImagesHypervisor;
use portolan_model::vm::PowerState;
use portolan_testkit::clock::SeededIds;
use portolan_testkit::driver::{HypervisorFixture, export_request, find, pattern};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::sync::Arc;

#[tokio::test]
async fn a_root_that_is_not_there_is_an_error() {
    let images = Images::raw();
    let missing = images.dir.path().join("missing");
    let hypervisor = ImagesHypervisor::new(missing.clone(), Arc::new(SeededIds::new(1)));
    match hypervisor.inventory().await {
        Err(DriverError::NotFound { id, .. }) => assert_eq!(id, missing.display().to_string()),
        other => panic!("{other:?}"),
    }
    // Drivers look anew at each call.
    fs::create_dir(&missing).expect("a directory");
    assert!(hypervisor.inventory().await.expect("a listing").vms.is_empty());

    let file = images.dir.path().join("file");
    fs::write(&file, "x").expect("a file");
    let error = ImagesHypervisor::new(file, Arc::new(SeededIds::new(1))).inventory().await.err();
    assert!(matches!(error, Some(DriverError::Unreachable { .. })), "{error:?}");
}

#[tokio::test]
async fn names_are_the_tree() {
    let images = Images::raw();
    fs::create_dir_all(images.root().join("c2/h2/fast")).expect("a datastore");
    images.add_vm("web", &[("disk2", pattern(1, 512)), ("disk1", pattern(2, 1024))]).await;
    let about = r#"{"cpus":4,"memory_bytes":1024,"tags":["a"],"power":"RUNNING","disks":["disk2"],"extra":1}"#;
    fs::write(images.vm("web").join("vm.json"), about).expect("a file");
    let listing = images.port().inventory().await.expect("a listing");
    assert_eq!(listing.clusters.iter().map(|c| c.native_id.as_str()).collect::<Vec<_>>(), ["c1", "c2"]);
    assert_eq!(listing.hosts.iter().map(|h| h.native_id.as_str()).collect::<Vec<_>>(), ["c1/h1", "c2/h2"]);
    let stores: Vec<_> = listing.datastores.iter().map(|d| (d.native_id.as_str(), d.name.as_str())).collect();
    assert_eq!(stores, [("c1/h1/ds1", "ds1"), ("c2/h2/fast", "fast")]);
    assert!(listing.datastores[0].total_bytes > 0);
    let vm = &listing.vms[0];
    assert_eq!((vm.native_id.as_str(), vm.host.as_deref()), ("c1/h1/ds1/web", Some("c1/h1")));
    assert_eq!((vm.cpus, vm.memory_bytes, vm.power), (4, 1024, PowerState::Running));
    let disks: Vec<_> = vm.disks.iter().map(|d| (d.native_id.as_str(), d.name.as_str(), d.size_bytes)).collect();
    assert_eq!(disks, [("disk2.raw", "disk2", 512), ("disk1.raw", "disk1", 1024)], "in the order of vm.json");
    assert!(listing.problems.is_empty(), "{:?}", listing.problems);
}

#[tokio::test]
async fn what_is_hidden_is_passed_over_and_what_is_odd_is_told() {
    let images = Images::raw();
    images.add_vm("web", &[("root", pattern(1, 512))]).await;
    fs::create_dir_all(images.store().join(".portolan-import-x/")).expect("a directory");
    fs::create_dir_all(images.store().join("lost+found")).expect("a directory");
    fs::create_dir_all(images.root().join(".git/h/d/vm")).expect("a directory");
    fs::write(images.root().join("README"), "x").expect("a file");
    fs::write(images.vm("web").join("notes.txt"), "x").expect("a file");
    fs::write(images.vm("web").join("vm.json"), "{").expect("a file");
    fs::create_dir(images.vm("web").join("sub.raw")).expect("a directory");
    fs::create_dir(images.store().join(OsStr::from_bytes(b"bad\xff"))).expect("a directory");
    let listing = images.port().inventory().await.expect("a listing");
    assert_eq!(listing.vms.len(), 1);
    assert_eq!(listing.vms[0].disks.iter().filter(|d| d.supported).count(), 1);
    for (what, count) in [("README", 1), ("notes.txt", 1), ("vm.json", 1), ("sub.raw", 1), ("UTF-8", 1)] {
        assert_eq!(listing.problems.iter().filter(|p| p.contains(what)).count(), count, "{:?}", listing.problems);
    }
    assert_eq!(listing.problems.len(), 5, "{:?}", listing.problems);
}

#[tokio::test]
async fn a_directory_that_cannot_be_followed_fails_the_listing() {
    let images = Images::raw();
    images.add_vm("web", &[("root", pattern(1, 512))]).await;
    // As a datastore whose file system is not mounted.
    symlink(images.root().join("nowhere"), images.root().join("c1/h1/ds2")).expect("a link");
    match images.port().inventory().await {
        Err(DriverError::Unreachable { reason, .. }) => assert!(reason.contains("ds2"), "{reason}"),
        other => panic!("{other:?}"),
    }
    fs::remove_file(images.root().join("c1/h1/ds2")).expect("removed");
    symlink("ds2", images.root().join("c1/h1/ds2")).expect("a link to itself");
    assert!(images.port().inventory().await.is_err());
}

#[tokio::test]
async fn links_are_followed_inside_and_refused_outside() {
    let images = Images::raw();
    images.add_vm("web", &[("root", pattern(1, 512))]).await;
    let outside = images.dir.path().join("outside");
    fs::create_dir_all(outside.join("vm")).expect("a directory");
    write_raw(&outside.join("secret.raw"), &pattern(9, 4096));
    fs::write(outside.join("vm.json"), r#"{"cpus":99}"#).expect("a file");
    symlink(&outside, images.store().join("escape")).expect("a link");
    symlink(images.vm("web"), images.store().join("alias")).expect("a link");
    symlink(outside.join("secret.raw"), images.vm("web").join("stolen.raw")).expect("a link");
    symlink("../../../../../outside/secret.raw", images.vm("web").join("up.raw")).expect("a link");
    symlink("root.raw", images.vm("web").join("same.raw")).expect("a link");
    symlink(outside.join("vm.json"), images.vm("web").join("vm.json")).expect("a link");
    let hypervisor = images.port();
    let listing = hypervisor.inventory().await.expect("a listing");
    assert_eq!(listing.vms.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["alias", "web"]);
    let web = &listing.vms[1];
    assert_eq!(web.cpus, 0);
    let supported: Vec<_> = web.disks.iter().filter(|d| d.supported).map(|d| d.native_id.as_str()).collect();
    assert_eq!(supported, ["root.raw", "same.raw"]);
    assert!(listing.problems.iter().any(|p| p.contains("escape") && p.contains("leads out")), "{:?}", listing.problems);
    for disk in ["stolen.raw", "up.raw"] {
        let mut request = export_request(web, "t1", 1);
        request.disks = Some(vec![disk.into()]);
        let error = hypervisor.open_export(request).await.err().expect("refused").to_string();
        assert!(error.contains("leads out"), "{error}");
    }
    let mut request = export_request(web, "t1", 1);
    request.vm = "c1/h1/ds1/escape".into();
    assert!(matches!(hypervisor.open_export(request).await.err(), Some(DriverError::NotFound { .. })));
}

#[tokio::test]
async fn damaged_images_are_listed_and_the_listing_goes_on() {
    let images = Images::raw();
    let vm = images.make_vm("web");
    write_qcow2(&vm.join("good.qcow2"), &pattern(1, 1 << 20), &[]);
    fs::copy(vm.join("good.qcow2"), vm.join("cut.qcow2")).expect("a copy");
    fs::OpenOptions::new().write(true).open(vm.join("cut.qcow2")).and_then(|f| f.set_len(104)).expect("cut");
    fs::write(vm.join("text.qcow2"), "not an image").expect("a file");
    fs::write(vm.join("empty.qcow2"), "").expect("a file");
    write_qcow2(&vm.join("zstd.qcow2"), &pattern(1, 65_536), &["-c", "-o", "compression_type=zstd"]);
    images.add_vm("other", &[("root", pattern(1, 512))]).await;
    let listing = images.port().inventory().await.expect("a listing");
    assert_eq!(listing.vms.len(), 2);
    let web = listing.vms.iter().find(|vm| vm.name == "web").expect("web");
    let supported: Vec<_> = web.disks.iter().map(|d| (d.name.as_str(), d.supported)).collect();
    let expected = [("cut", false), ("empty", false), ("good", true), ("text", false), ("zstd", false)];
    assert_eq!(supported, expected, "{:?}", listing.problems);
    assert_eq!(listing.problems.len(), 4, "{:?}", listing.problems);
}

#[tokio::test]
async fn disks_of_one_stem_are_told_apart() {
    let images = Images::raw();
    let vm = images.make_vm("web");
    write_raw(&vm.join("a.raw"), &pattern(1, 512));
    write_qcow2(&vm.join("a.qcow2"), &pattern(2, 512), &[]);
    let vm = find(&images.port(), "web").await.expect("web");
    assert_eq!(vm.disks.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["a.qcow2", "a.raw"]);
}

#[tokio::test]
async fn incarnations_survive_a_move_of_the_tree_and_tell_copies_apart_by_path() {
    let images = Images::raw();
    images.add_vm("web", &[("root", pattern(1, 512))]).await;
    let before = find(&images.port(), "web").await.expect("web");
    let moved = images.dir.path().join("moved");
    fs::rename(images.root(), &moved).expect("a move");
    let driver = ImagesHypervisor::new(moved.clone(), Arc::new(SeededIds::new(77)));
    let after = driver.inventory().await.expect("a listing").vms.remove(0);
    assert_eq!((&before.native_id, &before.incarnation), (&after.native_id, &after.incarnation));
    // A damaged marker is an error: a machine must not seem to be another one.
    fs::write(moved.join("c1/h1/ds1/web/.portolan-id"), "\n").expect("a file");
    assert!(matches!(driver.inventory().await, Err(DriverError::Unreachable { .. })));
}

#[tokio::test]
async fn two_drivers_that_see_a_machine_first_agree_on_it() {
    let images = Images::raw();
    images.add_vm("web", &[("root", pattern(1, 512))]).await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let port = images.port();
            tokio::spawn(async move { port.inventory().await.expect("a listing").vms.remove(0).incarnation })
        })
        .collect();
    let mut seen = std::collections::HashSet::new();
    for task in tasks {
        seen.insert(task.await.expect("no panic"));
    }
    assert_eq!(seen.len(), 1);
    let left = fs::read_dir(images.vm("web")).expect("a directory").count();
    assert_eq!(left, 2, "the image and the marker");
}
