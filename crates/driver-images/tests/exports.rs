//! Exports of raw and qcow2 images: content, holes, backing files, damage, change.

mod common;

use common::{Images, age, qemu, text, write_qcow2, write_raw};
use portolan_block::{BlockError, ExtentKind};
use portolan_driver::{DriverError, ExportSession};
use portolan_testkit::driver::{HypervisorFixture, export_request, find, pattern, read_all};
use proptest::prelude::*;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

async fn open(images: &Images, vm: &str) -> Result<Box<dyn ExportSession>, DriverError> {
    let port = images.port();
    let mut vm = find(&port, vm).await.expect("the machine");
    let mut request = export_request(&vm, "t1", 1);
    // Disks that the listing knows to be damaged are asked for too: the error is what counts here.
    request.disks = Some(vm.disks.drain(..).map(|disk| disk.native_id).collect());
    port.open_export(request).await
}

async fn only_disk(images: &Images, vm: &str) -> Result<Vec<u8>, DriverError> {
    let session = open(images, vm).await?;
    Ok(read_all(&session.exported().disks[0].source).await?)
}

/// 3 MiB with data in some places.
fn patchy() -> Vec<u8> {
    let mut content = vec![0; 3 << 20];
    content[65_536..200_000].copy_from_slice(&pattern(1, 134_464));
    content[2 << 20..(2 << 20) + 300_000].copy_from_slice(&pattern(2, 300_000));
    content[(3 << 20) - 100..].copy_from_slice(&pattern(3, 100));
    content
}

#[tokio::test]
async fn raw_holes_are_never_read() {
    let images = Images::raw();
    let vm = images.make_vm("web");
    let file = fs::File::create(vm.join("big.raw")).expect("a file");
    file.set_len(1 << 40).expect("a size");
    file.write_all_at(&pattern(1, 4096), 1 << 39).expect("a write");
    let session = open(&images, "web").await.expect("an export");
    let source = &session.exported().disks[0].source;
    let extents = source.extents(0..1 << 40).await.expect("extents");
    let data: Vec<_> = extents.iter().filter(|e| e.kind == ExtentKind::Data).collect();
    assert!(data.iter().map(|e| e.len).sum::<u64>() <= 1 << 20, "{data:?}");
    assert!(data.iter().any(|e| e.range().contains(&(1 << 39))));
    assert_eq!(source.read_at(1 << 39, 4096).await.expect("bytes"), pattern(1, 4096));
}

#[tokio::test]
async fn qcow2_of_every_kind_reads_as_qemu_reads_it() {
    let content = patchy();
    for options in [
        &[][..],
        &["-c"],
        &["-o", "compat=0.10"],
        &["-o", "cluster_size=4k"],
        &["-o", "cluster_size=2M"],
        &["-c", "-o", "cluster_size=512"],
    ] {
        let images = Images::raw();
        let vm = images.make_vm("web");
        write_qcow2(&vm.join("root.qcow2"), &content, options);
        assert!(only_disk(&images, "web").await.expect("content") == content, "{options:?}");
    }
}

#[tokio::test]
async fn an_internal_snapshot_does_not_show() {
    let images = Images::raw();
    let vm = images.make_vm("web");
    let image = vm.join("root.qcow2");
    write_qcow2(&image, &patchy(), &[]);
    qemu("qemu-img", &["snapshot", "-c", "before", text(&image)]);
    qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 7 65536 4096", "-c", "write -z 2097152 65536", text(&image)]);
    let mut content = patchy();
    content[65_536..69_632].fill(7);
    content[2_097_152..2_162_688].fill(0);
    assert!(only_disk(&images, "web").await.expect("content") == content);
    let session = open(&images, "web").await.expect("an export");
    let extents = session.exported().disks[0].source.extents(2_097_152..2_162_688).await.expect("extents");
    assert_eq!(extents[0].kind, ExtentKind::Zero);
}

#[tokio::test]
async fn backing_files_inside_the_root_are_read_through() {
    let images = Images::raw();
    let vm = images.make_vm("web");
    let templates = images.make_vm("template");
    write_raw(&templates.join("base.raw"), &patchy());
    let middle = templates.join("middle.qcow2");
    qemu("qemu-img", &["create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", text(&middle), "4M"]);
    qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 5 1048576 65536", text(&middle)]);
    let top = vm.join("root.qcow2");
    qemu("qemu-img", &["create", "-f", "qcow2", "-b", text(&middle), "-F", "qcow2", text(&top)]);
    qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 6 65536 512", "-c", "write -z 2M 64k", text(&top)]);
    let mut content = patchy();
    content.resize(4 << 20, 0);
    content[1_048_576..1_114_112].fill(5);
    content[65_536..66_048].fill(6);
    content[2 << 20..(2 << 20) + 65_536].fill(0);
    assert!(only_disk(&images, "web").await.expect("content") == content);

    // The moment is that of the whole chain.
    age(&templates.join("base.raw"));
    let session = open(&images, "web").await.expect("an export");
    fs::write(templates.join("base.raw"), pattern(1, 512)).expect("a write");
    let error = read_all(&session.exported().disks[0].source).await.expect_err("noticed");
    assert!(matches!(&error, BlockError::Changed(what) if what.contains("base.raw")), "{error:?}");
}

#[tokio::test]
async fn backing_files_that_escape_are_refused() {
    let images = Images::raw();
    let outside = images.dir.path().join("secret.raw");
    write_raw(&outside, &pattern(9, 65_536));
    let vm = images.make_vm("web");
    symlink(&outside, vm.join(".link")).expect("a link");
    let image = vm.join("root.qcow2");
    for name in [text(&outside), "../../../../../secret.raw", ".link", "/etc/passwd", "/dev/zero", "/proc/self/environ"]
    {
        qemu("qemu-img", &["create", "-f", "qcow2", "-u", "-b", name, "-F", "raw", text(&image), "65536"]);
        let error = only_disk(&images, "web").await.expect_err("refused").to_string();
        assert!(error.contains("leads out") && error.contains(name), "{name}: {error}");
        let vm = find(&images.port(), "web").await.expect("web");
        assert!(!vm.disks[0].supported);
    }
    for (name, why) in [("nbd://host/x", "not a path"), ("json:{}", "not a path"), ("base", "unknown format")] {
        qemu("qemu-img", &["create", "-f", "qcow2", text(&image), "65536"]);
        // Without a format: QEMU's tool no longer writes such images, so the name is put in by hand.
        let file = OpenOptions::new().write(true).open(&image).expect("a file");
        file.write_all_at(name.as_bytes(), 512).expect("a name");
        file.write_all_at(&512u64.to_be_bytes(), 8).expect("an offset");
        file.write_all_at(&(name.len() as u32).to_be_bytes(), 16).expect("a length");
        let error = only_disk(&images, "web").await.expect_err("refused");
        assert!(matches!(&error, DriverError::Unsupported(what) if what.contains(why)), "{name}: {error:?}");
    }
    // A chain that ends in itself, and one that is not there.
    qemu("qemu-img", &["create", "-f", "qcow2", "-u", "-b", "root.qcow2", "-F", "qcow2", text(&image), "65536"]);
    assert!(matches!(only_disk(&images, "web").await, Err(DriverError::Block(BlockError::Corrupt { .. }))));
    qemu("qemu-img", &["create", "-f", "qcow2", "-u", "-b", "gone.raw", "-F", "raw", text(&image), "65536"]);
    assert!(matches!(only_disk(&images, "web").await, Err(DriverError::NotFound { what: "image", .. })));
    // The bytes of an external data file are not the image's own.
    let data = vm.join("data.bin");
    let option = format!("data_file={}", text(&data));
    fs::remove_file(&image).expect("removed");
    qemu("qemu-img", &["create", "-f", "qcow2", "-o", &option, text(&image), "65536"]);
    assert!(matches!(only_disk(&images, "web").await, Err(DriverError::Unsupported(_))));
}

#[tokio::test]
async fn a_raw_image_is_raw_whatever_its_guest_wrote() {
    let images = Images::raw();
    let vm = images.make_vm("web");
    let image = vm.join("root.raw");
    qemu("qemu-img", &["create", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", text(&image), "65536"]);
    let bytes = fs::read(&image).expect("bytes");
    assert!(only_disk(&images, "web").await.expect("content") == bytes);
    let listing = images.port().inventory().await.expect("a listing");
    assert!(listing.problems.iter().any(|p| p.contains("named raw")), "{:?}", listing.problems);
}

#[tokio::test]
async fn a_truncated_qcow2_is_never_taken_for_zeros() {
    let content = patchy();
    for options in [&[][..], &["-c"]] {
        let images = Images::raw();
        let vm = images.make_vm("web");
        let image = vm.join("root.qcow2");
        write_qcow2(&image, &content, options);
        let whole = fs::read(&image).expect("bytes");
        // The rest of the last cluster may be missing by the format's own rules: cut before it begins.
        let last = (whole.len() as u64 - 1) / 65_536 * 65_536;
        let cuts = (0..last).step_by(65_536).chain([0, 1, 71, 72, 103, 104, 512, 70_000, last - 1]);
        for cut in cuts {
            fs::write(&image, &whole[..cut as usize]).expect("a file");
            match only_disk(&images, "web").await {
                Ok(read) => assert!(read == content, "{options:?} cut at {cut}: wrong bytes came out"),
                Err(DriverError::Block(BlockError::Corrupt { .. })) => {}
                Err(other) => panic!("{options:?} cut at {cut}: {other:?}"),
            }
        }
        fs::write(&image, &whole[..last as usize]).expect("a file");
        assert!(only_disk(&images, "web").await.is_err(), "the last cluster is missing");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bytes a header or a table holds: an answer, never a hang, a panic or a huge allocation.
    #[test]
    fn damaged_headers_and_tables_do_no_harm(
        flips in proptest::collection::vec((prop_oneof![0u64..128, 196_608u64..196_640, 262_144u64..262_400], any::<u8>()), 1..6)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let images = Images::raw();
        let vm = images.make_vm("web");
        let image = vm.join("root.qcow2");
        write_qcow2(&image, &pattern(1, 200_000).repeat(2)[..262_144], &[]);
        let file = OpenOptions::new().write(true).open(&image).expect("a file");
        for (at, byte) in flips {
            file.write_all_at(&[byte], at).expect("a write");
        }
        runtime.block_on(async {
            let listing = images.port().inventory().await.expect("a listing");
            assert_eq!(listing.vms[0].disks.len(), 1);
            if let Ok(session) = open(&images, "web").await {
                let source = &session.exported().disks[0].source;
                let some = source.size().min(1 << 20);
                if source.extents(0..some).await.is_ok() {
                    let _ = source.read_at(0, some as usize).await;
                }
            }
        });
    }
}

#[tokio::test]
async fn a_moment_is_the_same_until_a_file_changes() {
    let images = Images::raw();
    images.add_vm("web", &[("a", pattern(1, 4096)), ("b", pattern(2, 4096))]).await;
    let first = open(&images, "web").await.expect("an export");
    let second = open(&images, "web").await.expect("an export");
    assert_eq!(first.exported().moment, second.exported().moment);
    // An image that is replaced under its name does not disturb who reads the old one.
    let new = images.vm("web").join(".new");
    write_raw(&new, &pattern(3, 4096));
    fs::hard_link(images.vm("web").join("b.raw"), images.dir.path().join("kept")).expect("a link");
    let third = open(&images, "web").await.expect("an export");
    fs::rename(&new, images.vm("web").join("b.raw")).expect("a rename");
    let fourth = open(&images, "web").await.expect("an export");
    assert_ne!(third.exported().moment, fourth.exported().moment);
    assert_eq!(read_all(&fourth.exported().disks[1].source).await.expect("content"), pattern(3, 4096));
}

#[tokio::test]
async fn a_file_that_shrinks_is_a_change() {
    let images = Images::raw();
    images.add_vm("web", &[("a", pattern(1, 65_536))]).await;
    let session = open(&images, "web").await.expect("an export");
    truncate(&images.vm("web").join("a.raw"), 512);
    let error = session.exported().disks[0].source.read_at(0, 65_536).await.expect_err("noticed");
    assert!(matches!(error, BlockError::Changed(_)), "{error:?}");
    assert!(matches!(session.release(false).await, Err(DriverError::Conflict(_))));
}

fn truncate(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(len)).expect("cut");
}
