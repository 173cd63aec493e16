//! Reading a moment, and noticing when it is lost.

use super::record::Record;
use crate::guest::{Guest, held};
use async_trait::async_trait;
use bytes::Bytes;
use portolan_block::{BlockError, BlockExtent, BlockSource, ExtentKind, coalesce};
use portolan_nbd::{BASE_ALLOCATION, NbdError, NbdSource};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Below this much free space a moment that QEMU gave up was given up for that.
const SCARCE: u64 = 16 << 20;

/// Looks whether the moment of a session is still held. Whoever has it holds the session.
#[derive(Debug)]
pub(crate) struct Watch {
    guest: Arc<Guest>,
    record: Record,
    lost: Mutex<Option<String>>,
}

impl Watch {
    pub(super) fn new(guest: Arc<Guest>, record: Record) -> Self {
        Self { guest, record, lost: Mutex::default() }
    }

    /// It is lost, for this reason; the first one counts.
    pub(super) fn lose(&self, why: &str) {
        held(&self.lost).get_or_insert_with(|| why.to_owned());
    }

    pub(super) fn lost(&self) -> Option<String> {
        held(&self.lost).clone()
    }

    /// Files that nobody holds still are looked at after each read: what was read is of the moment if they are as
    /// they were.
    fn check(&self) -> Result<(), BlockError> {
        if let Some(why) = self.lost() {
            return Err(BlockError::Changed(why));
        }
        if self.record.disks.iter().flat_map(|disk| &disk.files).any(|file| !file.stands()) {
            self.lose("somebody wrote to the disk of a guest that does not run");
            return self.check();
        }
        Ok(())
    }

    /// Says what a failed read comes from.
    fn explained(&self, error: BlockError) -> BlockError {
        if matches!(error, BlockError::OutOfRange { .. }) {
            return error;
        }
        if let Err(changed) = self.check() {
            return changed;
        }
        if !self.record.live {
            return error;
        }
        if self.guest.pid().is_none() {
            self.lose("QEMU ended during the backup");
            return error;
        }
        if self.is_full() {
            let why = "there was no space left in the datastore for what the guest overwrote during the backup";
            self.lose(why);
            return BlockError::NoSpace;
        }
        error
    }

    fn is_full(&self) -> bool {
        let spec = self.guest.spec();
        let of_disk = |id: &str| spec.disks.iter().find(|disk| disk.id == id);
        self.record.disks.iter().filter_map(|disk| of_disk(&disk.id)).any(|disk| {
            let place = self.guest.shared.layout.disks(&disk.datastore, self.guest.id());
            let space = rustix::fs::statvfs(&place);
            space.is_ok_and(|space| space.f_bavail.saturating_mul(space.f_frsize) < SCARCE)
        })
    }
}

/// The bits of `base:allocation`: there is nothing in the image itself, and it reads as zeros.
const HOLE: u32 = 1;
const ZERO: u32 = 2;

/// A disk of a session.
pub(super) struct HeldSource {
    inner: NbdSource,
    /// What lies below the disk, where QEMU's map of the moment does not look there.
    below: Option<NbdSource>,
    watch: Arc<Watch>,
}

impl HeldSource {
    pub(super) fn new(inner: NbdSource, below: Option<NbdSource>, watch: Arc<Watch>) -> Self {
        Self { inner, below, watch }
    }

    /// The map, of both layers: where the upper one had nothing at the moment, the lower one tells, which never
    /// changes.
    async fn layered(&self, below: &NbdSource, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        let connection = self.inner.connection();
        let failed = |error: NbdError| error.into_block("map", range.start);
        let place = connection.info().contexts.iter().position(|name| name == BASE_ALLOCATION);
        let Some(place) = place else { return self.inner.extents(range).await };
        portolan_block::check_range(range.start, range.end.saturating_sub(range.start), self.size())?;
        let (mut out, mut at) = (Vec::new(), range.start);
        while at < range.end {
            let status = connection.block_status(at..range.end, false).await.map_err(failed)?;
            let runs = status.get(place).map_or(&[][..], |status| &status.extents);
            if runs.is_empty() {
                return Err(failed(NbdError::Protocol("block status of nothing".into())));
            }
            for run in runs {
                let end = (at + run.len).min(range.end);
                match (run.flags & ZERO != 0, run.flags & HOLE != 0) {
                    (true, true) => out.push(BlockExtent::new(at..end, ExtentKind::Hole)),
                    (true, false) => out.push(BlockExtent::new(at..end, ExtentKind::Zero)),
                    (false, false) => out.push(BlockExtent::new(at..end, ExtentKind::Data)),
                    (false, true) => {
                        // What lies below may be shorter, and end before this begins.
                        let covered = end.min(below.size()).max(at);
                        if at < covered {
                            out.extend(below.extents(at..covered).await?);
                        }
                        if covered < end {
                            out.push(BlockExtent::new(covered..end, ExtentKind::Hole));
                        }
                    }
                }
                at = end;
            }
        }
        Ok(coalesce(out))
    }

    fn checked<T>(&self, read: Result<T, BlockError>) -> Result<T, BlockError> {
        match read {
            Ok(read) => self.watch.check().map(|()| read),
            Err(error) => Err(self.watch.explained(error)),
        }
    }
}

#[async_trait]
impl BlockSource for HeldSource {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        match &self.below {
            Some(below) => self.checked(self.layered(below, range).await),
            None => self.checked(self.inner.extents(range).await),
        }
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BlockError> {
        self.checked(self.inner.read_at(offset, len).await)
    }

    async fn read_many(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
        self.checked(self.inner.read_many(ranges).await)
    }
}
