//! What happens when somebody else acts between a use case's last read and its write. Use cases ask for the time
//! right before they write, so a clock is the place to act from.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use common::{World, new_account, right};
use portolan_access::{Access, AccessError, KeyFile, MasterKey, Vault, unlock};
use portolan_model::query::Filter;
use portolan_model::{Caller, Clock, Role, Scope, Secret, Timestamp};
use portolan_storage::Kind;
use portolan_testkit::clock::{FakeClock, SeededIds};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

type Deed = Box<dyn FnOnce() + Send>;

/// A clock that does something when it is asked for the n-th time.
#[derive(Default)]
struct Intruder {
    clock: FakeClock,
    deed: Mutex<Option<(u32, Deed)>>,
}

impl Intruder {
    /// Acts at the `n`-th question from now, counted from 1.
    fn at(&self, n: u32, deed: impl FnOnce() + Send + 'static) {
        *self.deed.lock().unwrap() = Some((n, Box::new(deed)));
    }

    fn has_acted(&self) -> bool {
        self.deed.lock().unwrap().is_none()
    }
}

impl fmt::Debug for Intruder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Intruder")
    }
}

impl Clock for Intruder {
    fn now(&self) -> Timestamp {
        let deed = {
            let mut place = self.deed.lock().unwrap();
            match place.take() {
                Some((1, deed)) => Some(deed),
                Some((n, deed)) => {
                    *place = Some((n - 1, deed));
                    None
                }
                None => None,
            }
        };
        if let Some(deed) = deed {
            deed();
        }
        self.clock.now()
    }
}

/// Runs what does not wait for anything: the memory store never does.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("this waits for something"),
    }
}

/// A world, and a process in it whose clock is the intruder's.
fn watched() -> (World, Access, Arc<Intruder>) {
    let (world, clock) = (World::new(), Arc::new(Intruder::default()));
    let vault = Vault::unchecked(MasterKey::from_bytes([9; 32]));
    let (storage, ids) = (world.storage.clone(), world.ids.clone());
    let access = Access::new(storage, vault, clock.clone(), ids, world.options.clone()).unwrap();
    (world, access, clock)
}

#[tokio::test]
async fn no_account_is_made_in_a_tenant_that_just_went() {
    let (world, access, clock) = watched();
    let tenant = world.access.tenants.create(&Caller::system(), "blue", "").await.unwrap().id;
    let other = world.another();
    clock.at(2, move || at_once(other.tenants.delete(&Caller::system(), tenant)).unwrap());
    let made = access.accounts.create(&Caller::system(), new_account("bob", Role::Viewer, Some(tenant))).await;
    assert!(clock.has_acted() && matches!(made, Err(AccessError::NotFound { .. })), "{made:?}");
    assert_eq!(world.storage.count(Scope::All, Kind::Account, &Filter::All).await.unwrap(), 0);
}

#[tokio::test]
async fn two_administrators_cannot_take_each_other_away() {
    // With and without the guard's record from an earlier time.
    for earlier in [false, true] {
        let (world, access, clock) = watched();
        let [a, b, c] = [
            world.account("a", Role::Administrator, None).await,
            world.account("b", Role::Administrator, None).await,
            world.account("c", Role::Administrator, None).await,
        ];
        if earlier {
            world.access.accounts.delete(&Caller::system(), c).await.unwrap();
        } else {
            let unit = portolan_storage::UnitOfWork::new().delete::<portolan_model::Account>(c);
            world.storage.apply(clock.now(), Scope::All, unit).await.unwrap();
        }
        let other = world.another();
        clock.at(1, move || drop(at_once(other.accounts.set_enabled(&Caller::system(), b, false)).unwrap()));
        let deleted = access.accounts.delete(&Caller::system(), a).await;
        assert!(clock.has_acted() && matches!(deleted, Err(AccessError::Conflict(_))), "{deleted:?}");
    }
}

#[tokio::test]
async fn no_session_slips_past_the_end_of_its_account() {
    let (world, access, clock) = watched();
    let bob = world.account("bob", Role::Viewer, None).await;
    // Remembered credentials: the time is asked for once to look them up, and once to write the session.
    access.sessions.open("bob", &right(), "vplus", None).await.unwrap();
    let other = world.another();
    clock.at(2, move || drop(at_once(other.accounts.set_enabled(&Caller::system(), bob, false)).unwrap()));
    let opened = access.sessions.open("bob", &right(), "vplus", None).await;
    assert!(clock.has_acted() && matches!(opened, Err(AccessError::Unauthenticated)), "{opened:?}");
    assert_eq!(world.storage.count(Scope::All, Kind::Session, &Filter::All).await.unwrap(), 1);
}

#[tokio::test]
async fn a_secret_that_is_put_twice_at_once_is_there_once() {
    let (world, access, clock) = watched();
    let other = world.another();
    clock.at(1, move || at_once(other.secrets.put("a:1", &Secret::new("theirs"))).unwrap());
    access.secrets.put("a:1", &Secret::new("ours")).await.unwrap();
    assert!(clock.has_acted());
    assert_eq!(world.access.secrets.get("a:1").await.unwrap().reveal(), "ours");
    assert_eq!(world.storage.count(Scope::All, Kind::Secured, &Filter::All).await.unwrap(), 1);
}

#[tokio::test]
async fn of_two_first_starts_with_different_keys_one_is_refused() {
    for same in [true, false] {
        let (world, _, clock) = watched();
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join(if same { "ours" } else { "theirs" }));
        let storage = world.storage.clone();
        clock.at(1, move || {
            let start =
                async { unlock(&*storage, &KeyFile::new(theirs), &FakeClock::default(), &SeededIds::new(5)).await };
            at_once(start).unwrap();
        });
        let unlocked = unlock(&*world.storage, &KeyFile::new(&ours), clock.as_ref(), &SeededIds::new(6)).await;
        assert!(clock.has_acted());
        if same {
            unlocked.unwrap();
        } else {
            assert!(matches!(unlocked, Err(AccessError::KeyMismatch { .. })));
        }
    }
}
