//! Where things are when nobody says where.

use super::error::ConfigError;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The process's surroundings, so that tests need not change their own.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The variables of the environment.
    pub variables: BTreeMap<String, String>,
}

impl Surroundings {
    /// Those of this process. Variables that are no UTF-8 are left out.
    pub fn of_process() -> Self {
        let utf8 =
            |(k, v): (std::ffi::OsString, std::ffi::OsString)| Some((k.into_string().ok()?, v.into_string().ok()?));
        Self { variables: std::env::vars_os().filter_map(utf8).collect() }
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        // The base directory specification: relative paths there mean nothing.
        self.get(name).map(PathBuf::from).filter(|p| p.is_absolute())
    }

    /// The data directory: the service manager's, else that of the user.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] where there is no home.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        if let Some(all) = self.get("STATE_DIRECTORY") {
            let first = PathBuf::from(all.split(':').next().unwrap_or(all));
            if first.is_absolute() {
                return Ok(first);
            }
        }
        let base = self.path("XDG_DATA_HOME").or_else(|| self.path("HOME").map(|home| home.join(".local/share")));
        base.map(|base| base.join("portolan")).ok_or_else(|| ConfigError::Missing {
            key: "data_dir".into(),
            reason: "there is no home directory to put it in; give one with --data-dir".into(),
        })
    }

    /// The user's own configuration directory; nothing where there is no home.
    pub fn config_dir(&self) -> Option<PathBuf> {
        let own = self.path("XDG_CONFIG_HOME").or_else(|| self.path("HOME").map(|home| home.join(".config")));
        own.map(|base| base.join("portolan"))
    }

    /// Where a configuration file may be, the first that is there counts.
    pub fn config_files(&self) -> Vec<PathBuf> {
        let own = self.config_dir().map(|base| base.join("portolan.toml"));
        own.into_iter().chain([PathBuf::from("/etc/portolan/portolan.toml")]).collect()
    }
}
