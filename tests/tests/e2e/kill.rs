//! `kill -9` in the middle of exports, stores and restores, at moments that a seed chooses: after the next start
//! the work ends as if nothing had been, and nothing is done twice.
//!
//! A test goes on until the link that it aims at was struck three times; `PORTOLAN_SOAK` sets another number. A kill
//! that struck another link, or none, is a round all the same: everything is checked after it too.

use crate::backup::cleaned_up;
use portolan_access::SystemClock;
use portolan_e2e::{Api, Chain, Disk, PATIENCE, Server, Site, rounds, same_bytes};
use portolan_model::Clock;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Numbers that a seed fixes.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    /// Somewhere in `span`.
    fn within(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.roll(1000) as f64 / 1000.0)
    }
}

/// Which link of a chain to strike: its type, its place, and how long it is worth aiming at.
struct Target {
    link: &'static str,
    place: usize,
    /// How long the link runs once it is seen to run, as far as is known.
    span: Duration,
}

impl Target {
    /// Learns the span from a chain that nobody disturbed.
    fn new(link: &'static str, place: usize, calm: &Chain) -> Self {
        let task = calm.tasks.iter().find(|t| t["type"]["name"] == link).expect("the link");
        let ms = |field: &str| task[field].as_u64().expect("a time");
        Self { link, place, span: Duration::from_millis((ms("finishTime") - ms("startTime")).max(1)) }
    }

    /// Learns from a kill: one that came too late makes the next ones come sooner, one that struck lets them wait
    /// a little longer again. So all of the link is struck, and few kills are wasted.
    fn learn(&mut self, struck: bool) {
        let factor = if struck { 1.15 } else { 0.75 };
        self.span = self.span.mul_f64(factor).max(Duration::from_micros(200));
    }
}

/// A hunt for one link: kills until it was struck as often as wanted.
struct Hunt {
    what: &'static str,
    dice: Dice,
    clock: SystemClock,
    /// The link that the test is about, then others that are struck now and then.
    targets: Vec<Target>,
    wanted: u64,
    rounds: u64,
    /// By the type of the link that ran.
    struck: BTreeMap<String, u64>,
}

impl Hunt {
    fn new(what: &'static str, seed: u64, targets: Vec<Target>) -> Self {
        let (dice, clock) = (Dice(seed), SystemClock::default());
        Self { what, dice, clock, targets, wanted: rounds(3), rounds: 0, struck: BTreeMap::new() }
    }

    /// Whether another round is needed.
    ///
    /// # Panics
    /// When there were so many that the link should have been struck by now.
    fn goes_on(&self) -> bool {
        let hits = self.struck.get(self.targets[0].link).copied().unwrap_or_default();
        let most = 8 * self.wanted + 8;
        assert!(hits >= self.wanted || self.rounds < most, "the link was struck too seldom: {}", self.summary());
        hits < self.wanted
    }

    /// Kills the server at a moment of the chain, and gives the instant at which it was gone, in milliseconds since
    /// the epoch, and the target.
    async fn kill(&mut self, server: Server, api: &Api, task: &Value) -> (i64, usize) {
        let aim = if self.targets.len() > 1 && self.dice.roll(4) == 0 { 1 } else { 0 };
        let after = self.dice.within(self.targets[aim].span);
        let start = Instant::now();
        // Without a pause between questions: the shortest link takes a few milliseconds.
        while api.tasks_of(task).await.get(self.targets[aim].place).is_none_or(|t| t["state"]["name"] == "QUEUED") {
            assert!(start.elapsed() < PATIENCE, "waited too long for {}", self.targets[aim].link);
        }
        // A wait for an instant, not for something to happen: where in the link the kill strikes is the point.
        tokio::time::sleep(after).await;
        server.kill();
        (self.clock.now().as_millis(), aim)
    }

    /// Notes which link of the chain was struck: it had begun, and ended only after the server was gone.
    fn note(&mut self, tasks: &[Value], (gone_at, aim): (i64, usize)) {
        let time = |t: &Value, field: &str| t[field].as_i64();
        let running = |t: &&Value| {
            time(t, "startTime").is_some_and(|at| at <= gone_at) && time(t, "finishTime").is_some_and(|at| at > gone_at)
        };
        let link = tasks.iter().find(running).and_then(|t| t["type"]["name"].as_str()).unwrap_or("nothing");
        let target = &mut self.targets[aim];
        target.learn(link == target.link);
        self.rounds += 1;
        *self.struck.entry(link.to_owned()).or_default() += 1;
    }

    fn summary(&self) -> String {
        let struck: Vec<String> = self.struck.iter().map(|(link, times)| format!("{link} {times}")).collect();
        format!("{} kills, one a round, for {} hits; struck {}", self.rounds, self.wanted, struck.join(", "))
    }

    /// One line, which `cargo xtask soak` repeats in its summary for the word that it begins with.
    fn print(&self) {
        println!("soak: kill -9 in {}: {}; nothing lost, nothing done twice", self.what, self.summary());
    }
}

/// One point for the request, each link once, one copy, and all of it readable.
async fn check_backup(api: &Api, vm: &Value, task: &Value, expected: u64) -> Value {
    let backups = api.backups(vm).await;
    assert_eq!(backups.len() as u64, expected, "a request is one backup: {backups:#?}");
    let guid = task["backup"]["guid"].as_str().unwrap();
    let backup = backups.iter().find(|b| b["guid"] == guid).expect("the backup of the request");
    assert_eq!(backup["status"]["name"], "SUCCESS", "{backup:#}");
    assert_eq!(backup["backupLocations"].as_array().unwrap().len(), 1, "{backup:#}");
    let verified = api.verify(backup).await;
    assert_eq!(verified["state"]["name"], "FINISHED", "{verified:#}");
    backup.clone()
}

/// Kills while a machine with a disk of `mib` MiB is backed up, again and again.
async fn backup_rounds(what: &'static str, (link, place): (&'static str, usize), mib: usize, seed: u64) {
    let site = Site::new();
    let mut disk = Disk::noise(seed, mib);
    site.machine("web", &[("root.raw", &disk)]);
    let mut server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let vm = api.vm("web").await;
    let task = api.export(&vm, "FULL").await;
    let calm = api.chain(&task, 2).await;
    calm.assert_finished(&["EXPORT", "STORE"]);

    let mut hunt = Hunt::new(what, seed, vec![Target::new(link, place, &calm)]);
    let mut newest = None;
    while hunt.goes_on() {
        // Most of the disk is new each time, so that there is always something to do.
        let new = mib - mib.div_ceil(10);
        disk.0[..new << 20].copy_from_slice(&Disk::noise(seed ^ (hunt.rounds + 1), new).0);
        site.machine("web", &[("root.raw", &disk)]);
        let api = server.api(&site).await;
        let kind = if hunt.dice.roll(2) == 0 { "FULL" } else { "INCREMENTAL" };
        let task = api.export(&vm, kind).await;
        let killed = hunt.kill(server, &api, &task).await;

        server = site.start().await;
        let api = server.api(&site).await;
        let chain = api.chain(&task, 2).await;
        chain.assert_finished(&["EXPORT", "STORE"]);
        hunt.note(&chain.tasks, killed);
        newest = Some(check_backup(&api, &vm, &task, hunt.rounds + 1).await);
    }
    let api = server.api(&site).await;
    api.restored(&newest.expect("a round"), "back").await;
    same_bytes(&site.datastore().join("back/root.raw"), &disk);
    server.stop().await;
    let data = site.data().display().to_string();
    let verified = site.run(&["repo", "verify", "--data-dir", &data]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let list = site.run(&["repo", "list", "--json", "--data-dir", &data]);
    let points: Value = serde_json::from_str(&list.out).unwrap();
    let points = points.as_array().or_else(|| points["points"].as_array()).map(Vec::len);
    assert_eq!(points, Some(hunt.rounds as usize + 1), "{}", list.out);
    hunt.print();
}

#[tokio::test]
async fn kills_during_export_lose_nothing() {
    backup_rounds("export", ("EXPORT", 0), 40, 0x00e0_0001).await;
}

#[tokio::test]
async fn kills_during_store_lose_nothing() {
    // What a STORE does hardly depends on the disk: a small one makes for quick rounds.
    backup_rounds("store", ("STORE", 1), 4, 0x0050_0002).await;
}

#[tokio::test]
async fn kills_during_restore_lose_nothing() {
    let site = Site::new();
    let disk = Disk::noise(3, 40);
    site.machine("web", &[("root.raw", &disk)]);
    let mut server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let backup = api.back_up(&api.vm("web").await, "FULL").await;
    let task = api.restore(&backup, "first").await;
    let calm = api.chain(&task, 2).await;
    calm.assert_finished(&["RESTORE", "IMPORT"]);

    // Mostly while bytes are written, at times while the machine appears.
    let targets = vec![Target::new("RESTORE", 0, &calm), Target::new("IMPORT", 1, &calm)];
    let mut hunt = Hunt::new("restore", 0x0005_e003, targets);
    while hunt.goes_on() {
        let api = server.api(&site).await;
        let name = format!("back-{}", hunt.rounds);
        let task = api.restore(&backup, &name).await;
        let killed = hunt.kill(server, &api, &task).await;

        server = site.start().await;
        let api = server.api(&site).await;
        let chain = api.chain(&task, 2).await;
        chain.assert_finished(&["RESTORE", "IMPORT"]);
        hunt.note(&chain.tasks, killed);
        same_bytes(&site.datastore().join(&name).join("root.raw"), &disk);
        cleaned_up(&site).await;
        api.sync().await;
        api.vm(&name).await;
        // One machine a request, beside the one that was backed up and the one that was restored in peace.
        let machines = std::fs::read_dir(site.datastore()).unwrap().count();
        assert_eq!(machines as u64, hunt.rounds + 2);
    }
    let jobs = server.api(&site).await.get("/restore-jobs").await;
    assert_eq!(jobs.as_array().unwrap().len() as u64, hunt.rounds + 1, "{jobs:#}");
    server.stop().await;
    hunt.print();
}
