//! The layers above the defaults: a file, the environment, the command line. Each is a source of the `config` crate,
//! which joins them; each checks its keys against the table of keys, and writes with every value where it stands.

use super::error::ConfigError;
use super::keys::{self, KEYS};
use super::settings::Origin;
use super::value::{Kind, Raw, Value};
use config::{Map, Source};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// What variables that set keys begin with.
pub(super) const PREFIX: &str = "PORTOLAN__";

/// A layer's keys with their values, as the library takes them.
type Collected = Map<String, config::Value>;

/// A TOML file. A value's origin is its line.
#[derive(Debug, Clone)]
pub(super) struct FileLayer {
    path: PathBuf,
    text: String,
}

impl FileLayer {
    /// The file at `path`.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`].
    pub(super) fn read(path: PathBuf) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(&path) {
            // Relative paths in it start at its directory, wherever that was named from.
            Ok(text) => Ok(Self { path: std::path::absolute(&path).unwrap_or(path), text }),
            Err(source) => Err(ConfigError::Unreadable { path, source }),
        }
    }

    fn table(&self, out: &mut Collected, prefix: &str, table: &DeTable<'_>) -> Result<(), ConfigError> {
        for (name, value) in table {
            let origin = Origin::File(self.path.clone(), line_of(&self.text, name.span().start));
            let key = format!("{prefix}{}", name.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) if keys::find(&key).is_none() => {
                    let Some(known) = KEYS.iter().find(|known| begins(known.path, &key)) else {
                        return Err(unknown(key, origin));
                    };
                    if inner.is_empty() && known.path.split('.').nth(1) == Some("*") && key.contains('.') {
                        // Without any key it would be as if it did not stand there.
                        let first = known.path.rsplit('.').next().unwrap_or_default();
                        let reason = format!("the section [{key}] is empty ({origin})");
                        return Err(ConfigError::Missing { key: format!("{key}.{first}"), reason });
                    }
                    self.table(out, &format!("{key}."), inner)?;
                }
                value => put(out, key, &raw_of(value), origin)?,
            }
        }
        Ok(())
    }
}

impl Layer for FileLayer {
    fn keys(&self, out: &mut Collected) -> Result<(), ConfigError> {
        let table = DeTable::parse(&self.text).map_err(|e| {
            let line = e.span().map(|span| format!("line {}: ", line_of(&self.text, span.start))).unwrap_or_default();
            ConfigError::Syntax { path: self.path.clone(), reason: format!("{line}{}", e.message()) }
        })?;
        self.table(out, "", table.get_ref())
    }
}

/// The environment: `PORTOLAN__SECTION__KEY`. A value's origin is its variable.
#[derive(Debug, Clone)]
pub(super) struct EnvLayer(BTreeMap<String, String>);

impl EnvLayer {
    /// Those of `variables` that are meant.
    pub(super) fn of(variables: &BTreeMap<String, String>) -> Self {
        Self(variables.iter().filter(|(k, _)| k.starts_with(PREFIX)).map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}

impl Layer for EnvLayer {
    fn keys(&self, out: &mut Collected) -> Result<(), ConfigError> {
        for (name, value) in &self.0 {
            let key = name.strip_prefix(PREFIX).unwrap_or(name);
            let key = key.to_lowercase().split("__").collect::<Vec<_>>().join(".");
            put(out, key, &Raw::Loose(value.clone()), Origin::Env(name.clone()))?;
        }
        Ok(())
    }
}

/// The command line: keys with their values, and the argument that each came with.
#[derive(Debug, Clone)]
pub(super) struct FlagLayer(pub(super) Vec<(String, String, String)>);

impl Layer for FlagLayer {
    fn keys(&self, out: &mut Collected) -> Result<(), ConfigError> {
        for (flag, key, value) in &self.0 {
            put(out, key.clone(), &Raw::Loose(value.clone()), Origin::Flag(flag.clone()))?;
        }
        Ok(())
    }
}

/// What the layers differ in: where their keys come from.
trait Layer {
    fn keys(&self, out: &mut Collected) -> Result<(), ConfigError>;
}

fn collect(layer: &impl Layer) -> Result<Collected, config::ConfigError> {
    let mut out = Collected::new();
    layer.keys(&mut out).map_err(|e| config::ConfigError::Foreign(Box::new(e)))?;
    Ok(out)
}

macro_rules! sources {
    ($($layer:ty),*) => { $(
        impl Source for $layer {
            fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
                Box::new(self.clone())
            }

            fn collect(&self) -> Result<Collected, config::ConfigError> {
                collect(self)
            }
        }
    )* };
}

sources!(FileLayer, EnvLayer, FlagLayer);

/// Checks a key and its value, and notes them.
fn put(out: &mut Collected, key: String, raw: &Raw, origin: Origin) -> Result<(), ConfigError> {
    let Some(known) = keys::find(&key) else { return Err(unknown(key, origin)) };
    let mut value = known.kind.check(raw).map_err(|reason| {
        let value = if known.kind.is_secret() { "***".into() } else { raw.to_string() };
        ConfigError::Value { key: key.clone(), value, origin: origin.clone(), reason }
    })?;
    if let (Kind::Path, Value::Text(text), Origin::File(file, _)) = (known.kind, &value, &origin) {
        // A file means the same from wherever the server is started.
        let base = file.parent().unwrap_or(Path::new(""));
        value = Value::Text(base.join(text).to_string_lossy().into_owned());
    }
    out.insert(key, value.to_library(&origin.to_string()));
    Ok(())
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
