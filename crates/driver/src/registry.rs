//! The drivers of one process.

use crate::{DriverError, Hypervisor};
use portolan_model::PlatformId;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The hypervisor drivers that this process can reach, by platform.
#[derive(Default)]
pub struct Hypervisors(RwLock<BTreeMap<PlatformId, Arc<dyn Hypervisor>>>);

impl Hypervisors {
    /// Adds a driver, in place of the one that was there.
    pub fn insert(&self, platform: PlatformId, driver: Arc<dyn Hypervisor>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(platform, driver);
    }

    /// Takes a driver out.
    pub fn remove(&self, platform: PlatformId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&platform);
    }

    /// The driver of a platform; `NotFound` when this process has none.
    pub fn get(&self, platform: PlatformId) -> Result<Arc<dyn Hypervisor>, DriverError> {
        let drivers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        drivers
            .get(&platform)
            .cloned()
            .ok_or_else(|| DriverError::NotFound { what: "driver for the platform", id: platform.to_string() })
    }

    /// The platforms that have a driver here.
    pub fn platforms(&self) -> Vec<PlatformId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}
