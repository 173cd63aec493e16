//! Networks, and the managers of containers on hosts.

use crate::cloud::Extra;
use crate::dialect::commissaire::{ContainerManagerType, NetworkType};
use crate::external::ExternalRef;
use crate::id::*;
use crate::name::Name;
use crate::secret::Secret;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// A network: one that a platform reports, or one that users declare for the hosts that Portolan manages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Portolan's id.
    pub id: NetworkId,
    /// Its name.
    pub name: Name,
    /// Set where a platform reports it.
    pub external: Option<ExternalRef>,
    /// Set where users declared it.
    pub overlay: Option<Overlay>,
    /// Whether machines of several platforms or tenants may be put on it.
    #[serde(default)]
    pub shared: bool,
    /// Whether the platform still reports it.
    pub present: bool,
    /// How many complete listings in a row lacked it.
    #[serde(default)]
    pub missed: u32,
    /// When it was first seen.
    pub created: Timestamp,
}

/// How managed hosts are put on one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overlay {
    /// By which means.
    pub kind: NetworkType,
    /// Its options, as they were given.
    #[serde(default)]
    pub options: Extra,
}

/// A system that runs containers on hosts, and that hosts are registered with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerManager {
    /// Portolan's id.
    pub id: ContainerManagerId,
    /// Its name, unique.
    pub name: Name,
    /// What it is.
    pub kind: ContainerManagerType,
    /// Its options as they were given, but for those that are secret.
    #[serde(default)]
    pub options: Extra,
    /// The secret options as one JSON object, enveloped by the server's key.
    #[serde(default)]
    pub secret_options: Secret,
    /// When it was made.
    pub created: Timestamp,
}
