//! What an operator asks of tasks that have stopped.

use super::{Kit, LEASE, done, failed, minutes, secs};
use portolan_model::query::Filter;
use portolan_model::{IdSource, Scope, TaskId, TaskState, TenantId};
use portolan_tasks::{NewTask, Outcome, RetryReply, Task, TaskError, TaskStore, rules};
use std::sync::Arc;

impl Kit {
    fn new_id(&self) -> TaskId {
        TaskId::from_uuid(self.ids.uuid())
    }

    async fn retry(&self, id: TaskId) -> Result<RetryReply, TaskError> {
        self.store.retry(self.now(), Scope::All, id, self.new_id()).await
    }

    /// Adds a task and has it get stuck.
    async fn stuck(&self, new: NewTask) -> TaskId {
        let id = self.add(new).await;
        let task = self.claim_one().await;
        self.finish(&task, Outcome::Undo { error: "half done".into() }).await.unwrap();
        self.finish(&task, Outcome::Stuck { error: "disk is gone".into() }).await.unwrap();
        id
    }

    /// The copy that a retry makes.
    async fn copy_of(&self, id: TaskId) -> Task {
        let new_id = self.new_id();
        let reply = self.store.retry(self.now(), Scope::All, id, new_id).await.unwrap();
        assert_eq!(reply, RetryReply::Copied(new_id));
        self.get(new_id).await
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, TaskError>, id: TaskId) {
    assert!(matches!(&result, Err(TaskError::Conflict { id: i, .. }) if *i == id), "{result:?}");
}

/// It waits for a worker, which is told to undo; then it ends as it would have ended before.
pub async fn a_stuck_task_is_undone_again(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let clean = kit.task("CLEAN");
    let on_failure = Some(Box::new(clean.clone()));
    let id = kit.stuck(NewTask { on_failure, ..kit.limited("A", &[("vm", 1)]) }).await;
    let follower = kit.add(NewTask { after: vec![id], ..kit.task("B") }).await;
    kit.pass(minutes(5));
    let wakeup = kit.store.wakeup();
    let rung = wakeup.notified();
    assert_eq!(kit.retry(id).await.unwrap(), RetryReply::Undoing);
    rung.await;
    let waiting = kit.get(id).await;
    assert_eq!((waiting.state, waiting.lease_until, waiting.new.run_at), (TaskState::Undoing, None, kit.now()));
    assert_eq!(waiting.error, "disk is gone");
    refused(kit.retry(id).await, id);
    let task = kit.claim_one().await;
    assert_eq!((task.new.id, task.state), (id, TaskState::Undoing));
    kit.finish(&task, Outcome::Undone).await.unwrap();
    assert_eq!((kit.state(id).await, kit.state(follower).await), (TaskState::Failed, TaskState::Cancelled));
    assert_eq!(kit.claim_one().await.new.id, clean.id);
}

/// The attempts of the undo begin anew, as often as the operator wants, however many went before; one whom somebody
/// wanted to stop ends as cancelled.
pub async fn attempts_of_an_undo_begin_anew(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(NewTask { max_attempts: 2, ..kit.task("A") }).await;
    let mut task = kit.claim_one().await;
    kit.store.cancel(kit.now(), Scope::All, id, "enough").await.unwrap();
    kit.finish(&task, Outcome::Undo { error: "half done".into() }).await.unwrap();
    kit.finish(&task, Outcome::Stuck { error: "busy".into() }).await.unwrap();
    for round in 0..3 {
        assert_eq!(kit.retry(id).await.unwrap(), RetryReply::Undoing);
        let mut starts = 0;
        while kit.state(id).await != TaskState::Stuck {
            task = kit.claim_one().await;
            starts += 1;
            kit.pass(LEASE);
            kit.sweep().await;
        }
        // The first time it was stuck after one attempt of two.
        assert_eq!(starts, rules::UNDO_STARTS + i32::from(round == 0));
    }
    assert!(matches!(kit.finish(&task, Outcome::Undone).await, Err(TaskError::Lost(_))));
    kit.retry(id).await.unwrap();
    let task = kit.claim_one().await;
    kit.finish(&task, Outcome::Undone).await.unwrap();
    assert_eq!(kit.state(id).await, TaskState::Cancelled);
}

/// The content is the same, the chain too; it is due now, waits for nobody, and knows where it comes from. The old
/// task stays as it is.
pub async fn a_copy_is_made_of_what_ended(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let before = kit.add(kit.task("OTHER")).await;
    let (soon, late) = (kit.now() + secs(30), kit.now() + minutes(600));
    let whole = |kind: &str| NewTask {
        tenant: Some(TenantId::from_uuid(kit.ids.uuid())),
        priority: 70,
        max_attempts: 2,
        unique_key: Some(format!("key {kind}")),
        ..kit.limited(kind, &[("vm", 1)])
    };
    let failing = kit.add(NewTask { start_by: Some(soon), deadline: Some(late), ..whole("A") }).await;
    let task = kit.claim_one().await;
    kit.store.step(kit.now(), task.held(), "one", super::text("done")).await.unwrap();
    kit.finish(&task, failed()).await.unwrap();
    let cancelled = kit.add(NewTask { after: vec![before], start_by: Some(late), ..whole("B") }).await;
    kit.store.cancel(kit.now(), Scope::All, cancelled, "not now").await.unwrap();
    let expired = kit.add(NewTask { start_by: Some(soon), deadline: Some(soon), ..whole("C") }).await;
    kit.pass(minutes(5));
    kit.sweep().await;
    for (id, state, start_by, deadline) in [
        (failing, TaskState::Failed, None, Some(late)),
        (cancelled, TaskState::Cancelled, Some(late), None),
        (expired, TaskState::Expired, None, None),
    ] {
        let old = kit.get(id).await;
        assert_eq!(old.state, state);
        let copy = kit.copy_of(id).await;
        assert_eq!(kit.get(id).await, old);
        assert_eq!((copy.state, copy.attempt, copy.fence), (TaskState::Ready, 0, 0));
        assert_eq!((copy.created, copy.started, copy.error.as_str()), (kit.now(), None, ""));
        let mut expected = NewTask { id: copy.new.id, run_at: kit.now(), start_by, deadline, ..old.new.clone() };
        expected.after = Vec::new();
        expected.links.parent = Some(id);
        assert_eq!(copy.new, expected);
        let claimed = kit.claim(5).await;
        assert_eq!(claimed.iter().map(|c| c.task.new.id).collect::<Vec<_>>(), [copy.new.id]);
        assert!(claimed[0].steps.is_empty(), "nothing of the copy has been done");
        kit.finish(&claimed[0].task, done()).await.unwrap();
    }
}

/// The copy cleans up after itself, though the old one's cleaning up has been enqueued under its own id.
pub async fn a_copy_cleans_up_under_ids_of_its_own(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let last = NewTask { start_by: Some(kit.now()), ..kit.task("D") };
    let clean = NewTask { on_failure: Some(Box::new(last.clone())), ..kit.task("CLEAN") };
    let id = kit.add(NewTask { on_failure: Some(Box::new(clean.clone())), ..kit.task("A") }).await;
    let fail_next = async |kind: &str| {
        let task = kit.claim_one().await;
        assert_eq!(task.new.kind, kind);
        kit.finish(&task, failed()).await.unwrap();
    };
    for kind in ["A", "CLEAN", "D"] {
        fail_next(kind).await;
    }
    let mut ids = vec![id, clean.id, last.id];
    for _ in 0..2 {
        kit.pass(secs(1));
        ids.push(kit.copy_of(id).await.new.id);
        for kind in ["A", "CLEAN", "D"] {
            fail_next(kind).await;
        }
    }
    let all = kit.list(Filter::All).await;
    assert_eq!(all.len(), 9, "each time the task, its cleaning up, and what follows that");
    assert!(all.iter().all(|task| task.state == TaskState::Failed));
    assert!(ids.iter().all(|id| all.iter().any(|task| task.new.id == *id)));
}

/// While another task holds the key, that one is the answer; the same call again has the same answer.
pub async fn a_copy_keeps_to_the_unique_key(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let keyed = || NewTask { unique_key: Some("k".into()), ..kit.task("A") };
    let id = kit.add(keyed()).await;
    let task = kit.claim_one().await;
    kit.finish(&task, failed()).await.unwrap();
    let new_id = kit.new_id();
    for _ in 0..2 {
        let reply = kit.store.retry(kit.now(), Scope::All, id, new_id).await.unwrap();
        assert_eq!(reply, RetryReply::Copied(new_id));
    }
    assert_eq!(kit.retry(id).await.unwrap(), RetryReply::Copied(new_id), "the holder of the key");
    assert_eq!(kit.list(Filter::All).await.len(), 2);
    assert_eq!(kit.claim_one().await.new.id, new_id);
}

/// What waits after a transient failure need not wait any longer.
pub async fn a_waiting_retry_is_hastened(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(NewTask { max_attempts: 3, ..kit.task("A") }).await;
    let task = kit.claim_one().await;
    kit.finish(&task, Outcome::Retry { error: "busy".into(), at: kit.now() + minutes(10) }).await.unwrap();
    kit.pass(secs(1));
    assert!(kit.claim(1).await.is_empty());
    let wakeup = kit.store.wakeup();
    let rung = wakeup.notified();
    assert_eq!(kit.retry(id).await.unwrap(), RetryReply::Hastened);
    rung.await;
    let due = kit.get(id).await;
    assert_eq!((due.state, due.attempt, due.error.as_str()), (TaskState::Ready, 1, "busy"));
    assert_eq!(due.new.run_at, kit.now());
    let again = kit.claim_one().await;
    assert_eq!((again.new.id, again.attempt), (id, 2));
}

/// What goes on by itself, what succeeded, and what the scope does not show.
pub async fn nothing_else_is_retried(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let succeeded = kit.add(kit.task("A")).await;
    kit.finish(&kit.claim_one().await, done()).await.unwrap();
    let running = kit.add(kit.task("A")).await;
    kit.claim_one().await;
    let undoing = kit.add(kit.task("A")).await;
    let task = kit.claim_one().await;
    kit.finish(&task, Outcome::Undo { error: "half done".into() }).await.unwrap();
    let ready = kit.add(kit.task("OTHER")).await;
    let scheduled = kit.add(NewTask { run_at: kit.now() + secs(9), ..kit.task("OTHER") }).await;
    let blocked = kit.add(NewTask { after: vec![ready], ..kit.task("OTHER") }).await;
    let before = kit.list(Filter::All).await;
    for id in [succeeded, running, undoing, ready, scheduled, blocked] {
        refused(kit.retry(id).await, id);
        refused(kit.store.abandon(kit.now(), Scope::All, id, "no").await, id);
    }
    let unknown = kit.new_id();
    assert!(matches!(kit.retry(unknown).await, Err(TaskError::NotFound(id)) if id == unknown));
    let abandoned = kit.store.abandon(kit.now(), Scope::All, unknown, "no").await;
    assert!(matches!(abandoned, Err(TaskError::NotFound(id)) if id == unknown));
    assert_eq!(kit.list(Filter::All).await, before);
}

/// A tenant retries and abandons its own tasks only.
pub async fn operators_keep_to_their_scope(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let [mine, theirs] = [(); 2].map(|()| TenantId::from_uuid(kit.ids.uuid()));
    let stuck = kit.stuck(NewTask { tenant: Some(mine), ..kit.task("A") }).await;
    let ended = kit.add(NewTask { tenant: Some(mine), ..kit.task("A") }).await;
    kit.finish(&kit.claim_one().await, failed()).await.unwrap();
    let nobodys = kit.stuck(kit.task("A")).await;
    for (scope, id) in [(Scope::Tenant(theirs), stuck), (Scope::Tenant(theirs), ended), (Scope::Tenant(mine), nobodys)]
    {
        let retried = kit.store.retry(kit.now(), scope, id, kit.new_id()).await;
        assert!(matches!(retried, Err(TaskError::NotFound(i)) if i == id));
        let abandoned = kit.store.abandon(kit.now(), scope, id, "no").await;
        assert!(matches!(abandoned, Err(TaskError::NotFound(i)) if i == id));
    }
    let scope = Scope::Tenant(mine);
    let copied = kit.store.retry(kit.now(), scope, ended, kit.new_id()).await.unwrap();
    assert!(matches!(copied, RetryReply::Copied(_)));
    kit.store.abandon(kit.now(), scope, stuck, "no").await.unwrap();
}

/// It ends as failed, says why beside what was wrong, and is cleaned up after; no copy follows, though retries are
/// left.
pub async fn a_stuck_task_is_abandoned(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let clean = kit.task("CLEAN");
    let on_failure = Some(Box::new(clean.clone()));
    let unique_key = Some("k".into());
    let id = kit.stuck(NewTask { on_failure, unique_key, retries: 3, ..kit.task("A") }).await;
    let follower = kit.add(NewTask { after: vec![id], ..kit.task("B") }).await;
    kit.pass(secs(1));
    kit.store.abandon(kit.now(), Scope::All, id, "disk was replaced").await.unwrap();
    let ended = kit.get(id).await;
    assert_eq!((ended.state, ended.finished), (TaskState::Failed, Some(kit.now())));
    assert!(ended.error.starts_with("disk is gone") && ended.error.ends_with("disk was replaced"), "{}", ended.error);
    assert_eq!(kit.state(follower).await, TaskState::Cancelled);
    assert_eq!(kit.claim_one().await.new.id, clean.id);
    assert_eq!(kit.list(Filter::All).await.len(), 3);
    refused(kit.store.abandon(kit.now(), Scope::All, id, "again").await, id);
    assert_eq!(kit.get(id).await, ended);
    assert_eq!(kit.copy_of(id).await.new.unique_key.as_deref(), Some("k"), "an operator may think again");
}
