//! Disks in memory, for tests and small embedders.

use crate::{BlockError, BlockExtent, BlockSink, BlockSource, ExtentKind, check_range, coalesce};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// How finely [`MemorySource`] tells zeros from data, in bytes.
const GRAIN: u64 = 4096;

/// A disk that is a byte string.
#[derive(Debug, Clone)]
pub struct MemorySource {
    data: Bytes,
}

impl MemorySource {
    /// A disk with this content.
    pub fn new(data: impl Into<Bytes>) -> Self {
        Self { data: data.into() }
    }
}

#[async_trait]
impl BlockSource for MemorySource {
    fn size(&self) -> u64 {
        self.data.len() as u64
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        check_range(range.start, range.end.saturating_sub(range.start), self.size())?;
        let mut out = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = ((at / GRAIN + 1) * GRAIN).min(range.end);
            let zero = self.data[at as usize..end as usize].iter().all(|b| *b == 0);
            out.push(BlockExtent::new(at..end, if zero { ExtentKind::Hole } else { ExtentKind::Data }));
            at = end;
        }
        Ok(coalesce(out))
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BlockError> {
        check_range(offset, len as u64, self.size())?;
        Ok(self.data.slice(offset as usize..offset as usize + len))
    }
}

/// A disk that holds nothing: zeros throughout.
#[derive(Debug, Clone, Copy)]
pub struct ZeroSource {
    size: u64,
}

impl ZeroSource {
    /// A disk of `size` zeros, in bytes.
    pub fn new(size: u64) -> Self {
        Self { size }
    }
}

#[async_trait]
impl BlockSource for ZeroSource {
    fn size(&self) -> u64 {
        self.size
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        check_range(range.start, range.end.saturating_sub(range.start), self.size)?;
        Ok(if range.is_empty() { Vec::new() } else { vec![BlockExtent::new(range, ExtentKind::Hole)] })
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BlockError> {
        check_range(offset, len as u64, self.size)?;
        Ok(Bytes::from(vec![0; len]))
    }
}

/// A disk that is being made in memory.
#[derive(Debug)]
pub struct MemorySink {
    data: Mutex<Vec<u8>>,
    size: u64,
}

impl MemorySink {
    /// A disk of `size` zeros.
    pub fn new(size: u64) -> Self {
        Self { data: Mutex::new(vec![0; usize::try_from(size).unwrap_or(usize::MAX)]), size }
    }

    /// What has been written so far.
    pub fn content(&self) -> Vec<u8> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl BlockSink for MemorySink {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        check_range(offset, data.len() as u64, self.size)?;
        let at = offset as usize;
        self.data.lock().unwrap_or_else(PoisonError::into_inner)[at..at + data.len()].copy_from_slice(&data);
        Ok(())
    }

    async fn zero(&self, range: Range<u64>) -> Result<(), BlockError> {
        check_range(range.start, range.end.saturating_sub(range.start), self.size)?;
        if range.start < range.end {
            self.data.lock().unwrap_or_else(PoisonError::into_inner)[range.start as usize..range.end as usize].fill(0);
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
}
