//! Backups, their locations, and restore jobs (sections 7 and 9).

use super::inventory::destination_type;
use super::{Enum, Ref, TypedRef, word};
use crate::names::Names;
use portolan::protect::PointView;
use portolan_model::backup::BackupType;
use portolan_model::dialect::vplus::{ExportImportMode, RetentionHint};
use portolan_model::*;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A backup.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Backup)]
pub(crate) struct BackupDetail {
    guid: Uuid,
    name: String,
    protected_entity: TypedRef,
    /// Milliseconds since the epoch, as all times.
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_time: Option<i64>,
    status: Enum,
    status_info: String,
    #[serde(rename = "type")]
    kind: Enum,
    /// Bytes that changed, or of a full backup all that hold data.
    size: u64,
    effective_backup_size: u64,
    effective_backup_objects_count: usize,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_backup: Option<Ref>,
    warnings_present: bool,
    warnings_acknowledged: bool,
    warnings: Vec<String>,
    hidden: bool,
    iscsi_mountable: bool,
    vm_export_import_mode: Enum,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_project: Option<Ref>,
    origin_entity: TypedRef,
    task_time_stats: BackupTimes,
    /// Milliseconds.
    task_duration_time: i64,
    backup_locations: Vec<Location>,
    /// When every byte of it was last read and found whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_verified: Option<i64>,
}

/// How long the links of a backup took, in milliseconds.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BackupTimes {
    queued_export_time: i64,
    export_time: i64,
    queued_store_time: i64,
    store_time: i64,
}

/// One copy of a backup.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BackupLocation)]
pub(crate) struct Location {
    guid: Uuid,
    backup: Ref,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_time: Option<i64>,
    backup_destination: Ref,
    backup_destination_type: Enum,
    role_type: Enum,
    status: Enum,
    #[serde(rename = "type")]
    kind: Enum,
    retention_hint: Enum,
    protected_entity: TypedRef,
}

/// A backup on the wire.
pub(crate) fn backup(view: &PointView, names: &Names) -> BackupDetail {
    let p = &view.point;
    let times = &p.times;
    let stored: u64 = if p.stored_bytes > 0 { p.stored_bytes } else { p.size_bytes };
    BackupDetail {
        guid: p.id.uuid(),
        name: p.name.clone(),
        protected_entity: TypedRef::vm(p.vm, &p.vm_name),
        backup_time: p.backup_time.map(|t| t.as_millis()),
        snapshot_time: p.snapshot_time.map(|t| t.as_millis()),
        status: word(p.status),
        status_info: p.status_info.clone(),
        kind: word(p.backup_type),
        size: p.size_bytes,
        effective_backup_size: stored,
        effective_backup_objects_count: p.disks.iter().filter(|d| !d.excluded).count(),
        description: p.description.clone(),
        parent_backup: p.parent.and_then(|id| names.parent_backup(id)).map(Into::into),
        warnings_present: !p.warnings.is_empty(),
        warnings_acknowledged: p.warnings_acknowledged,
        warnings: p.warnings.clone(),
        hidden: false,
        iscsi_mountable: false,
        vm_export_import_mode: word(if p.backup_type == BackupType::Incremental {
            ExportImportMode::ChangedBlockTracking
        } else {
            ExportImportMode::DiskImageTransfer
        }),
        source_project: p.tenant.map(|t| names.project(t).into()),
        origin_entity: TypedRef::origin(&p.origin),
        task_time_stats: BackupTimes {
            queued_export_time: times.queued_export_ms,
            export_time: times.export_ms,
            queued_store_time: times.queued_store_ms,
            store_time: times.store_ms,
        },
        task_duration_time: times.queued_export_ms + times.export_ms + times.queued_store_ms + times.store_ms,
        backup_locations: view.copies.iter().map(|c| location(p, c, names)).collect(),
        last_verified: p.last_verified.map(|t| t.as_millis()),
    }
}

/// A copy on the wire.
pub(crate) fn location(point: &RecoveryPoint, copy: &BackupCopy, names: &Names) -> Location {
    Location {
        guid: copy.id.uuid(),
        backup: Ref::new(point.id, point.name.clone()),
        snapshot_time: point.snapshot_time.map(|t| t.as_millis()),
        backup_destination: names.destination(copy.destination).into(),
        backup_destination_type: word(destination_type(names.destination_kind(copy.destination).unwrap_or_default())),
        role_type: word(copy.role),
        status: word(copy.status),
        kind: word(point.backup_type),
        retention_hint: word(RetentionHint::StandardRetention),
        protected_entity: TypedRef::vm(point.vm, &point.vm_name),
    }
}

/// A restore job.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RestoreJob)]
pub(crate) struct Job {
    guid: Uuid,
    restore_type: Enum,
    status: Enum,
    status_info: String,
    /// Milliseconds since the epoch.
    restore_time: i64,
    backup: JobBackup,
    protected_entity: TypedRef,
    restored_pe_name: String,
    task_time_stats: RestoreTimes,
}

/// The backup of a restore job.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobBackup {
    guid: Uuid,
    name: String,
    /// Milliseconds since the epoch.
    snapshot_time: i64,
    /// Bytes.
    size: u64,
}

/// How long the links of a restore took, in milliseconds.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RestoreTimes {
    queued_restore_time: i64,
    restore_time: i64,
    queued_import_time: i64,
    import_time: i64,
    queued_mount_time: i64,
    mount_time: i64,
}

/// A restore job on the wire, with the backup that it is of where that is still known.
pub(crate) fn job(job: &RestoreJob, point: Option<&RecoveryPoint>) -> Job {
    let vm_name = point.map_or_else(|| job.target_name.clone(), |p| p.vm_name.clone());
    Job {
        guid: job.id.uuid(),
        restore_type: word(job.restore_type),
        status: word(job.status),
        status_info: job.status_info.clone(),
        restore_time: job.created.as_millis(),
        backup: JobBackup {
            guid: job.point.uuid(),
            name: point.map(|p| p.name.clone()).unwrap_or_default(),
            snapshot_time: point.and_then(|p| p.snapshot_time).unwrap_or(job.created).as_millis(),
            size: point.map_or(0, |p| p.size_bytes),
        },
        protected_entity: TypedRef::vm(job.vm, &vm_name),
        restored_pe_name: job.target_name.clone(),
        task_time_stats: RestoreTimes {
            queued_restore_time: job.queued_restore_ms,
            restore_time: job.restore_ms,
            queued_import_time: job.queued_import_ms,
            import_time: job.import_ms,
            queued_mount_time: 0,
            mount_time: 0,
        },
    }
}
