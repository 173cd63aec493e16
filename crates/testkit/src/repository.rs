//! Conformance of backup repositories and of the object stores below them.
//!
//! Call [`objects_conform`] and [`repository_conforms`] from an adapter's tests.

#![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]

mod gated;
mod overtaken;
mod suite;

pub use gated::GatedObjects;
pub use overtaken::overtaken_commits_make_no_point;
pub use suite::*;

use crate::clock::{FakeClock, SeededIds};
use async_trait::async_trait;
use bytes::Bytes;
use portolan_block::{BlockError, BlockExtent, BlockSource, ExtentKind, MemorySink, MemorySource, check_range};
use portolan_model::{Clock, RecoveryPointId, TenantId, VmId};
use portolan_repository::{
    BackupRepository, DiskSpec, DiskStats, ObjectError, ObjectStore, Observer, PointFilter, PointManifest, PointMeta,
    RepoError, Repository, RepositoryEnv, RepositoryKey, RepositoryOptions, SessionSpec, Unobserved, VerifyDepth,
    VerifyScope, copy_disk,
};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use uuid::Uuid;

/// Bytes in a chunk of a repository with the usual options.
pub const CHUNK: u64 = 128 * 1024;

/// Repeatable bytes that do not compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A disk of `size` bytes with some noise, some text and some holes.
pub fn sample_disk(seed: u64, size: usize) -> Vec<u8> {
    let mut data = vec![0; size];
    for (n, part) in (0u64..).zip(data.chunks_mut(96 * 1024)) {
        match (n + seed) % 4 {
            0 => part.copy_from_slice(&noise(seed ^ n, part.len())),
            1 => part.iter_mut().zip(b"the quick brown fox ".iter().cycle()).for_each(|(to, from)| *to = *from),
            _ => {}
        }
    }
    data
}

/// A source that notes what is read, and fails where it is told to.
#[derive(Debug)]
pub struct ProbeSource {
    inner: MemorySource,
    /// What was read, in order.
    pub reads: Mutex<Vec<Range<u64>>>,
    fails: Option<Range<u64>>,
}

impl ProbeSource {
    /// A disk with this content.
    pub fn new(data: impl Into<Bytes>) -> Arc<Self> {
        Arc::new(Self { inner: MemorySource::new(data), reads: Mutex::default(), fails: None })
    }

    /// A disk that cannot be read in `fails`.
    pub fn failing(data: impl Into<Bytes>, fails: Range<u64>) -> Arc<Self> {
        Arc::new(Self { inner: MemorySource::new(data), reads: Mutex::default(), fails: Some(fails) })
    }

    /// How many bytes were read.
    pub fn bytes_read(&self) -> u64 {
        self.reads.lock().unwrap_or_else(|e| e.into_inner()).iter().map(|r| r.end - r.start).sum()
    }
}

#[async_trait]
impl BlockSource for ProbeSource {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        self.inner.extents(range).await
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BlockError> {
        let range = offset..offset + len as u64;
        check_range(offset, len as u64, self.size())?;
        if self.fails.as_ref().is_some_and(|f| f.start < range.end && range.start < f.end) {
            let source = std::io::Error::from_raw_os_error(5);
            return Err(BlockError::Io { action: "read", offset, source });
        }
        self.reads.lock().unwrap_or_else(|e| e.into_inner()).push(range);
        self.inner.read_at(offset, len).await
    }
}

/// An observer that can be told to stop the work.
#[derive(Debug, Default)]
pub struct Stopper(pub AtomicBool);

impl Observer for Stopper {
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A way to open the same repository again and again, as processes do.
#[async_trait]
pub trait RepositoryFixture: Send + Sync {
    /// Opens the repository, as a process that starts would.
    async fn open(&self) -> Arc<dyn BackupRepository>;
    /// The clock that it goes by.
    fn clock(&self) -> &FakeClock;
}

/// The engine over some object store.
#[derive(Debug)]
pub struct EngineFixture {
    /// The store.
    pub objects: Arc<dyn ObjectStore>,
    /// The clock.
    pub clock: Arc<FakeClock>,
    /// Ids, salts and keys.
    pub ids: Arc<SeededIds>,
    /// The first key.
    pub key: RepositoryKey,
    /// How the engine works.
    pub options: RepositoryOptions,
}

impl EngineFixture {
    /// A new repository in `objects`, with small packs so that a small disk fills several.
    pub async fn create(objects: Arc<dyn ObjectStore>) -> Self {
        let options = RepositoryOptions {
            pack_bytes: 512 * 1024,
            packs_per_segment: 2,
            workers: 2,
            ..RepositoryOptions::default()
        };
        Self::create_with(objects, options).await
    }

    /// A new repository with these options.
    pub async fn create_with(objects: Arc<dyn ObjectStore>, options: RepositoryOptions) -> Self {
        let ids = Arc::new(SeededIds::default());
        let key = RepositoryKey::generate(&*ids);
        let fixture = Self { objects, clock: Arc::default(), ids, key, options };
        Repository::create_with(fixture.objects.clone(), fixture.env(), &fixture.key, fixture.options.clone())
            .await
            .unwrap();
        fixture
    }

    /// The same repository, seen through another store.
    pub fn over(&self, objects: Arc<dyn ObjectStore>) -> Self {
        Self {
            objects,
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            key: self.key.clone(),
            options: self.options.clone(),
        }
    }

    /// Where the engine takes time and randomness from.
    pub fn env(&self) -> RepositoryEnv {
        RepositoryEnv { clock: self.clock.clone(), ids: self.ids.clone() }
    }

    /// Opens the repository.
    pub async fn try_open(&self) -> Result<Repository, RepoError> {
        Repository::open_with(self.objects.clone(), self.env(), &self.key, self.options.clone()).await
    }
}

#[async_trait]
impl RepositoryFixture for EngineFixture {
    async fn open(&self) -> Arc<dyn BackupRepository> {
        Arc::new(self.try_open().await.unwrap())
    }

    fn clock(&self) -> &FakeClock {
        &self.clock
    }
}

/// The machine number `n`.
pub fn vm(n: u128) -> VmId {
    VmId::from_uuid(Uuid::from_u128(0x1000 + n))
}

/// The point number `n`.
pub fn point_id(n: u128) -> RecoveryPointId {
    RecoveryPointId::from_uuid(Uuid::from_u128(0x2000 + n))
}

/// The session that makes point `n` of machine 1.
pub fn spec(n: u128, fence: i64, parent: Option<u128>) -> SessionSpec {
    SessionSpec { id: Uuid::from_u128(0x3000 + n), fence, point: point_id(n), vm: vm(1), parent: parent.map(point_id) }
}

/// What a commit says.
pub fn meta(clock: &dyn Clock) -> PointMeta {
    PointMeta {
        vm_name: "sextant".into(),
        tenant: None,
        snapshot_time: clock.now(),
        backup_type: "FULL".into(),
        locked_until: None,
        labels: BTreeMap::new(),
    }
}

/// The disk of that name.
pub fn disk(name: &str, changed: Option<Vec<Range<u64>>>) -> DiskSpec {
    DiskSpec { name: name.into(), changed }
}

/// Backs one disk up as point `n`.
pub async fn back_up(
    repository: &dyn BackupRepository,
    clock: &dyn Clock,
    spec: SessionSpec,
    changed: Option<Vec<Range<u64>>>,
    data: &[u8],
) -> Result<(PointManifest, DiskStats), RepoError> {
    let session = repository.begin(spec).await?;
    let source = Arc::new(MemorySource::new(data.to_vec()));
    let stats = session.disk(disk("root", changed), source, &Unobserved).await?;
    Ok((session.commit(meta(clock)).await?, stats))
}

/// Restores a disk whole.
pub async fn restore(
    repository: &dyn BackupRepository,
    point: RecoveryPointId,
    name: &str,
) -> Result<Vec<u8>, RepoError> {
    let source = repository.open_disk(point, name).await?;
    let sink = MemorySink::new(source.size());
    copy_disk(&*source, &sink, &Unobserved).await?;
    Ok(sink.content())
}

/// Fails unless the point's disk has this content.
pub async fn assert_restores(repository: &dyn BackupRepository, point: RecoveryPointId, name: &str, data: &[u8]) {
    let restored = restore(repository, point, name).await.unwrap();
    assert!(restored == data, "the restored disk '{name}' of {point} is not what was backed up");
}
