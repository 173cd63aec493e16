//! Kept answers: one request is carried out once, whoever repeats it and whoever dies.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use common::World;
use portolan_access::{Access, AccessOptions, Asked, Begun, ReplayHold};
use portolan_model::query::Filter;
use portolan_model::{RequestKey, Scope};
use portolan_storage::{Kind, Query, Replay, StorageExt};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

const EXPORT: &[&[u8]] = &[b"POST", b"/api/tasks/export", b"{}"];
const OTHER: &[&[u8]] = &[b"POST", b"/api/tasks/export", b"{ }"];

fn asked<'a>(key: &'a str, parts: &'a [&'a [u8]]) -> Asked<'a> {
    Asked { dialect: "vplus", sender: "bob", key, parts }
}

async fn fresh(access: &Access, asked: &Asked<'_>) -> ReplayHold {
    match access.replays.begin(asked).await.unwrap() {
        Begun::Fresh(hold) => hold,
        other => panic!("{other:?}"),
    }
}

async fn stored(world: &World) -> u64 {
    world.storage.count(Scope::All, Kind::Replay, &Filter::All).await.unwrap()
}

#[tokio::test]
async fn an_answer_comes_back_to_its_sender_alone() {
    let world = World::new();
    let replays = &world.access.replays;
    let hold = fresh(&world.access, &asked("k", EXPORT)).await;
    assert!(matches!(replays.begin(&asked("k", EXPORT)).await.unwrap(), Begun::InFlight));
    assert!(matches!(replays.begin(&asked("k", OTHER)).await.unwrap(), Begun::Mismatch));
    assert!(hold.complete(b"the token is 4711").await.unwrap());
    // Another process, over the same store.
    match world.another().replays.begin(&asked("k", EXPORT)).await.unwrap() {
        Begun::Answered(answer) => assert_eq!(&answer[..], b"the token is 4711"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(replays.begin(&asked("k", OTHER)).await.unwrap(), Begun::Mismatch));
    // Other senders, dialects and keys, also those that read alike when run together.
    for (dialect, sender, key) in
        [("vplus", "eve", "k"), ("manage", "bob", "k"), ("vplus", "bob", "l"), ("vplus", "bobk", "")]
    {
        fresh(&world.access, &Asked { dialect, sender, key, parts: EXPORT }).await;
    }
    let rows = world.storage.list_of::<Replay>(Scope::All, Query::default()).await.unwrap().items;
    assert_eq!(rows.len(), 5);
    assert!(!format!("{rows:?}").contains("4711") && !format!("{rows:?}").contains("bob"), "sealed and hashed");
}

#[tokio::test]
async fn who_is_alone_on_the_store_takes_over_from_a_dead_process_at_once() {
    let world = World::with(AccessOptions { alone: true, ..common::options() });
    let dead = fresh(&world.access, &asked("k", EXPORT)).await;
    assert!(matches!(world.access.replays.begin(&asked("k", EXPORT)).await.unwrap(), Begun::InFlight));
    let next = world.another();
    let hold = fresh(&next, &asked("k", EXPORT)).await;
    assert_eq!(hold.request(), dead.request(), "carried out under the same key");
    assert!(matches!(next.replays.begin(&asked("k", EXPORT)).await.unwrap(), Begun::InFlight));
    assert!(!dead.complete(b"too late").await.unwrap());
    assert!(hold.complete(b"done").await.unwrap());
    assert!(matches!(next.replays.begin(&asked("k", EXPORT)).await.unwrap(), Begun::Answered(_)));
}

#[tokio::test]
async fn a_damaged_answer_is_an_error_and_no_answer() {
    let world = World::new();
    let replays = &world.access.replays;
    for key in ["a", "b"] {
        assert!(fresh(&world.access, &asked(key, EXPORT)).await.complete(key.as_bytes()).await.unwrap());
    }
    let rows = world.storage.list_of::<Replay>(Scope::All, Query::default()).await.unwrap().items;
    let swapped = rows[1].answer.clone();
    let swap = |r: &mut Replay| {
        r.answer = swapped.clone();
        Some(portolan_storage::UnitOfWork::new())
    };
    world.storage.change(rows[0].expires, Scope::All, rows[0].id, swap).await.unwrap();
    let outcomes = [replays.begin(&asked("a", EXPORT)).await, replays.begin(&asked("b", EXPORT)).await];
    assert_eq!(outcomes.iter().filter(|o| o.is_err()).count(), 1, "an answer of another row does not open");
}

#[tokio::test]
async fn a_request_whose_holder_is_lost_is_taken_over_once_and_keeps_its_name() {
    let world = World::new();
    let lost = fresh(&world.access, &asked("k", EXPORT)).await;
    world.clock.advance(20 * SECOND);
    assert!(lost.extend().await.unwrap());
    world.clock.advance(29 * SECOND);
    assert!(matches!(world.access.replays.begin(&asked("k", EXPORT)).await.unwrap(), Begun::InFlight));
    world.clock.advance(SECOND);
    assert!(matches!(world.access.replays.begin(&asked("k", OTHER)).await.unwrap(), Begun::Mismatch));
    let mut running = Vec::new();
    for _ in 0..8 {
        let access = world.another();
        running.push(tokio::spawn(async move { access.replays.begin(&asked("k", EXPORT)).await.unwrap() }));
    }
    let mut winners = Vec::new();
    for one in running {
        match one.await.unwrap() {
            Begun::Fresh(hold) => winners.push(hold),
            Begun::InFlight => {}
            other => panic!("{other:?}"),
        }
    }
    let [winner] = &winners[..] else { panic!("{winners:?}") };
    assert_eq!(winner.request(), lost.request());
    // The one that was taken for lost lives, and has nothing to say any more.
    assert!(!lost.extend().await.unwrap() && !lost.complete(b"late").await.unwrap());
    lost.release().await.unwrap();
    assert!(winner.complete(b"right").await.unwrap());
    assert!(!lost.complete(b"late").await.unwrap());
    assert!(winner.complete(b"again").await.unwrap(), "said again after a doubtful end");
    match world.access.replays.begin(&asked("k", EXPORT)).await.unwrap() {
        Begun::Answered(answer) => assert_eq!(&answer[..], b"right"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_request_that_was_let_go_is_carried_out_anew_under_its_name() {
    let world = World::new();
    let first = fresh(&world.access, &asked("k", EXPORT)).await;
    first.release().await.unwrap();
    world.clock.advance(60 * SECOND);
    let second = fresh(&world.access, &asked("k", EXPORT)).await;
    assert_eq!(second.request(), first.request());
    second.release().await.unwrap();
    // The key is free for another request, which has another name.
    let other = fresh(&world.access, &asked("k", OTHER)).await;
    assert_ne!(other.request(), first.request());
    assert!(matches!(world.access.replays.begin(&asked("k", EXPORT)).await.unwrap(), Begun::Mismatch));
}

#[tokio::test]
async fn what_is_over_is_free_at_once_and_swept_soon() {
    let world = World::new();
    let mut keys: Vec<RequestKey> = Vec::new();
    for n in 0..120 {
        let hold = fresh(&world.access, &asked(&n.to_string(), EXPORT)).await;
        keys.push(hold.request());
        assert!(hold.complete(b"").await.unwrap());
    }
    world.clock.advance(DAY - SECOND);
    assert!(matches!(world.access.replays.begin(&asked("0", EXPORT)).await.unwrap(), Begun::Answered(_)));
    world.clock.advance(SECOND);
    assert_eq!(world.access.replays.sweep_expired().await.unwrap(), 0, "not before every process sees it so");
    let again = fresh(&world.access, &asked("0", OTHER)).await;
    let anew = fresh(&world.access, &asked("1", EXPORT)).await;
    assert!(!keys.contains(&anew.request()), "a key that is used anew names another request");
    world.clock.advance(61 * SECOND);
    world.access.tidy().await.unwrap();
    assert_eq!(stored(&world).await, 2);
    // What is worked on is not swept, however late.
    world.clock.advance(DAY);
    assert!(again.extend().await.unwrap());
    world.clock.advance(25 * SECOND);
    assert_eq!(world.access.replays.sweep_expired().await.unwrap(), 1);
    assert!(matches!(world.access.replays.begin(&asked("0", OTHER)).await.unwrap(), Begun::InFlight));
}
