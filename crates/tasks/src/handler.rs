//! What does the work of one kind of task.

use crate::context::TaskContext;
use crate::store::TaskError;
use crate::task::{Json, NewTask};
use async_trait::async_trait;
use std::fmt;
use std::time::Duration;

/// Does the work of one kind of task.
///
/// A worker may be lost at any instant and another one start over, so `run` is written to be repeated: what must
/// not happen twice is a [`TaskContext::step`], or carries the [`TaskContext::fence`], or is part of a unit of work
/// that also ends the task ([`Done::Settled`]).
#[async_trait]
pub trait Handler: Send + Sync {
    /// The kind that it handles, as in [`NewTask::kind`].
    fn kind(&self) -> &'static str;

    /// Does the work. It looks at [`TaskContext::check`] between pieces of work, and stops when told to.
    async fn run(&self, context: &TaskContext) -> Result<Done, TaskFailure>;

    /// Undoes what `run` and its recorded steps did. Called after a failure for good or a cancellation when
    /// [`Handler::undoes`]; also on another worker, and more than once. A transient failure is tried again; any
    /// other leaves the task stuck.
    async fn undo(&self, context: &TaskContext) -> Result<(), TaskFailure> {
        let _ = context;
        Ok(())
    }

    /// Whether there is anything to undo.
    fn undoes(&self) -> bool {
        false
    }
}

/// How the work went well.
#[derive(Debug, Clone, PartialEq)]
pub enum Done {
    /// With this output.
    Output(Json),
    /// With this output, and the next links of its chain.
    Next {
        /// The output.
        output: Json,
        /// Enqueued in the same transaction.
        next: Vec<NewTask>,
    },
    /// The handler has ended the task itself, by a unit of work that carried the [`crate::Finish`].
    Settled,
}

/// Why the work did not go well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFailure {
    /// For people.
    pub message: String,
    /// Trying again later may help.
    pub transient: bool,
    /// The task is no longer this worker's: nothing is recorded.
    pub lost: bool,
    /// The work stopped because it was told to.
    pub cancelled: bool,
    /// How long to wait before the next attempt; the engine's own backoff when nothing.
    pub retry_after: Option<Duration>,
}

impl TaskFailure {
    /// Failed for good.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self { message: message.into(), transient: false, lost: false, cancelled: false, retry_after: None }
    }

    /// Failed for now.
    pub fn transient(message: impl Into<String>) -> Self {
        Self { transient: true, ..Self::fatal(message) }
    }

    /// The task belongs to another worker by now.
    pub fn lost() -> Self {
        Self { lost: true, ..Self::fatal("the task is no longer held") }
    }

    /// Stopped as it was told to. At a shutdown the task is given back; else it ends as cancelled, for the reason
    /// that was given with the wish.
    pub fn cancelled() -> Self {
        Self { cancelled: true, ..Self::fatal("") }
    }

    /// The same, with a pause before the next attempt.
    #[must_use]
    pub fn after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }
}

impl fmt::Display for TaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cancelled && self.message.is_empty() { f.write_str("stopped") } else { f.write_str(&self.message) }
    }
}

impl std::error::Error for TaskFailure {}

impl From<TaskError> for TaskFailure {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Lost(_) => Self::lost(),
            TaskError::Store(_) => Self::transient(error.to_string()),
            _ => Self::fatal(error.to_string()),
        }
    }
}
