//! Tasks as callers see them: listed, cancelled, forgotten.

use crate::error::ProtectError;
use crate::service::Protect;
use portolan_model::query::{Filter, Page};
use portolan_model::*;
use portolan_tasks::{CancelReply, Task, TaskQuery};

/// A page of tasks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskList {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// How many match in all, where asked for.
    pub total: Option<u64>,
}

/// What a cancel came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It has ended, or will very soon.
    Done,
    /// It runs, and has been asked to stop.
    Requested,
    /// It had ended before.
    AlreadyEnded,
}

/// Tasks in one step of a bulk operation.
const BULK: u64 = 500;

impl Protect {
    /// Tasks that the caller may see. Kinds that clean up behind the scenes are left out.
    pub async fn tasks(&self, caller: &Caller, mut query: TaskQuery) -> Result<TaskList, ProtectError> {
        caller.require(Privilege::BackupRead)?;
        query.filter = query.filter.and(visible());
        let page = self.storage.query(caller.scope, &query).await?;
        Ok(TaskList { tasks: page.tasks, total: page.total })
    }

    /// One task, unless it cleans up behind the scenes.
    pub async fn task(&self, caller: &Caller, id: TaskId) -> Result<Task, ProtectError> {
        caller.require(Privilege::BackupRead)?;
        let found = self.tasks_of(caller.scope, &[id]).await?.pop();
        let shown = found.filter(|t| !task_kind::INTERNAL.contains(&t.new.kind.as_str()));
        shown.ok_or(ProtectError::NotFound { kind: "task", id: id.uuid() })
    }

    /// Cancels a task that waits, and asks a running one to stop.
    pub async fn cancel_task(&self, caller: &Caller, id: TaskId, reason: &str) -> Result<CancelOutcome, ProtectError> {
        caller.require(Privilege::TaskWrite)?;
        // What cleans up is nobody's to stop.
        self.task(caller, id).await?;
        Ok(match self.storage.cancel(self.clock.now(), caller.scope, id, reason).await? {
            CancelReply::Cancelled => CancelOutcome::Done,
            CancelReply::Requested => CancelOutcome::Requested,
            CancelReply::AlreadyEnded => CancelOutcome::AlreadyEnded,
        })
    }

    /// Removes a task: an ended one leaves the history, a waiting one is cancelled and leaves it, a running one is
    /// asked to stop and stays until it has.
    pub async fn remove_task(&self, caller: &Caller, id: TaskId) -> Result<(), ProtectError> {
        caller.require(Privilege::TaskWrite)?;
        match self.cancel_task(caller, id, "removed by the user").await? {
            CancelOutcome::Requested => Ok(()),
            CancelOutcome::Done | CancelOutcome::AlreadyEnded => Ok(self.storage.forget(caller.scope, id).await?),
        }
    }

    /// Removes every ended task that the caller may see; with `queued` also those that wait. Returns how many.
    pub async fn remove_finished(&self, caller: &Caller, queued: bool) -> Result<u64, ProtectError> {
        caller.require(Privilege::TaskWrite)?;
        let mut states = vec![TaskState::Succeeded, TaskState::Failed, TaskState::Cancelled, TaskState::Expired];
        if queued {
            states.extend([TaskState::Blocked, TaskState::Scheduled, TaskState::Ready]);
        }
        self.each_in(caller, &states, true).await
    }

    /// Asks every running task that the caller may see to stop. Returns how many.
    pub async fn cancel_running(&self, caller: &Caller) -> Result<u64, ProtectError> {
        caller.require(Privilege::TaskWrite)?;
        self.each_in(caller, &[TaskState::Running], false).await
    }

    async fn each_in(&self, caller: &Caller, states: &[TaskState], remove: bool) -> Result<u64, ProtectError> {
        let filter = Filter::any("state", states.iter().map(|s| describe::Describe::name(*s))).and(visible());
        let mut after = None;
        let mut done = 0;
        loop {
            let mut filter = filter.clone();
            if let Some(last) = after {
                filter = filter.and(Filter::AtLeast("id".into(), query::Value::Id(last)));
            }
            let query = TaskQuery { filter, page: Page::first(BULK), ..TaskQuery::default() };
            let page = self.storage.query(caller.scope, &query).await?;
            let fresh: Vec<TaskId> =
                page.tasks.iter().map(|t| t.new.id).filter(|id| Some(id.uuid()) != after).collect();
            let Some(last) = fresh.last() else { return Ok(done) };
            after = Some(last.uuid());
            for id in fresh {
                let gone = if remove {
                    self.remove_task(caller, id).await
                } else {
                    self.cancel_task(caller, id, "cancelled by the user").await.map(|_| ())
                };
                match gone {
                    // Somebody else was faster, or it has just been started: both are as asked for.
                    Ok(()) | Err(ProtectError::NotFound { .. } | ProtectError::Conflict(_)) => done += 1,
                    Err(e) => return Err(e),
                }
            }
        }
    }
}

/// Kinds that clean up behind the scenes are nobody's to see.
fn visible() -> Filter {
    Filter::Not(Box::new(Filter::any("kind", task_kind::INTERNAL.iter().copied())))
}
