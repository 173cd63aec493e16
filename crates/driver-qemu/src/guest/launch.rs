//! Starting: disks are made, QEMU is started, or one that runs already is taken over.

use super::{AGENT_LIMIT, Guest, GuestState, QMP_LIMIT, Running, blocking, held};
use crate::QemuError;
use crate::command::arguments;
use crate::image;
use crate::layout::{self, sync_dir};
use crate::process::{self, Process};
use crate::programs::run;
use crate::qmp::{Qmp, RunStatus};
use crate::spec::{Desired, DiskSpec, Phase};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long QEMU may take until its monitor answers.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked whether it does.
const START_POLL: Duration = Duration::from_millis(10);
/// How long a disk may take to be made.
const DISK_LIMIT: Duration = Duration::from_secs(4 * 3600);

impl Guest {
    /// Starts it. Answers when that has begun.
    pub async fn start(self: &Arc<Self>) -> Result<(), QemuError> {
        let before = self.shift(&[GuestState::Stopped, GuestState::Failed], GuestState::Starting)?;
        if let Err(error) = self.change(|spec| spec.desired = Desired::Running).await {
            self.state.send_replace(before);
            return Err(error);
        }
        self.begin();
        Ok(())
    }

    /// Starts it in the background.
    pub(crate) fn begin(self: &Arc<Self>) {
        let guest = self.clone();
        self.shared.spawn(async move {
            let _turn = guest.turn.lock().await;
            let ending = guest.ending();
            let done = tokio::select! {
                // First of all: one that was destroyed meanwhile is not touched any more.
                biased;
                () = ending.cancelled() => return,
                done = guest.launch() => done,
            };
            if let Err(error) = done {
                let reason = error.text();
                tracing::warn!(guest = guest.id(), reason, "a guest was not started");
                let whole = guest.spec().phase == Phase::Ready;
                guest.set(if whole { GuestState::Stopped } else { GuestState::Failed }, Some(reason));
            }
        });
    }

    async fn launch(self: &Arc<Self>) -> Result<(), QemuError> {
        // It runs already when Portolan ended between starting it and writing that down.
        if let Some(process) = self.find_process().await? {
            self.adopt(process).await;
            return Ok(());
        }
        let spec = self.spec();
        if spec.phase != Phase::Ready
            && let Err(error) = self.make_disks(&spec.disks).await
        {
            let reason = error.text();
            self.change(|spec| spec.phase = Phase::Failed(reason)).await?;
            return Err(error);
        }
        crate::export::end_offline(self, "the guest was started").await?;
        self.start_qemu().await
    }

    /// Takes over a process that was there before this one.
    pub(crate) async fn adopt(self: &Arc<Self>, process: Process) {
        if self.spec().reverting.is_some_and(|reverting| reverting.load) {
            // Whatever memory there was to load, it was started with: loading it again would undo what it did since.
            let _ = self.has_gone_back().await;
        }
        let status = match Qmp::connect(&self.socket(layout::QMP), AGENT_LIMIT).await {
            Ok(qmp) => qmp.query_status().await.map(|status| (qmp, status)),
            Err(error) => Err(error),
        };
        match status {
            Ok((qmp, status)) => {
                if self.spec().phase != Phase::Ready {
                    let _ = self.change(|spec| spec.phase = Phase::Ready).await;
                }
                self.attach(process, None, Some(qmp), &status);
            }
            Err(error) => {
                // It runs: it is not for us to end it. The watch goes on trying.
                tracing::warn!(guest = self.id(), %error, "the monitor of a running guest does not answer");
                self.attach(process, None, None, &RunStatus { running: true, status: "unknown".into() });
            }
        }
        tracing::info!(guest = self.id(), pid = self.pid(), "a running guest was taken over");
        self.shared.spawn(crate::export::recover(self.clone()));
        self.shared.spawn(self.clone().recover_move());
    }

    fn attach(self: &Arc<Self>, process: Process, child: Option<Child>, qmp: Option<Qmp>, status: &RunStatus) {
        *held(&self.running) = Some(Running { process: process.clone(), qmp: qmp.clone() });
        let state = if status.running { GuestState::Running } else { GuestState::Paused };
        self.set(state, (!status.running).then(|| format!("QEMU says '{}'", status.status)));
        let guest = self.clone();
        self.shared.spawn(async move { guest.watch(process, child, qmp).await });
    }

    pub(crate) async fn find_process(&self) -> Result<Option<Process>, QemuError> {
        let (dir, uuid) = (self.dir.clone(), self.spec().uuid);
        blocking(move || Ok(process::find(&dir, uuid))).await
    }

    async fn start_qemu(self: &Arc<Self>) -> Result<(), QemuError> {
        self.go_back().await?;
        let (shared, spec) = (&self.shared, self.spec());
        let (layout, disks, dir) = (shared.layout.clone(), spec.disks.clone(), self.dir.clone());
        self.files(move || {
            for disk in &disks {
                image::unchanged(&layout.images(), &disk.base)?;
            }
            clear(&dir)
        })
        .await?;
        let settings = &shared.settings;
        let accel = shared.accel.get(settings.accel, &shared.programs, &spec.machine).await;
        let args = arguments(&spec, &shared.layout, accel, settings.sandbox);
        let mut child = process::spawn(&shared.programs, &self.dir, &args)?;
        match self.is_up(&mut child).await {
            Ok((process, qmp, status)) => {
                self.attach(process, Some(child), Some(qmp), &status);
                Ok(())
            }
            Err(error) => {
                // Nobody would know of it.
                let _ = child.kill().await;
                // Memory that it did not take is not tried again: the next start boots from the disks.
                self.has_gone_back().await?;
                Err(error)
            }
        }
    }

    /// Waits until a process that was started just now answers, and writes down what that changes.
    async fn is_up(&self, child: &mut Child) -> Result<(Process, Qmp, RunStatus), QemuError> {
        let (process, qmp) = self.monitor_of(child).await?;
        self.has_gone_back().await?;
        let status = qmp.query_status().await?;
        if self.spec().phase != Phase::Ready {
            self.change(|spec| spec.phase = Phase::Ready).await?;
        }
        Ok((process, qmp, status))
    }

    /// Waits until the monitor of a process that was started just now answers.
    async fn monitor_of(&self, child: &mut Child) -> Result<(Process, Qmp), QemuError> {
        let until = Instant::now() + START_LIMIT;
        let uuid = self.spec().uuid;
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(QemuError::Start(format!("{} ({status})", process::complaint(&self.dir))));
            }
            match Qmp::connect(&self.socket(layout::QMP), QMP_LIMIT).await {
                Ok(qmp) => {
                    let process = child.id().and_then(|pid| Process::verified(pid, &self.dir, uuid));
                    let gone = || QemuError::Start(process::complaint(&self.dir));
                    return process.map(|process| (process, qmp)).ok_or_else(gone);
                }
                Err(error) if Instant::now() >= until => {
                    let complaint = process::complaint(&self.dir);
                    return Err(QemuError::Start(format!("{error}; QEMU's last words: {complaint}")));
                }
                Err(_) => sleep(START_POLL).await,
            }
        }
    }

    /// Makes the disks that are not there. Each appears when it is whole, so that this can be repeated.
    async fn make_disks(&self, disks: &[DiskSpec]) -> Result<(), QemuError> {
        for disk in disks {
            let dir = self.shared.layout.disks(&disk.datastore, &self.id);
            let path = dir.join(&disk.file);
            if path.exists() {
                continue;
            }
            let part = dir.join(format!(".{}.part", disk.file));
            let (layout, store, id) = (self.shared.layout.clone(), disk.datastore.clone(), self.id.clone());
            let (bases, old) = ([disk.base.clone(), disk.copy_of.clone()], part.clone());
            self.files(move || {
                bases.iter().try_for_each(|chain| image::unchanged(&layout.images(), chain))?;
                layout.make_disks(&store, &id)?;
                let _ = std::fs::remove_file(old);
                Ok(())
            })
            .await?;
            self.make_disk(disk, &part).await?;
            self.files(move || {
                std::fs::File::open(&part)
                    .and_then(|file| file.sync_all())
                    .and_then(|()| std::fs::rename(&part, &path))
                    .map_err(QemuError::file("write", &path))?;
                sync_dir(&dir)
            })
            .await?;
        }
        Ok(())
    }

    async fn make_disk(&self, disk: &DiskSpec, part: &Path) -> Result<(), QemuError> {
        let Some(source) = disk.copy_of.first() else { return self.create_disk(disk, part).await };
        let qemu_img = || Command::new(&self.shared.programs.qemu_img);
        let mut copy = qemu_img();
        copy.args(["convert", "-q", "-O", disk.format.name(), "--image-opts"]);
        copy.arg(image::image_options(&self.shared.layout.images().join(&source.file), source.format));
        run(copy.arg(part), DISK_LIMIT).await?;
        let mut resize = qemu_img();
        resize.args(["resize", "-q", "-f", disk.format.name()]).arg(part).arg(disk.size_bytes.to_string());
        run(&mut resize, DISK_LIMIT).await?;
        Ok(())
    }

    /// Makes an image of the disk's size that nothing is written to yet, over what lies below the disk.
    pub(crate) async fn create_disk(&self, disk: &DiskSpec, path: &Path) -> Result<(), QemuError> {
        let mut create = Command::new(&self.shared.programs.qemu_img);
        create.args(["create", "-q", "-f", disk.format.name()]);
        if self.spec().is_remote(&disk.id) {
            // For other programs: they must fail, and not take what is missing for zeros.
            let below = format!("nbd+unix:///{}?socket={}", disk.id, layout::BACKUP);
            create.args(["-u", "-F", "raw", "-b", &below]);
        } else if let Some(base) = disk.base.first() {
            // The name in the header is for people and other programs: relative, so that the root can be moved. QEMU
            // itself is told what lies below, and opens nothing here.
            let below = format!("../../../images/{}", base.file);
            create.args(["-u", "-F", base.format.name(), "-b", &below]);
        }
        run(create.arg(path).arg(disk.size_bytes.to_string()), DISK_LIMIT).await?;
        Ok(())
    }
}

/// Removes what the process before left, and begins a new console log.
fn clear(dir: &Path) -> Result<(), QemuError> {
    for name in [layout::QMP, layout::QMP2, layout::QGA, layout::PID] {
        let path = dir.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(QemuError::file("remove", &path)(e)),
            _ => {}
        }
    }
    let console = dir.join(layout::CONSOLE);
    let _ = std::fs::rename(&console, dir.join(format!("{}.1", layout::CONSOLE)));
    layout::open_private(&console).map(drop).map_err(QemuError::file("write", &console))
}
