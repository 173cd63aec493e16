//! The files of a backup (section 7): one for each disk.

use super::{Enum, Ref, word};
use crate::names::Names;
use portolan_model::backup::{BackupType, PointDisk};
use portolan_model::dialect::vplus::BackupFileType;
use portolan_model::{DiskId, RecoveryPoint, RecoveryPointId};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A file of a backup.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BackupFile {
    guid: Uuid,
    backup: Ref,
    /// Milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_time: Option<i64>,
    /// How people tell it from the others: the data lies in the destination's own form.
    path: String,
    /// Bytes that were read for it.
    size: u64,
    format: Enum,
    backup_file_type: Enum,
    /// The platform's own id of the storage that the disk was on.
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_id: Option<String>,
    iscsi_mountable: bool,
    mountable: bool,
    /// When it was restored: not kept.
    restores_time: Vec<i64>,
    config_present: bool,
    vm_disk: FileDisk,
}

/// The disk that a file is of.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FileDisk {
    guid: Uuid,
    /// What a restore's `originalDiskName` names.
    name: String,
    /// Bytes.
    size: u64,
    /// Left out of the backup: a restore makes the disk anew, empty.
    excluded_from_backup: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_storage: Option<Ref>,
}

/// The files of a backup on the wire: those of disks that it holds, or of every disk that a restore makes. None of a
/// backup that cannot be restored (any more).
pub(crate) fn files(point: &RecoveryPoint, for_restore: bool, names: &Names) -> Vec<BackupFile> {
    let shown = |d: &&PointDisk| for_restore || !d.excluded;
    let disks = if point.status.is_restorable() { point.disks.as_slice() } else { &[] };
    disks.iter().filter(shown).map(|disk| file(point, disk, names)).collect()
}

fn file(point: &RecoveryPoint, disk: &PointDisk, names: &Names) -> BackupFile {
    let increment = point.backup_type == BackupType::Incremental;
    BackupFile {
        guid: file_id(point.id, disk.disk),
        backup: Ref::new(point.id, point.name.clone()),
        backup_time: point.backup_time.map(|t| t.as_millis()),
        path: format!("/{}/{}.raw", point.id, disk.name),
        size: disk.read_bytes,
        format: Enum { name: "RAW".into(), description: "Raw".into() },
        backup_file_type: word(if increment { BackupFileType::DiskInc } else { BackupFileType::Disk }),
        storage_id: disk.datastore.and_then(|d| names.storage_uuid(d)),
        iscsi_mountable: false,
        mountable: false,
        restores_time: Vec::new(),
        config_present: false,
        vm_disk: FileDisk {
            guid: disk.disk.uuid(),
            name: disk.name.clone(),
            size: disk.size_bytes,
            excluded_from_backup: disk.excluded,
            original_storage: disk.datastore.map(|d| names.storage(d).into()),
        },
    }
}

/// A file is no object of its own: its guid mixes those of the backup and of the disk, always in the same way.
fn file_id(point: RecoveryPointId, disk: DiskId) -> Uuid {
    let mixed = point.uuid().as_u128() ^ disk.uuid().as_u128().rotate_left(64);
    uuid::Builder::from_u128(mixed).with_version(uuid::Version::Custom).into_uuid()
}
