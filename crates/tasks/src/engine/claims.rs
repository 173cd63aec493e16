//! Claims tasks for free slots.

use super::drain::Running;
use super::stats::add;
use super::{Attempt, Inner, Run, attempt, careful, own_until};
use crate::context::{StopReason, lock};
use crate::store::{ClaimRequest, Claimed, TaskError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Kinds that are claimed together, because they share a bound on how many run at once.
struct Group {
    kinds: Vec<String>,
    /// Their own bound, beside the engine's.
    most: Option<usize>,
    /// Whether there may be more to claim than the last claim brought.
    more: bool,
}

/// Claims until the engine is told to stop. Claims again at once while a claim came back full; else waits for
/// the wakeup, for a slot when there was more to have, or for the next poll.
pub(super) async fn claim_tasks(run: &Run, attempts: &mut JoinSet<()>) {
    let inner = &run.inner;
    let mut groups = groups(inner);
    let wakeup = inner.store.wakeup();
    let mut failures = 0;
    let mut turn = 0_usize;
    while !run.shutdown.is_cancelled() {
        if inner.drain.is_draining() {
            tokio::select! {
                () = run.shutdown.cancelled() => return,
                () = inner.drain.open() => groups.iter_mut().for_each(|group| group.more = true),
            }
        }
        // Registered before looking, so that nothing rung in between is missed.
        let (mut rung, mut freed) = (std::pin::pin!(wakeup.notified()), std::pin::pin!(inner.freed.notified()));
        rung.as_mut().enable();
        freed.as_mut().enable();
        while attempts.try_join_next().is_some() {}
        let mut failed = !inner.alive.load(Ordering::SeqCst);
        let (mut again, count) = (false, groups.len());
        // Each group gets to be the first in turn, so that none lives off what the others leave.
        turn = turn.wrapping_add(1);
        for i in 0..count {
            let group = &mut groups[(turn + i) % count];
            if failed || !group.more || run.shutdown.is_cancelled() {
                continue;
            }
            let free = free_slots(inner, group);
            if free == 0 {
                continue;
            }
            match claim(run, group, free, attempts).await {
                Ok(got) => group.more = got >= free,
                Err(error) => {
                    failed = true;
                    failures += 1;
                    add(&inner.stats.store_failures, 1);
                    tracing::warn!(error = &error as &dyn std::error::Error, "a claim failed");
                }
            }
            again |= group.more && free_slots(inner, group) > 0;
        }
        if !failed {
            failures = 0;
            if again {
                continue;
            }
        }
        let hungry = !failed && groups.iter().any(|group| group.more);
        let pause = if failed { failure_pause(failures, inner.config.poll) } else { inner.config.poll };
        tokio::select! {
            () = run.shutdown.cancelled() => {}
            () = rung, if !failed => groups.iter_mut().for_each(|group| group.more = true),
            () = freed, if hungry => {}
            () = tokio::time::sleep(inner.jittered(pause)) => groups.iter_mut().for_each(|group| group.more = true),
        }
    }
}

fn failure_pause(failures: u32, poll: Duration) -> Duration {
    (Duration::from_millis(50) * (1 << failures.min(7))).min(poll.max(Duration::from_secs(1)))
}

fn groups(inner: &Inner) -> Vec<Group> {
    let bound = |kind: &str| inner.config.per_kind.get(kind).copied();
    let (own, shared): (Vec<&str>, Vec<&str>) = inner.handlers.keys().partition(|kind| bound(kind).is_some());
    let mut groups: Vec<Group> =
        own.into_iter().map(|kind| Group { kinds: vec![kind.to_owned()], most: bound(kind), more: true }).collect();
    if !shared.is_empty() {
        groups.push(Group { kinds: shared.into_iter().map(str::to_owned).collect(), most: None, more: true });
    }
    groups
}

fn free_slots(inner: &Inner, group: &Group) -> usize {
    let attempts = lock(&inner.attempts);
    let free = inner.config.concurrency.saturating_sub(attempts.len());
    match group.most {
        None => free,
        Some(most) => {
            let running = attempts.values().filter(|attempt| group.kinds.iter().any(|k| k == attempt.kind)).count();
            free.min(most.saturating_sub(running))
        }
    }
}

/// Claims for a group, and starts what it got; returns how many.
async fn claim(run: &Run, group: &Group, free: usize, attempts: &mut JoinSet<()>) -> Result<usize, TaskError> {
    let inner = &run.inner;
    let Some(_claiming) = inner.drain.claiming() else { return Ok(0) };
    let asked = Instant::now();
    let request = ClaimRequest {
        worker: inner.config.worker.clone(),
        kinds: group.kinds.clone(),
        serves: (inner.config.serves)(),
        limit: u32::try_from(free).unwrap_or(u32::MAX),
        lease: inner.config.lease,
    };
    let claimed = careful(inner.store.claim(inner.clock.now(), request)).await?;
    add(&inner.stats.claims, 1);
    let got = claimed.len();
    for claimed in claimed {
        start(run, claimed, own_until(asked, &inner.config), attempts);
    }
    Ok(got)
}

fn start(run: &Run, claimed: Claimed, until: Instant, attempts: &mut JoinSet<()>) {
    let inner = &run.inner;
    let Some((kind, handler)) = inner.handlers.get_key_value(claimed.task.new.kind.as_str()) else {
        // The store gave what was not asked for; the lease will give it back.
        tracing::error!(task.id = %claimed.task.new.id, task.kind = claimed.task.new.kind, "no handler");
        return;
    };
    let attempt = Arc::new(Attempt::new(claimed.task.held(), kind, until));
    lock(&inner.attempts).insert((attempt.held.id, attempt.held.fence), attempt.clone());
    if run.shutdown.is_cancelled() {
        attempt.stop(StopReason::Shutdown);
    }
    let running = Running::new(&inner.drain);
    attempts.spawn(attempt::run(run.clone(), attempt, handler.clone(), claimed, running));
}
