//! One attempt at one task.

use super::drain::Running;
use super::ends::End;
use super::stats::{KindStats, add};
use super::{Inner, Run};
use crate::context::{Stop, StopReason, TaskContext, lock};
use crate::handler::{Done, Handler, TaskFailure};
use crate::store::{Claimed, TaskError};
use crate::task::{Finish, Held, NewTask, Outcome, Progress};
use futures_util::FutureExt;
use portolan_model::TaskState;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// What the engine's loops know of an attempt.
pub(super) struct Attempt {
    pub(super) held: Held,
    pub(super) kind: &'static str,
    /// For the run and for the undo: a wish to cancel is for the run alone.
    run: Arc<Stop>,
    undo: Arc<Stop>,
    lost: CancellationToken,
    progress: Arc<Mutex<Option<Progress>>>,
    until: Mutex<Instant>,
}

impl Attempt {
    pub(super) fn new(held: Held, kind: &'static str, until: Instant) -> Self {
        Self {
            held,
            kind,
            run: Arc::default(),
            undo: Arc::default(),
            lost: CancellationToken::new(),
            progress: Arc::default(),
            until: Mutex::new(until),
        }
    }

    pub(super) fn stop(&self, reason: StopReason) {
        self.run.fire(reason);
        if reason != StopReason::Cancel {
            self.undo.fire(reason);
        }
        if reason == StopReason::Lost {
            self.lost.cancel();
        }
    }

    pub(super) fn renew(&self, until: Instant) {
        let mut now = lock(&self.until);
        *now = until.max(*now);
    }

    pub(super) fn take_progress(&self) -> Option<Progress> {
        lock(&self.progress).take()
    }

    /// Puts back progress that was not stored, unless there is newer.
    pub(super) fn give_back_progress(&self, progress: Option<Progress>) {
        let mut current = lock(&self.progress);
        if current.is_none() {
            *current = progress;
        }
    }

    /// Returns when the hold is over: because the store said so, or because nothing was heard of it for too long.
    /// Whatever hangs, the hold ends here before it ends in the store.
    async fn hold_over(&self) {
        tokio::select! {
            () = self.lost.cancelled() => {}
            () = self.lease_over() => {}
        }
    }

    /// Returns when nothing was heard of the hold for too long.
    async fn lease_over(&self) {
        loop {
            let until = *lock(&self.until);
            tokio::time::sleep_until(until).await;
            if *lock(&self.until) <= Instant::now() {
                self.stop(StopReason::Lost);
                return;
            }
        }
    }
}

/// Removes the attempt from the engine's list and frees its slot, also when the future is dropped.
struct Listed<'a>(&'a Inner, Held);

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        lock(&self.0.attempts).remove(&(self.1.id, self.1.fence));
        self.0.freed.notify_waiters();
    }
}

/// How a handler came back.
enum Came<T> {
    Back(Result<T, TaskFailure>),
    Panicked,
    /// It did not stop when it was told to.
    Dropped,
}

/// How an attempt ended, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Succeeded,
    Failed,
    Retried,
    Cancelled,
    Released,
    Lost,
}

/// Works at the task until its end is recorded, or until it is lost.
pub(super) async fn run(
    run: Run,
    attempt: Arc<Attempt>,
    handler: Arc<dyn Handler>,
    claimed: Claimed,
    _running: Running,
) {
    let _listed = Listed(&run.inner, attempt.held);
    let task = &claimed.task;
    let span = tracing::info_span!(
        "task",
        task.id = %task.new.id,
        task.kind = attempt.kind,
        attempt = task.attempt,
        fence = task.fence,
    );
    let none = KindStats::default();
    let stats = run.inner.stats.kind(attempt.kind).unwrap_or(&none);
    add(&stats.started, 1);
    if task.attempt <= 1 {
        stats.wait.observe(run.inner.clock.now().since(task.new.run_at.max(task.created)));
    }
    let began = Instant::now();
    let ended = Work { run: &run, attempt: &attempt, handler: &*handler, stats }.work(claimed).instrument(span).await;
    stats.run.observe(began.elapsed());
    let counter = match ended {
        Ended::Succeeded => &stats.succeeded,
        Ended::Failed => &stats.failed,
        Ended::Retried => &stats.retried,
        Ended::Cancelled => &stats.cancelled,
        Ended::Released => &stats.released,
        Ended::Lost => &stats.lost,
    };
    add(counter, 1);
}

struct Work<'a> {
    run: &'a Run,
    attempt: &'a Attempt,
    handler: &'a dyn Handler,
    stats: &'a KindStats,
}

impl Work<'_> {
    async fn work(&self, claimed: Claimed) -> Ended {
        let inner = &self.run.inner;
        let undoing = claimed.task.state == TaskState::Undoing;
        let (stop, progress) = (self.attempt.run.clone(), self.attempt.progress.clone());
        let context = TaskContext::within(inner.store.clone(), inner.clock.clone(), claimed, stop, progress);
        if self.run.shutdown.is_cancelled() {
            return self.record(Outcome::Released, Vec::new()).await;
        }
        if undoing {
            return self.undo(&context).await;
        }
        tracing::debug!("started");
        let came = self.guarded(self.handler.run(&context)).await;
        if self.attempt.lost.is_cancelled() && !matches!(came, Came::Back(Ok(Done::Settled))) {
            return self.forget("the hold is over, the result is discarded");
        }
        match came {
            Came::Back(Ok(Done::Output(output))) => self.record(Outcome::Succeeded { output }, Vec::new()).await,
            Came::Back(Ok(Done::Next { output, next })) => self.record(Outcome::Succeeded { output }, next).await,
            Came::Back(Ok(Done::Settled)) => {
                inner.bell.ring(self.attempt.held.id);
                tracing::debug!("ended by a unit of work");
                Ended::Succeeded
            }
            Came::Back(Err(failure)) => self.failed(&context, failure).await,
            Came::Panicked => self.failed(&context, TaskFailure::fatal("internal error")).await,
            Came::Dropped => self.record(Outcome::Released, Vec::new()).await,
        }
    }

    async fn failed(&self, context: &TaskContext, failure: TaskFailure) -> Ended {
        if failure.lost {
            return self.forget("the task belongs to another worker");
        }
        let shutdown = context.stop_reason() == Some(StopReason::Shutdown);
        if shutdown && (failure.cancelled || failure.transient) {
            return self.record(Outcome::Released, Vec::new()).await;
        }
        let task = context.task();
        // A wish to stop makes a transient failure the last, as do used up attempts.
        let last = task.attempt >= task.new.max_attempts.max(1) || context.stop_reason() == Some(StopReason::Cancel);
        if failure.transient && !(last && self.handler.undoes()) {
            let pause = failure.retry_after.unwrap_or_else(|| self.run.inner.backoff(task.attempt));
            tracing::info!(error = %failure, ?pause, "failed for now");
            let at = self.run.inner.clock.now() + pause;
            return self.record(Outcome::Retry { error: failure.message, at }, Vec::new()).await;
        }
        tracing::info!(error = %failure, cancelled = failure.cancelled, "did not succeed");
        let error = failure.message;
        if self.handler.undoes() {
            if let Err(ended) = self.commit(Outcome::Undo { error }, Vec::new()).await {
                return ended;
            }
            return self.undo(context).await;
        }
        let outcome = if failure.cancelled { Outcome::Cancelled { error } } else { Outcome::Failed { error } };
        self.record(outcome, Vec::new()).await
    }

    async fn undo(&self, context: &TaskContext) -> Ended {
        let context = context.for_undo(self.attempt.undo.clone());
        tracing::debug!("undoing");
        let came = self.guarded(self.handler.undo(&context)).await;
        if self.attempt.lost.is_cancelled() {
            return self.forget("the hold is over while undoing");
        }
        let shutdown = context.stop_reason() == Some(StopReason::Shutdown);
        let outcome = match came {
            Came::Back(Ok(())) => Outcome::Undone,
            Came::Back(Err(failure)) if failure.lost => return self.forget("the task belongs to another worker"),
            Came::Back(Err(failure)) if shutdown && (failure.cancelled || failure.transient) => Outcome::Released,
            Came::Back(Err(failure)) if failure.transient => {
                let pause = failure.retry_after.unwrap_or_else(|| self.run.inner.backoff(context.task().attempt));
                Outcome::Retry { error: failure.message, at: self.run.inner.clock.now() + pause }
            }
            Came::Back(Err(failure)) => Outcome::Stuck { error: failure.to_string() },
            Came::Panicked => Outcome::Stuck { error: "internal error".into() },
            Came::Dropped => Outcome::Released,
        };
        if let Outcome::Stuck { error } = &outcome {
            tracing::error!(error, "could not be undone");
        }
        self.record(outcome, Vec::new()).await
    }

    /// Waits for a handler. It is dropped when it goes on for the length of the grace after its hold was over, or
    /// after the engine was told to stop.
    async fn guarded<T>(&self, work: impl Future<Output = Result<T, TaskFailure>>) -> Came<T> {
        let overtime = async {
            tokio::select! {
                () = self.attempt.hold_over() => {
                    tracing::debug!("the hold is over");
                    tokio::time::sleep(self.run.inner.config.grace).await;
                }
                () = self.run.abandon.cancelled() => {}
            }
        };
        tokio::select! {
            biased;
            result = AssertUnwindSafe(work).catch_unwind() => match result {
                Ok(result) => Came::Back(result),
                Err(_) => {
                    add(&self.stats.panicked, 1);
                    tracing::error!("the handler panicked");
                    Came::Panicked
                }
            },
            () = overtime => Came::Dropped,
        }
    }

    fn forget(&self, why: &str) -> Ended {
        tracing::warn!(why, "lost");
        Ended::Lost
    }

    /// Records the end of the attempt, and says under which heading it counts.
    async fn record(&self, outcome: Outcome, next: Vec<NewTask>) -> Ended {
        let ended = match outcome {
            Outcome::Succeeded { .. } => Ended::Succeeded,
            Outcome::Failed { .. } | Outcome::Undo { .. } | Outcome::Undone | Outcome::Stuck { .. } => Ended::Failed,
            Outcome::Retry { .. } => Ended::Retried,
            Outcome::Cancelled { .. } => Ended::Cancelled,
            Outcome::Released => Ended::Released,
        };
        match self.commit(outcome, next).await {
            Ok(()) => {
                tracing::debug!(?ended, "ended");
                ended
            }
            Err(ended) => ended,
        }
    }

    /// Has an end recorded. What the store refuses for what it says, and not for whose it is, ends as a failure.
    async fn commit(&self, outcome: Outcome, next: Vec<NewTask>) -> Result<(), Ended> {
        let undoing = matches!(outcome, Outcome::Undone | Outcome::Stuck { .. });
        match self.send(Finish { held: self.attempt.held, outcome, next }).await {
            Ok(()) => Ok(()),
            Err(TaskError::Lost(_)) => Err(self.forget("another worker has taken over, or it has ended")),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the end was refused");
                let error = "internal error".to_owned();
                let outcome = if undoing { Outcome::Stuck { error } } else { Outcome::Failed { error } };
                let finish = Finish { held: self.attempt.held, outcome, next: Vec::new() };
                Err(if self.send(finish).await.is_ok() { Ended::Failed } else { Ended::Lost })
            }
        }
    }

    async fn send(&self, finish: Finish) -> Result<(), TaskError> {
        let lost = TaskError::Lost(finish.held.id);
        let (reply, answer) = oneshot::channel();
        let sent = async {
            if self.run.ends.send(End { finish, reply }).await.is_err() {
                return None;
            }
            answer.await.ok()
        };
        // A sign of life that overtakes the answer says that the task is no longer held, as it is not, having ended:
        // only time ends the wait.
        tokio::select! {
            biased;
            answer = sent => answer.unwrap_or(Err(lost)),
            () = self.attempt.lease_over() => Err(lost),
        }
    }
}
