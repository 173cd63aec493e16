//! A cloud as a platform that inventory can read.

use super::data::{CloudNode, Extra};
use super::port::CloudInfo;
use crate::{Inventory, NativeNic, NativeVm};
use portolan_model::dialect::libcloud::NodeState;
use serde_json::Value;
use std::borrow::Borrow;

/// What inventory sees of a cloud: its nodes as machines on no host and in no cluster, with a card `public` and a
/// card `private` where they have such addresses. `nodes` must be the whole list.
///
/// A terminated node is gone, though some providers list it for an hour: it is left out. A node in a state that
/// nobody has heard of is listed, and named in [`Inventory::problems`].
pub fn listing<N: Borrow<CloudNode>>(info: &CloudInfo, nodes: &[N]) -> Inventory {
    let nodes = || nodes.iter().map(Borrow::borrow);
    let living = nodes().filter(|node| node.state != NodeState::Terminated);
    let problems = nodes().filter_map(|node| strange(info, node)).collect();
    Inventory { vms: living.map(machine).collect(), problems, ..Inventory::default() }
}

fn machine(node: &CloudNode) -> NativeVm {
    NativeVm {
        native_id: node.id.clone(),
        incarnation: node.incarnation.clone(),
        name: node.name.clone(),
        host: None,
        cluster: None,
        power: node.state.power(),
        disks: Vec::new(),
        nics: [("public", &node.public_ips), ("private", &node.private_ips)]
            .into_iter()
            .filter(|(_, addresses)| !addresses.is_empty())
            .map(|(name, addresses)| NativeNic {
                name: name.to_owned(),
                mac: String::new(),
                addresses: addresses.clone(),
            })
            .collect(),
        cpus: 0,
        memory_bytes: 0,
        tags: tags(&node.extra),
    }
}

/// What providers keep under `tags`: a list of words, or words with values, `key=value`.
fn tags(extra: &Extra) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match extra.get("tags") {
        Some(Value::Array(words)) => words.iter().filter_map(text).collect(),
        Some(Value::Object(pairs)) => {
            pairs.iter().filter_map(|(key, value)| Some(format!("{key}={}", text(value)?))).collect()
        }
        _ => Vec::new(),
    }
}

fn strange(info: &CloudInfo, node: &CloudNode) -> Option<String> {
    if node.state != NodeState::Unknown {
        return None;
    }
    let word = node.extra.get("state").and_then(Value::as_str)?;
    Some(format!("{}: node '{}' ({}) is in the unknown state '{word}'", info.display_name, node.name, node.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_model::vm::PowerState;
    use serde_json::json;

    fn node(id: &str, state: NodeState, extra: Value) -> CloudNode {
        CloudNode {
            id: id.to_owned(),
            incarnation: format!("i-{id}"),
            name: format!("node-{id}"),
            state,
            public_ips: vec!["192.0.2.1".to_owned()],
            private_ips: Vec::new(),
            size: None,
            image: None,
            created: None,
            token: None,
            extra: extra.as_object().cloned().unwrap_or_default(),
        }
    }

    #[test]
    fn nodes_become_machines() {
        let info = CloudInfo { provider: "dummy", display_name: "Dummy", host: "127.0.0.1".to_owned() };
        let mut second = node("2", NodeState::Unknown, json!({ "state": "TELEPORTING", "tags": { "a": "b", "c": 1 } }));
        second.private_ips = vec!["10.0.0.2".to_owned(), "fd00::2".to_owned()];
        let nodes = [
            node("1", NodeState::Running, json!({ "tags": ["web", 3, "db"] })),
            second,
            node("3", NodeState::Terminated, json!({})),
        ];
        let listing = listing(&info, &nodes);
        assert!(listing.clusters.is_empty() && listing.hosts.is_empty() && listing.datastores.is_empty());
        let [one, two] = &listing.vms[..] else { panic!("{:?}", listing.vms) };
        assert_eq!((one.native_id.as_str(), one.incarnation.as_str(), one.name.as_str()), ("1", "i-1", "node-1"));
        assert_eq!((one.power, two.power), (PowerState::Running, PowerState::Unknown));
        assert_eq!(one.tags, ["web", "db"]);
        assert_eq!(two.tags, ["a=b"]);
        let nics: Vec<_> = two.nics.iter().map(|n| (n.name.as_str(), n.addresses.len())).collect();
        assert_eq!(nics, [("public", 1), ("private", 2)]);
        assert_eq!(one.nics.len(), 1);
        assert_eq!(listing.problems, ["Dummy: node 'node-2' (2) is in the unknown state 'TELEPORTING'"]);
    }
}
