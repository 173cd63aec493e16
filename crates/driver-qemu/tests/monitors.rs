//! Exports beside monitors that refuse, and records that cannot be read.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::exports::{abandoned, ask, clean, export, request};
use common::{Place, comes_to, machines};
use portolan_driver::{DriverError, Hypervisor};
use portolan_driver_qemu::{Guest, GuestState, QemuHypervisor};
use portolan_testkit::driver::{contents, pattern};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

const MIB: usize = 1 << 20;

/// Stands between a monitor and whoever connects to it, and refuses each of these commands once.
fn refuse(guest: &Guest, socket: &str, commands: &[&'static str]) -> Arc<Mutex<Vec<&'static str>>> {
    let (path, real) = (guest.dir().join(socket), guest.dir().join(format!("{socket}.real")));
    std::fs::rename(&path, &real).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let left = Arc::new(Mutex::new(commands.to_vec()));
    let refused = left.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let monitor = UnixStream::connect(&real).await.unwrap();
            let ((from_client, to_client), (from_monitor, mut to_monitor)) =
                (client.into_split(), monitor.into_split());
            let to_client = Arc::new(tokio::sync::Mutex::new(to_client));
            let answers = to_client.clone();
            let back = tokio::spawn(async move {
                let mut lines = BufReader::new(from_monitor).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let _ = answers.lock().await.write_all(format!("{line}\n").as_bytes()).await;
                }
            });
            let refused = refused.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(from_client).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let asked: Value = serde_json::from_str(&line).unwrap();
                    let at = refused.lock().unwrap().iter().position(|one| asked["execute"] == *one);
                    if let Some(at) = at {
                        refused.lock().unwrap().remove(at);
                        let error = json!({ "class": "GenericError", "desc": "not now" });
                        let answer = json!({ "error": error, "id": asked["id"] });
                        to_client.lock().await.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
                    } else {
                        let _ = to_monitor.write_all(format!("{line}\n").as_bytes()).await;
                    }
                }
                back.abort();
            });
        }
    });
    left
}

/// Fixing the moment fails while the guest's processors are held, and so does letting them go on: that is undone with
/// the rest, by what was written down last.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_was_held_goes_on_when_fixing_the_moment_fails() {
    let place = Place::new();
    let host = place.open().await;
    let spec = machines::make(&place, "alpha", &[("root", pattern(1, 2 * MIB)), ("data", pattern(2, MIB))]);
    let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
    guest.start().await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    let one = refuse(&guest, "qmp.sock", &["cont"]);
    let two = refuse(&guest, "qmp2.sock", &["qom-set", "cont"]);
    drop(guest);
    host.close().await;
    drop(host);
    let host = place.open().await;
    let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
    comes_to(&guest, GuestState::Running).await;
    let failed = QemuHypervisor::new(host.clone()).open_export(request(&guest, "t1", 1)).await.err();
    assert!(matches!(&failed, Some(DriverError::Conflict(why)) if why.contains("not now")), "{failed:?}");
    assert!(one.lock().unwrap().is_empty() && two.lock().unwrap().is_empty(), "all was refused that should be");
    comes_to(&guest, GuestState::Running).await;
    assert_eq!(ask(&guest, "query-status", Value::Null).await["status"], "running");
    clean(&place, &guest, &[]).await;
}

/// Whatever is in the record: the guest starts, is backed up, and is destroyed.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_is_in_nobodys_way() {
    let place = Place::new();
    let host = place.open().await;
    let hypervisor = QemuHypervisor::new(host.clone());
    let spec = machines::make(&place, "alpha", &[("root", pattern(1, MIB))]);
    let guest = host.guest(&spec.id, &spec.incarnation).await.unwrap();
    let record = guest.dir().join("export.json");
    let damage = || std::fs::write(&record, "{").unwrap();
    for runs in [false, true] {
        damage();
        let session = export(&host, request(&guest, "t1", 1)).await;
        assert!(contents(&*session).await.unwrap()[0].1 == pattern(1, MIB));
        damage();
        assert!(matches!(session.release(true).await, Err(DriverError::Conflict(_))), "nothing vouches for it");
        damage();
        hypervisor.abandon_export(abandoned(&guest, "t1", 2)).await.unwrap();
        assert!(!record.exists());
        export(&host, request(&guest, "t2", 1)).await.release(false).await.unwrap();
        clean(&place, &guest, &[]).await;
        damage();
        if !runs {
            guest.start().await.unwrap();
            comes_to(&guest, GuestState::Running).await;
            assert!(!record.exists());
        }
    }
    host.destroy(&spec.id, &spec.incarnation).await.unwrap();
    assert_eq!(place.processes(), [0_u32; 0]);
}
