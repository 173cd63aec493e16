//! An open repository: making, opening, keys, points, and the port's calls.

use super::core::{Core, RepositoryEnv, RepositoryOptions, blocking, lock, store_error};
use super::reader::DiskReader;
use super::session::Session;
use super::slots::{CONFIG, CONFIG_COPY, RECOVERY_SLOT, read_config, write_copy};
use super::stored::{StoredPoint, parse_id, point_key};
use super::verify;
use crate::format::config::{Config, valid_chunk_bytes};
use crate::format::map::LEAF_CHUNKS;
use crate::format::{ChunkId, FORMAT};
use crate::keys::{RecoveryKey, RepositoryKey, RepositoryKeys};
use crate::object::{ObjectError, ObjectStore};
use crate::port::{
    BackupRepository, BackupSession, Damage, Observer, PointFilter, PointManifest, RepoError, RepositoryInfo,
    SessionSpec, Usage, VerifyDepth, VerifyReport, VerifyScope,
};
use async_trait::async_trait;
use bytes::Bytes;
use portolan_block::{BlockSource, union};
use portolan_model::RecoveryPointId;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// What a repository's objects begin with; the last two are for reclaiming and for copies that are to come.
const PREFIXES: [&str; 9] =
    ["config", "packs/", "meta/", "index/", "points/", "sessions/", "damaged/", "reclaim/", "copies/"];

/// A repository in an object store. Cheap to clone; all clones share one index.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(super) core: Arc<Core>,
    /// Points never change once they are written.
    points: Arc<Mutex<HashMap<RecoveryPointId, Arc<StoredPoint>>>>,
}

impl Repository {
    /// Makes a repository in an empty store, with one slot for `key` and one for the recovery key that it returns
    /// and that is shown nowhere else.
    ///
    /// # Errors
    /// [`RepoError::Conflict`] when there is one already.
    pub async fn create(
        objects: Arc<dyn ObjectStore>,
        env: RepositoryEnv,
        key: &RepositoryKey,
    ) -> Result<(Self, RecoveryKey), RepoError> {
        Self::create_with(objects, env, key, RepositoryOptions::default()).await
    }

    /// [`Repository::create`] with other options than the usual.
    pub async fn create_with(
        objects: Arc<dyn ObjectStore>,
        env: RepositoryEnv,
        key: &RepositoryKey,
        options: RepositoryOptions,
    ) -> Result<(Self, RecoveryKey), RepoError> {
        if !valid_chunk_bytes(options.chunk_bytes) {
            return Err(RepoError::Unsupported(format!("chunks of {} bytes", options.chunk_bytes)));
        }
        for name in [CONFIG, CONFIG_COPY] {
            match objects.head(name).await {
                Err(ObjectError::NotFound) => {}
                Ok(_) => return Err(RepoError::Conflict("there is a repository already".into())),
                Err(e) => return Err(store_error("read", name)(e)),
            }
        }
        let mut config = Config {
            id: env.ids.uuid(),
            created: env.clock.now(),
            chunk_bytes: options.chunk_bytes,
            revision: 1,
            key_slots: Vec::new(),
        };
        let recovery = RecoveryKey::generate(&*env.ids);
        let (config, keys) = {
            let (env, key, recovery) = (env.clone(), key.clone(), recovery.key());
            blocking(move || {
                let keys = RepositoryKeys::generate(&*env.ids, config.id);
                let now = env.clock.now();
                let first = keys.new_slot(&key, "first", &config, &*env.ids, now)?;
                let second = keys.new_slot(&recovery, RECOVERY_SLOT, &config, &*env.ids, now)?;
                config.key_slots = vec![first, second];
                Ok::<_, RepoError>((config, keys))
            })
            .await??
        };
        let encoded = Bytes::from(config.encode());
        // The copy second: a crash in between leaves a repository that opens.
        match objects.put_new(CONFIG, encoded.clone()).await {
            Ok(()) => {}
            Err(ObjectError::AlreadyExists) => {
                return Err(RepoError::Conflict("there is a repository already".into()));
            }
            Err(e) => return Err(store_error("write", CONFIG)(e)),
        }
        write_copy(&*objects, encoded).await?;
        Ok((Self::over(Core::new(objects, env, options, keys, config)), recovery))
    }

    /// Opens a repository with a key that one of its slots takes.
    ///
    /// # Errors
    /// [`RepoError::NotFound`] when there is none, [`RepoError::WrongKey`], [`RepoError::TooNew`].
    pub async fn open(
        objects: Arc<dyn ObjectStore>,
        env: RepositoryEnv,
        key: &RepositoryKey,
    ) -> Result<Self, RepoError> {
        Self::open_with(objects, env, key, RepositoryOptions::default()).await
    }

    /// [`Repository::open`] with other options than the usual. The chunk size is the repository's.
    pub async fn open_with(
        objects: Arc<dyn ObjectStore>,
        env: RepositoryEnv,
        key: &RepositoryKey,
        options: RepositoryOptions,
    ) -> Result<Self, RepoError> {
        let config = match read_config(&*objects, CONFIG).await {
            Err(first @ (RepoError::Corrupt { .. } | RepoError::NotFound { .. })) => {
                match read_config(&*objects, CONFIG_COPY).await {
                    Ok((config, _)) => {
                        tracing::warn!(error = %first, "the repository's config is lost, its copy is used");
                        config
                    }
                    Err(_) => return Err(first),
                }
            }
            other => other?.0,
        };
        let (config, keys) = {
            let key = key.clone();
            blocking(move || RepositoryKeys::unlock(&config, &key).map(|keys| (config, keys))).await??
        };
        let repository = Self::over(Core::new(objects, env, options, keys, config));
        repository.core.refresh().await?;
        Ok(repository)
    }

    fn over(core: Core) -> Self {
        Self { core: Arc::new(core), points: Arc::default() }
    }

    /// The committed points that can be read, and the damage that keeps others from it. For repair tools; what
    /// decides by the list takes [`BackupRepository::points`], which fails instead.
    pub async fn readable_points(&self) -> Result<(Vec<PointManifest>, Vec<Damage>), RepoError> {
        let (points, damage) = self.load_points().await?;
        Ok((points.iter().map(|p| p.manifest.clone()).collect(), damage))
    }

    /// All points by the store's list, oldest first, and what could not be read.
    pub(super) async fn load_points(&self) -> Result<(Vec<Arc<StoredPoint>>, Vec<Damage>), RepoError> {
        let listed = self.core.objects.list("points/").await.map_err(store_error("list", "points/"))?;
        let mut points = Vec::with_capacity(listed.len());
        let mut damage = Vec::new();
        let mut seen = BTreeSet::new();
        for object in listed {
            let id = object.key.strip_prefix("points/").and_then(|id| id.parse().ok());
            let Some(id) = id.filter(|id| point_key(*id) == object.key) else {
                damage.push(verify::object_damage(&object.key, "not a recovery point's name"));
                continue;
            };
            seen.insert(id);
            let known = lock(&self.points).get(&id).cloned();
            let point = match known {
                Some(point) => point,
                None => match self.core.stored_point(id).await {
                    Ok(point) => {
                        let point = Arc::new(point);
                        lock(&self.points).insert(id, point.clone());
                        point
                    }
                    // Deleted since it was listed.
                    Err(RepoError::NotFound { .. }) => continue,
                    Err(RepoError::Corrupt { object, what }) => {
                        damage.push(Damage { object, what, point: Some(id), disk: None, range: None });
                        continue;
                    }
                    Err(e) => return Err(e),
                },
            };
            points.push(point);
        }
        lock(&self.points).retain(|id, _| seen.contains(id));
        points.sort_by_key(|p| (p.manifest.committed, p.manifest.id));
        Ok((points, damage))
    }
}

#[async_trait]
impl BackupRepository for Repository {
    async fn describe(&self) -> Result<RepositoryInfo, RepoError> {
        let config = lock(&self.core.config);
        Ok(RepositoryInfo {
            id: config.id,
            format: FORMAT,
            chunk_bytes: config.chunk_bytes,
            created: config.created,
            key_slots: config.key_slots.len(),
        })
    }

    async fn begin(&self, spec: SessionSpec) -> Result<Arc<dyn BackupSession>, RepoError> {
        Ok(Arc::new(Session::begin(self.core.clone(), spec).await?))
    }

    async fn points(&self, filter: PointFilter) -> Result<Vec<PointManifest>, RepoError> {
        let (points, damage) = self.load_points().await?;
        if let Some(Damage { object, what, .. }) = damage.into_iter().next() {
            return Err(RepoError::Corrupt { object, what });
        }
        let wanted = |m: &PointManifest| {
            filter.vm.is_none_or(|vm| m.vm == vm) && filter.tenant.is_none_or(|t| m.meta.tenant == Some(t))
        };
        Ok(points.iter().map(|p| &p.manifest).filter(|m| wanted(m)).cloned().collect())
    }

    async fn point(&self, id: RecoveryPointId) -> Result<PointManifest, RepoError> {
        Ok(self.core.stored_point(id).await?.manifest)
    }

    async fn open_disk(&self, point: RecoveryPointId, disk: &str) -> Result<Arc<dyn BlockSource>, RepoError> {
        let stored = self.core.stored_point(point).await?;
        let root = self.core.disk_map(&stored, disk).await?;
        Ok(Arc::new(DiskReader::new(self.core.clone(), root)))
    }

    async fn attachment(&self, point: RecoveryPointId, name: &str) -> Result<Bytes, RepoError> {
        let stored = self.core.stored_point(point).await?;
        let hex = stored.attachments.get(name);
        let hex = hex.ok_or_else(|| RepoError::NotFound { what: "attachment", id: name.to_owned() })?;
        self.core.meta_chunk(parse_id(&point_key(point), hex)?).await
    }

    async fn changed(
        &self,
        base: RecoveryPointId,
        point: RecoveryPointId,
        disk: &str,
    ) -> Result<Vec<Range<u64>>, RepoError> {
        let (base, point) = (self.core.stored_point(base).await?, self.core.stored_point(point).await?);
        let (base, point) = (self.core.disk_map(&base, disk).await?, self.core.disk_map(&point, disk).await?);
        let chunk = u64::from(self.core.chunk_bytes);
        let mut ranges = Vec::new();
        for (number, leaf) in (0u64..).zip(&point.leaves) {
            let before = base.leaves.get(number as usize).copied().unwrap_or_default();
            if before == *leaf {
                continue;
            }
            let (old, new) = (self.core.leaf(before.id).await?, self.core.leaf(leaf.id).await?);
            for (at, _) in old.iter().zip(new.iter()).enumerate().filter(|(_, (a, b))| a != b) {
                let start = (number * LEAF_CHUNKS as u64 + at as u64) * chunk;
                ranges.push(start..start.saturating_add(chunk).min(point.size));
            }
            ranges = union(ranges);
        }
        Ok(ranges)
    }

    async fn delete(&self, point: RecoveryPointId) -> Result<(), RepoError> {
        self.core.remove_point(point).await?;
        lock(&self.points).remove(&point);
        Ok(())
    }

    async fn verify(
        &self,
        scope: VerifyScope,
        depth: VerifyDepth,
        observer: &dyn Observer,
    ) -> Result<VerifyReport, RepoError> {
        verify::run(&self.core, scope, depth, observer).await
    }

    async fn usage(&self) -> Result<Usage, RepoError> {
        self.core.refresh().await?;
        let (points, _) = self.load_points().await?;
        let objects = &self.core.objects;
        let mut stored_bytes = 0;
        for prefix in PREFIXES {
            let listed = objects.list(prefix).await.map_err(store_error("list", prefix))?;
            stored_bytes += listed.iter().map(|object| object.bytes).sum::<u64>();
        }
        Ok(Usage {
            points: points.len() as u64,
            logical_bytes: points.iter().flat_map(|p| p.mapped.values()).sum(),
            unique_bytes: self.core.with_index(|index| index.unique_data_bytes()),
            stored_bytes,
            free_bytes: objects.free_space().await.map_err(store_error("read", "free space"))?,
        })
    }
}

/// Kept beside the port's calls: what a root must name for [`BackupRepository::open_disk`].
impl StoredPoint {
    /// Every root of the point's disks, by name.
    pub(super) fn roots(&self) -> Vec<(String, Result<ChunkId, RepoError>)> {
        self.manifest.disks.iter().map(|d| (d.name.clone(), self.disk_root(&d.name))).collect()
    }
}
