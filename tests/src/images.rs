//! Disk images with content that is the same every time.

use portolan_testkit::repository::{noise, sample_disk};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// The content of a disk. Written as the format that the file's name ends with.
#[derive(Debug, Clone)]
pub struct Disk(pub Vec<u8>);

impl Disk {
    /// A disk of `mib` mebibytes with some noise, some text and some holes.
    pub fn sample(seed: u64, mib: usize) -> Self {
        Self(sample_disk(seed, mib << 20))
    }

    /// A disk of `mib` mebibytes that is full and does not compress.
    pub fn noise(seed: u64, mib: usize) -> Self {
        Self(noise(seed, mib << 20))
    }

    /// Writes the disk as a sparse raw image, or as qcow2.
    pub fn write(&self, path: &Path) {
        if path.extension().is_some_and(|end| end == "qcow2") {
            let raw = tempfile::NamedTempFile::new().unwrap();
            self.write_raw(raw.path());
            let convert = ["convert", "-f", "raw", "-O", "qcow2"];
            qemu_img(convert.iter().map(AsRef::as_ref).chain([raw.path().as_os_str(), path.as_os_str()]));
        } else {
            self.write_raw(path);
        }
    }

    fn write_raw(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.0.len() as u64).unwrap();
        for (n, block) in self.0.chunks(64 * 1024).enumerate() {
            if block.iter().any(|b| *b != 0) {
                file.write_all_at(block, n as u64 * 64 * 1024).unwrap();
            }
        }
    }
}

/// Runs `qemu-img`, which must succeed.
pub fn qemu_img<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) {
    let done = Command::new("qemu-img").args(args).output().expect("qemu-img is installed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Fails unless the image of whatever format reads as `disk`, byte for byte.
pub fn same_bytes(image: &Path, disk: &Disk) {
    let raw = tempfile::NamedTempFile::new().unwrap();
    if image.extension().is_some_and(|end| end == "qcow2") {
        let convert = ["convert", "-f", "qcow2", "-O", "raw"];
        qemu_img(convert.iter().map(AsRef::as_ref).chain([image.as_os_str(), raw.path().as_os_str()]));
    } else {
        std::fs::copy(image, raw.path()).unwrap();
    }
    let bytes = std::fs::read(raw.path()).unwrap();
    assert_eq!(bytes.len(), disk.0.len(), "{} has another length", image.display());
    let differs = bytes.iter().zip(&disk.0).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{} differs at this byte", image.display());
}
