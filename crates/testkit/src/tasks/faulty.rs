//! A store of tasks that fails on cue.

use crate::clock::mix;
use async_trait::async_trait;
use portolan_model::{Scope, TaskId, Timestamp};
use portolan_tasks::{
    BeatReply, BeatRequest, CancelReply, ClaimRequest, Claimed, Enqueued, Finish, Held, Json, NewTask, NodeBeat,
    RetryReply, SweepReport, TaskError, TaskPage, TaskQuery, TaskStats, TaskStore,
};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// Whether a call that fails has done its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// It has not: the store could not be reached.
    Before,
    /// It has: the answer was lost on the way back.
    After,
}

/// One of the store's operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Op {
    Enqueue,
    Claim,
    Beat,
    Step,
    Steps,
    Finish,
    Sweep,
    Cancel,
    Retry,
    Abandon,
    Forget,
    Prune,
    Query,
    NodeBeat,
    Stats,
}

/// Wraps a store; fails the calls that it was told to, each with [`TaskError::Store`].
pub struct Faulty<S: TaskStore + ?Sized> {
    inner: Arc<S>,
    plan: Mutex<Plan>,
    hanging: watch::Sender<bool>,
}

#[derive(Default)]
struct Plan {
    /// Number of the call of an operation, from 1, that fails.
    cues: Vec<(Op, u64, When)>,
    counts: HashMap<Op, u64>,
    outage: bool,
    /// Seed, and how many calls of a thousand fail.
    random: Option<(u64, u64)>,
    failures: u64,
}

impl<S: TaskStore + ?Sized> Faulty<S> {
    /// A wrapper that lets everything through.
    pub fn new(inner: Arc<S>) -> Self {
        Self { inner, plan: Mutex::default(), hanging: watch::channel(false).0 }
    }

    /// The store inside.
    pub fn inner(&self) -> &Arc<S> {
        &self.inner
    }

    /// The `call`-th call of `op` from now on, counted from 1, fails.
    pub fn fail(&self, op: Op, call: u64, when: When) {
        let mut plan = self.lock();
        let call = plan.counts.get(&op).copied().unwrap_or(0) + call;
        plan.cues.push((op, call, when));
    }

    /// From now on `per_mille` of a thousand calls fail, half of them after their work, by a stream of `seed`.
    pub fn fail_randomly(&self, seed: u64, per_mille: u64) {
        self.lock().random = (per_mille > 0).then_some((seed, per_mille));
    }

    /// While it is on, every call fails at once and does nothing.
    pub fn outage(&self, on: bool) {
        self.lock().outage = on;
    }

    /// While it is on, no call returns.
    pub fn hang(&self, on: bool) {
        self.hanging.send_replace(on);
    }

    /// How often `op` was called.
    pub fn calls(&self, op: Op) -> u64 {
        self.lock().counts.get(&op).copied().unwrap_or(0)
    }

    /// How many calls were made to fail.
    pub fn failures(&self) -> u64 {
        self.lock().failures
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, op: Op) -> Option<When> {
        let mut plan = self.lock();
        let count = plan.counts.entry(op).or_default();
        *count += 1;
        let count = *count;
        let cue = plan.cues.iter().find(|(o, n, _)| (*o, *n) == (op, count)).map(|cue| cue.2);
        let mut when = cue.or(plan.outage.then_some(When::Before));
        if let Some((seed, per_mille)) = plan.random {
            let draw = mix(seed);
            plan.random = Some((draw, per_mille));
            if draw % 1000 < per_mille {
                when = when.or(Some(if draw & 1024 == 0 { When::Before } else { When::After }));
            }
        }
        plan.failures += u64::from(when.is_some());
        when
    }

    async fn call<T>(&self, op: Op, work: impl Future<Output = Result<T, TaskError>>) -> Result<T, TaskError> {
        let when = self.next(op);
        let mut hanging = self.hanging.subscribe();
        // The sender is ours, so it cannot be gone.
        let _ = hanging.wait_for(|on| !on).await;
        match when {
            None => work.await,
            Some(When::Before) => Err(TaskError::Store("the store was told to fail".into())),
            Some(When::After) => {
                work.await?;
                Err(TaskError::Store("the answer was told to get lost".into()))
            }
        }
    }
}

#[async_trait]
impl<S: TaskStore + ?Sized> TaskStore for Faulty<S> {
    async fn enqueue(&self, now: Timestamp, tasks: Vec<NewTask>) -> Result<Vec<Enqueued>, TaskError> {
        self.call(Op::Enqueue, self.inner.enqueue(now, tasks)).await
    }
    async fn claim(&self, now: Timestamp, request: ClaimRequest) -> Result<Vec<Claimed>, TaskError> {
        self.call(Op::Claim, self.inner.claim(now, request)).await
    }
    async fn beat(&self, now: Timestamp, request: BeatRequest) -> Result<Vec<BeatReply>, TaskError> {
        self.call(Op::Beat, self.inner.beat(now, request)).await
    }
    async fn step(&self, now: Timestamp, held: Held, step: &str, output: Json) -> Result<(), TaskError> {
        self.call(Op::Step, self.inner.step(now, held, step, output)).await
    }
    async fn steps(&self, id: TaskId) -> Result<Vec<(String, Json)>, TaskError> {
        self.call(Op::Steps, self.inner.steps(id)).await
    }
    async fn finish(&self, now: Timestamp, finishes: Vec<Finish>) -> Result<Vec<Result<(), TaskError>>, TaskError> {
        self.call(Op::Finish, self.inner.finish(now, finishes)).await
    }
    async fn sweep(&self, now: Timestamp, limit: u32) -> Result<SweepReport, TaskError> {
        self.call(Op::Sweep, self.inner.sweep(now, limit)).await
    }
    async fn cancel(&self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<CancelReply, TaskError> {
        self.call(Op::Cancel, self.inner.cancel(now, scope, id, reason)).await
    }
    async fn retry(&self, now: Timestamp, scope: Scope, id: TaskId, new_id: TaskId) -> Result<RetryReply, TaskError> {
        self.call(Op::Retry, self.inner.retry(now, scope, id, new_id)).await
    }
    async fn abandon(&self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<(), TaskError> {
        self.call(Op::Abandon, self.inner.abandon(now, scope, id, reason)).await
    }
    async fn forget(&self, scope: Scope, id: TaskId) -> Result<(), TaskError> {
        self.call(Op::Forget, self.inner.forget(scope, id)).await
    }
    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64, TaskError> {
        self.call(Op::Prune, self.inner.prune(before, limit)).await
    }
    async fn query(&self, scope: Scope, query: &TaskQuery) -> Result<TaskPage, TaskError> {
        self.call(Op::Query, self.inner.query(scope, query)).await
    }
    async fn node_beat(&self, now: Timestamp, beat: NodeBeat) -> Result<(), TaskError> {
        self.call(Op::NodeBeat, self.inner.node_beat(now, beat)).await
    }
    async fn stats(&self, now: Timestamp) -> Result<TaskStats, TaskError> {
        self.call(Op::Stats, self.inner.stats(now)).await
    }
    fn wakeup(&self) -> Arc<Notify> {
        self.inner.wakeup()
    }
}
