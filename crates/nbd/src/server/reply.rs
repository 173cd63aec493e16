//! What is sent back for a request.

use super::export::Export;
use crate::wire::{self, Chunk, Request};
use bytes::{BufMut, Bytes, BytesMut};
use portolan_block::{BlockError, BlockExtent, ExtentKind};
use std::ops::Range;

/// Data is read and sent in pieces of this many bytes.
const PIECE: u64 = 1 << 20;
/// Holes shorter than this many bytes are sent as data: telling of them costs more.
const SHORT_HOLE: u64 = 4096;
/// The most extents that one reply tells of.
const MAX_EXTENTS: usize = 8192;

/// The most bytes that one reply tells the status of.
const MAX_STATUS: u64 = 1 << 30;

/// A reply on its way to the client: pieces to send one after the other.
#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) pieces: Vec<Bytes>,
    head: BytesMut,
}

impl Reply {
    /// Success without data.
    pub(super) fn done(request: &Request, structured: bool) -> Self {
        Self::plain(request, structured, 0, "")
    }

    /// An error.
    pub(super) fn error(request: &Request, structured: bool, errno: u32, text: &str) -> Self {
        Self::plain(request, structured, errno, text)
    }

    fn plain(request: &Request, structured: bool, errno: u32, text: &str) -> Self {
        let mut this = Self::default();
        if !structured {
            this.simple(request, errno);
        } else if errno == 0 {
            this.chunk(request, wire::CHUNK_NONE, true, 0);
        } else {
            let text = &text.as_bytes()[..text.len().min(255)];
            this.chunk(request, wire::CHUNK_ERROR, true, 6 + text.len() as u32);
            this.head.put_u32(errno);
            this.head.put_u16(text.len() as u16);
            this.head.put_slice(text);
        }
        this.close()
    }

    fn simple(&mut self, request: &Request, errno: u32) {
        self.head.put_u32(wire::SIMPLE_REPLY_MAGIC);
        self.head.put_u32(errno);
        self.head.put_u64(request.cookie);
    }

    fn chunk(&mut self, request: &Request, kind: u16, last: bool, len: u32) {
        let flags = if last { wire::CHUNK_DONE } else { 0 };
        self.head.put_slice(&Chunk { flags, kind, cookie: request.cookie, len }.encode());
    }

    /// Data that is sent from where it is.
    fn data(&mut self, data: Bytes) {
        self.pieces.push(self.head.split().freeze());
        self.pieces.push(data);
    }

    fn close(mut self) -> Self {
        if !self.head.is_empty() {
            self.pieces.push(self.head.split().freeze());
        }
        self
    }
}

/// Answers a read.
pub(super) async fn read(export: &Export, request: &Request, structured: bool) -> Result<Reply, BlockError> {
    let range = request.offset..request.offset + u64::from(request.len);
    let whole = !structured || request.flags & wire::FLAG_DF != 0;
    let runs = if whole { vec![(range.clone(), true)] } else { runs(export, &range).await? };
    // Every piece is a chunk of its own, unless all must be one.
    let pieces: Vec<(Range<u64>, bool)> = runs
        .into_iter()
        .flat_map(|(run, data)| {
            let step = if data { PIECE } else { u64::MAX };
            crate::client::pieces(&run, step).map(move |piece| (piece, data))
        })
        .collect();
    let wanted: Vec<Range<u64>> = pieces.iter().filter(|(_, data)| *data).map(|(piece, _)| piece.clone()).collect();
    let read = if wanted.is_empty() { Vec::new() } else { export.device.read(&wanted).await? };
    let right = read.len() == wanted.len()
        && read.iter().zip(&wanted).all(|(bytes, range)| bytes.len() as u64 == range.end - range.start);
    if !right {
        return Err(BlockError::Corrupt { offset: range.start, what: "a read of a wrong length".into() });
    }
    let mut reply = Reply::default();
    if whole {
        if structured {
            reply.chunk(request, wire::CHUNK_DATA, true, 8 + request.len);
            reply.head.put_u64(request.offset);
        } else {
            reply.simple(request, 0);
        }
        read.into_iter().for_each(|bytes| reply.data(bytes));
        return Ok(reply.close());
    }
    let mut read = read.into_iter();
    let count = pieces.len();
    for (index, (piece, data)) in pieces.into_iter().enumerate() {
        let last = index + 1 == count;
        let len = (piece.end - piece.start) as u32;
        if data {
            reply.chunk(request, wire::CHUNK_DATA, last, 8 + len);
            reply.head.put_u64(piece.start);
            reply.data(read.next().unwrap_or_default());
        } else {
            reply.chunk(request, wire::CHUNK_HOLE, last, 12);
            reply.head.put_u64(piece.start);
            reply.head.put_u32(len);
        }
    }
    Ok(reply.close())
}

/// Runs of a range to be sent as data, or as holes.
async fn runs(export: &Export, range: &Range<u64>) -> Result<Vec<(Range<u64>, bool)>, BlockError> {
    let mut out: Vec<(Range<u64>, bool)> = Vec::new();
    for extent in extents(export, range).await? {
        let data = extent.kind == ExtentKind::Data || extent.len < SHORT_HOLE;
        match out.last_mut() {
            Some((last, same)) if *same == data => last.end = extent.end(),
            _ => out.push((extent.range(), data)),
        }
    }
    Ok(out)
}

/// The device's extents, if they are what the port promises.
async fn extents(export: &Export, range: &Range<u64>) -> Result<Vec<BlockExtent>, BlockError> {
    let extents = export.device.extents(range.clone()).await?;
    let mut at = range.start;
    for extent in &extents {
        if extent.offset != at || extent.len == 0 {
            break;
        }
        at = extent.end();
    }
    if at != range.end || extents.last().is_none_or(|last| last.end() != at) {
        return Err(BlockError::Corrupt { offset: at, what: "a map with gaps".into() });
    }
    Ok(extents)
}

/// Answers a request for block status, for each of the selected contexts.
pub(super) async fn status(export: &Export, request: &Request, contexts: &[u32]) -> Result<Reply, BlockError> {
    // A reply may tell less than was asked.
    let range = request.offset..request.offset + u64::from(request.len).min(MAX_STATUS);
    let most = if request.flags & wire::FLAG_REQ_ONE != 0 { 1 } else { MAX_EXTENTS };
    let mut reply = Reply::default();
    for (index, id) in contexts.iter().enumerate() {
        let found = match id.checked_sub(1).and_then(|bitmap| export.bitmaps.get(bitmap as usize)) {
            Some(bitmap) => bitmap.runs(&range, most),
            None => allocation(extents(export, &range).await?, most),
        };
        reply.chunk(request, wire::CHUNK_STATUS, index + 1 == contexts.len(), 4 + 8 * found.len() as u32);
        reply.head.put_u32(*id);
        for (len, flags) in found {
            // No longer than the request, whose length has 32 bits.
            reply.head.put_u32(len as u32);
            reply.head.put_u32(flags);
        }
    }
    Ok(reply.close())
}

fn allocation(extents: Vec<BlockExtent>, most: usize) -> Vec<(u64, u32)> {
    let mut out: Vec<(u64, u32)> = Vec::new();
    for extent in extents {
        let flags = match extent.kind {
            ExtentKind::Data => 0,
            ExtentKind::Zero => wire::STATE_ZERO,
            ExtentKind::Hole => wire::STATE_HOLE | wire::STATE_ZERO,
        };
        if let Some((len, same)) = out.last_mut()
            && *same == flags
        {
            *len += extent.len;
        } else if out.len() == most {
            break;
        } else {
            out.push((extent.len, flags));
        }
    }
    out
}

/// An error number, and a text that tells a stranger nothing.
pub(super) fn errno(error: &BlockError) -> (u32, &'static str) {
    match error {
        BlockError::NoSpace => (wire::ENOSPC, "no space left"),
        BlockError::Io { source, .. } => match source.kind() {
            std::io::ErrorKind::StorageFull => (wire::ENOSPC, "no space left"),
            std::io::ErrorKind::OutOfMemory => (wire::ENOMEM, "out of memory"),
            _ => (wire::EIO, "input/output error"),
        },
        BlockError::OutOfRange { .. } => (wire::EINVAL, "past the end"),
        BlockError::Unsupported(_) => (wire::ENOTSUP, "not supported"),
        BlockError::Corrupt { .. } | BlockError::Changed(_) => (wire::EIO, "the image cannot be read"),
    }
}
