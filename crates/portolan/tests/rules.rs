//! What a backup holds, what an increment is compared with, who may do what, and how much.

#![allow(clippy::unwrap_used)]

mod world;

use portolan::driver::{Capabilities, NativeDisk};
use portolan::model::backup::{BackupStatus, BackupType};
use portolan::model::*;
use portolan::protect::{DiskTarget, ExportRequest, ProtectError, RestoreRequest};
use portolan::repository::{BackupRepository, VerifyDepth};
use portolan::storage::StorageExt;
use portolan::tasks::Task;
use portolan_testkit::fake_hypervisor::Call;
use std::sync::Arc;
use std::time::Duration;
use world::{BreakableObjects, World, content, me, request, restore_of};

async fn restore(world: &World, request: RestoreRequest) -> Vec<Task> {
    let (task, _) = world.portolan.protect.restore(&me(), request).await.unwrap();
    let ended = world.wait(task.new.chain).await;
    assert!(ended.iter().all(|t| t.state == TaskState::Succeeded), "{ended:?}");
    ended
}

/// Restores a point under a name, and answers the disks' contents in order.
async fn disks_of(world: &World, point: RecoveryPointId, name: &str) -> Vec<Vec<u8>> {
    restore(world, restore_of(point, name)).await;
    let vm = world.fake.vm_named(name).unwrap();
    vm.disks.iter().map(|d| world.fake.disk(&vm.native_id, &d.native_id).unwrap()).collect()
}

async fn lab(disks: &[(&str, Vec<u8>)]) -> (World, VmId, String) {
    let world = World::new().await;
    let native = world.fake.add_vm("web01", disks).native_id;
    world.start();
    world.sync().await;
    let vm = world.vm("web01").await.id;
    (world, vm, native)
}

fn track_changes(world: &World) {
    world.fake.set_capabilities(Capabilities {
        changed_blocks: true,
        live_export: true,
        import: true,
        power: false,
        ..Capabilities::default()
    });
}

#[tokio::test(start_paused = true)]
async fn disks_of_one_name_are_told_apart() {
    let all = [("disk", content(1)), ("disk", content(2)), ("a/b", content(3)), ("", content(4)), (".x", content(5))];
    let (world, vm, native) = lab(&all).await;
    let full = world.backup(vm, BackupType::Full).await;
    let names: Vec<&str> = full.disks.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["disk", "disk (2)", "a_b", "disk (3)", "_.x"], "{}", full.status_info);
    world.fake.write_disk(&native, "disk-1", 0, b"second");
    let next = world.backup(vm, BackupType::Incremental).await;
    assert_eq!((next.backup_type, next.size_bytes), (BackupType::Incremental, 131_072));
    let mut second = content(2);
    second[..6].copy_from_slice(b"second");
    assert_eq!(disks_of(&world, next.id, "copy").await, [content(1), second, content(3), content(4), content(5)]);
    assert_eq!(disks_of(&world, full.id, "old").await[1], content(2));
}

#[tokio::test(start_paused = true)]
async fn disks_come_go_grow_and_shrink_between_backups() {
    for tracked in [false, true] {
        let (world, vm, native) = lab(&[("disk1", content(1)), ("disk2", content(2))]).await;
        if tracked {
            track_changes(&world);
        }
        world.backup(vm, BackupType::Full).await;
        let mut grown = content(1);
        grown.extend(content(7));
        world.fake.set_disk(&native, "disk1", grown.clone());
        world.fake.set_disk(&native, "disk2", content(2)[..200_000].to_vec());
        let next = world.backup(vm, BackupType::Incremental).await;
        assert_eq!(next.backup_type, BackupType::Incremental, "{}", next.status_info);
        assert_eq!(disks_of(&world, next.id, "copy").await, [grown.clone(), content(2)[..200_000].to_vec()]);

        // Another disk comes under the name of one that goes: what changed on it says nothing against the base.
        world.fake.remove_vm(&native);
        let native = world.fake.add_vm("web02", &[("disk1", content(8))]).native_id;
        world.sync().await;
        let vm = world.vm("web02").await.id;
        world.backup(vm, BackupType::Full).await;
        world.fake.update(|i| {
            let vm = i.vms.iter_mut().find(|v| v.native_id == native).unwrap();
            vm.disks[0].name = "boot".into();
            vm.disks.push(NativeDisk { native_id: "disk-9".into(), name: "disk1".into(), ..vm.disks[0].clone() });
        });
        world.fake.set_disk(&native, "disk-9", content(9));
        // The inventory has not seen the new disk yet: it is listed, and not left out.
        let next = world.backup(vm, BackupType::Incremental).await;
        assert_eq!(next.status, BackupStatus::Success, "{}", next.status_info);
        let restored = disks_of(&world, next.id, "copy2").await;
        assert!(restored == [content(8), content(9)], "tracked: {tracked}");
        world.assert_consistent().await;
    }
}

#[tokio::test(start_paused = true)]
async fn machines_without_disks_and_disks_without_bytes_are_backed_up() {
    let (world, vm, _) = lab(&[]).await;
    for wanted in [BackupType::Full, BackupType::Incremental] {
        let point = world.backup(vm, wanted).await;
        assert_eq!(point.status, BackupStatus::Success, "{}", point.status_info);
    }
    let (world, vm, _) = lab(&[("none", Vec::new()), ("some", content(1))]).await;
    for (wanted, name) in [(BackupType::Full, "a"), (BackupType::Incremental, "b")] {
        let point = world.backup(vm, wanted).await;
        assert_eq!(point.status, BackupStatus::Success, "{}", point.status_info);
        assert_eq!(disks_of(&world, point.id, name).await, [Vec::new(), content(1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn excluded_disks_are_made_anew_and_come_back_whole_once_included() {
    let (world, vm, _) = lab(&[("disk1", content(1)), ("disk2", content(2))]).await;
    track_changes(&world);
    let exclude = |disks: Vec<DiskId>| {
        let storage = world.portolan.storage().clone();
        let now = world.portolan.now();
        async move {
            let change = |v: &mut VirtualMachine| {
                v.settings.excluded_disks.clone_from(&disks);
                Some(Default::default())
            };
            storage.change::<VirtualMachine, _>(now, Scope::All, vm, change).await.unwrap();
        }
    };
    let second = world.vm("web01").await.observed.disks[1].id;
    exclude(vec![second]).await;
    let point = world.backup(vm, BackupType::Full).await;
    assert_eq!(disks_of(&world, point.id, "a").await, [content(1), vec![0; content(2).len()]]);
    exclude(Vec::new()).await;
    let point = world.backup(vm, BackupType::Incremental).await;
    assert_eq!(disks_of(&world, point.id, "b").await, [content(1), content(2)]);
    let without = DiskTarget { name: "disk1".into(), datastore: None, excluded: true };
    let twice = RestoreRequest { disks: vec![without.clone(), without.clone()], ..restore_of(point.id, "c") };
    assert!(matches!(world.portolan.protect.restore(&me(), twice).await, Err(ProtectError::Invalid(_))));
    restore(&world, RestoreRequest { disks: vec![without], ..restore_of(point.id, "c") }).await;
    assert_eq!(world.fake.vm_named("c").unwrap().disks.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_base_that_is_gone_or_damaged_makes_the_next_backup_full() {
    // The point is deleted; its manifest is damaged; its maps are.
    for how in 0..3 {
        let objects = Arc::new(BreakableObjects::new());
        let mut world = World::over(objects.clone()).await;
        world.fake.add_vm("web01", &[("disk1", content(1))]);
        world.start();
        world.sync().await;
        let vm = world.vm("web01").await.id;
        let base = world.backup(vm, BackupType::Full).await;
        match how {
            0 => world.repository.delete(base.id).await.unwrap(),
            1 => assert_eq!(objects.damage("points/").await, 1),
            _ => assert!(objects.damage("meta/").await > 0),
        }
        world.reopen(objects.clone()).await;
        let next = world.backup(vm, BackupType::Incremental).await;
        assert_eq!((next.status, next.backup_type), (BackupStatus::Success, BackupType::Full), "{how}: {next:?}");
        assert!(next.status_info.contains("a full backup was taken"), "{}", next.status_info);
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_finds_damage_says_where_and_takes_the_claim_back() {
    let objects = Arc::new(BreakableObjects::new());
    let mut world = World::over(objects.clone()).await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.start();
    world.sync().await;
    let vm = world.vm("web01").await.id;
    let id = world.backup(vm, BackupType::Full).await.id;
    let verify = async |world: &World, depth| {
        let task = world.portolan.protect.verify(&me(), id, None, depth).await.unwrap();
        world.wait(task.new.chain).await.remove(0)
    };
    assert_eq!(verify(&world, VerifyDepth::Structure).await.state, TaskState::Succeeded);
    assert_eq!(world.point(id).await.last_verified, None, "nothing was read");
    verify(&world, VerifyDepth::Data).await;
    assert!(world.point(id).await.last_verified.is_some());

    assert!(objects.damage("packs/").await > 0);
    world.reopen(objects.clone()).await;
    for _ in 0..2 {
        let task = verify(&world, VerifyDepth::Data).await;
        assert_eq!(task.state, TaskState::Failed);
        assert!(task.error.contains("disk 'disk1' bytes"), "{}", task.error);
        let point = world.point(id).await;
        assert_eq!((point.warnings.len(), point.last_verified), (1, None), "{:?}", point.warnings);
    }
    let next = world.backup(vm, BackupType::Incremental).await;
    assert_eq!(next.backup_type, BackupType::Full, "no increment on damage");

    // What was damaged has been stored anew by that backup, and serves the older point too.
    assert_eq!(verify(&world, VerifyDepth::Data).await.state, TaskState::Succeeded);
    let point = world.point(id).await;
    assert!(point.warnings.is_empty() && point.last_verified.is_some(), "healed");
}

#[tokio::test(start_paused = true)]
async fn a_restored_machine_belongs_to_the_tenant_and_replaces_nobody_elses() {
    let (world, web, _) = lab(&[("disk1", content(1))]).await;
    world.fake.add_vm("db01", &[("disk1", content(2))]);
    world.sync().await;
    let tenant = world.portolan.access.tenants.create(&me(), "t1", "ext-1").await.unwrap();
    world.portolan.inventory.set_tenant(&me(), web, Some(tenant.id)).await.unwrap();
    let theirs = Caller { role: Role::Operator, scope: Scope::Tenant(tenant.id), ..me() };
    let point = world.backup(web, BackupType::Full).await;
    let protect = &world.portolan.protect;

    let over = RestoreRequest { overwrite: true, ..restore_of(point.id, "db01") };
    assert!(matches!(protect.restore(&theirs, over).await, Err(ProtectError::Conflict(_))));
    for name in ["copy", "web01"] {
        let over = RestoreRequest { overwrite: name == "web01", ..restore_of(point.id, name) };
        let (task, job) = protect.restore(&theirs, over).await.unwrap();
        world.wait(task.new.chain).await;
        let jobs = protect.restore_jobs(&theirs, Default::default()).await.unwrap().items;
        let made = jobs.iter().find(|j| j.id == job.id).unwrap().target_vm.unwrap();
        let vm = world.portolan.inventory.vm(&theirs, made).await.unwrap();
        assert_eq!((vm.observed.name.as_str(), vm.observed.disks.len()), (name, 1));
        assert_eq!(vm.observed.host_name, "host-1", "the sync has filled it in");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_of_another_tenant_can_be_found() {
    let (world, web, _) = lab(&[("disk1", content(1))]).await;
    let mut tenants = Vec::new();
    for name in ["t1", "t2"] {
        tenants.push(world.portolan.access.tenants.create(&me(), name, "").await.unwrap().id);
    }
    world.portolan.inventory.set_tenant(&me(), web, Some(tenants[0])).await.unwrap();
    let task = world.export(web, BackupType::Full).await;
    world.wait(task.new.chain).await;
    let id = task.new.links.point.unwrap();
    let (protect, inventory) = (&world.portolan.protect, &world.portolan.inventory);
    restore(&world, restore_of(id, "copy")).await;

    let other = Caller { role: Role::Operator, scope: Scope::Tenant(tenants[1]), ..me() };
    let missing = |e: ProtectError| assert!(matches!(e, ProtectError::NotFound { .. }), "{e:?}");
    missing(protect.point(&other, id).await.unwrap_err());
    missing(protect.restore(&other, restore_of(id, "mine")).await.unwrap_err());
    missing(protect.verify(&other, id, None, VerifyDepth::Data).await.unwrap_err());
    missing(protect.describe_point(&other, id, "x").await.unwrap_err());
    missing(protect.acknowledge(&other, id, true).await.unwrap_err());
    missing(protect.task(&other, task.new.id).await.unwrap_err());
    missing(protect.cancel_task(&other, task.new.id, "").await.unwrap_err());
    missing(protect.remove_task(&other, task.new.id).await.unwrap_err());
    assert!(inventory.vm(&other, web).await.is_err());
    assert!(protect.points(&other, Default::default()).await.unwrap().0.is_empty());
    assert!(protect.copies(&other, Default::default()).await.unwrap().items.is_empty());
    assert!(protect.restore_jobs(&other, Default::default()).await.unwrap().items.is_empty());
    assert!(protect.tasks(&other, Default::default()).await.unwrap().tasks.is_empty());
    assert_eq!(protect.remove_finished(&other, true).await.unwrap(), 0);
    protect.task(&me(), task.new.id).await.unwrap();

    // A sync that somebody else asked for does not say who that was.
    let hold = world.fake.hold(Call::Inventory);
    let boss = Caller { login: "boss".into(), ..me() };
    let asked = world.portolan.request_sync(&boss, Vec::new(), Vec::new()).await.unwrap().remove(0);
    let again = world.portolan.request_sync(&other, Vec::new(), Vec::new()).await.unwrap().remove(0);
    assert_eq!(asked.new.id, again.new.id);
    assert_eq!((asked.new.origin.name.as_str(), again.new.origin.name.as_str()), ("boss", "system"));
    missing(protect.cancel_task(&other, again.new.id, "").await.unwrap_err());
    hold.release();

    let viewer = Caller { role: Role::Viewer, ..me() };
    let denied = |e: ProtectError| assert!(matches!(e, ProtectError::Denied(_)), "{e:?}");
    denied(protect.restore(&viewer, restore_of(id, "mine")).await.unwrap_err());
    denied(protect.verify(&viewer, id, None, VerifyDepth::Data).await.unwrap_err());
    denied(protect.cancel_task(&viewer, task.new.id, "").await.unwrap_err());
    denied(protect.remove_finished(&viewer, true).await.unwrap_err());
    denied(protect.cancel_running(&viewer).await.unwrap_err());
    denied(protect.describe_point(&viewer, id, "x").await.unwrap_err());
    denied(world.portolan.request_sync(&viewer, Vec::new(), Vec::new()).await.unwrap_err());
}

#[tokio::test(start_paused = true)]
async fn requests_are_bounded_and_name_each_machine_once() {
    let (world, vm, _) = lab(&[("disk1", content(1))]).await;
    let protect = &world.portolan.protect;
    let many = (0..10_000).map(|n| VmId::from_uuid(uuid::Uuid::from_u128(n))).collect();
    let refused = protect.export(&me(), ExportRequest { vms: many, ..request(vm, BackupType::Full) }).await;
    assert!(matches!(refused, Err(ProtectError::Invalid(_))));
    // A start in the past does not jump the queue, and a window that has closed is refused.
    let long_ago = Some(Timestamp::from_millis(0));
    let early = ExportRequest { vms: vec![vm, vm, vm], window_start: long_ago, ..request(vm, BackupType::Full) };
    let tasks = protect.export(&me(), early).await.unwrap();
    assert_eq!(tasks.len(), 1);
    assert_eq!(tasks[0].new.run_at, world.portolan.now());
    let closed = Some(world.portolan.now() - Duration::from_secs(1));
    let late = ExportRequest { window_start: long_ago, window_end: closed, ..request(vm, BackupType::Full) };
    assert!(matches!(protect.export(&me(), late).await, Err(ProtectError::Invalid(_))));
    world.wait(tasks[0].new.chain).await;
    let id = tasks[0].new.links.point.unwrap();
    for text in ["x".repeat(5000), "\0".into()] {
        assert!(matches!(protect.describe_point(&me(), id, &text).await, Err(ProtectError::Invalid(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn bulk_operations_end_and_leave_no_backup_open() {
    let world = World::new().await;
    for n in 0..700 {
        world.fake.add_vm(&format!("vm{n}"), &[]);
    }
    world.portolan.inventory.sync_platform(world.platform.id, None).await.unwrap();
    let vms = world.portolan.inventory.vms(&me(), Default::default()).await.unwrap().items;
    let vms: Vec<VmId> = vms.iter().map(|v| v.id).collect();
    let protect = &world.portolan.protect;
    let tasks = protect.export(&me(), ExportRequest { vms: vms.clone(), ..request(vms[0], BackupType::Full) }).await;
    assert_eq!(tasks.unwrap().iter().map(|t| t.new.links.vm.unwrap()).collect::<Vec<_>>(), vms);
    assert_eq!(protect.remove_finished(&me(), false).await.unwrap(), 0);
    assert_eq!(protect.remove_finished(&me(), true).await.unwrap(), 700);
    assert!(protect.tasks(&me(), Default::default()).await.unwrap().tasks.is_empty());
    world.start();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let (points, _) = protect.points(&me(), Default::default()).await.unwrap();
    assert!(points.len() == 700 && points.iter().all(|p| p.point.status == BackupStatus::Failed));
    world.assert_consistent().await;
}
