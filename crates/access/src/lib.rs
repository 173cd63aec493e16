//! Accounts, roles, sessions, tenants, secrets and keys.
//!
//! A server starts with [`unlock`], which checks the master key against the store and yields a [`Vault`], and then
//! builds [`Access`], which holds every use case. Each dialect authenticates through [`Logins`] (a password with
//! every request), [`Sessions`] (a token after a login) or [`Tokens`] (a token for scripts), all of which yield a
//! [`Caller`]; [`Accounts`] and [`Tenants`] take one and check it.

mod accounts;
mod cache;
mod error;
mod first;
mod keyfile;
mod keys;
mod lately;
mod logins;
mod password;
mod replays;
mod seal;
mod secrets;
mod sessions;
pub mod system;
mod tenants;
mod throttle;
mod tokens;
mod vault;

pub use accounts::{AccountChange, AccountView, Accounts, NewAccount};
pub use error::AccessError;
pub use first::FirstAdmin;
pub use keyfile::{KeyFile, credential_path};
pub use keys::{KeyError, KeyProblem, KeySource, MasterKey};
pub use logins::{LoginRules, Logins};
pub use password::{PasswordCost, Passwords, generate_password};
pub use replays::{Asked, Begun, ReplayHold, Replays};
pub use seal::{SealError, Sealer};
pub use secrets::Secrets;
pub use sessions::{Lifetime, SessionRules, Sessions};
pub use system::{SystemClock, SystemIds};
pub use tenants::Tenants;
pub use throttle::{Bucket, Throttling};
pub use tokens::{NewToken, TokenView, Tokens};
pub use vault::{Vault, unlock};

use portolan_model::{Account, Caller, Clock, IdSource, Privilege, Scope, SessionId};
use portolan_storage::{Storage, StorageExt, Stored};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How access behaves; the defaults suit a server.
#[derive(Debug, Clone, Default)]
pub struct AccessOptions {
    /// What a password hash costs.
    pub cost: PasswordCost,
    /// How long verified credentials are remembered, and how failures are slowed down.
    pub logins: LoginRules,
    /// How long sessions live and how many an account may hold.
    pub sessions: SessionRules,
    /// Whether no other process uses the same store: then a request that another one was carrying out is carried out
    /// anew at once, since that one is dead.
    pub alone: bool,
}

/// Every use case of this crate over one store.
#[derive(Debug, Clone)]
pub struct Access {
    /// Accounts and their passwords.
    pub accounts: Accounts,
    /// Verification of a login and a password.
    pub logins: Logins,
    /// Sessions and their tokens.
    pub sessions: Sessions,
    /// API tokens for scripts.
    pub tokens: Tokens,
    /// Tenants.
    pub tenants: Tenants,
    /// Secrets, sealed by the master key.
    pub secrets: Secrets,
    /// Answers to requests that their senders may repeat.
    pub replays: Replays,
}

impl Access {
    /// Wires the use cases. Takes no look at the store.
    pub fn new(
        storage: Arc<dyn Storage>,
        vault: Vault,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        options: AccessOptions,
    ) -> Result<Self, AccessError> {
        let passwords = Passwords::new(options.cost, ids.clone())?;
        let secrets = Secrets::new(storage.clone(), &vault, clock.clone(), ids.clone());
        let replays = Replays::new(storage.clone(), &vault, clock.clone(), ids.clone(), options.alone);
        let core = Arc::new(Core { storage, clock, ids, passwords });
        let logins = Logins::new(core.clone(), options.logins);
        let (remember, remembered) = (options.sessions.remember.min(MAX_REMEMBER), options.sessions.remembered);
        let tokens = Tokens::new(core.clone(), &vault, remember, remembered);
        let sessions = Sessions::new(core.clone(), logins.clone(), &vault, options.sessions);
        let ways = Ways { logins: logins.clone(), sessions: sessions.clone(), tokens: tokens.clone() };
        let accounts = Accounts::new(core.clone(), ways, secrets.clone());
        Ok(Self { accounts, logins, sessions, tokens, tenants: Tenants::new(core), secrets, replays })
    }

    /// Housekeeping, to be called about once a minute: removes a bounded number of expired sessions, of tokens that
    /// ended long ago and of kept answers, and writes down when logins failed. Returns how many sessions it removed.
    pub async fn tidy(&self) -> Result<usize, AccessError> {
        self.logins.flush_failures().await?;
        self.tokens.sweep_ended().await?;
        self.replays.sweep_expired().await?;
        self.sessions.sweep_expired().await
    }
}

/// What the use cases share.
pub(crate) struct Core {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) passwords: Passwords,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

/// The ways in, all of which notice at once what changes in an account.
#[derive(Debug, Clone)]
pub(crate) struct Ways {
    pub(crate) logins: Logins,
    pub(crate) sessions: Sessions,
    pub(crate) tokens: Tokens,
}

impl Ways {
    /// Forgets what was proven lately for an account.
    pub(crate) fn forget(&self, account: portolan_model::AccountId) {
        self.logins.forget(account);
        self.sessions.forget(account);
        self.tokens.forget(account);
    }
}

/// What was looked up is taken for granted no longer than this: how late another process's change is seen.
pub(crate) const MAX_REMEMBER: Duration = Duration::from_secs(5);

/// How often a use case reads and decides anew when others keep being faster.
pub(crate) const ROUNDS: u32 = 32;

/// The caller that an account makes, with the session that it came through.
pub(crate) fn caller_of(account: &Account, session: Option<SessionId>) -> Caller {
    Caller {
        account: Some(account.id),
        session,
        token: None,
        login: account.login.to_string(),
        role: account.role,
        scope: account.tenant.map_or(Scope::All, Scope::Tenant),
        request: None,
    }
}

/// The unique key that an account with this login holds; case does not tell logins apart.
pub(crate) fn login_key(login: &str) -> String {
    format!("account:{}", login.to_lowercase())
}

/// The account of this login or id.
pub(crate) async fn account_of(
    storage: &dyn Storage,
    scope: Scope,
    login_or_id: &str,
) -> Result<Stored<Account>, AccessError> {
    let found = match login_or_id.parse() {
        Ok(id) => storage.find::<Account>(scope, id).await?,
        Err(_) => storage.find_by_key::<Account>(scope, &login_key(login_or_id.trim())).await?,
    };
    found.ok_or(AccessError::NotFound { what: "account" })
}

/// Whether the caller manages accounts, tokens and tenants.
pub(crate) fn manages(caller: &Caller) -> bool {
    caller.may(Privilege::AccessManage)
}
