//! Conformance of moves between datastores.

use super::{MachineFixture, find, pattern};
use portolan_driver::{AbandonedMove, DriverError, HomeProgress, MoveRequest, NativeVm, PowerAction, PowerRequest};
use portolan_model::vm::PowerState;
use std::sync::{Mutex, PoisonError};

/// The cases, each on a platform of its own; with machines that run where the driver has power over them.
pub async fn moves_all<F: MachineFixture>(make: impl Fn() -> F) {
    let can = make().hypervisor().capabilities();
    if !can.moves {
        return moves_are_unsupported(&make()).await;
    }
    a_machine_moves_with_its_disks(&make(), false).await;
    if can.power {
        a_machine_moves_with_its_disks(&make(), true).await;
    }
    bad_moves_are_refused(&make()).await;
}

fn wish(vm: &NativeVm, token: &str, datastore: &str) -> MoveRequest {
    let (native_id, incarnation) = (vm.native_id.clone(), vm.incarnation.clone());
    MoveRequest { vm: native_id, incarnation, token: token.into(), fence: 1, datastore: datastore.into() }
}

fn abandoned(vm: &NativeVm, token: &str) -> AbandonedMove {
    let (native_id, incarnation) = (vm.native_id.clone(), vm.incarnation.clone());
    AbandonedMove { vm: native_id, incarnation, token: token.into(), fence: 1 }
}

/// There and back: it is the same machine, in the same state, and holds the same.
pub async fn a_machine_moves_with_its_disks(f: &impl MachineFixture, running: bool) {
    let disks = [("root", pattern(1, 1 << 20))];
    f.add_vm("alpha", &disks).await;
    f.add_datastore("second").await;
    let hypervisor = f.hypervisor();
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    let first = vm.disks[0].datastore.clone().expect("a datastore");
    let power = |action| PowerRequest { vm: vm.native_id.clone(), incarnation: vm.incarnation.clone(), action };
    if running {
        hypervisor.power(power(PowerAction::Start)).await.expect("on");
    }
    for (n, to) in ["second", first.as_str(), "second", "second"].into_iter().enumerate() {
        let seen = Mutex::new(Vec::new());
        let observer = |progress: HomeProgress| seen.lock().unwrap_or_else(PoisonError::into_inner).push(progress);
        let moved = hypervisor.move_machine(wish(&vm, &format!("t{n}"), to), &observer).await.expect("moved");
        assert_eq!((&moved.native_id, &moved.incarnation), (&vm.native_id, &vm.incarnation));
        let listed = find(&hypervisor, "alpha").await.expect("it is listed");
        assert_eq!(listed.power, if running { PowerState::Running } else { PowerState::Stopped });
        for vm in [&moved, &listed] {
            assert!(vm.disks.iter().all(|disk| disk.datastore.as_deref() == Some(to)), "{vm:?}");
        }
        let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        assert!(seen.iter().all(|progress| progress.done <= progress.total), "{seen:?}");
        // It has been switched over.
        hypervisor.move_machine(wish(&vm, &format!("t{n}"), to), &|_| {}).await.expect("there already");
        hypervisor.abandon_move(abandoned(&vm, &format!("t{n}"))).await.expect("nothing to let go of");
        if running {
            hypervisor.power(power(PowerAction::Off)).await.expect("off");
        }
        for (name, content) in &disks {
            assert!(f.disk("alpha", name).await == *content, "{name}");
        }
        if running {
            hypervisor.power(power(PowerAction::Start)).await.expect("on");
        }
    }
}

/// What is not there, and what is another machine by now.
pub async fn bad_moves_are_refused(f: &impl MachineFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    f.add_datastore("second").await;
    let hypervisor = f.hypervisor();
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    let missing = |error: Option<DriverError>, what: &str| {
        assert!(matches!(error, Some(DriverError::NotFound { .. })), "{what}: {error:?}");
    };
    missing(hypervisor.move_machine(wish(&vm, "t1", "third"), &|_| {}).await.err(), "datastore");
    missing(hypervisor.move_machine(wish(&vm, "t1", "../second"), &|_| {}).await.err(), "datastore");
    let other = NativeVm { incarnation: "another".into(), ..vm.clone() };
    missing(hypervisor.move_machine(wish(&other, "t1", "second"), &|_| {}).await.err(), "incarnation");
    let other = NativeVm { native_id: "another".into(), ..vm.clone() };
    missing(hypervisor.move_machine(wish(&other, "t1", "second"), &|_| {}).await.err(), "machine");
    for gone in [&vm, &other] {
        hypervisor.abandon_move(abandoned(gone, "t1")).await.expect("nothing to let go of");
    }
    assert_eq!(find(&hypervisor, "alpha").await.expect("it is listed").disks, vm.disks);
}

/// A driver that moves nothing says so.
pub async fn moves_are_unsupported(f: &impl MachineFixture) {
    f.add_vm("alpha", &[("root", pattern(1, 4096))]).await;
    let hypervisor = f.hypervisor();
    let vm = find(&hypervisor, "alpha").await.expect("alpha");
    let error = hypervisor.move_machine(wish(&vm, "t1", "second"), &|_| {}).await.err();
    assert!(matches!(error, Some(DriverError::Unsupported(_))), "{error:?}");
    hypervisor.abandon_move(abandoned(&vm, "t1")).await.expect("nothing to let go of");
}
