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
    nodes: Vec<Arc<CloudNode>>,
    /// Where each is in the text.
    places: Vec<Range<usize>>,
    text: Bytes,
}

impl Rendered {
    /// The list of a cloud's nodes, as [`super::cloud::Nodes`] is serialised.
    ///
    /// # Errors
    /// A node that cannot be put into JSON.
    pub(crate) fn nodes(
        &self,
        cloud: &CloudView,
        nodes: Vec<Arc<CloudNode>>,
        style: Style,
    ) -> Result<Bytes, serde_json::Error> {
        let key = (cloud.id, style == Style::Indented);
        let provider = (cloud.provider, cloud.display_name);
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned().unwrap_or_default();
        let last = if last.provider == provider { last } else { Arc::default() };
        let unchanged = last.nodes.len() == nodes.len() && last.nodes.iter().zip(&nodes).all(|(a, b)| same(a, b));
        if unchanged && !last.text.is_empty() {
            return Ok(last.text.clone());
        }
        let mut text = Text::after(&last, style, nodes.len());
        let (mut found, mut run) = (Found::within(&last), 0..0);
        for node in &nodes {
            match found.place_of(node) {
                Some(place) if place == run.end => run.end += 1,
                place => {
                    text.copy(std::mem::replace(&mut run, place.map_or(0..0, |place| place..place + 1)));
                    if place.is_none() {
                        text.render(cloud, node)?;
                    }
                }
            }
        }
        text.copy(run);
        let (text, places) = text.end();
        let new = Arc::new(Last { provider, nodes, places, text: text.clone() });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, new);
        Ok(text)
    }
}

/// Whether a node is as it was: the very same one, as drivers give it that remember their nodes, or an equal one.
fn same(a: &Arc<CloudNode>, b: &Arc<CloudNode>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// Finds the nodes of a list in the last one.
struct Found<'a> {
    last: &'a Last,
    /// The place that comes after the last one that was found.
    next: usize,
    /// How many places nothing was found at yet.
    left: usize,
    by_id: Option<HashMap<&'a str, usize>>,
}

impl<'a> Found<'a> {
    fn within(last: &'a Last) -> Self {
        Self { last, next: 0, left: last.nodes.len(), by_id: None }
    }

    /// The place of a node that is as it was. Nodes mostly come in the order that they came in, where one has gone
    /// the next one is looked at, and only what is at neither place is looked for.
    fn place_of(&mut self, node: &Arc<CloudNode>) -> Option<usize> {
        let is_at = |place: usize| self.last.nodes.get(place).is_some_and(|last| same(last, node));
        let place = if self.left == 0 {
            return None;
        } else if is_at(self.next) {
            self.next
        } else if is_at(self.next + 1) {
            self.next + 1
        } else if self.last.nodes.get(self.next).is_some_and(|last| last.id == node.id) {
            // Itself, and it has changed.
            (self.next, self.left) = (self.next + 1, self.left - 1);
            return None;
        } else {
            let ids = || self.last.nodes.iter().enumerate().map(|(n, node)| (node.id.as_str(), n)).collect();
            *self.by_id.get_or_insert_with(ids).get(node.id.as_str()).filter(|place| is_at(**place))?
        };
        (self.next, self.left) = (place + 1, self.left.saturating_sub(1));
        Some(place)
    }
}

/// A list that is being written.
struct Text<'a> {
    last: &'a Last,
    style: Style,
    first: &'static [u8],
    between: &'static [u8],
    after: &'static [u8],
    bytes: Vec<u8>,
    places: Vec<Range<usize>>,
}

impl<'a> Text<'a> {
    /// A list of so many nodes that comes after the last one.
    fn after(last: &'a Last, style: Style, nodes: usize) -> Self {
        let (before, first, between, after): (&[u8], &[u8], &[u8], &[u8]) = match style {
            Style::Indented if nodes == 0 => (b"{\n  \"nodes\": [", b"", b"", b"],\n  \"status\": \"ok\"\n}"),
            Style::Indented => (b"{\n  \"nodes\": [", b"\n    ", b",\n    ", b"\n  ],\n  \"status\": \"ok\"\n}"),
            Style::OneLine => (b"{\"nodes\": [", b"", b", ", b"], \"status\": \"ok\"}"),
        };
        let mut bytes = Vec::with_capacity(last.text.len() + last.text.len() / 16 + 1024);
        bytes.extend_from_slice(before);
        Self { last, style, first, between, after, bytes, places: Vec::with_capacity(nodes) }
    }

    /// Puts in place what comes between two nodes; answers where the next one begins.
    fn separate(&mut self) -> usize {
        self.bytes.extend_from_slice(if self.places.is_empty() { self.first } else { self.between });
        self.bytes.len()
    }

    /// Adds nodes that were next to each other in the last list, in the words of then.
    fn copy(&mut self, run: Range<usize>) {
        let Some(places) = self.last.places.get(run) else { return };
        let (Some(first), Some(last)) = (places.first(), places.last()) else { return };
        let Some(words) = self.last.text.get(first.start..last.end) else { return };
        let start = self.separate();
        self.bytes.extend_from_slice(words);
        let moved = |at: usize| at - first.start + start;
        self.places.extend(places.iter().map(|place| moved(place.start)..moved(place.end)));
    }

    /// Adds a node in new words.
    fn render(&mut self, cloud: &CloudView, node: &CloudNode) -> Result<(), serde_json::Error> {
        let start = self.separate();
        bytes_at(&Node::new(cloud, node), self.style, 2, &mut self.bytes)?;
        self.places.push(start..self.bytes.len());
        Ok(())
    }

    /// The whole list, and where each node is in it.
    fn end(mut self) -> (Bytes, Vec<Range<usize>>) {
        self.bytes.extend_from_slice(self.after);
        (self.bytes.into(), self.places)
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

    fn cloud() -> CloudView {
        CloudView {
            id: "00000000-0000-0000-0000-000000000001".parse().unwrap(),
            name: "c".into(),
            driver: "dummy".into(),
            provider: "dummy",
            display_name: "Dummy",
            host: String::new(),
        }
    }

    /// Lists a cloud twice in each layout, and holds what is answered against what serde makes of it.
    fn hold(rendered: &Rendered, nodes: &[Arc<CloudNode>]) -> Result<(), TestCaseError> {
        let cloud = cloud();
        for style in [Style::Indented, Style::OneLine] {
            let plain = bytes(&Nodes::new(&cloud, nodes), style, &Memory::new()).unwrap();
            let twice = [(); 2].map(|()| rendered.nodes(&cloud, nodes.to_vec(), style).unwrap());
            prop_assert_eq!(String::from_utf8_lossy(&twice[0]), String::from_utf8_lossy(&plain));
            prop_assert_eq!(twice[1].as_ptr(), twice[0].as_ptr());
        }
        Ok(())
    }

    proptest! {
        /// Whatever was listed before, the text is that of the list at hand, to the byte.
        #[test]
        fn a_list_is_rendered_as_if_it_were_the_first(
            lists in prop::collection::vec(prop::collection::vec((0..6_u8, "[a\u{fc}\"]{0,3}", any::<bool>()), 0..6), 1..8),
        ) {
            let rendered = Rendered::default();
            for list in lists {
                let nodes: Vec<_> = list.iter().map(|(id, name, deep)| Arc::new(node(*id, name, *deep))).collect();
                hold(&rendered, &nodes)?;
            }
        }

        /// The same where most nodes stay the very same ones: some come, go, change, change places, or are equal ones
        /// from another read.
        #[test]
        fn a_list_that_changes_is_rendered_as_if_it_were_the_first(
            rounds in prop::collection::vec(
                prop::collection::vec((0..5_u8, any::<prop::sample::Index>(), 0..9_u8), 0..4), 1..12),
        ) {
            let rendered = Rendered::default();
            let mut nodes: Vec<_> = (0..8).map(|n| Arc::new(node(n, "a", n % 3 == 0))).collect();
            for (round, changes) in rounds.iter().enumerate() {
                for (what, at, n) in changes {
                    let (at, to) = (at.index(nodes.len() + 1), usize::from(*n).min(nodes.len()));
                    match (what, nodes.get_mut(at)) {
                        (0, Some(node)) => Arc::make_mut(node).name.push_str(&format!("{round}\u{e9}")),
                        (1, Some(node)) => *node = Arc::new((**node).clone()),
                        (2, Some(_)) => drop(nodes.remove(at)),
                        (3, Some(_)) => {
                            let moved = nodes.remove(at);
                            nodes.insert(to.min(nodes.len()), moved);
                        }
                        // Ids repeat.
                        _ => nodes.insert(at, Arc::new(node(*n, "new", *n % 2 == 0))),
                    }
                }
                hold(&rendered, &nodes)?;
            }
        }
    }

    #[test]
    fn what_is_as_it_was_is_copied() {
        let nodes: Vec<_> = (0..9).map(|n| Arc::new(node(n, "a", false))).collect();
        let last = Last { nodes: nodes.clone(), ..Last::default() };
        let places = |nodes: &[Arc<CloudNode>]| {
            let mut found = Found::within(&last);
            let places: Vec<_> = nodes.iter().map(|node| found.place_of(node)).collect();
            (places, found.by_id.is_some())
        };
        let some = |places: Range<usize>| places.map(Some).collect::<Vec<_>>();
        assert_eq!(places(&nodes), (some(0..9), false));
        // A new one at the end, one that is gone, one that has changed: nothing is looked for.
        let new = Arc::new(node(9, "a", false));
        let one_more = [&nodes[..], &[Arc::clone(&new)]].concat();
        assert_eq!(places(&one_more), ([some(0..9), vec![None]].concat(), false));
        let one_less = [&nodes[..4], &nodes[5..]].concat();
        assert_eq!(places(&one_less), ([some(0..4), some(5..9)].concat(), false));
        let mut changed = nodes.clone();
        Arc::make_mut(&mut changed[4]).name.clear();
        assert_eq!(places(&changed), ([some(0..4), vec![None], some(5..9)].concat(), false));
        // In another order, and between others.
        let turned = [&[new], &nodes[6..], &nodes[..6]].concat();
        assert_eq!(places(&turned), ([vec![None], some(6..9), some(0..6)].concat(), true));
    }
}
