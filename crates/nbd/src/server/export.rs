//! What is served: the device port, and exports made of devices.

use crate::client::BASE_ALLOCATION;
use crate::error::NbdError;
use crate::wire::{self, MAX_STRING};
use async_trait::async_trait;
use bytes::Bytes;
use portolan_block::{BlockError, BlockExtent, BlockSource, union};
use std::ops::Range;
use std::sync::Arc;

/// A disk that can be served. Offsets and sizes are bytes. Ranges are within the size and not empty: the server has
/// checked. Several calls may run at once, also on the same bytes.
#[async_trait]
pub trait ExportDevice: Send + Sync {
    /// The size, which never changes.
    fn size(&self) -> u64;

    /// Whether the methods that change something fail. They do unless they are overridden.
    fn is_read_only(&self) -> bool {
        true
    }

    /// What lies in a range, as [`BlockSource::extents`].
    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError>;

    /// Reads ranges, in their order.
    async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError>;

    /// Writes all of `data`. Once it is done, every read sees it.
    async fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        let _ = (offset, data);
        Err(read_only())
    }

    /// Makes a range read as zeros.
    async fn zero(&self, range: Range<u64>) -> Result<(), BlockError> {
        let _ = range;
        Err(read_only())
    }

    /// Forgets a range. What it reads as then is up to the device.
    async fn trim(&self, range: Range<u64>) -> Result<(), BlockError> {
        let _ = range;
        Err(read_only())
    }

    /// Makes everything written durable, as far as the device can be durable at all.
    async fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
}

fn read_only() -> BlockError {
    BlockError::Unsupported("the export is read-only".into())
}

/// A block source, served read-only.
#[derive(Clone)]
pub struct SourceDevice {
    source: Arc<dyn BlockSource>,
}

impl SourceDevice {
    /// Serves `source`.
    pub fn new(source: Arc<dyn BlockSource>) -> Self {
        Self { source }
    }
}

#[async_trait]
impl ExportDevice for SourceDevice {
    fn size(&self) -> u64 {
        self.source.size()
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        self.source.extents(range).await
    }

    async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
        self.source.read_many(ranges).await
    }
}

/// A device under a name, with what the server tells about it.
#[derive(Clone)]
pub struct Export {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) device: Arc<dyn ExportDevice>,
    pub(super) bitmaps: Vec<Bitmap>,
}

/// Ranges under the name of a metadata context.
#[derive(Debug, Clone)]
pub(super) struct Bitmap {
    pub(super) context: String,
    /// Sorted, disjoint and joined.
    ranges: Vec<Range<u64>>,
}

impl Bitmap {
    /// Runs of a range in or out of the bitmap, each with its length, at most `most` of them.
    pub(super) fn runs(&self, range: &Range<u64>, most: usize) -> Vec<(u64, u32)> {
        let mut out = Vec::new();
        let mut at = range.start;
        let mut next = self.ranges.partition_point(|dirty| dirty.end <= at);
        while at < range.end && out.len() < most {
            let (end, flags) = match self.ranges.get(next) {
                Some(dirty) if dirty.start <= at => {
                    next += 1;
                    (dirty.end, 1)
                }
                Some(dirty) => (dirty.start, 0),
                None => (range.end, 0),
            };
            let end = end.min(range.end);
            out.push((end - at, flags));
            at = end;
        }
        out
    }
}

impl Export {
    /// Serves `device` as `name`. A client that gives no name gets the export named `""`, or the only one.
    pub fn new(name: impl Into<String>, device: Arc<dyn ExportDevice>) -> Self {
        Self { name: name.into(), description: String::new(), device, bitmaps: Vec::new() }
    }

    /// Describes the export to who lists exports.
    #[must_use]
    pub fn described(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// Offers ranges, in any order, under a metadata context such as `qemu:dirty-bitmap:NAME`: bit 0 is set in them.
    #[must_use]
    pub fn with_bitmap(mut self, context: impl Into<String>, ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        self.bitmaps.push(Bitmap { context: context.into(), ranges: union(ranges) });
        self
    }

    /// Fails with [`NbdError::Invalid`] on what clients would not stand.
    pub(super) fn check(&self) -> Result<(), NbdError> {
        let invalid = |what: &str| Err(NbdError::Invalid(what.to_owned()));
        if self.name.len() > MAX_STRING || self.description.len() > MAX_STRING {
            return invalid("the export's name or description is too long");
        }
        let size = self.device.size();
        if size == 0 || i64::try_from(size).is_err() {
            return invalid("the export's size");
        }
        for (index, bitmap) in self.bitmaps.iter().enumerate() {
            let sound = bitmap.context.len() <= MAX_STRING
                && bitmap.context.split_once(':').is_some_and(|(space, leaf)| !space.is_empty() && !leaf.is_empty());
            let taken = self.bitmaps[..index].iter().any(|other| other.context == bitmap.context);
            if !sound || taken || bitmap.context == BASE_ALLOCATION {
                return invalid("a bitmap's context");
            }
        }
        Ok(())
    }

    /// The names of all contexts. Their places are their ids.
    pub(super) fn contexts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(BASE_ALLOCATION).chain(self.bitmaps.iter().map(|bitmap| bitmap.context.as_str()))
    }

    /// Transmission flags.
    pub(super) fn flags(&self, structured: bool) -> u16 {
        // Reads of a device that nobody writes are the same on all connections.
        let kind = if self.device.is_read_only() {
            wire::READ_ONLY | wire::CAN_MULTI_CONN
        } else {
            wire::SEND_FUA | wire::SEND_TRIM | wire::SEND_WRITE_ZEROES
        };
        let whole = if structured { wire::SEND_DF } else { 0 };
        wire::HAS_FLAGS | wire::SEND_FLUSH | kind | whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_tells_runs() {
        let bitmap = Bitmap { context: "x:y".into(), ranges: vec![10..20, 30..40] };
        assert_eq!(bitmap.runs(&(0..50), 9), [(10, 0), (10, 1), (10, 0), (10, 1), (10, 0)]);
        assert_eq!(bitmap.runs(&(15..35), 9), [(5, 1), (10, 0), (5, 1)]);
        assert_eq!(bitmap.runs(&(20..50), 2), [(10, 0), (10, 1)]);
        assert_eq!(bitmap.runs(&(40..50), 9), [(10, 0)]);
    }
}
