//! The names and addresses that answers show beside ids: exactly those that an answer needs, read once for it.

use crate::error::ApiError;
use portolan::Portolan;
use portolan::protect::{PointQuery, PointView};
use portolan::storage::{Query, Record};
use portolan::tasks::{Task, TaskQuery};
use portolan_model::describe::Describe;
use portolan_model::describe::{EnumNameAndDescription, NameAndGuid};
use portolan_model::dialect::vplus::ManagerType;
use portolan_model::query::Filter;
use portolan_model::*;
use std::collections::{BTreeMap, BTreeSet};

/// How many objects are asked for at once.
const AT_ONCE: usize = 500;

/// The objects that an answer refers to.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    platforms: BTreeSet<PlatformId>,
    hosts: BTreeSet<HostId>,
    clusters: BTreeSet<ClusterId>,
    datastores: BTreeSet<DatastoreId>,
    destinations: BTreeSet<BackupDestinationId>,
    tenants: BTreeSet<TenantId>,
    points: BTreeSet<RecoveryPointId>,
    tasks: BTreeSet<TaskId>,
}

/// An object whose answer shows names of others.
pub(crate) trait Refers {
    /// Adds what it refers to.
    fn refers(&self, wanted: &mut Wanted);
}

impl Refers for VirtualMachine {
    fn refers(&self, wanted: &mut Wanted) {
        wanted.platforms.insert(self.observed.platform);
        wanted.tenants.extend(self.settings.tenant);
    }
}

/// A machine whose disks are shown.
pub(crate) struct DisksOf<'a>(pub(crate) &'a VirtualMachine);

impl Refers for DisksOf<'_> {
    fn refers(&self, wanted: &mut Wanted) {
        wanted.datastores.extend(self.0.observed.disks.iter().filter_map(|d| d.datastore));
    }
}

/// A backup whose files are shown.
pub(crate) struct FilesOf<'a>(pub(crate) &'a RecoveryPoint);

impl Refers for FilesOf<'_> {
    fn refers(&self, wanted: &mut Wanted) {
        wanted.datastores.extend(self.0.disks.iter().filter_map(|d| d.datastore));
    }
}

impl Refers for Host {
    fn refers(&self, wanted: &mut Wanted) {
        wanted.platforms.extend(self.hypervisor.as_ref().map(|f| f.external.platform));
    }
}

impl Refers for Datastore {
    fn refers(&self, wanted: &mut Wanted) {
        wanted.clusters.extend(self.cluster);
    }
}

impl Refers for PointView {
    fn refers(&self, wanted: &mut Wanted) {
        wanted.destinations.extend(self.copies.iter().map(|c| c.destination));
        wanted.tenants.extend(self.point.tenant);
        wanted.points.extend(self.point.parent);
    }
}

impl Refers for Task {
    fn refers(&self, wanted: &mut Wanted) {
        let links = &self.new.links;
        wanted.destinations.extend(links.destination);
        wanted.platforms.extend(links.platform);
        wanted.hosts.extend(links.host);
        wanted.tasks.extend(links.parent);
    }
}

/// Objects by id, as far as they are there for the caller.
#[derive(Debug, Default)]
pub(crate) struct Names {
    platforms: BTreeMap<PlatformId, Platform>,
    hosts: BTreeMap<HostId, Host>,
    clusters: BTreeMap<ClusterId, Cluster>,
    datastores: BTreeMap<DatastoreId, Datastore>,
    destinations: BTreeMap<BackupDestinationId, BackupDestination>,
    tenants: BTreeMap<TenantId, Tenant>,
    points: BTreeMap<RecoveryPointId, String>,
    tasks: BTreeMap<TaskId, String>,
}

impl Names {
    /// Reads what these objects refer to.
    pub(crate) async fn of<'a, T: Refers + 'a>(
        portolan: &Portolan,
        caller: &Caller,
        items: impl IntoIterator<Item = &'a T>,
    ) -> Result<Self, ApiError> {
        let mut wanted = Wanted::default();
        for item in items {
            item.refers(&mut wanted);
        }
        Ok(Self {
            platforms: by_id(portolan, caller, wanted.platforms).await?,
            hosts: by_id(portolan, caller, wanted.hosts).await?,
            clusters: by_id(portolan, caller, wanted.clusters).await?,
            datastores: by_id(portolan, caller, wanted.datastores).await?,
            destinations: by_id(portolan, caller, wanted.destinations).await?,
            tenants: by_id(portolan, caller, wanted.tenants).await?,
            points: points(portolan, caller, wanted.points).await?,
            tasks: tasks(portolan, caller, wanted.tasks).await?,
        })
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

    /// The platform's own id of a storage, which restores name.
    pub(crate) fn storage_uuid(&self, id: DatastoreId) -> Option<String> {
        self.datastores.get(&id).map(|d| d.external.native_id.clone())
    }

    /// A backup destination.
    pub(crate) fn destination(&self, id: BackupDestinationId) -> NameAndGuid {
        NameAndGuid::new(id, self.destinations.get(&id).map_or_else(String::new, |d| d.name.to_string()))
    }

    /// Where a backup destination's data lies; nothing for one that is gone.
    pub(crate) fn destination_kind(&self, id: BackupDestinationId) -> Option<&str> {
        self.destinations.get(&id).map(|d| d.kind.as_str())
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

    /// A backup that another one came after; nothing when its row is gone.
    pub(crate) fn parent_backup(&self, id: RecoveryPointId) -> Option<NameAndGuid> {
        self.points.get(&id).map(|name| NameAndGuid::new(id, name.clone()))
    }

    /// A task that led to another one, called by what it does; nothing when history has forgotten it.
    pub(crate) fn parent_task(&self, id: TaskId) -> Option<NameAndGuid> {
        self.tasks.get(&id).map(|kind| NameAndGuid::new(id, crate::wire::task::kind_word(kind).description))
    }
}

async fn by_id<R: Record>(
    portolan: &Portolan,
    caller: &Caller,
    wanted: BTreeSet<R::Id>,
) -> Result<BTreeMap<R::Id, R>, ApiError> {
    let wanted: Vec<R::Id> = wanted.into_iter().collect();
    let mut found = BTreeMap::new();
    for some in wanted.chunks(AT_ONCE) {
        let query = Query::matching(Filter::any("id", some.iter().map(|id| id.uuid())));
        let page = portolan.inventory.read::<R>(caller, query).await?;
        found.extend(page.items.into_iter().map(|s| (s.value.id(), s.value)));
    }
    Ok(found)
}

async fn points(
    portolan: &Portolan,
    caller: &Caller,
    wanted: BTreeSet<RecoveryPointId>,
) -> Result<BTreeMap<RecoveryPointId, String>, ApiError> {
    let wanted: Vec<_> = wanted.into_iter().collect();
    let mut found = BTreeMap::new();
    for some in wanted.chunks(AT_ONCE) {
        let filter = Filter::any("id", some.iter().map(|id| id.uuid()));
        let (views, _) = portolan.protect.points(caller, PointQuery { filter, ..PointQuery::default() }).await?;
        found.extend(views.into_iter().map(|v| (v.point.id, v.point.name)));
    }
    Ok(found)
}

async fn tasks(
    portolan: &Portolan,
    caller: &Caller,
    wanted: BTreeSet<TaskId>,
) -> Result<BTreeMap<TaskId, String>, ApiError> {
    let wanted: Vec<_> = wanted.into_iter().collect();
    let mut found = BTreeMap::new();
    for some in wanted.chunks(AT_ONCE) {
        let filter = Filter::any("id", some.iter().map(|id| id.uuid()));
        let page = portolan.protect.tasks(caller, TaskQuery { filter, ..TaskQuery::default() }).await?;
        found.extend(page.tasks.into_iter().map(|t| (t.new.id, t.new.kind)));
    }
    Ok(found)
}

/// What kind of manager clients are told a platform is. With this one they offer everything that Portolan does
/// (section 3).
pub(crate) fn manager_type() -> EnumNameAndDescription {
    ManagerType::Rhv.described()
}
