//! What a server does every now and then.

use crate::config::Config;
use crate::core::Core;
use crate::error::OneLine;
use portolan_model::{Caller, Name, Node, NodeId};
use portolan_storage::StateStore;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;

/// How often the node says that it lives.
const BEAT: Duration = Duration::from_secs(20);
/// How often sessions are swept, what others registered is opened, and the clock is compared with the database's.
const TIDY: Duration = Duration::from_secs(60);
/// How often the figures of destinations are brought up to date, beside after each backup.
const FIGURES: Duration = Duration::from_secs(300);
/// The longest pause between two looks for platforms that are due.
const LOOK: Duration = Duration::from_secs(30);

/// The work, and what it needs to know.
pub(crate) struct Housekeeping {
    core: Core,
    node: NodeId,
    name: String,
    address: String,
    staging: PathBuf,
    sync_interval: Option<Duration>,
    event_history: Duration,
}

/// Events that one round of tidying forgets at the most: what ends at once after a longer history was configured is
/// forgotten over some rounds.
const EVENTS: u32 = 10_000;

impl Housekeeping {
    /// For the node of that id and name, which stages in `staging`.
    pub(crate) fn new(core: Core, config: &Config, node: NodeId, name: String, staging: &Path) -> Self {
        let address = config.vplus.addresses.first().map(|a| a.ip().to_string()).unwrap_or_default();
        Self {
            core,
            node,
            name,
            address,
            staging: staging.to_owned(),
            sync_interval: config.sync_interval,
            event_history: config.event_history,
        }
    }

    /// Works until told to stop. A failure is logged and the work tried again at its next turn.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let later = |every: Duration| {
            let mut ticks = interval_at(Instant::now() + every, every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut tidy, mut figures) = (later(TIDY), later(FIGURES));
        let mut look =
            later(self.sync_interval.map_or(LOOK, |every| (every / 4).clamp(Duration::from_millis(100), LOOK)));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => self.beat().await,
                _ = tidy.tick() => self.tidy().await,
                _ = figures.tick() => self.figures().await,
                _ = look.tick() => self.look().await,
            }
        }
    }

    async fn beat(&self) {
        let (total, used) = space(&self.staging).unwrap_or_default();
        let node = Node {
            id: self.node,
            name: Name::lossy(&self.name, "portolan"),
            version: env!("CARGO_PKG_VERSION").into(),
            address: self.address.clone(),
            last_seen: self.core.portolan.now(),
            serves: self.core.portolan.serves(),
            staging_total_bytes: total,
            staging_used_bytes: used,
        };
        if let Err(error) = self.core.portolan.inventory.note_node(&node).await {
            tracing::warn!(error = %OneLine(&error), "the node could not say that it lives");
        }
    }

    async fn tidy(&self) {
        if let Err(error) = self.core.portolan.access.tidy().await {
            tracing::warn!(error = %OneLine(&error), "sessions could not be swept");
        }
        if let Err(error) = self.core.portolan.registry.open_all().await {
            tracing::warn!(error = %OneLine(&error), "what is registered could not be looked through");
        }
        let since = self.core.portolan.now() - self.event_history;
        if let Err(error) = self.core.storage.prune_events(since, EVENTS).await {
            tracing::warn!(error = %OneLine(&error), "old events could not be forgotten");
        }
        if let Err(error) = self.core.clock.refresh(&self.core.storage).await {
            tracing::warn!(error = %OneLine(&error), "the clock could not be compared with the database's");
        }
    }

    async fn figures(&self) {
        for destination in self.core.portolan.repositories().destinations() {
            if let Err(error) = self.core.portolan.protect.refresh_destination(destination).await {
                tracing::warn!(%destination, error = %OneLine(&error), "a destination's figures could not be had");
            }
        }
    }

    async fn look(&self) {
        let Some(every) = self.sync_interval else { return };
        let inventory = &self.core.portolan.inventory;
        let due = match inventory.due_platforms(self.core.portolan.now() - every).await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(error = %OneLine(&error), "platforms that are due could not be looked for");
                return;
            }
        };
        // No platform at all would mean every platform.
        if due.is_empty() {
            return;
        }
        if let Err(error) = inventory.request_sync(&Caller::system(), &due).await {
            tracing::warn!(error = %OneLine(&error), "platforms could not be asked for");
        }
    }
}

/// Size of a directory's file system and how much of it is used, in bytes.
fn space(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some((bytes(stat.f_blocks), bytes(stat.f_blocks.saturating_sub(stat.f_bfree))))
}
