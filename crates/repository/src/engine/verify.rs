//! Verification at three depths, with damage traced to points, disks and ranges.
//!
//! First every map in scope is walked, which gives the distinct chunks; then the packs are read, each once; then,
//! only if anything is wrong, the maps are walked again to say who needs what is damaged.

use super::core::{BadChunk, Core, blocking, store_error};
use super::index::{PackInfo, Place};
use super::packs::{check_pack_bytes, pack_sizes};
use super::stored::{StoredPoint, parse_id, point_key};
use crate::format::config::Config;
use crate::format::map::LEAF_CHUNKS;
use crate::format::{ChunkId, record};
use crate::object::ObjectError;
use crate::port::{Damage, Observer, RepoError, VerifyDepth, VerifyReport, VerifyScope};
use portolan_model::RecoveryPointId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Damage of an object that is not traced to a point.
pub(super) fn object_damage(object: &str, what: impl Into<String>) -> Damage {
    Damage { object: object.to_owned(), what: what.into(), point: None, disk: None, range: None }
}

/// A damage or an error that is none: anything but a damaged object goes on to the caller.
fn damage_of(error: RepoError) -> Result<(String, String), RepoError> {
    match error {
        RepoError::Corrupt { object, what } => Ok((object, what)),
        RepoError::TooNew { found, known } => Ok(("object".into(), format!("format {found} is newer than {known}"))),
        RepoError::NotFound { what, id } => Ok((format!("{what} {id}"), "it is missing".into())),
        other => Err(other),
    }
}

/// What a walk over the maps found.
#[derive(Default)]
struct Walk {
    /// Leaves and roots that were read, and attachments' chunks.
    meta: HashSet<ChunkId>,
    data: HashSet<ChunkId>,
    disks: u64,
    damage: Vec<Damage>,
}

/// A pack to look at, and what is needed from it.
#[derive(Default)]
struct PackJob {
    frames: Vec<(ChunkId, Place)>,
}

/// What reading a pack found.
struct PackResult {
    key: String,
    read: u64,
    /// What is wrong with the pack as a whole.
    whole: Option<String>,
    /// Chunks that are wrong.
    bad: Vec<(ChunkId, String)>,
}

pub(crate) async fn run(
    core: &Arc<Core>,
    scope: VerifyScope,
    depth: VerifyDepth,
    observer: &dyn Observer,
) -> Result<VerifyReport, RepoError> {
    let began = core.env.clock.now();
    let mut report = VerifyReport { damage: core.refresh().await?, ..VerifyReport::default() };
    let all = scope == VerifyScope::All;
    if all {
        check_documents(core, &mut report).await?;
    }
    let points = points_in_scope(core, scope, &mut report).await?;
    let walk = walk(core, &points, observer).await?;
    report.points = points.len() as u64;
    report.disks = walk.disks;
    report.chunks = walk.data.len() as u64 + walk.meta.len() as u64;
    report.damage.extend(walk.damage);

    let mut bad: HashMap<ChunkId, (String, String)> = HashMap::new();
    let needed: HashSet<ChunkId> = walk.meta.iter().chain(&walk.data).copied().collect();
    let (runs, unknown) = core.locate(&needed).await?;
    drop(needed);
    for id in unknown {
        bad.insert(id, (format!("chunk {}", id.to_hex()), "no index segment lists it".into()));
    }
    let mut jobs: BTreeMap<String, (PackInfo, PackJob)> = BTreeMap::new();
    for run in runs {
        jobs.entry(run.info.key()).or_insert_with(|| (run.info, PackJob::default())).1.frames.extend(run.frames);
    }
    if all {
        for info in core.with_index(|index| index.pack_numbers().map(|(_, info)| *info).collect::<Vec<_>>()) {
            jobs.entry(info.key()).or_insert_with(|| (info, PackJob::default()));
        }
    }
    let sizes = pack_sizes(&*core.objects).await?;
    let mut spoiled: HashMap<String, String> = HashMap::new();
    jobs.retain(|key, (info, job)| {
        let what = match sizes.get(key) {
            None => "it is missing".to_owned(),
            Some(size) if *size != u64::from(info.bytes) => format!("it has {size} bytes instead of {}", info.bytes),
            Some(_) => return true,
        };
        bad.extend(job.frames.iter().map(|(id, _)| (*id, (key.clone(), what.clone()))));
        spoiled.insert(key.clone(), what);
        false
    });
    if depth > VerifyDepth::Structure {
        let total: u64 = jobs.values().map(|(info, _)| u64::from(info.bytes)).sum();
        // Packs that nobody lists yet may be of a session that is running; they are checked all the same.
        let strays: Vec<String> = if all {
            sizes.keys().filter(|key| !jobs.contains_key(*key) && !spoiled.contains_key(*key)).cloned().collect()
        } else {
            Vec::new()
        };
        let deep = depth == VerifyDepth::Data;
        let mut work: Vec<(String, Option<(PackInfo, PackJob)>)> =
            jobs.into_iter().map(|(key, job)| (key, Some(job))).chain(strays.into_iter().map(|k| (k, None))).collect();
        let mut running: JoinSet<Result<PackResult, RepoError>> = JoinSet::new();
        loop {
            if observer.cancelled() {
                return Err(RepoError::Cancelled);
            }
            while running.len() < core.options.workers.min(4)
                && let Some((key, job)) = work.pop()
            {
                running.spawn(check_pack(core.clone(), key, job, deep));
            }
            let Some(joined) = running.join_next().await else { break };
            let result = joined.map_err(|e| RepoError::Store {
                action: "work on",
                object: "a worker's task".into(),
                source: std::io::Error::other(e),
            })??;
            report.read_bytes += result.read;
            observer.progress(report.read_bytes, total.max(report.read_bytes));
            bad.extend(result.bad.into_iter().map(|(id, what)| (id, (result.key.clone(), what))));
            if let Some(what) = result.whole {
                spoiled.insert(result.key, what);
            }
        }
    }
    trace(core, &points, &bad, &mut report.damage).await?;
    // What is traced to a disk says enough; a pack that nobody needs is named by itself.
    for (object, what) in spoiled {
        if !report.damage.iter().any(|d| d.object == object) {
            report.damage.push(object_damage(&object, what));
        }
    }
    report.damage.sort_by(|a, b| {
        let key = |d: &Damage| (d.point, d.disk.clone(), d.range.as_ref().map(|r| r.start), d.object.clone());
        key(a).cmp(&key(b)).then_with(|| a.what.cmp(&b.what))
    });
    report.damage.dedup();
    report.took = core.env.clock.now().since(began);
    Ok(report)
}

/// The configs and the sessions: whatever else must open.
async fn check_documents(core: &Arc<Core>, report: &mut VerifyReport) -> Result<(), RepoError> {
    for name in ["config", "config.copy"] {
        match core.objects.get(name, None).await {
            Ok(bytes) => {
                if let Err(e) = Config::decode(&bytes) {
                    report.damage.push(object_damage(name, e.to_string()));
                }
            }
            Err(ObjectError::NotFound) => report.damage.push(object_damage(name, "it is missing")),
            Err(e) => return Err(store_error("read", name)(e)),
        }
    }
    for object in core.objects.list("sessions/").await.map_err(store_error("list", "sessions/"))? {
        match core.objects.get(&object.key, None).await {
            Ok(bytes) => {
                if let Err(e) = record::open(&core.keys, &object.key, &bytes) {
                    report.damage.push(object_damage(&object.key, e.to_string()));
                }
            }
            Err(ObjectError::NotFound) => {}
            Err(e) => return Err(store_error("read", &object.key)(e)),
        }
    }
    Ok(())
}

async fn points_in_scope(
    core: &Arc<Core>,
    scope: VerifyScope,
    report: &mut VerifyReport,
) -> Result<Vec<StoredPoint>, RepoError> {
    let ids: Vec<RecoveryPointId> = match scope {
        VerifyScope::Points(ids) => ids,
        VerifyScope::All => {
            let listed = core.objects.list("points/").await.map_err(store_error("list", "points/"))?;
            let mut ids = Vec::with_capacity(listed.len());
            for object in listed {
                match object.key.strip_prefix("points/").and_then(|id| id.parse().ok()) {
                    Some(id) if point_key(id) == object.key => ids.push(id),
                    _ => report.damage.push(object_damage(&object.key, "not a recovery point's name")),
                }
            }
            ids
        }
    };
    let mut points = Vec::with_capacity(ids.len());
    for id in ids {
        match core.stored_point(id).await {
            Ok(point) => points.push(point),
            Err(e) => {
                let (_, what) = damage_of(e)?;
                report.damage.push(Damage { object: point_key(id), what, point: Some(id), disk: None, range: None });
            }
        }
    }
    Ok(points)
}

/// Reads all maps, each leaf once.
async fn walk(core: &Arc<Core>, points: &[StoredPoint], observer: &dyn Observer) -> Result<Walk, RepoError> {
    let mut walk = Walk::default();
    let mut broken: HashMap<ChunkId, (String, String)> = HashMap::new();
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
            let mut damaged = |object, what, range| {
                walk.damage.push(Damage { object, what, point: Some(id), disk: Some(disk.clone()), range });
            };
            let root = match root_id {
                Ok(root_id) => {
                    walk.meta.insert(root_id);
                    core.root(root_id).await
                }
                Err(e) => Err(e),
            };
            let root = match root.map_err(damage_of) {
                Ok(root) => root,
                Err(damage) => {
                    let (object, what) = damage?;
                    let size = point.manifest.disks.iter().find(|d| d.name == disk).map_or(0, |d| d.stats.size_bytes);
                    damaged(object, what, Some(0..size));
                    continue;
                }
            };
            for (number, leaf) in (0u64..).zip(&root.leaves).filter(|(_, leaf)| !leaf.id.is_zero()) {
                let range = number * leaf_bytes..((number + 1).saturating_mul(leaf_bytes)).min(root.size);
                if let Some((object, what)) = broken.get(&leaf.id) {
                    damaged(object.clone(), what.clone(), Some(range));
                    continue;
                }
                if !walk.meta.insert(leaf.id) {
                    continue;
                }
                match core.leaf(leaf.id).await.map_err(damage_of) {
                    Ok(ids) => walk.data.extend(ids.iter().filter(|id| !id.is_zero())),
                    Err(damage) => {
                        let (object, what) = damage?;
                        damaged(object.clone(), what.clone(), Some(range));
                        broken.insert(leaf.id, (object, what));
                    }
                }
            }
        }
    }
    Ok(walk)
}

/// Reads a pack and checks it; opens what is needed from it when `deep`.
async fn check_pack(
    core: Arc<Core>,
    key: String,
    job: Option<(PackInfo, PackJob)>,
    deep: bool,
) -> Result<PackResult, RepoError> {
    let frames = job.as_ref().map(|(_, job)| job.frames.clone()).unwrap_or_default();
    let bytes = match core.objects.get(&key, None).await {
        Ok(bytes) => bytes,
        Err(ObjectError::NotFound) if job.is_none() => {
            return Ok(PackResult { key, read: 0, whole: None, bad: Vec::new() });
        }
        Err(e) => {
            let (_, what) = damage_of(store_error("read", &key)(e))?;
            let bad = frames.into_iter().map(|(id, _)| (id, what.clone())).collect();
            return Ok(PackResult { key, read: 0, whole: Some(what), bad });
        }
    };
    let permit = core.cpu.clone().acquire_owned().await.ok();
    blocking(move || {
        let _permit = permit;
        let whole = check_pack_bytes(&key, &bytes).err().map(|e| e.to_string());
        let bad = match (&job, &whole) {
            (Some((info, job)), _) if deep => {
                let mut bad = Vec::new();
                core.open_frames(info, 0, &bytes, &job.frames, |opened| {
                    bad.extend(opened.err().map(|BadChunk { id, what, .. }| (id, what)));
                });
                bad
            }
            // Without opening them, none of its chunks can be trusted.
            (_, Some(what)) => frames.into_iter().map(|(id, _)| (id, what.clone())).collect(),
            _ => Vec::new(),
        };
        PackResult { key, read: bytes.len() as u64, whole, bad }
    })
    .await
}

/// Says which disks need the bad chunks, and where; neighbours of one kind are one damage.
async fn trace(
    core: &Arc<Core>,
    points: &[StoredPoint],
    bad: &HashMap<ChunkId, (String, String)>,
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
            let mut found: Vec<Damage> = Vec::new();
            let mut note = |(object, what): &(String, String), range: std::ops::Range<u64>| match found.last_mut() {
                Some(Damage { object: o, what: w, range: Some(last), .. })
                    if (&*o, &*w) == (object, what) && last.end == range.start =>
                {
                    last.end = range.end;
                }
                _ => found.push(Damage {
                    object: object.clone(),
                    what: what.clone(),
                    point: Some(id),
                    disk: Some(disk.clone()),
                    range: Some(range),
                }),
            };
            // What cannot be walked was reported by the first walk.
            let Ok(root_id) = root_id else { continue };
            let root = match core.root(root_id).await.map_err(damage_of) {
                Ok(root) => root,
                Err(damage) => {
                    damage?;
                    continue;
                }
            };
            if let Some(why) = bad.get(&root_id) {
                note(why, 0..root.size);
            }
            for (number, leaf) in (0u64..).zip(&root.leaves).filter(|(_, leaf)| !leaf.id.is_zero()) {
                let start = number * leaf_bytes;
                if let Some(why) = bad.get(&leaf.id) {
                    note(why, start..start.saturating_add(leaf_bytes).min(root.size));
                }
                let ids = match core.leaf(leaf.id).await.map_err(damage_of) {
                    Ok(ids) => ids,
                    Err(damage) => {
                        damage?;
                        continue;
                    }
                };
                for (at, chunk_id) in (0u64..).zip(ids.iter()) {
                    if let Some(why) = bad.get(chunk_id) {
                        let start = start + at * chunk;
                        note(why, start..start.saturating_add(chunk).min(root.size));
                    }
                }
            }
            damage.extend(found);
        }
    }
    Ok(())
}
