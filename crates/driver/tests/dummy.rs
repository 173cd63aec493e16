//! The dummy cloud: its exact data, its life cycle, and what several processes make of it together.

use async_trait::async_trait;
use portolan_driver::*;
use portolan_model::dialect::libcloud::NodeState;
use portolan_testkit::clock::SeededIds;
use portolan_testkit::cloud::{self, CloudFixture, Repeated, wish};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

static SEED: AtomicU64 = AtomicU64::new(1);

/// A process that drives the cloud kept in `state`.
fn process(state: &MemoryDriverState) -> Arc<dyn CloudDriver> {
    Arc::new(dummy(state))
}

fn dummy(state: &MemoryDriverState) -> DummyCloud {
    let ids = SeededIds::new(SEED.fetch_add(1, Ordering::SeqCst));
    DummyCloud::new(Arc::new(state.clone()), Arc::new(ids))
}

#[derive(Default)]
struct Fixture {
    first: MemoryDriverState,
    second: MemoryDriverState,
}

#[async_trait]
impl CloudFixture for Fixture {
    fn driver(&self) -> Arc<dyn CloudDriver> {
        process(&self.first)
    }

    fn other_account(&self) -> Arc<dyn CloudDriver> {
        process(&self.second)
    }

    fn reboots_end(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn conforms() {
    cloud::all(Fixture::default).await;
}

#[tokio::test]
async fn conforms_behind_repetition() {
    cloud::all(|| Repeated(Fixture::default())).await;
}

/// A node as libcloud shows it: id, name, state, public and private addresses, extra.
fn shown(node: &CloudNode) -> Value {
    json!([node.id, node.name, node.state.number(), node.public_ips, node.private_ips, node.extra])
}

#[tokio::test]
async fn has_exactly_the_data_of_the_original() {
    let cloud = process(&MemoryDriverState::default());
    let info = cloud.info();
    assert_eq!((info.provider, info.display_name, info.host.as_str()), ("dummy", "Dummy Node Provider", "127.0.0.1"));
    let nodes: Vec<_> = cloud.nodes().await.unwrap().iter().map(|n| shown(n)).collect();
    assert_eq!(
        json!(nodes),
        json!([
            ["1", "dummy-1", 0, ["127.0.0.1"], [], { "foo": "bar" }],
            ["2", "dummy-2", 0, ["127.0.0.1"], [], { "foo": "bar" }],
        ])
    );
    let images = cloud.images(None).await.unwrap();
    let images: Vec<_> = images.iter().map(|i| (i.id.as_str(), i.name.as_str(), i.extra.len())).collect();
    assert_eq!(images, [("1", "Ubuntu 9.10", 0), ("2", "Ubuntu 9.04", 0), ("3", "Slackware 4", 0)]);
    let sizes: Vec<_> = cloud
        .sizes(None)
        .await
        .unwrap()
        .into_iter()
        .map(|s| json!([s.id, s.name, s.ram_mb, s.disk_gb, s.bandwidth_gb, s.price_micros]))
        .collect();
    assert_eq!(
        json!(sizes),
        json!([
            ["1", "Small", 128, 4, 500, 4_000_000],
            ["2", "Medium", 512, 16, 1500, 8_000_000],
            ["3", "Big", 4096, 32, 2500, 32_000_000],
            ["4", "XXL Big", 8192, 128, 7500, 64_000_000],
        ])
    );
    let places = cloud.locations().await.unwrap();
    let places: Vec<_> = places.iter().map(|l| (l.id.as_str(), l.name.as_str(), l.country.as_str())).collect();
    assert_eq!(places, [("1", "Paul's Room", "US"), ("2", "London Loft", "GB"), ("3", "Island Datacenter", "FJ")]);

    let made = cloud.create_node(&wish(&cloud, "ignored", "t").await).await.unwrap();
    assert!(made.password.is_none());
    assert_eq!(shown(&made.node), json!(["3", "dummy-3", 0, ["127.0.0.3"], [], { "foo": "bar" }]));
    assert_eq!((made.node.size.as_deref(), made.node.image.as_deref()), (Some("s1"), Some("i2")));
    cloud.reboot_node(&made.node.reference()).await.unwrap();
    cloud.reboot_node(&made.node.reference()).await.unwrap();
    assert_eq!(cloud.node(&made.node.reference()).await.unwrap().state, NodeState::Rebooting);

    let key = cloud.import_key_pair("mine", "ssh-rsa AAAA me").await.unwrap();
    assert_eq!(
        (key.pair.name.as_str(), key.pair.public_key.as_str(), key.pair.fingerprint.as_str()),
        ("mine", "ssh-rsa AAAA me", "fingerprint")
    );
    assert_eq!(key.private_key.unwrap().reveal(), "private_key");
    for lacking in [Capability::StartNode, Capability::StopNode, Capability::Volumes, Capability::CreateKeyPair] {
        assert!(!cloud.capabilities().has(lacking), "{lacking:?}");
    }
}

#[tokio::test]
async fn begins_with_as_many_nodes_as_asked() {
    let state = MemoryDriverState::default();
    let cloud = dummy(&state).with_nodes(300);
    let nodes = cloud.nodes().await.unwrap();
    let some: Vec<_> = [0, 1, 254, 255, 299].map(|n| shown(&nodes[n])).into();
    assert_eq!(nodes.len(), 300);
    assert_eq!(
        json!(some),
        json!([
            ["0", "dummy-0", 0, ["127.0.0.1"], [], { "foo": "bar" }],
            ["1", "dummy-1", 0, ["127.0.0.2"], [], { "foo": "bar" }],
            ["254", "dummy-254", 0, ["127.0.0.255"], [], { "foo": "bar" }],
            ["255", "dummy-255", 0, ["127.0.1.0"], [], { "foo": "bar" }],
            ["299", "dummy-299", 0, ["127.0.1.44"], [], { "foo": "bar" }],
        ])
    );
    // The node that has no id in the original can be destroyed here.
    cloud.destroy_node(&nodes[0].reference()).await.unwrap();
    assert_eq!(dummy(&state).with_nodes(7).nodes().await.unwrap().len(), 299, "it has begun already");
}

#[tokio::test]
async fn ids_repeat_and_nodes_stay_apart() {
    let state = MemoryDriverState::default();
    let cloud = process(&state);
    for token in ["a", "b"] {
        cloud.create_node(&wish(&cloud, "x", token).await).await.unwrap();
    }
    let nodes = cloud.nodes().await.unwrap();
    for at in [0, 2, 3] {
        cloud.destroy_node(&nodes[at].reference()).await.unwrap();
    }
    // One is left, that of id 2: the next one's id is 2 again.
    let new = cloud.create_node(&wish(&cloud, "x", "c").await).await.unwrap().node;
    let (old, new) = (nodes[1].reference(), new.reference());
    assert_eq!((old.id.as_str(), new.id.as_str()), ("2", "2"));
    assert_ne!(old.incarnation, new.incarnation);
    let listed: Vec<_> = process(&state).nodes().await.unwrap().iter().map(|n| n.reference()).collect();
    assert_eq!(listed, [old.clone(), new.clone()], "in the order of making, also after a restart");
    cloud.reboot_node(&new).await.unwrap();
    cloud.destroy_node(&old).await.unwrap();
    assert_eq!(cloud.destroy_node(&old).await.unwrap_err().kind, CloudErrorKind::NotFound);
    let left = cloud.nodes().await.unwrap();
    assert_eq!(left.iter().map(|n| (n.reference(), n.state)).collect::<Vec<_>>(), [(new, NodeState::Rebooting)]);
}

#[tokio::test]
async fn nodes_without_a_token_are_each_their_own() {
    let cloud = process(&MemoryDriverState::default());
    for _ in 0..2 {
        let made = cloud.create_node(&wish(&cloud, "x", "").await).await.unwrap();
        assert_eq!(made.node.token, None);
    }
    assert_eq!(cloud.nodes().await.unwrap().len(), 4);
}

/// Documents that a rival process changes just before each of the next writes.
struct Contended {
    inner: MemoryDriverState,
    rival: Arc<dyn CloudDriver>,
    times: AtomicU32,
}

#[async_trait]
impl DriverState for Contended {
    async fn all(&self) -> Result<Arc<Vec<Arc<StateEntry>>>, CloudError> {
        self.inner.all().await
    }

    async fn write(&self, changes: Vec<StateChange>) -> Result<bool, CloudError> {
        let one_less = |times: u32| times.checked_sub(1);
        if let Ok(left) = self.times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) {
            let token = if left % 2 == 0 { "same".to_owned() } else { format!("rival-{left}") };
            self.rival.create_node(&wish(&self.rival, "rival", &token).await).await?;
        }
        self.inner.write(changes).await
    }
}

#[tokio::test]
async fn two_processes_do_not_undo_each_others_work() {
    let inner = MemoryDriverState::default();
    let contended = Arc::new(Contended { rival: process(&inner), inner: inner.clone(), times: AtomicU32::new(3) });
    let cloud: Arc<dyn CloudDriver> = Arc::new(DummyCloud::new(contended, Arc::new(SeededIds::new(77))));
    // The rival begins the cloud first, then makes a node first, then one of the same token.
    let node = cloud.create_node(&wish(&cloud, "x", "same").await).await.unwrap().node;
    let nodes = cloud.nodes().await.unwrap();
    let tokens: Vec<_> = nodes.iter().filter_map(|node| node.token.as_deref()).collect();
    assert_eq!(tokens, ["rival-3", "same"]);
    assert_eq!(nodes.iter().map(|n| n.id.as_str()).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    assert!(nodes.contains(&Arc::new(node)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_make_each_node_once() {
    let state = MemoryDriverState::default();
    let callers: Vec<_> = (0..200)
        .map(|n| {
            // Every caller is a process of its own; tokens come in pairs.
            let cloud = process(&state);
            tokio::spawn(async move {
                let wish = wish(&cloud, "x", &format!("token-{}", n / 2)).await;
                cloud.create_node(&wish).await.map(|made| made.node)
            })
        })
        .collect();
    let mut made = BTreeSet::new();
    for caller in callers {
        made.insert(caller.await.unwrap().unwrap().reference());
    }
    let nodes = process(&state).nodes().await.unwrap();
    let ids: Vec<_> = nodes.iter().map(|node| node.id.clone()).collect();
    assert_eq!(ids, (1..=102).map(|n| n.to_string()).collect::<Vec<_>>(), "the two it begins with, once, and 100");
    assert_eq!(made.len(), 100);
}

#[tokio::test]
async fn a_damaged_document_is_an_error_and_no_shorter_list() {
    let state = MemoryDriverState::default();
    let cloud = process(&state);
    cloud.nodes().await.unwrap();
    let entry = state.all().await.unwrap().iter().find(|e| e.key.starts_with("node-")).unwrap().clone();
    let put = |expected, value| StateChange::Put { key: entry.key.clone(), expected, value };
    assert!(state.write(vec![put(1, json!({ "id": 1 }))]).await.unwrap());
    assert_eq!(cloud.nodes().await.unwrap_err().kind, CloudErrorKind::Malformed);
    assert!(state.write(vec![put(2, entry.value.clone())]).await.unwrap());
    assert_eq!(cloud.nodes().await.unwrap().len(), 2);
}
