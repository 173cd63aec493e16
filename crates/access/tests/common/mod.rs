//! What the tests share: a world over the memory store with a clock that stands still.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "a test that cannot go on should stop")]

use portolan_access::{
    Access, AccessOptions, Bucket, LoginRules, MasterKey, NewAccount, PasswordCost, SessionRules, Throttling, Vault,
};
use portolan_model::{AccountId, Caller, IdSource, Role, Secret, TenantId};
use portolan_storage::MemoryStorage;
use portolan_storage::Storage;
use portolan_testkit::clock::{FakeClock, SeededIds};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub struct World {
    pub storage: Arc<dyn Storage>,
    pub clock: Arc<FakeClock>,
    pub ids: Arc<SeededIds>,
    pub options: AccessOptions,
    pub access: Access,
}

/// The cheapest cost that Argon2 takes.
pub const CHEAP: PasswordCost = PasswordCost { memory_kib: 8, passes: 1, lanes: 1 };

pub fn options() -> AccessOptions {
    let login = Bucket { burst: 3, refill: Duration::from_secs(10) };
    let peer = Bucket { burst: 1000, refill: Duration::from_millis(100) };
    AccessOptions {
        cost: CHEAP,
        logins: LoginRules { throttling: Throttling { login, peer, remembered: 1000 }, ..LoginRules::default() },
        sessions: SessionRules { per_account: 10, ..SessionRules::default() },
        alone: false,
    }
}

impl World {
    pub fn new() -> Self {
        Self::with(options())
    }

    pub fn with(options: AccessOptions) -> Self {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let (clock, ids) = (Arc::new(FakeClock::default()), Arc::new(SeededIds::default()));
        let access = start(&storage, &clock, ids.clone(), options.clone());
        Self { storage, clock, ids, options, access }
    }

    /// Another process over the same store.
    pub fn another(&self) -> Access {
        start(&self.storage, &self.clock, self.ids.clone(), self.options.clone())
    }

    pub async fn account(&self, login: &str, role: Role, tenant: Option<TenantId>) -> AccountId {
        self.access.accounts.create(&Caller::system(), new_account(login, role, tenant)).await.unwrap().id
    }
}

pub fn start(
    storage: &Arc<dyn Storage>,
    clock: &Arc<FakeClock>,
    ids: Arc<dyn IdSource>,
    options: AccessOptions,
) -> Access {
    let vault = Vault::unchecked(MasterKey::from_bytes([9; 32]));
    Access::new(storage.clone(), vault, clock.clone(), ids, options).unwrap()
}

/// An account whose password is [`right`].
pub fn new_account(login: &str, role: Role, tenant: Option<TenantId>) -> NewAccount {
    NewAccount { login: login.into(), password: right(), role, tenant, time_zone: None }
}

pub fn right() -> Secret {
    Secret::new("correct horse")
}

pub fn wrong() -> Secret {
    Secret::new("battery staple")
}

pub fn peer(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}
