//! The directory tree, and the fence around it.

use portolan_driver::DriverError;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// The platform's directory, open.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    fd: OwnedFd,
}

/// Why something under the root could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    /// It leads out of the root.
    #[error("{0} leads out of the platform's directory")]
    Outside(String),
    /// It is a directory, a device, a pipe.
    #[error("{0} is not a regular file")]
    NotAFile(String),
    /// The operating system said no.
    #[error("cannot open {path}: {source}")]
    Io {
        /// Where.
        path: String,
        /// What it said.
        source: io::Error,
    },
}

/// What a directory entry is, once links are followed.
#[derive(Debug)]
pub(crate) enum EntryKind {
    Dir,
    File,
    /// A link out of the root.
    Outside,
    /// A link that leads nowhere.
    Broken(io::Error),
    /// A device, a pipe, a socket.
    Other,
}

/// A directory entry with a name that can be an id.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: EntryKind,
}

/// The path of a native id of `depth` parts; nothing when it is not one, or would name something hidden.
pub(crate) fn parse_id(id: &str, depth: usize) -> Option<PathBuf> {
    let path = PathBuf::from(id);
    let parts: Vec<_> = path.components().collect();
    let plain = |part: &Component<'_>| matches!(part, Component::Normal(name) if !is_hidden(&name.to_string_lossy()));
    // `a//b` and `a/b/` have the same components as `a/b`, but are not ids that a listing reports.
    let same = parts.iter().map(|p| p.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/") == id;
    (parts.len() == depth && parts.iter().all(plain) && same && !id.contains('\0')).then_some(path)
}

/// Whether a name is none of the tree's: hidden, temporary, or the file system's own.
pub(crate) fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name == "lost+found"
}

/// A file system error on a path, for callers of the driver.
pub(crate) fn unreachable(action: &str, path: &Path, error: &io::Error) -> DriverError {
    DriverError::Unreachable { reason: format!("cannot {action} {}: {error}", path.display()), retry_after: None }
}

impl Tree {
    /// Opens the root. A missing one is *not found*, any other trouble *unreachable*; never an empty tree.
    pub(crate) fn open(root: &Path) -> Result<Self, DriverError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => DriverError::NotFound { what: "directory", id: root.display().to_string() },
            _ => unreachable("open", root, &error),
        };
        let canonical = root.canonicalize().map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&canonical, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        Ok(Self { root: canonical, fd })
    }

    /// The root without links.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The place that `path` leads to, absolute and without links, if it lies under the root. A relative path
    /// starts at the root.
    pub(crate) fn resolve(&self, path: &Path) -> Result<PathBuf, TreeError> {
        let shown = || path.display().to_string();
        let canonical =
            self.root.join(path).canonicalize().map_err(|source| TreeError::Io { path: shown(), source })?;
        if canonical.starts_with(&self.root) { Ok(canonical) } else { Err(TreeError::Outside(shown())) }
    }

    /// Opens a regular file for reading, and says where under the root it lies. The kernel is asked to stay under
    /// the root, so that a link that is put there in between does not help.
    pub(crate) fn open_file(&self, path: &Path) -> Result<(File, PathBuf), TreeError> {
        let canonical = self.resolve(path)?;
        let shown = || path.display().to_string();
        let relative = canonical.strip_prefix(&self.root).map_err(|_| TreeError::Outside(shown()))?.to_owned();
        // A pipe without a writer must not hang the driver.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = match rustix::fs::openat2(&self.fd, &relative, flags, Mode::empty(), beneath) {
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                rustix::fs::openat(&self.fd, &relative, flags | OFlags::NOFOLLOW, Mode::empty())
            }
            other => other,
        };
        let fd = opened.map_err(|error| match error {
            rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => TreeError::Outside(shown()),
            other => TreeError::Io { path: shown(), source: other.into() },
        })?;
        let file = File::from(fd);
        let metadata = file.metadata().map_err(|source| TreeError::Io { path: shown(), source })?;
        if metadata.is_file() { Ok((file, relative)) } else { Err(TreeError::NotAFile(shown())) }
    }

    /// What a directory holds, by name; hidden names are left out, names that are not UTF-8 go to `problems`.
    pub(crate) fn entries(&self, dir: &Path, problems: &mut Vec<String>) -> io::Result<Vec<Entry>> {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(self.root.join(dir))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                problems.push(format!("{}: the name is not UTF-8", entry.path().display()));
                continue;
            };
            if is_hidden(&name) {
                continue;
            }
            let found = entry.file_type()?;
            let kind = if found.is_symlink() {
                self.follow(&dir.join(&name))
            } else if found.is_dir() {
                EntryKind::Dir
            } else if found.is_file() {
                EntryKind::File
            } else {
                EntryKind::Other
            };
            out.push(Entry { name, kind });
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    fn follow(&self, link: &Path) -> EntryKind {
        let found = match self.resolve(link) {
            Ok(target) => std::fs::metadata(target),
            Err(TreeError::Io { source, .. }) => Err(source),
            Err(_) => return EntryKind::Outside,
        };
        match found {
            Ok(metadata) if metadata.is_dir() => EntryKind::Dir,
            Ok(metadata) if metadata.is_file() => EntryKind::File,
            Ok(_) => EntryKind::Other,
            Err(error) => EntryKind::Broken(error),
        }
    }
}
