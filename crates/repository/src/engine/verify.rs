//! Verification at three depths, with damage traced to points, disks and ranges.
//!
//! First every map in scope is walked, which gives the distinct chunks; then the packs are read, each once; then,
//! only if anything is wrong, the maps are walked again to say who needs what is damaged. The deepest check marks
//! the packs that it found damaged, so that the next backups store their chunks anew.

use super::core::{BadChunk, Core, blocking, store_error};
use super::documents::{check_configs, check_sessions, points_in_scope};
use super::index::{PackInfo, Place};
use super::marks::hash_of;
use super::packs::{check_pack_bytes, pack_sizes};
use super::walk::{Blame, Fault, join_all, trace, walk};
use crate::format::ChunkId;
use crate::object::ObjectError;
use crate::port::{Damage, Observer, RepoError, VerifyDepth, VerifyReport, VerifyScope};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Damage of an object that is not traced to a point.
pub(super) fn object_damage(object: &str, what: impl Into<String>) -> Damage {
    Damage { object: object.to_owned(), what: what.into(), point: None, disk: None, range: None }
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
    let segments = core.refresh().await?;
    let blame = Blame::new(&segments);
    let mut report = VerifyReport::default();
    let all = scope == VerifyScope::All;
    let points = points_in_scope(core, scope, &blame, &mut report).await?;
    if all {
        check_configs(core, &points, &mut report).await?;
        check_sessions(core, &blame, &mut report).await?;
    }
    let walk = walk(core, &points, &blame, observer).await?;
    report.points = points.len() as u64;
    report.disks = walk.disks;
    report.chunks = walk.data.len() as u64 + walk.meta.len() as u64;
    report.damage.extend(walk.damage);

    let mut bad: HashMap<ChunkId, Fault> = HashMap::new();
    let needed: HashSet<ChunkId> = walk.meta.iter().chain(&walk.data).copied().collect();
    let (runs, unknown) = core.locate(&needed).await?;
    drop(needed);
    // A segment that lists nothing that is needed is no damage of the points that were asked for.
    for segment in segments.into_iter().filter(|_| all || !unknown.is_empty()) {
        let spared = if unknown.is_empty() { "; nothing that is needed is listed only there" } else { "" };
        report.damage.push(Damage { what: format!("{}{spared}", segment.what), ..segment });
    }
    bad.extend(unknown.into_iter().map(|id| (id, blame.unlisted.clone())));
    let mut jobs: BTreeMap<String, (PackInfo, PackJob)> = BTreeMap::new();
    for run in runs {
        jobs.entry(run.info.key()).or_insert_with(|| (run.info, PackJob::default())).1.frames.extend(run.frames);
    }
    let condemned = |hash: &[u8; 32]| core.with_index(|index| index.is_damaged(hash));
    if all {
        // A pack that is known to be damaged, and that nobody needs any more, is no news.
        let infos = core.with_index(|index| index.pack_numbers().map(|(_, info)| *info).collect::<Vec<_>>());
        for info in infos.into_iter().filter(|info| !condemned(&info.hash)) {
            jobs.entry(info.key()).or_insert_with(|| (info, PackJob::default()));
        }
    }
    let sizes = pack_sizes(&*core.objects).await?;
    let mut spoiled: HashMap<String, String> = HashMap::new();
    let mut whole: Vec<String> = Vec::new();
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
            let unseen = |key: &&String| !jobs.contains_key(*key) && !spoiled.contains_key(*key);
            let keys = sizes.keys().filter(unseen).filter(|key| !hash_of(key).is_some_and(|hash| condemned(&hash)));
            keys.cloned().collect()
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
            if deep && result.whole.is_none() && result.bad.is_empty() {
                whole.push(result.key.clone());
            }
            bad.extend(result.bad.into_iter().map(|(id, what)| (id, (result.key.clone(), what))));
            if let Some(what) = result.whole {
                spoiled.insert(result.key, what);
            }
        }
        if deep {
            let broken = spoiled.iter().chain(bad.values().map(|(key, what)| (key, what)));
            let broken = broken.map(|(key, what)| (key.clone(), what.clone())).collect();
            report.marked = core.mark_packs(&broken, &whole).await?;
        }
    }
    trace(core, &points, &blame, &bad, &mut report.damage).await?;
    // What is traced to a disk says enough; a pack that nobody needs is named by itself.
    for (object, what) in spoiled {
        if !report.damage.iter().any(|d| d.object == object) {
            report.damage.push(object_damage(&object, what));
        }
    }
    report.damage.sort_by(|a, b| {
        let kind = |d: &Damage| (d.point, d.disk.clone(), d.object.clone(), d.what.clone());
        kind(a).cmp(&kind(b)).then_with(|| a.range.as_ref().map(|r| r.start).cmp(&b.range.as_ref().map(|r| r.start)))
    });
    join_all(&mut report.damage);
    report.damage.sort_by_key(|d| (d.point, d.disk.clone(), d.range.as_ref().map(|r| r.start)));
    report.took = core.env.clock.now().since(began);
    Ok(report)
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
            let what = match store_error("read", &key)(e) {
                RepoError::Corrupt { what, .. } => what,
                other => return Err(other),
            };
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
