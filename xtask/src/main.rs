//! What a contributor does: `cargo xtask ci`, `test`, `soak`, `bench`, `openapi`, `demo-guest`, `tidy`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people talks on its standard streams")]

mod bench;
mod ci;
mod demo_guest;
mod openapi;
mod shell;
mod soak;
mod test;
mod tidy;
mod tools;

use clap::{Parser, Subcommand};
use shell::{Shell, XtaskError};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What a contributor to Portolan does", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// All that CI runs, with the seconds of each suite beside its budget
    Ci,
    /// All tests, on throw-away PostgreSQL and MariaDB servers
    Test {
        /// Install what is missing: Debian packages (as root) and cargo-nextest
        #[arg(long)]
        install: bool,
        /// Passed to `cargo nextest run --workspace`, for instance a test's name, or `-E 'package(portolan-tasks)'`
        #[arg(last = true)]
        nextest: Vec<String>,
    },
    /// The long figures: hundreds of kills, thousands of seeds
    Soak {
        /// How many kill rounds of each kind, and by how much the seeds of models are multiplied
        #[arg(long, default_value_t = 50)]
        rounds: u32,
        /// Install what is missing
        #[arg(long)]
        install: bool,
    },
    /// Measures a release build: backup, tasks, start, orchestrator, qemu
    Bench {
        /// Which; all when none is named
        names: Vec<bench::Name>,
        /// Install what is missing, restic for comparison included
        #[arg(long)]
        install: bool,
        /// A tenth of the data and fewer rounds, to see that the measurement itself works
        #[arg(long)]
        quick: bool,
        /// The size of the guest's data disk in MiB, for `qemu`: 4096, or 256 with `--quick`
        #[arg(long)]
        mib: Option<u64>,
    },
    /// Writes the OpenAPI document of each dialect to docs/openapi
    Openapi {
        /// Only fail when a committed document is not the generated one
        #[arg(long)]
        check: bool,
    },
    /// Makes the small Linux guest of demonstrations and tests, out of Debian packages
    DemoGuest {
        /// Also puts a copy into this directory, with the kernel and the first file system it boots with
        #[arg(long)]
        out: Option<PathBuf>,
        /// The size of its disk
        #[arg(long, default_value = demo_guest::SIZE)]
        size: String,
        /// Install what is missing
        #[arg(long)]
        install: bool,
    },
    /// The rules of the source tree: arrows between crates, lengths of files, what crates must say
    Tidy,
}

fn main() -> ExitCode {
    let task = Cli::parse().task;
    let done = Shell::new().and_then(|shell| match task {
        Task::Ci => ci::run(&shell),
        Task::Test { install, nextest } => test::run(&shell, install, &nextest),
        Task::Soak { rounds, install } => soak::run(&shell, rounds, install),
        Task::Bench { names, install, quick, mib } => bench::run(&shell, &names, install, quick, mib),
        Task::Openapi { check } => openapi::run(&shell, check),
        Task::DemoGuest { out, size, install } => demo_guest::run(&shell, out.as_deref(), &size, install),
        Task::Tidy => tidy::run(&shell),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn report(error: &XtaskError) {
    eprintln!("\nxtask: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        eprintln!("  because: {inner}");
        cause = inner.source();
    }
}
