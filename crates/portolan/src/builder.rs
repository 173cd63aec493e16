//! The builder.

use crate::facade::Portolan;
use crate::registry::{self, DestinationFactory, DriverFactory, Nothing, Registry};
use portolan_access::{Access, AccessError, AccessOptions, SystemClock, SystemIds, Vault};
use portolan_inventory::{CloudRules, Drivers, Inventory};
use portolan_model::{Clock, IdSource};
use portolan_protect::{Protect, Repositories};
use portolan_storage::Storage;
use portolan_tasks::EndBell;
use std::sync::{Arc, OnceLock};

/// Why a Portolan could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Accounts and sessions could not be set up.
    #[error("access cannot be set up")]
    Access(#[from] AccessError),
}

/// Wires ports to use cases.
pub struct PortolanBuilder {
    storage: Arc<dyn Storage>,
    vault: Vault,
    clock: Option<Arc<dyn Clock>>,
    ids: Option<Arc<dyn IdSource>>,
    options: AccessOptions,
    drivers: Arc<dyn DriverFactory>,
    places: Arc<dyn DestinationFactory>,
    clouds: CloudRules,
}

impl Portolan {
    /// A builder over a storage adapter, and the vault that [`portolan_access::unlock`] opened for it.
    pub fn builder(storage: Arc<dyn Storage>, vault: Vault) -> PortolanBuilder {
        PortolanBuilder {
            storage,
            vault,
            clock: None,
            ids: None,
            options: AccessOptions::default(),
            drivers: Arc::new(Nothing),
            places: Arc::new(Nothing),
            clouds: CloudRules::default(),
        }
    }
}

impl PortolanBuilder {
    /// Another clock than the system's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Another source of ids and randomness than the system's.
    #[must_use]
    pub fn ids(mut self, ids: Arc<dyn IdSource>) -> Self {
        self.ids = Some(ids);
        self
    }

    /// How access behaves.
    #[must_use]
    pub fn access(mut self, options: AccessOptions) -> Self {
        self.options = options;
        self
    }

    /// What builds the drivers of the platforms that operators register; none if nothing is said.
    #[must_use]
    pub fn driver_factory(mut self, drivers: Arc<dyn DriverFactory>) -> Self {
        self.drivers = drivers;
        self
    }

    /// What opens the stores of the destinations that operators register; none if nothing is said.
    #[must_use]
    pub fn destination_factory(mut self, places: Arc<dyn DestinationFactory>) -> Self {
        self.places = places;
        self
    }

    /// How work on the nodes of clouds behaves.
    #[must_use]
    pub fn clouds(mut self, rules: CloudRules) -> Self {
        self.clouds = rules;
        self
    }

    /// Wires everything. Takes no look at the storage.
    pub fn build(self) -> Result<Portolan, BuildError> {
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock::new()));
        let ids = self.ids.unwrap_or_else(|| Arc::new(SystemIds::new(Arc::clone(&clock))));
        let (drivers, bell) = (Drivers::default(), Arc::new(EndBell::default()));
        let repositories = Arc::new(Repositories::default());
        let storage = self.storage;
        let access = Access::new(Arc::clone(&storage), self.vault, Arc::clone(&clock), Arc::clone(&ids), self.options)?;
        let inventory = Inventory::new(
            Arc::clone(&storage),
            drivers.clone(),
            Arc::clone(&clock),
            Arc::clone(&ids),
            self.clouds,
            Arc::clone(&bell),
        );
        let protect = Protect::new(
            Arc::clone(&storage),
            Arc::clone(&drivers.hypervisors),
            Arc::clone(&repositories),
            Arc::clone(&clock),
            Arc::clone(&ids),
        );
        let registry = Registry::new(registry::Inner {
            storage: Arc::clone(&storage),
            secrets: access.secrets.clone(),
            inventory: inventory.clone(),
            protect: protect.clone(),
            open: drivers.clone(),
            repositories: Arc::clone(&repositories),
            clock: Arc::clone(&clock),
            ids: Arc::clone(&ids),
            drivers: self.drivers,
            places: self.places,
            problems: Default::default(),
        });
        let drain = OnceLock::new();
        Ok(Portolan { access, inventory, protect, registry, storage, drivers, repositories, clock, bell, ids, drain })
    }
}
