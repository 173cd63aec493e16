//! Drivers and stores for tests, by the names of their places: what a test scripts is what the registry builds.

// Each test file uses a part of it.
#![allow(dead_code, clippy::unwrap_used)]

use async_trait::async_trait;
use portolan::driver::{CloudDriver, DriverError, DummyCloud, MemoryDriverState};
use portolan::model::IdSource;
use portolan::registry::{
    BuiltDriver, DestinationDescription, DestinationFactory, DestinationSpec, DriverDescription, DriverFactory, Place,
    PlatformKind, PlatformSpec, SettingDescription,
};
use portolan::repository::{MemoryObjects, RepoError};
use portolan_testkit::clock::SeededIds;
use portolan_testkit::fake_hypervisor::FakeHypervisor;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Shared by the processes of a test: what one makes, the other finds.
#[derive(Clone, Default)]
pub(crate) struct Factories(Arc<Mutex<Made>>);

#[derive(Default)]
struct Made {
    hypervisors: BTreeMap<String, FakeHypervisor>,
    buckets: BTreeMap<String, Arc<MemoryObjects>>,
    refuse: bool,
}

/// The secret that the fake platforms take.
pub(crate) const TOKEN: &str = "open sesame";

impl Factories {
    /// The hypervisor at a place.
    pub(crate) fn hypervisor(&self, root: &str) -> FakeHypervisor {
        self.0.lock().unwrap().hypervisors.entry(root.to_owned()).or_default().clone()
    }

    /// The objects in a bucket.
    pub(crate) fn bucket(&self, name: &str) -> Option<Arc<MemoryObjects>> {
        self.0.lock().unwrap().buckets.get(name).cloned()
    }

    /// Takes a bucket away, as an unmounted file system would be.
    pub(crate) fn lose_bucket(&self, name: &str) -> Option<Arc<MemoryObjects>> {
        self.0.lock().unwrap().buckets.remove(name)
    }

    /// Has nothing be built from now on, or again.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.0.lock().unwrap().refuse = refuse;
    }
}

fn setting(name: &'static str, required: bool, secret: bool) -> SettingDescription {
    SettingDescription { name, about: "of a test", required, secret }
}

#[async_trait]
impl DriverFactory for Factories {
    fn drivers(&self) -> Vec<DriverDescription> {
        let settings = || vec![setting("root", true, false), setting("token", false, true)];
        vec![
            DriverDescription { name: "cloudy", about: "Nodes", kind: PlatformKind::Cloud, settings: Vec::new() },
            DriverDescription { name: "fake", about: "Machines", kind: PlatformKind::Hypervisor, settings: settings() },
        ]
    }

    async fn build(&self, spec: &PlatformSpec) -> Result<BuiltDriver, DriverError> {
        if self.0.lock().unwrap().refuse {
            return Err(DriverError::Unreachable { reason: "out of order".into(), retry_after: None });
        }
        if spec.driver == "cloudy" {
            let ids: Arc<dyn IdSource> = Arc::new(SeededIds::new(3));
            let cloud: Arc<dyn CloudDriver> = Arc::new(DummyCloud::new(Arc::new(MemoryDriverState::default()), ids));
            return Ok(BuiltDriver { cloud: Some(cloud), url: "cloudy://".into(), ..BuiltDriver::default() });
        }
        if spec.secrets.get("token").is_some_and(|token| token.reveal() != TOKEN) {
            return Err(DriverError::Auth);
        }
        let root = spec.settings.get("root").cloned().unwrap_or_default();
        let hypervisor = Some(self.hypervisor(&root).port());
        Ok(BuiltDriver { hypervisor, cloud: None, url: format!("fake://{root}") })
    }
}

#[async_trait]
impl DestinationFactory for Factories {
    fn kinds(&self) -> Vec<DestinationDescription> {
        let settings = vec![setting("bucket", true, false), setting("key", false, true)];
        vec![DestinationDescription { name: "memory", about: "Objects", settings }]
    }

    fn url(&self, spec: &DestinationSpec) -> Result<String, RepoError> {
        Ok(format!("memory://{}", spec.settings.get("bucket").cloned().unwrap_or_default()))
    }

    async fn open(&self, spec: &DestinationSpec, make: bool) -> Result<Place, RepoError> {
        let url = self.url(spec)?;
        let mut made = self.0.lock().unwrap();
        if made.refuse {
            let source = std::io::Error::other("out of order");
            return Err(RepoError::Store { action: "read", object: url, source });
        }
        let bucket = spec.settings.get("bucket").cloned().unwrap_or_default();
        if !make && !made.buckets.contains_key(&bucket) {
            return Err(RepoError::NotFound { what: "repository", id: url });
        }
        Ok(Place { objects: made.buckets.entry(bucket).or_default().clone(), url })
    }
}
