//! Which copies of backups go, and why: a pure decision over one machine's copies at one destination.
//!
//! A copy carries its age limit from the moment it is made ([`Retention::expires`]); counts are evaluated when the
//! decision is made. Whichever comes first removes it. A mark or an expiry that a user set wins over both, and a
//! lock wins over everything.

use crate::backup::BackupType;
use crate::id::{BackupCopyId, RecoveryPointId};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

crate::described_enum! {
    /// What a user has said about the life of a copy.
    pub enum RetentionHint {
        StandardRetention = "STANDARD_RETENTION", "Use retention settings from the policy";
        Archive = "ARCHIVE", "Mark to keep";
        ToRemove = "TO_REMOVE", "Mark as expired";
        /// Its data is gone, and another copy replaces it.
        Recreate = "RECREATE", "Recreate";
        DontTouch = "DONT_TOUCH", "Don't touch";
    }
}

/// How many of a kind are kept, and how long. Whichever comes first removes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// The newest that are kept; nothing for any number.
    pub count: Option<u32>,
    /// How long each is kept, in milliseconds from the moment that its data is of; nothing for ever.
    pub age_ms: Option<u64>,
}

/// The limits of a retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetentionLimits {
    /// One age for every copy, in milliseconds.
    MaxAge(u64),
    /// Full and incremental backups apart. Whatever is not an increment counts as full.
    ByType {
        /// Full backups.
        full: Keep,
        /// Increments.
        incremental: Keep,
    },
}

/// How long copies at one destination are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// The limits.
    pub limits: RetentionLimits,
    /// Whether the newest copy outlives the limits for as long as its machine exists.
    #[serde(default)]
    pub keep_last_while_source_exists: bool,
    /// Whether a copy stays for as long as a kept increment was compared with it, directly or through others.
    /// Portolan's points are whole in themselves and do not need it; vPlus promises it.
    #[serde(default)]
    pub keep_bases: bool,
    /// For how many days from its making a copy cannot be removed at all; 0 for not.
    #[serde(default)]
    pub lock_days: u32,
}

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

impl Default for Retention {
    /// The newest four full backups and thirty increments, thirty days each.
    fn default() -> Self {
        let keep = |count| Keep { count: Some(count), age_ms: Some(30 * DAY_MS) };
        Self {
            limits: RetentionLimits::ByType { full: keep(4), incremental: keep(30) },
            keep_last_while_source_exists: false,
            keep_bases: false,
            lock_days: 0,
        }
    }
}

impl Retention {
    /// Keeps every copy for `age`.
    pub fn max_age(age: Duration) -> Self {
        let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Self { limits: RetentionLimits::MaxAge(ms), ..Self::default() }
    }

    /// When a copy made now of data from `taken` expires by age: what is stamped on it.
    pub fn expires(&self, backup_type: BackupType, taken: Timestamp) -> Option<Timestamp> {
        let age_ms = match self.limits {
            RetentionLimits::MaxAge(ms) => Some(ms),
            RetentionLimits::ByType { .. } => self.keep(backup_type).age_ms,
        };
        age_ms.map(|ms| taken + Duration::from_millis(ms))
    }

    /// Until when a copy made at `made` cannot be removed: what is stamped on it.
    pub fn locked_until(&self, made: Timestamp) -> Option<Timestamp> {
        (self.lock_days > 0).then(|| made + Duration::from_secs(u64::from(self.lock_days) * 86_400))
    }

    /// The limits of one kind of backup.
    fn keep(&self, backup_type: BackupType) -> Keep {
        match self.limits {
            RetentionLimits::MaxAge(ms) => Keep { count: None, age_ms: Some(ms) },
            RetentionLimits::ByType { incremental, .. } if is_increment(backup_type) => incremental,
            RetentionLimits::ByType { full, .. } => full,
        }
    }
}

/// What retention must know of a copy that is present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedCopy {
    /// The copy.
    pub copy: BackupCopyId,
    /// The point that it is a copy of.
    pub point: RecoveryPointId,
    /// The point that an increment was compared with.
    pub parent: Option<RecoveryPointId>,
    /// How much the backup read.
    pub backup_type: BackupType,
    /// The moment that the data is of: the order of the copies.
    pub taken: Timestamp,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// Whether a user set `expires` (or set that it never does): then neither counts nor the rule's ages matter.
    pub explicit: bool,
    /// What a user has said about it. With `Archive`, `expires` is the end of the archiving.
    pub hint: RetentionHint,
    /// Whether its point is locked.
    pub locked: bool,
    /// When the copy's own lock ends.
    pub locked_until: Option<Timestamp>,
}

crate::described_enum! {
    /// Why a copy is kept or removed.
    pub enum RetentionReason {
        WithinLimits = "WITHIN_LIMITS", "Within the limits of its retention";
        Locked = "LOCKED", "Locked";
        Archived = "ARCHIVED", "Marked to keep";
        Untouchable = "UNTOUCHABLE", "Marked not to be touched";
        ExplicitExpiry = "EXPLICIT_EXPIRY", "The expiry that was set has not come";
        LastOfSource = "LAST_OF_SOURCE", "The newest backup of a machine that exists";
        BaseOfKept = "BASE_OF_KEPT", "A kept incremental backup depends on it";
        Marked = "MARKED", "Marked as expired";
        ExplicitlyExpired = "EXPLICITLY_EXPIRED", "The expiry that was set has passed";
        TooOld = "TOO_OLD", "Older than its retention allows";
        TooMany = "TOO_MANY", "Enough newer backups exist";
    }
}

/// What becomes of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The copy.
    pub copy: BackupCopyId,
    /// Its point.
    pub point: RecoveryPointId,
    /// Whether it stays.
    pub keep: bool,
    /// Why.
    pub reason: RetentionReason,
}

/// Decides about the copies that one machine has at one destination, in the order in which they are given.
///
/// Deciding again about those that were kept keeps them all. `source_exists` says whether the platform still has
/// the machine.
pub fn plan(copies: &[RetainedCopy], rule: &Retention, now: Timestamp, source_exists: bool) -> Vec<Decision> {
    let mut order: Vec<usize> = (0..copies.len()).collect();
    order.sort_by(|a, b| (copies[*b].taken, copies[*b].copy).cmp(&(copies[*a].taken, copies[*a].copy)));

    let mut verdicts = vec![(true, RetentionReason::WithinLimits); copies.len()];
    let (mut full, mut increments) = (0u32, 0u32);
    let mut newest = true;
    for i in order {
        let copy = &copies[i];
        let kept_of_kind = if is_increment(copy.backup_type) { &mut increments } else { &mut full };
        let mut verdict = decide(copy, rule, now, *kept_of_kind);
        if newest && by_the_rule(verdict.1) {
            newest = false;
            if rule.keep_last_while_source_exists && source_exists && !verdict.0 {
                verdict = (true, RetentionReason::LastOfSource);
            }
        } else if verdict.0 {
            newest = false;
        }
        if verdict.0 {
            *kept_of_kind = kept_of_kind.saturating_add(1);
        }
        verdicts[i] = verdict;
    }
    if rule.keep_bases {
        keep_bases(copies, &mut verdicts);
    }
    let decision =
        |(copy, (keep, reason)): (&RetainedCopy, _)| Decision { copy: copy.copy, point: copy.point, keep, reason };
    copies.iter().zip(verdicts).map(decision).collect()
}

/// The verdict on one copy by itself, when `newer` of its kind are kept.
fn decide(copy: &RetainedCopy, rule: &Retention, now: Timestamp, newer: u32) -> (bool, RetentionReason) {
    use RetentionReason::*;
    let expired = copy.expires.is_some_and(|at| at <= now);
    if copy.locked || copy.locked_until.is_some_and(|until| until > now) {
        return (true, Locked);
    }
    match copy.hint {
        RetentionHint::ToRemove => (false, Marked),
        RetentionHint::DontTouch => (true, Untouchable),
        RetentionHint::Archive if expired => (false, ExplicitlyExpired),
        RetentionHint::Archive => (true, Archived),
        RetentionHint::StandardRetention | RetentionHint::Recreate => {
            if copy.explicit {
                if expired { (false, ExplicitlyExpired) } else { (true, ExplicitExpiry) }
            } else if expired {
                (false, TooOld)
            } else if rule.keep(copy.backup_type).count.is_some_and(|count| newer >= count) {
                (false, TooMany)
            } else {
                (true, WithinLimits)
            }
        }
    }
}

/// Whether the limits decided, and neither a user nor a lock.
fn by_the_rule(reason: RetentionReason) -> bool {
    matches!(reason, RetentionReason::WithinLimits | RetentionReason::TooOld | RetentionReason::TooMany)
}

/// Keeps what kept increments were compared with, and what that was compared with in turn.
fn keep_bases(copies: &[RetainedCopy], verdicts: &mut [(bool, RetentionReason)]) {
    let by_point: BTreeMap<RecoveryPointId, usize> = copies.iter().enumerate().map(|(i, c)| (c.point, i)).collect();
    let mut seen = BTreeSet::new();
    for start in 0..copies.len() {
        if !verdicts[start].0 {
            continue;
        }
        let mut at = start;
        // The set of seen ones also ends a circle, which no repository makes but a caller might hand in.
        while seen.insert(at) && is_increment(copies[at].backup_type) {
            let Some(base) = copies[at].parent.and_then(|parent| by_point.get(&parent)) else { break };
            at = *base;
            if !verdicts[at].0 {
                verdicts[at] = (true, RetentionReason::BaseOfKept);
            }
        }
    }
}

fn is_increment(backup_type: BackupType) -> bool {
    backup_type == BackupType::Incremental
}
