//! Random histories against a map of byte strings. `PORTOLAN_SOAK` multiplies the number of cases.

#![allow(clippy::unwrap_used)]

use portolan_block::MemorySource;
use portolan_repository::object::FaultyObjects;
use portolan_repository::object::faulty::{Then, When};
use portolan_repository::{
    BackupRepository, MemoryObjects, ObjectStore, PointFilter, RepoError, Repository, RepositoryOptions, Unobserved,
    VerifyDepth, VerifyScope,
};
use portolan_testkit::repository::{EngineFixture, disk, meta, noise, point_id, restore, spec};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

#[derive(Debug, Clone)]
enum Step {
    /// Writes noise, or zeros for seed 0.
    Write {
        at: usize,
        len: usize,
        seed: u64,
    },
    Resize(usize),
    /// Backs up; `known` passes what changed, and the store may crash at an operation.
    BackUp {
        parent: bool,
        known: bool,
        crash: Option<u64>,
    },
    Delete(usize),
    Reopen,
    Verify,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0usize..400_000, 1usize..60_000, 0u64..6).prop_map(|(at, len, seed)| Step::Write { at, len, seed }),
        1 => (0usize..400_000).prop_map(Step::Resize),
        5 => (any::<bool>(), any::<bool>(), prop::option::weighted(0.4, 1u64..40))
            .prop_map(|(parent, known, crash)| Step::BackUp { parent, known, crash }),
        1 => (0usize..8).prop_map(Step::Delete),
        1 => Just(Step::Reopen),
        1 => Just(Step::Verify),
    ];
    prop::collection::vec(step, 1..24)
}

struct World {
    store: Arc<MemoryObjects>,
    fixture: EngineFixture,
    repository: Repository,
    live: Vec<u8>,
    dirty: Vec<Range<u64>>,
    last: Option<u128>,
    next: u128,
    fence: i64,
    model: BTreeMap<u128, Vec<u8>>,
}

impl World {
    async fn new() -> Self {
        let store = Arc::new(MemoryObjects::new());
        let options = RepositoryOptions { chunk_bytes: 4096, pack_bytes: 50_000, packs_per_segment: 2, workers: 2 };
        let fixture = EngineFixture::create_with(store.clone(), options).await;
        let repository = fixture.try_open().await.unwrap();
        let live = vec![0; 300_000];
        let model = BTreeMap::new();
        Self { store, fixture, repository, live, dirty: Vec::new(), last: None, next: 1, fence: 1, model }
    }

    async fn session(&self, repository: &Repository, parent: bool, known: bool) -> Result<(), RepoError> {
        let parent = self.last.filter(|p| parent && self.model.contains_key(p));
        let session = repository.begin(spec(self.next, self.fence, parent)).await?;
        let changed = (known && parent.is_some()).then(|| portolan_block::union(self.dirty.clone()));
        let source = Arc::new(MemorySource::new(self.live.clone()));
        session.disk(disk("root", changed), source, &Unobserved).await?;
        session.commit(meta(&*self.fixture.clock)).await.map(drop)
    }

    async fn back_up(&mut self, parent: bool, known: bool, crash: Option<u64>) {
        if let Some(at) = crash {
            let store = self.store.clone() as Arc<dyn ObjectStore>;
            let when = if at % 2 == 0 { When::Before } else { When::After };
            let faulty = Arc::new(FaultyObjects::new(store, at, when, Then::StayDown));
            if let Ok(crashing) = self.fixture.over(faulty).try_open().await {
                let _ = self.session(&crashing, parent, known).await;
            }
            self.fence += 1;
        }
        self.session(&self.repository, parent, known).await.unwrap();
        self.model.insert(self.next, self.live.clone());
        self.last = Some(self.next);
        self.next += 1;
        self.dirty.clear();
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Write { at, len, seed } => {
                let at = at.min(self.live.len());
                let end = (at + len).min(self.live.len());
                let content = if seed == 0 { vec![0; end - at] } else { noise(seed, end - at) };
                self.live[at..end].copy_from_slice(&content);
                self.dirty.push(at as u64..end as u64);
            }
            Step::Resize(len) => {
                // What is cut off and comes back as zeros has changed.
                let before = self.live.len();
                self.live.resize(len, 0);
                self.dirty.push(before.min(len) as u64..before.max(len) as u64);
            }
            Step::BackUp { parent, known, crash } => self.back_up(parent, known, crash).await,
            Step::Delete(n) => {
                let Some(point) = self.model.keys().nth(n).copied() else { return };
                self.repository.delete(point_id(point)).await.unwrap();
                self.model.remove(&point);
            }
            Step::Reopen => self.repository = self.fixture.try_open().await.unwrap(),
            Step::Verify => {
                let report = self.repository.verify(VerifyScope::All, VerifyDepth::Data, &Unobserved).await.unwrap();
                assert_eq!(report.damage, []);
            }
        }
    }

    async fn check(&self) {
        let listed = self.repository.points(PointFilter::default()).await.unwrap();
        let mut ids: Vec<_> = listed.iter().map(|p| p.id).collect();
        ids.sort();
        assert_eq!(ids, self.model.keys().map(|n| point_id(*n)).collect::<Vec<_>>());
        let mut before: Option<(u128, &Vec<u8>)> = None;
        for (n, data) in &self.model {
            assert!(restore(&self.repository, point_id(*n), "root").await.unwrap() == *data, "point {n}");
            if let Some((base, old)) = before {
                let ranges = self.repository.changed(point_id(base), point_id(*n), "root").await.unwrap();
                let mut patched = old.clone();
                patched.resize(data.len(), 0);
                for r in ranges {
                    let r = r.start as usize..r.end as usize;
                    patched[r.clone()].copy_from_slice(&data[r]);
                }
                assert!(patched == *data, "what changed from {base} to {n}");
            }
            before = Some((*n, data));
        }
    }
}

fn cases() -> u32 {
    let soak: u32 = std::env::var("PORTOLAN_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    128 * soak.max(1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories_agree_with_the_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world.step(step).await;
            }
            world.check().await;
        });
    }
}
