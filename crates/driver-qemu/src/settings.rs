//! What an operator sets.

use crate::QemuError;
use crate::spec::NicMode;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The longest that a guest is waited for: a day. Much longer times are not even moments to a clock.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// How guests' processors are run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccelSetting {
    /// KVM where a test guest proves that it works, else TCG.
    #[default]
    Auto,
    /// KVM.
    Kvm,
    /// QEMU's own translation: works everywhere, many times slower.
    Tcg,
}

/// How the disk of a new guest is made of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskMode {
    /// A layer over the image, which must stay.
    #[default]
    Overlay,
    /// A copy.
    Copy,
}

/// A size that guests come in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeSetting {
    /// Its id.
    pub id: String,
    /// Its name; the id when left out.
    #[serde(default)]
    pub name: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in mebibytes.
    pub memory_mb: u64,
    /// Disk in gibibytes; 0 for that of the image.
    #[serde(default)]
    pub disk_gb: u64,
}

/// The driver's settings. All but `root` have defaults.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QemuSettings {
    /// The directory of images, guests and disks: an absolute path.
    pub root: PathBuf,
    /// The name that the host shows; `localhost` when left out.
    #[serde(default = "localhost")]
    pub host_name: String,
    /// QEMU's program; found on the path when left out.
    pub qemu: Option<PathBuf>,
    /// `qemu-img`; found on the path when left out.
    pub qemu_img: Option<PathBuf>,
    /// `qemu-storage-daemon`; found on the path when left out.
    pub qemu_storage_daemon: Option<PathBuf>,
    /// How processors are run.
    #[serde(default)]
    pub accel: AccelSetting,
    /// QEMU's machine type.
    #[serde(default = "q35")]
    pub machine: String,
    /// Whether QEMU confines itself with seccomp.
    #[serde(default = "yes")]
    pub sandbox: bool,
    /// How the disk of a new guest is made.
    #[serde(default)]
    pub disk: DiskMode,
    /// How a new guest is connected.
    #[serde(default)]
    pub network: NicMode,
    /// With the network `user`: whether guests are kept from the host's networks.
    #[serde(default)]
    pub restrict_network: bool,
    /// The bridge, for the network `bridge`.
    pub bridge: Option<String>,
    /// The sizes.
    #[serde(default = "sizes")]
    pub sizes: Vec<SizeSetting>,
    /// The most virtual processors of a guest.
    #[serde(default = "max_cpus")]
    pub max_cpus: u32,
    /// The most memory of a guest, in mebibytes.
    #[serde(default = "max_memory")]
    pub max_memory_mb: u64,
    /// The largest disk, in gibibytes.
    #[serde(default = "max_disk")]
    pub max_disk_gb: u64,
    /// The most guests.
    #[serde(default = "max_guests")]
    pub max_guests: u64,
    /// The most memory of all guests together, in mebibytes; that of the host when left out.
    pub total_memory_mb: Option<u64>,
    /// For how many seconds a guest may shut down after its agent was asked to.
    #[serde(default = "half_minute")]
    pub agent_stop_secs: u64,
    /// For how many seconds a guest may shut down after its power button was pressed.
    #[serde(default = "minute")]
    pub acpi_stop_secs: u64,
    /// Whether a guest that does not shut down is turned off.
    #[serde(default = "yes")]
    pub force_stop: bool,
    /// Whether guests that should run, and do not when Portolan starts, are started.
    #[serde(default)]
    pub restart_guests: bool,
}

fn localhost() -> String {
    "localhost".to_owned()
}
fn q35() -> String {
    "q35".to_owned()
}
fn yes() -> bool {
    true
}
fn max_cpus() -> u32 {
    16
}
fn max_memory() -> u64 {
    64 << 10
}
fn max_disk() -> u64 {
    2048
}
fn max_guests() -> u64 {
    100
}
fn half_minute() -> u64 {
    30
}
fn minute() -> u64 {
    60
}
fn sizes() -> Vec<SizeSetting> {
    [("tiny", 1, 256, 0), ("small", 1, 1024, 10), ("medium", 2, 4096, 40), ("large", 4, 8192, 80)]
        .into_iter()
        .map(|(id, cpus, memory_mb, disk_gb)| SizeSetting { id: id.into(), name: id.into(), cpus, memory_mb, disk_gb })
        .collect()
}

/// Settings that are words of their own; the others are numbers, `true` and `false`, or JSON.
const WORDS: &[&str] =
    &["root", "host_name", "qemu", "qemu_img", "qemu_storage_daemon", "accel", "machine", "disk", "network", "bridge"];

impl QemuSettings {
    /// The defaults over this root.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            host_name: localhost(),
            qemu: None,
            qemu_img: None,
            qemu_storage_daemon: None,
            accel: AccelSetting::default(),
            machine: q35(),
            sandbox: true,
            disk: DiskMode::default(),
            network: NicMode::default(),
            restrict_network: false,
            bridge: None,
            sizes: sizes(),
            max_cpus: max_cpus(),
            max_memory_mb: max_memory(),
            max_disk_gb: max_disk(),
            max_guests: max_guests(),
            total_memory_mb: None,
            agent_stop_secs: half_minute(),
            acpi_stop_secs: minute(),
            force_stop: true,
            restart_guests: false,
        }
    }

    /// Out of settings as platforms keep them: each a text. Lists are JSON.
    pub fn from_texts(texts: &BTreeMap<String, String>) -> Result<Self, QemuError> {
        let mut values = serde_json::Map::new();
        for (key, text) in texts {
            let value = if WORDS.contains(&key.as_str()) {
                text.clone().into()
            } else {
                let unread = |_| QemuError::Settings(format!("the setting '{key}' cannot be read: '{text}'"));
                serde_json::from_str(text).map_err(unread)?
            };
            values.insert(key.clone(), value);
        }
        let settings: Self = serde_json::from_value(values.into()).map_err(|e| QemuError::Settings(e.to_string()))?;
        settings.check()?;
        Ok(settings)
    }

    /// Whether they make sense.
    pub(crate) fn check(&self) -> Result<(), QemuError> {
        let wrong = |what: &str| Err(QemuError::Settings(what.to_owned()));
        if !self.root.is_absolute() || self.root.components().any(|part| part == std::path::Component::ParentDir) {
            return wrong("'root' must be an absolute path without '..'");
        }
        let plain =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !plain(&self.machine) {
            return wrong("'machine' is no machine type");
        }
        if self.network == NicMode::Bridge && !self.bridge.as_deref().is_some_and(plain) {
            return wrong("the network 'bridge' needs the name of a bridge in 'bridge'");
        }
        if self.network == NicMode::Tap {
            return wrong("the network 'tap' is set for a guest, not for all");
        }
        if self.agent_stop_secs > LONGEST_WAIT.as_secs() || self.acpi_stop_secs > LONGEST_WAIT.as_secs() {
            return wrong("'agent_stop_secs' and 'acpi_stop_secs' may be a day, which is 86400");
        }
        for (n, size) in self.sizes.iter().enumerate() {
            if !plain(&size.id) || self.sizes[..n].iter().any(|other| other.id == size.id) {
                return wrong("each of 'sizes' needs a plain id of its own");
            }
            if size.cpus == 0 || size.memory_mb < 8 {
                return wrong("each of 'sizes' needs a processor and 8 MiB of memory");
            }
        }
        Ok(())
    }

    pub(crate) fn agent_stop(&self) -> Duration {
        Duration::from_secs(self.agent_stop_secs)
    }

    pub(crate) fn acpi_stop(&self) -> Duration {
        Duration::from_secs(self.acpi_stop_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn texts_are_settings() {
        let plain = QemuSettings::from_texts(&texts(&[("root", "/srv/guests")])).unwrap();
        assert_eq!(plain, QemuSettings::new("/srv/guests".into()));
        let all = QemuSettings::from_texts(&texts(&[
            ("root", "/srv/guests"),
            ("accel", "kvm"),
            ("max_guests", "7"),
            ("network", "bridge"),
            ("bridge", "br0"),
            ("force_stop", "false"),
            ("sizes", r#"[{"id":"s","cpus":1,"memory_mb":64}]"#),
        ]))
        .unwrap();
        assert_eq!((all.accel, all.max_guests, all.force_stop), (AccelSetting::Kvm, 7, false));
        assert_eq!(all.sizes.len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            &[][..],
            &[("root", "relative")],
            &[("root", "/a/../b")],
            &[("root", "/a"), ("colour", "blue")],
            &[("root", "/a"), ("accel", "magic")],
            &[("root", "/a"), ("max_guests", "many")],
            &[("root", "/a"), ("agent_stop_secs", "86401")],
            &[("root", "/a"), ("acpi_stop_secs", "18446744073709551615")],
            &[("root", "/a"), ("network", "bridge")],
            &[("root", "/a"), ("machine", "q35,accel=x")],
            &[("root", "/a"), ("sizes", r#"[{"id":"s","cpus":0,"memory_mb":64}]"#)],
        ] {
            assert!(QemuSettings::from_texts(&texts(wrong)).is_err(), "{wrong:?}");
        }
    }
}
