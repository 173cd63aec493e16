//! A disk's map: a root that names leaves, and leaves that name chunks.
//!
//! Both are metadata chunks, so that equal ones are stored once. A leaf without a chunk is not stored at all.

use super::{ChunkId, FormatError, MAX_CHUNK_BYTES, Reader, VERSION};

/// Chunks in a leaf.
pub const LEAF_CHUNKS: usize = 1024;
const ROOT_MAGIC: &[u8; 4] = b"PTMR";
const LEAF_MAGIC: &[u8; 4] = b"PTML";

/// The root of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The disk's size in bytes.
    pub size: u64,
    /// Bytes in a chunk.
    pub chunk_bytes: u32,
    /// The leaves.
    pub leaves: Vec<LeafRef>,
}

/// A leaf as its root names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeafRef {
    /// Its id; [`ChunkId::ZERO`] for one that names no chunk.
    pub id: ChunkId,
    /// How many chunks it names.
    pub mapped: u32,
}

const LEAF_REF_BYTES: usize = 36;

/// How many chunks a disk of `size` bytes has.
pub fn chunk_count(size: u64, chunk_bytes: u32) -> u64 {
    size.div_ceil(chunk_bytes.max(1).into())
}

/// How many leaves a disk of `size` bytes has.
pub fn leaf_count(size: u64, chunk_bytes: u32) -> u64 {
    chunk_count(size, chunk_bytes).div_ceil(LEAF_CHUNKS as u64)
}

/// The longest disk that one root can map, in bytes.
pub fn max_disk_bytes(chunk_bytes: u32) -> u64 {
    u64::from((MAX_CHUNK_BYTES - 24) / 36) * LEAF_CHUNKS as u64 * u64::from(chunk_bytes)
}

impl Root {
    /// The root as it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20 + self.leaves.len() * LEAF_REF_BYTES);
        out.extend_from_slice(ROOT_MAGIC);
        out.extend_from_slice(&[VERSION, 0, 0, 0]);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.chunk_bytes.to_le_bytes());
        for leaf in &self.leaves {
            out.extend_from_slice(&leaf.id.0);
            out.extend_from_slice(&leaf.mapped.to_le_bytes());
        }
        out
    }

    /// Bytes of the disk that are not holes, in whole chunks.
    pub fn mapped_bytes(&self) -> u64 {
        let chunks: u64 = self.leaves.iter().map(|leaf| u64::from(leaf.mapped)).sum();
        chunks.saturating_mul(self.chunk_bytes.into()).min(self.size)
    }

    /// Reads a root of a repository with chunks of `chunk_bytes`.
    pub fn decode(bytes: &[u8], chunk_bytes: u32) -> Result<Self, FormatError> {
        let mut r = Reader(bytes);
        r.magic(ROOT_MAGIC)?;
        r.take(3)?;
        let (size, own_chunk_bytes) = (r.u64()?, r.u32()?);
        if own_chunk_bytes != chunk_bytes || own_chunk_bytes == 0 {
            return Err(FormatError::Damaged("the map has chunks of another size"));
        }
        if leaf_count(size, chunk_bytes).checked_mul(LEAF_REF_BYTES as u64) != Some(r.0.len() as u64) {
            return Err(FormatError::Damaged("the map does not fit the disk's size"));
        }
        let mut leaves = Vec::with_capacity(r.0.len() / LEAF_REF_BYTES);
        while !r.0.is_empty() {
            let leaf = LeafRef { id: ChunkId(r.array()?), mapped: r.u32()? };
            if leaf.mapped as usize > LEAF_CHUNKS || leaf.id.is_zero() != (leaf.mapped == 0) {
                return Err(FormatError::Damaged("a leaf maps an impossible number of chunks"));
            }
            leaves.push(leaf);
        }
        Ok(Self { size, chunk_bytes, leaves })
    }
}

/// The leaf of these ids, of which there are [`LEAF_CHUNKS`].
pub fn encode_leaf(chunks: &[ChunkId]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + LEAF_CHUNKS * 32);
    out.extend_from_slice(LEAF_MAGIC);
    out.extend_from_slice(&[VERSION, 0, 0, 0]);
    chunks.iter().for_each(|id| out.extend_from_slice(&id.0));
    out
}

/// The ids of a leaf.
pub fn decode_leaf(bytes: &[u8]) -> Result<Vec<ChunkId>, FormatError> {
    let mut r = Reader(bytes);
    r.magic(LEAF_MAGIC)?;
    r.take(3)?;
    if r.0.len() != LEAF_CHUNKS * 32 {
        return Err(FormatError::Damaged("a leaf has the wrong length"));
    }
    Ok(ids(r.0))
}

fn ids(bytes: &[u8]) -> Vec<ChunkId> {
    bytes.as_chunks::<32>().0.iter().map(|id| ChunkId(*id)).collect()
}
