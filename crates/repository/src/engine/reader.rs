//! Random access to a disk of a point.

use super::core::Core;
use crate::format::ChunkId;
use crate::format::map::{LEAF_CHUNKS, LeafRef, Root};
use crate::port::RepoError;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use portolan_block::{BlockError, BlockExtent, BlockSource, ExtentKind, check_range, coalesce};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Bytes of chunks that a reader keeps.
const CACHE_BYTES: usize = 4 * 1024 * 1024;
/// Leaves that a reader keeps: 32 KiB each.
const CACHE_LEAVES: usize = 32;
/// The most that one call reads at once, in bytes; longer reads are cut.
const STEP_BYTES: u64 = 32 * 1024 * 1024;

pub(crate) struct DiskReader {
    core: Arc<Core>,
    root: Root,
    leaves: Mutex<Lru<Arc<Vec<ChunkId>>>>,
    chunks: Mutex<Lru<Bytes>>,
}

/// The entries that were used last. Small, so that a plain queue is quick enough.
struct Lru<V> {
    most: usize,
    entries: VecDeque<(ChunkId, V)>,
}

impl<V: Clone> Lru<V> {
    fn new(most: usize) -> Self {
        Self { most: most.max(1), entries: VecDeque::new() }
    }

    fn get(&mut self, id: &ChunkId) -> Option<V> {
        let at = self.entries.iter().position(|(known, _)| known == id)?;
        let entry = self.entries.remove(at)?;
        let value = entry.1.clone();
        self.entries.push_front(entry);
        Some(value)
    }

    fn put(&mut self, id: ChunkId, value: V) {
        if self.get(&id).is_none() {
            self.entries.push_front((id, value));
            self.entries.truncate(self.most);
        }
    }
}

/// What a failure of the repository is to whoever reads a disk.
fn block_error(offset: u64) -> impl Fn(RepoError) -> BlockError {
    move |error| match error {
        RepoError::Corrupt { object, what } => BlockError::Corrupt { offset, what: format!("{object}: {what}") },
        RepoError::Store { source, .. } => BlockError::Io { action: "read", offset, source },
        other => BlockError::Io { action: "read", offset, source: std::io::Error::other(other) },
    }
}

impl DiskReader {
    pub(crate) fn new(core: Arc<Core>, root: Root) -> Self {
        let chunks = CACHE_BYTES / core.chunk_bytes as usize;
        Self { core, root, leaves: Mutex::new(Lru::new(CACHE_LEAVES)), chunks: Mutex::new(Lru::new(chunks)) }
    }

    fn chunk_bytes(&self) -> u64 {
        self.core.chunk_bytes.into()
    }

    async fn leaf(&self, number: u64) -> Result<Option<Arc<Vec<ChunkId>>>, BlockError> {
        let LeafRef { id, .. } = self.root.leaves.get(number as usize).copied().unwrap_or_default();
        if id.is_zero() {
            return Ok(None);
        }
        let cached = super::core::lock(&self.leaves).get(&id);
        if cached.is_some() {
            return Ok(cached);
        }
        let offset = number * LEAF_CHUNKS as u64 * self.chunk_bytes();
        let leaf = self.core.leaf(id).await.map_err(block_error(offset))?;
        super::core::lock(&self.leaves).put(id, leaf.clone());
        Ok(Some(leaf))
    }

    /// The ids of the chunks that these ranges touch, by number.
    async fn ids(&self, ranges: &[Range<u64>]) -> Result<HashMap<u64, ChunkId>, BlockError> {
        let chunk = self.chunk_bytes();
        let mut ids = HashMap::new();
        let mut held: Option<(u64, Option<Arc<Vec<ChunkId>>>)> = None;
        for range in ranges.iter().filter(|r| r.start < r.end) {
            for number in range.start / chunk..range.end.div_ceil(chunk) {
                let leaf_number = number / LEAF_CHUNKS as u64;
                let leaf = match &held {
                    Some((n, leaf)) if *n == leaf_number => leaf,
                    _ => &held.insert((leaf_number, self.leaf(leaf_number).await?)).1,
                };
                let id = leaf.as_ref().and_then(|ids| ids.get((number % LEAF_CHUNKS as u64) as usize));
                ids.insert(number, id.copied().unwrap_or_default());
            }
        }
        Ok(ids)
    }

    async fn read_step(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
        let chunk = self.chunk_bytes();
        let offset = ranges.first().map_or(0, |r| r.start);
        let ids = self.ids(ranges).await?;
        let mut have: HashMap<ChunkId, Bytes> = HashMap::new();
        let mut want: HashSet<ChunkId> = HashSet::new();
        {
            let mut cache = super::core::lock(&self.chunks);
            for id in ids.values().filter(|id| !id.is_zero()) {
                match cache.get(id) {
                    Some(bytes) => drop(have.insert(*id, bytes)),
                    None => drop(want.insert(*id)),
                }
            }
        }
        if !want.is_empty() {
            let fetched = match self.core.fetch(&want).await.map_err(block_error(offset))? {
                Ok(fetched) => fetched,
                Err(bad) => {
                    let first = ids.iter().filter(|(_, id)| **id == bad.id).map(|(number, _)| *number).min();
                    let offset = first.map_or(offset, |number| number * chunk);
                    return Err(block_error(offset)(bad.into()));
                }
            };
            // A long read is a restore's: it would only push out what random readers need.
            if want.len() as u64 * chunk <= CACHE_BYTES as u64 / 4 {
                let mut cache = super::core::lock(&self.chunks);
                fetched.iter().for_each(|(id, bytes)| cache.put(*id, bytes.clone()));
            }
            have.extend(fetched);
        }
        let mut out = Vec::with_capacity(ranges.len());
        for range in ranges {
            out.push(self.assemble(range, &ids, &have)?);
        }
        Ok(out)
    }

    fn assemble(
        &self,
        range: &Range<u64>,
        ids: &HashMap<u64, ChunkId>,
        have: &HashMap<ChunkId, Bytes>,
    ) -> Result<Bytes, BlockError> {
        let chunk = self.chunk_bytes();
        let mut out = BytesMut::new();
        let mut at = range.start;
        while at < range.end {
            let number = at / chunk;
            let end = range.end.min((number + 1) * chunk);
            let (from, to) = ((at - number * chunk) as usize, (end - number * chunk) as usize);
            let id = ids.get(&number).copied().unwrap_or_default();
            if id.is_zero() {
                out.resize(out.len() + (to - from), 0);
            } else {
                let bytes = have.get(&id).filter(|bytes| bytes.len() as u64 == chunk);
                let bytes =
                    bytes.ok_or(BlockError::Corrupt { offset: at, what: "a chunk has the wrong length".into() })?;
                if (at, end) == (range.start, range.end) {
                    return Ok(bytes.slice(from..to));
                }
                if out.is_empty() {
                    out.reserve((range.end - range.start) as usize);
                }
                out.extend_from_slice(&bytes[from..to]);
            }
            at = end;
        }
        Ok(out.freeze())
    }
}

#[async_trait]
impl BlockSource for DiskReader {
    fn size(&self) -> u64 {
        self.root.size
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        check_range(range.start, range.end.saturating_sub(range.start), self.root.size)?;
        let chunk = self.chunk_bytes();
        let leaf_bytes = chunk * LEAF_CHUNKS as u64;
        let mut out = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let number = at / leaf_bytes;
            let end = range.end.min((number + 1).saturating_mul(leaf_bytes));
            match self.leaf(number).await? {
                None => out.push(BlockExtent::new(at..end, ExtentKind::Hole)),
                Some(ids) => {
                    while at < end {
                        let next = end.min((at / chunk + 1) * chunk);
                        let id = ids.get((at / chunk % LEAF_CHUNKS as u64) as usize).copied().unwrap_or_default();
                        let kind = if id.is_zero() { ExtentKind::Hole } else { ExtentKind::Data };
                        out.push(BlockExtent::new(at..next, kind));
                        at = next;
                    }
                }
            }
            at = end;
            out = coalesce(out);
        }
        Ok(out)
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BlockError> {
        let end = offset.saturating_add(len as u64);
        let mut read = self.read_many(std::slice::from_ref(&(offset..end))).await?;
        Ok(read.pop().unwrap_or_default())
    }

    async fn read_many(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
        for range in ranges {
            check_range(range.start, range.end.saturating_sub(range.start), self.root.size)?;
        }
        let total: u64 = ranges.iter().map(|r| r.end.saturating_sub(r.start)).sum();
        if total <= STEP_BYTES {
            return self.read_step(ranges).await;
        }
        let mut out = Vec::with_capacity(ranges.len());
        for range in ranges {
            let mut whole = BytesMut::with_capacity(range.end.saturating_sub(range.start) as usize);
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min(at + STEP_BYTES);
                for part in self.read_step(std::slice::from_ref(&(at..end))).await? {
                    whole.extend_from_slice(&part);
                }
                at = end;
            }
            out.push(whole.freeze());
        }
        Ok(out)
    }
}
