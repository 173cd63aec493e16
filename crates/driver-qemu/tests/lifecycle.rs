//! Guests that boot nothing, and what becomes of them when things end at the wrong moment.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{LONG, Place, comes_to, machines, open, own, wish};
use portolan_driver::{CloudDriver, CloudDriverExt, CloudErrorKind, Hypervisor, PowerAction, PowerRequest};
use portolan_driver_qemu::{
    Desired, GuestSpec, GuestState, NicMode, Phase, QemuCloud, QemuError, QemuHypervisor, QemuSettings, QgaError, Seen,
};
use portolan_model::dialect::libcloud::NodeState;
use portolan_model::vm::PowerState;
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::time::Duration;

fn kill(pid: u32) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_killed_is_noticed_and_starts_again() {
    let place = Place::with_blank();
    let host = place.open().await;
    let guest = own(host.create(wish("alpha", "blank")).await.unwrap());
    comes_to(&guest, GuestState::Running).await;
    assert!(guest.qmp().unwrap().version() >= portolan_driver_qemu::OLDEST);
    kill(guest.pid().unwrap());
    comes_to(&guest, GuestState::Stopped).await;
    assert_eq!(guest.observed().reason.as_deref(), Some("QEMU was ended by signal 9"));
    let spec = guest.spec();
    assert_eq!(spec.desired, Desired::Running, "nobody asked for that");
    assert!(spec.last_stop.is_some_and(|stop| stop.reason.contains("signal 9")));
    assert!(matches!(guest.qmp(), Err(QemuError::Conflict(_))));
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;

    // What QEMU says of its own end is the reason.
    guest.qmp().unwrap().quit().await.unwrap();
    comes_to(&guest, GuestState::Stopped).await;
    assert_eq!(guest.observed().reason.as_deref(), Some("host-qmp-quit"));
    assert_eq!(guest.spec().desired, Desired::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn running_guests_are_taken_over_by_one_and_only_one() {
    let place = Place::with_blank();
    let first = place.open().await;
    let guest = own(first.create(wish("alpha", "blank")).await.unwrap());
    comes_to(&guest, GuestState::Running).await;
    let (id, incarnation, pid) = (guest.id().to_owned(), guest.spec().incarnation, guest.pid().unwrap());

    let second = place.open().await;
    assert!(matches!(&second.list().await.unwrap()[..], [Seen::Elsewhere(spec, true)] if spec.id == id));
    let cloud = QemuCloud::new(second.clone());
    let node = cloud.nodes().await.unwrap().remove(0);
    assert_eq!((node.state, node.extra.contains_key("owner")), (NodeState::Running, true));
    for refused in [cloud.stop_node(&node.reference()).await, cloud.destroy_node(&node.reference()).await] {
        assert_eq!(refused.unwrap_err().kind, CloudErrorKind::Conflict);
    }

    drop(guest);
    first.close().await;
    drop(first);
    let guest = second.guest(&id, &incarnation).await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    assert_eq!(guest.pid(), Some(pid), "the same process");
    assert!(guest.qmp().unwrap().query_status().await.unwrap().running);
    // One that was taken over is watched as well as one that was started.
    kill(pid);
    comes_to(&guest, GuestState::Stopped).await;
    assert!(guest.observed().reason.unwrap().contains("not known"));

    drop(guest);
    second.close().await;
    let third = place.open().await;
    let guest = third.guest(&id, &incarnation).await.unwrap();
    assert_eq!(guest.observed().state, GuestState::Stopped);
    drop(guest);
    third.close().await;
    let mut settings = place.settings();
    settings.restart_guests = true;
    let fourth = open(settings).await;
    let guest = fourth.guest(&id, &incarnation).await.unwrap();
    comes_to(&guest, GuestState::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn destroying_leaves_nothing() {
    let place = Place::with_blank();
    let host = place.open().await;
    let made = host.create(wish("alpha", "blank")).await.unwrap();
    let spec = made.spec().unwrap();
    // Also in the middle of its making.
    host.destroy(&spec.id, &spec.incarnation).await.unwrap();
    let guest = own(host.create(wish("beta", "blank")).await.unwrap());
    comes_to(&guest, GuestState::Running).await;
    let (id, incarnation) = (guest.id().to_owned(), guest.spec().incarnation);
    assert!(matches!(host.destroy(&id, "another").await, Err(QemuError::NotFound { .. })));
    host.destroy(&id, &incarnation).await.unwrap();
    assert!(matches!(host.destroy(&id, &incarnation).await, Err(QemuError::NotFound { .. })));
    assert_eq!(place.processes(), [0_u32; 0]);
    assert_eq!(names(&place.root().join("guests")), [""; 0]);
    assert_eq!(names(&place.root().join("datastores/default")), [""; 0]);
    assert!(host.list().await.unwrap().is_empty());
}

/// Documents as a crash of Portolan leaves them at each point of making and of destroying.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_is_ended_by_the_next() {
    let place = Place::with_blank();
    let host = place.open().await;
    let mut specs = Vec::new();
    for name in ["making", "started", "going"] {
        let guest = own(host.create(wish(name, "blank")).await.unwrap());
        comes_to(&guest, GuestState::Running).await;
        specs.push(guest.spec());
        if name == "making" {
            guest.power_off().await.unwrap();
        }
    }
    host.close().await;
    drop(host);
    let guests = place.root().join("guests");
    let write = |spec: &GuestSpec| {
        std::fs::write(guests.join(&spec.id).join("guest.json"), serde_json::to_vec(spec).unwrap()).unwrap();
    };
    // Written down, and half a disk made.
    (specs[0].phase, specs[0].desired) = (Phase::Preparing, Desired::Running);
    write(&specs[0]);
    let disks = place.root().join("datastores/default").join(&specs[0].id);
    std::fs::rename(disks.join("d0.qcow2"), disks.join(".d0.qcow2.part")).unwrap();
    // QEMU started, and that not written down.
    specs[1].phase = Phase::Preparing;
    write(&specs[1]);
    std::fs::remove_file(guests.join(&specs[1].id).join("qemu.pid")).unwrap();
    // Marked as gone, and still there with its process.
    specs[2].phase = Phase::Deleting;
    write(&specs[2]);
    // A directory, and nothing written down; one that was taken away already.
    std::fs::create_dir(guests.join("i-000000000000")).unwrap();
    std::fs::write(guests.join("i-000000000000/lock"), "").unwrap();
    std::fs::create_dir(guests.join(".gone-i-1")).unwrap();
    std::fs::write(guests.join(".gone-i-1/guest.json"), "").unwrap();
    assert_eq!(place.processes().len(), 2);

    let host = place.open().await;
    for (name, spec) in ["making", "started"].into_iter().zip(&specs) {
        let again = own(host.create(wish(name, "blank")).await.unwrap());
        assert_eq!((again.id(), again.spec().incarnation), (spec.id.as_str(), spec.incarnation.clone()));
        comes_to(&again, GuestState::Running).await;
        assert_eq!(again.spec().phase, Phase::Ready);
    }
    let mut left = vec![specs[0].id.clone(), specs[1].id.clone()];
    left.sort();
    assert_eq!(names(&guests), left);
    let ended = async {
        while place.processes().len() != 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, ended).await.expect("the third one's process is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold() {
    let place = Place::with_blank();
    let mut settings = place.settings();
    settings.sizes = [("tiny", 1, 16, 0), ("fat", 1, 64, 0), ("wide", 9, 16, 0), ("big", 1, 16, 9)]
        .map(|(id, cpus, memory_mb, disk_gb)| portolan_driver_qemu::SizeSetting {
            id: id.into(),
            name: String::new(),
            cpus,
            memory_mb,
            disk_gb,
        })
        .into();
    (settings.max_cpus, settings.max_memory_mb, settings.max_disk_gb) = (8, 32, 8);
    (settings.max_guests, settings.total_memory_mb) = (3, Some(32));
    std::fs::File::create(place.images().join("huge.raw")).unwrap().set_len(2 << 30).unwrap();
    let host = open(settings.clone()).await;
    for size in ["fat", "wide", "big"] {
        let refused = host.create(portolan_driver_qemu::NewGuest { size: size.into(), ..wish(size, "blank") }).await;
        assert!(matches!(refused, Err(QemuError::Quota(_))), "{size}: {refused:?}");
    }
    host.create(wish("one", "blank")).await.unwrap();
    host.create(wish("two", "blank")).await.unwrap();
    host.create(wish("two", "blank")).await.expect("that one is there");
    let refused = host.create(wish("three", "blank")).await.unwrap_err();
    assert!(refused.to_string().contains("memory"), "{refused}");
    host.close().await;
    drop(host);
    (settings.max_guests, settings.total_memory_mb) = (2, None);
    settings.sizes[0].disk_gb = 1;
    let host = open(settings).await;
    let refused = host.create(wish("three", "blank")).await.unwrap_err();
    assert!(refused.to_string().contains("2 guests"), "{refused}");
    let refused = host.create(wish("huge", "huge")).await.unwrap_err();
    assert!(matches!(refused, QemuError::Invalid(_)), "{refused}");
}

/// Paths of sockets may have 107 bytes; those of directories, 4096. And QEMU reads commas in its own way.
#[tokio::test(flavor = "multi_thread")]
async fn roots_may_be_deep_and_odd() {
    let place = Place::with_blank();
    let root = place.root().join("a, b=\"c\" %d/ö").join("x".repeat(150)).join("guests");
    std::fs::create_dir_all(root.join("images")).unwrap();
    std::fs::copy(place.images().join("blank.raw"), root.join("images/blank.raw")).unwrap();
    let mut settings = place.settings();
    settings.root = root.clone();
    settings.network = NicMode::User;
    let host = open(settings).await;
    let mut odd = wish("a,b=c \"Größe\" $(touch x) -qmp", "blank");
    odd.user_data = Some("#cloud-config\n".into());
    let guest = own(host.create(odd).await.unwrap());
    comes_to(&guest, GuestState::Running).await;
    let name = guest.qmp().unwrap().execute("query-name", None).await.unwrap();
    assert_eq!(name["name"], "a,b=c \"Größe\" $(touch x) -qmp");
    assert!(guest.backup_monitor().await.unwrap().query_status().await.unwrap().running);
    let counters = guest.block_counters().await.unwrap();
    assert_eq!(counters.iter().map(|(disk, _)| disk.as_str()).collect::<Vec<_>>(), ["d0"]);
    // Nobody is in there who could answer.
    let error = guest.agent(Duration::from_millis(300)).await.err();
    assert!(matches!(error, Some(QgaError::AgentSilent)), "{error:?}");
    host.destroy(guest.id(), &guest.spec().incarnation).await.unwrap();
    assert_eq!(names(&root.join("guests")), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_listen_runs_on_unless_it_may_be_forced() {
    let place = Place::with_blank();
    let mut settings: QemuSettings = place.settings();
    settings.force_stop = false;
    (settings.agent_stop_secs, settings.acpi_stop_secs) = (1, 1);
    let host = open(settings).await;
    let guest = own(host.create(wish("deaf", "blank")).await.unwrap());
    comes_to(&guest, GuestState::Running).await;
    guest.stop().await.unwrap();
    assert_eq!(guest.observed().state, GuestState::Stopping);
    comes_to(&guest, GuestState::Running).await;
    assert!(guest.observed().reason.unwrap().contains("did not shut down"));
    guest.qmp().unwrap().stop().await.unwrap();
    comes_to(&guest, GuestState::Paused).await;
    guest.qmp().unwrap().cont().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    guest.power_off().await.unwrap();
    assert_eq!(guest.observed().state, GuestState::Stopped);
}

/// However long somebody wants to wait.
#[tokio::test(flavor = "multi_thread")]
async fn waits_without_an_end_are_a_day() {
    let place = Place::with_blank();
    let host = place.open().await;
    let guest = own(host.create(wish("alpha", "blank")).await.unwrap());
    comes_to(&guest, GuestState::Running).await;
    let action = PowerAction::Shutdown { within: Duration::MAX };
    let request = PowerRequest { vm: guest.id().into(), incarnation: guest.spec().incarnation, action };
    let hypervisor = QemuHypervisor::new(host.clone());
    let asked = tokio::spawn(async move { hypervisor.power(request).await });
    comes_to(&guest, GuestState::Stopping).await;
    // It may be gone before it answers.
    let _ = guest.qmp().unwrap().quit().await;
    asked.await.unwrap().expect("it is off");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let place = Place::with_blank();
    let mut settings = place.settings();
    settings.machine = "no-such-machine".into();
    let host = open(settings).await;
    let guest = own(host.create(wish("alpha", "blank")).await.unwrap());
    comes_to(&guest, GuestState::Failed).await;
    let reason = guest.observed().reason.unwrap();
    assert!(reason.contains("no-such-machine") || reason.contains("unsupported machine"), "{reason}");
    assert_eq!(place.processes(), [0_u32; 0]);
    assert!(matches!(guest.stop().await, Err(QemuError::Conflict(_))));
    guest.start().await.expect("it may be tried again");
    comes_to(&guest, GuestState::Failed).await;
}

/// A process that looks like the guest's QEMU and has no monitor.
fn stray(place: &Place, spec: &GuestSpec) -> std::process::Child {
    let mut stray = std::process::Command::new("sh");
    stray.args(["-c", "read word", "qemu", "-uuid", &spec.uuid.hyphenated().to_string()]);
    let dir = place.root().join("guests").join(&spec.id);
    stray.current_dir(dir).stdin(std::process::Stdio::piped()).spawn().unwrap()
}

/// QEMU runs, and nobody knew: it is taken over, and never has a second one beside it, or other disks.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_already_is_taken_over_and_not_replaced() {
    let place = Place::new();
    let host = place.open().await;
    let spec = machines::make(&place, "alpha", &[("root", vec![7; 1 << 20])]);
    let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
    let mut stray = stray(&place, &spec);
    let wish = portolan_driver::ImportRequest {
        overwrite: true,
        ..portolan_testkit::driver::import_request("alpha", "t1", 1, &[("root", 1 << 20)])
    };
    let session = QemuHypervisor::new(host.clone()).begin_import(wish).await.unwrap();
    let busy = session.commit().await;
    assert!(
        matches!(&busy, Err(portolan_driver::DriverError::Conflict(why)) if why.contains("turn it off")),
        "{busy:?}"
    );
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    assert_eq!(guest.pid(), Some(stray.id()));
    stray.kill().unwrap();
    stray.wait().unwrap();
    comes_to(&guest, GuestState::Stopped).await;
    session.commit().await.expect("it is off now");
}

/// QEMU is up, and that cannot be written down: it must not run where nobody sees it.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_late_leaves_no_process() {
    let place = Place::with_blank();
    let host = place.open().await;
    let guest = own(host.create(wish("alpha", "blank")).await.unwrap());
    let blocker = guest.dir().join(".guest.json.new");
    std::fs::create_dir(&blocker).unwrap();
    comes_to(&guest, GuestState::Failed).await;
    assert_eq!(place.processes(), [0_u32; 0]);
    std::fs::remove_dir(&blocker).unwrap();
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inventory_has_the_host_its_datastores_and_guests() {
    let place = Place::with_blank();
    std::fs::create_dir_all(place.root().join("datastores/fast")).unwrap();
    let host = place.open().await;
    let guest = own(host.create(wish("alpha", "blank")).await.unwrap());
    comes_to(&guest, GuestState::Running).await;
    std::fs::create_dir(place.root().join("guests/i-damaged")).unwrap();
    std::fs::write(place.root().join("guests/i-damaged/guest.json"), "{").unwrap();
    let hypervisor = QemuHypervisor::new(host.clone());
    let inventory = hypervisor.inventory().await.unwrap();
    assert_eq!((inventory.clusters.len(), inventory.hosts.len()), (0, 1));
    let stores: Vec<_> = inventory.datastores.iter().map(|store| store.native_id.as_str()).collect();
    assert_eq!(stores, ["default", "fast"]);
    let [vm] = &inventory.vms[..] else { panic!("{inventory:?}") };
    assert_eq!((vm.name.as_str(), vm.power, vm.cpus, vm.memory_bytes), ("alpha", PowerState::Running, 1, 16 << 20));
    assert_eq!((vm.disks.len(), vm.disks[0].size_bytes, vm.nics.len()), (1, 1 << 20, 0));
    assert!(inventory.problems.iter().any(|text| text.contains("i-damaged")), "{:?}", inventory.problems);
    let nodes = QemuCloud::new(host).nodes().await.unwrap();
    assert_eq!(nodes.iter().filter(|node| node.state == NodeState::Unknown).count(), 1);
}
