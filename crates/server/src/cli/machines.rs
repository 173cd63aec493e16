//! The command line of machines and their backups.

use clap::{Args, Subcommand};

/// Machines: what platforms run.
#[derive(Debug, Subcommand)]
pub enum MachineCommand {
    /// List the machines.
    #[command(after_help = "Example:\n  portolan machine list --platform lab")]
    List {
        /// Only on this platform, by name or id.
        #[arg(long, value_name = "PLATFORM")]
        platform: Option<String>,
        /// Also those that are gone from their platforms.
        #[arg(long)]
        gone: bool,
        /// So many at the most.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u64,
    },
    /// Show one machine.
    Show {
        /// Its name or id.
        machine: String,
    },
    /// Turn a machine on.
    Start {
        /// Its name or id.
        machine: String,
        /// The task.
        #[command(flatten)]
        task: FollowArgs,
    },
    /// Ask a machine's system to shut down, or pull the plug.
    #[command(after_help = concat!(
        "A machine that does not shut down in time runs on, and the task fails.\n\n",
        "Examples:\n",
        "  portolan machine stop web --within 120 --follow\n",
        "  portolan machine stop web --force                 pulls the plug"
    ))]
    Stop {
        /// Its name or id.
        machine: String,
        /// How long it may take, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 300, conflicts_with = "force")]
        within: u64,
        /// Pulls the plug.
        #[arg(long)]
        force: bool,
        /// The task.
        #[command(flatten)]
        task: FollowArgs,
    },
    /// Ask a machine's system to start again, or press its reset button.
    Reboot {
        /// Its name or id.
        machine: String,
        /// Presses the reset button.
        #[arg(long)]
        force: bool,
        /// The task.
        #[command(flatten)]
        task: FollowArgs,
    },
    /// Make a second machine out of a machine, whether it runs or not.
    #[command(after_help = "Example:\n  portolan machine clone web web-copy --follow")]
    Clone {
        /// Its name or id.
        machine: String,
        /// The new machine's name.
        name: String,
        /// The platform's own id of the datastore; where each disk of the machine is, without one.
        #[arg(long, value_name = "ID")]
        datastore: Option<String>,
        /// The task.
        #[command(flatten)]
        task: FollowArgs,
    },
    /// Bring a machine's disks to another datastore, while it runs or not.
    #[command(after_help = "Example:\n  portolan machine move web fast --follow")]
    Move {
        /// Its name or id.
        machine: String,
        /// The platform's own id of the datastore.
        datastore: String,
        /// The task.
        #[command(flatten)]
        task: FollowArgs,
    },
    /// List a machine's snapshots.
    Snapshots {
        /// Its name or id.
        machine: String,
    },
    /// Make a snapshot of a machine, whether it runs or not.
    Snapshot {
        /// Its name or id.
        machine: String,
        /// The snapshot's name, for people.
        name: String,
        /// Keeps the memory of a machine that runs, too, so that it goes on from there.
        #[arg(long)]
        memory: bool,
        /// The task.
        #[command(flatten)]
        task: FollowArgs,
    },
    /// Make a machine's disks what they were at a snapshot. What was written since is lost.
    Revert {
        /// Its name or id.
        machine: String,
        /// The snapshot's id, from `portolan machine snapshots`.
        snapshot: String,
        /// The task.
        #[command(flatten)]
        task: FollowArgs,
    },
    /// Delete a snapshot. The machine stays as it is.
    RemoveSnapshot {
        /// Its name or id.
        machine: String,
        /// The snapshot's id, from `portolan machine snapshots`.
        snapshot: String,
        /// The task.
        #[command(flatten)]
        task: FollowArgs,
    },
}

/// Backups: taken, listed, restored, and proven by booting them.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// List backups, the newest first.
    #[command(after_help = "Example:\n  portolan backup list --machine web")]
    List {
        /// Only of this machine, by name or id.
        #[arg(long, value_name = "MACHINE")]
        machine: Option<String>,
        /// So many at the most.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u64,
    },
    /// Show one backup.
    Show {
        /// Its id.
        backup: String,
    },
    /// Back a machine up.
    #[command(after_help = concat!(
        "Examples:\n",
        "  portolan backup run web --follow\n",
        "  portolan backup run web --full --destination vault"
    ))]
    Run {
        /// The machine's name or id.
        machine: String,
        /// A full backup, also where an increment could be taken.
        #[arg(long)]
        full: bool,
        /// The destination, by name or id; the default one without it.
        #[arg(long, value_name = "DESTINATION")]
        destination: Option<String>,
        /// The task.
        #[command(flatten)]
        task: FollowArgs,
    },
    /// Make a machine out of a backup.
    #[command(after_help = concat!(
        "With --instant the machine runs at once, from the backup, and its data is brought home meanwhile. Cancelled\n",
        "before that has ended, the task destroys the machine.\n\n",
        "Examples:\n",
        "  portolan backup restore 0193… --name web-2 --follow\n",
        "  portolan backup restore 0193… --overwrite --power-off     puts it in the place of the machine it came from\n",
        "  portolan backup restore 0193… --name web-3 --instant"
    ))]
    Restore {
        /// The backup's id, from `portolan backup list`.
        backup: String,
        /// Where to, and as what.
        #[command(flatten)]
        to: RestoreArgs,
        /// The task.
        #[command(flatten)]
        task: FollowArgs,
    },
    /// Boot a backup in a machine that reaches nothing, to see whether it does.
    #[command(after_help = concat!(
        "What came of it stands with the backup. Examples:\n",
        "  portolan backup try 0193… --follow\n",
        "  portolan backup try 0193… --console 'login:' --within 300"
    ))]
    Try {
        /// The backup's id, from `portolan backup list`.
        backup: String,
        /// What the console is waited for to say; the guest agent is waited for without it.
        #[arg(long, value_name = "TEXT")]
        console: Option<String>,
        /// How long it may take, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        within: u64,
        /// The platform to boot it on, by name or id; the one that it came from without it.
        #[arg(long, value_name = "PLATFORM")]
        platform: Option<String>,
        /// The task.
        #[command(flatten)]
        task: FollowArgs,
    },
}

/// Where a restore goes.
#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    /// The machine's name; the one that it had without it.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The platform, by name or id; the one that it came from without it.
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// The platform's own id of the datastore.
    #[arg(long, value_name = "ID")]
    pub datastore: Option<String>,
    /// The copy to read, by its destination's name or id.
    #[arg(long, value_name = "DESTINATION")]
    pub destination: Option<String>,
    /// Puts it in the place of the machine of that name, which must be off.
    #[arg(long)]
    pub overwrite: bool,
    /// Turns the machine that is overwritten off first, at once.
    #[arg(long, requires = "overwrite")]
    pub power_off: bool,
    /// Runs the machine from the backup at once.
    #[arg(long, conflicts_with = "overwrite")]
    pub instant: bool,
}

/// Whether a task that was begun is waited for.
#[derive(Debug, Clone, Copy, Args)]
pub struct FollowArgs {
    /// Shows the task's progress until it ends. Exit code 1 when it ends other than well.
    #[arg(long, short)]
    pub follow: bool,
}
