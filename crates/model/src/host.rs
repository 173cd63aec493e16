//! Hosts, clusters, data centres and datastores.

use crate::external::ExternalRef;
use crate::id::*;
use crate::name::Name;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// A host. Its two facets are independent: a dialect lists the hosts that have its facet, and deleting a host
/// there drops the facet; the host itself goes when none is left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Portolan's id.
    pub id: HostId,
    /// The host's name.
    pub name: Name,
    /// Where it answers; the name where the platform reports none.
    #[serde(default)]
    pub address: String,
    /// The cluster it is in.
    pub cluster: Option<ClusterId>,
    /// That cluster's name.
    #[serde(default)]
    pub cluster_name: String,
    /// Set where a hypervisor platform reports the host.
    pub hypervisor: Option<HypervisorFacet>,
    /// Set where Portolan manages the host itself.
    pub managed: Option<ManagedFacet>,
    /// When it was first seen.
    pub created: Timestamp,
}

/// The host as part of a hypervisor platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HypervisorFacet {
    /// What the platform calls it.
    pub external: ExternalRef,
    /// Whether the platform still reports it.
    pub present: bool,
    /// How many complete listings in a row lacked it.
    #[serde(default)]
    pub missed: u32,
    /// How many machines it runs, as the last sync counted.
    #[serde(default)]
    pub vm_count: u32,
}

/// The host as a machine that Portolan logs in to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManagedFacet {
    /// The credentials to log in with.
    pub credential: Option<CredentialId>,
    /// The operating system as found.
    #[serde(default)]
    pub os: String,
    /// The last status in the dialect's words.
    #[serde(default)]
    pub status: String,
    /// When it last answered.
    pub last_check: Option<Timestamp>,
}

/// A cluster of hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Portolan's id.
    pub id: ClusterId,
    /// The cluster's name.
    pub name: Name,
    /// What the platform calls it; nothing for a cluster that users made.
    pub external: Option<ExternalRef>,
    /// The data centre it is in.
    pub data_center: Option<DataCenterId>,
    /// Whether the platform still reports it.
    pub present: bool,
    /// How many complete listings in a row lacked it.
    #[serde(default)]
    pub missed: u32,
    /// When it was first seen.
    pub created: Timestamp,
}

/// A data centre.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataCenter {
    /// Portolan's id.
    pub id: DataCenterId,
    /// Its name.
    pub name: Name,
    /// What the platform calls it.
    pub external: Option<ExternalRef>,
}

/// A datastore: where the disks of machines lie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Datastore {
    /// Portolan's id.
    pub id: DatastoreId,
    /// Its name.
    pub name: Name,
    /// What the platform calls it.
    pub external: ExternalRef,
    /// The cluster that reaches it.
    pub cluster: Option<ClusterId>,
    /// The host that reaches it, where only one does.
    pub host: Option<HostId>,
    /// Its size in bytes.
    pub total_bytes: u64,
    /// How much of it is free, in bytes.
    pub free_bytes: u64,
    /// Whether the platform still reports it.
    pub present: bool,
    /// How many complete listings in a row lacked it.
    #[serde(default)]
    pub missed: u32,
    /// When it was first seen.
    pub created: Timestamp,
}

/// A group of clusters that users made, to suspend policies on and to list by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterGroup {
    /// Portolan's id.
    pub id: ClusterGroupId,
    /// Its name, unique.
    pub name: Name,
    /// The clusters in it. A cluster is in one group at the most.
    #[serde(default)]
    pub clusters: Vec<ClusterId>,
    /// When it was made.
    pub created: Timestamp,
}
