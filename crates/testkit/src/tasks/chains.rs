//! Adding tasks, and tasks that wait for others.

use super::{Kit, done, failed, minutes, secs};
use portolan_model::query::Filter;
use portolan_model::{Scope, TaskId, TaskState};
use portolan_tasks::{Enqueued, NewTask, Outcome, TaskError, TaskStore};
use std::sync::Arc;

/// The same id is the same task, while it lives and after, whatever else the second says.
pub async fn enqueuing_again_changes_nothing(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let new = kit.task("A");
    let other = NewTask { kind: "B".into(), priority: 99, ..new.clone() };
    let twice = kit.store.enqueue(kit.now(), vec![new.clone(), other.clone()]).await.unwrap();
    assert_eq!(twice, [Enqueued { id: new.id, added: true }, Enqueued { id: new.id, added: false }]);
    let again = [Enqueued { id: new.id, added: false }];
    assert_eq!(kit.store.enqueue(kit.now(), vec![other.clone()]).await.unwrap(), again);
    assert_eq!(kit.get(new.id).await.new, new);
    let task = kit.claim_one().await;
    assert_eq!(kit.store.enqueue(kit.now(), vec![other.clone()]).await.unwrap(), again);
    kit.finish(&task, done()).await.unwrap();
    assert_eq!(kit.store.enqueue(kit.now(), vec![other]).await.unwrap(), again);
    assert_eq!(kit.get(new.id).await.state, TaskState::Succeeded);
    assert_eq!(kit.store.enqueue(kit.now(), Vec::new()).await.unwrap(), []);
}

/// At most one task that has not ended holds a key; ending by any way gives it up.
pub async fn a_unique_key_names_its_holder_until_the_end(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let keyed = |key: &str| NewTask { unique_key: Some(key.into()), ..kit.task("A") };
    let first = keyed("k");
    let answers = kit.store.enqueue(kit.now(), vec![first.clone(), keyed("k"), keyed("K")]).await.unwrap();
    assert_eq!(answers.iter().map(|a| a.added).collect::<Vec<_>>(), [true, false, true], "letters' case counts");
    assert_eq!(answers[1].id, first.id);
    let claimed = kit.claim(5).await;
    assert_eq!(claimed.len(), 2);
    let answer = kit.store.enqueue(kit.now(), vec![keyed("k")]).await.unwrap()[0];
    assert_eq!(answer, Enqueued { id: first.id, added: false });
    let task = &claimed.iter().find(|c| c.task.new.id == first.id).unwrap().task;
    kit.finish(task, done()).await.unwrap();
    let second = kit.add(keyed("k")).await;
    kit.store.cancel(kit.now(), Scope::All, second, "x").await.unwrap();
    kit.add(keyed("k")).await;
}

/// One task that waits for a task that does not exist refuses all of its call.
pub async fn enqueuing_is_all_or_none(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let nobody = TaskId::from_uuid(uuid::Uuid::max());
    let first = kit.task("A");
    let itself = kit.task("B");
    let later = kit.task("C");
    for bad in [
        vec![first.clone(), NewTask { after: vec![first.id, nobody], ..kit.task("B") }],
        vec![first.clone(), NewTask { after: vec![itself.id], ..itself }],
        vec![first.clone(), NewTask { after: vec![later.id], ..kit.task("B") }, later],
    ] {
        let refused = kit.store.enqueue(kit.now(), bad).await;
        assert!(matches!(refused, Err(TaskError::NotFound(_))), "{refused:?}");
        assert!(kit.list(Filter::All).await.is_empty());
    }
    kit.add(first).await;
}

/// Blocked until every task before it has succeeded.
pub async fn a_task_waits_for_those_before_it(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let (a, b) = (kit.task("A"), kit.task("B"));
    let c = NewTask { after: vec![a.id, b.id, a.id], priority: 100, ..kit.task("C") };
    let d = NewTask { after: vec![c.id], ..kit.task("D") };
    kit.store.enqueue(kit.now(), vec![a.clone(), b.clone(), c.clone(), d.clone()]).await.unwrap();
    assert_eq!(kit.state(c.id).await, TaskState::Blocked);
    let claimed = kit.claim(10).await;
    assert_eq!(claimed.len(), 2, "only the first two can run");
    kit.finish(&claimed[0].task, done()).await.unwrap();
    assert_eq!(kit.state(c.id).await, TaskState::Blocked);
    kit.finish(&claimed[1].task, done()).await.unwrap();
    assert_eq!((kit.state(c.id).await, kit.state(d.id).await), (TaskState::Ready, TaskState::Blocked));
    let task = kit.claim_one().await;
    kit.finish(&task, Outcome::Released).await.unwrap();
    assert_eq!(kit.state(d.id).await, TaskState::Blocked, "an attempt is not an end");
    let task = kit.claim_one().await;
    kit.finish(&task, done()).await.unwrap();
    assert_eq!(kit.claim_one().await.new.id, d.id);
}

/// Those before it may have ended already: by success, or otherwise.
pub async fn a_late_task_sees_how_those_before_it_ended(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let good = kit.add(kit.task("A")).await;
    let task = kit.claim_one().await;
    kit.finish(&task, done()).await.unwrap();
    let bad = kit.add(kit.task("A")).await;
    let task = kit.claim_one().await;
    kit.finish(&task, failed()).await.unwrap();
    let runs = kit.add(NewTask { after: vec![good], ..kit.task("B") }).await;
    assert_eq!(kit.state(runs).await, TaskState::Ready);
    let clean = kit.task("CLEAN");
    let on_failure = Some(Box::new(clean.clone()));
    let never = kit.add(NewTask { after: vec![good, bad], on_failure, ..kit.task("B") }).await;
    let ended = kit.get(never).await;
    assert_eq!((ended.state, ended.finished, ended.started), (TaskState::Cancelled, Some(kit.now()), None));
    assert!(ended.error.contains(&bad.to_string()), "{}", ended.error);
    assert_eq!(kit.state(clean.id).await, TaskState::Ready);
}

/// A whole tree of followers is cancelled with its reason, and each one's cleaning up follows.
pub async fn an_end_other_than_success_cuts_off_all_that_follow(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let (a, good, x) = (kit.task("A"), kit.task("OTHER"), kit.task("CLEAN"));
    let b = NewTask { after: vec![good.id, a.id], on_failure: Some(Box::new(x.clone())), ..kit.task("B") };
    let c = NewTask { after: vec![b.id], ..kit.task("C") };
    let d = NewTask { after: vec![a.id, b.id, c.id], unique_key: Some("d".into()), ..kit.task("D") };
    let all = vec![a.clone(), good.clone(), b.clone(), c.clone(), d.clone()];
    kit.store.enqueue(kit.now(), all).await.unwrap();
    let task = kit.claim_one().await;
    assert_eq!(task.new.id, a.id);
    kit.finish(&task, failed()).await.unwrap();
    for (id, cause) in [(b.id, a.id), (c.id, b.id), (d.id, a.id)] {
        let task = kit.get(id).await;
        assert_eq!((task.state, task.finished), (TaskState::Cancelled, Some(kit.now())));
        assert!(task.error.contains(&cause.to_string()), "{}", task.error);
    }
    assert_eq!(kit.state(good.id).await, TaskState::Ready, "what went before is not touched");
    assert_eq!(kit.claim_one().await.new.id, x.id);
    kit.add(NewTask { unique_key: Some("d".into()), ..kit.task("D") }).await;
}

/// When a copy follows a failure, those after it wait for the copy.
pub async fn followers_wait_for_the_copy(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let export = NewTask { retries: 1, ..kit.task("A") };
    let store_link = NewTask { after: vec![export.id], ..kit.task("B") };
    kit.store.enqueue(kit.now(), vec![export.clone(), store_link.clone()]).await.unwrap();
    let task = kit.claim_one().await;
    kit.finish(&task, failed()).await.unwrap();
    let copy = kit.claim_one().await;
    let follower = kit.get(store_link.id).await;
    assert_eq!((follower.state, follower.new.after), (TaskState::Blocked, vec![copy.new.id]));
    kit.finish(&copy, done()).await.unwrap();
    assert_eq!(kit.claim_one().await.new.id, store_link.id);
}

/// In one call, to wait for a task that was not added is to wait for the one that is there.
pub async fn followers_of_one_that_was_there_wait_for_that_one(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let keyed = || NewTask { unique_key: Some("sync".into()), ..kit.task("A") };
    let there = kit.add(keyed()).await;
    let second = keyed();
    let follower = NewTask { after: vec![second.id], ..kit.task("B") };
    kit.store.enqueue(kit.now(), vec![second, follower.clone()]).await.unwrap();
    let blocked = kit.get(follower.id).await;
    assert_eq!((blocked.state, blocked.new.after), (TaskState::Blocked, vec![there]));
    let task = kit.claim_one().await;
    kit.finish(&task, done()).await.unwrap();
    assert_eq!(kit.claim_one().await.new.id, follower.id);
}

/// To be unblocked is not to be due.
pub async fn scheduled_followers_keep_their_time(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let first = kit.add(kit.task("A")).await;
    let at = kit.now() + minutes(10);
    let second = kit.add(NewTask { after: vec![first], run_at: at, ..kit.task("B") }).await;
    let task = kit.claim_one().await;
    kit.pass(secs(1));
    kit.finish(&task, done()).await.unwrap();
    assert_eq!(kit.state(second).await, TaskState::Scheduled);
    assert!(kit.claim(1).await.is_empty());
    kit.clock.set(at);
    assert_eq!(kit.claim_one().await.new.id, second);
}
