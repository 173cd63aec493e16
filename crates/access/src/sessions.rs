//! Sessions: a token for a login, known to the store by its keyed hash only.

use crate::cache::{Cache, Key};
use crate::error::AccessError;
use crate::logins::Logins;
use crate::vault::Vault;
use crate::{Core, MAX_REMEMBER, ROUNDS, caller_of};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portolan_model::query::{Filter, Page, Sort};
use portolan_model::{Account, AccountId, Caller, Scope, Secret, Session, SessionId, Timestamp};
use portolan_storage::{Conflict, Kind, Query, Require, StorageExt, StoreError, Stored, UnitOfWork};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use zeroize::Zeroizing;

/// How many sessions one unit removes at the most.
const BATCH: u64 = 250;
/// A session is swept only when it has been over for this long: clocks of several processes differ a little.
const GRACE: Duration = Duration::from_secs(60);
/// No token that was handed out is longer than this many bytes.
const MAX_TOKEN: usize = 128;
/// Opens of how many accounts are counted.
const MAX_COUNTED: usize = 10_000;

/// How long a session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Without use.
    pub idle: Duration,
    /// However much it is used; nothing for no such limit.
    pub absolute: Option<Duration>,
}

impl Default for Lifetime {
    fn default() -> Self {
        Self { idle: Duration::from_secs(30 * 60), absolute: Some(Duration::from_secs(24 * 60 * 60)) }
    }
}

/// How sessions behave.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionRules {
    /// How long they live, on dialects that are not named below.
    pub lifetime: Lifetime,
    /// How long they live on a dialect.
    pub by_dialect: HashMap<String, Lifetime>,
    /// About how many an account may hold; the oldest are dropped. Some clients never log out.
    pub per_account: u64,
    /// How long a looked-up session is taken for granted; 5 seconds at the most. Zero turns this off.
    pub remember: Duration,
    /// How many of them.
    pub remembered: usize,
}

impl Default for SessionRules {
    fn default() -> Self {
        Self {
            lifetime: Lifetime::default(),
            by_dialect: HashMap::new(),
            per_account: 10_000,
            remember: MAX_REMEMBER,
            remembered: 10_000,
        }
    }
}

/// Opens, finds and closes sessions.
#[derive(Debug, Clone)]
pub struct Sessions(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    logins: Logins,
    /// Derived from the master key: tokens outlive a restart, and a copy of the store yields none.
    hash_key: Zeroizing<Key>,
    rules: SessionRules,
    known: Cache<Known>,
    opened: Mutex<HashMap<AccountId, u64>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// A session that was looked up lately.
#[derive(Debug, Clone)]
struct Known {
    session: Session,
    caller: Caller,
}

impl Sessions {
    pub(crate) fn new(core: Arc<Core>, logins: Logins, vault: &Vault, mut rules: SessionRules) -> Self {
        rules.remember = rules.remember.min(MAX_REMEMBER);
        let known = Cache::new(rules.remember, rules.remembered);
        let hash_key = vault.hash_key("session token");
        Self(Arc::new(Inner { core, logins, hash_key, rules, known, opened: Mutex::default() }))
    }

    /// Logs in and opens a session on a dialect. The token is told here and never again. Errors: those of
    /// [`Logins::authenticate_on`], whose event it leaves.
    pub async fn open(
        &self,
        login: &str,
        password: &Secret,
        dialect: &str,
        peer: Option<IpAddr>,
    ) -> Result<(Session, Secret), AccessError> {
        let account = self.0.logins.log_in(dialect, login, password, peer).await?;
        self.open_for(account, dialect).await
    }

    /// Who holds a token. Uses the session: its life goes on. `Unauthenticated` for a token that is unknown,
    /// expired, of another dialect, or of an account that is gone or disabled.
    pub async fn authenticate(&self, token: &str, dialect: &str) -> Result<Caller, AccessError> {
        self.find(token, dialect).await.map(|known| known.caller)
    }

    /// The session of a token with its caller, under the conditions of [`Sessions::authenticate`].
    pub async fn session(&self, token: &str, dialect: &str) -> Result<(Session, Caller), AccessError> {
        self.find(token, dialect).await.map(|known| (known.session, known.caller))
    }

    /// Ends the session of a token; one that is not there is fine.
    pub async fn close(&self, token: &str) -> Result<(), AccessError> {
        let Some(hash) = self.0.hash(token) else { return Ok(()) };
        let found = self.0.core.storage.find_by_key::<Session>(Scope::All, &session_key(&hash)).await?;
        if let Some(session) = found {
            let unit = UnitOfWork::new().delete::<Session>(session.id);
            self.0.core.storage.apply(self.0.core.clock.now(), Scope::All, unit).await?;
        }
        self.0.known.remove(hash.as_bytes());
        Ok(())
    }

    /// Ends every session of an account, in bounded batches; returns how many.
    pub async fn close_all(&self, account: AccountId) -> Result<u64, AccessError> {
        self.close_where(account, None, None).await
    }

    /// Ends the sessions of an account that were opened up to an instant, but for one.
    pub(crate) async fn close_where(
        &self,
        account: AccountId,
        until: Option<Timestamp>,
        except: Option<SessionId>,
    ) -> Result<u64, AccessError> {
        let inner = &self.0;
        let mut closed = 0;
        let mut passed_over = 0;
        loop {
            let filter = Filter::eq("account", account.uuid());
            let page = Page { offset: passed_over, limit: Some(BATCH) };
            let batch = inner.list(filter, Sort::default(), page).await?;
            let full = batch.len() as u64 == BATCH;
            let mut unit = UnitOfWork::new();
            for session in batch {
                if Some(session.id) == except || until.is_some_and(|until| session.created > until) {
                    passed_over += 1;
                } else {
                    unit = unit.delete::<Session>(session.id);
                }
            }
            closed += unit.change.len() as u64;
            if !unit.change.is_empty() {
                inner.core.storage.apply(inner.core.clock.now(), Scope::All, unit).await?;
            }
            if !full {
                break;
            }
        }
        self.forget(account);
        Ok(closed)
    }

    /// Removes sessions that are over, a bounded number; returns how many. To be called from time to time.
    pub async fn sweep_expired(&self) -> Result<usize, AccessError> {
        let inner = &self.0;
        let now = inner.core.clock.now();
        let filter = Filter::Below("expires".into(), (now - GRACE).into());
        let batch = inner.list(filter, Sort::by("expires"), Page::first(BATCH)).await?;
        let unit = batch.iter().fold(UnitOfWork::new(), delete_as_read);
        match inner.core.storage.apply(now, Scope::All, unit).await {
            Ok(_) => return Ok(batch.len()),
            Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
        // Another process used or removed one of them meanwhile: one by one.
        let mut swept = 0;
        for session in &batch {
            match inner.core.storage.apply(now, Scope::All, delete_as_read(UnitOfWork::new(), session)).await {
                Ok(_) => swept += 1,
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(swept)
    }

    /// Forgets what was looked up about an account's sessions, so that changes of the account count at once.
    pub(crate) fn forget(&self, account: AccountId) {
        self.0.known.remove_if(|known| known.session.account == account);
    }

    /// Opens a session for an account that was just verified. The unit asks for the account to be as it was
    /// verified, so that no session slips past a change of the password.
    async fn open_for(&self, mut account: Stored<Account>, dialect: &str) -> Result<(Session, Secret), AccessError> {
        let inner = &self.0;
        let core = &inner.core;
        let mut bytes = Zeroizing::new([0; 32]);
        core.ids.fill(bytes.as_mut());
        let token = Secret::new(URL_SAFE_NO_PAD.encode(bytes.as_ref()));
        let hash = inner.hash(token.reveal()).ok_or(AccessError::Unauthenticated)?;
        let verified = account.password_hash.clone();
        for _ in 0..ROUNDS {
            let now = core.clock.now();
            let session = Session {
                id: SessionId::from_uuid(core.ids.uuid()),
                account: account.id,
                token_hash: hash.to_hex().to_string(),
                dialect: dialect.to_owned(),
                created: now,
                expires: inner.lifetime(dialect).end(now, now),
            };
            let same = Require::Version(Kind::Account, account.id.uuid(), account.version);
            match core.storage.apply(now, Scope::All, UnitOfWork::new().require(same).create(&session)).await {
                Ok(_) => {
                    inner.drop_oldest(account.id).await;
                    return Ok((session, token));
                }
                Err(StoreError::Conflict(Conflict::Version { .. })) => {}
                Err(error) => return Err(error.into()),
            }
            // Most likely the time of another login was written down.
            account = match core.storage.find::<Account>(Scope::All, account.id).await? {
                Some(a) if a.enabled && a.password_hash == verified => a,
                _ => return Err(AccessError::Unauthenticated),
            };
        }
        Err(AccessError::Conflict("the account is being changed by others".into()))
    }

    async fn find(&self, token: &str, dialect: &str) -> Result<Known, AccessError> {
        let inner = &self.0;
        let core = &inner.core;
        let hash = inner.hash(token).ok_or(AccessError::Unauthenticated)?;
        let now = core.clock.now();
        let lifetime = inner.lifetime(dialect);
        if let Some(known) = inner.known.get(hash.as_bytes(), now) {
            let session = &known.session;
            if session.dialect == dialect && now < session.expires && !lifetime.is_due(session, now) {
                return Ok(known);
            }
        }
        let mark = inner.known.mark();
        let session = core.storage.find_by_key::<Session>(Scope::All, &session_key(&hash)).await?;
        let session = session.filter(|s| s.dialect == dialect && now < s.expires);
        let mut session = session.ok_or(AccessError::Unauthenticated)?.value;
        let account = core.storage.find::<Account>(Scope::All, session.account).await?;
        let account = account.filter(|a| a.enabled).ok_or(AccessError::Unauthenticated)?;
        if lifetime.is_due(&session, now) {
            let extend = |s: &mut Session| {
                lifetime.is_due(s, now).then(|| s.expires = lifetime.end(s.created, now)).map(|()| UnitOfWork::new())
            };
            session = match core.storage.change(now, Scope::All, session.id, extend).await {
                Ok(stored) => stored.value,
                // It was closed while we looked.
                Err(StoreError::NotFound { .. }) => return Err(AccessError::Unauthenticated),
                Err(error) => return Err(error.into()),
            };
        }
        let known = Known { caller: caller_of(&account, Some(session.id)), session };
        inner.known.put(mark, *hash.as_bytes(), known.clone(), now);
        Ok(known)
    }
}

impl Lifetime {
    /// When a session that is used now ends.
    fn end(self, created: Timestamp, now: Timestamp) -> Timestamp {
        let idle = now + self.idle;
        self.absolute.map_or(idle, |absolute| idle.min(created + absolute))
    }

    /// Whether that is so much later than what is written down that it is worth a write: more than a tenth of
    /// the lifetime.
    fn is_due(self, session: &Session, now: Timestamp) -> bool {
        self.end(session.created, now).since(session.expires) > self.idle / 10
    }
}

impl Inner {
    fn lifetime(&self, dialect: &str) -> Lifetime {
        self.rules.by_dialect.get(dialect).copied().unwrap_or(self.rules.lifetime)
    }

    /// The keyed hash of a token; nothing for what cannot be one.
    fn hash(&self, token: &str) -> Option<blake3::Hash> {
        let possible = !token.is_empty() && token.len() <= MAX_TOKEN;
        possible.then(|| blake3::keyed_hash(&self.hash_key, token.as_bytes()))
    }

    async fn list(&self, filter: Filter, sort: Sort, page: Page) -> Result<Vec<Stored<Session>>, AccessError> {
        let query = Query { filter, sort, page, count: false };
        Ok(self.core.storage.list_of::<Session>(Scope::All, query).await?.items)
    }

    /// Drops an account's oldest sessions over the limit. Never fails a login, and keeps it cheap: looks only at
    /// the first one that this process opens and at every so many after it, 64 or a sixty-fourth of the limit.
    async fn drop_oldest(&self, account: AccountId) {
        let every = (self.rules.per_account / 64).clamp(1, 64);
        let look = {
            let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            if opened.len() >= MAX_COUNTED && !opened.contains_key(&account) {
                opened.clear();
            }
            let count = opened.entry(account).or_insert(0);
            *count += 1;
            (*count - 1).is_multiple_of(every)
        };
        if look && let Err(error) = self.trim(account).await {
            tracing::warn!(account.id = %account, %error, "old sessions were not dropped");
        }
    }

    async fn trim(&self, account: AccountId) -> Result<(), AccessError> {
        let filter = Filter::eq("account", account.uuid());
        let count = self.core.storage.count(Scope::All, Kind::Session, &filter).await?;
        let excess = count.saturating_sub(self.rules.per_account).min(BATCH);
        if excess == 0 {
            return Ok(());
        }
        let oldest = self.list(filter, Sort::default(), Page::first(excess)).await?;
        let unit = oldest.iter().fold(UnitOfWork::new(), |unit, session| unit.delete::<Session>(session.id));
        self.core.storage.apply(self.core.clock.now(), Scope::All, unit).await?;
        let gone: Vec<_> = oldest.iter().map(|session| session.id).collect();
        self.known.remove_if(|known| gone.contains(&known.session.id));
        Ok(())
    }
}

fn delete_as_read(unit: UnitOfWork, session: &Stored<Session>) -> UnitOfWork {
    let same = Require::Version(Kind::Session, session.id.uuid(), session.version);
    unit.require(same).delete::<Session>(session.id)
}

fn session_key(hash: &blake3::Hash) -> String {
    format!("session:{}", hash.to_hex())
}
