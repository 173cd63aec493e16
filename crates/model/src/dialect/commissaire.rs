//! Commissaire's enums.

use super::Aliased;
use crate::lifecycle::Lifecycle;

crate::described_enum! {
    /// Where an operation on a cluster (deploy, upgrade, restart) is.
    pub enum OperationStatus {
        InProcess = "in_process", "In process";
        Finished = "finished", "Finished";
        Failed = "failed", "Failed";
    }
}

impl Lifecycle for OperationStatus {
    const MACHINE: &'static str = "cluster operation";
    const MOVES: &'static [(Self, &'static [Self])] =
        &[(Self::InProcess, &[Self::Finished, Self::Failed]), (Self::Finished, &[]), (Self::Failed, &[])];
}

crate::described_enum! {
    /// What an operation does to the hosts of a cluster; also the last part of its path.
    pub enum OperationKind {
        Deploy = "deploy", "Deploy";
        Upgrade = "upgrade", "Upgrade";
        Restart = "restart", "Restart";
    }
}

impl OperationKind {
    /// The member of the operation's record that lists the hosts that are done.
    pub fn done_member(self) -> &'static str {
        match self {
            Self::Deploy => "deployed",
            Self::Upgrade => "upgraded",
            Self::Restart => "restarted",
        }
    }
}

crate::described_enum! {
    /// Where a managed host is.
    pub enum HostStatus {
        Investigating = "investigating", "Investigating";
        Bootstrapping = "bootstrapping", "Bootstrapping";
        /// Ready, and registered with no container manager.
        Disassociated = "disassociated", "Disassociated";
        /// Bootstrapped, not yet seen by the container manager.
        Inactive = "inactive", "Inactive";
        Active = "active", "Active";
        Failed = "failed", "Failed";
    }
}

impl HostStatus {
    /// Whether a host in this state may join a cluster.
    pub fn may_join(self) -> bool {
        matches!(self, Self::Active | Self::Disassociated)
    }
}

impl Lifecycle for HostStatus {
    const MACHINE: &'static str = "host";
    const MOVES: &'static [(Self, &'static [Self])] = {
        use HostStatus::*;
        &[
            (Investigating, &[Bootstrapping, Failed]),
            (Bootstrapping, &[Disassociated, Inactive, Active, Failed]),
            (Disassociated, &[Inactive, Active, Failed, Investigating]),
            (Inactive, &[Active, Disassociated, Failed, Investigating]),
            (Active, &[Disassociated, Inactive, Failed, Investigating]),
            // A failed host that answers again goes back to what it was.
            (Failed, &[Investigating, Bootstrapping, Disassociated, Inactive, Active]),
        ]
    };
}

crate::described_enum! {
    /// How a cluster is, computed from its hosts.
    pub enum ClusterStatus {
        Ok = "ok", "All hosts are active, or there are none";
        Degraded = "degraded", "Some hosts are not active";
        Failed = "failed", "No host is active";
    }
}

impl ClusterStatus {
    /// The status of a cluster with `total` hosts, of which `active` are active. Only active hosts count as
    /// available: a disassociated one does not.
    pub fn of(total: usize, active: usize) -> Self {
        if active >= total {
            Self::Ok
        } else if active > 0 {
            Self::Degraded
        } else {
            Self::Failed
        }
    }
}

crate::described_enum! {
    /// How a cluster's hosts are put on one network.
    pub enum NetworkType {
        FlannelEtcd = "flannel_etcd", "Flannel over etcd";
        FlannelServer = "flannel_server", "Flannel with a server";
    }
}

impl Aliased for NetworkType {
    const KIND: &'static str = "network type";
    const ALIASES: &'static [(&'static str, Self)] = &[("flanneld_service", Self::FlannelServer)];
}

crate::described_enum! {
    /// The kind of a container manager.
    pub enum ContainerManagerType {
        OpenShift = "openshift", "OpenShift";
        Kubernetes = "kubernetes", "Kubernetes";
        /// Keeps its nodes in memory; for trials.
        Trivial = "trivial", "Trivial";
    }
}

crate::described_enum! {
    /// The type that clients still send with a cluster, and that nothing depends on.
    pub enum ClusterType {
        Kubernetes = "kubernetes", "Kubernetes";
        HostOnly = "host_only", "Hosts only";
    }
}

crate::described_enum! {
    /// Operating systems of hosts that there are commands for.
    pub enum HostOs {
        Fedora = "fedora", "Fedora";
        CentOs = "centos", "CentOS";
        Rhel = "rhel", "Red Hat Enterprise Linux";
        RedHat = "redhat", "Red Hat";
        Atomic = "atomic", "Atomic Host";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_as_well_as_its_active_hosts() {
        let status = |total, active| ClusterStatus::of(total, active).to_string();
        assert_eq!(
            [status(0, 0), status(2, 2), status(2, 1), status(2, 0)],
            ["ok", "ok", "degraded", "failed"].map(str::to_owned)
        );
    }

    #[test]
    fn the_word_of_the_documentation_is_accepted_for_the_network() {
        assert_eq!(NetworkType::parse("flanneld_service"), Ok(NetworkType::FlannelServer));
        assert_eq!(NetworkType::parse("x").unwrap_err().to_string(), "'x' is not a network type");
    }
}
