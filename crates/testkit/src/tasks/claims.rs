//! Who gets what, and in which order.

use super::{Kit, LEASE, done, failed, minutes, secs};
use portolan_model::TaskState;
use portolan_tasks::{ClaimRequest, NewTask, Outcome, TaskStore};
use std::sync::Arc;

/// A claim names worker, fence, attempt, lease and start, and the stored task says the same.
pub async fn a_claim_says_who_holds_what_since_when(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let created = kit.now();
    let id = kit.add(kit.task("A")).await;
    let waiting = kit.get(id).await;
    assert_eq!((waiting.state, waiting.attempt, waiting.fence), (TaskState::Ready, 0, 0));
    kit.pass(secs(5));
    let task = kit.claim_one().await;
    assert_eq!((task.state, task.attempt, task.worker.as_str()), (TaskState::Running, 1, "worker-1"));
    assert!(task.fence > 0);
    assert_eq!((task.created, task.started, task.finished), (created, Some(kit.now()), None));
    assert_eq!(task.lease_until, Some(kit.now() + LEASE));
    assert_eq!(kit.get(id).await, task);
    assert!(kit.claim(10).await.is_empty(), "a held task is not handed out again");
}

/// Other kinds stay, and no more are handed out than asked for.
pub async fn a_claim_keeps_to_kinds_and_limit(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let other = kit.add(NewTask { priority: 100, ..kit.task("OTHER") }).await;
    let first = kit.add(kit.task("A")).await;
    let second = kit.add(kit.task("B")).await;
    assert!(kit.claim(0).await.is_empty());
    let no_kinds = ClaimRequest { kinds: Vec::new(), ..kit.request(5) };
    assert!(kit.store.claim(kit.now(), no_kinds).await.unwrap().is_empty());
    assert_eq!(kit.claim_ids(1).await, [first]);
    assert_eq!(kit.claim_ids(5).await, [second]);
    assert_eq!(kit.state(other).await, TaskState::Ready);
}

/// The higher priority first, then the longer wait; in the answer's order too.
pub async fn claims_run_by_priority_then_wait(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let late = kit.add(kit.task("A")).await;
    let early = kit.add(NewTask { run_at: kit.now() - secs(10), ..kit.task("B") }).await;
    let low = kit.add(NewTask { priority: 10, ..kit.task("A") }).await;
    let high = kit.add(NewTask { priority: 51, ..kit.task("B") }).await;
    assert_eq!(kit.claim_ids(3).await, [high, early, late]);
    assert_eq!(kit.claim_ids(3).await, [low]);
}

/// One point of priority is worth five minutes of waiting.
pub async fn a_long_wait_beats_priority(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let old = kit.add(NewTask { priority: 0, ..kit.task("A") }).await;
    kit.pass(minutes(50) - secs(1));
    let soon = kit.add(NewTask { priority: 10, ..kit.task("A") }).await;
    kit.pass(secs(2));
    let later = kit.add(NewTask { priority: 10, ..kit.task("A") }).await;
    assert_eq!(kit.claim_ids(3).await, [soon, old, later]);
}

/// The id decides between equals, so that every store agrees.
pub async fn equal_ranks_run_by_id(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let tasks: Vec<NewTask> = (0..5).map(|_| kit.task("A")).collect();
    let ids: Vec<_> = tasks.iter().map(|t| t.id).collect();
    kit.store.enqueue(kit.now(), tasks.into_iter().rev().collect()).await.unwrap();
    assert_eq!(kit.claim_ids(5).await, ids);
}

/// A scheduled task is ready at its very instant, and not before; an older clock changes nothing about that.
pub async fn nothing_starts_before_its_time(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let at = kit.now() + secs(60);
    let id = kit.add(NewTask { run_at: at, priority: 100, ..kit.task("A") }).await;
    assert_eq!(kit.state(id).await, TaskState::Scheduled);
    kit.clock.set(at - std::time::Duration::from_micros(1));
    assert!(kit.claim(1).await.is_empty());
    kit.clock.set(at);
    let other = kit.add(NewTask { run_at: at, ..kit.task("A") }).await;
    kit.clock.set(at - secs(1));
    assert!(kit.claim(2).await.is_empty(), "a clock that runs behind sees nothing due");
    kit.clock.set(at);
    assert_eq!(kit.claim_ids(2).await, [id, other]);
}

/// Every claim of any task has a higher fence than all before.
pub async fn fences_rise_over_all_tasks(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let mut last = 0;
    for _ in 0..3 {
        kit.add(kit.task("A")).await;
        kit.add(kit.task("B")).await;
        let mut claimed = kit.claim(5).await;
        claimed.sort_by_key(|c| c.task.fence);
        for c in claimed {
            assert!(c.task.fence > last);
            last = c.task.fence;
            kit.finish(&c.task, Outcome::Released).await.unwrap();
        }
    }
}

/// A node must serve every tag that a task requires.
pub async fn tags_must_be_served(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let tags = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    let both = kit.add(NewTask { requires: tags(&["platform:1", "node:a"]), priority: 90, ..kit.task("A") }).await;
    let one = kit.add(NewTask { requires: tags(&["platform:1"]), ..kit.task("A") }).await;
    let none = kit.add(NewTask { priority: 10, ..kit.task("A") }).await;
    let serving = |list: &[&str]| ClaimRequest { serves: tags(list), ..kit.request(1) };
    let ids = |claimed: Vec<portolan_tasks::Claimed>| claimed.iter().map(|c| c.task.new.id).collect::<Vec<_>>();
    assert_eq!(ids(kit.store.claim(kit.now(), serving(&["node:a"])).await.unwrap()), [none]);
    assert_eq!(ids(kit.store.claim(kit.now(), serving(&["platform:1", "node:b"])).await.unwrap()), [one]);
    assert!(kit.store.claim(kit.now(), serving(&["platform:1"])).await.unwrap().is_empty());
    assert_eq!(ids(kit.store.claim(kit.now(), serving(&["x", "node:a", "platform:1"])).await.unwrap()), [both]);
}

/// A task whose limit is full lets others by, and comes first once there is a place.
pub async fn a_full_limit_is_passed_over(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    kit.add(NewTask { priority: 90, ..kit.limited("A", &[("vm:1", 1)]) }).await;
    let running = kit.claim_one().await;
    let blocked = kit.add(NewTask { priority: 80, ..kit.limited("A", &[("vm:1", 1)]) }).await;
    let free = kit.add(kit.limited("A", &[("vm:2", 1)])).await;
    let last = kit.add(NewTask { priority: 1, ..kit.task("A") }).await;
    assert_eq!(kit.claim_ids(1).await, [free]);
    kit.finish(&running, done()).await.unwrap();
    assert_eq!(kit.claim_ids(5).await, [blocked, last]);
}

/// One claim never takes more places than there are.
pub async fn a_limit_holds_inside_one_claim(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(kit.add(kit.limited("A", &[("host:1", 3)])).await);
    }
    assert_eq!(kit.claim_ids(10).await, ids[..3]);
    assert!(kit.claim(10).await.is_empty());
}

/// A task that lacks one place takes none of the others.
pub async fn several_limits_are_taken_all_or_none(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let holder = kit.add(NewTask { priority: 99, ..kit.limited("A", &[("b", 1)]) }).await;
    let both = kit.add(NewTask { priority: 98, ..kit.limited("A", &[("a", 1), ("b", 1), ("a", 7)]) }).await;
    let only_a = kit.add(kit.limited("A", &[("a", 1)])).await;
    let claimed = kit.claim(10).await;
    assert_eq!(claimed.iter().map(|c| c.task.new.id).collect::<Vec<_>>(), [holder, only_a]);
    kit.finish(&claimed[0].task, done()).await.unwrap();
    assert!(kit.claim(10).await.is_empty());
    kit.finish(&claimed[1].task, done()).await.unwrap();
    let task = kit.claim_one().await;
    assert_eq!(task.new.id, both);
    // A key that is named twice takes one place, and gives one back.
    kit.finish(&task, done()).await.unwrap();
    kit.add(kit.limited("A", &[("a", 1)])).await;
    kit.claim_one().await;
}

/// The same key may be narrow for one task and wide for another.
pub async fn each_task_brings_its_own_maximum(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    kit.add(kit.limited("A", &[("dest", 2)])).await;
    kit.claim_one().await;
    let narrow = kit.add(NewTask { priority: 90, ..kit.limited("A", &[("dest", 1)]) }).await;
    let wide = kit.add(kit.limited("A", &[("dest", 2)])).await;
    assert_eq!(kit.claim_ids(5).await, [wide]);
    assert_eq!(kit.state(narrow).await, TaskState::Ready);
}

/// Success, failure, retry, release, cancellation, loss and getting stuck all free the places.
pub async fn every_end_of_an_attempt_gives_places_back(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let far = kit.now() + minutes(600);
    let outcomes = [
        done(),
        failed(),
        Outcome::Retry { error: "later".into(), at: far },
        Outcome::Cancelled { error: "stop".into() },
        Outcome::Stuck { error: "no way".into() },
    ];
    for outcome in outcomes {
        kit.add(NewTask { max_attempts: 3, ..kit.limited("A", &[("one", 1)]) }).await;
        let task = kit.claim_one().await;
        assert!(kit.claim(1).await.is_empty());
        kit.finish(&task, outcome).await.unwrap();
    }
    let id = kit.add(NewTask { max_attempts: 3, ..kit.limited("A", &[("one", 1)]) }).await;
    let task = kit.claim_one().await;
    kit.finish(&task, Outcome::Released).await.unwrap();
    assert_eq!(kit.claim_one().await.new.id, id);
    kit.pass(LEASE);
    assert_eq!(kit.sweep().await.released, 1);
    assert_eq!(kit.claim_one().await.new.id, id);
    kit.store.cancel(kit.now(), portolan_model::Scope::All, id, "stop").await.unwrap();
    kit.pass(LEASE);
    assert_eq!(kit.sweep().await.released, 1);
    assert_eq!(kit.state(id).await, TaskState::Cancelled);
    kit.add(kit.limited("A", &[("one", 1)])).await;
    kit.claim_one().await;
}

/// Hundreds of tasks behind one full limit do not hide the one that can run.
pub async fn a_backlog_behind_a_full_limit_is_no_wall(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let backlog: Vec<NewTask> = (0..500).map(|_| kit.limited("A", &[("vm:1", 1)])).collect();
    kit.store.enqueue(kit.now(), backlog).await.unwrap();
    let last = kit.add(NewTask { priority: 0, ..kit.task("A") }).await;
    let claimed = kit.claim_ids(10).await;
    assert_eq!(claimed.len(), 2);
    assert_eq!(claimed[1], last);
}

/// Whoever listens hears of new work, and of places that came free.
pub async fn the_wakeup_rings_for_claimable_work(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let bell = kit.store.wakeup();
    let heard = async |ring: std::pin::Pin<&mut tokio::sync::futures::Notified<'_>>| {
        tokio::time::timeout(secs(20), ring).await.expect("the wakeup should have rung");
    };
    let mut ring = std::pin::pin!(bell.notified());
    ring.as_mut().enable();
    kit.add(kit.limited("A", &[("one", 1)])).await;
    kit.add(kit.limited("A", &[("one", 1)])).await;
    heard(ring).await;
    let task = kit.claim_one().await;
    let mut ring = std::pin::pin!(bell.notified());
    ring.as_mut().enable();
    kit.finish(&task, done()).await.unwrap();
    heard(ring).await;
    let task = kit.claim_one().await;
    let mut ring = std::pin::pin!(bell.notified());
    ring.as_mut().enable();
    kit.finish(&task, Outcome::Released).await.unwrap();
    heard(ring).await;
}
