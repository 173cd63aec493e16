//! Events: the outbox that others listen to, and the log of who did what.

use crate::index;
use portolan_model::{TenantId, Timestamp};
use uuid::Uuid;

/// The position of an event in the outbox. Rises in commit order, without gaps but for what was pruned; a position is
/// never used again.
pub type EventSeq = i64;

/// An event of the outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its position.
    pub seq: EventSeq,
    /// When it was written.
    pub at: Timestamp,
    /// What happened.
    pub name: String,
    /// The tenant that may hear of it.
    pub tenant: Option<TenantId>,
    /// The object that it is about.
    pub subject: Option<Uuid>,
    /// Who did it, by login; empty for Portolan itself.
    pub actor: String,
    /// Details.
    pub data: serde_json::Value,
}

/// Which events: those that fit everything that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Their names: `account.created` is that one, `account.` all that begin so. Empty for every name.
    pub names: Vec<String>,
    /// Who did it, by login; an empty text is Portolan itself.
    pub actor: Option<String>,
    /// The object that they are about.
    pub subject: Option<Uuid>,
    /// Not written before.
    pub from: Option<Timestamp>,
    /// Written before.
    pub until: Option<Timestamp>,
    /// Of positions below this one: the last of a page leads to the next.
    pub before: Option<EventSeq>,
    /// How many at the most.
    pub limit: u32,
}

impl EventQuery {
    /// The newest events.
    pub fn newest(limit: u32) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Whether the event is one of those.
    pub fn finds(&self, event: &Event) -> bool {
        let named = |asked: &String| match is_prefix(asked) {
            true => event.name.starts_with(asked.as_str()),
            false => event.name == *asked,
        };
        (self.names.is_empty() || self.names.iter().any(named))
            && self.actor.as_deref().is_none_or(|actor| actor_text(actor) == event.actor)
            && self.subject.is_none_or(|subject| event.subject == Some(subject))
            && self.from.is_none_or(|from| event.at >= from)
            && self.until.is_none_or(|until| event.at < until)
            && self.before.is_none_or(|before| event.seq < before)
    }
}

/// Whether one of [`EventQuery::names`] stands for all names that begin with it.
pub fn is_prefix(name: &str) -> bool {
    name.ends_with('.')
}

/// An actor as stored: logins are no longer than an indexed text; whatever else stands there must fit its column.
pub fn actor_text(actor: &str) -> String {
    index::text(actor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, seq: EventSeq) -> Event {
        Event {
            seq,
            at: Timestamp::from_millis(seq),
            name: name.into(),
            tenant: None,
            subject: Some(Uuid::nil()),
            actor: "ann".into(),
            data: serde_json::Value::Null,
        }
    }

    #[test]
    fn a_name_with_a_dot_at_its_end_is_a_prefix() {
        let finds = |names: &[&str], name: &str| {
            let names = names.iter().map(|n| (*n).to_owned()).collect();
            EventQuery { names, ..EventQuery::default() }.finds(&event(name, 1))
        };
        assert!(finds(&[], "account.created"));
        assert!(finds(&["vm.", "account."], "account.created"));
        assert!(finds(&["account.created"], "account.created"));
        assert!(!finds(&["account"], "account.created"));
        assert!(!finds(&["account."], "accounts.created"));
        assert!(!finds(&["account.created"], "account.created.twice"));
    }

    #[test]
    fn bounds_are_half_open_and_all_must_fit() {
        let at = Timestamp::from_millis;
        let query = EventQuery { from: Some(at(2)), until: Some(at(5)), before: Some(4), ..EventQuery::newest(9) };
        assert_eq!((1..6).filter(|n| query.finds(&event("a", *n))).collect::<Vec<_>>(), [2, 3]);
        assert!(!EventQuery { actor: Some(String::new()), ..query.clone() }.finds(&event("a", 2)));
        assert!(!EventQuery { subject: Some(Uuid::max()), ..query }.finds(&event("a", 2)));
    }
}
