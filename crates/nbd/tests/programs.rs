//! The client with QEMU's server, and the server with the clients of QEMU and libnbd.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use bytes::Bytes;
use common::{Fixture, KIB, MIB, QemuNbd, Random, patchy, read_by_extents, run, succeed, succeed_beside, text};
use portolan_block::{BlockExtent, BlockSink, BlockSource, ExtentKind, MemorySource};
use portolan_nbd::{
    Address, ClientOptions, Connection, CowDevice, Export, MemoryDevice, NbdError, NbdSink, NbdSource, SourceDevice,
    list_contexts, list_exports,
};
use std::path::Path;
use std::sync::Arc;

/// A raw image and its copy as qcow2.
fn images(directory: &Path, disk: &[u8]) -> (std::path::PathBuf, std::path::PathBuf) {
    let (raw, qcow2) = (directory.join("disk.raw"), directory.join("disk.qcow2"));
    std::fs::write(&raw, disk).unwrap();
    succeed("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&qcow2)]);
    (raw, qcow2)
}

#[tokio::test(flavor = "multi_thread")]
async fn qcow2_images_of_qemu_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let disk = patchy(11, 24 * MIB);
    let (_, qcow2) = images(directory.path(), &disk);
    let qemu = QemuNbd::start(directory.path(), &qcow2, &["-r", "-f", "qcow2"]);
    for connections in [1, 2] {
        let source = NbdSource::connect(&qemu.address(), &ClientOptions::default(), connections).await.unwrap();
        let info = source.connection().info();
        assert!(info.structured && info.features.read_only && info.features.multi_conn, "{info:?}");
        assert!(source.read_at(0, disk.len()).await.unwrap() == disk);
        assert!(read_by_extents(&source).await == disk);
        let extents = source.extents(0..source.size()).await.unwrap();
        assert!(extents.iter().any(|extent| extent.kind == ExtentKind::Hole));
        let ranges: Vec<_> = (0..24).rev().map(|n| n * MIB as u64..(n + 1) * MIB as u64 - 5).collect();
        for (range, data) in ranges.iter().zip(source.read_many(&ranges).await.unwrap()) {
            assert!(data == disk[range.start as usize..range.end as usize]);
        }
    }
    let options = ClientOptions::default();
    assert_eq!(list_exports(&qemu.address(), &options).await.unwrap().len(), 1);
    let missing = Address::unix(&qemu.socket, "missing");
    assert!(matches!(Connection::connect(&missing, &options).await, Err(NbdError::UnknownExport(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn dirty_bitmaps_of_qemu_are_exact() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.qcow2");
    succeed("qemu-img", &["create", "-f", "qcow2", "-o", "compat=1.1", text(&image), "64M"]);
    let write = |words: &str| succeed("qemu-io", &["-f", "qcow2", "-c", words, text(&image)]);
    write("write -P 1 0 8M");
    succeed("qemu-img", &["bitmap", "--add", "-g", "64K", text(&image), "since"]);
    write("write -P 2 1M 1M");
    write("write -P 3 2M 64K");
    write("write -z 4M 128K");
    write("write -P 4 40M 100");
    succeed("qemu-img", &["bitmap", "--add", "-g", "64K", text(&image), "later"]);
    write("write -P 5 63M 1M");

    let options = |names: &[&str]| {
        let bitmaps = names.iter().map(|name| format!("qemu:dirty-bitmap:{name}"));
        let contexts = std::iter::once("base:allocation".into()).chain(bitmaps).collect();
        ClientOptions { contexts, ..ClientOptions::default() }
    };
    for (bitmap, dirty) in [
        (
            "since",
            vec![
                1 << 20..(2 << 20) + (64 << 10),
                4 << 20..(4 << 20) + (128 << 10),
                40 << 20..(40 << 20) + (64 << 10),
                63 << 20..64 << 20,
            ],
        ),
        ("later", std::iter::once(63 << 20..64 << 20).collect()),
    ] {
        let qemu = QemuNbd::start(directory.path(), &image, &["-r", "-f", "qcow2", "-B", bitmap]);
        let context = format!("qemu:dirty-bitmap:{bitmap}");
        let source = NbdSource::connect(&qemu.address(), &options(&["missing", bitmap]), 2).await.unwrap();
        assert_eq!(source.connection().info().contexts, ["base:allocation", context.as_str()]);
        assert_eq!(source.changed(&context).await.unwrap(), dirty);
        assert!(matches!(source.changed("qemu:dirty-bitmap:missing").await, Err(NbdError::Unsupported(_))));
        let zeroed = source.extents(4 << 20..(4 << 20) + (128 << 10)).await.unwrap();
        assert!(zeroed.iter().all(|extent| extent.kind != ExtentKind::Data), "{zeroed:?}");
        let listed = list_contexts(&qemu.address(), &ClientOptions::default(), &["qemu:".into()]).await.unwrap();
        assert_eq!(listed, [context]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_qemu_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.qcow2");
    succeed("qemu-img", &["create", "-f", "qcow2", text(&image), "16M"]);
    let disk = patchy(12, 16 * MIB);
    {
        let qemu = QemuNbd::start(directory.path(), &image, &["-f", "qcow2"]);
        let connection = Connection::connect(&qemu.address(), &ClientOptions::default()).await.unwrap();
        let sink = Arc::new(NbdSink::new(connection).unwrap());
        let mut writes = tokio::task::JoinSet::new();
        for (index, part) in disk.chunks(700 * KIB).enumerate() {
            let (sink, part) = (sink.clone(), Bytes::copy_from_slice(part));
            writes.spawn(async move { sink.write_at((index * 700 * KIB) as u64, part).await });
        }
        writes.join_all().await.into_iter().for_each(|done| done.unwrap());
        sink.zero(5 * MIB as u64..6 * MIB as u64).await.unwrap();
        sink.connection().trim(15 * MIB as u64..16 * MIB as u64).await.unwrap();
        sink.flush().await.unwrap();
        sink.connection().close().await.unwrap();
    }
    let raw = directory.path().join("out.raw");
    succeed("qemu-img", &["convert", "-U", "-f", "qcow2", "-O", "raw", text(&image), text(&raw)]);
    let mut wanted = disk;
    wanted[5 * MIB..6 * MIB].fill(0);
    assert!(std::fs::read(&raw).unwrap()[..15 * MIB] == wanted[..15 * MIB]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_vanishes_fails_the_source() {
    let directory = tempfile::tempdir().unwrap();
    let (_, qcow2) = images(directory.path(), &patchy(13, MIB));
    let qemu = QemuNbd::start(directory.path(), &qcow2, &["-r", "-f", "qcow2"]);
    let source = NbdSource::connect(&qemu.address(), &ClientOptions::default(), 2).await.unwrap();
    source.read_at(0, 512).await.unwrap();
    drop(qemu);
    // The process may take a moment to go.
    while source.read_at(0, 512).await.is_ok() {}
    assert!(source.read_at(0, 512).await.is_err(), "nothing connects again");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_clients_read_our_server() {
    let disk = patchy(14, 20 * MIB + 512);
    let source = Arc::new(MemorySource::new(disk.clone()));
    let context = "qemu:dirty-bitmap:b";
    let export = Export::new("disk", Arc::new(SourceDevice::new(source))).described("a test");
    let fixture = Fixture::with(export.with_bitmap(context, std::iter::once(1 << 20..2 << 20))).await;
    let uri = fixture.address().to_string();
    let info = succeed_beside("nbdinfo", &[&uri]).await;
    let size = format!("export-size: {}", disk.len());
    for line in [&size, "uri:", "is_read_only: true", "can_multi_conn: true", "base:allocation", context, "a test"] {
        assert!(info.contains(line), "{line}: {info}");
    }
    let list = succeed_beside("nbdinfo", &["--list", &format!("nbd+unix:///?socket={}", text(&fixture.socket))]).await;
    assert!(list.contains("export=\"disk\""), "{list}");
    let map = succeed_beside("nbdinfo", &["--map=qemu:dirty-bitmap:b", &uri]).await;
    let words: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    let rest = (disk.len() - 2 * MIB).to_string();
    assert_eq!(words, [["0", "1048576", "0"], ["1048576", "1048576", "1"], ["2097152", &rest, "0"]], "{map}");

    let out = fixture.directory.path().join("out");
    succeed_beside("nbdcopy", &[&uri, text(&out)]).await;
    assert!(std::fs::read(&out).unwrap() == disk);
    succeed_beside("nbdcopy", &["--synchronous", &uri, text(&out)]).await;
    assert!(std::fs::read(&out).unwrap() == disk);
    succeed_beside("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, text(&out)]).await;
    assert!(std::fs::read(&out).unwrap() == disk);
    succeed_beside("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, text(&out)]).await;

    // The map that QEMU makes of it is the source's own.
    let map = succeed_beside("qemu-img", &["map", "-f", "raw", "--output=json", &uri]).await;
    let number = |line: &str, key: &str| -> u64 {
        let rest = line.split_once(&format!("\"{key}\": ")).unwrap().1;
        rest.split([',', '}']).next().unwrap().parse().unwrap()
    };
    let found = map.lines().map(|line| {
        let start = number(line, "start");
        let kind = if line.contains("\"data\": true") { ExtentKind::Data } else { ExtentKind::Hole };
        BlockExtent::new(start..start + number(line, "length"), kind)
    });
    let wanted = MemorySource::new(disk.clone()).extents(0..disk.len() as u64).await.unwrap();
    assert_eq!(portolan_block::coalesce(found), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_clients_write_our_server() {
    let disk = patchy(15, 12 * MIB);
    let device = Arc::new(MemoryDevice::new(vec![9; disk.len()]));
    let fixture = Fixture::new(device.clone()).await;
    let raw = fixture.directory.path().join("disk.raw");
    std::fs::write(&raw, &disk).unwrap();
    let uri = fixture.address().to_string();
    succeed_beside("nbdcopy", &["--flush", text(&raw), &uri]).await;
    assert!(device.content() == disk);
    device_reset(&fixture, &uri).await;
    succeed_beside("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", text(&raw), &uri]).await;
    assert!(device.content() == disk);
}

async fn device_reset(fixture: &Fixture, uri: &str) {
    let address: Address = uri.parse().unwrap();
    assert_eq!(address, fixture.address());
    let connection = Connection::connect(&address, &ClientOptions::default()).await.unwrap();
    connection.write(0, vec![8; connection.size() as usize].into(), true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn our_server_backs_overlays_of_qemu() {
    let disk = patchy(16, 8 * MIB);
    let fixture = Fixture::new(Arc::new(SourceDevice::new(Arc::new(MemorySource::new(disk.clone()))))).await;
    let overlay = fixture.directory.path().join("overlay.qcow2");
    let uri = fixture.address().to_string();
    succeed_beside("qemu-img", &["create", "-f", "qcow2", "-F", "raw", "-b", &uri, text(&overlay)]).await;
    let script = ["-f", "qcow2", "-c", "write -P 66 3000000 200000", "-c", "write -z 6M 1M", text(&overlay)];
    succeed_beside("qemu-io", &script).await;
    let out = fixture.directory.path().join("out");
    succeed_beside("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(&overlay), text(&out)]).await;
    let mut wanted = disk;
    wanted[3_000_000..3_200_000].fill(66);
    wanted[6 * MIB..7 * MIB].fill(0);
    assert!(std::fs::read(&out).unwrap() == wanted);
    // What runs on the overlay becomes independent of the export.
    succeed_beside("qemu-img", &["rebase", "-f", "qcow2", "-b", "", text(&overlay)]).await;
    fixture.server.idle("disk").await;
    drop(fixture.server);
    succeed("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(&overlay), text(&out)]);
    assert!(std::fs::read(&out).unwrap() == wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_writes_to_a_copy_on_write_export() {
    let directory = tempfile::tempdir().unwrap();
    let disk = patchy(17, 6 * MIB + 1000);
    let base = Arc::new(MemorySource::new(disk.clone()));
    let fixture = Fixture::new(Arc::new(CowDevice::new(base, directory.path()).unwrap())).await;
    let uri = fixture.address().to_string();
    let mut wanted = disk;
    let mut random = Random(5);
    let mut words = vec!["-f".to_owned(), "raw".into()];
    for round in 0..40 {
        let at = random.below(wanted.len());
        let len = random.below(300 * KIB).min(wanted.len() - at).max(1);
        let (command, byte) = match round % 4 {
            0 => (format!("write -z {at} {len}"), 0),
            1 => (format!("write -z -u {at} {len}"), 0),
            _ => (format!("write -P {} {at} {len}", round + 1), round + 1),
        };
        words.extend(["-c".to_owned(), command]);
        wanted[at..at + len].fill(byte);
    }
    words.push(uri.clone());
    succeed_beside("qemu-io", &words.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let out = directory.path().join("out");
    succeed_beside("nbdcopy", &[&uri, text(&out)]).await;
    assert!(std::fs::read(&out).unwrap() == wanted);
    let source = NbdSource::connect(&fixture.address(), &ClientOptions::default(), 2).await.unwrap();
    assert!(read_by_extents(&source).await == wanted);
}

#[test]
fn missing_programs_are_told_with_their_package() {
    let missing = std::panic::catch_unwind(|| run("qemu-that-is-not-there", &[])).unwrap_err();
    assert!(missing.downcast_ref::<String>().unwrap().contains("apt-get install qemu-utils"));
}
