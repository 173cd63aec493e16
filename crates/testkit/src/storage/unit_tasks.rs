//! Tasks inside units of work.

use super::given::*;
use portolan_model::{Scope, TaskState};
use portolan_storage::{Applied, Conflict, Kind, Require, Storage, UnitOfWork};
use portolan_tasks::{Enqueued, Finish, NewTask, Outcome};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

fn keyed(n: u64, key: &str) -> NewTask {
    NewTask { unique_key: Some(key.into()), ..task(n) }
}

fn answers(applied: Applied) -> Vec<(portolan_model::TaskId, bool)> {
    applied.tasks.into_iter().map(|Enqueued { id, added }| (id, added)).collect()
}

/// A task whose unique key is held, or whose id is there, is not added; the answer names the one there, and the
/// rest of the unit goes through.
pub async fn a_unit_is_told_of_tasks_that_are_there(s: Arc<dyn Storage>) {
    s.enqueue(NOW, vec![keyed(1, "sync:1")]).await.unwrap();
    let mut unit = writes([vm(1)]);
    unit.enqueue = vec![keyed(2, "sync:1"), task(3), keyed(4, "sync:2"), keyed(5, "sync:2"), task(3), keyed(1, "x")];
    let applied = s.apply(NOW, Scope::All, unit).await.unwrap();
    let expected = [(1, false), (3, true), (4, true), (4, false), (3, false), (1, false)];
    assert_eq!(answers(applied), expected.map(|(n, added)| (task_id(n), added)));
    assert_eq!(version(&*s, Kind::Vm, id(1)).await, 1);
    for (n, there) in [(1, true), (2, false), (3, true), (4, true), (5, false)] {
        assert_eq!(task_now(&*s, Scope::All, task_id(n)).await.is_some(), there, "task {n}");
    }
}

/// Tasks are added before ends are written: a key that is freed in the same unit is still held for them, and free
/// for the links that follow the end.
pub async fn tasks_come_before_ends(s: Arc<dyn Storage>) {
    s.enqueue(NOW, vec![keyed(1, "sync:1")]).await.unwrap();
    let held = claim(&*s, NOW, 1).await[0].held();
    let mut end = success(held);
    end.next = vec![keyed(3, "sync:1")];
    let applied = s.apply(NOW, Scope::All, UnitOfWork::new().enqueue(keyed(2, "sync:1")).finish(end)).await.unwrap();
    assert_eq!(answers(applied), [(task_id(1), false)]);
    assert!(task_now(&*s, Scope::All, task_id(2)).await.is_none());
    assert_eq!(task_now(&*s, Scope::All, task_id(1)).await.unwrap().state, TaskState::Succeeded);
    assert_eq!(task_now(&*s, Scope::All, task_id(3)).await.unwrap().state, TaskState::Ready);
}

/// The end of a task in a unit lets those run that waited for it, and records its output.
pub async fn an_end_in_a_unit_moves_the_chain_on(s: Arc<dyn Storage>) {
    s.enqueue(NOW, vec![task(1), NewTask { after: vec![task_id(1)], ..task(2) }]).await.unwrap();
    let claimed = claim(&*s, NOW, 5).await;
    assert_eq!(claimed.len(), 1);
    let later = NOW + Duration::from_secs(5);
    let unit = writes([vm(1)]).require(Require::TaskHeld(claimed[0].held())).finish(success(claimed[0].held()));
    s.apply(later, Scope::All, unit).await.unwrap();
    let first = task_now(&*s, Scope::All, task_id(1)).await.unwrap();
    assert_eq!(
        (first.state, first.finished, first.output),
        (TaskState::Succeeded, Some(later), json!({ "done": true }))
    );
    assert_eq!(claim(&*s, later, 5).await.iter().map(|t| t.new.id).collect::<Vec<_>>(), [task_id(2)]);
}

/// Several ends go into one unit; one stale among them takes all back.
pub async fn several_ends_are_all_or_nothing(s: Arc<dyn Storage>) {
    s.enqueue(NOW, vec![task(1), task(2), task(3)]).await.unwrap();
    let claimed = claim(&*s, NOW, 3).await;
    s.finish(NOW, vec![success(claimed[1].held())]).await.unwrap().remove(0).unwrap();
    let ends = |which: &[usize]| {
        let finish = which.iter().map(|i| success(claimed[*i].held())).collect();
        UnitOfWork { finish, ..writes([vm(1)]) }
    };
    let lost = conflict(s.apply(NOW, Scope::All, ends(&[0, 2, 1])).await);
    assert_eq!(lost, Conflict::TaskLost(claimed[1].new.id));
    for i in [0, 2] {
        let task = task_now(&*s, Scope::All, claimed[i].new.id).await.unwrap();
        assert_eq!(task.state, TaskState::Running);
    }
    s.apply(NOW, Scope::All, ends(&[0, 2])).await.unwrap();
    assert_eq!(version(&*s, Kind::Vm, id(1)).await, 1);
}

/// A worker whose lease ran out, and whose task another took over, can write nothing any more; the other can.
pub async fn a_worker_that_lost_its_task_writes_nothing(s: Arc<dyn Storage>) {
    let old = held(&*s, 1).await;
    let later = NOW + Duration::from_secs(120);
    s.sweep(later, 10).await.unwrap();
    let given_back = writes([vm(1)]).require(Require::TaskHeld(old));
    assert_eq!(conflict(s.apply(later, Scope::All, given_back).await), Conflict::TaskLost(task_id(1)));
    // The task comes back at once or after a pause of the store's choosing; a day is beyond any.
    let later = later + Duration::from_secs(86_400);
    let new = claim(&*s, later, 1).await.remove(0).held();
    assert!(new.id == old.id && new.fence > old.fence);
    for unit in [writes([vm(1)]).require(Require::TaskHeld(old)), writes([vm(1)]).finish(success(old))] {
        assert_eq!(conflict(s.apply(later, Scope::All, unit).await), Conflict::TaskLost(task_id(1)));
    }
    assert_eq!(version(&*s, Kind::Vm, id(1)).await, 0);
    s.apply(later, Scope::All, writes([vm(1)]).finish(success(new))).await.unwrap();
    assert_eq!(version(&*s, Kind::Vm, id(1)).await, 1);
}

/// Every outcome can be part of a unit, together with effects.
pub async fn outcomes_in_units(s: Arc<dyn Storage>) {
    let cases = [
        (Outcome::Failed { error: "no disk".into() }, TaskState::Failed),
        (Outcome::Retry { error: "busy".into(), at: NOW + Duration::from_secs(3600) }, TaskState::Scheduled),
        (Outcome::Cancelled { error: "as asked".into() }, TaskState::Cancelled),
        (Outcome::Undo { error: "half done".into() }, TaskState::Undoing),
        (Outcome::Succeeded { output: json!(null) }, TaskState::Succeeded),
    ];
    for (n, (outcome, state)) in (1..).zip(cases) {
        let held = held(&*s, n).await;
        let unit = writes([vm(n)]).finish(Finish { held, outcome, next: Vec::new() });
        s.apply(NOW, Scope::All, unit).await.unwrap();
        assert_eq!(task_now(&*s, Scope::All, task_id(n)).await.unwrap().state, state);
        assert_eq!(version(&*s, Kind::Vm, id(n)).await, 1);
    }
}

/// A unit that makes a task claimable rings the wakeup.
pub async fn a_unit_rings_the_wakeup(s: Arc<dyn Storage>) {
    let wakeup = s.wakeup();
    let mut rung = std::pin::pin!(wakeup.notified());
    rung.as_mut().enable();
    s.apply(NOW, Scope::All, UnitOfWork::new().enqueue(task(1))).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), rung).await.expect("the wakeup was rung");
    let held = claim(&*s, NOW, 1).await[0].held();
    s.enqueue(NOW, vec![NewTask { after: vec![task_id(1)], ..task(2) }]).await.unwrap();
    let mut rung = std::pin::pin!(wakeup.notified());
    rung.as_mut().enable();
    s.apply(NOW, Scope::All, UnitOfWork::new().finish(success(held))).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), rung).await.expect("the end of what it waited for rang");
}
