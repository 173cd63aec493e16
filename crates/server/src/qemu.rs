//! The QEMU driver, built from the settings that operators give.

use crate::config::keys::platform_settings as settings;
use crate::factories::guarded;
use portolan::registry::{BuiltDriver, DriverDescription, PlatformKind, PlatformSpec, SettingDescription};
use portolan_driver::DriverError;
use portolan_driver_qemu::{QemuCloud, QemuHost, QemuHypervisor, QemuSettings};
use portolan_model::{Clock, IdSource};
use std::sync::Arc;

/// The driver's name.
pub(crate) const NAME: &str = "qemu";

pub(crate) fn description() -> DriverDescription {
    let root = SettingDescription {
        name: "root",
        about: "the host's directory, for templates, disks and guests: an absolute path on the server",
        required: true,
        secret: false,
    };
    let optional = settings().map(|(name, about)| SettingDescription { name, about, required: false, secret: false });
    DriverDescription {
        name: NAME,
        about: "QEMU guests on this machine, which Portolan makes, starts, backs up and destroys",
        kind: PlatformKind::Both,
        settings: std::iter::once(root).chain(optional).collect(),
    }
}

/// One host behind both ports.
pub(crate) async fn build(
    spec: &PlatformSpec,
    clock: &Arc<dyn Clock>,
    ids: &Arc<dyn IdSource>,
) -> Result<BuiltDriver, DriverError> {
    let settings = QemuSettings::from_texts(&spec.settings).map_err(|e| DriverError::Conflict(e.to_string()))?;
    let url = settings.root.display().to_string();
    let host = QemuHost::open(settings, Arc::clone(clock), Arc::clone(ids)).await?;
    Ok(BuiltDriver {
        hypervisor: Some(Arc::new(QemuHypervisor::new(Arc::clone(&host)))),
        cloud: Some(guarded(Arc::new(QemuCloud::new(host)), ids)),
        url,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// What is described is what the driver takes: no more, and no less.
    #[test]
    fn every_setting_is_described() {
        let text = |name: &str| match name {
            "root" | "qemu" | "qemu_img" | "qemu_storage_daemon" => "/srv/qemu",
            "accel" => "tcg",
            "disk" => "copy",
            "network" => "user",
            "sizes" => "[]",
            "sandbox" | "restrict_network" | "force_stop" | "restart_guests" => "true",
            "host_name" | "machine" | "bridge" => "x",
            _ => "7",
        };
        let texts: BTreeMap<String, String> =
            description().settings.iter().map(|s| (s.name.to_owned(), text(s.name).to_owned())).collect();
        let known = QemuSettings::from_texts(&texts).map_err(|e| e.to_string());
        assert!(known.as_ref().err().is_none_or(|e| !e.contains("unknown field")), "{known:?}");
        let given = format!("{:?}", QemuSettings::new("/srv".into()));
        for field in given.split(['{', ',']).filter_map(|part| part.trim().split_once(": ")).map(|(name, _)| name) {
            let of_size = ["id", "name", "cpus", "memory_mb", "disk_gb"].contains(&field);
            assert!(of_size || texts.contains_key(field), "{field} is not described");
        }
    }
}
