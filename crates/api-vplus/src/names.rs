//! The names and addresses that lists show beside ids.

use crate::error::ApiError;
use portolan::Portolan;
use portolan::storage::Query;
use portolan_model::describe::{EnumNameAndDescription, NameAndGuid};
use portolan_model::dialect::vplus::ManagerType;
use portolan_model::describe::Describe;
use portolan_model::*;
use std::collections::BTreeMap;

/// Infrastructure by id, read once for a request.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) platforms: BTreeMap<PlatformId, Platform>,
    pub(crate) hosts: BTreeMap<HostId, Host>,
    pub(crate) clusters: BTreeMap<ClusterId, Cluster>,
    pub(crate) datastores: BTreeMap<DatastoreId, Datastore>,
    pub(crate) destinations: BTreeMap<BackupDestinationId, BackupDestination>,
    pub(crate) tenants: BTreeMap<TenantId, Tenant>,
}

impl Names {
    /// Reads what the caller may see.
    pub(crate) async fn load(portolan: &Portolan, caller: &Caller) -> Result<Self, ApiError> {
        let inventory = &portolan.inventory;
        let all = Query::default;
        let mut names = Self::default();
        names.platforms.extend(inventory.read::<Platform>(caller, all()).await?.items.into_iter().map(|s| (s.value.id, s.value)));
        names.hosts.extend(inventory.read::<Host>(caller, all()).await?.items.into_iter().map(|s| (s.value.id, s.value)));
        names.clusters.extend(inventory.read::<Cluster>(caller, all()).await?.items.into_iter().map(|s| (s.value.id, s.value)));
        names.datastores.extend(inventory.read::<Datastore>(caller, all()).await?.items.into_iter().map(|s| (s.value.id, s.value)));
        names.tenants.extend(inventory.read::<Tenant>(caller, all()).await?.items.into_iter().map(|s| (s.value.id, s.value)));
        let destinations = portolan.protect.destinations(caller, all()).await?;
        names.destinations.extend(destinations.items.into_iter().map(|s| (s.value.id, s.value)));
        Ok(names)
    }

    /// A hypervisor manager. Clients recognise it by its URL, which therefore is its name too.
    pub(crate) fn manager(&self, id: PlatformId) -> NameAndGuid {
        NameAndGuid::new(id, self.platforms.get(&id).map_or_else(String::new, |p| p.url.clone()))
    }

    /// A hypervisor.
    pub(crate) fn hypervisor(&self, id: HostId) -> NameAndGuid {
        NameAndGuid::new(id, self.hosts.get(&id).map_or_else(String::new, |h| h.name.to_string()))
    }

    /// A cluster.
    pub(crate) fn cluster(&self, id: ClusterId) -> NameAndGuid {
        NameAndGuid::new(id, self.clusters.get(&id).map_or_else(String::new, |c| c.name.to_string()))
    }

    /// A storage.
    pub(crate) fn storage(&self, id: DatastoreId) -> NameAndGuid {
        NameAndGuid::new(id, self.datastores.get(&id).map_or_else(String::new, |d| d.name.to_string()))
    }

    /// A backup destination.
    pub(crate) fn destination(&self, id: BackupDestinationId) -> NameAndGuid {
        NameAndGuid::new(id, self.destinations.get(&id).map_or_else(String::new, |d| d.name.to_string()))
    }

    /// What the system in front calls a tenant: its own id of it, else Portolan's.
    pub(crate) fn tenant(&self, id: TenantId) -> String {
        match self.tenants.get(&id) {
            Some(t) if !t.external_id.is_empty() => t.external_id.clone(),
            _ => id.to_string(),
        }
    }

    /// A tenant as a project.
    pub(crate) fn project(&self, id: TenantId) -> NameAndGuid {
        NameAndGuid::new(id, self.tenants.get(&id).map_or_else(String::new, |t| t.name.to_string()))
    }
}

/// What kind of manager clients are told a platform is. With this one they offer everything that Portolan does
/// (section 3).
pub(crate) fn manager_type() -> EnumNameAndDescription {
    ManagerType::Rhv.described()
}
