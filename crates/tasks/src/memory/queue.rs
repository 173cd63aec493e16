//! Tasks that wait for a worker, in the order in which they are claimed.
//!
//! Tasks of one kind, with the same limits and the same tags, are a *lane*: whether one of them can be claimed
//! now, all can. A claim walks over the heads of the lanes, so that a hundred thousand tasks behind one full
//! limit cost it one step.

use crate::rules;
use crate::task::{NewTask, Task, rank};
use portolan_model::{TaskId, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What decides, beside the time, whether a task can be claimed.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    pub(super) kind: String,
    pub(super) limits: Vec<(String, i32)>,
    pub(super) requires: Vec<String>,
}

impl Lane {
    fn of(new: &NewTask) -> Self {
        let requires: BTreeSet<&String> = new.requires.iter().collect();
        Self { kind: new.kind.clone(), limits: rules::limits(new), requires: requires.into_iter().cloned().collect() }
    }
}

/// A place in the order of claims.
pub(super) type Spot = (i64, TaskId);

fn spot(task: &Task) -> Spot {
    (rank(task.new.priority, task.new.run_at), task.new.id)
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Not due when they came in: by their time.
    later: BTreeMap<(Timestamp, TaskId), (Spot, Arc<Lane>)>,
    lanes: HashMap<Arc<Lane>, BTreeSet<Spot>>,
    /// The first of every lane.
    heads: BTreeMap<Spot, Arc<Lane>>,
}

impl Queue {
    /// Adds a task; says whether it is due.
    pub(super) fn insert(&mut self, task: &Task, now: Timestamp) -> bool {
        let lane = Arc::new(Lane::of(&task.new));
        if task.new.run_at > now {
            self.later.insert((task.new.run_at, task.new.id), (spot(task), lane));
            false
        } else {
            self.insert_due(spot(task), lane);
            true
        }
    }

    fn insert_due(&mut self, spot: Spot, lane: Arc<Lane>) {
        let lane = self.lanes.get_key_value(&lane).map_or(lane, |(known, _)| known.clone());
        let tasks = self.lanes.entry(lane.clone()).or_default();
        let head = tasks.first().copied();
        tasks.insert(spot);
        if head.is_none_or(|head| spot < head) {
            if let Some(head) = head {
                self.heads.remove(&head);
            }
            self.heads.insert(spot, lane);
        }
    }

    /// Removes a task, as it was when it was added.
    pub(super) fn remove(&mut self, task: &Task) {
        if self.later.remove(&(task.new.run_at, task.new.id)).is_some() {
            return;
        }
        let (lane, spot) = (Lane::of(&task.new), spot(task));
        let Some(tasks) = self.lanes.get_mut(&lane) else { return };
        tasks.remove(&spot);
        let next = tasks.first().copied();
        if let Some(shared) = self.heads.remove(&spot)
            && let Some(next) = next
        {
            self.heads.insert(next, shared);
        }
        if next.is_none() {
            self.lanes.remove(&lane);
        }
    }

    /// Lets those whose time has come in among the due.
    pub(super) fn promote(&mut self, now: Timestamp) {
        while let Some(first) = self.later.first_entry() {
            if first.key().0 > now {
                break;
            }
            let (spot, lane) = first.remove();
            self.insert_due(spot, lane);
        }
    }

    /// The due tasks in order. `open` says whether a lane can be claimed from; once it says no, the rest of the
    /// lane is left out. `take` is shown each task, and says whether to go on.
    pub(super) fn walk(&self, mut open: impl FnMut(&Lane) -> bool, mut take: impl FnMut(TaskId, &Lane) -> bool) {
        let mut heads = self.heads.iter().map(|(spot, lane)| (*spot, lane)).peekable();
        // Second and later tasks of lanes that the walk has entered.
        let mut entered: BTreeMap<Spot, &Arc<Lane>> = BTreeMap::new();
        loop {
            let from_entered = match (heads.peek(), entered.first_key_value()) {
                (None, None) => return,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((head, _)), Some((next, _))) => *next < *head,
            };
            let Some((spot, lane)) = (if from_entered { entered.pop_first() } else { heads.next() }) else { return };
            if !open(lane) {
                continue;
            }
            if !take(spot.1, lane) {
                return;
            }
            let after = (std::ops::Bound::Excluded(spot), std::ops::Bound::Unbounded);
            if let Some(next) = self.lanes.get(lane).and_then(|tasks| tasks.range(after).next()) {
                entered.insert(*next, lane);
            }
        }
    }
}
