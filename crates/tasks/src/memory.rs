//! Tasks in memory: the state as a plain struct, and a store around it.
//!
//! [`MemoryTasks`] does no locking and no waiting, so that an adapter of storage can keep it under its own one
//! lock beside its objects. [`MemoryTaskStore`] is the store for those who need tasks alone.

use crate::store::{
    BeatReply, BeatRequest, CancelReply, ClaimRequest, Claimed, Enqueued, NodeBeat, RetryReply, SweepReport, TaskError,
    TaskPage, TaskQuery, TaskStats, TaskStore,
};
use crate::task::{Finish, Held, Json, NewTask};
use async_trait::async_trait;
use portolan_model::{Scope, TaskId, Timestamp};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

mod change;
mod index;
mod queue;
mod read;
mod unit;

pub use index::MemoryTasks;

/// A store of tasks in memory. Nothing survives the process.
#[derive(Debug, Default)]
pub struct MemoryTaskStore {
    state: Mutex<MemoryTasks>,
    wakeup: Arc<Notify>,
}

impl MemoryTaskStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, MemoryTasks> {
        // No operation leaves the state half changed when it panics on bad data: they check first.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the state, and rings when it made a task claimable.
    fn with<T>(&self, f: impl FnOnce(&mut MemoryTasks) -> T) -> T {
        let (result, ring) = {
            let mut state = self.lock();
            let result = f(&mut state);
            (result, state.take_woken())
        };
        if ring {
            self.wakeup.notify_waiters();
        }
        result
    }
}

#[async_trait]
impl TaskStore for MemoryTaskStore {
    async fn enqueue(&self, now: Timestamp, tasks: Vec<NewTask>) -> Result<Vec<Enqueued>, TaskError> {
        self.with(|s| s.enqueue(now, tasks))
    }

    async fn claim(&self, now: Timestamp, request: ClaimRequest) -> Result<Vec<Claimed>, TaskError> {
        Ok(self.with(|s| s.claim(now, &request)))
    }

    async fn beat(&self, now: Timestamp, request: BeatRequest) -> Result<Vec<BeatReply>, TaskError> {
        Ok(self.with(|s| s.beat(now, &request)))
    }

    async fn step(&self, now: Timestamp, held: Held, step: &str, output: Json) -> Result<(), TaskError> {
        self.with(|s| s.step(now, held, step, output))
    }

    async fn steps(&self, id: TaskId) -> Result<Vec<(String, Json)>, TaskError> {
        self.lock().steps(id)
    }

    async fn finish(&self, now: Timestamp, finishes: Vec<Finish>) -> Result<Vec<Result<(), TaskError>>, TaskError> {
        Ok(self.with(|s| s.finish(now, finishes)))
    }

    async fn sweep(&self, now: Timestamp, limit: u32) -> Result<SweepReport, TaskError> {
        Ok(self.with(|s| s.sweep(now, limit)))
    }

    async fn cancel(&self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<CancelReply, TaskError> {
        self.with(|s| s.cancel(now, scope, id, reason))
    }

    async fn retry(&self, now: Timestamp, scope: Scope, id: TaskId, new_id: TaskId) -> Result<RetryReply, TaskError> {
        self.with(|s| s.retry(now, scope, id, new_id))
    }

    async fn abandon(&self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<(), TaskError> {
        self.with(|s| s.abandon(now, scope, id, reason))
    }

    async fn forget(&self, scope: Scope, id: TaskId) -> Result<(), TaskError> {
        self.with(|s| s.forget(scope, id))
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64, TaskError> {
        Ok(self.with(|s| s.prune(before, limit)))
    }

    async fn query(&self, scope: Scope, query: &TaskQuery) -> Result<TaskPage, TaskError> {
        self.lock().query(scope, query)
    }

    async fn node_beat(&self, now: Timestamp, beat: NodeBeat) -> Result<(), TaskError> {
        self.with(|s| s.node_beat(now, beat));
        Ok(())
    }

    async fn stats(&self, now: Timestamp) -> Result<TaskStats, TaskError> {
        Ok(self.lock().stats(now))
    }

    fn wakeup(&self) -> Arc<Notify> {
        self.wakeup.clone()
    }
}
