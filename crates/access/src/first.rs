//! The first account of a new installation.

use crate::accounts::{Accounts, audit};
use crate::error::AccessError;
use crate::login_key;
use crate::password::{check_rules, generate_password};
use portolan_model::query::Filter;
use portolan_model::{Account, AccountId, Caller, Name, Role, Scope, Secret};
use portolan_storage::{Conflict, Kind, StorageExt, StoreError, UnitOfWork};

/// The first account's login.
const LOGIN: &str = "admin";

/// What became of the first account.
#[derive(Debug, Clone)]
pub struct FirstAdmin {
    /// The login.
    pub login: String,
    /// Whether it was made just now.
    pub created: bool,
    /// The password, where it was generated, now or at an earlier start, and was not reported as delivered since.
    pub generated_password: Option<Secret>,
}

/// The owner of the generated password that still waits to be shown.
pub(crate) fn first_password_of(id: AccountId) -> String {
    format!("account:{id}:first-password")
}

impl Accounts {
    /// Makes the administrator `admin` where there is no account at all; any number of processes may try at once,
    /// and one succeeds. Without a password it gets a generated one, which is kept sealed and told at each start
    /// until [`Accounts::first_password_delivered`]: a crash before it was shown locks nobody out.
    pub async fn ensure_admin(&self, password: Option<Secret>) -> Result<FirstAdmin, AccessError> {
        let storage = &self.core.storage;
        if storage.count(Scope::All, Kind::Account, &Filter::All).await? > 0 {
            return self.present_admin().await;
        }
        if let Some(password) = &password {
            check_rules(password)?;
        }
        let generated = password.is_none().then(|| generate_password(self.core.ids.as_ref()));
        let password = password.as_ref().or(generated.as_ref()).ok_or(AccessError::Unauthenticated)?;
        let now = self.core.clock.now();
        let account = Account {
            id: AccountId::from_uuid(self.core.ids.uuid()),
            login: Name::lossy(LOGIN, LOGIN),
            password_hash: self.core.passwords.hash(password).await?,
            role: Role::Administrator,
            tenant: None,
            enabled: true,
            time_zone: "UTC".into(),
            last_login: None,
            last_failed_login: None,
            created: now,
        };
        let mut unit = UnitOfWork::new().create(&account);
        if let Some(generated) = &generated {
            unit = self.secrets.put_in(unit, &first_password_of(account.id), generated).await?;
        }
        let unit = audit(unit, "account.created", &account, &Caller::system());
        match storage.apply(now, Scope::All, unit).await {
            Ok(_) => Ok(FirstAdmin { login: LOGIN.into(), created: true, generated_password: generated }),
            Err(StoreError::Conflict(Conflict::Taken { .. })) => self.present_admin().await,
            Err(error) => Err(error.into()),
        }
    }

    /// To be called when the generated password has been shown, or lies durably where its owner finds it: it is
    /// then forgotten, as it also is when the password is changed.
    pub async fn first_password_delivered(&self) -> Result<(), AccessError> {
        match self.core.storage.find_by_key::<Account>(Scope::All, &login_key(LOGIN)).await? {
            Some(account) => self.secrets.remove(&first_password_of(account.id)).await,
            None => Ok(()),
        }
    }

    async fn present_admin(&self) -> Result<FirstAdmin, AccessError> {
        let admin = self.core.storage.find_by_key::<Account>(Scope::All, &login_key(LOGIN)).await?;
        let generated_password = match admin {
            Some(account) => self.secrets.find(&first_password_of(account.id)).await?,
            None => None,
        };
        Ok(FirstAdmin { login: LOGIN.into(), created: false, generated_password })
    }
}
