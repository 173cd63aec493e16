//! Moves of a guest that runs: QEMU mirrors its disks.
//!
//! A mirror copies the disk's own layer beside the guest, which writes to both from then on. When all disks are equal
//! the guest's processors are held for a moment: checkpoints are taken along, QEMU goes over to the new files, the
//! document says so, and the guest goes on. The jobs are QEMU's: they go on when Portolan is gone, and the next attempt
//! finds them.

use super::{Attempt, POLL, given_up};
use crate::QemuError;
use crate::block::{self, Jobs, part};
use crate::command::{device_path, second_node};
use crate::guest::{Guest, GuestState};
use crate::qmp::{Qmp, QmpError};
use crate::spec::{DiskSpec, GuestSpec, ImageFormat, MoveStage};
use portolan_driver::{DriverError, HomeProgress};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long QEMU may take to go over to the new files while the guest stands still, and to give up a mirror.
const SWITCH_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const SWITCH_POLL: Duration = Duration::from_millis(5);
/// How often it is tried to write down that it has.
const MOST_WRITES: u32 = 20;

impl Guest {
    /// Mirrors the disks and switches the guest over.
    pub(super) async fn mirror(self: &Arc<Self>, attempt: &Attempt) -> Result<(), DriverError> {
        let qmp = self.qmp()?;
        let mut events = qmp.events();
        {
            let _turn = self.turn.lock().await;
            self.holds_move(&attempt.wish)?;
            self.begin_mirrors(&qmp).await?;
        }
        loop {
            let spec = self.holds_move(&attempt.wish)?;
            if attempt.given_up.is_cancelled() {
                return Err(given_up());
            }
            let jobs = Jobs::query(&qmp).await?;
            let disks = spec.to_move();
            let (mut done, total) = (0, disks.iter().map(|(disk, _)| disk.size_bytes).sum());
            let mut ready = true;
            for (disk, _) in &disks {
                let Some((status, so_far)) = jobs.get(&job_of(disk)) else {
                    let why = block::failure(&mut events).unwrap_or_else(|| "QEMU does not say why".into());
                    return Err(failed(disk, &why));
                };
                ready &= status == "ready";
                done += part(so_far, disk.size_bytes);
            }
            attempt.told.send_replace(HomeProgress { done, total });
            if ready && self.switch(attempt).await? {
                return Ok(());
            }
            sleep(POLL).await;
        }
    }

    /// Begins to mirror what is not mirrored yet.
    async fn begin_mirrors(self: &Arc<Self>, qmp: &Qmp) -> Result<(), DriverError> {
        let spec = self.spec();
        if !spec.snapshots.is_empty() {
            let why = "the guest has snapshots, which a mirror leaves behind: turn it off to move it, or delete them";
            return Err(DriverError::Conflict(why.into()));
        }
        crate::export::end_left(self).await?;
        let jobs = Jobs::query(qmp).await?;
        for (disk, there) in spec.to_move() {
            if jobs.get(&job_of(&disk)).is_some() {
                continue;
            }
            block::remove_node(qmp, &there.node()).await?;
            let (layout, id, store) = (self.shared.layout.clone(), self.id().to_owned(), there.datastore.clone());
            let path = layout.file(&id, &there.placed());
            let old = path.clone();
            self.files(move || layout.make_disks(&store, &id).and_then(|_| crate::layout::remove_file(&old))).await?;
            self.create_disk(&there, &path).await?;
            // The file, and its name: the document must not come to name one that a power cut takes away.
            self.files(move || crate::layout::sync_file(&path)).await?;
            let node = second_node(&spec, &there, &self.shared.layout);
            qmp.execute("blockdev-add", Some(node)).await.map_err(QemuError::from)?;
            let wish = json!({
                "job-id": job_of(&disk),
                "device": disk.node(),
                "target": there.node(),
                // What lies below is shared. Of a raw disk nothing tells what was never written.
                "sync": if disk.format == ImageFormat::Raw { "full" } else { "top" },
                // The guest waits for both: otherwise one that writes a lot would never be caught up with.
                "copy-mode": "write-blocking",
            });
            qmp.execute("blockdev-mirror", Some(wish)).await.map_err(QemuError::from)?;
        }
        Ok(())
    }

    /// Switches the guest over, if it is in a state for that.
    async fn switch(&self, attempt: &Attempt) -> Result<bool, DriverError> {
        let _turn = self.turn.lock().await;
        self.holds_move(&attempt.wish)?;
        if attempt.given_up.is_cancelled() {
            return Err(given_up());
        }
        let go_on = match self.observed().state {
            GuestState::Running => true,
            GuestState::Paused => false,
            _ => return Ok(false),
        };
        let begun = |spec: &mut GuestSpec| {
            spec.moving.iter_mut().for_each(|moving| (moving.stage, moving.go_on) = (MoveStage::Switching, go_on));
        };
        self.change(begun).await?;
        self.hand_over()
            .await?
            .map_err(|why| DriverError::Conflict(format!("QEMU kept a disk where it was: {why}")))?;
        Ok(true)
    }

    /// Has QEMU go over to the new files, and writes down how far it went. Why it did not go all the way, where it did
    /// not. The guest goes on in any case. The turn is held.
    pub(super) async fn hand_over(&self) -> Result<Result<(), String>, DriverError> {
        let qmp = self.qmp()?;
        let went = self.go_over(&qmp).await;
        let spec = self.spec();
        let places = qmp.query_blockstats().await.map_err(QemuError::from)?;
        let is_there = |(disk, there): &(DiskSpec, DiskSpec)| {
            let device = format!("{}/", device_path(disk));
            places.iter().any(|one| one.qdev.starts_with(&device) && one.node == there.node())
        };
        let (gone, stayed): (Vec<_>, Vec<_>) = spec.to_move().into_iter().partition(is_there);
        for (_, there) in &gone {
            if let Err(error) = block::flush(&qmp, &there.node()).await {
                tracing::warn!(guest = self.id(), %error, "a disk that was moved could not be made durable yet");
            }
        }
        self.write_down_moved(gone.iter().map(|(disk, _)| disk.id.clone()).collect()).await?;
        if spec.moving.is_some_and(|moving| moving.go_on) {
            qmp.cont().await.map_err(QemuError::from)?;
            self.change(|spec| spec.moving.iter_mut().for_each(|moving| moving.go_on = false)).await?;
        }
        match (stayed.first(), went) {
            (None, _) => Ok(Ok(())),
            (Some(_), Err(error)) => Ok(Err(error.text())),
            (Some((disk, _)), Ok(())) => Ok(Err(format!("the mirror of the disk '{}' ended", disk.name))),
        }
    }

    /// The guest stands still until this is done.
    async fn write_down_moved(&self, ids: Vec<String>) -> Result<(), DriverError> {
        let mut tries = 0;
        loop {
            match self.change(|spec| spec.has_moved(&ids, true)).await {
                Err(error) if tries < MOST_WRITES => {
                    tries += 1;
                    tracing::warn!(guest = self.id(), error = error.text(), "where its disks are was not written down");
                    sleep(POLL).await;
                }
                done => return Ok(done?),
            }
        }
    }

    async fn go_over(&self, qmp: &Qmp) -> Result<(), QemuError> {
        let spec = self.spec();
        if spec.moving.as_ref().is_some_and(|moving| moving.go_on) {
            qmp.stop().await?;
        }
        let jobs = Jobs::query(qmp).await?;
        let mut disks = spec.to_move();
        disks.retain(|(disk, _)| jobs.get(&job_of(disk)).is_some());
        if let Err(error) = take_checkpoints(qmp, &disks).await {
            tracing::warn!(guest = self.id(), %error, "checkpoints stay behind: the next backup reads everything");
        }
        for (disk, _) in &disks {
            match qmp.execute("job-complete", Some(json!({ "id": job_of(disk) }))).await {
                // One that is on its way already.
                Ok(_) | Err(QmpError::Refused { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if have_ended(qmp, &disks).await? {
            return Ok(());
        }
        give_up(qmp, &disks).await?;
        Err(QemuError::Conflict("it took too long".into()))
    }

    /// Has QEMU let go of the files of disks that it has in their new places.
    pub(super) async fn close_left(&self) -> Result<(), QemuError> {
        let Ok(qmp) = self.qmp() else { return Ok(()) };
        let nodes = block::nodes(&qmp).await?;
        for disk in &self.spec().disks {
            let before = |node: &&String| {
                let times =
                    node.strip_prefix(&format!("{}-m", disk.id)).map(|times| times.parse().unwrap_or(disk.moved));
                let times: Option<u32> = if **node == disk.id { Some(0) } else { times };
                times.is_some_and(|times| times != disk.moved)
            };
            for node in nodes.keys().filter(before) {
                block::remove_node(&qmp, node).await?;
            }
        }
        Ok(())
    }

    /// Ends the mirrors of disks that are where they were, and QEMU's part in what they made. The turn is held.
    pub(super) async fn end_mirrors(&self, spec: &GuestSpec) -> Result<(), DriverError> {
        let qmp = self.qmp()?;
        let disks = spec.to_move();
        give_up(&qmp, &disks).await?;
        for (_, there) in &disks {
            block::remove_node(&qmp, &there.node()).await?;
        }
        Ok(())
    }
}

fn job_of(disk: &DiskSpec) -> String {
    format!("move-{}", disk.id)
}

fn failed(disk: &DiskSpec, why: &str) -> DriverError {
    let text = format!("the disk '{}' could not be copied: {why}", disk.name);
    // QEMU has the system's words for it, and no class of its own.
    if why.contains("No space left") { DriverError::NoSpace(text) } else { DriverError::Conflict(text) }
}

/// Whether all mirrors end in time.
async fn have_ended(qmp: &Qmp, disks: &[(DiskSpec, DiskSpec)]) -> Result<bool, QemuError> {
    let until = Instant::now() + SWITCH_LIMIT;
    loop {
        let jobs = Jobs::query(qmp).await?;
        if disks.iter().all(|(disk, _)| jobs.get(&job_of(disk)).is_none()) {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        sleep(SWITCH_POLL).await;
    }
}

/// Cancels mirrors, and waits until they are gone.
async fn give_up(qmp: &Qmp, disks: &[(DiskSpec, DiskSpec)]) -> Result<(), QemuError> {
    for (disk, _) in disks {
        match qmp.execute("job-cancel", Some(json!({ "id": job_of(disk) }))).await {
            // It is gone, or goes.
            Ok(_) | Err(QmpError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if have_ended(qmp, disks).await? {
        return Ok(());
    }
    Err(QemuError::Conflict("QEMU does not end a mirror".into()))
}

/// Copies checkpoints to the new files. From here on those count themselves what the guest writes to both.
async fn take_checkpoints(qmp: &Qmp, disks: &[(DiskSpec, DiskSpec)]) -> Result<(), QemuError> {
    let nodes = block::nodes(qmp).await?;
    let bitmaps = |node: &str| {
        let told = nodes.get(node).map(|node| &node["dirty-bitmaps"]);
        told.and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let mut actions = Vec::new();
    for (disk, there) in disks {
        for bitmap in bitmaps(&there.node()) {
            let old = json!({ "node": there.node(), "name": bitmap["name"] });
            actions.push(json!({ "type": "block-dirty-bitmap-remove", "data": old }));
        }
        let is = |bitmap: &Value, what: &str| bitmap[what].as_bool() == Some(true);
        let sound = |one: &Value| is(one, "persistent") && is(one, "recording") && !is(one, "inconsistent");
        for bitmap in bitmaps(&disk.node()).iter().filter(|one| sound(one)) {
            let (name, granularity) = (&bitmap["name"], &bitmap["granularity"]);
            let made = json!({ "node": there.node(), "name": name, "granularity": granularity, "persistent": true });
            actions.push(json!({ "type": "block-dirty-bitmap-add", "data": made }));
            let from = json!([{ "node": disk.node(), "name": name }]);
            let merged = json!({ "node": there.node(), "target": name, "bitmaps": from });
            actions.push(json!({ "type": "block-dirty-bitmap-merge", "data": merged }));
        }
    }
    if actions.is_empty() {
        return Ok(());
    }
    qmp.execute("transaction", Some(json!({ "actions": actions }))).await?;
    Ok(())
}
