//! Schedules against tables of known dates, and against a scan of every minute that shares no code with them.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its values has to fail")]

use jiff::civil::{Date, date};
use portolan_model::schedule::{
    BackupMode, Days, Execution, Month, Occurrence, Schedule, ScheduleError, ScheduleKind, TimeOfDay, Weekday,
    considered,
};
use portolan_model::{Describe, Name, ScheduleId, Timestamp, Zone};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::time::Duration;
use uuid::Uuid;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Rome",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "Africa/Cairo",
];

fn at(text: &str) -> Timestamp {
    text.parse::<jiff::Timestamp>().unwrap().into()
}

fn texts(times: impl IntoIterator<Item = Timestamp>) -> Vec<String> {
    times.into_iter().map(|t| t.to_jiff().to_string()).collect()
}

fn hm(hour: u32, minute: u32) -> TimeOfDay {
    TimeOfDay::hm(hour, minute).unwrap()
}

fn schedule(zone: &str, execution: Execution, days: Days) -> Schedule {
    Schedule {
        id: ScheduleId::from_uuid(Uuid::nil()),
        name: Name::new("nightly").unwrap(),
        tenant: None,
        active: true,
        kind: ScheduleKind::VmBackup,
        mode: BackupMode::Auto,
        execution,
        days,
        months: Vec::new(),
        zone: Zone::new(zone).unwrap(),
        start_window_ms: 0,
        rule: None,
        created: at("1990-01-01T00:00:00Z"),
        last_run: None,
    }
}

fn month_days(days: &[u8], last: bool) -> Days {
    Days::MonthDays { days: days.to_vec(), last }
}

#[test]
fn a_skipped_time_runs_at_the_next_instant_and_once() {
    let daily = schedule("Europe/Rome", Execution::At(hm(2, 30)), Days::default());
    assert_eq!(
        texts(daily.next_n(at("2026-03-27T12:00:00Z"), 3)),
        ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
    );
    // 02:00, 02:30 and 03:00 fall together where the clock jumps from 02:00 to 03:00.
    let half_hours = schedule("Europe/Rome", Execution::all_day(30 * 60_000), Days::default());
    assert_eq!(
        texts(half_hours.next_n(at("2026-03-29T00:00:00Z"), 3)),
        ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]
    );
}

#[test]
fn a_doubled_time_runs_the_first_time_only() {
    let daily = schedule("America/New_York", Execution::At(hm(1, 30)), Days::default());
    assert_eq!(texts(daily.next_n(at("2026-10-31T12:00:00Z"), 2)), ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"]);
    // Lord Howe goes back by half an hour, at 02:00 to 01:30.
    let daily = schedule("Australia/Lord_Howe", Execution::At(hm(1, 45)), Days::default());
    assert_eq!(texts(daily.next_n(at("2026-04-04T00:00:00Z"), 2)), ["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"]);
}

#[test]
fn a_whole_skipped_day_runs_when_the_next_begins() {
    // Apia went from the end of 29 December 2011 straight to 31 December.
    let daily = schedule("Pacific/Apia", Execution::At(hm(10, 0)), Days::default());
    assert_eq!(
        texts(daily.next_n(at("2011-12-29T00:00:00Z"), 4)),
        ["2011-12-29T20:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T20:00:00Z", "2011-12-31T20:00:00Z"]
    );
}

#[test]
fn leap_days_month_ends_and_last_days() {
    let midnight = Execution::At(TimeOfDay::MIDNIGHT);
    let mut leap = schedule("UTC", midnight, month_days(&[29], false));
    leap.months = vec![Month::February];
    assert_eq!(
        texts(leap.next_n(at("2095-01-01T00:00:00Z"), 3)),
        ["2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z", "2108-02-29T00:00:00Z"]
    );
    let ends = schedule("UTC", midnight, month_days(&[], true));
    assert_eq!(
        texts(ends.next_n(at("2028-01-31T00:00:00Z"), 3)),
        ["2028-02-29T00:00:00Z", "2028-03-31T00:00:00Z", "2028-04-30T00:00:00Z"]
    );
    let thirty_firsts = schedule("UTC", midnight, month_days(&[31], false));
    assert_eq!(
        texts(thirty_firsts.next_n(at("2026-03-31T00:00:00Z"), 2)),
        ["2026-05-31T00:00:00Z", "2026-07-31T00:00:00Z"]
    );
    let mut never = schedule("UTC", midnight, month_days(&[30], false));
    never.months = vec![Month::February];
    assert_eq!(never.next_after(at("2026-01-01T00:00:00Z")), None);
    assert_eq!(never.last_until(at("2026-01-01T00:00:00Z")), None);
    assert_eq!(never.check(), Err(ScheduleError::Never));
}

#[test]
fn nth_and_last_weekdays() {
    let days =
        |occurrences: &[Occurrence]| Days::Weekdays { days: vec![Weekday::Friday], occurrences: occurrences.to_vec() };
    let second = schedule("UTC", Execution::At(hm(1, 0)), days(&[Occurrence::Second, Occurrence::Last]));
    assert_eq!(
        texts(second.next_n(at("2026-01-01T00:00:00Z"), 4)),
        ["2026-01-09T01:00:00Z", "2026-01-30T01:00:00Z", "2026-02-13T01:00:00Z", "2026-02-27T01:00:00Z"]
    );
}

#[test]
fn intervals_pass_midnight_and_belong_to_the_day_they_begin_on() {
    let days = Days::Weekdays { days: vec![Weekday::Saturday], occurrences: Vec::new() };
    let execution = Execution::Every { every_ms: 2 * 3_600_000, from: hm(22, 0), to: hm(2, 0) };
    let night = schedule("UTC", execution, days);
    assert_eq!(
        texts(night.next_n(at("2026-11-20T00:00:00Z"), 4)),
        ["2026-11-21T22:00:00Z", "2026-11-22T00:00:00Z", "2026-11-22T02:00:00Z", "2026-11-28T22:00:00Z"]
    );
    assert_eq!(night.start_window(), 2 * HOUR);
}

#[test]
fn intervals_of_days_count_from_the_making() {
    let mut every_third = schedule("UTC", Execution::all_day(3 * 86_400_000), Days::default());
    every_third.created = at("2026-01-30T15:00:00Z");
    assert_eq!(
        texts(every_third.next_n(at("2026-01-01T00:00:00Z"), 2)),
        ["2026-02-02T00:00:00Z", "2026-02-05T00:00:00Z"]
    );
}

#[test]
fn inactive_and_young_schedules_do_not_fire() {
    let mut daily = schedule("UTC", Execution::At(hm(1, 0)), Days::default());
    daily.created = at("2026-11-21T02:00:00Z");
    assert_eq!(texts(daily.next_after(at("2026-11-01T00:00:00Z"))), ["2026-11-22T01:00:00Z"]);
    assert_eq!(daily.last_until(at("2026-11-22T00:59:59Z")), None);
    assert_eq!(daily.due(at("2026-11-20T00:00:00Z"), at("2026-11-21T03:00:00Z"), 24 * HOUR), None);
    daily.active = false;
    assert_eq!(daily.next_after(daily.created), None);
    assert_eq!(daily.due(daily.created, at("2026-11-22T01:00:00Z"), HOUR), None);
}

#[test]
fn missed_firings_are_one_and_old_ones_are_none() {
    let hourly = schedule("UTC", Execution::all_day(3_600_000), Days::default());
    let (last, now) = (at("2026-11-21T00:00:00Z"), at("2026-11-21T05:10:00Z"));
    let firing = hourly.due(last, now, HOUR).unwrap();
    assert_eq!((firing.at, firing.coalesced), (at("2026-11-21T05:00:00Z"), 4));
    assert_eq!(firing.window_end, at("2026-11-21T06:00:00Z"));
    assert_eq!(hourly.due(considered(last, now, HOUR), now, HOUR), None);
    assert_eq!(hourly.due(last, now, 5 * MINUTE), None, "ten minutes late is too late");
    assert_eq!(hourly.due(at("2026-11-21T05:00:00Z"), now, HOUR), None);

    // A jump of years: one firing, counted to a thousand.
    let late = hourly.due(at("2000-01-01T00:00:00Z"), now, HOUR).unwrap();
    assert_eq!((late.at, late.coalesced), (at("2026-11-21T05:00:00Z"), 1000));
}

#[test]
fn a_clock_that_goes_back_repeats_nothing_and_silences_nothing() {
    let hourly = schedule("UTC", Execution::all_day(3_600_000), Days::default());
    let last = at("2026-11-21T05:10:00Z");
    let back = at("2026-11-21T04:50:00Z");
    assert_eq!(hourly.due(last, back, HOUR), None);
    assert_eq!(considered(last, back, HOUR), last, "a little: what was done stays done");
    assert_eq!(hourly.due(last, at("2026-11-21T05:05:00Z"), HOUR), None);

    let wrong = at("2031-01-01T00:00:00Z");
    let resumed = considered(wrong, back, HOUR);
    assert_eq!(resumed, back, "far: the clock had been wrong");
    assert_eq!(hourly.due(resumed, at("2026-11-21T05:00:00Z"), HOUR).map(|f| f.coalesced), Some(0));
}

#[test]
fn the_ends_of_time_do_not_panic() {
    for zone in ZONES {
        for execution in [Execution::At(hm(23, 59)), Execution::all_day(60_000)] {
            let daily = schedule(zone, execution, Days::default());
            for t in [Timestamp::MIN, Timestamp::MAX] {
                let _ = (daily.next_after(t), daily.last_until(t), daily.due(Timestamp::MIN, t, HOUR));
            }
            assert_eq!(daily.next_after(Timestamp::MAX), None);
        }
    }
    let broken = schedule("UTC", Execution::Every { every_ms: 0, from: hm(1, 0), to: hm(2, 0) }, Days::default());
    assert_eq!(broken.check(), Err(ScheduleError::Interval));
    assert_eq!(broken.next_n(at("2026-01-01T00:00:00Z"), 1).len(), 1);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let with = |days| schedule("UTC", Execution::At(hm(1, 0)), days).check();
    assert_eq!(with(month_days(&[0], false)), Err(ScheduleError::MonthDays));
    assert_eq!(with(month_days(&[32], true)), Err(ScheduleError::MonthDays));
    assert_eq!(with(month_days(&[], false)), Err(ScheduleError::MonthDays));
    assert_eq!(with(month_days(&[1; 40], false)), Err(ScheduleError::TooMany));
    assert_eq!(with(month_days(&[29, 30], false)), Ok(()));
    assert!(serde_json::from_str::<TimeOfDay>("86400000").is_err());
    assert!(serde_json::from_str::<Zone>("\"Mars/Olympus\"").is_err());
    assert_eq!(TimeOfDay::wrapping(-3_600_000), hm(23, 0));
    assert_eq!(TimeOfDay::wrapping(90_000_000), hm(1, 0));
    assert_eq!(TimeOfDay::hm(24, 0), None);
}

#[test]
fn a_schedule_survives_json() {
    let mut made = schedule(
        "europe/rome",
        Execution::Every { every_ms: 60_000, from: hm(1, 0), to: hm(2, 0) },
        month_days(&[1], true),
    );
    made.months = vec![Month::May];
    let json = serde_json::to_value(&made).unwrap();
    assert_eq!(json["zone"], "Europe/Rome");
    assert_eq!(serde_json::from_value::<Schedule>(json).unwrap(), made);
}

/// Every minute of `minutes` after `from` at which the schedule ought to fire: whenever the wall clock reaches or
/// passes a slot's time that it has not shown before.
fn scan(schedule: &Schedule, from: Timestamp, minutes: u64) -> Vec<Timestamp> {
    let zone = jiff::tz::TimeZone::get(schedule.zone.name()).unwrap();
    let wall = |t: Timestamp| zone.to_datetime(t.to_jiff());
    // Begin early, so that what the clock showed before `from` is known.
    let lead = 3 * 24 * 60;
    let start = from - lead * MINUTE;
    let mut shown = wall(start);
    let mut found = Vec::new();
    for m in 1..=(u64::from(lead) + minutes) {
        let t = start + Duration::from_secs(60 * m);
        let now = wall(t);
        let mut fires = false;
        while shown < now {
            shown = shown.checked_add(jiff::SignedDuration::from_mins(1)).unwrap();
            fires |= is_slot(schedule, shown);
        }
        if fires && t > from {
            found.push(t);
        }
    }
    found
}

fn is_slot(schedule: &Schedule, wall: jiff::civil::DateTime) -> bool {
    let minute = i64::from(wall.hour()) * 60 + i64::from(wall.minute());
    let minutes = |t: TimeOfDay| i64::from(t.millis()) / 60_000;
    let (first, span, every) = match schedule.execution {
        Execution::At(time) => (minutes(time), 0, 1),
        Execution::Every { every_ms, from, to } => {
            let span = (minutes(to) - minutes(from)).rem_euclid(1440);
            (minutes(from), span, (every_ms / 60_000) as i64)
        }
    };
    let begins = |days: i64| {
        let into = minute + days * 1440 - first;
        into >= 0 && into <= span && into % every == 0
    };
    (begins(0) && is_day(schedule, wall.date())) || (begins(1) && is_day(schedule, wall.date().yesterday().unwrap()))
}

/// Whether a date matches, found by walking through its month.
fn is_day(schedule: &Schedule, day: Date) -> bool {
    let month = Month::TABLE[day.month() as usize - 1].0;
    if !(schedule.months.is_empty() || schedule.months.contains(&month)) {
        return false;
    }
    let of_month: Vec<Date> = date(day.year(), day.month(), 1)
        .series(jiff::Span::new().days(1))
        .take_while(|d| d.month() == day.month())
        .collect();
    match &schedule.days {
        Days::MonthDays { days, last } => days.contains(&(day.day() as u8)) || (*last && of_month.last() == Some(&day)),
        Days::Weekdays { days, occurrences } => {
            let weekday = Weekday::TABLE[day.weekday().to_monday_zero_offset() as usize].0;
            let same: Vec<&Date> = of_month.iter().filter(|d| d.weekday() == day.weekday()).collect();
            let occurs = |o: &Occurrence| match o {
                Occurrence::First => same[0] == &day,
                Occurrence::Second => same[1] == &day,
                Occurrence::Third => same[2] == &day,
                Occurrence::Fourth => same[3] == &day,
                Occurrence::Last => same.last() == Some(&&day),
            };
            (days.is_empty() || days.contains(&weekday)) && (occurrences.is_empty() || occurrences.iter().any(occurs))
        }
    }
}

fn any_of<T: Describe + std::fmt::Debug>(most: usize) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec((0..T::TABLE.len()).prop_map(|i| T::TABLE[i].0), 0..=most)
}

fn any_schedule() -> impl Strategy<Value = Schedule> {
    let time = || (0u32..1440).prop_map(|m| hm(m / 60, m % 60));
    let execution = prop_oneof![
        time().prop_map(Execution::At),
        (1u64..=1500, time(), time()).prop_map(|(minutes, from, to)| Execution::Every {
            every_ms: minutes * 60_000,
            from,
            to
        }),
    ];
    let days = prop_oneof![
        (any_of(3), any_of(2)).prop_map(|(days, occurrences)| Days::Weekdays { days, occurrences }),
        (prop::collection::vec(1u8..=31, 1..6), any::<bool>()).prop_map(|(days, last)| Days::MonthDays { days, last }),
    ];
    (0..ZONES.len(), execution, days, any_of(6)).prop_map(|(zone, execution, days, months)| {
        let mut made = schedule(ZONES[zone], execution, days);
        made.months = months;
        made
    })
}

/// Minutes since 2005 of instants just before the clocks of some zone change, and of any others.
fn any_start() -> impl Strategy<Value = Timestamp> {
    let changes = [
        "2026-03-27T00:00:00Z",
        "2026-10-24T00:00:00Z",
        "2026-03-07T00:00:00Z",
        "2026-10-31T00:00:00Z",
        "2026-04-03T12:00:00Z",
        "2026-10-02T12:00:00Z",
        "2018-11-03T00:00:00Z",
        "2018-02-17T00:00:00Z",
        "2011-12-29T00:00:00Z",
        "2024-02-27T00:00:00Z",
        "2024-04-25T00:00:00Z",
    ];
    prop_oneof![
        (0..changes.len(), 0u64..1440).prop_map(move |(i, m)| at(changes[i]) + Duration::from_secs(60 * m)),
        (0u64..30 * 366 * 1440).prop_map(|m| at("2005-01-01T00:00:00Z") + Duration::from_secs(60 * m)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, rng_seed: RngSeed::Fixed(2026), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_scan_of_every_minute(made in any_schedule(), from in any_start()) {
        let minutes = 4 * 24 * 60;
        let to = from + Duration::from_secs(60 * minutes);
        let fires: Vec<_> = made.fires_between(from, to).collect();
        prop_assert_eq!(texts(fires), texts(scan(&made, from, minutes)));
    }

    #[test]
    fn rises_strictly_and_looks_back_to_the_same_instants(made in any_schedule(), from in any_start()) {
        let next = made.next_n(from, 40);
        prop_assert!(next.windows(2).all(|w| w[0] < w[1]));
        prop_assert!(next.iter().all(|t| *t > from));
        for pair in next.windows(2) {
            prop_assert_eq!(made.last_until(pair[1]), Some(pair[1]));
            prop_assert_eq!(made.last_until(pair[1] - Duration::from_micros(1)), Some(pair[0]));
            prop_assert_eq!(made.next_after(pair[0]), Some(pair[1]));
        }
    }

    /// However the clock jumps, and however often the question is put, nothing fires twice or out of order, and
    /// nothing is counted that did not lie between.
    #[test]
    fn any_jumps_of_the_clock_fire_nothing_twice(
        made in any_schedule(),
        from in any_start(),
        jumps in prop::collection::vec(-90i64..2000, 1..30),
    ) {
        let grace = 2 * HOUR;
        let (mut last, mut now) = (from, from);
        let mut fired: Vec<Timestamp> = Vec::new();
        for jump in jumps {
            now = Timestamp::from_micros(now.as_micros() + jump * 60_000_000);
            if let Some(firing) = made.due(last, now, grace) {
                prop_assert!(firing.at <= now && firing.at > last);
                prop_assert!(fired.last().is_none_or(|before| *before < firing.at));
                prop_assert_eq!(made.fires_between(last, firing.at).count(), firing.coalesced as usize + 1);
                fired.push(firing.at);
            }
            let next = considered(last, now, grace);
            if next < last {
                fired.clear();
            }
            last = next;
            prop_assert_eq!(made.due(last, now, grace), None);
        }
    }
}
