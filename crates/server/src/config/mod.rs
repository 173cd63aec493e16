//! The configuration: defaults in code, a TOML file, the environment, arguments, in rising order. A key that nobody
//! knows is an error. The `config` crate joins the layers.

mod declared;
mod error;
pub mod keys;
mod layers;
mod listening;
mod places;
mod reader;
pub mod settings;
pub mod value;

pub use declared::{
    AccountConfig, BUILT_IN_CLOUD, CloudConfig, DestinationConfig, FirstSecret, PlatformConfig, TenantConfig,
};
pub use error::ConfigError;
pub use listening::Listening;
pub use places::Surroundings;

use layers::{EnvLayer, FileLayer, FlagLayer};
use portolan_model::Secret;
use reader::Reader;
use settings::Settings;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that the server was told.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where the server keeps everything that is its own.
    pub data_dir: PathBuf,
    /// The name of this process; the host's without one.
    pub node_name: Option<String>,
    /// The database's URL; SQLite in the data directory without one.
    pub database_url: Option<Url>,
    /// Database connections at the most.
    pub database_connections: Option<u32>,
    /// The master key's file; `keys/master.key` in the data directory without one.
    pub master_key_file: Option<PathBuf>,
    /// The vPlus API's listener.
    pub vplus: Listening,
    /// Web pages that may call the vPlus API from elsewhere.
    pub vplus_origins: Vec<String>,
    /// The Orchestrator API's listener.
    pub orchestrator_listener: Listening,
    /// How the Orchestrator API is served.
    pub orchestrator: OrchestratorConfig,
    /// The management listener.
    pub management: Listening,
    /// Tenants.
    pub tenants: Vec<TenantConfig>,
    /// Accounts.
    pub accounts: Vec<AccountConfig>,
    /// Platforms.
    pub platforms: Vec<PlatformConfig>,
    /// Clouds; the built-in dummy where neither a cloud nor a platform is configured.
    pub clouds: Vec<CloudConfig>,
    /// How long after its release an assigned node is destroyed.
    pub release_delay: Duration,
    /// Backup destinations.
    pub destinations: Vec<DestinationConfig>,
    /// How often platforms are listed; nothing for never.
    pub sync_interval: Option<Duration>,
    /// Tasks that this process runs at once.
    pub task_concurrency: usize,
    /// After how long without a sign of life a task is given to another worker.
    pub task_lease: Duration,
    /// How long ended tasks are remembered.
    pub task_history: Duration,
    /// How long events are remembered.
    pub event_history: Duration,
    /// How long a login lasts without use.
    pub session_idle: Duration,
    /// How long a login lasts at the most.
    pub session_absolute: Duration,
    /// How long verified passwords are taken without a hash.
    pub remember_logins: Duration,
    /// Worker threads.
    pub threads: Option<usize>,
    /// How long a stop waits for requests and tasks.
    pub shutdown_grace: Duration,
    /// What is logged.
    pub log_level: String,
    /// Whether the log is JSON.
    pub log_json: bool,
}

/// A URL that may hold a password. Prints without it.
#[derive(Clone)]
pub struct Url(pub Secret);

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&value::without_password(self.0.reveal()))
    }
}

impl PartialEq for Url {
    fn eq(&self, other: &Self) -> bool {
        self.0.matches(other.0.reveal())
    }
}

/// How the Orchestrator API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrchestratorConfig {
    /// The platform that `default` stands for.
    pub default_cloud: String,
    /// Whether real platforms, too, are served to requests without credentials.
    pub open: bool,
    /// Whether nothing is served to requests without credentials.
    pub auth: bool,
    /// How long a start, a stop or a release may keep its client waiting.
    pub wait: Duration,
    /// Further names of this host that requests may be meant for.
    pub hosts: Vec<String>,
}

/// What the command line says about configuration.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// Keys with their values, and the argument that each came with.
    pub keys: Vec<(String, String, String)>,
}

/// Reads all layers.
///
/// # Errors
/// Any [`ConfigError`].
pub fn load(surroundings: &Surroundings, overrides: &Overrides) -> Result<(Config, Settings), ConfigError> {
    let mut layers: Vec<Box<dyn config::Source + Send + Sync>> = Vec::new();
    let file = match &overrides.file {
        Some(path) => Some(path.clone()),
        None => surroundings.config_files().into_iter().find(|path| path.exists()),
    };
    if let Some(path) = file {
        layers.push(Box::new(FileLayer::read(path)?));
    }
    layers.push(Box::new(EnvLayer::of(&surroundings.variables)));
    layers.push(Box::new(FlagLayer(overrides.keys.clone())));
    let settings = Settings::join(layers)?;
    Ok((Config::from_settings(&settings, surroundings)?, settings))
}

impl Config {
    /// The typed form of all layers.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] and [`ConfigError::Value`] for keys that do not go together.
    pub fn from_settings(settings: &Settings, surroundings: &Surroundings) -> Result<Self, ConfigError> {
        let read = Reader(settings);
        let data_dir = match read.path("data_dir")? {
            Some(path) => path,
            None => surroundings.data_dir()?,
        };
        Ok(Self {
            data_dir,
            node_name: read.text("node.name"),
            database_url: read.text("database.url").map(|url| Url(Secret::new(url))),
            database_connections: read.number("database.max_connections").map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            master_key_file: read.path("keys.master_file")?,
            vplus: Listening::read(&read, "vplus")?,
            vplus_origins: read.list("listeners.vplus.origins"),
            orchestrator_listener: Listening::read(&read, "orchestrator")?,
            orchestrator: OrchestratorConfig {
                default_cloud: read.text("orchestrator.default_cloud").unwrap_or_default(),
                open: read.flag("orchestrator.open"),
                auth: read.flag("orchestrator.auth"),
                wait: read.span("orchestrator.wait"),
                hosts: read.list("orchestrator.hosts"),
            },
            management: Listening::read(&read, "management")?,
            tenants: declared::tenants(&read),
            accounts: declared::accounts(&read)?,
            platforms: declared::platforms(&read)?,
            clouds: declared::clouds(&read)?,
            release_delay: read.span("orchestrator.release_delay"),
            destinations: declared::destinations(&read)?,
            sync_interval: Some(read.span("inventory.sync_interval")).filter(|span| !span.is_zero()),
            task_concurrency: read.number("tasks.concurrency").and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
            task_lease: read.span("tasks.lease"),
            task_history: read.span("tasks.history"),
            event_history: read.span("events.history"),
            session_idle: read.span("access.session_idle"),
            session_absolute: read.span("access.session_absolute"),
            remember_logins: read.span("access.remember_logins"),
            threads: read.number("server.threads").and_then(|n| usize::try_from(n).ok()),
            shutdown_grace: read.span("server.shutdown_grace"),
            log_level: read.text("log.level").unwrap_or_default(),
            log_json: read.text("log.format").as_deref() == Some("json"),
        })
    }

    /// Every listener with its name, in the order in which they are announced.
    pub fn listeners(&self) -> [(&'static str, &Listening); 3] {
        [("vplus", &self.vplus), ("orchestrator", &self.orchestrator_listener), ("management", &self.management)]
    }
}
