//! Walks over the maps of points: which chunks they need, and which places need a chunk that is damaged.

use super::core::Core;
use super::stored::{StoredPoint, parse_id, point_key};
use crate::format::ChunkId;
use crate::format::map::LEAF_CHUNKS;
use crate::port::{Damage, Observer, RepoError};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What is damaged, by key, and what is wrong with it.
pub(super) type Fault = (String, String);

/// Says what is to blame for what cannot be read.
pub(super) struct Blame {
    /// For chunks that no segment of the index lists.
    pub(super) unlisted: Fault,
}

impl Blame {
    /// `segments` are the segments of the index that are damaged.
    pub(super) fn new(segments: &[Damage]) -> Self {
        let unlisted = match segments {
            [] => ("index".into(), "a segment is missing: none lists what this place needs".into()),
            [one] => (one.object.clone(), format!("{}; no other segment lists what this place needs", one.what)),
            several => {
                let what = format!("{} segments are damaged, and no other lists what this place needs", several.len());
                ("index".into(), what)
            }
        };
        Self { unlisted }
    }

    /// The fault behind an error that came up reading `object`; an error that is no damage goes on to the caller.
    pub(super) fn fault(&self, object: &str, error: RepoError) -> Result<Fault, RepoError> {
        match error {
            RepoError::Corrupt { object, .. } if object.starts_with("chunk ") => Ok(self.unlisted.clone()),
            RepoError::Corrupt { object, what } => Ok((object, what)),
            RepoError::TooNew { found, known } => {
                Ok((object.to_owned(), format!("its format {found} is newer than {known}")))
            }
            RepoError::NotFound { .. } => Ok((object.to_owned(), "it is missing".into())),
            other => Err(other),
        }
    }
}

/// What a walk over the maps found.
#[derive(Default)]
pub(super) struct Walk {
    /// Leaves and roots that were read, and attachments' chunks.
    pub(super) meta: HashSet<ChunkId>,
    pub(super) data: HashSet<ChunkId>,
    pub(super) disks: u64,
    pub(super) damage: Vec<Damage>,
}

/// Reads all maps, each leaf once.
pub(super) async fn walk(
    core: &Arc<Core>,
    points: &[StoredPoint],
    blame: &Blame,
    observer: &dyn Observer,
) -> Result<Walk, RepoError> {
    let mut walk = Walk::default();
    let mut broken: HashMap<ChunkId, Fault> = HashMap::new();
    let leaf_bytes = LEAF_CHUNKS as u64 * u64::from(core.chunk_bytes);
    for point in points {
        let id = point.manifest.id;
        for hex in point.attachments.values() {
            walk.meta.insert(parse_id(&point_key(id), hex)?);
        }
        for (disk, root_id) in point.roots() {
            if observer.cancelled() {
                return Err(RepoError::Cancelled);
            }
            walk.disks += 1;
            let mut damaged = |(object, what): Fault, range| {
                walk.damage.push(Damage { object, what, point: Some(id), disk: Some(disk.clone()), range });
            };
            let root = match root_id {
                Ok(root_id) => {
                    walk.meta.insert(root_id);
                    core.root(root_id).await
                }
                Err(e) => Err(e),
            };
            let root = match root {
                Ok(root) => root,
                Err(e) => {
                    damaged(blame.fault(&map_of(&disk), e)?, Some(0..point.disk_bytes(&disk)));
                    continue;
                }
            };
            for (number, leaf) in (0u64..).zip(&root.leaves).filter(|(_, leaf)| !leaf.id.is_zero()) {
                let range = number * leaf_bytes..((number + 1).saturating_mul(leaf_bytes)).min(root.size);
                if let Some(fault) = broken.get(&leaf.id) {
                    damaged(fault.clone(), Some(range));
                    continue;
                }
                if !walk.meta.insert(leaf.id) {
                    continue;
                }
                match core.leaf(leaf.id).await {
                    Ok(ids) => walk.data.extend(ids.iter().filter(|id| !id.is_zero())),
                    Err(e) => {
                        let fault = blame.fault(&map_of(&disk), e)?;
                        damaged(fault.clone(), Some(range));
                        broken.insert(leaf.id, fault);
                    }
                }
            }
        }
    }
    Ok(walk)
}

fn map_of(disk: &str) -> String {
    format!("the map of disk '{disk}'")
}

/// Says which disks need the bad chunks, and where. What cannot be walked was reported by the first walk.
pub(super) async fn trace(
    core: &Arc<Core>,
    points: &[StoredPoint],
    blame: &Blame,
    bad: &HashMap<ChunkId, Fault>,
    damage: &mut Vec<Damage>,
) -> Result<(), RepoError> {
    if bad.is_empty() {
        return Ok(());
    }
    let chunk = u64::from(core.chunk_bytes);
    let leaf_bytes = LEAF_CHUNKS as u64 * chunk;
    for point in points {
        let id = point.manifest.id;
        for (name, hex) in &point.attachments {
            if let Some((object, what)) = bad.get(&parse_id(&point_key(id), hex)?) {
                let what = format!("{what} (attachment '{name}')");
                damage.push(Damage { object: object.clone(), what, point: Some(id), disk: None, range: None });
            }
        }
        for (disk, root_id) in point.roots() {
            let mut note = |(object, what): &Fault, range: std::ops::Range<u64>| {
                let (object, what, disk) = (object.clone(), what.clone(), Some(disk.clone()));
                damage.push(Damage { object, what, point: Some(id), disk, range: Some(range) });
                // Most neighbours share their fault: thousands of chunks are one place.
                join_last(damage);
            };
            let Ok(root_id) = root_id else { continue };
            let root = match core.root(root_id).await {
                Ok(root) => root,
                Err(e) => {
                    blame.fault("a map", e)?;
                    continue;
                }
            };
            if let Some(fault) = bad.get(&root_id) {
                note(fault, 0..root.size);
            }
            for (number, leaf) in (0u64..).zip(&root.leaves).filter(|(_, leaf)| !leaf.id.is_zero()) {
                let ids = match core.leaf(leaf.id).await {
                    Ok(ids) => ids,
                    Err(e) => {
                        blame.fault("a map", e)?;
                        continue;
                    }
                };
                let start = number * leaf_bytes;
                if let Some(fault) = bad.get(&leaf.id) {
                    note(fault, start..start.saturating_add(leaf_bytes).min(root.size));
                }
                for (at, chunk_id) in (0u64..).zip(ids.iter()) {
                    if let Some(fault) = bad.get(chunk_id) {
                        let start = start + at * chunk;
                        note(fault, start..start.saturating_add(chunk).min(root.size));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Makes the last two places one, where they are of one kind and touch.
fn join_last(damage: &mut Vec<Damage>) {
    let [.., before, last] = &mut damage[..] else { return };
    if joined(before, last) {
        damage.pop();
    }
}

/// Makes neighbours of one kind one place. They must be sorted.
pub(super) fn join_all(damage: &mut Vec<Damage>) {
    damage.dedup_by(|last, before| joined(before, last));
}

/// Extends `before` by `last`, where that is the same damage or touches it.
fn joined(before: &mut Damage, last: &Damage) -> bool {
    let same = (&before.object, &before.what, before.point, &before.disk)
        == (&last.object, &last.what, last.point, &last.disk);
    match (&mut before.range, &last.range) {
        (Some(range), Some(more)) if same && range.start <= more.start && more.start <= range.end => {
            range.end = range.end.max(more.end);
            true
        }
        (None, None) => same,
        _ => false,
    }
}
