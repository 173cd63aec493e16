//! Portolan killed at each point of making a guest: the guest is there once, and comes to run; one that runs goes on.

mod common;

use common::killed::{self, Portolan, appears, root};
use common::{LONG, Place, comes_to, open, own, wish};
use portolan_driver_qemu::GuestState;
use std::time::Duration;

/// Not a test by itself: what the others start and kill. Makes a guest and waits for its end.
#[tokio::test(flavor = "multi_thread")]
async fn portolan() {
    let Some(root) = root() else { return };
    let host = open(killed::settings(&root)).await;
    let guest = own(host.create(wish("alpha", "blank")).await.expect("a guest"));
    comes_to(&guest, GuestState::Running).await;
    std::fs::write(root.join("runs"), "").expect("a file");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_it_goes_on() {
    let points = [
        ("guests", ""),
        ("guests", "lock"),
        ("guests", ".guest.json.new"),
        ("guests", "guest.json"),
        ("datastores/default", ""),
        ("datastores/default", "d0.qcow2"),
        ("guests", "qemu.log"),
        ("guests", "qemu.pid"),
        ("guests", "qmp2.sock"),
        ("", "runs"),
    ];
    for (parent, name) in points {
        let place = Place::with_blank();
        let portolan = Portolan::start(&place.root());
        if name.is_empty() {
            // The directory of the guest itself.
            let dir = place.root().join(parent);
            let seen = async {
                while !std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
                    tokio::time::sleep(Duration::from_micros(200)).await;
                }
            };
            tokio::time::timeout(LONG, seen).await.expect("a directory");
        } else if name.ends_with(".new") {
            // Too short-lived to be seen each time: what comes after it will do.
            let _ = tokio::time::timeout(Duration::from_millis(300), appears(&place.root(), parent, name)).await;
        } else {
            appears(&place.root(), parent, name).await;
        }
        let ran = place.processes();
        drop(portolan);

        let host = open(killed::settings(&place.root())).await;
        let guest = own(host.create(wish("alpha", "blank")).await.expect("the guest"));
        comes_to(&guest, GuestState::Running).await;
        assert_eq!(host.list().await.expect("guests").len(), 1, "{parent}/{name}");
        let now = place.processes();
        assert_eq!(now.len(), 1, "{parent}/{name}: {ran:?} {now:?}");
        if name == "runs" || name.ends_with(".sock") {
            assert_eq!(now, ran, "the same process goes on");
        }
        host.destroy(guest.id(), &guest.spec().incarnation).await.expect("destroyed");
        assert_eq!(place.processes(), [0_u32; 0]);
    }
}
