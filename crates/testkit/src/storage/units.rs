//! Units of work: atomicity, preconditions, versions, unique keys, references.

use super::given::*;
use portolan_model::query::Filter;
use portolan_model::{Scope, TaskId};
use portolan_storage::{Change, Conflict, Kind, NewEvent, Put, Require, Storage, StorageExt, StoreError, UnitOfWork};
use portolan_tasks::{Held, NewTask};
use serde_json::json;
use std::sync::Arc;

fn event(name: &str) -> NewEvent {
    NewEvent { name: name.into(), tenant: None, subject: None, actor: "Zoë".into(), data: json!({}) }
}

/// A unit writes its object, task, finish and event together.
pub async fn a_unit_writes_everything_together(s: Arc<dyn Storage>) {
    let held = held(&*s, 1).await;
    let mut unit = writes([vm(1).key("vm:a"), vm(2)]).enqueue(task(2)).finish(success(held));
    unit.events = vec![event("one"), event("two")];
    let applied = s.apply(NOW, Scope::All, unit).await.unwrap();
    assert_eq!(applied.tasks.iter().map(|t| (t.id, t.added)).collect::<Vec<_>>(), [(task_id(2), true)]);
    assert_eq!(version(&*s, Kind::Vm, id(1)).await, 1);
    assert_eq!(s.count(Scope::All, Kind::Vm, &Filter::All).await.unwrap(), 2);
    assert!(task_now(&*s, Scope::All, task_id(1)).await.unwrap().finished.is_some());
    assert!(task_now(&*s, Scope::All, task_id(2)).await.is_some());
    let events = s.events(Scope::All, 0, 10).await.unwrap();
    assert_eq!(
        events.iter().map(|e| (e.seq, e.name.as_str(), e.at)).collect::<Vec<_>>(),
        [(1, "one", NOW), (2, "two", NOW)]
    );
}

/// An empty unit is fine and changes nothing.
pub async fn an_empty_unit_is_fine(s: Arc<dyn Storage>) {
    assert!(s.apply(NOW, Scope::All, UnitOfWork::new()).await.unwrap().tasks.is_empty());
    assert!(s.events(Scope::All, 0, 10).await.unwrap().is_empty());
    s.ping().await.unwrap();
}

/// Whatever part of a unit fails, nothing of it is there: no object, key, reference, task, end, event or count.
pub async fn a_failed_unit_writes_nothing(s: Arc<dyn Storage>) {
    let running = held(&*s, 1).await;
    stored(&*s, [vm(1).key("vm:taken"), vm(2).key("vm:two").refers_to(id(90)), vm(3)]).await;
    let full = || {
        let mut unit =
            writes([vm(10).key("vm:ten").refers_to(id(91)), vm(2).key("vm:moved").doc(json!({ "changed": true }))]);
        unit.change.push(Change::Delete(Kind::Vm, id(3)));
        unit.events = vec![event("never")];
        unit.enqueue(task(2)).finish(success(running))
    };
    let stale = Held { fence: running.fence - 1, ..running };
    let unknown = NewTask { after: vec![task_id(77)], ..task(3) };
    let bad_fields = Put { fields: Vec::new(), ..vm(11) };
    let failing: Vec<(&str, UnitOfWork)> = vec![
        ("the last change takes a key", {
            let mut unit = full();
            unit.change.push(Change::Put(vm(11).key("vm:taken")));
            unit
        }),
        ("the last change lacks fields", {
            let mut unit = full();
            unit.change.push(Change::Put(bad_fields));
            unit
        }),
        ("the last task waits for an unknown one", full().enqueue(unknown.clone())),
        ("the last end is stale", full().finish(success(stale))),
        ("the last end is of a task that never was", full().finish(success(Held { id: task_id(70), fence: 1 }))),
        ("the same task ends twice", full().finish(success(running))),
        ("the next link of the last end waits for an unknown one", {
            let mut unit = full();
            unit.finish[0].next = vec![unknown];
            unit
        }),
        ("a precondition fails", full().require(Require::Version(Kind::Vm, id(1), 9))),
        ("the task is not held", full().require(Require::TaskHeld(stale))),
    ];
    for (why, unit) in failing {
        assert!(s.apply(NOW, Scope::All, unit).await.is_err(), "{why}");
        assert_eq!(version(&*s, Kind::Vm, id(10)).await, 0, "{why}");
        let two = row(&*s, Scope::All, Kind::Vm, id(2)).await.unwrap();
        assert_eq!((two.version, two.doc), (1, json!({ "id": id(2) })), "{why}");
        assert_eq!(version(&*s, Kind::Vm, id(3)).await, 1, "{why}");
        assert_eq!(s.count(Scope::All, Kind::Vm, &Filter::All).await.unwrap(), 3, "{why}");
        assert!(s.holder(Scope::All, Kind::Vm, "vm:ten").await.unwrap().is_none(), "{why}");
        assert!(s.holder(Scope::All, Kind::Vm, "vm:moved").await.unwrap().is_none(), "{why}");
        assert_eq!(s.holder(Scope::All, Kind::Vm, "vm:two").await.unwrap().unwrap().id, id(2), "{why}");
        assert!(task_now(&*s, Scope::All, task_id(2)).await.is_none(), "{why}");
        assert_eq!(task_now(&*s, Scope::All, task_id(1)).await.unwrap().finished, None, "{why}");
        assert!(s.events(Scope::All, 0, 10).await.unwrap().is_empty(), "{why}");
        let free = UnitOfWork::new().require(Require::RefFree(Kind::Policy, id(91)));
        s.apply(NOW, Scope::All, free).await.unwrap();
        let used = UnitOfWork::new().require(Require::RefFree(Kind::Policy, id(90)));
        conflict(s.apply(NOW, Scope::All, used).await);
    }
    s.apply(NOW, Scope::All, full()).await.expect("the same unit without the fault goes through");
    assert_eq!(s.events(Scope::All, 0, 10).await.unwrap()[0].seq, 1, "failed units use up no position");
}

/// Versions begin at 1, go up by one with every put, and begin anew after a removal.
pub async fn versions_count_the_puts(s: Arc<dyn Storage>) {
    for expected in 1..=3 {
        stored(&*s, [vm(1)]).await;
        assert_eq!(version(&*s, Kind::Vm, id(1)).await, expected);
    }
    stored(&*s, [vm(1), vm(1)]).await;
    assert_eq!(version(&*s, Kind::Vm, id(1)).await, 5, "two puts in one unit");
    s.apply(NOW, Scope::All, removes(Kind::Vm, id(1))).await.unwrap();
    stored(&*s, [vm(1)]).await;
    assert_eq!(version(&*s, Kind::Vm, id(1)).await, 1);
}

/// `Version` names what was expected and what was found; 0 stands for "not there".
pub async fn a_version_conflict_says_what_it_found(s: Arc<dyn Storage>) {
    stored(&*s, [vm(1)]).await;
    stored(&*s, [vm(1)]).await;
    for (n, expected, found) in [(1, 1, 2), (1, 3, 2), (1, 0, 2), (2, 1, 0), (2, -1, 0)] {
        let unit = writes([vm(n)]).require(Require::Version(Kind::Vm, id(n), expected));
        let got = s.apply(NOW, Scope::All, unit).await;
        assert!(got.as_ref().is_err_and(StoreError::is_version_conflict));
        assert_eq!(conflict(got), Conflict::Version { kind: Kind::Vm, id: id(n), expected, found });
    }
    for (n, expected) in [(1, 2), (2, 0)] {
        let unit = writes([vm(n)]).require(Require::Version(Kind::Vm, id(n), expected));
        s.apply(NOW, Scope::All, unit).await.unwrap();
    }
}

/// The same id under another kind is another object.
pub async fn kinds_are_apart(s: Arc<dyn Storage>) {
    stored(&*s, [vm(1), host(1)]).await;
    s.apply(NOW, Scope::All, removes(Kind::Vm, id(1))).await.unwrap();
    assert_eq!((version(&*s, Kind::Vm, id(1)).await, version(&*s, Kind::Host, id(1)).await), (0, 1));
    stored(&*s, Kind::ALL.iter().map(|kind| object(*kind, id(5)))).await;
    for kind in Kind::ALL {
        assert_eq!(version(&*s, *kind, id(5)).await, 1, "{kind}");
        let fields = s.list(Scope::All, &matching(*kind, Filter::eq("id", id(5)))).await.unwrap();
        assert_eq!((fields.rows.len(), fields.total), (1, Some(1)), "{kind}");
    }
}

/// Removing what is not there is fine; removing twice too.
pub async fn removing_what_is_not_there_is_fine(s: Arc<dyn Storage>) {
    stored(&*s, [vm(1)]).await;
    for _ in 0..2 {
        s.apply(NOW, Scope::All, removes(Kind::Vm, id(1))).await.unwrap();
        assert_eq!(s.count(Scope::All, Kind::Vm, &Filter::All).await.unwrap(), 0);
    }
}

/// `Absent` holds until somebody holds the key, and names the holder.
pub async fn absent_names_the_holder(s: Arc<dyn Storage>) {
    let absent = || UnitOfWork::new().require(Require::Absent("vm:a".into()));
    s.apply(NOW, Scope::All, absent()).await.unwrap();
    stored(&*s, [vm(1).key("vm:a")]).await;
    let got = conflict(s.apply(NOW, Scope::All, absent()).await);
    assert_eq!(got, Conflict::Taken { key: "vm:a".into(), holder: id(1) });
    s.apply(NOW, Scope::All, removes(Kind::Vm, id(1))).await.unwrap();
    s.apply(NOW, Scope::All, absent()).await.unwrap();
}

/// Preconditions are checked in order, before the changes, and the first that fails is the answer.
pub async fn the_first_failing_precondition_is_the_answer(s: Arc<dyn Storage>) {
    let running = held(&*s, 1).await;
    stored(&*s, [vm(1).key("vm:a").refers_to(id(90))]).await;
    let stale = Held { fence: running.fence + 1, ..running };
    let all = [
        (Require::Version(Kind::Vm, id(1), 7), Conflict::Version { kind: Kind::Vm, id: id(1), expected: 7, found: 1 }),
        (Require::Absent("vm:a".into()), Conflict::Taken { key: "vm:a".into(), holder: id(1) }),
        (Require::TaskHeld(stale), Conflict::TaskLost(task_id(1))),
        (Require::RefFree(Kind::Policy, id(90)), Conflict::InUse { kind: Kind::Policy, id: id(90), by: 1 }),
    ];
    for first in 0..all.len() {
        let mut unit = writes([vm(2).key("vm:a")]).finish(success(stale));
        unit.require = (0..all.len()).map(|i| all[(first + i) % all.len()].0.clone()).collect();
        unit.require.insert(0, Require::TaskHeld(running));
        assert_eq!(conflict(s.apply(NOW, Scope::All, unit).await), all[first].1);
    }
}

/// `TaskHeld` holds for the newest fence of a running task only.
pub async fn task_held_needs_the_newest_fence(s: Arc<dyn Storage>) {
    let held = held(&*s, 1).await;
    s.enqueue(NOW, vec![NewTask { run_at: NOW + std::time::Duration::from_secs(60), ..task(2) }]).await.unwrap();
    let with = |held: Held| writes([vm(1)]).require(Require::TaskHeld(held));
    s.apply(NOW, Scope::All, with(held)).await.unwrap();
    let not_held: [(Held, TaskId); 4] = [
        (Held { fence: held.fence + 1, ..held }, task_id(1)),
        (Held { fence: held.fence - 1, ..held }, task_id(1)),
        (Held { id: task_id(2), fence: 0 }, task_id(2)),
        (Held { id: task_id(9), fence: held.fence }, task_id(9)),
    ];
    for (stale, id) in not_held {
        assert_eq!(conflict(s.apply(NOW, Scope::All, with(stale)).await), Conflict::TaskLost(id));
    }
    s.apply(NOW, Scope::All, UnitOfWork::new().finish(success(held))).await.unwrap();
    assert_eq!(conflict(s.apply(NOW, Scope::All, with(held)).await), Conflict::TaskLost(task_id(1)));
    assert_eq!(version(&*s, Kind::Vm, id(1)).await, 1);
}

/// A unique key is held by one object, over all kinds; an object may keep its own.
pub async fn a_unique_key_has_one_holder(s: Arc<dyn Storage>) {
    stored(&*s, [vm(1).key("k:a").key("k:b").key("k:a")]).await;
    stored(&*s, [vm(1).key("k:a").key("k:b")]).await;
    for put in [vm(2).key("k:b"), host(1).key("k:b"), host(2).key("k:c").key("k:b")] {
        let got = conflict(s.apply(NOW, Scope::All, writes([put])).await);
        assert_eq!(got, Conflict::Taken { key: "k:b".into(), holder: id(1) });
    }
    let twice = writes([vm(3).key("k:new"), vm(4).key("k:new")]);
    let got = conflict(s.apply(NOW, Scope::All, twice).await);
    assert_eq!(got, Conflict::Taken { key: "k:new".into(), holder: id(3) });
    assert_eq!(s.holder(Scope::All, Kind::Vm, "k:b").await.unwrap().unwrap().version, 2);
    assert!(s.holder(Scope::All, Kind::Host, "k:b").await.unwrap().is_none(), "held by another kind");
    assert!(s.holder(Scope::All, Kind::Vm, "k:c").await.unwrap().is_none());
}

/// Updates give up the keys that they no longer name, removals all; within a unit too, in its order.
pub async fn unique_keys_move_and_are_freed(s: Arc<dyn Storage>) {
    let holder = async |key: &str| s.holder(Scope::All, Kind::Vm, key).await.unwrap().map(|row| row.id);
    stored(&*s, [vm(1).key("k:a"), vm(2).key("k:b")]).await;
    stored(&*s, [vm(1).key("k:c")]).await;
    assert_eq!((holder("k:a").await, holder("k:c").await), (None, Some(id(1))));
    stored(&*s, [vm(3).key("k:a")]).await;
    s.apply(NOW, Scope::All, removes(Kind::Vm, id(2))).await.unwrap();
    assert_eq!(holder("k:b").await, None);
    // Two objects swap their keys by way of a third.
    stored(&*s, [vm(1).key("k:tmp"), vm(3).key("k:c"), vm(1).key("k:a")]).await;
    assert_eq!((holder("k:a").await, holder("k:c").await, holder("k:tmp").await), (Some(id(1)), Some(id(3)), None));
    // Straight, the first of the two still meets the other.
    let straight = writes([vm(1).key("k:c"), vm(3).key("k:a")]);
    let got = conflict(s.apply(NOW, Scope::All, straight).await);
    assert_eq!(got, Conflict::Taken { key: "k:c".into(), holder: id(3) });
    // Removed and made anew under another id.
    let mut unit = removes(Kind::Vm, id(1));
    unit.change.push(Change::Put(vm(4).key("k:a")));
    s.apply(NOW, Scope::All, unit).await.unwrap();
    assert_eq!(holder("k:a").await, Some(id(4)));
    // Made and removed in one unit.
    let mut unit = writes([vm(5).key("k:five").refers_to(id(90))]);
    unit.change.push(Change::Delete(Kind::Vm, id(5)));
    s.apply(NOW, Scope::All, unit.require(Require::RefFree(Kind::Policy, id(90)))).await.unwrap();
    assert_eq!((holder("k:five").await, version(&*s, Kind::Vm, id(5)).await), (None, 0));
    let free = UnitOfWork::new().require(Require::RefFree(Kind::Policy, id(90)));
    s.apply(NOW, Scope::All, free).await.unwrap();
}

/// Keys are the same only when every character is: case, blanks, accents and length count.
pub async fn unique_keys_are_exact(s: Arc<dyn Storage>) {
    let long = "x".repeat(900);
    let keys = ["k:a", "k:A", "k:a ", " k:a", "k:ä", "k:a\u{308}", "k:%", "k:_", "k:\\", "k:'", "k:😀", "k:ß", "k:ss"];
    let mut keys: Vec<String> = keys.iter().map(|k| (*k).to_owned()).collect();
    keys.extend([format!("{long}1"), format!("{long}2"), format!("k:{}", "é".repeat(300)), "k:\0".into()]);
    stored(&*s, keys.iter().zip(1..).map(|(key, n)| vm(n).key(key))).await;
    for (key, n) in keys.iter().zip(1..) {
        assert_eq!(s.holder(Scope::All, Kind::Vm, key).await.unwrap().unwrap().id, id(n), "{key:?}");
    }
}

/// `RefFree` counts the other objects that refer, each once, and follows updates and removals.
pub async fn references_hold_an_object_back(s: Arc<dyn Storage>) {
    let policy = id(90);
    let free = || removes(Kind::Policy, policy).require(Require::RefFree(Kind::Policy, policy));
    stored(
        &*s,
        [
            object(Kind::Policy, policy).refers_to(policy),
            vm(1).refers_to(policy).refers_to(policy).refers_to(id(91)),
            vm(2).refers_to(policy),
            object(Kind::Rule, id(1)).refers_to(policy),
        ],
    )
    .await;
    let in_use = |by| Conflict::InUse { kind: Kind::Policy, id: policy, by };
    assert_eq!(conflict(s.apply(NOW, Scope::All, free()).await), in_use(3));
    stored(&*s, [vm(2)]).await;
    assert_eq!(conflict(s.apply(NOW, Scope::All, free()).await), in_use(2));
    s.apply(NOW, Scope::All, removes(Kind::Vm, id(1))).await.unwrap();
    assert_eq!(conflict(s.apply(NOW, Scope::All, free()).await), in_use(1));
    // Preconditions look at what was there before the unit.
    let mut both = free();
    both.change.insert(0, Change::Delete(Kind::Rule, id(1)));
    assert_eq!(conflict(s.apply(NOW, Scope::All, both).await), in_use(1));
    s.apply(NOW, Scope::All, removes(Kind::Rule, id(1))).await.unwrap();
    s.apply(NOW, Scope::All, free()).await.unwrap();
    assert_eq!(version(&*s, Kind::Policy, policy).await, 0);
    s.apply(NOW, Scope::All, free()).await.expect("what is not there is free");
}

/// A thousand objects go into one unit and are found again, each by id and by key.
pub async fn a_unit_of_a_thousand_objects(s: Arc<dyn Storage>) {
    stored(&*s, (0..1000).map(|n| vm(n).key(&format!("k:{n}")).refers_to(id(5000)).field("last_size", n))).await;
    assert_eq!(s.count(Scope::All, Kind::Vm, &Filter::All).await.unwrap(), 1000);
    let all: Vec<_> = (0..3000).map(id).collect();
    assert_eq!(s.rows(Scope::All, Kind::Vm, &all).await.unwrap().len(), 1000);
    let many = Filter::any("last_size", 500_i64..3500);
    assert_eq!(s.count(Scope::All, Kind::Vm, &many).await.unwrap(), 500);
    assert_eq!(s.holder(Scope::All, Kind::Vm, "k:999").await.unwrap().unwrap().id, id(999));
    let free = UnitOfWork::new().require(Require::RefFree(Kind::Policy, id(5000)));
    let in_use = Conflict::InUse { kind: Kind::Policy, id: id(5000), by: 1000 };
    assert_eq!(conflict(s.apply(NOW, Scope::All, free).await), in_use);
    let unit = UnitOfWork { change: (0..999).map(|n| Change::Delete(Kind::Vm, id(n))).collect(), ..UnitOfWork::new() };
    s.apply(NOW, Scope::All, unit).await.unwrap();
    assert_eq!(s.count(Scope::All, Kind::Vm, &Filter::All).await.unwrap(), 1);
}

/// Documents come back as they were written, whatever is in them: a megabyte, every script, NUL, the ends of the
/// range of numbers.
pub async fn documents_come_back_as_they_were(s: Arc<dyn Storage>) {
    let docs = [
        json!(null),
        json!([]),
        json!({ "max": i64::MAX, "min": i64::MIN, "unsigned": u64::MAX, "zero": 0, "half": 0.5, "none": null }),
        json!({ "text": "Ünïcödé 漢字 😀 \u{202e} \" \\ % _ ' \n\t", "\u{1f}key ' \"": [true, false, { "": [[]] }] }),
        json!({ "nul": "a\0b" }),
        json!({ "big": "0123456789abcdef".repeat(65_536) }),
        json!({ "many": (0..20_000).collect::<Vec<_>>() }),
    ];
    for (doc, n) in docs.iter().zip(1..) {
        stored(&*s, [vm(n).doc(doc.clone())]).await;
        let row = row(&*s, Scope::All, Kind::Vm, id(n)).await.unwrap();
        assert_eq!((row.kind, row.id, row.version, row.tenant), (Kind::Vm, id(n), 1, None));
        assert!(row.doc == *doc, "document {n} came back changed");
    }
}

/// Typed records go in and come out, are found by key, and a unit that creates one twice conflicts.
pub async fn records_go_in_and_come_out(s: Arc<dyn Storage>) {
    let node = node(1);
    s.apply_all(NOW, UnitOfWork::new().create(&node)).await.unwrap();
    let mut read = s.fetch::<portolan_model::Node>(Scope::All, node.id).await.unwrap();
    assert_eq!((read.version, &read.value), (1, &node));
    let again = s.apply_all(NOW, UnitOfWork::new().create(&node)).await;
    assert!(again.is_err_and(|e| e.is_version_conflict()));
    read.version = 4;
    assert!(s.apply_all(NOW, UnitOfWork::new().update(&read)).await.is_err_and(|e| e.is_version_conflict()));
    assert!(s.find_by_key::<portolan_model::Node>(Scope::All, "node:none").await.unwrap().is_none());
    s.apply_all(NOW, UnitOfWork::new().delete::<portolan_model::Node>(node.id)).await.unwrap();
    expect_not_found(s.fetch::<portolan_model::Node>(Scope::All, node.id).await, Kind::Node, node.id.uuid());
}
