//! A frame: one chunk, compressed where that helps, and sealed.
//!
//! `flags (1) | ciphertext | tag (16)`. The nonce is the frame's offset in its pack, and every pack has a key of
//! its own, so no nonce is used twice. The associated data is the chunk's id, the flags and the pack's class.

use super::{ChunkId, Class, FormatError, MAX_CHUNK_BYTES};
use crate::keys::{PackKey, RepositoryKeys};
use ring::aead::{Aad, NONCE_LEN, Nonce};

/// Bytes that a frame adds to its payload.
pub const FRAME_OVERHEAD: usize = 17;
const RAW: u8 = 0;
const ZSTD: u8 = 1;
const TAG: usize = 16;

/// A payload that is ready to be sealed.
#[derive(Debug)]
pub struct Payload<'a> {
    /// What the frame will hold.
    pub bytes: &'a [u8],
    /// Whether it is compressed.
    pub compressed: bool,
}

/// The nonce of the frame at `offset`; the pack's trailer has a domain of its own.
pub(crate) fn nonce(domain: u8, offset: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[0] = domain;
    bytes[4..].copy_from_slice(&offset.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn aad(id: &ChunkId, flags: u8, class: Class) -> Aad<[u8; 34]> {
    let mut bytes = [0; 34];
    bytes[..32].copy_from_slice(&id.0);
    bytes[32] = flags;
    bytes[33] = class.byte();
    Aad::from(bytes)
}

/// Appends the frame of `payload` to a pack's bytes. Returns the frame's length.
pub fn seal(
    pack: &mut Vec<u8>,
    key: &PackKey,
    class: Class,
    id: &ChunkId,
    payload: &Payload<'_>,
) -> Result<u32, FormatError> {
    let start = pack.len();
    let flags = if payload.compressed { ZSTD } else { RAW };
    pack.push(flags);
    pack.extend_from_slice(payload.bytes);
    let tag = key
        .0
        .seal_in_place_separate_tag(nonce(0, start as u64), aad(id, flags, class), &mut pack[start + 1..])
        .map_err(|_| FormatError::Damaged("a frame is too long to seal"))?;
    pack.extend_from_slice(tag.as_ref());
    u32::try_from(pack.len() - start).map_err(|_| FormatError::Damaged("a frame is too long"))
}

/// Where a frame lies and what it must hold.
#[derive(Debug, Clone, Copy)]
pub struct FrameRef {
    /// The chunk.
    pub id: ChunkId,
    /// The pack's class.
    pub class: Class,
    /// The frame's offset in its pack, in bytes.
    pub offset: u32,
    /// The chunk's length before compression, in bytes.
    pub raw: u32,
}

/// What frames are opened with: used again and again, since fresh memory costs about as much as opening does.
pub struct Opener {
    zstd: zstd::bulk::Decompressor<'static>,
    sealed: Vec<u8>,
}

impl Opener {
    /// One that has opened nothing yet.
    ///
    /// # Errors
    /// When there is no memory for a decompressor.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Decompressor::new()?, sealed: Vec::new() })
    }
}

/// Opens a frame and checks that what it holds has the chunk's id.
pub fn open(
    frame: &[u8],
    at: &FrameRef,
    key: &PackKey,
    keys: &RepositoryKeys,
    opener: &mut Opener,
) -> Result<Vec<u8>, FormatError> {
    let (flags, sealed) = frame.split_first().ok_or(FormatError::Damaged("an empty frame"))?;
    if sealed.len() < TAG || *flags > ZSTD || at.raw > MAX_CHUNK_BYTES {
        return Err(FormatError::Damaged("not a frame"));
    }
    opener.sealed.clear();
    opener.sealed.extend_from_slice(sealed);
    let plain = key
        .0
        .open_in_place(nonce(0, at.offset.into()), aad(&at.id, *flags, at.class), &mut opener.sealed)
        .map_err(|_| FormatError::Damaged("a frame does not decrypt"))?;
    let bytes = if *flags == ZSTD {
        let unpacked = opener.zstd.decompress(plain, at.raw as usize);
        unpacked.map_err(|_| FormatError::Damaged("a frame does not unpack"))?
    } else {
        plain.to_vec()
    };
    if bytes.len() != at.raw as usize || keys.chunk_id(at.class, &bytes) != at.id {
        return Err(FormatError::Damaged("a chunk does not have its hash"));
    }
    Ok(bytes)
}
