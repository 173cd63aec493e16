//! What is done with machines on hypervisors: their power and their snapshots, each a durable task.

use crate::error::InventoryError;
use crate::service::{Inventory, user_origin};
use portolan_driver::{MachineSnapshot, PowerAction};
use portolan_model::query::{Filter, Page};
use portolan_model::*;
use portolan_storage::{Query, StorageExt};
use portolan_tasks::{Limit, NewTask, Task, TaskLinks, TaskQuery};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a task may wait to be started.
const WINDOW: Duration = Duration::from_secs(3600);
/// The longest that a machine may take to shut down.
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(24 * 3600);
/// How often a task is tried that may be repeated.
const ATTEMPTS: i32 = 5;

/// A snapshot to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// The machine.
    pub vm: VmId,
    /// Its name, for people; several of one name may lie beside each other.
    pub name: Name,
    /// Whether the memory of the machine, which must run, is kept too.
    pub memory: bool,
}

/// What a task on a machine is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MachineWork {
    /// Turn it on or off.
    Power(PowerWish),
    /// Make a snapshot.
    Snapshot { name: String, memory: bool },
    /// Make its disks what they were.
    Revert { snapshot: String },
    /// Delete a snapshot.
    Remove { snapshot: String },
    /// Bring its disks to the datastore of this native id.
    Move { datastore: String },
}

/// A [`PowerAction`] as a task keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PowerWish {
    Start,
    Shutdown { within_ms: u64 },
    Off,
    Reboot,
    Reset,
}

impl From<PowerAction> for PowerWish {
    fn from(action: PowerAction) -> Self {
        match action {
            PowerAction::Start => Self::Start,
            PowerAction::Shutdown { within } => {
                Self::Shutdown { within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX) }
            }
            PowerAction::Off => Self::Off,
            PowerAction::Reboot => Self::Reboot,
            PowerAction::Reset => Self::Reset,
        }
    }
}

impl From<PowerWish> for PowerAction {
    fn from(wish: PowerWish) -> Self {
        match wish {
            PowerWish::Start => Self::Start,
            PowerWish::Shutdown { within_ms } => Self::Shutdown { within: Duration::from_millis(within_ms) },
            PowerWish::Off => Self::Off,
            PowerWish::Reboot => Self::Reboot,
            PowerWish::Reset => Self::Reset,
        }
    }
}

/// What the task of a machine knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachinePayload {
    pub(crate) vm: VmId,
    pub(crate) work: MachineWork,
}

impl MachineWork {
    fn kind(&self) -> &'static str {
        match self {
            Self::Power(_) => task_kind::POWER,
            Self::Snapshot { .. } => task_kind::SNAPSHOT,
            Self::Revert { .. } => task_kind::SNAPSHOT_REVERSION,
            Self::Remove { .. } => task_kind::SNAPSHOT_REMOVAL,
            Self::Move { .. } => task_kind::MOVE,
        }
    }

    /// Whether doing it a second time changes nothing.
    fn may_repeat(&self) -> bool {
        !matches!(self, Self::Power(PowerWish::Reboot | PowerWish::Reset))
    }
}

impl Inventory {
    /// Turns a machine on or off, as a task that ends when it is done.
    pub async fn power(&self, caller: &Caller, vm: VmId, action: PowerAction) -> Result<Task, InventoryError> {
        if let PowerAction::Shutdown { within } = action
            && !(Duration::from_secs(1)..=LONGEST_SHUTDOWN).contains(&within)
        {
            let text = "a machine is given from one second to a day to shut down";
            return Err(InventoryError::Invalid(text.into()));
        }
        self.begin_work(caller, vm, MachineWork::Power(action.into())).await
    }

    /// Makes a snapshot of a machine, as a task whose output names it.
    pub async fn snapshot(&self, caller: &Caller, new: NewSnapshot) -> Result<Task, InventoryError> {
        let work = MachineWork::Snapshot { name: new.name.to_string(), memory: new.memory };
        self.begin_work(caller, new.vm, work).await
    }

    /// A machine's snapshots as its platform has them, the oldest first.
    pub async fn snapshots(&self, caller: &Caller, vm: VmId) -> Result<Vec<MachineSnapshot>, InventoryError> {
        caller.require(Privilege::InventoryRead)?;
        let vm = self.storage.fetch::<VirtualMachine>(caller.scope, vm).await?.value;
        let driver = self.drivers.hypervisors.get(vm.observed.platform)?;
        Ok(driver.list_snapshots(&vm.external.native_id, &vm.external.incarnation).await?)
    }

    /// Makes a machine's disks what they were at a snapshot, named by the platform's id, as a task. What was written
    /// since is lost.
    pub async fn revert(&self, caller: &Caller, vm: VmId, snapshot: &str) -> Result<Task, InventoryError> {
        self.begin_work(caller, vm, MachineWork::Revert { snapshot: snapshot.to_owned() }).await
    }

    /// Deletes a snapshot, named by the platform's id, as a task. The machine stays as it is.
    pub async fn remove_snapshot(&self, caller: &Caller, vm: VmId, snapshot: &str) -> Result<Task, InventoryError> {
        self.begin_work(caller, vm, MachineWork::Remove { snapshot: snapshot.to_owned() }).await
    }

    /// Brings a machine's disks to another datastore, named by the platform's id, as a task. The machine stays the same,
    /// and one that runs goes on running.
    pub async fn move_machine(&self, caller: &Caller, vm: VmId, datastore: &str) -> Result<Task, InventoryError> {
        self.begin_work(caller, vm, MachineWork::Move { datastore: datastore.to_owned() }).await
    }

    /// Enqueues work on a machine. A request that its sender named is carried out once.
    async fn begin_work(&self, caller: &Caller, vm: VmId, work: MachineWork) -> Result<Task, InventoryError> {
        caller.require(Privilege::InventoryWrite)?;
        let vm = self.storage.fetch::<VirtualMachine>(caller.scope, vm).await?.value;
        if !vm.observed.present {
            return Err(InventoryError::Conflict(format!("the machine '{}' is gone", vm.observed.name)));
        }
        self.check_can(&vm, &work).await?;
        let id = |role: &str| match caller.request {
            Some(request) => request.derive(&format!("{role}:{}", vm.id), 0),
            None => self.ids.uuid(),
        };
        let (now, platform) = (self.clock.now(), vm.observed.platform);
        let links = TaskLinks {
            vm: Some(vm.id),
            vm_name: vm.observed.name.to_string(),
            platform: Some(platform),
            ..TaskLinks::default()
        };
        // Power goes beside a backup; what changes disks does not.
        let turn = if matches!(work, MachineWork::Power(_)) { "power" } else { "vm" };
        let task = NewTask {
            id: TaskId::from_uuid(id("machine.task")),
            kind: work.kind().to_owned(),
            tenant: vm.settings.tenant,
            chain: ChainId::from_uuid(id("machine.chain")),
            priority: 60,
            run_at: now,
            start_by: Some(now + WINDOW),
            deadline: None,
            max_attempts: if work.may_repeat() { ATTEMPTS } else { 1 },
            retries: 0,
            payload: serde_json::to_value(MachinePayload { vm: vm.id, work }).unwrap_or_default(),
            links,
            after: Vec::new(),
            unique_key: None,
            limits: vec![Limit { key: format!("{turn}:{}", vm.id), max: 1 }],
            requires: vec![format!("platform:{platform}")],
            on_failure: None,
            origin: user_origin(caller),
        };
        let task_id = task.id;
        self.storage.enqueue(now, vec![task]).await?;
        let query =
            TaskQuery { filter: Filter::eq("id", task_id.uuid()), page: Page::first(1), ..TaskQuery::default() };
        let task = self.storage.query(caller.scope, &query).await?.tasks.pop();
        task.ok_or_else(|| InventoryError::Failed("the task has been removed already".into()))
    }

    /// Refuses early what the platform has not, or what its driver cannot do. One that is not open here is asked when the
    /// task runs.
    async fn check_can(&self, vm: &VirtualMachine, work: &MachineWork) -> Result<(), InventoryError> {
        if let MachineWork::Move { datastore } = work {
            let there = Filter::eq("platform", vm.observed.platform.uuid()).and(Filter::eq("present", true));
            let there = self.storage.list_of::<Datastore>(Scope::All, Query::matching(there)).await?.items;
            if !there.iter().any(|store| store.external.native_id == *datastore) {
                return Err(InventoryError::Invalid(format!("the platform has no storage '{datastore}'")));
            }
        }
        let Ok(driver) = self.drivers.hypervisors.get(vm.observed.platform) else { return Ok(()) };
        let can = driver.capabilities();
        let (able, what) = match work {
            MachineWork::Power(_) => (can.power, "turns no machines on and off"),
            MachineWork::Move { .. } => (can.moves, "moves no machines"),
            _ => (can.snapshots, "has no snapshots"),
        };
        if able {
            return Ok(());
        }
        Err(InventoryError::Conflict(format!("the platform '{}' {what}", vm.observed.platform_name)))
    }
}
