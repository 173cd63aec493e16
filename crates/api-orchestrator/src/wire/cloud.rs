//! Clouds, nodes, images, sizes, tenants (section 4).

use super::OK;
use super::format::SortedMap;
use portolan::driver::{CloudImage, CloudNode, CloudSize};
use portolan::inventory::CloudView;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use serde::{Serialize, Serializer};
use std::sync::Arc;
use utoipa::ToSchema;

/// A node.
#[derive(Serialize, ToSchema)]
pub(crate) struct Node<'a> {
    /// The provider's name for people.
    cloud_type: &'static str,
    /// What the provider says besides.
    #[schema(value_type = Object)]
    extra: SortedMap<'a>,
    /// The provider's id.
    id: &'a str,
    /// Its name.
    name: &'a str,
    /// Addresses of private networks.
    private_ips: &'a [String],
    /// The provider's type.
    provider: &'static str,
    /// Addresses that are reached from outside.
    public_ips: &'a [String],
    /// 0 running, 1 rebooting, 2 terminated, 3 pending, 4 unknown, 5 stopped, 6 suspended, 7 error, 8 paused.
    state: u8,
    /// SHA-1 of `id:provider` in hexadecimal.
    #[schema(value_type = String)]
    uuid: Uuid,
}

impl<'a> Node<'a> {
    pub(crate) fn new(cloud: &CloudView, node: &'a CloudNode) -> Self {
        Self {
            cloud_type: cloud.display_name,
            extra: SortedMap(&node.extra),
            id: &node.id,
            name: &node.name,
            private_ips: &node.private_ips,
            provider: cloud.provider,
            public_ips: &node.public_ips,
            state: node.state.number(),
            uuid: Uuid::of(&node.id, cloud.provider),
        }
    }
}

/// Libcloud's uuid of a thing.
pub(crate) struct Uuid([u8; 40]);

impl Uuid {
    fn of(id: &str, provider: &str) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        [id, ":", provider].iter().for_each(|part| hash.update(part.as_bytes()));
        let mut text = [b'0'; 40];
        for (pair, byte) in text.chunks_exact_mut(2).zip(hash.finish().as_ref()) {
            let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
            pair.copy_from_slice(&digits);
        }
        Self(text)
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

/// The list of nodes.
#[derive(Serialize, ToSchema)]
pub(crate) struct Nodes<'a> {
    /// The nodes.
    #[schema(value_type = Vec<Node<'static>>)]
    nodes: Each<'a, Arc<CloudNode>>,
    /// Always `ok`.
    status: &'static str,
}

#[cfg(test)]
impl<'a> Nodes<'a> {
    /// What [`super::rendered`] is held against.
    pub(crate) fn new(cloud: &'a CloudView, nodes: &'a [Arc<CloudNode>]) -> Self {
        Self { nodes: Each { cloud, things: nodes }, status: OK }
    }
}

/// A node that was started: one, under the name of many.
#[derive(Serialize, ToSchema)]
pub(crate) struct Started<'a> {
    /// The node.
    #[schema(inline)]
    nodes: Node<'a>,
    /// Always `ok`.
    status: &'static str,
}

impl<'a> Started<'a> {
    pub(crate) fn new(cloud: &CloudView, node: &'a CloudNode) -> Self {
        Self { nodes: Node::new(cloud, node), status: OK }
    }
}

/// An image.
#[derive(Serialize, ToSchema)]
pub(crate) struct Image<'a> {
    /// The provider's name for people.
    cloud_type: &'static str,
    /// The provider's id.
    id: &'a str,
    /// Its name.
    name: &'a str,
    /// The provider's type.
    provider: &'static str,
}

/// The list of images.
#[derive(Serialize, ToSchema)]
pub(crate) struct Images<'a> {
    /// The images.
    #[schema(value_type = Vec<Image<'static>>)]
    images: Each<'a, CloudImage>,
    /// Always `ok`.
    status: &'static str,
}

impl<'a> Images<'a> {
    pub(crate) fn new(cloud: &'a CloudView, images: &'a [CloudImage]) -> Self {
        Self { images: Each { cloud, things: images }, status: OK }
    }
}

/// A size.
#[derive(Serialize, ToSchema)]
pub(crate) struct Flavor<'a> {
    /// The provider's name for people.
    cloud_type: &'static str,
    /// Virtual processors; 0 where the provider does not say.
    cpu: u32,
    /// Disk in gibibytes.
    disk: u64,
    /// The provider's id.
    id: &'a str,
    /// Its name.
    name: &'a str,
    /// The provider's type.
    provider: &'static str,
    /// Memory in mebibytes.
    ram: u64,
}

/// The list of sizes, whichever word asked for it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Flavors<'a> {
    /// The sizes.
    #[schema(value_type = Vec<Flavor<'static>>)]
    flavors: Each<'a, CloudSize>,
    /// Always `ok`.
    status: &'static str,
}

impl<'a> Flavors<'a> {
    pub(crate) fn new(cloud: &'a CloudView, sizes: &'a [CloudSize]) -> Self {
        Self { flavors: Each { cloud, things: sizes }, status: OK }
    }
}

/// Things of a cloud, each put on the wire as it is written.
struct Each<'a, T> {
    cloud: &'a CloudView,
    things: &'a [T],
}

impl Serialize for Each<'_, Arc<CloudNode>> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.things.iter().map(|node| Node::new(self.cloud, node)))
    }
}

impl Serialize for Each<'_, CloudImage> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.things.iter().map(|image| Image {
            cloud_type: self.cloud.display_name,
            id: &image.id,
            name: &image.name,
            provider: self.cloud.provider,
        }))
    }
}

impl Serialize for Each<'_, CloudSize> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.things.iter().map(|size| Flavor {
            cloud_type: self.cloud.display_name,
            cpu: size.cpus.unwrap_or(0),
            disk: size.disk_gb,
            id: &size.id,
            name: &size.name,
            provider: self.cloud.provider,
            ram: size.ram_mb,
        }))
    }
}

/// A tenant; without any member for every cloud but `default`.
#[derive(Serialize, ToSchema)]
pub(crate) struct Tenant {
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'static str>,
}

/// The list of tenants.
#[derive(Serialize, ToSchema)]
pub(crate) struct Tenants {
    /// Always `ok`.
    status: &'static str,
    /// Exactly one.
    tenants: [Tenant; 1],
}

impl Tenants {
    /// Of `default`.
    pub(crate) const DEFAULT: Self = Self {
        status: OK,
        tenants: [Tenant {
            cloud_type: Some("OpenStack"),
            id: Some("f122fd1685b142d6830ee970900b2151"),
            name: Some("demo"),
            provider: Some("openstack"),
        }],
    };
    /// Of any other cloud, there or not.
    pub(crate) const OTHER: Self =
        Self { status: OK, tenants: [Tenant { cloud_type: None, id: None, name: None, provider: None }] };
}

/// A cloud.
#[derive(Serialize, ToSchema)]
pub(crate) struct Cloud<'a> {
    /// The host that its API answers at.
    host: &'a str,
    /// Its name, for paths.
    name: &'a str,
    /// The provider's type.
    r#type: &'static str,
}

impl<'a> Cloud<'a> {
    /// A cloud under a name.
    pub(crate) fn new(cloud: &'a CloudView, name: &'a str) -> Self {
        Self { host: &cloud.host, name, r#type: cloud.provider }
    }
}

/// The list of clouds.
#[derive(Serialize, ToSchema)]
pub(crate) struct Clouds<'a> {
    /// The clouds, `default` first.
    served_cloud: Vec<Cloud<'a>>,
    /// Always `ok`.
    status: &'static str,
}

impl<'a> Clouds<'a> {
    pub(crate) fn new(clouds: Vec<Cloud<'a>>) -> Self {
        Self { served_cloud: clouds, status: OK }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_libclouds() {
        for (id, expected) in [
            ("1", "2c183c20f71eb5732512d6cfe1f75ebc9d9bb4dd"),
            ("2", "46ff62f5eafc7837de6ec1450b8e0e608db06d7a"),
            ("3", "aef321fde331680846014b121ff377dcb8477731"),
            ("4", "f0f0f81f0a63ccd2c5e0c5244beebeafd0f2429c"),
            ("5", "f497d6aa3680dbeceeaad87f7e665f07d31de122"),
        ] {
            assert_eq!(serde_json::to_value(Uuid::of(id, "dummy")).unwrap(), expected);
        }
    }
}
