//! Devices that can be written, in memory and over a file.

use super::export::ExportDevice;
use async_trait::async_trait;
use bytes::Bytes;
use portolan_block::{BlockError, BlockExtent, ExtentKind, coalesce};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How finely [`MemoryDevice`] tells zeros from data, in bytes.
const GRAIN: usize = 4096;

/// A writable disk in memory.
#[derive(Debug)]
pub struct MemoryDevice {
    data: Mutex<Vec<u8>>,
    size: u64,
}

impl MemoryDevice {
    /// A disk with this content.
    pub fn new(data: Vec<u8>) -> Self {
        Self { size: data.len() as u64, data: Mutex::new(data) }
    }

    /// What it holds.
    pub fn content(&self) -> Vec<u8> {
        self.data().clone()
    }

    fn data(&self) -> MutexGuard<'_, Vec<u8>> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ExportDevice for MemoryDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        false
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        let data = self.data();
        let (mut at, end) = (range.start as usize, range.end as usize);
        let mut out = Vec::new();
        while at < end {
            let next = ((at / GRAIN + 1) * GRAIN).min(end);
            let zero = data[at..next].iter().all(|byte| *byte == 0);
            let kind = if zero { ExtentKind::Hole } else { ExtentKind::Data };
            out.push(BlockExtent::new(at as u64..next as u64, kind));
            at = next;
        }
        Ok(coalesce(out))
    }

    async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
        let data = self.data();
        let part = |range: &Range<u64>| Bytes::copy_from_slice(&data[range.start as usize..range.end as usize]);
        Ok(ranges.iter().map(part).collect())
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        let at = offset as usize;
        self.data()[at..at + data.len()].copy_from_slice(&data);
        Ok(())
    }

    async fn zero(&self, range: Range<u64>) -> Result<(), BlockError> {
        self.data()[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }

    async fn trim(&self, range: Range<u64>) -> Result<(), BlockError> {
        self.zero(range).await
    }
}

/// A writable disk over a file of that size. All of it counts as data; zeros are written, trims do nothing.
#[derive(Debug)]
pub struct FileDevice {
    file: Arc<File>,
    size: u64,
}

impl FileDevice {
    /// Serves `file`, which is open for reading and writing and keeps its size.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), size })
    }
}

#[async_trait]
impl ExportDevice for FileDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        false
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        Ok(vec![BlockExtent::new(range, ExtentKind::Data)])
    }

    async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
        read_file(&self.file, ranges.to_vec()).await
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        write_file(&self.file, offset, data).await
    }

    async fn zero(&self, range: Range<u64>) -> Result<(), BlockError> {
        let zeros = Bytes::from(vec![0; (256 << 10).min((range.end - range.start) as usize)]);
        for piece in crate::client::pieces(&range, zeros.len() as u64) {
            self.write(piece.start, zeros.slice(..(piece.end - piece.start) as usize)).await?;
        }
        Ok(())
    }

    async fn trim(&self, _range: Range<u64>) -> Result<(), BlockError> {
        Ok(())
    }

    async fn flush(&self) -> Result<(), BlockError> {
        let file = self.file.clone();
        blocking("flush", 0, move || file.sync_data()).await
    }
}

pub(super) async fn read_file(file: &Arc<File>, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>, BlockError> {
    let file = file.clone();
    let first = ranges.first().map_or(0, |range| range.start);
    blocking("read", first, move || {
        let mut out = Vec::with_capacity(ranges.len());
        for range in &ranges {
            let mut buffer = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut buffer, range.start)?;
            out.push(buffer.into());
        }
        Ok(out)
    })
    .await
}

pub(super) async fn write_file(file: &Arc<File>, offset: u64, data: Bytes) -> Result<(), BlockError> {
    let file = file.clone();
    blocking("write", offset, move || file.write_all_at(&data, offset)).await
}

/// Runs work on files on a thread that may block.
async fn blocking<T: Send + 'static>(
    action: &'static str,
    offset: u64,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BlockError> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|source| match source.kind() {
        io::ErrorKind::StorageFull => BlockError::NoSpace,
        _ => BlockError::Io { action, offset, source },
    })
}
