//! An open export.

use super::assembly::ReadAssembly;
use super::driver::{Done, Outgoing, Shared, Work, drive};
use super::handshake::Negotiated;
use super::status::StatusAssembly;
use super::{ClientOptions, ContextStatus, ExportInfo};
use crate::error::NbdError;
use crate::stream::BoxStream;
use crate::wire::{self, Request};
use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The longest request without data, in bytes. Zeroing or mapping more at once could take longer than a peer may.
const MAX_STEP: u64 = 128 << 20;
/// The longest request for block status, in bytes.
const MAX_STATUS_STEP: u64 = 1 << 30;

/// How to write zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZeroOptions {
    /// Space must stay allocated.
    pub no_hole: bool,
    /// Fail rather than be as slow as writing.
    pub fast: bool,
    /// Durable when done.
    pub fua: bool,
}

/// An open export. Any number of callers may use it at once: requests are pipelined, up to
/// [`ClientOptions::in_flight`]. A future that is dropped does no harm: its reply is read and thrown away.
///
/// Once a request has failed with anything but [`NbdError::Remote`] or a complaint about its arguments, the
/// connection is dead, and all requests fail for the same reason. It is never opened again: what is behind the name
/// may be another image by then.
#[derive(Debug)]
pub struct Connection {
    negotiated: Negotiated,
    believe_zeros: bool,
    in_flight: usize,
    shared: Arc<Shared>,
    /// Nothing after [`Self::close`].
    queue: std::sync::Mutex<Option<mpsc::UnboundedSender<Outgoing>>>,
}

impl Connection {
    /// Begins the transmission. Must be called within a runtime.
    pub(super) fn start(stream: BoxStream, negotiated: Negotiated, options: &ClientOptions) -> Self {
        let in_flight = options.in_flight.clamp(1, 256);
        let shared = Arc::new(Shared::new(in_flight, options.request_timeout));
        let (queue, receiver) = mpsc::unbounded_channel();
        tokio::spawn(drive(stream, shared.clone(), receiver, negotiated.info.structured));
        let believe_zeros = options.believe_zeros;
        Self { negotiated, believe_zeros, in_flight, shared, queue: std::sync::Mutex::new(Some(queue)) }
    }

    /// What the server said about the export.
    pub fn info(&self) -> &ExportInfo {
        &self.negotiated.info
    }

    /// The export's size in bytes.
    pub fn size(&self) -> u64 {
        self.negotiated.info.size
    }

    /// See [`ClientOptions::believe_zeros`].
    pub(crate) fn believes_zeros(&self) -> bool {
        self.believe_zeros
    }

    /// Whether the connection can be used no more.
    pub fn is_dead(&self) -> bool {
        self.shared.is_dead()
    }

    /// Reads `len` bytes at `offset`. What is longer than the server allows is split; what does not lie on its
    /// blocks is read with what is around it.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes, NbdError> {
        self.check(offset, len as u64)?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let wide = self.align(&(offset..offset + len as u64));
        let total = usize::try_from(wide.end - wide.start).unwrap_or(usize::MAX);
        let read = self.read_whole(wide.start, total, self.max_payload()).await?;
        let skip = (offset - wide.start) as usize;
        Ok(read.freeze().slice(skip..skip + len))
    }

    /// Writes all of `data`; with `fua` it is durable when done. Several requests when the server wants so.
    pub async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), NbdError> {
        let len = data.len() as u64;
        self.check_writable(offset, len)?;
        let flags = self.fua(fua)?;
        let step = self.max_payload() as u64;
        let pieces = pieces(&(offset..offset + len), step).map(|piece| {
            let part = data.slice((piece.start - offset) as usize..(piece.end - offset) as usize);
            self.plain("write", wire::CMD_WRITE, flags, piece, part)
        });
        try_join_all(pieces).await.map(drop)
    }

    /// Makes a range read as zeros. Fails with [`NbdError::Unsupported`] where the server does not offer it.
    pub async fn write_zeroes(&self, range: Range<u64>, options: ZeroOptions) -> Result<(), NbdError> {
        self.check_writable(range.start, range.end.saturating_sub(range.start))?;
        let features = self.info().features;
        if !features.write_zeroes {
            return Err(NbdError::Unsupported("write-zeroes"));
        }
        if options.fast && !features.fast_zero {
            return Err(NbdError::Unsupported("fast write-zeroes"));
        }
        let mut flags = self.fua(options.fua)?;
        flags |= if options.no_hole { wire::FLAG_NO_HOLE } else { 0 };
        flags |= if options.fast { wire::FLAG_FAST_ZERO } else { 0 };
        let pieces = pieces(&range, MAX_STEP)
            .map(|piece| self.plain("zero", wire::CMD_WRITE_ZEROES, flags, piece, Bytes::new()));
        try_join_all(pieces).await.map(drop)
    }

    /// Says that nobody needs a range any more. What it reads as then is not known.
    pub async fn trim(&self, range: Range<u64>) -> Result<(), NbdError> {
        self.check_writable(range.start, range.end.saturating_sub(range.start))?;
        if !self.info().features.trim {
            return Err(NbdError::Unsupported("trim"));
        }
        let pieces = pieces(&range, MAX_STEP).map(|piece| self.plain("trim", wire::CMD_TRIM, 0, piece, Bytes::new()));
        try_join_all(pieces).await.map(drop)
    }

    /// Says that a range will be read soon.
    pub async fn cache(&self, range: Range<u64>) -> Result<(), NbdError> {
        self.check(range.start, range.end.saturating_sub(range.start))?;
        if !self.info().features.cache {
            return Err(NbdError::Unsupported("cache"));
        }
        let wide = self.align(&range);
        let pieces = pieces(&wide, MAX_STEP).map(|piece| self.plain("cache", wire::CMD_CACHE, 0, piece, Bytes::new()));
        try_join_all(pieces).await.map(drop)
    }

    /// Makes every write that is done durable.
    pub async fn flush(&self) -> Result<(), NbdError> {
        if !self.info().features.flush {
            return Err(NbdError::Unsupported("flush"));
        }
        self.plain("flush", wire::CMD_FLUSH, 0, 0..0, Bytes::new()).await
    }

    /// What the negotiated contexts say of a range: one entry for each of [`ExportInfo::contexts`], in that order.
    /// They may stop short of the range's end; with `one` they hold one extent each. Fails with
    /// [`NbdError::Unsupported`] when no context was negotiated.
    pub async fn block_status(&self, range: Range<u64>, one: bool) -> Result<Vec<ContextStatus>, NbdError> {
        let len = range.end.saturating_sub(range.start);
        self.check(range.start, len)?;
        if self.negotiated.context_ids.is_empty() {
            return Err(NbdError::Unsupported("metadata contexts"));
        }
        let contexts = self.info().contexts.clone().into_iter();
        if len == 0 {
            return Ok(contexts.map(|context| ContextStatus { context, extents: Vec::new() }).collect());
        }
        let minimum = u64::from(self.info().blocks.minimum);
        let range = range.start..range.end.min((range.start + MAX_STATUS_STEP) / minimum * minimum);
        let wide = self.align(&range);
        let work = StatusAssembly::new(wide.start, wide.end - wide.start, one, &self.negotiated);
        let flags = if one { wire::FLAG_REQ_ONE } else { 0 };
        let done =
            self.request("map", wire::CMD_BLOCK_STATUS, flags, wide.clone(), Bytes::new(), Work::Status(work)).await?;
        let Done::Status(found) = done else { return Err(NbdError::protocol("a reply of a wrong kind")) };
        let cut = |extents| cut(extents, wide.start, &range);
        Ok(contexts.zip(found).map(|(context, extents)| ContextStatus { context, extents: cut(extents) }).collect())
    }

    /// Waits for what is under way and takes leave of the server. Dropping a connection does so too, but waits for
    /// nothing.
    pub async fn close(&self) -> Result<(), NbdError> {
        let slots = self.shared.all_slots(self.in_flight).await;
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match slots {
            Ok(slots) => {
                // Kept for ever: nothing may be asked from now on.
                slots.forget();
                self.shared.close_slots();
                Ok(())
            }
            Err(NbdError::Closed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The longest read or write in bytes: a multiple of the minimum block.
    pub(crate) fn max_payload(&self) -> usize {
        let blocks = self.info().blocks;
        let most = blocks.maximum.min(wire::MAX_PAYLOAD);
        (most / blocks.minimum * blocks.minimum) as usize
    }

    /// Whether a range can be asked for as it is.
    pub(crate) fn is_aligned(&self, range: &Range<u64>) -> bool {
        self.align(range) == *range
    }

    /// Reads into `buffer`, which is empty and has room, with requests of at most `step` bytes at once. The range
    /// lies on blocks and in the export.
    pub(crate) async fn read_whole(&self, offset: u64, len: usize, step: usize) -> Result<BytesMut, NbdError> {
        let mut rest = BytesMut::with_capacity(len);
        let mut parts = Vec::new();
        for piece in pieces(&(offset..offset + len as u64), step as u64) {
            let tail = rest.split_off((piece.end - piece.start) as usize);
            parts.push(self.read_piece(piece, rest));
            rest = tail;
        }
        Ok(join(try_join_all(parts).await?))
    }

    /// Reads one piece, which is short enough and lies on blocks, into its own part of a buffer.
    pub(crate) async fn read_piece(&self, range: Range<u64>, buffer: BytesMut) -> Result<BytesMut, NbdError> {
        let len = (range.end - range.start) as usize;
        let work = Work::Read(ReadAssembly::new(range.start, len, buffer));
        // In one piece: the server has no occasion to leave anything out.
        let whole = !self.believe_zeros && self.info().structured;
        let flags = if whole { wire::FLAG_DF } else { 0 };
        match self.request("read", wire::CMD_READ, flags, range, Bytes::new(), work).await? {
            Done::Read(data) => Ok(data),
            _ => Err(NbdError::protocol("a reply of a wrong kind")),
        }
    }

    async fn plain(
        &self,
        action: &'static str,
        command: u16,
        flags: u16,
        range: Range<u64>,
        payload: Bytes,
    ) -> Result<(), NbdError> {
        self.request(action, command, flags, range, payload, Work::Plain).await.map(drop)
    }

    async fn request(
        &self,
        action: &'static str,
        command: u16,
        flags: u16,
        range: Range<u64>,
        payload: Bytes,
        work: Work,
    ) -> Result<Done, NbdError> {
        let slot = self.shared.slot().await?;
        let len = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
        let header = Request { flags, command, cookie: 0, offset: range.start, len };
        let receiver = {
            let queue = self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let queue = queue.as_ref().ok_or(NbdError::Closed)?;
            self.shared.enqueue(action, work, slot, Outgoing { header, payload }, queue)?
        };
        receiver.await.unwrap_or_else(|_| Err(self.shared.reason()))
    }

    pub(crate) fn check(&self, offset: u64, len: u64) -> Result<(), NbdError> {
        let size = self.size();
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(NbdError::OutOfRange { offset, len, size }),
        }
    }

    fn check_writable(&self, offset: u64, len: u64) -> Result<(), NbdError> {
        if self.info().features.read_only {
            return Err(NbdError::ReadOnly);
        }
        self.check(offset, len)?;
        if !self.is_aligned(&(offset..offset + len)) {
            return Err(NbdError::Unaligned { offset, len, block: self.info().blocks.minimum });
        }
        Ok(())
    }

    fn fua(&self, wanted: bool) -> Result<u16, NbdError> {
        match (wanted, self.info().features.fua) {
            (false, _) => Ok(0),
            (true, true) => Ok(wire::FLAG_FUA),
            (true, false) => Err(NbdError::Unsupported("durable writes")),
        }
    }

    /// The range with what is around it, up to whole blocks or the export's end.
    fn align(&self, range: &Range<u64>) -> Range<u64> {
        let block = u64::from(self.info().blocks.minimum);
        let end = range.end.div_ceil(block).saturating_mul(block).min(self.size());
        range.start / block * block..end.max(range.end)
    }
}

/// Cuts a range at multiples of `step`.
pub(crate) fn pieces(range: &Range<u64>, step: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let (mut at, end) = (range.start, range.end);
    std::iter::from_fn(move || {
        let start = at;
        at = (start / step).saturating_add(1).saturating_mul(step).min(end);
        (start < end).then_some(start..at)
    })
}

/// Joins parts of one buffer. As they lie one after the other in memory, nothing is copied.
pub(crate) fn join(parts: Vec<BytesMut>) -> BytesMut {
    let mut parts = parts.into_iter();
    let mut whole = parts.next().unwrap_or_default();
    for part in parts {
        whole.unsplit(part);
    }
    whole
}

/// Cuts extents that begin at `start` down to a range in them.
fn cut(extents: Vec<super::StatusExtent>, start: u64, range: &Range<u64>) -> Vec<super::StatusExtent> {
    let mut at = start;
    let mut out = Vec::with_capacity(extents.len());
    for extent in extents {
        let end = at + extent.len;
        let len = end.min(range.end).saturating_sub(at.max(range.start));
        if len > 0 {
            out.push(super::StatusExtent { len, ..extent });
        }
        at = end;
    }
    out
}
