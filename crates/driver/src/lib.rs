//! The driver ports: what Portolan asks of a hypervisor platform and of a cloud.
//!
//! A hypervisor driver reports what is there ([`Hypervisor::inventory`]), hands out disks that stand still
//! ([`Hypervisor::open_export`]) and makes machines out of restored disks ([`Hypervisor::begin_import`]). A cloud
//! driver makes, lists and destroys nodes ([`CloudDriver`]). What a platform cannot do is a typed
//! [`DriverError::Unsupported`] or [`CloudErrorKind::Unsupported`].

mod cloud;
mod error;
mod hypervisor;
mod registry;
mod state;

pub use cloud::*;
pub use error::DriverError;
pub use hypervisor::{
    Capabilities, Changes, DiskImport, ExportRequest, ExportSession, Exported, ExportedDisk, Hypervisor, ImportRequest,
    ImportSession, Inventory, NativeCluster, NativeDatastore, NativeDisk, NativeHost, NativeNic, NativeVm,
};
pub use registry::{Clouds, Hypervisors, Registry};
pub use state::{DriverState, MemoryDriverState, StateChange, StateEntry};
