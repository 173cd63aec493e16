//! Directories and images that the server may not read, run by somebody whom permissions bind. Each is named, and
//! nothing seems gone because of it.

use portolan_e2e::{Api, Disk, Site, same_bytes, until};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Something that nobody may read, until this is dropped.
struct Locked {
    path: PathBuf,
    before: u32,
}

impl Locked {
    fn new(path: &Path) -> Self {
        let before = std::fs::metadata(path).unwrap().permissions().mode();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).unwrap();
        Self { path: path.to_owned(), before }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(self.before));
    }
}

/// Three syncs, each of which must fail and name what it could not read. Two complete listings without a machine
/// would make it seem gone.
async fn syncs_fail(api: &Api, place: &str) {
    for _ in 0..3 {
        let tasks = api.post("/tasks/inventory-sync", &json!({})).await;
        let task = api.ended(tasks[0]["guid"].as_str().unwrap()).await;
        assert_eq!(task["state"]["name"], "FAILED", "{task:#}");
        let why = task["statusInfo"].as_str().unwrap();
        assert!(why.contains(place), "'{place}' is not named: {why}");
        assert!(why.to_lowercase().contains("permission denied"), "the cause is not named: {why}");
    }
}

/// Asks for a backup, which must wait and name `place`: what cannot be read now may be readable later.
async fn backup_waits(api: &Api, vm: &Value, place: &str) -> Value {
    let task = api.export(vm, "FULL").await;
    until("the backup to say why it waits", async || {
        let task = api.get(&format!("/tasks/{}", task["guid"].as_str().unwrap())).await;
        let said = task["statusInfo"].as_str().unwrap().to_owned();
        assert_ne!(task["state"]["name"], "FAILED", "{task:#}");
        (said.contains(place) && said.to_lowercase().contains("permission denied")).then_some(())
    })
    .await;
    task
}

/// Fails unless a backup of the machine is refused, or fails, and says `why`; and unless the backups from before are
/// what is left.
async fn backup_fails(api: &Api, vm: &Value, why: &str, before: usize) {
    let answer = api.client.post("/tasks/export", &json!({ "protectedEntities": [vm] })).await.unwrap();
    let text = if answer.status.is_success() {
        let tasks: Value = answer.json().unwrap();
        api.chain(&tasks[0], 2).await.failure()["statusInfo"].as_str().unwrap().to_owned()
    } else {
        portolan_e2e::assert_error(&answer, 409)["message"].as_str().unwrap().to_owned()
    };
    assert!(text.contains(why), "'{why}' is not named: {text}");
    let backups = api.backups(vm).await;
    let good: Vec<&Value> = backups.iter().filter(|b| b["status"]["name"] == "SUCCESS").collect();
    assert_eq!(good.len(), before, "{backups:#?}");
}

#[tokio::test]
async fn an_unreadable_root_fails_the_listing_and_loses_nothing() {
    let site = Site::unprivileged();
    let disk = Disk::sample(1, 2);
    site.machine("web", &[("root.raw", &disk)]);
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let vm = api.vm("web").await;
    let backup = api.back_up(&vm, "FULL").await;

    let locked = Locked::new(&site.root());
    syncs_fail(&api, "vms").await;
    assert_eq!(api.vm("web").await["present"], true, "a platform that cannot be read has lost nothing");
    assert_eq!(api.verify(&backup).await["state"]["name"], "FINISHED", "what is stored needs no platform");
    server.stop().await;

    // A server that starts so says the same, and serves what it has.
    let server = site.start().await;
    let api = server.api(&site).await;
    syncs_fail(&api, "vms").await;
    assert_eq!(api.vm("web").await["present"], true);
    let waiting = backup_waits(&api, &vm, "vms").await;

    drop(locked);
    api.chain(&waiting, 2).await.assert_finished(&["EXPORT", "STORE"]);
    api.sync().await;
    assert_eq!(api.vm("web").await["guid"], vm["guid"], "the same machine as before");
    assert_eq!(api.back_up(&vm, "INCREMENTAL").await["status"]["name"], "SUCCESS");
    server.stop().await;
}

#[tokio::test]
async fn an_unreadable_machine_is_named_and_not_gone() {
    let site = Site::unprivileged();
    let disk = Disk::sample(2, 2);
    site.machine("web", &[("root.raw", &disk)]);
    site.machine("other", &[("root.raw", &Disk::sample(3, 1))]);
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let (vm, other) = (api.vm("web").await, api.vm("other").await);
    let backup = api.back_up(&vm, "FULL").await;

    let locked = Locked::new(&site.datastore().join("web"));
    syncs_fail(&api, "web").await;
    for name in ["web", "other"] {
        assert_eq!(api.vm(name).await["present"], true, "{name}: not gone because a directory cannot be read");
    }
    // The others are served as before, and so is what was stored of this one.
    api.back_up(&other, "FULL").await;
    assert_eq!(api.verify(&backup).await["state"]["name"], "FINISHED");
    let waiting = backup_waits(&api, &vm, "web").await;

    drop(locked);
    api.chain(&waiting, 2).await.assert_finished(&["EXPORT", "STORE"]);
    api.sync().await;
    let after = api.vm("web").await;
    assert_eq!((&after["guid"], &after["present"]), (&vm["guid"], &json!(true)), "the same machine as before");
    api.back_up(&vm, "INCREMENTAL").await;
    api.restored(&backup, "back").await;
    same_bytes(&site.datastore().join("back/root.raw"), &disk);
    server.stop().await;
}

#[tokio::test]
async fn an_unreadable_disk_is_a_problem_of_its_machine_alone() {
    let site = Site::unprivileged();
    let (root, data) = (Disk::sample(4, 1), Disk::sample(5, 1));
    site.machine("web", &[("root.raw", &root), ("data.raw", &data), ("more.qcow2", &data)]);
    site.machine("other", &[("root.raw", &Disk::sample(6, 1))]);
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let vm = api.vm("web").await;
    let backup = api.back_up(&vm, "FULL").await;
    let path = format!("/virtual-machine-disks?virtual-machine={}", vm["guid"].as_str().unwrap());

    for file in ["data.raw", "more.qcow2"] {
        let locked = Locked::new(&site.datastore().join("web").join(file));
        // Before the inventory knows, and after.
        backup_fails(&api, &vm, file, 1).await;
        for _ in 0..3 {
            api.sync().await;
        }
        let log = server.log();
        let told = log.lines().any(|line| line.contains(file) && line.to_lowercase().contains("permission denied"));
        assert!(told, "{file}: the sync does not say what is wrong: {log}");
        for name in ["web", "other"] {
            assert_eq!(api.vm(name).await["present"], true, "{name}");
        }
        let disks = api.get(&path).await;
        let unsupported = disks.as_array().unwrap().iter().filter(|d| d["supported"] == false).count();
        assert_eq!((disks.as_array().unwrap().len(), unsupported), (3, 1), "{disks:#}");
        backup_fails(&api, &vm, file.split('.').next().unwrap(), 1).await;
        api.back_up(&api.vm("other").await, "FULL").await;
        drop(locked);
        api.sync().await;
    }

    let disks = api.get(&path).await;
    assert!(disks.as_array().unwrap().iter().all(|d| d["supported"] == true), "{disks:#}");
    api.back_up(&vm, "INCREMENTAL").await;
    api.restored(&backup, "back").await;
    same_bytes(&site.datastore().join("back/data.raw"), &data);
    server.stop().await;
}
