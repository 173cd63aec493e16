//! Recovery points, their copies, destinations and restores.

use crate::id::*;
use crate::lifecycle::{IllegalTransition, Lifecycle};
use crate::name::Name;
use crate::policy::Consistency;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

crate::described_enum! {
    /// How much a backup read.
    pub enum BackupType {
        Full = "FULL", "Full";
        Incremental = "INCREMENTAL", "Incremental";
        Synthetic = "SYNTHETIC", "Synthetic";
        Synchronization = "SYNCHRONIZATION", "Backup synchronization";
    }
}

crate::described_enum! {
    /// Where a backup is in its life.
    pub enum BackupStatus {
        Queued = "QUEUED", "Queued";
        InProgress = "INPROGRESS", "In progress";
        Success = "SUCCESS", "Success";
        PartialSuccess = "PARTIAL_SUCCESS", "Partial success";
        Failed = "FAILED", "Failed";
        SuccessRemoved = "SUCCESS_REMOVED", "Success (removed)";
    }
}

crate::described_enum! {
    /// Where a copy is in its life.
    pub enum CopyStatus {
        InProgress = "IN_PROGRESS", "In progress";
        Present = "PRESENT", "Present";
        Failed = "FAILED", "Failed";
        Removed = "REMOVED", "Removed";
    }
}

crate::described_enum! {
    /// What a destination is for within a rule.
    pub enum DestinationRole {
        Primary = "PRIMARY", "Primary";
        Secondary = "SECONDARY", "Secondary";
        Archive = "ARCHIVE", "Archive";
    }
}

crate::described_enum! {
    /// What asked for a task.
    pub enum OriginKind {
        User = "USER", "User";
        Schedule = "SCHEDULE", "Schedule";
        SystemSchedule = "SYSTEM_SCHEDULE", "System schedule";
    }
}

crate::described_enum! {
    /// What a restore does with the data.
    pub enum RestoreType {
        Restore = "RESTORE", "Restore";
        RestoreAndImport = "RESTORE_AND_IMPORT", "Restore and import";
        RestoreAndMount = "RESTORE_AND_MOUNT", "Restore and mount";
        InstantRestore = "INSTANT_RESTORE", "Instant restore";
    }
}

/// What asked for a piece of work, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What it was.
    pub kind: OriginKind,
    /// The account's or schedule's id.
    pub id: Option<uuid::Uuid>,
    /// Its name.
    pub name: String,
}

/// A backup of one machine at one moment. Immutable once it succeeded, and whole in itself: any may go, in any
/// order. (A store keeps one row a point and one a copy.)
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// Portolan's id, also the repository's.
    pub id: RecoveryPointId,
    /// `web01 - 2026-11-21 01:00:04`.
    pub name: String,
    /// The machine.
    pub vm: VmId,
    /// The machine's name then.
    pub vm_name: String,
    /// The machine's platform.
    pub platform: PlatformId,
    /// The host it was on.
    pub host: Option<HostId>,
    /// The tenant, from the machine.
    pub tenant: Option<TenantId>,
    /// Where it is in its life.
    pub status: BackupStatus,
    /// Why it failed, or why a full was taken where an increment was asked for.
    #[serde(default)]
    pub status_info: String,
    /// What was asked for until the export began, what was done from then on.
    pub backup_type: BackupType,
    /// The chain that makes it.
    pub chain: ChainId,
    /// The repository session that its data is written under.
    #[serde(default)]
    pub session: Option<uuid::Uuid>,
    /// The point that the increment was compared with; information only.
    pub parent: Option<RecoveryPointId>,
    /// The moment that the data is of.
    pub snapshot_time: Option<Timestamp>,
    /// How the machine was brought to rest at that moment.
    #[serde(default = "not_applicable")]
    pub consistency: Consistency,
    /// How long its file systems stood still for it, in milliseconds; nothing where they did not.
    #[serde(default)]
    pub frozen_ms: Option<u64>,
    /// What the platform calls the moment, to tell later what has changed since.
    #[serde(default)]
    pub checkpoint: Option<String>,
    /// When it was stored.
    pub backup_time: Option<Timestamp>,
    /// When it was asked for.
    pub created: Timestamp,
    /// Bytes that differ from the parent; of a full backup all that hold data.
    #[serde(default)]
    pub size_bytes: u64,
    /// The virtual size of its disks, in bytes.
    #[serde(default)]
    pub virtual_bytes: u64,
    /// Bytes that it added to the repository.
    #[serde(default)]
    pub stored_bytes: u64,
    /// Its disks.
    #[serde(default)]
    pub disks: Vec<PointDisk>,
    /// A text of the user's.
    #[serde(default)]
    pub description: String,
    /// What went less than well.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Whether the user has seen the warnings.
    #[serde(default)]
    pub warnings_acknowledged: bool,
    /// Deletion is refused while this is set.
    #[serde(default)]
    pub locked: bool,
    /// What asked for it.
    pub origin: Origin,
    /// How long the links of its chain waited and ran.
    #[serde(default)]
    pub times: StepTimes,
    /// When `verify` last read all of it, and found it whole.
    pub last_verified: Option<Timestamp>,
    /// The last trial boot.
    #[serde(default)]
    pub trial: Option<TrialBoot>,
}

/// What a trial boot of a recovery point came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialBoot {
    /// When it was.
    pub at: Timestamp,
    /// Whether the machine became ready.
    pub booted: bool,
    /// How long it took from its start until it was ready, in milliseconds; nothing where it was not.
    pub ready_ms: Option<u64>,
    /// Why it did not become ready; empty where it did.
    #[serde(default)]
    pub reason: String,
}

fn not_applicable() -> Consistency {
    Consistency::NotApplicable
}

/// How long the links of a chain waited and ran, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTimes {
    /// From submission to the start of the export.
    pub queued_export_ms: i64,
    /// The export itself.
    pub export_ms: i64,
    /// From the export's end to the start of the store.
    pub queued_store_ms: i64,
    /// The store itself.
    pub store_ms: i64,
}

/// A disk within a recovery point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointDisk {
    /// The disk's id in the inventory.
    pub disk: DiskId,
    /// Its name within the repository, unique within the point.
    pub name: String,
    /// Its virtual size in bytes.
    pub size_bytes: u64,
    /// Bytes that were read for it.
    pub read_bytes: u64,
    /// The datastore it was on.
    pub datastore: Option<DatastoreId>,
    /// Left out of the backup: a restore makes it anew, empty.
    #[serde(default)]
    pub excluded: bool,
}

/// One copy of a recovery point at one destination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupCopy {
    /// Portolan's id.
    pub id: BackupCopyId,
    /// The point that it is a copy of.
    pub point: RecoveryPointId,
    /// The point's machine.
    pub vm: VmId,
    /// The tenant, from the machine.
    pub tenant: Option<TenantId>,
    /// Where it lies.
    pub destination: BackupDestinationId,
    /// What the destination is for.
    pub role: DestinationRole,
    /// Where it is in its life.
    pub status: CopyStatus,
    /// When it was asked for.
    pub created: Timestamp,
    /// When retention may remove it; nothing leaves that to the rule's counts.
    pub expires: Option<Timestamp>,
    /// When its immutability ends.
    pub locked_until: Option<Timestamp>,
}

/// A repository that backups are stored in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupDestination {
    /// Portolan's id.
    pub id: BackupDestinationId,
    /// The name it is configured by, unique.
    pub name: Name,
    /// A text for people.
    #[serde(default)]
    pub description: String,
    /// The kind of store, `local`.
    pub kind: String,
    /// Where it is, for people to recognise it by.
    pub url: String,
    /// Whether backups without a destination go here.
    pub default: bool,
    /// Bytes that the store holds.
    #[serde(default)]
    pub used_bytes: u64,
    /// Bytes that its file system has left.
    #[serde(default)]
    pub free_bytes: u64,
    /// Bytes that the stored points stand for.
    #[serde(default)]
    pub logical_bytes: u64,
    /// What its store needs to know, by the names of the kind's settings. Secrets are elsewhere, sealed.
    #[serde(default)]
    pub settings: std::collections::BTreeMap<String, String>,
    /// Whether it stands in the configuration of the server: such a one is changed there and nowhere else.
    #[serde(default)]
    pub declared: bool,
    /// When it was registered.
    pub created: Timestamp,
}

/// A request to restore a recovery point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreJob {
    /// Portolan's id.
    pub id: RestoreJobId,
    /// The point that is restored.
    pub point: RecoveryPointId,
    /// The machine that the point is of.
    pub vm: VmId,
    /// The tenant, from the machine.
    pub tenant: Option<TenantId>,
    /// What is done with the data.
    pub restore_type: RestoreType,
    /// Where it is in its life.
    pub status: BackupStatus,
    /// Why it failed.
    #[serde(default)]
    pub status_info: String,
    /// The chain that does it.
    pub chain: ChainId,
    /// The name of the machine that it makes.
    pub target_name: String,
    /// The machine that it made.
    pub target_vm: Option<VmId>,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Waited for the restore, in milliseconds.
    #[serde(default)]
    pub queued_restore_ms: i64,
    /// Ran the restore, in milliseconds.
    #[serde(default)]
    pub restore_ms: i64,
    /// Waited for the import, in milliseconds.
    #[serde(default)]
    pub queued_import_ms: i64,
    /// Ran the import, in milliseconds.
    #[serde(default)]
    pub import_ms: i64,
}

impl Lifecycle for BackupStatus {
    const MACHINE: &'static str = "backup";
    const MOVES: &'static [(Self, &'static [Self])] = {
        use BackupStatus::*;
        &[
            (Queued, &[InProgress, Failed]),
            // Back to `Queued`: a link of its chain failed and is queued again.
            (InProgress, &[Queued, Success, PartialSuccess, Failed]),
            (Success, &[SuccessRemoved]),
            (PartialSuccess, &[SuccessRemoved]),
            // Files that were thought lost are found again.
            (SuccessRemoved, &[Success, PartialSuccess]),
            (Failed, &[]),
        ]
    };
}

impl BackupStatus {
    /// Whether the backup can be restored.
    pub fn is_restorable(self) -> bool {
        matches!(self, Self::Success | Self::PartialSuccess)
    }

    /// Whether its chain still works on it.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::InProgress)
    }
}

impl Lifecycle for CopyStatus {
    const MACHINE: &'static str = "backup copy";
    const MOVES: &'static [(Self, &'static [Self])] = {
        use CopyStatus::*;
        &[
            (InProgress, &[Present, Failed, Removed]),
            // A reading found it damaged.
            (Present, &[Removed, Failed]),
            // Copied anew, or given up.
            (Failed, &[InProgress, Removed]),
            // Copied anew, or found again.
            (Removed, &[InProgress, Present]),
        ]
    };
}

impl RestoreJob {
    /// The moves of a restore's status. It uses a backup's words, but nothing removes a restore.
    const MOVES: &'static [(BackupStatus, &'static [BackupStatus])] = {
        use BackupStatus::*;
        &[(Queued, &[InProgress, Failed]), (InProgress, &[Queued, Success, PartialSuccess, Failed])]
    };

    /// Whether the job may go on to `next`.
    pub fn can_become(&self, next: BackupStatus) -> bool {
        Self::MOVES.iter().any(|(from, followers)| *from == self.status && followers.contains(&next))
    }

    /// Moves the job to `next` at `now`, with the reason where it failed; an end also notes when. Leaves the job
    /// as it is on an error.
    pub fn become_(
        &mut self,
        next: BackupStatus,
        info: impl Into<String>,
        now: Timestamp,
    ) -> Result<(), IllegalTransition> {
        if !self.can_become(next) {
            return Err(IllegalTransition::new("restore job", self.status, next));
        }
        self.status = next;
        self.status_info = info.into();
        self.finished = (!next.is_open()).then_some(now);
        Ok(())
    }
}
