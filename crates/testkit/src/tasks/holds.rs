//! What a worker may do while it holds a task, and what it may not afterwards.

use super::{Kit, LEASE, done, failed, secs, text};
use portolan_model::{Scope, TaskId, TaskState};
use portolan_tasks::{Beat, BeatReply, BeatRequest, Finish, Held, NewTask, Outcome, Progress, TaskError, TaskStore};
use std::sync::Arc;

fn beat(held: Held, progress: Option<Progress>) -> BeatRequest {
    BeatRequest { lease: LEASE, tasks: vec![Beat { held, progress }] }
}

/// The lease runs from the beat, and progress is stored; a beat without progress keeps what is there.
pub async fn a_beat_extends_the_lease_and_reports_progress(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(kit.task("A")).await;
    let task = kit.claim_one().await;
    let progress = Progress { done: 5, total: 10, message: "copying".into() };
    kit.pass(secs(20));
    let request = beat(task.held(), Some(progress.clone()));
    assert_eq!(kit.store.beat(kit.now(), request).await.unwrap(), [BeatReply::Held { cancel: false }]);
    kit.pass(secs(20));
    assert_eq!(kit.sweep().await.released, 0, "the lease was extended");
    let request = beat(task.held(), None);
    assert_eq!(kit.store.beat(kit.now(), request).await.unwrap(), [BeatReply::Held { cancel: false }]);
    let stored = kit.get(id).await;
    assert_eq!((stored.progress.percent(), stored.progress), (50, progress));
    assert_eq!(stored.lease_until, Some(kit.now() + LEASE));
    assert_eq!(kit.store.beat(kit.now(), BeatRequest { lease: LEASE, tasks: Vec::new() }).await.unwrap(), []);
}

/// Held, wished to stop, lost and unknown tasks in one beat.
pub async fn a_beat_answers_each_task_for_itself(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    for _ in 0..3 {
        kit.add(kit.task("A")).await;
    }
    let held: Vec<_> = kit.claim(3).await.into_iter().map(|c| c.task).collect();
    kit.finish(&held[0], done()).await.unwrap();
    kit.store.cancel(kit.now(), Scope::All, held[1].new.id, "enough").await.unwrap();
    let unknown = Held { id: TaskId::from_uuid(uuid::Uuid::max()), fence: 1 };
    let progress = Some(Progress { done: 1, total: 1, message: String::new() });
    let tasks = [held[0].held(), held[1].held(), unknown, held[2].held()]
        .map(|held| Beat { held, progress: progress.clone() })
        .to_vec();
    let replies = kit.store.beat(kit.now(), BeatRequest { lease: LEASE, tasks }).await.unwrap();
    let wanted =
        [BeatReply::Lost, BeatReply::Held { cancel: true }, BeatReply::Lost, BeatReply::Held { cancel: false }];
    assert_eq!(replies, wanted);
}

/// A repeated step keeps its first output; a later attempt gets all of them, in order; so does a reader at the end.
pub async fn steps_are_recorded_once_and_outlive_the_attempt(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(NewTask { max_attempts: 2, ..kit.task("A") }).await;
    let task = kit.claim_one().await;
    kit.store.step(kit.now(), task.held(), "zeta", text("1")).await.unwrap();
    kit.store.step(kit.now(), task.held(), "alpha", text("2")).await.unwrap();
    kit.store.step(kit.now(), task.held(), "zeta", text("3")).await.unwrap();
    let wanted = vec![("zeta".to_owned(), text("1")), ("alpha".to_owned(), text("2"))];
    assert_eq!(kit.store.steps(id).await.unwrap(), wanted);
    kit.finish(&task, Outcome::Retry { error: "again".into(), at: kit.now() }).await.unwrap();
    let again = kit.claim(1).await.remove(0);
    assert_eq!(again.steps, wanted);
    kit.finish(&again.task, done()).await.unwrap();
    assert_eq!(kit.store.steps(id).await.unwrap(), wanted);
    let nobody = kit.store.steps(TaskId::from_uuid(uuid::Uuid::max())).await;
    assert!(matches!(nobody, Err(TaskError::NotFound(_))));
}

/// After a loss and a new claim, the old holder's beat, step and finish change nothing.
pub async fn a_stale_fence_writes_nothing(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(NewTask { max_attempts: 3, ..kit.task("A") }).await;
    let old = kit.claim_one().await;
    kit.pass(LEASE);
    kit.sweep().await;
    let check = async |when: &str| {
        let before = kit.get(id).await;
        let progress = Some(Progress { done: 9, total: 9, message: "ghost".into() });
        let reply = kit.store.beat(kit.now(), beat(old.held(), progress)).await.unwrap();
        assert_eq!(reply, [BeatReply::Lost], "{when}");
        let step = kit.store.step(kit.now(), old.held(), "ghost", text("boo")).await;
        assert!(matches!(step, Err(TaskError::Lost(lost)) if lost == id), "{when}");
        let end = kit.finish_with(&old, done(), vec![kit.task("B")]).await;
        assert!(matches!(end, Err(TaskError::Lost(lost)) if lost == id), "{when}");
        assert_eq!(kit.get(id).await, before, "{when}");
        assert!(kit.store.steps(id).await.unwrap().is_empty(), "{when}");
        assert_eq!(kit.list(Default::default()).await.len(), 1, "{when}");
    };
    check("while nobody holds it").await;
    let new = kit.claim_one().await;
    assert!(new.fence > old.fence);
    check("while another holds it").await;
    kit.finish(&new, done()).await.unwrap();
    check("after its end").await;
}

/// The second finish of one attempt is lost, whatever it says.
pub async fn a_finish_counts_once(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(NewTask { on_failure: Some(Box::new(kit.task("CLEAN"))), ..kit.task("A") }).await;
    let task = kit.claim_one().await;
    let finish = |outcome| Finish { held: task.held(), outcome, next: Vec::new() };
    let results = kit.store.finish(kit.now(), vec![finish(done()), finish(failed())]).await.unwrap();
    assert!(results[0].is_ok() && matches!(results[1], Err(TaskError::Lost(_))));
    assert!(matches!(kit.finish(&task, failed()).await, Err(TaskError::Lost(_))));
    assert_eq!(kit.state(id).await, TaskState::Succeeded);
    assert_eq!(kit.list(Default::default()).await.len(), 1);
}

/// In a batch of ends, stale and unknown ones are answered as lost, and the rest goes through.
pub async fn stale_ends_do_not_stop_the_others(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    for _ in 0..3 {
        kit.add(kit.task("A")).await;
    }
    let held: Vec<_> = kit.claim(3).await.into_iter().map(|c| c.task).collect();
    let finish = |held: Held| Finish { held, outcome: done(), next: Vec::new() };
    let unknown = Held { id: TaskId::from_uuid(uuid::Uuid::max()), fence: 1 };
    let wrong = Held { fence: held[1].fence + 1000, ..held[1].held() };
    let batch = vec![finish(held[0].held()), finish(unknown), finish(wrong), finish(held[2].held())];
    let results = kit.store.finish(kit.now(), batch).await.unwrap();
    let ok: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(ok, [true, false, false, true]);
    assert!(results.iter().filter_map(|r| r.as_ref().err()).all(|e| matches!(e, TaskError::Lost(_))));
    assert_eq!(kit.state(held[0].new.id).await, TaskState::Succeeded);
    assert_eq!(kit.state(held[1].new.id).await, TaskState::Running);
    assert_eq!(kit.state(held[2].new.id).await, TaskState::Succeeded);
    assert!(kit.store.finish(kit.now(), Vec::new()).await.unwrap().is_empty());
}
