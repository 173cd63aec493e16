//! Decides whether a chunk is worth compressing, and compresses it.

use crate::port::RepoError;
use zstd::zstd_safe::{CParameter, compress_bound};

/// The bytes of a chunk are counted in so many pieces ...
const PIECES: usize = 16;
/// ... of so many bytes.
const PIECE: usize = 128;
/// Where the counts tell nothing, four pieces of this many bytes are compressed before all of the chunk is.
const SAMPLE: usize = 2048;
/// From this length on, matches of fewer bytes than [`LONG_MATCH`] cost more time than they save room.
const LONG: usize = 64 * 1024;
const LONG_MATCH: u32 = 7;

/// A compressor, and the memory that it writes to.
pub(super) struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
    out: Vec<u8>,
    long: bool,
}

impl Packer {
    pub(super) fn new() -> Result<Self, RepoError> {
        let zstd = zstd::bulk::Compressor::new(1).map_err(compress_error)?;
        Ok(Self { zstd, out: Vec::new(), long: false })
    }

    /// The chunk compressed; nothing when that does not help.
    pub(super) fn pack(&mut self, bytes: &[u8]) -> Result<Option<&[u8]>, RepoError> {
        if bytes.len() >= 16 * SAMPLE && is_even(bytes) {
            let step = bytes.len() / 4;
            let mut sample = [0; 4 * SAMPLE];
            for (n, part) in sample.chunks_mut(SAMPLE).enumerate() {
                part.copy_from_slice(&bytes[n * step..n * step + SAMPLE]);
            }
            if self.compress(&sample)? >= sample.len() - sample.len() / 32 {
                return Ok(None);
            }
        }
        let packed = bytes.len() > 64 && self.compress(bytes)? < bytes.len();
        Ok(packed.then_some(&self.out[..]))
    }

    fn compress(&mut self, bytes: &[u8]) -> Result<usize, RepoError> {
        let long = bytes.len() >= LONG;
        if long != self.long {
            // 0 is what the level says.
            let shortest = CParameter::MinMatch(if long { LONG_MATCH } else { 0 });
            self.zstd.set_parameter(shortest).map_err(compress_error)?;
            self.long = long;
        }
        self.out.clear();
        self.out.reserve(compress_bound(bytes.len()));
        self.zstd.compress_to_buffer(bytes, &mut self.out).map_err(compress_error)
    }
}

/// Whether all values are about as frequent as each other, so that only repeats could be saved. Much quicker to find
/// out than compressing, and most chunks are not like that: what is left is noise, ciphers and compressed files.
fn is_even(bytes: &[u8]) -> bool {
    let step = bytes.len() / PIECES;
    let mut counts = [0u32; 256];
    for piece in bytes.chunks_exact(step.max(PIECE)).take(PIECES) {
        for byte in &piece[..PIECE] {
            counts[usize::from(*byte)] += 1;
        }
    }
    // How often two bytes of the sample are equal: of 256 pairs one in noise, give or take a hundredth of that. Where
    // it is a fifth more, a byte holds less than 7¾ bits.
    let total: u64 = counts.iter().map(|n| u64::from(*n)).sum();
    let equal: u64 = counts.iter().map(|n| u64::from(*n) * u64::from(n.saturating_sub(1))).sum();
    equal * 256 * 5 < total * total.saturating_sub(1) * 6
}

fn compress_error(source: std::io::Error) -> RepoError {
    RepoError::Store { action: "compress", object: "a chunk".into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        std::iter::repeat_with(&mut next).flatten().take(len).collect()
    }

    fn unpacked(packed: &[u8], len: usize) -> Vec<u8> {
        zstd::bulk::decompress(packed, len).unwrap()
    }

    #[test]
    fn what_can_be_saved_is_saved_and_noise_is_left() {
        let mut packer = Packer::new().unwrap();
        let len = 128 * 1024;
        let noise = noise(len);
        let text: Vec<u8> =
            b"port of call, harbour, chart and lighthouse; ".iter().copied().cycle().take(len).collect();
        let half = [&noise[..len / 2], &text[..len / 2]].concat();
        // Every value is as frequent as the others, and all of it repeats.
        let ramp: Vec<u8> = (0..len).map(|n| n as u8).collect();
        assert!(packer.pack(&noise).unwrap().is_none());
        for (bytes, most) in [(&text, len / 100), (&half, len * 6 / 10), (&ramp, len / 100), (&text, len / 100)] {
            let packed = packer.pack(bytes).unwrap().unwrap().to_vec();
            assert!(packed.len() < most, "{} of {most}", packed.len());
            assert_eq!(&unpacked(&packed, len), bytes);
        }
        for len in [0, 1, 64, 65, 1000, 16 * SAMPLE - 1, 16 * SAMPLE, LONG - 1, LONG] {
            assert!(packer.pack(&noise[..len]).unwrap().is_none(), "{len}");
            if let Some(packed) = packer.pack(&text[..len]).unwrap().map(<[u8]>::to_vec) {
                assert_eq!(unpacked(&packed, len), &text[..len]);
            }
        }
    }

    #[test]
    fn noise_is_even_and_text_is_not() {
        assert!(is_even(&noise(64 * 1024)));
        let base64: Vec<u8> = noise(64 * 1024).iter().map(|b| b'@' + b % 64).collect();
        assert!(!is_even(&base64));
        // 7.5 bits a byte.
        let most: Vec<u8> = noise(64 * 1024).iter().map(|b| if *b < 75 { b / 2 } else { *b }).collect();
        assert!(!is_even(&most));
    }
}
