//! Hypervisors, managers, clusters, storages, nodes and destinations (sections 4 and 5).

use super::{Enum, Ref, word};
use crate::names::{Names, manager_type};
use portolan_model::dialect::vplus::{DestinationType, ExportImportMode, NodeState};
use portolan_model::*;
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;
use uuid::Uuid;

/// A node that has not said for this long that it lives counts as down.
const SILENCE: Duration = Duration::from_secs(90);

/// A hypervisor.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Hypervisor)]
pub(crate) struct HypervisorHost {
    guid: Uuid,
    name: String,
    host: String,
    #[serde(rename = "type")]
    kind: Enum,
    user: String,
    vm_count: u32,
    license_covered: bool,
    present: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hv_manager: Option<Ref>,
}

/// A hypervisor on the wire.
pub(crate) fn hypervisor(host: &Host, names: &Names) -> HypervisorHost {
    let facet = host.hypervisor.as_ref();
    HypervisorHost {
        guid: host.id.uuid(),
        name: host.name.to_string(),
        host: host.address.clone(),
        kind: manager_type().into(),
        user: String::new(),
        vm_count: facet.map_or(0, |f| f.vm_count),
        license_covered: true,
        present: facet.is_some_and(|f| f.present),
        cluster: host.cluster.map(|c| Ref::new(c, host.cluster_name.clone())),
        hv_manager: facet.map(|f| names.manager(f.external.platform).into()),
    }
}

/// A hypervisor manager.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HypervisorManager)]
pub(crate) struct ManagerDetail {
    guid: Uuid,
    url: String,
    name: String,
    #[serde(rename = "type")]
    kind: Enum,
    vm_export_import_mode: Enum,
    /// Milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_sync: Option<i64>,
    /// Why the last listing failed; empty when it did not.
    status_info: String,
}

/// A hypervisor manager on the wire.
pub(crate) fn manager(platform: &Platform) -> ManagerDetail {
    ManagerDetail {
        guid: platform.id.uuid(),
        url: platform.url.clone(),
        name: platform.name.to_string(),
        kind: manager_type().into(),
        vm_export_import_mode: word(ExportImportMode::DiskImageTransfer),
        last_sync: platform.last_sync.map(|t| t.as_millis()),
        status_info: platform.last_error.clone(),
    }
}

/// A hypervisor cluster.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = HypervisorCluster)]
pub(crate) struct ClusterDetail {
    guid: Uuid,
    /// The platform's own id.
    uuid: String,
    name: String,
}

/// A cluster on the wire.
pub(crate) fn cluster(cluster: &Cluster) -> ClusterDetail {
    ClusterDetail {
        guid: cluster.id.uuid(),
        uuid: cluster.external.as_ref().map_or_else(|| cluster.id.to_string(), |e| e.native_id.clone()),
        name: cluster.name.to_string(),
    }
}

/// A storage of a hypervisor manager.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HypervisorStorage)]
pub(crate) struct StorageDetail {
    guid: Uuid,
    /// The platform's own id, which restores name.
    uuid: String,
    name: String,
    /// Bytes.
    total_available_space: u64,
    /// Bytes.
    total_used_space: u64,
    /// Clusters that reach it. Clients offer it for these only.
    clusters: Vec<Ref>,
}

/// A storage on the wire.
pub(crate) fn storage(datastore: &Datastore, names: &Names) -> StorageDetail {
    StorageDetail {
        guid: datastore.id.uuid(),
        uuid: datastore.external.native_id.clone(),
        name: datastore.name.to_string(),
        total_available_space: datastore.free_bytes,
        total_used_space: datastore.total_bytes.saturating_sub(datastore.free_bytes),
        clusters: datastore.cluster.iter().map(|c| names.cluster(*c).into()).collect(),
    }
}

/// A node: a Portolan process.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Node)]
pub(crate) struct NodeDetail {
    guid: Uuid,
    name: String,
    state: Enum,
    /// Milliseconds since the epoch.
    last_seen: i64,
    #[serde(rename = "nodeIP")]
    node_ip: String,
    version: String,
    node_config: Ref,
    staging_space: StagingSpace,
}

/// How full a node's staging space is, in bytes.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StagingSpace {
    total_space: u64,
    used_space: u64,
}

/// A node on the wire.
pub(crate) fn node(node: &Node, now: Timestamp) -> NodeDetail {
    let state = if now.since(node.last_seen) > SILENCE { NodeState::Down } else { NodeState::Running };
    NodeDetail {
        guid: node.id.uuid(),
        name: node.name.to_string(),
        state: word(state),
        last_seen: node.last_seen.as_millis(),
        node_ip: node.address.clone(),
        version: node.version.clone(),
        node_config: Ref::new(node.id, "Default Config"),
        staging_space: StagingSpace { total_space: node.staging_total_bytes, used_space: node.staging_used_bytes },
    }
}

/// A backup destination.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BackupDestination)]
pub(crate) struct Destination {
    guid: Uuid,
    name: String,
    description: String,
    #[serde(rename = "type")]
    kind: Enum,
    default_backup_destination: bool,
    /// Bytes that the stored backups stand for.
    total_used_space: u64,
    /// Bytes.
    total_available_space: u64,
    /// Bytes in the store, deduplicated and compressed.
    total_dedup_used_space: u64,
    /// Bytes.
    total_dedup_available_space: u64,
    visible_for_all_vms: bool,
    projects: Vec<Ref>,
    node_configs: Vec<Ref>,
}

/// What clients are told a kind of store is.
pub(crate) fn destination_type(kind: &str) -> DestinationType {
    if kind == "s3" { DestinationType::S3 } else { DestinationType::Filesystem }
}

/// A backup destination on the wire.
pub(crate) fn destination(d: &BackupDestination) -> Destination {
    Destination {
        guid: d.id.uuid(),
        name: d.name.to_string(),
        description: d.description.clone(),
        kind: word(destination_type(&d.kind)),
        default_backup_destination: d.default,
        total_used_space: d.logical_bytes,
        total_available_space: d.free_bytes,
        total_dedup_used_space: d.used_bytes,
        total_dedup_available_space: d.free_bytes,
        visible_for_all_vms: true,
        projects: Vec::new(),
        node_configs: Vec::new(),
    }
}

/// A tenant as a project.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Project)]
pub(crate) struct ProjectDetail {
    guid: Uuid,
    /// What the system in front calls it.
    uuid: String,
    name: String,
    active: bool,
    present: bool,
    backup_destinations: Vec<Ref>,
}

/// A project on the wire.
pub(crate) fn project(tenant: &Tenant) -> ProjectDetail {
    let own = || tenant.id.to_string();
    ProjectDetail {
        guid: tenant.id.uuid(),
        uuid: if tenant.external_id.is_empty() { own() } else { tenant.external_id.clone() },
        name: tenant.name.to_string(),
        active: true,
        present: true,
        backup_destinations: Vec::new(),
    }
}
