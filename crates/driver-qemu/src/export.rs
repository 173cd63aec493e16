//! Exports: a guest's disks at one moment, read over NBD.
//!
//! * A guest that runs goes on writing: QEMU copies what is about to be overwritten into a scratch file first, and
//!   serves the moment itself. See [`live`].
//! * The disks of one that does not run are served by a daemon of their own, and are watched. See [`offline`].
//!
//! What is under way is written down in the guest's directory before it is done (`export.json`), so that the next
//! Portolan finds it: a moment that stands is gone on with, and what was cut off is undone, a frozen guest thawed.

mod bitmaps;
mod freeze;
mod live;
mod offline;
mod record;
mod source;

use crate::QemuError;
use crate::guest::{Guest, GuestState, held};
use crate::hypervisor::{machine, power};
use async_trait::async_trait;
use portolan_driver::{AbandonedExport, Changes, DriverError, ExportRequest, ExportSession, Exported, ExportedDisk};
use portolan_nbd::NbdSource;
use record::{Record, RecordedDisk};
use source::{HeldSource, Watch};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::MutexGuard;
use tokio::time::timeout;

/// How long a guest that is being started is waited for.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long the end of a QEMU that does not answer any more may take to be noticed.
const END_LIMIT: Duration = Duration::from_secs(5);
/// The daemon that serves the disks of a guest that does not run.
pub(crate) const DAEMON: &str = offline::NAME;
/// What checkpoints, which are bitmaps, are called.
const PREFIX: &str = "portolan-";

/// What this process knows about a guest's exports.
#[derive(Debug, Default)]
pub(crate) struct Exporting {
    /// The session that somebody holds, and its hold.
    holder: Option<(String, Weak<Watch>)>,
    /// The session that was let go of last.
    released: Option<String>,
}

/// Opens an export, or finds the one that was opened before. See [`portolan_driver::Hypervisor::open_export`].
pub(crate) async fn open(guest: Arc<Guest>, request: ExportRequest) -> Result<Session, DriverError> {
    let owner = guest.clone();
    owner.shared.whole(async move { open_whole(guest, request).await }).await
}

async fn open_whole(guest: Arc<Guest>, request: ExportRequest) -> Result<Session, DriverError> {
    wanted(&guest, &request)?;
    settled(&guest).await?;
    let _turn = guest.exports.lock().await;
    // Who waited may find another guest than before.
    let wanted = wanted(&guest, &request)?;
    is_settled(&guest, guest.observed().state)?;
    let runs = guest.pid().is_some();
    if let Some(mut record) = sound_record(&guest).await? {
        if record.token == request.token {
            if record.fence > request.fence {
                return Err(DriverError::Fenced);
            }
            if record.standing && record.live == runs && record.is_of(&wanted) {
                record.fence = request.fence;
                let stands =
                    if runs { live::stands(&guest, &record).await } else { offline::stands(&guest, &record).await };
                if stands {
                    record::write(&guest, &record).await?;
                    return session(guest.clone(), record, &request).await;
                }
            }
        } else if is_held(&guest, &record.session) {
            let what = format!("another backup of the guest '{}' is under way", guest.id());
            return Err(DriverError::Conflict(what));
        }
        // It was cut off, or its moment is lost, or nobody asks for it any more.
        undo(&guest, &record, false).await?;
    }
    let record = plan(&guest, &request, wanted, runs);
    record::write(&guest, &record).await?;
    let fixed = if runs {
        live::fix(&guest, record.clone(), &request).await
    } else {
        offline::fix(&guest, record.clone(), &request).await
    };
    match fixed {
        Ok(record) => {
            let opened = session(guest.clone(), record.clone(), &request).await;
            if opened.is_err() {
                let _ = undo(&guest, &record, false).await;
            }
            opened
        }
        Err(error) => {
            // What it had done by then stands there: above all, whether the guest is frozen or held.
            let record = record::read(&guest).await.ok().flatten().unwrap_or(record);
            if let Err(error) = undo(&guest, &record, false).await {
                tracing::warn!(guest = guest.id(), %error, "what an export left could not be removed");
            }
            Err(error)
        }
    }
}

/// The disks that are asked for, of a guest that may be exported now.
fn wanted(guest: &Guest, request: &ExportRequest) -> Result<Vec<String>, DriverError> {
    let spec = guest.spec();
    if spec.incarnation != request.incarnation || spec.phase == crate::Phase::Deleting {
        return Err(DriverError::NotFound { what: "guest", id: spec.id });
    }
    if spec.is_remote_at_all() {
        return Err(DriverError::Conflict("the guest runs from a backup: its data comes home first".into()));
    }
    if spec.reverting.is_some() {
        return Err(DriverError::Conflict("the guest goes back to a snapshot just now".into()));
    }
    if spec.is_moving() {
        return Err(DriverError::Conflict(crate::moving::BEING_MOVED.into()));
    }
    let Some(wanted) = &request.disks else { return Ok(spec.disks.into_iter().map(|disk| disk.id).collect()) };
    if let Some(id) = wanted.iter().find(|id| !spec.disks.iter().any(|disk| disk.id == **id)) {
        return Err(DriverError::NotFound { what: "disk", id: id.clone() });
    }
    Ok(spec.disks.into_iter().map(|disk| disk.id).filter(|id| wanted.contains(id)).collect())
}

/// Waits until the guest either runs or does not.
async fn settled(guest: &Guest) -> Result<(), DriverError> {
    use GuestState::{Starting, Stopping};
    let mut seen = guest.observe();
    let done = timeout(START_LIMIT, seen.wait_for(|seen| !matches!(seen.state, Starting | Stopping)));
    let state = match done.await {
        Ok(Ok(seen)) => seen.state,
        _ if guest.observed().state == Stopping => GuestState::Running,
        _ => Starting,
    };
    is_settled(guest, state)
}

fn is_settled(guest: &Guest, state: GuestState) -> Result<(), DriverError> {
    use GuestState::{Failed, Pending, Starting};
    match state {
        Pending | Failed => Err(DriverError::Conflict(format!("the guest '{}' is not made yet", guest.id()))),
        Starting => Err(DriverError::Unreachable {
            reason: format!("the guest '{}' is being started", guest.id()),
            retry_after: None,
        }),
        _ => Ok(()),
    }
}

fn plan(guest: &Arc<Guest>, request: &ExportRequest, wanted: Vec<String>, runs: bool) -> Record {
    let spec = guest.spec();
    let mut bytes = [0; 6];
    guest.shared.ids.fill(&mut bytes);
    let session = bytes.iter().fold(String::new(), |id, byte| id + &format!("{byte:02x}"));
    let tracked = spec.disks.iter().any(|disk| wanted.contains(&disk.id) && bitmaps::can_have(disk));
    Record {
        token: request.token.clone(),
        fence: request.fence,
        checkpoint: tracked.then(|| format!("{PREFIX}{session}")),
        session,
        live: runs,
        since: request.since.clone(),
        disks: spec
            .disks
            .iter()
            .filter(|disk| wanted.contains(&disk.id))
            .map(|disk| RecordedDisk { id: disk.id.clone(), tells: false, lost: None, files: Vec::new() })
            .collect(),
        vm: machine(&spec, power(guest.observed().state), &guest.addresses()),
        consistency: portolan_model::Consistency::NotApplicable,
        frozen_ms: None,
        notes: Vec::new(),
        standing: false,
        thaw: false,
        go_on: false,
    }
}

/// A session over a moment that stands.
async fn session(guest: Arc<Guest>, record: Record, request: &ExportRequest) -> Result<Session, DriverError> {
    let watch = Arc::new(Watch::new(guest.clone(), record.clone()));
    let mut disks = Vec::new();
    for disk in &record.disks {
        let context = record.context(disk);
        let connected = if record.live {
            live::connect(&guest, &disk.id, context.as_deref()).await
        } else {
            offline::connect(&guest, &disk.id, context.as_deref()).await
        };
        let source: NbdSource = connected.map_err(|e| DriverError::Block(e.into()))?;
        let below = if record.live { live::connect_below(&guest, &disk.id).await } else { Ok(None) };
        let below = below.map_err(|e| DriverError::Block(e.into()))?;
        let asked = request.since.is_some();
        let changes = match (&context, &disk.lost) {
            _ if !asked => Changes::Unknown,
            _ if request.since != record.since => {
                Changes::Lost("this backup was begun to be compared with another one".into())
            }
            (_, Some(reason)) => Changes::Lost(reason.clone()),
            (Some(context), None) => {
                Changes::Ranges(source.changed(context).await.map_err(|e| DriverError::Block(e.into()))?)
            }
            (None, None) => Changes::Unknown,
        };
        let name = record.vm.disks.iter().find(|one| one.native_id == disk.id).map(|one| one.name.clone());
        disks.push(ExportedDisk {
            native_id: disk.id.clone(),
            name: name.unwrap_or_else(|| disk.id.clone()),
            source: Arc::new(HeldSource::new(source, below, watch.clone())),
            changes,
        });
    }
    let exported = Exported {
        vm: record.vm.clone(),
        disks,
        moment: record.session.clone(),
        checkpoint: record.checkpoint.clone(),
        consistency: record.consistency,
        frozen: record.frozen_ms.map(Duration::from_millis),
        notes: record.notes.clone(),
    };
    held(&guest.exporting).holder = Some((record.session.clone(), Arc::downgrade(&watch)));
    Ok(Session { guest, exported, record, watch, released: AtomicBool::new(false) })
}

fn is_held(guest: &Guest, session: &str) -> bool {
    let exporting = held(&guest.exporting);
    exporting.holder.as_ref().is_some_and(|(id, hold)| id == session && hold.strong_count() > 0)
}

/// Ends whatever of a session there is, in any state, and forgets it. Its checkpoint stays with `keep`.
async fn undo(guest: &Arc<Guest>, record: &Record, keep: bool) -> Result<(), DriverError> {
    if record.thaw {
        freeze::thaw_left(guest).await;
    }
    let ended = if guest.pid().is_some() { live::end(guest, record, keep).await } else { Ok(()) };
    if let Err(error) = ended {
        // QEMU may have ended just now; then what it left is in files.
        let mut seen = guest.observe();
        let stopped = timeout(END_LIMIT, seen.wait_for(|seen| seen.state == GuestState::Stopped)).await;
        if stopped.is_err() {
            return Err(error.into());
        }
    }
    if guest.pid().is_none() {
        offline::end(guest, record, keep).await?;
    }
    record::remove(guest).await?;
    if let Some(checkpoint) = record.checkpoint.as_ref().filter(|_| !keep) {
        record::forget_checkpoints(guest, |id| id == checkpoint).await?;
    }
    Ok(())
}

/// The guest's export, if there is one that can be told. A record that is damaged must not be in the way of the guest:
/// all that an export may have left is taken away, and it is forgotten.
async fn sound_record(guest: &Arc<Guest>) -> Result<Option<Record>, DriverError> {
    let error = match record::read(guest).await {
        Err(error @ QemuError::Damaged { .. }) => error,
        read => return Ok(read?),
    };
    tracing::warn!(guest = guest.id(), error = error.text(), "the record of an export cannot be read, and is removed");
    let cleared = if guest.pid().is_some() {
        freeze::thaw_left(guest).await;
        live::clear(guest).await
    } else {
        offline::clear(guest).await
    };
    if let Err(error) = cleared {
        tracing::warn!(guest = guest.id(), error = error.text(), "what an export left could not be removed");
    }
    record::remove(guest).await?;
    Ok(None)
}

/// See [`portolan_driver::Hypervisor::abandon_export`].
pub(crate) async fn abandon(guest: Arc<Guest>, export: AbandonedExport) -> Result<(), DriverError> {
    let owner = guest.clone();
    let work = async move {
        let _turn = guest.exports.lock().await;
        let Some(record) = sound_record(&guest).await?.filter(|record| record.token == export.token) else {
            return Ok(());
        };
        if record.fence > export.fence {
            return Err(DriverError::Fenced);
        }
        undo(&guest, &record, false).await?;
        held(&guest.exporting).released = Some(record.session);
        Ok(())
    };
    owner.shared.whole(work).await
}

/// For when Portolan finds a guest: what was cut off in the middle is undone, above all a freeze; a moment that
/// stands stays for whoever comes for it.
pub(crate) async fn recover(guest: Arc<Guest>) {
    let _turn = guest.exports.lock().await;
    let record = match sound_record(&guest).await {
        Ok(None) => return,
        Ok(Some(record)) if record.standing && record.live == guest.pid().is_some() => return,
        Ok(Some(record)) => record,
        Err(error) => {
            tracing::warn!(guest = guest.id(), %error, "the record of an export cannot be read");
            return;
        }
    };
    if let Err(error) = undo(&guest, &record, false).await {
        tracing::warn!(guest = guest.id(), %error, "an export that was cut off could not be undone");
    }
}

/// For before the disks of a guest that runs are moved: an export that somebody reads is a conflict, and what others
/// left is undone.
pub(crate) async fn end_left(guest: &Arc<Guest>) -> Result<(), DriverError> {
    let _turn = guest.exports.lock().await;
    let Some(record) = sound_record(guest).await? else { return Ok(()) };
    if is_held(guest, &record.session) {
        return Err(DriverError::Conflict(format!("a backup of the guest '{}' is under way", guest.id())));
    }
    undo(guest, &record, false).await
}

/// For before a guest is started or destroyed: an export of its resting disks ends, and its reads fail from then on.
pub(crate) async fn end_offline(guest: &Arc<Guest>, why: &str) -> Result<(), QemuError> {
    let turn = guest.exports.lock().await;
    end_offline_within(guest, &turn, why).await
}

/// The same for who goes on holding the turn: no other export is opened for as long.
pub(crate) async fn end_offline_within(
    guest: &Arc<Guest>,
    _turn: &MutexGuard<'_, ()>,
    why: &str,
) -> Result<(), QemuError> {
    offline::stop(guest).await?;
    let read = sound_record(guest).await.map_err(|e| QemuError::Conflict(e.to_string()))?;
    let Some(record) = read else { return Ok(()) };
    let hold = held(&guest.exporting).holder.as_ref().and_then(|(_, hold)| hold.upgrade());
    if let Some(hold) = hold {
        hold.lose(why);
    }
    if let Err(error) = undo(guest, &record, false).await {
        tracing::warn!(guest = guest.id(), %error, "an export could not be undone");
    }
    Ok(())
}

/// An export that is open.
pub(crate) struct Session {
    guest: Arc<Guest>,
    exported: Exported,
    record: Record,
    watch: Arc<Watch>,
    released: AtomicBool,
}

#[async_trait]
impl ExportSession for Session {
    fn exported(&self) -> &Exported {
        &self.exported
    }

    async fn release(&self, keep_checkpoint: bool) -> Result<(), DriverError> {
        if self.released.load(Ordering::SeqCst) {
            return Ok(());
        }
        let (guest, mine, watch) = (self.guest.clone(), self.record.clone(), self.watch.clone());
        let sources: Vec<_> = self.exported.disks.iter().map(|disk| disk.source.clone()).collect();
        let done = self.guest.shared.whole(async move {
            let _turn = guest.exports.lock().await;
            let now = sound_record(&guest).await?;
            let now = match now {
                Some(now) if now.session == mine.session => now,
                Some(now) if now.token == mine.token && now.fence > mine.fence => return Err(DriverError::Fenced),
                _ if held(&guest.exporting).released.as_ref() == Some(&mine.session) => return Ok(()),
                _ => return Err(not_held(&watch, "the guest was stopped, started or backed up meanwhile")),
            };
            if now.fence > mine.fence {
                return Err(DriverError::Fenced);
            }
            // What cannot be read now may not have been right before.
            let mut held_to_the_end = Ok(());
            for source in sources {
                if let Err(error) = source.read_at(0, source.size().min(512) as usize).await {
                    held_to_the_end = Err(not_held(&watch, &error.to_string()));
                }
            }
            undo(&guest, &now, keep_checkpoint && held_to_the_end.is_ok()).await?;
            held(&guest.exporting).released = held_to_the_end.is_ok().then(|| now.session.clone());
            held_to_the_end
        });
        let done = done.await;
        if done.is_ok() {
            self.released.store(true, Ordering::SeqCst);
        }
        done
    }
}

fn not_held(watch: &Watch, why: &str) -> DriverError {
    let why = watch.lost().unwrap_or_else(|| why.to_owned());
    DriverError::Conflict(format!("the moment of the backup was not held to the end: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;
    use crate::spec::{InstantSpec, Reverting};

    fn request(guest: &Guest) -> ExportRequest {
        ExportRequest {
            vm: guest.id().to_owned(),
            incarnation: guest.spec().incarnation,
            disks: None,
            token: "t1".into(),
            fence: 1,
            since: None,
            keep: Vec::new(),
            quiesce: false,
        }
    }

    /// Asks for an export, and changes the guest while that waits for its turn.
    async fn late(guest: &Arc<Guest>, change: impl FnOnce(&mut crate::GuestSpec), state: GuestState) -> DriverError {
        let turn = guest.exports.lock().await;
        let asked = tokio::spawn(open(guest.clone(), request(guest)));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        guest.change(change).await.unwrap();
        guest.is(state, None);
        drop(turn);
        let refused = asked.await.unwrap().err().expect("a refusal");
        assert!(record::read(guest).await.unwrap().is_none(), "nothing was begun");
        refused
    }

    #[tokio::test]
    async fn who_waits_for_an_export_looks_again() {
        let fixture = Fixture::new().await;
        let guest = fixture.guest(|_| {}).await;
        let starting = late(&guest, |_| {}, GuestState::Starting).await;
        assert!(matches!(&starting, DriverError::Unreachable { .. }), "{starting:?}");
        guest.is(GuestState::Stopped, None);
        let back = Reverting { snapshot: "s-1".into(), start: false, load: false };
        let reverting = late(&guest, |spec| spec.reverting = Some(back), GuestState::Stopped).await;
        assert!(matches!(&reverting, DriverError::Conflict(_)), "{reverting:?}");
        guest.change(|spec| spec.reverting = None).await.unwrap();
        let replaced = late(&guest, |spec| spec.incarnation = "another".into(), GuestState::Stopped).await;
        assert!(matches!(&replaced, DriverError::NotFound { .. }), "{replaced:?}");
        let far = InstantSpec { fence: 1, isolated: false, remote: vec!["d0".into()] };
        let far = late(&guest, |spec| spec.instant = Some(far), GuestState::Stopped).await;
        assert!(matches!(&far, DriverError::Conflict(_)), "{far:?}");
    }
}
