//! Point 12: two accounts of one provider.

use super::{CloudFixture, declared, running};
use portolan_driver::{Capability, CloudDriverExt};

/// What happens in one account leaves the other as it is, equal ids or not.
pub async fn accounts_do_not_collide(f: &impl CloudFixture) {
    let (first, second) = (f.driver(), f.other_account());
    assert_eq!(first.info().provider, second.info().provider, "one provider");
    if !declared(&first, Capability::CreateNode).await {
        return;
    }
    let here = running(f, &first, "shared", "shared").await;
    running(f, &second, "shared", "shared").await;
    running(f, &second, "second", "second").await;
    let there = second.nodes().await.expect("nodes");
    assert_eq!(first.node_of_token("second").await.expect("nodes"), None);

    if first.capabilities().has(Capability::RebootNode) {
        first.reboot_node(&here.reference()).await.expect("rebooting");
    }
    if declared(&first, Capability::DestroyNode).await {
        first.destroy_node(&here.reference()).await.expect("destroyed");
    }
    assert_eq!(second.nodes().await.expect("nodes"), there, "as it was");
}
