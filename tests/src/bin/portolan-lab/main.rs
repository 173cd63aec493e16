//! What `cargo xtask` needs Portolan's crates for: database servers for tests, and measurements.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people talks on its standard streams")]
// A measurement that cannot go on has nothing better to do than to say why and end.
#![allow(clippy::unwrap_used)]

mod backup;
mod measure;
mod orchestrator;
mod qemu;
mod start;
mod tasks;

use clap::{Parser, Subcommand, ValueEnum};
use portolan_testkit::db::{Durability, MARIADB_URL, POSTGRES_URL, start_mariadb, start_postgres};
use std::io::Read;
use std::process::ExitCode;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts PostgreSQL and MariaDB, prints where they are and `ready`, and runs until its input ends
    Databases,
    /// A server that keeps nothing, for comparison: rows come in, the address goes out
    #[command(hide = true)]
    Bare,
    /// Measures this build and prints a table in Markdown
    Bench {
        what: What,
        /// A tenth of the data and fewer rounds
        #[arg(long)]
        quick: bool,
        /// The size of the guest's data disk in MiB, for `qemu`
        #[arg(long)]
        mib: Option<u64>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    Backup,
    Tasks,
    Start,
    Orchestrator,
    Qemu,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Databases => databases(),
        Command::Bare => orchestrator::bare().await,
        Command::Bench { what: What::Orchestrator, quick, .. } => orchestrator::run(quick).await,
        Command::Bench { what: What::Backup, quick, .. } => backup::run(quick).await,
        Command::Bench { what: What::Tasks, quick, .. } => tasks::run(quick).await,
        Command::Bench { what: What::Qemu, quick, mib } => qemu::run(quick, mib).await,
        Command::Bench { what: What::Start, quick, .. } => start::run(quick).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portolan-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The servers stop when this returns, and when this process is killed: their keepers read from it.
fn databases() -> Result<(), String> {
    let dir = tempfile::Builder::new().prefix("portolan-db-").tempdir().map_err(|e| e.to_string())?;
    // The servers run as users of their own, which must be able to reach their directories.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).map_err(|e| e.to_string())?;
    let postgres = start_postgres(&dir.path().join("pg"), Durability::Off)?;
    let mariadb = start_mariadb(&dir.path().join("my"), Durability::Off)?;
    println!("{POSTGRES_URL}={}\n{MARIADB_URL}={}\nready", postgres.url(), mariadb.url());
    let mut rest = Vec::new();
    let _ = std::io::stdin().lock().read_to_end(&mut rest);
    Ok(())
}
