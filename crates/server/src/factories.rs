//! The drivers and stores that this program has, built from the settings that operators give.

use crate::{destinations, qemu};
use async_trait::async_trait;
use portolan::registry::{
    BuiltDriver, DestinationDescription, DestinationFactory, DestinationSpec, DriverDescription, DriverFactory, Place,
    PlatformKind, PlatformSpec, SettingDescription,
};
use portolan_driver::{CloudDriver, DriverError, DummyCloud, Hypervisor, RetryPolicy, Retrying, Timed};
use portolan_driver_images::ImagesHypervisor;
use portolan_inventory::StoredDriverState;
use portolan_model::{Clock, IdSource};
use portolan_repository::RepoError;
use portolan_storage::Storage;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long one call of a cloud may take.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// The dummy begins with no more nodes than this.
const MAX_DUMMY_NODES: u32 = 10_000;

/// Builds drivers, and opens stores.
#[derive(Clone)]
pub struct Factories {
    /// Where drivers keep what they must not forget.
    pub storage: Arc<dyn Storage>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ids.
    pub ids: Arc<dyn IdSource>,
}

/// A cloud as the server calls it: no call takes for ever, and what is safe to repeat is repeated.
pub fn guarded(cloud: Arc<dyn CloudDriver>, ids: &Arc<dyn IdSource>) -> Arc<dyn CloudDriver> {
    let timed = Timed::new(cloud, CALL_LIMIT);
    Arc::new(Retrying::new(Arc::new(timed), RetryPolicy::default(), Arc::clone(ids)))
}

#[async_trait]
impl DriverFactory for Factories {
    fn drivers(&self) -> Vec<DriverDescription> {
        vec![
            DriverDescription {
                name: "dummy",
                about: "A cloud whose nodes are documents in Portolan's own database, for demonstrations and tests",
                kind: PlatformKind::Cloud,
                settings: vec![SettingDescription {
                    name: "nodes",
                    about: "how many nodes it begins with; two when left out",
                    required: false,
                    secret: false,
                }],
            },
            DriverDescription {
                name: "images",
                about: "Machines that are directories of raw and qcow2 disk images: cluster/host/datastore/machine",
                kind: PlatformKind::Hypervisor,
                settings: vec![SettingDescription {
                    name: "root",
                    about: "the directory that holds the clusters: an absolute path on the server",
                    required: true,
                    secret: false,
                }],
            },
            qemu::description(),
        ]
    }

    async fn build(&self, spec: &PlatformSpec) -> Result<BuiltDriver, DriverError> {
        match spec.driver.as_str() {
            "dummy" => {
                let state = StoredDriverState::new(self.storage.clone(), self.clock.clone(), spec.id);
                let nodes = nodes_of(spec.settings.get("nodes"))?;
                let cloud = DummyCloud::new(Arc::new(state), self.ids.clone()).with_nodes(nodes);
                let cloud = guarded(Arc::new(cloud), &self.ids);
                Ok(BuiltDriver { hypervisor: None, cloud: Some(cloud), url: "dummy://".to_owned() + &spec.name })
            }
            "images" => {
                let root = plain_path("root", &spec.settings).map_err(DriverError::Conflict)?;
                let url = root.display().to_string();
                let driver: Arc<dyn Hypervisor> = Arc::new(ImagesHypervisor::new(root, self.ids.clone()));
                Ok(BuiltDriver { hypervisor: Some(driver), cloud: None, url })
            }
            qemu::NAME => qemu::build(spec, &self.clock, &self.ids).await,
            other => Err(DriverError::Unsupported(format!("there is no driver '{other}'"))),
        }
    }
}

#[async_trait]
impl DestinationFactory for Factories {
    fn kinds(&self) -> Vec<DestinationDescription> {
        vec![DestinationDescription {
            name: "local",
            about: "A directory on the server",
            settings: vec![SettingDescription {
                name: "path",
                about: "the directory, made when it is missing: an absolute path on the server",
                required: true,
                secret: false,
            }],
        }]
    }

    fn url(&self, spec: &DestinationSpec) -> Result<String, RepoError> {
        Ok(local_path(spec)?.display().to_string())
    }

    async fn open(&self, spec: &DestinationSpec, make: bool) -> Result<Place, RepoError> {
        let path = local_path(spec)?;
        if !make && !destinations::has_repository(&path) {
            return Err(RepoError::NotFound { what: "repository", id: path.display().to_string() });
        }
        let objects = destinations::open_objects(&path).await.map_err(|e| RepoError::Store {
            action: "write",
            object: path.display().to_string(),
            source: std::io::Error::other(e),
        })?;
        Ok(Place { objects: Arc::new(objects), url: path.display().to_string() })
    }
}

fn local_path(spec: &DestinationSpec) -> Result<PathBuf, RepoError> {
    match spec.kind.as_str() {
        "local" => plain_path("path", &spec.settings).map_err(RepoError::Conflict),
        other => Err(RepoError::Unsupported(format!("destinations of kind '{other}'"))),
    }
}

fn nodes_of(text: Option<&String>) -> Result<u32, DriverError> {
    let Some(text) = text else { return Ok(0) };
    let nodes = text.parse().ok().filter(|n| *n <= MAX_DUMMY_NODES);
    nodes.ok_or_else(|| DriverError::Conflict(format!("nodes must be a number up to {MAX_DUMMY_NODES}")))
}

/// An absolute path without detours, so that one place has one name.
fn plain_path(name: &str, settings: &BTreeMap<String, String>) -> Result<PathBuf, String> {
    let text = settings.get(name).map(String::as_str).unwrap_or_default();
    let path = Path::new(text);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("{name} must be an absolute path without '..'"));
    }
    Ok(path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_has_one_name() {
        let path = |text: &str| plain_path("root", &BTreeMap::from([("root".to_owned(), text.to_owned())]));
        assert_eq!(path("/srv//images/./x/").unwrap(), Path::new("/srv/images/x"));
        for bad in ["", "srv", "./srv", "/srv/../etc"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_dummy_begins_with_a_bounded_number_of_nodes() {
        let nodes = |text: &str| nodes_of(Some(&text.to_owned())).ok();
        assert_eq!((nodes_of(None).ok(), nodes("7"), nodes("10000")), (Some(0), Some(7), Some(10_000)));
        assert_eq!((nodes("10001"), nodes("-1"), nodes("x")), (None, None, None));
    }
}
