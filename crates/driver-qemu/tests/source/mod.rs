//! A backup to run guests from: a raw file, as a source that can be made to fail.
#![allow(dead_code, reason = "each test uses some of it")]

use async_trait::async_trait;
use bytes::Bytes;
use portolan_block::{BlockError, BlockExtent, BlockSource, ExtentKind};
use portolan_driver::{InstantDisk, InstantRequest};
use rustix::fs::SeekFrom;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(crate) struct FileSource {
    file: File,
    size: u64,
    /// Whether reads fail.
    pub(crate) broken: AtomicBool,
    /// How many reads were asked for.
    pub(crate) reads: AtomicU64,
    /// Bytes that may be read, at which reads begin to fail.
    pub(crate) allowance: AtomicU64,
}

impl FileSource {
    pub(crate) fn open(path: &Path) -> Arc<Self> {
        let file = File::open(path).expect("a backup");
        let size = file.metadata().expect("a backup").len();
        let (broken, reads, allowance) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Arc::new(Self { file, size, broken, reads, allowance })
    }
}

#[async_trait]
impl BlockSource for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        let mut out = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let data = rustix::fs::seek(&self.file, SeekFrom::Data(at)).unwrap_or(range.end).min(range.end);
            if data > at {
                out.push(BlockExtent::new(at..data, ExtentKind::Hole));
                at = data;
                continue;
            }
            let hole = rustix::fs::seek(&self.file, SeekFrom::Hole(at)).unwrap_or(range.end).min(range.end);
            out.push(BlockExtent::new(at..hole, ExtentKind::Data));
            at = hole;
        }
        Ok(out)
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BlockError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let failed = |source| BlockError::Io { action: "read", offset, source };
        let left = self.allowance.load(Ordering::SeqCst);
        if left < len as u64 || self.broken.load(Ordering::SeqCst) {
            return Err(failed(std::io::Error::other("the backup is not to be had")));
        }
        self.allowance.store(if left == u64::MAX { left } else { left - len as u64 }, Ordering::SeqCst);
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).map_err(failed)?;
        Ok(bytes.into())
    }
}

/// The demo guest's disk as a raw file in `dir`.
pub(crate) fn demo_backup(dir: &Path) -> PathBuf {
    let image = portolan_testkit::demo_guest::image().unwrap_or_else(|text| panic!("{text}"));
    let path = dir.join("backup.raw");
    let done = Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(image).arg(&path).status();
    assert!(done.expect("qemu-img").success());
    path
}

pub(crate) fn wish(name: &str, token: &str, fence: i64, sources: &[Arc<FileSource>]) -> InstantRequest {
    let disk =
        |(n, source): (usize, &Arc<FileSource>)| InstantDisk { name: format!("disk{n}"), source: source.clone() };
    InstantRequest {
        token: token.into(),
        fence,
        name: name.into(),
        template: None,
        datastore: None,
        disks: sources.iter().enumerate().map(disk).collect(),
        isolated: false,
    }
}
