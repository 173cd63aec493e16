//! A guest of QEMU through every layer: started by way of one dialect, backed up by way of another while it runs, and
//! restored.

use crate::cli::{done, json as told, log_in};
use portolan_e2e::{Server, Site, qemu_img, until};
use portolan_testkit::demo_guest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A host's directory. Whatever happens, no guest outlives the test, and nothing that serves disks.
struct Host(PathBuf);

impl Host {
    fn new(site: &Site) -> Self {
        let root = site.dir().join("qemu");
        std::fs::create_dir_all(root.join("images")).unwrap();
        std::fs::create_dir_all(root.join("datastores/second")).unwrap();
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

    /// The guest's only disk, on whichever datastore.
    fn disk(&self, id: &str) -> PathBuf {
        let stores = std::fs::read_dir(self.0.join("datastores")).unwrap().map(|store| store.unwrap().path().join(id));
        let files = stores.flat_map(std::fs::read_dir).flatten();
        let mut disks = files.map(|entry| entry.unwrap().path()).filter(|path| is_disk(path));
        let disk = disks.next().expect("the guest has a disk");
        assert_eq!(disks.next(), None, "something is left beside the disk");
        disk
    }
}

fn pid_in(file: &Path) -> Option<Pid> {
    Pid::from_raw(std::fs::read_to_string(file).ok()?.trim().parse().ok()?)
}

/// Whether the process runs. Where nobody fetches what orphans ended with, they stay as zombies.
fn runs(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
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

/// A server with a host of guests, which is also its cloud.
async fn served() -> (Site, Host, Server) {
    let mut site = Site::empty();
    site.set("tasks.lease", "5s");
    let host = Host::new(&site);
    site.set("platform.lab.driver", "qemu");
    site.set("platform.lab.root", "qemu");
    site.set("platform.lab.accel", "tcg");
    site.set("orchestrator.default_cloud", "lab");
    site.set("orchestrator.open", "true");
    let server = site.start().await;
    (site, host, server)
}

/// Starts a guest by way of the cloud, and waits until it is ready. Its id.
async fn started(host: &Host, server: &Server, name: &str) -> String {
    let wish = json!({ "name": name, "image": "demo", "size": "tiny" });
    let made: Value = server.orchestrator().post("/vm/start", &wish).await.unwrap().ok().unwrap().json().unwrap();
    let id = made["nodes"]["id"].as_str().unwrap().to_owned();
    until("the guest to be ready", async || {
        let console = std::fs::read(host.guest(&id).join("console.log")).ok()?;
        String::from_utf8_lossy(&console).contains("GUEST-READY").then_some(())
    })
    .await;
    id
}

#[tokio::test]
async fn a_node_of_one_dialect_is_backed_up_running_by_another_and_restored() {
    let (site, host, server) = served().await;
    let id = started(&host, &server, "web").await;
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
    assert!(!runs(pid), "the guest runs still");
    server.stop().await;
}

/// What an operator does with guests and their backups, by the command line.
#[tokio::test]
async fn an_operator_proves_clones_reverts_and_restores_guests_in_place_and_at_once() {
    let (site, host, server) = served().await;
    let id = started(&host, &server, "web").await;
    log_in(&site, &server);
    let run = |args: &[&str]| done(&site, &server, &[args, &["--yes"]].concat());
    run(&["platform", "sync", "lab"]);
    until("the guest to be listed", async || run(&["machine", "list"]).contains("web").then_some(())).await;
    run(&["backup", "run", "web", "--full", "--follow"]);
    let listed = told(&site, &server, &["backup", "list", "--machine", "web"]);
    let backup = listed["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(listed["items"][0]["status"], "SUCCESS", "{listed:#}");

    // It boots, in a machine that nobody sees and that is gone.
    run(&["backup", "try", &backup, "--within", "90", "--follow"]);
    let proven = told(&site, &server, &["backup", "show", &backup]);
    assert_eq!(proven["trial"]["booted"], true, "{proven:#}");
    assert_eq!(host.ids(), [id.as_str()]);

    // Moved while it runs, and nothing is left where it was.
    run(&["machine", "move", "web", "second", "--follow"]);
    assert!(host.disk(&id).starts_with(host.0.join("datastores/second")));

    // Turned off, it is cloned: the same bytes, another machine.
    run(&["machine", "stop", "web", "--within", "90", "--follow"]);
    // The listing that says so follows.
    let off = async || (told(&site, &server, &["machine", "show", "web"])["power"] == "STOPPED").then_some(());
    until("the guest to be listed as off", off).await;
    run(&["machine", "clone", "web", "copy", "--follow"]);
    let copy = host.ids().into_iter().find(|other| *other != id).expect("the clone");
    qemu_img([Path::new("compare"), &host.disk(&id), &host.disk(&copy)]);

    // A snapshot of the clone, which then runs and writes, and is what it was.
    run(&["machine", "snapshot", "copy", "before", "--follow"]);
    let kept = told(&site, &server, &["machine", "snapshots", "copy"]);
    let snapshot = kept["items"][0]["id"].as_str().unwrap().to_owned();
    run(&["machine", "start", "copy", "--follow"]);
    until("the clone to be ready", async || {
        let console = std::fs::read(host.guest(&copy).join("console.log")).ok()?;
        String::from_utf8_lossy(&console).contains("GUEST-READY").then_some(())
    })
    .await;
    run(&["machine", "stop", "copy", "--force", "--follow"]);
    run(&["machine", "revert", "copy", &snapshot, "--follow"]);
    qemu_img([Path::new("compare"), &host.disk(&id), &host.disk(&copy)]);

    // Back in its place, though it runs; and a second one at once, from the backup.
    run(&["machine", "start", "web", "--follow"]);
    run(&["backup", "restore", &backup, "--overwrite", "--power-off", "--follow"]);
    // What was there before is gone once two listings are without it.
    let web = until("the machine in its place to be the only one", async || {
        run(&["platform", "sync", "lab"]);
        let listed = told(&site, &server, &["machine", "list"]);
        let named: Vec<_> = listed["items"].as_array()?.iter().filter(|vm| vm["name"] == "web").cloned().collect();
        <[Value; 1]>::try_from(named).ok()
    })
    .await;
    assert_eq!(web[0]["native_id"], id.as_str(), "it is the same guest");
    run(&["backup", "restore", &backup, "--name", "again", "--instant", "--follow"]);
    let again = host.ids().into_iter().find(|other| *other != id && *other != copy).expect("the third guest");
    let third = told(&site, &server, &["machine", "show", "again"]);
    assert_eq!((&third["native_id"], &third["power"]), (&json!(again), &json!("RUNNING")), "{third:#}");
    run(&["machine", "stop", "again", "--within", "90", "--follow"]);
    let failed = told(&site, &server, &["task", "list", "--state", "failed,stuck,cancelled"]);
    assert_eq!(failed["total"], 0, "{failed:#}");
    server.stop().await;
}

/// Portolan itself is killed at each step of restores that run at once: the guest is there once, and whole.
#[tokio::test]
async fn killed_at_each_step_an_instant_restore_goes_on() {
    type Point = (&'static str, fn(&Path) -> bool);
    let points: [Point; 5] = [
        ("accepted", |_| true),
        ("made", |_| true),
        ("started", |guest| guest.join("qemu.pid").exists()),
        ("running", |guest| guest.join("qga.sock").exists()),
        ("home", |guest| is_home(guest)),
    ];
    let (site, host, mut server) = served().await;
    // It boots nothing: what counts is what its disk holds.
    let content: Vec<u8> = (0..6_u32 << 20).map(|n| (n / 4096 % 251 + n % 7) as u8).collect();
    std::fs::write(host.0.join("images/still.raw"), content).unwrap();
    let wish = json!({ "name": "web", "image": "still", "size": "tiny" });
    let made: Value = server.orchestrator().post("/vm/start", &wish).await.unwrap().ok().unwrap().json().unwrap();
    let id = made["nodes"]["id"].as_str().unwrap().to_owned();
    log_in(&site, &server);
    done(&site, &server, &["platform", "sync", "lab", "--yes"]);
    let listed = async || done(&site, &server, &["machine", "list"]).contains("web").then_some(());
    until("the guest to be listed", listed).await;
    done(&site, &server, &["machine", "stop", "web", "--force", "--follow", "--yes"]);
    done(&site, &server, &["backup", "run", "web", "--full", "--follow", "--yes"]);
    let backups = told(&site, &server, &["backup", "list", "--machine", "web"]);
    let backup = backups["items"][0]["id"].as_str().unwrap().to_owned();
    for (name, point) in points {
        let known = host.ids();
        done(&site, &server, &["backup", "restore", &backup, "--name", name, "--instant", "--yes"]);
        if name != "accepted" {
            until("the guest to come that far", async || {
                let fresh = host.ids().into_iter().find(|id| !known.contains(id))?;
                point(&host.guest(&fresh)).then_some(())
            })
            .await;
        }
        server.kill();
        server = site.start().await;
        let (server, site) = (&server, &site);
        // It listens somewhere else.
        log_in(site, server);
        until("the restore to be done", async || {
            let fresh = host.ids().into_iter().find(|id| !known.contains(id))?;
            let busy = told(site, server, &["task", "list", "--state", "blocked,ready,running,undoing"]);
            (is_home(&host.guest(&fresh)) && busy["total"] == 0).then_some(())
        })
        .await;
        let fresh: Vec<_> = host.ids().into_iter().filter(|id| !known.contains(id)).collect();
        let [guest] = fresh.as_slice() else { panic!("{name}: one guest, not {fresh:?}") };
        assert!(is_home(&host.guest(guest)), "{name}");
        let shown = told(site, server, &["machine", "show", name]);
        assert_eq!((&shown["native_id"], &shown["power"]), (&json!(guest), &json!("RUNNING")), "{shown:#}");
        done(site, server, &["machine", "stop", name, "--force", "--follow", "--yes"]);
        qemu_img([Path::new("compare"), &host.disk(&id), &host.disk(guest)]);
    }
    let failed = told(&site, &server, &["task", "list", "--state", "failed,stuck,cancelled"]);
    assert_eq!(failed["total"], 0, "{failed:#}");
    server.stop().await;
}

/// Whether the guest's document says that nothing of it is in a backup.
fn is_home(guest: &Path) -> bool {
    let document = std::fs::read(guest.join("guest.json")).unwrap_or_default();
    let document: Value = serde_json::from_slice(&document).unwrap_or_default();
    document["instant"]["remote"].as_array().is_some_and(Vec::is_empty)
}
