//! Secrets at rest.

mod common;

use common::World;
use portolan_access::{AccessError, MasterKey, SealError, Sealer};
use portolan_model::{Caller, IdSource, Role, Scope, Secret};
use portolan_storage::{Secured, StorageExt, UnitOfWork};
use portolan_testkit::clock::SeededIds;

#[test]
fn sealed_texts_open_only_where_they_belong_and_unchanged() {
    let ids = SeededIds::new(1);
    let key = MasterKey::from_bytes([1; 32]);
    let (sealer, row) = (Sealer::new(&key, "a"), ids.uuid());
    let sealed = sealer.seal(&ids, row, "owner", b"hunter2").unwrap();
    assert_eq!(sealer.open(row, "owner", &sealed).unwrap().as_slice(), b"hunter2");
    assert_ne!(sealed, sealer.seal(&ids, row, "owner", b"hunter2").unwrap(), "nonces are fresh");
    assert_eq!(sealer.open(ids.uuid(), "owner", &sealed), Err(SealError::Broken));
    assert_eq!(sealer.open(row, "other", &sealed), Err(SealError::Broken));
    assert_eq!(Sealer::new(&key, "b").open(row, "owner", &sealed), Err(SealError::Broken));
    let stranger = Sealer::new(&MasterKey::from_bytes([2; 32]), "a");
    assert_eq!(stranger.open(row, "owner", &sealed), Err(SealError::Broken));
    for at in 0..sealed.len() {
        let mut bytes = sealed.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'Z' } else { b'A' };
        assert!(sealer.open(row, "owner", std::str::from_utf8(&bytes).unwrap()).is_err(), "changed at {at}");
        assert!(sealer.open(row, "owner", &sealed[..at]).is_err(), "cut at {at}");
    }
    assert!(!format!("{sealer:?}").contains("[1, 1"));
    let empty = sealer.seal(&ids, row, "owner", b"").unwrap();
    assert!(sealer.open(row, "owner", &empty).unwrap().is_empty());
}

#[tokio::test]
async fn secrets_are_kept_replaced_and_forgotten() {
    let world = World::new();
    let secrets = &world.access.secrets;
    assert!(matches!(secrets.get("a:1").await, Err(AccessError::NotFound { .. })));
    secrets.put("a:1", &Secret::new("one")).await.unwrap();
    secrets.put("a:2", &Secret::new("zwei 🔑")).await.unwrap();
    secrets.put("a:1", &Secret::new("uno")).await.unwrap();
    assert_eq!(secrets.get("a:1").await.unwrap().reveal(), "uno");
    assert_eq!(world.another().secrets.get("a:2").await.unwrap().reveal(), "zwei 🔑");
    secrets.remove("a:1").await.unwrap();
    secrets.remove("a:1").await.unwrap();
    assert!(secrets.find("a:1").await.unwrap().is_none());
    for owner in ["", "two words", &"x".repeat(201)] {
        assert!(matches!(secrets.put(owner, &Secret::new("x")).await, Err(AccessError::Invalid(_))));
    }
}

#[tokio::test]
async fn swapped_rows_are_noticed() {
    let world = World::new();
    let secrets = &world.access.secrets;
    secrets.put("a:1", &Secret::new("one")).await.unwrap();
    secrets.put("a:2", &Secret::new("two")).await.unwrap();
    let find = async |key: &str| world.storage.find_by_key::<Secured>(Scope::All, key).await.unwrap().unwrap();
    let (mut one, two) = (find("secured:a:1").await, find("secured:a:2").await);
    assert!(!one.sealed.contains("one"));
    one.sealed.clone_from(&two.sealed);
    world.storage.apply(Default::default(), Scope::All, UnitOfWork::new().update(&one)).await.unwrap();
    assert!(matches!(secrets.get("a:1").await, Err(AccessError::Damaged { .. })));
    assert_eq!(secrets.get("a:2").await.unwrap().reveal(), "two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_at_the_same_time_leave_one_whole_secret() {
    let world = World::new();
    let writers: Vec<_> = (0..8)
        .map(|n| {
            let secrets = world.another().secrets;
            tokio::spawn(async move { secrets.put("a:1", &Secret::new(format!("value {n}"))).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    assert!(world.access.secrets.get("a:1").await.unwrap().reveal().starts_with("value "));
}

#[tokio::test]
async fn disclosing_takes_its_privilege_and_leaves_an_event() {
    let world = World::new();
    let secrets = &world.access.secrets;
    secrets.put("host:1:ssh", &Secret::new("key")).await.unwrap();
    let mut caller = Caller { role: Role::Operator, ..Caller::system() };
    assert!(matches!(secrets.disclose(&caller, "host:1:ssh").await, Err(AccessError::Denied(_))));
    caller.role = Role::Administrator;
    assert_eq!(secrets.disclose(&caller, "host:1:ssh").await.unwrap().reveal(), "key");
    let events = world.storage.events(Scope::All, 0, 10).await.unwrap();
    assert_eq!(events.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["secret.disclosed"]);
    let tenant = portolan_model::TenantId::from_uuid(world.ids.uuid());
    caller.scope = Scope::Tenant(tenant);
    assert!(matches!(secrets.disclose(&caller, "host:1:ssh").await, Err(AccessError::NotFound { .. })));
}
