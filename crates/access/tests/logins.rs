//! Logging in: verification, memory of it, and throttling.

mod common;

use common::{CHEAP, World, options, peer, right, start, wrong};
use portolan_access::{AccessError, PasswordCost};
use portolan_model::{Account, Caller, Role, Scope, Secret, Timestamp};
use portolan_storage::{EventQuery, StorageExt};
use std::time::Duration;

#[tokio::test]
async fn the_caller_is_what_the_account_is() {
    let world = World::new();
    let tenant = world.access.tenants.create(&Caller::system(), "blue", "os-1").await.unwrap().id;
    let all = world.account("Ops", Role::Operator, None).await;
    world.account("tina", Role::Viewer, Some(tenant)).await;
    let ops = world.access.logins.authenticate(" oPS ", &right(), None).await.unwrap();
    assert_eq!(
        ops,
        Caller {
            account: Some(all),
            session: None,
            token: None,
            login: "Ops".into(),
            role: Role::Operator,
            scope: Scope::All,
            request: None
        }
    );
    let tina = world.access.logins.authenticate("tina", &right(), None).await.unwrap();
    assert_eq!((tina.role, tina.scope), (Role::Viewer, Scope::Tenant(tenant)));
}

#[tokio::test]
async fn long_and_foreign_logins_work_and_odd_input_is_refused_at_the_same_cost() {
    let world = World::new();
    let long = "ß".repeat(255);
    for login in [long.as_str(), "Ärger 用户 🔑", "a\u{0301}b"] {
        world.account(login, Role::Viewer, None).await;
        assert!(world.access.logins.authenticate(login, &right(), None).await.is_ok(), "{login}");
    }
    let overlong = Secret::new("x".repeat(100_000));
    for (login, password) in [
        (&"x".repeat(256), right()),
        (&"line\nbreak".to_owned(), right()),
        (&String::new(), right()),
        (&"nobody".to_owned(), right()),
        (&long, wrong()),
        (&long, Secret::new("")),
        (&long, overlong),
    ] {
        let before = world.access.logins.hashes();
        let error = world.access.logins.authenticate(login, &password, peer("10.0.0.1")).await.unwrap_err();
        assert!(matches!(error, AccessError::Unauthenticated), "{error}");
        assert_eq!(world.access.logins.hashes(), before + 1, "an unknown login costs what a wrong password does");
    }
}

#[tokio::test]
async fn right_credentials_are_remembered_for_a_while() {
    let world = World::new();
    world.account("bob", Role::Viewer, None).await;
    let start = world.access.logins.hashes();
    for _ in 0..100 {
        world.access.logins.authenticate("BOB", &right(), peer("10.0.0.1")).await.unwrap();
    }
    assert_eq!(world.access.logins.hashes(), start + 1);
    world.clock.advance(Duration::from_secs(61));
    world.access.logins.authenticate("bob", &right(), peer("10.0.0.1")).await.unwrap();
    assert_eq!(world.access.logins.hashes(), start + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_right_attempts_at_once_are_one_hash_and_no_failure() {
    let world = World::new();
    world.account("bob", Role::Viewer, None).await;
    let before = world.access.logins.hashes();
    let attempts: Vec<_> = (0..50)
        .map(|_| {
            let logins = world.access.logins.clone();
            tokio::spawn(async move { logins.authenticate("bob", &right(), peer("10.0.0.1")).await })
        })
        .collect();
    for attempt in attempts {
        attempt.await.unwrap().unwrap();
    }
    assert_eq!(world.access.logins.hashes(), before + 1);
}

#[tokio::test]
async fn failures_are_throttled_and_successes_never_are() {
    let world = World::new();
    world.account("bob", Role::Viewer, None).await;
    let logins = &world.access.logins;
    let (bad, good) = (peer("10.0.0.1"), peer("10.0.0.2"));
    // Right ones do not use anything up, even where each takes a hash.
    for _ in 0..20 {
        world.clock.advance(Duration::from_secs(61));
        logins.authenticate("bob", &right(), bad).await.unwrap();
    }
    for _ in 0..3 {
        assert!(matches!(logins.authenticate("bob", &wrong(), bad).await, Err(AccessError::Unauthenticated)));
    }
    let hashes = logins.hashes();
    let error = logins.authenticate("bob", &wrong(), bad).await.unwrap_err();
    assert!(matches!(error, AccessError::Throttled { retry_after } if retry_after == Duration::from_secs(10)));
    assert_eq!(logins.hashes(), hashes, "a throttled attempt costs nothing");
    // Remembered ones pass all the same; others from there, and everybody elsewhere, too.
    logins.authenticate("bob", &right(), bad).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    logins.authenticate("bob", &right(), good).await.unwrap();
    assert!(matches!(logins.authenticate("eve", &wrong(), bad).await, Err(AccessError::Unauthenticated)));
    world.clock.advance(Duration::from_secs(10));
    assert!(matches!(logins.authenticate("bob", &wrong(), bad).await, Err(AccessError::Unauthenticated)));
    // The login's name is unknown: throttled just so, or the difference would tell.
    for _ in 0..2 {
        assert!(matches!(logins.authenticate("eve", &wrong(), bad).await, Err(AccessError::Unauthenticated)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_at_once_do_not_slip_through() {
    let world = World::new();
    world.account("bob", Role::Viewer, None).await;
    let before = world.access.logins.hashes();
    let guesses: Vec<_> = (0..50)
        .map(|n| {
            let logins = world.access.logins.clone();
            tokio::spawn(async move {
                logins.authenticate("bob", &Secret::new(format!("guess {n}")), peer("10.0.0.1")).await
            })
        })
        .collect();
    let mut throttled = 0;
    for guess in guesses {
        throttled += usize::from(matches!(guess.await.unwrap(), Err(AccessError::Throttled { .. })));
    }
    assert_eq!((throttled, world.access.logins.hashes()), (47, before + 3));
}

#[tokio::test]
async fn a_changed_password_and_a_disabled_account_count_at_once_in_every_process() {
    let world = World::new();
    let bob = world.account("bob", Role::Viewer, None).await;
    let other = world.another();
    other.logins.authenticate("bob", &right(), None).await.unwrap();
    world.access.accounts.set_password(&Caller::system(), bob, &Secret::new("new password")).await.unwrap();
    assert!(matches!(other.logins.authenticate("bob", &right(), None).await, Err(AccessError::Unauthenticated)));
    other.logins.authenticate("bob", &Secret::new("new password"), None).await.unwrap();
    world.access.accounts.set_enabled(&Caller::system(), bob, false).await.unwrap();
    let refused = other.logins.authenticate("bob", &Secret::new("new password"), None).await;
    assert!(matches!(refused, Err(AccessError::Unauthenticated)));
    world.access.accounts.set_enabled(&Caller::system(), bob, true).await.unwrap();
    other.logins.authenticate("bob", &Secret::new("new password"), None).await.unwrap();
}

#[tokio::test]
async fn a_role_given_while_remembered_counts_at_once() {
    let world = World::new();
    let bob = world.account("bob", Role::Viewer, None).await;
    let other = world.another();
    assert_eq!(other.logins.authenticate("bob", &right(), None).await.unwrap().role, Role::Viewer);
    let change = portolan_access::AccountChange { role: Some(Role::Operator), ..Default::default() };
    world.access.accounts.change(&Caller::system(), bob, change).await.unwrap();
    let hashes = other.logins.hashes();
    assert_eq!(other.logins.authenticate("bob", &right(), None).await.unwrap().role, Role::Operator);
    assert_eq!(other.logins.hashes(), hashes);
}

#[tokio::test]
async fn hashes_are_made_anew_when_the_cost_changes() {
    let world = World::new();
    let bob = world.account("bob", Role::Viewer, None).await;
    let cost = PasswordCost { memory_kib: 16, ..CHEAP };
    let options = portolan_access::AccessOptions { cost, ..options() };
    let dearer = start(&world.storage, &world.clock, world.ids.clone(), options);
    dearer.logins.authenticate("bob", &right(), None).await.unwrap();
    let account = world.storage.fetch::<Account>(Scope::All, bob).await.unwrap();
    assert!(account.password_hash.contains("m=16,"), "{}", account.password_hash);
    let hashes = dearer.logins.hashes();
    dearer.logins.authenticate("bob", &right(), None).await.unwrap();
    assert_eq!(dearer.logins.hashes(), hashes, "the new hash is the remembered one");
    world.access.logins.authenticate("bob", &right(), None).await.unwrap();
}

#[tokio::test]
async fn times_of_logins_are_written_down_but_seldom() {
    let world = World::new();
    let bob = world.account("bob", Role::Viewer, None).await;
    let fetch = async || world.storage.fetch::<Account>(Scope::All, bob).await.unwrap();
    let t0 = Timestamp::from_millis(1_795_219_200_000);
    for _ in 0..5 {
        world.access.logins.authenticate("bob", &right(), None).await.unwrap();
        world.another().logins.authenticate("bob", &right(), None).await.unwrap();
        world.clock.advance(Duration::from_secs(1));
    }
    let account = fetch().await;
    assert_eq!((account.last_login, account.last_failed_login, account.version), (Some(t0), None, 2));
    world.access.logins.authenticate("bob", &wrong(), None).await.unwrap_err();
    assert_eq!(fetch().await.version, 2, "a failure writes nothing at once");
    world.access.tidy().await.unwrap();
    assert_eq!(fetch().await.last_failed_login, Some(t0 + Duration::from_secs(5)));
    world.access.tidy().await.unwrap();
    assert_eq!(fetch().await.version, 3);
}

/// What the log holds of a login: one event a minute for each account and dialect, with who and where from; one a
/// minute for each address that is slowed down, and never what was typed there.
#[tokio::test]
async fn logins_and_throttled_addresses_leave_bounded_events() {
    let world = World::new();
    let tenant = world.access.tenants.create(&Caller::system(), "blue", "os-1").await.unwrap().id;
    let (bob, _) =
        (world.account("Bob", Role::Viewer, None).await, world.account("amy", Role::Viewer, Some(tenant)).await);
    let names = || vec!["account.login".to_owned(), "login.".to_owned()];
    let events = async || {
        let query = EventQuery { names: names(), ..EventQuery::newest(1000) };
        world.storage.find_events(Scope::All, &query).await.unwrap()
    };
    for _ in 0..30 {
        world.access.logins.authenticate_on("orchestrator", "bob", &right(), peer("10.0.0.1")).await.unwrap();
        world.access.sessions.open("bob", &right(), "vplus", peer("10.0.0.1")).await.unwrap();
        world.access.sessions.open("amy", &right(), "vplus", None).await.unwrap();
    }
    let found = events().await;
    assert_eq!(found.len(), 3);
    let first = &found[2];
    assert_eq!((first.actor.as_str(), first.subject, first.tenant), ("Bob", Some(bob.uuid()), None));
    assert_eq!(first.data, serde_json::json!({ "dialect": "orchestrator", "peer": "10.0.0.1" }));
    assert_eq!((found[0].actor.as_str(), found[0].tenant), ("amy", Some(tenant)));
    world.clock.advance(Duration::from_secs(60));
    world.access.sessions.open("bob", &right(), "vplus", peer("10.0.0.1")).await.unwrap();
    assert_eq!(events().await.len(), 4);

    for _ in 0..20 {
        world.access.logins.authenticate("hunter2", &wrong(), peer("10.0.0.9")).await.unwrap_err();
    }
    let found = events().await;
    assert_eq!(found.len(), 5);
    assert_eq!((found[0].name.as_str(), found[0].subject, found[0].actor.as_str()), ("login.throttled", None, ""));
    assert_eq!(found[0].data, serde_json::json!({ "peer": "10.0.0.9" }));
    // However many addresses there are.
    for n in 0..200_u32 {
        for _ in 0..4 {
            let from = Some(std::net::IpAddr::V4((0x0b00_0000 + n).into()));
            world.access.logins.authenticate("hunter2", &wrong(), from).await.unwrap_err();
        }
    }
    let throttled = events().await.iter().filter(|e| e.name == "login.throttled").count();
    assert_eq!(throttled, 1 + 99);
}
