//! Time and identity as values that are handed in.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;
use uuid::Uuid;

/// An instant: microseconds since 1970-01-01T00:00:00Z. Every store keeps it as a signed 64-bit integer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest instant that a store can hold.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest instant that a store can hold.
    pub const MAX: Self = Self(i64::MAX);

    /// From microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From milliseconds since the epoch, saturating.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1000))
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the epoch, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The time that has passed since `earlier`, zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 in UTC with millisecond digits, `2026-11-21T01:00:04.000Z`; clamped to jiff's range.
    pub fn to_rfc3339(self) -> String {
        let at = self.to_jiff();
        format!("{at:.3}")
    }

    /// The same instant for calendar arithmetic, clamped to jiff's range.
    pub fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_microsecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(at: jiff::Timestamp) -> Self {
        Self(at.as_microsecond())
    }
}

/// Reads RFC 3339, such as `2026-11-21T01:00:04+01:00`.
impl std::str::FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<jiff::Timestamp>().map(Self::from)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({})", self.to_rfc3339())
    }
}

/// Where the time comes from. The server's clock follows its database; tests move theirs by hand.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present instant. Never runs backwards within one process.
    fn now(&self) -> Timestamp;
}

/// Where new ids and random bytes come from.
pub trait IdSource: Send + Sync + fmt::Debug {
    /// A fresh uuid, version 7: later ones sort after earlier ones of the same source.
    fn uuid(&self) -> Uuid;
    /// Fills `buffer` with bytes that nobody can predict (tests may make them repeatable).
    fn fill(&self, buffer: &mut [u8]);
}
