//! Bringing a guest's file systems to rest for a moment, and never for longer.

use crate::guest::{AgentSession, Guest};
use crate::qga::FreezeStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long an agent may take to show that it is there.
const AGENT_LIMIT: Duration = Duration::from_secs(2);
/// How long freezing may take: the guest writes out what it holds.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);
const THAW_LIMIT: Duration = Duration::from_secs(3);
/// How long a guest that does not thaw is tried again.
const PERSISTENCE: Duration = Duration::from_secs(600);
const AGAIN: Duration = Duration::from_millis(500);

/// A guest that stands still.
pub(super) struct Frozen<'a> {
    agent: AgentSession<'a>,
    since: Instant,
}

impl Frozen<'_> {
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Lets the guest go on, and says for how long it stood; nothing when it does not answer.
    pub(super) async fn thaw(mut self) -> Option<Duration> {
        self.agent.fsfreeze_thaw(THAW_LIMIT).await.ok().map(|_| self.since.elapsed())
    }
}

/// What came of the wish to freeze.
pub(super) enum Outcome<'a> {
    /// It stands still.
    Frozen(Frozen<'a>),
    /// It does not, and nothing need be thawed.
    Not(String),
    /// It may stand still, in part, and must be thawed.
    Unclear(String),
}

/// Freezes the guest's file systems through its agent, if it has one that answers in time.
pub(super) async fn freeze(guest: &Guest) -> Outcome<'_> {
    let mut agent = match guest.agent(AGENT_LIMIT).await {
        Ok(agent) => agent,
        Err(error) => return Outcome::Not(error.to_string()),
    };
    match agent.fsfreeze_status().await {
        // What somebody else froze is theirs to thaw.
        Ok(FreezeStatus::Frozen) => return Outcome::Not("somebody else froze its file systems already".into()),
        Ok(FreezeStatus::Thawed) => {}
        Err(error) => return Outcome::Not(error.to_string()),
    }
    let since = Instant::now();
    match agent.fsfreeze_freeze(FREEZE_LIMIT).await {
        Ok(0) => Outcome::Unclear("it has no file systems that can be frozen".into()),
        Ok(_) => Outcome::Frozen(Frozen { agent, since }),
        Err(error) => Outcome::Unclear(format!("freezing it failed: {error}")),
    }
}

/// Thaws a guest that may be frozen: tries for a while here, and goes on in the background when that was not enough.
pub(super) async fn thaw_left(guest: &Arc<Guest>) {
    if guest.pid().is_none() || thawed(guest).await {
        return;
    }
    tracing::warn!(guest = guest.id(), "a frozen guest does not thaw; it is tried again");
    let guest = guest.clone();
    guest.shared.clone().spawn(async move {
        let until = Instant::now() + PERSISTENCE;
        while Instant::now() < until && guest.pid().is_some() {
            if thawed(&guest).await {
                tracing::info!(guest = guest.id(), "a frozen guest was thawed");
                return;
            }
            sleep(AGAIN).await;
        }
    });
}

async fn thawed(guest: &Guest) -> bool {
    let Ok(mut agent) = guest.agent(AGENT_LIMIT).await else { return false };
    agent.fsfreeze_thaw(THAW_LIMIT).await.is_ok()
}
