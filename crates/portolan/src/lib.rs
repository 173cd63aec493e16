//! Portolan, embeddable: a builder that wires ports to use cases.
//!
//! ```no_run
//! # async fn example(storage: std::sync::Arc<dyn portolan::storage::Storage>, vault: portolan::access::Vault)
//! # -> Result<(), portolan::BuildError> {
//! let portolan = portolan::Portolan::builder(storage, vault).build()?;
//! # Ok(()) }
//! ```
//!
//! An embedder hands in a storage adapter, registers drivers and repositories, runs [`Portolan::engine`], and calls
//! the use cases in `inventory`, `protect` and `access` with a [`portolan_model::Caller`]. `docs/embedding.md` walks
//! through it.

mod builder;
mod chains;
mod facade;
mod machines;
mod operate;
mod overview;
pub mod registry;
mod restores;

pub use builder::{BuildError, PortolanBuilder};
pub use chains::ChainView;
pub use facade::Portolan;
pub use machines::{CloneWish, FromTo, InstantWish, MachineFilter, RestoreWish, SnapshotWish, TrialWish};
pub use operate::{DrainState, Overview, TaskDetail, TaskFilter};
pub use overview::{BackupFigures, Protection};

/// Accounts, sessions, keys.
pub use portolan_access as access;
/// Block sources and sinks.
pub use portolan_block as block;
/// The driver ports.
pub use portolan_driver as driver;
/// Platforms and machines.
pub use portolan_inventory as inventory;
/// Objects and rules.
pub use portolan_model as model;
/// Backup and restore.
pub use portolan_protect as protect;
/// The backup repository.
pub use portolan_repository as repository;
/// The state ports and the in-memory adapter.
pub use portolan_storage as storage;
/// The task engine.
pub use portolan_tasks as tasks;
