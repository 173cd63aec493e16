//! Who holds which node.
//!
//! Every node of a cloud can be held. A hold has a number of its own, given when the node is first asked about and
//! never given again.

use super::known::{ROUNDS, node_of, raced};
use super::stop::{NodeChoice, StopPayload};
use super::wait::{Asked, Waiting, node_task, outcome};
use crate::error::InventoryError;
use crate::service::Inventory;
use portolan_driver::{CloudNode, NodeRef};
use portolan_model::dialect::libcloud::NodeState;
use portolan_model::dialect::orchestrator::AssignmentStatus;
use portolan_model::query::Filter;
use portolan_model::*;
use portolan_storage::{Kind, Query, Require, Setting, StorageExt, Stored, UnitOfWork};
use portolan_tasks::TaskStoreExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The setting that holds the next number.
const NUMBERS: &str = "assignment-numbers";
/// How many holds one unit makes.
const BATCH: usize = 200;

/// A node to give to a user.
#[derive(Debug, Clone, PartialEq)]
pub struct AssignNode {
    /// The cloud.
    pub cloud: PlatformId,
    /// Which node: the one that has both, where id and name are given.
    pub choice: NodeChoice,
    /// Who holds it.
    pub user: String,
    /// What it is used as.
    pub vm_type: String,
}

/// A node to take back, and to destroy after a while.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseNode {
    /// The cloud.
    pub cloud: PlatformId,
    /// Which node: the one that has both, where id and name are given.
    pub choice: NodeChoice,
    /// How long the caller waits, beside the while.
    pub within: Duration,
}

/// What became of a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The hold's number.
    pub number: i64,
    /// The provider's id of the node.
    pub node: String,
    /// What was done, for people.
    pub result: String,
}

/// A node that can be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignmentView {
    /// The hold's number.
    pub number: i64,
    /// The provider's id of the node.
    pub node: String,
    /// The node's name.
    pub vm_name: String,
    /// Whether it is taken.
    pub status: AssignmentStatus,
    /// Who holds it; empty for nobody.
    pub user: String,
    /// What it is used as; empty for nothing in particular.
    pub vm_type: String,
}

/// A node with its hold.
struct Held {
    node: NodeRef,
    name: String,
    /// Whether it is in a state to be used, as far as is known.
    usable: bool,
    hold: Stored<Assignment>,
}

impl Held {
    fn new(node: &CloudNode, hold: Stored<Assignment>) -> Self {
        let usable = !matches!(node.state, NodeState::Error | NodeState::Unknown | NodeState::Terminated);
        Self { node: node.reference(), name: node.name.clone(), usable, hold }
    }

    /// Whether all that was said of the wanted node is so.
    fn is(&self, choice: &NodeChoice) -> bool {
        let fits = |wish: &Option<String>, what: &str| wish.as_deref().is_none_or(|wish| wish == what);
        let said = choice.id.is_some() || choice.name.is_some();
        said && fits(&choice.id, &self.node.id) && fits(&choice.name, &self.name)
    }

    /// A node in no state to be used is faulty, whoever holds it.
    fn status(&self) -> AssignmentStatus {
        if self.usable { self.hold.status } else { AssignmentStatus::Faulty }
    }
}

impl Inventory {
    /// The nodes of a cloud with who holds them, faulty ones left out. While the cloud does not answer, those that
    /// were asked about before.
    pub async fn assignments(&self, caller: &Caller, cloud: PlatformId) -> Result<Vec<AssignmentView>, InventoryError> {
        caller.require(Privilege::InventoryRead)?;
        let held = self.held_nodes(caller.scope, cloud).await?;
        let usable = held.into_iter().filter(|h| h.status() != AssignmentStatus::Faulty);
        Ok(usable
            .map(|h| AssignmentView {
                number: h.hold.number,
                status: h.status(),
                user: h.hold.user.clone(),
                vm_type: h.hold.vm_type.clone(),
                node: h.node.id,
                vm_name: h.name,
            })
            .collect())
    }

    /// Gives a free node to a user. `Refused` when it is taken or faulty. Nothing is done to the node, so the cloud
    /// need not answer where the node was asked about before.
    pub async fn assign_node(&self, caller: &Caller, wish: AssignNode) -> Result<Assigned, InventoryError> {
        caller.require(Privilege::InventoryWrite)?;
        for _ in 0..ROUNDS {
            let Held { node, mut hold, .. } = self
                .chosen(caller.scope, wish.cloud, &wish.choice, |held| {
                    let text = match held.status() {
                        AssignmentStatus::Free => return Ok(()),
                        AssignmentStatus::Assigned => format!("Node {} is already assigned", held.node.id),
                        AssignmentStatus::Faulty => format!("Node {} is faulty", held.node.id),
                    };
                    Err(InventoryError::Refused(text))
                })
                .await?;
            let now = self.clock.now();
            hold.status = AssignmentStatus::Assigned;
            hold.user.clone_from(&wish.user);
            hold.vm_type.clone_from(&wish.vm_type);
            hold.changed = now;
            let data = serde_json::json!({ "node": node.id, "user": wish.user, "vm_type": wish.vm_type });
            let unit = UnitOfWork::new().update(&hold);
            let unit = unit.event_by(&caller.login, "node.assigned", hold.tenant, hold.vm.uuid(), data);
            match self.storage.apply(now, Scope::All, unit).await {
                Ok(_) => {
                    let result = format!("Node {} assigned", node.id);
                    return Ok(Assigned { number: hold.number, node: node.id, result });
                }
                Err(e) if raced(&e) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(InventoryError::Conflict("others change the node all the time".into()))
    }

    /// Takes a node back from its user, destroys it after the delay that the rules name, and waits for that.
    /// `Refused` when nobody holds it; `Gone` when the cloud has it no more: then its hold ends at once.
    /// `StillRunning` when the time to wait is over.
    pub async fn release_node(&self, caller: &Caller, wish: ReleaseNode) -> Result<Assigned, InventoryError> {
        caller.require(Privilege::InventoryWrite)?;
        self.cloud_driver(wish.cloud)?;
        let (id, name) = (wish.choice.id.as_deref(), wish.choice.name.as_deref());
        let parts = [&wish.cloud.to_string(), &format!("{id:?}"), &format!("{name:?}")];
        let asked = Asked::new(caller, task_kind::NODE_RELEASE, &parts.map(String::as_str));
        let make = || async {
            let held = self.chosen(caller.scope, wish.cloud, &wish.choice, |held| match held.hold.status {
                AssignmentStatus::Assigned => Ok(()),
                _ => Err(InventoryError::Refused(format!("Node {} is not assigned", held.node.id))),
            });
            let Held { node, name, mut hold, .. } = match held.await {
                Err(InventoryError::Unknown { what: "node", id }) => {
                    return Err(self.end_vanished(caller, wish.cloud, &wish.choice, id).await?);
                }
                held => held?,
            };
            if let Some(task) = hold.releasing
                && self.storage.task(Scope::All, task).await.is_ok_and(|t| !t.state.is_terminal())
            {
                return Err(InventoryError::Refused(format!("Node {} is being released", node.id)));
            }
            let id = self.task_id(caller, task_kind::NODE_RELEASE);
            let payload = StopPayload { cloud: wish.cloud, node, assignment: Some(hold.id) };
            let payload = serde_json::to_value(payload).map_err(|e| InventoryError::Invalid(e.to_string()))?;
            let mut task = node_task(self, caller, task_kind::NODE_RELEASE, id, wish.cloud, payload);
            task.tenant = hold.tenant;
            task.run_at = task.run_at + self.rules.release_delay;
            task.deadline = task.deadline.map(|end| end + self.rules.release_delay);
            task.links.vm = Some(hold.vm);
            task.links.vm_name = name;
            task.links.note = serde_json::json!({ "number": hold.number });
            hold.releasing = Some(id);
            hold.changed = self.clock.now();
            Ok((UnitOfWork::new().update(&hold).enqueue(task), id))
        };
        let waits = Waiting { asking: wish.within, in_all: self.rules.release_delay + wish.within };
        let task = self.run_owed(asked, waits, make).await?;
        let number = task.new.links.note["number"].as_i64().unwrap_or_default();
        let node = task.new.payload["node"]["id"].as_str().unwrap_or_default().to_owned();
        outcome(task)?;
        Ok(Assigned { number, result: format!("Node {node} released and deleted"), node })
    }

    /// Ends the hold on a node that the cloud has no more, and says what there is to say.
    async fn end_vanished(
        &self,
        caller: &Caller,
        cloud: PlatformId,
        choice: &NodeChoice,
        id: String,
    ) -> Result<InventoryError, InventoryError> {
        for _ in 0..ROUNDS {
            // What the cloud has under another name by now is not gone.
            let there = self.visible_nodes(caller.scope, cloud).await?;
            let gone = |h: &Held| !there.iter().any(|node| node.reference() == h.node);
            let mut known = self.known_holds(caller.scope, cloud, false).await?.into_iter();
            let held = known.find(|h| h.hold.status == AssignmentStatus::Assigned && h.is(choice) && gone(h));
            let Some(held) = held else { return Ok(InventoryError::Unknown { what: "node", id }) };
            let data = serde_json::json!({ "node": held.node.id, "gone": true });
            let version = Require::Version(Kind::Assignment, held.hold.id.uuid(), held.hold.version);
            let unit = UnitOfWork::new().require(version).delete::<Assignment>(held.hold.id);
            let unit = unit.event_by(&caller.login, "node.released", held.hold.tenant, held.hold.vm.uuid(), data);
            match self.storage.apply(self.clock.now(), Scope::All, unit).await {
                Ok(_) => return Ok(InventoryError::Gone { what: "node", id: held.node.id }),
                Err(e) if raced(&e) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(InventoryError::Conflict("others change the node all the time".into()))
    }

    /// The node that is meant and passes the check, with its hold.
    async fn chosen(
        &self,
        scope: Scope,
        cloud: PlatformId,
        choice: &NodeChoice,
        check: impl Fn(&Held) -> Result<(), InventoryError> + Send,
    ) -> Result<Held, InventoryError> {
        let held = self.held_nodes(scope, cloud).await?;
        let found = held.into_iter().find(|h| h.is(choice));
        let found = found.ok_or_else(|| InventoryError::Unknown { what: "node", id: choice.words() })?;
        check(&found)?;
        Ok(found)
    }

    /// The nodes that the scope sees, each with its hold: one that was never asked about gets one.
    async fn held_nodes(&self, scope: Scope, cloud: PlatformId) -> Result<Vec<Held>, InventoryError> {
        let nodes = match self.visible_nodes(scope, cloud).await {
            Err(InventoryError::Cloud(error)) => {
                tracing::warn!(%error, %cloud, "the cloud does not answer: holds are told from what is known");
                return self.known_holds(scope, cloud, true).await;
            }
            nodes => nodes?,
        };
        for _ in 0..ROUNDS {
            let holds = self.holds_of(cloud).await?;
            let missing: Vec<&CloudNode> =
                nodes.iter().map(|n| &**n).filter(|n| !holds.contains_key(&n.reference())).collect();
            if missing.is_empty() {
                let with = |node: &Arc<CloudNode>| Some(Held::new(node, holds.get(&node.reference())?.clone()));
                return Ok(nodes.iter().filter_map(with).collect());
            }
            for some in missing.chunks(BATCH) {
                match self.make_holds(cloud, some).await {
                    Ok(()) => {}
                    // Others do the same at the same time.
                    Err(InventoryError::Store(e)) if raced(&e) => break,
                    Err(InventoryError::Conflict(_)) => break,
                    Err(e) => return Err(e),
                }
            }
        }
        Err(InventoryError::Conflict("others change the nodes all the time".into()))
    }

    /// The holds that the scope sees, without asking the cloud: of all nodes that ever were, or of those only that
    /// were `present` when it was last listed.
    async fn known_holds(&self, scope: Scope, cloud: PlatformId, present: bool) -> Result<Vec<Held>, InventoryError> {
        let holds = self.holds_of(cloud).await?;
        let machines = self.machines_of(scope, cloud).await?;
        let known = |(node, hold): (NodeRef, Stored<Assignment>)| {
            let there = machines.get(&node).is_some_and(|vm| vm.observed.present || !present);
            there.then(|| Held { name: hold.vm_name.clone(), usable: true, node, hold })
        };
        let mut known: Vec<Held> = holds.into_iter().filter_map(known).collect();
        known.sort_by_key(|held| held.hold.number);
        Ok(known)
    }

    /// Every hold on a node of the cloud.
    async fn holds_of(&self, cloud: PlatformId) -> Result<BTreeMap<NodeRef, Stored<Assignment>>, InventoryError> {
        let of = || Query::matching(Filter::eq("platform", cloud.uuid()));
        let holds = self.storage.list_of::<Assignment>(Scope::All, of()).await?.items;
        let machines = self.storage.list_of::<VirtualMachine>(Scope::All, of()).await?.items;
        let nodes: BTreeMap<VmId, NodeRef> = machines.iter().map(|vm| (vm.id, node_of(vm))).collect();
        Ok(holds.into_iter().filter_map(|hold| Some((nodes.get(&hold.vm)?.clone(), hold))).collect())
    }

    /// Makes free holds for nodes, in one unit with the machines that they are and the numbers that they take.
    async fn make_holds(&self, cloud: PlatformId, nodes: &[&CloudNode]) -> Result<(), InventoryError> {
        let platform = self.storage.fetch::<Platform>(Scope::All, cloud).await?;
        let info = self.cloud_driver(cloud)?.info();
        let now = self.clock.now();
        let mut numbers = match self.storage.find::<Setting>(Scope::All, Setting::id_of(NUMBERS)).await? {
            Some(there) => there,
            None => Stored { version: 0, value: Setting::new(NUMBERS, serde_json::json!(1)) },
        };
        let mut next = numbers.value.value.as_i64().unwrap_or(1);
        let mut unit = UnitOfWork::new();
        for node in nodes {
            let (with, vm) = self.note_node_in(unit, &platform, &info, node, None).await?;
            unit = with.create(&Assignment {
                id: AssignmentId::from_uuid(self.ids.uuid()),
                number: next,
                vm: vm.id,
                vm_name: node.name.clone(),
                platform: cloud,
                status: AssignmentStatus::Free,
                user: String::new(),
                vm_type: String::new(),
                releasing: None,
                tenant: vm.settings.tenant,
                created: now,
                changed: now,
            });
            next += 1;
        }
        numbers.value.value = serde_json::json!(next);
        self.storage.apply(now, Scope::All, unit.update(&numbers)).await?;
        Ok(())
    }
}
