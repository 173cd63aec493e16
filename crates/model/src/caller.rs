//! Who is asking, and what they may see.

use crate::id::{AccountId, ApiTokenId, SessionId, TenantId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

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
        AuditRead = "AUDIT_READ", "Read the audit log";
    }
}

impl Role {
    /// Whether the role grants the privilege.
    pub fn grants(self, privilege: Privilege) -> bool {
        use Privilege::*;
        match self {
            Self::Administrator => true,
            Self::Operator => !matches!(privilege, PlatformManage | AccessManage | SecretRead | AuditRead),
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
    /// The API token that the request came with, where it came with one.
    pub token: Option<ApiTokenId>,
    /// The login name, for logs and for the origin of tasks.
    pub login: String,
    /// What the account may do.
    pub role: Role,
    /// What the account may see.
    pub scope: Scope,
    /// The request that this is, where its sender named it: a repetition has the same key.
    pub request: Option<RequestKey>,
}

/// Names a request of one sender: what its repetition is known by. Use cases that begin something durable derive its
/// id from the key, so that a repetition finds what the first one began, also after a crash in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestKey(pub Uuid);

impl RequestKey {
    /// The id of the part `role` of what the request begins, always the same: the n-th of several.
    pub fn derive(self, role: &str, n: u64) -> Uuid {
        // FNV-1a over all that is told apart, twice with different starts; the key itself is a keyed hash already.
        let bytes = || self.0.as_bytes().iter().copied().chain(n.to_le_bytes()).chain(role.bytes());
        let fnv = |start: u64| bytes().fold(start, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        let id = Uuid::from_u64_pair(fnv(0xcbf2_9ce4_8422_2325), fnv(0x8422_2325_cbf2_9ce4));
        uuid::Builder::from_bytes(id.into_bytes()).with_version(uuid::Version::Custom).into_uuid()
    }
}

impl Caller {
    /// Portolan itself: the scheduler, the demo, a subcommand that works on the data directory.
    pub fn system() -> Self {
        Self {
            account: None,
            session: None,
            token: None,
            login: "system".into(),
            role: Role::Administrator,
            scope: Scope::All,
            request: None,
        }
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
