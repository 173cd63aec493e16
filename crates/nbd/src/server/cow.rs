//! A writable disk over a source that stays as it is.

use super::devices::{read_file, write_file};
use super::export::ExportDevice;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use portolan_block::{BlockError, BlockExtent, BlockSource, ExtentKind, coalesce};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is written is kept in blocks of this many bytes.
const BLOCK: u64 = 64 << 10;

/// How many blocks can be changed at once. Blocks with the same remainder take turns.
const LANES: usize = 64;

/// A block's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Never written: the base has it.
    Base,
    /// The overlay has it, all of it.
    Overlay,
    /// Zeros, wherever the overlay may stand.
    Zero,
}

/// A source that can be written to: what is written goes to a sparse file, which has no name and is gone when the
/// device is dropped, or the process ends in whatever way. Nothing written survives that, so that a flush has
/// nothing to do.
///
/// Blocks are 64 KiB. A block that is written in part is filled up from the base first. Two bits per block are in
/// memory. Space of the overlay that is zeroed or trimmed later is not given back before the end.
pub struct CowDevice {
    inner: Arc<Inner>,
}

struct Inner {
    base: Arc<dyn BlockSource>,
    size: u64,
    overlay: Arc<File>,
    places: Mutex<Places>,
    /// Held by whoever changes blocks, in order of their numbers.
    lanes: [tokio::sync::Mutex<()>; LANES],
}

impl CowDevice {
    /// A device over `base`, whose overlay lies in `directory`.
    pub fn new(base: Arc<dyn BlockSource>, directory: &Path) -> io::Result<Self> {
        let size = base.size();
        let overlay = nameless(directory)?;
        overlay.set_len(size)?;
        let places = Mutex::new(Places::new(size.div_ceil(BLOCK)));
        let lanes = std::array::from_fn(|_| tokio::sync::Mutex::new(()));
        Ok(Self { inner: Arc::new(Inner { base, size, overlay: Arc::new(overlay), places, lanes }) })
    }

    /// How many bytes of the disk are in the overlay now.
    pub fn written(&self) -> u64 {
        self.inner.places().count(Place::Overlay) * BLOCK
    }

    /// Changes something to the end, even when nobody waits for it any more: a write to the overlay that went on
    /// after its locks were let go of would undo what others write.
    async fn change(
        &self,
        offset: u64,
        work: impl Future<Output = Result<(), BlockError>> + Send + 'static,
    ) -> Result<(), BlockError> {
        let failed = |error| BlockError::Io { action: "write", offset, source: io::Error::other(error) };
        tokio::spawn(work).await.unwrap_or_else(|error| Err(failed(error)))
    }
}

impl Inner {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs of blocks at one place in a range.
    fn runs(&self, range: &Range<u64>) -> Vec<(Range<u64>, Place)> {
        let places = self.places();
        let mut out: Vec<(Range<u64>, Place)> = Vec::new();
        for piece in crate::client::pieces(range, BLOCK) {
            let place = places.get(piece.start / BLOCK);
            match out.last_mut() {
                Some((last, same)) if *same == place => last.end = piece.end,
                _ => out.push((piece, place)),
            }
        }
        out
    }

    /// Keeps others from changing the blocks of a range.
    async fn lock(&self, range: &Range<u64>) -> Vec<tokio::sync::MutexGuard<'_, ()>> {
        let (first, last) = (range.start / BLOCK, (range.end - 1) / BLOCK);
        let mut guards = Vec::new();
        // Always in the same order, so that nobody waits for each other.
        for (lane, lock) in self.lanes.iter().enumerate() {
            let distance = (lane as u64 + LANES as u64 - first % LANES as u64) % LANES as u64;
            if distance <= last - first {
                guards.push(lock.lock().await);
            }
        }
        guards
    }

    /// Where a block begins and ends.
    fn block(&self, number: u64) -> Range<u64> {
        number * BLOCK..((number + 1) * BLOCK).min(self.size)
    }

    /// Changes the part `range` of one block, which is locked: to `data`, or to zeros.
    async fn change_part(&self, range: Range<u64>, data: Option<Bytes>) -> Result<(), BlockError> {
        let number = range.start / BLOCK;
        let place = self.places().get(number);
        let data = match (place, data) {
            // Zeros already.
            (Place::Zero, None) => return Ok(()),
            (_, Some(data)) => data,
            (_, None) => Bytes::from(vec![0; (range.end - range.start) as usize]),
        };
        if place == Place::Overlay {
            return write_file(&self.overlay, range.start, data).await;
        }
        let block = self.block(number);
        let mut whole = BytesMut::zeroed((block.end - block.start) as usize);
        if place == Place::Base {
            let base = self.base.read_at(block.start, whole.len()).await?;
            if base.len() != whole.len() {
                return Err(BlockError::Corrupt { offset: block.start, what: "a read of a wrong length".into() });
            }
            whole.copy_from_slice(&base);
        }
        let at = (range.start - block.start) as usize;
        whole[at..at + data.len()].copy_from_slice(&data);
        // The whole block is in the overlay before anybody looks for it there.
        write_file(&self.overlay, block.start, whole.freeze()).await?;
        self.places().set(number, Place::Overlay);
        Ok(())
    }

    /// Splits a range into parts of blocks, and whole blocks between them.
    fn split(&self, range: &Range<u64>) -> (Option<Range<u64>>, Range<u64>, Option<Range<u64>>) {
        let whole_end = if range.end == self.size { self.size } else { range.end / BLOCK * BLOCK };
        let whole_start = range.start.div_ceil(BLOCK) * BLOCK;
        if whole_start >= whole_end {
            // Nothing whole: up to two parts.
            let middle = whole_start.min(range.end);
            let head = (range.start < middle).then_some(range.start..middle);
            let tail = (middle < range.end).then_some(middle..range.end);
            return (head, middle..middle, tail);
        }
        let head = (range.start < whole_start).then_some(range.start..whole_start);
        let tail = (whole_end < range.end).then_some(whole_end..range.end);
        (head, whole_start..whole_end, tail)
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        let mut out = Vec::new();
        for (run, place) in self.runs(&range) {
            match place {
                Place::Base => out.extend(self.base.extents(run).await?),
                Place::Overlay => out.push(BlockExtent::new(run, ExtentKind::Data)),
                Place::Zero => out.push(BlockExtent::new(run, ExtentKind::Zero)),
            }
        }
        Ok(coalesce(out))
    }

    async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
        let runs: Vec<Vec<(Range<u64>, Place)>> = ranges.iter().map(|range| self.runs(range)).collect();
        let at = |wanted: Place| -> Vec<Range<u64>> {
            let all = runs.iter().flatten();
            all.filter(|(_, place)| *place == wanted).map(|(range, _)| range.clone()).collect()
        };
        let (from_base, from_overlay) = (at(Place::Base), at(Place::Overlay));
        let mut base = Vec::new();
        if !from_base.is_empty() {
            base = self.base.read_many(&from_base).await?;
        }
        let mut overlay = Vec::new();
        if !from_overlay.is_empty() {
            overlay = read_file(&self.overlay, from_overlay).await?;
        }
        let (mut base, mut overlay) = (base.into_iter(), overlay.into_iter());
        let mut out = Vec::with_capacity(ranges.len());
        for runs in runs {
            let mut parts = Vec::with_capacity(runs.len());
            for (range, place) in runs {
                let len = (range.end - range.start) as usize;
                let part = match place {
                    Place::Base => base.next(),
                    Place::Overlay => overlay.next(),
                    Place::Zero => Some(Bytes::from(vec![0; len])),
                };
                let short = || BlockError::Corrupt { offset: range.start, what: "a read of a wrong length".into() };
                parts.push(part.filter(|part| part.len() == len).ok_or_else(short)?);
            }
            // Most reads lie at one place, and are passed on as they are.
            out.push(if parts.len() == 1 { parts.swap_remove(0) } else { parts.concat().into() });
        }
        Ok(out)
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        if data.is_empty() {
            return Ok(());
        }
        let range = offset..offset + data.len() as u64;
        let part = |part: &Range<u64>| data.slice((part.start - offset) as usize..(part.end - offset) as usize);
        let _guards = self.lock(&range).await;
        let (head, whole, tail) = self.split(&range);
        for piece in [head, tail].into_iter().flatten() {
            self.change_part(piece.clone(), Some(part(&piece))).await?;
        }
        if whole.start < whole.end {
            write_file(&self.overlay, whole.start, part(&whole)).await?;
            self.places().set_all(&whole, Place::Overlay);
        }
        Ok(())
    }

    async fn zero(&self, range: Range<u64>) -> Result<(), BlockError> {
        if range.is_empty() {
            return Ok(());
        }
        let _guards = self.lock(&range).await;
        let (head, whole, tail) = self.split(&range);
        for piece in [head, tail].into_iter().flatten() {
            self.change_part(piece, None).await?;
        }
        if whole.start < whole.end {
            self.places().set_all(&whole, Place::Zero);
        }
        Ok(())
    }
}

#[async_trait]
impl ExportDevice for CowDevice {
    fn size(&self) -> u64 {
        self.inner.size
    }

    fn is_read_only(&self) -> bool {
        false
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        self.inner.extents(range).await
    }

    async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
        self.inner.read(ranges).await
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        let inner = self.inner.clone();
        self.change(offset, async move { inner.write(offset, data).await }).await
    }

    async fn zero(&self, range: Range<u64>) -> Result<(), BlockError> {
        let inner = self.inner.clone();
        self.change(range.start, async move { inner.zero(range).await }).await
    }

    async fn trim(&self, range: Range<u64>) -> Result<(), BlockError> {
        self.zero(range).await
    }
}

/// Two bits per block.
#[derive(Debug)]
struct Places {
    bits: Vec<u8>,
}

impl Places {
    fn new(blocks: u64) -> Self {
        Self { bits: vec![0; usize::try_from(blocks.div_ceil(4)).unwrap_or(usize::MAX)] }
    }

    fn get(&self, block: u64) -> Place {
        match self.bits[(block / 4) as usize] >> (block % 4 * 2) & 3 {
            0 => Place::Base,
            1 => Place::Overlay,
            _ => Place::Zero,
        }
    }

    fn set(&mut self, block: u64, place: Place) {
        let bits = match place {
            Place::Base => 0,
            Place::Overlay => 1,
            Place::Zero => 2,
        };
        let shift = block % 4 * 2;
        let byte = &mut self.bits[(block / 4) as usize];
        *byte = *byte & !(3 << shift) | bits << shift;
    }

    fn set_all(&mut self, range: &Range<u64>, place: Place) {
        for block in range.start / BLOCK..range.end.div_ceil(BLOCK) {
            self.set(block, place);
        }
    }

    fn count(&self, place: Place) -> u64 {
        (0..self.bits.len() as u64 * 4).filter(|block| self.get(*block) == place).count() as u64
    }
}

/// A file without a name: it goes when it is closed, even by a crash.
fn nameless(directory: &Path) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!(".overlay-{}-{number}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            // Left by a process that ended between these two lines.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}
