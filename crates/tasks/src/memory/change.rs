//! The operations that change tasks.

use super::index::MemoryTasks;
use crate::rules::{self, Lapse, Retrial};
use crate::store::{
    BeatReply, BeatRequest, CancelReply, ClaimRequest, Claimed, NodeBeat, RetryReply, SweepReport, TaskError,
};
use crate::task::{Held, Json, Task};
use portolan_model::{Scope, TaskId, Timestamp};
use std::collections::{BTreeSet, HashMap, HashSet};

impl MemoryTasks {
    /// See [`crate::TaskStore::claim`].
    pub fn claim(&mut self, now: Timestamp, request: &ClaimRequest) -> Vec<Claimed> {
        self.see(now);
        self.queue.promote(now);
        let picked = self.pick(now, request);
        let mut claimed = Vec::with_capacity(picked.len());
        for id in picked {
            let Some(task) = self.live.get(&id) else { continue };
            self.fence += 1;
            let task = rules::begin(task, now, &request.worker, self.fence, request.lease);
            self.put(now, task.clone());
            claimed.push(Claimed { task, steps: self.steps.get(&id).cloned().unwrap_or_default() });
        }
        claimed
    }

    fn pick(&self, now: Timestamp, request: &ClaimRequest) -> Vec<TaskId> {
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let kinds: HashSet<&str> = request.kinds.iter().map(String::as_str).collect();
        let serves: HashSet<&str> = request.serves.iter().map(String::as_str).collect();
        let mut picked = Vec::new();
        if limit == 0 {
            return picked;
        }
        // Places that this very claim takes.
        let taken = std::cell::RefCell::new(HashMap::<String, i32>::new());
        self.queue.walk(
            |lane| {
                kinds.contains(lane.kind.as_str())
                    && lane.requires.iter().all(|tag| serves.contains(tag.as_str()))
                    && lane.limits.iter().all(|(key, max)| {
                        let held = self.places.get(key).copied().unwrap_or(0);
                        held + taken.borrow().get(key).copied().unwrap_or(0) < *max
                    })
            },
            |id, lane| {
                let Some(task) = self.live.get(&id) else { return true };
                // A clock that stepped back may show tasks as due that are not; the expired wait for a sweep.
                if task.new.run_at <= now && !rules::is_expired(task, now) {
                    picked.push(id);
                    for (key, _) in &lane.limits {
                        *taken.borrow_mut().entry(key.clone()).or_default() += 1;
                    }
                }
                picked.len() < limit
            },
        );
        picked
    }

    /// See [`crate::TaskStore::beat`].
    pub fn beat(&mut self, now: Timestamp, request: &BeatRequest) -> Vec<BeatReply> {
        self.see(now);
        let mut replies = Vec::with_capacity(request.tasks.len());
        for beat in &request.tasks {
            if !self.check_held(beat.held) {
                replies.push(BeatReply::Lost);
                continue;
            }
            // Only the lease and the progress change, so only the index of leases does.
            if let Some(task) = self.live.get_mut(&beat.held.id) {
                let until = now + request.lease;
                if let Some(old) = task.lease_until.replace(until) {
                    self.leases.remove(&(old, task.new.id));
                }
                self.leases.insert((until, task.new.id));
                if let Some(progress) = &beat.progress {
                    task.progress = progress.clone();
                }
                replies.push(BeatReply::Held { cancel: rules::cancel_wished(task) });
            }
        }
        replies
    }

    /// See [`crate::TaskStore::step`].
    pub fn step(&mut self, now: Timestamp, held: Held, step: &str, output: Json) -> Result<(), TaskError> {
        self.see(now);
        if !self.check_held(held) {
            return Err(TaskError::Lost(held.id));
        }
        let steps = self.steps.entry(held.id).or_default();
        if !steps.iter().any(|(name, _)| name == step) {
            steps.push((step.to_owned(), output));
        }
        Ok(())
    }

    /// See [`crate::TaskStore::sweep`].
    pub fn sweep(&mut self, now: Timestamp, limit: u32) -> SweepReport {
        self.see(now);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let before = |set: &BTreeSet<(Timestamp, TaskId)>, until: &dyn Fn(Timestamp) -> bool| -> Vec<TaskId> {
            set.iter().take_while(|(at, _)| until(*at)).take(limit).map(|(_, id)| *id).collect()
        };
        let mut report = SweepReport::default();
        for id in before(&self.deadlines, &|at| at < now) {
            // An earlier one of this very sweep may have taken it along.
            let Some(settlement) = self.live.get(&id).map(|task| rules::overdue(task, now)) else { continue };
            report.overdue += 1;
            self.settle(now, settlement);
        }
        for id in before(&self.start_by, &|at| at < now) {
            let Some(settlement) = self.live.get(&id).map(|task| rules::expire(task, now)) else { continue };
            report.expired += 1;
            self.settle(now, settlement);
        }
        for id in before(&self.leases, &|at| at <= now) {
            let Some((lapse, settlement)) = self.live.get(&id).map(|task| rules::lapse(task, now)) else { continue };
            match lapse {
                Lapse::Released => report.released += 1,
                Lapse::Exhausted => report.exhausted += 1,
            }
            self.settle(now, settlement);
        }
        report
    }

    /// See [`crate::TaskStore::cancel`].
    pub fn cancel(&mut self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<CancelReply, TaskError> {
        self.see(now);
        let task = self.visible(scope, id)?;
        let (reply, settlement) = rules::cancel(task, now, reason);
        if reply != CancelReply::AlreadyEnded {
            self.settle(now, settlement);
        }
        Ok(reply)
    }

    /// See [`crate::TaskStore::retry`].
    pub fn retry(&mut self, now: Timestamp, scope: Scope, id: TaskId, new_id: TaskId) -> Result<RetryReply, TaskError> {
        self.see(now);
        match rules::retry(self.visible(scope, id)?, now, new_id)? {
            Retrial::Itself(reply, settlement) => {
                self.settle(now, *settlement);
                Ok(reply)
            }
            Retrial::Copy(copy) => {
                let (answer, settlement) = self.insert(now, *copy, &mut HashMap::new());
                if let Some(settlement) = settlement {
                    self.settle(now, settlement);
                }
                Ok(RetryReply::Copied(answer.id))
            }
        }
    }

    /// See [`crate::TaskStore::abandon`].
    pub fn abandon(&mut self, now: Timestamp, scope: Scope, id: TaskId, reason: &str) -> Result<(), TaskError> {
        self.see(now);
        let settlement = rules::abandon(self.visible(scope, id)?, now, reason)?;
        self.settle(now, settlement);
        Ok(())
    }

    /// See [`crate::TaskStore::forget`].
    pub fn forget(&mut self, scope: Scope, id: TaskId) -> Result<(), TaskError> {
        if !self.visible(scope, id)?.state.is_terminal() {
            return Err(TaskError::Conflict { id, what: "forgotten before it has ended" });
        }
        self.erase(id);
        Ok(())
    }

    /// See [`crate::TaskStore::prune`].
    pub fn prune(&mut self, before: Timestamp, limit: u32) -> u64 {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let old: Vec<_> = self.ended.iter().take_while(|(at, _)| *at < before).take(limit).map(|e| e.1).collect();
        for id in &old {
            self.erase(*id);
        }
        old.len() as u64
    }

    /// See [`crate::TaskStore::node_beat`].
    pub fn node_beat(&mut self, now: Timestamp, beat: NodeBeat) {
        self.see(now);
        self.nodes.retain(|_, (until, _)| *until > now);
        self.nodes.insert(beat.worker, (now + beat.ttl, beat.serves));
    }

    pub(super) fn visible(&self, scope: Scope, id: TaskId) -> Result<&Task, TaskError> {
        self.get(id).filter(|task| rules::visible(scope, &task.new)).ok_or(TaskError::NotFound(id))
    }
}
