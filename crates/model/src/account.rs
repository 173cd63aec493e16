//! Accounts, sessions and tenants.

use crate::caller::Role;
use crate::id::*;
use crate::name::Name;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Someone who can log in, the same on every dialect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// Portolan's id.
    pub id: AccountId,
    /// The login name, unique.
    pub login: Name,
    /// The password's Argon2id hash in PHC form; never leaves the store but to be compared.
    pub password_hash: String,
    /// What the account may do.
    pub role: Role,
    /// The tenant it is bound to; nothing sees every tenant.
    pub tenant: Option<TenantId>,
    /// Whether it may log in.
    pub enabled: bool,
    /// IANA name of the zone that its user interfaces show times in.
    pub time_zone: String,
    /// When it last logged in.
    pub last_login: Option<Timestamp>,
    /// When a login with it last failed.
    pub last_failed_login: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
}

/// A login that goes on. The store knows the token's keyed hash only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Portolan's id.
    pub id: SessionId,
    /// Whose it is.
    pub account: AccountId,
    /// Keyed hash of the token that the client holds, in hexadecimal.
    pub token_hash: String,
    /// The dialect it was opened on.
    pub dialect: String,
    /// When it was opened.
    pub created: Timestamp,
    /// When it ends, unless it is used before.
    pub expires: Timestamp,
}

/// A tenant: whose machines, backups and tasks are kept apart from all others'.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// Portolan's id.
    pub id: TenantId,
    /// Its name, unique.
    pub name: Name,
    /// What the system in front calls it, such as an OpenStack project id.
    #[serde(default)]
    pub external_id: String,
    /// When it was made.
    pub created: Timestamp,
}
