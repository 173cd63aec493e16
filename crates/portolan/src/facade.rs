//! The use cases of one Portolan, wired.

use crate::registry::{Registry, RegistryError};
use portolan_access::{Access, AccessError};
use portolan_driver::{Clouds, Hypervisors};
use portolan_inventory::{Drivers, Inventory, InventoryError, SyncHandler, cloud_handlers, machine_handlers};
use portolan_model::*;
use portolan_protect::{Protect, ProtectError, Repositories};
use portolan_storage::{Storage, StorageExt, StoreError};
use portolan_tasks::{DrainSwitch, EndBell, Engine, EngineBuilder, Task, TaskStore};
use std::sync::{Arc, OnceLock};

/// The use cases of one Portolan over its ports.
pub struct Portolan {
    /// Accounts, sessions, tenants, secrets.
    pub access: Access,
    /// Platforms, hosts, datastores, machines.
    pub inventory: Inventory,
    /// Backups, restores, destinations, tasks.
    pub protect: Protect,
    /// Platforms and destinations that operators register.
    pub registry: Registry,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) drivers: Drivers,
    pub(crate) repositories: Arc<Repositories>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) bell: Arc<EndBell>,
    pub(crate) ids: Arc<dyn IdSource>,
    /// What makes the engine of this process drain, once it has one.
    pub(crate) drain: OnceLock<Arc<DrainSwitch>>,
}

impl Portolan {
    /// The present instant by the clock that everything uses.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The storage that everything stands on.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The hypervisor drivers of this process.
    pub fn hypervisors(&self) -> &Arc<Hypervisors> {
        &self.drivers.hypervisors
    }

    /// The cloud drivers of this process.
    pub fn clouds(&self) -> &Arc<Clouds> {
        &self.drivers.clouds
    }

    /// The opened repositories of this process.
    pub fn repositories(&self) -> &Arc<Repositories> {
        &self.repositories
    }

    /// The tags that this process serves by its drivers and repositories.
    pub fn serves(&self) -> Vec<String> {
        serves(&self.drivers, &self.repositories)
    }

    /// An engine that runs every kind of task, to be refined and run. It serves what is registered at any time.
    pub fn engine(&self, worker: &str) -> EngineBuilder {
        let store: Arc<dyn TaskStore> = self.storage.clone();
        let mut engine = Engine::builder(store, Arc::clone(&self.clock))
            .worker(worker)
            .serves_live(self.live_serves())
            .bell(Arc::clone(&self.bell))
            .handler(Arc::new(SyncHandler::new(self.inventory.clone())));
        let machines = cloud_handlers(&self.inventory).into_iter().chain(machine_handlers(&self.inventory));
        for handler in portolan_protect::handlers(&self.protect).into_iter().chain(machines) {
            engine = engine.handler(handler);
        }
        engine
    }

    fn live_serves(&self) -> Arc<dyn Fn() -> Vec<String> + Send + Sync> {
        let (drivers, repositories) = (self.drivers.clone(), self.repositories.clone());
        Arc::new(move || serves(&drivers, &repositories))
    }

    /// The caller as seen by one tenant only; nothing where the caller may not see that tenant, or there is none of
    /// that name. `tenant` is Portolan's id, or what the system in front calls it.
    pub async fn narrow(&self, caller: Caller, tenant: &str) -> Result<Option<Caller>, StoreError> {
        use portolan_model::query::Filter;
        let by_id = tenant.parse::<TenantId>().ok();
        let mut filter = Filter::eq("external_id", tenant);
        if let Some(id) = by_id {
            filter = Filter::Or(vec![filter, Filter::eq("id", id.uuid())]);
        }
        let found = self.storage.list_of::<Tenant>(caller.scope, portolan_storage::Query::matching(filter)).await?;
        Ok(found.items.first().map(|t| Caller { scope: Scope::Tenant(t.id), ..caller }))
    }

    /// The account behind a caller.
    pub async fn account_of(&self, caller: &Caller) -> Result<Account, AccessError> {
        let id = caller.account.ok_or(AccessError::Unauthenticated)?;
        Ok(self.storage.fetch::<Account>(Scope::All, id).await?.value)
    }

    /// Asks for a sync of the platform of this name or id: the task that does it, also where one was under way.
    pub async fn sync_platform(&self, caller: &Caller, name_or_id: &str) -> Result<Task, RegistryError> {
        caller.require(Privilege::InventoryWrite)?;
        let platform = self.registry.platform(caller, name_or_id).await?.platform;
        let task = self.request_sync(caller, vec![platform.id], Vec::new()).await?.pop();
        task.ok_or_else(|| RegistryError::Conflict(format!("the platform '{}' is out of use", platform.name)))
    }

    /// Asks for a sync of these platforms and of the platforms of these hosts, or of every one where none is named.
    pub async fn request_sync(
        &self,
        caller: &Caller,
        mut platforms: Vec<PlatformId>,
        hosts: Vec<HostId>,
    ) -> Result<Vec<Task>, ProtectError> {
        for id in hosts {
            let host = self.inventory.one::<Host>(caller, id).await.map_err(as_protect)?;
            platforms.extend(host.hypervisor.map(|f| f.external.platform));
        }
        platforms.sort();
        platforms.dedup();
        let ids = self.inventory.request_sync(caller, &platforms).await.map_err(as_protect)?;
        let mut tasks = Vec::new();
        for id in ids {
            // Sync tasks belong to no tenant; who may ask for one may see it. It may be one that somebody else asked
            // for, though, and who that was is no tenant's to know.
            let mut task = self.protect.task(&Caller { scope: Scope::All, ..caller.clone() }, id).await?;
            if caller.scope != Scope::All {
                task.new.origin = portolan_protect::origin_of(caller);
            }
            tasks.push(task);
        }
        Ok(tasks)
    }
}

pub(crate) fn as_protect(e: InventoryError) -> ProtectError {
    match e {
        InventoryError::Denied(d) => ProtectError::Denied(d),
        InventoryError::NotFound { kind, id } => ProtectError::NotFound { kind: kind.table(), id },
        InventoryError::Conflict(text) => ProtectError::Conflict(text),
        InventoryError::Invalid(text) => ProtectError::Invalid(text),
        InventoryError::Unknown { .. }
        | InventoryError::Gone { .. }
        | InventoryError::Refused(_)
        | InventoryError::StillRunning(_) => ProtectError::Conflict(e.to_string()),
        InventoryError::Failed(text) => ProtectError::Conflict(text),
        InventoryError::Cloud(e) => ProtectError::Driver(e.into()),
        InventoryError::Driver(e) => ProtectError::Driver(e),
        InventoryError::Store(e) => ProtectError::Store(e),
        InventoryError::Tasks(e) => ProtectError::Tasks(e),
    }
}

fn serves(drivers: &Drivers, repositories: &Repositories) -> Vec<String> {
    let platforms = drivers.platforms().into_iter().map(|id| format!("platform:{id}"));
    platforms.chain(repositories.destinations().into_iter().map(|id| format!("destination:{id}"))).collect()
}
