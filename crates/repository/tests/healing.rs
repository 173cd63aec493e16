//! Packs that a check found damaged: the next backup stores anew what it has of them, and older points that need
//! the same chunks are whole again.

#![allow(clippy::unwrap_used)]

use portolan_block::MemorySource;
use portolan_repository::{
    BackupRepository, DiskStats, MemoryObjects, ObjectStore as _, RepoError, Repository, RepositoryOptions, Unobserved,
    VerifyDepth, VerifyReport, VerifyScope,
};
use portolan_testkit::repository::{EngineFixture, assert_restores, disk, meta, noise, point_id, restore, spec};
use std::ops::Range;
use std::sync::Arc;

const CHUNK: usize = 4096;
const ALL: VerifyScope = VerifyScope::All;

/// How the next backup reads the disk.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Next {
    Full,
    /// Compared with the parent, chunk by chunk.
    Compared,
    /// The platform says that nothing has changed.
    Told,
}

/// What happens to a pack.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Harm {
    Flip(usize),
    Cut,
    Remove,
}

async fn one_point() -> (Arc<MemoryObjects>, EngineFixture, Vec<u8>) {
    let store = Arc::new(MemoryObjects::new());
    let options = RepositoryOptions { chunk_bytes: 4096, pack_bytes: 40_000, packs_per_segment: 2, workers: 2 };
    let fixture = EngineFixture::create_with(store.clone(), options).await;
    let mut content = noise(1, 40 * CHUNK + 99);
    content[7 * CHUNK..9 * CHUNK].fill(0);
    back_up(&fixture.try_open().await.unwrap(), &fixture, 1, None, None, &content).await.unwrap();
    (store, fixture, content)
}

async fn back_up(
    repository: &Repository,
    fixture: &EngineFixture,
    n: u128,
    parent: Option<u128>,
    changed: Option<Vec<Range<u64>>>,
    content: &[u8],
) -> Result<DiskStats, RepoError> {
    let session = repository.begin(spec(n, 1, parent)).await?;
    let source = Arc::new(MemorySource::new(content.to_vec()));
    let stats = session.disk(disk("root", changed), source, &Unobserved).await?;
    session.commit(meta(&*fixture.clock)).await?;
    Ok(stats)
}

async fn verify(repository: &Repository, scope: VerifyScope, depth: VerifyDepth) -> VerifyReport {
    repository.verify(scope, depth, &Unobserved).await.unwrap()
}

fn marks(store: &MemoryObjects) -> Vec<String> {
    store.keys().into_iter().filter(|key| key.starts_with("damaged/")).collect()
}

#[tokio::test]
async fn a_backup_heals_what_it_has() {
    let (store, fixture, content) = one_point().await;
    let packs: Vec<String> =
        store.keys().into_iter().filter(|key| key.starts_with("packs/") || key.starts_with("meta/")).collect();
    assert!(packs.len() > 4, "{packs:?}");
    for pack in &packs {
        for harm in [Harm::Flip(60), Harm::Cut, Harm::Remove] {
            for next in [Next::Full, Next::Compared, Next::Told] {
                let what = format!("{harm:?} of {pack}, then {next:?}");
                let rotten = Arc::new(store.fork());
                match harm {
                    Harm::Flip(at) => assert!(rotten.tamper(pack, |bytes| bytes[at] ^= 1)),
                    Harm::Cut => assert!(rotten.tamper(pack, |bytes| bytes.truncate(50))),
                    Harm::Remove => rotten.delete(pack).await.unwrap(),
                }
                let seen = fixture.over(rotten.clone());
                // Open before anybody knows of the damage: what was found is heeded all the same.
                let writer = seen.try_open().await.unwrap();
                let checker = seen.try_open().await.unwrap();
                let report = verify(&checker, VerifyScope::Points(vec![point_id(1)]), VerifyDepth::Data).await;
                assert!(!report.damage.is_empty(), "{what}");
                assert_eq!((report.marked, marks(&rotten).len()), (1, 1), "{what}");
                assert!(restore(&checker, point_id(1), "root").await.is_err(), "{what}");
                let again = verify(&checker, ALL, VerifyDepth::Data).await;
                assert_eq!((again.marked, again.damage.is_empty()), (0, false), "{what}: {again:?}");

                let changed = (next == Next::Told).then(Vec::new);
                let parent = (next != Next::Full).then_some(1);
                let stats = match back_up(&writer, &seen, 2, parent, changed, &content).await {
                    // Without its map a point is no base: then the machine is backed up in full.
                    Err(RepoError::Corrupt { .. }) if next != Next::Full => {
                        back_up(&seen.try_open().await.unwrap(), &seen, 3, None, None, &content).await.unwrap()
                    }
                    other => other.unwrap(),
                };
                if pack.starts_with("packs/") {
                    assert!(stats.new_bytes > 0, "{what}: {stats:?}");
                    assert!(stats.new_bytes <= 10 * CHUNK as u64, "{what}: more than was lost: {stats:?}");
                    if next != Next::Full {
                        assert_eq!(stats.changed_bytes, 0, "{what}: nothing has changed: {stats:?}");
                    }
                }
                // In the process that checked, in the one that wrote, and in a new one.
                for repository in [checker, writer, seen.try_open().await.unwrap()] {
                    for scope in [VerifyScope::Points(vec![point_id(1)]), ALL] {
                        let report = verify(&repository, scope, VerifyDepth::Data).await;
                        assert_eq!(report.damage, [], "{what}");
                    }
                    assert_restores(&repository, point_id(1), "root", &content).await;
                }
                let last = if seen.try_open().await.unwrap().point(point_id(2)).await.is_ok() { 2 } else { 3 };
                assert_restores(&seen.try_open().await.unwrap(), point_id(last), "root", &content).await;
            }
        }
    }
}

#[tokio::test]
async fn what_does_not_come_back_stays_reported() {
    let (store, fixture, content) = one_point().await;
    let pack = store.keys().into_iter().find(|key| key.starts_with("packs/")).unwrap();
    store.delete(&pack).await.unwrap();
    let repository = fixture.try_open().await.unwrap();
    let before = verify(&repository, ALL, VerifyDepth::Data).await;
    let lost: Vec<Range<u64>> = before.damage.iter().filter_map(|d| d.range.clone()).collect();
    let first = lost[0].start as usize;
    // All of the disk is there again, but for one chunk that was overwritten meanwhile.
    let mut changed = content.clone();
    changed[first..first + CHUNK].copy_from_slice(&noise(9, CHUNK));
    back_up(&repository, &fixture, 2, None, None, &changed).await.unwrap();
    let after = verify(&repository, ALL, VerifyDepth::Data).await;
    let [one] = &after.damage[..] else { panic!("{after:?}") };
    assert_eq!((one.point, one.disk.as_deref()), (Some(point_id(1)), Some("root")));
    assert_eq!(one.range, Some(first as u64..(first + CHUNK) as u64));
    assert_restores(&repository, point_id(2), "root", &changed).await;
    assert!(restore(&repository, point_id(1), "root").await.is_err());
}

#[tokio::test]
async fn only_a_check_of_every_chunk_marks_and_a_pack_that_is_back_loses_its_mark() {
    let (store, fixture, content) = one_point().await;
    let pack = store.keys().into_iter().find(|key| key.starts_with("packs/")).unwrap();
    let whole = store.get(&pack, None).await.unwrap();
    store.delete(&pack).await.unwrap();
    let repository = fixture.try_open().await.unwrap();
    for depth in [VerifyDepth::Structure, VerifyDepth::Pack] {
        let report = verify(&repository, ALL, depth).await;
        assert!(!report.damage.is_empty() && report.marked == 0 && marks(&store).is_empty(), "{depth:?}: {report:?}");
    }
    assert_eq!(verify(&repository, ALL, VerifyDepth::Data).await.marked, 1);
    assert_eq!(marks(&store).len(), 1);
    assert!(repository.usage().await.unwrap().stored_bytes > 0);

    // As when a file system was not mounted.
    store.put_new(&pack, whole).await.unwrap();
    let report = verify(&repository, ALL, VerifyDepth::Data).await;
    assert_eq!((report.damage, report.marked), (Vec::new(), 0));
    assert!(marks(&store).is_empty());
    let stats = back_up(&repository, &fixture, 2, None, None, &content).await.unwrap();
    assert_eq!(stats.new_bytes, 0, "everything is there");
}

#[tokio::test]
async fn a_store_that_takes_no_marks_is_checked_all_the_same() {
    use portolan_repository::object::FaultyObjects;
    use portolan_repository::object::faulty::{Then, When};
    let (store, fixture, _) = one_point().await;
    let pack = store.keys().into_iter().find(|key| key.starts_with("packs/")).unwrap();
    store.tamper(&pack, |bytes| bytes[60] ^= 1);
    let expected =
        verify(&fixture.over(Arc::new(store.fork())).try_open().await.unwrap(), ALL, VerifyDepth::Data).await;
    assert_eq!(expected.marked, 1);
    // Each operation fails once. The check fails, or it finds everything: without the mark, when that is what failed.
    let mut unmarked = 0;
    for at in 1.. {
        let failing = Arc::new(FaultyObjects::new(Arc::new(store.fork()), at, When::Before, Then::Recover));
        let Ok(repository) = fixture.over(failing.clone()).try_open().await else { continue };
        if let Ok(report) = repository.verify(ALL, VerifyDepth::Data, &Unobserved).await {
            assert_eq!(report.damage, expected.damage, "operation {at}");
            unmarked += 1 - report.marked;
        }
        if failing.operations() < at {
            break;
        }
    }
    assert_eq!(unmarked, 1);
}
