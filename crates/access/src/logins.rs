//! Logging in with a name and a password: verified, remembered for a short time, slowed down when it fails.

use crate::cache::{Cache, Key};
use crate::error::AccessError;
use crate::lately::Lately;
use crate::throttle::{Throttle, Throttling, place};
use crate::{Core, caller_of, login_key, password};
use portolan_model::{Account, AccountId, Caller, Name, Scope, Secret, Timestamp};
use portolan_storage::{NewEvent, StorageExt, StoreError, Stored, UnitOfWork};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The time of a login is written down again only after this long: most clients log in far more often.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// Logins of how many accounts and dialects are told apart for their events.
const MAX_LOGINS: usize = 10_000;
/// Of how many addresses it is told in a minute that they were slowed down: whoever has more does not fill the log.
const MAX_THROTTLED: usize = 100;
/// Of how many accounts a failure waits to be written down at the most.
const MAX_NOTES: usize = 10_000;

/// How often an account that changes under the verification is verified anew.
const ATTEMPTS: u32 = 4;

/// How logins are remembered and slowed down.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoginRules {
    /// How long verified credentials are taken without a password hash. Zero turns this off.
    pub remember: Duration,
    /// How many of them are remembered.
    pub remembered: usize,
    /// How failures are slowed down.
    pub throttling: Throttling,
}

impl Default for LoginRules {
    fn default() -> Self {
        Self { remember: Duration::from_secs(60), remembered: 4096, throttling: Throttling::default() }
    }
}

/// Verifies credentials.
#[derive(Debug, Clone)]
pub struct Logins(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    core: Arc<Core>,
    /// Drawn at the start of the process; what was remembered means nothing elsewhere.
    hash_key: Key,
    verified: Cache<Verified>,
    throttle: Throttle,
    /// Equal attempts wait for the first one, so that a client that opens many connections pays for one hash.
    flights: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
    /// When logins failed, until that is written down: doing so at once would tell known logins from unknown ones.
    failures: Mutex<HashMap<AccountId, Timestamp>>,
    /// Which logins left an event lately: accounts on dialects.
    told: Lately<(AccountId, String)>,
    /// The same of addresses that were slowed down.
    throttled: Lately<[u8; 16]>,
}

/// Credentials that were right for as long as the account has this password hash.
#[derive(Debug, Clone)]
struct Verified {
    account: AccountId,
    password_hash: Arc<str>,
}

impl Logins {
    pub(crate) fn new(core: Arc<Core>, rules: LoginRules) -> Self {
        let mut keys = [[0; 32]; 2];
        keys.iter_mut().for_each(|key| core.ids.fill(key));
        Self(Arc::new(Inner {
            hash_key: keys[0],
            verified: Cache::new(rules.remember, rules.remembered),
            throttle: Throttle::new(rules.throttling, keys[1]),
            flights: Mutex::default(),
            failures: Mutex::default(),
            told: Lately::new(NOTE_EVERY, MAX_LOGINS),
            throttled: Lately::new(NOTE_EVERY, MAX_THROTTLED),
            core,
        }))
    }

    /// Who holds these credentials. `peer` is the address that failures are counted for. Errors:
    /// `Unauthenticated` for an unknown login, a wrong password and a disabled account alike; `Throttled` after too
    /// many of them from there.
    ///
    /// An address that is slowed down leaves an event `login.throttled`, at most once a minute. A single failure
    /// leaves none, or anybody could fill the log: the account shows when its last one was.
    pub async fn authenticate(
        &self,
        login: &str,
        password: &Secret,
        peer: Option<IpAddr>,
    ) -> Result<Caller, AccessError> {
        self.verify(login, password, peer).await.map(|account| caller_of(&account, None))
    }

    /// The same on a dialect, as a login: it leaves an event `account.login`, at most once a minute for each account on
    /// each dialect, since some clients log in with every request.
    pub async fn authenticate_on(
        &self,
        dialect: &str,
        login: &str,
        password: &Secret,
        peer: Option<IpAddr>,
    ) -> Result<Caller, AccessError> {
        self.log_in(dialect, login, password, peer).await.map(|account| caller_of(&account, None))
    }

    /// The account that these credentials belong to, logged in on a dialect.
    pub(crate) async fn log_in(
        &self,
        dialect: &str,
        login: &str,
        password: &Secret,
        peer: Option<IpAddr>,
    ) -> Result<Stored<Account>, AccessError> {
        let account = self.verify(login, password, peer).await?;
        self.0.tell_login(&account, dialect, peer).await;
        Ok(account)
    }

    /// How many password hashes were computed so far, for metrics.
    pub fn hashes(&self) -> u64 {
        self.0.core.passwords.runs()
    }

    /// Forgets remembered credentials of an account. Other processes notice by themselves: each hit compares the
    /// account's password hash.
    pub(crate) fn forget(&self, account: AccountId) {
        self.0.verified.remove_if(|verified| verified.account == account);
    }

    /// Writes down when logins failed, where a success has not done so already.
    pub async fn flush_failures(&self) -> Result<(), AccessError> {
        let inner = &self.0;
        let waiting: Vec<_> = inner.failures.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
        for (account, at) in waiting {
            let note = |a: &mut Account| {
                (a.last_failed_login < Some(at)).then(|| a.last_failed_login = Some(at)).map(|()| UnitOfWork::new())
            };
            match inner.core.storage.change(inner.core.clock.now(), Scope::All, account, note).await {
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The account that these credentials belong to.
    pub(crate) async fn verify(
        &self,
        login: &str,
        password: &Secret,
        peer: Option<IpAddr>,
    ) -> Result<Stored<Account>, AccessError> {
        let inner = &*self.0;
        let name = Name::new(login).ok();
        let login = name.as_ref().map_or(login.trim(), Name::as_str).to_lowercase();
        let key = inner.key(&login, password);
        if let Some(account) = inner.remembered(&key).await? {
            return Ok(account);
        }
        let flight = Flight::new(inner, key);
        let _first = flight.lock.lock().await;
        if let Some(account) = inner.remembered(&key).await? {
            return Ok(account);
        }
        let now = inner.core.clock.now();
        let attempt = match inner.throttle.take(&login, peer, now) {
            Ok(attempt) => attempt,
            Err(retry_after) => {
                inner.tell_throttled(peer, now).await;
                return Err(AccessError::Throttled { retry_after });
            }
        };
        let known = name.is_some() && password.reveal().len() <= password::MAX_BYTES;
        let verified = inner.verify_once(known.then_some(&*login), password, key).await;
        if !matches!(verified, Err(AccessError::Unauthenticated)) {
            inner.throttle.give_back(attempt, inner.core.clock.now());
        }
        verified
    }
}

impl Inner {
    /// A keyed hash over login and password; the length in front keeps the two apart.
    fn key(&self, login: &str, password: &Secret) -> Key {
        let mut hasher = blake3::Hasher::new_keyed(&self.hash_key);
        hasher.update(&(login.len() as u64).to_le_bytes()).update(login.as_bytes());
        *hasher.update(password.reveal().as_bytes()).finalize().as_bytes()
    }

    /// The account of remembered credentials, as it is now.
    async fn remembered(&self, key: &Key) -> Result<Option<Stored<Account>>, AccessError> {
        let Some(verified) = self.verified.get(key, self.core.clock.now()) else { return Ok(None) };
        let account = self.core.storage.find::<Account>(Scope::All, verified.account).await?;
        let valid = account.filter(|a| a.enabled && *a.password_hash == *verified.password_hash);
        if valid.is_none() {
            self.verified.remove(key);
        }
        Ok(valid)
    }

    /// Verifies by password hash, whatever is remembered. An unknown login (`None` or not in the store) costs the
    /// same as a wrong password.
    async fn verify_once(
        &self,
        login: Option<&str>,
        password: &Secret,
        key: Key,
    ) -> Result<Stored<Account>, AccessError> {
        // An overlong password is refused whatever it is; the hash is computed for the time that it takes.
        let empty = Secret::default();
        let typed = if login.is_some() { password } else { &empty };
        for _ in 0..ATTEMPTS {
            let mark = self.verified.mark();
            let account = match login {
                Some(login) => self.core.storage.find_by_key::<Account>(Scope::All, &login_key(login)).await?,
                None => None,
            };
            let hash = account.as_ref().map(|a| a.password_hash.as_str());
            let right = self.core.passwords.verify(typed, hash).await?;
            let Some(account) = account else { return Err(AccessError::Unauthenticated) };
            if !right || !account.enabled {
                self.note_failure(account.id);
                tracing::info!(account.id = %account.id, account.enabled, "login refused");
                return Err(AccessError::Unauthenticated);
            }
            if let Some(account) = self.note_success(account, password).await? {
                let hash = account.password_hash.as_str().into();
                let verified = Verified { account: account.id, password_hash: hash };
                self.verified.put(mark, key, verified, self.core.clock.now());
                return Ok(account);
            }
        }
        Err(AccessError::Unauthenticated)
    }

    /// Leaves the event of a login, unless there was one lately. That it could not be written is no reason to refuse.
    async fn tell_login(&self, account: &Account, dialect: &str, peer: Option<IpAddr>) {
        let (now, key) = (self.core.clock.now(), (account.id, dialect.to_owned()));
        if !self.told.is_due(key.clone(), now) {
            return;
        }
        let data = serde_json::json!({ "dialect": dialect, "peer": peer });
        let login = account.login.as_str();
        let unit = UnitOfWork::new().event_by(login, "account.login", account.tenant, account.id.uuid(), data);
        if let Err(error) = self.core.storage.apply(now, Scope::All, unit).await {
            self.told.forget(&key);
            tracing::warn!(account.id = %account.id, %error, "the event of the login was not written down");
        }
    }

    /// Leaves the event of an address that is slowed down, unless there was one lately. What was typed stays out of it:
    /// people type passwords where logins belong.
    async fn tell_throttled(&self, peer: Option<IpAddr>, now: Timestamp) {
        let key = place(peer);
        if !self.throttled.is_due(key, now) {
            return;
        }
        let event = NewEvent {
            name: "login.throttled".into(),
            tenant: None,
            subject: None,
            actor: String::new(),
            data: serde_json::json!({ "peer": peer }),
        };
        let unit = UnitOfWork { events: vec![event], ..UnitOfWork::new() };
        if let Err(error) = self.core.storage.apply(now, Scope::All, unit).await {
            self.throttled.forget(&key);
            tracing::warn!(%error, "the event of a throttled address was not written down");
        }
    }

    fn note_failure(&self, account: AccountId) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < MAX_NOTES || failures.contains_key(&account) {
            failures.insert(account, self.core.clock.now());
        }
    }

    /// Writes down the login, the last failure before it, and a password hash of the present cost. That these
    /// could not be written is no reason to refuse. Nothing when the account has changed since it was verified,
    /// be it that another process has made the hash anew, and it must be verified again.
    async fn note_success(
        &self,
        account: Stored<Account>,
        password: &Secret,
    ) -> Result<Option<Stored<Account>>, AccessError> {
        let core = &self.core;
        let now = core.clock.now();
        let failed = self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&account.id);
        let rehashed = match core.passwords.is_outdated(&account.password_hash) {
            true => Some(core.passwords.hash(password).await?),
            false => None,
        };
        let due = account.last_login.is_none_or(|at| now.since(at) >= NOTE_EVERY);
        if !due && failed.is_none() && rehashed.is_none() {
            return Ok(Some(account));
        }
        let verified = account.password_hash.clone();
        let note = |a: &mut Account| {
            if a.password_hash != verified || !a.enabled {
                return None;
            }
            a.last_login = a.last_login.max(Some(now));
            a.last_failed_login = a.last_failed_login.max(failed);
            if let Some(hash) = &rehashed {
                a.password_hash.clone_from(hash);
            }
            Some(UnitOfWork::new())
        };
        match core.storage.change(now, Scope::All, account.id, note).await {
            Ok(written) => {
                let expected = rehashed.as_ref().unwrap_or(&verified);
                Ok((written.password_hash == *expected && written.enabled).then_some(written))
            }
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => {
                tracing::warn!(account.id = %account.id, %error, "the login was not written down");
                Ok(Some(account))
            }
        }
    }
}

/// A place in the line of equal attempts; leaves nothing behind, also when the client goes away.
struct Flight<'a> {
    inner: &'a Inner,
    key: Key,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl<'a> Flight<'a> {
    fn new(inner: &'a Inner, key: Key) -> Self {
        let lock = inner.flights.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        Self { inner, key, lock }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        // Ours goes under the map's lock, so that the last one to leave sees the map's own alone.
        let mut flights = self.inner.flights.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock = Arc::default();
        if flights.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            flights.remove(&self.key);
        }
    }
}
