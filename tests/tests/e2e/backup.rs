//! Backups and restores from end to end, byte for byte.

use portolan_e2e::{Disk, Site, same_bytes, until};
use serde_json::json;

#[tokio::test]
async fn full_and_incremental_backups_restore_byte_for_byte() {
    let site = Site::new();
    let (root, mut data) = (Disk::sample(1, 6), Disk::sample(2, 9));
    site.machine("web", &[("root.raw", &root), ("data.qcow2", &data)]);
    site.machine("db", &[("root.qcow2", &Disk::sample(3, 2))]);
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let vm = api.vm("web").await;
    let disks = api.get(&format!("/virtual-machine-disks?virtual-machine={}", vm["guid"].as_str().unwrap())).await;
    assert_eq!(disks.as_array().unwrap().len(), 2, "{disks:#}");

    let full = api.back_up(&vm, "FULL").await;
    assert_eq!(full["type"]["name"], "FULL");
    let before = data.clone();
    data.0[5 << 20..(5 << 20) + 70_000].copy_from_slice(&Disk::noise(77, 1).0[..70_000]);
    site.machine("web", &[("data.qcow2", &data)]);
    let increment = api.back_up(&vm, "INCREMENTAL").await;
    assert_eq!(increment["type"]["name"], "INCREMENTAL");
    let size = |backup: &serde_json::Value| backup["size"].as_u64().unwrap();
    assert!(size(&increment) < size(&full) / 4, "{} of {}", size(&increment), size(&full));
    assert_eq!(api.backups(&vm).await.len(), 2);

    let verified = api.verify(&increment).await;
    assert_eq!(verified["state"]["name"], "FINISHED", "{verified:#}");

    for (backup, name, data) in [(&full, "old", &before), (&increment, "new", &data)] {
        api.restored(backup, name).await;
        let dir = site.datastore().join(name);
        for (disk, content) in [("root", &root), ("data", data)] {
            let file = ["raw", "qcow2"].map(|end| dir.join(format!("{disk}.{end}"))).into_iter().find(|f| f.exists());
            same_bytes(&file.expect("the disk was restored"), content);
        }
    }
    let jobs = api.get("/restore-jobs").await;
    assert_eq!(jobs.as_array().unwrap().len(), 2, "{jobs:#}");
    // A restored machine is a machine like others, and can be backed up itself.
    api.sync().await;
    let new = api.vm("new").await;
    api.back_up(&new, "FULL").await;
    server.stop().await;
}

#[tokio::test]
async fn a_restore_never_overwrites_unless_told_to() {
    let site = Site::new();
    let disk = Disk::sample(4, 2);
    site.machine("web", &[("root.raw", &disk)]);
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let vm = api.vm("web").await;
    let backup = api.back_up(&vm, "FULL").await;
    let live = Disk::sample(5, 2);
    site.machine("web", &[("root.raw", &live)]);

    let answer = api
        .client
        .post("/tasks/restore-and-import", &json!({ "backup": { "guid": backup["guid"] }, "restoredPeName": "web" }))
        .await
        .unwrap();
    if answer.status.is_success() {
        let chain = api.chain(&answer.json().unwrap(), 2).await;
        let why = chain.failure()["statusInfo"].as_str().unwrap().to_owned();
        assert!(why.contains("web"), "{why}");
    } else {
        assert_eq!(answer.status, 409, "{}", answer.text());
    }
    same_bytes(&site.datastore().join("web/root.raw"), &live);
    cleaned_up(&site).await;

    let body = json!({ "backup": { "guid": backup["guid"] }, "restoredPeName": "web", "overwrite": true });
    let task = api.post("/tasks/restore-and-import", &body).await;
    api.chain(&task, 2).await.assert_finished(&["RESTORE", "IMPORT"]);
    same_bytes(&site.datastore().join("web/root.raw"), &disk);
    server.stop().await;
}

/// Waits until nothing hidden is left in the datastore: imports that do not end well are cleaned up behind the
/// scenes.
pub(crate) async fn cleaned_up(site: &Site) {
    until("imports to be cleaned up", async || {
        let mut entries = std::fs::read_dir(site.datastore()).unwrap();
        let hidden = |e: std::io::Result<std::fs::DirEntry>| e.unwrap().file_name().to_string_lossy().starts_with('.');
        (!entries.any(hidden)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_same_request_twice_makes_two_backups_one_after_the_other() {
    let site = Site::new();
    site.machine("web", &[("root.raw", &Disk::sample(6, 4))]);
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let vm = api.vm("web").await;
    let tasks = [api.export(&vm, "FULL").await, api.export(&vm, "FULL").await, api.export(&vm, "FULL").await];
    for task in &tasks {
        api.chain(task, 2).await.assert_finished(&["EXPORT", "STORE"]);
    }
    let backups = api.backups(&vm).await;
    assert_eq!(backups.len(), 3);
    let guids: std::collections::BTreeSet<_> = backups.iter().map(|b| b["guid"].as_str().unwrap()).collect();
    assert_eq!(guids.len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn the_repository_restores_without_server_and_database() {
    let site = Site::new();
    let disk = Disk::sample(8, 3);
    site.machine("web", &[("root.raw", &disk)]);
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let vm = api.vm("web").await;
    let backup = api.back_up(&vm, "FULL").await;
    let point = backup["guid"].as_str().unwrap().to_owned();
    server.stop().await;

    // All that is left: the repository, and the recovery key that was kept elsewhere.
    let rescue = Site::empty();
    std::fs::copy(site.recovery_key(), rescue.dir().join("key.txt")).unwrap();
    let moved = rescue.dir().join("saved");
    std::fs::rename(site.repository(), &moved).unwrap();
    std::fs::remove_dir_all(site.data()).unwrap();

    let list = rescue.run(&["repo", "list", "--repository", "saved", "--recovery-key-file", "key.txt"]);
    assert_eq!(list.code, Some(0), "{}", list.err);
    assert!(list.out.contains(&point) && list.out.contains("web"), "{}", list.out);
    let key = ["--repository", "saved", "--recovery-key-file", "key.txt"];
    let restored = rescue.run(&[&["repo", "restore", &point, "--output", "root.raw"][..], &key].concat());
    assert_eq!(restored.code, Some(0), "{}", restored.err);
    same_bytes(&rescue.dir().join("root.raw"), &disk);
    // What is there is not overwritten by accident.
    let again = rescue.run(&[&["repo", "restore", &point, "--output", "root.raw"][..], &key].concat());
    assert_ne!(again.code, Some(0));
}
