//! What becomes of tasks, as rows.

use crate::sql::{fold, int};
use crate::task_rows as rows;
use portolan_model::task_state::TaskState;
use portolan_model::{TaskId, Timestamp};
use portolan_tasks::{Task, rules};
use std::collections::{BTreeMap, BTreeSet};

/// The rows that a transaction writes.
#[derive(Default)]
pub(crate) struct Out {
    pub(crate) history: Vec<Vec<sea_orm::Value>>,
    pub(crate) gone: Vec<TaskId>,
    pub(crate) gone_limited: Vec<TaskId>,
    pub(crate) gone_tagged: Vec<TaskId>,
    pub(crate) unblocked: Vec<TaskId>,
    pub(crate) changed: Vec<Vec<sea_orm::Value>>,
    pub(crate) docs: Vec<Vec<sea_orm::Value>>,
    pub(crate) new: Vec<Vec<sea_orm::Value>>,
    /// The ids of those rows.
    pub(crate) new_ids: Vec<TaskId>,
    pub(crate) limits: Vec<Vec<sea_orm::Value>>,
    pub(crate) tags: Vec<Vec<sea_orm::Value>>,
    /// Places taken and given back, in the order of the keys, which is the order of the locks.
    pub(crate) places: BTreeMap<String, i64>,
    pub(crate) woken: bool,
}

impl Out {
    /// Notes what becomes of one task.
    pub(crate) fn take(&mut self, id: TaskId, before: Option<&Task>, after: &Task, now: Timestamp) {
        let (was_held, is_held) = (before.is_some_and(rules::is_held), rules::is_held(after));
        if was_held != is_held {
            for (key, _) in rules::limits(&after.new) {
                *self.places.entry(fold(&key)).or_default() += if is_held { 1 } else { -1 };
                self.woken |= was_held;
            }
        }
        let ended = after.state.is_terminal();
        if ended {
            self.history.push(rows::ended(after));
        } else {
            let due = |task: &Task| rules::is_queued(task) && task.new.run_at <= now;
            self.woken |= due(after) && !before.is_some_and(due);
        }
        match before {
            Some(before) => {
                if before.state == TaskState::Blocked && after.state != TaskState::Blocked {
                    self.unblocked.push(id);
                }
                if ended {
                    self.gone.push(id);
                    if !after.new.limits.is_empty() {
                        self.gone_limited.push(id);
                    }
                    if !after.new.requires.is_empty() {
                        self.gone_tagged.push(id);
                    }
                } else {
                    self.changed.push(rows::changed(after));
                    if before.new.after != after.new.after {
                        self.docs.push(vec![rows::key(id), rows::doc(&after.new)]);
                    }
                }
            }
            None => {
                if !ended {
                    self.new_ids.push(id);
                    self.new.push(rows::live(after));
                    let limits = rules::limits(&after.new).into_iter();
                    self.limits
                        .extend(limits.map(|(key, max)| vec![rows::key(id), fold(&key).into(), int(i64::from(max))]));
                    let tags: BTreeSet<String> = after.new.requires.iter().map(|tag| fold(tag)).collect();
                    self.tags.extend(tags.into_iter().map(|tag| vec![rows::key(id), tag.into()]));
                }
            }
        }
    }
}
