//! The port that the use cases see.

use async_trait::async_trait;
use bytes::Bytes;
use portolan_block::{BlockError, BlockSource};
use portolan_model::{RecoveryPointId, TenantId, Timestamp, VmId};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Why the repository could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// There is no such point, disk or attachment.
    #[error("the repository has no {what} '{id}'")]
    NotFound {
        /// `recovery point`, `disk`, `attachment`, `repository`.
        what: &'static str,
        /// Its id or name.
        id: String,
    },
    /// It is there already, with another content.
    #[error("{0}")]
    Conflict(String),
    /// A newer attempt owns the session.
    #[error("a newer attempt has taken over the session")]
    Fenced,
    /// The point is locked or retained.
    #[error("the recovery point is locked until {until}")]
    Locked {
        /// When the lock ends.
        until: Timestamp,
    },
    /// The parent point is gone, or is of another disk.
    #[error("the parent recovery point {0} cannot be the base")]
    ParentMissing(RecoveryPointId),
    /// The source could not be read; the session cannot be committed.
    #[error("the source disk '{disk}' cannot be read")]
    Source {
        /// The disk.
        disk: String,
        /// What it said.
        #[source]
        source: BlockError,
    },
    /// The disk that is being restored to could not be written.
    #[error("the target disk cannot be written")]
    Sink {
        /// What it said.
        #[source]
        source: BlockError,
    },
    /// A stored object is not what was written.
    #[error("the object '{object}' is damaged: {what}")]
    Corrupt {
        /// Its key.
        object: String,
        /// What is wrong.
        what: String,
    },
    /// The key opens nothing here.
    #[error("the key does not open this repository")]
    WrongKey,
    /// The repository was written by a newer version.
    #[error("the repository has format {found}, this program reads up to {known}")]
    TooNew {
        /// What the repository says.
        found: u32,
        /// What this program knows.
        known: u32,
    },
    /// No room left.
    #[error("no space left in the repository")]
    NoSpace,
    /// The store does not answer; trying again may help.
    #[error("the store cannot {action} '{object}'")]
    Store {
        /// `read`, `write`, `list`, `delete`.
        action: &'static str,
        /// The object's key.
        object: String,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The store cannot do this.
    #[error("unsupported: {0}")]
    Unsupported(String),
}

/// Watches long work, and may stop it.
pub trait Observer: Send + Sync {
    /// `done` of `total` bytes are dealt with. Called often; must not block.
    fn progress(&self, _done: u64, _total: u64) {}
    /// Whether to stop: the work ends with [`RepoError::Cancelled`] soon after this returns true.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing and never stops the work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;
impl Observer for Unobserved {}

/// A backup repository.
#[async_trait]
pub trait BackupRepository: Send + Sync {
    /// What this repository is.
    async fn describe(&self) -> Result<RepositoryInfo, RepoError>;

    /// Opens a session, or goes on with the one of that id: chunks that it stored before a crash are not stored
    /// again, and disks that it finished are not read again. A newer fence takes the session over: from then on
    /// every call through an older one is [`RepoError::Fenced`], its commit included.
    async fn begin(&self, spec: SessionSpec) -> Result<Arc<dyn BackupSession>, RepoError>;

    /// The committed points, oldest first. An error is an error, never a shorter list.
    async fn points(&self, filter: PointFilter) -> Result<Vec<PointManifest>, RepoError>;

    /// One committed point.
    async fn point(&self, id: RecoveryPointId) -> Result<PointManifest, RepoError>;

    /// A disk of a point for random reads. Every byte it returns was checked against its keyed hash; holes of
    /// the source are holes here.
    async fn open_disk(&self, point: RecoveryPointId, disk: &str) -> Result<Arc<dyn BlockSource>, RepoError>;

    /// An attachment of a point.
    async fn attachment(&self, point: RecoveryPointId, name: &str) -> Result<Bytes, RepoError>;

    /// Where a disk differs between two points: sorted, disjoint ranges, a whole number of chunks but for the end.
    async fn changed(
        &self,
        base: RecoveryPointId,
        point: RecoveryPointId,
        disk: &str,
    ) -> Result<Vec<Range<u64>>, RepoError>;

    /// Removes a point. Its chunks stay until they are reclaimed. Repeating it is [`RepoError::NotFound`].
    async fn delete(&self, point: RecoveryPointId) -> Result<(), RepoError>;

    /// Checks stored data. Damage is a finding of the report, not an error; an unreachable store is an error.
    async fn verify(
        &self,
        scope: VerifyScope,
        depth: VerifyDepth,
        observer: &dyn Observer,
    ) -> Result<VerifyReport, RepoError>;

    /// How much is stored.
    async fn usage(&self) -> Result<Usage, RepoError>;
}

/// A backup that is being written. Nothing of it is a point before the commit.
#[async_trait]
pub trait BackupSession: Send + Sync {
    /// Reads one disk into the repository. A read error of the source fails the call, and the session cannot be
    /// committed without the disk. Repeating it for a disk that was finished returns the recorded figures.
    async fn disk(
        &self,
        spec: DiskSpec,
        source: Arc<dyn BlockSource>,
        observer: &dyn Observer,
    ) -> Result<DiskStats, RepoError>;

    /// Adds a small document, such as the machine's definition. The same name again replaces it.
    async fn attach(&self, name: &str, content: Bytes) -> Result<(), RepoError>;

    /// Makes everything so far durable, so that [`BackupRepository::begin`] in another process can commit it.
    async fn seal(&self) -> Result<SessionSummary, RepoError>;

    /// Makes the session a point: all of it or nothing. Repeating it after success, also through another
    /// process, returns the same manifest and writes nothing.
    async fn commit(&self, meta: PointMeta) -> Result<PointManifest, RepoError>;

    /// Gives the session up; only orphaned chunks stay. Does nothing after a commit.
    async fn abort(&self) -> Result<(), RepoError>;
}

/// What a repository is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RepositoryInfo {
    /// The repository's own id, made when it was.
    pub id: Uuid,
    /// The format's version.
    pub format: u32,
    /// Bytes in a chunk.
    pub chunk_bytes: u32,
    /// When it was made.
    pub created: Timestamp,
    /// How many key slots it has.
    pub key_slots: usize,
}

/// What a session is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionSpec {
    /// The session's id: the chain's.
    pub id: Uuid,
    /// The task's fence.
    pub fence: i64,
    /// The point that the commit makes.
    pub point: RecoveryPointId,
    /// The machine.
    pub vm: VmId,
    /// The point to compare with. Chunks that are equal there are not stored, and need not be read where the
    /// source says what changed.
    pub parent: Option<RecoveryPointId>,
}

/// A disk to read.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskSpec {
    /// Its name, unique within the point; the same from point to point.
    pub name: String,
    /// What may differ from the parent's disk of that name: sorted, disjoint ranges. What lies between is the
    /// parent's, and is not read. Nothing when unknown: then all data is read and compared with the parent's map.
    pub changed: Option<Vec<Range<u64>>>,
}

/// What reading a disk came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStats {
    /// The disk's virtual size in bytes.
    pub size_bytes: u64,
    /// Bytes read from the source.
    pub read_bytes: u64,
    /// Bytes of chunks that differ from the parent's, before compression.
    pub changed_bytes: u64,
    /// Bytes of chunks that the repository did not have, before compression.
    pub new_bytes: u64,
    /// Bytes added to the store.
    pub stored_bytes: u64,
    /// Bytes of chunks that were there already, in this disk or another.
    pub deduplicated_bytes: u64,
}

/// What a session holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSummary {
    /// The finished disks, by name.
    pub disks: Vec<(String, DiskStats)>,
}

/// What a commit adds to the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointMeta {
    /// The machine's name.
    pub vm_name: String,
    /// The tenant.
    pub tenant: Option<TenantId>,
    /// The moment that the data is of.
    pub snapshot_time: Timestamp,
    /// `FULL` or `INCREMENTAL`, for people.
    pub backup_type: String,
    /// Immutable until then.
    pub locked_until: Option<Timestamp>,
    /// Free labels.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// A committed point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointManifest {
    /// Its id.
    pub id: RecoveryPointId,
    /// The machine.
    pub vm: VmId,
    /// The session that made it.
    pub session: Uuid,
    /// What the commit said.
    pub meta: PointMeta,
    /// When it was committed.
    pub committed: Timestamp,
    /// The point it was compared with; information only, every point is whole in itself.
    pub parent: Option<RecoveryPointId>,
    /// Its disks.
    pub disks: Vec<PointDiskManifest>,
    /// Names of its attachments.
    pub attachments: Vec<String>,
}

/// A disk of a committed point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointDiskManifest {
    /// Its name.
    pub name: String,
    /// The id of its map's root, in hexadecimal.
    pub root: String,
    /// What reading it came to.
    pub stats: DiskStats,
}

/// Which points.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PointFilter {
    /// Only this machine's.
    pub vm: Option<VmId>,
    /// Only this tenant's.
    pub tenant: Option<TenantId>,
}

/// What to verify.
#[derive(Debug, Clone, PartialEq)]
pub enum VerifyScope {
    /// Every point.
    All,
    /// These points.
    Points(Vec<RecoveryPointId>),
}

/// How deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyDepth {
    /// Manifest, maps and index agree, and every pack exists with its size.
    Structure,
    /// Also every stored byte has the hash that its pack is named by. Needs no key.
    Pack,
    /// Also every chunk decrypts, unpacks and has its keyed hash.
    Data,
}

/// What verify found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Points looked at.
    pub points: u64,
    /// Disks looked at.
    pub disks: u64,
    /// Distinct chunks looked at.
    pub chunks: u64,
    /// Bytes read from the store.
    pub read_bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// Packs that this check marked as damaged: the next backups store anew what they have of them. Only a check of
    /// every chunk marks any.
    #[serde(default)]
    pub marked: u64,
    /// What is damaged; empty when all is well.
    pub damage: Vec<Damage>,
}

/// A damaged place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The object's key.
    pub object: String,
    /// What is wrong.
    pub what: String,
    /// The point that needs it; nothing for an object that no point could be traced to.
    pub point: Option<RecoveryPointId>,
    /// The disk that needs it.
    pub disk: Option<String>,
    /// Where on the disk, in bytes.
    pub range: Option<Range<u64>>,
}

/// How much is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Committed points.
    pub points: u64,
    /// Virtual bytes of their disks that are not holes.
    pub logical_bytes: u64,
    /// Distinct chunk bytes before compression.
    pub unique_bytes: u64,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// Bytes that the store's file system has left; nothing where it is not known.
    pub free_bytes: Option<u64>,
}
