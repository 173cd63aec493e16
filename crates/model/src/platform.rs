//! Platforms: configured driver instances.

use crate::id::PlatformId;
use crate::name::Name;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

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
    /// When it was registered.
    pub created: Timestamp,
}
