//! Data of one read as its chunks come in.

use crate::error::NbdError;
use bytes::{BufMut, BytesMut};
use std::collections::BTreeMap;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A reply that is scattered into more pieces than this at a time is no honest one.
const MAX_PIECES: usize = 1024;

/// Collects exactly `len` bytes in a buffer of the caller's, without copying. Pieces that come in order are read
/// into memory that was never cleared; the others need it cleared first.
#[derive(Debug)]
pub(super) struct ReadAssembly {
    pub(super) offset: u64,
    len: usize,
    buffer: BytesMut,
    /// What is there, as starts and ends relative to the offset. Neighbours are joined.
    pieces: BTreeMap<usize, usize>,
}

impl ReadAssembly {
    /// Reads `len` bytes at `offset` into `buffer`, which is empty and has room for them.
    pub(super) fn new(offset: u64, len: usize, buffer: BytesMut) -> Self {
        Self { offset, len, buffer, pieces: BTreeMap::new() }
    }

    /// Length of the request in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes `len` bytes at `offset` from the stream. Nothing is read when they do not belong there.
    pub(super) async fn data(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        offset: u64,
        len: usize,
    ) -> Result<(), NbdError> {
        let start = self.claim(offset, len)?;
        let failed = |error| NbdError::io("receive", error);
        if start == self.buffer.len() {
            let mut room = (&mut self.buffer).limit(len);
            while room.has_remaining_mut() {
                if stream.read_buf(&mut room).await.map_err(failed)? == 0 {
                    return Err(NbdError::Closed);
                }
            }
        } else {
            self.clear();
            stream.read_exact(&mut self.buffer[start..start + len]).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Takes `len` zeros at `offset`.
    pub(super) fn hole(&mut self, offset: u64, len: usize) -> Result<(), NbdError> {
        let start = self.claim(offset, len)?;
        if start == self.buffer.len() {
            self.buffer.put_bytes(0, len);
        } else {
            // Nothing was there before, so that clearing is enough.
            self.clear();
        }
        Ok(())
    }

    /// The data, when all is there.
    pub(super) fn finish(self) -> Result<BytesMut, NbdError> {
        let whole = self.len == 0 || (self.pieces.len() == 1 && self.pieces.get(&0) == Some(&self.len));
        if whole { Ok(self.buffer) } else { Err(NbdError::protocol("a read lacks bytes")) }
    }

    /// Makes the whole buffer zeros where nothing has been read yet.
    fn clear(&mut self) {
        if self.buffer.len() < self.len {
            self.buffer.resize(self.len, 0);
        }
    }

    /// Notes a piece; where it begins in the buffer.
    fn claim(&mut self, offset: u64, len: usize) -> Result<usize, NbdError> {
        let start = offset.checked_sub(self.offset).and_then(|start| usize::try_from(start).ok());
        let end = start.and_then(|start| start.checked_add(len)).filter(|end| *end <= self.len && len > 0);
        let (Some(mut start), Some(mut end)) = (start, end) else {
            return Err(NbdError::protocol("data outside of what was asked"));
        };
        let begin = start;
        let before = self.pieces.range(..=start).next_back().map(|(s, e)| (*s, *e));
        let after = self.pieces.range(start..).next().map(|(s, e)| (*s, *e));
        if before.is_some_and(|(_, e)| e > start) || after.is_some_and(|(s, _)| s < end) {
            return Err(NbdError::protocol("data twice"));
        }
        if let Some((s, e)) = before
            && e == start
        {
            start = s;
        }
        if let Some((s, e)) = after
            && s == end
        {
            self.pieces.remove(&s);
            end = e;
        }
        self.pieces.insert(start, end);
        if self.pieces.len() > MAX_PIECES {
            return Err(NbdError::protocol("data scattered too widely"));
        }
        Ok(begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_in_any_order_make_the_whole() {
        let mut read = ReadAssembly::new(100, 10, BytesMut::with_capacity(10));
        read.data(&mut &b"ab"[..], 100, 2).await.unwrap();
        read.data(&mut &b"xyz"[..], 107, 3).await.unwrap();
        read.hole(104, 3).unwrap();
        assert!(read.hole(103, 2).is_err());
        read.data(&mut &b"cd"[..], 102, 2).await.unwrap();
        assert_eq!(&read.finish().unwrap()[..], b"abcd\0\0\0xyz");
    }

    #[tokio::test]
    async fn pieces_that_do_not_belong_are_refused() {
        for (offset, len) in [(99, 1), (100, 11), (110, 1), (100, 0), (u64::MAX, 2)] {
            let mut read = ReadAssembly::new(100, 10, BytesMut::with_capacity(10));
            assert!(read.data(&mut &[0; 20][..], offset, len).await.is_err(), "{offset}+{len}");
        }
        let mut read = ReadAssembly::new(0, 4, BytesMut::with_capacity(4));
        read.hole(0, 2).unwrap();
        assert!(read.finish().is_err());
    }
}
