//! Exports of guests that boot nothing, and all that can go wrong with them. What such a guest would write is written
//! through its device.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::exports::{abandoned, ask, clean, export, pull, request, same, tells_holes, truth};
use common::{LONG, Place, comes_to, machines, open};
use portolan_block::BlockError;
use portolan_driver::{Changes, DriverError, ExportRequest, ExportSession, Hypervisor};
use portolan_driver_qemu::{Guest, GuestSpec, GuestState, QemuHost, QemuHypervisor};
use portolan_model::Consistency;
use portolan_testkit::driver::{contents, pattern, read_all};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::sync::Notify;

const MIB: usize = 1 << 20;

/// A guest of two disks that runs.
async fn two_disks(place: &Place, name: &str) -> (Arc<QemuHost>, Arc<Guest>) {
    let host = place.open().await;
    let guest = running(place, &host, name).await;
    (host, guest)
}

async fn running(place: &Place, host: &Arc<QemuHost>, name: &str) -> Arc<Guest> {
    let spec = machines::make(place, name, &[("root", pattern(1, 4 * MIB)), ("data", pattern(2, 2 * MIB))]);
    let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    guest
}

/// Does what the guest would do, through its device.
async fn device(guest: &Guest, disk: &str, command: &str) {
    let line = format!("qemu-io -d /machine/peripheral/disk-{disk}/virtio-backend \"{command}\"");
    let said = ask(guest, "human-monitor-command", json!({ "command-line": line })).await;
    assert!(!said.as_str().unwrap_or_default().contains("rror"), "{command}: {said}");
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
}

fn since(guest: &Guest, token: &str, checkpoint: &str) -> ExportRequest {
    ExportRequest { since: Some(checkpoint.into()), keep: vec![checkpoint.into()], ..request(guest, token, 1) }
}

fn checkpoint(session: &dyn ExportSession) -> String {
    session.exported().checkpoint.clone().unwrap()
}

fn changed(range: std::ops::Range<u64>) -> Changes {
    Changes::Ranges(std::iter::once(range).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_disks_are_of_one_moment() {
    let place = Place::new();
    let (host, guest) = two_disks(&place, "alpha").await;
    let full = export(&host, request(&guest, "t1", 1)).await;
    device(&guest, "d0", "write -P 9 0 1M").await;
    device(&guest, "d1", "discard 0 1M").await;
    let held = contents(&*full).await.unwrap();
    for (n, wanted) in [pattern(1, 4 * MIB), pattern(2, 2 * MIB)].into_iter().enumerate() {
        let wrong = held[n].1.iter().zip(&wanted).position(|(one, other)| one != other);
        assert_eq!(wrong, None, "of disk {n}: {:?}", &held[n].1[wrong.unwrap_or(0)..][..4]);
    }
    full.release(true).await.unwrap();
    let first = checkpoint(&*full);
    clean(&place, &guest, &[&first]).await;

    let files: Vec<_> = ["root", "data"].iter().map(|name| place.root().join(name)).collect();
    std::fs::write(&files[0], pattern(1, 4 * MIB)).unwrap();
    std::fs::write(&files[1], pattern(2, 2 * MIB)).unwrap();
    let second = export(&host, since(&guest, "t2", &first)).await;
    let held = place.root().join("truth");
    device(&guest, "d0", "write -P 7 3M 64k").await;
    for (n, disk) in second.exported().disks.iter().enumerate() {
        assert_eq!(disk.changes, changed(0..1 << 20));
        let read = pull(disk, &files[n]).await;
        assert_eq!(read, if n == 1 && tells_holes(&guest) { 0 } else { 1 << 20 }, "what was discarded is a hole");
    }
    let mut wanted = pattern(1, 4 * MIB);
    wanted[..MIB].fill(9);
    assert!(std::fs::read(&files[0]).unwrap() == wanted);
    truth(&place, &guest, "data", &held);
    same(&files[1], &held);
    second.release(true).await.unwrap();
    let second = checkpoint(&*second);
    clean(&place, &guest, &[&first, &second]).await;
    assert_eq!(guest.block_counters().await.unwrap().len(), 2);

    // Two guests at once.
    let other = running(&place, &host, "beta").await;
    let one = export(&host, since(&guest, "t3", &second)).await;
    let two = export(&host, request(&other, "t3", 1)).await;
    assert_eq!(one.exported().disks[0].changes, changed(3 << 20..(3 << 20) + 65_536));
    assert_eq!(one.exported().disks[1].changes, Changes::Ranges(vec![]));
    assert!(contents(&*two).await.unwrap()[1].1 == pattern(2, 2 * MIB));
    two.release(false).await.unwrap();
    one.release(false).await.unwrap();
    let spec = other.spec();
    drop((two, other));
    host.destroy(&spec.id, &spec.incarnation).await.unwrap();
    clean(&place, &guest, &[&second]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_lost_says_why() {
    let place = Place::new();
    let (host, guest) = two_disks(&place, "alpha").await;
    let first = export(&host, request(&guest, "t1", 1)).await;
    first.release(true).await.unwrap();
    let first = checkpoint(&*first);
    kill(guest.pid().unwrap());
    comes_to(&guest, GuestState::Stopped).await;
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    let second = export(&host, since(&guest, "t2", &first)).await;
    for disk in &second.exported().disks {
        assert!(matches!(&disk.changes, Changes::Lost(why) if why.contains("killed")), "{:?}", disk.changes);
    }
    assert!(contents(&*second).await.unwrap()[0].1 == pattern(1, 4 * MIB));
    second.release(true).await.unwrap();
    let second = checkpoint(&*second);
    clean(&place, &guest, &[&second]).await;

    // So is one that was written before.
    guest.power_off().await.unwrap();
    comes_to(&guest, GuestState::Stopped).await;
    clean(&place, &guest, &[&second]).await;
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    kill(guest.pid().unwrap());
    comes_to(&guest, GuestState::Stopped).await;
    let third = export(&host, since(&guest, "off", &second)).await;
    assert!(matches!(&third.exported().disks[0].changes, Changes::Lost(why) if why.contains("did not write")));
    third.release(true).await.unwrap();
    let second = checkpoint(&*third);
    clean(&place, &guest, &[&second]).await;
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;

    // A disk without its bitmap is read whole, the other one is not.
    ask(&guest, "block-dirty-bitmap-remove", json!({ "node": "d1", "name": second })).await;
    let third = export(&host, since(&guest, "t3", &second)).await;
    assert_eq!(third.exported().disks[0].changes, Changes::Ranges(vec![]));
    assert!(matches!(&third.exported().disks[1].changes, Changes::Lost(why) if why.contains("gone")));
    third.release(false).await.unwrap();

    // A guest that is turned off in peace keeps its checkpoints, and its disks may grow then.
    guest.power_off().await.unwrap();
    comes_to(&guest, GuestState::Stopped).await;
    let off = export(&host, since(&guest, "t4", &second)).await;
    assert_eq!(off.exported().disks[0].changes, Changes::Ranges(vec![]));
    off.release(false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_that_is_killed_midway_fails_the_export_and_leaves_nothing() {
    let place = Place::new();
    let (host, guest) = two_disks(&place, "alpha").await;
    let session = export(&host, request(&guest, "t1", 1)).await;
    read_all(&session.exported().disks[1].source).await.unwrap();
    kill(guest.pid().unwrap());
    comes_to(&guest, GuestState::Stopped).await;
    assert!(read_all(&session.exported().disks[0].source).await.is_err());
    let released = session.release(true).await;
    assert!(matches!(released, Err(DriverError::Conflict(_))), "{released:?}");
    clean(&place, &guest, &[]).await;
    // The same without a wait for its end to be noticed, and in peace.
    for in_peace in [false, true] {
        guest.start().await.unwrap();
        comes_to(&guest, GuestState::Running).await;
        let session = export(&host, request(&guest, "t1", 1)).await;
        if in_peace {
            guest.power_off().await.unwrap();
        } else {
            kill(guest.pid().unwrap());
        }
        let released = session.release(true).await;
        assert!(matches!(released, Err(DriverError::Conflict(_))), "{released:?}");
        comes_to(&guest, GuestState::Stopped).await;
        clean(&place, &guest, &[]).await;
    }
    // Also when it runs again by then.
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    let session = export(&host, request(&guest, "t2", 1)).await;
    kill(guest.pid().unwrap());
    comes_to(&guest, GuestState::Stopped).await;
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    let again = export(&host, request(&guest, "t2", 2)).await;
    assert_ne!(again.exported().moment, session.exported().moment);
    assert!(session.release(true).await.is_err());
    contents(&*again).await.expect("the new one is fine");
    again.release(false).await.unwrap();
    clean(&place, &guest, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_starts_ends_the_export_of_its_resting_disks() {
    let place = Place::new();
    let host = place.open().await;
    let spec = machines::make(&place, "alpha", &[("root", pattern(1, MIB))]);
    let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
    let session = export(&host, request(&guest, "t1", 1)).await;
    read_all(&session.exported().disks[0].source).await.unwrap();
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    let read = read_all(&session.exported().disks[0].source).await;
    assert!(matches!(&read, Err(BlockError::Changed(why)) if why.contains("started")), "{read:?}");
    let released = session.release(true).await;
    assert!(matches!(released, Err(DriverError::Conflict(_))), "{released:?}");
    clean(&place, &guest, &[]).await;
    // Also one that is destroyed.
    guest.power_off().await.unwrap();
    comes_to(&guest, GuestState::Stopped).await;
    let session = export(&host, request(&guest, "t2", 1)).await;
    host.destroy(&spec.id, &spec.incarnation).await.unwrap();
    assert!(read_all(&session.exported().disks[0].source).await.is_err());
    assert_eq!(place.processes(), [0_u32; 0]);
    assert_eq!(machines::names(&place.root().join("datastores/default")), [""; 0]);
}

/// Answers on the agent's channel in the guest's stead: that it is there, and what `answers` has, or nothing.
async fn agent(dir: &Path, freezes: bool, thaws: Arc<AtomicUsize>, frozen: Arc<Notify>) {
    let path = dir.join("qga.sock");
    std::fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (reader, mut writer) = stream.into_split();
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                let text = line.strip_prefix(b"\xff").unwrap_or(&line);
                let asked: serde_json::Value = serde_json::from_slice(text).unwrap();
                let answer = match asked["execute"].as_str().unwrap() {
                    "guest-sync-delimited" => asked["arguments"]["id"].clone(),
                    "guest-fsfreeze-status" => json!("thawed"),
                    "guest-fsfreeze-freeze" if freezes => {
                        frozen.notify_one();
                        json!(1)
                    }
                    "guest-fsfreeze-thaw" => {
                        thaws.fetch_add(1, Ordering::SeqCst);
                        json!(1)
                    }
                    // It hangs.
                    _ => break,
                };
                let answer = json!({ "return": answer }).to_string();
                let sync = asked["execute"] == "guest-sync-delimited";
                let bytes = [if sync { &b"\xff"[..] } else { b"" }, answer.as_bytes(), b"\n"].concat();
                if writer.write_all(&bytes).await.is_err() {
                    break;
                }
                line.clear();
            }
            // A guest that hangs keeps the channel open.
            tokio::spawn(async move {
                let mut rest = Vec::new();
                let _ = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut rest).await;
                drop(writer);
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_cannot_be_frozen_is_backed_up_all_the_same() {
    let place = Place::new();
    let (host, guest) = two_disks(&place, "alpha").await;
    // Nobody answers.
    let wished = |token| ExportRequest { quiesce: true, ..request(&guest, token, 1) };
    let began = Instant::now();
    let silent = export(&host, wished("t1")).await;
    println!("a silent agent: {:?}", began.elapsed());
    let what = silent.exported();
    assert_eq!((what.consistency, what.frozen), (Consistency::None, None));
    assert!(what.notes.len() == 1 && what.notes[0].contains("does not answer"), "{:?}", what.notes);
    silent.release(false).await.unwrap();
    clean(&place, &guest, &[]).await;

    // It answers, and hangs when it is to freeze: it is thawed.
    let thaws = Arc::new(AtomicUsize::new(0));
    agent(guest.dir(), false, thaws.clone(), Arc::default()).await;
    let hanging = export(&host, wished("t2")).await;
    assert_eq!(hanging.exported().consistency, Consistency::None);
    assert!(hanging.exported().notes[0].contains("freezing it failed"), "{:?}", hanging.exported().notes);
    assert_eq!(thaws.load(Ordering::SeqCst), 1);
    hanging.release(false).await.unwrap();
    clean(&place, &guest, &[]).await;

    // It does, and whoever asked gives up meanwhile: it is thawed.
    let thaws = Arc::new(AtomicUsize::new(0));
    agent(guest.dir(), true, thaws.clone(), Arc::default()).await;
    let asked = tokio::time::timeout(Duration::from_millis(1), {
        let hypervisor = QemuHypervisor::new(host.clone());
        let wished = wished("t3");
        async move { hypervisor.open_export(wished).await.map(drop) }
    });
    let _ = asked.await;
    QemuHypervisor::new(host.clone()).abandon_export(abandoned(&guest, "t3", 2)).await.unwrap();
    let frozen = export(&host, wished("t4")).await;
    assert_eq!(frozen.exported().consistency, Consistency::Default);
    assert!(thaws.load(Ordering::SeqCst) >= 1);
    frozen.release(false).await.unwrap();
    clean(&place, &guest, &[]).await;
}

const ROOT: &str = "PORTOLAN_TEST_QEMU_EXPORT_ROOT";
const GUEST: &str = "PORTOLAN_TEST_QEMU_EXPORT_GUEST";
const QUIESCE: &str = "PORTOLAN_TEST_QEMU_EXPORT_QUIESCE";

/// Not a test by itself: what the next one starts and kills. Opens an export and waits for its end.
#[tokio::test(flavor = "multi_thread")]
async fn portolan() {
    let (Some(root), Ok(guest)) = (std::env::var_os(ROOT), std::env::var(GUEST)) else { return };
    let (id, incarnation) = guest.split_once(' ').expect("two words");
    let mut settings = Place::new().settings();
    settings.root = root.clone().into();
    let host = open(settings).await;
    let guest = host.guest(id, incarnation).await.expect("the guest");
    let quiesce = std::env::var_os(QUIESCE).is_some();
    let _session = export(&host, ExportRequest { quiesce, ..request(&guest, "t1", 1) }).await;
    std::fs::write(Path::new(&root).join("stands"), "").expect("a file");
    std::future::pending::<()>().await;
}

struct Portolan(Child);

impl Portolan {
    fn start(place: &Place, spec: &GuestSpec, quiesce: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "portolan"]).env(ROOT, place.root());
        command.env(GUEST, format!("{} {}", spec.id, spec.incarnation));
        if quiesce {
            command.env(QUIESCE, "yes");
        }
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("this program"))
    }
}

impl Drop for Portolan {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn portolan_killed_anywhere_leaves_what_the_next_one_undoes_or_goes_on_with() {
    for live in [true, false] {
        let place = Place::new();
        let host = place.open().await;
        let contents_of = [("root", pattern(1, 4 * MIB)), ("data", pattern(2, 2 * MIB))];
        let spec = machines::make(&place, "alpha", &contents_of);
        if live {
            let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
            guest.start().await.unwrap();
            comes_to(&guest, GuestState::Running).await;
        }
        host.close().await;
        drop(host);
        let (dir, store) = (format!("guests/{}", spec.id), format!("datastores/default/{}", spec.id));
        let points = if live {
            ["export.json", "d0.scratch", "d1.scratch", "checkpoints.json", "nbd.sock", "stands"]
        } else {
            ["export.json", "checkpoints.json", "export.log", "export.pid", "export.sock", "stands"]
        };
        for point in points {
            let portolan = Portolan::start(&place, &spec, false);
            let there = || ["", &dir, &store].iter().any(|at| place.root().join(at).join(point).exists());
            let seen = async {
                while !there() {
                    tokio::time::sleep(Duration::from_micros(100)).await;
                }
            };
            tokio::time::timeout(LONG, seen).await.unwrap_or_else(|_| panic!("{point} never came"));
            drop(portolan);
            let host = place.open().await;
            let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
            if live {
                comes_to(&guest, GuestState::Running).await;
            }
            let hypervisor = QemuHypervisor::new(host.clone());
            if point == "stands" {
                let again = export(&host, request(&guest, "t1", 2)).await;
                let held = contents(&*again).await.unwrap();
                assert!(held[0].1 == pattern(1, 4 * MIB) && held[1].1 == pattern(2, 2 * MIB));
                again.release(false).await.unwrap();
            } else {
                hypervisor.abandon_export(abandoned(&guest, "t1", 2)).await.unwrap();
            }
            // What no token leads to any more goes with the next export at the latest.
            export(&host, request(&guest, "t2", 1)).await.release(false).await.unwrap();
            clean(&place, &guest, &[]).await;
            let _ = std::fs::remove_file(place.root().join("checkpoints.json"));
            let _ = std::fs::remove_file(guest.dir().join("checkpoints.json"));
            drop((guest, hypervisor));
            host.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_a_killed_portolan_froze_is_thawed_by_the_next() {
    let place = Place::new();
    let (host, guest) = two_disks(&place, "alpha").await;
    let spec = guest.spec();
    let (thaws, frozen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    agent(guest.dir(), true, thaws.clone(), frozen.clone()).await;
    drop(guest);
    host.close().await;
    drop(host);
    let portolan = Portolan::start(&place, &spec, true);
    tokio::time::timeout(LONG, frozen.notified()).await.expect("it freezes");
    drop(portolan);
    let before = thaws.load(Ordering::SeqCst);
    let host = place.open().await;
    let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    // Whatever the other one still did: who asks for an export waits for what is undone.
    export(&host, request(&guest, "t2", 1)).await.release(false).await.unwrap();
    println!("thawed {before} times before, {} times in the end", thaws.load(Ordering::SeqCst));
    assert!(thaws.load(Ordering::SeqCst) >= 1);
    QemuHypervisor::new(host.clone()).abandon_export(abandoned(&guest, "t1", 2)).await.unwrap();
    clean(&place, &guest, &[]).await;
}
