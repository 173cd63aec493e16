//! What a node's life looks like when nothing goes wrong.

use crate::world::*;
use portolan::driver::{Extra, MemoryDriverState};
use portolan::inventory::{InventoryError, NodeChoice, StartNode, StopNode};
use portolan::model::caller::RequestKey;
use portolan::model::*;
use portolan::storage::MemoryStorage;
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

#[tokio::test(start_paused = true)]
async fn a_node_that_is_started_is_a_machine_until_it_is_stopped() {
    let w = World::running(Provider::Remembers).await;
    let names: Vec<String> = w.nodes().await.iter().map(|n| n.name.clone()).collect();
    assert_eq!(names, ["dummy-1", "dummy-2"]);
    let node = w.start("web", SOON).await.unwrap();
    assert_eq!((node.id.as_str(), node.name.as_str()), ("3", "dummy-3"));
    let machines = w.machines(&me()).await;
    assert_eq!(machines.len(), 1, "known from the first moment, without a listing");
    assert_eq!(machines[0].external.native_id, "3");
    w.assert_no_orphans().await;
    assert_eq!(w.stop("3", SOON).await.unwrap(), "3");
    assert_eq!(w.nodes().await.len(), 2);
    w.assert_no_orphans().await;
    let again = w.stop("3", SOON).await.unwrap_err();
    assert!(matches!(again, InventoryError::Unknown { what: "node", .. }), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_cloud_does_not_have_is_said_before_anything_is_made() {
    let w = World::running(Provider::Remembers).await;
    let wish = w.wish("web", SOON);
    let image = StartNode { image: "9".into(), ..wish.clone() };
    let size = StartNode { size: "9".into(), ..wish.clone() };
    let cloud = StartNode { cloud: PlatformId::from_uuid(Uuid::nil()), ..wish.clone() };
    let nameless = StartNode { name: " ".into(), ..wish };
    let start = async |wish| w.portolan.inventory.start_node(&me(), wish).await.unwrap_err();
    assert!(matches!(start(image).await, InventoryError::Unknown { what: "image", .. }));
    assert!(matches!(start(size).await, InventoryError::Unknown { what: "size", .. }));
    assert!(matches!(start(cloud).await, InventoryError::Unknown { what: "cloud", .. }));
    assert!(matches!(start(nameless).await, InventoryError::Invalid(_)));
    assert!(w.quiet().await.is_empty(), "no task was begun");
    let viewer = Caller { role: Role::Viewer, ..me() };
    let denied = w.portolan.inventory.start_node(&viewer, w.wish("web", SOON)).await.unwrap_err();
    assert!(matches!(denied, InventoryError::Denied(_)));
}

/// The dummy gives an id again: that is another machine, also while both are there.
#[tokio::test(start_paused = true)]
async fn an_id_that_is_given_again_is_another_machine() {
    let w = World::running(Provider::Remembers).await;
    w.sync().await;
    w.stop("1", SOON).await.unwrap();
    let second = w.start("web", SOON).await.unwrap();
    assert_eq!(second.id, "2", "as many nodes as there are, and one");
    let twos: BTreeSet<VmId> =
        w.machines(&me()).await.iter().filter(|vm| vm.external.native_id == "2").map(|vm| vm.id).collect();
    assert_eq!(twos.len(), 2);
    // Of two with this id the first is meant, and the other one stays.
    w.stop("2", SOON).await.unwrap();
    let left = w.nodes().await;
    assert_eq!(left.iter().map(|n| &n.incarnation).collect::<Vec<_>>(), [&second.incarnation]);
    w.assert_no_orphans().await;
}

#[tokio::test(start_paused = true)]
async fn two_accounts_of_one_provider_do_not_collide() {
    let w = World::running(Provider::Remembers).await;
    let other = dummy(Provider::Remembers, Arc::new(MemoryDriverState::default()), 99);
    let registered = w.portolan.inventory.register_cloud(&me(), new_cloud("other"), |_| other).await.unwrap();
    w.start("here", SOON).await.unwrap();
    // What is registered later is served by an engine that is made later.
    w.start_engine("node-2");
    let there = StartNode { cloud: registered.id, ..w.wish("there", SOON) };
    assert_eq!(w.portolan.inventory.start_node(&me(), there).await.unwrap().id, "3");
    w.portolan.request_sync(&me(), vec![w.cloud, registered.id], Vec::new()).await.unwrap();
    w.quiet().await;
    let machines = w.machines(&me()).await;
    assert_eq!(machines.len(), 6);
    assert_eq!(machines.iter().map(|vm| vm.id).collect::<BTreeSet<_>>().len(), 6);
    w.stop("3", SOON).await.unwrap();
    assert_eq!(w.machines(&me()).await.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_sees_its_own_nodes_only() {
    let w = World::running(Provider::Remembers).await;
    w.sync().await;
    let mut callers = Vec::new();
    for name in ["red", "blue"] {
        let tenant = w.portolan.access.tenants.create(&me(), name, "").await.unwrap();
        callers.push(Caller { role: Role::Operator, login: name.into(), scope: Scope::Tenant(tenant.id), ..me() });
    }
    let (red, blue) = (&callers[0], &callers[1]);
    let inventory = &w.portolan.inventory;
    let node = inventory.start_node(red, w.wish("web", SOON)).await.unwrap();
    let ids = async |caller| -> Vec<String> {
        inventory.cloud_nodes(caller, w.cloud).await.unwrap().iter().map(|n| n.id.clone()).collect()
    };
    assert_eq!(ids(red).await, std::slice::from_ref(&node.id));
    assert!(ids(blue).await.is_empty());
    assert_eq!(ids(&me()).await, ["1", "2", "3"]);
    assert_eq!((w.machines(red).await.len(), w.machines(blue).await.len()), (1, 0));
    let stop = |id: &str| portolan::inventory::StopNode {
        cloud: w.cloud,
        choice: portolan::inventory::NodeChoice { id: Some(id.into()), name: None },
        within: SOON,
    };
    for theirs in ["3", "1"] {
        let refused = inventory.stop_node(blue, stop(theirs)).await.unwrap_err();
        assert!(matches!(refused, InventoryError::Unknown { what: "node", .. }), "{refused:?}");
    }
    assert_eq!(inventory.stop_node(red, stop("3")).await.unwrap(), "3");
}

#[tokio::test(start_paused = true)]
async fn equal_requests_side_by_side_are_as_many_nodes() {
    let w = World::running(Provider::Remembers).await;
    let starts = (0..200).map(|_| {
        let (portolan, wish) = (Arc::clone(&w.portolan), w.wish("web", LONG));
        tokio::spawn(async move { portolan.inventory.start_node(&me(), wish).await.unwrap() })
    });
    let mut seen = BTreeSet::new();
    for start in starts.collect::<Vec<_>>() {
        assert!(seen.insert(start.await.unwrap().incarnation), "a node was handed out twice");
    }
    assert_eq!(w.nodes().await.len(), 202);
    w.assert_no_orphans().await;
}

#[tokio::test(start_paused = true)]
async fn a_named_request_is_one_node_however_often_it_is_sent() {
    let w = World::running(Provider::Remembers).await;
    let named = |n: u128| Caller { request: Some(RequestKey(Uuid::from_u128(n))), ..me() };
    let mut ids = Vec::new();
    for n in [1, 1, 2] {
        ids.push(w.portolan.inventory.start_node(&named(n), w.wish("web", SOON)).await.unwrap().incarnation);
    }
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], ids[2]);
    assert_eq!(w.nodes().await.len(), 4);
    // A stop that was answered is answered again, though the cloud has no such node by now.
    for _ in 0..2 {
        let choice = NodeChoice { id: Some("3".into()), name: None };
        let stop = StopNode { cloud: w.cloud, choice, within: SOON };
        assert_eq!(w.portolan.inventory.stop_node(&named(3), stop).await.unwrap(), "3");
    }
    assert_eq!(w.nodes().await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn names_and_metadata_of_every_kind_arrive() {
    let w = World::new(Provider::Remembers, Arc::new(MemoryStorage::new())).await;
    w.start_engine("node-1");
    let mut metadata = Extra::new();
    metadata.insert("größe".into(), serde_json::json!({ "tief": [1, null, { "x": "😀" }], "n": 1e300 }));
    for name in ["Größe 大 😀".to_owned(), "x".repeat(255)] {
        let wish = StartNode { name: name.clone(), metadata: metadata.clone(), ..w.wish("", SOON) };
        w.portolan.inventory.start_node(&me(), wish).await.unwrap();
    }
    let long = StartNode { name: "x".repeat(256), ..w.wish("", SOON) };
    assert!(matches!(w.portolan.inventory.start_node(&me(), long).await, Err(InventoryError::Invalid(_))));
    w.assert_no_orphans().await;
}
