//! A disk of about a gibibyte, half of it data: backed up, increased, verified and restored, beside `cp`, `zstd` and
//! `restic`.

use crate::measure::{Runs, heading, installed, own, program};
use portolan_access::{SystemClock, SystemIds};
use portolan_block::BlockSource;
use portolan_driver::{DiskImport, ExportRequest, Hypervisor, ImportRequest};
use portolan_driver_images::ImagesHypervisor;
use portolan_model::{Clock, IdSource};
use portolan_repository::{
    BackupRepository, LocalObjects, Repository, RepositoryEnv, RepositoryKey, Unobserved, VerifyDepth, VerifyScope,
    copy_disk,
};
use portolan_testkit::repository::{disk, meta, noise, point_id, spec};
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// What is written and changed in one go, in bytes.
const BLOCK: u64 = 64 * 1024;
/// Holes come in runs of this many bytes.
const RUN: u64 = 4 * 1024 * 1024;
const ANCHOR: &str = "cp --sparse, sync";

pub(crate) async fn run(quick: bool) -> Result<(), String> {
    let (size, rounds) = if quick { (96 << 20, 1) } else { (1 << 30, 3) };
    let base = std::env::var_os("PORTOLAN_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::Builder::new().prefix("portolan-bench-").tempdir_in(base).map_err(|e| e.to_string())?;
    let mut bench = Bench::new(dir.path(), size)?;
    let head = heading("Backup");
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        bench.round(round).await?;
    }
    println!("{head}");
    println!(
        "A raw image of {} MiB with {} MiB of data (a third noise, half text, a sixth repeated), its source in the \
         page cache, everything on one file system, each result synced; {rounds} interleaved rounds. An increment \
         changes 2 % of the data in blocks of 64 KiB. MB/s are of all data, whatever was read of it.\n",
        size >> 20,
        bench.data >> 20
    );
    println!("{}", bench.runs.table(bench.data, ANCHOR));
    println!("{}", bench.sizes.join("\n"));
    Ok(())
}

struct Bench {
    dir: PathBuf,
    image: PathBuf,
    size: u64,
    data: u64,
    blocks: Vec<u64>,
    runs: Runs,
    sizes: Vec<String>,
    restic: bool,
    zstd: bool,
    env: RepositoryEnv,
}

impl Bench {
    fn new(dir: &Path, size: u64) -> Result<Self, String> {
        let machine = dir.join("vms/c/h/d/vm");
        fs::create_dir_all(&machine).map_err(|e| e.to_string())?;
        let image = machine.join("disk.raw");
        let file = File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(size).map_err(|e| e.to_string())?;
        let blocks: Vec<u64> = (0..size / BLOCK).filter(|b| mix(b * BLOCK / RUN).is_multiple_of(2)).collect();
        for block in &blocks {
            file.write_all_at(&content(*block, 0), block * BLOCK).map_err(|e| e.to_string())?;
        }
        file.sync_all().map_err(|e| e.to_string())?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let ids: Arc<dyn IdSource> = Arc::new(SystemIds::new(clock.clone()));
        Ok(Self {
            dir: dir.to_owned(),
            image,
            size,
            data: blocks.len() as u64 * BLOCK,
            blocks,
            runs: Runs::default(),
            sizes: Vec::new(),
            restic: installed("restic"),
            zstd: installed("zstd"),
            env: RepositoryEnv { clock, ids },
        })
    }

    async fn round(&mut self, round: u64) -> Result<(), String> {
        // Everybody finds the source in the page cache.
        fs::read(&self.image).map_err(|e| e.to_string())?;
        let image = self.image.display().to_string();
        let out = self.dir.join("out");
        fs::create_dir_all(&out).map_err(|e| e.to_string())?;
        let at = |name: &str| out.join(name).display().to_string();
        self.shell(ANCHOR, &format!("cp --sparse=always {image} {0} && sync {0}", at("copy")))?;
        if self.zstd {
            self.shell("zstd -1 -T2, sync", &format!("zstd -1 -T2 -q -f {image} -o {0} && sync {0}", at("zst")))?;
        }
        let restic = format!("restic -q -r {} --no-cache --password-command 'echo bench'", at("restic"));
        if self.restic {
            sh(&format!("{restic} init"))?;
            self.shell("restic backup, full", &format!("{restic} backup {image}"))?;
        }
        let repository = self.create(&out.join("repository")).await?;
        let name = "Portolan backup, full";
        self.back_up(&repository, name, 1, None, None).await?;
        if round == 0 {
            let mut line = format!("Stored by a full backup: Portolan {} MiB", used(&out.join("repository"))? >> 20);
            if self.restic {
                line.push_str(&format!(", restic {} MiB", used(&out.join("restic"))? >> 20));
            }
            if self.zstd {
                line.push_str(&format!(", zstd {} MiB", used(&out.join("zst"))? >> 20));
            }
            self.sizes.push(format!("{line}."));
        }

        self.change(2 * round + 1)?;
        if self.restic {
            self.shell("restic backup, 2 % changed", &format!("{restic} backup {image}"))?;
        }
        self.back_up(&repository, "Portolan backup, 2 % changed, compared", 2, Some(1), None).await?;
        // As much again, so that there is as much to store.
        let changed = self.change(2 * round + 2)?;
        self.back_up(&repository, "Portolan backup, 2 % changed, told where", 3, Some(2), Some(changed)).await?;

        let scope = VerifyScope::Points(vec![point_id(3)]);
        let (cost, report) = own(repository.verify(scope, VerifyDepth::Data, &Unobserved)).await;
        let report = report.map_err(|e| e.to_string())?;
        if !report.damage.is_empty() {
            return Err(format!("a fresh backup is damaged: {:?}", report.damage));
        }
        self.runs.add("Portolan verify, all data", cost);
        if self.restic {
            self.shell("restic check --read-data", &format!("{restic} check --read-data"))?;
        }
        self.restore(&repository, &out.join("vms"), round).await?;
        if self.restic {
            let target = at("restored");
            self.shell(
                "restic restore, sync",
                &format!("{restic} restore latest --target {target} && sync -f {target}"),
            )?;
        }
        fs::remove_dir_all(&out).map_err(|e| e.to_string())
    }

    fn shell(&mut self, name: &str, script: &str) -> Result<(), String> {
        let cost = program(Command::new("sh").args(["-c", script]))?;
        self.runs.add(name, cost);
        Ok(())
    }

    async fn create(&self, at: &Path) -> Result<Repository, String> {
        let objects = LocalObjects::open(at).map_err(|e| e.to_string())?;
        let key = RepositoryKey::generate(&*self.env.ids);
        let made = Repository::create(Arc::new(objects), self.env.clone(), &key).await;
        Ok(made.map_err(|e| e.to_string())?.0)
    }

    /// The disk as the driver of disk images opens it.
    async fn source(&self) -> Result<Arc<dyn BlockSource>, String> {
        let driver = ImagesHypervisor::new(self.dir.join("vms"), self.env.ids.clone());
        let inventory = driver.inventory().await.map_err(|e| e.to_string())?;
        let vm = inventory.vms.first().ok_or("the driver sees no machine")?;
        let request = ExportRequest {
            vm: vm.native_id.clone(),
            incarnation: vm.incarnation.clone(),
            disks: None,
            token: "bench".into(),
            fence: 1,
            since: None,
            keep: Vec::new(),
            quiesce: false,
        };
        let session = driver.open_export(request).await.map_err(|e| e.to_string())?;
        let disk = session.exported().disks.first().map(|d| d.source.clone());
        disk.ok_or_else(|| "the machine has no disk".into())
    }

    async fn back_up(
        &mut self,
        repository: &Repository,
        name: &str,
        point: u128,
        parent: Option<u128>,
        changed: Option<Vec<Range<u64>>>,
    ) -> Result<(), String> {
        let source = self.source().await?;
        let clock = self.env.clock.clone();
        let (cost, done) = own(async {
            let session = repository.begin(spec(point, 1, parent)).await?;
            session.disk(disk("disk", changed), source, &Unobserved).await?;
            session.commit(meta(&*clock)).await
        })
        .await;
        done.map_err(|e| e.to_string())?;
        self.runs.add(name, cost);
        Ok(())
    }

    async fn restore(&mut self, repository: &Repository, root: &Path, round: u64) -> Result<(), String> {
        fs::create_dir_all(root.join("c/h/d")).map_err(|e| e.to_string())?;
        let driver = ImagesHypervisor::new(root.to_owned(), self.env.ids.clone());
        let import = ImportRequest {
            token: "bench".into(),
            fence: 1,
            name: "back".into(),
            template: None,
            cluster: None,
            host: None,
            datastore: None,
            overwrite: false,
            disks: vec![DiskImport {
                name: "disk".into(),
                size_bytes: self.size,
                datastore: None,
                format: Some("raw".into()),
            }],
        };
        let (cost, done) = own(async {
            let from = repository.open_disk(point_id(3), "disk").await.map_err(|e| e.to_string())?;
            let session = driver.begin_import(import).await.map_err(|e| e.to_string())?;
            let to = session.disk("disk").await.map_err(|e| e.to_string())?;
            copy_disk(&*from, &*to, &Unobserved).await.map_err(|e| e.to_string())?;
            session.commit().await.map_err(|e| e.to_string())
        })
        .await;
        done?;
        self.runs.add("Portolan restore", cost);
        if round == 0 {
            let same = Command::new("cmp").arg(&self.image).arg(root.join("c/h/d/back/disk.raw")).status();
            if !same.is_ok_and(|s| s.success()) {
                return Err("the restored disk differs".into());
            }
        }
        Ok(())
    }

    /// Changes 2 % of the data in place, and says where.
    fn change(&self, generation: u64) -> Result<Vec<Range<u64>>, String> {
        let file = OpenOptions::new().write(true).open(&self.image).map_err(|e| e.to_string())?;
        let mut changed = Vec::new();
        for block in self.blocks.iter().filter(|b| mix(**b ^ (generation << 40)).is_multiple_of(50)) {
            file.write_all_at(&content(*block, generation), block * BLOCK).map_err(|e| e.to_string())?;
            changed.push(block * BLOCK..(block + 1) * BLOCK);
        }
        file.sync_all().map_err(|e| e.to_string())?;
        Ok(portolan_block::union(changed))
    }
}

/// A block's bytes: always the same for the same block and generation.
pub(crate) fn content(block: u64, generation: u64) -> Vec<u8> {
    let len = BLOCK as usize;
    let seed = mix(block ^ (generation << 48));
    match seed % 6 {
        0 | 1 => noise(seed, len),
        // One of a hundred blocks that come again and again.
        2 => noise(1000 + seed / 6 % 100, len),
        _ => {
            const WORDS: [&str; 16] = [
                "port ",
                "of ",
                "call ",
                "harbour ",
                "the ",
                "chart ",
                "wind ",
                "north-east ",
                "sail ",
                "and ",
                "rope ",
                "tide ",
                "anchor ",
                "depth ",
                "in fathoms, ",
                "lighthouse\n",
            ];
            let mut state = seed;
            let mut out = Vec::with_capacity(len + 16);
            while out.len() < len {
                state = mix(state);
                out.extend_from_slice(WORDS[(state % 16) as usize].as_bytes());
            }
            out.truncate(len);
            out
        }
    }
}

pub(crate) fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Bytes under a directory, or of a file.
pub(crate) fn used(path: &Path) -> Result<u64, String> {
    let meta = fs::symlink_metadata(path).map_err(|e| e.to_string())?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    let mut sum = 0;
    for entry in fs::read_dir(path).map_err(|e| e.to_string())? {
        sum += used(&entry.map_err(|e| e.to_string())?.path())?;
    }
    Ok(sum)
}

pub(crate) fn sh(script: &str) -> Result<(), String> {
    program(Command::new("sh").args(["-c", script])).map(|_| ())
}
