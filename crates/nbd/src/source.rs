//! An export as a block source.

use crate::address::Address;
use crate::client::{BASE_ALLOCATION, ClientOptions, Connection, StatusExtent, join, pieces};
use crate::error::NbdError;
use crate::wire::{STATE_HOLE, STATE_ZERO};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use portolan_block::{BlockError, BlockExtent, BlockSource, ExtentKind, coalesce, union};
use std::ops::Range;

/// Reads are cut into requests of this many bytes: long enough to be cheap, short enough to keep all of the server's
/// threads and the socket's buffer busy.
const CHUNK: u64 = 256 << 10;

/// The bit of a dirty bitmap's context.
const STATE_DIRTY: u32 = 1;

/// An export that stands still, such as a snapshot, over one or two connections. When a connection breaks, the source
/// is of no use any more.
#[derive(Debug)]
pub struct NbdSource {
    connections: Vec<Connection>,
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
        Ok(Self { connections: all })
    }

    /// A source over a connection that is open already.
    pub fn over(connection: Connection) -> Self {
        Self { connections: vec![connection] }
    }

    /// The connection that metadata goes over.
    pub fn connection(&self) -> &Connection {
        &self.connections[0]
    }

    /// The dirty ranges of a bitmap's context, such as `qemu:dirty-bitmap:NAME`: sorted, disjoint and joined. Fails
    /// with [`NbdError::Unsupported`] when the context was not negotiated.
    pub async fn changed(&self, context: &str) -> Result<Vec<Range<u64>>, NbdError> {
        let mut out = Vec::new();
        self.walk(context, 0..self.size(), |range, flags| {
            if flags & STATE_DIRTY != 0 {
                out.push(range);
            }
        })
        .await?;
        Ok(union(out))
    }

    /// Takes leave of the server.
    pub async fn close(&self) -> Result<(), NbdError> {
        for connection in &self.connections {
            connection.close().await?;
        }
        Ok(())
    }

    /// Tells all extents of a context in a range.
    async fn walk(
        &self,
        context: &str,
        range: Range<u64>,
        mut tell: impl FnMut(Range<u64>, u32) + Send,
    ) -> Result<(), NbdError> {
        let connection = self.connection();
        let place = connection.info().contexts.iter().position(|name| name == context);
        let place = place.ok_or(NbdError::Unsupported("the metadata context"))?;
        let mut at = range.start;
        while at < range.end {
            let status = connection.block_status(at..range.end, false).await?;
            let extents = status.get(place).map_or(&[][..], |status| &status.extents);
            if extents.is_empty() {
                return Err(NbdError::protocol("block status of nothing"));
            }
            for StatusExtent { len, flags } in extents {
                tell(at..at + len, *flags);
                at += len;
            }
        }
        Ok(())
    }

    /// Reads ranges that lie on blocks and in the export, all at once.
    async fn read_pieces(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, NbdError> {
        let step = CHUNK.min(self.connection().max_payload() as u64);
        let mut requests = Vec::new();
        let mut counts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let before = requests.len();
            let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            // Every request gets its own part of the one buffer.
            let mut rest = BytesMut::with_capacity(len);
            for piece in pieces(range, step) {
                let tail = rest.split_off((piece.end - piece.start) as usize);
                let connection = &self.connections[requests.len() % self.connections.len()];
                requests.push(connection.read_piece(piece, rest));
                rest = tail;
            }
            counts.push(requests.len() - before);
        }
        let mut parts = try_join_all(requests).await?.into_iter();
        Ok(counts.into_iter().map(|count| join(parts.by_ref().take(count).collect()).freeze()).collect())
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
        if !self.connection().info().contexts.iter().any(|name| name == BASE_ALLOCATION) {
            return Ok(vec![BlockExtent::new(range, ExtentKind::Data)]);
        }
        let mut out = Vec::new();
        let tell = |range, flags| out.push(BlockExtent::new(range, kind(flags)));
        self.walk(BASE_ALLOCATION, range.clone(), tell).await.map_err(failed)?;
        Ok(coalesce(out))
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
