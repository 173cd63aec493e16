//! A record: a small sealed object, bound to its key in the store so that none can stand for another.
//!
//! `PTRC | version | compressed | reserved (2) | salt (16) | ciphertext | tag (16)`; every record has a key of its
//! own, derived from the salt, and one nonce.

use super::{FormatError, Reader, VERSION};
use crate::keys::RepositoryKeys;
use ring::aead::Aad;

const MAGIC: &[u8; 4] = b"PTRC";
const HEADER_BYTES: usize = 24;
/// The longest content of a record, in bytes.
pub const MAX_RECORD_BYTES: usize = 256 * 1024 * 1024;

fn aad(header: &[u8], object: &str) -> Aad<Vec<u8>> {
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(object.as_bytes());
    Aad::from(bytes)
}

/// Seals `content` as the object `object`. The salt must never repeat.
pub fn seal(keys: &RepositoryKeys, object: &str, salt: [u8; 16], content: &[u8]) -> Result<Vec<u8>, FormatError> {
    if content.len() > MAX_RECORD_BYTES {
        return Err(FormatError::Damaged("a record is too long"));
    }
    let packed = zstd::bulk::compress(content, 1).map_err(|_| FormatError::Damaged("a record cannot be packed"))?;
    let mut out = Vec::with_capacity(HEADER_BYTES + packed.len() + 16);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[VERSION, 1, 0, 0]);
    out.extend_from_slice(&salt);
    let aad = aad(&out, object);
    out.extend_from_slice(&packed);
    let tag = keys
        .record_key(&salt)
        .0
        .seal_in_place_separate_tag(super::frame::nonce(0, 0), aad, &mut out[HEADER_BYTES..])
        .map_err(|_| FormatError::Damaged("a record is too long"))?;
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

/// Opens the object `object`.
pub fn open(keys: &RepositoryKeys, object: &str, bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut r = Reader(bytes);
    r.magic(MAGIC)?;
    let packed = r.u8()?;
    r.take(2)?;
    let salt = r.array()?;
    let mut sealed = r.0.to_vec();
    let aad = aad(&bytes[..HEADER_BYTES], object);
    let plain = keys
        .record_key(&salt)
        .0
        .open_in_place(super::frame::nonce(0, 0), aad, &mut sealed)
        .map_err(|_| FormatError::Damaged("a record does not decrypt"))?;
    if packed != 1 {
        return Err(FormatError::Damaged("a record is packed in an unknown way"));
    }
    // The length stands at the head of what zstd wrote, and this far the bytes are the writer's own.
    let raw = zstd::zstd_safe::get_frame_content_size(plain).ok().flatten().unwrap_or(0);
    let raw = usize::try_from(raw).ok().filter(|n| *n <= MAX_RECORD_BYTES);
    let raw = raw.ok_or(FormatError::Damaged("a record is too long"))?;
    zstd::bulk::decompress(plain, raw).map_err(|_| FormatError::Damaged("a record does not unpack"))
}
