//! The use cases of the inventory.

use crate::clouds::{CloudRules, StoredDriverState, Waits};
use crate::error::InventoryError;
use portolan_driver::{CloudDriver, Clouds, DriverState, Hypervisor, Hypervisors};
use portolan_model::backup::{Origin, OriginKind};
use portolan_model::query::{Filter, Page, Sort};
use portolan_model::*;
use portolan_storage::{
    Conflict, KeyCache, ListOf, Query, Record, Storage, StorageExt, StoreError, Stored, UnitOfWork,
};
use portolan_tasks::{EndBell, Limit, NewTask, TaskLinks};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The kind of the task that syncs one platform.
pub const SYNC_TASK: &str = portolan_model::task_kind::INVENTORY_SYNC;

/// Platforms, hosts, datastores, machines and the nodes of clouds.
#[derive(Clone)]
pub struct Inventory {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) drivers: Drivers,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) rules: CloudRules,
    pub(crate) waits: Arc<Waits>,
    /// Platforms by name: every request of a cloud's dialect names one.
    pub(crate) platforms: Arc<KeyCache<Platform>>,
}

/// The drivers of this process.
#[derive(Clone, Default)]
pub struct Drivers {
    /// Hypervisors, by platform.
    pub hypervisors: Arc<Hypervisors>,
    /// Clouds, by platform.
    pub clouds: Arc<Clouds>,
}

impl Drivers {
    /// Every platform that has a driver here, each once.
    pub fn platforms(&self) -> Vec<PlatformId> {
        let mut all = self.hypervisors.platforms();
        all.extend(self.clouds.platforms());
        all.sort();
        all.dedup();
        all
    }
}

/// A platform to register.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPlatform {
    /// Its name, unique.
    pub name: Name,
    /// The driver, `images`.
    pub driver: String,
    /// Where it is.
    pub url: String,
    /// What the driver needs to know beside; no secrets.
    pub settings: BTreeMap<String, String>,
    /// Whether it stands in the configuration of the server.
    pub declared: bool,
}

impl Inventory {
    /// The inventory over these ports. `bell` is the one of the engine that runs its tasks: whoever waits for one
    /// hears of its end at once.
    pub fn new(
        storage: Arc<dyn Storage>,
        drivers: Drivers,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        rules: CloudRules,
        bell: Arc<EndBell>,
    ) -> Self {
        let waits = Arc::new(Waits::new(ids.uuid(), bell));
        let platforms = Arc::new(KeyCache::new(Arc::clone(&storage)));
        Self { storage, drivers, clock, ids, rules, waits, platforms }
    }

    /// Registers a platform with its driver, or finds the one of that name and gives it the driver: what a server
    /// does at every start with the platforms of its configuration. Fails when the name belongs to a platform of
    /// another driver.
    pub async fn register_platform(
        &self,
        caller: &Caller,
        new: NewPlatform,
        driver: Arc<dyn Hypervisor>,
    ) -> Result<Platform, InventoryError> {
        let platform = self.register(caller, new).await?;
        self.drivers.hypervisors.insert(platform.id, driver);
        Ok(platform)
    }

    /// The same for a platform that is a cloud. `make` is told which platform it is: what a driver keeps is filed
    /// under it.
    pub async fn register_cloud(
        &self,
        caller: &Caller,
        new: NewPlatform,
        make: impl FnOnce(PlatformId) -> Arc<dyn CloudDriver> + Send,
    ) -> Result<Platform, InventoryError> {
        let platform = self.register(caller, new).await?;
        self.drivers.clouds.insert(platform.id, make(platform.id));
        Ok(platform)
    }

    /// The same for a platform whose driver is opened later, by whoever opens those that are registered.
    pub async fn register_declared(&self, caller: &Caller, new: NewPlatform) -> Result<Platform, InventoryError> {
        self.register(caller, new).await
    }

    /// What the driver of a platform keeps, in the store.
    pub fn driver_state(&self, platform: PlatformId) -> Arc<dyn DriverState> {
        Arc::new(StoredDriverState::new(Arc::clone(&self.storage), Arc::clone(&self.clock), platform))
    }

    async fn register(&self, caller: &Caller, new: NewPlatform) -> Result<Platform, InventoryError> {
        caller.require(Privilege::PlatformManage)?;
        let key = format!("platform:{}", new.name.as_str().to_lowercase());
        loop {
            let now = self.clock.now();
            if let Some(there) = self.storage.find_by_key::<Platform>(Scope::All, &key).await? {
                if there.driver != new.driver {
                    return Err(InventoryError::Conflict(format!(
                        "the platform '{}' is there with the driver '{}'",
                        new.name, there.driver
                    )));
                }
                let changed = self.storage.change::<Platform, _>(now, caller.scope, there.id, |p| {
                    let same = p.url == new.url && p.settings == new.settings && p.declared == new.declared;
                    (!same || !p.enabled).then(|| {
                        p.url.clone_from(&new.url);
                        p.settings.clone_from(&new.settings);
                        p.declared = new.declared;
                        p.enabled = true;
                        UnitOfWork::new()
                    })
                });
                return Ok(changed.await?.value);
            }
            let platform = Platform {
                id: PlatformId::from_uuid(self.ids.uuid()),
                name: new.name.clone(),
                driver: new.driver.clone(),
                url: new.url.clone(),
                enabled: true,
                last_sync: None,
                last_error: String::new(),
                settings: new.settings.clone(),
                declared: new.declared,
                created: now,
            };
            match self.storage.apply(now, caller.scope, UnitOfWork::new().create(&platform)).await {
                Ok(_) => return Ok(platform),
                // Another process registered the same name between the look and the write: take that one.
                Err(StoreError::Conflict(Conflict::Taken { .. })) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Asks for a sync of these platforms, or of every enabled one: one durable task each. A platform that has a
    /// sync waiting or running gets no second one, and a request that its sender named and repeats finds the tasks
    /// that it began. Returns the tasks' ids.
    pub async fn request_sync(&self, caller: &Caller, platforms: &[PlatformId]) -> Result<Vec<TaskId>, InventoryError> {
        caller.require(Privilege::InventoryWrite)?;
        let chosen: Vec<Stored<Platform>> = if platforms.is_empty() {
            self.storage.list_of::<Platform>(caller.scope, Query::default()).await?.items
        } else {
            let mut chosen = Vec::new();
            for id in platforms {
                chosen.push(self.storage.fetch::<Platform>(caller.scope, *id).await?);
            }
            chosen
        };
        let now = self.clock.now();
        let id = |role: &str, platform: PlatformId| match caller.request {
            Some(request) => request.derive(&format!("{role}:{platform}"), 0),
            None => self.ids.uuid(),
        };
        let tasks = chosen
            .iter()
            .filter(|p| p.enabled)
            .map(|p| {
                let chain = ChainId::from_uuid(id("sync.chain", p.id));
                sync_task(TaskId::from_uuid(id("sync.task", p.id)), now, p.id, chain, user_origin(caller))
            })
            .collect();
        Ok(self.storage.enqueue(now, tasks).await?.into_iter().map(|e| e.id).collect())
    }

    /// The task that syncs one platform, as a link of `chain`.
    pub fn sync_task(&self, now: Timestamp, platform: &Platform, chain: ChainId, origin: Origin) -> NewTask {
        sync_task(TaskId::from_uuid(self.ids.uuid()), now, platform.id, chain, origin)
    }

    /// Machines that the caller may see.
    pub async fn vms(&self, caller: &Caller, query: Query) -> Result<ListOf<VirtualMachine>, InventoryError> {
        self.read(caller, query).await
    }

    /// One machine.
    pub async fn vm(&self, caller: &Caller, id: VmId) -> Result<VirtualMachine, InventoryError> {
        self.one::<VirtualMachine>(caller, id).await
    }

    /// Hosts that have the hypervisor facet.
    pub async fn hypervisor_hosts(&self, caller: &Caller, query: Query) -> Result<ListOf<Host>, InventoryError> {
        let hypervisors = Filter::Not(Box::new(Filter::Eq("platform".into(), portolan_model::query::Value::Null)));
        self.read(caller, Query { filter: query.filter.and(hypervisors), ..query }).await
    }

    /// A page of any kind of inventory object: platforms, clusters, datastores, nodes, hosts.
    pub async fn read<R: Record>(&self, caller: &Caller, query: Query) -> Result<ListOf<R>, InventoryError> {
        caller.require(Privilege::InventoryRead)?;
        Ok(self.storage.list_of::<R>(caller.scope, query).await?)
    }

    /// One inventory object of any kind.
    pub async fn one<R: Record>(&self, caller: &Caller, id: R::Id) -> Result<R, InventoryError> {
        caller.require(Privilege::InventoryRead)?;
        Ok(self.storage.fetch::<R>(caller.scope, id).await?.value)
    }

    /// Gives a machine to a tenant, or takes it back.
    pub async fn set_tenant(&self, caller: &Caller, id: VmId, tenant: Option<TenantId>) -> Result<(), InventoryError> {
        caller.require(Privilege::AccessManage)?;
        if let Some(tenant) = tenant {
            self.storage.fetch::<Tenant>(caller.scope, tenant).await?;
        }
        self.storage
            .change::<VirtualMachine, _>(self.clock.now(), caller.scope, id, |vm| {
                (vm.settings.tenant != tenant).then(|| {
                    vm.settings.tenant = tenant;
                    UnitOfWork::new()
                })
            })
            .await?;
        Ok(())
    }

    /// Writes what a Portolan process says of itself. Ports of a node that stopped stay as it left them.
    pub async fn note_node(&self, node: &Node) -> Result<(), InventoryError> {
        self.storage.apply_all(self.clock.now(), UnitOfWork::new().put(node)).await?;
        Ok(())
    }

    /// The platforms that are due for a periodic sync: enabled, served here, not listed since `before`.
    pub async fn due_platforms(&self, before: Timestamp) -> Result<Vec<PlatformId>, InventoryError> {
        let here = self.drivers.platforms();
        let all = self
            .storage
            .list_of::<Platform>(
                Scope::All,
                Query { filter: Filter::All, sort: Sort::default(), page: Page::ALL, count: false },
            )
            .await?;
        Ok(all
            .items
            .iter()
            .filter(|p| p.enabled && here.contains(&p.id) && p.last_sync.is_none_or(|at| at < before))
            .map(|p| p.id)
            .collect())
    }
}

/// The task that syncs one platform. At most one waits or runs for a platform.
pub(crate) fn sync_task(id: TaskId, now: Timestamp, platform: PlatformId, chain: ChainId, origin: Origin) -> NewTask {
    NewTask {
        id,
        kind: SYNC_TASK.to_owned(),
        tenant: None,
        chain,
        priority: 50,
        run_at: now,
        start_by: None,
        deadline: None,
        max_attempts: 3,
        retries: 0,
        payload: serde_json::json!({ "platform": platform }),
        links: TaskLinks { platform: Some(platform), ..TaskLinks::default() },
        after: Vec::new(),
        unique_key: Some(format!("{SYNC_TASK}:{platform}")),
        limits: vec![Limit { key: format!("sync:{platform}"), max: 1 }],
        requires: vec![format!("platform:{platform}")],
        on_failure: None,
        origin,
    }
}

/// The caller as what asked for a task.
pub(crate) fn user_origin(caller: &Caller) -> Origin {
    let kind = if caller.account.is_some() { OriginKind::User } else { OriginKind::SystemSchedule };
    Origin { kind, id: caller.account.map(AccountId::uuid), name: caller.login.clone() }
}
