//! The host as a cloud.

use crate::guest::GuestState;
use crate::host::{NewGuest, QemuHost, Seen};
use crate::spec::{GuestSpec, Phase};
use async_trait::async_trait;
use portolan_driver::{
    Capability, CapabilitySet, CloudDriver, CloudError, CloudErrorKind, CloudImage, CloudInfo, CloudLocation,
    CloudNode, CloudPage, CloudSize, CreateNode, CreatedNode, Cursor, Extra, NodeAuth, NodeRef,
};
use portolan_model::dialect::libcloud::{Architecture, CreateNodeFeature, NodeState};
use serde_json::Value;
use std::sync::Arc;

/// The only location.
const LOCATION: &str = "local";
/// Metadata that goes to cloud-init, and is shown to nobody.
pub const USER_DATA: &str = "user_data";
/// Metadata that becomes labels: a list of words.
const TAGS: &str = "tags";

/// The host as a cloud.
#[derive(Debug, Clone)]
pub struct QemuCloud {
    host: Arc<QemuHost>,
}

impl QemuCloud {
    /// A cloud over this host, which others may use too.
    pub fn new(host: Arc<QemuHost>) -> Self {
        Self { host }
    }

    /// The host.
    pub fn host(&self) -> &Arc<QemuHost> {
        &self.host
    }

    fn check_location(&self, location: Option<&str>) -> Result<(), CloudError> {
        match location {
            None | Some(LOCATION) => Ok(()),
            Some(other) => Err(CloudError::not_found("location", other)),
        }
    }
}

#[async_trait]
impl CloudDriver for QemuCloud {
    fn info(&self) -> CloudInfo {
        let host = self.host.settings().host_name.clone();
        CloudInfo { provider: "qemu", display_name: "QEMU", host }
    }

    fn capabilities(&self) -> CapabilitySet {
        use Capability::*;
        CapabilitySet::of(&[
            CreateNode,
            IdempotentCreate,
            StartNode,
            StopNode,
            RebootNode,
            DestroyNode,
            Images,
            Sizes,
            Locations,
        ])
    }

    fn create_features(&self) -> &'static [CreateNodeFeature] {
        &[CreateNodeFeature::SshKey]
    }

    async fn list_nodes(&self, _from: Option<&Cursor>) -> Result<CloudPage<Arc<CloudNode>>, CloudError> {
        let all = self.host.list().await?;
        Ok(CloudPage::whole(all.iter().map(node).map(Arc::new).collect()))
    }

    async fn create_node(&self, wish: &CreateNode) -> Result<CreatedNode, CloudError> {
        self.check_location(wish.location.as_deref())?;
        if wish.key_pair.is_some() {
            return Err(CloudError::unsupported("this host keeps no key pairs: give the key itself"));
        }
        let ssh_key = match &wish.auth {
            None => None,
            Some(NodeAuth::SshKey(key)) => Some(key.trim().to_owned()),
            Some(NodeAuth::Password(_)) => {
                return Err(CloudError::unsupported("a new guest is logged in to with a key, not with a password"));
            }
        };
        let mut metadata = wish.metadata.clone();
        let user_data = match metadata.remove(USER_DATA) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => return Err(CloudError::new(CloudErrorKind::Invalid, "'user_data' must be a text")),
        };
        let wish = NewGuest {
            name: wish.name.clone(),
            image: wish.image.clone(),
            size: wish.size.clone(),
            token: wish.token.clone(),
            ssh_key,
            user_data,
            metadata,
        };
        let made = self.host.create(wish).await?;
        Ok(CreatedNode { node: node(&made), password: None })
    }

    async fn start_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        let guest = self.host.guest(&node.id, &node.incarnation).await?;
        let work = async move { guest.start().await };
        Ok(self.host.shared.detached(work).await?)
    }

    async fn stop_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        let guest = self.host.guest(&node.id, &node.incarnation).await?;
        let work = async move { guest.stop().await };
        Ok(self.host.shared.detached(work).await?)
    }

    async fn reboot_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        let guest = self.host.guest(&node.id, &node.incarnation).await?;
        let work = async move { guest.reboot().await };
        Ok(self.host.shared.detached(work).await?)
    }

    async fn destroy_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        Ok(self.host.destroy(&node.id, &node.incarnation).await?)
    }

    async fn list_sizes(
        &self,
        location: Option<&str>,
        _from: Option<&Cursor>,
    ) -> Result<CloudPage<CloudSize>, CloudError> {
        self.check_location(location)?;
        let sizes = self.host.settings().sizes.iter().map(|size| CloudSize {
            id: size.id.clone(),
            name: if size.name.is_empty() { size.id.clone() } else { size.name.clone() },
            cpus: Some(size.cpus),
            ram_mb: size.memory_mb,
            disk_gb: size.disk_gb,
            bandwidth_gb: None,
            price_micros: None,
            extra: Extra::new(),
        });
        Ok(CloudPage::whole(sizes.collect()))
    }

    async fn list_images(
        &self,
        location: Option<&str>,
        _from: Option<&Cursor>,
    ) -> Result<CloudPage<CloudImage>, CloudError> {
        self.check_location(location)?;
        Ok(CloudPage::whole(self.host.images().await?.into_iter().map(image).collect()))
    }

    async fn get_image(&self, id: &str) -> Result<CloudImage, CloudError> {
        let found = self.host.images().await?.into_iter().find(|(image, _)| image == id);
        found.map(image).ok_or_else(|| CloudError::not_found("image", id))
    }

    async fn list_locations(&self, _from: Option<&Cursor>) -> Result<CloudPage<CloudLocation>, CloudError> {
        let name = self.host.settings().host_name.clone();
        let here = CloudLocation { id: LOCATION.into(), name, country: String::new(), extra: Extra::new() };
        Ok(CloudPage::whole(vec![here]))
    }
}

/// An image that may not be used is listed, and says why.
fn image((id, looked): (String, Result<u64, String>)) -> CloudImage {
    let mut extra = Extra::new();
    let size_bytes = match looked {
        Ok(size) => size,
        Err(reason) => {
            extra.insert("refused".into(), reason.into());
            0
        }
    };
    CloudImage { name: id.clone(), id, architecture: Some(Architecture::X86_64), size_bytes, extra }
}

fn node(seen: &Seen) -> CloudNode {
    match seen {
        Seen::Own(guest) => {
            let observed = guest.observed();
            let mut node = described(&guest.spec(), state(observed.state));
            node.private_ips = guest.addresses();
            if let Some(reason) = observed.reason {
                node.extra.insert("reason".into(), reason.into());
            }
            node
        }
        Seen::Elsewhere(spec, runs) => {
            let state = match (&spec.phase, runs) {
                (_, true) => NodeState::Running,
                (Phase::Preparing, false) => NodeState::Pending,
                (Phase::Failed(_), false) => NodeState::Error,
                (_, false) => NodeState::Stopped,
            };
            let mut node = described(spec, state);
            node.extra.insert("owner".into(), "another Portolan node".into());
            node
        }
        Seen::Damaged(id, reason) => {
            let extra = [("state".to_owned(), Value::from(format!("damaged: {reason}")))];
            CloudNode {
                id: id.clone(),
                incarnation: "damaged".into(),
                name: id.clone(),
                state: NodeState::Unknown,
                public_ips: Vec::new(),
                private_ips: Vec::new(),
                size: None,
                image: None,
                created: None,
                token: None,
                extra: extra.into_iter().collect(),
            }
        }
    }
}

fn described(spec: &GuestSpec, state: NodeState) -> CloudNode {
    let mut extra = Extra::new();
    extra.insert("uuid".into(), spec.uuid.to_string().into());
    extra.insert("cpus".into(), spec.cpus.into());
    extra.insert("memory_mb".into(), (spec.memory_bytes >> 20).into());
    extra.insert("metadata".into(), Value::Object(spec.metadata.clone()));
    // Labels are what callers gave as such, and what the document says besides.
    let given = spec.metadata.get(TAGS).and_then(Value::as_array).cloned().unwrap_or_default();
    let tags: Vec<Value> = spec.tags.iter().map(|tag| tag.clone().into()).chain(given).collect();
    if !tags.is_empty() {
        extra.insert("tags".into(), tags.into());
    }
    CloudNode {
        id: spec.id.clone(),
        incarnation: spec.incarnation.clone(),
        name: spec.name.clone(),
        state,
        public_ips: Vec::new(),
        private_ips: Vec::new(),
        size: spec.size.clone(),
        image: spec.image.clone(),
        created: Some(spec.created_at),
        token: Some(spec.token.clone()).filter(|token| !token.is_empty()),
        extra,
    }
}

fn state(state: GuestState) -> NodeState {
    match state {
        GuestState::Pending => NodeState::Pending,
        GuestState::Failed => NodeState::Error,
        GuestState::Starting => NodeState::Starting,
        GuestState::Running => NodeState::Running,
        GuestState::Paused => NodeState::Paused,
        GuestState::Rebooting => NodeState::Rebooting,
        GuestState::Stopping => NodeState::Stopping,
        GuestState::Stopped => NodeState::Stopped,
    }
}
