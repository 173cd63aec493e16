//! The data directory: made for its owner alone, held by one process, with an id of its own.

use crate::error::{Failure, OrFail};
use portolan_model::{IdSource, NodeId};
use rustix::fs::FlockOperation;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The file that the process which uses the directory holds a lock on.
const LOCK: &str = "lock";
/// The file that holds the node's id.
const NODE_ID: &str = "node.id";

/// A data directory that this process alone uses, until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The lock is the open file's.
    _lock: File,
}

impl DataDir {
    /// Takes a directory that is there; nothing when there is none. Writes nothing but the lock file.
    ///
    /// # Errors
    /// When another process has it, or it cannot be used.
    pub fn take_existing(path: &Path) -> Result<Option<Self>, Failure> {
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => Self::lock(path).map(Some),
            Ok(_) => Err(Failure::new(format!("the data directory {} is a file", path.display()))
                .hint("give another one with --data-dir")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(unusable(path, e)),
        }
    }

    /// Takes a directory, which is made with mode 0700 when it is missing, parents included.
    ///
    /// # Errors
    /// As [`DataDir::take_existing`].
    pub fn take(path: &Path) -> Result<Self, Failure> {
        if let Some(there) = Self::take_existing(path)? {
            return Ok(there);
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| unusable(path, e))?;
        sync_dir(path.parent().unwrap_or(path)).map_err(|e| unusable(path, e))?;
        Self::lock(path)
    }

    fn lock(path: &Path) -> Result<Self, Failure> {
        let file = path.join(LOCK);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&file);
        let mut lock = opened.map_err(|e| unusable(path, e))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(held(path, &mut lock)),
            Err(e) => return Err(unusable(path, e.into())),
        }
        // For people only: the lock is what counts, and it ends with the process whatever stands here.
        let noted = lock.set_len(0).and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()));
        noted.map_err(|e| unusable(path, e))?;
        if fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0) {
            tracing::warn!(data_dir = %path.display(), "others can look into the data directory; chmod it to 0700");
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file or directory in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The id of this node: made on the first start, durable before this returns.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else.
    pub fn node_id(&self, ids: &dyn IdSource) -> Result<NodeId, Failure> {
        let file = self.join(NODE_ID);
        let what = || format!("the node's id in {} cannot be used", file.display());
        match fs::read_to_string(&file) {
            Ok(text) => text.trim().parse::<NodeId>().or_fail(what),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let id = NodeId::from_uuid(ids.uuid());
                write_private(&file, format!("{id}\n").as_bytes()).or_fail(what)?;
                Ok(id)
            }
            Err(e) => Err(e).or_fail(what),
        }
    }
}

fn held(path: &Path, lock: &mut File) -> Failure {
    let mut pid = String::new();
    // Whoever holds the lock may not have written its number yet.
    let read = lock.take(32).read_to_string(&mut pid);
    let pid = read.ok().and_then(|_| pid.trim().parse::<u32>().ok());
    let by = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    let failure = Failure::new(format!("the data directory {} is in use by {by}", path.display()));
    failure.hint("stop that one first, or give this one a directory of its own with --data-dir")
}

fn unusable(path: &Path, source: io::Error) -> Failure {
    let hint = match source.kind() {
        io::ErrorKind::PermissionDenied => "run as the user that owns it, or give another one with --data-dir",
        io::ErrorKind::ReadOnlyFilesystem => "it is on a read-only file system; give another one with --data-dir",
        _ => "give another one with --data-dir",
    };
    Failure::new(format!("the data directory {} cannot be used", path.display())).because(source).hint(hint)
}

/// Writes a file for its owner alone, whole or not at all, durably; replaces one that is there.
///
/// # Errors
/// What the system says.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = path.file_name().unwrap_or_default().to_owned();
    beside.push(".new");
    let beside = directory.join(beside);
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_dir(directory)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// What the system says.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
