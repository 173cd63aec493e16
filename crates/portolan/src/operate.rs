//! What operators see and do of tasks, what was done by whom, and how the whole is.

use crate::facade::Portolan;
use crate::registry::{DestinationView, PlatformView, RegistryError};
use portolan_model::caller::Denied;
use portolan_model::describe::Describe;
use portolan_model::query::{Direction, Filter, Page, Sort};
use portolan_model::*;
use portolan_storage::{Event, EventQuery, StorageExt};
use portolan_tasks::{CancelReply, DrainSwitch, Json, RetryReply, Task, TaskQuery};
use std::sync::Arc;

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

/// Whether the engine of this process takes on more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainState {
    /// Whether it claims nothing.
    pub draining: bool,
    /// How many tasks it runs.
    pub running: usize,
}

/// A reason is no longer than this many characters.
const MAX_REASON: usize = 500;
/// No more events than this at once.
const MAX_EVENTS: u32 = 1000;

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

    /// Has a task that stopped tried again, and shows what goes on: the task itself where it was stuck or waited for
    /// its next attempt, its copy where it had ended. `Conflict` for one that goes on by itself or has succeeded.
    pub async fn retry_task(&self, caller: &Caller, id: TaskId) -> Result<TaskDetail, RegistryError> {
        caller.require(Privilege::TaskWrite)?;
        let task = self.task_for(caller, id).await?;
        let new_id = caller.request.map_or_else(|| self.ids.uuid(), |key| key.derive("task", 0));
        let reply = self.storage.retry(self.now(), caller.scope, id, TaskId::from_uuid(new_id)).await?;
        self.note_task(caller, "task.retried", &task).await?;
        match reply {
            RetryReply::Copied(copy) => self.show_task(caller, copy).await,
            RetryReply::Undoing | RetryReply::Hastened => self.show_task(caller, id).await,
        }
    }

    /// Gives a stuck task up: it ends as failed, and what it has left behind stays. `Conflict` for any other.
    pub async fn abandon_task(&self, caller: &Caller, id: TaskId, reason: &str) -> Result<TaskDetail, RegistryError> {
        caller.require(Privilege::TaskWrite)?;
        if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
            return Err(RegistryError::Invalid(format!("the reason is not a plain text of {MAX_REASON} characters")));
        }
        let task = self.task_for(caller, id).await?;
        self.storage.abandon(self.now(), caller.scope, id, reason.trim()).await?;
        self.note_task(caller, "task.abandoned", &task).await?;
        self.show_task(caller, id).await
    }

    /// Tells what makes the engine of this process drain: to be called once, by who runs it.
    pub fn operates(&self, engine: Arc<DrainSwitch>) {
        if self.drain.set(engine).is_err() {
            tracing::warn!("this process runs a second engine, which operators cannot drain");
        }
    }

    /// Whether the engine of this process drains.
    pub fn drain_state(&self, caller: &Caller) -> Result<DrainState, RegistryError> {
        caller.require(Privilege::BackupRead)?;
        Ok(state_of(self.engine_drain()?))
    }

    /// Has the engine of this process claim nothing more, or claim again. What runs goes on to its end. A process that
    /// starts again claims.
    pub async fn set_drain(&self, caller: &Caller, draining: bool) -> Result<DrainState, RegistryError> {
        caller.require(Privilege::TaskWrite)?;
        if caller.scope != Scope::All {
            return Err(Denied { privilege: Privilege::TaskWrite }.into());
        }
        let switch = self.engine_drain()?;
        if switch.is_draining() != draining {
            let (what, unit) =
                (if draining { "tasks.drained" } else { "tasks.resumed" }, portolan_storage::UnitOfWork::new());
            let subject = self.ids.uuid();
            let unit = unit.event_by(&caller.login, what, None, subject, serde_json::json!({}));
            self.storage.apply_all(self.now(), unit).await?;
        }
        if draining {
            switch.start()
        } else {
            switch.end()
        }
        Ok(state_of(switch))
    }

    /// Who did what, newest first.
    pub async fn audit(&self, caller: &Caller, query: EventQuery) -> Result<Vec<Event>, RegistryError> {
        caller.require(Privilege::AuditRead)?;
        let query = EventQuery { limit: query.limit.min(MAX_EVENTS), ..query };
        Ok(self.storage.find_events(caller.scope, &query).await?)
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

    fn engine_drain(&self) -> Result<&DrainSwitch, RegistryError> {
        let none = || RegistryError::Conflict("this process runs no tasks".into());
        self.drain.get().map(Arc::as_ref).ok_or_else(none)
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

fn state_of(switch: &DrainSwitch) -> DrainState {
    DrainState { draining: switch.is_draining(), running: switch.running() }
}

/// What cleans up behind the scenes is for operators of the whole alone.
fn shown_to(caller: &Caller) -> Filter {
    match caller.scope {
        Scope::All => Filter::All,
        Scope::Tenant(_) => Filter::Not(Box::new(Filter::any("kind", task_kind::INTERNAL.iter().copied()))),
    }
}
