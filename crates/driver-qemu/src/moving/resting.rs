//! Moves of a guest that is off: its disks' files are copied as they are.

use super::{Attempt, POLL, given_up};
use crate::QemuError;
use crate::guest::{Disturbed, Guest, GuestState};
use crate::spec::{DiskSpec, Phase};
use portolan_driver::{DriverError, HomeProgress};
use rustix::fs::SeekFrom;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How much is copied at a time, in bytes.
const PIECE: usize = 1 << 20;
/// Why a backup of the guest ends then.
const MOVED: &str = "the guest was moved to another datastore";

impl Guest {
    /// Copies the disks and switches the guest over. Says whether that is done: a guest that runs, or is to be started
    /// meanwhile, is not kept from that.
    pub(super) async fn copy_resting(self: &Arc<Self>, attempt: &Attempt) -> Result<bool, DriverError> {
        let _turn = self.turn.lock().await;
        let spec = self.holds_move(&attempt.wish)?;
        if self.observed().state != GuestState::Stopped || spec.phase != Phase::Ready {
            return Ok(false);
        }
        self.has_no_process().await?;
        // Whoever serves the files may write to them. No other export is opened from here on.
        crate::export::end_offline(self, MOVED).await?;
        // What was copied before may be older than what the guest did since.
        self.remove_copies(&spec).await?;
        let disks = spec.to_move();
        let total = disks.iter().map(|(disk, _)| disk.size_bytes).sum();
        let mut done = 0;
        for (disk, there) in &disks {
            match self.copy_file(attempt, disk, there, HomeProgress { done, total }).await? {
                Some(Disturbed::Started) => return Ok(false),
                Some(Disturbed::Lost(error)) => return Err(error),
                None => done += disk.size_bytes,
            }
        }
        self.holds_move(&attempt.wish)?;
        let all: Vec<String> = disks.into_iter().map(|(disk, _)| disk.id).collect();
        self.change(|spec| spec.has_moved(&all, false)).await?;
        Ok(true)
    }

    async fn copy_file(
        &self,
        attempt: &Attempt,
        disk: &DiskSpec,
        there: &DiskSpec,
        before: HomeProgress,
    ) -> Result<Option<Disturbed>, DriverError> {
        let (layout, id, datastore) = (self.shared.layout.clone(), self.id().to_owned(), there.datastore.clone());
        let (from, to) = (layout.file(&id, &disk.placed()), layout.file(&id, &there.placed()));
        let (stop, so_far) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let stopped = stop.clone().drop_guard();
        let counted = so_far.clone();
        let work = self.beside(move || {
            let dir = layout.make_disks(&datastore, &id)?;
            copy(&from, &to, &stop, &counted)?;
            crate::layout::sync_dir(&dir)
        });
        let (mut work, mut disturbed) =
            (pin!(work), pin!(self.is_disturbed(|| self.holds_move(&attempt.wish).map(drop))));
        let ended = loop {
            tokio::select! {
                biased;
                disturbed = &mut disturbed => break Ok(Some(disturbed)),
                () = attempt.given_up.cancelled() => break Err(given_up()),
                done = &mut work => return Ok(done.map(|()| None)?),
                () = sleep(POLL) => {
                    let done = before.done + so_far.load(Ordering::Relaxed).min(disk.size_bytes);
                    attempt.told.send_replace(HomeProgress { done, ..before });
                }
            }
        };
        // Nobody writes to that file any more when this returns, whatever becomes of it then.
        drop(stopped);
        let _ = work.await;
        ended
    }
}

/// Copies a file, holes as holes, and makes it durable. Ends early when told to stop.
fn copy(from: &Path, to: &Path, stop: &CancellationToken, so_far: &AtomicU64) -> Result<(), QemuError> {
    let source = File::open(from).map_err(QemuError::file("read", from))?;
    let length = source.metadata().map_err(QemuError::file("read", from))?.len();
    let target = crate::layout::open_private(to).map_err(QemuError::file("write", to))?;
    target.set_len(0).and_then(|()| target.set_len(length)).map_err(QemuError::file("write", to))?;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while let Some((data, hole)) = next_data(&source, at, length).map_err(QemuError::file("read", from))? {
        at = data;
        while at < hole {
            if stop.is_cancelled() {
                return Ok(());
            }
            let wanted = usize::try_from(hole - at).unwrap_or(PIECE).min(PIECE);
            source.read_exact_at(&mut piece[..wanted], at).map_err(QemuError::file("read", from))?;
            target.write_all_at(&piece[..wanted], at).map_err(QemuError::file("write", to))?;
            at += wanted as u64;
            so_far.store(at, Ordering::Relaxed);
        }
    }
    target.sync_all().map_err(QemuError::file("write", to))
}

/// Where the next data begins and ends; nothing when there is none.
fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) if data >= length => Ok(None),
        Ok(data) => Ok(Some((data, rustix::fs::seek(file, SeekFrom::Hole(data))?.min(length)))),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        // A file system without holes.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(Some((at, length))),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_stay_holes_and_what_was_there_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let source = File::create(&from).unwrap();
        source.set_len(64 << 20).unwrap();
        source.write_all_at(&[7; 3 << 20], 5 << 20).unwrap();
        source.write_all_at(b"the end", (64 << 20) - 7).unwrap();
        std::fs::write(&to, vec![1; 70 << 20]).unwrap();
        let so_far = AtomicU64::new(0);
        copy(&from, &to, &CancellationToken::new(), &so_far).unwrap();
        assert_eq!(so_far.load(Ordering::Relaxed), 64 << 20);
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
        let taken = |path: &Path| std::fs::metadata(path).unwrap().blocks();
        assert!(taken(&to) <= taken(&from) + 64, "{} {}", taken(&to), taken(&from));
        std::fs::write(&from, b"").unwrap();
        copy(&from, &to, &CancellationToken::new(), &so_far).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"");
        let stop = CancellationToken::new();
        stop.cancel();
        std::fs::write(&from, b"something").unwrap();
        copy(&from, &to, &stop, &so_far).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), [0; 9]);
    }
}
