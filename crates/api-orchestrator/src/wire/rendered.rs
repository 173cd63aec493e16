//! Lists of nodes that were rendered before: most of a list is as it was a moment ago, and putting a thousand nodes
//! into words costs more than asking the cloud for them.

use super::cloud::Node;
use super::format::{Style, bytes_at};
use bytes::Bytes;
use portolan::driver::CloudNode;
use portolan::inventory::CloudView;
use portolan_model::PlatformId;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// The last list of each cloud in each layout. What a node says decides whether its words are still right, so no
/// answer is ever of the time before.
#[derive(Default)]
pub(crate) struct Rendered(Mutex<HashMap<(PlatformId, bool), Arc<Last>>>);

#[derive(Default)]
struct Last {
    provider: (&'static str, &'static str),
    nodes: Vec<CloudNode>,
    /// Where each is in the text.
    places: Vec<Range<usize>>,
    text: Bytes,
}

impl Last {
    /// The words for a node, where it was rendered as it is: looked for in its old place first.
    fn words<'a>(
        &'a self,
        node: &CloudNode,
        at: usize,
        by_id: &mut Option<HashMap<&'a str, usize>>,
    ) -> Option<&'a [u8]> {
        let same = |n: usize| self.nodes.get(n).is_some_and(|last| last == node);
        let place = if same(at) {
            at
        } else {
            let ids = || self.nodes.iter().enumerate().map(|(n, node)| (node.id.as_str(), n)).collect();
            *by_id.get_or_insert_with(ids).get(node.id.as_str()).filter(|n| same(**n))?
        };
        self.text.get(self.places.get(place)?.clone())
    }
}

impl Rendered {
    /// The list of a cloud's nodes, as [`super::cloud::Nodes`] is serialised.
    ///
    /// # Errors
    /// A node that cannot be put into JSON.
    pub(crate) fn nodes(
        &self,
        cloud: &CloudView,
        nodes: Vec<CloudNode>,
        style: Style,
    ) -> Result<Bytes, serde_json::Error> {
        let key = (cloud.id, style == Style::Indented);
        let provider = (cloud.provider, cloud.display_name);
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned().unwrap_or_default();
        let last = if last.provider == provider { last } else { Arc::default() };
        if !last.text.is_empty() && last.nodes == nodes {
            return Ok(last.text.clone());
        }
        let (before, between, first, after): (&[u8], &[u8], &[u8], &[u8]) = match style {
            Style::Indented if nodes.is_empty() => (b"{\n  \"nodes\": [", b"", b"", b"],\n  \"status\": \"ok\"\n}"),
            Style::Indented => (b"{\n  \"nodes\": [", b",\n    ", b"\n    ", b"\n  ],\n  \"status\": \"ok\"\n}"),
            Style::OneLine => (b"{\"nodes\": [", b", ", b"", b"], \"status\": \"ok\"}"),
        };
        let mut text = Vec::with_capacity(last.text.len() + last.text.len() / 16 + 1024);
        text.extend_from_slice(before);
        let (mut places, mut by_id) = (Vec::with_capacity(nodes.len()), None);
        for (n, node) in nodes.iter().enumerate() {
            text.extend_from_slice(if n == 0 { first } else { between });
            let start = text.len();
            match last.words(node, n, &mut by_id) {
                Some(words) => text.extend_from_slice(words),
                None => bytes_at(&Node::new(cloud, node), style, 2, &mut text)?,
            }
            places.push(start..text.len());
        }
        text.extend_from_slice(after);
        let text = Bytes::from(text);
        let new = Arc::new(Last { provider, nodes, places, text: text.clone() });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, new);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::cloud::Nodes;
    use crate::wire::format::{Memory, bytes};
    use portolan_model::dialect::libcloud::NodeState;
    use proptest::prelude::*;

    fn node(id: u8, name: &str, deep: bool) -> CloudNode {
        let mut extra = portolan::driver::Extra::new();
        if deep {
            extra.insert("b".into(), serde_json::json!({ "x": [1, { "y": [] }], "a": {} }));
            extra.insert("a".into(), serde_json::json!(1.5));
        }
        CloudNode {
            id: id.to_string(),
            incarnation: String::new(),
            name: name.to_owned(),
            state: NodeState::Running,
            public_ips: if deep { vec!["127.0.0.1".into()] } else { Vec::new() },
            private_ips: Vec::new(),
            size: None,
            image: None,
            created: None,
            token: None,
            extra,
        }
    }

    proptest! {
        /// Whatever was listed before, the text is that of the list at hand, to the byte.
        #[test]
        fn a_list_is_rendered_as_if_it_were_the_first(
            lists in prop::collection::vec(prop::collection::vec((0..6_u8, "[a\u{fc}\"]{0,3}", any::<bool>()), 0..6), 1..8),
        ) {
            let cloud = CloudView {
                id: "00000000-0000-0000-0000-000000000001".parse().unwrap(),
                name: "c".into(),
                driver: "dummy".into(),
                provider: "dummy",
                display_name: "Dummy",
                host: String::new(),
            };
            let rendered = Rendered::default();
            for list in lists {
                let nodes: Vec<CloudNode> = list.iter().map(|(id, name, deep)| node(*id, name, *deep)).collect();
                for style in [Style::Indented, Style::OneLine] {
                    let plain = bytes(&Nodes::new(&cloud, &nodes), style, &Memory::new()).unwrap();
                    let twice = [(); 2].map(|()| rendered.nodes(&cloud, nodes.clone(), style).unwrap());
                    prop_assert_eq!(String::from_utf8_lossy(&twice[0]), String::from_utf8_lossy(&plain));
                    prop_assert_eq!(&twice[1], &twice[0]);
                }
            }
        }
    }
}
