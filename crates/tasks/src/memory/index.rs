//! The state, and the indexes that are kept in step with it.

use super::queue::Queue;
use crate::rules::{self, Settlement};
use crate::store::Enqueued;
use crate::task::{Held, Json, NewTask, Task};
use portolan_model::task_state::TaskState;
use portolan_model::{ChainId, TaskId, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Tasks in memory, without a lock: an adapter puts its own around it.
///
/// Every operation of [`crate::TaskStore`] is a method here, whole in itself. [`MemoryTasks::apply_unit`] is for
/// units of work that also touch other things: it changes nothing unless everything can be done.
#[derive(Debug, Default)]
pub struct MemoryTasks {
    pub(super) live: BTreeMap<TaskId, Task>,
    pub(super) history: BTreeMap<TaskId, Task>,
    pub(super) steps: HashMap<TaskId, Vec<(String, Json)>>,
    pub(super) chains: HashMap<ChainId, BTreeSet<TaskId>>,
    pub(super) ended: BTreeSet<(Timestamp, TaskId)>,
    pub(super) unique: HashMap<String, TaskId>,
    /// What each blocked task still waits for.
    pub(super) unmet: HashMap<TaskId, BTreeSet<TaskId>>,
    /// Who waits for a task: the other way round.
    pub(super) dependents: HashMap<TaskId, BTreeSet<TaskId>>,
    pub(super) queue: Queue,
    /// Ready and scheduled tasks by their time.
    pub(super) waiting: BTreeSet<(Timestamp, TaskId)>,
    /// How many held tasks have a place of each limit.
    pub(super) places: HashMap<String, i32>,
    pub(super) leases: BTreeSet<(Timestamp, TaskId)>,
    pub(super) start_by: BTreeSet<(Timestamp, TaskId)>,
    pub(super) deadlines: BTreeSet<(Timestamp, TaskId)>,
    pub(super) counts: BTreeMap<TaskState, u64>,
    /// Until when each node is taken to live, and what it serves.
    pub(super) nodes: BTreeMap<String, (Timestamp, Vec<String>)>,
    pub(super) fence: i64,
    /// The latest instant that any operation was told.
    pub(super) now: Timestamp,
    woken: bool,
}

impl MemoryTasks {
    /// No tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a task became claimable since this was last asked: the owner then rings its wakeup.
    pub fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// The task, ended or not, without its wait reason.
    pub fn get(&self, id: TaskId) -> Option<&Task> {
        self.live.get(&id).or_else(|| self.history.get(&id))
    }

    /// Whether the task is held under this fence.
    pub fn check_held(&self, held: Held) -> bool {
        self.held(held).is_some()
    }

    pub(super) fn held(&self, held: Held) -> Option<&Task> {
        self.live.get(&held.id).filter(|task| task.fence == held.fence && rules::is_held(task))
    }

    pub(super) fn see(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
    }

    /// Adds a task that has been checked. `aliases` remembers which tasks of the same call were there already
    /// under another id. A dependency that nobody knows counts as met.
    pub(super) fn insert(
        &mut self,
        now: Timestamp,
        mut new: NewTask,
        aliases: &mut HashMap<TaskId, TaskId>,
    ) -> (Enqueued, Option<Settlement>) {
        if self.get(new.id).is_some() {
            return (Enqueued { id: new.id, added: false }, None);
        }
        if let Some(holder) = new.unique_key.as_ref().and_then(|key| self.unique.get(key)) {
            aliases.insert(new.id, *holder);
            return (Enqueued { id: *holder, added: false }, None);
        }
        for dependency in &mut new.after {
            *dependency = *aliases.get(dependency).unwrap_or(dependency);
        }
        let id = new.id;
        let mut unmet = BTreeSet::new();
        let mut failed = None;
        for dependency in &new.after {
            match self.get(*dependency).map(|task| task.state) {
                Some(TaskState::Succeeded) | None => {}
                Some(state) if state.is_terminal() => failed = failed.or(Some((*dependency, state))),
                Some(_) => {
                    unmet.insert(*dependency);
                }
            }
        }
        let settlement = rules::admit(now, new, !unmet.is_empty(), failed);
        if failed.is_none() && !unmet.is_empty() {
            for dependency in &unmet {
                self.dependents.entry(*dependency).or_default().insert(id);
            }
            self.unmet.insert(id, unmet);
        }
        self.chains.entry(settlement.task.new.chain).or_default().insert(id);
        (Enqueued { id, added: true }, Some(settlement))
    }

    /// Writes what a decision says, and everything that follows from it.
    pub(super) fn settle(&mut self, now: Timestamp, first: Settlement) {
        let mut todo = VecDeque::from([first]);
        while let Some(Settlement { task, enqueue, successor }) = todo.pop_front() {
            let (id, state) = (task.new.id, task.state);
            self.put(now, task);
            let mut heir = None;
            for new in enqueue {
                let is_heir = successor == Some(new.id);
                let (answer, settlement) = self.insert(now, new, &mut HashMap::new());
                heir = heir.or(is_heir.then_some(answer.id));
                if let Some(settlement) = settlement {
                    // Written at once: what comes later in the list may ask for its unique key.
                    if settlement.ended() {
                        todo.push_back(settlement);
                    } else {
                        self.put(now, settlement.task);
                    }
                }
            }
            if state.is_terminal() {
                for dependent in self.dependents.remove(&id).unwrap_or_default() {
                    todo.extend(self.release_dependent(now, dependent, (id, state), heir));
                }
            }
        }
    }

    fn release_dependent(
        &mut self,
        now: Timestamp,
        dependent: TaskId,
        ended: (TaskId, TaskState),
        heir: Option<TaskId>,
    ) -> Option<Settlement> {
        let unmet = self.unmet.get_mut(&dependent)?;
        unmet.remove(&ended.0);
        if let Some(heir) = heir {
            unmet.insert(heir);
            self.dependents.entry(heir).or_default().insert(dependent);
            let task = self.live.get_mut(&dependent)?;
            for dependency in task.new.after.iter_mut().filter(|d| **d == ended.0) {
                *dependency = heir;
            }
            return None;
        }
        let done = unmet.is_empty();
        let task = self.live.get(&dependent)?;
        if ended.1 != TaskState::Succeeded {
            let settlement = rules::cut_off(task, now, ended.0, ended.1);
            // Once is enough: another of those before it may end in the same breath.
            self.unlink(dependent);
            return Some(settlement);
        }
        done.then(|| rules::unblock(task, now))
    }

    /// The task no longer waits for others.
    fn unlink(&mut self, id: TaskId) {
        for dependency in self.unmet.remove(&id).unwrap_or_default() {
            if let Some(waiting) = self.dependents.get_mut(&dependency) {
                waiting.remove(&id);
            }
        }
    }

    /// Puts the task in the place of what was there under its id.
    pub(super) fn put(&mut self, now: Timestamp, task: Task) {
        let id = task.new.id;
        if let Some(old) = self.live.remove(&id) {
            self.unindex(&old);
        }
        if task.state != TaskState::Blocked {
            self.unlink(id);
        }
        if task.state.is_terminal() {
            self.ended.insert((task.finished.unwrap_or(now), id));
            self.history.insert(id, task);
        } else {
            self.index(now, &task);
            self.live.insert(id, task);
        }
    }

    fn index(&mut self, now: Timestamp, task: &Task) {
        let id = task.new.id;
        *self.counts.entry(task.state).or_default() += 1;
        if let Some(key) = &task.new.unique_key {
            self.unique.insert(key.clone(), id);
        }
        if let Some(at) = rules::start_by(task) {
            self.start_by.insert((at, id));
        }
        if let Some(at) = rules::deadline(task) {
            self.deadlines.insert((at, id));
        }
        if matches!(task.state, TaskState::Ready | TaskState::Scheduled) {
            self.waiting.insert((task.new.run_at, id));
        }
        if rules::is_queued(task) {
            self.woken |= self.queue.insert(task, now);
        }
        if let Some(until) = task.lease_until.filter(|_| rules::is_held(task)) {
            self.leases.insert((until, id));
            for (key, _) in rules::limits(&task.new) {
                *self.places.entry(key).or_default() += 1;
            }
        }
    }

    fn unindex(&mut self, task: &Task) {
        let id = task.new.id;
        if let Some(count) = self.counts.get_mut(&task.state) {
            *count = count.saturating_sub(1);
        }
        if let Some(key) = &task.new.unique_key {
            self.unique.remove(key);
        }
        if let Some(at) = rules::start_by(task) {
            self.start_by.remove(&(at, id));
        }
        if let Some(at) = rules::deadline(task) {
            self.deadlines.remove(&(at, id));
        }
        if matches!(task.state, TaskState::Ready | TaskState::Scheduled) {
            self.waiting.remove(&(task.new.run_at, id));
        }
        if rules::is_queued(task) {
            self.queue.remove(task);
        }
        if let Some(until) = task.lease_until.filter(|_| rules::is_held(task)) {
            self.leases.remove(&(until, id));
            for (key, _) in rules::limits(&task.new) {
                if let Some(count) = self.places.get_mut(&key) {
                    *count -= 1;
                    // Somebody may have waited for the place.
                    self.woken = true;
                    if *count <= 0 {
                        self.places.remove(&key);
                    }
                }
            }
        }
    }

    /// Removes an ended task for good.
    pub(super) fn erase(&mut self, id: TaskId) {
        let Some(task) = self.history.remove(&id) else { return };
        self.ended.remove(&(task.finished.unwrap_or_default(), id));
        self.steps.remove(&id);
        if let Some(chain) = self.chains.get_mut(&task.new.chain) {
            chain.remove(&id);
            if chain.is_empty() {
                self.chains.remove(&task.new.chain);
            }
        }
    }
}
