//! Decides what of a disk must be read.

use super::batch::{Batch, Rest, Wanted};
use super::index::Index;
use super::pipeline::{Job, range_len};
use crate::format::map::{LEAF_CHUNKS, LeafRef};
use crate::format::{ChunkId, Class};
use crate::port::RepoError;
use futures_util::stream::{self, StreamExt};
use portolan_block::{ExtentKind, intersect, union};
use std::ops::Range;
use std::sync::Arc;

/// How much is read from the source at once, in bytes.
const BATCH_BYTES: u64 = 2 * 1024 * 1024;
/// Data this near to each other within the chunks to read is read together, holes and all, in bytes. Where no more
/// than this of a chunk is unchanged, the parent is not asked for it.
const MAX_GAP: u64 = 32 * 1024;
/// What may have changed is widened to whole blocks of this many bytes, which any source can read as they are.
const BLOCK: u64 = 4096;
/// How many ranges the source is asked about at once.
const QUESTIONS: usize = 16;
/// The most ranges of one batch.
const MAX_RANGES: usize = 64;

/// A leaf some of whose chunks are still being read.
pub(super) struct Leaf {
    pub(super) ids: Vec<ChunkId>,
    /// What the parent has there; nothing where it has only zeros.
    pub(super) parent_ids: Option<Arc<Vec<ChunkId>>>,
    pub(super) pending: usize,
    /// The parent's leaf, when nothing in it can have changed.
    pub(super) kept: Option<LeafRef>,
}

/// What may differ from the parent, when there is a parent and somebody knows. Where one disk is longer than
/// the other, the chunk that the shorter one ends in has changed too, since what it holds past the end has.
pub(super) fn known_changes(job: &Job) -> Option<Vec<Range<u64>>> {
    let size = job.source.size();
    let parent = job.parent.as_ref()?;
    let mut ranges = job.spec.changed.clone()?;
    if parent.size != size {
        let shorter = parent.size.min(size);
        ranges.push(shorter.saturating_sub(1)..size.max(shorter));
    }
    let whole = |r: Range<u64>| r.start / BLOCK * BLOCK..r.end.div_ceil(BLOCK).saturating_mul(BLOCK).min(size);
    Some(union(ranges.into_iter().filter(|r| r.start < r.end).map(whole)))
}

/// Decides what of a leaf must be read.
pub(super) async fn plan_leaf(
    job: &Job,
    leaf: u64,
    changed: Option<&[Range<u64>]>,
) -> Result<(Leaf, Vec<Batch>), RepoError> {
    let chunk = u64::from(job.core.chunk_bytes);
    let first = leaf * LEAF_CHUNKS as u64;
    let bytes = first * chunk..(first * chunk).saturating_add(LEAF_CHUNKS as u64 * chunk).min(job.source.size());
    let parent = job.parent.as_ref().and_then(|p| p.leaves.get(leaf as usize)).copied().unwrap_or_default();
    let told = changed.map_or_else(|| vec![bytes.clone()], |told| intersect(told, std::slice::from_ref(&bytes)));
    // The chunks that may have changed: whole chunks.
    let within = union(told.iter().map(|r| r.start / chunk * chunk..(r.end.div_ceil(chunk) * chunk).min(bytes.end)));
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
    let mut wanted = Vec::new();
    for range in &within {
        for number in range.start / chunk..range.end.div_ceil(chunk) {
            let at = (number - first) as usize;
            wanted.push(want(job, number, parent_id(at), &told));
            // Every chunk that may have changed is a hole until data is found in it.
            ids[at] = ChunkId::ZERO;
        }
    }
    let read = union(wanted.iter().flat_map(|chunk| match &chunk.rest {
        Rest::Source => vec![job.chunk_range(chunk.number)],
        Rest::Zeros(told) | Rest::Parent(told) => told.clone(),
    }));
    let mut data = Vec::new();
    // A source behind a socket is asked about many places at once.
    let mut asked = stream::iter(read.iter().cloned().map(|range| job.source.extents(range))).buffered(QUESTIONS);
    while let Some(extents) = asked.next().await {
        let extents = extents.map_err(|e| job.source_error(e))?;
        data.extend(extents.into_iter().filter(|e| e.kind == ExtentKind::Data).map(|e| e.range()));
    }
    let (pending, batches) = batches(job, wanted, &intersect(&union(data), &read));
    Ok((Leaf { ids, parent_ids, pending, kept: None }, batches))
}

/// What of a chunk must be read when these ranges may differ from the parent's.
fn want(job: &Job, number: u64, parent: ChunkId, told: &[Range<u64>]) -> Wanted {
    let place = job.chunk_range(number);
    let told: Vec<Range<u64>> = overlap(told, &place).collect();
    let rest = range_len(&place) - told.iter().map(range_len).sum::<u64>();
    let rest = if rest <= MAX_GAP {
        Rest::Source
    } else if parent.is_zero() {
        Rest::Zeros(told)
    } else if job.core.knows(&parent, Class::Data) {
        Rest::Parent(told)
    } else {
        Rest::Source
    };
    Wanted { number, parent, rest }
}

/// Cuts what must be read into batches; also how many chunks that is. Chunks without data are holes, and in none.
fn batches(job: &Job, wanted: Vec<Wanted>, data: &[Range<u64>]) -> (usize, Vec<Batch>) {
    let chunk = u64::from(job.core.chunk_bytes);
    let mut batches: Vec<Batch> = Vec::new();
    let (mut pending, mut batch_bytes) = (0, 0);
    for wanted in wanted {
        let place = job.chunk_range(wanted.number);
        let mut pieces = overlap(data, &place).peekable();
        if pieces.peek().is_none() && !matches!(wanted.rest, Rest::Parent(_)) {
            continue;
        }
        pending += 1;
        let crowded = batches.last().is_none_or(|b| b.ranges.len() >= MAX_RANGES);
        if crowded || batch_bytes + chunk > BATCH_BYTES.max(chunk) {
            batches.push(Batch { chunks: Vec::new(), ranges: Vec::new() });
            batch_bytes = 0;
        }
        batch_bytes += chunk;
        let Some(batch) = batches.last_mut() else { continue };
        batch.chunks.push(wanted);
        for piece in pieces {
            match batch.ranges.last_mut() {
                // Not across a gap of chunks: what lies between was not asked for.
                Some(last)
                    if piece.start <= last.end
                        || piece.start - last.end <= MAX_GAP && adjacent(last.end, piece.start, chunk) =>
                {
                    last.end = piece.end;
                }
                _ => batch.ranges.push(piece),
            }
        }
    }
    (pending, batches)
}

/// What sorted, disjoint ranges have in common with one.
fn overlap(ranges: &[Range<u64>], with: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let (start, end) = (with.start, with.end);
    let from = ranges.partition_point(|r| r.end <= start);
    ranges[from..].iter().take_while(move |r| r.start < end).map(move |r| r.start.max(start)..r.end.min(end))
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
