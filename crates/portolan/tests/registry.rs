//! What operators register while everything runs: platforms and destinations, opened, tried, removed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "registry/destinations.rs"]
mod destinations;
#[path = "world/factories.rs"]
mod factories;
#[path = "registry/platforms.rs"]
mod platforms;

use factories::Factories;
use portolan::Portolan;
use portolan::access::{MasterKey, Vault};
use portolan::model::*;
use portolan::registry::{DestinationRequest, PlatformRequest, RegistryError};
use portolan::storage::{MemoryStorage, Storage};
use portolan_testkit::clock::SeededIds;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The runtime's own time, which stands still until all wait for it.
#[derive(Debug, Clone, Copy)]
struct PausedClock(tokio::time::Instant);

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_219_200_000) + self.0.elapsed()
    }
}

/// Any number of processes over one store, and the places that they reach.
struct World {
    factories: Factories,
    storage: Arc<dyn Storage>,
    clock: PausedClock,
    ids: Arc<SeededIds>,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    fn new() -> Self {
        Self {
            factories: Factories::default(),
            storage: Arc::new(MemoryStorage::new()),
            clock: PausedClock(tokio::time::Instant::now()),
            ids: Arc::new(SeededIds::new(7)),
            stop: CancellationToken::new(),
        }
    }

    fn process(&self) -> Portolan {
        let vault = Vault::unchecked(MasterKey::from_bytes([5; 32]));
        Portolan::builder(self.storage.clone(), vault)
            .clock(Arc::new(self.clock))
            .ids(self.ids.clone())
            .driver_factory(Arc::new(self.factories.clone()))
            .destination_factory(Arc::new(self.factories.clone()))
            .build()
            .unwrap()
    }

    fn run(&self, portolan: &Portolan) {
        let (engine, stop) = (portolan.engine("node-1").build(), self.stop.clone());
        tokio::spawn(async move { engine.run(stop).await });
    }
}

fn me() -> Caller {
    Caller { login: "ann".into(), ..Caller::system() }
}

fn settings(given: &[(&str, &str)]) -> BTreeMap<String, Secret> {
    given.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect()
}

fn fake(name: &str, root: &str) -> PlatformRequest {
    PlatformRequest { name: name.into(), driver: "fake".into(), settings: settings(&[("root", root)]) }
}

fn memory(name: &str, bucket: &str) -> DestinationRequest {
    DestinationRequest {
        name: name.into(),
        description: String::new(),
        kind: "memory".into(),
        settings: settings(&[("bucket", bucket)]),
        default: None,
        recovery_key: None,
    }
}

#[track_caller]
fn conflict<T: std::fmt::Debug>(result: Result<T, RegistryError>, with: &str) {
    match result {
        Err(RegistryError::Conflict(text)) if text.contains(with) => {}
        other => panic!("no conflict about '{with}': {other:?}"),
    }
}

#[track_caller]
fn invalid<T: std::fmt::Debug>(result: Result<T, RegistryError>) {
    assert!(matches!(result, Err(RegistryError::Invalid(_))), "{result:?}");
}

#[track_caller]
fn missing<T: std::fmt::Debug>(result: Result<T, RegistryError>) {
    assert!(matches!(result, Err(RegistryError::NotFound { .. })), "{result:?}");
}

#[track_caller]
fn denied<T: std::fmt::Debug>(result: Result<T, RegistryError>) {
    assert!(matches!(result, Err(RegistryError::Denied(_))), "{result:?}");
}
