//! Orchestrator's enums. Its node states are libcloud's, see [`super::libcloud::NodeState`].

crate::described_enum! {
    /// The `status` member of every answer.
    pub enum AnswerStatus {
        Ok = "ok", "Ok";
        Error = "error", "Error";
    }
}

crate::described_enum! {
    /// What a list request asks for: the first part of its path.
    pub enum Listing {
        Nodes = "nodes", "Nodes";
        Images = "images", "Images";
        Sizes = "sizes", "Sizes";
        Flavors = "flavors", "Sizes, by another name";
        Tenants = "tenants", "Tenants";
    }
}

impl Listing {
    /// The member of the answer that holds the list: sizes come as `flavors` whichever word asked.
    pub fn member(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Images => "images",
            Self::Sizes | Self::Flavors => "flavors",
            Self::Tenants => "tenants",
        }
    }
}

crate::described_enum! {
    /// What can be done to a node's assignment.
    pub enum NodeAction {
        Assign = "assign", "Assign a node to a user";
        Release = "release", "Take a node back, and destroy it";
    }
}

crate::described_enum! {
    /// The kinds of cloud that a configuration may name.
    pub enum Engine {
        Dummy = "dummy", "Dummy Node Provider";
        OpenStack = "openstack", "OpenStack";
        Eucalyptus = "eucalyptus", "Eucalyptus";
        Rackspace = "rackspace", "Rackspace";
        Ec2UsWest = "ec2_us_west", "Amazon EC2 (us-west)";
        Ec2UsEast = "ec2_us_east", "Amazon EC2 (us-east)";
        Ec2EuWest = "ec2_eu_west", "Amazon EC2 (eu-west)";
        Ec2EuEast = "ec2_eu_east", "Amazon EC2 (eu-east)";
    }
}

crate::described_enum! {
    /// Whether an assignable node is taken.
    pub enum AssignmentStatus {
        Free = "FREE", "Free";
        Assigned = "ASSIGNED", "Assigned";
        Faulty = "FAULTY", "Faulty";
    }
}

impl AssignmentStatus {
    /// The number that answers carry beside the word. Clients depend on 1 for a free node alone.
    pub fn number(self) -> u8 {
        match self {
            Self::Free => 1,
            Self::Assigned => 2,
            Self::Faulty => 3,
        }
    }
}
