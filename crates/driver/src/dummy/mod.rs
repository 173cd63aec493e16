//! The dummy cloud: nodes that are documents, for demonstrations and tests.
//!
//! It has the data and the life cycle of libcloud's dummy driver, in the seed's version and today's. What differs
//! differs where the original could not be used in earnest:
//!
//! * its nodes are kept through [`DriverState`], shared by all processes that drive it;
//! * ids are given as the original gives them, number of nodes + 1, and so repeat: a node's incarnation tells it
//!   apart, and calls address exactly that node;
//! * the node of id 0, which the original begins with when it is given a number, and whose id it then takes for
//!   none at all, has the id `0` here: a node without an id could never be destroyed;
//! * addresses past `127.0.0.255` go on with `127.0.1.0`;
//! * a login for a new node is refused as unsupported rather than ignored; imported key pairs are kept.

mod data;
mod documents;

use crate::cloud::*;
use crate::{DriverState, StateChange};
use async_trait::async_trait;
use documents::{Documents, Held};
use portolan_model::IdSource;
use portolan_model::Secret;
use portolan_model::dialect::libcloud::NodeState;
use std::sync::{Arc, Mutex, PoisonError};

/// How often a change is decided anew because others changed the documents meanwhile. Each time some other process
/// got on, so this is a bound on bad luck.
const MOST_TRIES: usize = 1000;

/// The dummy. Values over one [`DriverState`] are one cloud, in one process or in several.
pub struct DummyCloud {
    state: Arc<dyn DriverState>,
    ids: Arc<dyn IdSource>,
    asked: u32,
    /// What the documents said when they were last read.
    known: Mutex<Arc<Documents>>,
    /// Held while changing: callers in one process need not outrun each other.
    turn: tokio::sync::Mutex<()>,
}

impl DummyCloud {
    /// A cloud that begins with two nodes, written at its first use. `ids` gives the incarnations.
    pub fn new(state: Arc<dyn DriverState>, ids: Arc<dyn IdSource>) -> Self {
        Self { state, ids, asked: 0, known: Mutex::default(), turn: tokio::sync::Mutex::new(()) }
    }

    /// The same, to begin with `n` nodes of the ids 0 to `n` − 1, as the original does when its key is a number. 0
    /// means the two nodes. A cloud that has begun already stays as it is.
    #[must_use]
    pub fn with_nodes(mut self, n: u32) -> Self {
        self.asked = n;
        self
    }

    /// The documents as of now; writes the first nodes when there are none yet.
    async fn documents(&self) -> Result<Arc<Documents>, CloudError> {
        let documents = self.read().await?;
        if documents.begun() {
            return Ok(documents);
        }
        let _turn = self.turn.lock().await;
        self.begin().await
    }

    /// Writes the first nodes, unless somebody did by now.
    async fn begin(&self) -> Result<Arc<Documents>, CloudError> {
        for _ in 0..MOST_TRIES {
            let documents = self.read().await?;
            if documents.begun() {
                return Ok(documents);
            }
            let nodes = data::first_nodes(self.asked);
            let nodes: Vec<_> = nodes.into_iter().map(|(id, at)| data::node(id, at, self.incarnation())).collect();
            self.state.write(documents.add_nodes(&nodes)?).await?;
        }
        Err(out_of_luck())
    }

    async fn read(&self) -> Result<Arc<Documents>, CloudError> {
        let entries = self.state.all().await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.are(&entries) {
            // In place where nobody reads them; who does keeps them as they are.
            Arc::make_mut(&mut known).renew(entries)?;
        }
        Ok(Arc::clone(&known))
    }

    /// Decides on the documents as they are and writes that, until nobody came between.
    async fn change<T>(
        &self,
        decide: impl Fn(&Documents) -> Result<(Vec<StateChange>, T), CloudError> + Send + Sync,
    ) -> Result<T, CloudError> {
        let _turn = self.turn.lock().await;
        for _ in 0..MOST_TRIES {
            let (changes, answer) = decide(&*self.begin().await?)?;
            if changes.is_empty() || self.state.write(changes).await? {
                return Ok(answer);
            }
        }
        Err(out_of_luck())
    }

    fn incarnation(&self) -> String {
        self.ids.uuid().simple().to_string()
    }
}

fn out_of_luck() -> CloudError {
    CloudError::new(CloudErrorKind::Unreachable, "others keep changing the nodes")
}

fn find<'a>(documents: &'a Documents, node: &NodeRef) -> Result<Held<'a, CloudNode>, CloudError> {
    let found = documents.node(|n| n.id == node.id && n.incarnation == node.incarnation);
    found.ok_or_else(|| CloudError::not_found("node", &node.id))
}

fn find_pair<'a>(documents: &'a Documents, name: &str) -> Result<Held<'a, CloudKeyPair>, CloudError> {
    let found = documents.key_pair(|pair| pair.name == name);
    found.ok_or_else(|| CloudError::not_found("key pair", name))
}

#[async_trait]
impl CloudDriver for DummyCloud {
    fn info(&self) -> CloudInfo {
        CloudInfo { provider: "dummy", display_name: "Dummy Node Provider", host: "127.0.0.1".to_owned() }
    }

    fn capabilities(&self) -> CapabilitySet {
        use Capability::*;
        CapabilitySet::of(&[
            CreateNode,
            IdempotentCreate,
            RebootNode,
            DestroyNode,
            Images,
            Sizes,
            Locations,
            KeyPairs,
            ImportKeyPair,
        ])
    }

    async fn list_nodes(&self, _from: Option<&Cursor>) -> Result<CloudPage<Arc<CloudNode>>, CloudError> {
        Ok(CloudPage::whole(self.documents().await?.nodes.values.clone()))
    }

    /// Name, image, size and the rest of the wish do not matter; the token does.
    async fn create_node(&self, wish: &CreateNode) -> Result<CreatedNode, CloudError> {
        if wish.auth.is_some() {
            return Err(CloudError::unsupported("nodes of the dummy have no login"));
        }
        let token = Some(wish.token.clone()).filter(|token| !token.is_empty());
        let node = self
            .change(|documents| {
                if let Some(same) = documents.node(|node| token.is_some() && node.token == token) {
                    return Ok((Vec::new(), (**same.value).clone()));
                }
                let id = documents.nodes.values.len() as u64 + 1;
                let mut node = data::node(id, data::address(id), self.incarnation());
                node.size = Some("s1".to_owned());
                node.image = Some("i2".to_owned());
                node.token = token.clone();
                Ok((documents.add_nodes(std::slice::from_ref(&node))?, node))
            })
            .await?;
        Ok(CreatedNode { node, password: None })
    }

    /// The node stays in the state of rebooting for ever, and may be rebooted again.
    async fn reboot_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        self.change(|documents| {
            let held = find(documents, node)?;
            if held.value.state == NodeState::Rebooting {
                return Ok((Vec::new(), ()));
            }
            let rebooting = CloudNode { state: NodeState::Rebooting, ..(**held.value).clone() };
            Ok((held.replace(&rebooting)?, ()))
        })
        .await
    }

    async fn destroy_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        self.change(|documents| Ok((find(documents, node)?.delete(), ()))).await
    }

    async fn list_sizes(&self, _: Option<&str>, _: Option<&Cursor>) -> Result<CloudPage<CloudSize>, CloudError> {
        Ok(CloudPage::whole(data::sizes()))
    }

    async fn list_images(&self, _: Option<&str>, _: Option<&Cursor>) -> Result<CloudPage<CloudImage>, CloudError> {
        Ok(CloudPage::whole(data::images()))
    }

    async fn get_image(&self, id: &str) -> Result<CloudImage, CloudError> {
        data::images().into_iter().find(|image| image.id == id).ok_or_else(|| CloudError::not_found("image", id))
    }

    async fn list_locations(&self, _: Option<&Cursor>) -> Result<CloudPage<CloudLocation>, CloudError> {
        Ok(CloudPage::whole(data::locations()))
    }

    async fn list_key_pairs(&self, _: Option<&Cursor>) -> Result<CloudPage<CloudKeyPair>, CloudError> {
        let documents = self.documents().await?;
        Ok(CloudPage::whole(documents.key_pairs.values.iter().map(|pair| (**pair).clone()).collect()))
    }

    async fn get_key_pair(&self, name: &str) -> Result<CloudKeyPair, CloudError> {
        Ok((**find_pair(&*self.documents().await?, name)?.value).clone())
    }

    /// Answers a private half although the caller brought the public one: the original does.
    async fn import_key_pair(&self, name: &str, public_key: &str) -> Result<CreatedKeyPair, CloudError> {
        let pair = CloudKeyPair {
            name: name.to_owned(),
            public_key: public_key.to_owned(),
            fingerprint: data::FINGERPRINT.to_owned(),
            extra: Extra::new(),
        };
        self.change(|documents| {
            if find_pair(documents, name).is_ok() {
                return Err(CloudError::new(CloudErrorKind::Conflict, format!("there is a key pair '{name}' already")));
            }
            Ok((documents.add_key_pair(&pair)?, ()))
        })
        .await?;
        Ok(CreatedKeyPair { pair, private_key: Some(Secret::new(data::PRIVATE_KEY)) })
    }

    async fn delete_key_pair(&self, name: &str) -> Result<(), CloudError> {
        self.change(|documents| Ok((find_pair(documents, name)?.delete(), ()))).await
    }
}
