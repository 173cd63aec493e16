//! Schedules: on which days, at which times, in which zone something is done.

mod fire;

use crate::backup::BackupType;
use crate::id::{RuleId, ScheduleId, TenantId};
use crate::name::Name;
use crate::time::Timestamp;
use crate::zone::Zone;
use serde::{Deserialize, Serialize};
use std::time::Duration;

pub use fire::{Firing, considered};

crate::described_enum! {
    /// A day of the week.
    pub enum Weekday {
        Monday = "MONDAY", "Monday";
        Tuesday = "TUESDAY", "Tuesday";
        Wednesday = "WEDNESDAY", "Wednesday";
        Thursday = "THURSDAY", "Thursday";
        Friday = "FRIDAY", "Friday";
        Saturday = "SATURDAY", "Saturday";
        Sunday = "SUNDAY", "Sunday";
    }
}

crate::described_enum! {
    /// A month.
    pub enum Month {
        January = "JANUARY", "January";
        February = "FEBRUARY", "February";
        March = "MARCH", "March";
        April = "APRIL", "April";
        May = "MAY", "May";
        June = "JUNE", "June";
        July = "JULY", "July";
        August = "AUGUST", "August";
        September = "SEPTEMBER", "September";
        October = "OCTOBER", "October";
        November = "NOVEMBER", "November";
        December = "DECEMBER", "December";
    }
}

crate::described_enum! {
    /// Which of a month's Mondays (Tuesdays, …) is meant.
    pub enum Occurrence {
        First = "FIRST_IN_MONTH", "First in month";
        Second = "SECOND_IN_MONTH", "Second in month";
        Third = "THIRD_IN_MONTH", "Third in month";
        Fourth = "FOURTH_IN_MONTH", "Fourth in month";
        Last = "LAST_IN_MONTH", "Last in month";
    }
}

crate::described_enum! {
    /// What a schedule starts.
    pub enum ScheduleKind {
        VmBackup = "VM_BACKUP", "VM backup";
        VmSnapshot = "VM_SNAPSHOT", "VM snapshot";
        AppBackup = "APP_BACKUP", "Application backup";
        StorageBackup = "STORAGE_BACKUP", "Storage backup";
        StorageSnapshot = "STORAGE_SNAPSHOT", "Storage snapshot";
        CloudBackup = "CLOUD_BACKUP", "Cloud backup";
        OsBackup = "OS_BACKUP", "OS backup";
        VmRestore = "VM_RESTORE", "VM restore";
    }
}

crate::described_enum! {
    /// Whether a schedule has one time of day or several.
    pub enum ExecutionType {
        Time = "TIME", "Time";
        Interval = "INTERVAL", "Interval";
    }
}

crate::described_enum! {
    /// What kind of backup a schedule asks for.
    pub enum BackupMode {
        /// An increment where that is possible, a full where it is not.
        Auto = "AUTO", "Automatic";
        Full = "FULL", "Full";
        Incremental = "INCREMENTAL", "Incremental";
        /// Copies what is at the primary destination to the secondary ones.
        Synchronization = "SYNCHRONIZATION", "Backup synchronization";
    }
}

impl BackupMode {
    /// The type of backup that is tried.
    pub fn backup_type(self) -> BackupType {
        match self {
            Self::Auto | Self::Incremental => BackupType::Incremental,
            Self::Full => BackupType::Full,
            Self::Synchronization => BackupType::Synchronization,
        }
    }
}

/// Milliseconds of a day.
pub(crate) const DAY_MS: u64 = 86_400_000;

/// A time of day: milliseconds from midnight on the wall clock, less than a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct TimeOfDay(u32);

impl TimeOfDay {
    /// 00:00.
    pub const MIDNIGHT: Self = Self(0);
    /// The last millisecond of a day.
    pub const END: Self = Self(DAY_MS as u32 - 1);

    /// From milliseconds after midnight, any number of days forward or back: clients that convert zones send
    /// times before midnight and after it.
    pub const fn wrapping(millis: i64) -> Self {
        Self(millis.rem_euclid(DAY_MS as i64) as u32)
    }

    /// From hours 0 to 23 and minutes 0 to 59.
    pub fn hm(hour: u32, minute: u32) -> Option<Self> {
        (hour < 24 && minute < 60).then_some(Self((hour * 60 + minute) * 60_000))
    }

    /// Milliseconds after midnight.
    pub const fn millis(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for TimeOfDay {
    type Error = ScheduleError;
    fn try_from(millis: u32) -> Result<Self, ScheduleError> {
        if u64::from(millis) < DAY_MS { Ok(Self(millis)) } else { Err(ScheduleError::TimeOfDay) }
    }
}

impl From<TimeOfDay> for u32 {
    fn from(time: TimeOfDay) -> Self {
        time.0
    }
}

/// At which times of a day that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Execution {
    /// Once.
    At(TimeOfDay),
    /// At `from`, and then every `every_ms` as long as it is not past `to`. With `to` before `from` it passes
    /// midnight, and the day that counts is that of `from`. A whole day is 00:00 to [`TimeOfDay::END`].
    ///
    /// From two days up, `every_ms` counts whole days since the schedule was made: it fires at `from` on every
    /// n-th day that also matches.
    Every {
        /// How far apart, in milliseconds.
        every_ms: u64,
        /// The first time.
        from: TimeOfDay,
        /// Not later than this.
        to: TimeOfDay,
    },
}

impl Execution {
    /// Every `every_ms` milliseconds all day, from midnight.
    pub fn all_day(every_ms: u64) -> Self {
        Self::Every { every_ms, from: TimeOfDay::MIDNIGHT, to: TimeOfDay::END }
    }

    /// Which of the two it is.
    pub fn kind(self) -> ExecutionType {
        match self {
            Self::At(_) => ExecutionType::Time,
            Self::Every { .. } => ExecutionType::Interval,
        }
    }
}

/// On which days. Months restrict both kinds further.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Days {
    /// On days of the week.
    Weekdays {
        /// Which days; none means every day.
        days: Vec<Weekday>,
        /// Which of the month's such days; none means all of them.
        occurrences: Vec<Occurrence>,
    },
    /// On days of the month.
    MonthDays {
        /// 1 to 31. A month without the day passes it over.
        days: Vec<u8>,
        /// Whether the month's last day counts too.
        last: bool,
    },
}

impl Default for Days {
    fn default() -> Self {
        Self::Weekdays { days: Vec::new(), occurrences: Vec::new() }
    }
}

/// When something is done. All times are those of the wall clock in `zone`: a time that the clock jumps over is
/// run at the next instant that exists, and one that it shows twice is run the first time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Portolan's id.
    pub id: ScheduleId,
    /// Its name.
    pub name: Name,
    /// The tenant it belongs to.
    pub tenant: Option<TenantId>,
    /// Whether it fires at all.
    pub active: bool,
    /// What it starts.
    pub kind: ScheduleKind,
    /// What kind of backup it asks for.
    pub mode: BackupMode,
    /// At which times of a day.
    pub execution: Execution,
    /// On which days.
    #[serde(default)]
    pub days: Days,
    /// In which months; none means in all.
    #[serde(default)]
    pub months: Vec<Month>,
    /// Whose wall clock it goes by.
    #[serde(default)]
    pub zone: Zone,
    /// How long after its time a task may still start, in milliseconds. Zero means as long as the interval, or
    /// five hours.
    #[serde(default)]
    pub start_window_ms: u64,
    /// The rule that it is private to; nothing for one that rules share.
    pub rule: Option<RuleId>,
    /// When it was made. It never fires for a time before that.
    pub created: Timestamp,
    /// When it last fired.
    pub last_run: Option<Timestamp>,
}

/// Why a schedule is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// A time of day of 24 hours or more.
    #[error("a time of day must be less than 24 hours")]
    TimeOfDay,
    /// An interval of less than a minute, or of more than a year.
    #[error("an interval must be between a minute and a year")]
    Interval,
    /// Days of the month without a day.
    #[error("days of the month must be between 1 and 31, and at least one or the last")]
    MonthDays,
    /// No month has any of the days.
    #[error("none of the months has any of the days")]
    Never,
    /// More entries than there are days or months.
    #[error("a list of days or months has too many entries")]
    TooMany,
    /// A start window of more than 31 days.
    #[error("a start window must not be longer than 31 days")]
    Window,
}

impl Schedule {
    /// Whether the schedule makes sense: called before one is stored.
    pub fn check(&self) -> Result<(), ScheduleError> {
        if let Execution::Every { every_ms, .. } = self.execution
            && !(60_000..=366 * DAY_MS).contains(&every_ms)
        {
            return Err(ScheduleError::Interval);
        }
        if self.start_window_ms > 31 * DAY_MS {
            return Err(ScheduleError::Window);
        }
        if self.months.len() > 12 {
            return Err(ScheduleError::TooMany);
        }
        match &self.days {
            Days::Weekdays { days, occurrences } if days.len() > 7 || occurrences.len() > 5 => {
                Err(ScheduleError::TooMany)
            }
            Days::Weekdays { .. } => Ok(()),
            Days::MonthDays { days, .. } if days.len() > 31 => Err(ScheduleError::TooMany),
            Days::MonthDays { days, last } => {
                if days.iter().any(|d| !(1..=31).contains(d)) || (days.is_empty() && !last) {
                    return Err(ScheduleError::MonthDays);
                }
                let longest = self.months.iter().map(|m| m.longest()).max().unwrap_or(31);
                if *last || days.iter().any(|d| *d <= longest) { Ok(()) } else { Err(ScheduleError::Never) }
            }
        }
    }

    /// How long after its time a task may still start.
    pub fn start_window(&self) -> Duration {
        const DEFAULT: Duration = Duration::from_secs(5 * 3600);
        match (self.start_window_ms, self.execution) {
            (0, Execution::Every { every_ms, .. }) => Duration::from_millis(every_ms),
            (0, Execution::At(_)) => DEFAULT,
            (given, _) => Duration::from_millis(given),
        }
    }
}

impl Month {
    /// The number of the month, 1 to 12.
    pub fn number(self) -> i8 {
        self as i8 + 1
    }

    /// How many days the month has in its longest year.
    fn longest(self) -> u8 {
        match self {
            Self::February => 29,
            Self::April | Self::June | Self::September | Self::November => 30,
            _ => 31,
        }
    }
}

impl Weekday {
    /// The day of the week of a date.
    pub fn of(date: jiff::civil::Date) -> Self {
        use jiff::civil::Weekday as W;
        match date.weekday() {
            W::Monday => Self::Monday,
            W::Tuesday => Self::Tuesday,
            W::Wednesday => Self::Wednesday,
            W::Thursday => Self::Thursday,
            W::Friday => Self::Friday,
            W::Saturday => Self::Saturday,
            W::Sunday => Self::Sunday,
        }
    }
}
