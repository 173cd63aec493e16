//! Guests that run from a backup: the demo guest under TCG.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;
mod source;

use common::{LONG, Place, comes_to, console_says, open, own, shell};
use portolan_driver::{AbandonedInstant, DriverError, HomeProgress, Hypervisor, Readiness, Ready};
use portolan_driver_qemu::{Guest, GuestState, QemuHost, QemuHypervisor};
use source::{FileSource, demo_backup, wish};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

async fn guest_of(host: &Arc<QemuHost>) -> Arc<Guest> {
    own(host.list().await.unwrap().remove(0))
}

/// The checksum of the backup's first partition, which nobody writes to.
fn first_partition(backup: &Path) -> String {
    let file = std::fs::File::open(backup).unwrap();
    let mut entry = [0; 8];
    file.read_exact_at(&mut entry, 446 + 8).unwrap();
    let number = |at: usize| u64::from(u32::from_le_bytes(entry[at..at + 4].try_into().unwrap())) * 512;
    let mut bytes = vec![0; usize::try_from(number(4)).unwrap()];
    file.read_exact_at(&mut bytes, number(0)).unwrap();
    let mut sum = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut sum.stdin.take().unwrap(), &bytes).unwrap();
    let told = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
    told.split_whitespace().next().unwrap().to_owned()
}

async fn nodes(guest: &Guest) -> String {
    guest.qmp().unwrap().execute("query-named-block-nodes", None).await.unwrap().to_string()
}

fn nothing_is_left(place: &Place) {
    assert_eq!(place.processes(), [0_u32; 0]);
    for dir in ["guests", "datastores/default"] {
        let left: Vec<_> = std::fs::read_dir(place.root().join(dir)).unwrap().flatten().collect();
        assert!(left.is_empty(), "{dir}: {left:?}");
    }
}

const WRITE: &str = "dd if=/dev/urandom of=/data/a bs=64k count=64 2>/dev/null && sync && sha256sum /data/a";
const SUMS: &str = "echo 3 > /proc/sys/vm/drop_caches; sha256sum /data/a; sha256sum /dev/vda1";

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_runs_from_a_backup_and_comes_home() {
    let place = Place::new();
    let backup = demo_backup(&place.root());
    let host = open(place.demo_settings()).await;
    let hypervisor = QemuHypervisor::new(host.clone());
    let source = FileSource::open(&backup);

    let began = Instant::now();
    let session = hypervisor.begin_instant(wish("alpha", "t1", 1, std::slice::from_ref(&source))).await.unwrap();
    println!("instant: process up after {:?}", began.elapsed());
    let vm = session.vm();
    assert_eq!((vm.name.as_str(), vm.power), ("alpha", portolan_model::vm::PowerState::Running));
    let Readiness::Reached(after) = session.ready(LONG, Ready::Console("GUEST-READY".into())).await.unwrap() else {
        panic!("it does not boot")
    };
    println!("instant: ready after {after:?}");
    let ready = session.ready(Duration::MAX, Ready::Agent).await.unwrap();
    assert!(matches!(ready, Readiness::Reached(_)), "{ready:?}");
    let guest = guest_of(&host).await;
    let written = shell(&guest, WRITE).await;
    let before = shell(&guest, SUMS).await;
    assert!(before.starts_with(written.trim_end()) && before.contains(&first_partition(&backup)), "{before}");
    assert!(nodes(&guest).await.contains("\"nbd\""));

    // Nobody else has that name, older attempts have no say, and another machine has another token.
    let taken = hypervisor.begin_instant(wish("alpha", "t2", 1, std::slice::from_ref(&source))).await.err();
    assert!(matches!(taken, Some(DriverError::Conflict(_))), "{taken:?}");
    let older = hypervisor.begin_instant(wish("alpha", "t1", 0, std::slice::from_ref(&source))).await.err();
    assert!(matches!(older, Some(DriverError::Fenced)), "{older:?}");
    let other = hypervisor.begin_instant(wish("beta", "t1", 1, std::slice::from_ref(&source))).await.err();
    assert!(matches!(other, Some(DriverError::Conflict(_))), "{other:?}");

    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let began = Instant::now();
    session.bring_home(&move |progress: HomeProgress| kept.lock().unwrap().push(progress)).await.unwrap();
    println!("instant: home after {:?}", began.elapsed());
    let last = *seen.lock().unwrap().last().unwrap();
    assert_eq!(last.done, last.total);
    session.bring_home(&|_| {}).await.expect("again is fine");
    session.abort().await.expect("once it is home this does nothing");
    drop(session);
    drop(source);
    std::fs::remove_file(&backup).unwrap();
    assert!(!nodes(&guest).await.contains("\"nbd\""), "{}", nodes(&guest).await);
    assert!(!guest.dir().join("backup.sock").exists());
    assert_eq!(guest.spec().instant.unwrap().remote, [""; 0]);
    assert_eq!(shell(&guest, SUMS).await, before);

    // It stands alone, also over a restart of its own.
    guest.stop().await.unwrap();
    comes_to(&guest, GuestState::Stopped).await;
    let disk = guest.disk_files().remove(0).1;
    let info = Command::new("qemu-img").args(["info", "--output=json"]).arg(&disk).output().unwrap();
    assert!(!String::from_utf8_lossy(&info.stdout).contains("backing-filename"));
    let began = Instant::now();
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    console_says(&guest, "GUEST-READY").await;
    println!("own disk: ready after {:?}", began.elapsed());
    assert_eq!(shell(&guest, SUMS).await, before);
    host.destroy(guest.id(), &guest.spec().incarnation).await.unwrap();
    nothing_is_left(&place);
}

/// Portolan is restarted while the guest boots, and again while its data comes home.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_portolan_is_survived() {
    let place = Place::new();
    let backup = demo_backup(&place.root());
    let host = open(place.demo_settings()).await;
    let source = FileSource::open(&backup);
    let hypervisor = QemuHypervisor::new(host.clone());
    let session = hypervisor.begin_instant(wish("alpha", "t1", 1, std::slice::from_ref(&source))).await.unwrap();
    console_says(&*guest_of(&host).await, "SYSLINUX").await;
    let pid = guest_of(&host).await.pid();
    drop((session, hypervisor));
    host.close().await;
    drop(host);

    let host = open(place.demo_settings()).await;
    let guest = guest_of(&host).await;
    assert_eq!(guest.pid(), pid, "the same process");
    let hypervisor = QemuHypervisor::new(host.clone());
    let request = || wish("alpha", "t1", 2, std::slice::from_ref(&source));
    let session = hypervisor.begin_instant(request()).await.unwrap();
    assert!(matches!(session.ready(LONG, Ready::Agent).await.unwrap(), Readiness::Reached(_)));
    shell(&guest, WRITE).await;
    let before = shell(&guest, SUMS).await;
    // Its data is half home when the backup goes away, and Portolan with it.
    source.allowance.store(8 << 20, std::sync::atomic::Ordering::SeqCst);
    let halfway = async {
        while source.allowance.load(std::sync::atomic::Ordering::SeqCst) > 1 << 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        done = session.bring_home(&|_| {}) => panic!("it cannot be home: {done:?}"),
        () = halfway => {}
    }
    drop((session, hypervisor, guest));
    host.close().await;
    drop(host);
    source.allowance.store(u64::MAX, std::sync::atomic::Ordering::SeqCst);

    let host = open(place.demo_settings()).await;
    let hypervisor = QemuHypervisor::new(host.clone());
    let session = hypervisor.begin_instant(request()).await.unwrap();
    tokio::time::timeout(LONG, session.bring_home(&|_| {})).await.unwrap().unwrap();
    drop(session);
    let guest = guest_of(&host).await;
    assert_eq!((guest.pid(), guest.spec().instant.unwrap().remote.is_empty()), (pid, true));
    assert_eq!(shell(&guest, SUMS).await, before);
    // Whoever asks again gets the guest as it is.
    let session = hypervisor.begin_instant(request()).await.unwrap();
    session.bring_home(&|_| {}).await.unwrap();
    assert_eq!(session.vm().native_id, guest.id());
    hypervisor.abandon_instant(AbandonedInstant { token: "t1".into(), fence: 9 }).await.unwrap();
    host.destroy(guest.id(), &guest.spec().incarnation).await.unwrap();
    drop((session, guest));
    nothing_is_left(&place);
}

/// The backup is not to be had for a while: the guest stands still, and goes on. QEMU is killed: it is started again.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_waits_for_its_backup_and_can_be_started_again() {
    let place = Place::new();
    let backup = demo_backup(&place.root());
    let host = open(place.demo_settings()).await;
    let source = FileSource::open(&backup);
    let hypervisor = QemuHypervisor::new(host.clone());
    let request = |fence| wish("alpha", "t1", fence, std::slice::from_ref(&source));
    let session = hypervisor.begin_instant(request(1)).await.unwrap();
    let guest = guest_of(&host).await;
    console_says(&guest, "SYSLINUX").await;
    source.broken.store(true, std::sync::atomic::Ordering::SeqCst);
    comes_to(&guest, GuestState::Paused).await;
    source.broken.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(session.ready(LONG, Ready::Agent).await.unwrap(), Readiness::Reached(_)));

    let pid = i32::try_from(guest.pid().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    comes_to(&guest, GuestState::Stopped).await;
    let missed = session.ready(LIMIT, Ready::Agent).await.unwrap();
    assert!(matches!(missed, Readiness::Missed { .. }), "{missed:?}");
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    console_says(&guest, "GUEST-READY").await;
    let failed = hypervisor.create_snapshot(portolan_driver::SnapshotRequest {
        vm: guest.id().into(),
        incarnation: guest.spec().incarnation,
        token: "s".into(),
        name: "too early".into(),
        memory: false,
    });
    assert!(matches!(failed.await, Err(DriverError::Conflict(_))));
    // A newer attempt takes over what the older one serves.
    let newer = hypervisor.begin_instant(request(2)).await.unwrap();
    assert!(matches!(session.bring_home(&|_| {}).await, Err(DriverError::Fenced)));
    assert!(matches!(session.abort().await, Err(DriverError::Fenced)));
    drop(session);
    shell(&guest, "cat /dev/vda1 > /dev/null").await;
    newer.abort().await.unwrap();
    newer.abort().await.unwrap();
    drop((newer, guest));
    nothing_is_left(&place);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_boots_alone_and_leaves_nothing() {
    let place = Place::new();
    let backup = demo_backup(&place.root());
    let host = open(place.demo_settings()).await;
    let source = FileSource::open(&backup);
    let hypervisor = QemuHypervisor::new(host.clone());
    let mut request = wish("alpha", "t1", 1, std::slice::from_ref(&source));
    request.isolated = true;
    let began = Instant::now();
    let session = hypervisor.begin_instant(request.clone()).await.unwrap();
    let Readiness::Reached(after) = session.ready(LONG, Ready::Agent).await.unwrap() else { panic!("no boot") };
    println!("trial: ready after {after:?}");
    assert!(host.list().await.unwrap().is_empty(), "nobody sees it");
    assert!(hypervisor.inventory().await.unwrap().vms.is_empty());
    assert!(session.vm().nics.is_empty());
    assert!(matches!(session.bring_home(&|_| {}).await, Err(DriverError::Conflict(_))));
    session.abort().await.unwrap();
    println!("trial: gone after {:?}", began.elapsed());
    drop(session);
    nothing_is_left(&place);

    // One that never becomes ready says what its console said; one that is dropped goes; one whose Portolan is gone
    // goes when the next one looks.
    let session = hypervisor.begin_instant(request.clone()).await.unwrap();
    let missed = session.ready(Duration::from_secs(1), Ready::Console("never said".into())).await.unwrap();
    assert!(matches!(&missed, Readiness::Missed { reason, .. } if reason.contains("never said")), "{missed:?}");
    drop(session);
    let gone = async {
        while !place.processes().is_empty() || place.root().join("guests").read_dir().unwrap().next().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
    let session = hypervisor.begin_instant(request).await.unwrap();
    host.close().await;
    drop((session, hypervisor, host));
    let host = open(place.demo_settings()).await;
    assert!(host.list().await.unwrap().is_empty());
    let ended = async {
        while !place.processes().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, ended).await.unwrap();
    nothing_is_left(&place);
}

/// A guest that is off comes home as well, and so does one that is turned off in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_off_comes_home() {
    let place = Place::new();
    let host = place.open().await;
    let hypervisor = QemuHypervisor::new(host.clone());
    let mut content: Vec<u8> = (0..8 << 20).map(|n: u32| (n / 4096 % 251 + n % 7) as u8).collect();
    content[1 << 20..2 << 20].fill(0);
    let path = place.root().join("backup.raw");
    std::fs::write(&path, &content).unwrap();
    for midway in [false, true] {
        let source = FileSource::open(&path);
        let session = hypervisor.begin_instant(wish("alpha", "t1", 1, std::slice::from_ref(&source))).await.unwrap();
        let guest = guest_of(&host).await;
        let line = "qemu-io -d /machine/peripheral/disk-d0/virtio-backend \"write -P 9 3M 64k\"";
        let line = serde_json::json!({ "command-line": line });
        guest.qmp().unwrap().execute("human-monitor-command", Some(line)).await.unwrap();
        if midway {
            let moves = Arc::new(tokio::sync::Notify::new());
            let told = moves.clone();
            source.broken.store(true, std::sync::atomic::Ordering::SeqCst);
            let turned_off = async {
                moves.notified().await;
                source.broken.store(false, std::sync::atomic::Ordering::SeqCst);
                guest.power_off().await.unwrap();
            };
            let observer = move |_| told.notify_one();
            let (home, ()) = tokio::join!(session.bring_home(&observer), turned_off);
            home.unwrap();
        } else {
            guest.power_off().await.unwrap();
            let seen = Arc::new(Mutex::new(Vec::new()));
            let kept = seen.clone();
            let vm = session.bring_home(&move |progress| kept.lock().unwrap().push(progress)).await.unwrap();
            assert_eq!(vm.power, portolan_model::vm::PowerState::Stopped);
            assert_eq!(*seen.lock().unwrap().last().unwrap(), HomeProgress { done: 8 << 20, total: 8 << 20 });
        }
        assert_eq!(guest.spec().instant.unwrap().remote, [""; 0]);
        drop(session);
        let reads = source.reads.load(std::sync::atomic::Ordering::SeqCst);
        let (disk, raw) = (guest.disk_files().remove(0).1, place.root().join("raw"));
        let told = common::machines::run("qemu-img", &["info", "--output=json", common::machines::text(&disk)]);
        assert!(!told.contains("backing-filename"), "{told}");
        let paths = [&disk, &raw].map(|path| common::machines::text(path));
        common::machines::run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", paths[0], paths[1]]);
        let mut wanted = content.clone();
        wanted[3 << 20..(3 << 20) + (64 << 10)].fill(9);
        assert!(std::fs::read(raw).unwrap() == wanted, "whole");
        guest.start().await.unwrap();
        comes_to(&guest, GuestState::Running).await;
        assert_eq!(source.reads.load(std::sync::atomic::Ordering::SeqCst), reads, "nobody reads the backup any more");
        host.destroy(guest.id(), &guest.spec().incarnation).await.unwrap();
        drop(guest);
        nothing_is_left(&place);
    }
}
