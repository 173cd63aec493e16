//! The dialect's objects on the wire. Absent values are left out, never `null`; lists and counters are always there
//! (section 2.6).

pub(crate) mod backup;
pub(crate) mod dashboard;
pub(crate) mod file;
pub(crate) mod inventory;
pub(crate) mod machine;
pub(crate) mod session;
pub(crate) mod task;
pub(crate) mod workflow;

use portolan_model::backup::Origin;
use portolan_model::describe::{Describe, EnumNameAndDescription, NameAndGuid};
use portolan_model::dialect::vplus::ProtectedEntityType;
use portolan_model::{AccountId, TypedId};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// An enum value: its name, and a text for people.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = EnumNameAndDescription)]
pub(crate) struct Enum {
    /// The name.
    pub(crate) name: String,
    /// The text for people.
    pub(crate) description: String,
}

impl From<EnumNameAndDescription> for Enum {
    fn from(e: EnumNameAndDescription) -> Self {
        Self { name: e.name, description: e.description }
    }
}

/// The wire form of an enum value.
pub(crate) fn word<E: Describe>(value: E) -> Enum {
    value.described().into()
}

/// A reference to an object.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = NameAndGuid)]
pub(crate) struct Ref {
    /// The object's guid.
    pub(crate) guid: Uuid,
    /// The object's name.
    pub(crate) name: String,
}

impl From<NameAndGuid> for Ref {
    fn from(r: NameAndGuid) -> Self {
        Self { guid: r.guid, name: r.name }
    }
}

impl Ref {
    /// A reference to the object `id` that is called `name`.
    pub(crate) fn new(id: impl TypedId, name: impl Into<String>) -> Self {
        NameAndGuid::new(id, name).into()
    }
}

/// A reference that also says what it refers to.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = NameGuidAndType)]
pub(crate) struct TypedRef {
    /// The object's guid.
    pub(crate) guid: String,
    /// The object's name.
    pub(crate) name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub(crate) kind: Enum,
}

impl TypedRef {
    /// A machine as a protected entity.
    pub(crate) fn vm(id: impl TypedId, name: &str) -> Self {
        Self { guid: id.uuid().to_string(), name: name.to_owned(), kind: word(ProtectedEntityType::Vm) }
    }

    /// What asked for a piece of work. Its type's description is its name, as the original has it.
    pub(crate) fn origin(origin: &Origin) -> Self {
        let guid = origin.id.map(|id| AccountId::from_uuid(id).to_string()).unwrap_or_default();
        let kind = Enum { name: origin.kind.name().to_owned(), description: origin.name.clone() };
        Self { guid, name: origin.name.clone(), kind }
    }
}
