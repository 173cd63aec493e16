//! What an engine counts.

use crate::store::SweepReport;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of a [`Histogram`]'s buckets, in seconds; a last bucket has none.
pub const SECONDS_BUCKETS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0];

/// Counters since the engine was built. Reading them costs nothing and takes no lock.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct EngineStats {
    kinds: BTreeMap<&'static str, KindStats>,
    /// Calls of `claim` that were answered.
    pub claims: AtomicU64,
    /// Signs of life that reached the store.
    pub beats: AtomicU64,
    /// Batches of ends that were recorded.
    pub commits: AtomicU64,
    /// Calls of the store that failed.
    pub store_failures: AtomicU64,
    /// Tasks that sweeps gave back after their worker was lost.
    pub swept_released: AtomicU64,
    /// Tasks that sweeps failed because their attempts were used up.
    pub swept_exhausted: AtomicU64,
    /// Tasks that sweeps ended because they were not started in time.
    pub swept_expired: AtomicU64,
    /// Tasks that sweeps ended because their deadline had passed.
    pub swept_overdue: AtomicU64,
}

/// Counters of one kind of task. Every attempt that is started is counted once more under how it ended.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct KindStats {
    /// Attempts that were started.
    pub started: AtomicU64,
    /// Attempts that succeeded, by themselves or by a unit of work.
    pub succeeded: AtomicU64,
    /// Attempts that failed for good, were undone, or got stuck.
    pub failed: AtomicU64,
    /// Attempts that failed for now.
    pub retried: AtomicU64,
    /// Attempts that stopped because somebody wished it.
    pub cancelled: AtomicU64,
    /// Attempts that were given back at a shutdown.
    pub released: AtomicU64,
    /// Attempts whose hold was lost, so that their result was discarded.
    pub lost: AtomicU64,
    /// Attempts that panicked; counted under how they ended too.
    pub panicked: AtomicU64,
    /// How long tasks were due before they were started.
    pub wait: Histogram,
    /// How long attempts took.
    pub run: Histogram,
}

/// Counts of durations by size.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; SECONDS_BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = SECONDS_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(SECONDS_BUCKETS.len());
        add(&self.buckets[bucket], 1);
        add(&self.micros, u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// How many durations fell into each bucket of [`SECONDS_BUCKETS`] and the last one; not cumulative.
    pub fn counts(&self) -> [u64; SECONDS_BUCKETS.len() + 1] {
        std::array::from_fn(|i| self.buckets[i].load(Ordering::Relaxed))
    }

    /// The sum of all durations, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64()
    }
}

impl EngineStats {
    pub(super) fn of(kinds: impl Iterator<Item = &'static str>) -> Self {
        Self { kinds: kinds.map(|kind| (kind, KindStats::default())).collect(), ..Self::default() }
    }

    /// The counters of each kind that the engine has a handler for.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &KindStats)> {
        self.kinds.iter().map(|(kind, stats)| (*kind, stats))
    }

    /// The counters of one kind.
    pub fn kind(&self, kind: &str) -> Option<&KindStats> {
        self.kinds.get(kind)
    }

    pub(super) fn swept(&self, report: SweepReport) {
        add(&self.swept_released, report.released);
        add(&self.swept_exhausted, report.exhausted);
        add(&self.swept_expired, report.expired);
        add(&self.swept_overdue, report.overdue);
    }
}

pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
