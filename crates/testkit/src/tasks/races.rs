//! Many callers at once.

use super::{Kit, LEASE, done, failed};
use portolan_model::TaskState;
use portolan_model::query::Filter;
use portolan_tasks::{ClaimRequest, Finish, NewTask, TaskStore};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

/// A store that says that it is busy is asked again, as an engine would.
async fn claim(store: &Arc<dyn TaskStore>, kit: &Kit, worker: usize, limit: u32) -> Vec<portolan_tasks::Claimed> {
    for _ in 0..200 {
        let request = ClaimRequest { worker: format!("worker-{worker}"), ..kit.request(limit) };
        if let Ok(claimed) = store.claim(kit.now(), request).await {
            return claimed;
        }
        tokio::task::yield_now().await;
    }
    panic!("the store never answered a claim");
}

/// Every task is handed out once, with a fence of its own, and none is left.
pub async fn claimers_never_share_a_task(store: Arc<dyn TaskStore>) {
    let kit = Arc::new(Kit::new(store.clone()));
    let tasks: Vec<NewTask> = (0..120).map(|_| kit.task("A")).collect();
    let wanted: HashSet<_> = tasks.iter().map(|t| t.id).collect();
    kit.store.enqueue(kit.now(), tasks).await.unwrap();
    let mut claimers = JoinSet::new();
    for worker in 0..6 {
        let (store, kit) = (store.clone(), kit.clone());
        claimers.spawn(async move {
            let mut got = Vec::new();
            let mut empty = 0;
            // A claim may come back short while others hold rows; only then is it asked again.
            while empty < 3 {
                let claimed = claim(&store, &kit, worker, 7).await;
                empty = if claimed.is_empty() { empty + 1 } else { 0 };
                got.extend(claimed.into_iter().map(|c| (c.task.new.id, c.task.fence)));
            }
            got
        });
    }
    let got: Vec<_> = claimers.join_all().await.into_iter().flatten().collect();
    let rest = kit.claim(1000).await.into_iter().map(|c| (c.task.new.id, c.task.fence));
    let got: Vec<_> = got.into_iter().chain(rest).collect();
    assert_eq!(got.len(), wanted.len());
    assert_eq!(got.iter().map(|(id, _)| *id).collect::<HashSet<_>>(), wanted);
    assert_eq!(got.iter().map(|(_, fence)| *fence).collect::<HashSet<_>>().len(), wanted.len());
}

/// However many claim at once, no more run than the limits allow, and every place is used in the end.
pub async fn limits_are_exact_under_concurrent_claims(store: Arc<dyn TaskStore>) {
    let kit = Arc::new(Kit::new(store.clone()));
    let mut tasks: Vec<NewTask> = (0..30).map(|_| kit.limited("A", &[("host", 3), ("site", 5)])).collect();
    tasks.extend((0..30).map(|_| kit.limited("B", &[("site", 5)])));
    kit.store.enqueue(kit.now(), tasks).await.unwrap();
    let mut ended = 0;
    for _ in 0..4 {
        let mut claimers = JoinSet::new();
        for worker in 0..6 {
            let (store, kit) = (store.clone(), kit.clone());
            claimers.spawn(async move { claim(&store, &kit, worker, 3).await });
        }
        let mut held: Vec<_> = claimers.join_all().await.into_iter().flatten().map(|c| c.task).collect();
        held.extend(kit.claim(50).await.into_iter().map(|c| c.task));
        let of_host = held.iter().filter(|t| t.new.kind == "A").count();
        assert!(of_host <= 3, "{of_host} of 3");
        assert_eq!(held.len(), 5, "all places of the site are used, and not one more");
        let running = kit.list(Filter::eq("state", TaskState::Running)).await;
        assert_eq!(running.len(), 5);
        let finishes = held.iter().map(|t| Finish { held: t.held(), outcome: done(), next: Vec::new() }).collect();
        assert!(kit.store.finish(kit.now(), finishes).await.unwrap().iter().all(Result::is_ok));
        ended += held.len();
    }
    assert_eq!(ended, 20);
}

/// Of many that enqueue under one key, one adds its task and all are told its id.
pub async fn a_unique_key_is_won_once(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store.clone());
    for round in 0..5 {
        let mut callers = JoinSet::new();
        for _ in 0..8 {
            let new = NewTask { unique_key: Some(format!("key-{round}")), ..kit.task("A") };
            let (store, now) = (store.clone(), kit.now());
            callers.spawn(async move { store.enqueue(now, vec![new]).await.unwrap()[0] });
        }
        let answers = callers.join_all().await;
        assert_eq!(answers.iter().filter(|a| a.added).count(), 1);
        assert!(answers.iter().all(|a| a.id == answers[0].id));
        assert_eq!(kit.list(Filter::eq("unique_key", format!("key-{round}"))).await.len(), 1);
    }
}

/// The same attempt ended twice at once ends once, and what follows from it comes once.
pub async fn one_of_two_finishers_wins(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store.clone());
    for _ in 0..5 {
        let clean = kit.task("CLEAN");
        let id = kit.add(NewTask { on_failure: Some(Box::new(clean.clone())), ..kit.task("A") }).await;
        let task = kit.claim_one().await;
        let mut callers = JoinSet::new();
        for n in 0..4 {
            let outcome = if n % 2 == 0 { done() } else { failed() };
            let finish =
                Finish { held: task.held(), outcome, next: vec![NewTask { kind: "NEXT".into(), ..kit.task("A") }] };
            let (store, now) = (store.clone(), kit.now());
            callers.spawn(async move { store.finish(now, vec![finish]).await.unwrap().remove(0).is_ok() });
        }
        assert_eq!(callers.join_all().await.into_iter().filter(|ok| *ok).count(), 1);
        let failed = kit.state(id).await == TaskState::Failed;
        assert_eq!(kit.find(clean.id).await.is_some(), failed);
        for cleaning in kit.claim(5).await {
            kit.finish(&cleaning.task, done()).await.unwrap();
        }
    }
    assert_eq!(kit.list(Filter::eq("kind", "NEXT")).await.len(), 5);
}

/// When a finish and the sweep that gives the task away meet, exactly one of them happens.
pub async fn a_sweep_and_a_finish_exclude_each_other(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store.clone());
    for _ in 0..8 {
        let id = kit.add(NewTask { max_attempts: 2, ..kit.task("A") }).await;
        let task = kit.claim_one().await;
        kit.pass(LEASE);
        let finish = Finish { held: task.held(), outcome: done(), next: Vec::new() };
        let now = kit.now();
        let (a, b) = (store.clone(), store.clone());
        let finisher = tokio::spawn(async move { a.finish(now, vec![finish]).await.unwrap().remove(0).is_ok() });
        let sweeper = tokio::spawn(async move { b.sweep(now, 10).await.unwrap().released });
        let (finished, released) = (finisher.await.unwrap(), sweeper.await.unwrap());
        assert!(finished != (released == 1), "{finished} {released}");
        let state = kit.state(id).await;
        assert_eq!(state, if finished { TaskState::Succeeded } else { TaskState::Ready });
        if !finished {
            kit.claim_one().await;
            kit.store.cancel(now, portolan_model::Scope::All, id, "x").await.unwrap();
            kit.pass(LEASE);
            kit.sweep().await;
        }
    }
}

/// However many operators want the same task tried again, there is one copy where the key is unique, and one where
/// they name the same id.
pub async fn one_of_many_retries_makes_the_copy(store: Arc<dyn TaskStore>) {
    let kit = Kit::new(store.clone());
    for keyed in [true, false] {
        let unique_key = keyed.then(|| "k".to_owned());
        let id = kit.add(NewTask { unique_key, ..kit.task("A") }).await;
        let task = kit.claim_one().await;
        kit.finish(&task, failed()).await.unwrap();
        let one = kit.task("A").id;
        let mut callers = JoinSet::new();
        for _ in 0..6 {
            let new_id = if keyed { kit.task("A").id } else { one };
            let (store, now) = (store.clone(), kit.now());
            callers.spawn(async move { store.retry(now, portolan_model::Scope::All, id, new_id).await.unwrap() });
        }
        let answers = callers.join_all().await;
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        assert_eq!(kit.list(Filter::eq("parent", id.uuid())).await.len(), 1);
        kit.finish(&kit.claim_one().await, done()).await.unwrap();
    }
}

/// What a store keeps for limits is let go of while they are free and in nobody's way, never under somebody's hold.
pub async fn pruning_beside_claims_keeps_limits_exact(store: Arc<dyn TaskStore>) {
    let kit = Arc::new(Kit::new(store.clone()));
    let tasks: Vec<NewTask> = (0..40).map(|_| kit.limited("A", &[("host", 2), ("site", 3)])).collect();
    kit.store.enqueue(kit.now(), tasks).await.unwrap();
    let (stop, mut ended) = (Arc::new(AtomicBool::new(false)), 0);
    let pruner = {
        let (store, before, stop) = (store.clone(), portolan_model::Timestamp::MIN, stop.clone());
        tokio::spawn(async move {
            let mut rounds = 0_u32;
            while !stop.load(Ordering::SeqCst) {
                // One that lost a race too often is no harm: the next comes.
                let _ = store.prune(before, 100).await;
                rounds += 1;
                tokio::task::yield_now().await;
            }
            rounds
        })
    };
    while ended < 40 {
        let mut claimers = JoinSet::new();
        for worker in 0..4 {
            let (store, kit) = (store.clone(), kit.clone());
            claimers.spawn(async move { claim(&store, &kit, worker, 2).await });
        }
        let held: Vec<_> = claimers.join_all().await.into_iter().flatten().map(|c| c.task).collect();
        assert!(held.len() <= 2, "{} of 2", held.len());
        let finishes = held.iter().map(|t| Finish { held: t.held(), outcome: done(), next: Vec::new() }).collect();
        assert!(kit.store.finish(kit.now(), finishes).await.unwrap().iter().all(Result::is_ok));
        ended += held.len();
    }
    stop.store(true, Ordering::SeqCst);
    assert!(pruner.await.unwrap() > 0);
}
