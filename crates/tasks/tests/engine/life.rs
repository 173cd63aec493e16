//! What becomes of tasks in an engine that is left alone.

use super::{World, ok, run, secs, start};
use portolan_model::{Clock, TaskState};
use portolan_tasks::{Done, Limit, NewTask, TaskFailure, TaskStore};
use portolan_testkit::tasks::{Op, handler, undoing_handler};
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_task_is_run_and_its_links_follow() {
    let world = World::new();
    let next = world.task("B");
    let (link, seen) = (next.clone(), Arc::new(Mutex::new(None)));
    let saw = seen.clone();
    let engine = world
        .engine("one")
        .handler(handler("A", move |ctx| {
            let link = link.clone();
            Box::pin(async move {
                assert!(ctx.check().is_ok() && ctx.fence() == ctx.task().fence);
                Ok(Done::Next { output: serde_json::json!({ "bytes": 3 }), next: vec![link] })
            })
        }))
        .handler(handler("B", move |ctx| {
            *saw.lock().unwrap() = Some(ctx.task().clone());
            Box::pin(async { Ok(ok()) })
        }));
    let engine = Arc::new(engine.build());
    let running = start(&engine);
    let id = world.add(world.task("A")).await;
    let task = world.ended_as(id, TaskState::Succeeded).await;
    assert_eq!((task.output["bytes"].as_i64(), task.worker.as_str(), task.attempt), (Some(3), "one", 1));
    world.ended_as(next.id, TaskState::Succeeded).await;
    assert_eq!(seen.lock().unwrap().as_ref().unwrap().new, next);
    running.stop().await;
    let stats = engine.stats();
    let a = stats.kind("A").unwrap();
    assert_eq!((a.started.load(Ordering::Relaxed), a.succeeded.load(Ordering::Relaxed)), (1, 1));
    assert_eq!((a.run.counts().iter().sum::<u64>(), a.wait.counts().iter().sum::<u64>()), (1, 1));
    assert_eq!(stats.kinds().map(|(kind, _)| kind).collect::<Vec<_>>(), ["A", "B"]);
}

/// An engine that looked once a poll would need 50 seconds for this; one that records ends one by one, 5000 calls.
#[tokio::test(start_paused = true)]
async fn a_backlog_is_drained_without_waiting_for_polls() {
    let world = World::new();
    let tasks: Vec<NewTask> = (0..5000).map(|_| world.task("A")).collect();
    world.truth.enqueue(world.clock.now(), tasks).await.unwrap();
    let began = Instant::now();
    let done = Arc::new(AtomicUsize::new(0));
    let counter = done.clone();
    let running = run(world.engine("one").concurrency(100).handler(handler("A", move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(ok()) })
    })));
    while world.truth.stats(world.clock.now()).await.unwrap().live.iter().any(|(_, n)| *n > 0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(done.load(Ordering::SeqCst), 5000);
    let (claims, finishes) = (world.store.calls(Op::Claim), world.store.calls(Op::Finish));
    assert!(claims < 600 && finishes < 600, "{claims} claims and {finishes} finishes of 5000");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn new_work_starts_at_once_and_scheduled_work_when_it_is_due() {
    let world = World::new();
    let starts = Arc::new(Mutex::new(HashMap::new()));
    let notes = starts.clone();
    let running = run(world.engine("one").handler(handler("A", move |ctx| {
        notes.lock().unwrap().insert(ctx.task().new.id, ctx.now());
        Box::pin(async { Ok(ok()) })
    })));
    tokio::time::sleep(secs(100)).await;
    let at_once = world.add(world.task("A")).await;
    let asked = world.clock.now();
    let due = asked + secs(90);
    let later = world.add(NewTask { run_at: due, ..world.task("A") }).await;
    world.ended_as(at_once, TaskState::Succeeded).await;
    world.ended_as(later, TaskState::Succeeded).await;
    running.stop().await;
    let starts = starts.lock().unwrap();
    assert!(starts[&at_once].since(asked) < Duration::from_millis(5));
    assert!(starts[&later] >= due && starts[&later].since(due) < secs(2));
}

#[tokio::test(start_paused = true)]
async fn no_more_run_at_once_than_allowed() {
    let world = World::new();
    let running_now = Arc::new(Mutex::new(HashMap::<String, (usize, usize)>::new()));
    let mut builder = world.engine("one").concurrency(6).kind_concurrency("A", 2);
    for kind in ["A", "B"] {
        let now = running_now.clone();
        builder = builder.handler(handler(kind, move |ctx| {
            let now = now.clone();
            Box::pin(async move {
                let keys = [ctx.task().new.kind.clone(), "all".to_owned()];
                for key in &keys {
                    let mut now = now.lock().unwrap();
                    let (count, most) = now.entry(key.clone()).or_default();
                    *count += 1;
                    *most = (*most).max(*count);
                }
                tokio::time::sleep(secs(1)).await;
                for key in &keys {
                    now.lock().unwrap().entry(key.clone()).or_default().0 -= 1;
                }
                Ok(ok())
            })
        }));
    }
    let mut ids = Vec::new();
    for n in 0..40 {
        ids.push(world.add(world.task(if n % 2 == 0 { "A" } else { "B" })).await);
    }
    let running = run(builder);
    let began = Instant::now();
    for id in ids {
        world.ended_as(id, TaskState::Succeeded).await;
    }
    assert!(began.elapsed() < secs(13), "{:?}", began.elapsed());
    running.stop().await;
    let most = running_now.lock().unwrap();
    assert_eq!((most["A"].1, most["all"].1), (2, 6));
}

#[tokio::test(start_paused = true)]
async fn engines_share_work_and_respect_limits() {
    let world = World::new();
    let (now, most) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let engines: Vec<_> = ["one", "two", "three"]
        .map(|name| {
            let (now, most) = (now.clone(), most.clone());
            run(world.engine(name).handler(handler("A", move |_| {
                let (now, most) = (now.clone(), most.clone());
                Box::pin(async move {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(secs(2)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok(ok())
                })
            })))
        })
        .into();
    let mut ids = Vec::new();
    for _ in 0..30 {
        let limits = vec![Limit { key: "host".into(), max: 3 }];
        ids.push(world.add(NewTask { limits, ..world.task("A") }).await);
    }
    let began = Instant::now();
    let mut workers = HashMap::<String, usize>::new();
    for id in ids {
        *workers.entry(world.ended_as(id, TaskState::Succeeded).await.worker).or_default() += 1;
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert!(began.elapsed() < secs(30), "places that come free are used: {:?}", began.elapsed());
    for engine in engines {
        engine.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn transient_failures_are_tried_again_with_growing_pauses() {
    let world = World::new();
    let times = Arc::new(Mutex::new(Vec::new()));
    let notes = times.clone();
    let running = run(world.engine("one").backoff(secs(10), secs(25)).handler(handler("A", move |ctx| {
        notes.lock().unwrap().push(ctx.now());
        Box::pin(async move { if ctx.task().attempt < 4 { Err(TaskFailure::transient("busy")) } else { Ok(ok()) } })
    })));
    let id = world.add(NewTask { max_attempts: 4, ..world.task("A") }).await;
    let gives_up = world.add(NewTask { max_attempts: 2, ..world.task("A") }).await;
    assert_eq!(world.ended_as(id, TaskState::Succeeded).await.attempt, 4);
    let failed = world.ended_as(gives_up, TaskState::Failed).await;
    assert_eq!((failed.attempt, failed.error.as_str()), (2, "busy"));
    assert_eq!(times.lock().unwrap().len(), 6);
    let task = world.get(id).await;
    let took = task.finished.unwrap().since(task.created);
    // 10, 20 and 25 seconds, an eighth more or less, and a poll each.
    assert!(took > secs(47) && took < secs(67), "{took:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_named_pause_is_kept() {
    let world = World::new();
    let running = run(world.engine("one").handler(handler("A", |ctx| {
        let first = ctx.task().attempt == 1;
        Box::pin(async move { if first { Err(TaskFailure::transient("locked").after(secs(600))) } else { Ok(ok()) } })
    })));
    let id = world.add(NewTask { max_attempts: 2, ..world.task("A") }).await;
    let task = world.ended_as(id, TaskState::Succeeded).await;
    let took = task.finished.unwrap().since(task.created);
    assert!(took >= secs(600) && took < secs(603), "{took:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_its_task_and_nothing_else() {
    let world = World::new();
    let engine =
        world.engine("one").handler(handler("A", |_| Box::pin(async { panic!("boom") }))).handler(handler("B", |_| {
            Box::pin(async {
                tokio::time::sleep(secs(5)).await;
                Ok(ok())
            })
        }));
    let engine = Arc::new(engine.build());
    let running = start(&engine);
    let bystander = world.add(world.task("B")).await;
    let mut bad = Vec::new();
    for _ in 0..10 {
        bad.push(world.add(NewTask { max_attempts: 5, ..world.task("A") }).await);
    }
    for id in bad {
        let task = world.ended_as(id, TaskState::Failed).await;
        assert_eq!((task.error.as_str(), task.attempt), ("internal error", 1));
    }
    world.ended_as(bystander, TaskState::Succeeded).await;
    assert_eq!(engine.stats().kind("A").unwrap().panicked.load(Ordering::Relaxed), 10);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn progress_reaches_the_store_with_the_next_beat() {
    let world = World::new();
    let running = run(world.engine("one").beat_every(secs(5)).handler(handler("A", |ctx| {
        Box::pin(async move {
            ctx.progress(25, 100, "copying");
            tokio::time::sleep(secs(60)).await;
            Ok(ok())
        })
    })));
    let id = world.add(world.task("A")).await;
    tokio::time::sleep(secs(7)).await;
    let task = world.get(id).await;
    assert_eq!(
        (task.state, task.progress.percent(), task.progress.message.as_str()),
        (TaskState::Running, 25, "copying")
    );
    tokio::time::sleep(secs(20)).await;
    assert_eq!(world.get(id).await.progress.percent(), 25, "a beat without news keeps it");
    assert_eq!(world.ended_as(id, TaskState::Succeeded).await.progress.percent(), 100);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_failed_for_good_is_undone_with_its_steps_at_hand() {
    let world = World::new();
    let undone = Arc::new(Mutex::new(Vec::new()));
    let notes = undone.clone();
    let running = run(world.engine("one").backoff(secs(1), secs(1)).handler(undoing_handler(
        "A",
        |ctx| {
            Box::pin(async move {
                ctx.step("snapshot", async || Ok("snap-1".to_owned())).await?;
                if ctx.task().new.payload == "panic" {
                    panic!("boom");
                }
                Err(TaskFailure::fatal("disk full"))
            })
        },
        move |ctx| {
            let notes = notes.clone();
            Box::pin(async move {
                assert_eq!(ctx.task().state, TaskState::Undoing);
                notes.lock().unwrap().push((ctx.task().new.id, ctx.recorded("snapshot").unwrap()));
                match ctx.task().new.payload.as_str() {
                    Some("stuck") => Err(TaskFailure::fatal("cannot delete snap-1")),
                    Some("later") if ctx.task().attempt < 3 => Err(TaskFailure::transient("busy")),
                    _ => Ok(()),
                }
            })
        },
    )));
    let payload = |what: &str| NewTask { payload: what.into(), ..world.task("A") };
    let plain = world.add(payload("plain")).await;
    let later = world.add(payload("later")).await;
    let stuck = world.add(payload("stuck")).await;
    let panics = world.add(payload("panic")).await;
    assert_eq!(world.ended_as(plain, TaskState::Failed).await.error, "disk full");
    assert_eq!(world.ended_as(panics, TaskState::Failed).await.error, "internal error");
    assert_eq!(world.ended_as(later, TaskState::Failed).await.attempt, 3);
    assert_eq!(world.ended_as(stuck, TaskState::Stuck).await.error, "cannot delete snap-1");
    running.stop().await;
    let undone = undone.lock().unwrap();
    assert!(undone.iter().all(|(_, step)| step == "snap-1"));
    assert_eq!(undone.iter().filter(|(id, _)| *id == later).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn ended_tasks_are_pruned_after_their_time() {
    let world = World::new();
    let running =
        run(world.engine("one").retention(secs(86_400)).handler(handler("A", |_| Box::pin(async { Ok(ok()) }))));
    let id = world.add(world.task("A")).await;
    world.ended_as(id, TaskState::Succeeded).await;
    tokio::time::sleep(secs(80_000)).await;
    assert_eq!(world.list().await.len(), 1);
    tokio::time::sleep(secs(12_000)).await;
    assert!(world.list().await.is_empty());
    running.stop().await;
}

/// A handler that hands in links which cannot be added is at fault, and its task must not hang for it.
#[tokio::test(start_paused = true)]
async fn links_that_cannot_be_added_fail_the_task() {
    let world = World::new();
    let nobody = portolan_model::TaskId::from_uuid(uuid::Uuid::max());
    let bad = NewTask { after: vec![nobody], ..world.task("B") };
    let running = run(world.engine("one").handler(handler("A", move |_| {
        let next = vec![bad.clone()];
        Box::pin(async move { Ok(Done::Next { output: serde_json::json!({}), next }) })
    })));
    let id = world.add(world.task("A")).await;
    assert_eq!(world.ended_as(id, TaskState::Failed).await.error, "internal error");
    assert_eq!(world.list().await.len(), 1);
    running.stop().await;
}
