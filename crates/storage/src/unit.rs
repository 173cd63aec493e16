//! Units of work: everything that one decision writes.

use crate::ext::Stored;
use crate::kind::Kind;
use crate::record::Record;
use portolan_model::query::Value;
use portolan_model::{TenantId, TypedId};
use portolan_tasks::{Finish, Held, NewTask};
use uuid::Uuid;

/// Everything that one decision writes: applied whole, or not at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UnitOfWork {
    /// What must hold, checked first.
    pub require: Vec<Require>,
    /// What is written, in order.
    pub change: Vec<Change>,
    /// Tasks that are added.
    pub enqueue: Vec<NewTask>,
    /// Attempts that end. A stale one fails the whole unit.
    pub finish: Vec<Finish>,
    /// What others may want to hear of.
    pub events: Vec<NewEvent>,
}

/// A precondition.
#[derive(Debug, Clone, PartialEq)]
pub enum Require {
    /// The object has this version; 0 means that it is not there.
    Version(Kind, Uuid, i64),
    /// Nobody holds this unique key.
    Absent(String),
    /// The task runs under this fence.
    TaskHeld(Held),
    /// No object refers to this one.
    RefFree(Kind, Uuid),
}

/// A write.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Writes the object; its version goes up by one, from 0 when it is new. Its unique keys become its own;
    /// one that another object holds fails the unit.
    Put(Put),
    /// Removes the object and its unique keys; one that is not there is fine.
    Delete(Kind, Uuid),
}

impl Change {
    /// The object that it is about.
    pub fn key(&self) -> (Kind, Uuid) {
        match self {
            Self::Put(put) => (put.kind, put.id),
            Self::Delete(kind, id) => (*kind, *id),
        }
    }
}

/// An object, taken apart for the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Put {
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: Uuid,
    /// The tenant that it belongs to.
    pub tenant: Option<TenantId>,
    /// Values for every declared field, in the kind's order.
    pub fields: Vec<Value>,
    /// The search text, in lower case.
    pub search: String,
    /// Its unique keys.
    pub unique: Vec<String>,
    /// The objects that it refers to.
    pub refs: Vec<Uuid>,
    /// The document.
    pub doc: serde_json::Value,
}

/// An event for the outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// What happened, `backup.succeeded`.
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

impl Put {
    /// Takes a record apart.
    pub fn of<R: Record>(record: &R) -> Self {
        let fields = record.fields();
        debug_assert_eq!(fields.len(), R::KIND.fields().len(), "{} declares other fields", R::KIND);
        Self {
            kind: R::KIND,
            id: record.id().uuid(),
            tenant: record.tenant(),
            fields,
            search: record.search().to_lowercase(),
            unique: record.unique(),
            refs: record.refs(),
            // Plain data with text keys cannot fail to become a document.
            doc: serde_json::to_value(record).unwrap_or_default(),
        }
    }
}

impl UnitOfWork {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a new object; fails when it is there already.
    #[must_use]
    pub fn create<R: Record>(mut self, record: &R) -> Self {
        self.require.push(Require::Version(R::KIND, record.id().uuid(), 0));
        self.change.push(Change::Put(Put::of(record)));
        self
    }

    /// Writes an object that was read and changed; fails when somebody else has changed it since.
    #[must_use]
    pub fn update<R: Record>(mut self, stored: &Stored<R>) -> Self {
        self.require.push(Require::Version(R::KIND, stored.value.id().uuid(), stored.version));
        self.change.push(Change::Put(Put::of(&stored.value)));
        self
    }

    /// Writes an object whatever is there.
    #[must_use]
    pub fn put<R: Record>(mut self, record: &R) -> Self {
        self.change.push(Change::Put(Put::of(record)));
        self
    }

    /// Removes an object.
    #[must_use]
    pub fn delete<R: Record>(mut self, id: R::Id) -> Self {
        self.change.push(Change::Delete(R::KIND, id.uuid()));
        self
    }

    /// Adds a precondition.
    #[must_use]
    pub fn require(mut self, require: Require) -> Self {
        self.require.push(require);
        self
    }

    /// Adds a task.
    #[must_use]
    pub fn enqueue(mut self, task: NewTask) -> Self {
        self.enqueue.push(task);
        self
    }

    /// Ends an attempt.
    #[must_use]
    pub fn finish(mut self, finish: Finish) -> Self {
        self.finish.push(finish);
        self
    }

    /// Adds an event that Portolan itself brought about.
    #[must_use]
    pub fn event(self, name: &str, tenant: Option<TenantId>, subject: Uuid, data: serde_json::Value) -> Self {
        self.event_by("", name, tenant, subject, data)
    }

    /// Adds an event that somebody brought about: the audit log shows it under their login.
    #[must_use]
    pub fn event_by(
        mut self,
        actor: &str,
        name: &str,
        tenant: Option<TenantId>,
        subject: Uuid,
        data: serde_json::Value,
    ) -> Self {
        let (name, actor) = (name.to_owned(), actor.to_owned());
        self.events.push(NewEvent { name, tenant, subject: Some(subject), actor, data });
        self
    }
}
