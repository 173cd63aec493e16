//! Portolan's own processes.

use crate::id::NodeId;
use crate::name::Name;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// A Portolan process that runs tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Portolan's id, kept over restarts in the data directory.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: String,
    /// Where it answers.
    pub address: String,
    /// When it last said that it lives.
    pub last_seen: Timestamp,
    /// The tags of tasks that it serves.
    pub serves: Vec<String>,
    /// Size of the file system that it stages on, in bytes.
    pub staging_total_bytes: u64,
    /// How much of that is used, in bytes.
    pub staging_used_bytes: u64,
}
