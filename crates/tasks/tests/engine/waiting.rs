//! Callers who wait for a durable task.

use super::{World, ok, secs, start};
use portolan_model::{Clock, TaskState};
use portolan_tasks::{EndBell, NewTask, Ran, RunThrough, TaskError, TaskStore};
use portolan_testkit::tasks::{Op, When, handler};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_caller_gets_the_end_or_the_deadline() {
    let world = World::new();
    let engine = world.engine("one").handler(handler("A", |ctx| {
        let pause = ctx.task().new.payload.as_u64().unwrap_or(0);
        Box::pin(async move {
            tokio::time::sleep(secs(pause)).await;
            Ok(ok())
        })
    }));
    let engine = Arc::new(engine.build());
    let running = start(&engine);
    let taking = |pause: u64| NewTask { payload: pause.into(), unique_key: Some("vm:1".into()), ..world.task("A") };
    let Ran::Ended(task) = engine.run_through(taking(3), secs(10)).await.unwrap() else { panic!("it had time") };
    assert_eq!(task.state, TaskState::Succeeded);
    let first = taking(30);
    let began = Instant::now();
    assert_eq!(engine.run_through(first.clone(), secs(10)).await.unwrap(), Ran::Going(first.id));
    assert_eq!(began.elapsed(), secs(10));
    // An equal one, by id or by key, is the same one.
    assert_eq!(engine.run_through(first.clone(), secs(1)).await.unwrap(), Ran::Going(first.id));
    assert_eq!(engine.run_through(taking(30), secs(1)).await.unwrap(), Ran::Going(first.id));
    let Ran::Ended(task) = engine.run_through(taking(30), secs(60)).await.unwrap() else { panic!("it had time") };
    assert_eq!((task.new.id, task.state), (first.id, TaskState::Succeeded));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_end_in_this_process_is_heard_at_once() {
    let world = World::new();
    let bell = Arc::new(EndBell::default());
    let engine = world.engine("one").bell(bell.clone()).handler(handler("A", |_| {
        Box::pin(async move {
            tokio::time::sleep(secs(100)).await;
            Ok(ok())
        })
    }));
    let running = start(&Arc::new(engine.build()));
    let began = Instant::now();
    let waiter = RunThrough::new(world.store.clone(), world.clock.clone()).hearing(bell);
    assert!(matches!(waiter.run(world.task("A"), secs(200)).await.unwrap(), Ran::Ended(_)));
    assert!(began.elapsed() < secs(100) + Duration::from_millis(20), "{:?}", began.elapsed());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_moment_is_asked_again() {
    let world = World::new();
    let engine = Arc::new(world.engine("one").handler(handler("A", |_| Box::pin(async { Ok(ok()) }))).build());
    let running = start(&engine);
    world.store.fail(Op::Enqueue, 1, When::Before);
    world.store.fail(Op::Enqueue, 2, When::After);
    world.store.fail(Op::Query, 1, When::Before);
    assert!(matches!(engine.run_through(world.task("A"), secs(10)).await.unwrap(), Ran::Ended(_)));
    assert_eq!(world.list().await.len(), 1);
    world.store.outage(true);
    let began = Instant::now();
    assert!(matches!(engine.run_through(world.task("A"), secs(10)).await, Err(TaskError::Store(_))));
    assert_eq!(began.elapsed(), secs(10));
    world.store.outage(false);
    let bad = NewTask { after: vec![portolan_model::TaskId::from_uuid(uuid::Uuid::max())], ..world.task("A") };
    assert!(matches!(engine.run_through(bad, secs(10)).await, Err(TaskError::NotFound(_))));
    running.stop().await;
    let id = world.add(world.task("A")).await;
    world.truth.cancel(world.clock.now(), portolan_model::Scope::All, id, "x").await.unwrap();
    let waiter = RunThrough::new(world.store.clone(), world.clock.clone());
    assert!(matches!(waiter.wait(id, secs(1)).await.unwrap(), Ran::Ended(task) if task.state == TaskState::Cancelled));
}
