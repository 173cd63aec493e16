//! The port that stores of tasks implement.

use crate::task::{Finish, Held, Json, NewTask, Progress, Task};
use async_trait::async_trait;
use portolan_model::query::{Filter, Page, Sort};
use portolan_model::{Scope, TaskId, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Why a store of tasks could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The fence is not the newest, or the task is not running: somebody else has taken over, or it has ended.
    #[error("the task {0} is no longer held")]
    Lost(TaskId),
    /// There is no such task, or not in this scope.
    #[error("there is no task {0}")]
    NotFound(TaskId),
    /// The task is in no state for this.
    #[error("the task {id} cannot be {what}")]
    Conflict {
        /// The task.
        id: TaskId,
        /// `forgotten`, `released`, …
        what: &'static str,
    },
    /// A field that is not one of the declared ones.
    #[error("tasks have no field '{0}'")]
    UnknownField(String),
    /// The store does not answer, or answers with nonsense.
    #[error("the store failed")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A store of tasks. Each method is one atomic, durable operation; times come from the caller. What an operation
/// decides is in [`crate::rules`], which every store asks.
///
/// A task is *held* from its claim until its attempt is finished, or until a sweep finds that its lease has run
/// out, or its deadline passed: an instant at which nobody has noticed yet does not end a hold.
#[async_trait]
pub trait TaskStore: Send + Sync {
    /// Adds tasks, all or none. A task whose id is there already, or whose unique key is held by a task that has
    /// not ended, is not added again: its answer names the one there, and tasks of the same call that wait for it
    /// wait for the one there.
    ///
    /// A task may wait (`after`) for tasks that are here or earlier in the list; any other is `NotFound`. Those
    /// that have succeeded are met. One that has ended otherwise cancels the new task on the spot.
    async fn enqueue(&self, now: Timestamp, tasks: Vec<NewTask>) -> Result<Vec<Enqueued>, TaskError>;

    /// Hands out up to `limit` ready tasks that are due, in the order of [`crate::rank`] and then of their ids, each
    /// under a fresh fence; the answer is in that order too. Tasks whose limits are full, or whose tags this node
    /// does not serve, are passed over. Due tasks in state `Scheduled` count as ready, and so do tasks in state
    /// `Undoing` that nobody holds; expired ones do not ([`crate::rules::is_expired`]).
    async fn claim(&self, now: Timestamp, request: ClaimRequest) -> Result<Vec<Claimed>, TaskError>;

    /// One worker's sign of life for all its tasks: extends their leases, records progress, brings back wishes to
    /// cancel. A task that is no longer the worker's is answered as lost.
    async fn beat(&self, now: Timestamp, request: BeatRequest) -> Result<Vec<BeatReply>, TaskError>;

    /// Records the output of a step, once: a repeated step keeps the first output. Fenced.
    async fn step(&self, now: Timestamp, held: Held, step: &str, output: Json) -> Result<(), TaskError>;

    /// The recorded steps of a task, ended or not, in the order in which they were recorded. `NotFound` when there
    /// is no such task.
    async fn steps(&self, id: TaskId) -> Result<Vec<(String, Json)>, TaskError>;

    /// Ends attempts, in order. Each is fenced by itself: a stale one is `Lost` and changes nothing, the others go
    /// through. So is one whose outcome does not fit its state (`Conflict`), or whose next links wait for a task
    /// that is not there (`NotFound`). `next` is added whatever the outcome, after the end itself.
    async fn finish(&self, now: Timestamp, finishes: Vec<Finish>) -> Result<Vec<Result<(), TaskError>>, TaskError>;

    /// Does what time demands: gives back tasks whose lease ran out (or fails them when their attempts are used
    /// up), expires those not started in time, ends those past their deadline, up to `limit` of each: first the
    /// deadlines before `now`, then the `start_by`s before `now`, then the leases at or before `now`, each in
    /// the order of their instants and then of their ids. What is cut off in consequence counts nowhere.
    async fn sweep(&self, now: Timestamp, limit: u32) -> Result<SweepReport, TaskError>;

    /// Cancels a task that waits or is stuck, and asks a running one to stop. A task that has ended stays as it is,
    /// and one that undoes goes on. `NotFound` where the scope does not show it.
    async fn cancel(&self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<CancelReply, TaskError>;

    /// Has a task that stopped tried again, at an operator's wish: [`crate::rules::retry`] says what that is for each
    /// state. A task that ended other than by success is not touched: a copy of it is enqueued as `new_id`, as
    /// [`TaskStore::enqueue`] would, so that the same call again gives the same answer. `Conflict` for a task that
    /// goes on by itself and for one that succeeded, `NotFound` where the scope does not show it.
    async fn retry(&self, now: Timestamp, scope: Scope, id: TaskId, new_id: TaskId) -> Result<RetryReply, TaskError>;

    /// Gives a stuck task up, at an operator's wish: it ends as failed, `reason` noted beside its error; no copy
    /// follows, but `on_failure` does. Any other task is a `Conflict` (one that runs is cancelled, not abandoned);
    /// `NotFound` where the scope does not show it.
    async fn abandon(&self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<(), TaskError>;

    /// Removes an ended task and its steps from history. One that has not ended is a conflict.
    async fn forget(&self, scope: Scope, id: TaskId) -> Result<(), TaskError>;

    /// Removes ended tasks that ended before `before`, up to `limit`, the oldest ends first; returns how many. Also
    /// lets go of what the store itself keeps for limits of which no place is taken.
    async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64, TaskError>;

    /// Tasks that have ended and those that have not, in one list, each with its wait reason as of the latest
    /// instant that the store was told. Tasks without a tenant are seen by `Scope::All` only. Filters and orders
    /// mean what [`crate::filter`] says.
    async fn query(&self, scope: Scope, query: &TaskQuery) -> Result<TaskPage, TaskError>;

    /// Notes that a node lives and which tags it serves. Forgotten after `ttl` without another note.
    async fn node_beat(&self, now: Timestamp, beat: NodeBeat) -> Result<(), TaskError>;

    /// Counts, for metrics and `/readyz`.
    async fn stats(&self, now: Timestamp) -> Result<TaskStats, TaskError>;

    /// Rung, by `notify_waiters`, whenever this process made a task claimable, or a place of a limit free. Whoever
    /// listens registers before looking. Nothing rings when a scheduled task becomes due.
    fn wakeup(&self) -> Arc<Notify>;
}

/// The answer to one enqueued task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enqueued {
    /// The task's id: the new one's, or that of the one that was there.
    pub id: TaskId,
    /// Whether it was added.
    pub added: bool,
}

/// A wish for work.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimRequest {
    /// The worker's name.
    pub worker: String,
    /// The kinds that it handles.
    pub kinds: Vec<String>,
    /// The tags that it serves.
    pub serves: Vec<String>,
    /// How many tasks at the most.
    pub limit: u32,
    /// How long the hold lasts without a beat.
    pub lease: Duration,
}

/// A task that was handed out.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// The task, in state `Running` (or `Undoing`), with its new fence.
    pub task: Task,
    /// Outputs recorded by earlier attempts.
    pub steps: Vec<(String, Json)>,
}

/// A worker's sign of life.
#[derive(Debug, Clone, PartialEq)]
pub struct BeatRequest {
    /// How long the hold lasts from now.
    pub lease: Duration,
    /// Its tasks.
    pub tasks: Vec<Beat>,
}

/// One task in a sign of life.
#[derive(Debug, Clone, PartialEq)]
pub struct Beat {
    /// The task and its fence.
    pub held: Held,
    /// How far it is; nothing leaves the stored progress.
    pub progress: Option<Progress>,
}

/// The answer for one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeatReply {
    /// Still the worker's.
    Held {
        /// Somebody wants it to stop.
        cancel: bool,
    },
    /// No longer the worker's: stop, and discard the result.
    Lost,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Tasks given back after their worker was lost; those that somebody wished to stop were cancelled instead.
    pub released: u64,
    /// Tasks failed, or stuck while undoing, because their worker was lost and their attempts were used up.
    pub exhausted: u64,
    /// Tasks not started in time.
    pub expired: u64,
    /// Tasks past their deadline.
    pub overdue: u64,
}

/// What a cancel did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReply {
    /// It waited, and has ended now.
    Cancelled,
    /// It runs, and has been asked to stop.
    Requested,
    /// It had ended before.
    AlreadyEnded,
}

/// What a wish to try again did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReply {
    /// It was stuck, and waits for a worker to undo it again.
    Undoing,
    /// It had ended: this is its copy, or the task that holds its unique key.
    Copied(TaskId),
    /// It waited for its next attempt, and is due now.
    Hastened,
}

/// Which tasks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskQuery {
    /// A condition over [`crate::TASK_FIELDS`] (and `id`).
    pub filter: Filter,
    /// The order.
    pub sort: Sort,
    /// Which part.
    pub page: Page,
    /// Whether to count all that match.
    pub count: bool,
}

/// A page of tasks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskPage {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// How many match in all, where asked for.
    pub total: Option<u64>,
}

/// A node's sign of life.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeBeat {
    /// The node's name, as in [`ClaimRequest::worker`].
    pub worker: String,
    /// The tags that it serves.
    pub serves: Vec<String>,
    /// How long this holds.
    pub ttl: Duration,
}

/// Counts of tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskStats {
    /// Tasks that have not ended, by state name: every such state in the order of the table, zeros included.
    pub live: Vec<(String, u64)>,
    /// How long the oldest due task in state `Ready` or `Scheduled` has been waiting.
    pub oldest_ready: Option<Duration>,
}
