//! What the dummy offers: the data of libcloud's driver of that name.

use crate::cloud::{CloudImage, CloudLocation, CloudNode, CloudSize, Extra};
use portolan_model::dialect::libcloud::NodeState;
use serde_json::json;
use std::net::Ipv4Addr;

/// The fingerprint of every key pair.
pub(super) const FINGERPRINT: &str = "fingerprint";
/// The private half of every key pair.
pub(super) const PRIVATE_KEY: &str = "private_key";

pub(super) fn images() -> Vec<CloudImage> {
    [("1", "Ubuntu 9.10"), ("2", "Ubuntu 9.04"), ("3", "Slackware 4")]
        .into_iter()
        .map(|(id, name)| CloudImage {
            id: id.to_owned(),
            name: name.to_owned(),
            architecture: None,
            size_bytes: 0,
            extra: Extra::new(),
        })
        .collect()
}

pub(super) fn sizes() -> Vec<CloudSize> {
    [
        ("1", "Small", 128, 4, 500, 4),
        ("2", "Medium", 512, 16, 1500, 8),
        ("3", "Big", 4096, 32, 2500, 32),
        ("4", "XXL Big", 8192, 128, 7500, 64),
    ]
    .into_iter()
    .map(|(id, name, ram_mb, disk_gb, bandwidth, dollars)| CloudSize {
        id: id.to_owned(),
        name: name.to_owned(),
        cpus: None,
        ram_mb,
        disk_gb,
        bandwidth_gb: Some(bandwidth),
        price_micros: Some(dollars * 1_000_000),
        extra: Extra::new(),
    })
    .collect()
}

pub(super) fn locations() -> Vec<CloudLocation> {
    [("1", "Paul's Room", "US"), ("2", "London Loft", "GB"), ("3", "Island Datacenter", "FJ")]
        .into_iter()
        .map(|(id, name, country)| CloudLocation {
            id: id.to_owned(),
            name: name.to_owned(),
            country: country.to_owned(),
            extra: Extra::new(),
        })
        .collect()
}

/// The nodes that the cloud begins with: id and address, in order. With nothing asked for, two of one address.
pub(super) fn first_nodes(asked: u32) -> Vec<(u64, Ipv4Addr)> {
    match asked {
        0 => [1, 2].map(|id| (id, Ipv4Addr::LOCALHOST)).into(),
        asked => (0..asked).map(|id| (u64::from(id), address(u64::from(id) + 1))).collect(),
    }
}

/// The address `127.0.0.<n>`. Past 255 it goes on in the next octet, where the original made text that is no
/// address.
pub(super) fn address(n: u64) -> Ipv4Addr {
    let n = u32::try_from(n).unwrap_or(u32::MAX).min(0x00ff_ffff);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 0, 0)) | n)
}

/// A running node.
pub(super) fn node(id: u64, address: Ipv4Addr, incarnation: String) -> CloudNode {
    let mut extra = Extra::new();
    extra.insert("foo".to_owned(), json!("bar"));
    CloudNode {
        id: id.to_string(),
        incarnation,
        name: format!("dummy-{id}"),
        state: NodeState::Running,
        public_ips: vec![address.to_string()],
        private_ips: Vec::new(),
        size: None,
        image: None,
        created: None,
        token: None,
        extra,
    }
}
