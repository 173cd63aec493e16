//! The log of who did what: found, paged and pruned.

use super::given::*;
use portolan_model::{Scope, Timestamp};
use portolan_storage::{Event, EventQuery, EventSeq, Storage, UnitOfWork};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// The `n`-th second.
fn at(n: u64) -> Timestamp {
    NOW + Duration::from_secs(n)
}

async fn seqs(s: &Arc<dyn Storage>, query: EventQuery) -> Vec<EventSeq> {
    let found = s.find_events(Scope::All, &EventQuery { limit: query.limit.max(1), ..query }).await.unwrap();
    found.into_iter().map(|event| event.seq).collect()
}

fn all() -> EventQuery {
    EventQuery::newest(100)
}

/// Events 1 to 6, one a second, of several names, actors, subjects and tenants.
async fn six(s: &Arc<dyn Storage>) {
    for (n, (name, actor, tenant)) in [
        ("account.created", "ann", None),
        ("account.login", "bob", Some(1)),
        ("vm.start", "ann", Some(1)),
        ("vm.stop", "", Some(2)),
        ("accounts", "Ann", None),
        ("account.login", "ann", Some(2)),
    ]
    .into_iter()
    .enumerate()
    {
        let n = n as u64 + 1;
        let unit = UnitOfWork::new().event_by(actor, name, tenant.map(super::given::tenant), id(n % 2), json!(n));
        s.apply(at(n), Scope::All, unit).await.unwrap();
    }
}

/// Each condition finds what it says, all of them together what fits each.
pub async fn events_are_found_by_what_they_say(s: Arc<dyn Storage>) {
    six(&s).await;
    assert_eq!(seqs(&s, all()).await, [6, 5, 4, 3, 2, 1]);
    let named = |names: &[&str]| EventQuery { names: names.iter().map(|n| (*n).to_owned()).collect(), ..all() };
    assert_eq!(seqs(&s, named(&["account."])).await, [6, 2, 1], "a prefix ends with its dot");
    assert_eq!(seqs(&s, named(&["account.login"])).await, [6, 2]);
    assert_eq!(seqs(&s, named(&["vm.", "accounts", "nothing."])).await, [5, 4, 3]);
    assert!(seqs(&s, named(&["account", "vm", "ACCOUNT.", "v%."])).await.is_empty());
    let by = |actor: &str| EventQuery { actor: Some(actor.into()), ..all() };
    assert_eq!(seqs(&s, by("ann")).await, [6, 3, 1]);
    assert_eq!(seqs(&s, by("Ann")).await, [5], "logins are told apart exactly");
    assert_eq!(seqs(&s, by("")).await, [4], "Portolan itself");
    assert_eq!(seqs(&s, EventQuery { subject: Some(id(1)), ..all() }).await, [5, 3, 1]);
    assert_eq!(seqs(&s, EventQuery { from: Some(at(3)), ..all() }).await, [6, 5, 4, 3]);
    assert_eq!(seqs(&s, EventQuery { until: Some(at(3)), ..all() }).await, [2, 1]);
    let several = EventQuery { from: Some(at(2)), until: Some(at(6)), subject: Some(id(1)), ..by("ann") };
    assert_eq!(seqs(&s, EventQuery { names: vec!["vm.".into()], ..several }).await, [3]);
    let found = s.find_events(Scope::All, &EventQuery { names: vec!["vm.start".into()], ..all() }).await.unwrap();
    let expected = Event {
        seq: 3,
        at: at(3),
        name: "vm.start".into(),
        tenant: Some(tenant(1)),
        subject: Some(id(1)),
        actor: "ann".into(),
        data: json!(3),
    };
    assert_eq!(found, [expected]);
}

/// Pages go backwards and neither repeat nor leave out anything, whatever is added meanwhile; a tenant finds its own.
pub async fn events_are_paged_backwards(s: Arc<dyn Storage>) {
    six(&s).await;
    let mut query = EventQuery::newest(4);
    assert_eq!(seqs(&s, query.clone()).await, [6, 5, 4, 3]);
    six(&s).await;
    query.before = Some(3);
    assert_eq!(seqs(&s, query.clone()).await, [2, 1]);
    query.before = Some(1);
    assert!(seqs(&s, query).await.is_empty());
    assert!(s.find_events(Scope::All, &EventQuery::default()).await.unwrap().is_empty(), "none were asked for");
    for (n, expected) in [(1, [9, 8, 3, 2].as_slice()), (2, &[12, 10, 6, 4]), (3, &[])] {
        let found = s.find_events(of_tenant(n), &all()).await.unwrap();
        assert_eq!(found.iter().map(|e| e.seq).collect::<Vec<_>>(), expected);
    }
}

/// The oldest go first, as many as asked for; listeners go on where they were, and no position is used again.
pub async fn old_events_are_pruned(s: Arc<dyn Storage>) {
    six(&s).await;
    assert_eq!(s.prune_events(at(1), 10).await.unwrap(), 0, "not before its time");
    assert_eq!(s.prune_events(at(5), 3).await.unwrap(), 3);
    assert_eq!(seqs(&s, all()).await, [6, 5, 4]);
    assert_eq!(s.prune_events(at(5), 3).await.unwrap(), 1);
    assert_eq!(s.prune_events(at(5), 3).await.unwrap(), 0);
    let after = async |seq| {
        let events = s.events(Scope::All, seq, 10).await.unwrap();
        events.into_iter().map(|e| e.seq).collect::<Vec<_>>()
    };
    assert_eq!((after(0).await, after(4).await, after(5).await), (vec![5, 6], vec![5, 6], vec![6]));
    assert_eq!(s.prune_events(at(60), 10).await.unwrap(), 2);
    assert!(after(0).await.is_empty());
    s.apply(at(7), Scope::All, UnitOfWork::new().event("new", None, id(1), json!(null))).await.unwrap();
    assert_eq!((after(0).await, after(6).await, after(7).await), (vec![7], vec![7], vec![]));
    // What was written late with an early time is as old as it says.
    s.apply(at(3), Scope::All, UnitOfWork::new().event("early", None, id(1), json!(null))).await.unwrap();
    assert_eq!(s.prune_events(at(4), 10).await.unwrap(), 1);
    assert_eq!(after(0).await, [7]);
}
