//! The master key: its file, and its check against the store.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use common::World;
use portolan_access::{
    AccessError, KeyError, KeyFile, KeyProblem, KeySource, MasterKey, Secrets, credential_path, unlock,
};
use portolan_model::{Scope, Secret};
use portolan_storage::{Setting, StorageExt, UnitOfWork};
use portolan_testkit::clock::SeededIds;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

async fn open(world: &World, path: &Path) -> Result<portolan_access::Vault, AccessError> {
    unlock(world.storage.as_ref(), &KeyFile::new(path), world.clock.as_ref(), world.ids.as_ref()).await
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_key_file_is_made_once_private_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys/master.key");
    let made = KeyFile::load_or_create(&path, &SeededIds::new(1)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    let again = KeyFile::load_or_create(&path, &SeededIds::new(2)).unwrap();
    assert_eq!(made.to_text(), again.to_text());
}

#[test]
fn makers_at_the_same_time_agree_on_one_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master.key");
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|seed| {
                scope.spawn({
                    let path = &path;
                    move || KeyFile::load_or_create(path, &SeededIds::new(seed)).unwrap().to_text()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(made.windows(2).all(|w| w[0] == w[1]));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn exposed_cut_and_foreign_files_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master.key");
    let ids = SeededIds::new(1);
    KeyFile::load_or_create(&path, &ids).unwrap();
    for mode in [0o640, 0o604, 0o660, 0o601] {
        chmod(&path, mode);
        let error = KeyFile::load_or_create(&path, &ids).unwrap_err();
        assert!(matches!(error, KeyError::Exposed { mode: m, .. } if m == mode), "{error}");
    }
    chmod(&path, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    for (content, problem) in [
        (String::new(), KeyProblem::Truncated),
        (text[..40].to_owned(), KeyProblem::Truncated),
        ("x".repeat(10_000), KeyProblem::NotAKey),
        (text.replacen(":v1:", ":v9:", 1), KeyProblem::Version("v9".into())),
    ] {
        fs::write(&path, &content).unwrap();
        let error = KeyFile::load_or_create(&path, &ids).unwrap_err();
        assert!(matches!(&error, KeyError::Format { source, .. } if *source == problem), "{error:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content, "never overwritten");
    }
    assert!(KeyFile::load_or_create(dir.path(), &ids).is_err(), "a directory is no key");
}

#[tokio::test]
async fn candidates_are_looked_at_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let [credential, given, own] = ["credentials/key", "given", "own"].map(|name| dir.path().join(name));
    let found = credential_path(Some(&dir.path().join("credentials")), "key");
    assert_eq!(found.as_ref(), Some(&credential));
    assert_eq!(credential_path(Some(dir.path()), "../key"), None);
    assert_eq!(credential_path(None, "key"), None);
    let source = KeyFile::new(&own).or_before(&given).or_credential_before(found);
    assert!(source.load().await.unwrap().is_none());
    let text = |key: MasterKey| key.to_text();
    let made = text(source.create(&SeededIds::new(1)).await.unwrap());
    assert!(own.exists() && !given.exists());
    let key = |seed| MasterKey::generate(&SeededIds::new(seed)).to_text();
    fs::create_dir(dir.path().join("credentials")).unwrap();
    fs::write(&credential, key(2).as_bytes()).unwrap();
    chmod(&credential, 0o440);
    assert_eq!(text(source.load().await.unwrap().unwrap()), key(2), "the group may show as a reader");
    fs::write(&given, key(3).as_bytes()).unwrap();
    chmod(&given, 0o600);
    assert_eq!(text(source.create(&SeededIds::new(4)).await.unwrap()), key(3));
    fs::remove_file(&given).unwrap();
    fs::remove_file(&credential).unwrap();
    assert_eq!(text(source.load().await.unwrap().unwrap()), made);
}

#[tokio::test]
async fn the_right_key_unlocks_again_and_a_wrong_one_does_not() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let path = dir.path().join("master.key");
    open(&world, &path).await.unwrap();
    open(&world, &path).await.unwrap();
    let other = dir.path().join("other.key");
    KeyFile::load_or_create(&other, &SeededIds::new(77)).unwrap();
    assert!(matches!(open(&world, &other).await, Err(AccessError::KeyMismatch { .. })));
}

#[tokio::test]
async fn a_lost_key_is_never_replaced() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let path = dir.path().join("master.key");
    let vault = open(&world, &path).await.unwrap();
    let secrets = Secrets::new(world.storage.clone(), &vault, world.clock.clone(), world.ids.clone());
    secrets.put("platform:1:password", &Secret::new("hunter2")).await.unwrap();
    let kept = dir.path().join("kept");
    fs::rename(&path, &kept).unwrap();
    assert!(matches!(open(&world, &path).await, Err(AccessError::KeyMissing { .. })));
    assert!(!path.exists(), "no new key is made");
    // The check value is lost as well: the secrets themselves still tell.
    let unit = UnitOfWork::new().delete::<Setting>(Setting::id_of("master_key_check"));
    world.storage.apply_all(portolan_model::Timestamp::from_millis(0), unit).await.unwrap();
    assert!(matches!(open(&world, &path).await, Err(AccessError::KeyMissing { .. })));
    assert!(!path.exists());
    KeyFile::load_or_create(&path, &SeededIds::new(77)).unwrap();
    assert!(matches!(open(&world, &path).await, Err(AccessError::KeyMismatch { .. })));
    open(&world, &kept).await.unwrap();
    assert!(world.storage.find::<Setting>(Scope::All, Setting::id_of("master_key_check")).await.unwrap().is_some());
    assert!(matches!(open(&world, &path).await, Err(AccessError::KeyMismatch { .. })));
}

#[tokio::test]
async fn a_crash_between_key_and_check_value_is_no_trouble() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let path = dir.path().join("master.key");
    let made = KeyFile::load_or_create(&path, world.ids.as_ref()).unwrap().to_text();
    open(&world, &path).await.unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), *made);
}

#[tokio::test]
async fn a_tampered_check_value_is_a_mismatch() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let path = dir.path().join("master.key");
    open(&world, &path).await.unwrap();
    for value in [serde_json::Value::Null, "s1:AAAA".into(), "s2:".into()] {
        let unit = UnitOfWork::new().put(&Setting::new("master_key_check", value));
        world.storage.apply(portolan_model::Timestamp::from_millis(0), Scope::All, unit).await.unwrap();
        assert!(matches!(open(&world, &path).await, Err(AccessError::KeyMismatch { .. })));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_starts_at_the_same_time_share_one_key() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let path = dir.path().join("keys/master.key");
    let starts = (0..8u64).map(|seed| {
        let (storage, clock, path) = (world.storage.clone(), world.clock.clone(), path.clone());
        tokio::spawn(async move {
            unlock(storage.as_ref(), &KeyFile::new(path), clock.as_ref(), &SeededIds::new(seed)).await
        })
    });
    let mut keys = Vec::new();
    for start in starts.collect::<Vec<_>>() {
        keys.push(start.await.unwrap().unwrap().hash_key("test"));
    }
    assert!(keys.windows(2).all(|w| w[0] == w[1]));
}
