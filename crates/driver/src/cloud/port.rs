//! The port that cloud drivers implement.

use super::data::*;
use super::error::CloudError;
use async_trait::async_trait;
use portolan_model::dialect::libcloud::CreateNodeFeature;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Something that a driver can do. Every call but the listing of nodes needs one; without it the call answers
/// [`super::CloudErrorKind::Unsupported`] before anything goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
#[repr(u8)]
pub enum Capability {
    /// [`CloudDriver::create_node`].
    CreateNode,
    /// A second create with an equal token answers the first one's node.
    IdempotentCreate,
    /// [`CloudDriver::start_node`].
    StartNode,
    /// [`CloudDriver::stop_node`].
    StopNode,
    /// [`CloudDriver::reboot_node`].
    RebootNode,
    /// [`CloudDriver::destroy_node`].
    DestroyNode,
    /// [`CloudDriver::list_images`] and [`CloudDriver::get_image`].
    Images,
    /// [`CloudDriver::create_image`], out of a node.
    CreateImage,
    /// [`CloudDriver::delete_image`].
    DeleteImage,
    /// [`CloudDriver::list_sizes`].
    Sizes,
    /// [`CloudDriver::list_locations`].
    Locations,
    /// [`CloudDriver::list_key_pairs`], [`CloudDriver::get_key_pair`], [`CloudDriver::delete_key_pair`].
    KeyPairs,
    /// [`CloudDriver::create_key_pair`].
    CreateKeyPair,
    /// [`CloudDriver::import_key_pair`].
    ImportKeyPair,
    /// Volumes: list, create, attach, detach, destroy.
    Volumes,
    /// Snapshots of volumes: list, create, destroy, and volumes made from them.
    VolumeSnapshots,
}

/// The capabilities of a driver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySet(u32);

impl CapabilitySet {
    /// These capabilities.
    pub const fn of(all: &[Capability]) -> Self {
        let (mut bits, mut n) = (0, 0);
        while n < all.len() {
            bits |= 1 << all[n] as u32;
            n += 1;
        }
        Self(bits)
    }

    /// Whether this is one of them.
    pub const fn has(self, one: Capability) -> bool {
        self.0 & (1 << one as u32) != 0
    }

    /// The same without one.
    #[must_use]
    pub const fn without(self, one: Capability) -> Self {
        Self(self.0 & !(1 << one as u32))
    }
}

/// What a cloud is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudInfo {
    /// The provider's type, `dummy`, `openstack`: part of libcloud's uuids.
    pub provider: &'static str,
    /// Its name for people, `Dummy Node Provider`.
    pub display_name: &'static str,
    /// The host that its API answers at.
    pub host: String,
}

/// Where the next page of a list begins: the provider's own marker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor(pub String);

/// A page of a list, in the provider's order.
#[derive(Debug, Clone, PartialEq)]
pub struct CloudPage<T> {
    /// The things.
    pub items: Vec<T>,
    /// Where the list goes on; nothing at its end.
    pub next: Option<Cursor>,
}

impl<T> CloudPage<T> {
    /// A whole list in one page.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}

macro_rules! unsupported {
    ($what:literal) => {
        Err(CloudError::unsupported($what))
    };
}

/// A cloud. A driver is shared by many callers at once: it logs in once for all of them, and again once when the
/// provider revokes that login ([`crate::Relogin`]).
///
/// Calls do not retry creations: a caller who knows the token looks for the node first. Calls that only read may be
/// repeated, see [`crate::Retrying`]. No call waits until a node runs.
#[async_trait]
pub trait CloudDriver: Send + Sync {
    /// What the cloud is called. No call goes out.
    fn info(&self) -> CloudInfo;

    /// What the driver can do. No call goes out.
    fn capabilities(&self) -> CapabilitySet;

    /// How new nodes may be logged in to; an [`NodeAuth`] of another kind is `Unsupported`.
    fn create_features(&self) -> &'static [CreateNodeFeature] {
        &[]
    }

    /// A page of the nodes, from the beginning or from where an earlier page ended. They are shared, so that a driver
    /// that remembers them copies none; whoever gets the very same node again knows that it is as it was.
    async fn list_nodes(&self, from: Option<&Cursor>) -> Result<CloudPage<Arc<CloudNode>>, CloudError>;

    /// Asks for a node and answers what is known at once; it is starting, pending or running.
    async fn create_node(&self, wish: &CreateNode) -> Result<CreatedNode, CloudError> {
        let _ = wish;
        unsupported!("nodes cannot be made")
    }

    /// Starts a stopped node. `Conflict` in another state.
    async fn start_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        let _ = node;
        unsupported!("nodes cannot be started")
    }

    /// Stops a running node. `Conflict` in another state.
    async fn stop_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        let _ = node;
        unsupported!("nodes cannot be stopped")
    }

    /// Reboots a running node. `Conflict` in another state.
    async fn reboot_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        let _ = node;
        unsupported!("nodes cannot be rebooted")
    }

    /// Destroys a node with all that is on it. `NotFound` when it is gone already: never destroys another node that
    /// has its id by now.
    async fn destroy_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        let _ = node;
        unsupported!("nodes cannot be destroyed")
    }

    /// A page of the sizes of a location, or of all.
    async fn list_sizes(
        &self,
        location: Option<&str>,
        from: Option<&Cursor>,
    ) -> Result<CloudPage<CloudSize>, CloudError> {
        let _ = (location, from);
        unsupported!("there are no sizes")
    }

    /// A page of the images of a location, or of all.
    async fn list_images(
        &self,
        location: Option<&str>,
        from: Option<&Cursor>,
    ) -> Result<CloudPage<CloudImage>, CloudError> {
        let _ = (location, from);
        unsupported!("there are no images")
    }

    /// One image, also while it is still being made.
    async fn get_image(&self, id: &str) -> Result<CloudImage, CloudError> {
        let _ = id;
        unsupported!("there are no images")
    }

    /// Makes an image out of a node.
    async fn create_image(&self, node: &NodeRef, name: &str, description: &str) -> Result<CloudImage, CloudError> {
        let _ = (node, name, description);
        unsupported!("images cannot be made")
    }

    /// Deletes an image.
    async fn delete_image(&self, id: &str) -> Result<(), CloudError> {
        let _ = id;
        unsupported!("images cannot be deleted")
    }

    /// A page of the locations.
    async fn list_locations(&self, from: Option<&Cursor>) -> Result<CloudPage<CloudLocation>, CloudError> {
        let _ = from;
        unsupported!("there are no locations")
    }

    /// A page of the key pairs.
    async fn list_key_pairs(&self, from: Option<&Cursor>) -> Result<CloudPage<CloudKeyPair>, CloudError> {
        let _ = from;
        unsupported!("there are no key pairs")
    }

    /// One key pair.
    async fn get_key_pair(&self, name: &str) -> Result<CloudKeyPair, CloudError> {
        let _ = name;
        unsupported!("there are no key pairs")
    }

    /// Has the provider make a key pair. `Conflict` when the name is taken.
    async fn create_key_pair(&self, name: &str) -> Result<CreatedKeyPair, CloudError> {
        let _ = name;
        unsupported!("key pairs cannot be made")
    }

    /// Gives the provider a public key. `Conflict` when the name is taken.
    async fn import_key_pair(&self, name: &str, public_key: &str) -> Result<CreatedKeyPair, CloudError> {
        let _ = (name, public_key);
        unsupported!("key pairs cannot be imported")
    }

    /// Deletes a key pair.
    async fn delete_key_pair(&self, name: &str) -> Result<(), CloudError> {
        let _ = name;
        unsupported!("key pairs cannot be deleted")
    }

    /// A page of the volumes.
    async fn list_volumes(&self, from: Option<&Cursor>) -> Result<CloudPage<CloudVolume>, CloudError> {
        let _ = from;
        unsupported!("there are no volumes")
    }

    /// Makes a volume.
    async fn create_volume(&self, wish: &CreateVolume) -> Result<CloudVolume, CloudError> {
        let _ = wish;
        unsupported!("there are no volumes")
    }

    /// Attaches a volume to a node. `Conflict` when it is attached.
    async fn attach_volume(&self, node: &NodeRef, volume: &str, device: Option<&str>) -> Result<(), CloudError> {
        let _ = (node, volume, device);
        unsupported!("there are no volumes")
    }

    /// Detaches a volume. `Conflict` when it is not attached.
    async fn detach_volume(&self, volume: &str) -> Result<(), CloudError> {
        let _ = volume;
        unsupported!("there are no volumes")
    }

    /// Destroys a volume. `Conflict` while it is attached.
    async fn destroy_volume(&self, volume: &str) -> Result<(), CloudError> {
        let _ = volume;
        unsupported!("there are no volumes")
    }

    /// A page of the snapshots of a volume.
    async fn list_volume_snapshots(
        &self,
        volume: &str,
        from: Option<&Cursor>,
    ) -> Result<CloudPage<CloudSnapshot>, CloudError> {
        let _ = (volume, from);
        unsupported!("there are no snapshots of volumes")
    }

    /// Takes a snapshot of a volume.
    async fn create_volume_snapshot(&self, volume: &str, name: Option<&str>) -> Result<CloudSnapshot, CloudError> {
        let _ = (volume, name);
        unsupported!("there are no snapshots of volumes")
    }

    /// Destroys a snapshot.
    async fn destroy_volume_snapshot(&self, snapshot: &str) -> Result<(), CloudError> {
        let _ = snapshot;
        unsupported!("there are no snapshots of volumes")
    }
}
