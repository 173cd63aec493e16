//! API tokens: what they reach, how long they live, and what ends them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use common::{World, right};
use portolan_access::{AccessError, AccountChange, NewToken, TokenView};
use portolan_model::query::{Filter, Page};
use portolan_model::{AccountId, ApiToken, Caller, Role, Scope, Secret, TenantId};
use portolan_storage::{Kind, StorageExt};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn token(name: &str) -> NewToken {
    NewToken { name: name.into(), ..NewToken::default() }
}

fn refused<T: std::fmt::Debug>(result: Result<T, AccessError>) {
    assert!(matches!(result, Err(AccessError::Unauthenticated)), "{result:?}");
}

fn missing<T: std::fmt::Debug>(result: Result<T, AccessError>) {
    assert!(matches!(result, Err(AccessError::NotFound { .. })), "{result:?}");
}

fn invalid<T: std::fmt::Debug>(result: Result<T, AccessError>) {
    assert!(matches!(result, Err(AccessError::Invalid(_))), "{result:?}");
}

impl World {
    async fn login(&self, login: &str) -> Caller {
        self.access.logins.authenticate(login, &right(), None).await.unwrap()
    }

    async fn made(&self, caller: &Caller, new: NewToken) -> (TokenView, Secret) {
        self.access.tokens.create(caller, new).await.unwrap()
    }

    async fn holder(&self, token: &Secret) -> Result<Caller, AccessError> {
        self.access.tokens.authenticate(token.reveal()).await
    }

    async fn stored(&self) -> u64 {
        self.storage.count(Scope::All, Kind::ApiToken, &Filter::All).await.unwrap()
    }

    async fn tenant(&self, name: &str) -> TenantId {
        self.access.tenants.create(&Caller::system(), name, "").await.unwrap().id
    }
}

#[tokio::test]
async fn a_token_is_shown_once_and_stands_for_its_account() {
    let world = World::new();
    let bob = world.account("bob", Role::Operator, None).await;
    let caller = world.login("bob").await;
    let (view, secret) = world.made(&caller, token("nightly")).await;
    assert!(secret.reveal().starts_with("ptl_") && secret.reveal().len() == 47);
    assert_eq!((view.login.as_str(), view.role, view.tenant, view.expires), ("bob", Role::Operator, None, None));
    let found = world.holder(&secret).await.unwrap();
    assert_eq!((found.account, found.token, found.session), (Some(bob), Some(view.id), None));
    assert_eq!((found.role, found.scope, found.login.as_str()), (Role::Operator, Scope::All, "bob"));
    let row = world.storage.fetch::<ApiToken>(Scope::All, view.id).await.unwrap();
    let events = world.storage.events(Scope::All, 0, 1000).await.unwrap();
    let made = events.iter().find(|e| e.name == "token.created").unwrap();
    assert_eq!((made.actor.as_str(), made.subject), ("bob", Some(view.id.uuid())));
    for seen in [format!("{row:?}"), format!("{events:?}"), format!("{:?}", world.access)] {
        assert!(!seen.contains(&secret.reveal()[4..]), "the token is nowhere but with its owner");
    }
    let hash = format!("ptl_{}", &row.token_hash[..43]);
    for bad in
        ["", "ptl_", &"x".repeat(47), &secret.reveal()[1..], &format!("{}x", secret.reveal()), &hash, &"é".repeat(4000)]
    {
        refused(world.access.tokens.authenticate(bad).await);
    }
    assert!(matches!(world.access.tokens.create(&caller, token("NIGHTLY")).await, Err(AccessError::Conflict(_))));
    invalid(world.access.tokens.create(&caller, token("  ")).await);
    world.another().tokens.authenticate(secret.reveal()).await.unwrap();
}

#[tokio::test]
async fn a_token_never_does_more_than_its_account_or_its_maker() {
    let world = World::new();
    let (blue, red) = (world.tenant("blue").await, world.tenant("red").await);
    world.account("root", Role::Administrator, None).await;
    world.account("bea", Role::Operator, Some(blue)).await;
    let (root, bea) = (world.login("root").await, world.login("bea").await);
    let tokens = &world.access.tokens;
    // Not more than the account, whoever makes it.
    let for_bea = |role, tenant| NewToken { account: Some("BEA".into()), role, tenant, ..token("t") };
    invalid(tokens.create(&root, for_bea(Some(Role::Administrator), None)).await);
    missing(tokens.create(&root, for_bea(None, Some(red))).await);
    missing(tokens.create(&bea, NewToken { tenant: Some(red), ..token("t") }).await);
    let denied = tokens.create(&bea, NewToken { account: Some("root".into()), ..token("t") }).await;
    assert!(matches!(denied, Err(AccessError::Denied(_))));
    let (made, secret) = world.made(&root, for_bea(Some(Role::Viewer), None)).await;
    assert_eq!((made.role, made.tenant, made.login.as_str()), (Role::Viewer, Some(blue), "bea"));
    let found = world.holder(&secret).await.unwrap();
    assert_eq!((found.role, found.scope), (Role::Viewer, Scope::Tenant(blue)));
    // An account that is made less takes its tokens along, at once.
    let (_, wide) = world.made(&root, token("wide")).await;
    world.account("other", Role::Administrator, None).await;
    assert_eq!(world.holder(&wide).await.unwrap().role, Role::Administrator);
    let change = AccountChange { role: Some(Role::Viewer), ..AccountChange::default() };
    world.access.accounts.change(&Caller::system(), root.account.unwrap(), change).await.unwrap();
    assert_eq!(world.holder(&wide).await.unwrap().role, Role::Viewer);
}

#[tokio::test]
async fn a_token_that_a_token_makes_stays_within_it() {
    let world = World::new();
    let (blue, red) = (world.tenant("blue").await, world.tenant("red").await);
    world.account("root", Role::Administrator, None).await;
    let root = world.login("root").await;
    let end = root_end(&world);
    let narrow = NewToken { role: Some(Role::Operator), tenant: Some(blue), expires: Some(end), ..token("narrow") };
    let (_, secret) = world.made(&root, narrow).await;
    let caller = world.holder(&secret).await.unwrap();
    let tokens = &world.access.tokens;
    invalid(tokens.create(&caller, token("for ever")).await);
    invalid(tokens.create(&caller, NewToken { expires: Some(end + HOUR), ..token("longer") }).await);
    let within = |role, tenant| NewToken { role, tenant, expires: Some(end), ..token("within") };
    invalid(tokens.create(&caller, within(Some(Role::Administrator), None)).await);
    missing(tokens.create(&caller, within(None, Some(red))).await);
    let (made, _) = tokens.create(&caller, within(None, None)).await.unwrap();
    assert_eq!((made.role, made.tenant, made.expires), (Role::Operator, Some(blue), Some(end)));
    assert_eq!(world.access.accounts.get(&caller, root.account.unwrap()).await.unwrap().login.as_str(), "root");
}

fn root_end(world: &World) -> portolan_model::Timestamp {
    use portolan_model::Clock;
    world.clock.now() + HOUR
}

#[tokio::test]
async fn tokens_end_when_their_time_has_come_and_are_swept_a_month_later() {
    let world = World::new();
    world.account("bob", Role::Operator, None).await;
    let caller = world.login("bob").await;
    let end = root_end(&world);
    invalid(world.access.tokens.create(&caller, NewToken { expires: Some(end - HOUR), ..token("past") }).await);
    let (_, secret) = world.made(&caller, NewToken { expires: Some(end), ..token("short") }).await;
    world.made(&caller, token("long")).await;
    world.clock.advance(HOUR - Duration::from_secs(1));
    world.holder(&secret).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    refused(world.holder(&secret).await);
    world.access.tidy().await.unwrap();
    assert_eq!(world.stored().await, 2, "people still see that it ended");
    world.clock.advance(24 * 31 * HOUR);
    world.access.tidy().await.unwrap();
    assert_eq!(world.stored().await, 1);
}

#[tokio::test]
async fn use_is_written_down_once_an_hour() {
    let world = World::new();
    world.account("bob", Role::Operator, None).await;
    let caller = world.login("bob").await;
    let (view, secret) = world.made(&caller, token("t")).await;
    let start = root_end(&world) - HOUR;
    let version = async || world.storage.fetch::<ApiToken>(Scope::All, view.id).await.unwrap();
    assert_eq!(view.last_used, None);
    for _ in 0..60 {
        world.holder(&secret).await.unwrap();
        world.clock.advance(Duration::from_secs(59));
    }
    assert_eq!((version().await.last_used, version().await.version), (Some(start), 2));
    world.clock.advance(Duration::from_secs(60));
    world.holder(&secret).await.unwrap();
    assert_eq!((version().await.last_used, version().await.version), (Some(start + HOUR), 3));
}

#[tokio::test]
async fn what_ends_a_token_ends_it_at_once_here_and_in_seconds_elsewhere() {
    let world = World::new();
    let bob = world.account("bob", Role::Operator, None).await;
    let (caller, other) = (world.login("bob").await, world.another());
    let (view, secret) = world.made(&caller, token("t")).await;
    let (_, second) = world.made(&caller, token("second")).await;
    other.tokens.authenticate(secret.reveal()).await.unwrap();
    world.holder(&secret).await.unwrap();
    world.access.tokens.revoke(&caller, view.id).await.unwrap();
    refused(world.holder(&secret).await);
    world.clock.advance(Duration::from_secs(5));
    refused(other.tokens.authenticate(secret.reveal()).await);
    missing(world.access.tokens.revoke(&caller, view.id).await);
    // Disabled and enabled again, then removed.
    let accounts = &world.access.accounts;
    world.holder(&second).await.unwrap();
    accounts.set_enabled(&Caller::system(), bob, false).await.unwrap();
    refused(world.holder(&second).await);
    let made =
        world.access.tokens.create(&Caller::system(), NewToken { account: Some("bob".into()), ..token("x") }).await;
    assert!(matches!(made, Err(AccessError::Conflict(_))));
    accounts.set_enabled(&Caller::system(), bob, true).await.unwrap();
    world.holder(&second).await.unwrap();
    accounts.delete(&Caller::system(), bob).await.unwrap();
    refused(world.holder(&second).await);
    assert_eq!(world.stored().await, 0);
}

#[tokio::test]
async fn a_change_of_password_leaves_tokens_alone_and_a_reset_may_end_them() {
    let world = World::new();
    let bob = world.account("bob", Role::Operator, None).await;
    let (caller, system) = (world.login("bob").await, Caller::system());
    let (_, secret) = world.made(&caller, token("t")).await;
    let accounts = &world.access.accounts;
    accounts.change_own_password(&caller, &right(), &Secret::new("another one"), None).await.unwrap();
    world.holder(&secret).await.unwrap();
    let given = accounts.reset_password(&system, bob, Some(&right()), false).await.unwrap();
    assert!(given.is_none(), "a password that was given is not told back");
    world.holder(&secret).await.unwrap();
    let denied = accounts.reset_password(&caller, bob, None, false).await;
    assert!(matches!(denied, Err(AccessError::Denied(_))));
    let generated = accounts.reset_password(&system, bob, None, true).await.unwrap().unwrap();
    refused(world.holder(&secret).await);
    refused(world.access.logins.authenticate("bob", &right(), None).await);
    world.access.logins.authenticate("bob", &generated, None).await.unwrap();
}

#[tokio::test]
async fn everybody_sees_their_own_and_those_who_manage_see_their_tenants() {
    let world = World::new();
    let (blue, red) = (world.tenant("blue").await, world.tenant("red").await);
    world.account("root", Role::Administrator, None).await;
    world.account("bea", Role::Administrator, Some(blue)).await;
    world.account("rob", Role::Viewer, Some(red)).await;
    let (root, bea, rob) = (world.login("root").await, world.login("bea").await, world.login("rob").await);
    for caller in [&root, &bea, &rob] {
        world.made(caller, token("t")).await;
    }
    let tokens = &world.access.tokens;
    let seen = async |caller: &Caller| -> Vec<String> {
        let list = tokens.list(caller, Page::ALL).await.unwrap();
        assert_eq!(list.total, Some(list.items.len() as u64));
        let mut logins: Vec<_> = list.items.into_iter().map(|t| t.value.login).collect();
        logins.sort();
        logins
    };
    assert_eq!(seen(&root).await, ["bea", "rob", "root"]);
    assert_eq!(seen(&bea).await, ["bea"]);
    assert_eq!(seen(&rob).await, ["rob"]);
    let robs = tokens.find(&rob, "T").await.unwrap();
    missing(tokens.get(&bea, robs.id).await);
    missing(tokens.revoke(&bea, robs.id).await);
    missing(tokens.find(&bea, &robs.id.to_string()).await);
    assert_eq!(tokens.find(&root, &robs.id.to_string()).await.unwrap(), robs);
    assert_eq!(tokens.find(&root, "t").await.unwrap().login, "root", "the caller's own before others'");
    assert!(matches!(tokens.find(&Caller::system(), "t").await, Err(AccessError::Conflict(_))));
    missing(tokens.find(&rob, "unknown").await);
    invalid(tokens.create(&Caller::system(), token("nobody's")).await);
    let unknown = AccountId::from_uuid(robs.id.uuid()).to_string();
    missing(tokens.create(&root, NewToken { account: Some(unknown), ..token("t") }).await);
}

#[tokio::test]
async fn a_tenant_with_a_token_stays() {
    let world = World::new();
    let blue = world.tenant("blue").await;
    world.account("root", Role::Administrator, None).await;
    let root = world.login("root").await;
    let (view, _) = world.made(&root, NewToken { tenant: Some(blue), ..token("t") }).await;
    let tenants = &world.access.tenants;
    assert!(matches!(tenants.delete(&root, blue).await, Err(AccessError::Conflict(_))));
    world.access.tokens.revoke(&root, view.id).await.unwrap();
    tenants.delete(&root, blue).await.unwrap();
    missing(world.access.tokens.create(&root, NewToken { tenant: Some(blue), ..token("t") }).await);
}

#[tokio::test]
async fn tenants_are_renamed_and_found_by_name() {
    let world = World::new();
    let (blue, root, tenants) = (world.tenant("blue").await, Caller::system(), &world.access.tenants);
    world.tenant("red").await;
    tenants.rename(&root, blue, Some("Azure"), Some("os-1")).await.unwrap();
    assert_eq!(tenants.find(&root, " aZURE").await.unwrap().external_id, "os-1");
    assert_eq!(tenants.find(&root, &blue.to_string()).await.unwrap().name.as_str(), "Azure");
    missing(tenants.find(&root, "blue").await);
    assert!(matches!(tenants.rename(&root, blue, Some("RED"), None).await, Err(AccessError::Conflict(_))));
    let red = tenants.find(&root, "red").await.unwrap().id;
    assert!(matches!(tenants.rename(&root, red, None, Some("os-1")).await, Err(AccessError::Conflict(_))));
    invalid(tenants.rename(&root, red, Some(""), None).await);
    let bound = Caller { scope: Scope::Tenant(red), ..Caller::system() };
    assert!(matches!(tenants.rename(&bound, red, Some("x"), None).await, Err(AccessError::Denied(_))));
    missing(tenants.find(&bound, "azure").await);
}
