//! Block sources and sinks: extents, holes and batched reads. Nothing else.
//!
//! A [`BlockSource`] is a disk image that stands still: a snapshot, a file that nobody writes, a recovery point
//! in a repository. A [`BlockSink`] is a disk image that is being made.

mod extent;
mod memory;

pub use extent::{BlockExtent, ExtentKind, clip, coalesce, intersect, union};
pub use memory::{MemorySink, MemorySource, ZeroSource};

use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;

/// Why a block could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The operating system or the network said no.
    #[error("cannot {action} at byte {offset}")]
    Io {
        /// `read`, `write`, `map` or `flush`.
        action: &'static str,
        /// Where on the disk, in bytes.
        offset: u64,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// The file system or the datastore is full.
    #[error("no space left for the disk")]
    NoSpace,
    /// The image contradicts itself, or does not hold what it maps.
    #[error("the disk image is damaged at byte {offset}: {what}")]
    Corrupt {
        /// Where on the disk, in bytes.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// The request reaches past the disk's end.
    #[error("bytes {start}..{end} reach past the disk's end at {size}")]
    OutOfRange {
        /// First byte asked for.
        start: u64,
        /// End of the request.
        end: u64,
        /// The disk's size in bytes.
        size: u64,
    },
    /// The image did not stand still: what was read may be of two moments and must be thrown away.
    #[error("the disk changed while it was read: {0}")]
    Changed(String),
    /// The image uses something that this driver cannot do.
    #[error("unsupported: {0}")]
    Unsupported(String),
}

/// A disk image that stands still. Offsets and sizes are bytes.
#[async_trait]
pub trait BlockSource: Send + Sync {
    /// The virtual size.
    fn size(&self) -> u64;

    /// What lies in `range`: extents in order, without gaps, that cover exactly the range. Anything but
    /// [`ExtentKind::Data`] reads as zeros and need not be read. A source that knows nothing says all is data.
    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError>;

    /// Reads exactly `len` bytes at `offset`. A request past the end is an error, never a short answer.
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BlockError>;

    /// Reads several ranges, in their order. Sources that can do better than one after the other override this.
    async fn read_many(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
        let mut out = Vec::with_capacity(ranges.len());
        for range in ranges {
            let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
            out.push(self.read_at(range.start, len).await?);
        }
        Ok(out)
    }
}

/// A disk image that is being made. It starts out as zeros throughout.
#[async_trait]
pub trait BlockSink: Send + Sync {
    /// The virtual size.
    fn size(&self) -> u64;

    /// Writes all of `data` at `offset`.
    async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), BlockError>;

    /// Makes the range read as zeros, as a hole where the image can have one.
    async fn zero(&self, range: Range<u64>) -> Result<(), BlockError>;

    /// Makes everything written so far durable.
    async fn flush(&self) -> Result<(), BlockError>;
}

/// Fails unless `offset..offset+len` lies within a disk of `size` bytes. For adapters.
pub fn check_range(offset: u64, len: u64, size: u64) -> Result<(), BlockError> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        end => Err(BlockError::OutOfRange { start: offset, end: end.unwrap_or(u64::MAX), size }),
    }
}
