//! Backup, verify and restore over ports in memory.

mod world;

use portolan::driver::{Capabilities, DriverError};
use portolan::model::backup::{BackupStatus, BackupType, CopyStatus};
use portolan::model::*;
use portolan::protect::{DiskTarget, ExportRequest, ProtectError, RestoreRequest};
use portolan::repository::{BackupRepository, PointFilter, VerifyDepth};
use portolan::tasks::Task;
use portolan_testkit::fake_hypervisor::Call;
use world::{World, content, me, request, restore_of};

/// A platform that says what changed.
const TRACKING: Capabilities = Capabilities {
    changed_blocks: true,
    live_export: true,
    import: true,
    power: false,
    snapshots: false,
    instant: false,
    moves: false,
};

fn kinds(tasks: &[Task]) -> Vec<&str> {
    let mut kinds: Vec<&str> = tasks.iter().map(|t| t.new.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds
}

#[tokio::test(start_paused = true)]
async fn a_machine_is_backed_up_changed_backed_up_verified_and_restored() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1)), ("disk2", content(2))]);
    world.start();
    world.sync().await;
    let vm = world.vm("web01").await;

    let full = world.backup(vm.id, BackupType::Full).await;
    assert_eq!((full.status, full.backup_type), (BackupStatus::Success, BackupType::Full));
    assert_eq!(full.disks.len(), 2);
    let copies = world.portolan.protect.point(&me(), full.id).await.unwrap().copies;
    assert_eq!(copies.iter().map(|c| c.status).collect::<Vec<_>>(), [CopyStatus::Present]);

    world.fake.write_disk(&vm.external.native_id, "disk1", 131_072 + 17, b"changed");
    let incremental = world.backup(vm.id, BackupType::Incremental).await;
    assert_eq!(incremental.backup_type, BackupType::Incremental, "{}", incremental.status_info);
    assert_eq!(incremental.parent, Some(full.id));
    assert_eq!(incremental.size_bytes, 131_072, "one chunk has changed");

    let check = world.portolan.protect.verify(&me(), incremental.id, None, VerifyDepth::Data).await.unwrap();
    let ended = world.wait(check.new.chain).await;
    assert_eq!(ended[0].state, TaskState::Succeeded, "{}", ended[0].error);
    assert!(world.point(incremental.id).await.last_verified.is_some());

    for (point, name) in [(full.id, "old"), (incremental.id, "new")] {
        let (task, job) = world.portolan.protect.restore(&me(), restore_of(point, name)).await.unwrap();
        let ended = world.wait(task.new.chain).await;
        assert_eq!(kinds(&ended), ["import", "inventory-sync", "restore"]);
        let jobs = world.portolan.protect.restore_jobs(&me(), Default::default()).await.unwrap().items;
        assert!(jobs.iter().any(|j| j.id == job.id && j.status == BackupStatus::Success));
    }
    let (old, new) = (world.vm("old").await, world.vm("new").await);
    assert_eq!(world.fake.disk(&old.external.native_id, "disk1"), Some(content(1)));
    let mut changed = content(1);
    changed[131_072 + 17..131_072 + 24].copy_from_slice(b"changed");
    assert_eq!(world.fake.disk(&new.external.native_id, "disk1"), Some(changed));
    assert_eq!(world.fake.disk(&new.external.native_id, "disk2"), Some(content(2)));

    let vm = world.vm("web01").await;
    assert_eq!((vm.protection.backups, vm.protection.last_full), (2, Some(full.id)));
}

#[tokio::test(start_paused = true)]
async fn an_increment_without_a_base_is_full_and_says_why() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    let point = world.backup(world.vm("web01").await.id, BackupType::Incremental).await;
    assert_eq!((point.status, point.backup_type), (BackupStatus::Success, BackupType::Full));
    assert!(point.status_info.contains("no earlier one"), "{}", point.status_info);
}

#[tokio::test(start_paused = true)]
async fn a_backup_says_how_the_machine_was_brought_to_rest_and_what_had_to_be_read_in_full() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    let vm = world.vm("web01").await.id;
    world.fake.set_capabilities(TRACKING);
    world.fake.set_rest(Consistency::Default, Some(std::time::Duration::from_millis(250)), &[]);
    let full = world.backup(vm, BackupType::Full).await;
    assert_eq!((full.consistency, full.frozen_ms, full.warnings.len()), (Consistency::Default, Some(250), 0));
    assert!(full.checkpoint.is_some());
    world.fake.forget_checkpoints();
    world.fake.set_rest(Consistency::None, None, &["the guest agent is silent"]);
    let next = world.backup(vm, BackupType::Incremental).await;
    assert_eq!((next.status, next.backup_type), (BackupStatus::Success, BackupType::Incremental));
    assert_eq!((next.consistency, next.frozen_ms), (Consistency::None, None));
    assert_eq!(next.warnings, ["the guest agent is silent"]);
    assert!(next.status_info.contains("'disk1' was read in full: its checkpoint is gone"), "{}", next.status_info);
    assert_eq!(next.size_bytes, 0, "what was read in full is compared with the parent all the same");
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_goes_only_after_a_later_backup_is_committed() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    let vm = world.vm("web01").await.id;
    world.fake.set_capabilities(TRACKING);
    let first = world.backup(vm, BackupType::Full).await.checkpoint.unwrap();
    world.fake.fail(Call::Read, u32::MAX, || DriverError::Malformed("bad sector".into()));
    let failed = world.backup(vm, BackupType::Full).await;
    assert_eq!(failed.status, BackupStatus::Failed);
    assert_eq!(
        world.fake.checkpoints(),
        std::slice::from_ref(&first),
        "a backup that failed leaves the one before alone"
    );
    world.fake.heal();
    let second = world.backup(vm, BackupType::Incremental).await;
    assert_eq!(second.backup_type, BackupType::Incremental);
    assert!(second.status_info.is_empty(), "{}", second.status_info);
    // The next export is told which ones are still good for something.
    let third = world.backup(vm, BackupType::Incremental).await;
    let mut left = vec![second.checkpoint.unwrap(), third.checkpoint.unwrap()];
    left.sort_unstable();
    assert_eq!(world.fake.checkpoints(), left);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_cannot_be_read_fails_the_backup_and_leaves_no_point() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    world.fake.fail(Call::Read, u32::MAX, || DriverError::Malformed("bad sector".into()));
    let point = world.backup(world.vm("web01").await.id, BackupType::Full).await;
    assert_eq!(point.status, BackupStatus::Failed);
    assert!(!point.status_info.is_empty());
    let copies = world.portolan.protect.point(&me(), point.id).await.unwrap().copies;
    assert_eq!(copies[0].status, CopyStatus::Failed);
    assert!(world.repository.points(PointFilter::default()).await.unwrap().is_empty());
    assert!(world.fake.open_exports().is_empty(), "the export was let go of");

    world.fake.heal();
    let point = world.backup(world.vm("web01").await.id, BackupType::Full).await;
    assert_eq!(point.status, BackupStatus::Success, "{}", point.status_info);
}

#[tokio::test(start_paused = true)]
async fn a_failed_link_is_followed_by_as_many_copies_as_were_asked_for() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    world.fake.fail(Call::OpenExport, 2, || DriverError::Malformed("not now".into()));
    let vm = world.vm("web01").await;
    let request = ExportRequest { retries: 2, ..request(vm.id, BackupType::Full) };
    let task = world.portolan.protect.export(&me(), request).await.unwrap().remove(0);
    let ended = world.wait(task.new.chain).await;
    assert_eq!(kinds(&ended), ["export", "export", "export", "store"]);
    assert_eq!(world.point(task.new.links.point.unwrap()).await.status, BackupStatus::Success);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_cancelled_while_it_waits_fails_its_backup() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    let vm = world.vm("web01").await;
    let later = world.portolan.now() + std::time::Duration::from_secs(3600);
    let request = ExportRequest { window_start: Some(later), ..request(vm.id, BackupType::Full) };
    let task = world.portolan.protect.export(&me(), request).await.unwrap().remove(0);
    world.portolan.protect.cancel_task(&me(), task.new.id, "never mind").await.unwrap();
    world.wait(task.new.chain).await;
    let point = world.point(task.new.links.point.unwrap()).await;
    assert_eq!((point.status, point.status_info.as_str()), (BackupStatus::Failed, "never mind"));
}

#[tokio::test(start_paused = true)]
async fn a_window_that_closes_fails_the_backup() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    let hold = world.fake.hold(Call::OpenExport);
    let vm = world.vm("web01").await;
    // The first export holds the machine's only place, so that the second one cannot start in its window.
    let first = world.export(vm.id, BackupType::Full).await;
    hold.arrived(1).await;
    let end = world.portolan.now() + std::time::Duration::from_secs(60);
    let second = ExportRequest { window_end: Some(end), ..request(vm.id, BackupType::Full) };
    let second = world.portolan.protect.export(&me(), second).await.unwrap().remove(0);
    let ended = world.wait(second.new.chain).await;
    assert!(ended.iter().any(|t| t.state == TaskState::Expired), "{ended:?}");
    assert_eq!(world.point(second.new.links.point.unwrap()).await.status, BackupStatus::Failed);
    hold.release();
    world.wait(first.new.chain).await;
    assert_eq!(world.point(first.new.links.point.unwrap()).await.status, BackupStatus::Success);
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_cannot_finish_leaves_nothing_behind() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    let point = world.backup(world.vm("web01").await.id, BackupType::Full).await;
    world.fake.fail(Call::Commit, u32::MAX, || DriverError::Conflict("the name is taken".into()));
    let (task, job) = world.portolan.protect.restore(&me(), restore_of(point.id, "copy")).await.unwrap();
    world.wait(task.new.chain).await;
    let jobs = world.portolan.protect.restore_jobs(&me(), Default::default()).await.unwrap().items;
    let job = jobs.into_iter().find(|j| j.id == job.id).unwrap().value;
    assert_eq!((job.status, job.status_info.as_str()), (BackupStatus::Failed, "the name is taken"));
    assert!(world.fake.pending_imports().is_empty());
    assert!(world.try_vm("copy").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_import_whose_answer_is_lost_makes_one_machine() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    let point = world.backup(world.vm("web01").await.id, BackupType::Full).await;
    world.fake.fail(Call::Committed, 1, || DriverError::Unreachable { reason: "gone".into(), retry_after: None });
    let (task, _) = world.portolan.protect.restore(&me(), restore_of(point.id, "copy")).await.unwrap();
    world.wait(task.new.chain).await;
    let machines = world.fake.update(|i| i.vms.iter().filter(|v| v.name == "copy").count());
    assert_eq!(machines, 1);
    let copy = world.vm("copy").await;
    assert_eq!(world.fake.disk(&copy.external.native_id, "disk1"), Some(content(1)));
}

#[tokio::test(start_paused = true)]
async fn requests_that_make_no_sense_change_nothing() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    let vm = world.vm("web01").await;
    let protect = &world.portolan.protect;
    let invalid = |r: Result<Vec<Task>, ProtectError>| assert!(matches!(r, Err(ProtectError::Invalid(_))), "{r:?}");
    invalid(protect.export(&me(), ExportRequest { vms: vec![], ..request(vm.id, BackupType::Full) }).await);
    invalid(protect.export(&me(), ExportRequest { priority: 101, ..request(vm.id, BackupType::Full) }).await);
    let past = Some(world.portolan.now() - std::time::Duration::from_secs(60));
    invalid(protect.export(&me(), ExportRequest { window_end: past, ..request(vm.id, BackupType::Full) }).await);
    let unknown = VmId::from_uuid(uuid::Uuid::from_u128(5));
    // One unknown machine among known ones: nobody gets a task.
    let both = ExportRequest { vms: vec![vm.id, unknown], ..request(vm.id, BackupType::Full) };
    assert!(matches!(protect.export(&me(), both).await, Err(ProtectError::NotFound { .. })));
    assert!(protect.points(&me(), Default::default()).await.unwrap().0.is_empty());

    let point = world.backup(vm.id, BackupType::Full).await;
    let mut bad = restore_of(point.id, "copy");
    bad.disks = vec![DiskTarget { name: "no such disk".into(), datastore: None, excluded: false }];
    assert!(matches!(protect.restore(&me(), bad).await, Err(ProtectError::Invalid(_))));
    let bad = RestoreRequest { datastore: Some("nowhere".into()), ..restore_of(point.id, "copy") };
    assert!(matches!(protect.restore(&me(), bad).await, Err(ProtectError::Invalid(_))));
}

#[tokio::test(start_paused = true)]
async fn callers_need_privileges_and_see_their_tenant_only() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.fake.add_vm("db01", &[("disk1", content(2))]);
    world.start();
    world.sync().await;
    let (web, db) = (world.vm("web01").await, world.vm("db01").await);
    let tenant = world.portolan.access.tenants.create(&me(), "t1", "ext-1").await.unwrap();
    world.portolan.inventory.set_tenant(&me(), web.id, Some(tenant.id)).await.unwrap();

    let theirs = Caller { role: Role::Operator, scope: Scope::Tenant(tenant.id), ..me() };
    let seen = world.portolan.inventory.vms(&theirs, Default::default()).await.unwrap().items;
    assert_eq!(seen.iter().map(|v| v.id).collect::<Vec<_>>(), [web.id]);
    let refused = world.portolan.protect.export(&theirs, request(db.id, BackupType::Full)).await;
    assert!(matches!(refused, Err(ProtectError::NotFound { .. })), "{refused:?}");
    let task = world.portolan.protect.export(&theirs, request(web.id, BackupType::Full)).await.unwrap().remove(0);
    world.wait(task.new.chain).await;
    assert_eq!(world.portolan.protect.points(&theirs, Default::default()).await.unwrap().0.len(), 1);
    world.backup(db.id, BackupType::Full).await;
    assert_eq!(world.portolan.protect.points(&theirs, Default::default()).await.unwrap().0.len(), 1);
    assert_eq!(world.portolan.protect.points(&me(), Default::default()).await.unwrap().0.len(), 2);
    let tasks = world.portolan.protect.tasks(&theirs, Default::default()).await.unwrap().tasks;
    assert!(tasks.iter().all(|t| t.new.tenant == Some(tenant.id)) && !tasks.is_empty());

    let viewer = Caller { role: Role::Viewer, ..theirs };
    let refused = world.portolan.protect.export(&viewer, request(web.id, BackupType::Full)).await;
    assert!(matches!(refused, Err(ProtectError::Denied(_))));
}
