//! Several at once: whatever the interleaving, the outcome is that of one after the other.

use super::given::*;
use portolan_model::query::Filter;
use portolan_model::{EventId, Node, NodeId, Scope, Timestamp};
use portolan_storage::{
    Applied, Conflict, Kind, NewEvent, Query, Replay, Require, Storage, StorageExt, StoreError, Stored, UnitOfWork,
};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Barrier;

type Outcome = Result<Applied, StoreError>;

/// Applies the units at the same time, each from a task of its own.
async fn at_once(s: &Arc<dyn Storage>, units: Vec<UnitOfWork>) -> Vec<Outcome> {
    let start = Arc::new(Barrier::new(units.len()));
    let run = |unit| {
        let (s, start) = (s.clone(), start.clone());
        tokio::spawn(async move {
            start.wait().await;
            s.apply(NOW, Scope::All, unit).await
        })
    };
    let running: Vec<_> = units.into_iter().map(run).collect();
    let mut outcomes = Vec::new();
    for one in running {
        outcomes.push(one.await.expect("no apply panics"));
    }
    outcomes
}

/// The position of the only one that went through, and the conflicts of the others.
fn one_winner(outcomes: Vec<Outcome>) -> (usize, Vec<Conflict>) {
    let winners: Vec<_> = outcomes.iter().enumerate().filter(|(_, o)| o.is_ok()).map(|(i, _)| i).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    let lost = outcomes.into_iter().filter(Result::is_err).map(conflict).collect();
    (winners[0], lost)
}

/// Of those who change the same version of an object one wins, the others see its version.
pub async fn one_of_many_on_one_version_wins(s: Arc<dyn Storage>) {
    stored(&*s, [vm(1)]).await;
    for round in 1..=4 {
        let one = |n: u64| {
            writes([vm(1).doc(json!({ "by": n })), vm(100 + n)]).require(Require::Version(Kind::Vm, id(1), round))
        };
        let (winner, lost) = one_winner(at_once(&s, (0..8).map(one).collect()).await);
        let expected = Conflict::Version { kind: Kind::Vm, id: id(1), expected: round, found: round + 1 };
        assert!(lost.iter().all(|c| *c == expected), "{lost:?}");
        let row = row(&*s, Scope::All, Kind::Vm, id(1)).await.unwrap();
        assert_eq!((row.version, row.doc), (round + 1, json!({ "by": winner })));
    }
}

/// Of those who create the same object one wins.
pub async fn one_of_many_creators_wins(s: Arc<dyn Storage>) {
    let create = |n: u64| writes([vm(1).doc(json!({ "by": n }))]).require(Require::Version(Kind::Vm, id(1), 0));
    let (winner, lost) = one_winner(at_once(&s, (0..8).map(create).collect()).await);
    let expected = Conflict::Version { kind: Kind::Vm, id: id(1), expected: 0, found: 1 };
    assert!(lost.iter().all(|c| *c == expected), "{lost:?}");
    assert_eq!(row(&*s, Scope::All, Kind::Vm, id(1)).await.unwrap().doc, json!({ "by": winner }));
    assert_eq!(s.count(Scope::All, Kind::Vm, &Filter::All).await.unwrap(), 1);
}

/// Of those who take the same unique key one wins, whether they asked for its absence or not.
pub async fn one_of_many_on_one_key_wins(s: Arc<dyn Storage>) {
    for (key, asks) in [("k:a", false), ("k:b", true)] {
        let base = if asks { 20 } else { 10 };
        let take = |n: u64| {
            let unit = writes([vm(base + n).key(key)]);
            if asks { unit.require(Require::Absent(key.into())) } else { unit }
        };
        let (winner, lost) = one_winner(at_once(&s, (0..8).map(take).collect()).await);
        let expected = Conflict::Taken { key: key.into(), holder: id(base + winner as u64) };
        assert!(lost.iter().all(|c| *c == expected), "{lost:?}");
        assert_eq!(s.holder(Scope::All, Kind::Vm, key).await.unwrap().unwrap().id, id(base + winner as u64));
    }
    assert_eq!(s.count(Scope::All, Kind::Vm, &Filter::All).await.unwrap(), 2);
}

/// Of those who take over a request that nobody works on any more one wins, and its long answer comes back whole.
pub async fn one_of_many_takes_a_request_over(s: Arc<dyn Storage>) {
    let record = |holder: u64, answer: Option<String>| Replay {
        id: EventId::from_uuid(id(1)),
        fingerprint: "f".repeat(64),
        holder: holder.to_string(),
        held_until: NOW,
        answer,
        expires: NOW + Duration::from_secs(86_400),
    };
    let lost = record(99, None);
    s.apply(NOW, Scope::All, UnitOfWork::new().create(&lost)).await.unwrap();
    let stored = s.fetch::<Replay>(Scope::All, lost.id).await.unwrap();
    let take = |n: u64| UnitOfWork::new().update(&Stored { version: stored.version, value: record(n, None) });
    let (winner, _) = one_winner(at_once(&s, (0..8).map(take).collect()).await);
    let mut taken = s.fetch::<Replay>(Scope::All, lost.id).await.unwrap();
    assert_eq!(taken.value, record(winner as u64, None));
    // Two MiB, sealed and in base64.
    let answer: String = (0..2_800_000u32).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    taken.value.answer = Some(answer);
    s.apply(NOW, Scope::All, UnitOfWork::new().update(&taken)).await.unwrap();
    let found = s.fetch::<Replay>(Scope::All, lost.id).await.unwrap();
    assert!(found.value == taken.value, "a long answer comes back as it was");
    let due = |before| Query::matching(Filter::Below("expires".into(), Timestamp::into(before)));
    let at = found.expires;
    assert_eq!(s.list_of::<Replay>(Scope::All, due(at)).await.unwrap().items.len(), 0);
    let over = s.list_of::<Replay>(Scope::All, due(at + Duration::from_micros(1))).await.unwrap();
    assert_eq!(over.items.len(), 1);
}

/// Puts without a precondition all go through and are all counted in the version.
pub async fn puts_without_preconditions_all_count(s: Arc<dyn Storage>) {
    let outcomes = at_once(&s, (0..8).map(|_| writes([vm(1).key("k:one")])).collect()).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(version(&*s, Kind::Vm, id(1)).await, 8);
    assert_eq!(s.count(Scope::All, Kind::Vm, &Filter::All).await.unwrap(), 1);
}

/// One who removes an object that nobody refers to, and one who begins to refer to it while it is there: either
/// may win, never both.
pub async fn a_referrer_and_a_remover_never_both_win(s: Arc<dyn Storage>) {
    for n in 0..10 {
        let policy = id(1000 + n);
        stored(&*s, [object(Kind::Policy, policy)]).await;
        let remover = removes(Kind::Policy, policy).require(Require::RefFree(Kind::Policy, policy));
        let referrer = writes([vm(n).refers_to(policy)]).require(Require::Version(Kind::Policy, policy, 1));
        let (winner, _) = one_winner(at_once(&s, vec![remover, referrer]).await);
        let there = (version(&*s, Kind::Policy, policy).await, version(&*s, Kind::Vm, id(n)).await);
        assert_eq!(there, if winner == 0 { (0, 0) } else { (1, 1) });
    }
}

/// Two who each rely on what the other changes: one sees the other's change.
pub async fn preconditions_hold_until_the_unit_is_written(s: Arc<dyn Storage>) {
    for n in 0..10 {
        let (a, b) = (2 * n, 2 * n + 1);
        stored(&*s, [vm(a), vm(b)]).await;
        let relies = |on: u64, writing: u64| writes([vm(writing)]).require(Require::Version(Kind::Vm, id(on), 1));
        one_winner(at_once(&s, vec![relies(a, b), relies(b, a)]).await);
    }
}

/// Units that touch the same objects in different orders all come to an end.
pub async fn units_in_opposite_orders_all_end(s: Arc<dyn Storage>) {
    let unit = |n: u64| {
        let mut all: Vec<_> = (0..6).map(|v| vm(v).key(&format!("k:{v}")).refers_to(id(90))).collect();
        if n % 2 == 1 {
            all.reverse();
        }
        writes(all)
    };
    let outcomes = at_once(&s, (0..8).map(unit).collect()).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    for v in 0..6 {
        assert_eq!(version(&*s, Kind::Vm, id(v)).await, 8);
    }
}

/// `change` decides anew on fresh data until it goes through: no increment is lost.
pub async fn changes_under_contention_lose_nothing(s: Arc<dyn Storage>) {
    let node = node(1);
    s.apply_all(NOW, UnitOfWork::new().create(&node)).await.unwrap();
    let increment = |s: Arc<dyn Storage>, id: NodeId| {
        tokio::spawn(async move {
            for _ in 0..5 {
                let decide = |node: &mut Node| {
                    node.staging_used_bytes += 1;
                    Some(UnitOfWork::new())
                };
                // Five others with five each can be faster at most 25 times, which is within the rounds.
                s.change::<Node, _>(NOW, Scope::All, id, decide).await.expect("change gets through");
            }
        })
    };
    let all: Vec<_> = (0..6).map(|_| increment(s.clone(), node.id)).collect();
    for one in all {
        one.await.unwrap();
    }
    let read = s.fetch::<Node>(Scope::All, node.id).await.unwrap();
    assert_eq!((read.staging_used_bytes, read.version), (30, 31));
    let left = s.change::<Node, _>(NOW, Scope::All, node.id, |_| None).await.unwrap();
    assert_eq!(left.version, 31, "nothing decided, nothing written");
    let gone = s.change::<Node, _>(NOW, Scope::All, NodeId::from_uuid(id(9)), |_| None).await;
    expect_not_found(gone, Kind::Node, id(9));
}

/// Counters agree with what is there after many have written at once.
pub async fn counters_agree_after_a_crowd(s: Arc<dyn Storage>) {
    let unit = |n: u64| {
        let owner = n % 2 + 1;
        let mut unit = writes((0..10).map(|v| vm(n * 7 + v).owned_by(owner).field("present", v % 3 == 0)));
        unit.change.push(portolan_storage::Change::Delete(Kind::Vm, id(n * 7 + 1)));
        unit
    };
    let outcomes = at_once(&s, (0..8).map(unit).collect()).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    for scope in [Scope::All, of_tenant(1), of_tenant(2)] {
        let listed = ids(&*s, scope, &matching(Kind::Vm, Filter::All)).await.len() as u64;
        assert_eq!(s.count(scope, Kind::Vm, &Filter::All).await.unwrap(), listed);
        assert_eq!(s.list(scope, &matching(Kind::Vm, Filter::All)).await.unwrap().total, Some(listed));
    }
}

/// Positions of events rise without gaps in commit order: who reads on from the last one seen misses none, and the
/// events of one unit stay together in their order.
pub async fn events_are_gapless_for_a_reader_beside_writers(s: Arc<dyn Storage>) {
    const WRITERS: u64 = 6;
    const UNITS: u64 = 12;
    let write = |w: u64| {
        let s = s.clone();
        tokio::spawn(async move {
            for u in 0..UNITS {
                let mut unit = writes([vm(w)]);
                unit.events = (0..3)
                    .map(|e| NewEvent {
                        name: format!("{w}.{u}"),
                        tenant: None,
                        subject: Some(id(w)),
                        actor: String::new(),
                        data: json!({ "e": e }),
                    })
                    .collect();
                s.apply(NOW, Scope::All, unit).await.expect("the unit goes through");
                // One in between that fails must leave no gap.
                let mut failing = UnitOfWork::new().require(Require::Version(Kind::Vm, id(w), -1));
                failing.events.push(NewEvent {
                    name: "never".into(),
                    tenant: None,
                    subject: None,
                    actor: String::new(),
                    data: json!(null),
                });
                s.apply(NOW, Scope::All, failing).await.expect_err("the version is never -1");
            }
        })
    };
    let writers: Vec<_> = (0..WRITERS).map(write).collect();
    let mut seen = Vec::new();
    while seen.len() < usize::try_from(WRITERS * UNITS * 3).unwrap() {
        let after = seen.len() as i64;
        let new = s.events(Scope::All, after, 7).await.unwrap();
        if new.is_empty() {
            tokio::task::yield_now().await;
        }
        for event in new {
            assert_eq!(event.seq, seen.len() as i64 + 1);
            seen.push(event);
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(s.events(Scope::All, seen.len() as i64, 7).await.unwrap().is_empty());
    for unit in seen.chunks(3) {
        assert!(unit.iter().zip(0..).all(|(e, n)| e.name == unit[0].name && e.data == json!({ "e": n })), "{unit:?}");
    }
    for w in 0..WRITERS {
        let mine: Vec<_> = seen.iter().filter(|e| e.subject == Some(id(w))).step_by(3).map(|e| &e.name).collect();
        assert_eq!(mine, (0..UNITS).map(|u| format!("{w}.{u}")).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    }
}

/// Of those who end the same attempt in a unit one wins, and only its effect is there.
pub async fn one_of_many_ends_of_a_task_wins(s: Arc<dyn Storage>) {
    let held = held(&*s, 1).await;
    let end = |n: u64| writes([vm(n)]).finish(success(held));
    let (winner, lost) = one_winner(at_once(&s, (0..8).map(end).collect()).await);
    assert!(lost.iter().all(|c| *c == Conflict::TaskLost(task_id(1))), "{lost:?}");
    assert_eq!(ids(&*s, Scope::All, &matching(Kind::Vm, Filter::All)).await, [id(winner as u64)]);
}

/// Of those who enqueue under the same unique key one adds, and all are told its id.
pub async fn one_of_many_enqueuers_adds(s: Arc<dyn Storage>) {
    let add = |n: u64| {
        let mut task = task(n);
        task.unique_key = Some("sync:1".into());
        writes([vm(n)]).enqueue(task)
    };
    let outcomes = at_once(&s, (0..8).map(add).collect()).await;
    let answers: Vec<_> = outcomes.into_iter().map(|o| o.expect("every unit goes through").tasks[0]).collect();
    assert_eq!(answers.iter().filter(|a| a.added).count(), 1, "{answers:?}");
    assert!(answers.iter().all(|a| a.id == answers[0].id), "{answers:?}");
    assert_eq!(s.count(Scope::All, Kind::Vm, &Filter::All).await.unwrap(), 8);
}
