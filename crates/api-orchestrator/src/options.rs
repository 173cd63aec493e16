//! How the dialect is served.

use crate::error::shape_fault;
use crate::host::HostCheck;
use portolan_http::Edge;
use std::fmt;
use std::time::Duration;

/// Longest body that the transport reads, in bytes. More than [`LONGEST_BODY`], so that a client that sends all of its
/// body before it reads gets an answer and no reset connection.
const LONGEST_READ: usize = 16 << 20;
/// Longest body that is looked at, in bytes.
pub(crate) const LONGEST_BODY: usize = 1 << 20;
/// How much longer the transport waits than the use case.
const MARGIN: Duration = Duration::from_secs(10);

/// How the dialect is served.
#[derive(Clone)]
pub struct OrchestratorOptions {
    /// Name of the platform that `default` stands for, and a path without a cloud. Without it, `default` is a platform
    /// of that very name.
    pub default_cloud: Option<String>,
    /// Whether real platforms, too, are served to requests without credentials. The dummy's always are.
    pub open: bool,
    /// Whether nothing at all is served to requests without credentials.
    pub auth_required: bool,
    /// The hosts that requests may be meant for.
    pub hosts: HostCheck,
    /// How long a start or a stop may keep its client waiting. Below the transport's own limit.
    pub within: Duration,
    /// How long after a release its node is destroyed, by the rules of the use cases.
    pub release_delay: Duration,
    /// How long a release may keep its client waiting beyond that delay.
    pub release_within: Duration,
    /// Signs the session cookie; the same on every process that serves the dialect.
    pub cookie_key: [u8; 32],
    /// Whether the listener speaks TLS: then the cookie is `Secure`.
    pub secure: bool,
}

impl OrchestratorOptions {
    /// `default` as a platform's name, open on the dummy only, 50 s for a start, a stop, and a release beyond its delay
    /// of 25 s.
    pub fn new(hosts: HostCheck, cookie_key: [u8; 32]) -> Self {
        let within = Duration::from_secs(50);
        Self {
            default_cloud: None,
            open: false,
            auth_required: false,
            hosts,
            within,
            release_delay: Duration::from_secs(25),
            release_within: within,
            cookie_key,
            secure: false,
        }
    }

    /// The edge with the limits of this dialect: its faults, bodies that are read to their end before they are refused,
    /// and time for what may take long.
    #[must_use]
    pub fn edge(&self, edge: Edge) -> Edge {
        let mut edge = edge.faults(shape_fault).body_limit(LONGEST_READ);
        for (path, within) in [
            ("/api/v1/vm/start", self.within),
            ("/api/v1/vm/stop", self.within),
            ("/api/v1/vm/action/release", self.release_delay + self.release_within),
        ] {
            let limit = Some(within + MARGIN);
            edge = edge.timeout_for(path, limit).timeout_for(format!("{path}/{{cloud}}"), limit);
        }
        edge
    }
}

impl fmt::Debug for OrchestratorOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrchestratorOptions")
            .field("default_cloud", &self.default_cloud)
            .field("open", &self.open)
            .field("auth_required", &self.auth_required)
            .field("hosts", &self.hosts)
            .field("within", &self.within)
            .field("release_delay", &self.release_delay)
            .field("release_within", &self.release_within)
            .field("secure", &self.secure)
            .finish_non_exhaustive()
    }
}
