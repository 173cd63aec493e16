//! The states of libcloud's driver model: words today, numbers in the versions that Orchestrator's clients know.

use super::Aliased;
use crate::vm::PowerState;

crate::described_enum! {
    /// Where a cloud node is. The declaration order is libcloud's.
    pub enum NodeState {
        Running = "running", "Running";
        Starting = "starting", "Starting";
        Rebooting = "rebooting", "Rebooting";
        Terminated = "terminated", "Terminated";
        Pending = "pending", "Pending";
        Unknown = "unknown", "Unknown";
        Stopping = "stopping", "Stopping";
        Stopped = "stopped", "Stopped";
        Suspended = "suspended", "Suspended";
        Error = "error", "Error";
        Paused = "paused", "Paused";
        Reconfiguring = "reconfiguring", "Reconfiguring";
        Migrating = "migrating", "Migrating";
        Normal = "normal", "Normal";
        Updating = "updating", "Updating";
    }
}

impl NodeState {
    /// The number of the state before libcloud 1.0, 0 to 8. States that never had one take that of the nearest.
    pub fn number(self) -> u8 {
        match self {
            Self::Running | Self::Normal => 0,
            Self::Rebooting => 1,
            Self::Terminated => 2,
            Self::Pending
            | Self::Starting
            | Self::Stopping
            | Self::Reconfiguring
            | Self::Migrating
            | Self::Updating => 3,
            Self::Unknown => 4,
            Self::Stopped => 5,
            Self::Suspended => 6,
            Self::Error => 7,
            Self::Paused => 8,
        }
    }

    /// The number for clients of libcloud 0.12, which knew 0 to 4 only; every other state is unknown (4) to them.
    pub fn number_0_12(self) -> u8 {
        match self {
            Self::Normal => 4,
            state if state.number() > 4 => 4,
            state => state.number(),
        }
    }

    /// The state of OpenStack's word for it; a word that nobody has heard of is `Unknown`.
    pub fn from_openstack(word: &str) -> Self {
        match word {
            "ACTIVE" | "VERIFY_RESIZE" => Self::Running,
            "BUILD" | "REBUILD" | "QUEUE_RESIZE" | "PREP_RESIZE" | "PASSWORD" | "RESCUE" => Self::Pending,
            "REBOOT" | "HARD_REBOOT" => Self::Rebooting,
            "RESIZE" => Self::Reconfiguring,
            "MIGRATING" => Self::Migrating,
            "SUSPENDED" => Self::Suspended,
            "PAUSED" => Self::Paused,
            "SHUTOFF" | "SHELVED" | "SHELVED_OFFLOADED" => Self::Stopped,
            "DELETED" | "SOFT_DELETED" => Self::Terminated,
            "ERROR" => Self::Error,
            _ => Self::Unknown,
        }
    }

    /// The state of EC2's word for it; a word that nobody has heard of is `Unknown`.
    pub fn from_ec2(word: &str) -> Self {
        match word {
            "pending" => Self::Pending,
            "running" => Self::Running,
            // `shutting-down` stays unknown, as libcloud's own table has it.
            "stopping" => Self::Stopping,
            "stopped" => Self::Stopped,
            "terminated" => Self::Terminated,
            _ => Self::Unknown,
        }
    }

    /// Whether a machine in this state runs, for inventory.
    pub fn power(self) -> PowerState {
        match self {
            Self::Running | Self::Rebooting | Self::Migrating | Self::Updating | Self::Normal => PowerState::Running,
            Self::Stopped | Self::Terminated => PowerState::Stopped,
            Self::Paused => PowerState::Paused,
            Self::Suspended => PowerState::Suspended,
            Self::Starting | Self::Pending | Self::Stopping | Self::Unknown | Self::Error | Self::Reconfiguring => {
                PowerState::Unknown
            }
        }
    }

    /// The state of a machine that inventory knows.
    pub fn of_power(power: PowerState) -> Self {
        match power {
            PowerState::Running => Self::Running,
            PowerState::Stopped => Self::Stopped,
            PowerState::Paused => Self::Paused,
            PowerState::Suspended => Self::Suspended,
            PowerState::Unknown => Self::Unknown,
        }
    }
}

crate::described_enum! {
    /// Where a volume is.
    pub enum VolumeState {
        Available = "available", "Available";
        Error = "error", "Error";
        /// Without a blank or a dash, as libcloud spells it today.
        InUse = "inuse", "In use";
        Creating = "creating", "Creating";
        Deleting = "deleting", "Deleting";
        Deleted = "deleted", "Deleted";
        Backup = "backup", "Being backed up";
        Attaching = "attaching", "Attaching";
        Unknown = "unknown", "Unknown";
        Migrating = "migrating", "Migrating";
        Updating = "updating", "Updating";
    }
}

impl VolumeState {
    /// The number of the state before libcloud 1.0; those that never had one are unknown (8).
    pub fn number(self) -> u8 {
        match self {
            Self::Available => 0,
            Self::Error => 1,
            Self::InUse => 2,
            Self::Creating => 3,
            Self::Deleting => 4,
            Self::Deleted => 5,
            Self::Backup => 6,
            Self::Attaching => 7,
            Self::Unknown | Self::Migrating | Self::Updating => 8,
        }
    }
}

impl Aliased for VolumeState {
    const KIND: &'static str = "volume state";
    const ALIASES: &'static [(&'static str, Self)] = &[("in_use", Self::InUse), ("in-use", Self::InUse)];
}

crate::described_enum! {
    /// Where a snapshot of a volume is.
    pub enum VolumeSnapshotState {
        Available = "available", "Available";
        Error = "error", "Error";
        Creating = "creating", "Creating";
        Deleting = "deleting", "Deleting";
        Restoring = "restoring", "Restoring";
        Unknown = "unknown", "Unknown";
        Updating = "updating", "Updating";
    }
}

impl VolumeSnapshotState {
    /// The number of the state before libcloud 1.0; one that never had any is unknown (5).
    pub fn number(self) -> u8 {
        match self {
            Self::Available => 0,
            Self::Error => 1,
            Self::Creating => 2,
            Self::Deleting => 3,
            Self::Restoring => 4,
            Self::Unknown | Self::Updating => 5,
        }
    }
}

crate::described_enum! {
    /// Whether someone whom an image is shared with has taken it.
    pub enum ImageMemberState {
        Accepted = "accepted", "Accepted";
        Pending = "pending", "Pending";
        Rejected = "rejected", "Rejected";
    }
}

crate::described_enum! {
    /// The processor architecture of an image.
    pub enum Architecture {
        I386 = "I386", "32-bit x86";
        X86_64 = "X86_64", "64-bit x86";
    }
}

impl Architecture {
    /// libcloud's number for it.
    pub fn number(self) -> u8 {
        match self {
            Self::I386 => 0,
            Self::X86_64 => 1,
        }
    }
}

crate::described_enum! {
    /// How a new node may be logged in to.
    pub enum CreateNodeFeature {
        SshKey = "ssh_key", "An SSH key may be given";
        Password = "password", "A password may be given";
        GeneratesPassword = "generates_password", "The provider makes a password";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::Describe;

    #[test]
    fn numbers_are_those_of_the_old_versions() {
        let numbers: Vec<_> = NodeState::TABLE.iter().map(|row| (row.1, row.0.number(), row.0.number_0_12())).collect();
        assert_eq!(
            numbers,
            [
                ("running", 0, 0),
                ("starting", 3, 3),
                ("rebooting", 1, 1),
                ("terminated", 2, 2),
                ("pending", 3, 3),
                ("unknown", 4, 4),
                ("stopping", 3, 3),
                ("stopped", 5, 4),
                ("suspended", 6, 4),
                ("error", 7, 4),
                ("paused", 8, 4),
                ("reconfiguring", 3, 3),
                ("migrating", 3, 3),
                ("normal", 0, 4),
                ("updating", 3, 3),
            ]
        );
        let volumes: Vec<_> = VolumeState::TABLE.iter().map(|row| row.0.number()).collect();
        assert_eq!(volumes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8]);
    }

    #[test]
    fn an_unheard_of_word_is_unknown_and_never_an_error() {
        assert_eq!(NodeState::from_openstack("NEW_WORD"), NodeState::Unknown);
        assert_eq!(NodeState::from_ec2(""), NodeState::Unknown);
        assert_eq!(NodeState::from_openstack("VERIFY_RESIZE"), NodeState::Running);
        assert_eq!(VolumeState::parse("in_use"), Ok(VolumeState::InUse));
    }

    #[test]
    fn power_survives_the_way_there_and_back() {
        for (power, ..) in PowerState::TABLE {
            assert_eq!(NodeState::of_power(*power).power(), *power);
        }
    }
}
