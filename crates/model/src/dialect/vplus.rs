//! vPlus's enums.
//!
//! Those that Portolan uses for its own objects are declared there and only named here.

use super::Aliased;

pub use crate::backup::{BackupStatus, BackupType, CopyStatus, DestinationRole, OriginKind, RestoreType};
pub use crate::policy::AutoAssignMode;
pub use crate::retention::RetentionHint;
pub use crate::schedule::{ExecutionType, Month, Occurrence, ScheduleKind, Weekday};

crate::described_enum! {
    /// Where a task is.
    pub enum VplusTaskState {
        Queued = "QUEUED", "Queued";
        Running = "RUNNING", "Running";
        Finished = "FINISHED", "Finished";
        Failed = "FAILED", "Failed";
        Cancelled = "CANCELLED", "Cancelled";
    }
}

crate::described_enum! {
    /// Where a workflow execution (a chain of tasks) is.
    pub enum WorkflowState {
        Running = "RUNNING", "Running";
        Failed = "FAILED", "Failed";
        Cancelled = "CANCELLED", "Cancelled";
        Finished = "FINISHED", "Finished";
        FinishedWithWarnings = "FINISHED_WITH_WARNINGS", "Finished with warnings";
        FailedWithCriticalErrors = "FAILED_WITH_CRITICAL_ERRORS", "Failed with critical errors";
        PartiallyFinished = "PARTIALLY_FINISHED", "Partially finished";
        Unknown = "UNKNOWN", "Unknown";
    }
}

crate::described_enum! {
    /// What a task does. Answers use these names; the names of release 7.4 are accepted in filters.
    pub enum TaskType {
        Index = "INDEX", "Inventory synchronization";
        Export = "EXPORT", "Export";
        Store = "STORE", "Store";
        Restore = "RESTORE", "Restore";
        OldBackupsRemoval = "OLD_BACKUPS_REMOVAL", "Old backups removal";
        OldSnapshotsRemoval = "OLD_SNAPSHOTS_REMOVAL", "Old snapshots removal";
        Import = "IMPORT", "Import";
        Mount = "MOUNT", "Mount";
        Unmount = "UNMOUNT", "Unmount";
        Delete = "DELETE", "Delete";
        Snapshot = "SNAPSHOT", "Snapshot";
        SnapshotReversion = "SNAPSHOT_REVERSION", "Snapshot reversion";
        BackupDestinationInit = "BACKUP_DESTINATION_INIT", "Backup destination initialization";
        BackupDestinationSync = "BACKUP_DESTINATION_SYNC", "Backup destination synchronization";
        ConnectivityTest = "CONNECTIVITY_TEST", "Connectivity test";
        EjectTape = "EJECT_TAPE", "Eject tape";
        ImportTape = "IMPORT_TAPE", "Import tape";
        LiveMigration = "LIVE_MIGRATION", "Live migration";
        ScopedInventorySync = "SCOPED_INVENTORY_SYNC", "Scoped inventory synchronization";
        StagingCleanup = "STAGING_CLEANUP", "Staging cleanup";
        TapeManagerInventorySync = "TAPE_MANAGER_INVENTORY_SYNC", "Tape manager inventory synchronization";
        Upload = "UPLOAD", "Upload";
    }
}

impl Aliased for TaskType {
    const KIND: &'static str = "task type";
    const ALIASES: &'static [(&'static str, Self)] = &[
        ("INVENTORY_SYNC", Self::Index),
        ("BACKUP_CLEANUP", Self::OldBackupsRemoval),
        ("SNAPSHOT_CLEANUP", Self::OldSnapshotsRemoval),
    ];
}

impl Aliased for ScheduleKind {
    const KIND: &'static str = "schedule type";
    const ALIASES: &'static [(&'static str, Self)] = &[("SNAPSHOT", Self::VmSnapshot)];
}

crate::described_enum! {
    /// What a chain of tasks is for.
    pub enum WorkflowDefinition {
        Backup = "BACKUP", "Backup";
        Restore = "RESTORE", "Restore";
        RestoreAndImport = "RESTORE_AND_IMPORT", "Restore and import";
        RestoreAndMount = "RESTORE_AND_MOUNT", "Restore and mount";
        Snapshot = "SNAPSHOT", "Snapshot";
        InventorySync = "INVENTORY_SYNC", "Inventory synchronization";
        BackupCleanup = "BACKUP_CLEANUP", "Old backups removal";
        Maintenance = "MAINTENANCE", "Maintenance";
    }
}

crate::described_enum! {
    /// What is protected.
    pub enum ProtectedEntityType {
        Vm = "VM", "Virtual machine";
        App = "APP", "Application";
        Storage = "STORAGE", "Storage";
        Cloud = "CLOUD", "Cloud";
        Os = "OS", "Operating system";
        OsAgent = "OS_AGENT", "OS agent";
    }
}

crate::described_enum! {
    /// Where a node (a Portolan process) is.
    pub enum NodeState {
        Running = "RUNNING", "Running";
        Down = "DOWN", "Down";
        Maintenance = "MAINTENANCE", "Maintenance";
        Unknown = "UNKNOWN", "Unknown";
    }
}

crate::described_enum! {
    /// How a backup is mounted.
    pub enum MountMode {
        Auto = "AUTO", "Automatic";
        Manual = "MANUAL", "Manual";
        Iscsi = "ISCSI", "iSCSI";
        InstantRestore = "INSTANT_RESTORE", "Instant restore";
        CloudDownload = "CLOUD_DOWNLOAD", "Cloud download";
    }
}

crate::described_enum! {
    /// Where a mounted backup is.
    pub enum MountState {
        Queued = "QUEUED", "Queued";
        Mounting = "MOUNTING", "Mounting";
        Mounted = "MOUNTED", "Mounted";
        Unmounting = "UNMOUNTING", "Unmounting";
        Unmounted = "UNMOUNTED", "Unmounted";
        Failed = "FAILED", "Failed";
    }
}

impl crate::lifecycle::Lifecycle for MountState {
    const MACHINE: &'static str = "mounted backup";
    const MOVES: &'static [(Self, &'static [Self])] = {
        use MountState::*;
        &[
            (Queued, &[Mounting, Unmounted, Failed]),
            (Mounting, &[Mounted, Unmounting, Failed]),
            (Mounted, &[Unmounting, Failed]),
            (Unmounting, &[Unmounted, Mounted, Failed]),
            // A failed mount is cleaned up, or tried again.
            (Failed, &[Mounting, Unmounting, Unmounted]),
            (Unmounted, &[]),
        ]
    };
}

crate::described_enum! {
    /// What an entry of a directory is.
    pub enum FileType {
        Directory = "DIRECTORY", "Directory";
        RegularFile = "REGULAR_FILE", "Regular file";
        Symlink = "SYMLINK", "Symbolic link";
        BrokenSymlink = "BROKEN_SYMLINK", "Broken symbolic link";
    }
}

crate::described_enum! {
    /// One permission of a file.
    pub enum FilePermission {
        OwnerRead = "OWNER_READ", "Owner: read";
        OwnerWrite = "OWNER_WRITE", "Owner: write";
        OwnerExecute = "OWNER_EXECUTE", "Owner: execute";
        GroupRead = "GROUP_READ", "Group: read";
        GroupWrite = "GROUP_WRITE", "Group: write";
        GroupExecute = "GROUP_EXECUTE", "Group: execute";
        OthersRead = "OTHERS_READ", "Others: read";
        OthersWrite = "OTHERS_WRITE", "Others: write";
        OthersExecute = "OTHERS_EXECUTE", "Others: execute";
    }
}

impl FilePermission {
    /// The permissions of a Unix mode; bits above the lowest nine are ignored.
    pub fn of_mode(mode: u32) -> Vec<Self> {
        <Self as crate::describe::Describe>::TABLE
            .iter()
            .enumerate()
            .filter(|(bit, _)| mode & (0o400 >> bit) != 0)
            .map(|(_, row)| row.0)
            .collect()
    }
}

crate::described_enum! {
    /// What a file of a backup holds.
    pub enum BackupFileType {
        Disk = "DISK", "Disk";
        DiskInc = "DISK_INC", "Disk increment";
        VmImage = "VM_IMAGE", "VM image";
        VmConfig = "VM_CONFIG", "VM configuration";
    }
}

impl BackupFileType {
    /// Whether a restore may pick the file; others describe the machine.
    pub fn is_restorable(self) -> bool {
        self != Self::VmConfig
    }
}

crate::described_enum! {
    /// The kind of a hypervisor manager. Those that clients know by name and show without failing.
    pub enum ManagerType {
        Aws = "AWS", "Amazon EC2";
        Kubernetes = "KUBERNETES", "Kubernetes";
        OpenShift = "OPENSHIFT", "OpenShift";
        OpenStack = "OPENSTACK", "OpenStack";
        Oracle = "ORACLE", "Oracle";
        Nutanix = "NUTANIX", "Nutanix";
        Rhev = "RHEV", "RHEV";
        Rhv = "RHV", "RHV/oVirt/OLVM";
        Vcenter = "VCENTER", "vCenter";
    }
}

crate::described_enum! {
    /// The kind of a hypervisor that stands alone.
    pub enum HypervisorType {
        Citrix = "CITRIX", "Citrix Hypervisor";
        Kvm = "KVM", "KVM";
        Esxi = "ESXI", "ESXi";
        HyperV = "HYPERV", "Hyper-V";
        Proxmox = "PROXMOX", "Proxmox VE";
        Xen = "XEN", "Xen";
        Ovm = "OVM", "Oracle VM";
    }
}

crate::described_enum! {
    /// How data leaves and enters a machine.
    pub enum ExportImportMode {
        Inherit = "INHERIT", "Inherited";
        Default = "DEFAULT", "Default";
        DiskAttachment = "DISK_ATTACHMENT", "Disk attachment";
        DiskImageTransfer = "DISK_IMAGE_TRANSFER", "Disk image transfer";
        SshTransfer = "SSH_TRANSFER", "SSH transfer";
        ChangedBlockTracking = "CHANGED_BLOCK_TRACKING", "Changed block tracking";
        VmImagePlusIncrementalDisks = "VM_IMAGE_PLUS_INCREMENTAL_DISKS", "VM image plus incremental disks";
        ExportStorageRepo = "EXPORT_STORAGE_REPO", "Export storage repository";
    }
}

crate::described_enum! {
    /// How the disks of a restored machine are laid out.
    pub enum DiskAllocation {
        Preallocated = "PREALLOCATED", "Preallocated";
        Sparse = "SPARSE", "Sparse";
    }
}

crate::described_enum! {
    /// What output on standard error of a command in the guest means.
    pub enum StdErrorHandling {
        DontIgnore = "DONT_IGNORE", "Don't ignore";
        IgnoreWithoutWarning = "IGNORE_WITHOUT_WARNING", "Ignore without warning";
        IgnoreWithWarning = "IGNORE_WITH_WARNING", "Ignore with warning";
    }
}

crate::described_enum! {
    /// How a command reaches the guest.
    pub enum CommandType {
        Ssh = "SSH", "SSH";
        PowerShell = "POWERSHELL", "PowerShell";
    }
}

crate::described_enum! {
    /// The kind of a backup destination.
    pub enum DestinationType {
        Filesystem = "FILESYSTEM", "File system";
        SyntheticXfs = "SYNTHETICXFS", "Synthetic file system (XFS)";
        SyntheticDdBoost = "SYNTHETICDDBOOST", "Synthetic Data Domain (Boost)";
        Vstor = "VSTOR", "vStor";
        Avamar = "AVAMAR", "Avamar";
        Networker = "NETWORKER", "NetWorker";
        Isp = "ISP", "Spectrum Protect";
        NetBackup = "NETBACKUP", "NetBackup";
        S3 = "S3", "Amazon S3 or compatible";
        Gcs = "GCS", "Google Cloud Storage";
        Azure = "AZURE", "Microsoft Azure";
        Swift = "SWIFT", "OpenStack Swift";
        DataProtector = "DATAPROTECTOR", "Data Protector";
    }
}

crate::described_enum! {
    /// Why the next backup of a machine cannot be an increment.
    pub enum IncrementalObstacle {
        MissingIncrementalScheduler = "MISSING_INCREMENTAL_SCHEDULER", "Missing incremental schedule";
        MissingBase = "MISSING_BASE", "No base from an earlier backup";
        Unsupported = "UNSUPPORTED", "The platform cannot tell changed blocks";
    }
}

crate::described_enum! {
    /// Privileges that clients look for in the answer to a login.
    pub enum UiPrivilege {
        VeBackupSlaRead = "VE_BACKUP_SLA_READ", "VE backup SLA read";
        VeBackupSlaWrite = "VE_BACKUP_SLA_WRITE", "VE backup SLA write";
        AppBackupSlaRead = "APP_BACKUP_SLA_READ", "Application backup SLA read";
        StorageBackupSlaRead = "STORAGE_BACKUP_SLA_READ", "Storage backup SLA read";
        CloudBackupSlaRead = "CLOUD_BACKUP_SLA_READ", "Cloud backup SLA read";
        NodeRead = "NODE_READ", "Node read";
        MgmtRbacAccessRead = "MGMT_RBAC_ACCESS_READ", "Access management read";
        VeInstanceRead = "VE_INSTANCE_READ", "VE instance read";
    }
}

impl UiPrivilege {
    /// The privilege of Portolan's that this one stands for.
    pub fn stands_for(self) -> crate::caller::Privilege {
        use crate::caller::Privilege::*;
        match self {
            Self::VeBackupSlaWrite => BackupWrite,
            Self::VeBackupSlaRead | Self::AppBackupSlaRead | Self::StorageBackupSlaRead | Self::CloudBackupSlaRead => {
                BackupRead
            }
            Self::NodeRead | Self::VeInstanceRead => InventoryRead,
            Self::MgmtRbacAccessRead => AccessManage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::Describe;

    #[test]
    fn newer_names_are_accepted_and_never_given() {
        assert_eq!(TaskType::parse("INVENTORY_SYNC"), Ok(TaskType::Index));
        assert_eq!(TaskType::parse("BACKUP_CLEANUP"), Ok(TaskType::OldBackupsRemoval));
        assert_eq!(TaskType::parse("SNAPSHOT_CLEANUP"), Ok(TaskType::OldSnapshotsRemoval));
        assert_eq!(TaskType::parse("EXPORT"), Ok(TaskType::Export));
        assert!(TaskType::parse("export").is_err());
        assert_eq!(ScheduleKind::parse("SNAPSHOT"), Ok(ScheduleKind::VmSnapshot));
        for (alias, value) in TaskType::ALIASES {
            assert_ne!(*alias, value.name());
            assert_eq!(TaskType::from_name(alias), None);
        }
    }

    #[test]
    fn permissions_follow_the_mode() {
        assert_eq!(
            FilePermission::of_mode(0o100_644),
            [
                FilePermission::OwnerRead,
                FilePermission::OwnerWrite,
                FilePermission::GroupRead,
                FilePermission::OthersRead
            ]
        );
        assert_eq!(FilePermission::of_mode(0o777).len(), 9);
        assert_eq!(FilePermission::of_mode(0), []);
    }

    #[test]
    fn texts_that_clients_compare_are_exact() {
        assert_eq!(BackupStatus::Failed.description(), "Failed");
        assert_eq!(BackupStatus::SuccessRemoved.description(), "Success (removed)");
        assert_eq!(StdErrorHandling::DontIgnore.description(), "Don't ignore");
        assert_eq!(RetentionHint::StandardRetention.description(), "Use retention settings from the policy");
        for (_, _, text) in Weekday::TABLE {
            assert!(text.chars().next().is_some_and(char::is_uppercase));
        }
    }
}
