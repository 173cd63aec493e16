//! Machines made on the spot: sparse disks with what real ones hold, the same at every run.

use crate::error::{Failure, OrFail};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of a mebibyte.
const MIB: u64 = 1 << 20;
/// The disks' contents are decided region by region, of so many bytes.
const REGION: u64 = 256 * 1024;
/// So many regions at the beginning of a system disk are the same on every machine: the operating system.
const SHARED_REGIONS: u64 = 64;

/// A machine to make.
pub(super) struct Machine {
    pub(super) name: &'static str,
    cluster: &'static str,
    host: &'static str,
    disks: &'static [Disk],
}

/// A disk to make.
struct Disk {
    name: &'static str,
    mib: u64,
    qcow2: bool,
    system: bool,
}

const fn disk(name: &'static str, mib: u64, system: bool) -> Disk {
    Disk { name, mib, qcow2: false, system }
}

/// The machines: two clusters, each with a host and a datastore.
const MACHINES: [Machine; 4] = [
    Machine { name: "web01", cluster: "harbour", host: "pier-1", disks: &[disk("system", 128, true)] },
    Machine {
        name: "db01",
        cluster: "harbour",
        host: "pier-1",
        disks: &[disk("system", 96, true), disk("data", 192, false)],
    },
    Machine { name: "mail01", cluster: "anchorage", host: "buoy-1", disks: &[disk("system", 128, true)] },
    Machine {
        name: "files01",
        cluster: "anchorage",
        host: "buoy-1",
        disks: &[Disk { name: "system", mib: 96, qcow2: true, system: true }],
    },
];

/// A disk that was made: where the platform has it, and what it holds as a raw image.
pub(super) struct MadeDisk {
    pub(super) machine: &'static str,
    pub(super) name: &'static str,
    image: PathBuf,
    /// The same file where the image is raw.
    pub(super) original: PathBuf,
    pub(super) bytes: u64,
}

/// The disks of all machines.
pub(super) struct Made {
    pub(super) disks: Vec<MadeDisk>,
    pub(super) qcow2: bool,
}

impl Made {
    /// The machines' names.
    pub(super) fn machines(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.disks.iter().map(|d| d.machine).collect();
        names.dedup();
        names
    }
}

/// Whether qcow2 images can be made here.
fn have_qemu_img() -> bool {
    Command::new("qemu-img").arg("--version").output().is_ok_and(|out| out.status.success())
}

/// Makes every machine below `root`; the raw originals of qcow2 images go to `originals`. Blocks.
pub(super) fn make(root: &Path, originals: &Path) -> Result<Made, Failure> {
    let qcow2 = have_qemu_img();
    let mut disks = Vec::new();
    fs::create_dir_all(originals).or_fail(|| format!("{} cannot be made", originals.display()))?;
    for machine in &MACHINES {
        let directory = root.join(machine.cluster).join(machine.host).join("ssd").join(machine.name);
        fs::create_dir_all(&directory).or_fail(|| format!("{} cannot be made", directory.display()))?;
        let about = serde_json::json!({ "cpus": 2, "memory_bytes": 2048 * MIB, "tags": ["demo"] });
        fs::write(directory.join("vm.json"), about.to_string())
            .or_fail(|| format!("{} cannot be written", directory.display()))?;
        for disk in machine.disks {
            let as_qcow2 = disk.qcow2 && qcow2;
            let image = directory.join(format!("{}.{}", disk.name, if as_qcow2 { "qcow2" } else { "raw" }));
            let original = match as_qcow2 {
                true => originals.join(format!("{}-{}.raw", machine.name, disk.name)),
                false => image.clone(),
            };
            let made = MadeDisk { machine: machine.name, name: disk.name, image, original, bytes: disk.mib * MIB };
            fill(&made, disk.system).or_fail(|| format!("{} cannot be written", made.original.display()))?;
            made.convert()?;
            disks.push(made);
        }
    }
    Ok(Made { disks, qcow2 })
}

impl MadeDisk {
    /// Brings the qcow2 image up to date with its original.
    fn convert(&self) -> Result<(), Failure> {
        if self.image == self.original {
            return Ok(());
        }
        let what = || format!("{} cannot be made", self.image.display());
        let run = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .arg(&self.original)
            .arg(&self.image)
            .output();
        let out = run.or_fail(what)?;
        if out.status.success() {
            return Ok(());
        }
        Err(Failure::new(what()).because(String::from_utf8_lossy(&out.stderr).trim().to_owned()))
    }
}

/// A day's work: a few blocks are written anew, and a little that was empty is not any more. Returns the bytes
/// written. Blocks.
pub(super) fn change(made: &Made) -> Result<u64, Failure> {
    let mut written = 0;
    for disk in &made.disks {
        let what = || format!("{} cannot be written", disk.original.display());
        let file = File::options().write(true).open(&disk.original).or_fail(what)?;
        let mut random = Random::of(&format!("{}/{} changes", disk.machine, disk.name));
        let regions = disk.bytes / REGION;
        for _ in 0..(regions / 48).max(2) {
            let at = random.below(regions) * REGION + random.below(REGION / 4096) * 4096;
            let bytes = if random.below(2) == 0 { text(&mut random, 16 * 1024) } else { noise(&mut random, 16 * 1024) };
            let fits = bytes.len().min(usize::try_from(disk.bytes - at).unwrap_or(0));
            file.write_all_at(&bytes[..fits], at).or_fail(what)?;
            written += fits as u64;
        }
        file.sync_all().or_fail(what)?;
        disk.convert()?;
    }
    Ok(written)
}

/// Where two files differ first; nothing when they are the same, to the last byte. Blocks.
pub(super) fn difference(a: &Path, b: &Path) -> io::Result<Option<u64>> {
    let (mut left, mut right) = (File::open(a)?, File::open(b)?);
    let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        let (n, m) = (read_full(&mut left, &mut one)?, read_full(&mut right, &mut other)?);
        if one[..n] != other[..m] {
            let first = one[..n].iter().zip(&other[..m]).position(|(x, y)| x != y);
            return Ok(Some(at + first.unwrap_or(n.min(m)) as u64));
        }
        if n == 0 {
            return Ok(None);
        }
        at += n as u64;
    }
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read(&mut buffer[done..])? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

/// Fills a new image: a shared beginning on system disks, then holes, texts and what cannot be compressed.
fn fill(disk: &MadeDisk, system: bool) -> io::Result<()> {
    let file = File::options().write(true).create_new(true).open(&disk.original)?;
    file.set_len(disk.bytes)?;
    let mut shared = Random::of("the operating system");
    let mut own = Random::of(&format!("{}/{}", disk.machine, disk.name));
    for region in 0..disk.bytes / REGION {
        let common = system && region < SHARED_REGIONS;
        let random = if common { &mut shared } else { &mut own };
        let size = usize::try_from(REGION).unwrap_or(0);
        let bytes = match random.below(100) {
            n if common && n < 70 => text(random, size),
            _ if common => noise(random, size),
            // Most of a disk is empty.
            0..64 => continue,
            64..88 => text(random, size),
            _ => noise(random, size),
        };
        file.write_all_at(&bytes, region * REGION)?;
    }
    file.sync_all()
}

/// Words, as in logs and documents.
fn text(random: &mut Random, size: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "error ",
        "the ",
        "request ",
        "of ",
        "harbour ",
        "from ",
        "10.0.",
        "status=",
        "ok\n",
        "pilot ",
        "chart ",
        "user ",
        "2026-11-21 ",
        "depth ",
        "index ",
        "table ",
    ];
    let mut out = Vec::with_capacity(size + 16);
    while out.len() < size {
        let draw = random.next();
        for part in 0..8 {
            let word = WORDS[usize::try_from(draw >> (part * 4) & 15).unwrap_or(0)];
            out.extend_from_slice(word.as_bytes());
        }
        out.extend_from_slice(format!("{:08x} ", draw >> 32).as_bytes());
    }
    out.truncate(size);
    out
}

/// Bytes as in pictures and archives.
fn noise(random: &mut Random, size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size + 8);
    while out.len() < size {
        out.extend_from_slice(&random.next().to_le_bytes());
    }
    out.truncate(size);
    out
}

/// Numbers that look random and are the same at every run.
struct Random(u64);

impl Random {
    fn of(seed: &str) -> Self {
        Self(seed.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let mut bytes = vec![7_u8; 3 << 20];
        fs::write(&a, &bytes).unwrap();
        fs::write(&b, &bytes).unwrap();
        assert_eq!(difference(&a, &b).unwrap(), None);
        bytes[(2 << 20) + 5] = 8;
        fs::write(&b, &bytes).unwrap();
        assert_eq!(difference(&a, &b).unwrap(), Some((2 << 20) + 5));
        fs::write(&b, &bytes[..100]).unwrap();
        assert_eq!(difference(&a, &b).unwrap(), Some(100));
    }

    #[test]
    fn disks_are_the_same_at_every_run() {
        let dir = tempfile::tempdir().unwrap();
        let one = |name: &str| {
            let original = dir.path().join(name);
            let disk = MadeDisk { machine: "m", name: "d", image: original.clone(), original, bytes: 4 * MIB };
            fill(&disk, false).unwrap();
            disk.original
        };
        assert_eq!(difference(&one("a"), &one("b")).unwrap(), None);
    }
}
