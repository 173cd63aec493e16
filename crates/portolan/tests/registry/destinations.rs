//! Destinations.

use super::*;
use portolan::model::backup::{BackupStatus, BackupType};
use portolan::model::query::{Filter, Page};
use portolan::protect::ExportRequest;
use portolan::registry::{RepositoryPlan, key_owner};
use portolan::repository::{Repository, RepositoryEnv, RepositoryKey};
use portolan::storage::{Kind, Query};
use portolan_testkit::fake_hypervisor::Call;

impl World {
    /// Whether a recovery key opens the repository in a bucket.
    async fn opens(&self, bucket: &str, recovery: &Secret) -> bool {
        let key = RepositoryKey::recovery(recovery.reveal()).unwrap();
        let env = RepositoryEnv { clock: Arc::new(self.clock), ids: self.ids.clone() };
        Repository::open(self.factories.bucket(bucket).unwrap(), env, &key).await.is_ok()
    }

    async fn count(&self, kind: Kind) -> u64 {
        self.storage.count(Scope::All, kind, &Filter::All).await.unwrap()
    }

    /// The one machine of a lab, listed.
    async fn machine(&self, portolan: &Portolan) -> VmId {
        self.factories.hypervisor("lab").add_vm("web", &[("disk", vec![7; 300_000])]);
        self.run(portolan);
        portolan.registry.add_platform(&me(), fake("lab", "lab")).await.unwrap();
        super::platforms::wait_for_tasks(self).await;
        portolan.inventory.vms(&me(), Query::default()).await.unwrap().items.pop().unwrap().id
    }
}

async fn back_up(portolan: &Portolan, vm: VmId) -> RecoveryPointId {
    let request = ExportRequest {
        vms: vec![vm],
        backup_type: BackupType::Full,
        destination: None,
        priority: 50,
        window_start: None,
        window_end: None,
        retries: 0,
    };
    portolan.protect.export(&me(), request).await.unwrap()[0].new.links.point.unwrap()
}

async fn defaults(portolan: &Portolan) -> Vec<String> {
    let (all, _) = portolan.registry.destinations(&me(), Page::ALL).await.unwrap();
    all.into_iter().filter(|d| d.destination.default).map(|d| d.destination.name.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_new_destination_tells_its_recovery_key_once_and_takes_backups() {
    let world = World::new();
    let portolan = world.process();
    let (added, recovery) = portolan.registry.add_destination(&me(), memory("Vault", "b")).await.unwrap();
    let recovery = recovery.unwrap();
    assert!(added.connected && added.destination.default, "the first one is the default");
    assert_eq!((added.destination.url.as_str(), added.destination.declared), ("memory://b", false));
    assert!(world.opens("b", &recovery).await);
    let vm = world.machine(&portolan).await;
    let point = back_up(&portolan, vm).await;
    super::platforms::wait_for_tasks(&world).await;
    assert_eq!(portolan.protect.point(&me(), point).await.unwrap().point.status, BackupStatus::Success);
    let report = portolan.registry.test_destination(&me(), "vault").await.unwrap();
    assert_eq!((report.found.get("points"), report.failure), (Some(&1), None));
    // Another process opens it with the sealed key, at its own time.
    let there = world.process();
    world.factories.refuse(true);
    there.registry.open_all().await.unwrap();
    let shown = there.registry.destination(&me(), "vault").await.unwrap();
    assert!(!shown.connected && shown.problem.contains("out of order"), "{shown:?}");
    assert_eq!(there.registry.test_destination(&me(), "vault").await.unwrap().failure.unwrap().code, "UNREACHABLE");
    world.factories.refuse(false);
    there.registry.open_all().await.unwrap();
    assert!(there.registry.destination(&me(), "vault").await.unwrap().connected);
    let events = format!("{:?}", world.storage.events(Scope::All, 0, 1000).await.unwrap());
    assert!(events.contains("destination.added") && !events.contains(recovery.reveal()));
}

#[tokio::test(start_paused = true)]
async fn the_default_moves_when_it_is_told_to() {
    let world = World::new();
    let portolan = world.process();
    for (name, default) in [("a", None), ("b", None), ("c", Some(true)), ("d", Some(false))] {
        let request = DestinationRequest { default, ..memory(name, name) };
        portolan.registry.add_destination(&me(), request).await.unwrap();
    }
    assert_eq!(defaults(&portolan).await, ["c"]);
    assert!(portolan.registry.set_default(&me(), "B").await.unwrap().destination.default);
    portolan.registry.set_default(&me(), "b").await.unwrap();
    assert_eq!(defaults(&portolan).await, ["b"]);
    conflict(portolan.registry.remove_destination(&me(), "b", true).await, "default");
    portolan.registry.remove_destination(&me(), "a", false).await.unwrap();
    missing(portolan.registry.set_default(&me(), "a").await);
    denied(portolan.registry.set_default(&Caller { role: Role::Operator, ..me() }, "c").await);
}

#[tokio::test(start_paused = true)]
async fn one_name_and_one_place_hold_one_destination() {
    let world = World::new();
    let registry = world.process().registry;
    registry.add_destination(&me(), memory("a", "one")).await.unwrap();
    conflict(registry.add_destination(&me(), memory("A", "two")).await, "already");
    conflict(registry.add_destination(&me(), memory("b", "one")).await, "'a' is there already");
    invalid(registry.add_destination(&me(), DestinationRequest { kind: "tape".into(), ..memory("b", "b") }).await);
    invalid(registry.add_destination(&me(), DestinationRequest { settings: settings(&[]), ..memory("b", "b") }).await);
    let no_key = DestinationRequest { recovery_key: Some(Secret::new("xyz")), ..memory("b", "b") };
    invalid(registry.add_destination(&me(), no_key).await);
    world.factories.refuse(true);
    let out = registry.add_destination(&me(), memory("b", "b")).await;
    assert!(matches!(out, Err(RegistryError::Repository(_))), "{out:?}");
    assert_eq!((world.count(Kind::Destination).await, world.count(Kind::Secured).await), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_destination_with_backups_stays_unless_they_are_to_be_forgotten() {
    let world = World::new();
    let portolan = world.process();
    let (_, recovery) = portolan.registry.add_destination(&me(), memory("vault", "b")).await.unwrap();
    let vm = world.machine(&portolan).await;
    let held = world.factories.hypervisor("lab").hold(Call::OpenExport);
    let point = back_up(&portolan, vm).await;
    held.arrived(1).await;
    conflict(portolan.registry.remove_destination(&me(), "vault", true).await, "unfinished");
    held.release();
    super::platforms::wait_for_tasks(&world).await;
    conflict(portolan.registry.remove_destination(&me(), "vault", false).await, "1 backups");
    assert!(portolan.registry.destination(&me(), "vault").await.unwrap().connected, "a refusal changes nothing");
    portolan.registry.remove_destination(&me(), "vault", true).await.unwrap();
    assert_eq!(portolan.protect.point(&me(), point).await.unwrap().point.status, BackupStatus::SuccessRemoved);
    for kind in [Kind::Destination, Kind::Copy, Kind::Secured, Kind::Setting] {
        assert_eq!(world.count(kind).await, 0, "{kind}");
    }
    // What lies there stays, and is adopted by whoever has the recovery key, under whatever name.
    conflict_or_wrong_key(portolan.registry.add_destination(&me(), memory("again", "b")).await);
    let adopt = DestinationRequest { recovery_key: recovery, ..memory("other", "b") };
    let (_, told) = portolan.registry.add_destination(&me(), adopt).await.unwrap();
    assert!(told.is_none(), "whoever adopted it has a key");
    let report = portolan.registry.test_destination(&me(), "other").await.unwrap();
    assert_eq!(report.found.get("points"), Some(&1));
}

#[track_caller]
fn conflict_or_wrong_key<T: std::fmt::Debug>(result: Result<T, RegistryError>) {
    let wrong = matches!(result, Err(RegistryError::Repository(portolan::repository::RepoError::WrongKey)));
    assert!(wrong, "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn a_crash_on_the_way_leaves_what_the_next_attempt_goes_on_with() {
    let world = World::new();
    let registry = world.process().registry;
    // As far as the repository: its key is sealed, its recovery key was never told.
    let objects = Arc::new(portolan::repository::MemoryObjects::new());
    let plan = RepositoryPlan { name: "vault", objects, make: true, recovery: None };
    let first = registry.open_repository(plan).await.unwrap();
    assert!(first.fresh.is_some() && !first.recoverable);
    let (added, recovery) = registry.add_destination(&me(), memory("vault", "b")).await.unwrap();
    assert_eq!(added.destination.id, first.id, "the sealed key is used");
    assert!(world.opens("b", &recovery.unwrap()).await);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_in_the_place_of_a_repository_that_is_gone() {
    let world = World::new();
    let here = world.process();
    let (added, _) = here.registry.add_destination(&me(), memory("vault", "b")).await.unwrap();
    world.factories.lose_bucket("b").unwrap();
    let there = world.process();
    there.registry.open_all().await.unwrap();
    assert!(!there.registry.destination(&me(), "vault").await.unwrap().connected);
    assert!(world.factories.bucket("b").is_none());
    let empty = Arc::new(portolan::repository::MemoryObjects::new());
    let plan = RepositoryPlan { name: "vault", objects: empty, make: true, recovery: None };
    assert!(there.registry.open_repository(plan).await.is_err(), "also where its place is there and empty");
    assert!(here.access.secrets.find(&key_owner(added.destination.id)).await.unwrap().is_some());
    there.registry.settle_declared(&[], &["Vault"]).await.unwrap();
    conflict(there.registry.remove_destination(&me(), "vault", true).await, "configuration");
}
