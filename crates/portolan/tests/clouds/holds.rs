//! Who holds which node: assign, release, and the list of both.

use crate::world::*;
use portolan::driver::CloudCall;
use portolan::inventory::{AssignNode, Assigned, AssignmentView, InventoryError, NodeChoice, ReleaseNode};
use portolan::model::dialect::orchestrator::AssignmentStatus;
use portolan::model::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

fn node(id: &str) -> NodeChoice {
    NodeChoice { id: Some(id.into()), name: None }
}

impl World {
    async fn assign(&self, choice: NodeChoice, user: &str) -> Result<Assigned, InventoryError> {
        let wish = AssignNode { cloud: self.cloud, choice, user: user.into(), vm_type: "app".into() };
        self.portolan.inventory.assign_node(&me(), wish).await
    }

    async fn release(&self, choice: NodeChoice, within: Duration) -> Result<Assigned, InventoryError> {
        let wish = ReleaseNode { cloud: self.cloud, choice, within };
        self.portolan.inventory.release_node(&me(), wish).await
    }

    async fn list(&self) -> Vec<AssignmentView> {
        self.portolan.inventory.assignments(&me(), self.cloud).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn every_node_can_be_held_and_is_free_at_first() {
    let w = World::running(Provider::Remembers).await;
    let list = w.list().await;
    let shown: Vec<_> = list.iter().map(|a| (a.number, a.node.as_str(), a.vm_name.as_str(), a.status)).collect();
    let free = AssignmentStatus::Free;
    assert_eq!(shown, [(1, "1", "dummy-1", free), (2, "2", "dummy-2", free)]);
    assert_eq!(w.list().await, list, "numbers stay");
    w.assert_no_orphans().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_is_given_once_and_taken_back_with_all_that_is_on_it() {
    let w = World::running(Provider::Remembers).await;
    let given = w.assign(node("2"), "ann").await.unwrap();
    assert_eq!((given.number, given.node.as_str(), given.result.as_str()), (2, "2", "Node 2 assigned"));
    let again = w.assign(node("2"), "bob").await.unwrap_err();
    assert!(matches!(&again, InventoryError::Refused(text) if text == "Node 2 is already assigned"), "{again:?}");
    let list = w.list().await;
    assert_eq!((list[1].status, list[1].user.as_str()), (AssignmentStatus::Assigned, "ann"));

    let by_name = NodeChoice { id: None, name: Some("dummy-2".into()) };
    let begin = tokio::time::Instant::now();
    let back = w.release(by_name, SOON).await.unwrap();
    assert_eq!((back.number, back.result.as_str()), (2, "Node 2 released and deleted"));
    assert!(begin.elapsed() >= Duration::from_secs(25), "its user has a while to leave");
    assert_eq!(w.nodes().await.len(), 1);
    assert_eq!(w.list().await.len(), 1);
    // Another node of that id is another hold, of another number.
    w.start("web", SOON).await.unwrap();
    assert_eq!(w.list().await[1].number, 3);
    w.assert_no_orphans().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_given_or_taken_is_refused() {
    let w = World::running(Provider::Remembers).await;
    let unknown = w.assign(node("9"), "ann").await.unwrap_err();
    assert!(matches!(unknown, InventoryError::Unknown { what: "node", .. }), "{unknown:?}");
    let neither = w.assign(NodeChoice::default(), "ann").await.unwrap_err();
    assert!(matches!(neither, InventoryError::Unknown { what: "node", .. }), "{neither:?}");
    let free = w.release(node("1"), SOON).await.unwrap_err();
    assert!(matches!(&free, InventoryError::Refused(text) if text == "Node 1 is not assigned"), "{free:?}");
    assert_eq!(w.nodes().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn of_many_who_want_one_node_one_gets_it() {
    let w = World::running(Provider::Remembers).await;
    let wishes = (0..50).map(|n| {
        let portolan = Arc::clone(&w.portolan);
        let wish = AssignNode { cloud: w.cloud, choice: node("1"), user: format!("user-{n}"), vm_type: String::new() };
        tokio::spawn(async move { portolan.inventory.assign_node(&me(), wish).await })
    });
    let mut got = 0;
    for wish in wishes.collect::<Vec<_>>() {
        match wish.await.unwrap() {
            Ok(_) => got += 1,
            Err(InventoryError::Refused(_)) => {}
            Err(e) => panic!("{e:?}"),
        }
    }
    assert_eq!(got, 1);
    let numbers: BTreeSet<i64> = w.list().await.iter().map(|a| a.number).collect();
    assert_eq!(numbers, BTreeSet::from([1, 2]));
}

/// The caller goes away during the while that a user has: the node is destroyed all the same, and who asks again
/// hears of that.
#[tokio::test(start_paused = true)]
async fn a_release_goes_on_without_its_caller() {
    let w = World::running(Provider::Remembers).await;
    w.assign(node("1"), "ann").await.unwrap();
    let (portolan, cloud) = (Arc::clone(&w.portolan), w.cloud);
    let wish = ReleaseNode { cloud, choice: node("1"), within: SOON };
    let caller = tokio::spawn(async move { portolan.inventory.release_node(&me(), wish).await });
    tokio::time::sleep(Duration::from_secs(3)).await;
    let other = Caller { login: "other".into(), ..me() };
    let twice = ReleaseNode { cloud, choice: node("1"), within: SOON };
    let twice = w.portolan.inventory.release_node(&other, twice).await.unwrap_err();
    assert!(matches!(&twice, InventoryError::Refused(text) if text == "Node 1 is being released"), "{twice:?}");
    caller.abort();
    let tasks = w.quiet().await;
    assert!(tasks.iter().all(|t| t.state == TaskState::Succeeded));
    assert_eq!(w.faults.calls(CloudCall::DestroyNode), 1);
    assert_eq!(w.release(node("1"), SOON).await.unwrap().result, "Node 1 released and deleted");
    assert_eq!(w.nodes().await.len(), 1);
    w.assert_no_orphans().await;
}

/// A node that is stopped is held by nobody.
#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_hold() {
    let w = World::running(Provider::Remembers).await;
    w.sync().await;
    w.assign(node("2"), "ann").await.unwrap();
    w.stop("2", SOON).await.unwrap();
    assert_eq!(w.list().await.iter().map(|a| a.number).collect::<Vec<_>>(), [1]);
}
