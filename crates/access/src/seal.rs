//! Sealing: AES-256-GCM with a key per purpose, bound to the row that the sealed text stands in.

use crate::keys::MasterKey;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use portolan_model::IdSource;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fmt;
use uuid::Uuid;
use zeroize::Zeroizing;

/// What sealed text begins with; the rest is base64 of nonce, ciphertext and tag.
const PREFIX: &str = "s1:";

/// Seals and opens short secrets for one purpose.
pub struct Sealer {
    purpose: String,
    key: LessSafeKey,
}

/// Why a text was not sealed or does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A newer program sealed it, or it is no sealed text.
    #[error("this is not a sealed text that this program can read")]
    Format,
    /// Wrong key, wrong row, or changed bytes.
    #[error("the sealed text does not open")]
    Broken,
}

impl Sealer {
    /// A sealer whose key is derived from the master key for `purpose`.
    pub fn new(master: &MasterKey, purpose: &str) -> Self {
        let key = master.derive(&format!("seal:{purpose}"));
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref())
            .unwrap_or_else(|_| unreachable!("a derived key has the 32 bytes that AES-256 takes"));
        Self { purpose: purpose.to_owned(), key: LessSafeKey::new(key) }
    }

    /// Seals `plain` for the row `row` of `owner`, with a fresh random nonce.
    pub fn seal(&self, ids: &dyn IdSource, row: Uuid, owner: &str, plain: &[u8]) -> Result<String, SealError> {
        let mut nonce = [0; NONCE_LEN];
        ids.fill(&mut nonce);
        let mut bytes = Zeroizing::new(Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len()));
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(plain);
        let aad = Aad::from(self.associated(row, owner));
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut bytes[NONCE_LEN..])
            .map_err(|_| SealError::Format)?;
        bytes.extend_from_slice(tag.as_ref());
        Ok(format!("{PREFIX}{}", STANDARD_NO_PAD.encode(bytes.as_slice())))
    }

    /// Opens what was sealed for the same purpose, row and owner.
    pub fn open(&self, row: Uuid, owner: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let encoded = sealed.strip_prefix(PREFIX).ok_or(SealError::Format)?;
        let mut bytes = Zeroizing::new(STANDARD_NO_PAD.decode(encoded).map_err(|_| SealError::Broken)?);
        let (nonce, rest) = bytes.split_at_mut_checked(NONCE_LEN).ok_or(SealError::Broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Broken)?;
        let aad = Aad::from(self.associated(row, owner));
        let plain = self.key.open_in_place(nonce, aad, rest).map_err(|_| SealError::Broken)?;
        Ok(Zeroizing::new(plain.to_vec()))
    }

    /// What the sealed text is bound to. Lengths come first, so that no two places yield the same bytes.
    fn associated(&self, row: Uuid, owner: &str) -> Vec<u8> {
        let mut out = PREFIX.as_bytes().to_vec();
        for part in [self.purpose.as_bytes(), row.as_bytes(), owner.as_bytes()] {
            out.extend_from_slice(&(part.len() as u64).to_le_bytes());
            out.extend_from_slice(part);
        }
        out
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("purpose", &self.purpose).field("key", &"***").finish()
    }
}
