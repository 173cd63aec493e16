//! Listing the tree.

use crate::image::{self, Format};
use crate::meta;
use crate::tree::{EntryKind, Tree, unreachable};
use portolan_driver::{DriverError, Inventory, NativeCluster, NativeDatastore, NativeDisk, NativeHost, NativeVm};
use portolan_model::IdSource;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A machine, and what is wrong with it.
pub(crate) struct Described {
    pub(crate) vm: NativeVm,
    problems: Vec<String>,
}

/// The whole tree.
pub(crate) fn list(tree: &Tree, ids: &dyn IdSource) -> Result<Inventory, DriverError> {
    let mut out = Inventory::default();
    let stores = walk(tree, &mut out)?;
    for (store, path) in stores {
        for (_, vm_path) in directories(tree, &path, &mut out.problems)? {
            // A machine that goes away while it is looked at is gone.
            if let Some(described) = describe(tree, ids, &vm_path)? {
                out.vms.push(described.vm);
                out.problems.extend(described.problems);
            }
        }
        out.datastores.push(store);
    }
    Ok(out)
}

/// The datastores, without their machines.
pub(crate) fn datastores(tree: &Tree) -> Result<Vec<(NativeDatastore, PathBuf)>, DriverError> {
    walk(tree, &mut Inventory::default())
}

/// Lists clusters and hosts into `out`, and returns the datastores with their paths.
fn walk(tree: &Tree, out: &mut Inventory) -> Result<Vec<(NativeDatastore, PathBuf)>, DriverError> {
    let mut stores = Vec::new();
    for (cluster, cluster_path) in directories(tree, Path::new(""), &mut out.problems)? {
        let cluster_id = id(&cluster_path);
        for (host, host_path) in directories(tree, &cluster_path, &mut out.problems)? {
            let host_id = id(&host_path);
            for (name, path) in directories(tree, &host_path, &mut out.problems)? {
                stores.push((datastore(tree, name, &path, &cluster_id, &host_id)?, path));
            }
            out.hosts.push(NativeHost {
                native_id: host_id,
                address: host.clone(),
                name: host,
                cluster: Some(cluster_id.clone()),
            });
        }
        out.clusters.push(NativeCluster { native_id: cluster_id, name: cluster });
    }
    Ok(stores)
}

fn id(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The directories in `dir`. One that cannot be read fails the whole listing: what is in it must not seem gone.
fn directories(tree: &Tree, dir: &Path, problems: &mut Vec<String>) -> Result<Vec<(String, PathBuf)>, DriverError> {
    let entries = tree.entries(dir, problems).map_err(|error| unreachable("list", &tree.root().join(dir), &error))?;
    let mut out = Vec::new();
    for entry in entries {
        let path = dir.join(&entry.name);
        match entry.kind {
            EntryKind::Dir => out.push((entry.name, path)),
            EntryKind::File | EntryKind::Other => problems.push(format!("{}: not a directory", path.display())),
            EntryKind::Outside => problems.push(format!("{}: leads out of the platform's directory", path.display())),
            EntryKind::Broken(error) => return Err(unreachable("follow", &tree.root().join(path), &error)),
        }
    }
    Ok(out)
}

fn datastore(
    tree: &Tree,
    name: String,
    path: &Path,
    cluster: &str,
    host: &str,
) -> Result<NativeDatastore, DriverError> {
    let place = tree.root().join(path);
    let space = rustix::fs::statvfs(&place).map_err(|error| unreachable("measure", &place, &error.into()))?;
    Ok(NativeDatastore {
        native_id: id(path),
        name,
        cluster: Some(cluster.to_owned()),
        host: Some(host.to_owned()),
        total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
    })
}

/// The machine at `path`, four names below the root; nothing when there is none.
pub(crate) fn describe(tree: &Tree, ids: &dyn IdSource, path: &Path) -> Result<Option<Described>, DriverError> {
    // An import that replaces the machine swaps its directory: then what was read is of two machines, and is
    // read again. Each round means another replacement, so that a few rounds are enough.
    for _ in 0..8 {
        let place = match tree.resolve(path) {
            Ok(place) => place,
            Err(crate::tree::TreeError::Io { source, .. }) if source.kind() != io::ErrorKind::NotFound => {
                return Err(unreachable("open", &tree.root().join(path), &source));
            }
            Err(_) => return Ok(None),
        };
        let Some(before) = inode(&place)? else { return Ok(None) };
        let described = describe_once(tree, ids, path, &place);
        match inode(&place)? {
            None => return Ok(None),
            Some(after) if after == before => return described.map(Some),
            Some(_) => {}
        }
    }
    Err(DriverError::Unreachable {
        reason: format!("{} is being replaced all the time", path.display()),
        retry_after: None,
    })
}

/// Device and inode of a directory; nothing when there is none.
fn inode(place: &Path) -> Result<Option<(u64, u64)>, DriverError> {
    match std::fs::metadata(place) {
        Ok(found) => Ok(found.is_dir().then(|| (found.dev(), found.ino()))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(unreachable("open", place, &error)),
    }
}

fn describe_once(tree: &Tree, ids: &dyn IdSource, path: &Path, place: &Path) -> Result<Described, DriverError> {
    let mut problems = Vec::new();
    let entries = tree.entries(path, &mut problems).map_err(|error| unreachable("list", place, &error))?;
    let incarnation = meta::incarnation(place, ids)?;
    let about = meta::read_vm_file(tree, path, &mut problems);
    let parent = path.parent().unwrap_or(Path::new(""));
    let mut disks = Vec::new();
    for entry in entries {
        let disk_path = path.join(&entry.name);
        let Some((format, stem)) = Format::of(&entry.name) else {
            if entry.name != meta::VM_FILE {
                problems.push(format!("{}: not a disk image (.raw or .qcow2)", disk_path.display()));
            }
            continue;
        };
        let found = match entry.kind {
            EntryKind::Dir | EntryKind::Other => Err("not a regular file".to_owned()),
            EntryKind::Outside => Err("leads out of the platform's directory".to_owned()),
            EntryKind::Broken(error) => Err(error.to_string()),
            EntryKind::File => image::probe(tree, &disk_path).map_err(|error| error.to_string()),
        };
        let oddity = image::oddity(tree, &disk_path, format).map(str::to_owned);
        problems.extend(found.clone().err().or(oddity).map(|what| format!("{}: {what}", disk_path.display())));
        disks.push(NativeDisk {
            name: stem.to_owned(),
            size_bytes: found.as_ref().copied().unwrap_or(0),
            datastore: Some(id(parent)),
            supported: found.is_ok(),
            format: format.name().to_owned(),
            native_id: entry.name,
        });
    }
    name_apart(&mut disks);
    disks.sort_by_key(|disk| about.disks.iter().position(|name| *name == disk.name).unwrap_or(usize::MAX));
    let up = |levels: usize| path.ancestors().nth(levels).map(id);
    Ok(Described {
        vm: NativeVm {
            native_id: id(path),
            incarnation,
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            host: up(2),
            cluster: up(3),
            power: about.power,
            disks,
            nics: about.nics,
            cpus: about.cpus,
            memory_bytes: about.memory_bytes,
            tags: about.tags,
        },
        problems,
    })
}

/// Disks whose names without ending are the same keep the whole file name.
fn name_apart(disks: &mut [NativeDisk]) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for disk in disks.iter() {
        *seen.entry(disk.name.clone()).or_default() += 1;
    }
    // `a.raw.raw` and `a.raw` with `a.qcow2`: then every name of the machine is the whole one.
    let clash = seen.values().any(|count| *count > 1);
    for disk in disks.iter_mut().filter(|_| clash) {
        disk.name = disk.native_id.clone();
    }
}
