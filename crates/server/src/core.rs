//! The composition root: storage, key, use cases.

use crate::config::{Config, Surroundings};
use crate::data_dir::DataDir;
use crate::error::{Failure, OrFail};
use crate::factories::Factories;
use portolan::Portolan;
use portolan_access::{
    AccessError, AccessOptions, KeyFile, Lifetime, SystemClock, SystemIds, Vault, credential_path, unlock,
};
use portolan_inventory::CloudRules;
use portolan_model::{Clock, IdSource};
use portolan_storage::{Storage, StoreError};
use portolan_storage_sql::{DatabaseClock, Dialect, SqlConfig, SqlStorage};
use std::path::Path;
use std::sync::Arc;

/// The name of the service manager's credential that holds the master key.
const CREDENTIAL: &str = "portolan-master-key";

/// Storage, clock and use cases of one process.
#[derive(Clone)]
pub struct Core {
    /// The database.
    pub storage: Arc<SqlStorage>,
    /// The database's time.
    pub clock: Arc<DatabaseClock>,
    /// Ids and randomness.
    pub ids: Arc<dyn IdSource>,
    /// The use cases.
    pub portolan: Arc<Portolan>,
    /// Every other key of the server comes out of it.
    pub vault: Vault,
}

impl Core {
    /// Connects to the database, brings its schema up to date, unlocks the master key (made on the very first
    /// start) and wires the use cases. No platform and no destination is registered yet.
    ///
    /// # Errors
    /// Every one says what to do where that is known.
    pub async fn open(config: &Config, data: &DataDir, around: &Surroundings) -> Result<Self, Failure> {
        let storage = SqlStorage::connect(sql_config(config, data.path())).await.map_err(|e| database(config, e))?;
        let clock = Arc::new(storage.clock().await.map_err(|e| database(config, e))?);
        let ids: Arc<dyn IdSource> = Arc::new(SystemIds::new(clock.clone()));
        let key = key_file(config, data.path(), around);
        let vault = unlock(&*storage, &key, &*clock, &*ids).await.map_err(locked)?;
        let lifetime = Lifetime { idle: config.session_idle, absolute: Some(config.session_absolute) };
        let mut access = AccessOptions::default();
        access.sessions.lifetime = lifetime;
        access.logins.remember = config.remember_logins;
        // A file is held by one process.
        access.alone = storage.dialect() == Dialect::Sqlite;
        let state: Arc<dyn Storage> = storage.clone();
        let clouds = CloudRules { release_delay: config.release_delay, alone: access.alone, ..CloudRules::default() };
        let factories = Arc::new(Factories { storage: state.clone(), clock: clock.clone(), ids: ids.clone() });
        let portolan = Portolan::builder(state, vault.clone())
            .clock(clock.clone())
            .ids(ids.clone())
            .access(access)
            .clouds(clouds)
            .driver_factory(factories.clone())
            .destination_factory(factories)
            .build();
        let portolan = Arc::new(portolan.or_fail(|| "the server cannot be put together".into())?);
        Ok(Self { storage, clock, ids, portolan, vault })
    }
}

/// Ids and a clock for what needs no database.
pub fn system() -> (Arc<dyn Clock>, Arc<dyn IdSource>) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    (clock.clone(), Arc::new(SystemIds::new(clock)))
}

/// Where the master key is looked for.
pub(crate) fn key_file(config: &Config, data: &Path, around: &Surroundings) -> KeyFile {
    let key = match &config.master_key_file {
        Some(path) => KeyFile::new(path),
        None => KeyFile::new(data.join("keys").join("master.key")),
    };
    key.or_credential_before(credential_path(around.get("CREDENTIALS_DIRECTORY").map(Path::new), CREDENTIAL))
}

/// Where the database is.
pub(crate) fn sql_config(config: &Config, data: &Path) -> SqlConfig {
    let mut sql = match &config.database_url {
        Some(url) => SqlConfig::new(url.0.reveal()),
        None => SqlConfig::sqlite(&data.join("portolan.db")),
    };
    if let Some(connections) = config.database_connections {
        sql.max_connections = connections;
    }
    sql
}

/// A database that cannot be used.
pub(crate) fn database(config: &Config, error: StoreError) -> Failure {
    let place = match &config.database_url {
        Some(url) => format!("the database {url:?}"),
        None => "the database in the data directory".to_owned(),
    };
    let hint = match &error {
        StoreError::TooNew { .. } => {
            "a newer version of portolan has used this database: run that version, or restore the database from before"
        }
        StoreError::Unavailable(_) if config.database_url.is_some() => {
            "is the server running, and does it let this user in? The key is database.url"
        }
        StoreError::NoSpace => "make room on its file system",
        _ => "`portolan config show` says where it is",
    };
    Failure::new(format!("{place} cannot be used")).because(error).hint(hint)
}

/// A master key that is lost or another one.
pub(crate) fn locked(error: AccessError) -> Failure {
    let hint = match &error {
        AccessError::KeyMissing { .. } => {
            "nothing was changed; every secret hangs on that key, also those that open the backup repositories \
             (their recovery keys open them without it)"
        }
        AccessError::KeyMismatch { .. } => {
            "nothing was changed; `portolan config show` says which database and which key file are used"
        }
        AccessError::Key(_) => "the key file must be a regular file, readable by its owner alone, and whole",
        _ => "nothing was changed",
    };
    Failure::new("the server cannot start without its master key").because(error).hint(hint)
}
