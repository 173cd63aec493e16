//! Adding tasks and ending attempts, alone and as part of a unit of work.

use super::index::MemoryTasks;
use crate::rules;
use crate::store::{Enqueued, TaskError};
use crate::task::{Finish, NewTask};
use portolan_model::{TaskId, Timestamp};
use std::collections::{HashMap, HashSet};

impl MemoryTasks {
    /// Whether the tasks can be added: fails with [`TaskError::NotFound`] when one waits for a task that is neither
    /// here nor earlier in the list.
    pub fn validate_enqueue(&self, tasks: &[NewTask]) -> Result<(), TaskError> {
        self.check_new(tasks, &mut HashSet::new())
    }

    /// Whether a unit of work can be applied: after an `Ok`, [`MemoryTasks::apply_unit`] with the same arguments
    /// cannot fail. A stale finish is [`TaskError::Lost`].
    pub fn check_unit(&self, now: Timestamp, enqueue: &[NewTask], finish: &[Finish]) -> Result<(), TaskError> {
        let mut known = HashSet::new();
        self.check_new(enqueue, &mut known)?;
        let mut ended = HashSet::new();
        for finish in finish {
            if !ended.insert(finish.held.id) {
                return Err(TaskError::Lost(finish.held.id));
            }
            self.check_finish(now, finish, &mut known)?;
        }
        Ok(())
    }

    /// Adds tasks and ends attempts, all or nothing.
    pub fn apply_unit(
        &mut self,
        now: Timestamp,
        enqueue: Vec<NewTask>,
        finish: Vec<Finish>,
    ) -> Result<Vec<Enqueued>, TaskError> {
        self.see(now);
        self.check_unit(now, &enqueue, &finish)?;
        let mut aliases = HashMap::new();
        let answers = self.add(now, enqueue, &mut aliases);
        for finish in finish {
            self.end(now, finish, &mut aliases)?;
        }
        Ok(answers)
    }

    /// See [`crate::TaskStore::enqueue`].
    pub fn enqueue(&mut self, now: Timestamp, tasks: Vec<NewTask>) -> Result<Vec<Enqueued>, TaskError> {
        // Told is told, also by a call that fails: all stores measure waiting against the same instant.
        self.see(now);
        self.validate_enqueue(&tasks)?;
        Ok(self.add(now, tasks, &mut HashMap::new()))
    }

    /// See [`crate::TaskStore::finish`].
    pub fn finish(&mut self, now: Timestamp, finishes: Vec<Finish>) -> Vec<Result<(), TaskError>> {
        self.see(now);
        let mut results = Vec::with_capacity(finishes.len());
        for finish in finishes {
            let checked = self.check_finish(now, &finish, &mut HashSet::new());
            results.push(checked.and_then(|()| self.end(now, finish, &mut HashMap::new())));
        }
        results
    }

    fn check_new(&self, tasks: &[NewTask], known: &mut HashSet<TaskId>) -> Result<(), TaskError> {
        for task in tasks {
            // One that is there already stays as it is, whatever it says it waits for.
            if self.get(task.id).is_none() {
                let missing = task.after.iter().find(|id| self.get(**id).is_none() && !known.contains(id));
                if let Some(id) = missing {
                    return Err(TaskError::NotFound(*id));
                }
            }
            known.insert(task.id);
        }
        Ok(())
    }

    fn check_finish(&self, now: Timestamp, finish: &Finish, known: &mut HashSet<TaskId>) -> Result<(), TaskError> {
        let task = self.held(finish.held).ok_or(TaskError::Lost(finish.held.id))?;
        rules::settle(task, now, &finish.outcome)?;
        self.check_new(&finish.next, known)
    }

    fn add(&mut self, now: Timestamp, tasks: Vec<NewTask>, aliases: &mut HashMap<TaskId, TaskId>) -> Vec<Enqueued> {
        let mut answers = Vec::with_capacity(tasks.len());
        for new in tasks {
            let (answer, settlement) = self.insert(now, new, aliases);
            if let Some(settlement) = settlement {
                self.settle(now, settlement);
            }
            answers.push(answer);
        }
        answers
    }

    fn end(&mut self, now: Timestamp, finish: Finish, aliases: &mut HashMap<TaskId, TaskId>) -> Result<(), TaskError> {
        let task = self.held(finish.held).ok_or(TaskError::Lost(finish.held.id))?;
        let settlement = rules::settle(task, now, &finish.outcome)?;
        self.settle(now, settlement);
        self.add(now, finish.next, aliases);
        Ok(())
    }
}
