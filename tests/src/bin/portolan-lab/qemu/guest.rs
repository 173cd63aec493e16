//! The guest that is measured: the demo guest with a data disk, on a host of its own.

use super::text;
use portolan_access::{SystemClock, SystemIds};
use portolan_driver::Extra;
use portolan_driver_qemu::{
    AccelSetting, Desired, DiskSpec, Guest, GuestSpec, ImageFormat, NicMode, Phase, QemuHost, QemuHypervisor,
    QemuSettings, SPEC_VERSION, Seen,
};
use portolan_model::{Clock, IdSource, Timestamp};
use portolan_testkit::demo_guest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The disks' names.
pub(super) const SYSTEM: &str = "system";
pub(super) const DATA: &str = "data";
/// How long anything in the guest may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// A host in a directory, with one guest. Whatever runs there ends with it.
pub(super) struct Machine {
    root: PathBuf,
    pub(super) host: Arc<QemuHost>,
    pub(super) guest: Arc<Guest>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: Arc<dyn IdSource>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            let place = std::fs::read_link(format!("/proc/{pid}/cwd"));
            if place.is_ok_and(|place| place.starts_with(&self.root))
                && let Some(pid) = Pid::from_raw(pid)
            {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Where the data disk's image is to lie before the machine is opened.
pub(super) fn data_image(root: &Path) -> Result<PathBuf, String> {
    let store = root.join("datastores/default").join(ID);
    std::fs::create_dir_all(&store).map_err(text)?;
    Ok(store.join("d1.qcow2"))
}

const ID: &str = "i-bench";

impl Machine {
    /// Makes the guest, whose data disk of `size` bytes is there already. It is off.
    pub(super) async fn open(root: &Path, size: u64) -> Result<Self, String> {
        let system = data_image(root)?.with_file_name("d0.qcow2");
        let image = demo_guest::image()?;
        std::fs::copy(&image, &system).map_err(text)?;
        let told = super::output("qemu-img", &["info", "--output=json", &super::shown(&system)])?;
        let info: serde_json::Value = serde_json::from_str(&told).map_err(text)?;
        let disk = |n: u64, name: &str, size_bytes: u64| DiskSpec {
            id: format!("d{n}"),
            name: name.into(),
            datastore: "default".into(),
            file: format!("d{n}.qcow2"),
            size_bytes,
            format: ImageFormat::Qcow2,
            base: Vec::new(),
            copy_of: Vec::new(),
            moved: 0,
        };
        let first = info["virtual-size"].as_u64().ok_or("qemu-img tells no size")?;
        let disks = [disk(0, SYSTEM, first), disk(1, DATA, size)];
        let spec: GuestSpec = serde_json::from_value(json!({
            "version": SPEC_VERSION, "id": ID, "name": "bench",
            "uuid": "00000000-0000-4000-8000-0000000000b1", "incarnation": "bench",
            "cpus": 1, "memory_bytes": 256 << 20, "machine": "q35",
            "disks": disks, "phase": Phase::Ready, "desired": Desired::Stopped,
            "created_at": Timestamp::from_millis(0), "metadata": Extra::new(),
        }))
        .map_err(text)?;
        let dir = root.join("guests").join(ID);
        std::fs::create_dir_all(&dir).map_err(text)?;
        std::fs::write(dir.join("guest.json"), serde_json::to_vec(&spec).map_err(text)?).map_err(text)?;

        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let ids: Arc<dyn IdSource> = Arc::new(SystemIds::new(clock.clone()));
        let mut settings = QemuSettings::new(root.to_owned());
        // Comparable everywhere, and the only one that works in most virtual machines.
        settings.accel = AccelSetting::Tcg;
        settings.network = NicMode::None;
        let host = QemuHost::open(settings, clock.clone(), ids.clone()).await.map_err(text)?;
        let guest = match host.list().await.map_err(text)?.pop() {
            Some(Seen::Own(guest)) => guest,
            other => return Err(format!("the guest is not ours: {other:?}")),
        };
        Ok(Self { root: root.to_owned(), host, guest, clock, ids })
    }

    pub(super) fn hypervisor(&self) -> QemuHypervisor {
        QemuHypervisor::new(self.host.clone())
    }

    /// Starts the guest from its own disks; how long it takes until its agent answers.
    pub(super) async fn boot(&self) -> Result<Duration, String> {
        let start = Instant::now();
        self.guest.start().await.map_err(text)?;
        // As often as a machine out of a backup is looked at.
        while start.elapsed() < PATIENCE {
            if let Ok(mut agent) = self.guest.agent(Duration::from_secs(2)).await
                && agent.ping().await.is_ok()
            {
                return Ok(start.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err("the guest's agent never answered".into())
    }

    /// Has the guest write to its data disk: at each of these places, `len` bytes of noise. All of it is on the disk
    /// when this is done.
    pub(super) async fn write(&self, places: &[u64], len: u64) -> Result<(), String> {
        const BLOCK: u64 = 64 << 10;
        let places: Vec<String> = places.iter().map(|at| (at / BLOCK).to_string()).collect();
        let script = format!(
            "for at in {}; do dd if=/dev/urandom of=/dev/vdb bs=64k seek=$at count={} conv=notrunc 2>/dev/null || exit 1; \
             done; sync",
            places.join(" "),
            len / BLOCK,
        );
        let mut agent = self.guest.agent(PATIENCE).await.map_err(text)?;
        let done = agent.exec("/bin/sh", &["-c", &script], PATIENCE).await.map_err(text)?;
        match done.exit_code {
            Some(0) => Ok(()),
            _ => Err(format!("the guest could not write: {}", String::from_utf8_lossy(&done.stderr))),
        }
    }
}
