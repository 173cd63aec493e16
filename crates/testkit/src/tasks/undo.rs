//! Undoing what a failed task did.

use super::{Kit, LEASE, done, failed, secs, text};
use portolan_model::query::Filter;
use portolan_model::{Scope, TaskState};
use portolan_tasks::{Beat, BeatReply, BeatRequest, CancelReply, NewTask, Outcome, TaskError, TaskStore};
use std::sync::Arc;

fn undo() -> Outcome {
    Outcome::Undo { error: "half done".into() }
}

/// The same worker goes on: beats, steps and limits stay its own; only then does the task end as failed.
pub async fn an_undo_goes_on_under_the_same_fence(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let clean = kit.task("CLEAN");
    let on_failure = Some(Box::new(clean.clone()));
    let id = kit.add(NewTask { on_failure, ..kit.limited("A", &[("vm", 1)]) }).await;
    let blocked = kit.add(kit.limited("B", &[("vm", 1)])).await;
    let task = kit.claim_one().await;
    kit.finish(&task, undo()).await.unwrap();
    let undoing = kit.get(id).await;
    assert_eq!((undoing.state, undoing.error.as_str(), undoing.fence), (TaskState::Undoing, "half done", task.fence));
    assert_eq!(undoing.lease_until, task.lease_until);
    assert!(kit.claim(5).await.is_empty(), "it still holds its place");
    kit.pass(secs(20));
    let tasks = vec![Beat { held: task.held(), progress: None }];
    let replies = kit.store.beat(kit.now(), BeatRequest { lease: LEASE, tasks }).await.unwrap();
    assert_eq!(replies, [BeatReply::Held { cancel: false }]);
    kit.store.step(kit.now(), task.held(), "undo:1", text("gone")).await.unwrap();
    assert!(kit.find(clean.id).await.is_none());
    kit.finish(&task, Outcome::Undone).await.unwrap();
    let ended = kit.get(id).await;
    assert_eq!((ended.state, ended.error.as_str()), (TaskState::Failed, "half done"));
    let mut next = kit.claim_ids(5).await;
    next.sort();
    let mut wanted = [blocked, clean.id];
    wanted.sort();
    assert_eq!(next, wanted);
}

/// A lost worker's successor is told to undo.
pub async fn an_undo_outlives_its_worker(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(kit.limited("A", &[("vm", 1)])).await;
    let old = kit.claim_one().await;
    kit.finish(&old, undo()).await.unwrap();
    kit.pass(LEASE);
    assert_eq!(kit.sweep().await.released, 1);
    let waiting = kit.get(id).await;
    assert_eq!((waiting.state, waiting.lease_until), (TaskState::Undoing, None));
    assert!(matches!(kit.finish(&old, Outcome::Undone).await, Err(TaskError::Lost(_))));
    let new = kit.claim_one().await;
    assert_eq!((new.state, new.error.as_str()), (TaskState::Undoing, "half done"));
    assert!(new.fence > old.fence);
    kit.add(kit.limited("B", &[("vm", 1)])).await;
    assert!(kit.claim(1).await.is_empty(), "it holds its place again");
    kit.finish(&new, Outcome::Released).await.unwrap();
    assert_eq!(kit.state(id).await, TaskState::Undoing);
    let again = kit.claim(1).await.remove(0).task;
    assert_eq!((again.new.id, again.state), (id, TaskState::Undoing));
    kit.finish(&again, Outcome::Undone).await.unwrap();
    assert_eq!(kit.state(id).await, TaskState::Failed);
}

/// A stuck task has not ended: it keeps its key, blocks its followers, is not forgotten; giving it up ends it.
pub async fn an_undo_that_fails_is_stuck_until_given_up(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let clean = kit.task("CLEAN");
    let on_failure = Some(Box::new(clean.clone()));
    let keyed = || NewTask { unique_key: Some("k".into()), ..kit.task("A") };
    let id = kit.add(NewTask { on_failure, deadline: Some(kit.now() + secs(9)), ..keyed() }).await;
    let follower = kit.add(NewTask { after: vec![id], ..kit.task("B") }).await;
    let task = kit.claim_one().await;
    kit.finish(&task, undo()).await.unwrap();
    kit.finish(&task, Outcome::Stuck { error: "disk is gone".into() }).await.unwrap();
    let stuck = kit.get(id).await;
    assert_eq!((stuck.state, stuck.error.as_str()), (TaskState::Stuck, "disk is gone"));
    assert_eq!((stuck.finished, stuck.lease_until), (None, None));
    assert!(!kit.store.enqueue(kit.now(), vec![keyed()]).await.unwrap()[0].added);
    assert!(matches!(kit.store.forget(Scope::All, id).await, Err(TaskError::Conflict { .. })));
    kit.pass(LEASE + secs(99));
    assert_eq!(kit.sweep().await, Default::default(), "deadlines and leases do not touch it");
    assert!(kit.claim(5).await.is_empty());
    assert!(matches!(kit.finish(&task, Outcome::Undone).await, Err(TaskError::Lost(_))));
    let reply = kit.store.cancel(kit.now(), Scope::All, id, "given up").await.unwrap();
    assert_eq!(reply, CancelReply::Cancelled);
    assert_eq!((kit.state(id).await, kit.state(follower).await), (TaskState::Cancelled, TaskState::Cancelled));
    assert_eq!(kit.claim_one().await.new.id, clean.id);
}

/// A transient failure of the undo is tried again at its time; lost and failed undos end up stuck.
pub async fn an_undo_is_tried_again_but_not_for_ever(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    for lose in [false, true] {
        let id = kit.add(kit.task("A")).await;
        let mut task = kit.claim_one().await;
        kit.finish(&task, undo()).await.unwrap();
        let mut starts = 0;
        loop {
            if lose {
                kit.pass(LEASE);
                kit.sweep().await;
            } else {
                let at = kit.now() + secs(10);
                kit.finish(&task, Outcome::Retry { error: "busy".into(), at }).await.unwrap();
                assert!(kit.claim(1).await.is_empty());
                kit.pass(secs(10));
            }
            if kit.state(id).await == TaskState::Stuck {
                break;
            }
            task = kit.claim_one().await;
            assert_eq!(task.state, TaskState::Undoing);
            starts += 1;
        }
        assert_eq!(starts, portolan_tasks::rules::UNDO_STARTS);
        assert!(kit.claim(1).await.is_empty());
    }
}

/// Somebody asked for it, so it ends as they asked, after its undo, which itself is not disturbed.
pub async fn undoing_a_cancelled_task_ends_as_cancelled(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(NewTask { retries: 2, ..kit.task("A") }).await;
    let task = kit.claim_one().await;
    kit.store.cancel(kit.now(), Scope::All, id, "enough").await.unwrap();
    kit.finish(&task, undo()).await.unwrap();
    let tasks = vec![Beat { held: task.held(), progress: None }];
    let replies = kit.store.beat(kit.now(), BeatRequest { lease: LEASE, tasks }).await.unwrap();
    assert_eq!(replies, [BeatReply::Held { cancel: false }]);
    let reply = kit.store.cancel(kit.now(), Scope::All, id, "now!").await.unwrap();
    assert_eq!((reply, kit.state(id).await), (CancelReply::Requested, TaskState::Undoing));
    kit.finish(&task, Outcome::Undone).await.unwrap();
    assert_eq!(kit.state(id).await, TaskState::Cancelled);
    assert_eq!(kit.list(Filter::All).await.len(), 1, "no copy follows");
}

/// `Undone` before `Undo`, or a plain end while undoing, is a conflict and changes nothing.
pub async fn ends_that_do_not_fit_the_state_are_refused(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(kit.task("A")).await;
    let task = kit.claim_one().await;
    assert!(matches!(kit.finish(&task, Outcome::Undone).await, Err(TaskError::Conflict { .. })));
    kit.finish(&task, undo()).await.unwrap();
    let before = kit.get(id).await;
    for outcome in [done(), failed(), undo(), Outcome::Cancelled { error: String::new() }] {
        let refused = kit.finish_with(&task, outcome, vec![kit.task("B")]).await;
        assert!(matches!(refused, Err(TaskError::Conflict { id: i, .. }) if i == id));
    }
    assert_eq!(kit.list(Filter::All).await, [before]);
}
