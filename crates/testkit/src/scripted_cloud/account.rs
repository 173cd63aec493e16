//! What one account holds, and what requests do to it: nodes, images, key pairs.

use super::provider::{Refusal, Settings, no};
use portolan_driver::{
    CloudImage, CloudKeyPair, CloudPage, CloudSnapshot, CloudVolume, CreateNode, Cursor, Extra, NodeAuth, NodeRef,
};
use portolan_model::dialect::libcloud::Architecture;
use std::collections::BTreeMap;

/// A node, in the provider's words.
#[derive(Clone)]
pub(super) struct Node {
    /// Used again by later nodes.
    pub(super) id: u64,
    /// Never used again.
    pub(super) serial: u64,
    pub(super) name: String,
    pub(super) word: String,
    /// What the state is about to become, and after how many listings.
    next: Option<(&'static str, u32)>,
    pub(super) size: String,
    pub(super) image: String,
    pub(super) token: String,
    pub(super) metadata: Extra,
}

/// What one account holds. Everything is kept by a number that only rises: pages go on after the last one seen.
pub(super) struct Account {
    serial: u64,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) images: BTreeMap<u64, CloudImage>,
    pub(super) key_pairs: BTreeMap<u64, CloudKeyPair>,
    pub(super) volumes: BTreeMap<u64, CloudVolume>,
    pub(super) snapshots: BTreeMap<u64, CloudSnapshot>,
}

impl Default for Account {
    fn default() -> Self {
        let empty = Self {
            serial: 100,
            nodes: BTreeMap::new(),
            images: BTreeMap::new(),
            key_pairs: BTreeMap::new(),
            volumes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
        };
        let images = [1, 2].map(|n| (n, image(n, &format!("System {n}"), "active")));
        Self { images: images.into(), ..empty }
    }
}

impl Account {
    /// The next number.
    pub(super) fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Takes a node away, as somebody else would.
    pub(super) fn vanish(&mut self, id: &str) {
        self.nodes.retain(|_, node| node.id.to_string() != id);
    }

    /// Puts a node into a state.
    pub(super) fn set_word(&mut self, id: &str, word: &str) {
        for node in self.nodes.values_mut().filter(|node| node.id.to_string() == id) {
            node.word = word.to_owned();
            node.next = None;
        }
    }

    /// A page of the nodes. A listing from the beginning brings passing states on.
    pub(super) fn list_nodes(&mut self, from: Option<&Cursor>, size: usize) -> Result<CloudPage<Node>, Refusal> {
        let listed = page(&self.nodes, from, size, |node| node.clone());
        if from.is_none() {
            self.nodes.values_mut().for_each(Node::pass);
        }
        listed
    }

    pub(super) fn create_node(
        &mut self,
        wish: &CreateNode,
        idempotent: bool,
        settings: &Settings,
    ) -> Result<Node, Refusal> {
        if idempotent && let Some(node) = self.nodes.values().find(|node| node.token == wish.token) {
            return Ok(node.clone());
        }
        if wish.name.is_empty() || wish.name.chars().count() > 255 {
            return no(400, "BadName", "a name has 1 to 255 characters");
        }
        let image = self.images.values().find(|image| image.id == wish.image);
        if image.is_none() || !["small", "large"].contains(&wish.size.as_str()) {
            return no(400, "BadRequest", "there is no such image or size");
        }
        if wish.location.as_ref().is_some_and(|l| !["north", "south"].contains(&l.as_str())) {
            return no(400, "BadRequest", "there is no such location");
        }
        if wish.key_pair.as_ref().is_some_and(|name| !self.key_pairs.values().any(|pair| pair.name == *name)) {
            return no(400, "BadRequest", "there is no such key pair");
        }
        if matches!(&wish.auth, Some(NodeAuth::Password(word)) if word.reveal().len() < 8) {
            return no(400, "WeakPassword", "the password is too short");
        }
        if self.nodes.len() >= settings.quota {
            return no(413, "QuotaExceeded", "no more nodes");
        }
        let used: std::collections::BTreeSet<u64> = self.nodes.values().map(|node| node.id).collect();
        let id = (1..).find(|id| !used.contains(id)).unwrap_or(u64::MAX);
        let serial = self.serial();
        let mut node = Node {
            id,
            serial,
            name: wish.name.clone(),
            word: "building".to_owned(),
            next: None,
            size: wish.size.clone(),
            image: wish.image.clone(),
            token: wish.token.clone(),
            metadata: wish.metadata.clone(),
        };
        node.begin("building", "up", settings);
        self.nodes.insert(serial, node.clone());
        Ok(node)
    }

    pub(super) fn start_node(&mut self, node: &NodeRef, settings: &Settings) -> Result<(), Refusal> {
        self.turn(node, "down", "coming up", "up", settings)
    }

    pub(super) fn stop_node(&mut self, node: &NodeRef, settings: &Settings) -> Result<(), Refusal> {
        self.turn(node, "up", "going down", "down", settings)
    }

    pub(super) fn reboot_node(&mut self, node: &NodeRef, settings: &Settings) -> Result<(), Refusal> {
        self.turn(node, "up", "restarting", "up", settings)
    }

    pub(super) fn destroy_node(&mut self, node: &NodeRef) -> Result<(), Refusal> {
        let found = self.node(node)?.clone();
        self.nodes.remove(&found.serial);
        for volume in self.volumes.values_mut().filter(|v| v.attached_to.as_deref() == Some(&node.id)) {
            super::disks::free(volume);
        }
        Ok(())
    }

    /// The node of that id, if it is that one still.
    pub(super) fn node(&mut self, node: &NodeRef) -> Result<&mut Node, Refusal> {
        let serial = node.incarnation.parse().unwrap_or(0);
        match self.nodes.get_mut(&serial).filter(|found| found.id.to_string() == node.id) {
            Some(found) => Ok(found),
            None => no(404, "NoSuchNode", format!("no node {}", node.id)),
        }
    }

    fn turn(
        &mut self,
        node: &NodeRef,
        from: &str,
        passing: &'static str,
        to: &'static str,
        settings: &Settings,
    ) -> Result<(), Refusal> {
        let node = self.node(node)?;
        if node.word != from {
            return no(409, "WrongState", format!("the node is {}", node.word));
        }
        node.begin(passing, to, settings);
        Ok(())
    }

    pub(super) fn create_image(&mut self, node: &NodeRef, name: &str) -> Result<CloudImage, Refusal> {
        self.node(node)?;
        let serial = self.serial();
        let made = image(serial, name, "queued");
        self.images.insert(serial, made.clone());
        Ok(made)
    }

    pub(super) fn get_image(&mut self, id: &str) -> Result<CloudImage, Refusal> {
        let Some(found) = self.images.values_mut().find(|image| image.id == id) else {
            return no(404, "NoSuchImage", format!("no image {id}"));
        };
        let shown = found.clone();
        found.extra.insert("state".to_owned(), "active".into());
        Ok(shown)
    }

    pub(super) fn delete_image(&mut self, id: &str) -> Result<(), Refusal> {
        take(&mut self.images, |image| image.id == id, "image", id).map(drop)
    }

    pub(super) fn get_key_pair(&self, name: &str) -> Result<CloudKeyPair, Refusal> {
        match self.key_pairs.values().find(|pair| pair.name == name) {
            Some(pair) => Ok(pair.clone()),
            None => no(404, "NoSuchKeyPair", format!("no key pair {name}")),
        }
    }

    pub(super) fn add_key_pair(&mut self, name: &str, public_key: Option<&str>) -> Result<CloudKeyPair, Refusal> {
        if name.is_empty() || public_key.is_some_and(|key| !key.starts_with("ssh-")) {
            return no(400, "BadKeyPair", "a key pair has a name and a key in OpenSSH's form");
        }
        if self.get_key_pair(name).is_ok() {
            return no(409, "KeyPairExists", format!("there is a key pair {name}"));
        }
        let serial = self.serial();
        let public_key = public_key.map_or_else(|| format!("ssh-ed25519 made-{serial}"), str::to_owned);
        let fingerprint = format!("print:{serial}");
        let pair = CloudKeyPair { name: name.to_owned(), public_key, fingerprint, extra: Extra::new() };
        self.key_pairs.insert(serial, pair.clone());
        Ok(pair)
    }

    pub(super) fn delete_key_pair(&mut self, name: &str) -> Result<(), Refusal> {
        take(&mut self.key_pairs, |pair| pair.name == name, "key pair", name).map(drop)
    }
}

impl Node {
    /// Goes from a passing state to the one that it ends in.
    fn begin(&mut self, passing: &str, to: &'static str, settings: &Settings) {
        if settings.settle_after == 0 {
            to.clone_into(&mut self.word);
        } else {
            passing.clone_into(&mut self.word);
            self.next = Some((to, settings.settle_after));
        }
    }

    /// Was seen once more.
    fn pass(&mut self) {
        match &mut self.next {
            Some((_, left)) if *left > 1 => *left -= 1,
            Some((to, _)) => {
                (*to).clone_into(&mut self.word);
                self.next = None;
            }
            None => {}
        }
    }
}

/// A page of what is kept by rising numbers: at most `size` things after the number in `from`.
pub(super) fn page<K, T>(
    all: &BTreeMap<u64, K>,
    from: Option<&Cursor>,
    size: usize,
    show: impl Fn(&K) -> T,
) -> Result<CloudPage<T>, Refusal> {
    let after = match from {
        None => 0,
        Some(cursor) => match cursor.0.parse::<u64>() {
            Ok(after) => after,
            Err(_) => return no(400, "BadMarker", "no such marker"),
        },
    };
    let mut rest = all.range(after.saturating_add(1)..);
    let taken: Vec<_> = rest.by_ref().take(size.max(1)).collect();
    let last = taken.last().map(|(serial, _)| Cursor(serial.to_string()));
    let next = rest.next().and(last);
    Ok(CloudPage { items: taken.into_iter().map(|(_, thing)| show(thing)).collect(), next })
}

/// Takes a thing out.
pub(super) fn take<T>(all: &mut BTreeMap<u64, T>, is: impl Fn(&T) -> bool, what: &str, id: &str) -> Result<T, Refusal> {
    let serial = all.iter().find(|(_, thing)| is(thing)).map(|(serial, _)| *serial);
    match serial.and_then(|serial| all.remove(&serial)) {
        Some(thing) => Ok(thing),
        None => no(404, "NotFound", format!("no {what} {id}")),
    }
}

fn image(n: u64, name: &str, state: &str) -> CloudImage {
    let mut extra = Extra::new();
    extra.insert("state".to_owned(), state.into());
    CloudImage {
        id: format!("image-{n}"),
        name: name.to_owned(),
        architecture: Some(Architecture::X86_64),
        size_bytes: 1 << 30,
        extra,
    }
}
