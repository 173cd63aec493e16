//! What the tests of storage are given: objects taken apart by hand, units, tasks.

use portolan_model::backup::{Origin, OriginKind};
use portolan_model::query::{Filter, Page, Sort, Value};
use portolan_model::{ChainId, Name, Node, NodeId, Scope, TaskId, TenantId, Timestamp};
use portolan_storage::{Change, Conflict, Kind, Put, RawQuery, Row, Storage, StoreError, UnitOfWork};
use portolan_tasks::{ClaimRequest, Finish, Held, NewTask, Outcome, Task, TaskLinks, TaskQuery};
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;

/// The instant at which the tests begin: 2026-11-21T00:00:00Z.
pub const NOW: Timestamp = Timestamp::from_millis(1_795_219_200_000);

/// The n-th id, a version-7 uuid; later ones are greater.
pub fn id(n: u64) -> Uuid {
    Uuid::from_u64_pair(0x0190_0000_0000_7000, 0x8000_0000_0000_0000 | n)
}

/// The n-th tenant.
pub fn tenant(n: u64) -> TenantId {
    TenantId::from_uuid(Uuid::from_u64_pair(0x0190_0000_0001_7000, 0x8000_0000_0000_0000 | n))
}

/// The scope of the n-th tenant.
pub fn of_tenant(n: u64) -> Scope {
    Scope::Tenant(tenant(n))
}

/// An object with a document that names it and without any value.
pub fn object(kind: Kind, id: Uuid) -> Put {
    Put {
        kind,
        id,
        tenant: None,
        fields: vec![Value::Null; kind.fields().len()],
        search: String::new(),
        unique: Vec::new(),
        refs: Vec::new(),
        doc: json!({ "id": id }),
    }
}

/// A machine.
pub fn vm(n: u64) -> Put {
    object(Kind::Vm, id(n))
}

/// A host.
pub fn host(n: u64) -> Put {
    object(Kind::Host, id(n))
}

/// Builds a [`Put`] up.
pub trait PutExt: Sized {
    /// Belongs to the n-th tenant.
    #[must_use]
    fn owned_by(self, n: u64) -> Self;
    /// Has this value in a declared field.
    #[must_use]
    fn field(self, name: &str, value: impl Into<Value>) -> Self;
    /// Is found by this text.
    #[must_use]
    fn found_by(self, text: &str) -> Self;
    /// Holds a unique key.
    #[must_use]
    fn key(self, key: &str) -> Self;
    /// Refers to an object.
    #[must_use]
    fn refers_to(self, id: Uuid) -> Self;
    /// Has this document.
    #[must_use]
    fn doc(self, doc: serde_json::Value) -> Self;
}

impl PutExt for Put {
    fn owned_by(mut self, n: u64) -> Self {
        self.tenant = Some(tenant(n));
        self
    }
    fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        let at = self.kind.fields().iter().position(|f| f.name == name);
        self.fields[at.expect("the kind declares the field")] = value.into();
        self
    }
    fn found_by(mut self, text: &str) -> Self {
        self.search = text.to_lowercase();
        self
    }
    fn key(mut self, key: &str) -> Self {
        self.unique.push(key.to_owned());
        self
    }
    fn refers_to(mut self, id: Uuid) -> Self {
        self.refs.push(id);
        self
    }
    fn doc(mut self, doc: serde_json::Value) -> Self {
        self.doc = doc;
        self
    }
}

/// A unit that writes these objects, in order.
pub fn writes(puts: impl IntoIterator<Item = Put>) -> UnitOfWork {
    UnitOfWork { change: puts.into_iter().map(Change::Put).collect(), ..UnitOfWork::new() }
}

/// A unit that removes an object.
pub fn removes(kind: Kind, id: Uuid) -> UnitOfWork {
    UnitOfWork { change: vec![Change::Delete(kind, id)], ..UnitOfWork::new() }
}

/// Writes these objects for Portolan itself.
pub async fn stored(storage: &dyn Storage, puts: impl IntoIterator<Item = Put>) {
    storage.apply(NOW, Scope::All, writes(puts)).await.expect("the objects are written");
}

/// Reads one object.
pub async fn row(storage: &dyn Storage, scope: Scope, kind: Kind, id: Uuid) -> Option<Row> {
    storage.rows(scope, kind, &[id]).await.expect("rows answers").pop()
}

/// The version of an object, 0 when it is not there.
pub async fn version(storage: &dyn Storage, kind: Kind, id: Uuid) -> i64 {
    row(storage, Scope::All, kind, id).await.map_or(0, |row| row.version)
}

/// All objects of a kind that match, in the order of their ids.
pub fn matching(kind: Kind, filter: Filter) -> RawQuery {
    RawQuery { kind, filter, sort: Sort::default(), page: Page::ALL, count: true }
}

/// The ids that a query finds, in its order.
pub async fn ids(storage: &dyn Storage, scope: Scope, query: &RawQuery) -> Vec<Uuid> {
    let page = storage.list(scope, query).await.expect("list answers");
    page.rows.into_iter().map(|row| row.id).collect()
}

/// The conflict that a unit failed with.
pub fn conflict<T: std::fmt::Debug>(result: Result<T, StoreError>) -> Conflict {
    match result {
        Err(StoreError::Conflict(conflict)) => conflict,
        other => panic!("expected a conflict, got {other:?}"),
    }
}

/// Fails unless the answer is that there is no such object.
pub fn expect_not_found<T: std::fmt::Debug>(result: Result<T, StoreError>, kind: Kind, id: Uuid) {
    match result {
        Err(StoreError::NotFound { kind: k, id: i }) if (k, i) == (kind, id) => {}
        other => panic!("expected that {kind} {id} is not found, got {other:?}"),
    }
}

/// The id of the n-th task.
pub fn task_id(n: u64) -> TaskId {
    TaskId::from_uuid(Uuid::from_u64_pair(0x0190_0000_0002_7000, 0x8000_0000_0000_0000 | n))
}

/// The n-th task: of kind `WORK`, due at once.
pub fn task(n: u64) -> NewTask {
    NewTask {
        id: task_id(n),
        kind: "WORK".into(),
        tenant: None,
        chain: ChainId::from_uuid(task_id(n).uuid()),
        priority: 50,
        run_at: NOW,
        start_by: None,
        deadline: None,
        max_attempts: 3,
        retries: 0,
        payload: json!({ "n": n }),
        links: TaskLinks::default(),
        after: Vec::new(),
        unique_key: None,
        limits: Vec::new(),
        requires: Vec::new(),
        on_failure: None,
        origin: Origin { kind: OriginKind::User, id: None, name: "admin".into() },
    }
}

/// Claims up to `limit` tasks of kind `WORK` for a minute.
pub async fn claim(storage: &dyn Storage, now: Timestamp, limit: u32) -> Vec<Task> {
    let request = ClaimRequest {
        worker: "worker-1".into(),
        kinds: vec!["WORK".into()],
        serves: Vec::new(),
        limit,
        lease: Duration::from_secs(60),
    };
    let claimed = storage.claim(now, request).await.expect("claim answers");
    claimed.into_iter().map(|claimed| claimed.task).collect()
}

/// Adds the n-th task and claims it; no other may be claimable.
pub async fn held(storage: &dyn Storage, n: u64) -> Held {
    storage.enqueue(NOW, vec![task(n)]).await.expect("the task is added");
    let claimed = claim(storage, NOW, 1).await;
    assert_eq!(claimed.iter().map(|t| t.new.id).collect::<Vec<_>>(), [task_id(n)]);
    claimed[0].held()
}

/// A success.
pub fn success(held: Held) -> Finish {
    Finish { held, outcome: Outcome::Succeeded { output: json!({ "done": true }) }, next: Vec::new() }
}

/// A task as it is stored.
pub async fn task_now(storage: &dyn Storage, scope: Scope, id: TaskId) -> Option<Task> {
    let query = TaskQuery { filter: Filter::eq("id", id.uuid()), ..TaskQuery::default() };
    storage.query(scope, &query).await.expect("query answers").tasks.pop()
}

/// A node whose `staging_used_bytes` counts.
pub fn node(n: u64) -> Node {
    Node {
        id: NodeId::from_uuid(id(n)),
        name: Name::new(format!("node-{n}")).expect("a valid name"),
        version: "1".into(),
        address: String::new(),
        last_seen: NOW,
        serves: Vec::new(),
        staging_total_bytes: 1 << 40,
        staging_used_bytes: 0,
    }
}
