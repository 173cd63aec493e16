//! Moves between datastores: of guests that are off, of guests that run and write, and of those that are cut off.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::exports::{ask, export, pull, request, same, truth};
use common::killed::{self, Portolan};
use common::{LONG, Place, comes_to, machines, open, own, shell, wish};
use portolan_driver::{AbandonedMove, Changes, DriverError, Hypervisor, MoveRequest, SnapshotRequest};
use portolan_driver_qemu::{Guest, GuestState, MoveStage, QemuHost, QemuHypervisor};
use portolan_testkit::driver::pattern;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn to(guest: &Guest, token: &str, fence: i64, datastore: &str) -> MoveRequest {
    let (vm, incarnation) = (guest.id().to_owned(), guest.spec().incarnation);
    MoveRequest { vm, incarnation, token: token.into(), fence, datastore: datastore.into() }
}

fn abandoned(guest: &Guest, token: &str, fence: i64) -> AbandonedMove {
    let (vm, incarnation) = (guest.id().to_owned(), guest.spec().incarnation);
    AbandonedMove { vm, incarnation, token: token.into(), fence }
}

fn add_datastores(root: &Path) {
    for name in ["default", "second"] {
        std::fs::create_dir_all(root.join("datastores").join(name)).unwrap();
    }
}

/// The guest's disks are there, whole, and nowhere else.
fn is_at(place: &Place, guest: &Guest, datastore: &str) {
    let spec = guest.spec();
    assert_eq!(spec.moving, None);
    assert!(spec.disks.iter().all(|disk| disk.datastore == datastore), "{spec:?}");
    for store in machines::names(&place.root().join("datastores")) {
        let dir = place.root().join("datastores").join(&store).join(guest.id());
        let there = if dir.exists() { machines::names(&dir) } else { Vec::new() };
        let wanted =
            if store == datastore { spec.disks.iter().map(|disk| disk.file.clone()).collect() } else { vec![] };
        assert_eq!(there, wanted, "on '{store}'");
    }
}

/// It runs on those disks, and QEMU has nothing else.
async fn goes_on(guest: &Guest) {
    assert_eq!(guest.observed().state, GuestState::Running);
    assert_eq!(ask(guest, "query-status", Value::Null).await["status"], "running");
    assert_eq!(ask(guest, "query-jobs", Value::Null).await, json!([]));
    let nodes = ask(guest, "query-named-block-nodes", json!({ "flat": true })).await;
    let mut named: Vec<_> = nodes.as_array().unwrap().iter().map(|node| node["node-name"].as_str().unwrap()).collect();
    named.retain(|name| name.starts_with('d') && !name.contains("-base"));
    named.sort_unstable();
    let mut wanted: Vec<String> =
        guest.node_names().into_iter().flat_map(|(_, node)| [node.clone(), format!("{node}-file")]).collect();
    wanted.sort_unstable();
    assert_eq!(named, wanted);
}

/// Writes as the guest does.
async fn guest_writes(guest: &Guest, disk: &str, at: u64, len: u64, byte: u8) {
    let line = format!("qemu-io -d /machine/peripheral/disk-{disk}/virtio-backend \"write -P {byte} {at} {len}\"");
    let said = ask(guest, "human-monitor-command", json!({ "command-line": line })).await;
    assert_eq!(said.as_str().unwrap().trim(), "", "{line}");
}

/// A guest of two disks, which boots nothing.
async fn running(place: &Place, host: &Arc<QemuHost>) -> Arc<Guest> {
    let spec = machines::make(place, "alpha", &[("root", pattern(1, 4 << 20)), ("data", pattern(2, 1 << 20))]);
    let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    guest
}

/// Snapshots, checkpoints and content go along.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_off_takes_snapshots_and_checkpoints_along() {
    let place = Place::new();
    let host = place.open().await;
    add_datastores(&place.root());
    let spec = machines::make(&place, "alpha", &[("root", pattern(1, 4 << 20)), ("data", pattern(2, 1 << 20))]);
    let hypervisor = QemuHypervisor::new(host.clone());
    let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
    let snapshot = SnapshotRequest {
        vm: spec.id.clone(),
        incarnation: spec.incarnation.clone(),
        token: "s".into(),
        name: "before".into(),
        memory: false,
    };
    let kept = hypervisor.create_snapshot(snapshot).await.unwrap();
    let session = export(&host, request(&guest, "b1", 1)).await;
    let checkpoint = session.exported().checkpoint.clone().unwrap();
    session.release(true).await.unwrap();
    // An export that is open ends: its files go.
    let keep = vec![checkpoint.clone()];
    let session = export(&host, portolan_driver::ExportRequest { keep, ..request(&guest, "b2", 1) }).await;
    hypervisor.move_machine(to(&guest, "t1", 1, "second"), &|_| {}).await.unwrap();
    let lost = session.exported().disks[0].source.read_at(0, 4096).await;
    assert!(lost.is_err(), "of another moment");
    drop(session);
    is_at(&place, &guest, "second");
    for disk in ["root", "data"] {
        assert_eq!(machines::bitmaps(&machines::disk_file(&place, "alpha", disk)), [checkpoint.as_str()], "{disk}");
    }
    machines::write(&place, "alpha", "root", 2 * MIB, &pattern(9, 64 << 10));
    let since = Some(checkpoint);
    let session = export(&host, portolan_driver::ExportRequest { since, ..request(&guest, "b3", 1) }).await;
    let changed = &session.exported().disks[0].changes;
    let Changes::Ranges(ranges) = changed else { panic!("{changed:?}") };
    let told: Vec<_> = ranges.iter().map(|range| (range.start, range.end)).collect();
    assert_eq!(told, [(2 * MIB, 2 * MIB + 64 * KIB)]);
    session.release(false).await.unwrap();
    let back = portolan_driver::SnapshotRef {
        vm: spec.id.clone(),
        incarnation: spec.incarnation.clone(),
        snapshot: kept.native_id,
    };
    hypervisor.revert_snapshot(back).await.unwrap();
    let (now, before) = (place.root().join("now"), place.root().join("before"));
    truth(&place, &guest, "root", &now);
    std::fs::write(&before, pattern(1, 4 << 20)).unwrap();
    same(&now, &before);
}

/// The guest writes before, in between and after; the backup after that reads just what it wrote.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_runs_goes_on_and_its_next_backup_is_incremental() {
    let place = Place::new();
    let host = place.open().await;
    add_datastores(&place.root());
    let hypervisor = QemuHypervisor::new(host.clone());
    let guest = running(&place, &host).await;
    let pid = guest.pid();
    let session = export(&host, request(&guest, "b1", 1)).await;
    let backup = place.root().join("backup");
    pull(&session.exported().disks[0], &backup).await;
    let mut since = session.exported().checkpoint.clone();
    // Somebody reads it: not now.
    let refused = hypervisor.move_machine(to(&guest, "t0", 1, "second"), &|_| {}).await;
    assert!(matches!(&refused, Err(DriverError::Conflict(why)) if why.contains("backup")), "{refused:?}");
    hypervisor.abandon_move(abandoned(&guest, "t0", 1)).await.unwrap();
    session.release(true).await.unwrap();
    for (n, store) in ["second", "default", "second"].into_iter().enumerate() {
        let n = n as u64;
        guest_writes(&guest, "d0", n * 128 * KIB, 64 * KIB, 100 + n as u8).await;
        let request_of = to(&guest, &format!("t{n}"), 1, store);
        let during = async {
            for k in 0..20 {
                guest_writes(&guest, "d0", MIB + k * 64 * KIB, 64 * KIB, (k + n) as u8 + 1).await;
            }
        };
        let (moved, ()) = tokio::join!(hypervisor.move_machine(request_of, &|_| {}), during);
        moved.unwrap();
        is_at(&place, &guest, store);
        goes_on(&guest).await;
        assert_eq!(guest.pid(), pid, "it is the same process");
        guest_writes(&guest, "d0", 3 * MIB + n * 64 * KIB, 64 * KIB, 200 + n as u8).await;
        let token = format!("after {n}");
        let session = export(&host, portolan_driver::ExportRequest { since, ..request(&guest, &token, 1) }).await;
        let disk = &session.exported().disks[0];
        let Changes::Ranges(ranges) = &disk.changes else { panic!("{:?}", disk.changes) };
        let told: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        assert!((22 * 64 * KIB..=23 * 64 * KIB).contains(&told), "{ranges:?}");
        pull(disk, &backup).await;
        since = session.exported().checkpoint.clone();
        session.release(true).await.unwrap();
        let now = place.root().join("now");
        truth(&place, &guest, "root", &now);
        same(&now, &backup);
    }
    guest.power_off().await.unwrap();
    let now = place.root().join("now");
    truth(&place, &guest, "root", &now);
    same(&now, &backup);
    // What QEMU was told to keep it kept.
    let session = export(&host, portolan_driver::ExportRequest { since, ..request(&guest, "off", 1) }).await;
    let changed = &session.exported().disks[0].changes;
    assert!(matches!(changed, Changes::Ranges(ranges) if ranges.is_empty()), "{changed:?}");
    session.release(false).await.unwrap();
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    goes_on(&guest).await;
}

/// A disk over an image keeps lying over it, and a snapshot is in the way of a mirror only.
#[tokio::test(flavor = "multi_thread")]
async fn what_lies_below_a_disk_stays_where_it_is() {
    let place = Place::with_blank();
    let host = place.open().await;
    add_datastores(&place.root());
    let hypervisor = QemuHypervisor::new(host.clone());
    let guest = own(host.create(wish("alpha", "blank")).await.unwrap());
    comes_to(&guest, GuestState::Running).await;
    assert!(!guest.spec().disks[0].base.is_empty());
    guest_writes(&guest, "d0", 512 * KIB, 4 * KIB, 7).await;
    hypervisor.move_machine(to(&guest, "t1", 1, "second"), &|_| {}).await.unwrap();
    is_at(&place, &guest, "second");
    goes_on(&guest).await;
    let file = machines::disk_file(&place, "alpha", "root");
    let taken = std::fs::metadata(file).unwrap().len();
    assert!(taken < MIB, "the image below was not copied: {taken}");
    let snapshot = SnapshotRequest {
        vm: guest.id().into(),
        incarnation: guest.spec().incarnation,
        token: "s".into(),
        name: "s".into(),
        memory: false,
    };
    hypervisor.create_snapshot(snapshot.clone()).await.unwrap();
    let refused = hypervisor.move_machine(to(&guest, "t2", 1, "default"), &|_| {}).await;
    assert!(matches!(&refused, Err(DriverError::Conflict(why)) if why.contains("snapshots")), "{refused:?}");
    // Nor is there a second one while it is being moved.
    let refused = hypervisor.create_snapshot(SnapshotRequest { token: "z".into(), ..snapshot }).await;
    assert!(matches!(&refused, Err(DriverError::Conflict(why)) if why.contains("moved")), "{refused:?}");
    hypervisor.abandon_move(abandoned(&guest, "t2", 1)).await.unwrap();
    is_at(&place, &guest, "second");
    guest.power_off().await.unwrap();
    hypervisor.move_machine(to(&guest, "t3", 1, "default"), &|_| {}).await.unwrap();
    is_at(&place, &guest, "default");
    let (now, wanted) = (place.root().join("now"), place.root().join("wanted"));
    truth(&place, &guest, "root", &now);
    let mut content = vec![0; std::fs::metadata(&now).unwrap().len() as usize];
    content[512 << 10..][..4 << 10].fill(7);
    std::fs::write(&wanted, content).unwrap();
    same(&now, &wanted);
}

/// Older attempts have no say, another move takes over, and whoever gives up leaves the guest where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_held_by_the_newest_and_can_be_given_up() {
    let place = Place::new();
    let host = place.open().await;
    add_datastores(&place.root());
    std::fs::create_dir(place.root().join("datastores/third")).unwrap();
    let hypervisor = QemuHypervisor::new(host.clone());
    let guest = running(&place, &host).await;
    for (n, give_up) in [false, true].into_iter().enumerate() {
        let token = format!("t{n}");
        let moving = hypervisor.move_machine(to(&guest, &token, 2, "second"), &|_| {});
        let begun = async {
            let mut tries = 0;
            while guest.spec().moving.is_none_or(|moving| moving.token != token) {
                tries += 1;
                assert!(tries < 100_000, "it never began");
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            done = moving => panic!("it is not that fast: {done:?}"),
            () = begun => {}
        }
        // The caller is gone from here on.
        let older = hypervisor.move_machine(to(&guest, &token, 1, "second"), &|_| {}).await;
        assert!(matches!(older, Err(DriverError::Fenced)), "{older:?}");
        let older = hypervisor.abandon_move(abandoned(&guest, &token, 1)).await;
        assert!(matches!(older, Err(DriverError::Fenced)), "{older:?}");
        let other = hypervisor.move_machine(to(&guest, &token, 3, "third"), &|_| {}).await;
        assert!(matches!(other, Err(DriverError::Conflict(_))), "{other:?}");
        if give_up {
            hypervisor.abandon_move(abandoned(&guest, &token, 3)).await.unwrap();
            is_at(&place, &guest, "third");
        } else {
            // Another move of the guest takes over.
            hypervisor.move_machine(to(&guest, "another", 1, "third"), &|_| {}).await.unwrap();
            is_at(&place, &guest, "third");
        }
        goes_on(&guest).await;
    }
    // Destroyed in the middle, nothing of it is left anywhere.
    let mover = tokio::spawn({
        let (hypervisor, wish) = (hypervisor.clone(), to(&guest, "last", 1, "second"));
        async move { hypervisor.move_machine(wish, &|_| {}).await }
    });
    let (id, incarnation) = (guest.id().to_owned(), guest.spec().incarnation);
    host.destroy(&id, &incarnation).await.unwrap();
    let _ = mover.await.unwrap();
    for store in ["default", "second", "third"] {
        assert!(!place.root().join("datastores").join(store).join(&id).exists(), "{store}");
    }
    assert_eq!(place.processes(), [0_u32; 0]);
}

/// What Portolan was doing when it ended, it may find in any state: the guest goes on, and the move goes on or away.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_was_cut_off_is_ended() {
    let place = Place::new();
    add_datastores(&place.root());
    let mut host = place.open().await;
    let guest = running(&place, &host).await;
    let (id, incarnation) = (guest.id().to_owned(), guest.spec().incarnation);
    guest_writes(&guest, "d0", 0, 64 * KIB, 77).await;
    drop(guest);
    // How it looks when QEMU had not gone over, and the guest was held; and when QEMU is gone as well.
    for (n, alive) in [true, false].into_iter().enumerate() {
        let guest = host.guest(&id, &incarnation).await.unwrap();
        ask(&guest, "stop", Value::Null).await;
        let pid = guest.pid().unwrap();
        drop(guest);
        host.close().await;
        if !alive {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        let path = place.root().join("guests").join(&id).join("guest.json");
        let mut document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        document["moving"] = json!({
            "token": format!("t{n}"), "fence": 1, "datastore": "second", "stage": MoveStage::Switching, "go_on": true,
        });
        std::fs::write(&path, document.to_string()).unwrap();
        host = place.open().await;
        let guest = host.guest(&id, &incarnation).await.unwrap();
        let settled = async {
            while guest.spec().moving.is_none_or(|moving| moving.stage == MoveStage::Switching || moving.go_on) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, settled).await.unwrap();
        if alive {
            comes_to(&guest, GuestState::Running).await;
        } else {
            comes_to(&guest, GuestState::Stopped).await;
        }
        let hypervisor = QemuHypervisor::new(host.clone());
        hypervisor.move_machine(to(&guest, &format!("t{n}"), 2, "second"), &|_| {}).await.unwrap();
        is_at(&place, &guest, "second");
        if alive {
            goes_on(&guest).await;
            hypervisor.move_machine(to(&guest, "back", 2, "default"), &|_| {}).await.unwrap();
        }
    }
    let guest = host.guest(&id, &incarnation).await.unwrap();
    let (now, wanted) = (place.root().join("now"), place.root().join("wanted"));
    truth(&place, &guest, "root", &now);
    let mut content = pattern(1, 4 << 20);
    content[..64 << 10].fill(77);
    std::fs::write(&wanted, content).unwrap();
    same(&now, &wanted);
}

/// Not a test by itself: what the next one starts and kills.
#[tokio::test(flavor = "multi_thread")]
async fn portolan() {
    let Some(root) = killed::root() else { return };
    let host = open(killed::settings(&root)).await;
    let hypervisor = QemuHypervisor::new(host.clone());
    let seen = host.list().await.unwrap().remove(0);
    let guest = own(seen);
    std::fs::write(root.join("begun"), "").unwrap();
    hypervisor.move_machine(to(&guest, "t1", 1, "second"), &|_| {}).await.unwrap();
    std::fs::write(root.join("done"), "").unwrap();
    std::future::pending::<()>().await;
}

/// A system that writes while its disks are moved has written what it thinks, also after it was booted again.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_guest_writes_on_while_it_is_moved() {
    let place = Place::with_demo();
    let host = open(place.demo_settings()).await;
    add_datastores(&place.root());
    let hypervisor = QemuHypervisor::new(host.clone());
    let guest = own(host.create(wish("demo", "demo")).await.unwrap());
    let write = "cd /data && for n in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=f$n bs=64k count=16; sync; done && \
                 sha256sum f? > sums && sync && mv sums done";
    shell(&guest, &format!("({write}) > /dev/null 2>&1 &")).await;
    let moved = tokio::time::timeout(LONG, hypervisor.move_machine(to(&guest, "t1", 1, "second"), &|_| {}));
    moved.await.expect("it is moved").unwrap();
    is_at(&place, &guest, "second");
    goes_on(&guest).await;
    let whole = "while [ ! -e /data/done ]; do usleep 100000; done; sync; echo 3 > /proc/sys/vm/drop_caches; \
                 cd /data && sha256sum -c done | grep -c OK";
    assert_eq!(shell(&guest, whole).await, "8\n");
    guest.stop().await.unwrap();
    comes_to(&guest, GuestState::Stopped).await;
    let file = machines::disk_file(&place, "demo", "root");
    machines::run("qemu-img", &["check", "-q", machines::text(&file)]);
    guest.start().await.unwrap();
    assert_eq!(shell(&guest, whole).await, "8\n");
    host.destroy(guest.id(), &guest.spec().incarnation).await.unwrap();
    assert_eq!(place.processes(), [0_u32; 0]);
}

/// How far a move looks to be, by its files.
struct Seen {
    stage: Option<MoveStage>,
    copies: bool,
    former: bool,
    done: bool,
}

fn look(root: &Path, id: &str) -> Seen {
    let document = std::fs::read(root.join("guests").join(id).join("guest.json")).unwrap_or_default();
    let document: Value = serde_json::from_slice(&document).unwrap_or_default();
    let file = |store: &str| root.join("datastores").join(store).join(id).join("d0.qcow2").exists();
    Seen {
        stage: serde_json::from_value(document["moving"]["stage"].clone()).ok(),
        copies: file("second"),
        former: file("default"),
        done: root.join("done").exists(),
    }
}

/// Portolan is killed at each point of a move, of a guest that runs and of one that is off.
#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_the_guest_goes_on_and_is_moved_whole() {
    type Point = (&'static str, fn(&Seen) -> bool);
    let points: [Point; 7] = [
        ("begun", |_| true),
        ("written down", |seen| seen.stage.is_some() || seen.done),
        ("copying", |seen| seen.copies),
        ("switching", |seen| seen.stage == Some(MoveStage::Switching) || !seen.former),
        ("switched", |seen| seen.stage == Some(MoveStage::Switched) || !seen.former),
        ("cleared", |seen| !seen.former),
        ("done", |seen| seen.done),
    ];
    let mut early = 0;
    for (round, (name, point)) in points.iter().chain(&points).enumerate() {
        let runs = round < points.len();
        let place = Place::new();
        let root = place.root();
        add_datastores(&root);
        let host = open(killed::settings(&root)).await;
        let guest = running(&place, &host).await;
        guest_writes(&guest, "d0", 0, 64 * KIB, 77).await;
        if !runs {
            guest.power_off().await.unwrap();
        }
        let (id, incarnation, pid) = (guest.id().to_owned(), guest.spec().incarnation, guest.pid());
        drop(guest);
        host.close().await;
        drop(host);

        let portolan = Portolan::start(&root);
        killed::appears(&root, "", "begun").await;
        killed::until(name, || point(&look(&root, &id))).await;
        drop(portolan);
        early += u32::from(!look(&root, &id).done);

        let host = open(killed::settings(&root)).await;
        let hypervisor = QemuHypervisor::new(host.clone());
        let guest = host.guest(&id, &incarnation).await.unwrap();
        comes_to(&guest, if runs { GuestState::Running } else { GuestState::Stopped }).await;
        assert_eq!(guest.pid(), pid, "{name}");
        if runs {
            guest_writes(&guest, "d0", 64 * KIB, 64 * KIB, 78).await;
        }
        if round % 2 == 0 {
            hypervisor.move_machine(to(&guest, "t1", 2, "second"), &|_| {}).await.unwrap();
            is_at(&place, &guest, "second");
        } else {
            hypervisor.abandon_move(abandoned(&guest, "t1", 2)).await.unwrap();
            let store = guest.spec().disks[0].datastore.clone();
            is_at(&place, &guest, &store);
        }
        if runs {
            goes_on(&guest).await;
            guest.power_off().await.unwrap();
        }
        let (now, wanted) = (root.join("now"), root.join("wanted"));
        truth(&place, &guest, "root", &now);
        let mut content = pattern(1, 4 << 20);
        content[..64 << 10].fill(77);
        if runs {
            content[64 << 10..128 << 10].fill(78);
        }
        std::fs::write(&wanted, content).unwrap();
        same(&now, &wanted);
        host.destroy(&id, &incarnation).await.unwrap();
        assert_eq!(place.processes(), [0_u32; 0]);
    }
    assert!(early >= 6, "it was struck {early} times before its end");
}
