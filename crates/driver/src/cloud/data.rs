//! What a cloud says of its things, in the provider's own ids.

use portolan_model::cloud::Extra as ModelExtra;
use portolan_model::dialect::libcloud::{Architecture, NodeState, VolumeSnapshotState, VolumeState};
use portolan_model::{Secret, Timestamp};
use serde::{Deserialize, Serialize};

/// What a driver says of a thing in the provider's own words.
pub type Extra = ModelExtra;

/// A node, addressed so that it cannot be taken for another one that has its id now or had it before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeRef {
    /// The provider's id.
    pub id: String,
    /// Tells apart nodes that have or had this id; empty where the provider never uses an id again.
    #[serde(default)]
    pub incarnation: String,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloudNode {
    /// The provider's id; not unique over time, see [`NodeRef`].
    pub id: String,
    /// Tells apart nodes that have or had this id; empty where the provider never uses an id again.
    #[serde(default)]
    pub incarnation: String,
    /// Its name, as the provider has it.
    pub name: String,
    /// Where it is in its life. A word of the provider that nobody has heard of is `Unknown`, and stands in `extra`
    /// under `state`.
    pub state: NodeState,
    /// Addresses that are reached from outside.
    pub public_ips: Vec<String>,
    /// Addresses of its private networks.
    pub private_ips: Vec<String>,
    /// Id of its size, where the provider says so.
    pub size: Option<String>,
    /// Id of the image that it was made from, where the provider says so.
    pub image: Option<String>,
    /// When it was made, where the provider says so.
    pub created: Option<Timestamp>,
    /// The token that it was made with ([`CreateNode::token`]); nothing for a node that somebody else made.
    pub token: Option<String>,
    /// What the provider says besides.
    #[serde(default)]
    pub extra: Extra,
}

impl CloudNode {
    /// The node's address for calls.
    pub fn reference(&self) -> NodeRef {
        NodeRef { id: self.id.clone(), incarnation: self.incarnation.clone() }
    }
}

/// A size that nodes come in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloudSize {
    /// The provider's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Virtual processors, where the provider says so.
    pub cpus: Option<u32>,
    /// Memory in mebibytes.
    pub ram_mb: u64,
    /// Disk in gibibytes.
    pub disk_gb: u64,
    /// Traffic that is included, in gigabytes; nothing when unknown, 0 for any amount.
    pub bandwidth_gb: Option<u64>,
    /// The price of an hour in millionths of a dollar; nothing when unknown.
    pub price_micros: Option<u64>,
    /// What the provider says besides.
    #[serde(default)]
    pub extra: Extra,
}

/// An image that nodes are made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloudImage {
    /// The provider's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The processor that it is for.
    pub architecture: Option<Architecture>,
    /// Its size in bytes; 0 when unknown.
    #[serde(default)]
    pub size_bytes: u64,
    /// What the provider says besides.
    #[serde(default)]
    pub extra: Extra,
}

/// A place that nodes are made in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloudLocation {
    /// The provider's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The country, two capital letters; empty when unknown.
    pub country: String,
    /// What the provider says besides.
    #[serde(default)]
    pub extra: Extra,
}

/// The public half of a key pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloudKeyPair {
    /// Its name, which is also its id.
    pub name: String,
    /// The public key in OpenSSH's form; empty where the provider does not tell it.
    pub public_key: String,
    /// The fingerprint, in the provider's form.
    pub fingerprint: String,
    /// What the provider says besides.
    #[serde(default)]
    pub extra: Extra,
}

/// A key pair that was made just now.
#[derive(Debug, Clone)]
pub struct CreatedKeyPair {
    /// The public half.
    pub pair: CloudKeyPair,
    /// The private half in PEM, where the provider made it. It is told this once.
    pub private_key: Option<Secret>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloudVolume {
    /// The provider's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its size in gibibytes.
    pub size_gb: u64,
    /// Where it is in its life.
    pub state: VolumeState,
    /// Id of the node that it is attached to.
    pub attached_to: Option<String>,
    /// What that node calls it, `/dev/vdb`; empty when unknown.
    #[serde(default)]
    pub device: String,
    /// What the provider says besides.
    #[serde(default)]
    pub extra: Extra,
}

/// A snapshot of a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloudSnapshot {
    /// The provider's id.
    pub id: String,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// Id of the volume.
    pub volume: String,
    /// Its size in gibibytes, where the provider says so.
    pub size_gb: Option<u64>,
    /// Where it is in its life.
    pub state: VolumeSnapshotState,
    /// When it was taken, where the provider says so.
    pub created: Option<Timestamp>,
    /// What the provider says besides.
    #[serde(default)]
    pub extra: Extra,
}

/// How a new node may be logged in to.
#[derive(Debug, Clone)]
pub enum NodeAuth {
    /// This public key, in OpenSSH's form.
    SshKey(String),
    /// This password.
    Password(Secret),
}

/// A wish for a node.
#[derive(Debug, Clone)]
pub struct CreateNode {
    /// The name; some providers choose their own.
    pub name: String,
    /// Id of the image.
    pub image: String,
    /// Id of the size.
    pub size: String,
    /// Id of the location; nothing leaves the choice to the provider.
    pub location: Option<String>,
    /// The name of a key pair that the provider has.
    pub key_pair: Option<String>,
    /// How the node may be logged in to, beside that key pair.
    pub auth: Option<NodeAuth>,
    /// What the provider keeps with the node, in the caller's words.
    pub metadata: Extra,
    /// Names the wish. The node carries it ([`CloudNode::token`]), so that one whose answer was lost is found again;
    /// a driver with [`crate::Capability::IdempotentCreate`] answers a second wish of the same token with the first
    /// one's node.
    pub token: String,
}

/// A node that was made just now.
#[derive(Debug, Clone)]
pub struct CreatedNode {
    /// What is known of it by now: it need not run yet.
    pub node: CloudNode,
    /// The password that the provider made, where it makes one. It is told this once.
    pub password: Option<Secret>,
}

/// A wish for a volume.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateVolume {
    /// The name.
    pub name: String,
    /// The size in gibibytes.
    pub size_gb: u64,
    /// Id of the location; nothing leaves the choice to the provider.
    pub location: Option<String>,
    /// Id of the snapshot that it begins as; nothing for an empty volume.
    pub snapshot: Option<String>,
}
