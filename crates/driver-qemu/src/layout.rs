//! The driver's directory.
//!
//! ```text
//! <root>/.lock                                  held while guests are made and swept
//! <root>/images/<image>.{qcow2,raw}             templates
//! <root>/datastores/<name>/<guest>/<disk>       disks
//! <root>/guests/<guest>/guest.json              what the guest is
//!                      /lock                    held by the Portolan node that owns it
//!                      /qmp.sock qmp2.sock      monitors: the driver's, and one for backups
//!                      /qga.sock qemu.pid       the agent's channel; QEMU's process id
//!                      /backup.sock             its data, while that is in a backup
//!                      /console.log qemu.log    the serial line; what QEMU complains
//!                      /seed.img                for cloud-init
//!                      /export.json …           an export, see [`crate::export`]; `checkpoints.json`
//! <root>/imports/<token>/                       an import, see [`crate::import`]
//! ```

use crate::spec::{GuestSpec, Placed, SPEC_VERSION};
use crate::{QemuError, spec::Phase};
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(crate) const SPEC: &str = "guest.json";
pub(crate) const LOCK: &str = "lock";
pub(crate) const QMP: &str = "qmp.sock";
pub(crate) const QMP2: &str = "qmp2.sock";
pub(crate) const QGA: &str = "qga.sock";
/// Where the data of a guest that runs from a backup is served.
pub(crate) const BACKUP: &str = "backup.sock";
pub(crate) const PID: &str = "qemu.pid";
pub(crate) const CONSOLE: &str = "console.log";
pub(crate) const LOG: &str = "qemu.log";
pub(crate) const SEED: &str = "seed.img";
/// The datastore that is always there.
pub const DEFAULT_DATASTORE: &str = "default";
/// A guest's document is never longer.
const LONGEST_SPEC: u64 = 1 << 20;
/// What directories of guests that are gone are called until they are removed.
const GONE: &str = ".gone-";

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    /// Makes the directories that are not there.
    pub(crate) fn open(root: &Path) -> Result<Self, QemuError> {
        let layout = Self { root: root.to_owned() };
        let default = layout.datastores().join(DEFAULT_DATASTORE);
        for dir in [layout.images(), default, layout.guests(), layout.imports()] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(QemuError::file("make", &dir))?;
        }
        Ok(layout)
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn datastores(&self) -> PathBuf {
        self.root.join("datastores")
    }

    pub(crate) fn guests(&self) -> PathBuf {
        self.root.join("guests")
    }

    pub(crate) fn guest(&self, id: &str) -> PathBuf {
        self.guests().join(id)
    }

    /// Where imports that are under way are written down.
    pub(crate) fn imports(&self) -> PathBuf {
        self.root.join("imports")
    }

    /// Where the guest's disks on that datastore are.
    pub(crate) fn disks(&self, datastore: &str, id: &str) -> PathBuf {
        self.datastores().join(datastore).join(id)
    }

    /// A file of the guest's on a datastore.
    pub(crate) fn file(&self, id: &str, placed: &Placed) -> PathBuf {
        self.disks(&placed.datastore, id).join(&placed.file)
    }

    /// Makes the directory of the guest's disks on that datastore, durably, if it is not there.
    pub(crate) fn make_disks(&self, datastore: &str, id: &str) -> Result<PathBuf, QemuError> {
        let dir = self.disks(datastore, id);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(QemuError::file("make", &dir))?;
        sync_dir(&self.datastores().join(datastore))?;
        sync_dir(&self.datastores())?;
        Ok(dir)
    }

    /// Waits for the lock over making and sweeping. For threads that may block.
    pub(crate) fn lock(&self) -> Result<File, QemuError> {
        let path = self.root.join(".lock");
        let file = open_private(&path).map_err(QemuError::file("open", &path))?;
        file.lock().map_err(QemuError::file("lock", &path))?;
        Ok(file)
    }

    /// The names of the directories of guests.
    pub(crate) fn guest_ids(&self) -> Result<Vec<String>, QemuError> {
        let dir = self.guests();
        let entries = std::fs::read_dir(&dir).map_err(QemuError::file("list", &dir))?;
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(QemuError::file("list", &dir))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if is_plain(&name) {
                ids.push(name);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// The datastores' names.
    pub(crate) fn datastore_names(&self) -> Result<Vec<String>, QemuError> {
        let dir = self.datastores();
        let entries = std::fs::read_dir(&dir).map_err(QemuError::file("list", &dir))?;
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| is_plain(name))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The guest's document; nothing when there is none.
    pub(crate) fn read_spec(&self, id: &str) -> Result<Option<GuestSpec>, QemuError> {
        let path = self.guest(id).join(SPEC);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(QemuError::file("open", &path)(e)),
        };
        let mut text = Vec::new();
        file.take(LONGEST_SPEC).read_to_end(&mut text).map_err(QemuError::file("read", &path))?;
        let damaged = |reason: String| QemuError::Damaged { path: path.clone(), reason };
        let spec: GuestSpec = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        if spec.version != SPEC_VERSION {
            return Err(damaged(format!("version {} is not known", spec.version)));
        }
        if spec.id != id || !spec.names().all(is_plain) {
            return Err(damaged("it names what is not its own".into()));
        }
        Ok(Some(spec))
    }

    /// Writes the guest's document, durably.
    pub(crate) fn write_spec(&self, spec: &GuestSpec) -> Result<(), QemuError> {
        write_durably(&self.guest(&spec.id), SPEC, &document(spec)?)
    }

    /// Takes the guest's lock; nothing when somebody else has it or the guest is gone. The directory may be replaced
    /// between opening and locking: then the lock is one on nothing, and is not taken.
    pub(crate) fn try_own(&self, id: &str) -> Result<Option<File>, QemuError> {
        let path = self.guest(id).join(LOCK);
        let file = match open_private(&path) {
            Ok(file) => file,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(QemuError::file("open", &path)(e)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(QemuError::file("lock", &path)(e)),
        }
        let locked = file.metadata().map_err(QemuError::file("look at", &path))?;
        match std::fs::metadata(&path) {
            Ok(there) if (there.dev(), there.ino()) == (locked.dev(), locked.ino()) => Ok(Some(file)),
            _ => Ok(None),
        }
    }

    /// Makes a guest that is whole: it is there when its document is.
    pub(crate) fn make_guest(&self, spec: &GuestSpec) -> Result<(), QemuError> {
        let dir = self.guest(&spec.id);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(QemuError::file("make", &dir))?;
        let lock = dir.join(LOCK);
        drop(open_private(&lock).map_err(QemuError::file("make", &lock))?);
        sync_dir(&self.guests())?;
        self.write_spec(spec)
    }

    /// Removes a guest whose process is gone: disks first, so that nothing is left that nobody names. The caller
    /// holds its lock, and its document says that it is being deleted.
    pub(crate) fn remove_guest(&self, spec: &GuestSpec) -> Result<(), QemuError> {
        debug_assert!(spec.phase == Phase::Deleting || spec.is_hidden(), "marked first");
        let mut stores: Vec<&str> = spec.disks.iter().map(|disk| disk.datastore.as_str()).collect();
        if let Some(moving) = &spec.moving {
            stores.push(&moving.datastore);
            stores.extend(moving.left.iter().map(|left| left.datastore.as_str()));
        }
        stores.sort_unstable();
        stores.dedup();
        for store in stores {
            remove_tree(&self.disks(store, &spec.id))?;
        }
        self.remove_directory(&spec.id)
    }

    /// Takes the guest's own directory away at once, and removes it.
    pub(crate) fn remove_directory(&self, id: &str) -> Result<(), QemuError> {
        let (from, to) = (self.guest(id), self.guests().join(format!("{GONE}{id}")));
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(QemuError::file("remove", &from)(e)),
        }
        sync_dir(&self.guests())?;
        remove_tree(&to)
    }

    /// Removes what was left when the process that removed it ended.
    pub(crate) fn sweep_gone(&self) -> Result<(), QemuError> {
        let dir = self.guests();
        for entry in std::fs::read_dir(&dir).map_err(QemuError::file("list", &dir))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(GONE) {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// The guest's document. One that is too long to be read again is refused.
pub(crate) fn document(spec: &GuestSpec) -> Result<Vec<u8>, QemuError> {
    let text = serde_json::to_vec_pretty(spec);
    let text = text.map_err(|e| QemuError::Damaged { path: SPEC.into(), reason: e.to_string() })?;
    if text.len() as u64 <= LONGEST_SPEC {
        return Ok(text);
    }
    Err(QemuError::Invalid(format!("what is to be kept with the guest '{}' takes more than a mebibyte", spec.name)))
}

/// Whether this is a name of a file that leads nowhere else: letters, digits, `-`, `_` and `.`, not first a dot.
pub(crate) fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=200).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

/// Opens a file that only its owner may use, and makes it when it is not there.
pub(crate) fn open_private(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Writes a file so that it is either the old or the new one, whatever happens.
pub(crate) fn write_durably(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), QemuError> {
    let (path, part) = (dir.join(name), dir.join(format!(".{name}.new")));
    let mut file = open_private(&part).map_err(QemuError::file("write", &part))?;
    let written = file.set_len(0).and_then(|()| file.write_all(bytes)).and_then(|()| file.sync_all());
    written.map_err(QemuError::file("write", &part))?;
    std::fs::rename(&part, &path).map_err(QemuError::file("write", &path))?;
    sync_dir(dir)
}

/// Makes what was done to the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), QemuError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(QemuError::file("write", dir))
}

/// Makes a file and its name durable.
pub(crate) fn sync_file(path: &Path) -> Result<(), QemuError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(QemuError::file("write", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Removes those files that are there, and directories whose last one that was.
pub(crate) fn remove_files(paths: &[PathBuf]) -> Result<(), QemuError> {
    for path in paths {
        remove_file(path)?;
        // It is in use as long as there is anything else in it.
        let _ = path.parent().map(std::fs::remove_dir);
    }
    Ok(())
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<(), QemuError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(QemuError::file("remove", path)(e)),
        _ => Ok(()),
    }
}

pub(crate) fn remove_tree(path: &Path) -> Result<(), QemuError> {
    // A program that was killed just now may have made one more file.
    let mut tries = 0;
    loop {
        match std::fs::remove_dir_all(path) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty && tries < 10 => tries += 1,
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(QemuError::file("remove", path)(e)),
            _ => return Ok(()),
        }
    }
}
