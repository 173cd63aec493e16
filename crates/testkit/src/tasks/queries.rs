//! Lists, counts and history.

use super::{Kit, done, failed, secs};
use portolan_model::query::{Direction, Filter, Page, Sort, Value};
use portolan_model::{
    BackupDestinationId, HostId, IdSource, PlatformId, RecoveryPointId, RestoreJobId, ScheduleId, Scope, TaskId,
    TaskState, TenantId, VmId,
};
use portolan_tasks::{NewTask, Progress, Task, TaskError, TaskLinks, TaskQuery, TaskStore};
use std::sync::Arc;

/// Five tasks in several states: ended, running, ready, scheduled, blocked. Their ids rise.
async fn fixture(kit: &Kit) -> Vec<Task> {
    let mut ids = Vec::new();
    for n in 0..5_i16 {
        let links = TaskLinks {
            vm: (n != 2).then(|| VmId::from_uuid(uuid::Uuid::from_u128(100 + u128::from(n.unsigned_abs() % 2)))),
            vm_name: ["Web01", "db", "", "web02", "Zoë_1%"][n.unsigned_abs() as usize].into(),
            target_name: if n == 1 { "Copy".into() } else { String::new() },
            ..TaskLinks::default()
        };
        let new = NewTask { priority: [90, 80, 20, 20, 10][n.unsigned_abs() as usize], links, ..kit.task("A") };
        let new = match n {
            2 => NewTask { kind: "OTHER".into(), unique_key: Some("key".into()), ..new },
            3 => NewTask { run_at: kit.now() + secs(900), ..new },
            4 => NewTask { after: vec![ids[2]], ..new },
            _ => new,
        };
        ids.push(kit.add(new).await);
        kit.pass(secs(1));
    }
    let task = kit.claim(2).await.remove(0).task;
    kit.pass(secs(1));
    kit.finish(&task, done()).await.unwrap();
    let all = kit.list(Filter::All).await;
    assert_eq!(all.iter().map(|t| t.new.id).collect::<Vec<_>>(), ids);
    all
}

async fn ids_of(kit: &Kit, query: TaskQuery) -> Vec<TaskId> {
    let page = kit.store.query(Scope::All, &query).await.unwrap();
    page.tasks.iter().map(|t| t.new.id).collect()
}

/// Every kind of condition, over tasks that live and that have ended.
pub async fn filters_find_what_they_say(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let all = fixture(&kit).await;
    let check = async |filter: Filter, wanted: &[usize]| {
        let found = ids_of(&kit, TaskQuery { filter: filter.clone(), ..TaskQuery::default() }).await;
        let wanted: Vec<_> = wanted.iter().map(|i| all[*i].new.id).collect();
        assert_eq!(found, wanted, "{filter:?}");
    };
    let not = |f: Filter| Filter::Not(Box::new(f));
    let vm = Value::Id(uuid::Uuid::from_u128(100));
    check(Filter::eq("state", TaskState::Succeeded), &[0]).await;
    check(Filter::any("state", [TaskState::Succeeded, TaskState::Blocked]), &[0, 4]).await;
    check(Filter::any("state", [TaskState::Ready; 0]), &[]).await;
    check(Filter::eq("kind", "OTHER"), &[2]).await;
    check(Filter::eq("kind", "other"), &[]).await;
    check(Filter::eq("chain", all[3].new.chain.uuid()), &[3]).await;
    check(Filter::eq("id", all[0].new.id.uuid()), &[0]).await;
    check(Filter::any("id", [all[0].new.id.uuid(), all[4].new.id.uuid()]), &[0, 4]).await;
    check(Filter::Eq("vm".into(), vm.clone()), &[0, 4]).await;
    check(Filter::eq("vm", Value::Null), &[2]).await;
    check(not(Filter::Eq("vm".into(), vm.clone())), &[1, 2, 3]).await;
    check(Filter::In("vm".into(), vec![vm, Value::Null]), &[0, 2, 4]).await;
    check(Filter::AtLeast("priority".into(), Value::Int(80)), &[0, 1]).await;
    check(Filter::Below("priority".into(), Value::Int(80)), &[2, 3, 4]).await;
    check(Filter::AtLeast("created".into(), all[3].created.into()), &[3, 4]).await;
    check(Filter::Below("started".into(), Value::Int(i64::MAX)), &[0, 1]).await;
    check(not(Filter::Below("started".into(), Value::Int(i64::MAX))), &[2, 3, 4]).await;
    check(Filter::eq("finished", Value::Null), &[1, 2, 3, 4]).await;
    check(Filter::AtLeast("finished".into(), Value::Null), &[]).await;
    check(Filter::eq("unique_key", "key"), &[2]).await;
    check(Filter::eq("worker", ""), &[2, 3, 4]).await;
    check(Filter::AtLeast("vm_name".into(), Value::from("db")), &[1, 3]).await;
    check(Filter::AtLeast("vm_name".into(), Value::from("Z")), &[1, 3, 4]).await;
    check(Filter::Contains("WEB".into()), &[0, 3]).await;
    check(Filter::Contains("ZOË_".into()), &[4]).await;
    check(Filter::Contains("1%".into()), &[4]).await;
    check(Filter::Contains("_".into()), &[4]).await;
    check(Filter::Contains("%".into()), &[4]).await;
    check(Filter::Contains("\\".into()), &[]).await;
    check(Filter::Contains("copy".into()), &[1]).await;
    check(Filter::Contains("other".into()), &[2]).await;
    check(Filter::Contains(all[3].new.id.to_string().to_uppercase()), &[3]).await;
    check(Filter::Contains(String::new()), &[0, 1, 2, 3, 4]).await;
    check(Filter::And(vec![]), &[0, 1, 2, 3, 4]).await;
    check(Filter::Or(vec![]), &[]).await;
    check(Filter::eq("priority", 20_i64).and(Filter::eq("vm", Value::Null)), &[2]).await;
    check(Filter::Or(vec![Filter::eq("priority", 10_i64), Filter::eq("state", TaskState::Running)]), &[1, 4]).await;
    check(Filter::eq("host", Value::Null).and(not(Filter::Contains("web".into()))), &[1, 2, 4]).await;
    check(Filter::eq("kind", "a'; drop table x; --"), &[]).await;
}

/// The field, then the id; descending is the exact reverse; nothing comes before everything.
pub async fn lists_have_a_total_order(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let all = fixture(&kit).await;
    let check = async |field: Option<&str>, wanted: [usize; 5]| {
        for direction in [Direction::Ascending, Direction::Descending] {
            let sort = Sort { field: field.map(str::to_owned), direction };
            let found = ids_of(&kit, TaskQuery { sort, ..TaskQuery::default() }).await;
            let mut wanted: Vec<_> = wanted.iter().map(|i| all[*i].new.id).collect();
            if direction == Direction::Descending {
                wanted.reverse();
            }
            assert_eq!(found, wanted, "{field:?} {direction:?}");
        }
    };
    check(None, [0, 1, 2, 3, 4]).await;
    check(Some("id"), [0, 1, 2, 3, 4]).await;
    check(Some("priority"), [4, 2, 3, 1, 0]).await;
    check(Some("created"), [0, 1, 2, 3, 4]).await;
    check(Some("started"), [2, 3, 4, 0, 1]).await;
    check(Some("finished"), [1, 2, 3, 4, 0]).await;
    check(Some("vm"), [2, 0, 4, 1, 3]).await;
    check(Some("vm_name"), [2, 0, 4, 1, 3]).await;
    check(Some("state"), [4, 2, 1, 3, 0]).await;
}

/// Pages put together are the list; the count is of all that match.
pub async fn pages_and_counts_fit_together(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let all = fixture(&kit).await;
    for sort in [Sort::default(), Sort::newest(), Sort::by("priority"), Sort::by("vm")] {
        let query = |page, count| TaskQuery { sort: sort.clone(), page, count, filter: Filter::All };
        let whole = ids_of(&kit, query(Page::ALL, false)).await;
        for size in [1, 2, 3, 5, 9] {
            let mut joined = Vec::new();
            for number in 0..6 {
                let page = kit.store.query(Scope::All, &query(Page::number(number, size), true)).await.unwrap();
                assert_eq!(page.total, Some(5));
                joined.extend(page.tasks.iter().map(|t| t.new.id));
            }
            assert_eq!(joined, whole, "{sort:?} by {size}");
        }
        assert!(ids_of(&kit, query(Page::first(0), false)).await.is_empty());
        let far = Page { offset: u64::MAX, limit: Some(u64::MAX) };
        let page = kit.store.query(Scope::All, &query(far, true)).await.unwrap();
        assert_eq!((page.tasks.len(), page.total), (0, Some(5)));
        let rest = Page { offset: 3, limit: None };
        assert_eq!(ids_of(&kit, query(rest, false)).await, whole[3..]);
    }
    let filter = Filter::eq("priority", 20_i64);
    let query = TaskQuery { filter, page: Page::first(1), count: true, sort: Sort::default() };
    let page = kit.store.query(Scope::All, &query).await.unwrap();
    assert_eq!((page.total, page.tasks[0].new.id), (Some(2), all[2].new.id));
    let uncounted = kit.store.query(Scope::All, &TaskQuery::default()).await.unwrap();
    assert_eq!(uncounted.total, None);
}

/// A field that is not declared is named in the error, wherever it hides.
pub async fn unknown_fields_are_refused(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let hidden = Filter::Or(vec![Filter::Not(Box::new(Filter::eq("secret; --", 1_i64)))]);
    let by_filter = TaskQuery { filter: hidden, ..TaskQuery::default() };
    let by_sort = TaskQuery { sort: Sort::by("secret; --"), ..TaskQuery::default() };
    for query in [by_filter, by_sort] {
        let refused = kit.store.query(Scope::All, &query).await;
        assert!(matches!(refused, Err(TaskError::UnknownField(field)) if field == "secret; --"));
    }
}

/// Another tenant's task, and one that is nobody's, are not found: not listed, counted, cancelled or forgotten.
pub async fn a_tenant_sees_its_own_tasks_only(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let (mine, theirs) = (TenantId::from_uuid(kit.ids.uuid()), TenantId::from_uuid(kit.ids.uuid()));
    let own = kit.add(NewTask { tenant: Some(mine), ..kit.task("A") }).await;
    let other = kit.add(NewTask { tenant: Some(theirs), ..kit.task("A") }).await;
    let system = kit.add(kit.task("A")).await;
    let scope = Scope::Tenant(mine);
    let query = TaskQuery { count: true, ..TaskQuery::default() };
    let page = kit.store.query(scope, &query).await.unwrap();
    assert_eq!((page.total, page.tasks.len(), page.tasks[0].new.id), (Some(1), 1, own));
    assert_eq!(kit.store.query(Scope::All, &query).await.unwrap().total, Some(3));
    for id in [other, system] {
        let by_id = TaskQuery { filter: Filter::eq("id", id.uuid()), ..TaskQuery::default() };
        assert!(kit.store.query(scope, &by_id).await.unwrap().tasks.is_empty());
        let refused = kit.store.cancel(kit.now(), scope, id, "mine!").await;
        assert!(matches!(refused, Err(TaskError::NotFound(i)) if i == id));
        assert_eq!(kit.state(id).await, TaskState::Ready);
        kit.store.cancel(kit.now(), Scope::All, id, "").await.unwrap();
        assert!(matches!(kit.store.forget(scope, id).await, Err(TaskError::NotFound(_))));
        kit.store.forget(Scope::All, id).await.unwrap();
    }
    kit.store.cancel(kit.now(), scope, own, "").await.unwrap();
    kit.store.forget(scope, own).await.unwrap();
    assert!(kit.list(Filter::All).await.is_empty());
}

/// An ended task is listed until it is forgotten; one that has not ended cannot be.
pub async fn history_is_kept_until_forgotten(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = kit.add(kit.task("A")).await;
    assert!(matches!(kit.store.forget(Scope::All, id).await, Err(TaskError::Conflict { id: i, .. }) if i == id));
    let task = kit.claim_one().await;
    kit.store.step(kit.now(), task.held(), "one", super::text("x")).await.unwrap();
    assert!(matches!(kit.store.forget(Scope::All, id).await, Err(TaskError::Conflict { .. })));
    kit.finish(&task, failed()).await.unwrap();
    assert_eq!(kit.state(id).await, TaskState::Failed);
    kit.store.forget(Scope::All, id).await.unwrap();
    assert!(kit.find(id).await.is_none());
    assert!(matches!(kit.store.steps(id).await, Err(TaskError::NotFound(_))));
    assert!(matches!(kit.store.forget(Scope::All, id).await, Err(TaskError::NotFound(_))));
    let again = kit.add(NewTask { id, ..kit.task("A") }).await;
    assert_eq!(kit.state(again).await, TaskState::Ready);
    assert!(kit.store.steps(id).await.unwrap().is_empty());
}

/// Only what ended before the instant goes, the oldest ends first, up to the limit.
pub async fn pruning_takes_the_oldest_ends(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(kit.add(kit.task("A")).await);
    }
    let live = kit.add(kit.task("OTHER")).await;
    let mut ends = Vec::new();
    // The last claimed ends first.
    for c in kit.claim(4).await.into_iter().rev() {
        kit.pass(secs(10));
        kit.finish(&c.task, done()).await.unwrap();
        ends.push((kit.now(), c.task.new.id));
    }
    assert_eq!(kit.store.prune(ends[0].0, 100).await.unwrap(), 0, "it ended then, not before");
    assert_eq!(kit.store.prune(ends[2].0, 1).await.unwrap(), 1);
    assert!(kit.find(ends[0].1).await.is_none());
    assert_eq!(kit.store.prune(ends[2].0, 100).await.unwrap(), 1);
    assert!(kit.find(ends[1].1).await.is_none() && kit.find(ends[2].1).await.is_some());
    assert_eq!(kit.store.prune(kit.now() + secs(1), 100).await.unwrap(), 2);
    let left: Vec<_> = kit.list(Filter::All).await.iter().map(|t| t.new.id).collect();
    assert_eq!(left, [live]);
}

/// Counts by state, zeros included, and the age of the oldest task that is due.
pub async fn counts_follow_the_states(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let counts = async || -> Vec<u64> {
        let stats = kit.store.stats(kit.now()).await.unwrap();
        let names: Vec<_> = stats.live.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["BLOCKED", "SCHEDULED", "READY", "RUNNING", "UNDOING", "STUCK"]);
        stats.live.iter().map(|(_, n)| *n).collect()
    };
    assert_eq!(counts().await, [0; 6]);
    assert_eq!(kit.store.stats(kit.now()).await.unwrap().oldest_ready, None);
    let first = kit.add(kit.task("A")).await;
    kit.add(kit.task("A")).await;
    kit.add(NewTask { run_at: kit.now() + secs(60), ..kit.task("OTHER") }).await;
    kit.add(NewTask { after: vec![first], ..kit.task("B") }).await;
    assert_eq!(counts().await, [1, 1, 2, 0, 0, 0]);
    kit.pass(secs(7));
    assert_eq!(kit.store.stats(kit.now()).await.unwrap().oldest_ready, Some(secs(7)));
    let claimed = kit.claim(2).await;
    assert_eq!(counts().await, [1, 1, 0, 2, 0, 0]);
    assert_eq!(kit.store.stats(kit.now()).await.unwrap().oldest_ready, None, "one that is not due yet does not count");
    kit.finish(&claimed[1].task, portolan_tasks::Outcome::Stuck { error: "x".into() }).await.unwrap();
    kit.finish(&claimed[0].task, portolan_tasks::Outcome::Undo { error: "x".into() }).await.unwrap();
    assert_eq!(counts().await, [1, 1, 0, 0, 1, 1]);
    kit.finish(&claimed[0].task, portolan_tasks::Outcome::Undone).await.unwrap();
    assert_eq!(counts().await, [0, 1, 0, 0, 0, 1]);
    kit.pass(secs(60));
    assert_eq!(kit.store.stats(kit.now()).await.unwrap().oldest_ready, Some(secs(7)));
}

/// Every field of a task comes back as it went in: odd texts, large numbers, nested documents.
pub async fn nothing_of_a_task_is_lost_in_the_store(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store);
    let id = || kit.ids.uuid();
    let odd = "Grüße \u{1F6A2} 'q' \"d\" \\ \n % _ \u{7f}";
    let links = TaskLinks {
        vm: Some(VmId::from_uuid(id())),
        vm_name: odd.into(),
        point: Some(RecoveryPointId::from_uuid(id())),
        point_name: odd.into(),
        destination: Some(BackupDestinationId::from_uuid(id())),
        platform: Some(PlatformId::from_uuid(id())),
        host: Some(HostId::from_uuid(id())),
        schedule: Some(ScheduleId::from_uuid(id())),
        restore_job: Some(RestoreJobId::from_uuid(id())),
        parent: Some(TaskId::from_uuid(id())),
        target_name: odd.into(),
        note: serde_json::json!({ "type": "FULL", "n": [1, null, { "a": odd }] }),
    };
    let mut new = NewTask {
        tenant: Some(TenantId::from_uuid(id())),
        priority: 100,
        start_by: Some(kit.now() + secs(100)),
        deadline: Some(kit.now() + secs(1000)),
        max_attempts: 7,
        retries: 3,
        payload: serde_json::json!({ "big": i64::MAX, "neg": -1, "f": 0.5, "t": odd, "deep": [[[]]], "no": null }),
        links,
        unique_key: Some(format!("key {odd}")),
        requires: vec!["platform:x".into()],
        on_failure: Some(Box::new(NewTask { payload: serde_json::json!([odd]), ..kit.task("CLEAN") })),
        ..kit.limited("A", &[("host:é", 3), ("a", 1)])
    };
    new.origin = portolan_model::backup::Origin {
        kind: portolan_model::backup::OriginKind::SystemSchedule,
        id: Some(id()),
        name: odd.into(),
    };
    kit.add(new.clone()).await;
    assert_eq!(kit.get(new.id).await.new, new);
    let request = portolan_tasks::ClaimRequest { serves: vec!["platform:x".into()], ..kit.request(1) };
    let request = portolan_tasks::ClaimRequest { worker: odd.into(), ..request };
    let claimed = kit.store.claim(kit.now(), request).await.unwrap().remove(0);
    assert_eq!((&claimed.task.new, claimed.task.worker.as_str()), (&new, odd));
    let held = claimed.task.held();
    let progress = Progress { done: i64::MAX, total: i64::MAX, message: odd.into() };
    let beat = portolan_tasks::Beat { held, progress: Some(progress.clone()) };
    let beat = portolan_tasks::BeatRequest { lease: super::LEASE, tasks: vec![beat] };
    kit.store.beat(kit.now(), beat).await.unwrap();
    kit.store.step(kit.now(), held, odd, new.payload.clone()).await.unwrap();
    assert_eq!(kit.store.steps(new.id).await.unwrap(), [(odd.to_owned(), new.payload.clone())]);
    let output = new.payload.clone();
    kit.finish(&claimed.task, portolan_tasks::Outcome::Succeeded { output: output.clone() }).await.unwrap();
    let ended = kit.get(new.id).await;
    assert_eq!((&ended.new, &ended.output, &ended.progress), (&new, &output, &progress));
}
