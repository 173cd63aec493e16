//! What operators see and do of tasks, and of the whole.

use crate::facade::Portolan;
use crate::registry::{DestinationView, PlatformView, RegistryError};
use portolan_model::describe::Describe;
use portolan_model::query::{Direction, Filter, Page, Sort};
use portolan_model::*;
use portolan_storage::StorageExt;
use portolan_tasks::{CancelReply, Json, Task, TaskQuery};

/// Which tasks an operator wants to see: those that fit everything that is asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskFilter {
    /// In one of these states; none for every state.
    pub states: Vec<TaskState>,
    /// Of one of these kinds; none for every kind.
    pub kinds: Vec<String>,
    /// Links of this chain.
    pub chain: Option<ChainId>,
    /// On this platform.
    pub platform: Option<PlatformId>,
    /// About this machine.
    pub vm: Option<VmId>,
}

/// A task with the outputs that its steps recorded, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskDetail {
    /// The task.
    pub task: Task,
    /// Its steps.
    pub steps: Vec<(String, Json)>,
}

/// How everything is.
#[derive(Debug, Clone, PartialEq)]
pub struct Overview {
    /// Tasks that have not ended, by the names of their states.
    pub tasks: Vec<(String, u64)>,
    /// The platforms.
    pub platforms: Vec<PlatformView>,
    /// The destinations.
    pub destinations: Vec<DestinationView>,
}

impl Portolan {
    /// Tasks, newest first, with their number. Those that clean up behind the scenes are shown to callers who see
    /// every tenant.
    pub async fn list_tasks(
        &self,
        caller: &Caller,
        filter: &TaskFilter,
        page: Page,
    ) -> Result<(Vec<Task>, u64), RegistryError> {
        caller.require(Privilege::BackupRead)?;
        let mut wanted = shown_to(caller);
        if !filter.states.is_empty() {
            wanted = wanted.and(Filter::any("state", filter.states.iter().map(|s| s.name())));
        }
        if !filter.kinds.is_empty() {
            wanted = wanted.and(Filter::any("kind", filter.kinds.iter().map(String::as_str)));
        }
        let links = [
            ("chain", filter.chain.map(ChainId::uuid)),
            ("platform", filter.platform.map(PlatformId::uuid)),
            ("vm", filter.vm.map(VmId::uuid)),
        ];
        for (field, id) in links.into_iter().filter_map(|(field, id)| Some((field, id?))) {
            wanted = wanted.and(Filter::eq(field, id));
        }
        let sort = Sort { field: Some("created".into()), direction: Direction::Descending };
        let query = TaskQuery { filter: wanted, sort, page, count: true };
        let page = self.storage.query(caller.scope, &query).await?;
        Ok((page.tasks, page.total.unwrap_or(0)))
    }

    /// One task with its steps.
    pub async fn show_task(&self, caller: &Caller, id: TaskId) -> Result<TaskDetail, RegistryError> {
        caller.require(Privilege::BackupRead)?;
        let task = self.task_for(caller, id).await?;
        Ok(TaskDetail { task, steps: self.storage.steps(id).await? })
    }

    /// Cancels a task that waits, asks a running one to stop, and shows it as it is then. `Conflict` for one that has
    /// ended, or that cleans up behind the scenes.
    pub async fn cancel_task(&self, caller: &Caller, id: TaskId) -> Result<TaskDetail, RegistryError> {
        caller.require(Privilege::TaskWrite)?;
        let task = self.task_for(caller, id).await?;
        if task_kind::INTERNAL.contains(&task.new.kind.as_str()) {
            return Err(RegistryError::Conflict("what cleans up cannot be cancelled".into()));
        }
        let reason = format!("cancelled by {}", caller.login);
        match self.storage.cancel(self.now(), caller.scope, id, &reason).await? {
            CancelReply::Cancelled | CancelReply::Requested => {
                self.note_task(caller, "task.cancelled", &task).await?;
                self.show_task(caller, id).await
            }
            CancelReply::AlreadyEnded => Err(RegistryError::Conflict("the task has ended already".into())),
        }
    }

    /// Tasks by state, platforms and destinations.
    pub async fn overview(&self, caller: &Caller) -> Result<Overview, RegistryError> {
        caller.require(Privilege::InventoryRead)?;
        caller.require(Privilege::BackupRead)?;
        let tasks = match caller.scope {
            Scope::All => self.storage.stats(self.now()).await?.live,
            // The counters are of all tenants; these are few.
            Scope::Tenant(_) => {
                let mut counts = Vec::new();
                for (state, name, _) in TaskState::TABLE.iter().filter(|row| !row.0.is_terminal()) {
                    let filter = TaskFilter { states: vec![*state], ..TaskFilter::default() };
                    counts.push(((*name).to_owned(), self.list_tasks(caller, &filter, Page::first(1)).await?.1));
                }
                counts
            }
        };
        let (platforms, _) = self.registry.platforms(caller, Page::ALL).await?;
        let (destinations, _) = self.registry.destinations(caller, Page::ALL).await?;
        Ok(Overview { tasks, platforms, destinations })
    }

    async fn task_for(&self, caller: &Caller, id: TaskId) -> Result<Task, RegistryError> {
        let filter = shown_to(caller).and(Filter::eq("id", id.uuid()));
        let query = TaskQuery { filter, page: Page::first(1), ..TaskQuery::default() };
        let found = self.storage.query(caller.scope, &query).await?.tasks.pop();
        found.ok_or_else(|| RegistryError::missing("task", id))
    }

    /// Leaves word of what somebody did to a task.
    pub(crate) async fn note_task(&self, caller: &Caller, what: &str, task: &Task) -> Result<(), RegistryError> {
        let data = serde_json::json!({ "kind": task.new.kind });
        let unit = portolan_storage::UnitOfWork::new();
        let unit = unit.event_by(&caller.login, what, task.new.tenant, task.new.id.uuid(), data);
        self.storage.apply_all(self.now(), unit).await?;
        Ok(())
    }
}

/// What cleans up behind the scenes is for operators of the whole alone.
fn shown_to(caller: &Caller) -> Filter {
    match caller.scope {
        Scope::All => Filter::All,
        Scope::Tenant(_) => Filter::Not(Box::new(Filter::any("kind", task_kind::INTERNAL.iter().copied()))),
    }
}
