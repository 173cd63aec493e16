//! What a task is.

use portolan_model::backup::Origin;
use portolan_model::query::Value;
use portolan_model::task_state::TaskState;
use portolan_model::*;
use serde::{Deserialize, Serialize};

/// Payloads and outputs.
pub type Json = serde_json::Value;

/// A new task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewTask {
    /// Its id; enqueuing the same id again changes nothing.
    pub id: TaskId,
    /// What handles it, `EXPORT`.
    pub kind: String,
    /// The tenant that it works for.
    pub tenant: Option<TenantId>,
    /// The chain that it is a link of. A task on its own is a chain of one.
    pub chain: ChainId,
    /// 0 to 100, higher first.
    pub priority: i16,
    /// Not started before.
    pub run_at: Timestamp,
    /// Expires when it was not started by then.
    pub start_by: Option<Timestamp>,
    /// Fails when it has not ended by then, however lively it is; expires when nobody is at it. An undo is not
    /// cut short.
    pub deadline: Option<Timestamp>,
    /// How often it may be tried within itself: after a transient failure, or after its worker was lost.
    pub max_attempts: i32,
    /// How many copies of it may follow when it fails for good: the dialects' own retry, a new link each. None
    /// follows once its `start_by` or `deadline` has passed, nor when somebody wished it to stop.
    pub retries: i32,
    /// What the handler needs to know.
    pub payload: Json,
    /// What it is about, for lists.
    #[serde(default)]
    pub links: TaskLinks,
    /// Tasks that must succeed before it can start. When one of them does not, this one is cancelled; when a copy
    /// of that one follows, the copy takes its place here.
    #[serde(default)]
    pub after: Vec<TaskId>,
    /// At most one task that has not ended holds a key: enqueuing another returns the one there.
    pub unique_key: Option<String>,
    /// Counted limits that it takes a place of while it is held, all or none. A key that is named twice takes one
    /// place, and its smallest maximum counts.
    #[serde(default)]
    pub limits: Vec<Limit>,
    /// Tags that a node must serve to run it.
    #[serde(default)]
    pub requires: Vec<String>,
    /// Enqueued in the same transaction that ends this task other than by success (unless a retry follows):
    /// what cleans up after the chain.
    pub on_failure: Option<Box<NewTask>>,
    /// What asked for it.
    pub origin: Origin,
}

/// A limit on tasks that run at once, over all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limit {
    /// What is limited, `vm:<id>`.
    pub key: String,
    /// How many tasks of that key may run at once.
    pub max: i32,
}

/// What a task is about. Lists filter by these.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskLinks {
    /// The machine.
    pub vm: Option<VmId>,
    /// The machine's name.
    #[serde(default)]
    pub vm_name: String,
    /// The recovery point.
    pub point: Option<RecoveryPointId>,
    /// The recovery point's name.
    #[serde(default)]
    pub point_name: String,
    /// The destination.
    pub destination: Option<BackupDestinationId>,
    /// The platform.
    pub platform: Option<PlatformId>,
    /// The host.
    pub host: Option<HostId>,
    /// The schedule that fired it.
    pub schedule: Option<ScheduleId>,
    /// The restore job.
    pub restore_job: Option<RestoreJobId>,
    /// The task that led to it.
    pub parent: Option<TaskId>,
    /// The machine that a restore makes.
    #[serde(default)]
    pub target_name: String,
    /// What the dialect wants to show beside, such as the backup type.
    #[serde(default)]
    pub note: Json,
}

/// A task as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// What was enqueued.
    pub new: NewTask,
    /// Where it is in its life.
    pub state: TaskState,
    /// How often a worker has started it.
    pub attempt: i32,
    /// The newest fence; 0 before the first start. Rises with every claim of any task of the store.
    pub fence: i64,
    /// The worker that holds it, or held it last.
    pub worker: String,
    /// When the worker's hold ends, unless it says that it lives.
    pub lease_until: Option<Timestamp>,
    /// Somebody wants it to stop.
    pub cancel_requested: bool,
    /// How far it is.
    pub progress: Progress,
    /// What it came to; an object for success, `null` before.
    pub output: Json,
    /// Why it ended other than by success, or why it is tried again.
    pub error: String,
    /// When it was enqueued.
    pub created: Timestamp,
    /// When it was first started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Why it is not running yet, worked out when it is read: its window, a full limit, a tag that nobody serves.
    pub wait_reason: Option<String>,
}

/// How far a task is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done, usually bytes.
    pub done: i64,
    /// Units in all; 0 when unknown.
    pub total: i64,
    /// What it is doing.
    pub message: String,
}

impl Progress {
    /// 0 to 100.
    pub fn percent(&self) -> u8 {
        if self.total <= 0 {
            return 0;
        }
        let share = i128::from(self.done.clamp(0, self.total)) * 100 / i128::from(self.total);
        u8::try_from(share).unwrap_or(100)
    }
}

/// A worker's proof that a task is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Held {
    /// The task.
    pub id: TaskId,
    /// The fence that the claim gave.
    pub fence: i64,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// The task and its fence.
    pub held: Held,
    /// How it ended.
    pub outcome: Outcome,
    /// Enqueued in the same transaction: the chain's next links.
    pub next: Vec<NewTask>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Done, with its output. `Task.progress` becomes whole.
    Succeeded {
        /// Recorded for the next links and for lists.
        output: Json,
    },
    /// Failed for good. A copy with one retry less follows when retries are left, else `on_failure` does.
    Failed {
        /// Why, for people.
        error: String,
    },
    /// Failed for now: back to waiting until `at`. The store makes it [`Outcome::Failed`] when the attempts
    /// are used up.
    Retry {
        /// Why, for people.
        error: String,
        /// Not tried again before.
        at: Timestamp,
    },
    /// Stopped because somebody asked for it.
    Cancelled {
        /// Why, for people. Empty for the reason that was given with the wish.
        error: String,
    },
    /// Given back untouched, as at a graceful stop: ready at once, the attempt is not counted. A task that somebody
    /// wished to stop is cancelled instead, as it is by `Retry`.
    Released,
    /// Failed for good, and what it did must be undone first: the same worker goes on in state `Undoing`, under
    /// the same fence; a lost worker's successor is told to undo. Ends by `Undone` or `Stuck`; `Retry` and
    /// `Released` let another attempt at undoing follow.
    Undo {
        /// Why, for people.
        error: String,
    },
    /// Undone: it ends as failed, or as cancelled when somebody had wished it to stop before.
    Undone,
    /// Could not be undone: it stays, for an operator to see.
    Stuck {
        /// Why, for people.
        error: String,
    },
}

/// What one point of priority is worth: a task overtakes one that was due this much earlier, in microseconds.
/// Five minutes: the lowest priority waits at most 500 minutes behind the highest.
pub const PRIORITY_POINT_MICROS: i64 = 5 * 60 * 1_000_000;

/// The key that ready tasks are claimed by, smallest first: the higher priority, then the longer wait, with
/// ageing built in, so that an index serves it.
pub fn rank(priority: i16, run_at: Timestamp) -> i64 {
    run_at.as_micros().saturating_sub(i64::from(priority).saturating_mul(PRIORITY_POINT_MICROS))
}

/// The fields that [`crate::TaskQuery`] filters and sorts by, beside the id. Every store has an index for those
/// marked so in its schema.
pub const TASK_FIELDS: &[&str] = &[
    "state",
    "kind",
    "chain",
    "vm",
    "point",
    "destination",
    "platform",
    "host",
    "schedule",
    "restore_job",
    "parent",
    "priority",
    "created",
    "started",
    "finished",
    "worker",
    "unique_key",
    "vm_name",
];

impl Task {
    /// The value of one of [`TASK_FIELDS`]; `Null` for any other.
    pub fn field(&self, name: &str) -> Value {
        use portolan_model::describe::Describe;
        let l = &self.new.links;
        match name {
            "state" => Value::from(self.state.name()),
            "kind" => Value::from(self.new.kind.as_str()),
            "chain" => Value::Id(self.new.chain.uuid()),
            "vm" => l.vm.map(|i| i.uuid()).into(),
            "point" => l.point.map(|i| i.uuid()).into(),
            "destination" => l.destination.map(|i| i.uuid()).into(),
            "platform" => l.platform.map(|i| i.uuid()).into(),
            "host" => l.host.map(|i| i.uuid()).into(),
            "schedule" => l.schedule.map(|i| i.uuid()).into(),
            "restore_job" => l.restore_job.map(|i| i.uuid()).into(),
            "parent" => l.parent.map(|i| i.uuid()).into(),
            "priority" => Value::Int(i64::from(self.new.priority)),
            "created" => self.created.into(),
            "started" => self.started.into(),
            "finished" => self.finished.into(),
            "worker" => Value::from(self.worker.as_str()),
            "unique_key" => self.new.unique_key.clone().into(),
            "vm_name" => Value::from(l.vm_name.as_str()),
            _ => Value::Null,
        }
    }

    /// Worker and fence as a proof, for those who read a task that they hold.
    pub fn held(&self) -> Held {
        Held { id: self.new.id, fence: self.fence }
    }
}
