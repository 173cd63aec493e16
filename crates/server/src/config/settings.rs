//! What all layers together say. Each value knows where it came from.

use super::error::ConfigError;
use super::keys::{self, KEYS, Key};
use super::value::{Kind, Raw, Value, without_password};
use config::{Source, ValueKind};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// A file, and the line in it.
    File(PathBuf, usize),
    /// A variable of the environment.
    Env(String),
    /// An argument of the command line.
    Flag(String),
}

impl Origin {
    /// One word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File(..) => "file",
            Self::Env(_) => "env",
            Self::Flag(_) => "flag",
        }
    }

    /// Reads what `Display` writes: the library that joins the layers carries a value's origin as a text.
    fn read(text: &str) -> Option<Self> {
        if text == "default" {
            return Some(Self::Default);
        }
        if let Some(rest) = text.strip_prefix("file ") {
            let (path, line) = rest.rsplit_once(", line ")?;
            return Some(Self::File(path.into(), line.parse().ok()?));
        }
        let env = text.strip_prefix("environment variable ").map(|name| Self::Env(name.to_owned()));
        env.or_else(|| text.strip_prefix("argument ").map(|flag| Self::Flag(flag.to_owned())))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "file {}, line {line}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "argument {flag}"),
        }
    }
}

/// One key's value, and where it came from.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key.
    pub key: &'static Key,
    /// The value; nothing where nobody gave one and there is no default.
    pub value: Option<Value>,
    /// Where it came from.
    pub origin: Origin,
}

impl Entry {
    /// The value as it may be shown.
    pub fn shown(&self) -> Option<serde_json::Value> {
        match (&self.value, self.key.kind) {
            (Some(Value::Text(url)), Kind::SecretUrl) => Some(without_password(url).into()),
            (Some(_), Kind::Secret) => Some("***".into()),
            (value, _) => value.as_ref().map(Value::to_json),
        }
    }
}

/// Everything that was given, the higher layers over the lower ones.
#[derive(Debug, Clone, Default)]
pub struct Settings(BTreeMap<String, (Value, Origin)>);

impl Settings {
    /// Joins layers, the lowest first.
    ///
    /// # Errors
    /// What is wrong in the first layer in which something is wrong.
    pub fn join(layers: Vec<Box<dyn Source + Send + Sync>>) -> Result<Self, ConfigError> {
        let joined = config::Config::builder().add_source(layers).build().map_err(ConfigError::of_library)?;
        let mut settings = Self::default();
        settings.take("", joined.cache);
        Ok(settings)
    }

    /// Takes what the library has joined: each leaf has its key's kind and remembers its layer.
    fn take(&mut self, path: &str, value: config::Value) {
        let origin = value.origin().and_then(Origin::read).unwrap_or(Origin::Default);
        match value.kind {
            ValueKind::Table(inner) => {
                for (name, value) in inner {
                    let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                    self.take(&path, value);
                }
            }
            leaf => {
                let value = keys::find(path).and_then(|key| key.kind.check(&Raw::of_library(leaf)).ok());
                if let Some(value) = value {
                    self.0.insert(path.to_owned(), (value, origin));
                }
            }
        }
    }

    /// The names under `section`, such as those of all platforms.
    pub fn names(&self, section: &str) -> BTreeSet<String> {
        let part = |key: &String| {
            let rest = key.strip_prefix(section)?.strip_prefix('.')?;
            rest.split('.').next().map(str::to_owned)
        };
        self.0.keys().filter_map(part).collect()
    }

    /// What a key has come to.
    pub fn entry(&self, path: &str) -> Option<Entry> {
        let key = keys::find(path)?;
        Some(match self.0.get(path) {
            Some((value, origin)) => Entry { key, value: Some(value.clone()), origin: origin.clone() },
            None => {
                let value = key.default.and_then(|text| key.kind.check(&Raw::Loose(text.to_owned())).ok());
                Entry { key, value, origin: Origin::Default }
            }
        })
    }

    /// Every key that there is or could be given, with its path, in order.
    pub fn all(&self) -> Vec<(String, Entry)> {
        let mut out = Vec::new();
        for key in KEYS {
            let paths: Vec<String> = match key.path.split_once(".*.") {
                Some((section, last)) => {
                    self.names(section).iter().map(|name| format!("{section}.{name}.{last}")).collect()
                }
                None => vec![key.path.to_owned()],
            };
            out.extend(paths.into_iter().filter_map(|path| self.entry(&path).map(|entry| (path, entry))));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_they_are_written() {
        for origin in [
            Origin::Default,
            Origin::File("/etc/odd, line 7/portolan.toml".into(), 12),
            Origin::Env("PORTOLAN__LOG__LEVEL".into()),
            Origin::Flag("--set log.level".into()),
        ] {
            assert_eq!(Origin::read(&origin.to_string()), Some(origin));
        }
        for other in ["", "file /x", "file /x, line y", "the environment"] {
            assert_eq!(Origin::read(other), None, "{other}");
        }
    }
}
