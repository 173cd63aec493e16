//! The drivers of one process.

use crate::{CloudDriver, DriverError, Hypervisor};
use portolan_model::PlatformId;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The drivers of one port that this process can reach, by platform.
pub struct Registry<D: ?Sized>(RwLock<BTreeMap<PlatformId, Arc<D>>>);

/// The hypervisor drivers.
pub type Hypervisors = Registry<dyn Hypervisor>;
/// The cloud drivers.
pub type Clouds = Registry<dyn CloudDriver>;

impl<D: ?Sized> Default for Registry<D> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<D: ?Sized> Registry<D> {
    /// Adds a driver, in place of the one that was there.
    pub fn insert(&self, platform: PlatformId, driver: Arc<D>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(platform, driver);
    }

    /// Takes a driver out.
    pub fn remove(&self, platform: PlatformId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&platform);
    }

    /// The driver of a platform; `NotFound` when this process has none.
    pub fn get(&self, platform: PlatformId) -> Result<Arc<D>, DriverError> {
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
