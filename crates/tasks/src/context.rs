//! What a handler is given.

use crate::handler::TaskFailure;
use crate::store::{Claimed, TaskError, TaskStore};
use crate::task::{Held, Json, Progress, Task};
use portolan_model::{Clock, TaskState, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Why a handler should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopReason {
    /// The process stops: the task will be given back, and another worker goes on.
    Shutdown,
    /// Somebody wants the task to end.
    Cancel,
    /// The hold is over: another worker may be at it already, and nothing that is written now counts.
    Lost,
}

/// A token with the reason why it fired; a stronger reason replaces a weaker.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    token: CancellationToken,
    reason: AtomicU8,
}

impl Stop {
    pub(crate) fn fire(&self, reason: StopReason) {
        let code = match reason {
            StopReason::Shutdown => 1,
            StopReason::Cancel => 2,
            StopReason::Lost => 3,
        };
        self.reason.fetch_max(code, Ordering::SeqCst);
        self.token.cancel();
    }

    pub(crate) fn reason(&self) -> Option<StopReason> {
        match self.reason.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(StopReason::Shutdown),
            2 => Some(StopReason::Cancel),
            _ => Some(StopReason::Lost),
        }
    }
}

/// One attempt at a task, as its handler sees it.
pub struct TaskContext {
    task: Task,
    store: Arc<dyn TaskStore>,
    clock: Arc<dyn Clock>,
    steps: Mutex<Vec<(String, Json)>>,
    stop: Arc<Stop>,
    progress: Arc<Mutex<Option<Progress>>>,
}

impl TaskContext {
    /// A context outside of an engine, for tests of handlers: nobody beats for it, nothing tells it to stop.
    pub fn new(store: Arc<dyn TaskStore>, clock: Arc<dyn Clock>, claimed: Claimed) -> Self {
        Self::within(store, clock, claimed, Arc::default(), Arc::default())
    }

    pub(crate) fn within(
        store: Arc<dyn TaskStore>,
        clock: Arc<dyn Clock>,
        claimed: Claimed,
        stop: Arc<Stop>,
        progress: Arc<Mutex<Option<Progress>>>,
    ) -> Self {
        Self { task: claimed.task, store, clock, steps: Mutex::new(claimed.steps), stop, progress }
    }

    /// The same attempt, now undoing: what told the run to stop does not disturb it.
    pub(crate) fn for_undo(&self, stop: Arc<Stop>) -> Self {
        Self {
            task: Task { state: TaskState::Undoing, ..self.task.clone() },
            store: self.store.clone(),
            clock: self.clock.clone(),
            steps: Mutex::new(self.steps()),
            stop,
            progress: self.progress.clone(),
        }
    }

    /// The task as it was claimed.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The proof that the task is this worker's, for units of work.
    pub fn held(&self) -> Held {
        self.task.held()
    }

    /// The fence, for agents and devices that can refuse an older one.
    pub fn fence(&self) -> i64 {
        self.task.fence
    }

    /// The present instant.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Fires when the handler should stop, for whichever reason.
    pub fn cancel_token(&self) -> &CancellationToken {
        &self.stop.token
    }

    /// Why the handler should stop; nothing while it should go on.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.stop.reason()
    }

    /// Fails once the handler should stop, with the failure to return.
    pub fn check(&self) -> Result<(), TaskFailure> {
        match self.stop_reason() {
            None => Ok(()),
            Some(StopReason::Lost) => Err(TaskFailure::lost()),
            Some(_) => Err(TaskFailure::cancelled()),
        }
    }

    /// Waits for `work`, or drops it when the handler should stop.
    pub async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, TaskFailure>>,
    ) -> Result<T, TaskFailure> {
        tokio::select! {
            result = work => result,
            () = self.stop.token.cancelled() => {
                self.check()?;
                Err(TaskFailure::cancelled())
            }
        }
    }

    /// Notes how far the work is; the next sign of life stores it. Costs nothing.
    pub fn progress(&self, done: i64, total: i64, message: impl Into<String>) {
        *lock(&self.progress) = Some(Progress { done, total, message: message.into() });
    }

    /// The recorded steps, in the order in which they were first recorded.
    pub fn steps(&self) -> Vec<(String, Json)> {
        lock(&self.steps).clone()
    }

    /// The output of a step that was recorded, in this attempt or an earlier one.
    pub fn recorded(&self, name: &str) -> Option<Json> {
        lock(&self.steps).iter().find(|(step, _)| step == name).map(|(_, output)| output.clone())
    }

    /// Does `work` unless it was done before, and returns its output. Between the work and its record lies a
    /// moment in which the process can die: the work itself must bear to be repeated.
    ///
    /// Fails when the handler should stop, when the work fails, when a recorded output is not a `T`, and as lost
    /// when the task is no longer held.
    pub async fn step<T, W, F>(&self, name: &str, work: W) -> Result<T, TaskFailure>
    where
        T: Serialize + DeserializeOwned,
        W: FnOnce() -> F,
        F: Future<Output = Result<T, TaskFailure>>,
    {
        if let Some(output) = self.recorded(name) {
            return serde_json::from_value(output)
                .map_err(|e| TaskFailure::fatal(format!("the recorded step '{name}' cannot be read: {e}")));
        }
        self.check()?;
        let output = work().await?;
        let json = serde_json::to_value(&output)
            .map_err(|e| TaskFailure::fatal(format!("the step '{name}' cannot be recorded: {e}")))?;
        self.record(name, json).await?;
        Ok(output)
    }

    /// A store that fails is asked again for as long as the task is held: the work is done, and must not be lost.
    async fn record(&self, name: &str, output: Json) -> Result<(), TaskFailure> {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.store.step(self.now(), self.held(), name, output.clone()).await {
                Ok(()) => {
                    lock(&self.steps).push((name.to_owned(), output));
                    return Ok(());
                }
                Err(TaskError::Store(_)) if self.stop_reason() != Some(StopReason::Lost) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Err(error) => {
                    let failure = TaskFailure::from(error);
                    if failure.lost || self.stop_reason() == Some(StopReason::Lost) {
                        self.stop.fire(StopReason::Lost);
                        return Err(TaskFailure::lost());
                    }
                    return Err(failure);
                }
            }
        }
    }
}

/// The data behind these locks is whole at every instant, so a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
