//! The kinds of stored objects and the fields that each declares.

use portolan_model::{Scope, TenantId};
use std::fmt;

/// The type of a declared field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldType {
    /// A text of at most 255 characters; longer ones are cut in the index, never in the document.
    Text,
    /// A signed 64-bit number.
    Int,
    /// A truth value.
    Bool,
    /// An id.
    Id,
}

/// A field that lists can filter and sort by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name, also the column's.
    pub name: &'static str,
    /// Its type.
    pub ty: FieldType,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $table:literal, $tenanted:literal, [$($field:literal: $ty:ident),* $(,)?];)+) => {
        /// A kind of stored object: a table in a database.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$doc])* $kind,)+ }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// The name of the kind, also of its table.
            pub const fn table(self) -> &'static str {
                match self { $(Self::$kind => $table,)+ }
            }

            /// Whether its objects belong to tenants: then one without a tenant is seen by `Scope::All` only.
            /// Objects of the other kinds are infrastructure, which every scope reads.
            pub const fn tenanted(self) -> bool {
                match self { $(Self::$kind => $tenanted,)+ }
            }

            /// The fields that lists can filter and sort by, beside the id.
            pub const fn fields(self) -> &'static [Field] {
                match self { $(Self::$kind => &[$(Field { name: $field, ty: FieldType::$ty },)*],)+ }
            }
        }
    };
}

kinds! {
    /// An account.
    Account = "account", true, ["login": Text, "enabled": Bool];
    /// A login session.
    Session = "session", true, ["account": Id, "token_hash": Text, "expires": Int];
    /// A tenant.
    Tenant = "tenant", true, ["name": Text, "external_id": Text];
    /// A secret, enveloped by the master key.
    Secured = "secured", true, ["owner": Text];
    /// A named setting of this installation.
    Setting = "setting", true, [];
    /// A configured driver instance.
    Platform = "platform", false, ["name": Text, "driver": Text];
    /// A data centre.
    DataCenter = "data_center", false, ["name": Text];
    /// A cluster.
    Cluster = "cluster", false, ["name": Text, "platform": Id, "present": Bool];
    /// A host.
    Host = "host", false, ["name": Text, "platform": Id, "cluster": Id, "present": Bool];
    /// A datastore.
    Datastore = "datastore", false, ["name": Text, "platform": Id, "cluster": Id, "present": Bool];
    /// A virtual machine.
    Vm = "vm", true, [
        "name": Text, "platform": Id, "host": Id, "cluster": Id, "present": Bool, "policy": Id, "native_id": Text,
        "host_name": Text, "cluster_name": Text, "platform_name": Text, "last_backup": Int, "last_size": Int,
    ];
    /// A Portolan process.
    Node = "node", false, ["name": Text, "last_seen": Int];
    /// A backup destination.
    Destination = "destination", false, ["name": Text, "is_default": Bool];
    /// A recovery point.
    Point = "point", true, [
        "vm": Id, "vm_name": Text, "status": Text, "backup_type": Text, "snapshot_time": Int, "created": Int,
        "size": Int, "chain": Id, "platform": Id, "host": Id, "parent": Id,
    ];
    /// A copy of a recovery point.
    Copy = "copy", true, ["point": Id, "vm": Id, "destination": Id, "status": Text, "created": Int, "expires": Int];
    /// A restore job.
    RestoreJob = "restore_job", true, ["point": Id, "vm": Id, "status": Text, "created": Int, "chain": Id];
    /// A backup or snapshot policy.
    Policy = "policy", true, ["name": Text, "family": Text, "active": Bool];
    /// A rule of a policy.
    Rule = "rule", true, ["name": Text, "policy": Id, "position": Int];
    /// A schedule.
    Schedule = "schedule", true, ["name": Text, "active": Bool];
    /// A bearer token for scripts.
    ApiToken = "api_token", true, ["name": Text, "account": Id, "token_hash": Text, "expires": Int];
    /// A user's hold on a cloud node.
    Assignment = "assignment", true, [
        "vm": Id, "vm_name": Text, "platform": Id, "status": Text, "number": Int, "holder": Text,
    ];
    /// A document that a driver keeps.
    DriverState = "driver_state", true, ["platform": Id, "state_key": Text];
    /// The answer to a request that its sender may repeat.
    Replay = "replay", true, ["expires": Int, "fingerprint": Text];
}

impl Kind {
    /// The field of that name.
    pub fn field(self, name: &str) -> Option<Field> {
        self.fields().iter().copied().find(|f| f.name == name)
    }

    /// Whether an object of this kind that belongs to `tenant` is seen from `scope`.
    pub fn visible(self, scope: Scope, tenant: Option<TenantId>) -> bool {
        match (scope, tenant) {
            (Scope::All, _) => true,
            (Scope::Tenant(mine), Some(theirs)) => mine == theirs,
            (Scope::Tenant(_), None) => !self.tenanted(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.table())
    }
}
