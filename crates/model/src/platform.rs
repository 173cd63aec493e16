//! Platforms: configured driver instances.

use crate::id::PlatformId;
use crate::name::Name;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A configured driver instance: a hypervisor manager, a cloud.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    /// Portolan's id.
    pub id: PlatformId,
    /// The name it is configured by, unique.
    pub name: Name,
    /// The driver, `images` or `dummy`.
    pub driver: String,
    /// Where it is: a URL or a path, for people to recognise it by.
    pub url: String,
    /// Whether sync and tasks use it.
    pub enabled: bool,
    /// When the last complete listing ended.
    pub last_sync: Option<Timestamp>,
    /// Why the last listing failed, empty when it did not.
    #[serde(default)]
    pub last_error: String,
    /// What its driver needs to know beside, by the names of the driver's settings. Secrets are elsewhere, sealed.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Whether it stands in the configuration of the server: such a one is changed there and nowhere else.
    #[serde(default)]
    pub declared: bool,
    /// When it was registered.
    pub created: Timestamp,
}
