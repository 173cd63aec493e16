//! Every operation of the object store fails once, before or after it took effect, for a moment or for good: what
//! was committed stays intact, and trying again succeeds.

#![allow(clippy::unwrap_used)]

use portolan_repository::object::FaultyObjects;
use portolan_repository::object::faulty::{Then, When};
use portolan_repository::{
    BackupRepository, DiskSpec, MemoryObjects, ObjectStore, PointFilter, RepoError, RepositoryOptions, SessionSpec,
    Unobserved, VerifyDepth, VerifyScope,
};
use portolan_testkit::repository::{EngineFixture, assert_restores, disk, meta, noise, point_id, spec};
use std::sync::Arc;

const CHUNK: usize = 4096;

/// What is tried while the store fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Full,
    Incremental,
    Delete,
}

fn options() -> RepositoryOptions {
    RepositoryOptions { chunk_bytes: 4096, pack_bytes: 24_000, packs_per_segment: 2, workers: 2 }
}

fn content(n: u64) -> Vec<u8> {
    let mut data = noise(7, 20 * CHUNK + 100);
    data[..CHUNK].copy_from_slice(&noise(100 + n, CHUNK));
    data[9 * CHUNK..11 * CHUNK].copy_from_slice(&noise(200 + n, 2 * CHUNK));
    data
}

async fn back_up(fixture: &EngineFixture, spec: SessionSpec, n: u64) -> Result<(), RepoError> {
    let repository = fixture.try_open().await?;
    let session = repository.begin(spec.clone()).await?;
    let changed = spec.parent.map(|_| vec![0..CHUNK as u64, 9 * CHUNK as u64..11 * CHUNK as u64]);
    let source = Arc::new(portolan_block::MemorySource::new(content(n)));
    session.disk(DiskSpec { name: "root".into(), changed }, source.clone(), &Unobserved).await?;
    session.disk(disk("second", None), source, &Unobserved).await?;
    session.attach("vm.json", bytes::Bytes::from_static(b"{}")).await?;
    session.commit(meta(&*fixture.clock)).await.map(drop)
}

async fn run(fixture: &EngineFixture, operation: Operation, fence: i64) -> Result<(), RepoError> {
    match operation {
        Operation::Full => back_up(fixture, spec(2, fence, None), 2).await,
        Operation::Incremental => back_up(fixture, spec(2, fence, Some(1)), 2).await,
        Operation::Delete => match fixture.try_open().await?.delete(point_id(1)).await {
            // An earlier try has done it.
            Err(RepoError::NotFound { .. }) if fence > 1 => Ok(()),
            other => other,
        },
    }
}

async fn every_failure(operation: Operation) {
    let base = Arc::new(MemoryObjects::new());
    let fixture = EngineFixture::create_with(base.clone(), options()).await;
    back_up(&fixture, spec(1, 1, None), 1).await.unwrap();
    let mut failures = 0;
    for (when, then) in [
        (When::Before, Then::StayDown),
        (When::After, Then::StayDown),
        (When::Before, Then::Recover),
        (When::After, Then::Recover),
    ] {
        for at in 1.. {
            let store = Arc::new(base.fork());
            let faulty = Arc::new(FaultyObjects::new(store.clone(), at, when, then));
            let result = run(&fixture.over(faulty.clone()), operation, 1).await;
            let reached = faulty.operations() >= at;
            failures += u32::from(result.is_err());
            let what = format!("{operation:?}, operation {at}, {when:?}, {then:?}: {result:?}");

            // A new process over what the crash left.
            let sound = fixture.over(store.clone() as Arc<dyn ObjectStore>);
            let repository = sound.try_open().await.unwrap();
            let points = repository.points(PointFilter::default()).await.unwrap();
            for point in &points {
                let n = if point.id == point_id(1) { 1 } else { 2 };
                assert_restores(&repository, point.id, "root", &content(n)).await;
                assert_restores(&repository, point.id, "second", &content(n)).await;
                assert_eq!(&repository.attachment(point.id, "vm.json").await.unwrap()[..], b"{}", "{what}");
            }
            if operation != Operation::Delete {
                assert!(points.iter().any(|p| p.id == point_id(1)), "{what}");
            }
            if result.is_ok() {
                let done = points.iter().any(|p| p.id == point_id(2)) == (operation != Operation::Delete);
                assert!(done, "acknowledged but not there: {what}");
            }
            run(&sound, operation, 2).await.unwrap_or_else(|e| panic!("trying again: {e:?} after {what}"));
            let report = repository.verify(VerifyScope::All, VerifyDepth::Data, &Unobserved).await.unwrap();
            assert_eq!(report.damage, [], "{what}");
            if operation != Operation::Delete {
                assert_restores(&repository, point_id(2), "root", &content(2)).await;
            }
            if !reached {
                break;
            }
        }
    }
    assert!(failures > 10, "only {failures} failures were felt");
}

#[tokio::test]
async fn a_full_backup_survives_every_failure() {
    every_failure(Operation::Full).await;
}

#[tokio::test]
async fn an_incremental_backup_survives_every_failure() {
    every_failure(Operation::Incremental).await;
}

#[tokio::test]
async fn a_deletion_survives_every_failure() {
    every_failure(Operation::Delete).await;
}

/// The same session object tries again after a hiccup, without a new process.
#[tokio::test]
async fn a_session_goes_on_after_a_hiccup() {
    for when in [When::Before, When::After] {
        for at in 1.. {
            let base = Arc::new(MemoryObjects::new());
            let fixture = EngineFixture::create_with(base.clone(), options()).await;
            let faulty = Arc::new(FaultyObjects::new(base.clone(), at, when, Then::Recover));
            let Ok(repository) = fixture.over(faulty.clone()).try_open().await else { continue };
            let Ok(session) = repository.begin(spec(1, 1, None)).await else { continue };
            let source = Arc::new(portolan_block::MemorySource::new(content(1)));
            let failed = session.disk(disk("root", None), source.clone(), &Unobserved).await.is_err();
            let reached = faulty.operations() >= at;
            if failed {
                session.disk(disk("root", None), source, &Unobserved).await.unwrap();
            }
            let first = session.commit(meta(&*fixture.clock)).await;
            let manifest = match first {
                Ok(manifest) => manifest,
                Err(_) => session.commit(meta(&*fixture.clock)).await.unwrap(),
            };
            let again = match session.commit(meta(&*fixture.clock)).await {
                Ok(again) => again,
                Err(_) => session.commit(meta(&*fixture.clock)).await.unwrap(),
            };
            assert_eq!(again, manifest);
            let repository = fixture.try_open().await.unwrap();
            assert_restores(&repository, point_id(1), "root", &content(1)).await;
            if !reached && faulty.operations() < at {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_full_store_says_so_and_recovers() {
    let full = Arc::new(MemoryObjects::with_capacity(120_000));
    let fixture = EngineFixture::create_with(full.clone(), options()).await;
    back_up(&fixture, spec(1, 1, None), 1).await.unwrap();
    let repository = fixture.try_open().await.unwrap();
    let session = repository.begin(spec(2, 1, None)).await.unwrap();
    let source = Arc::new(portolan_block::MemorySource::new(noise(55, 40 * CHUNK)));
    let failed = session.disk(disk("root", None), source, &Unobserved).await;
    assert!(matches!(failed, Err(RepoError::NoSpace)), "{failed:?}");
    assert_restores(&repository, point_id(1), "root", &content(1)).await;
    assert_eq!(repository.points(PointFilter::default()).await.unwrap().len(), 1);
    assert!(repository.usage().await.unwrap().free_bytes.is_some_and(|b| b < 40 * CHUNK as u64));
}

/// Two attempts at one session at the same time: at most one commits, and what it commits is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_over_in_the_middle_is_safe() {
    for round in 0..10 {
        let base = Arc::new(MemoryObjects::new());
        let fixture = Arc::new(EngineFixture::create_with(base, options()).await);
        let attempt = |fence| {
            let fixture = fixture.clone();
            tokio::spawn(async move { back_up(&fixture, spec(1, fence, None), 1).await })
        };
        let (old, new) = (attempt(1), attempt(2));
        let (old, new) = (old.await.unwrap(), new.await.unwrap());
        new.unwrap_or_else(|e| panic!("round {round}: the newer attempt failed: {e:?}"));
        assert!(matches!(old, Ok(()) | Err(RepoError::Fenced)), "round {round}: {old:?}");
        let repository = fixture.try_open().await.unwrap();
        assert_restores(&repository, point_id(1), "root", &content(1)).await;
        assert_restores(&repository, point_id(1), "second", &content(1)).await;
    }
}
