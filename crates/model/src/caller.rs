//! Who is asking, and what they may see.

use crate::id::{AccountId, SessionId, TenantId};
use serde::{Deserialize, Serialize};

crate::described_enum! {
    /// What an account may do, coarsely. A role stands for a set of [`Privilege`]s.
    pub enum Role {
        /// Everything, accounts and secrets included.
        Administrator = "ADMINISTRATOR", "Administrator";
        /// Backs up, restores and runs machines, but manages no accounts.
        Operator = "OPERATOR", "Operator";
        /// Reads only.
        Viewer = "VIEWER", "Viewer";
    }
}

crate::described_enum! {
    /// One thing that a use case asks for before it acts.
    pub enum Privilege {
        InventoryRead = "INVENTORY_READ", "See platforms, hosts and machines";
        InventoryWrite = "INVENTORY_WRITE", "Synchronise inventory and change machines";
        BackupRead = "BACKUP_READ", "See backups, destinations and tasks";
        BackupWrite = "BACKUP_WRITE", "Take, change and remove backups";
        Restore = "RESTORE", "Restore backups";
        TaskWrite = "TASK_WRITE", "Cancel and remove tasks";
        PlatformManage = "PLATFORM_MANAGE", "Register platforms and destinations";
        AccessManage = "ACCESS_MANAGE", "Manage accounts, tokens and tenants";
        SecretRead = "SECRET_READ", "Read stored credentials";
    }
}

impl Role {
    /// Whether the role grants the privilege.
    pub fn grants(self, privilege: Privilege) -> bool {
        use Privilege::*;
        match self {
            Self::Administrator => true,
            Self::Operator => !matches!(privilege, PlatformManage | AccessManage | SecretRead),
            Self::Viewer => matches!(privilege, InventoryRead | BackupRead),
        }
    }
}

/// Which objects a read or a unit of work may touch. There is no default: every call names its scope.
///
/// Another tenant's object is *not found*, never *forbidden*. Objects without a tenant are infrastructure
/// (platforms, hosts, destinations): a tenant's scope reads them and never changes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Every tenant's objects: operators bound to no tenant, and Portolan itself.
    All,
    /// One tenant's objects, and infrastructure to read.
    Tenant(TenantId),
}

impl Scope {
    /// Whether an object that belongs to `tenant` may be read.
    pub fn can_read(self, tenant: Option<TenantId>) -> bool {
        match (self, tenant) {
            (Self::All, _) | (Self::Tenant(_), None) => true,
            (Self::Tenant(mine), Some(theirs)) => mine == theirs,
        }
    }

    /// Whether an object that belongs to `tenant` may be written.
    pub fn can_write(self, tenant: Option<TenantId>) -> bool {
        match (self, tenant) {
            (Self::All, _) => true,
            (Self::Tenant(_), None) => false,
            (Self::Tenant(mine), Some(theirs)) => mine == theirs,
        }
    }

    /// The tenant that new objects of this scope belong to.
    pub fn tenant(self) -> Option<TenantId> {
        match self {
            Self::All => None,
            Self::Tenant(tenant) => Some(tenant),
        }
    }
}

/// Someone who has proven who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account, or nothing for Portolan's own work.
    pub account: Option<AccountId>,
    /// The session that the request came with, where the dialect has sessions.
    pub session: Option<SessionId>,
    /// The login name, for logs and for the origin of tasks.
    pub login: String,
    /// What the account may do.
    pub role: Role,
    /// What the account may see.
    pub scope: Scope,
}

impl Caller {
    /// Portolan itself: the scheduler, the demo, a subcommand that works on the data directory.
    pub fn system() -> Self {
        Self { account: None, session: None, login: "system".into(), role: Role::Administrator, scope: Scope::All }
    }

    /// Whether the caller holds the privilege.
    pub fn may(&self, privilege: Privilege) -> bool {
        self.role.grants(privilege)
    }

    /// Fails unless the caller holds the privilege. Use cases call this first.
    pub fn require(&self, privilege: Privilege) -> Result<(), Denied> {
        if self.may(privilege) { Ok(()) } else { Err(Denied { privilege }) }
    }
}

/// The caller lacks a privilege.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the privilege {privilege} is needed")]
pub struct Denied {
    /// What was missing.
    pub privilege: Privilege,
}
