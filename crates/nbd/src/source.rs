//! An export as a block source.

use crate::address::Address;
use crate::client::{BASE_ALLOCATION, ClientOptions, Connection, StatusExtent, join, pieces};
use crate::error::NbdError;
use crate::wire::{STATE_HOLE, STATE_ZERO};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use portolan_block::{BlockError, BlockExtent, BlockSource, ExtentKind};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Reads are cut into requests of this many bytes: long enough to be cheap, short enough to keep all of the server's
/// threads and the socket's buffer busy.
const CHUNK: u64 = 256 << 10;

/// A map of more runs is no honest one: a tebibyte that changes every 64 KiB has as many.
const MAX_RUNS: usize = 16 << 20;

/// Buffers of up to this many bytes together are kept for the next read.
const MAX_KEPT: usize = 32 << 20;

/// The bit of a dirty bitmap's context.
const STATE_DIRTY: u32 = 1;

/// An export that stands still, such as a snapshot, over one or two connections. When a connection breaks, the source
/// is of no use any more.
#[derive(Debug)]
pub struct NbdSource {
    connections: Vec<Connection>,
    buffers: Arc<Buffers>,
}

impl NbdSource {
    /// Opens an export. A second connection is opened when `connections` is over 1 and the server says that several
    /// see the same. Ask for dirty bitmaps in [`ClientOptions::contexts`].
    pub async fn connect(address: &Address, options: &ClientOptions, connections: usize) -> Result<Self, NbdError> {
        let mut all = vec![Connection::connect(address, options).await?];
        if connections > 1 && all[0].info().features.multi_conn {
            let second = Connection::connect(address, options).await?;
            if second.info() != all[0].info() {
                return Err(NbdError::protocol("two connections to one export differ"));
            }
            all.push(second);
        }
        Ok(Self { connections: all, buffers: Arc::default() })
    }

    /// A source over a connection that is open already.
    pub fn over(connection: Connection) -> Self {
        Self { connections: vec![connection], buffers: Arc::default() }
    }

    /// The connection that metadata goes over.
    pub fn connection(&self) -> &Connection {
        &self.connections[0]
    }

    /// The dirty ranges of a bitmap's context, such as `qemu:dirty-bitmap:NAME`: sorted, disjoint and joined. Fails
    /// with [`NbdError::Unsupported`] when the context was not negotiated.
    pub async fn changed(&self, context: &str) -> Result<Vec<Range<u64>>, NbdError> {
        let runs = self.walk(context, 0..self.size(), |flags| flags & STATE_DIRTY != 0).await?;
        Ok(runs.into_iter().filter(|(_, dirty)| *dirty).map(|(range, _)| range).collect())
    }

    /// Takes leave of the server.
    pub async fn close(&self) -> Result<(), NbdError> {
        for connection in &self.connections {
            connection.close().await?;
        }
        Ok(())
    }

    /// Runs of a range that a context tells the same of: in order, without gaps, no two alike beside each other.
    async fn walk<T: PartialEq + Send>(
        &self,
        context: &str,
        range: Range<u64>,
        meaning: impl Fn(u32) -> T + Send,
    ) -> Result<Vec<(Range<u64>, T)>, NbdError> {
        let connection = self.connection();
        let place = connection.info().contexts.iter().position(|name| name == context);
        let place = place.ok_or(NbdError::Unsupported("the metadata context"))?;
        let mut out: Vec<(Range<u64>, T)> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let status = connection.block_status(at..range.end, false).await?;
            let extents = status.get(place).map_or(&[][..], |status| &status.extents);
            if extents.is_empty() {
                return Err(NbdError::protocol("block status of nothing"));
            }
            for StatusExtent { len, flags } in extents {
                let (start, meant) = (at, meaning(*flags));
                at += len;
                match out.last_mut() {
                    Some((last, same)) if *same == meant => last.end = at,
                    _ => out.push((start..at, meant)),
                }
            }
            if out.len() > MAX_RUNS {
                return Err(NbdError::protocol("block status of too many runs"));
            }
        }
        Ok(out)
    }

    /// Reads ranges that lie on blocks and in the export, all at once.
    async fn read_pieces(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, NbdError> {
        let step = CHUNK.min(self.connection().max_payload() as u64);
        let mut requests = Vec::new();
        let mut plans = Vec::with_capacity(ranges.len());
        for range in ranges {
            let before = requests.len();
            // Every request gets its own part of the one buffer.
            let mut rest = self.buffers.take(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
            for piece in pieces(range, step) {
                let tail = rest.split_off((piece.end - piece.start) as usize);
                let connection = &self.connections[requests.len() % self.connections.len()];
                requests.push(connection.read_piece(piece, rest));
                rest = tail;
            }
            plans.push((requests.len() - before, rest));
        }
        let mut parts = try_join_all(requests).await?.into_iter();
        let whole = |(count, rest)| {
            let mut whole = join(parts.by_ref().take(count).collect());
            // What the buffer has beyond the range, for the next one who gets it.
            whole.unsplit(rest);
            self.buffers.lend(whole)
        };
        Ok(plans.into_iter().map(whole).collect())
    }
}

/// Buffers that are used again when nobody holds the data read into them any more. Fresh memory costs more than
/// reading into it: the kernel must clear each page first.
#[derive(Debug, Default)]
struct Buffers {
    kept: Mutex<Vec<BytesMut>>,
}

impl Buffers {
    /// An empty buffer with room for `len` bytes.
    fn take(&self, len: usize) -> BytesMut {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &BytesMut| buffer.capacity() >= len && buffer.capacity() / 2 <= len;
        match kept.iter().position(fits) {
            Some(place) => kept.swap_remove(place),
            None => BytesMut::with_capacity(len),
        }
    }

    /// Hands out what was read. The buffer comes back when it is let go of.
    fn lend(self: &Arc<Self>, buffer: BytesMut) -> Bytes {
        if buffer.capacity() < CHUNK as usize {
            return buffer.freeze();
        }
        Bytes::from_owner(Lent { buffer, home: self.clone() })
    }

    fn keep(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total: usize = buffer.capacity() + kept.iter().map(BytesMut::capacity).sum::<usize>();
        // The oldest go first: they are of sizes that nobody asks for now.
        while total > MAX_KEPT && !kept.is_empty() {
            total -= kept.remove(0).capacity();
        }
        if total <= MAX_KEPT {
            kept.push(buffer);
        }
    }
}

struct Lent {
    buffer: BytesMut,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.keep(std::mem::take(&mut self.buffer));
    }
}

#[async_trait]
impl BlockSource for NbdSource {
    fn size(&self) -> u64 {
        self.connection().size()
    }

    async fn extents(&self, range: Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
        let failed = |error: NbdError| error.into_block("map", range.start);
        self.connection().check(range.start, range.end.saturating_sub(range.start)).map_err(failed)?;
        if range.start >= range.end {
            return Ok(Vec::new());
        }
        let told = self.connection().info().contexts.iter().any(|name| name == BASE_ALLOCATION);
        if !told || !self.connection().believes_zeros() {
            return Ok(vec![BlockExtent::new(range, ExtentKind::Data)]);
        }
        let runs = self.walk(BASE_ALLOCATION, range.clone(), kind).await.map_err(failed)?;
        Ok(runs.into_iter().map(|(range, kind)| BlockExtent::new(range, kind)).collect())
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BlockError> {
        let range = offset..offset.saturating_add(len as u64);
        let mut read = self.read_many(std::slice::from_ref(&range)).await?;
        Ok(read.pop().unwrap_or_default())
    }

    /// Reads everything at once: as many requests as the connections may have under way.
    async fn read_many(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
        let first = ranges.first().map_or(0, |range| range.start);
        let failed = |error: NbdError| error.into_block("read", first);
        for range in ranges {
            self.connection().check(range.start, range.end.saturating_sub(range.start)).map_err(failed)?;
        }
        if ranges.iter().all(|range| range.start <= range.end && self.connection().is_aligned(range)) {
            return self.read_pieces(ranges).await.map_err(failed);
        }
        let reads = ranges
            .iter()
            .map(|range| self.connection().read(range.start, range.end.saturating_sub(range.start) as usize));
        try_join_all(reads).await.map_err(failed)
    }
}

/// What `base:allocation` means. A hole that is not said to read as zeros must be read.
fn kind(flags: u32) -> ExtentKind {
    match (flags & STATE_ZERO != 0, flags & STATE_HOLE != 0) {
        (true, true) => ExtentKind::Hole,
        (true, false) => ExtentKind::Zero,
        (false, _) => ExtentKind::Data,
    }
}
