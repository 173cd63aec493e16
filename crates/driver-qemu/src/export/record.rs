//! What is written down about an export, and about checkpoints.

use super::live::PULL;
use crate::QemuError;
use crate::guest::Guest;
use crate::layout::{sync_dir, write_durably};
use portolan_driver::{DriverError, NativeVm};
use portolan_model::Consistency;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const RECORD: &str = "export.json";
const CHECKPOINTS: &str = "checkpoints.json";
const LONGEST: u64 = 4 << 20;

/// An export that is being opened, or open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) token: String,
    pub(super) fence: i64,
    /// Names the moment, and all that QEMU has for it.
    pub(super) session: String,
    /// Whether QEMU runs the guest.
    pub(super) live: bool,
    pub(super) since: Option<String>,
    pub(super) checkpoint: Option<String>,
    pub(super) disks: Vec<RecordedDisk>,
    pub(super) vm: NativeVm,
    pub(super) consistency: Consistency,
    pub(super) frozen_ms: Option<u64>,
    pub(super) notes: Vec<String>,
    /// Whether everything is there.
    pub(super) standing: bool,
    /// Whether the guest may be frozen, and must be thawed.
    pub(super) thaw: bool,
    /// Whether its processors may be held, and must go on.
    pub(super) go_on: bool,
}

/// A disk of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RecordedDisk {
    pub(super) id: String,
    /// Whether a bitmap tells what changed.
    pub(super) tells: bool,
    /// Why none does, though one was asked for.
    pub(super) lost: Option<String>,
    /// The files, where nothing but their standing still holds the moment.
    pub(super) files: Vec<FileState>,
}

impl Record {
    /// Whether it is of just these disks.
    pub(super) fn is_of(&self, wanted: &[String]) -> bool {
        self.disks.len() == wanted.len() && self.disks.iter().all(|disk| wanted.contains(&disk.id))
    }

    /// The bitmap that tells what changed on running guests.
    pub(super) fn pull(&self) -> String {
        format!("{PULL}{}", self.session)
    }

    /// The metadata context that tells what changed.
    pub(super) fn context(&self, disk: &RecordedDisk) -> Option<String> {
        let bitmap = if self.live { self.pull() } else { self.since.clone()? };
        disk.tells.then(|| format!("qemu:dirty-bitmap:{bitmap}"))
    }
}

/// A file as it was: when any of this is another, so may be its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileState {
    path: PathBuf,
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    pub(super) fn of(path: &Path) -> Result<Self, QemuError> {
        let found = std::fs::metadata(path).map_err(QemuError::file("look at", path))?;
        Ok(Self {
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    /// Whether the file is so still.
    pub(super) fn stands(&self) -> bool {
        Self::of(&self.path).is_ok_and(|now| now == *self)
    }
}

fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, QemuError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(QemuError::file("open", path)(e)),
    };
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).map_err(QemuError::file("read", path))?;
    Ok(Some(text))
}

/// The guest's export; nothing when there is none.
pub(super) async fn read(guest: &Guest) -> Result<Option<Record>, QemuError> {
    let path = guest.dir().join(RECORD);
    let read = guest.files(move || {
        let Some(text) = read_bounded(&path)? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|e| QemuError::Damaged { path, reason: e.to_string() })
    });
    read.await
}

/// Writes it down, durably.
pub(super) async fn write(guest: &Guest, record: &Record) -> Result<(), DriverError> {
    let (dir, text) = (guest.dir().to_owned(), serde_json::to_vec_pretty(record));
    let text = text.map_err(|e| DriverError::Malformed(e.to_string()))?;
    Ok(guest.files(move || write_durably(&dir, RECORD, &text)).await?)
}

/// Forgets it, durably.
pub(super) async fn remove(guest: &Guest) -> Result<(), DriverError> {
    let dir = guest.dir().to_owned();
    let removed = guest.files(move || {
        let path = dir.join(RECORD);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(QemuError::file("remove", &path)(e)),
            Ok(()) => sync_dir(&dir),
        }
    });
    Ok(removed.await?)
}

/// The sizes of the disks at each checkpoint.
pub(super) type Checkpoints = BTreeMap<String, BTreeMap<String, u64>>;

/// The checkpoints that were made. A file that is damaged tells of none, which costs a full read.
pub(super) async fn checkpoints(guest: &Guest) -> Result<Checkpoints, DriverError> {
    let path = guest.dir().join(CHECKPOINTS);
    let read = guest.files(move || {
        let text = read_bounded(&path)?.unwrap_or_default();
        Ok(serde_json::from_slice(&text).unwrap_or_default())
    });
    Ok(read.await?)
}

pub(super) async fn write_checkpoints(guest: &Guest, checkpoints: &Checkpoints) -> Result<(), DriverError> {
    let text = serde_json::to_vec_pretty(checkpoints).map_err(|e| DriverError::Malformed(e.to_string()))?;
    let dir = guest.dir().to_owned();
    Ok(guest.files(move || write_durably(&dir, CHECKPOINTS, &text)).await?)
}

pub(super) async fn forget_checkpoints(guest: &Guest, gone: impl Fn(&str) -> bool) -> Result<(), DriverError> {
    let mut known = checkpoints(guest).await?;
    let before = known.len();
    known.retain(|id, _| !gone(id));
    if known.len() == before { Ok(()) } else { write_checkpoints(guest, &known).await }
}
