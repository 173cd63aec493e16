//! The ports that adapters implement.

use crate::changes::Changes;
use crate::error::StoreError;
use crate::event::{Event, EventQuery, EventSeq};
use crate::kind::Kind;
use crate::unit::UnitOfWork;
use async_trait::async_trait;
use portolan_model::query::{Filter, Page, Sort};
use portolan_model::{Scope, TenantId, Timestamp};
use portolan_tasks::{Enqueued, TaskStore};
use uuid::Uuid;

/// Writes.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Applies a unit whole and durably, or not at all. Preconditions come first, in order; then changes, tasks,
    /// ends of tasks, events. An object that is not visible in `scope` is not found; one that is visible but may
    /// not be written from it (infrastructure, from a tenant's scope) is not found either. A `TaskHeld` that does
    /// not hold, or a stale finish, is `Conflict::TaskLost`.
    async fn apply(&self, now: Timestamp, scope: Scope, unit: UnitOfWork) -> Result<Applied, StoreError>;

    /// Removes events that were written before `before`, up to `limit`, the oldest first; returns how many. Whoever
    /// listens further behind than that has missed them.
    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;

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

    /// Events that fit, newest position first.
    async fn find_events(&self, scope: Scope, query: &EventQuery) -> Result<Vec<Event>, StoreError>;

    /// What has changed of a kind since the revision `since`; `None` asks for a revision to begin with. Costs no trip
    /// to a database. Who keeps what it has read asks first, then reads the objects that it is told, then keeps the
    /// revision of the answer: it never misses what was applied before it asked ([`crate::ChangeLog`] says why).
    /// [`crate::KindCache`] does this.
    ///
    /// The answer is `Unknown` where the store cannot tell: to the first question, after too many changes, and always
    /// where other processes write too.
    fn changes(&self, kind: Kind, since: Option<u64>) -> Changes;
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
