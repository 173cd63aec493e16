//! Point 6: what is repeated, and what never.

use super::{CloudFixture, declared, kind, quick, running, settled, wish};
use crate::clock::SeededIds;
use portolan_driver::{
    Capability, CloudCall, CloudDriver, CloudDriverExt, CloudError, CloudErrorKind, Faults, Retrying,
};
use portolan_model::dialect::libcloud::NodeState;
use std::sync::Arc;
use std::time::Duration;

/// The fixture's driver with a place to disturb it, and the same behind bounded repetition.
fn disturbed(f: &impl CloudFixture) -> (Arc<Faults>, Arc<dyn CloudDriver>) {
    let faults = Faults::new(f.driver());
    let retrying = Retrying::new(faults.clone(), quick(), Arc::new(SeededIds::default()));
    (faults, Arc::new(retrying))
}

fn unreachable() -> CloudError {
    CloudError::new(CloudErrorKind::Unreachable, "scripted")
}

fn throttled() -> CloudError {
    CloudError::new(CloudErrorKind::RateLimited, "scripted")
}

/// A read is repeated while that may help, and no more often than allowed.
pub async fn reads_are_repeated_within_bounds(f: &impl CloudFixture) {
    let (faults, driver) = disturbed(f);
    let calls = || faults.calls(CloudCall::ListNodes);
    faults.fail_before(CloudCall::ListNodes, 1, unreachable());
    faults.fail_before(CloudCall::ListNodes, 2, throttled().after(Duration::from_millis(3)));
    driver.list_nodes(None).await.expect("the third try");
    assert_eq!(calls(), 3);

    faults.fail_always(CloudCall::ListNodes, unreachable());
    assert_eq!(kind(driver.list_nodes(None).await), CloudErrorKind::Unreachable);
    assert_eq!(calls(), 6, "three tries");
    faults.clear();

    faults.fail_always(CloudCall::ListNodes, throttled().after(Duration::from_secs(60)));
    let error = driver.list_nodes(None).await.expect_err("too long a wait");
    assert_eq!((error.kind, error.retry_after), (CloudErrorKind::RateLimited, Some(Duration::from_secs(60))));
    assert_eq!(calls(), 7, "the caller may come back then");
    faults.clear();

    for hopeless in [CloudErrorKind::Denied, CloudErrorKind::Malformed, CloudErrorKind::Auth] {
        faults.fail_before(CloudCall::ListNodes, 1, CloudError::new(hopeless, "scripted"));
        assert_eq!(kind(driver.list_nodes(None).await), hopeless);
    }
    assert_eq!(calls(), 10, "one try each");
}

/// A creation whose answer was lost goes out once, and is found by its token; with idempotent creations it may go out
/// again, and makes one node all the same.
pub async fn creations_are_not_repeated_blindly(f: &impl CloudFixture) {
    let (faults, driver) = disturbed(f);
    if !declared(&driver, Capability::CreateNode).await {
        return;
    }
    let idempotent = driver.capabilities().has(Capability::IdempotentCreate);
    let wish = wish(&driver, "once", "once").await;
    for lost in [unreachable(), throttled()] {
        faults.fail_after(CloudCall::CreateNode, 1, lost.clone());
        let before = faults.calls(CloudCall::CreateNode);
        let answer = driver.create_node(&wish).await;
        let tries = faults.calls(CloudCall::CreateNode) - before;
        if idempotent {
            assert_eq!((answer.map(|made| made.node.token).ok(), tries), (Some(Some("once".to_owned())), 2));
        } else {
            assert_eq!((kind(answer), tries), (lost.kind, 1));
            break;
        }
    }
    let found = driver.nodes().await.expect("nodes").into_iter().filter(|n| n.token.as_deref() == Some("once")).count();
    assert_eq!(found, 1, "neither orphan nor double");
}

/// Destroying, stopping and starting survive a lost answer; rebooting goes out once.
pub async fn changes_are_repeated_when_safe(f: &impl CloudFixture) {
    let (faults, driver) = disturbed(f);
    if !declared(&driver, Capability::CreateNode).await {
        return;
    }
    let node = running(f, &driver, "alpha", "alpha").await.reference();
    let capabilities = driver.capabilities();
    if capabilities.has(Capability::StopNode) && capabilities.has(Capability::StartNode) {
        faults.fail_after(CloudCall::StopNode, 1, unreachable());
        driver.stop_node(&node).await.expect("it is stopping");
        assert_eq!(faults.calls(CloudCall::StopNode), 1, "a look was enough");
        settled(f, &driver, &node, NodeState::Stopped).await;
        faults.fail_before(CloudCall::StartNode, 1, unreachable());
        driver.start_node(&node).await.expect("it is starting");
        assert_eq!(faults.calls(CloudCall::StartNode), 2, "it had not begun");
        settled(f, &driver, &node, NodeState::Running).await;
        assert_eq!(kind(driver.start_node(&node).await), CloudErrorKind::Conflict, "a plain conflict stays one");
    }
    if capabilities.has(Capability::RebootNode) {
        faults.fail_after(CloudCall::RebootNode, 1, unreachable());
        assert_eq!(kind(driver.reboot_node(&node).await), CloudErrorKind::Unreachable);
        assert_eq!(faults.calls(CloudCall::RebootNode), 1, "two reboots are not one");
    }
    if declared(&driver, Capability::DestroyNode).await {
        faults.fail_after(CloudCall::DestroyNode, 1, unreachable());
        driver.destroy_node(&node).await.expect("it is gone");
        assert_eq!(faults.calls(CloudCall::DestroyNode), 2);
        assert_eq!(kind(driver.destroy_node(&node).await), CloudErrorKind::NotFound, "a plain one stays one");
    }
}
