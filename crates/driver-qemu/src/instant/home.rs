//! Bringing the data of a guest home, while it runs.
//!
//! QEMU copies what is missing into each disk (`block-stream`) and then lets go of the export. The jobs are QEMU's:
//! they go on when Portolan is gone, and the next one finds them. When all disks are whole and flushed, the guest's
//! document says so, and only then are the sources served no more.

use super::Claim;
use crate::QemuError;
use crate::block::{Jobs, failure, flush, part};
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
/// How often jobs that failed are begun anew.
const MOST_STARTS: usize = 3;

/// How a disk is.
enum Disk {
    /// Its data is here.
    Home,
    /// On its way, so far.
    Moving(HomeProgress),
    /// A read or a write failed, and the job waits.
    Halted(HomeProgress),
    /// There is no job.
    Idle,
}

impl Guest {
    pub(super) async fn bring_home(
        self: &Arc<Self>,
        claim: &Claim,
        observer: &HomeObserver<'_>,
    ) -> Result<(), DriverError> {
        let qmp = self.qmp()?;
        let spec = self.spec();
        let disks: Vec<_> = spec.disks.iter().filter(|disk| spec.is_remote(&disk.id)).collect();
        let total = disks.iter().map(|disk| disk.size_bytes).sum();
        let (mut furthest, mut tries, mut starts) = (0, 0, 0);
        let mut events = qmp.events();
        loop {
            self.is_held_by(claim)?;
            let (mut done, mut home, mut halted) = (0, 0, Vec::new());
            let jobs = Jobs::query(&qmp).await?;
            let stats = qmp.execute("query-blockstats", None).await.map_err(QemuError::from)?;
            for disk in &disks {
                match state(&disk.id, &jobs, &stats) {
                    Disk::Home => {
                        home += 1;
                        done += disk.size_bytes;
                    }
                    Disk::Moving(so_far) => done += part(so_far, disk.size_bytes),
                    Disk::Halted(so_far) => {
                        done += part(so_far, disk.size_bytes);
                        halted.push(disk.id.as_str());
                    }
                    Disk::Idle => {
                        starts += 1;
                        if starts > disks.len() + MOST_STARTS {
                            let why = failure(&mut events).unwrap_or_else(|| "QEMU does not say why".into());
                            let disk = &disk.name;
                            return Err(DriverError::Conflict(format!("the disk '{disk}' does not come home: {why}")));
                        }
                        begin(&qmp, &disk.id).await?;
                    }
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
            let wish = json!({ "query-nodes": true });
            let nodes = qmp.execute("query-blockstats", Some(wish)).await.map_err(QemuError::from)?;
            if node(&nodes, &backup_name(disk)).is_some() {
                let wish = json!({ "node-name": backup_name(disk) });
                qmp.execute("blockdev-del", Some(wish)).await.map_err(QemuError::from)?;
            }
        }
        self.is_held_by(claim)?;
        Ok(self.stands_alone().await?)
    }

    /// Writes down that all the guest's data is here.
    pub(super) async fn stands_alone(&self) -> Result<(), QemuError> {
        self.change(|spec| spec.instant.iter_mut().for_each(|instant| instant.remote.clear())).await
    }
}

fn job_of(disk: &str) -> String {
    format!("home-{disk}")
}

fn state(disk: &str, jobs: &Jobs, stats: &Value) -> Disk {
    let job = job_of(disk);
    let Some((status, so_far)) = jobs.get(&job) else {
        // The counters of a node have those of what lies below it within them.
        let alone = node(stats, disk).is_some_and(|node| node.get("backing").is_none());
        return if alone { Disk::Home } else { Disk::Idle };
    };
    match status {
        "paused" | "standby" => Disk::Halted(so_far),
        _ => Disk::Moving(so_far),
    }
}

/// The node of that name, wherever it is.
fn node<'a>(stats: &'a Value, name: &str) -> Option<&'a Value> {
    match stats {
        Value::Array(all) => all.iter().find_map(|one| node(one, name)),
        Value::Object(_) if stats["node-name"] == name => Some(stats),
        Value::Object(one) => ["backing", "parent"].iter().find_map(|below| node(one.get(*below)?, name)),
        _ => None,
    }
}

/// The job goes when it ends: one that stays would be in everybody's way.
async fn begin(qmp: &Qmp, disk: &str) -> Result<(), QemuError> {
    let wish = json!({ "job-id": job_of(disk), "device": disk, "on-error": "stop" });
    qmp.execute("block-stream", Some(wish)).await?;
    Ok(())
}
