//! A directory of images that tests change behind the driver's back.
#![allow(dead_code)] // each test binary uses a part of it

use async_trait::async_trait;
use portolan_driver::Hypervisor;
use portolan_driver_images::ImagesHypervisor;
use portolan_testkit::clock::SeededIds;
use portolan_testkit::driver::HypervisorFixture;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use tempfile::TempDir;

static SEED: AtomicU64 = AtomicU64::new(1);

/// Runs one of QEMU's tools, and fails where it is missing: without them nothing here is proven.
pub(crate) fn qemu(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{tool} does not run ({error}): install the package qemu-utils"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{tool} {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// `c1/h1/ds1` in a temporary directory; new disks are raw or qcow2.
pub(crate) struct Images {
    pub(crate) dir: TempDir,
    pub(crate) qcow2: bool,
}

impl Images {
    pub(crate) fn new(qcow2: bool) -> Self {
        let dir = TempDir::new().expect("a directory");
        std::fs::create_dir_all(dir.path().join("root/c1/h1/ds1")).expect("a datastore");
        Self { dir, qcow2 }
    }

    pub(crate) fn raw() -> Self {
        Self::new(false)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.root().join("c1/h1/ds1")
    }

    pub(crate) fn vm(&self, name: &str) -> PathBuf {
        self.store().join(name)
    }

    /// Makes a machine's directory.
    pub(crate) fn make_vm(&self, name: &str) -> PathBuf {
        std::fs::create_dir_all(self.vm(name)).expect("a machine");
        self.vm(name)
    }

    pub(crate) fn port(&self) -> Arc<dyn Hypervisor> {
        // Every driver has ids of its own, as every process has.
        let ids = Arc::new(SeededIds::new(SEED.fetch_add(1, Ordering::SeqCst)));
        Arc::new(ImagesHypervisor::new(self.root(), ids))
    }
}

/// Makes a file look old, so that the next write shows however coarse the file system's clock is.
pub(crate) fn age(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).expect("a file");
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000)).expect("a time");
}

/// Writes a raw image with holes where whole blocks are zeros.
pub(crate) fn write_raw(path: &Path, content: &[u8]) {
    let file = File::create(path).expect("a file");
    file.set_len(content.len() as u64).expect("a size");
    for (index, block) in content.chunks(65_536).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0)) {
        file.write_all_at(block, index as u64 * 65_536).expect("a write");
    }
    age(path);
}

/// Writes a qcow2 image with QEMU's own tool.
pub(crate) fn write_qcow2(path: &Path, content: &[u8], options: &[&str]) {
    let raw = path.with_extension("tmp");
    write_raw(&raw, content);
    let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2"];
    arguments.extend(options);
    arguments.extend([text(&raw), text(path)]);
    qemu("qemu-img", &arguments);
    std::fs::remove_file(raw).expect("removed");
    age(path);
}

#[async_trait]
impl HypervisorFixture for Images {
    fn hypervisor(&self) -> Arc<dyn Hypervisor> {
        self.port()
    }

    async fn add_vm(&self, name: &str, disks: &[(&str, Vec<u8>)]) {
        let vm = self.make_vm(name);
        for (disk, content) in disks {
            if self.qcow2 {
                write_qcow2(&vm.join(format!("{disk}.qcow2")), content, &[]);
            } else {
                write_raw(&vm.join(format!("{disk}.raw")), content);
            }
        }
    }

    async fn remove_vm(&self, name: &str) {
        std::fs::remove_dir_all(self.vm(name)).expect("removed");
    }

    async fn write_disk(&self, vm: &str, disk: &str, offset: u64, data: &[u8]) {
        let path = self.vm(vm).join(format!("{disk}.raw"));
        if path.exists() {
            let file = OpenOptions::new().write(true).open(path).expect("a file");
            return file.write_all_at(data, offset).expect("a write");
        }
        let bytes = self.dir.path().join("pattern");
        std::fs::write(&bytes, data).expect("a write");
        let image = self.vm(vm).join(format!("{disk}.qcow2"));
        let command = format!("write -s {} {offset} {}", text(&bytes), data.len());
        qemu("qemu-io", &["-f", "qcow2", "-c", &command, text(&image)]);
    }
}
