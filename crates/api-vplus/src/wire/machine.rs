//! Machines and their disks (section 3).

use super::{Enum, Ref, word};
use crate::names::{Names, manager_type};
use portolan_model::dialect::vplus::{ExportImportMode, IncrementalObstacle, ProtectedEntityType, StdErrorHandling};
use portolan_model::*;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A virtual machine.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = VirtualMachine)]
pub(crate) struct Machine {
    guid: Uuid,
    /// The platform's own id.
    uuid: String,
    name: String,
    /// Whether the platform still has it.
    present: bool,
    #[serde(rename = "type")]
    kind: Enum,
    #[serde(skip_serializing_if = "Option::is_none")]
    hypervisor: Option<Ref>,
    hv_manager: Manager,
    #[serde(skip_serializing_if = "Option::is_none")]
    hv_cluster: Option<Ref>,
    hvm_type: Enum,
    /// Milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_backup: Option<i64>,
    /// Bytes; 0 without a backup.
    last_successful_backup_size: u64,
    /// Bytes; 0 without a backup.
    last_successful_full_backup_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_successful_full_backup: Option<Ref>,
    tags: Vec<String>,
    /// How many successful backups there are.
    backups: u64,
    warnings_present: bool,
    vm_export_import_mode: Enum,
    quiesce_before_snapshot: bool,
    ssh_port: u16,
    pre_snap_cmd_exec_enabled: bool,
    post_snap_cmd_exec_enabled: bool,
    pre_snap_std_error_handling: Enum,
    post_snap_std_error_handling: Enum,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<String>,
}

/// A hypervisor manager as a reference.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Manager {
    guid: Uuid,
    name: String,
    url: String,
}

/// A virtual disk.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = VirtualMachineDisk)]
pub(crate) struct MachineDisk {
    guid: Uuid,
    uuid: String,
    name: String,
    /// Bytes.
    size: u64,
    present: bool,
    supported: bool,
    excluded_from_backup: bool,
    #[serde(rename = "type")]
    kind: Enum,
    virtual_machine: Ref,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_storage: Option<Ref>,
}

/// A machine on the wire.
pub(crate) fn machine(vm: &VirtualMachine, names: &Names) -> Machine {
    let (observed, protection) = (&vm.observed, &vm.protection);
    let manager = names.manager(observed.platform);
    let tenant = vm.settings.tenant;
    Machine {
        guid: vm.id.uuid(),
        uuid: vm.external.native_id.clone(),
        name: observed.name.to_string(),
        present: observed.present,
        kind: word(ProtectedEntityType::Vm),
        hypervisor: observed.host.map(|h| Ref::new(h, observed.host_name.clone())),
        hv_manager: Manager { guid: manager.guid, url: manager.name.clone(), name: manager.name },
        hv_cluster: observed.cluster.map(|c| Ref::new(c, observed.cluster_name.clone())),
        hvm_type: manager_type().into(),
        last_backup: protection.last_backup.map(|t| t.as_millis()),
        last_successful_backup_size: protection.last_size_bytes,
        last_successful_full_backup_size: protection.last_full_size_bytes,
        last_successful_full_backup: protection.last_full.map(|p| Ref::new(p, protection.last_full_name.clone())),
        tags: observed.tags.clone(),
        backups: protection.backups,
        warnings_present: observed.disks.iter().any(|d| !d.supported),
        vm_export_import_mode: word(ExportImportMode::Inherit),
        quiesce_before_snapshot: false,
        ssh_port: 22,
        pre_snap_cmd_exec_enabled: false,
        post_snap_cmd_exec_enabled: false,
        pre_snap_std_error_handling: word(StdErrorHandling::DontIgnore),
        post_snap_std_error_handling: word(StdErrorHandling::DontIgnore),
        project: tenant.map(|t| names.project(t).into()),
        tenant_id: tenant.map(|t| names.tenant(t)),
    }
}

/// A machine whose next backup cannot be an increment.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Obstacle {
    virtual_machine: Machine,
    reasons: Vec<Enum>,
}

/// A machine without an earlier backup to compare with.
pub(crate) fn obstacle(virtual_machine: Machine) -> Obstacle {
    Obstacle { virtual_machine, reasons: vec![word(IncrementalObstacle::MissingBase)] }
}

/// A machine's disks on the wire.
pub(crate) fn disks(vm: &VirtualMachine, names: &Names) -> Vec<MachineDisk> {
    vm.observed
        .disks
        .iter()
        .map(|d| MachineDisk {
            guid: d.id.uuid(),
            uuid: d.native_id.clone(),
            name: d.name.clone(),
            size: d.size_bytes,
            present: vm.observed.present,
            supported: d.supported,
            excluded_from_backup: vm.settings.excluded_disks.contains(&d.id),
            kind: Enum { name: d.format.to_uppercase(), description: d.format.clone() },
            virtual_machine: Ref::new(vm.id, vm.observed.name.to_string()),
            original_storage: d.datastore.map(|s| names.storage(s).into()),
        })
        .collect()
}
