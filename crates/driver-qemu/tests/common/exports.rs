//! Reading exports into files, and seeing to it that nothing is left of them.

use super::{Place, machines};
use portolan_block::ExtentKind;
use portolan_driver::{AbandonedExport, Changes, ExportRequest, ExportSession, ExportedDisk, Hypervisor};
use portolan_driver_qemu::{Guest, GuestState, QemuHost, QemuHypervisor};
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

pub(crate) fn request(guest: &Guest, token: &str, fence: i64) -> ExportRequest {
    ExportRequest {
        vm: guest.id().to_owned(),
        incarnation: guest.spec().incarnation,
        disks: None,
        token: token.into(),
        fence,
        since: None,
        keep: Vec::new(),
        quiesce: false,
    }
}

pub(crate) fn abandoned(guest: &Guest, token: &str, fence: i64) -> AbandonedExport {
    AbandonedExport { vm: guest.id().to_owned(), incarnation: guest.spec().incarnation, token: token.into(), fence }
}

pub(crate) async fn export(host: &Arc<QemuHost>, request: ExportRequest) -> Box<dyn ExportSession> {
    QemuHypervisor::new(host.clone()).open_export(request).await.unwrap_or_else(|e| panic!("no export: {e:?}"))
}

/// Reads what changed, or all, into a file as it was before; gives how many bytes were read.
pub(crate) async fn pull(disk: &ExportedDisk, into: &Path) -> u64 {
    const STEP: u64 = 4 << 20;
    let file = File::options().read(true).write(true).create(true).truncate(false).open(into).expect("a file");
    let size = disk.source.size();
    file.set_len(size).expect("a size");
    let ranges = match &disk.changes {
        Changes::Ranges(ranges) => ranges.clone(),
        _ => std::iter::once(0..size).collect(),
    };
    let mut read = 0;
    for range in ranges {
        for extent in disk.source.extents(range).await.expect("extents") {
            let mut at = extent.offset;
            while at < extent.end() {
                let len = STEP.min(extent.end() - at);
                if extent.kind == ExtentKind::Data {
                    let bytes = disk.source.read_at(at, len as usize).await.expect("bytes");
                    file.write_all_at(&bytes, at).expect("written");
                    read += len;
                } else if matches!(disk.changes, Changes::Ranges(_)) {
                    file.write_all_at(&vec![0; len as usize], at).expect("written");
                }
                at += len;
            }
        }
    }
    read
}

/// The disk as QEMU has it now, in a raw file.
pub(crate) fn truth(place: &Place, guest: &Guest, disk: &str, into: &Path) {
    let file = machines::disk_file(place, &guest.spec().name, disk);
    machines::run("qemu-img", &["convert", "-U", "-O", "raw", machines::text(&file), machines::text(into)]);
}

pub(crate) fn same(one: &Path, other: &Path) {
    let (one, other) = (machines::text(one), machines::text(other));
    machines::run("qemu-img", &["compare", "-f", "raw", "-F", "raw", one, other]);
}

pub(crate) async fn ask(guest: &Guest, command: &str, arguments: Value) -> Value {
    let arguments = (!arguments.is_null()).then_some(arguments);
    guest.qmp().expect("a monitor").execute(command, arguments).await.expect(command)
}

/// Whether the guest's QEMU is one that is believed where it says that a disk has holes.
pub(crate) fn tells_holes(guest: &Guest) -> bool {
    guest.qmp().expect("a monitor").version().major >= 10
}

/// Nothing is left but these checkpoints, and the guest goes on, if it runs.
pub(crate) async fn clean(place: &Place, guest: &Guest, kept: &[&str]) {
    let spec = guest.spec();
    let left = machines::names(guest.dir());
    let stray = |name: &&String| name.starts_with("export") || name.starts_with("nbd");
    assert_eq!(left.iter().filter(stray).collect::<Vec<_>>(), [""; 0], "in the guest's directory");
    let store = place.root().join("datastores/default").join(&spec.id);
    assert_eq!(machines::names(&store), spec.disks.iter().map(|disk| disk.file.clone()).collect::<Vec<_>>());
    let runs = guest.pid();
    let here = place.processes();
    assert!(here.iter().all(|pid| Some(*pid) == runs || runs.is_none() && here.is_empty()), "{here:?} {runs:?}");
    let mut wanted: Vec<String> = kept.iter().map(|name| (*name).to_owned()).collect();
    wanted.sort();
    if runs.is_none() {
        for disk in &spec.disks {
            let mut there = machines::bitmaps(&store.join(&disk.file));
            there.sort();
            assert_eq!(there, wanted);
        }
        return;
    }
    assert_eq!(guest.observed().state, GuestState::Running);
    assert_eq!(ask(guest, "query-status", Value::Null).await["status"], "running");
    assert_eq!(ask(guest, "query-jobs", Value::Null).await, json!([]));
    assert_eq!(ask(guest, "query-block-exports", Value::Null).await, json!([]));
    clean_nodes(guest).await;
    let nodes = ask(guest, "query-named-block-nodes", json!({ "flat": true })).await;
    for node in nodes.as_array().expect("nodes") {
        let name = node["node-name"].as_str().expect("a name");
        if spec.disks.iter().any(|disk| disk.id == name) {
            let all = node["dirty-bitmaps"].as_array().cloned().unwrap_or_default();
            let mut there: Vec<_> = all.iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect();
            there.sort();
            assert_eq!(there, wanted, "on {name}");
        }
    }
}

/// QEMU has no node of an export.
pub(crate) async fn clean_nodes(guest: &Guest) {
    let nodes = ask(guest, "query-named-block-nodes", json!({ "flat": true })).await;
    for node in nodes.as_array().expect("nodes") {
        let name = node["node-name"].as_str().expect("a name");
        assert!(!["pa-", "pc-", "ps-"].iter().any(|kind| name.starts_with(kind)), "{name}");
    }
}
