//! The driver half: logs in, checks what it may ask, and maps the provider's words.

use super::STATE_WORDS;
use super::account::{Account, Node, page};
use super::provider::{Provider, Refusal, Settings};
use async_trait::async_trait;
use portolan_driver::*;
use portolan_model::Secret;
use portolan_model::dialect::libcloud::{CreateNodeFeature, NodeState};
use std::sync::Arc;

pub(super) struct ScriptedDriver {
    provider: Arc<Provider>,
    capabilities: CapabilitySet,
    relogin: Relogin<AccountLogin>,
}

struct AccountLogin {
    provider: Arc<Provider>,
    account: String,
}

#[async_trait]
impl Login for AccountLogin {
    type Token = Secret;

    async fn login(&self) -> Result<Granted<Secret>, CloudError> {
        tokio::task::yield_now().await;
        Ok(self.provider.login(&self.account))
    }
}

impl ScriptedDriver {
    pub(super) fn new(provider: Arc<Provider>, account: &str, capabilities: CapabilitySet) -> Self {
        let login = AccountLogin { provider: provider.clone(), account: account.to_owned() };
        let relogin = Relogin::new(login, provider.clock.clone());
        Self { provider, capabilities, relogin }
    }

    async fn ask<T: Send>(
        &self,
        call: CloudCall,
        work: impl Fn(&mut Account, &Settings) -> Result<T, Refusal> + Send + Sync,
    ) -> Result<T, CloudError> {
        if call.needs().is_some_and(|needed| !self.capabilities.has(needed)) {
            return Err(CloudError::unsupported(call.name()));
        }
        let (provider, work) = (&self.provider, &work);
        self.relogin.call(|token| async move { provider.request(&token, work).await }).await
    }
}

fn shown(node: Node) -> CloudNode {
    let known = STATE_WORDS.iter().find(|(word, _)| *word == node.word);
    let mut extra = Extra::new();
    if known.is_none() {
        extra.insert("state".to_owned(), node.word.clone().into());
    }
    extra.insert("metadata".to_owned(), node.metadata.into());
    CloudNode {
        id: node.id.to_string(),
        incarnation: node.serial.to_string(),
        name: node.name,
        state: known.map_or(NodeState::Unknown, |(_, state)| *state),
        public_ips: vec![format!("192.0.2.{}", node.id % 256)],
        private_ips: vec![format!("10.0.{}.{}", node.serial / 256 % 256, node.serial % 256)],
        size: Some(node.size),
        image: Some(node.image),
        created: None,
        token: Some(node.token).filter(|token| !token.is_empty()),
        extra,
    }
}

fn map<T, U>(page: CloudPage<T>, map: impl Fn(T) -> U) -> CloudPage<U> {
    CloudPage { items: page.items.into_iter().map(map).collect(), next: page.next }
}

#[async_trait]
impl CloudDriver for ScriptedDriver {
    fn info(&self) -> CloudInfo {
        CloudInfo { provider: "scripted", display_name: "Scripted Cloud", host: "192.0.2.1".to_owned() }
    }

    fn capabilities(&self) -> CapabilitySet {
        self.capabilities
    }

    fn create_features(&self) -> &'static [CreateNodeFeature] {
        &[CreateNodeFeature::SshKey, CreateNodeFeature::Password, CreateNodeFeature::GeneratesPassword]
    }

    async fn list_nodes(&self, from: Option<&Cursor>) -> Result<CloudPage<Arc<CloudNode>>, CloudError> {
        let nodes = self.ask(CloudCall::ListNodes, |account, s| account.list_nodes(from, s.page_size)).await?;
        Ok(map(nodes, |node| Arc::new(shown(node))))
    }

    async fn create_node(&self, wish: &CreateNode) -> Result<CreatedNode, CloudError> {
        let idempotent = self.capabilities.has(Capability::IdempotentCreate) && !wish.token.is_empty();
        let node = self.ask(CloudCall::CreateNode, |account, s| account.create_node(wish, idempotent, s)).await?;
        let password = wish.auth.is_none().then(|| Secret::new(format!("generated-{}", node.serial)));
        Ok(CreatedNode { node: shown(node), password })
    }

    async fn start_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        self.ask(CloudCall::StartNode, |account, settings| account.start_node(node, settings)).await
    }

    async fn stop_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        self.ask(CloudCall::StopNode, |account, settings| account.stop_node(node, settings)).await
    }

    async fn reboot_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        self.ask(CloudCall::RebootNode, |account, settings| account.reboot_node(node, settings)).await
    }

    async fn destroy_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        self.ask(CloudCall::DestroyNode, |account, _| account.destroy_node(node)).await
    }

    async fn list_sizes(&self, _: Option<&str>, from: Option<&Cursor>) -> Result<CloudPage<CloudSize>, CloudError> {
        let sizes = [("small", 1, 1024, 10), ("large", 8, 16_384, 100)].map(|(id, cpus, ram_mb, disk_gb)| CloudSize {
            id: id.to_owned(),
            name: id.to_owned(),
            cpus: Some(cpus),
            ram_mb,
            disk_gb,
            bandwidth_gb: None,
            price_micros: Some(10_000),
            extra: Extra::new(),
        });
        let sizes = (1..).zip(sizes).collect();
        self.ask(CloudCall::ListSizes, |_, s| page(&sizes, from, s.page_size, Clone::clone)).await
    }

    async fn list_images(&self, _: Option<&str>, from: Option<&Cursor>) -> Result<CloudPage<CloudImage>, CloudError> {
        self.ask(CloudCall::ListImages, |account, s| page(&account.images, from, s.page_size, Clone::clone)).await
    }

    async fn get_image(&self, id: &str) -> Result<CloudImage, CloudError> {
        self.ask(CloudCall::GetImage, |account, _| account.get_image(id)).await
    }

    async fn create_image(&self, node: &NodeRef, name: &str, _description: &str) -> Result<CloudImage, CloudError> {
        self.ask(CloudCall::CreateImage, |account, _| account.create_image(node, name)).await
    }

    async fn delete_image(&self, id: &str) -> Result<(), CloudError> {
        self.ask(CloudCall::DeleteImage, |account, _| account.delete_image(id)).await
    }

    async fn list_locations(&self, from: Option<&Cursor>) -> Result<CloudPage<CloudLocation>, CloudError> {
        let places = [("north", "NO"), ("south", "IT")].map(|(id, country)| CloudLocation {
            id: id.to_owned(),
            name: id.to_owned(),
            country: country.to_owned(),
            extra: Extra::new(),
        });
        let places = (1..).zip(places).collect();
        self.ask(CloudCall::ListLocations, |_, s| page(&places, from, s.page_size, Clone::clone)).await
    }

    async fn list_key_pairs(&self, from: Option<&Cursor>) -> Result<CloudPage<CloudKeyPair>, CloudError> {
        self.ask(CloudCall::ListKeyPairs, |account, s| page(&account.key_pairs, from, s.page_size, Clone::clone)).await
    }

    async fn get_key_pair(&self, name: &str) -> Result<CloudKeyPair, CloudError> {
        self.ask(CloudCall::GetKeyPair, |account, _| account.get_key_pair(name)).await
    }

    async fn create_key_pair(&self, name: &str) -> Result<CreatedKeyPair, CloudError> {
        let pair = self.ask(CloudCall::CreateKeyPair, |account, _| account.add_key_pair(name, None)).await?;
        let private_key = Some(Secret::new(format!("-----BEGIN PRIVATE KEY-----\n{}\n", pair.fingerprint)));
        Ok(CreatedKeyPair { pair, private_key })
    }

    async fn import_key_pair(&self, name: &str, public_key: &str) -> Result<CreatedKeyPair, CloudError> {
        let key = Some(public_key);
        let pair = self.ask(CloudCall::ImportKeyPair, |account, _| account.add_key_pair(name, key)).await?;
        Ok(CreatedKeyPair { pair, private_key: None })
    }

    async fn delete_key_pair(&self, name: &str) -> Result<(), CloudError> {
        self.ask(CloudCall::DeleteKeyPair, |account, _| account.delete_key_pair(name)).await
    }

    async fn list_volumes(&self, from: Option<&Cursor>) -> Result<CloudPage<CloudVolume>, CloudError> {
        self.ask(CloudCall::ListVolumes, |account, settings| {
            let listed = page(&account.volumes, from, settings.page_size, Clone::clone);
            account.finish_disks();
            listed
        })
        .await
    }

    async fn create_volume(&self, wish: &CreateVolume) -> Result<CloudVolume, CloudError> {
        self.ask(CloudCall::CreateVolume, |account, _| account.create_volume(wish)).await
    }

    async fn attach_volume(&self, node: &NodeRef, volume: &str, device: Option<&str>) -> Result<(), CloudError> {
        self.ask(CloudCall::AttachVolume, |account, _| account.attach_volume(node, volume, device)).await
    }

    async fn detach_volume(&self, volume: &str) -> Result<(), CloudError> {
        self.ask(CloudCall::DetachVolume, |account, _| account.detach_volume(volume)).await
    }

    async fn destroy_volume(&self, volume: &str) -> Result<(), CloudError> {
        self.ask(CloudCall::DestroyVolume, |account, _| account.destroy_volume(volume)).await
    }

    async fn list_volume_snapshots(
        &self,
        volume: &str,
        from: Option<&Cursor>,
    ) -> Result<CloudPage<CloudSnapshot>, CloudError> {
        self.ask(CloudCall::ListVolumeSnapshots, |account, settings| {
            let listed = page(&account.snapshots_of(volume)?, from, settings.page_size, Clone::clone);
            account.finish_disks();
            listed
        })
        .await
    }

    async fn create_volume_snapshot(&self, volume: &str, name: Option<&str>) -> Result<CloudSnapshot, CloudError> {
        self.ask(CloudCall::CreateVolumeSnapshot, |account, _| account.create_snapshot(volume, name)).await
    }

    async fn destroy_volume_snapshot(&self, snapshot: &str) -> Result<(), CloudError> {
        self.ask(CloudCall::DestroyVolumeSnapshot, |account, _| account.destroy_snapshot(snapshot)).await
    }
}
