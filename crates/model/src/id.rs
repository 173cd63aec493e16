//! Typed ids: one type per kind of object, so that a host's id can never stand where a disk's belongs.
//!
//! The list is append-only and alphabetical.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// What every typed id can do; lets ports store ids without knowing their kind.
pub trait TypedId: Copy + Eq + Ord + std::hash::Hash + fmt::Display + fmt::Debug + Send + Sync + 'static {
    /// Wraps a raw uuid that is known to be of this kind.
    fn from_uuid(id: Uuid) -> Self;
    /// The raw uuid, for a store's column or a wire field.
    fn uuid(self) -> Uuid;
}

macro_rules! typed_ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl TypedId for $name {
            fn from_uuid(id: Uuid) -> Self { Self(id) }
            fn uuid(self) -> Uuid { self.0 }
        }
        impl $name {
            /// Wraps a raw uuid that is known to be of this kind.
            pub const fn from_uuid(id: Uuid) -> Self { Self(id) }
            /// The raw uuid, for a store's column or a wire field.
            pub const fn uuid(self) -> Uuid { self.0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}({})", stringify!($name), self.0) }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, uuid::Error> { s.parse().map(Self) }
        }
    )+};
}

typed_ids! {
    /// An account that can log in.
    AccountId,
    /// A bearer token for scripts.
    ApiTokenId,
    /// A user's hold on a cloud node.
    AssignmentId,
    /// One copy of a recovery point at one destination.
    BackupCopyId,
    /// A backup repository that backups are stored in.
    BackupDestinationId,
    /// A certificate that is trusted or shown.
    CertificateId,
    /// A chain of tasks.
    ChainId,
    /// A cluster of hosts.
    ClusterId,
    /// A group of clusters.
    ClusterGroupId,
    /// A container manager.
    ContainerManagerId,
    /// Credentials for a host or a guest.
    CredentialId,
    /// A data centre.
    DataCenterId,
    /// A datastore that disks lie on.
    DatastoreId,
    /// A virtual disk.
    DiskId,
    /// An entry of the outbox.
    EventId,
    /// A file system within a mounted backup.
    FileSystemId,
    /// A host.
    HostId,
    /// A cloud image.
    ImageId,
    /// A key pair of a cloud.
    KeyPairId,
    /// A place that a cloud makes nodes in.
    LocationId,
    /// A list of mail recipients.
    MailingListId,
    /// A backup that is mounted.
    MountedBackupId,
    /// A network.
    NetworkId,
    /// A network interface card.
    NicId,
    /// A Portolan process.
    NodeId,
    /// A volume of a container platform.
    PersistentVolumeId,
    /// A configured driver instance.
    PlatformId,
    /// A backup or snapshot policy.
    PolicyId,
    /// A quota.
    QuotaId,
    /// A recovery point: one backup of one virtual machine.
    RecoveryPointId,
    /// A request to restore a recovery point.
    RestoreJobId,
    /// A rule of a policy.
    RuleId,
    /// A destination of a rule's copies.
    RuleTargetId,
    /// A schedule.
    ScheduleId,
    /// A login session.
    SessionId,
    /// A size that cloud nodes come in.
    SizeId,
    /// A task: one link of a chain.
    TaskId,
    /// A tenant.
    TenantId,
    /// A virtual machine.
    VmId,
    /// A snapshot of a virtual machine.
    VmSnapshotId,
    /// A disk of a cloud that exists without a node.
    VolumeId,
    /// A snapshot of a cloud's volume.
    VolumeSnapshotId,
}
