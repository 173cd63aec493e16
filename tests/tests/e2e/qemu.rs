//! A guest of QEMU through every layer: started by way of one dialect, backed up by way of another while it runs, and
//! restored.

use portolan_e2e::{Site, qemu_img, until};
use portolan_testkit::demo_guest;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A host's directory. Whatever happens, no guest outlives the test, and nothing that serves disks.
struct Host(PathBuf);

impl Host {
    fn new(site: &Site) -> Self {
        let root = site.dir().join("qemu");
        std::fs::create_dir_all(root.join("images")).unwrap();
        std::fs::copy(demo_guest::image().unwrap(), root.join("images/demo.qcow2")).unwrap();
        Self(root)
    }

    fn guest(&self, id: &str) -> PathBuf {
        self.0.join("guests").join(id)
    }

    fn pid(&self, id: &str) -> Option<Pid> {
        pid_in(&self.guest(id).join("qemu.pid"))
    }

    /// The guests that there are.
    fn ids(&self) -> Vec<String> {
        let guests = std::fs::read_dir(self.0.join("guests")).into_iter().flatten().flatten();
        let names = guests.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !name.starts_with('.')).collect()
    }

    /// The guest's only disk.
    fn disk(&self, id: &str) -> PathBuf {
        let files = std::fs::read_dir(self.0.join("datastores/default").join(id)).unwrap();
        let mut disks = files.map(|entry| entry.unwrap().path()).filter(|path| is_disk(path));
        let disk = disks.next().expect("the guest has a disk");
        assert_eq!(disks.next(), None, "something is left beside the disk");
        disk
    }
}

fn pid_in(file: &Path) -> Option<Pid> {
    Pid::from_raw(std::fs::read_to_string(file).ok()?.trim().parse().ok()?)
}

fn is_disk(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "qcow2")
}

impl Drop for Host {
    fn drop(&mut self) {
        let dirs = |place: &str| std::fs::read_dir(self.0.join(place)).into_iter().flatten().flatten();
        let files =
            dirs("guests").chain(dirs("imports")).flat_map(|dir| std::fs::read_dir(dir.path())).flatten().flatten();
        for file in files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "pid")) {
            if let Some(pid) = pid_in(&file) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

#[tokio::test]
async fn a_node_of_one_dialect_is_backed_up_running_by_another_and_restored() {
    let mut site = Site::empty();
    let host = Host::new(&site);
    site.set("platform.lab.driver", "qemu");
    site.set("platform.lab.root", "qemu");
    site.set("platform.lab.accel", "tcg");
    site.set("orchestrator.default_cloud", "lab");
    site.set("orchestrator.open", "true");
    let server = site.start().await;
    let nodes = server.orchestrator();
    let wish = json!({ "name": "web", "image": "demo", "size": "tiny" });
    let started: Value = nodes.post("/vm/start", &wish).await.unwrap().ok().unwrap().json().unwrap();
    let id = started["nodes"]["id"].as_str().unwrap().to_owned();
    until("the guest to be ready", async || {
        let console = std::fs::read(host.guest(&id).join("console.log")).ok()?;
        String::from_utf8_lossy(&console).contains("GUEST-READY").then_some(())
    })
    .await;

    let api = server.api(&site).await;
    api.sync().await;
    let vm = api.vm("web").await;
    assert_eq!(vm["uuid"], id.as_str());
    let full = api.back_up(&vm, "FULL").await;
    assert_eq!(full["warningsPresent"], false, "the guest was brought to rest: {full:#}");
    // The guest does not notice when the server is killed; the next one knows it.
    let pid = host.pid(&id).unwrap();
    server.kill();
    let server = site.start().await;
    assert_eq!(host.pid(&id), Some(pid));
    let api = server.api(&site).await;
    let second = api.back_up(&vm, "INCREMENTAL").await;
    assert_eq!((&second["type"]["name"], &second["statusInfo"]), (&json!("INCREMENTAL"), &json!("")), "{second:#}");

    // Killed, it has lost what it knew of changes.
    kill_process(pid, Signal::KILL).unwrap();
    let nodes = server.orchestrator();
    until("the guest's end to be noticed", async || {
        let list: Value = nodes.get("/nodes").await.unwrap().json().unwrap();
        list["nodes"].as_array()?.iter().find(|n| n["id"] == *id).filter(|n| n["state"] != 0).map(drop)
    })
    .await;
    let third = api.back_up(&vm, "INCREMENTAL").await;
    let why = third["statusInfo"].as_str().unwrap_or_default();
    assert!(third["type"]["name"] == "INCREMENTAL" && why.contains("read in full"), "{third:#}");
    assert_eq!(api.verify(&third).await["state"]["name"], "FINISHED");
    api.restored(&third, "back").await;
    let back = host.ids().into_iter().find(|other| *other != id).expect("the restored guest");
    qemu_img([Path::new("compare"), &host.disk(&id), &host.disk(&back)]);
    api.sync().await;
    assert_eq!(api.vm("back").await["uuid"], back.as_str());

    nodes.put("/vm/stop", &json!({ "node": id })).await.unwrap().ok().unwrap();
    assert_eq!(host.ids(), [back]);
    assert!(test_kill_process(pid).is_err(), "the guest runs still");
    server.stop().await;
}
