//! Where chunks are: sorted runs in memory, about 32 bytes a chunk.

use crate::format::pack::{PackEntry, PackListing};
use crate::format::{ChunkId, Class};
use std::collections::{HashMap, HashSet};

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
    /// Other places of chunks that are stored more than once: by writers that did not know of each other, or anew
    /// since a pack was found damaged. Few.
    others: HashMap<Short, Vec<Place>>,
    /// Packs that are marked as damaged, listed or not.
    damaged: HashSet<[u8; 32]>,
    unique_data_bytes: u64,
}

fn short(id: &ChunkId) -> Short {
    let mut out = [0; 16];
    out.copy_from_slice(&id.0[..16]);
    out
}

impl Index {
    /// Where a chunk is: in a pack that is not marked as damaged, if there is such a place.
    pub(crate) fn find(&self, id: &ChunkId) -> Option<Place> {
        let (run, at) = self.position(&short(id))?;
        self.runs.get(run)?.get(at).map(|e| e.place)
    }

    fn position(&self, id: &Short) -> Option<(usize, usize)> {
        (0..).zip(&self.runs).find_map(|(n, run)| Some((n, run.binary_search_by(|e| e.id.cmp(id)).ok()?)))
    }

    /// Whether a pack is not marked as damaged.
    pub(crate) fn is_sound(&self, number: u32) -> bool {
        self.damaged.is_empty()
            || self.packs.get(number as usize).is_some_and(|info| !self.damaged.contains(&info.hash))
    }

    /// Whether any pack is marked as damaged.
    pub(crate) fn has_damaged(&self) -> bool {
        !self.damaged.is_empty()
    }

    /// Whether that pack is.
    pub(crate) fn is_damaged(&self, hash: &[u8; 32]) -> bool {
        self.damaged.contains(hash)
    }

    /// Says which packs are marked as damaged; those that were and are not named are so no more. Chunks that are
    /// elsewhere too are found there from now on.
    pub(crate) fn set_damaged(&mut self, damaged: HashSet<[u8; 32]>) {
        if self.damaged == damaged {
            return;
        }
        self.damaged = damaged;
        let ids: Vec<Short> = self.others.keys().copied().collect();
        for id in ids {
            for place in self.others.remove(&id).unwrap_or_default() {
                self.add_place(id, place);
            }
        }
    }

    /// Takes another place of a chunk that is known.
    fn add_place(&mut self, id: Short, place: Place) {
        let better = self.is_sound(place.pack);
        let Some((run, at)) = self.position(&id) else { return };
        let known = self.runs.get(run).and_then(|run| run.get(at)).map(|e| e.place);
        let swap = better && known.is_some_and(|known| !self.is_sound(known.pack));
        let mut other = place;
        if let Some(entry) = self.runs.get_mut(run).and_then(|run| run.get_mut(at)).filter(|_| swap) {
            std::mem::swap(&mut entry.place, &mut other);
        }
        self.others.entry(id).or_default().push(other);
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

    /// Adds packs; those that are known are left as they are.
    pub(crate) fn add(&mut self, packs: &[PackListing]) {
        let mut run: Vec<Entry> = Vec::with_capacity(packs.iter().map(|p| p.entries.len()).sum());
        let mut again: Vec<Entry> = Vec::new();
        for pack in packs {
            if self.numbers.contains_key(&pack.hash) {
                continue;
            }
            let Ok(number) = u32::try_from(self.packs.len()) else { continue };
            self.numbers.insert(pack.hash, number);
            self.packs.push(PackInfo { hash: pack.hash, class: pack.class, bytes: pack.bytes, salt: pack.salt });
            for PackEntry { id, offset, stored, raw } in &pack.entries {
                let place = Place { pack: number, offset: *offset, stored: *stored, raw: *raw };
                let entry = Entry { id: short(id), place };
                if self.position(&entry.id).is_none() { &mut run } else { &mut again }.push(entry);
            }
        }
        run.sort_by_key(|e| e.id);
        run.dedup_by(|later, first| {
            let same = later.id == first.id;
            again.extend(same.then_some(*later));
            same
        });
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
        for Entry { id, place } in again {
            self.add_place(id, place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(n: u8, chunks: &[u8]) -> PackListing {
        let entry = |c: &u8| PackEntry { id: ChunkId([*c; 32]), offset: u32::from(n), stored: 1, raw: 10 };
        let entries = chunks.iter().map(entry).collect();
        PackListing { hash: [n; 32], class: Class::Data, bytes: 100, salt: [n; 16], entries }
    }

    fn home(index: &Index, chunk: u8) -> Option<u8> {
        index.find(&ChunkId([chunk; 32])).map(|place| u8::try_from(place.offset).unwrap_or(0))
    }

    #[test]
    fn a_chunk_is_found_where_nothing_is_damaged() {
        let marks = |packs: &[u8]| packs.iter().map(|n| [*n; 32]).collect::<HashSet<_>>();
        // Whatever is known first: packs one after the other or in one go, marks before or after.
        for at_once in [false, true] {
            for early in [false, true] {
                let mut index = Index::default();
                if early {
                    index.set_damaged(marks(&[1]));
                }
                let packs = [pack(1, &[7, 8]), pack(2, &[9]), pack(3, &[7])];
                if at_once {
                    index.add(&packs);
                } else {
                    packs.iter().for_each(|pack| index.add(std::slice::from_ref(pack)));
                }
                index.set_damaged(marks(&[1]));
                assert_eq!([7, 8, 9].map(|c| home(&index, c)), [Some(3), Some(1), Some(2)]);
                assert_eq!([0, 1, 2].map(|n| index.is_sound(n)), [false, true, true]);
                index.set_damaged(marks(&[3]));
                assert_eq!([7, 8].map(|c| home(&index, c)), [Some(1), Some(1)]);
                index.set_damaged(marks(&[1, 3]));
                assert!(home(&index, 7).is_some());
                index.set_damaged(marks(&[]));
                assert!(index.is_sound(0) && !index.has_damaged());
                assert_eq!(index.unique_data_bytes(), 30);
                assert_eq!(index.others.values().map(Vec::len).sum::<usize>(), 1);
            }
        }
    }
}
