//! Inventory sync: nothing flaps, nothing is gone because a platform was silent.

mod world;

use portolan::driver::DriverError;
use portolan::model::*;
use portolan_testkit::fake_hypervisor::Call;
use world::{World, content, me};

async fn sync(world: &World) -> Result<portolan::inventory::SyncReport, portolan::inventory::InventoryError> {
    world.portolan.inventory.sync_platform(world.platform.id, None).await
}

#[tokio::test(start_paused = true)]
async fn ids_stay_and_a_quiet_platform_costs_no_writes() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    let first = sync(&world).await.unwrap();
    assert_eq!((first.vms, first.added), (1, 4), "cluster, host, datastore, machine");
    let before = world.vm("web01").await;
    let second = sync(&world).await.unwrap();
    assert_eq!((second.added, second.written), (0, 0));
    assert_eq!(world.vm("web01").await, before);
}

#[tokio::test(start_paused = true)]
async fn a_machine_is_absent_after_two_complete_listings_without_it() {
    let world = World::new().await;
    let native = world.fake.add_vm("web01", &[("disk1", content(1))]);
    sync(&world).await.unwrap();
    let id = world.vm("web01").await.id;
    world.fake.remove_vm(&native.native_id);

    world.fake.fail(Call::Inventory, 3, || DriverError::Unreachable { reason: "silent".into(), retry_after: None });
    for _ in 0..3 {
        sync(&world).await.unwrap_err();
    }
    assert!(world.portolan.inventory.vm(&me(), id).await.unwrap().observed.present, "silence says nothing");
    let platform = world.portolan.inventory.one::<Platform>(&me(), world.platform.id).await.unwrap();
    assert!(platform.last_error.contains("silent"), "{}", platform.last_error);

    sync(&world).await.unwrap();
    assert!(world.portolan.inventory.vm(&me(), id).await.unwrap().observed.present, "once is not enough");
    assert_eq!(sync(&world).await.unwrap().gone, 1);
    assert!(!world.portolan.inventory.vm(&me(), id).await.unwrap().observed.present);
    assert_eq!(sync(&world).await.unwrap().written, 0, "absent things are not written again");
}

#[tokio::test(start_paused = true)]
async fn a_native_id_that_is_used_again_is_another_machine() {
    let world = World::new().await;
    let native = world.fake.add_vm("web01", &[("disk1", content(1))]);
    sync(&world).await.unwrap();
    let first = world.vm("web01").await;
    world.fake.add_vm_as(&native.native_id, "web02", &[("disk1", content(2))]);
    sync(&world).await.unwrap();
    assert_ne!(world.vm("web02").await.id, first.id);
}

#[tokio::test(start_paused = true)]
async fn what_users_decided_survives_a_sync() {
    let world = World::new().await;
    let native = world.fake.add_vm("web01", &[("disk1", content(1))]);
    sync(&world).await.unwrap();
    let vm = world.vm("web01").await;
    let tenant = world.portolan.access.tenants.create(&me(), "t1", "").await.unwrap();
    world.portolan.inventory.set_tenant(&me(), vm.id, Some(tenant.id)).await.unwrap();
    world.fake.update(|i| i.vms.iter_mut().filter(|v| v.native_id == native.native_id).for_each(|v| v.cpus = 9));
    sync(&world).await.unwrap();
    let after = world.vm("web01").await;
    assert_eq!((after.settings.tenant, after.observed.cpus), (Some(tenant.id), 9));
    assert_eq!(after.observed.disks[0].id, vm.observed.disks[0].id);
}
