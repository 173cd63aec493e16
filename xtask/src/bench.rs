//! `cargo xtask bench`: measures a release build and prints tables for docs/performance.md.

use crate::shell::{self, Result, Shell};
use crate::{demo_guest, tools};
use clap::ValueEnum;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// Full and incremental backup, verify, restore, beside cp, zstd and restic
    Backup,
    /// Tasks enqueued and settled per second on each store, beside the same database's own rates
    Tasks,
    /// How soon the server is ready, what its writes to disk cost, and its memory at rest
    Start,
    /// A list of 1 000 nodes and a single start through the Orchestrator API, beside a bare hyper server
    Orchestrator,
    /// A guest's disk over NBD, live backups and instant restores of it, beside nbdcopy, dd, qemu-img and restic
    Qemu,
}

/// What a server sets for itself (`crates/server/src/allocator.rs`): memory is measured as it is in one.
const ALLOCATOR: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "1048576"), ("MALLOC_TRIM_THRESHOLD_", "4194304")];

/// Builds a release and runs the measurements one after the other.
pub(crate) fn run(shell: &Shell, names: &[Name], install: bool, quick: bool, mib: Option<u64>) -> Result<()> {
    let names = if names.is_empty() { Name::value_variants() } else { names };
    if names.contains(&Name::Tasks) {
        tools::need(shell, tools::TEST, install)?;
    }
    if install && (names.contains(&Name::Backup) || names.contains(&Name::Qemu)) {
        tools::need(shell, tools::BENCH, true)?;
    }
    if names.contains(&Name::Qemu) {
        tools::need(shell, tools::QEMU_BENCH, install)?;
        demo_guest::make(shell, demo_guest::SIZE, install)?;
    }
    shell::run(&mut shell.cargo(["build", "--release", "--workspace", "--bins"]))?;
    for name in names {
        let word = name.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
        let mut command = shell.command(shell.built("release", "portolan-lab"));
        command.args(["bench", &word]).envs(ALLOCATOR);
        if quick {
            command.arg("--quick");
        }
        if let Some(mib) = mib {
            command.args(["--mib", &mib.to_string()]);
        }
        shell::run(&mut command)?;
    }
    Ok(())
}
