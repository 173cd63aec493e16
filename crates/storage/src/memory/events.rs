//! The events.

use crate::check;
use crate::event::{Event, EventQuery, EventSeq, actor_text};
use crate::unit::NewEvent;
use portolan_model::{Scope, Timestamp};
use std::collections::BTreeMap;

/// The events by their positions, and the last position that was ever used.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    events: BTreeMap<EventSeq, Event>,
    last: EventSeq,
}

impl EventLog {
    pub(super) fn add(&mut self, at: Timestamp, events: Vec<NewEvent>) {
        for NewEvent { name, tenant, subject, actor, data } in events {
            self.last += 1;
            let actor = actor_text(&actor);
            self.events.insert(self.last, Event { seq: self.last, at, name, tenant, subject, actor, data });
        }
    }

    pub(super) fn after(&self, scope: Scope, after: EventSeq, limit: u32) -> Vec<Event> {
        let later = self.events.range(after.saturating_add(1)..).map(|(_, event)| event);
        later.filter(|event| check::hears(scope, event.tenant)).take(count(limit)).cloned().collect()
    }

    pub(super) fn find(&self, scope: Scope, query: &EventQuery) -> Vec<Event> {
        let newest = self.events.values().rev();
        let found = newest.filter(|event| check::hears(scope, event.tenant) && query.finds(event));
        found.take(count(query.limit)).cloned().collect()
    }

    pub(super) fn prune(&mut self, before: Timestamp, limit: u32) -> u64 {
        let old = self.events.values().filter(|event| event.at < before).map(|event| (event.at, event.seq));
        let mut old: Vec<_> = old.collect();
        old.sort_unstable();
        old.truncate(count(limit));
        for (_, seq) in &old {
            self.events.remove(seq);
        }
        old.len() as u64
    }
}

fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}
