//! When a schedule fires: pure arithmetic on the wall clock.
//!
//! A day that matches has *slots*, evenly apart. Within a day and over days the slots' wall times rise, and so the
//! instants never fall (several slots that the clock jumps over share one instant): a binary search finds the
//! first slot after an instant.

use super::{DAY_MS, Days, Execution, Occurrence, Schedule, Weekday};
use crate::time::Timestamp;
use jiff::SignedDuration;
use jiff::civil::Date;
use std::time::Duration;

/// How many days a search looks at: 40 years, past any leap day.
const SEARCH_DAYS: u32 = 40 * 366;

/// The most firings that [`Schedule::next_n`] lists and [`Firing::coalesced`] counts.
const MOST: usize = 1000;

/// One firing of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Firing {
    /// Its time: tasks may start from then on.
    pub at: Timestamp,
    /// Tasks that have not started by then have missed it.
    pub window_end: Timestamp,
    /// How many earlier firings this one stands for as well, counted to a thousand.
    pub coalesced: u32,
}

/// Up to which instant firings have been considered once [`Schedule::due`] has been asked at `now`: what the next
/// call takes as `last_considered`.
///
/// It does not go back with the clock, so that nothing fires again, unless it lies more than `grace` ahead: then
/// the clock had been wrong, and waiting for it to come true would silence the schedule.
pub fn considered(last_considered: Timestamp, now: Timestamp, grace: Duration) -> Timestamp {
    if last_considered > now + grace { now } else { last_considered.max(now) }
}

impl Schedule {
    /// The first firing strictly after `t`. Nothing for an inactive schedule, or when none follows in 40 years.
    pub fn next_after(&self, t: Timestamp) -> Option<Timestamp> {
        if !self.active {
            return None;
        }
        let t = t.max(self.created - Duration::from_micros(1));
        let slots = self.slots();
        // A slot lies up to a day after its date, and a whole skipped day later still.
        let mut date = days_away(self.zone.wall_clock(t).date(), -3);
        for _ in 0..SEARCH_DAYS {
            if self.matches(date) {
                let k = partition_point(slots.count, |k| self.slot(date, slots, k).is_some_and(|at| at <= t));
                if k < slots.count {
                    return self.slot(date, slots, k);
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// The last firing at or before `t`. Nothing for an inactive schedule, when there was none in 40 years, or
    /// none since the schedule was made.
    pub fn last_until(&self, t: Timestamp) -> Option<Timestamp> {
        if !self.active || t < self.created {
            return None;
        }
        let slots = self.slots();
        let first = days_away(self.zone.wall_clock(self.created).date(), -3);
        let mut date = days_away(self.zone.wall_clock(t).date(), 1);
        for _ in 0..SEARCH_DAYS {
            if date < first {
                return None;
            }
            if self.matches(date) {
                let k = partition_point(slots.count, |k| self.slot(date, slots, k).is_some_and(|at| at <= t));
                if k > 0 {
                    return self.slot(date, slots, k - 1).filter(|at| *at >= self.created);
                }
            }
            date = date.yesterday().ok()?;
        }
        None
    }

    /// The firings after `from`, up to and including `to`, in order.
    pub fn fires_between(&self, from: Timestamp, to: Timestamp) -> impl Iterator<Item = Timestamp> + '_ {
        let next = move |at: &Timestamp| self.next_after(*at);
        std::iter::successors(self.next_after(from), next).take_while(move |at| *at <= to)
    }

    /// The next `n` firings after `after`, a thousand at the most.
    pub fn next_n(&self, after: Timestamp, n: usize) -> Vec<Timestamp> {
        self.fires_between(after, Timestamp::MAX).take(n.min(MOST)).collect()
    }

    /// What has to be done at `now`, when firings up to `last_considered` have been dealt with: the latest one,
    /// which stands for those before it, unless it lies more than `grace` back.
    ///
    /// After the call firings up to [`considered`] have been dealt with.
    pub fn due(&self, last_considered: Timestamp, now: Timestamp, grace: Duration) -> Option<Firing> {
        if last_considered > now {
            return None;
        }
        let at = self.last_until(now).filter(|at| *at > last_considered && now.since(*at) <= grace)?;
        let before = self.fires_between(last_considered, at).take(MOST + 1).filter(|earlier| *earlier < at).count();
        Some(Firing {
            at,
            window_end: at + self.start_window(),
            coalesced: u32::try_from(before.min(MOST)).unwrap_or(0),
        })
    }

    fn slots(&self) -> Slots {
        match self.execution {
            Execution::At(time) => Slots { first_ms: u64::from(time.millis()), every_ms: 0, count: 1 },
            Execution::Every { every_ms, from, to } => {
                let (first_ms, to) = (u64::from(from.millis()), u64::from(to.millis()));
                let span = if to >= first_ms { to - first_ms } else { to + DAY_MS - first_ms };
                // An interval of zero is refused before it is stored; here it must only not divide.
                Slots { first_ms, every_ms, count: span.checked_div(every_ms).unwrap_or(0) + 1 }
            }
        }
    }

    /// When the `k`-th slot of `date` is. Nothing beyond the calendar's ends.
    fn slot(&self, date: Date, slots: Slots, k: u64) -> Option<Timestamp> {
        let millis = i64::try_from(slots.first_ms + k * slots.every_ms).ok()?;
        let wall = date.at(0, 0, 0, 0).checked_add(SignedDuration::from_millis(millis)).ok()?;
        self.zone.instant(wall)
    }

    fn matches(&self, date: Date) -> bool {
        if !self.months.is_empty() && !self.months.iter().any(|m| m.number() == date.month()) {
            return false;
        }
        let matches = match &self.days {
            Days::Weekdays { days, occurrences } => {
                (days.is_empty() || days.contains(&Weekday::of(date)))
                    && (occurrences.is_empty() || occurrences.iter().any(|o| occurs(*o, date)))
            }
            Days::MonthDays { days, last } => {
                days.iter().any(|d| i64::from(*d) == i64::from(date.day()))
                    || (*last && date.day() == date.days_in_month())
            }
        };
        matches && self.matches_count(date)
    }

    /// Whether an interval of several days falls on `date`, counted from the day the schedule was made.
    fn matches_count(&self, date: Date) -> bool {
        let Execution::Every { every_ms, .. } = self.execution else { return true };
        let Ok(every) = i64::try_from(every_ms / DAY_MS) else { return false };
        if every < 2 {
            return true;
        }
        let since = date.duration_since(self.zone.wall_clock(self.created).date());
        (since.as_hours() / 24).rem_euclid(every) == 0
    }
}

/// The times of a day that matches.
#[derive(Clone, Copy)]
struct Slots {
    /// The first, in milliseconds after midnight.
    first_ms: u64,
    /// How far apart they are.
    every_ms: u64,
    /// How many there are, at least one.
    count: u64,
}

fn occurs(occurrence: Occurrence, date: Date) -> bool {
    let nth = (date.day() - 1) / 7;
    match occurrence {
        Occurrence::First => nth == 0,
        Occurrence::Second => nth == 1,
        Occurrence::Third => nth == 2,
        Occurrence::Fourth => nth == 3,
        Occurrence::Last => date.day() + 7 > date.days_in_month(),
    }
}

/// `days` after `date`, stopping at the calendar's ends.
fn days_away(date: Date, days: i32) -> Date {
    date.saturating_add(jiff::Span::new().days(days))
}

/// The first number below `count` for which `holds` does not hold, where it holds for all numbers before.
fn partition_point(count: u64, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) { low = middle + 1 } else { high = middle }
    }
    low
}
