//! Workers that are paused between the last swap of their lease and the creation of the manifest, and overtaken.

use super::{EngineFixture, GatedObjects, assert_restores, disk, meta, noise, point_id, spec};
use portolan_block::MemorySource;
use portolan_repository::{
    BackupRepository, PointFilter, PointManifest, PointMeta, RepoError, Repository, SessionSpec, Unobserved,
    VerifyDepth, VerifyScope,
};
use std::sync::Arc;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// An attempt that stands still right before it creates the manifest.
struct Paused {
    store: Arc<GatedObjects>,
    commit: JoinHandle<Result<PointManifest, RepoError>>,
}

impl Paused {
    /// Begins or takes over the session of point 1, in a process of its own, and commits up to there.
    async fn new(fixture: &EngineFixture, fence: i64) -> Self {
        let store = GatedObjects::new(fixture.objects.clone(), "points/");
        let repository = fixture.over(store.clone()).try_open().await.unwrap();
        let pause = tokio::spawn({
            let store = store.clone();
            async move { store.reached().await }
        });
        let meta = named(fixture, fence);
        let session = tokio::spawn(async move {
            let session = repository.begin(spec(1, fence, None)).await?;
            session.disk(disk("root", None), Arc::new(MemorySource::new(content())), &Unobserved).await?;
            session.commit(meta).await
        });
        pause.await.unwrap();
        Self { store, commit: session }
    }

    /// Lets it go on: it must find out that it was overtaken.
    async fn goes_on_and_fails(self) {
        self.store.open();
        let commit = self.commit.await.unwrap();
        assert!(matches!(commit, Err(RepoError::Fenced)), "{commit:?}");
    }
}

fn content() -> Vec<u8> {
    noise(5, 300_000)
}

fn named(fixture: &EngineFixture, fence: i64) -> PointMeta {
    PointMeta { vm_name: format!("by fence {fence}"), ..meta(&*fixture.clock) }
}

async fn take_over(fixture: &EngineFixture, fence: i64) -> (Repository, Arc<dyn portolan_repository::BackupSession>) {
    let repository = fixture.try_open().await.unwrap();
    let session = repository.begin(spec(1, fence, None)).await.unwrap();
    (repository, session)
}

async fn points(fixture: &EngineFixture) -> Vec<String> {
    let repository = fixture.try_open().await.unwrap();
    let points = repository.points(PointFilter::default()).await.unwrap();
    let report = repository.verify(VerifyScope::All, VerifyDepth::Data, &Unobserved).await.unwrap();
    assert_eq!(report.damage, []);
    assert_eq!(report.points, points.len() as u64);
    assert_eq!(repository.usage().await.unwrap().points, points.len() as u64);
    for point in &points {
        assert_eq!(repository.point(point.id).await.unwrap(), *point);
        assert_restores(&repository, point.id, "root", &content()).await;
    }
    points.into_iter().map(|point| point.meta.vm_name).collect()
}

/// A commit that was overtaken never makes a point, however late it goes on. `make` gives an empty repository each
/// time. Needs a runtime that lets several attempts stand side by side, which any is.
pub async fn overtaken_commits_make_no_point(make: impl AsyncFn() -> EngineFixture) {
    the_session_is_given_up(&make().await).await;
    another_session_makes_the_point(&make().await).await;
    the_newer_attempt_commits(&make().await).await;
    the_point_is_deleted_again(&make().await).await;
    the_newer_attempt_is_overtaken_too(&make().await).await;
    the_older_attempt_was_faster(&make().await).await;
}

async fn the_session_is_given_up(fixture: &EngineFixture) {
    let old = Paused::new(fixture, 1).await;
    take_over(fixture, 2).await.1.abort().await.unwrap();
    old.goes_on_and_fails().await;
    assert!(points(fixture).await.is_empty());
    let repository = fixture.try_open().await.unwrap();
    assert!(matches!(repository.point(point_id(1)).await, Err(RepoError::NotFound { .. })));
    assert!(matches!(repository.delete(point_id(1)).await, Err(RepoError::NotFound { .. })));
}

/// A chain that begins again at another moment has another session, and the same point.
async fn another_session_makes_the_point(fixture: &EngineFixture) {
    let old = Paused::new(fixture, 1).await;
    let (repository, session) = take_over(fixture, 2).await;
    session.abort().await.unwrap();
    let again = SessionSpec { id: Uuid::from_u128(0x9999), ..spec(1, 2, None) };
    let session = repository.begin(again.clone()).await.unwrap();
    session.disk(disk("root", None), Arc::new(MemorySource::new(content())), &Unobserved).await.unwrap();
    let made = session.commit(named(fixture, 2)).await.unwrap();
    old.goes_on_and_fails().await;
    assert_eq!(points(fixture).await, ["by fence 2"]);
    // Repeating the commit answers the same, as ever.
    let session = fixture.try_open().await.unwrap().begin(SessionSpec { fence: 3, ..again }).await.unwrap();
    assert_eq!(session.commit(named(fixture, 3)).await.unwrap(), made);
}

async fn the_newer_attempt_commits(fixture: &EngineFixture) {
    let old = Paused::new(fixture, 1).await;
    take_over(fixture, 2).await.1.commit(named(fixture, 2)).await.unwrap();
    old.goes_on_and_fails().await;
    assert_eq!(points(fixture).await, ["by fence 2"]);
}

async fn the_point_is_deleted_again(fixture: &EngineFixture) {
    let old = Paused::new(fixture, 1).await;
    let (repository, session) = take_over(fixture, 2).await;
    session.commit(named(fixture, 2)).await.unwrap();
    repository.delete(point_id(1)).await.unwrap();
    assert!(matches!(repository.delete(point_id(1)).await, Err(RepoError::NotFound { .. })));
    old.goes_on_and_fails().await;
    assert!(points(fixture).await.is_empty());
    let repeated = session.commit(named(fixture, 2)).await;
    assert!(matches!(repeated, Err(RepoError::NotFound { .. })), "a deleted point does not come back: {repeated:?}");
}

async fn the_newer_attempt_is_overtaken_too(fixture: &EngineFixture) {
    let first = Paused::new(fixture, 1).await;
    // A void of its own is held back as well, so the gate of the second opens only for that.
    let (repository, session) = take_over(fixture, 2).await;
    let store = GatedObjects::new(fixture.objects.clone(), "points/");
    let gated = fixture.over(store.clone()).try_open().await.unwrap();
    let again = gated.begin(spec(1, 2, None)).await.unwrap();
    let meta = named(fixture, 2);
    let second = Paused { store: store.clone(), commit: tokio::spawn(async move { again.commit(meta).await }) };
    store.reached().await;
    drop((repository, session));

    take_over(fixture, 3).await.1.commit(named(fixture, 3)).await.unwrap();
    second.goes_on_and_fails().await;
    first.goes_on_and_fails().await;
    assert_eq!(points(fixture).await, ["by fence 3"]);
}

/// It had created the manifest, and only its answer was late: then that is the point, and the newer attempt says so.
async fn the_older_attempt_was_faster(fixture: &EngineFixture) {
    let old = Paused::new(fixture, 1).await;
    old.store.open();
    old.commit.await.unwrap().unwrap();
    let made = take_over(fixture, 2).await.1.commit(named(fixture, 2)).await.unwrap();
    assert_eq!(made.meta.vm_name, "by fence 1");
    assert_eq!(points(fixture).await, ["by fence 1"]);
}
