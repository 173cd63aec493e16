//! Trying a platform or a destination: one bounded call, and what it found.

use super::error::RegistryError;
use super::platforms::PlatformRequest;
use super::ports::BuiltDriver;
use super::{Inner, Registry, operates};
use portolan_driver::{Capability, CloudDriver, Hypervisor};
use portolan_model::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// No more problems than this are told.
const MAX_PROBLEMS: usize = 100;

/// What a try came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProbeReport {
    /// How many of what was found: `vms`, `hosts`, `locations`, `points`, `free_bytes`, …
    pub found: BTreeMap<&'static str, u64>,
    /// What is there and cannot be used.
    pub problems: Vec<String>,
    /// Why it failed; nothing when it did not.
    pub failure: Option<ProbeFailure>,
    /// How long it took.
    pub took: Duration,
}

/// Why a try failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFailure {
    /// A word for programs: `AUTH`, `UNREACHABLE`, `TIMEOUT`, …
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl Registry {
    /// Tries a stored platform, with the driver that this process has, or a fresh one where it has none.
    pub async fn test_platform(&self, caller: &Caller, name_or_id: &str) -> Result<ProbeReport, RegistryError> {
        operates(caller)?;
        let platform = self.0.platform_of(name_or_id).await?;
        let platform = platform.ok_or_else(|| RegistryError::missing("platform", name_or_id))?;
        let (hypervisor, cloud) =
            (self.0.open.hypervisors.get(platform.id).ok(), self.0.open.clouds.get(platform.id).ok());
        self.0
            .timed(async {
                let built = match hypervisor.is_some() || cloud.is_some() {
                    true => BuiltDriver { hypervisor, cloud, url: platform.url.clone() },
                    false => self.0.build(&self.0.stored_spec(&platform).await?).await?,
                };
                self.0.look_at(&built).await
            })
            .await
    }

    /// Tries a platform that is not stored, and does not store it.
    pub async fn test_request(&self, caller: &Caller, request: PlatformRequest) -> Result<ProbeReport, RegistryError> {
        operates(caller)?;
        let name = match request.name.trim() {
            "" => Name::lossy("new", "new"),
            name => Name::new(name).map_err(|e| RegistryError::Invalid(e.to_string()))?,
        };
        let spec = self.0.spec(PlatformId::from_uuid(self.0.ids.uuid()), &name, request)?;
        self.0.timed(async { self.0.look_at(&self.0.build(&spec).await?).await }).await
    }

    /// Tries a destination: whether its repository answers, how many points it has and how full it is.
    pub async fn test_destination(&self, caller: &Caller, name_or_id: &str) -> Result<ProbeReport, RegistryError> {
        operates(caller)?;
        let destination = self.0.destination_of(name_or_id).await?;
        let destination = destination.ok_or_else(|| RegistryError::missing("destination", name_or_id))?;
        self.0
            .timed(async {
                let repository = match self.0.repositories.get(destination.id) {
                    Ok(open) => open,
                    Err(_) => self.0.reopen(&destination).await?,
                };
                let usage = self.0.bounded(repository.usage()).await?;
                let found = [
                    ("points", Some(usage.points)),
                    ("used_bytes", Some(usage.stored_bytes)),
                    ("logical_bytes", Some(usage.logical_bytes)),
                    ("free_bytes", usage.free_bytes),
                ];
                let found = found.into_iter().filter_map(|(name, n)| Some((name, n?))).collect();
                Ok(ProbeReport { found, ..ProbeReport::default() })
            })
            .await
    }
}

impl Inner {
    /// Makes a report of what failed outside, and notes the time.
    async fn timed(
        &self,
        work: impl Future<Output = Result<ProbeReport, RegistryError>>,
    ) -> Result<ProbeReport, RegistryError> {
        let began = self.clock.now();
        let mut report = match work.await {
            Ok(report) => report,
            Err(e) if e.is_outside() => {
                let failure = Some(ProbeFailure { code: e.code(), message: e.one_line() });
                ProbeReport { failure, ..ProbeReport::default() }
            }
            Err(e) => return Err(e),
        };
        report.took = self.clock.now().since(began);
        Ok(report)
    }

    async fn look_at(&self, built: &BuiltDriver) -> Result<ProbeReport, RegistryError> {
        match (&built.hypervisor, &built.cloud) {
            (Some(hypervisor), _) => self.look_at_hypervisor(hypervisor).await,
            (None, Some(cloud)) => self.look_at_cloud(cloud).await,
            (None, None) => Ok(ProbeReport::default()),
        }
    }

    async fn look_at_hypervisor(&self, driver: &Arc<dyn Hypervisor>) -> Result<ProbeReport, RegistryError> {
        let mut listing = self.bounded(driver.inventory()).await?;
        listing.problems.truncate(MAX_PROBLEMS);
        let count = |n: usize| n as u64;
        let found = BTreeMap::from([
            ("clusters", count(listing.clusters.len())),
            ("hosts", count(listing.hosts.len())),
            ("datastores", count(listing.datastores.len())),
            ("vms", count(listing.vms.len())),
        ]);
        Ok(ProbeReport { found, problems: listing.problems, ..ProbeReport::default() })
    }

    async fn look_at_cloud(&self, driver: &Arc<dyn CloudDriver>) -> Result<ProbeReport, RegistryError> {
        let found = if driver.capabilities().has(Capability::Locations) {
            let page =
                self.bounded(async { driver.list_locations(None).await.map_err(portolan_driver::DriverError::from) });
            ("locations", page.await?.items.len() as u64)
        } else {
            let page =
                self.bounded(async { driver.list_nodes(None).await.map_err(portolan_driver::DriverError::from) });
            ("nodes", page.await?.items.len() as u64)
        };
        Ok(ProbeReport { found: BTreeMap::from([found]), ..ProbeReport::default() })
    }
}
