//! Reads a disk into a session: plans, reads ahead, hashes and stores, and builds the map.

use super::core::{Core, blocking};
use super::index::Index;
use super::writer::{Added, Writer};
use crate::format::map::{self, LEAF_CHUNKS, LeafRef, Root};
use crate::format::{ChunkId, Class};
use crate::port::{DiskSpec, DiskStats, Observer, RepoError};
use bytes::{Bytes, BytesMut};
use portolan_block::{BlockError, BlockSource, ExtentKind, intersect, union};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use tokio::task::JoinSet;

/// How much is read from the source at once, in bytes.
const BATCH_BYTES: u64 = 2 * 1024 * 1024;
/// Data this near to each other within the chunks to read is read together, holes and all, in bytes.
const MAX_GAP: u64 = 32 * 1024;
/// The most ranges of one batch.
const MAX_RANGES: usize = 64;

/// What became of a disk.
pub(crate) struct DiskResult {
    pub(crate) root: ChunkId,
    pub(crate) stats: DiskStats,
    /// Bytes that are not holes, in whole chunks.
    pub(crate) mapped: u64,
}

/// One chunk to read.
struct Wanted {
    number: u64,
    parent: ChunkId,
}

/// Neighbouring chunks to read, and where their data is.
struct Batch {
    chunks: Vec<Wanted>,
    ranges: Vec<Range<u64>>,
}

/// One chunk that was read.
struct Done {
    number: u64,
    id: ChunkId,
}

struct BatchDone {
    chunks: Vec<Done>,
    stats: DiskStats,
    wrote_segment: bool,
}

/// A leaf some of whose chunks are still being read.
struct Leaf {
    ids: Vec<ChunkId>,
    /// What the parent has there; nothing where it has only zeros.
    parent_ids: Option<Arc<Vec<ChunkId>>>,
    pending: usize,
    /// The parent's leaf, when nothing in it can have changed.
    kept: Option<LeafRef>,
}

/// What [`run`] works on.
pub(crate) struct Job {
    pub(crate) core: Arc<Core>,
    pub(crate) writer: Arc<Writer>,
    pub(crate) source: Arc<dyn BlockSource>,
    pub(crate) spec: DiskSpec,
    pub(crate) parent: Option<Root>,
}

impl Job {
    fn source_error(&self, source: BlockError) -> RepoError {
        RepoError::Source { disk: self.spec.name.clone(), source }
    }

    fn chunk_range(&self, number: u64) -> Range<u64> {
        let chunk = u64::from(self.core.chunk_bytes);
        let start = number.saturating_mul(chunk);
        start..start.saturating_add(chunk).min(self.source.size())
    }
}

/// Reads a disk. Returns once everything is in packs; the caller flushes them. Calls `checkpoint` whenever a
/// segment of the index was written.
pub(crate) async fn run<F>(
    job: &Job,
    observer: &dyn Observer,
    checkpoint: impl Fn() -> F + Send + Sync,
) -> Result<DiskResult, RepoError>
where
    F: Future<Output = Result<(), RepoError>> + Send,
{
    let size = job.source.size();
    let chunk = job.core.chunk_bytes;
    if size > map::max_disk_bytes(chunk) {
        return Err(RepoError::Unsupported(format!("a disk of {size} bytes in chunks of {chunk}")));
    }
    let leaf_total = map::leaf_count(size, chunk);
    let mut root = Root { size, chunk_bytes: chunk, leaves: vec![LeafRef::default(); leaf_total as usize] };
    let changed = known_changes(job, size);
    let mut state = State { stats: DiskStats { size_bytes: size, ..DiskStats::default() }, done: 0 };
    let mut leaves: BTreeMap<u64, Leaf> = BTreeMap::new();
    let mut ready: VecDeque<Batch> = VecDeque::new();
    let mut running: JoinSet<Result<BatchDone, RepoError>> = JoinSet::new();
    let width = job.core.options.workers.saturating_mul(2).saturating_add(2).min(32);
    let mut next_leaf = 0;
    loop {
        if observer.cancelled() {
            return Err(RepoError::Cancelled);
        }
        while running.len() < width {
            if let Some(batch) = ready.pop_front() {
                running.spawn(run_batch(job.core.clone(), job.writer.clone(), job.source.clone(), batch));
            } else if next_leaf < leaf_total {
                let (leaf, batches) = plan_leaf(job, next_leaf, changed.as_deref()).await?;
                let span = leaf_span(next_leaf, size, chunk);
                let to_read: u64 =
                    batches.iter().flat_map(|b| &b.chunks).map(|c| range_len(&job.chunk_range(c.number))).sum();
                state.done += span - to_read;
                ready.extend(batches);
                leaves.insert(next_leaf, leaf);
                next_leaf += 1;
                finish_leaves(job, &mut leaves, &mut root, &mut state).await?;
                observer.progress(state.done, size);
                if observer.cancelled() {
                    return Err(RepoError::Cancelled);
                }
            } else {
                break;
            }
        }
        let Some(joined) = running.join_next().await else { break };
        let batch = joined.unwrap_or_else(|e| {
            let source = std::io::Error::other(e);
            Err(RepoError::Store { action: "work on", object: "a worker's task".into(), source })
        });
        let batch = batch.map_err(|e| match e {
            RepoError::Source { source, .. } => job.source_error(source),
            other => other,
        })?;
        state.absorb(&batch.stats);
        for done in batch.chunks {
            state.done += range_len(&job.chunk_range(done.number));
            if let Some(leaf) = leaves.get_mut(&(done.number / LEAF_CHUNKS as u64)) {
                leaf.pending -= 1;
                leaf.ids[(done.number % LEAF_CHUNKS as u64) as usize] = done.id;
            }
        }
        finish_leaves(job, &mut leaves, &mut root, &mut state).await?;
        observer.progress(state.done, size);
        if batch.wrote_segment {
            checkpoint().await?;
        }
    }
    let id = store_meta(&job.core, &job.writer, root.encode(), &mut state.stats).await?;
    observer.progress(size, size);
    Ok(DiskResult { root: id, stats: state.stats, mapped: root.mapped_bytes() })
}

struct State {
    stats: DiskStats,
    done: u64,
}

impl State {
    fn absorb(&mut self, more: &DiskStats) {
        self.stats.read_bytes += more.read_bytes;
        self.stats.changed_bytes += more.changed_bytes;
        self.stats.new_bytes += more.new_bytes;
        self.stats.stored_bytes += more.stored_bytes;
        self.stats.deduplicated_bytes += more.deduplicated_bytes;
    }
}

fn range_len(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// The bytes of the disk that a leaf maps.
fn leaf_span(leaf: u64, size: u64, chunk: u32) -> u64 {
    let bytes = LEAF_CHUNKS as u64 * u64::from(chunk);
    let start = leaf.saturating_mul(bytes);
    start.saturating_add(bytes).min(size).saturating_sub(start)
}

/// What may differ from the parent, when there is a parent and somebody knows. Where one disk is longer than
/// the other, the chunk that the shorter one ends in has changed too, since what it holds past the end has.
fn known_changes(job: &Job, size: u64) -> Option<Vec<Range<u64>>> {
    let parent = job.parent.as_ref()?;
    let mut ranges = job.spec.changed.clone()?;
    if parent.size != size {
        let shorter = parent.size.min(size);
        ranges.push(shorter.saturating_sub(1)..size.max(shorter));
    }
    Some(union(ranges.into_iter().map(|r| r.start.min(size)..r.end.min(size))))
}

/// Decides what of a leaf must be read.
async fn plan_leaf(job: &Job, leaf: u64, changed: Option<&[Range<u64>]>) -> Result<(Leaf, Vec<Batch>), RepoError> {
    let chunk = u64::from(job.core.chunk_bytes);
    let first = leaf * LEAF_CHUNKS as u64;
    let bytes = first * chunk..(first * chunk).saturating_add(LEAF_CHUNKS as u64 * chunk).min(job.source.size());
    let parent = job.parent.as_ref().and_then(|p| p.leaves.get(leaf as usize)).copied().unwrap_or_default();
    // The chunks that may have changed: whole chunks.
    let within = match changed {
        None => vec![bytes.clone()],
        Some(changed) => {
            let touched = intersect(changed, std::slice::from_ref(&bytes));
            union(touched.iter().map(|r| r.start / chunk * chunk..(r.end.div_ceil(chunk) * chunk).min(bytes.end)))
        }
    };
    // Nobody needs to look into the parent's leaf where nothing has changed, unless something of it may be lost.
    let looked_at = !within.is_empty() || (!parent.id.is_zero() && job.core.with_index(Index::has_damaged));
    let parent_ids = if parent.id.is_zero() || !looked_at { None } else { Some(job.core.leaf(parent.id).await?) };
    let within = match &parent_ids {
        Some(ids) => union(within.into_iter().chain(lost_chunks(job, first, ids))),
        None => within,
    };
    if within.is_empty() && (parent.id.is_zero() || job.core.knows(&parent.id, Class::Meta)) {
        // Nothing to read: the parent's leaf stands.
        return Ok((Leaf { ids: Vec::new(), parent_ids: None, pending: 0, kept: Some(parent) }, Vec::new()));
    }
    let parent_id = |at: usize| parent_ids.as_ref().and_then(|ids| ids.get(at)).copied().unwrap_or_default();
    // Past the disk's end there is nothing, whatever a longer parent has there.
    let within_disk = usize::try_from((bytes.end - bytes.start).div_ceil(chunk)).unwrap_or(LEAF_CHUNKS);
    let mut ids: Vec<ChunkId> =
        (0..LEAF_CHUNKS).map(|at| if at < within_disk { parent_id(at) } else { ChunkId::ZERO }).collect();
    let mut data = Vec::new();
    for range in &within {
        let extents = job.source.extents(range.clone()).await.map_err(|e| job.source_error(e))?;
        data.extend(extents.into_iter().filter(|e| e.kind == ExtentKind::Data).map(|e| e.range()));
    }
    let data = union(data);
    // Every chunk that may have changed is a hole until data is found in it.
    for range in &within {
        for number in range.start / chunk..range.end.div_ceil(chunk) {
            ids[(number - first) as usize] = ChunkId::ZERO;
        }
    }
    let mut batches: Vec<Batch> = Vec::new();
    let (mut pending, mut batch_bytes, mut last_chunk) = (0, 0, None);
    for range in intersect(&data, &within) {
        let mut at = range.start;
        while at < range.end {
            let number = at / chunk;
            let end = range.end.min((number + 1) * chunk);
            if last_chunk != Some(number) {
                last_chunk = Some(number);
                pending += 1;
                let crowded = batches.last().is_none_or(|b| b.ranges.len() >= MAX_RANGES);
                if crowded || batch_bytes + chunk > BATCH_BYTES.max(chunk) {
                    batches.push(Batch { chunks: Vec::new(), ranges: Vec::new() });
                    batch_bytes = 0;
                }
                batch_bytes += chunk;
                let parent = parent_id((number - first) as usize);
                if let Some(batch) = batches.last_mut() {
                    batch.chunks.push(Wanted { number, parent });
                }
            }
            if let Some(batch) = batches.last_mut() {
                match batch.ranges.last_mut() {
                    // Not across a gap of chunks: what lies between was not asked for.
                    Some(last) if at <= last.end || at - last.end <= MAX_GAP && adjacent(last.end, at, chunk) => {
                        last.end = end;
                    }
                    _ => batch.ranges.push(at..end),
                }
            }
            at = end;
        }
    }
    Ok((Leaf { ids, parent_ids, pending, kept: None }, batches))
}

/// Where a leaf of the parent names chunks that are in damaged packs alone: they are read again, changed or not.
fn lost_chunks(job: &Job, first: u64, ids: &[ChunkId]) -> Vec<Range<u64>> {
    if !job.core.with_index(Index::has_damaged) {
        return Vec::new();
    }
    let lost = |id: &ChunkId| !id.is_zero() && !job.core.knows(id, Class::Data);
    let numbers = (first..).zip(ids).filter(|(_, id)| lost(id)).map(|(number, _)| number);
    numbers.map(|number| job.chunk_range(number)).filter(|range| range.start < range.end).collect()
}

/// Whether no whole chunk lies between the end of one range and the start of the next.
fn adjacent(end: u64, start: u64, chunk: u64) -> bool {
    start / chunk <= end.saturating_sub(1) / chunk + 1
}

/// Stores every leaf that is complete, and enters it into the root.
async fn finish_leaves(
    job: &Job,
    leaves: &mut BTreeMap<u64, Leaf>,
    root: &mut Root,
    state: &mut State,
) -> Result<(), RepoError> {
    let complete: Vec<u64> = leaves.iter().filter(|(_, leaf)| leaf.pending == 0).map(|(n, _)| *n).collect();
    let chunk = job.core.chunk_bytes;
    for number in complete {
        let Some(leaf) = leaves.remove(&number) else { continue };
        let Some(slot) = root.leaves.get_mut(number as usize) else { continue };
        let size = job.source.size();
        let chunk_len = |at: usize| {
            let start = (number * LEAF_CHUNKS as u64 + at as u64) * u64::from(chunk);
            start.saturating_add(chunk.into()).min(size).saturating_sub(start)
        };
        if let Some(kept) = leaf.kept {
            *slot = kept;
            continue;
        }
        let mut mapped = 0;
        for (at, id) in leaf.ids.iter().enumerate() {
            let parent = leaf.parent_ids.as_ref().and_then(|ids| ids.get(at));
            if !id.is_zero() {
                mapped += 1;
            } else if parent.is_some_and(|id| !id.is_zero()) {
                // Data has become a hole: a change, though there is nothing to store.
                state.stats.changed_bytes += chunk_len(at);
            }
        }
        *slot = match mapped {
            0 => LeafRef::default(),
            _ => {
                let encoded = map::encode_leaf(&leaf.ids);
                LeafRef { id: store_meta(&job.core, &job.writer, encoded, &mut state.stats).await?, mapped }
            }
        };
    }
    Ok(())
}

/// Stores a metadata chunk and returns its id.
pub(crate) async fn store_meta(
    core: &Arc<Core>,
    writer: &Arc<Writer>,
    bytes: Vec<u8>,
    stats: &mut DiskStats,
) -> Result<ChunkId, RepoError> {
    let (core, adding) = (core.clone(), writer.clone());
    let (id, (added, full)) = blocking(move || {
        let id = core.keys.chunk_id(Class::Meta, &bytes);
        adding.add(Class::Meta, &id, &bytes).map(|added| (id, added))
    })
    .await??;
    if let Added::New(stored) = added {
        stats.stored_bytes += u64::from(stored);
    }
    if let Some(pack) = full {
        writer.upload(pack).await?;
    }
    Ok(id)
}

/// Reads a batch and stores what is new in it.
async fn run_batch(
    core: Arc<Core>,
    writer: Arc<Writer>,
    source: Arc<dyn BlockSource>,
    batch: Batch,
) -> Result<BatchDone, RepoError> {
    let failed = |source| RepoError::Source { disk: String::new(), source };
    let pieces = source.read_many(&batch.ranges).await.map_err(failed)?;
    let whole = pieces.len() == batch.ranges.len()
        && pieces.iter().zip(&batch.ranges).all(|(piece, range)| piece.len() as u64 == range_len(range));
    if !whole {
        let offset = batch.ranges.first().map_or(0, |r| r.start);
        return Err(failed(BlockError::Corrupt { offset, what: "the source gave another length".into() }));
    }
    writer.wait_for_room().await;
    let permit = core.cpu.clone().acquire_owned().await.ok();
    let size = source.size();
    let storing = writer.clone();
    let (mut done, full) = blocking(move || {
        let _permit = permit;
        store_batch(&core, &storing, &batch, &pieces, size)
    })
    .await??;
    for pack in full {
        done.wrote_segment |= writer.upload(pack).await?;
    }
    Ok(done)
}

/// Hashes, compresses and seals the chunks of a batch. Blocks.
fn store_batch(
    core: &Core,
    writer: &Writer,
    batch: &Batch,
    pieces: &[Bytes],
    size: u64,
) -> Result<(BatchDone, Vec<crate::format::pack::PackBuilder>), RepoError> {
    let chunk = u64::from(core.chunk_bytes);
    let mut full = Vec::new();
    let mut stats = DiskStats { read_bytes: pieces.iter().map(|p| p.len() as u64).sum(), ..DiskStats::default() };
    let mut chunks = Vec::with_capacity(batch.chunks.len());
    for wanted in &batch.chunks {
        let start = wanted.number * chunk;
        let bytes = assemble(&batch.ranges, pieces, start..start + chunk);
        let len = (start + chunk).min(size) - start;
        let id = if is_zero(&bytes) { ChunkId::ZERO } else { core.keys.chunk_id(Class::Data, &bytes) };
        let changed = id != wanted.parent;
        // What the parent has is stored, unless that pack was found damaged since. A chunk that has become zeros is
        // counted where its leaf is finished.
        if !id.is_zero() && (changed || !core.knows(&id, Class::Data)) {
            stats.changed_bytes += if changed { len } else { 0 };
            let (added, pack) = writer.add(Class::Data, &id, &bytes)?;
            full.extend(pack);
            match added {
                Added::Known if changed => stats.deduplicated_bytes += len,
                Added::Known => {}
                Added::New(stored) => {
                    stats.new_bytes += len;
                    stats.stored_bytes += u64::from(stored);
                }
            }
        }
        chunks.push(Done { number: wanted.number, id });
    }
    Ok((BatchDone { chunks, stats, wrote_segment: false }, full))
}

/// The bytes of a chunk out of the pieces that were read; zeros where nothing was, and past the disk's end.
fn assemble(ranges: &[Range<u64>], pieces: &[Bytes], chunk: Range<u64>) -> Bytes {
    let from = ranges.partition_point(|r| r.end <= chunk.start);
    if let (Some(range), Some(piece)) = (ranges.get(from), pieces.get(from))
        && range.start <= chunk.start
        && range.end >= chunk.end
    {
        let at = (chunk.start - range.start) as usize;
        return piece.slice(at..at + (chunk.end - chunk.start) as usize);
    }
    let mut bytes = BytesMut::zeroed((chunk.end - chunk.start) as usize);
    for (range, piece) in ranges[from..].iter().zip(&pieces[from..]) {
        let (start, end) = (range.start.max(chunk.start), range.end.min(chunk.end));
        if start >= end {
            break;
        }
        let source = &piece[(start - range.start) as usize..(end - range.start) as usize];
        bytes[(start - chunk.start) as usize..(end - chunk.start) as usize].copy_from_slice(source);
    }
    bytes.freeze()
}

/// Whether all bytes are zeros. Compares blocks, which the compiler turns into wide instructions.
fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}
