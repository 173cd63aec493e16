//! Snapshots: within the disks, so that files and dirty bitmaps stay what they are. The guest's document says how far
//! each is, before and after the disks are touched: what was cut off is done again or taken back.

use crate::QemuError;
use crate::guest::{Guest, GuestState};
use crate::moving::BEING_MOVED;
use crate::process::{KILL_LIMIT, Process};
use crate::spec::{DiskSpec, ImageFormat, Reverting, SnapshotPhase, SnapshotSpec};
use portolan_driver::{DriverError, MachineSnapshot, SnapshotRequest};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a disk may take to be given a snapshot, or to be reverted.
const DISK_LIMIT: Duration = Duration::from_secs(600);
/// How long the memory may take to be written.
const MEMORY_LIMIT: Duration = Duration::from_secs(3600);
/// How often it is looked whether it is.
const MEMORY_POLL: Duration = Duration::from_millis(50);
/// The most snapshots of a guest.
const MOST: usize = 100;
/// Why a backup of the guest ends then.
const REVERTED: &str = "the guest was reverted";
/// The longest name, in characters, and token, in bytes.
const LONGEST: (usize, usize) = (255, 1024);

impl Guest {
    /// Its snapshots, the oldest first.
    pub(crate) fn list_snapshots(&self) -> Vec<MachineSnapshot> {
        let ready = |one: &SnapshotSpec| one.phase == SnapshotPhase::Ready;
        self.spec().snapshots.into_iter().filter(ready).map(told).collect()
    }

    /// Makes a snapshot, to its end also when the caller gives up.
    pub(crate) async fn create_snapshot(
        self: &Arc<Self>,
        request: SnapshotRequest,
    ) -> Result<MachineSnapshot, DriverError> {
        let guest = self.clone();
        self.shared.detached(async move { guest.create_snapshot_now(request).await }).await
    }

    async fn create_snapshot_now(&self, request: SnapshotRequest) -> Result<MachineSnapshot, DriverError> {
        let _turn = self.turn.lock().await;
        let spec = self.spec();
        let known = spec.snapshots.iter().find(|one| one.token == request.token).cloned();
        if let Some(known) = known.as_ref().filter(|known| known.phase == SnapshotPhase::Ready) {
            return Ok(told(known.clone()));
        }
        let (name, token) = (request.name.chars().count(), request.token.len());
        if name == 0 || name > LONGEST.0 || token == 0 || token > LONGEST.1 {
            return Err(DriverError::Malformed("the snapshot's name or token is too long, or empty".into()));
        }
        if let Some(raw) = spec.disks.iter().find(|disk| disk.format != ImageFormat::Qcow2) {
            return Err(DriverError::Unsupported(format!("snapshots of the disk '{}', which is raw", raw.name)));
        }
        self.may_have_snapshots()?;
        if known.is_none() && spec.snapshots.len() >= MOST {
            return Err(DriverError::Conflict(format!("a guest has at most {MOST} snapshots")));
        }
        let state = self.observed().state;
        if request.memory && state != GuestState::Running {
            return Err(DriverError::Conflict("the guest does not run: there is no memory to keep".into()));
        }
        // What a former attempt left is not of this moment.
        if let Some(known) = known {
            self.remove(&known.id).await?;
        }
        let mut bytes = [0; 6];
        self.shared.ids.fill(&mut bytes);
        let made = SnapshotSpec {
            id: bytes.iter().fold("s-".to_owned(), |id, byte| id + &format!("{byte:02x}")),
            token: request.token,
            name: request.name,
            created_at: self.shared.clock.now(),
            memory: request.memory,
            phase: SnapshotPhase::Making,
        };
        self.change(|spec| spec.snapshots.push(made.clone())).await?;
        if let Err(error) = self.take(&made, state).await {
            // Of no use to anybody; when this fails too, the next attempt or the next one to delete does it.
            let _ = self.remove(&made.id).await;
            return Err(error);
        }
        self.mark(&made.id, SnapshotPhase::Ready).await?;
        Ok(told(made))
    }

    /// Whether now is a time for snapshots at all.
    fn may_have_snapshots(&self) -> Result<(), DriverError> {
        let spec = self.spec();
        if spec.is_remote_at_all() {
            return Err(DriverError::Conflict("the guest's data is in a backup still: bring it home first".into()));
        }
        if spec.reverting.as_ref().is_some_and(|reverting| !reverting.load) {
            return Err(DriverError::Conflict("the guest is being reverted".into()));
        }
        if spec.is_moving() {
            return Err(DriverError::Conflict(BEING_MOVED.into()));
        }
        match self.observed().state {
            GuestState::Running | GuestState::Paused | GuestState::Stopped => Ok(()),
            _ => Err(DriverError::Conflict("the guest is on its way up or down".into())),
        }
    }

    async fn take(&self, made: &SnapshotSpec, state: GuestState) -> Result<(), DriverError> {
        let disks = self.spec().disks;
        if state == GuestState::Stopped {
            for disk in &disks {
                self.qemu_img(&["snapshot", "-q", "-c", &made.id], disk, &[], DISK_LIMIT).await?;
            }
            return Ok(());
        }
        let qmp = self.qmp()?;
        if made.memory {
            return self.take_with_memory(made, &disks).await;
        }
        let one = |disk: &DiskSpec| json!({ "type": "blockdev-snapshot-internal-sync", "data": { "device": disk.node(), "name": made.id } });
        let actions: Vec<Value> = disks.iter().map(one).collect();
        let all = json!({ "actions": actions });
        qmp.execute_within("transaction", Some(all), DISK_LIMIT).await.map_err(QemuError::from)?;
        Ok(())
    }

    async fn take_with_memory(&self, made: &SnapshotSpec, disks: &[DiskSpec]) -> Result<(), DriverError> {
        let qmp = self.qmp()?;
        let nodes: Vec<String> = disks.iter().map(DiskSpec::node).collect();
        let wish = json!({ "job-id": made.id, "tag": made.id, "vmstate": nodes.first(), "devices": nodes });
        qmp.execute("snapshot-save", Some(wish)).await.map_err(QemuError::from)?;
        let until = Instant::now() + MEMORY_LIMIT;
        loop {
            let jobs = qmp.execute("query-jobs", None).await.map_err(QemuError::from)?;
            let job = jobs.as_array().into_iter().flatten().find(|job| job["id"] == made.id.as_str());
            let Some(job) = job.filter(|job| job["status"] != "null") else { return Ok(()) };
            if job["status"] == "concluded" {
                let error = job["error"].as_str().map(str::to_owned);
                let _ = qmp.execute("job-dismiss", Some(json!({ "id": made.id }))).await;
                return error.map_or(Ok(()), |text| Err(DriverError::Conflict(text)));
            }
            if Instant::now() >= until {
                let _ = qmp.execute("job-cancel", Some(json!({ "id": made.id }))).await;
                return Err(DriverError::Conflict("the guest's memory was not written in time".into()));
            }
            sleep(MEMORY_POLL).await;
        }
    }

    /// Deletes a snapshot, to its end also when the caller gives up.
    pub(crate) async fn delete_snapshot(self: &Arc<Self>, id: &str) -> Result<(), DriverError> {
        let (guest, id) = (self.clone(), id.to_owned());
        let work = async move {
            let _turn = guest.turn.lock().await;
            if !guest.spec().snapshots.iter().any(|one| one.id == id) {
                return Ok(());
            }
            guest.may_have_snapshots()?;
            guest.remove(&id).await
        };
        self.shared.detached(work).await
    }

    async fn remove(&self, id: &str) -> Result<(), DriverError> {
        self.mark(id, SnapshotPhase::Deleting).await?;
        for disk in &self.spec().disks {
            if !has(&self.disk_info(disk, DISK_LIMIT).await?, id) {
                continue;
            }
            if self.observed().state == GuestState::Stopped {
                self.qemu_img(&["snapshot", "-q", "-d", id], disk, &[], DISK_LIMIT).await?;
            } else {
                let wish = json!({ "device": disk.node(), "name": id });
                let delete = "blockdev-snapshot-delete-internal-sync";
                self.qmp()?.execute_within(delete, Some(wish), DISK_LIMIT).await.map_err(QemuError::from)?;
            }
        }
        Ok(self.change(|spec| spec.snapshots.retain(|one| one.id != id)).await?)
    }

    async fn mark(&self, id: &str, phase: SnapshotPhase) -> Result<(), QemuError> {
        self.change(|spec| {
            spec.snapshots.iter_mut().filter(|one| one.id == id).for_each(|one| one.phase = phase);
        })
        .await
    }

    /// Reverts to a snapshot, to its end also when the caller gives up.
    pub(crate) async fn revert_snapshot(self: &Arc<Self>, id: &str) -> Result<(), DriverError> {
        let (guest, id) = (self.clone(), id.to_owned());
        self.shared.detached(async move { guest.revert_now(&id).await }).await
    }

    async fn revert_now(self: &Arc<Self>, id: &str) -> Result<(), DriverError> {
        let turn = self.turn.lock().await;
        let known = self.spec().snapshots.into_iter().find(|one| one.id == id && one.phase == SnapshotPhase::Ready);
        let known = known.ok_or_else(|| DriverError::NotFound { what: "snapshot", id: id.to_owned() })?;
        // One that was begun and cut off may be begun anew, to the same snapshot or to another one.
        let before = self.spec().reverting;
        if before.is_none() {
            self.may_have_snapshots()?;
        }
        let off = self.observed().state == GuestState::Stopped;
        let start = !off || before.as_ref().is_some_and(|before| before.start);
        self.change(|spec| {
            spec.reverting = Some(Reverting { snapshot: known.id.clone(), start, load: false });
        })
        .await?;
        if !off && let Err(error) = self.power_off().await {
            // It was not reverted: the next start must not do what nobody waits for any more.
            self.change(|spec| spec.reverting = before).await?;
            return Err(error.into());
        }
        crate::export::end_offline(self, REVERTED).await?;
        self.go_back().await?;
        drop(turn);
        if start {
            self.start().await?;
            self.runs().await?;
        }
        Ok(())
    }

    /// Makes the disks what they were, where that was begun. QEMU does not run.
    pub(crate) async fn go_back(&self) -> Result<(), QemuError> {
        let spec = self.spec();
        let Some(reverting) = spec.reverting.filter(|reverting| !reverting.load) else { return Ok(()) };
        let id = reverting.snapshot.as_str();
        for disk in &spec.disks {
            let info = self.disk_info(disk, DISK_LIMIT).await?;
            // They would say that nothing changed, when all did. Without them a backup reads the disk, and compares.
            for bitmap in info["format-specific"]["data"]["bitmaps"].as_array().into_iter().flatten() {
                if let Some(name) = bitmap["name"].as_str() {
                    self.qemu_img(&["bitmap", "--remove"], disk, &[name], DISK_LIMIT).await?;
                }
            }
            self.qemu_img(&["snapshot", "-q", "-a", id], disk, &[], DISK_LIMIT).await?;
        }
        let memory = spec.snapshots.iter().any(|one| one.id == id && one.memory);
        let next = (memory && reverting.start).then_some(Reverting { load: true, ..reverting });
        self.change(|spec| spec.reverting = next).await
    }

    /// QEMU was started: whatever memory there was to load is loaded, or was refused.
    pub(crate) async fn has_gone_back(&self) -> Result<(), QemuError> {
        if self.spec().reverting.is_none() {
            return Ok(());
        }
        self.change(|spec| spec.reverting = None).await
    }

    /// Ends a way back that another Portolan began.
    pub(crate) async fn begin_to_go_back(self: &Arc<Self>, process: Option<Process>) {
        let Some(reverting) = self.spec().reverting else { return };
        if let Some(process) = process.clone().filter(|_| reverting.load) {
            // The disks are what they were, and it was started over them.
            self.adopt(process).await;
            return;
        }
        self.is(GuestState::Starting, None);
        let guest = self.clone();
        self.shared.spawn(async move {
            let turn = guest.turn.lock().await;
            if let Some(process) = process {
                // It runs on disks that are about to change under it.
                process.kill();
                if timeout(KILL_LIMIT, process.ended()).await.is_err() {
                    tracing::warn!(guest = guest.id(), "QEMU does not end: the guest is not reverted yet");
                    guest.adopt(process).await;
                    return;
                }
            }
            let reverted = match crate::export::end_offline(&guest, REVERTED).await {
                Ok(()) => guest.go_back().await,
                Err(error) => Err(error),
            };
            if let Err(error) = reverted {
                let reason = format!("it could not be reverted: {}", error.text());
                tracing::warn!(guest = guest.id(), reason, "a guest could not be reverted");
                guest.is(GuestState::Stopped, Some(reason));
                return;
            }
            drop(turn);
            guest.is(GuestState::Stopped, None);
            if reverting.start
                && let Err(error) = guest.start().await
            {
                tracing::warn!(guest = guest.id(), error = error.text(), "a guest was not started");
            }
        });
    }
}

fn has(info: &Value, id: &str) -> bool {
    info["snapshots"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == id))
}

fn told(snapshot: SnapshotSpec) -> MachineSnapshot {
    MachineSnapshot {
        native_id: snapshot.id,
        token: snapshot.token,
        name: snapshot.name,
        memory: snapshot.memory,
        created_at: snapshot.created_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    #[tokio::test]
    async fn a_guest_that_does_not_end_is_not_reverted_later() {
        let fixture = Fixture::new().await;
        let guest = fixture
            .guest(|spec| {
                spec.snapshots.push(SnapshotSpec {
                    id: "s-1".into(),
                    token: "t1".into(),
                    name: "first".into(),
                    created_at: spec.created_at,
                    memory: false,
                    phase: SnapshotPhase::Ready,
                });
            })
            .await;
        // Nobody watches it: its end is never seen.
        guest.is(GuestState::Running, None);
        tokio::time::pause();
        let reverted = guest.revert_snapshot("s-1").await;
        assert!(matches!(&reverted, Err(DriverError::Conflict(why)) if why.contains("does not end")), "{reverted:?}");
        assert_eq!(guest.spec().reverting, None);
    }
}
