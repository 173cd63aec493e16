//! The driver ports: what Portolan asks of a hypervisor platform.
//!
//! A driver reports what is there ([`Hypervisor::inventory`]), hands out disks that stand still
//! ([`Hypervisor::open_export`]) and makes machines out of restored disks ([`Hypervisor::begin_import`]).
//! What a platform cannot do is a typed [`DriverError::Unsupported`].

mod error;
mod hypervisor;
mod registry;

pub use error::DriverError;
pub use hypervisor::{
    Capabilities, Changes, DiskImport, ExportRequest, ExportSession, Exported, ExportedDisk, Hypervisor, ImportRequest,
    ImportSession, Inventory, NativeCluster, NativeDatastore, NativeDisk, NativeHost, NativeNic, NativeVm,
};
pub use registry::Hypervisors;
