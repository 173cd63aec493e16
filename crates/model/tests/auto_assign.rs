//! Which machines policies take by themselves.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its values has to fail")]

use portolan_model::auto_assign::{AutoAssignError, AutoAssignMatcher, AutoChange, Candidate, MatchReason, changes};
use portolan_model::policy::{AutoAssign, AutoAssignMode};
use portolan_model::{ClusterId, PolicyId, TenantId, VmId};
use uuid::Uuid;

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn vm<'a>(name: &'a str, tags: &'a [String]) -> Candidate<'a> {
    Candidate { vm: VmId::from_uuid(id(1)), name, tags, cluster: None, tenant: None, policy: None }
}

fn matcher(settings: AutoAssign) -> AutoAssignMatcher {
    AutoAssignMatcher::new(&settings).unwrap()
}

fn names(mode: AutoAssignMode, include: &[&str]) -> AutoAssignMatcher {
    matcher(AutoAssign { mode, include_names: texts(include), ..AutoAssign::default() })
}

#[test]
fn expressions_match_whole_names_and_tell_cases_apart() {
    let web = names(AutoAssignMode::AssignOnly, &["web|web[0-9]+"]);
    let taken: Vec<_> = ["web", "web01", "xweb", "web01x", "Web", "web\n"].map(|n| web.matches(&vm(n, &[]))).into();
    assert_eq!(taken, [true, true, false, false, false, false]);
}

#[test]
fn exclusion_wins_and_nothing_included_means_nothing_taken() {
    let gold = texts(&["gold"]);
    let both = texts(&["gold", "scratch"]);
    let settings = AutoAssign {
        include_tags: texts(&["gold"]),
        exclude_tags: texts(&["scratch"]),
        include_names: texts(&["db.*"]),
        exclude_names: texts(&[".*-test"]),
        ..AutoAssign::default()
    };
    let policy = matcher(settings);
    assert_eq!(policy.judge(&vm("x", &gold)), MatchReason::IncludedTag);
    assert_eq!(policy.judge(&vm("db1", &[])), MatchReason::IncludedName);
    assert_eq!(policy.judge(&vm("db1", &both)), MatchReason::ExcludedTag);
    assert_eq!(policy.judge(&vm("db1-test", &gold)), MatchReason::ExcludedName);
    assert_eq!(policy.judge(&vm("x", &[])), MatchReason::NotIncluded);
    assert_eq!(matcher(AutoAssign::default()).judge(&vm("x", &gold)), MatchReason::NotIncluded);
}

#[test]
fn clusters_and_tenants_restrict() {
    let settings = AutoAssign {
        include_names: texts(&[".*"]),
        clusters: vec![ClusterId::from_uuid(id(5))],
        tenants: vec![TenantId::from_uuid(id(6))],
        ..AutoAssign::default()
    };
    let policy = matcher(settings);
    let (cluster, tenant) = (Some(ClusterId::from_uuid(id(5))), Some(TenantId::from_uuid(id(6))));
    assert_eq!(policy.judge(&Candidate { cluster, tenant, ..vm("a", &[]) }), MatchReason::IncludedName);
    assert_eq!(policy.judge(&Candidate { tenant, ..vm("a", &[]) }), MatchReason::OtherCluster);
    assert_eq!(policy.judge(&Candidate { cluster, ..vm("a", &[]) }), MatchReason::OtherTenant);
}

#[test]
fn bad_and_greedy_expressions_are_refused() {
    let new = |patterns: &[&str]| {
        AutoAssignMatcher::new(&AutoAssign { include_names: texts(patterns), ..AutoAssign::default() })
    };
    for pattern in ["(", "a)|(b", "(a{1000}){1000}", "(?x) a # b", &"(".repeat(60), r"\p{Greek"] {
        let error = new(&[pattern]).unwrap_err();
        assert!(matches!(error, AutoAssignError::Pattern { .. }), "{pattern}");
        assert!(std::error::Error::source(&error).is_some());
    }
    assert_eq!(new(&["x".repeat(1001).as_str()]).unwrap_err(), AutoAssignError::TooLong);
    assert_eq!(new(&["x"; 101]).unwrap_err(), AutoAssignError::TooMany);
    assert!(new(&["(a+)+b"]).is_ok_and(|m| !m.matches(&vm(&"a".repeat(255), &[]))));
}

#[test]
fn machines_change_policies_only_as_the_mode_allows() {
    use AutoAssignMode::*;
    let (p1, p2, p3) = (PolicyId::from_uuid(id(1)), PolicyId::from_uuid(id(2)), PolicyId::from_uuid(id(3)));
    let (off, web, db) = (names(Disabled, &[".*"]), names(AssignAndRemove, &["web.*"]), names(AssignOnly, &["db.*"]));
    let policies = [(p1, &off), (p2, &web), (p3, &db)];
    let to = |name: &str, policy: Option<PolicyId>| {
        changes(&[Candidate { policy, ..vm(name, &[]) }], &policies).first().map(|c: &AutoChange| c.to)
    };
    // Without a policy.
    assert_eq!(to("web1", None), Some(Some(p2)));
    assert_eq!(to("db1", None), Some(Some(p3)));
    assert_eq!(to("mail", None), None);
    // With one that still matches, or that only assigns, or that is not automatic.
    assert_eq!(to("web1", Some(p2)), None);
    assert_eq!(to("web1", Some(p3)), None);
    assert_eq!(to("web1", Some(p1)), None);
    assert_eq!(to("web1", Some(PolicyId::from_uuid(id(9)))), None);
    // With one that removes what it no longer matches.
    assert_eq!(to("db1", Some(p2)), Some(Some(p3)));
    assert_eq!(to("mail", Some(p2)), Some(None));
    assert_eq!(
        changes(&[Candidate { policy: Some(p2), ..vm("mail", &[]) }], &policies)[0].reason,
        MatchReason::NotIncluded
    );
}
