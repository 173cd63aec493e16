//! Backups that are mounted, snapshots of machines, mailing lists and quotas.

use crate::dialect::vplus::{MountMode, MountState};
use crate::external::ExternalRef;
use crate::id::*;
use crate::name::Name;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// A recovery point whose disks are offered for reading, to files or to a whole machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountedBackup {
    /// Portolan's id.
    pub id: MountedBackupId,
    /// The point.
    pub point: RecoveryPointId,
    /// The copy that is read.
    pub copy: BackupCopyId,
    /// The machine that the point is of.
    pub vm: VmId,
    /// The tenant, from the machine.
    pub tenant: Option<TenantId>,
    /// How it is offered.
    pub mode: MountMode,
    /// Where it is in its life.
    pub state: MountState,
    /// Why it failed.
    #[serde(default)]
    pub state_info: String,
    /// The process that offers it.
    pub node: Option<NodeId>,
    /// The chain that mounted it.
    pub chain: Option<ChainId>,
    /// Its file systems.
    #[serde(default)]
    pub file_systems: Vec<MountedFileSystem>,
    /// Its disks, where they are offered as such.
    #[serde(default)]
    pub disks: Vec<MountedDisk>,
    /// Who may use it, where the mode asks that.
    #[serde(default)]
    pub allowed_clients: Vec<String>,
    /// When it unmounts itself; nothing for never.
    pub unmount_at: Option<Timestamp>,
    /// When it was asked for.
    pub created: Timestamp,
}

/// A file system within a mounted backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountedFileSystem {
    /// Portolan's id.
    pub id: FileSystemId,
    /// The disk that it is on, by its name within the point.
    pub disk: String,
    /// Where on the disk it begins, in bytes.
    pub offset_bytes: u64,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// What the guest calls it, `/dev/sda1`.
    pub volume: String,
    /// Its type, `ext4`.
    pub kind: String,
    /// Its label; empty for none.
    #[serde(default)]
    pub label: String,
    /// The path that users know it by.
    #[serde(default)]
    pub mount_path: String,
}

/// A disk within a mounted backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountedDisk {
    /// Its name within the point.
    pub disk: String,
    /// Where it is offered: a URL or a path.
    pub export: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// A snapshot of a machine, kept by its platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmSnapshot {
    /// Portolan's id.
    pub id: VmSnapshotId,
    /// What the platform calls it.
    pub external: ExternalRef,
    /// Its name.
    pub name: Name,
    /// The machine.
    pub vm: VmId,
    /// The tenant, from the machine.
    pub tenant: Option<TenantId>,
    /// The policy that it was taken under; nothing for one taken by hand.
    pub policy: Option<PolicyId>,
    /// That policy's rule.
    pub rule: Option<RuleId>,
    /// Whether backups keep it to compare with, so that users must not remove it.
    #[serde(default)]
    pub for_increments: bool,
    /// Whether the guest was brought to rest for it.
    #[serde(default)]
    pub quiesced: bool,
    /// Whether the platform still reports it.
    pub present: bool,
    /// When it was taken.
    pub taken: Timestamp,
}

/// Whom reports are mailed to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MailingList {
    /// Portolan's id.
    pub id: MailingListId,
    /// Its name, unique.
    pub name: Name,
    /// The addresses.
    pub recipients: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
}

crate::described_enum! {
    /// What a quota counts.
    pub enum QuotaMeasure {
        NumberOfBackups = "NUMBER_OF_BACKUPS", "Number of backups";
        BackupSize = "BACKUP_SIZE", "Size of backups";
        NumberOfRestores = "NUMBER_OF_RESTORES", "Number of restores";
        RestoreSize = "RESTORE_SIZE", "Size of restores";
        NumberOfSnapshots = "NUMBER_OF_SNAPSHOTS", "Number of snapshots";
    }
}

crate::described_enum! {
    /// Which backups a quota counts.
    pub enum QuotaScope {
        Total = "TOTAL", "Total";
        Full = "FULL", "Full";
        Incremental = "INCREMENTAL", "Incremental";
    }
}

crate::described_enum! {
    /// What a quota says to a use.
    pub enum QuotaVerdict {
        Free = "FREE", "Within the quota";
        Warned = "SOFT", "Beyond the soft limit";
        Refused = "HARD", "Beyond the hard limit";
    }
}

/// What a tenant may use within a span of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quota {
    /// Portolan's id.
    pub id: QuotaId,
    /// Its name, unique.
    pub name: Name,
    /// The tenants that it holds for, each by itself.
    #[serde(default)]
    pub tenants: Vec<TenantId>,
    /// What it says.
    #[serde(default)]
    pub rules: Vec<QuotaRule>,
    /// When it was made.
    pub created: Timestamp,
}

/// One limit of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaRule {
    /// What is counted.
    pub measure: QuotaMeasure,
    /// Of which backups.
    pub scope: QuotaScope,
    /// The last so many hours count; 0 for everything that exists.
    pub hours: u32,
    /// Beyond this a warning is noted; a number or bytes.
    pub soft: Option<u64>,
    /// Beyond this a task fails; a number or bytes.
    pub hard: Option<u64>,
}

impl QuotaRule {
    /// What the rule says to `more`, when `used` is used already.
    pub fn judge(&self, used: u64, more: u64) -> QuotaVerdict {
        let total = used.saturating_add(more);
        if self.hard.is_some_and(|limit| total > limit) {
            QuotaVerdict::Refused
        } else if self.soft.is_some_and(|limit| total > limit) {
            QuotaVerdict::Warned
        } else {
            QuotaVerdict::Free
        }
    }
}
