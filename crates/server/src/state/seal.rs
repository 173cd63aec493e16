//! A stream under a passphrase: Argon2id makes the key, AES-256-GCM seals chunk after chunk. `docs/operating.md`
//! describes the bytes.
//!
//! Every chunk is bound to the header, to its number and to whether it is the last: none can be changed, moved, left out
//! or put in, and an end that was cut off is noticed.

use argon2::{Algorithm, Argon2, Params, Version};
use portolan_model::{IdSource, Secret};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::io::{self, Read, Write};
use zeroize::Zeroizing;

/// What every file begins with.
const MAGIC: &[u8; 8] = b"PTLSTATE";
/// The version of the format that this program writes and reads.
const VERSION: u8 = 1;
/// Magic, version, memory, passes, lanes, salt.
const HEADER: usize = 8 + 1 + 4 + 4 + 1 + SALT;
const SALT: usize = 16;
/// Plain bytes of a chunk.
const CHUNK: usize = 64 * 1024;
const TAG: usize = 16;
/// The number of the empty chunk after the header, which tells a wrong passphrase from damage.
const CHECK: u64 = u64::MAX;

/// What a key costs that is made from a passphrase: about half a second, once.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
/// More is no file of ours, and would only keep this machine busy.
const MOST_MEMORY_KIB: u32 = 1 << 20;
const MOST_PASSES: u32 = 32;

/// Why a sealed file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SealFault {
    /// It is something else.
    #[error("this is no exported state")]
    Foreign,
    /// A newer program wrote it.
    #[error("the file has version {0} of the format, this program reads version {VERSION}")]
    TooNew(u8),
    /// The first chunk does not open.
    #[error("the passphrase is not the one that the file was made with, or its first bytes are damaged")]
    Passphrase,
    /// A chunk does not open.
    #[error("the file is damaged, or cut short, near byte {0}")]
    Damaged(u64),
    /// The last chunk is missing.
    #[error("the file is cut short: it ends at byte {0}")]
    Short(u64),
}

impl From<SealFault> for io::Error {
    fn from(fault: SealFault) -> Self {
        Self::new(io::ErrorKind::InvalidData, fault)
    }
}

struct Chunks {
    key: LessSafeKey,
    header: [u8; HEADER],
    next: u64,
}

impl Chunks {
    fn new(passphrase: &Secret, header: [u8; HEADER]) -> io::Result<Self> {
        let word = |at: usize| header[at..at + 4].iter().rev().fold(0_u32, |word, byte| (word << 8) | u32::from(*byte));
        let (memory, passes, lanes) = (word(9), word(13), header[17]);
        if memory > MOST_MEMORY_KIB || passes > MOST_PASSES || lanes > 16 {
            return Err(SealFault::Foreign.into());
        }
        let params = Params::new(memory, passes, lanes.into(), Some(32)).map_err(|_| SealFault::Foreign)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.reveal().as_bytes(), &header[HEADER - SALT..], key.as_mut())
            .map_err(|e| io::Error::other(format!("the key cannot be made from the passphrase: {e}")))?;
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).map_err(|_| io::Error::other("no key"))?;
        Ok(Self { key: LessSafeKey::new(key), header, next: 0 })
    }

    fn nonce(number: u64, last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        nonce[8] = u8::from(last);
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&self, number: u64, last: bool, bytes: &mut Vec<u8>) -> io::Result<()> {
        let sealed = self.key.seal_in_place_append_tag(Self::nonce(number, last), Aad::from(self.header), bytes);
        sealed.map_err(|_| io::Error::other("a chunk cannot be sealed"))
    }

    /// The length of what was sealed; nothing where it does not open.
    fn open(&self, number: u64, last: bool, bytes: &mut [u8]) -> Option<usize> {
        let opened = self.key.open_in_place(Self::nonce(number, last), Aad::from(self.header), bytes);
        opened.ok().map(|plain| plain.len())
    }
}

/// Seals what is written into it.
pub(super) struct Sealing<W> {
    out: W,
    chunks: Chunks,
    plain: Zeroizing<Vec<u8>>,
}

impl<W: Write> Sealing<W> {
    /// Begins a file: writes its header.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn begin(mut out: W, passphrase: &Secret, ids: &dyn IdSource) -> io::Result<Self> {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8] = VERSION;
        header[9..13].copy_from_slice(&MEMORY_KIB.to_le_bytes());
        header[13..17].copy_from_slice(&PASSES.to_le_bytes());
        header[17] = 1;
        ids.fill(&mut header[HEADER - SALT..]);
        let chunks = Chunks::new(passphrase, header)?;
        let mut check = Vec::new();
        chunks.seal(CHECK, false, &mut check)?;
        out.write_all(&header)?;
        out.write_all(&check)?;
        Ok(Self { out, chunks, plain: Zeroizing::new(Vec::with_capacity(CHUNK + TAG)) })
    }

    /// Writes the last chunk and gives back what was written to. Without this the file is cut short.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.chunk(true)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn chunk(&mut self, last: bool) -> io::Result<()> {
        let number = self.chunks.next;
        self.chunks.seal(number, last, &mut self.plain)?;
        self.out.write_all(&self.plain)?;
        self.plain.clear();
        self.chunks.next += 1;
        Ok(())
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits until more comes: it may be the last one.
        if self.plain.len() == CHUNK {
            self.chunk(false)?;
        }
        let taken = bytes.len().min(CHUNK - self.plain.len());
        self.plain.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Gives back what was sealed. The end of it is only reached when the file is whole.
pub(super) struct Opening<R> {
    from: R,
    chunks: Chunks,
    /// Sealed bytes of the chunk at hand, and one byte more where another chunk follows.
    sealed: Vec<u8>,
    plain: Zeroizing<Vec<u8>>,
    given: usize,
    /// How many bytes of the file have been read.
    at: u64,
    ended: bool,
}

impl<R: Read> Opening<R> {
    /// Reads a file's header and proves the passphrase.
    ///
    /// # Errors
    /// A [`SealFault`] in the error, or when it cannot be read.
    pub(super) fn begin(mut from: R, passphrase: &Secret) -> io::Result<Self> {
        let mut start = Vec::with_capacity(HEADER + TAG);
        from.by_ref().take((HEADER + TAG) as u64).read_to_end(&mut start)?;
        if start.len() < MAGIC.len() && MAGIC.starts_with(&start) {
            return Err(SealFault::Short(start.len() as u64).into());
        }
        if !start.starts_with(MAGIC) {
            return Err(SealFault::Foreign.into());
        }
        if let Some(version) = start.get(8).filter(|version| **version != VERSION) {
            return Err(SealFault::TooNew(*version).into());
        }
        if start.len() < HEADER + TAG {
            return Err(SealFault::Short(start.len() as u64).into());
        }
        let mut header = [0; HEADER];
        header.copy_from_slice(&start[..HEADER]);
        let chunks = Chunks::new(passphrase, header)?;
        if chunks.open(CHECK, false, &mut start[HEADER..]).is_none() {
            return Err(SealFault::Passphrase.into());
        }
        let at = (HEADER + TAG) as u64;
        let plain = Zeroizing::new(Vec::new());
        Ok(Self { from, chunks, sealed: Vec::new(), plain, given: 0, at, ended: false })
    }

    /// Opens the next chunk.
    fn fill(&mut self) -> io::Result<()> {
        // One byte more than a chunk has: so the last one is known.
        let want = CHUNK + TAG + 1 - self.sealed.len();
        let got = self.from.by_ref().take(want as u64).read_to_end(&mut self.sealed)?;
        let begins = self.at;
        let last = self.sealed.len() <= CHUNK + TAG;
        let ahead = if last { None } else { self.sealed.pop() };
        self.at += got as u64;
        let number = self.chunks.next;
        let mut bytes = Zeroizing::new(std::mem::take(&mut self.sealed));
        // What was whole opens as what it was; a chunk from the middle at the end says that the rest is missing.
        let copy = last.then(|| Zeroizing::new(bytes.to_vec()));
        let Some(length) = self.chunks.open(number, last, &mut bytes) else {
            let middle = copy.is_some_and(|mut copy| {
                copy.is_empty() || self.chunks.open(number, false, &mut copy).is_some() || copy.len() < TAG
            });
            let fault = if middle { SealFault::Short(self.at) } else { SealFault::Damaged(begins) };
            return Err(fault.into());
        };
        bytes.truncate(length);
        self.plain = bytes;
        self.given = 0;
        self.chunks.next += 1;
        self.ended = last;
        self.sealed.extend(ahead);
        Ok(())
    }
}

impl<R: Read> Read for Opening<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given == self.plain.len() {
            if self.ended {
                return Ok(0);
            }
            self.fill()?;
        }
        let n = out.len().min(self.plain.len() - self.given);
        out[..n].copy_from_slice(&self.plain[self.given..self.given + n]);
        self.given += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(plain: &[u8]) -> Vec<u8> {
        let ids = crate::core::system().1;
        let mut sealing = Sealing::begin(Vec::new(), &Secret::new("pass"), &*ids).unwrap();
        sealing.write_all(plain).unwrap();
        sealing.finish().unwrap()
    }

    fn opened(bytes: &[u8], passphrase: &str) -> Result<Vec<u8>, String> {
        let mut plain = Vec::new();
        let opening = Opening::begin(bytes, &Secret::new(passphrase));
        match opening.and_then(|mut opening| opening.read_to_end(&mut plain)) {
            Ok(_) => Ok(plain),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn what_was_sealed_opens_whatever_its_length() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK] {
            let plain: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            assert_eq!(opened(&sealed(&plain), "pass").unwrap(), plain, "{length}");
        }
    }

    #[test]
    fn a_wrong_passphrase_is_told_from_damage_and_from_a_missing_end() {
        let plain = vec![7; CHUNK + 100];
        let whole = sealed(&plain);
        assert!(opened(&whole, "word").unwrap_err().contains("passphrase"));
        let says = |bytes: &[u8], words: &str| {
            let error = opened(bytes, "pass").unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        let first = HEADER + TAG;
        for cut in [0, 4, 20, first, first + CHUNK + TAG, first + CHUNK + TAG + 5] {
            says(&whole[..cut], "cut short");
        }
        for at in [first, first + CHUNK, first + CHUNK + TAG, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            says(&bytes, "damaged");
        }
        for at in [9, HEADER - 1, HEADER] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(opened(&bytes, "pass").is_err(), "{at}");
        }
        says(b"-----BEGIN", "no exported state");
        let mut newer = whole.clone();
        newer[8] = 2;
        says(&newer, "version 2");
        let mut longer = whole.clone();
        longer.push(0);
        says(&longer, "damaged");
        // Chunks that change places do not open.
        let three = sealed(&vec![7; 3 * CHUNK]);
        let (a, b) = (first, first + CHUNK + TAG);
        let mut swapped = three.clone();
        swapped[a..a + CHUNK + TAG].copy_from_slice(&three[b..b + CHUNK + TAG]);
        says(&swapped, "damaged");
    }
}
