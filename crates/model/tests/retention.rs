//! Retention by examples, and by what must hold of any copies.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its values has to fail")]

use portolan_model::backup::BackupType;
use portolan_model::retention::{
    Decision, Keep, RetainedCopy, Retention, RetentionHint, RetentionLimits, RetentionReason, plan,
};
use portolan_model::{BackupCopyId, RecoveryPointId, Timestamp};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::BTreeSet;
use std::time::Duration;
use uuid::Uuid;

const DAY: u64 = 86_400_000;

fn day(n: u64) -> Timestamp {
    Timestamp::from_millis((n * DAY) as i64)
}

fn copy(n: u64, backup_type: BackupType) -> RetainedCopy {
    RetainedCopy {
        copy: BackupCopyId::from_uuid(Uuid::from_u128(u128::from(n))),
        point: RecoveryPointId::from_uuid(Uuid::from_u128(1000 + u128::from(n))),
        parent: None,
        backup_type,
        taken: day(n),
        expires: None,
        explicit: false,
        hint: RetentionHint::StandardRetention,
        locked: false,
        locked_until: None,
    }
}

fn rule(full: Keep, incremental: Keep) -> Retention {
    Retention { limits: RetentionLimits::ByType { full, incremental }, ..Retention::default() }
}

fn count(count: u32) -> Keep {
    Keep { count: Some(count), age_ms: None }
}

fn outcome(decisions: &[Decision]) -> Vec<(bool, RetentionReason)> {
    decisions.iter().map(|d| (d.keep, d.reason)).collect()
}

#[test]
fn whichever_comes_first_removes() {
    use RetentionReason::*;
    let keep = Keep { count: Some(2), age_ms: Some(3 * DAY) };
    let rule = rule(keep, keep);
    let copies: Vec<_> = (1..=5)
        .map(|n| {
            let mut c = copy(n, BackupType::Full);
            c.expires = rule.expires(c.backup_type, c.taken);
            c
        })
        .collect();
    // Day 6: 1, 2 and 3 are three days old or more; 4 and 5 are the newest two.
    let old = (false, TooOld);
    assert_eq!(
        outcome(&plan(&copies, &rule, day(6), true)),
        [old, old, old, (true, WithinLimits), (true, WithinLimits)]
    );
    // Day 5: 3 is young enough, but two are newer.
    assert_eq!(outcome(&plan(&copies, &rule, day(5), true))[2], (false, TooMany));
}

#[test]
fn kinds_are_counted_apart_and_order_does_not_matter() {
    let rule = rule(count(1), count(2));
    let mut copies = vec![
        copy(1, BackupType::Full),
        copy(2, BackupType::Incremental),
        copy(3, BackupType::Incremental),
        copy(4, BackupType::Synthetic),
        copy(5, BackupType::Incremental),
    ];
    let kept = |copies: &[RetainedCopy]| {
        plan(copies, &rule, day(9), true).iter().filter(|d| d.keep).map(|d| d.copy).collect::<BTreeSet<_>>()
    };
    let first = kept(&copies);
    assert_eq!(first, [2, 3, 4].map(|i: usize| copies[i].copy).into_iter().collect());
    copies.reverse();
    assert_eq!(kept(&copies), first);
}

#[test]
fn locks_and_marks_win() {
    use RetentionReason::*;
    let rule = rule(count(0), count(0));
    let mut copies: Vec<_> = (1..=8).map(|n| copy(n, BackupType::Full)).collect();
    copies[0].locked = true;
    copies[0].hint = RetentionHint::ToRemove;
    copies[1].locked_until = Some(day(21));
    copies[2].locked_until = Some(day(20));
    copies[3].hint = RetentionHint::DontTouch;
    copies[4].hint = RetentionHint::Archive;
    copies[5].hint = RetentionHint::Archive;
    copies[5].expires = Some(day(20));
    copies[6].explicit = true;
    copies[7].explicit = true;
    copies[7].expires = Some(day(19));
    assert_eq!(
        outcome(&plan(&copies, &rule, day(20), true)),
        [
            (true, Locked),
            (true, Locked),
            (false, TooMany),
            (true, Untouchable),
            (true, Archived),
            (false, ExplicitlyExpired),
            (true, ExplicitExpiry),
            (false, ExplicitlyExpired),
        ]
    );
}

#[test]
fn the_newest_stays_while_its_machine_exists() {
    use RetentionReason::*;
    let mut rule = Retention::max_age(Duration::from_millis(DAY));
    rule.keep_last_while_source_exists = true;
    let mut copies = vec![copy(1, BackupType::Full), copy(2, BackupType::Incremental), copy(3, BackupType::Full)];
    for c in &mut copies {
        c.expires = rule.expires(c.backup_type, c.taken);
    }
    let old = (false, TooOld);
    assert_eq!(outcome(&plan(&copies, &rule, day(90), true)), [old, old, (true, LastOfSource)]);
    assert_eq!(outcome(&plan(&copies, &rule, day(90), false)), [old, old, old]);
    // A mark wins; the newest is then the one before.
    copies[2].hint = RetentionHint::ToRemove;
    assert_eq!(outcome(&plan(&copies, &rule, day(90), true)), [old, (true, LastOfSource), (false, Marked)]);
}

#[test]
fn bases_of_kept_increments_stay_where_that_is_asked() {
    use RetentionReason::*;
    let mut rule = rule(count(0), count(1));
    let mut copies = vec![
        copy(1, BackupType::Full),
        copy(2, BackupType::Full),
        copy(3, BackupType::Incremental),
        copy(4, BackupType::Incremental),
    ];
    copies[2].parent = Some(copies[1].point);
    copies[3].parent = Some(copies[2].point);
    let many = (false, TooMany);
    assert_eq!(outcome(&plan(&copies, &rule, day(9), true)), [many, many, many, (true, WithinLimits)]);
    rule.keep_bases = true;
    let base = (true, BaseOfKept);
    assert_eq!(outcome(&plan(&copies, &rule, day(9), true)), [many, base, base, (true, WithinLimits)]);
    // Nonsense from outside ends too.
    copies[1].backup_type = BackupType::Incremental;
    copies[1].parent = Some(copies[3].point);
    assert_eq!(plan(&copies, &rule, day(9), true).len(), 4);
}

#[test]
fn stamps() {
    let rule = Retention { lock_days: 2, ..Retention::default() };
    assert_eq!(rule.expires(BackupType::Full, day(1)), Some(day(31)));
    assert_eq!(rule.locked_until(day(1)), Some(day(3)));
    assert_eq!(Retention::default().locked_until(day(1)), None);
    assert_eq!(self::rule(count(1), count(1)).expires(BackupType::Full, day(1)), None);
    assert_eq!(Retention::max_age(Duration::MAX).expires(BackupType::Full, day(1)), Some(Timestamp::MAX));
    let json = serde_json::to_string(&rule).unwrap();
    assert_eq!(serde_json::from_str::<Retention>(&json).unwrap(), rule);
}

fn any_rule() -> impl Strategy<Value = Retention> {
    let keep = || {
        (prop::option::of(0u32..6), prop::option::of(0u64..20))
            .prop_map(|(count, days)| Keep { count, age_ms: days.map(|d| d * DAY) })
    };
    (keep(), keep(), any::<bool>(), any::<bool>()).prop_map(|(full, incremental, last, bases)| Retention {
        keep_last_while_source_exists: last,
        keep_bases: bases,
        ..rule(full, incremental)
    })
}

/// Copies of one a day, each increment compared with an earlier point; with `plain`, none marked or locked.
fn any_copies(plain: bool) -> impl Strategy<Value = Vec<RetainedCopy>> {
    let one = (any::<bool>(), 0u64..4, 0u8..12, 0u64..40);
    prop::collection::vec(one, 0..14).prop_map(move |rows| {
        let mut copies: Vec<RetainedCopy> = Vec::new();
        for (n, (full, back, special, days)) in rows.into_iter().enumerate() {
            let mut c = copy(n as u64, if full { BackupType::Full } else { BackupType::Incremental });
            c.parent = (n as u64).checked_sub(1 + back).map(|p| copies[p as usize].point).filter(|_| !full);
            match special {
                _ if plain => {}
                0 => c.locked = true,
                1 => c.locked_until = Some(day(days)),
                2 => c.hint = RetentionHint::ToRemove,
                3 => c.hint = RetentionHint::Archive,
                4 => (c.explicit, c.expires) = (true, Some(day(days))),
                5 => c.hint = RetentionHint::DontTouch,
                _ => {}
            }
            copies.push(c);
        }
        copies
    })
}

fn stamp(copies: &mut [RetainedCopy], rule: &Retention) {
    for c in copies.iter_mut().filter(|c| !c.explicit) {
        c.expires = rule.expires(c.backup_type, c.taken);
    }
}

fn removed(copies: &[RetainedCopy], rule: &Retention, now: Timestamp, exists: bool) -> BTreeSet<BackupCopyId> {
    plan(copies, rule, now, exists).into_iter().filter(|d| !d.keep).map(|d| d.copy).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(2026), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn locked_copies_are_never_removed(mut copies in any_copies(false), rule in any_rule(), now in 0u64..60, exists: bool) {
        stamp(&mut copies, &rule);
        let gone = removed(&copies, &rule, day(now), exists);
        for c in copies.iter().filter(|c| c.locked || c.locked_until.is_some_and(|t| t > day(now))) {
            prop_assert!(!gone.contains(&c.copy));
        }
    }

    #[test]
    fn deciding_again_about_what_was_kept_keeps_it(mut copies in any_copies(false), rule in any_rule(), now in 0u64..60, exists: bool) {
        stamp(&mut copies, &rule);
        let gone = removed(&copies, &rule, day(now), exists);
        copies.retain(|c| !gone.contains(&c.copy));
        prop_assert_eq!(removed(&copies, &rule, day(now), exists), BTreeSet::new());
    }

    #[test]
    fn the_newest_unmarked_copy_outlives_the_rule(mut copies in any_copies(false), mut rule in any_rule(), now in 0u64..60) {
        rule.keep_last_while_source_exists = true;
        stamp(&mut copies, &rule);
        let gone = removed(&copies, &rule, day(now), true);
        let unmarked = |c: &&RetainedCopy| {
            !c.explicit && !matches!(c.hint, RetentionHint::ToRemove | RetentionHint::Archive)
        };
        if let Some(newest) = copies.iter().rfind(unmarked) {
            let newer_kept = copies.iter().any(|c| c.taken > newest.taken && !gone.contains(&c.copy));
            prop_assert!(newer_kept || !gone.contains(&newest.copy));
        }
    }

    #[test]
    fn what_was_removed_stays_removed_as_time_passes(mut copies in any_copies(true), rule in any_rule(), now in 0u64..60, later in 0u64..30) {
        stamp(&mut copies, &rule);
        let rule = Retention { keep_last_while_source_exists: false, keep_bases: false, ..rule };
        let before = removed(&copies, &rule, day(now), true);
        let after = removed(&copies, &rule, day(now + later), true);
        prop_assert!(before.is_subset(&after));
    }

    #[test]
    fn a_newer_copy_saves_no_older_one(mut copies in any_copies(false), rule in any_rule(), now in 0u64..60, exists: bool) {
        let rule = Retention { keep_bases: false, ..rule };
        stamp(&mut copies, &rule);
        let after = removed(&copies, &rule, day(now), exists);
        if let Some(newest) = copies.pop() {
            let mut before = removed(&copies, &rule, day(now), exists);
            before.remove(&newest.copy);
            prop_assert!(before.is_subset(&after));
        }
    }

    #[test]
    fn no_kept_increment_loses_its_base(mut copies in any_copies(false), mut rule in any_rule(), now in 0u64..60, exists: bool) {
        rule.keep_bases = true;
        stamp(&mut copies, &rule);
        let gone = removed(&copies, &rule, day(now), exists);
        for c in copies.iter().filter(|c| !gone.contains(&c.copy) && c.backup_type == BackupType::Incremental) {
            let base = copies.iter().find(|b| Some(b.point) == c.parent);
            prop_assert!(base.is_none_or(|b| !gone.contains(&b.copy)));
        }
    }
}
