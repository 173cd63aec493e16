//! A guest of QEMU: its disk read over NBD, backed up while it runs, and run from its backup.

mod guest;
mod reader;
mod round;

use crate::backup::{content, mix};
use crate::measure::{Runs, heading, installed, median};
use guest::{Machine, data_image};
use round::{CONVERT, FULL, Found, RESTIC, RUNS, Round, SCATTERED};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is written in one go, in bytes.
const BLOCK: u64 = 64 << 10;
/// What the guest writes in one go when it writes much.
const RUN: u64 = 1 << 20;
/// Holes come in runs of this many bytes: one of four.
const HOLE: u64 = 4 << 20;

pub(crate) async fn run(quick: bool, mib: Option<u64>) -> Result<(), String> {
    let size = mib.unwrap_or(if quick { 256 } else { 4096 }) << 20;
    let rounds = if quick { 1 } else { 3 };
    if size < 64 << 20 {
        return Err("the disk needs 64 MiB".into());
    }
    let base = std::env::var_os("PORTOLAN_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::Builder::new().prefix("portolan-bench-").tempdir_in(base).map_err(text)?;
    let head = heading("QEMU");
    let setup = Setup::new(dir.path(), size)?;
    let reading = reader::run(&setup.raw, &setup.qcow2, dir.path(), setup.data, if quick { 2 } else { 7 }).await?;
    let machine = Machine::open(&setup.root, size).await?;
    let mut found = Found::default();
    for number in 0..rounds {
        eprintln!("round {} of {rounds}", number + 1);
        Round { setup: &setup, machine: &machine, number, found: &mut found }.run().await?;
    }
    println!("{head}");
    println!(
        "A guest of the demo image (TCG, 256 MiB) with a second disk, a qcow2 of {} MiB with {} MiB of data (a third \
         noise, half text, a sixth repeated), in the page cache; everything on one file system. {}; {rounds} \
         interleaved rounds, more of the readers. Backups are of both disks, their file systems frozen for the moment, \
         and of the guest while it runs; their peers read the second disk alone. MB/s are of that one's data, whatever \
         was read of it.\n",
        size >> 20,
        setup.data >> 20,
        version(),
    );
    println!("{}", reading.table(setup.data, reader::NBDCOPY));
    println!("{}", found.runs.table(setup.data, CONVERT));
    println!("{}\n", found.stored.join("\n"));
    println!("{}", verdicts(&reading, &found));
    for (program, package) in [("nbdcopy", "libnbd-bin"), ("restic", "restic")] {
        if !installed(program) {
            println!("Not compared: `{program}` is not installed (Debian's package `{package}`).\n");
        }
    }
    Ok(())
}

/// The disk that all are measured on, as a raw file and as the guest has it.
struct Setup {
    dir: PathBuf,
    root: PathBuf,
    raw: PathBuf,
    qcow2: PathBuf,
    size: u64,
    /// Bytes that are not holes.
    data: u64,
    restic: bool,
}

impl Setup {
    fn new(dir: &Path, size: u64) -> Result<Self, String> {
        let (raw, root) = (dir.join("data.raw"), dir.join("host"));
        let file = File::create(&raw).map_err(text)?;
        file.set_len(size).map_err(text)?;
        let mut data = 0;
        for block in (0..size / BLOCK).filter(|block| !mix(block * BLOCK / HOLE).is_multiple_of(4)) {
            file.write_all_at(&content(block, 0), block * BLOCK).map_err(text)?;
            data += BLOCK;
        }
        file.sync_all().map_err(text)?;
        let qcow2 = data_image(&root)?;
        output("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &shown(&raw), &shown(&qcow2)])?;
        File::open(&qcow2).and_then(|file| file.sync_all()).map_err(text)?;
        Ok(Self { dir: dir.to_owned(), root, raw, qcow2, size, data, restic: installed("restic") })
    }
}

/// Each figure beside what it is to reach.
fn verdicts(reading: &Runs, found: &Found) -> String {
    let mut lines = vec!["| figure, of medians | to reach | measured |".to_owned(), "| --- | ---: | ---: |".to_owned()];
    let mut line = |what: &str, bar: &str, measured: String| lines.push(format!("| {what} | {bar} | {measured} |"));
    let times = |ours: Option<f64>, theirs: Option<f64>| match (ours, theirs) {
        (Some(ours), Some(theirs)) => format!("{:.2} ×", theirs / ours),
        _ => "–".to_owned(),
    };
    let reader = reading.median(reader::OURS);
    line("NBD reader against `nbdcopy`", "≥ 1.2 ×", times(reader, reading.median(reader::NBDCOPY)));
    line("NBD reader against `dd` of the raw file", "≥ 1.0 ×", times(reader, reading.median(reader::DD)));
    let full = found.runs.median(FULL);
    line("live full backup against `qemu-img convert -c`", "≥ 2 ×", times(full, found.runs.median(CONVERT)));
    line("live full backup against `restic`", "≥ 3.5 ×", times(full, found.runs.median(RESTIC)));
    let whole = median(Found::of(&found.phases, FULL));
    for (name, short) in [(RUNS, "in runs of 1 MiB"), (SCATTERED, "in blocks of 64 KiB")] {
        let phase = median(Found::of(&found.phases, name));
        let around = found.runs.median(name).unwrap_or(f64::NAN) - phase;
        let read = median(Found::of(&found.read, name));
        line(&format!("data phase, 1 % changed {short}, of a full one's"), "≤ 1/30", format!("1/{:.0}", whole / phase));
        line(&format!("what is around it, {short}"), "≤ 1 s", format!("{around:.2} s"));
        line(&format!("bytes read for each changed, {short}"), "≤ 1.3", format!("{read:.2}"));
    }
    let frozen: Vec<f64> = found.frozen.iter().flatten().copied().collect();
    let longest = frozen.iter().copied().fold(0.0, f64::max);
    let not = found.frozen.len() - frozen.len();
    let not = if not == 0 { String::new() } else { format!("; {not} not frozen") };
    let stood = format!("{:.0} ms, at most {longest:.0} ms in {} backups{not}", median(frozen), found.frozen.len());
    line("guest frozen", "≤ 500 ms", stood);
    line("instant restore: a process", "≤ 2 s", format!("{:.2} s", median(found.up.clone())));
    let (instant, own) = (median(found.instant.clone()), median(found.own.clone()));
    line(
        "instant restore: ready, of a boot from its own disks",
        "≤ 1.5 ×",
        format!("{:.2} × ({instant:.1} s, {own:.1} s)", instant / own),
    );
    line("instant restore: data home", "", format!("{:.1} s", median(found.home.clone())));
    let peak = found.runs.peak(FULL).map_or("–".to_owned(), |peak| format!("{} MiB", peak >> 20));
    line("memory of a backup", "≤ 128 MiB", peak);
    lines.join("\n") + "\n"
}

fn version() -> String {
    let told = output("qemu-system-x86_64", &["--version"]).unwrap_or_default();
    told.lines().next().unwrap_or_default().split(" (").next().unwrap_or_default().to_owned()
}

/// Runs a program, which must succeed; what it says.
fn output(name: &str, args: &[&str]) -> Result<String, String> {
    let out = Command::new(name).args(args).output().map_err(|e| format!("{name}: {e}"))?;
    if !out.status.success() {
        return Err(format!("{name} {args:?}: {}", String::from_utf8_lossy(&out.stderr)));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// An error with what it comes from.
fn text(error: impl std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        out.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    out
}
