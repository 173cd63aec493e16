//! The command line.

mod machines;
mod manage;
mod state;

pub use machines::{BackupCommand, FollowArgs, MachineCommand, RestoreArgs};
pub use manage::{
    AccountCommand, ApiArgs, AuditArgs, DestinationCommand, LoginArgs, PlatformCommand, TaskCommand, TenantCommand,
    TokenCommand,
};
pub use state::{StateCommand, StateExport, StateImport};

use crate::config::Overrides;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::path::PathBuf;

/// What every command says at the end of its help about exit codes.
const EXIT: &str = concat!(
    "Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 damage found, or a comparison failed; ",
    "4 not logged in, or not allowed."
);

/// A control plane for virtual infrastructure.
///
/// Portolan knows every virtual machine, host and datastore of your platforms, backs machines up incrementally and
/// verifiably, and restores them. It answers existing clients in their own dialects.
#[derive(Debug, Parser)]
#[command(name = "portolan", version, after_help = EXIT, max_term_width = 100)]
#[command(after_long_help = concat!(
    "Start here:\n",
    "  portolan demo                 see a backup and a restore within seconds, then look around\n",
    "  portolan serve                run the server; no configuration is needed\n",
    "  portolan config show          every setting, and where its value comes from\n",
    "  portolan login                log in to a running server, then see `status`, `platform`, `task`, `audit`\n\n",
    "Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 damage found, or a comparison failed; ",
    "4 not logged in, or not allowed."
))]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server.
    ///
    /// Without any configuration it keeps SQLite, its keys and a backup repository in the data directory, makes a
    /// certificate and the account `admin`, and listens on the loopback. SIGTERM stops it gracefully, a second one
    /// at once; SIGHUP loads certificates anew.
    #[command(after_help = concat!(
        "Examples:\n",
        "  portolan serve\n",
        "  portolan serve --set platform.lab.driver=images --set platform.lab.root=/srv/vms\n",
        "  PORTOLAN__LISTENERS__VPLUS__ADDRESSES=0.0.0.0:8181 portolan serve --data-dir /srv/portolan\n",
        "  PORTOLAN_ADMIN_PASSWORD=… portolan serve        the password of `admin` on the very first start"
    ))]
    Serve(ConfigArgs),
    /// Show a full and an incremental backup, a verify and a restore on machines made on the spot.
    ///
    /// Everything goes through the vPlus API of a server with embedded defaults in a directory of its own. The
    /// server then stays up for you to look around; `/readyz` answers only then.
    #[command(after_help = concat!(
        "Examples:\n",
        "  portolan demo\n",
        "  portolan demo --exit          stop at the end; exit code 3 when the restored bytes differ\n",
        "  portolan demo --dir ~/demo    keep everything there"
    ))]
    Demo(DemoArgs),
    /// Work on a backup repository alone: no server, no database.
    #[command(subcommand)]
    Repo(RepoCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the OpenAPI document of a dialect.
    #[command(after_help = "Example:\n  portolan openapi vplus > vplus.json")]
    Openapi(OpenapiArgs),
    /// Show how a running server is: its tasks, platforms and destinations.
    #[command(after_help = "Example:\n  portolan status --json")]
    Status(#[command(flatten)] ApiArgs),
    /// Log in to a running server and store an API token for the next commands.
    #[command(after_help = concat!(
        "The token is stored in $XDG_CONFIG_HOME/portolan/credentials.toml, readable by you alone. `portolan logout`\n",
        "ends it.\n\n",
        "Examples:\n",
        "  portolan login\n",
        "  portolan login --url https://backup.example:9180 --ca server.pem --login eve"
    ))]
    Login {
        /// Who logs in.
        #[command(flatten)]
        args: LoginArgs,
        /// The server.
        #[command(flatten)]
        api: ApiArgs,
    },
    /// End the stored token of a server and forget it.
    Logout(#[command(flatten)] ApiArgs),
    /// Manage platforms of a running server.
    #[command(after_help = "Example:\n  portolan platform add lab --driver images --set root=/srv/vms")]
    Platform {
        /// What to do.
        #[command(subcommand)]
        command: PlatformCommand,
        /// The server.
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Manage backup destinations of a running server.
    #[command(after_help = "Example:\n  portolan destination add vault --path /mnt/vault --default")]
    Destination {
        /// What to do.
        #[command(subcommand)]
        command: DestinationCommand,
        /// The server.
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Manage accounts of a running server; `passwd` works on a stopped one, too.
    #[command(after_help = "Example:\n  portolan account add eve --role operator")]
    Account {
        /// What to do.
        #[command(subcommand)]
        command: AccountCommand,
        /// The server.
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Manage API tokens, which scripts log in with.
    #[command(after_help = "Example:\n  portolan token create backup-script --role operator --expires 90d")]
    Token {
        /// What to do.
        #[command(subcommand)]
        command: TokenCommand,
        /// The server.
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Manage tenants, whose machines, backups and tasks are kept apart.
    #[command(after_help = "Example:\n  portolan tenant add acme --external-id 7f3a2c")]
    Tenant {
        /// What to do.
        #[command(subcommand)]
        command: TenantCommand,
        /// The server.
        #[command(flatten)]
        api: ApiArgs,
    },
    /// See machines, turn them on and off, clone them, and keep snapshots of them.
    #[command(after_help = "Example:\n  portolan machine list")]
    Machine {
        /// What to do.
        #[command(subcommand)]
        command: MachineCommand,
        /// The server.
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Take backups, restore them, and prove them by booting them.
    #[command(after_help = "Examples:\n  portolan backup list --machine web\n  portolan backup run web --follow")]
    Backup {
        /// What to do.
        #[command(subcommand)]
        command: BackupCommand,
        /// The server.
        #[command(flatten)]
        api: ApiArgs,
    },
    /// See tasks, follow, cancel and repeat them.
    #[command(after_help = "Example:\n  portolan task list --state running")]
    Task {
        /// What to do.
        #[command(subcommand)]
        command: TaskCommand,
        /// The server.
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Query the audit log: who did what, and when.
    #[command(after_help = concat!(
        "Examples:\n",
        "  portolan audit --from 2d --name account.,token.\n",
        "  portolan audit --actor eve --json"
    ))]
    Audit {
        /// Which entries.
        #[command(flatten)]
        args: AuditArgs,
        /// The server.
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Keep or move the state of a server: its database and its keys in one file.
    #[command(subcommand)]
    State(StateCommand),
    /// Look at the self-signed certificate, or make a new one.
    #[command(subcommand)]
    Cert(CertCommand),
    /// Print the completions of a shell.
    #[command(after_help = "Example:\n  portolan completions bash > /etc/bash_completion.d/portolan")]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, or write one for every command.
    #[command(after_help = "Examples:\n  portolan man | man -l -\n  portolan man --dir /usr/local/share/man/man1")]
    Man {
        /// The directory to write portolan.1, portolan-serve.1, … to.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Where configuration comes from, beside the environment.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// The configuration file; else $XDG_CONFIG_HOME/portolan/portolan.toml or /etc/portolan/portolan.toml, if there.
    #[arg(long, short, value_name = "FILE", env = "PORTOLAN_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where the server keeps everything that is its own (key data_dir).
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Sets any key of the configuration; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// What is logged (key log.level).
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How it is logged: text or json (key log.format).
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl ConfigArgs {
    /// Whether a data directory or a configuration is named.
    pub fn is_given(&self) -> bool {
        self.data_dir.is_some() || self.config.is_some() || !self.set.is_empty()
    }

    /// As the configuration takes it. An argument of `--set` without `=` is the error's text.
    pub fn overrides(&self) -> Result<Overrides, String> {
        let mut keys = Vec::new();
        for pair in &self.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("--set {pair}: write it as KEY=VALUE"))?;
            keys.push((format!("--set {key}"), key.trim().to_owned(), value.to_owned()));
        }
        let path = self.data_dir.as_ref().map(|p| p.to_string_lossy().into_owned());
        let own = [("--data-dir", "data_dir", &path), ("--log-level", "log.level", &self.log_level)];
        for (flag, key, value) in own.into_iter().chain([("--log-format", "log.format", &self.log_format)]) {
            keys.extend(value.clone().map(|value| (flag.to_owned(), key.to_owned(), value)));
        }
        Ok(Overrides { file: self.config.clone(), keys })
    }
}

/// How the demo runs.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Stop at the end.
    #[arg(long)]
    pub exit: bool,
    /// Keep everything in this directory, which must be empty or missing; a temporary one without it.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// What is logged.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub log_level: String,
}

/// Work on a repository alone.
#[derive(Debug, Subcommand)]
pub enum RepoCommand {
    /// List the recovery points.
    #[command(after_help = "Example:\n  portolan repo list --repository /srv/backup --recovery-key-file key.txt")]
    List {
        /// The repository.
        #[command(flatten)]
        at: RepoArgs,
        /// JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Check stored data.
    #[command(after_help = concat!(
        "Depths:\n",
        "  structure   manifests, maps and index agree, and every pack exists with its size\n",
        "  pack        every stored byte has the hash that its pack is named by; needs no key\n",
        "  data        every chunk decrypts, unpacks and has its keyed hash\n\n",
        "Examples:\n",
        "  portolan repo verify --repository /srv/backup --depth pack\n",
        "  portolan repo verify --repository /srv/backup --recovery-key-file recovery-key-local.txt\n\n",
        "Exit code 3: damage was found."
    ))]
    Verify {
        /// The repository.
        #[command(flatten)]
        at: RepoArgs,
        /// How deep.
        #[arg(long, value_enum, default_value = "data")]
        depth: Depth,
        /// Only this recovery point; repeatable.
        #[arg(long, value_name = "ID")]
        point: Vec<uuid::Uuid>,
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Write the disks of a recovery point as sparse raw images.
    #[command(after_help = concat!(
        "Examples:\n",
        "  portolan repo restore 0193… --output root.raw --repository /srv/backup --recovery-key-file key.txt\n",
        "  portolan repo restore 0193… --output-dir ./web01 --data-dir /var/lib/portolan"
    ))]
    Restore {
        /// The recovery point's id, from `portolan repo list`.
        point: uuid::Uuid,
        /// The repository.
        #[command(flatten)]
        at: RepoArgs,
        /// Only this disk.
        #[arg(long, value_name = "NAME")]
        disk: Option<String>,
        /// The file to write; needs --disk where the point has several.
        #[arg(long, short, value_name = "FILE", conflicts_with = "output_dir", required_unless_present = "output_dir")]
        output: Option<PathBuf>,
        /// The directory to write DISK.raw to.
        #[arg(long, value_name = "DIR")]
        output_dir: Option<PathBuf>,
        /// Overwrite what is there.
        #[arg(long)]
        force: bool,
    },
}

/// Where a repository is, and what opens it.
#[derive(Debug, Clone, Args)]
pub struct RepoArgs {
    /// The repository's directory; with --data-dir, that server's default one without it.
    #[arg(long, short, value_name = "DIR")]
    pub repository: Option<PathBuf>,
    /// A file with the recovery key.
    #[arg(long, value_name = "FILE")]
    pub recovery_key_file: Option<PathBuf>,
    /// A file with a passphrase of one of the repository's key slots, or with its 32 bytes in hexadecimal.
    #[arg(long, value_name = "FILE", conflicts_with = "recovery_key_file")]
    pub key_file: Option<PathBuf>,
    /// Takes the key from the data directory of a stopped server.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["recovery_key_file", "key_file"])]
    pub data_dir: Option<PathBuf>,
}

/// How deep a check goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Depth {
    /// Manifests, maps, index, sizes.
    Structure,
    /// Also the hash of every pack; needs no key.
    Pack,
    /// Also every chunk.
    Data,
}

/// Look at the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every key with its value and where that comes from. Secrets are shown as stars.
    #[command(after_help = "Example:\n  PORTOLAN__LOG__LEVEL=debug portolan config show")]
    Show {
        /// The layers.
        #[command(flatten)]
        config: ConfigArgs,
        /// JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
}

/// Which document.
#[derive(Debug, Args)]
pub struct OpenapiArgs {
    /// The dialect.
    #[arg(value_enum, default_value = "vplus")]
    pub dialect: Dialect,
}

/// A dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// The vPlus API.
    Vplus,
    /// The management API.
    Manage,
    /// The Orchestrator API.
    Orchestrator,
}

/// Look after the certificate.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Print where the certificate is, its fingerprint and its end.
    Show {
        /// The layers.
        #[command(flatten)]
        config: ConfigArgs,
        /// Whose certificate: vplus, orchestrator or management.
        #[arg(long, value_name = "NAME", default_value = "vplus")]
        listener: String,
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
        /// Only the certificate itself, in PEM.
        #[arg(long)]
        pem: bool,
    },
    /// Make a new self-signed certificate with a new key. A running server takes it on SIGHUP.
    Renew {
        /// The layers.
        #[command(flatten)]
        config: ConfigArgs,
        /// Whose certificate: vplus, orchestrator or management.
        #[arg(long, value_name = "NAME", default_value = "vplus")]
        listener: String,
    },
}
