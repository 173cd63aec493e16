//! Settings as operators give them, checked against what a driver describes.

use super::error::RegistryError;
use super::ports::SettingDescription;
use portolan_model::Secret;
use std::collections::BTreeMap;

/// A setting that anybody may see is no longer than this many bytes.
const MAX_PLAIN: usize = 4096;
/// A secret one: a key in PEM with its chain of certificates fits.
const MAX_SECRET: usize = 64 * 1024;

/// Settings, parted into those that anybody may see and those that nobody may.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) plain: BTreeMap<String, String>,
    pub(crate) secret: BTreeMap<String, Secret>,
}

impl Settings {
    /// Parts what was given. Fails on what is not described, on what is missing, and on what no setting can be. The
    /// texts name settings and never their values.
    pub(crate) fn checked(
        described: &[SettingDescription],
        given: BTreeMap<String, Secret>,
    ) -> Result<Self, RegistryError> {
        let mut settings = Self::default();
        for (name, value) in given {
            let Some(known) = described.iter().find(|d| d.name == name) else {
                let known: Vec<&str> = described.iter().map(|d| d.name).collect();
                let name: String = name.chars().take(64).filter(|c| !c.is_control()).collect();
                return Err(RegistryError::Invalid(format!(
                    "there is no setting '{name}': the settings are {}",
                    known.join(", ")
                )));
            };
            let text = value.reveal();
            let longest = if known.secret { MAX_SECRET } else { MAX_PLAIN };
            if text.len() > longest {
                return Err(RegistryError::Invalid(format!("the setting '{name}' is longer than {longest} bytes")));
            }
            let broken = |c: char| c == '\0' || (!known.secret && c.is_control());
            if text.chars().any(broken) {
                return Err(RegistryError::Invalid(format!("the setting '{name}' holds a control character")));
            }
            if text.is_empty() {
                continue;
            }
            if known.secret {
                settings.secret.insert(name, value);
            } else {
                settings.plain.insert(name, text.to_owned());
            }
        }
        let there = |name: &str| settings.plain.contains_key(name) || settings.secret.contains_key(name);
        match described.iter().find(|d| d.required && !there(d.name)) {
            Some(missing) => {
                Err(RegistryError::Invalid(format!("the setting '{}' is needed: {}", missing.name, missing.about)))
            }
            None => Ok(settings),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIBED: &[SettingDescription] = &[
        SettingDescription { name: "root", about: "the directory", required: true, secret: false },
        SettingDescription { name: "token", about: "the key", required: false, secret: true },
    ];

    fn check(given: &[(&str, &str)]) -> Result<Settings, String> {
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect();
        Settings::checked(DESCRIBED, given).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_given_is_parted_and_checked() {
        let good = check(&[("root", "/srv"), ("token", "line\nline")]).unwrap();
        assert_eq!(good.plain, BTreeMap::from([("root".into(), "/srv".into())]));
        assert_eq!(good.secret["token"].reveal(), "line\nline");
        assert!(!format!("{good:?}").contains("line"));
        assert_eq!(check(&[]).unwrap_err(), "the setting 'root' is needed: the directory");
        assert_eq!(check(&[("root", "")]).unwrap_err(), "the setting 'root' is needed: the directory");
        assert!(check(&[("Root", "/srv")]).unwrap_err().contains("the settings are root, token"));
        assert!(check(&[("root", "a\nb")]).unwrap_err().contains("control character"));
        assert!(check(&[("root", &"x".repeat(4097))]).unwrap_err().contains("longer than 4096"));
        assert!(check(&[("root", "/"), ("token", "a\0")]).is_err());
        assert!(check(&[("root", "/"), ("token", &"x".repeat(65_537))]).is_err());
    }
}
