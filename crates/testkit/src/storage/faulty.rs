//! A storage that fails on cue.

use async_trait::async_trait;
use portolan_model::query::Filter;
use portolan_model::{Scope, TaskId, Timestamp};
use portolan_storage::{
    Applied, Changes, Event, EventQuery, EventSeq, Kind, RawQuery, Row, RowPage, StateStore, Storage, StoreError,
    UnitOfWork, Views,
};
use portolan_tasks::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use uuid::Uuid;

/// Where an apply fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Before anything is written: the effect is not there.
    Before,
    /// After everything is written: the effect is there, but the caller is told that the store does not answer.
    After,
}

/// Passes everything on to a storage, except that chosen applies answer [`StoreError::Unavailable`].
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    state: Mutex<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    applies: u64,
    at: BTreeMap<u64, Fault>,
    every: Option<Fault>,
}

impl FaultyStorage {
    /// Fails never, until it is told to.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, state: Mutex::default() }
    }

    /// Makes the `k`-th apply from now fail; 1 is the next one.
    pub fn fail_at(&self, k: u64, fault: Fault) {
        let mut state = self.state();
        let at = state.applies + k;
        state.at.insert(at, fault);
    }

    /// Makes every apply fail from now on, or none (what [`FaultyStorage::fail_at`] set stays).
    pub fn fail_always(&self, fault: Option<Fault>) {
        self.state().every = fault;
    }

    /// How many applies there have been, failed ones too.
    pub fn applies(&self) -> u64 {
        self.state().applies
    }

    fn state(&self) -> MutexGuard<'_, Faults> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Fault> {
        let mut state = self.state();
        state.applies += 1;
        let now = state.applies;
        state.at.remove(&now).or(state.every)
    }
}

#[async_trait]
impl StateStore for FaultyStorage {
    async fn apply(&self, now: Timestamp, scope: Scope, unit: UnitOfWork) -> Result<Applied, StoreError> {
        let fault = self.next();
        if fault != Some(Fault::Before) {
            let applied = self.inner.apply(now, scope, unit).await?;
            if fault.is_none() {
                return Ok(applied);
            }
        }
        Err(StoreError::Unavailable("told to fail".into()))
    }

    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.inner.prune_events(before, limit).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }
}

#[async_trait]
impl Views for FaultyStorage {
    async fn rows(&self, scope: Scope, kind: Kind, ids: &[Uuid]) -> Result<Vec<Row>, StoreError> {
        self.inner.rows(scope, kind, ids).await
    }
    async fn holder(&self, scope: Scope, kind: Kind, key: &str) -> Result<Option<Row>, StoreError> {
        self.inner.holder(scope, kind, key).await
    }
    async fn list(&self, scope: Scope, query: &RawQuery) -> Result<RowPage, StoreError> {
        self.inner.list(scope, query).await
    }
    async fn count(&self, scope: Scope, kind: Kind, filter: &Filter) -> Result<u64, StoreError> {
        self.inner.count(scope, kind, filter).await
    }
    async fn events(&self, scope: Scope, after: EventSeq, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.inner.events(scope, after, limit).await
    }
    async fn find_events(&self, scope: Scope, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        self.inner.find_events(scope, query).await
    }
    fn changes(&self, kind: Kind, since: Option<u64>) -> Changes {
        self.inner.changes(kind, since)
    }
}

#[async_trait]
impl TaskStore for FaultyStorage {
    async fn enqueue(&self, now: Timestamp, tasks: Vec<NewTask>) -> Result<Vec<Enqueued>, TaskError> {
        self.inner.enqueue(now, tasks).await
    }
    async fn claim(&self, now: Timestamp, request: ClaimRequest) -> Result<Vec<Claimed>, TaskError> {
        self.inner.claim(now, request).await
    }
    async fn beat(&self, now: Timestamp, request: BeatRequest) -> Result<Vec<BeatReply>, TaskError> {
        self.inner.beat(now, request).await
    }
    async fn step(&self, now: Timestamp, held: Held, step: &str, output: Json) -> Result<(), TaskError> {
        self.inner.step(now, held, step, output).await
    }
    async fn steps(&self, id: TaskId) -> Result<Vec<(String, Json)>, TaskError> {
        self.inner.steps(id).await
    }
    async fn finish(&self, now: Timestamp, finishes: Vec<Finish>) -> Result<Vec<Result<(), TaskError>>, TaskError> {
        self.inner.finish(now, finishes).await
    }
    async fn sweep(&self, now: Timestamp, limit: u32) -> Result<SweepReport, TaskError> {
        self.inner.sweep(now, limit).await
    }
    async fn cancel(&self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<CancelReply, TaskError> {
        self.inner.cancel(now, scope, id, reason).await
    }
    async fn retry(&self, now: Timestamp, scope: Scope, id: TaskId, new_id: TaskId) -> Result<RetryReply, TaskError> {
        self.inner.retry(now, scope, id, new_id).await
    }
    async fn abandon(&self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<(), TaskError> {
        self.inner.abandon(now, scope, id, reason).await
    }
    async fn forget(&self, scope: Scope, id: TaskId) -> Result<(), TaskError> {
        self.inner.forget(scope, id).await
    }
    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64, TaskError> {
        self.inner.prune(before, limit).await
    }
    async fn query(&self, scope: Scope, query: &TaskQuery) -> Result<TaskPage, TaskError> {
        self.inner.query(scope, query).await
    }
    async fn node_beat(&self, now: Timestamp, beat: NodeBeat) -> Result<(), TaskError> {
        self.inner.node_beat(now, beat).await
    }
    async fn stats(&self, now: Timestamp) -> Result<TaskStats, TaskError> {
        self.inner.stats(now).await
    }
    fn wakeup(&self) -> Arc<Notify> {
        self.inner.wakeup()
    }
}
