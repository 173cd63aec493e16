//! Machines that run from backups, trials, clones, power and snapshots: over a scripted platform.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use portolan::driver::{DriverError, PowerAction, Readiness};
use portolan::inventory::{InventoryError, NewSnapshot};
use portolan::model::backup::{BackupStatus, BackupType};
use portolan::model::vm::PowerState;
use portolan::model::*;
use portolan::protect::{CloneRequest, InstantRequest, ProtectError, RestoreRequest, TrialRequest, TrialSign};
use portolan::tasks::Task;
use portolan_testkit::fake_hypervisor::Call;
use std::time::Duration;
use world::{World, content, me, restore_of};

async fn backed_up() -> (World, RecoveryPoint) {
    let world = World::new().await;
    world.fake.add_vm("web", &[("disk1", content(1)), ("disk2", content(2))]);
    world.start();
    world.sync().await;
    let point = world.backup(world.vm("web").await.id, BackupType::Full).await;
    (world, point)
}

fn instant(point: RecoveryPointId, name: &str) -> InstantRequest {
    let name = Some(Name::new(name).unwrap());
    InstantRequest { point, destination: None, platform: None, datastore: None, name, priority: 50 }
}

fn trial(point: RecoveryPointId) -> TrialRequest {
    let within = Duration::from_secs(60);
    TrialRequest { point, destination: None, platform: None, sign: TrialSign::Agent, within }
}

fn unreachable() -> DriverError {
    DriverError::Unreachable { reason: "it is away".into(), retry_after: Some(Duration::from_secs(1)) }
}

async fn job(world: &World, id: RestoreJobId) -> RestoreJob {
    let jobs = world.portolan.protect.restore_jobs(&me(), Default::default()).await.unwrap().items;
    jobs.into_iter().map(|j| j.value).find(|j| j.id == id).unwrap()
}

fn end_of(tasks: &[Task], kind: &str) -> Task {
    tasks.iter().find(|t| t.new.kind == kind).unwrap().clone()
}

fn named(world: &World, name: &str) -> usize {
    world.fake.update(|i| i.vms.iter().filter(|v| v.name == name).count())
}

#[tokio::test(start_paused = true)]
async fn a_machine_runs_from_its_backup_before_its_data_is_home() {
    let (world, point) = backed_up().await;
    let hold = world.fake.hold(Call::BringHome);
    let (task, begun) = world.portolan.protect.restore_instantly(&me(), instant(point.id, "again")).await.unwrap();
    hold.arrived(1).await;
    let running = job(&world, begun.id).await;
    assert_eq!((running.status, running.status_info.is_empty()), (BackupStatus::InProgress, false));
    let vm = world.portolan.inventory.vm(&me(), running.target_vm.unwrap()).await.unwrap();
    assert_eq!((vm.observed.name.as_str(), vm.observed.power), ("again", PowerState::Running));
    assert_eq!(world.fake.open_instants().len(), 1);
    hold.release();
    world.wait(task.new.chain).await;
    let ended = job(&world, begun.id).await;
    assert_eq!((ended.status, ended.status_info.as_str()), (BackupStatus::Success, ""));
    assert_eq!(ended.target_vm, running.target_vm);
    for (disk, seed) in [("disk1", 1), ("disk2", 2)] {
        assert_eq!(world.fake.disk(&vm.external.native_id, disk), Some(content(seed)));
    }
    assert!(world.fake.open_instants().is_empty());
    assert_eq!(world.vm("again").await.id, vm.id, "the listing knows the machine that was made");
    world.assert_consistent().await;
}

#[tokio::test(start_paused = true)]
async fn an_instant_restore_goes_on_when_its_process_dies() {
    for call in [Call::BeginInstant, Call::BringHome] {
        let world = World::new().await;
        world.fake.add_vm("web", &[("disk1", content(1))]);
        let first = world.start_as("node-1");
        world.sync().await;
        let point = world.backup(world.vm("web").await.id, BackupType::Full).await;
        let hold = world.fake.hold(call);
        let (task, begun) = world.portolan.protect.restore_instantly(&me(), instant(point.id, "again")).await.unwrap();
        hold.arrived(1).await;
        first.abort();
        hold.release();
        world.start_as("node-2");
        world.wait(task.new.chain).await;
        let ended = job(&world, begun.id).await;
        assert_eq!(ended.status, BackupStatus::Success, "{call:?}: {}", ended.status_info);
        assert_eq!(named(&world, "again"), 1, "{call:?}");
        let made = world.vm("again").await;
        assert_eq!(ended.target_vm, Some(made.id));
        assert_eq!(world.fake.disk(&made.external.native_id, "disk1"), Some(content(1)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_keeps_the_data_away_never_costs_a_machine_that_runs() {
    let (world, point) = backed_up().await;
    // More often than a machine is tried to be brought up, and for reasons that last.
    world.fake.fail_after(Call::BringHome, 2, 30, || DriverError::Conflict("the datastore is full".into()));
    let (task, begun) = world.portolan.protect.restore_instantly(&me(), instant(point.id, "again")).await.unwrap();
    let tasks = world.wait(task.new.chain).await;
    assert_eq!(job(&world, begun.id).await.status, BackupStatus::Success);
    assert!(end_of(&tasks, task_kind::INSTANT_RESTORE).attempt > 30);
    let made = world.vm("again").await;
    assert_eq!(world.fake.disk(&made.external.native_id, "disk2"), Some(content(2)));
}

#[tokio::test(start_paused = true)]
async fn an_instant_restore_that_is_given_up_leaves_nothing() {
    let (world, point) = backed_up().await;
    let protect = &world.portolan.protect;
    let hold = world.fake.hold(Call::BringHome);
    let (task, begun) = protect.restore_instantly(&me(), instant(point.id, "again")).await.unwrap();
    hold.arrived(1).await;
    protect.cancel_task(&me(), task.new.id, "cancelled by a test").await.unwrap();
    world.wait(task.new.chain).await;
    hold.release();
    let ended = job(&world, begun.id).await;
    assert_eq!((ended.status, ended.status_info.as_str()), (BackupStatus::Failed, "cancelled by a test"));
    assert_eq!((named(&world, "again"), world.fake.open_instants().len()), (0, 0));
    world.assert_consistent().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_cannot_be_brought_up_is_a_failed_restore() {
    let (world, point) = backed_up().await;
    let protect = &world.portolan.protect;
    // The name is taken: nothing is replaced.
    let (task, begun) = protect.restore_instantly(&me(), instant(point.id, "web")).await.unwrap();
    world.wait(task.new.chain).await;
    let ended = job(&world, begun.id).await;
    assert_eq!(ended.status, BackupStatus::Failed);
    assert!(ended.status_info.contains("there already"), "{}", ended.status_info);
    // A platform that stays away is tried a bounded number of times.
    world.fake.fail(Call::BeginInstant, u32::MAX, unreachable);
    let (task, begun) = protect.restore_instantly(&me(), instant(point.id, "again")).await.unwrap();
    let tasks = world.wait(task.new.chain).await;
    assert_eq!(job(&world, begun.id).await.status, BackupStatus::Failed);
    assert_eq!(end_of(&tasks, task_kind::INSTANT_RESTORE).attempt, 10);
    assert_eq!(named(&world, "web"), 1);
    world.assert_consistent().await;
    // What the platform cannot do, or has not, is refused at once.
    let elsewhere = InstantRequest { datastore: Some("nowhere".into()), ..instant(point.id, "again") };
    let refused = protect.restore_instantly(&me(), elsewhere).await.unwrap_err();
    assert!(matches!(refused, ProtectError::Invalid(_)), "{refused}");
    world.fake.set_capabilities(Default::default());
    let refused = protect.restore_instantly(&me(), instant(point.id, "again")).await.unwrap_err();
    assert!(matches!(refused, ProtectError::Conflict(_)), "{refused}");
    let refused = protect.try_boot(&me(), trial(point.id)).await.unwrap_err();
    assert!(matches!(refused, ProtectError::Conflict(_)), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_trial_says_on_the_backup_whether_it_boots() {
    let (world, point) = backed_up().await;
    let protect = &world.portolan.protect;
    let before = named(&world, "web");
    let task = protect.try_boot(&me(), trial(point.id)).await.unwrap();
    let tasks = world.wait(task.new.chain).await;
    assert_eq!(end_of(&tasks, task_kind::TRIAL_BOOT).state, TaskState::Succeeded);
    let booted = world.point(point.id).await.trial.unwrap();
    assert_eq!((booted.booted, booted.ready_ms, booted.reason.as_str()), (true, Some(1000), ""));

    let console = "Kernel panic - not syncing".to_owned();
    world.fake.set_readiness(Readiness::Missed { reason: "its agent is silent".into(), console });
    let task = protect.try_boot(&me(), trial(point.id)).await.unwrap();
    let tasks = world.wait(task.new.chain).await;
    let failed = end_of(&tasks, task_kind::TRIAL_BOOT);
    assert_eq!(failed.state, TaskState::Failed);
    assert!(failed.error.contains("agent is silent") && failed.error.contains("Kernel panic"), "{}", failed.error);
    let after = world.point(point.id).await;
    assert_eq!(after.trial.map(|t| (t.booted, t.ready_ms)), Some((false, None)));
    assert_eq!(after.warnings, ["the backup did not boot: its agent is silent"]);

    world.fake.set_readiness(Readiness::Reached(Duration::from_secs(2)));
    let task = protect.try_boot(&me(), trial(point.id)).await.unwrap();
    world.wait(task.new.chain).await;
    assert!(world.point(point.id).await.warnings.is_empty(), "the last trial counts");
    assert_eq!((named(&world, "web"), world.fake.open_instants().len()), (before, 0));
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_is_cut_off_proves_nothing_and_leaves_nothing() {
    let (world, point) = backed_up().await;
    let protect = &world.portolan.protect;
    let hold = world.fake.hold(Call::Ready);
    let task = protect.try_boot(&me(), trial(point.id)).await.unwrap();
    assert_eq!(protect.try_boot(&me(), trial(point.id)).await.unwrap().new.id, task.new.id, "one at a time");
    hold.arrived(1).await;
    protect.cancel_task(&me(), task.new.id, "cancelled").await.unwrap();
    world.wait(task.new.chain).await;
    hold.release();
    assert_eq!((world.point(point.id).await.trial, world.fake.open_instants().len()), (None, 0));
    let bad = TrialRequest { sign: TrialSign::Console("a\nb".into()), ..trial(point.id) };
    assert!(matches!(protect.try_boot(&me(), bad).await, Err(ProtectError::Invalid(_))));
    let bad = TrialRequest { within: Duration::from_secs(4000), ..trial(point.id) };
    assert!(matches!(protect.try_boot(&me(), bad).await, Err(ProtectError::Invalid(_))));
}

fn clone_of(vm: VmId, name: &str) -> CloneRequest {
    CloneRequest { vm, name: Name::new(name).unwrap(), datastore: None, priority: 50 }
}

#[tokio::test(start_paused = true)]
async fn a_clone_is_a_machine_of_its_own_and_of_the_same_tenant() {
    for call in [None, Some(Call::OpenExport), Some(Call::Write), Some(Call::Release), Some(Call::Committed)] {
        let world = World::new().await;
        world.fake.add_vm("web", &[("disk1", content(1)), ("disk2", content(2))]);
        let first = world.start_as("node-1");
        world.sync().await;
        let tenant = world.portolan.access.tenants.create(&me(), "acme", "").await.unwrap().id;
        let vm = world.vm("web").await.id;
        world.portolan.inventory.set_tenant(&me(), vm, Some(tenant)).await.unwrap();
        let hold = call.map(|call| world.fake.hold(call));
        let task = world.portolan.protect.clone_vm(&me(), clone_of(vm, "copy")).await.unwrap();
        if let Some(hold) = hold {
            hold.arrived(1).await;
            first.abort();
            hold.release();
            world.start_as("node-2");
        }
        let tasks = world.wait(task.new.chain).await;
        assert!(tasks.iter().all(|t| t.state == TaskState::Succeeded), "{call:?}: {tasks:?}");
        assert_eq!(named(&world, "copy"), 1, "{call:?}");
        let copy = world.vm("copy").await;
        assert_eq!((copy.settings.tenant, copy.id == vm), (Some(tenant), false));
        for (disk, seed) in [("disk1", 1), ("disk2", 2)] {
            assert_eq!(world.fake.disk(&copy.external.native_id, disk), Some(content(seed)), "{call:?}");
        }
        world.assert_consistent().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_that_fails_leaves_nothing() {
    let world = World::new().await;
    world.fake.add_vm("web", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    let vm = world.vm("web").await.id;
    let protect = &world.portolan.protect;
    let refused = protect.clone_vm(&me(), clone_of(vm, "web")).await.unwrap_err();
    assert!(matches!(refused, ProtectError::Conflict(_)), "{refused}");
    world.fake.fail(Call::Write, 1, || DriverError::Conflict("the datastore is full".into()));
    let task = protect.clone_vm(&me(), clone_of(vm, "copy")).await.unwrap();
    let tasks = world.wait(task.new.chain).await;
    assert_eq!(end_of(&tasks, task_kind::CLONE).state, TaskState::Failed);
    assert_eq!(end_of(&tasks, task_kind::CLONE_CLEANUP).state, TaskState::Succeeded);
    assert_eq!(named(&world, "copy"), 0);
    world.assert_consistent().await;
}

#[tokio::test(start_paused = true)]
async fn power_and_snapshots_are_tasks_and_the_inventory_follows() {
    let world = World::new().await;
    let native = world.fake.add_vm("web", &[("disk1", content(1))]).native_id;
    world.start();
    world.sync().await;
    let (inventory, vm) = (&world.portolan.inventory, world.vm("web").await.id);
    let done = async |task: Task| {
        let tasks = world.wait(task.new.chain).await;
        assert!(tasks.iter().all(|t| t.state == TaskState::Succeeded), "{tasks:?}");
        end_of(&tasks, &task.new.kind).output
    };
    done(inventory.power(&me(), vm, PowerAction::Start).await.unwrap()).await;
    assert_eq!(world.vm("web").await.observed.power, PowerState::Running);
    let wish = NewSnapshot { vm, name: Name::new("before the upgrade").unwrap(), memory: true };
    let made = done(inventory.snapshot(&me(), wish).await.unwrap()).await;
    let snapshot = made["snapshot"].as_str().unwrap().to_owned();
    let there = inventory.snapshots(&me(), vm).await.unwrap();
    assert_eq!(there.iter().map(|s| (s.name.as_str(), s.memory)).collect::<Vec<_>>(), [("before the upgrade", true)]);
    world.fake.write_disk(&native, "disk1", 0, b"upgraded");
    done(inventory.revert(&me(), vm, &snapshot).await.unwrap()).await;
    assert_eq!(world.fake.disk(&native, "disk1"), Some(content(1)));
    done(inventory.remove_snapshot(&me(), vm, &snapshot).await.unwrap()).await;
    assert!(inventory.snapshots(&me(), vm).await.unwrap().is_empty());
    let within = Duration::from_secs(60);
    done(inventory.power(&me(), vm, PowerAction::Shutdown { within }).await.unwrap()).await;
    assert_eq!(world.vm("web").await.observed.power, PowerState::Stopped);

    // What a platform refuses is the task's failure; pressing a button is tried once.
    let task = inventory.power(&me(), vm, PowerAction::Reset).await.unwrap();
    let tasks = world.wait(task.new.chain).await;
    assert!(tasks[0].state == TaskState::Failed && tasks[0].error.contains("is off"), "{tasks:?}");
    world.fake.fail(Call::Power, 2, unreachable);
    done(inventory.power(&me(), vm, PowerAction::Start).await.unwrap()).await;
    world.fake.fail(Call::Power, 1, unreachable);
    let task = inventory.power(&me(), vm, PowerAction::Reset).await.unwrap();
    assert_eq!(world.wait(task.new.chain).await[0].state, TaskState::Failed);

    let other = world.portolan.access.tenants.create(&me(), "other", "").await.unwrap().id;
    let stranger = Caller { scope: Scope::Tenant(other), ..me() };
    let refused = inventory.power(&stranger, vm, PowerAction::Off).await.unwrap_err();
    assert!(matches!(refused, InventoryError::NotFound { .. }), "{refused}");
    world.fake.set_capabilities(Default::default());
    let refused = inventory.power(&me(), vm, PowerAction::Off).await.unwrap_err();
    assert!(matches!(refused, InventoryError::Conflict(_)), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_restore_in_place_turns_the_machine_off_where_it_is_told_to() {
    let (world, point) = backed_up().await;
    let native = world.vm("web").await.external.native_id;
    world.portolan.inventory.power(&me(), world.vm("web").await.id, PowerAction::Start).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.fake.vm(&native).unwrap().power, PowerState::Running);
    let protect = &world.portolan.protect;
    let alone = RestoreRequest { power_off: true, ..restore_of(point.id, "web") };
    assert!(matches!(protect.restore(&me(), alone).await, Err(ProtectError::Invalid(_))));
    world.fake.write_disk(&native, "disk1", 0, b"ruined");
    let calls = world.fake.calls(Call::Power);
    let over = RestoreRequest { overwrite: true, power_off: true, ..restore_of(point.id, "web") };
    let (task, _) = protect.restore(&me(), over).await.unwrap();
    let tasks = world.wait(task.new.chain).await;
    assert!(tasks.iter().all(|t| t.state == TaskState::Succeeded), "{tasks:?}");
    assert_eq!(world.fake.calls(Call::Power), calls + 1);
    let after = world.vm("web").await.external.native_id;
    assert_eq!(world.fake.disk(&after, "disk1"), Some(content(1)));
}

#[tokio::test(start_paused = true)]
async fn a_machine_is_moved_whole_or_stays_where_it_is() {
    for killed in [false, true] {
        let world = World::new().await;
        let native = world.fake.add_vm("web", &[("disk1", content(1)), ("disk2", content(2))]).native_id;
        let more = |i: &mut portolan::driver::Inventory| {
            let fast = portolan::driver::NativeDatastore { native_id: "fast".into(), ..i.datastores[0].clone() };
            i.datastores.push(fast);
        };
        world.fake.update(more);
        let first = world.start_as("node-1");
        world.sync().await;
        let (inventory, vm) = (&world.portolan.inventory, world.vm("web").await.id);
        let places = || {
            let vm = world.fake.vm(&native).unwrap();
            vm.disks.into_iter().map(|d| d.datastore.unwrap_or_default()).collect::<Vec<_>>()
        };
        let before = places();
        let refused = inventory.move_machine(&me(), vm, "nowhere").await.unwrap_err();
        assert!(matches!(refused, InventoryError::Invalid(_)), "{refused}");

        // Given up, and failed: it is where it was.
        let hold = world.fake.hold(Call::Move);
        let task = inventory.move_machine(&me(), vm, "fast").await.unwrap();
        hold.arrived(1).await;
        world.portolan.protect.cancel_task(&me(), task.new.id, "cancelled").await.unwrap();
        world.wait(task.new.chain).await;
        hold.release();
        world.fake.fail_after(Call::Move, 1, 1, || DriverError::Conflict("the datastore is full".into()));
        let task = inventory.move_machine(&me(), vm, "fast").await.unwrap();
        assert_eq!(world.wait(task.new.chain).await[0].state, TaskState::Failed);
        assert_eq!((places(), world.fake.open_moves().len()), (before, 0));

        // Killed in the middle, or not: it gets there.
        let hold = killed.then(|| world.fake.hold(Call::Move));
        let task = inventory.move_machine(&me(), vm, "fast").await.unwrap();
        if let Some(hold) = hold {
            hold.arrived(1).await;
            first.abort();
            hold.release();
            world.start_as("node-2");
        }
        let tasks = world.wait(task.new.chain).await;
        assert!(tasks.iter().all(|t| t.state == TaskState::Succeeded), "{tasks:?}");
        assert_eq!((places(), world.fake.open_moves().len()), (vec!["fast".to_owned(); 2], 0));
        assert_eq!(world.vm("web").await.id, vm, "it is the same machine");
    }
}
