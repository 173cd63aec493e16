//! Reads a disk into a session: plans, reads ahead, hashes and stores, and builds the map.

use super::batch::{self, Batch, BatchDone};
use super::core::{Core, blocking};
use super::plan::{Leaf, known_changes, plan_leaf};
use super::writer::{Added, Writer};
use crate::format::map::{self, LEAF_CHUNKS, LeafRef, Root};
use crate::format::{ChunkId, Class};
use crate::port::{DiskSpec, DiskStats, Observer, RepoError};
use portolan_block::{BlockError, BlockSource};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use tokio::task::JoinSet;

/// What became of a disk.
pub(crate) struct DiskResult {
    pub(crate) root: ChunkId,
    pub(crate) stats: DiskStats,
    /// Bytes that are not holes, in whole chunks.
    pub(crate) mapped: u64,
}

/// What a task of [`run`] has done.
enum Step {
    Stored(BatchDone),
    /// A pack is in the store; whether a segment was written too.
    Uploaded(bool),
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
    pub(super) fn source_error(&self, source: BlockError) -> RepoError {
        RepoError::Source { disk: self.spec.name.clone(), source }
    }

    pub(super) fn chunk_range(&self, number: u64) -> Range<u64> {
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
    let changed = known_changes(job);
    let mut state = State { stats: DiskStats { size_bytes: size, ..DiskStats::default() }, done: 0 };
    let mut leaves: BTreeMap<u64, Leaf> = BTreeMap::new();
    let mut ready: VecDeque<Batch> = VecDeque::new();
    let mut running: JoinSet<Result<Step, RepoError>> = JoinSet::new();
    // Uploads run beside, since they mostly wait; who reads waits for room before it fills another pack.
    let mut reading = 0;
    let width = job.core.options.workers.saturating_mul(2).saturating_add(2).min(32);
    let mut next_leaf = 0;
    loop {
        if observer.cancelled() {
            return Err(RepoError::Cancelled);
        }
        while reading < width {
            if let Some(batch) = ready.pop_front() {
                reading += 1;
                let work = batch::run(job.core.clone(), job.writer.clone(), job.source.clone(), batch);
                running.spawn(async move { work.await.map(Step::Stored) });
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
        let step = joined.unwrap_or_else(|e| {
            let source = std::io::Error::other(e);
            Err(RepoError::Store { action: "work on", object: "a worker's task".into(), source })
        });
        let step = step.map_err(|e| match e {
            RepoError::Source { source, .. } => job.source_error(source),
            other => other,
        })?;
        let batch = match step {
            Step::Stored(batch) => batch,
            Step::Uploaded(wrote_segment) => {
                if wrote_segment {
                    checkpoint().await?;
                }
                continue;
            }
        };
        reading -= 1;
        for pack in batch.full {
            let writer = job.writer.clone();
            running.spawn(async move { writer.upload(pack).await.map(Step::Uploaded) });
        }
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

pub(super) fn range_len(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// The bytes of the disk that a leaf maps.
fn leaf_span(leaf: u64, size: u64, chunk: u32) -> u64 {
    let bytes = LEAF_CHUNKS as u64 * u64::from(chunk);
    let start = leaf.saturating_mul(bytes);
    start.saturating_add(bytes).min(size).saturating_sub(start)
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
