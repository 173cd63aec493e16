//! One flipped bit in every kind of stored object: found, named, and never restored.

use portolan_e2e::{Disk, Said, Site, same_bytes};
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// The objects of a repository by their class, which is the first part of their key.
fn objects(root: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut next = vec![root.to_owned()];
    while let Some(dir) = next.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with('.') {
                continue;
            }
            if path.is_dir() {
                next.push(path);
            } else {
                let key = path.strip_prefix(root).unwrap();
                found.push((key.components().next().unwrap().as_os_str().to_string_lossy().into_owned(), path));
            }
        }
    }
    found.sort();
    found
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

struct Rescue {
    site: Site,
    point: String,
    disk: Disk,
}

impl Rescue {
    /// A stopped server with one backup.
    async fn new() -> Self {
        let site = Site::new();
        let disk = Disk::sample(11, 5);
        site.machine("web", &[("root.raw", &disk)]);
        let server = site.start().await;
        let api = server.api(&site).await;
        api.sync().await;
        let vm = api.vm("web").await;
        let backup = api.back_up(&vm, "FULL").await;
        server.stop().await;
        let point = backup["guid"].as_str().unwrap().to_owned();
        Self { site, point, disk }
    }

    fn verify(&self, repository: &Path) -> Said {
        let (at, key) = (repository.display().to_string(), self.site.recovery_key().display().to_string());
        self.site.run(&["repo", "verify", "--json", "--repository", &at, "--recovery-key-file", &key])
    }

    fn restore(&self, repository: &Path, output: &Path) -> Said {
        let (at, key) = (repository.display().to_string(), self.site.recovery_key().display().to_string());
        let output = output.display().to_string();
        let from = ["--repository", &at, "--recovery-key-file", &key];
        self.site.run(&[&["repo", "restore", &self.point, "--output", &output][..], &from].concat())
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_found_and_never_restored() {
    let rescue = Rescue::new().await;
    let clean = rescue.verify(&rescue.site.repository());
    assert_eq!(clean.code, Some(0), "{clean:?}");
    let mut classes: Vec<String> = objects(&rescue.site.repository()).into_iter().map(|o| o.0).collect();
    classes.dedup();
    for class in ["config", "config.copy", "index", "meta", "packs", "points"] {
        assert!(classes.iter().any(|c| c == class), "no {class} among {classes:?}");
    }

    for (n, class) in classes.iter().enumerate() {
        let copy = rescue.site.dir().join(format!("damaged-{n}"));
        copy_tree(&rescue.site.repository(), &copy);
        let (_, path) = objects(&copy).into_iter().find(|(c, _)| c == class).unwrap();
        // Not in what only says how long the object is.
        flip(&path, std::fs::metadata(&path).unwrap().len() / 3);
        let output = rescue.site.dir().join(format!("restored-{n}.raw"));
        let restored = rescue.restore(&copy, &output);
        if restored.code == Some(0) {
            // What was damaged is there twice, or is not needed to restore: then the bytes are right.
            same_bytes(&output, &rescue.disk);
        } else {
            assert!(!output.exists(), "{class}: half a disk was left behind");
        }
        let verified = rescue.verify(&copy);
        assert_eq!(verified.code, Some(3), "{class}: {verified:?}");
        assert!(!verified.err.contains("panicked"), "{}", verified.err);

        if class == "packs" {
            assert_eq!(restored.code, Some(3), "damaged data was restored: {restored:?}");
            assert!(restored.err.contains("root"), "the disk is not named: {}", restored.err);
        }
        if ["index", "packs", "points"].contains(&class.as_str()) {
            assert_ne!(restored.code, Some(0), "{class}: {restored:?}");
            let report: Value = serde_json::from_str(&verified.out).unwrap_or_else(|e| panic!("{e}: {}", verified.out));
            let damage = report["damage"].as_array().unwrap();
            let named = damage.iter().any(|d| {
                d["disk"] == "root" && d["point"] == rescue.point.as_str() && d["range"]["end"].as_u64() > Some(0)
            });
            assert!(named, "{report:#}");
        }
    }
}

#[tokio::test]
async fn what_the_repository_has_forgotten_of_a_backup_the_catalogue_knows() {
    let rescue = Rescue::new().await;
    for (_, path) in objects(&rescue.site.repository()).iter().filter(|o| ["points", "sessions"].contains(&&*o.0)) {
        flip(path, std::fs::metadata(path).unwrap().len() / 3);
    }
    let server = rescue.site.start().await;
    let api = server.api(&rescue.site).await;
    let backup = api.get(&format!("/backups/{}", rescue.point)).await;
    let task = api.verify(&backup).await;
    assert_eq!(task["state"]["name"], "FAILED", "{task:#}");
    let why = task["statusInfo"].as_str().unwrap();
    let whole = format!("disk 'root' bytes 0..{}", rescue.disk.0.len());
    assert!(why.contains(&whole) && why.contains(&format!("points/{}", rescue.point)), "{why}");
    server.stop().await;

    // Without any config there is no key to anything, and the command says what that means.
    for name in ["config", "config.copy"] {
        flip(&rescue.site.repository().join(name), 60);
    }
    let said = rescue.verify(&rescue.site.repository());
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.err.contains("no disk of any of 1 recovery points"), "{}", said.err);
}

#[tokio::test]
async fn a_missing_pack_is_found() {
    let rescue = Rescue::new().await;
    let (_, pack) = objects(&rescue.site.repository()).into_iter().find(|(class, _)| class == "packs").unwrap();
    std::fs::remove_file(pack).unwrap();
    let verified = rescue.verify(&rescue.site.repository());
    assert_eq!(verified.code, Some(3), "{verified:?}");
    let output = rescue.site.dir().join("out.raw");
    assert_ne!(rescue.restore(&rescue.site.repository(), &output).code, Some(0));
    assert!(!output.exists());

    // The server says the same through its API, and lists the backup with a warning.
    let server = rescue.site.start().await;
    let api = server.api(&rescue.site).await;
    let backup = api.get(&format!("/backups/{}", rescue.point)).await;
    let task = api.verify(&backup).await;
    assert_eq!(task["state"]["name"], "FAILED", "{task:#}");
    assert!(task["statusInfo"].as_str().unwrap().contains("root"), "{task:#}");
    assert_eq!(api.get(&format!("/backups/{}", rescue.point)).await["warningsPresent"], true);
    let task = api.restore(&backup, "back").await;
    api.chain(&task, 2).await.failure();
    assert!(!rescue.site.datastore().join("back").exists());
    crate::backup::cleaned_up(&rescue.site).await;

    // The machine still has what the pack held: the next backup brings it back, and heals this one.
    let next = api.back_up(&api.vm("web").await, "INCREMENTAL").await;
    for backup in [&next, &backup] {
        let task = api.verify(backup).await;
        assert_eq!(task["state"]["name"], "FINISHED", "{task:#}");
    }
    assert_eq!(api.get(&format!("/backups/{}", rescue.point)).await["warningsPresent"], false);
    api.restored(&backup, "back").await;
    same_bytes(&rescue.site.datastore().join("back/root.raw"), &rescue.disk);
    server.stop().await;
    let verified = rescue.verify(&rescue.site.repository());
    assert_eq!(verified.code, Some(0), "a damaged pack that nobody needs is no news: {verified:?}");
}

#[tokio::test]
async fn a_wrong_key_opens_nothing() {
    let rescue = Rescue::new().await;
    let other = Site::empty();
    other.start().await.stop().await;
    let (at, key) = (rescue.site.repository().display().to_string(), other.recovery_key().display().to_string());
    let said = rescue.site.run(&["repo", "list", "--repository", &at, "--recovery-key-file", &key]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("key"), "{}", said.err);
    let none = rescue.site.run(&["repo", "verify", "--repository", &at, "--depth", "pack"]);
    assert_eq!(none.code, Some(0), "this depth needs no key: {none:?}");
}
