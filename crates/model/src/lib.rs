//! The objects of Portolan and the pure rules over them.
//!
//! Nothing here does I/O, waits, reads a clock or draws randomness: time comes in as [`Timestamp`], identity
//! as typed ids, and every rule is a plain function. Every other crate may use this one.

pub mod account;
pub mod auto_assign;
pub mod backup;
pub mod caller;
pub mod cloud;
pub mod credential;
pub mod describe;
pub mod dialect;
pub mod external;
pub mod host;
pub mod id;
pub mod lifecycle;
pub mod mount;
pub mod name;
pub mod network;
pub mod node;
pub mod platform;
pub mod policy;
pub mod query;
pub mod retention;
pub mod schedule;
pub mod secret;
pub mod task_kind;
pub mod task_state;
pub mod time;
pub mod vm;
pub mod zone;

pub use account::{Account, Session, Tenant};
pub use backup::{BackupCopy, BackupDestination, RecoveryPoint, RestoreJob};
pub use caller::{Caller, Privilege, RequestKey, Role, Scope};
pub use cloud::{Image, ImageMember, KeyPair, Location, PersistentVolume, Size, Volume, VolumeSnapshot};
pub use credential::{ApiToken, Assignment, Certificate, Credential};
pub use describe::{Describe, EnumNameAndDescription, NameAndGuid};
pub use external::{ExternalKind, ExternalRef};
pub use host::{Cluster, ClusterGroup, DataCenter, Datastore, Host};
pub use id::*;
pub use lifecycle::{IllegalTransition, Lifecycle};
pub use mount::{MailingList, MountedBackup, Quota, VmSnapshot};
pub use name::{Name, NameError};
pub use network::{ContainerManager, Network};
pub use node::Node;
pub use platform::Platform;
pub use policy::{AutoAssign, Consistency, Policy, Rule, Target};
pub use retention::Retention;
pub use schedule::Schedule;
pub use secret::Secret;
pub use task_state::TaskState;
pub use time::{Clock, IdSource, Timestamp};
pub use vm::{Disk, Nic, VirtualMachine, VmObserved, VmSettings};
pub use zone::Zone;
