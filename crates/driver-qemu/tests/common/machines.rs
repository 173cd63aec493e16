//! Guests that are made without the driver, and their disks, looked at and written without it.

use super::Place;
use portolan_driver::Extra;
use portolan_driver_qemu::{Desired, DiskSpec, GuestSpec, ImageFormat, Phase, SPEC_VERSION};
use portolan_model::Timestamp;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(1);

pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().expect("a program of QEMU's");
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// A guest that is off, with these disks.
pub(crate) fn make(place: &Place, name: &str, disks: &[(&str, Vec<u8>)]) -> GuestSpec {
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    let id = format!("i-made{number}");
    let store = place.root().join("datastores/default").join(&id);
    std::fs::create_dir_all(&store).expect("a directory");
    let mut made = Vec::new();
    for (n, (disk, content)) in disks.iter().enumerate() {
        let (raw, file) = (store.join("content"), format!("d{n}.qcow2"));
        std::fs::write(&raw, content).expect("a file");
        run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&store.join(&file))]);
        std::fs::remove_file(raw).expect("removed");
        made.push(DiskSpec {
            id: format!("d{n}"),
            name: (*disk).to_owned(),
            datastore: "default".into(),
            file,
            size_bytes: content.len() as u64,
            format: ImageFormat::Qcow2,
            base: Vec::new(),
            copy_of: Vec::new(),
            moved: 0,
        });
    }
    let spec: GuestSpec = serde_json::from_value(json!({
        "version": SPEC_VERSION, "id": id, "name": name,
        "uuid": format!("00000000-0000-4000-8000-{number:012x}"),
        "incarnation": format!("made-{number}"), "cpus": 1, "memory_bytes": 16 << 20, "machine": "q35",
        "disks": made, "phase": Phase::Ready, "desired": Desired::Stopped,
        "created_at": Timestamp::from_millis(0), "metadata": Extra::new(),
    }))
    .expect("a guest");
    let dir = place.root().join("guests").join(&id);
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join("guest.json"), serde_json::to_vec(&spec).expect("text")).expect("a file");
    spec
}

/// The file of a disk.
pub(crate) fn disk_file(place: &Place, vm: &str, disk: &str) -> PathBuf {
    let guests = std::fs::read_dir(place.root().join("guests")).expect("guests");
    for entry in guests.flatten() {
        let Ok(read) = std::fs::read(entry.path().join("guest.json")) else { continue };
        let spec: GuestSpec = serde_json::from_slice(&read).expect("a guest");
        if spec.name == vm {
            let found = spec.disks.iter().find(|one| one.name == disk).expect("the disk");
            return place.root().join("datastores").join(&found.datastore).join(&spec.id).join(&found.file);
        }
    }
    panic!("there is no guest '{vm}'");
}

/// Writes into a disk as somebody does who heeds no lock.
pub(crate) fn write(place: &Place, vm: &str, disk: &str, offset: u64, data: &[u8]) {
    let bytes = place.root().join("pattern");
    std::fs::write(&bytes, data).expect("a file");
    let image =
        format!("driver=qcow2,file.driver=file,file.locking=off,file.filename={}", text(&disk_file(place, vm, disk)));
    let command = format!("write -s {} {offset} {}", text(&bytes), data.len());
    run("qemu-io", &["--image-opts", "-c", &command, &image]);
}

/// The names of a disk's bitmaps.
pub(crate) fn bitmaps(file: &Path) -> Vec<String> {
    let told = run("qemu-img", &["info", "-U", "--output=json", text(file)]);
    let info: Value = serde_json::from_str(&told).expect("JSON");
    let all = info["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
    all.iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
}

/// The names of what is in a directory.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name().into_string().expect("text")).collect();
    names.sort();
    names
}
