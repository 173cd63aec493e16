//! Scopes: what a tenant sees, and what it may write.

use super::given::*;
use portolan_model::Scope;
use portolan_model::query::Filter;
use portolan_storage::{Change, Conflict, Kind, NewEvent, Put, Require, Storage, StoreError, UnitOfWork};
use portolan_tasks::{NewTask, TaskQuery};
use serde_json::json;
use std::sync::Arc;

/// One machine of each of two tenants and one of nobody; the same with hosts, which are infrastructure.
async fn two_tenants(s: &dyn Storage) {
    stored(
        s,
        [
            vm(1).owned_by(1).key("vm:1"),
            vm(2).owned_by(2).key("vm:2"),
            vm(3).key("vm:3"),
            host(1).owned_by(1).key("host:1"),
            host(2).owned_by(2).key("host:2"),
            host(3).key("host:3"),
        ],
    )
    .await;
}

/// Which numbers each scope sees of each kind, over every way to read.
pub async fn every_read_shows_what_the_scope_sees(s: Arc<dyn Storage>) {
    two_tenants(&*s).await;
    let matrix: [(Scope, Kind, &[u64]); 8] = [
        (Scope::All, Kind::Vm, &[1, 2, 3]),
        (of_tenant(1), Kind::Vm, &[1]),
        (of_tenant(2), Kind::Vm, &[2]),
        (of_tenant(3), Kind::Vm, &[]),
        (Scope::All, Kind::Host, &[1, 2, 3]),
        (of_tenant(1), Kind::Host, &[1, 3]),
        (of_tenant(2), Kind::Host, &[2, 3]),
        (of_tenant(3), Kind::Host, &[3]),
    ];
    for (scope, kind, seen) in matrix {
        let expected: Vec<_> = seen.iter().copied().map(id).collect();
        let about = format!("{kind} from {scope:?}");
        let mut rows: Vec<_> = s.rows(scope, kind, &[id(1), id(2), id(3), id(4)]).await.unwrap();
        rows.sort_by_key(|row| row.id);
        assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), expected, "{about}");
        for filter in [Filter::All, Filter::Not(Box::new(Filter::eq("id", id(9))))] {
            let page = s.list(scope, &matching(kind, filter.clone())).await.unwrap();
            assert_eq!(page.rows.iter().map(|row| row.id).collect::<Vec<_>>(), expected, "{about}");
            assert_eq!(page.total, Some(seen.len() as u64), "{about}");
            assert_eq!(s.count(scope, kind, &filter).await.unwrap(), seen.len() as u64, "{about}");
        }
        for n in 1..=3 {
            let holder = s.holder(scope, kind, &format!("{kind}:{n}")).await.unwrap();
            assert_eq!(holder.is_some(), seen.contains(&n), "{about}");
            let found = s.count(scope, kind, &Filter::eq("id", id(n))).await.unwrap();
            assert_eq!(found == 1, seen.contains(&n), "{about}");
        }
    }
}

/// From a tenant's scope only that tenant's objects are written, and they stay that tenant's; all else is not found
/// and nothing changes.
pub async fn a_tenant_writes_its_own_objects_only(s: Arc<dyn Storage>) {
    two_tenants(&*s).await;
    let mine = of_tenant(1);
    let refused: Vec<(&str, Put)> = vec![
        ("another's object", vm(2).owned_by(2)),
        ("another's object, to keep it", vm(2).owned_by(1)),
        ("nobody's object", vm(3)),
        ("nobody's object, to keep it", vm(3).owned_by(1)),
        ("its own, given away", vm(1).owned_by(2)),
        ("its own, given to nobody", vm(1)),
        ("a new one of another", vm(4).owned_by(2)),
        ("a new one of nobody", vm(4)),
        ("infrastructure", host(3)),
        ("infrastructure, to keep it", host(3).owned_by(1)),
        ("another's infrastructure", host(2).owned_by(2)),
        ("new infrastructure", host(4)),
    ];
    for (what, put) in refused {
        let (kind, id) = (put.kind, put.id);
        let before = row(&*s, Scope::All, kind, id).await;
        let got = s.apply(NOW, mine, writes([vm(9).owned_by(1), put.doc(json!("changed"))])).await;
        expect_not_found(got, kind, id);
        assert_eq!(row(&*s, Scope::All, kind, id).await, before, "{what}");
        assert_eq!(version(&*s, Kind::Vm, super::given::id(9)).await, 0, "{what}");
    }
    for (kind, n) in [(Kind::Vm, 2), (Kind::Vm, 3), (Kind::Host, 2), (Kind::Host, 3)] {
        let mut unit = removes(kind, id(n));
        unit.change.insert(0, Change::Delete(Kind::Vm, id(1)));
        expect_not_found(s.apply(NOW, mine, unit).await, kind, id(n));
        assert_eq!((version(&*s, kind, id(n)).await, version(&*s, Kind::Vm, id(1)).await), (1, 1));
    }
    s.apply(NOW, mine, writes([vm(1).owned_by(1), vm(4).owned_by(1)])).await.unwrap();
    s.apply(NOW, mine, removes(Kind::Vm, id(1))).await.unwrap();
    s.apply(NOW, mine, removes(Kind::Vm, id(77))).await.expect("what is not there is fine");
    assert_eq!(ids(&*s, mine, &matching(Kind::Vm, Filter::All)).await, [id(4)]);
    s.apply(NOW, Scope::All, writes([vm(4).owned_by(2), host(3).doc(json!("changed"))])).await.unwrap();
    assert!(ids(&*s, mine, &matching(Kind::Vm, Filter::All)).await.is_empty());
    assert_eq!(ids(&*s, of_tenant(2), &matching(Kind::Vm, Filter::All)).await, [id(2), id(4)]);
}

/// Preconditions on what the scope does not see are not found; on infrastructure they hold; a key that another
/// tenant's object holds is taken.
pub async fn preconditions_keep_to_the_scope(s: Arc<dyn Storage>) {
    two_tenants(&*s).await;
    let mine = of_tenant(1);
    let require = |r: Require| UnitOfWork::new().require(r);
    for (kind, n) in [(Kind::Vm, 2), (Kind::Vm, 3), (Kind::Host, 2)] {
        for expected in [0, 1, 2] {
            let got = s.apply(NOW, mine, require(Require::Version(kind, id(n), expected))).await;
            expect_not_found(got, kind, id(n));
        }
        expect_not_found(s.apply(NOW, mine, require(Require::RefFree(kind, id(n)))).await, kind, id(n));
    }
    for (kind, n, found) in [(Kind::Vm, 1, 1), (Kind::Host, 3, 1), (Kind::Host, 1, 1), (Kind::Vm, 8, 0)] {
        s.apply(NOW, mine, require(Require::Version(kind, id(n), found))).await.unwrap();
        s.apply(NOW, mine, require(Require::RefFree(kind, id(n)))).await.unwrap();
        let got = conflict(s.apply(NOW, mine, require(Require::Version(kind, id(n), 5))).await);
        assert_eq!(got, Conflict::Version { kind, id: id(n), expected: 5, found });
    }
    let taken = Conflict::Taken { key: "vm:2".into(), holder: id(2) };
    let got = s.apply(NOW, mine, require(Require::Absent("vm:2".into()))).await;
    assert_eq!(conflict(got), taken);
    let got = s.apply(NOW, mine, writes([vm(5).owned_by(1).key("vm:2")])).await;
    assert_eq!(conflict(got), taken);
    // References from objects that the scope does not see hold back too.
    stored(&*s, [vm(2).owned_by(2).refers_to(id(1))]).await;
    let got = s.apply(NOW, mine, require(Require::RefFree(Kind::Vm, id(1)))).await;
    assert_eq!(conflict(got), Conflict::InUse { kind: Kind::Vm, id: id(1), by: 1 });
}

/// Counters follow an object from tenant to tenant.
pub async fn counters_follow_an_object_between_tenants(s: Arc<dyn Storage>) {
    let counts = async |kind| {
        let mut counts = Vec::new();
        for scope in [Scope::All, of_tenant(1), of_tenant(2)] {
            counts.push(s.count(scope, kind, &Filter::All).await.unwrap());
        }
        counts
    };
    stored(&*s, [vm(1).owned_by(1), vm(2).owned_by(1), host(1), host(2).owned_by(1)]).await;
    assert_eq!(counts(Kind::Vm).await, [2, 2, 0]);
    assert_eq!(counts(Kind::Host).await, [2, 2, 1]);
    stored(&*s, [vm(1).owned_by(2), host(1).owned_by(2)]).await;
    assert_eq!(counts(Kind::Vm).await, [2, 1, 1]);
    assert_eq!(counts(Kind::Host).await, [2, 1, 1]);
    stored(&*s, [vm(1), vm(2).owned_by(2), vm(2).owned_by(1), host(1)]).await;
    assert_eq!(counts(Kind::Vm).await, [2, 1, 0]);
    assert_eq!(counts(Kind::Host).await, [2, 2, 1]);
    s.apply(NOW, Scope::All, removes(Kind::Vm, id(1))).await.unwrap();
    assert_eq!(counts(Kind::Vm).await, [1, 1, 0]);
}

/// A tenant hears its own events; those of no tenant are for `Scope::All`.
pub async fn events_are_heard_by_their_tenant(s: Arc<dyn Storage>) {
    let event = |name: &str, of: Option<u64>| NewEvent {
        name: name.into(),
        tenant: of.map(tenant),
        subject: of.map(id),
        actor: "Zoë".into(),
        data: json!({ "text": "Zoë 😀" }),
    };
    let later = NOW + std::time::Duration::from_secs(1);
    let first = vec![event("a", Some(1)), event("b", Some(2)), event("c", None)];
    s.apply(NOW, Scope::All, UnitOfWork { events: first, ..UnitOfWork::new() }).await.unwrap();
    let second = vec![event("d", Some(1))];
    s.apply(later, of_tenant(1), UnitOfWork { events: second, ..UnitOfWork::new() }).await.unwrap();
    let heard = async |scope, after, limit| -> Vec<_> {
        let events = s.events(scope, after, limit).await.unwrap();
        events.into_iter().map(|e| (e.seq, e.name)).collect()
    };
    let pairs = |list: &[(i64, &str)]| list.iter().map(|(n, name)| (*n, (*name).to_owned())).collect::<Vec<_>>();
    assert_eq!(heard(Scope::All, 0, 10).await, pairs(&[(1, "a"), (2, "b"), (3, "c"), (4, "d")]));
    assert_eq!(heard(of_tenant(1), 0, 10).await, pairs(&[(1, "a"), (4, "d")]));
    assert_eq!(heard(of_tenant(2), 0, 10).await, pairs(&[(2, "b")]));
    assert_eq!(heard(of_tenant(3), 0, 10).await, []);
    assert_eq!(heard(of_tenant(1), 1, 10).await, pairs(&[(4, "d")]));
    assert_eq!(heard(of_tenant(1), 0, 1).await, pairs(&[(1, "a")]));
    assert_eq!(heard(Scope::All, 3, 10).await, pairs(&[(4, "d")]));
    assert_eq!(heard(Scope::All, -5, 2).await, pairs(&[(1, "a"), (2, "b")]));
    assert_eq!(heard(Scope::All, 0, 0).await, []);
    assert_eq!(heard(Scope::All, 4, u32::MAX).await, []);
    assert_eq!(heard(Scope::All, i64::MAX, 1).await, []);
    let whole = s.events(Scope::All, 3, 1).await.unwrap().remove(0);
    assert_eq!((whole.at, whole.tenant, whole.subject), (later, Some(tenant(1)), Some(id(1))));
    assert_eq!(whole.data, json!({ "text": "Zoë 😀" }));
}

/// Tasks that a unit adds are seen by their tenant; those of no tenant by `Scope::All`.
pub async fn tasks_of_a_unit_are_seen_by_their_tenant(s: Arc<dyn Storage>) {
    let owned = |n, of: Option<u64>| NewTask { tenant: of.map(tenant), ..task(n) };
    let unit = UnitOfWork::new().enqueue(owned(1, Some(1))).enqueue(owned(2, Some(2))).enqueue(owned(3, None));
    s.apply(NOW, Scope::All, unit).await.unwrap();
    for (scope, seen) in [(Scope::All, vec![1, 2, 3]), (of_tenant(1), vec![1]), (of_tenant(3), vec![])] {
        let page = s.query(scope, &TaskQuery { count: true, ..TaskQuery::default() }).await.unwrap();
        let found: Vec<_> = page.tasks.iter().map(|t| t.new.id).collect();
        assert_eq!(found, seen.iter().copied().map(task_id).collect::<Vec<_>>());
        assert_eq!(page.total, Some(seen.len() as u64));
    }
}

/// Fields that the kind does not declare are errors, wherever they stand and whatever else is asked; `id` is known.
pub async fn unknown_fields_are_errors(s: Arc<dyn Storage>) {
    use portolan_model::query::{Page, Sort, Value};
    let bad = [
        Filter::eq("nope", 1_i64),
        Filter::eq("Name", "a"),
        Filter::eq("search", "a"),
        Filter::eq("tenant", Value::Null),
        Filter::eq("name' OR '1'='1", "a"),
        Filter::any("nope", [0_i64; 0]),
        Filter::AtLeast("nope".into(), Value::Null),
        Filter::Below(String::new(), Value::Int(1)),
        Filter::And(vec![Filter::Or(vec![]), Filter::eq("nope", 1_i64)]),
        Filter::Or(vec![Filter::All, Filter::Not(Box::new(Filter::eq("nope", 1_i64)))]),
    ];
    for filter in bad {
        let mut query = matching(Kind::Vm, filter.clone());
        query.page = Page::first(0);
        let listed = s.list(Scope::All, &query).await;
        assert!(matches!(listed, Err(StoreError::UnknownField { kind: Kind::Vm, .. })), "{filter:?}");
        let counted = s.count(of_tenant(1), Kind::Vm, &filter).await;
        assert!(matches!(counted, Err(StoreError::UnknownField { kind: Kind::Vm, .. })), "{filter:?}");
    }
    for field in ["nope", "version", "doc", "name desc"] {
        let query = portolan_storage::RawQuery { sort: Sort::by(field), ..matching(Kind::Vm, Filter::All) };
        match s.list(Scope::All, &query).await {
            Err(StoreError::UnknownField { kind: Kind::Vm, field: named }) => assert_eq!(named, field),
            other => panic!("expected an unknown field, got {other:?}"),
        }
    }
    for kind in Kind::ALL {
        for name in kind.fields().iter().map(|f| f.name).chain(["id"]) {
            let mut query = matching(*kind, Filter::eq(name, Value::Null));
            query.sort = Sort::by(name);
            assert_eq!(s.list(Scope::All, &query).await.unwrap().total, Some(0), "{kind}.{name}");
        }
    }
}
