//! API tokens: bearer tokens for scripts, known to the store by their keyed hash only.
//!
//! A token is its account's, and never more: it may do what both its own role and the account's allow, and sees what
//! both its own tenant and the account's show. What changes in the account counts at once.

use crate::cache::{Cache, Key};
use crate::error::AccessError;
use crate::vault::Vault;
use crate::{Core, ROUNDS, account_of, caller_of, manages};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portolan_model::query::{Filter, Page, Sort};
use portolan_model::{
    Account, AccountId, ApiToken, ApiTokenId, Caller, Name, Privilege, Role, Scope, Secret, Tenant, TenantId, Timestamp,
};
use portolan_storage::{Conflict, Kind, ListOf, Query, Require, StorageExt, StoreError, Stored, UnitOfWork};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// What every token begins with, so that people and scanners recognise one that lies around.
const PREFIX: &str = "ptl_";
/// Characters of a token after the prefix: 32 random bytes.
const CHARS: usize = 43;
/// How many tokens an account may hold.
const PER_ACCOUNT: u64 = 1000;
/// The time of use is written down again only after this long.
const NOTE_EVERY: Duration = Duration::from_secs(60 * 60);
/// A token that has ended is kept for people to see for this long.
const KEEP_ENDED: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How many tokens one sweep removes at the most.
const BATCH: u64 = 250;

/// What a new token is made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewToken {
    /// What it is for, unique among the tokens of its account whatever the case of its letters.
    pub name: String,
    /// Whose it is, by login or id; nothing for the caller's own account.
    pub account: Option<String>,
    /// What it may do at the most; nothing for all that the account may.
    pub role: Option<Role>,
    /// The tenant it is bound to; nothing for the account's.
    pub tenant: Option<TenantId>,
    /// When it ends; nothing for never.
    pub expires: Option<Timestamp>,
}

/// A token as people see it: without its hash.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenView {
    /// Portolan's id.
    pub id: ApiTokenId,
    /// What it is for.
    pub name: Name,
    /// Whose it is.
    pub account: AccountId,
    /// The login of the one whose it is.
    pub login: String,
    /// What it may do at the most.
    pub role: Role,
    /// The tenant it is bound to.
    pub tenant: Option<TenantId>,
    /// When it ends; nothing for never.
    pub expires: Option<Timestamp>,
    /// When it was last used, to the hour.
    pub last_used: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
}

/// Makes, verifies and revokes API tokens.
#[derive(Debug, Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    /// Derived from the master key: tokens outlive a restart, and a copy of the store yields none.
    hash_key: Zeroizing<Key>,
    known: Cache<Known>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// A token that was looked up lately.
#[derive(Debug, Clone)]
struct Known {
    id: ApiTokenId,
    account: AccountId,
    expires: Option<Timestamp>,
    caller: Caller,
}

impl Tokens {
    /// Tokens are remembered for `remember`, and no more than `remembered` of them.
    pub(crate) fn new(core: Arc<Core>, vault: &Vault, remember: Duration, remembered: usize) -> Self {
        let hash_key = vault.hash_key("api token");
        Self(Arc::new(Inner { core, hash_key, known: Cache::new(remember, remembered) }))
    }

    /// Makes a token and tells it, here and never again. Everybody makes tokens of their own account, those who
    /// manage access also others'. A token never reaches further than its account or its maker: not in role, not in
    /// tenant, and one that a token makes for its own account does not outlive that token (whoever may make tokens for
    /// others may set their passwords, too: a bound there would keep nobody out). `Conflict` when the account has a token of
    /// this name, or too many.
    pub async fn create(&self, caller: &Caller, new: NewToken) -> Result<(TokenView, Secret), AccessError> {
        let core = &self.0.core;
        let name = Name::new(&new.name).map_err(|e| AccessError::Invalid(e.to_string()))?;
        let mut bytes = Zeroizing::new([0; 32]);
        core.ids.fill(bytes.as_mut());
        let secret = Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes.as_ref())));
        let hash = self.0.hash(secret.reveal()).ok_or_else(|| AccessError::Internal("a token has no hash".into()))?;
        for _ in 0..ROUNDS {
            let now = core.clock.now();
            let account = self.owner(caller, new.account.as_deref()).await?;
            self.check_expiry(caller, account.id, new.expires, now).await?;
            let filter = Filter::eq("account", account.id.uuid());
            if core.storage.count(Scope::All, Kind::ApiToken, &filter).await? >= PER_ACCOUNT {
                return Err(AccessError::Conflict("the account has too many tokens: revoke some".into()));
            }
            let token = ApiToken {
                id: ApiTokenId::from_uuid(core.ids.uuid()),
                name: name.clone(),
                account: account.id,
                token_hash: hash.to_hex().to_string(),
                role: fitting_role(caller, &account, new.role)?,
                tenant: fitting_tenant(caller, &account, new.tenant)?,
                expires: new.expires,
                last_used: None,
                created: now,
            };
            // The account is written as it is: its version rises, so that no token slips past its removal.
            let mut unit = UnitOfWork::new().update(&account).create(&token);
            if let Some(tenant) = token.tenant {
                let stored = core.storage.fetch::<Tenant>(Scope::All, tenant).await?;
                unit = unit.require(Require::Version(Kind::Tenant, tenant.uuid(), stored.version));
            }
            match core.storage.apply(now, Scope::All, audit(unit, "token.created", &token, &account, caller)).await {
                Ok(_) => return Ok((view(token, account.login.to_string()), secret)),
                Err(StoreError::Conflict(Conflict::Version { .. })) => {}
                Err(StoreError::Conflict(Conflict::Taken { .. })) => {
                    return Err(AccessError::Conflict("the account has a token of this name".into()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(AccessError::Conflict("the account is being changed by others".into()))
    }

    /// Who holds a token. `Unauthenticated` for one that is unknown, revoked or over, and for one of an account that
    /// is gone, disabled, or bound to another tenant by now. Another process's revocation is seen within 5 seconds.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, AccessError> {
        let core = &self.0.core;
        let hash = self.0.hash(token).ok_or(AccessError::Unauthenticated)?;
        let now = core.clock.now();
        if let Some(known) = self.0.known.get(hash.as_bytes(), now)
            && known.expires.is_none_or(|end| now < end)
        {
            return Ok(known.caller);
        }
        let mark = self.0.known.mark();
        let token = core.storage.find_by_key::<ApiToken>(Scope::All, &format!("api_token:{}", hash.to_hex())).await?;
        let token = token.filter(|t| t.is_valid(now)).ok_or(AccessError::Unauthenticated)?;
        let account = core.storage.find::<Account>(Scope::All, token.account).await?;
        let account = account.filter(|a| a.enabled).ok_or(AccessError::Unauthenticated)?;
        if token.tenant.is_some() && account.tenant.is_some() && token.tenant != account.tenant {
            return Err(AccessError::Unauthenticated);
        }
        self.note_use(&token, now).await?;
        let mut caller = caller_of(&account, None);
        caller.role = lesser(token.role, account.role);
        caller.scope = token.tenant.map_or(caller.scope, Scope::Tenant);
        caller.token = Some(token.id);
        let known = Known { id: token.id, account: account.id, expires: token.expires, caller: caller.clone() };
        self.0.known.put(mark, *hash.as_bytes(), known, now);
        Ok(caller)
    }

    /// The tokens that the caller sees: those who manage access see all of their scope, others their own.
    pub async fn list(&self, caller: &Caller, page: Page) -> Result<ListOf<TokenView>, AccessError> {
        let filter = match manages(caller) {
            true => Filter::All,
            false => Filter::eq("account", own_account(caller)?.uuid()),
        };
        let query = Query { filter, sort: Sort::by("name"), page, count: true };
        let list = self.0.core.storage.list_of::<ApiToken>(caller.scope, query).await?;
        let owners: Vec<_> = list.items.iter().map(|token| token.account).collect();
        let accounts = self.0.core.storage.find_all::<Account>(Scope::All, &owners).await?;
        let logins: HashMap<_, _> = accounts.into_iter().map(|a| (a.id, a.value.login.to_string())).collect();
        let seen = |stored: Stored<ApiToken>| {
            let login = logins.get(&stored.account).cloned().unwrap_or_default();
            Stored { version: stored.version, value: view(stored.value, login) }
        };
        Ok(ListOf { items: list.items.into_iter().map(seen).collect(), total: list.total })
    }

    /// One token.
    pub async fn get(&self, caller: &Caller, id: ApiTokenId) -> Result<TokenView, AccessError> {
        let token = self.visible(caller, id).await?.value;
        let account = self.0.core.storage.find::<Account>(Scope::All, token.account).await?;
        Ok(view(token, account.map(|a| a.value.login.to_string()).unwrap_or_default()))
    }

    /// The token of this id or name: the caller's own before others'. `Conflict` when several of others have the
    /// name.
    pub async fn find(&self, caller: &Caller, name_or_id: &str) -> Result<TokenView, AccessError> {
        if let Ok(id) = name_or_id.parse() {
            return self.get(caller, id).await;
        }
        let storage = &self.0.core.storage;
        if let Some(own) = caller.account {
            let key = format!("api_token:{own}:{}", name_or_id.trim().to_lowercase());
            if let Some(token) = storage.find_by_key::<ApiToken>(caller.scope, &key).await? {
                return self.get(caller, token.id).await;
            }
        }
        if !manages(caller) {
            return Err(NO_TOKEN);
        }
        let query = Query::newest(Filter::eq("name", name_or_id.trim()), 2);
        match storage.list_of::<ApiToken>(caller.scope, query).await?.items.as_slice() {
            [] => Err(NO_TOKEN),
            [one] => self.get(caller, one.id).await,
            _ => Err(AccessError::Conflict("several tokens have this name: take the id".into())),
        }
    }

    /// Ends a token: at once here, and within 5 seconds in other processes.
    pub async fn revoke(&self, caller: &Caller, id: ApiTokenId) -> Result<(), AccessError> {
        let core = &self.0.core;
        for _ in 0..ROUNDS {
            let token = self.visible(caller, id).await?;
            let account = core.storage.find::<Account>(Scope::All, token.account).await?;
            let same = Require::Version(Kind::ApiToken, id.uuid(), token.version);
            let mut unit = UnitOfWork::new().require(same).delete::<ApiToken>(id);
            if let Some(account) = &account {
                unit = audit(unit, "token.revoked", &token, account, caller);
            }
            match core.storage.apply(core.clock.now(), Scope::All, unit).await {
                // It was used at the same time, which is written down now and then.
                Err(StoreError::Conflict(Conflict::Version { .. })) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    self.0.known.remove_if(|known| known.id == id);
                    return Ok(());
                }
            }
        }
        Err(AccessError::Conflict("the token is being changed by others".into()))
    }

    /// Ends every token of an account; returns how many.
    pub(crate) async fn revoke_all(&self, caller: &Caller, account: &Account) -> Result<u64, AccessError> {
        let mut ended = 0;
        for token in self.of_account(account.id).await? {
            match self.revoke(&Caller { scope: Scope::All, ..caller.clone() }, token.id).await {
                Ok(()) => ended += 1,
                Err(AccessError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ended)
    }

    /// Adds the end of every token of an account to a unit that removes the account.
    pub(crate) async fn remove_in(&self, unit: UnitOfWork, account: AccountId) -> Result<UnitOfWork, AccessError> {
        let tokens = self.of_account(account).await?;
        Ok(tokens.iter().fold(unit, |unit, token| unit.delete::<ApiToken>(token.id)))
    }

    /// Forgets what was looked up about an account's tokens, so that changes of the account count at once.
    pub(crate) fn forget(&self, account: AccountId) {
        self.0.known.remove_if(|known| known.account == account);
    }

    /// Removes tokens that ended a month ago, a bounded number; returns how many.
    pub(crate) async fn sweep_ended(&self) -> Result<usize, AccessError> {
        let core = &self.0.core;
        let now = core.clock.now();
        let filter = Filter::Below("expires".into(), (now - KEEP_ENDED).into());
        let query = Query { filter, sort: Sort::by("expires"), page: Page::first(BATCH), count: false };
        let ended = core.storage.list_of::<ApiToken>(Scope::All, query).await?.items;
        if !ended.is_empty() {
            let unit = ended.iter().fold(UnitOfWork::new(), |unit, token| unit.delete::<ApiToken>(token.id));
            core.storage.apply(now, Scope::All, unit).await?;
        }
        Ok(ended.len())
    }

    /// Whose the new token is to be.
    async fn owner(&self, caller: &Caller, asked: Option<&str>) -> Result<Stored<Account>, AccessError> {
        let storage = self.0.core.storage.as_ref();
        let account = match asked {
            // Their own account may be wider than what they came in with.
            None => storage.fetch::<Account>(Scope::All, own_account(caller)?).await?,
            Some(asked) if manages(caller) => account_of(storage, caller.scope, asked).await?,
            Some(asked) => {
                let own = storage.fetch::<Account>(Scope::All, own_account(caller)?).await?;
                let same = own.id.to_string() == asked || own.login.as_str().eq_ignore_ascii_case(asked.trim());
                if !same {
                    caller.require(Privilege::AccessManage)?;
                }
                own
            }
        };
        match account.enabled {
            true => Ok(account),
            false => Err(AccessError::Conflict("the account is disabled".into())),
        }
    }

    async fn check_expiry(
        &self,
        caller: &Caller,
        account: AccountId,
        expires: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), AccessError> {
        if expires.is_some_and(|end| end <= now) {
            return Err(AccessError::Invalid("the token would have ended already".into()));
        }
        let Some(through) = caller.token.filter(|_| caller.account == Some(account)) else { return Ok(()) };
        let through = self.0.core.storage.find::<ApiToken>(Scope::All, through).await?;
        let limit = through.ok_or(AccessError::Unauthenticated)?.expires;
        if limit.is_some_and(|limit| expires.is_none_or(|end| end > limit)) {
            return Err(AccessError::Invalid("a token that a token makes must not outlive it".into()));
        }
        Ok(())
    }

    /// A token that the caller may see; others' are not found by those who do not manage access.
    async fn visible(&self, caller: &Caller, id: ApiTokenId) -> Result<Stored<ApiToken>, AccessError> {
        let token = self.0.core.storage.find::<ApiToken>(caller.scope, id).await?;
        token.filter(|t| manages(caller) || caller.account == Some(t.account)).ok_or(NO_TOKEN)
    }

    async fn of_account(&self, account: AccountId) -> Result<Vec<Stored<ApiToken>>, AccessError> {
        let query = Query::matching(Filter::eq("account", account.uuid()));
        Ok(self.0.core.storage.list_of::<ApiToken>(Scope::All, query).await?.items)
    }

    /// Writes down that a token was used, at most once an hour. That this could not be written is no reason to
    /// refuse; that the token is gone meanwhile is one.
    async fn note_use(&self, token: &Stored<ApiToken>, now: Timestamp) -> Result<(), AccessError> {
        let due = |t: &ApiToken| t.last_used.is_none_or(|at| now.since(at) >= NOTE_EVERY);
        if !due(token) {
            return Ok(());
        }
        let note = |t: &mut ApiToken| {
            let due = due(t);
            due.then(|| t.last_used = Some(now)).map(|()| UnitOfWork::new())
        };
        match self.0.core.storage.change(now, Scope::All, token.id, note).await {
            Ok(_) => Ok(()),
            Err(StoreError::NotFound { .. }) => Err(AccessError::Unauthenticated),
            Err(error) => {
                tracing::warn!(token.id = %token.id, %error, "the use of a token was not written down");
                Ok(())
            }
        }
    }
}

const NO_TOKEN: AccessError = AccessError::NotFound { what: "token" };

impl Inner {
    /// The keyed hash of a token; nothing for what cannot be one.
    fn hash(&self, token: &str) -> Option<blake3::Hash> {
        let possible = token.len() == PREFIX.len() + CHARS && token.starts_with(PREFIX);
        possible.then(|| blake3::keyed_hash(&self.hash_key, token.as_bytes()))
    }
}

fn own_account(caller: &Caller) -> Result<AccountId, AccessError> {
    caller.account.ok_or_else(|| AccessError::Invalid("this caller has no account: name one".into()))
}

/// The one that may do less. Each role grants all that the next one grants, which a test holds on to.
pub(crate) fn lesser(a: Role, b: Role) -> Role {
    a.max(b)
}

fn fitting_role(caller: &Caller, account: &Account, asked: Option<Role>) -> Result<Role, AccessError> {
    let most = lesser(account.role, caller.role);
    match asked {
        Some(role) if lesser(role, most) != role => {
            Err(AccessError::Invalid(format!("the token may have the role {most} at the most")))
        }
        asked => Ok(asked.unwrap_or(most)),
    }
}

fn fitting_tenant(
    caller: &Caller,
    account: &Account,
    asked: Option<TenantId>,
) -> Result<Option<TenantId>, AccessError> {
    let limits = [account.tenant, caller.scope.tenant()];
    let tenant = asked.or(account.tenant).or(caller.scope.tenant());
    match limits.iter().flatten().all(|limit| Some(*limit) == tenant) {
        true => Ok(tenant),
        false => Err(AccessError::NotFound { what: "tenant" }),
    }
}

fn view(token: ApiToken, login: String) -> TokenView {
    TokenView {
        id: token.id,
        name: token.name,
        account: token.account,
        login,
        role: token.role,
        tenant: token.tenant,
        expires: token.expires,
        last_used: token.last_used,
        created: token.created,
    }
}

fn audit(unit: UnitOfWork, what: &str, token: &ApiToken, account: &Account, caller: &Caller) -> UnitOfWork {
    let data = serde_json::json!({
        "name": token.name.as_str(), "account": account.login.as_str(), "role": token.role.to_string(),
    });
    unit.event_by(&caller.login, what, token.tenant, token.id.uuid(), data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_model::describe::Describe;

    #[test]
    fn the_lesser_role_grants_nothing_that_either_lacks() {
        for (a, ..) in Role::TABLE {
            for (b, ..) in Role::TABLE {
                for (privilege, ..) in Privilege::TABLE {
                    let both = a.grants(*privilege) && b.grants(*privilege);
                    assert_eq!(lesser(*a, *b).grants(*privilege), both, "{a} and {b}: {privilege}");
                }
            }
        }
    }
}
