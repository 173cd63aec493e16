//! Keys: what opens a repository, and what is derived from its master key.

use crate::format::config::{Config, KeySlot, SlotKind};
use crate::format::{ChunkId, Class, FORMAT};
use crate::port::RepoError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use portolan_model::{IdSource, Timestamp};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use std::fmt;
use uuid::Uuid;
use zeroize::Zeroizing;

/// What Argon2id costs, in memory and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassphraseCost {
    /// Memory in KiB, 8 to 1 048 576.
    pub memory_kib: u32,
    /// Passes, 1 to 64.
    pub passes: u32,
}

impl Default for PassphraseCost {
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3 }
    }
}

/// What opens a key slot. Prints as `***`, and is overwritten when it is dropped.
#[derive(Clone)]
pub struct RepositoryKey(Kind);

#[derive(Clone)]
enum Kind {
    Raw(Zeroizing<[u8; 32]>),
    Passphrase(Zeroizing<String>, PassphraseCost),
}

impl fmt::Debug for RepositoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl RepositoryKey {
    /// A key of 32 bytes that nobody can predict.
    pub fn generate(ids: &dyn IdSource) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        ids.fill(&mut key[..]);
        Self(Kind::Raw(key))
    }

    /// A key of these 32 bytes.
    pub fn raw(key: [u8; 32]) -> Self {
        Self(Kind::Raw(Zeroizing::new(key)))
    }

    /// A passphrase, at the usual cost.
    pub fn passphrase(text: impl Into<String>) -> Self {
        Self::passphrase_with(text, PassphraseCost::default())
    }

    /// A passphrase whose slots, where this makes any, have that cost.
    pub fn passphrase_with(text: impl Into<String>, cost: PassphraseCost) -> Self {
        Self(Kind::Passphrase(Zeroizing::new(text.into()), cost))
    }

    /// The key that a printed recovery key stands for. Case, spaces and dashes do not matter.
    ///
    /// # Errors
    /// [`RepoError::WrongKey`] when it is not one, or was mistyped.
    pub fn recovery(text: &str) -> Result<Self, RepoError> {
        decode_recovery(text).map(|key| Self(Kind::Raw(key))).ok_or(RepoError::WrongKey)
    }

    /// The 32 bytes, for a caller that keeps them sealed elsewhere; nothing for a passphrase.
    pub fn expose(&self) -> Option<&[u8; 32]> {
        match &self.0 {
            Kind::Raw(key) => Some(key),
            Kind::Passphrase(..) => None,
        }
    }
}

/// A key on paper: sixty letters and digits in groups of five, with a checksum. Prints as `***` unless revealed.
#[derive(Clone)]
pub struct RecoveryKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl RecoveryKey {
    pub(crate) fn generate(ids: &dyn IdSource) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        ids.fill(&mut key[..]);
        Self(key)
    }

    /// The text to print and keep. Every call is a place to look at in a review.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(37));
        bytes.push(1);
        bytes.extend_from_slice(&self.0[..]);
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..4]);
        let mut text = Zeroizing::new(String::with_capacity(80));
        let (mut bits, mut held, mut letters) = (0u32, 0u32, 0);
        // Four zero bits fill the last letter.
        for byte in bytes.iter().chain([&0]) {
            bits = (bits << 8 | u32::from(*byte)) & 0xffff;
            held += 8;
            while held >= 5 && letters < 60 {
                held -= 5;
                if letters > 0 && letters % 5 == 0 {
                    text.push('-');
                }
                text.push(char::from(ALPHABET[(bits >> held & 31) as usize]));
                letters += 1;
            }
        }
        text
    }

    /// The key of its slot.
    pub fn key(&self) -> RepositoryKey {
        RepositoryKey(Kind::Raw(self.0.clone()))
    }
}

fn decode_recovery(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(38));
    let (mut bits, mut held, mut letters) = (0u32, 0u32, 0);
    for c in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
        let c = match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            c => c,
        };
        let value = ALPHABET.iter().position(|a| char::from(*a) == c)?;
        letters += 1;
        if letters > 60 {
            return None;
        }
        bits = (bits << 5 | u32::try_from(value).ok()?) & 0xffff;
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 255) as u8);
        }
    }
    let (head, check) = bytes.split_at_checked(33)?;
    let whole = letters == 60 && head[0] == 1 && check == &blake3::hash(head).as_bytes()[..4] && bits & 15 == 0;
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(&head[1..]);
    whole.then_some(key)
}

/// The key of one pack or record.
pub struct PackKey(pub(crate) LessSafeKey);

impl fmt::Debug for PackKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Everything that is derived from the master key.
pub struct RepositoryKeys {
    master: Zeroizing<[u8; 32]>,
    id: Uuid,
    data_ids: Zeroizing<[u8; 32]>,
    meta_ids: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for RepositoryKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A key's length, as the key derivation wants it.
struct Len32;
impl KeyType for Len32 {
    fn len(&self) -> usize {
        32
    }
}

fn derive(secret: &[u8], salt: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    let prk: Prk = Salt::new(HKDF_SHA256, salt).extract(secret);
    // Neither call can fail for 32 bytes; an all-zero key must never be used silently all the same.
    let filled = prk.expand(info, Len32).and_then(|okm| okm.fill(&mut out[..]));
    assert!(filled.is_ok(), "a key of 32 bytes can be derived");
    out
}

fn aes(key: &[u8; 32]) -> PackKey {
    match UnboundKey::new(&AES_256_GCM, key) {
        Ok(key) => PackKey(LessSafeKey::new(key)),
        Err(_) => unreachable!("the cipher takes keys of 32 bytes"),
    }
}

impl RepositoryKeys {
    /// What follows from the master key of the repository `id`.
    pub(crate) fn new(master: Zeroizing<[u8; 32]>, id: Uuid) -> Self {
        let data_ids = derive(&master[..], id.as_bytes(), &[b"portolan chunk ids v1 data"]);
        let meta_ids = derive(&master[..], id.as_bytes(), &[b"portolan chunk ids v1 meta"]);
        Self { master, id, data_ids, meta_ids }
    }

    /// The id of a chunk.
    pub fn chunk_id(&self, class: Class, bytes: &[u8]) -> ChunkId {
        let key = match class {
            Class::Data => &self.data_ids,
            Class::Meta => &self.meta_ids,
        };
        ChunkId(*blake3::keyed_hash(key, bytes).as_bytes())
    }

    /// The key of the pack with that salt.
    pub(crate) fn pack_key(&self, salt: &[u8; 16]) -> PackKey {
        aes(&derive(&self.master[..], salt, &[b"portolan pack v1", self.id.as_bytes()]))
    }

    /// The key of the record with that salt.
    pub(crate) fn record_key(&self, salt: &[u8; 16]) -> PackKey {
        aes(&derive(&self.master[..], salt, &[b"portolan record v1", self.id.as_bytes()]))
    }

    /// A new slot that `key` opens. Blocks for as long as a passphrase costs.
    pub(crate) fn new_slot(
        &self,
        key: &RepositoryKey,
        label: &str,
        config: &Config,
        ids: &dyn IdSource,
        now: Timestamp,
    ) -> Result<KeySlot, RepoError> {
        let mut salt = [0; 32];
        ids.fill(&mut salt);
        let kind = match &key.0 {
            Kind::Raw(_) => SlotKind::Raw,
            Kind::Passphrase(_, cost) => {
                SlotKind::Passphrase { memory_kib: cost.memory_kib, passes: cost.passes, lanes: 1 }
            }
        };
        let mut slot = KeySlot {
            id: ids.uuid(),
            label: label.chars().take(200).collect(),
            created: now,
            kind,
            salt: BASE64.encode(salt),
            wrapped: String::new(),
        };
        let wrapping =
            wrapping_key(key, kind, &salt).ok_or_else(|| RepoError::Unsupported("a passphrase of that cost".into()))?;
        let mut wrapped = self.master.to_vec();
        aes(&wrapping)
            .0
            .seal_in_place_append_tag(crate::format::frame::nonce(0, 0), slot_aad(&slot, config), &mut wrapped)
            .map_err(|_| RepoError::Unsupported("this key".into()))?;
        slot.wrapped = BASE64.encode(&wrapped);
        Ok(slot)
    }

    /// A fresh master key for a new repository.
    pub(crate) fn generate(ids: &dyn IdSource, id: Uuid) -> Self {
        let mut master = Zeroizing::new([0; 32]);
        ids.fill(&mut master[..]);
        Self::new(master, id)
    }

    /// Opens the first slot that `key` opens. Blocks for as long as a passphrase costs.
    pub(crate) fn unlock(config: &Config, key: &RepositoryKey) -> Result<Self, RepoError> {
        config.key_slots.iter().find_map(|slot| open_slot(slot, config, key)).ok_or(RepoError::WrongKey)
    }
}

fn open_slot(slot: &KeySlot, config: &Config, key: &RepositoryKey) -> Option<RepositoryKeys> {
    let salt = BASE64.decode(&slot.salt).ok()?;
    let mut wrapped = Zeroizing::new(BASE64.decode(&slot.wrapped).ok()?);
    let wrapping = wrapping_key(key, slot.kind, &salt)?;
    let plain = aes(&wrapping)
        .0
        .open_in_place(crate::format::frame::nonce(0, 0), slot_aad(slot, config), &mut wrapped[..])
        .ok()?;
    let mut master = Zeroizing::new([0; 32]);
    if plain.len() != master.len() {
        return None;
    }
    master.copy_from_slice(plain);
    Some(RepositoryKeys::new(master, config.id))
}

/// The key that seals a slot; nothing when the key is of another kind or the cost is out of bounds.
fn wrapping_key(key: &RepositoryKey, kind: SlotKind, salt: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    match (&key.0, kind) {
        (Kind::Raw(key), SlotKind::Raw) => Some(derive(&key[..], salt, &[b"portolan slot v1"])),
        (Kind::Passphrase(text, _), SlotKind::Passphrase { memory_kib, passes, lanes }) => {
            // Bounds, since the config is not authenticated before this.
            if !(8..=1024 * 1024).contains(&memory_kib) || !(1..=64).contains(&passes) || lanes != 1 {
                return None;
            }
            let params = argon2::Params::new(memory_kib, passes, lanes, Some(32)).ok()?;
            let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
            let mut out = Zeroizing::new([0; 32]);
            argon.hash_password_into(text.as_bytes(), salt, &mut out[..]).ok()?;
            Some(out)
        }
        _ => None,
    }
}

/// Binds a slot to its repository and to everything that decides how data is read.
fn slot_aad(slot: &KeySlot, config: &Config) -> Aad<Vec<u8>> {
    let mut aad = b"portolan slot v1".to_vec();
    aad.extend_from_slice(&FORMAT.to_le_bytes());
    aad.extend_from_slice(config.id.as_bytes());
    aad.extend_from_slice(&config.chunk_bytes.to_le_bytes());
    aad.extend_from_slice(slot.id.as_bytes());
    Aad::from(aad)
}
