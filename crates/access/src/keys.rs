//! The master key: 32 random bytes that every stored secret hangs on.

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portolan_model::IdSource;
use ring::{aead, hkdf};
use std::fmt;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// What a key's text begins with.
const PREFIX: &str = "portolan-master-key:";
/// The version of the text that this program writes and reads.
const VERSION: &str = "v1";
/// Length of the key's 32 bytes in unpadded base64.
const KEY_CHARS: usize = 43;
/// Length of the checksum in hexadecimal.
const SUM_CHARS: usize = 16;

/// The server's master key. Prints as `***` and is wiped from memory when it is dropped.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

/// What is wrong with the text of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    /// It is something else.
    #[error("this is not a master key")]
    NotAKey,
    /// A newer program wrote it.
    #[error("the key has version '{0}', this program reads v1")]
    Version(String),
    /// The end is missing.
    #[error("the key is cut short: put the whole file back from its backup")]
    Truncated,
    /// It has the right shape, and its checksum does not fit.
    #[error("the key is damaged, its checksum does not fit: put the file back from its backup")]
    Damaged,
}

/// Why a key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("the key file {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error("the key file {} is open to others (mode {mode:04o}): run chmod 600 on it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file belongs to somebody else, who could replace it.
    #[error("the key file {} belongs to user {owner}, not to the one that runs this program", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The owner's number.
        owner: u32,
    },
    /// The file does not hold a key.
    #[error("the key file {} does not hold a usable key", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyProblem,
    },
    /// A new key could not be written down.
    #[error("the key file {} cannot be made", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another kind of source failed.
    #[error("the key source failed")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Where the master key comes from: a file, or whatever an embedder has.
#[async_trait]
pub trait KeySource: Send + Sync + fmt::Debug {
    /// The key, or nothing when there is none yet.
    async fn load(&self) -> Result<Option<MasterKey>, KeyError>;

    /// Makes a key and returns only when it is durable; when there is one already (somebody was faster), makes
    /// sure that it is durable and returns that.
    async fn create(&self, ids: &dyn IdSource) -> Result<MasterKey, KeyError>;

    /// Where the key is looked for, for messages.
    fn describe(&self) -> String;
}

impl MasterKey {
    /// A new key.
    pub fn generate(ids: &dyn IdSource) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        ids.fill(bytes.as_mut());
        Self(bytes)
    }

    /// A key from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads what [`MasterKey::to_text`] wrote; blanks at the end do not matter.
    pub fn parse(text: &str) -> Result<Self, KeyProblem> {
        let text = text.trim_end();
        let Some(rest) = text.strip_prefix(PREFIX) else {
            return Err(if PREFIX.starts_with(text) { KeyProblem::Truncated } else { KeyProblem::NotAKey });
        };
        let Some((version, rest)) = rest.split_once(':') else {
            return Err(if VERSION.starts_with(rest) { KeyProblem::Truncated } else { KeyProblem::NotAKey });
        };
        if version != VERSION {
            return Err(KeyProblem::Version(version.chars().take(16).collect()));
        }
        let expected = KEY_CHARS + 1 + SUM_CHARS;
        if rest.len() < expected {
            return Err(KeyProblem::Truncated);
        }
        if rest.len() > expected {
            return Err(KeyProblem::NotAKey);
        }
        let Some((key, sum)) = rest.split_once(':').filter(|(key, _)| key.len() == KEY_CHARS) else {
            return Err(KeyProblem::Damaged);
        };
        let decoded = Zeroizing::new(URL_SAFE_NO_PAD.decode(key).map_err(|_| KeyProblem::Damaged)?);
        let mut bytes = Zeroizing::new([0; 32]);
        if decoded.len() != bytes.len() {
            return Err(KeyProblem::Damaged);
        }
        bytes.copy_from_slice(&decoded);
        let key = Self(bytes);
        if key.checksum() == sum { Ok(key) } else { Err(KeyProblem::Damaged) }
    }

    /// The key as a line of text: a prefix, a version, the key and a checksum, which tells a damaged key from a
    /// wrong one.
    pub fn to_text(&self) -> Zeroizing<String> {
        let key = Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0.as_ref()));
        Zeroizing::new(format!("{PREFIX}{VERSION}:{}:{}\n", key.as_str(), self.checksum()))
    }

    /// A key for one purpose. Purposes do not tell of each other, nor of the master key.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mut out = Zeroizing::new([0; 32]);
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"portolan master key v1").extract(self.0.as_ref());
        prk.expand(&[purpose.as_bytes()], &aead::AES_256_GCM)
            .and_then(|okm| okm.fill(out.as_mut()))
            .unwrap_or_else(|_| unreachable!("32 bytes are within what HKDF can expand to"));
        out
    }

    fn checksum(&self) -> String {
        let sum = blake3::derive_key("portolan 2026-11 master key checksum", self.0.as_ref());
        sum[..SUM_CHARS / 2].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> MasterKey {
        MasterKey::from_bytes(std::array::from_fn(|i| i as u8))
    }

    #[test]
    fn a_key_survives_its_text_and_prints_as_stars() {
        let text = key().to_text();
        assert_eq!(MasterKey::parse(&text).unwrap().0, key().0);
        assert_eq!(format!("{:?}", key()), "MasterKey(***)");
    }

    #[test]
    fn every_cut_is_told_apart_from_a_wrong_key() {
        let text = key().to_text();
        let text = text.trim_end();
        for cut in 0..text.len() {
            assert_eq!(MasterKey::parse(&text[..cut]).unwrap_err(), KeyProblem::Truncated, "cut at {cut}");
        }
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let text = key().to_text();
        let text = text.trim_end();
        for at in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'7' { b'8' } else { b'7' };
            assert!(MasterKey::parse(std::str::from_utf8(&bytes).unwrap()).is_err(), "changed at {at}");
        }
        assert_eq!(MasterKey::parse(&format!("{text}x")).unwrap_err(), KeyProblem::NotAKey);
        assert_eq!(MasterKey::parse("-----BEGIN").unwrap_err(), KeyProblem::NotAKey);
        let newer = text.replace(":v1:", ":v2:");
        assert_eq!(MasterKey::parse(&newer).unwrap_err(), KeyProblem::Version("v2".into()));
    }

    #[test]
    fn purposes_have_their_own_keys() {
        assert_eq!(key().derive("a"), key().derive("a"));
        assert_ne!(key().derive("a"), key().derive("b"));
        assert_ne!(*key().derive("a"), *key().0);
    }
}
