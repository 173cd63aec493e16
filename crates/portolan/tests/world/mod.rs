//! A whole Portolan in memory: storage, a scripted platform, a repository over an object store that a test may break.

// Each test file uses a part of it.
#![allow(dead_code, clippy::unwrap_used)]

mod objects;
#[allow(unused_imports)]
pub(crate) use objects::BreakableObjects;

use portolan::Portolan;
use portolan::access::{MasterKey, Vault};
use portolan::inventory::NewPlatform;
use portolan::model::backup::BackupType;
use portolan::model::query::Filter;
use portolan::model::*;
use portolan::protect::{ExportRequest, NewDestination, RestoreRequest};
use portolan::repository::{
    BackupRepository, MemoryObjects, ObjectStore, PointFilter, Repository, RepositoryEnv, RepositoryKey, Unobserved,
    VerifyDepth, VerifyScope,
};
use portolan::storage::{MemoryStorage, Query, Storage};
use portolan::tasks::{ClaimRequest, Done, Task, TaskContext, TaskFailure, TaskQuery, TaskStore};
use portolan_testkit::clock::SeededIds;
use portolan_testkit::fake_hypervisor::FakeHypervisor;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(crate) struct World {
    pub(crate) portolan: Arc<Portolan>,
    pub(crate) fake: FakeHypervisor,
    pub(crate) platform: Platform,
    pub(crate) destination: BackupDestination,
    pub(crate) repository: Arc<Repository>,
    key: RepositoryKey,
    env: RepositoryEnv,
    clock: PausedClock,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The runtime's own time, which stands still until all wait for it.
#[derive(Debug, Clone, Copy)]
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
    /// A world whose engine is not running yet.
    pub(crate) async fn new() -> Self {
        Self::over(Arc::new(MemoryObjects::new())).await
    }

    pub(crate) async fn over(objects: Arc<dyn ObjectStore>) -> Self {
        Self::on(objects, Arc::new(MemoryStorage::new())).await
    }

    pub(crate) async fn on(objects: Arc<dyn ObjectStore>, storage: Arc<dyn Storage>) -> Self {
        let paused = PausedClock(tokio::time::Instant::now());
        let clock: Arc<dyn Clock> = Arc::new(paused);
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
        let platform = portolan.inventory.register_platform(&me(), lab, fake.port()).await.unwrap();
        let key = RepositoryKey::generate(&*ids);
        let env = RepositoryEnv { clock, ids: ids.clone() };
        let (repository, _) = Repository::create(objects, env.clone(), &key).await.unwrap();
        let repository = Arc::new(repository);
        let new = NewDestination {
            id: BackupDestinationId::from_uuid(ids.uuid()),
            name: Name::new("vault").unwrap(),
            description: String::new(),
            kind: "memory".into(),
            url: "memory:vault".into(),
            default: true,
        };
        let destination = portolan.protect.register_destination(&me(), new, repository.clone()).await.unwrap();
        let stop = CancellationToken::new();
        Self { portolan: Arc::new(portolan), fake, platform, destination, repository, key, env, clock: paused, stop }
    }

    /// Starts an engine; dropped with the world.
    pub(crate) fn start(&self) {
        self.start_as("node-1");
    }

    /// Starts an engine that a test kills by aborting it.
    pub(crate) fn start_as(&self, worker: &str) -> tokio::task::JoinHandle<()> {
        let engine = self.portolan.engine(worker).build();
        let stop = self.stop.clone();
        tokio::spawn(async move { engine.run(stop).await })
    }

    /// Opens the repository anew, as another process would.
    pub(crate) async fn reopen(&mut self, objects: Arc<dyn ObjectStore>) {
        let repository = Arc::new(Repository::open(objects, self.env.clone(), &self.key).await.unwrap());
        self.portolan.repositories().insert(self.destination.id, repository.clone());
        self.repository = repository;
    }

    /// Claims the one task that is ready, as a worker that nothing tells to stop.
    pub(crate) async fn claim(&self, kind: &str) -> TaskContext {
        let request = ClaimRequest {
            worker: "zombie".into(),
            kinds: vec![kind.into()],
            serves: self.portolan.serves(),
            limit: 1,
            lease: Duration::from_secs(30),
        };
        let claimed = self.portolan.storage().claim(self.portolan.now(), request).await.unwrap().remove(0);
        let store: Arc<dyn TaskStore> = self.portolan.storage().clone();
        TaskContext::new(store, Arc::new(*self.clock()), claimed)
    }

    /// Runs the handler of a claimed task.
    pub(crate) fn run(&self, ctx: TaskContext) -> tokio::task::JoinHandle<Result<Done, TaskFailure>> {
        let handlers = portolan::protect::handlers(&self.portolan.protect);
        let handler = handlers.into_iter().find(|h| h.kind() == ctx.task().new.kind).unwrap();
        tokio::spawn(async move { handler.run(&ctx).await })
    }

    fn clock(&self) -> &PausedClock {
        &self.clock
    }

    /// Every backup is either a success that the repository has, or a failure that it has not; nothing is open.
    pub(crate) async fn assert_consistent(&self) {
        let (rows, _) = self.portolan.protect.points(&me(), Default::default()).await.unwrap();
        assert!(rows.iter().all(|r| !r.point.status.is_open()), "{rows:?}");
        let mut good: Vec<_> = rows.iter().filter(|r| r.point.status.is_restorable()).map(|r| r.point.id).collect();
        let stored = self.repository.points(PointFilter::default()).await.unwrap();
        let mut stored: Vec<_> = stored.iter().map(|p| p.id).collect();
        good.sort();
        stored.sort();
        assert_eq!(good, stored);
        let report = self.repository.verify(VerifyScope::All, VerifyDepth::Data, &Unobserved).await.unwrap();
        assert!(report.damage.is_empty(), "{report:?}");
        assert!(self.fake.open_exports().is_empty(), "an export stays open");
        assert!(self.fake.pending_imports().is_empty(), "an import stays");
        let jobs = self.portolan.protect.restore_jobs(&me(), Query::default()).await.unwrap().items;
        assert!(jobs.iter().all(|j| !j.status.is_open()));
    }

    /// Syncs the platform, and fails unless that went well.
    pub(crate) async fn sync(&self) {
        let tasks = self.portolan.request_sync(&me(), Vec::new(), Vec::new()).await.unwrap();
        for task in tasks {
            let ended = self.wait(task.new.chain).await;
            assert!(ended.iter().all(|t| t.state == TaskState::Succeeded), "{ended:?}");
        }
    }

    /// The machine of that name that is present.
    pub(crate) async fn vm(&self, name: &str) -> VirtualMachine {
        self.try_vm(name).await.unwrap_or_else(|| panic!("no machine {name}"))
    }

    pub(crate) async fn try_vm(&self, name: &str) -> Option<VirtualMachine> {
        let all = self.portolan.inventory.vms(&me(), Query::default()).await.unwrap().items;
        all.into_iter().map(|s| s.value).find(|v| v.observed.name.as_str() == name && v.observed.present)
    }

    /// Asks for a backup.
    pub(crate) async fn export(&self, vm: VmId, backup_type: BackupType) -> Task {
        self.portolan.protect.export(&me(), request(vm, backup_type)).await.unwrap().remove(0)
    }

    /// Backs up and answers the point as it is in the end.
    pub(crate) async fn backup(&self, vm: VmId, backup_type: BackupType) -> RecoveryPoint {
        let task = self.export(vm, backup_type).await;
        self.wait(task.new.chain).await;
        self.point(task.new.links.point.unwrap()).await
    }

    pub(crate) async fn point(&self, id: RecoveryPointId) -> RecoveryPoint {
        self.portolan.protect.point(&me(), id).await.unwrap().point
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

pub(crate) fn request(vm: VmId, backup_type: BackupType) -> ExportRequest {
    ExportRequest {
        vms: vec![vm],
        backup_type,
        destination: None,
        priority: 50,
        window_start: None,
        window_end: None,
        retries: 0,
    }
}

pub(crate) fn restore_of(point: RecoveryPointId, name: &str) -> RestoreRequest {
    RestoreRequest {
        point,
        destination: None,
        platform: None,
        host: None,
        cluster: None,
        datastore: None,
        name: Some(Name::new(name).unwrap()),
        overwrite: false,
        power_off: false,
        disks: Vec::new(),
        priority: 50,
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
