//! What makes drivers and stores out of settings: implemented by whoever links the drivers in.

use async_trait::async_trait;
use portolan_driver::{CloudDriver, DriverError, Hypervisor};
use portolan_model::{BackupDestinationId, PlatformId, Secret};
use portolan_repository::{ObjectStore, RepoError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a driver drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlatformKind {
    /// Machines with disks that are backed up and restored.
    Hypervisor,
    /// Nodes that are made and destroyed.
    Cloud,
    /// Machines that are both.
    Both,
}

impl PlatformKind {
    /// `hypervisor`, `cloud` or `both`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hypervisor => "hypervisor",
            Self::Cloud => "cloud",
            Self::Both => "both",
        }
    }
}

/// A setting of a driver or of a kind of destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettingDescription {
    /// Its name, `root`.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// Whether nothing works without it.
    pub required: bool,
    /// Whether it is kept sealed and never shown again.
    pub secret: bool,
}

/// A driver that platforms can be registered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverDescription {
    /// Its name, `images`.
    pub name: &'static str,
    /// What it drives, in a sentence.
    pub about: &'static str,
    /// The kind of platform.
    pub kind: PlatformKind,
    /// What it needs to know.
    pub settings: Vec<SettingDescription>,
}

/// A kind of place that destinations can be registered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationDescription {
    /// Its name, `local`.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// What it needs to know.
    pub settings: Vec<SettingDescription>,
}

/// What a driver is built from. The settings are those that the driver describes, and none that it does not.
#[derive(Debug, Clone)]
pub struct PlatformSpec {
    /// The platform's id: what the driver keeps, it keeps under this.
    pub id: PlatformId,
    /// The platform's name.
    pub name: String,
    /// The driver's name.
    pub driver: String,
    /// Settings that anybody may see.
    pub settings: BTreeMap<String, String>,
    /// Settings that nobody may.
    pub secrets: BTreeMap<String, Secret>,
}

/// What came of building: the ports that the driver implements, and where the platform is.
#[derive(Clone, Default)]
pub struct BuiltDriver {
    /// The hypervisor, where it is one.
    pub hypervisor: Option<Arc<dyn Hypervisor>>,
    /// The cloud, where it is one.
    pub cloud: Option<Arc<dyn CloudDriver>>,
    /// Where it is, for people to recognise it by; holds no secret.
    pub url: String,
}

/// Builds drivers.
#[async_trait]
pub trait DriverFactory: Send + Sync {
    /// The drivers that there are.
    fn drivers(&self) -> Vec<DriverDescription>;

    /// Builds the driver of a platform. May look at the settings and need not talk to the platform: one that is out
    /// of reach just now can be registered. [`DriverError::Conflict`] says that the settings make no sense.
    async fn build(&self, spec: &PlatformSpec) -> Result<BuiltDriver, DriverError>;
}

/// What a destination's store is opened from.
#[derive(Debug, Clone)]
pub struct DestinationSpec {
    /// The destination's id.
    pub id: BackupDestinationId,
    /// Its name.
    pub name: String,
    /// The kind of place.
    pub kind: String,
    /// Settings that anybody may see.
    pub settings: BTreeMap<String, String>,
    /// Settings that nobody may.
    pub secrets: BTreeMap<String, Secret>,
}

/// Where backups go: a store of objects, in which a repository is or will be.
#[derive(Debug, Clone)]
pub struct Place {
    /// The store.
    pub objects: Arc<dyn ObjectStore>,
    /// Where it is, for people to recognise it by; holds no secret. No two destinations are at one place.
    pub url: String,
}

/// Opens the stores that repositories are made in.
#[async_trait]
pub trait DestinationFactory: Send + Sync {
    /// The kinds of places that there are.
    fn kinds(&self) -> Vec<DestinationDescription>;

    /// Where the settings point to, without looking: [`Place::url`]. [`RepoError::Conflict`] says that they make no
    /// sense.
    fn url(&self, spec: &DestinationSpec) -> Result<String, RepoError>;

    /// Opens the store. With `make` a missing directory or bucket is made; without, it is an error.
    async fn open(&self, spec: &DestinationSpec, make: bool) -> Result<Place, RepoError>;
}

/// Builds nothing: what an embedder has who registers everything by itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Nothing;

#[async_trait]
impl DriverFactory for Nothing {
    fn drivers(&self) -> Vec<DriverDescription> {
        Vec::new()
    }

    async fn build(&self, spec: &PlatformSpec) -> Result<BuiltDriver, DriverError> {
        Err(DriverError::Unsupported(format!("there is no driver '{}'", spec.driver)))
    }
}

#[async_trait]
impl DestinationFactory for Nothing {
    fn kinds(&self) -> Vec<DestinationDescription> {
        Vec::new()
    }

    fn url(&self, spec: &DestinationSpec) -> Result<String, RepoError> {
        Err(RepoError::Unsupported(format!("destinations of kind '{}'", spec.kind)))
    }

    async fn open(&self, spec: &DestinationSpec, _: bool) -> Result<Place, RepoError> {
        Err(RepoError::Unsupported(format!("destinations of kind '{}'", spec.kind)))
    }
}
