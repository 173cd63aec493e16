//! The operations that read tasks.

use super::index::MemoryTasks;
use crate::filter;
use crate::rules::{self, WaitContext};
use crate::store::{TaskError, TaskPage, TaskQuery, TaskStats};
use crate::task::{Json, TASK_FIELDS, Task};
use portolan_model::query::{Direction, Value};
use portolan_model::{ChainId, Scope, TaskId, Timestamp};

impl MemoryTasks {
    /// See [`crate::TaskStore::steps`].
    pub fn steps(&self, id: TaskId) -> Result<Vec<(String, Json)>, TaskError> {
        self.get(id).ok_or(TaskError::NotFound(id))?;
        Ok(self.steps.get(&id).cloned().unwrap_or_default())
    }

    /// See [`crate::TaskStore::query`].
    pub fn query(&self, scope: Scope, query: &TaskQuery) -> Result<TaskPage, TaskError> {
        let known = |field: &str| field == "id" || TASK_FIELDS.contains(&field);
        if let Some(field) = filter::unknown_field(&query.filter, &query.sort, known) {
            return Err(TaskError::UnknownField(field.to_owned()));
        }
        let wanted = |task: &&Task| {
            rules::visible(scope, &task.new)
                && filter::matches(&query.filter, |field| value(task, field), &rules::search_text(task))
        };
        let field = query.sort.field.as_deref().filter(|field| *field != "id");
        let down = query.sort.direction == Direction::Descending;
        let mut candidates = self.candidates(query, down).filter(wanted);
        let (found, total) = match field {
            // In the order of ids, which the maps are in: stops where the page does.
            None if !query.count => (filter::page_of(candidates, query.page).collect(), None),
            None => {
                let all: Vec<&Task> = candidates.collect();
                let total = all.len() as u64;
                (filter::page_of(all.into_iter(), query.page).collect::<Vec<_>>(), Some(total))
            }
            Some(field) => {
                let mut all: Vec<(Value, &Task)> = candidates.by_ref().map(|t| (t.field(field), t)).collect();
                all.sort_by(|a, b| filter::compare_in(query.sort.direction, (&a.0, a.1.new.id), (&b.0, b.1.new.id)));
                let total = query.count.then_some(all.len() as u64);
                (filter::page_of(all.into_iter().map(|(_, task)| task), query.page).collect(), total)
            }
        };
        let tasks = found.into_iter().map(|task| self.shown(task)).collect();
        Ok(TaskPage { tasks, total })
    }

    /// See [`crate::TaskStore::stats`].
    pub fn stats(&self, now: Timestamp) -> TaskStats {
        let oldest = self.waiting.first().filter(|(run_at, _)| *run_at <= now);
        TaskStats {
            live: rules::live_counts(|state| self.counts.get(&state).copied().unwrap_or(0)),
            oldest_ready: oldest.map(|(run_at, _)| now.since(*run_at)),
        }
    }

    /// Tasks in the order of their ids, or backwards: all that the filter can be about.
    fn candidates<'a>(&'a self, query: &TaskQuery, down: bool) -> Box<dyn Iterator<Item = &'a Task> + 'a> {
        if let Some(Value::Id(id)) = filter::pinned(&query.filter, "id") {
            return Box::new(self.get(TaskId::from_uuid(*id)).into_iter());
        }
        if let Some(Value::Id(chain)) = filter::pinned(&query.filter, "chain") {
            let ids = self.chains.get(&ChainId::from_uuid(*chain)).into_iter().flatten();
            let mut tasks: Vec<&Task> = ids.filter_map(|id| self.get(*id)).collect();
            if down {
                tasks.reverse();
            }
            return Box::new(tasks.into_iter());
        }
        if down {
            Box::new(merge(self.live.values().rev(), self.history.values().rev(), |a, b| a.new.id > b.new.id))
        } else {
            Box::new(merge(self.live.values(), self.history.values(), |a, b| a.new.id < b.new.id))
        }
    }

    /// The task as a reader sees it.
    fn shown(&self, task: &Task) -> Task {
        let nodes: Vec<&[String]> =
            self.nodes.values().filter(|(until, _)| *until > self.now).map(|(_, serves)| serves.as_slice()).collect();
        let context = WaitContext {
            now: self.now,
            unmet: self.unmet.get(&task.new.id).map(|ids| ids.iter().copied().collect()).unwrap_or_default(),
            used: &|key| self.places.get(key).copied().unwrap_or(0),
            nodes: &nodes,
        };
        Task { wait_reason: rules::wait_reason(task, &context), ..task.clone() }
    }
}

fn value(task: &Task, field: &str) -> Value {
    if field == "id" { Value::Id(task.new.id.uuid()) } else { task.field(field) }
}

/// Two ordered lists as one.
fn merge<'a>(
    a: impl Iterator<Item = &'a Task> + 'a,
    b: impl Iterator<Item = &'a Task> + 'a,
    first: fn(&Task, &Task) -> bool,
) -> impl Iterator<Item = &'a Task> + 'a {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(x), Some(y)) if !first(x, y) => b.next(),
        (Some(_), _) => a.next(),
        (None, _) => b.next(),
    })
}
