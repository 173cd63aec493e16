//! Backup, restore and verify: the use cases over the repository.
//!
//! A backup is a chain: EXPORT takes the point in time and pulls it into an uncommitted repository session, STORE
//! commits the session. A restore is a chain too: RESTORE writes the disks where the platform does not see them
//! yet, IMPORT makes the machine visible. Each link's domain write carries the end of its task, under its fence.

mod cleanup;
mod clone;
mod destinations;
mod error;
mod export;
mod export_task;
mod handlers;
mod instant;
mod instant_task;
mod points;
mod repeat;
mod repositories;
mod restore;
mod restore_task;
mod service;
mod store_task;
mod tasks;
mod trial;
mod verify;

pub use clone::CloneRequest;
pub use destinations::NewDestination;
pub use error::ProtectError;
pub use export::ExportRequest;
pub use handlers::handlers;
pub use instant::InstantRequest;
pub use points::{PointQuery, PointView};
pub use repositories::Repositories;
pub use restore::{DiskTarget, RestoreRequest};
pub use service::{Protect, origin_of};
pub use tasks::{CancelOutcome, TaskList};
pub use trial::{TrialRequest, TrialSign};
