//! A pack: frames, a sealed list of them, and a footer.
//!
//! Its name is the BLAKE3 hash of all its bytes, so anybody can check it without a key.

use super::frame::{self, FRAME_OVERHEAD, Payload};
use super::{ChunkId, Class, FormatError, MAX_CHUNK_BYTES, Reader, VERSION};
use crate::keys::{PackKey, RepositoryKeys};
use ring::aead::Aad;

/// Bytes of a pack before its first frame.
pub const HEADER_BYTES: usize = 32;
/// Bytes of a pack's footer.
pub const FOOTER_BYTES: usize = 64;
const MAGIC: &[u8; 4] = b"PTPK";
const FOOTER_MAGIC: &[u8; 4] = b"PTPE";
const ENTRY_BYTES: usize = 44;
const TRAILER_DOMAIN: u8 = 1;

/// One frame of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackEntry {
    /// The chunk.
    pub id: ChunkId,
    /// The frame's offset, in bytes.
    pub offset: u32,
    /// The frame's length, in bytes.
    pub stored: u32,
    /// The chunk's length before compression, in bytes.
    pub raw: u32,
}

/// A pack and what is in it, as the index lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackListing {
    /// The BLAKE3 hash of its bytes.
    pub hash: [u8; 32],
    /// Its class.
    pub class: Class,
    /// Its length in bytes.
    pub bytes: u32,
    /// What its key is derived from.
    pub salt: [u8; 16],
    /// Its frames, by offset.
    pub entries: Vec<PackEntry>,
}

impl PackListing {
    /// The pack's key in the store.
    pub fn key(&self) -> String {
        self.class.pack_key(&self.hash)
    }
}

/// A pack that is being filled.
#[derive(Debug)]
pub struct PackBuilder {
    class: Class,
    salt: [u8; 16],
    key: PackKey,
    bytes: Vec<u8>,
    entries: Vec<PackEntry>,
}

impl PackBuilder {
    /// An empty pack that is built in `buffer`. The salt must never repeat: it makes the pack's key.
    pub fn new(keys: &RepositoryKeys, class: Class, salt: [u8; 16], buffer: Vec<u8>) -> Self {
        let mut bytes = buffer;
        bytes.clear();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, class.byte(), 0, 0]);
        bytes.extend_from_slice(&salt);
        bytes.resize(HEADER_BYTES, 0);
        Self { class, salt, key: keys.pack_key(&salt), bytes, entries: Vec::new() }
    }

    /// The pack's length once it is finished with one more frame of `payload` bytes.
    pub fn len_with(&self, payload: usize) -> usize {
        self.bytes.len() + payload + FRAME_OVERHEAD + (self.entries.len() + 1) * ENTRY_BYTES + 16 + FOOTER_BYTES
    }

    /// Whether nothing was added yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a chunk of `raw` bytes. Returns how many bytes it takes in the pack.
    pub fn add(&mut self, id: &ChunkId, raw: u32, payload: &Payload<'_>) -> Result<u32, FormatError> {
        let offset = u32::try_from(self.bytes.len()).map_err(|_| FormatError::Damaged("a pack is too long"))?;
        let stored = frame::seal(&mut self.bytes, &self.key, self.class, id, payload)?;
        self.entries.push(PackEntry { id: *id, offset, stored, raw });
        Ok(stored)
    }

    /// Ends the pack: its bytes and its listing. Hashes all of it.
    pub fn finish(mut self) -> Result<(Vec<u8>, PackListing), FormatError> {
        let too_long = |_| FormatError::Damaged("a pack is too long");
        let trailer_at = self.bytes.len();
        for entry in &self.entries {
            put_entry(&mut self.bytes, entry);
        }
        let tag = self
            .key
            .0
            .seal_in_place_separate_tag(
                frame::nonce(TRAILER_DOMAIN, trailer_at as u64),
                Aad::from([self.class.byte()]),
                &mut self.bytes[trailer_at..],
            )
            .map_err(|_| FormatError::Damaged("a pack is too long"))?;
        self.bytes.extend_from_slice(tag.as_ref());
        let trailer_len = u32::try_from(self.bytes.len() - trailer_at).map_err(too_long)?;
        let mut footer = Vec::with_capacity(FOOTER_BYTES);
        footer.extend_from_slice(FOOTER_MAGIC);
        footer.extend_from_slice(&[VERSION, self.class.byte(), 0, 0]);
        footer.extend_from_slice(&self.salt);
        footer.extend_from_slice(&u32::try_from(trailer_at).map_err(too_long)?.to_le_bytes());
        footer.extend_from_slice(&trailer_len.to_le_bytes());
        let check = blake3::hash(&footer);
        footer.extend_from_slice(check.as_bytes());
        self.bytes.extend_from_slice(&footer);
        let hash = *blake3::hash(&self.bytes).as_bytes();
        let bytes = u32::try_from(self.bytes.len()).map_err(too_long)?;
        let listing = PackListing { hash, class: self.class, bytes, salt: self.salt, entries: self.entries };
        Ok((self.bytes, listing))
    }
}

/// What a footer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// The pack's class.
    pub class: Class,
    /// What the pack's key is derived from.
    pub salt: [u8; 16],
    /// Where the sealed list begins, in bytes.
    pub trailer_at: u32,
    /// How long it is, in bytes.
    pub trailer_len: u32,
}

/// Reads the footer of a pack of `pack_bytes` bytes from its last [`FOOTER_BYTES`]. Needs no key.
pub fn read_footer(footer: &[u8], pack_bytes: u64) -> Result<Footer, FormatError> {
    if footer.len() != FOOTER_BYTES {
        return Err(FormatError::Damaged("the pack is too short"));
    }
    let mut r = Reader(footer);
    r.magic(FOOTER_MAGIC)?;
    let class = Class::from_byte(r.u8()?)?;
    r.take(2)?;
    let (salt, trailer_at, trailer_len) = (r.array()?, r.u32()?, r.u32()?);
    if blake3::hash(&footer[..32]).as_bytes() != r.0 {
        return Err(FormatError::Damaged("the footer does not have its hash"));
    }
    let end = u64::from(trailer_at) + u64::from(trailer_len) + FOOTER_BYTES as u64;
    if (trailer_at as usize) < HEADER_BYTES || trailer_len < 16 || end != pack_bytes {
        return Err(FormatError::Damaged("the footer contradicts the pack's length"));
    }
    Ok(Footer { class, salt, trailer_at, trailer_len })
}

/// Opens the sealed list of a pack.
pub fn read_trailer(footer: &Footer, trailer: &[u8], keys: &RepositoryKeys) -> Result<Vec<PackEntry>, FormatError> {
    let mut sealed = trailer.to_vec();
    let plain = keys
        .pack_key(&footer.salt)
        .0
        .open_in_place(
            frame::nonce(TRAILER_DOMAIN, footer.trailer_at.into()),
            Aad::from([footer.class.byte()]),
            &mut sealed,
        )
        .map_err(|_| FormatError::Damaged("the pack's list does not decrypt"))?;
    if plain.len() % ENTRY_BYTES != 0 {
        return Err(FormatError::Damaged("the pack's list is cut"));
    }
    read_entries(&mut Reader(plain), plain.len() / ENTRY_BYTES, footer.trailer_at)
}

pub(super) fn put_entry(out: &mut Vec<u8>, entry: &PackEntry) {
    out.extend_from_slice(&entry.id.0);
    for n in [entry.offset, entry.stored, entry.raw] {
        out.extend_from_slice(&n.to_le_bytes());
    }
}

/// Reads `count` entries that must lie between the header and `end`, in order and apart.
pub(super) fn read_entries(r: &mut Reader<'_>, count: usize, end: u32) -> Result<Vec<PackEntry>, FormatError> {
    if count > r.0.len() / ENTRY_BYTES {
        return Err(FormatError::Damaged("it ends too early"));
    }
    let mut entries = Vec::with_capacity(count);
    let mut at = HEADER_BYTES as u64;
    for _ in 0..count {
        let entry = PackEntry { id: ChunkId(r.array()?), offset: r.u32()?, stored: r.u32()?, raw: r.u32()? };
        let next = u64::from(entry.offset) + u64::from(entry.stored);
        if u64::from(entry.offset) < at || next > end.into() || (entry.stored as usize) < FRAME_OVERHEAD {
            return Err(FormatError::Damaged("a frame lies outside its place"));
        }
        if entry.raw > MAX_CHUNK_BYTES {
            return Err(FormatError::Damaged("a chunk is too long"));
        }
        at = next;
        entries.push(entry);
    }
    Ok(entries)
}
