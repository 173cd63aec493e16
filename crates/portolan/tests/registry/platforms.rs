//! Platforms.

use super::factories::TOKEN;
use super::*;
use portolan::model::query::{Filter, Page};
use portolan::storage::{Kind, Query, Secured, StorageExt};
use portolan::tasks::TaskQuery;
use portolan_testkit::fake_hypervisor::Call;

pub(crate) async fn wait_for_tasks(world: &World) {
    for _ in 0..10_000 {
        let tasks = world.storage.query(Scope::All, &TaskQuery::default()).await.unwrap().tasks;
        if tasks.iter().all(|t| t.state.is_terminal()) {
            return;
        }
        // Paused time: this lets the engine go on, and costs none.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("tasks do not end");
}

async fn count(world: &World, kind: Kind) -> u64 {
    world.storage.count(Scope::All, kind, &Filter::All).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_platform_works_from_the_moment_it_is_added() {
    let (world, disk) = (World::new(), vec![1; 4096]);
    world.factories.hypervisor("lab").add_vm("web", &[("disk", disk)]);
    let portolan = world.process();
    world.run(&portolan);
    let mut request = fake("Lab", "lab");
    request.settings.insert("token".into(), Secret::new(TOKEN));
    let added = portolan.registry.add_platform(&me(), request).await.unwrap();
    assert!(added.connected && added.problem.is_empty());
    assert_eq!((added.platform.url.as_str(), added.kind.name()), ("fake://lab", "hypervisor"));
    // The engine that was running before takes the first listing on.
    wait_for_tasks(&world).await;
    let vms = portolan.inventory.vms(&me(), Query::default()).await.unwrap().items;
    assert_eq!(vms.iter().map(|v| v.observed.name.as_str()).collect::<Vec<_>>(), ["web"]);
    let shown = portolan.registry.platform(&me(), "LAB").await.unwrap();
    assert!(shown.platform.last_sync.is_some());
    assert_eq!(shown.platform.settings, BTreeMap::from([("root".into(), "lab".into())]));
    let stored = format!("{:?}", world.storage.list_of::<Secured>(Scope::All, Query::default()).await.unwrap());
    let events = world.storage.events(Scope::All, 0, 1000).await.unwrap();
    let event = events.iter().find(|e| e.name == "platform.added").unwrap();
    assert_eq!((event.actor.as_str(), event.subject), ("ann", Some(shown.platform.id.uuid())));
    for seen in [stored, format!("{shown:?}"), format!("{events:?}")] {
        assert!(!seen.contains(TOKEN));
    }
}

#[tokio::test(start_paused = true)]
async fn names_are_unique_and_a_repetition_finds_what_it_made() {
    let (world, key) = (World::new(), caller::RequestKey(uuid::Uuid::from_u128(9)));
    let portolan = world.process();
    let caller = Caller { request: Some(key), ..me() };
    let first = portolan.registry.add_platform(&caller, fake("lab", "a")).await.unwrap();
    assert_eq!(portolan.registry.add_platform(&caller, fake("lab", "a")).await.unwrap(), first);
    conflict(portolan.registry.add_platform(&me(), fake("LAB", "b")).await, "already");
    assert_eq!(count(&world, Kind::Platform).await, 1);
    let (all, total) = portolan.registry.platforms(&me(), Page::ALL).await.unwrap();
    assert_eq!((all, total), (vec![first], 1));
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_or_is_refused_leaves_nothing_behind() {
    let world = World::new();
    let registry = world.process().registry;
    let with = |settings| PlatformRequest { settings, ..fake("lab", "x") };
    invalid(registry.add_platform(&me(), fake("", "x")).await);
    invalid(registry.add_platform(&me(), PlatformRequest { driver: "nope".into(), ..fake("lab", "x") }).await);
    invalid(registry.add_platform(&me(), with(BTreeMap::new())).await);
    invalid(registry.add_platform(&me(), with(settings(&[("root", "x"), ("other", "y")]))).await);
    let refused = registry.add_platform(&me(), with(settings(&[("root", "x"), ("token", "wrong")]))).await;
    assert!(matches!(refused, Err(RegistryError::Driver(portolan::driver::DriverError::Auth))));
    let bound = Caller { scope: Scope::Tenant(TenantId::from_uuid(uuid::Uuid::nil())), ..me() };
    denied(registry.add_platform(&bound, fake("lab", "x")).await);
    denied(registry.add_platform(&Caller { role: Role::Operator, ..me() }, fake("lab", "x")).await);
    assert_eq!((count(&world, Kind::Platform).await, count(&world, Kind::Secured).await), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn every_process_opens_what_one_has_added_and_lets_go_of_what_one_has_removed() {
    let world = World::new();
    let (here, there) = (world.process(), world.process());
    let mut request = fake("lab", "lab");
    request.settings.insert("token".into(), Secret::new(TOKEN));
    let id = here.registry.add_platform(&me(), request).await.unwrap().platform.id;
    assert!(there.hypervisors().get(id).is_err());
    world.factories.refuse(true);
    there.registry.open_all().await.unwrap();
    let shown = there.registry.platform(&me(), "lab").await.unwrap();
    assert!(!shown.connected && shown.problem.contains("out of order"), "{shown:?}");
    world.factories.refuse(false);
    there.registry.open_all().await.unwrap();
    let shown = there.registry.platform(&me(), "lab").await.unwrap();
    assert!(shown.connected && shown.problem.is_empty());
    assert_eq!(there.serves(), [format!("platform:{id}")]);
    here.registry.remove_platform(&me(), "lab", false).await.unwrap();
    there.registry.open_all().await.unwrap();
    assert!(there.hypervisors().get(id).is_err() && there.serves().is_empty());
    assert_eq!(count(&world, Kind::Secured).await, 0, "its secrets went with it");
}

#[tokio::test(start_paused = true)]
async fn a_platform_with_machines_stays_unless_they_are_to_be_forgotten() {
    let world = World::new();
    let portolan = world.process();
    world.factories.hypervisor("lab").add_vm("web", &[("disk", vec![1; 4096])]);
    world.run(&portolan);
    let id = portolan.registry.add_platform(&me(), fake("lab", "lab")).await.unwrap().platform.id;
    wait_for_tasks(&world).await;
    conflict(portolan.registry.remove_platform(&me(), "lab", false).await, "1 machines");
    assert!(portolan.hypervisors().get(id).is_ok(), "a refusal changes nothing");
    portolan.registry.remove_platform(&me(), &id.to_string(), true).await.unwrap();
    for kind in [Kind::Platform, Kind::Vm, Kind::Host, Kind::Cluster, Kind::Datastore] {
        assert_eq!(count(&world, kind).await, 0, "{kind}");
    }
    missing(portolan.registry.remove_platform(&me(), "lab", true).await);
    assert!(world.factories.hypervisor("lab").vm_named("web").is_some(), "the platform itself stays as it is");
    // The name is free again.
    portolan.registry.add_platform(&me(), fake("lab", "lab")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_the_configuration_is_changed_there() {
    let world = World::new();
    let portolan = world.process();
    portolan.registry.add_platform(&me(), fake("lab", "lab")).await.unwrap();
    portolan.registry.settle_declared(&["LAB"], &[]).await.unwrap();
    conflict(portolan.registry.remove_platform(&me(), "lab", true).await, "configuration");
    portolan.registry.settle_declared(&[], &[]).await.unwrap();
    portolan.registry.remove_platform(&me(), "lab", false).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_try_says_what_it_found_or_what_went_wrong() {
    let world = World::new();
    let registry = world.process().registry;
    let lab = world.factories.hypervisor("lab");
    lab.add_vm("web", &[("disk", vec![1; 4096])]);
    registry.add_platform(&me(), fake("lab", "lab")).await.unwrap();
    let good = registry.test_platform(&me(), "lab").await.unwrap();
    assert_eq!((good.found.get("vms"), good.failure), (Some(&1), None));
    lab.fail(Call::Inventory, 1, || portolan::driver::DriverError::Auth);
    let bad = registry.test_platform(&me(), "lab").await.unwrap();
    assert_eq!(bad.failure.unwrap().code, "AUTH");
    // One that is not stored stays so; one that hangs is given up.
    let wrong = PlatformRequest { settings: settings(&[("root", "x"), ("token", "wrong")]), ..fake("", "x") };
    assert_eq!(registry.test_request(&me(), wrong).await.unwrap().failure.unwrap().code, "AUTH");
    let cloud = PlatformRequest { name: "c".into(), driver: "cloudy".into(), settings: BTreeMap::new() };
    assert!(registry.test_request(&me(), cloud).await.unwrap().found.contains_key("locations"));
    assert_eq!(count(&world, Kind::Platform).await, 1);
    let held = lab.hold(Call::Inventory);
    let hung = registry.test_platform(&me(), "lab").await.unwrap();
    assert_eq!((hung.failure.unwrap().code, hung.took.as_secs()), ("TIMEOUT", 30));
    held.release();
    invalid(registry.test_request(&me(), PlatformRequest { driver: "nope".into(), ..fake("x", "x") }).await);
    missing(registry.test_platform(&me(), "nope").await);
    denied(registry.test_platform(&Caller { role: Role::Viewer, ..me() }, "lab").await);
}
