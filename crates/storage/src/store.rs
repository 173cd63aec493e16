//! The ports that adapters implement.

use crate::error::StoreError;
use crate::kind::Kind;
use crate::unit::UnitOfWork;
use async_trait::async_trait;
use portolan_model::query::{Filter, Page, Sort};
use portolan_model::{Scope, TenantId, Timestamp};
use portolan_tasks::{Enqueued, TaskStore};
use uuid::Uuid;

/// The position of an event in the outbox. Rises without gaps in commit order.
pub type EventSeq = i64;

/// Writes.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Applies a unit whole and durably, or not at all. Preconditions come first, in order; then changes, tasks,
    /// ends of tasks, events. An object that is not visible in `scope` is not found; one that is visible but may
    /// not be written from it (infrastructure, from a tenant's scope) is not found either. A `TaskHeld` that does
    /// not hold, or a stale finish, is `Conflict::TaskLost`.
    async fn apply(&self, now: Timestamp, scope: Scope, unit: UnitOfWork) -> Result<Applied, StoreError>;

    /// Whether the store answers: a cheap round trip, for `/readyz`.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// Reads. Each sees everything that was applied before it began.
#[async_trait]
pub trait Views: Send + Sync {
    /// The objects of these ids that are there and visible, in no order.
    async fn rows(&self, scope: Scope, kind: Kind, ids: &[Uuid]) -> Result<Vec<Row>, StoreError>;

    /// The object that holds the unique key.
    async fn holder(&self, scope: Scope, kind: Kind, key: &str) -> Result<Option<Row>, StoreError>;

    /// A page of a list in a total order.
    async fn list(&self, scope: Scope, query: &RawQuery) -> Result<RowPage, StoreError>;

    /// How many objects match. Without a filter the answer comes from a maintained counter.
    async fn count(&self, scope: Scope, kind: Kind, filter: &Filter) -> Result<u64, StoreError>;

    /// Events after a position, oldest first.
    async fn events(&self, scope: Scope, after: EventSeq, limit: u32) -> Result<Vec<Event>, StoreError>;
}

/// Everything that Portolan keeps: what an adapter of storage is.
pub trait Storage: StateStore + Views + TaskStore {}
impl<T: StateStore + Views + TaskStore> Storage for T {}

/// What a unit came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The answers to the enqueued tasks, in order.
    pub tasks: Vec<Enqueued>,
}

/// A stored object.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: Uuid,
    /// Its version, from 1.
    pub version: i64,
    /// The tenant that it belongs to.
    pub tenant: Option<TenantId>,
    /// The document.
    pub doc: serde_json::Value,
}

/// Which objects.
#[derive(Debug, Clone, PartialEq)]
pub struct RawQuery {
    /// Their kind.
    pub kind: Kind,
    /// A condition over the kind's declared fields, and `id`.
    pub filter: Filter,
    /// The order.
    pub sort: Sort,
    /// Which part.
    pub page: Page,
    /// Whether to count all that match.
    pub count: bool,
}

/// A page of objects.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowPage {
    /// The objects.
    pub rows: Vec<Row>,
    /// How many match in all, where asked for.
    pub total: Option<u64>,
}

/// An event of the outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its position.
    pub seq: EventSeq,
    /// When it was written.
    pub at: Timestamp,
    /// What happened.
    pub name: String,
    /// The tenant that may hear of it.
    pub tenant: Option<TenantId>,
    /// The object that it is about.
    pub subject: Option<Uuid>,
    /// Who did it, by login; empty for Portolan itself.
    pub actor: String,
    /// Details.
    pub data: serde_json::Value,
}
