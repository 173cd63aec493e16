//! Cancelling, losing a hold, stopping the process.

use super::{World, ok, run, secs, start};
use portolan_model::{Clock, Scope, TaskState};
use portolan_tasks::{Done, Finish, NewTask, Outcome, StopReason, TaskFailure, TaskStore};
use portolan_testkit::tasks::{handler, undoing_handler};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_wish_to_cancel_reaches_the_handler() {
    let world = World::new();
    let running = run(world.engine("one").beat_every(secs(5)).handler(handler("A", |ctx| {
        Box::pin(async move {
            ctx.unless_stopped(async {
                tokio::time::sleep(secs(10_000)).await;
                Ok(())
            })
            .await?;
            Ok(ok())
        })
    })));
    let id = world.add(world.task("A")).await;
    tokio::time::sleep(secs(60)).await;
    let asked = world.clock.now();
    world.truth.cancel(asked, Scope::All, id, "the user is tired of it").await.unwrap();
    let task = world.ended_as(id, TaskState::Cancelled).await;
    assert_eq!(task.error, "the user is tired of it");
    assert!(task.finished.unwrap().since(asked) < secs(7));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_is_undone_undisturbed() {
    let world = World::new();
    let undone = Arc::new(AtomicUsize::new(0));
    let counter = undone.clone();
    let running = run(world.engine("one").handler(undoing_handler(
        "A",
        |ctx| {
            Box::pin(async move {
                loop {
                    ctx.check()?;
                    tokio::time::sleep(secs(1)).await;
                }
            })
        },
        move |ctx| {
            let counter = counter.clone();
            Box::pin(async move {
                for _ in 0..60 {
                    ctx.check()?;
                    tokio::time::sleep(secs(1)).await;
                }
                counter.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        },
    )));
    let id = world.add(world.task("A")).await;
    tokio::time::sleep(secs(5)).await;
    world.truth.cancel(world.clock.now(), Scope::All, id, "enough").await.unwrap();
    assert_eq!(world.ended_as(id, TaskState::Cancelled).await.error, "enough");
    assert_eq!(undone.load(Ordering::SeqCst), 1);
    running.stop().await;
}

/// While the store cannot be reached, a handler is told that its hold is over before the store could give the task
/// to another; its result is discarded, and the task is run again.
async fn loses_its_hold(hang: bool) {
    let world = World::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = told.clone();
    let engine = world.engine("one").handler(handler("A", move |ctx| {
        let notes = notes.clone();
        Box::pin(async move {
            if ctx.task().attempt > 1 {
                return Ok(ok());
            }
            ctx.cancel_token().cancelled().await;
            notes.lock().unwrap().push((ctx.stop_reason(), ctx.now()));
            // It does not care, and comes back with a result all the same.
            Ok(Done::Output(serde_json::json!({ "stale": true })))
        })
    }));
    let engine = Arc::new(engine.build());
    let running = start(&engine);
    let id = world.add(NewTask { max_attempts: 2, ..world.task("A") }).await;
    tokio::time::sleep(secs(60)).await;
    if hang {
        world.store.hang(true)
    } else {
        world.store.outage(true)
    }
    tokio::time::sleep(secs(120)).await;
    let lease = world.get(id).await.lease_until.unwrap();
    let told = told.lock().unwrap().clone();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, Some(StopReason::Lost));
    assert!(told[0].1 < lease && lease < world.clock.now(), "{told:?} {lease}");
    world.store.hang(false);
    world.store.outage(false);
    let task = world.ended_as(id, TaskState::Succeeded).await;
    assert_eq!((task.attempt, task.output["ok"].as_bool()), (2, Some(true)));
    assert_eq!(engine.stats().kind("A").unwrap().lost.load(Ordering::Relaxed), 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_holds_in_time() {
    loses_its_hold(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_ends_holds_in_time() {
    loses_its_hold(true).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_while_beats_fail() {
    let world = World::new();
    let starts = Arc::new(AtomicUsize::new(0));
    let counter = starts.clone();
    let running = run(world.engine("one").handler(handler("A", move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(ok()) })
    })));
    tokio::time::sleep(secs(1)).await;
    for call in 1..=60 {
        world.store.fail(portolan_testkit::tasks::Op::NodeBeat, call, portolan_testkit::tasks::When::Before);
    }
    tokio::time::sleep(secs(30)).await;
    let id = world.add(world.task("A")).await;
    tokio::time::sleep(secs(30)).await;
    assert_eq!(starts.load(Ordering::SeqCst), 0);
    world.ended_as(id, TaskState::Succeeded).await;
    running.stop().await;
}

/// A task that was given to another, by whatever mistake, is dropped at the next beat.
#[tokio::test(start_paused = true)]
async fn a_lost_fence_stops_the_old_worker() {
    let world = World::new();
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let notes = reasons.clone();
    let running = run(world.engine("one").sweep_every(secs(100_000)).handler(handler("A", move |ctx| {
        let notes = notes.clone();
        Box::pin(async move {
            ctx.cancel_token().cancelled().await;
            notes.lock().unwrap().push(ctx.stop_reason());
            Err(TaskFailure::cancelled())
        })
    })));
    let id = world.add(NewTask { max_attempts: 3, ..world.task("A") }).await;
    tokio::time::sleep(secs(1)).await;
    // Another node, whose clock is an hour ahead, takes the lease for over.
    let ahead = world.clock.now() + super::HOUR;
    world.truth.sweep(ahead, 10).await.unwrap();
    let claimed = world.truth.claim(ahead, world.kit.request(1)).await.unwrap().remove(0);
    assert_eq!(claimed.task.new.id, id);
    tokio::time::sleep(secs(20)).await;
    assert_eq!(*reasons.lock().unwrap(), [Some(StopReason::Lost)]);
    let task = world.get(id).await;
    assert_eq!((task.state, task.fence), (TaskState::Running, claimed.task.fence), "the other's hold is untouched");
    let finish = Finish { held: claimed.task.held(), outcome: portolan_testkit::tasks::done(), next: Vec::new() };
    world.truth.finish(ahead, vec![finish]).await.unwrap().remove(0).unwrap();
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_graceful_stop_gives_tasks_back_untouched() {
    let world = World::new();
    let polite = handler("A", |ctx| {
        Box::pin(async move {
            ctx.cancel_token().cancelled().await;
            assert_eq!(ctx.stop_reason(), Some(StopReason::Shutdown));
            ctx.check()?;
            Ok(ok())
        })
    });
    let deaf = handler("B", |_| {
        Box::pin(async move {
            tokio::time::sleep(secs(100_000)).await;
            Ok(ok())
        })
    });
    let nearly_done = handler("C", |_| {
        Box::pin(async move {
            tokio::time::sleep(secs(15)).await;
            Ok(ok())
        })
    });
    let running = run(world.engine("one").grace(secs(20)).handler(polite).handler(deaf).handler(nearly_done));
    let mut ids = Vec::new();
    for kind in ["A", "B", "C"] {
        ids.push(world.add(world.task(kind)).await);
    }
    tokio::time::sleep(secs(10)).await;
    let began = Instant::now();
    running.stop().await;
    assert!(began.elapsed() >= secs(20) && began.elapsed() < secs(22), "{:?}", began.elapsed());
    for id in &ids[..2] {
        let task = world.get(*id).await;
        assert_eq!((task.state, task.attempt, task.lease_until), (TaskState::Ready, 0, None));
    }
    assert_eq!(world.get(ids[2]).await.state, TaskState::Succeeded, "what ends within the grace has ended");
    let idle = World::new();
    let running = run(idle.engine("one"));
    tokio::time::sleep(secs(10)).await;
    let began = Instant::now();
    running.stop().await;
    assert!(began.elapsed() < secs(1), "nothing to wait for");
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_store_that_is_gone() {
    for hang in [false, true] {
        let world = World::new();
        let running = run(world.engine("one").grace(secs(10)).handler(handler("A", |ctx| {
            Box::pin(async move {
                ctx.cancel_token().cancelled().await;
                Err(TaskFailure::cancelled())
            })
        })));
        let id = world.add(NewTask { max_attempts: 2, ..world.task("A") }).await;
        tokio::time::sleep(secs(10)).await;
        if hang {
            world.store.hang(true)
        } else {
            world.store.outage(true)
        }
        let began = Instant::now();
        running.stop().await;
        assert!(began.elapsed() < secs(35), "{:?}", began.elapsed());
        assert_eq!(world.get(id).await.state, TaskState::Running, "the lease will give it back");
        world.truth.sweep(world.clock.now() + secs(60), 10).await.unwrap();
        assert_eq!(world.get(id).await.state, TaskState::Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn steps_that_were_recorded_are_not_done_again() {
    let world = World::new();
    let done = Arc::new(Mutex::new(Vec::new()));
    let build = |name: &str| {
        let done = done.clone();
        world.engine(name).handler(handler("A", move |ctx| {
            let done = done.clone();
            Box::pin(async move {
                let mut sum = 0;
                for n in 1..=5_u64 {
                    sum += ctx
                        .step(&format!("step-{n}"), async || {
                            tokio::time::sleep(secs(10)).await;
                            done.lock().unwrap().push(n);
                            Ok(n)
                        })
                        .await?;
                }
                Ok(Done::Output(serde_json::json!({ "sum": sum })))
            })
        }))
    };
    let id = world.add(NewTask { max_attempts: 5, ..world.task("A") }).await;
    let first = run(build("one"));
    tokio::time::sleep(secs(25)).await;
    first.kill().await;
    let second = run(build("two"));
    tokio::time::sleep(secs(50)).await;
    second.stop().await;
    let third = run(build("three"));
    let task = world.ended_as(id, TaskState::Succeeded).await;
    assert_eq!(task.output["sum"].as_u64(), Some(15));
    assert_eq!(*done.lock().unwrap(), [1, 2, 3, 4, 5]);
    third.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_its_handler_ended_itself_is_left_alone() {
    let world = World::new();
    let truth = world.truth.clone();
    let engine = world.engine("one").handler(handler("A", move |ctx| {
        let truth = truth.clone();
        Box::pin(async move {
            let outcome = Outcome::Succeeded { output: serde_json::json!({ "in": "unit" }) };
            let finish = Finish { held: ctx.held(), outcome, next: Vec::new() };
            truth.finish(ctx.now(), vec![finish]).await.unwrap().remove(0)?;
            // Long enough for a beat to say that the task is no longer held.
            tokio::time::sleep(secs(25)).await;
            Ok(Done::Settled)
        })
    }));
    let engine = Arc::new(engine.build());
    let running = start(&engine);
    let id = world.add(world.task("A")).await;
    tokio::time::sleep(secs(60)).await;
    assert_eq!(world.get(id).await.output["in"], "unit");
    let stats = engine.stats();
    let a = stats.kind("A").unwrap();
    assert_eq!((a.succeeded.load(Ordering::Relaxed), a.lost.load(Ordering::Relaxed)), (1, 0));
    running.stop().await;
}
