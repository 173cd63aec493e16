//! Exports of guests that do not run: their disks as they lie, served read-only by a daemon of their own.
//!
//! The daemon's locks keep QEMU's programs from writing meanwhile; whoever writes all the same is seen by the files'
//! times. When the guest is started, the export ends: a backup is made again, a guest that does not start is an outage.

use super::bitmaps;
use super::live::{options, remove_files};
use super::record::{self, FileState, Record};
use crate::QemuError;
use crate::command::node;
use crate::daemon::{Daemon, Served};
use crate::guest::{Guest, blocking};
use crate::image;
use crate::spec::DiskSpec;
use portolan_driver::{DriverError, ExportRequest};
use portolan_nbd::{NbdError, NbdSource};
use std::sync::Arc;
use std::time::Duration;

/// What the daemon's files are called.
pub(super) const NAME: &str = "export";
/// How long `qemu-img` may take for a bitmap.
const IMG_LIMIT: Duration = Duration::from_secs(120);

fn daemon(guest: &Guest) -> Daemon {
    Daemon::new(guest.dir().to_owned(), NAME)
}

/// Fixes the moment, and serves it.
pub(super) async fn fix(
    guest: &Arc<Guest>,
    mut record: Record,
    request: &ExportRequest,
) -> Result<Record, DriverError> {
    let spec = guest.spec();
    let disks: Vec<DiskSpec> =
        spec.disks.iter().filter(|disk| record.disks.iter().any(|one| one.id == disk.id)).cloned().collect();
    clear(guest).await?;
    let (images, looked) = (guest.shared.layout.images(), disks.clone());
    blocking(move || looked.iter().try_for_each(|disk| image::unchanged(&images, &disk.base))).await?;
    let known = record::checkpoints(guest).await?;
    bitmaps::note(guest, &record, request).await?;
    for (disk, recorded) in disks.iter().zip(&mut record.disks) {
        if !bitmaps::can_have(disk) {
            continue;
        }
        let there = bitmaps_of(guest, disk).await?;
        if let Some(since) = &request.since {
            recorded.lost = bitmaps::why_lost(since, disk, &there, &known);
            recorded.tells = recorded.lost.is_none();
        }
        for bitmap in there.iter().filter(|one| one.name.starts_with(super::PREFIX)) {
            if bitmap.wrong.is_some() || bitmaps::is_spare(&bitmap.name, record.checkpoint.as_deref(), request) {
                bitmap_does(guest, disk, "--remove", &bitmap.name).await?;
            }
        }
    }
    if let Some(checkpoint) = record.checkpoint.clone() {
        for disk in disks.iter().filter(|disk| bitmaps::can_have(disk)) {
            if let Err(error) = bitmap_does(guest, disk, "--add", &checkpoint).await {
                let why = error.text();
                record.notes.push(format!("the next backup reads everything, because there is no checkpoint: {why}"));
                drop_checkpoint(guest, &checkpoint).await?;
                record.checkpoint = None;
                break;
            }
        }
    }
    for (disk, recorded) in disks.iter().zip(&mut record.disks) {
        let layout = &guest.shared.layout;
        let own = layout.disks(&disk.datastore, guest.id()).join(&disk.file);
        let below = disk.base.iter().map(|base| layout.images().join(&base.file));
        let files: Result<Vec<_>, _> = [own].into_iter().chain(below).map(|path| FileState::of(&path)).collect();
        recorded.files = files?;
    }
    start(guest, &record).await?;
    record.standing = true;
    record::write(guest, &record).await?;
    Ok(record)
}

async fn start(guest: &Guest, record: &Record) -> Result<(), QemuError> {
    let spec = guest.spec();
    let mut served = Vec::new();
    for recorded in &record.disks {
        let Some(disk) = spec.disks.iter().find(|disk| disk.id == recorded.id) else { continue };
        let mut node = node(&spec, disk, &guest.shared.layout);
        node["read-only"] = true.into();
        let bitmap = record.since.clone().filter(|_| recorded.tells);
        served.push(Served { node, name: disk.id.clone(), writable: false, bitmap });
    }
    daemon(guest).start(&guest.shared.programs, &served).await
}

/// Whether the moment is there still. A daemon that ended is started again: the files hold the moment.
pub(super) async fn stands(guest: &Guest, record: &Record) -> bool {
    if record.disks.iter().flat_map(|disk| &disk.files).any(|file| !file.stands()) {
        return false;
    }
    daemon(guest).runs() || start(guest, record).await.is_ok()
}

pub(super) async fn connect(guest: &Guest, disk: &str, context: Option<&str>) -> Result<NbdSource, NbdError> {
    Ok(NbdSource::over(daemon(guest).connect(disk, &options(context)).await?))
}

/// Ends the daemon.
pub(super) async fn stop(guest: &Guest) -> Result<(), QemuError> {
    daemon(guest).end(false).await
}

/// Ends the daemon, and removes what any export left beside the disks.
pub(super) async fn clear(guest: &Guest) -> Result<(), QemuError> {
    stop(guest).await?;
    remove_files(guest).await
}

/// Takes everything away, and the checkpoint but with `keep`.
pub(super) async fn end(guest: &Guest, record: &Record, keep: bool) -> Result<(), QemuError> {
    clear(guest).await?;
    match record.checkpoint.as_ref().filter(|_| !keep) {
        Some(checkpoint) => drop_checkpoint(guest, checkpoint).await,
        None => Ok(()),
    }
}

async fn drop_checkpoint(guest: &Guest, checkpoint: &str) -> Result<(), QemuError> {
    for disk in guest.spec().disks.iter().filter(|disk| bitmaps::can_have(disk)) {
        if bitmaps_of(guest, disk).await?.iter().any(|bitmap| bitmap.name == checkpoint) {
            bitmap_does(guest, disk, "--remove", checkpoint).await?;
        }
    }
    Ok(())
}

async fn bitmaps_of(guest: &Guest, disk: &DiskSpec) -> Result<Vec<bitmaps::Bitmap>, QemuError> {
    Ok(bitmaps::of_file(&guest.disk_info(disk, IMG_LIMIT).await?))
}

async fn bitmap_does(guest: &Guest, disk: &DiskSpec, what: &str, name: &str) -> Result<(), QemuError> {
    guest.qemu_img(&["bitmap", what], disk, &[name], IMG_LIMIT).await.map(drop)
}
