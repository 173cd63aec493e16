//! Requests that are carried out a second time, as after a crash: they begin nothing anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use portolan::model::backup::BackupType;
use portolan::model::*;
use portolan::protect::{ExportRequest, ProtectError};
use portolan::repository::VerifyDepth;
use uuid::Uuid;
use world::{World, content, me, request, restore_of};

fn named(n: u128) -> Caller {
    Caller { request: Some(RequestKey(Uuid::from_u128(n))), ..me() }
}

fn ids(tasks: &[portolan::tasks::Task]) -> Vec<TaskId> {
    tasks.iter().map(|t| t.new.id).collect()
}

async fn world() -> (World, ExportRequest) {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.fake.add_vm("db01", &[("disk1", content(2))]);
    world.start();
    world.sync().await;
    let vms = vec![world.vm("db01").await.id, world.vm("web01").await.id];
    let both = ExportRequest { vms, ..request(world.vm("web01").await.id, BackupType::Full) };
    (world, both)
}

async fn points(world: &World) -> usize {
    world.portolan.protect.points(&me(), Default::default()).await.unwrap().0.len()
}

#[tokio::test(start_paused = true)]
async fn an_export_finds_what_it_began() {
    let (world, both) = world().await;
    let protect = &world.portolan.protect;
    let first = protect.export(&named(1), both.clone()).await.unwrap();
    assert_eq!(first.iter().map(|t| t.new.links.vm.unwrap()).collect::<Vec<_>>(), both.vms);
    assert_eq!(ids(&protect.export(&named(1), both.clone()).await.unwrap()), ids(&first));
    for task in &first {
        world.wait(task.new.chain).await;
    }
    // Long after, with the window over and a machine gone from its platform.
    world.fake.update(|i| i.vms.retain(|v| v.name != "web01"));
    world.sync().await;
    world.sync().await;
    assert_eq!(ids(&protect.export(&named(1), both.clone()).await.unwrap()), ids(&first));
    assert_eq!(points(&world).await, 2);
    let alone = ExportRequest { vms: both.vms[..1].to_vec(), ..both.clone() };
    let second = protect.export(&named(2), alone.clone()).await.unwrap();
    world.wait(second[0].new.chain).await;
    assert_eq!(points(&world).await, 3, "another request is another backup");
    // One request may begin backups of several machines in several calls, and requests without a name never repeat.
    protect.export(&me(), alone.clone()).await.unwrap();
    let unnamed = protect.export(&me(), alone).await.unwrap();
    world.wait(unnamed[0].new.chain).await;
    assert_eq!(points(&world).await, 5);
    world.assert_consistent().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_that_run_at_once_one_begins() {
    let (world, both) = world().await;
    let protect = &world.portolan.protect;
    let caller = named(1);
    let (a, b) = tokio::join!(protect.export(&caller, both.clone()), protect.export(&caller, both.clone()));
    let first = ids(&a.unwrap());
    assert_eq!(first, ids(&b.unwrap()));
    assert_eq!(points(&world).await, 2);
}

#[tokio::test(start_paused = true)]
async fn an_export_whose_tasks_were_removed_makes_no_second_backup() {
    let (world, both) = world().await;
    let protect = &world.portolan.protect;
    let tasks = protect.export(&named(1), both.clone()).await.unwrap();
    for task in &tasks {
        world.wait(task.new.chain).await;
    }
    protect.remove_task(&me(), tasks[0].new.id).await.unwrap();
    let left = protect.export(&named(1), both.clone()).await.unwrap();
    assert_eq!(ids(&left), ids(&tasks[1..]));
    protect.remove_task(&me(), tasks[1].new.id).await.unwrap();
    assert!(matches!(protect.export(&named(1), both).await, Err(ProtectError::Conflict(_))));
    assert_eq!(points(&world).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_restore_a_check_and_a_sync_find_what_they_began() {
    let (world, both) = world().await;
    let protect = &world.portolan.protect;
    let point = world.backup(both.vms[0], BackupType::Full).await.id;
    let (task, job) = protect.restore(&named(1), restore_of(point, "copy")).await.unwrap();
    world.wait(task.new.chain).await;
    let (again, same) = protect.restore(&named(1), restore_of(point, "copy")).await.unwrap();
    assert_eq!((again.new.id, same.id), (task.new.id, job.id));
    assert_eq!(world.fake.update(|i| i.vms.iter().filter(|v| v.name == "copy").count()), 1);
    let (other, _) = protect.restore(&named(2), restore_of(point, "copy2")).await.unwrap();
    assert_ne!(other.new.id, task.new.id);
    world.wait(other.new.chain).await;

    let check = protect.verify(&named(1), point, None, VerifyDepth::Data).await.unwrap();
    world.wait(check.new.chain).await;
    let again = protect.verify(&named(1), point, None, VerifyDepth::Data).await.unwrap();
    assert_eq!((again.new.id, again.state), (check.new.id, TaskState::Succeeded));
    assert_ne!(protect.verify(&named(2), point, None, VerifyDepth::Data).await.unwrap().new.id, check.new.id);

    let inventory = &world.portolan.inventory;
    let first = inventory.request_sync(&named(1), &[]).await.unwrap();
    let chain = protect.task(&me(), first[0]).await.unwrap().new.chain;
    world.wait(chain).await;
    assert_eq!(inventory.request_sync(&named(1), &[]).await.unwrap(), first);
    assert_ne!(inventory.request_sync(&named(2), &[]).await.unwrap(), first);
}
