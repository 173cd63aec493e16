//! A Portolan in memory over the dummy cloud, which a test may disturb.

use async_trait::async_trait;
use portolan::Portolan;
use portolan::access::{MasterKey, Vault};
use portolan::driver::*;
use portolan::inventory::{CloudRules, InventoryError, NewPlatform, NodeChoice, StartNode, StopNode};
use portolan::model::*;
use portolan::storage::{MemoryStorage, Query, Storage};
use portolan::tasks::{Task, TaskQuery};
use portolan_testkit::clock::SeededIds;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(crate) const SOON: Duration = Duration::from_secs(5);
/// Longer than any task may take.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// The runtime's own time, which stands still until all wait for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PausedClock(tokio::time::Instant);

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_219_200_000) + self.0.elapsed()
    }
}

/// Whether a provider makes a second node of a second wish with the same token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    Remembers,
    Forgets,
}

pub(crate) struct World {
    pub(crate) portolan: Arc<Portolan>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) cloud: PlatformId,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) stop: CancellationToken,
    clock: PausedClock,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn me() -> Caller {
    Caller::system()
}

impl World {
    /// A world whose engine runs.
    pub(crate) async fn running(provider: Provider) -> Self {
        let world = Self::new(provider, Arc::new(MemoryStorage::new())).await;
        world.start_engine("node-1");
        world
    }

    pub(crate) async fn new(provider: Provider, storage: Arc<dyn Storage>) -> Self {
        let cloud = dummy(provider, Arc::new(MemoryDriverState::default()), 11);
        Self::over(storage, Faults::new(cloud), PausedClock(tokio::time::Instant::now()), 7).await
    }

    async fn over(storage: Arc<dyn Storage>, faults: Arc<Faults>, clock: PausedClock, seed: u64) -> Self {
        let ids: Arc<dyn IdSource> = Arc::new(SeededIds::new(seed));
        let vault = Vault::unchecked(MasterKey::generate(&SeededIds::new(1)));
        let rules = CloudRules { alone: true, ..CloudRules::default() };
        let builder = Portolan::builder(Arc::clone(&storage), vault).clock(Arc::new(clock)).ids(ids).clouds(rules);
        let portolan = Arc::new(builder.build().unwrap());
        let driver: Arc<dyn CloudDriver> = faults.clone();
        let registered = portolan.inventory.register_cloud(&me(), new_cloud("fake_driver"), |_| driver).await;
        let cloud = registered.unwrap().id;
        Self { portolan, faults, cloud, storage, stop: CancellationToken::new(), clock }
    }

    /// The next process on the same storage and the same cloud.
    pub(crate) async fn next_process(&self, seed: u64) -> Self {
        Self::over(Arc::clone(&self.storage), Arc::clone(&self.faults), self.clock, seed).await
    }

    /// Starts an engine that a test kills by aborting it.
    pub(crate) fn start_engine(&self, worker: &str) -> tokio::task::JoinHandle<()> {
        let engine = self.portolan.engine(worker).build();
        let stop = self.stop.clone();
        tokio::spawn(async move { engine.run(stop).await })
    }

    pub(crate) fn wish(&self, name: &str, within: Duration) -> StartNode {
        StartNode {
            cloud: self.cloud,
            name: name.into(),
            image: "1".into(),
            size: "1".into(),
            key_pair: None,
            metadata: Extra::new(),
            within,
        }
    }

    pub(crate) async fn start(&self, name: &str, within: Duration) -> Result<CloudNode, InventoryError> {
        self.portolan.inventory.start_node(&me(), self.wish(name, within)).await
    }

    pub(crate) async fn stop(&self, id: &str, within: Duration) -> Result<String, InventoryError> {
        let choice = NodeChoice { id: Some(id.into()), name: None };
        self.portolan.inventory.stop_node(&me(), StopNode { cloud: self.cloud, choice, within }).await
    }

    /// The cloud's nodes, whatever is scripted.
    pub(crate) async fn nodes(&self) -> Vec<Arc<CloudNode>> {
        self.faults.clear();
        self.portolan.inventory.cloud_nodes(&me(), self.cloud).await.unwrap()
    }

    /// The machines that Portolan knows to be there.
    pub(crate) async fn machines(&self, caller: &Caller) -> Vec<VirtualMachine> {
        let all = self.portolan.inventory.vms(caller, Query::default()).await.unwrap().items;
        all.into_iter().map(|s| s.value).filter(|vm| vm.observed.present).collect()
    }

    pub(crate) async fn sync(&self) {
        self.portolan.request_sync(&me(), vec![self.cloud], Vec::new()).await.unwrap();
        self.quiet().await;
    }

    /// Waits until every task has ended; answers all of them.
    pub(crate) async fn quiet(&self) -> Vec<Task> {
        for _ in 0..100_000 {
            let tasks = self.storage.query(Scope::All, &TaskQuery::default()).await.unwrap().tasks;
            if tasks.iter().all(|t| t.state.is_terminal()) {
                return tasks;
            }
            // Paused time: this lets the engine go on, and costs none.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the tasks do not end");
    }

    /// Every node is a machine and every machine a node, one for one.
    pub(crate) async fn assert_no_orphans(&self) {
        let nodes: Vec<NodeRef> = self.nodes().await.iter().map(|n| n.reference()).collect();
        self.sync_if_new(&nodes).await;
        let mut machines: Vec<NodeRef> = self
            .machines(&me())
            .await
            .iter()
            .map(|vm| NodeRef { id: vm.external.native_id.clone(), incarnation: vm.external.incarnation.clone() })
            .collect();
        let mut nodes = nodes;
        nodes.sort();
        machines.sort();
        assert_eq!(nodes, machines);
    }

    /// The two nodes that are there from the beginning are known only after a listing.
    async fn sync_if_new(&self, nodes: &[NodeRef]) {
        let known = self.machines(&me()).await;
        let first: Vec<_> = nodes.iter().filter(|n| n.id == "1" || n.id == "2").collect();
        if first.iter().any(|n| !known.iter().any(|vm| vm.external.incarnation == n.incarnation)) {
            self.sync().await;
        }
    }
}

pub(crate) fn new_cloud(name: &str) -> NewPlatform {
    NewPlatform {
        name: Name::new(name).unwrap(),
        driver: "dummy".into(),
        url: "dummy:".into(),
        settings: Default::default(),
        declared: true,
    }
}

pub(crate) fn dummy(provider: Provider, state: Arc<dyn DriverState>, seed: u64) -> Arc<dyn CloudDriver> {
    let dummy = DummyCloud::new(state, Arc::new(SeededIds::new(seed)));
    match provider {
        Provider::Remembers => Arc::new(dummy),
        Provider::Forgets => Arc::new(Forgetful { inner: dummy, wishes: AtomicU64::new(0) }),
    }
}

/// A provider that makes a node of every wish, and shows the token that it was told.
struct Forgetful {
    inner: DummyCloud,
    wishes: AtomicU64,
}

#[async_trait]
impl CloudDriver for Forgetful {
    fn info(&self) -> CloudInfo {
        self.inner.info()
    }
    fn capabilities(&self) -> CapabilitySet {
        self.inner.capabilities().without(Capability::IdempotentCreate)
    }
    async fn list_nodes(&self, from: Option<&Cursor>) -> Result<CloudPage<Arc<CloudNode>>, CloudError> {
        let mut page = self.inner.list_nodes(from).await?;
        for token in page.items.iter_mut().filter_map(|n| Arc::make_mut(n).token.as_mut()) {
            token.truncate(token.find('#').unwrap_or(token.len()));
        }
        Ok(page)
    }
    async fn create_node(&self, wish: &CreateNode) -> Result<CreatedNode, CloudError> {
        let n = self.wishes.fetch_add(1, Ordering::SeqCst);
        let wish = CreateNode { token: format!("{}#{n}", wish.token), ..wish.clone() };
        self.inner.create_node(&wish).await
    }
    async fn destroy_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        self.inner.destroy_node(node).await
    }
    async fn list_sizes(&self, at: Option<&str>, from: Option<&Cursor>) -> Result<CloudPage<CloudSize>, CloudError> {
        self.inner.list_sizes(at, from).await
    }
    async fn list_images(&self, at: Option<&str>, from: Option<&Cursor>) -> Result<CloudPage<CloudImage>, CloudError> {
        self.inner.list_images(at, from).await
    }
}
