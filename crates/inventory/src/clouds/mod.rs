//! Clouds: their nodes, images and sizes as they are now; starting, stopping and assigning nodes.
//!
//! What a cloud has is asked of the cloud, never of what was stored. What Portolan adds – whose a node is, who holds
//! it, the work on it – is stored, and joined by the node's id and incarnation.

mod assign;
mod known;
mod release_task;
mod start;
mod start_task;
mod state;
mod stop;
mod stop_task;
mod wait;

pub use assign::{AssignNode, Assigned, AssignmentView, ReleaseNode};
pub use start::StartNode;
pub use state::StoredDriverState;
pub use stop::{NodeChoice, StopNode};
pub(crate) use wait::Waits;

use crate::error::InventoryError;
use crate::service::Inventory;
use portolan_driver::{CloudDriver, CloudDriverExt, CloudError, CloudErrorKind, CloudImage, CloudNode, CloudSize};
use portolan_model::query::Filter;
use portolan_model::*;
use portolan_storage::{Query, StorageExt};
use portolan_tasks::{Handler, TaskFailure};
use std::sync::Arc;
use std::time::Duration;

/// How work on nodes behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloudRules {
    /// How long after a release a node is destroyed.
    pub release_delay: Duration,
    /// How long the work on a node may take in all, retries included.
    pub task_limit: Duration,
    /// Whether no other process uses the same store: then whatever another process was waiting for, it waits no more.
    pub alone: bool,
}

impl Default for CloudRules {
    /// 25 seconds, 10 minutes, not alone.
    fn default() -> Self {
        Self { release_delay: Duration::from_secs(25), task_limit: Duration::from_secs(600), alone: false }
    }
}

/// A cloud that this process can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudView {
    /// The platform.
    pub id: PlatformId,
    /// Its name, unique.
    pub name: String,
    /// The driver's name, `dummy`.
    pub driver: String,
    /// The provider's type, `dummy`, `openstack`.
    pub provider: &'static str,
    /// The provider's name for people.
    pub display_name: &'static str,
    /// The host that its API answers at.
    pub host: String,
}

/// The handlers of the tasks that work on nodes.
pub fn handlers(inventory: &Inventory) -> Vec<Arc<dyn Handler>> {
    vec![
        Arc::new(start_task::StartHandler::new(inventory.clone())),
        Arc::new(stop_task::StopHandler::new(inventory.clone())),
        Arc::new(release_task::ReleaseHandler::new(inventory.clone())),
    ]
}

impl Inventory {
    /// The clouds that this process can reach, by name.
    pub async fn clouds(&self, caller: &Caller) -> Result<Vec<CloudView>, InventoryError> {
        caller.require(Privilege::InventoryRead)?;
        let here = self.drivers.clouds.platforms();
        let mut views: Vec<CloudView> = self
            .storage
            .find_all::<Platform>(caller.scope, &here)
            .await?
            .into_iter()
            .filter(|p| p.enabled)
            .filter_map(|p| Some(view(&p.value, &*self.drivers.clouds.get(p.id).ok()?)))
            .collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(views)
    }

    /// The cloud of that name; `Unknown` when this process reaches none.
    pub async fn cloud_named(&self, caller: &Caller, name: &str) -> Result<CloudView, InventoryError> {
        caller.require(Privilege::InventoryRead)?;
        let unknown = || InventoryError::Unknown { what: "cloud", id: name.to_owned() };
        let key = format!("platform:{}", name.to_lowercase());
        let found = self.platforms.find(caller.scope, &key).await?;
        let platform = found.filter(|p| p.enabled && p.name.as_str() == name).ok_or_else(unknown)?;
        let driver = self.drivers.clouds.get(platform.id).map_err(|_| unknown())?;
        Ok(view(&platform.value, &*driver))
    }

    /// The nodes of a cloud as they are now. A tenant's scope sees the tenant's own.
    pub async fn cloud_nodes(&self, caller: &Caller, cloud: PlatformId) -> Result<Vec<Arc<CloudNode>>, InventoryError> {
        caller.require(Privilege::InventoryRead)?;
        self.visible_nodes(caller.scope, cloud).await
    }

    /// The images of a cloud.
    pub async fn cloud_images(&self, caller: &Caller, cloud: PlatformId) -> Result<Vec<CloudImage>, InventoryError> {
        caller.require(Privilege::InventoryRead)?;
        Ok(self.cloud_driver(cloud)?.images(None).await?)
    }

    /// The sizes of a cloud.
    pub async fn cloud_sizes(&self, caller: &Caller, cloud: PlatformId) -> Result<Vec<CloudSize>, InventoryError> {
        caller.require(Privilege::InventoryRead)?;
        Ok(self.cloud_driver(cloud)?.sizes(None).await?)
    }

    /// The driver of a cloud; `Unknown` when this process has none.
    pub(crate) fn cloud_driver(&self, cloud: PlatformId) -> Result<Arc<dyn CloudDriver>, InventoryError> {
        let unknown = |_| InventoryError::Unknown { what: "cloud", id: cloud.to_string() };
        self.drivers.clouds.get(cloud).map_err(unknown)
    }

    /// The nodes of a cloud that the scope sees, as they are now.
    pub(crate) async fn visible_nodes(
        &self,
        scope: Scope,
        cloud: PlatformId,
    ) -> Result<Vec<Arc<CloudNode>>, InventoryError> {
        let mut nodes = self.cloud_driver(cloud)?.nodes().await?;
        if scope != Scope::All {
            let known = self.machines_of(scope, cloud).await?;
            nodes.retain(|n| known.contains_key(&n.reference()));
        }
        Ok(nodes)
    }

    /// The machines of a cloud that the scope sees, by node.
    async fn machines_of(
        &self,
        scope: Scope,
        cloud: PlatformId,
    ) -> Result<std::collections::BTreeMap<portolan_driver::NodeRef, VirtualMachine>, InventoryError> {
        let query = Query::matching(Filter::eq("platform", cloud.uuid()));
        let machines = self.storage.list_of::<VirtualMachine>(scope, query).await?.items;
        Ok(machines.into_iter().map(|vm| (known::node_of(&vm), vm.value)).collect())
    }
}

fn view(platform: &Platform, driver: &dyn CloudDriver) -> CloudView {
    let info = driver.info();
    CloudView {
        id: platform.id,
        name: platform.name.to_string(),
        driver: platform.driver.clone(),
        provider: info.provider,
        display_name: info.display_name,
        host: info.host,
    }
}

/// What a cloud's failure means for a task. After an answer that was lost the work may have been done all the same.
fn task_failure(e: &CloudError) -> TaskFailure {
    let uncertain = matches!(e.kind, CloudErrorKind::Malformed);
    if e.is_transient() || uncertain {
        TaskFailure { retry_after: e.retry_after, ..TaskFailure::transient(e.to_string()) }
    } else {
        TaskFailure::fatal(e.to_string())
    }
}
