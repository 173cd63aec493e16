//! Draining: nothing more is taken on, what runs goes on.

use crate::{World, ok, secs, start};
use portolan_model::TaskState;
use portolan_testkit::tasks::{Op, handler};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// An engine whose tasks end when they are let through.
fn gated(world: &World) -> (Arc<portolan_tasks::Engine>, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let passing = gate.clone();
    let work = handler("A", move |_| {
        let gate = passing.clone();
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            Ok(ok())
        })
    });
    (Arc::new(world.engine("w").handler(work).build()), gate)
}

async fn running(engine: &portolan_tasks::Engine, count: usize) {
    let switch = engine.drain_switch();
    while switch.running() != count {
        tokio::time::sleep(secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_draining_engine_ends_what_it_has_and_claims_nothing() {
    let world = World::new();
    let (engine, gate) = gated(&world);
    let (switch, run) = (engine.drain_switch(), start(&engine));
    let (first, second) = (world.add(world.task("A")).await, world.add(world.task("A")).await);
    running(&engine, 2).await;
    switch.start();
    assert!(switch.is_draining());
    let later = world.add(world.task("A")).await;
    gate.add_permits(1);
    running(&engine, 1).await;
    assert!(tokio::time::timeout(secs(600), switch.idle()).await.is_err(), "one still runs");
    gate.add_permits(2);
    switch.idle().await;
    for id in [first, second] {
        world.ended_as(id, TaskState::Succeeded).await;
    }
    let claims = world.store.calls(Op::Claim);
    tokio::time::sleep(secs(3600)).await;
    assert_eq!((world.get(later).await.state, switch.running()), (TaskState::Ready, 0));
    assert_eq!(world.store.calls(Op::Claim), claims);
    assert!(world.store.calls(Op::NodeBeat) > 100, "the node lives on");
    switch.end();
    assert!(!switch.is_draining());
    world.ended_as(later, TaskState::Succeeded).await;
    run.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_on_its_way_counts_until_its_tasks_have_ended() {
    let world = World::new();
    let (engine, gate) = gated(&world);
    let id = world.add(world.task("A")).await;
    world.store.hang(true);
    let (switch, run) = (engine.drain_switch(), start(&engine));
    while world.store.calls(Op::Claim) == 0 {
        tokio::task::yield_now().await;
    }
    switch.start();
    assert!(tokio::time::timeout(secs(5), switch.idle()).await.is_err(), "the claim may bring tasks");
    world.store.hang(false);
    assert!(tokio::time::timeout(secs(5), switch.idle()).await.is_err(), "it has");
    assert_eq!(switch.running(), 1);
    gate.add_permits(1);
    switch.idle().await;
    world.ended_as(id, TaskState::Succeeded).await;
    run.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_engine_stops_when_it_is_told_to() {
    let world = World::new();
    let (engine, _gate) = gated(&world);
    let id = world.add(world.task("A")).await;
    let (switch, run) = (engine.drain_switch(), start(&engine));
    running(&engine, 1).await;
    switch.start();
    tokio::time::sleep(secs(10)).await;
    run.stop().await;
    assert_eq!((switch.running(), world.get(id).await.state), (0, TaskState::Ready));
    switch.idle().await;
}
