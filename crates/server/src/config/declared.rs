//! What stands in the configuration by a name of its own: tenants, accounts, platforms, clouds, destinations.

use super::error::ConfigError;
use super::keys::platform_settings;
use super::reader::Reader;
use portolan_model::{Role, Secret};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantConfig {
    /// Its name.
    pub name: String,
    /// What the system in front calls it; empty where nothing does.
    pub external_id: String,
}

/// An account.
#[derive(Debug, Clone, PartialEq)]
pub struct AccountConfig {
    /// The login.
    pub login: String,
    /// What it may do.
    pub role: Role,
    /// The name of the tenant it is bound to; nothing sees every tenant.
    pub tenant: Option<String>,
    /// Its password when it is made.
    pub password: FirstSecret,
}

/// Where an account's first password comes from.
#[derive(Debug, Clone)]
pub enum FirstSecret {
    /// The first line of this file.
    File(PathBuf),
    /// Its Argon2id hash in PHC form.
    Hash(Secret),
}

impl PartialEq for FirstSecret {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(a), Self::File(b)) => a == b,
            (Self::Hash(a), Self::Hash(b)) => a.matches(b.reveal()),
            _ => false,
        }
    }
}

/// A platform: a directory of disk images, or of QEMU's guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformConfig {
    /// Its name.
    pub name: String,
    /// Its driver, `images` or `qemu`.
    pub driver: String,
    /// The directory.
    pub root: PathBuf,
    /// What else the driver was told.
    pub settings: BTreeMap<String, String>,
}

/// A cloud: a platform on which nodes are made and destroyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudConfig {
    /// Its name.
    pub name: String,
    /// Its driver, `dummy`.
    pub driver: String,
    /// How many nodes the dummy begins with; its own two without a number.
    pub nodes: Option<u32>,
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

pub(super) fn tenants(read: &Reader<'_>) -> Vec<TenantConfig> {
    let external = |name: &str| read.text(&format!("tenant.{name}.external_id")).unwrap_or_default();
    read.0.names("tenant").into_iter().map(|name| TenantConfig { external_id: external(&name), name }).collect()
}

pub(super) fn accounts(read: &Reader<'_>) -> Result<Vec<AccountConfig>, ConfigError> {
    let mut out = Vec::new();
    for login in read.0.names("account") {
        let at = |key: &str| format!("account.{login}.{key}");
        let hash = read.text(&at("password_hash"));
        let password = match (read.path(&at("password_file"))?, hash) {
            (Some(_), Some(_)) => {
                return Err(read.refuse(&at("password_file"), "password_hash is given, too: one of them is enough"));
            }
            (Some(file), None) => FirstSecret::File(file),
            (None, Some(hash)) => FirstSecret::Hash(Secret::new(hash)),
            (None, None) => {
                return Err(ConfigError::Missing {
                    key: at("password_file"),
                    reason: format!("say which password the account '{login}' begins with"),
                });
            }
        };
        let role = read.text(&at("role")).and_then(|word| role_of(&word)).unwrap_or(Role::Viewer);
        out.push(AccountConfig { role, tenant: read.text(&at("tenant")), password, login });
    }
    Ok(out)
}

/// The cloud that is there when nobody configures a cloud or a platform.
pub const BUILT_IN_CLOUD: &str = "fake_driver";

/// The words for roles, in the order of [`role_of`].
pub(super) const ROLES: &[&str] = &["administrator", "operator", "viewer"];

fn role_of(word: &str) -> Option<Role> {
    match word {
        "administrator" => Some(Role::Administrator),
        "operator" => Some(Role::Operator),
        "viewer" => Some(Role::Viewer),
        _ => None,
    }
}

pub(super) fn platforms(read: &Reader<'_>) -> Result<Vec<PlatformConfig>, ConfigError> {
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
        let mut settings = BTreeMap::new();
        for (setting, _) in platform_settings() {
            let key = format!("platform.{name}.{setting}");
            let Some(text) = read.setting(&key)? else { continue };
            if driver != crate::qemu::NAME {
                return Err(read.refuse(&key, &format!("the driver '{driver}' takes no such setting")));
            }
            settings.insert(setting.to_owned(), text);
        }
        out.push(PlatformConfig { name, driver, root, settings });
    }
    Ok(out)
}

/// The configured clouds. Where neither they nor platforms are configured there is one dummy.
pub(super) fn clouds(read: &Reader<'_>) -> Result<Vec<CloudConfig>, ConfigError> {
    let (clouds, platforms) = (read.0.names("cloud"), read.0.names("platform"));
    if clouds.is_empty() && platforms.is_empty() {
        return Ok(vec![CloudConfig { name: BUILT_IN_CLOUD.into(), driver: "dummy".into(), nodes: None }]);
    }
    let mut out = Vec::new();
    for name in clouds {
        let at = |key: &str| format!("cloud.{name}.{key}");
        let driver = read.text(&at("driver")).ok_or_else(|| ConfigError::Missing {
            key: at("driver"),
            reason: format!("say which driver reaches the cloud '{name}'"),
        })?;
        if platforms.iter().any(|platform| platform.eq_ignore_ascii_case(&name)) {
            return Err(read.refuse(&at("driver"), "a platform has the same name"));
        }
        let nodes = read.number(&at("nodes")).and_then(|n| u32::try_from(n).ok());
        out.push(CloudConfig { driver, nodes, name });
    }
    Ok(out)
}

pub(super) fn destinations(read: &Reader<'_>) -> Result<Vec<DestinationConfig>, ConfigError> {
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
