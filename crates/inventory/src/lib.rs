//! Platforms, inventory sync and virtual machines.
//!
//! [`Inventory`] holds the use cases: each takes a [`portolan_model::Caller`], checks its privilege, and reads or
//! writes within its scope. [`SyncHandler`] runs a sync as a durable task.

mod error;
mod handler;
mod plan;
mod service;
mod sync;
mod tidy;

pub use error::InventoryError;
pub use handler::SyncHandler;
pub use plan::MISSES_BEFORE_ABSENT;
pub use service::{Inventory, NewPlatform, SYNC_TASK};
pub use sync::SyncReport;
