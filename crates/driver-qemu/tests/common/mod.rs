//! A host in a directory of its own, whose guests end with it, also when a test fails.
#![allow(dead_code, reason = "each test uses some of it")]

pub(crate) mod exports;
pub(crate) mod killed;
pub(crate) mod machines;

use portolan_driver_qemu::{AccelSetting, Guest, GuestState, NewGuest, NicMode, QemuHost, QemuSettings, Seen};
use portolan_testkit::clock::{FakeClock, SeededIds};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long anything may take on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(150);

/// A directory for a host. Whatever runs in it is killed when it is dropped.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in processes_in(self.dir.path()) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("portolan-qemu-").tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("images")).expect("a directory");
        Self { dir }
    }

    /// With an image that nothing boots from.
    pub(crate) fn with_blank() -> Self {
        let place = Self::new();
        let file = std::fs::File::create(place.images().join("blank.raw")).expect("an image");
        file.set_len(1 << 20).expect("an image");
        place
    }

    /// With the demo guest.
    pub(crate) fn with_demo() -> Self {
        let place = Self::new();
        let image = portolan_testkit::demo_guest::image().unwrap_or_else(|text| panic!("{text}"));
        std::fs::copy(image, place.images().join("demo.qcow2")).expect("an image");
        place
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    /// Numbers of the processes that work in here.
    pub(crate) fn processes(&self) -> Vec<u32> {
        processes_in(self.dir.path())
    }

    /// Numbers of the processes that imports have.
    pub(crate) fn helpers(&self) -> Vec<u32> {
        working_in(&[self.dir.path().join("imports")])
    }

    /// Settings for guests of 16 MiB that are not waited for.
    pub(crate) fn settings(&self) -> QemuSettings {
        let mut settings = QemuSettings::new(self.root());
        settings.accel = AccelSetting::Tcg;
        settings.sizes.truncate(1);
        settings.sizes[0].memory_mb = 16;
        settings.network = NicMode::None;
        (settings.agent_stop_secs, settings.acpi_stop_secs) = (0, 0);
        settings
    }

    /// Settings for the demo guest.
    pub(crate) fn demo_settings(&self) -> QemuSettings {
        let mut settings = self.settings();
        settings.sizes[0].memory_mb = 256;
        settings.network = NicMode::User;
        settings.restrict_network = true;
        (settings.agent_stop_secs, settings.acpi_stop_secs) = (60, 60);
        settings.force_stop = false;
        settings
    }

    pub(crate) async fn open(&self) -> Arc<QemuHost> {
        open(self.settings()).await
    }
}

/// Each host gets ids of its own.
pub(crate) async fn open(settings: QemuSettings) -> Arc<QemuHost> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let ids = SeededIds::new(NEXT.fetch_add(1, Ordering::SeqCst) << 8 | u64::from(std::process::id()) << 32);
    QemuHost::open(settings, Arc::new(FakeClock::default()), Arc::new(ids)).await.expect("a host")
}

fn processes_in(root: &Path) -> Vec<u32> {
    working_in(&[root.join("guests"), root.join("imports")])
}

fn working_in(dirs: &[PathBuf]) -> Vec<u32> {
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let works_here = |pid: &u32| {
        let place = std::fs::read_link(format!("/proc/{pid}/cwd"));
        place.is_ok_and(|place| dirs.iter().any(|dir| place.starts_with(dir)))
    };
    numbers.filter(works_here).collect()
}

pub(crate) fn wish(name: &str, image: &str) -> NewGuest {
    NewGuest {
        name: name.into(),
        image: image.into(),
        size: "tiny".into(),
        token: format!("token-{name}"),
        ..NewGuest::default()
    }
}

/// The guest that a creation answered, which must be one of our own.
pub(crate) fn own(seen: Seen) -> Arc<Guest> {
    match seen {
        Seen::Own(guest) => guest,
        other => panic!("not our own: {other:?}"),
    }
}

/// Waits until the guest is in that state.
pub(crate) async fn comes_to(guest: &Guest, state: GuestState) {
    let mut seen = guest.observe();
    let waiting = timeout(LONG, seen.wait_for(|seen| seen.state == state));
    if waiting.await.is_err() {
        let console = std::fs::read_to_string(guest.console()).unwrap_or_default();
        panic!("the guest never came to be {state:?}: {:?}\n{console}", guest.observed());
    }
}

/// Runs a script in the guest, as soon as its agent answers. What it says.
pub(crate) async fn shell(guest: &Guest, script: &str) -> String {
    const ANSWER: Duration = Duration::from_secs(60);
    let answers = async {
        while guest.agent(Duration::from_secs(2)).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, answers).await.expect("an agent");
    let mut agent = guest.agent(ANSWER).await.expect("an agent");
    let done = agent.exec("/bin/sh", &["-c", script], ANSWER).await.expect("it runs");
    assert_eq!(done.exit_code, Some(0), "{script}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("text")
}

/// Waits until the console says this often enough.
pub(crate) async fn console_says(guest: &Guest, words: &str) {
    let text = || String::from_utf8_lossy(&std::fs::read(guest.console()).unwrap_or_default()).into_owned();
    let said = async {
        while !text().contains(words) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(LONG, said).await.is_err() {
        panic!("the console never said '{words}': {:?}\n{}", guest.observed(), text());
    }
}
