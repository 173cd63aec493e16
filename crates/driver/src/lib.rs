//! The driver ports: what Portolan asks of a hypervisor platform and of a cloud.
//!
//! A hypervisor driver reports what is there ([`Hypervisor::inventory`]), hands out disks that stand still
//! ([`Hypervisor::open_export`]) and makes machines out of restored disks ([`Hypervisor::begin_import`]). A cloud
//! driver makes, lists and destroys nodes ([`CloudDriver`]). What a platform cannot do is a typed
//! [`DriverError::Unsupported`] or [`CloudErrorKind::Unsupported`].

mod cloud;
mod dummy;
mod error;
mod faults;
mod hypervisor;
mod machine;
mod registry;
mod relogin;
mod retrying;
mod state;

pub use cloud::*;
pub use dummy::DummyCloud;
pub use error::DriverError;
pub use faults::{Faults, HeldCalls};
pub use hypervisor::{
    AbandonedExport, Capabilities, Changes, DiskImport, ExportRequest, ExportSession, Exported, ExportedDisk,
    Hypervisor, ImportRequest, ImportSession, Inventory, NativeCluster, NativeDatastore, NativeDisk, NativeHost,
    NativeNic, NativeVm,
};
pub use machine::{
    AbandonedInstant, AbandonedMove, HomeObserver, HomeProgress, InstantDisk, InstantRequest, InstantSession,
    MachineSnapshot, MoveRequest, PowerAction, PowerRequest, Readiness, Ready, SnapshotRef, SnapshotRequest,
};
pub use registry::{Clouds, Hypervisors, Registry};
pub use relogin::{Granted, Login, Relogin};
pub use retrying::{RetryPolicy, Retrying, Timed};
pub use state::{DriverState, MemoryDriverState, StateChange, StateEntry};
