//! `kill -9` in the middle of exports, stores and restores, at moments that a seed chooses: after the next start
//! the work ends as if nothing had been, and nothing is done twice.
//!
//! Three rounds each; `PORTOLAN_SOAK` sets another number.

use crate::backup::cleaned_up;
use portolan_access::SystemClock;
use portolan_e2e::{Api, Disk, Server, Site, rounds, same_bytes, until};
use portolan_model::Clock;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// When to kill: as soon as this link of the chain runs or has ended, and that much later.
#[derive(Debug, Clone, Copy)]
struct Moment {
    link: usize,
    after: Duration,
}

/// Numbers that a seed fixes.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    /// Somewhere in the first nine tenths of `span`.
    fn within(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.roll(900) as f64 / 1000.0)
    }
}

/// What the kills of a test struck.
#[derive(Default)]
struct Strikes {
    clock: SystemClock,
    /// By the type of the link that was not over yet.
    struck: BTreeMap<String, u64>,
}

impl Strikes {
    /// Waits for the moment and kills the server; gives the instant, in milliseconds since the epoch.
    async fn kill(&self, server: Server, api: &Api, task: &Value, moment: Moment) -> i64 {
        until("the moment to kill", async || {
            let tasks = api.tasks_of(task).await;
            let state = &tasks.get(moment.link)?["state"]["name"];
            (*state != "QUEUED").then_some(())
        })
        .await;
        tokio::time::sleep(moment.after).await;
        let at = self.clock.now().as_millis();
        server.kill();
        at
    }

    /// Notes which link of the chain was the first that ended after the kill.
    fn note(&mut self, tasks: &[Value], killed_at: i64) {
        let after = |t: &&Value| t["finishTime"].as_i64() > Some(killed_at);
        let link = tasks.iter().find(after).and_then(|t| t["type"]["name"].as_str()).unwrap_or("nothing");
        *self.struck.entry(link.to_owned()).or_default() += 1;
    }

    fn print(&self, what: &str) {
        let kills: u64 = self.struck.values().sum();
        let struck: Vec<String> = self.struck.iter().map(|(link, times)| format!("{link} {times}")).collect();
        println!("{what}: {kills} kills, nothing lost and nothing done twice; struck {}", struck.join(", "));
    }
}

/// How long the first link of a chain runs here, more or less.
async fn duration(api: &Api, task: &Value) -> Duration {
    let running = async |wanted: bool| {
        until("the first link", async || {
            let tasks = api.tasks_of(task).await;
            let state = tasks.first()?["state"]["name"].as_str()?.to_owned();
            (if wanted { state != "QUEUED" } else { state != "QUEUED" && state != "RUNNING" }).then_some(())
        })
        .await;
    };
    running(true).await;
    let start = Instant::now();
    running(false).await;
    start.elapsed()
}

/// One point for the request, each link once, one copy, and all of it readable.
async fn check_backup(api: &Api, vm: &Value, task: &Value, expected: usize) -> Value {
    let backups = api.backups(vm).await;
    assert_eq!(backups.len(), expected, "a request is one backup: {backups:#?}");
    let guid = task["backup"]["guid"].as_str().unwrap();
    let backup = backups.iter().find(|b| b["guid"] == guid).expect("the backup of the request");
    assert_eq!(backup["status"]["name"], "SUCCESS", "{backup:#}");
    assert_eq!(backup["backupLocations"].as_array().unwrap().len(), 1, "{backup:#}");
    let verified = api.verify(backup).await;
    assert_eq!(verified["state"]["name"], "FINISHED", "{verified:#}");
    backup.clone()
}

async fn backup_rounds(what: &str, link: usize, seed: u64) -> Strikes {
    const MIB: usize = 40;
    let site = Site::new();
    let (mut dice, mut strikes) = (Dice(seed), Strikes::default());
    let mut disk = Disk::noise(seed, MIB);
    site.machine("web", &[("root.raw", &disk)]);
    let mut server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let vm = api.vm("web").await;
    let task = api.export(&vm, "FULL").await;
    let span = duration(&api, &task).await;
    api.chain(&task, 2).await.assert_finished(&["EXPORT", "STORE"]);

    let rounds = rounds(3);
    for round in 0..rounds {
        // Most of the disk is new each time, so that there is always something to do.
        disk.0[..(MIB - 4) << 20].copy_from_slice(&Disk::noise(seed ^ (round + 1), MIB - 4).0);
        site.machine("web", &[("root.raw", &disk)]);
        let api = server.api(&site).await;
        let kind = if dice.roll(2) == 0 { "FULL" } else { "INCREMENTAL" };
        let task = api.export(&vm, kind).await;
        let after = if link == 0 { dice.within(span) } else { dice.within(Duration::from_millis(12)) };
        let killed_at = strikes.kill(server, &api, &task, Moment { link, after }).await;

        server = site.start().await;
        let api = server.api(&site).await;
        let chain = api.chain(&task, 2).await;
        chain.assert_finished(&["EXPORT", "STORE"]);
        strikes.note(&chain.tasks, killed_at);
        let backup = check_backup(&api, &vm, &task, round as usize + 2).await;
        if round + 1 == rounds {
            api.restored(&backup, "back").await;
            same_bytes(&site.datastore().join("back/root.raw"), &disk);
        }
    }
    server.stop().await;
    let data = site.data().display().to_string();
    let verified = site.run(&["repo", "verify", "--data-dir", &data]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let list = site.run(&["repo", "list", "--json", "--data-dir", &data]);
    let points: Value = serde_json::from_str(&list.out).unwrap();
    let points = points.as_array().or_else(|| points["points"].as_array()).map(Vec::len);
    assert_eq!(points, Some(rounds as usize + 1), "{}", list.out);
    strikes.print(what);
    strikes
}

#[tokio::test]
async fn kills_during_export_lose_nothing() {
    let strikes = backup_rounds("export", 0, 0x00e0_0001).await;
    assert!(strikes.struck.contains_key("EXPORT"), "no kill struck an export: {:?}", strikes.struck);
}

#[tokio::test]
async fn kills_during_store_lose_nothing() {
    backup_rounds("store", 1, 0x0050_0002).await;
}

#[tokio::test]
async fn kills_during_restore_lose_nothing() {
    let site = Site::new();
    let (mut dice, mut strikes) = (Dice(0x0005_e003), Strikes::default());
    let disk = Disk::noise(3, 40);
    site.machine("web", &[("root.raw", &disk)]);
    let mut server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let backup = api.back_up(&api.vm("web").await, "FULL").await;
    let task = api.restore(&backup, "first").await;
    let span = duration(&api, &task).await;
    api.chain(&task, 2).await.assert_finished(&["RESTORE", "IMPORT"]);

    let rounds = rounds(3);
    for round in 0..rounds {
        let api = server.api(&site).await;
        let name = format!("back-{round}");
        let task = api.restore(&backup, &name).await;
        // Mostly while bytes are written, at times while the machine appears.
        let link = usize::from(dice.roll(4) == 0);
        let after = if link == 0 { dice.within(span) } else { dice.within(Duration::from_millis(12)) };
        let killed_at = strikes.kill(server, &api, &task, Moment { link, after }).await;

        server = site.start().await;
        let api = server.api(&site).await;
        let chain = api.chain(&task, 2).await;
        chain.assert_finished(&["RESTORE", "IMPORT"]);
        strikes.note(&chain.tasks, killed_at);
        same_bytes(&site.datastore().join(&name).join("root.raw"), &disk);
        cleaned_up(&site).await;
        api.sync().await;
        api.vm(&name).await;
        // One machine a request, beside the one that was backed up and the one that was restored in peace.
        let machines = std::fs::read_dir(site.datastore()).unwrap().count();
        assert_eq!(machines as u64, round + 3);
    }
    let jobs = server.api(&site).await.get("/restore-jobs").await;
    assert_eq!(jobs.as_array().unwrap().len() as u64, rounds + 1, "{jobs:#}");
    server.stop().await;
    strikes.print("restore");
    assert!(strikes.struck.contains_key("RESTORE"), "no kill struck a restore: {:?}", strikes.struck);
}
