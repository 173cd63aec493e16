//! What is done with whole machines: power, snapshots, and machines that run from a backup.

use crate::{DriverError, NativeVm};
use async_trait::async_trait;
use portolan_block::BlockSource;
use portolan_model::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// A wish to turn a machine on or off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerRequest {
    /// The machine's native id.
    pub vm: String,
    /// The machine's incarnation; a machine of another one is *not found*.
    pub incarnation: String,
    /// What is to be done.
    pub action: PowerAction,
}

/// What is to be done with a machine's power. Each answers when it is done. What would change nothing is fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerAction {
    /// Turn it on.
    Start,
    /// Ask its system to shut down. A machine that does not within this time runs on, and that is a conflict.
    Shutdown {
        /// For how long to wait.
        within: Duration,
    },
    /// Turn it off at once, as by pulling the plug.
    Off,
    /// Ask its system to start again, else reset it. A conflict when it is off.
    Reboot,
    /// Press its reset button. A conflict when it is off.
    Reset,
}

/// A wish for a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// The machine's native id.
    pub vm: String,
    /// The machine's incarnation.
    pub incarnation: String,
    /// A second wish of the same token is answered with the first one's snapshot.
    pub token: String,
    /// The name, for people; snapshots of one name may lie beside each other.
    pub name: String,
    /// Whether the memory of a machine that runs is kept too, so that it goes on from there. A conflict when it does
    /// not run.
    pub memory: bool,
}

/// A snapshot of a machine: all its disks at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSnapshot {
    /// The platform's id, unique within the machine.
    pub native_id: String,
    /// What it was asked for with.
    pub token: String,
    /// Its name.
    pub name: String,
    /// Whether it has the machine's memory.
    pub memory: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A snapshot to revert to, or to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRef {
    /// The machine's native id.
    pub vm: String,
    /// The machine's incarnation.
    pub incarnation: String,
    /// The snapshot's native id.
    pub snapshot: String,
}

/// A wish to bring a machine's disks to another datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveRequest {
    /// The machine's native id.
    pub vm: String,
    /// The machine's incarnation.
    pub incarnation: String,
    /// Names the move, so that a repeated call goes on with it: the chain's id.
    pub token: String,
    /// The task's fence.
    pub fence: i64,
    /// Native id of the datastore.
    pub datastore: String,
}

/// A move to let go of, by whoever cleans up after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbandonedMove {
    /// The machine's native id.
    pub vm: String,
    /// The machine's incarnation.
    pub incarnation: String,
    /// What named the move.
    pub token: String,
    /// The fence of the task that cleans up.
    pub fence: i64,
}

/// A wish for a machine that runs at once, with disks that are not there yet: what it does not write itself it reads
/// from the sources.
#[derive(Debug, Clone)]
pub struct InstantRequest {
    /// Names the machine, so that a repeated call goes on with it: the chain's id.
    pub token: String,
    /// The task's fence.
    pub fence: i64,
    /// The machine's name. Unless it is isolated, another machine of that name is a conflict.
    pub name: String,
    /// The machine as it was backed up, to take processors, memory and cards from.
    pub template: Option<NativeVm>,
    /// Native id of the datastore of what the machine writes, and of its disks later on.
    pub datastore: Option<String>,
    /// The disks, the first to boot from.
    pub disks: Vec<InstantDisk>,
    /// A trial: the machine reaches no network, is in no listing, and is gone with its session, also when Portolan
    /// is. Else it is an ordinary machine from the beginning.
    pub isolated: bool,
}

/// A disk of a machine that runs from a backup.
#[derive(Clone)]
pub struct InstantDisk {
    /// Its name, unique within the machine.
    pub name: String,
    /// What it held at the moment that the machine begins with. Its size is the disk's.
    pub source: Arc<dyn BlockSource>,
}

impl std::fmt::Debug for InstantDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = self.source.size();
        f.debug_struct("InstantDisk").field("name", &self.name).field("size", &size).finish_non_exhaustive()
    }
}

/// A session to let go of, by whoever cleans up after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbandonedInstant {
    /// What named the session.
    pub token: String,
    /// The fence of the task that cleans up.
    pub fence: i64,
}

/// What a machine is waited for to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// Its guest agent answers.
    Agent,
    /// Its console says this, letter by letter.
    Console(String),
}

/// Whether a machine became ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It did, so long after it was started (or found running).
    Reached(Duration),
    /// It did not.
    Missed {
        /// Why not, for people.
        reason: String,
        /// The end of what its console said.
        console: String,
    },
}

/// How far data is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HomeProgress {
    /// Bytes of the disks that were looked at by now.
    pub done: u64,
    /// Bytes of the disks.
    pub total: u64,
}

/// Is told how far data is, now and then.
pub type HomeObserver<'a> = dyn Fn(HomeProgress) + Send + Sync + 'a;

/// A machine that runs from a backup.
///
/// Dropping the session serves its sources no more. An ordinary machine then stands still as soon as it reads what it
/// has not got, until [`crate::Hypervisor::begin_instant`] is called again; an isolated one is destroyed.
#[async_trait]
pub trait InstantSession: Send + Sync {
    /// The machine.
    fn vm(&self) -> NativeVm;

    /// Brings all data to the datastore, while the machine runs. When this is done the machine stands alone, and the
    /// sources are read no more. Repeating it is fine, also in a session that was begun again. When it fails, or its
    /// caller gives up, the machine runs on as before. An isolated machine has no home: a conflict.
    async fn bring_home(&self, observer: &HomeObserver<'_>) -> Result<NativeVm, DriverError>;

    /// Waits until the machine is ready, at most `within`.
    async fn ready(&self, within: Duration, sign: Ready) -> Result<Readiness, DriverError>;

    /// Destroys the machine with what it wrote. Repeating it is fine; once it stands alone, this does nothing.
    async fn abort(&self) -> Result<(), DriverError>;
}
