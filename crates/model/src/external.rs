//! Identity on the platforms.

use crate::id::PlatformId;
use serde::{Deserialize, Serialize};

crate::described_enum! {
    /// What a platform's id is the id of.
    pub enum ExternalKind {
        Cluster = "CLUSTER", "Cluster";
        DataCenter = "DATA_CENTER", "Data centre";
        Datastore = "DATASTORE", "Datastore";
        Disk = "DISK", "Disk";
        Host = "HOST", "Host";
        Image = "IMAGE", "Image";
        Location = "LOCATION", "Location";
        Network = "NETWORK", "Network";
        PersistentVolume = "PERSISTENT_VOLUME", "Persistent volume";
        Size = "SIZE", "Size";
        Vm = "VM", "Virtual machine";
        VmSnapshot = "VM_SNAPSHOT", "Snapshot of a virtual machine";
        Volume = "VOLUME", "Volume";
        VolumeSnapshot = "VOLUME_SNAPSHOT", "Snapshot of a volume";
    }
}

/// What a platform calls a thing. The four parts together are unique and map to one Portolan id; the native id
/// alone never is a key, since platforms use ids again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExternalRef {
    /// The platform that reports the thing.
    pub platform: PlatformId,
    /// What it is.
    pub kind: ExternalKind,
    /// The platform's own id.
    pub native_id: String,
    /// Tells apart things that had the same native id one after the other; empty where the platform never
    /// uses an id again.
    pub incarnation: String,
}

impl ExternalRef {
    /// The text that a store's unique key holds.
    pub fn key(&self) -> String {
        format!("{}/{}/{}/{}", self.platform, self.kind, self.native_id, self.incarnation)
    }
}
