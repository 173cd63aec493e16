//! The durable task engine.
//!
//! [`TaskStore`] is the port: a small set of atomic operations that every store offers with the same meaning.
//! Everything that a worker writes names the task and its **fence**; a worker whose lease ran out holds an old
//! fence, and its writes are refused as [`TaskError::Lost`].
//!
//! The decisions are plain functions in [`rules`] and [`filter`], which every store asks; [`memory`] is the
//! store that keeps everything in memory.
//!
//! An [`Engine`] runs the tasks of a store through [`Handler`]s.

mod context;
mod engine;
mod ext;
pub mod filter;
mod handler;
pub mod memory;
pub mod rules;
mod store;
mod task;

pub use context::{StopReason, TaskContext};
pub use engine::{DrainSwitch, Engine, EngineBuilder, EngineStats, Histogram, KindStats, SECONDS_BUCKETS};
pub use ext::{EndBell, Ran, RunThrough, TaskStoreExt};
pub use handler::{Done, Handler, TaskFailure};
pub use memory::{MemoryTaskStore, MemoryTasks};
pub use store::{
    Beat, BeatReply, BeatRequest, CancelReply, ClaimRequest, Claimed, Enqueued, NodeBeat, RetryReply, SweepReport,
    TaskError, TaskPage, TaskQuery, TaskStats, TaskStore,
};
pub use task::{
    Finish, Held, Json, Limit, NewTask, Outcome, PRIORITY_POINT_MICROS, Progress, TASK_FIELDS, Task, TaskLinks, rank,
};
