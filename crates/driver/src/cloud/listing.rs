//! A cloud's nodes as a platform's listing.

use super::data::CloudNode;
use super::port::CloudInfo;
use crate::{Inventory, NativeNic, NativeVm};

/// What a sync takes a cloud for: machines without cluster, host or disks.
pub fn listing(info: &CloudInfo, nodes: &[CloudNode]) -> Inventory {
    Inventory { vms: nodes.iter().map(|node| machine(info, node)).collect(), ..Inventory::default() }
}

fn machine(info: &CloudInfo, node: &CloudNode) -> NativeVm {
    let nic = |name: &str, addresses: &[String]| {
        let nic = NativeNic { name: name.into(), mac: String::new(), addresses: addresses.to_vec() };
        (!addresses.is_empty()).then_some(nic)
    };
    NativeVm {
        native_id: node.id.clone(),
        incarnation: node.incarnation.clone(),
        name: node.name.clone(),
        host: None,
        cluster: None,
        power: node.state.power(),
        disks: Vec::new(),
        nics: [nic("public", &node.public_ips), nic("private", &node.private_ips)].into_iter().flatten().collect(),
        cpus: 0,
        memory_bytes: 0,
        tags: vec![info.provider.to_owned()],
    }
}
