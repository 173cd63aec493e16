//! Which machines a policy takes by itself: pure matching, and the changes that follow from it.

use crate::id::{ClusterId, PolicyId, TenantId, VmId};
use crate::policy::{AutoAssign, AutoAssignMode};
use regex::{Regex, RegexBuilder};

/// The most tags and expressions of one kind.
const MOST_PATTERNS: usize = 100;
/// The longest tag or expression, in bytes.
const LONGEST_PATTERN: usize = 1000;
/// The largest compiled expression, in bytes: keeps `(a{1000}){1000}` out of the memory.
const LARGEST_PROGRAM: usize = 1 << 20;

/// Why settings are refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AutoAssignError {
    /// Too many tags or expressions.
    #[error("there may be at most {MOST_PATTERNS} tags or expressions of one kind")]
    TooMany,
    /// A tag or an expression that is too long.
    #[error("a tag or an expression must not be longer than {LONGEST_PATTERN} bytes")]
    TooLong,
    /// An expression that does not compile, or grows too large.
    #[error("'{pattern}' is not a regular expression that can be used")]
    Pattern {
        /// The expression.
        pattern: String,
        /// What is wrong with it.
        #[source]
        source: regex::Error,
    },
}

/// What is known of a machine that a policy might take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate<'a> {
    /// The machine.
    pub vm: VmId,
    /// Its name.
    pub name: &'a str,
    /// Its tags.
    pub tags: &'a [String],
    /// Its cluster.
    pub cluster: Option<ClusterId>,
    /// Its tenant.
    pub tenant: Option<TenantId>,
    /// The policy that it follows.
    pub policy: Option<PolicyId>,
}

crate::described_enum! {
    /// Why a policy takes a machine, or does not.
    pub enum MatchReason {
        IncludedTag = "INCLUDED_TAG", "A tag includes it";
        IncludedName = "INCLUDED_NAME", "Its name includes it";
        ExcludedTag = "EXCLUDED_TAG", "A tag excludes it";
        ExcludedName = "EXCLUDED_NAME", "Its name excludes it";
        OtherCluster = "OTHER_CLUSTER", "It is in none of the clusters";
        OtherTenant = "OTHER_TENANT", "It belongs to none of the tenants";
        NotIncluded = "NOT_INCLUDED", "Nothing includes it";
    }
}

impl MatchReason {
    /// Whether the policy takes the machine.
    pub fn takes(self) -> bool {
        matches!(self, Self::IncludedTag | Self::IncludedName)
    }
}

/// A policy's settings, ready to match.
#[derive(Debug, Clone)]
pub struct AutoAssignMatcher {
    settings: AutoAssign,
    include: Vec<Regex>,
    exclude: Vec<Regex>,
}

impl AutoAssignMatcher {
    /// Compiles the settings. Expressions match whole names and tell capitals from small letters; matching takes
    /// time in proportion to the name's length, whatever the expression.
    pub fn new(settings: &AutoAssign) -> Result<Self, AutoAssignError> {
        for list in [&settings.include_tags, &settings.exclude_tags, &settings.include_names, &settings.exclude_names] {
            if list.len() > MOST_PATTERNS {
                return Err(AutoAssignError::TooMany);
            }
            if list.iter().any(|pattern| pattern.len() > LONGEST_PATTERN) {
                return Err(AutoAssignError::TooLong);
            }
        }
        let include = settings.include_names.iter().map(|p| compile(p)).collect::<Result<_, _>>()?;
        let exclude = settings.exclude_names.iter().map(|p| compile(p)).collect::<Result<_, _>>()?;
        Ok(Self { settings: settings.clone(), include, exclude })
    }

    /// Whether the policy takes machines at all.
    pub fn mode(&self) -> AutoAssignMode {
        self.settings.mode
    }

    /// Whether the settings match the machine, and by what. Exclusion wins over inclusion.
    pub fn judge(&self, vm: &Candidate<'_>) -> MatchReason {
        let tagged = |tags: &[String]| tags.iter().any(|tag| vm.tags.contains(tag));
        let named = |names: &[Regex]| names.iter().any(|name| name.is_match(vm.name));
        let within = &self.settings;
        if !within.tenants.is_empty() && !vm.tenant.is_some_and(|t| within.tenants.contains(&t)) {
            MatchReason::OtherTenant
        } else if !within.clusters.is_empty() && !vm.cluster.is_some_and(|c| within.clusters.contains(&c)) {
            MatchReason::OtherCluster
        } else if tagged(&within.exclude_tags) {
            MatchReason::ExcludedTag
        } else if named(&self.exclude) {
            MatchReason::ExcludedName
        } else if tagged(&within.include_tags) {
            MatchReason::IncludedTag
        } else if named(&self.include) {
            MatchReason::IncludedName
        } else {
            MatchReason::NotIncluded
        }
    }

    /// Whether the settings match the machine.
    pub fn matches(&self, vm: &Candidate<'_>) -> bool {
        self.judge(vm).takes()
    }
}

/// A machine that changes its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoChange {
    /// The machine.
    pub vm: VmId,
    /// The policy that it followed.
    pub from: Option<PolicyId>,
    /// The policy that it follows from now on.
    pub to: Option<PolicyId>,
    /// Why: what includes it in `to`, or what takes it out of `from`.
    pub reason: MatchReason,
}

/// The changes that the settings of `policies` ask for, the first policy that matches winning.
///
/// A machine without a policy is assigned. One with a policy stays with it, unless that policy assigns *and
/// removes* and its settings match the machine no longer: then it goes to another that matches, or to none.
pub fn changes(vms: &[Candidate<'_>], policies: &[(PolicyId, &AutoAssignMatcher)]) -> Vec<AutoChange> {
    vms.iter().filter_map(|vm| change(vm, policies)).collect()
}

fn change(vm: &Candidate<'_>, policies: &[(PolicyId, &AutoAssignMatcher)]) -> Option<AutoChange> {
    let mut reason = MatchReason::NotIncluded;
    if let Some(current) = vm.policy {
        let (_, matcher) = policies.iter().find(|(id, _)| *id == current)?;
        reason = matcher.judge(vm);
        if matcher.mode() != AutoAssignMode::AssignAndRemove || reason.takes() {
            return None;
        }
    }
    let next = policies
        .iter()
        .filter(|(id, matcher)| Some(*id) != vm.policy && matcher.mode() != AutoAssignMode::Disabled)
        .map(|(id, matcher)| (*id, matcher.judge(vm)))
        .find(|(_, reason)| reason.takes());
    match (next, vm.policy) {
        (Some((to, reason)), from) => Some(AutoChange { vm: vm.vm, from, to: Some(to), reason }),
        (None, Some(from)) => Some(AutoChange { vm: vm.vm, from: Some(from), to: None, reason }),
        (None, None) => None,
    }
}

fn compile(pattern: &str) -> Result<Regex, AutoAssignError> {
    let build = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(LARGEST_PROGRAM)
            .dfa_size_limit(LARGEST_PROGRAM)
            .nest_limit(50)
            .build()
            .map_err(|source| AutoAssignError::Pattern { pattern: pattern.to_owned(), source })
    };
    // By itself first: `a)|(b` must not become valid by what is put around it.
    build(pattern)?;
    build(&format!(r"\A(?:{pattern})\z"))
}
