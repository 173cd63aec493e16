//! Drivers around drivers: what bounds, repeats, counts or disturbs every call is written once.

use super::call::CloudCall;
use super::data::*;
use super::error::CloudError;
use super::port::{CapabilitySet, CloudDriver, CloudInfo, CloudPage, Cursor};
use async_trait::async_trait;
use portolan_model::dialect::libcloud::CreateNodeFeature;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// One try of a call.
pub type Attempt<'a, T> = Pin<Box<dyn Future<Output = Result<T, CloudError>> + Send + 'a>>;

/// Something that stands around a driver and sees each of its calls. Whatever implements this is a
/// [`CloudDriver`].
pub trait Layer: Send + Sync {
    /// The driver within.
    fn inner(&self) -> &dyn CloudDriver;

    /// Makes the call: `attempt` asks the driver within, once each time that it is called.
    fn around<'a, T, F>(
        &'a self,
        call: CloudCall,
        attempt: F,
    ) -> impl Future<Output = Result<T, CloudError>> + Send + 'a
    where
        T: Send + 'a,
        F: Fn() -> Attempt<'a, T> + Send + Sync + 'a;

    /// The same for calls that change a node and answer nothing: start, stop, reboot, destroy.
    fn around_node<'a, F>(
        &'a self,
        call: CloudCall,
        node: &'a NodeRef,
        attempt: F,
    ) -> impl Future<Output = Result<(), CloudError>> + Send + 'a
    where
        F: Fn() -> Attempt<'a, ()> + Send + Sync + 'a,
    {
        let _ = node;
        self.around(call, attempt)
    }
}

#[async_trait]
impl<L: Layer> CloudDriver for L {
    fn info(&self) -> CloudInfo {
        self.inner().info()
    }

    fn capabilities(&self) -> CapabilitySet {
        self.inner().capabilities()
    }

    fn create_features(&self) -> &'static [CreateNodeFeature] {
        self.inner().create_features()
    }

    async fn list_nodes(&self, from: Option<&Cursor>) -> Result<CloudPage<Arc<CloudNode>>, CloudError> {
        self.around(CloudCall::ListNodes, || self.inner().list_nodes(from)).await
    }

    async fn create_node(&self, wish: &CreateNode) -> Result<CreatedNode, CloudError> {
        self.around(CloudCall::CreateNode, || self.inner().create_node(wish)).await
    }

    async fn start_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        self.around_node(CloudCall::StartNode, node, || self.inner().start_node(node)).await
    }

    async fn stop_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        self.around_node(CloudCall::StopNode, node, || self.inner().stop_node(node)).await
    }

    async fn reboot_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        self.around_node(CloudCall::RebootNode, node, || self.inner().reboot_node(node)).await
    }

    async fn destroy_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        self.around_node(CloudCall::DestroyNode, node, || self.inner().destroy_node(node)).await
    }

    async fn list_sizes(
        &self,
        location: Option<&str>,
        from: Option<&Cursor>,
    ) -> Result<CloudPage<CloudSize>, CloudError> {
        self.around(CloudCall::ListSizes, || self.inner().list_sizes(location, from)).await
    }

    async fn list_images(
        &self,
        location: Option<&str>,
        from: Option<&Cursor>,
    ) -> Result<CloudPage<CloudImage>, CloudError> {
        self.around(CloudCall::ListImages, || self.inner().list_images(location, from)).await
    }

    async fn get_image(&self, id: &str) -> Result<CloudImage, CloudError> {
        self.around(CloudCall::GetImage, || self.inner().get_image(id)).await
    }

    async fn create_image(&self, node: &NodeRef, name: &str, description: &str) -> Result<CloudImage, CloudError> {
        self.around(CloudCall::CreateImage, || self.inner().create_image(node, name, description)).await
    }

    async fn delete_image(&self, id: &str) -> Result<(), CloudError> {
        self.around(CloudCall::DeleteImage, || self.inner().delete_image(id)).await
    }

    async fn list_locations(&self, from: Option<&Cursor>) -> Result<CloudPage<CloudLocation>, CloudError> {
        self.around(CloudCall::ListLocations, || self.inner().list_locations(from)).await
    }

    async fn list_key_pairs(&self, from: Option<&Cursor>) -> Result<CloudPage<CloudKeyPair>, CloudError> {
        self.around(CloudCall::ListKeyPairs, || self.inner().list_key_pairs(from)).await
    }

    async fn get_key_pair(&self, name: &str) -> Result<CloudKeyPair, CloudError> {
        self.around(CloudCall::GetKeyPair, || self.inner().get_key_pair(name)).await
    }

    async fn create_key_pair(&self, name: &str) -> Result<CreatedKeyPair, CloudError> {
        self.around(CloudCall::CreateKeyPair, || self.inner().create_key_pair(name)).await
    }

    async fn import_key_pair(&self, name: &str, public_key: &str) -> Result<CreatedKeyPair, CloudError> {
        self.around(CloudCall::ImportKeyPair, || self.inner().import_key_pair(name, public_key)).await
    }

    async fn delete_key_pair(&self, name: &str) -> Result<(), CloudError> {
        self.around(CloudCall::DeleteKeyPair, || self.inner().delete_key_pair(name)).await
    }

    async fn list_volumes(&self, from: Option<&Cursor>) -> Result<CloudPage<CloudVolume>, CloudError> {
        self.around(CloudCall::ListVolumes, || self.inner().list_volumes(from)).await
    }

    async fn create_volume(&self, wish: &CreateVolume) -> Result<CloudVolume, CloudError> {
        self.around(CloudCall::CreateVolume, || self.inner().create_volume(wish)).await
    }

    async fn attach_volume(&self, node: &NodeRef, volume: &str, device: Option<&str>) -> Result<(), CloudError> {
        self.around(CloudCall::AttachVolume, || self.inner().attach_volume(node, volume, device)).await
    }

    async fn detach_volume(&self, volume: &str) -> Result<(), CloudError> {
        self.around(CloudCall::DetachVolume, || self.inner().detach_volume(volume)).await
    }

    async fn destroy_volume(&self, volume: &str) -> Result<(), CloudError> {
        self.around(CloudCall::DestroyVolume, || self.inner().destroy_volume(volume)).await
    }

    async fn list_volume_snapshots(
        &self,
        volume: &str,
        from: Option<&Cursor>,
    ) -> Result<CloudPage<CloudSnapshot>, CloudError> {
        self.around(CloudCall::ListVolumeSnapshots, || self.inner().list_volume_snapshots(volume, from)).await
    }

    async fn create_volume_snapshot(&self, volume: &str, name: Option<&str>) -> Result<CloudSnapshot, CloudError> {
        self.around(CloudCall::CreateVolumeSnapshot, || self.inner().create_volume_snapshot(volume, name)).await
    }

    async fn destroy_volume_snapshot(&self, snapshot: &str) -> Result<(), CloudError> {
        self.around(CloudCall::DestroyVolumeSnapshot, || self.inner().destroy_volume_snapshot(snapshot)).await
    }
}
