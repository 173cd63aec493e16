//! What time does to tasks.

use super::{Kit, LEASE, failed, minutes, secs};
use portolan_model::query::Filter;
use portolan_model::{Scope, TaskState};
use portolan_tasks::{NewTask, Outcome, SweepReport, TaskStore};
use std::sync::Arc;
use std::time::Duration;

/// At the end of its lease, and not before, a task is ready again: the attempt counted, the fence kept.
pub async fn a_lost_worker_gives_its_task_back(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(NewTask { max_attempts: 2, ..kit.task("A") }).await;
    let task = kit.claim_one().await;
    kit.pass(LEASE - Duration::from_micros(1));
    assert_eq!(kit.sweep().await, SweepReport::default());
    kit.pass(Duration::from_micros(1));
    assert_eq!(kit.sweep().await, SweepReport { released: 1, ..SweepReport::default() });
    let back = kit.get(id).await;
    assert_eq!((back.state, back.attempt, back.fence), (TaskState::Ready, 1, task.fence));
    assert_eq!((back.lease_until, back.started, back.worker.as_str()), (None, task.started, "worker-1"));
    assert!(back.error.contains("lost"), "{}", back.error);
    assert_eq!(kit.claim_one().await.attempt, 2);
}

/// The last attempt's loss is a failure for good, with all that follows from one.
pub async fn a_lost_worker_uses_up_attempts(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let clean = kit.task("CLEAN");
    let on_failure = Some(Box::new(clean.clone()));
    let id = kit.add(NewTask { max_attempts: 2, retries: 1, on_failure, ..kit.task("A") }).await;
    kit.claim_one().await;
    kit.pass(LEASE);
    assert_eq!(kit.sweep().await.released, 1);
    kit.claim_one().await;
    kit.pass(LEASE);
    assert_eq!(kit.sweep().await, SweepReport { exhausted: 1, ..SweepReport::default() });
    let ended = kit.get(id).await;
    assert_eq!((ended.state, ended.finished, ended.lease_until), (TaskState::Failed, Some(kit.now()), None));
    assert!(ended.error.contains("lost") && ended.error.contains('2'), "{}", ended.error);
    let copy = kit.claim_one().await;
    assert_eq!((copy.new.links.parent, copy.new.kind.as_str()), (Some(id), "A"));
    kit.finish(&copy, failed()).await.unwrap();
    assert_eq!(kit.claim_one().await.new.id, clean.id);
}

/// Nobody starts a task again that was asked to stop.
pub async fn a_lost_task_that_was_to_stop_is_cancelled(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(NewTask { max_attempts: 9, ..kit.task("A") }).await;
    kit.claim_one().await;
    kit.store.cancel(kit.now(), Scope::All, id, "enough").await.unwrap();
    kit.pass(LEASE);
    kit.sweep().await;
    let ended = kit.get(id).await;
    assert_eq!((ended.state, ended.error.as_str()), (TaskState::Cancelled, "enough"));
    assert!(kit.claim(1).await.is_empty());
}

/// Past its window a task is not handed out, and a sweep ends it, whichever way it waits.
pub async fn what_did_not_start_in_time_expires(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let by = kit.now() + secs(60);
    let windowed = |kind: &str| NewTask { start_by: Some(by), ..kit.task(kind) };
    let on_time = kit.add(windowed("A")).await;
    let ready = kit.add(windowed("A")).await;
    let other = kit.add(kit.task("OTHER")).await;
    let scheduled = kit.add(NewTask { run_at: by + secs(60), ..windowed("A") }).await;
    let blocked = kit.add(NewTask { after: vec![other], ..windowed("A") }).await;
    let follower = kit.add(NewTask { after: vec![ready], ..kit.task("A") }).await;
    kit.clock.set(by);
    assert_eq!(kit.sweep().await, SweepReport::default());
    assert_eq!(kit.claim_ids(1).await, [on_time], "by then is still in time");
    kit.pass(secs(1));
    assert!(kit.claim(5).await.is_empty());
    assert_eq!(kit.sweep().await, SweepReport { expired: 3, ..SweepReport::default() });
    for id in [ready, scheduled, blocked] {
        let task = kit.get(id).await;
        assert_eq!((task.state, task.finished, task.started), (TaskState::Expired, Some(kit.now()), None));
        assert!(!task.error.is_empty());
    }
    assert_eq!(kit.state(follower).await, TaskState::Cancelled);
    assert_eq!((kit.state(on_time).await, kit.state(other).await), (TaskState::Running, TaskState::Ready));
}

/// The window is for the first start: later attempts may come after it.
pub async fn what_was_started_once_does_not_expire(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let start_by = Some(kit.now() + secs(60));
    let id = kit.add(NewTask { start_by, max_attempts: 2, ..kit.task("A") }).await;
    let task = kit.claim_one().await;
    kit.pass(secs(61));
    kit.finish(&task, Outcome::Retry { error: "busy".into(), at: kit.now() }).await.unwrap();
    assert_eq!(kit.sweep().await, SweepReport::default());
    assert_eq!(kit.claim_one().await.new.id, id);
}

/// Failed while a worker is at it, expired while nobody is; the worker then has lost it. Cleaning up follows, and
/// never a copy.
pub async fn deadlines_spare_nobody(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let by = kit.now() + secs(20);
    let clean = kit.task("CLEAN");
    let limited = |kind: &str| NewTask { deadline: Some(by), max_attempts: 5, retries: 5, ..kit.task(kind) };
    let running = kit.add(NewTask { on_failure: Some(Box::new(clean.clone())), ..limited("A") }).await;
    let task = kit.claim_one().await;
    let waiting = kit.add(limited("OTHER")).await;
    let blocked = kit.add(NewTask { after: vec![waiting], ..limited("OTHER") }).await;
    kit.clock.set(by);
    assert_eq!(kit.sweep().await, SweepReport::default());
    kit.pass(secs(1));
    let report = kit.sweep().await;
    assert!(report.overdue >= 2 && report.released + report.exhausted + report.expired == 0, "{report:?}");
    assert_eq!(kit.state(running).await, TaskState::Failed);
    assert_eq!(kit.state(waiting).await, TaskState::Expired);
    assert!(kit.state(blocked).await.is_terminal());
    assert!(kit.finish(&task, super::done()).await.is_err(), "too late");
    assert_eq!(kit.claim_one().await.new.id, clean.id);
    assert_eq!(kit.list(Filter::All).await.len(), 4);
    // The lease ran out, and the deadline as well: nobody was at it.
    let late = kit.add(NewTask { deadline: Some(kit.now() + minutes(2)), max_attempts: 5, ..kit.task("D") }).await;
    kit.claim_one().await;
    kit.pass(minutes(3));
    kit.sweep().await;
    assert_eq!(kit.state(late).await, TaskState::Expired);
}

/// No more of each than asked for, the oldest first.
pub async fn a_sweep_keeps_to_its_limit(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    for n in 0..5 {
        kit.add(NewTask { max_attempts: 2, ..kit.task("A") }).await;
        kit.add(NewTask { start_by: Some(kit.now() + secs(n)), ..kit.task("OTHER") }).await;
    }
    kit.claim(5).await;
    kit.pass(minutes(5));
    let part = SweepReport { released: 2, expired: 2, ..SweepReport::default() };
    assert_eq!(kit.store.sweep(kit.now(), 2).await.unwrap(), part);
    assert_eq!(kit.store.sweep(kit.now(), 2).await.unwrap(), part);
    let rest = SweepReport { released: 1, expired: 1, ..SweepReport::default() };
    assert_eq!(kit.store.sweep(kit.now(), 2).await.unwrap(), rest);
}

/// What a sweep has done is done.
pub async fn a_second_sweep_finds_nothing(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    kit.add(NewTask { max_attempts: 2, ..kit.task("A") }).await;
    kit.add(NewTask { start_by: Some(kit.now()), ..kit.task("OTHER") }).await;
    kit.add(NewTask { deadline: Some(kit.now()), ..kit.task("OTHER") }).await;
    kit.claim(5).await;
    kit.pass(LEASE);
    assert_eq!(kit.sweep().await, SweepReport { released: 1, exhausted: 0, expired: 1, overdue: 1 });
    let before = kit.list(Filter::All).await;
    assert_eq!(kit.sweep().await, SweepReport::default());
    assert_eq!(kit.list(Filter::All).await, before);
}
