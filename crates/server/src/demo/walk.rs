//! The walk: list, full backup, change, increment, verify, restore, compare.

use super::api::{Api, Figures, text};
use super::images::{self, Made};
use crate::error::{Failure, OrFail};
use crate::output::{self, Paint, bytes, bytes_bar};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Makes the machines.
pub(super) async fn make(say: &mut Say, place: &Path) -> Result<Made, Failure> {
    let began = say.begin("make a federation: two clusters, each with a host and a datastore");
    let (root, originals) = (place.join("vms"), place.join("originals"));
    let made = blocking(move || images::make(&root, &originals)).await?;
    let formats = if made.qcow2 { "raw and qcow2" } else { "raw only, as there is no qemu-img here" };
    let total = made.disks.iter().map(|d| d.bytes).sum();
    let (machines, disks) = (made.machines().len(), made.disks.len());
    say.done(began, &format!("{machines} machines, {disks} disks of {} in all ({formats})", bytes(total)));
    Ok(made)
}

/// Does everything else, and says so as it goes. Gives the destination of the backups.
pub(super) async fn run(say: &mut Say, api: &Api, made: Made, root: &Path) -> Result<String, Failure> {
    let made = Arc::new(made);
    let virtual_bytes: u64 = made.disks.iter().map(|d| d.bytes).sum();
    let began = say.begin("list the platform");
    api.sync().await?;
    let known: BTreeMap<String, String> = machines(api).await?;
    let mut guids = Vec::new();
    for name in made.machines() {
        let guid = known.get(name).ok_or_else(|| Failure::new(format!("the machine '{name}' is not listed")))?;
        guids.push(guid.clone());
    }
    let destinations = api.list("/backup-destinations").await?;
    let near = destinations.iter().find(|d| d.pointer("/name").and_then(Value::as_str) == Some("near"));
    let near = text(near.ok_or_else(|| Failure::new("the destination 'near' is not listed"))?, "/guid")?;
    let names: Vec<String> = destinations.iter().filter_map(|d| text(d, "/name").ok()).collect();
    say.done(began, &format!("{}; destinations {}", made.machines().join(", "), names.join(", ")));

    let began = say.begin("full backup of every machine");
    let full = backup(api, &guids, "FULL", &near).await?;
    say.backup(began, &full.1);

    let began = say.begin("a day's work on every disk");
    let changed = {
        let made = Arc::clone(&made);
        blocking(move || images::change(&made)).await?
    };
    say.done(began, &format!("{} written", bytes(changed)));

    let began = say.begin("incremental backup of every machine");
    let increment = backup(api, &guids, "INCREMENTAL", &near).await?;
    say.backup(began, &increment.1);
    let (whole, part) = (total(&full.1), total(&increment.1));
    say.note(&format!(
        "the full backups added {} for {} of data ({:.1} to one); the increments added {}",
        bytes(whole.stored),
        bytes(whole.read),
        ratio(whole.read, whole.stored),
        bytes(part.stored)
    ));

    let began = say.begin("verify: read every byte of the increments back");
    let bar = bytes_bar("verify");
    let mut read = 0;
    for point in &increment.0 {
        read += api.verify(point, &bar).await?;
    }
    bar.finish_and_clear();
    say.done(began, &format!("{} read, {}, no damage", bytes(read), rate(read, began.elapsed())));

    let began = say.begin("restore every machine from its increment, under a new name");
    let bar = bytes_bar("restore");
    let mut chains = Vec::new();
    for (point, name) in increment.0.iter().zip(made.machines()) {
        chains.push(api.restore(point, &restored_name(name)).await?);
    }
    for chain in &chains {
        api.restored(chain, &bar).await?;
    }
    bar.finish_and_clear();
    say.done(began, &format!("{}, {}", bytes(virtual_bytes), rate(virtual_bytes, began.elapsed())));

    let began = say.begin("compare the restored disks with the originals, byte for byte");
    compare(api, &made, root).await?;
    say.done(began, &format!("{} of {} are identical", made.disks.len(), made.disks.len()));
    Ok(near)
}

async fn backup(
    api: &Api,
    guids: &[String],
    kind: &str,
    destination: &str,
) -> Result<(Vec<String>, Vec<Figures>), Failure> {
    let bar = bytes_bar("backup");
    let asked = api.export(guids, kind, destination).await?;
    let figures = api.stored(&asked, &bar).await?;
    bar.finish_and_clear();
    Ok((asked.into_iter().map(|a| a.backup).collect(), figures))
}

/// The machines that are there, by name.
async fn machines(api: &Api) -> Result<BTreeMap<String, String>, Failure> {
    let mut out = BTreeMap::new();
    for machine in api.list("/virtual-machines").await? {
        if machine.pointer("/present").and_then(Value::as_bool) == Some(true) {
            out.insert(text(&machine, "/name")?, text(&machine, "/guid")?);
        }
    }
    Ok(out)
}

/// The machine of that name that is there.
pub(super) async fn machine(api: &Api, name: &str) -> Result<String, Failure> {
    let missing = || Failure::new(format!("the machine '{name}' is not listed"));
    machines(api).await?.remove(name).ok_or_else(missing)
}

fn restored_name(name: &str) -> String {
    format!("{name}-restored")
}

/// Finds the restored disks by the API, and compares them with their originals.
async fn compare(api: &Api, made: &Arc<Made>, root: &Path) -> Result<(), Failure> {
    let mut places: BTreeMap<String, String> = BTreeMap::new();
    for machine in api.list("/virtual-machines").await? {
        places.insert(text(&machine, "/guid")?, text(&machine, "/uuid")?);
    }
    let by_name = machines(api).await?;
    let mut files = BTreeMap::new();
    for guid in by_name.values() {
        for disk in api.list(&format!("/virtual-machine-disks?virtual-machine={guid}")).await? {
            if let Some(place) = places.get(guid) {
                let file = root.join(place).join(text(&disk, "/uuid")?);
                files.insert((guid.clone(), text(&disk, "/name")?), file);
            }
        }
    }
    let mut pairs = Vec::new();
    for disk in &made.disks {
        let name = restored_name(disk.machine);
        let missing = || Failure::damage(format!("the disk '{}' of '{name}' was not restored", disk.name));
        let owner = by_name.get(&name).ok_or_else(missing)?;
        let file = files.get(&(owner.clone(), disk.name.to_owned())).ok_or_else(missing)?;
        pairs.push((disk.original.clone(), file.clone()));
    }
    blocking(move || {
        for (original, restored) in pairs {
            let first = images::difference(&original, &restored)
                .or_fail(|| format!("{} cannot be compared", restored.display()))?;
            if let Some(at) = first {
                return Err(Failure::damage(format!(
                    "the restored {} differs from {} at byte {at}",
                    restored.display(),
                    original.display()
                )));
            }
        }
        Ok(())
    })
    .await
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Failure::new("a worker failed").because(e)))
}

fn total(figures: &[Figures]) -> Figures {
    figures.iter().fold(Figures::default(), |sum, one| Figures {
        read: sum.read + one.read,
        changed: sum.changed + one.changed,
        stored: sum.stored + one.stored,
        deduplicated: sum.deduplicated + one.deduplicated,
        frozen_ms: sum.frozen_ms.max(one.frozen_ms),
    })
}

fn ratio(whole: u64, part: u64) -> f64 {
    if part == 0 { 0.0 } else { whole as f64 / part as f64 }
}

fn rate(n: u64, took: Duration) -> String {
    format!("{}/s", bytes((n as f64 / took.as_secs_f64().max(0.001)) as u64))
}

/// Says what happens.
pub(super) struct Say {
    step: u32,
    steps: u32,
    paint: Paint,
}

/// How many steps there are without a guest.
const STEPS: u32 = 8;

impl Say {
    /// Nothing was said yet. With `guest`, more steps follow.
    pub(super) fn new(guest: bool) -> Self {
        let steps = STEPS + if guest { super::guest::STEPS } else { 0 };
        Self { step: 0, steps, paint: Paint::stdout() }
    }

    pub(super) fn begin(&mut self, what: &str) -> Instant {
        self.step += 1;
        output::line(format!("{} {what}", self.paint.dim(&format!("[{}/{}]", self.step, self.steps))));
        Instant::now()
    }

    pub(super) fn done(&self, began: Instant, what: &str) {
        let took = format!("{:.1} s", began.elapsed().as_secs_f64());
        output::line(format!("      {} {what} {}", self.paint.green("done:"), self.paint.dim(&took)));
    }

    fn note(&self, what: &str) {
        output::line(format!("      {what}"));
    }

    /// A backup of a machine that runs.
    pub(super) fn frozen(&self, began: Instant, figures: &Figures) {
        let still = match figures.frozen_ms {
            Some(ms) => format!("its file systems stood still for {ms} ms"),
            None => "its file systems were not frozen".to_owned(),
        };
        let (read, stored) = (bytes(figures.read), bytes(figures.stored));
        self.done(began, &format!("{read} read, {stored} stored; {still}"));
    }

    fn backup(&self, began: Instant, figures: &[Figures]) {
        let sum = total(figures);
        self.done(
            began,
            &format!(
                "{} read, {}; {} changed, {} known already, {} stored",
                bytes(sum.read),
                rate(sum.read, began.elapsed()),
                bytes(sum.changed),
                bytes(sum.deduplicated),
                bytes(sum.stored)
            ),
        );
    }
}
