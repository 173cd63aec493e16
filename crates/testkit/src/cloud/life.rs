//! Points 3 and 4: the life of a node, and the words for where it is.

use super::{CloudFixture, declared, kind, running, settled, wish};
use portolan_driver::{Capability, CloudDriverExt, CloudErrorKind, listing};
use portolan_model::dialect::libcloud::NodeState;
use serde_json::Value;

/// Creating answers without waiting, the node is listed once and comes to run; destroyed, it is gone.
pub async fn nodes_come_and_go(f: &impl CloudFixture) {
    let driver = f.driver();
    if !declared(&driver, Capability::CreateNode).await {
        return;
    }
    let made = driver.create_node(&wish(&driver, "alpha", "come-and-go").await).await.expect("a node").node;
    assert!(
        matches!(made.state, NodeState::Pending | NodeState::Starting | NodeState::Running | NodeState::Unknown),
        "{made:?}"
    );
    assert_eq!(made.token.as_deref(), Some("come-and-go"));
    let node = made.reference();
    let listed = driver.nodes().await.expect("nodes").into_iter().filter(|n| n.reference() == node).count();
    assert_eq!(listed, 1);
    let runs = settled(f, &driver, &node, NodeState::Running).await;
    assert_eq!((runs.token, runs.name), (made.token, made.name), "the list says what the creation said");
    if !declared(&driver, Capability::DestroyNode).await {
        return;
    }
    driver.destroy_node(&node).await.expect("destroyed");
    for _ in 0..1000 {
        let nodes = driver.nodes().await.expect("nodes");
        // Some providers list what is gone for a while; inventory must not see it.
        if listing(&driver.info(), &nodes)
            .vms
            .iter()
            .all(|vm| vm.native_id != node.id || vm.incarnation != node.incarnation)
        {
            return;
        }
        f.settle().await;
    }
    panic!("a destroyed node is listed still");
}

/// A running node stops and starts again; asked twice, it is in no state for that.
pub async fn nodes_stop_and_start(f: &impl CloudFixture) {
    let driver = f.driver();
    let has = declared(&driver, Capability::StopNode).await & declared(&driver, Capability::StartNode).await;
    if !has || !driver.capabilities().has(Capability::CreateNode) {
        return;
    }
    let node = running(f, &driver, "alpha", "stop-and-start").await.reference();
    assert_eq!(kind(driver.start_node(&node).await), CloudErrorKind::Conflict, "it runs");
    driver.stop_node(&node).await.expect("stopping");
    assert_eq!(kind(driver.stop_node(&node).await), CloudErrorKind::Conflict, "it is stopping");
    settled(f, &driver, &node, NodeState::Stopped).await;
    assert_eq!(kind(driver.stop_node(&node).await), CloudErrorKind::Conflict, "it is stopped");
    if driver.capabilities().has(Capability::RebootNode) {
        assert_eq!(kind(driver.reboot_node(&node).await), CloudErrorKind::Conflict, "it is stopped");
    }
    driver.start_node(&node).await.expect("starting");
    settled(f, &driver, &node, NodeState::Running).await;
}

/// A rebooted node is the same node, and runs again.
pub async fn nodes_reboot(f: &impl CloudFixture) {
    let driver = f.driver();
    if !declared(&driver, Capability::RebootNode).await || !driver.capabilities().has(Capability::CreateNode) {
        return;
    }
    let node = running(f, &driver, "alpha", "reboot").await.reference();
    driver.reboot_node(&node).await.expect("rebooting");
    let end = if f.reboots_end() { NodeState::Running } else { NodeState::Rebooting };
    settled(f, &driver, &node, end).await;
}

/// A node that is gone is not found, by every call, and no node that has its id by now is touched.
pub async fn a_destroyed_node_is_not_another(f: &impl CloudFixture) {
    let driver = f.driver();
    let has = declared(&driver, Capability::CreateNode).await & declared(&driver, Capability::DestroyNode).await;
    if !has {
        return;
    }
    let old = running(f, &driver, "old", "old").await.reference();
    driver.destroy_node(&old).await.expect("destroyed");
    let new = running(f, &driver, "new", "new").await;
    assert_ne!(new.reference(), old);
    assert_eq!(kind(driver.destroy_node(&old).await), CloudErrorKind::NotFound);
    assert_eq!(kind(driver.node(&old).await.and_then(|n| alive(n.state))), CloudErrorKind::NotFound);
    if driver.capabilities().has(Capability::RebootNode) {
        assert_eq!(kind(driver.reboot_node(&old).await), CloudErrorKind::NotFound);
    }
    if driver.capabilities().has(Capability::StopNode) {
        assert_eq!(kind(driver.stop_node(&old).await), CloudErrorKind::NotFound);
    }
    if driver.capabilities().has(Capability::StartNode) {
        assert_eq!(kind(driver.start_node(&old).await), CloudErrorKind::NotFound);
    }
    let after = driver.node(&new.reference()).await.expect("the new node is there");
    assert_eq!(after, new, "and as it was");
}

/// A provider may list for a while what is gone.
fn alive(state: NodeState) -> Result<(), portolan_driver::CloudError> {
    if state == NodeState::Terminated { Err(portolan_driver::CloudError::not_found("node", "")) } else { Ok(()) }
}

/// Every word of the provider is the state that it means; one that nobody has heard of is `Unknown`, is kept as it
/// is, and harms nothing else.
pub async fn unheard_of_states_are_kept(f: &impl CloudFixture) {
    let backend = f.backend().expect("a back end");
    let driver = f.driver();
    if !declared(&driver, Capability::CreateNode).await {
        return;
    }
    let node = running(f, &driver, "alpha", "alpha").await.reference();
    let other = running(f, &driver, "beta", "beta").await.reference();
    for (word, state) in backend.state_words() {
        backend.set_state_word(&node.id, word).await;
        assert_eq!(driver.node(&node).await.expect("the node").state, *state, "{word}");
    }
    for word in ["TELEPORTING", "größer 大", ""] {
        backend.set_state_word(&node.id, word).await;
        let shown = driver.node(&node).await.expect("the node");
        assert_eq!(shown.state, NodeState::Unknown, "{word}");
        assert_eq!(shown.extra.get("state").and_then(Value::as_str), Some(word));
        assert_eq!(driver.node(&other).await.expect("the other").state, NodeState::Running);
    }
}
