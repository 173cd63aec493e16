//! Platforms: registered, listed, shown.

use super::error::RegistryError;
use super::ports::{BuiltDriver, DriverDescription, PlatformKind, PlatformSpec};
use super::settings::Settings;
use super::{Inner, Registry, operates};
use portolan_driver::DriverError;
use portolan_model::query::{Page, Sort};
use portolan_model::*;
use portolan_protect::origin_of;
use portolan_storage::{Conflict, Query, StorageExt, StoreError, UnitOfWork};
use std::collections::BTreeMap;

/// A platform to register or to try.
#[derive(Debug, Clone)]
pub struct PlatformRequest {
    /// Its name, unique.
    pub name: String,
    /// The driver.
    pub driver: String,
    /// The driver's settings, secret ones among them.
    pub settings: BTreeMap<String, Secret>,
}

/// A platform with what this process knows of it.
#[derive(Debug, Clone, PartialEq)]
pub struct PlatformView {
    /// The platform.
    pub platform: Platform,
    /// What it is.
    pub kind: PlatformKind,
    /// Whether this process has its driver.
    pub connected: bool,
    /// Why it could not be opened or listed, the later one; empty when all is well.
    pub problem: String,
}

impl Registry {
    /// Registers a platform: its driver is built, the row and the sealed secrets are written in one unit with the task
    /// that lists it, and it works from then on. `Conflict` when the name is taken. A repetition of the same request
    /// answers the platform that the first one made.
    pub async fn add_platform(&self, caller: &Caller, request: PlatformRequest) -> Result<PlatformView, RegistryError> {
        operates(caller)?;
        let inner = &self.0;
        let name = Name::new(&request.name).map_err(|e| RegistryError::Invalid(e.to_string()))?;
        let spec = inner.spec(inner.platform_id(caller), &name, request)?;
        if let Some(there) = inner.platform_of(name.as_str()).await? {
            return inner.taken(there, spec.id);
        }
        let built = inner.build(&spec).await?;
        let now = inner.clock.now();
        let platform = Platform {
            id: spec.id,
            name,
            driver: spec.driver.clone(),
            url: built.url.clone(),
            enabled: true,
            last_sync: None,
            last_error: String::new(),
            settings: spec.settings.clone(),
            declared: false,
            created: now,
        };
        let chain = ChainId::from_uuid(inner.ids.uuid());
        let mut unit = UnitOfWork::new().create(&platform);
        for (setting, secret) in &spec.secrets {
            unit = inner.secrets.put_in(unit, &secret_owner(platform.id, setting), secret).await?;
        }
        let unit = unit.enqueue(inner.inventory.sync_task(now, &platform, chain, origin_of(caller)));
        let unit = audit(unit, "platform.added", &platform, caller);
        // In place before the task can be claimed; taken out again when the row does not come to be.
        inner.connect(platform.id, &built);
        match inner.storage.apply(now, Scope::All, unit).await {
            Ok(_) => Ok(inner.platform_view(platform)),
            Err(error) => {
                inner.disconnect(platform.id);
                match (error, inner.platform_of(platform.name.as_str()).await?) {
                    (StoreError::Conflict(Conflict::Taken { .. } | Conflict::Version { .. }), Some(there)) => {
                        if there.id == platform.id {
                            inner.connect(platform.id, &built);
                        }
                        inner.taken(there, platform.id)
                    }
                    (error, _) => Err(error.into()),
                }
            }
        }
    }

    /// Platforms by name, with their number.
    pub async fn platforms(&self, caller: &Caller, page: Page) -> Result<(Vec<PlatformView>, u64), RegistryError> {
        caller.require(Privilege::InventoryRead)?;
        let query = Query { sort: Sort::by("name"), page, count: true, ..Query::default() };
        let list = self.0.storage.list_of::<Platform>(caller.scope, query).await?;
        let total = list.total.unwrap_or(list.items.len() as u64);
        Ok((list.items.into_iter().map(|p| self.0.platform_view(p.value)).collect(), total))
    }

    /// The platform of this name, whatever the case of its letters, or id.
    pub async fn platform(&self, caller: &Caller, name_or_id: &str) -> Result<PlatformView, RegistryError> {
        caller.require(Privilege::InventoryRead)?;
        let found = self.0.platform_of(name_or_id).await?;
        found.map(|p| self.0.platform_view(p)).ok_or_else(|| RegistryError::missing("platform", name_or_id))
    }
}

impl Inner {
    pub(super) async fn platform_of(&self, name_or_id: &str) -> Result<Option<Platform>, RegistryError> {
        if let Ok(id) = name_or_id.parse()
            && let Some(found) = self.storage.find::<Platform>(Scope::All, id).await?
        {
            return Ok(Some(found.value));
        }
        let key = format!("platform:{}", name_or_id.trim().to_lowercase());
        Ok(self.storage.find_by_key::<Platform>(Scope::All, &key).await?.map(|p| p.value))
    }

    /// What is to be built for a request that is not stored.
    pub(super) fn spec(
        &self,
        id: PlatformId,
        name: &Name,
        request: PlatformRequest,
    ) -> Result<PlatformSpec, RegistryError> {
        let driver = self.driver(&request.driver)?;
        let settings = Settings::checked(&driver.settings, request.settings)?;
        Ok(PlatformSpec {
            id,
            name: name.to_string(),
            driver: driver.name.to_owned(),
            settings: settings.plain,
            secrets: settings.secret,
        })
    }

    /// What is to be built for a stored platform.
    pub(super) async fn stored_spec(&self, platform: &Platform) -> Result<PlatformSpec, RegistryError> {
        let driver = self.driver(&platform.driver)?;
        let secrets = self.secrets_of(&driver.settings, |setting| secret_owner(platform.id, setting)).await?;
        Ok(PlatformSpec {
            id: platform.id,
            name: platform.name.to_string(),
            driver: platform.driver.clone(),
            settings: platform.settings.clone(),
            secrets,
        })
    }

    pub(super) async fn build(&self, spec: &PlatformSpec) -> Result<BuiltDriver, RegistryError> {
        let built = self.bounded(self.drivers.build(spec)).await.map_err(RegistryError::of_settings)?;
        match built.hypervisor.is_some() || built.cloud.is_some() {
            true => Ok(built),
            false => Err(DriverError::Unsupported("the driver drives nothing".into()).into()),
        }
    }

    pub(super) fn connect(&self, id: PlatformId, built: &BuiltDriver) {
        if let Some(hypervisor) = &built.hypervisor {
            self.open.hypervisors.insert(id, hypervisor.clone());
        }
        if let Some(cloud) = &built.cloud {
            self.open.clouds.insert(id, cloud.clone());
        }
        self.note_problem(id.uuid(), None);
    }

    pub(super) fn disconnect(&self, id: PlatformId) {
        self.open.hypervisors.remove(id);
        self.open.clouds.remove(id);
    }

    pub(super) fn is_connected(&self, id: PlatformId) -> bool {
        self.open.hypervisors.get(id).is_ok() || self.open.clouds.get(id).is_ok()
    }

    pub(super) fn platform_view(&self, platform: Platform) -> PlatformView {
        let described = self.drivers.drivers().into_iter().find(|d| d.name == platform.driver);
        let open = || match (self.open.hypervisors.get(platform.id).is_ok(), self.open.clouds.get(platform.id).is_ok())
        {
            (true, true) => PlatformKind::Both,
            (false, true) => PlatformKind::Cloud,
            (_, false) => PlatformKind::Hypervisor,
        };
        let kind = described.map_or_else(open, |d| d.kind);
        let problem = self.problem(platform.id.uuid()).unwrap_or_else(|| platform.last_error.clone());
        PlatformView { kind, connected: self.is_connected(platform.id), problem, platform }
    }

    /// An id for a new platform: the same for a repetition of the request.
    fn platform_id(&self, caller: &Caller) -> PlatformId {
        PlatformId::from_uuid(caller.request.map_or_else(|| self.ids.uuid(), |key| key.derive("platform", 0)))
    }

    fn driver(&self, name: &str) -> Result<DriverDescription, RegistryError> {
        let drivers = self.drivers.drivers();
        let known: Vec<&str> = drivers.iter().map(|d| d.name).collect();
        let unknown =
            || RegistryError::Invalid(format!("there is no such driver: the drivers are {}", known.join(", ")));
        drivers.iter().find(|d| d.name == name).cloned().ok_or_else(unknown)
    }

    /// The answer for a name that is taken: by this very request's own platform, or by another one.
    fn taken(&self, there: Platform, own: PlatformId) -> Result<PlatformView, RegistryError> {
        match there.id == own {
            true => Ok(self.platform_view(there)),
            false => Err(RegistryError::Conflict(format!("there is a platform '{}' already", there.name))),
        }
    }
}

/// What the secrets of a platform's settings are sealed under.
pub(super) fn secret_owner(id: PlatformId, setting: &str) -> String {
    format!("platform:{id}:{setting}")
}

pub(super) fn audit(unit: UnitOfWork, what: &str, platform: &Platform, caller: &Caller) -> UnitOfWork {
    let data = serde_json::json!({ "name": platform.name.as_str(), "driver": platform.driver });
    unit.event_by(&caller.login, what, None, platform.id.uuid(), data)
}
