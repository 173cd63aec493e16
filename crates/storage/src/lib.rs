//! The state ports: units of work to write, views to read.
//!
//! Objects are stored as documents with declared, indexed fields ([`Kind`], [`Record`]). A write is one atomic
//! [`UnitOfWork`] with preconditions; it carries new tasks, ends of tasks and events along, so that an effect and
//! the task that it belongs to can never come apart. Every read and every unit names its [`Scope`].

mod cache;
mod changes;
pub mod check;
mod error;
pub mod event;
mod ext;
pub mod index;
mod key_cache;
mod kind;
mod memory;
mod record;
mod records;
mod store;
mod unit;

pub use cache::{CachedList, KindCache};
pub use changes::{ChangeLog, ChangedIds, Changes};
pub use error::{Conflict, StoreError};
pub use event::{Event, EventQuery, EventSeq};
pub use ext::{ListOf, Query, StorageExt, Stored};
pub use key_cache::KeyCache;
pub use kind::{Field, FieldType, Kind};
pub use memory::MemoryStorage;
pub use record::{DriverDocument, Record, Replay, Secured, Setting};
pub use store::{Applied, RawQuery, Row, RowPage, StateStore, Storage, Views};
pub use unit::{Change, NewEvent, Put, Require, UnitOfWork};

pub use portolan_model::Scope;
