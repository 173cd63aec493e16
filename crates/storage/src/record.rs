//! What an object must say of itself to be stored.

use crate::kind::Kind;
use portolan_model::query::Value;
use portolan_model::{TenantId, TypedId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An object that can be stored.
pub trait Record: Serialize + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static {
    /// Its id's type.
    type Id: TypedId;
    /// Its kind.
    const KIND: Kind;

    /// Its id.
    fn id(&self) -> Self::Id;

    /// The tenant that it belongs to.
    fn tenant(&self) -> Option<TenantId> {
        None
    }

    /// Values for every field that its kind declares, in that order.
    fn fields(&self) -> Vec<Value>;

    /// The text that [`portolan_model::query::Filter::Contains`] looks in.
    fn search(&self) -> String {
        String::new()
    }

    /// Keys that no other object may hold, each beginning with the kind's name.
    fn unique(&self) -> Vec<String> {
        Vec::new()
    }

    /// Objects that must not be deleted while this one is there.
    fn refs(&self) -> Vec<Uuid> {
        Vec::new()
    }
}

/// A secret as stored: sealed by the master key, bound to its row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Secured {
    /// Its id, part of what is sealed.
    pub id: portolan_model::CredentialId,
    /// What it is for, `destination:<id>:key`; unique.
    pub owner: String,
    /// The sealed bytes, base64.
    pub sealed: String,
}

/// A named setting of this installation, such as the master key's check value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Derived from the name.
    pub id: portolan_model::EventId,
    /// Its name, unique.
    pub name: String,
    /// Its value.
    pub value: serde_json::Value,
}

impl Setting {
    /// The setting `name`. Its id is a hash of the name, so that it can be fetched without a list.
    pub fn new(name: &str, value: serde_json::Value) -> Self {
        Self { id: Self::id_of(name), name: name.to_owned(), value }
    }

    /// The id of the setting `name`.
    pub fn id_of(name: &str) -> portolan_model::EventId {
        // FNV-1a over the name, twice with different starts: settings are few, and their names are ours.
        let fnv = |start: u64| name.bytes().fold(start, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        let id = Uuid::from_u64_pair(fnv(0xcbf2_9ce4_8422_2325), fnv(0x8422_2325_cbf2_9ce4));
        portolan_model::EventId::from_uuid(
            uuid::Builder::from_bytes(id.into_bytes()).with_version(uuid::Version::Custom).into_uuid(),
        )
    }
}

/// A document that a driver keeps, see `portolan_driver::DriverState`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriverDocument {
    /// Its id.
    pub id: portolan_model::EventId,
    /// The platform that the driver drives.
    pub platform: portolan_model::PlatformId,
    /// Its key, unique on the platform.
    pub key: String,
    /// What it says.
    pub value: serde_json::Value,
}

/// The answer to a request that its sender may repeat, or the note that one is being worked on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// Derived from sender, dialect and key.
    pub id: portolan_model::EventId,
    /// A keyed hash of what was asked: another request under the same key is refused.
    pub fingerprint: String,
    /// Who is at it: the process that took the request on.
    pub holder: String,
    /// When that process counts as lost, unless the answer is there by then.
    pub held_until: portolan_model::Timestamp,
    /// The answer, sealed; nothing while there is none.
    pub answer: Option<String>,
    /// When it is forgotten.
    pub expires: portolan_model::Timestamp,
}
