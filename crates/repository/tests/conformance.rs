//! The engine and the object stores against the conformance suites.

#![allow(clippy::unwrap_used)]

use portolan_repository::{LocalObjects, MemoryObjects};
use portolan_testkit::repository::{
    EngineFixture, RepositoryFixture, objects_conform, overtaken_commits_make_no_point, repository_conforms,
};
use std::sync::Arc;

#[tokio::test]
async fn memory_objects_conform() {
    objects_conform(&MemoryObjects::new()).await;
}

#[tokio::test]
async fn local_objects_conform() {
    let root = tempfile::tempdir().unwrap();
    objects_conform(&LocalObjects::open(root.path()).unwrap()).await;
}

#[tokio::test]
async fn the_engine_conforms_in_memory() {
    repository_conforms(async || EngineFixture::create(Arc::new(MemoryObjects::new())).await).await;
}

/// A fixture that keeps its directory.
struct Local(EngineFixture, #[allow(dead_code)] tempfile::TempDir);

#[async_trait::async_trait]
impl RepositoryFixture for Local {
    async fn open(&self) -> Arc<dyn portolan_repository::BackupRepository> {
        self.0.open().await
    }
    fn clock(&self) -> &portolan_testkit::clock::FakeClock {
        self.0.clock()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_conforms_in_a_directory() {
    repository_conforms(async || {
        let root = tempfile::tempdir().unwrap();
        let objects = LocalObjects::open(root.path()).unwrap();
        Local(EngineFixture::create(Arc::new(objects)).await, root)
    })
    .await;
}

#[tokio::test]
async fn overtaken_commits_make_no_point_in_memory() {
    overtaken_commits_make_no_point(async || EngineFixture::create(Arc::new(MemoryObjects::new())).await).await;
}

#[tokio::test]
async fn overtaken_commits_make_no_point_in_a_directory() {
    let root = tempfile::tempdir().unwrap();
    let next = std::sync::atomic::AtomicUsize::new(0);
    overtaken_commits_make_no_point(async || {
        let place = root.path().join(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst).to_string());
        EngineFixture::create(Arc::new(LocalObjects::open(&place).unwrap())).await
    })
    .await;
}
