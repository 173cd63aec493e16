//! Killed at every step, or woken up after another took over: chains end, once, and leave nothing behind.

mod world;

use portolan::driver::DriverError;
use portolan::model::backup::{BackupStatus, BackupType, CopyStatus};
use portolan::model::*;
use portolan::repository::{MemoryObjects, ObjectStore};
use portolan::storage::MemoryStorage;
use portolan::tasks::TaskQuery;
use portolan_testkit::fake_hypervisor::Call;
use portolan_testkit::storage::{Fault, FaultyStorage};
use std::sync::Arc;
use std::time::Duration;
use world::{BreakableObjects, World, content, me, restore_of};

const EXPORT_CALLS: [Call; 4] = [Call::OpenExport, Call::Extents, Call::Read, Call::Release];
const RESTORE_CALLS: [Call; 6] =
    [Call::BeginImport, Call::Disk, Call::Write, Call::Flush, Call::Commit, Call::Committed];

fn machines(world: &World, name: &str) -> usize {
    world.fake.update(|i| i.vms.iter().filter(|v| v.name == name).count())
}

#[tokio::test(start_paused = true)]
async fn an_export_that_is_killed_anywhere_goes_on_elsewhere() {
    for call in EXPORT_CALLS {
        for holds_moments in [true, false] {
            let world = World::new().await;
            let native = world.fake.add_vm("web01", &[("disk1", content(1)), ("disk2", content(2))]);
            world.fake.set_holds_moments(holds_moments);
            let first = world.start_as("node-1");
            world.sync().await;
            let vm = world.vm("web01").await;
            let hold = world.fake.hold(call);
            let task = world.export(vm.id, BackupType::Full).await;
            hold.arrived(1).await;
            first.abort();
            world.fake.write_disk(&native.native_id, "disk1", 7, b"meanwhile");
            hold.release();
            world.start_as("node-2");
            world.wait(task.new.chain).await;
            let point = world.point(task.new.links.point.unwrap()).await;
            assert_eq!(point.status, BackupStatus::Success, "{call:?}: {}", point.status_info);
            assert_eq!(world.vm("web01").await.protection.backups, 1);
            world.assert_consistent().await;

            let (restore, _) = world.portolan.protect.restore(&me(), restore_of(point.id, "copy")).await.unwrap();
            world.wait(restore.new.chain).await;
            let copy = world.vm("copy").await.external.native_id;
            let mut after = content(1);
            after[7..16].copy_from_slice(b"meanwhile");
            let got = world.fake.disk(&copy, "disk1").unwrap();
            assert!(got == content(1) || got == after, "{call:?}: the content of one moment");
            assert_eq!(world.fake.disk(&copy, "disk2"), Some(content(2)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_is_killed_anywhere_makes_one_machine() {
    for call in RESTORE_CALLS {
        let world = World::new().await;
        world.fake.add_vm("web01", &[("disk1", content(1))]);
        let first = world.start_as("node-1");
        world.sync().await;
        let point = world.backup(world.vm("web01").await.id, BackupType::Full).await;
        let hold = world.fake.hold(call);
        let (task, job) = world.portolan.protect.restore(&me(), restore_of(point.id, "copy")).await.unwrap();
        hold.arrived(1).await;
        first.abort();
        hold.release();
        world.start_as("node-2");
        world.wait(task.new.chain).await;
        assert_eq!(machines(&world, "copy"), 1, "{call:?}");
        let copy = world.vm("copy").await;
        assert_eq!(world.fake.disk(&copy.external.native_id, "disk1"), Some(content(1)));
        let jobs = world.portolan.protect.restore_jobs(&me(), Default::default()).await.unwrap().items;
        let job = jobs.into_iter().find(|j| j.id == job.id).unwrap();
        assert_eq!((job.status, job.target_vm), (BackupStatus::Success, Some(copy.id)), "{call:?}");
        world.assert_consistent().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_chain_stops_wherever_it_hangs_and_is_cleaned_up() {
    for call in EXPORT_CALLS.into_iter().chain(RESTORE_CALLS) {
        let world = World::new().await;
        world.fake.add_vm("web01", &[("disk1", content(1))]);
        world.start();
        world.sync().await;
        let vm = world.vm("web01").await.id;
        let restores = RESTORE_CALLS.contains(&call);
        let base = if restores { Some(world.backup(vm, BackupType::Full).await.id) } else { None };
        let hold = world.fake.hold(call);
        let chain = match base {
            Some(point) => world.portolan.protect.restore(&me(), restore_of(point, "copy")).await.unwrap().0.new.chain,
            None => world.export(vm, BackupType::Full).await.new.chain,
        };
        hold.arrived(1).await;
        assert_eq!(world.portolan.protect.cancel_running(&me()).await.unwrap(), 1);
        // Work that must not be cut off goes on until the platform answers; all other is over by the next beats.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let running = portolan::model::query::Filter::eq("chain", chain.uuid());
        let tasks = world.portolan.protect.tasks(&me(), TaskQuery { filter: running, ..Default::default() }).await;
        let firm = matches!(call, Call::Release | Call::Commit | Call::Committed | Call::BeginImport);
        if !firm {
            let tasks = tasks.unwrap().tasks;
            assert!(tasks.iter().all(|t| t.state == TaskState::Cancelled), "{call:?}: {tasks:?}");
        }
        hold.release();
        world.wait(chain).await;
        world.assert_consistent().await;
        let jobs = world.portolan.protect.restore_jobs(&me(), Default::default()).await.unwrap().items;
        match jobs.first() {
            Some(job) => {
                let made = usize::from(job.status == BackupStatus::Success);
                assert_eq!(machines(&world, "copy"), made, "{call:?}: a job that failed has no machine");
            }
            None => assert!(!restores),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_at_any_unit_changes_no_end() {
    for fault in [Fault::Before, Fault::After] {
        for k in 1..=12 {
            let storage = Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new())));
            let world = World::on(Arc::new(MemoryObjects::new()), storage.clone()).await;
            world.fake.add_vm("web01", &[("disk1", content(1))]);
            world.start();
            world.sync().await;
            let vm = world.vm("web01").await;
            let task = world.export(vm.id, BackupType::Full).await;
            storage.fail_at(k, fault);
            world.wait(task.new.chain).await;
            let point = world.point(task.new.links.point.unwrap()).await;
            assert_eq!(point.status, BackupStatus::Success, "{fault:?} {k}: {}", point.status_info);
            let Ok((restore, _)) = world.portolan.protect.restore(&me(), restore_of(point.id, "copy")).await else {
                continue;
            };
            world.wait(restore.new.chain).await;
            assert_eq!(machines(&world, "copy"), 1, "{fault:?} {k}");
            assert_eq!(world.vm("web01").await.protection.backups, 1, "{fault:?} {k}: noted once");
            world.assert_consistent().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_at_any_object_is_succeeded_by_another() {
    for after in [false, true] {
        for k in 1.. {
            let objects = Arc::new(BreakableObjects::new());
            let mut world = World::over(objects.clone()).await;
            world.fake.add_vm("web01", &[("disk1", content(1))]);
            let first = world.start_as("node-1");
            world.sync().await;
            let vm = world.vm("web01").await;
            let task = world.export(vm.id, BackupType::Full).await;
            objects.break_at(k, after);
            let broke = tokio::select! {
                () = objects.broke.notified() => true,
                _ = world.wait(task.new.chain) => false,
            };
            first.abort();
            objects.set_down(false);
            world.reopen(objects.clone()).await;
            world.start_as("node-2");
            world.wait(task.new.chain).await;
            assert_eq!(world.point(task.new.links.point.unwrap()).await.status, BackupStatus::Success, "{k} {after}");
            world.assert_consistent().await;
            if !broke {
                assert!(k > 10, "{k}");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_fails_while_its_repository_is_down_says_so_and_is_cleaned_up_later() {
    let objects = Arc::new(BreakableObjects::new());
    let world = World::over(objects.clone()).await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    let hold = world.fake.hold(Call::Read);
    let task = world.export(world.vm("web01").await.id, BackupType::Full).await;
    hold.arrived(1).await;
    world.portolan.protect.cancel_task(&me(), task.new.id, "never mind").await.unwrap();
    objects.set_down(true);
    hold.release();
    tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
    let id = task.new.links.point.unwrap();
    let point = world.point(id).await;
    assert_eq!((point.status, point.status_info.as_str()), (BackupStatus::Failed, "never mind"));
    assert!(point.warnings.len() == 1 && point.warnings[0].contains("cannot be removed"), "{:?}", point.warnings);
    let filter = portolan::model::query::Filter::eq("chain", task.new.chain.uuid());
    let tasks = world.portolan.storage().query(Scope::All, &TaskQuery { filter, ..Default::default() }).await.unwrap();
    let sweep = tasks.tasks.into_iter().find(|t| !t.state.is_terminal()).unwrap();
    assert!(sweep.attempt < 100, "it does not spin: {}", sweep.attempt);
    // Nobody stops it, either.
    assert!(world.portolan.protect.cancel_task(&me(), sweep.new.id, "").await.is_err());

    objects.set_down(false);
    world.wait(task.new.chain).await;
    assert!(world.point(id).await.warnings.is_empty());
    world.assert_consistent().await;
}

#[tokio::test(start_paused = true)]
async fn an_export_that_wakes_up_after_a_takeover_changes_nothing() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    let first = world.start_as("node-1");
    world.sync().await;
    first.abort();
    let task = world.export(world.vm("web01").await.id, BackupType::Full).await;
    let hold = world.fake.hold(Call::Extents);
    let zombie = world.run(world.claim(task_kind::EXPORT).await);
    hold.arrived(1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.start_as("node-2");
    hold.arrived(2).await;
    hold.release();
    let ended = world.wait(task.new.chain).await;
    assert!(zombie.await.unwrap().unwrap_err().lost);
    assert_eq!(ended.len(), 2, "{ended:?}");
    assert_eq!(world.point(task.new.links.point.unwrap()).await.status, BackupStatus::Success);
    world.assert_consistent().await;
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_wakes_up_after_the_chain_failed_leaves_no_point() {
    let objects = Arc::new(BreakableObjects::new());
    let world = World::over(objects.clone()).await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    let first = world.start_as("node-1");
    world.sync().await;
    let hold = world.fake.hold(Call::Release);
    let task = world.export(world.vm("web01").await.id, BackupType::Full).await;
    hold.arrived(1).await;
    first.abort();
    hold.release();
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.portolan.storage().sweep(world.portolan.now(), 10).await.unwrap();
    world.run(world.claim(task_kind::EXPORT).await).await.unwrap().unwrap();

    objects.hold("points/");
    let ctx = world.claim(task_kind::STORE).await;
    let store = ctx.task().new.id;
    let zombie = world.run(ctx);
    objects.arrived.subscribe().wait_for(|n| *n == 1).await.unwrap();
    objects.no_more();
    world.portolan.protect.cancel_task(&me(), store, "too slow").await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.start_as("node-2");
    world.wait(task.new.chain).await;
    objects.let_go();
    assert!(zombie.await.unwrap().unwrap_err().lost);
    let view = world.portolan.protect.point(&me(), task.new.links.point.unwrap()).await.unwrap();
    assert_eq!((view.point.status, view.point.status_info.as_str()), (BackupStatus::Failed, "too slow"));
    assert_eq!(view.copies[0].status, CopyStatus::Failed);
    world.assert_consistent().await;
}

#[tokio::test(start_paused = true)]
async fn a_restore_whose_answer_never_comes_says_that_the_machine_may_be_there() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    let point = world.backup(world.vm("web01").await.id, BackupType::Full).await;
    world
        .fake
        .fail(Call::Committed, u32::MAX, || DriverError::Unreachable { reason: "gone".into(), retry_after: None });
    let (task, _) = world.portolan.protect.restore(&me(), restore_of(point.id, "copy")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    world.wait(task.new.chain).await;
    let job = world.portolan.protect.restore_jobs(&me(), Default::default()).await.unwrap().items.remove(0);
    assert_eq!(job.status, BackupStatus::Failed);
    assert!(job.status_info.contains("all the same"), "{}", job.status_info);
    assert!(world.try_vm("copy").await.is_some(), "a sync has listed it");
    world.assert_consistent().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_restore_wrote_is_dropped_also_when_the_backup_is_gone() {
    let objects = Arc::new(BreakableObjects::new());
    let world = World::over(objects.clone()).await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    let point = world.backup(world.vm("web01").await.id, BackupType::Full).await;
    let hold = world.fake.hold(Call::Write);
    let (task, _) = world.portolan.protect.restore(&me(), restore_of(point.id, "copy")).await.unwrap();
    hold.arrived(1).await;
    objects.delete(&format!("points/{}", point.id)).await.unwrap();
    world.portolan.protect.cancel_task(&me(), task.new.id, "").await.unwrap();
    hold.release();
    world.wait(task.new.chain).await;
    assert!(world.fake.pending_imports().is_empty());
}
