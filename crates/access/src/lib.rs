//! Accounts, roles, sessions, tenants, secrets and keys.
//!
//! A server starts with [`unlock`], which checks the master key against the store and yields a [`Vault`], and then
//! builds [`Access`], which holds every use case. Each dialect authenticates through [`Logins`] (a password with
//! every request) or [`Sessions`] (a token after a login), both of which yield a
//! [`Caller`]; [`Accounts`] and [`Tenants`] take one and check it.

mod accounts;
mod cache;
mod error;
mod first;
mod keyfile;
mod keys;
mod logins;
mod password;
mod replays;
mod seal;
mod secrets;
mod sessions;
pub mod system;
mod tenants;
mod throttle;
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
pub use vault::{Vault, unlock};

use portolan_model::{Account, Caller, Clock, IdSource, Scope, SessionId};
use portolan_storage::Storage;
use std::fmt;
use std::sync::Arc;

/// How access behaves; the defaults suit a server.
#[derive(Debug, Clone, Default)]
pub struct AccessOptions {
    /// What a password hash costs.
    pub cost: PasswordCost,
    /// How long verified credentials are remembered, and how failures are slowed down.
    pub logins: LoginRules,
    /// How long sessions live and how many an account may hold.
    pub sessions: SessionRules,
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
        let replays = Replays::new(storage.clone(), &vault, clock.clone(), ids.clone());
        let core = Arc::new(Core { storage, clock, ids, passwords });
        let logins = Logins::new(core.clone(), options.logins);
        let sessions = Sessions::new(core.clone(), logins.clone(), &vault, options.sessions);
        let accounts = Accounts::new(core.clone(), logins.clone(), sessions.clone(), secrets.clone());
        Ok(Self { accounts, logins, sessions, tenants: Tenants::new(core), secrets, replays })
    }

    /// Housekeeping, to be called about once a minute: removes a bounded number of expired sessions and of kept
    /// answers, and writes down when logins failed. Returns how many sessions and answers it removed.
    pub async fn tidy(&self) -> Result<usize, AccessError> {
        self.logins.flush_failures().await?;
        let sessions = self.sessions.sweep_expired().await?;
        Ok(sessions + self.replays.sweep_expired().await?)
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

/// How often a use case reads and decides anew when others keep being faster.
pub(crate) const ROUNDS: u32 = 32;

/// The caller that an account makes, with the session that it came through.
pub(crate) fn caller_of(account: &Account, session: Option<SessionId>) -> Caller {
    Caller {
        account: Some(account.id),
        session,
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
