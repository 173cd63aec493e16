//! An export as a block sink.

use crate::client::{Connection, ZeroOptions, pieces};
use crate::error::NbdError;
use async_trait::async_trait;
use bytes::Bytes;
use portolan_block::{BlockError, BlockSink};
use std::ops::Range;

/// Zeros to write where the server cannot zero by itself.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// An export that a disk is written to. Callers may write from several tasks at once: writes are pipelined.
#[derive(Debug)]
pub struct NbdSink {
    connection: Connection,
}

impl NbdSink {
    /// A sink over an open export. Fails with [`NbdError::ReadOnly`].
    pub fn new(connection: Connection) -> Result<Self, NbdError> {
        if connection.info().features.read_only { Err(NbdError::ReadOnly) } else { Ok(Self { connection }) }
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    async fn write_zeros(&self, range: Range<u64>) -> Result<(), NbdError> {
        let step = (ZEROS.len().min(self.connection.max_payload())) as u64;
        for piece in pieces(&range, step) {
            let zeros = Bytes::from_static(&ZEROS[..(piece.end - piece.start) as usize]);
            self.connection.write(piece.start, zeros, false).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl BlockSink for NbdSink {
    fn size(&self) -> u64 {
        self.connection.size()
    }

    async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), BlockError> {
        self.connection.write(offset, data, false).await.map_err(|error| error.into_block("write", offset))
    }

    async fn zero(&self, range: Range<u64>) -> Result<(), BlockError> {
        let start = range.start;
        let done = if self.connection.info().features.write_zeroes {
            self.connection.write_zeroes(range, ZeroOptions::default()).await
        } else {
            self.connection.check(start, range.end.saturating_sub(start)).map_err(|e| e.into_block("write", start))?;
            self.write_zeros(range).await
        };
        done.map_err(|error| error.into_block("write", start))
    }

    /// Fails with [`BlockError::Unsupported`] when the server cannot make anything durable.
    async fn flush(&self) -> Result<(), BlockError> {
        self.connection.flush().await.map_err(|error| error.into_block("flush", 0))
    }
}
