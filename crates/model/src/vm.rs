//! Virtual machines: what a platform reports, and what users decide.

use crate::external::ExternalRef;
use crate::id::*;
use crate::name::Name;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

crate::described_enum! {
    /// Whether a machine runs.
    pub enum PowerState {
        Running = "RUNNING", "Running";
        Stopped = "STOPPED", "Stopped";
        Paused = "PAUSED", "Paused";
        Suspended = "SUSPENDED", "Suspended";
        Unknown = "UNKNOWN", "Unknown";
    }
}

/// A virtual machine. `observed` is written by inventory sync (and by the import that makes the machine), `settings`
/// by users only, so that neither can undo the other's work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VirtualMachine {
    /// Portolan's id of the machine, the same in every dialect.
    pub id: VmId,
    /// What the platform calls it.
    pub external: ExternalRef,
    /// When inventory first saw it.
    pub created: Timestamp,
    /// What the platform reports.
    pub observed: VmObserved,
    /// What users decided.
    #[serde(default)]
    pub settings: VmSettings,
    /// What backups left behind; written by the backup use cases only.
    #[serde(default)]
    pub protection: VmProtection,
}

/// What the platform reports of a machine. Names of the things around it are kept here, because sync writes
/// them all together: lists sort by them without a join.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmObserved {
    /// The machine's name.
    pub name: Name,
    /// Whether the platform still has it. False only after two complete listings without it.
    pub present: bool,
    /// How many complete listings in a row lacked it.
    #[serde(default)]
    pub missed: u32,
    /// The platform instance that reports it.
    pub platform: PlatformId,
    /// That platform's name.
    pub platform_name: String,
    /// The host it is on.
    pub host: Option<HostId>,
    /// That host's name.
    #[serde(default)]
    pub host_name: String,
    /// The cluster it is in.
    pub cluster: Option<ClusterId>,
    /// That cluster's name.
    #[serde(default)]
    pub cluster_name: String,
    /// Whether it runs.
    pub power: PowerState,
    /// Its disks, in the platform's order.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Its network cards.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// Virtual processors; 0 when unknown.
    #[serde(default)]
    pub cpus: u32,
    /// Memory in bytes; 0 when unknown.
    #[serde(default)]
    pub memory_bytes: u64,
    /// The platform's labels.
    #[serde(default)]
    pub tags: Vec<String>,
    /// When a sync last saw it.
    pub last_seen: Timestamp,
}

/// What users decided about a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VmSettings {
    /// The tenant it belongs to.
    pub tenant: Option<TenantId>,
    /// The backup policy it follows.
    pub backup_policy: Option<PolicyId>,
    /// The snapshot policy it follows.
    pub snapshot_policy: Option<PolicyId>,
    /// Disks that backups leave out; a restore makes them anew, empty.
    #[serde(default)]
    pub excluded_disks: Vec<DiskId>,
}

/// What backups left behind on a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VmProtection {
    /// The newest recovery point that succeeded, the base of the next increment.
    pub last_point: Option<RecoveryPointId>,
    /// When that backup ended.
    pub last_backup: Option<Timestamp>,
    /// How many bytes it read.
    #[serde(default)]
    pub last_size_bytes: u64,
    /// The newest successful full backup.
    pub last_full: Option<RecoveryPointId>,
    /// That backup's name.
    #[serde(default)]
    pub last_full_name: String,
    /// How many bytes that full backup read.
    #[serde(default)]
    pub last_full_size_bytes: u64,
    /// How many successful backups exist.
    #[serde(default)]
    pub backups: u64,
}

/// A virtual disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// Portolan's id of the disk, kept over syncs by its native id.
    pub id: DiskId,
    /// The platform's id of the disk, unique within its machine.
    pub native_id: String,
    /// Its name, `disk1`.
    pub name: String,
    /// Its virtual size in bytes.
    pub size_bytes: u64,
    /// The datastore it lies on.
    pub datastore: Option<DatastoreId>,
    /// Whether the driver can read it.
    #[serde(default = "yes")]
    pub supported: bool,
    /// The image format as the platform names it, `raw` or `qcow2`.
    #[serde(default)]
    pub format: String,
}

/// A network interface card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nic {
    /// Portolan's id of the card.
    pub id: NicId,
    /// Its name, `eth0`.
    pub name: String,
    /// Its hardware address.
    #[serde(default)]
    pub mac: String,
    /// The network it is on.
    pub network: Option<NetworkId>,
    /// Addresses that the platform reports.
    #[serde(default)]
    pub addresses: Vec<String>,
}

fn yes() -> bool {
    true
}
