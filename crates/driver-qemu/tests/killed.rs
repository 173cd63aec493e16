//! Portolan killed at each point of making a guest: the guest is there once, and comes to run; one that runs goes on.

mod common;

use common::{LONG, Place, comes_to, open, own, wish};
use portolan_driver_qemu::{GuestState, QemuSettings};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ROOT: &str = "PORTOLAN_TEST_QEMU_ROOT";

/// Not a test by itself: what the others start and kill. Makes a guest and waits for its end.
#[tokio::test(flavor = "multi_thread")]
async fn portolan() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let host = open(settings(Path::new(&root))).await;
    let guest = own(host.create(wish("alpha", "blank")).await.expect("a guest"));
    comes_to(&guest, GuestState::Running).await;
    std::fs::write(Path::new(&root).join("runs"), "").expect("a file");
    std::future::pending::<()>().await;
}

fn settings(root: &Path) -> QemuSettings {
    let mut settings = Place::with_blank().settings();
    settings.root = root.to_owned();
    settings
}

/// A process that does not outlive the test, whatever becomes of that.
struct Portolan(Child);

impl Drop for Portolan {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(root: &Path) -> Portolan {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "portolan"]).env(ROOT, root).stdin(Stdio::null()).stdout(Stdio::null());
    Portolan(command.spawn().expect("this program"))
}

/// Waits until there is a file in a guest's directory on that path, or right below the root.
async fn appears(root: &Path, parent: &str, name: &str) {
    let there = || -> bool {
        let dirs = std::fs::read_dir(root.join(parent)).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut dirs = dirs.chain([root.to_owned()]);
        dirs.any(|dir: PathBuf| dir.join(name).symlink_metadata().is_ok())
    };
    let seen = async {
        while !there() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    };
    tokio::time::timeout(LONG, seen).await.unwrap_or_else(|_| panic!("{parent}/*/{name} never came"));
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
        let portolan = start(&place.root());
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

        let host = open(settings(&place.root())).await;
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
