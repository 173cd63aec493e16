//! Bringing the data of a guest home while it is off.
//!
//! `qemu-img` copies what is missing into each disk, out of the backup that is served as it is to QEMU, and then lets go
//! of it. As with a guest that runs, its document says so only at the end. What was cut off can be repeated: what was
//! copied by then is the disk's own.

use super::Claim;
use crate::QemuError;
use crate::command::text;
use crate::guest::{Disturbed, Guest, GuestState};
use crate::spec::{DiskSpec, Phase};
use portolan_driver::{DriverError, HomeObserver, HomeProgress};
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// How much of a complaint is kept.
const COMPLAINT: u64 = 2000;

impl Guest {
    /// Brings the data home. Says whether it is: one that runs, or is to be started meanwhile, is not kept from that.
    pub(super) async fn comes_home_resting(
        self: &Arc<Self>,
        claim: &Claim,
        observer: &HomeObserver<'_>,
    ) -> Result<bool, DriverError> {
        let _turn = self.turn.lock().await;
        self.is_held_by(claim)?;
        let spec = self.spec();
        if self.observed().state != GuestState::Stopped || spec.phase != Phase::Ready {
            return Ok(false);
        }
        self.has_no_process().await?;
        let disks: Vec<_> = spec.disks.iter().filter(|disk| spec.is_remote(&disk.id)).collect();
        let total = disks.iter().map(|disk| disk.size_bytes).sum();
        let mut done = 0;
        for disk in disks {
            observer(HomeProgress { done, total });
            match self.copy_home(disk, self.is_disturbed(|| self.is_held_by(claim))).await? {
                Some(Disturbed::Started) => return Ok(false),
                Some(Disturbed::Lost(error)) => return Err(error),
                None => done += disk.size_bytes,
            }
        }
        observer(HomeProgress { done, total });
        self.is_held_by(claim)?;
        self.stands_alone().await?;
        Ok(true)
    }

    async fn copy_home(
        &self,
        disk: &DiskSpec,
        disturbed: impl Future<Output = Disturbed>,
    ) -> Result<Option<Disturbed>, DriverError> {
        let path = self.shared.layout.file(self.id(), &disk.placed());
        let failed = |why: String| QemuError::Program(format!("qemu-img failed to bring a disk home: {why}"));
        let mut rebase = Command::new(&self.shared.programs.qemu_img);
        // The disk's header, which the driver wrote and no guest can, names the backup as it is seen from here.
        rebase.args(["rebase", "-q", "-f", disk.format.name(), "-b", ""]).arg(text(&path)).current_dir(self.dir());
        rebase.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).env("LC_ALL", "C").kill_on_drop(true);
        let mut child = rebase.spawn().map_err(|e| failed(e.to_string()))?;
        let stderr = child.stderr.take();
        let status = tokio::select! {
            biased;
            stop = disturbed => {
                // To its end: QEMU would find the disk in use.
                let _ = child.kill().await;
                return Ok(Some(stop));
            }
            status = child.wait() => status.map_err(|e| failed(e.to_string()))?,
        };
        if !status.success() {
            let mut said = Vec::new();
            if let Some(stderr) = stderr {
                let _ = stderr.take(COMPLAINT).read_to_end(&mut said).await;
            }
            return Err(failed(String::from_utf8_lossy(&said).trim().to_owned()).into());
        }
        let synced = self.files(move || {
            std::fs::File::open(&path).and_then(|file| file.sync_all()).map_err(QemuError::file("write", &path))
        });
        synced.await?;
        Ok(None)
    }
}
