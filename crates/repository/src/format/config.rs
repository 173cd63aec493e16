//! The `config` object: what the repository is, and its key slots. The only object that no key is needed for.
//!
//! Three lines of text: `portolan-repository <format>`, a JSON document, and `blake3 <hash of both lines>`.

use super::{FORMAT, FormatError};
use portolan_model::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const TITLE: &str = "portolan-repository";

/// What the repository is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its id.
    pub id: Uuid,
    /// When it was made.
    pub created: Timestamp,
    /// Bytes in a chunk: a power of two from 4 KiB to 4 MiB.
    pub chunk_bytes: u32,
    /// Rises with every change, so that copies can be told apart.
    pub revision: u64,
    /// The ways to the master key.
    pub key_slots: Vec<KeySlot>,
}

/// One way to the master key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySlot {
    /// Its id.
    pub id: Uuid,
    /// What it is for, in the operator's words.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
    /// What opens it.
    pub kind: SlotKind,
    /// Random, 32 bytes in base64.
    pub salt: String,
    /// The sealed master key, in base64.
    pub wrapped: String,
}

/// What opens a key slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum SlotKind {
    /// A key of 32 bytes.
    Raw,
    /// A passphrase through Argon2id.
    Passphrase {
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
}

impl Config {
    /// The object.
    pub fn encode(&self) -> Vec<u8> {
        let document = serde_json::to_string(self).unwrap_or_default();
        let mut text = format!("{TITLE} {FORMAT}\n{document}\n");
        let check = blake3::hash(text.as_bytes()).to_hex();
        text.push_str(&format!("blake3 {check}\n"));
        text.into_bytes()
    }

    /// Reads the object.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let damaged = FormatError::Damaged;
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("the config is not text"))?;
        let (title, rest) = text.split_once('\n').ok_or(damaged("the config is cut"))?;
        let version: Option<u32> =
            title.strip_prefix(TITLE).and_then(|t| t.strip_prefix(' ')).and_then(|t| t.parse().ok());
        let version = version.ok_or(damaged("not a repository's config"))?;
        // The hash first: a flipped bit in the version must not pass for a newer program's work, or the copy would
        // never be looked at. A config that is not even built like this one may well be newer.
        let checked =
            rest.split_once('\n').and_then(|(document, check)| Some((document, check.strip_prefix("blake3 ")?)));
        if let Some((document, check)) = checked {
            let hash = blake3::hash(&bytes[..title.len() + document.len() + 2]).to_hex();
            if check != format!("{hash}\n") {
                return Err(damaged("the config does not have its hash"));
            }
        }
        match version {
            FORMAT => {}
            newer if newer > FORMAT => return Err(FormatError::TooNew(newer)),
            _ => return Err(damaged("unknown version")),
        }
        let (document, _) = checked.ok_or(damaged("the config is cut"))?;
        let config: Self =
            serde_json::from_str(document).map_err(|_| damaged("the config is not what it should be"))?;
        if !valid_chunk_bytes(config.chunk_bytes) {
            return Err(damaged("the config has an impossible chunk size"));
        }
        Ok(config)
    }
}

/// Whether a repository may have chunks of that many bytes.
pub fn valid_chunk_bytes(bytes: u32) -> bool {
    bytes.is_power_of_two() && (4096..=4 * 1024 * 1024).contains(&bytes)
}
