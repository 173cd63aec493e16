//! What the handlers share.

use crate::cleanup::{BackupCleanupHandler, RestoreCleanupHandler};
use crate::clone::{CloneCleanupHandler, CloneHandler};
use crate::error::ProtectError;
use crate::export_task::ExportHandler;
use crate::instant_task::{InstantCleanupHandler, InstantHandler};
use crate::restore_task::{ImportHandler, RestoreHandler};
use crate::service::Protect;
use crate::store_task::StoreHandler;
use crate::trial::TrialHandler;
use crate::verify::VerifyHandler;
use portolan_block::BlockError;
use portolan_driver::DriverError;
use portolan_repository::{Observer, RepoError};
use portolan_storage::{Conflict, StoreError};
use portolan_tasks::{Handler, TaskContext, TaskError, TaskFailure};
use serde::de::DeserializeOwned;
use std::error::Error;
use std::sync::Arc;

/// Every handler of backup and restore, for the engine.
pub fn handlers(protect: &Protect) -> Vec<Arc<dyn Handler>> {
    vec![
        Arc::new(ExportHandler(protect.clone())),
        Arc::new(StoreHandler(protect.clone())),
        Arc::new(BackupCleanupHandler(protect.clone())),
        Arc::new(RestoreHandler(protect.clone())),
        Arc::new(ImportHandler(protect.clone())),
        Arc::new(RestoreCleanupHandler(protect.clone())),
        Arc::new(VerifyHandler(protect.clone())),
        Arc::new(TrialHandler(protect.clone())),
        Arc::new(CloneHandler(protect.clone())),
        Arc::new(CloneCleanupHandler(protect.clone())),
        Arc::new(InstantHandler(protect.clone())),
        Arc::new(InstantCleanupHandler(protect.clone())),
    ]
}

/// Reads the task's payload.
pub(crate) fn payload<T: DeserializeOwned>(ctx: &TaskContext) -> Result<T, ProtectError> {
    serde_json::from_value(ctx.task().new.payload.clone())
        .map_err(|e| ProtectError::Invalid(format!("the task's payload cannot be read: {e}")))
}

/// Hands progress to the task, and its wish to stop to the repository.
pub(crate) struct DiskProgress<'a> {
    ctx: &'a TaskContext,
    before: u64,
    total: u64,
    message: String,
}

impl<'a> DiskProgress<'a> {
    /// Progress of one disk of several: `before` bytes of `total` are done already. A `total` of zero is for work
    /// that knows its own.
    pub(crate) fn new(ctx: &'a TaskContext, before: u64, total: u64, message: String) -> Self {
        Self { ctx, before, total, message }
    }
}

impl Observer for DiskProgress<'_> {
    fn progress(&self, done: u64, total: u64) {
        let clamp = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let total = if self.total == 0 { total } else { self.total };
        self.ctx.progress(clamp(self.before.saturating_add(done)), clamp(total), &self.message);
    }

    fn cancelled(&self) -> bool {
        self.ctx.stop_reason().is_some()
    }
}

/// Waits for `work`, or drops it when the handler should stop: a platform that hangs must not keep a task that
/// somebody cancelled. Only for work that may be cut off anywhere, as by a crash.
pub(crate) async fn unless_stopped<T>(
    ctx: &TaskContext,
    work: impl Future<Output = Result<T, ProtectError>>,
) -> Result<T, ProtectError> {
    tokio::select! {
        biased;
        result = work => result,
        () = ctx.cancel_token().cancelled() => Err(ProtectError::Repository(RepoError::Cancelled)),
    }
}

/// Whether the error says that another worker has taken over, or that the task has ended.
pub(crate) fn is_lost(error: &ProtectError) -> bool {
    matches!(
        error,
        ProtectError::Store(StoreError::Conflict(Conflict::TaskLost(_)))
            | ProtectError::Tasks(TaskError::Lost(_))
            | ProtectError::Repository(RepoError::Fenced)
            | ProtectError::Driver(DriverError::Fenced)
    )
}

/// Whether the same link may succeed later without anybody changing anything.
pub(crate) fn is_transient(error: &ProtectError) -> bool {
    match error {
        ProtectError::Driver(e) => e.is_transient(),
        ProtectError::Repository(RepoError::Store { .. }) => true,
        ProtectError::Store(_) | ProtectError::Tasks(_) | ProtectError::Later(_) => true,
        _ => false,
    }
}

/// What an error means for the task: stop silently, try again, or fail with a text for people.
pub(crate) fn failure(ctx: &TaskContext, error: ProtectError) -> TaskFailure {
    if is_lost(&error) {
        return TaskFailure::lost();
    }
    if ctx.stop_reason().is_some() {
        return TaskFailure::cancelled();
    }
    let transient = is_transient(&error);
    tracing::warn!(task.id = %ctx.held().id, transient, error = &error as &dyn Error, "a link failed");
    let text = describe(&error);
    let retry_after = match error {
        ProtectError::Driver(DriverError::Unreachable { retry_after, .. }) => retry_after,
        _ => None,
    };
    if transient { TaskFailure { retry_after, ..TaskFailure::transient(text) } } else { TaskFailure::fatal(text) }
}

/// The error as people should read it: what went wrong with the disk or the platform, without internals of stores.
fn describe(error: &ProtectError) -> String {
    match error {
        ProtectError::Repository(RepoError::Source { disk, source }) => {
            format!("the disk '{disk}' cannot be read: {}", block_text(source))
        }
        ProtectError::Repository(RepoError::Sink { source }) => {
            format!("the target disk cannot be written: {}", block_text(source))
        }
        ProtectError::Driver(DriverError::Block(source)) => format!("a disk failed: {}", block_text(source)),
        other => other.to_string(),
    }
}

fn block_text(error: &BlockError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
