//! The documents that the engine keeps in sealed records.

use super::core::{Core, store_error};
use crate::format::ChunkId;
use crate::format::map::Root;
use crate::object::{Etag, ObjectError};
use crate::port::{DiskStats, PointManifest, RepoError};
use portolan_model::{RecoveryPointId, Timestamp, VmId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// How often a change of a point's object is tried again when others get in between.
const ROUNDS: usize = 64;

/// A point as it is stored in `points/<id>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredPoint {
    pub(crate) manifest: PointManifest,
    /// Bytes of each disk that are not holes.
    pub(crate) mapped: BTreeMap<String, u64>,
    /// The chunk of each attachment, in hexadecimal.
    pub(crate) attachments: BTreeMap<String, String>,
    /// Whether it took the place of a void, which comes back when the point is deleted: somebody may still be about
    /// to create a manifest of that name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) over_void: bool,
}

/// What is stored in `points/<id>`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum PointObject {
    /// No point: keeps an attempt that was overtaken from creating one.
    Void {
        /// The session that overtook itself in its commit. For people; no two voids are the same bytes.
        void: Uuid,
    },
    /// A point.
    Point(Box<StoredPoint>),
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
        match self.point_object(id).await? {
            Some((PointObject::Point(point), _)) => Ok(*point),
            Some((PointObject::Void { .. }, _)) | None => {
                Err(RepoError::NotFound { what: "recovery point", id: id.to_string() })
            }
        }
    }

    /// What is stored under a point's name, and its version.
    pub(crate) async fn point_object(&self, id: RecoveryPointId) -> Result<Option<(PointObject, Etag)>, RepoError> {
        let key = point_key(id);
        match self.objects.get_tagged(&key).await {
            Ok((bytes, tag)) => Ok(Some((self.open_record(&key, &bytes)?, tag))),
            Err(ObjectError::NotFound) => Ok(None),
            Err(e) => Err(store_error("read", &key)(e)),
        }
    }

    /// Puts a void under a point's name, or another one in the place of a void, so that whoever was about to create
    /// or replace what is there cannot any more. A point that is there stays.
    pub(crate) async fn put_void(&self, id: RecoveryPointId, void: Uuid) -> Result<(), RepoError> {
        let key = point_key(id);
        for _ in 0..ROUNDS {
            let sealed = self.seal_record(&key, &PointObject::Void { void })?;
            let done = match self.point_object(id).await? {
                Some((PointObject::Point(_), _)) => return Ok(()),
                Some((PointObject::Void { .. }, tag)) => self.objects.replace(&key, sealed, &tag).await.map(drop),
                None => self.objects.put_new(&key, sealed).await,
            };
            match done {
                Ok(()) => return Ok(()),
                Err(ObjectError::AlreadyExists | ObjectError::Changed) => {}
                Err(e) => return Err(store_error("write", &key)(e)),
            }
        }
        Err(RepoError::Conflict(format!("too many attempts at the recovery point {id}")))
    }

    /// Removes a point; where a void was before, a void comes back.
    pub(crate) async fn remove_point(&self, id: RecoveryPointId) -> Result<(), RepoError> {
        let (key, missing) = (point_key(id), || RepoError::NotFound { what: "recovery point", id: id.to_string() });
        for _ in 0..ROUNDS {
            let Some((PointObject::Point(point), tag)) = self.point_object(id).await? else { return Err(missing()) };
            if let Some(until) = point.manifest.meta.locked_until.filter(|until| *until > self.env.clock.now()) {
                return Err(RepoError::Locked { until });
            }
            let done = if point.over_void {
                let sealed = self.seal_record(&key, &PointObject::Void { void: point.manifest.session })?;
                self.objects.replace(&key, sealed, &tag).await.map(drop)
            } else {
                self.objects.delete(&key).await
            };
            match done {
                Ok(()) => return Ok(()),
                Err(ObjectError::NotFound) => return Err(missing()),
                Err(ObjectError::Changed) => {}
                Err(e) => return Err(store_error("delete", &key)(e)),
            }
        }
        Err(RepoError::Conflict(format!("too many attempts at the recovery point {id}")))
    }

    /// Reads the root of a point's disk.
    pub(crate) async fn disk_map(self: &Arc<Self>, point: &StoredPoint, disk: &str) -> Result<Root, RepoError> {
        self.root(point.disk_root(disk)?).await
    }
}
