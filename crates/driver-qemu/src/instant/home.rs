//! Bringing the data of a guest home, while it runs.
//!
//! QEMU copies what is missing into each disk (`block-stream`) and then lets go of the export. The jobs are QEMU's:
//! they go on when Portolan is gone, and the next one finds them. When all disks are whole and flushed, the guest's
//! document says so, and only then are the sources served no more.

use crate::QemuError;
use crate::command::backup_name;
use crate::guest::Guest;
use crate::qmp::Qmp;
use portolan_driver::{DriverError, HomeObserver, HomeProgress};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How often it is looked how far the data is.
const POLL: Duration = Duration::from_millis(100);
/// How often a job that cannot read is let go on, and how often in a row without getting anywhere.
const AGAIN: Duration = Duration::from_millis(500);
const MOST_TRIES: u32 = 60;

/// How a disk is.
enum Disk {
    /// Its data is here.
    Home,
    /// On its way, so far.
    Moving(HomeProgress),
    /// A read or a write failed, and the job waits.
    Halted(HomeProgress),
    /// The job ended without success.
    Failed(String),
    /// There is no job.
    Idle,
}

impl Guest {
    pub(super) async fn bring_home(self: &Arc<Self>, fence: i64, observer: &HomeObserver) -> Result<(), DriverError> {
        let qmp = self.qmp()?;
        let spec = self.spec();
        let disks: Vec<_> = spec.disks.iter().filter(|disk| spec.is_remote(&disk.id)).collect();
        let total = disks.iter().map(|disk| disk.size_bytes).sum();
        let (mut furthest, mut tries) = (0, 0);
        loop {
            self.is_newest(fence)?;
            let (mut done, mut home, mut halted) = (0, 0, Vec::new());
            let (jobs, nodes) = look(&qmp).await?;
            for disk in &disks {
                match state(&disk.id, &jobs, &nodes) {
                    Disk::Home => {
                        home += 1;
                        done += disk.size_bytes;
                    }
                    Disk::Moving(so_far) => done += part(so_far, disk.size_bytes),
                    Disk::Halted(so_far) => {
                        done += part(so_far, disk.size_bytes);
                        halted.push(disk.id.as_str());
                    }
                    Disk::Failed(reason) => {
                        let _ = dismiss(&qmp, &disk.id).await;
                        return Err(DriverError::Conflict(format!(
                            "the data of the disk '{}' could not be brought home: {reason}",
                            disk.name
                        )));
                    }
                    Disk::Idle => begin(&qmp, &disk.id).await?,
                }
            }
            observer(HomeProgress { done, total });
            if home == disks.len() {
                break;
            }
            if halted.is_empty() {
                tries = 0;
                sleep(POLL).await;
                continue;
            }
            tries = if done > furthest { 0 } else { tries + 1 };
            furthest = furthest.max(done);
            if tries > MOST_TRIES {
                for id in halted {
                    let _ = qmp.execute("job-cancel", Some(json!({ "id": job_of(id) }))).await;
                }
                let reason = "a disk cannot be read from its backup, or not be written".to_owned();
                return Err(DriverError::Unreachable { reason, retry_after: None });
            }
            sleep(AGAIN).await;
            for id in halted {
                // It may have gone on by itself.
                let _ = qmp.execute("job-resume", Some(json!({ "id": job_of(id) }))).await;
            }
        }
        for disk in &disks {
            flush(&qmp, &disk.id).await?;
            // It would be in the way of a job of the same name, and of nothing else.
            let _ = dismiss(&qmp, &disk.id).await;
            if node(&look(&qmp).await?.1, &backup_name(disk)).is_some() {
                let wish = json!({ "node-name": backup_name(disk) });
                qmp.execute("blockdev-del", Some(wish)).await.map_err(QemuError::from)?;
            }
        }
        self.is_newest(fence)?;
        let home = |spec: &mut crate::GuestSpec| {
            spec.instant.iter_mut().for_each(|instant| instant.remote.clear());
        };
        Ok(self.change(home).await?)
    }

    fn is_newest(&self, fence: i64) -> Result<(), DriverError> {
        match self.spec().instant {
            Some(instant) if instant.fence > fence => Err(DriverError::Fenced),
            _ => Ok(()),
        }
    }
}

fn job_of(disk: &str) -> String {
    format!("home-{disk}")
}

fn part(so_far: HomeProgress, size: u64) -> u64 {
    if so_far.total == 0 {
        return 0;
    }
    let share = u128::from(so_far.done.min(so_far.total)) * u128::from(size) / u128::from(so_far.total);
    u64::try_from(share).unwrap_or(size)
}

async fn look(qmp: &Qmp) -> Result<(Value, Value), QemuError> {
    let jobs = qmp.execute("query-jobs", None).await?;
    let nodes = qmp.execute("query-named-block-nodes", None).await?;
    Ok((jobs, nodes))
}

fn state(disk: &str, jobs: &Value, nodes: &Value) -> Disk {
    let is_home = node(nodes, disk).is_some_and(|node| node["backing_file_depth"] == 0);
    let name = job_of(disk);
    let job = jobs.as_array().into_iter().flatten().find(|job| job["id"] == name.as_str());
    let Some(job) = job else { return if is_home { Disk::Home } else { Disk::Idle } };
    let so_far = HomeProgress {
        done: job["current-progress"].as_u64().unwrap_or(0),
        total: job["total-progress"].as_u64().unwrap_or(0),
    };
    match (job["status"].as_str().unwrap_or_default(), job["error"].as_str()) {
        ("concluded" | "null", Some(error)) => Disk::Failed(error.to_owned()),
        ("concluded" | "null", None) if is_home => Disk::Home,
        ("concluded" | "null", None) => Disk::Failed("it was cancelled".to_owned()),
        ("paused" | "standby", _) => Disk::Halted(so_far),
        _ => Disk::Moving(so_far),
    }
}

fn node<'a>(nodes: &'a Value, name: &str) -> Option<&'a Value> {
    nodes.as_array().into_iter().flatten().find(|node| node["node-name"] == name)
}

async fn begin(qmp: &Qmp, disk: &str) -> Result<(), QemuError> {
    let wish = json!({ "job-id": job_of(disk), "device": disk, "on-error": "stop", "auto-dismiss": false });
    qmp.execute("block-stream", Some(wish)).await?;
    Ok(())
}

async fn dismiss(qmp: &Qmp, disk: &str) -> Result<(), QemuError> {
    qmp.execute("job-dismiss", Some(json!({ "id": job_of(disk) }))).await?;
    Ok(())
}

/// QEMU has no command of its own for this, short of holding the guest up.
async fn flush(qmp: &Qmp, disk: &str) -> Result<(), QemuError> {
    let said = qmp.execute("human-monitor-command", Some(json!({ "command-line": format!("qemu-io {disk} flush") })));
    match said.await?.as_str().map(str::trim) {
        Some("") => Ok(()),
        other => Err(QemuError::Conflict(format!("a disk cannot be flushed: {}", other.unwrap_or_default()))),
    }
}
