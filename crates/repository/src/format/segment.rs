//! An index segment: which packs there are and what is in them. The content of a sealed record.

use super::pack::{PackListing, put_entry, read_entries};
use super::{Class, FormatError, Reader, VERSION};

const MAGIC: &[u8; 4] = b"PTIX";

/// The segment that lists these packs.
pub fn encode(packs: &[PackListing]) -> Vec<u8> {
    let chunks: usize = packs.iter().map(|p| p.entries.len()).sum();
    let mut out = Vec::with_capacity(12 + packs.len() * 60 + chunks * 44);
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&[0; 3]);
    out.extend_from_slice(&u32::try_from(packs.len()).unwrap_or(u32::MAX).to_le_bytes());
    for pack in packs {
        out.extend_from_slice(&pack.hash);
        out.extend_from_slice(&[pack.class.byte(), 0, 0, 0]);
        out.extend_from_slice(&pack.bytes.to_le_bytes());
        out.extend_from_slice(&pack.salt);
        out.extend_from_slice(&u32::try_from(pack.entries.len()).unwrap_or(u32::MAX).to_le_bytes());
        for entry in &pack.entries {
            put_entry(&mut out, entry);
        }
    }
    out
}

/// The packs that a segment lists.
pub fn decode(bytes: &[u8]) -> Result<Vec<PackListing>, FormatError> {
    let mut r = Reader(bytes);
    r.magic(MAGIC)?;
    r.take(3)?;
    let count = r.u32()? as usize;
    let mut packs = Vec::with_capacity(count.min(bytes.len() / 60));
    for _ in 0..count {
        let hash = r.array()?;
        let class = Class::from_byte(r.u8()?)?;
        r.take(3)?;
        let (bytes, salt, entries) = (r.u32()?, r.array()?, r.u32()? as usize);
        packs.push(PackListing { hash, class, bytes, salt, entries: read_entries(&mut r, entries, bytes)? });
    }
    r.end()?;
    Ok(packs)
}
