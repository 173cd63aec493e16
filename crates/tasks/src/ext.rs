//! Comfort around the port.

use crate::context::lock;
use crate::store::{TaskError, TaskQuery, TaskStore};
use crate::task::{NewTask, Task};
use async_trait::async_trait;
use portolan_model::query::{Filter, Page};
use portolan_model::{Clock, Scope, TaskId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What every [`TaskStore`] can do beside.
#[async_trait]
pub trait TaskStoreExt: TaskStore {
    /// The task, ended or not.
    async fn task(&self, scope: Scope, id: TaskId) -> Result<Task, TaskError> {
        let query = TaskQuery { filter: Filter::eq("id", id.uuid()), page: Page::first(1), ..TaskQuery::default() };
        self.query(scope, &query).await?.tasks.pop().ok_or(TaskError::NotFound(id))
    }
}

impl<S: TaskStore + ?Sized> TaskStoreExt for S {}

/// Tells waiters in this process that an attempt at a task has ended, so that they need not poll for it.
#[derive(Debug, Default)]
pub struct EndBell(Mutex<HashMap<TaskId, (usize, Arc<Notify>)>>);

impl EndBell {
    /// Wakes who waits for the task.
    pub fn ring(&self, id: TaskId) {
        if let Some((_, bell)) = lock(&self.0).get(&id) {
            bell.notify_waiters();
        }
    }

    fn listen(self: &Arc<Self>, id: TaskId) -> Listener {
        let mut all = lock(&self.0);
        let (count, bell) = all.entry(id).or_default();
        *count += 1;
        Listener { id, bell: bell.clone(), of: self.clone() }
    }
}

impl EndBell {
    /// How many tasks are waited for.
    fn crowd(&self) -> usize {
        lock(&self.0).len()
    }
}

struct Listener {
    id: TaskId,
    bell: Arc<Notify>,
    of: Arc<EndBell>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut all = lock(&self.of.0);
        if let Some((count, _)) = all.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.id);
            }
        }
    }
}

/// How far a task came within the time that its caller had.
#[derive(Debug, Clone, PartialEq)]
pub enum Ran {
    /// It ended, or is stuck; it may have failed.
    Ended(Box<Task>),
    /// It goes on without its caller. To run an equal task (same id, or same unique key) is to wait for this one.
    Going(TaskId),
}

/// Lets a caller who wants an answer at once wait for a durable task.
pub struct RunThrough {
    store: Arc<dyn TaskStore>,
    clock: Arc<dyn Clock>,
    bell: Arc<EndBell>,
}

impl RunThrough {
    /// Waits by looking every now and then, less and less often, up to twice a second; the more tasks are waited for
    /// through one bell, the less often each.
    pub fn new(store: Arc<dyn TaskStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, bell: Arc::default() }
    }

    /// Also hears at once of tasks that an engine of this process ends, when both were given the same bell.
    #[must_use]
    pub fn hearing(mut self, bell: Arc<EndBell>) -> Self {
        self.bell = bell;
        self
    }

    /// Enqueues the task, or finds the equal one that is there, and waits until it has ended, for `within` at the
    /// most. Fails when the task cannot be enqueued, or when the store does not answer until then; what was
    /// enqueued goes on.
    pub async fn run(&self, task: NewTask, within: Duration) -> Result<Ran, TaskError> {
        let until = Instant::now() + within;
        let mut pause = FIRST_PAUSE;
        let id = loop {
            // The id makes this safe to repeat when an answer was lost.
            match self.store.enqueue(self.clock.now(), vec![task.clone()]).await {
                Ok(answers) => break answers.first().map_or(task.id, |answer| answer.id),
                Err(error @ TaskError::Store(_)) if Instant::now() >= until => return Err(error),
                Err(TaskError::Store(_)) => nap(&mut pause, until, self.bell.crowd()).await,
                Err(error) => return Err(error),
            }
        };
        self.wait(id, until.saturating_duration_since(Instant::now())).await
    }

    /// Waits until the task has ended, for `within` at the most.
    pub async fn wait(&self, id: TaskId, within: Duration) -> Result<Ran, TaskError> {
        let until = Instant::now() + within;
        let listener = self.bell.listen(id);
        let mut pause = FIRST_PAUSE;
        loop {
            let mut ring = std::pin::pin!(listener.bell.notified());
            // Registered before looking, so that an end in between is not missed.
            ring.as_mut().enable();
            match self.store.task(Scope::All, id).await {
                Ok(task) if task.state.is_settled() => return Ok(Ran::Ended(Box::new(task))),
                Ok(_) if Instant::now() >= until => return Ok(Ran::Going(id)),
                Err(error @ TaskError::Store(_)) if Instant::now() >= until => return Err(error),
                Ok(_) | Err(TaskError::Store(_)) => {}
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = ring => {}
                () = nap(&mut pause, until, self.bell.crowd()) => {}
            }
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// So many wait without anybody's looking less often: the bell tells most of them anyway, and a thousand that look twice
/// a second keep the store from the work that they wait for.
const A_FEW: usize = 16;

async fn nap(pause: &mut Duration, until: Instant, crowd: usize) {
    let longer = u32::try_from(1 + crowd / A_FEW).unwrap_or(u32::MAX);
    tokio::time::sleep_until((Instant::now() + pause.saturating_mul(longer)).min(until)).await;
    *pause = (*pause * 3 / 2).min(Duration::from_millis(500));
}
