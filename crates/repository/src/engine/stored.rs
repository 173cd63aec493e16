//! The documents that the engine keeps in sealed records.

use super::core::{Core, store_error};
use crate::format::ChunkId;
use crate::format::map::Root;
use crate::object::ObjectError;
use crate::port::{DiskStats, PointManifest, RepoError};
use portolan_model::{RecoveryPointId, Timestamp, VmId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// A point as it is stored in `points/<id>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredPoint {
    pub(crate) manifest: PointManifest,
    /// Bytes of each disk that are not holes.
    pub(crate) mapped: BTreeMap<String, u64>,
    /// The chunk of each attachment, in hexadecimal.
    pub(crate) attachments: BTreeMap<String, String>,
}

/// A session as it is stored in `sessions/<id>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredSession {
    pub(crate) fence: i64,
    pub(crate) point: RecoveryPointId,
    pub(crate) vm: VmId,
    pub(crate) parent: Option<RecoveryPointId>,
    pub(crate) started: Timestamp,
    pub(crate) state: SessionState,
    pub(crate) disks: BTreeMap<String, StoredDisk>,
    pub(crate) attachments: BTreeMap<String, String>,
    /// For reclaiming: the epoch that the session began in. Always 0 so far.
    #[serde(default)]
    pub(crate) epoch: u64,
}

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SessionState {
    Open,
    /// Its manifest may have been written.
    Committing,
    Committed,
    Aborted,
}

impl StoredSession {
    /// Fails unless something may still be added.
    pub(crate) fn writable(&self) -> Result<(), RepoError> {
        match self.state {
            SessionState::Open | SessionState::Committing => Ok(()),
            SessionState::Committed => Err(RepoError::Conflict("the session is committed already".into())),
            SessionState::Aborted => Err(RepoError::Conflict("the session was given up".into())),
        }
    }
}

/// A disk of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredDisk {
    /// Nothing while it is being read: then the session cannot be committed.
    pub(crate) finished: Option<FinishedDisk>,
}

/// A disk that was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FinishedDisk {
    pub(crate) root: String,
    pub(crate) stats: DiskStats,
    pub(crate) mapped: u64,
}

pub(crate) fn point_key(id: RecoveryPointId) -> String {
    format!("points/{id}")
}

pub(crate) fn session_key(id: Uuid) -> String {
    format!("sessions/{id}")
}

/// An id that a record holds in hexadecimal.
pub(crate) fn parse_id(object: &str, hex: &str) -> Result<ChunkId, RepoError> {
    ChunkId::from_hex(hex)
        .ok_or_else(|| RepoError::Corrupt { object: object.to_owned(), what: "it names an impossible chunk".into() })
}

impl StoredPoint {
    /// The id of a disk's root.
    pub(crate) fn disk_root(&self, disk: &str) -> Result<ChunkId, RepoError> {
        let found = self.manifest.disks.iter().find(|d| d.name == disk);
        let found = found.ok_or_else(|| RepoError::NotFound { what: "disk", id: disk.to_owned() })?;
        parse_id(&point_key(self.manifest.id), &found.root)
    }

    /// How long a disk is, in bytes.
    pub(crate) fn disk_bytes(&self, disk: &str) -> u64 {
        self.manifest.disks.iter().find(|d| d.name == disk).map_or(0, |d| d.stats.size_bytes)
    }
}

impl Core {
    /// Reads a point.
    pub(crate) async fn stored_point(&self, id: RecoveryPointId) -> Result<StoredPoint, RepoError> {
        let key = point_key(id);
        match self.objects.get(&key, None).await {
            Ok(bytes) => self.open_record(&key, &bytes),
            Err(ObjectError::NotFound) => Err(RepoError::NotFound { what: "recovery point", id: id.to_string() }),
            Err(e) => Err(store_error("read", &key)(e)),
        }
    }

    /// Reads the root of a point's disk.
    pub(crate) async fn disk_map(self: &Arc<Self>, point: &StoredPoint, disk: &str) -> Result<Root, RepoError> {
        self.root(point.disk_root(disk)?).await
    }
}
