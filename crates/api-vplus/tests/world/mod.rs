//! What stands behind the dialect in its tests: a whole Portolan in memory over a scripted platform.

// Each test file uses a part of it.
#![allow(dead_code)]

use portolan::Portolan;
use portolan::access::{MasterKey, Vault};
use portolan::inventory::NewPlatform;
use portolan::model::query::Filter;
use portolan::model::*;
use portolan::protect::NewDestination;
use portolan::repository::{MemoryObjects, Repository, RepositoryEnv, RepositoryKey};
use portolan::storage::{MemoryStorage, Query, Storage};
use portolan::tasks::{Task, TaskQuery};
use portolan_testkit::clock::SeededIds;
use portolan_testkit::fake_hypervisor::FakeHypervisor;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(crate) struct World {
    pub(crate) portolan: Arc<Portolan>,
    pub(crate) fake: FakeHypervisor,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The runtime's own time, which stands still until all wait for it.
#[derive(Debug)]
struct PausedClock(tokio::time::Instant);

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_219_200_000) + self.0.elapsed()
    }
}

pub(crate) fn me() -> Caller {
    Caller::system()
}

impl World {
    /// The platform `lab`, the default destination `vault`, and no engine yet.
    pub(crate) async fn new() -> Self {
        Self::on(Arc::new(MemoryStorage::new())).await
    }

    pub(crate) async fn on(storage: Arc<dyn Storage>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(PausedClock(tokio::time::Instant::now()));
        let ids: Arc<dyn IdSource> = Arc::new(SeededIds::new(7));
        let vault = Vault::unchecked(MasterKey::generate(&*ids));
        let portolan = Portolan::builder(storage, vault).clock(clock.clone()).ids(ids.clone()).build().unwrap();
        let fake = FakeHypervisor::new();
        let lab = NewPlatform {
            name: Name::new("lab").unwrap(),
            driver: "fake".into(),
            url: "memory:lab".into(),
            settings: Default::default(),
            declared: false,
        };
        portolan.inventory.register_platform(&me(), lab, fake.port()).await.unwrap();
        let key = RepositoryKey::generate(&*ids);
        let env = RepositoryEnv { clock, ids: ids.clone() };
        let (repository, _) = Repository::create(Arc::new(MemoryObjects::new()), env, &key).await.unwrap();
        let new = NewDestination {
            id: BackupDestinationId::from_uuid(ids.uuid()),
            name: Name::new("vault").unwrap(),
            description: String::new(),
            kind: "memory".into(),
            url: "memory:vault".into(),
            default: true,
        };
        portolan.protect.register_destination(&me(), new, Arc::new(repository)).await.unwrap();
        Self { portolan: Arc::new(portolan), fake, stop: CancellationToken::new() }
    }

    /// Starts an engine; it stops with the world.
    pub(crate) fn start(&self) {
        let engine = self.portolan.engine("node-1").build();
        let stop = self.stop.clone();
        tokio::spawn(async move { engine.run(stop).await });
    }

    /// Stops the engine, so that from now on nothing changes by itself.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        tokio::time::sleep(Duration::from_secs(60)).await;
    }

    /// Syncs the platform, and fails unless that went well.
    pub(crate) async fn sync(&self) {
        let tasks = self.portolan.request_sync(&me(), Vec::new(), Vec::new()).await.unwrap();
        for task in tasks {
            let ended = self.wait(task.new.chain).await;
            assert!(ended.iter().all(|t| t.state == TaskState::Succeeded), "{ended:?}");
        }
    }

    /// Syncs the platform without an engine.
    pub(crate) async fn sync_by_hand(&self) {
        let platforms = self.portolan.inventory.read::<Platform>(&me(), Query::default()).await.unwrap();
        self.portolan.inventory.sync_platform(platforms.items[0].id, None).await.unwrap();
    }

    /// The machine of that name that is present.
    pub(crate) async fn vm(&self, name: &str) -> VirtualMachine {
        let all = self.portolan.inventory.vms(&me(), Query::default()).await.unwrap().items;
        let found = all.into_iter().map(|s| s.value).find(|v| v.observed.name.as_str() == name && v.observed.present);
        found.unwrap_or_else(|| panic!("no machine {name}"))
    }

    /// Waits until every task of a chain has ended, those behind the scenes included.
    pub(crate) async fn wait(&self, chain: ChainId) -> Vec<Task> {
        let query = TaskQuery { filter: Filter::eq("chain", chain.uuid()), ..TaskQuery::default() };
        for _ in 0..100_000 {
            let tasks = self.portolan.storage().query(Scope::All, &query).await.unwrap().tasks;
            if !tasks.is_empty() && tasks.iter().all(|t| t.state.is_terminal()) {
                return tasks;
            }
            // Paused time: this lets the engine go on, and costs none.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the chain does not end");
    }
}

/// A disk with data, holes, and an end that fills no chunk.
pub(crate) fn content(seed: u8) -> Vec<u8> {
    let mut data = vec![0; 3 * 131_072 + 5_000];
    for (i, byte) in data.iter_mut().enumerate() {
        if !(131_072..2 * 131_072).contains(&i) {
            *byte = (i as u64).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed;
        }
    }
    data
}
