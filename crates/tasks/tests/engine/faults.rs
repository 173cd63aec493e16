//! Stores that fail, and processes that die: every task has one effective end, and none is lost.

use super::{Running, World, run, secs};
use portolan_model::{ChainId, Clock, IdSource, TaskId, TaskState};
use portolan_tasks::{Done, EngineBuilder, Limit, NewTask, TaskFailure, TaskStore};
use portolan_testkit::clock::SeededIds;
use portolan_testkit::tasks::{Op, When, handler};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Each success leaves a marker: a task of kind `MARK` whose parent is the task that succeeded. Its id is new for
/// every attempt, so that two effective ends would leave two.
fn marking(builder: EngineBuilder, ids: Arc<SeededIds>) -> EngineBuilder {
    builder.handler(handler("A", move |ctx| {
        let ids = ids.clone();
        Box::pin(async move {
            let step: u64 = ctx
                .step("work", async || {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    Ok(1)
                })
                .await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            ctx.check()?;
            let mut mark = ctx.task().new.clone();
            mark.id = TaskId::from_uuid(ids.uuid());
            mark.chain = ChainId::from_uuid(ids.uuid());
            mark.kind = "MARK".into();
            mark.links.parent = Some(ctx.task().new.id);
            mark.limits.clear();
            mark.after.clear();
            if ctx.task().new.payload == "flaky" && ctx.task().attempt % 2 == 1 {
                return Err(TaskFailure::transient("flaky").after(secs(1)));
            }
            Ok(Done::Next { output: serde_json::json!(step), next: vec![mark] })
        })
    }))
}

async fn settle(world: &World, most: Duration) {
    let until = world.clock.now() + most;
    while world.list().await.iter().any(|t| t.new.kind != "MARK" && !t.state.is_settled()) {
        assert!(world.clock.now() < until, "not settled: {:#?}", world.list().await);
        tokio::time::sleep(secs(1)).await;
    }
}

async fn check_marks(world: &World, ids: &[TaskId]) {
    let all = world.list().await;
    let mut marks = HashMap::<TaskId, usize>::new();
    for mark in all.iter().filter(|t| t.new.kind == "MARK") {
        *marks.entry(mark.new.links.parent.unwrap()).or_default() += 1;
    }
    for id in ids {
        let task = all.iter().find(|t| t.new.id == *id).expect("no task is lost");
        assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
        assert_eq!(marks.remove(id), Some(1), "one effective end of {task:?}");
    }
    assert!(marks.is_empty());
}

/// The n-th call of each operation fails, before or after its work.
#[tokio::test(start_paused = true)]
async fn one_failed_call_anywhere_changes_no_outcome() {
    for op in [Op::Claim, Op::Beat, Op::Step, Op::Finish, Op::Sweep, Op::NodeBeat] {
        for call in 1..=3 {
            for when in [When::Before, When::After] {
                let world = World::new();
                let ids = Arc::new(SeededIds::new(99));
                world.store.fail(op, call, when);
                let first = NewTask { max_attempts: 5, ..world.task("A") };
                let second = NewTask { after: vec![first.id], max_attempts: 5, ..world.task("A") };
                let third = NewTask { after: vec![second.id], max_attempts: 5, ..world.task("A") };
                let links = [first.id, second.id, third.id];
                world.truth.enqueue(world.clock.now(), vec![first, second, third]).await.unwrap();
                let builder = world.engine("one").lease(secs(3)).beat_every(Duration::from_millis(200));
                let running = run(marking(builder, ids).sweep_every(Duration::from_millis(400)));
                settle(&world, secs(60)).await;
                running.stop().await;
                check_marks(&world, &links).await;
                assert_eq!(world.store.failures(), 1, "{op:?} {call}");
            }
        }
    }
}

/// Many engines, a store that fails one call in five, and processes that die all the time.
#[tokio::test(start_paused = true)]
async fn chaos_loses_nothing_and_does_nothing_twice() {
    for seed in 1..=6_u64 {
        let world = World::new();
        let ids = Arc::new(SeededIds::new(500 + seed));
        let mut random = seed;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        let mut tasks: Vec<NewTask> = Vec::new();
        for n in 0..60_usize {
            let mut new = NewTask { max_attempts: 1000, ..world.task("A") };
            if below(3) == 0 {
                new.payload = "flaky".into();
            }
            if below(3) == 0 {
                new.limits.push(Limit { key: format!("k{}", below(3)), max: 2 });
            }
            if n > 0 && below(4) == 0 {
                new.after.push(tasks[usize::try_from(below(n as u64)).unwrap()].id);
            }
            tasks.push(new);
        }
        let wanted: Vec<TaskId> = tasks.iter().map(|t| t.id).collect();
        world.truth.enqueue(world.clock.now(), tasks).await.unwrap();
        world.store.fail_randomly(seed, 200);
        let spawn = |name: u64| {
            let builder = world.engine(&format!("engine-{name}")).lease(secs(4)).concurrency(4).poll(secs(1));
            let builder = builder.beat_every(secs(1)).sweep_every(secs(1)).grace(secs(1));
            run(marking(builder, ids.clone()))
        };
        let mut engines: Vec<Running> = (0..3).map(&spawn).collect();
        for round in 3..40 {
            tokio::time::sleep(Duration::from_millis(200 + below(1500))).await;
            let victim = usize::try_from(below(3)).unwrap();
            let engine = std::mem::replace(&mut engines[victim], spawn(round));
            if below(3) == 0 {
                engine.stop().await
            } else {
                engine.kill().await
            }
            if below(6) == 0 {
                world.store.hang(true);
                tokio::time::sleep(secs(below(8))).await;
                world.store.hang(false);
            }
        }
        settle(&world, secs(600)).await;
        world.store.fail_randomly(0, 0);
        for engine in engines {
            engine.stop().await;
        }
        check_marks(&world, &wanted).await;
        assert!(world.store.failures() > 20);
    }
}
