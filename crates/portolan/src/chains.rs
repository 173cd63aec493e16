//! Chains of tasks as one piece of work: a backup, a restore, a check, a sync.

use crate::facade::Portolan;
use portolan_model::dialect::vplus::{WorkflowDefinition, WorkflowState};
use portolan_model::query::{Filter, Value};
use portolan_model::*;
use portolan_protect::ProtectError;
use portolan_tasks::{Task, TaskQuery};
use std::collections::BTreeMap;

/// What chains of two links begin with: the second link is there only once the first has ended.
const LINKS_OF_TWO: &[&str] = &[task_kind::EXPORT, task_kind::RESTORE];
/// Chains whose tasks are read in one go.
const BULK: usize = 500;

/// A chain with the tasks that are still in history, oldest first. There is at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct ChainView {
    /// The chain.
    pub id: ChainId,
    /// The task that it began with.
    pub first: Task,
    /// The tasks that followed, oldest first.
    pub rest: Vec<Task>,
}

impl ChainView {
    /// Every task, oldest first.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// What the chain is for.
    pub fn definition(&self) -> WorkflowDefinition {
        match self.first.new.kind.as_str() {
            task_kind::EXPORT | task_kind::STORE => WorkflowDefinition::Backup,
            task_kind::RESTORE | task_kind::IMPORT => WorkflowDefinition::RestoreAndImport,
            task_kind::INVENTORY_SYNC => WorkflowDefinition::InventorySync,
            _ => WorkflowDefinition::Maintenance,
        }
    }

    /// Where the chain is: at work while any task is, else as its last link ended. A sync that only follows a
    /// restore spoils nothing, it leaves a warning.
    pub fn state(&self) -> WorkflowState {
        let mut live = self.tasks().filter(|t| !t.state.is_settled()).peekable();
        if live.peek().is_some() {
            let stopping = live.any(|t| t.cancel_requested);
            return if stopping { WorkflowState::Cancelled } else { WorkflowState::Running };
        }
        if self.tasks().any(|t| t.state == TaskState::Stuck) {
            return WorkflowState::FailedWithCriticalErrors;
        }
        let last = self.last();
        match last.state {
            TaskState::Succeeded if self.tasks().any(|t| self.trails(t) && t.state != TaskState::Succeeded) => {
                WorkflowState::FinishedWithWarnings
            }
            state => state.words().workflow,
        }
    }

    /// The link that works or waits, else the last one.
    pub fn current(&self) -> &Task {
        self.tasks().find(|t| !t.state.is_settled() && !self.trails(t)).unwrap_or_else(|| self.last())
    }

    /// How much is done, 0 to 100, the links counted alike.
    pub fn progress(&self) -> f64 {
        let mut links: BTreeMap<&str, f64> = BTreeMap::new();
        for task in self.tasks().filter(|t| !self.trails(t)) {
            let done = if task.state == TaskState::Succeeded { 100 } else { task.progress.percent() };
            links.insert(&task.new.kind, f64::from(done));
        }
        let expected = if LINKS_OF_TWO.contains(&self.first.new.kind.as_str()) { 2 } else { 1 };
        let count = u32::try_from(links.len().max(expected)).unwrap_or(u32::MAX);
        links.values().sum::<f64>() / f64::from(count)
    }

    /// When it ended; nothing while anything is left to do.
    pub fn finished(&self) -> Option<Timestamp> {
        if self.tasks().all(|t| t.state.is_settled()) { self.tasks().filter_map(|t| t.finished).max() } else { None }
    }

    /// The last link of the work itself.
    fn last(&self) -> &Task {
        self.tasks().filter(|t| !self.trails(t)).last().unwrap_or(&self.first)
    }

    /// A sync at the end of a chain that is for something else.
    fn trails(&self, task: &Task) -> bool {
        task.new.kind == task_kind::INVENTORY_SYNC && task.new.id != self.first.new.id
    }
}

impl Portolan {
    /// Chains that the caller may see, by their first tasks: filter, order and page are over these. A chain whose
    /// first task has been forgotten is not listed any more; its tasks still are.
    pub async fn chains(
        &self,
        caller: &Caller,
        query: TaskQuery,
    ) -> Result<(Vec<ChainView>, Option<u64>), ProtectError> {
        // The sync at a restore's end has no parent either. Restores are few, so they can be left out by name.
        let imports = TaskQuery { filter: Filter::eq("kind", task_kind::IMPORT), ..TaskQuery::default() };
        let restores = self.protect.tasks(caller, imports).await?.tasks;
        let trailing = Filter::And(vec![
            Filter::eq("kind", task_kind::INVENTORY_SYNC),
            Filter::any("chain", restores.iter().map(|t| t.new.chain.uuid())),
        ]);
        let first = Filter::Eq("parent".into(), Value::Null).and(Filter::Not(Box::new(trailing)));
        let firsts = self.protect.tasks(caller, TaskQuery { filter: query.filter.and(first), ..query }).await?;
        let mut of: BTreeMap<ChainId, Vec<Task>> = BTreeMap::new();
        for some in firsts.tasks.chunks(BULK) {
            let filter = Filter::any("chain", some.iter().map(|t| t.new.chain.uuid()));
            for task in self.protect.tasks(caller, TaskQuery { filter, ..TaskQuery::default() }).await?.tasks {
                of.entry(task.new.chain).or_default().push(task);
            }
        }
        let views = firsts.tasks.into_iter().map(|first| {
            let mut rest = of.remove(&first.new.chain).unwrap_or_default();
            rest.retain(|t| t.new.id != first.new.id);
            rest.sort_by_key(|t| (t.created, t.new.id));
            ChainView { id: first.new.chain, first, rest }
        });
        Ok((views.collect(), firsts.total))
    }

    /// Forgets the ended tasks of a chain. Of one that still has something to do the first task stays, so that the
    /// chain stays listed. `NotFound` where the caller sees none of its tasks.
    pub async fn forget_chain(&self, caller: &Caller, id: ChainId) -> Result<(), ProtectError> {
        caller.require(Privilege::TaskWrite)?;
        let query = TaskQuery { filter: Filter::eq("chain", id.uuid()), ..TaskQuery::default() };
        let tasks = self.protect.tasks(caller, query).await?.tasks;
        if tasks.is_empty() {
            return Err(ProtectError::NotFound { kind: "chain", id: id.uuid() });
        }
        let ended = tasks.iter().all(|t| t.state.is_terminal());
        for task in tasks.iter().filter(|t| t.state.is_terminal()) {
            if !ended && task.new.links.parent.is_none() {
                continue;
            }
            match self.protect.remove_task(caller, task.new.id).await {
                // Somebody else was faster.
                Ok(()) | Err(ProtectError::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
