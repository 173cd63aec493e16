//! Where chunks are: sorted runs in memory, about 32 bytes a chunk.

use crate::format::pack::{PackEntry, PackListing};
use crate::format::{ChunkId, Class};
use std::collections::HashMap;

/// A pack that the index knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackInfo {
    pub(crate) hash: [u8; 32],
    pub(crate) class: Class,
    pub(crate) bytes: u32,
    pub(crate) salt: [u8; 16],
}

impl PackInfo {
    pub(crate) fn key(&self) -> String {
        self.class.pack_key(&self.hash)
    }
}

/// Where one chunk is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) stored: u32,
    pub(crate) raw: u32,
}

/// Half an id finds a chunk; the whole id is checked when the chunk is opened.
type Short = [u8; 16];

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: Short,
    place: Place,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    packs: Vec<PackInfo>,
    numbers: HashMap<[u8; 32], u32>,
    /// Each sorted, none with an id of another; every run at least twice as long as the next.
    runs: Vec<Vec<Entry>>,
    unique_data_bytes: u64,
}

fn short(id: &ChunkId) -> Short {
    let mut out = [0; 16];
    out.copy_from_slice(&id.0[..16]);
    out
}

impl Index {
    pub(crate) fn find(&self, id: &ChunkId) -> Option<Place> {
        let id = short(id);
        self.runs
            .iter()
            .find_map(|run| run.binary_search_by(|e| e.id.cmp(&id)).ok().and_then(|at| run.get(at)).map(|e| e.place))
    }

    pub(crate) fn pack(&self, number: u32) -> Option<PackInfo> {
        self.packs.get(number as usize).copied()
    }

    pub(crate) fn has_pack(&self, hash: &[u8; 32]) -> bool {
        self.numbers.contains_key(hash)
    }

    pub(crate) fn pack_numbers(&self) -> impl Iterator<Item = (u32, &PackInfo)> {
        (0u32..).zip(&self.packs)
    }

    pub(crate) fn unique_data_bytes(&self) -> u64 {
        self.unique_data_bytes
    }

    /// Adds packs; those that are known, and chunks that are, are left as they are.
    pub(crate) fn add(&mut self, packs: &[PackListing]) {
        let mut run: Vec<Entry> = Vec::with_capacity(packs.iter().map(|p| p.entries.len()).sum());
        for pack in packs {
            if self.numbers.contains_key(&pack.hash) {
                continue;
            }
            let Ok(number) = u32::try_from(self.packs.len()) else { continue };
            self.numbers.insert(pack.hash, number);
            self.packs.push(PackInfo { hash: pack.hash, class: pack.class, bytes: pack.bytes, salt: pack.salt });
            for PackEntry { id, offset, stored, raw } in &pack.entries {
                if self.find(id).is_none() {
                    let place = Place { pack: number, offset: *offset, stored: *stored, raw: *raw };
                    run.push(Entry { id: short(id), place });
                }
            }
        }
        run.sort_by_key(|e| e.id);
        run.dedup_by_key(|e| e.id);
        for entry in &run {
            if self.packs.get(entry.place.pack as usize).is_some_and(|p| p.class == Class::Data) {
                self.unique_data_bytes += u64::from(entry.place.raw);
            }
        }
        if !run.is_empty() {
            run.shrink_to_fit();
            self.runs.push(run);
        }
        while let [.., longer, last] = &self.runs[..]
            && longer.len() < 2 * last.len()
        {
            let last = self.runs.pop().unwrap_or_default();
            if let Some(longer) = self.runs.last_mut() {
                longer.extend(last);
                longer.sort_by_key(|e| e.id);
            }
        }
    }
}
