//! One round: a live full backup beside its peers, two live incremental ones, and the machine run from the last.

use super::guest::{DATA, Machine, PATIENCE};
use super::{BLOCK, RUN, Setup, shown, text};
use crate::backup::{mix, sh, used};
use crate::measure::{Runs, own, program};
use portolan_driver::{Changes, ExportRequest, Hypervisor, InstantDisk, InstantRequest, NativeVm, Readiness, Ready};
use portolan_repository::{
    BackupRepository, DiskStats, LocalObjects, Repository, RepositoryEnv, RepositoryKey, Unobserved,
};
use portolan_testkit::repository::{disk, meta, point_id, spec};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) const CONVERT: &str = "qemu-img convert -c, zstd, sync";
pub(super) const RESTIC: &str = "restic backup of the raw image";
pub(super) const FULL: &str = "Portolan live full backup";
pub(super) const RUNS: &str = "Portolan live incremental, 1 % in runs of 1 MiB";
pub(super) const SCATTERED: &str = "Portolan live incremental, 1 % in blocks of 64 KiB";

/// What all rounds came to.
#[derive(Default)]
pub(super) struct Found {
    pub(super) runs: Runs,
    /// Seconds of the data phases, by the backups' names.
    pub(super) phases: Vec<(&'static str, f64)>,
    /// Bytes read for each byte that the guest changed, likewise.
    pub(super) read: Vec<(&'static str, f64)>,
    /// How long file systems stood still, in milliseconds; nothing where they were not frozen.
    pub(super) frozen: Vec<Option<f64>>,
    /// Seconds from a start to the agent's answer, of the machine from its own disks, and out of a backup.
    pub(super) own: Vec<f64>,
    pub(super) instant: Vec<f64>,
    /// Seconds until a machine out of a backup had a process and a monitor, and until it stood alone.
    pub(super) up: Vec<f64>,
    pub(super) home: Vec<f64>,
    pub(super) stored: Vec<String>,
}

impl Found {
    /// The figures of that name.
    pub(super) fn of(list: &[(&'static str, f64)], name: &str) -> Vec<f64> {
        list.iter().filter(|(n, _)| *n == name).map(|(_, figure)| *figure).collect()
    }
}

/// A backup that was taken.
struct Taken {
    number: u128,
    vm: NativeVm,
    checkpoint: Option<String>,
    data: Duration,
    read: u64,
}

pub(super) struct Round<'a> {
    pub(super) setup: &'a Setup,
    pub(super) machine: &'a Machine,
    pub(super) number: u64,
    pub(super) found: &'a mut Found,
}

impl Round<'_> {
    pub(super) async fn run(&mut self) -> Result<(), String> {
        let out = self.setup.dir.join("out");
        std::fs::create_dir_all(&out).map_err(text)?;
        self.found.own.push(self.machine.boot().await?.as_secs_f64());
        let theirs = self.peers(&out)?;

        let objects = LocalObjects::open(&out.join("repository")).map_err(text)?;
        let env = RepositoryEnv { clock: self.machine.clock.clone(), ids: self.machine.ids.clone() };
        let key = RepositoryKey::generate(&*env.ids);
        let made = Repository::create(Arc::new(objects), env, &key).await;
        let repository = made.map_err(text)?.0;
        let full = self.back_up(&repository, FULL, 1, None).await?;
        if self.number == 0 {
            let ours = used(&out.join("repository"))? >> 20;
            self.found.stored.push(format!("Stored by a full backup: Portolan {ours} MiB{theirs}."));
        }
        let first = self.increment(&repository, RUNS, &full, RUN).await?;
        let last = self.increment(&repository, SCATTERED, &first, BLOCK).await?;
        self.machine.guest.stop().await.map_err(text)?;
        self.run_from(&repository, &last).await?;
        drop(repository);
        std::fs::remove_dir_all(&out).map_err(text)
    }

    /// The others, each as fast as it is when nothing else runs; what they stored.
    fn peers(&mut self, out: &Path) -> Result<String, String> {
        let Setup { raw, qcow2, .. } = self.setup;
        let file = shown(&out.join("converted.qcow2"));
        let convert = "qemu-img convert -U -f qcow2 -O qcow2 -c -o compression_type=zstd";
        let script = format!("{convert} {} {file} && sync {file}", shown(qcow2));
        self.found.runs.add(CONVERT, program(Command::new("sh").args(["-c", &script]))?);
        let mut line = format!(", qemu-img convert {} MiB", used(Path::new(&file))? >> 20);
        std::fs::remove_file(&file).map_err(text)?;
        if self.setup.restic {
            let place = out.join("restic");
            let restic = format!("restic -q -r {} --no-cache --password-command 'echo bench'", shown(&place));
            sh(&format!("{restic} init"))?;
            let script = format!("{restic} backup {}", shown(raw));
            self.found.runs.add(RESTIC, program(Command::new("sh").args(["-c", &script]))?);
            line.push_str(&format!(", restic {} MiB", used(&place)? >> 20));
            std::fs::remove_dir_all(&place).map_err(text)?;
        }
        Ok(line)
    }

    /// Has the guest change 1 % of its data in pieces of `len` bytes, and backs that up.
    async fn increment(
        &mut self,
        repository: &Repository,
        name: &'static str,
        parent: &Taken,
        len: u64,
    ) -> Result<Taken, String> {
        let wanted = (self.setup.data / 100 / len).max(1);
        let seed = self.number << 32 | u64::from(len == BLOCK) << 31;
        // Each within a part of its own, so that they do not meet, and on any block.
        let part = (self.setup.size - len) / wanted / BLOCK;
        let place = |n: u64| (n * part + mix(seed | n) % (part - len / BLOCK).max(1)) * BLOCK;
        let places: Vec<u64> = (0..wanted).map(place).collect();
        self.machine.write(&places, len).await?;
        let taken = self.back_up(repository, name, parent.number + 1, Some(parent)).await?;
        self.found.read.push((name, taken.read as f64 / (wanted * len) as f64));
        Ok(taken)
    }

    async fn back_up(
        &mut self,
        repository: &Repository,
        name: &'static str,
        number: u128,
        parent: Option<&Taken>,
    ) -> Result<Taken, String> {
        let guest = &self.machine.guest;
        let since = parent.and_then(|parent| parent.checkpoint.clone());
        let request = ExportRequest {
            vm: guest.id().to_owned(),
            incarnation: guest.spec().incarnation,
            disks: None,
            token: format!("bench-{}-{number}", self.number),
            fence: 1,
            keep: since.iter().cloned().collect(),
            since,
            quiesce: true,
        };
        let hypervisor = self.machine.hypervisor();
        let (cost, done) = own(async {
            let export = hypervisor.open_export(request).await.map_err(text)?;
            let what = export.exported();
            let begun = Instant::now();
            let session = repository.begin(spec(number, 1, parent.map(|p| p.number))).await.map_err(text)?;
            let mut stats = DiskStats::default();
            for one in &what.disks {
                let changed = match &one.changes {
                    Changes::Ranges(ranges) => Some(ranges.clone()),
                    Changes::Unknown => None,
                    Changes::Lost(why) => return Err(format!("what changed on '{}' is lost: {why}", one.name)),
                };
                let read = session.disk(disk(&one.name, changed), one.source.clone(), &Unobserved).await;
                stats.read_bytes += read.map_err(text)?.read_bytes;
            }
            let data = begun.elapsed();
            session.commit(meta(&*self.machine.clock)).await.map_err(text)?;
            export.release(true).await.map_err(text)?;
            let (vm, checkpoint) = (what.vm.clone(), what.checkpoint.clone());
            let frozen = what.frozen.map(|frozen| frozen.as_secs_f64() * 1e3);
            Ok((Taken { number, vm, checkpoint, data, read: stats.read_bytes }, frozen, what.notes.clone()))
        })
        .await;
        let (taken, frozen, notes) = done?;
        for note in notes {
            eprintln!("{name}: {note}");
        }
        self.found.frozen.push(frozen);
        self.found.phases.push((name, taken.data.as_secs_f64()));
        self.found.runs.add(name, cost);
        Ok(taken)
    }

    /// Runs the machine out of a backup, while the one that was backed up is off.
    async fn run_from(&mut self, repository: &Repository, taken: &Taken) -> Result<(), String> {
        let mut disks = Vec::new();
        let start = Instant::now();
        for one in &taken.vm.disks {
            let source = repository.open_disk(point_id(taken.number), &one.name).await.map_err(text)?;
            disks.push(InstantDisk { name: one.name.clone(), source });
        }
        let request = InstantRequest {
            token: format!("bench-{}", self.number),
            fence: 1,
            name: "back".into(),
            template: Some(taken.vm.clone()),
            datastore: None,
            disks,
            isolated: false,
        };
        let session = self.machine.hypervisor().begin_instant(request).await.map_err(text)?;
        self.found.up.push(start.elapsed().as_secs_f64());
        match session.ready(PATIENCE, Ready::Agent).await.map_err(text)? {
            Readiness::Reached(_) => self.found.instant.push(start.elapsed().as_secs_f64()),
            Readiness::Missed { reason, console } => return Err(format!("it does not boot: {reason}\n{console}")),
        }
        let start = Instant::now();
        let (cost, home) = own(session.bring_home(&|_| {})).await;
        let made = home.map_err(text)?;
        self.found.home.push(start.elapsed().as_secs_f64());
        let data = made.disks.iter().any(|disk| disk.name == DATA);
        drop(session);
        self.machine.host.destroy(&made.native_id, &made.incarnation).await.map_err(text)?;
        self.found.runs.add("Portolan instant restore, bringing the data home", cost);
        data.then_some(()).ok_or_else(|| "the machine came back without its data".into())
    }
}
