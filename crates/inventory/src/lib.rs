//! Platforms, inventory sync and virtual machines.
//!
//! [`Inventory`] holds the use cases: each takes a [`portolan_model::Caller`], checks its privilege, and reads or
//! writes within its scope. [`SyncHandler`] runs a sync as a durable task.

mod clouds;
mod error;
mod handler;
mod machine_tasks;
mod machines;
mod plan;
mod service;
mod sync;
mod tidy;

pub use clouds::{
    AssignNode, Assigned, AssignmentView, CloudRules, CloudView, NodeChoice, ReleaseNode, StartNode, StopNode,
    StoredDriverState, handlers as cloud_handlers,
};
pub use error::InventoryError;
pub use handler::SyncHandler;
pub use machine_tasks::machine_handlers;
pub use machines::NewSnapshot;
pub use plan::MISSES_BEFORE_ABSENT;
pub use service::{Drivers, Inventory, NewPlatform, SYNC_TASK};
pub use sync::SyncReport;
