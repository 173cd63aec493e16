//! Conformance of cloud drivers: what every [`CloudDriver`] must do, whatever provider it drives.
//!
//! A driver's test brings a [`CloudFixture`] and calls [`all`]; each of the functions is also there alone. The suite
//! asks for what a driver lacks all the same: it must answer with a typed `Unsupported` before anything goes out.
//! What only a provider that can be disturbed shows (pages, unheard-of states, failures of transport, the life of
//! tokens) is asked of a [`CloudBackend`]; for a fixture without one it is asked of the [`ScriptedCloud`], so that a
//! green run always means that every point was looked at. The points are those of `docs/drivers/writing.md`, 10.

mod accounts;
mod create;
mod errors;
mod honest;
mod keys;
mod life;
mod lists;
mod retries;
mod tokens;
mod volumes;

use crate::clock::SeededIds;
use crate::scripted_cloud::ScriptedCloud;
use async_trait::async_trait;
use portolan_driver::{
    Capability, CloudDriver, CloudDriverExt, CloudError, CloudErrorKind, CloudNode, CreateNode, Extra, NodeRef,
    RetryPolicy, Retrying, Timed,
};
use portolan_model::Timestamp;
use portolan_model::dialect::libcloud::NodeState;
use std::sync::Arc;
use std::time::Duration;

pub use accounts::*;
pub use create::*;
pub use errors::*;
pub use honest::*;
pub use keys::*;
pub use life::*;
pub use lists::*;
pub use retries::*;
pub use tokens::*;
pub use volumes::*;

/// A provider with two accounts, each case with one of its own.
#[async_trait]
pub trait CloudFixture: Send + Sync {
    /// A new driver of the first account, as after a restart of Portolan.
    fn driver(&self) -> Arc<dyn CloudDriver>;

    /// A new driver of the second account. Its nodes may have the ids of the first one's.
    fn other_account(&self) -> Arc<dyn CloudDriver>;

    /// The provider from behind, where a test can get there.
    fn backend(&self) -> Option<&dyn CloudBackend> {
        None
    }

    /// Whether a rebooted node runs again. The dummy's never does.
    fn reboots_end(&self) -> bool {
        true
    }

    /// Gives the provider time to get on: called between looks at something that is under way.
    async fn settle(&self) {
        tokio::task::yield_now().await;
    }
}

/// A provider that a test can disturb behind the driver's back: its first account.
#[async_trait]
pub trait CloudBackend: Send + Sync {
    /// The most things that the provider puts on a page.
    async fn set_page_size(&self, size: usize);

    /// Takes a node away, as somebody else would.
    async fn remove_node(&self, id: &str);

    /// Every word of the provider for where a node is, and what the driver must make of it.
    fn state_words(&self) -> &'static [(&'static str, NodeState)];

    /// Puts a node into a state, in the provider's word for it or in one that nobody has heard of.
    async fn set_state_word(&self, id: &str, word: &str);

    /// Has every request fail so from now on, but not logins; nothing to go on as before.
    async fn fail(&self, failure: Option<Failure>);

    /// Whether the provider gives tokens that it can revoke. If not, nothing below but `now` and `requests` is asked.
    fn has_tokens(&self) -> bool {
        true
    }

    /// Revokes every token.
    async fn revoke_tokens(&self);

    /// For how long tokens are good that are given from now on.
    async fn set_token_life(&self, life: Duration);

    /// Sets the provider's clock ahead of Portolan's, or behind.
    async fn set_clock_ahead(&self, seconds: i64);

    /// What the provider's clock shows.
    async fn now(&self) -> Timestamp;

    /// Moves both clocks on.
    async fn advance(&self, by: Duration);

    /// Requests that came by now, without logins.
    async fn requests(&self) -> u64;

    /// Logins by now.
    async fn logins(&self) -> u64;
}

/// How requests fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// With this status.
    Status(u16),
    /// With this status and this `Retry-After`.
    RetryAfter(u16, String),
    /// The answer is of the right status, and nonsense.
    Malformed,
    /// The answer ends before its length.
    Truncated,
    /// Nobody listens.
    Refused,
    /// The connection breaks before the answer is whole.
    Reset,
    /// The provider cannot prove that it is the provider.
    Tls,
    /// No answer ever comes.
    Silent,
}

impl Failure {
    /// Whether the provider did what it was asked before the failure.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Malformed | Self::Truncated | Self::Reset)
    }
}

/// Runs the whole suite, each case on a provider of its own.
pub async fn all<F: CloudFixture>(make: impl Fn() -> F) {
    plain(&make).await;
    let shows = make();
    match shows.backend() {
        Some(_) => disturbed(&make).await,
        None => disturbed(&ScriptedCloud::default).await,
    }
    match shows.backend() {
        Some(backend) if backend.has_tokens() => tokens(&make).await,
        _ => tokens(&ScriptedCloud::default).await,
    }
}

/// The points that every driver shows.
async fn plain<F: CloudFixture>(make: &impl Fn() -> F) {
    undeclared_calls_are_unsupported(&make()).await;
    undeclared_logins_are_unsupported(&make()).await;
    lists_are_whole_and_stable(&make()).await;
    empty_list(&make()).await;
    nodes_come_and_go(&make()).await;
    nodes_stop_and_start(&make()).await;
    nodes_reboot(&make()).await;
    a_destroyed_node_is_not_another(&make()).await;
    reads_are_repeated_within_bounds(&make()).await;
    creations_are_not_repeated_blindly(&make()).await;
    changes_are_repeated_when_safe(&make()).await;
    many_creates_at_once(&make()).await;
    equal_tokens_are_one_node(&make()).await;
    a_lost_answer_is_found_by_its_token(&make()).await;
    logins_of_new_nodes(&make()).await;
    names_of_every_kind(&make()).await;
    volumes(&make()).await;
    volume_snapshots(&make()).await;
    key_pairs(&make()).await;
    images(&make()).await;
    accounts_do_not_collide(&make()).await;
}

/// The points that need a provider that can be disturbed.
async fn disturbed<F: CloudFixture>(make: &impl Fn() -> F) {
    undeclared_calls_do_not_go_out(&make()).await;
    pages_are_followed(&make()).await;
    unheard_of_states_are_kept(&make()).await;
    failures_are_typed(&make()).await;
    answers_that_never_come(&make()).await;
}

/// The points that need a provider with tokens.
async fn tokens<F: CloudFixture>(make: &impl Fn() -> F) {
    one_login_serves_all(&make()).await;
    a_revoked_login_is_renewed_once(&make()).await;
    tokens_run_out(&make()).await;
    clocks_may_differ(&make()).await;
    refused_for_good(&make()).await;
}

/// A fixture whose drivers are bounded and repeated as the server's are, with pauses of milliseconds.
pub struct Repeated<F>(pub F);

impl<F: CloudFixture> Repeated<F> {
    fn around(driver: Arc<dyn CloudDriver>) -> Arc<dyn CloudDriver> {
        let timed = Timed::new(driver, Duration::from_secs(60));
        Arc::new(Retrying::new(Arc::new(timed), quick(), Arc::new(SeededIds::default())))
    }
}

#[async_trait]
impl<F: CloudFixture> CloudFixture for Repeated<F> {
    fn driver(&self) -> Arc<dyn CloudDriver> {
        Self::around(self.0.driver())
    }

    fn other_account(&self) -> Arc<dyn CloudDriver> {
        Self::around(self.0.other_account())
    }

    fn backend(&self) -> Option<&dyn CloudBackend> {
        self.0.backend()
    }

    fn reboots_end(&self) -> bool {
        self.0.reboots_end()
    }

    async fn settle(&self) {
        self.0.settle().await;
    }
}

/// Three tries with pauses of milliseconds, within five seconds.
pub fn quick() -> RetryPolicy {
    RetryPolicy {
        attempts: 3,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(2),
        total: Duration::from_secs(5),
    }
}

/// A wish for a node of the first image and size that the provider has.
pub async fn wish(driver: &Arc<dyn CloudDriver>, name: &str, token: &str) -> CreateNode {
    let capabilities = driver.capabilities();
    let mut wish = CreateNode {
        name: name.to_owned(),
        image: String::new(),
        size: String::new(),
        location: None,
        key_pair: None,
        auth: None,
        metadata: Extra::new(),
        token: token.to_owned(),
    };
    if capabilities.has(Capability::Images) {
        wish.image = driver.images(None).await.expect("images").first().expect("an image").id.clone();
    }
    if capabilities.has(Capability::Sizes) {
        wish.size = driver.sizes(None).await.expect("sizes").first().expect("a size").id.clone();
    }
    wish
}

/// Makes a node and waits until it runs.
pub async fn running(f: &impl CloudFixture, driver: &Arc<dyn CloudDriver>, name: &str, token: &str) -> CloudNode {
    let made = driver.create_node(&wish(driver, name, token).await).await.expect("a node");
    settled(f, driver, &made.node.reference(), NodeState::Running).await
}

/// Waits until the node is in that state.
pub async fn settled(
    f: &impl CloudFixture,
    driver: &Arc<dyn CloudDriver>,
    node: &NodeRef,
    state: NodeState,
) -> CloudNode {
    let mut last = None;
    for _ in 0..1000 {
        let now = driver.node(node).await.expect("the node is there");
        if now.state == state {
            return now;
        }
        last = Some(now);
        f.settle().await;
    }
    panic!("the node never came to be {state:?}: {last:?}");
}

/// The kind of the failure that this must be.
pub(crate) fn kind<T>(answer: Result<T, CloudError>) -> CloudErrorKind {
    match answer {
        Ok(_) => panic!("a failure was expected"),
        Err(e) => e.kind,
    }
}
