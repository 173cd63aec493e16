//! Accounts: made, changed and removed by those who may, and by their owners as far as their passwords go.

use crate::error::AccessError;
use crate::first::first_password_of;
use crate::secrets::Secrets;
use crate::{Core, ROUNDS, Ways, password};
use portolan_model::query::{Filter, Page, Sort};
use portolan_model::{Account, AccountId, Caller, Name, Privilege, Role, Scope, Secret, Tenant, TenantId, Timestamp};
use portolan_storage::{Conflict, ListOf, Query, Setting, StorageExt, StoreError, Stored, UnitOfWork};
use std::net::IpAddr;
use std::sync::Arc;

/// The setting that every unit writes which takes an administrator away: two of them at once cannot both think
/// that the other one stays.
const GUARD: &str = "administrators";

/// What a new account is made of.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// The login name, unique whatever the case of its letters.
    pub login: String,
    /// The password, 8 characters to 1024 bytes.
    pub password: Secret,
    /// What it may do.
    pub role: Role,
    /// The tenant it is bound to. A caller who is bound to one makes accounts of that tenant only.
    pub tenant: Option<TenantId>,
    /// IANA name of its time zone; UTC without one.
    pub time_zone: Option<String>,
}

/// What changes in an account; nothing leaves it as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AccountChange {
    /// What it may do.
    pub role: Option<Role>,
    /// Whether it may log in.
    pub enabled: Option<bool>,
    /// IANA name of its time zone.
    pub time_zone: Option<String>,
}

/// An account as others see it: without its password hash.
#[derive(Debug, Clone, PartialEq)]
pub struct AccountView {
    /// Portolan's id.
    pub id: AccountId,
    /// The login name.
    pub login: Name,
    /// What it may do.
    pub role: Role,
    /// The tenant it is bound to.
    pub tenant: Option<TenantId>,
    /// Whether it may log in.
    pub enabled: bool,
    /// IANA name of its time zone.
    pub time_zone: String,
    /// When it last logged in, to about a minute.
    pub last_login: Option<Timestamp>,
    /// When a login with it last failed, as far as written down yet.
    pub last_failed_login: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
}

impl From<Account> for AccountView {
    fn from(a: Account) -> Self {
        Self {
            id: a.id,
            login: a.login,
            role: a.role,
            tenant: a.tenant,
            enabled: a.enabled,
            time_zone: a.time_zone,
            last_login: a.last_login,
            last_failed_login: a.last_failed_login,
            created: a.created,
        }
    }
}

/// Manages accounts.
#[derive(Debug, Clone)]
pub struct Accounts {
    pub(crate) core: Arc<Core>,
    pub(crate) secrets: Secrets,
    ways: Ways,
}

impl Accounts {
    pub(crate) fn new(core: Arc<Core>, ways: Ways, secrets: Secrets) -> Self {
        Self { core, secrets, ways }
    }

    /// Makes an account. `Conflict` when the login is taken, also by an account that the caller does not see.
    pub async fn create(&self, caller: &Caller, new: NewAccount) -> Result<AccountView, AccessError> {
        self.make(caller, new, None).await
    }

    /// The same with a password of which only the Argon2id hash is known, in PHC form: `new.password` is not looked at.
    pub async fn create_hashed(
        &self,
        caller: &Caller,
        new: NewAccount,
        hash: &Secret,
    ) -> Result<AccountView, AccessError> {
        self.make(caller, new, Some(hash)).await
    }

    async fn make(&self, caller: &Caller, new: NewAccount, hash: Option<&Secret>) -> Result<AccountView, AccessError> {
        caller.require(Privilege::AccessManage)?;
        let tenant = match caller.scope {
            Scope::All => new.tenant,
            Scope::Tenant(mine) if new.tenant.is_none_or(|asked| asked == mine) => Some(mine),
            Scope::Tenant(_) => return Err(AccessError::NotFound { what: "tenant" }),
        };
        let login = Name::new(&new.login).map_err(|e| AccessError::Invalid(e.to_string()))?;
        let time_zone = checked_zone(new.time_zone.as_deref().unwrap_or("UTC"))?;
        let password_hash = match hash {
            Some(hash) => password::checked_hash(hash)?,
            None => {
                password::check_rules(&new.password)?;
                self.core.passwords.hash(&new.password).await?
            }
        };
        let account = Account {
            id: AccountId::from_uuid(self.core.ids.uuid()),
            login,
            password_hash,
            role: new.role,
            tenant,
            enabled: true,
            time_zone,
            last_login: None,
            last_failed_login: None,
            created: self.core.clock.now(),
        };
        for _ in 0..ROUNDS {
            let mut unit = UnitOfWork::new().create(&account);
            if let Some(tenant) = tenant {
                // Written as it is: its version rises, so that it cannot be removed at the same time.
                unit = unit.update(&self.core.storage.fetch::<Tenant>(caller.scope, tenant).await?);
            }
            let unit = audit(unit, "account.created", &account, caller);
            match self.core.storage.apply(self.core.clock.now(), Scope::All, unit).await {
                Ok(_) => return Ok(account.into()),
                Err(StoreError::Conflict(Conflict::Version { .. })) => {}
                Err(StoreError::Conflict(Conflict::Taken { .. })) => {
                    return Err(AccessError::Conflict("the login is taken".into()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(busy())
    }

    /// Makes an account with a generated password in place of the one of `new`, and tells it, here and never again.
    pub async fn create_generated(
        &self,
        caller: &Caller,
        new: NewAccount,
    ) -> Result<(AccountView, Secret), AccessError> {
        let password = password::generate_password(self.core.ids.as_ref());
        let account = self.create(caller, NewAccount { password: password.clone(), ..new }).await?;
        Ok((account, password))
    }

    /// The accounts that the caller sees.
    pub async fn list(&self, caller: &Caller, query: Query) -> Result<ListOf<AccountView>, AccessError> {
        caller.require(Privilege::AccessManage)?;
        let list = self.core.storage.list_of::<Account>(caller.scope, query).await?;
        let view = |stored: Stored<Account>| Stored { version: stored.version, value: stored.value.into() };
        Ok(ListOf { items: list.items.into_iter().map(view).collect(), total: list.total })
    }

    /// One account. Everybody may look at their own, also by a token that shows less than the account would.
    pub async fn get(&self, caller: &Caller, id: AccountId) -> Result<AccountView, AccessError> {
        let scope = match caller.account == Some(id) {
            true => Scope::All,
            false => caller.require(Privilege::AccessManage).map(|()| caller.scope)?,
        };
        Ok(self.core.storage.fetch::<Account>(scope, id).await?.value.into())
    }

    /// The account with this login.
    pub async fn by_login(&self, caller: &Caller, login: &str) -> Result<AccountView, AccessError> {
        caller.require(Privilege::AccessManage)?;
        let found = self.core.storage.find_by_key::<Account>(caller.scope, &crate::login_key(login.trim())).await?;
        found.map(|stored| stored.value.into()).ok_or(AccessError::NotFound { what: "account" })
    }

    /// The account of this login or id. Everybody may look at their own.
    pub async fn find(&self, caller: &Caller, login_or_id: &str) -> Result<AccountView, AccessError> {
        if let Ok(id) = login_or_id.parse() {
            return self.get(caller, id).await;
        }
        if let Some(own) = caller.account
            && crate::login_key(caller.login.as_str()) == crate::login_key(login_or_id.trim())
        {
            return self.get(caller, own).await;
        }
        self.by_login(caller, login_or_id).await
    }

    /// Changes an account. `Conflict` when it is the last administrator that would stop being one. A disabled
    /// account is out at once here, and within seconds in other processes.
    pub async fn change(
        &self,
        caller: &Caller,
        id: AccountId,
        change: AccountChange,
    ) -> Result<AccountView, AccessError> {
        caller.require(Privilege::AccessManage)?;
        let time_zone = change.time_zone.as_deref().map(checked_zone).transpose()?;
        let changed = self
            .edit(caller.scope, id, |account, unit| {
                account.role = change.role.unwrap_or(account.role);
                account.enabled = change.enabled.unwrap_or(account.enabled);
                account.time_zone = time_zone.clone().unwrap_or_else(|| account.time_zone.clone());
                audit(unit, "account.changed", account, caller)
            })
            .await?;
        self.ways.forget(id);
        Ok(changed.value.into())
    }

    /// Lets an account log in, or not any more; see [`Accounts::change`].
    pub async fn set_enabled(&self, caller: &Caller, id: AccountId, enabled: bool) -> Result<AccountView, AccessError> {
        self.change(caller, id, AccountChange { enabled: Some(enabled), ..AccountChange::default() }).await
    }

    /// Sets somebody's password and ends all of their sessions.
    pub async fn set_password(&self, caller: &Caller, id: AccountId, new: &Secret) -> Result<(), AccessError> {
        caller.require(Privilege::AccessManage)?;
        self.core.storage.fetch::<Account>(caller.scope, id).await?;
        self.write_password(caller, caller.scope, id, new, None, None).await
    }

    /// Sets somebody's password, or a generated one where none is given, which is told here and never again. Ends all
    /// of their sessions, and on `revoke_tokens` their API tokens too: whoever has lost a password may have lost
    /// those with it.
    pub async fn reset_password(
        &self,
        caller: &Caller,
        id: AccountId,
        new: Option<&Secret>,
        revoke_tokens: bool,
    ) -> Result<Option<Secret>, AccessError> {
        caller.require(Privilege::AccessManage)?;
        let account = self.core.storage.fetch::<Account>(caller.scope, id).await?;
        let generated = new.is_none().then(|| password::generate_password(self.core.ids.as_ref()));
        let password = new.or(generated.as_ref()).ok_or_else(|| AccessError::Internal("no password".into()))?;
        self.write_password(caller, caller.scope, id, password, None, None).await?;
        if revoke_tokens {
            self.ways.tokens.revoke_all(caller, &account).await?;
        }
        Ok(generated)
    }

    /// Sets the caller's own password and ends all of their other sessions. `Unauthenticated` when `old` is
    /// wrong, which counts as a failed login from `peer`.
    pub async fn change_own_password(
        &self,
        caller: &Caller,
        old: &Secret,
        new: &Secret,
        peer: Option<IpAddr>,
    ) -> Result<(), AccessError> {
        let id = caller.account.ok_or_else(|| AccessError::Invalid("this caller has no password".into()))?;
        password::check_rules(new)?;
        let account = self.core.storage.fetch::<Account>(Scope::All, id).await?;
        let verified = self.ways.logins.verify(account.login.as_str(), old, peer).await?;
        if verified.id != id {
            return Err(AccessError::Unauthenticated);
        }
        self.write_password(caller, Scope::All, id, new, Some(&verified.password_hash), caller.session).await
    }

    /// Removes an account, its tokens and its sessions. `Conflict` when it is the last administrator.
    pub async fn delete(&self, caller: &Caller, id: AccountId) -> Result<(), AccessError> {
        caller.require(Privilege::AccessManage)?;
        for _ in 0..ROUNDS {
            let account = self.core.storage.fetch::<Account>(caller.scope, id).await?;
            let same = portolan_storage::Require::Version(portolan_storage::Kind::Account, id.uuid(), account.version);
            let mut unit = UnitOfWork::new().require(same).delete::<Account>(id);
            if is_administrator(&account) {
                unit = self.keep_an_administrator(unit, id).await?;
            }
            unit = self.ways.tokens.remove_in(unit, id).await?;
            unit = self.secrets.remove_in(unit, &first_password_of(id)).await?;
            unit = audit(unit, "account.deleted", &account, caller);
            match self.core.storage.apply(self.core.clock.now(), Scope::All, unit).await {
                Ok(_) => {
                    self.ways.forget(id);
                    // Without the account they open nothing; what a crash leaves here is swept when it expires.
                    self.ways.sessions.close_all(id).await?;
                    return Ok(());
                }
                Err(StoreError::Conflict(Conflict::Version { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(busy())
    }

    /// Writes a password. Sessions go first, so that a crash between the steps leaves nobody logged in by the old
    /// password but those who logged in during them; the last step ends these too.
    async fn write_password(
        &self,
        caller: &Caller,
        scope: Scope,
        id: AccountId,
        new: &Secret,
        expected: Option<&str>,
        keep: Option<portolan_model::SessionId>,
    ) -> Result<(), AccessError> {
        password::check_rules(new)?;
        let hash = self.core.passwords.hash(new).await?;
        self.ways.sessions.close_where(id, None, keep).await?;
        for _ in 0..ROUNDS {
            let mut account = self.core.storage.fetch::<Account>(scope, id).await?;
            if expected.is_some_and(|expected| account.password_hash != expected) {
                // Somebody else has set it since the old one was verified.
                return Err(AccessError::Unauthenticated);
            }
            account.password_hash.clone_from(&hash);
            let unit = self.secrets.remove_in(UnitOfWork::new().update(&account), &first_password_of(id)).await?;
            let unit = audit(unit, "account.password_set", &account, caller);
            let now = self.core.clock.now();
            match self.core.storage.apply(now, Scope::All, unit).await {
                Ok(_) => {
                    self.ways.logins.forget(id);
                    self.ways.sessions.close_where(id, Some(now), keep).await?;
                    return Ok(());
                }
                Err(StoreError::Conflict(Conflict::Version { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(busy())
    }

    /// Reads an account in `scope`, changes it and writes it, again on fresh data when somebody else was faster.
    async fn edit(
        &self,
        scope: Scope,
        id: AccountId,
        decide: impl Fn(&mut Account, UnitOfWork) -> UnitOfWork + Send + Sync,
    ) -> Result<Stored<Account>, AccessError> {
        for _ in 0..ROUNDS {
            let mut account = self.core.storage.fetch::<Account>(scope, id).await?;
            let before = is_administrator(&account);
            let mut unit = decide(&mut account.value, UnitOfWork::new()).update(&account);
            if before && !is_administrator(&account) {
                unit = self.keep_an_administrator(unit, id).await?;
            }
            match self.core.storage.apply(self.core.clock.now(), Scope::All, unit).await {
                Ok(_) => {
                    account.version += 1;
                    return Ok(account);
                }
                Err(StoreError::Conflict(Conflict::Version { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(busy())
    }

    /// Fails unless another administrator than `leaving` is there, and makes the unit fail when one more is taken
    /// away at the same time.
    async fn keep_an_administrator(&self, unit: UnitOfWork, leaving: AccountId) -> Result<UnitOfWork, AccessError> {
        let storage = &self.core.storage;
        let guard = storage.find::<Setting>(Scope::All, Setting::id_of(GUARD)).await?;
        let mut page = Page::first(500);
        loop {
            let filter = Filter::eq("enabled", true);
            let query = Query { filter, sort: Sort::default(), page, count: false };
            let batch = storage.list_of::<Account>(Scope::All, query).await?.items;
            if batch.iter().any(|a| a.id != leaving && is_administrator(a)) {
                break;
            }
            if (batch.len() as u64) < 500 {
                return Err(AccessError::Conflict("the last administrator must stay one".into()));
            }
            page.offset += 500;
        }
        Ok(match guard {
            Some(guard) => unit.update(&guard),
            None => unit.create(&Setting::new(GUARD, serde_json::Value::Null)),
        })
    }
}

/// Whether this account can put everything right: enabled, all privileges, all tenants.
pub(crate) fn is_administrator(account: &Account) -> bool {
    account.enabled && account.role == Role::Administrator && account.tenant.is_none()
}

/// Adds what others may want to hear of to a unit.
pub(crate) fn audit(unit: UnitOfWork, what: &str, account: &Account, caller: &Caller) -> UnitOfWork {
    let data = serde_json::json!({ "login": account.login.as_str() });
    unit.event_by(&caller.login, what, account.tenant, account.id.uuid(), data)
}

fn checked_zone(name: &str) -> Result<String, AccessError> {
    match jiff::tz::TimeZone::get(name) {
        Ok(_) => Ok(name.to_owned()),
        Err(_) => Err(AccessError::Invalid("the time zone is not an IANA name".into())),
    }
}

fn busy() -> AccessError {
    AccessError::Conflict("the account is being changed by others".into())
}
