//! The command line of the management API.

use super::ConfigArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Where the management API is, and how its answers are shown.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Server and output")]
pub struct ApiArgs {
    /// The server's management API; else what `portolan login` has stored, else http://127.0.0.1:9180.
    #[arg(long, global = true, value_name = "URL", env = "PORTOLAN_URL")]
    pub url: Option<String>,
    /// An API token. Others on this machine can see arguments: prefer the variable or --token-file.
    #[arg(long, global = true, value_name = "TOKEN", env = "PORTOLAN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file with an API token in its first line; `-` for standard input.
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The certificate in PEM, or the one that issued it, that an https server must have.
    #[arg(long, global = true, value_name = "FILE", env = "PORTOLAN_CA")]
    pub ca: Option<PathBuf>,
    /// The API's JSON as it is, instead of a table.
    #[arg(long, global = true)]
    pub json: bool,
    /// Whole tables, also where the terminal is narrower.
    #[arg(long, global = true)]
    pub wide: bool,
    /// Does not ask before it removes something.
    #[arg(long, short, global = true)]
    pub yes: bool,
}

/// Platforms: what drivers reach.
#[derive(Debug, Subcommand)]
pub enum PlatformCommand {
    /// List the platforms.
    List,
    /// Show one platform.
    Show {
        /// Its name or id.
        platform: String,
    },
    /// List the drivers and the settings that they take.
    Drivers,
    /// Register a platform.
    #[command(after_help = concat!(
        "Settings are the driver's: see `portolan platform drivers`. Secret ones are read from files, so that they\n",
        "stand in no history; `-` reads standard input.\n\n",
        "Examples:\n",
        "  portolan platform add lab --driver images --set root=/srv/vms\n",
        "  portolan platform add lab --driver images --set root=/srv/vms --test       only see whether it would work"
    ))]
    Add {
        /// Its name, unique.
        name: String,
        /// The driver.
        #[arg(long, value_name = "DRIVER")]
        driver: String,
        /// A setting; repeatable.
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// A secret setting, read from a file; repeatable.
        #[arg(long, value_name = "KEY=FILE")]
        secret: Vec<String>,
        /// Tries these settings and registers nothing.
        #[arg(long)]
        test: bool,
    },
    /// Forget a platform, with the machines that were found there. The platform itself is not touched.
    Remove {
        /// Its name or id.
        platform: String,
        /// Also when machines were found there; backups of them stay, and are found under their names.
        #[arg(long)]
        force: bool,
    },
    /// See whether a platform answers. Exit code 1 when it does not.
    Test {
        /// Its name or id.
        platform: String,
    },
    /// Ask for a listing of the platform now.
    Sync {
        /// Its name or id.
        platform: String,
    },
}

/// Backup destinations: where backups go.
#[derive(Debug, Subcommand)]
pub enum DestinationCommand {
    /// List the destinations.
    List,
    /// Show one destination.
    Show {
        /// Its name or id.
        destination: String,
    },
    /// List the kinds of destinations and the settings that they take.
    Kinds,
    /// Register a destination: makes a repository there, or adopts one by its recovery key.
    #[command(after_help = concat!(
        "The recovery key of a new repository is told once: keep it elsewhere.\n\n",
        "Examples:\n",
        "  portolan destination add vault --path /mnt/vault/portolan --default\n",
        "  portolan destination add old --path /mnt/old --recovery-key-file recovery-key-old.txt"
    ))]
    Add {
        /// Its name, unique.
        name: String,
        /// The kind; see `portolan destination kinds`.
        #[arg(long, value_name = "KIND", default_value = "local")]
        kind: String,
        /// The repository's directory on the server: the same as --set path=DIR.
        #[arg(long, value_name = "DIR")]
        path: Option<String>,
        /// A setting; repeatable.
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// A secret setting, read from a file; repeatable.
        #[arg(long, value_name = "KEY=FILE")]
        secret: Vec<String>,
        /// What it is, for people.
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        /// Backups that name no destination go there from now on.
        #[arg(long)]
        default: bool,
        /// A file with the recovery key of a repository that another installation made.
        #[arg(long, value_name = "FILE")]
        recovery_key_file: Option<PathBuf>,
    },
    /// Forget a destination. What lies there stays, and can be adopted again by its recovery key.
    Remove {
        /// Its name or id.
        destination: String,
        /// Also when backups are there: they are forgotten with it.
        #[arg(long)]
        force: bool,
    },
    /// See whether a destination answers. Exit code 1 when it does not.
    Test {
        /// Its name or id.
        destination: String,
    },
    /// Make a destination the one that backups without a destination go to.
    Default {
        /// Its name or id.
        destination: String,
    },
    /// Make a further recovery key, where the first one was lost or got into wrong hands. It is printed once.
    #[command(after_help = concat!(
        "Needs a server that still opens the repository. Example:\n",
        "  portolan destination recovery-key vault --replace > recovery-key-vault.txt"
    ))]
    RecoveryKey {
        /// Its name or id.
        destination: String,
        /// The earlier recovery keys open the repository no more.
        #[arg(long)]
        replace: bool,
    },
}

/// Accounts: who can log in.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// List the accounts.
    List,
    /// Show one account.
    Show {
        /// Its login or id.
        account: String,
    },
    /// Show who you are, and what you may do.
    Whoami,
    /// Make an account.
    #[command(after_help = concat!(
        "The password is asked for, or read from standard input where that is no terminal: one line. An empty line\n",
        "has one generated and shown.\n\n",
        "Examples:\n",
        "  portolan account add eve --role operator --tenant acme\n",
        "  portolan account add robot --role viewer --password-file /run/secrets/robot"
    ))]
    Add {
        /// The login, unique.
        login: String,
        /// administrator, operator or viewer.
        #[arg(long, value_name = "ROLE", default_value = "viewer")]
        role: String,
        /// The tenant that the account is bound to, by name or id.
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// IANA name of its time zone.
        #[arg(long, value_name = "ZONE")]
        time_zone: Option<String>,
        /// A file with the password in its first line.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Change an account.
    #[command(after_help = "Example:\n  portolan account change eve --role viewer --disable")]
    Change {
        /// Its login or id.
        account: String,
        /// administrator, operator or viewer.
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
        /// IANA name of its time zone.
        #[arg(long, value_name = "ZONE")]
        time_zone: Option<String>,
        /// Lets it log in again.
        #[arg(long, conflicts_with = "disable")]
        enable: bool,
        /// Lets it log in no more, and ends its sessions.
        #[arg(long)]
        disable: bool,
    },
    /// Remove an account with its tokens and sessions.
    Remove {
        /// Its login or id.
        account: String,
    },
    /// Set an account's password and end all of its sessions.
    #[command(after_help = concat!(
        "The new password is read from standard input, one line; an empty line has one generated and shown. Your own\n",
        "needs the present one first. With --data-dir or --config it works on the data directory of a stopped\n",
        "server: for whoever can log in no more.\n\n",
        "Examples:\n",
        "  portolan account passwd eve\n",
        "  systemctl stop portolan; portolan account passwd admin --data-dir /var/lib/portolan"
    ))]
    Passwd {
        /// The login; your own without one, `admin` with --data-dir.
        login: Option<String>,
        /// The layers.
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Give somebody a generated password, which is shown once, and end all of their sessions.
    Reset {
        /// The login or id.
        account: String,
        /// Ends their API tokens, too.
        #[arg(long)]
        revoke_tokens: bool,
    },
}

/// API tokens: what scripts log in with.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// List the tokens.
    List,
    /// Show one token; not its secret, which is told once.
    Show {
        /// Its name or id.
        // Not `token`, which is the one to log in with.
        #[arg(id = "which", value_name = "TOKEN")]
        token: String,
    },
    /// Make a token and print it, once.
    #[command(visible_alias = "add", after_help = concat!(
        "Examples:\n",
        "  portolan token create backup-script --role operator --expires 90d > token.txt\n",
        "  portolan token create acme --account eve --tenant acme --expires 2027-01-01T00:00:00Z"
    ))]
    Create {
        /// What it is for.
        name: String,
        /// The account that it stands for; your own without one.
        #[arg(long, value_name = "LOGIN")]
        account: Option<String>,
        /// What it may do at the most: administrator, operator or viewer.
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
        /// The tenant that it is bound to, by name or id.
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// When it ends: a time span such as 90d, or a time such as 2027-01-01T00:00:00Z; never without one.
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
    },
    /// End a token at once.
    #[command(visible_alias = "remove")]
    Revoke {
        /// Its name or id.
        // Not `token`, which is the one to log in with.
        #[arg(id = "which", value_name = "TOKEN")]
        token: String,
    },
}

/// Tenants: whose machines, backups and tasks are kept apart.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// List the tenants.
    List,
    /// Show one tenant.
    Show {
        /// Its name or id.
        tenant: String,
    },
    /// Make a tenant.
    Add {
        /// Its name, unique.
        name: String,
        /// What the system in front calls it, such as an OpenStack project id.
        #[arg(long, value_name = "ID", default_value = "")]
        external_id: String,
    },
    /// Give a tenant another name or external id.
    Change {
        /// Its name or id.
        tenant: String,
        /// Its new name.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Its new external id.
        #[arg(long, value_name = "ID")]
        external_id: Option<String>,
    },
    /// Remove a tenant that nothing belongs to.
    Remove {
        /// Its name or id.
        tenant: String,
    },
}

/// Tasks: work that waits, runs or has ended.
#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// List tasks, the newest first.
    #[command(after_help = concat!(
        "Examples:\n",
        "  portolan task list --state running,ready\n",
        "  portolan task list --kind export --limit 20 --json"
    ))]
    List {
        /// Only in these states, separated by commas.
        #[arg(long, value_name = "STATES")]
        state: Option<String>,
        /// Only of these kinds, separated by commas.
        #[arg(long, value_name = "KINDS")]
        kind: Option<String>,
        /// Only about this platform.
        #[arg(long, value_name = "PLATFORM")]
        platform: Option<String>,
        /// So many at the most.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u64,
    },
    /// Show one task.
    Show {
        /// Its id.
        task: String,
        /// Shows its progress until it ends. Exit code 1 when it ends other than well.
        #[arg(long, short)]
        follow: bool,
    },
    /// Cancel a task that waits, and ask a running one to stop.
    Cancel {
        /// Its id.
        task: String,
    },
    /// Do a task that ended badly again, or let a stuck one undo again.
    Retry {
        /// Its id.
        task: String,
    },
    /// Give a stuck task up: what it has left behind stays.
    Abandon {
        /// Its id.
        task: String,
    },
    /// Have the server that answers start no more tasks, for instance before an upgrade.
    #[command(after_help = concat!(
        "Running tasks go on; new ones wait, also for other servers on the same database, which are not drained. A \
         server that starts again drains no longer.\n\n",
        "Examples:\n",
        "  portolan task drain --wait && systemctl restart portolan\n",
        "  portolan task drain --undo"
    ))]
    Drain {
        /// Waits until nothing runs any more.
        #[arg(long, conflicts_with = "undo")]
        wait: bool,
        /// Starts tasks again.
        #[arg(long)]
        undo: bool,
    },
}

/// Which entries of the audit log.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// Only these events, separated by commas; `account.` stands for all that begin so.
    #[arg(long, value_name = "NAMES")]
    pub name: Option<String>,
    /// Only by this login.
    #[arg(long, value_name = "LOGIN")]
    pub actor: Option<String>,
    /// Only about the object of this id.
    #[arg(long, value_name = "ID")]
    pub subject: Option<String>,
    /// Not before: a time span ago such as 2d, or a time such as 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "WHEN")]
    pub from: Option<String>,
    /// Before.
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
    /// So many at the most, the newest first; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: u64,
}

/// Who logs in.
#[derive(Debug, Clone, Args)]
pub struct LoginArgs {
    /// The login; asked for without one.
    #[arg(long, value_name = "LOGIN")]
    pub login: Option<String>,
    /// A file with the password in its first line; asked for without one.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// How long the stored token lasts.
    #[arg(long, value_name = "SPAN", default_value = "30d")]
    pub expires: String,
}
