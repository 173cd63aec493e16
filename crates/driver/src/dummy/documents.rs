//! The dummy's documents: one a node, one a key pair, and one small one that counts them.
//!
//! Their keys carry a number that only rises, so that the order of keys is that of making. Every document that is
//! added is written together with the count, at the version that was read: of two processes that add at once, one
//! reads again.

use crate::cloud::{CloudError, CloudErrorKind, CloudKeyPair, CloudNode};
use crate::{StateChange, StateEntry};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const SEQUENCE: &str = "nodes";
const NODE: &str = "node-";
const KEY_PAIR: &str = "key-";

/// A document, understood.
pub(super) struct Held<T> {
    entry: Arc<StateEntry>,
    pub(super) value: Arc<T>,
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self { entry: self.entry.clone(), value: self.value.clone() }
    }
}

/// All documents of one moment.
#[derive(Default)]
pub(super) struct Documents {
    entries: Arc<Vec<Arc<StateEntry>>>,
    /// Version and value of the count; nothing in a cloud that nobody has used yet.
    sequence: Option<(i64, Sequence)>,
    pub(super) nodes: Vec<Held<CloudNode>>,
    pub(super) key_pairs: Vec<Held<CloudKeyPair>>,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Sequence {
    last: u64,
}

impl Documents {
    /// Understands `entries`; what did not change since `known` is taken from there. A document that cannot be
    /// understood fails all of it: a list that lacks a node would make it seem gone.
    pub(super) fn read(entries: Arc<Vec<Arc<StateEntry>>>, known: &Self) -> Result<Self, CloudError> {
        let mut out = Self { nodes: Vec::with_capacity(entries.len()), ..Self::default() };
        let (mut nodes, mut key_pairs) = (&known.nodes[..], &known.key_pairs[..]);
        for entry in entries.iter() {
            if entry.key == SEQUENCE {
                out.sequence = Some((entry.version, decode(entry)?));
            } else if entry.key.starts_with(NODE) {
                out.nodes.push(held(entry, &mut nodes)?);
            } else if entry.key.starts_with(KEY_PAIR) {
                out.key_pairs.push(held(entry, &mut key_pairs)?);
            }
        }
        out.entries = entries;
        Ok(out)
    }

    /// Whether these are the documents of `entries`.
    pub(super) fn are(&self, entries: &Arc<Vec<Arc<StateEntry>>>) -> bool {
        Arc::ptr_eq(&self.entries, entries)
    }

    /// Whether the cloud has had its first use.
    pub(super) fn begun(&self) -> bool {
        self.sequence.is_some()
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
        let (expected, mut sequence) = self.sequence.unwrap_or_default();
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

impl<T: Serialize> Held<T> {
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

/// The document of `entry`, out of `known` where it is there in that version. Both come in the order of keys, so
/// that what was passed is not looked at again.
fn held<T: DeserializeOwned>(entry: &Arc<StateEntry>, known: &mut &[Held<T>]) -> Result<Held<T>, CloudError> {
    while let Some((first, rest)) = known.split_first() {
        if Arc::ptr_eq(&first.entry, entry) || (first.entry.key == entry.key && first.entry.version == entry.version) {
            *known = rest;
            return Ok(first.clone());
        }
        if first.entry.key > entry.key {
            break;
        }
        *known = rest;
    }
    Ok(Held { entry: entry.clone(), value: Arc::new(decode(entry)?) })
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

    fn entry(n: u64, version: i64) -> Arc<StateEntry> {
        let node = data::node(n, data::address(n), String::new());
        Arc::new(StateEntry { key: format!("{NODE}{n:020}"), version, value: encode(&node).unwrap() })
    }

    #[test]
    fn only_what_changed_is_decoded() {
        let first = Arc::new((1..=5).map(|n| entry(n, 1)).collect::<Vec<_>>());
        let known = Documents::read(first, &Documents::default()).unwrap();
        // One is gone, one changed, one is new; equal versions come as other values, as from another read.
        let second = Arc::new(vec![entry(1, 1), entry(3, 1), entry(4, 2), entry(5, 1), entry(6, 1)]);
        let now = Documents::read(second, &known).unwrap();
        let kept: Vec<bool> =
            now.nodes.iter().map(|held| known.nodes.iter().any(|old| Arc::ptr_eq(&old.value, &held.value))).collect();
        assert_eq!(kept, [true, true, false, true, false]);
        let ids: Vec<_> = now.nodes.iter().map(|held| held.value.id.as_str()).collect();
        assert_eq!(ids, ["1", "3", "4", "5", "6"]);
    }

    #[test]
    fn a_damaged_document_fails_the_list() {
        let damaged = StateEntry { key: format!("{NODE}1"), version: 1, value: serde_json::json!({ "id": 7 }) };
        let read = Documents::read(Arc::new(vec![Arc::new(damaged)]), &Documents::default());
        assert_eq!(read.err().map(|e| e.kind), Some(CloudErrorKind::Malformed));
    }
}
