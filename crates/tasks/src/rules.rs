//! The decisions about tasks, as plain functions: every store asks them, so that all stores decide alike.
//!
//! A store's own part is to keep tasks, to find them in the right order, and to write what a [`Settlement`] says
//! in one transaction, in this order:
//!
//! 1. the task itself; one that has ended moves to history, gives up its unique key and its places in limits;
//! 2. [`Settlement::enqueue`], where an unknown `after` counts as met;
//! 3. when it has ended, the blocked tasks after it, in the order of their ids:
//!    [`unblock`] those that wait for nothing else when it succeeded; put [`Settlement::successor`] in its place in
//!    their `after` when there is one; else [`cut_off`] each, whose own settlement is handled by the same three steps.

use crate::store::{CancelReply, TaskError};
use crate::task::{Json, NewTask, Outcome, Progress, Task};
use portolan_model::task_state::TaskState;
use portolan_model::{Scope, TaskId, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

mod operator;
mod waits;
pub use operator::{Retrial, abandon, retry};
pub use waits::{WaitContext, wait_reason};

/// How often an undo may be started beyond `max_attempts` before the task is stuck.
pub const UNDO_STARTS: i32 = 3;

/// A task as a decision leaves it, and what the same transaction adds.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    /// The task as it is from now on.
    pub task: Task,
    /// What is enqueued with it: the retry copy, or `on_failure`.
    pub enqueue: Vec<NewTask>,
    /// The retry copy that takes its place: tasks that wait for this one wait for the copy instead.
    pub successor: Option<TaskId>,
}

impl Settlement {
    fn of(task: Task) -> Self {
        Self { task, enqueue: Vec::new(), successor: None }
    }

    /// Whether the task has ended for good.
    pub fn ended(&self) -> bool {
        self.task.state.is_terminal()
    }
}

/// Why a sweep touched a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lapse {
    /// Its worker was lost: it was given back, or cancelled as somebody wished.
    Released,
    /// Its worker was lost and its attempts are used up.
    Exhausted,
}

/// Whether a worker holds the task: it has the lease, and takes its places in limits.
pub fn is_held(task: &Task) -> bool {
    task.state.is_held() && task.lease_until.is_some()
}

/// Whether the task may be claimed once its `run_at` has come. A task in state `Undoing` that nobody holds may.
pub fn is_queued(task: &Task) -> bool {
    match task.state {
        TaskState::Ready | TaskState::Scheduled => true,
        TaskState::Undoing => task.lease_until.is_none(),
        _ => false,
    }
}

/// The instant by which the task must have been started, while that still matters.
pub fn start_by(task: &Task) -> Option<Timestamp> {
    task.new.start_by.filter(|_| task.started.is_none() && task.state.is_waiting())
}

/// The instant by which the task must have ended, while that still matters: an undo is never cut short.
pub fn deadline(task: &Task) -> Option<Timestamp> {
    task.new.deadline.filter(|_| task.state.is_waiting() || task.state == TaskState::Running)
}

/// Whether the task may not be started any more: its start window or its deadline lies before `now`.
pub fn is_expired(task: &Task, now: Timestamp) -> bool {
    start_by(task).is_some_and(|at| at < now) || deadline(task).is_some_and(|at| at < now)
}

/// The limits that a task takes a place of while it is held: each key once, with its smallest maximum, in the order
/// of the keys (the order in which a store locks them).
pub fn limits(new: &NewTask) -> Vec<(String, i32)> {
    let mut keys: BTreeMap<&str, i32> = BTreeMap::new();
    for limit in &new.limits {
        let max = keys.entry(&limit.key).or_insert(limit.max);
        *max = limit.max.min(*max);
    }
    keys.into_iter().map(|(key, max)| (key.to_owned(), max)).collect()
}

/// Whether a read or a wish from `scope` sees the task: those without a tenant are for `Scope::All` only.
pub fn visible(scope: Scope, new: &NewTask) -> bool {
    match scope {
        Scope::All => true,
        Scope::Tenant(mine) => new.tenant == Some(mine),
    }
}

/// What [`portolan_model::query::Filter::Contains`] looks in, in lower case: the machine's name, the kind, the
/// target's name and the id, a line each.
pub fn search_text(task: &Task) -> String {
    let l = &task.new.links;
    format!("{}\n{}\n{}\n{}", l.vm_name, task.new.kind, l.target_name, task.new.id).to_lowercase()
}

/// A new task. `unmet`: it waits for tasks that have not ended. `failed`: one of those before it has ended other
/// than by success.
pub fn admit(now: Timestamp, new: NewTask, unmet: bool, failed: Option<(TaskId, TaskState)>) -> Settlement {
    let state = if unmet || failed.is_some() { TaskState::Blocked } else { waiting(new.run_at, now) };
    let task = Task {
        new,
        state,
        attempt: 0,
        fence: 0,
        worker: String::new(),
        lease_until: None,
        cancel_requested: false,
        progress: Progress::default(),
        output: Json::Null,
        error: String::new(),
        created: now,
        started: None,
        finished: None,
        wait_reason: None,
    };
    match failed {
        Some((id, state)) => cut_off(&task, now, id, state),
        None => Settlement::of(task),
    }
}

/// A task whose last dependency has succeeded.
pub fn unblock(task: &Task, now: Timestamp) -> Settlement {
    Settlement::of(Task { state: waiting(task.new.run_at, now), ..task.clone() })
}

/// A blocked task whose dependency `id` ended in `state`, which is not success.
pub fn cut_off(task: &Task, now: Timestamp, id: TaskId, state: TaskState) -> Settlement {
    end(task, now, TaskState::Cancelled, format!("the task {id} before it ended as {state}"))
}

/// A task that is handed to a worker. Its limits must have places and its tags be served: the store has checked.
pub fn begin(task: &Task, now: Timestamp, worker: &str, fence: i64, lease: Duration) -> Task {
    Task {
        state: if task.state == TaskState::Undoing { TaskState::Undoing } else { TaskState::Running },
        attempt: task.attempt.saturating_add(1),
        fence,
        worker: worker.to_owned(),
        lease_until: Some(now + lease),
        started: task.started.or(Some(now)),
        wait_reason: None,
        ..task.clone()
    }
}

/// Whether a sign of life brings back a wish to stop. A task that undoes is not disturbed.
pub fn cancel_wished(task: &Task) -> bool {
    task.cancel_requested && task.state == TaskState::Running
}

/// What follows from the end of an attempt. The caller has checked that the task is held under the finish's fence.
/// Fails with [`TaskError::Conflict`] where the outcome does not fit the state: `Undone` before `Undo`, or an
/// end by success, failure or cancellation while undoing.
pub fn settle(task: &Task, now: Timestamp, outcome: &Outcome) -> Result<Settlement, TaskError> {
    let undoing = task.state == TaskState::Undoing;
    let settlement = match outcome {
        Outcome::Succeeded { output } if !undoing => {
            let mut s = end(task, now, TaskState::Succeeded, String::new());
            s.task.output = output.clone();
            s.task.progress = whole(&task.progress);
            s
        }
        Outcome::Failed { error } if !undoing => end(task, now, TaskState::Failed, error.clone()),
        Outcome::Cancelled { error } if !undoing => end(task, now, TaskState::Cancelled, reason(task, error)),
        Outcome::Retry { error, at } if undoing => {
            if undo_used_up(task) {
                stuck(task, error.clone())
            } else {
                let mut s = let_go(task, TaskState::Undoing);
                s.task.new.run_at = *at;
                s.task.error = error.clone();
                s
            }
        }
        Outcome::Retry { .. } | Outcome::Released if task.cancel_requested && !undoing => {
            end(task, now, TaskState::Cancelled, task.error.clone())
        }
        Outcome::Retry { error, .. } if used_up(task) => end(task, now, TaskState::Failed, error.clone()),
        Outcome::Retry { error, at } => {
            let mut s = let_go(task, waiting(*at, now));
            s.task.new.run_at = *at;
            s.task.error = error.clone();
            s
        }
        Outcome::Released => {
            let mut s = let_go(task, if undoing { TaskState::Undoing } else { TaskState::Ready });
            s.task.attempt = task.attempt.saturating_sub(1).max(0);
            s
        }
        Outcome::Undo { error } if !undoing => {
            Settlement::of(Task { state: TaskState::Undoing, error: reason(task, error), ..task.clone() })
        }
        Outcome::Undone if undoing => {
            let state = if task.cancel_requested { TaskState::Cancelled } else { TaskState::Failed };
            end(task, now, state, task.error.clone())
        }
        Outcome::Stuck { error } => stuck(task, error.clone()),
        _ => return Err(TaskError::Conflict { id: task.new.id, what: "ended this way in its state" }),
    };
    Ok(settlement)
}

/// What follows when the lease of a held task has run out.
pub fn lapse(task: &Task, now: Timestamp) -> (Lapse, Settlement) {
    let starts = task.attempt;
    if task.state == TaskState::Undoing {
        return if undo_used_up(task) {
            (Lapse::Exhausted, stuck(task, format!("its worker was lost while undoing, after {starts} starts")))
        } else {
            (Lapse::Released, let_go(task, TaskState::Undoing))
        };
    }
    if task.cancel_requested {
        return (Lapse::Released, end(task, now, TaskState::Cancelled, task.error.clone()));
    }
    if used_up(task) {
        let max = task.new.max_attempts.max(1);
        let error = format!("its worker was lost in attempt {starts} of {max}");
        return (Lapse::Exhausted, end(task, now, TaskState::Failed, error));
    }
    let mut s = let_go(task, TaskState::Ready);
    s.task.error = "its worker was lost".into();
    (Lapse::Released, s)
}

/// What follows for a task that was not started by its `start_by`.
pub fn expire(task: &Task, now: Timestamp) -> Settlement {
    let by = task.new.start_by.unwrap_or(now);
    end(task, now, TaskState::Expired, format!("it was not started by {by}"))
}

/// What follows for a task that has not ended by its deadline: failed when a worker is at it, expired when nobody is.
pub fn overdue(task: &Task, now: Timestamp) -> Settlement {
    let by = task.new.deadline.unwrap_or(now);
    let worked_on = task.state == TaskState::Running && task.lease_until.is_some_and(|until| until > now);
    let state = if worked_on { TaskState::Failed } else { TaskState::Expired };
    end(task, now, state, format!("it had not ended by {by}"))
}

/// What follows from a wish to cancel. A stuck task is given up; one that undoes goes on undoing.
pub fn cancel(task: &Task, now: Timestamp, reason: &str) -> (CancelReply, Settlement) {
    let reason = if reason.is_empty() { "cancelled" } else { reason };
    match task.state {
        TaskState::Running => {
            let wished = Task { cancel_requested: true, error: reason.to_owned(), ..task.clone() };
            (CancelReply::Requested, Settlement::of(wished))
        }
        TaskState::Undoing => (CancelReply::Requested, Settlement::of(task.clone())),
        state if state.is_terminal() => (CancelReply::AlreadyEnded, Settlement::of(task.clone())),
        _ => (CancelReply::Cancelled, end(task, now, TaskState::Cancelled, reason.to_owned())),
    }
}

/// The copy that follows a task which failed for good, when it has retries left, nobody wished it to stop, and
/// it could still start and end in time. It does not wait for the tasks that the first one waited for: they
/// have succeeded.
pub fn retry_copy(task: &Task, now: Timestamp) -> Option<NewTask> {
    let in_time = |at: Option<Timestamp>| at.is_none_or(|at| at >= now);
    if task.new.retries <= 0 || task.cancel_requested || !in_time(task.new.start_by) || !in_time(task.new.deadline) {
        return None;
    }
    let mut copy = task.new.clone();
    copy.id = retry_id(task.new.id, task.new.retries, now);
    copy.retries -= 1;
    copy.run_at = now;
    copy.after = Vec::new();
    copy.links.parent = Some(task.new.id);
    Some(copy)
}

/// The id of a retry copy. Stores have no randomness, and an id must not depend on which of them decides: it has
/// the form of a version-7 uuid, `now` in front, so that it sorts by its age like any other, and 74 bits mixed from
/// the old id and the number of retries it had left.
pub fn retry_id(old: TaskId, retries: i32, now: Timestamp) -> TaskId {
    derived_id(old, mix(u64::from(retries.unsigned_abs())), now)
}

fn derived_id(old: TaskId, salt: u64, now: Timestamp) -> TaskId {
    let (high, low) = old.uuid().as_u64_pair();
    let a = mix(high ^ mix(low ^ salt));
    let b = mix(a ^ low.rotate_left(32));
    let millis = u64::try_from(now.as_millis()).unwrap_or(0) & 0xffff_ffff_ffff;
    TaskId::from_uuid(Uuid::from_u64_pair((millis << 16) | 0x7000 | (a & 0xfff), (0b10 << 62) | (b >> 2)))
}

/// The counts of [`crate::TaskStats::live`]: every state that is no end, in the order of the table.
pub fn live_counts(count: impl Fn(TaskState) -> u64) -> Vec<(String, u64)> {
    let live = TaskState::ALL.into_iter().filter(|s| !s.is_terminal());
    live.map(|s| (s.to_string(), count(s))).collect()
}

/// The finaliser of splitmix64.
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Why the worker stopped; the reason that came with the wish when it gives none.
fn reason(task: &Task, error: &str) -> String {
    match (error, task.error.as_str()) {
        ("", wish) if task.cancel_requested && !wish.is_empty() => wish.to_owned(),
        ("", _) => "cancelled".to_owned(),
        (error, _) => error.to_owned(),
    }
}

fn waiting(run_at: Timestamp, now: Timestamp) -> TaskState {
    if run_at > now { TaskState::Scheduled } else { TaskState::Ready }
}

fn used_up(task: &Task) -> bool {
    task.attempt >= task.new.max_attempts.max(1)
}

fn undo_used_up(task: &Task) -> bool {
    task.attempt >= task.new.max_attempts.max(1).saturating_add(UNDO_STARTS)
}

fn whole(progress: &Progress) -> Progress {
    let total = progress.total.max(progress.done).max(1);
    Progress { done: total, total, message: progress.message.clone() }
}

/// Takes the task from its worker, whose name and fence stay to be read.
fn let_go(task: &Task, state: TaskState) -> Settlement {
    Settlement::of(Task { state, lease_until: None, ..task.clone() })
}

fn stuck(task: &Task, error: String) -> Settlement {
    Settlement::of(Task { state: TaskState::Stuck, lease_until: None, error, ..task.clone() })
}

/// Ends the task, and adds what must follow an end other than success.
fn end(task: &Task, now: Timestamp, state: TaskState, error: String) -> Settlement {
    debug_assert!(task.state.can_become(state), "{} to {state}", task.state);
    let mut s = end_for_good(task, now, state, error);
    if let Some(copy) = retry_copy(task, now).filter(|_| state == TaskState::Failed) {
        s.successor = Some(copy.id);
        s.enqueue = vec![copy];
    }
    s
}

/// Ends the task; cleaning up follows every end other than success.
fn end_for_good(task: &Task, now: Timestamp, state: TaskState, error: String) -> Settlement {
    let ended = Task { state, error, lease_until: None, finished: Some(now), wait_reason: None, ..task.clone() };
    let mut s = Settlement::of(ended);
    if state != TaskState::Succeeded {
        s.enqueue.extend(task.new.on_failure.as_deref().cloned());
    }
    s
}
