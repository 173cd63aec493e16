//! Portolan as a process that tests kill: this program once more, running its test `portolan`.

use super::{LONG, Place};
use portolan_driver_qemu::QemuSettings;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What tells the process where its host is.
const ROOT: &str = "PORTOLAN_TEST_QEMU_ROOT";

/// Where the host of this process is; nothing where the test is run as one among others.
pub(crate) fn root() -> Option<PathBuf> {
    std::env::var_os(ROOT).map(PathBuf::from)
}

/// Settings for a host there, which outlives whoever opens it.
pub(crate) fn settings(root: &Path) -> QemuSettings {
    QemuSettings { root: root.to_owned(), ..Place::new().settings() }
}

/// A process that does not outlive the test, whatever becomes of that.
pub(crate) struct Portolan(Child);

impl Drop for Portolan {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Portolan {
    pub(crate) fn start(root: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "portolan"]).env(ROOT, root).stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().expect("this program"))
    }
}

/// Waits until there is a file in a guest's directory on that path, or right below the root.
pub(crate) async fn appears(root: &Path, parent: &str, name: &str) {
    let there = || -> bool {
        let dirs = std::fs::read_dir(root.join(parent)).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut dirs = dirs.chain([root.to_owned()]);
        dirs.any(|dir: PathBuf| dir.join(name).symlink_metadata().is_ok())
    };
    until(&format!("{parent}/*/{name}"), there).await;
}

/// Waits until that is so.
pub(crate) async fn until(what: &str, is: impl Fn() -> bool) {
    let seen = async {
        while !is() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    };
    tokio::time::timeout(LONG, seen).await.unwrap_or_else(|_| panic!("{what} never came"));
}
