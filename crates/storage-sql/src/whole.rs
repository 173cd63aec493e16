//! Calls that come to their end though nobody waits for it any more.
//!
//! Whoever asks may give up at any point: a client hangs up, a handler is cut off at a stop. The drivers of SQLite and
//! PostgreSQL find their way back from there. That of MariaDB does not: it takes the rest of an answer for the answer
//! to the next question, and waits without an end for one that has come already. So a call runs in a task of its own
//! there, as a whole.

use crate::sql::Dialect;
use crate::store::SqlStorage;
use async_trait::async_trait;
use portolan_model::query::Filter;
use portolan_model::{Scope, TaskId, Timestamp};
use portolan_storage::{
    Applied, Changes, Event, EventQuery, EventSeq, Kind, RawQuery, Row, RowPage, StateStore, StoreError, UnitOfWork,
    Views,
};
use portolan_tasks::{
    BeatReply, BeatRequest, CancelReply, ClaimRequest, Claimed, Enqueued, Finish, Held, Json, NewTask, NodeBeat,
    RetryReply, SweepReport, TaskError, TaskPage, TaskQuery, TaskStats, TaskStore,
};
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::Notify;
use tracing::Instrument;
use uuid::Uuid;

/// The calls of the ports as they run on whoever asks.
pub(crate) struct Calls(SqlStorage);

impl Deref for Calls {
    type Target = SqlStorage;

    fn deref(&self) -> &SqlStorage {
        &self.0
    }
}

/// What a call comes to when its task is not run to its end: the runtime ends.
pub(crate) trait CutOff {
    fn cut_off(error: tokio::task::JoinError) -> Self;
}

impl CutOff for StoreError {
    fn cut_off(error: tokio::task::JoinError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

impl CutOff for TaskError {
    fn cut_off(error: tokio::task::JoinError) -> Self {
        Self::Store(Box::new(StoreError::cut_off(error)))
    }
}

impl SqlStorage {
    /// Runs a call on [`Calls`], to its end where the driver cannot be left in the middle of one.
    pub(crate) async fn whole<T, E, F>(&self, call: impl FnOnce(Calls) -> F + Send) -> Result<T, E>
    where
        T: Send + 'static,
        E: CutOff + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let call = call(Calls(self.clone()));
        if self.dialect != Dialect::MariaDb {
            return call.await;
        }
        match tokio::spawn(call.in_current_span()).await {
            Ok(answer) => answer,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Err(E::cut_off(error)),
        }
    }
}

#[async_trait]
impl StateStore for SqlStorage {
    async fn apply(&self, now: Timestamp, scope: Scope, unit: UnitOfWork) -> Result<Applied, StoreError> {
        self.whole(move |calls| async move { calls.apply(now, scope, unit).await }).await
    }

    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.whole(move |calls| async move { calls.prune_events(before, limit).await }).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.whole(|calls| async move { calls.ping().await }).await
    }
}

#[async_trait]
impl Views for SqlStorage {
    async fn rows(&self, scope: Scope, kind: Kind, ids: &[Uuid]) -> Result<Vec<Row>, StoreError> {
        let ids = ids.to_vec();
        self.whole(move |calls| async move { calls.rows(scope, kind, &ids).await }).await
    }

    async fn holder(&self, scope: Scope, kind: Kind, key: &str) -> Result<Option<Row>, StoreError> {
        let key = key.to_owned();
        self.whole(move |calls| async move { calls.holder(scope, kind, &key).await }).await
    }

    async fn list(&self, scope: Scope, query: &RawQuery) -> Result<RowPage, StoreError> {
        let query = query.clone();
        self.whole(move |calls| async move { calls.list(scope, &query).await }).await
    }

    async fn count(&self, scope: Scope, kind: Kind, filter: &Filter) -> Result<u64, StoreError> {
        let filter = filter.clone();
        self.whole(move |calls| async move { calls.count(scope, kind, &filter).await }).await
    }

    async fn events(&self, scope: Scope, after: EventSeq, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.whole(move |calls| async move { calls.events(scope, after, limit).await }).await
    }

    async fn find_events(&self, scope: Scope, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        let query = query.clone();
        self.whole(move |calls| async move { calls.find_events(scope, &query).await }).await
    }

    fn changes(&self, kind: Kind, since: Option<u64>) -> Changes {
        self.feed.changes(kind, since)
    }
}

#[async_trait]
impl TaskStore for SqlStorage {
    async fn enqueue(&self, now: Timestamp, tasks: Vec<NewTask>) -> Result<Vec<Enqueued>, TaskError> {
        self.whole(move |calls| async move { calls.enqueue(now, tasks).await }).await
    }

    async fn claim(&self, now: Timestamp, request: ClaimRequest) -> Result<Vec<Claimed>, TaskError> {
        self.whole(move |calls| async move { calls.claim(now, request).await }).await
    }

    async fn beat(&self, now: Timestamp, request: BeatRequest) -> Result<Vec<BeatReply>, TaskError> {
        self.whole(move |calls| async move { calls.beat(now, request).await }).await
    }

    async fn step(&self, now: Timestamp, held: Held, step: &str, output: Json) -> Result<(), TaskError> {
        let step = step.to_owned();
        self.whole(move |calls| async move { calls.step(now, held, &step, output).await }).await
    }

    async fn steps(&self, id: TaskId) -> Result<Vec<(String, Json)>, TaskError> {
        self.whole(move |calls| async move { calls.steps(id).await }).await
    }

    async fn finish(&self, now: Timestamp, finishes: Vec<Finish>) -> Result<Vec<Result<(), TaskError>>, TaskError> {
        self.whole(move |calls| async move { calls.finish(now, finishes).await }).await
    }

    async fn sweep(&self, now: Timestamp, limit: u32) -> Result<SweepReport, TaskError> {
        self.whole(move |calls| async move { calls.sweep(now, limit).await }).await
    }

    async fn cancel(&self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<CancelReply, TaskError> {
        let reason = reason.to_owned();
        self.whole(move |calls| async move { calls.cancel(now, scope, id, &reason).await }).await
    }

    async fn retry(&self, now: Timestamp, scope: Scope, id: TaskId, new_id: TaskId) -> Result<RetryReply, TaskError> {
        self.whole(move |calls| async move { calls.retry(now, scope, id, new_id).await }).await
    }

    async fn abandon(&self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<(), TaskError> {
        let reason = reason.to_owned();
        self.whole(move |calls| async move { calls.abandon(now, scope, id, &reason).await }).await
    }

    async fn forget(&self, scope: Scope, id: TaskId) -> Result<(), TaskError> {
        self.whole(move |calls| async move { calls.forget(scope, id).await }).await
    }

    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64, TaskError> {
        self.whole(move |calls| async move { calls.prune(before, limit).await }).await
    }

    async fn query(&self, scope: Scope, query: &TaskQuery) -> Result<TaskPage, TaskError> {
        let query = query.clone();
        self.whole(move |calls| async move { calls.query(scope, &query).await }).await
    }

    async fn node_beat(&self, now: Timestamp, beat: NodeBeat) -> Result<(), TaskError> {
        self.whole(move |calls| async move { calls.node_beat(now, beat).await }).await
    }

    async fn stats(&self, now: Timestamp) -> Result<TaskStats, TaskError> {
        self.whole(move |calls| async move { calls.stats(now).await }).await
    }

    fn wakeup(&self) -> Arc<Notify> {
        self.wake.clone()
    }
}
