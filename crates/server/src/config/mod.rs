//! The configuration: defaults in code, a TOML file, the environment, arguments, in rising order. A key that nobody
//! knows is an error. The `config` crate joins the layers.

mod error;
pub mod keys;
mod layers;
mod places;
pub mod settings;
pub mod value;

pub use error::ConfigError;
use layers::{EnvLayer, FileLayer, FlagLayer};
pub use places::Surroundings;

use portolan_model::Secret;
use settings::{Origin, Settings};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use value::Value;

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
    pub vplus: VplusListener,
    /// The management listener's addresses; none when it is off.
    pub management: Vec<SocketAddr>,
    /// Platforms.
    pub platforms: Vec<PlatformConfig>,
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

/// The vPlus API's listener.
#[derive(Debug, Clone, PartialEq)]
pub struct VplusListener {
    /// Where it listens; nowhere when it is off.
    pub addresses: Vec<SocketAddr>,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Certificate chain and private key; a self-signed certificate is made without them.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Further names of this host in the self-signed certificate.
    pub names: Vec<String>,
    /// Web pages that may call from elsewhere.
    pub origins: Vec<String>,
}

/// A platform: a directory of disk images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformConfig {
    /// Its name.
    pub name: String,
    /// Its driver, `images`.
    pub driver: String,
    /// The directory.
    pub root: PathBuf,
}

/// A backup destination: a local repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationConfig {
    /// Its name.
    pub name: String,
    /// The repository's directory.
    pub path: PathBuf,
    /// Whether backups without a destination go there.
    pub default: bool,
    /// Opens a repository that another installation made.
    pub recovery_key_file: Option<PathBuf>,
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
        let certificate = match (read.path("listeners.vplus.cert")?, read.path("listeners.vplus.key")?) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (cert, _) => {
                let (there, key) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
                return Err(ConfigError::Missing {
                    key: format!("listeners.vplus.{key}"),
                    reason: format!("listeners.vplus.{there} is of no use without it"),
                });
            }
        };
        Ok(Self {
            data_dir,
            node_name: read.text("node.name"),
            database_url: read.text("database.url").map(|url| Url(Secret::new(url))),
            database_connections: read.number("database.max_connections").map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            master_key_file: read.path("keys.master_file")?,
            vplus: VplusListener {
                addresses: read.addresses("listeners.vplus"),
                tls: read.flag("listeners.vplus.tls"),
                certificate,
                names: read.list("listeners.vplus.names"),
                origins: read.list("listeners.vplus.origins"),
            },
            management: read.addresses("listeners.management"),
            platforms: platforms(&read)?,
            destinations: destinations(&read)?,
            sync_interval: Some(read.span("inventory.sync_interval")).filter(|span| !span.is_zero()),
            task_concurrency: read.number("tasks.concurrency").and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
            task_lease: read.span("tasks.lease"),
            task_history: read.span("tasks.history"),
            session_idle: read.span("access.session_idle"),
            session_absolute: read.span("access.session_absolute"),
            remember_logins: read.span("access.remember_logins"),
            threads: read.number("server.threads").and_then(|n| usize::try_from(n).ok()),
            shutdown_grace: read.span("server.shutdown_grace"),
            log_level: read.text("log.level").unwrap_or_default(),
            log_json: read.text("log.format").as_deref() == Some("json"),
        })
    }
}

fn platforms(read: &Reader<'_>) -> Result<Vec<PlatformConfig>, ConfigError> {
    let mut out = Vec::new();
    for name in read.0.names("platform") {
        let need = |key: &str, reason: &str| ConfigError::Missing {
            key: format!("platform.{name}.{key}"),
            reason: format!("{reason} '{name}'"),
        };
        let driver = read.text(&format!("platform.{name}.driver"));
        let driver = driver.ok_or_else(|| need("driver", "say which driver reaches the platform"))?;
        let root = read.path(&format!("platform.{name}.root"))?;
        let root = root.ok_or_else(|| need("root", "say where the disk images are of the platform"))?;
        out.push(PlatformConfig { name, driver, root });
    }
    Ok(out)
}

fn destinations(read: &Reader<'_>) -> Result<Vec<DestinationConfig>, ConfigError> {
    let mut out: Vec<DestinationConfig> = Vec::new();
    let mut paths = BTreeSet::new();
    for name in read.0.names("destination") {
        let at = |key: &str| format!("destination.{name}.{key}");
        let path = read.path(&at("path"))?.ok_or_else(|| ConfigError::Missing {
            key: at("path"),
            reason: format!("say where the repository is of the destination '{name}'"),
        })?;
        if !paths.insert(path.clone()) {
            return Err(read.refuse(&at("path"), "another destination has the same directory"));
        }
        let default = read.flag(&at("default"));
        if let Some(other) = out.iter().find(|d| d.default && default) {
            return Err(read.refuse(&at("default"), &format!("'{}' is the default destination already", other.name)));
        }
        let recovery_key_file = read.path(&at("recovery_key_file"))?;
        out.push(DestinationConfig { path, default, recovery_key_file, name });
    }
    Ok(out)
}

/// Reads values that were checked when they were put.
struct Reader<'a>(&'a Settings);

impl Reader<'_> {
    fn value(&self, path: &str) -> Option<Value> {
        self.0.entry(path)?.value
    }

    fn text(&self, path: &str) -> Option<String> {
        match self.value(path) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Absolute, so that a changed working directory changes nothing.
    fn path(&self, path: &str) -> Result<Option<PathBuf>, ConfigError> {
        let Some(text) = self.text(path) else { return Ok(None) };
        match std::path::absolute(Path::new(&text)) {
            Ok(path) => Ok(Some(path)),
            Err(e) => Err(self.refuse(path, &e.to_string())),
        }
    }

    fn number(&self, path: &str) -> Option<u64> {
        match self.value(path) {
            Some(Value::Number(n)) => Some(n),
            _ => None,
        }
    }

    fn flag(&self, path: &str) -> bool {
        self.value(path) == Some(Value::Flag(true))
    }

    fn span(&self, path: &str) -> Duration {
        match self.value(path) {
            Some(Value::Span(span)) => span,
            _ => Duration::ZERO,
        }
    }

    fn list(&self, path: &str) -> Vec<String> {
        match self.value(path) {
            Some(Value::List(list)) => list,
            _ => Vec::new(),
        }
    }

    /// A listener's addresses; none when it is off.
    fn addresses(&self, listener: &str) -> Vec<SocketAddr> {
        if !self.flag(&format!("{listener}.enabled")) {
            return Vec::new();
        }
        self.list(&format!("{listener}.addresses")).iter().filter_map(|a| a.parse().ok()).collect()
    }

    fn refuse(&self, path: &str, reason: &str) -> ConfigError {
        let entry = self.0.entry(path);
        ConfigError::Value {
            key: path.to_owned(),
            value: entry.as_ref().and_then(settings::Entry::shown).unwrap_or_default().to_string(),
            origin: entry.map_or(Origin::Default, |e| e.origin),
            reason: reason.to_owned(),
        }
    }
}
