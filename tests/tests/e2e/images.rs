//! Directories and images that are not as they should be.

use portolan_e2e::{Disk, Site, qemu_img};
use serde_json::json;
use std::os::unix::fs::{FileExt, symlink};

#[tokio::test]
async fn a_missing_root_is_reported_and_nothing_seems_gone() {
    let site = Site::new();
    site.machine("web", &[("root.raw", &Disk::sample(1, 1))]);
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    std::fs::rename(site.root(), site.dir().join("away")).unwrap();

    for _ in 0..3 {
        let tasks = api.post("/tasks/inventory-sync", &json!({})).await;
        let task = api.ended(tasks[0]["guid"].as_str().unwrap()).await;
        assert_eq!(task["state"]["name"], "FAILED", "{task:#}");
        let why = task["statusInfo"].as_str().unwrap();
        assert!(why.contains("vms"), "the directory is not named: {why}");
    }
    assert_eq!(api.vm("web").await["present"], true, "a platform that does not answer has lost nothing");

    std::fs::rename(site.dir().join("away"), site.root()).unwrap();
    api.sync().await;
    assert_eq!(api.vm("web").await["present"], true);
    // Gone only after two complete listings without it.
    std::fs::remove_dir_all(site.datastore().join("web")).unwrap();
    api.sync().await;
    assert_eq!(api.vm("web").await["present"], true);
    api.sync().await;
    assert_eq!(api.vm("web").await["present"], false);
    server.stop().await;
}

#[tokio::test]
async fn broken_images_are_reported_and_others_served() {
    let site = Site::new();
    let good = Disk::sample(2, 1);
    site.machine("good", &[("root.qcow2", &good)]);
    site.machine("torn", &[("root.qcow2", &good), ("data.raw", &good)]);
    let torn = std::fs::File::options().write(true).open(site.datastore().join("torn/root.qcow2")).unwrap();
    torn.set_len(100).unwrap();
    site.machine("nonsense", &[]);
    std::fs::write(site.datastore().join("nonsense/root.qcow2"), b"this is no image").unwrap();
    site.machine("liar", &[("root.qcow2", &good)]);
    let liar = std::fs::File::options().write(true).open(site.datastore().join("liar/root.qcow2")).unwrap();
    // The offset of the first table, far past the file's end.
    liar.write_all_at(&u64::to_be_bytes(1 << 50), 40).unwrap();

    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    for name in ["good", "torn", "nonsense", "liar"] {
        api.vm(name).await;
    }
    let of =
        |vm: &serde_json::Value| format!("/virtual-machine-disks?virtual-machine={}", vm["guid"].as_str().unwrap());
    let torn = api.get(&of(&api.vm("torn").await)).await;
    let unsupported: Vec<_> = torn.as_array().unwrap().iter().filter(|d| d["supported"] == false).collect();
    assert_eq!(unsupported.len(), 1, "{torn:#}");

    let vm = api.vm("good").await;
    api.back_up(&vm, "FULL").await;
    // A machine whose only disk cannot be read: an error that says so, and the server goes on.
    for name in ["nonsense", "liar"] {
        let body = json!({ "protectedEntities": [api.vm(name).await] });
        let answer = api.client.post("/tasks/export", &body).await.unwrap();
        if answer.status.is_success() {
            let tasks: serde_json::Value = answer.json().unwrap();
            let failed = api.chain(&tasks[0], 2).await;
            assert_ne!(failed.failure()["statusInfo"], "", "{failed:#?}");
        } else {
            portolan_e2e::assert_error(&answer, 409);
        }
        assert!(api.backups(&api.vm(name).await).await.iter().all(|b| b["status"]["name"] != "SUCCESS"), "{name}");
    }
    server.stop().await;
}

#[tokio::test]
async fn nothing_outside_the_root_is_ever_read() {
    let site = Site::new();
    let secret = site.dir().join("secret.raw");
    Disk::noise(99, 1).write(&secret);
    site.machine("linked", &[]);
    symlink(&secret, site.datastore().join("linked/root.raw")).unwrap();
    symlink(site.dir(), site.datastore().join("everything")).unwrap();
    for (name, backing) in
        [("absolute", secret.display().to_string()), ("relative", "../../../../../secret.raw".into())]
    {
        site.machine(name, &[]);
        let image = site.datastore().join(name).join("root.qcow2");
        let image = image.display().to_string();
        qemu_img(["create", "-q", "-u", "-f", "qcow2", "-b", &backing, "-F", "raw", &image, "1M"]);
    }
    site.machine("honest", &[("base.raw", &Disk::sample(3, 1))]);
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let vms = api.get("/virtual-machines").await;
    assert!(!vms.to_string().contains("everything"), "{vms:#}");
    for name in ["linked", "absolute", "relative"] {
        let vm = api.vm(name).await;
        let path = format!("/virtual-machine-disks?virtual-machine={}", vm["guid"].as_str().unwrap());
        let disks = api.get(&path).await;
        assert!(disks.as_array().unwrap().iter().all(|d| d["supported"] == false), "{name}: {disks:#}");
        let answer = api.client.post("/tasks/export", &json!({ "protectedEntities": [vm] })).await.unwrap();
        if answer.status.is_success() {
            let tasks: serde_json::Value = answer.json().unwrap();
            api.chain(&tasks[0], 2).await.failure();
        }
        assert!(api.backups(&vm).await.iter().all(|b| b["status"]["name"] != "SUCCESS"), "{name}");
    }
    let vm = api.vm("honest").await;
    api.back_up(&vm, "FULL").await;
    server.stop().await;
}
