//! The engine between the two ports.

mod batch;
mod core;
mod documents;
mod index;
mod marks;
mod packer;
mod packs;
mod pipeline;
mod plan;
mod reader;
mod repair;
mod repository;
mod session;
mod slots;
mod stored;
mod verify;
mod walk;
mod writer;

pub use self::core::{RepositoryEnv, RepositoryOptions};
pub use self::packs::verify_packs;
pub use self::repository::Repository;
pub use self::slots::{KeySlotInfo, RECOVERY_SLOT};
