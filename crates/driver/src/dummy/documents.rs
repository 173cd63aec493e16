//! The dummy's documents: one a node, one a key pair, and one small one that counts them.
//!
//! Their keys carry a number that only rises, so that the order of keys is that of making. Every document that is
//! added is written together with the count, at the version that was read: of two processes that add at once, one
//! reads again.

use crate::cloud::{CloudError, CloudErrorKind, CloudKeyPair, CloudNode};
use crate::{StateChange, StateEntry};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

const SEQUENCE: &str = "nodes";
const NODE: &str = "node-";
const KEY_PAIR: &str = "key-";

/// All documents of one moment.
#[derive(Clone, Default)]
pub(super) struct Documents {
    entries: Arc<Vec<Arc<StateEntry>>>,
    /// The count; nothing in a cloud that nobody has used yet.
    sequence: Kept<Sequence>,
    pub(super) nodes: Kept<CloudNode>,
    pub(super) key_pairs: Kept<CloudKeyPair>,
}

/// The documents of one sort, understood, in the order of their keys.
pub(super) struct Kept<T> {
    pub(super) values: Vec<Arc<T>>,
    /// Which entry says each of them.
    places: Vec<usize>,
}

/// A document, understood.
pub(super) struct Held<'a, T> {
    entry: &'a StateEntry,
    pub(super) value: &'a Arc<T>,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Sequence {
    last: u64,
}

impl Documents {
    /// Understands newer `entries`. What did not change is not looked at: a change costs what it changes, and a
    /// comparison of addresses. A document that cannot be understood fails all of it and leaves everything as it
    /// was: a list that lacks a node would make it seem gone.
    pub(super) fn renew(&mut self, entries: Arc<Vec<Arc<StateEntry>>>) -> Result<(), CloudError> {
        let (old, new) = (&self.entries, &entries);
        let same = |(old, new): &(&Arc<StateEntry>, &Arc<StateEntry>)| Arc::ptr_eq(old, new);
        let head = old.iter().zip(new.iter()).take_while(same).count();
        let left = old.len().min(new.len()) - head;
        let tail = old.iter().rev().zip(new.iter().rev()).take(left).take_while(same).count();
        let (gone, come) = (head..old.len() - tail, head..new.len() - tail);

        let (mut sequence, mut nodes, mut key_pairs) = (Kept::default(), Kept::default(), Kept::default());
        for (place, entry) in new.iter().enumerate().take(come.end).skip(head) {
            if entry.key == SEQUENCE {
                sequence.push(place, self.sequence.understood(old, entry)?);
            } else if entry.key.starts_with(NODE) {
                nodes.push(place, self.nodes.understood(old, entry)?);
            } else if entry.key.starts_with(KEY_PAIR) {
                key_pairs.push(place, self.key_pairs.understood(old, entry)?);
            }
        }
        self.sequence.replace(&gone, &come, sequence);
        self.nodes.replace(&gone, &come, nodes);
        self.key_pairs.replace(&gone, &come, key_pairs);
        self.entries = entries;
        Ok(())
    }

    /// Whether these are the documents of `entries`.
    pub(super) fn are(&self, entries: &Arc<Vec<Arc<StateEntry>>>) -> bool {
        Arc::ptr_eq(&self.entries, entries)
    }

    /// Whether the cloud has had its first use.
    pub(super) fn begun(&self) -> bool {
        !self.sequence.values.is_empty()
    }

    /// The first node, in order, of which that is so.
    pub(super) fn node(&self, is: impl Fn(&CloudNode) -> bool) -> Option<Held<'_, CloudNode>> {
        self.nodes.find(&self.entries, is)
    }

    /// The first key pair, in order, of which that is so.
    pub(super) fn key_pair(&self, is: impl Fn(&CloudKeyPair) -> bool) -> Option<Held<'_, CloudKeyPair>> {
        self.key_pairs.find(&self.entries, is)
    }

    /// Adds nodes, in order.
    pub(super) fn add_nodes(&self, nodes: &[CloudNode]) -> Result<Vec<StateChange>, CloudError> {
        self.add(NODE, nodes)
    }

    /// Adds a key pair.
    pub(super) fn add_key_pair(&self, pair: &CloudKeyPair) -> Result<Vec<StateChange>, CloudError> {
        self.add(KEY_PAIR, std::slice::from_ref(pair))
    }

    fn add<T: Serialize>(&self, kind: &str, values: &[T]) -> Result<Vec<StateChange>, CloudError> {
        let count = self.sequence.find(&self.entries, |_| true);
        let (expected, mut sequence) = count.map_or_else(Default::default, |c| (c.entry.version, **c.value));
        let mut changes = Vec::with_capacity(values.len() + 1);
        for value in values {
            sequence.last += 1;
            let key = format!("{kind}{:020}", sequence.last);
            changes.push(StateChange::Put { key, expected: 0, value: encode(value)? });
        }
        changes.push(StateChange::Put { key: SEQUENCE.to_owned(), expected, value: encode(&sequence)? });
        Ok(changes)
    }
}

impl<T: Serialize> Held<'_, T> {
    /// Replaces it.
    pub(super) fn replace(&self, value: &T) -> Result<Vec<StateChange>, CloudError> {
        let (key, expected) = (self.entry.key.clone(), self.entry.version);
        Ok(vec![StateChange::Put { key, expected, value: encode(value)? }])
    }

    /// Removes it.
    pub(super) fn delete(&self) -> Vec<StateChange> {
        vec![StateChange::Delete { key: self.entry.key.clone(), expected: self.entry.version }]
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { values: Vec::new(), places: Vec::new() }
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), places: self.places.clone() }
    }
}

impl<T> Kept<T> {
    fn push(&mut self, place: usize, value: Arc<T>) {
        self.places.push(place);
        self.values.push(value);
    }

    fn find<'a>(&'a self, entries: &'a [Arc<StateEntry>], is: impl Fn(&T) -> bool) -> Option<Held<'a, T>> {
        let at = self.values.iter().position(|value| is(value))?;
        Some(Held { entry: entries.get(*self.places.get(at)?)?, value: self.values.get(at)? })
    }

    /// Puts what was understood of the entries `come` in the place of what the entries `gone` said.
    fn replace(&mut self, gone: &Range<usize>, come: &Range<usize>, new: Self) {
        let at = |place: usize| self.places.partition_point(|p| *p < place);
        let range = at(gone.start)..at(gone.end);
        let after = range.start + new.places.len();
        self.values.splice(range.clone(), new.values);
        self.places.splice(range, new.places);
        for place in self.places.iter_mut().skip(after) {
            *place = *place - gone.end + come.end;
        }
    }
}

impl<T: DeserializeOwned> Kept<T> {
    /// What an entry says; where it was understood in that version, without looking at it again.
    fn understood(&self, old: &[Arc<StateEntry>], entry: &StateEntry) -> Result<Arc<T>, CloudError> {
        let key = |place: &usize| old.get(*place).map_or("", |e| e.key.as_str());
        let known = self.places.binary_search_by(|place| key(place).cmp(&entry.key)).ok();
        let known = known.filter(|n| {
            let was = self.places.get(*n).and_then(|place| old.get(*place));
            was.is_some_and(|was| was.version == entry.version)
        });
        match known.and_then(|n| self.values.get(n)) {
            Some(value) => Ok(Arc::clone(value)),
            None => Ok(Arc::new(decode(entry)?)),
        }
    }
}

fn decode<T: DeserializeOwned>(entry: &StateEntry) -> Result<T, CloudError> {
    T::deserialize(&entry.value).map_err(|e| {
        CloudError::new(CloudErrorKind::Malformed, format!("the document '{}' is damaged: {e}", entry.key))
    })
}

fn encode<T: Serialize>(value: &T) -> Result<serde_json::Value, CloudError> {
    serde_json::to_value(value)
        .map_err(|e| CloudError::new(CloudErrorKind::Malformed, format!("a document cannot be written: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dummy::data;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn entry(n: u64, version: i64) -> Arc<StateEntry> {
        let node = data::node(n, data::address(n), String::new());
        Arc::new(StateEntry { key: format!("{NODE}{n:020}"), version, value: encode(&node).unwrap() })
    }

    fn ids(documents: &Documents) -> Vec<&str> {
        documents.nodes.values.iter().map(|node| node.id.as_str()).collect()
    }

    #[test]
    fn only_what_changed_is_decoded() {
        let mut now = Documents::default();
        now.renew(Arc::new((1..=5).map(|n| entry(n, 1)).collect())).unwrap();
        let known = now.clone();
        // One is gone, one changed, one is new; equal versions come as other values, as from another read.
        let second = Arc::new(vec![entry(1, 1), entry(3, 1), entry(4, 2), entry(5, 1), entry(6, 1)]);
        now.renew(second).unwrap();
        let was = |node: &Arc<CloudNode>| known.nodes.values.iter().any(|old| Arc::ptr_eq(old, node));
        assert_eq!(now.nodes.values.iter().map(was).collect::<Vec<_>>(), [true, true, false, true, false]);
        assert_eq!(ids(&now), ["1", "3", "4", "5", "6"]);
        assert_eq!(ids(&known), ["1", "2", "3", "4", "5"]);
    }

    #[test]
    fn a_damaged_document_fails_the_list_and_changes_nothing() {
        let mut documents = Documents::default();
        let good = Arc::new(vec![entry(1, 1), entry(2, 1)]);
        documents.renew(Arc::clone(&good)).unwrap();
        let damaged = StateEntry { key: format!("{NODE}3"), version: 1, value: serde_json::json!({ "id": 7 }) };
        let read = documents.renew(Arc::new(vec![entry(3, 1), Arc::new(damaged)]));
        assert_eq!(read.err().map(|e| e.kind), Some(CloudErrorKind::Malformed));
        assert!(documents.are(&good));
        assert_eq!(ids(&documents), ["1", "2"]);
    }

    /// A document of any sort: its key, and what it says in a version.
    fn any_entry(sort: u8, n: u64, version: i64) -> StateEntry {
        let (key, value) = match sort {
            0 => (SEQUENCE.to_owned(), encode(&Sequence { last: version.unsigned_abs() })),
            1 => {
                let key = CloudKeyPair {
                    name: format!("{n}.{version}"),
                    public_key: String::new(),
                    fingerprint: String::new(),
                    extra: Default::default(),
                };
                (format!("{KEY_PAIR}{n:020}"), encode(&key))
            }
            2 => (format!("of-others-{n}"), Ok(serde_json::json!(version))),
            _ => {
                let node = data::node(n, data::address(n), format!("{n}.{version}"));
                (format!("{NODE}{n:020}"), encode(&node))
            }
        };
        StateEntry { key, version, value: value.unwrap() }
    }

    proptest! {
        /// Whatever was understood before, the documents are those of the entries at hand.
        #[test]
        fn documents_are_renewed_as_if_they_were_the_first(
            rounds in prop::collection::vec(
                prop::collection::vec((0..8_u8, 0..6_u64, any::<bool>(), any::<bool>()), 0..6), 1..10),
        ) {
            let mut state = BTreeMap::<String, Arc<StateEntry>>::new();
            let (mut renewed, mut version) = (Documents::default(), 0);
            for changes in rounds {
                for (sort, n, remove, anew) in changes {
                    version += 1;
                    let entry = any_entry(sort, n, version);
                    match state.get_mut(&entry.key) {
                        Some(_) if remove => drop(state.remove(&entry.key)),
                        // The same document, from another read.
                        Some(there) if anew => *there = Arc::new((**there).clone()),
                        _ => drop(state.insert(entry.key.clone(), Arc::new(entry))),
                    }
                }
                let entries = Arc::new(state.values().cloned().collect::<Vec<_>>());
                let mut first = Documents::default();
                first.renew(Arc::clone(&entries)).unwrap();
                renewed.renew(entries).unwrap();
                prop_assert_eq!(&renewed.nodes.values, &first.nodes.values);
                prop_assert_eq!(&renewed.nodes.places, &first.nodes.places);
                prop_assert_eq!(&renewed.key_pairs.values, &first.key_pairs.values);
                prop_assert_eq!(&renewed.key_pairs.places, &first.key_pairs.places);
                prop_assert_eq!(&renewed.sequence.places, &first.sequence.places);
                prop_assert_eq!(renewed.add_nodes(&[]).unwrap(), first.add_nodes(&[]).unwrap());
                for (n, node) in renewed.nodes.values.iter().enumerate() {
                    let held = renewed.node(|found| found.incarnation == node.incarnation).unwrap();
                    prop_assert_eq!(&held.entry.key, &state.keys().filter(|k| k.starts_with(NODE)).nth(n).unwrap().clone());
                    prop_assert_eq!(&encode(&**node).unwrap(), &held.entry.value);
                }
            }
        }
    }
}
