//! Accounts and tenants: who may do what to whom.

mod common;

use common::{World, new_account, right};
use portolan_access::{AccessError, AccountChange, NewAccount};
use portolan_model::query::Filter;
use portolan_model::{Account, Caller, IdSource, Role, Scope, Secret, TenantId};
use portolan_storage::{Kind, Query, StorageExt};

const DISABLE: AccountChange = AccountChange { role: None, enabled: Some(false), time_zone: None };

fn conflict<T>(result: Result<T, AccessError>) -> bool {
    matches!(result, Err(AccessError::Conflict(_)))
}

fn missing<T>(result: Result<T, AccessError>) -> bool {
    matches!(result, Err(AccessError::NotFound { .. }))
}

#[tokio::test]
async fn only_those_who_may_manage_accounts() {
    let world = World::new();
    let bob = world.account("bob", Role::Operator, None).await;
    let accounts = &world.access.accounts;
    let caller = world.access.logins.authenticate("bob", &right(), None).await.unwrap();
    let denied = |e: AccessError| assert!(matches!(e, AccessError::Denied(_)), "{e}");
    denied(accounts.create(&caller, new_account("eve", Role::Viewer, None)).await.unwrap_err());
    denied(accounts.list(&caller, Query::default()).await.unwrap_err());
    denied(accounts.change(&caller, bob, DISABLE).await.unwrap_err());
    denied(accounts.set_password(&caller, bob, &right()).await.unwrap_err());
    denied(accounts.delete(&caller, bob).await.unwrap_err());
    denied(world.access.tenants.create(&caller, "t", "").await.unwrap_err());
    assert_eq!(accounts.get(&caller, bob).await.unwrap().login.as_str(), "bob", "everybody sees themselves");
}

#[tokio::test]
async fn an_account_can_begin_with_a_hash() {
    let world = World::new();
    world.account("bob", Role::Operator, None).await;
    let system = Caller::system();
    let stored = world.storage.find_by_key::<Account>(Scope::All, "account:bob").await.unwrap().unwrap();
    let hash = Secret::new(format!("{}\n", stored.password_hash));
    let new = |login: &str| NewAccount { password: Secret::default(), ..new_account(login, Role::Viewer, None) };
    world.access.accounts.create_hashed(&system, new("eve"), &hash).await.unwrap();
    assert_eq!(world.access.logins.authenticate("eve", &right(), None).await.unwrap().login, "eve");
    for bad in
        ["", "hunter2", "$2b$12$abc", "$argon2i$v=19$m=64,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAA", "$argon2id$v=19$m=64"]
    {
        let made = world.access.accounts.create_hashed(&system, new("mallory"), &Secret::new(bad)).await;
        assert!(matches!(made, Err(AccessError::Invalid(_))), "{bad}");
    }
}

#[tokio::test]
async fn input_is_checked_and_changes_nothing_when_bad() {
    let world = World::new();
    world.account("Bob", Role::Operator, None).await;
    let system = Caller::system();
    let create = async |new: NewAccount| world.access.accounts.create(&system, new).await;
    let good = || new_account("eve", Role::Viewer, None);
    assert!(conflict(create(NewAccount { login: " bOB".into(), ..good() }).await));
    let unknown = TenantId::from_uuid(world.ids.uuid());
    assert!(missing(create(NewAccount { tenant: Some(unknown), ..good() }).await));
    for bad in [
        NewAccount { login: String::new(), ..good() },
        NewAccount { login: "x".repeat(256), ..good() },
        NewAccount { password: Secret::new("short"), ..good() },
        NewAccount { time_zone: Some("Mars/Base".into()), ..good() },
    ] {
        assert!(matches!(create(bad).await, Err(AccessError::Invalid(_))));
    }
    assert_eq!(world.storage.count(Scope::All, Kind::Account, &Filter::All).await.unwrap(), 1);
    let eve = create(NewAccount { time_zone: Some("Europe/Berlin".into()), ..good() }).await.unwrap();
    assert_eq!((eve.time_zone.as_str(), eve.enabled, eve.last_login), ("Europe/Berlin", true, None));
    let found = world.access.accounts.by_login(&system, "EVE").await.unwrap();
    assert_eq!(found, eve);
    let list = world.access.accounts.list(&system, Query::default()).await.unwrap();
    assert_eq!(list.items.len(), 2);
}

#[tokio::test]
async fn a_tenants_administrator_stays_within_the_tenant() {
    let world = World::new();
    let system = Caller::system();
    let (tenants, accounts) = (&world.access.tenants, &world.access.accounts);
    let blue = tenants.create(&system, "blue", "os-blue").await.unwrap().id;
    let red = tenants.create(&system, "red", "").await.unwrap().id;
    let root = world.account("root", Role::Administrator, None).await;
    let rita = world.account("rita", Role::Viewer, Some(red)).await;
    world.account("bea", Role::Administrator, Some(blue)).await;
    let bea = world.access.logins.authenticate("bea", &right(), None).await.unwrap();
    for other in [root, rita] {
        assert!(missing(accounts.get(&bea, other).await));
        assert!(missing(accounts.change(&bea, other, DISABLE).await));
        assert!(missing(accounts.set_password(&bea, other, &right()).await));
        assert!(missing(accounts.delete(&bea, other).await));
    }
    assert!(missing(accounts.create(&bea, new_account("spy", Role::Viewer, Some(red))).await));
    let ben = accounts.create(&bea, new_account("ben", Role::Administrator, None)).await.unwrap();
    assert_eq!(ben.tenant, Some(blue));
    assert!(conflict(accounts.create(&bea, new_account("rita", Role::Viewer, None)).await));
    let seen = accounts.list(&bea, Query::default()).await.unwrap();
    assert_eq!(seen.items.len(), 2);
    assert!(matches!(tenants.delete(&bea, blue).await, Err(AccessError::Denied(_))));
    assert!(matches!(tenants.create(&bea, "green", "").await, Err(AccessError::Denied(_))));
    assert!(missing(tenants.get(&bea, red).await));
    assert_eq!(tenants.by_external_id(&bea, "os-blue").await.unwrap().id, blue);
    assert_eq!(tenants.list(&bea, Query::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn tenants_with_anything_in_them_stay() {
    let world = World::new();
    let system = Caller::system();
    let tenants = &world.access.tenants;
    let blue = tenants.create(&system, "blue", "os-blue").await.unwrap().id;
    assert!(conflict(tenants.create(&system, "BLUE", "").await));
    assert!(conflict(tenants.create(&system, "other", "os-blue").await));
    assert!(matches!(tenants.create(&system, "x", "line\nbreak").await, Err(AccessError::Invalid(_))));
    let bob = world.account("bob", Role::Viewer, Some(blue)).await;
    assert!(conflict(tenants.delete(&system, blue).await));
    world.access.accounts.delete(&system, bob).await.unwrap();
    tenants.delete(&system, blue).await.unwrap();
    assert!(missing(tenants.delete(&system, blue).await));
    assert!(missing(tenants.by_external_id(&system, "").await));
}

#[tokio::test]
async fn the_last_administrator_stays() {
    let world = World::new();
    let system = Caller::system();
    let accounts = &world.access.accounts;
    let blue = world.access.tenants.create(&system, "blue", "").await.unwrap().id;
    let root = world.account("root", Role::Administrator, None).await;
    world.account("bea", Role::Administrator, Some(blue)).await;
    let demote = AccountChange { role: Some(Role::Operator), ..AccountChange::default() };
    assert!(conflict(accounts.change(&system, root, DISABLE).await));
    assert!(conflict(accounts.change(&system, root, demote.clone()).await));
    assert!(conflict(accounts.delete(&system, root).await));
    let second = world.account("second", Role::Administrator, None).await;
    accounts.change(&system, root, demote).await.unwrap();
    assert!(conflict(accounts.delete(&system, second).await));
    accounts.delete(&system, root).await.unwrap();
    assert!(missing(accounts.delete(&system, root).await));
}

#[tokio::test]
async fn a_generated_first_password_is_told_until_it_is_delivered() {
    let world = World::new();
    let first = world.access.accounts.ensure_admin(None).await.unwrap();
    assert!(first.created && first.login == "admin");
    let password = first.generated_password.unwrap();
    assert!(password.reveal().len() >= 20);
    let admin = world.access.logins.authenticate("admin", &password, None).await.unwrap();
    assert_eq!((admin.role, admin.scope), (Role::Administrator, Scope::All));
    // Killed before it was shown: the next start tells it again.
    let again = world.another().accounts.ensure_admin(None).await.unwrap();
    assert!(!again.created && again.generated_password.unwrap().matches(password.reveal()));
    world.access.accounts.first_password_delivered().await.unwrap();
    let later = world.another().accounts.ensure_admin(Some(Secret::new("something else"))).await.unwrap();
    assert!(!later.created && later.generated_password.is_none());
    world.another().logins.authenticate("admin", &password, None).await.unwrap();
    assert_eq!(world.storage.count(Scope::All, Kind::Secured, &Filter::All).await.unwrap(), 0);
}

#[tokio::test]
async fn a_given_first_password_is_used_and_a_changed_one_forgets_the_generated() {
    let world = World::new();
    let short = world.access.accounts.ensure_admin(Some(Secret::new("short"))).await;
    assert!(matches!(short, Err(AccessError::Invalid(_))));
    let first = world.access.accounts.ensure_admin(Some(right())).await.unwrap();
    assert!(first.created && first.generated_password.is_none());
    world.access.logins.authenticate("admin", &right(), None).await.unwrap();

    let world = World::new();
    let password = world.access.accounts.ensure_admin(None).await.unwrap().generated_password.unwrap();
    let admin = world.access.logins.authenticate("admin", &password, None).await.unwrap();
    world.access.accounts.change_own_password(&admin, &password, &right(), None).await.unwrap();
    assert!(world.access.accounts.ensure_admin(None).await.unwrap().generated_password.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_starts_at_the_same_time_make_one_administrator() {
    let world = World::new();
    let starts: Vec<_> = (0..8)
        .map(|_| {
            let access = world.another();
            tokio::spawn(async move { access.accounts.ensure_admin(None).await.unwrap() })
        })
        .collect();
    let mut made = Vec::new();
    for start in starts {
        made.push(start.await.unwrap());
    }
    assert_eq!(made.iter().filter(|first| first.created).count(), 1);
    let password = made[0].generated_password.clone().unwrap();
    assert!(made.iter().all(|first| first.generated_password.as_ref().unwrap().matches(password.reveal())));
    let accounts = world.storage.list_of::<Account>(Scope::All, Query::default()).await.unwrap();
    assert_eq!(accounts.items.len(), 1);
    world.access.logins.authenticate("admin", &password, None).await.unwrap();
}

#[tokio::test]
async fn nothing_prints_a_secret() {
    let world = World::new();
    let new = new_account("bob", Role::Viewer, None);
    assert!(!format!("{new:?}").contains(right().reveal()));
    let first = world.access.accounts.ensure_admin(None).await.unwrap();
    let shown = format!("{first:?} {:?}", world.access);
    assert!(!shown.contains(first.generated_password.unwrap().reveal()));
}
