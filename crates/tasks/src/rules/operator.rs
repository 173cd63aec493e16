//! What an operator asks of a task that has stopped.

use super::{Settlement, derived_id, end_for_good, mix};
use crate::store::{RetryReply, TaskError};
use crate::task::{NewTask, Task};
use portolan_model::task_state::TaskState;
use portolan_model::{TaskId, Timestamp};

/// What follows from a wish to try again.
#[derive(Debug, Clone, PartialEq)]
pub enum Retrial {
    /// The task itself goes on.
    Itself(RetryReply, Box<Settlement>),
    /// The task has ended and stays so; this copy is enqueued.
    Copy(Box<NewTask>),
}

/// What follows when an operator wants a task tried again.
///
/// * A stuck one is undone again: it is back in state `Undoing`, due now, held by nobody, and its undo may be started
///   [`super::UNDO_STARTS`] times more. It ends as it would have ended before it was stuck.
/// * One that ended as `Failed`, `Cancelled` or `Expired` gets a copy of the same content in the same chain, under the
///   id `new_id`, due now: windows that have passed are dropped, it waits for no other task, and its parent is the old
///   one. What cleans up after it gets ids of its own, since that of the old one has been enqueued already. Tasks
///   that were cut off with the old one are not brought back.
/// * One in state `Scheduled` after an attempt waits for its next; it is due now.
///
/// Anything else is [`TaskError::Conflict`].
pub fn retry(task: &Task, now: Timestamp, new_id: TaskId) -> Result<Retrial, TaskError> {
    let itself = |reply, task| Ok(Retrial::Itself(reply, Box::new(Settlement::of(task))));
    match task.state {
        TaskState::Stuck => {
            let mut again = Task { state: TaskState::Undoing, lease_until: None, ..task.clone() };
            again.attempt = task.attempt.min(task.new.max_attempts.max(1));
            again.new.run_at = now;
            itself(RetryReply::Undoing, again)
        }
        TaskState::Failed | TaskState::Cancelled | TaskState::Expired => {
            let mut copy = anew(&task.new, new_id, now);
            copy.run_at = now;
            copy.after = Vec::new();
            copy.links.parent = Some(task.new.id);
            Ok(Retrial::Copy(Box::new(copy)))
        }
        TaskState::Scheduled if task.attempt > 0 => {
            let mut hastened = Task { state: TaskState::Ready, ..task.clone() };
            hastened.new.run_at = task.new.run_at.min(now);
            itself(RetryReply::Hastened, hastened)
        }
        _ => Err(TaskError::Conflict { id: task.new.id, what: "tried again in its state" }),
    }
}

/// What follows when an operator gives up on a stuck task; any other is [`TaskError::Conflict`]. No copy follows: that
/// is what giving up means.
pub fn abandon(task: &Task, now: Timestamp, reason: &str) -> Result<Settlement, TaskError> {
    if task.state != TaskState::Stuck {
        return Err(TaskError::Conflict { id: task.new.id, what: "abandoned unless it is stuck" });
    }
    let note = if reason.is_empty() { "abandoned".to_owned() } else { format!("abandoned: {reason}") };
    let error = if task.error.is_empty() { note } else { format!("{}; {note}", task.error) };
    Ok(end_for_good(task, now, TaskState::Failed, error))
}

/// The same task under another id, without the windows that have passed; so are those that clean up after it.
fn anew(old: &NewTask, id: TaskId, now: Timestamp) -> NewTask {
    let to_come = |at: &Timestamp| *at >= now;
    let (high, low) = id.uuid().as_u64_pair();
    let clean_up = old.on_failure.as_deref().map(|clean| {
        let salt = mix(high ^ mix(low));
        Box::new(anew(clean, derived_id(clean.id, salt, now), now))
    });
    NewTask {
        id,
        start_by: old.start_by.filter(to_come),
        deadline: old.deadline.filter(to_come),
        on_failure: clean_up,
        ..old.clone()
    }
}
