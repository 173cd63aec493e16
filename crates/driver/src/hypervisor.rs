//! The hypervisor port.

use crate::DriverError;
use crate::machine::{
    AbandonedInstant, AbandonedMove, HomeObserver, InstantRequest, InstantSession, MachineSnapshot, MoveRequest,
    PowerRequest, SnapshotRef, SnapshotRequest,
};
use async_trait::async_trait;
use portolan_block::{BlockSink, BlockSource};
use portolan_model::policy::Consistency;
use portolan_model::vm::PowerState;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What a driver can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Exports say which blocks changed since a checkpoint.
    pub changed_blocks: bool,
    /// Machines are exported while they run, at one moment for all disks.
    pub live_export: bool,
    /// Machines can be made out of restored disks.
    pub import: bool,
    /// Machines can be started and stopped.
    pub power: bool,
    /// Machines have snapshots that they can be reverted to.
    #[serde(default)]
    pub snapshots: bool,
    /// Machines can run from a backup.
    #[serde(default)]
    pub instant: bool,
    /// Machines can be moved between datastores, while they run or not.
    #[serde(default)]
    pub moves: bool,
}

/// A hypervisor platform. Native ids are the platform's own; they are never keys in Portolan.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// What this driver can do.
    fn capabilities(&self) -> Capabilities;

    /// Everything the platform has. Either a complete listing or an error: a shortened listing would make
    /// machines seem gone. What is damaged is listed with `supported: false` and a note in `problems`.
    async fn inventory(&self) -> Result<Inventory, DriverError>;

    /// Fixes the machine's disks at one moment and opens them for reading. Calling it again with the same
    /// `token` finds the same moment while the session was not released, also after a restart of Portolan. A
    /// platform that cannot hold a moment opens what is there now: [`Exported::moment`] tells whether it is still
    /// the same. Within one session, content of two moments never comes out: the read fails instead.
    async fn open_export(&self, request: ExportRequest) -> Result<Box<dyn ExportSession>, DriverError>;

    /// Lets go of the moment of a session that nobody holds any more, as [`ExportSession::release`] without the
    /// checkpoint does, and opens nothing: for whoever cleans up after a session. Fine where there is none.
    async fn abandon_export(&self, export: AbandonedExport) -> Result<(), DriverError>;

    /// Begins to make a machine. Nothing of it is visible to [`Hypervisor::inventory`] before the commit.
    /// Calling it again with the same `token` continues the same import; one with an older fence than the newest
    /// seen is [`DriverError::Fenced`].
    async fn begin_import(&self, request: ImportRequest) -> Result<Box<dyn ImportSession>, DriverError>;

    /// Turns a machine on or off. Needs [`Capabilities::power`].
    async fn power(&self, _request: PowerRequest) -> Result<(), DriverError> {
        Err(DriverError::Unsupported("machines are not turned on and off".into()))
    }

    /// Makes a snapshot of a machine, whether it runs or not. Needs [`Capabilities::snapshots`].
    async fn create_snapshot(&self, _request: SnapshotRequest) -> Result<MachineSnapshot, DriverError> {
        Err(DriverError::Unsupported("snapshots".into()))
    }

    /// The machine's snapshots, the oldest first.
    async fn list_snapshots(&self, _vm: &str, _incarnation: &str) -> Result<Vec<MachineSnapshot>, DriverError> {
        Err(DriverError::Unsupported("snapshots".into()))
    }

    /// Makes a machine's disks what they were. A machine that runs is turned off for that, and runs again afterwards.
    /// The snapshot stays, and so do later ones. An incremental export after this may say [`Changes::Lost`].
    async fn revert_snapshot(&self, _snapshot: SnapshotRef) -> Result<(), DriverError> {
        Err(DriverError::Unsupported("snapshots".into()))
    }

    /// Deletes a snapshot; the machine is as it was. One that is not there is fine.
    async fn delete_snapshot(&self, _snapshot: SnapshotRef) -> Result<(), DriverError> {
        Err(DriverError::Unsupported("snapshots".into()))
    }

    /// Brings all of a machine's disks to another datastore; it stays the same machine, and one that runs goes on
    /// running. Answers when they are there, whole and durable, and nothing of them is left where they were. Repeating
    /// it is fine, also after a restart of Portolan. Until the machine is switched over as a whole, it is where it was,
    /// whatever fails; a caller that gives up calls [`Hypervisor::abandon_move`]. An older fence than the newest seen is
    /// [`DriverError::Fenced`]. Needs [`Capabilities::moves`].
    async fn move_machine(&self, _request: MoveRequest, _observer: &HomeObserver<'_>) -> Result<NativeVm, DriverError> {
        Err(DriverError::Unsupported("moves between datastores".into()))
    }

    /// Lets go of a move that has not been carried out: the machine stays where it is, and nothing of it is left on the
    /// other datastore. Fine where there is none, and where the machine has been switched over.
    async fn abandon_move(&self, _move: AbandonedMove) -> Result<(), DriverError> {
        Ok(())
    }

    /// Makes a machine that runs from a backup, or goes on with that of the same `token`: its sources are served
    /// again, and it is started when it does not run. Answers when it runs. An older fence than the newest seen is
    /// [`DriverError::Fenced`]. Needs [`Capabilities::instant`].
    async fn begin_instant(&self, _request: InstantRequest) -> Result<Box<dyn InstantSession>, DriverError> {
        Err(DriverError::Unsupported("machines that run from a backup".into()))
    }

    /// Does what [`InstantSession::abort`] does, without a session. Fine where there is no such machine.
    async fn abandon_instant(&self, _instant: AbandonedInstant) -> Result<(), DriverError> {
        Ok(())
    }
}

/// A complete listing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// Clusters.
    pub clusters: Vec<NativeCluster>,
    /// Hosts.
    pub hosts: Vec<NativeHost>,
    /// Datastores.
    pub datastores: Vec<NativeDatastore>,
    /// Virtual machines.
    pub vms: Vec<NativeVm>,
    /// What is there but cannot be used, for people to read.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// A cluster as the platform names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NativeCluster {
    /// The platform's id.
    pub native_id: String,
    /// Its name.
    pub name: String,
}

/// A host as the platform names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NativeHost {
    /// The platform's id.
    pub native_id: String,
    /// Its name.
    pub name: String,
    /// Where it answers.
    pub address: String,
    /// Native id of its cluster.
    pub cluster: Option<String>,
}

/// A datastore as the platform names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NativeDatastore {
    /// The platform's id.
    pub native_id: String,
    /// Its name.
    pub name: String,
    /// Native id of the cluster that reaches it.
    pub cluster: Option<String>,
    /// Native id of the host that reaches it, where only one does.
    pub host: Option<String>,
    /// Size in bytes.
    pub total_bytes: u64,
    /// Free space in bytes.
    pub free_bytes: u64,
}

/// A machine as the platform names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NativeVm {
    /// The platform's id.
    pub native_id: String,
    /// Tells apart machines that had this native id one after the other; empty where ids are never used again.
    pub incarnation: String,
    /// Its name.
    pub name: String,
    /// Native id of its host.
    pub host: Option<String>,
    /// Native id of its cluster.
    pub cluster: Option<String>,
    /// Whether it runs.
    pub power: PowerState,
    /// Its disks.
    pub disks: Vec<NativeDisk>,
    /// Its network cards.
    pub nics: Vec<NativeNic>,
    /// Virtual processors; 0 when unknown.
    pub cpus: u32,
    /// Memory in bytes; 0 when unknown.
    pub memory_bytes: u64,
    /// The platform's labels.
    pub tags: Vec<String>,
}

/// A disk as the platform names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NativeDisk {
    /// The platform's id, unique within the machine.
    pub native_id: String,
    /// Its name.
    pub name: String,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Native id of the datastore it lies on.
    pub datastore: Option<String>,
    /// Whether this driver can read it.
    pub supported: bool,
    /// The image format, `raw` or `qcow2`.
    pub format: String,
}

/// A network card as the platform names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NativeNic {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// Addresses that the platform reports.
    pub addresses: Vec<String>,
}

/// A wish to read a machine's disks at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportRequest {
    /// The machine's native id.
    pub vm: String,
    /// The machine's incarnation; a machine of another one is *not found*.
    pub incarnation: String,
    /// Native ids of the disks wanted; nothing for all that are supported.
    pub disks: Option<Vec<String>>,
    /// Names the session, so that a repeated call finds it: the chain's id.
    pub token: String,
    /// The task's fence.
    pub fence: i64,
    /// The checkpoint of an earlier session to report changes since.
    pub since: Option<String>,
    /// The machine's checkpoints that later exports will ask for: those of committed backups. The platform may drop
    /// every other one that Portolan made, but for this export's own.
    pub keep: Vec<String>,
    /// Whether the machine's file systems are brought to rest first, where the platform can. An export that cannot
    /// is made all the same, and says why in [`Exported::notes`].
    pub quiesce: bool,
}

/// An export session to let go of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbandonedExport {
    /// The machine's native id.
    pub vm: String,
    /// The machine's incarnation.
    pub incarnation: String,
    /// What named the session.
    pub token: String,
    /// The fence of the task that cleans up.
    pub fence: i64,
}

/// A machine's disks at one moment.
#[async_trait]
pub trait ExportSession: Send + Sync {
    /// What was fixed.
    fn exported(&self) -> &Exported;

    /// Lets go of the moment. With `keep_checkpoint`, a later export may ask for the changes since it. Repeating
    /// it is fine. [`DriverError::Conflict`] says that the platform did not hold the moment to the end.
    async fn release(&self, keep_checkpoint: bool) -> Result<(), DriverError>;
}

/// What an export session fixed.
#[derive(Clone)]
pub struct Exported {
    /// The machine as it was then; kept with the backup to make it anew from.
    pub vm: NativeVm,
    /// The disks, in the machine's order.
    pub disks: Vec<ExportedDisk>,
    /// Names the moment: equal for two sessions exactly when every disk is as it was. A backup that was cut off
    /// goes on only when the moment it began with is still the same.
    pub moment: String,
    /// Names this moment for a later `since`; nothing where the platform tracks no changes.
    pub checkpoint: Option<String>,
    /// How the machine was brought to rest.
    pub consistency: Consistency,
    /// How long its file systems stood still.
    pub frozen: Option<Duration>,
    /// What went less than well, for people: a guest that could not be frozen, a checkpoint that could not be made.
    pub notes: Vec<String>,
}

/// A disk at one moment.
#[derive(Clone)]
pub struct ExportedDisk {
    /// The disk's native id.
    pub native_id: String,
    /// Its name.
    pub name: String,
    /// Its content.
    pub source: Arc<dyn BlockSource>,
    /// What changed since the checkpoint asked for.
    pub changes: Changes,
}

/// What changed on a disk since a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// The platform does not know: compare with the parent.
    Unknown,
    /// It should know and does not, for this reason: compare with the parent.
    Lost(String),
    /// Only these ranges may differ; sorted and disjoint.
    Ranges(Vec<Range<u64>>),
}

/// A wish to make a machine out of disks.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportRequest {
    /// Names the import, so that a repeated call continues it: the chain's id.
    pub token: String,
    /// The task's fence.
    pub fence: i64,
    /// The machine's name.
    pub name: String,
    /// The machine as it was backed up, to take processors, memory and cards from.
    pub template: Option<NativeVm>,
    /// Native id of the cluster; nothing leaves the choice to the driver.
    pub cluster: Option<String>,
    /// Native id of the host.
    pub host: Option<String>,
    /// Native id of the datastore for disks that name none.
    pub datastore: Option<String>,
    /// Whether a machine of that name is replaced at the commit; else it is a conflict.
    pub overwrite: bool,
    /// The disks to make.
    pub disks: Vec<DiskImport>,
}

/// A disk to make.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskImport {
    /// Its name, unique within the machine.
    pub name: String,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Native id of the datastore.
    pub datastore: Option<String>,
    /// The image format, `raw` or `qcow2`; nothing leaves the choice to the driver.
    pub format: Option<String>,
}

/// A machine that is being made.
#[async_trait]
pub trait ImportSession: Send + Sync {
    /// The disk of that name, to write. Disks that were written before a restart are as they were then.
    async fn disk(&self, name: &str) -> Result<Arc<dyn BlockSink>, DriverError>;

    /// Makes the machine visible, whole and durable, or not at all. Every sink must have been flushed before: of what
    /// was written after its last flush, the machine may have some or nothing. Repeating it after success returns the
    /// same machine.
    async fn commit(&self) -> Result<NativeVm, DriverError>;

    /// Drops everything written. Repeating it is fine; after a commit it does nothing.
    async fn abort(&self) -> Result<(), DriverError>;
}
