//! How attempts end, and what follows.

use super::{Kit, done, failed, minutes, secs};
use portolan_model::query::Filter;
use portolan_model::{Scope, TaskId, TaskState};
use portolan_tasks::{Beat, BeatReply, BeatRequest, CancelReply, Json, NewTask, Outcome, TaskError, TaskStore};
use std::sync::Arc;

/// Output, whole progress, no error, no lease; the rest is as it was.
pub async fn success_leaves_an_output_and_whole_progress(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(NewTask { max_attempts: 2, ..kit.task("A") }).await;
    let first = kit.claim_one().await;
    kit.finish(&first, Outcome::Retry { error: "again".into(), at: kit.now() }).await.unwrap();
    assert_eq!(kit.get(id).await.error, "again");
    let task = kit.claim_one().await;
    kit.pass(secs(3));
    kit.finish(&task, Outcome::Succeeded { output: serde_json::json!({ "bytes": 7 }) }).await.unwrap();
    let ended = kit.get(id).await;
    assert_eq!(
        (ended.state, ended.output.clone(), ended.error.as_str()),
        (TaskState::Succeeded, serde_json::json!({ "bytes": 7 }), "")
    );
    assert_eq!((ended.finished, ended.lease_until, ended.progress.percent()), (Some(kit.now()), None, 100));
    assert_eq!((ended.attempt, ended.fence, ended.worker.as_str()), (2, task.fence, "worker-1"));
    assert_eq!((ended.started, ended.created), (first.started, first.created));
}

/// Without retries and cleaning up, a failure is just an end.
pub async fn failure_is_final_without_retries(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(NewTask { max_attempts: 5, ..kit.task("A") }).await;
    let task = kit.claim_one().await;
    kit.finish(&task, failed()).await.unwrap();
    let ended = kit.get(id).await;
    assert_eq!((ended.state, ended.error.as_str(), ended.output), (TaskState::Failed, "it broke", Json::Null));
    assert_eq!(kit.list(Filter::All).await.len(), 1);
    assert!(kit.claim(1).await.is_empty());
}

/// Back to waiting until the instant that was named; one that has passed is ready at once.
pub async fn a_retry_waits_until_its_time(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(NewTask { max_attempts: 3, ..kit.task("A") }).await;
    let task = kit.claim_one().await;
    let at = kit.now() + minutes(2);
    kit.finish(&task, Outcome::Retry { error: "busy".into(), at }).await.unwrap();
    let waiting = kit.get(id).await;
    assert_eq!((waiting.state, waiting.error.as_str(), waiting.new.run_at), (TaskState::Scheduled, "busy", at));
    assert_eq!((waiting.attempt, waiting.fence, waiting.lease_until), (1, task.fence, None));
    assert!(kit.claim(1).await.is_empty());
    kit.pass(minutes(2));
    let task = kit.claim_one().await;
    assert_eq!(task.attempt, 2);
    kit.finish(&task, Outcome::Retry { error: "busy".into(), at: kit.now() - secs(1) }).await.unwrap();
    assert_eq!(kit.state(id).await, TaskState::Ready);
    assert_eq!(kit.claim_one().await.attempt, 3);
}

/// The last attempt's transient failure is a failure for good, with all that follows from one.
pub async fn retries_stop_when_attempts_are_used_up(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let clean = kit.task("CLEAN");
    let id = kit.add(NewTask { max_attempts: 2, on_failure: Some(Box::new(clean.clone())), ..kit.task("A") }).await;
    for _ in 0..2 {
        let task = kit.claim_one().await;
        kit.finish(&task, Outcome::Retry { error: "busy".into(), at: kit.now() }).await.unwrap();
    }
    let ended = kit.get(id).await;
    assert_eq!((ended.state, ended.error.as_str(), ended.attempt), (TaskState::Failed, "busy", 2));
    assert_eq!(kit.claim_one().await.new.id, clean.id);
}

/// A graceful stop costs nothing: ready at once, as if it had not been started.
pub async fn released_attempts_do_not_count(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(kit.task("A")).await;
    for _ in 0..4 {
        let task = kit.claim_one().await;
        assert_eq!(task.attempt, 1);
        kit.finish(&task, Outcome::Released).await.unwrap();
        let back = kit.get(id).await;
        assert_eq!((back.state, back.attempt, back.lease_until), (TaskState::Ready, 0, None));
        assert_eq!(back.fence, task.fence, "the fence never goes back");
    }
}

/// The chain's next links are there once the end is, and may wait for the task that ended.
pub async fn next_links_come_with_the_end(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(NewTask { unique_key: Some("link".into()), ..kit.task("A") }).await;
    let task = kit.claim_one().await;
    let next = NewTask { unique_key: Some("link".into()), after: vec![id], ..kit.task("B") };
    let last = NewTask { after: vec![next.id], ..kit.task("C") };
    kit.finish_with(&task, done(), vec![next.clone(), last.clone()]).await.unwrap();
    assert_eq!(kit.state(next.id).await, TaskState::Ready);
    assert_eq!(kit.state(last.id).await, TaskState::Blocked);
    assert_eq!(kit.claim_one().await.new, next);
}

/// An end whose next links cannot be added does not happen at all.
pub async fn next_links_that_wait_for_nobody_refuse_the_end(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(kit.task("A")).await;
    let task = kit.claim_one().await;
    let nobody = TaskId::from_uuid(uuid::Uuid::max());
    let next = vec![kit.task("B"), NewTask { after: vec![nobody], ..kit.task("C") }];
    let refused = kit.finish_with(&task, done(), next).await;
    assert!(matches!(refused, Err(TaskError::NotFound(id)) if id == nobody));
    assert_eq!(kit.state(id).await, TaskState::Running);
    assert_eq!(kit.list(Filter::All).await.len(), 1);
    kit.finish(&task, done()).await.unwrap();
}

/// A failure for good is followed by a copy with one retry less, and by cleaning up only when none are left.
pub async fn a_copy_follows_while_retries_are_left(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let clean = kit.task("CLEAN");
    let first = NewTask { retries: 2, on_failure: Some(Box::new(clean.clone())), ..kit.limited("A", &[("vm", 1)]) };
    let chain = first.chain;
    let mut id = kit.add(first.clone()).await;
    for left in [1, 0] {
        let task = kit.claim_one().await;
        assert_eq!(task.new.id, id);
        kit.pass(secs(60));
        kit.finish(&task, failed()).await.unwrap();
        assert!(kit.find(clean.id).await.is_none(), "a retry follows, so nothing is cleaned up yet");
        let links = kit.list(Filter::eq("chain", chain.uuid())).await;
        let copy = links.iter().find(|t| !t.state.is_terminal()).unwrap();
        assert_eq!((copy.state, copy.attempt, copy.new.retries), (TaskState::Ready, 0, left));
        assert_eq!((copy.new.links.parent, copy.new.run_at), (Some(id), kit.now()));
        assert_eq!((&copy.new.payload, &copy.new.limits), (&first.payload, &first.limits));
        id = copy.new.id;
    }
    let task = kit.claim_one().await;
    kit.finish(&task, failed()).await.unwrap();
    assert_eq!(kit.claim_one().await.new.id, clean.id);
    assert_eq!(kit.list(Filter::eq("chain", chain.uuid())).await.len(), 3);
}

/// Past the start window or the deadline a copy would only expire: cleaning up follows at once. The same holds
/// for one that was asked to stop.
pub async fn no_copy_follows_what_could_not_start_in_time(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let soon = Some(kit.now() + secs(10));
    let base = || NewTask { retries: 3, ..kit.task("A") };
    for (new, wish) in
        [(NewTask { start_by: soon, ..base() }, false), (NewTask { deadline: soon, ..base() }, false), (base(), true)]
    {
        let at = kit.now();
        let clean = kit.task("CLEAN");
        let chain = new.chain;
        let id = kit.add(NewTask { on_failure: Some(Box::new(clean.clone())), ..new }).await;
        let task = kit.claim_one().await;
        if wish {
            kit.store.cancel(kit.now(), Scope::All, id, "stop").await.unwrap();
        }
        kit.pass(secs(11));
        kit.finish(&task, failed()).await.unwrap();
        assert_eq!(kit.state(id).await, TaskState::Failed);
        assert_eq!(kit.list(Filter::eq("chain", chain.uuid())).await.len(), 1);
        let cleaning = kit.claim_one().await;
        assert_eq!(cleaning.new.id, clean.id);
        kit.finish(&cleaning, done()).await.unwrap();
        kit.clock.set(at);
    }
}

/// Whichever way a task ends other than by success, its cleaning up is enqueued exactly once; success needs none.
pub async fn cleaning_up_follows_every_other_end_once(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let with_clean = |new: NewTask| {
        let clean = kit.task("CLEAN");
        (clean.id, NewTask { on_failure: Some(Box::new(clean)), ..new })
    };
    let mut wanted = Vec::new();
    for outcome in [failed(), Outcome::Cancelled { error: "stop".into() }] {
        let (clean, new) = with_clean(kit.task("A"));
        kit.add(new).await;
        let task = kit.claim_one().await;
        kit.finish(&task, outcome).await.unwrap();
        let cleaning = kit.claim_one().await;
        assert_eq!(cleaning.new.id, clean);
        kit.finish(&cleaning, done()).await.unwrap();
        wanted.push(clean);
    }
    let (no_clean, new) = with_clean(kit.task("A"));
    kit.add(new).await;
    let task = kit.claim_one().await;
    kit.finish(&task, done()).await.unwrap();
    // Cancelled before its start, expired, lost for good, overdue.
    let (clean, new) = with_clean(kit.task("A"));
    let id = kit.add(new).await;
    kit.store.cancel(kit.now(), Scope::All, id, "stop").await.unwrap();
    kit.store.cancel(kit.now(), Scope::All, id, "stop").await.unwrap();
    wanted.push(clean);
    let (clean, new) = with_clean(kit.task("B"));
    kit.add(NewTask { priority: 100, ..new }).await;
    assert_eq!(kit.claim(1).await.len(), 1);
    wanted.push(clean);
    for new in [
        NewTask { start_by: Some(kit.now() + secs(1)), ..kit.task("OTHER") },
        NewTask { deadline: Some(kit.now() + secs(1)), ..kit.task("OTHER") },
    ] {
        let (clean, new) = with_clean(new);
        kit.add(new).await;
        wanted.push(clean);
    }
    kit.pass(minutes(5));
    kit.sweep().await;
    kit.sweep().await;
    let mut found: Vec<_> = kit.list(Filter::eq("kind", "CLEAN")).await.iter().map(|t| t.new.id).collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    assert!(!found.contains(&no_clean));
}

/// Copies are for failures: what was cancelled, cut off or expired while it waited is not tried again.
pub async fn no_copy_follows_an_end_before_the_start(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let plain = || NewTask { retries: 3, ..kit.task("A") };
    let cancelled = kit.add(plain()).await;
    let cut_off = kit.add(NewTask { after: vec![cancelled], ..plain() }).await;
    let expired = kit.add(NewTask { start_by: Some(kit.now()), ..plain() }).await;
    kit.store.cancel(kit.now(), Scope::All, cancelled, "stop").await.unwrap();
    kit.pass(secs(1));
    kit.sweep().await;
    for (id, state) in
        [(cancelled, TaskState::Cancelled), (cut_off, TaskState::Cancelled), (expired, TaskState::Expired)]
    {
        assert_eq!(kit.state(id).await, state);
    }
    assert_eq!(kit.list(Filter::All).await.len(), 3);
    // Nor what its worker cancelled by itself.
    kit.add(plain()).await;
    let task = kit.claim_one().await;
    kit.finish(&task, Outcome::Cancelled { error: "not needed".into() }).await.unwrap();
    assert_eq!(kit.list(Filter::All).await.len(), 4);
}

/// A task that waits ends there and then, in every waiting state; one that ended stays as it is.
pub async fn a_waiting_task_is_cancelled_at_once(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let ready = kit.add(kit.task("OTHER")).await;
    let scheduled = kit.add(NewTask { run_at: kit.now() + minutes(9), ..kit.task("A") }).await;
    let blocked = kit.add(NewTask { after: vec![ready], ..kit.task("A") }).await;
    for id in [scheduled, blocked, ready] {
        let reply = kit.store.cancel(kit.now(), Scope::All, id, "not needed").await.unwrap();
        assert_eq!(reply, CancelReply::Cancelled);
        let task = kit.get(id).await;
        assert_eq!((task.state, task.error.as_str()), (TaskState::Cancelled, "not needed"));
        assert_eq!((task.finished, task.started), (Some(kit.now()), None));
        kit.pass(secs(1));
        let before = kit.get(id).await;
        let reply = kit.store.cancel(kit.now(), Scope::All, id, "again").await.unwrap();
        assert_eq!((reply, kit.get(id).await), (CancelReply::AlreadyEnded, before));
    }
    kit.pass(minutes(10));
    assert!(kit.claim(5).await.is_empty());
    let nobody = TaskId::from_uuid(uuid::Uuid::max());
    let missing = kit.store.cancel(kit.now(), Scope::All, nobody, "x").await;
    assert!(matches!(missing, Err(TaskError::NotFound(id)) if id == nobody));
}

/// The wish reaches the worker by its beat; how it ends is still the worker's to say.
pub async fn a_running_task_is_asked_to_stop(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    for outcome in [Outcome::Cancelled { error: "stopped at 40 %".into() }, done()] {
        let id = kit.add(NewTask { max_attempts: 3, ..kit.task("A") }).await;
        let task = kit.claim_one().await;
        let reply = kit.store.cancel(kit.now(), Scope::All, id, "enough").await.unwrap();
        assert_eq!(reply, CancelReply::Requested);
        let asked = kit.get(id).await;
        assert_eq!((asked.state, asked.cancel_requested, asked.error.as_str()), (TaskState::Running, true, "enough"));
        let tasks = vec![Beat { held: task.held(), progress: None }];
        let replies = kit.store.beat(kit.now(), BeatRequest { lease: super::LEASE, tasks }).await.unwrap();
        assert_eq!(replies, [BeatReply::Held { cancel: true }]);
        let (state, error) = match &outcome {
            Outcome::Cancelled { error } => (TaskState::Cancelled, error.clone()),
            _ => (TaskState::Succeeded, String::new()),
        };
        kit.finish(&task, outcome).await.unwrap();
        let ended = kit.get(id).await;
        assert_eq!((ended.state, ended.error), (state, error));
    }
}

/// A task that was asked to stop is not started again: giving it back ends it.
pub async fn a_wish_to_stop_outlives_retry_and_release(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    for outcome in [Outcome::Released, Outcome::Retry { error: "cut off".into(), at: kit.now() }] {
        let id = kit.add(NewTask { max_attempts: 3, ..kit.task("A") }).await;
        let task = kit.claim_one().await;
        kit.store.cancel(kit.now(), Scope::All, id, "enough").await.unwrap();
        kit.finish(&task, outcome).await.unwrap();
        let ended = kit.get(id).await;
        assert_eq!((ended.state, ended.error.as_str()), (TaskState::Cancelled, "enough"));
    }
    assert!(kit.claim(5).await.is_empty());
}

/// The copy holds the key from the instant that the first one ends, and gives it up at its own end.
pub async fn a_unique_key_passes_to_the_copy(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let keyed = |retries| NewTask { unique_key: Some("export:vm1".into()), retries, ..kit.task("A") };
    kit.add(keyed(1)).await;
    let task = kit.claim_one().await;
    kit.finish(&task, failed()).await.unwrap();
    let answer = kit.store.enqueue(kit.now(), vec![keyed(0)]).await.unwrap()[0];
    assert!(!answer.added && answer.id != task.new.id);
    let copy = kit.claim_one().await;
    assert_eq!(copy.new.id, answer.id);
    kit.finish(&copy, failed()).await.unwrap();
    kit.add(keyed(0)).await;
}
