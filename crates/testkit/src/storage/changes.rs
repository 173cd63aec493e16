//! The feed of changes, and the cache that lives on it.

use super::given::*;
use crate::clock::SeededIds;
use portolan_model::query::Value;
use portolan_model::{IdSource, Node, NodeId, Scope, TenantId, VmId};
use portolan_storage::{ChangedIds, KeyCache, Kind, KindCache, Record, Storage, StorageExt, UnitOfWork};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;
use uuid::Uuid;

/// The ids that are told since a revision, in their order; nothing where the store cannot tell.
fn told(s: &Arc<dyn Storage>, kind: Kind, since: Option<u64>) -> (u64, Option<Vec<Uuid>>) {
    let changes = s.changes(kind, since);
    let ids = match changes.what {
        ChangedIds::Unknown => None,
        ChangedIds::Ids(mut ids) => {
            ids.sort_unstable();
            Some(ids)
        }
    };
    (changes.revision, ids)
}

/// Whether the store tells what has changed: one that cannot says so for every question.
fn tells(s: &Arc<dyn Storage>) -> bool {
    let revision = s.changes(Kind::Setting, None).revision;
    s.changes(Kind::Setting, Some(revision)).what != ChangedIds::Unknown
}

/// What a unit wrote or removed is told once it was applied, of each kind by itself; a unit that failed is not. A store
/// that cannot tell never repeats a revision.
pub async fn changes_tell_what_was_touched(s: Arc<dyn Storage>) {
    let (first, unknown) = told(&s, Kind::Vm, None);
    assert_eq!(unknown, None, "who has read nothing yet reads everything");
    if !tells(&s) {
        let (second, unknown) = told(&s, Kind::Vm, Some(first));
        assert!(second != first && unknown.is_none());
        return;
    }
    assert_eq!(told(&s, Kind::Vm, Some(first)), (first, Some(vec![])));
    stored(&*s, [vm(1), vm(2), host(3)]).await;
    let (second, ids) = told(&s, Kind::Vm, Some(first));
    assert_eq!(ids, Some(vec![id(1), id(2)]));
    assert!(second > first);
    s.apply(NOW, Scope::All, removes(Kind::Vm, id(2))).await.unwrap();
    s.apply(NOW, Scope::All, UnitOfWork::new().enqueue(task(1))).await.unwrap();
    s.apply(NOW, of_tenant(1), writes([vm(1)])).await.unwrap_err();
    let (third, ids) = told(&s, Kind::Vm, Some(second));
    assert_eq!(ids, Some(vec![id(2)]));
    assert_eq!(told(&s, Kind::Vm, Some(first)), (third, Some(vec![id(1), id(2)])));
    assert_eq!(told(&s, Kind::Vm, Some(third)), (third, Some(vec![])));
    assert_eq!(told(&s, Kind::Vm, Some(third + 1)).1, None, "a revision of another store");
    let hosts = told(&s, Kind::Host, None).0;
    assert_eq!(told(&s, Kind::Host, Some(hosts)).1, Some(vec![]));
}

/// The list of a cache is what a list from the store would be; what did not change stays the same in memory.
pub async fn a_cache_follows_what_is_stored(s: Arc<dyn Storage>) {
    let cache = KindCache::<Node>::new(s.clone());
    assert!(cache.all().await.unwrap().is_empty());
    let unit = (1..=3).fold(UnitOfWork::new(), |unit, n| unit.create(&node(n)));
    s.apply_all(NOW, unit).await.unwrap();
    let first = cache.all().await.unwrap();
    assert_eq!(first.iter().map(|n| n.id).collect::<Vec<_>>(), [1, 2, 3].map(|n| NodeId::from_uuid(id(n))));
    assert!(Arc::ptr_eq(&first, &cache.all().await.unwrap()));
    s.change::<Node, _>(NOW, Scope::All, first[1].id, |node| {
        node.staging_used_bytes = 7;
        Some(UnitOfWork::new())
    })
    .await
    .unwrap();
    let second = cache.all().await.unwrap();
    assert_eq!((second[1].staging_used_bytes, second[1].version), (7, 2));
    assert!(Arc::ptr_eq(&first[0], &second[0]) && Arc::ptr_eq(&first[2], &second[2]));
    // Removed and made again: the version is the same as before, the content is not.
    s.apply_all(NOW, UnitOfWork::new().delete::<Node>(first[0].id)).await.unwrap();
    let again = Node { staging_used_bytes: 9, ..node(1) };
    s.apply_all(NOW, UnitOfWork::new().create(&again)).await.unwrap();
    let third = cache.all().await.unwrap();
    assert_eq!((third[0].staging_used_bytes, third[0].version), (9, 1));
    let unit = UnitOfWork::new().delete::<Node>(first[0].id).delete::<Node>(first[2].id);
    s.apply_all(NOW, unit).await.unwrap();
    let fourth = cache.all().await.unwrap();
    assert_eq!(fourth.len(), 1);
    assert!(Arc::ptr_eq(&fourth[0], &third[1]) && Arc::ptr_eq(&fourth, &cache.all().await.unwrap()));
}

/// A cache under a filter has what matches, also when an object begins or ceases to match.
pub async fn a_cache_keeps_to_its_filter(s: Arc<dyn Storage>) {
    let filter = portolan_model::query::Filter::AtLeast("last_seen".into(), (NOW + Duration::from_secs(1)).into());
    let cache = KindCache::<Node>::matching(s.clone(), filter);
    let seen = |n: u64, seconds: u64| Node { last_seen: NOW + Duration::from_secs(seconds), ..node(n) };
    for (nodes, expected) in [
        ([seen(1, 0), seen(2, 5)], [2].as_slice()),
        ([seen(1, 1), seen(2, 5)], &[1, 2]),
        ([seen(1, 1), seen(2, 0)], &[1]),
        ([seen(1, 0), seen(2, 0)], &[]),
    ] {
        s.apply_all(NOW, nodes.iter().fold(UnitOfWork::new(), |unit, node| unit.put(node))).await.unwrap();
        let ids: Vec<_> = cache.all().await.unwrap().iter().map(|n| n.id).collect();
        assert_eq!(ids, expected.iter().map(|n| NodeId::from_uuid(id(*n))).collect::<Vec<_>>());
    }
}

/// Beside racing writers, once a unit was applied no list of the cache is older than it; and writers that gave up
/// waiting in the middle leave nothing behind that the cache never learns of.
pub async fn a_cache_is_never_older_than_what_was_applied(s: Arc<dyn Storage>) {
    const WRITERS: u64 = 4;
    const UNITS: u64 = 25;
    let cache = Arc::new(KindCache::<Node>::new(s.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    // Somebody who reads all the time, so that refreshes meet commits in every way.
    let reader = {
        let (cache, stop) = (cache.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                cache.all().await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    let writer = |w: u64| {
        let (s, cache) = (s.clone(), cache.clone());
        tokio::spawn(async move {
            let mine = NodeId::from_uuid(id(w));
            for n in 1..=UNITS {
                let written = Node { staging_used_bytes: n, ..node(w) };
                if n % 7 == 0 {
                    s.apply_all(NOW, UnitOfWork::new().delete::<Node>(mine)).await.unwrap();
                    assert!(cache.all().await.unwrap().iter().all(|node| node.id != mine), "{w}: {n} was removed");
                }
                s.apply_all(NOW, UnitOfWork::new().put(&written)).await.unwrap();
                let all = cache.all().await.unwrap();
                let found = all.iter().find(|node| node.id == mine).map(|node| node.staging_used_bytes);
                assert_eq!(found, Some(n), "{w}");
            }
        })
    };
    let quitter = |w: u64| {
        let s = s.clone();
        tokio::spawn(async move {
            for n in 1..=UNITS {
                let written = Node { staging_used_bytes: n, ..node(w) };
                let unit = UnitOfWork::new().put(&written);
                // Dropped at another of its awaits each time.
                let mut apply = std::pin::pin!(s.apply_all(NOW, unit));
                for _ in 0..n {
                    if apply.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
        })
    };
    let all: Vec<_> = (0..WRITERS).map(writer).chain((WRITERS..2 * WRITERS).map(quitter)).collect();
    for one in all {
        one.await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    reader.await.unwrap();
    // What the quitters left may still be on its way; in the end the cache has it.
    let mut rounds = 0;
    loop {
        let cached: Vec<_> = cache.all().await.unwrap().iter().map(|node| (**node).clone()).collect();
        let listed = s.list_of::<Node>(Scope::All, Default::default()).await.unwrap().items;
        if cached == listed {
            break;
        }
        rounds += 1;
        assert!(rounds < 500, "the cache stays behind\ncached: {cached:#?}\nstored: {listed:#?}");
        tokio::task::yield_now().await;
    }
}

/// An object with unique keys that may belong to a tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Keyed {
    id: VmId,
    tenant: Option<TenantId>,
    keys: Vec<String>,
    says: u64,
}

impl Keyed {
    fn new(n: u64, keys: Vec<String>, says: u64) -> Self {
        Self { id: VmId::from_uuid(id(n)), tenant: None, keys, says }
    }
}

impl Record for Keyed {
    type Id = VmId;
    const KIND: Kind = Kind::Vm;
    fn id(&self) -> VmId {
        self.id
    }
    fn tenant(&self) -> Option<TenantId> {
        self.tenant
    }
    fn fields(&self) -> Vec<Value> {
        Kind::Vm.fields().iter().map(|_| Value::Null).collect()
    }
    fn unique(&self) -> Vec<String> {
        self.keys.clone()
    }
}

/// What a cache finds by a key is what the store finds, for every scope, whatever is written in between: also where
/// objects change hands, give their keys away, go and come again.
pub async fn a_key_cache_finds_what_is_stored(s: Arc<dyn Storage>) {
    let random = SeededIds::new(7);
    let draw = |below: u64| {
        let mut bytes = [0; 4];
        random.fill(&mut bytes);
        u64::from(u32::from_le_bytes(bytes)) % below
    };
    // One that is asked every time, and one that is asked now and then.
    let (often, seldom) = (KeyCache::<Keyed>::new(s.clone()), KeyCache::<Keyed>::new(s.clone()));
    let keys = ["vm:a", "vm:b", "vm:c"];
    let (mut found, mut refused) = (0, 0);
    for step in 0..120 {
        let mine = keys.iter().filter(|_| draw(2) == 0).map(|key| (*key).to_owned()).collect();
        let mut written = Keyed::new(draw(3), mine, step);
        written.tenant = [None, Some(tenant(1)), Some(tenant(2))][draw(3) as usize];
        let unit = match draw(4) {
            0 => UnitOfWork::new().delete::<Keyed>(written.id),
            _ => UnitOfWork::new().put(&written),
        };
        // A key that another object holds is refused.
        refused += u32::from(s.apply_all(NOW, unit).await.is_err());
        for cache in [Some(&often), Some(&seldom).filter(|_| step % 5 == 0)].into_iter().flatten() {
            for key in keys {
                for scope in [Scope::All, of_tenant(1), of_tenant(2)] {
                    let cached = cache.find(scope, key).await.unwrap().map(|found| (*found).clone());
                    found += u32::from(cached.is_some());
                    assert_eq!(cached, s.find_by_key::<Keyed>(scope, key).await.unwrap(), "{step}: {key} {scope:?}");
                }
            }
        }
    }
    assert!(found > 100 && refused > 10, "{found} {refused}");
}

/// Beside racing writers and readers, once a unit was applied nothing older is found.
pub async fn a_key_cache_is_never_older_than_what_was_applied(s: Arc<dyn Storage>) {
    const WRITERS: u64 = 3;
    let cache = Arc::new(KeyCache::<Keyed>::new(s.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let key = |w: u64| format!("vm:{w}");
    let reader = {
        let (cache, stop) = (cache.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                for w in 0..WRITERS {
                    cache.find(Scope::All, &key(w)).await.unwrap();
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let writer = |w: u64| {
        let (s, cache) = (s.clone(), cache.clone());
        tokio::spawn(async move {
            for n in 1..=25 {
                s.apply_all(NOW, UnitOfWork::new().put(&Keyed::new(w, vec![key(w)], n))).await.unwrap();
                let found = cache.find(Scope::All, &key(w)).await.unwrap();
                assert_eq!(found.map(|found| found.says), Some(n), "{w}");
            }
        })
    };
    for one in (0..WRITERS).map(writer).collect::<Vec<_>>() {
        one.await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    reader.await.unwrap();
}
