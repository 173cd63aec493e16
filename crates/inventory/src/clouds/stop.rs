//! The request to destroy a node.

use super::wait::{Asked, Waiting, node_task, outcome};
use crate::error::InventoryError;
use crate::service::Inventory;
use portolan_driver::{CloudNode, NodeRef};
use portolan_model::*;
use portolan_storage::UnitOfWork;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// A node by its id, its name, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeChoice {
    /// The provider's id.
    pub id: Option<String>,
    /// Its name.
    pub name: Option<String>,
}

impl NodeChoice {
    /// The first node, in the cloud's order, that has the id or the name.
    pub(super) fn find<'a>(&self, nodes: &'a [Arc<CloudNode>]) -> Option<&'a CloudNode> {
        let is = |wish: &Option<String>, what: &str| wish.as_deref() == Some(what);
        nodes.iter().map(|n| &**n).find(|n| is(&self.id, &n.id) || is(&self.name, &n.name))
    }

    /// What was asked for, for people.
    pub(super) fn words(&self) -> String {
        self.id.clone().or_else(|| self.name.clone()).unwrap_or_default()
    }
}

/// A node to destroy.
#[derive(Debug, Clone, PartialEq)]
pub struct StopNode {
    /// The cloud.
    pub cloud: PlatformId,
    /// Which node: the first that has the id or the name.
    pub choice: NodeChoice,
    /// How long the caller waits.
    pub within: Duration,
}

/// What the tasks that destroy a node know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StopPayload {
    pub(super) cloud: PlatformId,
    pub(super) node: NodeRef,
    /// The hold on the node that ends with it.
    #[serde(default)]
    pub(super) assignment: Option<AssignmentId>,
}

/// What they came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StopOutput {
    pub(super) node: String,
}

impl Inventory {
    /// Destroys a node with all that is on it, and waits for that; answers its id. `Unknown` when the cloud has no
    /// such node, or not for this caller. `StillRunning` when the time to wait is over: the task goes on, and an
    /// equal request waits for it.
    pub async fn stop_node(&self, caller: &Caller, wish: StopNode) -> Result<String, InventoryError> {
        caller.require(Privilege::InventoryWrite)?;
        self.cloud_driver(wish.cloud)?;
        let (id, name) = (wish.choice.id.as_deref(), wish.choice.name.as_deref());
        let parts = [&wish.cloud.to_string(), &format!("{id:?}"), &format!("{name:?}")];
        let asked = Asked::new(caller, task_kind::NODE_STOP, &parts.map(String::as_str));
        let make = || async {
            let nodes = self.visible_nodes(caller.scope, wish.cloud).await?;
            let unknown = || InventoryError::Unknown { what: "node", id: wish.choice.words() };
            let node = wish.choice.find(&nodes).ok_or_else(unknown)?;
            let vm = self.machine_of(wish.cloud, &node.reference()).await?;
            let payload = StopPayload { cloud: wish.cloud, node: node.reference(), assignment: None };
            let payload = serde_json::to_value(payload).map_err(|e| InventoryError::Invalid(e.to_string()))?;
            let id = self.task_id(caller, task_kind::NODE_STOP);
            let mut task = node_task(self, caller, task_kind::NODE_STOP, id, wish.cloud, payload);
            task.links.vm = vm.map(|vm| vm.id);
            task.links.vm_name.clone_from(&node.name);
            Ok((UnitOfWork::new().enqueue(task), id))
        };
        let task = self.run_owed(asked, Waiting::of(wish.within), make).await?;
        let output: StopOutput = serde_json::from_value(outcome(task)?)
            .map_err(|e| InventoryError::Failed(format!("what the task came to cannot be read: {e}")))?;
        Ok(output.node)
    }
}
