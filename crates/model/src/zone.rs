//! Time zones by their IANA names.

use crate::time::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A time zone that exists: `UTC`, `Europe/Rome`. The table of zones is built in, so that the same name means the
/// same rules on every machine that runs the same Portolan.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(TimeZone);

/// A name that no time zone has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone '{name}'")]
pub struct UnknownZone {
    /// What was given.
    pub name: String,
}

impl Zone {
    /// Universal time, without daylight saving.
    pub const UTC: Self = Self(TimeZone::UTC);

    /// The zone of that name, in any case of letters.
    pub fn new(name: &str) -> Result<Self, UnknownZone> {
        let unknown = || UnknownZone { name: name.chars().take(64).collect() };
        let zone = TimeZone::get(name).map_err(|_| unknown())?;
        if zone.iana_name().is_some() { Ok(Self(zone)) } else { Err(unknown()) }
    }

    /// The name, as the table spells it.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// What clocks on the wall show at `at`.
    pub fn wall_clock(&self, at: Timestamp) -> DateTime {
        self.0.to_datetime(at.to_jiff())
    }

    /// When clocks on the wall first show `wall`, or first show something later where they jump over it. A time
    /// that they show twice means the first of the two. Nothing beyond the calendar's ends.
    pub fn instant(&self, wall: DateTime) -> Option<Timestamp> {
        let ambiguous = self.0.to_ambiguous_timestamp(wall);
        let at = match ambiguous.offset() {
            // `earlier` reads the skipped time with the offset after the jump: an instant just before it.
            AmbiguousOffset::Gap { after, .. } => {
                let before_jump = ambiguous.earlier().ok()?;
                let jump = self.0.following(before_jump).find(|t| t.offset() == after);
                jump.map_or_else(|| before_jump, |t| t.timestamp())
            }
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => ambiguous.earlier().ok()?,
        };
        Some(at.into())
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::UTC
    }
}

impl std::str::FromStr for Zone {
    type Err = UnknownZone;
    fn from_str(name: &str) -> Result<Self, UnknownZone> {
        Self::new(name)
    }
}

impl TryFrom<String> for Zone {
    type Error = UnknownZone;
    fn try_from(name: String) -> Result<Self, UnknownZone> {
        Self::new(&name)
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.name().to_owned()
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.name())
    }
}
