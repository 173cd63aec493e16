//! The command line of `portolan state`.

use super::ConfigArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Keep or move the state of a server.
#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Write the database and the keys of a stopped server into one file under a passphrase.
    #[command(after_help = concat!(
        "The passphrase is asked for, or read from standard input: one line. Without it the file opens for nobody.\n",
        "Backup repositories are no part of it.\n\n",
        "Examples:\n",
        "  portolan state export --output portolan.state --data-dir /var/lib/portolan\n",
        "  portolan state export --output portolan.state --passphrase-file /root/passphrase --live"
    ))]
    Export(StateExport),
    /// Take an exported state into an empty data directory and an empty database of any kind.
    #[command(after_help = concat!(
        "The file is read to its end before anything is made, and the rows come in one transaction: all or none.\n\n",
        "Examples:\n",
        "  portolan state import portolan.state --data-dir /srv/portolan\n",
        "  PORTOLAN__DATABASE__URL=postgres://portolan@db/portolan portolan state import portolan.state"
    ))]
    Import(StateImport),
}

/// How a state is written.
#[derive(Debug, Clone, Args)]
pub struct StateExport {
    /// The file to write.
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Overwrites a file that is there.
    #[arg(long)]
    pub force: bool,
    /// A file with the passphrase in its first line.
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Beside a running server of the same version: what the database holds at one moment.
    #[arg(long)]
    pub live: bool,
    /// The layers.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// How a state is read.
#[derive(Debug, Clone, Args)]
pub struct StateImport {
    /// The exported state.
    pub file: PathBuf,
    /// A file with the passphrase in its first line.
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// The layers.
    #[command(flatten)]
    pub config: ConfigArgs,
}
