//! The hidden directory in which a machine is made, and who may touch it.
//!
//! `<datastore>/.portolan-import-<token>/` holds the images, the wish (`.portolan-import.json`) and a lock file
//! with the newest fence. Whoever writes an image holds the lock shared and finds its own fence in it; whoever takes
//! over, commits or aborts holds it alone. So a worker that lost its task never writes into what its successor
//! owns, on this machine or on another that shares the file system, and not after the commit either, because
//! then the lock is no longer to be found at its place.

use crate::meta;
use portolan_driver::{DriverError, ImportRequest};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOCK: &str = ".portolan-lock";
const STATE: &str = ".portolan-import.json";
const STAGING: &str = ".portolan-import-";
const GONE: &str = ".portolan-gone-";

/// What an import makes, as far as a repeated call must wish the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Wish {
    name: String,
    overwrite: bool,
    disks: Vec<(String, u64)>,
}

impl Wish {
    fn of(request: &ImportRequest) -> Self {
        let disks = request.disks.iter().map(|disk| (disk.name.clone(), disk.size_bytes)).collect();
        Self { name: request.name.clone(), overwrite: request.overwrite, disks }
    }
}

/// One attempt's view of a staging directory.
#[derive(Debug, Clone)]
pub(crate) struct Staging {
    /// The datastore's directory, absolute.
    store: PathBuf,
    /// The datastore's native id, for messages.
    store_id: String,
    token: String,
    fence: i64,
}

/// The lock, held until it is dropped.
pub(crate) struct Held {
    lock: File,
}

impl Staging {
    pub(crate) fn new(store: PathBuf, store_id: String, token: String, fence: i64) -> Self {
        Self { store, store_id, token, fence }
    }

    /// Where the images are made.
    pub(crate) fn dir(&self) -> PathBuf {
        self.store.join(format!("{STAGING}{}", self.token))
    }

    /// The file of the disk called `name`.
    pub(crate) fn disk_path(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.raw"))
    }

    /// A file system error, for callers of the driver.
    pub(crate) fn failed(&self, action: &'static str, error: io::Error) -> DriverError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DriverError::NoSpace(self.store_id.clone()),
            io::ErrorKind::FileTooLarge => {
                DriverError::Unsupported(format!("a disk of that size on {}", self.store_id))
            }
            _ => crate::tree::unreachable(action, &self.dir(), &error),
        }
    }

    /// Makes the directory, or takes it over as it is.
    pub(crate) fn begin(&self, request: &ImportRequest, ids: &dyn portolan_model::IdSource) -> Result<(), DriverError> {
        let wish = Wish::of(request);
        let held = self.lock_or_make().map_err(|error| self.failed("make", error))?;
        match held.fence(&self.token).map_err(|error| self.failed("read", error))? {
            Some(newest) if newest > self.fence => return Err(DriverError::Fenced),
            _ => {}
        }
        // From here on every older attempt is out, also when this one dies at once.
        held.set_fence(self.fence, &self.token).map_err(|error| self.failed("write", error))?;
        match std::fs::read(self.dir().join(STATE)) {
            Ok(text) => match serde_json::from_slice::<Wish>(&text) {
                Ok(known) if known == wish => return Ok(()),
                Ok(_) => {
                    return Err(DriverError::Conflict(format!(
                        "the import '{}' was begun for another machine or other disks",
                        self.token
                    )));
                }
                Err(error) => return Err(DriverError::Malformed(format!("{}: {error}", self.dir().display()))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(self.failed("read", error)),
        }
        self.prepare(&wish, ids).map_err(|error| self.failed("write", error))
    }

    /// Lays out empty disks. The wish comes last: without it, the next attempt begins from the start.
    fn prepare(&self, wish: &Wish, ids: &dyn portolan_model::IdSource) -> io::Result<()> {
        // What an attempt left that died before its wish was written, or a machine that was replaced.
        for entry in std::fs::read_dir(self.dir())? {
            let entry = entry?;
            if entry.file_name() != LOCK {
                if entry.file_type()?.is_dir() {
                    remove_tree(&entry.path())?
                } else {
                    std::fs::remove_file(entry.path())?
                }
            }
        }
        for (name, size) in &wish.disks {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(true).mode(0o640).open(self.disk_path(name))?;
            file.set_len(*size)?;
            file.sync_all()?;
        }
        match meta::write_id(&self.dir(), ids) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let text = serde_json::to_vec(wish).map_err(io::Error::other)?;
        meta::write_file(&self.dir(), STATE, &text)?;
        meta::sync_dir(&self.store)
    }

    fn lock_or_make(&self) -> io::Result<Held> {
        loop {
            match std::fs::create_dir(self.dir()) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            match self.lock_with(&options, FlockOperation::LockExclusive) {
                Ok(Some(held)) => return Ok(held),
                // An abort moved the directory away in between.
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn lock_with(&self, options: &OpenOptions, how: FlockOperation) -> io::Result<Option<Held>> {
        let path = self.dir().join(LOCK);
        let lock = match options.open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        loop {
            match rustix::fs::flock(&lock, how) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        }
        // What was waited for may have been a commit or an abort: then the lock is of a directory that is gone.
        let (mine, there) = (lock.metadata()?, std::fs::symlink_metadata(&path));
        match there {
            Ok(there) if (there.dev(), there.ino()) == (mine.dev(), mine.ino()) => Ok(Some(Held { lock })),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Holds the directory alone. Nothing when it is not there; an error when a newer attempt owns it.
    pub(crate) fn lock_alone(&self) -> Result<Option<Held>, DriverError> {
        self.lock_as_owner(FlockOperation::LockExclusive)
    }

    /// Holds the directory beside others of the same attempt.
    pub(crate) fn lock_shared(&self) -> Result<Option<Held>, DriverError> {
        self.lock_as_owner(FlockOperation::LockShared)
    }

    fn lock_as_owner(&self, how: FlockOperation) -> Result<Option<Held>, DriverError> {
        // Network file systems lock alone only what is open for writing.
        let mut options = OpenOptions::new();
        options.read(true).write(matches!(how, FlockOperation::LockExclusive));
        let held = self.lock_with(&options, how).map_err(|error| self.failed("lock", error))?;
        let Some(held) = held else { return Ok(None) };
        match held.fence(&self.token).map_err(|error| self.failed("read", error))? {
            Some(newest) if newest == self.fence => Ok(Some(held)),
            _ => Err(DriverError::Fenced),
        }
    }

    /// Drops the directory, with all that is in it. It is renamed first, so that it goes at once.
    pub(crate) fn discard(&self) -> io::Result<()> {
        let gone = self.store.join(format!("{GONE}{}", self.token));
        remove_tree(&gone)?;
        match std::fs::rename(self.dir(), &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        meta::sync_dir(&self.store)?;
        remove_tree(&gone)
    }

    /// Clears what attempts that died during [`Staging::discard`] left behind in the datastore.
    pub(crate) fn sweep(&self) {
        for entry in std::fs::read_dir(&self.store).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(GONE)
                && let Err(error) = remove_tree(&entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove what an import left behind");
            }
        }
    }

    /// Removes the import's own files from the machine at `place`, once it is a machine.
    pub(crate) fn tidy(place: &Path) {
        for name in [LOCK, STATE] {
            match std::fs::remove_file(place.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %place.display(), %error, "cannot remove an import's own file");
                }
                _ => {}
            }
        }
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // The machine that was replaced may have been a link to a directory: the link goes, its target stays.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => std::fs::remove_file(path),
        other => other,
    }
}

impl Held {
    /// The newest fence seen; nothing in a new directory.
    fn fence(&self, token: &str) -> io::Result<Option<i64>> {
        let mut text = [0; 256];
        let len = self.lock.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text[..len]).into_owned();
        let mut words = text.split_whitespace();
        match (words.next(), words.next()) {
            (None, _) => Ok(None),
            (Some(fence), Some(known)) if known == token => fence.parse().map(Some).map_err(io::Error::other),
            _ => Err(io::Error::other("the lock file is damaged")),
        }
    }

    fn set_fence(&self, fence: i64, token: &str) -> io::Result<()> {
        // Of one width, so that it is written over in place.
        self.lock.write_all_at(format!("{fence:+020} {token}\n").as_bytes(), 0)?;
        self.lock.sync_all()
    }
}
