//! Every enum with descriptors: names are unique, not empty, and the same in JSON, `Display` and `FromStr`.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its values has to fail")]

use portolan_model::describe::{Describe, UnknownName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::{Debug, Display};
use std::str::FromStr;

fn check<T>()
where
    T: Describe + Debug + Display + FromStr<Err = UnknownName> + Serialize + DeserializeOwned,
{
    let names: BTreeSet<_> = T::TABLE.iter().map(|row| row.1).collect();
    assert_eq!(names.len(), T::TABLE.len(), "{names:?} has a name twice");
    for (value, name, text) in T::TABLE {
        assert!(!name.is_empty() && !text.is_empty(), "{value:?}");
        assert_eq!((value.name(), value.description()), (*name, *text));
        assert_eq!(value.to_string(), *name);
        assert_eq!(T::from_str(name).unwrap(), *value);
        let json = serde_json::to_value(value).unwrap();
        assert_eq!(json, *name);
        assert_eq!(serde_json::from_value::<T>(json).unwrap(), *value);
        assert_eq!(value.described().name, *name);
    }
    assert!(T::from_str("").is_err() && T::from_str("no such name").is_err());
}

#[test]
fn every_enum_is_described_once() {
    check::<portolan_model::auto_assign::MatchReason>();
    check::<portolan_model::backup::BackupType>();
    check::<portolan_model::backup::BackupStatus>();
    check::<portolan_model::backup::CopyStatus>();
    check::<portolan_model::backup::DestinationRole>();
    check::<portolan_model::backup::OriginKind>();
    check::<portolan_model::backup::RestoreType>();
    check::<portolan_model::caller::Role>();
    check::<portolan_model::caller::Privilege>();
    check::<portolan_model::dialect::commissaire::OperationStatus>();
    check::<portolan_model::dialect::commissaire::OperationKind>();
    check::<portolan_model::dialect::commissaire::HostStatus>();
    check::<portolan_model::dialect::commissaire::ClusterStatus>();
    check::<portolan_model::dialect::commissaire::NetworkType>();
    check::<portolan_model::dialect::commissaire::ContainerManagerType>();
    check::<portolan_model::dialect::commissaire::ClusterType>();
    check::<portolan_model::dialect::commissaire::HostOs>();
    check::<portolan_model::dialect::libcloud::NodeState>();
    check::<portolan_model::dialect::libcloud::VolumeState>();
    check::<portolan_model::dialect::libcloud::VolumeSnapshotState>();
    check::<portolan_model::dialect::libcloud::ImageMemberState>();
    check::<portolan_model::dialect::libcloud::Architecture>();
    check::<portolan_model::dialect::libcloud::CreateNodeFeature>();
    check::<portolan_model::dialect::omnistack::OmniTaskState>();
    check::<portolan_model::dialect::omnistack::BackupState>();
    check::<portolan_model::dialect::omnistack::BackupOrigin>();
    check::<portolan_model::dialect::omnistack::BackupStoreType>();
    check::<portolan_model::dialect::omnistack::HypervisorType>();
    check::<portolan_model::dialect::omnistack::VmState>();
    check::<portolan_model::dialect::omnistack::VmType>();
    check::<portolan_model::dialect::omnistack::VmPowerState>();
    check::<portolan_model::dialect::omnistack::AppAwareStatus>();
    check::<portolan_model::dialect::omnistack::HaStatus>();
    check::<portolan_model::dialect::omnistack::ReplicaRole>();
    check::<portolan_model::dialect::omnistack::HostState>();
    check::<portolan_model::dialect::omnistack::HostUpgradeState>();
    check::<portolan_model::dialect::omnistack::ClusterKind>();
    check::<portolan_model::dialect::omnistack::ClusterUpgradeState>();
    check::<portolan_model::dialect::omnistack::ShutdownStatus>();
    check::<portolan_model::dialect::omnistack::ShutdownAnswer>();
    check::<portolan_model::dialect::omnistack::CredentialsValidation>();
    check::<portolan_model::dialect::omnistack::AdapterType>();
    check::<portolan_model::dialect::omnistack::MacGeneration>();
    check::<portolan_model::dialect::omnistack::MediaType>();
    check::<portolan_model::dialect::omnistack::ComponentStatus>();
    check::<portolan_model::dialect::omnistack::ComponentHealth>();
    check::<portolan_model::dialect::omnistack::BatteryHealth>();
    check::<portolan_model::dialect::omnistack::ObjectType>();
    check::<portolan_model::dialect::omnistack::SuspendTarget>();
    check::<portolan_model::dialect::omnistack::CaseRule>();
    check::<portolan_model::dialect::omnistack::SortOrder>();
    check::<portolan_model::dialect::omnistack::Resolution>();
    check::<portolan_model::dialect::orchestrator::AnswerStatus>();
    check::<portolan_model::dialect::orchestrator::Listing>();
    check::<portolan_model::dialect::orchestrator::NodeAction>();
    check::<portolan_model::dialect::orchestrator::Engine>();
    check::<portolan_model::dialect::orchestrator::AssignmentStatus>();
    check::<portolan_model::dialect::vplus::VplusTaskState>();
    check::<portolan_model::dialect::vplus::WorkflowState>();
    check::<portolan_model::dialect::vplus::TaskType>();
    check::<portolan_model::dialect::vplus::WorkflowDefinition>();
    check::<portolan_model::dialect::vplus::ProtectedEntityType>();
    check::<portolan_model::dialect::vplus::NodeState>();
    check::<portolan_model::dialect::vplus::MountMode>();
    check::<portolan_model::dialect::vplus::MountState>();
    check::<portolan_model::dialect::vplus::FileType>();
    check::<portolan_model::dialect::vplus::FilePermission>();
    check::<portolan_model::dialect::vplus::BackupFileType>();
    check::<portolan_model::dialect::vplus::ManagerType>();
    check::<portolan_model::dialect::vplus::HypervisorType>();
    check::<portolan_model::dialect::vplus::ExportImportMode>();
    check::<portolan_model::dialect::vplus::DiskAllocation>();
    check::<portolan_model::dialect::vplus::StdErrorHandling>();
    check::<portolan_model::dialect::vplus::CommandType>();
    check::<portolan_model::dialect::vplus::DestinationType>();
    check::<portolan_model::dialect::vplus::IncrementalObstacle>();
    check::<portolan_model::dialect::vplus::UiPrivilege>();
    check::<portolan_model::external::ExternalKind>();
    check::<portolan_model::mount::QuotaMeasure>();
    check::<portolan_model::mount::QuotaScope>();
    check::<portolan_model::mount::QuotaVerdict>();
    check::<portolan_model::policy::PolicyKind>();
    check::<portolan_model::policy::AutoAssignMode>();
    check::<portolan_model::policy::Consistency>();
    check::<portolan_model::retention::RetentionHint>();
    check::<portolan_model::retention::RetentionReason>();
    check::<portolan_model::schedule::Weekday>();
    check::<portolan_model::schedule::Month>();
    check::<portolan_model::schedule::Occurrence>();
    check::<portolan_model::schedule::ScheduleKind>();
    check::<portolan_model::schedule::ExecutionType>();
    check::<portolan_model::schedule::BackupMode>();
    check::<portolan_model::task_state::TaskState>();
    check::<portolan_model::vm::PowerState>();
}
