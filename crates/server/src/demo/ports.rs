//! Free ports.

use std::net::{Ipv4Addr, TcpListener};

/// The usual port of the vPlus API.
pub const VPLUS: u16 = 8181;
/// The usual port of the Orchestrator API.
pub const ORCHESTRATOR: u16 = 5050;
/// The usual port of health and metrics.
pub const MANAGEMENT: u16 = 9180;

/// The usual port on the loopback where it is free, else any that is.
pub fn free(usual: u16) -> u16 {
    let local = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|l| l.local_addr());
    // Whoever takes it between here and the server's own bind is named by that one's error.
    local(usual).or_else(|_| local(0)).map_or(usual, |address| address.port())
}
