//! What an import makes, and whether it may.

use super::staged::{Phase, Staged, StagedDisk, Wish, disk_id};
use crate::QemuError;
use crate::guest::blocking;
use crate::host::{QemuHost, Seen};
use crate::hypervisor::HOST;
use crate::layout::{DEFAULT_DATASTORE, document, is_plain};
use crate::spec::{Desired, DiskSpec, GuestSpec, ImageFormat, ImportMark, MOST_DISKS, MOST_NICS, Placed};
use portolan_driver::{DriverError, ImportRequest};
use std::collections::HashSet;

/// Memory of a guest that nothing is known about.
const MEMORY: u64 = 512 << 20;
/// A guest of less does not start.
const LEAST_MEMORY: u64 = 1 << 20;

/// Refuses what cannot be made.
pub(super) fn check(host: &QemuHost, request: &ImportRequest) -> Result<(), DriverError> {
    let unsupported = |what: String| Err(DriverError::Unsupported(what));
    if !is_plain(&request.token) || request.token.len() > 100 {
        return unsupported(format!("the token '{}': it must be a plain word", request.token));
    }
    let name = &request.name;
    if name.trim().is_empty() || name.chars().count() > 255 || name.chars().any(char::is_control) {
        return unsupported("a guest's name has 1 to 255 characters, and none of them controls anything".into());
    }
    if request.disks.len() > MOST_DISKS {
        return unsupported(format!("a guest of more than {MOST_DISKS} disks"));
    }
    if request.template.as_ref().is_some_and(|vm| vm.nics.len() > MOST_NICS) {
        return unsupported(format!("a guest of more than {MOST_NICS} network cards"));
    }
    let mut seen = HashSet::new();
    for disk in &request.disks {
        let wrong = disk.name.is_empty() || disk.name.starts_with('.') || disk.name.len() > 250;
        if wrong || disk.name.contains('/') || disk.name.chars().any(char::is_control) {
            return unsupported(format!("the disk name '{}'", disk.name.escape_debug()));
        }
        if !seen.insert(&disk.name) {
            return Err(DriverError::Conflict(format!("the disk '{}' is there twice", disk.name)));
        }
        if disk.size_bytes == 0 || !disk.size_bytes.is_multiple_of(512) {
            return unsupported(format!("a disk of {} bytes", disk.size_bytes));
        }
        if !matches!(disk.format.as_deref(), None | Some("qcow2" | "raw")) {
            return unsupported(format!("disks of the format '{}'", disk.format.as_deref().unwrap_or_default()));
        }
        if disk.size_bytes > host.settings().max_disk_gb.saturating_mul(1 << 30) {
            return unsupported(format!("a disk of more than {} GiB on this host", host.settings().max_disk_gb));
        }
    }
    if let Some(id) = &request.cluster {
        return Err(DriverError::NotFound { what: "cluster", id: id.clone() });
    }
    if let Some(id) = request.host.as_ref().filter(|id| *id != HOST) {
        return Err(DriverError::NotFound { what: "host", id: id.clone() });
    }
    if let Some(template) = &request.template {
        if template.cpus > host.settings().max_cpus {
            return unsupported(format!("a guest of {} processors on this host", template.cpus));
        }
        if template.memory_bytes > host.settings().max_memory_mb.saturating_mul(1 << 20) {
            return unsupported(format!("a guest of {} MiB of memory on this host", template.memory_bytes >> 20));
        }
    }
    Ok(())
}

/// Decides where the disks go: where they are asked to, else where they were, else to the default.
pub(super) async fn wish(host: &QemuHost, request: &ImportRequest) -> Result<Wish, DriverError> {
    let layout = host.shared.layout.clone();
    let stores = blocking(move || layout.datastore_names()).await?;
    let known = |id: &String| {
        let missing = || DriverError::NotFound { what: "datastore", id: id.clone() };
        stores.iter().find(|store| *store == id).cloned().ok_or_else(missing)
    };
    let asked = request.datastore.as_ref().map(known).transpose()?;
    let mut disks = Vec::new();
    for disk in &request.disks {
        let before = request.template.iter().flat_map(|vm| &vm.disks).find(|one| one.name == disk.name);
        let before = before.and_then(|one| one.datastore.clone()).filter(|store| stores.contains(store));
        let datastore = match &disk.datastore {
            Some(id) => known(id)?,
            None => asked.clone().or(before).unwrap_or_else(|| DEFAULT_DATASTORE.to_owned()),
        };
        let format = if disk.format.as_deref() == Some("raw") { ImageFormat::Raw } else { ImageFormat::Qcow2 };
        disks.push(StagedDisk { name: disk.name.clone(), size_bytes: disk.size_bytes, format, datastore });
    }
    Ok(Wish { name: request.name.clone(), overwrite: request.overwrite, disks })
}

/// The guest, in the place of another one or beside all others; an error when it cannot be written down.
pub(super) fn spec(
    host: &QemuHost,
    request: &ImportRequest,
    staged: &Staged,
    id: &str,
    before: Option<&GuestSpec>,
    all: &[Seen],
) -> Result<GuestSpec, QemuError> {
    let uuid = before.map_or_else(|| host.shared.ids.uuid(), |before| before.uuid);
    let bare = host.bare(id.to_owned(), &request.name, uuid);
    let incarnation = &bare.incarnation;
    // Beside the old disks, the new ones need other names. Those that an earlier attempt moved have theirs.
    let names = match &staged.phase {
        Phase::Committing { guest, files, .. } if guest == id => Some(files),
        _ => None,
    };
    let disks = staged.wish.disks.iter().enumerate().map(|(n, disk)| {
        let fresh = match before {
            None => format!("{}.{}", disk_id(n), disk.format.name()),
            Some(_) => format!("{}-{}.{}", disk_id(n), &incarnation[incarnation.len() - 12..], disk.format.name()),
        };
        DiskSpec {
            id: disk_id(n),
            name: disk.name.clone(),
            datastore: disk.datastore.clone(),
            file: names.and_then(|files| files.get(n)).map_or(fresh, |placed| placed.file.clone()),
            size_bytes: disk.size_bytes,
            format: disk.format,
            base: Vec::new(),
            copy_of: Vec::new(),
            moved: 0,
        }
    });
    let disks = disks.collect();
    let template = request.template.as_ref();
    let memory = template.map_or(0, |vm| vm.memory_bytes);
    let spec = GuestSpec {
        cpus: template.map_or(1, |vm| vm.cpus.max(1)),
        memory_bytes: if memory < LEAST_MEMORY { MEMORY } else { memory },
        disks,
        nics: host.cards(template.map_or(&[][..], |vm| &vm.nics), id, uuid, all),
        tags: template.map_or_else(Vec::new, |vm| vm.tags.clone()),
        phase: crate::spec::Phase::Ready,
        desired: Desired::Stopped,
        import: Some(ImportMark { token: request.token.clone(), fence: request.fence }),
        ..bare
    };
    document(&spec).map(|_| spec)
}

/// The files of a guest's disks.
pub(super) fn files(spec: &GuestSpec) -> Vec<Placed> {
    spec.disks.iter().map(DiskSpec::placed).collect()
}

impl QemuHost {
    /// The right to look at all guests and to make some, in this process and on this host.
    pub(crate) async fn alone(&self) -> Result<(tokio::sync::MutexGuard<'_, ()>, std::fs::File), QemuError> {
        let turn = self.turn.lock().await;
        let layout = self.shared.layout.clone();
        Ok((turn, blocking(move || layout.lock()).await?))
    }
}
