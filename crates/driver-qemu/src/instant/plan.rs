//! What a guest out of a backup will be, and whether it may.

use super::TOKEN;
use crate::QemuError;
use crate::host::{QemuHost, Seen};
use crate::layout::DEFAULT_DATASTORE;
use crate::settings::SizeSetting;
use crate::spec::{DiskSpec, GuestSpec, ImageFormat, InstantSpec, MOST_DISKS, MOST_NICS, NicMode};
use portolan_driver::{DriverError, InstantRequest};

/// The longest name of a guest, in characters, and the longest token, in bytes.
const LONGEST: (usize, usize) = (255, 1000);

/// Whether the wish makes sense.
pub(super) fn check(wish: &InstantRequest) -> Result<(), DriverError> {
    let wrong = |what: &str| Err(DriverError::Conflict(what.to_owned()));
    let name = wish.name.trim();
    if name.is_empty() || wish.name.chars().count() > LONGEST.0 || wish.name.chars().any(char::is_control) {
        return wrong("the guest's name is empty, too long, or no name");
    }
    if wish.token.is_empty() || wish.token.len() > LONGEST.1 {
        return wrong("the token is empty or too long");
    }
    if wish.disks.is_empty() || wish.disks.len() > MOST_DISKS {
        return Err(DriverError::Unsupported(format!("a guest has 1 to {MOST_DISKS} disks")));
    }
    for (n, disk) in wish.disks.iter().enumerate() {
        if disk.name.is_empty() || disk.name.chars().count() > LONGEST.0 {
            return wrong("a disk's name is empty or too long");
        }
        if wish.disks[..n].iter().any(|other| other.name == disk.name) {
            return Err(DriverError::Conflict(format!("the disk '{}' is there twice", disk.name)));
        }
        let size = disk.source.size();
        if size == 0 || !size.is_multiple_of(512) {
            return Err(DriverError::Unsupported(format!("the disk '{}' has {size} bytes", disk.name)));
        }
    }
    Ok(())
}

/// Whether a guest that is there is what is wished for.
pub(super) fn is_the_same(spec: &GuestSpec, wish: &InstantRequest) -> Result<(), DriverError> {
    let there = spec.disks.iter().map(|disk| (disk.name.as_str(), disk.size_bytes));
    let wanted = wish.disks.iter().map(|disk| (disk.name.as_str(), disk.source.size()));
    if spec.name == wish.name && there.eq(wanted) {
        return Ok(());
    }
    Err(DriverError::Conflict(format!("'{}' makes another machine", wish.token)))
}

impl QemuHost {
    pub(super) fn plan_instant(
        &self,
        wish: &InstantRequest,
        all: &[Seen],
        stores: &[String],
    ) -> Result<GuestSpec, DriverError> {
        let settings = &self.shared.settings;
        // Another attempt may have made it since it was looked for.
        let token = format!("{TOKEN}{}", wish.token);
        match all.iter().filter_map(Seen::spec).find(|spec| spec.token == token) {
            Some(spec) if spec.instant.as_ref().is_some_and(|instant| instant.fence > wish.fence) => {
                return Err(DriverError::Fenced);
            }
            Some(_) => return Err(DriverError::Conflict(format!("'{}' is begun by somebody else", wish.token))),
            None => {}
        }
        let named = |seen: &Seen| seen.spec().is_some_and(|spec| spec.name == wish.name && !spec.is_hidden());
        if !wish.isolated && all.iter().any(named) {
            return Err(DriverError::Conflict(format!("a machine '{}' is there already", wish.name)));
        }
        let store = wish.datastore.clone().unwrap_or_else(|| DEFAULT_DATASTORE.to_owned());
        if !stores.contains(&store) {
            return Err(DriverError::NotFound { what: "datastore", id: store });
        }
        let most = settings.max_disk_gb.saturating_mul(1 << 30);
        if wish.disks.iter().any(|disk| disk.source.size() > most) {
            return Err(QemuError::Quota(format!("a disk may have {} GiB", settings.max_disk_gb)).into());
        }
        let size = self.size_of(wish)?;
        self.check_quota(&size, all)?;
        let (id, uuid) = (self.free_id(), self.shared.ids.uuid());
        let disk = |(n, disk): (usize, &portolan_driver::InstantDisk)| DiskSpec {
            id: format!("d{n}"),
            name: disk.name.clone(),
            datastore: store.clone(),
            file: format!("d{n}.qcow2"),
            size_bytes: disk.source.size(),
            format: ImageFormat::Qcow2,
            base: Vec::new(),
            copy_of: Vec::new(),
            moved: 0,
        };
        let disks: Vec<DiskSpec> = wish.disks.iter().enumerate().map(disk).collect();
        let cards = match &wish.template {
            _ if wish.isolated || settings.network == NicMode::None => &[][..],
            Some(template) => &template.nics[..template.nics.len().min(MOST_NICS)],
            None => &[],
        };
        let remote = disks.iter().map(|disk| disk.id.clone()).collect();
        Ok(GuestSpec {
            token,
            cpus: size.cpus,
            memory_bytes: size.memory_mb << 20,
            disks,
            nics: self.cards(cards, &id, uuid, all),
            tags: wish.template.as_ref().map(|template| template.tags.clone()).unwrap_or_default(),
            instant: Some(InstantSpec { fence: wish.fence, isolated: wish.isolated, remote }),
            ..self.bare(id, &wish.name, uuid)
        })
    }

    /// As it was backed up, where that is known; else this host's first size.
    fn size_of(&self, wish: &InstantRequest) -> Result<SizeSetting, QemuError> {
        let settings = &self.shared.settings;
        let first = settings.sizes.first();
        let (mut cpus, mut memory_mb) = first.map_or((1, 1024), |first| (first.cpus, first.memory_mb));
        if let Some(template) = &wish.template {
            cpus = if template.cpus == 0 { cpus } else { template.cpus };
            memory_mb = if template.memory_bytes == 0 { memory_mb } else { (template.memory_bytes >> 20).max(8) };
        }
        if cpus > settings.max_cpus {
            return Err(QemuError::Quota(format!("a guest may have {} processors", settings.max_cpus)));
        }
        if memory_mb > settings.max_memory_mb {
            return Err(QemuError::Quota(format!("a guest may have {} MiB of memory", settings.max_memory_mb)));
        }
        Ok(SizeSetting { id: "backup".into(), name: String::new(), cpus, memory_mb, disk_gb: 0 })
    }
}
