//! What has changed since somebody last looked: for caches in the process of a store.

use crate::kind::Kind;
use std::collections::{BTreeSet, HashMap};
use uuid::Uuid;

/// What has changed of one kind, see [`crate::Views::changes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// What to ask with the next time. Means something to the store that gave it only.
    pub revision: u64,
    /// The objects to read again.
    pub what: ChangedIds,
}

/// The objects that may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangedIds {
    /// Nobody knows: all of the kind.
    Unknown,
    /// These, written or removed, each once; no other has.
    Ids(Vec<Uuid>),
}

/// How many ids of one kind are remembered.
const REMEMBERED: usize = 4096;

/// Remembers which objects the latest units touched: what an adapter that sees every write keeps.
///
/// An adapter notes a unit **after** its effect can be read and **before** it is acknowledged. A reader asks first and
/// reads then, and keeps the revision that it was told *before* it read. So whatever was noted up to that revision
/// could be read when the reader did, and whatever was noted later, though its effect may have been read already, has
/// a higher revision and is told the next time: it is read once too often, never once too little. And a unit that
/// was acknowledged has been noted, so that whoever asks afterwards is told of it.
#[derive(Debug, Default)]
pub struct ChangeLog {
    kinds: HashMap<Kind, KindLog>,
}

#[derive(Debug, Default)]
struct KindLog {
    revision: u64,
    /// Changes up to this revision may have been forgotten.
    floor: u64,
    /// The last revision of each id that is remembered, and the same in order.
    last: HashMap<Uuid, u64>,
    order: BTreeSet<(u64, Uuid)>,
}

impl ChangeLog {
    /// A unit has touched these objects. Each kind that is named gets a new revision.
    pub fn note(&mut self, touched: impl IntoIterator<Item = (Kind, Uuid)>) {
        let mut raised = BTreeSet::new();
        for (kind, id) in touched {
            let log = self.kinds.entry(kind).or_default();
            if raised.insert(kind) {
                log.revision += 1;
            }
            log.touch(id);
        }
    }

    /// See [`crate::Views::changes`].
    pub fn changes(&self, kind: Kind, since: Option<u64>) -> Changes {
        let Some(log) = self.kinds.get(&kind) else {
            let what = if since == Some(0) { ChangedIds::Ids(Vec::new()) } else { ChangedIds::Unknown };
            return Changes { revision: 0, what };
        };
        let what = match since {
            Some(since) if (log.floor..=log.revision).contains(&since) => {
                let later = log.order.range((since.saturating_add(1), Uuid::nil())..);
                ChangedIds::Ids(later.map(|(_, id)| *id).collect())
            }
            _ => ChangedIds::Unknown,
        };
        Changes { revision: log.revision, what }
    }
}

impl KindLog {
    fn touch(&mut self, id: Uuid) {
        if let Some(before) = self.last.insert(id, self.revision) {
            self.order.remove(&(before, id));
        }
        self.order.insert((self.revision, id));
        while self.order.len() > REMEMBERED {
            if let Some((revision, id)) = self.order.pop_first() {
                self.last.remove(&id);
                self.floor = self.floor.max(revision);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> Uuid {
        Uuid::from_u128(n as u128)
    }

    fn ids(log: &ChangeLog, since: u64) -> Option<Vec<Uuid>> {
        match log.changes(Kind::Vm, Some(since)).what {
            ChangedIds::Unknown => None,
            ChangedIds::Ids(ids) => Some(ids),
        }
    }

    #[test]
    fn a_reader_is_told_what_was_noted_after_its_revision() {
        let mut log = ChangeLog::default();
        assert_eq!(log.changes(Kind::Vm, None), Changes { revision: 0, what: ChangedIds::Unknown });
        assert_eq!(ids(&log, 0), Some(vec![]));
        log.note([(Kind::Vm, id(1)), (Kind::Host, id(9)), (Kind::Vm, id(2))]);
        log.note([(Kind::Vm, id(1))]);
        assert_eq!(log.changes(Kind::Vm, None), Changes { revision: 2, what: ChangedIds::Unknown });
        assert_eq!(ids(&log, 0), Some(vec![id(2), id(1)]));
        assert_eq!(ids(&log, 1), Some(vec![id(1)]));
        assert_eq!(ids(&log, 2), Some(vec![]));
        assert_eq!(ids(&log, 3), None, "a revision of another store");
        assert_eq!(log.changes(Kind::Host, Some(0)).revision, 1);
    }

    #[test]
    fn who_asks_too_late_reads_everything() {
        let mut log = ChangeLog::default();
        for n in 0..REMEMBERED {
            log.note([(Kind::Vm, id(n))]);
        }
        assert_eq!(ids(&log, 0).map(|ids| ids.len()), Some(REMEMBERED));
        // The same object again takes no more room.
        log.note([(Kind::Vm, id(5))]);
        assert_eq!(ids(&log, 0).map(|ids| ids.len()), Some(REMEMBERED));
        log.note([(Kind::Vm, id(REMEMBERED))]);
        assert_eq!(ids(&log, 0), None);
        assert_eq!(ids(&log, 1).map(|ids| ids.len()), Some(REMEMBERED));
        log.note((0..2 * REMEMBERED).map(|n| (Kind::Vm, id(n))));
        let now = log.changes(Kind::Vm, None).revision;
        assert_eq!((ids(&log, now - 1), ids(&log, now)), (None, Some(vec![])));
    }
}
