//! Policies: which machines are protected when, where to, and for how long.

use crate::backup::DestinationRole;
use crate::id::*;
use crate::name::Name;
use crate::retention::Retention;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

crate::described_enum! {
    /// What a policy's rules make.
    pub enum PolicyKind {
        VmBackup = "VM_BACKUP", "VM backup";
        VmSnapshot = "VM_SNAPSHOT", "VM snapshot";
    }
}

crate::described_enum! {
    /// Whether a policy takes machines by itself.
    pub enum AutoAssignMode {
        Disabled = "DISABLED", "Disabled";
        AssignOnly = "ASSIGN_ONLY", "Assign only";
        AssignAndRemove = "ASSIGN_AND_REMOVE", "Assign and remove";
    }
}

crate::described_enum! {
    /// How a machine is brought to rest before its disks are read. The names are OmniStack's.
    pub enum Consistency {
        /// As if the power had failed.
        None = "NONE", "Crash-consistent";
        /// File systems are frozen, or the hypervisor's quiesced snapshot is used.
        Default = "DEFAULT", "Quiesced snapshot";
        /// Applications are told to write out what they hold.
        Vss = "VSS", "Application-consistent (VSS)";
        /// Asked for VSS, and did not get it.
        FailedVss = "FAILEDVSS", "VSS failed";
        NotApplicable = "NOT_APPLICABLE", "Not applicable";
    }
}

impl Consistency {
    /// Whether users may ask for it; the others are results.
    pub fn can_be_asked_for(self) -> bool {
        matches!(self, Self::None | Self::Default | Self::Vss)
    }
}

/// A policy. Its rules are objects of their own that name it; a machine names the policies that it follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Portolan's id.
    pub id: PolicyId,
    /// Its name, unique.
    pub name: Name,
    /// A text for people.
    #[serde(default)]
    pub description: String,
    /// The tenant it belongs to.
    pub tenant: Option<TenantId>,
    /// What its rules make.
    pub kind: PolicyKind,
    /// Whether its rules fire at all.
    pub active: bool,
    /// The priority of its tasks, 0 to 100.
    pub priority: u8,
    /// How it takes machines by itself.
    #[serde(default)]
    pub auto_assign: AutoAssign,
    /// Whether machines that are gone leave the policy.
    #[serde(default)]
    pub auto_remove_non_present: bool,
    /// How often a failed export or store is tried again.
    #[serde(default)]
    pub retry_count: u32,
    /// When more than this share of a run's exports has failed, in per cent, the rest fails unstarted.
    #[serde(default)]
    pub fail_export_threshold: Option<u8>,
    /// The same for stores.
    #[serde(default)]
    pub fail_store_threshold: Option<u8>,
    /// Whether a report of every day's backups is mailed.
    #[serde(default)]
    pub daily_report: bool,
    /// To whom it is mailed.
    #[serde(default)]
    pub mailing_list: Option<MailingListId>,
    /// Whether every tenant may put machines under it.
    #[serde(default)]
    pub visible_to_all_tenants: bool,
    /// The cluster that it was made on, for dialects that say so.
    #[serde(default)]
    pub owner_cluster: Option<ClusterId>,
    /// When it was made.
    pub created: Timestamp,
}

/// What a policy does when one of its schedules fires.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Portolan's id.
    pub id: RuleId,
    /// The policy that it belongs to, and goes with.
    pub policy: PolicyId,
    /// Its name.
    pub name: Name,
    /// Whether it does anything.
    pub active: bool,
    /// Its place among the policy's rules, from 0.
    pub order: u32,
    /// The schedules that start it. One may start rules of several policies, and only one rule of each.
    #[serde(default)]
    pub triggers: Vec<ScheduleId>,
    /// Where the copies go. None means the default destination, by the default retention.
    #[serde(default)]
    pub targets: Vec<Target>,
    /// How machines are brought to rest.
    pub consistency: Consistency,
    /// How long snapshots are kept, for a policy of snapshots.
    #[serde(default)]
    pub snapshots: SnapshotRetention,
    /// When it was made.
    pub created: Timestamp,
}

impl Rule {
    /// The active target of that role, the first where there are several.
    pub fn target(&self, role: DestinationRole) -> Option<&Target> {
        self.targets.iter().find(|t| t.active && t.role == role)
    }

    /// Where the backup itself goes: the primary target, or the first active one.
    pub fn first_target(&self) -> Option<&Target> {
        self.target(DestinationRole::Primary).or_else(|| self.targets.iter().find(|t| t.active))
    }

    /// Where copies of the stored backup go after that.
    pub fn further_targets(&self) -> impl Iterator<Item = &Target> {
        let first = self.first_target().map(|t| t.id);
        self.targets.iter().filter(move |t| t.active && Some(t.id) != first)
    }
}

/// A destination of a rule's copies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Portolan's id.
    pub id: RuleTargetId,
    /// The destination.
    pub destination: BackupDestinationId,
    /// What it is for.
    pub role: DestinationRole,
    /// Whether copies go there.
    pub active: bool,
    /// How long they are kept.
    #[serde(default)]
    pub retention: Retention,
}

/// How long snapshots of a machine are kept. Whichever comes first removes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRetention {
    /// The newest that are kept; nothing for any number.
    pub versions: Option<u32>,
    /// How many days each is kept; nothing for ever.
    pub days: Option<u32>,
}

/// How a policy takes machines by itself. Its patterns are matched by
/// [`AutoAssignMatcher`](crate::auto_assign::AutoAssignMatcher).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoAssign {
    /// Whether it does.
    pub mode: AutoAssignMode,
    /// A machine with any of these tags is taken.
    pub include_tags: Vec<String>,
    /// A machine with any of these tags is not.
    pub exclude_tags: Vec<String>,
    /// A machine whose whole name any of these expressions matches is taken.
    pub include_names: Vec<String>,
    /// A machine whose whole name any of these expressions matches is not.
    pub exclude_names: Vec<String>,
    /// Only machines of these clusters, where there are any.
    pub clusters: Vec<ClusterId>,
    /// Only machines of these tenants, where there are any.
    pub tenants: Vec<TenantId>,
}

impl Default for AutoAssign {
    fn default() -> Self {
        Self {
            mode: AutoAssignMode::Disabled,
            include_tags: Vec::new(),
            exclude_tags: Vec::new(),
            include_names: Vec::new(),
            exclude_names: Vec::new(),
            clusters: Vec::new(),
            tenants: Vec::new(),
        }
    }
}
