//! Rotten bytes in every kind of object: verification finds them, and no read returns wrong bytes.

#![allow(clippy::unwrap_used)]

use portolan_block::{BlockError, MemorySource};
use portolan_repository::{
    BackupRepository, Damage, LocalObjects, MemoryObjects, ObjectStore as _, PointFilter, RepoError, Repository,
    RepositoryKey, RepositoryOptions, Unobserved, VerifyDepth, VerifyReport, VerifyScope, verify_packs,
};
use portolan_testkit::repository::{EngineFixture, back_up, disk, meta, noise, point_id, restore, spec};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

const CHUNK: u64 = 4096;

async fn filled() -> (Arc<MemoryObjects>, EngineFixture, Vec<u8>) {
    let store = Arc::new(MemoryObjects::new());
    let options = RepositoryOptions { chunk_bytes: 4096, pack_bytes: 40_000, packs_per_segment: 2, workers: 2 };
    let fixture = EngineFixture::create_with(store.clone(), options).await;
    let repository = fixture.try_open().await.unwrap();
    let mut data = noise(1, 60 * 4096);
    data[5 * 4096..9 * 4096].fill(0);
    back_up(&repository, &*fixture.clock, spec(1, 1, None), None, &data).await.unwrap();
    (store, fixture, data)
}

/// Two points of a machine with two disks: the disk `data` is in both, `root` changes in between.
struct Pair {
    store: Arc<MemoryObjects>,
    fixture: EngineFixture,
    content: BTreeMap<(u128, &'static str), Vec<u8>>,
}

impl Pair {
    async fn new() -> Self {
        let store = Arc::new(MemoryObjects::new());
        let options = RepositoryOptions { chunk_bytes: 4096, pack_bytes: 40_000, packs_per_segment: 2, workers: 2 };
        let fixture = EngineFixture::create_with(store.clone(), options).await;
        let repository = fixture.try_open().await.unwrap();
        let (first, data) = (noise(1, 24 * 4096), noise(2, 9 * 4096 + 100));
        let mut second = first.clone();
        second[3 * 4096..5 * 4096].copy_from_slice(&noise(3, 2 * 4096));
        for (n, root) in [(1, &first), (2, &second)] {
            let session = repository.begin(spec(n, 1, (n > 1).then(|| n - 1))).await.unwrap();
            for (name, content) in [("root", root), ("data", &data)] {
                let source = Arc::new(MemorySource::new(content.clone()));
                session.disk(disk(name, None), source, &Unobserved).await.unwrap();
            }
            session.attach("vm.json", bytes::Bytes::from_static(b"{}")).await.unwrap();
            session.commit(meta(&*fixture.clock)).await.unwrap();
        }
        let content = [((1, "root"), first), ((2, "root"), second), ((1, "data"), data.clone()), ((2, "data"), data)];
        Self { store, fixture, content: content.into() }
    }

    /// The places of all disks that a restore cannot give. Whatever it gives must be right.
    async fn lost(&self, repository: &Repository, what: &str) -> Vec<(u128, &'static str, Range<u64>)> {
        let mut lost = Vec::new();
        for (&(point, name), content) in &self.content {
            let size = content.len() as u64;
            let source = match repository.open_disk(point_id(point), name).await {
                Ok(source) => source,
                Err(RepoError::Corrupt { .. } | RepoError::TooNew { .. }) => {
                    lost.push((point, name, 0..size));
                    continue;
                }
                Err(e) => panic!("{what}: {e:?}"),
            };
            for start in (0..size).step_by(CHUNK as usize) {
                let range = start..(start + CHUNK).min(size);
                match source.read_at(start, (range.end - start) as usize).await {
                    Ok(bytes) => assert!(
                        bytes[..] == content[range.start as usize..range.end as usize],
                        "{what}: wrong bytes at {range:?} of '{name}'"
                    ),
                    Err(BlockError::Corrupt { .. }) => lost.push((point, name, range)),
                    // A map that claims to be of a newer format.
                    Err(BlockError::Io { source, .. }) if source.to_string().contains("format") => {
                        lost.push((point, name, range));
                    }
                    Err(e) => panic!("{what}: {e:?}"),
                }
            }
        }
        lost
    }
}

/// Whether the report says of this place that it is damaged: with disk and range.
fn covers(report: &VerifyReport, point: u128, name: &str, range: &Range<u64>) -> bool {
    let named = |d: &&Damage| d.point == Some(point_id(point)) && d.disk.as_deref() == Some(name);
    report
        .damage
        .iter()
        .filter(named)
        .filter_map(|d| d.range.as_ref())
        .any(|d| d.start <= range.start && range.end <= d.end)
}

#[tokio::test]
async fn every_byte_that_is_lost_is_reported_with_disk_and_range() {
    let pair = Pair::new().await;
    let mut harmless = BTreeSet::new();
    for key in pair.store.keys() {
        let len = pair.fixture.objects.head(&key).await.unwrap() as usize;
        // The head, where versions and salts are, the tail, and places in between.
        let places: BTreeSet<usize> =
            (0..32.min(len)).step_by(3).chain((0..len).step_by((len / 9).max(1))).chain([4, len - 1]).collect();
        for (at, bit) in places.into_iter().zip([0x10, 0x02, 0x80, 0x01].into_iter().cycle()) {
            let what = format!("{key}, byte {at}, bit {bit:#x}");
            let rotten = Arc::new(pair.store.fork());
            assert!(rotten.tamper(&key, |bytes| bytes[at] ^= bit));
            let repository = pair.fixture.over(rotten).try_open().await.unwrap_or_else(|e| panic!("{what}: {e:?}"));
            let lost = pair.lost(&repository, &what).await;
            let report = verify(&repository, VerifyDepth::Data).await;
            assert!(report.damage.iter().any(|d| d.object == key), "{what}: {:?}", report.damage);
            for (point, name, range) in &lost {
                assert!(covers(&report, *point, name, range), "{what}: {range:?} of '{name}': {:?}", report.damage);
            }
            for d in report.damage.iter().filter(|d| d.range.is_some()) {
                assert!(d.point.is_some() && d.disk.is_some(), "{what}: {d:?}");
            }
            if lost.is_empty() {
                harmless.insert(key.split('/').next().unwrap().to_owned());
            }
            // Asked for one point alone, what only others need is none of its damage.
            for point in [1, 2] {
                let scope = VerifyScope::Points(vec![point_id(point)]);
                let report = repository.verify(scope, VerifyDepth::Data, &Unobserved).await.unwrap();
                let hit = lost.iter().any(|(lost, ..)| *lost == point);
                assert!(!hit || !report.damage.is_empty(), "{what}: point {point}");
                assert!(report.damage.iter().all(|d| d.point != Some(point_id(3 - point))), "{what}: {report:?}");
            }
        }
    }
    // There are two configs, and no restore needs a session. Nothing stands in for a manifest.
    for class in ["config", "config.copy", "sessions"] {
        assert!(harmless.contains(class), "{harmless:?}");
    }
    assert!(!harmless.contains("points"), "{harmless:?}");
}

#[tokio::test]
async fn what_one_copy_of_the_config_saves_the_loss_of_both_does_not() {
    let pair = Pair::new().await;
    let repository = pair.fixture.try_open().await.unwrap();
    pair.store.tamper("config", |bytes| bytes[60] ^= 1);
    let [one] = &verify(&repository, VerifyDepth::Structure).await.damage[..] else { panic!() };
    assert_eq!((one.object.as_str(), one.point, &one.disk), ("config", None, &None));
    assert!(one.what.contains("no disk is affected"), "{one:?}");

    // Still open: only this process can read what is there.
    pair.store.tamper("config.copy", |bytes| bytes[60] ^= 1);
    let report = verify(&repository, VerifyDepth::Structure).await;
    for (&(point, name), content) in &pair.content {
        assert!(covers(&report, point, name, &(0..content.len() as u64)), "{report:?}");
    }
}

#[tokio::test]
async fn a_damaged_segment_names_what_it_alone_lists() {
    let pair = Pair::new().await;
    let segments: Vec<String> = pair.store.keys().into_iter().filter(|k| k.starts_with("index/")).collect();
    assert!(segments.len() > 2, "{segments:?}");
    for key in &segments {
        pair.store.tamper(key, |bytes| bytes[50] ^= 1);
    }
    let repository = pair.fixture.try_open().await.unwrap();
    let report = verify(&repository, VerifyDepth::Structure).await;
    for (&(point, name), content) in &pair.content {
        assert!(covers(&report, point, name, &(0..content.len() as u64)), "{report:?}");
    }
    for key in &segments {
        assert!(report.damage.iter().any(|d| d.object == *key), "{report:?}");
    }

    // The packs list themselves: then the damaged segments are needed by nothing.
    assert!(repository.repair_index().await.unwrap() > 0);
    let report = verify(&repository, VerifyDepth::Data).await;
    assert_eq!(report.damage.len(), segments.len(), "{report:?}");
    assert!(report.damage.iter().all(|d| d.point.is_none() && d.what.contains("nothing that is needed")), "{report:?}");
    assert!(pair.lost(&repository, "repaired").await.is_empty());
    for point in [1, 2] {
        let scope = VerifyScope::Points(vec![point_id(point)]);
        let report = repository.verify(scope, VerifyDepth::Data, &Unobserved).await.unwrap();
        assert_eq!(report.damage, [], "no damage of this point");
    }
}

#[tokio::test]
async fn a_lost_manifest_names_its_disks_where_its_session_is_known() {
    let pair = Pair::new().await;
    let key = format!("points/{}", point_id(2));
    pair.store.tamper(&key, |bytes| bytes.truncate(40));
    let repository = pair.fixture.try_open().await.unwrap();
    let report = verify(&repository, VerifyDepth::Structure).await;
    assert!(report.damage.iter().all(|d| d.object == key && d.point == Some(point_id(2))), "{report:?}");
    for name in ["root", "data"] {
        assert!(covers(&report, 2, name, &(0..pair.content[&(2, name)].len() as u64)), "{report:?}");
    }
    let session = format!("sessions/{}", spec(2, 1, None).id);
    pair.store.tamper(&session, |bytes| bytes.truncate(40));
    let report = verify(&repository, VerifyDepth::Structure).await;
    let point = report.damage.iter().find(|d| d.object == key).unwrap();
    assert_eq!((point.point, &point.disk), (Some(point_id(2)), &None), "{report:?}");
    assert!(report.damage.iter().any(|d| d.object == session && d.what.contains("no disk")), "{report:?}");
}

async fn verify(repository: &Repository, depth: VerifyDepth) -> VerifyReport {
    repository.verify(VerifyScope::All, depth, &Unobserved).await.unwrap()
}

/// Flips bits all over an object: its head, its tail and places in between.
fn places(len: usize) -> impl Iterator<Item = usize> {
    let step = (len / 40).max(1);
    let mut places: BTreeSet<usize> = (0..len).step_by(step).collect();
    places.extend((0..40.min(len)).chain(len.saturating_sub(72)..len));
    places.into_iter()
}

#[tokio::test]
async fn flipped_bits_are_found_and_never_read() {
    let (store, fixture, data) = filled().await;
    let mut classes = BTreeSet::new();
    for key in store.keys() {
        let class = key.split('/').next().unwrap().to_owned();
        // One object of a class is like the others.
        if !classes.insert(class.clone()) && class != "packs" {
            continue;
        }
        let len = fixture.objects.head(&key).await.unwrap() as usize;
        for at in places(len) {
            let rotten = Arc::new(store.fork());
            assert!(rotten.tamper(&key, |bytes| bytes[at] ^= 0x10));
            let seen = fixture.over(rotten.clone());
            let repository = match seen.try_open().await {
                Ok(repository) => repository,
                Err(e) => panic!("{key} at {at}: one rotten object must not keep the repository shut: {e:?}"),
            };
            match restore(&repository, point_id(1), "root").await {
                Ok(restored) => assert!(restored == data, "{key} at {at}: wrong bytes were restored"),
                Err(RepoError::Corrupt { .. } | RepoError::TooNew { .. }) => {}
                Err(RepoError::Source { source: BlockError::Corrupt { .. }, .. }) => {}
                Err(e) => panic!("{key} at {at}: {e:?}"),
            }
            let report = match repository.verify(VerifyScope::All, VerifyDepth::Data, &Unobserved).await {
                Ok(report) => report,
                // A version byte that claims to be newer.
                Err(RepoError::TooNew { .. }) => continue,
                Err(e) => panic!("{key} at {at}: {e:?}"),
            };
            assert!(!report.damage.is_empty(), "{key} at {at}: nothing was found");
            let named = report.damage.iter().any(|d| d.object == key);
            assert!(named, "{key} at {at}: {:?}", report.damage);
            let listed = repository.points(PointFilter::default()).await;
            assert_eq!(listed.is_ok(), class != "points", "{key} at {at}: an error, never a shorter list");
            if class == "packs" || class == "meta" {
                let keyless = verify_packs(&*rotten, &*fixture.clock, &Unobserved).await.unwrap();
                assert_eq!(keyless.damage.iter().map(|d| &d.object).collect::<Vec<_>>(), [&key], "at {at}");
            }
        }
    }
    let all = ["config", "config.copy", "index", "meta", "packs", "points", "sessions"];
    assert_eq!(classes, all.map(str::to_owned).into());
}

#[tokio::test]
async fn damage_is_traced_to_disk_and_range() {
    let (store, fixture, data) = filled().await;
    let repository = fixture.try_open().await.unwrap();
    let source = repository.open_disk(point_id(1), "root").await.unwrap();
    // The frames are written in any order: find by reading where the damage must show.
    let pack = store.keys().into_iter().find(|k| k.starts_with("packs/")).unwrap();
    let rotten = Arc::new(store.fork());
    rotten.tamper(&pack, |bytes| bytes[40] ^= 1);
    let seen = fixture.over(rotten.clone()).try_open().await.unwrap();
    let rotten_source = seen.open_disk(point_id(1), "root").await.unwrap();
    let mut bad = Vec::new();
    for at in (0..data.len() as u64).step_by(CHUNK as usize) {
        let expected = source.read_at(at, CHUNK as usize).await.unwrap();
        match rotten_source.read_at(at, CHUNK as usize).await {
            Ok(bytes) => assert_eq!(bytes, expected),
            Err(BlockError::Corrupt { offset, .. }) => bad.push(offset..offset + CHUNK),
            Err(e) => panic!("{e:?}"),
        }
    }
    assert_eq!(bad.len(), 1, "one flipped bit is in one chunk");
    let report = verify(&seen, VerifyDepth::Data).await;
    let [Damage { object, point, disk, range, .. }] = &report.damage[..] else { panic!("{:?}", report.damage) };
    assert_eq!((object, *point, disk.as_deref()), (&pack, Some(point_id(1)), Some("root")));
    assert_eq!(range.as_ref(), Some(&bad[0]));
    // Without opening frames all of the pack is suspect.
    let suspect = verify(&seen, VerifyDepth::Pack).await;
    assert!(suspect.damage.iter().all(|d| d.object == pack && d.range.is_some()));
    assert!(suspect.damage.iter().any(|d| d.range.as_ref().is_some_and(|r| r.contains(&bad[0].start))));
    assert_eq!(verify(&seen, VerifyDepth::Structure).await.damage, []);

    // Cut short and gone are seen without reading.
    for what in ["cut", "gone"] {
        let rotten = Arc::new(store.fork());
        if what == "cut" {
            rotten.tamper(&pack, |bytes| bytes.truncate(100));
        } else {
            rotten.delete(&pack).await.unwrap();
        }
        let seen = fixture.over(rotten).try_open().await.unwrap();
        let report = verify(&seen, VerifyDepth::Structure).await;
        let sound = report.damage.iter().all(|d| d.object == pack && d.disk.is_some() && d.range.is_some());
        assert!(sound && !report.damage.is_empty(), "{what}: {:?}", report.damage);
        assert!(restore(&seen, point_id(1), "root").await.is_err());
    }
}

#[tokio::test]
async fn a_lost_index_is_repaired_from_the_packs() {
    let (store, fixture, data) = filled().await;
    for key in store.keys().into_iter().filter(|k| k.starts_with("index/")) {
        store.delete(&key).await.unwrap();
    }
    let repository = fixture.try_open().await.unwrap();
    assert!(matches!(restore(&repository, point_id(1), "root").await, Err(RepoError::Corrupt { .. })));
    assert!(!verify(&repository, VerifyDepth::Structure).await.damage.is_empty());
    assert!(repository.repair_index().await.unwrap() > 0);
    assert_eq!(repository.repair_index().await.unwrap(), 0);
    assert!(restore(&fixture.try_open().await.unwrap(), point_id(1), "root").await.unwrap() == data);
    assert_eq!(verify(&repository, VerifyDepth::Data).await.damage, []);
}

#[tokio::test]
async fn keys_open_or_do_not() {
    let (store, fixture, data) = filled().await;
    let open = |key: &RepositoryKey| {
        let key = key.clone();
        let fixture = &fixture;
        async move { Repository::open(fixture.objects.clone(), fixture.env(), &key).await }
    };
    assert!(matches!(open(&RepositoryKey::raw([9; 32])).await, Err(RepoError::WrongKey)));
    let repository = fixture.try_open().await.unwrap();
    let recovery = repository.add_recovery_slot().await.unwrap();
    let cost = portolan_repository::PassphraseCost { memory_kib: 64, passes: 1 };
    let phrase = |text: &str| RepositoryKey::passphrase_with(text, cost);
    let phrase_slot = repository.add_slot(&phrase("correct horse"), "operator").await.unwrap();
    assert_eq!(repository.slots().len(), 4);
    assert_eq!(repository.describe().await.unwrap().key_slots, 4);

    // The first slot's key is lost: the printed key opens everything.
    let text = recovery.reveal().to_lowercase().replace('-', " ");
    let recovered = open(&RepositoryKey::recovery(&text).unwrap()).await.unwrap();
    assert!(restore(&recovered, point_id(1), "root").await.unwrap() == data);
    assert!(open(&phrase("correct horse")).await.is_ok());
    assert!(matches!(open(&phrase("wrong horse")).await, Err(RepoError::WrongKey)));

    recovered.remove_slot(phrase_slot).await.unwrap();
    assert!(matches!(open(&phrase("correct horse")).await, Err(RepoError::WrongKey)));
    assert!(matches!(recovered.remove_slot(phrase_slot).await, Err(RepoError::NotFound { .. })));
    for slot in recovered.slots().iter().skip(1) {
        recovered.remove_slot(slot.id).await.unwrap();
    }
    let last = recovered.slots()[0].id;
    assert!(matches!(recovered.remove_slot(last).await, Err(RepoError::Conflict(_))));
    assert!(matches!(open(&recovery.key()).await, Err(RepoError::WrongKey)));
    assert!(open(&fixture.key).await.is_ok());

    // A rotten config: the copy stands in. Both rotten: damage, not a wrong key.
    assert!(store.tamper("config", |bytes| bytes[60] ^= 1));
    assert!(open(&fixture.key).await.is_ok());
    assert!(store.tamper("config.copy", |bytes| bytes[60] ^= 1));
    assert!(matches!(open(&fixture.key).await, Err(RepoError::Corrupt { .. })));
    for name in ["config", "config.copy"] {
        store.tamper(name, |bytes| *bytes = b"portolan-repository 2\nwhatever".to_vec());
    }
    assert!(matches!(open(&fixture.key).await, Err(RepoError::TooNew { found: 2, known: 1 })));
    let again = Repository::create(fixture.objects.clone(), fixture.env(), &fixture.key).await;
    assert!(matches!(again, Err(RepoError::Conflict(_))));
    let empty = Repository::open(Arc::new(MemoryObjects::new()), fixture.env(), &fixture.key).await;
    assert!(matches!(empty, Err(RepoError::NotFound { what: "repository", .. })));
}

#[test]
fn recovery_keys_survive_paper_and_not_typing_errors() {
    let ids = portolan_testkit::clock::SeededIds::new(3);
    let key = RepositoryKey::generate(&ids);
    assert_eq!(format!("{key:?}"), "***");
    assert!(RepositoryKey::recovery("").is_err());
    assert!(RepositoryKey::recovery("not a key at all").is_err());
    assert!(RepositoryKey::recovery(&"0".repeat(60)).is_err());
    assert!(RepositoryKey::recovery(&"Z".repeat(61)).is_err());
}

#[tokio::test]
async fn a_mistyped_recovery_key_is_noticed() {
    let (_, fixture, _) = filled().await;
    let recovery = fixture.try_open().await.unwrap().add_recovery_slot().await.unwrap();
    assert_eq!(format!("{recovery:?} {recovery}"), "*** ***");
    let text = recovery.reveal();
    assert_eq!(text.len(), 60 + 11);
    for at in (0..text.len()).filter(|at| text.as_bytes()[*at] != b'-') {
        let mut typed = text.as_bytes().to_vec();
        typed[at] = if typed[at] == b'7' { b'8' } else { b'7' };
        assert!(RepositoryKey::recovery(&String::from_utf8(typed).unwrap()).is_err(), "letter {at}");
    }
    assert!(RepositoryKey::recovery(&text[..text.len() - 1]).is_err());
}

#[tokio::test]
async fn a_directory_keeps_links_and_leftovers_out() {
    use portolan_repository::ObjectError;
    use std::os::unix::fs::symlink;
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(outside.path().join("secret"), b"secret").unwrap();
    let objects = LocalObjects::open(root.path()).unwrap();
    objects.put_new("points/a", bytes::Bytes::from_static(b"x")).await.unwrap();
    symlink(outside.path(), root.path().join("packs")).unwrap();
    symlink(outside.path().join("secret"), root.path().join("points/b")).unwrap();
    for key in ["packs/secret", "points/b"] {
        assert!(matches!(objects.get(key, None).await, Err(ObjectError::InvalidKey(_))), "{key}");
    }
    assert!(objects.put_new("packs/new", bytes::Bytes::new()).await.is_err());
    assert!(objects.put_new("points/b", bytes::Bytes::new()).await.is_err());
    assert!(objects.list("packs/").await.is_err(), "an error, never a shorter list");
    assert!(objects.list("points/").await.is_err());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);

    // What a dead process left is swept; what a live one is writing is not.
    let dead = root.path().join(".tmp/w77-0");
    std::fs::write(&dead, b"half").unwrap();
    let mine = root.path().join(".tmp/w0-5");
    std::fs::write(&mine, b"being written").unwrap();
    std::fs::remove_file(root.path().join("points/b")).unwrap();
    let second = LocalObjects::open(root.path()).unwrap();
    assert!(!dead.exists() && mine.exists());
    assert_eq!(second.list("points/").await.unwrap().len(), 1);
    drop((objects, second));
    LocalObjects::open(root.path()).unwrap();
    assert!(!mine.exists());
}
