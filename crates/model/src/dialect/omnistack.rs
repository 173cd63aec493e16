//! OmniStack's enums.

use crate::backup::{BackupStatus, CopyStatus, OriginKind};
use crate::vm::PowerState;

crate::described_enum! {
    /// Where a task is.
    pub enum OmniTaskState {
        InProgress = "IN_PROGRESS", "In progress";
        Completed = "COMPLETED", "Completed";
        Failed = "FAILED", "Failed";
    }
}

crate::described_enum! {
    /// Where a backup (one copy of a recovery point) is.
    pub enum BackupState {
        New = "NEW", "New";
        Saving = "SAVING", "Saving";
        Failed = "FAILED", "Failed";
        Protected = "PROTECTED", "Protected";
        Unknown = "UNKNOWN", "Unknown";
        Canceling = "CANCELING", "Canceling";
        Canceled = "CANCELED", "Canceled";
        Queued = "QUEUED", "Queued";
        Rebuilding = "REBUILDING", "Rebuilding";
        Deleted = "DELETED", "Deleted";
        Degraded = "DEGRADED", "Degraded";
    }
}

impl BackupState {
    /// What a copy in this state, of a point in that, is called. The point decides until it has succeeded, and
    /// the copy from then on.
    pub fn of(point: BackupStatus, copy: CopyStatus) -> Self {
        match (point, copy) {
            (_, CopyStatus::Removed) | (BackupStatus::SuccessRemoved, _) => Self::Deleted,
            (_, CopyStatus::Failed) | (BackupStatus::Failed, _) => Self::Failed,
            (BackupStatus::Queued, _) => Self::Queued,
            (BackupStatus::InProgress, _) | (_, CopyStatus::InProgress) => Self::Saving,
            (BackupStatus::Success, CopyStatus::Present) => Self::Protected,
            (BackupStatus::PartialSuccess, CopyStatus::Present) => Self::Degraded,
        }
    }
}

crate::described_enum! {
    /// What made a backup.
    pub enum BackupOrigin {
        Manual = "MANUAL", "Manual";
        Policy = "POLICY", "Policy";
        Unspecified = "UNSPECIFIED", "Unspecified";
    }
}

impl From<OriginKind> for BackupOrigin {
    fn from(kind: OriginKind) -> Self {
        match kind {
            OriginKind::User => Self::Manual,
            OriginKind::Schedule => Self::Policy,
            OriginKind::SystemSchedule => Self::Unspecified,
        }
    }
}

crate::described_enum! {
    /// What kind of store a backup is in.
    pub enum BackupStoreType {
        SimplivityStore = "SimplivityStore", "The cluster's own store";
        StoreOnceOnPrem = "StoreOnceOnPrem", "External store on premises";
        StoreOnceCloud = "StoreOnceCloud", "External store in a cloud";
        Unknown = "Unknown", "Unknown";
    }
}

impl BackupStoreType {
    /// Whether an external store may be registered as this.
    pub fn can_register(self) -> bool {
        matches!(self, Self::StoreOnceOnPrem | Self::StoreOnceCloud)
    }
}

crate::described_enum! {
    /// The kind of hypervisor under a machine, a datastore or a cluster.
    pub enum HypervisorType {
        Vsphere = "VSPHERE", "vSphere";
        HyperV = "HYPERV", "Hyper-V";
    }
}

crate::described_enum! {
    /// Whether a machine is still there.
    pub enum VmState {
        Alive = "ALIVE", "Alive";
        Removed = "REMOVED", "Removed from the federation";
        /// Gone, but with backups left.
        Deleted = "DELETED", "Deleted";
    }
}

impl VmState {
    /// The state of a machine that inventory has seen.
    pub fn of(present: bool, backups: u64) -> Self {
        match (present, backups) {
            (true, _) => Self::Alive,
            (false, 0) => Self::Removed,
            (false, _) => Self::Deleted,
        }
    }
}

crate::described_enum! {
    /// What a machine is.
    pub enum VmType {
        Vm = "VM", "Virtual machine";
        Template = "TEMPLATE", "Template";
        Unknown = "UNKNOWN", "Unknown";
    }
}

crate::described_enum! {
    /// Whether a machine is switched on.
    pub enum VmPowerState {
        On = "ON", "On";
        Off = "OFF", "Off";
        Suspended = "SUSPENDED", "Suspended";
        Unknown = "UNKNOWN", "Unknown";
    }
}

impl From<PowerState> for VmPowerState {
    fn from(power: PowerState) -> Self {
        match power {
            PowerState::Running => Self::On,
            PowerState::Stopped => Self::Off,
            PowerState::Paused | PowerState::Suspended => Self::Suspended,
            PowerState::Unknown => Self::Unknown,
        }
    }
}

crate::described_enum! {
    /// Whether a guest can be brought to rest by its own means before a backup.
    pub enum AppAwareStatus {
        Unknown = "UNKNOWN", "Unknown";
        Capable = "CAPABLE", "Capable";
        InvalidCreds = "INVALID_CREDS", "Invalid credentials";
        ValidCreds = "VALID_CREDS", "Valid credentials";
        VmwareToolsUnavailable = "VMWARE_TOOLS_UNAVAILABLE", "Guest tools are unavailable";
        InvalidOs = "INVALID_OS", "Unsupported operating system";
        UnknownFault = "UNKNOWN_FAULT", "Unknown fault";
    }
}

crate::described_enum! {
    /// Whether a machine's data has its replica.
    pub enum HaStatus {
        Unknown = "UNKNOWN", "Unknown";
        OutOfScope = "OUT_OF_SCOPE", "Out of scope";
        NotApplicable = "NOT_APPLICABLE", "Not applicable";
        Degraded = "DEGRADED", "Degraded";
        Safe = "SAFE", "Safe";
        Syncing = "SYNCING", "Synchronising";
        Defunct = "DEFUNCT", "Defunct";
    }
}

crate::described_enum! {
    /// Which of a machine's replicas one is.
    pub enum ReplicaRole {
        Primary = "PRIMARY", "Primary";
        Secondary = "SECONDARY", "Secondary";
    }
}

crate::described_enum! {
    /// Where a host is.
    pub enum HostState {
        Alive = "ALIVE", "Alive";
        Faulty = "FAULTY", "Faulty";
        Managed = "MANAGED", "Managed";
        Removed = "REMOVED", "Removed";
        Suspected = "SUSPECTED", "Suspected";
        Unknown = "UNKNOWN", "Unknown";
    }
}

crate::described_enum! {
    /// How the last upgrade of a host went.
    pub enum HostUpgradeState {
        Success = "SUCCESS", "Success";
        Fail = "FAIL", "Failed";
        InProgress = "IN_PROGRESS", "In progress";
        Noop = "NOOP", "Nothing to do";
        Unknown = "UNKNOWN", "Unknown";
    }
}

crate::described_enum! {
    /// The kind of a cluster.
    pub enum ClusterKind {
        Omnistack = "OMNISTACK", "OmniStack cluster";
        ExtinctCloudType = "EXTINCT_CLOUD_TYPE", "Cloud cluster of former versions";
        Unknown = "UNKNOWN", "Unknown";
    }
}

impl super::Aliased for ClusterKind {
    const KIND: &'static str = "cluster type";
    const ALIASES: &'static [(&'static str, Self)] = &[("CLOUD", Self::ExtinctCloudType)];
}

crate::described_enum! {
    /// How the last upgrade of a cluster went.
    pub enum ClusterUpgradeState {
        FailCanRollback = "FAIL_CAN_ROLLBACK", "Failed, can be rolled back";
        FailCannotRollback = "FAIL_CANNOT_ROLLBACK", "Failed, cannot be rolled back";
        InProgress = "IN_PROGRESS", "In progress";
        SuccessCommitted = "SUCCESS_COMMITTED", "Succeeded and committed";
        SuccessCommitNeeded = "SUCCESS_COMMIT_NEEDED", "Succeeded, to be committed";
        SuccessMixedVersion = "SUCCESS_MIXED_VERSION", "Succeeded with mixed versions";
        Unknown = "UNKNOWN", "Unknown";
    }
}

crate::described_enum! {
    /// How a host's shutdown goes.
    pub enum ShutdownStatus {
        None = "NONE", "None";
        InProgress = "IN_PROGRESS", "In progress";
        CancelInProgress = "CANCEL_IN_PROGRESS", "Being cancelled";
        ForceInProgress = "FORCE_IN_PROGRESS", "Forced";
        Ha = "HA", "Waiting for replicas";
    }
}

crate::described_enum! {
    /// What came of asking a host to shut down, or not to.
    pub enum ShutdownAnswer {
        Success = "SUCCESS", "Success";
        Failure = "FAILURE", "Failure";
        Unknown = "UNKNOWN", "Unknown";
        InProgress = "IN_PROGRESS", "In progress";
    }
}

crate::described_enum! {
    /// What came of trying a guest's credentials.
    pub enum CredentialsValidation {
        VmPoweredOff = "VM_POWERED_OFF", "The machine is switched off";
        Invalid = "INVALID", "Invalid";
        Valid = "VALID", "Valid";
    }
}

crate::described_enum! {
    /// The model of a machine's network card.
    pub enum AdapterType {
        E1000 = "E1000", "E1000";
        E1000e = "E1000E", "E1000E";
        Pcnet32 = "PCNET32", "PCNet32";
        Vmxnet = "VMXNET", "VMXNET";
        /// Misspelt on the wire, and to be kept.
        Vmxnet2 = "VNXNET2", "VMXNET2";
        Vmxnet3 = "VMXNET3", "VMXNET3";
        Unknown = "UNKNOWN", "Unknown";
    }
}

crate::described_enum! {
    /// Where a network card's address comes from.
    pub enum MacGeneration {
        Assigned = "ASSIGNED", "Assigned";
        Generated = "GENERATED", "Generated";
        Manual = "MANUAL", "Manual";
        Unknown = "UNKNOWN", "Unknown";
    }
}

crate::described_enum! {
    /// What a drive keeps its data on.
    pub enum MediaType {
        Unknown = "UNKNOWN", "Unknown";
        Hdd = "HDD", "Hard disk";
        Ssd = "SSD", "Solid-state disk";
    }
}

crate::described_enum! {
    /// The light of a hardware component.
    pub enum ComponentStatus {
        Green = "GREEN", "Green";
        Yellow = "YELLOW", "Yellow";
        Red = "RED", "Red";
        Unknown = "UNKNOWN", "Unknown";
    }
}

crate::described_enum! {
    /// The health of a drive, a drive set or a logical drive.
    pub enum ComponentHealth {
        Healthy = "HEALTHY", "Healthy";
        Initializing = "INITIALIZING", "Initialising";
        Rebuilding = "REBUILDING", "Rebuilding";
        Warning = "WARNING", "Warning";
        Degraded = "DEGRADED", "Degraded";
        Unconfigured = "UNCONFIGURED", "Unconfigured";
        Missing = "MISSING", "Missing";
        Offline = "OFFLINE", "Offline";
        Failed = "FAILED", "Failed";
        /// With a blank on the wire.
        Unknown = "HEALTH UNKNOWN", "Unknown";
    }
}

crate::described_enum! {
    /// The health of a battery.
    pub enum BatteryHealth {
        Healthy = "HEALTHY", "Healthy";
        Missing = "MISSING", "Missing";
        Failed = "FAILED", "Failed";
        Degraded = "DEGRADED", "Degraded";
        Unknown = "UNKNOWN", "Unknown";
    }
}

crate::described_enum! {
    /// What a finished task has changed.
    pub enum ObjectType {
        Backup = "backup", "Backup";
        ClusterGroup = "cluster_group", "Cluster group";
        Datastore = "datastore", "Datastore";
        ExternalStore = "external_store", "External store";
        Host = "host", "Host";
        OmnistackCluster = "omnistack_cluster", "Cluster";
        Policy = "policy", "Policy";
        Rule = "rule", "Rule";
        VirtualMachine = "virtual_machine", "Virtual machine";
    }
}

crate::described_enum! {
    /// What policies are suspended on.
    pub enum SuspendTarget {
        Host = "host", "Host";
        OmnistackCluster = "omnistack_cluster", "Cluster";
        ClusterGroup = "cluster_group", "Cluster group";
        Federation = "federation", "Federation";
    }
}

crate::described_enum! {
    /// Whether filters and sorts tell capital letters from small ones.
    pub enum CaseRule {
        Sensitive = "sensitive", "Case-sensitive";
        Insensitive = "insensitive", "Case-insensitive";
    }
}

crate::described_enum! {
    /// Which way a list runs.
    pub enum SortOrder {
        Ascending = "ascending", "Ascending";
        Descending = "descending", "Descending";
    }
}

crate::described_enum! {
    /// How far apart the points of a series are.
    pub enum Resolution {
        Second = "SECOND", "Second";
        Minute = "MINUTE", "Minute";
        Hour = "HOUR", "Hour";
        Day = "DAY", "Day";
    }
}

impl Resolution {
    /// The distance in seconds.
    pub fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::Describe;

    #[test]
    fn a_backup_is_protected_only_when_point_and_copy_are_whole() {
        for (point, ..) in BackupStatus::TABLE {
            for (copy, ..) in CopyStatus::TABLE {
                let whole = *point == BackupStatus::Success && *copy == CopyStatus::Present;
                assert_eq!(BackupState::of(*point, *copy) == BackupState::Protected, whole, "{point} {copy}");
            }
        }
        assert_eq!(BackupState::of(BackupStatus::Success, CopyStatus::InProgress), BackupState::Saving);
        assert_eq!(BackupState::of(BackupStatus::Success, CopyStatus::Removed), BackupState::Deleted);
    }
}
