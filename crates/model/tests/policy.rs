//! Where the copies of a rule go.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its values has to fail")]

use portolan_model::backup::DestinationRole;
use portolan_model::policy::{Consistency, Rule, SnapshotRetention, Target};
use portolan_model::*;
use uuid::Uuid;

fn rule(targets: &[(u128, DestinationRole, bool)]) -> Rule {
    let target = |(n, role, active): &(u128, DestinationRole, bool)| Target {
        id: RuleTargetId::from_uuid(Uuid::from_u128(*n)),
        destination: BackupDestinationId::from_uuid(Uuid::from_u128(100 + n)),
        role: *role,
        active: *active,
        retention: Retention::default(),
    };
    Rule {
        id: RuleId::from_uuid(Uuid::nil()),
        policy: PolicyId::from_uuid(Uuid::nil()),
        name: Name::new("Default").unwrap(),
        active: true,
        order: 0,
        triggers: Vec::new(),
        targets: targets.iter().map(target).collect(),
        consistency: Consistency::None,
        snapshots: SnapshotRetention::default(),
        created: Timestamp::default(),
    }
}

fn path(rule: &Rule) -> (Option<u128>, Vec<u128>) {
    let n = |t: &Target| t.id.uuid().as_u128();
    (rule.first_target().map(n), rule.further_targets().map(n).collect())
}

#[test]
fn the_primary_comes_first_wherever_it_stands() {
    use DestinationRole::*;
    assert_eq!(path(&rule(&[])), (None, vec![]));
    assert_eq!(path(&rule(&[(1, Secondary, true), (2, Primary, true), (3, Archive, true)])), (Some(2), vec![1, 3]));
    assert_eq!(path(&rule(&[(1, Primary, false), (2, Secondary, true), (3, Secondary, true)])), (Some(2), vec![3]));
    assert_eq!(path(&rule(&[(1, Primary, false)])), (None, vec![]));
}

#[test]
fn rules_survive_json() {
    let made = rule(&[(1, DestinationRole::Primary, true)]);
    let json = serde_json::to_string(&made).unwrap();
    assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), made);
    assert!(serde_json::from_str::<AutoAssign>("{}").is_ok_and(|a| a == AutoAssign::default()));
}
