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

#[tokio::test(start_paused = true)]
async fn odd_listings_do_not_stop_a_sync() {
    let world = World::new().await;
    let native = world.fake.add_vm("web01", &[("di\0sk", content(1))]);
    world.fake.update(|i| {
        i.vms.push(portolan::driver::NativeVm { name: "twin".into(), ..native.clone() });
        i.vms.push(portolan::driver::NativeVm {
            native_id: "odd".into(),
            name: "\0\n".into(),
            tags: vec!["a\0b".into()],
            ..native.clone()
        });
        i.vms.push(portolan::driver::NativeVm { native_id: "nameless".into(), name: String::new(), ..native.clone() });
        let (host, store, cluster) = (i.hosts[0].clone(), i.datastores[0].clone(), i.clusters[0].clone());
        i.hosts.push(host);
        i.datastores.push(store);
        i.clusters.push(cluster);
    });
    for round in 0..2 {
        let report = sync(&world).await.unwrap();
        assert_eq!((report.vms, report.problems.len()), (3, 4), "{:?}", report.problems);
        assert_eq!(report.written, if round == 0 { 6 } else { 0 });
    }
    let vms = world.portolan.inventory.vms(&me(), Default::default()).await.unwrap().items;
    let mut names: Vec<&str> = vms.iter().map(|v| v.observed.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["??", "virtual machine", "web01"]);
    assert!(vms.iter().all(|v| v.observed.disks[0].name == "di?sk"));
    let hosts = world.portolan.inventory.hypervisor_hosts(&me(), Default::default()).await.unwrap().items;
    assert_eq!(hosts[0].hypervisor.as_ref().unwrap().vm_count, 3);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_moves_or_comes_back_stays_the_same() {
    let world = World::new().await;
    let native = world.fake.add_vm("web01", &[("disk1", content(1))]);
    world.fake.update(|i| {
        i.clusters.push(portolan::driver::NativeCluster { native_id: "c2".into(), name: "second".into() });
        let host = portolan::driver::NativeHost { native_id: "h2".into(), name: "h2".into(), ..i.hosts[0].clone() };
        i.hosts.push(portolan::driver::NativeHost { cluster: Some("c2".into()), ..host });
    });
    sync(&world).await.unwrap();
    let before = world.vm("web01").await;
    let listed = world.fake.update(|i| {
        i.vms[0].host = Some("h2".into());
        i.vms[0].cluster = Some("c2".into());
        i.vms[0].clone()
    });
    sync(&world).await.unwrap();
    let after = world.vm("web01").await;
    assert_eq!((after.id, after.observed.host_name.as_str()), (before.id, "h2"));
    assert_eq!(after.observed.cluster_name, "second");
    let hosts = world.portolan.inventory.hypervisor_hosts(&me(), Default::default()).await.unwrap().items;
    let count =
        |name: &str| hosts.iter().find(|h| h.name.as_str() == name).unwrap().hypervisor.clone().unwrap().vm_count;
    assert_eq!((count("host-1"), count("h2")), (0, 1));

    world.fake.update(|i| i.vms.clear());
    for _ in 0..3 {
        sync(&world).await.unwrap();
    }
    assert!(world.try_vm("web01").await.is_none());
    world.fake.update(|i| i.vms.push(listed));
    sync(&world).await.unwrap();
    let back = world.vm("web01").await;
    assert_eq!((back.id, back.observed.missed, &back.external.native_id), (before.id, 0, &native.native_id));
}

#[tokio::test(start_paused = true)]
async fn syncs_at_once_and_users_in_between_agree() {
    let world = World::new().await;
    for n in 0..500 {
        world.fake.add_vm(&format!("vm{n}"), &[("disk1", vec![1; 10])]);
    }
    let (a, b) = tokio::join!(sync(&world), sync(&world));
    a.unwrap();
    b.unwrap();
    let vms = world.portolan.inventory.vms(&me(), Default::default()).await.unwrap().items;
    assert_eq!(vms.len(), 500);
    let tenant = world.portolan.access.tenants.create(&me(), "t1", "").await.unwrap().id;
    for round in 1..4 {
        world.fake.update(|i| i.vms.iter_mut().for_each(|v| v.cpus += round));
        let users = async {
            for vm in vms.iter().step_by(50) {
                world.portolan.inventory.set_tenant(&me(), vm.id, Some(tenant)).await.unwrap();
                world.portolan.inventory.set_tenant(&me(), vm.id, None).await.unwrap();
                world.portolan.inventory.set_tenant(&me(), vm.id, Some(tenant)).await.unwrap();
            }
        };
        let (done, ()) = tokio::join!(sync(&world), users);
        done.unwrap();
        let after = world.portolan.inventory.vms(&me(), Default::default()).await.unwrap().items;
        assert_eq!(after.iter().filter(|v| v.settings.tenant == Some(tenant)).count(), 10);
        assert_eq!(after.iter().map(|v| v.observed.cpus).max(), after.iter().map(|v| v.observed.cpus).min());
    }
}

#[tokio::test(start_paused = true)]
async fn platforms_that_are_off_or_have_no_driver_are_left_alone() {
    let world = World::new().await;
    world.fake.add_vm("web01", &[("disk1", content(1))]);
    sync(&world).await.unwrap();
    world.portolan.hypervisors().remove(world.platform.id);
    sync(&world).await.unwrap_err();
    assert!(world.vm("web01").await.observed.present);
    assert!(world.portolan.inventory.due_platforms(world.portolan.now()).await.unwrap().is_empty());
    use portolan::storage::StorageExt;
    let off = |p: &mut Platform| {
        p.enabled = false;
        Some(Default::default())
    };
    let now = world.portolan.now();
    world.portolan.storage().change::<Platform, _>(now, Scope::All, world.platform.id, off).await.unwrap();
    assert!(world.portolan.request_sync(&me(), Vec::new(), Vec::new()).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn five_thousand_machines_are_listed_in_a_moment() {
    let world = World::new().await;
    let native = world.fake.add_vm("vm", &[("disk1", vec![1; 10])]);
    world.fake.update(|i| {
        i.vms = (0..5000)
            .map(|n| portolan::driver::NativeVm {
                native_id: format!("vm-{n}"),
                name: format!("vm{n}"),
                ..native.clone()
            })
            .collect();
    });
    let began = std::time::Instant::now();
    assert_eq!(sync(&world).await.unwrap().written, 5003);
    assert_eq!(sync(&world).await.unwrap().written, 0);
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}
