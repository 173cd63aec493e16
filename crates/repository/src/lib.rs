//! The deduplicating, encrypted backup repository.
//!
//! [`BackupRepository`] is the port that use cases see; `ObjectStore` is the small port that stores implement;
//! the engine between them is the same for every store. The format is documented in `docs/repository-format.md`.

mod buffer;
mod engine;
pub mod format;
mod keys;
pub mod object;
pub mod port;
mod transfer;

pub use engine::{KeySlotInfo, RECOVERY_SLOT, Repository, RepositoryEnv, RepositoryOptions, verify_packs};
pub use keys::{PassphraseCost, RecoveryKey, RepositoryKey, RepositoryKeys};
pub use object::{LocalObjects, MemoryObjects, ObjectError, ObjectStore};
pub use port::*;
pub use transfer::copy_disk;
