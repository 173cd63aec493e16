//! Exports of guests that run.
//!
//! For each disk a `copy-before-write` filter is put between the guest's device and the disk's node: what the guest
//! is about to overwrite is copied into a scratch file first. A `snapshot-access` node over the filter reads the
//! moment that the filter was put in, and is served over NBD, with a bitmap of what changed before.
//!
//! Why so, and not a `blockdev-backup` job into an overlay: QEMU knows all of this since 7.1, and only the filter can
//! be told to give up the moment rather than the guest (`on-cbw-error`, `cbw-timeout`) when the scratch file cannot
//! be written or is slow. It also keeps readers and the guest's writes and discards apart, which an overlay that is
//! read while it is filled does not for maps of what is allocated.
//!
//! The new checkpoint's bitmaps are added to all disks in one transaction right before the filters go in, and the old
//! one's are copied in one transaction right after: what is written in between counts as changed twice, and never not
//! at all. With several disks the guest's processors are held while the filters go in: all disks are of one moment.

use super::bitmaps::{self, Bitmap};
use super::freeze::{self, Outcome};
use super::record::{self, Record};
use crate::QemuError;
use crate::block::nodes;
use crate::command::{base_node, device_path, text};
use crate::guest::{Guest, blocking};
use crate::qmp::{QemuVersion, Qmp, QmpError};
use crate::spec::{DiskSpec, GuestSpec};
use crate::wire::socket_in;
use portolan_driver::{DriverError, ExportRequest};
use portolan_model::Consistency;
use portolan_nbd::{Address, BASE_ALLOCATION, ClientOptions, NbdError, NbdSource};
use serde_json::{Value, json};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// QEMU's socket for exports, in the guest's directory.
const SOCKET: &str = "nbd.sock";
/// Nodes: the filter, its scratch file, and what reads the moment.
const FILTER: &str = "pc-";
const SCRATCH: &str = "ps-";
const ACCESS: &str = "pa-";
const BELOW: &str = "pb-";
pub(super) const PULL: &str = "pull-";
/// How long putting in the filters may take while the guest stands still.
const FIX_LIMIT: Duration = Duration::from_secs(2);
/// How many seconds a write of the guest waits for its scratch file before the moment is given up.
const SCRATCH_SECONDS: u64 = 30;

/// Fixes the moment, and serves it.
pub(super) async fn fix(
    guest: &Arc<Guest>,
    mut record: Record,
    request: &ExportRequest,
) -> Result<Record, DriverError> {
    let qmp = guest.backup_monitor().await.map_err(QemuError::from)?;
    let spec = guest.spec();
    let disks: Vec<&DiskSpec> =
        spec.disks.iter().filter(|disk| record.disks.iter().any(|one| one.id == disk.id)).collect();
    sweep(&qmp, guest, &spec).await?;
    let there = nodes(&qmp).await?;
    let known = record::checkpoints(guest).await?;
    let of_disk = |disk: &DiskSpec| there.get(&disk.node()).map(bitmaps::of_node).unwrap_or_default();
    for (disk, recorded) in disks.iter().zip(&mut record.disks) {
        if let Some(since) = request.since.as_ref().filter(|_| bitmaps::can_have(disk)) {
            recorded.lost = bitmaps::why_lost(since, disk, &of_disk(disk), &known);
            recorded.tells = recorded.lost.is_none();
        }
    }
    bitmaps::note(guest, &record, request).await?;
    for disk in &disks {
        prepare(&qmp, guest, &record, disk).await?;
    }
    let runs = qmp.query_status().await.map_err(QemuError::from)?.running;
    record.thaw = request.quiesce && runs;
    record.go_on = runs && disks.len() > 1;
    record::write(guest, &record).await?;
    stand_still(guest, &qmp, &mut record, &disks, request.quiesce).await?;
    tell_changes(&qmp, &record, request, &disks).await?;
    serve(&qmp, &record, &disks).await?;
    drop_spare(&qmp, &record, request, &disks, of_disk).await;
    record.standing = true;
    record::write(guest, &record).await?;
    Ok(record)
}

/// The guest stands still for as long as it takes to put the filters in.
async fn stand_still(
    guest: &Arc<Guest>,
    qmp: &Qmp,
    record: &mut Record,
    disks: &[&DiskSpec],
    quiesce: bool,
) -> Result<(), DriverError> {
    let outcome = match (quiesce, record.thaw) {
        (true, true) => freeze::freeze(guest).await,
        (true, false) => Outcome::Not("its processors are held".into()),
        (false, _) => Outcome::Not(String::new()),
    };
    let fixed = timeout(FIX_LIMIT, put_in(qmp, record, disks)).await;
    if record.go_on && qmp.cont().await.is_err() {
        // Once more over the other monitor; what still holds it then is undone with the rest.
        if let Ok(other) = guest.qmp() {
            let _ = other.cont().await;
        }
    }
    record.consistency = Consistency::None;
    match outcome {
        Outcome::Frozen(frozen) => {
            let since = frozen.since();
            match frozen.thaw().await {
                Some(stood) => {
                    record.thaw = false;
                    record.consistency = Consistency::Default;
                    record.frozen_ms = Some(u64::try_from(stood.as_millis()).unwrap_or(u64::MAX));
                }
                None => {
                    freeze::thaw_left(guest).await;
                    record.consistency = Consistency::Default;
                    record.frozen_ms = Some(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
                    record.notes.push("the guest was slow to thaw its file systems".into());
                }
            }
        }
        Outcome::Not(why) => {
            record.thaw = false;
            if !why.is_empty() {
                record.notes.push(format!("crash-consistent, because the guest was not frozen: {why}"));
            }
        }
        Outcome::Unclear(why) => {
            record.notes.push(format!("crash-consistent, because the guest was not frozen: {why}"));
            freeze::thaw_left(guest).await;
        }
    }
    let slow = || QemuError::Qmp(QmpError::TimedOut("fixing the moment of a backup".into()));
    let note = fixed.map_err(|_| slow())??;
    if let Some(note) = note {
        record.checkpoint = None;
        record.notes.push(note);
    }
    record.go_on = false;
    Ok(())
}

/// Adds the checkpoint, and puts the filters in. Gives what is wrong with the checkpoint, where there can be none.
async fn put_in(qmp: &Qmp, record: &Record, disks: &[&DiskSpec]) -> Result<Option<String>, QemuError> {
    if record.go_on {
        qmp.stop().await?;
    }
    let mut note = None;
    if let Some(checkpoint) = &record.checkpoint {
        let add = |disk: &&DiskSpec| {
            let data = json!({ "node": disk.node(), "name": checkpoint, "persistent": true });
            json!({ "type": "block-dirty-bitmap-add", "data": data })
        };
        let actions: Vec<Value> = disks.iter().filter(|disk| bitmaps::can_have(disk)).map(add).collect();
        match run(qmp, "transaction", json!({ "actions": actions })).await {
            Err(QemuError::Qmp(QmpError::Refused { desc, .. })) => {
                note = Some(format!("the next backup reads everything, because there is no checkpoint: {desc}"));
            }
            other => drop(other?),
        }
    }
    for disk in disks {
        set_drive(qmp, disk, &node_name(FILTER, &record.session, &disk.id)).await?;
    }
    Ok(note)
}

async fn set_drive(qmp: &Qmp, disk: &DiskSpec, node: &str) -> Result<(), QemuError> {
    let wish = json!({ "path": device_path(disk), "property": "drive", "value": node });
    run(qmp, "qom-set", wish).await.map(drop)
}

/// Copies what changed since the old checkpoint to where it does not grow any more.
async fn tell_changes(
    qmp: &Qmp,
    record: &Record,
    request: &ExportRequest,
    disks: &[&DiskSpec],
) -> Result<(), QemuError> {
    let Some(since) = &request.since else { return Ok(()) };
    let pull = record.pull();
    let mut actions = Vec::new();
    for (disk, _) in disks.iter().zip(&record.disks).filter(|(_, recorded)| recorded.tells) {
        let add = json!({ "node": disk.node(), "name": pull, "disabled": true });
        actions.push(json!({ "type": "block-dirty-bitmap-add", "data": add }));
        let merge = json!({ "node": disk.node(), "target": pull, "bitmaps": [since] });
        actions.push(json!({ "type": "block-dirty-bitmap-merge", "data": merge }));
    }
    if actions.is_empty() {
        return Ok(());
    }
    run(qmp, "transaction", json!({ "actions": actions })).await.map(drop)
}

async fn serve(qmp: &Qmp, record: &Record, disks: &[&DiskSpec]) -> Result<(), QemuError> {
    // QEMU works in the guest's directory: the path is short, however long that of the directory is.
    let address = json!({ "type": "unix", "data": { "path": SOCKET } });
    run(qmp, "nbd-server-start", json!({ "addr": address, "max-connections": 0 })).await?;
    for (disk, recorded) in disks.iter().zip(&record.disks) {
        let access = node_name(ACCESS, &record.session, &disk.id);
        let filter = node_name(FILTER, &record.session, &disk.id);
        run(qmp, "blockdev-add", json!({ "driver": "snapshot-access", "node-name": access, "file": filter })).await?;
        let mut export = json!({ "type": "nbd", "id": access, "node-name": access, "name": disk.id });
        if recorded.tells {
            export["bitmaps"] = json!([{ "node": disk.node(), "name": record.pull() }]);
        }
        run(qmp, "block-export-add", export).await?;
    }
    // The map of the moment stops at the disk's own file: what lies below, which stands still, is served as well.
    for disk in disks.iter().filter(|disk| !disk.base.is_empty()) {
        let (id, node) = (node_name(BELOW, &record.session, &disk.id), base_node(disk));
        let export = json!({ "type": "nbd", "id": id, "node-name": node, "name": below(&disk.id) });
        run(qmp, "block-export-add", export).await?;
    }
    Ok(())
}

/// What the export of what lies below a disk is called.
fn below(disk: &str) -> String {
    format!("{disk}-below")
}

/// The filter and its scratch file, which do nothing yet.
async fn prepare(qmp: &Qmp, guest: &Guest, record: &Record, disk: &DiskSpec) -> Result<(), QemuError> {
    let path = scratch(guest, disk);
    let (made, size) = (path.clone(), disk.size_bytes);
    guest
        .files(move || {
            let mut options = File::options();
            let file = options.write(true).create(true).truncate(true).mode(0o600).open(&made);
            file.and_then(|file| file.set_len(size)).map_err(QemuError::file("write", &made))
        })
        .await?;
    let target = node_name(SCRATCH, &record.session, &disk.id);
    let file = json!({ "driver": "file", "node-name": target, "filename": text(&path), "discard": "unmap" });
    run(qmp, "blockdev-add", file).await?;
    let filter = json!({
        "driver": "copy-before-write",
        // The guest may give back space meanwhile, as it may without the filter.
        "discard": "unmap",
        "node-name": node_name(FILTER, &record.session, &disk.id),
        "file": disk.node(),
        "target": target,
        "on-cbw-error": "break-snapshot",
        "cbw-timeout": SCRATCH_SECONDS,
    });
    run(qmp, "blockdev-add", filter).await.map(drop)
}

/// Removes checkpoints that nobody will ask for. That it fails is no reason not to have the backup.
async fn drop_spare(
    qmp: &Qmp,
    record: &Record,
    request: &ExportRequest,
    disks: &[&DiskSpec],
    there: impl Fn(&DiskSpec) -> Vec<Bitmap>,
) {
    for disk in disks {
        for bitmap in there(disk) {
            let wanted = bitmap.wrong.is_none() || !bitmap.name.starts_with(super::PREFIX);
            if wanted && !bitmaps::is_spare(&bitmap.name, record.checkpoint.as_deref(), request) {
                continue;
            }
            if let Err(error) = remove_bitmap(qmp, &disk.node(), &bitmap.name).await {
                tracing::warn!(disk = disk.id, bitmap = bitmap.name, %error, "a checkpoint was not removed");
            }
        }
    }
}

async fn remove_bitmap(qmp: &Qmp, node: &str, name: &str) -> Result<(), QemuError> {
    run(qmp, "block-dirty-bitmap-remove", json!({ "node": node, "name": name })).await.map(drop)
}

/// Whether the moment is there still.
pub(super) async fn stands(guest: &Guest, record: &Record) -> bool {
    let Ok(qmp) = guest.backup_monitor().await else { return false };
    let Ok(there) = nodes(&qmp).await else { return false };
    record.disks.iter().all(|disk| there.contains_key(&node_name(ACCESS, &record.session, &disk.id)))
}

pub(super) async fn connect(guest: &Guest, disk: &str, context: Option<&str>) -> Result<NbdSource, NbdError> {
    let place = File::open(guest.dir()).map_err(|e| NbdError::Address(e.to_string()))?;
    let address = Address::unix(socket_in(place.as_fd(), SOCKET), disk);
    let options = ClientOptions { believe_zeros: has_true_map(guest), ..options(context) };
    NbdSource::connect(&address, &options, 2).await
}

/// Whether QEMU's map of a moment is one of that moment. QEMU 7.2 calls zeros what the guest discarded after it;
/// 10.0 does not, and nobody looked at those in between. What they read is right.
fn has_true_map(guest: &Guest) -> bool {
    const SINCE: QemuVersion = QemuVersion { major: 10, minor: 0, micro: 0 };
    guest.qmp().is_ok_and(|qmp| qmp.version() >= SINCE)
}

/// What lies below a disk, if anything does.
pub(super) async fn connect_below(guest: &Guest, disk: &str) -> Result<Option<NbdSource>, NbdError> {
    let has = guest.spec().disks.iter().any(|one| one.id == disk && !one.base.is_empty()) && has_true_map(guest);
    if has { connect(guest, &below(disk), None).await.map(Some) } else { Ok(None) }
}

pub(super) fn options(context: Option<&str>) -> ClientOptions {
    let contexts = [Some(BASE_ALLOCATION), context].into_iter().flatten().map(str::to_owned).collect();
    ClientOptions { contexts, ..ClientOptions::default() }
}

/// Takes everything away, and the checkpoint but with `keep`.
pub(super) async fn end(guest: &Guest, record: &Record, keep: bool) -> Result<(), QemuError> {
    let qmp = guest.backup_monitor().await?;
    let spec = guest.spec();
    if record.go_on && !qmp.query_status().await?.running {
        qmp.cont().await?;
    }
    sweep(&qmp, guest, &spec).await?;
    let Some(checkpoint) = record.checkpoint.as_ref().filter(|_| !keep) else { return Ok(()) };
    let there = nodes(&qmp).await?;
    for disk in &spec.disks {
        let found = there.get(&disk.node()).map(bitmaps::of_node).unwrap_or_default();
        if found.iter().any(|bitmap| bitmap.name == *checkpoint) {
            remove_bitmap(&qmp, &disk.node(), checkpoint).await?;
        }
    }
    Ok(())
}

/// Takes away all that exports of the guest left, where nothing tells what that is.
pub(super) async fn clear(guest: &Guest) -> Result<(), QemuError> {
    sweep(&guest.backup_monitor().await?, guest, &guest.spec()).await
}

/// Takes away whatever any export left in QEMU and beside its disks. Each step finds out whether it is needed.
async fn sweep(qmp: &Qmp, guest: &Guest, spec: &GuestSpec) -> Result<(), QemuError> {
    let there = nodes(qmp).await?;
    let named = |kind: &str| there.keys().filter(|name| name.starts_with(kind)).cloned().collect::<Vec<_>>();
    if there.keys().any(|name| [FILTER, SCRATCH, ACCESS].iter().any(|kind| name.starts_with(kind))) {
        // It hangs up on whoever reads, and waits until nobody does.
        match run(qmp, "nbd-server-stop", Value::Null).await {
            Err(QemuError::Qmp(QmpError::Refused { .. })) | Ok(_) => {}
            Err(error) => return Err(error),
        }
        let delete = |name: String| async move { run(qmp, "blockdev-del", json!({ "node-name": name })).await };
        for name in named(ACCESS) {
            delete(name).await?;
        }
        for disk in &spec.disks {
            let wish = json!({ "path": device_path(disk), "property": "drive" });
            let now = run(qmp, "qom-get", wish).await?;
            if now.as_str().is_some_and(|node| node.starts_with(FILTER)) {
                set_drive(qmp, disk, &disk.node()).await?;
            }
        }
        for name in named(FILTER).into_iter().chain(named(SCRATCH)) {
            delete(name).await?;
        }
    }
    for disk in &spec.disks {
        let found = there.get(&disk.node()).map(bitmaps::of_node).unwrap_or_default();
        for bitmap in found.iter().filter(|bitmap| bitmap.name.starts_with(PULL)) {
            remove_bitmap(qmp, &disk.node(), &bitmap.name).await?;
        }
    }
    remove_files(guest).await
}

/// Removes scratch files and the socket.
pub(super) async fn remove_files(guest: &Guest) -> Result<(), QemuError> {
    let spec = guest.spec();
    let mut files: Vec<PathBuf> = spec.disks.iter().map(|disk| scratch(guest, disk)).collect();
    files.push(guest.dir().join(SOCKET));
    blocking(move || {
        for path in files {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(QemuError::file("remove", &path)(e)),
                _ => {}
            }
        }
        Ok(())
    })
    .await
}

fn scratch(guest: &Guest, disk: &DiskSpec) -> PathBuf {
    guest.shared.layout.disks(&disk.datastore, guest.id()).join(format!("{}.scratch", disk.id))
}

/// QEMU takes names of 31 characters.
fn node_name(kind: &str, session: &str, disk: &str) -> String {
    format!("{kind}{session}-{disk}")
}

async fn run(qmp: &Qmp, command: &str, arguments: Value) -> Result<Value, QemuError> {
    let arguments = (!arguments.is_null()).then_some(arguments);
    Ok(qmp.execute(command, arguments).await?)
}
