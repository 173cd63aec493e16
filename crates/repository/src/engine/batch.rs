//! Reads a batch of chunks and stores what is new in it.

use super::core::{Core, blocking};
use super::pipeline::range_len;
use super::writer::{Added, Writer};
use crate::format::pack::PackBuilder;
use crate::format::{ChunkId, Class};
use crate::port::{DiskStats, RepoError};
use bytes::{Bytes, BytesMut};
use portolan_block::{BlockError, BlockSource, ExtentKind};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// One chunk to make.
pub(super) struct Wanted {
    pub(super) number: u64,
    pub(super) parent: ChunkId,
    pub(super) rest: Rest,
}

/// Where the bytes of a chunk come from that were not told as changed. The told ones are read, or are zeros now.
pub(super) enum Rest {
    /// All of the chunk is read.
    Source,
    /// They were zeros and are.
    Zeros(Vec<Range<u64>>),
    /// They are the parent's.
    Parent(Vec<Range<u64>>),
}

/// Neighbouring chunks to make, and where the data is that must be read for them.
pub(super) struct Batch {
    pub(super) chunks: Vec<Wanted>,
    pub(super) ranges: Vec<Range<u64>>,
}

/// One chunk that was made.
pub(super) struct Done {
    pub(super) number: u64,
    pub(super) id: ChunkId,
}

/// What became of a batch.
pub(super) struct BatchDone {
    pub(super) chunks: Vec<Done>,
    pub(super) stats: DiskStats,
    /// Packs that are full now.
    pub(super) full: Vec<PackBuilder>,
}

/// What chunks are made of.
struct Material {
    /// What was read where the batch says.
    pieces: Vec<Bytes>,
    /// The parent's chunks that are needed.
    parents: HashMap<ChunkId, Bytes>,
    /// Chunks that had to be read as a whole since the parent's could not be had, by number.
    whole: HashMap<u64, Bytes>,
    read_bytes: u64,
}

/// Reads a batch and stores what is new in it.
pub(super) async fn run(
    core: Arc<Core>,
    writer: Arc<Writer>,
    source: Arc<dyn BlockSource>,
    batch: Batch,
) -> Result<BatchDone, RepoError> {
    let material = read(&core, &*source, &batch).await?;
    writer.wait_for_room().await;
    let permit = core.cpu.clone().acquire_owned().await.ok();
    let size = source.size();
    let stored = blocking(move || {
        let _permit = permit;
        store(&core, &writer, &batch, &material, size)
    });
    stored.await?
}

async fn read(core: &Arc<Core>, source: &dyn BlockSource, batch: &Batch) -> Result<Material, RepoError> {
    let chunk = u64::from(core.chunk_bytes);
    let (pieces, parents) = tokio::join!(read_ranges(source, &batch.ranges), parents(core, batch));
    let mut made = Material { pieces: pieces?, parents, whole: HashMap::new(), read_bytes: 0 };
    made.read_bytes = batch.ranges.iter().map(range_len).sum();
    for wanted in &batch.chunks {
        if matches!(wanted.rest, Rest::Parent(_)) && !made.parents.contains_key(&wanted.parent) {
            let start = wanted.number * chunk;
            let extents = source.extents(start..(start + chunk).min(source.size())).await.map_err(source_error)?;
            let data = extents.into_iter().filter(|e| e.kind == ExtentKind::Data);
            let ranges: Vec<Range<u64>> = data.map(|e| e.range()).collect();
            let pieces = read_ranges(source, &ranges).await?;
            made.whole.insert(wanted.number, assemble(&ranges, &pieces, start..start + chunk));
            made.read_bytes += ranges.iter().map(range_len).sum::<u64>();
        }
    }
    Ok(made)
}

/// Who called knows the disk's name, and puts it in.
fn source_error(source: BlockError) -> RepoError {
    RepoError::Source { disk: String::new(), source }
}

async fn read_ranges(source: &dyn BlockSource, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, RepoError> {
    let pieces = source.read_many(ranges).await.map_err(source_error)?;
    let whole = pieces.len() == ranges.len()
        && pieces.iter().zip(ranges).all(|(piece, range)| piece.len() as u64 == range_len(range));
    if whole {
        return Ok(pieces);
    }
    let offset = ranges.first().map_or(0, |r| r.start);
    Err(source_error(BlockError::Corrupt { offset, what: "the source gave another length".into() }))
}

/// The parent's chunks that parts of the batch come from; without those that cannot be had, whatever the reason.
async fn parents(core: &Arc<Core>, batch: &Batch) -> HashMap<ChunkId, Bytes> {
    let needed = batch.chunks.iter().filter(|wanted| matches!(wanted.rest, Rest::Parent(_)));
    let ids: HashSet<ChunkId> = needed.map(|wanted| wanted.parent).collect();
    if ids.is_empty() {
        return HashMap::new();
    }
    let mut parents = core.fetch_some(&ids).await;
    parents.retain(|_, bytes| bytes.len() == core.chunk_bytes as usize);
    if parents.len() < ids.len() {
        tracing::warn!(chunks = ids.len() - parents.len(), "what the parent has cannot be read: the source is");
    }
    parents
}

/// Hashes, compresses and seals the chunks of a batch. Blocks.
fn store(core: &Core, writer: &Writer, batch: &Batch, material: &Material, size: u64) -> Result<BatchDone, RepoError> {
    let chunk = u64::from(core.chunk_bytes);
    let mut full = Vec::new();
    let mut stats = DiskStats { read_bytes: material.read_bytes, ..DiskStats::default() };
    let mut chunks = Vec::with_capacity(batch.chunks.len());
    for wanted in &batch.chunks {
        let start = wanted.number * chunk;
        let bytes = material.chunk(wanted, &batch.ranges, start..start + chunk, size);
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
    Ok(BatchDone { chunks, stats, full })
}

impl Material {
    /// The bytes of a chunk of a disk of `size` bytes.
    fn chunk(&self, wanted: &Wanted, ranges: &[Range<u64>], place: Range<u64>, size: u64) -> Bytes {
        if let Some(whole) = self.whole.get(&wanted.number) {
            return whole.clone();
        }
        match (&wanted.rest, self.parents.get(&wanted.parent)) {
            (Rest::Parent(told), Some(parent)) => {
                let mut bytes = BytesMut::from(&parent[..]);
                // What was told is zeros where nothing was read, and nothing lies past the disk's end.
                let past = size.min(place.end)..place.end;
                for range in told.iter().chain([&past]) {
                    bytes[(range.start - place.start) as usize..(range.end - place.start) as usize].fill(0);
                }
                lay_over(&mut bytes, ranges, &self.pieces, &place);
                bytes.freeze()
            }
            _ => assemble(ranges, &self.pieces, place),
        }
    }
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
    lay_over(&mut bytes, ranges, pieces, &chunk);
    bytes.freeze()
}

/// Puts what was read of a chunk into its bytes.
fn lay_over(bytes: &mut [u8], ranges: &[Range<u64>], pieces: &[Bytes], chunk: &Range<u64>) {
    let from = ranges.partition_point(|r| r.end <= chunk.start);
    for (range, piece) in ranges[from..].iter().zip(&pieces[from..]) {
        let (start, end) = (range.start.max(chunk.start), range.end.min(chunk.end));
        if start >= end {
            break;
        }
        let source = &piece[(start - range.start) as usize..(end - range.start) as usize];
        bytes[(start - chunk.start) as usize..(end - chunk.start) as usize].copy_from_slice(source);
    }
}

/// Whether all bytes are zeros. Compares blocks, which the compiler turns into wide instructions.
fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}
