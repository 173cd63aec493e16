//! Calls that are bounded in time, and repeated where that is safe.

use crate::cloud::{
    Attempt, Capability, CloudCall, CloudDriver, CloudDriverExt, CloudError, CloudErrorKind, Layer, NodeRef,
};
use portolan_model::IdSource;
use portolan_model::dialect::libcloud::NodeState;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Gives every call a time limit. One that takes longer is dropped and answered `Unreachable`: whether the provider
/// did it is unknown.
pub struct Timed {
    inner: Arc<dyn CloudDriver>,
    limit: Duration,
}

impl Timed {
    /// Around `inner`, whose calls may each take `limit`.
    pub fn new(inner: Arc<dyn CloudDriver>, limit: Duration) -> Self {
        Self { inner, limit }
    }
}

impl Layer for Timed {
    fn inner(&self) -> &dyn CloudDriver {
        &*self.inner
    }

    async fn around<'a, T, F>(&'a self, call: CloudCall, attempt: F) -> Result<T, CloudError>
    where
        T: Send + 'a,
        F: Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    {
        timeout(self.limit, attempt()).await.unwrap_or_else(|_| Err(no_answer(call, self.limit)))
    }
}

/// How often and how long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The most tries of one call, the first one counted.
    pub attempts: u32,
    /// The longest pause after the first try; it doubles from try to try.
    pub first_pause: Duration,
    /// The longest pause that doubling comes to.
    pub longest_pause: Duration,
    /// How long one call may take with all its tries. A pause that would end later is not begun: the failure is
    /// answered at once, with what the provider said of when to come back.
    pub total: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(5),
            total: Duration::from_secs(30),
        }
    }
}

/// Repeats calls that failed for a while only, where repeating them is safe (`docs/drivers/writing.md`, 7):
///
/// * what only reads is repeated, and given up at the deadline;
/// * a creation is never repeated, but that of a node by a driver with [`Capability::IdempotentCreate`];
/// * destroying a node is repeated; *not found* after a try of unknown outcome means that it is done;
/// * starting and stopping are repeated only after a look at the node, which may have got there already;
/// * everything else is repeated only when the provider refused it for the rate of calls, and so did not begin it.
///
/// Pauses double and are drawn at random between half and all of that; a provider's `Retry-After` is waited out in
/// full besides. Time is tokio's. A try has no limit of its own: put [`Timed`] within.
pub struct Retrying {
    inner: Arc<dyn CloudDriver>,
    policy: RetryPolicy,
    ids: Arc<dyn IdSource>,
}

impl Retrying {
    /// Around `inner`. `ids` draws the pauses.
    pub fn new(inner: Arc<dyn CloudDriver>, policy: RetryPolicy, ids: Arc<dyn IdSource>) -> Self {
        Self { inner, policy, ids }
    }

    fn tries(&self) -> Tries<'_> {
        Tries { retrying: self, deadline: Instant::now() + self.policy.total, made: 0 }
    }

    /// Whether a failed call may simply be made again.
    fn may_repeat(&self, call: CloudCall, error: &CloudError) -> bool {
        let idempotent = call == CloudCall::CreateNode && self.inner.capabilities().has(Capability::IdempotentCreate);
        match error.kind {
            CloudErrorKind::Unreachable => call.reads() || idempotent,
            CloudErrorKind::RateLimited => !call.creates() || idempotent,
            _ => false,
        }
    }

    async fn destroy<'a>(&'a self, attempt: impl Fn() -> Attempt<'a, ()> + Send + Sync) -> Result<(), CloudError> {
        let mut tries = self.tries();
        let mut perhaps_done = false;
        loop {
            match attempt().await {
                Err(e) if e.is_transient() => {
                    perhaps_done |= e.outcome_unknown();
                    tries.again_after(e).await?;
                }
                Err(e) if e.kind == CloudErrorKind::NotFound && perhaps_done => return Ok(()),
                answer => return answer,
            }
        }
    }

    async fn power<'a>(
        &'a self,
        call: CloudCall,
        node: &NodeRef,
        attempt: impl Fn() -> Attempt<'a, ()> + Send + Sync,
    ) -> Result<(), CloudError> {
        let mut tries = self.tries();
        let mut perhaps_done = false;
        loop {
            match attempt().await {
                Err(e) if e.is_transient() => {
                    perhaps_done |= e.outcome_unknown();
                    tries.again_after(e).await?;
                    if perhaps_done && self.got_there(call, node, tries.deadline).await? {
                        return Ok(());
                    }
                }
                Err(e) if e.kind == CloudErrorKind::Conflict && perhaps_done => {
                    return if self.got_there(call, node, tries.deadline).await? { Ok(()) } else { Err(e) };
                }
                answer => return answer,
            }
        }
    }

    /// Whether the node is where the call was to bring it, or on its way. A look that fails says no.
    async fn got_there(&self, call: CloudCall, node: &NodeRef, deadline: Instant) -> Result<bool, CloudError> {
        let goal: &[NodeState] = match call {
            CloudCall::StartNode => &[NodeState::Running, NodeState::Starting, NodeState::Pending],
            _ => &[NodeState::Stopped, NodeState::Stopping],
        };
        match timeout_at(deadline, self.inner.node(node)).await {
            Ok(Ok(node)) => Ok(goal.contains(&node.state)),
            Ok(Err(gone)) if gone.kind == CloudErrorKind::NotFound => Err(gone),
            _ => Ok(false),
        }
    }
}

impl Layer for Retrying {
    fn inner(&self) -> &dyn CloudDriver {
        &*self.inner
    }

    async fn around<'a, T, F>(&'a self, call: CloudCall, attempt: F) -> Result<T, CloudError>
    where
        T: Send + 'a,
        F: Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    {
        let mut tries = self.tries();
        loop {
            let answer = if call.reads() {
                let bounded = timeout_at(tries.deadline, attempt()).await;
                bounded.unwrap_or_else(|_| Err(no_answer(call, self.policy.total)))
            } else {
                attempt().await
            };
            match answer {
                Err(e) if self.may_repeat(call, &e) => tries.again_after(e).await?,
                answer => return answer,
            }
        }
    }

    async fn around_node<'a, F>(&'a self, call: CloudCall, node: &'a NodeRef, attempt: F) -> Result<(), CloudError>
    where
        F: Fn() -> Attempt<'a, ()> + Send + Sync + 'a,
    {
        match call {
            CloudCall::DestroyNode => self.destroy(attempt).await,
            CloudCall::StartNode | CloudCall::StopNode => self.power(call, node, attempt).await,
            _ => self.around(call, attempt).await,
        }
    }
}

/// The tries of one call.
struct Tries<'a> {
    retrying: &'a Retrying,
    deadline: Instant,
    made: u32,
}

impl Tries<'_> {
    /// Waits until the next try, or gives the failure back when there is none.
    async fn again_after(&mut self, error: CloudError) -> Result<(), CloudError> {
        let Retrying { policy, ids, .. } = self.retrying;
        self.made += 1;
        if self.made >= policy.attempts {
            return Err(error);
        }
        let doubled = policy.first_pause.saturating_mul(1 << (self.made - 1).min(30)).min(policy.longest_pause);
        let mut random = [0; 4];
        ids.fill(&mut random);
        let share = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
        let pause = doubled.mul_f64(0.5 + share / 2.0) + error.retry_after.unwrap_or_default();
        if Instant::now() + pause >= self.deadline {
            return Err(error);
        }
        sleep(pause).await;
        Ok(())
    }
}

fn no_answer(call: CloudCall, limit: Duration) -> CloudError {
    CloudError::new(CloudErrorKind::Unreachable, format!("no answer to {call} within {limit:?}"))
}
