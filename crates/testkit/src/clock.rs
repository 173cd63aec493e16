//! A clock that tests move, and ids that repeat from run to run.

use portolan_model::{Clock, IdSource, Timestamp};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// A clock that stands still until it is moved. Starts at 2026-11-21T00:00:00Z.
#[derive(Debug)]
pub struct FakeClock(AtomicI64);

impl Default for FakeClock {
    fn default() -> Self {
        Self::at(Timestamp::from_millis(1_795_219_200_000))
    }
}

impl FakeClock {
    /// A clock that shows `at`.
    pub fn at(at: Timestamp) -> Self {
        Self(AtomicI64::new(at.as_micros()))
    }

    /// Moves on by `by`.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Jumps to `to`, backwards too.
    pub fn set(&self, to: Timestamp) {
        self.0.store(to.as_micros(), Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// A clock that goes with tokio's, which stands still or jumps ahead while a test has paused it.
#[derive(Debug)]
pub struct TokioClock {
    began: tokio::time::Instant,
    base: Timestamp,
}

impl TokioClock {
    /// A clock that shows `at` now.
    pub fn at(at: Timestamp) -> Self {
        Self { began: tokio::time::Instant::now(), base: at }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::at(FakeClock::default().now())
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.base + self.began.elapsed()
    }
}

/// Ids and bytes from a seed: rising version-7 uuids, and a repeatable stream of bytes. Never for real keys.
#[derive(Debug)]
pub struct SeededIds {
    next: AtomicU64,
    seed: u64,
}

impl SeededIds {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { next: AtomicU64::new(1), seed }
    }
}

impl Default for SeededIds {
    fn default() -> Self {
        Self::new(1)
    }
}

/// One step of splitmix64.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl IdSource for SeededIds {
    fn uuid(&self) -> Uuid {
        let n = self.next.fetch_add(1, Ordering::SeqCst);
        // 48 bits of counter where the milliseconds go, so that ids rise; the seed keeps streams apart.
        let high = ((0x0190_0000_0000 + n) << 16) | 0x7000 | (self.seed & 0xfff);
        let low = 0x8000_0000_0000_0000 | (mix(self.seed ^ n) >> 2);
        Uuid::from_u64_pair(high, low)
    }

    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let n = self.next.fetch_add(1, Ordering::SeqCst);
            chunk.copy_from_slice(&mix(self.seed.wrapping_mul(31) ^ n).to_le_bytes()[..chunk.len()]);
        }
    }
}
