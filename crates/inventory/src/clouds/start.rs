//! The request for a node.

use super::wait::{Asked, Waiting, node_task, outcome};
use crate::error::InventoryError;
use crate::service::Inventory;
use portolan_driver::{CloudDriverExt, CloudNode, Extra};
use portolan_model::*;
use portolan_storage::UnitOfWork;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A node to make.
#[derive(Debug, Clone, PartialEq)]
pub struct StartNode {
    /// The cloud.
    pub cloud: PlatformId,
    /// The node's name; some providers choose their own.
    pub name: String,
    /// Id of the image.
    pub image: String,
    /// Id of the size.
    pub size: String,
    /// The name of a key pair that the provider has.
    pub key_pair: Option<String>,
    /// What the provider keeps with the node, in the caller's words.
    pub metadata: Extra,
    /// How long the caller waits.
    pub within: Duration,
}

/// What the task knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StartPayload {
    pub(super) cloud: PlatformId,
    pub(super) name: String,
    pub(super) image: String,
    pub(super) size: String,
    #[serde(default)]
    pub(super) key_pair: Option<String>,
    #[serde(default)]
    pub(super) metadata: Extra,
}

/// What the task came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StartOutput {
    pub(super) node: CloudNode,
    pub(super) vm: VmId,
}

impl Inventory {
    /// Makes a node and waits for it to be known to the cloud, not for it to run. `Unknown` for an image or a size
    /// that the cloud does not have. `StillRunning` when the time to wait is over: the task goes on, and an equal
    /// request gets the same node.
    pub async fn start_node(&self, caller: &Caller, wish: StartNode) -> Result<CloudNode, InventoryError> {
        caller.require(Privilege::InventoryWrite)?;
        let driver = self.cloud_driver(wish.cloud)?;
        let name = Name::new(&wish.name).map_err(|e| InventoryError::Invalid(e.to_string()))?;
        let payload = StartPayload {
            cloud: wish.cloud,
            // To the letter: what surrounds it with blanks may mean them.
            name: wish.name,
            image: wish.image,
            size: wish.size,
            key_pair: wish.key_pair,
            metadata: wish.metadata,
        };
        let json = serde_json::to_value(&payload).map_err(|e| InventoryError::Invalid(e.to_string()))?;
        let asked = Asked::new(caller, task_kind::NODE_START, &[&json.to_string()]);
        let make = || async {
            if !driver.images(None).await?.iter().any(|i| i.id == payload.image) {
                return Err(InventoryError::Unknown { what: "image", id: payload.image.clone() });
            }
            if !driver.sizes(None).await?.iter().any(|s| s.id == payload.size) {
                return Err(InventoryError::Unknown { what: "size", id: payload.size.clone() });
            }
            let id = self.task_id(caller, task_kind::NODE_START);
            let mut task = node_task(self, caller, task_kind::NODE_START, id, wish.cloud, json);
            task.links.vm_name = name.to_string();
            Ok((UnitOfWork::new().enqueue(task), id))
        };
        let task = self.run_owed(asked, Waiting::of(wish.within), make).await?;
        let output: StartOutput = serde_json::from_value(outcome(task)?)
            .map_err(|e| InventoryError::Failed(format!("what the task came to cannot be read: {e}")))?;
        Ok(output.node)
    }
}
