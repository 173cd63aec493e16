//! Conformance of power, snapshots and machines that run from a backup.

use super::{HypervisorFixture, find, moves_all, pattern};
use async_trait::async_trait;
use portolan_block::{BlockSource, MemorySource};
use portolan_driver::{
    AbandonedInstant, DriverError, Hypervisor, InstantDisk, InstantRequest, NativeVm, PowerAction, PowerRequest,
    SnapshotRef, SnapshotRequest,
};
use portolan_model::vm::PowerState;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A platform whose disks a test can look into.
#[async_trait]
pub trait MachineFixture: HypervisorFixture {
    /// What the disk of a machine that is off holds.
    async fn disk(&self, vm: &str, disk: &str) -> Vec<u8>;

    /// Makes one more datastore, whose native id is its name.
    async fn add_datastore(&self, name: &str);
}

/// The cases of what the driver can do, each on a platform of its own. What it cannot do must be `Unsupported`.
pub async fn machines_all<F: MachineFixture>(make: impl Fn() -> F) {
    let can = make().hypervisor().capabilities();
    if can.power {
        power_goes_through_its_states(&make()).await;
    }
    if can.snapshots {
        snapshots_bring_old_content_back(&make(), false).await;
        if can.power {
            snapshots_bring_old_content_back(&make(), true).await;
        }
        snapshots_are_made_once_for_a_token(&make()).await;
    }
    if can.instant {
        a_machine_runs_from_its_sources_and_comes_home(&make()).await;
        older_attempts_are_fenced(&make()).await;
        what_is_aborted_leaves_nothing(&make()).await;
        a_trial_is_seen_by_nobody(&make()).await;
        bad_wishes_are_refused(&make()).await;
    }
    moves_all(&make).await;
    unsupported_machines(&make()).await;
}

/// What the driver says that it cannot do it answers with `Unsupported`.
pub async fn unsupported_machines(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    let hypervisor = f.hypervisor();
    let (can, vm) = (hypervisor.capabilities(), find(&hypervisor, "alpha").await.expect("alpha"));
    let refused = |error: Option<DriverError>| assert!(matches!(error, Some(DriverError::Unsupported(_))), "{error:?}");
    if !can.power {
        refused(hypervisor.power(power(&vm, PowerAction::Start)).await.err());
    }
    if !can.snapshots {
        refused(hypervisor.create_snapshot(snapshot(&vm, "t1", false)).await.err());
        refused(hypervisor.list_snapshots(&vm.native_id, &vm.incarnation).await.err());
        refused(hypervisor.revert_snapshot(snapshot_ref(&vm, "x")).await.err());
        refused(hypervisor.delete_snapshot(snapshot_ref(&vm, "x")).await.err());
    }
    if !can.instant {
        refused(hypervisor.begin_instant(instant_request("new", "t1", 1, &[("root", pattern(1, 4096))])).await.err());
        hypervisor.abandon_instant(AbandonedInstant { token: "t1".into(), fence: 1 }).await.expect("nothing to do");
    }
}

fn power(vm: &NativeVm, action: PowerAction) -> PowerRequest {
    PowerRequest { vm: vm.native_id.clone(), incarnation: vm.incarnation.clone(), action }
}

fn snapshot(vm: &NativeVm, token: &str, memory: bool) -> SnapshotRequest {
    let (vm, incarnation) = (vm.native_id.clone(), vm.incarnation.clone());
    SnapshotRequest { vm, incarnation, token: token.into(), name: format!("before {token}"), memory }
}

fn snapshot_ref(vm: &NativeVm, id: &str) -> SnapshotRef {
    SnapshotRef { vm: vm.native_id.clone(), incarnation: vm.incarnation.clone(), snapshot: id.into() }
}

/// A wish for a machine with these disks: name and content.
pub fn instant_request(name: &str, token: &str, fence: i64, disks: &[(&str, Vec<u8>)]) -> InstantRequest {
    let disk = |(name, content): &(&str, Vec<u8>)| InstantDisk {
        name: (*name).to_owned(),
        source: Arc::new(MemorySource::new(content.clone())) as Arc<dyn BlockSource>,
    };
    InstantRequest {
        token: token.into(),
        fence,
        name: name.into(),
        template: None,
        datastore: None,
        disks: disks.iter().map(disk).collect(),
        isolated: false,
    }
}

async fn is(hypervisor: &Arc<dyn Hypervisor>, name: &str, state: PowerState) {
    assert_eq!(find(hypervisor, name).await.expect("it is listed").power, state);
}

/// On, off, and what changes nothing.
pub async fn power_goes_through_its_states(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    let hypervisor = f.hypervisor();
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    for action in [PowerAction::Reboot, PowerAction::Reset] {
        let error = hypervisor.power(power(&vm, action)).await.err();
        assert!(matches!(error, Some(DriverError::Conflict(_))), "{action:?}: {error:?}");
    }
    for _ in 0..2 {
        hypervisor.power(power(&vm, PowerAction::Start)).await.expect("on");
        is(&hypervisor, "alpha", PowerState::Running).await;
    }
    hypervisor.power(power(&vm, PowerAction::Reset)).await.expect("reset");
    is(&hypervisor, "alpha", PowerState::Running).await;
    for action in [PowerAction::Off, PowerAction::Off, PowerAction::Shutdown { within: Duration::from_secs(1) }] {
        hypervisor.power(power(&vm, action)).await.expect("off");
        is(&hypervisor, "alpha", PowerState::Stopped).await;
    }
    let other = PowerRequest { incarnation: "another".into(), ..power(&vm, PowerAction::Start) };
    let error = hypervisor.power(other).await.err();
    assert!(matches!(error, Some(DriverError::NotFound { .. })), "{error:?}");
}

/// A snapshot, a change, and back; with the machine running, or not.
pub async fn snapshots_bring_old_content_back(f: &impl MachineFixture, running: bool) {
    let old = pattern(1, 1 << 20);
    f.add_vm("alpha", &[("root", old.clone())]).await;
    let hypervisor = f.hypervisor();
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    if running {
        hypervisor.power(power(&vm, PowerAction::Start)).await.expect("on");
    }
    let made = hypervisor.create_snapshot(snapshot(&vm, "t1", false)).await.expect("a snapshot");
    if running {
        hypervisor.power(power(&vm, PowerAction::Off)).await.expect("off");
    }
    f.write_disk("alpha", "root", 65_536, &pattern(9, 65_536)).await;
    let changed = f.disk("alpha", "root").await;
    assert_ne!(changed, old);
    let later = hypervisor.create_snapshot(snapshot(&vm, "t2", false)).await.expect("another");
    if running {
        hypervisor.power(power(&vm, PowerAction::Start)).await.expect("on");
    }
    hypervisor.revert_snapshot(snapshot_ref(&vm, &made.native_id)).await.expect("back");
    is(&hypervisor, "alpha", if running { PowerState::Running } else { PowerState::Stopped }).await;
    if running {
        hypervisor.power(power(&vm, PowerAction::Off)).await.expect("off");
    }
    assert!(f.disk("alpha", "root").await == old, "what it was");
    hypervisor.revert_snapshot(snapshot_ref(&vm, &later.native_id)).await.expect("and forth");
    assert!(f.disk("alpha", "root").await == changed, "what it was later");
    for id in [&made.native_id, &made.native_id, &later.native_id] {
        hypervisor.delete_snapshot(snapshot_ref(&vm, id)).await.expect("deleted, or gone already");
    }
    assert!(f.disk("alpha", "root").await == changed, "as it was");
    let error = hypervisor.revert_snapshot(snapshot_ref(&vm, &made.native_id)).await.err();
    assert!(matches!(error, Some(DriverError::NotFound { .. })), "{error:?}");
}

/// One token is one snapshot, also after a restart.
pub async fn snapshots_are_made_once_for_a_token(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    let hypervisor = f.hypervisor();
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    let made = hypervisor.create_snapshot(snapshot(&vm, "t1", false)).await.expect("a snapshot");
    assert_eq!((made.name.as_str(), made.memory), ("before t1", false));
    assert_eq!(hypervisor.create_snapshot(snapshot(&vm, "t1", false)).await.expect("the same"), made);
    let second = hypervisor.create_snapshot(snapshot(&vm, "t2", false)).await.expect("another");
    let listed = hypervisor.list_snapshots(&vm.native_id, &vm.incarnation).await.expect("a list");
    assert_eq!(listed, [made, second]);
    let error = hypervisor.create_snapshot(snapshot(&vm, "t3", true)).await.err();
    assert!(matches!(error, Some(DriverError::Conflict(_))), "it is off: {error:?}");
    let gone = NativeVm { incarnation: "another".into(), ..vm };
    let error = hypervisor.create_snapshot(snapshot(&gone, "t4", false)).await.err();
    assert!(matches!(error, Some(DriverError::NotFound { .. })), "{error:?}");
}

/// It runs at once, and holds what its sources held when it is home; another attempt finds it.
pub async fn a_machine_runs_from_its_sources_and_comes_home(f: &impl MachineFixture) {
    let disks = [("root", pattern(1, 1 << 20)), ("data", pattern(2, 3 << 16))];
    let hypervisor = f.hypervisor();
    let first = hypervisor.begin_instant(instant_request("new", "t1", 1, &disks)).await.expect("a machine");
    is(&hypervisor, "new", PowerState::Running).await;
    assert_eq!(first.vm().disks.iter().map(|disk| disk.name.clone()).collect::<Vec<_>>(), ["root", "data"]);
    drop(first);
    let second = hypervisor.begin_instant(instant_request("new", "t1", 2, &disks)).await.expect("the same machine");
    let seen = Mutex::new(Vec::new());
    let seen = Arc::new(seen);
    let kept = seen.clone();
    let keep = move |progress| kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(progress);
    let vm = second.bring_home(&keep).await.expect("home");
    let progress = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    assert!(progress.windows(2).all(|pair| pair[0].done <= pair[1].done), "{progress:?}");
    assert!(progress.last().is_some_and(|last| last.done == last.total && last.total == (1 << 20) + (3 << 16)));
    is(&hypervisor, "new", PowerState::Running).await;
    assert_eq!(second.bring_home(&|_| {}).await.expect("again").native_id, vm.native_id);
    second.abort().await.expect("it stands alone");
    drop(second);
    let third = hypervisor.begin_instant(instant_request("new", "t1", 3, &disks)).await.expect("as it is");
    assert_eq!(third.bring_home(&|_| {}).await.expect("it is home").native_id, vm.native_id);
    drop(third);
    hypervisor.abandon_instant(AbandonedInstant { token: "t1".into(), fence: 3 }).await.expect("it stands alone");
    if hypervisor.capabilities().power {
        hypervisor.power(power(&vm, PowerAction::Off)).await.expect("off");
        for (name, content) in &disks {
            assert!(f.disk("new", name).await == *content, "{name}");
        }
    }
}

/// Nobody older has a say.
pub async fn older_attempts_are_fenced(f: &impl HypervisorFixture) {
    let disks = [("root", pattern(1, 1 << 16))];
    let hypervisor = f.hypervisor();
    let old = hypervisor.begin_instant(instant_request("new", "t1", 1, &disks)).await.expect("a machine");
    let new = hypervisor.begin_instant(instant_request("new", "t1", 2, &disks)).await.expect("the same machine");
    let fenced = |error: Option<DriverError>| assert!(matches!(error, Some(DriverError::Fenced)), "{error:?}");
    fenced(old.bring_home(&|_| {}).await.err());
    fenced(old.abort().await.err());
    drop(old);
    fenced(hypervisor.begin_instant(instant_request("new", "t1", 1, &disks)).await.err());
    fenced(hypervisor.abandon_instant(AbandonedInstant { token: "t1".into(), fence: 1 }).await.err());
    is(&hypervisor, "new", PowerState::Running).await;
    new.bring_home(&|_| {}).await.expect("home");
}

/// What is aborted or abandoned is gone, and its name and token are free.
pub async fn what_is_aborted_leaves_nothing(f: &impl HypervisorFixture) {
    let disks = [("root", pattern(1, 1 << 16))];
    let hypervisor = f.hypervisor();
    for token in ["t1", "t1", "t2"] {
        let session = hypervisor.begin_instant(instant_request("new", token, 1, &disks)).await.expect("a machine");
        session.abort().await.expect("gone");
        session.abort().await.expect("gone already");
        assert!(find(&hypervisor, "new").await.is_none());
    }
    drop(hypervisor.begin_instant(instant_request("new", "t3", 1, &disks)).await.expect("a machine"));
    for _ in 0..2 {
        let abandoned = AbandonedInstant { token: "t3".into(), fence: 1 };
        hypervisor.abandon_instant(abandoned).await.expect("gone, or gone already");
        assert!(find(&hypervisor, "new").await.is_none());
    }
}

/// A trial is in no listing, may have the name of another machine, and goes with its session.
pub async fn a_trial_is_seen_by_nobody(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    let hypervisor = f.hypervisor();
    let before = hypervisor.inventory().await.expect("a listing").vms;
    let wish = |token| {
        let request = instant_request("alpha", token, 1, &[("root", pattern(2, 1 << 16))]);
        InstantRequest { isolated: true, ..request }
    };
    let session = hypervisor.begin_instant(wish("t1")).await.expect("a trial");
    assert_eq!(session.vm().power, PowerState::Running);
    assert!(session.vm().nics.is_empty());
    assert_eq!(hypervisor.inventory().await.expect("a listing").vms, before);
    let error = session.bring_home(&|_| {}).await.err();
    assert!(matches!(error, Some(DriverError::Conflict(_))), "{error:?}");
    drop(session);
    let again = hypervisor.begin_instant(wish("t1")).await.expect("a trial");
    again.abort().await.expect("gone");
    assert_eq!(hypervisor.inventory().await.expect("a listing").vms, before);
}

/// Wishes that make no sense.
pub async fn bad_wishes_are_refused(f: &impl HypervisorFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    let hypervisor = f.hypervisor();
    let root = ("root", pattern(1, 4096));
    let mut elsewhere = instant_request("new", "t1", 1, std::slice::from_ref(&root));
    elsewhere.datastore = Some("no such store".into());
    let error = hypervisor.begin_instant(elsewhere).await.err();
    assert!(matches!(error, Some(DriverError::NotFound { .. })), "{error:?}");
    let taken = hypervisor.begin_instant(instant_request("alpha", "t1", 1, std::slice::from_ref(&root))).await.err();
    assert!(matches!(taken, Some(DriverError::Conflict(_))), "{taken:?}");
    let twice = hypervisor.begin_instant(instant_request("new", "t1", 1, &[root.clone(), root])).await.err();
    assert!(matches!(twice, Some(DriverError::Conflict(_))), "{twice:?}");
    assert!(hypervisor.begin_instant(instant_request("new", "t1", 1, &[])).await.is_err());
    assert!(find(&hypervisor, "new").await.is_none(), "nothing was half made");
}
