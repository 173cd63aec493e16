//! What clouds offer and hold besides machines: images, sizes, locations, key pairs, volumes.
//!
//! A cloud's node is a [`VirtualMachine`](crate::VirtualMachine); what a driver says beyond these fields is in
//! `extra`, in the driver's own words.

use crate::dialect::libcloud::{Architecture, ImageMemberState, VolumeSnapshotState, VolumeState};
use crate::external::ExternalRef;
use crate::id::*;
use crate::name::Name;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What a driver says of a thing in its own words.
pub type Extra = serde_json::Map<String, serde_json::Value>;

/// An image that nodes are made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Portolan's id.
    pub id: ImageId,
    /// What the platform calls it.
    pub external: ExternalRef,
    /// Its name.
    pub name: Name,
    /// The processor that it is for.
    pub architecture: Option<Architecture>,
    /// Its size in bytes; 0 when unknown.
    #[serde(default)]
    pub size_bytes: u64,
    /// The tenant it belongs to; nothing for one that all may use.
    pub tenant: Option<TenantId>,
    /// What the driver says besides.
    #[serde(default)]
    pub extra: Extra,
    /// When it was first seen.
    pub created: Timestamp,
}

/// Someone whom an image is shared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageMember {
    /// The image.
    pub image: ImageId,
    /// The platform's id of who it is shared with.
    pub member: String,
    /// Whether they have taken it.
    pub state: ImageMemberState,
    /// When it was shared.
    pub created: Timestamp,
}

/// A size that nodes come in; also called a flavour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Size {
    /// Portolan's id.
    pub id: SizeId,
    /// What the platform calls it.
    pub external: ExternalRef,
    /// Its name.
    pub name: Name,
    /// Virtual processors; 0 when the driver does not say.
    #[serde(default)]
    pub cpus: u32,
    /// Memory in mebibytes.
    pub ram_mb: u64,
    /// Disk in gibibytes.
    pub disk_gb: u64,
    /// Traffic that is included, in gigabytes; nothing when unknown, 0 for any amount.
    pub bandwidth_gb: Option<u64>,
    /// The price of an hour in millionths of a dollar; nothing when unknown.
    pub price_micros: Option<u64>,
    /// What the driver says besides.
    #[serde(default)]
    pub extra: Extra,
}

/// A place that nodes are made in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// Portolan's id.
    pub id: LocationId,
    /// What the platform calls it.
    pub external: ExternalRef,
    /// Its name.
    pub name: Name,
    /// The country, two capital letters.
    #[serde(default)]
    pub country: String,
    /// What the driver says besides.
    #[serde(default)]
    pub extra: Extra,
}

/// The public half of a key pair. The private half is handed out once, when a pair is made, and never kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyPair {
    /// Portolan's id.
    pub id: KeyPairId,
    /// The platform that it is on.
    pub platform: PlatformId,
    /// Its name, unique on its platform: platforms know it by that alone.
    pub name: Name,
    /// The tenant it belongs to.
    pub tenant: Option<TenantId>,
    /// The public key, in OpenSSH's form.
    pub public_key: String,
    /// The key's fingerprint, in the platform's form.
    pub fingerprint: String,
    /// What the driver says besides.
    #[serde(default)]
    pub extra: Extra,
}

/// A disk of a cloud that exists without a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Portolan's id.
    pub id: VolumeId,
    /// What the platform calls it.
    pub external: ExternalRef,
    /// Its name.
    pub name: Name,
    /// The tenant it belongs to.
    pub tenant: Option<TenantId>,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Where it is in its life.
    pub state: VolumeState,
    /// The machine that it is attached to.
    pub attached_to: Option<VmId>,
    /// What that machine calls it, `/dev/vdb`.
    #[serde(default)]
    pub device: String,
    /// The place that it is in.
    pub location: Option<LocationId>,
    /// What the driver says besides.
    #[serde(default)]
    pub extra: Extra,
    /// When it was first seen.
    pub created: Timestamp,
}

/// A snapshot of a volume, kept by its platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeSnapshot {
    /// Portolan's id.
    pub id: VolumeSnapshotId,
    /// What the platform calls it.
    pub external: ExternalRef,
    /// Its name; platforms need not give one.
    pub name: Option<Name>,
    /// The volume, where it is known still.
    pub volume: Option<VolumeId>,
    /// The tenant it belongs to.
    pub tenant: Option<TenantId>,
    /// Its size in bytes; nothing when unknown.
    pub size_bytes: Option<u64>,
    /// Where it is in its life.
    pub state: VolumeSnapshotState,
    /// What the driver says besides.
    #[serde(default)]
    pub extra: Extra,
    /// When it was taken, or first seen.
    pub created: Timestamp,
}

/// A volume of a container platform, and the claim that binds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PersistentVolume {
    /// Portolan's id.
    pub id: PersistentVolumeId,
    /// What the platform calls it.
    pub external: ExternalRef,
    /// Its name.
    pub name: Name,
    /// The claim that it is bound to; empty for none.
    #[serde(default)]
    pub claim: String,
    /// The claim's namespace; empty for none.
    #[serde(default)]
    pub namespace: String,
    /// The class of storage it is of; empty for none.
    #[serde(default)]
    pub storage_class: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The datastore that it lies on.
    pub datastore: Option<DatastoreId>,
    /// The disk that it is, where inventory knows it.
    pub disk: Option<DiskId>,
    /// The machine that it is attached to.
    pub vm: Option<VmId>,
    /// The tenant it belongs to.
    pub tenant: Option<TenantId>,
    /// Whether the platform still reports it.
    pub present: bool,
    /// How many complete listings in a row lacked it.
    #[serde(default)]
    pub missed: u32,
    /// When it was first seen.
    pub created: Timestamp,
}
