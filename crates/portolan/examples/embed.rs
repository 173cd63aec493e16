//! Portolan inside another program: memory storage, a platform in memory, one backup and its check. No web server,
//! no database.

// An example talks to the person who runs it.
#![allow(clippy::print_stdout)]

use portolan::Portolan;
use portolan::access::{MasterKey, SystemClock, SystemIds, Vault};
use portolan::inventory::NewPlatform;
use portolan::model::backup::BackupType;
use portolan::model::query::Filter;
use portolan::model::{BackupDestinationId, Caller, ChainId, Clock, IdSource, Name, TaskState};
use portolan::protect::{ExportRequest, NewDestination};
use portolan::repository::{MemoryObjects, Repository, RepositoryEnv, RepositoryKey, VerifyDepth};
use portolan::storage::{MemoryStorage, Query};
use portolan::tasks::TaskQuery;
use portolan_testkit::fake_hypervisor::FakeHypervisor;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ids: Arc<dyn IdSource> = Arc::new(SystemIds::new(clock.clone()));

    // Storage, and a vault over a key that lives no longer than this process.
    let vault = Vault::unchecked(MasterKey::generate(&*ids));
    let portolan = Arc::new(
        Portolan::builder(Arc::new(MemoryStorage::new()), vault).clock(clock.clone()).ids(ids.clone()).build()?,
    );
    let me = Caller::system();

    // A platform with one machine. Your own driver implements `portolan::driver::Hypervisor`.
    let platform = FakeHypervisor::new();
    platform.add_vm("web01", &[("disk1", vec![7; 1 << 20])]);
    let lab = NewPlatform {
        name: Name::new("lab")?,
        driver: "fake".into(),
        url: "memory:lab".into(),
        settings: Default::default(),
        declared: false,
    };
    portolan.inventory.register_platform(&me, lab, platform.port()).await?;

    // A destination: a repository over any object store.
    let env = RepositoryEnv { clock, ids: ids.clone() };
    let key = RepositoryKey::generate(&*ids);
    let (repository, _recovery_key) = Repository::create(Arc::new(MemoryObjects::new()), env, &key).await?;
    let vault = NewDestination {
        id: BackupDestinationId::from_uuid(ids.uuid()),
        name: Name::new("vault")?,
        description: String::new(),
        kind: "memory".into(),
        url: "memory:vault".into(),
        default: true,
    };
    portolan.protect.register_destination(&me, vault, Arc::new(repository)).await?;

    // The engine runs the tasks until the token is cancelled.
    let stop = CancellationToken::new();
    let engine = portolan.engine("node-1").build();
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { engine.run(stop).await }
    });

    // Use cases, each with a caller.
    for task in portolan.request_sync(&me, Vec::new(), Vec::new()).await? {
        wait(&portolan, task.new.chain).await?;
    }
    let vm = portolan.inventory.vms(&me, Query::default()).await?.items.remove(0).value;
    let request = ExportRequest {
        vms: vec![vm.id],
        backup_type: BackupType::Full,
        destination: None,
        priority: 50,
        window_start: None,
        window_end: None,
        retries: 0,
    };
    let task = portolan.protect.export(&me, request).await?.remove(0);
    wait(&portolan, task.new.chain).await?;
    let point = task.new.links.point.ok_or("an export names its backup")?;
    let check = portolan.protect.verify(&me, point, None, VerifyDepth::Data).await?;
    wait(&portolan, check.new.chain).await?;
    let view = portolan.protect.point(&me, point).await?;
    println!("{}: {} ({} bytes read)", view.point.name, view.point.status, view.point.size_bytes);

    stop.cancel();
    running.await?;
    Ok(())
}

/// Waits until every task of a chain has ended, and fails unless all went well.
async fn wait(portolan: &Portolan, chain: ChainId) -> Result<(), Box<dyn Error>> {
    let query = TaskQuery { filter: Filter::eq("chain", chain.uuid()), ..TaskQuery::default() };
    loop {
        let tasks = portolan.protect.tasks(&Caller::system(), query.clone()).await?.tasks;
        if let Some(bad) = tasks.iter().find(|t| t.state.is_terminal() && t.state != TaskState::Succeeded) {
            return Err(format!("{} ended as {}: {}", bad.new.kind, bad.state, bad.error).into());
        }
        if tasks.iter().all(|t| t.state.is_terminal()) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
