//! A destination that runs full: a small file system of its own, which needs root.

use portolan_e2e::{Disk, Site, until};
use std::path::PathBuf;
use std::process::Command;

/// A file system in memory, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&at).output();
        mounted.is_ok_and(|out| out.status.success()).then(|| Self(at))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let done = Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a server that is being killed may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_destination_fails_the_backup_and_nothing_else() {
    let mut site = Site::new();
    let small = Small::mount(site.dir().join("small"), "12m");
    let small =
        small.expect("only root can mount a small file system: run as root, or with the profile `unprivileged`");
    site.set("destination.small.path", "small/repository");
    site.set("destination.small.default", "true");
    site.machine("big", &[("root.raw", &Disk::noise(1, 40))]);
    site.machine("little", &[("root.raw", &Disk::noise(2, 1))]);
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let (big, little) = (api.vm("big").await, api.vm("little").await);
    let kept = api.back_up(&little, "FULL").await;

    let task = api.export(&big, "FULL").await;
    let chain = api.chain(&task, 2).await;
    let why = chain.failure()["statusInfo"].as_str().unwrap().to_owned();
    assert!(why.contains("space"), "{why}");
    // The backup is marked by what cleans up behind the scenes.
    until("the backup to be marked as failed", async || {
        let backups = api.backups(&big).await;
        assert_eq!(backups.len(), 1, "{backups:#?}");
        (backups[0]["status"]["name"] == "FAILED").then_some(())
    })
    .await;

    // What was there before is whole, and with room the same server goes on.
    small.resize("200m");
    let verified = api.verify(&kept).await;
    assert_eq!(verified["state"]["name"], "FINISHED", "{verified:#}");
    let backup = api.back_up(&big, "FULL").await;
    assert_eq!(api.verify(&backup).await["state"]["name"], "FINISHED");
    server.stop().await;
}
