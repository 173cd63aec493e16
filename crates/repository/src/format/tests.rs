//! Decoders take anything, and what was written comes back.

use super::config::{Config, KeySlot, SlotKind};
use super::frame::{self, FrameRef, Payload};
use super::map::{LEAF_CHUNKS, LeafRef, Root, decode_leaf, encode_leaf};
use super::pack::{FOOTER_BYTES, PackBuilder, read_footer, read_trailer};
use super::{ChunkId, Class, FormatError, record, segment};
use crate::keys::RepositoryKeys;
use portolan_model::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;
use zeroize::Zeroizing;

fn keys() -> RepositoryKeys {
    RepositoryKeys::new(Zeroizing::new([7; 32]), Uuid::from_u128(1))
}

fn pack(chunks: &[Vec<u8>]) -> (Vec<u8>, super::pack::PackListing) {
    let keys = keys();
    let mut pack = PackBuilder::new(&keys, Class::Data, [3; 16], Vec::new());
    for chunk in chunks {
        let id = keys.chunk_id(Class::Data, chunk);
        pack.add(&id, chunk.len() as u32, &Payload { bytes: chunk, compressed: false }).unwrap();
    }
    pack.finish().unwrap()
}

fn config() -> Config {
    Config {
        id: Uuid::from_u128(5),
        created: Timestamp::from_millis(12),
        chunk_bytes: 131_072,
        revision: 3,
        key_slots: vec![KeySlot {
            id: Uuid::from_u128(6),
            label: "first".into(),
            created: Timestamp::from_millis(12),
            kind: SlotKind::Passphrase { memory_kib: 64, passes: 1, lanes: 1 },
            salt: "AA==".into(),
            wrapped: "AA==".into(),
        }],
    }
}

fn opener() -> frame::Opener {
    frame::Opener::new().unwrap()
}

#[test]
fn the_layout_is_pinned() {
    // A change of any of these is a new format version.
    let keys = keys();
    let id = keys.chunk_id(Class::Data, b"portolan");
    assert_ne!(id, keys.chunk_id(Class::Meta, b"portolan"));
    let (bytes, listing) = pack(&[b"portolan".to_vec()]);
    assert_eq!(blake3::hash(&bytes).to_hex()[..32], *PINNED_PACK);
    assert_eq!(
        listing.key(),
        format!("packs/{}/{}", &blake3::hash(&bytes).to_hex()[..2], blake3::hash(&bytes).to_hex())
    );
    let segment = record::seal(&keys, "index/x-0", [1; 16], &segment::encode(&[listing])).unwrap();
    let opened = record::open(&keys, "index/x-0", &segment).unwrap();
    assert_eq!(blake3::hash(&opened).to_hex()[..32], *PINNED_SEGMENT);
    assert_eq!(blake3::hash(&config().encode()).to_hex()[..32], *PINNED_CONFIG);
}

const PINNED_PACK: &str = "c48f18bfeaa6a4fddd918044f74b0293";
const PINNED_SEGMENT: &str = "57dbe4c25bde53766f2e8e3eb588a78d";
const PINNED_CONFIG: &str = "59c1c8c172a3438f40d77302ac865efe";

#[test]
fn newer_versions_are_told_from_damage() {
    let keys = keys();
    let mut sealed = record::seal(&keys, "points/x", [1; 16], b"{}").unwrap();
    sealed[4] = 9;
    assert_eq!(record::open(&keys, "points/x", &sealed), Err(FormatError::TooNew(9)));
    assert_eq!(Config::decode(b"portolan-repository 7\nfuture"), Err(FormatError::TooNew(7)));
    assert!(matches!(Config::decode(b"portolan-repository 0\n"), Err(FormatError::Damaged(_))));
}

#[test]
fn records_are_bound_to_their_keys() {
    let keys = keys();
    let sealed = record::seal(&keys, "points/a", [1; 16], b"content").unwrap();
    assert_eq!(record::open(&keys, "points/a", &sealed).unwrap(), b"content");
    assert!(record::open(&keys, "points/b", &sealed).is_err());
    let other = RepositoryKeys::new(Zeroizing::new([8; 32]), Uuid::from_u128(1));
    assert!(record::open(&other, "points/a", &sealed).is_err());
}

#[test]
fn frames_cannot_change_places() {
    let keys = keys();
    let chunks = [vec![1; 100], vec![2; 100]];
    let (bytes, listing) = pack(&chunks);
    let key = keys.pack_key(&listing.salt);
    let [a, b] = listing.entries[..] else { panic!("two frames") };
    let at = |e: super::pack::PackEntry| FrameRef { id: e.id, class: Class::Data, offset: e.offset, raw: e.raw };
    let frame = |e: super::pack::PackEntry| &bytes[e.offset as usize..(e.offset + e.stored) as usize];
    assert_eq!(frame::open(frame(a), &at(a), &key, &keys, &mut opener()).unwrap(), chunks[0]);
    assert!(frame::open(frame(b), &at(a), &key, &keys, &mut opener()).is_err());
    let moved = FrameRef { offset: b.offset, ..at(a) };
    assert!(frame::open(frame(a), &moved, &key, &keys, &mut opener()).is_err());
    let meta = FrameRef { class: Class::Meta, ..at(a) };
    assert!(frame::open(frame(a), &meta, &key, &keys, &mut opener()).is_err());
}

proptest! {
    #[test]
    fn decoders_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), head in 0usize..8) {
        let keys = keys();
        // Half of the cases get past the first check.
        let magics: [&[u8]; 8] =
            [b"", b"PTPE\x01\x01", b"PTIX\x01", b"PTMR\x01", b"PTML\x01", b"PTRC\x01\x01", b"portolan-repository 1\n", b"\x01"];
        let bytes = [magics[head], &bytes].concat();
        let _ = read_footer(&bytes, bytes.len() as u64);
        if let Some(at) = bytes.len().checked_sub(FOOTER_BYTES) {
            let _ = read_footer(&bytes[at..], bytes.len() as u64);
        }
        let _ = segment::decode(&bytes);
        let _ = Root::decode(&bytes, 4096);
        let _ = decode_leaf(&bytes);
        let _ = record::open(&keys, "points/x", &bytes);
        let _ = Config::decode(&bytes);
        let at = FrameRef { id: ChunkId::ZERO, class: Class::Data, offset: 0, raw: 100 };
        let _ = frame::open(&bytes, &at, &keys.pack_key(&[0; 16]), &keys, &mut opener());
    }

    #[test]
    fn damaged_objects_never_panic_and_never_pass(flip in any::<prop::sample::Index>(), bit in 0u8..8) {
        let keys = keys();
        let (bytes, listing) = pack(&[vec![1; 50], vec![2; 70]]);
        let mut footer = bytes[bytes.len() - FOOTER_BYTES..].to_vec();
        footer[flip.index(FOOTER_BYTES)] ^= 1 << bit;
        prop_assert!(read_footer(&footer, bytes.len() as u64).is_err());
        let plain = segment::encode(&[listing]);
        let mut damaged = plain.clone();
        damaged[flip.index(plain.len())] ^= 1 << bit;
        let _ = segment::decode(&damaged);
        prop_assert!(segment::decode(&plain[..flip.index(plain.len())]).is_err());
        let mut text = config().encode();
        let at = flip.index(text.len());
        text[at] ^= 1 << bit;
        prop_assert!(Config::decode(&text).is_err());
        let mut sealed = record::seal(&keys, "points/x", [1; 16], b"some content").unwrap();
        let at = flip.index(sealed.len());
        sealed[at] ^= 1 << bit;
        prop_assert!(record::open(&keys, "points/x", &sealed).is_err());
    }

    #[test]
    fn packs_come_back(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20)) {
        let keys = keys();
        let (bytes, listing) = pack(&chunks);
        prop_assert_eq!(bytes.len(), listing.bytes as usize);
        let footer = read_footer(&bytes[bytes.len() - FOOTER_BYTES..], bytes.len() as u64).unwrap();
        let (at, len) = (footer.trailer_at as usize, footer.trailer_len as usize);
        let entries = read_trailer(&footer, &bytes[at..at + len], &keys).unwrap();
        prop_assert_eq!(&entries, &listing.entries);
        let key = keys.pack_key(&footer.salt);
        for (entry, chunk) in entries.iter().zip(&chunks) {
            let frame = &bytes[entry.offset as usize..(entry.offset + entry.stored) as usize];
            let at = FrameRef { id: entry.id, class: Class::Data, offset: entry.offset, raw: entry.raw };
            prop_assert_eq!(&frame::open(frame, &at, &key, &keys, &mut opener()).unwrap(), chunk);
        }
        prop_assert_eq!(segment::decode(&segment::encode(std::slice::from_ref(&listing))).unwrap(), vec![listing]);
    }

    #[test]
    fn maps_come_back(size in 0u64..(1 << 40), mapped in 1u32..1000, seed in any::<u8>()) {
        let chunk_bytes = 4 << 20;
        let leaf = LeafRef { id: ChunkId([seed | 1; 32]), mapped };
        let leaves = vec![leaf; super::map::leaf_count(size, chunk_bytes) as usize];
        let root = Root { size, chunk_bytes, leaves };
        prop_assert_eq!(Root::decode(&root.encode(), chunk_bytes).unwrap(), root.clone());
        prop_assert!(Root::decode(&root.encode(), 4096).is_err());
        let ids = vec![ChunkId([seed; 32]); LEAF_CHUNKS];
        prop_assert_eq!(decode_leaf(&encode_leaf(&ids)).unwrap(), ids);
    }
}
