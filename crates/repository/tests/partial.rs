//! Chunks of which a part was told as changed: the rest comes from the parent, or from the source where that is lost.

#![allow(clippy::unwrap_used)]

use portolan_repository::{
    BackupRepository, DiskStats, MemoryObjects, ObjectStore as _, Repository, RepositoryOptions, Unobserved,
    VerifyDepth, VerifyScope,
};
use portolan_testkit::repository::{EngineFixture, ProbeSource, assert_restores, disk, meta, noise, point_id, spec};
use proptest::prelude::*;
use std::ops::Range;
use std::sync::Arc;

const CHUNK: usize = 128 * 1024;
const BLOCK: usize = 4096;

async fn fixture(store: &Arc<MemoryObjects>) -> EngineFixture {
    let options = RepositoryOptions { pack_bytes: 300_000, packs_per_segment: 2, workers: 2, ..Default::default() };
    EngineFixture::create_with(store.clone(), options).await
}

/// Backs up, and says what that came to, what the map's root is and what was read.
async fn back_up(
    repository: &Repository,
    fixture: &EngineFixture,
    n: u128,
    parent: Option<u128>,
    changed: Option<Vec<Range<u64>>>,
    content: &[u8],
) -> (DiskStats, String, Vec<Range<u64>>) {
    let source = ProbeSource::new(content.to_vec());
    let session = repository.begin(spec(n, 1, parent)).await.unwrap();
    let stats = session.disk(disk("root", changed), source.clone(), &Unobserved).await.unwrap();
    let point = session.commit(meta(&*fixture.clock)).await.unwrap();
    assert_eq!(stats.read_bytes, source.bytes_read());
    let mut reads = source.reads.lock().unwrap().clone();
    reads.sort_by_key(|r| r.start);
    (stats, point.disks[0].root.clone(), reads)
}

fn range(at: usize, len: usize) -> Range<u64> {
    at as u64..(at + len) as u64
}

#[derive(Debug, Clone)]
enum Change {
    /// Noise, or zeros for seed 0.
    Write {
        at: usize,
        len: usize,
        seed: u64,
    },
    Resize(usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let write = (0..9 * CHUNK, 1..CHUNK, 0u64..3).prop_map(|(at, len, seed)| Change::Write { at, len, seed });
    let block = (0..9 * CHUNK / BLOCK, 1..40usize, 0u64..3).prop_map(|(at, len, seed)| Change::Write {
        at: at * BLOCK,
        len: len * BLOCK,
        seed,
    });
    let change = prop_oneof![2 => write, 4 => block, 1 => (1..9 * CHUNK).prop_map(Change::Resize)];
    prop::collection::vec(change, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever changed, what was told and what was compared make the same map, and nothing else is read.
    #[test]
    fn told_parts_make_the_same_point_as_all_of_it(rounds in prop::collection::vec(changes(), 1..4)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let store = Arc::new(MemoryObjects::new());
            let told_fixture = fixture(&store).await;
            let told = told_fixture.try_open().await.unwrap();
            // The same keys, so that maps can be compared.
            let full_fixture = told_fixture.over(Arc::new(store.fork()));
            let full = full_fixture.try_open().await.unwrap();
            let mut live = noise(9, 6 * CHUNK + 777);
            live[2 * CHUNK..4 * CHUNK + 5].fill(0);
            back_up(&told, &told_fixture, 1, None, None, &live).await;
            for (changes, n) in rounds.iter().zip(2u128..) {
                let mut dirty = Vec::new();
                for change in changes {
                    match change {
                        Change::Write { at, len, seed } => {
                            let at = (*at).min(live.len());
                            let end = (at + len).min(live.len());
                            let new = if *seed == 0 { vec![0; end - at] } else { noise(*seed, end - at) };
                            live[at..end].copy_from_slice(&new);
                            dirty.push(range(at, end - at));
                        }
                        Change::Resize(len) => {
                            let (from, to) = (live.len().min(*len), live.len().max(*len));
                            live.resize(*len, 0);
                            dirty.push(range(from, to - from));
                        }
                    }
                }
                let dirty = portolan_block::union(dirty);
                let (stats, root, _) = back_up(&told, &told_fixture, n, Some(n - 1), Some(dirty.clone()), &live).await;
                let (_, whole, _) = back_up(&full, &full_fixture, n, None, None, &live).await;
                assert_eq!(root, whole, "{changes:?}");
                // Each range may touch a block at both ends, and a quarter of a chunk that nobody named.
                let most: u64 = dirty.iter().map(|r| r.end - r.start + 2 * BLOCK as u64 + 2 * 32 * 1024).sum();
                let resized = changes.iter().any(|c| matches!(c, Change::Resize(_)));
                assert!(resized || stats.read_bytes <= most, "{} of {most} for {dirty:?}", stats.read_bytes);
                assert_restores(&told, point_id(n), "root", &live).await;
            }
            let report = told.verify(VerifyScope::All, VerifyDepth::Data, &Unobserved).await.unwrap();
            assert_eq!(report.damage, []);
        });
    }
}

#[tokio::test]
async fn only_what_was_told_is_read() {
    let store = Arc::new(MemoryObjects::new());
    let fixture = fixture(&store).await;
    let repository = fixture.try_open().await.unwrap();
    let mut live = noise(1, 8 * CHUNK);
    live[5 * CHUNK..6 * CHUNK].fill(0);
    back_up(&repository, &fixture, 1, None, None, &live).await;
    // Half of a chunk, the start of the next, a part of a hole, a part that has become zeros, and most of one.
    let half = CHUNK / 2;
    live[CHUNK + half..2 * CHUNK + BLOCK].copy_from_slice(&noise(2, half + BLOCK));
    live[5 * CHUNK + half..6 * CHUNK].copy_from_slice(&noise(3, half));
    live[4 * CHUNK..4 * CHUNK + half].fill(0);
    live[7 * CHUNK + BLOCK..8 * CHUNK].copy_from_slice(&noise(4, CHUNK - BLOCK));
    let told = vec![
        range(CHUNK + half, half + BLOCK),
        range(4 * CHUNK, half),
        range(5 * CHUNK + half, half),
        range(7 * CHUNK + BLOCK, CHUNK - BLOCK),
    ];
    let (stats, _, reads) = back_up(&repository, &fixture, 2, Some(1), Some(told), &live).await;
    let expected = [range(CHUNK + half, half + BLOCK), range(5 * CHUNK + half, half), range(7 * CHUNK, CHUNK)];
    assert_eq!(reads, expected);
    assert_eq!(stats.changed_bytes, 5 * CHUNK as u64);
    assert_restores(&repository, point_id(2), "root", &live).await;
}

#[tokio::test]
async fn a_parent_that_is_lost_is_made_up_for_by_the_source() {
    let store = Arc::new(MemoryObjects::new());
    let fixture = fixture(&store).await;
    let mut live = noise(1, 8 * CHUNK);
    back_up(&fixture.try_open().await.unwrap(), &fixture, 1, None, None, &live).await;
    let half = CHUNK / 2;
    let mut told = Vec::new();
    for n in 0..8 {
        live[n * CHUNK + half..(n + 1) * CHUNK].copy_from_slice(&noise(10 + n as u64, half));
        told.push(range(n * CHUNK + half, half));
    }
    let packs: Vec<String> = store.keys().into_iter().filter(|key| key.starts_with("packs/")).collect();
    assert!(packs.len() > 2, "{packs:?}");
    for pack in &packs {
        for harm in ["flipped", "cut", "removed"] {
            let rotten = Arc::new(store.fork());
            match harm {
                "flipped" => assert!(rotten.tamper(pack, |bytes| bytes.iter_mut().skip(40).for_each(|b| *b ^= 1))),
                "cut" => assert!(rotten.tamper(pack, |bytes| bytes.truncate(50))),
                _ => rotten.delete(pack).await.unwrap(),
            }
            let seen = fixture.over(rotten);
            let repository = seen.try_open().await.unwrap();
            let (stats, ..) = back_up(&repository, &seen, 2, Some(1), Some(told.clone()), &live).await;
            // Twice a half of those chunks, and once a half of the others: never more than all of it once and a half.
            assert!(stats.read_bytes > 4 * CHUNK as u64, "{harm}: {stats:?}");
            assert!(stats.read_bytes <= 12 * CHUNK as u64, "{harm}: {stats:?}");
            assert_restores(&repository, point_id(2), "root", &live).await;
        }
    }
}
