//! Why a task is not running yet.

use crate::task::Task;
use portolan_model::task_state::TaskState;
use portolan_model::{TaskId, Timestamp};

/// What a store knows when somebody asks why a task waits.
pub struct WaitContext<'a> {
    /// The latest instant that the store was told.
    pub now: Timestamp,
    /// The tasks that it still waits for, in the order of their ids.
    pub unmet: Vec<TaskId>,
    /// How many tasks hold a place of the limit with this key.
    pub used: &'a dyn Fn(&str) -> i32,
    /// The tags that each living node serves.
    pub nodes: &'a [&'a [String]],
}

/// Why a task that is not held does not run yet, for people; nothing when only a free worker is missing, or when
/// it does not wait at all. The first of: tasks before it, its time, a full limit, a tag that no node serves.
pub fn wait_reason(task: &Task, context: &WaitContext<'_>) -> Option<String> {
    if !super::is_queued(task) && task.state != TaskState::Blocked {
        return None;
    }
    if let Some(first) = context.unmet.first() {
        return Some(match context.unmet.len() - 1 {
            0 => format!("waits for the task {first}"),
            more => format!("waits for the task {first} and {more} more"),
        });
    }
    if task.new.run_at > context.now {
        return Some(format!("not before {}", task.new.run_at));
    }
    for (key, max) in super::limits(&task.new) {
        if (context.used)(&key) >= max {
            return Some(format!("the limit of {max} for {key} is full"));
        }
    }
    let requires = &task.new.requires;
    if let Some(tag) = requires.iter().find(|tag| !context.nodes.iter().any(|node| node.contains(tag))) {
        return Some(format!("no node serves the tag {tag}"));
    }
    if !requires.is_empty() && !context.nodes.iter().any(|node| requires.iter().all(|tag| node.contains(tag))) {
        return Some(format!("no node serves all of the tags {}", requires.join(", ")));
    }
    None
}
