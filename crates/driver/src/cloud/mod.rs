//! The cloud port: nodes, images, sizes, locations, key pairs, volumes and their snapshots.
//!
//! It follows the compute model that clients of Apache Libcloud know, with what that model lacks: paged lists, typed
//! errors, nodes told apart over re-used ids, and a token that finds a node again whose answer was lost. Sections
//! named in comments are those of `docs/drivers/writing.md`.

mod call;
mod data;
mod error;
mod ext;
mod layer;
mod listing;
mod port;
mod status;

pub use call::CloudCall;
pub use data::{
    CloudImage, CloudKeyPair, CloudLocation, CloudNode, CloudSize, CloudSnapshot, CloudVolume, CreateNode,
    CreateVolume, CreatedKeyPair, CreatedNode, Extra, NodeAuth, NodeRef,
};
pub use error::{CloudError, CloudErrorKind, ProviderDetail};
pub use ext::{CloudDriverExt, MOST_PAGES};
pub use layer::{Attempt, Layer};
pub use listing::listing;
pub use port::{Capability, CapabilitySet, CloudDriver, CloudInfo, CloudPage, Cursor};
pub use status::{kind_of_status, retry_after};
