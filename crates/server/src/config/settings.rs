//! Layers: defaults, a file, the environment, the command line. Each value knows where it came from.

use super::error::ConfigError;
use super::keys::{self, KEYS, Key};
use super::value::{Kind, Raw, Value, without_password};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// What variables that set keys begin with.
pub const PREFIX: &str = "PORTOLAN__";

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
            (value, _) => value.as_ref().map(Value::to_json),
        }
    }
}

/// Everything that was given, the higher layers over the lower ones.
#[derive(Debug, Clone, Default)]
pub struct Settings(BTreeMap<String, (Value, Origin)>);

impl Settings {
    /// Takes a file's keys.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`], [`ConfigError::Unknown`], [`ConfigError::Value`].
    pub fn file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let table = DeTable::parse(text).map_err(|e| {
            let line = e.span().map(|span| format!("line {}: ", line_of(text, span.start))).unwrap_or_default();
            ConfigError::Syntax { path: path.to_owned(), reason: format!("{line}{}", e.message()) }
        })?;
        self.table(path, text, "", table.get_ref())
    }

    fn table(&mut self, path: &Path, text: &str, prefix: &str, table: &DeTable<'_>) -> Result<(), ConfigError> {
        for (name, value) in table {
            let line = line_of(text, name.span().start);
            let key = format!("{prefix}{}", name.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) if keys::find(&key).is_none() => {
                    let dotted = format!("{key}.");
                    if !KEYS.iter().any(|known| begins(known.path, &key)) {
                        return Err(unknown(key, Origin::File(path.to_owned(), line)));
                    }
                    self.table(path, text, &dotted, inner)?;
                }
                value => self.put(key, raw_of(value), Origin::File(path.to_owned(), line))?,
            }
        }
        Ok(())
    }

    /// Takes the keys of the environment: `PORTOLAN__SECTION__KEY`.
    ///
    /// # Errors
    /// [`ConfigError::Unknown`], [`ConfigError::Value`].
    pub fn env(&mut self, variables: &BTreeMap<String, String>) -> Result<(), ConfigError> {
        for (name, value) in variables {
            if let Some(rest) = name.strip_prefix(PREFIX) {
                let key = rest.to_lowercase().split("__").collect::<Vec<_>>().join(".");
                self.put(key, Raw::Loose(value.clone()), Origin::Env(name.clone()))?;
            }
        }
        Ok(())
    }

    /// Takes a key from the command line.
    ///
    /// # Errors
    /// [`ConfigError::Unknown`], [`ConfigError::Value`].
    pub fn flag(&mut self, flag: &str, key: &str, value: &str) -> Result<(), ConfigError> {
        self.put(key.to_owned(), Raw::Loose(value.to_owned()), Origin::Flag(flag.to_owned()))
    }

    fn put(&mut self, key: String, raw: Raw, origin: Origin) -> Result<(), ConfigError> {
        let Some(known) = keys::find(&key) else { return Err(unknown(key, origin)) };
        let mut value = known.kind.check(&raw).map_err(|reason| {
            let value = if known.kind == Kind::SecretUrl { "***".into() } else { raw.to_string() };
            ConfigError::Value { key: key.clone(), value, origin: origin.clone(), reason }
        })?;
        if let (Kind::Path, Value::Text(text), Origin::File(file, _)) = (known.kind, &value, &origin) {
            // A file means the same from wherever the server is started.
            let base = file.parent().unwrap_or(Path::new(""));
            value = Value::Text(base.join(text).to_string_lossy().into_owned());
        }
        self.0.insert(key, (value, origin));
        Ok(())
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

/// Whether some key's path goes on after `section`.
fn begins(pattern: &str, section: &str) -> bool {
    let mut pattern = pattern.split('.');
    let fits = section.split('.').all(|part| match pattern.next() {
        Some("*") => keys::is_name(part),
        other => other == Some(part),
    });
    fits && pattern.next().is_some()
}

fn unknown(key: String, origin: Origin) -> ConfigError {
    let near = keys::near(&key);
    ConfigError::Unknown { key, origin, near }
}

fn raw_of(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Boolean(flag) => Raw::Flag(*flag),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Raw::Number(n),
            Err(_) => Raw::Other("number beyond all bounds"),
        },
        DeValue::Array(items) => {
            let texts: Option<Vec<String>> =
                items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
            texts.map_or(Raw::Other("list of other things than texts"), Raw::List)
        }
        other => Raw::Other(other.type_str()),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}
