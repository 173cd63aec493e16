//! Replies to requests for block status.

use super::handshake::Negotiated;
use crate::error::NbdError;
use crate::wire::Fields;

/// No chunk of block status has more extents: a mebibyte.
const MAX_EXTENTS: usize = 128 << 10;

/// A run of blocks of one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusExtent {
    /// Length in bytes, never 0.
    pub len: u64,
    /// What the context says of it, as bits of its own.
    pub flags: u32,
}

/// What one context says of a range: extents one after the other from its start. They cover at least a byte and at
/// most the range: who needs the rest asks again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextStatus {
    /// The context's name.
    pub context: String,
    /// The extents.
    pub extents: Vec<StatusExtent>,
}

/// The status of one request as its chunks come in.
#[derive(Debug)]
pub(super) struct StatusAssembly {
    len: u64,
    /// Bytes from the offset to the export's end.
    room: u64,
    one: bool,
    ids: Vec<u32>,
    found: Vec<Option<Vec<StatusExtent>>>,
}

impl StatusAssembly {
    pub(super) fn new(offset: u64, len: u64, one: bool, negotiated: &Negotiated) -> Self {
        let ids = negotiated.context_ids.clone();
        let found = vec![None; ids.len()];
        Self { len, room: negotiated.info.size.saturating_sub(offset), one, ids, found }
    }

    /// The longest payload that makes sense, in bytes.
    pub(super) fn max_payload() -> usize {
        4 + 8 * MAX_EXTENTS
    }

    /// Takes the payload of a chunk.
    pub(super) fn chunk(&mut self, payload: &[u8]) -> Result<(), NbdError> {
        let mut fields = Fields(payload);
        let id = fields.u32().ok_or_else(|| NbdError::protocol("block status without a context"))?;
        let place = self.ids.iter().position(|known| *known == id);
        let place = place.ok_or_else(|| NbdError::protocol("block status of an unknown context"))?;
        if self.found[place].is_some() {
            return Err(NbdError::protocol("block status of one context twice"));
        }
        if fields.0.is_empty() || fields.0.len() % 8 != 0 {
            return Err(NbdError::protocol("block status of a wrong length"));
        }
        let mut extents: Vec<StatusExtent> = Vec::with_capacity(fields.0.len() / 8);
        let mut total = 0u64;
        while let (Some(len), Some(flags)) = (fields.u32(), fields.u32()) {
            let len = u64::from(len);
            if len == 0 {
                return Err(NbdError::protocol("block status of no bytes"));
            }
            if total >= self.len {
                return Err(NbdError::protocol("block status past what was asked"));
            }
            // Only the last extent may tell more than was asked, and only of bytes that there are.
            let told = total + len;
            if told > self.room || (self.one && told > self.len) {
                return Err(NbdError::protocol("block status past what was asked"));
            }
            let len = len.min(self.len - total);
            total = told;
            extents.push(StatusExtent { len, flags });
        }
        if self.one && extents.len() != 1 {
            return Err(NbdError::protocol("more than the one extent that was asked for"));
        }
        self.found[place] = Some(extents);
        Ok(())
    }

    /// The status by context, in the order of the ids.
    pub(super) fn finish(self) -> Result<Vec<Vec<StatusExtent>>, NbdError> {
        let all: Option<Vec<_>> = self.found.into_iter().collect();
        all.ok_or_else(|| NbdError::protocol("block status lacks a context"))
    }
}
