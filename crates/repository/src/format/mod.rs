//! The format of what is stored: encoders and decoders that do no I/O.
//!
//! Every decoder takes bytes that anybody may have written, checks every bound and never panics. The format is
//! described in `docs/repository-format.md`.

pub mod config;
pub mod frame;
pub mod map;
pub mod pack;
pub mod record;
pub mod segment;

use std::fmt;

/// The newest format version that this program reads and writes.
pub const FORMAT: u32 = 1;
/// The format version as the byte at the head of every binary object.
pub const VERSION: u8 = 1;
/// Bytes in a chunk, unless the repository was made with others.
pub const CHUNK_BYTES: u32 = 128 * 1024;
/// The longest chunk of any class before compression, in bytes.
pub const MAX_CHUNK_BYTES: u32 = 64 * 1024 * 1024;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// They contradict the format, a checksum or a key.
    #[error("{0}")]
    Damaged(&'static str),
    /// A newer program wrote them.
    #[error("format version {0} is newer than this program")]
    TooNew(u32),
}

/// The name of a chunk: its keyed hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// The chunk of zeros, which is never stored.
    pub const ZERO: Self = Self([0; 32]);

    /// Whether this is the chunk of zeros.
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// The id as hexadecimal digits.
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// The id from 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|h| Self(*h.as_bytes()))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex()[..16])
    }
}

/// What a chunk or a pack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Blocks of disks.
    Data,
    /// Maps and attachments.
    Meta,
}

impl Class {
    /// The class as it is stored.
    pub fn byte(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Meta => 2,
        }
    }

    /// The class from its byte.
    pub fn from_byte(byte: u8) -> Result<Self, FormatError> {
        match byte {
            1 => Ok(Self::Data),
            2 => Ok(Self::Meta),
            _ => Err(FormatError::Damaged("unknown class of pack")),
        }
    }

    /// The prefix of the keys of its packs.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Data => "packs/",
            Self::Meta => "meta/",
        }
    }

    /// The key of the pack whose bytes have this BLAKE3 hash.
    pub fn pack_key(self, hash: &[u8; 32]) -> String {
        let hex = blake3::Hash::from_bytes(*hash).to_hex();
        format!("{}{}/{hex}", self.prefix(), &hex[..2])
    }

    /// The hash that a pack's key names; nothing when it is no pack's key.
    pub fn hash_of_key(self, key: &str) -> Option<[u8; 32]> {
        let (directory, name) = key.strip_prefix(self.prefix())?.split_once('/')?;
        let hash = blake3::Hash::from_hex(name).ok()?;
        (name.get(..2)? == directory && hash.to_hex().as_str() == name).then(|| *hash.as_bytes())
    }
}

/// Takes bytes off the front of a slice, checking every step.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], FormatError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(FormatError::Damaged("it ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(FormatError::Damaged("it ends too early"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn magic(&mut self, magic: &[u8; 4]) -> Result<(), FormatError> {
        if self.array::<4>()? != *magic {
            return Err(FormatError::Damaged("it does not begin as it should"));
        }
        match self.u8()? {
            VERSION => Ok(()),
            newer if newer > VERSION => Err(FormatError::TooNew(newer.into())),
            _ => Err(FormatError::Damaged("unknown version")),
        }
    }

    pub(crate) fn end(&self) -> Result<(), FormatError> {
        if self.0.is_empty() { Ok(()) } else { Err(FormatError::Damaged("bytes follow its end")) }
    }
}

#[cfg(test)]
mod tests;
