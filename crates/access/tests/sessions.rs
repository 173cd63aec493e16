//! Sessions: their tokens, their lives, and their number.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use common::{World, options, right, start, wrong};
use portolan_access::{AccessError, AccountChange, Lifetime};
use portolan_model::query::Filter;
use portolan_model::{Caller, Role, Scope, Secret, Session};
use portolan_storage::{Kind, StorageExt};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

async fn opened(world: &World, login: &str) -> (Session, Secret) {
    world.access.sessions.open(login, &right(), "vplus", None).await.unwrap()
}

async fn stored(world: &World) -> u64 {
    world.storage.count(Scope::All, Kind::Session, &Filter::All).await.unwrap()
}

fn refused<T>(result: Result<T, AccessError>) -> bool {
    matches!(result, Err(AccessError::Unauthenticated))
}

#[tokio::test]
async fn a_token_stands_for_its_account_on_its_dialect() {
    let world = World::new();
    let bob = world.account("bob", Role::Operator, None).await;
    let (session, token) = opened(&world, "bob").await;
    let caller = world.access.sessions.authenticate(token.reveal(), "vplus").await.unwrap();
    assert_eq!((caller.account, caller.session, caller.role), (Some(bob), Some(session.id), Role::Operator));
    assert!(refused(world.access.sessions.authenticate(token.reveal(), "omnistack").await));
    for token in ["", "x", &"x".repeat(4000), &session.token_hash, &token.reveal()[1..]] {
        assert!(refused(world.access.sessions.authenticate(token, "vplus").await));
    }
    assert!(refused(world.access.sessions.open("bob", &wrong(), "vplus", None).await));
    let row = world.storage.fetch::<Session>(Scope::All, session.id).await.unwrap();
    assert!(token.reveal().len() == 43 && !format!("{row:?}").contains(token.reveal()), "the store never sees it");
}

#[tokio::test]
async fn tokens_outlive_a_restart_but_not_another_master_key() {
    let world = World::new();
    world.account("bob", Role::Operator, None).await;
    let (_, token) = opened(&world, "bob").await;
    world.another().sessions.authenticate(token.reveal(), "vplus").await.unwrap();
    let vault = portolan_access::Vault::unchecked(portolan_access::MasterKey::from_bytes([8; 32]));
    let (clock, ids) = (world.clock.clone(), world.ids.clone());
    let other = portolan_access::Access::new(world.storage.clone(), vault, clock, ids, options()).unwrap();
    assert!(refused(other.sessions.authenticate(token.reveal(), "vplus").await));
}

#[tokio::test]
async fn use_prolongs_a_session_with_few_writes() {
    let world = World::new();
    world.account("bob", Role::Operator, None).await;
    let (session, token) = opened(&world, "bob").await;
    for _ in 0..60 {
        world.clock.advance(MINUTE);
        world.access.sessions.authenticate(token.reveal(), "vplus").await.unwrap();
    }
    let row = world.storage.fetch::<Session>(Scope::All, session.id).await.unwrap();
    assert!(row.expires > session.expires + 55 * MINUTE);
    assert!((10..=20).contains(&row.version), "an hour of use took {} writes", row.version - 1);
    world.clock.advance(30 * MINUTE);
    assert!(refused(world.access.sessions.authenticate(token.reveal(), "vplus").await));
}

#[tokio::test]
async fn no_use_prolongs_a_session_beyond_its_day() {
    let world = World::new();
    world.account("bob", Role::Operator, None).await;
    let (_, token) = opened(&world, "bob").await;
    let mut minutes = 0;
    while world.access.sessions.authenticate(token.reveal(), "vplus").await.is_ok() {
        world.clock.advance(10 * MINUTE);
        minutes += 10;
        assert!(minutes <= 24 * 60);
    }
    assert_eq!(minutes, 24 * 60);
}

#[tokio::test]
async fn a_dialect_may_have_its_own_lifetime() {
    let mut options = options();
    let lifetime = Lifetime { idle: 10 * MINUTE, absolute: None };
    options.sessions.by_dialect.insert("omnistack".into(), lifetime);
    let world = World::with(options);
    world.account("bob", Role::Operator, None).await;
    let (_, short) = world.access.sessions.open("bob", &right(), "omnistack", None).await.unwrap();
    let (_, long) = opened(&world, "bob").await;
    world.clock.advance(10 * MINUTE);
    assert!(refused(world.access.sessions.authenticate(short.reveal(), "omnistack").await));
    world.access.sessions.authenticate(long.reveal(), "vplus").await.unwrap();
}

#[tokio::test]
async fn closing_counts_at_once_here_and_within_seconds_elsewhere() {
    let world = World::new();
    world.account("bob", Role::Operator, None).await;
    let (_, token) = opened(&world, "bob").await;
    let other = world.another();
    for access in [&world.access, &other] {
        access.sessions.authenticate(token.reveal(), "vplus").await.unwrap();
    }
    world.access.sessions.close(token.reveal()).await.unwrap();
    world.access.sessions.close(token.reveal()).await.unwrap();
    assert!(refused(world.access.sessions.authenticate(token.reveal(), "vplus").await));
    world.clock.advance(Duration::from_secs(5));
    assert!(refused(other.sessions.authenticate(token.reveal(), "vplus").await));
}

#[tokio::test]
async fn a_disabled_or_removed_account_has_no_sessions() {
    let world = World::new();
    let bob = world.account("bob", Role::Operator, None).await;
    let (_, token) = opened(&world, "bob").await;
    let find = async || world.access.sessions.authenticate(token.reveal(), "vplus").await;
    find().await.unwrap();
    let change = AccountChange { role: Some(Role::Viewer), ..AccountChange::default() };
    world.access.accounts.change(&Caller::system(), bob, change).await.unwrap();
    assert_eq!(find().await.unwrap().role, Role::Viewer);
    world.access.accounts.set_enabled(&Caller::system(), bob, false).await.unwrap();
    assert!(refused(find().await));
    world.access.accounts.set_enabled(&Caller::system(), bob, true).await.unwrap();
    find().await.unwrap();
    world.access.accounts.delete(&Caller::system(), bob).await.unwrap();
    assert!(refused(find().await));
    assert_eq!(stored(&world).await, 0);
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions() {
    let world = World::new();
    let bob = world.account("bob", Role::Operator, None).await;
    let (_, one) = opened(&world, "bob").await;
    let (_, two) = opened(&world, "bob").await;
    let accounts = &world.access.accounts;
    let caller = world.access.sessions.authenticate(one.reveal(), "vplus").await.unwrap();
    let new = Secret::new("another password");
    assert!(refused(accounts.change_own_password(&caller, &wrong(), &new, None).await));
    accounts.change_own_password(&caller, &right(), &new, None).await.unwrap();
    world.access.sessions.authenticate(one.reveal(), "vplus").await.unwrap();
    assert!(refused(world.access.sessions.authenticate(two.reveal(), "vplus").await));
    assert!(refused(world.access.sessions.open("bob", &right(), "vplus", None).await));
    let (_, three) = world.access.sessions.open("bob", &new, "vplus", None).await.unwrap();
    accounts.set_password(&Caller::system(), bob, &right()).await.unwrap();
    for token in [&one, &three] {
        assert!(refused(world.access.sessions.authenticate(token.reveal(), "vplus").await));
    }
    assert_eq!(stored(&world).await, 0);
}

#[tokio::test]
async fn clients_that_never_log_out_lose_their_oldest() {
    let world = World::new();
    let bob = world.account("bob", Role::Operator, None).await;
    world.account("eve", Role::Operator, None).await;
    let (_, kept) = opened(&world, "eve").await;
    let mut tokens = Vec::new();
    let hashes = world.access.logins.hashes();
    for _ in 0..50 {
        world.clock.advance(Duration::from_millis(1));
        tokens.push(opened(&world, "bob").await.1);
    }
    assert_eq!(world.access.logins.hashes(), hashes + 1, "logging in again costs no password hash");
    assert_eq!(stored(&world).await, 11);
    assert!(refused(world.access.sessions.authenticate(tokens[39].reveal(), "vplus").await));
    for token in tokens[40..].iter() {
        world.access.sessions.authenticate(token.reveal(), "vplus").await.unwrap();
    }
    world.access.sessions.authenticate(kept.reveal(), "vplus").await.unwrap();
    assert_eq!(world.access.sessions.close_all(bob).await.unwrap(), 10);
}

#[tokio::test]
async fn closing_and_sweeping_go_in_batches() {
    let mut options = options();
    options.sessions.per_account = 10_000;
    let world = World::with(options);
    let bob = world.account("bob", Role::Operator, None).await;
    for _ in 0..600 {
        opened(&world, "bob").await;
    }
    world.clock.advance(25 * MINUTE);
    let (_, fresh) = opened(&world, "bob").await;
    assert_eq!(world.access.sessions.sweep_expired().await.unwrap(), 0);
    world.clock.advance(6 * MINUTE);
    let mut swept = Vec::new();
    for _ in 0..4 {
        swept.push(world.access.tidy().await.unwrap());
    }
    assert_eq!(swept, [0, 0, 0, 0], "over for less than a minute");
    world.clock.advance(MINUTE);
    for n in [250, 250, 100, 0] {
        assert_eq!(world.access.tidy().await.unwrap(), n);
    }
    world.access.sessions.authenticate(fresh.reveal(), "vplus").await.unwrap();
    for _ in 0..300 {
        opened(&world, "bob").await;
    }
    assert_eq!(world.access.sessions.close_all(bob).await.unwrap(), 301);
    let again = start(&world.storage, &world.clock, world.ids.clone(), world.options.clone());
    assert!(refused(again.sessions.authenticate(fresh.reveal(), "vplus").await));
}
