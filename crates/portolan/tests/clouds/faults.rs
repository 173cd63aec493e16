//! Whatever fails, hangs or dies between the cloud and its record: no node is lost, none is made twice.

use crate::world::*;
use portolan::driver::{CloudCall, CloudError, CloudErrorKind};
use portolan::inventory::InventoryError;
use portolan::model::*;
use portolan::storage::MemoryStorage;
use std::sync::Arc;
use std::time::Duration;

/// How a call is disturbed.
#[derive(Debug, Clone, Copy)]
enum Disturbed {
    /// It does not go out, and may go out later.
    Before,
    /// It goes through, and its answer is lost.
    After,
    /// It goes through, and its answer is nonsense.
    Nonsense,
    /// It is refused for good.
    Refused,
}

const ALL: [Disturbed; 4] = [Disturbed::Before, Disturbed::After, Disturbed::Nonsense, Disturbed::Refused];
const PROVIDERS: [Provider; 2] = [Provider::Remembers, Provider::Forgets];

fn disturb(w: &World, call: CloudCall, nth: u32, how: Disturbed) {
    let lost = || CloudError::new(CloudErrorKind::Unreachable, "scripted");
    match how {
        Disturbed::Before => w.faults.fail_before(call, nth, lost()),
        Disturbed::After => w.faults.fail_after(call, nth, lost()),
        Disturbed::Nonsense => w.faults.malformed(call, nth),
        Disturbed::Refused => w.faults.fail_before(call, nth, CloudError::new(CloudErrorKind::Auth, "scripted")),
    }
}

#[tokio::test(start_paused = true)]
async fn any_failure_of_any_call_of_a_start_leaves_no_orphan_and_no_second_node() {
    let calls = [CloudCall::ListImages, CloudCall::ListSizes, CloudCall::ListNodes, CloudCall::CreateNode];
    let (mut good, mut bad) = (0, 0);
    for provider in PROVIDERS {
        for call in calls {
            for nth in 1..=2 {
                for how in ALL {
                    let w = World::running(provider).await;
                    // A second failure, at the look for the node whose answer was lost.
                    if call == CloudCall::ListNodes {
                        disturb(&w, CloudCall::CreateNode, 1, Disturbed::After);
                    }
                    disturb(&w, call, nth, how);
                    let about = format!("{provider:?} {call:?} {nth} {how:?}");
                    let made = w.start("web", LONG).await;
                    w.quiet().await;
                    let expected = if made.is_ok() { 3 } else { 2 };
                    assert_eq!(w.nodes().await.len(), expected, "{about}: {made:?}");
                    w.assert_no_orphans().await;
                    *(if made.is_ok() { &mut good } else { &mut bad }) += 1;
                }
            }
        }
    }
    assert!(good > 20 && bad > 10, "the script disturbed nothing: {good} {bad}");
}

#[tokio::test(start_paused = true)]
async fn any_failure_of_any_call_of_a_stop_destroys_the_node_once_or_leaves_it() {
    for call in [CloudCall::ListNodes, CloudCall::DestroyNode] {
        for nth in 1..=2 {
            for how in ALL {
                let w = World::running(Provider::Remembers).await;
                let node = w.start("web", SOON).await.unwrap();
                disturb(&w, call, nth, how);
                let about = format!("{call:?} {nth} {how:?}");
                let stopped = w.stop(&node.id, LONG).await;
                w.quiet().await;
                let expected = if stopped.is_ok() { 2 } else { 3 };
                assert_eq!(w.nodes().await.len(), expected, "{about}: {stopped:?}");
                w.assert_no_orphans().await;
            }
        }
    }
}

/// A provider that never answers again: the task fails in the end, and the node that turns up after all is destroyed.
#[tokio::test(start_paused = true)]
async fn a_start_that_fails_for_good_takes_its_node_back() {
    for provider in PROVIDERS {
        let w = World::running(provider).await;
        let lost = CloudError::new(CloudErrorKind::Unreachable, "scripted");
        w.faults.fail_after(CloudCall::CreateNode, 1, lost.clone());
        w.faults.fail_before(CloudCall::CreateNode, 2, CloudError::new(CloudErrorKind::Quota, "scripted"));
        if provider == Provider::Forgets {
            // The look for the node whose answer was lost.
            w.faults.fail_before(CloudCall::ListNodes, 1, CloudError::new(CloudErrorKind::Denied, "scripted"));
        }
        let made = w.start("web", LONG).await;
        assert!(matches!(made, Err(InventoryError::Failed(_))), "{provider:?}: {made:?}");
        w.quiet().await;
        assert_eq!(w.nodes().await.len(), 2, "{provider:?}");
        w.assert_no_orphans().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cloud_that_hangs_is_waited_for_no_longer_than_the_caller_wants() {
    let w = World::running(Provider::Remembers).await;
    let held = w.faults.hold_before(CloudCall::CreateNode, 1);
    let begin = tokio::time::Instant::now();
    let slow = w.start("web", SOON).await.unwrap_err();
    assert!(matches!(slow, InventoryError::StillRunning(_)), "{slow:?}");
    assert!(begin.elapsed() < SOON + Duration::from_secs(1));
    // The retry waits for the same node; another wish is another one.
    let portolan = Arc::clone(&w.portolan);
    let wish = w.wish("web", LONG);
    let retry = tokio::spawn(async move { portolan.inventory.start_node(&me(), wish).await });
    let other = w.start("other", LONG).await.unwrap();
    held.release();
    let node = retry.await.unwrap().unwrap();
    assert_ne!(node.incarnation, other.incarnation);
    assert_eq!(w.nodes().await.len(), 4);
    // It has been answered: an equal wish now means one more.
    assert_ne!(w.start("web", SOON).await.unwrap().incarnation, node.incarnation);
    assert_eq!(w.nodes().await.len(), 5);
    w.assert_no_orphans().await;
}

/// Somebody who hangs up and asks again gets the node that the first request has begun.
#[tokio::test(start_paused = true)]
async fn a_caller_who_hung_up_gets_the_same_node() {
    let w = World::running(Provider::Remembers).await;
    let held = w.faults.hold_before(CloudCall::CreateNode, 1);
    let (portolan, wish) = (Arc::clone(&w.portolan), w.wish("web", LONG));
    let first = tokio::spawn(async move { portolan.inventory.start_node(&me(), wish).await });
    held.arrived(1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    held.release();
    w.quiet().await;
    let node = w.start("web", SOON).await.unwrap();
    assert_eq!(node.id, "3");
    assert_eq!(w.nodes().await.len(), 3);
    w.assert_no_orphans().await;
}

/// The process dies after the cloud made the node and before that is recorded.
#[tokio::test(start_paused = true)]
async fn a_crash_between_the_call_and_its_record_adopts_the_node() {
    for provider in PROVIDERS {
        let w = World::new(provider, Arc::new(MemoryStorage::new())).await;
        let engine = w.start_engine("node-1");
        let held = w.faults.hold_after(CloudCall::CreateNode, 1);
        let (portolan, wish) = (Arc::clone(&w.portolan), w.wish("web", LONG));
        let caller = tokio::spawn(async move { portolan.inventory.start_node(&me(), wish).await });
        held.arrived(1).await;
        caller.abort();
        engine.abort();
        held.release();

        let next = w.next_process(8).await;
        next.start_engine("node-2");
        let node = next.start("web", LONG).await.unwrap();
        assert_eq!(node.id, "3", "{provider:?}: the retry gets the node of the first request");
        next.quiet().await;
        assert_eq!(next.nodes().await.len(), 3, "{provider:?}");
        next.assert_no_orphans().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_during_a_stop_ends_with_the_node_gone() {
    let w = World::new(Provider::Remembers, Arc::new(MemoryStorage::new())).await;
    let engine = w.start_engine("node-1");
    w.start("web", SOON).await.unwrap();
    let held = w.faults.hold_after(CloudCall::DestroyNode, 1);
    let portolan = Arc::clone(&w.portolan);
    let (cloud, choice) = (w.cloud, portolan::inventory::NodeChoice { id: Some("3".into()), name: None });
    let stop = portolan::inventory::StopNode { cloud, choice, within: LONG };
    let caller = tokio::spawn(async move { portolan.inventory.stop_node(&me(), stop).await });
    held.arrived(1).await;
    caller.abort();
    engine.abort();
    held.release();

    let next = w.next_process(8).await;
    next.start_engine("node-2");
    assert_eq!(next.stop("3", LONG).await.unwrap(), "3", "the retry hears how the first one ended");
    assert_eq!(next.nodes().await.len(), 2);
    next.assert_no_orphans().await;
}

/// A sync that sees the node before the task has recorded it changes nothing about whose it is.
#[tokio::test(start_paused = true)]
async fn a_sync_in_between_does_not_take_the_node_from_its_tenant() {
    let w = World::running(Provider::Remembers).await;
    let tenant = w.portolan.access.tenants.create(&me(), "red", "").await.unwrap().id;
    let red = Caller { role: Role::Operator, login: "red".into(), scope: Scope::Tenant(tenant), ..me() };
    let held = w.faults.hold_after(CloudCall::CreateNode, 1);
    let (portolan, wish, caller) = (Arc::clone(&w.portolan), w.wish("web", LONG), red.clone());
    let start = tokio::spawn(async move { portolan.inventory.start_node(&caller, wish).await });
    held.arrived(1).await;
    w.portolan.inventory.sync_platform(w.cloud, None).await.unwrap();
    assert_eq!(w.machines(&me()).await.len(), 3);
    assert!(w.machines(&red).await.is_empty());
    held.release();
    start.await.unwrap().unwrap();
    assert_eq!(w.machines(&red).await.len(), 1);
    assert_eq!(w.machines(&me()).await.len(), 3);
}

/// A listing from before a node was destroyed does not bring its machine back.
#[tokio::test(start_paused = true)]
async fn a_listing_from_before_a_stop_brings_nothing_back() {
    let w = World::running(Provider::Remembers).await;
    let node = w.start("web", LONG).await.unwrap();
    w.sync().await;
    assert_eq!(w.machines(&me()).await.len(), 3);
    let held = w.faults.hold_after(CloudCall::ListNodes, 1);
    let (portolan, cloud) = (Arc::clone(&w.portolan), w.cloud);
    let sync = tokio::spawn(async move { portolan.inventory.sync_platform(cloud, None).await });
    held.arrived(1).await;
    w.stop(&node.id, LONG).await.unwrap();
    assert_eq!(w.machines(&me()).await.len(), 2);
    held.release();
    sync.await.unwrap().unwrap();
    assert_eq!(w.machines(&me()).await.len(), 2);
    w.assert_no_orphans().await;
}
