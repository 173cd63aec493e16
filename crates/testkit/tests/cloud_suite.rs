//! The suite of cloud drivers finds what is wrong with a driver: each defect fails the point that is about it.

use async_trait::async_trait;
use portolan_driver::*;
use portolan_model::dialect::libcloud::NodeState;
use portolan_testkit::cloud::{self, CloudBackend, CloudFixture};
use portolan_testkit::scripted_cloud::{EVERYTHING, ScriptedCloud};
use std::future::Future;
use std::sync::Arc;

/// What is wrong with a driver.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Defect {
    /// Nothing: to see that the other tests fail for the right reason.
    None,
    /// Only the first page is listed.
    FirstPageOnly,
    /// Pages are counted, so that what goes between them shifts the rest.
    CountedPages,
    /// A state that it does not know fails the list.
    StrictStates,
    /// The raw word of a state is lost.
    LostWords,
    /// It declares what it cannot do.
    Boasts,
    /// It does what it does not declare.
    Hides,
    /// A node is destroyed by its id alone.
    ById,
    /// The token is not kept with the node.
    NoToken,
    /// Whatever goes wrong is put down to the provider.
    OneError,
    /// Every creation goes out twice.
    Twice,
    /// A refused login is tried again and again.
    Stubborn,
    /// An error's words carry the password.
    Talks,
}

struct Broken {
    inner: Arc<dyn CloudDriver>,
    defect: Defect,
}

#[async_trait]
impl CloudDriver for Broken {
    fn info(&self) -> CloudInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> CapabilitySet {
        let plain = CapabilitySet::of(&[
            Capability::CreateNode,
            Capability::DestroyNode,
            Capability::Images,
            Capability::Sizes,
        ]);
        match self.defect {
            Defect::Boasts => EVERYTHING.without(Capability::IdempotentCreate),
            Defect::Hides => plain.without(Capability::DestroyNode),
            _ => plain,
        }
    }

    fn create_features(&self) -> &'static [portolan_model::dialect::libcloud::CreateNodeFeature] {
        self.inner.create_features()
    }

    async fn list_nodes(&self, from: Option<&Cursor>) -> Result<CloudPage<Arc<CloudNode>>, CloudError> {
        if self.defect == Defect::CountedPages {
            let all = self.inner.nodes().await?;
            let at: usize = from.map_or(0, |cursor| cursor.0.parse().unwrap_or(0));
            let items: Vec<_> = all.iter().skip(at).take(1).cloned().collect();
            let next = (at + 1 < all.len()).then(|| Cursor((at + 1).to_string()));
            return Ok(CloudPage { items, next });
        }
        let mut listed = self.inner.list_nodes(from).await;
        for _ in 0..3 {
            if self.defect == Defect::Stubborn && matches!(&listed, Err(e) if e.kind == CloudErrorKind::Auth) {
                listed = self.inner.list_nodes(from).await;
            }
        }
        let mut page = listed.map_err(|e| match self.defect {
            Defect::OneError => CloudError::new(CloudErrorKind::Unreachable, e.message),
            _ => e,
        })?;
        for node in &mut page.items {
            match self.defect {
                Defect::StrictStates if node.state == NodeState::Unknown => {
                    return Err(CloudError::new(CloudErrorKind::Malformed, "no such state"));
                }
                Defect::LostWords => drop(Arc::make_mut(node).extra.remove("state")),
                Defect::NoToken => Arc::make_mut(node).token = None,
                _ => {}
            }
        }
        if self.defect == Defect::FirstPageOnly {
            page.next = None;
        }
        Ok(page)
    }

    async fn create_node(&self, wish: &CreateNode) -> Result<CreatedNode, CloudError> {
        if self.defect == Defect::Twice {
            self.inner.create_node(wish).await?;
        }
        self.inner.create_node(wish).await.map_err(|mut e| {
            if let (Defect::Talks, Some(NodeAuth::Password(word))) = (self.defect, &wish.auth) {
                e.message.push_str(word.reveal());
            }
            e
        })
    }

    async fn destroy_node(&self, node: &NodeRef) -> Result<(), CloudError> {
        if self.defect == Defect::ById {
            let nodes = self.inner.nodes().await?;
            let found = nodes.iter().find(|n| n.id == node.id).map(|n| n.reference());
            return self.inner.destroy_node(&found.unwrap_or_else(|| node.clone())).await;
        }
        self.inner.destroy_node(node).await
    }

    async fn list_sizes(&self, _: Option<&str>, from: Option<&Cursor>) -> Result<CloudPage<CloudSize>, CloudError> {
        self.inner.list_sizes(None, from).await
    }

    async fn list_images(&self, _: Option<&str>, from: Option<&Cursor>) -> Result<CloudPage<CloudImage>, CloudError> {
        self.inner.list_images(None, from).await
    }

    async fn get_image(&self, id: &str) -> Result<CloudImage, CloudError> {
        self.inner.get_image(id).await
    }
}

struct Fixture {
    cloud: ScriptedCloud,
    defect: Defect,
}

impl Fixture {
    fn around(&self, inner: Arc<dyn CloudDriver>) -> Arc<dyn CloudDriver> {
        Arc::new(Broken { inner, defect: self.defect })
    }
}

impl CloudFixture for Fixture {
    fn driver(&self) -> Arc<dyn CloudDriver> {
        self.around(self.cloud.driver())
    }

    fn other_account(&self) -> Arc<dyn CloudDriver> {
        self.around(self.cloud.other_account())
    }

    fn backend(&self) -> Option<&dyn CloudBackend> {
        Some(&self.cloud)
    }
}

fn fixture(defect: Defect) -> Fixture {
    Fixture { cloud: ScriptedCloud::default().with(EVERYTHING.without(Capability::IdempotentCreate)), defect }
}

/// Whether the point fails on a driver with this defect. It must hold on one without.
async fn finds<Fut>(defect: Defect, point: impl Fn(Fixture) -> Fut) -> bool
where
    Fut: Future<Output = ()> + Send + 'static,
{
    point(fixture(Defect::None)).await;
    tokio::spawn(point(fixture(defect))).await.is_err_and(|e| e.is_panic())
}

macro_rules! found {
    ($($defect:ident by $point:ident;)+) => {$(
        assert!(
            finds(Defect::$defect, |f| async move { cloud::$point(&f).await }).await,
            "{:?} goes unseen",
            Defect::$defect
        );
    )+};
}

#[tokio::test(start_paused = true)]
async fn a_driver_without_defects_conforms() {
    cloud::all(|| fixture(Defect::None)).await;
}

#[tokio::test(start_paused = true)]
async fn each_defect_is_found() {
    found! {
        FirstPageOnly by pages_are_followed;
        CountedPages by pages_are_followed;
        StrictStates by unheard_of_states_are_kept;
        LostWords by unheard_of_states_are_kept;
        Boasts by undeclared_calls_are_unsupported;
        Hides by undeclared_calls_are_unsupported;
        Hides by undeclared_calls_do_not_go_out;
        ById by a_destroyed_node_is_not_another;
        NoToken by nodes_come_and_go;
        NoToken by a_lost_answer_is_found_by_its_token;
        OneError by failures_are_typed;
        Twice by creations_are_not_repeated_blindly;
        Stubborn by refused_for_good;
        Talks by logins_of_new_nodes;
    }
}
