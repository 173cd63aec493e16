//! An import as it is written down, and its disks before they are a guest's.

use crate::QemuError;
use crate::command::text;
use crate::daemon::Daemon;
use crate::guest::{Shared, blocking};
use crate::layout::{Layout, open_private, remove_files, remove_tree, sync_dir, write_durably};
use crate::programs::run;
use crate::spec::{ImageFormat, Placed};
use portolan_driver::ImportRequest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// What the daemon's files are called.
pub(super) const DAEMON: &str = "import";
const STATE: &str = "import.json";
const CREATE_LIMIT: Duration = Duration::from_secs(60);

/// What is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wish {
    pub(super) name: String,
    pub(super) overwrite: bool,
    pub(super) disks: Vec<StagedDisk>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StagedDisk {
    pub(super) name: String,
    pub(super) size_bytes: u64,
    pub(super) format: ImageFormat,
    pub(super) datastore: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// The disks are being laid out.
    Making,
    /// The disks are being written.
    Writing,
    /// The disks go to their place: those of that guest, by these names, instead of the old ones.
    Committing { guest: String, files: Vec<Placed>, old: Vec<Placed> },
}

/// An import that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Staged {
    pub(super) token: String,
    pub(super) fence: i64,
    pub(super) wish: Wish,
    pub(super) phase: Phase,
}

pub(super) fn dir(layout: &Layout, token: &str) -> PathBuf {
    layout.imports().join(token)
}

/// The id of the nth disk.
pub(super) fn disk_id(n: usize) -> String {
    format!("d{n}")
}

impl Staged {
    /// Whether it is what is wished for now. Where a disk lies was decided when it was begun.
    pub(super) fn is_of(&self, request: &ImportRequest) -> bool {
        self.wish.name == request.name
            && self.wish.overwrite == request.overwrite
            && self.wish.disks.len() == request.disks.len()
            && self
                .wish
                .disks
                .iter()
                .zip(&request.disks)
                .all(|(disk, wished)| disk.name == wished.name && disk.size_bytes == wished.size_bytes)
    }

    fn store(&self, layout: &Layout, datastore: &str) -> PathBuf {
        layout.disks(datastore, &format!(".import-{}", self.token))
    }

    fn path(&self, layout: &Layout, n: usize) -> PathBuf {
        let disk = &self.wish.disks[n];
        self.store(layout, &disk.datastore).join(format!("{}.{}", disk_id(n), disk.format.name()))
    }

    /// The nth disk for a daemon.
    pub(super) fn node(&self, layout: &Layout, n: usize) -> Value {
        let format = self.wish.disks[n].format;
        let file = json!({ "driver": "file", "filename": text(&self.path(layout, n)), "discard": "unmap" });
        let mut node = json!({ "driver": format.name(), "node-name": disk_id(n), "file": file, "discard": "unmap" });
        if format == ImageFormat::Qcow2 {
            node["backing"] = Value::Null;
        }
        node
    }

    fn stores(&self, layout: &Layout) -> Vec<PathBuf> {
        let mut stores: Vec<_> = self.wish.disks.iter().map(|disk| self.store(layout, &disk.datastore)).collect();
        stores.sort_unstable();
        stores.dedup();
        stores
    }
}

pub(super) async fn read(shared: &Shared, token: &str) -> Result<Option<Staged>, QemuError> {
    let path = dir(&shared.layout, token).join(STATE);
    blocking(move || match std::fs::read(&path) {
        Ok(read) => {
            serde_json::from_slice(&read).map(Some).map_err(|e| QemuError::Damaged { path, reason: e.to_string() })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(QemuError::file("read", &path)(e)),
    })
    .await
}

pub(super) async fn write(shared: &Shared, staged: &Staged) -> Result<(), QemuError> {
    let (dir, text) = (dir(&shared.layout, &staged.token), serde_json::to_vec_pretty(staged));
    let text = text.map_err(|e| QemuError::Damaged { path: dir.clone(), reason: e.to_string() })?;
    blocking(move || {
        make_dir(&dir)?;
        write_durably(&dir, STATE, &text)
    })
    .await
}

fn make_dir(dir: &Path) -> Result<(), QemuError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(QemuError::file("make", dir))?;
    dir.parent().map_or(Ok(()), sync_dir)
}

/// Lays out empty disks, from the start.
pub(super) async fn make_disks(shared: &Shared, staged: &Staged) -> Result<(), QemuError> {
    let stores = staged.stores(&shared.layout);
    blocking(move || {
        stores.iter().try_for_each(|store| {
            remove_tree(store)?;
            make_dir(store)
        })
    })
    .await?;
    for (n, disk) in staged.wish.disks.iter().enumerate() {
        let path = staged.path(&shared.layout, n);
        let (made, size) = (path.clone(), disk.size_bytes);
        match disk.format {
            ImageFormat::Qcow2 => {
                let mut create = Command::new(&shared.programs.qemu_img);
                create.args(["create", "-q", "-f", "qcow2"]).arg(&path).arg(size.to_string());
                run(&mut create, CREATE_LIMIT).await?;
            }
            ImageFormat::Raw => {
                blocking(move || {
                    let file = open_private(&made).and_then(|file| file.set_len(size));
                    file.map_err(QemuError::file("write", &made))
                })
                .await?;
            }
        }
        blocking(move || {
            File::open(&path).and_then(|file| file.sync_all()).map_err(QemuError::file("write", &path))?;
            path.parent().map_or(Ok(()), sync_dir)
        })
        .await?;
    }
    Ok(())
}

/// Moves the disks to where the guest's document will say they are. It can be repeated.
pub(super) async fn move_disks(shared: &Shared, staged: &Staged) -> Result<(), QemuError> {
    let Phase::Committing { guest, files, .. } = &staged.phase else { return Ok(()) };
    let layout = &shared.layout;
    let moves: Vec<(PathBuf, PathBuf)> = files
        .iter()
        .enumerate()
        .map(|(n, file)| (staged.path(layout, n), layout.disks(&file.datastore, guest).join(&file.file)))
        .collect();
    blocking(move || {
        for (from, to) in &moves {
            let store = to.parent().unwrap_or(to);
            make_dir(store)?;
            match File::open(from).and_then(|file| file.sync_all()).and_then(|()| std::fs::rename(from, to)) {
                // An attempt before this one moved it.
                Err(e) if e.kind() == io::ErrorKind::NotFound && to.exists() => {}
                Err(e) => return Err(QemuError::file("write", to)(e)),
                Ok(()) => sync_dir(store)?,
            }
        }
        Ok(())
    })
    .await
}

/// Removes what is left of an import that has made its guest, and what the guest replaced.
pub(super) async fn clear_committed(shared: &Shared, token: &str) -> Result<(), QemuError> {
    let Some(staged) = read(shared, token).await? else { return Ok(()) };
    let layout = &shared.layout;
    let old = match &staged.phase {
        Phase::Committing { guest, old, .. } => {
            // Checkpoints of disks that are gone, and what told the guest before who it is.
            let besides = ["checkpoints.json", crate::layout::SEED].map(|name| layout.guest(guest).join(name));
            let replaced = old.iter().map(|one| layout.file(guest, one));
            if old.is_empty() { Vec::new() } else { replaced.chain(besides).collect() }
        }
        _ => Vec::new(),
    };
    remove(shared, &staged, old).await
}

/// Removes all of an import that made no guest.
pub(super) async fn discard(shared: &Shared, staged: &Staged) -> Result<(), QemuError> {
    let moved = match &staged.phase {
        Phase::Committing { guest, files, .. } => files.iter().map(|one| shared.layout.file(guest, one)).collect(),
        _ => Vec::new(),
    };
    remove(shared, staged, moved).await
}

async fn remove(shared: &Shared, staged: &Staged, files: Vec<PathBuf>) -> Result<(), QemuError> {
    let (stores, dir) = (staged.stores(&shared.layout), dir(&shared.layout, &staged.token));
    Daemon::new(dir.clone(), DAEMON).end(false).await?;
    blocking(move || {
        remove_files(&files)?;
        stores.iter().try_for_each(|store| remove_tree(store))?;
        // Last, because it says what there is to remove.
        remove_tree(&dir)
    })
    .await
}
