//! Answers at once over durable work.
//!
//! A caller who wants a node waits for the task that makes it. When the wait ends without an answer – the time is
//! over, the caller hung up, the process died – the task goes on, and the *next equal request* is taken for the
//! repetition: it gets the same task. So the task is noted as owed, in the unit that enqueues it, until somebody has
//! been told how it ended. Equal requests that are made side by side, each waiting for its own answer, are as many
//! tasks.

use super::known::raced;
use crate::error::InventoryError;
use crate::service::Inventory;
use portolan_model::query::{Filter, Page, Sort};
use portolan_model::*;
use portolan_storage::{Query, Replay, StorageExt, StoreError, Stored, UnitOfWork};
use portolan_tasks::{EndBell, NewTask, Ran, RunThrough, Task, TaskError, TaskStore, TaskStoreExt};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// How long an answer is owed.
const OWED: Duration = Duration::from_secs(24 * 60 * 60);
/// How many owed answers to equal requests are looked at.
const LOOKED_AT: u64 = 64;

/// What this process waits for.
pub(crate) struct Waits {
    /// This run of this process.
    process: Uuid,
    bell: Arc<EndBell>,
    /// Tasks that somebody here waits for.
    attended: Mutex<HashSet<TaskId>>,
}

impl std::fmt::Debug for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waits").finish_non_exhaustive()
    }
}

impl Waits {
    pub(crate) fn new(process: Uuid, bell: Arc<EndBell>) -> Self {
        Self { process, bell, attended: Mutex::default() }
    }

    /// Waits on behalf of somebody; nothing when somebody here does already. Ends with the guard, however the wait
    /// ends.
    fn attend(self: &Arc<Self>, id: TaskId) -> Option<Attending> {
        let mut attended = self.attended.lock().unwrap_or_else(PoisonError::into_inner);
        attended.insert(id).then(|| Attending { waits: Arc::clone(self), id })
    }
}

/// How long a caller waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    /// For the cloud to say what there is, before anything is begun.
    pub(super) asking: Duration,
    /// For the answer.
    pub(super) in_all: Duration,
}

impl Waiting {
    /// So long in all.
    pub(super) fn of(within: Duration) -> Self {
        Self { asking: within, in_all: within }
    }
}

struct Attending {
    waits: Arc<Waits>,
    id: TaskId,
}

impl Drop for Attending {
    fn drop(&mut self) {
        self.waits.attended.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// A request, so that a repetition is known.
pub(super) enum Asked {
    /// By its task: its sender named it, and sends it again under that name.
    Named(TaskId),
    /// By who asks, and the words.
    InWords(String),
}

impl Asked {
    /// What a caller wants done by a task of the kind, in words.
    pub(super) fn new(caller: &Caller, kind: &str, words: &[&str]) -> Self {
        named(caller, kind).map_or_else(|| Self::InWords(fingerprint(caller, kind, words)), Self::Named)
    }
}

fn fingerprint(caller: &Caller, what: &str, parts: &[&str]) -> String {
    let mut hash = blake3::Hasher::new();
    let account = caller.account.map(|a| a.to_string()).unwrap_or_default();
    let scope = format!("{:?}", caller.scope);
    for part in [what, &account, &caller.login, &scope].into_iter().chain(parts.iter().copied()) {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    format!("{what}:{}", hash.finalize().to_hex())
}

impl Inventory {
    /// The task of an earlier equal request whose answer is still owed, now waited for on behalf of this one.
    async fn owed(
        &self,
        fingerprint: &str,
        within: Duration,
    ) -> Result<Option<(Attending, Stored<Replay>)>, InventoryError> {
        let query = Query {
            filter: Filter::eq("fingerprint", fingerprint),
            sort: Sort::default(),
            page: Page::first(LOOKED_AT),
            count: false,
        };
        for mut note in self.storage.list_of::<Replay>(Scope::All, query).await?.items {
            let now = self.clock.now();
            let elsewhere = note.holder != self.waits.process.to_string();
            let waited_for = elsewhere && !self.rules.alone && note.held_until > now;
            // One that nobody asked for again in time is nobody's any more, also before it is swept.
            if waited_for || note.expires <= now {
                continue;
            }
            let Some(guard) = self.waits.attend(TaskId::from_uuid(note.id.uuid())) else { continue };
            note.holder = self.waits.process.to_string();
            note.held_until = now + within;
            match self.storage.apply(now, Scope::All, UnitOfWork::new().update(&note)).await {
                Ok(_) => {
                    note.version += 1;
                    return Ok(Some((guard, note)));
                }
                // Another process took it, or it has been answered by now.
                Err(e) if raced(&e) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(None)
    }

    /// Runs a task for a caller who waits, or waits for that of an earlier equal request whose answer is still owed.
    /// `make` builds the unit that enqueues it; it is not called in the second case. `Failed` when that takes too long.
    pub(super) async fn run_owed<F, Fut>(&self, asked: Asked, waiting: Waiting, make: F) -> Result<Task, InventoryError>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<(UnitOfWork, TaskId), InventoryError>> + Send,
    {
        let begun = Instant::now();
        let left = || waiting.in_all.saturating_sub(begun.elapsed());
        let fingerprint = match asked {
            Asked::Named(id) => {
                // What its first sending began may have ended: by now the cloud may not have what the request
                // speaks of.
                match self.storage.task(Scope::All, id).await {
                    Ok(_) => {}
                    Err(TaskError::NotFound(_)) => {
                        let (unit, _) = bounded(waiting.asking, make()).await?;
                        match self.storage.apply(self.clock.now(), Scope::All, unit).await {
                            Ok(_) => {}
                            // Another sending was faster.
                            Err(e) if raced(&e) => {}
                            Err(e) => return Err(e.into()),
                        }
                    }
                    Err(e) => return Err(e.into()),
                }
                return self.wait_for(id, left()).await;
            }
            Asked::InWords(fingerprint) => fingerprint,
        };
        let (guard, note) = match self.owed(&fingerprint, waiting.in_all).await? {
            Some(owed) => owed,
            None => {
                let (unit, id) = bounded(waiting.asking, make()).await?;
                let now = self.clock.now();
                let note = Replay {
                    id: EventId::from_uuid(id.uuid()),
                    fingerprint,
                    holder: self.waits.process.to_string(),
                    held_until: now + left(),
                    answer: None,
                    expires: now + OWED,
                };
                // The id is new, so nobody attends it yet.
                let guard = self.waits.attend(id).ok_or_else(|| InventoryError::Failed("an id came twice".into()))?;
                self.storage.apply(now, Scope::All, unit.create(&note)).await?;
                (guard, Stored { version: 1, value: note })
            }
        };
        let id = TaskId::from_uuid(note.id.uuid());
        let task = self.wait_for(id, left()).await?;
        self.settle(note).await;
        drop(guard);
        Ok(task)
    }

    async fn wait_for(&self, id: TaskId, within: Duration) -> Result<Task, InventoryError> {
        let store: Arc<dyn TaskStore> = self.storage.clone();
        let wait = RunThrough::new(store, Arc::clone(&self.clock)).hearing(Arc::clone(&self.waits.bell));
        match wait.wait(id, within).await? {
            Ran::Ended(task) => Ok(*task),
            Ran::Going(id) => Err(InventoryError::StillRunning(id)),
        }
    }

    /// Notes that the answer is known to somebody. When that fails the note stays: an equal request within a day gets
    /// the same answer once more, which is wrong only if it meant another node; so it is tried again.
    async fn settle(&self, note: Stored<Replay>) {
        let mut tries = 0;
        loop {
            let unit = UnitOfWork::new().delete::<Replay>(note.id);
            match self.storage.apply(self.clock.now(), Scope::All, unit).await {
                Ok(_) => return,
                Err(StoreError::Unavailable(_)) if tries < 3 => tries += 1,
                Err(e) => {
                    tracing::warn!(error = &e as &dyn std::error::Error, task = %note.id, "an answer stays owed");
                    return;
                }
            }
        }
    }
}

/// Nothing has been begun when this is given up.
async fn bounded<T>(
    within: Duration,
    work: impl Future<Output = Result<T, InventoryError>>,
) -> Result<T, InventoryError> {
    let given_up = |_| InventoryError::Failed("the cloud does not answer".into());
    tokio::time::timeout(within, work).await.map_err(given_up)?
}

/// What an ended task came to, as an answer to who waited for it.
pub(super) fn outcome(task: Task) -> Result<portolan_tasks::Json, InventoryError> {
    if task.state == TaskState::Succeeded {
        return Ok(task.output);
    }
    let text = if task.error.is_empty() { "the work was stopped".to_owned() } else { task.error };
    Err(InventoryError::Failed(text))
}

/// The parts of a task that all work on nodes has in common.
pub(super) fn node_task(
    inventory: &Inventory,
    caller: &Caller,
    kind: &str,
    id: TaskId,
    platform: PlatformId,
    payload: portolan_tasks::Json,
) -> NewTask {
    let now = inventory.clock.now();
    NewTask {
        id,
        kind: kind.to_owned(),
        tenant: caller.scope.tenant(),
        chain: ChainId::from_uuid(inventory.ids.uuid()),
        // Somebody waits.
        priority: 80,
        run_at: now,
        start_by: None,
        deadline: Some(now + inventory.rules.task_limit),
        max_attempts: 10,
        retries: 0,
        payload,
        links: portolan_tasks::TaskLinks { platform: Some(platform), ..Default::default() },
        after: Vec::new(),
        unique_key: None,
        limits: Vec::new(),
        requires: vec![format!("platform:{platform}")],
        on_failure: None,
        origin: crate::service::user_origin(caller),
    }
}

impl Inventory {
    /// The id of the task that a request begins: derived where its sender named the request.
    pub(super) fn task_id(&self, caller: &Caller, kind: &str) -> TaskId {
        named(caller, kind).unwrap_or_else(|| TaskId::from_uuid(self.ids.uuid()))
    }
}

fn named(caller: &Caller, kind: &str) -> Option<TaskId> {
    caller.request.map(|key| TaskId::from_uuid(key.derive(kind, 0)))
}
