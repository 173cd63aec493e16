//! The adapter that keeps everything in memory: for tests, for embedding, and the model of every other adapter.

use crate::changes::{ChangeLog, Changes};
use crate::check;
use crate::error::StoreError;
use crate::event::{Event, EventQuery, EventSeq};
use crate::kind::Kind;
use crate::store::{Applied, RawQuery, Row, RowPage, StateStore, Views};
use crate::unit::{Change, Require, UnitOfWork};
use async_trait::async_trait;
use events::EventLog;
use objects::Objects;
use portolan_model::query::Filter;
use portolan_model::{Scope, TaskId, Timestamp};
use portolan_tasks::*;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use uuid::Uuid;

mod events;
mod objects;

/// Storage in memory. Nothing survives the process.
///
/// Objects, tasks and events are under one lock: a unit is checked whole, then written whole, and nobody sees it
/// in between.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    state: Mutex<State>,
    wakeup: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    objects: Objects,
    tasks: MemoryTasks,
    events: EventLog,
    changes: ChangeLog,
}

impl MemoryStorage {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Everything is checked before anything is written, so a panic leaves the state as it was.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the state, and rings when it made a task claimable.
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let (result, ring) = {
            let mut state = self.lock();
            let result = f(&mut state);
            (result, state.tasks.take_woken())
        };
        if ring {
            self.wakeup.notify_waiters();
        }
        result
    }
}

impl State {
    fn apply(&mut self, now: Timestamp, scope: Scope, unit: UnitOfWork) -> Result<Applied, StoreError> {
        for require in &unit.require {
            self.check(scope, require)?;
        }
        let plan = self.objects.plan(scope, &unit.change)?;
        // The last step that can fail is the first that writes.
        let tasks = self.tasks.apply_unit(now, unit.enqueue, unit.finish).map_err(check::task_error)?;
        self.objects.write(plan);
        // Whoever can read this has asked for changes under the same lock, before or after all of it.
        self.changes.note(unit.change.iter().map(Change::key));
        self.events.add(now, unit.events);
        Ok(Applied { tasks })
    }

    fn check(&self, scope: Scope, require: &Require) -> Result<(), StoreError> {
        match require {
            Require::Version(kind, id, expected) => {
                check::version(scope, *kind, *id, *expected, self.objects.found(*kind, *id))
            }
            Require::Absent(key) => check::absent(key, self.objects.holder(key)),
            Require::TaskHeld(held) if self.tasks.check_held(*held) => Ok(()),
            Require::TaskHeld(held) => Err(check::task_error(TaskError::Lost(held.id))),
            Require::RefFree(kind, id) => {
                check::ref_free(scope, *kind, *id, self.objects.found(*kind, *id), self.objects.referrers(*id))
            }
        }
    }
}

#[async_trait]
impl StateStore for MemoryStorage {
    async fn apply(&self, now: Timestamp, scope: Scope, unit: UnitOfWork) -> Result<Applied, StoreError> {
        self.with(|state| state.apply(now, scope, unit))
    }

    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        Ok(self.lock().events.prune(before, limit))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl Views for MemoryStorage {
    async fn rows(&self, scope: Scope, kind: Kind, ids: &[Uuid]) -> Result<Vec<Row>, StoreError> {
        Ok(self.lock().objects.rows(scope, kind, ids))
    }

    async fn holder(&self, scope: Scope, kind: Kind, key: &str) -> Result<Option<Row>, StoreError> {
        Ok(self.lock().objects.row_by_key(scope, kind, key))
    }

    async fn list(&self, scope: Scope, query: &RawQuery) -> Result<RowPage, StoreError> {
        self.lock().objects.list(scope, query)
    }

    async fn count(&self, scope: Scope, kind: Kind, filter: &Filter) -> Result<u64, StoreError> {
        self.lock().objects.count(scope, kind, filter)
    }

    async fn events(&self, scope: Scope, after: EventSeq, limit: u32) -> Result<Vec<Event>, StoreError> {
        Ok(self.lock().events.after(scope, after, limit))
    }

    async fn find_events(&self, scope: Scope, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        Ok(self.lock().events.find(scope, query))
    }

    fn changes(&self, kind: Kind, since: Option<u64>) -> Changes {
        self.lock().changes.changes(kind, since)
    }
}

#[async_trait]
impl TaskStore for MemoryStorage {
    async fn enqueue(&self, now: Timestamp, tasks: Vec<NewTask>) -> Result<Vec<Enqueued>, TaskError> {
        self.with(|s| s.tasks.enqueue(now, tasks))
    }

    async fn claim(&self, now: Timestamp, request: ClaimRequest) -> Result<Vec<Claimed>, TaskError> {
        Ok(self.with(|s| s.tasks.claim(now, &request)))
    }

    async fn beat(&self, now: Timestamp, request: BeatRequest) -> Result<Vec<BeatReply>, TaskError> {
        Ok(self.with(|s| s.tasks.beat(now, &request)))
    }

    async fn step(&self, now: Timestamp, held: Held, step: &str, output: Json) -> Result<(), TaskError> {
        self.with(|s| s.tasks.step(now, held, step, output))
    }

    async fn steps(&self, id: TaskId) -> Result<Vec<(String, Json)>, TaskError> {
        self.lock().tasks.steps(id)
    }

    async fn finish(&self, now: Timestamp, finishes: Vec<Finish>) -> Result<Vec<Result<(), TaskError>>, TaskError> {
        Ok(self.with(|s| s.tasks.finish(now, finishes)))
    }

    async fn sweep(&self, now: Timestamp, limit: u32) -> Result<SweepReport, TaskError> {
        Ok(self.with(|s| s.tasks.sweep(now, limit)))
    }

    async fn cancel(&self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<CancelReply, TaskError> {
        self.with(|s| s.tasks.cancel(now, scope, id, reason))
    }

    async fn retry(&self, now: Timestamp, scope: Scope, id: TaskId, new_id: TaskId) -> Result<RetryReply, TaskError> {
        self.with(|s| s.tasks.retry(now, scope, id, new_id))
    }

    async fn abandon(&self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<(), TaskError> {
        self.with(|s| s.tasks.abandon(now, scope, id, reason))
    }

    async fn forget(&self, scope: Scope, id: TaskId) -> Result<(), TaskError> {
        self.with(|s| s.tasks.forget(scope, id))
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64, TaskError> {
        Ok(self.with(|s| s.tasks.prune(before, limit)))
    }

    async fn query(&self, scope: Scope, query: &TaskQuery) -> Result<TaskPage, TaskError> {
        self.lock().tasks.query(scope, query)
    }

    async fn node_beat(&self, now: Timestamp, beat: NodeBeat) -> Result<(), TaskError> {
        self.with(|s| s.tasks.node_beat(now, beat));
        Ok(())
    }

    async fn stats(&self, now: Timestamp) -> Result<TaskStats, TaskError> {
        Ok(self.lock().tasks.stats(now))
    }

    fn wakeup(&self) -> Arc<Notify> {
        self.wakeup.clone()
    }
}
