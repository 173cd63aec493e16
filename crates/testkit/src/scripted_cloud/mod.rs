//! A cloud in memory that can do everything the port knows, and that tests disturb from behind.
//!
//! It is in two halves, as a real driver and its provider are. The *provider* knows accounts, tokens that run out,
//! states that pass, pages, quotas and limits of calls; it answers with statuses, re-uses the ids of nodes, and can
//! be made to answer nonsense or not at all. The *driver* logs in, maps words and statuses, and knows the provider by
//! its answers alone.
//!
//! The value is the provider: clones share it, and it outlives the drivers made of it.

mod account;
mod disks;
mod driver;
mod provider;

use crate::clock::FakeClock;
use crate::cloud::{CloudBackend, CloudFixture, Failure};
use async_trait::async_trait;
use portolan_driver::{Capability, CapabilitySet, CloudDriver};
use portolan_model::dialect::libcloud::NodeState;
use portolan_model::{Clock, Timestamp};
use provider::Provider;
use std::sync::Arc;
use std::time::Duration;

/// The provider's words for where a node is, and what they mean.
pub const STATE_WORDS: &[(&str, NodeState)] = &[
    ("building", NodeState::Pending),
    ("coming up", NodeState::Starting),
    ("up", NodeState::Running),
    ("restarting", NodeState::Rebooting),
    ("going down", NodeState::Stopping),
    ("down", NodeState::Stopped),
    ("broken", NodeState::Error),
    ("gone", NodeState::Terminated),
];

/// Everything that the cloud can do.
pub const EVERYTHING: CapabilitySet = CapabilitySet::of(&[
    Capability::CreateNode,
    Capability::IdempotentCreate,
    Capability::StartNode,
    Capability::StopNode,
    Capability::RebootNode,
    Capability::DestroyNode,
    Capability::Images,
    Capability::CreateImage,
    Capability::DeleteImage,
    Capability::Sizes,
    Capability::Locations,
    Capability::KeyPairs,
    Capability::CreateKeyPair,
    Capability::ImportKeyPair,
    Capability::Volumes,
    Capability::VolumeSnapshots,
]);

/// The cloud. See the module's text.
#[derive(Clone)]
pub struct ScriptedCloud {
    provider: Arc<Provider>,
    capabilities: CapabilitySet,
}

impl Default for ScriptedCloud {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl ScriptedCloud {
    /// A cloud without nodes, whose tokens run out by this clock. Each thing that is under way ends at the next
    /// listing but one.
    pub fn new(clock: Arc<FakeClock>) -> Self {
        Self { provider: Arc::new(Provider::new(clock)), capabilities: EVERYTHING }
    }

    /// The same cloud, to make drivers of that can do only this.
    #[must_use]
    pub fn with(&self, capabilities: CapabilitySet) -> Self {
        Self { provider: self.provider.clone(), capabilities }
    }

    /// A new driver of that account, which has not logged in yet. Accounts come to be as they are named, share
    /// nothing, and give equal ids.
    pub fn account(&self, name: &str) -> Arc<dyn CloudDriver> {
        Arc::new(driver::ScriptedDriver::new(self.provider.clone(), name, self.capabilities))
    }

    /// How many whole listings a passing state is seen in; 0 makes everything happen at once.
    pub fn set_settle_after(&self, listings: u32) {
        self.provider.set(|settings| settings.settle_after = listings);
    }

    /// The most nodes an account may have.
    pub fn set_quota(&self, nodes: usize) {
        self.provider.set(|settings| settings.quota = nodes);
    }

    /// The most requests in a time, over all accounts.
    pub fn set_call_limit(&self, calls: u32, within: Duration) {
        self.provider.set(|settings| settings.call_limit = Some((calls, within)));
    }

    /// The next `times` requests fail so.
    pub fn fail_next(&self, times: u32, failure: Failure) {
        self.provider.set(|settings| settings.failing = Some((times, failure)));
    }

    /// How many nodes the account `name` has, whatever its drivers say.
    pub fn nodes_of(&self, name: &str) -> usize {
        self.provider.nodes_of(name)
    }
}

/// The account that the conformance suite works on.
const ACCOUNT: &str = "first";

#[async_trait]
impl CloudFixture for ScriptedCloud {
    fn driver(&self) -> Arc<dyn CloudDriver> {
        self.account(ACCOUNT)
    }

    fn other_account(&self) -> Arc<dyn CloudDriver> {
        self.account("second")
    }

    fn backend(&self) -> Option<&dyn CloudBackend> {
        Some(self)
    }
}

#[async_trait]
impl CloudBackend for ScriptedCloud {
    async fn set_page_size(&self, size: usize) {
        self.provider.set(|settings| settings.page_size = size);
    }

    async fn remove_node(&self, id: &str) {
        self.provider.change(ACCOUNT, |account| account.vanish(id));
    }

    fn state_words(&self) -> &'static [(&'static str, NodeState)] {
        STATE_WORDS
    }

    async fn set_state_word(&self, id: &str, word: &str) {
        self.provider.change(ACCOUNT, |account| account.set_word(id, word));
    }

    async fn fail(&self, failure: Option<Failure>) {
        self.provider.set(|settings| settings.failing = failure.map(|failure| (u32::MAX, failure)));
    }

    async fn revoke_tokens(&self) {
        self.provider.revoke();
    }

    async fn set_token_life(&self, life: Duration) {
        self.provider.set(|settings| settings.token_life = life);
    }

    async fn set_clock_ahead(&self, seconds: i64) {
        self.provider.set(|settings| settings.ahead = seconds);
    }

    async fn now(&self) -> Timestamp {
        self.provider.now()
    }

    async fn advance(&self, by: Duration) {
        self.provider.clock.advance(by);
    }

    async fn requests(&self) -> u64 {
        self.provider.requests()
    }

    async fn logins(&self) -> u64 {
        self.provider.logins()
    }
}

/// The time by a clock that is off by some seconds.
fn skewed(clock: &dyn Clock, seconds: i64) -> Timestamp {
    Timestamp::from_micros(clock.now().as_micros().saturating_add(seconds.saturating_mul(1_000_000)))
}
